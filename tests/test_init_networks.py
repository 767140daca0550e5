"""What `fastnn.init` does with whole networks: `lsuv`, `output_bias`, `equal_units`, and the warning of the constructor."""

import copy
import functools
import threading
import warnings

import numpy as np
import pytest
from conftest import DTYPES, FLOAT32, FLOAT64, assert_near, assert_refused, assert_same_bits, normal

import fastnn as fnn
from fastnn import BatchNorm, Dense, Dropout, ReLU, Sequential, Sigmoid, Tanh, init, reference

ONES = functools.partial(init.constant, value=1.0)


def assert_untouched(net, before):
    assert_same_bits(list(net.state_dict().values()), list(before.values()), "nothing has changed")


# ---------------------------------------------------------------------------------------------------------------- lsuv

def pre_activations(net, x):
    """What each dense layer gives in training mode without dropout, in float64."""
    h = x.astype(FLOAT64)
    state = {name: a.astype(FLOAT64) for name, a in net.state_dict().items()}
    result = {}
    for i, layer in enumerate(net.layers):
        if isinstance(layer, Dense):
            h = result[i] = h @ state[f"{i}.weight"] + state.get(f"{i}.bias", 0.0)
        elif isinstance(layer, BatchNorm):
            h = reference.batchnorm_forward(h, state[f"{i}.gamma"], state[f"{i}.beta"], eps=layer.eps)[0]
        elif not isinstance(layer, Dropout):
            h = reference.activation_forward(h, layer.kind)
    return result


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layers", [
    lambda: [Dense(30, 50), ReLU(), Dense(50, 50), ReLU(), Dense(50, 20), ReLU(), Dense(20, 10)],
    lambda: [Dropout(0.2), Dense(30, 50, init="he_normal"), Tanh(), Dropout(0.5), Dense(50, 10, init="fan_in_uniform")],
    lambda: [Dense(30, 40, bias=False), BatchNorm(40), Sigmoid(), Dense(40, 40), BatchNorm(40), Sigmoid(), Dense(40, 10)],
    lambda: [BatchNorm(30), Dense(30, 8, init="orthogonal"), Dense(8, 8)],
])
def test_lsuv_gives_unit_variances_and_orthogonal_weights(layers, dtype, rng):
    net = Sequential(layers(), dtype=dtype, seed=3)
    x = (normal(rng, dtype, 200, 30) * 3 + 1).astype(dtype)
    before = net.state_dict()
    report = init.lsuv(net, x, tol=1e-3)
    dense = [i for i, layer in enumerate(net.layers) if isinstance(layer, Dense)]
    assert [entry["layer"] for entry in report] == dense
    variances = {i: z.var() for i, z in pre_activations(net, x).items()}
    for entry in report:
        assert set(entry) == {"layer", "variance", "iterations"}
        i = entry["layer"]
        assert entry["variance"] == pytest.approx(variances[i], rel=1e-4)
        assert abs(entry["variance"] - 1) < 1e-3
        assert entry["iterations"] in (0, 1), "biases are zero: one division is exact"
        # columns, or rows where these are fewer, are orthogonal and of one length
        w = net.layers[i].weight.astype(FLOAT64)
        gram = w.T @ w if w.shape[0] >= w.shape[1] else w @ w.T
        np.testing.assert_allclose(gram, np.eye(len(gram)) * gram[0, 0], atol=1e-5 * gram[0, 0])
    for name, a in net.state_dict().items():
        if not name.endswith("weight"):
            assert_same_bits(a, before[name], name)


def test_lsuv_starts_from_the_weights_of_the_network(rng):
    """So its seed decides, an orthonormal matrix is its own, and no generator moves."""
    x = normal(rng, FLOAT64, 100, 12)
    nets = [Sequential([Dense(12, 12, init=kind), Tanh(), Dense(12, 5)], dtype="float64", seed=seed)
            for kind, seed in (("orthogonal", 0), ("orthogonal", 0), ("orthogonal", 1))]
    before = nets[0].layers[0].weight.copy()
    twin = copy.deepcopy(nets[0])
    for net in nets:
        init.lsuv(net, x)
    assert_same_bits(nets[0].layers[0].weight.copy(), nets[1].layers[0].weight.copy(), "the same seed")
    assert not np.array_equal(nets[0].layers[0].weight, nets[2].layers[0].weight)
    scaled = nets[0].layers[0].weight
    np.testing.assert_allclose(scaled / scaled[0, 0] * before[0, 0], before, atol=1e-12)
    y = rng.integers(0, 5, 100)
    twin.load_state_dict(nets[0].state_dict())
    for net in (nets[0], twin):
        net.fit(x, y)
    assert_same_bits(list(nets[0].state_dict().values()), list(twin.state_dict().values()), "the order of the rows")


