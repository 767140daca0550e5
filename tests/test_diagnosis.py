"""Each finding has a network that has it, and the layer is named; healthy networks have none."""

import functools
import itertools
import math
import re
from pathlib import Path

import numpy as np
import pytest
from conftest import DTYPES, FLOAT32, assert_refused, assert_same_bits
from sklearn.datasets import load_digits

import fastnn as fnn
from fastnn import diagnosis
from fastnn.trace import Trace

KINDS = ("relu", "leaky_relu", "tanh", "sigmoid", "softsign", "softplus", "elu", "identity")
LOSSES = ("softmax_cross_entropy", "sigmoid_cross_entropy", "mean_squared_error")


def digits():
    x, y = load_digits(return_X_y=True)
    return (x / 16).astype(np.float32), y


def targets(loss, rng, n, k):
    if loss == "softmax_cross_entropy":
        return rng.integers(0, k, n)
    return rng.integers(0, 2, (n, k)).astype(np.float64) if loss == "sigmoid_cross_entropy" else rng.standard_normal((n, k))


def deep(widths, kind="relu", init="he_normal", bn=False, **options):
    """Dense layers with this activation between them; layers 0, 2, 4 ... are Dense, or with batch norm 0, 3, 6 ..."""
    layers = []
    for n_in, n_out in itertools.pairwise(widths[:-1]):
        norm = [fnn.BatchNorm(n_out)] if bn else []
        layers += [fnn.Dense(n_in, n_out, bias=not bn, init=init), *norm, fnn.Activation(kind)]
    return fnn.Sequential([*layers, fnn.Dense(widths[-2], widths[-1])], **({"seed": 0} | options))


def found(net, x, y, **options):
    return {(finding.name, finding.layer): finding for finding in fnn.diagnose(net, x, y, **options).findings}


@pytest.fixture
def data(rng):
    """Normal inputs, and labels of 4 classes that depend on them."""
    x = rng.standard_normal((300, 20)).astype(np.float32)
    return x, (x[:, 0] > 0) * 2 + (x[:, 1] > 0)


# ---- what is measured

@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("kind", KINDS)
def test_loss_and_gradients_are_those_of_the_network(kind, loss, dtype, rng):
    net = fnn.Sequential(
        [fnn.BatchNorm(6), fnn.Dense(6, 9), fnn.Activation(kind), fnn.Dense(9, 7, bias=False), fnn.BatchNorm(7, eps=0.01),
         fnn.Activation(kind), fnn.Dense(7, 3), fnn.Activation("tanh")], loss=loss, dtype=dtype, seed=1)
    for layer in net.layers:
        for a in layer.parameters.values():
            a += (0.1 * rng.standard_normal(a.shape)).astype(dtype)
    x, y = rng.standard_normal((33, 6)), targets(loss, rng, 33, 3)
    trace = Trace(net, x, y)
    expected_loss, expected = net.loss_and_gradients(x, y)
    rtol = 1e-5 if dtype == FLOAT32 else 1e-12
    assert math.isclose(trace.loss, expected_loss, rel_tol=rtol)
    assert trace.parameter_gradients.keys() == expected.keys()
    for name, g in expected.items():
        assert trace.parameter_gradients[name].dtype == g.dtype
        # a bias in front of batch norm has gradient 0, but for rounding
        largest = max(abs(a).max() for a in expected.values())
        np.testing.assert_allclose(trace.parameter_gradients[name], g, rtol=rtol, atol=rtol * largest, err_msg=name)
    # the gradients by the outputs add up to those of biases
    np.testing.assert_allclose(trace.gradients[1].sum(axis=0), expected["1.bias"], rtol=0, atol=1e-5)
    assert_same_bits(trace.outputs[-1], fnn.activation_forward(trace.outputs[-2], "tanh"), "the last output")


