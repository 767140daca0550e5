"""Exchange with PyTorch and ONNX: the same outputs, the same training, refusals that name the layer."""

import sys

import numpy as np
import pytest
from conftest import DTYPES, FLOAT32, FLOAT64, assert_same_bits, normal

import fastnn as fnn
from fastnn import Activation, BatchNorm, Dense, Dropout, ReLU, Sequential, interop

KINDS = ("identity", "relu", "leaky_relu", "tanh", "sigmoid", "softsign", "softplus", "elu")
LIMIT = {FLOAT32: 1e-6, FLOAT64: 1e-14}     # of the magnitude of the outputs


def trained(kind="relu", dtype=FLOAT32, loss="softmax_cross_entropy"):
    """A network with every kind of layer, whose statistics and scales have moved."""
    rng = np.random.default_rng(0)
    net = Sequential(
        [BatchNorm(5, eps=1e-3, momentum=0.3), Dense(5, 9, bias=False), BatchNorm(9), Activation(kind), Dropout(0.2),
         Dense(9, 7), Activation(kind), Dense(7, 3)], loss=loss, dtype=dtype, seed=0)
    x = (normal(rng, dtype, 200, 5) * 3 + 1).astype(dtype)
    y = rng.integers(0, 3, 200) if loss == "softmax_cross_entropy" else rng.random((200, 3))
    net.fit(x, y, epochs=3, optimizer=fnn.SGD(lr=0.05, momentum=0.9))
    return net


def rows(dtype, n=50, width=5):
    return (normal(np.random.default_rng(1), dtype, n, width) * 3 + 1).astype(dtype)


def assert_near(result, expected):
    assert (result.dtype, result.shape) == (expected.dtype, expected.shape)
    assert np.abs(result - expected).max() <= LIMIT[expected.dtype] * np.abs(expected).max()


# -------------------------------------------------------------------------------------------------------- to PyTorch

@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


def of_torch(torch, module, x):
    with torch.no_grad():
        return module(torch.from_numpy(x)).numpy()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_to_torch_and_back(torch, kind, dtype):
    net, x = trained(kind, dtype), rows(dtype)
    state = torch.random.get_rng_state()
    module = interop.to_torch(net)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not module.training and len(module) == len(net.layers)
    expected = net.forward(x)
    assert_near(of_torch(torch, module, x), expected)
    back = interop.from_torch(module)
    activation = Activation if kind == "identity" else getattr(fnn, interop.TORCH[kind][0])
    assert [type(layer) for layer in back.layers] == [
        activation if isinstance(layer, Activation) else type(layer) for layer in net.layers]
    assert [layer.kind for layer in back.layers if isinstance(layer, Activation)] == [kind, kind]
    assert [(layer.eps, layer.momentum) for layer in back.layers if isinstance(layer, BatchNorm)] == [(1e-3, 0.3), (1e-5, 0.1)]
    assert_same_bits(list(back.state_dict().values()), list(net.state_dict().values()), "there and back")


def test_torch_tensors_are_copies(torch):
    net = trained()
    before = {name: a.tobytes() for name, a in net.state_dict().items()}
    module = interop.to_torch(net)
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            tensor.zero_()
    assert {name: a.tobytes() for name, a in net.state_dict().items()} == before
    assert all(parameter.requires_grad for parameter in module.parameters())
    back = interop.from_torch(module)
    back.layers[1].weight[...] = 1
    assert not module[1].weight.any()


