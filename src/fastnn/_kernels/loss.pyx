"""Losses with their gradients. All arithmetic is float64, rounded on the way out.

Rows are taken in groups of about CHUNK elements, whose intermediate results fit the stack: the exponentials of a whole group
are then one long loop, however few classes there are.
"""

from cython cimport floating
from libc.math cimport log1p

from fastnn._kernels.elementary cimport absolute, exp, log1p_unit
from fastnn._kernels.simd cimport simd_void

cdef enum:
    CHUNK = 512
    LANES = 8


cdef inline double sum_of(const double* e, Py_ssize_t n) noexcept nogil:
    # LANES partial sums, because one running sum waits for each addition
    cdef double s[LANES]
    cdef double rest = 0
    cdef Py_ssize_t i, l, whole = n - n % LANES

    for l in range(LANES):
        s[l] = 0
    for i in range(whole // LANES):
        for l in range(LANES):
            s[l] += e[i * LANES + l]
    for i in range(whole, n):
        rest += e[i]
    return (((s[0] + s[1]) + (s[2] + s[3])) + ((s[4] + s[5]) + (s[6] + s[7]))) + rest


cdef simd_void softmax_tile(
    const floating* logits, Py_ssize_t n, Py_ssize_t k,     # IN (n, k)
    const Py_ssize_t* labels,                               # IN (n,) in [0, k)
    double scale,
    floating* dlogits,                                      # OUT (n, k), may be logits
    double* total,                                          # IN OUT
) noexcept nogil:
    cdef double e[CHUNK]
    cdef double top[CHUNK]
    cdef double margin[CHUNK]
    cdef double others[CHUNK]
    cdef double at_target[CHUNK]
    cdef double s, factor
    cdef Py_ssize_t rows = max(1, CHUNK // k), width = min(k, CHUNK)
    cdef Py_ssize_t group, r, m, block, c, w, j, y
    cdef const floating* z
    cdef floating* d

    for group in range((n + rows - 1) // rows):
        m = min(rows, n - group * rows)
        # top = max(z);  margin = z[y] - top <= 0
        for r in range(m):
            z = logits + r * k
            s = z[0]
            for j in range(1, k):
                s = z[j] if z[j] > s else s
            top[r] = s
            margin[r] = z[labels[r]] - s
            others[r] = 0
        for block in range((k + width - 1) // width):
            c = block * width
            w = min(width, k - c)
            # e = exp(z - top)
            for r in range(m):
                z = logits + r * k + c
                for j in range(w):
                    e[r * w + j] = z[j] - top[r]
            for j in range(m * w):
                e[j] = exp(e[j])
            # others = sum of e but for the target's
            for r in range(m):
                y = labels[r] - c
                d = dlogits + r * k + c
                for j in range(w):
                    d[j] = <floating>e[r * w + j]
                if 0 <= y < w:
                    at_target[r] = e[r * w + y]
                    e[r * w + y] = 0
                others[r] += sum_of(e + r * w, w)
        for r in range(m):
            s = others[r] + at_target[r]
            # loss = log(s) - margin; the top itself is the 1 of log1p: no digit is lost when it is the target
            total[0] += log1p(others[r] + (at_target[r] - 1)) - margin[r]
            # dz = scale * e / s, and at the target scale * (e / s - 1) = -scale * others / s
            d = dlogits + r * k
            factor = scale / s
            for j in range(k):
                d[j] = <floating>(d[j] * factor)
            d[labels[r]] = <floating>(-factor * others[r])
        logits += m * k
        dlogits += m * k
        labels += m


cdef simd_void sigmoid_tile(
    const floating* logits, const floating* targets, Py_ssize_t n,      # IN (n,)
    double scale,
    floating* dlogits,                                                  # OUT (n,), may be logits
    double* total,                                                      # IN OUT
) noexcept nogil:
    cdef double losses[CHUNK]
    cdef double z, t, e, right, wrong
    cdef Py_ssize_t chunk, i, m

    for chunk in range((n + CHUNK - 1) // CHUNK):
        m = min(CHUNK, n - chunk * CHUNK)
        for i in range(m):
            z = logits[i]
            t = targets[i]
            # e = exp(-|z|);  loss = max(z, 0) - z t + log(1 + e)
            e = exp(-absolute(z))
            losses[i] = ((0 if z < 0 else z) - z * t) + log1p_unit(e)
            # dz = sigmoid(z) - t = (1 - t) sigmoid(z) - t sigmoid(-z), which cancels nothing
            right = (e if z < 0 else 1) / (1 + e)
            wrong = (1 if z < 0 else e) / (1 + e)
            dlogits[i] = <floating>(scale * ((1 - t) * right - t * wrong))
        total[0] += sum_of(losses, m)
        logits += m
        targets += m
        dlogits += m


cdef simd_void squared_error_tile(
    const floating* pred, const floating* target, Py_ssize_t n,         # IN (n,)
    double scale,
    floating* dpred,                                                    # OUT (n,), may be pred
    double* total,                                                      # IN OUT
) noexcept nogil:
    cdef double losses[CHUNK]
    cdef double difference
    cdef Py_ssize_t chunk, i, m

    for chunk in range((n + CHUNK - 1) // CHUNK):
        m = min(CHUNK, n - chunk * CHUNK)
        # loss = (pred - target)^2;  dpred = 2 scale (pred - target)
        for i in range(m):
            difference = <double>pred[i] - target[i]
            losses[i] = difference * difference
            dpred[i] = <floating>(2 * scale * difference)
        total[0] += sum_of(losses, m)
        pred += m
        target += m
        dpred += m


# ---- the entries for Python: the mean loss, and its gradient in the last argument

def softmax(const floating[:, ::1] logits not None, const Py_ssize_t[::1] labels not None, floating[:, ::1] dlogits not None):
    cdef Py_ssize_t n = logits.shape[0]
    cdef double total = 0
    with nogil:
        softmax_tile(&logits[0, 0], n, logits.shape[1], &labels[0], 1.0 / n, &dlogits[0, 0], &total)
    return total / n


def sigmoid(
    const floating[:, ::1] logits not None, const floating[:, ::1] targets not None, floating[:, ::1] dlogits not None,
):
    cdef Py_ssize_t n = logits.shape[0] * logits.shape[1]
    cdef double total = 0
    with nogil:
        sigmoid_tile(&logits[0, 0], &targets[0, 0], n, 1.0 / n, &dlogits[0, 0], &total)
    return total / n


def squared_error(
    const floating[:, ::1] pred not None, const floating[:, ::1] target not None, floating[:, ::1] dpred not None,
):
    cdef Py_ssize_t n = pred.shape[0] * pred.shape[1]
    cdef double total = 0
    with nogil:
        squared_error_tile(&pred[0, 0], &target[0, 0], n, 1.0 / n, &dpred[0, 0], &total)
    return total / n