def test_ghost_batches(rng):
    net = fnn.Sequential([fnn.Dense(6, 9), fnn.BatchNorm(9, virtual_batch_size=8), fnn.Tanh(), fnn.Dense(9, 3)],
                         dtype="float64", seed=1)
    x, y = rng.standard_normal((37, 6)), rng.integers(0, 3, 37)
    trace = Trace(net, x, y)
    loss, gradients = net.loss_and_gradients(x, y)
    assert math.isclose(trace.loss, loss, rel_tol=1e-12)
    for name, g in gradients.items():
        np.testing.assert_allclose(trace.parameter_gradients[name], g, rtol=1e-9, atol=1e-12, err_msg=name)


def test_what_the_table_says(rng):
    net = fnn.Sequential(
        [fnn.Dense(5, 8), fnn.BatchNorm(8, eps=0.5), fnn.ReLU(), fnn.Dense(8, 6), fnn.Sigmoid(), fnn.Dense(6, 2)],
        dtype="float64", seed=0)
    net.layers[1].beta[:3] = -50
    net.layers[3].weight[...] *= 30
    x, y = rng.standard_normal((200, 5)), rng.integers(0, 2, 200)
    result = fnn.diagnose(net, x, y, lr=0.25)
    rows = result.layers
    z = x @ net.layers[0].weight
    gradients = net.loss_and_gradients(x, y)[1]
    assert [row["layer"] for row in rows] == list(range(6))
    assert rows[0]["name"] == "Dense(5, 8)"
    assert math.isclose(rows[0]["mean"], z.mean(), abs_tol=1e-12)
    assert math.isclose(rows[0]["std"], z.std())
    assert math.isclose(rows[0]["signal"], math.sqrt(z.var(axis=0).mean()))
    assert rows[2]["dead"] == 3 / 8
    h = Trace(net, x, y).outputs
    assert rows[2]["saturated"] == np.mean(h[2] == 0)
    assert rows[4]["saturated"] == np.mean(h[4] * (1 - h[4]) < 0.25 * 0.02) > 0.1
    assert rows[0]["dead"] is rows[4]["dead"] is rows[0]["saturated"] is rows[2]["weight_rms"] is None
    size = math.sqrt(np.mean(gradients["3.weight"] ** 2))
    assert math.isclose(rows[3]["weight_gradient_rms"], size)
    assert math.isclose(rows[3]["update_ratio"], 0.25 * size / rows[3]["weight_rms"])
    assert math.isclose(rows[1]["running_distance"], math.sqrt(np.mean(z.mean(axis=0) ** 2 / (z.var(axis=0) + 0.5))))
    ratio = 1.5 / (z.var(axis=0, ddof=1) + 0.5)
    assert math.isclose(rows[1]["running_variance"], np.exp(np.log(ratio).mean()))
    biased = fnn.Sequential([fnn.BatchNorm(5, running_var_ddof=0), fnn.Dense(5, 2)], dtype="float64")
    biased.layers[0].running_var = x.var(axis=0)
    assert math.isclose(fnn.diagnose(biased, x, y).layers[0]["running_variance"], 1)
    assert math.isclose(rows[1]["smallest_variance"], z.var(axis=0).min())
    assert math.isclose(rows[1]["eps_share"], 0.5 / (z.var(axis=0).min() + 0.5))
    g = Trace(net, x, y).gradients[1]
    assert math.isclose(rows[1]["gradient_rms"], math.sqrt(np.mean(g**2)))
    assert math.isclose(rows[1]["gradient_median"], np.median(np.abs(g[g != 0])))
    assert result.evaluation == net.evaluate(x, y)
    assert (result.rows, result.dropout) == (200, False)


