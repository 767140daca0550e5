"""Memory safety: pages that may not be touched, canaries, leaks, limits, sizes beyond 2^31.

What may crash runs in a process of its own. `tests/sanitize.py` runs the whole suite under sanitizers.
"""

from __future__ import annotations

import ctypes
import gc
import itertools
import mmap
import os
import pickle
import shutil
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar
from xml.etree import ElementTree

import numpy as np
import pytest
from conftest import (
    DTYPES,
    FLOAT32,
    FLOAT64,
    SANITIZED,
    assert_near,
    assert_same_bits,
    nan,
    normal,
    run_alone,
)
from test_contract import COMPILED, OPS, arguments, call, compiled, every_dtype, every_op, float_arrays, outputs_of

import fastnn as fnn
from fastnn import activation, adam, dense, inference, network, plan, sgd
from fastnn._kernels import by_dtype, engine, gemm
from fastnn._kernels import dense as dense_kernels

Array = np.ndarray
resource = pytest.importorskip("resource")

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="calls the system in the way of Linux")
LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.mmap.restype = ctypes.c_void_p
LIBC.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]

product = by_dtype(gemm.product)
SHARED = (
    (activation, "SHARED_SIZE"), (sgd, "SHARED_SIZE"), (adam, "SHARED_SIZE"), (dense, "SHARED_WORK"),
    (fnn.batchnorm, "SHARED_SIZE"))


# ---- forbidden pages

