"""`Sequential` in training: steps, epochs, batches, the optimiser, and what happens when something goes wrong."""

from __future__ import annotations

import functools
import itertools
import os
import re
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from plain import Plain, visited_batches, visited_rows
from plain import optimizer as made

import fastnn as fnn
from fastnn import optimizers
from fastnn.training import batch_starts

Array = np.ndarray

LOSSES = ["softmax_cross_entropy", "sigmoid_cross_entropy", "mean_squared_error"]
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "plain": {"lr": 0.3},
    "momentum": {"lr": 0.1, "momentum": 0.9},
    "nesterov": {"lr": 0.1, "momentum": 0.8, "nesterov": True},
    "decay": {"lr": 0.3, "weight_decay": 0.1},
    "clip": {"lr": 0.3, "clip_norm": 0.2},
    "all": {"lr": 0.2, "momentum": 0.9, "nesterov": True, "weight_decay": 0.05, "clip_norm": 0.05},
    # eps above the rounding of a gradient that should be 0, which Adam would scale up
    "Adam": {"kind": "Adam", "lr": 0.1, "eps": 1e-2},
    "Adam, all": {"kind": "Adam", "lr": 0.1, "beta1": 0.5, "beta2": 0.9, "eps": 1e-2, "eps_hat": True, "weight_decay": 0.05,
                  "clip_norm": 0.05},
    "AdamW": {"kind": "AdamW", "lr": 0.1, "eps": 1e-2, "weight_decay": 0.5},
}


def random_data(loss: str = LOSSES[0], n_rows: int = 24, dtype: str = "float64") -> tuple[Array, Array]:
    rng = np.random.default_rng(7)
    x = rng.normal(0.3, 1.5, size=(n_rows, 5)).astype(dtype)
    if loss == "softmax_cross_entropy":
        return x, rng.integers(0, 3, n_rows)
    if loss == "sigmoid_cross_entropy":
        return x, rng.random((n_rows, 3)).astype(dtype)
    return x, rng.normal(size=(n_rows, 3)).astype(dtype)


def build(
    loss: str = LOSSES[0], *, dtype: str = "float64", norm: bool = True, dropout: float = 0.0, seed: int = 0,
) -> fnn.Sequential:
    """5 - 6 - 4 - 3."""
    layers: list[Any] = [fnn.Dense(5, 6)]
    layers += [fnn.BatchNorm(6)] if norm else []
    layers += [fnn.Tanh()]
    layers += [fnn.Dropout(dropout)] if dropout else []
    layers += [fnn.Dense(6, 4, bias=False), fnn.ELU(), fnn.Dense(4, 3)]
    return fnn.Sequential(layers, loss=loss, dtype=dtype, seed=seed)


def bits(net: fnn.Sequential) -> dict[str, bytes]:
    return {name: a.tobytes() for name, a in net.state_dict().items()}


def trained(optimizer: Any, loss: str = LOSSES[0], dtype: str = "float64") -> fnn.Sequential:
    """A network with dropout and batch norm after one epoch, so that there is a velocity to lose."""
    net = build(loss, dtype=dtype, dropout=0.3)
    net.fit(*random_data(loss), optimizer=optimizer, batch_size=8)
    return net


def assert_same_future(net: fnn.Sequential, twin: fnn.Sequential, optimizer: fnn.SGD, shuffle: bool = True) -> None:
    """Equal now, and equal after more training: generator, velocity and counters are the same too.

    Not shuffled, the generator of the orders may differ, that of the dropout may not.
    """
    assert bits(net) == bits(twin)
    x, y = random_data(net.loss)
    for given in (None, optimizer):
        histories = [n.fit(x, y, optimizer=given, batch_size=8, shuffle=shuffle) for n in (net, twin)]
        assert bits(net) == bits(twin)
        assert histories[0].loss == histories[1].loss
        assert histories[0].epochs[0]["epoch"] == histories[1].epochs[0]["epoch"]


def by_hand(
    net: fnn.Sequential, x: Array, y: Array, optimizer: fnn.SGD, bounds: list[tuple[int, int]],
) -> list[float]:
    """Train on these batches, one after the other."""
    return [net.train_step(x[start:end], y[start:end], optimizer) for start, end in bounds]


# ---------------------------------------------------------------------------------- against a network in plain NumPy

@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-10), ("float32", 3e-5)])
@pytest.mark.parametrize("options", OPTIMIZERS)
@pytest.mark.parametrize("loss", LOSSES)
def test_training_equals_plain_numpy(loss: str, options: str, dtype: str, tolerance: float) -> None:
    net = build(loss, dtype=dtype)
    plain = Plain(net)
    optimizer = made(**OPTIMIZERS[options])
    x, y = random_data(loss, dtype=dtype)
    for start, end in [(0, 8), (8, 16), (16, 24), (0, 11), (11, 24), (0, 24)]:
        expected = plain.step(x[start:end], y[start:end], **OPTIMIZERS[options])
        np.testing.assert_allclose(net.train_step(x[start:end], y[start:end], optimizer), expected, rtol=tolerance)
    for name, a in net.state_dict().items():
        np.testing.assert_allclose(a, plain.state[name], rtol=tolerance, atol=tolerance, err_msg=name)
    if "clip_norm" in OPTIMIZERS[options]:
        assert max(plain.norms) > OPTIMIZERS[options]["clip_norm"]


def test_every_option_of_the_optimizer_matters() -> None:
    x, y = random_data()
    seen = set()
    for options in OPTIMIZERS.values():
        net = build()
        by_hand(net, x, y, made(**options), [(0, 8), (8, 16), (16, 24)])
        seen.add(net.layers[0].weight.tobytes())
    assert len(seen) == len(OPTIMIZERS)


def test_weight_decay_leaves_all_but_dense_weights_alone() -> None:
    x, y = random_data()
    nets = [build() for _ in range(2)]
    for net, decay in zip(nets, (0.0, 0.5), strict=True):
        net.train_step(x, y, fnn.SGD(lr=0.1, weight_decay=decay))
    same = {name for name in bits(nets[0]) if bits(nets[0])[name] == bits(nets[1])[name]}
    assert same == {name for name in bits(nets[0]) if not name.endswith(".weight")}


@pytest.mark.parametrize("kind", [fnn.Adam, fnn.AdamW])
@pytest.mark.parametrize("decay", ["weights", "all"])
def test_weight_decay_of_adam_acts_on_what_it_should(decay: str, kind: Any) -> None:
    x, y = random_data()
    nets = [build() for _ in range(2)]
    for net, weight_decay in zip(nets, (0.0, 0.5), strict=True):
        net.train_step(x, y, kind(lr=0.1, eps=1e-2, weight_decay=weight_decay, decay=decay))
    same = {name for name in bits(nets[0]) if bits(nets[0])[name] == bits(nets[1])[name]}
    # (biases and beta start at 0, where nothing decays)
    decayed = ("weight", "gamma") if decay == "all" else "weight"
    assert same == {name for name in bits(nets[0]) if not name.endswith(decayed)}


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_norm_that_is_large_enough_clips_nothing(momentum: float) -> None:
    x, y = random_data()
    nets = [build() for _ in range(2)]
    for net, clip_norm in zip(nets, (None, 1e3), strict=True):
        by_hand(net, x, y, fnn.SGD(lr=0.1, momentum=momentum, clip_norm=clip_norm), [(0, 12), (12, 24)])
    assert bits(nets[0]) == bits(nets[1])


@pytest.mark.parametrize(("dtype", "scale"), [
    ("float32", 1.0), ("float32", 1e15), ("float64", 1.0), ("float64", 1e100),
])
def test_a_clipped_step_has_the_length_of_the_norm(dtype: str, scale: float) -> None:
    net = fnn.Sequential([fnn.Dense(5, 3)], loss="mean_squared_error", dtype=dtype, seed=0)
    x, y = random_data("mean_squared_error", dtype=dtype)
    before = net.state_dict()
    net.train_step(x * x.dtype.type(scale), y * x.dtype.type(scale), fnn.SGD(lr=0.5, clip_norm=0.25))
    step = np.concatenate([(a - before[name]).ravel() for name, a in net.state_dict().items()])
    np.testing.assert_allclose(np.linalg.norm(step), 0.125, rtol=1e-5)


