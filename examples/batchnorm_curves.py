"""E5 and E6: batch normalisation trains faster, and keeps the inputs of the sigmoids where they are.

Claim: Ioffe & Szegedy (2015), section 4.1 and figure 1. A net of three hidden layers of 100 sigmoid units learns MNIST, as
binary images and in 50,000 steps of 60 examples, faster and to a higher test accuracy with batch normalisation (1a); and the
15th, 50th and 85th percentile of the input of a sigmoid in the last hidden layer, which wander as the layers below are trained,
stay in place with it (1b and 1c).

The paper gives no learning rate, no scale of the initial weights, no eps and no number. Chosen here: the mean loss; learning
rate 0.5, or for each kind of net its own best one; weights from a normal distribution of standard deviation sigma = 0.01 or
0.1; eps 1e-5; batch norm before the sigmoid, in place of the bias.

That the inputs stay in place is shown; that this is *why* the net trains faster is disputed by Santurkar et al. (2018).
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import fastnn as fnn
from bench.data import Dataset
from examples import common
from examples.common import BLUE, INK, ORANGE, SKY, YELLOW, Claim
from examples.store import Store
from fastnn.callbacks import Callback, MaxSteps

Array = np.ndarray

NAME = "batchnorm_curves"
HIDDEN, WIDTH, BATCH = 3, 100, 60
SEEDS = 5
FIXED_ROWS = 1000       # test rows whose percentiles are followed
PERCENTILES = (15, 50, 85)
LR = 0.5
RATES = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)       # among which each kind of net finds its best


@dataclass(frozen=True)
class Kind:
    """A kind of net: with batch norm or without, and the standard deviation of its initial weights."""

    batch_norm: bool
    sigma: float

    def __str__(self) -> str:
        return f"{'with' if self.batch_norm else 'without'} BN, sigma {self.sigma:g}"


SIGMAS = (0.01, 0.1)
KINDS = tuple(Kind(batch_norm, sigma) for batch_norm in (True, False) for sigma in SIGMAS)
Runs = Mapping[Kind, Sequence[Mapping[str, Any]]]       # what `curve` gives, by kind and seed
COLOURS = dict(zip(KINDS, (BLUE, SKY, ORANGE, YELLOW), strict=True))


@dataclass(frozen=True)
class Protocol:
    """How long, and up to which accuracy the steps are counted."""

    steps: int
    search: int         # steps after which a learning rate has failed to reach the target
    target: float
    early: int          # up to here accuracies are taken every 100 steps, then every 500
    seeds: int


def protocol(data: Dataset, quick: bool) -> Protocol:
    if data.name == "mnist":
        return Protocol(5_000, 5_000, 0.95, 5_000, 1) if quick else Protocol(50_000, 20_000, 0.95, 10_000, SEEDS)
    return Protocol(3_000, 3_000, 0.85, 3_000, 1) if quick else Protocol(10_000, 10_000, 0.85, 10_000, SEEDS)


def binary(data: Dataset) -> Dataset:
    """The images in black and white."""
    x, x_test = ((a > 0.5).astype(np.float32) for a in (data.x, data.x_test))
    return Dataset(data.name, x, data.y, x_test, data.y_test)


def network(n_in: int, kind: Kind, seed: int, *, activation: str = "sigmoid", hidden: int = HIDDEN) -> fnn.Sequential:
    """The paper's net, with as many inputs as there are pixels."""
    normal = functools.partial(fnn.init.normal, std=kind.sigma)
    layers: list[fnn.layers.Layer] = []
    for width in (n_in, *[WIDTH] * (hidden - 1)):
        layers.append(fnn.Dense(width, WIDTH, bias=not kind.batch_norm, init=normal))
        if kind.batch_norm:
            layers.append(fnn.BatchNorm(WIDTH))
        layers.append(fnn.Activation(activation))
    return fnn.Sequential([*layers, fnn.Dense(WIDTH, 10, init=normal)], seed=seed)


