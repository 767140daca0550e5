"""The kernels in plain NumPy: the specification. Read this first.

The same functions as `fastnn` exports, with the same arguments but for the outputs. Nothing here is fast or checks its
arguments; `fastnn`'s own tests and benchmarks compare against it. N is the number of rows (samples), I and O the widths of
the two sides of a dense layer, D a number of features, K a number of classes.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

__all__ = [
    "activation_backward", "activation_forward", "adam_update", "batchnorm_backward", "batchnorm_forward",
    "batchnorm_inference", "dense_backward", "dense_forward", "mean_squared_error", "sgd_update", "sigmoid_cross_entropy",
    "softmax_cross_entropy",
]

Array = np.ndarray[Any, np.dtype[Any]]


# ---- dense: x (N, I), weight (I, O), bias (O,)

def dense_forward(x: Array, weight: Array, bias: Array | None = None) -> Array:
    """x (N, I), weight (I, O), bias (O,) -> out (N, O)."""
    return x @ weight if bias is None else x @ weight + bias


def dense_backward(dout: Array, x: Array, weight: Array, *, need_dx: bool = True) -> tuple[Array | None, Array, Array]:
    """dout (N, O), x (N, I), weight (I, O) -> dx (N, I), dweight (I, O), dbias (O,). Goodfellow et al., section 6.5.6."""
    dx = dout @ weight.T if need_dx else None
    return dx, x.T @ dout, dout.sum(axis=0)


# ---- batch normalisation: x (N, D), everything else (D,). Goodfellow et al. (8.35)-(8.37); Ioffe & Szegedy, algorithm 1

def batchnorm_forward(
    x: Array, gamma: Array, beta: Array, running_mean: Array | None = None, running_var: Array | None = None, *,
    momentum: float = 0.1, eps: float = 1e-5,
) -> tuple[Array, Array, Array]:
    """x (N, D), the others (D,) -> out (N, D), mean (D,), rstd (D,). The running statistics are updated in place."""
    mean, low = _mean(x)
    var = np.mean(np.square(x - mean - low, dtype=np.float64), axis=0)
    rstd = 1 / np.sqrt(var + eps)
    if running_mean is not None and running_var is not None:
        n = x.shape[0]
        running_mean[...] = (1 - momentum) * running_mean + momentum * mean
        running_var[...] = (1 - momentum) * running_var + momentum * var * n / (n - 1)
    out = (x - mean - low) * rstd * gamma + beta
    return out.astype(x.dtype), mean, rstd


def batchnorm_backward(dout: Array, x: Array, gamma: Array, mean: Array, rstd: Array) -> tuple[Array, Array, Array]:
    """dout and x (N, D), the others (D,) -> dx (N, D), dgamma (D,), dbeta (D,)."""
    dout64 = dout.astype(np.float64)
    low = np.mean(x - mean, axis=0)
    xhat = (x - mean - low) * rstd
    dgamma = np.sum(dout64 * xhat, axis=0)
    dbeta = np.sum(dout64, axis=0)
    dx = gamma * rstd * (dout64 - np.mean(dout64, axis=0) - xhat * np.mean(dout64 * xhat, axis=0))
    return dx.astype(x.dtype), dgamma.astype(x.dtype), dbeta.astype(x.dtype)


def batchnorm_inference(
    x: Array, gamma: Array, beta: Array, running_mean: Array, running_var: Array, *, eps: float = 1e-5,
) -> Array:
    """x (N, D), the others (D,) -> out (N, D)."""
    rstd = 1 / np.sqrt(running_var.astype(np.float64) + eps)
    return ((x - running_mean.astype(np.float64)) * rstd * gamma + beta).astype(x.dtype)


def _mean(x: Array) -> tuple[Array, Array]:
    """The column means as float64 and what is left of them: mean + low is the mean to twice the precision.

    Summing the differences from the first row keeps a constant column exact; the second pass repairs an outlying first row.
    """
    pivot = x[0].astype(np.float64)
    mean = pivot + np.mean(x - pivot, axis=0)
    return mean, np.mean(x - mean, axis=0)


# ---- activations, any shape; the backward needs only the output y

def activation_forward(x: Array, kind: str) -> Array:
    """x of any shape -> y of that shape."""
    zero = x.dtype.type(0)
    if kind == "identity":
        return x.copy()
    if kind == "relu":
        return np.maximum(x, zero)
    if kind == "leaky_relu":
        return np.where(x > 0, x, x.dtype.type(0.01) * x)
    if kind == "tanh":
        return np.tanh(x)
    if kind == "sigmoid":
        e = np.exp(-np.abs(x))
        return np.where(x >= 0, 1 / (1 + e), e / (1 + e))
    if kind == "softsign":
        return x / (1 + np.abs(x))
    if kind == "softplus":
        return np.maximum(x, zero) + np.log1p(np.exp(-np.abs(x)))
    if kind == "elu":
        return np.where(x > 0, x, np.expm1(np.minimum(x, zero)))
    raise ValueError(f"kind: {kind!r}")


def activation_backward(dy: Array, y: Array, kind: str) -> Array:
    """dy and y of any shape -> dx of that shape."""
    if kind == "identity":
        return dy.copy()
    if kind == "relu":
        return np.where(y > 0, dy, dy.dtype.type(0))
    if kind == "leaky_relu":
        return np.where(y > 0, dy, dy.dtype.type(0.01) * dy)
    if kind == "tanh":
        return dy * ((1 - y) * (1 + y))
    if kind == "sigmoid":
        return dy * (y * (1 - y))
    if kind == "softsign":
        return dy * np.square(1 - np.abs(y))
    if kind == "softplus":
        return dy * -np.expm1(-y)
    if kind == "elu":
        return np.where(y > 0, dy, dy * (y + 1))
    raise ValueError(f"kind: {kind!r}")


# ---- losses: logits, pred, targets (N, K), labels (N,) integers; in float64, rounded once

def softmax_cross_entropy(logits: Array, labels: Array) -> tuple[float, Array]:
    """logits (N, K), labels (N,) integers -> the mean loss, dlogits (N, K). Goodfellow et al. (6.29)-(6.31)."""
    n = logits.shape[0]
    rows = np.arange(n)
    z = logits.astype(np.float64)
    z = z - z.max(axis=1, keepdims=True)
    e = np.exp(z)
    s = e.sum(axis=1, keepdims=True)
    loss = np.mean(np.log(s[:, 0]) - z[rows, labels])
    p = e / s
    e[rows, labels] = 0
    p[rows, labels] = -(e.sum(axis=1) / s[:, 0])      # p - 1 without cancellation
    return float(loss), (p / n).astype(logits.dtype)


def sigmoid_cross_entropy(logits: Array, targets: Array) -> tuple[float, Array]:
    """logits and targets (N, K) -> the mean loss, dlogits (N, K). Goodfellow et al. (6.24)-(6.26)."""
    z, t = logits.astype(np.float64), targets.astype(np.float64)
    e = np.exp(-np.abs(z))
    loss = np.mean(np.maximum(z, 0) - z * t + np.log1p(e))
    # sigmoid(z) - t, as (1 - t) sigmoid(z) - t sigmoid(-z): no cancellation where both are close to 0 or 1
    positive, negative = np.where(z >= 0, 1, e) / (1 + e), np.where(z >= 0, e, 1) / (1 + e)
    return float(loss), (((1 - t) * positive - t * negative) / z.size).astype(logits.dtype)


def mean_squared_error(pred: Array, target: Array) -> tuple[float, Array]:
    """pred and target (N, K) -> the mean loss, dpred (N, K)."""
    difference = pred.astype(np.float64) - target
    return float(np.mean(np.square(difference))), (2 * difference / pred.size).astype(pred.dtype)


# ---- stochastic gradient descent, any shape, in place. Sutskever et al. (2013) in the form of PyTorch

def sgd_update(
    param: Array, grad: Array, velocity: Array | None = None, *,
    lr: float, momentum: float = 0.0, nesterov: bool = False, weight_decay: float = 0.0,
) -> None:
    """Arrays of one shape; `param` and `velocity` are updated in place."""
    g = grad + weight_decay * param if weight_decay else grad
    if velocity is not None:
        velocity[...] = momentum * velocity + g
        g = g + momentum * velocity if nesterov else velocity
    param -= lr * g


# ---- Adam, any shape, in place. Kingma & Ba (2015), algorithm 1, or with eps_hat the remark behind it; decoupled: Loshchilov &
# Hutter (2019), algorithm 2

def adam_update(
    param: Array, grad: Array, m: Array, v: Array, *,
    lr: float, step: int, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8, eps_hat: bool = False,
    weight_decay: float = 0.0, decoupled: bool = False,
) -> None:
    """Arrays of one shape; `param`, `m` and `v` are updated in place."""
    beta1, beta2 = (float(param.dtype.type(beta)) for beta in (beta1, beta2))   # beta and 1 - beta add up to 1 in every dtype
    g = grad + weight_decay * param if weight_decay and not decoupled else grad
    m[...] = beta1 * m + (1 - beta1) * g
    v[...] = beta2 * v + (1 - beta2) * np.square(g)
    mhat, root = m / _correction(beta1, step), np.sqrt(v / _correction(beta2, step))
    if eps_hat:
        eps /= math.sqrt(_correction(beta2, step))
    update = lr * (mhat / (root + eps))
    param -= update + lr * weight_decay * param if decoupled and lr * weight_decay else update


def _correction(beta: float, step: int) -> float:
    """1 - beta^step, without cancellation."""
    return -math.expm1(step * math.log(beta)) if beta else 1.0
