"""Rows from files: `fastnn.data`."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import assert_refused, threads_left

import fastnn as fnn
from fastnn import callbacks, data, schedules
from fastnn.data import Shards

pytestmark = pytest.mark.usefixtures("counted")

N, I, K = 1000, 7, 3    # noqa: E741


def rows(rng: np.random.Generator, dtype: Any = np.float32, n: int = N) -> np.ndarray:
    return (rng.normal(0, 40, (n, I)).clip(0, 255) if np.dtype(dtype).kind == "u" else rng.normal(0, 2, (n, I))).astype(dtype)


def network(loss: str = "softmax_cross_entropy", seed: int = 0, **options: Any) -> fnn.Sequential:
    return fnn.Sequential(
        [fnn.Dense(I, 9, bias=False), fnn.BatchNorm(9), fnn.Tanh(), fnn.Dropout(0.2), fnn.Dense(9, K)],
        loss=loss, seed=seed, **options)


def optimizer() -> fnn.SGD:
    return fnn.SGD(schedules.LinearDecay(0.05, 100), momentum=0.9)


def same(a: fnn.Sequential, b: fnn.Sequential) -> None:
    for (name, x), y in zip(a.state_dict().items(), b.state_dict().values(), strict=True):
        assert x.tobytes() == y.tobytes(), name
    assert a._rng.bit_generator.state == b._rng.bit_generator.state


@pytest.fixture
def shards(rng: np.random.Generator, tmp_path: Path) -> Shards:
    """Files of 170 rows, windows of 150, blocks of 2."""
    x = rows(rng)
    return Shards.write(tmp_path, x, rng.integers(0, K, N), rows=170, window=150 * x[0].nbytes)


def whole(shards: Shards) -> tuple[np.ndarray, np.ndarray]:
    assert shards.targets is not None
    x, y = ([np.load(file.path) for file in files] for files in (shards.files, shards.targets))
    return np.concatenate(x), np.concatenate(y)


# ---- the same as arrays

@pytest.mark.parametrize("dtype", ["f4", "f8", ">f4", "u1", "i2", ">i8", "u8", "?"])
def test_without_shuffling_the_bits_are_those_of_the_array(rng, tmp_path, dtype):
    x, y = rows(rng, dtype), rng.integers(0, K, N).astype(np.uint8)
    shards = Shards.write(tmp_path, x, y, rows=300, window=97 * x[0].nbytes)
    one, other = network(), network()
    of_array = one.fit(x, y, epochs=2, batch_size=30, shuffle=False, optimizer=optimizer(), validation_data=(x, y))
    of_files = other.fit(shards, epochs=2, batch_size=30, shuffle=False, optimizer=optimizer(), validation_data=shards)
    same(one, other)
    for a, b in zip(of_array.epochs, of_files.epochs, strict=True):
        assert a["loss"] == b["loss"] and a["val_accuracy"] == b["val_accuracy"]
        assert a["val_loss"] == pytest.approx(b["val_loss"], rel=1e-12)
    assert np.array_equal(other.predict(shards), other.predict(x))
    assert np.array_equal(other.predict_proba(shards), other.predict_proba(x))
    assert other.evaluate(shards)["accuracy"] == other.evaluate(x, y)["accuracy"]


@pytest.mark.parametrize("batch_size", [1000, 400, 149, 150, 151, 4])
@pytest.mark.parametrize("last_batch", ["merge", "keep", "drop"])
def test_batches_that_windows_cut(shards, batch_size, last_batch):
    x, y = whole(shards)
    options = {"batch_size": batch_size, "last_batch": last_batch, "shuffle": False}
    one, other = network(), network()
    a, b = one.fit(x, y, optimizer=optimizer(), **options), other.fit(shards, optimizer=optimizer(), **options)
    same(one, other)
    assert a.loss == b.loss


@pytest.mark.parametrize("loss", ["sigmoid_cross_entropy", "mean_squared_error"])
def test_other_targets(rng, tmp_path, loss):
    x, y = rows(rng), rng.uniform(size=(N, K)).astype(np.float32)
    shards = Shards.write(tmp_path, x, y, rows=128, window=4000)
    one, other = network(loss), network(loss)
    one.fit(x, y, shuffle=False)
    other.fit(shards, shuffle=False)
    same(one, other)
    assert one.evaluate(x, y) == pytest.approx(other.evaluate(shards), rel=1e-12)


def test_weights(rng, shards):
    x, y = whole(shards)
    weights = rng.uniform(0, 2, N)
    for options in (
        {"sample_weight": weights}, {"class_weight": "balanced"}, {"class_weight": {1: 3.0}, "sample_weight": weights},
    ):
        one, other = network(), network()
        a = one.fit(x, y, shuffle=False, batch_size=64, **options)
        b = other.fit(shards, shuffle=False, batch_size=64, **options)
        same(one, other)
        assert a.loss == pytest.approx(b.loss, rel=1e-12)


# ---- the shuffle

def order(shards: Shards, seed: int, batch_size: int = 10) -> np.ndarray:
    """The numbers of the rows in the order of an epoch."""
    x = np.arange(len(shards))
    starts = np.append(np.arange(0, len(shards), batch_size), len(shards))
    taken = []
    with shards.pieces(starts, np.random.default_rng(seed), lambda ids, y: ids.astype(float), lambda y: y) as pieces:
        for piece in pieces:
            used = piece.weights[piece.orders[0, :starts[piece.steps] - piece.origin]]
            assert np.array_equal(piece.x[:, 0], used[np.argsort(piece.orders[0, :len(used)])]) or len(used) < len(piece.x)
            taken.append(used)
    found = np.concatenate(taken).astype(int)
    assert np.array_equal(np.sort(found), x)
    return found


def test_each_epoch_has_every_row_once_in_an_order_of_its_own(tmp_path):
    x = np.repeat(np.arange(3000.0)[:, None], I, axis=1)
    shards = Shards.write(tmp_path, x, np.arange(3000), rows=1000, window=640 * x[0].nbytes)
    orders = [order(shards, seed) for seed in range(20)]
    assert not np.array_equal(orders[0], orders[1]) and np.array_equal(orders[0], order(shards, 0))
    # the first window is of 64 blocks from all over the data: its mean is close to that of all
    means = [found[:640].mean() for found in orders]
    assert np.std(means) < 2 * 3000 / 12**0.5 / 64**0.5
    # within a window neighbours are not neighbours any more
    assert max(np.mean(np.abs(np.diff(found)) == 1) for found in orders) < 0.05
    # every place of the epoch gets rows from everywhere
    assert abs(np.corrcoef(np.concatenate(orders), np.tile(np.arange(3000), 20))[0, 1]) < 0.05


def test_shuffled_training_is_repeatable_and_goes_on_after_saving(shards, tmp_path):
    one, other = network(), network()
    one.fit(shards, epochs=4, optimizer=optimizer())
    with fnn.num_threads(1):
        other.fit(shards, epochs=2, optimizer=optimizer())
    other.save(tmp_path / "net")
    other = fnn.load(tmp_path / "net")
    other.fit(shards, epochs=2)
    same(one, other)
    assert one.evaluate(shards)["loss"] < network().evaluate(shards)["loss"]


# ---- stopping and failing

def test_callbacks(shards):
    seen: list[tuple[int, int]] = []

    class Look(callbacks.Callback):
        every = 7

        def on_step(self, run: callbacks.Run) -> None:
            seen.append((run.step, run.row))

    net = network()
    net.fit(shards, epochs=2, batch_size=10, callbacks=[Look()])
    assert seen[:2] == [(7, 70), (14, 140)] and seen[14] == (105, 50)
    history = network().fit(shards, batch_size=10, callbacks=[callbacks.MaxSteps(23)])
    assert history.stopped and not threads_left()


@pytest.mark.parametrize("what", ["chunks", "pieces"])
def test_what_nobody_reads_any_more_ends_without_a_line_of_code(shards, what):
    """What the handler of a signal raised in such lines would be lost."""
    lines: list[str] = []

    def look(frame: Any, event: str, argument: Any) -> Any:
        if event == "line" and frame.f_code.co_filename != __file__:
            lines.append(f"{frame.f_code.co_filename}:{frame.f_lineno}")
        return look

    if what == "chunks":
        reading = shards.chunks(10)
    else:
        reading = iter(shards.pieces(np.arange(0, N + 1, 10), None, None, lambda y: y).__enter__())
    next(reading)
    sys.settrace(look)
    try:
        del reading
    finally:
        sys.settrace(None)
    assert not lines and not threads_left()


@pytest.mark.parametrize("shuffle", [False, True])
def test_a_file_that_has_become_shorter(shards, shuffle):
    """It is an error of the file, when its rows come; what has been trained stays."""
    path = shards.files[3].path
    with open(path, "r+b") as file:
        file.truncate(os.path.getsize(path) - 8)
    net = network()
    with pytest.raises(OSError, match=r"x-00003.npy: expected 170 rows"):
        net.fit(shards, batch_size=10, shuffle=shuffle)
    assert (net._step > 0 or shuffle) and not threads_left()
    with pytest.raises(OSError, match=r"x-00003.npy"):
        net.predict(shards)
    os.unlink(path)
    with pytest.raises(FileNotFoundError, match=r"x-00003.npy"):
        net.evaluate(shards)
    assert not threads_left()


def test_bad_rows_are_named(rng, tmp_path):
    x, y = rows(rng), rng.integers(0, K, N)
    x[777, 3] = np.nan
    y[888] = K
    net, shards = network(), Shards.write(tmp_path / "a", x, y, rows=250, window=3000)
    with pytest.raises(
        ValueError, match=r"x: expected finite numbers, got nan at row 27 of .*x-00003.npy, column 3 at step 77 of epoch 1",
    ):
        net.fit(shards, batch_size=10, shuffle=False)
    assert net._step == 77 and not threads_left()
    x[777, 3] = 0
    with pytest.raises(ValueError, match=r"y: expected labels in \[0, 3\), got 3 at row 138 of .*x-00003.npy at step"):
        net.fit(Shards.write(tmp_path / "c", x, y, rows=250, window=3000), batch_size=10)
    shards = Shards.write(tmp_path / "b", x, np.full((N, K), 1.5))
    assert_refused(ValueError, "y", network("sigmoid_cross_entropy").fit, shards)


def test_an_interrupt_ends_the_reader(shards):
    class Interrupt(callbacks.Callback):
        every = 30

        def on_step(self, run: callbacks.Run) -> None:
            raise KeyboardInterrupt

    net = network()
    with pytest.raises(KeyboardInterrupt):
        net.fit(shards, batch_size=10, callbacks=[Interrupt()])
    assert net._step == 30 and not threads_left()
    net.fit(shards)


# ---- files

def npy(path: Path, a: np.ndarray) -> Path:
    np.save(path, a)
    return path


def test_files_that_do_not_fit(rng, tmp_path):
    good = npy(tmp_path / "good.npy", rows(rng))
    labels = npy(tmp_path / "labels.npy", np.zeros(N, int))
    short = npy(tmp_path / "short.npy", rows(rng))
    short.write_bytes(short.read_bytes()[:-1])
    (tmp_path / "text.npy").write_text("no array")
    np.save(tmp_path / "objects.npy", np.array([[None]]), allow_pickle=True)
    wrong = {
        "short": short, "text": tmp_path / "text.npy", "objects": tmp_path / "objects.npy",
        "fortran": npy(tmp_path / "fortran.npy", np.asfortranarray(rows(rng))),
        "empty": npy(tmp_path / "empty.npy", np.zeros((0, I))),
        "complex": npy(tmp_path / "complex.npy", np.zeros((3, I), complex)),
        "half": npy(tmp_path / "half.npy", np.zeros((3, I), "f2")),
        "three": npy(tmp_path / "three.npy", np.zeros((3, I, 2))),
    }
    for name, path in wrong.items():
        with pytest.raises(ValueError, match=rf"^x: expected .*{name}.npy"):
            Shards(path)
    for name, a in {"width": np.zeros((3, I + 1), "f4"), "dtype": np.zeros((3, I))}.items():
        with pytest.raises(ValueError, match=rf"^x: expected .*like those of .*good.npy.*{name}.npy"):
            Shards([good, npy(tmp_path / f"{name}.npy", a)])
    assert_refused(ValueError, "x", Shards, tmp_path / "labels.npy")
    assert_refused(ValueError, "x", Shards, [])
    assert_refused(TypeError, "x", Shards, [3])
    assert_refused(TypeError, "y", Shards, tmp_path, labels)
    assert_refused(ValueError, "y", Shards, good, [labels, labels])
    assert_refused(ValueError, "y", Shards, good, npy(tmp_path / "fewer.npy", np.zeros(N - 1, int)))
    assert_refused(ValueError, "window", Shards, good, window=0)
    with pytest.raises(FileNotFoundError):
        Shards(tmp_path / "none.npy")
    (tmp_path / "folder").mkdir()
    assert_refused(ValueError, "x", Shards, tmp_path / "folder")

    only_x, net = Shards(good), network()
    assert net.predict(only_x).shape == (N,)
    assert_refused(ValueError, "x", net.fit, only_x)
    both = Shards(good, labels)
    assert len(both) == N and both.nbytes == N * I * 4 and repr(both) == "Shards(1 file, 1000 rows of 7 float32)"
    assert_refused(TypeError, "y", net.fit, both, np.zeros(N, int))
    assert_refused(ValueError, "x", fnn.Sequential([fnn.Dense(I + 1, K)]).fit, both)
    assert_refused(ValueError, "x", network("mean_squared_error").fit, both)
    assert_refused(ValueError, "validation_data", net.fit, both, validation_data=only_x)
    assert net._step == 0


def test_writing(rng, tmp_path):
    x = rows(rng)
    shards = Shards.write(tmp_path, x, rows=400)
    assert [file.shape[0] for file in shards.files] == [400, 400, 200] and shards.targets is None
    with pytest.raises(FileExistsError, match="has shards already"):
        Shards.write(tmp_path, x)
    assert_refused(ValueError, "x", Shards.write, tmp_path / "b", x[0])
    assert_refused(ValueError, "y", Shards.write, tmp_path / "b", x, np.zeros(3))
    assert_refused(ValueError, "rows", Shards.write, tmp_path / "b", x, rows=0)
    assert sorted(os.listdir(tmp_path)) == [f"x-0000{i}.npy" for i in range(3)]


# ---- memory

def test_memory_is_that_of_the_windows(tmp_path):
    """100 MB of rows in windows of 4 MB, in a process of its own."""
    code = f"""
