"""JAX with one jitted function for a step, which takes the place of its arguments and gathers its own rows."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bench.peers.stepwise import Stepwise
from bench.task import Task
from fastnn.reference import Array

State = dict[str, Any]
BATCHNORM_MOMENTUM, EPS = 0.1, 1e-5
ACTIVATIONS: dict[str, Any] = {"relu": jax.nn.relu, "tanh": jnp.tanh}


class Rival(Stepwise):
    def __init__(self, task: Task, x: Array, y: Array) -> None:
        super().__init__(task, len(x))
        jax.config.update("jax_enable_x64", task.dtype == "float64")
        self.x, self.y = on_device(x), on_device(y)
        self._step = jax.jit(partial(step, task), donate_argnums=0)
        self.start()

    def start(self, seed: int = 0) -> None:
        self.state = start(self.task, seed)

    def indices(self, rows: Array) -> Array:
        return rows.astype(np.int32)

    def step(self, rows: Array) -> Any:
        self.state, loss = self._step(self.state, self.x, self.y, rows)
        return loss

    def finish(self) -> None:
        jax.block_until_ready(self.state)

    def predict(self, x: Array) -> Array:
        return predict(self.task, self.state, x)


def on_device(a: Array) -> Any:
    return jnp.asarray(a.astype(np.int32) if a.dtype.kind == "i" else a)


def start(task: Task, seed: int) -> State:
    """Parameters, velocities and running statistics, by the names of fastnn's ``state_dict``."""
    initial = {name: jnp.asarray(a) for name, a in task.initial_state(seed).items()}
    running = {name: a for name, a in initial.items() if "running" in name}
    parameters = {name: a for name, a in initial.items() if name not in running}
    return {"parameters": parameters, "running": running, "velocity": {n: jnp.zeros_like(a) for n, a in parameters.items()}}


def step(task: Task, state: State, x: Any, y: Any, rows: Any) -> tuple[State, Any]:
    x, y = x.at[rows].get(mode="promise_in_bounds"), y.at[rows].get(mode="promise_in_bounds")
    (loss, running), grads = jax.value_and_grad(partial(_loss, task), has_aux=True)(
        state["parameters"], state["running"], x, y
    )
    velocity = jax.tree.map(lambda v, g: task.momentum * v + g, state["velocity"], grads)
    parameters = jax.tree.map(lambda p, v: p - task.lr * v, state["parameters"], velocity)
    return {"parameters": parameters, "running": running, "velocity": velocity}, loss


def _loss(task: Task, p: State, running: State, x: Any, y: Any) -> tuple[Any, State]:
    new = {}
    for i in task.hidden:
        x = x @ p[f"{i}.weight"]
        if task.batch_norm:
            n = len(x)
            mean = x.mean(axis=0)
            centred = x - mean
            var = (centred * centred).mean(axis=0)
            x = centred * jax.lax.rsqrt(var + EPS) * p[f"{i + 1}.gamma"] + p[f"{i + 1}.beta"]
            for name, value in (("running_mean", mean), ("running_var", var * (n / (n - 1)))):
                old = running[f"{i + 1}.{name}"]
                new[f"{i + 1}.{name}"] = (1 - BATCHNORM_MOMENTUM) * old + BATCHNORM_MOMENTUM * value
        else:
            x = x + p[f"{i}.bias"]
        x = ACTIVATIONS[task.activation](x)
    outputs = x @ p[f"{task.output}.weight"] + p[f"{task.output}.bias"]
    if task.loss == "mean_squared_error":
        return jnp.mean((outputs - y) ** 2), new
    # a comparison instead of a gather, whose derivative would be a slow scatter
    at_label = y[:, None] == jnp.arange(outputs.shape[1])
    return -jnp.where(at_label, jax.nn.log_softmax(outputs), 0).sum() / len(outputs), new


def predict(task: Task, state: State, x: Array) -> Array:
    return np.asarray(_outputs(task, state, on_device(x)))


@partial(jax.jit, static_argnums=0)
def _outputs(task: Task, state: State, x: Any) -> Any:
    p, running = state["parameters"], state["running"]
    for i in task.hidden:
        x = x @ p[f"{i}.weight"]
        if task.batch_norm:
            scale = p[f"{i + 1}.gamma"] * jax.lax.rsqrt(running[f"{i + 1}.running_var"] + EPS)
            x = (x - running[f"{i + 1}.running_mean"]) * scale + p[f"{i + 1}.beta"]
        else:
            x = x + p[f"{i}.bias"]
        x = ACTIVATIONS[task.activation](x)
    outputs = x @ p[f"{task.output}.weight"] + p[f"{task.output}.bias"]
    return outputs.argmax(axis=1) if task.loss == "softmax_cross_entropy" else outputs