def sigmoid_inputs(net: fnn.Sequential, x: Array) -> Array:
    """The inputs (N, units) of the last hidden layer's sigmoids, batch norm by the statistics of these rows, as in training."""
    for layer in net.layers[:-2]:
        if isinstance(layer, fnn.Dense):
            x = fnn.dense_forward(x, layer.weight, layer.bias)
        elif isinstance(layer, fnn.BatchNorm):
            x, _, _ = fnn.batchnorm_forward(x, layer.gamma, layer.beta, eps=layer.eps)
        elif isinstance(layer, fnn.Activation):
            x = fnn.activation_forward(x, layer.kind)
    return x


def first_gradient(batch_norm: bool, seed: int) -> float:
    """The standard deviation of the first layer's weight gradient before training, for inputs from N(0, 1) and sigma = 0.01."""
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal((BATCH, 784), np.float32), rng.integers(10, size=BATCH)
    _, gradients = network(784, Kind(batch_norm, 0.01), seed).loss_and_gradients(x, y)
    return float(gradients["0.weight"].std())


class Watch(Callback):
    """The test accuracy and the percentiles of the sigmoids' inputs while a net is trained."""

    every = 50

    def __init__(self, data: Dataset, early: int) -> None:
        self.data, self.early = data, early
        self.steps: list[int] = []
        self.accuracy: list[float] = []
        self.percentile_steps: list[int] = []
        self.percentiles: list[Array] = []

    def on_fit_begin(self, run: Any) -> None:
        self.on_step(run)

    def on_step(self, run: Any) -> None:
        if run.step % (100 if run.step <= self.early else 500) == 0:
            self.steps.append(run.step)
            self.accuracy.append(run.net.evaluate(self.data.x_test, self.data.y_test)["accuracy"])
        if run.step % 250 == 0:
            self.percentile_steps.append(run.step)
            self.percentiles.append(np.percentile(sigmoid_inputs(run.net, self.data.x_test[:FIXED_ROWS]), PERCENTILES, axis=0))


class Reach(Callback):
    """Stops the training at an accuracy on held-out rows, and keeps the step."""

    every = 100

    def __init__(self, x: Array, y: Array, target: float) -> None:
        self.x, self.y, self.target = x, y, target
        self.step = math.inf

    def on_step(self, run: Any) -> None:
        if run.net.evaluate(self.x, self.y)["accuracy"] >= self.target:
            self.step = run.step
            run.stop(f"accuracy {self.target}")


