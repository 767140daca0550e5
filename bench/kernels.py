"""Suite `kernels`: every op at a table of shapes, in cache and out of it. First all contenders agree, then they race.

A rate is work over time. The work of a product is its multiplications and additions, two for each of N I O terms, bias
not counted. Elsewhere it is the bytes that must move, whatever a contender really moves: each array of the size of x
once for each pass that the definition needs. Batch norm reads x (and dout) twice, because the statistics must be
complete before the first result. The passes stand in the table `OPS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np

import fastnn
from bench import BenchError, Options, peers
from bench.report import Row, contenders, geometric_mean, microseconds, table, times
from bench.timing import Call, calibrate, interleaved, progress
from fastnn import reference
from fastnn.reference import Array

Shape = tuple[int, ...]

BATCHNORM = [(2, 2), (32, 64), (128, 256), (256, 1024), (4096, 512), (16384, 1024)]
INFERENCE = [(32, 64), (128, 256), (4096, 512)]
PARAMETERS = [(2, 2), (100_000,), (1_000_000,), (10_000_000,)]
DENSE = [  # N, I, O
    (2, 2, 2), (1, 64, 128), (32, 16, 32), (64, 64, 64), (128, 128, 10), (60, 100, 100), (64, 128, 128), (60, 784, 100),
    (128, 784, 256), (10, 1000, 1000), (256, 1024, 1024), (1024, 1024, 1024),
]  # fmt: skip
ACTIVATIONS = [(128, 256), (1024, 1024)]
LOSSES = [(128, 10), (1024, 1000)]
KINDS = ["identity", "relu", "leaky_relu", "tanh", "sigmoid", "softsign", "softplus", "elu"]

# seconds of one round, and rounds
FULL, QUICK = (0.02, 9), (0.002, 5)
# a quick run leaves out the shapes with more work than this
QUICK_WORK = {"GB/s": 1e8, "GFLOP/s": 2e9}
# the largest error allowed, in units of the largest entry of the result
TOLERANCE = {"float32": 5e-5, "float64": 1e-12}


@dataclass(frozen=True)
class Arguments:
    """One call: what goes in, and the arrays that fastnn's function writes its results to."""

    inputs: tuple[Any, ...]
    outputs: dict[str, Array] = field(default_factory=dict)
    options: dict[str, float] = field(default_factory=dict)
    terms: float = 0.0  # errors are also allowed relative to this: the size of terms that cancel in the result

    def copy(self) -> Arguments:
        inputs = tuple(a.copy() if isinstance(a, np.ndarray) else a for a in self.inputs)
        return Arguments(inputs, {name: np.empty_like(a) for name, a in self.outputs.items()}, self.options, self.terms)


Draw = Callable[..., Array]


@dataclass(frozen=True)
class Op:
    """One function. `passes` counts the arrays moved, or the operations of each N I O term, for one call."""

    name: str
    shapes: Sequence[Shape]
    arguments: Callable[[Shape, Draw], Arguments]
    passes: int
    unit: str = "GB/s"
    kind: str = ""

    def work(self, shape: Shape, dtype: str) -> float:
        return float(self.passes * math.prod(shape) * (np.dtype(dtype).itemsize if self.unit == "GB/s" else 1))

    def case(self, shape: Shape) -> str:
        return f"{self.kind} {'x'.join(map(str, shape))}".strip()


# ---- the arguments of each op; draw(*shape) gives standard normal numbers of the dtype wanted


def _dense_forward(shape: Shape, draw: Draw) -> Arguments:
    n_rows, n_in, n_out = shape
    return Arguments((draw(n_rows, n_in), draw(n_in, n_out), draw(n_out)), {"out": draw(n_rows, n_out)})


def _dense_backward(shape: Shape, draw: Draw) -> Arguments:
    n_rows, n_in, n_out = shape
    outputs = {"dx": draw(n_rows, n_in), "dweight": draw(n_in, n_out), "dbias": draw(n_out)}
    return Arguments((draw(n_rows, n_out), draw(n_rows, n_in), draw(n_in, n_out)), outputs)


