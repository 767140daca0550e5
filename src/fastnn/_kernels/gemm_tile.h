/* The register tile of the matrix product and the packing of its panels, for one float type and one instruction set.
   gemm.h includes this file once for each pair, having defined

     T           float or double
     NAME(x)     x with a suffix of its own
     LANES       elements of T in a vector register
     ROWS        rows of the tile: 2 * ROWS accumulators, two vectors of B and a broadcast of A fill the registers

   No intrinsics: vectors are the compiler's own, and a * b + c contracts to a fused multiply-add. An element of the result is
   the sum over k in order, by runs of FASTNN_RUN terms: each has an accumulator that starts from zero, so that the error grows
   with the number of terms of a run, not of all. That holds whichever tile computes it. So tiles may overlap, and blocks may
   begin at any run, without changing a bit. */

#if LANES == 1
typedef T NAME(vector);
#else
typedef T NAME(vector) __attribute__((vector_size(LANES * sizeof(T)), aligned(sizeof(T)), may_alias));
#endif

#define AHEAD 16
#define CHUNK 16
#define VEC NAME(vector)
#define LOAD(p) (*(const VEC *)(p))
#define STORE(p, v) (*(VEC *)(p) = (v))

/* C[r, :] = sum_p A[r, p] B[p, :] (+ C[r, :] where `more`) (+ bias), for r < rows, in `vectors` vectors: constants once inlined */
FASTNN_INLINE void NAME(product)(
    const int rows, const int vectors, ptrdiff_t k, const T *a, ptrdiff_t a_row, ptrdiff_t a_col, const T *b, ptrdiff_t b_row,
    int more, const T *bias, T *c, ptrdiff_t c_row)
{
    VEC acc[ROWS][8], bv[8];

    /* the rows below are most likely next */
    UNROLL for (int r = 0; r < rows; r++)
        FASTNN_PREFETCH(c + (rows + r) * c_row);
#define TERM \
        UNROLL for (int v = 0; v < vectors; v++) \
            bv[v] = LOAD(b + v * LANES); \
        UNROLL for (int r = 0; r < rows; r++) { \
            T x = a[r * a_row]; \
            UNROLL for (int v = 0; v < vectors; v++) \
                acc[r][v] += x * bv[v]; \
        } \
        a += a_col; \
        b += b_row;
    for (;;) {
        ptrdiff_t p = k < FASTNN_RUN ? k : FASTNN_RUN;
        k -= p;
        UNROLL for (int r = 0; r < rows; r++)
            UNROLL for (int v = 0; v < vectors; v++)
                acc[r][v] = (VEC){0};
        for (; p >= 4; p -= 4) {
            TERM TERM TERM TERM
        }
        for (; p > 0; p--) {
            TERM
        }
        if (more)
            UNROLL for (int r = 0; r < rows; r++)
                UNROLL for (int v = 0; v < vectors; v++)
                    acc[r][v] += LOAD(c + r * c_row + v * LANES);
        if (!k)
            break;
        UNROLL for (int r = 0; r < rows; r++)
            UNROLL for (int v = 0; v < vectors; v++)
                STORE(c + r * c_row + v * LANES, acc[r][v]);
        more = 1;
    }
#undef TERM
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

/* 1 <= rows <= ROWS and vectors 1, 2, 4 or 8, with rows * vectors <= 2 * ROWS. Not inlined: its loops need every register. */
FASTNN_APART void NAME(tile)(
    ptrdiff_t rows, int vectors, ptrdiff_t k, const T *a, ptrdiff_t a_row, ptrdiff_t a_col, const T *b, ptrdiff_t b_row,
    int more, const T *bias, T *c, ptrdiff_t c_row)
{
    switch (16 * vectors + rows) {
    CASE(1, 1) CASE(2, 1) CASE(3, 1) CASE(4, 1) CASE(5, 1) CASE(6, 1)
    CASE(7, 1) CASE(8, 1) CASE(9, 1) CASE(10, 1) CASE(11, 1) CASE(12, 1)
    CASE(1, 2) CASE(2, 2) CASE(3, 2) CASE(4, 2) CASE(5, 2) CASE(6, 2)
    CASE(7, 2) CASE(8, 2) CASE(9, 2) CASE(10, 2) CASE(11, 2) CASE(12, 2)
    CASE(1, 4) CASE(2, 4) CASE(3, 4) CASE(4, 4) CASE(5, 4) CASE(6, 4) CASE(1, 8)
    }
}

/* m rows are cut into as few tiles as there can be, as even as they can be, the taller ones first. */
#define TILES(m) (((m) + ROWS - 1) / ROWS)

/* One panel of B, `vectors` vectors wide, and all m rows of A, or the strips that `gather` made of them; `columns` of the panel
   go into C. */
static void NAME(panel)(
    ptrdiff_t m, ptrdiff_t columns, int vectors, ptrdiff_t k, const T *a, ptrdiff_t a_row, ptrdiff_t a_col, int gathered,
    const T *b, ptrdiff_t b_row, int more, const T *bias, T *c, ptrdiff_t c_row)
{
    T edge[ROWS * 4 * LANES];
    const ptrdiff_t width = vectors * LANES;
    /* a division takes as long as a small tile */
    const ptrdiff_t least = m <= ROWS ? m : m / TILES(m), taller = m <= ROWS ? 0 : m % TILES(m);

    for (ptrdiff_t t = 0, rows; m > 0; t++, m -= rows) {
        rows = least + (t < taller);
        if (gathered) {
            a_row = 1;
            a_col = rows;
        }
        if (columns == width)
            NAME(tile)(rows, vectors, k, a, a_row, a_col, b, b_row, more, bias, c, c_row);
        else {
            if (more)
                for (ptrdiff_t r = 0; r < rows; r++)
                    for (ptrdiff_t j = 0; j < columns; j++)
                        edge[r * width + j] = c[r * c_row + j];
            NAME(tile)(rows, vectors, k, a, a_row, a_col, b, b_row, more, bias, edge, width);
            for (ptrdiff_t r = 0; r < rows; r++)
                for (ptrdiff_t j = 0; j < columns; j++)
                    c[r * c_row + j] = edge[r * width + j];
        }
        a += gathered ? rows * k : rows * a_row;
        c += rows * c_row;
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

/* the sums of neighbouring blocks of s lanes of x and of y, side by side */
#define FOLD(x, y, s) (__builtin_shufflevector(x, y, EACH(LOW, s)) + __builtin_shufflevector(x, y, EACH(HIGH, s)))
#if LANES == 2
#define TRANSPOSE BUTTERFLY(1)
#elif LANES == 4
#define TRANSPOSE BUTTERFLY(1) BUTTERFLY(2)
#elif LANES == 8
#define TRANSPOSE BUTTERFLY(1) BUTTERFLY(2) BUTTERFLY(4)
#elif LANES == 16
#define TRANSPOSE BUTTERFLY(1) BUTTERFLY(2) BUTTERFLY(4) BUTTERFLY(8)
#endif

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
        for (ptrdiff_t p = 0; p < k; p++) {
            /* rows that lie far apart are not foreseen by the processor */
            FASTNN_PREFETCH(b + (p + AHEAD) * b_row);
            for (ptrdiff_t j = 0; j < width; j += LANES)
                STORE(panel + p * width + j, LOAD(b + p * b_row + j));
        }
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
            TRANSPOSE
            UNROLL for (int i = 0; i < LANES; i++)
                STORE(panel + (p + i) * width + j, block[i]);
        }
#endif
    for (; p < k; p++)
        for (ptrdiff_t j = 0; j < width; j++)
            panel[p * width + j] = b[p * b_row + j * b_col];
}

/* C[r, j] = sum_p A[r, p] B[j, p] (+ bias) for r < rows and j < 4: both operands by vectors along the sum, which is then taken
   of the lanes: pairs of accumulators fold into one, so that four sums end in four lanes. */
FASTNN_INLINE void NAME(dot_tile)(
    const int rows, ptrdiff_t n, ptrdiff_t k, const T *a, ptrdiff_t a_row, const T *b, ptrdiff_t b_col,
    const T *bias, T *c, ptrdiff_t c_row)
{
    VEC acc[ROWS / 2][4], before[ROWS / 2][4], av[ROWS / 2];
    const T *column[4];
    ptrdiff_t p = 0;

    UNROLL for (int j = 0; j < 4; j++)
        column[j] = b + (j < n ? j : n - 1) * b_col;
    for (int more = 0; ; more = 1) {
        const ptrdiff_t end = k - p < FASTNN_RUN * LANES ? k : p + FASTNN_RUN * LANES;
        UNROLL for (int r = 0; r < rows; r++)
            UNROLL for (int j = 0; j < 4; j++)
                acc[r][j] = (VEC){0};
        for (; p + LANES <= end; p += LANES) {
            UNROLL for (int r = 0; r < rows; r++)
                av[r] = LOAD(a + r * a_row + p);
            UNROLL for (int j = 0; j < 4; j++) {
                VEC x = LOAD(column[j] + p);
                UNROLL for (int r = 0; r < rows; r++)
                    acc[r][j] += av[r] * x;
            }
        }
        if (more)
            UNROLL for (int r = 0; r < rows; r++)
                UNROLL for (int j = 0; j < 4; j++)
                    acc[r][j] += before[r][j];
        if (p + LANES > k)
            break;
        UNROLL for (int r = 0; r < rows; r++)
            UNROLL for (int j = 0; j < 4; j++)
                before[r][j] = acc[r][j];
    }
    UNROLL for (int r = 0; r < rows; r++) {
        T sums[4];
#if LANES == 1
        UNROLL for (int j = 0; j < 4; j++)
            sums[j] = acc[r][j];
#else
        VEC u = FOLD(acc[r][0], acc[r][1], 1), v = FOLD(acc[r][2], acc[r][3], 1);
#if LANES == 2
        STORE(sums, u);
        STORE(sums + 2, v);
#else
        T lanes[LANES];
        u = FOLD(u, v, 2);
#if LANES > 8
        u = FOLD(u, u, 8);
#endif
#if LANES > 4
        u = FOLD(u, u, 4);
#endif
        STORE(lanes, u);
        memcpy(sums, lanes, sizeof sums);
#endif
#endif
        for (int j = 0; j < (n < 4 ? n : 4); j++) {
            T s = sums[j];
            for (ptrdiff_t q = p; q < k; q++)
                s += a[r * a_row + q] * column[j][q];
            c[r * c_row + j] = bias ? s + bias[j] : s;
        }
    }
}

static void NAME(dots)(
    ptrdiff_t m, ptrdiff_t n, ptrdiff_t k, const T *a, ptrdiff_t a_row, const T *b, ptrdiff_t b_col,
    const T *bias, T *c, ptrdiff_t c_row)
{
    for (ptrdiff_t j = 0; j < n; j += 4)
        for (ptrdiff_t r = 0; r < m; r += ROWS / 2) {
            const T *rows = a + r * a_row, *columns = b + j * b_col, *shift = bias ? bias + j : NULL;
            T *out = c + r * c_row + j;
            switch (m - r < ROWS / 2 ? m - r : ROWS / 2) {
            case 1: NAME(dot_tile)(1, n - j, k, rows, a_row, columns, b_col, shift, out, c_row); break;
            case 2: NAME(dot_tile)(2, n - j, k, rows, a_row, columns, b_col, shift, out, c_row); break;
#if ROWS >= 6
            case 3: NAME(dot_tile)(3, n - j, k, rows, a_row, columns, b_col, shift, out, c_row); break;
#endif
#if ROWS >= 12
            case 4: NAME(dot_tile)(4, n - j, k, rows, a_row, columns, b_col, shift, out, c_row); break;
            case 5: NAME(dot_tile)(5, n - j, k, rows, a_row, columns, b_col, shift, out, c_row); break;
            case 6: NAME(dot_tile)(6, n - j, k, rows, a_row, columns, b_col, shift, out, c_row); break;
#endif
            }
        }
}

/* strips: for each of the tiles its rows of A, column after column: strip[p, r] = A[r0 + r, p].
   Whole vectors are stored, in an order in which what one writes too much is overwritten later; behind the last strip there
   is room. */
static void NAME(gather)(ptrdiff_t m, ptrdiff_t k, const T *a, ptrdiff_t a_row, ptrdiff_t a_col, T *strips)
{
    const ptrdiff_t tiles = TILES(m), least = m / tiles, taller = m % tiles;
    ptrdiff_t done = 0;

    if (a_row == 1 && m >= 2 * LANES) {
        /* some columns at a time, so that whole cache lines are read and written; but for the last, which would spoil what is
           behind the strips */
        for (; done < k - 1; done += done + CHUNK < k - 1 ? CHUNK : k - 1 - done)
            for (ptrdiff_t t = 0, r0 = 0, rows; t < tiles; t++, r0 += rows) {
                rows = least + (t < taller);
                const ptrdiff_t behind = done + CHUNK < k - 1 ? done + CHUNK : k - 1;
                const int whole = r0 + (ROWS + LANES - 1) / LANES * LANES <= m;
                for (ptrdiff_t p = done; p < behind; p++) {
                    T *strip = strips + r0 * k + p * rows;
                    const T *from = a + r0 + p * a_col;
                    if (whole)
                        UNROLL for (int r = 0; r < ROWS; r += LANES)
                            STORE(strip + r, LOAD(from + r));
                    else
                        for (ptrdiff_t r = 0; r < rows; r++)
                            strip[r] = from[r];
                }
            }
    }
    for (ptrdiff_t t = 0, r0 = 0, rows; t < tiles; t++, r0 += rows) {
        ptrdiff_t p = done;
        rows = least + (t < taller);
        T *strip = strips + r0 * k;
        const T *from = a + r0 * a_row;
#if LANES > 1
        if (a_col == 1)
            for (; p + LANES <= k; p += LANES)
                for (ptrdiff_t r = (rows - 1) / LANES * LANES; r >= 0; r -= LANES) {
                    VEC block[LANES];
                    UNROLL for (int i = 0; i < LANES; i++)
                        block[i] = LOAD(from + (r + i < rows ? r + i : rows - 1) * a_row + p);
                    TRANSPOSE
                    UNROLL for (int i = 0; i < LANES; i++)
                        STORE(strip + (p + i) * rows + r, block[i]);
                }
#endif
        for (; p < k; p++)
            for (ptrdiff_t r = 0; r < rows; r++)
                strip[p * rows + r] = from[r * a_row + p * a_col];
    }
}

#undef AHEAD
#undef CHUNK
#undef VEC
#undef LOAD
#undef STORE
#undef CASE
#undef LOW
#undef HIGH
#undef EACH
#undef BUTTERFLY
#undef TRANSPOSE
#undef FOLD
#undef TILES
