"""Rows of arrays of any number type, converted to the type of a network as they are needed."""

from cpython.buffer cimport PyBUF_STRIDES, PyBuffer_Release, PyObject_GetBuffer
from cython cimport floating
from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from fastnn._kernels.simd cimport simd_void


cdef extern from "simd.h":
    void FASTNN_PREFETCH(const char* p) noexcept nogil

ctypedef fused number:
    float
    double
    int8_t
    int16_t
    int32_t
    int64_t
    uint8_t
    uint16_t
    uint32_t
    uint64_t

cdef enum:
    CHUNK = 512             # elements that are straightened at a time
    LINE = 64               # bytes of a cache line
    AHEAD = 4096            # bytes of a row that are asked for at most: the processor sees where it goes from there

cdef dict KINDS = {
    ("f", 4): FLOAT, ("f", 8): DOUBLE, ("i", 1): INT8, ("i", 2): INT16, ("i", 4): INT32, ("i", 8): INT64, ("u", 1): UINT8,
    ("u", 2): UINT16, ("u", 4): UINT32, ("u", 8): UINT64, ("b", 1): UINT8,
}


cdef simd_void convert(const number* x, Py_ssize_t d, floating* out, int* not_finite) noexcept nogil:
    cdef Py_ssize_t j
    cdef floating v, zero = 0
    cdef int found = 0

    # out = x, rounded to the nearest; v - v is 0 but for infinities and NaN
    for j in range(d):
        v = <floating>x[j]
        out[j] = v
        found |= 0 if v - v == zero else 1
    not_finite[0] |= found


cdef void convert_any(const char* x, int kind, Py_ssize_t d, floating* out, int* not_finite) noexcept nogil:
    if kind == FLOAT:
        convert(<const float*>x, d, out, not_finite)
    elif kind == DOUBLE:
        convert(<const double*>x, d, out, not_finite)
    elif kind == INT8:
        convert(<const int8_t*>x, d, out, not_finite)
    elif kind == INT16:
        convert(<const int16_t*>x, d, out, not_finite)
    elif kind == INT32:
        convert(<const int32_t*>x, d, out, not_finite)
    elif kind == INT64:
        convert(<const int64_t*>x, d, out, not_finite)
    elif kind == UINT8:
        convert(<const uint8_t*>x, d, out, not_finite)
    elif kind == UINT16:
        convert(<const uint16_t*>x, d, out, not_finite)
    elif kind == UINT32:
        convert(<const uint32_t*>x, d, out, not_finite)
    else:
        convert(<const uint64_t*>x, d, out, not_finite)


cdef void straighten(const Source* source, const char* x, Py_ssize_t d, char* out) noexcept nogil:
    # d elements side by side, aligned and in the native byte order
    cdef Py_ssize_t j
    cdef int b, size = source.size
    for j in range(d):
        for b in range(size):
            out[j * size + b] = x[size - 1 - b if source.swapped else b]
        x += source.column_stride


cdef Py_ssize_t take_row(const Source* source, Py_ssize_t row, Py_ssize_t d, floating* out) noexcept nogil:
    cdef int64_t straight[CHUNK]
    cdef const char* x = source.base + row * source.row_stride
    cdef Py_ssize_t j = 0, m
    cdef int not_finite = 0

    if source.column_stride == source.size and not source.swapped and <size_t>x % source.size == 0:
        convert_any(x, source.kind, d, out, &not_finite)
    else:
        while j < d:
            m = min(d - j, CHUNK)
            straighten(source, x + j * source.column_stride, m, <char*>straight)
            convert_any(<char*>straight, source.kind, m, out + j, &not_finite)
            j += m
    if source.checked and not_finite:
        for j in range(d):
            if not (out[j] - out[j] == 0):
                return j
    return -1


cdef void expect_row(const Source* source, Py_ssize_t row, Py_ssize_t d) noexcept nogil:
    cdef const char* x = source.base + row * source.row_stride
    cdef Py_ssize_t i
    if source.column_stride == source.size or d == 1:
        for i in range((min(d * source.size, AHEAD) + LINE - 1) // LINE):
            FASTNN_PREFETCH(x + i * LINE)


cdef Source describe(array, bint checked):
    cdef Source source
    cdef Py_buffer view
    dtype = array.dtype
    PyObject_GetBuffer(array, &view, PyBUF_STRIDES)
    source.base = <const char*>view.buf
    source.row_stride = view.strides[0]
    source.column_stride = view.strides[1] if view.ndim > 1 else 0
    source.size = <int>view.itemsize
    PyBuffer_Release(&view)     # whoever has the array keeps its memory
    kind = dtype.kind
    source.kind = KINDS[kind, source.size]
    source.swapped = not dtype.isnative
    # integers are finite in either type
    source.checked = checked and kind == "f"
    return source