def test_learning_rate_zero_moves_the_velocity_only() -> None:
    net, plain = build(), Plain(build())
    x, y = random_data()
    optimizer = fnn.SGD(lr=0.0, momentum=0.9)
    net.train_step(x, y, optimizer)
    parameters = {name: a for name, a in net.state_dict().items() if "running" not in name}
    assert all(plain.state[name].tobytes() == a.tobytes() for name, a in parameters.items())
    plain.step(x, y, lr=0.0, momentum=0.9)
    optimizer.lr = 0.1
    net.train_step(x, y, optimizer)
    plain.step(x, y, lr=0.1, momentum=0.9)
    for name, a in net.state_dict().items():
        np.testing.assert_allclose(a, plain.state[name], rtol=1e-10, atol=1e-12)


BAD_OPTIONS: list[tuple[dict[str, Any], type[Exception], str]] = [
    *[({"lr": lr}, ValueError, "lr") for lr in (-0.1, np.nan, np.inf, -np.inf)],
    *[({"lr": lr}, TypeError, "lr") for lr in ("0.1", True, None, np.array([0.1]), 1j)],
    *[({"momentum": m}, ValueError, "momentum") for m in (-0.1, 1, 1.0, 1.5, np.nan)],
    *[({"momentum": m}, TypeError, "momentum") for m in ("0.9", False, None)],
    ({"nesterov": True}, ValueError, "nesterov"),
    ({"nesterov": True, "momentum": 0}, ValueError, "nesterov"),
    *[({"nesterov": n, "momentum": 0.9}, TypeError, "nesterov") for n in (1, None, "yes")],
    *[({"weight_decay": w}, ValueError, "weight_decay") for w in (-1e-4, np.nan, np.inf)],
    *[({"weight_decay": w}, TypeError, "weight_decay") for w in ("0", True, None)],
    *[({"clip_norm": c}, ValueError, "clip_norm") for c in (0, 0.0, -1, np.nan, np.inf)],
    *[({"clip_norm": c}, TypeError, "clip_norm") for c in ("1", True)],
]


@pytest.mark.parametrize(("options", "error", "name"), BAD_OPTIONS)
def test_bad_options_of_the_optimizer_are_named(options: dict[str, Any], error: type[Exception], name: str) -> None:
    with pytest.raises(error, match=rf"^{name}: expected .*got"):
        fnn.SGD(**options)


@pytest.mark.parametrize("kind", [fnn.Adam, fnn.AdamW])
@pytest.mark.parametrize(("options", "error", "name"), [
    *[case for case in BAD_OPTIONS if case[2] in ("lr", "weight_decay", "clip_norm")],
    *[({name: b}, ValueError, name) for name in ("beta1", "beta2") for b in (-0.1, 1, 1.0, np.nan)],
    *[({name: b}, TypeError, name) for name in ("beta1", "beta2") for b in ("0.9", False, None)],
    *[({"eps": e}, ValueError, "eps") for e in (0, -1e-8, np.nan, np.inf)],
    *[({"eps": e}, TypeError, "eps") for e in ("1e-8", True, None)],
    *[({"eps_hat": e}, TypeError, "eps_hat") for e in (0, None, "yes")],
])
def test_bad_options_of_adam_are_named(options: dict[str, Any], error: type[Exception], name: str, kind: Any) -> None:
    with pytest.raises(error, match=rf"^{name}: expected .*got"):
        kind(**options)


@pytest.mark.parametrize("options", [{"beta1": 1 - 1e-9}, {"beta2": 1 - 1e-9}, {"eps": 1e-44}, {"eps": 1e39}, {"lr": 1e39}])
def test_numbers_of_adam_that_float32_does_not_hold(options: dict[str, Any]) -> None:
    x, y = random_data()
    build(dtype="float64").train_step(x, y, fnn.Adam(**options))
    net = build(dtype="float32")
    before = bits(net)
    with pytest.raises(ValueError, match=rf"^{next(iter(options))}: expected .*float32.*got"):
        net.train_step(x, y, fnn.Adam(**options))
    assert bits(net) == before


def test_kinds_of_adam_and_their_defaults() -> None:
    assert (fnn.Adam().lr, fnn.Adam().weight_decay, fnn.AdamW().lr, fnn.AdamW().weight_decay) == (0.001, 0, 0.001, 0.01)
    assert repr(fnn.AdamW(0.5, beta1=0.25)).startswith("AdamW(lr=0.5, beta1=0.25, beta2=0.999, eps=1e-08, eps_hat=False, ")
    for name in ("SGD", "Adam", "AdamW"):
        config = getattr(fnn, name)().config()
        again = optimizers.from_config(config)
        assert type(again) is getattr(fnn, name) and again.config() == config
        assert config["kind"] == name
        with pytest.raises(ValueError, match=r"^kind: "):
            getattr(fnn, "SGD" if name != "SGD" else "Adam").from_config(config)
    assert type(optimizers.from_config({"lr": 0.5})) is fnn.SGD
    for wrong in ({"kind": "Lion"}, {"kind": "Adam", "momentum": 0.9}):
        with pytest.raises(ValueError):
            optimizers.from_config(wrong)


def test_optimizer_takes_numpy_numbers() -> None:
    x, y = random_data()
    nets = [build() for _ in range(2)]
    for net, number in zip(nets, (float, np.float64), strict=True):
        optimizer = fnn.SGD(
            number(0.1), momentum=number(0.5), weight_decay=number(0.1), clip_norm=number(1), nesterov=True)
        by_hand(net, x, y, optimizer, [(0, 12), (12, 24)])
    assert bits(nets[0]) == bits(nets[1])
    assert fnn.SGD().lr == 0.01
    assert "lr=0.1" in repr(fnn.SGD(0.1)) and "momentum=0.5" in repr(fnn.SGD(momentum=0.5))


def quadratic(lr: float, momentum: float) -> int:
    """Steps until diag(1, 100) is minimised to 1e-6 of where it starts, (1, 1)."""
    layer = fnn.Dense(2, 1, bias=False, init=np.ones((2, 1)))
    net = fnn.Sequential([layer], loss="mean_squared_error", dtype="float64")
    x, y = np.diag([1.0, 10.0]), np.zeros((2, 1))
    optimizer = fnn.SGD(lr=lr, momentum=momentum)
    for step in range(1, 2000):
        net.train_step(x, y, optimizer)
        if np.linalg.norm(layer.weight) <= 1e-6 * np.sqrt(2):
            return step
    raise AssertionError("does not converge")


def test_gradient_descent_takes_the_number_of_steps_it_should() -> None:
    assert quadratic(2 / 101, 0.0) == 691
    assert quadratic((2 / 11) ** 2, (9 / 11) ** 2) == 93


def test_terminal_speed_of_momentum() -> None:
    layer = fnn.Dense(1, 1, bias=False, init="zeros")
    net = fnn.Sequential([layer], loss="mean_squared_error", dtype="float64")
    optimizer = fnn.SGD(lr=1e-9, momentum=0.9)
    x, y = np.ones((1, 1)), np.full((1, 1), 0.5)       # the gradient stays at 2 (w - 0.5) = -1
    places = []
    for _ in range(100):
        places.append(layer.weight.item())
        net.train_step(x, y, optimizer)
    speed = layer.weight.item() - places[-1]
    np.testing.assert_allclose(speed, 1e-9 / (1 - 0.9) * (1 - 0.9**100), rtol=1e-5)


# ------------------------------------------------------------------------------------------------- steps and epochs

