"""Batch normalisation of a block of features over all rows.

Goodfellow et al. (8.35)-(8.37); Ioffe & Szegedy (2015), algorithm 1. Column sums are float64 for either dtype, and taken of
the differences from a pivot near the data, so that a large mean costs no digits. The pivot p is the first row:
|p - mean| <= sqrt(n - 1) std for any of n numbers, hence E[u^2] - E[u]^2 with u = x - p loses at most n units of float64,
far below one of float32. For float64 data a second pass, from the mean found first, removes that loss too. The mean is kept
as a pair hi + lo up to its subtraction. Sums take four rows at a time, so that the accumulators are loaded and stored a
quarter as often.
"""

from cython cimport floating
from libc.math cimport sqrt

from fastnn._kernels.simd cimport simd_void


cdef enum:
    LINE = 64                   # bytes of a cache line
    SPARE = LINE // 4           # elements that aligning a scratch array may cost

cdef double ZEROS[COLUMNS]      # a row of either type that adds nothing to a sum; statically zero


cdef inline Py_ssize_t columns_to_line(const floating* out, Py_ssize_t ldo) noexcept nogil:
    # NumPy's arrays start anywhere in a cache line. Where all rows start alike, so many columns up to a line's start go
    # first: then no store of the others crosses into the next line, which costs up to a third of the time.
    cdef Py_ssize_t size = sizeof(floating)
    return 0 if ldo * size % LINE else (LINE - <Py_ssize_t>(<size_t>out % LINE)) % LINE // size


cdef inline floating* aligned(floating* scratch, Py_ssize_t head) noexcept nogil:
    # the first place in scratch from which element `head` starts a line; costs less than SPARE elements
    cdef Py_ssize_t size = sizeof(floating)
    return scratch + (LINE - <Py_ssize_t>((<size_t>scratch + head * size) % LINE)) % LINE // size


cdef simd_void shifted_sums(
    const floating* x, Py_ssize_t n, Py_ssize_t d, Py_ssize_t ldx,      # IN (n, d)
    const floating* pivot,                                              # IN (d,)
    double* s1, double* s2,                                             # OUT (d,)
) noexcept nogil:
    cdef Py_ssize_t i, j
    cdef const floating *x0
    cdef const floating *x1
    cdef const floating *x2
    cdef const floating *x3
    cdef double p, u0, u1, u2, u3

    for j in range(d):
        s1[j] = 0
        s2[j] = 0
    for i in range(0, n, 4):
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
            s1[j] += (u0 + u1) + (u2 + u3)
            s2[j] += (u0 * u0 + u1 * u1) + (u2 * u2 + u3 * u3)


cdef inline void scale_shift_row(
    const floating* x, Py_ssize_t start, Py_ssize_t end,
    const floating* hi, const floating* lo, const floating* scale, const floating* shift, floating* out,
) noexcept nogil:
    cdef Py_ssize_t j
    # out = ((x - hi) - lo) * scale + shift, never folded into a * x + b, which cancels when the mean is large
    for j in range(start, end):
        out[j] = ((x[j] - hi[j]) - lo[j]) * scale[j] + shift[j]


cdef simd_void scale_shift(
    const floating* x, Py_ssize_t n, Py_ssize_t d, Py_ssize_t ldx,      # IN (n, d)
    const floating* hi, const floating* lo, const floating* scale, const floating* shift,    # IN (d,), aligned at `head`
    Py_ssize_t head, floating* out, Py_ssize_t ldo,                     # OUT (n, d)
) noexcept nogil:
    cdef Py_ssize_t i

    head = min(head, d)
    for i in range(n):
        scale_shift_row(x, 0, head, hi, lo, scale, shift, out)
        scale_shift_row(x, head, d, hi, lo, scale, shift, out)
        x += ldx
        out += ldo


