"""Rows, and what every suite needs to print them and to save them as JSON."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from bench import Options
from bench.timing import Timing

# unit: the size of one in bytes or operations
UNITS = {"GB/s": 1e9, "GFLOP/s": 1e9}


@dataclass(frozen=True)
class Row:
    """One thing measured, for every contender; the first is fastnn."""

    suite: str
    name: str
    case: str
    dtype: str
    times: dict[str, Timing]  # of one call, of one training step, of what the suite says
    work: float = 0.0  # bytes or operations of it
    unit: str = "GFLOP/s"
    threads: int = 1
    extra: dict[str, dict[str, float]] = field(default_factory=dict)  # more about each contender
    notes: dict[str, str] = field(default_factory=dict)  # why a contender has no time here, or one that does not count

    def rate(self, contender: str = "fastnn") -> float:
        return self.work / self.times[contender].median / UNITS[self.unit]

    def ratio(self, rival: str | None) -> float | None:
        """How many times as long as fastnn the rival takes; None where one of them has no time."""
        if rival not in self.times or "fastnn" not in self.times:
            return None
        return self.times[rival].median / self.times["fastnn"].median

    @property
    def rivals(self) -> list[str]:
        return [name for name in self.times if name != "fastnn"]

    def fastest(self) -> str | None:
        """The fastest rival among those that count."""
        counted = [name for name in self.rivals if name not in self.notes]
        return min(counted, key=lambda name: self.times[name].median, default=None)


def save_json(path: Path, machine: dict[str, str], options: Options, rows: Sequence[Row]) -> None:
    """Everything, with the seconds of every round; medians, rates and ratios are worked out for the reader."""
    content = {
        "machine": machine,
        "options": asdict(options),
        "rows": [
            asdict(row)
            | {"medians": {name: timing.median for name, timing in row.times.items()}}
            | {"rates": {name: row.rate(name) for name in row.times}}
            | {"ratios": {rival: row.ratio(rival) for rival in row.rivals}}
            | {"fastest": row.fastest()}
            for row in rows
        ],
    }
    path.write_text(json.dumps(content, indent=1, default=str) + "\n")


def header(machine: dict[str, str]) -> str:
    width = max(map(len, machine))
    return "\n".join(f"{name:<{width}}  {value}" for name, value in machine.items())


def contenders(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in [*row.times, *row.notes]))


def microseconds(timing: Timing | None) -> str:
    if timing is None:
        return "-"
    us = 1e6 * timing.median
    return f"{us:.0f}" if us >= 1000 else f"{us:.3g}"


def times(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.2f}x"


def geometric_mean(ratios: Iterable[float | None]) -> float | None:
    """Of those that are there."""
    present = [ratio for ratio in ratios if ratio is not None]
    return statistics.geometric_mean(present) if present else None


def notes(rows: Sequence[Row]) -> list[str]:
    """Each remark once, with the names of the rows it is about."""
    places: dict[tuple[str, str], dict[str, None]] = {}
    for row in rows:
        for name, text in row.notes.items():
            places.setdefault((name, text), {})[row.name] = None
    return [f"{name}: {text} [{', '.join(where)}]" for (name, text), where in places.items()]


def table(head: list[str], lines: list[list[str]], left: int) -> str:
    """Columns as wide as they need to be: the first `left` of them flush left, numbers flush right."""
    widths = [max(map(len, column)) for column in zip(head, *lines, strict=True)]

    def line(cells: list[str]) -> str:
        return "  ".join(
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ).rstrip()

    return "\n".join([line(head), "-" * len(line(head)), *map(line, lines)])
