"""E7: with batch normalisation the scale of the weights and the learning rate matter much less.

Claim: Ioffe & Szegedy (2015), section 3.3. BN((aW)u) = BN(Wu) for a scalar a > 0, and the gradient with respect to aW is 1/a of
that with respect to W: large weights get small gradients, so higher rates can be afforded. Goodfellow et al., section 8.7.1.

(a) Both relations, as they come out of float32 arithmetic.
(b) The net of E5, after 1500 steps, for 8 x 8 pairs of learning rate and scale sigma of the initial weights: how many learn.
(c) The usual demonstration of textbooks: 5 x 100 ReLU units on the first 1000 images, training accuracy by epoch, 16 scales.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

import fastnn as fnn
from bench.data import Dataset
from examples import common
from examples.batchnorm_curves import Kind, binary, network, run_steps
from examples.common import BLUE, INK, ORANGE, Claim
from examples.store import Store

Array = np.ndarray

NAME = "scale_and_rate"
FACTORS = (0.1, 0.3, 3.0, 10.0)
RATES = tuple(np.logspace(-3, 1.5, 8).tolist())
SIGMAS = tuple(np.logspace(-3, 0.5, 8).tolist())
STEPS = 1500
LEARNT = 0.90
PANELS = tuple(np.logspace(0, -4, 16).tolist())
SMALL_SET, SMALL_BATCH, SMALL_EPOCHS = 1000, 100, 20


# ---- (a) the exact relations

def relations(factor: float, seed: int) -> tuple[float, float]:
    """The largest error, relative to the largest entry, of BN(X aW) = BN(XW) and of grad(aW) = grad(W) / a, in float32.

    64 rows of N(0, 1), 50 features, 20 units with a variance of at least 0.01 at each of `FACTORS`; eps 1e-12, which is the
    only thing that breaks the relations, by eps over the variance.
    """
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((64, 50)).astype(np.float32)
    weight = fnn.init.normal((50, 20), std=0.3, rng=rng)
    dout = rng.standard_normal((64, 20)).astype(np.float32)
    (out, gradient), (out_a, gradient_a) = (_normalised(x, np.float32(a) * weight, dout) for a in (1.0, factor))
    return _error(out_a, out), _error(factor * gradient_a, gradient)


def _normalised(x: Array, weight: Array, dout: Array) -> tuple[Array, Array]:
    """BN(x weight), and the gradient of weight for that of the outputs."""
    gamma, beta = np.ones(weight.shape[1], np.float32), np.zeros(weight.shape[1], np.float32)
    z = fnn.dense_forward(x, weight)
    out, mean, rstd = fnn.batchnorm_forward(z, gamma, beta, eps=1e-12)
    dz, _, _ = fnn.batchnorm_backward(dout, z, gamma, mean, rstd)
    _, dweight, _ = fnn.dense_backward(dz, x, weight, need_dx=False)
    return out, dweight


def _error(value: Array, exact: Array) -> float:
    return float(np.abs(value - exact).max() / np.abs(exact).max())


# ---- (b) 8 x 8 pairs

def cell(data: Dataset, batch_norm: bool, lr: float, sigma: float, seed: int, steps: int) -> float:
    """The test accuracy of E5's net after some steps; NaN if the training diverged."""
    net = network(data.x.shape[1], Kind(batch_norm, sigma), seed)
    if not run_steps(net, data.x, data.y, lr, steps):
        return math.nan
    return net.evaluate(data.x_test, data.y_test)["accuracy"]


def grid(accuracy: Callable[[float, float], float], rates: Sequence[float], sigmas: Sequence[float]) -> Array:
    """The accuracies, a row for each sigma and a column for each rate."""
    return np.array([[accuracy(lr, sigma) for lr in rates] for sigma in sigmas])


def learnt(accuracies: Array, least: float) -> int:
    """The pairs that reached an accuracy."""
    return int(np.sum(np.nan_to_num(accuracies) >= least))


# ---- (c) 16 scales

def small_set(data: Dataset, batch_norm: bool, sigma: float, seed: int, epochs: int) -> list[float]:
    """The training accuracy before and after each epoch, on the first 1000 images."""
    x, y = data.x[:SMALL_SET], data.y[:SMALL_SET]
    net = network(x.shape[1], Kind(batch_norm, sigma), seed, activation="relu", hidden=5)
    found = [net.evaluate(x, y)["accuracy"]]
    try:
        net.fit(x, y, epochs=epochs, batch_size=SMALL_BATCH, optimizer=fnn.SGD(0.01),
                callbacks=[lambda run: found.append(run.net.evaluate(x, y)["accuracy"])])
    except fnn.DivergedError:
        found += [math.nan] * (1 + epochs - len(found))
    return found


# ---- what came of it

