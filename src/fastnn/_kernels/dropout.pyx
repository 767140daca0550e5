# cython: overflowcheck=False
# (the arithmetic of the generator wraps around)
"""Dropout masks from a counter-based generator: Philox4x32-10 of Salmon et al. (2011, "Parallel random numbers: as easy as
1, 2, 3"). Its input is the place of an element, so any thread may draw any part of a mask.
"""

from cython cimport floating
from libc.stdint cimport uint32_t, uint64_t

from fastnn._kernels.simd cimport extents, simd_void

cdef enum:
    COUNTERS = 16               # of a group of columns: a few vectors
    COLUMNS = 64                # that they give: four words each
    ROUNDS = 10


cdef inline uint32_t high(uint32_t a, uint32_t b) noexcept nogil:
    return <uint32_t>((<uint64_t>a * b) >> 32)


cdef simd_void mask_tile(
    uint64_t key, uint64_t step, uint32_t layer, double p,
    Py_ssize_t row, Py_ssize_t n, Py_ssize_t column, Py_ssize_t d,
    floating* mask, Py_ssize_t ldm,                         # OUT (n, d)
) noexcept nogil:
    cdef uint32_t c0[COUNTERS]
    cdef uint32_t c1[COUNTERS]
    cdef uint32_t c2[COUNTERS]
    cdef uint32_t c3[COUNTERS]
    cdef uint32_t multiplier0 = 0xD2511F53, multiplier1 = 0xCD9E8D57, weyl0 = 0x9E3779B9, weyl1 = 0xBB67AE85
    cdef uint32_t k0, k1, t0, t2
    # dropped below: p 2^32, which p < 1 keeps in range
    cdef uint32_t threshold = <uint32_t>min(p * 4294967296.0, 4294967295.0)
    cdef floating zero = 0, scale = <floating>(1 / (1 - p))
    cdef floating group_mask[COLUMNS]
    cdef Py_ssize_t i, g, first, start, end, j
    cdef int turn

    for i in range(n):
        for g in range(column // COLUMNS, (column + d + COLUMNS - 1) // COLUMNS):
            # the words of counter c are those of columns c, c + COUNTERS, c + 2 COUNTERS and c + 3 COUNTERS of the group
            for j in range(COUNTERS):
                c0[j] = <uint32_t>(g * COUNTERS + j)
                c1[j] = <uint32_t>(row + i)
                c2[j] = <uint32_t>step
                c3[j] = layer ^ (<uint32_t>(step >> 32) << 16)
            k0 = <uint32_t>key
            k1 = <uint32_t>(key >> 32)
            for turn in range(ROUNDS):
                for j in range(COUNTERS):
                    t0 = high(multiplier1, c2[j]) ^ c1[j] ^ k0
                    t2 = high(multiplier0, c0[j]) ^ c3[j] ^ k1
                    c1[j] = multiplier1 * c2[j]
                    c3[j] = multiplier0 * c0[j]
                    c0[j] = t0
                    c2[j] = t2
                k0 += weyl0
                k1 += weyl1
            for j in range(COUNTERS):
                group_mask[j] = zero if c0[j] < threshold else scale
                group_mask[COUNTERS + j] = zero if c1[j] < threshold else scale
                group_mask[2 * COUNTERS + j] = zero if c2[j] < threshold else scale
                group_mask[3 * COUNTERS + j] = zero if c3[j] < threshold else scale
            first = g * COLUMNS
            start = max(column, first)
            end = min(column + d, first + COLUMNS)
            for j in range(start, end):
                mask[j - column] = group_mask[j - first]
        mask += ldm


cdef simd_void scale_tile(
    const floating* x, Py_ssize_t ldx, const floating* mask, Py_ssize_t ldm, Py_ssize_t n, Py_ssize_t d,    # IN (n, d)
    floating* y, Py_ssize_t ldy,                            # OUT (n, d), may be x
) noexcept nogil:
    cdef Py_ssize_t i, j

    for i in range(n):
        for j in range(d):
            y[j] = x[j] * mask[j]
        x += ldx
        mask += ldm
        y += ldy


def mask(uint64_t key, uint64_t step, uint32_t layer, double p, Py_ssize_t row, Py_ssize_t column, floating[:, ::1] out not None):
    """The mask of a block, for tests."""
    extents(row >= 0 and column >= 0 and out.shape[0] > 0 and out.shape[1] > 0)
    with nogil:
        mask_tile(key, step, layer, p, row, out.shape[0], column, out.shape[1], &out[0, 0], out.shape[1])
