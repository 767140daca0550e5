"""Exchange with PyTorch and ONNX.

PyTorch and onnx are optional, ``pip install 'fastnn[torch]'`` and ``'fastnn[onnx]'``, and imported by the functions that need
them. The page *Coming from PyTorch* has what is called how, and what to look out for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from fastnn import _check
from fastnn._version import __version__
from fastnn.layers import LAYERS, Activation, BatchNorm, Dense, Dropout, Layer
from fastnn.network import Path, Sequential

if TYPE_CHECKING:
    import torch

__all__ = ["from_torch", "to_onnx", "to_torch"]

#: The kinds of activation, what PyTorch calls them, and the options with which they are the same.
TORCH: dict[str, tuple[str, dict[str, float]]] = {
    "identity": ("Identity", {}), "relu": ("ReLU", {}), "leaky_relu": ("LeakyReLU", {"negative_slope": 0.01}),
    "tanh": ("Tanh", {}), "sigmoid": ("Sigmoid", {}), "softsign": ("Softsign", {}), "softplus": ("Softplus", {"beta": 1.0}),
    "elu": ("ELU", {"alpha": 1.0}),
}
#: The same for ONNX, which does without an identity.
ONNX: dict[str, tuple[str, dict[str, float]]] = {
    "relu": ("Relu", {}), "leaky_relu": ("LeakyRelu", {"alpha": 0.01}), "tanh": ("Tanh", {}), "sigmoid": ("Sigmoid", {}),
    "softsign": ("Softsign", {}), "softplus": ("Softplus", {}), "elu": ("Elu", {"alpha": 1.0}),
}
#: What PyTorch calls the arrays whose names differ.
TORCH_NAMES = {"gamma": "weight", "beta": "bias"}

SOFTPLUS_THRESHOLD = 20     # from which on PyTorch's softplus is the identity, which it is to the last bit of float32
OLDEST_OPSET = 13           # since when Softmax is what it is
LARGEST_ONNX = 2**31 - 2**20    # bytes of arrays: one protobuf message has less than 2 GiB


def to_torch(net: Sequential) -> torch.nn.Sequential:
    """The network as a ``torch.nn.Sequential`` with a module for each layer, in evaluation mode.

    Layer i becomes module i. PyTorch's generator is not touched.

    Parameters
    ----------
    net : Sequential

    Returns
    -------
    torch.nn.Sequential
        With tensors of its own, of the network's dtype, on the CPU. ``.train()`` makes it ready for training; the loss and the
        optimiser stay behind.

    Raises
    ------
    TypeError
        If `net` is no `Sequential`.
    ValueError
        Naming the layer that PyTorch has no module for: a `BatchNorm` with ``virtual_batch_size`` or ``running_var_ddof=0``.
    ImportError
        Without PyTorch.
    RuntimeError
        If another thread trains the network.
    """
    _check.instance(net, "net", Sequential, "a fastnn.Sequential")
    torch = _torch("to_torch")
    arrays = net._whole_state()["_state"]
    modules = []
    for i, layer in enumerate(net.layers):
        module = _module_of(torch, layer, f"layers[{i}]", getattr(torch, net.dtype.name))
        with torch.no_grad():
            for name in _names(layer):
                a = arrays[f"{i}.{name}"]
                getattr(module, TORCH_NAMES.get(name, name)).copy_(torch.from_numpy(a.T if name == "weight" else a))
        modules.append(module)
    return torch.nn.Sequential(*modules).eval()


def from_torch(
    module: torch.nn.Module, *, loss: str = "softmax_cross_entropy", dtype: Any = None, seed: int | None = None,
) -> Sequential:
    """The network that a ``torch.nn.Sequential`` of known modules, which may hold others of its kind, or one such module is.

    ``Linear``, ``BatchNorm1d``, ``Dropout``, ``Identity`` and the activations ``ReLU``, ``LeakyReLU``, ``Tanh``, ``Sigmoid``,
    ``Softsign``, ``Softplus`` and ``ELU`` become layers; ``Flatten`` goes, because rows are flat here. A
    ``BatchNorm1d(affine=False)`` becomes a `BatchNorm` with gamma 1 and beta 0, which training moves.

    Parameters
    ----------
    module : torch.nn.Module
        In either mode, on any device; it is left as it is. A ``Softmax`` or ``LogSoftmax`` at its end, or a ``Sigmoid`` with
        ``loss="sigmoid_cross_entropy"``, is part of the loss here, and must not be there.
    loss : str
        As for `Sequential`.
    dtype : {"float32", "float64"}, optional
        None takes that of the module's parameters.
    seed : int, optional
        Of the shuffling and the dropout.

    Returns
    -------
    Sequential
        With memory of its own.

    Raises
    ------
    TypeError, ValueError
        Naming the module, such as ``module[2][0]``, that is none of these, has options that a layer here has not, has forward
        hooks or a forward of its own, shares parameters with another, or has some that are not finite in `dtype` alone.
    ImportError
        Without PyTorch.
    """
    torch = _torch("from_torch")
    _check.instance(module, "module", torch.nn.Module, "a torch.nn.Module")
    layers: list[Layer] = []
    tensors: dict[str, Any] = {}
    owners: dict[int, str] = {}
    for name, part in _parts(torch, module, "module"):
        layer = _layer_of(torch, part, name)
        if layer is None:
            continue
        for own in _names(layer):
            tensor = getattr(part, TORCH_NAMES.get(own, own))
            if tensor is not None:      # a batch norm may have neither gamma nor beta
                if tensor.is_meta:
                    raise _check.no_counterpart(name, "a module with numbers, got one on the device 'meta'")
                owner = owners.setdefault(tensor.data_ptr(), name)      # two parameters may have one memory
                if owner != name:
                    raise _check.no_counterpart(name, f"parameters of its own, got those of {owner}")
                tensors[f"{len(layers)}.{own}"] = tensor
        layers.append(layer)
    if loss == "sigmoid_cross_entropy" and layers and isinstance(layers[-1], Activation) and layers[-1].kind == "sigmoid":
        raise _check.no_counterpart(name, f"no Sigmoid at the end with loss={loss!r}, which has it; leave it out")
    if dtype is None:
        dtype = _check.one_dtype(sorted({str(tensor.dtype).removeprefix("torch.") for tensor in tensors.values()}), "module")
    net = Sequential(layers, loss=loss, dtype=dtype, seed=seed)
    arrays = {}
    for name, tensor in tensors.items():
        a = tensor.detach().to("cpu", getattr(torch, net.dtype.name))
        if not torch.equal(a.isfinite(), tensor.isfinite().cpu()):
            raise _check.no_counterpart(owners[tensor.data_ptr()], f"parameters that are finite in {net.dtype}")
        arrays[name] = a.T.numpy() if name.endswith(".weight") else a.numpy()
    net.load_state_dict(net.state_dict() | arrays)
    return net


def to_onnx(
    net: Sequential, path: Path, *, opset: int = 17, probabilities: bool = False, fold: bool = False,
) -> None:
    """Write the network to an ONNX file, for evaluation.

    The graph takes ``x``, (N, n_in) of the network's dtype for any N, and gives ``outputs``, (N, n_out), or ``probabilities``.
    Dense layers are ``Gemm``, batch norms ``BatchNormalization``; dropouts and identities are left out. The file takes the
    place of an older one as a whole, as that of `Sequential.save` does.

    Parameters
    ----------
    net : Sequential
    path : str, bytes or os.PathLike
    opset : int
        Version of the operators, at least 13, and one that the installed onnx knows.
    probabilities : bool
        True ends the graph with the ``Softmax`` or ``Sigmoid`` of the loss, as `Sequential.predict_proba` does.
    fold : bool
        True writes `Sequential.fold_batchnorm`. Runtimes fold batch norms when they load a file, so this changes little.

    Raises
    ------
    TypeError, ValueError
        Naming the argument; `loss`, where there are no probabilities.
    OSError
        If it cannot be written.
    ImportError
        Without onnx.
    RuntimeError
        If another thread trains the network.
    """
    from fastnn import saving
    _check.instance(net, "net", Sequential, "a fastnn.Sequential")
    target = _check.path(path, "path")
    try:
        import onnx
        from onnx import helper
    except ImportError:
        raise _check.missing("to_onnx", "onnx", "onnx") from None
    newest = onnx.defs.onnx_opset_version()
    opset = _check.at_most(_check.integer(opset, "opset", least=OLDEST_OPSET), "opset", newest, "the newest that onnx knows")
    head = [*_head(net.loss)] if _check.flag(probabilities, "probabilities") else []
    if _check.flag(fold, "fold"):
        net = net.fold_batchnorm()
    arrays = net._whole_state()["_state"]
    _check.at_most(sum(a.nbytes for a in arrays.values()), "net", LARGEST_ONNX, "the bytes that one ONNX file can hold")

    nodes = []
    value = "x"
    for name, operator, names, options in [*_operators(net), *head]:
        nodes.append(helper.make_node(operator, [value, *names], [name], name=name, **options))
        value = name
    value = "probabilities" if head else "outputs"
    nodes[-1].output[0] = value
    kind = helper.np_dtype_to_tensor_dtype(net.dtype)
    graph = helper.make_graph(
        nodes, "fastnn",
        [helper.make_tensor_value_info("x", kind, ["N", net.n_in])],
        [helper.make_tensor_value_info(value, kind, ["N", net.n_out])],
        [onnx.numpy_helper.from_array(a, name) for name, a in arrays.items()])
    opsets = [helper.make_opsetid("", opset)]
    model = helper.make_model(
        graph, opset_imports=opsets, ir_version=helper.find_min_ir_version_for(opsets), producer_name="fastnn",
        producer_version=__version__)
    saving.replace(target, [model.SerializeToString()])


Operator = tuple[str, str, list[str], Mapping[str, float]]


def _operators(net: Sequential) -> Iterator[Operator]:
    """For each layer its name in the graph, the operator, the arrays that it takes in ONNX's order, its options."""
    for i, layer in enumerate(net.layers):
        names = [f"{i}.{name}" for name in _names(layer)]
        if isinstance(layer, Dense):
            yield f"layer{i}", "Gemm", names, {}
        elif isinstance(layer, BatchNorm):
            yield f"layer{i}", "BatchNormalization", names, {"epsilon": layer.eps}
        elif isinstance(layer, Activation) and layer.kind != "identity":
            operator, options = ONNX[layer.kind]
            yield f"layer{i}", operator, names, options


