"""Initial weights of a dense layer.

Every initialiser takes the shape ``(fan_in, fan_out)`` of the weight first and the rest by keyword, and returns a new
C-contiguous, writeable array of that shape. Rows are inputs and columns are units, as in ``x @ weight``; PyTorch stores
the transpose. What holds for all of them:

- `rng` is ``None`` (fresh entropy), an int seed >= 0, or a ``numpy.random.Generator``, which is advanced by the call.
  NumPy's global state is never touched. A failed call draws nothing.
- `dtype` is float32 or float64, given as a type, a dtype or a name. Random numbers are drawn in float64, in row order,
  scaled in float64 and rounded once: the float32 and the float64 matrix of a seed are the same up to that rounding,
  and not what a draw in float32 gives. The bound of a uniform distribution is first rounded *down* to the dtype, so
  that ``abs(w) <= bound`` holds after rounding too.
- The same seed, shape and dtype give the same bits wherever NumPy's Generator gives the same stream. The exception is
  `orthogonal`, which asks LAPACK: there platforms agree up to rounding.
- ``TypeError`` for the wrong kind of argument, ``ValueError`` for a bad value; the message names the argument.

Which one to take: `xavier_uniform` for tanh, softsign and sigmoid, `he_normal` for relu and its kin; `gain` has a
factor for each activation. Biases start at zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from fastnn import _check

__all__ = [
    "constant", "fan_in_uniform", "gain", "glorot_normal", "glorot_uniform", "he_normal", "he_uniform", "lecun_normal",
    "lecun_uniform", "normal", "orthogonal", "sparse", "uniform", "xavier_normal", "xavier_uniform", "zeros",
]

Array = _check.Array
Rng = int | np.random.Generator | None


# ----------------------------------------------------------------------------------------------- scaled by the fans

def xavier_uniform(
    shape: tuple[int, int], *, gain: float = 1.0, rng: Rng = None, dtype: DTypeLike = np.float32,
) -> Array:
    """U(-a, a) with ``a = gain * sqrt(6 / (fan_in + fan_out))``.

    The "normalized initialization" of Glorot & Bengio (2010, "Understanding the difficulty of training deep feedforward
    neural networks", equation 16; Goodfellow et al. (8.23)): the variance ``2 / (fan_in + fan_out)`` is the compromise
    (their equation 12) between keeping the variance of the signal forward, ``1 / fan_in``, and of the gradient
    backward, ``1 / fan_out``. It assumes an activation that is linear around 0; for relu take `he_uniform`.

    Parameters
    ----------
    shape : (int, int)
        ``(fan_in, fan_out)``, both >= 1.
    gain : float
        Factor on the weights, >= 0; see `gain`. The paper has none, that is 1.
    rng : None, int or numpy.random.Generator
        Fresh entropy, a seed, or the generator to draw from.
    dtype : dtype
        float32 or float64.

    Returns
    -------
    ndarray of `dtype`, (fan_in, fan_out)
        Every entry is within [-a, a], also after rounding to the dtype.

    Raises
    ------
    TypeError
        A shape that is no tuple of ints, a gain that is no number (bool is none), another dtype or kind of `rng`.
    ValueError
        A shape that is not 2-D or has a fan < 1, a gain that is negative, not finite or too large for the dtype, a
        negative seed.
    """
    fan_in, fan_out = _check.weight_shape(shape)
    return _uniform(fan_in, fan_out, gain, "gain", math.sqrt(6 / (fan_in + fan_out)), rng, dtype)


def xavier_normal(
    shape: tuple[int, int], *, gain: float = 1.0, rng: Rng = None, dtype: DTypeLike = np.float32,
) -> Array:
    """N(0, std^2) with ``std = gain * sqrt(2 / (fan_in + fan_out))``: Glorot & Bengio (2010), equation 12.

    Not truncated. Arguments, result and errors are those of `xavier_uniform`, without the bound.
    """
    fan_in, fan_out = _check.weight_shape(shape)
    return _normal(fan_in, fan_out, gain, "gain", math.sqrt(2 / (fan_in + fan_out)), rng, dtype)


def he_uniform(
    shape: tuple[int, int], *, gain: float = 1.0, rng: Rng = None, dtype: DTypeLike = np.float32,
) -> Array:
    """U(-a, a) with ``a = gain * sqrt(6 / fan_in)``, whose variance is that of `he_normal`.

    He et al. (2015), equation 10. The sqrt(2) of relu is already in it: leave `gain` at 1 there. Arguments, result and
    errors are those of `xavier_uniform`.
    """
    fan_in, fan_out = _check.weight_shape(shape)
    return _uniform(fan_in, fan_out, gain, "gain", math.sqrt(6 / fan_in), rng, dtype)


def he_normal(
    shape: tuple[int, int], *, gain: float = 1.0, rng: Rng = None, dtype: DTypeLike = np.float32,
) -> Array:
    """N(0, std^2) with ``std = gain * sqrt(2 / fan_in)``, which keeps the size of the signal through relu layers.

    He et al. (2015, "Delving deep into rectifiers", equation 10). The sqrt(2) of relu is already in it: leave `gain` at
    1 there. Not truncated, unlike the one of Keras. Arguments, result and errors are those of `xavier_uniform`, without
    the bound.
    """
    fan_in, fan_out = _check.weight_shape(shape)
    return _normal(fan_in, fan_out, gain, "gain", math.sqrt(2 / fan_in), rng, dtype)


def lecun_uniform(
    shape: tuple[int, int], *, gain: float = 1.0, rng: Rng = None, dtype: DTypeLike = np.float32,
) -> Array:
    """U(-a, a) with ``a = gain * sqrt(3 / fan_in)``, whose variance is that of `lecun_normal`.

    LeCun et al. (1998), equation 16. Arguments, result and errors are those of `xavier_uniform`.
    """
    fan_in, fan_out = _check.weight_shape(shape)
    return _uniform(fan_in, fan_out, gain, "gain", math.sqrt(3 / fan_in), rng, dtype)


def lecun_normal(
    shape: tuple[int, int], *, gain: float = 1.0, rng: Rng = None, dtype: DTypeLike = np.float32,
) -> Array:
    """N(0, std^2) with ``std = gain * sqrt(1 / fan_in)``, which keeps the variance of the signal through linear layers.

    LeCun et al. (1998, "Efficient BackProp", section 4.6, equation 16). Not truncated, unlike the one of Keras and
    flax. Arguments, result and errors are those of `xavier_uniform`, without the bound.
    """
    fan_in, fan_out = _check.weight_shape(shape)
    return _normal(fan_in, fan_out, gain, "gain", math.sqrt(1 / fan_in), rng, dtype)


def fan_in_uniform(
    shape: tuple[int, int], *, gain: float = 1.0, rng: Rng = None, dtype: DTypeLike = np.float32,
) -> Array:
    """U(-a, a) with ``a = gain / sqrt(fan_in)``: the "standard" rule, equation 1 of Glorot & Bengio (2010).

    Its variance is ``1 / (3 fan_in)``, so at gain 1 the signal shrinks by sqrt(3) in every linear layer. It is what
    PyTorch gives the weight of a dense layer by default. Arguments, result and errors are those of `xavier_uniform`.
    """
    fan_in, fan_out = _check.weight_shape(shape)
    return _uniform(fan_in, fan_out, gain, "gain", 1 / math.sqrt(fan_in), rng, dtype)


glorot_uniform = xavier_uniform
glorot_normal = xavier_normal


# ------------------------------------------------------------------------------------------------------- structured

def orthogonal(
    shape: tuple[int, int], *, gain: float = 1.0, rng: Rng = None, dtype: DTypeLike = np.float32,
) -> Array:
    """A random matrix with orthonormal columns, times `gain`; orthonormal rows when there are more columns than rows.

    Saxe et al. (2013, "Exact solutions to the nonlinear dynamics of learning in deep linear neural networks"): all
    singular values are `gain`, so a product of many such square matrices neither grows nor shrinks anything at gain 1.
    The matrix is the Q of the QR decomposition of a normal matrix, each column multiplied by the sign of the diagonal
    entry of R; without that sign Q is not uniformly (Haar) distributed (Mezzadri 2007, "How to generate random matrices
    from the classical compact groups", section 5).

    Arguments and errors are those of `xavier_uniform`. The decomposition is done in float64 by LAPACK and rounded once;
    its last bits may differ between platforms.
    """
    fan_in, fan_out = _check.weight_shape(shape)
    gain = _check.non_negative(gain, "gain")
    out = np.empty((fan_in, fan_out), _check.float_dtype(dtype))
    _check.finite_in(out.dtype, gain, "gain", gain)
    tall = np.empty((max(fan_in, fan_out), min(fan_in, fan_out)))
    rng = _check.generator(rng)
    state = rng.bit_generator.state
    try:
        q, _ = orthonormal(rng.standard_normal(out=tall))
        q *= gain
    except BaseException:
        rng.bit_generator.state = state      # a failed call draws nothing
        raise
    out[...] = q if fan_in >= fan_out else q.T
    return out


def orthonormal(tall: Array) -> tuple[Array, Array]:
    """Q, with the signs that make the diagonal of R positive, and that diagonal; of a matrix with no more columns than rows."""
    q, r = np.linalg.qr(tall)
    diagonal = np.diagonal(r)
    q *= np.copysign(1.0, diagonal)
    return q, np.abs(diagonal)


def sparse(
    shape: tuple[int, int], *, nonzeros: int = 15, std: float = 1.0, rng: Rng = None, dtype: DTypeLike = np.float32,
) -> Array:
    """Exactly `nonzeros` inputs of every unit, chosen at random, have a weight from N(0, std^2); all others are 0.

    Martens (2010, "Deep learning via Hessian-free optimization", section 5), as Sutskever et al. (2013, section 3) put
    it: each unit is connected to 15 random units of the layer below, with weights from a unit Gaussian. The input of a
    unit then has the same size whatever the width of the layer, and units stay diverse.

    Parameters
    ----------
    shape : (int, int)
        ``(fan_in, fan_out)``, both >= 1.
    nonzeros : int
        The number of nonzero entries in every column, from 1 to fan_in. More than fan_in is an error, not fan_in: a
        narrow layer has to say what it wants. PyTorch's ``sparse_`` takes the fraction of zeros instead.
    std : float
        Standard deviation of the nonzero weights, > 0. PyTorch's default is 0.01, Martens' is 1.
    rng, dtype
        As for `xavier_uniform`.

    Returns
    -------
    ndarray of `dtype`, (fan_in, fan_out)

    Raises
    ------
    TypeError
        As `xavier_uniform`; `nonzeros` that is no integer.
    ValueError
        As `xavier_uniform`; `nonzeros` outside [1, fan_in]; `std` <= 0, not finite or too large for the dtype.
    """
    fan_in, fan_out = _check.weight_shape(shape)
    nonzeros = _check.integer(nonzeros, "nonzeros", least=1)
    _check.at_most(nonzeros, "nonzeros", fan_in, "fan_in")
    std = _check.positive(std, "std")
    out = np.zeros((fan_in, fan_out), _check.float_dtype(dtype))
    _check.finite_in(out.dtype, std * _NORMAL_MAX, "std", std)
    rows = np.empty((nonzeros, fan_out), np.intp)
    weights = np.empty((nonzeros, fan_out))
    rng = _check.generator(rng)
    columns = np.arange(fan_out)
    state = rng.bit_generator.state
    # Floyd's sampling without replacement (Bentley & Floyd 1987), in all columns at once: row j, open to choice for the
    # first time, takes the place of a row drawn before, and every subset is equally likely; `out` marks what is taken
    try:
        for k, j in enumerate(range(fan_in - nonzeros, fan_in)):
            row = rng.integers(0, j, size=fan_out, endpoint=True)
            rows[k] = np.where(out[row, columns] == 0, row, j)
            out[rows[k], columns] = 1
        rng.standard_normal(out=weights)
    except BaseException:
        rng.bit_generator.state = state
        raise
    weights *= std
    out[rows, columns] = weights
    return out


# -------------------------------------------------------------------------------------------- by an explicit number

def normal(shape: tuple[int, int], *, std: float, rng: Rng = None, dtype: DTypeLike = np.float32) -> Array:
    """N(0, std^2), whatever the fans.

    Parameters
    ----------
    shape : (int, int)
        ``(fan_in, fan_out)``, both >= 1.
    std : float
        Standard deviation of the weights, >= 0.
    rng, dtype
        As for `xavier_uniform`.

    Returns
    -------
    ndarray of `dtype`, (fan_in, fan_out)

    Raises
    ------
    TypeError, ValueError
        As `xavier_uniform`, with `std` for `gain`.
    """
    fan_in, fan_out = _check.weight_shape(shape)
    return _normal(fan_in, fan_out, std, "std", 1.0, rng, dtype)


def uniform(shape: tuple[int, int], *, bound: float, rng: Rng = None, dtype: DTypeLike = np.float32) -> Array:
    """U(-bound, bound), whatever the fans.

    Parameters
    ----------
    shape : (int, int)
        ``(fan_in, fan_out)``, both >= 1.
    bound : float
        The largest weight there may be, >= 0.
    rng, dtype
        As for `xavier_uniform`.

    Returns
    -------
    ndarray of `dtype`, (fan_in, fan_out)

    Raises
    ------
    TypeError, ValueError
        As `xavier_uniform`, with `bound` for `gain`.
    """
    fan_in, fan_out = _check.weight_shape(shape)
    return _uniform(fan_in, fan_out, bound, "bound", 1.0, rng, dtype)


def constant(shape: tuple[int, int], *, value: float, rng: Rng = None, dtype: DTypeLike = np.float32) -> Array:
    """Every weight is `value`.

    All units of the layer then stay equal however long it is trained: for demonstrations.

    Parameters
    ----------
    shape : (int, int)
        ``(fan_in, fan_out)``, both >= 1.
    value : float
        Finite in the dtype.
    rng
        Checked, but not used.
    dtype : dtype
        float32 or float64.

    Returns
    -------
    ndarray of `dtype`, (fan_in, fan_out)

    Raises
    ------
    TypeError, ValueError
        Naming the argument.
    """
    fan_in, fan_out = _check.weight_shape(shape)
    value = _check.number(value, "value")
    dtype = _check.float_dtype(dtype)
    _check.finite_in(dtype, abs(value), "value", value)
    _check.generator(rng)
    return np.full((fan_in, fan_out), value, dtype)


def zeros(shape: tuple[int, int], *, rng: Rng = None, dtype: DTypeLike = np.float32) -> Array:
    """Every weight is 0: for a last layer, say, or to show that hidden units need something else.

    But for `value`, arguments, result and errors are those of `constant`.
    """
    return constant(shape, value=0.0, rng=rng, dtype=dtype)


# ------------------------------------------------------------------------------------------------------------- gain

_GAINS = {
    "identity": 1.0,
    "relu": math.sqrt(2.0),
    "leaky_relu": math.sqrt(2.0 / (1 + 0.01**2)),
    "tanh": 5.0 / 3,
    "sigmoid": 1.0,
    "softsign": 2.3375333631085398,
    "softplus": 1.0418668355353018,
    "elu": 1.2451983007007066,
}


def gain(activation: str) -> float:
    """The factor on the weights that goes with an activation, for the ``gain`` of ``lecun_*``, ``xavier_*`` and `orthogonal`.

    ===========  ==========================  ==========================================================================
    activation   gain                        source
    ===========  ==========================  ==========================================================================
    identity     1                           PyTorch; (*) is the same
    relu         sqrt(2)                     PyTorch; (*) is the same: He et al. (2015), equation 10
    leaky_relu   sqrt(2 / (1 + 0.01^2))      PyTorch; (*) is the same: He et al. (2015), equation 15
    tanh         5/3                         PyTorch; a little above (*), 1.593, so that deep tanh layers do not fade
    sigmoid      1                           PyTorch; (*) would be 1.846
    softsign     2.3375333631085398          (*)
    softplus     1.0418668355353018          (*)
    elu          1.2451983007007066          (*), alpha = 1
    ===========  ==========================  ==========================================================================

    (*) is ``1 / sqrt(E[f(z)^2])`` for z from N(0, 1), the rule by which He et al. (2015, equation 7 and what follows)
    arrive at sqrt(2): the next pre-activation, a sum over weights of mean 0 and variance ``gain^2 / fan_in``, has
    variance ``gain^2 E[f(z)^2]``, which is 1 again. For elu that is ``1/sqrt(1 + e^2 Phi(-2) - 2 sqrt(e) Phi(-1))``,
    Phi being the normal distribution function; for softsign and softplus the integral was evaluated to 30 digits.
    PyTorch has no figure for these three. Do not combine gains with ``he_*``, which have relu's already.

    Parameters
    ----------
    activation : str
        A kind of `fastnn.activation_forward`.

    Returns
    -------
    float

    Raises
    ------
    TypeError
        `activation` is no string.
    ValueError
        An unknown activation; the message lists the known ones.
    """
    return _GAINS[_check.choice(activation, "activation", _GAINS)]


# ---------------------------------------------------------------------------------------------------------- drawing

_BLOCK = 1 << 14       # float64 numbers drawn at a time: no second matrix for float32, and the block stays in cache
_NORMAL_MAX = 16.0     # above any standard_normal of float64: its ziggurat ends at 3.66 + sqrt(2 * 53 * log(2)) = 12.3


def _uniform(fan_in: int, fan_out: int, factor: Any, name: str, unit: float, rng: Any, dtype: Any) -> Array:
    """U(-a, a) with a = factor * unit; `name` is what the caller calls the factor."""
    factor = _check.non_negative(factor, name)
    dtype = _check.float_dtype(dtype)
    _check.finite_in(dtype, factor * unit, name, factor)
    bound = _rounded_down(factor * unit, dtype)
    rng = _check.generator(rng)

    def draw(block: Array) -> None:
        rng.random(out=block)
        block *= 2
        block -= 1           # exact, and in [-1, 1)
        block *= bound       # |block| <= bound, a number of the dtype, so rounding to the dtype cannot cross it

    return _drawn(fan_in, fan_out, dtype, rng, draw)


def _normal(fan_in: int, fan_out: int, factor: Any, name: str, unit: float, rng: Any, dtype: Any) -> Array:
    """N(0, std^2) with std = factor * unit; `name` is what the caller calls the factor."""
    factor = _check.non_negative(factor, name)
    dtype = _check.float_dtype(dtype)
    std = factor * unit
    _check.finite_in(dtype, std * _NORMAL_MAX, name, factor)
    rng = _check.generator(rng)

    def draw(block: Array) -> None:
        rng.standard_normal(out=block)
        block *= std

    return _drawn(fan_in, fan_out, dtype, rng, draw)


def _drawn(
    fan_in: int, fan_out: int, dtype: np.dtype[Any], rng: np.random.Generator, draw: Callable[[Array], None],
) -> Array:
    """A new matrix, filled in row order by float64 blocks. All memory is there before the first number is drawn."""
    out = np.empty((fan_in, fan_out), dtype)
    flat = out.reshape(-1)
    scratch = np.empty(min(flat.size, _BLOCK))
    state = rng.bit_generator.state
    try:
        for start in range(0, flat.size, _BLOCK):
            part = flat[start:start + _BLOCK]
            block = scratch[:part.size]
            draw(block)
            part[...] = block
    except BaseException:
        rng.bit_generator.state = state      # Ctrl-C, say: a failed call draws nothing
        raise
    return out


def _rounded_down(bound: float, dtype: np.dtype[Any]) -> float:
    """The largest number of the dtype that is not above `bound` >= 0."""
    nearest = dtype.type(bound)
    # as floats: comparing with the scalar of the dtype would round `bound` first
    return float(nearest) if float(nearest) <= bound else float(np.nextafter(nearest, dtype.type(0)))
