"""The update of stochastic gradient descent, with momentum, Nesterov's momentum and weight decay."""

from __future__ import annotations

import numpy as np

from fastnn import _check
from fastnn._kernels import by_dtype, memory, sgd
from fastnn.threads import threads_for

_update = by_dtype(sgd.update)

# Numbers from which on several threads are worth it: sleeping workers take up to a tenth of a millisecond to wake.
SHARED_SIZE = 2_000_000


def sgd_update(
    param: np.ndarray, grad: np.ndarray, velocity: np.ndarray | None = None, *,
    lr: float, momentum: float = 0.0, nesterov: bool = False, weight_decay: float = 0.0,
) -> None:
    """One step of gradient descent, in place, in a single pass over the arrays::

        g = grad + weight_decay * param
        v = momentum * v + g
        param -= lr * (g + momentum * v   if nesterov else   v)

    This is the form of PyTorch and of Sutskever et al. (2013, "On the importance of initialization and momentum in deep
    learning", equations 1-4, with the learning rate outside the velocity); Goodfellow et al. (8.15)-(8.16) keep the rate
    inside, which is the same while it is constant. Weight decay is coupled: it goes through the velocity.

    Parameters
    ----------
    param : ndarray of float32 or float64, any shape
        Updated in place; C-contiguous, aligned, native-endian and writeable.
    grad : ndarray, shape and dtype of `param`
        The gradient of the loss; read only.
    velocity : ndarray, shape and dtype of `param`, optional
        Updated in place. Zeros before the first step. Needed for ``momentum > 0``.
    lr : float
        Learning rate, >= 0. With 0 only the velocity changes.
    momentum : float
        In [0, 1).
    nesterov : bool
        Nesterov's momentum; needs ``momentum > 0``.
    weight_decay : float
        >= 0, the factor of the parameter that is added to its gradient.

    Raises
    ------
    TypeError
        An array of another dtype than float32 and float64, or dtypes that differ; a rate that is no number.
    ValueError
        A shape that differs, an array that cannot be written in place, arrays that overlap, a number out of its range.
    """
    if not (memory.ordinary(2, b"* *?* ", param, velocity, grad) and grad.shape == param.shape
            and (velocity is None or velocity.shape == param.shape)):
        _check.not_under_a_copy({"param": param, "velocity": velocity}, {"grad": grad})
        param = _check.in_place(param, "param")
        grad = _check.array_like(grad, "grad", param.shape, param.dtype, "param")
        if velocity is not None:
            velocity = _check.output(velocity, "velocity", param.shape, param.dtype)
        if not memory.apart(2, param, velocity, grad):
            _check.written({"param": param, "velocity": velocity}, {"grad": grad})
    lr = _check.coefficient(lr, "lr", param.dtype)
    momentum = _check.proper_fraction(momentum, "momentum")
    weight_decay = _check.coefficient(weight_decay, "weight_decay", param.dtype)
    nesterov = _check.nesterov(nesterov, momentum)
    if momentum != 0.0 and velocity is None:
        raise _check.no_velocity()
    if param.size:
        _update[param.dtype](_check.flat(grad), lr, momentum, nesterov, weight_decay,
                             None if velocity is None else _check.flat(velocity), _check.flat(param),
                             threads_for(param.size, SHARED_SIZE))
