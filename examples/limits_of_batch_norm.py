"""What batch norm does not do: keep gradients from growing with depth, or work by holding distributions in place.

Growth: with batch norm in front of every ReLU the rms of the gradient grows at the start by sqrt(pi / (pi - 1)) = 1.21 per
layer on the way down (Yang et al., 2019). Noise: Santurkar et al. (2018, section 2.2) put noise behind batch norm, with a mean
and a scale of every unit that change at every step, so that the distributions jump about more than they would without batch
norm, and found the net about as good as with batch norm alone, and better than without. The net here is that of Ioffe & Szegedy
(2015, section 4.1): three layers of 100 sigmoid units, batches of 60 binary images, lr 0.5.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

import fastnn as fnn
from bench.data import Dataset
from examples import common, stack
from examples.common import Claim
from fastnn import init

NAME = "limits_of_batch_norm"
Array = stack.Array

# ---- growth

WIDTH = 256


def gradient_sizes(kind: str, depth: int, seed: int) -> list[float]:
    """rms of the gradient by the input and each output, relative to the last, of layers of dense, batch norm, activation."""
    rng = np.random.default_rng(seed)
    h, dout = rng.standard_normal((2, WIDTH, WIDTH))
    gamma, beta = np.ones(WIDTH), np.zeros(WIDTH)
    layers = []
    for _ in range(depth):
        weight = init.he_normal((WIDTH, WIDTH), rng=rng, dtype="float64")
        z = fnn.dense_forward(h, weight)
        normalised, mean, rstd = fnn.batchnorm_forward(z, gamma, beta)
        layers.append((h, weight, z, mean, rstd, h := fnn.activation_forward(normalised, kind)))
    sizes = [stack.rms(dout)]
    for x, weight, z, mean, rstd, y in reversed(layers):
        dz, _, _ = fnn.batchnorm_backward(fnn.activation_backward(dout, y, kind), z, gamma, mean, rstd)
        dx, _, _ = fnn.dense_backward(dz, x, weight)
        assert dx is not None
        dout = dx
        sizes.insert(0, stack.rms(dout))
    return [size / sizes[-1] for size in sizes]


def growth_claims(seed: int) -> list[Claim]:
    """Per layer. The lowest layer, whose input is no ReLU's output, takes part in the means over 10 and 30 layers."""
    claims = []
    for kind, depth, source in (("relu", 10, 1.14), ("relu", 30, 1.18), ("tanh", 30, 1.07)):
        sizes = gradient_sizes(kind, depth, seed)
        claims.append(common.near(f"{kind}, {depth} layers: growth per layer", sizes[0] ** (1 / depth), source, 0.03))
        if (kind, depth) == ("relu", 30):
            label, limit = "relu, the upper 29 of 30 layers: growth per layer", math.sqrt(math.pi / (math.pi - 1))
            claims.append(common.near(label, sizes[1] ** (1 / (depth - 1)), limit, 0.02))
    return claims


# ---- noise

HIDDEN, BATCH, LR, STD = (100, 100, 100), 60, 0.5, 0.1
EVERY = 250     # steps between two looks at the test rows


@dataclass
class Layer:
    """A hidden layer: dense, batch norm or a bias, noise or none, sigmoid."""

    weight: Array
    gamma: Array
    beta: Array
    mean: Array
    var: Array


class Net:
    """Three hidden layers from the kernels; `Sequential` has no layer that adds noise."""

    def __init__(self, n_in: int, batch_norm: bool, noise: bool, seed: int) -> None:
        self.batch_norm, self.noise = batch_norm, noise
        rng = np.random.default_rng(seed)
        *hidden, last = pairwise((n_in, *HIDDEN, 10))
        self.layers = []
        for shape in hidden:
            ones, zeros = np.ones(shape[1], np.float32), np.zeros(shape[1], np.float32)
            self.layers.append(Layer(init.normal(shape, std=STD, rng=rng), ones, zeros, zeros.copy(), ones.copy()))
        self.weight, self.bias = init.normal(last, std=STD, rng=rng), np.zeros(last[1], np.float32)
        self.rng = np.random.default_rng([seed, 1])

    def draw(self, shape: tuple[int, int]) -> tuple[Array, Array]:
        """Factor and shift of every unit in every row: the units' own mean and scale of this step, and a little more."""
        shift, scale = self.rng.uniform(-0.5, 0.5, shape[1]), self.rng.uniform(1, 1.25, shape[1])
        shifts = shift + self.rng.uniform(-0.1, 0.1, shape)
        scales = scale + 0.1 * self.rng.standard_normal(shape)
        return scales.astype(np.float32), shifts.astype(np.float32)

    def step(self, x: Array, labels: Array) -> None:
        """One step of gradient descent."""
        saved = []
        h = x
        for layer in self.layers:
            z = fnn.dense_forward(h, layer.weight)
            if self.batch_norm:
                t, mean, rstd = fnn.batchnorm_forward(z, layer.gamma, layer.beta, layer.mean, layer.var)
            else:
                t, mean, rstd = z + layer.beta, layer.mean, layer.var
            scales = np.ones_like(t)
            if self.noise:
                scales, shifts = self.draw(t.shape)
                t = t * scales + shifts
            y = fnn.activation_forward(t, "sigmoid")
            saved.append((layer, h, z, mean, rstd, scales, y))
            h = y
        _, dlogits = fnn.softmax_cross_entropy(fnn.dense_forward(h, self.weight, self.bias), labels)
        dh, dweight, dbias = fnn.dense_backward(dlogits, h, self.weight)
        fnn.sgd_update(self.weight, dweight, lr=LR)
        fnn.sgd_update(self.bias, dbias, lr=LR)
        for layer, x, z, mean, rstd, scales, y in reversed(saved):
            assert dh is not None
            dt = fnn.activation_backward(dh, y, "sigmoid") * scales
            if self.batch_norm:
                dt, dgamma, dbeta = fnn.batchnorm_backward(dt, z, layer.gamma, mean, rstd)
                fnn.sgd_update(layer.gamma, dgamma, lr=LR)
            else:
                dbeta = dt.sum(axis=0)
            dh, dweight, _ = fnn.dense_backward(dt, x, layer.weight)
            fnn.sgd_update(layer.weight, dweight, lr=LR)
            fnn.sgd_update(layer.beta, dbeta, lr=LR)

    def accuracy(self, x: Array, labels: Array) -> float:
        """By the running statistics, and with the noise's mean, which is a factor of 1.125."""
        h = x
        for layer in self.layers:
            z = fnn.dense_forward(h, layer.weight)
            if self.batch_norm:
                z = fnn.batchnorm_inference(z, layer.gamma, layer.beta, layer.mean, layer.var)
            else:
                z += layer.beta
            h = fnn.activation_forward(z * np.float32(1.125) if self.noise else z, "sigmoid")
        return float(np.mean(fnn.dense_forward(h, self.weight, self.bias).argmax(axis=1) == labels))