cdef simd_void forward_tile(
    const floating* x, Py_ssize_t n, Py_ssize_t d, Py_ssize_t ldx,      # IN (n, d)
    const floating* gamma, const floating* beta,                        # IN (d,)
    double eps, double momentum,
    floating* running_mean, floating* running_var,                      # IN OUT (d,), or NULL
    floating* out, Py_ssize_t ldo,                                      # OUT (n, d), may be x
    double* mean, double* rstd,                                         # OUT (d,)
) noexcept nogil:
    cdef floating scratch[4][COLUMNS + SPARE]
    cdef double s2[COLUMNS]
    cdef double* s1 = rstd
    cdef double pivot, rest, var, unbiased = <double>n / (n - 1)
    cdef Py_ssize_t j, head = columns_to_line(out, ldo)
    cdef floating* hi = aligned(scratch[0], head)
    cdef floating* lo = aligned(scratch[1], head)
    cdef floating* scale = aligned(scratch[2], head)
    cdef floating* shift = aligned(scratch[3], head)

    for j in range(d):
        hi[j] = x[j]
    shifted_sums(x, n, d, ldx, hi, s1, s2)
    if floating is double:
        for j in range(d):
            hi[j] += s1[j] / n
        shifted_sums(x, n, d, ldx, hi, s1, s2)
    for j in range(d):
        # with the pivot p:  mean = p + s1 / n;  var = s2 / n - (s1 / n)^2;  rstd = 1 / sqrt(var + eps)
        rest = s1[j] / n
        var = s2[j] / n - rest * rest
        # hi + lo = p + rest, the mean to twice the precision of the data
        pivot = hi[j]
        mean[j] = pivot + rest
        hi[j] = <floating>mean[j]
        lo[j] = <floating>(rest - (hi[j] - pivot))
        rstd[j] = 1 / sqrt(var + eps)
        scale[j] = <floating>(gamma[j] * rstd[j])
        shift[j] = beta[j]
        s2[j] = var * unbiased
    # running = (1 - momentum) * running + momentum * batch, with the unbiased variance
    if running_mean != NULL:
        for j in range(d):
            running_mean[j] = <floating>((1 - momentum) * running_mean[j] + momentum * mean[j])
            running_var[j] = <floating>((1 - momentum) * running_var[j] + momentum * s2[j])
    scale_shift(x, n, d, ldx, hi, lo, scale, shift, head, out, ldo)


cdef simd_void backward_sums(
    const floating* dout, Py_ssize_t ldd,                               # IN (n, d)
    const floating* x, Py_ssize_t n, Py_ssize_t d, Py_ssize_t ldx,      # IN (n, d)
    const double* mean,                                                 # IN (d,)
    double* sum_d, double* sum_du, double* sum_u,                       # OUT (d,); sum_u of float64 data only
) noexcept nogil:
    cdef const floating* no_dout = <const floating*>ZEROS
    cdef const floating* no_x = x
    cdef Py_ssize_t i, j
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
    for j in range(d):
        sum_d[j] = 0
        sum_du[j] = 0
        sum_u[j] = 0
    for i in range(0, n, 4):
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
            sum_d[j] += (g0 + g1) + (g2 + g3)
            sum_du[j] += (g0 * u0 + g1 * u1) + (g2 * u2 + g3 * u3)
            if floating is double:
                sum_u[j] += (u0 + u1) + (u2 + u3)


cdef inline void backward_dx_row(
    const floating* dout, const floating* x, Py_ssize_t start, Py_ssize_t end,
    const floating* hi, const floating* lo, const floating* slope,
    const floating* d_hi, const floating* d_lo, const floating* scale, floating* dx,
) noexcept nogil:
    cdef Py_ssize_t j
    # dx = (dout - mean(dout) - (x - mean) * slope) * scale, both means as pairs hi + lo
    for j in range(start, end):
        dx[j] = (((dout[j] - d_hi[j]) - d_lo[j]) - ((x[j] - hi[j]) - lo[j]) * slope[j]) * scale[j]


cdef simd_void backward_dx(
    const floating* dout, Py_ssize_t ldd,                               # IN (n, d)
    const floating* x, Py_ssize_t n, Py_ssize_t d, Py_ssize_t ldx,      # IN (n, d)
    const floating* hi, const floating* lo, const floating* slope,      # IN (d,), aligned at `head`
    const floating* d_hi, const floating* d_lo, const floating* scale,  # IN (d,), aligned at `head`
    Py_ssize_t head, floating* dx, Py_ssize_t lddx,                     # OUT (n, d)
) noexcept nogil:
    cdef Py_ssize_t i

    head = min(head, d)
    for i in range(n):
        backward_dx_row(dout, x, 0, head, hi, lo, slope, d_hi, d_lo, scale, dx)
        backward_dx_row(dout, x, head, d, hi, lo, slope, d_hi, d_lo, scale, dx)
        dout += ldd
        x += ldx
        dx += lddx


