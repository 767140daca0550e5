from cython cimport floating

# the number types that rows are made of
cdef enum:
    FLOAT, DOUBLE, INT8, INT16, INT32, INT64, UINT8, UINT16, UINT32, UINT64

# Where rows come from: any array of numbers, described by its address and its strides in bytes.
cdef struct Source:
    const char* base
    Py_ssize_t row_stride
    Py_ssize_t column_stride
    int kind                # a place in KINDS
    int size                # bytes of an element
    bint swapped            # of the other byte order
    bint checked            # look for numbers that are not finite

# out = row `row` of the source, converted; d elements. Returns the first column that is not finite, or -1.
cdef Py_ssize_t take_row(const Source* source, Py_ssize_t row, Py_ssize_t d, floating* out) noexcept nogil

# the description of an array whose last dimension is the columns; its kind is one of KINDS
cdef Source describe(array, bint checked)

# ask for the memory of row `row`, which will be taken soon
cdef void expect_row(const Source* source, Py_ssize_t row, Py_ssize_t d) noexcept nogil
