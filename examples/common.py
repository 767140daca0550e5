"""What the experiments share: the command line, the data, the table beside the source's numbers, the picture."""

from __future__ import annotations

import argparse
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bench import BenchError, data

# colours that the colour-blind can tell apart (Okabe & Ito), and greys
BLUE, ORANGE, GREEN, PURPLE, SKY, YELLOW = "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00"
SHADES = ("#9ecae1", "#6baed6", "#3182bd", "#08519c", "#021f45")    # of blue, for what has an order
INK, FAINT = "#333333", "#d8d8d8"
INCHES = 8.0    # the width of a picture: 800 pixels


@dataclass(frozen=True)
class Options:
    """What the command line asked for."""

    mnist: Path | None
    quick: bool
    seed: int
    out: Path


def parse(name: str, doc: str | None, argv: Sequence[str] | None = None) -> Options:
    """Read the command line of ``python -m examples.<name>``; prints the seed, from which all random numbers come."""
    parser = argparse.ArgumentParser(
        f"python -m examples.{name}", description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mnist", type=Path, metavar="DIR", help="a folder with the four .gz files, for what trains on digits")
    parser.add_argument("--quick", action="store_true", help="a smaller run, for a look")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of all random numbers (default: 0)")
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent / "output", metavar="FOLDER",
        help="where the picture goes (default: examples/output)")
    arguments = parser.parse_args(argv)
    if arguments.seed < 0:
        parser.error(f"--seed: expected a number >= 0, got {arguments.seed}")
    print(f"{name}, seed {arguments.seed}{', quick' if arguments.quick else ''}", flush=True)
    return Options(arguments.mnist, arguments.quick, arguments.seed, arguments.out)


def digits(options: Options) -> data.Dataset:
    """MNIST where ``--mnist`` names its folder, else the 1797 digits of 8 x 8 pixels that come with scikit-learn; says which.

    Rows are float32 in [0, 1]. Exits with a message when neither is there.
    """
    try:
        found = data.mnist(options.mnist) if options.mnist else data.digits()
    except BenchError as error:
        raise SystemExit(str(error)) from None
    instead = "" if options.mnist else "; the source's numbers are about MNIST, which --mnist DIR takes"
    print(f"data: {found.name}, {len(found.x)} rows to train on, {len(found.x_test)} to test{instead}", flush=True)
    return found


# ---- measured numbers beside the source's

@dataclass(frozen=True)
class Claim:
    """A number that was measured, what the source says of it, and the band in which it must lie (none: nothing is demanded)."""

    name: str
    measured: float
    source: float | str = ""
    low: float = -math.inf
    high: float = math.inf

    @property
    def holds(self) -> bool:
        return self.low <= self.measured <= self.high

    @property
    def band(self) -> str:
        if self.low == self.high:
            return "exact"
        if math.isinf(self.low):
            return "" if math.isinf(self.high) else f"<= {number(self.high)}"
        return f">= {number(self.low)}" if math.isinf(self.high) else f"{number(self.low)} to {number(self.high)}"


def near(name: str, measured: float, source: float, relative: float) -> Claim:
    """Within a share of the source's number: ``relative=0.05`` is 5 %."""
    edges = source * (1 - relative), source * (1 + relative)
    return Claim(name, measured, source, min(edges), max(edges))


def within_factor(name: str, measured: float, source: float, factor: float) -> Claim:
    """Between the source's number over `factor` and times it."""
    return Claim(name, measured, source, source / factor, source * factor)


def number(value: float | str) -> str:
    """Four digits, and whole numbers in full."""
    return value if isinstance(value, str) else f"{value:d}" if isinstance(value, int) else f"{value:.4g}"


def show(title: str, claims: Sequence[Claim]) -> None:
    """Print a line for each claim."""
    lines = [[c.name, number(c.measured), number(c.source), c.band + ("" if c.holds else "  MISSED")] for c in claims]
    show_table(title, ["", "measured", "source", "band"], lines)


def show_grid(title: str, corner: str, columns: Sequence[str], rows: Mapping[str, Sequence[Claim]]) -> None:
    """Print a line for each row of claims: ``measured (source)``, with a mark where the band is missed."""
    lines = [
        [name, *(f"{number(c.measured)} ({number(c.source)}){'' if c.holds else ' MISSED'}" for c in claims)]
        for name, claims in rows.items()
    ]
    show_table(f"{title}: measured (source)", [corner, *columns], lines)


def show_table(title: str, head: Sequence[str], lines: Sequence[Sequence[str]]) -> None:
    """Print a Markdown table, aligned."""
    widths = [max(map(len, column)) for column in zip(head, *lines, strict=True)]
    print(f"\n{title}\n")
    for line in (head, ["-" * width for width in widths], *lines):
        print("| " + " | ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)) + " |")


# ---- pictures

def picture(name: str, options: Options, draw: Callable[[Any], None], height: float = 4.5) -> Path | None:
    """Save as ``<name>.png`` what `draw` draws on a matplotlib `Figure`, 800 pixels wide and `height` times 100 high.

    Without matplotlib says so and returns None.
    """
    if not find_spec("matplotlib"):
        print("\nno picture: it needs matplotlib: pip install 'fastnn[plots]'")
        return None
    from matplotlib.figure import Figure
    from PIL import Image

    figure = Figure(figsize=(INCHES, height), dpi=100, layout="constrained")
    draw(figure)
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / f"{name}.png"
    # lines and letters need no more than a palette, which makes the file a third as large
    content = io.BytesIO()
    figure.savefig(content)
    Image.open(content).convert("RGB").quantize(64, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"\npicture: {path}")
    return path


def frame(panel: Any, *, title: str = "", xlabel: str = "", ylabel: str = "") -> None:
    """The looks that all panels share: no box, a faint grid, small letters."""
    for side in ("top", "right"):
        panel.spines[side].set_visible(False)
    for side in ("bottom", "left"):
        panel.spines[side].set_color(FAINT)
    panel.tick_params(length=0, labelsize=8, colors=INK)
    panel.grid(color=FAINT, linewidth=0.5)
    panel.set_axisbelow(True)
    panel.set_title(title, fontsize=9, color=INK)
    panel.set_xlabel(xlabel, fontsize=8.5, color=INK)
    panel.set_ylabel(ylabel, fontsize=8.5, color=INK)


def thousands(value: float, _: int) -> str:
    """How an axis of many steps writes its ticks: 10K."""
    return f"{value / 1000:g}K" if value else "0"
