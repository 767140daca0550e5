"""Rows that count more or less, decay of all parameters, and the running average of the parameters."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from test_training import LOSSES, bits, build, random_data

import fastnn as fnn
from fastnn import reference

Array = np.ndarray


def weights_for(y: Array) -> Array:
    weights = np.random.default_rng(3).exponential(size=len(y))
    weights[::5] = 0
    return weights


@pytest.mark.parametrize("loss", LOSSES)
def test_weighted_gradient_is_the_weighted_mean_of_the_rows(loss: str) -> None:
    # without batch norm the loss of a row depends on it alone
    net = build(loss, norm=False)
    x, y = random_data(loss)
    weights = weights_for(y)
    value, gradients = net.loss_and_gradients(x, y, sample_weight=weights)
    rows = [net.loss_and_gradients(x[i:i + 1], y[i:i + 1]) for i in range(len(x))]
    share = weights / weights.sum()
    assert value == pytest.approx(sum(s * row[0] for s, row in zip(share, rows, strict=True)), rel=1e-13)
    for name, gradient in gradients.items():
        expected = sum(s * row[1][name] for s, row in zip(share, rows, strict=True))
        np.testing.assert_allclose(gradient, expected, rtol=1e-11, atol=1e-14, err_msg=name)


@pytest.mark.parametrize("loss", LOSSES)
def test_whole_weights_are_repetitions_and_zeros_absences(loss: str) -> None:
    net, twin = build(loss, norm=False), build(loss, norm=False)
    x, y = random_data(loss)
    times = np.arange(len(x)) % 3
    history = net.fit(x, y, batch_size=len(x), shuffle=False, sample_weight=times, optimizer=fnn.SGD(0.2))
    rows = np.repeat(np.arange(len(x)), times)
    again = twin.fit(x[rows], y[rows], batch_size=len(rows), shuffle=False, optimizer=fnn.SGD(0.2))
    assert history.loss == pytest.approx(again.loss, rel=1e-13)
    for name, a in net.state_dict().items():
        np.testing.assert_allclose(a, twin.state_dict()[name], rtol=1e-11, atol=1e-14, err_msg=name)


@pytest.mark.parametrize("clip_norm", [None, 1e9])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("loss", LOSSES)
def test_equal_weights_change_no_bit(loss: str, dtype: str, clip_norm: float | None) -> None:
    x, y = random_data(loss, dtype=dtype)
    net, twin = build(loss, dtype=dtype, dropout=0.3), build(loss, dtype=dtype, dropout=0.3)
    a = net.fit(x, y, epochs=2, batch_size=8, optimizer=fnn.SGD(0.2, momentum=0.5, clip_norm=clip_norm))
    b = twin.fit(x, y, epochs=2, batch_size=8, sample_weight=np.ones(len(x)), optimizer=fnn.SGD(0.2, momentum=0.5))
    assert bits(net) == bits(twin)
    assert a.loss == pytest.approx(b.loss, rel=1e-14)


def test_loss_of_an_epoch_is_the_weighted_mean() -> None:
    x, y = random_data()
    net = build()
    weights = weights_for(y)
    history = net.fit(x, y, batch_size=8, shuffle=False, sample_weight=weights, optimizer=fnn.SGD(0.0))
    losses = [net.loss_and_gradients(x[i:i + 8], y[i:i + 8], sample_weight=weights[i:i + 8])[0] for i in (0, 8, 16)]
    assert history.loss[0] == pytest.approx(np.average(losses, weights=weights.reshape(3, 8).sum(1)), rel=1e-13)
    # the rows that are dropped do not count
    history = net.fit(x, y, batch_size=9, shuffle=False, sample_weight=weights, last_batch="drop", optimizer=fnn.SGD(0.0))
    losses = [net.loss_and_gradients(x[i:i + 9], y[i:i + 9], sample_weight=weights[i:i + 9])[0] for i in (0, 9)]
    assert history.loss[0] == pytest.approx(np.average(losses, weights=weights[:18].reshape(2, 9).sum(1)), rel=1e-13)


def test_a_batch_without_weight_moves_nothing_but_statistics() -> None:
    x, y = random_data()
    net = build()
    before = net.state_dict()
    weights = np.ones(len(x))
    weights[:8] = 0
    with pytest.raises(ValueError, match="sample_weight"):
        net.train_step(x[:8], y[:8], fnn.SGD(0.1), sample_weight=weights[:8])
    history = net.fit(
        x, y, batch_size=8, shuffle=False, sample_weight=weights, optimizer=fnn.SGD(0.1), callbacks=[fnn.callbacks.MaxSteps(1)])
    after = net.state_dict()
    assert history.loss == [0.0]
    for name, a in before.items():
        assert (a.tobytes() == after[name].tobytes()) == ("running" not in name), name


def test_a_row_without_weight_may_have_an_infinite_loss() -> None:
    net = build("mean_squared_error", norm=False)
    x, y = random_data("mean_squared_error")
    y[3] = 1e300
    weights = np.ones(len(x))
    weights[3] = 0
    loss, gradients = net.loss_and_gradients(x, y, sample_weight=weights)
    keep = np.arange(len(x)) != 3
    expected, _ = net.loss_and_gradients(x[keep], y[keep])
    assert loss == pytest.approx(expected, rel=1e-13) and np.isfinite(gradients["2.weight"]).all()


def test_class_weights() -> None:
    x, y = random_data()
    y[:] = np.where(np.arange(len(y)) % 5 == 0, 2, y % 2)
    counts = np.bincount(y, minlength=3)
    of_class = {0: 0.5, 2: 3.0}
    for class_weight, sample_weight in [
        (of_class, np.array([0.5, 1, 3])[y]),
        (np.array([0.5, 1, 3]), np.array([0.5, 1, 3])[y]),
        ("balanced", (len(y) / (3 * counts))[y]),
    ]:
        net, twin = build(), build()
        net.fit(x, y, batch_size=8, class_weight=class_weight, optimizer=fnn.SGD(0.2))
        twin.fit(x, y, batch_size=8, sample_weight=sample_weight, optimizer=fnn.SGD(0.2))
        assert bits(net) == bits(twin)
    weights = weights_for(y)
    net, twin = build(), build()
    net.fit(x, y, class_weight=of_class, sample_weight=weights, optimizer=fnn.SGD(0.2))
    twin.fit(x, y, sample_weight=np.array([0.5, 1, 3])[y] * weights, optimizer=fnn.SGD(0.2))
    assert bits(net) == bits(twin)


@pytest.mark.parametrize(("options", "error", "name"), [
    ({"sample_weight": np.ones(3)}, ValueError, "sample_weight: expected shape"),
    ({"sample_weight": -np.ones(24)}, ValueError, "sample_weight: expected finite numbers >= 0, got -1.0 at index 0"),
    ({"sample_weight": np.full(24, np.nan)}, ValueError, "sample_weight: expected finite numbers"),
    ({"sample_weight": np.zeros(24)}, ValueError, "sample_weight: expected a sum"),
    ({"sample_weight": ["a"] * 24}, TypeError, "sample_weight: expected real numbers"),
    ({"class_weight": {3: 1.0}}, ValueError, "class_weight: expected at most 2"),
    ({"class_weight": {-1: 1.0}}, ValueError, "class_weight: expected an integer >= 0"),
    ({"class_weight": {"a": 1.0}}, TypeError, "class_weight: expected an integer"),
    ({"class_weight": {0: -1.0}}, ValueError, "class_weight: expected finite numbers >= 0, got -1.0 at class 0"),
    ({"class_weight": np.ones(2)}, ValueError, "class_weight: expected shape"),
    ({"class_weight": "even"}, ValueError, "class_weight: expected one of"),
])
def test_refused(options: dict[str, Any], error: type[Exception], name: str) -> None:
    x, y = random_data()
    net = build()
    before = bits(net)
    with pytest.raises(error, match="^" + name):
        net.fit(x, y, **options)
    assert bits(net) == before


def test_class_weight_needs_classes() -> None:
    x, y = random_data("mean_squared_error")
    with pytest.raises(ValueError, match=r"^class_weight: expected None"):
        build("mean_squared_error").fit(x, y, class_weight={0: 1.0})


# ------------------------------------------------------------------------------------------------------------ decay

@pytest.mark.parametrize("clip_norm", [None, 1e9])
@pytest.mark.parametrize("decay", ["weights", "all"])
def test_what_decays(decay: str, clip_norm: float | None) -> None:
    x, y = random_data()
    net = build()
    for name, a in net.state_dict().items():    # biases and beta start at 0, of which nothing decays
        if "running" not in name:
            index, attribute = name.split(".")
            setattr(net.layers[int(index)], attribute, a + 0.3)
    before = net.state_dict()
    _, gradients = net.loss_and_gradients(x, y)
    net.train_step(x, y, fnn.SGD(0.1, weight_decay=0.5, decay=decay, clip_norm=clip_norm))
    after = net.state_dict()
    for name, gradient in gradients.items():
        expected = before[name].copy()
        decays = decay == "all" or name.endswith("weight")
        reference.sgd_update(expected, gradient, lr=0.1, weight_decay=0.5 if decays else 0.0)
        np.testing.assert_allclose(after[name], expected, rtol=1e-13, err_msg=name)


# ---------------------------------------------------------------------------------------------------------- average

@pytest.mark.parametrize("average_from", [0, 4])
@pytest.mark.parametrize("average", ["polyak", 0.0, 0.7, 0.99])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_average(dtype: str, average: float | str, average_from: int) -> None:
    x, y = random_data(dtype=dtype)
    net, twin = build(dtype=dtype), build(dtype=dtype)
    options = {"average": average, "average_from": average_from}
    net.fit(x, y, epochs=5, batch_size=8, shuffle=False, optimizer=fnn.SGD(0.3, momentum=0.5, **options))
    optimizer = fnn.SGD(0.3, momentum=0.5)
    mean: dict[str, Array] = {}
    for step in range(15):
        first = step % 3 * 8
        twin.train_step(x[first:first + 8], y[first:first + 8], optimizer)
        t = step - average_from + 1
        if t < 1:
            continue
        rate = max(1 / t, 0 if average == "polyak" else 1 - float(average))
        for name, a in twin.state_dict().items():
            mean[name] = a.astype(float) if t == 1 else mean[name] + rate * (a - mean[name])
    assert bits(net) == bits(twin)      # the average takes no part in the training
    result = net.averaged()
    for name, a in result.state_dict().items():
        if "running" in name:
            assert a.tobytes() == net.state_dict()[name].tobytes()
        else:
            eps = np.finfo(dtype).eps
            np.testing.assert_allclose(a, mean[name], rtol=2 * eps, atol=eps / 16, err_msg=name)
    # a network of its own, which goes on with the average as its parameters
    result.fit(x, y)
    assert bits(net) == bits(twin)


def test_average_after_a_step_that_diverges() -> None:
    x, y = random_data("mean_squared_error")
    net = build("mean_squared_error", norm=False)
    optimizer = fnn.SGD(0.1, average=0.9)
    net.fit(x, y, epochs=3, batch_size=8, optimizer=optimizer)
    twin = copy.deepcopy(net)
    bad = y.copy()
    bad[-1] = 1e200
    with pytest.raises(fnn.DivergedError):
        net.fit(x, bad, batch_size=8, shuffle=False, optimizer=optimizer)
    twin.fit(x[:16], y[:16], batch_size=8, shuffle=False)
    assert bits(net) == bits(twin) and bits(net.averaged()) == bits(twin.averaged())


def test_no_average() -> None:
    x, y = random_data()
    net = build()
    with pytest.raises(ValueError, match=r"^averaged: there is no average"):
        net.averaged()
    optimizer = fnn.SGD(0.1, average="polyak", average_from=5)
    net.fit(x, y, batch_size=8, optimizer=optimizer)
    with pytest.raises(ValueError, match="average_from=5"):
        net.averaged()
    net.fit(x, y, batch_size=8, optimizer=optimizer)
    net.averaged()
    # another optimiser keeps none
    net.fit(x, y, optimizer=fnn.SGD(0.1))
    with pytest.raises(ValueError, match=r"^averaged"):
        net.averaged()


def test_memory_counts_the_average() -> None:
    net = build()
    more = net.memory(8, optimizer=fnn.SGD(0.1, average=0.9)) - net.memory(8, optimizer=fnn.SGD(0.1))
    assert more == 2 * 8 * net._plan.parameters.size


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("loss", LOSSES)
def test_any_number_of_threads_gives_the_same_bits(loss: str, dtype: str) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1500, 60)).astype(dtype)
    y = rng.integers(0, 30, 1500) if loss == LOSSES[0] else rng.random((1500, 30)).astype(dtype)
    weights = rng.exponential(size=1500)
    seen = set()
    for n_threads in (1, 2, 3, 5, 8):
        net = fnn.Sequential(
            [fnn.Dense(60, 100), fnn.BatchNorm(100), fnn.ReLU(), fnn.Dense(100, 30)], loss=loss, dtype=dtype, seed=0)
        optimizer = fnn.SGD(fnn.schedules.OneCycle(0.1, 9), momentum=0.9, average=0.5, decay="all", weight_decay=0.01)
        with fnn.num_threads(n_threads):
            history = net.fit(x, y, epochs=3, batch_size=500, sample_weight=weights, optimizer=optimizer)
        seen.add((*bits(net).values(), *bits(net.averaged()).values(), *history.loss))
    assert len(seen) == 1
