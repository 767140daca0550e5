"""E4: test errors of deep nets by activation and initialisation.

Claim: Glorot & Bengio (2010), table 1, column MNIST: five hidden layers of 1000 units, softmax, negative log-likelihood, plain
SGD on batches of 10, the learning rate chosen on validation data, some 5 million updates. N stands for the normalised
initialisation, U(+-sqrt(6 / (n_in + n_out))); the other rows have the standard one, U(+-1 / sqrt(n_in)). On MNIST the
initialisation hardly matters for the end (1.64 % against 1.76 % are 12 images, less than one standard error), and sigmoid units
are the worst.

The whole protocol takes most of a day. Reduced here to 256 units a layer and 100,000 updates (20 epochs of 50,000 training
images): the learning rate from {1, 0.3, 0.1, 0.03, 0.01}, the one with the lowest validation error after 40,000 updates of the
first seed; three seeds; the test error at the epoch with the lowest validation error.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import fastnn as fnn
from bench.data import Dataset
from examples import common
from examples.common import BLUE, GREEN, ORANGE, Claim
from examples.store import Store
from fastnn.callbacks import Callback

Array = np.ndarray

NAME = "glorot_table"
HIDDEN, BATCH, SEEDS = 5, 10, 3
RATES = (1.0, 0.3, 0.1, 0.03, 0.01)
FAST = 5.0      # % of validation error, to which the updates are counted


@dataclass(frozen=True)
class Row:
    """A row of the table: activation, initialiser, and the paper's test error in %."""

    activation: str
    init: str
    paper: float

    def __str__(self) -> str:
        return self.activation.capitalize() + (" N" if self.init == "glorot_uniform" else "")


ROWS = (
    Row("softsign", "fan_in_uniform", 1.64), Row("softsign", "glorot_uniform", 1.72),
    Row("tanh", "fan_in_uniform", 1.76), Row("tanh", "glorot_uniform", 1.64), Row("sigmoid", "fan_in_uniform", 2.21),
)
COLOURS = {"softsign": GREEN, "tanh": BLUE, "sigmoid": ORANGE}


@dataclass(frozen=True)
class Protocol:
    """The size of the nets, and for how long they are trained."""

    width: int
    epochs: int
    search_epochs: int      # after which the learning rates are compared
    look: int               # updates between two looks at the validation error until it is below `FAST`


def protocol(data: Dataset, quick: bool) -> Protocol:
    if data.name == "mnist":
        return Protocol(64, 2, 1, 500) if quick else Protocol(256, 20, 8, 500)
    return Protocol(64, 20, 5, 25) if quick else Protocol(64, 60, 20, 25)


@dataclass(frozen=True)
class Split:
    """A sixth of the training rows, the last ones, is for validation: 50,000 and 10,000 of MNIST."""

    x: Array
    y: Array
    x_val: Array
    y_val: Array
    x_test: Array
    y_test: Array


def split(data: Dataset) -> Split:
    n = len(data.x) * 5 // 6
    return Split(data.x[:n], data.y[:n], data.x[n:], data.y[n:], data.x_test, data.y_test)


def network(n_in: int, row: Row, width: int, seed: int) -> fnn.Sequential:
    layers: list[fnn.layers.Layer] = []
    for n in (n_in, *[width] * (HIDDEN - 1)):
        layers += [fnn.Dense(n, width, init=row.init), fnn.Activation(row.activation)]
    return fnn.Sequential([*layers, fnn.Dense(width, 10, init=row.init)], seed=seed)


def error(net: fnn.Sequential, x: Array, y: Array) -> float:
    """In %."""
    return 100 * (1 - net.evaluate(x, y)["accuracy"])


class Errors(Callback):
    """Validation and test errors after each epoch, and the updates to `FAST`, looked for every so many of them."""

    def __init__(self, data: Split, look: int) -> None:
        self.every = look
        self.data = data
        self.steps: list[int] = []
        self.validation: list[float] = []
        self.test: list[float] = []
        self.fast = math.inf

    def on_step(self, run: Any) -> None:
        if self.fast == math.inf and error(run.net, self.data.x_val, self.data.y_val) <= FAST:
            self.fast = run.step

    def on_epoch_end(self, run: Any) -> None:
        self.steps.append(run.step)
        self.validation.append(error(run.net, self.data.x_val, self.data.y_val))
        self.test.append(error(run.net, self.data.x_test, self.data.y_test))


