"""The matrix product: blocks and panels around the register tile of gemm_tile.h.

A panel of B, two vectors wide (four or eight beside few rows) and at most DEPTH rows deep, stays in the first-level cache while the
rows of A pass by; a block of A stays in the second. Either is copied where that pays: its rows lie far apart, or share cache
sets; and B where it comes as a transpose. Few rows times a transpose are dot products instead. C is overwritten, whatever it
held.
"""

from cython cimport floating
from libc.limits cimport INT_MAX
from libc.stdint cimport int64_t

from fastnn._kernels.simd cimport extents, simd_void
from fastnn._kernels.team cimport Call, part, prepare_by, prepared, share

cdef extern from "gemm.h":
    ctypedef struct fastnn_tile_f32:
        int lanes
        int rows
        void panel(
            Py_ssize_t m, Py_ssize_t columns, int vectors, Py_ssize_t k, const float* a, Py_ssize_t a_row, Py_ssize_t a_col,
            bint gathered, const float* b, Py_ssize_t b_row, bint more, const float* bias, float* c, Py_ssize_t c_row) noexcept nogil
        void pack(
            Py_ssize_t k, Py_ssize_t n, Py_ssize_t width, const float* b, Py_ssize_t b_row, Py_ssize_t b_col,
            float* panel) noexcept nogil
        void dots(
            Py_ssize_t m, Py_ssize_t n, Py_ssize_t k, const float* a, Py_ssize_t a_row, const float* b, Py_ssize_t b_col,
            const float* bias, float* c, Py_ssize_t c_row) noexcept nogil
        void gather(
            Py_ssize_t m, Py_ssize_t k, const float* a, Py_ssize_t a_row, Py_ssize_t a_col,
            float* strips) noexcept nogil
    ctypedef struct fastnn_tile_f64:
        int lanes
        int rows
        void panel(
            Py_ssize_t m, Py_ssize_t columns, int vectors, Py_ssize_t k, const double* a, Py_ssize_t a_row, Py_ssize_t a_col,
            bint gathered, const double* b, Py_ssize_t b_row, bint more, const double* bias, double* c, Py_ssize_t c_row) noexcept nogil
        void pack(
            Py_ssize_t k, Py_ssize_t n, Py_ssize_t width, const double* b, Py_ssize_t b_row, Py_ssize_t b_col,
            double* panel) noexcept nogil
        void dots(
            Py_ssize_t m, Py_ssize_t n, Py_ssize_t k, const double* a, Py_ssize_t a_row, const double* b, Py_ssize_t b_col,
            const double* bias, double* c, Py_ssize_t c_row) noexcept nogil
        void gather(
            Py_ssize_t m, Py_ssize_t k, const double* a, Py_ssize_t a_row, Py_ssize_t a_col,
            double* strips) noexcept nogil
    fastnn_tile_f32 fastnn_best_tile_f32()
    fastnn_tile_f64 fastnn_best_tile_f64()
    enum:
        FASTNN_RUN
        FASTNN_STRIPS_BYTES
        FASTNN_PANELS_BYTES
    char* fastnn_gemm_strips() noexcept nogil
    char* fastnn_gemm_panels() noexcept nogil
    char* fastnn_gemm_block() noexcept nogil
    bint fastnn_gemm_memory() noexcept nogil

cdef enum:
    DEPTH = 512             # terms of the sum that a packed block takes at most
    WIDEST = 128            # columns of the widest panel: eight vectors of 16 floats
    SMALL = 32768           # bytes of B that stay in the first-level cache
    SHALLOW = 32            # terms of the sum up to which writing the result takes longer than computing it
    FAR = 2048              # bytes between neighbours from which on they are worth a copy
    SETS = 512              # a multiple of which between neighbours makes them share few cache sets
    FEW = 16                # rows of A for which a transposed B is read as it lies instead

cdef fastnn_tile_f32 TILE_F32 = fastnn_best_tile_f32()
cdef fastnn_tile_f64 TILE_F64 = fastnn_best_tile_f64()

prepare_by(fastnn_gemm_memory)


cdef int own_memory() except -1:
    if not prepared():
        raise MemoryError("no memory for the matrix products of this thread")
    return 0


