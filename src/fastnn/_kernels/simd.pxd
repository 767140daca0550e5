# The dispatch macro of simd.h as a return type: `cdef simd_void tile(...)` is compiled once for each instruction set.
cdef extern from "simd.h":
    ctypedef void simd_void "FASTNN_SIMD void"
    const char* fastnn_simd_level()


cdef inline int extents(bint right) except -1:
    # The functions of fastnn guarantee the extents that loops rely on; whoever calls a compiled entry by itself gets an error
    # instead of a crash.
    if not right:
        raise ValueError("the extents of the arrays do not fit together; call this through fastnn")
    return 0
