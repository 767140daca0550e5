"""What `Sequential` is trained with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastnn import _check
from fastnn.schedules import Schedule, from_config

DECAYS = ("weights", "all")
OPTIONS = ("lr", "momentum", "nesterov", "weight_decay", "clip_norm", "decay", "average", "average_from")


class SGD:
    """Stochastic gradient descent; the update is `fastnn.sgd_update`.

    Parameters
    ----------
    lr : float or Schedule
        Learning rate, >= 0, or one that changes with time, from `fastnn.schedules`.
    momentum : float
        In [0, 1).
    nesterov : bool
        Needs ``momentum > 0``.
    weight_decay : float
        >= 0.
    clip_norm : float, optional
        > 0. A gradient whose Euclidean norm, over all parameters, is larger is scaled down to it before the update.
    decay : {"weights", "all"}
        What `weight_decay` acts on. Decaying a bias, or the scale and shift of a `BatchNorm`, regularises nothing, so they are
        left alone unless it is ``"all"``.
    average : float or "polyak", optional
        Keep a running average of the parameters, for `Sequential.averaged`. ``"polyak"`` is their mean over all steps
        (Polyak & Juditsky, 1992; Goodfellow et al., section 8.7.3); a number in [0, 1) is the weight of the past in
        ``average * past + (1 - average) * parameters``, but for the first steps, which are averaged evenly. It is kept in
        float64 and takes as long as reading the parameters once more.
    average_from : int
        Steps before the average begins.

    Notes
    -----
    The velocity and the average belong to the network, and so does the time of a schedule. They go on as long as a network is
    trained with one and the same optimiser object, and start anew with another. But the optimiser of a network from a file is
    replaced by the first one with the same options, which goes on as it would have.
    """

    def __init__(
        self, lr: float | Schedule = 0.01, *, momentum: float = 0.0, nesterov: bool = False, weight_decay: float = 0.0,
        clip_norm: float | None = None, decay: str = "weights", average: float | str | None = None, average_from: int = 0,
    ) -> None:
        self.lr = lr if isinstance(lr, Schedule) else _check.non_negative(lr, "lr")
        self.momentum = _check.proper_fraction(momentum, "momentum")
        self.nesterov = _check.nesterov(nesterov, self.momentum)
        self.weight_decay = _check.non_negative(weight_decay, "weight_decay")
        self.clip_norm = None if clip_norm is None else _check.positive(clip_norm, "clip_norm")
        self.decay = _check.choice(decay, "decay", DECAYS)
        self.average = _check.average(average)
        self.average_from = _check.integer(average_from, "average_from", least=0)

    def config(self) -> dict[str, Any]:
        """What `SGD.from_config` makes the same optimiser from: a dict of JSON's values."""
        config = {name: getattr(self, name) for name in OPTIONS}
        return config | {"lr": self.lr.config()} if isinstance(self.lr, Schedule) else config

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> SGD:
        """The optimiser that `config` described; TypeError or ValueError if it describes none."""
        _check.options(config, cls)
        options = dict(config)
        if isinstance(options.get("lr"), Mapping):
            options["lr"] = from_config(options["lr"])
        return cls(**options)

    def state(self) -> dict[str, Any]:
        """What its schedule has learnt so far, if it is one that learns."""
        return self.lr.state() if isinstance(self.lr, Schedule) else {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave."""
        _check.entries(state, "state", self.state().keys())
        if isinstance(self.lr, Schedule):
            self.lr.load_state(state)

    def __repr__(self) -> str:
        return f"SGD({', '.join(f'{name}={getattr(self, name)!r}' for name in OPTIONS)})"
