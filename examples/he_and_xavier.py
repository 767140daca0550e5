"""Thirty ReLU layers: with Xavier weights the signal vanishes and nothing is learnt; with He's it keeps its size.

He et al. (2015, section 2.2): a ReLU layer halves the mean square, so Xavier's variance 1 / n lets the rms fall by sqrt(2) per
layer, and 2 / n keeps it. Their nets of 22 layers learn from either, those of 30 layers only from the latter. Here nets of
dense layers of 256 units learn digits, each with the best of the same learning rates.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

import fastnn as fnn
from bench.data import Dataset
from examples import common, stack
from examples.common import Claim
from fastnn import init

NAME = "he_and_xavier"
WIDTH, DEEP, LESS_DEEP = 256, 30, 22
BATCH, CHUNK = 100, 50      # rows of a step, steps of a point of a curve
RATES = (0.1, 0.03, 0.01, 0.003)
EPOCHS = {"mnist": 2, "digits": 40}
COLOURS = {"he_normal": common.GREEN, "xavier_normal": common.ORANGE}


def signal(seed: int, n_rows: int = 256) -> dict[str, list[float]]:
    """By start the rms of the outputs of each of 30 ReLU layers, relative to the first, for normal rows."""
    results = {}
    for name in COLOURS:
        rng = np.random.default_rng(seed)
        x = rng.standard_normal((n_rows, WIDTH)).astype(np.float32)
        matrices = stack.weights([WIDTH] * (DEEP + 1), getattr(init, name), rng)
        sizes = [stack.rms(h) for h in stack.forward(x, matrices, "relu")[1:]]
        results[name] = [size / sizes[0] for size in sizes]
    return results


def signal_claims(results: dict[str, list[float]]) -> list[Claim]:
    """The logarithm of the norm walks at random, with a standard deviation of .39 after 30 layers: hence the wide band."""
    expected = {"he_normal": 1.0, "xavier_normal": math.sqrt(0.5) ** (DEEP - 1)}
    return [
        common.within_factor(f"{name}: rms of layer {DEEP} / layer 1", results[name][-1], size, 3)
        for name, size in expected.items()
    ]


@dataclass(frozen=True)
class Run:
    """One training: the mean loss of each chunk of steps, and the accuracy on the test rows."""

    name: str
    depth: int
    lr: float
    losses: list[float]
    accuracy: float
    seconds: float


def train(dataset: Dataset, name: str, depth: int, lr: float, epochs: int, seed: int) -> Run:
    """A net of `depth` hidden layers, started by `name`, for some epochs; one that diverges ends there."""
    started = time.perf_counter()
    widths = [dataset.x.shape[1], *[WIDTH] * depth]
    layers: list[fnn.layers.Layer] = []
    for n_in, n_out in pairwise(widths):
        layers += [fnn.Dense(n_in, n_out, init=name), fnn.ReLU()]
    net = fnn.Sequential([*layers, fnn.Dense(WIDTH, 10, init=name)], seed=seed)
    optimizer = fnn.SGD(lr=lr, momentum=0.9)
    rng = np.random.default_rng(seed)
    losses = []
    try:
        for _ in range(epochs):
            order = rng.permutation(len(dataset.x))
            for start in range(0, len(order), BATCH * CHUNK):
                rows = order[start:start + BATCH * CHUNK]
                history = net.fit(dataset.x[rows], dataset.y[rows], batch_size=BATCH, optimizer=optimizer, shuffle=False)
                losses += history.loss
    except fnn.DivergedError:
        losses.append(math.nan)
    accuracy = net.evaluate(dataset.x_test, dataset.y_test)["accuracy"]
    print(f"{name}, {depth} layers, lr {lr:g}: loss {losses[-1]:.4f}, test accuracy {accuracy:.4f}", flush=True)
    return Run(name, depth, lr, losses, accuracy, time.perf_counter() - started)


def race(options: common.Options) -> list[Run]:
    """Both starts and both depths with every learning rate; the quick race has 30 layers and one rate."""
    dataset = common.digits(options)
    # standardised as a whole: the sums of the first layer are then those of section 2.2, whatever share of the pixels is dark
    mean, std = dataset.x.mean(), dataset.x.std()
    dataset = replace(dataset, x=(dataset.x - mean) / std, x_test=(dataset.x_test - mean) / std)
    epochs = EPOCHS[dataset.name]
    depths, rates = ((DEEP,), RATES[1:2]) if options.quick else ((DEEP, LESS_DEEP), RATES)
    return [
        train(dataset, name, depth, lr, 1 if options.quick else epochs, options.seed)
        for depth in depths for name in COLOURS for lr in rates
    ]


def best(runs: Sequence[Run], name: str, depth: int) -> Run:
    """The run that ends with the highest accuracy."""
    return max((run for run in runs if (run.name, run.depth) == (name, depth)), key=lambda run: run.accuracy)


def race_claims(runs: Sequence[Run]) -> list[Claim]:
    """The accuracy of the best run of each start and depth, and how long its loss stays at that of guessing."""
    claims = []
    for depth in dict.fromkeys(run.depth for run in runs):
        he, xavier = (best(runs, name, depth) for name in COLOURS)
        source = "does not learn" if depth == DEEP else "learns"
        claims += [
            Claim(f"{depth} layers, He, lr {he.lr:g}: test accuracy", he.accuracy, "learns", low=0.9),
            Claim(f"{depth} layers, Xavier, lr {xavier.lr:g}: test accuracy", xavier.accuracy, source),
            Claim(f"{depth} layers, He: steps until the loss is below 2", waiting(he)),
            Claim(f"{depth} layers, Xavier: steps until the loss is below 2", waiting(xavier)),
        ]
        if depth == DEEP:
            lead = he.accuracy - xavier.accuracy
            claims.append(Claim(f"{depth} layers: accuracy with He less that with Xavier", lead, "> 0", low=0.15))
    return claims


def waiting(run: Run) -> float:
    """Steps until the loss of a chunk is below 2, where guessing has log(10) = 2.30."""
    return next((CHUNK * i for i, loss in enumerate(run.losses, 1) if loss < 2), math.inf)


def draw(figure: Any, sizes: dict[str, list[float]], runs: Sequence[Run]) -> None:
    """The signal by depth, and for each depth the loss curves of all runs, the best one of each start in full colour."""
    depths = list(dict.fromkeys(run.depth for run in runs))
    first, *panels = figure.subplots(1, 1 + len(depths))
    for name, colour in COLOURS.items():
        first.plot(range(1, DEEP + 1), sizes[name], color=colour, label=name)
    theory = math.sqrt(0.5) ** np.arange(DEEP)
    first.plot(range(1, DEEP + 1), theory, "--", color=common.INK, linewidth=0.8, label="$2^{-(layer - 1) / 2}$")
    first.set_yscale("log")
    common.frame(first, title="signal at the start", xlabel="layer", ylabel="rms of the outputs / layer 1")
    first.legend(fontsize=8, frameon=False)
    for panel, depth in zip(panels, depths, strict=True):
        for run in (run for run in runs if run.depth == depth):
            leads = run is best(runs, run.name, depth)
            panel.plot(
                np.arange(1, len(run.losses) + 1) * CHUNK, run.losses, color=COLOURS[run.name], alpha=1 if leads else 0.3,
                label=f"{run.name}, lr {run.lr:g}" if leads else None)
        panel.set_ylim(0, 3.2)
        common.frame(panel, title=f"{depth} layers", xlabel="step", ylabel="training loss" if depth == DEEP else "")
        panel.legend(fontsize=8, frameon=False, loc="upper right", title="faint: the other rates", title_fontsize=8)


def main(argv: Sequence[str] | None = None) -> None:
    options = common.parse(NAME, __doc__, argv)
    sizes = signal(options.seed)
    common.show("Signal of 30 ReLU layers of 256 units at the start", signal_claims(sizes))
    runs = race(options)
    common.show("Best of the learning rates", race_claims(runs))
    common.picture(NAME, options, lambda figure: draw(figure, sizes, runs), height=3.4)


if __name__ == "__main__":
    main()