@pytest.mark.parametrize("norm", [{"virtual_batch_size": 4}, {"running_var_ddof": 0}])
def test_batch_norms_that_torch_has_not(torch, norm):
    net = Sequential([Dense(2, 3), BatchNorm(3, **norm), Dense(3, 2)])
    with pytest.raises(ValueError, match=rf"^layers\[1\]: expected {next(iter(norm))}="):
        interop.to_torch(net)
    # what the text advises
    same = Sequential([Dense(2, 3), BatchNorm(3), Dense(3, 2)])
    same.load_state_dict(net.state_dict())
    x = rows(FLOAT32, width=2)
    assert_near(of_torch(torch, interop.to_torch(same), x), net.forward(x))


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("loss", ["softmax_cross_entropy", "sigmoid_cross_entropy", "mean_squared_error"])
def test_both_train_alike(torch, loss, nesterov):
    """With the options of docs/pytorch.md: batch norm, losses, momentum and weight decay are the same."""
    nn = torch.nn
    net = Sequential([Dense(5, 8), BatchNorm(8), fnn.Tanh(), Dense(8, 3)], loss=loss, dtype="float64", seed=0)
    module = interop.to_torch(net).train()
    x = rows(FLOAT64, 40)
    rng = np.random.default_rng(2)
    y = rng.integers(0, 3, 40) if loss == "softmax_cross_entropy" else rng.random((40, 3))
    criterion = {"softmax_cross_entropy": nn.CrossEntropyLoss, "sigmoid_cross_entropy": nn.BCEWithLogitsLoss,
                 "mean_squared_error": nn.MSELoss}[loss]()
    theirs = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9, nesterov=nesterov, weight_decay=0.01)
    ours = fnn.SGD(lr=0.1, momentum=0.9, nesterov=nesterov, weight_decay=0.01, decay="all")
    for _ in range(10):
        theirs.zero_grad()
        value = criterion(module(torch.from_numpy(x)), torch.from_numpy(y))
        value.backward()
        theirs.step()
        np.testing.assert_allclose(net.train_step(x, y, ours), value.item(), rtol=1e-10)
    back = interop.from_torch(module, loss=loss)
    for name, a in net.state_dict().items():
        np.testing.assert_allclose(back.state_dict()[name], a, rtol=1e-8, atol=1e-12, err_msg=name)
    module.eval()
    np.testing.assert_allclose(net.forward(x), of_torch(torch, module, x), rtol=1e-9)


def test_safetensors_files(torch, tmp_path):
    """`Sequential.save` writes what PyTorch's users can read; the names are those of the documentation."""
    safetensors = pytest.importorskip("safetensors.torch")
    net = trained()
    net.save(tmp_path / "net.safetensors")
    tensors = safetensors.load_file(tmp_path / "net.safetensors")
    module = interop.to_torch(net)
    for tensor in (*module.parameters(), *module.buffers()):
        tensor.data.zero_()
    state = {}
    for name in module.state_dict():
        layer, _, last = name.partition(".")
        norm = f"{layer}.gamma" in tensors
        own = f"{layer}.{ {'weight': 'gamma', 'bias': 'beta'}.get(last, last) if norm else last}"
        if last != "num_batches_tracked":
            state[name] = tensors[own].T if own.endswith(".weight") else tensors[own]
        else:
            state[name] = torch.tensor(0)
    module.load_state_dict(state, strict=True)
    x = rows(FLOAT32)
    assert_near(of_torch(torch, module, x), net.forward(x))
    # and in PyTorch's own names
    safetensors.save_file(interop.to_torch(net).state_dict(), tmp_path / "torch.safetensors")
    module.load_state_dict(safetensors.load_file(tmp_path / "torch.safetensors"), strict=True)
    assert_near(of_torch(torch, module, x), net.forward(x))


# ------------------------------------------------------------------------------------------------------ from PyTorch

