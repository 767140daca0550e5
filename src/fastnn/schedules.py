"""Learning rates that change while a network trains.

A schedule is a function of the time t since a network began to train with an optimiser: in steps, or in epochs where it says
``per="epoch"``; t starts at 0. The rates of a whole epoch are worked out before it, so that the engine calls no Python.
`Sequential.fit` takes one of these for its ``batch_size``, too, if it is per epoch.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastnn import _check

Array = np.ndarray

PER = ("step", "epoch")


class Schedule:
    """What the schedules have in common. Not for use by itself; called with times (N,), one gives rates (N,), both float64."""

    per: str

    def __call__(self, t: Array) -> Array:
        raise NotImplementedError

    def at(self, t: float) -> float:
        """The rate at one time."""
        return float(self(np.array([t], np.float64))[0])

    def config(self) -> dict[str, Any]:
        """What `from_config` makes the same schedule from: a dict of numbers, strings and such dicts."""
        values = {name: getattr(self, name) for name in _fields(type(self))}
        return {"kind": type(self).__name__} | {
            name: value.config() if isinstance(value, Schedule) else value for name, value in values.items()}

    def state(self) -> dict[str, Any]:
        """What it has learnt from the epochs so far; empty but for `ReduceOnPlateau`."""
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave."""
        _check.entries(state, "state", self.state().keys())

    def _checked(self, **kinds: Any) -> None:
        """Replace the fields by what their checks return."""
        for name, check in kinds.items():
            object.__setattr__(self, name, check(getattr(self, name), name))


def _fields(kind: type[Schedule]) -> list[str]:
    return [field.name for field in dataclasses.fields(kind)]    # type: ignore[arg-type]


def _per(value: Any, name: str) -> str:
    return _check.choice(value, name, PER)


def _length(value: Any, name: str) -> int:
    return _check.integer(value, name, least=1)


@dataclass(frozen=True)
class Constant(Schedule):
    """The same rate at all times."""

    lr: float
    per: str = "step"

    def __post_init__(self) -> None:
        self._checked(lr=_check.non_negative, per=_per)

    def __call__(self, t: Array) -> Array:
        return np.full(len(t), self.lr)


@dataclass(frozen=True)
class LinearDecay(Schedule):
    """``(1 - a) lr + a final`` with ``a = t / tau``, and `final` from tau on: Goodfellow et al. (2016), equation 8.14.

    Parameters
    ----------
    lr : float
    tau : int
        Steps or epochs until `final` is reached.
    final : float, optional
        None is 1 % of `lr`, as the book recommends.
    per : {"step", "epoch"}
    """

    lr: float
    tau: int
    final: float | None = None
    per: str = "step"

    def __post_init__(self) -> None:
        if self.final is None:
            object.__setattr__(self, "final", 0.01 * _check.non_negative(self.lr, "lr"))
        self._checked(lr=_check.non_negative, tau=_length, final=_check.non_negative, per=_per)

    def __call__(self, t: Array) -> Array:
        assert self.final is not None
        a = np.minimum(t / self.tau, 1)
        return (1 - a) * self.lr + a * self.final


@dataclass(frozen=True)
class StepDecay(Schedule):
    """``lr factor^floor(t / every)``.

    Parameters
    ----------
    lr : float
    every : int
        Steps or epochs between two changes.
    factor : float
        > 0. Above 1 it grows, as for a batch size.
    per : {"step", "epoch"}
    """

    lr: float
    every: int
    factor: float = 0.1
    per: str = "epoch"

    def __post_init__(self) -> None:
        self._checked(lr=_check.non_negative, every=_length, factor=_check.positive, per=_per)

    def __call__(self, t: Array) -> Array:
        return self.lr * self.factor ** np.floor(t / self.every)


@dataclass(frozen=True)
class ExponentialDecay(Schedule):
    """``lr factor^(t / every)``; arguments as for `StepDecay`."""

    lr: float
    factor: float
    every: int = 1
    per: str = "epoch"

    def __post_init__(self) -> None:
        self._checked(lr=_check.non_negative, factor=_check.positive, every=_length, per=_per)

    def __call__(self, t: Array) -> Array:
        return self.lr * self.factor ** (t / self.every)


