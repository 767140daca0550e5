"""A model of training in several processes, and what it predicts: ``mpiexec -n 2 python -m bench.scaling``.

A step of p processes takes what one takes for its share of the batch by itself, plus, for each message, a latency and its
bytes over a bandwidth. Both are measured here, and so are the steps, with latency put in as well. Then the model says what
more processes would do on networks of given latency and bandwidth, where a sum takes 2 log2(p) latencies and sends 2 (p - 1)
/ p of its bytes.
"""

from __future__ import annotations

import math
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import fastnn as fnn
from bench import BenchError
from bench.peers.own import network
from bench.report import table
from fastnn.distributed import BUCKET, Mpi

NETS = {(64, 128, 128, 10): 1024, (784, 256, 128, 10): 512, (784, 1000, 1000, 10): 512}
EPOCHS, ROUNDS, STEPS = 4, 3, 12
SIZES = [8 << 10, 64 << 10, 512 << 10, 4 << 20, 16 << 20, 64 << 20]
LATENCY = 200e-6  # put in
NETWORKS = {"10 Gb Ethernet": (30e-6, 1.2e9), "100 Gb InfiniBand": (2e-6, 12e9)}
RANKS = [4, 16, 64, 256, 1024]


class Silent:
    """One of `size` processes, of which there is only this one: what it computes, without any message."""

    def __init__(self, size: int) -> None:
        self.rank, self.size = 0, size
        self.messages: list[int] = []  # bytes

    def sum(self, a: Any) -> None:
        self.messages.append(a.nbytes)
        if a.nbytes < 4096:  # among them whether all are finite
            a *= self.size

    def start_sum(self, a: Any) -> Callable[[], None]:
        self.messages.append(a.nbytes)
        return lambda: None

    def gather(self, value: Any) -> list[Any]:
        return [value] * self.size

    def gather_array(self, a: Any) -> Any:
        self.messages.append(a.nbytes)
        return np.stack([a] * self.size)

    def neighbours(self) -> int:
        return self.size

    def abort(self) -> None:
        raise SystemExit(1)


class Delayed(Mpi):
    """MPI with so many seconds more for each message."""

    seconds = 0.0

    def _wait(self) -> None:
        end = time.perf_counter() + self.seconds
        while time.perf_counter() < end:
            pass

    def sum(self, a: Any) -> None:
        self._wait()
        super().sum(a)

    def start_sum(self, a: Any) -> Callable[[], None]:
        self._wait()
        return super().start_sum(a)

    def gather_array(self, a: Any) -> Any:
        self._wait()
        return super().gather_array(a)


def seconds_of_step(widths: Sequence[int], batch: int, comm: Any, rank: int = 0, size: int = 1) -> float:
    """Of one process's share of the batch; the median over some epochs."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((batch * STEPS // size, widths[0]), dtype=np.float32)
    y = rng.integers(0, widths[-1], len(x))
    net = network(widths)
    with fnn.num_threads(1):
        history = net.fit(x, y, epochs=EPOCHS, batch_size=batch // size, optimizer=fnn.SGD(0.01, momentum=0.9), comm=comm)
    return statistics.median(epoch["seconds"] for epoch in history.epochs[1:]) / STEPS


def allreduce(comm: Any) -> dict[int, float]:
    """Seconds to sum up so many bytes."""
    world, found = Mpi(comm), {}
    for size in SIZES:
        a, times = np.zeros(size // 4, np.float32), []
        repeats = max(2, min(100, (1 << 24) // size))
        for _ in range(7):
            comm.Barrier()
            started = time.perf_counter()
            for _ in range(repeats):
                world.sum(a)
            times.append((time.perf_counter() - started) / repeats)
        found[size] = statistics.median(times)
    return found


def wire(size: int, measured: dict[int, float]) -> float:
    """Seconds for a message, between the sizes that were measured."""
    known = sorted(measured)
    return float(np.interp(size, known, [measured[size] for size in known]))


def main(argv: Sequence[str] | None = None) -> int:
    try:
        from mpi4py import MPI
    except ImportError:
        raise BenchError("scaling: needs mpi4py and an MPI: pip install '.[mpich]'") from None
    comm = MPI.COMM_WORLD
    size, rank, first = comm.Get_size(), comm.Get_rank(), comm.Get_rank() == 0
    if size < 2:
        raise BenchError("scaling: start it by mpiexec -n 2")
    try:
        return report(comm, size, rank, first)
    except BaseException:
        traceback.print_exc()
        comm.Abort(1)
        raise


def report(comm: Any, size: int, rank: int, first: bool) -> int:
    sums = allreduce(comm)
    lines, more = [], []
    for widths, batch in NETS.items():
        name = "-".join(map(str, widths))
        whole, share, together, late, messages = [], [], [], [], []
        for _ in range(ROUNDS):
            if first:  # the others wait
                whole.append(seconds_of_step(widths, batch, None))
                silent = Silent(size)
                share.append(seconds_of_step(widths, batch, silent, 0, size))
                messages = silent.messages
            comm.bcast(None)
            together.append(seconds_of_step(widths, batch, comm, rank, size))
            delayed = Delayed(comm)
            delayed.seconds = LATENCY
            late.append(seconds_of_step(widths, batch, delayed, rank, size))
        if not first:
            continue
        # those of steps: the few of an epoch are lost among them
        n = len(messages) / (STEPS * EPOCHS)
        per_step = messages[-round(n) - 3 : -3]
        alone, local, measured, with_delay = (1e6 * statistics.median(a) for a in (whole, share, together, late))
        sent = sum(wire(message, sums) for message in per_step) * 1e6
        lines.append([
            name, str(batch), f"{alone:.0f}", f"{local:.0f}", str(len(per_step)), f"{sum(per_step) / 1e6:.2f}",
            f"{local + sent:.0f}", f"{measured:.0f}", f"{local + sent + len(per_step) * LATENCY * 1e6:.0f}",
            f"{with_delay:.0f}",
        ])  # fmt: skip
        compute = alone - (local - (alone - local) / (size - 1)) if size > 1 else alone
        fixed = max(alone - compute, 0.0)
        for label, (latency, bandwidth) in NETWORKS.items():
            row = [name, label]
            for p in RANKS:
                step = compute / p + fixed + 1e6 * sum(
                    2 * math.log2(p) * latency + 2 * (p - 1) / p * message / bandwidth for message in per_step
                )
                row.append(f"{alone / step:.1f}")
            more.append(row)
    if first:
        print(table(["bytes", "us", "GB/s"], [[str(n), f"{1e6 * s:.0f}", f"{n / s / 1e9:.2f}"] for n, s in sums.items()], 0))
        print()
        late_head = f"+{1e6 * LATENCY:.0f} us"
        head = ["net", "batch", "1 rank us", "share", "messages", "MB", "predicted", "measured", late_head, "measured"]
        print(table(head, lines, 1))
        print(f"\nspeed-up that the model predicts for the same batch; weights below {BUCKET} bytes go together\n")
        print(table(["net", "network", *map(str, RANKS)], more, 2))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        sys.exit(1)
