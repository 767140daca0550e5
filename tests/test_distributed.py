"""One training in several processes; here mostly in threads that a communicator of the tests' own connects."""

from __future__ import annotations

import copy
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import assert_refused

import fastnn as fnn
from fastnn import callbacks, schedules
from fastnn.data import Shards

I, K = 6, 3    # noqa: E741


class Threads:
    """A communicator for threads of one process."""

    def __init__(self, rank: int, size: int, barrier: threading.Barrier, slots: list[Any]) -> None:
        self.rank, self.size, self._barrier, self._slots = rank, size, barrier, slots
        self.aborted = False

    def gather(self, value: Any) -> list[Any]:
        self._slots[self.rank] = copy.deepcopy(value)
        self._barrier.wait()
        values = list(self._slots)
        self._barrier.wait()
        return values

    def gather_array(self, a: np.ndarray) -> np.ndarray:
        return np.stack(self.gather(a))

    def sum(self, a: np.ndarray) -> None:
        assert a.flags.c_contiguous
        a[...] = self.gather_array(a).sum(axis=0)

    def start_sum(self, a: np.ndarray) -> Callable[[], None]:
        self.sum(a)
        return lambda: None

    def neighbours(self) -> int:
        return self.size

    def abort(self) -> None:
        self.aborted = True
        self._barrier.abort()


def on(size: int, work: Callable[[Threads], Any]) -> list[Any]:
    """What `work` returns, or raises, in each of so many threads."""
    barrier, slots, results = threading.Barrier(size, timeout=60), [None] * size, [None] * size
    comms = [Threads(rank, size, barrier, slots) for rank in range(size)]

    def run(rank: int) -> None:
        try:
            results[rank] = work(comms[rank])
        except BaseException as error:
            results[rank] = error

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def network(dtype: str = "float64", loss: str = "softmax_cross_entropy", seed: int = 0, wide: int = 9) -> fnn.Sequential:
    return fnn.Sequential(
        [fnn.BatchNorm(I), fnn.Tanh(), fnn.Dense(I, wide, bias=False), fnn.BatchNorm(wide), fnn.Tanh(), fnn.Dropout(0.3),
         fnn.Dense(wide, 8), fnn.ReLU(), fnn.BatchNorm(8), fnn.Dense(8, K)], dtype=dtype, loss=loss, seed=seed)


def data(rng: np.random.Generator, n: int, loss: str = "softmax_cross_entropy") -> tuple[np.ndarray, np.ndarray]:
    x = rng.normal(3, 2, (n, I))
    return x, rng.integers(0, K, n) if loss == "softmax_cross_entropy" else rng.uniform(size=(n, K))


def shares(n: int, batch: int, of: list[int]) -> list[np.ndarray]:
    """The rows of each rank: `of[r]` from each batch, in order."""
    ends = np.cumsum([0, *of])
    assert ends[-1] == batch
    return [np.concatenate([np.arange(s + ends[r], s + ends[r + 1]) for s in range(0, n, batch)]) for r in range(len(of))]


def near(a: fnn.Sequential, b: fnn.Sequential, tolerance: float) -> None:
    for (name, mine), other in zip(a.state_dict().items(), b.state_dict().values(), strict=True):
        assert np.abs(mine - other).max() <= tolerance * max(1, np.abs(other).max()), name


def equal(nets: list[Any]) -> None:
    for net in nets[1:]:
        for (name, mine), other in zip(net.state_dict().items(), nets[0].state_dict().values(), strict=True):
            assert mine.tobytes() == other.tobytes(), name
        assert net._rng.bit_generator.state == nets[0]._rng.bit_generator.state and net._trained == nets[0]._trained


OPTIMIZERS: list[Callable[[], Any]] = [
    lambda: fnn.SGD(0.05, momentum=0.9), lambda: fnn.Adam(0.01, weight_decay=0.01, decay="all"),
    lambda: fnn.SGD(schedules.Cosine(0.1, 100), momentum=0.9, nesterov=True, clip_norm=0.3, average=0.9)]


# ---- n processes are one