import numpy as np, fastnn as fnn
from fastnn.data import Shards
def private():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon")) / 1024
x = np.lib.format.open_memmap(r"{tmp_path}/x-0.npy", "w+", np.uint8, (200_000, 512))
x[:, 0] = np.arange(200_000) % 251
np.save(r"{tmp_path}/y-0.npy", (np.arange(200_000) % 251 > 100).astype(np.uint8))
del x
shards = Shards(r"{tmp_path}", window=4 << 20)
net = fnn.Sequential([fnn.Dense(512, 8), fnn.ReLU(), fnn.Dense(8, 2)], seed=0)
net.fit(np.zeros((256, 512), np.uint8), np.zeros(256, int), batch_size=256)
before = private()
net.fit(shards, batch_size=256, optimizer=fnn.SGD(1e-4))
net.predict(shards)
print(private() - before)
"""
    if not sys.platform.startswith("linux"):
        pytest.skip("reads /proc")
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(found.stdout) < 24


# ---- other formats

def idx(a: np.ndarray) -> bytes:
    code = {"u1": 8, "i1": 9, "i2": 11, "i4": 12, "f4": 13, "f8": 14}[a.dtype.str[1:]]
    return bytes([0, 0, code, a.ndim]) + np.array(a.shape, ">u4").tobytes() + a.astype(a.dtype.newbyteorder(">")).tobytes()


@pytest.mark.parametrize("dtype", ["u1", "i1", "i2", "i4", "f4", "f8"])
def test_idx(rng, tmp_path, dtype):
    a = rng.integers(0, 100, (5, 4, 3)).astype(dtype)
    (tmp_path / "a").write_bytes(idx(a))
    (tmp_path / "a.gz").write_bytes(gzip.compress(idx(a)))
    for name in ("a", "a.gz"):
        found = data.read_idx(tmp_path / name)
        assert found.dtype == a.dtype and found.dtype.isnative and np.array_equal(found, a) and found.flags.writeable


def test_idx_files_that_are_damaged(tmp_path):
    whole = idx(np.arange(24, dtype=np.uint8).reshape(4, 6))
    huge = whole[:4] + np.array([2**31, 2**31], ">u4").tobytes()
    packed = gzip.compress(whole)
    for i, content in enumerate([b"", whole[:3], whole[:6], whole[:-1], whole + b"0", b"1" + whole[1:], b"\0\0\7" + whole[3:],
                                 b"\0\0\x08\0", huge, packed[:-9]]):
        (tmp_path / f"{i}").write_bytes(content)
        assert_refused(ValueError, "path", data.read_idx, tmp_path / f"{i}")
    with pytest.raises(FileNotFoundError):
        data.read_idx(tmp_path / "none")


def frame(rng: np.random.Generator) -> Any:
    pandas = pytest.importorskip("pandas")
    a, t, label, b = rng.normal(size=50), rng.normal(size=50), rng.integers(0, 3, 50), rng.integers(0, 9, 50)
    return pandas.DataFrame({"a": a, "label": label, "b": b, "t": t})


def test_csv(rng, tmp_path):
    table = frame(rng)
    table.to_csv(tmp_path / "t.csv", index=False)
    shards = data.from_csv(tmp_path / "t.csv", tmp_path / "s", target="label", rows=20)
    x, y = whole(shards)
    assert [file.shape[0] for file in shards.files] == [20, 20, 10] and x.dtype == np.float32 and y.dtype == np.int64
    assert np.allclose(x, table[["a", "b", "t"]]) and np.array_equal(y, table["label"])
    several = data.from_csv(tmp_path / "t.csv", tmp_path / "m", target=["a", "t"], usecols=["a", "t", "b"], dtype="float64")
    x, y = whole(several)
    assert np.allclose(y, table[["a", "t"]]) and x.shape == (50, 1)
    assert data.from_csv(tmp_path / "t.csv", tmp_path / "n").targets is None
    assert_refused(ValueError, "target", data.from_csv, tmp_path / "t.csv", tmp_path / "o", target="c")
    table["c"] = "text"
    table.to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(ValueError, match="column 'c': expected numbers"):
        data.from_csv(tmp_path / "t.csv", tmp_path / "p")
    assert not any(name.endswith(".part") for name in os.listdir(tmp_path / "p"))


def test_parquet(rng, tmp_path):
    pytest.importorskip("pyarrow")
    table = frame(rng)
    table.to_parquet(tmp_path / "t.parquet")
    shards = data.from_parquet(tmp_path / "t.parquet", tmp_path / "s", target="label", rows=16)
    x, y = whole(shards)
    assert len(shards.files) == 4 and np.allclose(x, table[["a", "b", "t"]]) and np.array_equal(y, table["label"])


@pytest.mark.parametrize(("function", "package"), [("from_csv", "pandas"), ("from_parquet", "pyarrow.parquet")])
def test_without_the_package(monkeypatch, tmp_path, function, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"^{function}: needs {package.split('.')[0]}"):
        getattr(data, function)(tmp_path / "t", tmp_path / "s")
