"""scikit-learn's multi-layer perceptron. It has no batch norm: where the network has some, this one does less work."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.neural_network import MLPClassifier, MLPRegressor

from bench.task import Task
from fastnn.reference import Array


class Rival:
    def __init__(self, task: Task, x: Array, y: Array) -> None:
        self.task, self.x = task, x
        self.classes = np.arange(task.widths[-1]) if task.loss == "softmax_cross_entropy" else None
        # its squared error is half of the mean, and the gradient it takes is that of a sum over the outputs of a row
        self.halves = 1 if self.classes is not None else 2
        self.lr = self.halves * task.lr / (1 if self.classes is not None else task.widths[-1])
        self.y = y if self.classes is not None or y.shape[1] > 1 else y.ravel()
        self.start()

    def start(self, seed: int = 0) -> None:
        task = self.task
        kind = MLPRegressor if self.classes is None else MLPClassifier
        self.net: Any = kind(
            hidden_layer_sizes=task.widths[1:-1], activation=task.activation, solver="sgd", alpha=0.0, batch_size=task.batch,
            learning_rate_init=self.lr, momentum=task.momentum, nesterovs_momentum=False,
            random_state=np.random.RandomState(seed),
        )  # fmt: skip
        self._epoch(self.x[: task.batch], self.y[: task.batch])  # makes its arrays
        if not task.batch_norm:
            state = task.initial_state(seed)
            for i, weight, bias in zip([*task.hidden, task.output], self.net.coefs_, self.net.intercepts_, strict=True):
                weight[...], bias[...] = state[f"{i}.weight"], state[f"{i}.bias"]
        del self.net._optimizer  # and with it its velocities

    def losses(self, steps: int) -> list[float]:
        return [self._epoch(self.x[rows], self.y[rows]) for rows in self.task.checked_batches(len(self.x), steps)]

    def train(self, epochs: int) -> None:
        for _ in range(epochs):
            self._epoch(self.x, self.y)

    def predict(self, x: Array) -> Array:
        return np.asarray(self.net.predict(x))

    def _epoch(self, x: Array, y: Array) -> float:
        """One pass over the rows; the loss, which is that of fastnn where there is one batch."""
        if self.classes is None:
            self.net.partial_fit(x, y)
        else:
            self.net.partial_fit(x, y, classes=self.classes)
        return self.halves * float(self.net.loss_)
