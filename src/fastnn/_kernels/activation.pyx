"""Element-wise activations and their derivatives in terms of the output.

The constants have the type of the data: a literal would be a double, and the arithmetic with it.
"""

from cython cimport floating

from fastnn._kernels.elementary cimport absolute, exp, expm1_negative, log1p_unit
from fastnn._kernels.simd cimport extents, simd_void

KINDS = {
    "identity": IDENTITY, "relu": RELU, "leaky_relu": LEAKY_RELU, "tanh": TANH, "sigmoid": SIGMOID,
    "softsign": SOFTSIGN, "softplus": SOFTPLUS, "elu": ELU,
}


cdef inline floating tanh(floating x) noexcept nogil:
    # with e = expm1(-2 |x|):  tanh |x| = -e / (2 + e), which keeps its digits near zero
    cdef floating two = 2
    cdef floating e = expm1_negative(-two * absolute(x))
    cdef floating t = -e / (two + e)
    return t if x > 0 else -t


cdef inline floating sigmoid(floating x) noexcept nogil:
    # with e = exp(-|x|), which cannot overflow:  1 / (1 + e) to the right of zero, e / (1 + e) to its left
    cdef floating one = 1
    cdef floating e = exp(-absolute(x))
    return (e if x < 0 else one) / (one + e)


cdef simd_void forward_tile(
    const floating* x, Py_ssize_t n,    # IN (n,)
    int kind,
    floating* y,                        # OUT (n,), may be x
) noexcept nogil:
    cdef Py_ssize_t i
    cdef floating v, zero = 0, one = 1, slope = <floating>0.01

    # comparisons are turned so that NaN goes through
    if kind == IDENTITY:
        for i in range(n):
            y[i] = x[i]
    elif kind == RELU:
        for i in range(n):
            v = x[i]
            y[i] = zero if v < 0 else v
    elif kind == LEAKY_RELU:
        for i in range(n):
            v = x[i]
            y[i] = slope * v if v < 0 else v
    elif kind == TANH:
        for i in range(n):
            y[i] = tanh(x[i])
    elif kind == SIGMOID:
        for i in range(n):
            y[i] = sigmoid(x[i])
    elif kind == SOFTSIGN:
        # x / (1 + |x|)
        for i in range(n):
            y[i] = x[i] / (one + absolute(x[i]))
    elif kind == SOFTPLUS:
        # log(1 + e^x) = max(x, 0) + log1p(e^-|x|)
        for i in range(n):
            v = x[i]
            y[i] = (zero if v < 0 else v) + log1p_unit(exp(-absolute(v)))
    elif kind == ELU:
        # e^x - 1 to the left of zero
        for i in range(n):
            v = x[i]
            y[i] = v if v > 0 else expm1_negative(v)


cdef simd_void backward_tile(
    const floating* dy, const floating* y, Py_ssize_t n,    # IN (n,)
    int kind,
    floating* dx,                                           # OUT (n,), may be dy or y
) noexcept nogil:
    cdef Py_ssize_t i
    cdef floating v, zero = 0, one = 1, slope = <floating>0.01

    if kind == IDENTITY:
        for i in range(n):
            dx[i] = dy[i]
    elif kind == RELU:
        for i in range(n):
            dx[i] = dy[i] if y[i] > 0 else zero
    elif kind == LEAKY_RELU:
        for i in range(n):
            v = dy[i]
            dx[i] = v if y[i] > 0 else slope * v
    elif kind == TANH:
        # 1 - y^2
        for i in range(n):
            v = y[i]
            dx[i] = dy[i] * ((one - v) * (one + v))
    elif kind == SIGMOID:
        # y (1 - y)
        for i in range(n):
            v = y[i]
            dx[i] = dy[i] * (v * (one - v))
    elif kind == SOFTSIGN:
        # 1 / (1 + |x|)^2 = (1 - |y|)^2
        for i in range(n):
            v = one - absolute(y[i])
            dx[i] = dy[i] * (v * v)
    elif kind == SOFTPLUS:
        # sigmoid(x) = 1 - e^-y
        for i in range(n):
            dx[i] = dy[i] * -expm1_negative(-y[i])
    elif kind == ELU:
        # e^x = y + 1 to the left of zero
        for i in range(n):
            v = dy[i]
            dx[i] = v if y[i] > 0 else v * (y[i] + one)


def forward(const floating[::1] x not None, int kind, floating[::1] y not None):
    extents(y.shape[0] == x.shape[0] > 0)
    with nogil:
        forward_tile(&x[0], x.shape[0], kind, &y[0])


def backward(const floating[::1] dy not None, const floating[::1] y not None, int kind, floating[::1] dx not None):
    extents(dy.shape[0] == y.shape[0] == dx.shape[0] > 0)
    with nogil:
        backward_tile(&dy[0], &y[0], y.shape[0], kind, &dx[0])
