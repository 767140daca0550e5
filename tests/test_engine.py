"""The engine that trains: every order of layers against plain NumPy, its memory, divergence in long epochs."""

from __future__ import annotations

import copy
import itertools
import re
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from conftest import FLOAT32, FLOAT64, SANITIZED, assert_near, assert_same_bits
from plain import Plain, filling, optimizer

import fastnn as fnn
from fastnn import ELU, Activation, BatchNorm, Dense, Dropout, LeakyReLU, ReLU, Sigmoid, Softplus, Softsign, Tanh
from fastnn._kernels import gemm
from fastnn.training import batch_starts

Array = np.ndarray
Layers = Callable[[], list[Any]]

LABELS, CHANCES, NUMBERS = "softmax_cross_entropy", "sigmoid_cross_entropy", "mean_squared_error"


def deep() -> list[Any]:
    layers: list[Any] = [Dense(33, 17)]
    for _ in range(6):
        layers += [Dense(17, 17, bias=False), BatchNorm(17), Tanh()]
    return [*layers, Dense(17, 10)]


# The layers, the loss, and the rows of the batches. Vectors have 2 to 16 numbers, a group of columns of batch norm 1024, a
# block of the sum in a product 512 terms, and up to 16 rows times a transpose go another way.
ARCHITECTURES: dict[str, tuple[Layers, str, tuple[int, ...]]] = {
    "one": (lambda: [Dense(7, 3)], LABELS, (1, 2, 65)),
    "one to one": (lambda: [Dense(1, 1)], NUMBERS, (1, 3, 300)),
    "no bias": (lambda: [Dense(9, 1, bias=False)], CHANCES, (1, 7, 32)),
    "norm first": (lambda: [BatchNorm(7), Dense(7, 8)], LABELS, (2, 7, 65)),
    "norm and activation first": (lambda: [BatchNorm(9), Tanh(), Dense(9, 1)], NUMBERS, (3, 32)),
    "activations first": (lambda: [Softsign(), ELU(), Dense(8, 17)], LABELS, (1, 32)),
    "dropout first": (lambda: [Dropout(0.2), Dense(33, 16), Softplus(), Dense(16, 2)], CHANCES, (2, 65)),
    "dropouts and norm first": (lambda: [Dropout(0.3), BatchNorm(16), Dropout(0.1), Dense(16, 9)], NUMBERS, (7, 32)),
    "norms around an activation": (
        lambda: [Dense(8, 17), ELU(), BatchNorm(17), Tanh(), BatchNorm(17), Dense(17, 3)], LABELS, (3, 32, 300)),
    "norms in a row": (lambda: [BatchNorm(8), BatchNorm(8), Dense(8, 9), BatchNorm(9), BatchNorm(9)], NUMBERS, (7, 65)),
    "linear": (lambda: [Dense(17, 33), Dense(33, 9), Dense(9, 1)], CHANCES, (1, 65)),
    "activations in a row": (
        lambda: [Dense(9, 16), Tanh(), Softplus(), Sigmoid(), Dense(16, 8), Softsign(), Activation("identity"), ELU(),
                 Dense(8, 2)], LABELS, (2, 7, 65)),
    "dropouts between": (
        lambda: [Dense(16, 33), Tanh(), Dropout(0.5), BatchNorm(33), Dropout(0.25), Sigmoid(), Dropout(0.1), Dense(33, 7)],
        NUMBERS, (7, 32, 65)),
    "dropouts in a row": (lambda: [Dense(7, 9), Dropout(0.2), Dropout(0.3), Dense(9, 8), Dropout(0.1)], CHANCES, (2, 32)),
    "activations last": (lambda: [Dense(7, 8), ELU(), Dense(8, 9), Softplus(), Tanh()], NUMBERS, (1, 65)),
    "norm last": (lambda: [Dense(8, 16, bias=False), Sigmoid(), Dense(16, 3, bias=False), BatchNorm(3)], LABELS, (7, 300)),
    "everything last": (
        lambda: [Dense(9, 17), BatchNorm(17), Tanh(), Dropout(0.2), Dense(17, 8), ELU(), BatchNorm(8), Softsign(),
                 Dropout(0.1)], NUMBERS, (32, 65)),
    "kinks": (lambda: [Dense(8, 16), ReLU(), Dense(16, 9), LeakyReLU(), Dense(9, 3)], LABELS, (1, 7, 32)),
    "deep": (deep, LABELS, (7, 65)),
    "a hundred": (
        lambda: [Dense(100, 129), BatchNorm(129), Tanh(), Dense(129, 100), Sigmoid(), Dense(100, 10)], LABELS, (32, 65, 300)),
    "narrow": (lambda: [Dense(100, 1), Tanh(), Dense(1, 129), Softsign(), Dense(129, 1)], NUMBERS, (3, 65)),
    "beyond a group of batch norm": (lambda: [Dense(9, 1030), BatchNorm(1030), Tanh(), Dense(1030, 3)], LABELS, (7, 65)),
    "beyond a group, norm first": (lambda: [BatchNorm(1030), ELU(), Dense(1030, 7)], CHANCES, (3, 32)),
    "beyond a block of the sum": (
        lambda: [Dense(33, 100), BatchNorm(100), Tanh(), Dropout(0.3), Dense(100, 33), Softplus(), Dense(33, 10)], LABELS,
        (600, 1030)),
    "few rows, long sums": (lambda: [Dense(1030, 129), Softplus(), Dense(129, 600), Tanh(), Dense(600, 2)], LABELS,
                            (1, 3, 16, 17)),
    "many classes": (lambda: [Dense(16, 129), Tanh(), Dense(129, 1030)], LABELS, (7, 65)),
    "many targets": (lambda: [Dense(16, 33), ELU(), Dense(33, 1030)], CHANCES, (3, 32)),
}
# Of a gradient that has gone through the whole network, and of a parameter after some steps, in units of the last place of the
# largest number. Batch norm alone may lose 40 of them in float64, which is also the type of what is compared with.
GRADIENT = {FLOAT32: 50, FLOAT64: 100}
PARAMETER = {FLOAT32: 8, FLOAT64: 12}
MOMENTUM: dict[str, Any] = {"lr": 0.01, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}
# eps above the rounding of a gradient, which would be scaled up to the rate
ADAM: dict[str, Any] = {"kind": "AdamW", "lr": 0.01, "beta2": 0.9, "eps": 0.1, "weight_decay": 0.01}


