"""What `Sequential.fit` calls while it trains: stopping, saving, showing how it goes.

A callback is a `Callback`, or a function of one `Run`, which is called after each epoch. It may read the network (`evaluate`,
`state_dict`, `save`, ...), but not train it. It runs between two steps; what is not used costs nothing.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any

from fastnn import _check
from fastnn.schedules import Watch, better
from fastnn.training import History

__all__ = [
    "Callback", "Checkpoint", "EarlyStopping", "MaxSteps", "MaxTime", "ProgressBar", "Run", "StopAt", "TensorBoard",
]

if TYPE_CHECKING:
    from fastnn.network import Sequential
    from fastnn.optimizers import Optimizer


class Run:
    """One call of `Sequential.fit`, as its callbacks see it.

    Attributes
    ----------
    net : Sequential
    optimizer : SGD, Adam or AdamW
    history : History
    epochs, epoch : int
        How many there should be, and which one this is, counted from 1; 0 before the first.
    step : int
        Steps taken since `fit` began.
    rows, row : int
        The rows of an epoch, and how many of this one have been trained on.
    metrics : tuple of str
        The names in the record of an epoch.
    record : dict
        Of the last whole epoch, as it stands in the history; empty before.
    stopped : str or None
        Why training ends before its time.
    error : BaseException or None
        What ended it, in `on_fit_end`.
    """

    def __init__(
        self, net: Sequential, optimizer: Optimizer, history: History, epochs: int, rows: int, metrics: tuple[str, ...],
    ) -> None:
        self.net, self.optimizer, self.history = net, optimizer, history
        self.epochs, self.rows, self.metrics = epochs, rows, metrics
        self.epoch = self.step = self.row = 0
        self.record: dict[str, Any] = {}
        self.stopped: str | None = None
        self.error: BaseException | None = None

    def stop(self, reason: str = "stopped by a callback") -> None:
        """End the training when the callbacks have been called.

        Parameters
        ----------
        reason : str
            What ``History.stopped`` is to say.

        Raises
        ------
        TypeError
            If `reason` is no string.
        """
        self.stopped = _check.string(reason, "reason")


class Callback:
    """What `fit` calls. Override what is needed.

    Attributes
    ----------
    every : int
        Steps of this `fit` between two calls of `on_step`.
    """

    every: int = 1
    _sees_epochs = True     # whether it may look at the history, which must then have each epoch as soon as that is over

    def on_fit_begin(self, run: Run) -> None:
        """Before the first step; nothing has changed yet."""

    def on_step(self, run: Run) -> None:
        """After each `every` steps."""

    def on_tick(self, run: Run) -> None:
        """About twenty times a second, after some step."""

    def on_epoch_end(self, run: Run) -> None:
        """After an epoch and its validation; ``run.record`` is the new record."""

    def on_fit_end(self, run: Run) -> None:
        """At the end, also where an error or Ctrl-C ends it, which ``run.error`` is then."""


class _Function(Callback):
    def __init__(self, function: Callable[[Run], Any]) -> None:
        self.function = function

    def on_epoch_end(self, run: Run) -> None:
        self.function(run)


class Calls:
    """The callbacks of one `fit`, sorted by what they override.

    Parameters
    ----------
    callbacks : sequence of Callback or callable
    progress : bool or None
        True adds a `ProgressBar`.
    """

    def __init__(self, callbacks: Any, progress: Any) -> None:
        _check.instance(callbacks, "callbacks", list | tuple, "a list of callbacks")
        found: list[Callback] = []
        for i, callback in enumerate(callbacks):
            if isinstance(callback, type) or not (isinstance(callback, Callback) or callable(callback)):
                raise _check.wrong_kind(callback, f"callbacks[{i}]", "a fastnn.callbacks.Callback or a function")
            found.append(callback if isinstance(callback, Callback) else _Function(callback))
        if progress is not None and _check.flag(progress, "progress"):
            found.append(ProgressBar())
        self.begin, self.step, self.tick, self.epoch_end, self.end = (
            [callback for callback in found if getattr(type(callback), name) is not getattr(Callback, name)]
            for name in ("on_fit_begin", "on_step", "on_tick", "on_epoch_end", "on_fit_end"))
        for callback in self.step:
            _check.integer(callback.every, "every", least=1)
        self.see_epochs = any(callback._sees_epochs for callback in found)
        self.ticked = time.perf_counter()

    def next_step(self, step: int) -> float:
        """The next step that an `on_step` waits for."""
        return min(((step // callback.every + 1) * callback.every for callback in self.step), default=math.inf)

    def on_step(self, run: Run) -> None:
        for callback in self.step:
            if run.step % callback.every == 0:
                callback.on_step(run)

    def on_tick(self, run: Run) -> None:
        self.ticked = time.perf_counter()
        for callback in self.tick:
            callback.on_tick(run)


class EarlyStopping(Callback):
    """Stop when a number of the history has not got better for more than `patience` epochs (Prechelt, 1998).

    Parameters
    ----------
    monitor : str
        A name in ``History.epochs``; those that begin with ``"val_"`` need ``validation_data``.
    patience : int
        Epochs without an improvement that are put up with.
    min_delta : float
        The least change that counts as an improvement, >= 0.
    mode : {"min", "max"}, optional
        What is better; None is ``"max"`` for an accuracy, else ``"min"``.
    restore_best : bool
        At the end of `fit` take the parameters and running statistics of the best epoch, however it ends but for an error.

    Attributes
    ----------
    best : float or None
        The best value.
    best_epoch : int or None
        The epoch that had it, as the history counts.

    Raises
    ------
    TypeError, ValueError
        Naming the argument.
    """

    def __init__(
        self, monitor: str = "val_loss", *, patience: int = 10, min_delta: float = 0.0, mode: str | None = None,
        restore_best: bool = True,
    ) -> None:
        self.monitor = _check.string(monitor, "monitor")
        self.patience = _check.integer(patience, "patience", least=0)
        self.min_delta = _check.non_negative(min_delta, "min_delta")
        self.mode = better(mode, monitor)
        self.restore_best = _check.flag(restore_best, "restore_best")
        self._watch = Watch(self.mode, self.min_delta)
        self.best_epoch: int | None = None
        self._state: Any = None

    @property
    def best(self) -> float | None:
        return self._watch.best

    def on_fit_begin(self, run: Run) -> None:
        _check.metric(self.monitor, run.metrics)
        self._watch = Watch(self.mode, self.min_delta)
        self.best_epoch = self._state = None

    def on_epoch_end(self, run: Run) -> None:
        if self._watch.see(run.record[self.monitor]):
            self.best_epoch = run.record["epoch"]
            if self.restore_best:
                self._state = run.net._plan.state.copy()
        elif self._watch.waited > self.patience:
            run.stop(f"{self.monitor} has not got better than {self.best:.6g} for {self._watch.waited} epochs")

    def on_fit_end(self, run: Run) -> None:
        if run.error is None and self._state is not None:
            run.net._plan.state[...] = self._state
        self._state = None


class StopAt(Callback):
    """Stop after the epoch in which a number of the history reaches `value`.

    Parameters
    ----------
    monitor : str
        As for `EarlyStopping`.
    value : float
    mode : {"min", "max"}, optional
        As for `EarlyStopping`: with ``"min"`` it is reached from above.

    Raises
    ------
    TypeError, ValueError
        Naming the argument.
    """

    def __init__(self, monitor: str, value: float, *, mode: str | None = None) -> None:
        self.monitor = _check.string(monitor, "monitor")
        self.value = _check.number(value, "value")
        self.mode = better(mode, monitor)

    def on_fit_begin(self, run: Run) -> None:
        _check.metric(self.monitor, run.metrics)

    def on_epoch_end(self, run: Run) -> None:
        value = run.record[self.monitor]
        if value >= self.value if self.mode == "max" else value <= self.value:
            run.stop(f"{self.monitor} has reached {value:.6g}")


class MaxTime(Callback):
    """Stop after so many seconds, at the first step behind them that `fit` looks up from: in about 0.05 s or one step.

    The epoch stays unfinished, as after Ctrl-C: its rows are not made up for by the next `fit`.

    Parameters
    ----------
    seconds : float
        > 0.

    Raises
    ------
    TypeError, ValueError
        Naming the argument.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = _check.positive(seconds, "seconds")
        self._started = 0.0

    def on_fit_begin(self, run: Run) -> None:
        self._started = time.monotonic()

    def on_tick(self, run: Run) -> None:
        if time.monotonic() - self._started >= self.seconds:
            run.stop(f"{self.seconds:g} seconds are over")

    on_epoch_end = on_tick


