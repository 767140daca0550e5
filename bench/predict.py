"""Suite `predict`: the labels of a row or a few, as a service or a control loop asks for them; one thread.

``fastnn`` is a `Predictor`, ``network`` the `Sequential` it is made of. NumPy has the batch norms folded into the products and
writes into given arrays; PyTorch runs the module of `fastnn.interop.to_torch` in inference mode. Labels come as NumPy arrays.
First all agree, then they race.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

import fastnn as fnn
from bench import BenchError, Options
from bench.peers.own import network
from bench.report import Row, contenders, geometric_mean, microseconds, table, times
from bench.timing import Call, calibrate, interleaved, progress
from fastnn.reference import Array

NETS = [(8, 32, 32, 4), (64, 128, 128, 10), (784, 256, 128, 10)]
ROWS = [1, 8, 64]
# seconds of one round, and rounds
FULL, QUICK = (0.02, 15), (0.002, 5)

Rival = Callable[[fnn.Sequential, Array], Callable[[], Array]]


def trained(widths: tuple[int, ...], dtype: str) -> fnn.Sequential:
    """Batch norms and all, after a little training."""
    net = network(widths, dtype=dtype)
    rng = np.random.default_rng(0)
    net.fit(rng.standard_normal((256, widths[0])), rng.integers(widths[-1], size=256))
    return net


def of_numpy(net: fnn.Sequential, x: Array) -> Callable[[], Array]:
    dense = [layer for layer in net.fold_batchnorm().layers if isinstance(layer, fnn.Dense)]
    products = [(np.ascontiguousarray(layer.weight), layer.bias.copy()) for layer in dense]
    outs = [np.empty((len(x), len(bias)), net.dtype) for _, bias in products]

    def labels() -> Array:
        value = x
        for (weight, bias), out in zip(products, outs, strict=True):
            np.matmul(value, weight, out=out)
            np.add(out, bias, out=out)
            if out is not outs[-1]:
                np.maximum(out, 0, out=out)
            value = out
        return value.argmax(axis=1)

    return labels


def of_torch(net: fnn.Sequential, x: Array) -> Callable[[], Array]:
    import torch

    from fastnn import interop
    torch.set_num_threads(1)
    module = interop.to_torch(net)

    def labels() -> Array:
        with torch.inference_mode():
            return np.asarray(module(torch.from_numpy(x)).argmax(dim=1))

    return labels


RIVALS: dict[str, Rival] = {"careful": of_numpy, "torch-eager": of_torch}


def run(options: Options) -> list[Row]:
    seconds, rounds = QUICK if options.quick else FULL
    rows = []
    for dtype, widths, n in progress(list(itertools.product(options.dtypes, NETS, ROWS)), "predict"):
        net = trained(widths, dtype)
        x = np.random.default_rng(1).standard_normal((n, widths[0])).astype(dtype)
        calls: dict[str, Call] = {"fastnn": partial(net.predictor().predict, x), "network": partial(net.predict, x)}
        calls |= {name: rival(net, x) for name, rival in RIVALS.items() if name in options.peers}
        name = "-".join(map(str, widths))
        expected = net.forward(x).argmax(axis=1)
        for contender, call in calls.items():
            if not np.array_equal(call(), expected):
                raise BenchError(f"predict: {name}, {n} rows, {dtype}: {contender} has other labels")
        with fnn.num_threads(1):
            counts = {contender: calibrate(call, seconds) for contender, call in calls.items()}
            timings = interleaved(calls, counts, range(rounds))
        work = 2.0 * n * sum(a * b for a, b in itertools.pairwise(widths))
        rows.append(Row("predict", name, f"{n} rows", dtype, timings, work))
    return rows


def tables(rows: Sequence[Row]) -> str:
    names = contenders(rows)
    rivals = names[1:]
    head = ["net", "rows", "dtype", *(f"{name} us" for name in names), *(f"{name} / fastnn" for name in rivals)]
    lines = [
        [row.name, row.case.removesuffix(" rows"), row.dtype, *(microseconds(row.times.get(name)) for name in names),
         *(times(row.ratio(name)) for name in rivals)] for row in rows
    ]
    means = [times(geometric_mean(row.ratio(name) for row in rows)) for name in rivals]
    return table(head, [*lines, ["geometric mean", "", "", *[""] * len(names), *means]], left=3)
