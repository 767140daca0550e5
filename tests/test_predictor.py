"""`Predictor`: the bits of the network, for rows of any kind and from any thread; nothing of it changes."""

import copy
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from conftest import DTYPES, FLOAT32, LAYOUTS, assert_same_bits, normal

import fastnn as fnn
from fastnn import BatchNorm, Dense, Dropout, Predictor, ReLU, Sequential, Tanh

LOSSES = ("softmax_cross_entropy", "sigmoid_cross_entropy", "mean_squared_error")


def network(loss="softmax_cross_entropy", dtype=FLOAT32, sizes=(6, 33, 17, 4)):
    """A trained network with everything in it."""
    a, b, c, d = sizes
    net = Sequential(
        [BatchNorm(a), Dense(a, b, bias=False), BatchNorm(b), ReLU(), Dropout(0.2), Dense(b, c), Tanh(), Dense(c, d)],
        loss=loss, dtype=dtype, seed=0)
    train(net)
    return net


def train(net):
    rng = np.random.default_rng(0)
    x = normal(rng, net.dtype, 64, net.n_in)
    y = rng.integers(0, net.n_out, 64) if net.loss == LOSSES[0] else rng.random((64, net.n_out))
    net.fit(x, y, epochs=2, optimizer=fnn.SGD(lr=0.1, momentum=0.9))


def answers(net, x):
    """What a network or a predictor says."""
    outputs = net.outputs if isinstance(net, Predictor) else net.forward
    return [outputs(x), net.predict(x), *([] if net.loss == "mean_squared_error" else [net.predict_proba(x)])]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("loss", LOSSES)
def test_the_bits_are_those_of_the_network(rng, loss, dtype):
    net = network(loss, dtype)
    predictor = net.predictor()
    assert (predictor.n_in, predictor.n_out, predictor.loss, predictor.dtype) == (6, 4, loss, dtype)
    for rows in (0, 1, 2, 7, 127, 128, 129, 1000):
        x = normal(rng, dtype, rows, 6)
        assert_same_bits(answers(predictor, x), answers(net, x), f"{rows} rows")
    whole = normal(rng, dtype, 9, 6)
    for kind in (np.float32, np.float64, np.int16, bool):
        for layout in LAYOUTS.values():
            x = layout((3 * whole).astype(kind))
            assert_same_bits(answers(predictor, x), answers(net, np.ascontiguousarray(x.astype(dtype))), f"{kind} {layout}")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_answers_are_made_of_the_outputs(rng, dtype):
    """By NumPy, whatever way an answer takes: few rows and many, ordinary numbers and others."""
    for rows in (1, 5, 700):
        x = normal(rng, dtype, rows, 6)
        z, labels, p = answers(network(dtype=dtype).predictor(), x)
        exact = np.exp(z.astype(np.longdouble) - z.max(axis=1, keepdims=True))
        exact /= exact.sum(axis=1, keepdims=True)
        assert_same_bits(labels, z.argmax(axis=1), "labels")
        assert p.dtype == dtype and np.abs(p / exact - 1).max() <= (1 if dtype == FLOAT32 else 8) * np.finfo(dtype).eps
        z, labels, p = answers(network("sigmoid_cross_entropy", dtype).predictor(), x)
        assert_same_bits(labels, (z > 0).astype(np.intp), "labels")
        assert_same_bits(p, fnn.activation_forward(z, "sigmoid"), "probabilities")