def test_lsuv_stops_at_the_tolerance_and_after_so_many_divisions(rng):
    x = normal(rng, FLOAT64, 500, 40)
    net = Sequential([Dense(40, 40), Tanh(), Dense(40, 5)], dtype="float64", seed=0)
    report = init.lsuv(net, x)
    # orthonormal weights give white rows a variance of 1, and so does one division; tanh takes some
    assert [entry["iterations"] for entry in report] == [0, 1]
    assert all(abs(entry["variance"] - 1) < 0.1 for entry in report)
    np.testing.assert_allclose(net.layers[0].weight.T @ net.layers[0].weight, np.eye(40), atol=1e-12)
    # a bias of a variance above 1: no weights give less
    net.layers[0].bias = np.arange(40.0)
    for most in (1, 4):
        entry = init.lsuv(net, x, max_iter=most)[0]
        assert entry["iterations"] == most
        assert entry["variance"] > 100
    # one of less: the divisions go on until it fits
    net.layers[0].bias = 0.6 * np.resize([1.0, -1.0], 40)
    entry = init.lsuv(net, x * 5, tol=1e-6, max_iter=100)[0]
    assert entry["iterations"] > 2
    assert abs(entry["variance"] - 1) < 1e-6


def test_lsuv_takes_rows_of_any_type(rng):
    x = rng.integers(0, 9, (50, 6))
    nets = [Sequential([Dense(6, 6), ReLU(), Dense(6, 3)], seed=0) for _ in range(3)]
    for net, given in zip(nets, (x, x.astype(np.float32), np.asfortranarray(x.astype(">f8"))), strict=True):
        init.lsuv(net, given)
    for net in nets[1:]:
        assert_same_bits(list(net.state_dict().values()), list(nets[0].state_dict().values()), "converted")


def test_lsuv_refuses_and_changes_nothing(rng):
    x = normal(rng, FLOAT32, 20, 4)
    net = Sequential([Dense(4, 6), BatchNorm(6), ReLU(), Dense(6, 3)], seed=0)
    before = net.state_dict()
    assert_refused(TypeError, "net", init.lsuv, net.layers, x)
    assert_refused(ValueError, "x", init.lsuv, net, x[:, :3])
    assert_refused(ValueError, "x", init.lsuv, net, x[:0])
    assert_refused(ValueError, "x", init.lsuv, net, x[:1])
    assert_refused(ValueError, "x", init.lsuv, net, np.where(x > 1, np.nan, x))
    for name, value, error in (
        ("tol", 0.0, ValueError), ("tol", -1, ValueError), ("tol", np.nan, ValueError), ("tol", "0.1", TypeError),
        ("max_iter", 0, ValueError), ("max_iter", 2.0, TypeError),
    ):
        assert_refused(error, name, init.lsuv, net, x, **{name: value})
    with pytest.raises(TypeError):
        init.lsuv(net, x, 0.1)
    assert_untouched(net, before)


def test_lsuv_names_the_layer_that_gives_no_variance(rng):
    x = normal(rng, FLOAT32, 20, 4)
    net = Sequential([Dense(4, 6), ReLU(), Dense(6, 3)], seed=0)
    net.layers[0].bias = np.full(6, -100.0)      # no relu is ever on
    before = net.state_dict()
    assert_refused(ValueError, "layers[2]", init.lsuv, net, x)
    assert_refused(ValueError, "layers[0]", init.lsuv, Sequential([Dense(4, 3)], seed=0), np.zeros((9, 4)))
    assert_refused(ValueError, "layers[0]", init.lsuv, Sequential([Dense(4, 3)], seed=0), x * np.float32(1e-42))
    assert_refused(ValueError, "layers[0]", init.lsuv, Sequential([Dense(4, 3)], dtype="float64"), x.astype(float) * 1e200)
    assert_untouched(net, before)