def built(layers: Layers, loss: str, dtype: Any) -> fnn.Sequential:
    """No parameter or statistic at the 0 or 1 where it would start."""
    net = fnn.Sequential(layers(), loss=loss, dtype=dtype, seed=4)
    rng = np.random.default_rng(1)
    for layer in net.layers:
        for name, a in (layer.parameters | layer.statistics).items():
            if name in ("bias", "beta", "running_mean"):
                a[...] = rng.normal(0, 0.3, a.shape)
            elif name != "weight":
                a[...] = rng.uniform(0.6, 1.6, a.shape)
    return net


def data_for(net: fnn.Sequential, rows: int) -> tuple[Array, Array]:
    rng = np.random.default_rng(rows)
    x = rng.normal(0.2, 1.0, (rows, net.n_in)).astype(net.dtype)
    if net.loss == LABELS:
        return x, rng.integers(0, net.n_out, rows)
    y = rng.random((rows, net.n_out)) if net.loss == CHANCES else rng.normal(size=(rows, net.n_out))
    return x, y.astype(net.dtype)


def bits(net: fnn.Sequential) -> list[bytes]:
    return [a.tobytes() for a in net.state_dict().values()]


def swallowed(net: fnn.Sequential) -> Iterator[str]:
    """What has no gradient, or next to none, but for rounding: a batch norm takes out a shift or a scale before it."""
    for i, layer in enumerate(net.layers[:-1]):
        after = next((a for a in net.layers[i + 1:] if not isinstance(a, Dense) and getattr(a, "kind", "") != "identity"), None)
        if isinstance(layer, Dense | BatchNorm) and isinstance(after, BatchNorm):
            yield from (f"{i}.{name}" for name in ("bias", "beta", "gamma"))


# ---------------------------------------------------------------------------------------------- against plain NumPy