def at_an_edge(a: Array, end: bool) -> Array:
    """A copy of `a` that ends just before a page that may not be touched, or begins just behind one."""
    page = mmap.PAGESIZE
    room = -(-max(a.nbytes, 1) // page) * page
    pages = np.frombuffer(mmap.mmap(-1, room + page), np.uint8)
    forbidden = room if end else 0
    if LIBC.mprotect(ctypes.c_void_p(pages.ctypes.data + forbidden), page, 0):
        raise OSError("mprotect failed")
    start = room - a.nbytes if end else page
    copy = pages[start:start + a.nbytes].view(a.dtype).reshape(a.shape)
    copy[...] = a
    return copy


def kernels_at_the_edges(sizes: Iterator[tuple[int, int]]) -> None:
    """Every function on arrays next to forbidden pages: a byte read or written beyond an array ends the process."""
    rng = np.random.default_rng(1)
    for (n, d), limit, name, dtype, end in itertools.product(sizes, (2**62, 0), OPS, DTYPES, (True, False)):
        # with limit 0 NumPy does the products
        if limit == 0 and not name.startswith("dense"):
            continue
        dense.OWN_PRODUCT_UP_TO = dense.OWN_VECTOR_PRODUCT_UP_TO = limit
        if n == 1 and name.startswith("batchnorm") and name != "batchnorm_inference":
            continue
        args = arguments(rng, name, dtype, n, d)
        for kind in fnn.activation.KINDS if "kind" in args else [None]:
            if kind is not None:
                args["kind"] = kind
            expected = call(name, args)
            outputs = {key: at_an_edge(a, end) for key, a in outputs_of(name, args, expected).items()}
            moved = {key: at_an_edge(a, end) if isinstance(a, np.ndarray) else a for key, a in args.items()}
            results = getattr(fnn, name)(**moved, **outputs)
            results = results if isinstance(results, tuple) else (results,)
            results = [*results, *(moved[key] for key in OPS[name].in_place)]
            assert_same_bits(results, expected, (name, dtype, n, d, kind))


def kernels_quick() -> None:
    """Also one row, one column, one output, and shared by three threads."""
    sizes = [*itertools.product((1, 2, 3, 6, 13), (1, 3, 7, 8, 15, 17, 33)), (30, 65), (3, 1030), (300, 40)]
    kernels_at_the_edges(iter(sizes))
    fnn.set_num_threads(3)
    for module, name in SHARED:
        assert hasattr(module, name)
        setattr(module, name, 0)
    kernels_at_the_edges(iter([(1, 700), (9, 130), (300, 130), (1100, 3)]))


def kernels_full() -> None:
    kernels_at_the_edges(iter([*((n, d) for n in (1, 6, 12, 29) for d in range(1, 131)), *((n, 9) for n in range(1, 131))]))


def product_at_the_edges(m: int, k: int, n: int, dtype: np.dtype[Any]) -> None:
    """A and B as they are and as transposes, with a bias and without."""
    rng = np.random.default_rng(2)
    a, b, bias = normal(rng, dtype, m, k), normal(rng, dtype, k, n), normal(rng, dtype, n)
    for end in (True, False):
        lefts = at_an_edge(a, end), at_an_edge(a.T.copy(), end).T
        rights = at_an_edge(b, end), at_an_edge(b.T.copy(), end).T
        for (i, left), (j, right), add in itertools.product(enumerate(lefts), enumerate(rights), (None, at_an_edge(bias, end))):
            c, expected = at_an_edge(nan(dtype, m, n), end), nan(dtype, m, n)
            product[dtype](left, right, add, c)
            product[dtype]((a, np.asfortranarray(a))[i], (b, np.asfortranarray(b))[j], None if add is None else bias, expected)
            assert_same_bits(c, expected, (m, k, n, dtype, i, j, end))


# (m, k, n) where a block of A, B or both are copied, by rows, by columns and across several blocks; few rows times a transpose;
# one column
COPIED = [
    (16, 33, 128), (49, 33, 128), (50, 40, 131), (193, 17, 520), (200, 20, 515), (129, 70, 520), (130, 17, 513), (150, 64, 519),
    (13, 257, 130), (25, 256, 128), (17, 513, 33), (73, 520, 130), (37, 700, 65), (300, 300, 300), (1, 600, 130), (16, 600, 17),
    (129, 30, 1), (1, 40, 1), (7, 1030, 1),
]


def products_quick() -> None:
    for dtype in DTYPES:
        for m, k, n in itertools.product((1, 5, 13), (1, 3, 17), (1, 7, 16, 33, 65)):
            product_at_the_edges(m, k, n, dtype)
        for shape in COPIED:
            product_at_the_edges(*shape, dtype)
        # parts for three threads, by columns and by rows
        for n, n_in, n_out in [(3, 20, 300), (300, 20, 130)]:
            rng = np.random.default_rng(3)
            x, weight = at_an_edge(normal(rng, dtype, n, n_in), True), at_an_edge(normal(rng, dtype, n_in, n_out), True)
            for end in (True, False):
                out = at_an_edge(nan(dtype, n, n_out), end)
                by_dtype(dense_kernels.forward)[dtype](x, weight, None, out, 3)
                assert_near(out, x @ weight, 20, (n, n_in, n_out))


def products_full() -> None:
    for dtype in DTYPES:
        for i in range(1, 131):
            for m, k, n in [
                (i, 5, 7), (i, 16, 33), (3, i, 17), (13, i, 5), (1, 3, i), (5, 4, i), (14, 33, i), (i, 33, 128), (i, i, i),
            ]:
                product_at_the_edges(m, k, n, dtype)


# the layouts of x and y next to a forbidden page: what is read last, or first, lies at it
def _apart(a: Array, end: bool) -> Array:
    whole = np.zeros((len(a), 2 * a.shape[1] - 1) if a.ndim == 2 else 2 * len(a) - 1, a.dtype)
    whole[..., ::2] = a
    return at_an_edge(whole, end)[..., ::2]


def _in_records(a: Array, end: bool) -> Array:
    fields = [("", "u1"), ("a", a.dtype)] if end else [("a", a.dtype), ("", "u1")]
    records = np.zeros(a.shape, fields)
    records["a"] = a
    return at_an_edge(records, end)["a"]


EDGES: dict[str, Callable[[Array, bool], Array]] = {
    "plain": at_an_edge,
    "rows apart": lambda a, end: at_an_edge(np.repeat(a, 2, axis=0)[:-1], end)[::2],
    "columns apart": _apart,
    "backwards": lambda a, end: at_an_edge(np.ascontiguousarray(a[::-1]), end)[::-1],
    "fortran": lambda a, end: at_an_edge(np.ascontiguousarray(a.T), end).T,
    "byte-swapped": lambda a, end: at_an_edge(a.astype(a.dtype.newbyteorder()), end),
    "misaligned": _in_records,
}
X_KINDS = ("f4", "f8", "u1", "i8", "?", "u2")
LABEL_KINDS = ("i8", "u1", "i2", "u8", "i4")


class NumpyAtTheEdges:
    """NumPy, but what `empty` gives lies next to a forbidden page."""

    end: ClassVar[bool] = True

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    @classmethod
    def empty(cls, shape: Any, dtype: Any) -> Array:
        return at_an_edge(np.zeros(shape, dtype), cls.end)


def one_network(d: int, hidden: int, loss: str, dtype: Any) -> fnn.Sequential:
    n_out = 3 if loss != "mean_squared_error" else 1
    if hidden == 0:
        return fnn.Sequential([fnn.Dense(d, n_out, bias=False)], loss=loss, dtype=dtype, seed=0)
    return fnn.Sequential([
        fnn.Dense(d, hidden, bias=False), fnn.BatchNorm(hidden), fnn.ReLU(), fnn.Dropout(0.2), fnn.Dense(hidden, 9), fnn.Tanh(),
        fnn.Dense(9, n_out)], loss=loss, dtype=dtype, seed=0)


def everything(net: fnn.Sequential, x: Array, y: Array) -> list[Any]:
    """What a network can do with x and y, and its state afterwards."""
    plainly, clipped = fnn.SGD(lr=1e-4, momentum=0.9, weight_decay=0.01), fnn.SGD(lr=1e-3, momentum=0.5, clip_norm=0.5)
    adam, clipped_adam = fnn.Adam(lr=1e-4, eps=1e-2), fnn.AdamW(lr=1e-4, eps=1e-2, clip_norm=0.5)
    results: list[Any] = [net.loss_and_gradients(x, y)[0], net.train_step(x, y, plainly)]
    for shuffle, optimizer in [(True, adam), (False, clipped_adam), (True, plainly), (False, clipped)]:
        results += net.fit(
            x, y, batch_size=4, shuffle=shuffle, optimizer=optimizer, epochs=2, validation_data=(x, y)).loss
    results += [*net.evaluate(x, y).values(), net.predict(x), net.forward(x), net.forward(x, training=True)]
    results += [net.predictor().predict(x[:1]), net.predictor(fold=True).outputs(x)]
    if net.loss != "mean_squared_error":
        results.append(net.predict_proba(x))
    return [*map(np.asarray, results), *net.state_dict().values()]


def networks_at_the_edges(sizes: Iterator[tuple[int, int, int]]) -> None:
    """Also all that a network allocates lies next to forbidden pages."""
    rng = np.random.default_rng(5)
    aligned = plan.aligned
    cases = itertools.cycle(itertools.product(EDGES, (True, False)))
    for (n, d, hidden), dtype, loss in itertools.product(sizes, DTYPES, network.LOSSES):
        for x_kind in X_KINDS:
            layout, end = next(cases)
            x = (rng.random((n, d)) * 9).astype(x_kind)
            if loss == "softmax_cross_entropy":
                y = rng.integers(0, 3, n).astype(LABEL_KINDS[(n + d) % len(LABEL_KINDS)])
            else:
                y = rng.random((n, 3 if loss == "sigmoid_cross_entropy" else 1)).astype(x_kind if x_kind[0] == "f" else "f8")
            case = f"{n, d, hidden} {dtype} {loss} {x_kind} {layout} {end}"
            print(case, file=sys.stderr)
            expected = everything(one_network(d, hidden, loss, dtype), x, y)

            def at_edge(size: int, of: np.dtype[Any], end: bool = end) -> Array:
                return at_an_edge(aligned(size, of), end)

            NumpyAtTheEdges.end = end
            plan.aligned = network.aligned = at_edge
            network.np = inference.np = NumpyAtTheEdges()
            engine.empty = NumpyAtTheEdges.empty
            try:
                got = everything(one_network(d, hidden, loss, dtype), EDGES[layout](x, end), EDGES[layout](y, end))
            finally:
                plan.aligned = network.aligned = aligned
                network.np = inference.np = np
                engine.empty = np.empty
            assert_same_bits(got, expected, case)


def networks_quick() -> None:
    # 140 rows are more than one thread takes through at a time
    networks_at_the_edges(iter([(9, 1, 2), (7, 7, 16), (13, 17, 33), (2, 520, 8), (140, 16, 65), (5, 7, 0), (40, 33, 0)]))


def networks_full() -> None:
    sizes = [(n, d, h) for d in (1, 2, 3, 8, 15, 64, 65, 129) for n, h in ((3, 1), (8, 17), (33, 130), (9, 0))]
    networks_at_the_edges(iter([*sizes, (600, 33, 40), (17, 1030, 5), (9, 5, 1030)]))


@pytest.mark.parametrize("function", [kernels_quick, products_quick, networks_quick])
def test_nothing_beyond_an_array_is_touched(function: Callable[[], None]) -> None:
    done = run_alone(function)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
@pytest.mark.parametrize("function", [kernels_full, products_full, networks_full])
def test_nothing_beyond_any_array_is_touched(function: Callable[[], None]) -> None:
    done = run_alone(function, 1800)
    assert done.returncode == 0, done.stderr[-3000:]


def read_beyond(end: bool) -> None:
    """What the tests above rely on."""
    a = at_an_edge(np.zeros(5, np.float32), end)
    ctypes.string_at(a.ctypes.data - (not end), a.nbytes + 1)


@pytest.mark.parametrize("end", [True, False])
def test_a_byte_beyond_ends_the_process(end: bool) -> None:
    assert run_alone(read_beyond, arguments=repr(end)).returncode != 0


# ---- canaries

CANARY = 0xA5


class Fenced:
    """Arrays with canaries before and behind."""

    def __init__(self) -> None:
        self.memory: list[tuple[Array, int]] = []

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        size = int(np.prod(shape)) * dtype.itemsize
        whole = np.full(size + 2 * 256, CANARY, np.uint8)
        self.memory.append((whole, size))
        return whole[256:256 + size].view(dtype).reshape(shape)

    def copy(self, a: Array) -> Array:
        new = self.empty(a.shape, a.dtype)
        new[...] = a
        return new

    def assert_intact(self, case: Any) -> None:
        for whole, size in self.memory:
            assert (whole[:256] == CANARY).all() and (whole[256 + size:] == CANARY).all(), f"{case}: written beyond an array"


@every_op
@every_dtype
def test_canaries_around_outputs(rng: np.random.Generator, name: str, dtype: np.dtype[Any]) -> None:
    for n, d in [(2, 1), (3, 7), (6, 16), (13, 33), (70, 64), (5, 130)]:
        args = arguments(rng, name, dtype, n, d)
        expected = call(name, args)
        fenced = Fenced()
        outputs = {key: fenced.copy(a) for key, a in outputs_of(name, args, expected).items()}
        moved = {key: fenced.copy(a) if isinstance(a, np.ndarray) else a for key, a in args.items()}
        results = getattr(fnn, name)(**moved, **outputs)
        results = results if isinstance(results, tuple) else (results,)
        assert_same_bits([*results, *(moved[key] for key in OPS[name].in_place)], expected, (name, n, d))
        fenced.assert_intact((name, n, d))


def small_networks(dtype: Any) -> Iterator[tuple[fnn.Sequential, Array, Array]]:
    rng = np.random.default_rng(0)
    for loss, d, hidden in itertools.product(network.LOSSES, (1, 5, 17), (1, 7, 33, 130)):
        net = one_network(d, hidden, loss, dtype)
        y = rng.integers(0, 3, 21) if loss == "softmax_cross_entropy" else rng.random((21, net.n_out))
        yield net, rng.normal(size=(21, d)), y


@every_dtype
def test_what_fills_up_rows_stays_zero(dtype: np.dtype[Any]) -> None:
    """Of parameters, statistics, velocity and gradients, whatever the layers and the optimiser."""
    for net, x, y in small_networks(dtype):
        everything(net, x, y)
        of_the_net = net._plan
        outside = np.ones(of_the_net.parameters.size, bool)
        for view in of_the_net.views(outside).values():
            view[...] = False
        assert net._velocity is not None
        for flat in (of_the_net.parameters, net._velocity, of_the_net.gradients):
            assert not flat[outside].any()
        statistics = of_the_net.statistics.copy()
        for layer in net.layers:
            for a in layer.statistics.values():
                start = (a.ctypes.data - of_the_net.statistics.ctypes.data) // a.itemsize
                statistics[start:start + a.size] = 0
        assert not statistics.any()


def used_bytes(work: plan.Workspace, n: int, loss: str, itemsize: int) -> Array:
    """For each byte of the buffers whether a step on batches of `n` rows may write it."""
    used = np.zeros(work.memory.size, bool)
    ld = int(work.layout[5])
    places = [(work.layout[4], n * ld * itemsize), (work.layout[7], 16 * n), (work.layout[9], 16 * len(work.blocks)),
              (work.layout[6], 16 * -(-n // max(1, 8192 // int(work.layout[1]))))]
    if loss == "softmax_cross_entropy":
        places.append((work.layout[3], 8 * n))
    for op in work.ops:
        places += [(op["x"], n * op["ldx"] * itemsize), (op["y"], n * op["ldy"] * itemsize)]
        if op["mask"]:
            places.append((op["mask"], n * op["ldy"] * itemsize))
        if op["rstd"]:
            places += [(op["mean"], 8 * op["width"]), (op["rstd"], 8 * op["width"])]
    places += [(block["d"], n * block["ldd"] * itemsize) for block in work.blocks]
    for start, size in places:
        used[start:start + size] = True
    return used


@every_dtype
def test_canaries_between_the_buffers_of_a_network(dtype: np.dtype[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Buffers begin at whole pages here, and nothing is written into what is left between them."""
    for net, x, y in small_networks(dtype):
        expected = everything(one_network(net.n_in, net.layers[0].out_features, net.loss, dtype), x, y)
        with monkeypatch.context() as patch:
            patch.setattr(plan, "ALIGNMENT", 4096)
            work = net._plan.workspace(21)
            gaps = ~used_bytes(work, 21, net.loss, dtype.itemsize)
            assert gaps.sum() > 20000
            work.memory[gaps] = CANARY
            assert_same_bits(everything(net, x, y), expected, net)
            assert net._plan.workspace(21) is work
        assert (work.memory[gaps] == CANARY).all(), net


# ---- references and leaks

def references(things: list[Any]) -> list[int]:
    return [sys.getrefcount(thing) for thing in things]


@every_op
def test_references_are_given_back(rng: np.random.Generator, name: str) -> None:
    args = arguments(rng, name, FLOAT32)
    given = args | outputs_of(name, args)
    arrays = [a for a in given.values() if isinstance(a, np.ndarray)]
    before = references(arrays)
    for _ in range(20):
        getattr(fnn, name)(**given)
        for key in float_arrays(given):
            for wrong in (given[key].astype(np.int8), given[key][None].copy(), "text"):
                if not (OPS[name].any_shape and key == OPS[name].leading):
                    with pytest.raises((TypeError, ValueError)):
                        getattr(fnn, name)(**given | {key: wrong})
    assert references(arrays) == before


@pytest.mark.parametrize("name", COMPILED)
def test_compiled_functions_give_references_back(rng: np.random.Generator, name: str) -> None:
    """Also when a later argument turns out to be wrong."""
    function, good = compiled(rng, FLOAT64, 2, 3)[name]
    version = by_dtype(function)[FLOAT64]
    arrays = [a for a in good if isinstance(a, np.ndarray)]
    before = references(arrays)
    for place in (i for i, a in enumerate(good) if isinstance(a, np.ndarray)):
        for _ in range(50):
            with pytest.raises((TypeError, ValueError)):
                version(*good[:place], object(), *good[place + 1:])
    assert references(arrays) == before


class Mallinfo(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in (
        "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")]


def allocated() -> int:
    """The bytes that malloc has given out, or where it does not say, those of the whole process."""
    if hasattr(LIBC, "mallinfo2"):
        LIBC.mallinfo2.restype = Mallinfo
        info = LIBC.mallinfo2()
        return info.uordblks + info.hblkhd
    return resident()


def resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * mmap.PAGESIZE


Measured = tuple[list[int], list[int], int, int, int, int]


def measured(things: list[Any]) -> Measured:
    """References to `things`, and to what all share; objects; bytes by Python, by malloc, of the process."""
    gc.collect()
    shared = [None, FLOAT32, FLOAT64, np.dtype(np.intp), np.ndarray]
    return (references(things), references(shared), sys.getallocatedblocks(), tracemalloc.get_traced_memory()[0], allocated(),
            resident())


def assert_no_leak(function: Callable[[], Any], things: list[Any], times: int, case: str, traced: bool = False) -> None:
    """`times` calls leave no reference to `things`, no object and no memory behind; nor the process larger."""
    if traced:
        tracemalloc.start()
    for _ in range(20):
        function()
    # what the interpreter takes once for a table that has grown is not taken again
    found = ""
    for _ in range(2):
        before = measured(things)
        for _ in range(times):
            function()
        after = measured(things)
        found = leak(before, after, times, case)
        if not found:
            break
    tracemalloc.stop()
    assert not found, f"{case}: {found} after {times} calls"


def leak(before: Measured, after: Measured, times: int, case: str) -> str:
    """What has become more, in words; a few objects and bytes come and go."""
    if after[0] != before[0]:
        return f"references {before[0]} have become {after[0]}"
    # (NumPy's Generator.uniform loses a reference to float64)
    if case != "construct" and max(new - old for old, new in zip(before[1], after[1], strict=True)) > times // 2:
        return f"references to what all share {before[1]} have become {after[1]}"
    objects, by_python, by_malloc, by_process = (new - old for old, new in zip(before[2:], after[2:], strict=True))
    if objects > times // 4:
        return f"{objects} objects more"
    if by_python > max(8 * times, 8000) and not SANITIZED:
        return f"{by_python} bytes more"
    # (tracemalloc takes memory for its own tables)
    if by_malloc > 8 * times and not SANITIZED and not tracemalloc.is_tracing():
        return f"{by_malloc} bytes of malloc more"
    # a sanitizer keeps back what has been freed
    if by_process > 2_000_000 and not SANITIZED:
        return f"the process {by_process} bytes larger"
    return ""


def failing(error: type[BaseException], function: Callable[..., Any], *args: Any, **kwargs: Any) -> Callable[[], None]:
    def attempt() -> None:
        try:
            function(*args, **kwargs)
        except error:
            return
        raise AssertionError("no error")
    return attempt


def kernel_calls(rng: np.random.Generator) -> Iterator[tuple[str, Callable[[], Any], list[Any]]]:
    """Every function: a call that works, and calls that fail, each in its own way; with the arrays that take part."""
    for name, op in OPS.items():
        function = getattr(fnn, name)
        args = arguments(rng, name, FLOAT32)
        given = args | outputs_of(name, args)
        if "lr" in given:
            given |= {"lr": 1e-9} | ({"momentum": 0.5} if "momentum" in given else {})
        arrays = [a for a in given.values() if isinstance(a, np.ndarray)]
        yield name, lambda f=function, g=given: f(**g), arrays
        yield f"{name}, new outputs", lambda f=function, g=args: f(**g), arrays
        last = float_arrays(given)[-1]
        strided = [key for key in float_arrays(args) if key not in op.in_place][-1]
        spread = given | {strided: np.repeat(given[strided], 2, -1)[..., ::2]}
        yield f"{name}, a copy", lambda f=function, g=spread: f(**g), arrays
        for key, wrong in [
            (last, given[last].astype(np.int8)), (last, given[last].astype(FLOAT64)), (last, given[last][..., :-1].copy()),
            (last, "text"),
        ]:
            yield f"{name}, {key} wrong", failing((TypeError, ValueError), function, **given | {key: wrong}), [*arrays, wrong]
        written = [*op.outputs, *op.in_place][-1]
        locked = given[written].copy()
        locked.flags.writeable = False
        yield f"{name}, {written} read-only", failing(ValueError, function, **given | {written: locked}), [*arrays, locked]
        overlapping = np.zeros(given[written].size + 1, FLOAT32)
        both = [key for key in float_arrays(given) if given[key].shape == given[written].shape and key != written][-1:]
        if both and given[written].dtype == given[both[0]].dtype:
            shape = given[written].shape
            pair = {written: overlapping[1:].reshape(shape), both[0]: overlapping[:-1].reshape(shape)}
            yield f"{name}, overlapping", failing(ValueError, function, **given | pair), [*arrays, overlapping]
    bad = np.array([0, 1, 9], np.int32)
    logits = normal(rng, FLOAT32, 3, 4)
    yield "a bad label", failing(ValueError, fnn.softmax_cross_entropy, logits, bad), [logits, bad]
    yield "labels of a small type", lambda: fnn.softmax_cross_entropy(logits, bad % 4), [logits, bad]
    for name, (function, good) in compiled(rng, FLOAT64, 2, 3).items():
        version = by_dtype(function)[FLOAT64]
        arrays = [a for a in good if isinstance(a, np.ndarray)]
        yield f"compiled {name}", lambda f=version, g=good: f(*g), arrays
        yield f"compiled {name}, chosen by type", lambda f=function, g=good: f(*g), arrays
        yield f"compiled {name}, too narrow", failing(
            ValueError, version, *[a[..., :-1].copy() if a is arrays[-1] else a for a in good]), arrays
        yield f"compiled {name}, no array", failing(
            (ValueError, TypeError), version, *[object() if a is arrays[-1] else a for a in good]), arrays


def network_calls(rng: np.random.Generator) -> Iterator[tuple[str, Callable[[], Any], list[Any]]]:
    """A network: what works, and each way to fail."""
    def layers() -> list[Any]:
        return [fnn.Dense(5, 7, bias=False), fnn.BatchNorm(7), fnn.Tanh(), fnn.Dropout(0.2), fnn.Dense(7, 3)]

    x, y = normal(rng, FLOAT32, 12, 5), rng.integers(0, 3, 12)
    net = fnn.Sequential(layers(), seed=0)
    numbers = fnn.Sequential([fnn.Dense(5, 2)], loss="mean_squared_error", dtype="float64", seed=0)
    still = fnn.SGD(lr=0.0)
    adam = fnn.AdamW(lr=1e-9)
    moving = fnn.SGD(lr=1e-6, momentum=0.9, nesterov=True)
    clipped = fnn.SGD(lr=1e-6, clip_norm=1.0)
    spoilt = x.copy()
    spoilt[7, 3] = np.nan
    bad = y.astype(np.int32)
    bad[5] = 3
    steep = fnn.SGD(lr=1e30)
    big, targets = 1e20 * x.astype(FLOAT64), rng.random((12, 2))
    missing = targets.copy()
    missing[3, 1] = np.nan
    arrays: list[Any] = [x, y, net, numbers, still, adam, moving, clipped, spoilt, bad, steep, big, targets, missing]

    def case(name: str, function: Callable[[], Any]) -> tuple[str, Callable[[], Any], list[Any]]:
        # (what the network was trained with last it keeps)
        return name, function, [a for a in arrays if not isinstance(a, fnn.SGD | fnn.Adam)]

    yield case("construct", lambda: fnn.Sequential(layers(), seed=0))
    yield case("train_step", lambda: net.train_step(x, y, still))
    yield case("train_step, momentum", lambda: net.train_step(x, y, moving))
    yield case("train_step, Adam", lambda: net.train_step(x, y, adam))
    yield case("train_step, clipped", lambda: net.train_step(x, y, clipped))
    yield case("train_step, targets", lambda: numbers.train_step(x, targets, still))
    yield case("fit", lambda: net.fit(x, y, batch_size=4, optimizer=still))
    yield case("fit, integers", lambda: net.fit(bad[:, None].repeat(5, 1)[:, ::-1], y, batch_size=5, optimizer=still))
    yield case("fit, validation", lambda: net.fit(x, y, batch_size=12, optimizer=still, validation_data=(x, y)))
    yield case("predict", lambda: net.predict(x))
    yield case("predict_proba", lambda: net.predict_proba(x))
    yield case("predictor", lambda: net.predictor().predict_proba(x))
    yield case("evaluate", lambda: net.evaluate(x, y))
    yield case("evaluate, targets", lambda: numbers.evaluate(x, targets))
    yield case("forward, training", lambda: net.forward(x, training=True))
    yield case("loss_and_gradients", lambda: net.loss_and_gradients(x, y))
    yield case("state", lambda: net.load_state_dict(net.state_dict()))
    taken = net.layers[0]
    for name, error, function, args, kwargs in [
        ("layers that do not fit", ValueError, lambda: fnn.Sequential([fnn.Dense(5, 7), fnn.Dense(6, 3)]), (), {}),
        ("a layer of another network", ValueError, lambda: fnn.Sequential([taken]), (), {}),
        ("an initialiser that fails", ZeroDivisionError,
         lambda: fnn.Sequential([fnn.Dense(5, 3, init=lambda shape, *, rng, dtype: 1 // 0)]), (), {}),
        ("x of complex numbers", TypeError, net.fit, (x.astype(np.complex64), y), {}),
        ("x too narrow", ValueError, net.fit, (x[:, :4], y), {}),
        ("a bad label", ValueError, net.fit, (x, bad), {}),
        ("labels of floats", ValueError, net.train_step, (x, x[:, 0], still), {}),
        ("a NaN in x", ValueError, net.fit, (spoilt, y), {"optimizer": still}),
        ("a NaN in x unseen", fnn.DivergedError, net.fit, (spoilt, y), {"optimizer": still, "check_finite": False}),
        ("a NaN in a step", fnn.DivergedError, net.train_step, (spoilt, y, still), {}),
        ("a NaN in a clipped step", fnn.DivergedError, net.train_step, (spoilt, y, clipped), {}),
        ("a NaN in y", (ValueError, fnn.DivergedError), numbers.fit, (x, missing), {"optimizer": still}),
        ("a loss that diverges", fnn.DivergedError, numbers.fit, (big, targets), {"optimizer": steep, "epochs": 3}),
        ("no optimiser", TypeError, net.train_step, (x, y, 0.1), {}),
        ("a batch of one", ValueError, net.fit, (x[:1], y[:1]), {}),
        ("predict, too narrow", ValueError, net.predict, (x[:, :4],), {}),
        ("evaluate, a bad label", ValueError, net.evaluate, (x, bad), {}),
        ("a state without an entry", (ValueError, KeyError), net.load_state_dict, ({},), {}),
        ("validation data that do not fit", ValueError, net.fit, (x, y), {"validation_data": (x, y[1:])}),
    ]:
        yield case(name, failing(error, function, *args, **kwargs))


@pytest.fixture
def frozen() -> Iterator[None]:
    """What there is already is no garbage: looking for some is fast."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("frozen")
def test_no_call_leaks(rng: np.random.Generator) -> None:
    for case, function, things in itertools.chain(kernel_calls(rng), network_calls(rng)):
        assert_no_leak(function, things, 400, case)


@pytest.mark.slow
@pytest.mark.usefixtures("frozen")
@pytest.mark.parametrize("calls", [kernel_calls, network_calls])
def test_no_call_leaks_in_ten_thousand(rng: np.random.Generator, calls: Callable[..., Any]) -> None:
    for case, function, things in calls(rng):
        assert_no_leak(function, things, 10_000, case)
        assert_no_leak(function, things, 1_000, case, traced=True)


@pytest.mark.usefixtures("frozen")
def test_leaks_are_seen() -> None:
    kept: list[Any] = []
    thing, text = np.zeros(3), bytearray()
    LIBC.malloc.restype, LIBC.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    leaks: dict[str, Callable[[], Any]] = {
        "references": lambda: kept.append(thing), "objects": lambda: kept.append(object()),
        "bytes of malloc": lambda: LIBC.malloc(16), "bytes more": lambda: text.extend(bytes(100)),
    }
    for words, function in leaks.items():
        if not SANITIZED or words == "references":
            with pytest.raises(AssertionError, match=words):
                assert_no_leak(function, [thing], 400, "a leak", traced=words == "bytes more")


# ---- little memory

def limited(more: int) -> None:
    """The process may take `more` bytes of addresses than it has."""
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * mmap.PAGESIZE
    resource.setrlimit(resource.RLIMIT_AS, (used + more if more >= 0 else resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def in_a_child(function: Callable[[], Any]) -> None:
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            function()
            code = 0
        finally:
            sys.stderr.flush()
            os._exit(code)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status == 0, f"exit status {status}"


def calls_with_little_memory() -> None:
    """MemoryError or the right result, for every limit; never a crash, a change of the state, or a network out of order."""
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 9, (3000, 40), np.uint8), rng.integers(0, 3, 3000)
    optimizer = fnn.SGD(lr=0.01, momentum=0.9)

    def build(width: int = 300) -> fnn.Sequential:
        return fnn.Sequential([
            fnn.Dense(40, width), fnn.BatchNorm(width), fnn.ReLU(), fnn.Dropout(0.1), fnn.Dense(width, 200), fnn.Tanh(),
            fnn.Dense(200, 3)], seed=0)

    def state(net: fnn.Sequential) -> list[Any]:
        velocity = None if net._velocity is None else net._velocity.tobytes()
        state = net.state_dict().values()
        return [*(a.tobytes() for a in state), velocity, net._step, net._epoch, net._rng.bit_generator.state]

    net = build()
    a, b = normal(rng, FLOAT32, 3000, 40), normal(rng, FLOAT32, 40, 700)
    calls: dict[str, Callable[[], Any]] = {
        "fit": lambda: net.fit(x, y, optimizer=optimizer, batch_size=64).loss,
        "one batch": lambda: net.train_step(x, y, optimizer),
        "clipped": lambda: net.train_step(x, y, fnn.SGD(lr=0.1, clip_norm=1.0)),
        "forward": lambda: net.forward(x, training=True).tobytes(),
        "gradients": lambda: net.loss_and_gradients(x, y)[0],
        "predict": lambda: net.predict(x).tobytes(),
        "evaluate": lambda: net.evaluate(x, y),
        "state": lambda: state(net),
        "construct": lambda: state(build(2000)),
        "dense_forward": lambda: fnn.dense_forward(a, b).tobytes(),
        "dense_backward": lambda: fnn.dense_backward(np.ones((3000, 700), np.float32), a, b)[1].tobytes(),
        "relu": lambda: fnn.activation_forward(np.ones(10**6, np.float32), "relu").sum(),
        "batchnorm": lambda: fnn.batchnorm_forward(a, a[0], a[1])[0].tobytes(),
    }

    def attempt(name: str, more: int, threads: int, tally: Any) -> None:
        fnn.set_num_threads(threads)
        before = state(net)
        limited(more)
        try:
            result, failed = calls[name](), False
        except MemoryError:
            result, failed = None, True
        limited(-1)
        tally[0 if failed else 1] += 1
        if failed:
            assert state(net) == before, (name, more)
            result = calls[name]()      # the network is in order
        assert (result, state(net)) == expected[name], (name, more)

    expected: dict[str, Any] = {}

    def find(name: str, pipe: int) -> None:
        fnn.set_num_threads(1)
        outcome = calls[name](), state(net)
        with os.fdopen(pipe, "wb") as file:
            pickle.dump(outcome, file)

    tally = np.frombuffer(mmap.mmap(-1, mmap.PAGESIZE), np.int64)
    for name in calls:
        got, put = os.pipe()
        with os.fdopen(got, "rb") as file:
            pid = os.fork()
            if pid == 0:
                find(name, put)
                os._exit(0)
            os.close(put)
            expected[name] = pickle.load(file)
        os.waitpid(pid, 0)
    for name, threads in itertools.product(calls, (1, 3)):
        for more in (0, 800_000, 1_700_000, 2_500_000, 6_000_000, 16_000_000, 100_000_000):
            print(name, threads, more, file=sys.stderr)
            in_a_child(lambda name=name, more=more, threads=threads: attempt(name, more, threads, tally))
    print(tally[:2], file=sys.stderr)
    assert (tally[:2] > 40).all()


@pytest.mark.skipif(SANITIZED, reason="a sanitizer ends the process where it has no memory itself")
def test_with_little_memory_a_call_fails_and_changes_nothing() -> None:
    done = run_alone(calls_with_little_memory)
    assert done.returncode == 0, done.stderr[-3000:]


def first_products_without_memory() -> None:
    """The memory that each thread has for products is allocated when it is first used: there may be none by then."""
    net = fnn.Sequential([fnn.Dense(4, 3)], seed=0)
    x, w, y, out = np.ones((6, 4), np.float32), np.ones((4, 3), np.float32), np.zeros(6, int), np.empty((6, 3), np.float32)
    dweight, dbias = np.empty((4, 3), np.float32), np.empty(3, np.float32)
    optimizer = fnn.SGD(lr=0.1)
    before = [a.tobytes() for a in net.state_dict().values()]
    calls: list[Callable[[], Any]] = [
        lambda: fnn.dense_forward(x, w, out=out), lambda: net.predict(x), lambda: net.train_step(x, y, optimizer),
        lambda: fnn.dense_backward(out, x, w, need_dx=False, dweight=dweight, dbias=dbias), lambda: net.fit(x, y),
        lambda: product[FLOAT32](x, w, None, out),
    ]
    failed = 0
    for function in calls:
        limited(0)
        try:
            function()
        except MemoryError:
            failed += 1
        limited(-1)
    assert failed == len(calls)
    assert [a.tobytes() for a in net.state_dict().values()] == before
    for function in calls:
        function()


@pytest.mark.skipif(SANITIZED, reason="a sanitizer ends the process where it has no memory itself")
def test_no_memory_for_the_first_product() -> None:
    done = run_alone(first_products_without_memory)
    assert done.returncode == 0, done.stderr[-3000:]


# ---- sizes beyond 2^31

BEYOND = 2**31 + 4096
PIECE = 2**22           # bytes: a multiple of every row below


def repeated(shape: tuple[int, ...], piece: Array) -> Array:
    """An array of this shape that is `piece` again and again: the same memory, mapped at one address behind the other."""
    size = int(np.prod(shape)) * piece.itemsize
    assert piece.nbytes % mmap.PAGESIZE == 0
    file = os.memfd_create("piece")
    os.write(file, piece.tobytes())
    room = -(-size // piece.nbytes) * piece.nbytes
    # private, no access, no reserve: only addresses; then shared, at just this address
    base = LIBC.mmap(None, room, 0, 0x4022, -1, 0)
    if base == ctypes.c_void_p(-1).value:
        os.close(file)
        pytest.skip("not enough addresses")
    try:
        for at in range(0, room, piece.nbytes):
            assert LIBC.mmap(base + at, piece.nbytes, 3, 0x11, file, 0) == base + at
    finally:
        os.close(file)
    # (the addresses stay taken until the process ends)
    memory = (ctypes.c_char * size).from_address(base)
    return np.frombuffer(memory, piece.dtype).reshape(shape)


def beyond(name: str) -> None:
    """One function on arrays of more than 2^31 numbers; what it gives is that of a piece, repeated."""
    rng = np.random.default_rng(0)
    d = 1024
    n = BEYOND // d + 1
    piece_rows = PIECE // (4 * d)

    def large(piece: Array, rows: int = n) -> Array:
        assert piece.size == PIECE // piece.itemsize
        return repeated((rows, d), piece)

    x = normal(rng, FLOAT32, piece_rows, d)
    z = normal(rng, FLOAT32, piece_rows, d)
    out = np.zeros((piece_rows, d), np.float32)
    whole = -(-n // piece_rows)

    def assert_repeated(result: Array, piece: Array) -> None:
        assert result.shape[0] == n
        for first in (0, n // 2 // piece_rows * piece_rows, (n // piece_rows - 1) * piece_rows):
            assert_same_bits(np.array(result[first:first + piece_rows]), piece, first)

    if name.startswith("activation"):
        f, args = getattr(fnn, name), ([large(x)] if name.endswith("forward") else [large(z), large(x)])
        target = {"out" if name.endswith("forward") else "dx": large(out)}
        assert_repeated(f(*args, "relu", **target), f(*([x] if len(args) == 1 else [z, x]), "relu"))
    elif name == "dense_forward":
        weight, bias = normal(rng, FLOAT32, d, 1), normal(rng, FLOAT32, 1)
        result = fnn.dense_forward(large(x), weight, bias)
        assert_repeated(result, fnn.dense_forward(x, weight, bias))
        # one column; repeated, too, since the threads write the same memory in any order
        weight, column = normal(rng, FLOAT32, 1, d), normal(rng, FLOAT32, piece_rows, 1)
        result = fnn.dense_forward(np.tile(column, (whole, 1))[:n], weight, out=large(out))
        assert_repeated(result, column * weight)
    elif name == "dense_backward":
        narrow = np.ones((n, 1), np.float32)
        _, dweight, dbias = fnn.dense_backward(narrow, large(x), np.ones((d, 1), np.float32), need_dx=False)
        counts = np.full(piece_rows, n // piece_rows) + (np.arange(piece_rows) < n % piece_rows)
        np.testing.assert_allclose(dweight[:, 0], counts @ x.astype(float), atol=1e-4 * n, rtol=0)
        assert dbias[0] == np.float32(n)
        _, dweight, dbias = fnn.dense_backward(large(x), narrow, np.ones((1, d), np.float32), need_dx=False)
        np.testing.assert_allclose(dbias, counts @ x.astype(float), rtol=1e-5, atol=1e-3)
    elif name.startswith("batchnorm"):
        # a whole number of pieces
        rows = whole * piece_rows
        gamma, beta = normal(rng, FLOAT32, d), normal(rng, FLOAT32, d)
        mean, rstd = x.mean(0, dtype=float), 1 / np.sqrt(x.var(0, dtype=float) + 1e-5)
        if name == "batchnorm_forward":
            result, m, r = fnn.batchnorm_forward(large(x, rows), gamma, beta, out=large(out, rows))
            np.testing.assert_allclose(m, mean, atol=1e-9)
            np.testing.assert_allclose(r, rstd, rtol=1e-9)
            np.testing.assert_allclose(result[rows - piece_rows:], fnn.batchnorm_forward(x, gamma, beta)[0], atol=1e-5)
        elif name == "batchnorm_backward":
            dx, dgamma, dbeta = fnn.batchnorm_backward(large(z, rows), large(x, rows), gamma, mean, rstd, dx=large(out, rows))
            one = fnn.batchnorm_backward(z, x, gamma, mean, rstd)
            np.testing.assert_allclose(dx[rows - piece_rows:], one[0], atol=1e-5)
            np.testing.assert_allclose(dgamma, one[1] * whole, rtol=1e-4, atol=1)
            np.testing.assert_allclose(dbeta, one[2] * whole, rtol=1e-4, atol=1)
        else:
            var = np.ones(d, np.float32)
            assert_repeated(fnn.batchnorm_inference(large(x), gamma, beta, z[0], var, out=large(out)),
                            fnn.batchnorm_inference(x, gamma, beta, z[0], var))
    elif name == "softmax_cross_entropy":
        labels = rng.integers(0, d, piece_rows)
        loss, dlogits = fnn.softmax_cross_entropy(large(x), np.tile(labels, whole)[:n], dlogits=large(out))
        one, expected = fnn.softmax_cross_entropy(x, labels)
        assert abs(loss - one) < 1e-3
        np.testing.assert_allclose(dlogits[:piece_rows], expected * (piece_rows / n), rtol=1e-5, atol=0)
    elif name in ("sigmoid_cross_entropy", "mean_squared_error"):
        targets = rng.random((piece_rows, d)).astype(np.float32)
        loss, gradient = getattr(fnn, name)(large(x), large(targets), **{"dlogits" if name[0] == "s" else "dpred": large(out)})
        one, expected = getattr(fnn, name)(x, targets)
        assert abs(loss - one) < 1e-5
        np.testing.assert_allclose(gradient[:piece_rows], expected * (piece_rows / n), rtol=1e-5, atol=1e-30)
    else:
        # in place: with a gradient of zero and empty moments the same memory may be passed over again and again
        param, (grad, *moments) = large(x), (large(np.zeros_like(x)) for _ in range(3))
        if name == "sgd_update":
            fnn.sgd_update(param, grad, moments[0], lr=0.1, momentum=0.5)
        else:
            fnn.adam_update(param, grad, *moments, lr=0.1, step=1)
        assert_repeated(param, x)


def on_this_machine(needed: int) -> None:
    with open("/proc/meminfo") as file:
        available = next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable"))
    if available < 2 * needed:
        pytest.skip(f"needs {needed / 1e9:.0f} GB of memory, and as much again left over")


@pytest.mark.slow
@every_op
def test_more_than_2_31_numbers(name: str) -> None:
    on_this_machine(10**9)
    done = run_alone(beyond, 1200, arguments=repr(name))
    assert done.returncode == 0, done.stderr[-3000:]


def network_beyond() -> None:
    """x of more than 2^31 bytes, of which the system keeps one page: it is zero, but for the last row."""
    n, d = 2**31 // 1024 + 3, 1024
    x, y = np.zeros((n, d), np.uint8), np.zeros(n, np.uint8)
    x[-1] = 200
    y[-1] = 1
    net = fnn.Sequential([fnn.Dense(d, 2)], seed=0)
    net.fit(x, y, batch_size=1000, optimizer=fnn.SGD(lr=1e-3))
    assert net.predict(x[-1:])[0] == 1
    labels = net.predict(x)
    assert labels[-1] == 1 and not labels[:-1].any()
    assert net.evaluate(x, y)["accuracy"] == 1


def buffers_beyond() -> None:
    """One batch whose buffers take more than 2^31 bytes."""
    n, d = 2**31 // 256 + 1, 48
    x, y = np.ones((n, d), np.uint8), np.zeros((n, 1), np.float32)
    x[-1] = 7
    net = fnn.Sequential([fnn.Dense(d, 1, init="zeros")], loss="mean_squared_error", seed=0)
    net.layers[0].weight[...] = 0.5
    out = net.forward(x, training=True)
    assert out[0, 0] == d / 2 and out[-1, 0] == 7 * d / 2 and (out[:-1] == d / 2).all()
    loss, gradients = net.loss_and_gradients(x, y)
    assert abs(loss / (d / 2) ** 2 - 1) < 1e-3
    assert abs(gradients["0.bias"][0] / d - 1) < 1e-3


@pytest.mark.slow
@pytest.mark.parametrize(("function", "gigabytes"), [(network_beyond, 1), (buffers_beyond, 5)])
def test_a_network_beyond_2_31(function: Callable[[], None], gigabytes: int) -> None:
    on_this_machine(gigabytes * 10**9)
    done = run_alone(function, 1200)
    assert done.returncode == 0, done.stderr[-3000:]


def library_beyond() -> None:
    """A CBLAS with integers of 4 bytes is not given a number that is larger; the own product works instead."""
    seen: list[tuple[int, ...]] = []

    def function(of: Any) -> Any:
        return ctypes.CFUNCTYPE(
            None, *[ctypes.c_int] * 6, of, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p, ctypes.c_int, of, ctypes.c_void_p,
            ctypes.c_int)(lambda *args: seen.append((*args[3:6], args[8], args[10], args[13])))

    single, double = function(ctypes.c_float), function(ctypes.c_double)
    gemm.use_blas(*(ctypes.cast(f, ctypes.c_void_p).value for f in (single, double)), 4)
    for dtype in DTYPES:
        m, k, n = 2, 4096, 300
        b, c = np.ones((k, n), dtype), np.zeros((m, n), dtype)
        for stride in (2**31 - 1, 2**31):
            size = (stride + k) * dtype.itemsize
            memory = mmap.mmap(-1, size, flags=0x4022)        # private, anonymous, no reserve
            a = np.lib.stride_tricks.as_strided(
                np.frombuffer(memory, dtype, count=1), (m, k), (stride * dtype.itemsize, dtype.itemsize))
            a[...] = [[1], [2]]
            seen.clear()
            product[dtype](a, b, None, c)
            if stride < 2**31:
                assert seen == [(m, n, k, stride, n, n)]
                assert not c.any()
            else:
                assert not seen
                assert (c == [[k], [2 * k]]).all()


def test_a_library_gets_no_number_beyond_its_integers() -> None:
    done = run_alone(library_beyond)
    assert done.returncode == 0, done.stderr[-3000:]


# ---- tools

@pytest.mark.skipif(not SANITIZED, reason="only under sanitizers, see tests/sanitize.py")
@pytest.mark.parametrize(("fault", "words"), [
    ("read_behind(np.zeros(5, np.float32))", "heap-buffer-overflow"),
    ("write_before(np.zeros(5, np.float32))", "heap-buffer-overflow"),
    ("overflow(2**31 - 1)", "signed integer overflow"),
    ("shift(1, 40)", "shift exponent"),
    ("misaligned(np.zeros(50, np.uint8), 3)", "misaligned address"),
    ("panel_too_long()", "heap-buffer-overflow"),
])
def test_the_sanitizers_see_faults(fault: str, words: str) -> None:
    code = f"import numpy as np; from fastnn._kernels import faults; faults.{fault}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode != 0 and words in done.stderr, done.stderr


SMOKE = """
import numpy as np
import fastnn as fnn

rng = np.random.default_rng(0)
fnn.set_num_threads(1)
for dtype in (np.float32, np.float64):
    for n, d in ((3, 1), (13, 17), (33, 70)):
        x, w, b = (rng.standard_normal(shape).astype(dtype) for shape in ((n, d), (d, d + 2), d + 2))
        out = fnn.dense_forward(x, w, b)
        fnn.dense_backward(out, x, w)
        out, mean, rstd = fnn.batchnorm_forward(x, x[0], x[1])
        fnn.batchnorm_backward(x, x, x[0], mean, rstd)
        fnn.batchnorm_inference(x, x[0], x[1], x[2], x[0] ** 2)
        for kind in fnn.activation.KINDS:
            fnn.activation_backward(x, fnn.activation_forward(x, kind), kind)
        fnn.softmax_cross_entropy(x, rng.integers(0, d, n))
        fnn.sigmoid_cross_entropy(x, abs(np.sin(x)))
        fnn.mean_squared_error(x, out)
        fnn.sgd_update(out, x, np.zeros_like(x), lr=0.1, momentum=0.9)
        fnn.adam_update(out, x, np.zeros_like(x), np.zeros_like(x), lr=0.1, step=1)
    for optimizer in (
        fnn.SGD(lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1), fnn.SGD(lr=0.1, clip_norm=0.1), fnn.AdamW(),
    ):
        net = fnn.Sequential([
            fnn.Dense(5, 17, bias=False), fnn.BatchNorm(17), fnn.ReLU(), fnn.Dropout(0.2), fnn.Dense(17, 9), fnn.ELU(),
            fnn.Dense(9, 3)], dtype=dtype, seed=0)
        for kind in ("f4", "f8", "u1", ">i2"):
            x, y = (9 * rng.random((21, 5))).astype(kind), rng.integers(0, 3, 21).astype("u1")
            net.fit(x, y, batch_size=8, optimizer=optimizer)
            net.evaluate(x, y), net.predict_proba(x), net.loss_and_gradients(x, y)
        try:
            net.train_step(np.full((4, 5), np.nan), y[:4], optimizer)
        except fnn.DivergedError:
            pass
"""
UNINITIALISED = """
import numpy as np
import fastnn as fnn
fnn.Sequential([fnn.Dense(500, 2)], seed=0).fit(np.empty((40, 500), np.float32), np.zeros(40, int), check_finite=True)
"""


def under_valgrind(code: str, folder: Path) -> list[str]:
    """The errors that have a function of fastnn among their callers, and memory that nothing points to."""
    report = folder / "report.xml"
    command = ["valgrind", "--xml=yes", f"--xml-file={report}", "--leak-check=full", "--show-leak-kinds=definite",
               "--num-callers=30", "--error-limit=no", sys.executable, "-c", code]
    environment = os.environ | {"PYTHONMALLOC": "malloc", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1800)
    assert report.stat().st_size, done.stderr
    errors = ElementTree.parse(report).getroot().findall("error")
    assert done.returncode == 0 or errors, done.stderr
    # frames of Python itself and NumPy are theirs; an import calls functions of fastnn that keep what they allocate
    found = []
    for error in errors:
        frames = [f"{f.findtext('obj')} {f.findtext('fn')}" for f in error.iter("frame")]
        if any("/fastnn/_kernels/" in frame for frame in frames):
            found.append("\n".join([error.findtext("kind") or "", *frames]))
    return found


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("valgrind") is None or SANITIZED, reason="no valgrind")
def test_valgrind_finds_nothing(tmp_path: Path) -> None:
    unwritten = under_valgrind(UNINITIALISED, tmp_path)
    assert any(text.startswith("Uninit") for text in unwritten), "numbers that were never written are not noticed"
    found = under_valgrind(SMOKE, tmp_path)
    assert not found, "\n\n".join(found)
