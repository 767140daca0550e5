"""The dense layer: three products by gemm.pyx, and what goes around a product that NumPy's BLAS does."""

from cython cimport floating

from fastnn._kernels.elementary cimport compensated, rounding_of_sum
from fastnn._kernels.gemm cimport add_row, own_memory, shared_gemm
from fastnn._kernels.simd cimport extents, simd_void


cdef simd_void column_sums(
    const floating* x, Py_ssize_t n, Py_ssize_t d, Py_ssize_t ldx,      # IN (n, d), d <= COLUMNS
    floating* sums,                                                     # OUT (d,)
) noexcept nogil:
    cdef double total[COLUMNS]
    cdef double lost[COLUMNS]
    cdef double s[COLUMNS]
    cdef double g
    cdef Py_ssize_t chunk, i, j, m

    for j in range(d):
        total[j] = 0
        lost[j] = 0
    # sums = sum_i x[i, :], in float64. What rounding takes from the total is kept, so that the error does not grow with n: of
    # each four rows, which are one load and store of the sums; of float32 data of each chunk, whose sum starts anew.
    if floating is double:
        for i in range(n // 4):
            for j in range(d):
                g = (x[j] + x[ldx + j]) + (x[2 * ldx + j] + x[3 * ldx + j])
                lost[j] += rounding_of_sum(total[j], g)
                total[j] += g
            x += 4 * ldx
        for i in range(n % 4):
            for j in range(d):
                lost[j] += rounding_of_sum(total[j], x[j])
                total[j] += x[j]
            x += ldx
    else:
        for chunk in range((n + CHUNK - 1) // CHUNK):
            m = min(CHUNK, n - chunk * CHUNK)
            for j in range(d):
                s[j] = 0
            for i in range(m // 4):
                for j in range(d):
                    s[j] += (<double>x[j] + x[ldx + j]) + (<double>x[2 * ldx + j] + x[3 * ldx + j])
                x += 4 * ldx
            for i in range(m % 4):
                for j in range(d):
                    s[j] += x[j]
                x += ldx
            for j in range(d):
                lost[j] += rounding_of_sum(total[j], s[j])
                total[j] += s[j]
    for j in range(d):
        sums[j] = <floating>compensated(total[j], lost[j])


# ---- the entries for Python

def forward(
    const floating[:, ::1] x not None, const floating[:, ::1] weight not None, const floating[::1] bias,
    floating[:, ::1] out not None, Py_ssize_t n_threads=1,
):
    cdef Py_ssize_t n_in = weight.shape[0], n_out = weight.shape[1]
    cdef const floating* b = NULL
    extents(
        x.shape[0] > 0 and n_in > 0 and n_out > 0 and x.shape[1] == n_in
        and out.shape[0] == x.shape[0] and out.shape[1] == n_out and (bias is None or bias.shape[0] == n_out))
    if bias is not None:
        b = &bias[0]
    own_memory()
    # out = x weight + bias
    with nogil:
        shared_gemm(x.shape[0], n_out, n_in, &x[0, 0], n_in, 1, &weight[0, 0], n_out, 1, b, &out[0, 0], n_out, n_threads)


def backward(
    const floating[:, ::1] dout not None, const floating[:, ::1] x not None, const floating[:, ::1] weight not None,
    floating[:, ::1] dx, floating[:, ::1] dweight not None, floating[::1] dbias not None, Py_ssize_t n_threads=1,
):
    cdef Py_ssize_t n = x.shape[0], n_in = weight.shape[0], n_out = weight.shape[1]
    cdef const floating* no_bias = NULL
    cdef floating* to_dx = NULL
    extents(
        n > 0 and n_in > 0 and n_out > 0 and x.shape[1] == n_in and dout.shape[0] == n and dout.shape[1] == n_out
        and dweight.shape[0] == n_in and dweight.shape[1] == n_out and dbias.shape[0] == n_out
        and (dx is None or (dx.shape[0] == n and dx.shape[1] == n_in)))
    if dx is not None:
        to_dx = &dx[0, 0]
    own_memory()
    with nogil:
        # dx = dout weight^T
        if to_dx != NULL:
            shared_gemm(n, n_in, n_out, &dout[0, 0], n_out, 1, &weight[0, 0], 1, n_out, no_bias, to_dx, n_in, n_threads)
        # dweight = x^T dout
        shared_gemm(n_in, n_out, n, &x[0, 0], 1, n_in, &dout[0, 0], n_out, 1, no_bias, &dweight[0, 0], n_out, n_threads)
        sum_rows(&dout[0, 0], n, n_out, &dbias[0])


def bias_forward(const floating[::1] bias not None, floating[:, ::1] out not None):
    """out += bias, behind a product that BLAS did."""
    extents(out.shape[0] > 0 and out.shape[1] == bias.shape[0] > 0)
    with nogil:
        add_row(&bias[0], out.shape[0], out.shape[1], &out[0, 0], out.shape[1])


def bias_backward(const floating[:, ::1] dout not None, floating[::1] dbias not None):
    """dbias = sum of the rows of dout, beside products that BLAS did."""
    extents(dout.shape[0] > 0 and dout.shape[1] == dbias.shape[0] > 0)
    with nogil:
        sum_rows(&dout[0, 0], dout.shape[0], dout.shape[1], &dbias[0])


cdef void sum_rows(const floating* x, Py_ssize_t n, Py_ssize_t d, floating* sums) noexcept nogil:
    cdef Py_ssize_t block, j
    for block in range((d + COLUMNS - 1) // COLUMNS):
        j = block * COLUMNS
        column_sums(x + j, n, min(d - j, COLUMNS), d, sums + j)
