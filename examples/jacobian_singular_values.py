"""The singular values of a layer's Jacobian: about 0.8 on average with Xavier weights, about 0.5 with the "standard" ones.

Glorot & Bengio (2010, section 4.2.1) looked at the Jacobian of a tanh layer's outputs by those of the layer below. The origin
of their numbers: a random square matrix whose entries have variance s^2 / n has singular values between 0 and 2 s, of mean
8 s / (3 pi), which is 0.849 for s = 1 (Xavier, "normalised") and 0.490 for s^2 = 1/3 ("standard"). The slope of the tanh lowers
that, most in the lowest layers, where the sums that enter it are largest.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import fastnn as fnn
from examples import common, stack
from examples.common import Claim
from fastnn import init

NAME = "jacobian_singular_values"
LAYERS = 5


@dataclass(frozen=True)
class Start:
    """A way to draw the weights, and what is said of the mean singular value."""

    init: stack.Init
    s: float                    # the standard deviation of a weight times sqrt(n)
    means: tuple[float, ...]    # by layer, bottom first, at 400 units
    top: tuple[float, float]    # the band of the top two layers
    paper: float


STARTS = {
    "standard": Start(init.fan_in_uniform, math.sqrt(1 / 3), (0.396, 0.464, 0.482, 0.487, 0.489), (0.47, 0.50), 0.5),
    "normalised": Start(init.xavier_uniform, 1.0, (0.547, 0.669, 0.718, 0.748, 0.764), (0.72, 0.85), 0.8),
}


@dataclass(frozen=True)
class Spectra:
    """Singular values, largest first."""

    tanh: list[stack.Array]     # of the Jacobian at the sums of each layer, bottom first
    linear: stack.Array         # of a weight matrix by itself: a layer without activation


def measure(seed: int, width: int = 400) -> dict[str, Spectra]:
    """The Jacobians of all layers at one row from N(0, 1), in float64."""
    results = {}
    for name, start in STARTS.items():
        rng = np.random.default_rng(seed)
        x = rng.standard_normal((1, width))
        matrices = stack.weights([width] * (LAYERS + 1), start.init, rng, "float64")
        spectra = []
        for h, weight in zip(stack.forward(x, matrices, "tanh")[1:], matrices, strict=True):
            slope = fnn.activation_backward(np.ones_like(h), h, "tanh")
            spectra.append(np.linalg.svd(weight * slope, compute_uv=False))
        results[name] = Spectra(spectra, np.linalg.svd(matrices[0], compute_uv=False))
    return results


def layer_claims(results: dict[str, Spectra]) -> dict[str, list[Claim]]:
    """The mean by start and layer; the paper's band is about the top two layers."""
    return {
        name: [
            Claim(f"{name}, layer {layer}", float(values.mean()), mean, *(start.top if layer > LAYERS - 2 else ()))
            for layer, (values, mean) in enumerate(zip(results[name].tanh, start.means, strict=True), 1)
        ]
        for name, start in STARTS.items()
    }


def other_claims(results: dict[str, Spectra]) -> list[Claim]:
    """The mean without tanh, and that with tanh it rises from each layer to the next."""
    claims = []
    for name, start in STARTS.items():
        mean = 8 * start.s / (3 * math.pi)
        means = [float(values.mean()) for values in results[name].tanh]
        claims += [
            Claim(f"{name}, linear: mean", float(results[name].linear.mean()), mean, mean - 0.01, mean + 0.01),
            Claim(f"{name}, tanh: least rise from a layer to the next", float(np.diff(means).min()), "> 0", low=0.0),
        ]
    return claims


def draw(figure: Any, results: dict[str, Spectra]) -> None:
    """A panel for each start: all singular values of each layer, and their mean beside the paper's number."""
    for panel, (name, start) in zip(figure.subplots(1, 2, sharey=True), STARTS.items(), strict=True):
        spectra = results[name]
        places = np.arange(len(spectra.linear)) / len(spectra.linear)
        panel.plot(places, spectra.linear, "--", color=common.INK, linewidth=0.9, label="without tanh")
        for layer, (values, shade) in enumerate(zip(spectra.tanh, common.SHADES, strict=True), 1):
            panel.plot(places, values, color=shade, label=f"layer {layer}: mean {values.mean():.2f}")
        panel.axhline(start.paper, color=common.ORANGE, linewidth=1, label=f"the paper's mean, about {start.paper}")
        common.frame(
            panel, title=f"{name} weights", xlabel="place among the singular values, as a share",
            ylabel="singular value" if name == "standard" else "")
        panel.legend(fontsize=8, frameon=False)


def main(argv: Sequence[str] | None = None) -> None:
    options = common.parse(NAME, __doc__, argv)
    results = measure(options.seed, 400 if options.quick else 1000)
    columns = [f"layer {layer}" for layer in range(1, LAYERS + 1)]
    title = "Mean singular value (bands of the top two layers: 0.47 to 0.50, 0.72 to 0.85)"
    common.show_grid(title, "weights", columns, layer_claims(results))
    common.show("Without tanh, and by depth", other_claims(results))
    common.picture(NAME, options, lambda figure: draw(figure, results), height=4)


if __name__ == "__main__":
    main()