@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("of", [[16, 16], [20, 5, 7], [31, 1]])
def test_n_ranks_are_one_process_with_the_whole_batch(rng, of, optimizer):
    x, y = data(rng, 32 * 20)
    one = network()
    expected = one.fit(x, y, epochs=5, batch_size=32, shuffle=False, optimizer=optimizer(), validation_data=(x[:99], y[:99]))
    assert one._trained == (100, 5)
    rows = shares(len(x), 32, of)
    parts = np.array_split(np.arange(99), len(of))

    def work(comm: Threads) -> tuple[fnn.Sequential, fnn.History]:
        net, mine, part = network(seed=comm.rank), rows[comm.rank], parts[comm.rank]
        history = net.fit(
            x[mine], y[mine], epochs=5, batch_size=of[comm.rank], shuffle=False, optimizer=optimizer(), comm=comm,
            validation_data=(x[part], y[part]))
        return net, history

    results = on(len(of), work)
    equal([net for net, _ in results])
    near(results[0][0], one, 1e-10)
    for _, history in results:
        assert np.allclose(history.loss, expected.loss, rtol=1e-10)
        assert np.allclose([e["val_loss"] for e in history.epochs], [e["val_loss"] for e in expected.epochs], rtol=1e-10)


@pytest.mark.parametrize("loss", ["sigmoid_cross_entropy", "mean_squared_error"])
def test_other_losses_and_weights(rng, loss):
    x, y = data(rng, 320, loss)
    weights = rng.uniform(0, 2, len(x))
    one = network(loss=loss)
    expected = one.fit(x, y, epochs=2, batch_size=32, shuffle=False, optimizer=OPTIMIZERS[0](), sample_weight=weights)
    rows = shares(len(x), 32, [12, 20])

    def work(comm: Threads) -> Any:
        net, mine = network(loss=loss), rows[comm.rank]
        return net, net.fit(
            x[mine], y[mine], epochs=2, batch_size=[12, 20][comm.rank], shuffle=False, optimizer=OPTIMIZERS[0](), comm=comm,
            sample_weight=weights[mine])

    results = on(2, work)
    near(results[0][0], one, 1e-10)
    assert np.allclose(results[1][1].loss, expected.loss, rtol=1e-10)


def test_statistics_of_features_far_from_zero(rng):
    """Chan's formula on pairs keeps the digits that one process keeps."""
    x, y = data(rng, 64)
    x = (1e6 + np.arange(I) * 1e5 + x).astype(np.float32)
    one = network("float32")
    one.fit(x, y, batch_size=64, shuffle=False, optimizer=fnn.SGD(0.0))
    net = on(2, lambda comm: _fitted(network("float32"), x[comm.rank::2], y[comm.rank::2], comm))[0]
    for name in ("0.running_mean", "0.running_var"):
        assert np.allclose(net.state_dict()[name], one.state_dict()[name], rtol=3e-7, atol=0), name


def _fitted(net: fnn.Sequential, x: np.ndarray, y: np.ndarray, comm: Any, **options: Any) -> fnn.Sequential:
    net.fit(x, y, batch_size=32, shuffle=False, optimizer=fnn.SGD(0.0), comm=comm, **options)
    return net


def test_local_statistics(rng):
    x, y = data(rng, 64)
    nets = on(2, lambda comm: _fitted(network(), x[comm.rank::2], y[comm.rank::2], comm, sync_batchnorm=False))
    equal(nets)
    alone = [_fitted(network(), x[r::2], y[r::2], None) for r in range(2)]
    for name in ("0.running_mean", "0.running_var"):
        mean = (alone[0].state_dict()[name] + alone[1].state_dict()[name]) / 2
        assert np.allclose(nets[0].state_dict()[name], mean, rtol=1e-12)


def test_large_weights_are_sent_by_themselves(rng):
    """Above `BUCKET` a weight's gradient goes as soon as it is there."""
    x, y = data(rng, 64)
    wide = 9000
    one = network(wide=wide)
    one.fit(x, y, epochs=2, batch_size=32, shuffle=False, optimizer=OPTIMIZERS[0]())
    rows = shares(64, 32, [10, 22])

    def work(comm: Threads) -> fnn.Sequential:
        net = network(wide=wide)
        net.fit(x[rows[comm.rank]], y[rows[comm.rank]], epochs=2, batch_size=[10, 22][comm.rank], shuffle=False,
                optimizer=OPTIMIZERS[0](), comm=comm)
        return net

    near(on(2, work)[1], one, 1e-10)


