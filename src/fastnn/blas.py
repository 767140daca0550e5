"""``FASTNN_BLAS=/path/to/library``: a CBLAS for the large matrix products instead of fastnn's own.

For processors whose vendor has a library that is hard to beat (Accelerate, MKL). It is called by several threads at once,
each with a product of its own, so it is told to use one thread where it has a function for that; otherwise set the variable
that it heeds (``VECLIB_MAXIMUM_THREADS=1``, ...). Results then have its rounding; they still do not depend on the number of
threads.
"""

from __future__ import annotations

import ctypes
import os

from fastnn import _check
from fastnn._kernels import gemm

VARIABLE = "FASTNN_BLAS"
# what goes before and behind the names of the functions, and the bytes of their integers
NAMES = (("", "", 4), ("scipy_", "", 4), ("", "64_", 8), ("scipy_", "64_", 8))
# functions that set the number of threads
SETTERS = ("openblas_set_num_threads", "MKL_Set_Num_Threads", "bli_thread_set_num_threads")

#: The library in use, or None.
path: str | None = None


def load(library: str) -> None:
    """Use this library from now on.

    Raises
    ------
    ValueError
        Naming the variable, if it cannot be loaded or is no CBLAS.
    """
    global path
    try:
        loaded = ctypes.CDLL(library)
    except OSError as error:
        raise _check.no_library(VARIABLE, "the path of a library that can be loaded", library, str(error)) from None
    for before, behind, integer in NAMES:
        names = [f"{before}cblas_{letter}gemm{behind}" for letter in "sd"]
        if all(hasattr(loaded, name) for name in names):
            for setter in SETTERS:
                limit = getattr(loaded, f"{before}{setter}{behind}", None)
                if limit is not None:
                    limit(ctypes.c_size_t(1))
            single, double = (ctypes.cast(loaded[name], ctypes.c_void_p).value for name in names)
            gemm.use_blas(single, double, integer)
            path = library
            return
    raise _check.no_library(VARIABLE, "a CBLAS with cblas_sgemm and cblas_dgemm", library, "which has none")


if os.environ.get(VARIABLE):
    load(os.environ[VARIABLE])
