"""The oracle: the functions of `fastnn.reference` in long double, and the measures of error. There is no other.

Everything is evaluated on the rounded inputs. Where long double is only double (MSVC, macOS on Arm) mpmath takes its place, as
it does anywhere with FASTNN_ORACLE=mpmath in the environment; it has time for few columns, see `FEW`.

NW = max|error| / max|exact| / eps: the error in units of the last place of the largest result.
"""

import math
import os

import numpy as np
import pytest

LONG = np.finfo(np.longdouble).nmant >= 63 and os.environ.get("FASTNN_ORACLE") != "mpmath"
FEW = slice(None) if LONG else slice(0, 2)     # the columns that an oracle of mpmath has time for


def mpmath():
    module = pytest.importorskip("mpmath")
    module.mp.prec = 128
    return module


def wide(a):
    """`a` in at least 64 bits of precision."""
    a = np.asarray(a)
    if LONG:
        return a.astype(np.longdouble)
    exact = mpmath().mpf
    return a if a.dtype == object else np.asarray(np.frompyfunc(lambda v: exact(float(v)), 1, 1)(a), object)


def wide_map(name, a):
    """exp, expm1, log, log1p, sqrt or tanh of a wide array."""
    if LONG:
        return getattr(np, name)(a)
    return np.asarray(np.frompyfunc(getattr(mpmath(), name), 1, 1)(a), object)


# ---- measures

def eps_of(dtype):
    return float(np.finfo(dtype).eps)


def nw(result, exact, dtype=None, scale=None):
    """max|result - exact| / max|scale| / eps; `scale` is `exact` itself unless given. Infinite unless all is finite."""
    result = np.asarray(result)
    assert result.shape == np.shape(exact), f"shape {result.shape}, expected {np.shape(exact)}"
    if not result.size:
        return 0.0
    if not np.isfinite(result).all():
        return math.inf
    error = float(np.max(np.abs(wide(result) - exact)))
    largest = float(np.max(np.abs(exact if scale is None else scale)))
    if error == 0:
        return 0.0
    return error / largest / eps_of(dtype or result.dtype) if largest and math.isfinite(error) else math.inf


def nw_each(result, exact, scale, dtype=None):
    """max(|result - exact| / scale) / eps, entry by entry; an entry of scale 0 must be exact."""
    result = np.asarray(result)
    if not np.isfinite(result).all():
        return math.inf
    error = np.abs(wide(result) - exact).astype(np.float64)
    scale = np.abs(scale).astype(np.float64)
    if (error[scale == 0] != 0).any():
        return math.inf
    return float(np.max(error / np.where(scale == 0, 1, scale), initial=0)) / eps_of(dtype or result.dtype)


# ---- dense

def dense_forward(x, weight, bias=None):
    out = wide(x) @ wide(weight)
    return out if bias is None else out + wide(bias)


def dense_backward(dout, x, weight, *, need_dx=True):
    dout = wide(dout)
    return dout @ wide(weight).T if need_dx else None, wide(x).T @ dout, dout.sum(axis=0)


# ---- batch normalisation: two passes, the second of which corrects the mean. It is a pair until subtracted: one long double
# cannot hold it where it is 1e6 times as large as the spread of float64 data.

def centred(x):
    """x - mean, and the mean."""
    x = wide(x)
    high = x[0] + (x - x[0]).sum(axis=0) / len(x)
    low = (x - high).sum(axis=0) / len(x)
    return (x - high) - low, high + low


def batchnorm_forward(x, gamma, beta, running_mean=None, running_var=None, *, momentum=0.1, eps=1e-5):
    """`running_mean` and `running_var` must be wide."""
    n = len(x)
    u, mean = centred(x)
    var = (u * u).sum(axis=0) / n
    rstd = 1 / wide_map("sqrt", var + wide(eps))
    if running_mean is not None:
        running_mean[...] = (1 - wide(momentum)) * running_mean + wide(momentum) * mean
        running_var[...] = (1 - wide(momentum)) * running_var + wide(momentum) * var * n / (n - 1)
    return wide(gamma) * (u * rstd) + wide(beta), mean, rstd


def batchnorm_backward(dout, x, gamma, mean, rstd):
    """`rstd` must be wide; the mean is found anew."""
    n, dout = len(x), wide(dout)
    xhat = centred(x)[0] * rstd
    dgamma, dbeta = (dout * xhat).sum(axis=0), dout.sum(axis=0)
    return wide(gamma) * rstd * (dout - dbeta / n - xhat * (dgamma / n)), dgamma, dbeta


