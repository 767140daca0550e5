"""Training as a textbook writes it: `textbook_kernels` one after the other, a new array for every intermediate result."""

from __future__ import annotations

import numpy as np

from bench.peers.stepwise import Stepwise
from bench.peers.textbook_kernels import (
    activation_backward,
    activation_forward,
    batchnorm_backward,
    batchnorm_forward,
    batchnorm_inference,
    dense_backward,
    dense_forward,
    mean_squared_error,
    sgd_update,
    softmax_cross_entropy,
)  # fmt: skip
from bench.task import Task
from fastnn.reference import Array

LOSSES = {"softmax_cross_entropy": softmax_cross_entropy, "mean_squared_error": mean_squared_error}
STATISTICS = ("gamma", "beta", "running_mean", "running_var")


class Rival(Stepwise):
    def __init__(self, task: Task, x: Array, y: Array) -> None:
        super().__init__(task, len(x))
        self.x, self.y = x, y
        self.start()

    def start(self, seed: int = 0) -> None:
        self.state = self.task.initial_state(seed)
        self.velocity = {name: np.zeros_like(a) for name, a in self.state.items() if "running" not in name}

    def step(self, rows: Array) -> float:
        task, s = self.task, self.state
        saved, grads = {}, {}
        h = self.x[rows]
        for i in task.hidden:
            if task.batch_norm:
                z = h @ s[f"{i}.weight"]
                out, mean, rstd = batchnorm_forward(z, *(s[f"{i + 1}.{name}"] for name in STATISTICS))
                saved[i] = h, z, mean, rstd
            else:
                out = dense_forward(h, s[f"{i}.weight"], s[f"{i}.bias"])
                saved[i] = h, out, out, out
            h = activation_forward(out, task.activation)
        last = task.output
        loss, dout = LOSSES[task.loss](dense_forward(h, s[f"{last}.weight"], s[f"{last}.bias"]), self.y[rows])
        dh, grads[f"{last}.weight"], grads[f"{last}.bias"] = dense_backward(dout, h, s[f"{last}.weight"])
        for i in reversed(task.hidden):
            dz = activation_backward(dh, h, task.activation)
            h, z, mean, rstd = saved[i]
            if task.batch_norm:
                dz, grads[f"{i + 1}.gamma"], grads[f"{i + 1}.beta"] = batchnorm_backward(
                    dz, z, s[f"{i + 1}.gamma"], mean, rstd
                )
            else:
                grads[f"{i}.bias"] = dz.sum(axis=0)
            grads[f"{i}.weight"] = h.T @ dz
            if i:
                dh = dz @ s[f"{i}.weight"].T
        for name, grad in grads.items():
            sgd_update(s[name], grad, self.velocity[name], lr=task.lr, momentum=task.momentum)
        return loss

    def predict(self, x: Array) -> Array:
        return predict(self.task, self.state, x)


def predict(task: Task, state: dict[str, Array], x: Array) -> Array:
    """The class of each row, or its outputs, from the running statistics."""
    for i in task.hidden:
        if task.batch_norm:
            out = batchnorm_inference(x @ state[f"{i}.weight"], *(state[f"{i + 1}.{name}"] for name in STATISTICS))
        else:
            out = dense_forward(x, state[f"{i}.weight"], state[f"{i}.bias"])
        x = activation_forward(out, task.activation)
    outputs = dense_forward(x, state[f"{task.output}.weight"], state[f"{task.output}.bias"])
    return outputs.argmax(axis=1) if task.loss == "softmax_cross_entropy" else outputs
