"""The update of Adam, with coupled or decoupled weight decay."""

from __future__ import annotations

import numpy as np

from fastnn import _check
from fastnn._kernels import adam, by_dtype, memory
from fastnn.threads import threads_for

_update = by_dtype(adam.update)

# Numbers from which on several threads are worth it: sleeping workers take up to a tenth of a millisecond to wake.
SHARED_SIZE = 1_000_000


def adam_update(
    param: np.ndarray, grad: np.ndarray, m: np.ndarray, v: np.ndarray, *,
    lr: float, step: int, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8, eps_hat: bool = False,
    weight_decay: float = 0.0, decoupled: bool = False,
) -> None:
    """One step of Adam, in place, in a single pass over the arrays::

        g = grad + weight_decay * param                    (grad alone if decoupled)
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g^2
        c = sqrt(1 - beta2^step)
        param -= lr * c / (1 - beta1^step) * m / (sqrt(v) + eps * c)
                 + lr * weight_decay * param               (if decoupled)

    This is algorithm 1 of Kingma & Ba (2015, "Adam: a method for stochastic optimization"): with mhat and vhat, the moments
    without the bias towards where they start, ``param -= lr * mhat / (sqrt(vhat) + eps)``, as in PyTorch. The corrections are
    folded into the rate, as the remark at the end of their section 2 has it, and into eps.

    ``eps_hat=True`` is that remark to the letter: eps is added to the square root that is not corrected,
    ``m / (sqrt(v) + eps)``. So do scikit-learn, Keras and TensorFlow. It damps as an eps of ``eps / c`` would, thirty times as
    large at step 1 and the same after some thousand; where gradients are far above that, the two agree.

    Decoupled decay is that of AdamW, algorithm 2 of Loshchilov & Hutter (2019, "Decoupled weight decay regularization"), in
    PyTorch's units: their factor of decay is ``lr * weight_decay``.

    Parameters
    ----------
    param : ndarray of float32 or float64, any shape
        Updated in place; C-contiguous, aligned, native-endian and writeable.
    grad : ndarray, shape and dtype of `param`
        The gradient of the loss; read only.
    m, v : ndarray, shape and dtype of `param`
        First and second moment, updated in place. Zeros before the first step, and then what the step before has left.
    lr : float
        Learning rate, >= 0. With 0 only the moments change.
    step : int
        Which step this is, from 1.
    beta1, beta2 : float
        In [0, 1): how much of the old moments stays. They are rounded to the dtype of `param`, where they must be below 1,
        before anything is computed from them, the corrections too.
    eps : float
        > 0, also as ``eps * sqrt(1 - beta2)`` in the dtype of `param`.
    eps_hat : bool
        Whether eps is added before the root is corrected.
    weight_decay : float
        >= 0, the factor of the parameter that is added to its gradient, or taken away beside it if `decoupled`.
    decoupled : bool
        Whether the decay goes beside the moments and not through them.

    Raises
    ------
    TypeError
        An array of another dtype than float32 and float64, or dtypes that differ; a number that is none.
    ValueError
        A shape that differs, an array that cannot be written in place, arrays that overlap, a number out of its range.
    """
    if not (memory.ordinary(3, b"* * * * ", param, m, v, grad) and param.shape == grad.shape == m.shape == v.shape):
        _check.not_under_a_copy({"param": param, "m": m, "v": v}, {"grad": grad})
        param = _check.in_place(param, "param")
        grad = _check.array_like(grad, "grad", param.shape, param.dtype, "param")
        m = _check.output(m, "m", param.shape, param.dtype)
        v = _check.output(v, "v", param.shape, param.dtype)
        if not memory.apart(3, param, m, v, grad):
            _check.written({"param": param, "m": m, "v": v}, {"grad": grad})
    lr = _check.coefficient(lr, "lr", param.dtype)
    step = _check.at_most(_check.integer(step, "step", least=1), "step", _check.MOST_STEPS, "2^53")
    beta1 = _check.beta(beta1, "beta1", param.dtype)
    beta2 = _check.beta(beta2, "beta2", param.dtype)
    eps = _check.adam_eps(eps, beta2, param.dtype)
    eps_hat = _check.flag(eps_hat, "eps_hat")
    weight_decay = _check.coefficient(weight_decay, "weight_decay", param.dtype)
    decoupled = _check.flag(decoupled, "decoupled")
    if param.size:
        _update[param.dtype](
            _check.flat(grad), lr, step, beta1, beta2, eps, eps_hat, weight_decay, decoupled, _check.flat(m), _check.flat(v),
            _check.flat(param), threads_for(param.size, SHARED_SIZE))