@pytest.mark.parametrize("z", [
    [3, 3, 1], [-np.inf, -np.inf, -np.inf], [1, np.nan, 2, np.nan], [np.nan, np.inf], [np.inf, 1, np.inf], [0, -0.0],
    [-1e30, 1e30, 3], [2], [1, 2, np.inf, -np.inf],
], ids=str)
def test_labels_of_unusual_outputs(z):
    z = np.array([z], np.float32)
    for loss, labels in (("softmax_cross_entropy", z.argmax(axis=1)), ("sigmoid_cross_entropy", (z > 0).astype(np.intp))):
        net = Sequential([Dense(1, z.size)], loss=loss)
        net.load_state_dict({"0.weight": np.zeros((1, z.size)), "0.bias": z[0]})
        for x in (np.zeros((1, 1), np.float32), np.zeros((1, 1), np.int8)):     # the quick way and the careful one
            assert_same_bits(net.predict(x), labels, loss)
            np.testing.assert_array_equal(net.forward(x), z)
    with np.errstate(invalid="ignore"):
        e = np.exp(z - z.max())
    net = Sequential([Dense(1, z.size)])
    net.load_state_dict({"0.weight": np.zeros((1, z.size)), "0.bias": z[0]})
    np.testing.assert_allclose(net.predict_proba(x), e / e.sum(), rtol=1e-6)


def test_many_classes(rng):
    net = Sequential([Dense(3, 1500)], seed=0)
    z = net.forward(x := normal(rng, FLOAT32, 2, 3))
    exact = np.exp(z.astype(np.float64))
    np.testing.assert_allclose(net.predict_proba(x), exact / exact.sum(axis=1, keepdims=True), rtol=2e-7)
    assert_same_bits(net.predict(x), z.argmax(axis=1), "labels")


@pytest.mark.parametrize("width", [3000, 40_000])
def test_wide_networks(rng, width):
    """A row of which fills the memory of the quick way, or more."""
    net = Sequential([Dense(2, width), ReLU(), Dense(width, 2)], seed=0)
    weights = [a.astype(np.float64) for a in net.state_dict().values()]
    for rows in (1, 20):
        x = normal(rng, FLOAT32, rows, 2)
        expected = np.maximum(x @ weights[0] + weights[1], 0) @ weights[2] + weights[3]
        np.testing.assert_allclose(net.predictor().outputs(x), expected, rtol=1e-4, atol=1e-5)


def test_training_goes_on_without_it(rng):
    net = network()
    predictor = net.predictor()
    x = normal(rng, FLOAT32, 5, 6)
    before = answers(predictor, x)
    train(net)
    assert_same_bits(answers(predictor, x), before, "the predictor")
    assert (net.forward(x) != before[0]).any()


def test_nothing_of_it_can_be_changed():
    predictor = network().predictor()
    for name in ("loss", "dtype", "n_in", "n_out", "_layers", "_inference", "weight", "predict"):
        with pytest.raises(AttributeError, match=f"^{name}: a Predictor cannot be changed"):
            setattr(predictor, name, 1)
        with pytest.raises(AttributeError, match=f"^{name}: "):
            delattr(predictor, name)
    assert not hasattr(predictor, "__dict__")
    predictor.__init__()    # which is object's
    for layer in predictor._layers:
        for name, a in (layer.parameters | layer.statistics).items():
            with pytest.raises(ValueError, match="read-only"):
                a[...] = 0
            with pytest.raises(ValueError, match="WRITEABLE"):
                a.flags.writeable = True
            with pytest.raises(ValueError, match="read-only"):
                setattr(layer, name, a)


@pytest.mark.parametrize("copied", [
    copy.copy, copy.deepcopy,
    *(lambda p, n=n: pickle.loads(pickle.dumps(p, n)) for n in range(2, pickle.HIGHEST_PROTOCOL + 1))])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_copies_and_pickles(rng, copied, dtype):
    net = network("sigmoid_cross_entropy", dtype)
    predictor = net.predictor()
    twin = copied(predictor)
    x = normal(rng, dtype, 5, 6)
    assert type(twin) is Predictor and repr(twin) == repr(predictor)
    assert_same_bits(answers(twin, x), answers(net, x), "the copy")
    assert twin.dtype is predictor.dtype    # NumPy's own object
    with pytest.raises(AttributeError):
        twin.loss = "mean_squared_error"
    assert not twin._layers[1].weight.flags.writeable


