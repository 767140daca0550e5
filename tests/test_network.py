"""`Sequential` at rest: construction, state, forward pass, gradients and prediction."""

from __future__ import annotations

import copy
import functools
import pickle
import re
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastnn as fnn
from fastnn import reference

Array = np.ndarray

LOSSES = ["softmax_cross_entropy", "sigmoid_cross_entropy", "mean_squared_error"]
KINDS = ["identity", "relu", "leaky_relu", "tanh", "sigmoid", "softsign", "softplus", "elu"]
NAMED = dict(zip(KINDS[1:], [
    fnn.ReLU, fnn.LeakyReLU, fnn.Tanh, fnn.Sigmoid, fnn.Softsign, fnn.Softplus, fnn.ELU], strict=True))
INITIALISERS = [
    "xavier_uniform", "xavier_normal", "glorot_uniform", "glorot_normal", "he_uniform", "he_normal", "lecun_uniform",
    "lecun_normal", "fan_in_uniform", "orthogonal", "sparse", "zeros",
]


def random_data(loss: str, n_rows: int = 6, dtype: str = "float64") -> tuple[Array, Array]:
    rng = np.random.default_rng(5)
    x = rng.normal(size=(n_rows, 3)).astype(dtype)
    if loss == "softmax_cross_entropy":
        return x, rng.integers(0, 3, n_rows)
    if loss == "sigmoid_cross_entropy":
        return x, rng.random((n_rows, 3)).astype(dtype)
    return x, rng.normal(size=(n_rows, 3)).astype(dtype)


def shuffled_state(net: fnn.Sequential, seed: int = 1) -> fnn.Sequential:
    """The network with random numbers in every parameter and statistic, so that no term is multiplied by 0 or 1."""
    rng = np.random.default_rng(seed)
    state = {name: rng.normal(0.1, 0.7, a.shape) for name, a in net.state_dict().items()}
    net.load_state_dict({name: a**2 + 0.1 if name.endswith("running_var") else a for name, a in state.items()})
    return net


def build(
    loss: str = LOSSES[0], *, kind: str = "tanh", norm: bool = True, bias: bool = True, dropout: float = 0.0,
    dtype: str = "float64", seed: int = 0,
) -> fnn.Sequential:
    """3 - 4 - 3."""
    layers: list[Any] = [fnn.Dense(3, 4, bias=bias)]
    layers += [fnn.BatchNorm(4)] if norm else []
    layers += [fnn.Activation(kind)]
    layers += [fnn.Dropout(dropout)] if dropout else []
    layers += [fnn.Dense(4, 3, bias=bias)]
    return shuffled_state(fnn.Sequential(layers, loss=loss, dtype=dtype, seed=seed))


def bits(net: fnn.Sequential) -> dict[str, bytes]:
    return {name: a.tobytes() for name, a in net.state_dict().items()}


def arrays(net: fnn.Sequential) -> Iterator[tuple[str, Array]]:
    """Every parameter by its name in `state_dict`, in the network's own memory."""
    for i, layer in enumerate(net.layers):
        for name in layer.parameters:
            yield f"{i}.{name}", getattr(layer, name)


def assert_same_future(net: fnn.Sequential, twin: fnn.Sequential, x: Array, y: Array) -> None:
    """Equal now, and equal after more training: generator, velocity and counters are the same too."""
    assert bits(net) == bits(twin)
    optimizer = fnn.SGD(lr=0.05, momentum=0.9)
    histories = [n.fit(x, y, epochs=2, batch_size=4, optimizer=optimizer) for n in (net, twin)]
    assert bits(net) == bits(twin)
    assert histories[0].loss == histories[1].loss
    assert [e["epoch"] for e in histories[0].epochs] == [e["epoch"] for e in histories[1].epochs]


# ------------------------------------------------------------------------------------------------------ construction

def array_init(dtype: Any) -> Callable[[], Any]:
    return lambda: fnn.Dense(2, 3, init=np.ones((2, 3)).astype(dtype))


BAD_ARGUMENTS: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: fnn.Dense(0, 3), ValueError, "in_features"),
    (lambda: fnn.Dense(-1, 3), ValueError, "in_features"),
    (lambda: fnn.Dense(2.0, 3), TypeError, "in_features"),
    (lambda: fnn.Dense(True, 3), TypeError, "in_features"),
    (lambda: fnn.Dense("2", 3), TypeError, "in_features"),
    (lambda: fnn.Dense(2, 0), ValueError, "out_features"),
    (lambda: fnn.Dense(2, None), TypeError, "out_features"),
    (lambda: fnn.Dense(2, 3, bias=1), TypeError, "bias"),
    (lambda: fnn.Dense(2, 3, bias=None), TypeError, "bias"),
    (lambda: fnn.Dense(2, 3, init="he"), ValueError, "init"),
    (lambda: fnn.Dense(2, 3, init="gain"), ValueError, "init"),
    (lambda: fnn.Dense(2, 3, init="normal"), ValueError, "init"),      # needs a std: functools.partial
    (lambda: fnn.Dense(2, 3, init=None), TypeError, "init"),
    (lambda: fnn.Dense(2, 3, init=0.5), TypeError, "init"),
    (lambda: fnn.Dense(2, 3, init=[[1, 2, 3], [4, 5, 6]]), TypeError, "init"),
    (lambda: fnn.Dense(2, 3, init=np.ones((3, 2))), ValueError, "init"),
    (lambda: fnn.Dense(2, 3, init=np.ones(6)), ValueError, "init"),
    (lambda: fnn.Dense(2, 3, init=np.ma.ones((2, 3))), TypeError, "init"),
    (array_init(complex), TypeError, "init"),
    (array_init(object), TypeError, "init"),
    (array_init(str), TypeError, "init"),
    (lambda: fnn.BatchNorm(0), ValueError, "num_features"),
    (lambda: fnn.BatchNorm(2.5), TypeError, "num_features"),
    *[(functools.partial(fnn.BatchNorm, 3, eps=eps), ValueError, "eps") for eps in (0, -1e-5, np.nan, np.inf)],
    *[(functools.partial(fnn.BatchNorm, 3, eps=eps), TypeError, "eps") for eps in ("1", True, None, np.ones(1))],
    *[(functools.partial(fnn.BatchNorm, 3, momentum=m), ValueError, "momentum") for m in (-0.1, 1.1, np.nan, np.inf)],
    *[(functools.partial(fnn.BatchNorm, 3, momentum=m), TypeError, "momentum") for m in ("0.1", False, None)],
    (lambda: fnn.Activation("gelu"), ValueError, "kind"),
    (lambda: fnn.Activation(None), TypeError, "kind"),
    (lambda: fnn.Activation(np.tanh), TypeError, "kind"),
    *[(functools.partial(fnn.Dropout, p), ValueError, "p") for p in (1, 1.0, -0.1, 2, np.nan)],
    *[(functools.partial(fnn.Dropout, p), TypeError, "p") for p in ("0.5", True, None)],
    (lambda: fnn.Sequential(None), TypeError, "layers"),
    (lambda: fnn.Sequential(fnn.Dense(2, 3)), TypeError, "layers"),
    (lambda: fnn.Sequential(fnn.Dense(2, 2) for _ in range(2)), TypeError, "layers"),
    (lambda: fnn.Sequential([]), ValueError, "layers"),
    (lambda: fnn.Sequential([fnn.BatchNorm(3), fnn.ReLU()]), ValueError, "layers"),
    (lambda: fnn.Sequential([fnn.Dense(2, 3), "relu"]), TypeError, "layers[1]"),
    (lambda: fnn.Sequential([fnn.Dense(2, 3), fnn.ReLU]), TypeError, "layers[1]"),
    (lambda: fnn.Sequential([fnn.Dense(2, 3)], loss="hinge"), ValueError, "loss"),
    (lambda: fnn.Sequential([fnn.Dense(2, 3)], loss=None), TypeError, "loss"),
    *[(functools.partial(lambda d: fnn.Sequential([fnn.Dense(2, 3)], dtype=d), d), TypeError, "dtype")
      for d in ("float16", "int64", complex, None, "nonsense")],
    (lambda: fnn.Sequential([fnn.Dense(2, 3)], seed=-1), ValueError, "seed"),
    *[(functools.partial(lambda s: fnn.Sequential([fnn.Dense(2, 3)], seed=s), s), TypeError, "seed")
      for s in (1.5, True, "0")],
    (lambda: fnn.Sequential([fnn.BatchNorm(2, eps=1e-60), fnn.Dense(2, 3)]), ValueError, "eps"),     # 0 in float32
    (lambda: fnn.Sequential([fnn.Dense(2, 3, init=lambda shape, **_: np.ones((3, 2)))]), ValueError, "init"),
    (lambda: fnn.Sequential([fnn.Dense(2, 3, init=lambda shape, **_: None)]), TypeError, "init"),
]