def test_the_next_update_is_that_of_the_optimiser(data):
    x, y = data
    net = deep((20, 16, 4), dtype="float64")
    assert fnn.diagnose(net, x, y).layers[0]["update_ratio"] is None
    # one step without momentum: the ratio is that of the step that follows
    net.train_step(x, y, fnn.SGD(lr=0.3, weight_decay=0.1, clip_norm=0.05))
    before, ratio = net.layers[0].weight.copy(), fnn.diagnose(net, x, y).layers[0]["update_ratio"]
    net.train_step(x, y, net._optimizer)
    step = net.layers[0].weight - before
    assert math.isclose(ratio, np.linalg.norm(step) / np.linalg.norm(before), rel_tol=1e-9)
    # of Adam, too
    adam = fnn.AdamW(lr=0.01, beta2=0.9, weight_decay=0.5, eps_hat=True, clip_norm=0.05)
    for _ in range(3):
        net.train_step(x, y, adam)
        ratio, before = fnn.diagnose(net, x, y).layers[0]["update_ratio"], net.layers[0].weight.copy()
    net.train_step(x, y, adam)
    step = net.layers[0].weight - before
    assert math.isclose(ratio, np.linalg.norm(step) / np.linalg.norm(before), rel_tol=1e-9)
    # with momentum: of a gradient that stays
    net.train_step(x, y, fnn.SGD(lr=0.3, momentum=0.9))
    plain = fnn.diagnose(net, x, y, lr=0.3).layers[0]["update_ratio"]
    assert math.isclose(fnn.diagnose(net, x, y).layers[0]["update_ratio"], 10 * plain)


def test_the_rate_of_a_schedule_is_that_of_the_next_step(data):
    x, y = data
    net = deep((20, 16, 4), dtype="float64")
    for per, expected in (("step", 1 - 7 / 10), ("epoch", 1 - 1 / 10)):
        schedule = fnn.schedules.LinearDecay(1.0, 10, 0.0, per=per)
        net.fit(x[:70], y[:70], batch_size=10, epochs=1, optimizer=fnn.SGD(schedule))
        plain = fnn.diagnose(net, x, y, lr=expected).layers[0]["update_ratio"]
        assert math.isclose(fnn.diagnose(net, x, y).layers[0]["update_ratio"], plain)


def test_some_rows_of_many_are_taken_the_same_ones_each_time(rng):
    x, y = rng.standard_normal((5000, 4)), np.arange(5000) % 10     # every tenth row has the same label
    net = deep((4, 8, 10))
    trace = Trace(net, x, y, max_rows=200)
    assert trace.x.shape == (200, 4)
    assert set(trace.y) == set(range(10))
    assert_same_bits(Trace(net, x, y, max_rows=200).x, trace.x, "again")
    assert fnn.diagnose(net, x, y).rows == 1000
    assert fnn.diagnose(net, x[:999], y[:999]).rows == 999


def test_dropout_is_left_out(rng):
    x, y = rng.standard_normal((50, 4)).astype(np.float32), rng.integers(0, 3, 50)
    plain = deep((4, 8, 3))
    net = fnn.Sequential([fnn.Dense(4, 8), fnn.ReLU(), fnn.Dropout(0.5), fnn.Dense(8, 3)])
    net.layers[0].weight, net.layers[3].weight = plain.layers[0].weight, plain.layers[2].weight
    result = fnn.diagnose(net, x, y)
    assert result.dropout and "dropout left out" in str(result)
    assert result.loss == fnn.diagnose(plain, x, y).loss


def test_nothing_of_the_network_changes(data):
    def trained():
        net = fnn.Sequential([fnn.Dense(20, 16), fnn.BatchNorm(16), fnn.ReLU(), fnn.Dropout(0.3), fnn.Dense(16, 4)], seed=3)
        net.fit(*data, epochs=2, optimizer=fnn.SGD(lr=0.1, momentum=0.9))
        return net

    net, other = trained(), trained()
    before = net.state_dict()
    x, y = data[0].copy(), data[1].copy()
    fnn.diagnose(net, x, y)
    Trace(net, x)
    assert_same_bits([*net.state_dict().values()], [*before.values()], "state")
    assert_same_bits([x, y], [*data], "data")
    history, expected = net.fit(*data, epochs=3), other.fit(*data, epochs=3)
    assert history.loss == expected.loss
    assert_same_bits([*net.state_dict().values()], [*other.state_dict().values()], "training that follows")