def train(data: Split, row: Row, lr: float, seed: int, width: int, epochs: int, look: int) -> dict[str, Any]:
    """Train one net.

    Returns
    -------
    dict
        By epoch ``steps``, ``validation`` and ``test`` errors in %; ``fast``, the updates to `FAST`; ``error``, the test error
        at the lowest validation error.
    """
    net, errors = network(data.x.shape[1], row, width, seed), Errors(data, look)
    net.fit(data.x, data.y, epochs=epochs, batch_size=BATCH, optimizer=fnn.SGD(lr), callbacks=[errors])
    best = int(np.argmin(errors.validation))
    return {"steps": errors.steps, "validation": errors.validation, "test": errors.test, "fast": errors.fast,
            "error": errors.test[best]}


def rate(data: Split, row: Row, seed: int, rules: Protocol, store: Store, name: str) -> float:
    """The learning rate with the lowest validation error after some epochs."""
    def last(lr: float) -> float:
        net = network(data.x.shape[1], row, rules.width, seed)
        try:
            net.fit(data.x, data.y, epochs=rules.search_epochs, batch_size=BATCH, optimizer=fnn.SGD(lr))
        except fnn.DivergedError:
            return math.inf
        return error(net, data.x_val, data.y_val)

    found = {lr: store.get(f"search {name} {rules} {row} {lr} {seed}", functools.partial(last, lr)) for lr in RATES}
    print(f"{row}: validation error by learning rate: {', '.join(f'{lr:g}: {e:.2f} %' for lr, e in found.items())}", flush=True)
    return min(found, key=lambda lr: found[lr])


def claims(found: Mapping[Row, Sequence[Any]], full: bool) -> list[Claim]:
    """Only what the sample can tell: not the order of the rows that lie within one standard error."""
    errors = {str(row): np.array([r["error"] for r in results]) for row, results in found.items()}
    fast = {str(row): float(np.median([r["fast"] for r in results])) for row, results in found.items()}
    others = max(e.mean() for name, e in errors.items() if name != "Sigmoid")
    ratios = [(name, fast[f"{name} N"] / fast[name]) for name in ("Softsign", "Tanh")]
    band = {"low": 1.5, "high": 2.3} if full else {}
    return [
        Claim("Tanh N, test error in %", float(errors["Tanh N"].mean()), 1.64, **band),
        Claim("Sigmoid above the worst of the others by, in % points", float(errors["Sigmoid"].mean() - others), 0.45, low=0.3),
        *(Claim(f"updates to {FAST:g} % validation error, {name} N / {name}", r, "faster", high=1) for name, r in ratios),
    ]


def draw(figure: Any, found: Mapping[Row, Sequence[Any]]) -> None:
    panel = figure.subplots()
    common.frame(panel, xlabel="updates (batches of 10 images)", ylabel="test error in %: median and range of the seeds")
    for row, results in found.items():
        steps, lines = results[0]["steps"], np.array([result["test"] for result in results])
        dashes = "-" if row.init == "glorot_uniform" else "--"
        panel.plot(steps, np.median(lines, axis=0), dashes, linewidth=1.4, color=COLOURS[row.activation], label=str(row))
        panel.fill_between(steps, lines.min(axis=0), lines.max(axis=0), color=COLOURS[row.activation], alpha=0.15, linewidth=0)
    panel.set_yscale("log")
    panel.set_yticks([2, 3, 5, 10, 20, 50, 100], ["2", "3", "5", "10", "20", "50", "100"])
    panel.minorticks_off()
    panel.xaxis.set_major_formatter(common.thousands)
    panel.legend(fontsize=8, frameon=False)


def main(argv: Sequence[str] | None = None) -> None:
    options = common.parse(NAME, __doc__, argv)
    source = common.digits(options)
    data, rules = split(source), protocol(source, options.quick)
    seeds = range(options.seed, options.seed + (1 if options.quick else SEEDS))
    store = Store(options.out / f"{NAME}.json")
    found: dict[Row, list[Any]] = {}
    rates: dict[Row, float] = {}
    for row in ROWS:
        lr = rates[row] = rate(data, row, options.seed, rules, store, source.name)
        for seed in seeds:
            result = store.get(
                f"{source.name} {rules} {row} {lr} {seed}",
                functools.partial(train, data, row, lr, seed, rules.width, rules.epochs, rules.look))
            found.setdefault(row, []).append(result)
            print(f"{row}, lr {lr:g}, seed {seed}: test error {result['error']:.2f} %, "
                  f"{FAST:g} % of validation error after {result['fast']:g} updates", flush=True)
    lines = [[
        str(row), f"{rates[row]:g}", f"{np.mean([r['error'] for r in results]):.2f}",
        ", ".join(f"{r['error']:.2f}" for r in results), f"{row.paper:.2f}",
    ] for row, results in found.items()]
    common.show_table("Test error in %", ["", "lr", "measured, mean", "by seed", "paper"], lines)
    common.show("Claims", claims(found, source.name == "mnist" and not options.quick))
    common.picture(NAME, options, lambda figure: draw(figure, found))


if __name__ == "__main__":
    main()