@pytest.mark.parametrize(("call", "error", "name"), BAD_ARGUMENTS)
def test_bad_arguments_are_named(call: Callable[[], Any], error: type[Exception], name: str) -> None:
    with pytest.raises(error, match=rf"^{re.escape(name)}: .*(expected|got)"):
        call()


@pytest.mark.parametrize(("layers", "name", "expected", "got"), [
    (lambda: [fnn.Dense(3, 4), fnn.ReLU(), fnn.Dense(5, 2)], "layers[2]", "4", "5"),
    (lambda: [fnn.Dense(3, 4), fnn.BatchNorm(6), fnn.Dense(4, 2)], "layers[1]", "4", "6"),
    (lambda: [fnn.BatchNorm(3), fnn.Dropout(0.1), fnn.Dense(4, 2)], "layers[2]", "3", "4"),
])
def test_widths_that_do_not_fit_name_the_layer(
    layers: Callable[[], list[Any]], name: str, expected: str, got: str,
) -> None:
    with pytest.raises(ValueError, match=rf"^{re.escape(name)}: .*{expected}.*{got}"):
        fnn.Sequential(layers())


def test_attributes() -> None:
    net = fnn.Sequential([fnn.Dense(3, 4), fnn.BatchNorm(4), fnn.ReLU(), fnn.Dense(4, 2, bias=False)])
    assert isinstance(net.layers, tuple)
    assert [type(layer).__name__ for layer in net.layers] == ["Dense", "BatchNorm", "ReLU", "Dense"]
    assert net.n_parameters == (12 + 4) + (4 + 4) + 8
    assert net.dtype == np.float32
    assert fnn.Sequential([fnn.Dense(3, 4)], dtype=np.float64).dtype == np.float64
    for word in ("Dense(3, 4)", "BatchNorm(4)", "ReLU()", "bias=False", "softmax_cross_entropy", "float32"):
        assert word in repr(net)


@pytest.mark.parametrize("kind", NAMED)
def test_named_activations_are_the_kinds(kind: str) -> None:
    layer = NAMED[kind]()
    assert isinstance(layer, fnn.Activation)
    assert layer.kind == kind
    x = np.linspace(-3, 3, 12).reshape(4, 3)
    net = fnn.Sequential([fnn.Dense(3, 3, bias=False, init=np.eye(3)), layer], dtype="float64")
    np.testing.assert_allclose(net.forward(x), reference.activation_forward(x, kind), rtol=1e-14)


def test_a_layer_belongs_to_one_network() -> None:
    layer = fnn.Dense(3, 3)
    with pytest.raises(ValueError, match=r"^layers\[1\]: .*Dense\(3, 3\)"):
        fnn.Sequential([layer, layer])
    first = fnn.Sequential([layer])
    before = bits(first)
    with pytest.raises(ValueError, match=r"^layers\[1\]: .*Dense\(3, 3\)"):
        fnn.Sequential([fnn.ReLU(), layer])
    with pytest.raises(ValueError, match=r"^layers\[0\]: .*ReLU"):
        relu = fnn.ReLU()
        fnn.Sequential([fnn.Dense(3, 3), relu])
        fnn.Sequential([relu, fnn.Dense(3, 3)])
    assert bits(first) == before
    assert first.layers[0].weight is layer.weight


def raising(shape: tuple[int, int], **_: Any) -> Array:
    raise ZeroDivisionError("an initialiser of one's own")


@pytest.mark.parametrize(("last", "options"), [
    (lambda: fnn.Dense(5, 2), {}),
    (lambda: fnn.BatchNorm(4, eps=1e-60), {}),
    (lambda: fnn.Dense(4, 2, init=lambda shape, **_: np.ones(3)), {}),
    (lambda: fnn.Dense(4, 2, init=raising), {}),
    (lambda: fnn.Dense(4, 2), {"dtype": "float16"}),
    (lambda: fnn.Dense(4, 2), {"seed": -1}),
], ids=["width", "eps", "init-shape", "init-raises", "dtype", "seed"])
def test_layers_stay_free_after_a_failed_construction(last: Callable[[], Any], options: dict[str, Any]) -> None:
    layers = [fnn.Dense(3, 4), fnn.Tanh()]
    with pytest.raises((TypeError, ValueError, ZeroDivisionError)):
        fnn.Sequential([*layers, last()], **options)
    assert layers[0].weight is None
    assert fnn.Sequential([*layers, fnn.Dense(4, 2)]).layers[0] is layers[0]


# --------------------------------------------------------------------------------------------------- initial values

@pytest.mark.parametrize("name", INITIALISERS)
def test_init_by_name_is_init_by_function(name: str) -> None:
    nets = [fnn.Sequential([fnn.Dense(20, 5, init=init)], seed=3) for init in (name, getattr(fnn.init, name))]
    assert bits(nets[0]) == bits(nets[1])
    assert bool(nets[0].layers[0].weight.any()) == (name != "zeros")
    assert not nets[0].layers[0].bias.any()


def test_default_init_is_xavier_uniform() -> None:
    a, b = (fnn.Sequential([layer], seed=3) for layer in (fnn.Dense(20, 5), fnn.Dense(20, 5, init="xavier_uniform")))
    assert bits(a) == bits(b)
    weight = fnn.Sequential([fnn.Dense(300, 200)], seed=1).layers[0].weight
    bound = np.sqrt(6 / 500)
    assert 0.99 * bound < abs(weight).max() <= bound
    np.testing.assert_allclose(weight.std(), bound / np.sqrt(3), rtol=0.02)