def test_in_a_callback(data):
    def trained(callbacks):
        net = deep((20, 16, 4), bn=True)
        net.fit(*data, epochs=3, optimizer=fnn.SGD(lr=0.1, momentum=0.9), callbacks=callbacks)
        return net.state_dict()

    seen = []
    state = trained([lambda run: seen.append(fnn.diagnose(run.net, *data))])
    assert len(seen) == 3 and seen[0].loss > seen[2].loss and seen[0].layers[0]["update_ratio"] > 0
    assert_same_bits([*state.values()], [*trained([]).values()], "state")


def test_layouts_and_dtypes_of_data(rng):
    x, y = rng.integers(0, 5, (60, 6)), rng.integers(0, 3, 60)
    net = deep((6, 8, 3))
    expected = fnn.diagnose(net, x.astype(np.float32), y).loss
    for given in (x.astype(np.uint8), np.asfortranarray(x), x.astype(np.float64)[::-1][::-1], x.astype(">f4")):
        assert fnn.diagnose(net, given, y.astype(np.int8)).loss == expected


def test_refusals(rng):
    net = deep((6, 8, 3), bn=True)
    x, y = rng.standard_normal((20, 6)), rng.integers(0, 3, 20)
    assert_refused(TypeError, "net", fnn.diagnose, [net], x, y)
    assert_refused(TypeError, "x", fnn.diagnose, net, None, y)
    assert_refused(ValueError, "x", fnn.diagnose, net, x[:, :5], y)
    assert_refused(ValueError, "x", fnn.diagnose, net, x[:0], y[:0])
    assert_refused(ValueError, "x", fnn.diagnose, net, x[:1], y[:1])
    assert_refused(ValueError, "x", Trace, net, x[:1])
    assert_refused(TypeError, "y", fnn.diagnose, net, x, None)
    assert_refused(ValueError, "y", fnn.diagnose, net, x, y[:19])
    assert_refused(ValueError, "y", fnn.diagnose, net, x, y + 1)
    assert_refused(ValueError, "lr", fnn.diagnose, net, x, y, lr=-1.0)
    assert_refused(TypeError, "lr", fnn.diagnose, net, x, y, lr="0.1")
    assert_refused(ValueError, "max_rows", fnn.diagnose, net, x, y, max_rows=1)
    regression = deep((6, 8, 3), loss="mean_squared_error")
    assert_refused(ValueError, "y", fnn.diagnose, regression, x, x[:19, :3])
    assert fnn.diagnose(deep((6, 8, 3)), x[:1], y[:1]).rows == 1


# ---- no false alarms

@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(("kind", "init", "depth"), [
    ("relu", "he_normal", 1), ("relu", "he_normal", 10), ("leaky_relu", "he_uniform", 5), ("elu", "he_normal", 5),
    ("tanh", "xavier_uniform", 1), ("tanh", "xavier_uniform", 20), ("softsign", "xavier_normal", 5),
    ("tanh", "fan_in_uniform", 4), ("sigmoid", "xavier_uniform", 2)])
def test_healthy_at_the_start(kind, init, depth, seed, rng):
    for x, y in (digits(), (rng.standard_normal((400, 100)), rng.integers(0, 10, 400))):
        for bn in (False, True):
            result = fnn.diagnose(deep((x.shape[1], *[100] * depth, 10), kind, init, bn, seed=seed), x, y)
            assert not result.findings, result


@pytest.mark.parametrize(("kind", "bn", "lr", "momentum", "epochs"), [
    ("relu", True, 0.1, 0.9, 20), ("relu", False, 0.1, 0.9, 20), ("relu", True, 0.1, 0.9, 1), ("relu", True, 0.01, 0, 5),
    ("relu", False, 0.01, 0.9, 2), ("tanh", False, 0.1, 0.9, 1), ("tanh", True, 0.5, 0.9, 10), ("sigmoid", True, 0.5, 0.9, 3),
    ("elu", False, 0.1, 0, 5)])
