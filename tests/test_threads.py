"""How many threads work, and that nobody can tell from the results: other counts, other threads, other processes."""

from __future__ import annotations

import asyncio
import hashlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastnn as fnn
from fastnn import threads
from fastnn._kernels import team

Array = np.ndarray

COUNTS = (1, 2, 3, 5, 8, None)
VARIABLE = "FASTNN_NUM_THREADS"


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """What a test sets is not for the next."""
    before = threads._everywhere
    yield
    threads._everywhere = before


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_a_thread(function: Callable[[], Any]) -> Any:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function).result()


# ----------------------------------------------------------------------------------------------------------- the number

def test_set_and_get() -> None:
    for n in (1, 2, 255, np.int64(3)):
        assert fnn.set_num_threads(n) is None
        assert fnn.get_num_threads() == n
        assert type(fnn.get_num_threads()) is int
        assert in_a_thread(fnn.get_num_threads) == n        # in the whole process
    fnn.set_num_threads(None)
    assert fnn.get_num_threads() == min(cores(), 255)


BAD_NUMBERS: list[tuple[Any, type[Exception]]] = [
    *[(n, ValueError) for n in (0, -1, -(10**30), 256, 10**30, np.int64(0))],
    *[(n, TypeError) for n in (1.0, 2.5, np.float32(2), np.nan, True, False, np.True_, "2", "auto", b"2", [2], (2,), {})],
    (np.array([2]), TypeError),
]


@pytest.mark.parametrize(("n", "error"), BAD_NUMBERS, ids=repr)
def test_bad_numbers_are_refused_and_change_nothing(n: Any, error: type[Exception]) -> None:
    fnn.set_num_threads(3)
    with pytest.raises(error, match=r"^n: expected .*got"):
        fnn.set_num_threads(n)
    assert fnn.get_num_threads() == 3
    with fnn.num_threads(2):
        with pytest.raises(error, match=r"^n: expected .*got"), fnn.num_threads(n):
            raise AssertionError("entered")
        assert fnn.get_num_threads() == 2
    assert fnn.get_num_threads() == 3


def test_the_context_manager_restores_and_nests() -> None:
    fnn.set_num_threads(4)
    with fnn.num_threads(2):
        assert fnn.get_num_threads() == 2
        with fnn.num_threads(7):
            assert fnn.get_num_threads() == 7
            with fnn.num_threads(None):
                assert fnn.get_num_threads() == min(cores(), 255)       # automatic, not what is outside
            assert fnn.get_num_threads() == 7
        assert fnn.get_num_threads() == 2
    assert fnn.get_num_threads() == 4
    with pytest.raises(ZeroDivisionError), fnn.num_threads(3):
        raise ZeroDivisionError
    assert fnn.get_num_threads() == 4


def test_what_is_set_inside_holds_outside() -> None:
    fnn.set_num_threads(4)
    with fnn.num_threads(2):
        fnn.set_num_threads(6)
        assert fnn.get_num_threads() == 2
    assert fnn.get_num_threads() == 6


def test_the_context_manager_is_for_one_thread() -> None:
    fnn.set_num_threads(4)
    step = threading.Barrier(2, timeout=20)
    seen: list[int] = []

    def other() -> None:
        seen.append(fnn.get_num_threads())
        step.wait()
        step.wait()
        seen.append(fnn.get_num_threads())      # the main thread is inside
        with fnn.num_threads(5):
            seen.append(fnn.get_num_threads())
            step.wait()
            step.wait()                         # the main thread has left
            seen.append(fnn.get_num_threads())
        seen.append(fnn.get_num_threads())

    thread = threading.Thread(target=other)
    thread.start()
    step.wait()
    with fnn.num_threads(2):
        step.wait()
        step.wait()
        assert fnn.get_num_threads() == 2       # the other thread is inside
    step.wait()
    thread.join(20)
    assert seen == [4, 4, 5, 5, 4]
    assert fnn.get_num_threads() == 4


def test_the_context_manager_is_for_one_task() -> None:
    async def task(n: int) -> list[int]:
        seen = []
        with fnn.num_threads(n):
            for _ in range(3):
                await asyncio.sleep(0)
                seen.append(fnn.get_num_threads())
        return seen

    async def tasks() -> list[list[int]]:
        return list(await asyncio.gather(task(2), task(3), task(5)))

    fnn.set_num_threads(4)
    assert asyncio.run(tasks()) == [[2] * 3, [3] * 3, [5] * 3]
    assert fnn.get_num_threads() == 4


