"""One contender in a process of its own: ``python -m bench.worker NAME TASK``, started and asked by `bench.process`.

NAME is a training file in `bench.peers`, TASK the JSON of a `bench.task.Task`. Commands come line by line, answers go back as
lines of JSON:

``losses STEPS``   of the first steps, on batches that are the same for everyone
``start SEED``     back to the initial weights that follow from SEED, the velocity zero
``round EPOCHS``   train: the seconds it took, and the number of steps
``accuracy``       on the test rows
``quit``
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, TextIO

if TYPE_CHECKING:
    from bench.task import Task
    from fastnn.reference import Array


class Rival(Protocol):
    """What a training file offers. It is made with the weights to start from."""

    def __init__(self, task: Task, x: Array, y: Array) -> None: ...
    def start(self, seed: int = 0) -> None: ...
    def losses(self, steps: int) -> list[float]: ...
    def train(self, epochs: int) -> None: ...
    def predict(self, x: Array) -> Array: ...


def pin(threads: int) -> None:
    """Onto as many cores, where the system can; a BLAS or a compiler that counts them later finds just these."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


def serve(name: str, description: str, commands: Iterable[str], answers: TextIO) -> None:
    def answer(**content: Any) -> None:
        print(json.dumps(content), file=answers, flush=True)

    try:
        from bench.task import Task
        from bench.timing import clock

        task = Task.from_json(description)
        import numpy as np

        with np.load(task.data) as data:
            arrays = dict(data)
        began = time.perf_counter()
        rival: Rival = import_module(f"bench.peers.{name}").Rival(task, arrays["x"], arrays["y"])
        answer(seconds=time.perf_counter() - began)
        for line in commands:
            match line.split():
                case ["losses", steps]:
                    answer(losses=rival.losses(int(steps)))
                case ["start", seed]:
                    rival.start(int(seed))
                    answer()
                case ["round", epochs]:
                    elapsed = clock(partial(rival.train, int(epochs)), 1)
                    answer(seconds=elapsed, steps=int(epochs) * (len(arrays["x"]) // task.batch))
                case ["accuracy"]:
                    answer(accuracy=float(np.mean(rival.predict(arrays["x_test"]) == arrays["y_test"])))
                case ["quit"]:
                    return
                case _:
                    raise ValueError(f"unknown command {line!r}")
    except Exception as error:
        # one line: the first of the text, which in a compiler's error is followed by its whole output
        answer(error=f"{type(error).__name__}: {error}".splitlines()[0][:200])


def main() -> None:
    name, description = sys.argv[1:]
    # what a library prints must not come between the answers
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    pin(json.loads(description)["threads"])
    serve(name, description, sys.stdin, answers)


if __name__ == "__main__":
    main()