@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT64], ids=str)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_loss_and_gradients_equal_plain_numpy(name: str, dtype: np.dtype[Any]) -> None:
    layers, loss, batches = ARCHITECTURES[name]
    net = built(layers, loss, dtype)
    for rows in batches:
        x, y = data_for(net, rows)
        expected_loss, expected = Plain(net, FLOAT64).gradients(x, y)
        given_loss, gradients = net.loss_and_gradients(x, y)
        assert abs(given_loss - expected_loss) <= 50 * np.finfo(dtype).eps * abs(expected_loss), rows
        assert gradients.keys() == expected.keys()
        largest = max(float(abs(g).max()) for g in expected.values())
        for key, g in expected.items():
            # what has cancelled shows the magnitude of its terms no longer
            scale = largest if key in swallowed(net) else max(float(abs(g).max()), 0.01 * largest)
            assert_near(gradients[key], g.astype(dtype), GRADIENT[dtype], f"{name}, {rows} rows, {key}", scale)


@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT64], ids=str)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_training_equals_plain_numpy(name: str, dtype: np.dtype[Any]) -> None:
    layers, loss, batches = ARCHITECTURES[name]
    for rows, last_batch in zip(batches, ("merge", "keep") * 2, strict=False):
        net = built(layers, loss, dtype)
        before = net.state_dict()
        plain = Plain(net, FLOAT64)
        # batches of more than one size, where a batch norm has rows enough
        x, y = data_for(net, 2 * rows + (rows // 2 if rows > 3 else 0))
        starts = batch_starts(len(x), rows, last_batch).tolist()
        history = net.fit(x, y, epochs=2, batch_size=rows, optimizer=fnn.SGD(**MOMENTUM), shuffle=False, last_batch=last_batch)
        for mean in history.loss:
            total = 0.0
            for start, end in itertools.pairwise(starts):
                total += (end - start) * plain.step(x[start:end], y[start:end], **MOMENTUM)
            assert abs(mean - total / len(x)) <= 100 * np.finfo(dtype).eps * max(total / len(x), 0.1), (rows, last_batch)
        for key, a in net.state_dict().items():
            expected = plain.state[key]
            case = f"{name}, batches of {rows}, {last_batch}, {key}"
            assert_near(a, expected.astype(dtype), PARAMETER[dtype], case, max(abs(expected).max(), abs(before[key]).max()))
            # far enough for an error to be seen
            moved = abs(expected - before[key]).max()
            assert key in swallowed(net) or moved > 10 * PARAMETER[dtype] * np.finfo(dtype).eps * abs(expected).max(), case


@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT64], ids=str)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_updates_on_the_way_and_afterwards_give_the_same_bits(name: str, dtype: np.dtype[Any]) -> None:
    """With a norm to clip to, the whole gradient is there before the first update; without, it is used up block by block."""
    layers, loss, batches = ARCHITECTURES[name]
    for rows, options in zip(batches, (MOMENTUM, ADAM, {"lr": 0.1}, {"lr": 0.1, "weight_decay": 0.1}), strict=False):
        x, y = data_for(built(layers, loss, dtype), 2 * rows + (rows // 2 if rows > 3 else 0))
        nets = []
        for clip_norm in (None, 1e30):
            net = built(layers, loss, dtype)
            net.fit(x, y, epochs=2, batch_size=rows, optimizer=optimizer(**options, clip_norm=clip_norm))
            nets.append(net)
        assert_same_bits(*[list(net.state_dict().values()) for net in nets], (name, rows))


@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT64], ids=str)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_step_moves_by_the_gradient(name: str, dtype: np.dtype[Any]) -> None:
    """To the last bit: the update of each block is that of the whole arrays."""
    layers, loss, batches = ARCHITECTURES[name]
    for rows in batches:
        net = built(layers, loss, dtype)
        x, y = data_for(net, rows)
        _, gradients = net.loss_and_gradients(x, y)
        expected = net.state_dict()
        for key, g in gradients.items():
            fnn.sgd_update(expected[key], g, lr=0.125, weight_decay=0.25 if key.endswith("weight") else 0.0)
        net.train_step(x, y, fnn.SGD(lr=0.125, weight_decay=0.25))
        for key in gradients:
            assert_same_bits(net.state_dict()[key], expected[key], (name, rows, key))


