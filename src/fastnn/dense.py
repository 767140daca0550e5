"""The dense (fully connected, linear) layer."""

from __future__ import annotations

import numpy as np

from fastnn import _check
from fastnn._kernels import by_dtype, dense, gemm, memory
from fastnn.threads import threads_for

_forward = by_dtype(dense.forward)
_backward = by_dtype(dense.backward)
_bias_forward = by_dtype(dense.bias_forward)
_bias_backward = by_dtype(dense.bias_backward)

# Up to this many multiplications the own product is used, above it NumPy's BLAS. With vectors that is always: the own product
# is level with OpenBLAS (0.9 to 1.9 times as fast, `python -m bench --suite gemm`), has the number of threads that fastnn was
# given, and gives the same bits for any. Without vectors (compilers that have none to offer) it is for tiny operands only.
OWN_PRODUCT_UP_TO = 2**62 if gemm.vector_lanes() > 1 else 2**12
# A single row times a matrix is bound by reading the matrix: above this many entries BLAS reads it faster.
OWN_VECTOR_PRODUCT_UP_TO = 2**16
# Multiplications from which on several threads are worth it: sleeping workers take up to a tenth of a millisecond to wake.
SHARED_WORK = 32_000_000


def dense_forward(
    x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None = None, *, out: np.ndarray | None = None,
) -> np.ndarray:
    """``out = x @ weight + bias``: Goodfellow et al. (2016), section 6.5.6, with a bias for each column.

    Parameters
    ----------
    x : ndarray (N, I) of float32 or float64, N >= 0
    weight : ndarray (I, O), dtype of `x`
    bias : ndarray (O,), dtype of `x`, optional
    out : ndarray (N, O), dtype of `x`, optional
        Overwritten, whatever it holds; must not overlap an input.

    Returns
    -------
    out : ndarray (N, O)

    Raises
    ------
    TypeError, ValueError
        Naming the argument, before anything is written.
    """
    plain = memory.ordinary(1, b"2?2 2 1?", out, x, weight, bias)
    if not plain:
        _check.not_under_a_copy({"out": out}, {"x": x, "weight": weight, "bias": bias})
        x = _check.matrix(x, "x")
        weight = _check.matrix(weight, "weight")
    n_rows, n_in = x.shape
    n_out = weight.shape[1]
    dtype = x.dtype
    if weight.shape[0] != n_in or weight.dtype is not dtype or not n_in * n_out:
        _check.inner_size(x, weight)
    if bias is not None and not (plain and bias.shape == (n_out,)):
        bias = _check.array_like(bias, "bias", (n_out,), dtype, "weight")
    if out is None:
        out = np.empty((n_rows, n_out), dtype)
    elif not (plain and out.shape == (n_rows, n_out)):
        out = _check.output(out, "out", (n_rows, n_out), dtype)
        if not memory.apart(1, out, x, weight, bias):
            _check.written({"out": out}, {"x": x, "weight": weight, "bias": bias})
    if n_rows == 0:
        return out
    if n_rows * n_in * n_out <= (OWN_PRODUCT_UP_TO if n_rows > 1 else OWN_VECTOR_PRODUCT_UP_TO):
        _forward[dtype](x, weight, bias, out, threads_for(n_rows * n_in * n_out, SHARED_WORK))
    else:
        with np.errstate(all="ignore"):
            np.matmul(x, weight, out=out)
        if bias is not None:
            _bias_forward[dtype](bias, out)
    return out


def dense_backward(
    dout: np.ndarray, x: np.ndarray, weight: np.ndarray, *, need_dx: bool = True,
    dx: np.ndarray | None = None, dweight: np.ndarray | None = None, dbias: np.ndarray | None = None,
) -> tuple[np.ndarray | None, np.ndarray, np.ndarray]:
    """The gradients of `dense_forward`::

        dx = dout @ weight.T        dweight = x.T @ dout        dbias = sum of the rows of dout

    Goodfellow et al. (2016), section 6.5.6. The sum of `dbias` is float64 for either dtype.

    Parameters
    ----------
    dout : ndarray (N, O) of float32 or float64, N >= 0
        The gradient of the loss with respect to the output. With no rows, `dweight` and `dbias` are zero.
    x : ndarray (N, I), dtype of `dout`
        The input of the forward pass.
    weight : ndarray (I, O), dtype of `dout`
    need_dx : bool
        False leaves `dx` out: the first layer of a network has no use for it.
    dx : ndarray (N, I), optional
    dweight : ndarray (I, O), optional
    dbias : ndarray (O,), optional
        Overwritten, whatever they hold; must not overlap an input or each other.

    Returns
    -------
    dx : ndarray (N, I), or None without `need_dx`
    dweight : ndarray (I, O)
    dbias : ndarray (O,)

    Raises
    ------
    TypeError, ValueError
        Naming the argument, before anything is written.
    """
    plain = memory.ordinary(3, b"2?2?1?2 2 2 ", dx, dweight, dbias, dout, x, weight)
    if not plain:
        _check.not_under_a_copy({"dx": dx, "dweight": dweight, "dbias": dbias}, {"dout": dout, "x": x, "weight": weight})
        x = _check.matrix(x, "x")
        weight = _check.matrix(weight, "weight")
    n_rows, n_in = x.shape
    n_out = weight.shape[1]
    dtype = x.dtype
    if weight.shape[0] != n_in or weight.dtype is not dtype or not n_in * n_out:
        _check.inner_size(x, weight)
    if not (plain and dout.shape == (n_rows, n_out)):
        dout = _check.array_like(dout, "dout", (n_rows, n_out), dtype, "x and weight")
    need_dx = _check.flag(need_dx, "need_dx")
    if dx is not None:
        _check.only_with("dx", need_dx, "need_dx")
        dx = _check.output(dx, "dx", x.shape, dtype)
    if dweight is not None:
        dweight = _check.output(dweight, "dweight", weight.shape, dtype)
    if dbias is not None:
        dbias = _check.output(dbias, "dbias", (n_out,), dtype)
    if not (plain or memory.apart(3, dx, dweight, dbias, dout, x, weight)):
        _check.written({"dx": dx, "dweight": dweight, "dbias": dbias}, {"dout": dout, "x": x, "weight": weight})
    if dx is None and need_dx:
        dx = np.empty(x.shape, dtype)
    if dweight is None:
        dweight = np.empty(weight.shape, dtype)
    if dbias is None:
        dbias = np.empty(n_out, dtype)
    if n_rows == 0:
        dweight.fill(0)
        dbias.fill(0)
    elif n_rows * n_in * n_out <= (OWN_PRODUCT_UP_TO if n_rows > 1 else OWN_VECTOR_PRODUCT_UP_TO):
        _backward[dtype](dout, x, weight, dx, dweight, dbias, threads_for(n_rows * n_in * n_out, SHARED_WORK))
    else:
        with np.errstate(all="ignore"):
            if dx is not None:
                np.matmul(dout, weight.T, out=dx)
            np.matmul(x.T, dout, out=dweight)
        _bias_backward[dtype](dout, dbias)
    return dx, dweight, dbias