class MaxSteps(Callback):
    """Stop after so many steps of this `fit`. An epoch may stay unfinished, see `MaxTime`.

    Parameters
    ----------
    steps : int
        At least 1.

    Raises
    ------
    TypeError, ValueError
        Naming the argument.
    """

    def __init__(self, steps: int) -> None:
        self.every = _check.integer(steps, "steps", least=1)

    def on_step(self, run: Run) -> None:
        run.stop(f"{self.every} steps have been taken")


class Checkpoint(Callback):
    """Save the network after an epoch, by `Sequential.save`.

    Parameters
    ----------
    path : str or path
        ``{epoch}`` in it becomes the number of the epoch; otherwise each file takes the place of the one before.
    every_epochs : int, optional
        Epochs between two files. With neither this nor `every_seconds` it is 1.
    every_seconds : float, optional
        Save after the first epoch that ends so long after the last file, or after the beginning.

    Raises
    ------
    TypeError, ValueError
        Naming the argument.
    """

    def __init__(
        self, path: str | PathLike[str], *, every_epochs: int | None = None, every_seconds: float | None = None,
    ) -> None:
        _check.instance(path, "path", str | PathLike, "a path")
        self.path = fspath(path)
        self.every_epochs = None if every_epochs is None else _check.integer(every_epochs, "every_epochs", least=1)
        self.every_seconds = None if every_seconds is None else _check.positive(every_seconds, "every_seconds")
        if self.every_epochs is None and self.every_seconds is None:
            self.every_epochs = 1
        self._last_epoch, self._last_time = 0, 0.0

    def on_fit_begin(self, run: Run) -> None:
        self._last_epoch, self._last_time = 0, time.monotonic()

    def on_epoch_end(self, run: Run) -> None:
        now = time.monotonic()
        epochs = self.every_epochs is not None and run.epoch - self._last_epoch >= self.every_epochs
        if epochs or (self.every_seconds is not None and now - self._last_time >= self.every_seconds):
            run.net.save(self.path.replace("{epoch}", str(run.record["epoch"])))
            self._last_epoch, self._last_time = run.epoch, now


