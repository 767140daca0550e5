"""What a network is given as it stands: arrays of any number type and layout, converted row by row while it trains."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import DTYPES, LAYOUTS, assert_same_bits

import fastnn as fnn

Array = np.ndarray

INTEGERS = ["i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"]
NUMBERS = ["?", *INTEGERS, "f4", "f8"]
WIDE = 1100         # columns of more than two of the runs of 512 in which an unusual layout is straightened


def numbers(dtype: str, rows: int, columns: int) -> Array:
    """All over the range of an integer dtype, its ends included; of several magnitudes for floats."""
    rng = np.random.default_rng(11)
    if dtype == "?":
        return rng.random((rows, columns)) < 0.5
    if dtype in ("f4", "f8"):
        a = rng.normal(size=(rows, columns)) * 10.0 ** rng.integers(-3, 4, (rows, columns))
        a.flat[:4] = 0.0, -0.0, 1e-42, 16777217.0
        return a.astype(dtype)
    info = np.iinfo(dtype)
    a = rng.integers(info.min, info.max, (rows, columns), dtype, endpoint=True)
    a.flat[:4] = info.min, info.max, info.max - 1, 1
    a.flat[4:8] = np.clip([2**24 + 1, 2**53 + 1, 2**62 + 2**38 + 1, -(2**62 + 2**38 + 1)], info.min, info.max).astype(dtype)
    return a


def mapped(a: Array, folder: Path) -> Array:
    a.tofile(folder / "data")
    return np.memmap(folder / "data", a.dtype, "r", shape=a.shape)


def row_of_another(a: Array) -> Array:
    """Rows at an odd distance, not aligned."""
    memory = np.zeros((len(a), a.shape[1] * a.itemsize + 3), np.uint8)
    part = memory[:, 3:].view(np.dtype([("row", a.dtype, a.shape[1:])]))["row"][:, 0]
    part[...] = a
    return part


def every_layout(a: Array, folder: Path) -> dict[str, Array]:
    layouts = {name: lay(a) for name, lay in LAYOUTS.items()}
    return layouts | {
        "plain": a, "memmap": mapped(a, folder), "columns reversed": np.ascontiguousarray(a[:, ::-1])[:, ::-1],
        "one column": np.broadcast_to(a[:, :1], a.shape), "one number": np.broadcast_to(a[1, 1], a.shape),
        "swapped and strided": LAYOUTS["strided"](LAYOUTS["byte-swapped"](a)),
        "swapped and misaligned": LAYOUTS["misaligned"](LAYOUTS["byte-swapped"](a)), "odd rows": row_of_another(a),
        "a part of the columns": np.hstack([a[:, :1], a, a])[:, 1:a.shape[1] + 1],
    }


def state(net: fnn.Sequential) -> list[Array]:
    return list(net.state_dict().values())


def passing(width: int, dtype: Any) -> fnn.Sequential:
    layers = [fnn.Dense(width, width, bias=False, init=np.eye(width))]
    return fnn.Sequential(layers, loss="mean_squared_error", dtype=dtype)


# ----------------------------------------------------------------------------------------------------- conversion itself

@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", NUMBERS)
def test_a_number_is_converted_as_numpy_does(kind: str, dtype: np.dtype[Any], tmp_path: Path) -> None:
    a = numbers(kind, 9, 11)
    net = passing(11, dtype)
    for name, given in every_layout(a, tmp_path).items():
        # the product adds zeros, which turn -0 into 0
        expected = given.astype(dtype) + dtype.type(0)
        for training in (False, True):
            assert_same_bits(net.forward(given, training=training), expected, (name, training))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", ["u1", "i8", "f4", "f8"])
def test_long_rows_are_converted_like_short_ones(kind: str, dtype: np.dtype[Any], tmp_path: Path) -> None:
    a = numbers(kind, 3, WIDE)
    select = np.zeros((WIDE, 8))
    picked = [0, 1, 511, 512, 513, 1023, 1024, WIDE - 1]
    select[picked, np.arange(8)] = 1
    net = fnn.Sequential([fnn.Dense(WIDE, 8, bias=False, init=select)], loss="mean_squared_error", dtype=dtype)
    for name, given in every_layout(a, tmp_path).items():
        expected = given[:, picked].astype(dtype) + dtype.type(0)
        for training in (False, True):
            assert_same_bits(net.forward(given, training=training), expected, (name, training))


# --------------------------------------------------------------------------------------------------------------- training

def trained(x: Array, y: Array, dtype: Any, *, loss: str, shuffle: bool) -> list[Any]:
    """Everything that a network learns; batch norm takes numbers of any magnitude."""
    net = fnn.Sequential([fnn.BatchNorm(x.shape[1]), fnn.Dense(x.shape[1], 6), fnn.Tanh(), fnn.Dense(6, 3)],
                         loss=loss, dtype=dtype, seed=0)
    history = net.fit(x, y, epochs=2, batch_size=7, optimizer=fnn.SGD(lr=0.01, momentum=0.9), shuffle=shuffle)
    losses = [*history.loss, net.train_step(x, y, fnn.SGD(lr=0.01)), net.loss_and_gradients(x, y)[0]]
    return [*state(net), *map(np.float64, losses), net.predict(x)]


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", NUMBERS)
def test_any_array_trains_like_its_conversion(kind: str, dtype: np.dtype[Any], shuffle: bool, tmp_path: Path) -> None:
    a, labels = numbers(kind, 17, 5), np.arange(17) % 3
    options: dict[str, Any] = {"loss": "softmax_cross_entropy", "shuffle": shuffle}
    for name, given in every_layout(a, tmp_path).items():
        kept = given.tobytes()
        converted = np.ascontiguousarray(given.astype(dtype))
        expected = trained(converted, labels, dtype, **options)
        assert_same_bits(trained(given, labels, dtype, **options), expected, name)
        assert given.tobytes() == kept, name


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", NUMBERS)
def test_any_targets_train_like_their_conversion(kind: str, dtype: np.dtype[Any], tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(17, 5)).astype(dtype)
    targets = {"mean_squared_error": numbers(kind, 17, 3) % 100 if kind != "?" else numbers(kind, 17, 3)}
    if kind != "?":
        targets["sigmoid_cross_entropy"] = (abs(targets["mean_squared_error"]) / 100).astype(kind)
    for loss, a in targets.items():
        for name, given in every_layout(a, tmp_path).items():
            converted = np.ascontiguousarray(given.astype(dtype))
            expected = trained(x, converted, dtype, loss=loss, shuffle=True)
            assert_same_bits(trained(x, given, dtype, loss=loss, shuffle=True), expected, (loss, name))


@pytest.mark.parametrize("kind", INTEGERS)
def test_any_labels_train_like_int64(kind: str, tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(17, 5))
    labels = (np.arange(17) * 5 % 3).astype(kind)
    layouts = {name: lay(labels) for name, lay in LAYOUTS.items()} | {"memmap": mapped(labels, tmp_path), "plain": labels}
    for name, given in layouts.items():
        expected = trained(x, given.astype(np.int64), "float64", loss="softmax_cross_entropy", shuffle=True)
        assert_same_bits(trained(x, given, "float64", loss="softmax_cross_entropy", shuffle=True), expected, name)


@pytest.mark.parametrize("stride", [0, 1, 3, -2])
def test_a_single_column_has_any_stride(stride: int) -> None:
    memory = np.arange(1.0, 120.0)
    given = np.lib.stride_tricks.as_strided(memory[50:], (20, 1), (stride * 8, 7 * 8), writeable=False)
    results = []
    for x in (given, given.copy()):
        net = fnn.Sequential([fnn.Dense(1, 2)], seed=0)
        net.fit(x, np.arange(20) % 2, batch_size=4, optimizer=fnn.SGD(lr=1e-3))
        results.append([*state(net), net.predict_proba(x)])
    assert_same_bits(*results, stride)


# ------------------------------------------------------------------------------------------------------------ not finite

@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [3.5e38, -1e39, 1e308, np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("layout", ["plain", "fortran", "byte-swapped", "misaligned"])
def test_what_float32_cannot_hold_is_not_finite(layout: str, value: float) -> None:
    x, y = np.random.default_rng(0).normal(size=(30, WIDE)), np.arange(30) % 2
    x[13, 1050] = value
    given = LAYOUTS.get(layout, np.array)(x)
    got = value if not np.isfinite(value) else np.copysign(np.inf, value)
    for dtype in DTYPES:
        net = fnn.Sequential([fnn.Dense(WIDE, 2)], dtype=dtype, seed=0)
        if dtype == np.float64 and np.isfinite(value):
            net.fit(given, y, batch_size=5, optimizer=fnn.SGD(lr=0.0), shuffle=False)
            continue
        with pytest.raises(ValueError, match=rf"^x: expected finite numbers, got {got} at row 13, column 1050 at step 2 of "):
            net.fit(given, y, batch_size=5, shuffle=False)


def test_the_largest_numbers_are_finite() -> None:
    for dtype in DTYPES:
        largest = np.finfo(dtype).max
        x = np.full((4, 3), largest)
        x[::2] = -largest
        net = fnn.Sequential([fnn.Dense(3, 2, init="zeros")], dtype=dtype)
        net.fit(x, np.arange(4) % 2, optimizer=fnn.SGD(lr=0.0))
    # rounded to the nearest, this is the largest float32; half a place higher it is infinite
    edge = float(np.finfo(np.float32).max) * (1 + 2.0**-26)
    net = fnn.Sequential([fnn.Dense(1, 2, init="zeros")], dtype="float32")
    net.fit(np.full((2, 1), edge), np.arange(2), optimizer=fnn.SGD(lr=0.0))


@pytest.mark.parametrize("label", [2**63, 2**63 + 1, 2**64 - 1, 2**64 - 3, 2**32, 3])
def test_labels_beyond_the_classes_of_uint64(label: int) -> None:
    x, y = np.zeros((20, 5)), np.zeros(20, np.uint64)
    y[11] = label
    for given in (y, y.astype(">u8"), LAYOUTS["strided"](y), LAYOUTS["misaligned"](y)):
        net = fnn.Sequential([fnn.Dense(5, 3)], seed=0)
        before = state(net)
        for call in (net.fit, net.evaluate, net.loss_and_gradients, lambda x, y, net=net: net.train_step(x, y, fnn.SGD())):
            with pytest.raises(ValueError, match=rf"^y: expected labels in \[0, 3\), got {label} at index 11"):
                call(x, given)
        assert_same_bits(state(net), before, "the network")


# -------------------------------------------------------------------------------------------- data that change meanwhile

def fitted_until(
    spoil: Callable[[Array, Array], None], loss: str = "softmax_cross_entropy",
) -> tuple[ValueError, fnn.Sequential, list[Array]]:
    """A network in training whose data are spoilt: the error, the network and what a twin has come to until then."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 5))
    y = rng.integers(0, 3, 40) if loss == "softmax_cross_entropy" else rng.random((40, 3))
    good = x.copy(), y.copy()
    optimizer = fnn.SGD(lr=1e-6, momentum=0.9)
    nets = [fnn.Sequential([fnn.Dense(5, 8), fnn.BatchNorm(8), fnn.ELU(), fnn.Dropout(0.2), fnn.Dense(8, 3)],
                           loss=loss, dtype="float64", seed=0) for _ in range(2)]
    net, twin = nets
    before = net.layers[0].weight.copy()
    caught: list[ValueError] = []

    def train() -> None:
        try:
            net.fit(x, y, epochs=10**8, batch_size=10, optimizer=optimizer, shuffle=False)
        except ValueError as error:
            caught.append(error)

    thread = threading.Thread(target=train, daemon=True)
    thread.start()
    end = time.monotonic() + 20
    while (net.layers[0].weight == before).all() and time.monotonic() < end:
        time.sleep(1e-3)
    spoil(x, y)
    thread.join(30)
    assert not thread.is_alive() and caught
    place = re.search(r" at step (\d+) of epoch (\d+); the parameters after the steps before it are kept\.$", str(caught[0]))
    assert place, caught
    step, epoch = int(place[1]), int(place[2])
    twin.fit(*good, epochs=epoch - 1, batch_size=10, optimizer=optimizer, shuffle=False)
    for start in range(0, 10 * step, 10):
        twin.train_step(good[0][start:start + 10], good[1][start:start + 10], optimizer)
    return caught[0], net, state(twin)


