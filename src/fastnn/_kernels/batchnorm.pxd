from cython cimport floating

from fastnn._kernels.simd cimport simd_void

cdef enum:
    COLUMNS = 1024      # the widest feature block that one tile takes: what it keeps per feature lies on its stack

cdef void forward_groups(
    const floating* x, Py_ssize_t n, Py_ssize_t group, Py_ssize_t d, Py_ssize_t ldx, const floating* gamma, const floating* beta,
    double eps, double momentum, Py_ssize_t ddof, floating* running_mean, floating* running_var,
    floating* out, Py_ssize_t ldo, double* mean, double* rstd, Py_ssize_t lds) noexcept nogil

cdef void backward_groups(
    const floating* dout, Py_ssize_t ldd, const floating* x, Py_ssize_t n, Py_ssize_t group, Py_ssize_t d, Py_ssize_t ldx,
    const floating* gamma, const double* mean, const double* rstd, Py_ssize_t lds,
    floating* dx, Py_ssize_t lddx, floating* dgamma, floating* dbeta) noexcept nogil

# The halves of both, for statistics over more rows than there are here: between them come those of the others.
cdef simd_void statistics_tile(
    const floating* x, Py_ssize_t n, Py_ssize_t d, Py_ssize_t ldx, double eps,
    double* mean, double* low, double* var, double* rstd) noexcept nogil
cdef simd_void normalise_tile(
    const floating* x, Py_ssize_t n, Py_ssize_t d, Py_ssize_t ldx, const floating* gamma, const floating* beta,
    double momentum, double unbiased, const double* mean, const double* low, const double* var, const double* rstd,
    floating* running_mean, floating* running_var, floating* out, Py_ssize_t ldo) noexcept nogil
cdef simd_void backward_sums(
    const floating* dout, Py_ssize_t ldd, const floating* x, Py_ssize_t n, Py_ssize_t d, Py_ssize_t ldx, const double* mean,
    double* sum_d, double* sum_du, double* sum_u) noexcept nogil
cdef simd_void backward_from_sums(
    const floating* dout, Py_ssize_t ldd, const floating* x, Py_ssize_t n, Py_ssize_t d, Py_ssize_t ldx,
    const floating* gamma, const double* mean, const double* rstd, double over_n,
    const double* sum_d, const double* sum_du, const double* sum_u,
    floating* dx, Py_ssize_t lddx, double* dgamma, double* dbeta) noexcept nogil

cdef simd_void inference_tile(
    const floating* x, Py_ssize_t n, Py_ssize_t d, Py_ssize_t ldx, const floating* gamma, const floating* beta,
    const floating* running_mean, const floating* running_var, double eps,
    floating* out, Py_ssize_t ldo) noexcept nogil