def get_with(value: str | None) -> subprocess.CompletedProcess[str]:
    environment = {name: text for name, text in os.environ.items() if name != VARIABLE}
    if value is not None:
        environment[VARIABLE] = value
    program = "import fastnn; from fastnn._kernels import team; print(fastnn.get_num_threads(), team.n_workers())"
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)


@pytest.mark.parametrize("value", [None, "", " ", "auto", "AUTO", "1", "3", " 4 ", "255"])
def test_the_environment_decides(value: str | None) -> None:
    done = get_with(value)
    assert done.stderr == ""
    expected = int(value) if value and value.strip().isdigit() else min(cores(), 255)
    assert done.stdout.split() == [str(expected), "0"]      # and no thread is started yet


@pytest.mark.parametrize("value", ["0", "-1", "256", "1.5", "two", "1 2", "0x2", "None", "1e1", "9" * 40, "²"])
def test_a_bad_environment_is_named(value: str) -> None:
    done = get_with(value)
    assert done.returncode != 0 and done.stdout == ""
    assert f"ValueError: {VARIABLE}: expected" in done.stderr and f"got {value!r}" in done.stderr


# ------------------------------------------------------------------------------------- the same bits, whoever works

LOSSES = ("softmax_cross_entropy", "sigmoid_cross_entropy", "mean_squared_error")


def build(loss: str, dtype: str, seed: int = 0) -> fnn.Sequential:
    """Every kind of layer, in an order that is used and in some that are not; large enough for many threads."""
    return fnn.Sequential([
        fnn.Dropout(0.1), fnn.Dense(40, 300, bias=False), fnn.BatchNorm(300), fnn.ReLU(), fnn.Dense(300, 200), fnn.Dropout(0.3),
        fnn.Tanh(), fnn.BatchNorm(200), fnn.LeakyReLU(), fnn.Sigmoid(), fnn.Dense(200, 200), fnn.Softsign(),
        fnn.BatchNorm(200), fnn.Softplus(), fnn.ELU(), fnn.Dense(200, 10),
    ], loss=loss, dtype=dtype, seed=seed)


def data(loss: str, n_rows: int, kind: str = "f8") -> tuple[Array, Array]:
    rng = np.random.default_rng(n_rows)
    x = rng.normal(size=(n_rows, 40)) if kind == "f8" else rng.integers(0, 256, (n_rows, 40))
    if loss == "softmax_cross_entropy":
        return x.astype(kind), rng.integers(0, 10, n_rows)
    y = rng.random((n_rows, 10))
    return x.astype(kind), y if loss == "sigmoid_cross_entropy" else y * 3 - 1


def digest(*arrays: Any) -> str:
    return hashlib.sha256(b"".join(np.asarray(a).tobytes() for a in arrays)).hexdigest()


def trained(
    loss: str, dtype: str, batch_size: int, seed: int = 0, *, kind: str = "f8", clip: float | None = None, adam: bool = False,
) -> str:
    net = build(loss, dtype, seed)
    x, y = data(loss, 4 * batch_size + 3, kind)
    if adam:
        optimizer: Any = fnn.AdamW(lr=0.001, weight_decay=0.1, clip_norm=clip)
    else:
        optimizer = fnn.SGD(lr=0.02, momentum=0.9, weight_decay=1e-3, clip_norm=clip)
    history = net.fit(x, y, epochs=2, batch_size=batch_size, optimizer=optimizer)
    loss_now, gradients = net.loss_and_gradients(x, y)
    out = net.forward(x, training=True)
    return digest(*net.state_dict().values(), history.loss, loss_now, *gradients.values(), out)


