"""Faults, compiled only with FASTNN_SANITIZE=1: the tests see that each ends the process."""

cdef extern from "gemm.h":
    enum:
        FASTNN_PANELS_BYTES
    char* fastnn_gemm_panels()


def read_behind(const float[::1] a not None):
    return (&a[0])[a.shape[0]]


def write_before(float[::1] a not None):
    (&a[0] - 1)[0] = 1


def overflow(int a):
    return a + 1


def shift(int a, int by):
    return a << by


def misaligned(const unsigned char[::1] a not None, Py_ssize_t at):
    return (<const int*>(&a[0] + at))[0]


def panel_too_long():
    """Beyond the memory that a thread keeps for copies in a matrix product."""
    fastnn_gemm_panels()[FASTNN_PANELS_BYTES + 64] = 1
