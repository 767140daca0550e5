"""Suite `train`: a batch-norm network on real digits, fastnn's `fit` against the same loop in NumPy, the one peer here.

All start from the same weights. First their losses agree over some steps on the same batches, then they race, each over
batches that it shuffles and gathers itself; a remainder that fills no batch is dropped.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

import fastnn
from bench import BenchError, Options, careful, data, textbook
from bench.report import Row
from bench.timing import Timing, interleaved, progress
from fastnn.reference import Array

LR, MOMENTUM = 0.05, 0.9
# widths, batch, epochs of one round in a full and in a quick run, rows used in a quick run
DIGITS = [64, 128, 128, 10], 64, 5, 2, 1258
MNIST = [784, 256, 128, 10], 128, 1, 1, 12800
ROUNDS, QUICK_ROUNDS = 9, 5
CHECKED_STEPS, TOLERANCE = 8, 1e-3


class Rival(Protocol):
    def train_step(self, x: Array, y: Array, rows: Array) -> float: ...
    def predict(self, x: Array) -> Array: ...


def run(options: Options) -> list[Row]:
    dataset = data.mnist(options.mnist) if options.mnist else data.digits()
    widths, batch, epochs, quick_epochs, quick_rows = MNIST if options.mnist else DIGITS
    x, y = dataset.x, dataset.y
    if options.quick:
        epochs, x, y = quick_epochs, x[:quick_rows], y[:quick_rows]
    numpy = "numpy" in options.peers
    check(widths, batch, x, y, numpy)

    net = network(widths)
    optimizer = fastnn.SGD(lr=LR, momentum=MOMENTUM)
    rivals = numpy_networks(net.state_dict(), batch) if numpy else {}

    def fit() -> None:
        net.fit(x, y, epochs=epochs, batch_size=batch, optimizer=optimizer, last_batch="drop")

    calls: dict[str, Callable[[], None]] = {"fastnn": fit}
    for name, rival in rivals.items():
        calls[name] = epochs_of(rival, x, y, batch, epochs)
    # the first round warms up; its seconds do not count towards a step, but towards the accuracy's
    rounds = progress(range(1 + (QUICK_ROUNDS if options.quick else ROUNDS)), "train")
    times = interleaved(calls, dict.fromkeys(calls, 1), rounds)
    steps = epochs * (len(x) // batch)
    extra = {}
    for name, timing in times.items():
        predicted = (net if name == "fastnn" else rivals[name]).predict(dataset.x_test)
        extra[name] = {
            "test accuracy %": 100 * float(np.mean(predicted == dataset.y_test)),
            "epochs": epochs * len(timing.rounds),
            "seconds": sum(timing.rounds),
        }
    per_step = {name: Timing(timing.rounds[1:]).per(steps) for name, timing in times.items()}
    case = f"{dataset.name}, batch {batch}"
    return [Row("train", "-".join(map(str, widths)), case, "float32", per_step, batch, "samples/s", extra)]


def network(widths: list[int]) -> Any:
    """Dense, batch norm, ReLU for every hidden width; then a dense layer."""
    layers: list[Any] = []
    for n_in, n_out in itertools.pairwise(widths[:-1]):
        layers += [fastnn.Dense(n_in, n_out, bias=False), fastnn.BatchNorm(n_out), fastnn.ReLU()]
    return fastnn.Sequential([*layers, fastnn.Dense(widths[-2], widths[-1])], seed=0)


def numpy_networks(state: dict[str, Array], batch: int) -> dict[str, Rival]:
    return {
        "textbook": textbook.Network(state, lr=LR, momentum=MOMENTUM),
        "careful": careful.Network(state, batch, lr=LR, momentum=MOMENTUM),
    }


def epochs_of(rival: Rival, x: Array, y: Array, batch: int, epochs: int) -> Callable[[], None]:
    rng = np.random.default_rng(0)

    def call() -> None:
        for _ in range(epochs):
            order = rng.permutation(len(x))
            for start in range(0, len(x) - batch + 1, batch):
                rival.train_step(x, y, order[start : start + batch])

    return call


def check(widths: list[int], batch: int, x: Array, y: Array, numpy: bool) -> None:
    """The losses of the first steps on the same batches are the same for everyone."""
    net = network(widths)
    rivals = numpy_networks(net.state_dict(), batch) if numpy else {}
    optimizer = fastnn.SGD(lr=LR, momentum=MOMENTUM)
    order = np.random.default_rng(1).permutation(len(x))
    for step in range(CHECKED_STEPS):
        rows = order[step * batch : (step + 1) * batch]
        loss = net.train_step(x[rows], y[rows], optimizer)
        for name, rival in rivals.items():
            other = rival.train_step(x, y, rows)
            if not abs(loss - other) <= TOLERANCE * abs(other):
                raise BenchError(f"train: at step {step} the loss of fastnn is {loss:.6g}, that of {name} {other:.6g}")
