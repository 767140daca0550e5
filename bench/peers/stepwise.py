"""What the rivals share that Python drives step by step: the order of the rows and the loop over their batches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np

from bench.task import Task
from fastnn.reference import Array


class Stepwise(ABC):
    def __init__(self, task: Task, n_rows: int) -> None:
        self.task, self.n_rows = task, n_rows
        self.rng = np.random.default_rng(0)

    @abstractmethod
    def step(self, rows: Any) -> Any:
        """One update from the given rows of the data; the loss before it, in whatever form is there without waiting."""

    def indices(self, rows: Array) -> Any:
        """Row numbers as `step` takes them; a part of them must be one too."""
        return rows

    def finish(self) -> None:  # noqa: B027 - most have nothing to wait for
        """Wait for what has only been asked for so far."""

    def losses(self, steps: int) -> list[float]:
        return [float(self.step(self.indices(rows))) for rows in self.task.checked_batches(self.n_rows, steps)]

    def train(self, epochs: int) -> None:
        batch = self.task.batch
        for _ in range(epochs):
            order = self.indices(self.rng.permutation(self.n_rows))
            for start in range(0, self.n_rows - batch + 1, batch):
                self.step(order[start : start + batch])
        self.finish()
