"""What `Sequential` is trained with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np

from fastnn import _check, schedules
from fastnn.schedules import Schedule

DECAYS = ("weights", "all")
# an update in the words of the engine: momentum or beta1, nesterov, beta2, eps, eps_hat, decoupled
Rule = tuple[float, bool, float, float, bool, bool]


class Optimizer:
    """What the optimisers share: the learning rate, decay, clipping, and the average of the parameters."""

    OPTIONS: tuple[str, ...] = ("lr", "weight_decay", "clip_norm", "decay", "average", "average_from")

    def __init__(
        self, lr: float | Schedule, weight_decay: float, clip_norm: float | None, decay: str, average: float | str | None,
        average_from: int,
    ) -> None:
        self.lr = lr if isinstance(lr, Schedule) else _check.non_negative(lr, "lr")
        self.weight_decay = _check.non_negative(weight_decay, "weight_decay")
        self.clip_norm = None if clip_norm is None else _check.positive(clip_norm, "clip_norm")
        self.decay = _check.choice(decay, "decay", DECAYS)
        self.average = _check.average(average)
        self.average_from = _check.integer(average_from, "average_from", least=0)

    @property
    def moments(self) -> int:
        """How many arrays as large as the parameters the update keeps."""
        raise NotImplementedError

    @property
    def rule(self) -> Rule:
        """The update."""
        raise NotImplementedError

    def fits(self, dtype: np.dtype[Any]) -> None:
        """ValueError for a number that is out of its range once rounded to the dtype of the parameters."""
        if not isinstance(self.lr, Schedule):
            _check.coefficient(self.lr, "lr", dtype)
        _check.coefficient(self.weight_decay, "weight_decay", dtype)

    def config(self) -> dict[str, Any]:
        """What `from_config` makes the same optimiser from: a dict of JSON's values."""
        config = {"kind": type(self).__name__} | {name: getattr(self, name) for name in self.OPTIONS}
        return config | {"lr": self.lr.config()} if isinstance(self.lr, Schedule) else config

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """The optimiser of this class that `config` described; TypeError or ValueError if it describes none."""
        _, options = _check.described(config, "kind", {cls.__name__: cls}, cls.__name__)
        if isinstance(options.get("lr"), Mapping):
            options["lr"] = schedules.from_config(options["lr"])
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
        return f"{type(self).__name__}({', '.join(f'{name}={getattr(self, name)!r}' for name in self.OPTIONS)})"


class SGD(Optimizer):
    """Stochastic gradient descent; the update is `fastnn.sgd_update`, in the form of PyTorch.

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

    Raises
    ------
    TypeError, ValueError
        Naming the argument.

    Notes
    -----
    The velocity and the average belong to the network, and so does the time of a schedule. They go on as long as a network is
    trained with one and the same optimiser object, and start anew with another. But the optimiser of a network from a file is
    replaced by the first one with the same options, which goes on as it would have.
    """

    OPTIONS = ("lr", "momentum", "nesterov", "weight_decay", "clip_norm", "decay", "average", "average_from")

    def __init__(
        self, lr: float | Schedule = 0.01, *, momentum: float = 0.0, nesterov: bool = False, weight_decay: float = 0.0,
        clip_norm: float | None = None, decay: str = "weights", average: float | str | None = None, average_from: int = 0,
    ) -> None:
        super().__init__(lr, weight_decay, clip_norm, decay, average, average_from)
        self.momentum = _check.proper_fraction(momentum, "momentum")
        self.nesterov = _check.nesterov(nesterov, self.momentum)

    @property
    def moments(self) -> int:
        return 1 if self.momentum else 0

    @property
    def rule(self) -> Rule:
        return self.momentum, self.nesterov, 0.0, 0.0, False, False


