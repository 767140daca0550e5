"""Pictures of a training and of the signals in a network, with Matplotlib (``pip install 'fastnn[plots]'``).

Each function draws into `ax`, or into the axes of a new ``matplotlib.figure.Figure``, and returns the axes; save the picture
with ``ax.figure.savefig(path)``. pyplot and its settings are never touched. Layers are counted from 0, as in ``net.layers``.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fastnn import _check
from fastnn.network import Sequential
from fastnn.trace import SERIES, Trace, deviation, median_size, rms
from fastnn.training import History

__all__ = ["curves", "depth", "histograms"]

Array = np.ndarray

# Okabe & Ito (2008), "Color universal design": told apart by the colour-blind, too
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
INK, FAINT = "#333333", "#dddddd"
BINS = 60
NAMED = 8       # layers that are named one by one in a legend
METRICS = {"loss": "loss (mean over the rows)", "accuracy": "accuracy (share of the rows)", "lr": "learning rate",
           "seconds": "time of an epoch (s)", "rows_per_second": "speed (rows/s)"}
# an activation has no unit
UNITS = {
    "activations": "", "gradients": "\n(loss per unit of pre-activation)", "weight_gradients": "\n(loss per unit of weight)"}


def curves(history: History, *, metric: str = "loss", label: str | None = None, ax: Any = None) -> Any:
    """A number of each epoch, and that of the validation data dashed, against the epoch.

    Parameters
    ----------
    history : History
    metric : str
        ``"loss"``, ``"accuracy"``, ``"lr"``, ``"seconds"`` or another key of ``history.epochs``. Where there is also
        ``"val_" + metric`` it is drawn, too.
    label : str, optional
        A name for these curves, which tells several trainings in one picture apart.
    ax : matplotlib.axes.Axes, optional

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ImportError
        Without Matplotlib.
    TypeError, ValueError
        Naming the argument, for instance a metric that was not recorded.
    """
    _check.instance(history, "history", History, "a fastnn.History")
    keys = list(dict.fromkeys(key for epoch in history.epochs for key in epoch))
    _check.choice(metric, "metric", list(dict.fromkeys(key.removeprefix("val_") for key in keys if key != "epoch")))
    ax = _axes(ax)
    colour = _next_colour(ax)
    both = f"val_{metric}" in keys
    for key, style, word in ((metric, "-", "training"), (f"val_{metric}", "--", "validation")):
        points = [(epoch["epoch"], epoch[key]) for epoch in history.epochs if key in epoch]
        if points:
            name = ", ".join(filter(None, (label, word if both else None)))
            marker = "." if len(points) < 30 else None
            ax.plot(*zip(*points, strict=True), style, marker=marker, color=colour, label=name or None)
    ax.xaxis.get_major_locator().set_params(integer=True)
    return _finished(ax, "epoch", METRICS.get(metric, metric))


def histograms(net: Sequential, x: Array, y: Array | None = None, *, what: str = "activations", max_rows: int = 1000,
               ax: Any = None) -> Any:
    """How the values of each layer are distributed, a line for each: figures 6 to 8 of Glorot & Bengio (2010).

    The density is on a logarithmic scale, so that layers of very different widths show. Numbers that are exactly 0, which a
    ReLU has by design, are left out and counted in the legend.

    Parameters
    ----------
    net : Sequential
    x, y : ndarray
        As for `Sequential.fit`; activations need no `y`.
    what : {"activations", "gradients", "weight_gradients"}
        The outputs of the activations; the back-propagated gradient, of the loss by what goes into them; the gradient by the
        weights.
    max_rows : int
        As for `diagnose`.
    ax : matplotlib.axes.Axes, optional

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ImportError
        Without Matplotlib.
    TypeError, ValueError
        Naming the argument.
    """
    series = _series(net, x, y, what, max_rows)
    ax = _axes(ax)
    zeros = [float(np.mean(values == 0)) for _, values in series]
    kept = [values[np.isfinite(values) & (values != 0)].astype(np.float64) for _, values in series]
    limits = np.array([np.quantile(values, (0.001, 0.999)) for values in kept if values.size] or [(-1, 1)])
    low, high = limits[:, 0].min(), limits[:, 1].max()
    edges = np.linspace(low, high, BINS + 1) if high > low else np.linspace(low - 1, low + 1, BINS + 1)
    named = set(np.linspace(0, len(series) - 1, NAMED).round()) if len(series) > NAMED else set(range(len(series)))
    for k, ((layer, _), values, share) in enumerate(zip(series, kept, zeros, strict=True)):
        density = np.histogram(values, edges)[0] / (max(values.size, 1) * np.diff(edges))
        density[density == 0] = np.nan      # no line there, on a logarithmic scale
        name = f"layer {layer}" + (f" ({100 * share:.0f} % zeros)" if share > 0.005 else "")
        ax.plot((edges[1:] + edges[:-1]) / 2, density, color=_shade(k, len(series)), label=name if k in named else None)
    ax.set_yscale("log")
    return _finished(ax, SERIES[what] + UNITS[what], "density")


def depth(net: Sequential, x: Array, y: Array | None = None, *, what: str = "activations", label: str | None = None,
          max_rows: int = 1000, ax: Any = None) -> Any:
    """The size of a signal by the layer, on a logarithmic scale: does it fade, or explode?

    Of activations the standard deviation; of gradients the root mean square and, dashed, the median of the absolute values that
    are not 0. They tell different stories: behind saturated units a few large gradients make the root mean square of all.

    Parameters
    ----------
    net : Sequential
    x, y : ndarray
        As for `Sequential.fit`; activations need no `y`.
    what : {"activations", "gradients", "weight_gradients"}
        As for `histograms`.
    label : str, optional
        A name for this network, which tells several in one picture apart.
    max_rows : int
        As for `diagnose`.
    ax : matplotlib.axes.Axes, optional

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ImportError
        Without Matplotlib.
    TypeError, ValueError
        Naming the argument.
    """
    series = _series(net, x, y, what, max_rows)
    ax = _axes(ax)
    colour = _next_colour(ax)
    places = range(1, len(series) + 1)
    measures = [("standard deviation", "-", deviation)] if what == "activations" else [
        ("root mean square", "-", rms), ("median", "--", median_size)]
    for word, style, measure in measures:
        sizes = [measure(values) or np.nan for _, values in series]
        # of a network with a name the dashed line has none, or the legend would be in the way
        name = word if label is None and len(measures) > 1 else label if style == "-" else None
        ax.plot(places, sizes, style, marker="." if len(series) < 30 else None, color=colour, label=name)
    ax.set_yscale("log")
    # whole powers of ten, or there may be none on the axis
    seen = np.concatenate([np.asarray(line.get_ydata(), np.float64) for line in ax.lines])
    seen = seen[np.isfinite(seen)]
    if seen.size:
        ax.set_ylim(10 ** math.floor(math.log10(seen.min())), 10 ** (math.floor(math.log10(seen.max())) + 1))
    ax.xaxis.get_major_locator().set_params(integer=True)
    size = "\nstandard deviation" if what == "activations" else "" if label is None else "\nroot mean square, dashed: median"
    return _finished(ax, "layer, counted from the input", SERIES[what] + UNITS[what] + size)


def _series(net: Sequential, x: Array, y: Array | None, what: str, max_rows: int) -> list[tuple[int, Array]]:
    _check.choice(what, "what", SERIES)
    if y is None and what != "activations":
        raise _check.wrong_kind(y, "y", f"an array of targets for {what!r}")
    return Trace(net, x, y, max_rows=max_rows).series(what)


def _axes(ax: Any) -> Any:
    """`ax`, or the axes of a new figure."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("fastnn.plots needs Matplotlib: pip install 'fastnn[plots]'") from error
    if ax is None:
        ax = Figure(figsize=(8, 4.5), dpi=100, layout="constrained").add_subplot()
    return ax


def _next_colour(ax: Any) -> str:
    """The first colour that no line of the axes has."""
    taken = [line.get_color() for line in ax.lines]
    return next((colour for colour in COLOURS if colour not in taken), COLOURS[0])


def _shade(k: int, n: int) -> Any:
    """From dark to light with the depth; viridis is told apart by the colour-blind, and in grey."""
    from matplotlib import colormaps

    return colormaps["viridis"](0.9 * k / max(n - 1, 1))    # its last tenth is too pale on white


def _finished(ax: Any, x_label: str, y_label: str) -> Any:
    ax.set_xlabel(x_label, color=INK)
    ax.set_ylabel(y_label, color=INK)
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(colors=INK)
    ax.grid(color=FAINT, linewidth=0.6)
    ax.set_axisbelow(True)
    if ax.get_legend_handles_labels()[1]:
        ax.legend(frameon=False, labelcolor=INK)
    return ax