@pytest.mark.parametrize("loss", LOSSES)
def test_train_step_returns_the_loss_before_the_update(loss: str) -> None:
    net = build(loss)
    x, y = random_data(loss)
    before = net.loss_and_gradients(x, y)[0]
    given = net.train_step(x, y, fnn.SGD(lr=0.1))
    assert type(given) is float
    assert given == before
    assert net.loss_and_gradients(x, y)[0] < before


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("options", OPTIMIZERS)
@pytest.mark.parametrize("loss", LOSSES)
def test_fit_is_a_loop_of_train_step(loss: str, options: str, dtype: str) -> None:
    net, twin = (build(loss, dtype=dtype, dropout=0.3) for _ in range(2))
    x, y = random_data(loss, dtype=dtype)
    bounds = [(0, 7), (7, 14), (14, 24)]
    history = net.fit(x, y, epochs=3, batch_size=7, optimizer=made(**OPTIMIZERS[options]), shuffle=False)
    optimizer = made(**OPTIMIZERS[options])
    for mean in history.loss:
        losses = by_hand(twin, x, y, optimizer, bounds)
        np.testing.assert_allclose(mean, np.average(losses, weights=[end - start for start, end in bounds]), rtol=1e-13)
    assert bits(net) == bits(twin)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_seed_decides_everything(dtype: str) -> None:
    x, y = random_data(dtype=dtype)
    nets = [build(dtype=dtype, dropout=0.3, seed=seed) for seed in (1, 1, 2)]
    histories = [net.fit(x, y, epochs=3, batch_size=5, optimizer=fnn.SGD(lr=0.1, momentum=0.9)) for net in nets]
    assert bits(nets[0]) == bits(nets[1]) != bits(nets[2])
    assert histories[0].loss == histories[1].loss != histories[2].loss


def test_the_seed_decides_the_shuffling() -> None:
    x, y = random_data()
    state = build().state_dict()
    results = []
    for seed, shuffle in ((1, True), (1, True), (2, True), (1, False)):
        net = build(seed=seed)
        net.load_state_dict(state)
        net.fit(x, y, batch_size=8, optimizer=fnn.SGD(lr=0.1), shuffle=shuffle)
        results.append(net.layers[0].weight.tobytes())
    assert results[0] == results[1]
    assert len(set(results)) == 3


def test_an_epoch_visits_every_row_once_in_a_new_order() -> None:
    epochs = visited_rows(10, 3)
    assert [sorted(epoch) for epoch in epochs] == [list(range(10))] * 3
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0] != list(range(10))
    assert visited_batches(10, 1, shuffle=False) == [[[row] for row in range(10)]]
    assert visited_batches(10, 1, 3, shuffle=False) == [[[0, 1, 2], [3, 4, 5], [6, 7, 8, 9]]]
    assert visited_batches(10, 1, 3, shuffle=False, last_batch="drop") == [[[0, 1, 2], [3, 4, 5], [6, 7, 8]]]
    # batches are cut from the same order, whatever their size
    for order, batches in zip(epochs, visited_batches(10, 3, 3), strict=True):
        assert batches == [sorted(order[:3]), sorted(order[3:6]), sorted(order[6:])]
    dropped = [set(itertools.chain(*batches)) for batches in visited_batches(10, 20, 3, last_batch="drop")]
    assert set.union(*dropped) == set(range(10))        # another row is left out in each epoch
    assert [len(epoch) for epoch in dropped] == [9] * 20


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_shuffled_epoch_is_a_loop_of_train_step(dtype: str) -> None:
    net, twin = (build(dtype=dtype, dropout=0.3, seed=3) for _ in range(2))
    x, y = random_data(dtype=dtype)
    history = net.fit(x, y, epochs=3, batch_size=7, optimizer=momentum())
    optimizer = momentum()
    for mean, order in zip(history.loss, visited_rows(24, 3, seed=3), strict=True):
        losses = by_hand(twin, x[order], y[order], optimizer, [(0, 7), (7, 14), (14, 24)])
        np.testing.assert_allclose(mean, np.average(losses, weights=[7, 7, 10]), rtol=1e-13)
    assert bits(net) == bits(twin)


def test_numpys_global_generator_is_left_alone() -> None:
    x, y = random_data()
    before = np.random.get_state()      # noqa: NPY002
    net = fnn.Sequential([fnn.Dense(5, 6), fnn.BatchNorm(6), fnn.Dropout(0.3), fnn.Dense(6, 3)])
    net.fit(x, y, epochs=2)
    net.forward(x, training=True)
    net.predict(x)
    after = np.random.get_state()       # noqa: NPY002
    assert before[0] == after[0] and (before[1] == after[1]).all() and before[2:] == after[2:]
    results = []
    for seed in (0, 1):
        np.random.seed(seed)            # noqa: NPY002
        net = build(dropout=0.3, seed=5)
        net.fit(x, y)
        results.append(bits(net))
    assert results[0] == results[1]


@pytest.mark.parametrize("loss", LOSSES)
def test_history(loss: str) -> None:
    net = build(loss)
    x, y = random_data(loss, 60)
    validation = x[40:], y[40:]
    history = net.fit(x[:40], y[:40], epochs=3, batch_size=8, optimizer=fnn.SGD(lr=0.05), validation_data=validation)
    assert isinstance(history, fnn.History)
    keys = {"epoch", "loss", "lr", "seconds", "rows_per_second", "val_loss", "val_accuracy"}
    keys -= {"val_accuracy"} if loss == "mean_squared_error" else set()
    assert [set(epoch) for epoch in history.epochs] == [keys] * 3
    assert [epoch["epoch"] for epoch in history.epochs] == [1, 2, 3]
    assert history.loss == [epoch["loss"] for epoch in history.epochs]
    assert all(epoch["lr"] == 0.05 and epoch["seconds"] >= 0 for epoch in history.epochs)
    assert history.loss[0] > history.loss[-1]
    last = {f"val_{name}": value for name, value in net.evaluate(*validation).items()}
    assert last.items() <= history.epochs[-1].items()
    assert history.epochs[0]["val_loss"] != history.epochs[-1]["val_loss"]
    assert "3 epochs" in repr(history)
    more = net.fit(x, y, epochs=2, batch_size=8)
    assert [epoch["epoch"] for epoch in more.epochs] == [4, 5]
    assert not any(name.startswith("val_") for name in more.epochs[0])


def test_validation_has_no_part_in_training() -> None:
    x, y = random_data()
    nets = [build(dropout=0.3) for _ in range(2)]
    for net, validation in zip(nets, (None, (x[:5], y[:5])), strict=True):
        net.fit(x, y, epochs=3, batch_size=8, optimizer=fnn.SGD(lr=0.1), validation_data=validation)
    assert bits(nets[0]) == bits(nets[1])


def test_no_epochs() -> None:
    net = build(dropout=0.3)
    before = bits(net)
    history = net.fit(*random_data(), epochs=0)
    assert history.epochs == history.loss == []
    assert bits(net) == before
    assert net.fit(*random_data()).epochs[0]["epoch"] == 1


# ------------------------------------------------------------------------------------ whose velocity, which batches

def fitted(parts: list[tuple[int, Any]], dtype: str = "float32") -> fnn.Sequential:
    net = build(dtype=dtype, dropout=0.3)
    for epochs, optimizer in parts:
        net.fit(*random_data(), epochs=epochs, batch_size=8, optimizer=optimizer)
    return net


def momentum() -> fnn.SGD:
    return fnn.SGD(lr=0.05, momentum=0.9)


def adam() -> fnn.AdamW:
    return fnn.AdamW(lr=0.05)


with_moments = pytest.mark.parametrize("moving", [momentum, adam])


@with_moments
def test_no_optimizer_goes_on_with_the_last(moving: Callable[[], Any]) -> None:
    optimizer = moving()
    whole = fitted([(6, moving())])
    assert bits(fitted([(3, optimizer), (3, None)])) == bits(whole)
    assert bits(fitted([(3, optimizer), (3, optimizer)])) == bits(whole)
    # another object: the velocity, or the moments and the count of steps, start at zero
    assert bits(fitted([(3, moving()), (3, moving())])) != bits(whole)
    assert bits(fitted([(2, None)])) == bits(fitted([(2, fnn.SGD())])) != bits(fitted([(2, moving())]))


