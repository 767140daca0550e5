"""Learning rates that change while a network trains.

A schedule is a function of the time t since a network began to train with an optimiser: in steps, or in epochs where it says
``per="epoch"``; t starts at 0. The rates of a whole epoch are worked out before it, so that the engine calls no Python.
`Sequential.fit` takes one of these for its ``batch_size``, too, if it is per epoch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from fastnn import _check

__all__ = [
    "Constant", "Cosine", "ExponentialDecay", "LinearDecay", "OneCycle", "ReduceOnPlateau", "Schedule", "StepDecay", "WarmUp",
]

Array = np.ndarray

PER = ("step", "epoch")


class Schedule:
    """What the schedules have in common. Not for use by itself.

    Called with times, an ndarray (N,) of float64, a schedule gives the rates at these, an ndarray (N,) of float64.

    Attributes
    ----------
    per : {"step", "epoch"}
        The unit of time.
    """

    OPTIONS: tuple[str, ...] = ()   # the arguments, each an attribute
    per: str

    def __call__(self, t: Array) -> Array:
        raise NotImplementedError

    def at(self, t: float) -> float:
        """The rate at one time.

        Parameters
        ----------
        t : float
            Steps or epochs since the start.

        Returns
        -------
        float

        Raises
        ------
        TypeError, ValueError
            If `t` is no number.
        """
        return float(self(np.array([t], np.float64))[0])

    def config(self) -> dict[str, Any]:
        """What `from_config` makes the same schedule from: a dict of numbers, strings and such dicts."""
        values = {name: getattr(self, name) for name in self.OPTIONS}
        return {"kind": type(self).__name__} | {
            name: value.config() if isinstance(value, Schedule) else value for name, value in values.items()}

    def state(self) -> dict[str, Any]:
        """What it has learnt from the epochs so far; empty but for `ReduceOnPlateau`."""
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave."""
        _check.entries(state, "state", self.state().keys())

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={getattr(self, name)!r}' for name in self.OPTIONS)})"


def _per(value: Any) -> str:
    return _check.choice(value, "per", PER)


def _length(value: Any, name: str) -> int:
    return _check.integer(value, name, least=1)


class Constant(Schedule):
    """The same rate at all times.

    Parameters
    ----------
    lr : float
        >= 0.
    per : {"step", "epoch"}
        The unit of time.

    Raises
    ------
    TypeError, ValueError
        Naming the argument.
    """

    OPTIONS = ("lr", "per")

    def __init__(self, lr: float, per: str = "step") -> None:
        self.lr, self.per = _check.non_negative(lr, "lr"), _per(per)

    def __call__(self, t: Array) -> Array:
        return np.full(len(t), self.lr)


class LinearDecay(Schedule):
    """``(1 - a) lr + a final`` with ``a = t / tau``, and `final` from tau on: Goodfellow et al. (2016), equation 8.14.

    Parameters
    ----------
    lr : float
        >= 0.
    tau : int
        Steps or epochs until `final` is reached.
    final : float, optional
        >= 0. None is 1 % of `lr`, as the book recommends.
    per : {"step", "epoch"}
        The unit of time.

    Raises
    ------
    TypeError, ValueError
        Naming the argument.
    """

    OPTIONS = ("lr", "tau", "final", "per")

    def __init__(self, lr: float, tau: int, final: float | None = None, per: str = "step") -> None:
        self.lr, self.tau, self.per = _check.non_negative(lr, "lr"), _length(tau, "tau"), _per(per)
        self.final = 0.01 * self.lr if final is None else _check.non_negative(final, "final")

    def __call__(self, t: Array) -> Array:
        a = np.minimum(t / self.tau, 1)
        return (1 - a) * self.lr + a * self.final


class StepDecay(Schedule):
    """``lr factor^floor(t / every)``, like PyTorch's ``StepLR``.

    Parameters
    ----------
    lr : float
        >= 0.
    every : int
        Steps or epochs between two changes.
    factor : float
        > 0. Above 1 it grows, as for a batch size.
    per : {"step", "epoch"}
        The unit of time.

    Raises
    ------
    TypeError, ValueError
        Naming the argument.
    """

    OPTIONS = ("lr", "every", "factor", "per")

    def __init__(self, lr: float, every: int, factor: float = 0.1, per: str = "epoch") -> None:
        self.lr, self.every, self.per = _check.non_negative(lr, "lr"), _length(every, "every"), _per(per)
        self.factor = _check.positive(factor, "factor")

    def __call__(self, t: Array) -> Array:
        return self.lr * self.factor ** np.floor(t / self.every)


