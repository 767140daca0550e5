"""``--explain NET``: where the time of a training step goes, against what the machine can do.

The engine adds up the seconds that each thread spends in each part of the step. A product is held against the rate of the
register tile on operands that stay in the first-level cache, an update against the bandwidth of copying arrays that fit no
cache: it reads and writes a weight and its velocity. Waiting is what is left of the threads' time: for the tiles of others,
and for the next phase.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np

import fastnn
from bench import BenchError, Options, train
from bench.machine import bandwidth, peak
from bench.peers.own import Rival
from bench.report import table
from bench.task import Task

PARTS = ("forward", "backward", "weight gradient", "update")
ROUNDS = 7


def run(name: str, options: Options) -> str:
    """The table for one net of the train suite."""
    nets = {net.name: net for net in train.NETS}
    if name not in nets:
        raise BenchError(f"--explain: expected one of {', '.join(nets)}, got {name!r}")
    net = nets[name]
    dtype = net.dtypes[0]
    texts = []
    with tempfile.TemporaryDirectory(prefix="fastnn-bench-") as folder:
        path = Path(folder) / "data.npz"
        train.save_data(path, net, dtype, net.steps)
        arrays = np.load(path)
        for threads in options.threads:
            task = Task(
                net.widths, net.batch, str(path), net.batch_norm, net.activation, net.loss, dtype, net.lr, threads=threads
            )
            rival = Rival(task, arrays["x"], arrays["y"])
            texts.append(explain(name, rival, threads, net.steps))
    return "\n\n".join(texts)


def explain(name: str, rival: Rival, threads: int, steps: int) -> str:
    net, dtype = rival.net, rival.net.dtype
    layers = net.layers
    best, profile = np.inf, np.empty(0)
    fastest, fastest_copy = 0.0, 0.0
    with fastnn.num_threads(threads):
        rival.train(1)
        for _ in range(ROUNDS):
            fastest, fastest_copy = max(fastest, peak(dtype)), max(fastest_copy, bandwidth())
            net._profile = np.zeros((threads, 4 * len(layers) + 2))
            start = time.perf_counter()
            rival.train(1)
            seconds = time.perf_counter() - start
            if seconds < best:
                best, profile = seconds, net._profile.sum(axis=0)
    net._profile = None
    us = 1e6 / steps
    rows = []
    for i, layer in enumerate(layers):
        for part, seconds in zip(PARTS, profile[4 * i : 4 * i + 4] / steps, strict=True):
            if seconds > 0:
                share = held_against(layer, part, seconds, rival, fastest, fastest_copy)
                rows.append([repr(layer), part, f"{1e6 * seconds:.1f}", share])
    rows.append(["", "gather", f"{us * profile[-2]:.1f}", ""])
    rows.append(["", "loss", f"{us * profile[-1]:.1f}", ""])
    rows.append(["", "waiting, and the looks at the clock", f"{us * (threads * best - profile.sum()):.1f}", ""])
    rate = rival.task.flop * steps / best
    title = (
        f"{name}, batch {rival.task.batch}, {threads} thread(s): {us * best:.1f} us a step, {rate / 1e9:.1f} GFLOP/s of "
        f"{threads} x {fastest / 1e9:.1f} ({rate / fastest / threads:.0%}); copying: {fastest_copy / 1e9:.1f} GB/s"
    )
    return f"{title}\n\n" + table(["layer", "part", "us", "rate"], rows, left=2)


def held_against(layer: object, part: str, seconds: float, rival: Rival, fastest: float, fastest_copy: float) -> str:
    """The rate of a product or an update, as a share of what the machine can do."""
    if not isinstance(layer, fastnn.Dense):
        return ""
    weights = layer.in_features * layer.out_features
    if part == "update":
        rate = (4 if rival.task.momentum else 2) * weights * rival.net.dtype.itemsize / seconds
        return f"{rate / 1e9:.1f} GB/s ({rate / fastest_copy:.0%} of copying)"
    if part == "backward" and layer is rival.net.layers[0]:
        return ""
    rate = 2 * rival.task.batch * weights / seconds
    return f"{rate / 1e9:.1f} GFLOP/s ({rate / fastest:.0%} of peak)"
