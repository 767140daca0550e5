"""The contenders of one cell of a table, fastnn and its rivals: they compute in turn, never two at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import TypeVar

from bench import BenchError, peers
from bench.process import Contender, Failure
from bench.task import Task

T = TypeVar("T")
PAUSE = 0.2  # seconds between two: threads of the last one that wait busily for more work have gone to sleep then


class Field:
    """A process for each; one that fails leaves the field and `notes` has the reason. Without fastnn the run cannot go on.

    To be used in a ``with``, which ends the processes.
    """

    def __init__(self, task: Task, rivals: Sequence[str]) -> None:
        self.notes: dict[str, str] = {}
        self.running: dict[str, Contender] = {}
        with ExitStack() as stack:
            for name in ("fastnn", *rivals):
                file = (peers.OWN if name == "fastnn" else peers.PEERS[name]).training
                try:
                    self.running[name] = stack.enter_context(Contender(str(file), task))
                except Failure as failure:
                    self._lose(name, failure)
            self._stack = stack.pop_all()

    def __enter__(self) -> Field:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.close()

    def each(self, turn: int, work: Callable[[str, Contender], T]) -> dict[str, T]:
        """What `work` makes of everyone who is still there, in an order that moves on by one with every turn."""
        results = {}
        names = list(self.running)
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            time.sleep(PAUSE)
            try:
                results[name] = work(name, self.running[name])
            except Failure as failure:
                self._lose(name, failure)
        return results

    def _lose(self, name: str, failure: Failure) -> None:
        if name == "fastnn":
            raise BenchError(f"fastnn: {failure}")
        self.running.pop(name, None)
        self.notes[name] = str(failure)
