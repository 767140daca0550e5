"""Why a step that changes all layers at once does not do what the gradient predicts, and why it does with batch norm.

Goodfellow et al. (section 8.7.1): y = x w1 w2 ... wl is linear in every weight, but a step of gradient descent moves all of
them, and y changes by terms of every order. Here x is 1 and all weights are w, so that every number has a closed form: the
gradient by a weight is g = w^(l-1), the drop it predicts is eps l g^2, the actual one is w^l - (w - eps g)^l, and the term of
second order is eps (l-1)/2 w^(l-2) of that of first order. With batch norm in front of the last weight the lower weights have
no gradient, and y does not depend on them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

import fastnn as fnn
from examples import common, stack
from examples.common import Claim
from fastnn import init

NAME = "simultaneous_update"
LAYERS, EPS = 20, 1e-3
WEIGHTS = (0.8, 1.0, 1.1, 1.2, 1.3, 1.5, 1.6)
COLUMNS = ("y", "predicted drop", "actual drop", "actual / predicted", "2nd / 1st order")
# batch norm's own eps: the lower weights matter as much as it is in comparison with the variance
BATCHNORM_EPS = 1e-12
ROWS = 64


def chain(w: float, eps: float, layers: int = LAYERS) -> tuple[float, float, float, float, float]:
    """What `COLUMNS` says of one step on the chain, computed by fastnn in float64."""
    weights = [np.full((1, 1), w) for _ in range(layers)]
    g = _gradients(weights)
    y = _output(weights)
    predicted = eps * sum(a**2 for a in g)
    # g' H g by the difference of two gradients; y is a polynomial of high degree, so the way is short
    way = 1e-6 * w / max(g)
    ends = [_gradients([weight + sign * way * a for weight, a in zip(weights, g, strict=True)]) for sign in (1, -1)]
    curvature = sum(a * (up - down) for a, up, down in zip(g, *ends, strict=True)) / (2 * way)
    for weight, a in zip(weights, g, strict=True):
        fnn.sgd_update(weight, np.full((1, 1), a), lr=eps)
    actual = y - _output(weights)
    return y, predicted, actual, actual / predicted, eps**2 * curvature / 2 / predicted


def _signals(weights: Sequence[stack.Array]) -> list[stack.Array]:
    return stack.forward(np.ones((1, 1)), weights, "identity")


def _output(weights: Sequence[stack.Array]) -> float:
    return float(_signals(weights)[-1][0, 0])


def _gradients(weights: Sequence[stack.Array]) -> list[float]:
    return [float(g[0, 0]) for g in stack.backward(np.ones((1, 1)), _signals(weights), weights, "identity").weights]


def closed_form(w: float, eps: float, layers: int = LAYERS) -> tuple[float, float, float, float, float]:
    """The same, from the formulas."""
    g = w ** (layers - 1)
    predicted = eps * layers * g**2
    actual = w**layers - (w - eps * g) ** layers
    return w**layers, predicted, actual, actual / predicted, eps * (layers - 1) / 2 * w ** (layers - 2)


def net(w: float) -> fnn.Sequential:
    """The chain with batch norm in front of its last weight."""

    def link() -> fnn.Dense:
        return fnn.Dense(1, 1, bias=False, init=partial(init.constant, value=w))

    lower = [link() for _ in range(LAYERS - 1)]
    return fnn.Sequential(
        [*lower, fnn.BatchNorm(1, eps=BATCHNORM_EPS), link()], loss="mean_squared_error", dtype="float64", seed=0)


def rows(seed: int) -> tuple[stack.Array, stack.Array]:
    """Inputs and targets, which have nothing to do with each other."""
    x, target = np.random.default_rng(seed).standard_normal((2, ROWS, 1))
    return x, target


def normalised_step(w: float, eps: float, seed: int) -> tuple[float, float, float]:
    """One step with batch norm: predicted and actual drop of the loss, and the largest gradient of a lower weight relative to
    that of the last one."""
    x, target = rows(seed)
    chain = net(w)
    loss, gradients = chain.loss_and_gradients(x, target)
    *lower, last = [abs(float(g[0, 0])) for name, g in gradients.items() if name.endswith("weight")]
    predicted = eps * sum(float((g**2).sum()) for g in gradients.values())
    chain.train_step(x, target, fnn.SGD(lr=eps))
    return predicted, loss - chain.loss_and_gradients(x, target)[0], max(lower) / last


def change_of_output(w: float, layer: int, factor: float, seed: int) -> tuple[float, float]:
    """How far y moves, relative to its largest entry, from y and from -y, when one lower weight is multiplied."""
    x, _ = rows(seed)
    chain = net(w)
    y = chain.forward(x, training=True)
    chain.layers[layer].parameters["weight"] *= factor
    scaled = chain.forward(x, training=True)
    size = np.abs(y).max()
    return float(np.abs(scaled - y).max() / size), float(np.abs(scaled + y).max() / size)


def chain_claims() -> dict[str, list[Claim]]:
    """The table, by w: to 1e-9, the second order to 1e-6; where y diverges only sign and order of magnitude."""
    table = {}
    for w in WEIGHTS:
        claims = []
        for column, measured, source in zip(COLUMNS, chain(w, EPS), closed_form(w, EPS), strict=True):
            if w == WEIGHTS[-1] and column.startswith("actual"):
                edges = sorted((source * 10**0.5, source / 10**0.5))
                claims.append(Claim(f"w = {w}, {column}", measured, source, *edges))
            else:
                band = 1e-6 if column == COLUMNS[-1] else 1e-9
                claims.append(common.near(f"w = {w}, {column}", measured, source, band))
        table[f"w = {w}"] = claims
    return table


def scaled_claims() -> list[Claim]:
    """With eps = .1 / g'g the predicted drop is .1, and the actual one y (1 - (1 - .1 / (l y))^l)."""
    claims = []
    for y, source in ((1.0, 0.0956), (0.2, 0.0803), (0.1, 0.0651), (0.05, 0.0446)):
        w = y**0.1
        eps = 0.1 / (10 * w**18)
        claims.append(Claim(f"10 weights, y = {y:g}: actual drop", chain(w, eps, 10)[2], source, source - 1e-4, source + 1e-4))
    return claims


