# Elementary functions, one name for both float types (the branch is settled when the fused function is compiled), and the
# exact addition that keeps a long sum accurate.
from cython cimport floating

cdef extern from "elementary.h":
    float fastnn_expf(float x) noexcept nogil
    double fastnn_exp(double x) noexcept nogil
    float fastnn_expm1_negativef(float x) noexcept nogil
    double fastnn_expm1_negative(double x) noexcept nogil
    float fastnn_log1p_unitf(float x) noexcept nogil
    double fastnn_log1p_unit(double x) noexcept nogil
    double log1p_positive "fastnn_log1p_positive"(double x) noexcept nogil      # 0 <= x < inf


cdef inline floating exp(floating x) noexcept nogil:
    return fastnn_expf(x) if floating is float else fastnn_exp(x)


cdef inline floating expm1_negative(floating x) noexcept nogil:     # x <= 0
    return fastnn_expm1_negativef(x) if floating is float else fastnn_expm1_negative(x)


cdef inline floating log1p_unit(floating x) noexcept nogil:         # 0 <= x <= 1
    return fastnn_log1p_unitf(x) if floating is float else fastnn_log1p_unit(x)


cdef inline floating absolute(floating x) noexcept nogil:
    return x if x > 0 else -x


cdef inline double rounding_of_sum(double a, double b) noexcept nogil:
    # what rounding took from a + b, exactly (Knuth's two-sum)
    cdef double s = a + b
    cdef double t = s - a
    return (a - (s - t)) + (b - t)


cdef inline double compensated(double total, double lost) noexcept nogil:
    # an infinite total loses nothing, but what was kept of it is NaN
    return total + lost if lost == lost else total
