"""Suite `outofcore`: an epoch of uint8 rows from files, by `fastnn.data.Shards`, beside the same rows memory-mapped
and in memory.

The files have just been written, so that the system has them in its cache. The share of the array's speed is what counts. What
a process of its own takes in anonymous memory, interpreter and all, is measured beside it.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import fastnn as fnn
from bench import BenchError, Options
from bench.peers.own import network
from bench.report import Row, table
from bench.timing import Timing, progress
from fastnn.data import Shards

FEATURES = 784
NETS = [(784, 100, 10), (784, 256, 128, 10)]
BATCH = 128
ROUNDS, QUICK_ROUNDS = 5, 3
QUICK_SHARE = 10
ROWS_OF_FILE = 1 << 17


def write(folder: Path, gigabytes: float) -> None:
    """Files of one number of rows each, which differ."""
    rng = np.random.default_rng(0)
    files = max(round(gigabytes * 1e9 / FEATURES / ROWS_OF_FILE), 1)
    for i in progress(range(files), "writing"):
        np.save(folder / f"x-{i:05d}.npy", rng.integers(0, 256, (ROWS_OF_FILE, FEATURES), np.uint8))
        np.save(folder / f"y-{i:05d}.npy", rng.integers(0, 10, ROWS_OF_FILE, np.uint8))


def run(options: Options) -> list[Row]:
    gigabytes = options.gigabytes / (QUICK_SHARE if options.quick else 1)
    with tempfile.TemporaryDirectory(prefix="fastnn-bench-") as name:
        folder = Path(name)
        write(folder, gigabytes)
        shards = Shards(folder)
        # one file for the others
        x = np.lib.format.open_memmap(folder / "all.npy", "w+", np.uint8, (len(shards), FEATURES))
        y, at = np.empty(len(shards), np.int64), 0
        for rows, labels in shards.chunks(1 << 16):
            x[at:at + len(rows)], y[at:at + len(rows)] = rows, labels
            at += len(rows)
        in_memory = np.array(x)
        return [
            measure(widths, threads, {"fastnn": (shards, None), "memmap": (x, y), "array": (in_memory, y)}, options, folder)
            for widths in NETS
            for threads in options.threads
        ]


def measure(widths: Sequence[int], threads: int, sources: dict[str, Any], options: Options, folder: Path) -> Row:
    name = "-".join(map(str, widths))
    nets = {contender: network(widths) for contender in sources}
    seconds: dict[str, list[float]] = {contender: [] for contender in sources}
    with fnn.num_threads(threads):
        for turn in progress(range(1 + (QUICK_ROUNDS if options.quick else ROUNDS)), name):
            for contender, (x, y) in sources.items():
                started = time.perf_counter()
                nets[contender].fit(x, y, batch_size=BATCH, optimizer=fnn.SGD(0.01, momentum=0.9))
                if turn:
                    seconds[contender].append(time.perf_counter() - started)
    rows = len(sources["fastnn"][0])
    return Row(
        "outofcore", name, f"{threads} thread{'s' if threads > 1 else ''}", "uint8",
        {contender: Timing(tuple(taken)) for contender, taken in seconds.items()}, rows * FEATURES, "GB/s", threads,
        extra={"fastnn": {"rows": rows, "anonymous MB": anonymous(widths, threads, folder)}},
    )  # fmt: skip


def anonymous(widths: Sequence[int], threads: int, folder: Path) -> float:
    """Megabytes of anonymous memory of a process while it trains, at most; NaN where the system does not say."""
    code = f"""
import fastnn as fnn
from bench.peers.own import network
from fastnn.data import Shards
class Look(fnn.callbacks.Callback):
    every, most = 100, float("nan")
    def on_step(self, run):
        for line in open("/proc/self/status"):
            if line.startswith("RssAnon"):
                self.most = max(int(line.split()[1]), 0 if self.most != self.most else self.most)
look = Look()
with fnn.num_threads({threads}):
    network({widths!r}).fit(Shards({str(folder)!r}), batch_size={BATCH}, callbacks=[look, fnn.callbacks.MaxSteps(4000)])
print(look.most)
"""
    try:
        found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    except subprocess.CalledProcessError as error:
        raise BenchError(f"outofcore: {error.stderr}") from error
    return float(found.stdout) * 1024 / 1e6


def tables(rows: Sequence[Row]) -> str:
    lines = []
    for row in rows:
        extra, array = row.extra["fastnn"], row.times["array"].median
        lines.append([
            row.name, row.case, f"{row.work / 1e9:.2f}",
            f"{extra['rows'] / row.times['fastnn'].median:,.0f}", f"{1e3 * row.rate():.0f}",
            f"{100 * array / row.times['fastnn'].median:.0f} %", f"{100 * array / row.times['memmap'].median:.0f} %",
            f"{extra['anonymous MB']:.0f}",
        ])  # fmt: skip
    head = ["net", "case", "GB", "rows/s", "MB/s", "of the array's speed", "a memmap", "anonymous MB"]
    return table(head, lines, 2)
