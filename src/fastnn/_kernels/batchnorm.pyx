"""Batch normalisation of a block of features over all rows.

Goodfellow et al. (8.35)-(8.37); Ioffe & Szegedy (2015), algorithm 1. Column sums are float64 for either dtype, and taken of
the differences from a pivot near the data, so that a large mean costs no digits. The pivot p is the first row:
|p - mean| <= sqrt(n - 1) std for any of n numbers, which bounds what E[u^2] - E[u]^2 with u = x - p can cancel: even if the
first row is the only one that differs, a float32 variance is good to a third of a unit up to n = 1e5. For float64 data a
second pass, from the mean found first, removes that loss too. The mean is kept as a pair hi + lo up to its subtraction. Sums
take four rows at a time, so that the accumulators are loaded and stored a quarter as often, and start anew with each chunk of
rows, so that for float64 data their error hardly grows with n.

Ghost batches (Hoffer et al. 2017, algorithm 1) are the same tiles for one group of rows after the other.
"""

from cython cimport floating
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from libc.math cimport isfinite, sqrt

from fastnn._kernels.simd cimport extents, simd_void
from fastnn._kernels.team cimport Call, part, share


cdef enum:
    CHUNK = 128         # rows

cdef double ZEROS[COLUMNS]      # a row of either type that adds nothing to a sum; statically zero


cdef inline void add_sums(const double* sums, Py_ssize_t d, bint more, double* totals) noexcept nogil:
    cdef Py_ssize_t j
    if more:
        for j in range(d):
            totals[j] += sums[j]
    else:
        for j in range(d):
            totals[j] = sums[j]


