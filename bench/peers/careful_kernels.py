"""The kernels as a careful NumPy user writes them: the fewest passes, every result in place, no array made twice.

A function gets the inputs and the outputs, allocates its scratch once, and returns a call without arguments that
does the work. What NumPy is good at is used: column and row sums are products with a vector, sums of products are
``einsum``, the sigmoid is a ``tanh``, and softplus and elu take ``exp`` and ``log``, which have vector code on more
machines than ``expm1`` and ``log1p``. `bench.peers.careful` trains with them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fastnn.reference import Array

Call = Callable[[], Any]


def dense_forward(x: Array, weight: Array, bias: Array, *, out: Array) -> Call:
    def call() -> Array:
        np.matmul(x, weight, out=out)
        return np.add(out, bias, out=out)

    return call


def dense_backward(
    dout: Array, x: Array, weight: Array, *, dx: Array | None = None, dweight: Array, dbias: Array | None = None,
) -> Call:
    ones = np.ones(len(x), x.dtype)

    def call() -> tuple[Array | None, Array, Array | None]:
        if dx is not None:
            np.matmul(dout, weight.T, out=dx)
        np.matmul(x.T, dout, out=dweight)
        if dbias is not None:
            np.matmul(ones, dout, out=dbias)
        return dx, dweight, dbias

    return call


def batchnorm_forward(
    x: Array, gamma: Array, beta: Array, running_mean: Array, running_var: Array, *,
    momentum: float = 0.1, eps: float = 1e-5, out: Array, mean: Array | None = None, rstd: Array | None = None,
) -> Call:
    n = len(x)
    average = np.full(n, 1 / n, x.dtype)
    mean_ = np.empty_like(gamma) if mean is None else mean
    rstd_ = np.empty_like(gamma) if rstd is None else rstd
    var, scratch = np.empty_like(gamma), np.empty_like(gamma)

    def call() -> tuple[Array, Array, Array]:
        np.matmul(average, x, out=mean_)
        np.subtract(x, mean_, out=out)
        np.einsum("ij,ij->j", out, out, out=var)
        # var is the sum of squares here; running += momentum * (batch - running)
        np.subtract(mean_, running_mean, out=scratch)
        np.multiply(scratch, momentum, out=scratch)
        np.add(running_mean, scratch, out=running_mean)
        np.multiply(running_var, 1 - momentum, out=running_var)
        np.multiply(var, momentum / (n - 1), out=scratch)
        np.add(running_var, scratch, out=running_var)
        np.multiply(var, 1 / n, out=rstd_)
        np.add(rstd_, eps, out=rstd_)
        np.sqrt(rstd_, out=rstd_)
        np.reciprocal(rstd_, out=rstd_)
        np.multiply(gamma, rstd_, out=scratch)
        np.multiply(out, scratch, out=out)
        np.add(out, beta, out=out)
        return out, mean_, rstd_

    return call


def batchnorm_backward(
    dout: Array, x: Array, gamma: Array, mean: Array, rstd: Array, *, dx: Array, dgamma: Array, dbeta: Array,
) -> Call:
    n = len(x)
    ones = np.ones(n, x.dtype)
    scratch = np.empty_like(gamma)

    def call() -> tuple[Array, Array, Array]:
        # dx = gamma rstd (dout - dbeta / n - (x - mean) rstd dgamma / n)
        np.matmul(ones, dout, out=dbeta)
        np.subtract(x, mean, out=dx)
        np.einsum("ij,ij->j", dout, dx, out=dgamma)
        np.multiply(dgamma, rstd, out=dgamma)
        np.multiply(dgamma, rstd, out=scratch)
        np.multiply(scratch, -1 / n, out=scratch)
        np.multiply(dx, scratch, out=dx)
        np.add(dx, dout, out=dx)
        np.multiply(dbeta, 1 / n, out=scratch)
        np.subtract(dx, scratch, out=dx)
        np.multiply(gamma, rstd, out=scratch)
        np.multiply(dx, scratch, out=dx)
        return dx, dgamma, dbeta

    return call


def batchnorm_inference(
    x: Array, gamma: Array, beta: Array, running_mean: Array, running_var: Array, *, eps: float = 1e-5, out: Array,
) -> Call:
    scale, shift = np.empty_like(gamma), np.empty_like(gamma)

    def call() -> Array:
        # out = x scale + shift
        np.add(running_var, eps, out=scale)
        np.sqrt(scale, out=scale)
        np.divide(gamma, scale, out=scale)
        np.multiply(running_mean, scale, out=shift)
        np.subtract(beta, shift, out=shift)
        np.multiply(x, scale, out=out)
        return np.add(out, shift, out=out)

    return call


def activation_forward(x: Array, kind: str, *, out: Array) -> Call:
    scratch = np.empty_like(x)

    def identity() -> Array:
        np.copyto(out, x)
        return out

    def relu() -> Array:
        return np.maximum(x, 0, out=out)

    def leaky_relu() -> Array:
        np.multiply(x, 0.01, out=out)
        return np.maximum(x, out, out=out)

    def tanh() -> Array:
        return np.tanh(x, out=out)

    def sigmoid() -> Array:
        _sigmoid(x, out)
        return out

    def softsign() -> Array:
        np.abs(x, out=out)
        np.add(out, 1, out=out)
        return np.divide(x, out, out=out)

    def softplus() -> Array:
        # max(x, 0) + log(1 + exp(-|x|))
        np.abs(x, out=scratch)
        np.negative(scratch, out=scratch)
        np.exp(scratch, out=scratch)
        np.add(scratch, 1, out=scratch)
        np.log(scratch, out=scratch)
        np.maximum(x, 0, out=out)
        return np.add(out, scratch, out=out)

    def elu() -> Array:
        # max(x, exp(min(x, 0)) - 1): above 0 the right is 0, below it exp(x) - 1 >= x
        np.minimum(x, 0, out=out)
        np.exp(out, out=out)
        np.subtract(out, 1, out=out)
        return np.maximum(x, out, out=out)

    return {f.__name__: f for f in (identity, relu, leaky_relu, tanh, sigmoid, softsign, softplus, elu)}[kind]


def activation_backward(dy: Array, y: Array, kind: str, *, dx: Array) -> Call:
    positive = np.empty(y.shape, bool)

    def identity() -> Array:
        np.copyto(dx, dy)
        return dx

    def relu() -> Array:
        np.greater(y, 0, out=positive)
        return np.multiply(dy, positive, out=dx)

    def leaky_relu() -> Array:
        np.greater(y, 0, out=dx)
        np.multiply(dx, 0.99, out=dx)
        np.add(dx, 0.01, out=dx)
        return np.multiply(dy, dx, out=dx)

    def tanh() -> Array:
        np.multiply(y, y, out=dx)
        np.subtract(1, dx, out=dx)
        return np.multiply(dy, dx, out=dx)

    def sigmoid() -> Array:
        np.subtract(1, y, out=dx)
        np.multiply(y, dx, out=dx)
        return np.multiply(dy, dx, out=dx)

    def softsign() -> Array:
        np.abs(y, out=dx)
        np.subtract(1, dx, out=dx)
        np.multiply(dx, dx, out=dx)
        return np.multiply(dy, dx, out=dx)

    def softplus() -> Array:
        np.negative(y, out=dx)
        np.exp(dx, out=dx)
        np.subtract(1, dx, out=dx)
        return np.multiply(dy, dx, out=dx)

    def elu() -> Array:
        np.minimum(y, 0, out=dx)
        np.add(dx, 1, out=dx)
        return np.multiply(dy, dx, out=dx)

    return {f.__name__: f for f in (identity, relu, leaky_relu, tanh, sigmoid, softsign, softplus, elu)}[kind]


def _sigmoid(x: Array, out: Array) -> None:
    # (1 + tanh(x / 2)) / 2
    np.multiply(x, 0.5, out=out)
    np.tanh(out, out=out)
    np.multiply(out, 0.5, out=out)
    np.add(out, 0.5, out=out)


def softmax_cross_entropy(logits: Array, labels: Array, *, dlogits: Array) -> Call:
    n, k = logits.shape
    top, total = np.empty((n, 1), logits.dtype), np.empty((n, 1), logits.dtype)
    picked, ones = np.empty(n, logits.dtype), np.ones((k, 1), logits.dtype)
    starts, at = np.arange(0, n * k, k), np.empty(n, np.intp)
    flat = dlogits.reshape(-1)

    def call() -> tuple[float, Array]:
        # loss = mean(log(sum(exp(z))) - z[label]);  dlogits = (softmax(z) - 1 at the label) / n
        np.maximum.reduce(logits, axis=1, keepdims=True, out=top)
        np.subtract(logits, top, out=dlogits)
        np.add(starts, labels, out=at)
        np.take(flat, at, out=picked, mode="clip")
        loss = -np.add.reduce(picked)
        np.exp(dlogits, out=dlogits)
        np.matmul(dlogits, ones, out=total)
        np.log(total, out=top)
        loss += np.add.reduce(top, axis=None)
        np.multiply(total, n, out=total)
        np.reciprocal(total, out=total)
        np.multiply(dlogits, total, out=dlogits)
        np.take(flat, at, out=picked, mode="clip")
        np.subtract(picked, 1 / n, out=picked)
        flat[at] = picked
        return float(loss) / n, dlogits

    return call


def sigmoid_cross_entropy(logits: Array, targets: Array, *, dlogits: Array) -> Call:
    scratch = np.empty_like(logits)
    size = logits.size

    def call() -> tuple[float, Array]:
        # loss = mean(max(z, 0) - z t + log(1 + exp(-|z|))), where max(z, 0) = (z + |z|) / 2
        np.abs(logits, out=scratch)
        loss = 0.5 * (np.add.reduce(logits, axis=None) + np.add.reduce(scratch, axis=None))
        loss -= np.vdot(logits, targets)
        np.negative(scratch, out=scratch)
        np.exp(scratch, out=scratch)
        np.add(scratch, 1, out=scratch)
        np.log(scratch, out=scratch)
        loss += np.add.reduce(scratch, axis=None)
        _sigmoid(logits, dlogits)
        np.subtract(dlogits, targets, out=dlogits)
        np.multiply(dlogits, 1 / size, out=dlogits)
        return float(loss) / size, dlogits

    return call


def mean_squared_error(pred: Array, target: Array, *, dpred: Array) -> Call:
    size = pred.size

    def call() -> tuple[float, Array]:
        np.subtract(pred, target, out=dpred)
        loss = float(np.vdot(dpred, dpred)) / size
        np.multiply(dpred, 2 / size, out=dpred)
        return loss, dpred

    return call


def sgd_update(param: Array, grad: Array, velocity: Array, *, lr: float, momentum: float) -> Call:
    scratch = np.empty_like(param)

    def call() -> None:
        np.multiply(velocity, momentum, out=velocity)
        np.add(velocity, grad, out=velocity)
        np.multiply(velocity, lr, out=scratch)
        np.subtract(param, scratch, out=param)

    return call


def adam_update(param: Array, grad: Array, m: Array, v: Array, *, lr: float, step: int) -> Call:
    scratch = np.empty_like(param)
    root = (1 - 0.999**step) ** 0.5
    rate = lr * root / (1 - 0.9**step)

    def call() -> None:
        np.subtract(grad, m, out=scratch)
        np.multiply(scratch, 0.1, out=scratch)
        np.add(m, scratch, out=m)
        np.multiply(grad, grad, out=scratch)
        np.subtract(scratch, v, out=scratch)
        np.multiply(scratch, 0.001, out=scratch)
        np.add(v, scratch, out=v)
        np.sqrt(v, out=scratch)
        np.add(scratch, 1e-8 * root, out=scratch)
        np.divide(m, scratch, out=scratch)
        np.multiply(scratch, rate, out=scratch)
        np.subtract(param, scratch, out=param)

    return call
