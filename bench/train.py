"""Suite `train`: the time of one training step of each net of a table, for fastnn's `fit` and for every rival.

Every contender runs in a process of its own, pinned to as many cores as it has threads, and starts from the same weights.
First its losses over some steps on the same batches are those of textbook NumPy in float64; one whose are not does not race.
Then rounds alternate: each begins at the initial weights and trains for some epochs, for each of which the contender
shuffles the rows, gathers its batches and takes its steps. Only one contender computes at any time.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path

import numpy as np

from bench import BenchError, Options, data, peers
from bench.field import Field
from bench.peers.textbook import Rival as Textbook
from bench.process import Contender, Failure
from bench.report import Row, contenders, geometric_mean, microseconds, notes, table, times
from bench.task import Task
from bench.timing import Timing, progress


@dataclass(frozen=True)
class Net:
    """A net, its batches, how many steps an epoch has, and whether a quick run has it too, in one dtype."""

    name: str
    batch: int
    steps: int
    dtypes: tuple[str, ...] = ("float32",)
    loss: str = "softmax_cross_entropy"
    activation: str = "relu"
    batch_norm: bool = True
    lr: float = 0.05
    quick: bool = False

    @property
    def widths(self) -> tuple[int, ...]:
        """Of ``"8-2x32-4"``: 8, 32, 32, 4."""
        parts = [part.split("x") for part in self.name.split("-")]
        return tuple(int(part[-1]) for part in parts for _ in range(int(part[0]) if len(part) > 1 else 1))


NETS = [
    Net("8-32-32-4", 32, 1000, quick=True),
    Net("64-128-128-10", 64, 300, ("float32", "float64"), quick=True),
    Net("784-100-100-100-10", 60, 100),
    Net("784-256-128-10", 128, 60, quick=True),
    Net("784-5x1000-10", 10, 20),
    Net("1024-4x1024-100", 256, 6),
    Net("16-64-64-1", 32, 1000, loss="mean_squared_error", activation="tanh", batch_norm=False, lr=0.005, quick=True),
    Net("13-64-1", 1, 1000, loss="mean_squared_error", batch_norm=False, lr=0.0002),
    Net("32-64-64-2", 1024, 100),
    Net("20-256-256-1", 256, 60, ("float64",), loss="mean_squared_error", lr=0.005),
]
# rounds, and the seconds that one takes at least
FULL, QUICK = (7, 0.1), (5, 0.02)
QUICK_SHARE = 3  # a quick run has a third of the steps
CHECKED_STEPS = 8
TOLERANCE = {"float32": 1e-4, "float64": 1e-10}
NO_BATCH_NORM = "no batch norm, less work: its time does not count"
SHORT_STEP = 1e-3  # seconds: below, careful NumPy is a target too


def run(options: Options) -> list[Row]:
    if unknown := set(options.nets) - {net.name for net in NETS}:
        raise BenchError(f"--nets: expected names of {', '.join(net.name for net in NETS)}, got {min(unknown)!r}")
    nets = [net for net in NETS if net.name in options.nets or (not options.nets and (net.quick or not options.quick))]
    cells = []
    for net in nets:
        dtypes = [dtype for dtype in net.dtypes if dtype in options.dtypes]
        cells += [(net, dtype) for dtype in (dtypes[:1] if options.quick else dtypes)]
    if not cells:
        raise BenchError("train: no net of the table has that dtype")
    rows = []
    with tempfile.TemporaryDirectory(prefix="fastnn-bench-") as folder:
        for net, dtype in progress(cells, "train"):
            path = Path(folder) / "data.npz"
            save_data(path, net, dtype, net.steps // (QUICK_SHARE if options.quick else 1))
            for threads in options.threads:
                task = Task(
                    net.widths, net.batch, str(path), net.batch_norm, net.activation, net.loss, dtype, net.lr, threads=threads
                )
                rows.append(measure(net.name, task, options))
    return rows


def save_data(path: Path, net: Net, dtype: str, steps: int) -> None:
    x, y = data.synthetic(net.batch * steps, net.widths[0], net.widths[-1], net.loss, dtype)
    np.savez(path, x=x, y=y)


def measure(name: str, task: Task, options: Options) -> Row:
    """One cell of the table."""
    rounds, least = QUICK if options.quick else FULL
    with np.load(task.data) as arrays:
        x, y = arrays["x"], arrays["y"]
    wanted = expected_losses(task, x, y, min(CHECKED_STEPS, len(x) // task.batch))
    taken: dict[str, list[float]] = {}

    def prepare(name: str, process: Contender) -> int:
        """Check, compile, warm up; how many epochs make a round."""
        if peers.has_batch_norm(name) or not task.batch_norm:
            compare(wanted, process.ask(f"losses {len(wanted)}")["losses"], task.dtype)
        process.ask("round 1")
        process.ask("start 0")
        return ceil(least / process.ask("round 1")["seconds"])

    def race(name: str, process: Contender) -> float:
        process.ask("start 0")
        answer = process.ask(f"round {epochs[name]}")
        return float(answer["seconds"] / answer["steps"])

    with Field(task, peers.training(options.peers)) as field:
        epochs = field.each(0, prepare)
        for turn in range(rounds):
            for contender, seconds in field.each(turn, race).items():
                taken.setdefault(contender, []).append(seconds)
        timings = {contender: Timing(tuple(taken[contender])) for contender in field.running}
        remarks = field.notes
    if task.batch_norm:
        remarks |= {contender: NO_BATCH_NORM for contender in timings if not peers.has_batch_norm(contender)}
    case = f"{task.threads} thread{'s' if task.threads > 1 else ''}"
    return Row("train", name, case, task.dtype, timings, task.flop, threads=task.threads, notes=remarks)


def expected_losses(task: Task, x: np.ndarray, y: np.ndarray, steps: int) -> list[float]:
    """Those of textbook NumPy in float64, from the weights in the task's dtype."""
    exact = [a.astype(np.float64) if a.dtype.kind == "f" else a for a in (x, y)]
    rival = Textbook(replace(task, dtype="float64"), *exact)
    rival.state = {name: a.astype(np.float64) for name, a in task.initial_state().items()}
    return rival.losses(steps)


