"""The activation functions, element by element."""

from __future__ import annotations

import numpy as np

from fastnn import _check
from fastnn._kernels import activation, by_dtype, memory
from fastnn.threads import threads_for

_forward = by_dtype(activation.forward)
_backward = by_dtype(activation.backward)

# Numbers from which on several threads are worth it: sleeping workers take up to a tenth of a millisecond to wake.
SHARED_SIZE = 1_000_000

#: The names that `kind` takes.
KINDS: tuple[str, ...] = tuple(activation.KINDS)


def activation_forward(x: np.ndarray, kind: str, *, out: np.ndarray | None = None) -> np.ndarray:
    """``y = f(x)``, with f by `kind`:

    ============  ================================  ==========================
    kind          f(x)                              f'(x) in terms of y = f(x)
    ============  ================================  ==========================
    identity      x                                 1
    relu          max(x, 0)                         1 if y > 0 else 0
    leaky_relu    x if x > 0 else 0.01 x            1 if y > 0 else 0.01
    tanh          tanh(x)                           (1 - y) (1 + y)
    sigmoid       1 / (1 + exp(-x))                 y (1 - y)
    softsign      x / (1 + abs(x))                  (1 - abs(y))^2
    softplus      log(1 + exp(x))                   1 - exp(-y)
    elu           x if x > 0 else exp(x) - 1        1 if y > 0 else y + 1
    ============  ================================  ==========================

    Goodfellow et al. (2016), sections 3.10 and 6.3; leaky_relu with the slope of Maas et al. (2013), softsign by Bergstra et
    al. (2009), elu by Clevert et al. (2016) with alpha 1. No argument overflows on the way, NaN stays NaN, and the results are
    within a few units in the last place.

    Parameters
    ----------
    x : ndarray of float32 or float64, any shape
    kind : {"identity", "relu", "leaky_relu", "tanh", "sigmoid", "softsign", "softplus", "elu"}
    out : ndarray, shape and dtype of `x`, optional
        Overwritten; may be `x` itself.

    Returns
    -------
    y : ndarray, shape and dtype of `x`

    Raises
    ------
    TypeError, ValueError
        Naming the argument, before anything is written.
    """
    plain = memory.ordinary(1, b"*?* ", out, x)
    if not plain:
        _check.not_under_a_copy({"out": out}, {"x": x})
        x = _check.array(x, "x")
    number = activation.KINDS[_check.choice(kind, "kind", KINDS)]
    if out is None:
        out = np.empty(x.shape, x.dtype)
    elif not (plain and out.shape == x.shape):
        out = _check.output(out, "out", x.shape, x.dtype)
        if not memory.apart(1, out, x):
            _check.written({"out": out}, {}, {"x": x})
    if x.size:
        _forward[x.dtype](_check.flat(x), number, _check.flat(out), threads_for(x.size, SHARED_SIZE))
    return out


def activation_backward(dy: np.ndarray, y: np.ndarray, kind: str, *, dx: np.ndarray | None = None) -> np.ndarray:
    """``dx = dy * f'(x)``, in terms of the output `y` of `activation_forward`, whose table has the formulas and whose text the
    sources (Goodfellow et al. and others).

    Parameters
    ----------
    dy : ndarray of float32 or float64, any shape
        The gradient of the loss with respect to `y`.
    y : ndarray, shape and dtype of `dy`
    kind : str
        As for `activation_forward`.
    dx : ndarray, shape and dtype of `dy`, optional
        Overwritten; may be `dy` or `y` itself.

    Returns
    -------
    dx : ndarray, shape and dtype of `dy`

    Raises
    ------
    TypeError, ValueError
        Naming the argument, before anything is written.
    """
    plain = memory.ordinary(1, b"*?* * ", dx, dy, y)
    if not plain:
        _check.not_under_a_copy({"dx": dx}, {"dy": dy, "y": y})
        dy = _check.array(dy, "dy")
    if not (plain and y.shape == dy.shape):
        y = _check.array_like(y, "y", dy.shape, dy.dtype, "dy")
    number = activation.KINDS[_check.choice(kind, "kind", KINDS)]
    if dx is None:
        dx = np.empty(dy.shape, dy.dtype)
    elif not (plain and dx.shape == dy.shape):
        dx = _check.output(dx, "dx", dy.shape, dy.dtype)
        if not memory.apart(1, dx, dy, y):
            _check.written({"dx": dx}, {}, {"dy": dy, "y": y})
    if dy.size:
        _backward[dy.dtype](_check.flat(dy), _check.flat(y), number, _check.flat(dx), threads_for(dy.size, SHARED_SIZE))
    return dx
