"""The kernels as a textbook writes them: whole-array expressions, a new array for every intermediate result.

The functions of `fastnn.reference` with the dtype of the data kept throughout. `bench.peers.textbook` trains with them.
"""

from __future__ import annotations

import numpy as np

from fastnn.reference import Array


def dense_forward(x: Array, weight: Array, bias: Array) -> Array:
    return x @ weight + bias


def dense_backward(dout: Array, x: Array, weight: Array) -> tuple[Array, Array, Array]:
    return dout @ weight.T, x.T @ dout, dout.sum(axis=0)


def batchnorm_forward(
    x: Array, gamma: Array, beta: Array, running_mean: Array, running_var: Array, *,
    momentum: float = 0.1, eps: float = 1e-5,
) -> tuple[Array, Array, Array]:
    n = len(x)
    mean, var = x.mean(axis=0), x.var(axis=0)
    rstd = 1 / np.sqrt(var + eps)
    running_mean[...] = (1 - momentum) * running_mean + momentum * mean
    running_var[...] = (1 - momentum) * running_var + momentum * var * n / (n - 1)
    xhat = (x - mean) * rstd
    return gamma * xhat + beta, mean, rstd


def batchnorm_backward(dout: Array, x: Array, gamma: Array, mean: Array, rstd: Array) -> tuple[Array, Array, Array]:
    n = len(x)
    xhat = (x - mean) * rstd
    dgamma, dbeta = (dout * xhat).sum(axis=0), dout.sum(axis=0)
    return gamma * rstd * (dout - dbeta / n - xhat * dgamma / n), dgamma, dbeta


def batchnorm_inference(
    x: Array, gamma: Array, beta: Array, running_mean: Array, running_var: Array, *, eps: float = 1e-5,
) -> Array:
    return gamma * (x - running_mean) / np.sqrt(running_var + eps) + beta


def activation_forward(x: Array, kind: str) -> Array:
    match kind:
        case "identity":
            return x.copy()
        case "relu":
            return np.maximum(x, 0)
        case "leaky_relu":
            return np.where(x > 0, x, 0.01 * x)
        case "tanh":
            return np.tanh(x)
        case "sigmoid":
            return 1 / (1 + np.exp(-x))
        case "softsign":
            return x / (1 + np.abs(x))
        case "softplus":
            return np.log(1 + np.exp(x))
        case "elu":
            return np.where(x > 0, x, np.exp(x) - 1)
    raise ValueError(f"kind: {kind!r}")


def activation_backward(dy: Array, y: Array, kind: str) -> Array:
    match kind:
        case "identity":
            return dy.copy()
        case "relu":
            return dy * (y > 0)
        case "leaky_relu":
            return np.where(y > 0, dy, 0.01 * dy)
        case "tanh":
            return dy * (1 - y**2)
        case "sigmoid":
            return dy * y * (1 - y)
        case "softsign":
            return dy * (1 - np.abs(y)) ** 2
        case "softplus":
            return dy * (1 - np.exp(-y))
        case "elu":
            return np.where(y > 0, dy, dy * (y + 1))
    raise ValueError(f"kind: {kind!r}")


def softmax_cross_entropy(logits: Array, labels: Array) -> tuple[float, Array]:
    n = len(logits)
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    p = e / e.sum(axis=1, keepdims=True)
    loss = -np.log(p[np.arange(n), labels]).mean()
    p[np.arange(n), labels] -= 1
    return float(loss), p / n


def sigmoid_cross_entropy(logits: Array, targets: Array) -> tuple[float, Array]:
    p = 1 / (1 + np.exp(-logits))
    loss = -(targets * np.log(p) + (1 - targets) * np.log(1 - p)).mean()
    return float(loss), (p - targets) / p.size


def mean_squared_error(pred: Array, target: Array) -> tuple[float, Array]:
    difference = pred - target
    return float((difference**2).mean()), 2 * difference / pred.size


def sgd_update(param: Array, grad: Array, velocity: Array, *, lr: float, momentum: float) -> None:
    velocity[...] = momentum * velocity + grad
    param -= lr * velocity


def adam_update(param: Array, grad: Array, m: Array, v: Array, *, lr: float, step: int) -> None:
    m[...] = 0.9 * m + 0.1 * grad
    v[...] = 0.999 * v + 0.001 * grad**2
    mhat = m / (1 - 0.9**step)
    vhat = v / (1 - 0.999**step)
    param -= lr * mhat / (np.sqrt(vhat) + 1e-8)
