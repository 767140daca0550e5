from cython cimport floating

from fastnn._kernels.simd cimport simd_void

# Each tile writes the gradient of `scale` times the summed loss of its rows and adds that sum, unscaled, to
# total[0] + total[1].
cdef simd_void softmax_tile(
    const floating* logits, Py_ssize_t n, Py_ssize_t k, const Py_ssize_t* labels, double scale,
    floating* dlogits, double* total) noexcept nogil

cdef simd_void sigmoid_tile(
    const floating* logits, const floating* targets, Py_ssize_t n, double scale,
    floating* dlogits, double* total) noexcept nogil

cdef simd_void squared_error_tile(
    const floating* pred, const floating* target, Py_ssize_t n, double scale,
    floating* dpred, double* total) noexcept nogil