class ExponentialDecay(Schedule):
    """``lr factor^(t / every)``, like PyTorch's ``ExponentialLR``. Arguments and errors are those of `StepDecay`."""

    OPTIONS = ("lr", "factor", "every", "per")

    def __init__(self, lr: float, factor: float, every: int = 1, per: str = "epoch") -> None:
        self.lr, self.every, self.per = _check.non_negative(lr, "lr"), _length(every, "every"), _per(per)
        self.factor = _check.positive(factor, "factor")

    def __call__(self, t: Array) -> Array:
        return self.lr * self.factor ** (t / self.every)


class Cosine(Schedule):
    """``final + (lr - final) (1 + cos(pi t / length)) / 2``, then `final`: Loshchilov & Hutter (2017), equation 5, one period.

    Parameters
    ----------
    lr : float
        >= 0.
    length : int
        Steps or epochs until `final` is reached.
    final : float
        >= 0.
    per : {"step", "epoch"}
        The unit of time.

    Raises
    ------
    TypeError, ValueError
        Naming the argument.
    """

    OPTIONS = ("lr", "length", "final", "per")

    def __init__(self, lr: float, length: int, final: float = 0.0, per: str = "step") -> None:
        self.lr, self.length, self.per = _check.non_negative(lr, "lr"), _length(length, "length"), _per(per)
        self.final = _check.non_negative(final, "final")

    def __call__(self, t: Array) -> Array:
        return _cosine(self.lr, self.final, t / self.length)


class WarmUp(Schedule):
    """From `start` in a straight line to what `schedule` begins with, in the time `length`; then `schedule` itself.

    Goyal et al. (2017), section 2.2, "gradual warmup". The times are those of `schedule`: steps or epochs.

    Parameters
    ----------
    schedule : Schedule or float
        A number is `Constant`, per step. No `ReduceOnPlateau`.
    length : int
        Steps or epochs of the rise.
    start : float
        >= 0.

    Raises
    ------
    TypeError, ValueError
        Naming the argument.
    """

    OPTIONS = ("schedule", "length", "start")

    def __init__(self, schedule: Schedule | float, length: int, start: float = 0.0) -> None:
        self.schedule = schedule if isinstance(schedule, Schedule) else Constant(_check.non_negative(schedule, "schedule"))
        if self.schedule.state():
            raise _check.wrong_kind(schedule, "schedule", "a schedule that depends on the time alone")
        self.length, self.start, self.per = _length(length, "length"), _check.non_negative(start, "start"), self.schedule.per

    def __call__(self, t: Array) -> Array:
        a = t / self.length
        rising = self.start + (self.schedule.at(0) - self.start) * a
        return np.where(a < 1, rising, self.schedule(np.maximum(t - self.length, 0)))


class OneCycle(Schedule):
    """Up to `lr` and down again, each along half a cosine: Smith & Topin (2018), with the defaults of PyTorch.

    Parameters
    ----------
    lr : float
        The largest rate, >= 0, reached after `rise` of the time.
    length : int
        Steps or epochs of the cycle; then the rate stays at its `final`.
    rise : float
        In (0, 1).
    start : float, optional
        >= 0. None is ``lr / 25``.
    final : float, optional
        >= 0. None is ``start / 10000``.
    per : {"step", "epoch"}
        The unit of time.

    Raises
    ------
    TypeError, ValueError
        Naming the argument.
    """

    OPTIONS = ("lr", "length", "rise", "start", "final", "per")

    def __init__(
        self, lr: float, length: int, rise: float = 0.3, start: float | None = None, final: float | None = None,
        per: str = "step",
    ) -> None:
        self.lr, self.length, self.per = _check.non_negative(lr, "lr"), _length(length, "length"), _per(per)
        self.rise = _check.inner_fraction(rise, "rise")
        self.start = self.lr / 25 if start is None else _check.non_negative(start, "start")
        self.final = self.start / 1e4 if final is None else _check.non_negative(final, "final")

    def __call__(self, t: Array) -> Array:
        top = self.rise * self.length
        falling = _cosine(self.lr, self.final, (t - top) / (self.length - top))
        return np.where(t < top, _cosine(self.start, self.lr, t / top), falling)