cdef simd_void shifted_sums(
    const floating* x, Py_ssize_t n, Py_ssize_t d, Py_ssize_t ldx,      # IN (n, d)
    const floating* pivot,                                              # IN (d,)
    double* s1, double* s2,                                             # OUT (d,)
) noexcept nogil:
    # arrays of its own: the compiler sees that they are apart from x, or it would not vectorise for float64
    cdef double sum1[COLUMNS]
    cdef double sum2[COLUMNS]
    cdef Py_ssize_t chunk, first, i, j
    cdef const floating *x0
    cdef const floating *x1
    cdef const floating *x2
    cdef const floating *x3
    cdef double p, u0, u1, u2, u3

    for chunk in range((n + CHUNK - 1) // CHUNK):
        first = chunk * CHUNK
        for j in range(d):
            sum1[j] = 0
            sum2[j] = 0
        for i in range(first, min(first + CHUNK, n), 4):
            # past the last row stands the pivot itself, whose difference is zero
            x0 = x + i * ldx
            x1 = x0 + ldx if i + 1 < n else pivot
            x2 = x1 + ldx if i + 2 < n else pivot
            x3 = x2 + ldx if i + 3 < n else pivot
            # u = x - p;  s1 = sum(u);  s2 = sum(u^2)
            for j in range(d):
                p = pivot[j]
                u0 = x0[j] - p
                u1 = x1[j] - p
                u2 = x2[j] - p
                u3 = x3[j] - p
                sum1[j] += (u0 + u1) + (u2 + u3)
                sum2[j] += (u0 * u0 + u1 * u1) + (u2 * u2 + u3 * u3)
        add_sums(sum1, d, first > 0, s1)
        add_sums(sum2, d, first > 0, s2)


cdef simd_void scale_shift(
    const floating* x, Py_ssize_t n, Py_ssize_t d, Py_ssize_t ldx,      # IN (n, d)
    const floating* hi, const floating* scale, const floating* shift,   # IN (d,)
    const floating* scale_low,                                          # IN (d,), for float32 data
    floating* out, Py_ssize_t ldo,                                      # OUT (n, d)
) noexcept nogil:
    cdef Py_ssize_t i, j
    cdef floating u

    # out = (x - hi) * scale + shift. The difference of neighbouring numbers is exact; hi must not be folded into shift,
    # where it would cancel. scale_low is what rounding took from the scale: for float32 data one error less.
    for i in range(n):
        for j in range(d):
            u = x[j] - hi[j]
            if floating is float:
                out[j] = u * scale[j] + (u * scale_low[j] + shift[j])
            else:
                out[j] = u * scale[j] + shift[j]
        x += ldx
        out += ldo


cdef simd_void statistics_tile(
    const floating* x, Py_ssize_t n, Py_ssize_t d, Py_ssize_t ldx,      # IN (n, d)
    double eps,
    double* mean, double* low, double* var, double* rstd,               # OUT (d,)
) noexcept nogil:
    cdef floating pivot[COLUMNS]
    cdef double* s1 = rstd
    cdef double* s2 = var
    cdef double p, rest, over_n = 1.0 / n
    cdef Py_ssize_t j

    for j in range(d):
        pivot[j] = x[j]
    shifted_sums(x, n, d, ldx, pivot, s1, s2)
    if floating is double:
        for j in range(d):
            pivot[j] += s1[j] * over_n
        shifted_sums(x, n, d, ldx, pivot, s1, s2)
    for j in range(d):
        # with the pivot p:  mean = p + s1 / n;  var = s2 / n - (s1 / n)^2;  rstd = 1 / sqrt(var + eps)
        p = pivot[j]
        rest = s1[j] * over_n
        var[j] = s2[j] * over_n - rest * rest
        # the mean to twice the precision of float64: mean + low = p + rest
        mean[j] = p + rest
        low[j] = rest - (mean[j] - p)
        # a variance beyond float64 must not make all of the column beta: inf - inf is NaN, and 0 is added otherwise
        rstd[j] = 1 / sqrt(var[j] + eps) + (var[j] - var[j])


cdef inline floating moved(floating running, double momentum, double batch) noexcept nogil:
    return <floating>((1 - momentum) * running + momentum * batch)


cdef simd_void normalise_tile(
    const floating* x, Py_ssize_t n, Py_ssize_t d, Py_ssize_t ldx,      # IN (n, d)
    const floating* gamma, const floating* beta,                        # IN (d,)
    double momentum, double unbiased,                                   # times var is what moves running_var
    const double* mean, const double* low, const double* var, const double* rstd,       # IN (d,)
    floating* running_mean, floating* running_var,                      # IN OUT (d,), or NULL
    floating* out, Py_ssize_t ldo,                                      # OUT (n, d), may be x
) noexcept nogil:
    cdef floating hi[COLUMNS]
    cdef floating scale[COLUMNS]
    cdef floating scale_low[COLUMNS]
    cdef floating shift[COLUMNS]
    cdef double lo
    cdef Py_ssize_t j

    for j in range(d):
        # (x - hi - lo) * rstd * gamma + beta, where hi + lo is the mean to twice the precision of the data
        hi[j] = <floating>mean[j]
        lo = (mean[j] - hi[j]) + low[j]
        scale[j] = <floating>(gamma[j] * rstd[j])
        scale_low[j] = <floating>(gamma[j] * rstd[j] - scale[j])
        shift[j] = <floating>(beta[j] - lo * (gamma[j] * rstd[j]))
    # running = (1 - momentum) * running + momentum * batch, with the unbiased variance where ddof is 1
    if running_mean != NULL:
        for j in range(d):
            running_mean[j] = moved(running_mean[j], momentum, mean[j])
            running_var[j] = moved(running_var[j], momentum, var[j] * unbiased)
    scale_shift(x, n, d, ldx, hi, scale, shift, scale_low, out, ldo)


cdef inline Py_ssize_t group_rows(Py_ssize_t n, Py_ssize_t first, Py_ssize_t group) noexcept nogil:
    # of the group that begins at row `first`: a remainder belongs to the last one, and 0 is all rows
    return group if group > 0 and n - first >= 2 * group else n - first


cdef void forward_groups(
    const floating* x, Py_ssize_t n, Py_ssize_t group, Py_ssize_t d, Py_ssize_t ldx, const floating* gamma, const floating* beta,
    double eps, double momentum, Py_ssize_t ddof, floating* running_mean, floating* running_var,
    floating* out, Py_ssize_t ldo, double* mean, double* rstd, Py_ssize_t lds,
) noexcept nogil:
    # `mean` and `rstd` have a row of lds numbers for each group
    cdef double low[COLUMNS]
    cdef double var[COLUMNS]
    cdef Py_ssize_t first = 0, rows
    while first < n:
        rows = group_rows(n, first, group)
        statistics_tile(x + first * ldx, rows, d, ldx, eps, mean, low, var, rstd)
        normalise_tile(x + first * ldx, rows, d, ldx, gamma, beta, momentum, <double>rows / (rows - ddof), mean, low, var, rstd,
                       running_mean, running_var, out + first * ldo, ldo)
        first += rows
        mean += lds
        rstd += lds


cdef simd_void backward_sums(
    const floating* dout, Py_ssize_t ldd,                               # IN (n, d)
    const floating* x, Py_ssize_t n, Py_ssize_t d, Py_ssize_t ldx,      # IN (n, d)
    const double* mean,                                                 # IN (d,)
    double* sum_d, double* sum_du, double* sum_u,                       # OUT (d,); sum_u of float64 data only
) noexcept nogil:
    # arrays of its own, as above
    cdef double sum0[COLUMNS]
    cdef double sum1[COLUMNS]
    cdef double sum2[COLUMNS]
    cdef const floating* no_dout = <const floating*>ZEROS
    cdef const floating* no_x = x
    cdef Py_ssize_t chunk, first, i, j
    cdef const floating *x0
    cdef const floating *x1
    cdef const floating *x2
    cdef const floating *x3
    cdef const floating *d0
    cdef const floating *d1
    cdef const floating *d2
    cdef const floating *d3
    cdef double g0, g1, g2, g3, u0, u1, u2, u3

    if floating is double:
        no_x = mean
    for chunk in range((n + CHUNK - 1) // CHUNK):
        first = chunk * CHUNK
        for j in range(d):
            sum0[j] = 0
            sum1[j] = 0
            sum2[j] = 0
        for i in range(first, min(first + CHUNK, n), 4):
            # past the last row stand rows that add nothing: no gradient, and for sum_u x at the mean
            x0 = x + i * ldx
            x1 = x0 + ldx if i + 1 < n else no_x
            x2 = x1 + ldx if i + 2 < n else no_x
            x3 = x2 + ldx if i + 3 < n else no_x
            d0 = dout + i * ldd
            d1 = d0 + ldd if i + 1 < n else no_dout
            d2 = d1 + ldd if i + 2 < n else no_dout
            d3 = d2 + ldd if i + 3 < n else no_dout
            # u = x - mean;  sum_d = sum(dout);  sum_du = sum(dout * u);  sum_u = sum(u)
            for j in range(d):
                u0 = x0[j] - mean[j]
                u1 = x1[j] - mean[j]
                u2 = x2[j] - mean[j]
                u3 = x3[j] - mean[j]
                g0 = d0[j]
                g1 = d1[j]
                g2 = d2[j]
                g3 = d3[j]
                sum0[j] += (g0 + g1) + (g2 + g3)
                sum1[j] += (g0 * u0 + g1 * u1) + (g2 * u2 + g3 * u3)
                if floating is double:
                    sum2[j] += (u0 + u1) + (u2 + u3)
        add_sums(sum0, d, first > 0, sum_d)
        add_sums(sum1, d, first > 0, sum_du)
        add_sums(sum2, d, first > 0, sum_u)


cdef simd_void backward_dx(
    const floating* dout, Py_ssize_t ldd,                               # IN (n, d)
    const floating* x, Py_ssize_t n, Py_ssize_t d, Py_ssize_t ldx,      # IN (n, d)
    const floating* d_hi, const floating* hi, const floating* slope,    # IN (d,)
    const floating* rest, const floating* scale,                        # IN (d,)
    floating* dx, Py_ssize_t lddx,                                      # OUT (n, d)
) noexcept nogil:
    cdef Py_ssize_t i, j

    # dx = ((dout - d_hi) - ((x - hi) * slope + rest)) * scale
    for i in range(n):
        for j in range(d):
            dx[j] = ((dout[j] - d_hi[j]) - ((x[j] - hi[j]) * slope[j] + rest[j])) * scale[j]
        dout += ldd
        x += ldx
        dx += lddx


cdef simd_void backward_from_sums(
    const floating* dout, Py_ssize_t ldd,                               # IN (n, d)
    const floating* x, Py_ssize_t n, Py_ssize_t d, Py_ssize_t ldx,      # IN (n, d)
    const floating* gamma, const double* mean, const double* rstd,      # IN (d,)
    double over_n,                                                      # 1 / the rows that the sums are over
    const double* sum_d, const double* sum_du, const double* sum_u,     # IN (d,)
    floating* dx, Py_ssize_t lddx,                                      # OUT (n, d), may be dout or x
    double* dgamma, double* dbeta,                                      # OUT (d,)
) noexcept nogil:
    cdef floating d_hi[COLUMNS]
    cdef floating hi[COLUMNS]
    cdef floating slope[COLUMNS]
    cdef floating rest[COLUMNS]
    cdef floating scale[COLUMNS]
    cdef double low, lo, dxhat, mean_d
    cdef Py_ssize_t j

    for j in range(d):
        # what float64 left of the mean: low = mean(x - mean), hence xhat = (x - mean - low) * rstd; 0 for float32 data
        low = sum_u[j] * over_n
        hi[j] = <floating>mean[j]
        lo = (mean[j] - hi[j]) + low
        # dgamma = sum(dout * xhat);  dbeta = sum(dout)
        dxhat = rstd[j] * (sum_du[j] - low * sum_d[j])
        dgamma[j] = dxhat
        dbeta[j] = sum_d[j]
        # dx = gamma * rstd * (dout - mean(dout) - xhat * mean(dout * xhat)), both means as pairs hi + lo
        mean_d = sum_d[j] * over_n
        d_hi[j] = <floating>mean_d
        scale[j] = <floating>(gamma[j] * rstd[j])
        slope[j] = <floating>(rstd[j] * (dxhat * over_n))
        rest[j] = <floating>((mean_d - d_hi[j]) - lo * slope[j])
    backward_dx(dout, ldd, x, n, d, ldx, d_hi, hi, slope, rest, scale, dx, lddx)


cdef void backward_groups(
    const floating* dout, Py_ssize_t ldd, const floating* x, Py_ssize_t n, Py_ssize_t group, Py_ssize_t d, Py_ssize_t ldx,
    const floating* gamma, const double* mean, const double* rstd, Py_ssize_t lds,
    floating* dx, Py_ssize_t lddx, floating* dgamma, floating* dbeta,
) noexcept nogil:
    # gamma and beta are the same for all groups: their gradients are sums over them, rounded once
    cdef double sum_d[COLUMNS]
    cdef double sum_du[COLUMNS]
    cdef double sum_u[COLUMNS]
    cdef double sum_dgamma[COLUMNS]
    cdef double sum_dbeta[COLUMNS]
    cdef double group_dgamma[COLUMNS]
    cdef double group_dbeta[COLUMNS]
    cdef Py_ssize_t first = 0, rows, j
    while first < n:
        rows = group_rows(n, first, group)
        backward_sums(dout + first * ldd, ldd, x + first * ldx, rows, d, ldx, mean, sum_d, sum_du, sum_u)
        backward_from_sums(dout + first * ldd, ldd, x + first * ldx, rows, d, ldx, gamma, mean, rstd, 1.0 / rows, sum_d, sum_du,
                           sum_u, dx + first * lddx, lddx, group_dgamma, group_dbeta)
        add_sums(group_dgamma, d, first > 0, sum_dgamma)
        add_sums(group_dbeta, d, first > 0, sum_dbeta)
        first += rows
        mean += lds
        rstd += lds
    for j in range(d):
        dgamma[j] = <floating>sum_dgamma[j]
        dbeta[j] = <floating>sum_dbeta[j]


cdef simd_void inference_tile(
    const floating* x, Py_ssize_t n, Py_ssize_t d, Py_ssize_t ldx,      # IN (n, d)
    const floating* gamma, const floating* beta,                        # IN (d,)
    const floating* running_mean, const floating* running_var,          # IN (d,)
    double eps,
    floating* out, Py_ssize_t ldo,                                      # OUT (n, d), may be x
) noexcept nogil:
    cdef floating scale[COLUMNS]
    cdef floating scale_low[COLUMNS]
    cdef double factor
    cdef Py_ssize_t j

    for j in range(d):
        factor = gamma[j] / sqrt(running_var[j] + eps)
        scale[j] = <floating>factor
        scale_low[j] = <floating>(factor - scale[j])
    scale_shift(x, n, d, ldx, running_mean, scale, beta, scale_low, out, ldo)


# ---- the entries for Python: one row-major array each, by blocks of features

cdef enum:
    UNIT = 512          # features of a block: narrower ones read memory in pieces too short for it to be fast
    STATISTICS, NORMALISE, BACKWARD, INFERENCE

cdef void statistics_part(const floating* any, Call* c, Py_ssize_t j) noexcept nogil:
    cdef Py_ssize_t d = c.sizes[1]
    statistics_tile(
        <floating*>c.arrays[0] + j, c.sizes[0], min(d - j, c.panel), d, c.numbers[0], <double*>c.arrays[6] + j,
        <double*>c.arrays[8] + j, <double*>c.arrays[9] + j, <double*>c.arrays[7] + j)


cdef void normalise_part(const floating* any, Call* c, Py_ssize_t j) noexcept nogil:
    cdef Py_ssize_t d = c.sizes[1]
    cdef floating* running_mean = <floating*>c.arrays[3]
    cdef floating* running_var = <floating*>c.arrays[4]
    normalise_tile(
        <floating*>c.arrays[0] + j, c.sizes[0], min(d - j, c.panel), d, <floating*>c.arrays[1] + j, <floating*>c.arrays[2] + j,
        c.numbers[1], <double>c.sizes[0] / (c.sizes[0] - 1),
        <double*>c.arrays[6] + j, <double*>c.arrays[8] + j, <double*>c.arrays[9] + j, <double*>c.arrays[7] + j,
        running_mean + j if running_mean != NULL else NULL, running_var + j if running_var != NULL else NULL,
        <floating*>c.arrays[5] + j, d)


cdef void backward_part(const floating* any, Call* c, Py_ssize_t j) noexcept nogil:
    cdef Py_ssize_t d = c.sizes[1]
    backward_groups(
        <floating*>c.arrays[0] + j, d, <floating*>c.arrays[1] + j, c.sizes[0], 0, min(d - j, c.panel), d,
        <floating*>c.arrays[2] + j, <double*>c.arrays[3] + j, <double*>c.arrays[4] + j, 0,
        <floating*>c.arrays[5] + j, d, <floating*>c.arrays[6] + j, <floating*>c.arrays[7] + j)


cdef void inference_part(const floating* any, Call* c, Py_ssize_t j) noexcept nogil:
    cdef Py_ssize_t d = c.sizes[1]
    inference_tile(
        <floating*>c.arrays[0] + j, c.sizes[0], min(d - j, c.panel), d, <floating*>c.arrays[1] + j, <floating*>c.arrays[2] + j,
        <floating*>c.arrays[3] + j, <floating*>c.arrays[4] + j, c.numbers[0], <floating*>c.arrays[5] + j, d)


cdef void part_of(const floating* any, Call* c, Py_ssize_t j) noexcept nogil:
    if c.sizes[2] == STATISTICS:
        statistics_part(any, c, j)
    elif c.sizes[2] == NORMALISE:
        normalise_part(any, c, j)
    elif c.sizes[2] == BACKWARD:
        backward_part(any, c, j)
    else:
        inference_part(any, c, j)


cdef void part_f32(void* call, Py_ssize_t tile, Py_ssize_t worker) noexcept nogil:
    part_of(<float*>NULL, <Call*>call, tile * (<Call*>call).panel)


cdef void part_f64(void* call, Py_ssize_t tile, Py_ssize_t worker) noexcept nogil:
    part_of(<double*>NULL, <Call*>call, tile * (<Call*>call).panel)


cdef void by_features(const floating* any, Call* c, Py_ssize_t n, Py_ssize_t d, int which, Py_ssize_t n_threads) noexcept nogil:
    c.sizes[0] = n
    c.sizes[1] = d
    c.sizes[2] = which
    c.panel = part(d, UNIT, COLUMNS, n_threads)
    share(part_f32 if floating is float else part_f64, c, d, n_threads)


cdef Py_ssize_t overflow(const floating* any, const Call* c) noexcept nogil:
    # the first column of finite numbers whose variance, or running variance, is beyond the type; or -1
    cdef const double* mean = <double*>c.arrays[6]
    cdef const double* var = <double*>c.arrays[9]
    cdef const floating* running_var = <floating*>c.arrays[4]
    cdef double unbiased = <double>c.sizes[0] / (c.sizes[0] - 1)
    cdef Py_ssize_t j
    for j in range(c.sizes[1]):
        if not isfinite(var[j]) or (running_var != NULL and not isfinite(moved(running_var[j], c.numbers[1], var[j] * unbiased))):
            if isfinite(mean[j]) and (running_var == NULL or isfinite(running_var[j])):
                return j
    return -1


def forward(
    const floating[:, ::1] x not None, const floating[::1] gamma not None, const floating[::1] beta not None,
    double eps, double momentum, floating[::1] running_mean, floating[::1] running_var,
    floating[:, ::1] out not None, double[::1] mean not None, double[::1] rstd not None, Py_ssize_t n_threads=1,
):
    """Returns -1; or a column whose variance is too large a number, and then only `mean` and `rstd` have been written."""
    cdef Py_ssize_t n = x.shape[0], d = x.shape[1], bad
    cdef bint running = running_mean is not None and running_var is not None
    cdef double* scratch
    cdef Call c
    extents(
        n > 1 and gamma.shape[0] == beta.shape[0] == mean.shape[0] == rstd.shape[0] == out.shape[1] == d > 0
        and out.shape[0] == n and (not running or running_mean.shape[0] == running_var.shape[0] == d))
    scratch = <double*>PyMem_Malloc(2 * d * sizeof(double))
    if scratch == NULL:
        raise MemoryError
    c.arrays[:10] = [
        <void*>&x[0, 0], <void*>&gamma[0], <void*>&beta[0], NULL, NULL, <void*>&out[0, 0], <void*>&mean[0], <void*>&rstd[0],
        scratch, scratch + d]
    if running:
        c.arrays[3] = <void*>&running_mean[0]
        c.arrays[4] = <void*>&running_var[0]
    c.numbers[0] = eps
    c.numbers[1] = momentum
    with nogil:
        by_features(&x[0, 0], &c, n, d, STATISTICS, n_threads)
        bad = overflow(&x[0, 0], &c)
        if bad < 0:
            by_features(&x[0, 0], &c, n, d, NORMALISE, n_threads)
    PyMem_Free(scratch)
    return bad


def backward(
    const floating[:, ::1] dout not None, const floating[:, ::1] x not None, const floating[::1] gamma not None,
    const double[::1] mean not None, const double[::1] rstd not None,
    floating[:, ::1] dx not None, floating[::1] dgamma not None, floating[::1] dbeta not None, Py_ssize_t n_threads=1,
):
    cdef Py_ssize_t n = x.shape[0], d = x.shape[1]
    cdef Call c
    extents(
        n > 1 and dout.shape[0] == dx.shape[0] == n and dout.shape[1] == dx.shape[1] == d > 0
        and gamma.shape[0] == mean.shape[0] == rstd.shape[0] == dgamma.shape[0] == dbeta.shape[0] == d)
    c.arrays[:8] = [
        <void*>&dout[0, 0], <void*>&x[0, 0], <void*>&gamma[0], <void*>&mean[0], <void*>&rstd[0], <void*>&dx[0, 0],
        <void*>&dgamma[0], <void*>&dbeta[0]]
    with nogil:
        by_features(&x[0, 0], &c, n, d, BACKWARD, n_threads)


def inference(
    const floating[:, ::1] x not None, const floating[::1] gamma not None, const floating[::1] beta not None,
    const floating[::1] running_mean not None, const floating[::1] running_var not None, double eps,
    floating[:, ::1] out not None, Py_ssize_t n_threads=1,
):
    cdef Py_ssize_t n = x.shape[0], d = x.shape[1]
    cdef Call c
    extents(
        n > 0 and out.shape[0] == n and out.shape[1] == d > 0
        and gamma.shape[0] == beta.shape[0] == running_mean.shape[0] == running_var.shape[0] == d)
    c.arrays[:6] = [
        <void*>&x[0, 0], <void*>&gamma[0], <void*>&beta[0], <void*>&running_mean[0], <void*>&running_var[0], <void*>&out[0, 0]]
    c.numbers[0] = eps
    with nogil:
        by_features(&x[0, 0], &c, n, d, INFERENCE, n_threads)
