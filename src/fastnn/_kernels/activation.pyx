"""Element-wise activations and their derivatives in terms of the output.

The constants have the type of the data: a literal would be a double, and the arithmetic with it.
"""

from cython cimport floating

from fastnn._kernels.elementary cimport absolute, exp, expm1_negative, log1p_unit
from fastnn._kernels.simd cimport extents, simd_void
from fastnn._kernels.team cimport Call, part, share

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
    const floating* x, Py_ssize_t ldx, Py_ssize_t n, Py_ssize_t d,      # IN (n, d)
    int kind,
    floating* y, Py_ssize_t ldy,                                        # OUT (n, d), may be x
) noexcept nogil:
    cdef Py_ssize_t i, j
    cdef floating v, zero = 0, one = 1, slope = <floating>0.01

    if ldx == ldy == d:
        d = n * d
        n = 1
    for i in range(n):
        # comparisons are turned so that NaN goes through
        if kind == IDENTITY:
            for j in range(d):
                y[j] = x[j]
        elif kind == RELU:
            for j in range(d):
                v = x[j]
                y[j] = zero if v < 0 else v
        elif kind == LEAKY_RELU:
            for j in range(d):
                v = x[j]
                y[j] = slope * v if v < 0 else v
        elif kind == TANH:
            for j in range(d):
                y[j] = tanh(x[j])
        elif kind == SIGMOID:
            for j in range(d):
                y[j] = sigmoid(x[j])
        elif kind == SOFTSIGN:
            # x / (1 + |x|)
            for j in range(d):
                y[j] = x[j] / (one + absolute(x[j]))
        elif kind == SOFTPLUS:
            # log(1 + e^x) = max(x, 0) + log1p(e^-|x|)
            for j in range(d):
                v = x[j]
                y[j] = (zero if v < 0 else v) + log1p_unit(exp(-absolute(v)))
        elif kind == ELU:
            # e^x - 1 to the left of zero
            for j in range(d):
                v = x[j]
                y[j] = v if v > 0 else expm1_negative(v)
        x += ldx
        y += ldy


cdef simd_void backward_tile(
    const floating* dy, Py_ssize_t lddy, const floating* y, Py_ssize_t ldy, Py_ssize_t n, Py_ssize_t d,     # IN (n, d)
    int kind,
    floating* dx, Py_ssize_t lddx,                                      # OUT (n, d), may be dy or y
) noexcept nogil:
    cdef Py_ssize_t i, j
    cdef floating v, zero = 0, one = 1, slope = <floating>0.01

    if lddy == ldy == lddx == d:
        d = n * d
        n = 1
    for i in range(n):
        if kind == IDENTITY:
            for j in range(d):
                dx[j] = dy[j]
        elif kind == RELU:
            for j in range(d):
                dx[j] = dy[j] if y[j] > 0 else zero
        elif kind == LEAKY_RELU:
            for j in range(d):
                v = dy[j]
                dx[j] = v if y[j] > 0 else slope * v
        elif kind == TANH:
            # 1 - y^2
            for j in range(d):
                v = y[j]
                dx[j] = dy[j] * ((one - v) * (one + v))
        elif kind == SIGMOID:
            # y (1 - y)
            for j in range(d):
                v = y[j]
                dx[j] = dy[j] * (v * (one - v))
        elif kind == SOFTSIGN:
            # 1 / (1 + |x|)^2 = (1 - |y|)^2
            for j in range(d):
                v = one - absolute(y[j])
                dx[j] = dy[j] * (v * v)
        elif kind == SOFTPLUS:
            # sigmoid(x) = 1 - e^-y
            for j in range(d):
                dx[j] = dy[j] * -expm1_negative(-y[j])
        elif kind == ELU:
            # e^x = y + 1 to the left of zero
            for j in range(d):
                v = dy[j]
                dx[j] = v if y[j] > 0 else v * (y[j] + one)
        dy += lddy
        y += ldy
        dx += lddx


# ---- the entries for Python: flat arrays

cdef enum:
    UNIT = 64           # numbers: whole cache lines
    PART = 65536        # numbers of one tile of several at most

cdef void part_of(const floating* any, Call* c, Py_ssize_t i) noexcept nogil:
    cdef floating* dy = <floating*>c.arrays[0]
    cdef floating* x = <floating*>c.arrays[1]
    cdef floating* out = <floating*>c.arrays[2]
    cdef Py_ssize_t n = min(c.sizes[0] - i, c.panel)
    if dy == NULL:
        forward_tile(x + i, n, 1, n, <int>c.sizes[1], out + i, n)
    else:
        backward_tile(dy + i, n, x + i, n, 1, n, <int>c.sizes[1], out + i, n)


cdef void part_f32(void* call, Py_ssize_t tile, Py_ssize_t worker) noexcept nogil:
    part_of(<float*>NULL, <Call*>call, tile * (<Call*>call).panel)


cdef void part_f64(void* call, Py_ssize_t tile, Py_ssize_t worker) noexcept nogil:
    part_of(<double*>NULL, <Call*>call, tile * (<Call*>call).panel)


cdef void by_elements(const floating* dy, const floating* x, Py_ssize_t n, int kind, floating* out, Py_ssize_t n_threads) noexcept nogil:
    cdef Call c
    c.arrays[0] = <void*>dy
    c.arrays[1] = <void*>x
    c.arrays[2] = out
    c.sizes[0] = n
    c.sizes[1] = kind
    c.panel = part(n, UNIT, PART, n_threads) if n_threads > 1 else n
    share(part_f32 if floating is float else part_f64, &c, n, n_threads)


def forward(const floating[::1] x not None, int kind, floating[::1] y not None, Py_ssize_t n_threads=1):
    extents(y.shape[0] == x.shape[0] > 0)
    with nogil:
        by_elements(<const floating*>NULL, &x[0], x.shape[0], kind, &y[0], n_threads)


def backward(
    const floating[::1] dy not None, const floating[::1] y not None, int kind, floating[::1] dx not None, Py_ssize_t n_threads=1,
):
    extents(dy.shape[0] == y.shape[0] == dx.shape[0] > 0)
    with nogil:
        by_elements(&dy[0], &y[0], y.shape[0], kind, &dx[0], n_threads)