def test_healthy_after_training(kind, bn, lr, momentum, epochs):
    x, y = digits()
    net = deep((64, 100, 50, 10), kind, "he_normal" if kind == "relu" else "xavier_uniform", bn)
    net.fit(x, y, epochs=epochs, batch_size=64, optimizer=fnn.SGD(lr=lr, momentum=momentum))
    result = fnn.diagnose(net, x, y)
    assert not result.findings, result
    assert str(result).endswith("No findings.")


@pytest.mark.parametrize("loss", LOSSES[1:])
def test_healthy_with_other_losses(loss, rng):
    x = rng.standard_normal((500, 10))
    y = np.stack([x[:, 0] > 0, x[:, 1] * x[:, 2] > 0], axis=1).astype(np.float64) if loss == "sigmoid_cross_entropy" else (
        x[:, :2] + 0.5 * x[:, 2:4])
    net = deep((10, 50, 2), loss=loss, bn=True)
    assert not found(net, x, y)
    net.fit(x, y, epochs=10, optimizer=fnn.SGD(lr=0.1, momentum=0.9))
    assert not found(net, x, y)


# ---- the findings

def test_dead_units(data):
    net = deep((20, 50, 50, 4))
    net.layers[2].bias[:31] = -100
    assert found(net, *data)["dead", 3].message == "layer 3: 62 % dead ReLUs: lower lr or use he_normal"
    assert ("dead", 1) not in found(net, *data)
    net.layers[2].bias[10:] = 0
    assert not found(net, *data)
    # of a leaky unit the gradient is not 0
    net = deep((20, 50, 50, 4), "leaky_relu")
    net.layers[2].bias[:] = -100
    assert not any(name == "dead" for name, _ in found(net, *data))


def test_a_learning_rate_that_kills(data):
    x, y = digits()
    net = deep((64, 128, 128, 10))
    net.fit(x, y, epochs=10, batch_size=64, optimizer=fnn.SGD(lr=0.5, momentum=0.9))
    assert ("dead", 1) in found(net, x, y)


@pytest.mark.parametrize("kind", ["tanh", "sigmoid", "softsign"])
def test_saturated_units(kind, data):
    net = deep((20, 50, 50, 4), kind, "xavier_uniform")
    net.layers[2].weight[...] *= 100
    findings = found(net, *data)
    assert ("saturated", 3) in findings and ("saturated", 1) not in findings
    assert kind in findings["saturated", 3].message


def test_vanishing_signals(rng):
    x, y = rng.standard_normal((200, 100)), rng.integers(0, 10, 200)
    findings = found(deep((*[100] * 10, 10), "tanh", functools.partial(fnn.init.normal, std=0.01)), x, y)
    # each layer divides them by 10
    assert {("activations vanish", 3), ("gradient vanishes", 10)} == findings.keys()
    assert "xavier_uniform" in findings["gradient vanishes", 10].message
    findings = found(deep((*[100] * 31, 10), "relu", "xavier_uniform"), x, y)
    assert {name for name, _ in findings} == {"activations vanish", "gradient vanishes"}
    assert all("use he_normal" in finding.message for finding in findings.values())
    findings = found(deep((*[100] * 7, 10), "sigmoid", "xavier_uniform"), x, y)
    assert ("activations vanish", 7) in findings and "use tanh" in findings["activations vanish", 7].message
    # in the middle
    net = deep((*[100] * 7, 10))
    net.layers[4].weight[...] *= 1e-3
    assert [layer for name, layer in found(net, x, y) if name == "activations vanish"] == [5]