def _head(loss: str) -> Iterator[Operator]:
    """What makes probabilities of the outputs."""
    if loss == "mean_squared_error":
        raise _check.no_probabilities(loss)
    softmax = loss == "softmax_cross_entropy"
    yield "probabilities", "Softmax" if softmax else "Sigmoid", [], {"axis": 1} if softmax else {}


def _names(layer: Layer) -> list[str]:
    return [*layer.parameter_shapes(), *layer.statistic_shapes()]


def _torch(name: str) -> Any:
    try:
        import torch
    except ImportError:
        raise _check.missing(name, "torch", "torch") from None
    return torch


def _module_of(torch: Any, layer: Layer, name: str, dtype: Any) -> Any:
    """The module for a layer, with what it holds still to come."""
    nn = torch.nn
    if isinstance(layer, Dense):
        # which fills the weight with random numbers otherwise
        return nn.utils.skip_init(nn.Linear, layer.in_features, layer.out_features, bias=layer.has_bias, dtype=dtype)
    if isinstance(layer, BatchNorm):
        for option, value, wanted in (
            ("virtual_batch_size", layer.virtual_batch_size, None), ("running_var_ddof", layer.running_var_ddof, 1),
        ):
            if value != wanted:
                raise _check.no_counterpart(
                    name, f"{option}={wanted}, as PyTorch's batch norm has it, got {value}; a network without the option "
                    "evaluates the same with load_state_dict(net.state_dict()), and trains otherwise")
        return nn.BatchNorm1d(layer.num_features, eps=layer.eps, momentum=layer.momentum, dtype=dtype)
    if isinstance(layer, Dropout):
        return nn.Dropout(layer.p)
    assert isinstance(layer, Activation)
    kind, options = TORCH[layer.kind]
    return getattr(nn, kind)(**options)