def test_shuffled_ranks_end_with_the_same_bits_and_go_on_after_saving(rng, tmp_path):
    x, y = data(rng, 301)
    cut = [slice(0, 100), slice(100, 301)]

    def work(comm: Threads, epochs: tuple[int, ...], path: Path) -> fnn.Sequential:
        net = network(seed=comm.rank)
        for i, n in enumerate(epochs):
            if i:
                net = fnn.load(path) if comm.rank == 0 else network(seed=9)
            net.fit(x[cut[comm.rank]], y[cut[comm.rank]], epochs=n, batch_size=10, optimizer=OPTIMIZERS[0](), comm=comm,
                    callbacks=[callbacks.Checkpoint(path)])
        return net

    whole = on(2, lambda comm: work(comm, (4,), tmp_path / "a"))
    parts = on(2, lambda comm: work(comm, (2, 2), tmp_path / "b"))
    equal([*whole, *parts])
    # unequal shares: 10 and 20 batches, so that all take 20
    assert whole[0]._trained == (80, 4)
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


def test_shards(rng, tmp_path):
    x, y = data(rng, 640)
    one = network()
    one.fit(x, y, batch_size=32, shuffle=False, optimizer=OPTIMIZERS[0]())
    rows = shares(640, 32, [16, 16])

    def work(comm: Threads) -> fnn.Sequential:
        shards = Shards.write(tmp_path / str(comm.rank), x[rows[comm.rank]], y[rows[comm.rank]], rows=70, window=100 * 48)
        net = network()
        net.fit(shards, batch_size=16, shuffle=False, optimizer=OPTIMIZERS[0](), comm=comm)
        return net

    near(on(2, work)[0], one, 1e-10)


def test_one_rank_is_no_rank(rng):
    x, y = data(rng, 100)
    one, other = network(), network()
    one.fit(x, y, epochs=2)
    on(1, lambda comm: other.fit(x, y, epochs=2, comm=comm))
    equal([one, other])


# ---- what ranks agree on

def test_a_stop_of_one_rank_ends_all(rng):
    x, y = data(rng, 200)

    def work(comm: Threads) -> tuple[Any, int]:
        net = network()
        mine = [lambda run: run.stop("enough") if run.epoch == 2 else None] if comm.rank == 1 else []
        return net.fit(x[comm.rank::2], y[comm.rank::2], epochs=9, callbacks=mine, comm=comm), net._step

    for history, steps in on(2, work):
        assert history.stopped == "enough" and len(history.epochs) == 2 and steps == 6
    histories = on(2, lambda comm: network().fit(
        x[comm.rank::2], y[comm.rank::2], epochs=9, batch_size=10, callbacks=[callbacks.MaxSteps(13), callbacks.MaxTime(1e-9)],
        comm=comm))
    assert [len(history.epochs) for history in histories] == [1, 1]


def test_a_divergence_is_found_by_all(rng):
    x, y = data(rng, 200)
    nets: list[Any] = [None, None]

    def work(comm: Threads) -> None:
        nets[comm.rank] = network()
        nets[comm.rank].fit(x[comm.rank::2], y[comm.rank::2], epochs=3, optimizer=fnn.SGD(1e200), comm=comm)

    errors = on(2, work)
    assert all(isinstance(error, fnn.DivergedError) for error in errors) and str(errors[0]) == str(errors[1]), errors
    equal(nets)
    assert all(np.isfinite(a).all() for a in nets[0].state_dict().values())


