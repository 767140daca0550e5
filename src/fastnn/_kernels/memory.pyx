"""Where arrays lie in memory."""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer

cdef enum:
    MOST = 12


def apart(Py_ssize_t n_written, *arrays):
    """Whether none of the first `n_written` arrays shares a byte with any other; all are C-contiguous or None.

    The quick answer for the usual case, which is yes: numpy.may_share_memory takes longer for one pair than this for all.
    """
    cdef Py_buffer view
    cdef size_t start[MOST]
    cdef size_t end[MOST]
    cdef Py_ssize_t i, j, n = len(arrays)

    if n > MOST:
        raise ValueError(f"arrays: expected at most {MOST}, got {n}")
    for i in range(n):
        start[i] = end[i] = 0
        if arrays[i] is not None:
            PyObject_GetBuffer(arrays[i], &view, PyBUF_SIMPLE)
            start[i] = <size_t>view.buf
            end[i] = start[i] + view.len
            PyBuffer_Release(&view)
    for i in range(n_written):
        for j in range(n):
            if i != j and start[i] < end[j] and start[j] < end[i]:
                return False
    return True