@pytest.mark.parametrize(("kind", "batch_size"), [("f8", 65), ("u1", 65), ("u1", 16)])
@pytest.mark.parametrize(("clip", "adam"), [(None, False), (0.5, False), (None, True)], ids=["plain", "clip", "Adam"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_training_has_the_same_bits_with_any_number_of_threads(
    dtype: str, clip: float | None, adam: bool, kind: str, batch_size: int,
) -> None:
    loss = LOSSES[(dtype == "float64") + (clip is not None)]
    results = {}
    for n in (*COUNTS, 3, None):
        with fnn.num_threads(n):
            results.setdefault(n, set()).add(trained(loss, dtype, batch_size, kind=kind, clip=clip, adam=adam))
    assert team.n_workers() >= 7        # they have been there
    assert len(set.union(*results.values())) == 1, results
    # not because nothing matters
    assert trained(loss, dtype, batch_size, 1, kind=kind, clip=clip, adam=adam) not in results[1]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("loss", LOSSES)
def test_the_sum_of_a_large_loss_does_not_depend_on_the_threads(loss: str, dtype: str) -> None:
    """It is taken in parts, of some thousand outputs, and rounded."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(900, 8))
    y = rng.integers(0, 300, 900) if loss == "softmax_cross_entropy" else rng.random((900, 300))
    results = set()
    for n in COUNTS:
        net = fnn.Sequential([fnn.Dense(8, 30), fnn.Tanh(), fnn.Dense(30, 300)], loss=loss, dtype=dtype, seed=0)
        with fnn.num_threads(n):
            history = net.fit(x, y, epochs=3, batch_size=450, optimizer=fnn.SGD(lr=0.1))
            results.add(digest(history.loss, net.loss_and_gradients(x, y)[0], net.evaluate(x, y)["loss"]))
    assert len(results) == 1


def test_a_choice_that_changes_while_it_trains_does_not_show() -> None:
    """The automatic choice tries one thread and all, turn and turn about."""
    results = set()
    for n in (1, 4, None, None):
        net = build("softmax_cross_entropy", "float32")
        x, y = data("softmax_cross_entropy", 65 * 60)
        with fnn.num_threads(n):
            net.fit(x, y, batch_size=65, optimizer=fnn.SGD(lr=0.01))
        results.add(digest(*net.state_dict().values()))
    net = build("softmax_cross_entropy", "float32")
    stop = threading.Event()

    def change() -> None:
        n = 0
        while not stop.wait(1e-4):
            n += 1
            fnn.set_num_threads(1 + n % 6)

    thread = threading.Thread(target=change)
    thread.start()
    net.fit(x, y, batch_size=65, optimizer=fnn.SGD(lr=0.01))
    stop.set()
    thread.join(20)
    results.add(digest(*net.state_dict().values()))
    assert len(results) == 1


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_prediction_has_the_same_bits_with_any_number_of_threads(dtype: str) -> None:
    for loss in LOSSES:
        net = build(loss, dtype)
        for rows, kind in ((1, "f8"), (128, "f8"), (129, "f8"), (700, "u1")):
            x, y = data(loss, rows, kind)
            results = set()
            for n in COUNTS:
                with fnn.num_threads(n):
                    results.add(digest(net.forward(x), net.predict(x), *net.evaluate(x, y).values()))
            assert len(results) == 1, (loss, rows)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_kernels_have_the_same_bits_with_any_number_of_threads(dtype: str) -> None:
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> Array:
        return rng.normal(size=shape).astype(dtype)

    for n, d, k in ((1, 1500, 700), (16, 600, 500), (300, 257, 300), (2000, 100, 33), (4000, 7, 1)):
        x, weight, bias, dout, dx = normal(n, d), normal(d, k), normal(k), normal(n, k), normal(n, d)
        gamma, beta, labels, chances = normal(d), normal(d), rng.integers(0, d, n), rng.random((n, d)).astype(dtype)
        results: dict[str, set[str]] = {}
        for threads_now in COUNTS:
            with fnn.num_threads(threads_now):
                done: dict[str, Any] = {
                    "dense": fnn.dense_forward(x, weight, bias), "dense back": fnn.dense_backward(dout, x, weight),
                    "inference": fnn.batchnorm_inference(x, gamma, beta, beta, gamma**2),
                    "softmax": fnn.softmax_cross_entropy(x, labels), "sigmoid": fnn.sigmoid_cross_entropy(x, chances),
                    "squared": fnn.mean_squared_error(x, chances),
                }
                if n > 1:
                    running = [beta.copy(), gamma**2]
                    y, mean, rstd = fnn.batchnorm_forward(x, gamma, beta, *running)
                    done["norm"] = y, mean, rstd, *running
                    done["norm back"] = fnn.batchnorm_backward(dx, x, gamma, mean, rstd)
                for kind in ("relu", "leaky_relu", "tanh", "sigmoid", "softsign", "softplus", "elu"):
                    y = fnn.activation_forward(x, kind)
                    done[kind] = y, fnn.activation_backward(dx, y, kind)
                param, velocity = x.copy(), dx.copy()
                fnn.sgd_update(param, chances, velocity, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1)
                done["sgd"] = param, velocity
                param, m, v = x.copy(), dx.copy(), dx**2
                fnn.adam_update(param, chances, m, v, lr=0.1, step=3, weight_decay=0.1)
                done["adam"] = param, m, v
            for name, arrays in done.items():
                results.setdefault(name, set()).add(digest(*arrays) if isinstance(arrays, tuple) else digest(arrays))
        assert {name: len(seen) for name, seen in results.items()} == dict.fromkeys(results, 1), (n, d, k)


def test_many_more_threads_than_processors() -> None:
    program = """
import numpy as np, fastnn as fnn
from fastnn._kernels import team
x, y = np.random.default_rng(0).normal(size=(512, 64)), np.arange(512) % 10
results = set()
for n in (1, 255):
    fnn.set_num_threads(n)
    net = fnn.Sequential([fnn.Dense(64, 1024), fnn.BatchNorm(1024), fnn.Tanh(), fnn.Dense(1024, 10)], seed=0)
    net.fit(x, y, batch_size=256, optimizer=fnn.SGD(lr=0.1))
    results.add(b"".join(a.tobytes() for a in net.state_dict().values()))
assert len(results) == 1
print(team.n_workers())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert int(done.stdout) > 8         # as many as the system gives


def test_threads_are_started_once() -> None:
    with fnn.num_threads(4):
        trained("softmax_cross_entropy", "float32", 65)
        before = team.n_workers()
        for _ in range(5):
            trained("softmax_cross_entropy", "float32", 65)
            in_a_thread(lambda: trained("softmax_cross_entropy", "float32", 65))
    assert 3 <= before == team.n_workers()


# ---------------------------------------------------------------------------------------------------- many Python threads

@pytest.mark.parametrize("n", [1, 3, 8, None])
def test_networks_that_train_side_by_side_do_not_disturb_each_other(n: int | None) -> None:
    fnn.set_num_threads(1)
    jobs = [(LOSSES[seed % 3], ("float32", "float64")[seed % 2], (16, 65)[seed // 2 % 2], seed) for seed in range(8)]
    expected = [trained(*job) for job in jobs]
    fnn.set_num_threads(n)
    for at_once in (4, 8):
        with ThreadPoolExecutor(at_once) as pool:
            assert list(pool.map(lambda job: trained(*job), jobs)) == expected


@pytest.mark.parametrize("n", [2, 8, None])
def test_many_threads_predict_with_one_network(n: int | None) -> None:
    net = build("softmax_cross_entropy", "float32")
    inputs = [data("softmax_cross_entropy", rows)[0] for rows in (1, 9, 128, 300, 700)] * 8
    fnn.set_num_threads(1)
    expected = [digest(net.predict_proba(x)) for x in inputs]
    fnn.set_num_threads(n)
    with ThreadPoolExecutor(16) as pool:
        for _ in range(2):
            assert list(pool.map(lambda x: digest(net.predict_proba(x)), inputs)) == expected


def test_prediction_beside_training() -> None:
    fnn.set_num_threads(3)
    net, x = build("softmax_cross_entropy", "float32"), data("softmax_cross_entropy", 700)[0]
    expected = digest(net.predict_proba(x))
    alone = trained("softmax_cross_entropy", "float64", 65)
    with ThreadPoolExecutor(6) as pool:
        training = [pool.submit(trained, "softmax_cross_entropy", "float64", 65) for _ in range(6)]
        predicting = [pool.submit(lambda: digest(net.predict_proba(x))) for _ in range(30)]
        assert {future.result() for future in training} == {alone}
        assert {future.result() for future in predicting} == {expected}


HAMMERS = 16


def hammer(rounds: int, seed: int) -> None:
    """Python threads at all that may be called at once, with a network that is new each time, so that nothing is made yet."""
    job = ("softmax_cross_entropy", ("float32", "float64")[seed % 2], 16, seed)
    dtype = np.dtype(job[1])
    rng = np.random.default_rng(seed)
    x, y = data(job[0], 300)
    a, b = rng.normal(size=(300, 200)).astype(dtype), rng.normal(size=(200, 300)).astype(dtype)
    row = b[0, :200].copy()

    def kernels() -> str:
        param, velocity = a.copy(), a.copy()
        fnn.sgd_update(param, a, velocity, lr=0.1, momentum=0.9)
        z = fnn.dense_forward(a, b)
        return digest(
            param, velocity, z, *fnn.dense_backward(z, a, b), *fnn.batchnorm_forward(a, row, row),
            fnn.activation_forward(a, "elu"), *fnn.softmax_cross_entropy(a, y), fnn.init.sparse((40, 30), rng=0),
            fnn.init.xavier_normal((40, 30), rng=0))

    def jobs(net: fnn.Sequential) -> list[Callable[[], str]]:
        return [
            lambda: digest(net.predict_proba(x)), lambda: digest(*net.evaluate(x, y).values()),
            lambda: digest(net.forward(x[:3])), lambda: digest(net.predict(x)), kernels, lambda: trained(*job),
            lambda: digest(*net.state_dict().values()), lambda: str(net.memory(100)),
        ]

    def at_once(calls: list[Callable[[], Any]]) -> list[Any]:
        start = threading.Barrier(len(calls), timeout=60)

        def call(function: Callable[[], Any]) -> Any:
            start.wait()
            return function()

        with ThreadPoolExecutor(len(calls)) as pool:
            return [future.result(120) for future in [pool.submit(call, function) for function in calls]]

    fnn.set_num_threads(1)
    expected = [function() for function in jobs(build(*job[:2], seed))]
    for i in range(rounds):
        fnn.set_num_threads((None, 1, 2, 5)[i % 4])
        calls = jobs(build(*job[:2], seed))
        assert at_once(calls * (HAMMERS // len(calls))) == expected * (HAMMERS // len(calls))

    # training one network at once: some are refused, in words, and those that were not add up
    net, twin = (fnn.Sequential([fnn.Dense(40, 30), fnn.Dropout(0.1), fnn.Dense(30, 10)], seed=seed) for _ in range(2))
    optimizer = fnn.SGD(momentum=0.9)

    def train() -> int:
        done = 0
        for _ in range(100):
            try:
                net.fit(x[:32], y[:32], optimizer=optimizer)
                done += 1
            except RuntimeError as error:
                assert str(error).startswith("the network is busy"), error
        return done

    done = sum(sum(at_once([train] * HAMMERS)) for _ in range(-(-rounds // 10)))
    assert done > 0 and not net._holder
    for _ in range(done):
        twin.fit(x[:32], y[:32], optimizer=optimizer)
    assert digest(*net.state_dict().values(), net._velocity) == digest(*twin.state_dict().values(), twin._velocity)
    assert (net._step, net._epoch) == (twin._step, twin._epoch)


@pytest.mark.parametrize("seed", [0, 1])
def test_many_threads_at_everything(seed: int) -> None:
    hammer(4, seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 6))
def test_many_threads_at_everything_a_thousand_times(seed: int) -> None:
    hammer(250, seed)


class Finishing(dict[str, object]):
    """Who holds a network, and lets go of it just when the next one looks."""

    def __getitem__(self, key: str) -> object:
        self.clear()
        return super().__getitem__(key)


def test_a_call_refused_at_the_moment_the_other_one_finishes() -> None:
    net = fnn.Sequential([fnn.Dense(40, 10)])
    net._holder = Finishing(by=object())
    x, y = data("softmax_cross_entropy", 32)
    with pytest.raises(RuntimeError, match=r"^the network is busy"):
        net.fit(x, y)
    net._holder = {}
    net.fit(x, y)


FREE = """
import sys
assert not sys._is_gil_enabled()
import fastnn as fnn
from fastnn._kernels import activation, batchnorm, dense, dropout, engine, gemm, loss, memory, rows, sgd, simd, team
assert not sys._is_gil_enabled()
print("free")
"""


@pytest.mark.skipif(getattr(sys, "_is_gil_enabled", lambda: True)(), reason="needs a free-threaded CPython, its GIL off")
def test_importing_leaves_the_gil_off() -> None:
    done = subprocess.run([sys.executable, "-W", "error", "-c", FREE], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "free\n")


# ------------------------------------------------------------------------------------------------------------ processes

TRAIN = """
import hashlib, os, signal, sys, threading, time
import numpy as np
import fastnn as fnn
from fastnn._kernels import team

def build():
    return fnn.Sequential(
        [fnn.Dense(40, 300), fnn.BatchNorm(300), fnn.Tanh(), fnn.Dropout(0.2), fnn.Dense(300, 10)], seed=0)

def train(n=3):
    net = build()
    x, y = np.random.default_rng(0).normal(size=(512, 40)), np.arange(512) % 10
    with fnn.num_threads(n):
        net.fit(x, y, epochs=2, batch_size=128, optimizer=fnn.SGD(lr=0.1, momentum=0.9, clip_norm=0.1))
        p = net.predict_proba(x)
    return hashlib.sha256(b"".join(a.tobytes() for a in (*net.state_dict().values(), p))).hexdigest()
"""

FORK = TRAIN + """
import random
times = int(sys.argv[1])

def child(work):
    # what the work gives in a child, which has so many seconds for it
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            signal.alarm(60)
            os.write(write, work().encode())
            os._exit(0)
        finally:
            os._exit(1)
    os.close(write)
    with os.fdopen(read) as file:
        result = file.read()
    _, status = os.waitpid(pid, 0)
    assert status == 0, f"status {status}, {result!r}"
    return result

def in_child():
    result = train()
    assert team.n_workers() >= 2
    if sys.platform == "linux":         # not those of the parent, which are not here
        assert len(os.listdir("/proc/self/task")) >= 3
    assert train(5) == train(1) == result
    return result

assert child(train) == train(1)         # before there is a team
expected = train()
assert expected == train(1) and team.n_workers() >= 2
for _ in range(times):
    assert child(in_child) == expected
assert child(lambda: child(in_child)) == expected       # a child's child

# while the team works for another thread
x, y = np.random.default_rng(1).normal(size=(6400, 40)), np.arange(6400) % 10
other = build()
start = other.layers[0].weight.copy()
def endless():
    try:
        with fnn.num_threads(3):
            other.fit(x, y, epochs=10**9, batch_size=128, optimizer=fnn.SGD(lr=1e-3))
    except ValueError as error:
        assert str(error).startswith("x: ")
        ended.append(error)
ended = []
thread = threading.Thread(target=endless)
thread.start()
while (other.layers[0].weight == start).all():
    time.sleep(1e-3)

def in_child_of_a_busy_one():
    # what was in the middle of a step is refused here, and only that
    try:
        other.fit(x, y)
    except RuntimeError as error:
        assert "forked" in str(error)
        other.predict(x)
        return in_child()

for i in range(times):
    time.sleep(random.uniform(0, 2e-3))
    assert child(in_child_of_a_busy_one) == expected
    if i % 10 == 0:
        assert train() == expected      # the parent goes on too
x[...] = np.nan
thread.join(20)
assert len(ended) == 1 and not thread.is_alive()
assert train() == train(5) == expected
print("done")
"""


def run(program: str | Path, *arguments: str, code: bool = True, seconds: float = 120) -> subprocess.CompletedProcess[str]:
    # that there is more than one thread is what this is about
    command = [sys.executable, "-W", "ignore", *(["-c"] if code else []), str(program), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=seconds)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_trains_to_the_same_bits() -> None:
    done = run(FORK, "10")
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "done\n")


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_thousand_forked_children_train_to_the_same_bits() -> None:
    done = run(FORK, "500", seconds=3600)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "done\n")


MULTIPROCESSING = TRAIN + """
import multiprocessing

def job(n):
    return train(n)

if __name__ == "__main__":
    expected = train()
    for method in sys.argv[1:] or multiprocessing.get_all_start_methods():
        context = multiprocessing.get_context(method)
        with context.Pool(2) as pool:
            assert pool.map_async(job, [1, 2, 3, None, 5]).get(60) == [expected] * 5, method
    assert train() == expected
    print("done")
"""


def test_processes_however_started_train_to_the_same_bits(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(MULTIPROCESSING)
    done = run(program, code=False)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "done\n")
