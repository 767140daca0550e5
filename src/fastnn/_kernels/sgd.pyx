"""The SGD update: one pass over gradient, velocity and parameter; and the norm that clipping needs."""

from cython cimport floating

from fastnn._kernels.simd cimport extents, simd_void


cdef simd_void update_tile(
    const floating* grad, Py_ssize_t ldg, Py_ssize_t n, Py_ssize_t d,   # IN (n, d)
    floating lr, floating momentum, bint nesterov, floating weight_decay,
    floating* velocity,                                                 # IN OUT (n, d) with rows as far apart as param's, or NULL
    floating* param, Py_ssize_t ldp,                                    # IN OUT (n, d)
) noexcept nogil:
    cdef Py_ssize_t i, j
    cdef floating g, v

    if ldg == ldp == d:
        d = n * d
        n = 1
    # g = grad + weight_decay * param;  v = momentum * v + g;  param -= lr * (g + momentum * v if nesterov else v)
    for i in range(n):
        if velocity == NULL:
            for j in range(d):
                g = grad[j]
                if weight_decay != 0:
                    g = g + weight_decay * param[j]
                param[j] = param[j] - lr * g
        else:
            for j in range(d):
                g = grad[j]
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


def update(
    const floating[::1] grad not None, floating lr, floating momentum, bint nesterov, floating weight_decay,
    floating[::1] velocity, floating[::1] param not None,
):
    cdef Py_ssize_t n = param.shape[0]
    cdef floating* v = NULL
    extents(grad.shape[0] == n > 0 and (velocity is None or velocity.shape[0] == n))
    if velocity is not None:
        v = &velocity[0]
    with nogil:
        update_tile(&grad[0], n, 1, n, lr, momentum, nesterov, weight_decay, v, &param[0], n)


def sum_of_squares(const floating[::1] x not None):
    cdef double sums[LANES]
    cdef Py_ssize_t l
    cdef double total = 0
    extents(x.shape[0] > 0)
    for l in range(LANES):
        sums[l] = 0
    with nogil:
        squares_tile(&x[0], x.shape[0], sums)
    for l in range(LANES):
        total += sums[l]
    return total