class Adam(Optimizer):
    """Adam, with weight decay through the moments (L2); the update is `fastnn.adam_update`.

    Kingma & Ba (2015), algorithm 1. `AdamW` is the same with decoupled decay.

    Parameters
    ----------
    lr : float or Schedule
        Learning rate, >= 0, or one that changes with time, from `fastnn.schedules`. A step changes a parameter by that where
        its gradients agree, by less where they do not, and by 7.3 times as much at most, where they grow; with other betas,
        and ``beta1^2 < beta2``, by ``(1 - beta1) / sqrt((1 - beta2) (1 - beta1^2 / beta2))``.
    beta1, beta2 : float
        In [0, 1): how much of the old first and second moment stays at each step.
    eps : float
        > 0. What is added to the root of the second moment.
    eps_hat : bool
        Whether it is added before the bias of that moment is corrected, as in scikit-learn, Keras and TensorFlow, and not
        behind, as in PyTorch: see `adam_update`.
    weight_decay : float
        >= 0. The part of the parameter that is added to its gradient.
    clip_norm, decay, average, average_from
        As for `SGD`.

    Raises
    ------
    TypeError, ValueError
        Naming the argument.

    Notes
    -----
    Both moments, and the number of steps that they have seen, belong to the network. They go on and start anew as the velocity
    of `SGD` does.
    """

    OPTIONS = ("lr", "beta1", "beta2", "eps", "eps_hat", "weight_decay", "clip_norm", "decay", "average", "average_from")
    DECOUPLED = False

    def __init__(
        self, lr: float | Schedule = 0.001, *, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8,
        eps_hat: bool = False, weight_decay: float = 0.0, clip_norm: float | None = None, decay: str = "weights",
        average: float | str | None = None, average_from: int = 0,
    ) -> None:
        super().__init__(lr, weight_decay, clip_norm, decay, average, average_from)
        self.beta1 = _check.proper_fraction(beta1, "beta1")
        self.beta2 = _check.proper_fraction(beta2, "beta2")
        self.eps = _check.positive(eps, "eps")
        self.eps_hat = _check.flag(eps_hat, "eps_hat")

    @property
    def moments(self) -> int:
        return 2

    @property
    def rule(self) -> Rule:
        return self.beta1, False, self.beta2, self.eps, self.eps_hat, self.DECOUPLED

    def fits(self, dtype: np.dtype[Any]) -> None:
        super().fits(dtype)
        _check.beta(self.beta1, "beta1", dtype)
        _check.adam_eps(self.eps, _check.beta(self.beta2, "beta2", dtype), dtype)


class AdamW(Adam):
    """Adam with decoupled weight decay; the update is ``fastnn.adam_update(decoupled=True)``.

    Loshchilov & Hutter (2019), algorithm 2: the decay goes beside the moments, so that it is not divided by the second one.
    A step takes ``lr * weight_decay`` of a parameter away, as in PyTorch; the factor of decay in the paper is that product.

    Parameters
    ----------
    weight_decay : float
        >= 0.
    lr, beta1, beta2, eps, eps_hat, clip_norm, decay, average, average_from
        As for `Adam`.

    Raises
    ------
    TypeError, ValueError
        Naming the argument.
    """

    DECOUPLED = True

    def __init__(
        self, lr: float | Schedule = 0.001, *, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8,
        eps_hat: bool = False, weight_decay: float = 0.01, clip_norm: float | None = None, decay: str = "weights",
        average: float | str | None = None, average_from: int = 0,
    ) -> None:
        super().__init__(
            lr, beta1=beta1, beta2=beta2, eps=eps, eps_hat=eps_hat, weight_decay=weight_decay, clip_norm=clip_norm, decay=decay,
            average=average, average_from=average_from)


KINDS: dict[str, type[SGD | Adam]] = {kind.__name__: kind for kind in (SGD, Adam, AdamW)}


def from_config(config: Mapping[str, Any]) -> Optimizer:
    """The optimiser that `Optimizer.config` described; without a kind, an `SGD`.

    Raises
    ------
    TypeError, ValueError
        If it describes none.
    """
    _check.instance(config, "config", Mapping, "a mapping")
    return KINDS[_check.choice(config.get("kind", "SGD"), "kind", KINDS)].from_config(config)
