"""The picture of a run: of the training steps, or where none were timed, of the kernels or products."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import BenchError
from bench.report import Row, contenders

# rival: how it is drawn, in the order of the legend; colours that the colour-blind can tell apart
MARKS = {
    "fastnn": ("fastnn", "#000000", "D"),
    "jax-scan": ("JAX, epoch in one scan", "#0072b2", "o"),
    "jax-step": ("JAX, jitted step", "#56b4e9", "s"),
    "torch-compile": ("torch.compile", "#d55e00", "o"),
    "torch-eager": ("PyTorch eager, fused SGD", "#e69f00", "s"),
    "careful": ("careful NumPy", "#009e73", "^"),
    "textbook": ("textbook NumPy", "#8fcfb4", "v"),
    "sklearn": ("scikit-learn", "#cc79a7", "P"),
}
INK, FAINT = "#333333", "#d8d8d8"


def save(path: Path, machine: dict[str, str], rows: Sequence[Row]) -> None:
    from matplotlib.figure import Figure

    trained = [row for row in rows if row.suite == "train"]
    timed = [row for row in rows if row.suite in ("kernels", "gemm")]
    if len(contenders(trained or timed)) < 2:
        raise BenchError("--plot: no rival to compare with")
    figure = _steps(Figure, machine, trained) if trained else _ratios(Figure, machine, timed)
    figure.savefig(path, dpi=100)


def _steps(figure_of: Any, machine: dict[str, str], rows: Sequence[Row]) -> Any:
    """A line for each net and a panel for each number of threads: the time of a step over that of fastnn, logarithmic."""
    nets = list(dict.fromkeys((row.name, row.dtype) for row in rows))
    threads = list(dict.fromkeys(row.threads for row in rows))
    shown = [name for name in MARKS if name in contenders(rows)]
    figure = figure_of(figsize=(8, 1.6 + 0.42 * len(nets)), layout="constrained")
    panels = figure.subplots(1, len(threads), sharey=True, sharex=True, squeeze=False)[0]
    for panel, n in zip(panels, threads, strict=True):
        _frame(panel)
        panel.set_title(f"{n} thread{'s' * (n > 1)}", fontsize=9, color=INK)
        panel.axvline(1, color=INK, linewidth=1, zorder=1)
        for row in (row for row in rows if row.threads == n):
            place = nets.index((row.name, row.dtype))
            counted = [row.ratio(name) or 1.0 for name in row.times if name not in row.notes]
            panel.plot([min(counted), max(counted)], [place, place], color=FAINT, linewidth=1.5, zorder=1)
            for name in shown:
                ratio = row.ratio(name)
                if ratio is not None:
                    _, colour, marker = MARKS[name]
                    face = "white" if name in row.notes else colour
                    panel.plot(ratio, place, marker, color=colour, markerfacecolor=face, markersize=6, zorder=3)
        panel.set_xscale("log")
        low, high = _span(rows)
        panel.set_xlim(0.85 * low, 1.2 * high)
        ticks = [tick for tick in (0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500) if 0.85 * low <= tick <= 1.2 * high]
        panel.set_xticks(ticks, [f"{tick:g}x" for tick in ticks])
        panel.minorticks_off()
        panel.set_yticks(range(len(nets)), [_label(rows, *net) for net in nets], fontsize=8, color=INK)
        panel.set_ylim(len(nets) - 0.5, -0.5)
    handles = [panels[0].plot([], [], MARKS[name][2], color=MARKS[name][1], label=MARKS[name][0])[0] for name in shown]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    hollow = ", hollow without batch norm" if any(name in row.notes for row in rows for name in row.times) else ""
    title = f"Time of a training step, that of fastnn = 1 (right: slower{hollow}), on {machine['cpu']}"
    figure.suptitle(title, fontsize=9, color=INK)
    return figure


def _span(rows: Sequence[Row]) -> tuple[float, float]:
    ratios = [row.ratio(name) or 1.0 for row in rows for name in row.times]
    return min(ratios), max(ratios)


def _label(rows: Sequence[Row], name: str, dtype: str) -> str:
    """The net, and its dtype where that is not the usual one; the time of fastnn's step with the fewest threads."""
    row = next(row for row in rows if (row.name, row.dtype) == (name, dtype))
    us = 1e6 * row.times["fastnn"].median
    step = f"{us:.2g} µs" if us < 10 else f"{us:.0f} µs" if us < 1000 else f"{us / 1000:.1f} ms"
    return f"{name}{'' if dtype == 'float32' else ' ' + dtype}\n{step}"


def _ratios(figure_of: Any, machine: dict[str, str], rows: Sequence[Row]) -> Any:
    """Bars of the ratios on a logarithmic scale: one panel for each name and dtype."""
    rivals = contenders(rows)[1:]
    names = list(dict.fromkeys(row.name for row in rows))
    dtypes = list(dict.fromkeys(row.dtype for row in rows))
    figure = figure_of(figsize=(8 * len(dtypes), 2.7 * len(names)), layout="constrained")
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
    figure.suptitle(f"fastnn {machine['fastnn']}, {machine['cpu']}, {machine['blas']}")
    return figure


def _frame(panel: Any) -> None:
    for side in ("top", "right", "left"):
        panel.spines[side].set_visible(False)
    panel.tick_params(length=0, labelsize=8, colors=INK)
    panel.grid(axis="x", color=FAINT, linewidth=0.6, zorder=0)
