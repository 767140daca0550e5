"""Figures 6 to 8 of Glorot & Bengio (2010): activations, back-propagated gradients and weight gradients of five tanh layers.

With the "standard" weights, U(-1, 1) / sqrt(n), activations shrink on the way up and gradients on the way down. With the
"normalised" ones, now called Xavier, they nearly keep their size. The gradients by the weights have about the same size in all
layers either way. The paper has the figures only; the numbers beside the measured ones are those of infinitely wide layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

import fastnn as fnn
from examples import common, stack
from examples.common import Claim
from fastnn import init

NAME = "glorot_figures"
WIDTH, LAYERS, CLASSES, ROWS = 1000, 5, 10, 300
BINS = 61


@dataclass(frozen=True)
class Start:
    """A way to draw the weights, and what theory says of each layer, bottom first."""

    init: stack.Init
    activation: tuple[float, ...]
    gradient: tuple[float, ...]         # relative to the top layer
    weight_gradient: tuple[float, ...]  # relative to the top layer


STARTS = {
    "standard": Start(
        init.fan_in_uniform, (0.460, 0.250, 0.141, 0.081, 0.047), (0.083, 0.18, 0.33, 0.57, 1), (0.98, 0.97, 1.00, 1.01, 1)),
    "normalised": Start(
        init.xavier_uniform, (0.628, 0.486, 0.408, 0.358, 0.322), (0.41, 0.60, 0.75, 0.88, 1), (1.10, 1.02, 1, 1, 1)),
}


@dataclass(frozen=True)
class Signals:
    """The arrays of each layer, bottom first."""

    activations: list[stack.Array]
    gradients: list[stack.Array]        # of the cost by the input of the tanh
    weight_gradients: list[stack.Array]


def measure(seed: int) -> dict[str, Signals]:
    """One batch of normal rows with random classes, once up and once down, with the softmax cross-entropy on top."""
    results = {}
    for name, start in STARTS.items():
        rng = np.random.default_rng(seed)
        x = rng.standard_normal((ROWS, WIDTH)).astype(np.float32)
        matrices = stack.weights([WIDTH] * (LAYERS + 1), start.init, rng)
        signals = stack.forward(x, matrices, "tanh")
        last = start.init((WIDTH, CLASSES), rng=rng)
        _, dlogits = fnn.softmax_cross_entropy(fnn.dense_forward(signals[-1], last), rng.integers(0, CLASSES, ROWS))
        dout, _, _ = fnn.dense_backward(dlogits, signals[-1], last)
        assert dout is not None
        gradients = stack.backward(dout, signals, matrices, "tanh")
        results[name] = Signals(signals[1:], gradients.sums, gradients.weights)
    return results


def relative(arrays: Sequence[stack.Array]) -> list[float]:
    """The rms of each relative to that of the last."""
    return [stack.rms(a) / stack.rms(arrays[-1]) for a in arrays]


def claims(results: dict[str, Signals]) -> dict[str, list[Claim]]:
    """By what it is about, a claim for each layer."""
    table = {}
    for name, start in STARTS.items():
        signals = results[name]
        for what, measured, source, band in (
            ("activation", [stack.rms(a) for a in signals.activations], start.activation, partial(common.near, relative=0.1)),
            ("gradient", relative(signals.gradients), start.gradient, partial(common.near, relative=0.2)),
            ("weight gradient", relative(signals.weight_gradients), start.weight_gradient, partial(Claim, low=0.85, high=1.2)),
        ):
            row = f"{name}: {what}"
            numbers = zip(measured, source, strict=True)
            table[row] = [band(f"{row}, layer {layer}", *pair) for layer, pair in enumerate(numbers, 1)]
    return table


def draw(figure: Any, results: dict[str, Signals]) -> None:
    """A row for each kind of signal, a panel for each start, a curve for each layer, the bottom one light."""
    panels = figure.subplots(3, 2)
    for column, (name, signals) in enumerate(results.items()):
        for row, (what, arrays) in enumerate((
            ("activation", signals.activations),
            ("gradient by the input of the tanh", signals.gradients),
            ("gradient by the weights", signals.weight_gradients),
        )):
            panel = panels[row, column]
            edge = 1.0 if row == 0 else 3.5 * stack.rms(arrays[-1])
            edges = np.linspace(-edge, edge, BINS + 1)
            for layer, (array, shade) in enumerate(zip(arrays, common.SHADES, strict=True), 1):
                density, _ = np.histogram(array, edges, density=True)
                panel.plot((edges[:-1] + edges[1:]) / 2, density / density.max(), color=shade, label=f"layer {layer}")
            common.frame(
                panel, title="" if row else f"{name} weights", xlabel=what, ylabel="" if column else "density / its maximum")
            panel.ticklabel_format(axis="x", style="sci", scilimits=(-2, 3))
            panel.xaxis.get_offset_text().set_fontsize(8)
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=LAYERS, fontsize=8, frameon=False)


def main(argv: Sequence[str] | None = None) -> None:
    options = common.parse(NAME, __doc__, argv)
    results = measure(options.seed)
    columns = [f"layer {layer}" for layer in range(1, LAYERS + 1)]
    common.show_grid(
        "rms; gradients relative to layer 5 (bands: activations 10 %, gradients 20 %, weight gradients 0.85 to 1.2)", "",
        columns, claims(results))
    common.picture(NAME, options, lambda figure: draw(figure, results), height=6.5)


if __name__ == "__main__":
    main()
