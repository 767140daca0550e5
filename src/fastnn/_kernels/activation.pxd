from cython cimport floating

from fastnn._kernels.simd cimport simd_void

cdef enum Kind:
    IDENTITY, RELU, LEAKY_RELU, TANH, SIGMOID, SOFTSIGN, SOFTPLUS, ELU

cdef simd_void forward_tile(const floating* x, Py_ssize_t n, int kind, floating* y) noexcept nogil
cdef simd_void backward_tile(
    const floating* dy, const floating* y, Py_ssize_t n, int kind, floating* dx) noexcept nogil