def test_an_initialiser_need_not_be_picklable(rng):
    layers = [Dense(2, 3, init=lambda shape, rng, dtype: rng.random(shape)), Dense(3, 2, init=np.eye(3, 2))]
    net = Sequential(layers, seed=0)
    x = normal(rng, FLOAT32, 1, 2)
    twin = pickle.loads(pickle.dumps(net.predictor()))
    assert_same_bits(twin.outputs(x), net.forward(x), "the copy")
    assert callable(net.layers[0].init)


@pytest.mark.parametrize("loss", LOSSES)
def test_folded(rng, loss):
    net = network(loss)
    predictor = net.predictor(fold=True)
    assert "BatchNorm" not in repr(predictor) and "Dropout" not in repr(predictor) and "BatchNorm" in repr(net.predictor())
    x = normal(rng, FLOAT32, 3, 6)
    assert_same_bits(answers(predictor, x), answers(net.fold_batchnorm(), x), "folded")
    np.testing.assert_allclose(predictor.outputs(x), net.forward(x), rtol=1e-4, atol=1e-5)
    net.layers[2].running_var = np.full(33, 1e-30)
    net.layers[2].gamma = np.full(33, 3e38)
    with pytest.raises(ValueError, match=r"^0\.weight: .* in the folded network"):
        net.predictor(fold=True)


def test_sixteen_threads_with_one_predictor(rng):
    predictor = network().predictor()
    inputs = [normal(rng, FLOAT32, rows, 6) for rows in (1, 1, 1, 2, 3, 50, 128, 300)]
    expected = [answers(predictor, x) for x in inputs]
    together = threading.Barrier(16)

    def hammer(number):
        together.wait()
        for turn in range(150):
            which = (number + turn) % len(inputs)
            assert_same_bits(answers(predictor, inputs[which]), expected[which], f"thread {number}, turn {turn}")

    with ThreadPoolExecutor(16) as pool:
        for done in [pool.submit(hammer, number) for number in range(16)]:
            done.result()


def test_while_the_network_is_in_training(rng):
    net = network()
    x = normal(rng, FLOAT32, 3, 6)
    seen = []

    def look(run):
        seen.append((net.predictor(), net.predictor(fold=True), net.forward(x)))
        with ThreadPoolExecutor(1) as pool, pytest.raises(RuntimeError, match="busy"):
            pool.submit(net.predictor).result()

    net.fit(normal(rng, FLOAT32, 20, 6), np.arange(20) % 4, epochs=2, callbacks=[look])
    assert len(seen) == 2
    for predictor, folded, outputs in seen:
        assert_same_bits(predictor.outputs(x), outputs, "of that epoch")
        np.testing.assert_allclose(folded.outputs(x), outputs, rtol=1e-4, atol=1e-5)


BAD = [
    None, "abc", 3.0, {}, [[1.0] * 6], np.ma.ones((2, 6)), np.ones(6), np.ones((2, 6, 1)), np.ones((2, 5)), np.ones((0, 5)),
    np.ones((2, 6), complex), np.ones((2, 6), "f2"), np.float64(1), object(),
]


def test_arguments_are_refused_as_by_the_network():
    net = network()
    predictor = net.predictor()
    for x in BAD:
        for asked, of_net in (
            (predictor.predict, net.predict), (predictor.predict_proba, net.predict_proba), (predictor.outputs, net.forward)):
            with pytest.raises((TypeError, ValueError), match=r"^x: expected") as of_predictor:
                asked(x)
            with pytest.raises((TypeError, ValueError)) as error:
                of_net(x)
            assert type(of_predictor.value) is type(error.value) and str(of_predictor.value) == str(error.value)
    with pytest.raises(ValueError, match=r"^loss: .*mean_squared_error"):
        network("mean_squared_error").predictor().predict_proba(np.ones((2, 6)))


def test_arguments_of_the_constructor():
    net = network()
    assert repr(Predictor(net, fold=True)) == repr(net.predictor(fold=True))
    with pytest.raises(TypeError, match=r"^net: expected a fastnn.Sequential, got str"):
        Predictor("net")
    for make in (net.predictor, lambda fold: Predictor(net, fold=fold)):
        with pytest.raises(TypeError, match=r"^fold: expected True or False"):
            make(fold=1)
