"""What `fit` calls: when, with what, and that it changes nothing of the training."""

from __future__ import annotations

import csv
import io
import re
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_training import bits, build, random_data

import fastnn as fnn
from fastnn import network
from fastnn.callbacks import Callback, Checkpoint, EarlyStopping, MaxSteps, MaxTime, ProgressBar, Run, StopAt, TensorBoard


class Record(Callback):
    """Writes down what is called, and the network's state at that time."""

    def __init__(self, every: int = 1) -> None:
        self.every = every
        self.calls: list[str] = []
        self.states: list[dict[str, bytes]] = []

    def on_fit_begin(self, run: Run) -> None:
        self.calls.append(f"begin {run.epochs} {run.rows}")

    def on_step(self, run: Run) -> None:
        self.calls.append(f"step {run.step} of epoch {run.epoch}, row {run.row}")
        self.states.append(bits(run.net))

    def on_epoch_end(self, run: Run) -> None:
        assert run.record is run.history.epochs[-1] and tuple(run.record) == run.metrics
        self.calls.append(f"epoch {run.epoch}, step {run.step}")

    def on_fit_end(self, run: Run) -> None:
        self.calls.append(f"end {type(run.error).__name__}")


def test_order_of_calls() -> None:
    x, y = random_data()
    record = Record(every=2)
    build().fit(x, y, epochs=2, batch_size=8, callbacks=[record], validation_data=(x, y))
    assert record.calls == [
        "begin 2 24", "step 2 of epoch 1, row 16", "epoch 1, step 3", "step 4 of epoch 2, row 8", "step 6 of epoch 2, row 24",
        "epoch 2, step 6", "end NoneType"]


@pytest.mark.parametrize("every", [1, 2, 3, 4, 100])
@pytest.mark.parametrize("patience", [0.05, 0.0], ids=["few ticks", "many ticks"])
def test_callbacks_change_no_bit(every: int, patience: float, monkeypatch: pytest.MonkeyPatch) -> None:
    class Ticks(Callback):
        def on_tick(self, run: Run) -> None:
            run.net.evaluate(x, y)

    monkeypatch.setattr(network, "PATIENCE", patience)
    x, y = random_data()
    net, twin = build(dropout=0.3), build(dropout=0.3)
    record = Record(every)
    options: dict[str, Any] = {"epochs": 3, "batch_size": 8, "sample_weight": np.arange(1.0, 25)}
    history = net.fit(x, y, callbacks=[record, Ticks()], optimizer=fnn.SGD(0.2, momentum=0.9, average=0.9), **options)
    expected = twin.fit(x, y, optimizer=fnn.SGD(0.2, momentum=0.9, average=0.9), **options)
    assert bits(net) == bits(twin) and history.loss == expected.loss
    assert len(record.states) == 9 // every
    assert len({tuple(state.values()) for state in record.states}) == len(record.states)


def test_state_at_a_step_is_that_of_so_many_steps() -> None:
    x, y = random_data()
    record = Record()
    build().fit(x, y, batch_size=8, shuffle=False, callbacks=[record], optimizer=fnn.SGD(0.2, momentum=0.9))
    twin, optimizer = build(), fnn.SGD(0.2, momentum=0.9)
    for i, state in enumerate(record.states):
        twin.train_step(x[8 * i:8 * i + 8], y[8 * i:8 * i + 8], optimizer)
        assert bits(twin) == state


