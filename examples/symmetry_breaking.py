"""Units that start equal stay equal: initial weights have to differ, and drawing them at random is the cheap way.

Goodfellow et al. (section 8.4): hidden units with the same inputs and the same initial weights get the same gradient for ever,
so a layer of 32 of them is worth one. From zeros a net without batch norm does not even start: neither the hidden weights nor
those of the output get a gradient, only the output's bias does, which learns how frequent the classes are.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

import fastnn as fnn
from bench.data import Dataset
from examples import common
from examples.common import Claim
from fastnn import init

NAME = "symmetry_breaking"
HIDDEN, CLASSES = 32, 10
STEPS, BATCH, LR = 1000, 500, 0.1
STARTS = {
    "constant 0.01": partial(init.constant, value=0.01),
    "zeros": init.zeros,
    "Xavier": init.xavier_uniform,
}


@dataclass(frozen=True)
class Outcome:
    """What became of one start."""

    steps: list[int]
    norms: np.ndarray[Any, Any]     # (steps, units): the norm of each hidden unit's weights
    spread: float                   # the largest difference between the weights of two hidden units, in and out
    moved: float                    # the largest change of a hidden weight
    accuracy: float
    predicted: int                  # number of classes that are ever predicted


def measure(dataset: Dataset, seed: int, steps: int = STEPS) -> dict[str, Outcome]:
    """Train every start for `steps` steps on the same batches."""
    return {name: train(dataset, start, seed, steps) for name, start in STARTS.items()}


def train(dataset: Dataset, start: Any, seed: int, steps: int) -> Outcome:
    n_in = dataset.x.shape[1]
    hidden, output = fnn.Dense(n_in, HIDDEN, init=start), fnn.Dense(HIDDEN, CLASSES, init=start)
    with warnings.catch_warnings():
        # of just what is shown here
        warnings.filterwarnings("ignore", "hidden units start equal")
        net = fnn.Sequential([hidden, fnn.Tanh(), output], seed=seed)
    first = hidden.weight.copy()
    optimizer = fnn.SGD(lr=LR)
    rng = np.random.default_rng(seed)
    shown, norms = [], []
    for step in range(steps + 1):
        if step % 10 == 0:
            shown.append(step)
            norms.append(np.linalg.norm(hidden.weight, axis=0))
        if step < steps:
            rows = rng.integers(0, len(dataset.x), BATCH)
            net.train_step(dataset.x[rows], dataset.y[rows], optimizer)
    spread = max(np.ptp(hidden.weight, axis=1).max(), np.ptp(output.weight, axis=0).max())
    return Outcome(
        shown, np.array(norms), float(spread), float(np.abs(hidden.weight - first).max()),
        net.evaluate(dataset.x_test, dataset.y_test)["accuracy"], len(np.unique(net.predict(dataset.x_test))))


def claims(results: dict[str, Outcome], dataset: str) -> list[Claim]:
    """Equal units stay equal, zeros stay zeros, random ones part."""
    constant, zeros, random = results.values()
    majority = {"mnist": 0.1135}.get(dataset)       # the share of the ones among MNIST's test rows
    source = "share of one class" if majority is None else majority
    return [
        Claim("constant: largest difference between two units", constant.spread, 0.0, high=1e-6),
        Claim("constant: largest change of a hidden weight", constant.moved, "> 0", low=1e-3),
        Claim("constant: test accuracy", constant.accuracy, "that of one unit", high=0.5),
        Claim("zeros: largest change of a hidden weight", zeros.moved, 0.0, 0.0, 0.0),
        Claim("zeros: number of classes predicted", zeros.predicted, 1, 1, 1),
        Claim("zeros: test accuracy", zeros.accuracy, source, majority or 0.0, majority or 0.15),
        Claim("Xavier: largest difference between two units", random.spread, "> 0", low=0.1),
        Claim("Xavier: test accuracy", random.accuracy, "learns", low=0.9),
    ]


def draw(figure: Any, results: dict[str, Outcome]) -> None:
    """A panel for each start with a line for each hidden unit."""
    for panel, (name, outcome) in zip(figure.subplots(1, len(results)), results.items(), strict=True):
        panel.plot(outcome.steps, outcome.norms, color=common.BLUE, linewidth=0.8, alpha=0.7)
        common.frame(
            panel, title=f"{name}: accuracy {outcome.accuracy:.3f}", xlabel="step",
            ylabel=f"norm of the weights, {HIDDEN} units" if panel.get_subplotspec().is_first_col() else "")
        if not outcome.norms.any():
            panel.set_ylim(-0.05, 1)


def main(argv: Sequence[str] | None = None) -> None:
    options = common.parse(NAME, __doc__, argv)
    dataset = common.digits(options)
    results = measure(dataset, options.seed, 200 if options.quick else STEPS)
    common.show(f"After {results['zeros'].steps[-1]} steps", claims(results, dataset.name))
    common.picture(NAME, options, lambda figure: draw(figure, results), height=3)


if __name__ == "__main__":
    main()