cdef simd_void backward_tile(
    const floating* dout, Py_ssize_t ldd,                               # IN (n, d)
    const floating* x, Py_ssize_t n, Py_ssize_t d, Py_ssize_t ldx,      # IN (n, d)
    const floating* gamma, const double* mean, const double* rstd,      # IN (d,)
    floating* dx, Py_ssize_t lddx,                                      # OUT (n, d), may be dout or x
    floating* dgamma, floating* dbeta,                                  # OUT (d,)
) noexcept nogil:
    cdef floating scratch[6][COLUMNS + SPARE]
    cdef double sum_d[COLUMNS]
    cdef double sum_du[COLUMNS]
    cdef double sum_u[COLUMNS]
    cdef double low, dxhat, mean_d
    cdef Py_ssize_t j, head = columns_to_line(dx, lddx)
    cdef floating* hi = aligned(scratch[0], head)
    cdef floating* lo = aligned(scratch[1], head)
    cdef floating* slope = aligned(scratch[2], head)
    cdef floating* d_hi = aligned(scratch[3], head)
    cdef floating* d_lo = aligned(scratch[4], head)
    cdef floating* scale = aligned(scratch[5], head)

    backward_sums(dout, ldd, x, n, d, ldx, mean, sum_d, sum_du, sum_u)
    for j in range(d):
        # what float64 left of the mean: low = mean(x - mean), hence xhat = (x - mean - low) * rstd; 0 for float32 data
        low = sum_u[j] / n
        hi[j] = <floating>mean[j]
        lo[j] = <floating>((mean[j] - hi[j]) + low)
        # dgamma = sum(dout * xhat);  dbeta = sum(dout)
        dxhat = rstd[j] * (sum_du[j] - low * sum_d[j])
        dgamma[j] = <floating>dxhat
        dbeta[j] = <floating>sum_d[j]
        # dx = gamma * rstd * (dout - mean(dout) - xhat * mean(dout * xhat))
        mean_d = sum_d[j] / n
        d_hi[j] = <floating>mean_d
        d_lo[j] = <floating>(mean_d - d_hi[j])
        scale[j] = <floating>(gamma[j] * rstd[j])
        slope[j] = <floating>(rstd[j] * (dxhat / n))
    backward_dx(dout, ldd, x, n, d, ldx, hi, lo, slope, d_hi, d_lo, scale, head, dx, lddx)


cdef simd_void inference_tile(
    const floating* x, Py_ssize_t n, Py_ssize_t d, Py_ssize_t ldx,      # IN (n, d)
    const floating* gamma, const floating* beta,                        # IN (d,)
    const floating* running_mean, const floating* running_var,          # IN (d,)
    double eps,
    floating* out, Py_ssize_t ldo,                                      # OUT (n, d), may be x
) noexcept nogil:
    cdef floating scratch[4][COLUMNS + SPARE]
    cdef Py_ssize_t j, head = columns_to_line(out, ldo)
    cdef floating* hi = aligned(scratch[0], head)
    cdef floating* lo = aligned(scratch[1], head)
    cdef floating* scale = aligned(scratch[2], head)
    cdef floating* shift = aligned(scratch[3], head)

    for j in range(d):
        hi[j] = running_mean[j]
        lo[j] = 0
        scale[j] = <floating>(gamma[j] / sqrt(running_var[j] + eps))
        shift[j] = beta[j]
    scale_shift(x, n, d, ldx, hi, lo, scale, shift, head, out, ldo)


# ---- the entries for Python: one row-major array each, in blocks of COLUMNS features

def forward(
    const floating[:, ::1] x not None, const floating[::1] gamma not None, const floating[::1] beta not None,
    double eps, double momentum, floating[::1] running_mean, floating[::1] running_var,
    floating[:, ::1] out not None, double[::1] mean not None, double[::1] rstd not None,
):
    cdef Py_ssize_t n = x.shape[0], d = x.shape[1], block, j
    cdef bint running = running_mean is not None and running_var is not None
    with nogil:
        for block in range((d + COLUMNS - 1) // COLUMNS):
            j = block * COLUMNS
            forward_tile(
                &x[0, j], n, min(d - j, COLUMNS), d, &gamma[j], &beta[j], eps, momentum,
                &running_mean[j] if running else NULL, &running_var[j] if running else NULL,
                &out[0, j], d, &mean[j], &rstd[j])


def backward(
    const floating[:, ::1] dout not None, const floating[:, ::1] x not None, const floating[::1] gamma not None,
    const double[::1] mean not None, const double[::1] rstd not None,
    floating[:, ::1] dx not None, floating[::1] dgamma not None, floating[::1] dbeta not None,
):
    cdef Py_ssize_t n = x.shape[0], d = x.shape[1], block, j
    with nogil:
        for block in range((d + COLUMNS - 1) // COLUMNS):
            j = block * COLUMNS
            backward_tile(
                &dout[0, j], d, &x[0, j], n, min(d - j, COLUMNS), d, &gamma[j], &mean[j], &rstd[j],
                &dx[0, j], d, &dgamma[j], &dbeta[j])


def inference(
    const floating[:, ::1] x not None, const floating[::1] gamma not None, const floating[::1] beta not None,
    const floating[::1] running_mean not None, const floating[::1] running_var not None, double eps,
    floating[:, ::1] out not None,
):
    cdef Py_ssize_t n = x.shape[0], d = x.shape[1], block, j
    with nogil:
        for block in range((d + COLUMNS - 1) // COLUMNS):
            j = block * COLUMNS
            inference_tile(
                &x[0, j], n, min(d - j, COLUMNS), d, &gamma[j], &beta[j], &running_mean[j], &running_var[j], eps,
                &out[0, j], d)
