"""What this build does on this machine."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastnn import blas, dense
from fastnn._kernels import gemm, simd
from fastnn._version import __version__
from fastnn.threads import automatic, get_num_threads


def config() -> dict[str, str]:
    """The facts that `show_config` prints: ``version``, ``simd`` (the instruction set in use), ``matmul`` and ``threads``."""
    if dense.OWN_PRODUCT_UP_TO >= 2**62:
        matmul = "own"
    else:
        matmul = f"own up to {dense.OWN_PRODUCT_UP_TO} multiplications, above NumPy's BLAS"
    matmul += f"; one row times more than {dense.OWN_VECTOR_PRODUCT_UP_TO} weights: NumPy's BLAS ({numpy_blas()})"
    if blas.path:
        matmul = f"{blas.VARIABLE} ({blas.path}) from {gemm.BLAS_FROM} multiplications on; below {matmul}"
    threads = f"{get_num_threads()}" + (", or fewer where that is faster" if automatic() else "")
    return {"version": __version__, "simd": simd.level(), "matmul": matmul, "threads": threads}


def show_config() -> None:
    """Print the version, the SIMD level in use, who does the matrix products and how many threads there may be."""
    for key, value in config().items():
        print(f"{key:8} {value}")


def numpy_blas() -> str:
    """Name and version of the BLAS that NumPy was built with."""
    build: dict[str, Any] = np.show_config(mode="dicts")  # type: ignore[assignment]
    blas = build.get("Build Dependencies", {}).get("blas", {})
    return f"{blas.get('name', 'unknown')} {blas.get('version', '')}".strip()
