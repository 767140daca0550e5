"""Batch normalisation: training statistics, gradients and inference."""

from __future__ import annotations

import numpy as np

from fastnn import _check
from fastnn._kernels import batchnorm, by_dtype, memory
from fastnn.threads import threads_for

_forward = by_dtype(batchnorm.forward)
_backward = by_dtype(batchnorm.backward)
_inference = by_dtype(batchnorm.inference)

# Numbers from which on several threads are worth it: sleeping workers take up to a tenth of a millisecond to wake.
SHARED_SIZE = 4_000_000


def batchnorm_forward(
    x: np.ndarray, gamma: np.ndarray, beta: np.ndarray,
    running_mean: np.ndarray | None = None, running_var: np.ndarray | None = None, *,
    momentum: float = 0.1, eps: float = 1e-5, out: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Normalise each column of `x` by its own mean and variance over the rows, then scale and shift it::

        mean = sum(x) / N                    var = sum((x - mean)^2) / N
        rstd = 1 / sqrt(var + eps)           out = (x - mean) * rstd * gamma + beta

    Goodfellow et al. (8.35)-(8.37); Ioffe & Szegedy (2015), algorithm 1. The variance that normalises is the biased one.
    Sums are float64 for either dtype and the mean is subtracted to twice the precision of the data, so a column far from
    zero loses no digits, and a constant column gives exactly `beta`.

    Parameters
    ----------
    x : ndarray (N, D) of float32 or float64, N >= 2
    gamma, beta : ndarray (D,), dtype of `x`
    running_mean, running_var : ndarray (D,), dtype of `x`, optional
        Both or neither; updated in place:
        ``running = (1 - momentum) * running + momentum * batch``, with the unbiased variance, N / (N - 1) times `var`.
    momentum : float
        The weight of the **new** value in the running statistics, in [0, 1].
    eps : float
        > 0, inside the root.
    out : ndarray (N, D), dtype of `x`, optional
        Overwritten; may be `x` itself.

    Returns
    -------
    out : ndarray (N, D)
    mean, rstd : ndarray (D,) of float64, whatever the dtype of `x`
        What `batchnorm_backward` needs.

    Raises
    ------
    TypeError, ValueError
        Naming the argument, before anything is written; ``N < 2`` is a `ValueError`, since one row has no variance, and so is
        a column of finite numbers whose variance (or new running variance) is not.
    """
    plain = memory.ordinary(3, b"1?1?2?2 1 1 ", running_mean, running_var, out, x, gamma, beta)
    if not plain:
        _check.not_under_a_copy(
            {"running_mean": running_mean, "running_var": running_var, "out": out}, {"x": x, "gamma": gamma, "beta": beta})
        x = _check.matrix(x, "x")
    n, d = x.shape
    dtype = x.dtype
    if n < 2 or not d:
        _check.at_least_two_rows(x, "x")
    if not (plain and gamma.shape == beta.shape == (d,)):
        gamma = _check.array_like(gamma, "gamma", (d,), dtype, "x")
        beta = _check.array_like(beta, "beta", (d,), dtype, "x")
    momentum = _check.fraction(momentum, "momentum")
    eps = _check.batchnorm_eps(eps, dtype)
    if running_mean is None or running_var is None:
        _check.both_or_neither(running_mean, "running_mean", running_var, "running_var")
    elif not (plain and running_mean.shape == running_var.shape == (d,)):
        running_mean = _check.output(running_mean, "running_mean", (d,), dtype)
        running_var = _check.output(running_var, "running_var", (d,), dtype)
    given = out
    if given is not None and not (plain and given.shape == (n, d)):
        given = _check.output(given, "out", (n, d), dtype)
    if not (plain or memory.apart(3, running_mean, running_var, given, x, gamma, beta)):
        running = {"running_mean": running_mean, "running_var": running_var}
        _check.written(running, {"x": x})
        _check.written(running | {"out": given}, {"gamma": gamma, "beta": beta}, {"x": x})
    out = np.empty((n, d), dtype) if given is None else given
    mean = np.empty(d, _check.FLOAT64)
    rstd = np.empty(d, _check.FLOAT64)
    column = _forward[dtype](x, gamma, beta, eps, momentum, running_mean, running_var, out, mean, rstd,
                             threads_for(x.size, SHARED_SIZE))
    if column >= 0:
        raise _check.variance_overflow("x", column, dtype)
    return out, mean, rstd


def batchnorm_backward(
    dout: np.ndarray, x: np.ndarray, gamma: np.ndarray, mean: np.ndarray, rstd: np.ndarray, *,
    dx: np.ndarray | None = None, dgamma: np.ndarray | None = None, dbeta: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The gradients of `batchnorm_forward`, through the batch statistics too::

        xhat = (x - mean) * rstd
        dgamma = sum(dout * xhat)            dbeta = sum(dout)
        dx = gamma * rstd * (dout - dbeta / N - xhat * dgamma / N)

    Ioffe & Szegedy (2015), section 3, with the sums collected.

    Parameters
    ----------
    dout : ndarray (N, D) of float32 or float64
        The gradient of the loss with respect to the output.
    x : ndarray (N, D), dtype of `dout`
        The input of the forward pass.
    gamma : ndarray (D,), dtype of `dout`
    mean, rstd : ndarray (D,) of float64
        As `batchnorm_forward` returned them.
    dx : ndarray (N, D), optional
        Overwritten; may be `dout` or `x` itself.
    dgamma, dbeta : ndarray (D,), optional
        Overwritten.

    Returns
    -------
    dx : ndarray (N, D)
    dgamma, dbeta : ndarray (D,)

    Raises
    ------
    TypeError, ValueError
        Naming the argument, before anything is written.
    """
    plain = memory.ordinary(3, b"2?1?1?2 2 1 ", dx, dgamma, dbeta, dout, x, gamma)
    plain_statistics = memory.ordinary(0, b"1 1 ", mean, rstd)
    if not (plain and plain_statistics):
        _check.not_under_a_copy(
            {"dx": dx, "dgamma": dgamma, "dbeta": dbeta}, {"dout": dout, "x": x, "gamma": gamma, "mean": mean, "rstd": rstd})
    if not plain:
        x = _check.matrix(x, "x")
    n, d = x.shape
    dtype = x.dtype
    if n < 2 or not d:
        _check.at_least_two_rows(x, "x")
    if not (plain and dout.shape == (n, d) and gamma.shape == (d,)):
        dout = _check.array_like(dout, "dout", (n, d), dtype, "x")
        gamma = _check.array_like(gamma, "gamma", (d,), dtype, "x")
    if not (plain_statistics and mean.dtype is _check.FLOAT64 and mean.shape == rstd.shape == (d,)):
        mean = _check.statistics(mean, "mean", d)
        rstd = _check.statistics(rstd, "rstd", d)
    if dx is not None:
        dx = _check.output(dx, "dx", (n, d), dtype)
    if dgamma is not None:
        dgamma = _check.output(dgamma, "dgamma", (d,), dtype)
    if dbeta is not None:
        dbeta = _check.output(dbeta, "dbeta", (d,), dtype)
    if not memory.apart(3, dx, dgamma, dbeta, gamma, mean, rstd, dout, x):
        _check.written({"dgamma": dgamma, "dbeta": dbeta}, {"dout": dout, "x": x})
        _check.written(
            {"dx": dx, "dgamma": dgamma, "dbeta": dbeta}, {"gamma": gamma, "mean": mean, "rstd": rstd}, {"dout": dout, "x": x})
    if dx is None:
        dx = np.empty((n, d), dtype)
    if dgamma is None:
        dgamma = np.empty(d, dtype)
    if dbeta is None:
        dbeta = np.empty(d, dtype)
    _backward[dtype](dout, x, gamma, mean, rstd, dx, dgamma, dbeta, threads_for(x.size, SHARED_SIZE))
    return dx, dgamma, dbeta


def batchnorm_inference(
    x: np.ndarray, gamma: np.ndarray, beta: np.ndarray, running_mean: np.ndarray, running_var: np.ndarray, *,
    eps: float = 1e-5, out: np.ndarray | None = None,
) -> np.ndarray:
    """Normalise by the running statistics: ``out = (x - running_mean) / sqrt(running_var + eps) * gamma + beta``.

    Ioffe & Szegedy (2015), algorithm 2, line 11, but never folded into ``a * x + b`` as there, which would lose the digits of
    a large running mean.

    Parameters
    ----------
    x : ndarray (N, D) of float32 or float64, N >= 0
    gamma, beta, running_mean, running_var : ndarray (D,), dtype of `x`
        `running_var` >= 0.
    eps : float
        > 0, inside the root.
    out : ndarray (N, D), dtype of `x`, optional
        Overwritten; may be `x` itself.

    Returns
    -------
    out : ndarray (N, D)

    Raises
    ------
    TypeError, ValueError
        Naming the argument, before anything is written.
    """
    plain = memory.ordinary(1, b"2?2 1 1 1 1 ", out, x, gamma, beta, running_mean, running_var)
    if not plain:
        _check.not_under_a_copy(
            {"out": out}, {"x": x, "gamma": gamma, "beta": beta, "running_mean": running_mean, "running_var": running_var})
        x = _check.matrix(x, "x")
    n, d = x.shape
    dtype = x.dtype
    _check.at_least_one_column(x, "x")
    if not (plain and gamma.shape == beta.shape == running_mean.shape == running_var.shape == (d,)):
        gamma = _check.array_like(gamma, "gamma", (d,), dtype, "x")
        beta = _check.array_like(beta, "beta", (d,), dtype, "x")
        running_mean = _check.array_like(running_mean, "running_mean", (d,), dtype, "x")
        running_var = _check.array_like(running_var, "running_var", (d,), dtype, "x")
    _check.non_negative_entries(running_var, "running_var")
    eps = _check.batchnorm_eps(eps, dtype)
    if out is None:
        out = np.empty((n, d), dtype)
    elif not (plain and out.shape == (n, d)):
        out = _check.output(out, "out", (n, d), dtype)
        if not memory.apart(1, out, gamma, beta, running_mean, running_var, x):
            constants = {"gamma": gamma, "beta": beta, "running_mean": running_mean, "running_var": running_var}
            _check.written({"out": out}, constants, {"x": x})
    if n:
        _inference[dtype](x, gamma, beta, running_mean, running_var, eps, out, threads_for(x.size, SHARED_SIZE))
    return out