def _parts(torch: Any, module: Any, name: str) -> Iterator[tuple[str, Any]]:
    """The modules in a Sequential, and in those in it, with their names."""
    if not isinstance(module, torch.nn.Sequential):
        yield name, module
        return
    if type(module).forward is not torch.nn.Sequential.forward:
        raise _check.no_counterpart(name, f"the forward of torch.nn.Sequential, got a {type(module).__name__} with its own")
    _no_hooks(module, name)
    for i, part in enumerate(module):
        yield from _parts(torch, part, f"{name}[{i}]")


def _no_hooks(module: Any, name: str) -> None:
    if module._forward_hooks or module._forward_pre_hooks:
        raise _check.no_counterpart(name, "a module without forward hooks, got one whose hooks would be lost")
    if "forward" in vars(module):
        raise _check.no_counterpart(name, f"the forward of torch.nn.{type(module).__name__}, got an instance with its own")


def _layer_of(torch: Any, module: Any, name: str) -> Layer | None:
    """The layer for a module, with what it holds still to come; None for what does nothing to rows."""
    _no_hooks(module, name)
    nn = torch.nn
    kind = type(module)

    def need(option: str, right: bool, wanted: str) -> None:
        if not right:
            raise _check.no_counterpart(f"{name}.{option}", f"{wanted}, got {getattr(module, option)!r}")

    if kind is nn.Linear:
        return Dense(module.in_features, module.out_features, bias=module.bias is not None)
    if kind is nn.BatchNorm1d:
        need("track_running_stats", module.running_mean is not None, "running statistics")
        need("eps", module.eps > 0, "a number > 0")
        need("momentum", module.momentum is not None and 0 <= module.momentum <= 1, "a number in [0, 1]")
        return BatchNorm(module.num_features, eps=module.eps, momentum=module.momentum)
    if kind is nn.Dropout:
        need("p", module.p < 1, "a number below 1")
        return Dropout(module.p)
    if kind is nn.Flatten:
        need("start_dim", module.start_dim == 1, "1, which leaves rows as they are")
        need("end_dim", module.end_dim == -1, "-1, which leaves rows as they are")
        return None
    if kind is nn.Softplus:
        need("threshold", module.threshold >= SOFTPLUS_THRESHOLD, f"at least {SOFTPLUS_THRESHOLD}")
    for activation, (class_name, options) in TORCH.items():
        if kind is getattr(nn, class_name):
            for option, value in options.items():
                need(option, getattr(module, option) == value, str(value))
            return LAYERS[class_name]() if class_name in LAYERS else Activation(activation)
    hint = "; leave it out, the loss has it" if kind in (nn.Softmax, nn.LogSoftmax) else ""
    raise _check.no_layer(module, name, hint)
