from cython cimport floating

from fastnn._kernels.simd cimport simd_void

cdef enum Kind:
    IDENTITY, RELU, LEAKY_RELU, TANH, SIGMOID, SOFTSIGN, SOFTPLUS, ELU

# n rows of d elements; rows that follow each other without a gap count as one
cdef simd_void forward_tile(
    const floating* x, Py_ssize_t ldx, Py_ssize_t n, Py_ssize_t d, int kind, floating* y, Py_ssize_t ldy) noexcept nogil
cdef simd_void backward_tile(
    const floating* dy, Py_ssize_t lddy, const floating* y, Py_ssize_t ldy, Py_ssize_t n, Py_ssize_t d, int kind,
    floating* dx, Py_ssize_t lddx) noexcept nogil
