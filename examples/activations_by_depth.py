"""Weights too small: the signal vanishes with depth. Too large: units saturate, the gradient explodes. Xavier: it fades slowly.

1000 rows from N(0, 1) go through 30 tanh layers of 500 units, and a gradient from N(0, 1) comes back. The rule is that of
Glorot & Bengio (2010); the demonstration with 0.01, 1 and Xavier goes back to Stanford's course cs231n. The numbers beside
the measured ones are those of infinitely wide layers (`theory`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from examples import common, stack
from examples.common import Claim
from fastnn import init

NAME = "activations_by_depth"
WIDTH, LAYERS = 500, 30
SHOWN = (1, 2, 5, 10, 20, 30)
BINS = np.linspace(-1, 1, 42)


@dataclass(frozen=True)
class Start:
    """A way to draw the weights.

    `gain` is the standard deviation of a weight times sqrt(500). `std` is that of the outputs at the layers `SHOWN` as theory
    has it, and `band` how close the measured one must be.
    """

    init: Callable[..., stack.Array]
    gain: float
    std: tuple[float, ...]
    band: Callable[[str, float, float], Claim]
    colour: str


def by_layer(name: str, measured: float, source: float) -> Claim:
    """The theory's word on Xavier is good to 5 %, and below layer 15 to 8 %."""
    return common.near(name, measured, source, 0.05 if int(name.split()[-1]) <= 15 else 0.08)


STARTS = {
    "N(0, 0.01²)": Start(
        partial(init.normal, std=0.01), 0.01 * math.sqrt(WIDTH), (0.2135, 0.0476, 5.33e-4, 2.98e-7, 9.3e-14, 2.9e-20),
        partial(common.within_factor, factor=1.2), common.BLUE),
    "N(0, 1)": Start(
        partial(init.normal, std=1.0), math.sqrt(WIDTH), (0.982,) * 6,
        lambda name, measured, source: Claim(name, measured, source, 0.975, 0.988), common.ORANGE),
    "Xavier": Start(init.xavier_uniform, 1.0, (0.628, 0.486, 0.322, 0.2285, 0.161, 0.131), by_layer, common.GREEN),
    "Xavier, gain 5/3": Start(
        partial(init.xavier_uniform, gain=init.gain("tanh")), init.gain("tanh"), (0.759, 0.693, 0.654, 0.651, 0.651, 0.651),
        partial(common.near, relative=0.03), common.PURPLE),
}


@dataclass(frozen=True)
class Depth:
    """What one start gave, by layer from the first."""

    std: list[float]
    saturated: list[float]          # share of the outputs beyond 0.99 in size
    slope: list[float]              # median of 1 - h^2
    gradient: list[float]           # rms of the gradient by the input and each layer's output, over that by the last output
    histograms: list[stack.Array]   # of the outputs of the layers SHOWN, in BINS


def measure(seed: int, n_rows: int = 1000) -> dict[str, Depth]:
    """Send rows up and a gradient down through every start; in float64, where less of tanh's slope is rounded to zero."""
    results = {}
    for name, start in STARTS.items():
        rng = np.random.default_rng(seed)
        x, dout = rng.standard_normal((2, n_rows, WIDTH))
        matrices = stack.weights([WIDTH] * (LAYERS + 1), start.init, rng, "float64")
        signals = stack.forward(x, matrices, "tanh")
        outputs = signals[1:]
        gradients = stack.backward(dout, signals, matrices, "tanh").signals
        results[name] = Depth(
            [float(h.std()) for h in outputs],
            [float(np.mean(np.abs(h) > 0.99)) for h in outputs],
            [float(np.median((1 - h) * (1 + h))) for h in outputs],
            [stack.rms(g) / stack.rms(dout) for g in gradients],
            [np.histogram(outputs[layer - 1], BINS)[0] for layer in SHOWN])
    return results


def theory(gain: float) -> tuple[list[float], float]:
    """By layer the std of the outputs, and the factor on the gradient's rms over all layers, were the layers infinitely wide.

    The sum that enters a tanh is normal with variance q, which is gain^2 at first and gain^2 E[h^2] from then on, h = tanh(z);
    the mean square of the gradient takes the factor gain^2 E[(1 - h^2)^2] at each layer.
    """
    t = np.linspace(-8, 8, 20001)
    density = np.exp(-t * t / 2) / math.sqrt(2 * math.pi) * (t[1] - t[0])
    stds, growth, q = [], 1.0, gain**2
    for _ in range(LAYERS):
        h = np.tanh(math.sqrt(q) * t)
        stds.append(math.sqrt(density @ (h * h)))
        growth *= gain**2 * float(density @ (1 - h * h) ** 2)
        q = gain**2 * stds[-1] ** 2
    return stds, math.sqrt(growth)