def run_steps(net: fnn.Sequential, x: Array, y: Array, lr: float, steps: int, *callbacks: Callback) -> bool:
    """Train for a number of steps; False if the training diverged."""
    epochs = math.ceil(steps / (len(x) // BATCH))
    try:
        net.fit(x, y, epochs=epochs, batch_size=BATCH, optimizer=fnn.SGD(lr), callbacks=[*callbacks, MaxSteps(steps)])
    except fnn.DivergedError:
        return False
    return True


def curve(data: Dataset, kind: Kind, lr: float, seed: int, rules: Protocol) -> dict[str, Any]:
    """Train one net and look at it on the way.

    Returns
    -------
    dict
        ``steps`` and ``accuracy`` (test), ``seconds`` of it all, and of the percentiles: their ``percentile_steps``;
        ``typical``, those of the unit whose median wanders as much as that of half of the units; and by unit the standard
        deviation over time of the median (``wander``) and of the distance from the lowest to the highest (``breathing``).
    """
    net, watch = network(data.x.shape[1], kind, seed), Watch(data, rules.early)
    started = time.perf_counter()
    finite = run_steps(net, data.x, data.y, lr, rules.steps, watch)
    seconds = time.perf_counter() - started
    p = np.array(watch.percentiles)                 # (looks, 3, units)
    wander, breathing = p[:, 1].std(axis=0), (p[:, 2] - p[:, 0]).std(axis=0)
    typical = np.argsort(wander)[wander.size // 2]
    return {
        "finite": finite, "seconds": seconds, "steps": watch.steps, "accuracy": watch.accuracy,
        "percentile_steps": watch.percentile_steps, "typical": p[:, :, typical].tolist(),
        "wander": wander.tolist(), "breathing": breathing.tolist(),
    }


def search(data: Dataset, kind: Kind, lr: float, seed: int, rules: Protocol) -> float:
    """The steps to the target on the last sixth of the training rows, which are held out."""
    n = len(data.x) * 5 // 6
    reach = Reach(data.x[n:], data.y[n:], rules.target)
    run_steps(network(data.x.shape[1], kind, seed), data.x[:n], data.y[:n], lr, rules.search, reach)
    return reach.step


def steps_to(result: Mapping[str, Any], target: float) -> float:
    """The first look at which the test accuracy was reached; infinite if none."""
    return next((s for s, a in zip(result["steps"], result["accuracy"], strict=True) if a >= target), math.inf)


def curves(data: Dataset, rates: Mapping[Kind, float], seed: int, rules: Protocol, store: Store) -> dict[Kind, list[Any]]:
    """`curve` for every kind at its learning rate, and for every seed."""
    found: dict[Kind, list[Any]] = {}
    for kind, lr in rates.items():
        for s in range(seed, seed + rules.seeds):
            key = f"{data.name} {rules.steps} {kind} {lr} {s}"
            result = store.get(key, functools.partial(curve, data, kind, lr, s, rules))
            found.setdefault(kind, []).append(result)
            print(f"{kind}, lr {lr:g}, seed {s}: accuracy {result['accuracy'][-1]:.4f}, {result['seconds']:.1f} s", flush=True)
    return found


def best_rates(data: Dataset, seed: int, rules: Protocol, store: Store) -> dict[Kind, float]:
    """For each kind the learning rate that reaches the target in the fewest steps."""
    best: dict[Kind, float] = {}
    for kind in KINDS:
        steps: dict[float, float] = {}
        for lr in RATES:
            key = f"search {data.name} {rules.search} {kind} {lr} {seed}"
            steps[lr] = store.get(key, functools.partial(search, data, kind, lr, seed, rules))
        best[kind] = min(steps, key=lambda lr: steps[lr])
        print(f"{kind}: steps to {rules.target} by learning rate: {', '.join(f'{lr:g}: {n:g}' for lr, n in steps.items())}")
    return best


# ---- what came of it

def table(title: str, found: Runs, rates: Mapping[Kind, float], rules: Protocol) -> None:
    """Print, for each kind, the median and the range over the seeds."""
    lines = [[
        str(kind), f"{rates[kind]:g}", spread([r["accuracy"][-1] for r in results], "{:.4f}"),
        spread([steps_to(r, rules.target) for r in results], "{:g}"), spread([r["seconds"] for r in results], "{:.0f}"),
    ] for kind, results in found.items()]
    common.show_table(title, ["net", "lr", "final accuracy", f"steps to {rules.target:g}", "seconds"], lines)


def spread(values: Sequence[float], form: str) -> str:
    """The median and, of more than one, the lowest and highest."""
    text = form.format(float(np.median(values)))
    return text if len(values) == 1 else f"{text} ({form.format(min(values))} to {form.format(max(values))})"


def median(found: Runs, kind: Kind, target: float) -> float:
    return float(np.median([steps_to(r, target) for r in found[kind]]))


def claims(found: Runs, best: Runs, rules: Protocol, mnist: bool) -> Iterator[Claim]:
    """What the paper and its reproductions say, beside what was measured; the bands are about MNIST and all the steps."""
    full = mnist and rules.steps >= 50_000
    for kind in KINDS:
        final = float(np.median([r["accuracy"][-1] for r in found[kind]]))
        source, low, high = ("0.9776 to 0.98", 0.975, 0.985) if kind.batch_norm else ("0.975 to 0.9769", -math.inf, math.inf)
        yield Claim(f"final accuracy {kind}, lr {LR:g}", final, source, *(low, high) if full else ())
    for name, runs, band in (f"lr {LR:g}", found, (-math.inf, 1 / 3)), ("each at its best lr", best, ()):
        for sigma in SIGMAS:
            ratio = median(runs, Kind(True, sigma), rules.target) / median(runs, Kind(False, sigma), rules.target)
            yield Claim(f"steps to {rules.target:g}, with / without BN, sigma {sigma:g}, {name}", ratio, "faster", *band)
    for name, what in ("wander", "median"), ("breathing", "width"):
        for sigma in SIGMAS:
            with_bn, without = (np.concatenate([r[name] for r in found[Kind(b, sigma)]]) for b in (True, False))
            share = float(np.mean(with_bn < without))
            least = 0.7 if full else -math.inf
            yield Claim(f"share of units whose {what} moves less with BN, sigma {sigma:g}", share, "stable", low=least)
    for batch_norm, expected in (False, 1.9e-7), (True, 9.6e-4):
        name = f"std of the first layer's gradient, {Kind(batch_norm, 0.01)}"
        yield common.within_factor(name, first_gradient(batch_norm, 0), expected, 1.5)


def draw(figure: Any, found: Runs, best: Runs, rates: Mapping[Kind, float]) -> None:
    upper, lower = figure.subfigures(2, 1, height_ratios=(1.15, 1))
    runs = ((f"a  All at learning rate {LR:g}", found), ("Each at the learning rate that is best for it", best))
    for panel, (title, results) in zip(upper.subplots(1, 2, sharey=True), runs, strict=True):
        given = results is found
        xlabel, ylabel = ("steps of 60 images", "test accuracy") if given else ("steps of 60 images, logarithmic", "")
        common.frame(panel, title=title, xlabel=xlabel, ylabel=ylabel)
        for kind in KINDS:
            steps = results[kind][0]["steps"]
            lines = np.array([r["accuracy"] for r in results[kind] if len(r["accuracy"]) == len(steps)])
            label = f"{kind}" + ("" if given else f", lr {rates[kind]:g}")
            panel.plot(steps, np.median(lines, axis=0), color=COLOURS[kind], linewidth=1.3, label=label)
            panel.fill_between(steps, lines.min(axis=0), lines.max(axis=0), color=COLOURS[kind], alpha=0.25, linewidth=0)
        panel.set_ylim(0.7, 1)
        if not given:
            panel.set_xscale("log")
        panel.set_xlim(0 if given else 100, steps[-1])
        panel.xaxis.set_major_formatter(common.thousands)
        panel.legend(fontsize=7.5, frameon=False, loc="lower right")
    panels = lower.subplots(1, 3)
    for panel, letter, kind in zip(panels, "bc", (Kind(False, 0.1), Kind(True, 0.1)), strict=False):
        ylabel = "input of a typical sigmoid" if letter == "b" else ""
        common.frame(panel, title=f"{letter}  {kind}", xlabel="steps", ylabel=ylabel)
        steps, percentiles = found[kind][0]["percentile_steps"], np.array(found[kind][0]["typical"])
        for p, line in zip(PERCENTILES, percentiles.T, strict=True):
            panel.plot(steps, line, color=COLOURS[kind] if p == 50 else INK, linewidth=1)
            panel.text(steps[-1], line[-1], f" {p} %", fontsize=7, color=INK, va="center")
        panel.set_xlim(0, steps[-1] * 1.16)
        panel.xaxis.set_major_formatter(common.thousands)
    largest = max(np.abs(panel.get_ylim()).max() for panel in panels[:2])
    for panel in panels[:2]:
        panel.set_ylim(-largest, largest)
    panel = panels[2]
    common.frame(panel, title=f"all units, {len(found[KINDS[0]])} seeds, colours as in a", xlabel="std over time of the median",
                 ylabel="share of units below")
    for kind in KINDS:
        wander = np.sort(np.concatenate([r["wander"] for r in found[kind]]))
        panel.plot(wander, np.arange(1, wander.size + 1) / wander.size, color=COLOURS[kind], linewidth=1.3)
    panel.set_xscale("log")
    panel.set_ylim(0, 1)


def main(argv: Sequence[str] | None = None) -> None:
    options = common.parse(NAME, __doc__, argv)
    data = binary(common.digits(options))
    rules = protocol(data, options.quick)
    store = Store(options.out / f"{NAME}.json")
    given = dict.fromkeys(KINDS, LR)
    found = curves(data, given, options.seed, rules, store)
    rates = best_rates(data, options.seed, rules, store)
    best = curves(data, rates, options.seed, rules, store)
    table(f"All at learning rate {LR:g}: median (range) over {rules.seeds} seeds", found, given, rules)
    table("Each at its best learning rate", best, rates, rules)
    common.show("Claims", list(claims(found, best, rules, data.name == "mnist")))
    common.picture(NAME, options, lambda figure: draw(figure, found, best, rates), height=6.2)


if __name__ == "__main__":
    main()