@pytest.mark.parametrize("kind", ["zeros", ONES, np.diag([1.0, 1.0, 0.0, 1.0])])
def test_lsuv_needs_weights_of_full_rank(kind, rng):
    net = Sequential([Dense(4, 4), Tanh(), Dense(4, 4, init=kind)], seed=0)
    before = net.state_dict()
    assert_refused(ValueError, "layers[2]", init.lsuv, net, normal(rng, FLOAT32, 20, 4))
    assert_untouched(net, before)


def test_deep_relu_layers_keep_the_signal_after_lsuv(rng):
    """30 layers, at a variance of 1 each, where Xavier's weights lose a factor of 2^15 in size (experiments, E8)."""
    layers = [Dense(64, 64, init="xavier_uniform") if i % 2 == 0 else ReLU() for i in range(60)]
    net = Sequential([*layers, Dense(64, 10)], seed=0)
    x = normal(rng, FLOAT32, 256, 64)
    assert np.std(net.forward(x)) < 1e-3
    init.lsuv(net, x)
    assert 0.9 < np.std(net.forward(x)) < 1.1


# --------------------------------------------------------------------------------------------------------- output_bias

@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_softmax_starts_with_the_frequencies(dtype):
    y = np.repeat([0, 1, 2, 3], [50, 30, 15, 5]).astype(np.uint8)
    net = Sequential([Dense(3, 6), Tanh(), Dense(6, 4, init="zeros")], dtype=dtype, seed=0)
    before = net.state_dict()
    assert init.output_bias(net, y) is None
    frequencies = np.array([0.5, 0.3, 0.15, 0.05], dtype)
    assert_near(net.predict_proba(np.ones((2, 3)))[1], frequencies, 4, "predictions")
    assert_near(np.array(net.layers[2].bias), np.log([0.5, 0.3, 0.15, 0.05]).astype(dtype), 2, "logarithms")
    # the loss is the entropy of the classes
    entropy = -np.sum([0.5, 0.3, 0.15, 0.05] * np.log([0.5, 0.3, 0.15, 0.05]))
    assert net.evaluate(np.ones((100, 3)), y)["loss"] == pytest.approx(entropy, rel=1e-6)
    for name, a in net.state_dict().items():
        if name != "2.bias":
            assert_same_bits(a, before[name], name)


def test_a_class_without_a_row_counts_as_half_a_row():
    net = Sequential([Dense(3, 4, init="zeros")], dtype="float64")
    init.output_bias(net, np.array([0, 0, 2]))
    np.testing.assert_allclose(net.predict_proba(np.ones((1, 3)))[0], np.array([2, 0.5, 1, 0.5]) / 4, rtol=1e-14)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_sigmoid_starts_with_the_means(dtype):
    net = Sequential([Dense(3, 4, init="zeros")], dtype=dtype, loss="sigmoid_cross_entropy")
    y = np.array([[1, 0, 0, 1], [1, 0, 1, 1], [0, 0, 0.5, 1], [1, 0, 0.5, 1]])
    init.output_bias(net, y)
    # means of 0 and 1 are held half a row of four away
    np.testing.assert_allclose(net.predict_proba(np.ones((1, 3)))[0], [0.75, 0.125, 0.5, 0.875], rtol=1e-6)
    init.output_bias(net, y > 0.7)
    np.testing.assert_allclose(net.predict_proba(np.ones((1, 3)))[0], [0.75, 0.125, 0.25, 0.875], rtol=1e-6)
    init.output_bias(net, np.ones((1, 4)))
    np.testing.assert_array_equal(net.layers[0].bias, 0)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_squared_error_starts_with_the_mean(dtype, rng):
    net = Sequential([Dense(3, 2, init="zeros")], dtype=dtype, loss="mean_squared_error")
    y = (rng.standard_normal((1000, 2)) + np.array([1e4, -3])).astype(np.float32)
    init.output_bias(net, y)
    assert_near(net.predict(np.ones((1, 3)))[0], y.mean(axis=0, dtype=float).astype(dtype), 1, "mean")