def test_init_callable_gets_shape_generator_and_dtype() -> None:
    seen = []

    def init(shape: tuple[int, int], *, rng: np.random.Generator, dtype: Any) -> Array:
        seen.append((shape, type(rng), np.dtype(dtype)))
        return rng.normal(size=shape)

    net = fnn.Sequential([fnn.Dense(3, 4, init=init), fnn.Dense(4, 2, init=init)], dtype="float64", seed=0)
    assert seen == [(shape, np.random.Generator, np.float64) for shape in ((3, 4), (4, 2))]
    assert len(np.unique(np.concatenate([layer.weight.ravel() for layer in net.layers]))) == 20


def test_init_partial() -> None:
    net = fnn.Sequential([fnn.Dense(3, 4, init=functools.partial(fnn.init.constant, value=0.25))])
    assert (net.layers[0].weight == 0.25).all()


@pytest.mark.parametrize("dtype", ["float32", "float64", "int16"])
def test_init_array_is_copied(dtype: str) -> None:
    given = np.arange(12).reshape(4, 3).T.astype(dtype)
    net = fnn.Sequential([fnn.Dense(3, 4, init=given)])
    np.testing.assert_array_equal(net.layers[0].weight, given)
    assert net.layers[0].weight.dtype == np.float32
    given[...] = 7
    assert net.layers[0].weight[0, 0] == 0


def test_same_seed_same_parameters() -> None:
    a, b, c = (fnn.Sequential([fnn.Dense(3, 4), fnn.Dense(4, 3)], seed=seed) for seed in (1, 1, 2))
    assert bits(a) == bits(b)
    assert all(bits(a)[name] != bits(c)[name] for name in ("0.weight", "1.weight"))
    fresh = [fnn.Sequential([fnn.Dense(3, 4)]) for _ in range(2)]
    assert bits(fresh[0]) != bits(fresh[1])


def test_both_dtypes_start_from_the_same_numbers() -> None:
    a, b = (fnn.Sequential([fnn.Dense(30, 4)], seed=1, dtype=dtype) for dtype in ("float32", "float64"))
    np.testing.assert_allclose(a.layers[0].weight, b.layers[0].weight, rtol=1e-6)


def test_batchnorm_starts_as_the_identity() -> None:
    net = fnn.Sequential([fnn.BatchNorm(3), fnn.Dense(3, 3)])
    layer = net.layers[0]
    assert (layer.gamma == 1).all() and not layer.beta.any() and not layer.running_mean.any()
    assert (layer.running_var == 1).all()


# ------------------------------------------------------------------------------------------------------------- state

def test_state_names_shapes_and_dtypes() -> None:
    net = fnn.Sequential([fnn.Dense(3, 4, bias=False), fnn.BatchNorm(4), fnn.ReLU(), fnn.Dropout(0.1), fnn.Dense(4, 2)])
    state = net.state_dict()
    assert {name: a.shape for name, a in state.items()} == {
        "0.weight": (3, 4), "1.gamma": (4,), "1.beta": (4,), "1.running_mean": (4,), "1.running_var": (4,),
        "4.weight": (4, 2), "4.bias": (2,)}
    assert {a.dtype for a in state.values()} == {np.dtype(np.float32)}
    assert all(type(a) is np.ndarray for a in state.values())


def test_state_dict_gives_copies_and_load_takes_copies() -> None:
    net = build()
    before = bits(net)
    state = net.state_dict()
    for a in state.values():
        a += 1
    assert bits(net) == before
    net.load_state_dict(state)
    after = bits(net)
    assert all(after[name] == state[name].tobytes() != before[name] for name in before)
    for a in state.values():
        a += 1
    assert bits(net) == after


def test_load_state_dict_makes_two_networks_equal() -> None:
    x, y = random_data("softmax_cross_entropy", 40)
    net, other = build(seed=0), shuffled_state(build(seed=1), seed=9)
    assert not np.array_equal(net.forward(x), other.forward(x))
    other.load_state_dict(net.state_dict())
    np.testing.assert_array_equal(net.forward(x), other.forward(x))
    assert net.evaluate(x, y) == other.evaluate(x, y)


def test_load_state_dict_converts_what_is_real() -> None:
    net = fnn.Sequential([fnn.Dense(2, 2)])
    net.load_state_dict({"0.weight": [[1, 2], [3, 4]], "0.bias": np.array([0.5, 0.25], ">f8")})
    np.testing.assert_array_equal(net.layers[0].weight, [[1, 2], [3, 4]])
    np.testing.assert_array_equal(net.layers[0].bias, [0.5, 0.25])
    assert net.layers[0].weight.dtype == np.float32


BAD_ENTRIES: list[tuple[dict[Any, Any], type[Exception], str]] = [
    ({"1.running_var": np.array([1, 1, -1e-3, 1])}, ValueError, "1.running_var: .*-0.001.*2"),
    ({"0.weight": np.ones((4, 3))}, ValueError, "0.weight: .*(3, 4).*(4, 3)"),
    ({"1.gamma": np.ones((1, 4))}, ValueError, "1.gamma: .*(4,).*(1, 4)"),
    ({"3.bias": 1.0}, ValueError, "3.bias: "),
    ({"3.bias": [[1, 2], [3]]}, ValueError, "3.bias: "),
    ({"3.bias": None}, TypeError, "3.bias: "),
    ({"3.bias": np.ones(3, complex)}, TypeError, "3.bias: "),
    ({"3.bias": np.ones(3, object)}, TypeError, "3.bias: "),
    ({"3.bias": ["a", "b", "c"]}, TypeError, "3.bias: "),
    ({"3.bias": np.ma.ones(3)}, TypeError, "3.bias: "),
    ({"2.weight": np.ones(3)}, ValueError, "d: .*'2.weight'"),
    ({"weight": np.ones(3), 4: np.ones(3)}, ValueError, "d: "),
]


@pytest.mark.parametrize(("entries", "error", "message"), BAD_ENTRIES)
def test_load_state_dict_refuses_and_changes_nothing(
    entries: dict[Any, Any], error: type[Exception], message: str,
) -> None:
    net = build()
    before = bits(net)
    good = {name: a + 1 for name, a in net.state_dict().items()}
    pattern = re.escape(message).replace(r"\.\*", ".*")
    with pytest.raises(error, match=f"^{pattern}"):
        net.load_state_dict(good | entries)
    assert bits(net) == before


@pytest.mark.parametrize("name", ["0.weight", "0.bias", "1.gamma", "1.running_mean", "3.weight"])
def test_load_state_dict_refuses_a_missing_entry(name: str) -> None:
    net = build()
    before = bits(net)
    state = {key: a + 1 for key, a in net.state_dict().items() if key != name}
    with pytest.raises(ValueError, match=f"^d: .*'{name}'"):
        net.load_state_dict(state)
    assert bits(net) == before


@pytest.mark.parametrize("d", [None, [1], np.ones(3), "0.weight"])
def test_load_state_dict_refuses_what_is_no_mapping(d: Any) -> None:
    with pytest.raises(TypeError, match=r"^d: "):
        build().load_state_dict(d)