class ProgressBar(Callback):
    """How far it is, the loss, the validation and rows per second, on standard error.

    A bar, by tqdm, on a terminal or in a notebook; elsewhere, as in a log, a line for each epoch.
    """

    def __init__(self) -> None:
        self._bar: Any = None

    def on_fit_begin(self, run: Run) -> None:
        if sys.stderr.isatty() or "ipykernel" in sys.modules:
            try:
                from tqdm.auto import tqdm
            except ImportError:
                raise _check.missing("progress", "tqdm", "progress") from None
            self._bar = tqdm(total=run.epochs * run.rows, unit=" rows", unit_scale=True, desc=f"epoch 0/{run.epochs}")

    def on_tick(self, run: Run) -> None:
        if self._bar is not None:
            self._bar.update((run.epoch - 1) * run.rows + run.row - self._bar.n)

    def on_epoch_end(self, run: Run) -> None:
        numbers = {
            name: f"{value:.4g}" for name, value in run.record.items() if name not in ("epoch", "seconds", "rows_per_second")}
        if self._bar is not None:
            self._bar.set_description(f"epoch {run.epoch}/{run.epochs}", refresh=False)
            self._bar.set_postfix(numbers, refresh=False)
            self.on_tick(run)
        else:
            shown = ", ".join(f"{name} {value}" for name, value in numbers.items())
            print(f"epoch {run.epoch}/{run.epochs}: {shown}, {run.record['rows_per_second']:,.0f} rows/s", file=sys.stderr)

    def on_fit_end(self, run: Run) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class TensorBoard(Callback):
    """Write the numbers of each epoch for TensorBoard, by tensorboardX.

    Parameters
    ----------
    folder : str or path
        Of the event files; made if it is not there.

    Raises
    ------
    TypeError
        If `folder` is no path.
    ImportError
        Without tensorboardX.
    """

    def __init__(self, folder: str | PathLike[str]) -> None:
        _check.instance(folder, "folder", str | PathLike, "a path")
        self.folder = fspath(folder)
        try:
            from tensorboardX import SummaryWriter
        except ImportError:
            raise _check.missing("TensorBoard", "tensorboardX", "tensorboard") from None
        self._make = SummaryWriter
        self._writer: Any = None

    def on_fit_begin(self, run: Run) -> None:
        self._writer = self._make(self.folder)

    def on_epoch_end(self, run: Run) -> None:
        for name, value in run.record.items():
            if name != "epoch":
                self._writer.add_scalar(name, value, run.record["epoch"])

    def on_fit_end(self, run: Run) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None
