"""What a time was measured on: the header, and the limits that rates are held against."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from bench import Options, peers
from bench.process import usable_cores
from fastnn._kernels import by_dtype, gemm
from fastnn.config import config, numpy_blas

COPIED = 64_000_000  # bytes
TILES = 2000


def describe(options: Options) -> dict[str, str]:
    """Everything a reader needs to judge the times, in the order it is printed."""
    ours = config()
    present = peers.packages(peers.installed())
    missing = [package for package in peers.packages() if package not in present]
    return {
        "cpu": cpu_model(),
        "cores": cores(),
        "python": f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        "numpy": np.__version__,
        "blas": numpy_blas(),
        "threads": ", ".join(map(str, options.threads)),
        "fastnn": str(ours["version"]),
        "simd": str(ours["simd"]),
        "matmul": str(ours["matmul"]),
        "peers": ", ".join(f"{package} {peers.version(package)}" for package in peers.packages(options.peers)),
        "rivals": ", ".join(options.peers),
        "not installed": ", ".join(missing) or "nothing",
        "run": "quick: short rounds, the largest shapes and nets left out" if options.quick else "full",
    }


def cpu_model() -> str:
    if sys.platform == "darwin":
        return subprocess.check_output(["sysctl", "-n", "machdep.cpu.brand_string"], text=True).strip()
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def cores() -> str:
    total, usable = os.cpu_count() or 1, usable_cores()
    return str(total) if usable == total else f"{usable} of {total}"


def peak(dtype: Any) -> float:
    """Operations a second of one thread whose operands stay in the first-level cache."""
    block = np.ones(128 * (4 * 12 + 2 * 16) + 4 * 12 * 2 * 16, dtype)
    kernel = by_dtype(gemm.peak)[np.dtype(dtype)]
    start = time.perf_counter()
    return float(kernel(block, TILES) / (time.perf_counter() - start))


def bandwidth() -> float:
    """Bytes a second, read and written, of copying an array that fits no cache."""
    a, b = np.ones(COPIED // 8), np.ones(COPIED // 8)
    start = time.perf_counter()
    np.copyto(a, b)
    return 2 * COPIED / (time.perf_counter() - start)
