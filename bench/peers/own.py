"""fastnn itself, in a process of its own like every rival."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import fastnn
from bench.task import Task
from fastnn.reference import Array

ACTIVATIONS: dict[str, Any] = {"relu": fastnn.ReLU, "tanh": fastnn.Tanh}


def network(widths: Sequence[int], *, batch_norm: bool = True, activation: str = "relu", **options: Any) -> fastnn.Sequential:
    """Hidden layers of these widths; a batch norm takes the place of their biases."""
    layers: list[Any] = []
    for n_in, n_out in itertools.pairwise(widths[:-1]):
        layers.append(fastnn.Dense(n_in, n_out, bias=not batch_norm))
        layers += [fastnn.BatchNorm(n_out)] if batch_norm else []
        layers.append(ACTIVATIONS[activation]())
    return fastnn.Sequential([*layers, fastnn.Dense(*widths[-2:])], seed=0, **options)


class Rival:
    def __init__(self, task: Task, x: Array, y: Array) -> None:
        self.task, self.x, self.y = task, x, y
        self.net = network(
            task.widths, batch_norm=task.batch_norm, activation=task.activation, loss=task.loss, dtype=task.dtype
        )
        self.start()

    def start(self, seed: int = 0) -> None:
        self.net.load_state_dict(self.task.initial_state(seed))
        self.optimizer = fastnn.SGD(lr=self.task.lr, momentum=self.task.momentum)

    def losses(self, steps: int) -> list[float]:
        # through `fit`, because that is what races
        batches = self.task.checked_batches(len(self.x), steps)
        return [self._fit(self.x[rows], self.y[rows], 1, shuffle=False) for rows in batches]

    def train(self, epochs: int) -> None:
        self._fit(self.x, self.y, epochs)

    def predict(self, x: Array) -> Array:
        return self.net.predict(x)

    def _fit(self, x: Array, y: Array, epochs: int, shuffle: bool = True) -> float:
        history = self.net.fit(
            x, y, epochs=epochs, batch_size=self.task.batch, optimizer=self.optimizer, shuffle=shuffle, last_batch="drop"
        )
        return history.loss[-1]
