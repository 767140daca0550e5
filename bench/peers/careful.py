"""Training as a careful NumPy user plans it: a step is a list of calls of `careful_kernels` on buffers that stay.

All parameters lie in one array, and so do gradients and velocities, hence one update for the whole network.
"""

from __future__ import annotations

import numpy as np

from bench.peers.careful_kernels import (
    Call,
    activation_backward,
    activation_forward,
    batchnorm_backward,
    batchnorm_forward,
    dense_backward,
    dense_forward,
    mean_squared_error,
    sgd_update,
    softmax_cross_entropy,
)  # fmt: skip
from bench.peers.stepwise import Stepwise
from bench.peers.textbook import predict
from bench.task import Task
from fastnn.reference import Array


class Rival(Stepwise):
    def __init__(self, task: Task, x: Array, y: Array) -> None:
        super().__init__(task, len(x))
        self.x, self.y = x, y
        initial = task.initial_state()
        names = [name for name in initial if "running" not in name]
        param = np.concatenate([initial[name].ravel() for name in names])
        grad, self.velocity = np.empty_like(param), np.zeros_like(param)
        self.state = {name: a.copy() for name, a in initial.items()} | _views(param, initial, names)
        s, g = self.state, _views(grad, initial, names)

        def rows(width: int) -> Array:
            return np.empty((task.batch, width), task.dtype)

        def matmul(a: Array, b: Array, out: Array) -> Call:
            return lambda: np.matmul(a, b, out=out)

        self._x, self._y = rows(task.widths[0]), np.empty((task.batch, *y.shape[1:]), y.dtype)
        forward: list[Call] = []
        backward: list[Call] = []  # in the order of the forward pass, to be run in the opposite one
        h, dh = self._x, None
        for i in task.hidden:
            weight = s[f"{i}.weight"]
            z, out, dout = (rows(weight.shape[1]) for _ in range(3))
            # of the activations' derivatives only that of relu can be taken in place
            da = dout if task.activation == "relu" else rows(weight.shape[1])
            if task.batch_norm:
                gamma, beta = s[f"{i + 1}.gamma"], s[f"{i + 1}.beta"]
                running = s[f"{i + 1}.running_mean"], s[f"{i + 1}.running_var"]
                mean, rstd = np.empty_like(gamma), np.empty_like(gamma)
                forward += [
                    matmul(h, weight, z),
                    batchnorm_forward(z, gamma, beta, *running, out=out, mean=mean, rstd=rstd),
                ]
                # dz takes the place of z
                backward += [
                    dense_backward(z, h, weight, dx=dh, dweight=g[f"{i}.weight"]),
                    batchnorm_backward(
                        da, z, gamma, mean, rstd, dx=z, dgamma=g[f"{i + 1}.gamma"], dbeta=g[f"{i + 1}.beta"]
                    ),
                ]
            else:
                forward.append(dense_forward(h, weight, s[f"{i}.bias"], out=out))
                backward.append(dense_backward(da, h, weight, dx=dh, dweight=g[f"{i}.weight"], dbias=g[f"{i}.bias"]))
            forward.append(activation_forward(out, task.activation, out=out))
            backward.append(activation_backward(dout, out, task.activation, dx=da))
            h, dh = out, dout
        last = task.output
        logits, dlogits = rows(task.widths[-1]), rows(task.widths[-1])
        forward.append(dense_forward(h, s[f"{last}.weight"], s[f"{last}.bias"], out=logits))
        backward.append(
            dense_backward(
                dlogits, h, s[f"{last}.weight"], dx=dh, dweight=g[f"{last}.weight"], dbias=g[f"{last}.bias"]
            )
        )
        self._forward, self._backward = forward, backward[::-1]
        self._loss = (
            softmax_cross_entropy(logits, self._y, dlogits=dlogits)
            if task.loss == "softmax_cross_entropy"
            else mean_squared_error(logits, self._y, dpred=dlogits)
        )
        self._update = sgd_update(param, grad, self.velocity, lr=task.lr, momentum=task.momentum)

    def start(self, seed: int = 0) -> None:
        for name, a in self.task.initial_state(seed).items():
            self.state[name][...] = a
        self.velocity[...] = 0

    def step(self, rows: Array) -> float:
        np.take(self.x, rows, axis=0, out=self._x, mode="clip")
        np.take(self.y, rows, axis=0, out=self._y, mode="clip")
        for call in self._forward:
            call()
        loss, _ = self._loss()
        for call in self._backward:
            call()
        self._update()
        return float(loss)

    def predict(self, x: Array) -> Array:
        return predict(self.task, self.state, x)


def _views(flat: Array, like: dict[str, Array], names: list[str]) -> dict[str, Array]:
    """Consecutive parts of `flat`, one for each name, in the shape of its array."""
    ends = np.cumsum([like[name].size for name in names])
    parts = np.split(flat, ends[:-1])
    return {name: part.reshape(like[name].shape) for name, part in zip(names, parts, strict=True)}
