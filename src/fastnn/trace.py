"""What a network computes on some rows, layer by layer and back: what `diagnose`, the plots and the report look at."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fastnn import _check
from fastnn.activation import activation_backward, activation_forward
from fastnn.batchnorm import batchnorm_backward, batchnorm_forward
from fastnn.dense import dense_backward, dense_forward
from fastnn.layers import Activation, BatchNorm, Dense
from fastnn.network import LOSSES, Sequential

Array = np.ndarray

#: What there is a series of by depth, with the words for it.
SERIES = {
    "activations": "activation",
    "gradients": "back-propagated gradient",
    "weight_gradients": "weight gradient",
}


def deviation(a: Array) -> float:
    """The standard deviation."""
    return float(np.std(a, dtype=np.float64))


def rms(a: Array) -> float:
    """The root mean square."""
    return float(np.sqrt(np.mean(np.square(a, dtype=np.float64))))


def median_size(a: Array) -> float:
    """The median of the absolute values that are not zero: half of the gradients behind a ReLU are, by design."""
    a = np.abs(a[a != 0])
    return float(np.median(a)) if a.size else 0.0


class Stage(NamedTuple):
    """A `Dense` and what follows it up to the next one, by the places of the layers in the network."""

    dense: int
    before: int             # the layer whose output goes into the first activation; the last of the stage where there is none
    after: int              # the last activation; the last layer of the stage where there is none
    activation: str | None  # the kind of that activation
    hidden: bool            # whether another Dense follows


class Trace:
    """The outputs and gradients of all layers on some rows. Nothing of the network is changed, and nothing of it is kept.

    Everything is as in a training step on these rows as one batch: batch norm takes the statistics of the batch. The exception
    is dropout, which does nothing here, as in evaluation: its masks would differ from call to call.

    Parameters
    ----------
    net : Sequential
    x, y : ndarray
        As for `Sequential.fit`. Without `y` there is no loss and there are no gradients.
    max_rows : int
        Of more rows a random sample of so many is taken, always the same one.

    Attributes
    ----------
    x, y : ndarray (n, I) and ndarray (n,) or (n, K), or None
        The rows that were taken, `x` and targets in the network's dtype.
    outputs, gradients : list of ndarray (n, D)
        For each layer its output, and the gradient of the loss by it. `gradients` is empty without `y`.
    parameter_gradients : dict of str to ndarray
        By the names of `Sequential.state_dict`.
    loss : float
        In training mode but for dropout; NaN without `y`.
    stages : list of Stage
    """

    def __init__(self, net: Sequential, x: Array, y: Array | None = None, *, max_rows: int = 1000) -> None:
        _check.instance(net, "net", Sequential, "a fastnn.Sequential")
        x = _check.rows(x, "x", net.n_in)
        _check.at_least_one_row(x, "x")
        if y is not None and net.loss == "softmax_cross_entropy":
            y = _check.labels(y, "y", len(x), net.n_out)
        elif y is not None:
            y = _check.rows(y, "y", net.n_out)
            _check.one_for_each_row(y, "y", x, "x")
        max_rows = _check.integer(max_rows, "max_rows", least=2)
        if len(x) < 2 and any(isinstance(layer, BatchNorm) for layer in net.layers):
            raise _check.batch_of_one(False)
        taken: Any = slice(None)
        if len(x) > max_rows:
            # not the first rows, nor every k-th: data often come in an order
            taken = np.sort(np.random.default_rng(0).choice(len(x), max_rows, replace=False))
        self.y: Array | None = None
        self.stages = _stages(net)
        self.outputs: list[Array] = []
        self.gradients: list[Array] = []
        self.parameter_gradients: dict[str, Array] = {}
        self.loss = np.nan
        with np.errstate(all="ignore"):     # what overflows is to be seen as infinity
            self.x = np.require(x[taken], net.dtype, ("C_CONTIGUOUS", "ALIGNED"))
            if y is not None:
                wanted = y.dtype if net.loss == "softmax_cross_entropy" else net.dtype
                self.y = np.require(y[taken], wanted, ("C_CONTIGUOUS", "ALIGNED"))
            statistics = self._forward(net)
            if self.y is not None:
                self._backward(net, self.y, statistics)

    def input(self, layer: int) -> Array:
        """What goes into a layer."""
        return self.outputs[layer - 1] if layer else self.x

    def series(self, what: str) -> list[tuple[int, Array]]:
        """The values to look at by depth, from the input to the output: pairs of a layer's place and its values.

        ``"activations"`` are the outputs of the last activation of each stage, ``"gradients"`` those of the loss by what goes
        into the first one (the back-propagated gradients of Glorot & Bengio 2010), ``"weight_gradients"`` those by the weights.
        Of the hidden stages; the output stage counts where it has an activation, or is the only one.
        """
        stages = [stage for stage in self.stages if stage.hidden or stage.activation] or self.stages
        if what == "weight_gradients":
            return [(stage.dense, self.parameter_gradients[f"{stage.dense}.weight"]) for stage in stages]
        if what == "activations":
            return [(stage.after, self.outputs[stage.after]) for stage in stages]
        return [(stage.before, self.gradients[stage.before]) for stage in stages]

    def _forward(self, net: Sequential) -> dict[tuple[int, int], tuple[Array, Array]]:
        """Fill `outputs`; returns mean and rstd of each batch norm and each group of rows, by the layer and the first row."""
        statistics = {}
        h = self.x
        for i, layer in enumerate(net.layers):
            if isinstance(layer, Dense):
                h = dense_forward(h, layer.weight, layer.bias if layer.has_bias else None)
            elif isinstance(layer, Activation):
                h = activation_forward(h, layer.kind)
            elif isinstance(layer, BatchNorm):
                out = np.empty_like(h)
                for first, end in layer.groups(len(h)):
                    mean, rstd = np.full((2, layer.num_features), np.nan)
                    try:
                        _, mean, rstd = batchnorm_forward(
                            h[first:end], layer.gamma, layer.beta, eps=layer.eps, out=out[first:end])
                    except ValueError:      # a variance that overflows: nothing behind this layer is finite
                        out[first:end] = np.nan
                    statistics[i, first] = mean, rstd
                h = out
            self.outputs.append(h)
        return statistics

    def _backward(self, net: Sequential, y: Array, statistics: dict[tuple[int, int], tuple[Array, Array]]) -> None:
        self.loss, d = LOSSES[net.loss](self.outputs[-1], y)
        for i, layer in reversed([*enumerate(net.layers)]):
            self.gradients.insert(0, d)
            if isinstance(layer, Dense):
                dx, dweight, dbias = dense_backward(d, self.input(i), layer.weight, need_dx=i > 0)
                self.parameter_gradients[f"{i}.weight"] = dweight
                if layer.has_bias:
                    self.parameter_gradients[f"{i}.bias"] = dbias
                if i > 0:
                    assert dx is not None
                    d = dx
            elif isinstance(layer, Activation):
                d = activation_backward(d, self.outputs[i], layer.kind)
            elif isinstance(layer, BatchNorm):
                dx, sums = np.empty_like(d), []
                for first, end in layer.groups(len(d)):
                    _, *of_group = batchnorm_backward(
                        d[first:end], self.input(i)[first:end], layer.gamma, *statistics[i, first], dx=dx[first:end])
                    sums.append(of_group)
                d = dx
                dgamma, dbeta = np.sum(sums, axis=0, dtype=np.float64).astype(net.dtype)
                self.parameter_gradients |= {f"{i}.gamma": dgamma, f"{i}.beta": dbeta}


def _stages(net: Sequential) -> list[Stage]:
    dense = [i for i, layer in enumerate(net.layers) if isinstance(layer, Dense)]
    stages = []
    for first, end in zip(dense, [*dense[1:], len(net.layers)], strict=True):
        kinds = {i: layer.kind for i, layer in enumerate(net.layers[:end])
                 if i > first and isinstance(layer, Activation) and layer.kind != "identity"}
        before, after = (min(kinds) - 1, max(kinds)) if kinds else (end - 1, end - 1)
        stages.append(Stage(first, before, after, kinds.get(after), end < len(net.layers)))
    return stages
