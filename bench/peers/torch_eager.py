"""PyTorch as its users write it for a CPU, with the optimiser that updates all parameters in one fused call."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import torch

from bench.peers.stepwise import Stepwise
from bench.task import Task
from fastnn.reference import Array

ACTIVATIONS: dict[str, Any] = {"relu": torch.nn.ReLU, "tanh": torch.nn.Tanh}
LOSSES: dict[str, Any] = {
    "softmax_cross_entropy": torch.nn.functional.cross_entropy,
    "mean_squared_error": torch.nn.functional.mse_loss,
}


class Rival(Stepwise):
    def __init__(self, task: Task, x: Array, y: Array) -> None:
        super().__init__(task, len(x))
        torch.set_num_threads(task.threads)
        self.x, self.y = torch.from_numpy(x), torch.from_numpy(y)
        self.model = model(task)
        self.start()

    def start(self, seed: int = 0) -> None:
        load(self.model, self.task.initial_state(seed))
        self.optimizer = torch.optim.SGD(
            self.model.parameters(), lr=self.task.lr, momentum=self.task.momentum, fused=True
        )
        self.model.train()

    def indices(self, rows: Array) -> Any:
        return torch.from_numpy(rows)

    def step(self, rows: Any) -> Any:
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss(rows)
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def predict(self, x: Array) -> Array:
        self.model.eval()
        with torch.inference_mode():
            outputs = self.model(torch.from_numpy(x))
        self.model.train()
        return np.asarray(outputs.argmax(dim=1) if self.task.loss == "softmax_cross_entropy" else outputs)

    def loss(self, rows: Any) -> Any:
        x, y = self.x.index_select(0, rows), self.y.index_select(0, rows)
        return LOSSES[self.task.loss](self.model(x), y)


def model(task: Task) -> Any:
    """The layers have the same indices as in fastnn's ``state_dict``."""
    layers: list[Any] = []
    dtype = getattr(torch, task.dtype)
    for n_in, n_out in itertools.pairwise(task.widths[:-1]):
        layers.append(torch.nn.Linear(n_in, n_out, bias=not task.batch_norm, dtype=dtype))
        layers += [torch.nn.BatchNorm1d(n_out, dtype=dtype)] if task.batch_norm else []
        layers.append(ACTIVATIONS[task.activation]())
    return torch.nn.Sequential(*layers, torch.nn.Linear(task.widths[-2], task.widths[-1], dtype=dtype))


def load(model: Any, state: dict[str, Array]) -> None:
    """Overwrite the parameters in place; PyTorch keeps weights as (out, in)."""
    names = {"gamma": "weight", "beta": "bias"}
    given = {}
    for name, a in state.items():
        layer, kind = name.split(".")
        given[f"{layer}.{names.get(kind, kind)}"] = torch.from_numpy(a.T if kind == "weight" else a)
    model.load_state_dict(given, strict=False)  # it also counts batches
