"""What a network starts from: initialisers of one weight, and what looks at a whole network before it is trained.

`lsuv` scales the weights by a batch of data, `output_bias` makes the first predictions the class frequencies, and `equal_units`
finds hidden units that nothing tells apart.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fastnn import _check, statistics, symmetry
from fastnn.initialisers import (
    constant,
    fan_in_uniform,
    gain,
    glorot_normal,
    glorot_uniform,
    he_normal,
    he_uniform,
    lecun_normal,
    lecun_uniform,
    normal,
    orthogonal,
    orthonormal,
    sparse,
    uniform,
    xavier_normal,
    xavier_uniform,
    zeros,
)
from fastnn.layers import Dense
from fastnn.network import Sequential, alone

__all__ = [
    "constant", "equal_units", "fan_in_uniform", "gain", "glorot_normal", "glorot_uniform", "he_normal", "he_uniform",
    "lecun_normal", "lecun_uniform", "lsuv", "normal", "orthogonal", "output_bias", "sparse", "uniform", "xavier_normal",
    "xavier_uniform", "zeros",
]

Array = np.ndarray


def lsuv(net: Sequential, x: Array, *, tol: float = 0.1, max_iter: int = 10) -> list[dict[str, Any]]:
    """Layer-sequential unit-variance initialisation: Mishkin & Matas (2016, "All you need is a good init", algorithm 1).

    From the first layer to the last, each `Dense` gets orthonormal weights (columns, or rows where there are more columns
    than rows), and then, while ``abs(v - 1) >= tol``, ``weight /= sqrt(v)`` with the variance v of what it gives for the
    batch: before the activation, with the bias, over all rows and units together.

    The orthonormal weights are the Q of a QR decomposition of those that the network has, so that its seed decides and
    nothing is drawn. Biases and the scale and shift of a `BatchNorm` stay as they are. A dense layer in front of a batch norm
    is treated like any other, as the algorithm has it: what the batch norm gives does not depend on the scale, the step that a
    learning rate means does. Batch norms take the statistics of this batch, as at the first step; dropouts are left out.

    For a network that has not been trained: what its weights have learned is lost.

    Parameters
    ----------
    net : Sequential
    x : ndarray (N, I)
        A batch, some hundred rows; as for `Sequential.forward`. It goes through the network as a whole.
    tol : float
        > 0.
    max_iter : int
        At least 1; divisions for one layer. With biases of zero the first is enough.

    Returns
    -------
    list of dict
        For each dense layer ``layer`` (its index), ``variance`` (the last one) and ``iterations`` (divisions). A variance
        that is still off says that `max_iter` was reached.

    Raises
    ------
    TypeError, ValueError
        Naming the argument; or the layer, whose weights do not have full rank (no orthonormal matrix belongs to zeros), or that
        gives no variance or an infinite one. Nothing has changed then.
    RuntimeError
        If the network is busy, or for inference only.
    """
    _check.instance(net, "net", Sequential, "a fastnn.Sequential")
    return _lsuv(net, x, _check.positive(tol, "tol"), _check.integer(max_iter, "max_iter", least=1))


@alone
@np.errstate(over="ignore", invalid="ignore")       # what is not finite is refused
def _lsuv(net: Sequential, x: Array, tol: float, max_iter: int) -> list[dict[str, Any]]:
    x = _check.rows(x, "x", net.n_in)
    _check.at_least_one_row(x, "x")
    net._enough_rows(np.array([0, len(x)]))
    out = statistics.batch(x, slice(None), net.dtype)
    _check.all_finite(out, "x")
    weights: dict[str, Array] = {}
    report = []
    for i, layer in enumerate(net.layers):
        own = {name: np.ascontiguousarray(a) for name, a in layer.parameters.items()}
        if not isinstance(layer, Dense):
            out = statistics.output(layer, own, out)
            continue
        wide = layer.in_features < layer.out_features
        q, diagonal = orthonormal(own["weight"].T.astype(np.float64) if wide else own["weight"].astype(np.float64))
        if not diagonal.min() > max(q.shape) * np.finfo(np.float64).eps * diagonal.max():
            raise _check.not_of_full_rank(f"layers[{i}]")
        weight = np.ascontiguousarray(q.T if wide else q)
        iterations = 0
        while True:
            own["weight"] = weight.astype(net.dtype)
            z = statistics.output(layer, own, out)
            variance = float(np.var(z, dtype=np.float64))
            if not (0 < variance < math.inf and np.isfinite(own["weight"]).all()):
                raise _check.no_variance(f"layers[{i}]", variance)
            if abs(variance - 1) < tol or iterations == max_iter:
                break
            weight /= math.sqrt(variance)
            iterations += 1
        out = z
        weights[f"{i}.weight"] = own["weight"]
        report.append({"layer": i, "variance": variance, "iterations": iterations})
    net._plan.replace(net.state_dict() | weights)
    return report


def output_bias(net: Sequential, y: Array) -> None:
    """Set the bias of the last layer so that the network starts by predicting what `y` is on the average.

    Goodfellow et al. (section 8.4): the bias c of an output unit should be such that the activation of c gives the marginal
    statistics of the output. Training then need not begin by learning these. With the other parameters at work it is true as
    far as what ``x @ weight`` adds is 0 on the average, and exactly so while the weights of the last layer are zero.

    =====================  ====================================================================================================
    loss                   bias
    =====================  ====================================================================================================
    softmax_cross_entropy  the logarithm of the frequency of each class; one without a row counts as half a row
    sigmoid_cross_entropy  the logit of the mean of each column, where means are held half a row, 1 / 2N, away from 0 and 1
    mean_squared_error     the mean of each column
    =====================  ====================================================================================================

    Parameters
    ----------
    net : Sequential
        Its last layer is a `Dense` with a bias, which is all that changes.
    y : ndarray (N,) of integer labels for softmax_cross_entropy, else (N, K)
        The targets of the training data, N >= 1.

    Raises
    ------
    TypeError, ValueError
        Naming the argument; `net`, where the last layer is no `Dense` or has no bias.
    RuntimeError
        If the network is busy.
    """
    _check.instance(net, "net", Sequential, "a fastnn.Sequential")
    last = net.layers[-1]
    if not isinstance(last, Dense) or not last.has_bias:
        raise _check.no_output_bias(last)
    if net.loss == "softmax_cross_entropy":
        y = _check.ndarray_of(y, "y")
        n = y.shape[0] if isinstance(y, np.ndarray) and y.ndim else 0
        y = _check.labels(y, "y", n, net.n_out)
        _check.integer(n, "y", least=1)
        rows = np.maximum(np.bincount(y, minlength=net.n_out), 0.5)
        bias = np.log(rows / rows.sum())
    else:
        y = _check.rows(y, "y", net.n_out)
        _check.at_least_one_row(y, "y")
        bias = np.mean(y, axis=0, dtype=np.float64)
        if net.loss == "sigmoid_cross_entropy":
            _check.probabilities(y, "y")
            bias = np.clip(bias, 0.5 / len(y), 1 - 0.5 / len(y))
            bias = np.log(bias) - np.log1p(-bias)
        with np.errstate(over="ignore"):
            _check.all_finite(bias.astype(net.dtype), "y")
    _set_output_bias(net, bias)


@alone
def _set_output_bias(net: Sequential, bias: Array) -> None:
    net._plan.replace(net.state_dict() | {f"{len(net.layers) - 1}.bias": bias})


def equal_units(net: Sequential) -> dict[int, list[list[int]]]:
    """The hidden units that are equal: same incoming weights and bias, and same scale and shift in a batch norm behind them.

    Goodfellow et al. (section 8.4): initial parameters must "break symmetry" between units. Equal units give equal outputs.
    Where what leaves them is equal too, as with constant weights throughout, they get equal gradients and are one unit for
    good; where it differs they begin to part with the first step. A dropout behind them tells them apart as well. To start
    apart they only need different incoming weights, which is what is looked at here. Where a weight is NaN, units count as
    equal by their bits.

    Parameters
    ----------
    net : Sequential

    Returns
    -------
    dict of int to list of list of int
        For the index of each `Dense` but the last one, whose units the targets tell apart: its groups of two or more equal
        units. None are equal where ``not any(equal_units(net).values())``.

    Raises
    ------
    TypeError
        If `net` is no `Sequential`.
    """
    _check.instance(net, "net", Sequential, "a fastnn.Sequential")
    return {i: symmetry.groups(net.layers, i) for i in symmetry.hidden(net.layers)}
