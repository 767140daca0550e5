"""What is trained: one network on one data set, told to every rival in the same words."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from fastnn.reference import Array

CHECK_SEED = 1


@dataclass(frozen=True)
class Task:
    """Dense layers with an activation, and batch norm before it or not; a loss; SGD with momentum.

    `data` is an ``.npz`` file with x and y and, where accuracy counts, x_test and y_test.
    """

    widths: tuple[int, ...]
    batch: int
    data: str
    batch_norm: bool = True
    activation: str = "relu"
    loss: str = "softmax_cross_entropy"
    dtype: str = "float32"
    lr: float = 0.05
    momentum: float = 0.9
    threads: int = 1
    solver: str = "sgd"  # or "adam", of the suite `sklearn`

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Task:
        content: dict[str, Any] = json.loads(text)
        return cls(**content | {"widths": tuple(content["widths"])})

    @property
    def hidden(self) -> range:
        """The indices of the dense layers that are followed by (batch norm and) an activation."""
        return range(0, self.output, 3 if self.batch_norm else 2)

    @property
    def output(self) -> int:
        """The index of the last layer, which is dense and has a bias."""
        return (3 if self.batch_norm else 2) * (len(self.widths) - 2)

    @property
    def flop(self) -> float:
        """Multiplications and additions of the products of one step; the gradient of the rows themselves is not needed."""
        products = [n_in * n_out for n_in, n_out in itertools.pairwise(self.widths)]
        return 2.0 * self.batch * (3 * sum(products) - products[0])

    def initial_state(self, seed: int = 0) -> dict[str, Array]:
        """The ``state_dict`` to start from, the same in every process: uniform Xavier weights, the rest zeros and ones."""
        rng = np.random.default_rng(seed)
        state: dict[str, Array] = {}
        for i, (n_in, n_out) in zip([*self.hidden, self.output], itertools.pairwise(self.widths), strict=True):
            bound = math.sqrt(6 / (n_in + n_out))
            state[f"{i}.weight"] = rng.uniform(-bound, bound, (n_in, n_out)).astype(self.dtype)
            if i == self.output or not self.batch_norm:
                state[f"{i}.bias"] = np.zeros(n_out, self.dtype)
            else:
                for name, value in (("gamma", 1), ("beta", 0), ("running_mean", 0), ("running_var", 1)):
                    state[f"{i + 1}.{name}"] = np.full(n_out, value, self.dtype)
        return state

    def checked_batches(self, n_rows: int, steps: int) -> Iterator[Array]:
        """The rows of each of the first batches of an order that everyone follows to be compared."""
        order = np.random.default_rng(CHECK_SEED).permutation(n_rows)
        for step in range(steps):
            yield order[step * self.batch : (step + 1) * self.batch]
