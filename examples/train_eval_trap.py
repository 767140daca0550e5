"""E12: batch norm computes something else in training than in evaluation, and what comes of mixing them up.

Claim: Ioffe & Szegedy (2015), section 3.1 and algorithm 2. In training a unit is normalised by its batch, so the output for an
example depends on the others; for inference the statistics are fixed, and batch norm is an affine map. With E5's net:

(a) A batch of one example in training mode has no variance: fastnn refuses it, and the formula gives one prediction for all.
(b) In evaluation mode, batch norm folded into the layer before it computes the same.
(c) For batches of two, the biased and the unbiased running variance differ by a factor of 2, as m / (m - 1) says.
(d) The moving averages from training and statistics estimated again over 200 batches (algorithm 2) give the same accuracy.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np

import fastnn as fnn
from bench.data import Dataset
from examples import common
from examples.batchnorm_curves import BATCH, LR, Kind, binary, network, run_steps
from examples.common import BLUE, GREEN, INK, ORANGE, Claim
from fastnn import reference

Array = np.ndarray

NAME = "train_eval_trap"
BATCHES = 200
SIZES = (2, 3, 4, 6, 10, 20, 60, 200, 500)
KIND = Kind(batch_norm=True, sigma=0.1)


def trained(data: Dataset, seed: int, steps: int) -> fnn.Sequential:
    """E5's net with batch norm after some steps."""
    net = network(data.x.shape[1], KIND, seed)
    run_steps(net, data.x, data.y, LR, steps)
    return net


# ---- (a)

def refusal(net: fnn.Sequential, x: Array) -> str:
    """What fastnn says to a batch of one row in training mode; empty if it says nothing."""
    try:
        net.forward(x[:1], training=True)
    except ValueError as error:
        return str(error)
    return ""


def literal(net: fnn.Sequential, x: Array) -> Array:
    """The outputs (N, K) of training mode for batches of one row each, by the formulas as they stand."""
    outputs = []
    for row in x[:, None]:
        for layer in net.layers:
            if isinstance(layer, fnn.Dense):
                row = reference.dense_forward(row, layer.weight, layer.bias)
            elif isinstance(layer, fnn.BatchNorm):
                row, _, _ = reference.batchnorm_forward(row, layer.gamma, layer.beta, eps=layer.eps)
            elif isinstance(layer, fnn.Activation):
                row = reference.activation_forward(row, layer.kind)
        outputs.append(row[0])
    return np.array(outputs)


# ---- (b), (c), (d)

def folding_error(net: fnn.Sequential, x: Array) -> float:
    """The largest difference between the outputs of the net and of the net with batch norm folded, relative to the largest."""
    outputs = net.forward(x)
    return float(np.abs(net.fold_batchnorm().forward(x) - outputs).max() / np.abs(outputs).max())


def running_variances(seed: int) -> tuple[Array, Array]:
    """Unbiased and biased, after one batch of two rows with the weight of the new batch at 1."""
    x = np.random.default_rng(seed).standard_normal((2, 50)).astype(np.float32)
    found = []
    for ddof in (1, 0):
        norm = fnn.BatchNorm(50, momentum=1.0, running_var_ddof=ddof)
        fnn.Sequential([norm, fnn.Dense(50, 1)], loss="mean_squared_error", seed=seed).forward(x, training=True)
        found.append(norm.running_var.copy())
    return found[0], found[1]


def estimated_again(net: fnn.Sequential, x: Array) -> fnn.Sequential:
    """A copy with the mean statistics of up to 200 batches in place of the moving averages."""
    net = copy.deepcopy(net)
    net.refresh_statistics(x[:BATCHES * BATCH], batch_size=BATCH)
    return net


def accuracy(net: fnn.Sequential, data: Dataset) -> float:
    return net.evaluate(data.x_test, data.y_test)["accuracy"]


# ---- the picture

def training_accuracy(net: fnn.Sequential, data: Dataset, size: int) -> float:
    """The test accuracy when batches of `size` test rows are normalised by their own statistics, as in training."""
    net = copy.deepcopy(net)        # training mode moves the running statistics
    whole = len(data.x_test) // size * size
    right = 0
    for start in range(0, whole, size):
        rows = slice(start, start + size)
        right += int((net.forward(data.x_test[rows], training=True).argmax(axis=1) == data.y_test[rows]).sum())
    return right / whole


def claims(net: fnn.Sequential, data: Dataset, seed: int) -> list[Claim]:
    outputs = literal(net, data.x_test[:500])
    predicted = outputs.argmax(axis=1)
    unbiased, biased = running_variances(seed)
    ratios = unbiased / biased
    moving, again = accuracy(net, data), accuracy(estimated_again(net, data.x), data)
    return [
        Claim("a  different predictions for 500 batches of one", len(np.unique(predicted)), 1, low=1, high=1),
        Claim("a  their accuracy", float(np.mean(predicted == data.y_test[:500])), 0.1, low=0.05, high=0.15),
        Claim("b  largest error of the folded net", folding_error(net, data.x_test), 0.0, high=1e-6),
        Claim("c  smallest ratio unbiased / biased", float(ratios.min()), 2.0, low=2, high=2),
        Claim("c  largest ratio unbiased / biased", float(ratios.max()), 2.0, low=2, high=2),
        Claim("d  accuracy by moving averages", moving),
        Claim("d  the same less that estimated again", moving - again, 0.0, low=-0.002, high=0.002),
    ]


def draw(figure: Any, sizes: Sequence[int], training: Sequence[float], one: float, evaluation: float) -> None:
    panel = figure.subplots()
    common.frame(panel, xlabel="batch size", ylabel="test accuracy")
    panel.axhline(evaluation, color=GREEN, linewidth=1.3, label="evaluation mode, any batch size")
    panel.plot(sizes, training, "o-", color=BLUE, linewidth=1.3, markersize=4, label="training mode: normalised by the batch")
    panel.plot([1], [one], "o", color=ORANGE, markersize=5, label="training mode, one example: by the formula; fastnn refuses")
    panel.set_xscale("log")
    panel.set_xticks([1, *sizes], [str(size) for size in (1, *sizes)])
    panel.minorticks_off()
    panel.set_ylim(0, 1)
    panel.legend(fontsize=8, frameon=False, loc="lower right", labelcolor=INK)


def main(argv: Sequence[str] | None = None) -> None:
    options = common.parse(NAME, __doc__, argv)
    data = binary(common.digits(options))
    steps = 20_000 if data.name == "mnist" and not options.quick else 5_000
    net = trained(data, options.seed, steps)
    print(f"a batch of one in training mode: {refusal(net, data.x_test) or 'NOT REFUSED'}")
    found = claims(net, data, options.seed)
    common.show(f"E5's net after {steps} steps", found)
    training = [training_accuracy(net, data, size) for size in SIZES]
    print(f"\ntraining mode by batch size: {', '.join(f'{n}: {a:.3f}' for n, a in zip(SIZES, training, strict=True))}")
    common.picture(NAME, options, lambda figure: draw(
        figure, SIZES, training, found[1].measured, accuracy(net, data)), height=3.6)


if __name__ == "__main__":
    main()
