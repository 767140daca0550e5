# The dispatch macro of simd.h as a return type: `cdef simd_void tile(...)` is compiled once for each instruction set.
cdef extern from "simd.h":
    ctypedef void simd_void "FASTNN_SIMD void"
    const char* fastnn_simd_level()