@pytest.mark.parametrize("label", [3, -1, 2**62, -(2**63), 255])
def test_a_label_that_goes_bad_ends_the_training(label: int) -> None:
    def spoil(x: Array, y: Array) -> None:
        y[27] = label

    error, net, expected = fitted_until(spoil)
    assert str(error).startswith(f"y: expected labels in [0, 3), got {label} at row 27 at step 2 of epoch ")
    assert_same_bits(state(net), expected, "the steps before")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_target_that_goes_bad_ends_the_training(value: float) -> None:
    def spoil(x: Array, y: Array) -> None:
        y[15, 1] = value

    for loss in ("sigmoid_cross_entropy", "mean_squared_error"):
        error, net, expected = fitted_until(spoil, loss)
        assert str(error).startswith(f"y: expected finite numbers, got {value} at row 15, column 1 at step 1 of epoch ")
        assert_same_bits(state(net), expected, "the steps before")


def test_a_number_that_goes_bad_ends_the_training() -> None:
    def spoil(x: Array, y: Array) -> None:
        x[9, 4] = -np.inf

    error, net, expected = fitted_until(spoil)
    assert str(error).startswith("x: expected finite numbers, got -inf at row 9, column 4 at step 0 of epoch ")
    assert_same_bits(state(net), expected, "the steps before")


