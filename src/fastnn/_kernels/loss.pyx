"""Losses with their gradients, and what the outputs mean by them. All arithmetic is float64; the exponentials of a softmax wait in the output for their sum.

Rows are taken in groups of about CHUNK elements, whose intermediate results fit the stack: the exponentials of a whole group
are then one long loop, however few classes there are.
"""

from cython cimport floating

from fastnn._kernels.elementary cimport absolute, compensated, exp, log1p_positive, log1p_unit, rounding_of_sum
from fastnn._kernels.simd cimport extents, simd_void

cdef enum:
    CHUNK = 512
    LANES = 8


cdef inline double sum_of(double* e, Py_ssize_t n, bint by_halves) noexcept nogil:
    # LANES partial sums, because one running sum waits for each addition. Many numbers of float64 data are first added up by halves,
    # in place: of numbers that are all the same a running sum would be rounded the same way each time.
    cdef double s[LANES]
    cdef double rest = 0
    cdef Py_ssize_t i, l, half

    while by_halves and n >= 8 * LANES:
        half = n // 2
        n -= half
        for i in range(half):
            e[i] += e[n + i]
    for l in range(LANES):
        s[l] = 0
    for i in range(n // LANES):
        for l in range(LANES):
            s[l] += e[l]
        e += LANES
    for l in range(n % LANES):
        rest += e[l]
    return (((s[0] + s[1]) + (s[2] + s[3])) + ((s[4] + s[5]) + (s[6] + s[7]))) + rest


cdef void add(double* total, double x) noexcept nogil:
    total[1] += rounding_of_sum(total[0], x)
    total[0] += x


cdef simd_void softmax_tile(
    const floating* logits, Py_ssize_t ldz, Py_ssize_t n, Py_ssize_t k,     # IN (n, k)
    const Py_ssize_t* labels,                               # IN (n,) in [0, k)
    double scale,
    floating* dlogits, Py_ssize_t ldd,                      # OUT (n, k), may be logits
    double* total,                                          # IN OUT (2,)
) noexcept nogil:
    cdef double e[CHUNK]
    cdef double top[CHUNK]
    cdef double margin[CHUNK]
    cdef double others[CHUNK]
    cdef double at_target[CHUNK]
    cdef double losses[CHUNK]
    cdef Py_ssize_t first[CHUNK]
    cdef double s, factor
    cdef Py_ssize_t rows = max(1, CHUNK // k), width = min(k, CHUNK)
    cdef Py_ssize_t group, r, m, block, c, w, j, y
    cdef const floating* z
    cdef floating* d

    for group in range((n + rows - 1) // rows):
        m = min(rows, n - group * rows)
        # top = max(z), first where it stands;  margin = z[y] - top <= 0
        for r in range(m):
            z = logits + r * ldz
            s = z[0]
            first[r] = 0
            for j in range(1, k):
                if z[j] > s:
                    s = z[j]
                    first[r] = j
            top[r] = s
            margin[r] = z[labels[r]] - s
            # 0, or NaN where the top is infinite or NaN
            others[r] = s - s
        for block in range((k + width - 1) // width):
            c = block * width
            w = min(width, k - c)
            # e = exp(z - top)
            for r in range(m):
                z = logits + r * ldz + c
                for j in range(w):
                    e[r * w + j] = z[j] - top[r]
            for j in range(m * w):
                e[j] = exp(e[j])
            if floating is double:
                # e^(t + low) = e^t (1 + low), with low what rounding took from t = z - top; the exponential magnifies it by t
                for r in range(m):
                    z = logits + r * ldz + c
                    for j in range(w):
                        s = e[r * w + j]
                        e[r * w + j] = s + s * rounding_of_sum(z[j], -top[r]) if s > 0 else s
            # others = sum of e but for the target's and the top's: beside that 1 small numbers would lose their digits
            for r in range(m):
                d = dlogits + r * ldd + c
                for j in range(w):
                    d[j] = <floating>e[r * w + j]
                y = first[r] - c
                if 0 <= y < w:
                    e[r * w + y] = 0
                y = labels[r] - c
                if 0 <= y < w:
                    at_target[r] = e[r * w + y]
                    e[r * w + y] = 0
                others[r] += sum_of(e + r * w, w, floating is double)
        # loss = log(sum(e)) - margin = log1p(sum(e) - 1) - margin
        for r in range(m):
            losses[r] = log1p_positive(others[r] + at_target[r]) - margin[r]
        for r in range(m):
            # dz = scale * e / sum(e), and at the target scale * (e / sum(e) - 1) = -scale * (the others') / sum(e)
            d = dlogits + r * ldd
            factor = scale / (others[r] + at_target[r] + 1)
            for j in range(k):
                d[j] = <floating>(d[j] * factor)
            y = labels[r]
            d[y] = <floating>(-factor * (others[r] if first[r] == y else others[r] + 1))
        add(total, sum_of(losses, m, floating is double))
        logits += m * ldz
        dlogits += m * ldd
        labels += m


cdef simd_void elementwise_tile(
    bint sigmoid,
    const floating* x, Py_ssize_t ldx, const floating* target, Py_ssize_t ldt, Py_ssize_t n, Py_ssize_t k,      # IN (n, k)
    double scale,
    floating* dx, Py_ssize_t lddx,                          # OUT (n, k), may be x
    double* total,                                          # IN OUT (2,)
) noexcept nogil:
    cdef double losses[CHUNK]
    cdef double z, t, e, s, difference
    cdef Py_ssize_t rows, width, group, r, m, c, w, j

    if ldx == ldt == lddx == k:
        k = n * k
        n = 1
    rows = max(1, CHUNK // k)
    width = min(k, CHUNK)
    for group in range((n + rows - 1) // rows):
        m = min(rows, n - group * rows)
        c = 0
        while c < k:
            w = min(width, k - c)
            for r in range(m):
                if sigmoid:
                    for j in range(w):
                        z = x[r * ldx + c + j]
                        t = target[r * ldt + c + j]
                        # e = exp(-|z|);  loss = max(z, 0) - z t + log(1 + e)
                        e = exp(-absolute(z))
                        losses[r * w + j] = ((0 if z < 0 else z) - z * t) + log1p_unit(e)
                        # dz = sigmoid(z) - t = (1 - t) sigmoid(z) - t sigmoid(-z), which cancels nothing
                        s = scale / (1 + e)
                        dx[r * lddx + c + j] = <floating>((1 - t) * (e * s if z < 0 else s) - t * (s if z < 0 else e * s))
                else:
                    # loss = (x - target)^2;  dx = 2 scale (x - target)
                    for j in range(w):
                        difference = <double>x[r * ldx + c + j] - target[r * ldt + c + j]
                        losses[r * w + j] = difference * difference
                        dx[r * lddx + c + j] = <floating>(2 * scale * difference)
            add(total, sum_of(losses, m * w, floating is double))
            c += w
        x += m * ldx
        target += m * ldt
        dx += m * lddx


# ---- what a network answers, by its loss

cdef void label_tile(
    bint softmax,
    const floating* z, Py_ssize_t ldz, Py_ssize_t n, Py_ssize_t k,          # IN (n, k)
    Py_ssize_t* labels,                                     # OUT (n,) for softmax, else (n, k)
) noexcept nogil:
    cdef Py_ssize_t i, j, best

    for i in range(n):
        if softmax:
            # the first of the largest; a NaN is larger than anything
            best = 0
            for j in range(1, k):
                if not z[j] <= z[best] and z[best] == z[best]:
                    best = j
            labels[i] = best
        else:
            for j in range(k):
                labels[i * k + j] = z[j] > 0
        z += ldz


cdef simd_void softmax_probability_tile(
    const floating* z, Py_ssize_t ldz, Py_ssize_t n, Py_ssize_t k,          # IN (n, k)
    floating* p,                                            # OUT (n, k)
) noexcept nogil:
    cdef double e[CHUNK]
    cdef double top, total
    cdef Py_ssize_t i, j, c, w

    for i in range(n):
        top = z[0]
        for j in range(1, k):
            top = z[j] if z[j] > top else top
        # p = exp(z - top) / sum
        total = 0
        c = 0
        while c < k:
            w = min(k - c, CHUNK)
            for j in range(w):
                e[j] = exp(z[c + j] - top)
            for j in range(w):
                p[c + j] = <floating>e[j]
            total += sum_of(e, w, floating is double)
            c += w
        total = 1 / total
        for j in range(k):
            p[j] = <floating>(p[j] * total)
        z += ldz
        p += k


# ---- the entries for Python: the mean loss, and its gradient in the last argument

cdef inline bint same_shape(const floating[:, ::1] a, const floating[:, ::1] b) noexcept:
    return a.shape[0] == b.shape[0] and a.shape[1] == b.shape[1]


def softmax(const floating[:, ::1] logits not None, const Py_ssize_t[::1] labels not None, floating[:, ::1] dlogits not None):
    cdef Py_ssize_t n = logits.shape[0], k = logits.shape[1]
    cdef double[2] total = [0, 0]
    cdef Py_ssize_t i
    extents(
        n > 0 and logits.shape[1] > 0 and labels.shape[0] == n
        and dlogits.shape[0] == n and dlogits.shape[1] == logits.shape[1])
    for i in range(n):
        extents(0 <= labels[i] < logits.shape[1])
    with nogil:
        softmax_tile(&logits[0, 0], k, n, k, &labels[0], 1.0 / n, &dlogits[0, 0], k, total)
    return compensated(total[0], total[1]) / n


def sigmoid(
    const floating[:, ::1] logits not None, const floating[:, ::1] targets not None, floating[:, ::1] dlogits not None,
):
    cdef Py_ssize_t n = logits.shape[0] * logits.shape[1]
    cdef double[2] total = [0, 0]
    extents(n > 0 and same_shape(logits, targets) and same_shape(logits, dlogits))
    with nogil:
        elementwise_tile(True, &logits[0, 0], n, &targets[0, 0], n, 1, n, 1.0 / n, &dlogits[0, 0], n, total)
    return compensated(total[0], total[1]) / n


def squared_error(
    const floating[:, ::1] pred not None, const floating[:, ::1] target not None, floating[:, ::1] dpred not None,
):
    cdef Py_ssize_t n = pred.shape[0] * pred.shape[1]
    cdef double[2] total = [0, 0]
    extents(n > 0 and same_shape(pred, target) and same_shape(pred, dpred))
    with nogil:
        elementwise_tile(False, &pred[0, 0], n, &target[0, 0], n, 1, n, 1.0 / n, &dpred[0, 0], n, total)
    return compensated(total[0], total[1]) / n
