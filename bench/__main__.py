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

from bench import BenchError, Options, peers

# name: a module with run(options) -> list of rows
SUITES = {
    "kernels": "bench.kernels",
    "train": "bench.train",
}
THREAD_VARIABLES = (
    "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS", "VECLIB_MAXIMUM_THREADS",
)  # fmt: skip


def parse(argv: Sequence[str] | None) -> tuple[argparse.Namespace, Options]:
    parser = argparse.ArgumentParser("python -m bench", description="fastnn against NumPy and the peers installed")
    parser.add_argument("--quick", action="store_true", help="small shapes and short rounds, within a minute")
    parser.add_argument("--suite", choices=SUITES, help="one suite (default: all)")
    threads = "threads of NumPy's BLAS and the rivals; fastnn has one (default: 1)"
    parser.add_argument("--threads", type=int, default=1, metavar="N", help=threads)
    parser.add_argument("--peers", metavar="LIST", help=f"some of {','.join(peers.PEERS)} (default: all installed)")
    parser.add_argument("--dtype", choices=("float32", "float64", "both"), default="both", help="of the kernels suite")
    parser.add_argument("--mnist", type=Path, metavar="DIR", help="train on MNIST: a folder with its four .gz files")
    parser.add_argument("--json", type=Path, metavar="FILE", help="save everything, with the time of every round")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="save a picture of the ratios (needs matplotlib)")
    arguments = parser.parse_args(argv)

    if arguments.threads < 1:
        parser.error(f"--threads: expected at least 1, got {arguments.threads}")
    installed = peers.installed()
    chosen = installed if arguments.peers is None else tuple(dict.fromkeys(arguments.peers.split(",")))
    for peer in chosen:
        if peer not in peers.PEERS:
            parser.error(f"--peers: expected names of {', '.join(peers.PEERS)}, got {peer!r}")
        if peer not in installed:
            parser.error(f"--peers: {peer} is not installed")
    for path in (arguments.json, arguments.plot):
        if path and not path.absolute().parent.is_dir():
            parser.error(f"{path}: no such folder")
    if arguments.plot and not find_spec("matplotlib"):
        parser.error("--plot: needs matplotlib, which is not installed")
    dtypes = ("float32", "float64") if arguments.dtype == "both" else (arguments.dtype,)
    return arguments, Options(arguments.quick, arguments.threads, chosen, dtypes, arguments.mnist)


def main(argv: Sequence[str] | None = None) -> int:
    arguments, options = parse(argv)
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(options.threads)))
    # these import NumPy
    from bench import data, machine, report

    try:
        if options.mnist:
            data.mnist_files(options.mnist)
        described = machine.describe(options)
        print(report.header(described), flush=True)
        rows: list[report.Row] = []
        for suite in [arguments.suite] if arguments.suite else SUITES:
            new = import_module(SUITES[suite]).run(options)
            print(f"\n{suite}: medians; a ratio is the time of the rival / the time of fastnn\n")
            print(report.tables(new), flush=True)
            rows += new
            # after every suite, so that a later one cannot lose an earlier one's
            if arguments.json:
                report.save_json(arguments.json, described, options, rows)
            if arguments.plot:
                report.save_plot(arguments.plot, described, rows)
    except BenchError as error:
        print(f"\nbench: {error}", file=sys.stderr)  # below the progress bar
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
