"""fastnn itself, in a process of its own like every rival."""

from __future__ import annotations

import itertools
from typing import Any

import fastnn
from bench.task import Task
from fastnn.reference import Array

ACTIVATIONS: dict[str, Any] = {"relu": fastnn.ReLU, "tanh": fastnn.Tanh}


class Rival:
    def __init__(self, task: Task, x: Array, y: Array) -> None:
        self.task, self.x, self.y = task, x, y
        layers: list[Any] = []
        for n_in, n_out in itertools.pairwise(task.widths[:-1]):
            layers.append(fastnn.Dense(n_in, n_out, bias=not task.batch_norm))
            layers += [fastnn.BatchNorm(n_out)] if task.batch_norm else []
            layers.append(ACTIVATIONS[task.activation]())
        layers.append(fastnn.Dense(*task.widths[-2:]))
        self.net = fastnn.Sequential(layers, loss=task.loss, dtype=task.dtype, seed=0)
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
