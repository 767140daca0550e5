"""The SGD update: one pass over gradient, velocity and parameter; the norm that clipping needs; the average of parameters."""

from cython cimport floating

from fastnn._kernels.simd cimport extents, simd_void
from fastnn._kernels.team cimport Call, part, share

cdef enum:
    UNIT = 64           # numbers: whole cache lines
    PART = 131072       # numbers of one tile of several at most


cdef simd_void update_tile(
    const floating* factors,                                            # IN (n,), or NULL
    const floating* grad, Py_ssize_t ldg, Py_ssize_t n, Py_ssize_t d,   # IN (n, d)
    floating lr, floating momentum, bint nesterov, floating weight_decay,
    floating* velocity,                                                 # IN OUT (n, d) with rows as far apart as param's, or NULL
    floating* param, Py_ssize_t ldp,                                    # IN OUT (n, d)
) noexcept nogil:
    cdef Py_ssize_t i, j
    cdef floating g, v, factor = 1

    if ldg == ldp == d and factors == NULL:
        d = n * d
        n = 1
    # g = grad + weight_decay * param;  v = momentum * v + g;  param -= lr * (g + momentum * v if nesterov else v)
    for i in range(n):
        if factors != NULL:
            factor = factors[i]
        if velocity == NULL:
            for j in range(d):
                g = factor * grad[j]
                if weight_decay != 0:
                    g = g + weight_decay * param[j]
                param[j] = param[j] - lr * g
        else:
            for j in range(d):
                g = factor * grad[j]
                if weight_decay != 0:
                    g = g + weight_decay * param[j]
                v = momentum * velocity[j] + g
                velocity[j] = v
                param[j] = param[j] - lr * (g + momentum * v if nesterov else v)
            velocity += ldp
        grad += ldg
        param += ldp


cdef simd_void squares_tile(
    const floating* x, Py_ssize_t n,    # IN (n,)
    double* sums,                       # IN OUT (LANES,)
) noexcept nogil:
    cdef Py_ssize_t i, l

    # sums[l] += sum_i x[i, l]^2, in float64, whose range holds any square of a float32
    for i in range(n // LANES):
        for l in range(LANES):
            sums[l] += <double>x[l] * x[l]
        x += LANES
    for l in range(n % LANES):
        sums[l] += <double>x[l] * x[l]


cdef simd_void average_tile(
    const floating* param, Py_ssize_t n,        # IN (n,)
    double rate,
    double* average,                            # IN OUT (n,)
) noexcept nogil:
    cdef Py_ssize_t i

    # average += rate * (param - average), in float64: after many steps the rate is small beside the rounding of float32
    for i in range(n):
        average[i] += rate * (param[i] - average[i])


cdef void update_part(const floating* any, Call* c, Py_ssize_t first) noexcept nogil:
    cdef floating* velocity = <floating*>c.arrays[1]
    cdef Py_ssize_t n = min(c.sizes[0] - first, c.panel)
    update_tile(
        NULL, <floating*>c.arrays[0] + first, n, 1, n, <floating>c.numbers[0], <floating>c.numbers[1], c.sizes[1],
        <floating>c.numbers[2], velocity + first if velocity != NULL else NULL, <floating*>c.arrays[2] + first, n)


cdef void update_f32(void* call, Py_ssize_t tile, Py_ssize_t worker) noexcept nogil:
    update_part(<float*>NULL, <Call*>call, tile * (<Call*>call).panel)


cdef void update_f64(void* call, Py_ssize_t tile, Py_ssize_t worker) noexcept nogil:
    update_part(<double*>NULL, <Call*>call, tile * (<Call*>call).panel)


def update(
    const floating[::1] grad not None, floating lr, floating momentum, bint nesterov, floating weight_decay,
    floating[::1] velocity, floating[::1] param not None, Py_ssize_t n_threads=1,
):
    cdef Py_ssize_t n = param.shape[0]
    cdef Call c
    extents(grad.shape[0] == n > 0 and (velocity is None or velocity.shape[0] == n))
    c.arrays[:3] = [<void*>&grad[0], NULL, <void*>&param[0]]
    if velocity is not None:
        c.arrays[1] = <void*>&velocity[0]
    c.sizes[0] = n
    c.sizes[1] = nesterov
    c.numbers[:3] = [lr, momentum, weight_decay]
    c.panel = part(n, UNIT, PART, n_threads) if n_threads > 1 else n
    with nogil:
        share(update_f32 if floating is float else update_f64, &c, n, n_threads)