@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_from_torch_after_training(torch, dtype):
    nn = torch.nn
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Flatten(), nn.Sequential(nn.Linear(6, 16, bias=False), nn.BatchNorm1d(16, eps=1e-3, momentum=0.2), nn.ELU()),
        nn.Dropout(0.1), nn.Identity(), nn.Sequential(nn.Sequential(nn.Linear(16, 8), nn.LeakyReLU())),
        nn.BatchNorm1d(8, affine=False), nn.Linear(8, 1)).to(getattr(torch, dtype))
    optimizer = torch.optim.SGD(module.parameters(), lr=0.05, momentum=0.9)
    x = torch.randn(64, 2, 3, dtype=getattr(torch, dtype))
    for _ in range(5):
        optimizer.zero_grad()
        ((module(x) - x.sum((1, 2))[:, None]) ** 2).mean().backward()
        optimizer.step()
    net = interop.from_torch(module, loss="mean_squared_error", seed=3)
    assert module.training and net.loss == "mean_squared_error" and net.dtype == dtype
    assert [type(layer).__name__ for layer in net.layers] == [
        "Dense", "BatchNorm", "ELU", "Dropout", "Activation", "Dense", "LeakyReLU", "BatchNorm", "Dense"]
    assert (net.layers[1].eps, net.layers[1].momentum, net.layers[3].p) == (1e-3, 0.2, 0.1)
    module.eval()
    flat = x.reshape(64, 6).numpy()
    assert_near(net.forward(flat), of_torch(torch, module, flat))
    net.fit(flat, flat.sum(axis=1, keepdims=True), epochs=1)      # goes on
    other = {"float32": "float64", "float64": "float32"}[dtype]
    assert interop.from_torch(module, dtype=other).dtype == other


def test_from_torch_of_one_module(torch):
    linear = torch.nn.Linear(3, 2)
    net = interop.from_torch(linear)
    x = rows(FLOAT32, width=3)
    assert_near(net.forward(x), of_torch(torch, linear, x))


def test_half_precision_needs_a_dtype(torch):
    module = torch.nn.Sequential(torch.nn.Linear(3, 2)).to(torch.bfloat16)
    with pytest.raises(TypeError, match=r"^dtype: expected float32 or float64, got 'bfloat16'"):
        interop.from_torch(module)
    assert_same_bits(
        interop.from_torch(module, dtype="float32").layers[0].weight, module[0].weight.detach().float().numpy().T, "weight")
    with pytest.raises(TypeError, match=r"^module: expected parameters of one dtype, .*bfloat16, float64"):
        interop.from_torch(torch.nn.Sequential(module, torch.nn.Linear(2, 2, dtype=torch.float64)))


def unknown_modules(torch):
    nn = torch.nn

    class Block(nn.Module):
        pass

    class Own(nn.Sequential):
        def forward(self, x):
            return x

    class OwnLinear(nn.Linear):
        pass

    linear, hooked = nn.Linear(2, 2), nn.Linear(2, 2)
    hooked.register_forward_hook(lambda *_: None)
    tied = nn.Linear(2, 2)
    tied.weight = linear.weight
    view, other_way = nn.Linear(2, 2), nn.Linear(2, 2)
    view.weight = nn.Parameter(linear.weight.data)
    other_way.weight = nn.Parameter(linear.weight.data.T)
    patched = nn.ReLU()
    patched.forward = lambda x: -x
    return {
        "a module of its own": (Block(), TypeError, r"module\[1\]: expected a module .*Block"),
        "a subclass": (OwnLinear(2, 2), TypeError, r"module\[1\]: .*OwnLinear"),
        "another forward": (Own(nn.Linear(2, 2)), ValueError, r"module\[1\]: expected the forward of"),
        "a convolution": (nn.Conv1d(2, 2, 1), TypeError, r"module\[1\]: .*Conv1d"),
        "nested": (nn.Sequential(nn.ReLU(), nn.GELU()), TypeError, r"module\[1\]\[1\]: .*GELU"),
        "softmax": (nn.Softmax(dim=1), TypeError, r"module\[1\]: .*leave it out"),
        "log softmax": (nn.LogSoftmax(dim=1), TypeError, r"module\[1\]: .*leave it out"),
        "a hook": (hooked, ValueError, r"module\[1\]: .*hooks"),
        "a module again": (linear, ValueError, r"module\[1\]: expected parameters of its own, got those of module\[0\]"),
        "a shared parameter": (tied, ValueError, r"module\[1\]: expected parameters of its own, got those of module\[0\]"),
        "a shared memory": (view, ValueError, r"module\[1\]: expected parameters of its own, got those of module\[0\]"),
        "a shared memory, transposed": (other_way, ValueError, r"module\[1\]: expected parameters of its own"),
        "a forward of its own": (patched, ValueError, r"module\[1\]: expected the forward of torch\.nn\.ReLU, got"),
        "layer norm": (nn.LayerNorm(2), TypeError, r"module\[1\]: expected a module .*LayerNorm"),
        "eps": (nn.BatchNorm1d(2, eps=0.0), ValueError, r"module\[1\]\.eps: expected a number > 0, got 0\.0"),
        "slope": (nn.LeakyReLU(0.2), ValueError, r"module\[1\]\.negative_slope: expected 0\.01, got 0\.2"),
        "alpha": (nn.ELU(0.5), ValueError, r"module\[1\]\.alpha: expected 1\.0, got 0\.5"),
        "beta": (nn.Softplus(2), ValueError, r"module\[1\]\.beta: "),
        "threshold": (nn.Softplus(threshold=3), ValueError, r"module\[1\]\.threshold: "),
        "no statistics": (nn.BatchNorm1d(2, track_running_stats=False), ValueError, r"module\[1\]\.track_running_stats: "),
        "cumulative": (nn.BatchNorm1d(2, momentum=None), ValueError, r"module\[1\]\.momentum: .*got None"),
        "momentum": (nn.BatchNorm1d(2, momentum=1.5), ValueError, r"module\[1\]\.momentum: .*got 1\.5"),
        "all dropped": (nn.Dropout(1.0), ValueError, r"module\[1\]\.p: "),
        "flattened rows": (nn.Flatten(0), ValueError, r"module\[1\]\.start_dim: "),
        "flattened in part": (nn.Flatten(1, 2), ValueError, r"module\[1\]\.end_dim: "),
        "widths": (nn.Linear(3, 2), ValueError, r"layers\[1\]: expected in_features 2"),
        "nothing there": (nn.Linear(2, 2, device="meta"), ValueError, r"module\[1\]: expected .*numbers"),
    }, linear