def test_output_bias_refuses_and_changes_nothing():
    labels = np.array([0, 1, 2])
    net = Sequential([Dense(3, 3)], seed=0)
    before = net.state_dict()
    assert_refused(TypeError, "net", init.output_bias, None, labels)
    for y in (np.array([0, 3]), np.array([-1, 0]), np.array([0.0, 1.0]), labels[:0], labels[:, None], np.array(1)):
        assert_refused(ValueError, "y", init.output_bias, net, y)
    assert_refused(TypeError, "y", init.output_bias, net, [0, 1, 2])
    for layers in ([Dense(3, 3, bias=False)], [Dense(3, 3), BatchNorm(3)], [Dense(3, 3), Tanh()], [Dense(3, 3), Dropout(0.1)]):
        assert_refused(ValueError, "net", init.output_bias, Sequential(layers), labels)
    other = Sequential([Dense(3, 2)], loss="sigmoid_cross_entropy")
    for y, error in ((np.full((3, 2), 1.5), ValueError), (np.full((3, 2), np.nan), ValueError), (np.ones((3, 3)), ValueError),
                     (np.ones((0, 2)), ValueError), (labels, ValueError), (None, TypeError)):
        assert_refused(error, "y", init.output_bias, other, y)
    other = Sequential([Dense(3, 1)], loss="mean_squared_error")
    for value in (np.nan, np.inf, 1e300):
        assert_refused(ValueError, "y", init.output_bias, other, np.array([[0.0], [value]]))
    np.testing.assert_array_equal(other.layers[0].bias, 0)
    assert_untouched(net, before)


def test_a_busy_network_is_refused(rng):
    x, y = normal(rng, FLOAT32, 4000, 50), rng.integers(0, 3, 4000)
    net = Sequential([Dense(50, 50), Tanh(), Dense(50, 3)], seed=0)
    net._holder["by"] = threading.current_thread()
    for call in (lambda: init.lsuv(net, x), lambda: init.output_bias(net, y)):
        with pytest.raises(RuntimeError, match="busy"):
            call()
    np.testing.assert_array_equal(net.layers[2].bias, 0)


# ---------------------------------------------------------------------------------------------------------- equal units

