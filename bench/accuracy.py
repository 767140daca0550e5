"""Suite `accuracy`: the time that training takes to a test accuracy, for fastnn and every rival that has batch norm.

A contender first trains for one epoch that compiles and warms up, goes back to the initial weights and trains until the
accuracy is reached, which is looked at after each epoch with the clock stopped; the same again from other initial weights.
``training`` is the time of those epochs; ``from start`` has the first, cold epoch in place of the warm one, and the import
and set-up before it.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench import Options, data, peers
from bench.field import Field
from bench.process import Contender, Failure
from bench.report import Row, contenders, table, times
from bench.task import Task
from bench.timing import Timing, progress

LR = 0.1
MOST_EPOCHS = 20


@dataclass(frozen=True)
class Goal:
    """A net, the test accuracy to reach, and from how many seeds, in a full and in a quick run."""

    widths: tuple[int, ...]
    batch: int
    accuracy: float
    seeds: tuple[int, int]


DIGITS = Goal((64, 128, 128, 10), 64, 0.97, (9, 3))
MNIST = Goal((784, 256, 128, 10), 128, 0.98, (3, 1))


@dataclass(frozen=True)
class Trial:
    """One contender on its way to the goal."""

    training: float
    from_start: float
    epochs: int


def run(options: Options) -> list[Row]:
    goals = [(DIGITS, data.digits())]
    if options.mnist:
        goals.append((MNIST, data.mnist(options.mnist)))
    else:
        print("\naccuracy: MNIST is left out: it needs --mnist DIR", flush=True)
    cells = [(goal, dataset, threads) for goal, dataset in goals for threads in options.threads]
    rows = []
    with tempfile.TemporaryDirectory(prefix="fastnn-bench-") as folder:
        path = Path(folder) / "data.npz"
        for goal, dataset, threads in progress(cells, "accuracy"):
            np.savez(path, x=dataset.x, y=dataset.y, x_test=dataset.x_test, y_test=dataset.y_test)
            task = Task(goal.widths, goal.batch, str(path), lr=LR, threads=threads)
            rows.append(measure(dataset.name, goal, task, options))
    return rows


def measure(name: str, goal: Goal, task: Task, options: Options) -> Row:
    rivals = peers.training(options.peers)
    reached: dict[str, list[Trial]] = {}
    with Field(task, [rival for rival in rivals if peers.has_batch_norm(rival)]) as field:
        cold = field.each(0, lambda name, process: float(process.ask("round 1")["seconds"]))
        for seed in range(goal.seeds[options.quick]):

            def trial_of(name: str, process: Contender, seed: int = seed) -> Trial:
                return attempt(process, seed, goal.accuracy, cold[name])

            for contender, trial in field.each(seed, trial_of).items():
                reached.setdefault(contender, []).append(trial)
        reached = {contender: reached[contender] for contender in field.running}
        remarks = field.notes | {rival: "no batch norm" for rival in rivals if not peers.has_batch_norm(rival)}
    timings = {contender: Timing(tuple(trial.training for trial in trials)) for contender, trials in reached.items()}
    extra = {
        contender: {
            "from start": statistics.median(trial.from_start for trial in trials),
            "epochs": statistics.median(trial.epochs for trial in trials),
        }
        for contender, trials in reached.items()
    }
    case = f"to {100 * goal.accuracy:g} %, {task.threads} thread{'s' if task.threads > 1 else ''}"
    return Row("accuracy", name, case, task.dtype, timings, threads=task.threads, extra=extra, notes=remarks)


def attempt(process: Contender, seed: int, accuracy: float, cold: float) -> Trial:
    process.ask(f"start {seed}")
    seconds = []
    for epoch in range(1, MOST_EPOCHS + 1):
        seconds.append(process.ask("round 1")["seconds"])
        if process.ask("accuracy")["accuracy"] >= accuracy:
            return Trial(sum(seconds), process.start_seconds + cold + sum(seconds[1:]), epoch)
    raise Failure(f"seed {seed} did not reach it in {MOST_EPOCHS} epochs")


def tables(rows: Sequence[Row]) -> str:
    texts = []
    for row in rows:
        fastest = row.fastest()
        lines = []
        for name in contenders([row]):
            if name in row.times:
                more = row.extra[name]
                cells = [f"{row.times[name].median:.3f}", f"{more['from start']:.2f}", f"{more['epochs']:g}"]
                lines.append([name, *cells, times(row.ratio(name))])
            else:
                lines.append([name, "-", "-", "-", row.notes[name]])
        title = f"{row.name} {row.case}, medians of {len(row.times['fastnn'].rounds)} seed(s)"
        text = table(["", "training s", "from start s", "epochs", "/ fastnn"], lines, left=1)
        texts.append(f"{title}\n\n{text}\n\nthe next best, {fastest}: {times(row.ratio(fastest))}")
    return "\n\n".join(texts)