NAMES = (
    "a module of its own", "a subclass", "another forward", "a convolution", "nested", "softmax", "log softmax", "a hook",
    "a module again", "a shared parameter", "a shared memory", "a shared memory, transposed", "a forward of its own",
    "layer norm", "eps", "slope", "alpha", "beta", "threshold", "no statistics", "cumulative", "momentum",
    "all dropped", "flattened rows", "flattened in part", "widths", "nothing there")


@pytest.mark.parametrize("name", NAMES)
def test_what_cannot_be_had_is_named(torch, name):
    cases, linear = unknown_modules(torch)
    assert set(cases) == set(NAMES)
    module, error, text = cases[name]
    with pytest.raises(error, match=f"^{text}"):
        interop.from_torch(torch.nn.Sequential(linear, module))


def test_a_sigmoid_that_the_loss_has(torch):
    nn = torch.nn
    module = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Tanh(), nn.Sigmoid()))
    with pytest.raises(ValueError, match=r"^module\[1\]\[1\]: expected no Sigmoid at the end with loss='sigmoid_"):
        interop.from_torch(module, loss="sigmoid_cross_entropy")
    x = rows(FLOAT32, width=2)
    assert_near(interop.from_torch(module, loss="mean_squared_error").predict(x), of_torch(torch, module, x))
    interop.from_torch(nn.Sequential(module, nn.Linear(2, 2)), loss="sigmoid_cross_entropy")


def test_numbers_stay_finite(torch):
    module = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3)).double()
    module[1].running_var[1] = 1e39
    with pytest.raises(ValueError, match=r"^module\[1\]: expected parameters that are finite in float32"):
        interop.from_torch(module, dtype="float32")
    assert interop.from_torch(module).layers[1].running_var[1] == 1e39
    module[1].running_var[1] = np.inf       # what is there is taken
    assert interop.from_torch(module, dtype="float32").layers[1].running_var[1] == np.inf


def test_arguments_for_torch(torch):
    with pytest.raises(TypeError, match=r"^net: expected a fastnn.Sequential"):
        interop.to_torch(torch.nn.Linear(1, 1))
    with pytest.raises(TypeError, match=r"^module: expected a torch.nn.Module"):
        interop.from_torch(trained())
    with pytest.raises(ValueError, match=r"^loss: "):
        interop.from_torch(torch.nn.Linear(1, 1), loss="hinge")
    with pytest.raises(ValueError, match=r"^layers: expected at least one Dense"):
        interop.from_torch(torch.nn.Sequential(torch.nn.ReLU()))


