"""Suite `many`: 64 small networks with their own seeds and rates on the same rows, by `fastnn.fit_many`; one after the other by
``fit``, with one thread; and one after the other by PyTorch, eager with its fused SGD and one thread, best for such sizes.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

import fastnn as fnn
from bench import Options, data
from bench.peers import own
from bench.report import Row, table, times
from bench.task import Task
from bench.timing import Timing, progress

NETS = 64
SIZES = [((16, 32, 32, 2), 4096), ((16, 32, 32, 2), 512), ((784, 16, 10), 4096)]
EPOCHS, QUICK_EPOCHS = 4, 1
ROUNDS, QUICK_ROUNDS = 5, 3
TORCH_SHARE = 8  # PyTorch trains one network in so many, and its time counts as often


def run(options: Options) -> list[Row]:
    rows = []
    with tempfile.TemporaryDirectory(prefix="fastnn-bench-") as folder:
        path = Path(folder) / "data.npz"
        for widths, n in progress(SIZES, "many"):
            x, y = data.synthetic(n, widths[0], widths[-1], "softmax_cross_entropy", "float32")
            np.savez(path, x=x, y=y)
            for batch_norm in (False, True):
                task = Task(widths, 32, str(path), batch_norm=batch_norm, lr=0.01)
                rows += [measure(task, x, y, threads, options) for threads in options.threads if threads > 1]
    return rows


def measure(task: Task, x: np.ndarray, y: np.ndarray, threads: int, options: Options) -> Row:
    epochs = QUICK_EPOCHS if options.quick else EPOCHS
    tasks = [replace(task, lr=task.lr * (1 + i / NETS)) for i in range(NETS)]
    torch = None
    if "torch-eager" in options.peers:
        from bench.peers.torch_eager import Rival

        torch = [Rival(each, x, y) for each in tasks[::TORCH_SHARE]]
    seconds: dict[str, list[float]] = {}
    for turn in range(1 + (QUICK_ROUNDS if options.quick else ROUNDS)):
        together, one_by_one = ([own.Rival(each, x, y) for each in tasks] for _ in range(2))
        started = time.perf_counter()
        with fnn.num_threads(threads):
            fnn.fit_many(
                [rival.net for rival in together], x, y, optimizers=[rival.optimizer for rival in together], epochs=epochs,
                batch_size=task.batch, last_batch="drop",
            )  # fmt: skip
        taken = {"fastnn": time.perf_counter() - started}
        started = time.perf_counter()
        with fnn.num_threads(1):
            for rival in one_by_one:
                rival.train(epochs)
        taken["one by one"] = time.perf_counter() - started
        if torch:
            started = time.perf_counter()
            for each in torch:
                each.train(epochs)
            taken["torch-eager"] = (time.perf_counter() - started) * TORCH_SHARE
        if turn:
            for contender, spent in taken.items():
                seconds.setdefault(contender, []).append(spent)
    name = "-".join(map(str, task.widths)) + (", batch norm" if task.batch_norm else "")
    steps = len(x) // task.batch * epochs * NETS
    timings = {name: Timing(tuple(taken)) for name, taken in seconds.items()}
    return Row(
        "many", f"{NETS} x {name}", f"{len(x)} rows", task.dtype, timings, task.flop * steps, threads=threads,
        extra={"fastnn": {"steps": steps}},
    )  # fmt: skip


def tables(rows: Sequence[Row]) -> str:
    lines = [
        [
            row.name, row.case, str(row.threads), f"{1e6 * row.times['fastnn'].median / row.extra['fastnn']['steps']:.2f}",
            times(row.ratio("one by one")), times(row.ratio("torch-eager")),
        ]
        for row in rows
    ]  # fmt: skip
    return table(["networks", "data", "threads", "us a step", "one by one / fit_many", "PyTorch / fit_many"], lines, 2)


