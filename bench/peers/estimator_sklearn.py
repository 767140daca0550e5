"""scikit-learn's `MLPClassifier`, from `fit` to `fit`: for the suite `sklearn`."""

from __future__ import annotations

import math
import warnings
from typing import Any

from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier

from bench.task import Task
from fastnn.reference import Array


class Rival:
    KIND: Any = MLPClassifier

    def __init__(self, task: Task, x: Array, y: Array) -> None:
        self.task, self.x, self.y = task, x, y
        self.options: dict[str, Any] = {
            "hidden_layer_sizes": task.widths[1:-1], "activation": task.activation, "solver": task.solver, "tol": 0.0,
            "batch_size": task.batch, "learning_rate_init": task.lr, "momentum": task.momentum, "n_iter_no_change": math.inf,
        }  # fmt: skip
        self.start()

    def start(self, seed: int = 0) -> None:
        self.seed = seed

    def losses(self, steps: int) -> list[float]:
        raise NotImplementedError("whole fits only")

    def train(self, epochs: int) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            self.net: Any = self.KIND(**self.options, max_iter=epochs, random_state=self.seed).fit(self.x, self.y)

    def predict(self, x: Array) -> Array:
        return self.net.predict(x)
