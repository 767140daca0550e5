"""``python -m bench``: fastnn against the rivals that are installed, checked for equal results first, then timed.

The arguments are read before NumPy is imported: a BLAS takes its number of threads when it is loaded.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from bench import BenchError, Options, peers, process

# name: a module with run(options) -> list of rows, and tables(rows) -> what is printed of them
SUITES = {
    "kernels": "bench.kernels",
    "gemm": "bench.gemm",
    "predict": "bench.predict",
    "train": "bench.train",
    "accuracy": "bench.accuracy",
    "sklearn": "bench.estimators",
    "outofcore": "bench.outofcore",
    "many": "bench.many",
    "import": "bench.imports",
}
MEANS = "medians; a ratio is the time of the rival / the time of fastnn"


def parse(argv: Sequence[str] | None) -> tuple[list[str], argparse.Namespace, Options]:
    """The suites to run, where to save, and what each suite is told."""
    parser = argparse.ArgumentParser("python -m bench", description="fastnn against NumPy and the peers installed")
    parser.add_argument("--quick", action="store_true", help="short rounds, the largest shapes and nets left out")
    parser.add_argument("--suite", choices=SUITES, help="one suite (default: all)")
    parser.add_argument(
        "--threads", metavar="LIST",
        help="such as 1,2: train and accuracy run with each of them (default: 1 and all cores), kernels with the first "
        "(default: 1); gemm and predict are about one",
    )  # fmt: skip
    names = f"{', '.join(peers.PEERS)}; a package means all of its own"
    parser.add_argument("--peers", metavar="LIST", help=f"some of {names} (default: all that are installed)")
    parser.add_argument(
        "--dtype", choices=("float32", "float64", "both"), default="both", help="of kernels, gemm and train (default: both)"
    )
    parser.add_argument("--nets", metavar="LIST", help="rows of the suite train by name (default: all)")
    parser.add_argument("--explain", metavar="NET", help="where the time of a step of this net of train goes, and stop")
    parser.add_argument("--mnist", type=Path, metavar="DIR", help="accuracy on MNIST too: a folder with its four .gz files")
    parser.add_argument("--gigabytes", type=float, default=1.0, metavar="N", help="of rows for outofcore (default: 1)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="save everything, with the time of every round")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="save a picture of the ratios (needs matplotlib)")
    arguments = parser.parse_args(argv)

    threads = _threads(parser, arguments.threads)
    for path in (arguments.json, arguments.plot):
        if path and not path.absolute().parent.is_dir():
            parser.error(f"{path}: no such folder")
    if arguments.plot and not find_spec("matplotlib"):
        parser.error("--plot: needs matplotlib, which is not installed")
    suites = [arguments.suite] if arguments.suite else list(SUITES)
    if "gemm" in suites and threads[0] != 1:
        if arguments.suite:
            parser.error(f"--threads: gemm is about one thread, got {arguments.threads}")
        suites.remove("gemm")
    dtypes = ("float32", "float64") if arguments.dtype == "both" else (arguments.dtype,)
    chosen = _peers(parser, arguments.peers)
    nets = () if arguments.nets is None else tuple(arguments.nets.split(","))
    return suites, arguments, Options(arguments.quick, threads, chosen, dtypes, nets, arguments.mnist, arguments.gigabytes)


def _threads(parser: argparse.ArgumentParser, text: str | None) -> tuple[int, ...]:
    cores = process.usable_cores()
    if text is None:
        return tuple(dict.fromkeys((1, cores)))
    if not all(part.isdecimal() and 1 <= int(part) <= cores for part in text.split(",")):
        parser.error(f"--threads: expected numbers from 1 to {cores}, the cores of this machine, such as 1,2, got {text!r}")
    return tuple(dict.fromkeys(map(int, text.split(","))))


def _peers(parser: argparse.ArgumentParser, text: str | None) -> tuple[str, ...]:
    installed = peers.installed()
    if text is None:
        return installed
    chosen: list[str] = []
    for name in text.split(","):
        meant = [peer for peer, its in peers.PEERS.items() if name in (peer, its.package)]
        if not meant:
            expected = ", ".join(dict.fromkeys((*peers.packages(), *peers.PEERS)))
            parser.error(f"--peers: expected names of {expected}, got {name!r}")
        if meant[0] not in installed:
            parser.error(f"--peers: {name} is not installed")
        chosen += meant
    return tuple(dict.fromkeys(chosen))


def main(argv: Sequence[str] | None = None) -> int:
    suites, arguments, options = parse(argv)
    os.environ.update(process.environment(options.threads[0]))
    # these import NumPy
    from bench import data, machine, picture, report

    try:
        if options.mnist:
            data.mnist_files(options.mnist)
        described = machine.describe(options)
        print(report.header(described), flush=True)
        if arguments.explain:
            print("\n" + import_module("bench.explain").run(arguments.explain, options))
            return 0
        rows: list[report.Row] = []
        for suite in suites:
            module = import_module(SUITES[suite])
            new = module.run(options)
            print(f"\n{suite}: {MEANS}\n\n{module.tables(new)}", flush=True)
            rows += new
            # after every suite, so that a later one cannot lose an earlier one's
            if arguments.json:
                report.save_json(arguments.json, described, options, rows)
        if arguments.plot:
            picture.save(arguments.plot, described, rows)
    except BenchError as error:
        print(f"\nbench: {error}", file=sys.stderr)  # below the progress bar
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