def compare(wanted: Sequence[float], losses: Sequence[float], dtype: str) -> None:
    """Errors are relative to the loss, or to the usual one where that of a small batch happens to be close to zero."""
    usual = statistics.fmean(wanted)
    for step, (expected, loss) in enumerate(zip(wanted, losses, strict=True)):
        if not abs(loss - expected) <= TOLERANCE[dtype] * max(expected, usual):
            raise Failure(f"disagrees: its loss at step {step} is {loss:.8g}, expected {expected:.8g}")


# ---- what is printed


def tables(rows: Sequence[Row]) -> str:
    names = contenders(rows)
    head = ["net", "dtype", "threads", "GFLOP/s", *names, "fastest rival", "/ fastnn", "careful / fastnn"]
    lines = []
    for row in rows:
        fastest = row.fastest()
        lines.append(
            [row.name, row.dtype, str(row.threads), f"{row.rate():.3g}"]
            + [microseconds(row.times.get(name)) + "*" * (name in row.times and name in row.notes) for name in names]
            + [fastest or "-", times(row.ratio(fastest)), times(row.ratio("careful"))]
        )
    text = "microseconds per step\n\n" + table(head, lines, left=2)
    if remarks := notes(rows):
        text += "\n\n" + "\n".join(f"* {remark}" for remark in remarks)
    return text + "\n\n" + table(["geometric means", "ratio", "lowest", "cells"], means(rows), left=1)


def means(rows: Sequence[Row]) -> list[list[str]]:
    """The fastest rival of each cell over fastnn, for each number of threads and for all; careful NumPy at short steps."""
    groups = [(f", {n} thread{'s' * (n > 1)}", [row for row in rows if row.threads == n]) for n in _threads(rows)]
    if len(groups) > 1:
        groups.append((", all of these", list(rows)))
    short = [row.ratio("careful") for row in rows if row.times["fastnn"].median < SHORT_STEP]
    found = [(f"fastest rival{label}", [row.ratio(row.fastest()) for row in group]) for label, group in groups]
    found.append((f"careful where a step of fastnn is below {1e3 * SHORT_STEP:g} ms", short))
    lines = []
    for label, ratios in found:
        present = [ratio for ratio in ratios if ratio is not None]
        lines.append([label, times(geometric_mean(present)), times(min(present, default=None)), str(len(present))])
    return lines


def _threads(rows: Sequence[Row]) -> list[int]:
    return list(dict.fromkeys(row.threads for row in rows))