HAMMER = """
import threading
import numpy as np
import fastnn as fnn

rng = np.random.default_rng(0)
x, labels = rng.normal(size=(400, 6)), rng.integers(0, 4, 400)
targets = rng.random((400, 4))
stop = threading.Event()

def spoil(y, good):
    numbers = [-1, 2**62, -(2**63), 4, 10**9] if y.dtype.kind == "i" else [np.nan, np.inf, -1e308, 1e308]
    rng = np.random.default_rng(1)
    while not stop.is_set():
        y[rng.integers(400, size=9)] = rng.choice(numbers)
        y[...] = good

ends = 0
for loss, good in (("softmax_cross_entropy", labels), ("sigmoid_cross_entropy", targets), ("mean_squared_error", targets)):
    for dtype in ("float32", "float64"):
        y = good.copy()
        layers = [fnn.Dense(6, 20), fnn.BatchNorm(20), fnn.ReLU(), fnn.Dense(20, 4)]
        net = fnn.Sequential(layers, loss=loss, dtype=dtype, seed=0)
        start = net.state_dict()

        def train():
            global ends
            try:
                net.fit(x, y, epochs=10**8, batch_size=16, optimizer=fnn.SGD(lr=1e-3, momentum=0.5))
            except (ValueError, fnn.DivergedError):
                ends += 1

        trainer = threading.Thread(target=train)
        trainer.start()
        while (net.layers[0].weight == start["0.weight"]).all() and trainer.is_alive():
            pass
        stop.clear()
        spoilers = [threading.Thread(target=spoil, args=(y, good)) for _ in range(2)]
        for thread in spoilers:
            thread.start()
        trainer.join()
        stop.set()
        for thread in spoilers:
            thread.join()
        assert all(np.isfinite(a).all() for a in net.state_dict().values())
        y[...] = good
        net.load_state_dict(start)
        net.fit(x, y, optimizer=fnn.SGD(lr=1e-3))
print(ends)
"""


def test_data_that_another_thread_writes_cannot_crash() -> None:
    done = subprocess.run([sys.executable, "-c", HAMMER], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == ["6"]