@dataclass(frozen=True)
class Cosine(Schedule):
    """``final + (lr - final) (1 + cos(pi t / length)) / 2``, then `final`: Loshchilov & Hutter (2017), equation 5, one period.

    Parameters
    ----------
    lr : float
    length : int
        Steps or epochs until `final` is reached.
    final : float
    per : {"step", "epoch"}
    """

    lr: float
    length: int
    final: float = 0.0
    per: str = "step"

    def __post_init__(self) -> None:
        self._checked(lr=_check.non_negative, length=_length, final=_check.non_negative, per=_per)

    def __call__(self, t: Array) -> Array:
        return _cosine(self.lr, self.final, t / self.length)


@dataclass(frozen=True)
class WarmUp(Schedule):
    """From `start` in a straight line to what `schedule` begins with, in the time `length`; then `schedule` itself.

    Goyal et al. (2017), section 2.2, "gradual warmup". The times are those of `schedule`: steps or epochs.

    Parameters
    ----------
    schedule : Schedule or float
        A number is `Constant`, per step.
    length : int
    start : float
    """

    schedule: Schedule
    length: int
    start: float = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.schedule, Schedule):
            object.__setattr__(self, "schedule", Constant(_check.non_negative(self.schedule, "schedule")))
        if self.schedule.state():
            raise _check.wrong_kind(self.schedule, "schedule", "a schedule that depends on the time alone")
        self._checked(length=_length, start=_check.non_negative)

    @property
    def per(self) -> str:   # type: ignore[override]
        return self.schedule.per

    def __call__(self, t: Array) -> Array:
        a = t / self.length
        rising = self.start + (self.schedule.at(0) - self.start) * a
        return np.where(a < 1, rising, self.schedule(np.maximum(t - self.length, 0)))


@dataclass(frozen=True)
class OneCycle(Schedule):
    """Up to `lr` and down again, each along half a cosine: Smith & Topin (2018), with the defaults of PyTorch.

    Parameters
    ----------
    lr : float
        The largest rate, reached after `rise` of the time.
    length : int
        Steps or epochs of the cycle; then the rate stays at its `final`.
    rise : float
        In (0, 1).
    start : float, optional
        None is ``lr / 25``.
    final : float, optional
        None is ``start / 10000``.
    per : {"step", "epoch"}
    """

    lr: float
    length: int
    rise: float = 0.3
    start: float | None = None
    final: float | None = None
    per: str = "step"

    def __post_init__(self) -> None:
        if self.start is None:
            object.__setattr__(self, "start", _check.non_negative(self.lr, "lr") / 25)
        if self.final is None:
            object.__setattr__(self, "final", _check.non_negative(self.start, "start") / 1e4)
        self._checked(
            lr=_check.non_negative, length=_length, rise=_check.inner_fraction, start=_check.non_negative,
            final=_check.non_negative, per=_per)

    def __call__(self, t: Array) -> Array:
        assert self.start is not None and self.final is not None
        top = self.rise * self.length
        falling = _cosine(self.lr, self.final, (t - top) / (self.length - top))
        return np.where(t < top, _cosine(self.start, self.lr, t / top), falling)


@dataclass
class ReduceOnPlateau(Schedule):
    """The rate times `factor` whenever a number of the history has not got better for more than `patience` epochs.

    Its state belongs to one training: give each network a schedule of its own.

    Parameters
    ----------
    lr : float
    factor : float
        In (0, 1).
    patience : int
        Epochs without an improvement that are put up with.
    monitor : str
        A name in `History.epochs`; those that begin with ``"val_"`` need ``validation_data``.
    mode : {"min", "max"}, optional
        What is better; None is ``"max"`` for an accuracy, else ``"min"``.
    min_delta : float
        The least change that counts as an improvement.
    min_lr : float
        The rate does not fall below it.
    """

    lr: float
    factor: float = 0.1
    patience: int = 10
    monitor: str = "val_loss"
    mode: str | None = None
    min_delta: float = 0.0
    min_lr: float = 0.0

    def __post_init__(self) -> None:
        self._checked(
            lr=_check.non_negative, factor=_check.inner_fraction, patience=_check.count, monitor=_check.string,
            min_delta=_check.non_negative, min_lr=_check.non_negative)
        self.per = "epoch"
        self.mode = better(self.mode, self.monitor)
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
    _check.instance(config, "config", Mapping, "a mapping")
    kind = KINDS[_check.choice(config.get("kind"), "kind", KINDS)]
    options = {name: value for name, value in config.items() if name != "kind"}
    _check.options(options, kind)
    return kind(**{name: from_config(value) if isinstance(value, Mapping) else value for name, value in options.items()})