def claims(grids: Mapping[bool, Array], panels: Mapping[bool, Array], seed: int, least: float) -> Iterator[Claim]:
    errors = [relations(a, seed) for a in FACTORS]
    yield Claim("BN(X aW) = BN(XW), largest relative error", max(e for e, _ in errors), 0.0, high=1e-5)
    yield Claim("grad(aW) = grad(W) / a, largest relative error", max(e for _, e in errors), 0.0, high=1e-5)
    with_bn, without = learnt(grids[True], least), learnt(grids[False], least)
    cells = grids[True].size
    yield Claim(f"pairs of {cells} that learn ({least:g}) with BN", with_bn, "more", low=2 * without)
    yield Claim(f"pairs of {cells} that learn ({least:g}) without BN", without)
    for batch_norm in (True, False):
        name = f"{'with' if batch_norm else 'without'} BN"
        yield Claim(f"pairs that diverged {name}", int(np.isnan(grids[batch_norm]).sum()))
        yield Claim(f"scales of {len(PANELS)} with training accuracy >= 0.9 {name}", learnt(panels[batch_norm][:, -1], 0.9))


def draw_grids(figure: Any, grids: Mapping[bool, Array], rates: Sequence[float], sigmas: Sequence[float], steps: int) -> None:
    panels = figure.subplots(1, 2, sharey=True)
    for panel, batch_norm in zip(panels, (True, False), strict=True):
        found = grids[batch_norm]
        common.frame(panel, title=f"{'With' if batch_norm else 'Without'} batch norm", xlabel="learning rate",
                     ylabel="sigma of the initial weights" if batch_norm else "")
        panel.grid(visible=False)
        image = panel.imshow(found, vmin=0, vmax=1, cmap="viridis", origin="lower", aspect="auto")
        for (i, j), accuracy in np.ndenumerate(found):
            text = "NaN" if math.isnan(accuracy) else f"{accuracy:.2f}"[1:] if accuracy < 0.995 else "1.0"
            panel.text(j, i, text, ha="center", va="center", fontsize=7.5, color="white" if accuracy < 0.6 else INK)
        panel.set_xticks(range(len(rates)), [f"{lr:.2g}" for lr in rates])
        panel.set_yticks(range(len(sigmas)), [f"{sigma:.2g}" for sigma in sigmas])
    bar = figure.colorbar(image, ax=panels, fraction=0.04, pad=0.02)
    bar.set_label(f"test accuracy after {steps} steps", fontsize=8.5, color=INK)
    bar.ax.tick_params(length=0, labelsize=8, colors=INK)
    bar.outline.set_visible(False)


def draw_panels(figure: Any, found: Mapping[bool, Array]) -> None:
    for i, (panel, sigma) in enumerate(zip(figure.subplots(4, 4, sharex=True, sharey=True).flat, PANELS, strict=True)):
        xlabel, ylabel = "epoch" if i >= 12 else "", "accuracy" if i % 4 == 0 else ""
        common.frame(panel, title=f"sigma {sigma:.2g}", xlabel=xlabel, ylabel=ylabel)
        for batch_norm, colour, label in ((True, BLUE, "with batch norm"), (False, ORANGE, "without batch norm")):
            panel.plot(found[batch_norm][i], color=colour, linewidth=1.3, label=label)
            if np.isnan(found[batch_norm][i]).any():
                panel.text(0.97, 0.05, "diverges", transform=panel.transAxes, ha="right", fontsize=8, color=colour)
        panel.set_ylim(0, 1.03)
    handles, labels = panel.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2, fontsize=8, frameon=False)


def main(argv: Sequence[str] | None = None) -> None:
    options = common.parse(NAME, __doc__, argv)
    data = common.digits(options)
    black_and_white = binary(data)
    thin = 2 if options.quick else 1
    rates, sigmas, epochs = RATES[::thin], SIGMAS[::thin], SMALL_EPOCHS
    least = LEARNT if data.name == "mnist" else 0.85
    store = Store(options.out / f"{NAME}.json")

    def accuracy(lr: float, sigma: float, *, batch_norm: bool) -> float:
        key = f"{data.name} {STEPS} {Kind(batch_norm, sigma)} {lr:.4g} {options.seed}"
        found = store.get(key, lambda: cell(black_and_white, batch_norm, lr, sigma, options.seed, STEPS))
        print(f"{Kind(batch_norm, sigma)}, lr {lr:.2g}: {found:.3f}", flush=True)
        return float(found)

    grids = {b: grid(functools.partial(accuracy, batch_norm=b), rates, sigmas) for b in (True, False)}
    panels = {b: np.array([small_set(data, b, sigma, options.seed, epochs) for sigma in PANELS]) for b in (True, False)}
    common.show("Claims", list(claims(grids, panels, options.seed, least)))
    common.picture(NAME, options, lambda figure: draw_grids(figure, grids, rates, sigmas, STEPS), height=3.8)
    common.picture("scale_by_panel", options, lambda figure: draw_panels(figure, panels), height=6)


if __name__ == "__main__":
    main()
