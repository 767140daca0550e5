"""Small pictures as SVG elements for `report`, drawn without any library.

A picture is as wide as it is given room; its letters are 11 units high in a picture 380 wide, to be read on a phone too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

import numpy as np

Array = np.ndarray
Points = Sequence[tuple[float, float]]

# Okabe & Ito (2008), "Color universal design": told apart by the colour-blind, too
SOLID, DASHED = "#0072b2", "#d55e00"
WIDTH, HEIGHT = 380, 230
LEFT, RIGHT, TOP, BOTTOM = 54, 10, 26, 40       # the margins around the data


def lines(curves: Sequence[tuple[str, bool, Points]], x_label: str, y_label: str, *, log: bool = False) -> str:
    """Curves with a legend above and ticks at round numbers.

    Parameters
    ----------
    curves : sequence of (name, dashed, points)
        What is not finite is a gap, and so is what is not positive on a logarithmic scale.
    x_label, y_label : str
        Of the axes, with their units. `x` is counted in whole numbers.
    log : bool
        A logarithmic scale for y.
    """
    def seen(y: float) -> bool:
        return math.isfinite(y) and (y > 0 or not log)

    xs = [x for _, _, points in curves for x, _ in points]
    ys = [math.log10(y) if log else y for _, _, points in curves for _, y in points if seen(y)]
    x0, x1 = (min(xs), max(xs)) if xs else (0, 1)
    y0, y1 = (min(ys), max(ys)) if ys else (0, 1)
    x0, x1 = (x0 - 0.5, x1 + 0.5) if x0 == x1 else (x0, x1)
    if log:
        y0, y1 = math.floor(y0), math.floor(y1) + 1
    else:
        # what differs by less than a thousandth is drawn as a level line: its ticks could not be told apart
        room = max(0.04 * (y1 - y0), 1e-3 * max(abs(y0), abs(y1))) or 1.0
        y0, y1 = y0 - room, y1 + room

    def at(x: float, y: float) -> tuple[float, float]:
        u, v = (x - x0) / (x1 - x0), (y - y0) / (y1 - y0)
        return LEFT + u * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - v * (HEIGHT - TOP - BOTTOM)

    body = []
    for tick in _ticks(y0, y1, whole=log):
        _, v = at(x0, tick)
        text = f"{10**tick:.0e}".replace("e+0", "e").replace("e-0", "e-") if log else f"{tick:.6g}"
        body.append(f'<path class="grid" d="M{LEFT} {v:.1f}H{WIDTH - RIGHT}"/><text x="{LEFT - 6}" y="{v + 4:.1f}" '
                    f'text-anchor="end">{text}</text>')
    for tick in _ticks(x0, x1, whole=True):
        u, _ = at(tick, y0)
        body.append(f'<text x="{u:.1f}" y="{HEIGHT - BOTTOM + 15}" text-anchor="middle">{tick:g}</text>')
    left = LEFT
    for name, dashed, points in curves:
        style = f'stroke="{DASHED}" stroke-dasharray="5 3"' if dashed else f'stroke="{SOLID}"'
        path, pen = "", "M"
        for x, y in points:
            if seen(y):
                u, v = at(x, math.log10(y) if log else y)
                path += f"{pen}{u:.1f} {v:.1f}"
                pen = "L"
            else:
                pen = "M"
        # a curve of one point is a dot, for the ends of lines are round
        body.append(f'<path class="line" {style} d="{path}{"h0" if len(points) == 1 else ""}"/>')
        body.append(f'<path class="line" {style} d="M{left} 11h18"/><text x="{left + 23}" y="15">{escape(name)}</text>')
        left += 36 + 6 * len(name)
    middle = TOP + (HEIGHT - TOP - BOTTOM) / 2
    body.append(f'<path class="axis" d="M{LEFT} {HEIGHT - BOTTOM}H{WIDTH - RIGHT}"/>'
                f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 8}" text-anchor="middle">{escape(x_label)}</text>'
                f'<text transform="translate(11 {middle:.0f}) rotate(-90)" text-anchor="middle">{escape(y_label)}</text>')
    return _svg(WIDTH, HEIGHT, f"{y_label} by {x_label}", body)


def histogram(values: Array, title: str) -> str:
    """The distribution of what is finite and not zero; below it stands its range."""
    width, height, bottom = 180, 96, 16
    values = values[np.isfinite(values) & (values != 0)].astype(np.float64)
    body = [f'<path class="axis" d="M0 {height - bottom}H{width}"/>']
    if values.size:
        # outliers would leave one bar of all the rest
        low, high = np.quantile(values, (0.001, 0.999))
        margin = 1e-3 * (abs(low) or 1.0) if low == high else 0.0
        counts, _ = np.histogram(values, 60, (low - margin, high + margin))
        step, top = width / len(counts), height - bottom - 4
        bars = "".join(f"M{k * step:.1f} {height - bottom}v-{top * count / counts.max():.1f}h{step:.1f}V{height - bottom}"
                       for k, count in enumerate(counts) if count)
        body += [f'<path class="bars" d="{bars}"/>', f'<text x="0" y="{height - 3}">{low:.2g}</text>',
                 f'<text x="{width}" y="{height - 3}" text-anchor="end">{high:.2g}</text>']
    return _svg(width, height, title, body)


def _svg(width: int, height: int, title: str, body: list[str]) -> str:
    return f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}">{"".join(body)}</svg>'


def _ticks(low: float, high: float, *, whole: bool) -> list[float]:
    """About five round numbers from `low` to `high`."""
    step = 10.0 ** math.floor(math.log10((high - low) / 5))
    step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (factor * step) <= 6)
    if whole:
        step = max(1.0, step)
    return [round(k * step, 12) for k in range(math.ceil(low / step), math.floor(high / step) + 1)]