@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT64], ids=str)
@pytest.mark.parametrize("kind", ["Adam", "AdamW"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_steps_of_adam_are_those_of_the_whole_arrays(name: str, kind: str, dtype: np.dtype[Any]) -> None:
    layers, loss, batches = ARCHITECTURES[name]
    net = built(layers, loss, dtype)
    adam = optimizer(kind, lr=0.125, beta1=0.75, beta2=0.9, eps=1e-3, eps_hat=len(batches) % 2 == 0, weight_decay=0.25)
    moments: dict[str, list[Array]] = {}
    for step, rows in enumerate(batches, 1):
        x, y = data_for(net, rows)
        _, gradients = net.loss_and_gradients(x, y)
        expected = net.state_dict()
        for key, g in gradients.items():
            fnn.adam_update(
                expected[key], g, *moments.setdefault(key, [np.zeros_like(g), np.zeros_like(g)]), lr=0.125, step=step,
                beta1=0.75, beta2=0.9, eps=1e-3, eps_hat=adam.eps_hat,
                weight_decay=0.25 if key.endswith("weight") else 0.0, decoupled=kind == "AdamW")
        net.train_step(x, y, adam)
        assert net._velocity is not None and net._second_moment is not None
        kept = zip(net._plan.copies(net._velocity).items(), net._plan.copies(net._second_moment).values(), strict=True)
        for ((i, own), m), v in kept:
            key = f"{i}.{own}"
            assert_same_bits([net.state_dict()[key], m, v], [expected[key], *moments[key]], (name, rows, key))


@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT64], ids=str)
def test_batches_of_every_size_in_one_life(dtype: np.dtype[Any]) -> None:
    """The buffers are made for the largest batch so far; what a larger one left in them is not seen by a smaller one."""
    sizes = [2, 300, 7, 65, 600, 2, 33, 1030, 600, 3]
    layers, loss, _ = ARCHITECTURES["everything last"]
    net, x, y = built(layers, loss, dtype), *data_for(built(layers, loss, dtype), 1030)
    for rows in sizes:
        fresh = built(layers, loss, dtype)
        fresh.load_state_dict(net.state_dict())
        fresh._step = net._step
        for n in (net, fresh):
            n.train_step(x[:rows], y[:rows], fnn.SGD(lr=0.05))
        assert bits(net) == bits(fresh), rows


# ---------------------------------------------------------------------------------------------------------------- memory

@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT64], ids=str)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_what_fills_up_a_row_stays_zero(name: str, dtype: np.dtype[Any]) -> None:
    layers, loss, batches = ARCHITECTURES[name]
    for clip_norm, options in itertools.product((None, 0.5), (MOMENTUM, ADAM)):
        net = built(layers, loss, dtype)
        x, y = data_for(net, 2 * max(batches))
        for rows in (*batches, batches[0]):
            net.fit(x, y, batch_size=rows, optimizer=optimizer(**options, clip_norm=clip_norm))
        net.loss_and_gradients(x, y)
        net.predict(x)
        flats = [net._plan.parameters, net._velocity, net._plan.gradients]
        flats += [net._second_moment] if options is ADAM else []
        sizes = [len(filling(net, flat)) for flat in flats]
        assert sizes[0] == net._plan.parameters.size - net.n_parameters and len(set(sizes)) == 1
        for flat in flats:
            assert not filling(net, flat).any()


@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT64], ids=str)
def test_views_of_the_parameters_stay_what_they_are(dtype: np.dtype[Any]) -> None:
    net = built(ARCHITECTURES["a hundred"][0], LABELS, dtype)
    views = [(layer, name, a) for layer in net.layers for name, a in (layer.parameters | layer.statistics).items()]
    places = [a.ctypes.data for _, _, a in views]
    x, y = data_for(net, 600)
    optimizer = fnn.SGD(lr=0.1, momentum=0.5, clip_norm=1.0)
    for rows in (2, 65, 600):
        seen = [a.copy() for _, _, a in views]
        net.train_step(x[:rows], y[:rows], optimizer)
        net.predict(x[:rows])
        state = net.state_dict()
        for (layer, name, a), before in zip(views, seen, strict=True):
            assert getattr(layer, name) is a
            key = f"{net.layers.index(layer)}.{name}"
            assert_same_bits(a.copy(), state[key], key)
            assert key == "0.bias" or (a != before).any(), key
    assert [a.ctypes.data for _, _, a in views] == places
    # at whole vectors
    assert all(place % (4 * gemm.vector_lanes()) == 0 for place in places)
    # and to write into one is to write into the network
    views[0][2][...] = 0
    assert not net.state_dict()["0.weight"].any()


