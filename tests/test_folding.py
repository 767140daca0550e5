"""`Sequential.fold_batchnorm`: the structure of the folded network, its outputs, and what it refuses."""

import copy
import pickle

import numpy as np
import pytest
from conftest import DTYPES, EPS, FLOAT32, FLOAT64, assert_same_bits, normal
from plain import Plain

import fastnn as fnn
from fastnn import Activation, BatchNorm, Dense, Dropout, ReLU, Sequential, Sigmoid, Tanh

LIMIT = 1e-6        # of the magnitude of the outputs


def trained(layers, dtype, loss="softmax_cross_entropy"):
    rng = np.random.default_rng(0)
    net = Sequential(layers, loss=loss, dtype=dtype, seed=0)
    x = (normal(rng, dtype, 200, net.n_in) * 2 + 1).astype(dtype)
    y = rng.integers(0, net.n_out, 200) if loss == "softmax_cross_entropy" else rng.random((200, net.n_out))
    net.fit(x, y, epochs=3, optimizer=fnn.SGD(lr=0.1, momentum=0.9))
    return net, x, y


# layers, and what becomes of them
CASES = {
    "dense, norm": (
        lambda: [Dense(6, 9, bias=False), BatchNorm(9), ReLU(), Dense(9, 3)], ["Dense(6, 9)", "ReLU()", "Dense(9, 3)"]),
    "with a bias": (lambda: [Dense(6, 9), BatchNorm(9), Tanh(), Dense(9, 3)], ["Dense(6, 9)", "Tanh()", "Dense(9, 3)"]),
    "norm first": (
        lambda: [BatchNorm(6), Dense(6, 9, bias=False), Tanh(), Dense(9, 3)], ["Dense(6, 9)", "Tanh()", "Dense(9, 3)"]),
    "norm behind the activation": (
        lambda: [Dense(6, 9), Sigmoid(), BatchNorm(9), Dense(9, 3)], ["Dense(6, 9)", "Sigmoid()", "Dense(9, 3)"]),
    "norm last": (
        lambda: [Dense(6, 9), ReLU(), Dense(9, 3, bias=False), BatchNorm(3)], ["Dense(6, 9)", "ReLU()", "Dense(9, 3)"]),
    "between two dense layers": (lambda: [Dense(6, 9), BatchNorm(9), Dense(9, 3)], ["Dense(6, 9)", "Dense(9, 3)"]),
    "several in a row": (
        lambda: [
            BatchNorm(6), BatchNorm(6), Dense(6, 9), BatchNorm(9), BatchNorm(9), Tanh(), BatchNorm(9), BatchNorm(9),
            Dense(9, 3)],
        ["Dense(6, 9)", "Tanh()", "Dense(9, 3)"]),
    "one on either side": (
        lambda: [BatchNorm(6), Dense(6, 9, bias=False), BatchNorm(9), ReLU(), Dense(9, 3, bias=False)],
        ["Dense(6, 9)", "ReLU()", "Dense(9, 3, bias=False)"]),
    "dropout between": (
        lambda: [
            Dropout(0.1), Dense(6, 9), Dropout(0.2), BatchNorm(9), Tanh(), Dropout(0.3), BatchNorm(9), Dropout(0.4),
            Dense(9, 3)],
        ["Dense(6, 9)", "Tanh()", "Dense(9, 3)"]),
    "identity between": (lambda: [Dense(6, 9), Activation("identity"), BatchNorm(9), ReLU(), Dense(9, 3)],
                         ["Dense(6, 9)", "ReLU()", "Dense(9, 3)"]),
    "activations on both sides": (
        lambda: [Dense(6, 9), Tanh(), BatchNorm(9), Sigmoid(), Dense(9, 3)],
        ["Dense(6, 9)", "Tanh()", "BatchNorm(9)", "Sigmoid()", "Dense(9, 3)"]),
    "first and behind it an activation": (
        lambda: [BatchNorm(6), Tanh(), Dense(6, 3), BatchNorm(3)], ["BatchNorm(6)", "Tanh()", "Dense(6, 3)"]),
    "last and before it an activation": (
        lambda: [Dense(6, 3), Tanh(), Dropout(0.5), BatchNorm(3)], ["Dense(6, 3)", "Tanh()", "BatchNorm(3)"]),
    "ghost batches, another eps": (
        lambda: [Dense(6, 9), BatchNorm(9, virtual_batch_size=8, running_var_ddof=0, eps=1e-2), ReLU(), Dense(9, 3)],
        ["Dense(6, 9)", "ReLU()", "Dense(9, 3)"]),
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES)
def test_structure_and_outputs(case, dtype):
    layers, expected = CASES[case]
    net, x, y = trained(layers(), dtype)
    before = net.state_dict()
    folded = net.fold_batchnorm()
    assert [repr(layer) for layer in folded.layers] == expected
    assert (folded.dtype, folded.loss, folded.n_parameters) == (net.dtype, net.loss, sum(
        a.size for name, a in folded.state_dict().items() if "running" not in name))
    out, same = net.forward(x), folded.forward(x)
    limit = LIMIT if dtype == FLOAT32 else 1e-14
    assert np.abs(out - same).max() <= limit * np.abs(out).max()
    assert folded.evaluate(x, y)["loss"] == pytest.approx(net.evaluate(x, y)["loss"], rel=1e-6)
    np.testing.assert_array_equal(folded.predict(x), net.predict(x))
    assert_same_bits(list(net.state_dict().values()), list(before.values()), "the original")
    assert folded.inference_only is (case != "activations on both sides")
    assert net.inference_only is False