def batchnorm_inference(x, gamma, beta, running_mean, running_var, *, eps=1e-5):
    rstd = 1 / wide_map("sqrt", wide(running_var) + wide(eps))
    return (wide(x) - wide(running_mean)) * rstd * wide(gamma) + wide(beta)


# ---- activations, without overflow or cancellation. `slope` is the 0.01 of leaky_relu as the dtype of the kernel has it.

def activation_forward(x, kind, slope=0.01):
    x = wide(x)
    right = x > 0
    decay = wide_map("exp", -np.abs(x))
    return {
        "identity": lambda: x,
        "relu": lambda: np.where(right, x, 0),
        "leaky_relu": lambda: np.where(right, x, wide(slope) * x),
        "tanh": lambda: wide_map("tanh", x),
        "sigmoid": lambda: np.where(right, 1, decay) / (1 + decay),
        "softsign": lambda: x / (1 + np.abs(x)),
        "softplus": lambda: np.where(right, x, 0) + wide_map("log1p", decay),
        "elu": lambda: np.where(right, x, wide_map("expm1", -np.abs(x))),
    }[kind]()


def activation_backward(dy, y, kind, slope=0.01):
    y = wide(y)
    right = y > 0
    return wide(dy) * {
        "identity": lambda: 0 * y + 1,
        "relu": lambda: np.where(right, 1, 0 * y),
        "leaky_relu": lambda: np.where(right, 1, 0 * y + wide(slope)),
        "tanh": lambda: (1 - y) * (1 + y),
        "sigmoid": lambda: y * (1 - y),
        "softsign": lambda: (1 - np.abs(y)) ** 2,
        "softplus": lambda: -wide_map("expm1", -y),
        "elu": lambda: np.where(right, 1, y + 1),
    }[kind]()


# ---- losses: the loss is wide too

def softmax_cross_entropy(logits, labels):
    z, rows = wide(logits), np.arange(len(logits))
    z = z - z.max(axis=1, keepdims=True)
    e = wide_map("exp", z)
    s = e.sum(axis=1, keepdims=True)
    gradient = e / s
    e[rows, labels] = wide(0)
    others = e.sum(axis=1)
    gradient[rows, labels] = -others / s[:, 0]
    margin = z[rows, labels]
    # log(s) - margin, without cancellation where the target is the largest
    first = margin == 0
    losses = np.where(first, wide_map("log1p", np.where(first, others, wide(0))), wide_map("log", s[:, 0]) - margin)
    return losses.sum() / len(z), gradient / len(z)


def sigmoid_cross_entropy(logits, targets):
    z, t = wide(logits), wide(targets)
    e = wide_map("exp", -np.abs(z))
    positive, negative = np.where(z >= 0, 1, e) / (1 + e), np.where(z >= 0, e, 1) / (1 + e)
    loss = (np.maximum(z, 0) - z * t + wide_map("log1p", e)).sum() / z.size
    return loss, ((1 - t) * positive - t * negative) / z.size


def mean_squared_error(pred, target):
    difference = wide(pred) - wide(target)
    return (difference * difference).sum() / difference.size, 2 * difference / difference.size


# ---- gradient descent, in place. The numbers are those of the kernel: rounded to its dtype

def sgd_update(param, grad, velocity=None, *, lr, momentum=0.0, nesterov=False, weight_decay=0.0):
    """`param` and `velocity` must be wide."""
    lr, momentum = wide(lr), wide(momentum)
    g = wide(grad) + wide(weight_decay) * param
    if velocity is not None:
        velocity[...] = momentum * velocity + g
        g = g + momentum * velocity if nesterov else velocity
    param[...] = param - lr * g


def adam_update(param, grad, m, v, *, lr, step, beta1, beta2, eps, eps_hat=False, weight_decay=0.0, decoupled=False):
    """`param`, `m` and `v` must be wide."""
    lr, beta1, beta2, eps, decay, one = (wide(number) for number in (lr, beta1, beta2, eps, weight_decay, 1.0))
    g = wide(grad) if decoupled else wide(grad) + decay * param
    m[...] = beta1 * m + (one - beta1) * g
    v[...] = beta2 * v + (one - beta2) * g * g
    mhat, correction = m / (one - beta1**step), one - beta2**step
    root = wide_map("sqrt", v / correction)
    denominator = root + (eps / wide_map("sqrt", np.asarray(correction)) if eps_hat else eps)
    param[...] = param - lr * mhat / denominator - (lr * decay * param if decoupled else 0)