def normalised_claims(seed: int) -> list[Claim]:
    """With batch norm: by w what the step does, and that no lower weight matters."""
    claims = []
    for w in WEIGHTS:
        predicted, actual, lower = normalised_step(w, EPS, seed)
        claims += [
            Claim(f"w = {w}: actual / predicted drop of the loss", actual / predicted, "about 1", 0.99, 1.0),
            Claim(f"w = {w}: largest lower gradient / the last one's", lower, 0.0, high=1e-6),
        ]
    variance = float(np.var(rows(seed)[0]))
    band = 4 * BATCHNORM_EPS / variance + 1e-13
    for factor in (0.5, 2.0):
        moved = max(change_of_output(1.0, layer, factor, seed)[0] for layer in range(LAYERS - 1))
        claims.append(Claim(f"a lower weight times {factor:g}: y moves by at most", moved, 0.0, high=band))
    flipped = max(change_of_output(1.0, layer, -1.0, seed)[1] for layer in range(LAYERS - 1))
    claims.append(Claim("a lower weight times -1: y differs from -y by at most", flipped, 0.0, high=band))
    return claims


def draw(figure: Any, seed: int) -> None:
    """The change predicted and the actual one by w, and their ratio, without and with batch norm."""
    ws = np.geomspace(0.7, 1.55, 120)
    plain = np.array([chain(w, EPS) for w in ws])
    normed = np.array([normalised_step(w, EPS, seed)[:2] for w in ws])
    drops, ratios = figure.subplots(1, 2)
    drops.plot(ws, plain[:, 1], color=common.ORANGE, linestyle="--", label="y, predicted")
    drops.plot(ws, plain[:, 2], color=common.ORANGE, label="y, actual")
    drops.plot(ws, normed[:, 0], color=common.BLUE, linestyle="--", label="loss with batch norm, predicted")
    drops.plot(ws, normed[:, 1], color=common.BLUE, linewidth=1, label="loss with batch norm, actual")
    drops.set_yscale("log")
    diverges = ws[np.argmax(plain[:, 2] < 0)]
    drops.annotate(
        f"from w = {diverges:.2f} on\ny grows", (diverges, 1e-5), (1.22, 1e-6), fontsize=8, ha="center", color=common.ORANGE,
        arrowprops={"arrowstyle": "->", "color": common.ORANGE})
    common.frame(drops, xlabel="every weight w", ylabel=f"drop by one step, lr {EPS:g}")
    ratios.plot(ws, plain[:, 3], color=common.ORANGE, label="chain of 20 weights")
    ratios.plot(ws, normed[:, 1] / normed[:, 0], color=common.BLUE, label="with batch norm before the last one")
    ratios.set_ylim(0, 1.1)
    common.frame(ratios, xlabel="every weight w", ylabel="actual / predicted drop")
    for panel in (drops, ratios):
        panel.set_xscale("log")
        panel.set_xticks([0.7, 0.8, 0.9, 1, 1.1, 1.2, 1.3, 1.4, 1.5], ["0.7", "0.8", "", "1", "", "1.2", "", "1.4", ""])
        panel.minorticks_off()
        panel.legend(fontsize=8, frameon=False)


def main(argv: Sequence[str] | None = None) -> None:
    options = common.parse(NAME, __doc__, argv)
    title = "One step on the chain of 20 weights, lr 0.001 (band 1e-9, second order 1e-6, w = 1.6 a factor of 3)"
    common.show_grid(title, "", COLUMNS, chain_claims())
    common.show("A step of size 0.1 / g'g: predicted drop 0.1", scaled_claims())
    common.show("With batch norm before the last weight", normalised_claims(options.seed))
    common.picture(NAME, options, lambda figure: draw(figure, options.seed), height=3.8)


if __name__ == "__main__":
    main()