@with_moments
@pytest.mark.parametrize("before", [momentum, adam, fnn.SGD])
def test_another_optimizer_starts_without_velocity(before: Callable[[], Any], moving: Callable[[], Any]) -> None:
    x, y = random_data()
    net, fresh = build(), build()
    net.fit(x, y, epochs=2, optimizer=before(), shuffle=False)
    fresh.load_state_dict(net.state_dict())
    for n in (net, fresh):
        n.fit(x, y, epochs=2, optimizer=moving(), shuffle=False)
    assert bits(net) == bits(fresh)


@with_moments
def test_train_step_and_fit_share_the_velocity(moving: Callable[[], Any]) -> None:
    x, y = random_data()
    net, twin = build(), build()
    optimizer = moving()
    net.fit(x, y, batch_size=24, epochs=2, optimizer=optimizer, shuffle=False)
    twin.train_step(x, y, optimizer)
    twin.fit(x, y, batch_size=24, shuffle=False)
    assert bits(net) == bits(twin)


@with_moments
def test_one_optimizer_may_train_two_networks(moving: Callable[[], Any]) -> None:
    x, y = random_data()
    optimizer = moving()
    nets, alone = ([build(seed=seed) for seed in (1, 2)] for _ in range(2))
    for _ in range(4):
        for net in nets:
            net.train_step(x, y, optimizer)
    for net in alone:
        own = moving()
        for _ in range(4):
            net.train_step(x, y, own)
    assert [bits(net) for net in nets] == [bits(net) for net in alone]


@pytest.mark.parametrize(("arguments", "bounds"), [
    ((8, 4, "merge"), [(0, 4), (4, 8)]), ((8, 4, "drop"), [(0, 4), (4, 8)]), ((8, 4, "keep"), [(0, 4), (4, 8)]),
    ((10, 4, "merge"), [(0, 4), (4, 10)]), ((10, 4, "drop"), [(0, 4), (4, 8)]),
    ((10, 4, "keep"), [(0, 4), (4, 8), (8, 10)]),
    ((9, 4, "merge"), [(0, 4), (4, 9)]), ((9, 4, "keep"), [(0, 4), (4, 8), (8, 9)]),
    ((5, 4, "merge"), [(0, 5)]), ((5, 4, "drop"), [(0, 4)]), ((5, 4, "keep"), [(0, 4), (4, 5)]),
    ((3, 4, "merge"), [(0, 3)]), ((3, 4, "keep"), [(0, 3)]),
    ((4, 4, "drop"), [(0, 4)]), ((3, 1, "merge"), [(0, 1), (1, 2), (2, 3)]), ((1, 1, "drop"), [(0, 1)]),
    ((1, 10**12, "merge"), [(0, 1)]),
])
def test_batch_starts(arguments: tuple[int, int, str], bounds: list[tuple[int, int]]) -> None:
    starts = batch_starts(*arguments)
    assert starts.dtype == np.intp and starts.flags.c_contiguous
    assert list(itertools.pairwise(starts.tolist())) == bounds


def test_batch_starts_of_all_small_sizes() -> None:
    for n, size in itertools.product(range(1, 40), range(1, 45)):
        for last_batch in ("merge", "keep", "drop"):
            if last_batch == "drop" and size > n:
                with pytest.raises(ValueError, match=rf"^batch_size: .*{n}.*{size}"):
                    batch_starts(n, size, last_batch)
                continue
            starts = batch_starts(n, size, last_batch)
            lengths = np.diff(starts).tolist()
            assert starts[0] == 0 and lengths
            assert starts[-1] == (n - n % size if last_batch == "drop" else n)
            assert all(length == size for length in lengths[:-1])
            least, most = {"merge": (min(n, size), 2 * size - 1), "keep": (1, size), "drop": (size, size)}[last_batch]
            assert least <= lengths[-1] <= most


@pytest.mark.parametrize(("rows", "size", "last_batch", "bounds"), [
    (22, 8, "merge", [(0, 8), (8, 22)]), (22, 8, "drop", [(0, 8), (8, 16)]),
    (22, 8, "keep", [(0, 8), (8, 16), (16, 22)]), (17, 8, "merge", [(0, 8), (8, 17)]),
    (17, 8, "drop", [(0, 8), (8, 16)]), (24, 100, "merge", [(0, 24)]), (24, 100, "keep", [(0, 24)]),
])
def test_fit_takes_these_batches(rows: int, size: int, last_batch: str, bounds: list[tuple[int, int]]) -> None:
    x, y = random_data(n_rows=rows)
    net, twin = build(), build()
    history = net.fit(x, y, batch_size=size, optimizer=momentum(), shuffle=False, last_batch=last_batch)
    losses = by_hand(twin, x, y, momentum(), bounds)
    assert bits(net) == bits(twin)
    expected = np.average(losses, weights=[end - start for start, end in bounds])
    np.testing.assert_allclose(history.loss, [expected], rtol=1e-13)


@pytest.mark.parametrize(("rows", "options", "name"), [
    (17, {"batch_size": 8, "last_batch": "keep"}, "x"), (17, {"batch_size": 1}, "x"), (1, {}, "x"),
    (5, {"batch_size": 8, "last_batch": "drop"}, "batch_size"),
])
def test_batches_that_batchnorm_cannot_take(rows: int, options: dict[str, Any], name: str) -> None:
    optimizer = momentum()
    net, twin = (trained(optimizer) for _ in range(2))
    with pytest.raises(ValueError, match=f"^{name}: "):
        net.fit(*random_data(n_rows=rows), optimizer=optimizer, **options)
    assert_same_future(net, twin, optimizer)


def test_single_rows_are_fine_without_batchnorm() -> None:
    x, y = random_data(n_rows=9)
    net, twin = build(norm=False), build(norm=False)
    net.fit(x, y, batch_size=4, optimizer=momentum(), shuffle=False, last_batch="keep")
    by_hand(twin, x, y, momentum(), [(0, 4), (4, 8), (8, 9)])
    assert bits(net) == bits(twin)


# ------------------------------------------------------------------------------------------------------------ inputs

def strided(a: Array) -> Array:
    wide = np.zeros((2 * len(a), 2 * a.shape[1]), a.dtype)
    wide[::2, ::2] = a
    return wide[::2, ::2]


def mapped(a: Array, folder: Path) -> Array:
    a.tofile(folder / "data")
    return np.memmap(folder / "data", a.dtype, "r", shape=a.shape)


