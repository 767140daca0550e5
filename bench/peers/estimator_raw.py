"""`Sequential.fit` with the network of the estimators: for the suite `sklearn`."""

from __future__ import annotations

from typing import Any

import fastnn
from bench.peers import own
from bench.task import Task
from fastnn.reference import Array


class Rival(own.Rival):
    def __init__(self, task: Task, x: Array, y: Array) -> None:
        self.decay = 1e-4 / task.batch
        super().__init__(task, x, y)

    def start(self, seed: int = 0) -> None:
        super().start(seed)
        self.optimizer: Any = (
            fastnn.SGD(lr=self.task.lr, momentum=self.task.momentum, nesterov=True, weight_decay=self.decay)
            if self.task.solver == "sgd"
            else fastnn.Adam(lr=self.task.lr, eps_hat=True, weight_decay=self.decay)
        )

    def train(self, epochs: int) -> None:
        self.net.fit(
            self.x, self.y, epochs=epochs, batch_size=self.task.batch, optimizer=self.optimizer, last_batch="keep",
            check_finite=False,
        )  # fmt: skip