class ReduceOnPlateau(Schedule):
    """The rate times `factor` whenever a number of the history has not got better for more than `patience` epochs.

    PyTorch's ``ReduceLROnPlateau``. Its state belongs to one training: give each network a schedule of its own.

    Parameters
    ----------
    lr : float
        What it starts with, >= 0.
    factor : float
        In (0, 1).
    patience : int
        Epochs without an improvement that are put up with.
    monitor : str
        A name in ``History.epochs``; those that begin with ``"val_"`` need ``validation_data``.
    mode : {"min", "max"}, optional
        What is better; None is ``"max"`` for an accuracy, else ``"min"``.
    min_delta : float
        The least change that counts as an improvement, >= 0.
    min_lr : float
        The rate does not fall below it; >= 0.

    Raises
    ------
    TypeError, ValueError
        Naming the argument.
    """

    OPTIONS = ("lr", "factor", "patience", "monitor", "mode", "min_delta", "min_lr")
    per = "epoch"

    def __init__(
        self, lr: float, factor: float = 0.1, patience: int = 10, monitor: str = "val_loss", mode: str | None = None,
        min_delta: float = 0.0, min_lr: float = 0.0,
    ) -> None:
        self.lr, self.factor = _check.non_negative(lr, "lr"), _check.inner_fraction(factor, "factor")
        self.patience, self.monitor = _check.count(patience, "patience"), _check.string(monitor, "monitor")
        self.mode = better(mode, monitor)
        self.min_delta, self.min_lr = _check.non_negative(min_delta, "min_delta"), _check.non_negative(min_lr, "min_lr")
        self._now = self.lr
        self._watch = Watch(self.mode, self.min_delta)

    def __call__(self, t: Array) -> Array:
        return np.full(len(t), self._now)

    def observe(self, record: Mapping[str, Any]) -> None:
        """An epoch has ended with this record."""
        self._watch.see(record[self.monitor])
        if self._watch.waited > self.patience:
            self._now = min(self._now, max(self._now * self.factor, self.min_lr))
            self._watch.waited = 0

    def state(self) -> dict[str, Any]:
        return {"now": self._now} | self._watch.state()

    def load_state(self, state: Mapping[str, Any]) -> None:
        super().load_state(state)
        self._now = _check.non_negative(state["now"], "now")
        self._watch.load_state(state)


def better(mode: str | None, monitor: str) -> str:
    """Whether more of a number is better ("max") or less ("min"), unless it is said."""
    if mode is None:
        return "max" if monitor.endswith("accuracy") else "min"
    return _check.choice(mode, "mode", ("min", "max"))


class Watch:
    """The best value of a number so far, and for how many epochs it has not got better.

    Parameters
    ----------
    mode : {"min", "max"}
    min_delta : float
    """

    def __init__(self, mode: str, min_delta: float) -> None:
        self.sign = 1 if mode == "min" else -1
        self.min_delta = min_delta
        self.best: float | None = None
        self.waited = 0

    def see(self, value: float) -> bool:
        """Whether this value is the best one. NaN and infinity never are."""
        if math.isfinite(value) and (self.best is None or self.sign * (self.best - value) > self.min_delta):
            self.best, self.waited = float(value), 0
            return True
        self.waited += 1
        return False

    def state(self) -> dict[str, Any]:
        return {"best": self.best, "waited": self.waited}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.best = None if state["best"] is None else _check.number(state["best"], "best")
        self.waited = _check.integer(state["waited"], "waited", least=0)


def _cosine(first: float, last: float, a: Array) -> Array:
    """Half a cosine from `first` at a = 0 to `last` from a = 1 on."""
    return last + (first - last) * (1 + np.cos(np.pi * np.clip(a, 0, 1))) / 2


KINDS: dict[str, type[Schedule]] = {kind.__name__: kind for kind in (
    Constant, LinearDecay, StepDecay, ExponentialDecay, Cosine, WarmUp, OneCycle, ReduceOnPlateau)}


def from_config(config: Mapping[str, Any]) -> Schedule:
    """The schedule that `Schedule.config` described.

    Raises
    ------
    TypeError, ValueError
        If it describes none.
    """
    kind, options = _check.described(config, "kind", KINDS)
    return kind(**{name: from_config(value) if isinstance(value, Mapping) else value for name, value in options.items()})