def silent(layers, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Sequential(layers, **options)


def test_random_units_are_not_equal():
    net = Sequential(
        [Dense(5, 40), Tanh(), Dense(40, 30, init="orthogonal"), BatchNorm(30), Dense(30, 4, init="zeros")], seed=0)
    assert init.equal_units(net) == {0: [], 2: []}
    assert init.equal_units(Sequential([Dense(3, 2, init="zeros")])) == {}


def test_groups_of_equal_units():
    weight = np.arange(18.0).reshape(3, 6)
    weight[:, [2, 5]] = weight[:, [0, 0]]
    weight[:, 4] = weight[:, 1]
    net = silent([Dense(3, 6, init=weight), Tanh(), Dense(6, 4, init=ONES), Dense(4, 2)], seed=0)
    assert init.equal_units(net) == {0: [[0, 2, 5], [1, 4]], 2: [[0, 1, 2, 3]]}


def test_what_tells_units_apart():
    """A weight, a bias, and the scale or shift of a batch norm before the next dense layer; not what comes later."""
    for layer, name in ((0, "weight"), (0, "bias"), (2, "gamma"), (2, "beta")):
        net = silent([Dense(3, 3, init=ONES), Tanh(), BatchNorm(3), Dense(3, 3), Dense(3, 2)], seed=0)
        assert init.equal_units(net)[0] == [[0, 1, 2]]
        array = getattr(net.layers[layer], name)
        array[..., 1] = np.nextafter(array[..., 1], FLOAT32.type(9))
        assert init.equal_units(net)[0] == [[0, 2]], name
    net.layers[2].beta = np.zeros(3)
    net.layers[3].bias = np.arange(3.0)
    assert init.equal_units(net)[0] == [[0, 1, 2]]
    net.layers[0].weight = [[0.0, -0.0, 0.0]] * 3
    assert init.equal_units(net)[0] == [[0, 1, 2]], "both zeros are zero"


def test_equal_units_of_a_wide_layer(rng):
    weight = rng.standard_normal((2, 700))
    weight[:, [500, 699]] = weight[:, [3]]
    assert init.equal_units(silent([Dense(2, 700, init=weight), Dense(700, 2)], dtype="float64")) == {0: [[3, 500, 699]]}


def test_equal_units_of_what_is_no_network():
    assert_refused(TypeError, "net", init.equal_units, [Dense(3, 2)])


@pytest.mark.parametrize("kind", ["zeros", ONES, np.full((3, 4), 0.5), lambda shape, *, rng, dtype: np.ones(shape)])
def test_the_constructor_warns_of_hidden_units_that_start_equal(kind):
    with pytest.warns(UserWarning, match=r"^hidden units start equal: 4 of the 4 in layers\[1\], such as 0 and 1\.") as caught:
        Sequential([BatchNorm(3), Dense(3, 4, init=kind), Tanh(), Dense(4, 2)])
    assert len(caught) == 1
    assert caught[0].filename == __file__, "the line that made the network"


def test_one_warning_names_all_layers():
    weight = np.arange(12.0).reshape(3, 4)
    weight[:, 3] = weight[:, 1]
    with pytest.warns(UserWarning) as caught:
        Sequential([
            Dense(3, 4, init=weight), Tanh(), Dense(4, 5), Tanh(), Dense(5, 6, init="zeros"), Dense(6, 2, init="zeros")])
    text, = (str(w.message) for w in caught)
    assert "2 of the 4 in layers[0], such as 1 and 3; 6 of the 6 in layers[4], such as 0 and 1" in text


@pytest.mark.parametrize("layers", [
    lambda: [Dense(3, 4), Tanh(), Dense(4, 2, init="zeros")],           # the last layer may be zero
    lambda: [Dense(3, 1, init="zeros"), Tanh(), Dense(1, 2)],           # one unit
    lambda: [Dense(3, 4, init=np.arange(12.0).reshape(3, 4)), Dense(4, 2)],
    lambda: [Dense(3, 4, init=functools.partial(init.normal, std=0.01)), Dense(4, 2)],
    lambda: [Dense(3, 2, init="zeros"), BatchNorm(2)],
])
def test_the_constructor_is_silent_otherwise(layers):
    Sequential(layers())


def test_random_initialisers_are_not_looked_at(monkeypatch):
    monkeypatch.setattr(fnn.symmetry, "groups", lambda *_: pytest.fail("looked at"))
    for kind in fnn.layers.INITIALISERS:
        if kind not in ("zeros", "sparse"):
            Sequential([Dense(20, 20, init=kind), Dense(20, 20, init="sparse"), Dense(20, 3)])


def test_copies_and_loading_do_not_warn():
    net = silent([Dense(3, 4, init="zeros"), Tanh(), Dense(4, 2)], seed=0)
    other = Sequential([Dense(3, 4), Tanh(), Dense(4, 2)])
    other.load_state_dict(net.state_dict())
    assert init.equal_units(other) == init.equal_units(copy.deepcopy(net)) == {0: [[0, 1, 2, 3]]}


def test_a_warning_that_is_an_error_leaves_the_layers_free():
    layers = [Dense(3, 4, init="zeros"), Tanh(), Dense(4, 2)]
    with pytest.raises(UserWarning, match="start equal"):
        Sequential(layers)
    silent(layers)


def test_equal_units_stay_equal_where_what_leaves_them_is(rng):
    """And part where it differs: what the documentation says of the report."""
    x, y = normal(rng, FLOAT64, 64, 5), rng.integers(0, 3, 64)
    for outgoing, groups in ((init.constant((4, 3), value=0.3, dtype=float), [[0, 1, 2, 3]]), ("xavier_uniform", [])):
        net = silent([Dense(5, 4, init=ONES), Tanh(), Dense(4, 3, init=outgoing)], dtype="float64", seed=0)
        net.fit(x, y, epochs=5, optimizer=fnn.SGD(lr=0.1, momentum=0.9))
        assert init.equal_units(net)[0] == groups
