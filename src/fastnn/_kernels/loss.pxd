from cython cimport floating

from fastnn._kernels.simd cimport simd_void

# Each tile writes the gradient of `scale` times the summed loss of its rows and adds that sum, unscaled, to
# total[0] + total[1].
cdef simd_void softmax_tile(
    const floating* logits, Py_ssize_t ldz, Py_ssize_t n, Py_ssize_t k, const Py_ssize_t* labels, double scale,
    floating* dlogits, Py_ssize_t ldd, double* total) noexcept nogil

# the sigmoid cross-entropy of each element, or its squared error
cdef simd_void elementwise_tile(
    bint sigmoid, const floating* x, Py_ssize_t ldx, const floating* target, Py_ssize_t ldt, Py_ssize_t n, Py_ssize_t k,
    double scale, floating* dx, Py_ssize_t lddx, double* total) noexcept nogil

# The labels by the outputs of a network, and the probabilities; those of the sigmoid loss are an activation.
cdef void label_tile(
    bint softmax, const floating* z, Py_ssize_t ldz, Py_ssize_t n, Py_ssize_t k, Py_ssize_t* labels) noexcept nogil
cdef simd_void softmax_probability_tile(
    const floating* z, Py_ssize_t ldz, Py_ssize_t n, Py_ssize_t k, floating* p) noexcept nogil

# total[0] += x, with what rounding takes from it kept in total[1]
cdef void add(double* total, double x) noexcept nogil