# A CBLAS for large products, if the user has named one: its functions, for either width of its integers.
ctypedef void (*sgemm_32)(
    int order, int trans_a, int trans_b, int m, int n, int k, float alpha, const float* a, int lda, const float* b, int ldb,
    float beta, float* c, int ldc) noexcept nogil
ctypedef void (*sgemm_64)(
    int order, int trans_a, int trans_b, int64_t m, int64_t n, int64_t k, float alpha, const float* a, int64_t lda,
    const float* b, int64_t ldb, float beta, float* c, int64_t ldc) noexcept nogil
ctypedef void (*dgemm_32)(
    int order, int trans_a, int trans_b, int m, int n, int k, double alpha, const double* a, int lda, const double* b, int ldb,
    double beta, double* c, int ldc) noexcept nogil
ctypedef void (*dgemm_64)(
    int order, int trans_a, int trans_b, int64_t m, int64_t n, int64_t k, double alpha, const double* a, int64_t lda,
    const double* b, int64_t ldb, double beta, double* c, int64_t ldc) noexcept nogil

cdef enum:
    ROW_MAJOR = 101
    NO_TRANS = 111
    TRANS = 112
    LARGE = 2097152         # multiplications from which on it is called

cdef size_t SGEMM = 0, DGEMM = 0
cdef int BLAS_INTEGER = 0


cdef simd_void add_row(
    const floating* row,                                                # IN (d,)
    Py_ssize_t n, Py_ssize_t d, floating* out, Py_ssize_t ldo,          # IN OUT (n, d)
) noexcept nogil:
    cdef Py_ssize_t i, j

    for i in range(n):
        for j in range(d):
            out[j] += row[j]
        out += ldo


cdef bint blas(
    Py_ssize_t m, Py_ssize_t n, Py_ssize_t k, const floating* a, Py_ssize_t a_row, Py_ssize_t a_col,
    const floating* b, Py_ssize_t b_row, Py_ssize_t b_col, const floating* bias, floating* c, Py_ssize_t c_row,
) noexcept nogil:
    # the product by the library, or False where that cannot be: an operand with two strides, integers too large for it
    cdef int trans_a = NO_TRANS if a_col == 1 else TRANS
    cdef int trans_b = NO_TRANS if b_col == 1 else TRANS
    cdef Py_ssize_t lda = a_row if a_col == 1 else a_col, ldb = b_row if b_col == 1 else b_col
    if (a_col != 1 and a_row != 1) or (b_col != 1 and b_row != 1):
        return False
    if BLAS_INTEGER == 4 and max(max(max(m, n), max(k, lda)), max(ldb, c_row)) > INT_MAX:
        return False
    if floating is float:
        if BLAS_INTEGER == 4:
            (<sgemm_32>SGEMM)(ROW_MAJOR, trans_a, trans_b, <int>m, <int>n, <int>k, 1, a, <int>lda, b, <int>ldb, 0, c, <int>c_row)
        else:
            (<sgemm_64>SGEMM)(ROW_MAJOR, trans_a, trans_b, m, n, k, 1, a, lda, b, ldb, 0, c, c_row)
    elif BLAS_INTEGER == 4:
        (<dgemm_32>DGEMM)(ROW_MAJOR, trans_a, trans_b, <int>m, <int>n, <int>k, 1, a, <int>lda, b, <int>ldb, 0, c, <int>c_row)
    else:
        (<dgemm_64>DGEMM)(ROW_MAJOR, trans_a, trans_b, m, n, k, 1, a, lda, b, ldb, 0, c, c_row)
    if bias != NULL:
        add_row(bias, m, n, c, c_row)
    return True


cdef bint has_blas() noexcept nogil:
    return BLAS_INTEGER != 0


def use_blas(size_t sgemm, size_t dgemm, int integer):
    """Call these functions of a CBLAS for large products; `integer` is the bytes of its integers, 4 or 8."""
    global SGEMM, DGEMM, BLAS_INTEGER
    SGEMM = sgemm
    DGEMM = dgemm
    BLAS_INTEGER = integer


cdef inline Py_ssize_t divide_up(Py_ssize_t a, Py_ssize_t b) noexcept nogil:
    return (a + b - 1) // b


