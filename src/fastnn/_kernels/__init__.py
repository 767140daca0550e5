"""The compiled kernels: loops over typed memoryviews and pointers, without checks. Call them through `fastnn`."""

from __future__ import annotations

from typing import Any

import numpy as np


def by_dtype(kernel: Any) -> dict[np.dtype[Any], Any]:
    """The float32 and float64 versions of a fused kernel, to be picked by the dtype of its arrays.

    The choice that Cython would make anew at each call costs more than the kernel does on a small array.
    """
    return {np.dtype(np.float32): kernel["float"], np.dtype(np.float64): kernel["double"]}