INPUTS: dict[str, Callable[[Array, Path], Array]] = {
    "uint8": lambda a, _: (40 * abs(a)).astype(np.uint8),
    "int64": lambda a, _: (1e10 * a).astype(np.int64),
    "bool": lambda a, _: a > 0,
    "float64": lambda a, _: a,
    "float32": lambda a, _: a.astype(np.float32),
    "swapped": lambda a, _: a.astype(">f4" if sys.byteorder == "little" else "<f4"),
    "fortran": lambda a, _: np.asfortranarray(a),
    "strided": lambda a, _: strided(a),
    "reversed": lambda a, _: a[::-1],
    "memmap": lambda a, folder: mapped(a.astype(np.float32), folder),
    "memmap-uint8": lambda a, folder: mapped((40 * abs(a)).astype(np.uint8), folder),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("kind", INPUTS)
def test_inputs_of_any_kind_train_like_their_conversion(kind: str, shuffle: bool, dtype: str, tmp_path: Path) -> None:
    x, y = random_data("mean_squared_error")
    results = []
    given_x, given_y = INPUTS[kind](x, tmp_path), np.asfortranarray(np.round(10 * y).astype(np.int16))
    for converted in (False, True):
        net = build("mean_squared_error", dtype=dtype)
        data = [np.ascontiguousarray(a, dtype) if converted else a for a in (given_x, given_y)]
        history = net.fit(*data, epochs=2, batch_size=7, optimizer=fnn.SGD(lr=1e-3, momentum=0.9), shuffle=shuffle,
                          validation_data=tuple(data))
        loss = net.train_step(*data, fnn.SGD(lr=1e-3))
        results.append((bits(net), history.loss, [epoch["val_loss"] for epoch in history.epochs], loss))
    assert results[0] == results[1]


@pytest.mark.parametrize("dtype", ["i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", ">i4", ">u8", "<i2"])
def test_labels_of_any_integer_dtype(dtype: str) -> None:
    x, y = random_data()
    net, twin = build(), build()
    wide = np.zeros(2 * len(y), dtype)
    wide[::2] = y
    a, b = (n.fit(x, labels, epochs=2, batch_size=7, optimizer=momentum()).loss
            for n, labels in ((net, wide[::2]), (twin, y.astype(np.int64))))
    assert a == b
    assert bits(net) == bits(twin)
    assert net.evaluate(x, wide[::2]) == net.evaluate(x, y)


@pytest.mark.parametrize("shuffle", [True, False])
def test_data_is_not_written(shuffle: bool) -> None:
    for loss in LOSSES:
        x, y = random_data(loss)
        kept = x.tobytes(), y.tobytes()
        x.flags.writeable = y.flags.writeable = False
        build(loss, dropout=0.3).fit(x, y, batch_size=7, optimizer=momentum(), shuffle=shuffle, validation_data=(x, y))
        assert (x.tobytes(), y.tobytes()) == kept


@pytest.mark.parametrize("name", ["fit", "evaluate", "predict"])
def test_data_is_converted_by_the_batch(name: str, tmp_path: Path) -> None:
    x = mapped(np.random.default_rng(0).integers(0, 256, (20_000, 100), np.uint8), tmp_path)
    y = np.zeros(len(x), np.int64)
    net = fnn.Sequential([fnn.Dense(100, 2)], dtype="float64")
    optimizer = fnn.SGD(lr=1e-9)
    arguments = {"fit": (x, y), "evaluate": (x, y), "predict": (x,)}[name]
    options = {"optimizer": optimizer, "batch_size": 256} if name == "fit" else {}
    tracemalloc.start()
    try:
        getattr(net, name)(*arguments, **options)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4e6       # all rows in float64 are 16 MB, even in uint8 they are 2 MB


# -------------------------------------------------------------------------------------------------- what goes wrong

def diverging(dtype: str, lr: float) -> tuple[fnn.Sequential, fnn.SGD, Array, Array]:
    """A regression that blows up; everything about it is deterministic."""
    x, y = random_data("mean_squared_error", dtype=dtype)
    net = fnn.Sequential([fnn.Dense(5, 6), fnn.BatchNorm(6), fnn.ReLU(), fnn.Dropout(0.2), fnn.Dense(6, 3)],
                         loss="mean_squared_error", dtype=dtype, seed=0)
    return net, fnn.SGD(lr=lr, momentum=0.5), x, y


@pytest.mark.parametrize(("dtype", "lr"), [
    *[("float32", lr) for lr in (1e2, 1e5, 1e10, 1e20, 1e30, 1e38)],
    *[("float64", lr) for lr in (1e2, 1e10, 1e38, 1e100, 1e150, 1e200, 1e300, 1e308)],
])
def test_divergence_keeps_the_last_finite_step(dtype: str, lr: float) -> None:
    net, optimizer, x, y = diverging(dtype, lr)
    with pytest.raises(fnn.DivergedError) as caught:
        net.fit(x, y, epochs=500, batch_size=8, optimizer=optimizer, shuffle=False)
    assert isinstance(caught.value, ArithmeticError)
    assert all(np.isfinite(a).all() for a in net.state_dict().values())

    twin, _, _, _ = diverging(dtype, lr)
    steps = 0
    with pytest.raises(fnn.DivergedError):
        for start in (0, 8, 16) * 500:
            before = bits(twin)
            twin.train_step(x[start:start + 8], y[start:start + 8], optimizer)
            steps += 1
    assert bits(twin) == before == bits(net)
    assert f"step {steps % 3} of epoch {steps // 3 + 1}" in str(caught.value)
    # the generator is where it was, too: the dropout of both goes on alike
    np.testing.assert_array_equal(net.forward(x, training=True), twin.forward(x, training=True))


@pytest.mark.parametrize("lr", [1e39, 1e100, 1e308])
def test_a_learning_rate_beyond_float32_does_no_harm(lr: float) -> None:
    net, optimizer, x, y = diverging("float32", lr)
    before = bits(net)
    with pytest.raises((fnn.DivergedError, ValueError)):
        net.fit(x, y, optimizer=optimizer)
    assert {name: a for name, a in bits(net).items() if "running" not in name} == {
        name: a for name, a in before.items() if "running" not in name}


@pytest.mark.parametrize(("dtype", "lr"), [("float32", 1e38), ("float64", 1e308)])
@pytest.mark.parametrize("options", [{}, {"momentum": 0.9}], ids=["plain", "momentum"])
def test_a_step_to_infinity_is_not_taken(dtype: str, lr: float, options: dict[str, float]) -> None:
    """Loss and gradient are finite, the parameters would not be."""
    x, y = random_data("mean_squared_error", dtype=dtype)
    net, twin = (build("mean_squared_error", dtype=dtype, dropout=0.3) for _ in range(2))
    with pytest.raises(fnn.DivergedError):
        net.fit(x, 1000 * y, optimizer=fnn.SGD(lr=lr, **options), shuffle=False)
    assert bits(net) == bits(twin)
    np.testing.assert_array_equal(net.forward(x, training=True), twin.forward(x, training=True))


@pytest.mark.parametrize("options", [{}, {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True}])
@pytest.mark.parametrize(("dtype", "steps"), [("float32", 50), ("float64", 400)])
def test_weights_that_decay_to_infinity(dtype: str, steps: int, options: dict[str, Any]) -> None:
    """lr * weight_decay > 2 is an oscillation that grows; behind batch norm neither loss nor gradient shows it."""
    x, y = random_data(dtype=dtype)
    net = fnn.Sequential(
        [fnn.Dense(5, 6, bias=False), fnn.BatchNorm(6), fnn.Tanh(), fnn.Dense(6, 3, init="zeros"), fnn.BatchNorm(3)],
        dtype=dtype, seed=0)
    optimizer = fnn.SGD(lr=1.0, weight_decay=12.0, **options)
    with pytest.raises(fnn.DivergedError):
        for _ in range(steps):
            net.train_step(x, y, optimizer)
    assert all(np.isfinite(a).all() for name, a in net.state_dict().items() if "running" not in name)


@pytest.mark.parametrize(("dtype", "scale"), [("float32", 1e25), ("float64", 1e160)])
def test_the_running_variance_never_becomes_infinite(dtype: str, scale: float) -> None:
    net = fnn.Sequential([fnn.BatchNorm(5), fnn.Dense(5, 3)], dtype=dtype, seed=0)
    before = bits(net)
    x, y = random_data(dtype=dtype)
    try:
        net.train_step(x * x.dtype.type(scale), y, fnn.SGD())
    except (ValueError, fnn.DivergedError):
        assert bits(net) == before
    assert all(np.isfinite(a).all() for a in net.state_dict().values())


def test_a_diverged_network_can_go_on() -> None:
    net, optimizer, x, y = diverging("float64", 0.01)
    net.fit(x, y, epochs=2, optimizer=optimizer)
    good = net.evaluate(x, y)["loss"]
    with pytest.raises(fnn.DivergedError):
        net.train_step(np.full_like(x, np.nan), y, optimizer)
    history = net.fit(x, y, epochs=20, optimizer=optimizer)
    assert history.epochs[0]["epoch"] == 3
    assert net.evaluate(x, y)["loss"] < good


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("other", [False, True], ids=["same-optimizer", "other-optimizer"])
def test_a_step_that_diverges_changes_nothing(other: bool, value: float) -> None:
    optimizer = momentum()
    net, twin = (trained(optimizer) for _ in range(2))
    x, y = random_data()
    x[3, 2] = value
    with pytest.raises(fnn.DivergedError):
        net.train_step(x, y, momentum() if other else optimizer)
    assert_same_future(net, twin, optimizer)


KEPT = "the parameters after the steps before it are kept"


@pytest.mark.parametrize("batch_size", [24, 8], ids=["one-batch", "batches"])
@pytest.mark.parametrize("shuffle", [True, False], ids=["shuffled", "in-order"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_found_on_the_way(value: float, shuffle: bool, batch_size: int) -> None:
    optimizer = momentum()
    net, twin = (trained(optimizer) for _ in range(2))
    x, y = random_data()
    x[22, 1] = x[20, 3] = x[20, 4] = value
    order = visited_rows(24, 2)[1] if shuffle else list(range(24))
    place = min(order.index(20), order.index(22))
    step, row = place // batch_size, order[place]
    message = (f"x: expected finite numbers, got {value} at row {row}, column {3 if row == 20 else 1} "
               f"at step {step} of epoch 2; {KEPT}.")
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        net.fit(x, y, optimizer=optimizer, batch_size=batch_size, shuffle=shuffle)
    starts = range(0, step * batch_size, batch_size)
    by_hand(twin, x[order], y[order], optimizer, [(start, start + batch_size) for start in starts])
    assert_same_future(net, twin, optimizer, shuffle=False)


def test_numbers_that_are_too_large_for_the_network_are_not_finite() -> None:
    optimizer = momentum()
    net, twin = (trained(optimizer, dtype="float32") for _ in range(2))
    x, y = random_data()
    x[20, 3] = 1e39
    with pytest.raises(ValueError, match=rf"^x: expected finite numbers, got inf at row 20, column 3 .*{KEPT}"):
        net.fit(x, y, optimizer=optimizer, shuffle=False)
    assert_same_future(net, twin, optimizer)


@pytest.mark.parametrize("shuffle", [True, False])
def test_a_number_that_is_not_finite_is_named_by_its_place_in_the_data(shuffle: bool) -> None:
    x, y = random_data(n_rows=3000)
    x[2500, 3] = np.nan
    with pytest.raises(ValueError, match=r"^x: expected finite .*nan at row 2500, column 3 at step \d+ of epoch 1; ") as caught:
        build().fit(x, y, batch_size=100, shuffle=shuffle)
    if not shuffle:
        assert "at step 25 of epoch 1" in str(caught.value)


@pytest.mark.parametrize(("bad", "error"), [
    (np.inf, ValueError), (np.nan, ValueError), (1e200, fnn.DivergedError),
])
def test_targets_that_are_not_finite_end_the_training(bad: float, error: type[Exception]) -> None:
    """Squared error takes any number, so that nothing is known before the step."""
    optimizer = momentum()
    loss = "mean_squared_error"
    net, twin = (trained(optimizer, loss) for _ in range(2))
    x, y = random_data(loss)
    wrong = y.copy()
    wrong[18, 2] = bad
    with pytest.raises(error, match="step 2 of epoch 2") as caught:
        net.fit(x, wrong, optimizer=optimizer, batch_size=8, shuffle=False)
    if error is ValueError:
        assert str(caught.value).startswith(f"y: expected finite numbers, got {bad} at row 18, column 2 at step 2")
    by_hand(twin, x, y, optimizer, [(0, 8), (8, 16)])
    assert_same_future(net, twin, optimizer)


def test_unchecked_numbers_diverge() -> None:
    optimizer = momentum()
    net, twin = (trained(optimizer) for _ in range(2))
    x, y = random_data()
    x[3, 1] = np.nan
    with pytest.raises(fnn.DivergedError, match="the loss is nan"):
        net.fit(x, y, optimizer=optimizer, batch_size=8, shuffle=False, check_finite=False)
    assert_same_future(net, twin, optimizer)


def test_unchecked_numbers_follow_ieee_arithmetic() -> None:
    net = fnn.Sequential([fnn.BatchNorm(3, momentum=0.5), fnn.Dense(3, 2)], dtype="float64", seed=0)
    x = np.random.default_rng(0).normal(size=(10, 3))
    x[4, 1] = np.nan
    assert np.isnan(net.forward(x, training=True)).all()
    for a in (net.layers[0].running_mean, net.layers[0].running_var):
        np.testing.assert_array_equal(np.isnan(a), [False, True, False])


@pytest.mark.parametrize(("loss", "at", "bad", "message"), [
    ("softmax_cross_entropy", (20,), 3, r"got 3 at index 20"),
    ("softmax_cross_entropy", (20,), -1, r"got -1 at index 20"),
    ("sigmoid_cross_entropy", (20, 1), 1.25, r"got 1\.25 at \(20, 1\)"),
    ("sigmoid_cross_entropy", (20, 1), np.nan, r"got nan at \(20, 1\)"),
])
def test_labels_out_of_range_are_found_first(loss: str, at: tuple[int, ...], bad: float, message: str) -> None:
    optimizer = momentum()
    net, twin = (trained(optimizer, loss) for _ in range(2))
    x, y = random_data(loss)
    wrong = y.copy()
    wrong[at] = bad
    with pytest.raises(ValueError, match=f"^y: .*{message}"):
        net.fit(x, wrong, optimizer=optimizer, batch_size=4, shuffle=False)
    with pytest.raises(ValueError, match=f"^y: .*{message}"):
        net.train_step(x, wrong, optimizer)
    with pytest.raises(ValueError, match=rf"^validation_data\[1\]: .*{message}"):
        net.fit(x, y, optimizer=optimizer, validation_data=(x, wrong))
    assert_same_future(net, twin, optimizer)


X, Y = random_data()
BAD_FIT: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"epochs": -1}, ValueError, "epochs"), *[({"epochs": n}, TypeError, "epochs") for n in (1.0, True, None)],
    ({"batch_size": 0}, ValueError, "batch_size"), ({"batch_size": -8}, ValueError, "batch_size"),
    ({"batch_size": 8.0}, TypeError, "batch_size"), ({"batch_size": "8"}, TypeError, "batch_size"),
    ({"batch_size": 25, "last_batch": "drop"}, ValueError, "batch_size"),
    ({"optimizer": "sgd"}, TypeError, "optimizer"), ({"optimizer": fnn.SGD}, TypeError, "optimizer"),
    ({"optimizer": 0.1}, TypeError, "optimizer"),
    ({"shuffle": 1}, TypeError, "shuffle"), ({"shuffle": None}, TypeError, "shuffle"),
    ({"last_batch": "pad"}, ValueError, "last_batch"), ({"last_batch": None}, TypeError, "last_batch"),
    ({"check_finite": 1}, TypeError, "check_finite"),
    ({"validation_data": X}, TypeError, "validation_data"), ({"validation_data": 0.2}, TypeError, "validation_data"),
    ({"validation_data": (X, Y[:3])}, ValueError, "validation_data"),
    ({"validation_data": (X[:, :2], Y)}, ValueError, "validation_data"),
    ({"validation_data": (X[:0], Y[:0])}, ValueError, "validation_data"),
    ({"validation_data": (X, None)}, TypeError, "validation_data"),
    ({"x": X[:, :4]}, ValueError, "x"), ({"x": X[:0], "y": Y[:0]}, ValueError, "x"), ({"x": None}, TypeError, "x"),
    ({"x": X.tolist()}, ValueError, "x"), ({"y": Y[:-1]}, ValueError, "y"), ({"y": Y + 0.0}, ValueError, "y"),
    ({"y": None}, TypeError, "y"), ({"y": Y + 1}, ValueError, "y"),
]


