"""The matrix product: blocks and panels around the register tile of gemm_tile.h.

A panel of B, two vectors wide (four beside few rows) and DEPTH rows deep, stays in the first-level cache while the rows of A pass by; a block of A
stays in the second. A panel is copied where its rows lie far apart (their cache sets collide) and transposed where B comes
as a transpose; else B is read where it lies. C is overwritten, whatever it held.
"""

from cython cimport floating

from fastnn._kernels.simd cimport extents

cdef extern from "gemm.h":
    ctypedef struct fastnn_tile_f32:
        int lanes
        int rows
        void tile(
            int rows, int vectors, Py_ssize_t k, const float* a, Py_ssize_t a_row, Py_ssize_t a_col,
            const float* b, Py_ssize_t b_row, bint more, const float* bias, float* c, Py_ssize_t c_row) noexcept nogil
        void pack(
            Py_ssize_t k, Py_ssize_t n, Py_ssize_t width, const float* b, Py_ssize_t b_row, Py_ssize_t b_col,
            float* panel) noexcept nogil
    ctypedef struct fastnn_tile_f64:
        int lanes
        int rows
        void tile(
            int rows, int vectors, Py_ssize_t k, const double* a, Py_ssize_t a_row, Py_ssize_t a_col,
            const double* b, Py_ssize_t b_row, bint more, const double* bias, double* c, Py_ssize_t c_row) noexcept nogil
        void pack(
            Py_ssize_t k, Py_ssize_t n, Py_ssize_t width, const double* b, Py_ssize_t b_row, Py_ssize_t b_col,
            double* panel) noexcept nogil
    fastnn_tile_f32 fastnn_best_tile_f32()
    fastnn_tile_f64 fastnn_best_tile_f64()

cdef enum:
    DEPTH = 256             # rows of a packed panel
    WIDEST = 32             # its columns at most: two vectors of 16 floats
    BLOCK = 24              # rows of a block of A, in tiles
    TALLEST = 12            # rows of the tallest tile
    FAR = 2048              # bytes between neighbours from which on they are worth a copy
    SMALL = 32768           # bytes of B that stay in the first-level cache

cdef fastnn_tile_f32 TILE_F32 = fastnn_best_tile_f32()
cdef fastnn_tile_f64 TILE_F64 = fastnn_best_tile_f64()


cdef inline Py_ssize_t divide_up(Py_ssize_t a, Py_ssize_t b) noexcept nogil:
    return (a + b - 1) // b


cdef inline void tile(
    Py_ssize_t rows, Py_ssize_t vectors, Py_ssize_t k, const floating* a, Py_ssize_t a_row, Py_ssize_t a_col,
    const floating* b, Py_ssize_t b_row, bint more, const floating* bias, floating* c, Py_ssize_t c_row,
) noexcept nogil:
    if floating is float:
        TILE_F32.tile(rows, vectors, k, a, a_row, a_col, b, b_row, more, bias, c, c_row)
    else:
        TILE_F64.tile(rows, vectors, k, a, a_row, a_col, b, b_row, more, bias, c, c_row)


cdef inline void pack(
    Py_ssize_t k, Py_ssize_t n, Py_ssize_t width, const floating* b, Py_ssize_t b_row, Py_ssize_t b_col, floating* panel,
) noexcept nogil:
    if floating is float:
        TILE_F32.pack(k, n, width, b, b_row, b_col, panel)
    else:
        TILE_F64.pack(k, n, width, b, b_row, b_col, panel)


cdef inline void copy(
    Py_ssize_t rows, Py_ssize_t columns, const floating* source, Py_ssize_t source_row,
    floating* target, Py_ssize_t target_row, bint wanted,
) noexcept nogil:
    cdef Py_ssize_t i, j
    if wanted:
        for i in range(rows):
            for j in range(columns):
                target[i * target_row + j] = source[i * source_row + j]