@pytest.mark.parametrize(("package", "call"), [
    ("torch", lambda path: interop.to_torch(trained())), ("torch", lambda path: interop.from_torch(None)),
    ("onnx", lambda path: interop.to_onnx(trained(), path / "net.onnx"))])
def test_without_the_package(monkeypatch, tmp_path, package, call):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"needs {package}, which is not installed; pip install 'fastnn\[{package}\]'"):
        call(tmp_path)
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------------------------------- arrays of other libraries

def test_tensors_are_arrays(torch):
    """In kernels, networks and states, with the bits of NumPy's arrays; results are NumPy's."""
    x = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    weight, bias = torch.ones(5, 3), torch.zeros(3)
    labels = torch.arange(6) % 3
    arrays = [a.numpy() for a in (x, weight, bias, labels)]
    pairs = [
        (fnn.dense_forward(x, weight, bias), fnn.dense_forward(*arrays[:3])),
        (fnn.dense_forward(x.double().T.contiguous().T, weight.double()),      # of another layout
         fnn.dense_forward(arrays[0].astype(np.float64), arrays[1].astype(np.float64))),
        (fnn.softmax_cross_entropy(x, labels.int()), fnn.softmax_cross_entropy(arrays[0], arrays[3])),
    ]
    first = np.outer(arrays[0][0], np.arange(4)).astype(np.float32)
    nets = [Sequential([Dense(5, 4, init=init), ReLU(), Dense(4, 3)], seed=0) for init in (torch.from_numpy(first), first)]
    for net, data in zip(nets, ((x, labels, torch.ones(6)), (arrays[0], arrays[3], np.ones(6))), strict=True):
        net.fit(data[0], data[1], epochs=2, batch_size=3, sample_weight=data[2], validation_data=data[:2])
        net.train_step(*data[:2], fnn.SGD())
    for name in ("predict", "predict_proba", "forward"):
        pairs.append((getattr(nets[0], name)(x), getattr(nets[1], name)(arrays[0])))
    pairs.append((nets[0].predictor().predict(x[:1]), nets[1].predictor().predict(arrays[0][:1])))
    pairs.append((list(nets[0].state_dict().values()), list(nets[1].state_dict().values())))
    for result, expected in pairs:
        assert_same_bits(result, expected, "a tensor")
    state = {name: torch.from_numpy(a) for name, a in nets[1].state_dict().items()}
    nets[0].load_state_dict(state)
    nets[0].layers[0].bias = torch.full((4,), 2.0)
    assert (nets[0].layers[0].bias == 2).all()


def test_tensors_that_numpy_cannot_read(torch):
    net = trained()
    for x in (torch.ones(2, 5, requires_grad=True), torch.ones(2, 5, dtype=torch.bfloat16), torch.ones(2, 5, device="meta"),
              torch.ones(2, 5).to_sparse()):
        for call in (net.predict, net.forward, net.predictor().predict):
            with pytest.raises(TypeError, match=r"^x: expected an array in the memory of the processor .*got torch\.Tensor \("):
                call(x)
        with pytest.raises(TypeError, match=r"^x: "):
            fnn.dense_forward(x, torch.ones(5, 2))
    with pytest.raises(TypeError, match=r"^out: expected a numpy.ndarray to write into, got torch.Tensor"):
        fnn.dense_forward(torch.ones(2, 5), torch.ones(5, 2), out=torch.ones(2, 2))
    with pytest.raises(TypeError, match=r"^param: expected a numpy.ndarray to write into"):
        fnn.sgd_update(torch.ones(2), torch.ones(2), lr=0.1)


# ---------------------------------------------------------------------------------------------------------- to ONNX

@pytest.fixture(scope="module")
def onnx():
    return pytest.importorskip("onnx")


def checked(onnx, path):
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    return model


