/* The register tile of the matrix product and the packing of its panels, for one float type and one instruction set.
   gemm.h includes this file once for each pair, having defined

     T           float or double
     NAME(x)     x with a suffix of its own
     LANES       elements of T in a vector register
     ROWS        rows of the tile: 2 * ROWS accumulators, two vectors of B and a broadcast of A fill the registers

   No intrinsics: vectors are the compiler's own, and a * b + c contracts to a fused multiply-add. An element of the result is
   the sum over k in order, in one accumulator, whichever tile computes it. So tiles may overlap, and blocks may change their
   size, without changing a bit. */

#if LANES == 1
typedef T NAME(vector);
#else
typedef T NAME(vector) __attribute__((vector_size(LANES * sizeof(T)), aligned(sizeof(T)), may_alias));
#endif

#define VEC NAME(vector)
#define LOAD(p) (*(const VEC *)(p))
#define STORE(p, v) (*(VEC *)(p) = (v))

/* C[r, :] = sum_p A[r, p] B[p, :] (+ C[r, :] where `more`) (+ bias), for r < rows, in `vectors` vectors: constants once inlined */
FASTNN_INLINE void NAME(product)(
    const int rows, const int vectors, ptrdiff_t k, const T *a, ptrdiff_t a_row, ptrdiff_t a_col, const T *b, ptrdiff_t b_row,
    int more, const T *bias, T *c, ptrdiff_t c_row)
{
    VEC acc[ROWS][4], bv[4];

    UNROLL for (int r = 0; r < rows; r++)
        UNROLL for (int v = 0; v < vectors; v++)
            acc[r][v] = more ? LOAD(c + r * c_row + v * LANES) : (VEC){0};
    for (ptrdiff_t p = 0; p < k; p++) {
        UNROLL for (int v = 0; v < vectors; v++)
            bv[v] = LOAD(b + v * LANES);
        UNROLL for (int r = 0; r < rows; r++) {
            T x = a[r * a_row];
            UNROLL for (int v = 0; v < vectors; v++)
                acc[r][v] += x * bv[v];
        }
        a += a_col;
        b += b_row;
    }
    if (bias)
        UNROLL for (int r = 0; r < rows; r++)
            UNROLL for (int v = 0; v < vectors; v++)
                acc[r][v] += LOAD(bias + v * LANES);
    UNROLL for (int r = 0; r < rows; r++)
        UNROLL for (int v = 0; v < vectors; v++)
            STORE(c + r * c_row + v * LANES, acc[r][v]);
}

#define CASE(rows, vectors) \
    case 16 * vectors + rows: \
        if (rows * vectors <= 2 * ROWS && rows <= ROWS) \
            NAME(product)(rows <= ROWS ? rows : 1, vectors, k, a, a_row, a_col, b, b_row, more, bias, c, c_row); \
        break;

/* 1 <= rows <= ROWS and vectors 1, 2 or 4, with rows * vectors <= 2 * ROWS */
static void NAME(tile)(
    int rows, int vectors, ptrdiff_t k, const T *a, ptrdiff_t a_row, ptrdiff_t a_col, const T *b, ptrdiff_t b_row,
    int more, const T *bias, T *c, ptrdiff_t c_row)
{
    switch (16 * vectors + rows) {
    CASE(1, 1) CASE(2, 1) CASE(3, 1) CASE(4, 1) CASE(5, 1) CASE(6, 1)
    CASE(7, 1) CASE(8, 1) CASE(9, 1) CASE(10, 1) CASE(11, 1) CASE(12, 1)
    CASE(1, 2) CASE(2, 2) CASE(3, 2) CASE(4, 2) CASE(5, 2) CASE(6, 2)
    CASE(7, 2) CASE(8, 2) CASE(9, 2) CASE(10, 2) CASE(11, 2) CASE(12, 2)
    CASE(1, 4) CASE(2, 4) CASE(3, 4) CASE(4, 4) CASE(5, 4) CASE(6, 4)
    }
}

/* Lane l of the two halves of a butterfly that swaps blocks of s lanes between two vectors. */
#define LOW(l, s) ((l) & (s) ? LANES + (l) - (s) : (l))
#define HIGH(l, s) ((l) & (s) ? LANES + (l) : (l) + (s))
#if LANES == 16
#define EACH(F, s) F(0, s), F(1, s), F(2, s), F(3, s), F(4, s), F(5, s), F(6, s), F(7, s), \
                   F(8, s), F(9, s), F(10, s), F(11, s), F(12, s), F(13, s), F(14, s), F(15, s)
#elif LANES == 8
#define EACH(F, s) F(0, s), F(1, s), F(2, s), F(3, s), F(4, s), F(5, s), F(6, s), F(7, s)
#elif LANES == 4
#define EACH(F, s) F(0, s), F(1, s), F(2, s), F(3, s)
#elif LANES == 2
#define EACH(F, s) F(0, s), F(1, s)
#endif
#define BUTTERFLY(s) \
    UNROLL for (int i = 0; i < LANES; i++) \
        if (!(i & s)) { \
            VEC x = block[i], y = block[i + s]; \
            block[i] = __builtin_shufflevector(x, y, EACH(LOW, s)); \
            block[i + s] = __builtin_shufflevector(x, y, EACH(HIGH, s)); \
        }

/* panel[p, j] = B[p, j] for p < k and j < n <= width, zero to the right; one of B's two strides is 1 */
static void NAME(pack)(ptrdiff_t k, ptrdiff_t n, ptrdiff_t width, const T *b, ptrdiff_t b_row, ptrdiff_t b_col, T *panel)
{
    if (n < width) {
        for (ptrdiff_t p = 0; p < k; p++)
            for (ptrdiff_t j = 0; j < width; j++)
                panel[p * width + j] = j < n ? b[p * b_row + j * b_col] : 0;
        return;
    }
    if (b_col == 1) {
        for (ptrdiff_t p = 0; p < k; p++)
            for (ptrdiff_t j = 0; j < width; j += LANES)
                STORE(panel + p * width + j, LOAD(b + p * b_row + j));
        return;
    }
    ptrdiff_t p = 0;
#if LANES > 1
    /* transpose blocks of LANES x LANES in registers */
    for (; p + LANES <= k; p += LANES)
        for (ptrdiff_t j = 0; j < width; j += LANES) {
            VEC block[LANES];
            UNROLL for (int i = 0; i < LANES; i++)
                block[i] = LOAD(b + (j + i) * b_col + p);
            BUTTERFLY(1)
#if LANES > 2
            BUTTERFLY(2)
#endif
#if LANES > 4
            BUTTERFLY(4)
#endif
#if LANES > 8
            BUTTERFLY(8)
#endif
            UNROLL for (int i = 0; i < LANES; i++)
                STORE(panel + (p + i) * width + j, block[i]);
        }
#endif
    for (; p < k; p++)
        for (ptrdiff_t j = 0; j < width; j++)
            panel[p * width + j] = b[p * b_row + j * b_col];
}

#undef VEC
#undef LOAD
#undef STORE
#undef CASE
#undef LOW
#undef HIGH
#undef EACH
#undef BUTTERFLY
