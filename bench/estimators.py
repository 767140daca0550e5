"""Suite `sklearn`: how long `fit` of `fastnn.sklearn.MLPClassifier` takes, and that of scikit-learn's class of the same name.

Both get the same rows, options and number of epochs, each in a process of its own, and nothing stops them before; so does
`Sequential.fit` with the same network, which shows what the estimator adds. A round is one whole `fit` from one seed, and its
accuracy on the test rows is that of this network.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from bench import BenchError, Options, data
from bench.data import Dataset
from bench.field import PAUSE
from bench.process import Contender, Failure
from bench.report import Row, geometric_mean, table, times
from bench.task import Task
from bench.timing import Timing, progress

SEEDS, QUICK_SEEDS = 5, 2
FILES = {"fastnn": "estimator_own", "sklearn": "estimator_sklearn", "Sequential.fit": "estimator_raw"}
RATES = {"sgd": 0.1, "adam": 0.001}


@dataclass(frozen=True)
class Case:
    """Data, the widths of the network for them, and the epochs of a full and of a quick run."""

    dataset: Dataset
    widths: tuple[int, ...]
    epochs: tuple[int, int]


def cases() -> list[Case]:
    x, y = data.synthetic(25_000, 100, 10, "softmax_cross_entropy", "float32")
    synthetic = Dataset("20,000 x 100", x[:20_000], y[:20_000], x[20_000:], y[20_000:])
    return [Case(data.digits(), (64, 100, 10), (100, 20)), Case(synthetic, (100, 100, 10), (10, 2))]


def run(options: Options) -> list[Row]:
    if not find_spec("sklearn"):
        raise BenchError("sklearn: needs scikit-learn, which is not installed")
    dtypes = options.dtypes[:1] if options.quick else options.dtypes
    cells = [
        (case, solver, dtype, threads)
        for case in cases()
        for solver in RATES
        for dtype in dtypes
        for threads in options.threads
    ]
    rows = []
    with tempfile.TemporaryDirectory(prefix="fastnn-bench-") as folder:
        path = Path(folder) / "data.npz"
        for case, solver, dtype, threads in progress(cells, "sklearn"):
            of = case.dataset
            np.savez(path, x=of.x.astype(dtype), y=of.y, x_test=of.x_test.astype(dtype), y_test=of.y_test)
            task = Task(
                case.widths, 200, str(path), batch_norm=False, dtype=dtype, lr=RATES[solver], threads=threads, solver=solver
            )
            rows.append(measure(of.name, task, case.epochs[options.quick], QUICK_SEEDS if options.quick else SEEDS))
    return rows


def measure(name: str, task: Task, epochs: int, seeds: int) -> Row:
    seconds: dict[str, list[float]] = {contender: [] for contender in FILES}
    accuracies: dict[str, list[float]] = {contender: [] for contender in FILES}
    with ExitStack() as stack:
        try:
            running = {contender: stack.enter_context(Contender(file, task)) for contender, file in FILES.items()}
            for process in running.values():
                process.ask("round 1")  # warms up
            for seed in range(seeds):
                for contender, process in running.items():
                    time.sleep(PAUSE)
                    process.ask(f"start {seed}")
                    seconds[contender].append(process.ask(f"round {epochs}")["seconds"])
                    accuracies[contender].append(process.ask("accuracy")["accuracy"])
        except Failure as failure:
            raise BenchError(f"sklearn: {failure}") from None
    extra = {
        contender: {"accuracy": statistics.fmean(of), "spread": statistics.pstdev(of)} for contender, of in accuracies.items()
    }
    timings = {contender: Timing(tuple(of)) for contender, of in seconds.items()}
    case = f"{task.solver}, {epochs} epochs, {task.threads} thread{'s' if task.threads > 1 else ''}"
    return Row("sklearn", name, case, task.dtype, timings, threads=task.threads, extra=extra)


def tables(rows: Sequence[Row]) -> str:
    lines = []
    for row in rows:
        accuracy = [f"{100 * row.extra[name]['accuracy']:.2f} +- {100 * row.extra[name]['spread']:.2f}" for name in FILES]
        ratios = [times(row.ratio(name)) for name in ("sklearn", "Sequential.fit")]
        lines.append([row.name, row.dtype, row.case, f"{1e3 * row.times['fastnn'].median:.0f}", *ratios, *accuracy[:2]])
    head = ["", "", "", "fit ms", "sklearn / fastnn", "Sequential.fit / fastnn", "accuracy %, fastnn", "sklearn"]
    mean = geometric_mean(row.ratio("sklearn") for row in rows)
    return f"{table(head, lines, left=3)}\n\ngeometric mean of sklearn / fastnn: {times(mean)}"
