"""What the layers give in training mode without dropout, and the statistics that batch norms take of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from fastnn import _check
from fastnn.activation import activation_forward
from fastnn.batchnorm import batchnorm_forward
from fastnn.dense import dense_forward
from fastnn.layers import Activation, BatchNorm, Dense, Layer

Array = np.ndarray
Own = dict[str, Array]      # the parameters of a layer, C-contiguous

ORDER = 0                   # the seed of the order of the rows


def batch(x: Array, rows: Any, dtype: np.dtype[Any]) -> Array:
    """Rows of what `_check.rows` lets pass, in the dtype of the network."""
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(x[rows], dtype)


def normalised(layer: BatchNorm, own: Own, x: Array) -> tuple[Array, list[tuple[int, Array, Array]]]:
    """The output, and of each group of rows their number and the mean and biased variance of its columns, float64."""
    out = np.empty_like(x)
    moments = []
    for start, end in layer.groups(len(x)):
        _, mean, _ = batchnorm_forward(x[start:end], own["gamma"], own["beta"], eps=layer.eps, out=out[start:end])
        # var = mean(u^2) - mean(u)^2, where u = x - mean is all but centred
        u = x[start:end] - mean
        moments.append((end - start, mean, np.mean(u * u, axis=0) - np.mean(u, axis=0)**2))
    return out, moments


def output(layer: Layer, own: Own, x: Array) -> Array:
    """What the layer gives for a batch."""
    if isinstance(layer, Dense):
        return dense_forward(x, own["weight"], own.get("bias"))
    if isinstance(layer, BatchNorm):
        return normalised(layer, own, x)[0]
    return activation_forward(x, layer.kind) if isinstance(layer, Activation) else x


@np.errstate(over="ignore", invalid="ignore")       # what is not finite is refused
def population(layers: Sequence[Layer], batches: Iterable[Array], dtype: np.dtype[Any]) -> dict[str, Array]:
    """The running statistics, by their names in `state_dict`, that belong to the population `batches` are drawn from.

    Ioffe & Szegedy (2015), algorithm 2, step 10: E[x] is the mean of the batches' means, Var[x] that of their variances times
    m / (m - 1), the factor where ``running_var_ddof`` is 1. A batch (or ghost batch) weighs by its rows m.
    """
    norms = [i for i, layer in enumerate(layers) if isinstance(layer, BatchNorm)]
    own = [{name: np.ascontiguousarray(a) for name, a in layer.parameters.items()} for layer in layers[:norms[-1] + 1]]
    seen = dict.fromkeys(norms, 0)
    mean = {i: np.zeros(layers[i].width(None, "") or 0) for i in norms}
    var = {i: np.zeros_like(mean[i]) for i in norms}
    for x in batches:
        for i, parameters in enumerate(own):
            layer = layers[i]
            if not isinstance(layer, BatchNorm):
                x = output(layer, parameters, x)
                continue
            x, moments = normalised(layer, parameters, x)
            for m, batch_mean, batch_var in moments:
                # total += (new - total) * weight: equal numbers have just this mean
                seen[i] += m
                mean[i] += (batch_mean - mean[i]) * (m / seen[i])
                var[i] += (batch_var * (m / (m - layer.running_var_ddof)) - var[i]) * (m / seen[i])
    result = {}
    for i in norms:
        for name, a in (("running_mean", mean[i]), ("running_var", var[i])):
            result[f"{i}.{name}"] = a.astype(dtype)
            _check.finite_statistics(result[f"{i}.{name}"], f"layers[{i}]", name)
    return result