def std_claims(results: dict[str, Depth]) -> dict[str, list[Claim]]:
    """The std of the outputs by start and layer."""
    return {
        name: [start.band(f"{name}, layer {i}", results[name].std[i - 1], std) for i, std in zip(SHOWN, start.std, strict=True)]
        for name, start in STARTS.items()
    }


def other_claims(results: dict[str, Depth]) -> list[Claim]:
    """What else is said of saturation, of the pace at which Xavier fades, and of the gradient."""
    large, xavier, high = (results[name] for name in list(STARTS)[1:])
    paces = [std * math.sqrt(2 * layer) for layer, std in enumerate(xavier.std, 1) if layer >= 10]
    return [
        Claim("N(0, 1): share of outputs beyond 0.99, layer 30", large.saturated[-1], 0.904, 0.89, 0.92),
        common.within_factor("N(0, 1): median slope of tanh, layer 30", large.slope[-1], 5.5e-13, 3),
        common.near("N(0, 1): growth of the gradient's rms per layer", large.gradient[0] ** (1 / LAYERS), 3.5, 0.05),
        Claim("Xavier: least of std sqrt(2 layer), layers 10 to 30", min(paces), "about 1", 0.95, 1.1),
        Claim("Xavier: largest of std sqrt(2 layer), layers 10 to 30", max(paces), "about 1", 0.95, 1.1),
        common.near("Xavier: gradient's rms at the input / at the output", xavier.gradient[0], 0.155, 0.2),
        common.near("gain 5/3: gradient's rms at the input / at the output", high.gradient[0], 13.0, 0.2),
    ]


def draw(figure: Any, results: dict[str, Depth]) -> None:
    """Histograms by start and layer, above std and gradient by layer."""
    top, bottom = figure.subfigures(2, 1, height_ratios=(4, 3))
    panels = top.subplots(len(STARTS), len(SHOWN), sharex=True)
    top.suptitle("outputs of the layers, each histogram to its own height", fontsize=9, color=common.INK)
    for line, (name, start) in zip(panels, STARTS.items(), strict=True):
        for panel, layer, counts in zip(line, SHOWN, results[name].histograms, strict=True):
            panel.stairs(counts, BINS, fill=True, color=start.colour)
            common.frame(panel, title=f"layer {layer}" if panel in panels[0] else "")
            panel.grid(False)
            panel.set_yticks([])
            panel.set_xticks([-1, 0, 1])
        line[0].set_ylabel(name.replace(", gain", ",\ngain"), fontsize=8, color=common.INK)
    size, gradient = bottom.subplots(1, 2)
    for name, start in STARTS.items():
        size.plot(range(1, LAYERS + 1), results[name].std, color=start.colour, label=name)
        size.plot(range(1, LAYERS + 1), theory(start.gain)[0], "--", color=common.INK, linewidth=0.8)
        gradient.plot(range(LAYERS + 1), results[name].gradient, color=start.colour)
    # three of the four could not be told apart on 20 decades
    size.set_ylim(3e-3, 1.5)
    size.annotate(
        f"{results['N(0, 0.01²)'].std[-1]:.1g}\nat layer 30", (4, 3.5e-3), (6, 5e-3), fontsize=8, color=common.BLUE,
        arrowprops={"arrowstyle": "<-", "color": common.BLUE})
    size.plot([], [], "--", color=common.INK, linewidth=0.8, label="infinite width")
    for panel, what in ((size, "standard deviation of the outputs"), (gradient, "rms of the gradient, relative to the output")):
        panel.set_yscale("log")
        common.frame(panel, xlabel="layer (0: the input)" if panel is gradient else "layer", ylabel=what)
    size.legend(fontsize=8, frameon=False, loc="center right", bbox_to_anchor=(1, 0.35))


def main(argv: Sequence[str] | None = None) -> None:
    options = common.parse(NAME, __doc__, argv)
    results = measure(options.seed, 200 if options.quick else 1000)
    columns = [f"layer {layer}" for layer in SHOWN]
    title = "Standard deviation of the outputs (bands: factor 1.2; 0.975 to 0.988; 5 %, from layer 16 on 8 %; 3 %)"
    common.show_grid(title, "weights", columns, std_claims(results))
    common.show("Saturation and gradients", other_claims(results))
    common.picture(NAME, options, lambda figure: draw(figure, results), height=7.5)


if __name__ == "__main__":
    main()
