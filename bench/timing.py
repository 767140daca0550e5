"""Interleaved rounds: a busy moment of the machine hits every contender alike, and the median forgets it."""

from __future__ import annotations

import gc
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any, TypeVar

T = TypeVar("T")
Call = Callable[[], Any]


@dataclass(frozen=True)
class Timing:
    """The seconds one call took, as each round found it."""

    rounds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.rounds)

    def per(self, count: int) -> Timing:
        """The same for one of the `count` equal parts of a call."""
        return Timing(tuple(seconds / count for seconds in self.rounds))


def calibrate(call: Call, seconds: float) -> int:
    """How many calls take about `seconds`: at least one, and at least one was made, which warms up."""
    count = 1
    elapsed = clock(call, count)
    while elapsed < seconds / 2:
        count = max(count + 1, min(10 * count, int(count * seconds / max(elapsed, 1e-9))))
        elapsed = clock(call, count)
    return count


def interleaved(calls: Mapping[str, Call], counts: Mapping[str, int], rounds: Iterable[Any]) -> dict[str, Timing]:
    """Round 1 of every contender, round 2 of every contender, ...; a round is `counts[name]` calls in a row."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in rounds:
        for name, call in calls.items():
            taken[name].append(clock(call, counts[name]) / counts[name])
    return {name: Timing(tuple(seconds)) for name, seconds in taken.items()}


def clock(call: Call, count: int) -> float:
    """The seconds of so many calls in a row, without a garbage collection."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        start = time.perf_counter()
        for _ in repeat(None, count):
            call()
        return time.perf_counter() - start
    finally:
        if collecting:
            gc.enable()


def progress(items: Sequence[T], label: str) -> Iterator[T]:
    """The items, with a bar on standard error if that is a terminal."""
    if not sys.stderr.isatty():
        yield from items
        return
    width = 40
    for i, item in enumerate(items):
        done = width * i // len(items)
        sys.stderr.write(f"\r{label} [{'#' * done}{'.' * (width - done)}] {i}/{len(items)}")
        sys.stderr.flush()
        yield item
    sys.stderr.write("\r" + " " * (len(label) + width + 24) + "\r")
    sys.stderr.flush()
