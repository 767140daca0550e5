"""`report`: a training and a look into the network on one page of HTML, which needs nothing else to be seen."""

from __future__ import annotations

import datetime
import math
import os
import platform
from collections.abc import Iterator, Sequence
from html import escape
from typing import Any

import numpy as np

from fastnn import _check, svg
from fastnn.config import config
from fastnn.diagnosis import LEGEND, Diagnosis, cell, examined
from fastnn.network import Sequential
from fastnn.trace import SERIES, Trace, deviation, median_size, rms
from fastnn.training import History

Array = np.ndarray

METRICS = {"loss": "loss, mean over the rows", "accuracy": "accuracy, share of the rows", "lr": "learning rate"}
NAMES = ("layer", "batch norm")     # headings of columns of text
TEXT = ' class="text"'
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; background: #fff; }
body { max-width: 1160px; margin: 0 auto; padding: 16px; }
h1 { font-size: 24px; margin: 8px 0; } h2 { font-size: 18px; margin: 32px 0 8px; } h3 { font-size: 15px; margin: 16px 0 4px; }
p { margin: 4px 0 8px; } .quiet, figcaption { color: #666; font-size: 13px; }
.wide { overflow-x: auto; margin-bottom: 12px; }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; }
th, td { padding: 3px 10px 3px 0; text-align: right; white-space: nowrap; border-bottom: 1px solid #e4e4e4; }
th { font-weight: 600; vertical-align: bottom; } .text { text-align: left; } .facts td { white-space: normal; }
ul { list-style: none; padding: 0; margin: 8px 0; } li { padding: 6px 10px; margin: 4px 0; border-left: 4px solid; }
.error { border-color: #b00020; background: #fdecef; } .warning { border-color: #d55e00; background: #fdf1e7; }
.note { border-color: #0072b2; background: #eaf4fb; } .good { border-color: #009e73; background: #e8f6f1; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(340px, 100%), 1fr)); gap: 16px; }
.small { display: grid; grid-template-columns: repeat(auto-fill, minmax(165px, 1fr)); gap: 12px 20px; }
figure { margin: 0; } svg { width: 100%; height: auto; display: block; }
svg text { font: 11px system-ui, sans-serif; fill: #444; }
.grid { stroke: #e4e4e4; } .axis { stroke: #888; } .bars { fill: #0072b2; }
.line { fill: none; stroke-width: 2; stroke-linecap: round; stroke-linejoin: round; }
"""


def report(
    net: Sequential, history: History | None, path: str | os.PathLike[str], *, x: Array | None = None, y: Array | None = None,
    title: str = "fastnn report", max_rows: int = 1000,
) -> None:
    """Write a report on a network as one file of HTML, pictures and all, that can be read offline.

    It has the architecture, the training curves, the configuration and, with data, what `diagnose` says and a histogram for
    each layer. Nothing of `net` changes.

    Parameters
    ----------
    net : Sequential
    history : History, optional
        What `Sequential.fit` returned; None leaves the training out.
    path : str or path-like
        The file, which is replaced if there is one.
    x, y : ndarray, optional
        Both or neither; as for `diagnose`.
    title : str
    max_rows : int
        As for `diagnose`.

    Raises
    ------
    TypeError, ValueError
        Naming the argument, before the file is touched.
    OSError
        If the file cannot be written.
    """
    _check.instance(net, "net", Sequential, "a fastnn.Sequential")
    if history is not None:
        _check.instance(history, "history", History, "a fastnn.History or None")
    _check.instance(title, "title", str, "a string")
    if x is None or y is None:
        _check.both_or_neither(x, "x", y, "y")
    parts = [*_architecture(net), *(() if history is None else _training(history))]
    if x is not None:
        trace = Trace(net, x, y, max_rows=max_rows)
        diagnosis = examined(net, trace)
        parts = [*_findings(diagnosis), *parts, *_layers(diagnosis), *_signals(net, trace)]
    parts += _configuration(net)
    page = _page(title, parts)
    with open(path, "w", encoding="utf-8") as file:
        file.write(page)


def _page(title: str, parts: Sequence[str]) -> str:
    now = datetime.datetime.now().astimezone()
    # the policy keeps the page from loading anything
    return "\n".join([
        '<!doctype html>', '<html lang="en">', '<head>', '<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; style-src \'unsafe-inline\'">',
        f'<title>{escape(title)}</title>', f'<style>{STYLE}</style>', '</head>', '<body>', f'<h1>{escape(title)}</h1>',
        f'<p class="quiet">{now:%Y-%m-%d %H:%M %Z}</p>', *parts, '</body>', '</html>', ''])


def _architecture(net: Sequential) -> Iterator[str]:
    width: int | None = net.n_in
    rows = []
    for i, layer in enumerate(net.layers):
        width = layer.width(width, f"layers[{i}]")
        rows.append([str(i), repr(layer), str(width), f"{sum(a.size for a in layer.parameters.values()):,}"])
    yield "<h2>Architecture</h2>"
    yield _table(["", "layer", "outputs", "parameters"], rows)
    yield f'<p class="quiet">{net.n_in} inputs, {net.n_parameters:,} parameters, {_text(net.dtype)}, loss {_text(net.loss)}</p>'


def _training(history: History) -> Iterator[str]:
    yield "<h2>Training</h2>"
    if not history.epochs:
        yield "<p>No epoch.</p>"
        return
    keys = list(dict.fromkeys(key for epoch in history.epochs for key in epoch))
    charts = []
    for key in dict.fromkeys(key.removeprefix("val_") for key in keys if key != "epoch"):
        curves = []
        for name, dashed, word in ((key, False, "training"), (f"val_{key}", True, "validation")):
            points = [(epoch["epoch"], epoch[name]) for epoch in history.epochs if isinstance(epoch.get(name), int | float)]
            if points:
                curves.append((word, dashed, points))
        values = [y for _, _, points in curves for _, y in points if math.isfinite(y)]
        # a rate that never changes, and the speed, stand in the table
        if values and max(values) > min(values) and key not in ("seconds", "rows_per_second"):
            log = min(values) > 0 and max(values) > 20 * min(values)
            charts.append(_figure(svg.lines(curves, "epoch", METRICS.get(key, key), log=log)))
    if charts:
        yield f'<div class="charts">{"".join(charts)}</div>'
    rows = [[cell(epoch.get(key), ".4g" if isinstance(epoch.get(key), float) else "") for key in keys]
            for epoch in history.epochs]
    seconds = sum(epoch.get("seconds", 0.0) for epoch in history.epochs)
    yield f"<details><summary>{len(rows)} epoch{'s' * (len(rows) > 1)}, {seconds:.3g} s</summary>"
    yield _table(keys, rows)
    yield "</details>"


def _findings(diagnosis: Diagnosis) -> Iterator[str]:
    yield "<h2>Findings</h2>"
    items = [f'<li class="{finding.severity}"><b>{finding.severity}</b> {_text(finding)}</li>'
             for finding in diagnosis.findings] or ['<li class="good">No findings.</li>']
    yield f'<ul>{"".join(items)}</ul>'
    yield f'<p class="quiet">{_text(diagnosis.summary())}</p>'


def _layers(diagnosis: Diagnosis) -> Iterator[str]:
    yield "<h2>Layers</h2>"
    for columns, rows in diagnosis.tables():
        cells = [[cell(row[key], form) for key, _, form in columns] for row in rows]
        yield _table([heading for _, heading, _ in columns], cells)
    yield f'<p class="quiet">{_text(" ".join(LEGEND))}</p>'


def _signals(net: Sequential, trace: Trace) -> Iterator[str]:
    charts = []
    for what, name in SERIES.items():
        measures = (("standard deviation", False, deviation),) if what == "activations" else (
            ("root mean square", False, rms), ("median", True, median_size))
        series = trace.series(what)
        if len(series) > 1:
            curves = [(word, dashed, [(layer, measure(values)) for layer, values in series])
                      for word, dashed, measure in measures]
            charts.append(_figure(svg.lines(curves, "layer", name, log=True)))
    if charts:
        yield f'<h2>Signals by depth</h2><div class="charts">{"".join(charts)}</div>'
    yield "<h2>Histograms</h2>"
    yield '<p class="quiet">What is exactly 0 is left out and counted; the outermost 0.1 % at either end is left out.</p>'
    for what, name in SERIES.items():
        figures = []
        for layer, values in trace.series(what):
            zeros = float(np.mean(values == 0))
            caption = f"layer {layer}: {net.layers[layer]!r}" + (f", {100 * zeros:.0f}\u00a0% zeros" if zeros > 0.005 else "")
            figures.append(_figure(svg.histogram(values, f"{name}, {caption}"), caption))
        if figures:
            yield f'<h3>{_text(name.capitalize())}s</h3><div class="small">{"".join(figures)}</div>'


def _configuration(net: Sequential) -> Iterator[str]:
    facts = {"optimizer": repr(net._optimizer) if net._optimizer else "none yet"}
    facts |= {f"fastnn {key}" if key == "version" else key: value for key, value in config().items()}
    facts |= {"NumPy": np.__version__, "Python": platform.python_version(),
              "machine": f"{platform.system()} {platform.machine()}"}
    yield "<h2>Configuration</h2>"
    yield '<table class="facts">' + "".join(
        f'<tr><th class="text">{_text(key)}</th><td class="text">{_text(value)}</td></tr>' for key, value in facts.items()
    ) + "</table>"


def _figure(picture: str, caption: str = "") -> str:
    return f"<figure>{picture}{f'<figcaption>{_text(caption)}</figcaption>' if caption else ''}</figure>"


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def line(tag: str, cells: Sequence[str]) -> str:
        # names of layers are text, all others are numbers
        return "<tr>" + "".join(f'<{tag}{TEXT if headings[k] in NAMES else ""}>{_text(text)}</{tag}>'
                                for k, text in enumerate(cells)) + "</tr>"
    return f'<div class="wide"><table>{line("th", headings)}{"".join(line("td", row) for row in rows)}</table></div>'


def _text(value: Any) -> str:
    return escape(str(value))
