from cython cimport floating
from libc.stdint cimport uint32_t, uint64_t

from fastnn._kernels.simd cimport simd_void

# The masks of rows `row` to `row + n` and columns `column` to `column + d` of one layer at one step: 0 with probability p,
# else 1 / (1 - p). An element depends on its place, the layer, the step and the key alone, whatever tile it is in.
cdef simd_void mask_tile(
    uint64_t key, uint64_t step, uint32_t layer, double p, Py_ssize_t row, Py_ssize_t n, Py_ssize_t column, Py_ssize_t d,
    floating* mask, Py_ssize_t ldm) noexcept nogil

# y = x * mask, forward and backward
cdef simd_void scale_tile(
    const floating* x, Py_ssize_t ldx, const floating* mask, Py_ssize_t ldm, Py_ssize_t n, Py_ssize_t d,
    floating* y, Py_ssize_t ldy) noexcept nogil