COPIES: list[Callable[[Any], Any]] = [copy.copy, copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("optimizer", [fnn.SGD(lr=0.05, momentum=0.9), fnn.AdamW(lr=0.05)], ids=["SGD", "AdamW"])
@pytest.mark.parametrize("copied", COPIES, ids=["copy", "deepcopy", "pickle"])
def test_a_copy_is_a_network_of_its_own(copied: Callable[[Any], Any], optimizer: Any, dtype: str) -> None:
    net = build(dropout=0.2, dtype=dtype)
    x, y = random_data(net.loss, 20, dtype)
    net.fit(x, y, batch_size=4, optimizer=optimizer)
    before = bits(net)
    first, second = copied(net), copied(net)
    assert repr(first) == repr(net) and first.dtype is net.dtype
    for layer, own in zip(first.layers, net.layers, strict=True):
        for name, a in (layer.parameters | layer.statistics).items():
            assert getattr(layer, name) is a
            assert not np.shares_memory(a, getattr(own, name))
    # no optimiser named: each goes on with its own, and its velocity or moments
    histories = [n.fit(x, y, epochs=2, batch_size=4).loss for n in (first, second)]
    assert bits(net) == before
    histories.append(net.fit(x, y, epochs=2, batch_size=4).loss)
    assert histories[0] == histories[1] == histories[2]
    assert bits(first) == bits(second) == bits(net) != before
    assert_same_future(first, net, x, y)
    first.layers[0].weight = np.zeros_like(first.layers[0].weight)
    assert not first.state_dict()["0.weight"].any() and net.state_dict()["0.weight"].any()


def test_a_copy_goes_on_with_the_optimizer_copied_with_it() -> None:
    net = build()
    x, y = random_data(net.loss, 20)
    optimizer = fnn.SGD(lr=0.05, momentum=0.9)
    net.fit(x, y, batch_size=4, optimizer=optimizer)
    twin, its_optimizer = copy.deepcopy((net, optimizer))
    for n, o in ((net, optimizer), (twin, its_optimizer)):
        n.fit(x, y, batch_size=4, optimizer=o)
    assert bits(net) == bits(twin)


@pytest.mark.parametrize("copied", COPIES, ids=["copy", "deepcopy", "pickle"])
def test_a_copy_of_a_layer_is_free(copied: Callable[[Any], Any]) -> None:
    net = build(norm=True, kind="elu", dropout=0.1)
    layers = [copied(layer) for layer in net.layers]
    assert list(map(repr, layers)) == list(map(repr, net.layers))
    assert not any(layer.bound or layer.parameters or layer.statistics for layer in layers)
    again = fnn.Sequential(layers, loss=net.loss, dtype=net.dtype)
    again.load_state_dict(net.state_dict())
    assert bits(again) == bits(net)


def test_layer_attributes_are_the_networks_memory() -> None:
    net = build(bias=True)
    x, _ = random_data("softmax_cross_entropy")
    for (i, name), value in {(0, "weight"): 0.1, (0, "bias"): 0.2, (1, "gamma"): 0.3, (1, "beta"): 0.4,
                             (1, "running_mean"): 0.5, (1, "running_var"): 0.6, (3, "weight"): 0.7}.items():
        before = net.forward(x)
        shape = getattr(net.layers[i], name).shape
        setattr(net.layers[i], name, np.full(shape, value))
        assert (net.state_dict()[f"{i}.{name}"] == value).all()
        assert not np.array_equal(net.forward(x), before)
        getattr(net.layers[i], name)[...] += 1
        assert (net.state_dict()[f"{i}.{name}"] == value + 1).all()
    view = net.layers[3].bias
    net.layers[3].bias += 1
    assert net.layers[3].bias is view


def test_layer_attributes_follow_training() -> None:
    net = build(dtype="float32")
    x, y = random_data("softmax_cross_entropy", dtype="float32")
    views = dict(arrays(net))
    net.train_step(x, y, fnn.SGD(lr=0.1, momentum=0.9))
    for name, a in net.state_dict().items():
        if name in views:
            np.testing.assert_array_equal(views[name], a)


@pytest.mark.parametrize(("value", "error"), [
    (np.ones((4, 3)), ValueError), (1.0, ValueError), (None, TypeError), ("a", TypeError),
    (np.ones((3, 4), complex), TypeError),
])
def test_layer_attributes_refuse_and_keep(value: Any, error: type[Exception]) -> None:
    net = build()
    before = bits(net)
    with pytest.raises(error, match=r"^weight: "):
        net.layers[0].weight = value
    assert bits(net) == before


def test_layer_attributes_without_memory() -> None:
    assert fnn.Dense(2, 3).weight is None
    with pytest.raises(AttributeError, match=r"^weight: "):
        fnn.Dense(2, 3).weight = np.ones((2, 3))
    net = build(bias=False)
    assert net.layers[0].bias is None
    with pytest.raises(AttributeError, match=r"^bias: "):
        net.layers[0].bias = np.ones(4)


# ----------------------------------------------------------------------------------------------------- forward pass

def plain_outputs(net: fnn.Sequential, x: Array) -> Array:
    """Evaluation mode in plain NumPy."""
    state = net.state_dict()
    for i, layer in enumerate(net.layers):
        if isinstance(layer, fnn.Dense):
            x = reference.dense_forward(x, state[f"{i}.weight"], state.get(f"{i}.bias"))
        elif isinstance(layer, fnn.BatchNorm):
            own = [state[f"{i}.{name}"] for name in ("gamma", "beta", "running_mean", "running_var")]
            x = reference.batchnorm_inference(x, *own, eps=layer.eps)
        elif isinstance(layer, fnn.Activation):
            x = reference.activation_forward(x, layer.kind)
    return x


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 2e-6), ("float64", 1e-14)])
@pytest.mark.parametrize("kind", KINDS)
def test_evaluation_mode_equals_plain_numpy(kind: str, dtype: str, tolerance: float) -> None:
    net = build(kind=kind, dropout=0.3, dtype=dtype)
    x, _ = random_data("softmax_cross_entropy", 40, dtype=dtype)
    out = net.forward(x)
    assert out.dtype == dtype
    np.testing.assert_allclose(out, plain_outputs(net, x), rtol=tolerance, atol=10 * tolerance)