@pytest.mark.parametrize(("arguments", "error", "name"), BAD_FIT)
def test_bad_arguments_of_fit_are_named_and_change_nothing(
    arguments: dict[str, Any], error: type[Exception], name: str,
) -> None:
    optimizer = momentum()
    net, twin = (trained(optimizer) for _ in range(2))
    with pytest.raises(error, match=rf"^{name}(\[[01]\])?: expected .*got"):
        net.fit(**({"x": X, "y": Y, "optimizer": fnn.SGD(lr=0.1)} | arguments))
    assert_same_future(net, twin, optimizer)


@pytest.mark.parametrize("optimizer", ["sgd", fnn.SGD, 0.1])
def test_train_step_needs_an_optimizer(optimizer: Any) -> None:
    net = build()
    before = bits(net)
    with pytest.raises(TypeError, match=r"^optimizer: "):
        net.train_step(X, Y, optimizer)
    assert bits(net) == before


OUT_OF_MEMORY = """
import itertools, resource, warnings
import numpy as np
import fastnn as fnn

def limit(more):
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + more, resource.RLIM_INFINITY))

def state(net):
    return {name: a.tobytes() for name, a in net.state_dict().items()}

def assert_same_future(net, twin, optimizer):
    assert state(net) == state(twin)
    for given in (None, optimizer):
        histories = [n.fit(X, Y, epochs=2, optimizer=given, batch_size=8) for n in (net, twin)]
        assert state(net) == state(twin)
        assert histories[0].loss == histories[1].loss
        assert [e["epoch"] for e in histories[0].epochs] == [e["epoch"] for e in histories[1].epochs]

rng = np.random.default_rng(0)
X, Y = rng.normal(size=(24, 5)), rng.integers(0, 3, 24)
huge, labels = np.zeros((4_000_000, 5), np.uint8), np.zeros(4_000_000, np.uint8)
optimizer = fnn.SGD(lr=0.05, momentum=0.9)
nets = []
for _ in range(2):
    layers = [fnn.Dense(5, 6), fnn.BatchNorm(6), fnn.Dropout(0.3), fnn.Tanh(), fnn.Dense(6, 3)]
    nets.append(fnn.Sequential(layers, dtype="float64", seed=0))
    nets[-1].fit(X, Y, optimizer=optimizer)
net, twin = nets
for call in (
    lambda: net.forward(huge, training=True),
    lambda: net.loss_and_gradients(huge, labels),
    lambda: net.train_step(huge, labels, optimizer),
    lambda: net.train_step(huge, labels, fnn.SGD(lr=0.1, momentum=0.5, clip_norm=1.0)),
    lambda: net.fit(huge, labels, batch_size=len(huge), optimizer=optimizer, shuffle=False),
):
    limit(400_000_000)      # for the buffers it takes about 2 GB
    try:
        call()
    except MemoryError:
        print("MemoryError")
    limit(10_000_000_000)
    assert_same_future(net, twin, optimizer)

warnings.filterwarnings("ignore", "hidden units start equal")
# the batch is small, but there is no place for the velocity and for a copy of the state
big, same = (fnn.Sequential([fnn.Dense(1000, 12000, init="zeros"), fnn.Dense(12000, 2)], seed=0) for _ in range(2))
x, y = rng.normal(size=(2, 1000)), np.arange(2)
for options in ({"momentum": 0.9}, {"clip_norm": 1.0}):
    limit(20_000_000)
    try:
        big.train_step(x, y, fnn.SGD(lr=0.1, **options))
    except MemoryError:
        print("MemoryError")
    limit(10_000_000_000)
    assert state(big) == state(same)
for n in (big, same):
    n.train_step(x, y, fnn.SGD(lr=0.1))
assert state(big) == state(same)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit to the address space and what says how large it is")
def test_training_that_runs_out_of_memory_changes_nothing() -> None:
    done = subprocess.run([sys.executable, "-c", OUT_OF_MEMORY], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == ["MemoryError"] * 7


# ------------------------------------------------------------------------------------------------------ many threads

def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "nothing happens"
        time.sleep(1e-3)


def test_concurrent_training_is_refused() -> None:
    # a learning rate that moves nothing but what is zero, so that it is known what `predict` must give meanwhile
    optimizer = fnn.SGD(lr=1e-300, momentum=0.9)
    net, twin = (fnn.Sequential([fnn.Dense(5, 4), fnn.Tanh(), fnn.Dense(4, 3)], dtype="float64", seed=0) for _ in range(2))
    x, y = X.copy(), Y.copy()
    state = net.state_dict()
    expected, score = net.predict_proba(X), net.evaluate(X, Y)
    caught: list[ValueError] = []

    def train() -> None:
        try:
            net.fit(x, y, epochs=10**8, batch_size=12, optimizer=optimizer, shuffle=False)
        except ValueError as error:
            caught.append(error)

    thread = threading.Thread(target=train)
    thread.start()
    try:
        wait_for(lambda: bool(net.layers[2].bias.any()))
        for _ in range(20):
            for call in (lambda: net.fit(X, Y, optimizer=fnn.SGD()), lambda: net.train_step(X, Y, fnn.SGD()),
                         lambda: net.fit(X, Y, epochs=0), lambda: net.loss_and_gradients(X, Y),
                         lambda: net.forward(X, training=True),
                         lambda: net.load_state_dict({name: a + 1 for name, a in state.items()})):
                with pytest.raises(RuntimeError, match="busy"):
                    call()
            np.testing.assert_array_equal(net.predict_proba(X), expected)       # this much may go on meanwhile
            assert net.evaluate(X, Y) == score
            assert net.state_dict().keys() == state.keys()
    finally:
        x[17, 2] = np.nan           # ends it, in the second batch
        thread.join(20)
    assert not thread.is_alive()
    message = re.fullmatch(rf"x: expected finite numbers, got nan at row 17, column 2 at step 1 of epoch (\d+); {KEPT}\.",
                           str(caught[0]))
    assert message, caught
    twin.fit(X, Y, epochs=int(message[1]) - 1, batch_size=12, optimizer=optimizer, shuffle=False)
    twin.train_step(X[:12], Y[:12], optimizer)
    optimizer.lr = 0.05
    assert_same_future(net, twin, optimizer)        # the refused calls left no trace


def test_networks_train_side_by_side() -> None:
    def train(seed: int, results: dict[int, Any]) -> None:
        net = build(seed=seed, dropout=0.3)
        net.fit(X, Y, epochs=20, batch_size=8, optimizer=momentum())
        results[seed] = bits(net)

    together: dict[int, Any] = {}
    alone: dict[int, Any] = {}
    threads = [threading.Thread(target=train, args=(seed, together)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed in range(4):
        train(seed, alone)
    assert together == alone


TRAIN_IN_A_PROCESS = """
import hashlib
import numpy as np
import fastnn as fnn
rng = np.random.default_rng(0)
x, y = rng.normal(size=(128, 100)), rng.integers(0, 10, 128)
for dtype in ("float32", "float64"):
    net = fnn.Sequential(
        [fnn.Dense(100, 300), fnn.BatchNorm(300), fnn.Tanh(), fnn.Dense(300, 10)], dtype=dtype, seed=0)
    net.fit(x, y, epochs=4, batch_size=64, optimizer=fnn.SGD(lr=0.1, momentum=0.9, clip_norm=0.05))
    print(hashlib.sha256(b"".join(a.tobytes() for a in net.state_dict().values())).hexdigest())