CONTENDERS = {
    "batch norm": (True, False, common.BLUE),
    "batch norm, then noise": (True, True, common.GREEN),
    "neither": (False, False, common.INK),
    "noise alone": (False, True, common.ORANGE),
}


def race(dataset: Dataset, seed: int, steps: int) -> tuple[list[int], dict[str, list[float]]]:
    """Train all contenders on the same batches: the steps of the looks, and the test accuracies at them."""
    x, x_test = (np.where(a > 0.5, 1, 0).astype(np.float32) for a in (dataset.x, dataset.x_test))
    nets = {name: Net(x.shape[1], batch_norm, noise, seed) for name, (batch_norm, noise, _) in CONTENDERS.items()}
    rng = np.random.default_rng(seed)
    looks: list[int] = []
    accuracies: dict[str, list[float]] = {name: [] for name in nets}
    for step in range(1, steps + 1):
        rows = rng.integers(0, len(x), BATCH)
        for net in nets.values():
            net.step(x[rows], dataset.y[rows])
        if step % EVERY == 0:
            looks.append(step)
            for name, net in nets.items():
                accuracies[name].append(net.accuracy(x_test, dataset.y_test))
    return looks, accuracies


def race_claims(accuracies: dict[str, list[float]]) -> list[Claim]:
    """At the end of the race, by the mean of its last two looks."""
    end = {name: float(np.mean(values[-2:])) for name, values in accuracies.items()}
    noisy = end["batch norm, then noise"]
    return [
        *(Claim(f"{name}: test accuracy", value) for name, value in end.items()),
        Claim("batch norm, then noise, less batch norm", noisy - end["batch norm"], "about 0", -0.01, 0.01),
        Claim("batch norm, then noise, less neither", noisy - end["neither"], "> 0"),
        Claim("noise alone less neither", end["noise alone"] - end["neither"], "< 0"),
    ]


def draw(figure: Any, seed: int, looks: Sequence[int], accuracies: dict[str, list[float]]) -> None:
    """The gradient by depth, and the curves of the race."""
    growth, curves = figure.subplots(1, 2)
    depth = 30
    for kind, colour in (("relu", common.BLUE), ("tanh", common.ORANGE)):
        growth.plot(range(depth + 1), gradient_sizes(kind, depth, seed), color=colour, label=f"batch norm and {kind}")
    limit = (math.pi / (math.pi - 1)) ** ((depth - np.arange(depth + 1)) / 2)
    growth.plot(range(depth + 1), limit, "--", color=common.INK, linewidth=0.8, label="1.21 per layer")
    growth.set_yscale("log")
    common.frame(growth, xlabel="layer (0: the input)", ylabel="rms of the gradient, relative to the output")
    growth.legend(fontsize=8, frameon=False)
    for name, (_, _, colour) in CONTENDERS.items():
        curves.plot(looks, accuracies[name], color=colour, label=name, linewidth=1.2)
    curves.set_ylim(0.7, 1)
    common.frame(curves, xlabel="step", ylabel="test accuracy")
    curves.legend(fontsize=8, frameon=False, loc="lower right")


def main(argv: Sequence[str] | None = None) -> None:
    options = common.parse(NAME, __doc__, argv)
    common.show("Growth of the gradient with batch norm, 256 units, 256 rows", growth_claims(options.seed))
    dataset = common.digits(options)
    looks, accuracies = race(dataset, options.seed, 1000 if options.quick else 10_000)
    common.show(f"After {looks[-1]} steps", race_claims(accuracies))
    common.picture(NAME, options, lambda figure: draw(figure, options.seed, looks, accuracies), height=3.8)


if __name__ == "__main__":
    main()
