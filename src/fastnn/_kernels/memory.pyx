"""Facts about arrays, for the checks of `fastnn`: what they are and where they lie."""

from cpython.buffer cimport PyBUF_C_CONTIGUOUS, PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer

from numpy import dtype, ndarray

cdef object FLOAT32 = dtype("float32")
cdef object FLOAT64 = dtype("float64")

cdef enum:
    MOST = 12


cdef bint overlap(Py_ssize_t n_written, Py_ssize_t n, const size_t* start, const size_t* end) noexcept:
    # whether one of the first n_written intervals meets any other; an empty one meets none
    cdef Py_ssize_t i, j
    for i in range(n_written):
        for j in range(n):
            if i != j and start[i] < end[j] and start[j] < end[i]:
                return True
    return False


def apart(Py_ssize_t n_written, *arrays):
    """Whether none of the first `n_written` arrays shares a byte with any other; all are C-contiguous or None.

    The quick answer for the usual case, which is yes: numpy.may_share_memory takes longer for one pair than this for all.
    """
    cdef Py_buffer view
    cdef size_t start[MOST]
    cdef size_t end[MOST]
    cdef Py_ssize_t i, n = len(arrays)

    if n > MOST or n_written > n:
        raise ValueError(f"arrays: expected {n_written} to {MOST}, got {n}")
    for i in range(n):
        start[i] = end[i] = 0
        if arrays[i] is not None:
            PyObject_GetBuffer(arrays[i], &view, PyBUF_SIMPLE)
            start[i] = <size_t>view.buf
            end[i] = start[i] + view.len
            PyBuffer_Release(&view)
    return not overlap(n_written, n, start, end)


def ordinary(Py_ssize_t n_written, bytes form not None, *arrays):
    """Whether nothing about the arrays needs a closer look but their shapes.

    All are plain numpy.ndarrays, all float32 or all float64, native, aligned and C-contiguous; the first `n_written` are
    writeable and share no byte with any other. `form` has two characters for each array: its dimensions (* for any), and ?
    if it may be None, else a space.
    """
    cdef Py_buffer view
    cdef size_t start[MOST]
    cdef size_t end[MOST]
    cdef Py_ssize_t i, n = len(arrays)
    cdef const unsigned char* wanted = form
    cdef object first = None, of_a
    cdef bint good

    if n > MOST or n_written > n or 2 * n != len(form):
        raise ValueError(f"arrays: expected {len(form) // 2}, at most {MOST}, got {n}")
    for i in range(n):
        a = arrays[i]
        start[i] = end[i] = 0
        if a is None and wanted[2 * i + 1] == c"?":
            continue
        if type(a) is not ndarray:
            return False
        # NumPy's own dtype objects, native by that; an equal one, as unpickling makes it, is for the closer look to replace
        of_a = a.dtype
        if first is None:
            first = of_a
        if of_a is not first or (of_a is not FLOAT32 and of_a is not FLOAT64):
            return False
        try:
            PyObject_GetBuffer(a, &view, PyBUF_C_CONTIGUOUS)
        except (BufferError, ValueError):
            return False
        good = (
            (wanted[2 * i] == c"*" or view.ndim == wanted[2 * i] - c"0") and <size_t>view.buf % view.itemsize == 0
            and not (i < n_written and view.readonly))
        start[i] = <size_t>view.buf
        end[i] = start[i] + view.len
        PyBuffer_Release(&view)
        if not good:
            return False
    return not overlap(n_written, n, start, end)
