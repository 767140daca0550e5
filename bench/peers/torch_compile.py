"""PyTorch with ``torch.compile``: a whole step, gathering, forward, backward and update, becomes compiled code.

That beats compiling the forward pass and leaving the rest to autograd and the fused optimiser. Needs a C++ compiler when it
runs.
"""

from __future__ import annotations

from typing import Any

import torch

from bench.peers import torch_eager
from bench.task import Task
from fastnn.reference import Array

CONFIG: Any = torch._dynamo.config
if hasattr(CONFIG, "trace_autograd_ops"):
    CONFIG.trace_autograd_ops = True  # without it ``autograd.grad`` ends what is compiled in one piece


class Rival(torch_eager.Rival):
    def __init__(self, task: Task, x: Array, y: Array) -> None:
        super().__init__(task, x, y)
        self._parameters = list(self.model.parameters())
        self._velocity = [torch.zeros_like(p) for p in self._parameters]
        self._compiled: Any = torch.compile(self._step, dynamic=False)

    def start(self, seed: int = 0) -> None:
        super().start(seed)
        for v in getattr(self, "_velocity", []):
            v.zero_()

    def step(self, rows: Any) -> Any:
        return self._compiled(rows)

    def _step(self, rows: Any) -> Any:
        loss = self.loss(rows)
        gradients = torch.autograd.grad(loss, self._parameters)
        with torch.no_grad():
            for p, v, gradient in zip(self._parameters, self._velocity, gradients, strict=True):
                v.mul_(self.task.momentum).add_(gradient)
                p.sub_(v, alpha=self.task.lr)
        return loss.detach()
