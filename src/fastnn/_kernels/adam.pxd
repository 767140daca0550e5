from cython cimport floating

from fastnn._kernels.simd cimport simd_void

# What the update of step 1, 2, ... multiplies m / (sqrt(v) + least) by, and the least that it divides by: the bias corrections
# of both moments are in them. The betas are those of the tile, rounded to its dtype: weights whose sum is not 1 are another bias.
cdef void correct(
    double lr, double step, double beta1, double beta2, double eps, bint eps_hat, double* rate, double* least) noexcept nogil

# factors and ldg are as for update_tile of sgd; `coupled` and `decoupled` are what the parameter decays by, through the moments
# and beside them
cdef simd_void adam_tile(
    const floating* factors, const floating* grad, Py_ssize_t ldg, Py_ssize_t n, Py_ssize_t d,
    floating rate, floating beta1, floating beta2, floating least, floating coupled, floating decoupled,
    floating* m, floating* v, floating* param, Py_ssize_t ldp) noexcept nogil
