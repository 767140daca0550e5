"""JAX with one jitted function for a whole epoch: a scan over its batches, with the step of `bench.peers.jax_step` inside."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import numpy as np

from bench.peers.jax_step import State, on_device, predict, start, step
from bench.task import Task
from fastnn.reference import Array


class Rival:
    def __init__(self, task: Task, x: Array, y: Array) -> None:
        jax.config.update("jax_enable_x64", task.dtype == "float64")
        self.task, self.n_rows = task, len(x)
        self.x, self.y = on_device(x), on_device(y)
        self.rng = np.random.default_rng(0)
        self._epoch = jax.jit(partial(epoch, task), donate_argnums=0)
        self.start()

    def start(self, seed: int = 0) -> None:
        self.state = start(self.task, seed)

    def losses(self, steps: int) -> list[float]:
        return [float(loss) for loss in self._run(np.stack(list(self.task.checked_batches(self.n_rows, steps))))]

    def train(self, epochs: int) -> None:
        batch = self.task.batch
        used = self.n_rows // batch * batch
        for _ in range(epochs):
            self._run(self.rng.permutation(self.n_rows)[:used].reshape(-1, batch))
        jax.block_until_ready(self.state)

    def predict(self, x: Array) -> Array:
        return predict(self.task, self.state, x)

    def _run(self, batches: Array) -> Any:
        self.state, losses = self._epoch(self.state, self.x, self.y, batches.astype(np.int32))
        return losses


def epoch(task: Task, state: State, x: Any, y: Any, batches: Any) -> tuple[State, Any]:
    """One step for each line of row numbers; the loss before each."""
    return jax.lax.scan(lambda state, rows: step(task, state, x, y, rows), state, batches)
