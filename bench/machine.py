"""The header: what a time was measured on."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np

from bench import Options, peers
from bench.process import usable_cores
from fastnn.config import config, numpy_blas


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
