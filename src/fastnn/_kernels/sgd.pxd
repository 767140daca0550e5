from cython cimport floating

from fastnn._kernels.simd cimport simd_void

cdef enum:
    LANES = 16          # partial sums of squares

# the gradient of row i is grad's row i, times factors[i] where there are any: with ldg 0, the outer product of two vectors
cdef simd_void update_tile(
    const floating* factors, const floating* grad, Py_ssize_t ldg, Py_ssize_t n, Py_ssize_t d,
    floating lr, floating momentum, bint nesterov, floating weight_decay,
    floating* velocity, floating* param, Py_ssize_t ldp) noexcept nogil

cdef simd_void squares_tile(const floating* x, Py_ssize_t n, double* sums) noexcept nogil

cdef simd_void average_tile(const floating* param, Py_ssize_t n, double rate, double* average) noexcept nogil
