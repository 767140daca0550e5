"""What `Sequential` is trained with."""

from __future__ import annotations

from fastnn import _check


class SGD:
    """Stochastic gradient descent; the update is `fastnn.sgd_update`.

    Parameters
    ----------
    lr : float
        Learning rate, >= 0.
    momentum : float
        In [0, 1).
    nesterov : bool
        Needs ``momentum > 0``.
    weight_decay : float
        >= 0. Acts on the weights of `Dense` only: decaying a bias, or the scale and shift of a `BatchNorm`, regularises
        nothing.
    clip_norm : float, optional
        > 0. A gradient whose Euclidean norm, over all parameters, is larger is scaled down to it before the update.

    Notes
    -----
    The velocity belongs to the network. It goes on as long as a network is trained with one and the same optimiser object,
    and starts at zero with another.
    """

    def __init__(
        self, lr: float = 0.01, *, momentum: float = 0.0, nesterov: bool = False, weight_decay: float = 0.0,
        clip_norm: float | None = None,
    ) -> None:
        self.lr = _check.non_negative(lr, "lr")
        self.momentum = _check.proper_fraction(momentum, "momentum")
        self.nesterov = _check.nesterov(nesterov, self.momentum)
        self.weight_decay = _check.non_negative(weight_decay, "weight_decay")
        self.clip_norm = None if clip_norm is None else _check.positive(clip_norm, "clip_norm")

    def __repr__(self) -> str:
        return (f"SGD(lr={self.lr}, momentum={self.momentum}, nesterov={self.nesterov}, "
                f"weight_decay={self.weight_decay}, clip_norm={self.clip_norm})")