def _batchnorm_forward(shape: Shape, draw: Draw) -> Arguments:
    d = shape[1]
    return Arguments((draw(*shape), draw(d), draw(d), draw(d), np.square(draw(d))), {"out": draw(*shape)})


def _batchnorm_backward(shape: Shape, draw: Draw) -> Arguments:
    d = shape[1]
    dout, x, gamma = draw(*shape), draw(*shape), draw(d)
    _, mean, rstd = reference.batchnorm_forward(x, gamma, gamma)
    outputs = {"dx": draw(*shape), "dgamma": draw(d), "dbeta": draw(d)}
    return Arguments((dout, x, gamma, mean, rstd), outputs, terms=float(np.max(np.abs(gamma * rstd * dout))))


def _batchnorm_inference(shape: Shape, draw: Draw) -> Arguments:
    d = shape[1]
    return Arguments((draw(*shape), draw(d), draw(d), draw(d), np.square(draw(d))), {"out": draw(*shape)})


def _activation_forward(kind: str, shape: Shape, draw: Draw) -> Arguments:
    return Arguments((draw(*shape), kind), {"out": draw(*shape)})


def _activation_backward(kind: str, shape: Shape, draw: Draw) -> Arguments:
    y = reference.activation_forward(draw(*shape), kind)
    return Arguments((draw(*shape), y, kind), {"dx": draw(*shape)})


def _softmax_cross_entropy(shape: Shape, draw: Draw) -> Arguments:
    labels = np.random.default_rng(1).integers(shape[1], size=shape[0])
    return Arguments((draw(*shape), labels), {"dlogits": draw(*shape)})


def _sigmoid_cross_entropy(shape: Shape, draw: Draw) -> Arguments:
    targets = (draw(*shape) > 0).astype(draw(1).dtype)
    return Arguments((draw(*shape), targets), {"dlogits": draw(*shape)})


def _mean_squared_error(shape: Shape, draw: Draw) -> Arguments:
    return Arguments((draw(*shape), draw(*shape)), {"dpred": draw(*shape)})


def _sgd_update(shape: Shape, draw: Draw) -> Arguments:
    return Arguments((draw(*shape), draw(*shape), draw(*shape)), options={"lr": 0.01, "momentum": 0.9})


def _adam_update(shape: Shape, draw: Draw) -> Arguments:
    return Arguments((draw(*shape), draw(*shape), draw(*shape), np.square(draw(*shape))), options={"lr": 0.001, "step": 3})


OPS = [
    Op("dense_forward", DENSE, _dense_forward, 2, "GFLOP/s"),
    Op("dense_backward", DENSE, _dense_backward, 4, "GFLOP/s"),  # dx and dweight
    Op("batchnorm_forward", BATCHNORM, _batchnorm_forward, 3),  # x, x; out
    Op("batchnorm_backward", BATCHNORM, _batchnorm_backward, 5),  # dout, x, dout, x; dx
    Op("batchnorm_inference", INFERENCE, _batchnorm_inference, 2),  # x; out
    *(Op("activation_forward", ACTIVATIONS, partial(_activation_forward, k), 2, kind=k) for k in KINDS),  # x; y
    *(Op("activation_backward", ACTIVATIONS, partial(_activation_backward, k), 3, kind=k) for k in KINDS),  # dy, y; dx
    Op("softmax_cross_entropy", LOSSES, _softmax_cross_entropy, 2),  # logits; dlogits
    Op("sigmoid_cross_entropy", LOSSES, _sigmoid_cross_entropy, 3),  # logits, targets; dlogits
    Op("mean_squared_error", LOSSES, _mean_squared_error, 3),  # pred, target; dpred
    Op("sgd_update", PARAMETERS, _sgd_update, 5),  # param, grad, velocity; param, velocity
    Op("adam_update", PARAMETERS, _adam_update, 7),  # param, grad, m, v; param, m, v
]