def test_training_mode_uses_and_moves_statistics() -> None:
    net = shuffled_state(fnn.Sequential([fnn.BatchNorm(3, momentum=0.25, eps=1e-3), fnn.Dense(3, 3)], dtype="float64"))
    x, _ = random_data("softmax_cross_entropy", 20)
    s = net.state_dict()
    mean, var = s["0.running_mean"].copy(), s["0.running_var"].copy()
    h, _, _ = reference.batchnorm_forward(x, s["0.gamma"], s["0.beta"], mean, var, momentum=0.25, eps=1e-3)
    np.testing.assert_allclose(net.forward(x, training=True), h @ s["1.weight"] + s["1.bias"], rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(net.layers[0].running_mean, mean, rtol=1e-14)
    np.testing.assert_allclose(net.layers[0].running_var, var, rtol=1e-14)
    assert abs(mean - s["0.running_mean"]).min() > 1e-3
    for name in ("0.gamma", "0.beta", "1.weight", "1.bias"):
        np.testing.assert_array_equal(net.state_dict()[name], s[name])


def test_training_mode_gives_an_array_of_its_own() -> None:
    net = build(dropout=0.5)
    x, _ = random_data("softmax_cross_entropy", 20)
    first = net.forward(x, training=True)
    kept = first.copy()
    net.forward(x[::-1], training=True)
    np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize("rows", [0, 1])
def test_batchnorm_training_needs_two_rows(rows: int) -> None:
    net = build()
    before = bits(net)
    x, y = random_data("softmax_cross_entropy")
    calls: list[Callable[[], Any]] = [
        lambda: net.forward(x[:rows], training=True),
        lambda: net.loss_and_gradients(x[:rows], y[:rows]),
        lambda: net.train_step(x[:rows], y[:rows], fnn.SGD()),
        lambda: net.fit(x[:rows], y[:rows]),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=r"^x: "):
            call()
    assert bits(net) == before
    assert net.forward(x[:rows]).shape == (rows, 3)


def identity_with_dropout(p: float, n: int, dtype: str = "float32") -> fnn.Sequential:
    return fnn.Sequential([fnn.Dropout(p), fnn.Dense(n, n, bias=False, init=np.eye(n))], dtype=dtype, seed=0)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("p", [0.0, 0.25, 0.9])
def test_dropout_in_training(p: float, dtype: str) -> None:
    x = np.ones((500, 20), dtype)
    net = identity_with_dropout(p, 20, dtype)
    out = net.forward(x, training=True)
    zeros = np.count_nonzero(out == 0)
    assert abs(zeros - p * out.size) <= 5 * np.sqrt(out.size * p * (1 - p))
    np.testing.assert_allclose(out[out != 0], 1 / (1 - p), rtol=1e-6)
    assert out.dtype == dtype
    if p:
        assert not np.array_equal(net.forward(x, training=True), out)
        np.testing.assert_array_equal(identity_with_dropout(p, 20, dtype).forward(x, training=True), out)


def test_dropout_does_nothing_in_evaluation() -> None:
    x = np.random.default_rng(0).normal(size=(50, 4))
    np.testing.assert_allclose(identity_with_dropout(0.9, 4, "float64").forward(x), x, rtol=1e-15)


@pytest.mark.parametrize("value", [1, None, "yes"])
def test_training_is_true_or_false(value: Any) -> None:
    with pytest.raises(TypeError, match=r"^training: "):
        build().forward(np.ones((4, 3)), training=value)


# -------------------------------------------------------------------------------------------------------- gradients

def differences(net: fnn.Sequential, x: Array, y: Array) -> dict[str, Array]:
    """The gradients by central differences."""
    gradients = {}
    for name, a in arrays(net):
        gradients[name] = np.empty(a.shape)
        for at in np.ndindex(a.shape):
            value = a[at]
            h = 1e-6 * max(1.0, abs(value))
            losses = []
            for a[at] in (value + h, value - h):
                losses.append(net.loss_and_gradients(x, y)[0])
            a[at] = value
            gradients[name][at] = (losses[0] - losses[1]) / (2 * h)
    return gradients


def check_gradients(net: fnn.Sequential, x: Array, y: Array) -> dict[str, Array]:
    loss, gradients = net.loss_and_gradients(x, y)
    assert type(loss) is float
    assert gradients.keys() == dict(arrays(net)).keys()
    assert_close(gradients, differences(net, x, y))
    return gradients


def assert_close(gradients: dict[str, Array], expected: dict[str, Array]) -> None:
    for name, g in expected.items():
        np.testing.assert_allclose(gradients[name], g, rtol=1e-6, atol=1e-8, err_msg=name)


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
@pytest.mark.parametrize("norm", [True, False], ids=["norm", "plain"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("loss", LOSSES)
def test_gradients(loss: str, kind: str, norm: bool, bias: bool) -> None:
    gradients = check_gradients(build(loss, kind=kind, norm=norm, bias=bias), *random_data(loss))
    for name, g in gradients.items():
        # a bias in front of batch norm has no effect
        assert (abs(g).max() < 1e-12) == (norm and name == "0.bias"), name


@pytest.mark.parametrize("term", ["0.weight", "0.bias", "1.gamma", "1.beta", "3.weight", "3.bias"])
def test_the_gradient_check_finds_an_error(term: str) -> None:
    net = build()
    x, y = random_data("softmax_cross_entropy")
    gradients, expected = net.loss_and_gradients(x, y)[1], differences(net, x, y)
    assert_close(gradients, expected)
    gradients[term] += 1e-4 * (1 + abs(gradients[term]))
    with pytest.raises(AssertionError, match=term):
        assert_close(gradients, expected)


@pytest.mark.parametrize("loss", LOSSES)
def test_gradients_with_dropout_everywhere(loss: str) -> None:
    layers = [fnn.Dropout(0.2), fnn.Dense(3, 5), fnn.Dropout(0.3), fnn.BatchNorm(5), fnn.Dropout(0.4), fnn.Tanh(),
              fnn.Dropout(0.3), fnn.Dense(5, 3), fnn.Dropout(0.1)]
    net = shuffled_state(fnn.Sequential(layers, loss=loss, dtype="float64", seed=2))
    check_gradients(net, *random_data(loss, 12))


@pytest.mark.parametrize("layers", [
    lambda: [fnn.BatchNorm(3), fnn.Dense(3, 3)],
    lambda: [fnn.Tanh(), fnn.Dense(3, 3), fnn.BatchNorm(3)],
    lambda: [fnn.Dense(3, 3), fnn.Softplus()],
    lambda: [fnn.Dense(3, 1), fnn.Tanh(), fnn.Dense(1, 3)],
    lambda: [fnn.Dense(3, 5), fnn.BatchNorm(5), fnn.ELU(), fnn.Dense(5, 4, bias=False), fnn.BatchNorm(4), fnn.Sigmoid(),
             fnn.Dense(4, 4), fnn.Softsign(), fnn.Dense(4, 3)],
], ids=["norm-first", "norm-last", "activation-last", "narrow", "deep"])
@pytest.mark.parametrize("loss", LOSSES)
def test_gradients_of_other_shapes(layers: Callable[[], list[Any]], loss: str) -> None:
    check_gradients(shuffled_state(fnn.Sequential(layers(), loss=loss, dtype="float64")), *random_data(loss))


@pytest.mark.parametrize("loss", LOSSES)
def test_float32_gradients_follow_float64(loss: str) -> None:
    x, y = random_data(loss, 30)
    loss64, g64 = build(loss, dtype="float64").loss_and_gradients(x, y)
    loss32, g32 = build(loss, dtype="float32").loss_and_gradients(x, y)
    assert abs(loss32 - loss64) < 1e-6 * (1 + loss64)
    for name, g in g64.items():
        assert g32[name].dtype == np.float32
        np.testing.assert_allclose(g32[name], g, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_loss_and_gradients_changes_nothing(dtype: str) -> None:
    net, twin = (build(dropout=0.5, dtype=dtype) for _ in range(2))
    x, y = random_data("softmax_cross_entropy", 12, dtype=dtype)
    x_before, y_before = x.copy(), y.copy()
    first_loss, first = net.loss_and_gradients(x, y)
    kept = {name: g.copy() for name, g in first.items()}
    net.loss_and_gradients(x[:5], y[:5])
    loss, again = net.loss_and_gradients(x, y)
    assert loss == first_loss
    for name, g in again.items():
        np.testing.assert_array_equal(g, kept[name])
        np.testing.assert_array_equal(first[name], kept[name])      # results are copies
    np.testing.assert_array_equal(x, x_before)
    np.testing.assert_array_equal(y, y_before)
    assert_same_future(net, twin, x, y)


def test_loss_and_gradients_sees_the_dropout_of_the_next_step() -> None:
    net = build(dropout=0.5)
    x, y = random_data("softmax_cross_entropy", 12)
    loss, gradients = net.loss_and_gradients(x, y)
    before = net.state_dict()
    assert net.train_step(x, y, fnn.SGD(lr=0.5)) == loss
    for name, g in gradients.items():
        np.testing.assert_allclose(net.state_dict()[name], before[name] - 0.5 * g, rtol=1e-14, atol=1e-15)


# ----------------------------------------------------------------------------------------- what batch norm promises

@pytest.mark.parametrize("a", [0.1, 3.0, 10.0])
def test_batchnorm_forgets_the_scale_of_the_weights(a: float) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(200, 10)).astype(np.float32), rng.integers(0, 4, 200)
    nets = []
    for factor in (1.0, a):
        layers = [fnn.Dense(10, 8, bias=False), fnn.BatchNorm(8, eps=1e-12), fnn.Tanh(), fnn.Dense(8, 4)]
        nets.append(fnn.Sequential(layers, seed=3))
        nets[-1].layers[0].weight *= factor
    y1, y2 = (net.forward(x, training=True) for net in nets)
    assert abs(y1 - y2).max() <= 1e-5 * abs(y1).max()
    (_, g1), (_, g2) = (net.loss_and_gradients(x, y) for net in nets)
    assert abs(g2["0.weight"] * a - g1["0.weight"]).max() <= 1e-5 * abs(g1["0.weight"]).max()
    assert abs(g2["3.weight"] - g1["3.weight"]).max() <= 1e-5 * abs(g1["3.weight"]).max()


def test_evaluation_is_an_affine_map() -> None:
    rng = np.random.default_rng(0)
    net = fnn.Sequential([fnn.Dense(5, 7), fnn.BatchNorm(7), fnn.Dense(7, 3)], dtype="float64", seed=0)
    x, y = rng.normal(2, 3, size=(300, 5)), rng.integers(0, 3, 300)
    net.fit(x, y, epochs=2, optimizer=fnn.SGD(lr=0.1))
    dense, norm, last = net.layers
    scale = norm.gamma / np.sqrt(norm.running_var + norm.eps)
    weight = dense.weight * scale @ last.weight
    bias = ((dense.bias - norm.running_mean) * scale + norm.beta) @ last.weight + last.bias
    np.testing.assert_allclose(net.forward(x), x @ weight + bias, rtol=1e-6, atol=1e-6)
    assert abs(net.forward(x) - net.forward(x, training=True)).max() > 1e-3


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_running_variance_of_two_rows_is_twice_the_biased_one(dtype: str) -> None:
    net = fnn.Sequential([fnn.BatchNorm(3, momentum=1.0), fnn.Dense(3, 2)], dtype=dtype)
    x = np.array([[1, 10, -6], [3, 14, 10]], dtype)
    net.forward(x, training=True)
    np.testing.assert_array_equal(net.layers[0].running_mean, [2, 12, 2])
    np.testing.assert_array_equal(net.layers[0].running_var, 2 * x.var(axis=0))


@pytest.mark.parametrize("value", [0.0, 3.0, 1e8 / 3])
def test_a_constant_feature_gives_beta(value: float) -> None:
    net = shuffled_state(fnn.Sequential([fnn.BatchNorm(2), fnn.Dense(2, 2, bias=False)], dtype="float32"))
    net.layers[1].weight = np.eye(2)
    x = np.random.default_rng(0).normal(size=(30, 2)).astype(np.float32)
    x[:, 1] = value
    assert (net.forward(x, training=True)[:, 1] == net.layers[0].beta[1]).all()
    _, gradients = net.loss_and_gradients(x, np.arange(30) % 2)
    assert gradients["0.gamma"][1] == 0
    assert all(np.isfinite(g).all() for g in gradients.values())


# -------------------------------------------------------------------------------------------------------- prediction

ROWS = 2500         # more than two of the chunks that predict and evaluate work in


def softmax(z: Array) -> Array:
    e = np.exp(z.astype(np.float64) - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_softmax_predictions(dtype: str) -> None:
    net = build("softmax_cross_entropy", dtype=dtype)
    x, y = random_data("softmax_cross_entropy", ROWS, dtype=dtype)
    z = net.forward(x)
    labels, p = net.predict(x), net.predict_proba(x)
    assert labels.shape == (ROWS,) and labels.dtype.kind == "i"
    np.testing.assert_array_equal(labels, z.argmax(axis=1))
    assert len(set(labels)) > 1
    assert p.shape == (ROWS, 3) and p.dtype == dtype
    np.testing.assert_allclose(p, softmax(z), rtol=1e-5)
    np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-6)
    result = net.evaluate(x, y)
    assert result.keys() == {"loss", "accuracy"} and all(type(value) is float for value in result.values())
    np.testing.assert_allclose(result["loss"], reference.softmax_cross_entropy(z, y)[0], rtol=1e-7)
    assert result["accuracy"] == np.mean(labels == y)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_sigmoid_predictions(dtype: str) -> None:
    net = build("sigmoid_cross_entropy", dtype=dtype)
    x, y = random_data("sigmoid_cross_entropy", ROWS, dtype=dtype)
    z = net.forward(x)
    labels, p = net.predict(x), net.predict_proba(x)
    assert labels.shape == (ROWS, 3) and labels.dtype.kind == "i"
    np.testing.assert_array_equal(labels, z > 0)
    assert p.shape == (ROWS, 3) and p.dtype == dtype
    np.testing.assert_allclose(p, 1 / (1 + np.exp(-z.astype(np.float64))), rtol=1e-5)
    for targets in (y, np.round(y)):
        result = net.evaluate(x, targets)
        assert result.keys() == {"loss", "accuracy"}
        np.testing.assert_allclose(result["loss"], reference.sigmoid_cross_entropy(z, targets)[0], rtol=1e-7)
        assert result["accuracy"] == np.mean(labels == (targets > 0.5))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_regression_predictions(dtype: str) -> None:
    net = build("mean_squared_error", dtype=dtype)
    x, y = random_data("mean_squared_error", ROWS, dtype=dtype)
    z = net.forward(x)
    assert net.predict(x).dtype == dtype
    np.testing.assert_array_equal(net.predict(x), z)
    result = net.evaluate(x, y)
    assert result.keys() == {"loss"} and type(result["loss"]) is float
    np.testing.assert_allclose(result["loss"], np.mean((z.astype(np.float64) - y) ** 2), rtol=1e-7)
    with pytest.raises(ValueError, match=r"^loss: .*mean_squared_error"):
        net.predict_proba(x)


def test_probabilities_of_huge_outputs() -> None:
    x = np.array([[3e38, -3e38, 0], [-1e4, 1e4, 9999]], np.float32)
    for loss, expected in (("softmax_cross_entropy", [[1, 0, 0], [0, 0.7310586, 0.26894143]]),
                           ("sigmoid_cross_entropy", [[1, 0, 0.5], [0, 1, 1]])):
        net = fnn.Sequential([fnn.Dense(3, 3, init=np.eye(3))], loss=loss)
        np.testing.assert_allclose(net.predict_proba(x), expected, rtol=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
def test_no_rows(loss: str) -> None:
    net = build(loss)
    x, y = random_data(loss)
    shape = (0,) if loss == "softmax_cross_entropy" else (0, 3)
    assert net.predict(x[:0]).shape == shape
    assert net.predict(x[:0]).dtype == net.predict(x).dtype
    assert net.forward(x[:0]).shape == (0, 3)
    if loss != "mean_squared_error":
        assert net.predict_proba(x[:0]).shape == (0, 3)
    with pytest.raises(ValueError, match=r"^x: "):
        net.evaluate(x[:0], y[:0])


@pytest.mark.parametrize("rows", [1, 1023, 1024, 1025, 2048, 2049])
def test_chunks_do_not_show(rows: int) -> None:
    net = build("mean_squared_error", dtype="float32")
    x, y = random_data("mean_squared_error", 2049, dtype="float32")
    whole = net.predict(x)
    np.testing.assert_allclose(net.predict(x[:rows]), whole[:rows], rtol=1e-6, atol=1e-6)
    expected = np.mean(np.square(whole[:rows].astype(np.float64) - y[:rows]))
    np.testing.assert_allclose(net.evaluate(x[:rows], y[:rows])["loss"], expected, rtol=1e-6)


def test_a_row_does_not_depend_on_the_rows_around_it() -> None:
    rng = np.random.default_rng(0)
    net = fnn.Sequential([fnn.Dense(20, 50), fnn.BatchNorm(50), fnn.Tanh(), fnn.Dense(50, 10)],
                         loss="mean_squared_error", seed=0)
    x = rng.normal(size=(1100, 20)).astype(np.float32)
    whole = net.predict(x)
    for part in (slice(0, 1), slice(7, 8), slice(3, 17), slice(1000, 1099)):
        np.testing.assert_allclose(net.predict(x[part]), whole[part], rtol=1e-5, atol=1e-6)
    order = rng.permutation(1100)
    np.testing.assert_allclose(net.predict(x[order]), whole[order], rtol=1e-5, atol=1e-6)
    x[5] = np.nan
    np.testing.assert_array_equal(np.isnan(net.predict(x)).all(axis=1), np.arange(1100) == 5)


@pytest.mark.parametrize("loss", LOSSES)
def test_prediction_changes_nothing(loss: str) -> None:
    net, twin = (build(loss, dropout=0.5) for _ in range(2))
    x, y = random_data(loss, 40)
    for n in (net, twin):
        n.fit(x, y, epochs=1, optimizer=fnn.SGD(lr=0.05, momentum=0.9))
    before = x.copy()
    net.predict(x)
    net.evaluate(x, y)
    net.forward(x)
    if loss != "mean_squared_error":
        net.predict_proba(x)
    np.testing.assert_array_equal(x, before)
    assert_same_future(net, twin, x, y)


def test_many_threads_may_predict_at_once() -> None:
    rng = np.random.default_rng(0)
    layers = [fnn.Dense(20, 64), fnn.BatchNorm(64), fnn.ReLU(), fnn.Dropout(0.5), fnn.Dense(64, 10)]
    net = fnn.Sequential(layers, seed=0)
    inputs = [rng.normal(size=(rows, 20)).astype(np.float32) for rows in (1, 17, 300, 1024, 1500, 2100)] * 4
    expected = [net.predict_proba(x).tobytes() for x in inputs]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(3):
            assert list(pool.map(lambda x: net.predict_proba(x).tobytes(), inputs)) == expected


# ------------------------------------------------------------------------------------------------------------ inputs

def strided(a: Array) -> Array:
    wide = np.zeros((2 * len(a), 3 * a.shape[1]), a.dtype)
    wide[::2, ::3] = a
    return wide[::2, ::3]


def misaligned(a: Array) -> Array:
    raw = np.zeros(a.nbytes + 1, np.uint8)
    out = raw[1:].view(a.dtype).reshape(a.shape)
    out[...] = a
    return out


def read_only(a: Array) -> Array:
    a = a.copy()
    a.flags.writeable = False
    return a


LAYOUTS: dict[str, Callable[[Array], Array]] = {
    "fortran": np.asfortranarray, "strided": strided, "misaligned": misaligned, "read-only": read_only,
    "reversed": lambda a: a[::-1].copy()[::-1], "swapped": lambda a: a.astype(a.dtype.newbyteorder()),
}
NUMBERS: dict[str, Callable[[Array], Array]] = {
    "float32": lambda a: a.astype(np.float32), "float64": lambda a: a, "bool": lambda a: a > 0,
    "uint8": lambda a: (30 * abs(a)).astype(np.uint8), "int8": lambda a: (30 * a).astype(np.int8),
    "int64": lambda a: (1e10 * a).astype(np.int64), "uint16": lambda a: (1e3 * abs(a)).astype(np.uint16),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("numbers", NUMBERS)
def test_inputs_of_any_kind_equal_their_conversion(numbers: str, layout: str, dtype: str) -> None:
    net = build("sigmoid_cross_entropy", dtype=dtype)
    x = NUMBERS[numbers](random_data("softmax_cross_entropy", 40)[0])
    y = random_data("sigmoid_cross_entropy", 40)[1] > 0.5
    given, converted = LAYOUTS[layout](x), np.ascontiguousarray(x.astype(dtype))
    before = given.tobytes()
    for method in (net.forward, net.predict, net.predict_proba):
        assert method(given).tobytes() == method(converted).tobytes()
    assert net.evaluate(given, LAYOUTS[layout](y)) == net.evaluate(converted, y.astype(dtype))
    loss, gradients = net.loss_and_gradients(given, LAYOUTS[layout](y))
    expected_loss, expected = net.loss_and_gradients(converted, y.astype(dtype))
    assert loss == expected_loss
    assert all(gradients[name].tobytes() == expected[name].tobytes() for name in expected)
    assert given.tobytes() == before


def test_memory_mapped_input(tmp_path: Path) -> None:
    net = build(dtype="float32")
    x = np.random.default_rng(0).integers(0, 256, (ROWS, 3), np.uint8)
    x.tofile(tmp_path / "x")
    mapped = np.memmap(tmp_path / "x", np.uint8, "r", shape=x.shape)
    p = net.predict_proba(mapped)
    assert type(p) is np.ndarray
    np.testing.assert_array_equal(p, net.predict_proba(x.astype(np.float32)))
    assert type(net.predict(mapped)) is np.ndarray


class Table:
    """Something that NumPy can make an array of, such as a data frame."""

    def __init__(self, a: Array) -> None:
        self.a = a

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return self.a if dtype is None else self.a.astype(dtype)


class Exported:
    """The same by DLPack alone."""

    def __init__(self, a: Array) -> None:
        self.a = a

    def __dlpack__(self, **options: Any) -> Any:
        return self.a.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self.a.__dlpack_device__()


@pytest.mark.parametrize("other", [Table, Exported])
@pytest.mark.parametrize("loss", LOSSES)
def test_anything_that_offers_an_array_is_an_input(loss: str, other: type) -> None:
    net, twin = build(loss), build(loss)
    x, y = random_data(loss)
    weights = np.arange(1.0, len(x) + 1)
    for name in ("forward", "predict", *(["predict_proba"] if loss != "mean_squared_error" else [])):
        result = getattr(net, name)(other(x))
        assert type(result) is np.ndarray
        np.testing.assert_array_equal(result, getattr(net, name)(x))
    assert net.evaluate(other(x), other(y)) == net.evaluate(x, y)
    assert net.loss_and_gradients(other(x), other(y))[0] == net.loss_and_gradients(x, y)[0]
    for n, f in ((net, other), (twin, lambda a: a)):
        n.fit(f(x), f(y), batch_size=3, sample_weight=f(weights), validation_data=(f(x), f(y)))
        n.train_step(f(x), f(y), fnn.SGD(), sample_weight=f(weights))
        n.refresh_statistics(f(x))
    assert_same_future(net, twin, x, y)
    state = twin.state_dict()
    net.load_state_dict({name: other(2 * a) for name, a in state.items()})
    assert all((a == 2 * state[name]).all() for name, a in net.state_dict().items())
    net.layers[0].weight = other(state["0.weight"])
    assert (net.layers[0].weight == state["0.weight"]).all()
    assert (fnn.Sequential([fnn.Dense(3, 2, init=other(np.eye(3, 2)))]).layers[0].weight == np.eye(3, 2)).all()


def matrix(a: Array) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return np.matrix(a)


BAD_X: list[tuple[Any, type[Exception]]] = [
    (None, TypeError), ("abc", TypeError), (3.0, TypeError), ({}, TypeError),
    ([[1.0, 2.0, 3.0]] * 6, ValueError), (matrix(np.ones((6, 3))), ValueError), (np.ma.ones((6, 3)), TypeError),
    (np.ones(18), ValueError), (np.ones((6, 3, 1)), ValueError), (np.float64(1), ValueError),
    (np.ones((6, 4)), ValueError), (np.ones((6, 0)), ValueError),
    *[(np.zeros((6, 3), dtype), TypeError) for dtype in ("float16", "complex", "object", "U1", "M8[s]", "f8,f8")],
]


@pytest.mark.parametrize(("x", "error"), BAD_X)
def test_bad_x_is_named_by_every_method(x: Any, error: type[Exception]) -> None:
    net = build()
    y = np.zeros(6, int)
    before = bits(net)
    calls: list[Callable[[], Any]] = [
        lambda: net.forward(x), lambda: net.forward(x, training=True), lambda: net.predict(x),
        lambda: net.predict_proba(x), lambda: net.evaluate(x, y), lambda: net.loss_and_gradients(x, y),
        lambda: net.train_step(x, y, fnn.SGD()), lambda: net.fit(x, y),
    ]
    for call in calls:
        with pytest.raises(error, match=r"^x: expected .*got"):
            call()
    assert bits(net) == before


BAD_Y: list[tuple[str, Any, type[Exception], str]] = [
    ("softmax_cross_entropy", None, TypeError, ""),
    ("softmax_cross_entropy", [0, 1, 2, 0, 1, 2], TypeError, ""),
    ("softmax_cross_entropy", np.ma.array([0, 1, 2, 0, 1, 2]), TypeError, ""),
    ("softmax_cross_entropy", np.zeros(6), ValueError, "float64"),
    ("softmax_cross_entropy", np.zeros(6, bool), ValueError, "bool"),
    ("softmax_cross_entropy", np.zeros(5, int), ValueError, r"\(6,\).*\(5,\)"),
    ("softmax_cross_entropy", np.zeros((6, 1), int), ValueError, r"\(6, 1\)"),
    ("softmax_cross_entropy", np.array([0, 1, 2, 3, 9, 0]), ValueError, r"got 3 at index 3"),
    ("softmax_cross_entropy", np.array([0, 1, -1, 3, 9, 0], np.int8), ValueError, r"got -1 at index 2"),
    ("softmax_cross_entropy", np.array([0, 2**64 - 1, 0, 0, 0, 0], np.uint64), ValueError,
     r"got 18446744073709551615 at index 1"),
    ("sigmoid_cross_entropy", None, TypeError, ""),
    ("sigmoid_cross_entropy", np.zeros(6), ValueError, "ndim 1"),
    ("sigmoid_cross_entropy", np.zeros((6, 2)), ValueError, r"3 columns.*\(6, 2\)"),
    ("sigmoid_cross_entropy", np.zeros((5, 3)), ValueError, "6.*5"),
    ("sigmoid_cross_entropy", np.full((6, 3), 1.5), ValueError, r"1\.5 at \(0, 0\)"),
    ("sigmoid_cross_entropy", np.full((6, 3), -1), ValueError, r"-1 at \(0, 0\)"),
    ("sigmoid_cross_entropy", np.where(np.arange(18) == 4, np.nan, 0).reshape(6, 3), ValueError, r"nan at \(1, 1\)"),
    ("mean_squared_error", None, TypeError, ""),
    ("mean_squared_error", [[0.0] * 3] * 6, ValueError, ""),
    ("mean_squared_error", np.zeros(6), ValueError, "ndim 1"),
    ("mean_squared_error", np.zeros((6, 2)), ValueError, r"\(6, 2\)"),
    ("mean_squared_error", np.zeros((7, 3)), ValueError, "6.*7"),
    ("mean_squared_error", np.zeros((6, 3), complex), TypeError, "complex128"),
]


@pytest.mark.parametrize(("loss", "y", "error", "message"), BAD_Y)
def test_bad_y_is_named_by_every_method(loss: str, y: Any, error: type[Exception], message: str) -> None:
    net = build(loss)
    x = random_data(loss)[0]
    before = bits(net)
    calls: list[Callable[[], Any]] = [
        lambda: net.evaluate(x, y), lambda: net.loss_and_gradients(x, y), lambda: net.train_step(x, y, fnn.SGD()),
        lambda: net.fit(x, y),
    ]
    for call in calls:
        with pytest.raises(error, match=rf"^y: expected .*{message}"):
            call()
    assert bits(net) == before


# --------------------------------------------------------------------------------------------------------- memory

@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_memory_is_what_the_arrays_take(dtype: str) -> None:
    net = fnn.Sequential(
        [fnn.Dense(100, 70), fnn.BatchNorm(70), fnn.ReLU(), fnn.Dropout(0.2), fnn.Dense(70, 10)], dtype=dtype, seed=0)
    x, y = np.zeros((50, 100)), np.zeros(50, np.int64)
    for optimizer in (fnn.SGD(), fnn.SGD(momentum=0.9), fnn.SGD(clip_norm=1.0), fnn.Adam(), fnn.AdamW(clip_norm=1.0)):
        twin = fnn.Sequential(
            [fnn.Dense(100, 70), fnn.BatchNorm(70), fnn.ReLU(), fnn.Dropout(0.2), fnn.Dense(70, 10)], dtype=dtype, seed=0)
        twin.train_step(x + np.random.default_rng(0).normal(size=x.shape), y, optimizer)
        plan = twin._plan
        arrays = [plan.parameters, plan.statistics, plan._snapshot, plan.workspace(50).memory]
        arrays += [a for a in (twin._velocity, twin._second_moment, plan._gradients) if a is not None]
        assert net.memory(50, optimizer=optimizer) == sum(a.nbytes for a in arrays)
    assert net.memory(51) > net.memory(50) >= net.n_parameters * net.dtype.itemsize
    with pytest.raises(ValueError, match=r"^batch_size: "):
        net.memory(0)
    with pytest.raises(TypeError, match=r"^optimizer: expected a fastnn.SGD, Adam or AdamW, got str$"):
        net.memory(50, optimizer="sgd")     # type: ignore[arg-type]
