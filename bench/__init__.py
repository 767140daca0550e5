"""fastnn against its rivals: ``python -m bench --help``.

A suite is a module here: `kernels`, `gemm`, `predict`, `train`, `accuracy`, `estimators`, `outofcore`, `many`, `imports`. The
rivals are in `bench.peers`.
Importing this package imports no NumPy, so that the number of threads can be set first.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Options:
    """What the command line asked for; every suite gets the same."""

    quick: bool = False
    threads: tuple[int, ...] = (1,)
    peers: tuple[str, ...] = ("textbook", "careful")
    dtypes: tuple[str, ...] = ("float32", "float64")
    nets: tuple[str, ...] = ()  # rows of the train suite; empty: all
    mnist: Path | None = None
    gigabytes: float = 1.0  # of the suite outofcore


class BenchError(Exception):
    """The run cannot go on: contenders that disagree, a folder without the data, a package that is missing."""