def run(options: Options) -> list[Row]:
    seconds, rounds = QUICK if options.quick else FULL
    rivals = peers.kernels(options.peers)
    cases = [(op, shape, dtype) for op in OPS for shape in op.shapes for dtype in options.dtypes]
    if options.quick:
        cases = [(op, shape, dtype) for op, shape, dtype in cases if op.work(shape, dtype) <= QUICK_WORK[op.unit]]
    rows = []
    for op, shape, dtype in progress(cases, "kernels"):
        arguments = draw_arguments(op, shape, dtype)
        entrants = {"fastnn": fastnn} | {name: module for name, module in rivals.items() if hasattr(module, op.name)}
        check(op, arguments, entrants)
        calls = {name: bind(op, arguments, name, module) for name, module in entrants.items()}
        counts = {name: calibrate(call, seconds) for name, call in calls.items()}
        timings = interleaved(calls, counts, range(rounds))
        rows.append(Row("kernels", op.name, op.case(shape), dtype, timings, op.work(shape, dtype), op.unit, options.threads[0]))
    return rows


def draw_arguments(op: Op, shape: Shape, dtype: str) -> Arguments:
    rng = np.random.default_rng(0)
    return op.arguments(shape, lambda *size: rng.standard_normal(size, np.dtype(dtype).type))


def bind(op: Op, arguments: Arguments, name: str, module: ModuleType) -> Call:
    """The contender's function, ready to be called without arguments."""
    function = getattr(module, op.name)
    if name == "fastnn":
        return partial(function, *arguments.inputs, **arguments.outputs, **arguments.options)
    # rivals know one dtype only: the float64 statistics of batch norm are rounded to that of the data
    dtype = arguments.inputs[0].dtype
    inputs = [a.astype(dtype, copy=False) if _is_float(a) else a for a in arguments.inputs]
    if name == "textbook":
        return partial(function, *inputs, **arguments.options)
    prepared: Call = function(*inputs, **arguments.outputs, **arguments.options)
    return prepared


def check(op: Op, arguments: Arguments, contenders: dict[str, ModuleType]) -> None:
    """Every contender's results, and its inputs afterwards, are those of the reference in float64."""
    exact = arguments.copy()
    inputs = tuple(a.astype(np.float64) if _is_float(a) else a for a in exact.inputs)
    expected = flat(getattr(reference, op.name)(*inputs, **arguments.options)) + flat(inputs)
    dtype = arguments.inputs[0].dtype
    for name, module in contenders.items():
        own = arguments.copy()
        results = flat(bind(op, own, name, module)()) + flat(own.inputs)
        for result, wanted in zip(results, expected, strict=True):
            allowed = TOLERANCE[dtype.name] * max(float(np.max(np.abs(wanted))), arguments.terms)
            error = float(np.max(np.abs(np.asarray(result) - wanted)))
            if not error <= allowed:
                case = op.case(np.shape(arguments.inputs[0]))
                raise BenchError(f"{op.name} {case} {dtype}: {name} is off by {error:.3g}, allowed are {allowed:.3g}")


def _is_float(a: Any) -> bool:
    return isinstance(a, np.ndarray) and a.dtype.kind == "f"


def flat(results: Any) -> list[Any]:
    """The numbers and arrays among the results of a call; a call that works in place has none."""
    if results is None or isinstance(results, str):
        return []
    return [r for part in results for r in flat(part)] if isinstance(results, tuple) else [results]


# ---- what is printed


def tables(rows: Sequence[Row]) -> str:
    """Time and rate of fastnn and the ratio rival / fastnn; then the geometric mean of each op."""
    rivals = contenders(rows)[1:]
    head = ["", "", "", "fastnn us", "rate", "", *rivals]
    lines = [
        [row.name, row.case, row.dtype, microseconds(row.times["fastnn"]), f"{row.rate():.3g}", row.unit]
        + [times(row.ratio(rival)) for rival in rivals]
        for row in rows
    ]
    text = table(head, lines, left=3)
    groups = {name: [row for row in rows if row.name == name] for name in dict.fromkeys(row.name for row in rows)}
    means = [
        [name, *(times(geometric_mean(row.ratio(rival) for row in group)) for rival in rivals)]
        for name, group in groups.items()
    ]
    return text + "\n\n" + table(["geometric means", *rivals], means, left=1)