cdef inline Py_ssize_t even_part(Py_ssize_t n, Py_ssize_t most, Py_ssize_t unit) noexcept nogil:
    # the size of the parts when n is cut into as few as possible, none longer than `most`, each a multiple of `unit` long
    return divide_up(divide_up(n, divide_up(n, most)), unit) * unit


cdef inline void panel(
    Py_ssize_t m, Py_ssize_t columns, Py_ssize_t vectors, Py_ssize_t k, const floating* a, Py_ssize_t a_row, Py_ssize_t a_col,
    bint gathered, const floating* b, Py_ssize_t b_row, bint more, const floating* bias, floating* c, Py_ssize_t c_row,
) noexcept nogil:
    if floating is float:
        TILE_F32.panel(m, columns, vectors, k, a, a_row, a_col, gathered, b, b_row, more, bias, c, c_row)
    else:
        TILE_F64.panel(m, columns, vectors, k, a, a_row, a_col, gathered, b, b_row, more, bias, c, c_row)


cdef inline void pack(
    Py_ssize_t k, Py_ssize_t n, Py_ssize_t width, const floating* b, Py_ssize_t b_row, Py_ssize_t b_col, floating* panel,
) noexcept nogil:
    if floating is float:
        TILE_F32.pack(k, n, width, b, b_row, b_col, panel)
    else:
        TILE_F64.pack(k, n, width, b, b_row, b_col, panel)


cdef inline void gather(
    Py_ssize_t m, Py_ssize_t k, const floating* a, Py_ssize_t a_row, Py_ssize_t a_col, floating* strips,
) noexcept nogil:
    if floating is float:
        TILE_F32.gather(m, k, a, a_row, a_col, strips)
    else:
        TILE_F64.gather(m, k, a, a_row, a_col, strips)


cdef inline void dots(
    Py_ssize_t m, Py_ssize_t n, Py_ssize_t k, const floating* a, Py_ssize_t a_row, const floating* b, Py_ssize_t b_col,
    const floating* bias, floating* c, Py_ssize_t c_row,
) noexcept nogil:
    if floating is float:
        TILE_F32.dots(m, n, k, a, a_row, b, b_col, bias, c, c_row)
    else:
        TILE_F64.dots(m, n, k, a, a_row, b, b_col, bias, c, c_row)