def test_exploding_signals(rng):
    x, y = rng.standard_normal((200, 100)), rng.integers(0, 10, 200)
    findings = found(deep((*[100] * 8, 10), "relu", functools.partial(fnn.init.normal, std=1.0)), x, y)
    # each layer multiplies them by 7
    assert {("activations explode", 5), ("gradient explodes", 4), ("loss at the start", 14)} == findings.keys()
    findings = found(deep((*[100] * 21, 10), "tanh", functools.partial(fnn.init.normal, std=2.0)), x, y)
    assert "gradient explodes" in {name for name, _ in findings} and ("saturated", 1) in findings


def test_a_median_that_vanishes_alone(rng):
    x, y = rng.standard_normal((200, 50)), rng.integers(0, 10, 200)
    net = deep((50, 50, 50, 10), "tanh", "xavier_uniform")
    net.layers[0].weight[...] *= 25
    row = fnn.diagnose(net, x, y).layers[0]
    top = fnn.diagnose(net, x, y).layers[2]
    assert row["gradient_rms"] > 1e-2 * top["gradient_rms"] and row["gradient_median"] < 1e-3 * top["gradient_median"]
    assert ("gradient vanishes", 0) in found(net, x, y)


def test_equal_units(data):
    def constant(*layers):
        net = fnn.Sequential([fnn.Dense(20, 30), *layers, fnn.Dense(30, 4)], seed=0)
        net.layers[0].weight[...] = 0.1
        return net

    net = constant(fnn.Tanh())
    net.layers[2].weight[...] = 0.1
    assert found(net, *data)["equal units", 0].message == (
        "layer 0: 30 of 30 units are equal and stay so: use a random init such as xavier_uniform")
    net.fit(*data, epochs=3)
    assert "stay so" in found(net, *data)["equal units", 0].message
    # what they feed tells them apart, or a dropout, or a batch norm even now
    assert found(constant(fnn.ReLU()), *data)["equal units", 0].message == (
        "layer 0: 30 of 30 units are equal: use a random init such as he_normal")
    net = constant(fnn.Tanh(), fnn.Dropout(0.5))
    net.layers[3].weight[...] = 0.1
    assert "30 of 30 units are equal:" in found(net, *data)["equal units", 0].message
    net = constant(fnn.BatchNorm(30), fnn.Tanh())
    assert ("equal units", 0) in found(net, *data)
    net.layers[1].beta = np.arange(30) / 100
    assert ("equal units", 0) not in found(net, *data)

    net = deep((20, 30, 4))
    net.layers[0].weight[:, 7] = net.layers[0].weight[:, 3]
    net.layers[0].weight[4, [3, 7]] = 0.0, -0.0
    assert "2 of 30" in found(net, *data)["equal units", 0].message
    net.layers[0].bias[7] = 1e-6
    assert not found(net, *data)
    # the units of an output are told apart by the targets
    net.layers[2].weight[...] = 0
    assert not found(net, *data)


def test_updates_of_the_wrong_size(data):
    net = deep((20, 30, 4))
    assert not found(net, *data, lr=0.05)
    assert {("large updates", 0), ("large updates", 2)} == found(net, *data, lr=20.0).keys()
    assert [name for name, _ in found(net, *data, lr=1e-6)] == ["small updates"]
    assert "lower lr" in found(net, *data, lr=20.0)["large updates", 0].message
    # small updates of a network that has learnt are no fault
    net.fit(*data, epochs=100, optimizer=fnn.SGD(lr=0.1, momentum=0.9))
    net.fit(*data, epochs=1, optimizer=fnn.SGD(lr=1e-6))
    assert not found(net, *data)


def test_running_statistics_that_are_stray(data):
    x, y = data
    net = deep((20, 30, 4), bn=True)
    assert not found(net, x, y)                                     # fresh, nothing to say yet
    net.fit(x, y, epochs=5, optimizer=fnn.SGD(lr=0.1))
    assert not found(net, x, y)
    findings = found(net, x + np.float32(3), y)
    assert [name for name, layer in findings] == ["stray statistics"] and "refresh_statistics" in findings[
        "stray statistics", 1].message
    for factor in (5, 0.04):
        net.layers[1].running_var[:5] *= factor
        assert ("stray statistics", 1) in found(net, x, y)
    net.refresh_statistics(x)
    assert not found(net, x, y)