def test_arguments_that_one_rank_refuses(rng):
    x, y = data(rng, 200)

    def fit(comm: Threads, **options: Any) -> None:
        network().fit(x, y, comm=comm, **options)

    first, second = on(2, lambda comm: fit(comm, batch_size=0 if comm.rank else 32))
    assert isinstance(first, RuntimeError) and "rank 1" in str(first) and "batch_size" in str(first)
    assert isinstance(second, ValueError) and str(second).startswith("batch_size: ")
    for name, options in {"epochs": [1, 2], "optimizer": [fnn.SGD(0.1), fnn.SGD(0.2)], "shuffle": [True, False]}.items():
        errors = on(2, lambda comm, name=name, options=options: fit(comm, **{name: options[comm.rank]}))
        assert any(isinstance(error, ValueError) and str(error).startswith(f"{name}: ") for error in errors)
    few = [slice(3), slice(200)]
    errors = on(2, lambda comm: network().fit(x[few[comm.rank]], y[few[comm.rank]], comm=comm, batch_size=2))
    assert all(isinstance(error, ValueError) and "rank 0" in str(error) for error in errors)
    ghost = fnn.Sequential([fnn.BatchNorm(I, virtual_batch_size=8), fnn.Dense(I, K)])
    errors = on(2, lambda comm: copy.deepcopy(ghost).fit(x, y, comm=comm))
    assert all(isinstance(error, ValueError) and str(error).startswith("sync_batchnorm: ") for error in errors)
    assert_refused(TypeError, "comm", network().fit, x, y, comm=3)
    assert_refused(TypeError, "comm", network().fit, x, y, comm=object())
    assert_refused(TypeError, "sync_batchnorm", network().fit, x, y, comm=on(1, lambda comm: comm)[0], sync_batchnorm=1)


def test_an_error_of_one_rank_ends_the_job(rng, capsys):
    x, y = data(rng, 200)
    x[150, 2] = np.nan

    def work(comm: Threads) -> bool:
        try:
            network().fit(x[comm.rank * 100:][:100], y[comm.rank * 100:][:100], comm=comm, shuffle=False)
        except (ValueError, threading.BrokenBarrierError):
            return comm.aborted
        return False

    assert on(2, work) == [True, True]
    assert "x: expected finite numbers" in capsys.readouterr().err


# ---- MPI

mpi = pytest.mark.skipif(
    not shutil.which("mpiexec") and not (Path(sys.executable).parent / "mpiexec").exists(), reason="no mpiexec")


def mpiexec(n: int, code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    pytest.importorskip("mpi4py")
    path = folder / "program.py"
    path.write_text(code)
    command = shutil.which("mpiexec") or str(Path(sys.executable).parent / "mpiexec")
    return subprocess.run(
        [command, "-n", str(n), sys.executable, str(path)], capture_output=True, text=True, timeout=120, check=False)


PROGRAM = """
import os, signal, sys
import numpy as np
import fastnn as fnn
from mpi4py import MPI
comm = MPI.COMM_WORLD
rng = np.random.default_rng(0)
x, y = rng.normal(3, 2, (640, 6)), rng.integers(0, 3, 640)
def network(seed):
    return fnn.Sequential([fnn.Dense(6, 300, bias=False), fnn.BatchNorm(300), fnn.ReLU(), fnn.Dropout(0.2), fnn.Dense(300, 300),
                           fnn.Tanh(), fnn.Dense(300, 3)], dtype="float64", seed=seed)
net, optimizer = network(comm.rank), fnn.SGD(0.05, momentum=0.9)
mine = [i for i in range(640) if (i % 32) * comm.size // 32 == comm.rank]
"""


@mpi
@pytest.mark.parametrize("n", [2, 3])
def test_mpi(tmp_path, n):
    code = PROGRAM + """
net.fit(x[mine], y[mine], epochs=5, batch_size=sum(i < 32 for i in mine), shuffle=False, optimizer=optimizer, comm=comm)
if comm.rank == 0:
    one = network(0)
    one.fit(x, y, epochs=5, batch_size=32, shuffle=False, optimizer=fnn.SGD(0.05, momentum=0.9))
    print(max(np.abs(a - b).max() for a, b in zip(net.state_dict().values(), one.state_dict().values())))
"""
    done = mpiexec(n, code, tmp_path)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 1e-10


@mpi
@pytest.mark.parametrize("how", ["raise ValueError('mine')", "os.kill(os.getpid(), signal.SIGKILL)"])
def test_a_rank_that_fails_or_is_killed_ends_the_job(tmp_path, how):
    code = PROGRAM + f"""
def fails(run):
    if run.epoch == 3 and comm.rank == 1:
        {how}
net.fit(x[mine], y[mine], epochs=10**6, batch_size=16, callbacks=[fails], comm=comm)
"""
    done = mpiexec(2, code, tmp_path)
    assert done.returncode != 0
    assert "kill" in how or ("mine" in done.stderr and "rank 1 of 2 ends the job" in done.stderr)