def test_a_function_is_called_after_each_epoch() -> None:
    x, y = random_data()
    seen: list[float] = []
    history = build().fit(x, y, epochs=3, callbacks=[lambda run: seen.append(run.record["loss"])])
    assert seen == history.loss


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 7])
def test_stop_after_steps(steps: int) -> None:
    x, y = random_data()
    net, twin = build(dropout=0.2), build(dropout=0.2)
    history = net.fit(x, y, epochs=9, batch_size=8, shuffle=False, callbacks=[MaxSteps(steps)], optimizer=fnn.SGD(0.2))
    optimizer = fnn.SGD(0.2)
    for i in range(steps):
        first = i % 3 * 8
        twin.train_step(x[first:first + 8], y[first:first + 8], optimizer)
    assert bits(net) == bits(twin)
    assert history.stopped == f"{steps} steps have been taken"
    assert len(history.epochs) == -(-steps // 3)
    # an epoch that was cut short is not counted
    assert net.fit(x, y, batch_size=8).epochs[0]["epoch"] == steps // 3 + 1


def test_stop_at_a_tick_leaves_whole_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stop(Callback):
        def on_tick(self, run: Run) -> None:
            if run.step >= 4:
                run.stop("enough")

    monkeypatch.setattr(network, "PATIENCE", 0.0)
    x, y = random_data()
    net, twin = build(), build()
    history = net.fit(x, y, epochs=9, batch_size=8, callbacks=[Stop()], optimizer=fnn.SGD(0.2))
    twin.fit(x, y, epochs=2, batch_size=8, callbacks=[MaxSteps(4)], optimizer=fnn.SGD(0.2))
    assert history.stopped == "enough" and bits(net) == bits(twin)
    assert (net._step, net._trained) == (4, (4, 1))


def test_stop_at_a_tick_still_finds_divergence(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stop(Callback):
        def on_tick(self, run: Run) -> None:
            if run.step == 3:
                run.stop()

    monkeypatch.setattr(network, "PATIENCE", 0.0)
    x, y = random_data("mean_squared_error")
    y[8:16] = 1e160     # the loss is infinite, or the next state
    net, twin = (build("mean_squared_error", norm=False) for _ in range(2))
    with pytest.raises(fnn.DivergedError, match="at step 1 of epoch 1"):
        net.fit(x, y, epochs=2, batch_size=8, shuffle=False, callbacks=[Stop()], optimizer=fnn.SGD(0.2))
    twin.fit(x[:8], y[:8], batch_size=8, shuffle=False, optimizer=fnn.SGD(0.2))
    assert bits(net) == bits(twin)


def test_divergence_names_the_step_of_the_epoch() -> None:
    x, y = random_data("mean_squared_error")
    y[16:] = 1e160
    net, twin = (build("mean_squared_error", norm=False) for _ in range(2))
    record = Record(every=2)
    with pytest.raises(fnn.DivergedError, match="at step 2 of epoch 1"):
        net.fit(x, y, batch_size=8, shuffle=False, callbacks=[record], optimizer=fnn.SGD(0.2))
    assert record.calls[-1] == "end DivergedError"
    twin.fit(x[:16], y[:16], batch_size=8, shuffle=False, optimizer=fnn.SGD(0.2))
    assert bits(net) == bits(twin)


@pytest.mark.parametrize("every", [1, 10**9])
def test_ticks_whatever_the_steps_between_calls(every: int) -> None:
    class Stop(Callback):
        def __init__(self) -> None:
            self.every = every

        def on_step(self, run: Run) -> None:
            pass

        def on_tick(self, run: Run) -> None:
            run.stop("a tick")

    x, y = random_data()
    rows = np.repeat(x, 20_000, axis=0)
    history = build().fit(rows, np.repeat(y, 20_000), batch_size=8, callbacks=[Stop()])
    assert history.stopped == "a tick" and history.epochs[0]["seconds"] < 60


def test_stop_after_time() -> None:
    x, y = random_data()
    started = time.monotonic()
    history = build().fit(x, y, epochs=10**6, batch_size=8, callbacks=[MaxTime(0.2)])
    assert history.stopped == "0.2 seconds are over" and time.monotonic() - started >= 0.2
    assert len(history.epochs) < 10**6
    # within an epoch, too
    rows = np.repeat(x, 20_000, axis=0)
    history = build().fit(rows, np.repeat(y, 20_000), batch_size=8, epochs=100, callbacks=[MaxTime(0.1)])
    assert len(history.epochs) == 1 and history.epochs[0]["seconds"] < 60


@pytest.mark.parametrize("where", ["on_fit_begin", "on_step", "on_tick", "on_epoch_end", "on_fit_end"])
def test_an_error_in_a_callback_leaves_the_network_free(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "PATIENCE", 0.0)

    def fail(self: Callback, run: Run) -> None:
        raise KeyError("mine")

    x, y = random_data()
    net, twin = build(), build()
    record = Record(every=3)
    with pytest.raises(KeyError, match="mine"):
        net.fit(x, y, batch_size=8, callbacks=[record, type("Fails", (Callback,), {where: fail})()], optimizer=fnn.SGD(0.2))
    assert record.calls[-1] == ("end NoneType" if where == "on_fit_end" else "end KeyError")
    steps = {"on_fit_begin": 0, "on_step": 1, "on_tick": 1}.get(where, 3)
    if steps:
        twin.fit(x, y, batch_size=8, callbacks=[MaxSteps(steps)], optimizer=fnn.SGD(0.2))
    assert bits(net) == bits(twin)
    net.fit(x, y)


def test_a_callback_may_not_train() -> None:
    x, y = random_data()
    with pytest.raises(RuntimeError, match="busy"):
        build().fit(x, y, callbacks=[lambda run: run.net.train_step(x, y, fnn.SGD())])


# ------------------------------------------------------------------------------------------------- stopping early

class Scripted(Callback):
    """Overwrites a number of the record."""

    def __init__(self, name: str, values: list[float]) -> None:
        self.name, self.values = name, values

    def on_epoch_end(self, run: Run) -> None:
        run.record[self.name] = self.values[run.epoch - 1]


@pytest.mark.parametrize(("options", "values", "epochs", "best"), [
    ({"patience": 1}, [3, 2, 4, 2, 1, 1], 4, 2),
    ({"patience": 0}, [3, 2, 1, 1, 0, 0], 4, 3),
    ({"patience": 2, "min_delta": 0.5}, [3, 2.6, 2.4, 2.3, 2.1, 1], 6, 6),
    ({"patience": 9}, [3, 2, 5, 5, 5, 5], 6, 2),
    ({"patience": 9, "mode": "max"}, [3, 2, 5, 5, 5, 5], 6, 3),
    ({"patience": 1}, [np.nan, 2, np.nan, np.nan, 0, 0], 4, 2),
])
def test_early_stopping(options: dict[str, Any], values: list[float], epochs: int, best: int) -> None:
    x, y = random_data()
    net = build()
    states = []
    early = EarlyStopping("val_loss", **options)
    history = net.fit(
        x, y, epochs=6, optimizer=fnn.SGD(0.2), validation_data=(x, y),
        callbacks=[Scripted("val_loss", values), early, lambda run: states.append(bits(run.net))])
    assert len(history.epochs) == epochs and early.best_epoch == best and early.best == values[best - 1]
    assert bits(net) == states[best - 1]
    assert (history.stopped is None) == (epochs == 6)


def test_early_stopping_keeps_the_last_state_if_asked() -> None:
    x, y = random_data()
    states: list[Any] = []
    net = build()
    net.fit(x, y, epochs=4, validation_data=(x, y), callbacks=[
        Scripted("val_accuracy", [0.5, 0.4, 0.4, 0.4]), EarlyStopping("val_accuracy", patience=1, restore_best=False),
        lambda run: states.append(bits(run.net))])
    assert len(states) == 3 and bits(net) == states[-1]


def test_stop_at_a_target() -> None:
    x, y = random_data()
    history = build().fit(x, y, epochs=5, callbacks=[Scripted("loss", [3, 2, 1, 0, 0]), StopAt("loss", 1)])
    assert len(history.epochs) == 3 and history.stopped == "loss has reached 1"
    history = build().fit(x, y, epochs=5, validation_data=(x, y), callbacks=[
        Scripted("val_accuracy", [0.1, 0.5, 0.9, 1, 1]), StopAt("val_accuracy", 0.9)])
    assert len(history.epochs) == 3


@pytest.mark.parametrize(("options", "epochs"), [
    ({}, [1, 2, 3, 4, 5]), ({"every_epochs": 2}, [2, 4]),
    ({"every_seconds": 1e9}, []), ({"every_seconds": 1e-9}, [1, 2, 3, 4, 5]), ({"every_epochs": 3, "every_seconds": 1e9}, [3]),
])
def test_checkpoints(options: dict[str, Any], epochs: list[int], tmp_path: Path) -> None:
    x, y = random_data()
    states = {}

    def keep(run: Run) -> None:
        states[run.record["epoch"]] = bits(run.net)

    checkpoint = Checkpoint(tmp_path / "at-{epoch}.safetensors", **options)
    net = build()
    net.fit(x, y, epochs=5, callbacks=[keep, checkpoint])
    assert {path.name for path in tmp_path.iterdir()} == {f"at-{epoch}.safetensors" for epoch in epochs}
    for epoch in epochs:
        assert bits(fnn.load(tmp_path / f"at-{epoch}.safetensors")) == states[epoch]
    if epochs:
        # goes on to the end as the network itself would
        late = fnn.load(tmp_path / f"at-{epochs[-1]}.safetensors")
        late.fit(x, y, epochs=5 - epochs[-1])
        assert bits(late) == bits(net)


def test_a_checkpoint_takes_the_place_of_the_one_before(tmp_path: Path) -> None:
    x, y = random_data()
    net = build()
    net.fit(x, y, epochs=3, callbacks=[Checkpoint(str(tmp_path / "net.safetensors"))])
    assert [path.name for path in tmp_path.iterdir()] == ["net.safetensors"]
    assert bits(fnn.load(tmp_path / "net.safetensors")) == bits(net)


@pytest.mark.parametrize(("make", "error", "name"), [
    (lambda: Checkpoint(3), TypeError, "path"),
    (lambda: Checkpoint("a", every_epochs=0), ValueError, "every_epochs"),
    (lambda: Checkpoint("a", every_seconds=0), ValueError, "every_seconds"),
    (lambda: EarlyStopping(patience=-1), ValueError, "patience"),
    (lambda: EarlyStopping(3), TypeError, "monitor"),
    (lambda: EarlyStopping(mode="up"), ValueError, "mode"),
    (lambda: EarlyStopping(restore_best=1), TypeError, "restore_best"),
    (lambda: StopAt("loss", "low"), TypeError, "value"),
    (lambda: MaxTime(0), ValueError, "seconds"),
    (lambda: MaxSteps(0), ValueError, "steps"),
    (lambda: TensorBoard(3), TypeError, "folder"),
])
def test_refused(make: Any, error: type[Exception], name: str) -> None:
    with pytest.raises(error, match=rf"^{name}: expected"):
        make()


@pytest.mark.parametrize(("options", "error", "message"), [
    ({"callbacks": 3}, TypeError, "callbacks: expected a list"),
    ({"callbacks": [3]}, TypeError, r"callbacks\[0\]: expected"),
    ({"callbacks": [MaxSteps]}, TypeError, r"callbacks\[0\]: expected"),
    ({"callbacks": [Record(0)]}, ValueError, "every: expected"),
    ({"callbacks": [EarlyStopping()]}, ValueError, "monitor: expected one of .*; give fit validation_data"),
    ({"callbacks": [StopAt("f1", 1)]}, ValueError, "monitor: expected one of"),
    ({"progress": 1}, TypeError, "progress: expected"),
])
def test_refused_by_fit(options: dict[str, Any], error: type[Exception], message: str) -> None:
    x, y = random_data()
    net = build()
    before = bits(net)
    with pytest.raises(error, match="^" + message):
        net.fit(x, y, **options)
    assert bits(net) == before
    net.fit(x, y)


# ---------------------------------------------------------------------------------------------- progress, history

def test_progress_in_a_log(capsys: pytest.CaptureFixture[str]) -> None:
    x, y = random_data()
    build().fit(x, y, epochs=2, progress=True, validation_data=(x, y))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    for i, line in enumerate(lines):
        assert re.fullmatch(
            rf"epoch {i + 1}/2: loss [\d.]+, lr 0.01, val_loss [\d.]+, val_accuracy [\d.]+, [\d,]+ rows/s", line), line
    for progress in (None, False):
        build().fit(x, y, progress=progress)
    assert capsys.readouterr().err == ""


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tqdm")
    monkeypatch.setattr(network, "PATIENCE", 0.0)
    monkeypatch.setattr(sys, "stderr", Terminal())
    x, y = random_data()
    build().fit(x, y, epochs=2, batch_size=8, progress=True, validation_data=(x, y))
    text = sys.stderr.getvalue()     # type: ignore[attr-defined]
    assert "epoch 2/2" in text and "val_loss" in text and "rows/s" in text and "48.0/48.0" in text


def test_progress_on_a_terminal_needs_tqdm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    x, y = random_data()
    net = build()
    with pytest.raises(ImportError, match=r"^progress: needs tqdm.*fastnn\[progress\]"):
        net.fit(x, y, progress=True)
    net.fit(x, y, callbacks=[])


def test_progress_bar_is_an_ordinary_callback(capsys: pytest.CaptureFixture[str]) -> None:
    x, y = random_data()
    build().fit(x, y, callbacks=[ProgressBar()])
    assert capsys.readouterr().err.startswith("epoch 1/1: loss ")


def test_history_as_a_file_and_a_table(tmp_path: Path) -> None:
    x, y = random_data()
    history = build().fit(x, y, epochs=3, validation_data=(x, y))
    history.to_csv(tmp_path / "history.csv")
    with open(tmp_path / "history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [{name: float(value) for name, value in row.items()} for row in rows] == history.epochs
    pytest.importorskip("pandas")
    assert history.to_frame().to_dict("records") == history.epochs


def test_table_needs_pandas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=r"^to_frame: needs pandas.*fastnn\[pandas\]"):
        fnn.History().to_frame()


def test_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    x, y = random_data()
    build().fit(x, y, epochs=2, callbacks=[TensorBoard(tmp_path)])
    files = list(tmp_path.iterdir())
    assert len(files) == 1 and b"rows_per_second" in files[0].read_bytes()


def test_tensorboard_needs_its_writer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ImportError, match=r"^TensorBoard: needs tensorboardX.*fastnn\[tensorboard\]"):
        TensorBoard(tmp_path)
