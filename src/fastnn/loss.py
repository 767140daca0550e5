"""The losses, each with its gradient."""

from __future__ import annotations

import numpy as np

from fastnn import _check
from fastnn._kernels import by_dtype, loss, memory

_softmax = by_dtype(loss.softmax)
_sigmoid = by_dtype(loss.sigmoid)
_squared_error = by_dtype(loss.squared_error)


def softmax_cross_entropy(
    logits: np.ndarray, labels: np.ndarray, *, dlogits: np.ndarray | None = None,
) -> tuple[float, np.ndarray]:
    """The mean over the rows of ``-log softmax(logits)[label]``, and its gradient ``(softmax(logits) - onehot) / N``.

    Goodfellow et al. (6.29)-(6.31). Computed in float64 from the differences to the largest logit of a row, so that no
    logit overflows, and ``p - 1`` as minus the sum of the other probabilities, which keeps its digits as p goes to 1. A row
    with a NaN or +inf among its logits makes the loss NaN; -inf at the label makes it +inf.

    Parameters
    ----------
    logits : ndarray (N, K) of float32 or float64, N >= 1
    labels : ndarray (N,) of any integer dtype, in [0, K)
    dlogits : ndarray (N, K), dtype of `logits`, optional
        Overwritten; may be `logits` itself.

    Returns
    -------
    loss : float
    dlogits : ndarray (N, K)

    Raises
    ------
    TypeError, ValueError
        Naming the argument, for labels also the first bad index and value, before anything is written.
    """
    if dlogits is not None and not (
            memory.ordinary(1, b"2 2 ", dlogits, logits) and type(labels) is np.ndarray and labels.dtype is _check.INTP
            and labels.flags.c_contiguous):
        _check.not_under_a_copy({"dlogits": dlogits}, {"logits": logits, "labels": labels})
    logits = _check.matrix(logits, "logits")
    _check.at_least_one_row(logits, "logits")
    labels = _check.labels(labels, "labels", *logits.shape)
    dlogits = _gradient(dlogits, "dlogits", logits, "logits", labels, "labels")
    return _softmax[logits.dtype](logits, labels, dlogits), dlogits


def sigmoid_cross_entropy(
    logits: np.ndarray, targets: np.ndarray, *, dlogits: np.ndarray | None = None,
) -> tuple[float, np.ndarray]:
    """The mean over all N*K entries of ``-t log s - (1 - t) log(1 - s)``, s = sigmoid(logit), and its gradient.

    Goodfellow et al. (2016), (6.24)-(6.26). The loss is ``max(z, 0) - z t + log(1 + exp(-abs(z)))``, the gradient
    ``(s - t) / (N K)`` without cancellation; both in float64.

    Parameters
    ----------
    logits : ndarray (N, K) of float32 or float64, N >= 1
    targets : ndarray (N, K), dtype of `logits`, in [0, 1]
    dlogits : ndarray (N, K), dtype of `logits`, optional
        Overwritten; may be `logits` itself.

    Returns
    -------
    loss : float
    dlogits : ndarray (N, K)

    Raises
    ------
    TypeError, ValueError
        Naming the argument, before anything is written.
    """
    if dlogits is not None and not memory.ordinary(1, b"2 2 2 ", dlogits, logits, targets):
        _check.not_under_a_copy({"dlogits": dlogits}, {"logits": logits, "targets": targets})
    logits = _check.matrix(logits, "logits")
    _check.at_least_one_row(logits, "logits")
    targets = _check.array_like(targets, "targets", logits.shape, logits.dtype, "logits")
    _check.probabilities(targets, "targets")
    dlogits = _gradient(dlogits, "dlogits", logits, "logits", targets, "targets")
    return _sigmoid[logits.dtype](logits, targets, dlogits), dlogits


def mean_squared_error(
    pred: np.ndarray, target: np.ndarray, *, dpred: np.ndarray | None = None,
) -> tuple[float, np.ndarray]:
    """The mean over all N*K entries of ``(pred - target)^2``, and its gradient ``2 (pred - target) / (N K)``.

    Goodfellow et al. (2016), (5.4), also averaged over the outputs; computed in float64.

    Parameters
    ----------
    pred : ndarray (N, K) of float32 or float64, N >= 1
    target : ndarray (N, K), dtype of `pred`
    dpred : ndarray (N, K), dtype of `pred`, optional
        Overwritten; may be `pred` itself.

    Returns
    -------
    loss : float
    dpred : ndarray (N, K)

    Raises
    ------
    TypeError, ValueError
        Naming the argument, before anything is written.
    """
    if dpred is not None and not memory.ordinary(1, b"2 2 2 ", dpred, pred, target):
        _check.not_under_a_copy({"dpred": dpred}, {"pred": pred, "target": target})
    pred = _check.matrix(pred, "pred")
    _check.at_least_one_row(pred, "pred")
    target = _check.array_like(target, "target", pred.shape, pred.dtype, "pred")
    dpred = _gradient(dpred, "dpred", pred, "pred", target, "target")
    return _squared_error[pred.dtype](pred, target, dpred), dpred


def _gradient(
    out: np.ndarray | None, out_name: str, x: np.ndarray, name: str, other: np.ndarray, other_name: str,
) -> np.ndarray:
    """Where the gradient with respect to `x` goes: `out` if given, which may be `x` itself but not overlap `other`."""
    if out is None:
        return np.empty(x.shape, x.dtype)
    out = _check.output(out, out_name, x.shape, x.dtype)
    if not memory.apart(1, out, x, other):
        _check.written({out_name: out}, {other_name: other}, {name: x})
    return out