def of_runtime(path, x, name="outputs"):
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert [value.name for value in session.get_inputs()] == ["x"]
    return session.run([name], {"x": x})[0]


@pytest.mark.parametrize("fold", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_to_onnx(onnx, tmp_path, kind, fold):
    net, path = trained(kind), tmp_path / "net.onnx"
    assert interop.to_onnx(net, path, fold=fold) is None
    model = checked(onnx, path)
    operators = {node.op_type for node in model.graph.node}
    assert operators == {"Gemm"} | ({interop.ONNX[kind][0]} if kind != "identity" else set()) | (
        set() if fold else {"BatchNormalization"})
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 17)]
    assert (model.producer_name, model.producer_version) == ("fastnn", fnn.__version__)
    for n in (1, 50):
        x = rows(FLOAT32, n)
        assert_near(of_runtime(path, x), net.forward(x))


@pytest.mark.parametrize("kind", KINDS)
def test_to_onnx_in_float64(onnx, tmp_path, kind):
    """By onnx's own evaluation, as onnxruntime has not all of these operators for float64."""
    from onnx.reference import ReferenceEvaluator
    net, x = trained(kind, FLOAT64), rows(FLOAT64)
    interop.to_onnx(net, tmp_path / "net.onnx")
    result = ReferenceEvaluator(checked(onnx, tmp_path / "net.onnx")).run(["outputs"], {"x": x})[0]
    assert result.dtype == FLOAT64
    np.testing.assert_allclose(result, net.forward(x), rtol=1e-6, atol=1e-7)     # eps and slopes are float32 in a file


@pytest.mark.parametrize("loss", ["softmax_cross_entropy", "sigmoid_cross_entropy"])
def test_probabilities_in_onnx(onnx, tmp_path, loss):
    net, x = trained(loss=loss), rows(FLOAT32)
    interop.to_onnx(net, tmp_path / "net.onnx", probabilities=True)
    checked(onnx, tmp_path / "net.onnx")
    assert_near(of_runtime(tmp_path / "net.onnx", x, "probabilities"), net.predict_proba(x))


@pytest.mark.parametrize("opset", [13, 14, 15, 18])
def test_opsets(onnx, tmp_path, opset):
    net, x = trained("elu"), rows(FLOAT32)
    interop.to_onnx(net, tmp_path / "net.onnx", opset=opset)
    model = checked(onnx, tmp_path / "net.onnx")
    assert model.opset_import[0].version == opset and model.ir_version <= 8
    assert_near(of_runtime(tmp_path / "net.onnx", x), net.forward(x))


def test_arguments_for_onnx(onnx, tmp_path):
    net, path = trained(), tmp_path / "net.onnx"
    regression = trained(loss="mean_squared_error")
    newest = onnx.defs.onnx_opset_version()
    for call, error, name in (
        (lambda: interop.to_onnx(1, path), TypeError, "net"), (lambda: interop.to_onnx(net, 1), TypeError, "path"),
        (lambda: interop.to_onnx(net, path, opset=12), ValueError, "opset"),
        (lambda: interop.to_onnx(net, path, opset=newest + 1), ValueError, "opset"),
        (lambda: interop.to_onnx(net, path, opset="17"), TypeError, "opset"),
        (lambda: interop.to_onnx(net, path, probabilities=1), TypeError, "probabilities"),
        (lambda: interop.to_onnx(net, path, fold=1), TypeError, "fold"),
        (lambda: interop.to_onnx(regression, path, probabilities=True), ValueError, "loss"),
    ):
        with pytest.raises(error, match=f"^{name}: "):
            call()
    with pytest.raises(OSError, match="No such file"):
        interop.to_onnx(net, tmp_path / "nowhere" / "net.onnx")
    assert not list(tmp_path.iterdir())


def test_networks_too_large_for_onnx(onnx, tmp_path, monkeypatch):
    monkeypatch.setattr(interop, "LARGEST_ONNX", 700)
    with pytest.raises(ValueError, match=r"^net: expected at most 700, the bytes that one ONNX file can hold, got"):
        interop.to_onnx(trained(), tmp_path / "net.onnx")