cdef void gemm(
    Py_ssize_t m, Py_ssize_t n, Py_ssize_t k,
    const floating* a, Py_ssize_t a_row, Py_ssize_t a_col,      # IN (m, k)
    const floating* b, Py_ssize_t b_row, Py_ssize_t b_col,      # IN (k, n)
    const floating* bias,                                       # IN (n,), or NULL
    floating* c, Py_ssize_t c_row,                              # OUT (m, n)
) noexcept nogil:
    cdef floating edge_bias[WIDEST]
    cdef Py_ssize_t size = sizeof(floating)
    cdef Py_ssize_t lanes = TILE_F32.lanes if floating is float else TILE_F64.lanes
    cdef Py_ssize_t rows = TILE_F32.rows if floating is float else TILE_F64.rows
    cdef floating* strips = <floating*>fastnn_gemm_strips()
    cdef floating* panels = <floating*>fastnn_gemm_panels()
    # A copy of A pays where many panels of B read it: by columns, where they are long and far apart; by rows, where they share
    # cache sets or there are too many pages.
    cdef bint packed_a = m >= rows and (
        (n >= 32 * lanes and k >= 16 and m * k * size > SMALL) or
        (n >= 8 * lanes and (k >= 256 or (k >= 128 and (a_col * size >= FAR or a_col * size % SETS == 0)))) if a_col != 1
        else k >= 64 and n >= (8 if a_row * size % SETS == 0 else 32) * lanes and m * k * size > SMALL)
    # A copy of B pays where its rows lie far apart, or share cache sets, and many rows of A read it; a transpose is copied in any
    # case.
    cdef bint packed_b = b_col != 1 or (n < 2 * lanes and n != lanes) or (
        (m >= 16 * rows and k >= 16 and b_row * size >= FAR) or (m >= 4 * rows and k >= 32 and b_row * size % SETS == 0))
    # few rows leave registers for wider panels
    cdef Py_ssize_t widest = 2 if 2 * m > rows or packed_b else 4 if m > 1 else 8
    cdef Py_ssize_t depth = k, height = m, breadth = n
    cdef Py_ssize_t column, nc, p, kc, i, mc, j, rest, vectors, width, start, q, panel_row
    cdef const floating *block_a
    cdef const floating *panel_b
    cdef const floating *panel_bias
    cdef bint ragged, last

    if BLAS_INTEGER != 0 and m * n * k >= LARGE and blas(m, n, k, a, a_row, a_col, b, b_row, b_col, bias, c, c_row):
        return
    if n == 1 and c_row == 1 and a_row == 1 and m > 1 and bias == NULL:
        # c = A b with the columns of A in one piece: as a row, c^T = b^T A^T
        gemm(1, m, k, b, 0, b_row, a, a_col, 1, bias, c, m)
        return
    if b_row == 1 and a_col == 1 and ((n == 1 and b_col == 1) or (m <= FEW and b_col != 1 and (k >= lanes or m * k <= lanes))):
        dots(m, n, k, a, a_row, b, b_col, bias, c, c_row)
        return

    # Blocks, only where they are needed: for a small product the divisions take as long as the work. Copies of A, and a block of
    # it that is read where it lies, stay in the second-level cache.
    if k > DEPTH and (packed_a or packed_b or k * widest * lanes * size > SMALL):
        depth = even_part(k, DEPTH, FASTNN_RUN)
    if depth * m * size > FASTNN_STRIPS_BYTES:
        height = even_part(m, max(FASTNN_STRIPS_BYTES // size // depth // rows, 1) * rows, rows)
    if k <= SHALLOW and m * n * size > FASTNN_PANELS_BYTES:
        # a large result of short sums is a matter of writing it: some rows at a time, from one end to the other
        height = min(height, 2 * rows)
    if packed_b and depth * (n + 2 * lanes) * size > FASTNN_PANELS_BYTES:
        breadth = FASTNN_PANELS_BYTES // size // depth // (2 * lanes) * (2 * lanes)
    column = 0
    while column < n:
        nc = min(breadth, n - column)
        p = 0
        while p < k:
            kc = min(depth, k - p)
            last = p + kc == k
            i = 0
            while i < m:
                mc = min(height, m - i)
                block_a = a + i * a_row + p * a_col
                if packed_a:
                    gather(mc, kc, block_a, a_row, a_col, strips)
                j = 0
                while j < nc:
                    # the narrowest panel that covers the rest
                    rest = nc - j
                    vectors = widest
                    while vectors > 1 and (vectors // 2) * lanes >= rest:
                        vectors //= 2
                    start = column + j
                    ragged = vectors * lanes > rest
                    if ragged and not packed_b and depth == k:
                        # the last panel may reach back over the one before it, which gives the same bits again
                        ragged = False
                        if vectors * lanes > n:
                            vectors //= 2
                        else:
                            start = n - vectors * lanes
                    width = vectors * lanes

                    panel_b = b + p * b_row + start * b_col
                    panel_row = b_row
                    if packed_b or ragged:
                        panel_b = panels + (j * kc if packed_b else 0)
                        panel_row = width
                        if i == 0 or not packed_b:
                            pack(kc, min(width, rest), width, b + p * b_row + start * b_col, b_row, b_col, <floating*>panel_b)
                    panel_bias = NULL
                    if bias != NULL and last:
                        panel_bias = bias + start
                        if ragged:
                            for q in range(width):
                                edge_bias[q] = bias[start + q] if q < rest else 0
                            panel_bias = edge_bias
                    panel(mc, min(width, rest) if ragged else width, vectors, kc, strips if packed_a else block_a, a_row, a_col,
                          packed_a, panel_b, panel_row, p > 0, panel_bias, c + i * c_row + start, c_row)
                    j = start - column + width
                i += mc
            p += kc
        column += nc


cdef struct Product:
    Call call
    Py_ssize_t m, n, k, a_row, a_col, b_row, b_col, c_row
    bint by_rows


cdef void product_part(const floating* any, Product* p, Py_ssize_t first) noexcept nogil:
    cdef floating* a = <floating*>p.call.arrays[0]
    cdef floating* b = <floating*>p.call.arrays[1]
    cdef floating* bias = <floating*>p.call.arrays[2]
    cdef floating* c = <floating*>p.call.arrays[3]
    if p.by_rows:
        gemm(min(p.m - first, p.call.panel), p.n, p.k, a + first * p.a_row, p.a_row, p.a_col, b, p.b_row, p.b_col, bias,
             c + first * p.c_row, p.c_row)
    else:
        gemm(p.m, min(p.n - first, p.call.panel), p.k, a, p.a_row, p.a_col, b + first * p.b_col, p.b_row, p.b_col,
             bias + first if bias != NULL else NULL, c + first, p.c_row)


cdef void product_f32(void* p, Py_ssize_t tile, Py_ssize_t worker) noexcept nogil:
    product_part(<float*>NULL, <Product*>p, tile * (<Product*>p).call.panel)


cdef void product_f64(void* p, Py_ssize_t tile, Py_ssize_t worker) noexcept nogil:
    product_part(<double*>NULL, <Product*>p, tile * (<Product*>p).call.panel)


cdef void shared_gemm(
    Py_ssize_t m, Py_ssize_t n, Py_ssize_t k,
    const floating* a, Py_ssize_t a_row, Py_ssize_t a_col,
    const floating* b, Py_ssize_t b_row, Py_ssize_t b_col,
    const floating* bias, floating* c, Py_ssize_t c_row, Py_ssize_t n_threads,
) noexcept nogil:
    cdef Product p
    if n_threads == 1 and BLAS_INTEGER == 0:
        gemm(m, n, k, a, a_row, a_col, b, b_row, b_col, bias, c, c_row)
        return
    p.call.arrays[0] = <void*>a
    p.call.arrays[1] = <void*>b
    p.call.arrays[2] = <void*>bias
    p.call.arrays[3] = c
    p.m, p.n, p.k, p.a_row, p.a_col, p.b_row, p.b_col, p.c_row = m, n, k, a_row, a_col, b_row, b_col, c_row
    # no part of a tall product has as few rows as would be computed in another order
    p.by_rows = m > n and m > 8 * FEW
    # a library may round by where a part begins: then all numbers of threads have the same parts
    p.call.panel = part(m if p.by_rows else n, 4 * FEW, m + n, 2 if BLAS_INTEGER != 0 else n_threads)
    share(product_f32 if floating is float else product_f64, &p.call, m if p.by_rows else n, n_threads)


cdef Py_ssize_t vector_size(const floating* any) noexcept nogil:
    return TILE_F32.lanes if floating is float else TILE_F64.lanes


cdef void* block_memory() noexcept nogil:
    return fastnn_gemm_block()


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
    own_memory()
    with nogil:
        gemm(
            a.shape[0], b.shape[1], a.shape[1], &a[0, 0], a.strides[0] // size, a.strides[1] // size,
            &b[0, 0], b.strides[0] // size, b.strides[1] // size, b_or_null, &c[0, 0], c.shape[1])


def peak(floating[::1] block not None, Py_ssize_t times):
    """Run the register tile on copies that stay in the first-level cache, `times` times; returns the operations done.

    `block` has room for 128 (4 rows + 2 vectors) + 8 rows vectors of numbers.
    """
    cdef Py_ssize_t lanes = TILE_F32.lanes if floating is float else TILE_F64.lanes
    cdef Py_ssize_t rows = TILE_F32.rows if floating is float else TILE_F64.rows
    cdef Py_ssize_t m = 4 * rows, k = 128, i
    cdef floating* a
    cdef floating* b
    extents(block.shape[0] >= k * (m + 2 * lanes) + m * 2 * lanes)
    a = &block[0]
    b = a + k * m
    with nogil:
        for i in range(times):
            panel(m, 2 * lanes, 2, k, a, 1, rows, True, b, 2 * lanes, False, <const floating*>NULL, b + k * 2 * lanes, 2 * lanes)
    return 2 * m * 2 * lanes * k * times


#: Multiplications from which on a library named by the user is called.
BLAS_FROM = LARGE


def vector_lanes():
    """The float32 elements of a vector register; 1 where the compiler has no vectors to offer."""
    return TILE_F32.lanes
