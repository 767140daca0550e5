"""Rows as tables, as JSON and as a picture."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from bench import BenchError, Options
from bench.timing import Timing

# unit: the size of one in bytes, operations or samples
UNITS = {"GB/s": 1e9, "GFLOP/s": 1e9, "samples/s": 1.0}


@dataclass(frozen=True)
class Row:
    """One thing measured, for every contender; the first is fastnn."""

    suite: str
    name: str
    case: str
    dtype: str
    times: dict[str, Timing]  # of one call, or of one training step
    work: float  # bytes, operations or samples of it
    unit: str
    extra: dict[str, dict[str, float]] = field(default_factory=dict)  # more about each contender

    def rate(self, contender: str = "fastnn") -> float:
        return self.work / self.times[contender].median / UNITS[self.unit]

    def ratio(self, rival: str) -> float | None:
        """How many times as long as fastnn the rival takes; None where it does not run this."""
        return self.times[rival].median / self.times["fastnn"].median if rival in self.times else None

    @property
    def rivals(self) -> list[str]:
        return [name for name in self.times if name != "fastnn"]


def tables(rows: Sequence[Row]) -> str:
    """The rows of one suite: time and rate of fastnn and the ratio rival / fastnn; then what else is known of each."""
    rivals = _rivals(rows)
    head = ["", "", "", "fastnn us", "rate", "", *rivals]
    lines = [
        [row.name, row.case, row.dtype, _microseconds(row.times["fastnn"]), f"{row.rate():.3g}", row.unit]
        + [_times(row.ratio(rival)) for rival in rivals]
        for row in rows
    ]
    text = _table(head, lines, left=3)
    names = list(dict.fromkeys(row.name for row in rows))
    if len(names) > 1:
        groups = {name: [row for row in rows if row.name == name] for name in names}
        means = [[name, *(_times(_mean_ratio(group, rival)) for rival in rivals)] for name, group in groups.items()]
        text += "\n\n" + _table(["geometric means", *rivals], means, left=1)
    for row in rows:
        if row.extra:
            keys = list(row.extra["fastnn"])
            details = [
                [name, _microseconds(timing), f"{row.rate(name):.0f}", *(f"{row.extra[name][key]:.4g}" for key in keys)]
                for name, timing in row.times.items()
            ]
            text += f"\n\n{row.name}, {row.case}\n" + _table(["", "us", row.unit, *keys], details, left=1)
    return text


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
            for row in rows
        ],
    }
    path.write_text(json.dumps(content, indent=1, default=str) + "\n")


def save_plot(path: Path, machine: dict[str, str], rows: Sequence[Row]) -> None:
    """Bars of the ratios on a logarithmic scale: one panel for each name and dtype."""
    from matplotlib.figure import Figure

    rivals = _rivals(rows)
    if not rivals:
        raise BenchError("--plot: no rival to compare with")
    names = list(dict.fromkeys(row.name for row in rows))
    dtypes = list(dict.fromkeys(row.dtype for row in rows))
    figure = Figure(figsize=(8 * len(dtypes), 2.7 * len(names)), layout="constrained")
    panels = figure.subplots(len(names), len(dtypes), squeeze=False)
    for name, line in zip(names, panels, strict=True):
        for dtype, panel in zip(dtypes, line, strict=True):
            shown = [row for row in rows if (row.name, row.dtype) == (name, dtype)]
            if not shown:
                panel.set_axis_off()
                continue
            panel.set_title(f"{name} {dtype}", fontsize=9)
            width = 0.8 / len(rivals)
            for k, rival in enumerate(rivals):
                heights = [row.ratio(rival) or math.nan for row in shown]
                places = [i + (k - (len(rivals) - 1) / 2) * width for i in range(len(shown))]
                # from the line of equal speed: up where fastnn is faster
                panel.bar(places, [h - 1 for h in heights], width, bottom=1, label=rival, color=f"C{k}")
            panel.axhline(1, color="black", linewidth=0.8)
            panel.set_yscale("log", base=2)
            panel.yaxis.set_major_formatter("{x:g}")
            panel.set_xticks(range(len(shown)), [row.case for row in shown], rotation=45, ha="right", fontsize=7)
    panels[0][0].legend(fontsize=8)
    figure.supylabel("time of the rival / time of fastnn")
    figure.suptitle(f"fastnn {machine['fastnn']}, {machine['cpu']}, {machine['threads']} thread(s), {machine['blas']}")
    figure.savefig(path, dpi=100)


def header(machine: dict[str, str]) -> str:
    width = max(map(len, machine))
    return "\n".join(f"{name:<{width}}  {value}" for name, value in machine.items())


def _rivals(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(rival for row in rows for rival in row.rivals))


def _microseconds(timing: Timing) -> str:
    us = 1e6 * timing.median
    return f"{us:.0f}" if us >= 1000 else f"{us:.3g}"


def _times(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.2f}x"


def _mean_ratio(rows: Sequence[Row], rival: str) -> float | None:
    ratios = [ratio for row in rows if (ratio := row.ratio(rival)) is not None]
    return statistics.geometric_mean(ratios) if ratios else None


def _table(head: list[str], lines: list[list[str]], left: int) -> str:
    """Columns as wide as they need to be: the first `left` of them flush left, numbers flush right."""
    widths = [max(map(len, column)) for column in zip(head, *lines, strict=True)]

    def line(cells: list[str]) -> str:
        return "  ".join(
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ).rstrip()

    return "\n".join([line(head), "-" * len(line(head)), *map(line, lines)])
