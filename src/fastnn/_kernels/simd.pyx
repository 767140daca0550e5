"""Which instruction set the kernels use here."""


def level():
    return fastnn_simd_level().decode("ascii")
