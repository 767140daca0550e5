from cython cimport floating

from fastnn._kernels.simd cimport simd_void

# C = A B (+ bias): C (m, n) with rows c_row apart, A (m, k) and B (k, n) by the strides of their rows and columns. One of
# B's two strides is 1, so that either a matrix or its transpose may stand there.
cdef void gemm(
    Py_ssize_t m, Py_ssize_t n, Py_ssize_t k,
    const floating* a, Py_ssize_t a_row, Py_ssize_t a_col,
    const floating* b, Py_ssize_t b_row, Py_ssize_t b_col,
    const floating* bias, floating* c, Py_ssize_t c_row) noexcept nogil

# the same by several threads, each a part of the columns, or of the rows where they are more
cdef void shared_gemm(
    Py_ssize_t m, Py_ssize_t n, Py_ssize_t k,
    const floating* a, Py_ssize_t a_row, Py_ssize_t a_col,
    const floating* b, Py_ssize_t b_row, Py_ssize_t b_col,
    const floating* bias, floating* c, Py_ssize_t c_row, Py_ssize_t n_threads) noexcept nogil

# out += row, each row: the bias behind a product that a library did
cdef simd_void add_row(
    const floating* row, Py_ssize_t n, Py_ssize_t d, floating* out, Py_ssize_t ldo) noexcept nogil

# MemoryError where the calling thread cannot have its memory for copies and blocks; to be called before the products
cdef int own_memory() except -1

# whether large products go to a library whose bits may depend on the parts they are cut into
cdef bint has_blas() noexcept nogil

# the elements of a vector register
cdef Py_ssize_t vector_size(const floating* any) noexcept nogil

# memory of the calling thread for a block of results that need not reach the main memory
cdef enum:
    BLOCK_BYTES = 262144
cdef void* block_memory() noexcept nogil
