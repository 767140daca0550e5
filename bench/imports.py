"""Suite `import`: how long fastnn and the packages of its rivals take to import, and the room they take on the disk."""

from __future__ import annotations

import re
import statistics
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata, util
from pathlib import Path

from bench import Options, peers
from bench.report import Row, table, times
from bench.timing import Timing, progress

PROCESSES, QUICK_PROCESSES = 5, 3
MODULES = {"sklearn": "sklearn.neural_network"}  # what one imports to train, where it is not the package itself
CLOCK = "import time; began = time.perf_counter(); import {module}; print(time.perf_counter() - began)"


def run(options: Options) -> list[Row]:
    packages = list(dict.fromkeys(["fastnn", *peers.packages(options.peers)]))
    taken: dict[str, list[float]] = {package: [] for package in packages}
    after_numpy: dict[str, list[float]] = {package: [] for package in packages}
    for turn in progress(range(1 + (QUICK_PROCESSES if options.quick else PROCESSES)), "import"):
        for package in packages:
            module = MODULES.get(package, package)
            alone, after = import_seconds(module), import_seconds(module, first="import numpy; ")
            if turn:  # the first fills the caches of the system
                taken[package].append(alone)
                after_numpy[package].append(after)
    timings = {package: Timing(tuple(seconds)) for package, seconds in taken.items()}
    extra = {
        package: {
            "after numpy": statistics.median(after_numpy[package]),
            "own MB": size(peers.distribution(package)) / 1e6,
            "with all it requires MB": sum(map(size, required(peers.distribution(package)))) / 1e6,
        }
        for package in packages
    }
    return [Row("import", "import", "", "", timings, extra=extra)]


def import_seconds(module: str, first: str = "") -> float:
    code = first + CLOCK.format(module=module)
    return float(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)


def required(distribution: str) -> set[str]:
    """The installed distributions that it needs, itself among them, those of its extras not."""
    found: set[str] = set()
    waiting = [distribution]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        try:
            requirements = metadata.requires(name) or []
        except metadata.PackageNotFoundError:  # not needed on this system
            continue
        found.add(name)
        for requirement in requirements:
            text, _, marker = requirement.partition(";")
            match = re.match(r"[\w.-]+", text)
            if match and "extra" not in marker:
                waiting.append(re.sub(r"[-_.]+", "-", match.group()).lower())
    return found


def size(distribution: str) -> int:
    """The bytes of its files; of an editable installation, those of the package's folder."""
    files = [Path(str(file.locate())) for file in metadata.files(distribution) or []]
    spec = util.find_spec(distribution.replace("-", "_"))
    if spec and spec.origin and Path(spec.origin) not in files and spec.submodule_search_locations:
        files = [file for folder in spec.submodule_search_locations for file in Path(folder).rglob("*")]
    return sum(file.stat().st_size for file in files if file.is_file())


def tables(rows: Sequence[Row]) -> str:
    row = rows[0]
    lines = [
        [name, f"{1e3 * timing.median:.0f}", f"{1e3 * row.extra[name]['after numpy']:.0f}", times(row.ratio(name))]
        + [f"{row.extra[name][key]:.1f}" for key in ("own MB", "with all it requires MB")]
        for name, timing in row.times.items()
    ]
    return table(["", "import ms", "after numpy ms", "/ fastnn", "MB", "with all it requires MB"], lines, left=1)
