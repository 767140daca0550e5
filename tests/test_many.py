"""`fit_many`: many networks at once."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from conftest import assert_refused, threads_left

import fastnn as fnn
from fastnn import callbacks, schedules

pytestmark = pytest.mark.usefixtures("counted")

N, I, K = 400, 6, 3    # noqa: E741


@pytest.fixture
def x(rng: np.random.Generator) -> np.ndarray:
    return rng.normal(size=(N, I)).astype(np.float32)


@pytest.fixture
def y(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, K, N)


def network(seed: int, width: int = 8, **options: Any) -> fnn.Sequential:
    return fnn.Sequential(
        [fnn.Dense(I, width, bias=False), fnn.BatchNorm(width), fnn.ReLU(), fnn.Dropout(0.1), fnn.Dense(width, K)], seed=seed,
        **options)


def networks() -> list[fnn.Sequential]:
    return [network(seed, width, dtype=dtype) for seed, (width, dtype) in enumerate(
        [(8, "float32"), (30, "float64"), (5, "float32"), (200, "float32"), (8, "float64"), (9, "float32"), (1, "float32")])]


def optimizers() -> list[Any]:
    return [
        fnn.SGD(0.1, momentum=0.9), fnn.Adam(0.01), fnn.SGD(schedules.Cosine(0.1, 40)), fnn.AdamW(clip_norm=1.0),
        fnn.SGD(schedules.ReduceOnPlateau(0.1, patience=0)), fnn.SGD(0.1, momentum=0.9, nesterov=True, average=0.9), fnn.SGD()]


def same(a: fnn.Sequential, b: fnn.Sequential) -> None:
    for (name, mine), other in zip(a.state_dict().items(), b.state_dict().values(), strict=True):
        assert mine.tobytes() == other.tobytes(), name
    for mine, other in ((a._velocity, b._velocity), (a._second_moment, b._second_moment), (a._average, b._average)):
        assert (mine is None and other is None) or mine.tobytes() == other.tobytes()
    assert a._rng.bit_generator.state == b._rng.bit_generator.state and a._trained == b._trained


@pytest.mark.parametrize("n_threads", [1, 2, 3, 8])
def test_each_has_the_bits_of_training_alone(x, y, n_threads):
    alone, together = networks(), networks()
    options = {"epochs": 3, "batch_size": 32, "validation_data": (x[:50], y[:50])}
    expected = [
        net.fit(x, y, optimizer=optimizer, callbacks=[callbacks.EarlyStopping(patience=0)], **options)
        for net, optimizer in zip(alone, optimizers(), strict=True)]
    with fnn.num_threads(n_threads):
        histories = fnn.fit_many(
            together, x, y, optimizers=optimizers(), callbacks=lambda i: [callbacks.EarlyStopping(patience=0)], **options)
    for one, other, a, b in zip(alone, together, expected, histories, strict=True):
        same(one, other)
        assert a.loss == b.loss and a.stopped == b.stopped
        assert [epoch["val_loss"] for epoch in a.epochs] == [epoch["val_loss"] for epoch in b.epochs]


def test_going_on(x, y):
    alone, together = networks(), networks()
    one, other = optimizers(), optimizers()
    for _ in range(2):
        for net, optimizer in zip(alone, one, strict=True):
            net.fit(x, y, optimizer=optimizer, validation_data=(x, y))
        fnn.fit_many(together, x, y, optimizers=other, validation_data=(x, y))
    fnn.fit_many(together, x, y, epochs=1, validation_data=(x, y))
    for net, mate in zip(alone, together, strict=True):
        net.fit(x, y, validation_data=(x, y))
        same(net, mate)


def test_one_optimizer_for_all(x, y):
    nets, optimizer = [network(0), network(1)], fnn.SGD(0.1, momentum=0.9)
    fnn.fit_many(nets, x, y, optimizers=optimizer)
    fnn.fit_many(nets, x, y, optimizers=optimizer)
    one = network(1)
    one.fit(x, y, epochs=2, optimizer=optimizer)
    same(one, nets[1])
    plateau = fnn.SGD(schedules.ReduceOnPlateau(0.1))
    assert_refused(ValueError, "optimizers", fnn.fit_many, nets, x, y, optimizers=plateau, validation_data=(x, y))
    assert_refused(ValueError, "optimizers[1]", fnn.fit_many, nets, x, y, optimizers=[plateau, plateau], validation_data=(x, y))


def test_one_that_diverges_does_not_end_the_others(x, y):
    nets = [network(i) for i in range(4)]
    histories = fnn.fit_many(nets, x, y, optimizers=[fnn.SGD(1e30 if i == 1 else 0.1) for i in range(4)], epochs=3)
    assert "finite" in histories[1].stopped and len(histories[1].epochs) < 3
    assert all(np.isfinite(a).all() for a in nets[1].state_dict().values())
    assert all(len(histories[i].epochs) == 3 and histories[i].stopped is None for i in (0, 2, 3))


def test_an_error_ends_all_and_names_the_network(x, y):
    def fails(run: callbacks.Run) -> None:
        if run.epoch == 2:
            raise RuntimeError("mine")

    nets = [network(i) for i in range(4)]
    with pytest.raises(RuntimeError, match="mine") as caught:
        fnn.fit_many(nets, x, y, epochs=100_000, callbacks=lambda i: [fails] if i == 2 else [])
    assert caught.value.__notes__ == ["in nets[2]"]
    assert not any(net._holder for net in nets) and not threads_left()
    x[7, 2] = np.nan
    with pytest.raises(ValueError, match=r"^x: expected finite numbers"):
        fnn.fit_many(nets, x, y)


def test_arguments_are_checked_before_anything_is_trained(x, y):
    nets = [network(i) for i in range(3)]
    assert_refused(ValueError, "nets[2]", fnn.fit_many, [nets[0], nets[1], nets[0]], x, y)
    assert_refused(TypeError, "nets[1]", fnn.fit_many, [nets[0], x], x, y)
    assert_refused(ValueError, "optimizers", fnn.fit_many, nets, x, y, optimizers=[fnn.SGD()])
    assert_refused(TypeError, "optimizers", fnn.fit_many, nets, x, y, optimizers=0.1)
    assert_refused(TypeError, "optimizer", fnn.fit_many, nets, x, y, optimizers=[fnn.SGD(), fnn.SGD(), 0.1])
    assert_refused(TypeError, "callbacks", fnn.fit_many, nets, x, y, callbacks=[callbacks.EarlyStopping()])
    assert_refused(ValueError, "epochs", fnn.fit_many, nets, x, y, epochs=-1)
    wrong = [*nets, fnn.Sequential([fnn.Dense(I + 1, K)])]
    with pytest.raises(ValueError, match=r"^x: ") as caught:
        fnn.fit_many(wrong, x, y)
    assert caught.value.__notes__ == ["for nets[3]"]
    busy: list[BaseException] = []

    def again(run: callbacks.Run) -> None:
        try:
            fnn.fit_many(nets, x, y)
        except RuntimeError as error:
            busy.append(error)

    nets[1].fit(x, y, callbacks=[again])
    assert len(busy) == 1 and "busy" in str(busy[0])
    assert [net._step for net in nets] == [0, 12, 0]
    assert fnn.fit_many([], x, y) == []


def test_shards(x, y, tmp_path):
    from fastnn.data import Shards
    shards = Shards.write(tmp_path, x, y, rows=90)
    nets, one = [network(i) for i in range(3)], network(2)
    fnn.fit_many(nets, shards, epochs=2)
    one.fit(shards, epochs=2)
    same(one, nets[2])


@pytest.mark.skipif(os.name == "nt", reason="a signal")
def test_an_interrupt_ends_all_between_two_steps():
    code = """
import _thread, os, signal, threading, time
import numpy as np, fastnn as fnn
signal.signal(signal.SIGINT, signal.default_int_handler)
x, y = np.random.default_rng(0).normal(size=(20000, 50)), np.zeros(20000, int)
nets = [fnn.Sequential([fnn.Dense(50, 300), fnn.ReLU(), fnn.Dense(300, 2)], seed=i) for i in range(5)]
threading.Timer(1.0, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
try:
    fnn.fit_many(nets, x, y, epochs=10**6)
except KeyboardInterrupt:
    pass
else:
    raise SystemExit("no interrupt")
assert not any(net._holder for net in nets) and sum(net._step > 0 for net in nets) >= 1
time.sleep(0.5)
assert not _thread._count()
nets[0].fit(x[:100], y[:100])
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
