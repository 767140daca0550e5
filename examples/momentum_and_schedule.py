"""Momentum gathers speed where gradients agree; a decaying learning rate, or an average, gets rid of the noise of batches.

Goodfellow et al., chapter 8. Momentum: a constant gradient g brings steps of eps |g| / (1 - a); on a quadratic bowl of
condition 100 the number of steps to a millionth of the distance has a closed form for gradient descent, the heavy ball (Polyak,
1964) and Nesterov's method, each at its best rate. Schedule: with gradients that have noise of standard deviation s, gradient
descent on h w^2 / 2 does not come to rest but keeps a variance of eps s^2 / (h (2 - eps h)); the linear decay of (8.14) to 1 %
of the rate divides that by 105 here, and the mean of the weights over many steps lowers it, too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

import fastnn as fnn
from examples import common
from examples.common import Claim
from fastnn import init, schedules

NAME = "momentum_and_schedule"
Array = np.ndarray[Any, np.dtype[Any]]

# ---- a constant gradient


def speeds(momentum: float, steps: int = 100, lr: float = 0.1, grad: float = 1.0) -> list[float]:
    """The length of each step under a constant gradient, as a share of the terminal one."""
    param, velocity, gradient = np.zeros(1), np.zeros(1), np.full(1, grad)
    lengths = []
    for _ in range(steps):
        before = float(param[0])
        fnn.sgd_update(param, gradient, velocity, lr=lr, momentum=momentum)
        lengths.append(abs(float(param[0]) - before) * (1 - momentum) / (lr * grad))
    return lengths


# ---- a bowl

CURVATURES = np.array([1.0, 100.0])
GOAL = 1e-6


@dataclass(frozen=True)
class Method:
    """How to descend, the exact number of steps to `GOAL`, and a colour."""

    lr: float
    momentum: float
    nesterov: bool
    steps: int
    colour: str


METHODS = {
    "gradient descent": Method(2 / 101, 0.0, False, 691, common.ORANGE),
    "heavy ball": Method((2 / 11) ** 2, (9 / 11) ** 2, False, 93, common.BLUE),
    "Nesterov": Method(1 / 100, 9 / 11, True, 155, common.GREEN),
}


def descend(method: Method) -> Array:
    """The path from (1, 1) until its length is `GOAL` of that of the start, (steps + 1, 2).

    With Nesterov's momentum fastnn's parameters are the point that looks ahead, where the gradient is taken; the path of the
    book's theta, which is behind it by the momentum's part of a step, is what the closed form counts.
    """
    param, velocity = np.ones(2), np.zeros(2)
    path = [param.copy()]
    while np.linalg.norm(path[-1]) > GOAL * np.linalg.norm(path[0]):
        fnn.sgd_update(
            param, CURVATURES * param, velocity, lr=method.lr, momentum=method.momentum, nesterov=method.nesterov)
        ahead = method.lr * method.momentum * velocity if method.nesterov else 0.0
        path.append(param + ahead)
    return np.array(path)


# ---- noise

COPIES = 4000               # problems that a net solves side by side
H = 2 / COPIES              # the curvature of each: the loss is the mean of (w - t)^2 over all of them
NOISE = 2 / COPIES          # standard deviation of a gradient, as that of a target t is 1
LR = 0.1 / H
TAU, STEPS, CHUNK = 4000, 8000, 100
BURN_IN = 500               # steps that a constant rate takes, generously, to forget the start


def stationary(lr: float) -> float:
    """The variance that is left at a constant rate."""
    return lr * NOISE**2 / (H * (2 - lr * H))


def noisy(optimizer: fnn.SGD, seed: int, steps: int = STEPS) -> tuple[list[int], list[float], list[float]]:
    """Descend from w = 3, each step on one new row of targets from N(0, 1).

    Returns steps, and the mean squares over all copies of the weights and of their averages.
    """
    rng = np.random.default_rng(seed)
    layer = fnn.Dense(1, COPIES, bias=False, init=partial(init.constant, value=3.0))
    net = fnn.Sequential([layer], loss="mean_squared_error", dtype="float64", seed=seed)
    at, squares, averages = [], [], []
    for step in range(CHUNK, steps + 1, CHUNK):
        net.fit(np.ones((CHUNK, 1)), rng.standard_normal((CHUNK, COPIES)), batch_size=1, shuffle=False, optimizer=optimizer)
        at.append(step)
        squares.append(float(np.mean(layer.weight**2)))
        averaged = optimizer.average is not None and step > optimizer.average_from
        averages.append(float(np.mean(net.averaged().layers[0].parameters["weight"] ** 2)) if averaged else math.nan)
    return at, squares, averages


OPTIMIZERS = {
    "constant rate": (partial(fnn.SGD, LR, average="polyak", average_from=BURN_IN), common.ORANGE),
    "decay (8.14)": (partial(fnn.SGD, schedules.LinearDecay(LR, TAU)), common.BLUE),
}


def measure(seed: int) -> dict[str, tuple[list[int], list[float], list[float]]]:
    """`noisy` with a constant rate, whose weights are averaged, and with the decay of (8.14)."""
    return {name: noisy(make(), seed) for name, (make, _) in OPTIMIZERS.items()}


def exact_claims() -> list[Claim]:
    """Without noise."""
    label = "constant gradient, momentum 0.9: share of the terminal speed that is missing after 100 steps"
    claims = [common.near(label, 1 - speeds(0.9)[-1], 0.9**100, 1e-6)]
    for name, method in METHODS.items():
        steps = len(descend(method)) - 1
        claims.append(Claim(f"bowl, {name}: steps to {GOAL:g}", steps, method.steps, method.steps, method.steps))
    return claims


def noise_claims(results: dict[str, tuple[list[int], list[float], list[float]]]) -> list[Claim]:
    """With noise: variances, in units of that of a target."""
    at, constant, averages = results["constant rate"]
    _, decayed, _ = results["decay (8.14)"]
    left = float(np.mean(constant[BURN_IN // CHUNK:]))
    end = float(np.mean(decayed[-10:]))
    return [
        common.near("constant rate: variance of the weight", left, stationary(LR), 0.05),
        common.near("decay to 1 %: variance at the end", end, stationary(0.01 * LR), 0.1),
        common.near("constant / decayed variance", left / end, stationary(LR) / stationary(0.01 * LR), 0.1),
        # the mean of T steps is nearly as good as that of T targets
        common.near(f"mean of the last {at[-1] - BURN_IN} weights: variance", averages[-1], 1 / (at[-1] - BURN_IN), 0.1),
    ]


def draw(figure: Any, results: dict[str, tuple[list[int], list[float], list[float]]]) -> None:
    """Speed, paths on the bowl, distance by step, and the variance under noise."""
    (speed, bowl), (distance, noise) = figure.subplots(2, 2)
    for momentum, shade in zip((0.0, 0.5, 0.9, 0.98), common.SHADES[1:], strict=True):
        lengths = np.array(speeds(momentum)) / (1 - momentum)
        speed.plot(range(1, len(lengths) + 1), lengths, color=shade, label=f"a = {momentum:g}")
    speed.set_yscale("log")
    common.frame(speed, title="constant gradient", xlabel="step", ylabel="length of a step / (lr g)")
    speed.legend(title="momentum", title_fontsize=8, fontsize=8, frameon=False, loc="upper left", ncols=2)
    speed.set_ylim(0.8, 300)

    across, along = np.meshgrid(np.linspace(-0.2, 1.1, 200), np.linspace(-4.2, 4.2, 200))
    height = CURVATURES[0] * across**2 + CURVATURES[1] * along**2
    bowl.contour(across, along, height, levels=np.geomspace(1, 1600, 8), colors=common.FAINT, linewidths=0.8)
    for name, method in METHODS.items():
        path = descend(method)
        bowl.plot(path[:61, 0], path[:61, 1], ".-", color=method.colour, linewidth=0.8, markersize=3)
        distance.plot(
            np.linalg.norm(path, axis=1) / math.sqrt(2), color=method.colour, label=f"{name}, {len(path) - 1} steps")
    common.frame(bowl, title="bowl of condition 100, first 60 steps", xlabel="flat direction", ylabel="steep direction")
    bowl.grid(False)
    distance.set_yscale("log")
    common.frame(distance, title="the same bowl", xlabel="step", ylabel="distance / distance of the start")
    distance.legend(fontsize=8, frameon=False)

    for name, (_, colour) in OPTIMIZERS.items():
        at, squares, averages = results[name]
        noise.plot(at, squares, color=colour, label=name)
        if not all(map(math.isnan, averages)):
            noise.plot(at, averages, color=common.GREEN, label=f"the same, weights averaged from step {BURN_IN}")
    for lr in (LR, 0.01 * LR):
        noise.axhline(stationary(lr), color=common.INK, linestyle="--", linewidth=0.8)
    noise.set_yscale("log")
    noise.set_ylim(1e-4, 1)
    common.frame(noise, title="noisy gradients", xlabel="step", ylabel="variance / variance of a target")
    noise.legend(fontsize=8, frameon=False, loc="upper right")


def main(argv: Sequence[str] | None = None) -> None:
    options = common.parse(NAME, __doc__, argv)
    common.show("Momentum", exact_claims())
    results = measure(options.seed)
    common.show("Noise of the gradient, lr h = 0.1", noise_claims(results))
    common.picture(NAME, options, lambda figure: draw(figure, results), height=6)


if __name__ == "__main__":
    main()