"""


def test_a_new_process_gives_the_same_bits() -> None:
    """Whatever number of threads NumPy's BLAS may use there."""
    variables = ["OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"]
    results = []
    for threads in ("1", "1", "2"):
        done = subprocess.run([sys.executable, "-c", TRAIN_IN_A_PROCESS], capture_output=True, text=True, check=True,
                              env=os.environ | dict.fromkeys(variables, threads))
        results.append(done.stdout.split())
    assert [len(digest) for digest in results[0]] == [64, 64]
    assert results[0] == results[1] == results[2]


# ----------------------------------------------------------------------------------- what the textbooks say will happen

CHAIN = [(0.8, 0.9998), (1.0, 0.991), (1.1, 0.949), (1.2, 0.783), (1.3, 0.404), (1.5, 0.034)]


def chain(w: float, depth: int, norm: bool = False) -> fnn.Sequential:
    layers: list[Any] = [fnn.Dense(1, 1, bias=False, init=np.full((1, 1), w)) for _ in range(depth)]
    if norm:
        layers.insert(depth - 1, fnn.BatchNorm(1, eps=1e-12))
    return fnn.Sequential(layers, loss="mean_squared_error", dtype="float64")


@pytest.mark.parametrize(("w", "ratio"), [*CHAIN, (1.6, -2.8e9)])
def test_a_step_on_all_layers_at_once(w: float, ratio: float) -> None:
    """y = x w1 ... w20: what a step of 1e-3 gains, against what the gradient promises."""
    net = chain(w, 20)
    x = np.ones((1, 1))
    y = net.forward(x).item()
    assert y == pytest.approx(w**20, rel=1e-12)
    target = np.full((1, 1), y - 0.5)       # so that the gradient of the loss is that of y
    _, gradients = net.loss_and_gradients(x, target)
    for g in gradients.values():
        assert g.item() == pytest.approx(w**19, rel=1e-9)
    net.train_step(x, target, fnn.SGD(lr=1e-3))
    drop = y - net.forward(x).item()
    assert drop == pytest.approx(w**20 - (w - 1e-3 * w**19) ** 20, rel=1e-9)
    assert drop / (1e-3 * 20 * w**38) == pytest.approx(ratio, rel=0.03)


