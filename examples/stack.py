"""A plain stack of dense layers without bias, one activation after each: what goes up through it and what comes back."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

import fastnn as fnn

Array = np.ndarray[Any, np.dtype[Any]]
Init = Callable[..., Array]


def weights(widths: Sequence[int], init: Init, rng: np.random.Generator, dtype: str = "float32") -> list[Array]:
    """A matrix (n_in, n_out) for each two widths that follow each other."""
    return [init(shape, rng=rng, dtype=dtype) for shape in pairwise(widths)]


def forward(x: Array, matrices: Sequence[Array], kind: str) -> list[Array]:
    """The input and the output of every layer."""
    signals = [x]
    for weight in matrices:
        z = fnn.dense_forward(signals[-1], weight)
        signals.append(fnn.activation_forward(z, kind, out=z))
    return signals


@dataclass(frozen=True)
class Gradients:
    """By every part of a stack, bottom layer first."""

    signals: list[Array]    # by the input and by the output of every layer
    sums: list[Array]       # by the input of every activation
    weights: list[Array]


def backward(dout: Array, signals: Sequence[Array], matrices: Sequence[Array], kind: str) -> Gradients:
    """Take `dout`, the gradient by the last output, down through the stack."""
    gradients = Gradients([dout], [], [])
    for x, y, weight in reversed(list(zip(signals[:-1], signals[1:], matrices, strict=True))):
        dz = fnn.activation_backward(gradients.signals[0], y, kind)
        dx, dweight, _ = fnn.dense_backward(dz, x, weight)
        assert dx is not None
        gradients.signals.insert(0, dx)
        gradients.sums.insert(0, dz)
        gradients.weights.insert(0, dweight)
    return gradients


def rms(a: Array) -> float:
    """In float64: the squares of what has vanished are too small for float32."""
    return math.sqrt(np.mean(np.square(a, dtype=np.float64)))