cdef void gemm(
    Py_ssize_t m, Py_ssize_t n, Py_ssize_t k,
    const floating* a, Py_ssize_t a_row, Py_ssize_t a_col,      # IN (m, k)
    const floating* b, Py_ssize_t b_row, Py_ssize_t b_col,      # IN (k, n)
    const floating* bias,                                       # IN (n,), or NULL
    floating* c, Py_ssize_t c_row,                              # OUT (m, n)
) noexcept nogil:
    cdef floating panel[DEPTH * WIDEST]
    cdef floating strip[DEPTH * TALLEST]
    cdef floating edge[TALLEST * WIDEST]
    cdef floating edge_bias[WIDEST]
    cdef Py_ssize_t size = sizeof(floating)
    cdef Py_ssize_t lanes = TILE_F32.lanes if floating is float else TILE_F64.lanes
    cdef Py_ssize_t rows = TILE_F32.rows if floating is float else TILE_F64.rows
    # a column of A that is spread over many cache lines is gathered once, for all panels
    cdef bint gathered = a_col != 1 and a_col * size >= FAR and k >= DEPTH and n >= 4 * lanes
    cdef bint packed = b_col != 1 or (n < 2 * lanes and n != lanes) or (m >= 4 * rows and b_row * size > FAR and not gathered)
    cdef Py_ssize_t depth = min(k, DEPTH) if packed or gathered else k
    # few rows leave registers for wider panels
    cdef Py_ssize_t widest = 4 if 2 * m <= rows and not packed else 2
    # bands of A outside, panels of B inside; a band of one tile where all of B's rows stay in the cache
    cdef Py_ssize_t height = rows if gathered or (not packed and n * k * size <= SMALL) else BLOCK * rows
    cdef Py_ssize_t step, p, kc, band, i, mc, j, rest, vectors, width, start, tiles, t, r0, r, q
    cdef Py_ssize_t strip_row, strip_col, panel_row
    cdef const floating *strip_a
    cdef const floating *panel_b
    cdef const floating *panel_bias
    cdef bint ragged

    for step in range(divide_up(k, depth)):
        p = step * depth
        kc = min(depth, k - p)
        for band in range(divide_up(m, height)):
            i = band * height
            mc = min(height, m - i)
            tiles = divide_up(mc, rows)
            strip_a = a + i * a_row + p * a_col
            strip_row = a_row
            strip_col = a_col
            if gathered:
                for q in range(kc):
                    for r in range(mc):
                        strip[q * mc + r] = strip_a[r * a_row + q * a_col]
                strip_a = strip
                strip_row = 1
                strip_col = mc
            j = 0
            while j < n:
                # the narrowest panel that covers the rest
                rest = n - j
                vectors = widest
                while vectors > 1 and (vectors // 2) * lanes >= rest:
                    vectors //= 2
                start = j
                ragged = vectors * lanes > rest
                if ragged and not packed and depth == k:
                    # the last panel may reach back over the one before it, which gives the same bits again
                    ragged = False
                    if vectors * lanes > n:
                        vectors //= 2
                    else:
                        start = n - vectors * lanes
                width = vectors * lanes
                j = start + width

                panel_b = b + p * b_row + start * b_col
                panel_row = b_row
                if packed or ragged:
                    pack(kc, min(width, rest), width, panel_b, b_row, b_col, panel)
                    panel_b = panel
                    panel_row = width
                panel_bias = NULL
                if bias != NULL and p + kc == k:
                    panel_bias = bias + start
                    if ragged:
                        for q in range(width):
                            edge_bias[q] = bias[start + q] if q < rest else 0
                        panel_bias = edge_bias

                for t in range(tiles):
                    r0 = mc * t // tiles
                    r = mc * (t + 1) // tiles - r0
                    if ragged:
                        copy(r, rest, c + (i + r0) * c_row + start, c_row, edge, width, p > 0)
                        tile(r, vectors, kc, strip_a + r0 * strip_row, strip_row, strip_col, panel_b, panel_row,
                             p > 0, panel_bias, edge, width)
                        copy(r, rest, edge, width, c + (i + r0) * c_row + start, c_row, True)
                    else:
                        tile(r, vectors, kc, strip_a + r0 * strip_row, strip_row, strip_col, panel_b, panel_row,
                             p > 0, panel_bias, c + (i + r0) * c_row + start, c_row)


def product(const floating[:, :] a not None, const floating[:, :] b not None, const floating[::1] bias, floating[:, ::1] c not None):
    """C = A B (+ bias), for tests and benchmarks of the product alone; one of B's strides must be one element."""
    cdef Py_ssize_t size = sizeof(floating)
    cdef const floating* b_or_null = NULL
    extents(
        a.shape[0] > 0 and b.shape[1] > 0 and a.shape[1] == b.shape[0] > 0 and c.shape[0] == a.shape[0]
        and c.shape[1] == b.shape[1] and (bias is None or bias.shape[0] == b.shape[1])
        and (b.strides[0] == size or b.strides[1] == size or b.shape[0] == 1 or b.shape[1] == 1))
    if bias is not None:
        b_or_null = &bias[0]
    with nogil:
        gemm(
            a.shape[0], b.shape[1], a.shape[1], &a[0, 0], a.strides[0] // size, a.strides[1] // size,
            &b[0, 0], b.strides[0] // size, b.strides[1] // size, b_or_null, &c[0, 0], c.shape[1])


def vector_lanes():
    """The float32 elements of a vector register; 1 where the compiler has no vectors to offer."""
    return TILE_F32.lanes