def resident() -> int:
    """Pages of memory in use."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1])


def small(dtype: str = "float32") -> tuple[fnn.Sequential, Array, Array]:
    net = fnn.Sequential(
        [Dense(9, 16), BatchNorm(16), Sigmoid(), Dropout(0.2), Dense(16, 3)], dtype=dtype, seed=0)
    return net, *data_for(net, 8000)


@pytest.mark.parametrize("options", [{}, {"momentum": 0.9}, {"clip_norm": 1.0}, {"kind": "Adam"}], ids=str)
def test_steps_allocate_nothing(options: dict[str, Any]) -> None:
    net, x, y = small()
    by = optimizer(**{"lr": 0.01} | options)
    peaks = []
    for epoch in range(2):          # the first makes the buffers
        for rows in (80, 8000):
            tracemalloc.start()
            net.fit(x[:rows], y[:rows], batch_size=2, optimizer=by, shuffle=False)
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            if epoch:
                peaks.append(peak)
    # 3960 steps more, of which the first rows are written down, twice while they are computed, and their differences
    assert peaks[1] - peaks[0] < 4 * 8 * 3960 + 2000


@pytest.mark.skipif(sys.platform != "linux" or SANITIZED, reason="needs /proc, and that what is freed is given back")
def test_many_steps_need_no_more_memory() -> None:
    net, x, y = small()
    optimizer = fnn.SGD(lr=0.01, momentum=0.9)

    def train(epochs: int, steps: int) -> None:
        net.fit(x, y, epochs=epochs, batch_size=2, optimizer=optimizer)
        for _ in range(steps):
            net.train_step(x[:4], y[:4], optimizer)
            net.loss_and_gradients(x[:4], y[:4])

    train(2, 200)
    pages = resident()
    train(20, 5000)
    # 80000 steps and 10000 calls: 50 bytes lost in each are a thousand pages
    assert resident() - pages < 250


# ------------------------------------------------------------------------------------------------------------ divergence

STEPS = 700         # of an epoch: the state is copied every 256 steps


def poisoned(kind: str, step: int, dtype: str) -> tuple[Array, Array]:
    """Batches of two rows, one of which leads to a number that is not finite, at once or soon."""
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(2 * STEPS, 5)).astype(dtype), rng.normal(size=(2 * STEPS, 3)).astype(dtype)
    x[:, 3] = 0
    if kind == "loss":
        y[2 * step + 1, 1] = {"float32": 3e38, "float64": 1e300}[dtype]
    elif kind == "gradient":        # of a weight that is zero and has no other input
        y[2 * step, 0], x[2 * step, 3] = {"float32": (1e20, 1e25), "float64": (1e150, 1e200)}[dtype]
    elif kind == "statistics":
        x[2 * step, 3] = {"float32": 1e25, "float64": 1e170}[dtype]
    return x, y


def fragile(kind: str, dtype: str) -> fnn.Sequential:
    layers = [Dense(5, 6), Tanh(), Dropout(0.2), Dense(6, 6), Softplus(), Dense(6, 3)]
    if kind == "statistics":        # the running variance is infinite, which in float32 no loss or gradient shows
        layers.insert(0, BatchNorm(5))
    net = fnn.Sequential(layers, loss=NUMBERS, dtype=dtype, seed=0)
    if kind == "gradient":
        net.layers[0].weight[3] = 0
    return net


@pytest.mark.parametrize("step", [0, 1, 255, 256, 257, 513, STEPS - 1])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", ["loss", "gradient", "statistics"])
@pytest.mark.parametrize("options", [{}, {"momentum": 0.5}, {"momentum": 0.5, "clip_norm": 1e30}, {"kind": "Adam"}], ids=[
    "plain", "momentum", "clip", "Adam"])
def test_divergence_in_a_long_epoch(kind: str, dtype: str, options: dict[str, Any], step: int) -> None:
    # a loss is float64: in float32 it may take some steps more, if no second moment overflows
    squares = options.get("kind") == "Adam" and dtype == "float32"
    at_once = (kind, dtype) != ("loss", "float32") or squares
    step = min(step, STEPS - 1 if at_once else STEPS - 4)
    good = poisoned("none", 0, dtype)
    x, y = poisoned(kind, step, dtype)
    net, twin = (fragile(kind, dtype) for _ in range(2))
    by = optimizer(**{"lr": 1e-3} | options)
    for n in (net, twin):
        n.fit(good[0][:20], good[1][:20], batch_size=2, optimizer=by, shuffle=False)
    steps = 0
    with pytest.raises(fnn.DivergedError) as expected:
        for start in range(0, 2 * STEPS, 2):
            steps += 1
            twin.train_step(x[start:start + 2], y[start:start + 2], by)
    assert steps == step + 1 if at_once else steps > step
    if kind == "loss" and not squares:
        reason = "the loss is inf"
    elif (kind, dtype) == ("statistics", "float64"):
        reason = "the loss is nan"      # nothing is normalised by a variance beyond float64
    else:
        # without a norm to clip to, nobody has looked at the gradient as such
        seen = kind == "gradient" and "clip_norm" in options
        reason = "the gradient is not finite" if seen else "the step leads to infinity"
    assert str(expected.value).startswith(reason)
    with pytest.raises(fnn.DivergedError) as caught:
        net.fit(x, y, batch_size=2, optimizer=by, shuffle=False)
    assert bits(net) == bits(twin)
    assert all(np.isfinite(a).all() for a in net.state_dict().values())
    what, _, kept = str(expected.value).partition("; ")
    assert str(caught.value) == f"{what} at step {steps - 1} of epoch 2; {kept}"
    # the velocity or moments and the dropout go on alike, and if it is to the next disaster
    ends = []
    for n in (net, twin):
        try:
            ends.append(n.fit(*good, batch_size=2, shuffle=False).loss)
        except fnn.DivergedError as error:
            ends.append(re.sub(r"epoch \d", "", str(error)))
    assert ends[0] == ends[1]
    assert bits(net) == bits(twin)


def test_divergence_of_shuffled_epochs_keeps_the_last_finite_step() -> None:
    x, y = poisoned("loss", 400, "float64")
    nets = [fragile("loss", "float64") for _ in range(2)]
    messages = []
    for net in nets:
        with pytest.raises(fnn.DivergedError) as caught:
            net.fit(x, y, batch_size=2, optimizer=fnn.SGD(lr=1e-3, momentum=0.9))
        messages.append(str(caught.value))
    assert messages[0] == messages[1] and "the loss is inf at step " in messages[0]
    assert bits(nets[0]) == bits(nets[1]) != bits(fragile("loss", "float64"))


@pytest.mark.parametrize("step", [0, 255, 256, 600])
def test_a_row_that_is_not_finite_in_a_long_epoch(step: int) -> None:
    x, y = poisoned("none", 0, "float32")
    good = x.copy()
    x[2 * step + 1, 4] = np.nan
    net, twin = (fragile("none", "float32") for _ in range(2))
    optimizer = fnn.SGD(lr=0.01, momentum=0.9)
    with pytest.raises(ValueError, match=rf"^x: .* nan at row {2 * step + 1}, column 4 at step {step} of epoch 1; "):
        net.fit(x, y, batch_size=2, optimizer=optimizer, shuffle=False)
    for start in range(0, 2 * step, 2):
        twin.train_step(good[start:start + 2], y[start:start + 2], optimizer)
    assert bits(net) == bits(twin)
    for n in (net, twin):
        n.fit(good, y, batch_size=2, optimizer=optimizer, shuffle=False)
    assert bits(net) == bits(twin)


def test_the_mean_loss_of_a_long_epoch() -> None:
    x, y = poisoned("none", 0, "float64")
    net, twin = (fragile("none", "float64") for _ in range(2))
    history = net.fit(x, y, epochs=2, batch_size=2, optimizer=fnn.SGD(lr=0.01), shuffle=False)
    optimizer = fnn.SGD(lr=0.01)
    for mean in history.loss:
        losses = [twin.train_step(x[s:s + 2], y[s:s + 2], optimizer) for s in range(0, 2 * STEPS, 2)]
        np.testing.assert_allclose(mean, np.mean(losses), rtol=1e-15)


# ---------------------------------------------------------------------------------------------------------- short epochs

class _Between(fnn.callbacks.Callback):
    """Something that happens between epochs, so that the engine takes them one by one."""

    def on_epoch_end(self, run: fnn.callbacks.Run) -> None:
        pass


class _Stop(fnn.callbacks.Callback):
    """Stops at the first tick from a step on; keeps the history."""

    _sees_epochs = False    # as that of fit_many, so that epochs are taken in one call

    def __init__(self, step: float = np.inf) -> None:
        self.step = step

    def on_tick(self, run: fnn.callbacks.Run) -> None:
        if run.step >= self.step:
            run.stop("enough")

    def on_fit_end(self, run: fnn.callbacks.Run) -> None:
        self.history = run.history


ROWS, BATCH, EPOCHS = 20, 3, 7      # the last batch has 5 rows


def untimed(history: fnn.History) -> list[dict[str, Any]]:
    assert all(epoch["seconds"] > 0 and epoch["rows_per_second"] > 0 for epoch in history.epochs)
    return [{name: epoch[name] for name in ("epoch", "loss", "lr")} for epoch in history.epochs]


def whole_state(net: fnn.Sequential) -> tuple[Any, ...]:
    return bits(net), str(net._rng.bit_generator.state), net._step, net._epoch, net._trained


def few_rows() -> tuple[Array, Array]:
    x, y = poisoned("none", 0, "float32")
    return x[:ROWS], y[:ROWS]


@pytest.mark.parametrize("rows_at_once", [0, 2 * ROWS, 5 * ROWS + 1, 1 << 16])
@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("options", [
    {}, {"last_batch": "drop"}, {"last_batch": "keep", "sample_weight": np.arange(1.0, ROWS + 1)},
    {"optimizer": lambda: fnn.SGD(fnn.schedules.LinearDecay(0.1, 30), momentum=0.9, average=0.9)},
    {"optimizer": lambda: fnn.Adam(fnn.schedules.StepDecay(0.01, 2, 0.5)), "batch_size": 7},
    {"optimizer": lambda: fnn.SGD(0.1, clip_norm=0.1), "batch_size": 50},
], ids=["plain", "drop", "weights", "schedule of steps", "schedule of epochs", "one batch"])
def test_epochs_of_one_call_are_those_one_by_one(
    options: dict[str, Any], shuffle: bool, rows_at_once: int, monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fnn.network, "ROWS_AT_ONCE", rows_at_once)
    calls: list[int] = []
    train = fnn.network._train[FLOAT32]
    monkeypatch.setitem(fnn.network._train, FLOAT32, lambda *arguments: calls.append(1) or train(*arguments))
    net, twin, third = (fragile("none", "float32") for _ in range(3))
    options = {"batch_size": BATCH, "shuffle": shuffle} | options
    by = options.pop("optimizer", lambda: fnn.SGD(0.1, momentum=0.9))
    of_net, of_twin, of_third = by(), by(), by()
    history = net.fit(*few_rows(), epochs=EPOCHS, optimizer=of_net, **options)
    assert len(calls) == -(-EPOCHS // max(rows_at_once // ROWS, 1))
    expected = twin.fit(*few_rows(), epochs=EPOCHS, optimizer=of_twin, callbacks=[_Between()], **options)
    assert whole_state(net) == whole_state(twin) and untimed(history) == untimed(expected)
    alone = [third.fit(*few_rows(), optimizer=of_third, **options) for _ in range(EPOCHS)]
    assert whole_state(net) == whole_state(third)
    assert untimed(history) == [epoch for each in alone for epoch in untimed(each)]


@pytest.mark.parametrize("step", [1, 5, 6, 7, 12, 13, 6 * EPOCHS - 1, 6 * EPOCHS])
@pytest.mark.parametrize("shuffle", [True, False])
def test_stopped_among_the_epochs_of_one_call(step: int, shuffle: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fnn.network, "PATIENCE", 0.0)       # a tick after each step
    net, twin = fragile("none", "float32"), fragile("none", "float32")
    optimizer = fnn.SGD(fnn.schedules.LinearDecay(0.1, 30), momentum=0.9)
    options: dict[str, Any] = {
        "epochs": EPOCHS, "batch_size": BATCH, "shuffle": shuffle, "sample_weight": np.arange(1.0, ROWS + 1)}
    history = net.fit(*few_rows(), optimizer=optimizer, callbacks=[_Stop(step)], **options)
    expected = twin.fit(*few_rows(), optimizer=optimizer, callbacks=[fnn.callbacks.MaxSteps(step)], **options)
    assert net._step == step and untimed(history) == untimed(expected)
    copied = copy.deepcopy(net)
    for n in (net, twin, copied):
        n.fit(*few_rows(), **options)
    assert whole_state(net) == whole_state(twin) == whole_state(copied)


@pytest.mark.parametrize("lr", [0.8, 3.0, 40.0])
def test_divergence_among_the_epochs_of_one_call(lr: float) -> None:
    x, y = few_rows()
    ends = []
    for between in ([], [_Between()]):
        net, look = fragile("none", "float32"), _Stop()
        with pytest.raises(fnn.DivergedError) as caught:
            net.fit(x, y, epochs=5000, batch_size=BATCH, optimizer=fnn.SGD(lr, momentum=0.99), callbacks=[look, *between])
        ends.append((str(caught.value), whole_state(net), untimed(look.history)))
    assert ends[0] == ends[1]
    assert len(ends[0][2]) == net._epoch


@pytest.mark.parametrize("sees", [True, False])
def test_stopped_while_the_first_steps_are_taken_again(sees: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """No step is left: the record is that of the epoch to come, and no schedule learns from it."""
    class Stop(_Stop):
        _sees_epochs = sees

        def on_tick(self, run: fnn.callbacks.Run) -> None:
            if run.step == begun:
                run.stop()

    monkeypatch.setattr(fnn.network, "PATIENCE", 1e9)      # no tick but the one between failure and repetition
    x, y = few_rows()
    lr = fnn.schedules.ReduceOnPlateau(0.01, monitor="loss") if sees else 0.01
    net, optimizer, begun = fragile("none", "float32"), fnn.SGD(lr, momentum=0.9), 0
    net.fit(x, y, epochs=2, batch_size=BATCH, shuffle=False, optimizer=optimizer)
    before, y = whole_state(net), y.copy()
    y[2 * BATCH] = 1e38
    history = net.fit(x, y, epochs=3, batch_size=BATCH, shuffle=False, optimizer=optimizer, callbacks=[Stop()])
    assert whole_state(net) == before
    assert [(epoch["epoch"], epoch["loss"], epoch["rows_per_second"]) for epoch in history.epochs] == [(3, 0.0, 0.0)]
    if sees:
        assert optimizer.lr.state()["best"] > 0


def test_a_clock_that_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fnn.network.time, "perf_counter", lambda: 5.0)
    assert fragile("none", "float32").fit(*few_rows()).epochs[0]["seconds"] == 0.0


def test_only_callbacks_that_see_no_epoch_leave_them_in_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    class Count(fnn.callbacks.Callback):
        def on_tick(self, run: fnn.callbacks.Run) -> None:
            seen.append((run.epoch - 1, len(run.history.epochs)))

    seen: list[tuple[int, int]] = []
    monkeypatch.setattr(fnn.network, "PATIENCE", 0.0)
    fragile("none", "float32").fit(*few_rows(), epochs=3, batch_size=BATCH, callbacks=[Count()])
    assert seen and all(epoch == whole for epoch, whole in seen)


def test_ticks_name_the_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    class Look(fnn.callbacks.Callback):
        _sees_epochs = False

        def on_tick(self, run: fnn.callbacks.Run) -> None:
            seen.append((run.step, run.epoch, run.row))

    monkeypatch.setattr(fnn.network, "PATIENCE", 0.0)
    fragile("none", "float32").fit(*few_rows(), epochs=3, batch_size=BATCH, callbacks=[Look()])
    rows = [0, 3, 6, 9, 12, 15]
    assert [(step, epoch, row) for step, epoch, row in seen if row != ROWS] == [
        (step, 1 + step // 6, rows[step % 6]) for step in range(1, 18)]
    assert seen[-1] == (18, 3, ROWS)
