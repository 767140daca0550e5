from cython cimport floating

from fastnn._kernels.simd cimport simd_void

cdef enum:
    COLUMNS = 1024      # the widest block that column_sums takes
    CHUNK = 64          # the rows that it sums by themselves

cdef simd_void column_sums(
    const floating* x, Py_ssize_t n, Py_ssize_t d, Py_ssize_t ldx, floating* sums) noexcept nogil