def test_a_variance_near_eps(data):
    x, y = data
    net = deep((20, 30, 4), bn=True)
    net.layers[0].weight[:, :3] *= 1e-3
    assert "3 of 30" in found(net, x, y)["variance near eps", 1].message
    net.layers[0].weight[:, :3] = 0     # a constant is another matter
    assert ("variance near eps", 1) not in found(net, x, y)


def test_a_bias_before_batch_norm(data):
    net = fnn.Sequential([fnn.Dense(20, 30), fnn.BatchNorm(30), fnn.ReLU(), fnn.Dense(30, 4)], seed=0)
    finding = found(net, *data)["bias before batch norm", 0]
    assert finding.severity == "note" and "bias=False" in finding.message


def test_data_that_are_not_fit(data, rng):
    x, y = data
    net = deep((20, 30, 4), "tanh", "xavier_uniform")
    large = x.copy()
    large[:, 4] = 2000 + x[:, 4]
    assert "column 4" in found(net, large, y)["unscaled inputs", None].message
    # nothing vanishes where outputs are smaller than inputs of that size
    assert {("unscaled inputs", None), ("saturated", 1)} == found(net, x * 1000, y).keys()
    assert ("unscaled inputs", None) in found(net, x * 1e-3, y)
    some = x.copy()
    some[:, :11] = 0
    assert found(net, some, y)["constant inputs", None].message.startswith("data: 11 of 20 columns")
    # batch norm in front scales them
    net = fnn.Sequential([fnn.BatchNorm(20), *deep((20, 30, 4)).__getstate__()["layers"]], seed=0)
    assert not found(net, large, y)


def test_one_prediction(data):
    x, y = data
    net = deep((20, 30, 4))
    net.layers[2].bias[2] = 100
    assert ("one prediction", 2) not in found(net, x, y)            # before training it may be so
    net.fit(x, y, epochs=1, optimizer=fnn.SGD(lr=1e-9))
    assert ("one prediction", 2) in found(net, x, y)
    assert ("one prediction", 2) not in found(net, x, np.full_like(y, 2))
    net = deep((20, 30, 1), loss="mean_squared_error")
    net.layers[2].weight[...] *= 1e-6
    net.fit(x, x[:, :1], epochs=1, optimizer=fnn.SGD(lr=1e-9))
    assert ("one prediction", 2) in found(net, x, x[:, :1])


def test_a_loss_that_starts_too_high(data):
    x, y = data
    net = deep((20, 30, 4))
    net.layers[2].weight[...] *= 8
    assert [*found(net, x, y)] == [("loss at the start", 2)]
    net.fit(x, y, epochs=1, optimizer=fnn.SGD(lr=1e-9))
    assert ("loss at the start", 2) not in found(net, x, y)


