"""The Adam update: one pass over gradient, both moments and parameter."""

from cython cimport floating
from libc.math cimport expm1, log, sqrt, sqrtf

from fastnn._kernels.simd cimport extents, simd_void
from fastnn._kernels.team cimport Call, part, share

cdef enum:
    UNIT = 64           # numbers: whole cache lines
    PART = 65536        # numbers of one tile of several at most


cdef void correct(
    double lr, double step, double beta1, double beta2, double eps, bint eps_hat, double* rate, double* least,
) noexcept nogil:
    # 1 - beta^step, without cancellation; where beta is 0 its logarithm is -infinity, and the result 1
    cdef double root = sqrt(-expm1(step * log(beta2)))
    rate[0] = lr * root / -expm1(step * log(beta1))
    least[0] = eps if eps_hat else eps * root


cdef simd_void adam_tile(
    const floating* factors,                                            # IN (n,), or NULL
    const floating* grad, Py_ssize_t ldg, Py_ssize_t n, Py_ssize_t d,   # IN (n, d)
    floating rate, floating beta1, floating beta2, floating least, floating coupled, floating decoupled,
    floating* m, floating* v,                                           # IN OUT (n, d) with rows as far apart as param's
    floating* param, Py_ssize_t ldp,                                    # IN OUT (n, d)
) noexcept nogil:
    cdef Py_ssize_t i, j
    cdef floating g, first, second, root, factor = 1
    cdef floating new1 = 1 - beta1, new2 = 1 - beta2        # not in the loop, where a 1 of C would make float32 a double

    if ldg == ldp == d and factors == NULL:
        d = n * d
        n = 1
    # g = grad + coupled * param;  m = beta1 * m + (1 - beta1) * g;  v = beta2 * v + (1 - beta2) * g^2
    # param -= decoupled * param + rate * m / (sqrt(v) + least)
    for i in range(n):
        if factors != NULL:
            factor = factors[i]
        for j in range(d):
            g = factor * grad[j]
            if coupled != 0:
                g = g + coupled * param[j]
            first = beta1 * m[j] + new1 * g
            second = beta2 * v[j] + new2 * (g * g)
            m[j] = first
            v[j] = second
            if floating is float:
                root = sqrtf(second)
            else:
                root = sqrt(second)
            g = rate * (first / (root + least))
            if decoupled != 0:
                g = g + decoupled * param[j]
            param[j] = param[j] - g
        grad += ldg
        m += ldp
        v += ldp
        param += ldp


cdef void update_part(const floating* any, Call* c, Py_ssize_t first) noexcept nogil:
    cdef Py_ssize_t n = min(c.sizes[0] - first, c.panel)
    adam_tile(
        NULL, <floating*>c.arrays[0] + first, n, 1, n, <floating>c.numbers[0], <floating>c.numbers[1], <floating>c.numbers[2],
        <floating>c.numbers[3], <floating>c.numbers[4], <floating>c.numbers[5], <floating*>c.arrays[1] + first,
        <floating*>c.arrays[2] + first, <floating*>c.arrays[3] + first, n)


cdef void update_f32(void* call, Py_ssize_t tile, Py_ssize_t worker) noexcept nogil:
    update_part(<float*>NULL, <Call*>call, tile * (<Call*>call).panel)


cdef void update_f64(void* call, Py_ssize_t tile, Py_ssize_t worker) noexcept nogil:
    update_part(<double*>NULL, <Call*>call, tile * (<Call*>call).panel)


def update(
    const floating[::1] grad not None, double lr, double step, double beta1, double beta2, double eps, bint eps_hat,
    double weight_decay, bint decoupled, floating[::1] m not None, floating[::1] v not None, floating[::1] param not None,
    Py_ssize_t n_threads=1,
):
    cdef Py_ssize_t n = param.shape[0]
    cdef Call c
    extents(grad.shape[0] == m.shape[0] == v.shape[0] == n > 0)
    c.arrays[:4] = [<void*>&grad[0], <void*>&m[0], <void*>&v[0], <void*>&param[0]]
    c.sizes[0] = n
    c.numbers[1:6] = [beta1, beta2, 0, 0 if decoupled else weight_decay, lr * weight_decay if decoupled else 0]
    # (not from c.numbers: where gcc 12 vectorises the way of two numbers through float32 into an array, it does not round them)
    correct(lr, step, <floating>beta1, <floating>beta2, eps, eps_hat, &c.numbers[0], &c.numbers[3])
    c.panel = part(n, UNIT, PART, n_threads) if n_threads > 1 else n
    with nogil:
        share(update_f32 if floating is float else update_f64, &c, n, n_threads)