def test_batchnorm_takes_the_lower_layers_out_of_the_chain() -> None:
    rng = np.random.default_rng(0)
    x, target = rng.normal(size=(64, 1)), rng.normal(size=(64, 1))
    net = chain(1.1, 8, norm=True)
    _, gradients = net.loss_and_gradients(x, target)
    *lower, top = [abs(g.item()) for name, g in gradients.items() if name.endswith("weight")]
    assert len(lower) == 7 and max(lower) <= 1e-6 * top
    y = net.forward(x, training=True)
    for i, factor in itertools.product((0, 3, 6), (0.5, 2.0, -1.0)):
        net.layers[i].weight *= factor
        np.testing.assert_allclose(net.forward(x, training=True), np.sign(factor) * y, rtol=1e-9, atol=1e-9)
        net.layers[i].weight *= 1 / factor


def hidden_units(init: Any, steps: int, kind: str, rows: int = len(X)) -> tuple[fnn.Sequential, Array]:
    net = fnn.Sequential([fnn.Dense(5, 16, init=init), fnn.Activation(kind), fnn.Dense(16, 3, init=init)],
                         dtype="float64", seed=0)
    start = net.layers[0].weight.copy()
    for _ in range(steps):
        net.train_step(X[:rows], Y[:rows], fnn.SGD(lr=0.1))
    return net, start


@pytest.mark.filterwarnings("ignore:hidden units start equal")
@pytest.mark.parametrize("kind", ["tanh", "relu", "sigmoid"])
def test_equal_units_stay_equal(kind: str) -> None:
    net, start = hidden_units(functools.partial(fnn.init.constant, value=0.1), 200, kind)
    weight = net.layers[0].weight
    assert abs(weight - start).max() > 1e-2                         # they learn,
    assert np.ptp(weight, axis=1).max() <= 1e-6                     # but all the same
    assert np.ptp(net.layers[2].weight, axis=0).max() <= 1e-6
    assert np.ptp(net.layers[2].weight, axis=1).max() > 1e-2
    other, _ = hidden_units("xavier_uniform", 200, kind)
    assert np.ptp(other.layers[0].weight, axis=1).min() > 1e-2


@pytest.mark.filterwarnings("ignore:hidden units start equal")
@pytest.mark.parametrize("kind", ["tanh", "relu"])
def test_zero_units_never_move(kind: str) -> None:
    # without the last row there are fewer of one class, or the biases would not move either
    x, y = X[:-1], Y[:-1]
    net, _ = hidden_units("zeros", 50, kind, len(x))
    assert not net.layers[0].weight.any() and not net.layers[2].weight.any()
    assert net.layers[2].bias.any()
    assert net.evaluate(x, y)["accuracy"] == np.bincount(y).max() / len(y)      # the largest class, always


# --------------------------------------------------------------------------------------------------------- it learns

@pytest.mark.parametrize("seed", [0, 1])
def test_handwritten_digits(seed: int) -> None:
    datasets = pytest.importorskip("sklearn.datasets")
    x, y = datasets.load_digits(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(x))
    test, train = order[:len(x) * 3 // 10], order[len(x) * 3 // 10:]
    net = fnn.Sequential(
        [fnn.Dense(64, 128, bias=False), fnn.BatchNorm(128), fnn.ReLU(),
         fnn.Dense(128, 128, bias=False), fnn.BatchNorm(128), fnn.ReLU(), fnn.Dense(128, 10)], seed=seed)
    history = net.fit(x[train] / 16, y[train], epochs=20, batch_size=32, optimizer=fnn.SGD(lr=0.1, momentum=0.9),
                      validation_data=(x[test] / 16, y[test]))
    assert history.loss[-1] < 0.05 * history.loss[0]
    assert history.epochs[-1]["val_accuracy"] >= 0.97
    assert np.mean(net.predict(x[test] / 16) == y[test]) == history.epochs[-1]["val_accuracy"]


def disc(n: int, seed: int) -> tuple[Array, Array]:
    """Points of the square and whether they are in the disc in its middle: no line separates them."""
    x = np.random.default_rng(seed).uniform(-1, 1, (n, 2))
    return x, (np.sum(x**2, axis=1) < 2 / np.pi).astype(np.int64)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("norm", [True, False], ids=["norm", "plain"])
def test_two_classes(norm: bool, dtype: str) -> None:
    hidden = [fnn.Dense(2, 24), *([fnn.BatchNorm(24)] if norm else []), fnn.ReLU()]
    net = fnn.Sequential([*hidden, fnn.Dense(24, 2)], dtype=dtype, seed=0)
    x, y = disc(1000, 1)
    net.fit(x, y, epochs=100, batch_size=100, optimizer=fnn.SGD(lr=0.1, momentum=0.9))
    assert net.evaluate(*disc(1000, 2))["accuracy"] >= 0.94
    line = fnn.Sequential([fnn.Dense(2, 2)], dtype=dtype, seed=0)
    line.fit(x, y, epochs=20, optimizer=fnn.SGD(lr=0.2, momentum=0.9))
    assert line.evaluate(*disc(1000, 2))["accuracy"] < 0.7


def test_several_targets_at_once() -> None:
    x, inside = disc(1000, 1)
    y = np.column_stack([inside, x[:, 0] > 0, x.sum(axis=1) > 0]).astype(bool)
    net = fnn.Sequential([fnn.Dense(2, 32), fnn.Softplus(), fnn.Dense(32, 3)], loss="sigmoid_cross_entropy", seed=0)
    net.fit(x, y, epochs=60, optimizer=fnn.SGD(lr=0.5, momentum=0.9, nesterov=True))
    assert net.evaluate(x, y)["accuracy"] >= 0.97


def test_regression() -> None:
    x = np.linspace(-3, 3, 400).reshape(-1, 1)
    y = np.hstack([np.sin(2 * x), np.abs(x)])
    net = fnn.Sequential([fnn.Dense(1, 32), fnn.Tanh(), fnn.Dense(32, 2)], loss="mean_squared_error", seed=0)
    net.fit(x, y, epochs=300, optimizer=fnn.SGD(lr=0.1, momentum=0.9, weight_decay=1e-6, clip_norm=5.0))
    assert net.evaluate(x, y)["loss"] < 0.02 * y.var(axis=0).mean()


@pytest.mark.parametrize("error", [ValueError, fnn.DivergedError])
def test_a_fit_that_fails_at_its_first_step_has_not_shuffled(error: type[Exception]) -> None:
    net, twin = build(), build()
    x, y = random_data()
    with pytest.raises(error):
        net.fit(np.full_like(x, np.nan), y, batch_size=8, check_finite=error is ValueError)
    for n in (net, twin):
        n.fit(x, y, batch_size=8)
    assert bits(net) == bits(twin)