def test_an_output_bias_that_does_not_know_the_classes(data, rng):
    x, _ = data
    y = np.where(rng.random(len(x)) < 0.9, 0, rng.integers(0, 4, len(x)))
    net = deep((20, 30, 4), init="xavier_uniform")
    net.layers[2].weight[...] *= 0.1
    assert "93 %" in found(net, x, y)["output bias", 2].message
    fnn.init.output_bias(net, y)
    assert not found(net, x, y)
    net = deep((20, 30, 2), init="xavier_uniform", loss="sigmoid_cross_entropy")
    net.layers[2].weight[...] *= 0.1
    rare = (rng.random((len(x), 2)) < 0.05).astype(np.float64)
    assert ("output bias", 2) in found(net, x, rare)
    fnn.init.output_bias(net, rare)
    assert not found(net, x, rare)
    net = deep((20, 30, 1), loss="mean_squared_error")
    assert ("output bias", 2) in found(net, x, x[:, :1] + np.float32(10))
    fnn.init.output_bias(net, x[:, :1] + np.float32(10))
    assert not found(net, x, x[:, :1] + np.float32(10))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_numbers_that_are_not_finite(dtype, data):
    x, y = data[0].astype(dtype), data[1]
    bad = x.copy()
    bad[5, 3] = np.nan
    net = deep((20, 30, 4), bn=True, dtype=dtype)
    findings = found(net, bad, y)
    assert [*findings] == [("not finite", None)] and "column 3" in findings["not finite", None].message
    assert findings["not finite", None].severity == "error"
    net.layers[3].bias[1] = np.inf
    net.layers[1].running_var[2] = np.nan
    assert [*found(net, x, y)] == [("not finite", 1), ("not finite", 3)]
    regression = deep((20, 30, 1), loss="mean_squared_error", dtype=dtype)
    target = x[:, :1].copy()
    target[7] = np.nan
    assert [*found(regression, x, target)] == [("not finite", None)]
    huge = float(np.finfo(dtype).max) ** 0.75
    regression.layers[2].weight[...] = huge
    regression.layers[0].weight[...] = huge
    assert [*found(regression, x, x[:, :1])] == [("not finite", 2)]
    # a variance that overflows in batch norm
    net = deep((20, 30, 4), bn=True, dtype=dtype)
    net.layers[0].weight[...] = float(np.finfo(dtype).max) / 1000
    assert all(name == "not finite" for name, _ in found(net, x, y)) or dtype == FLOAT32
    # only the gradient overflows
    net = deep((20, 30, 30, 4), "identity", dtype=dtype)
    net.layers[0].weight[...] = 0
    net.layers[4].weight[...] = huge
    net.layers[2].weight[...] = huge
    assert [*found(net, x, y)] == [("not finite", 1)]


def test_few_rows_are_no_reason_to_complain(data):
    x, y = data
    net = deep((20, 30, 30, 4))
    for n in (1, 2, 5):
        assert not found(net, x[:n], y[:n])


def test_the_worst_comes_first_and_everything_is_printed(data):
    net = fnn.Sequential([fnn.Dense(20, 30), fnn.BatchNorm(30), fnn.ReLU(), fnn.Dense(30, 4)], seed=0)
    net.layers[3].weight[...] *= 100
    result = fnn.diagnose(net, *data)
    assert [finding.severity for finding in result.findings] == ["warning", "note"]
    text = str(result)
    assert all(str(finding) in text for finding in result.findings)
    assert "300 rows" in text and "BatchNorm(30)" in text and "smallest var" in text
    assert max(map(len, text.splitlines())) < 200
    assert repr(result) == "Diagnosis(4 layers, 2 findings)"
    assert isinstance(result, fnn.Diagnosis)


def test_the_module_has_them_without_importing_them():
    assert {"diagnose", "Diagnosis", "report"} <= set(dir(fnn)) & set(fnn.__all__)
    with pytest.raises(AttributeError, match="no_such_thing"):
        fnn.no_such_thing  # noqa: B018


# ---- docs/diagnosis.md

DOCS = Path(__file__).parent.parent / "docs" / "diagnosis.md"


def test_the_thresholds_in_the_docs():
    text = DOCS.read_text(encoding="utf-8")
    constants = {name: value for name, value in vars(diagnosis).items() if name.isupper() and isinstance(value, int | float)}
    assert len(constants) > 15
    for name, value in constants.items():
        assert f"`{name} = {value:g}`" in text


def test_the_example_in_the_docs(capsys):
    text = DOCS.read_text(encoding="utf-8")
    code, printed = re.search(r"<!-- example -->\n```python\n(.*?)```\n\nIt prints\n\n```\n(.*?)```", text, re.DOTALL).groups()
    exec(code, {})
    # a training that goes wrong amplifies how this machine rounds: not the numbers, but what is found
    found, expected = ([re.sub(r"[\d.]+(e[+-]\d+)?", "#", line) for line in lines.splitlines() if line.startswith("warning")]
                       for lines in (capsys.readouterr().out, printed))
    assert found == expected
