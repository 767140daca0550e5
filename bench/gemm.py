"""Suite `gemm`: fastnn's own matrix product against NumPy's BLAS, one thread each: the three products of a dense layer.

First both agree with the product in float64, then they race. The peak that shares refer to is the best rate in the same
run of the register tile on operands that stay in the first-level cache, or of anything that was faster.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from bench import BenchError, Options, machine
from bench.report import Row, geometric_mean, microseconds, table, times
from bench.timing import calibrate, interleaved, progress
from fastnn._kernels import by_dtype, gemm
from fastnn.reference import Array

SIZES = [  # rows, width in, width out
    (1, 1, 1), (2, 3, 5), (7, 13, 17), (8, 32, 32), (32, 8, 32), (32, 32, 32), (33, 31, 35), (64, 64, 64), (64, 128, 128),
    (60, 784, 100), (100, 100, 100), (128, 784, 256), (128, 256, 128), (127, 255, 129), (1, 1000, 1000),
    (10, 1000, 1000), (256, 256, 256), (256, 1024, 1024), (4096, 64, 64), (511, 513, 515), (512, 512, 512),
    (1000, 1000, 1000), (1024, 1024, 1024), (2048, 2048, 2048),
]  # fmt: skip
# product: the operands of x (m, k), w (k, n) and dz (m, n)
PRODUCTS: dict[str, Callable[[Array, Array, Array], tuple[Array, Array]]] = {
    "x @ w": lambda x, w, dz: (x, w),
    "dz @ w.T": lambda x, w, dz: (dz, w.T),
    "x.T @ dz": lambda x, w, dz: (x.T, dz),
}
# seconds of one round, and rounds
FULL, QUICK = (0.05, 9), (0.003, 5)
QUICK_FLOP = 5e8  # a quick run leaves out the sizes with more work than this
TOLERANCE = {"float32": 1e-5, "float64": 1e-13}  # the largest error, relative to the product of the absolute values
RIVAL = "NumPy"


def run(options: Options) -> list[Row]:
    seconds, rounds = QUICK if options.quick else FULL
    sizes = [size for size in SIZES if not options.quick or flop(size) <= QUICK_FLOP]
    cases = [(size, dtype) for dtype in options.dtypes for size in sizes]
    rows = []
    for size, dtype in progress(cases, "gemm"):
        m, k, n = size
        rng = np.random.default_rng(0)
        x, w, dz = (rng.standard_normal(shape).astype(dtype) for shape in ((m, k), (k, n), (m, n)))
        for name, operands in PRODUCTS.items():
            a, b = operands(x, w, dz)
            own, out = (np.empty((len(a), b.shape[1]), dtype) for _ in range(2))
            calls = {
                "fastnn": partial(by_dtype(gemm.product)[np.dtype(dtype)], a, b, None, own),
                RIVAL: partial(np.matmul, a, b, out=out),
            }
            case = "x".join(map(str, size))
            for call in calls.values():
                call()
            check(f"{name} {case} {dtype}", a, b, {"fastnn": own, RIVAL: out})
            counts = {contender: calibrate(call, seconds) for contender, call in calls.items()}
            timings = interleaved(calls, counts, range(rounds))
            rows.append(Row("gemm", name, case, dtype, timings, flop(size)))
    for dtype in options.dtypes:
        of_dtype = [row for row in rows if row.dtype == dtype]
        best = max(peak(of_dtype), *(machine.peak(dtype) / 1e9 for _ in range(rounds)))
        for row in of_dtype:
            row.extra.update({name: {"share of peak": row.rate(name) / best, "peak": best} for name in row.times})
    return rows


def flop(size: tuple[int, int, int]) -> float:
    m, k, n = size
    return 2.0 * m * k * n


def check(case: str, a: Array, b: Array, results: dict[str, Array]) -> None:
    exact = a.astype(np.float64) @ b.astype(np.float64)
    allowed = TOLERANCE[a.dtype.name] * (np.abs(a) @ np.abs(b))
    for name, result in results.items():
        worst = float(np.max(np.abs(result - exact) / allowed))
        if not worst <= 1:
            raise BenchError(f"gemm: {case}: {name} is off by {worst:.3g} times what is allowed")


def peak(rows: Sequence[Row]) -> float:
    """In GFLOP/s: the rate of the fastest round of any contender."""
    return max(row.work / min(timing.rounds) / 1e9 for row in rows for timing in row.times.values())


def tables(rows: Sequence[Row]) -> str:
    head = ["rows x in x out", "product", "us", "GFLOP/s", "of peak", f"{RIVAL} us", f"{RIVAL} / fastnn"]
    texts = []
    dtypes = list(dict.fromkeys(row.dtype for row in rows))
    for dtype in dtypes:
        of_dtype = [row for row in rows if row.dtype == dtype]
        lines = []
        for row in of_dtype:
            share = f"{100 * row.extra['fastnn']['share of peak']:.0f} %"
            cells = [microseconds(row.times["fastnn"]), f"{row.rate():.3g}", share, microseconds(row.times[RIVAL])]
            lines.append([row.case, row.name, *cells, times(row.ratio(RIVAL))])
        title = f"{dtype}, one thread, peak {of_dtype[0].extra['fastnn']['peak']:.0f} GFLOP/s"
        texts.append(f"{title}\n\n" + table(head, lines, left=2))
    kinds = [(name, dtype) for dtype in dtypes for name in PRODUCTS]
    groups = [(" ".join(kind), [row for row in rows if (row.name, row.dtype) == kind]) for kind in kinds]
    lines = []
    for label, group in [*groups, ("all", list(rows))]:
        lowest = min(group, key=lambda row: row.ratio(RIVAL) or 0)
        lines.append(
            [label, times(geometric_mean(row.ratio(RIVAL) for row in group)), times(lowest.ratio(RIVAL)), lowest.case]
        )
    texts.append(table(["geometric means", f"{RIVAL} / fastnn", "lowest", "at"], lines, left=1))
    return "\n\n".join(texts)