@pytest.mark.parametrize("loss", ["sigmoid_cross_entropy", "mean_squared_error"])
def test_other_losses(loss):
    net, x, y = trained([Dense(6, 9), BatchNorm(9), Tanh(), Dense(9, 3)], FLOAT64, loss)
    folded = net.fold_batchnorm()
    assert folded.loss == loss
    for name, value in net.evaluate(x, y).items():
        assert folded.evaluate(x, y)[name] == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize("make", [
    lambda: [Dense(6, 9), BatchNorm(9), BatchNorm(9), Dense(9, 3)],
    lambda: [BatchNorm(6), Dense(6, 9), Tanh(), BatchNorm(9), Dense(9, 3)],
])
def test_weights_are_rounded_once(make):
    """Equal to what the float64 network of the same numbers folds into, rounded."""
    net, _, _ = trained(make(), FLOAT32)
    wide = Sequential([copy.copy(layer) for layer in net.layers], dtype="float64")
    wide.load_state_dict(net.state_dict())
    folded, exact = net.fold_batchnorm().state_dict(), wide.fold_batchnorm().state_dict()
    assert_same_bits(list(folded.values()), [a.astype(FLOAT32) for a in exact.values()], "rounded")


def test_a_trained_network_of_the_width_of_real_ones():
    """E12 (b): evaluation is the folded affine map to 1e-6 of its magnitude."""
    net, x, y = trained([
        Dense(20, 100, bias=False), BatchNorm(100), Sigmoid(), Dense(100, 100, bias=False), BatchNorm(100), Sigmoid(),
        Dense(100, 100, bias=False), BatchNorm(100), Sigmoid(), Dense(100, 10)], FLOAT32)
    folded = net.fold_batchnorm()
    exact = Plain(net, FLOAT64).outputs(x)
    for a in (net, folded):
        assert np.abs(a.forward(x) - exact).max() <= LIMIT * np.abs(exact).max()
    assert folded.evaluate(x, y)["accuracy"] == net.evaluate(x, y)["accuracy"]


def test_folding_costs_the_digits_of_a_large_mean(rng):
    """As its documentation says: of the order of 1e-3 at a mean of ten thousand standard deviations, which evaluation keeps."""
    x = normal(rng, FLOAT32, 100, 5) + FLOAT32.type(1e4)
    net = Sequential([BatchNorm(5), Dense(5, 4)], seed=0)
    net.refresh_statistics(x, batch_size=100)
    exact = Plain(net, FLOAT64).outputs(x)
    errors = [np.abs(a.forward(x) - exact).max() / np.abs(exact).max() for a in (net, net.fold_batchnorm())]
    assert errors[0] < 4 * EPS[FLOAT32] < 1e-5 < errors[1] < 5e-3


@pytest.mark.parametrize("make", [
    lambda: [Dense(6, 9), BatchNorm(9), Tanh(), Dense(9, 3)],
    lambda: [Dense(6, 9), Dropout(0.2), Tanh(), BatchNorm(9), Dense(9, 3)],
    lambda: [Dense(6, 9), Dropout(0.0), Dense(9, 3)],
])
def test_a_folded_network_refuses_to_be_trained(make):
    net, x, y = trained(make(), FLOAT32)
    folded = net.fold_batchnorm()
    for again in (folded, copy.deepcopy(folded), pickle.loads(pickle.dumps(folded)), folded.fold_batchnorm()):
        before = again.state_dict()
        for call in (
            lambda net: net.fit(x, y), lambda net: net.fit(x, y, epochs=0), lambda net: net.train_step(x, y, fnn.SGD()),
            lambda net: net.loss_and_gradients(x, y), lambda net: net.forward(x, training=True),
            lambda net: net.refresh_statistics(x), lambda net: fnn.init.lsuv(net, x),
        ):
            with pytest.raises(RuntimeError, match=r"inference only.*fold_batchnorm"):
                call(again)
        assert_same_bits(list(again.state_dict().values()), list(before.values()), "nothing has changed")
        assert_same_bits(again.predict_proba(x), folded.predict_proba(x), "a copy")


def test_nothing_to_fold_is_nothing_lost():
    """A copy that can be trained as before."""
    net, x, y = trained([Dense(6, 9), Tanh(), Activation("identity"), BatchNorm(9), ReLU(), Dense(9, 3)], FLOAT32)
    folded = net.fold_batchnorm()
    assert len(folded.layers) == 5
    assert not folded.inference_only
    before = net.state_dict()
    assert_same_bits(folded.forward(x), net.forward(x), "outputs")
    folded.fit(x, y)
    assert_same_bits(list(net.state_dict().values()), list(before.values()), "memory of its own")


def test_equal_units_are_folded_without_a_word():
    """The constructor warns of them; the warning of a folded network would be an error here."""
    net = Sequential([Dense(3, 4), BatchNorm(4), Dense(4, 2)], seed=0)
    net.layers[0].weight = np.ones((3, 4))
    net.fold_batchnorm()


def test_weights_too_large_are_refused():
    net = Sequential([Dense(3, 4), BatchNorm(4), Dense(4, 2)], seed=0)
    net.layers[1].gamma = np.full(4, 3e38)
    net.layers[1].running_var = np.full(4, 1e-4)
    with pytest.raises(ValueError, match=r"^0\.weight: expected finite numbers of float32"):
        net.fold_batchnorm()
