"""A network made of `fastnn.reference`, trained in the plainest way, and the order in which `fit` visits the rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import fastnn as fnn
from fastnn import reference
from fastnn._kernels import by_dtype, dropout

Array = np.ndarray
State = dict[str, Array]

_mask = by_dtype(dropout.mask)


class Plain:
    """The same network in plain NumPy, as it stands. `dtype` may be wider than the network's; with the module `oracle` as
    `ops` everything is wide."""

    def __init__(self, net: fnn.Sequential, dtype: Any = None, ops: Any = reference) -> None:
        self.layers = net.layers
        self.ops = ops
        self.loss = getattr(ops, net.loss)
        to = net.dtype if dtype is None else np.dtype(dtype)
        self.converted: Callable[[Array], Array] = (lambda a: a.astype(to)) if ops is reference else ops.wide
        self.state = {name: self.converted(a) for name, a in net.state_dict().items()}
        self.velocity: State = {}
        self.second_moment: State = {}
        self.updates = 0        # by the optimiser that these belong to
        self.blur: Callable[[Array], Array] = lambda a: a       # an error of what comes out of each layer, either way
        self.norms: list[float] = []
        self.key, self.steps, self.mask_dtype = net._mask_key, net._step, net.dtype

    def own(self, i: int, *names: str) -> list[Array]:
        return [self.state[f"{i}.{name}"] for name in names]

    def mask(self, i: int, shape: tuple[int, int]) -> Array:
        mask = np.empty(shape, self.mask_dtype)
        _mask[mask.dtype](self.key, self.steps, i, self.layers[i].p, 0, 0, mask)
        return self.converted(mask)

    def normalised(self, i: int, x: Array) -> tuple[Array, Array, Array]:
        """A group of rows in training mode."""
        layer = self.layers[i]
        own = self.own(i, "gamma", "beta", "running_mean", "running_var")
        before = own[3].copy()
        out, mean, rstd = self.ops.batchnorm_forward(x, *own, momentum=layer.momentum, eps=layer.eps)
        if layer.running_var_ddof == 0:
            own[3][...] = (1 - layer.momentum) * before + layer.momentum * np.mean((x - mean)**2, axis=0)
        return out, mean, rstd

    def outputs(self, x: Array) -> Array:
        """In evaluation mode."""
        x = self.converted(x)
        for i, layer in enumerate(self.layers):
            if isinstance(layer, fnn.Dense):
                x = reference.dense_forward(x, *self.own(i, "weight"), self.state.get(f"{i}.bias"))
            elif isinstance(layer, fnn.BatchNorm):
                own = self.own(i, "gamma", "beta", "running_mean", "running_var")
                x = reference.batchnorm_inference(x, *own, eps=layer.eps)
            elif not isinstance(layer, fnn.Dropout):
                x = reference.activation_forward(x, layer.kind)
            x = self.blur(x)
        return x

    def forward(self, x: Array) -> tuple[Array, list[Any]]:
        """In training mode, with what the backward pass needs of each layer."""
        kept: list[Any] = []
        x = self.converted(x)
        for i, layer in enumerate(self.layers):
            if isinstance(layer, fnn.Dense):
                kept.append(x)
                x = self.ops.dense_forward(x, *self.own(i, "weight"), self.state.get(f"{i}.bias"))
            elif isinstance(layer, fnn.BatchNorm):
                kept.append([(x[rows], *self.normalised(i, x[rows])) for rows in groups(layer, len(x))])
                x = np.concatenate([out for _, out, _, _ in kept[-1]])
            elif isinstance(layer, fnn.Dropout):
                kept.append(self.mask(i, x.shape))
                x = x * kept[-1]
            else:
                x = self.ops.activation_forward(x, layer.kind)
                kept.append(x)
            x = self.blur(x)
        return x, kept

    def gradients(self, x: Array, y: Array) -> tuple[float, State]:
        out, kept = self.forward(x)
        loss, d = self.loss(out, y)
        g: State = {}
        for i, layer in reversed(list(enumerate(self.layers))):
            if isinstance(layer, fnn.Dense):
                d, g[f"{i}.weight"], g[f"{i}.bias"] = self.ops.dense_backward(d, kept[i], *self.own(i, "weight"))
            elif isinstance(layer, fnn.BatchNorm):
                gamma, = self.own(i, "gamma")
                parts = [
                    self.ops.batchnorm_backward(d[rows], x, gamma, mean, rstd)
                    for rows, (x, _, mean, rstd) in zip(groups(layer, len(d)), kept[i], strict=True)]
                d = np.concatenate([dx for dx, _, _ in parts])
                g[f"{i}.gamma"], g[f"{i}.beta"] = (sum(part[k] for part in parts) for k in (1, 2))
            elif isinstance(layer, fnn.Dropout):
                d = d * kept[i]
            else:
                d = self.ops.activation_backward(d, kept[i], layer.kind)
            d = self.blur(d)
        return loss, {name: a for name, a in g.items() if name in self.state}

    def step(
        self, x: Array, y: Array, *, kind: str = "SGD", weight_decay: float = 0.0, clip_norm: float | None = None,
        **options: Any,
    ) -> float:
        """`options` are those of the update."""
        loss, gradients = self.gradients(x, y)
        self.steps += 1
        self.updates += 1
        norm = float(np.sqrt(sum(np.sum(np.square(g.astype(np.float64))) for g in gradients.values())))
        self.norms.append(norm)
        for name, g in gradients.items():
            if clip_norm is not None and norm > clip_norm:
                g = (g * (clip_norm / norm)).astype(g.dtype)
            options["weight_decay"] = weight_decay if name.endswith(".weight") else 0.0
            if kind != "SGD":
                moments = (a.setdefault(name, np.zeros_like(g)) for a in (self.velocity, self.second_moment))
                self.ops.adam_update(
                    self.state[name], g, *moments, step=self.updates, decoupled=kind == "AdamW", **options)
                continue
            velocity = self.velocity.setdefault(name, np.zeros_like(g)) if options.get("momentum") else None
            self.ops.sgd_update(self.state[name], g, velocity, **options)
        return loss


def optimizer(kind: str = "SGD", **options: Any) -> Any:
    """From options as `Plain.step` takes them."""
    return getattr(fnn, kind)(**options)


def groups(layer: fnn.BatchNorm, n: int) -> list[slice]:
    """The rows that a batch norm takes together in training."""
    size = layer.virtual_batch_size or n
    count = max(1, n // size)
    return [slice(k * size, n if k == count - 1 else (k + 1) * size) for k in range(count)]


def filling(net: fnn.Sequential, flat: Array) -> Array:
    """What lies between the rows of the parameters in a flat array laid out like them."""
    between = np.ones(flat.size, flat.dtype)
    for view in net._plan.views(between).values():
        view[...] = 0
    return flat[between == 1]


def visited_batches(
    rows: int, epochs: int, batch_size: int = 1, *, last_batch: str = "merge", seed: int = 0, **options: Any,
) -> list[list[list[int]]]:
    """The rows of each batch, in ascending order, of each epoch of `fit`.

    Every row has a weight of its own, which moves from the step with this row on, half as far each time: how far it has
    come by the end of the epoch says when it began.
    """
    layer = fnn.Dense(rows, 1, bias=False, init="zeros")
    net = fnn.Sequential([layer], loss="mean_squared_error", dtype="float64", seed=seed)
    result = []
    for _ in range(epochs):
        layer.weight.fill(0)
        history = net.fit(
            np.eye(rows), np.ones((rows, 1)), batch_size=batch_size, last_batch=last_batch,
            optimizer=fnn.SGD(lr=1.0, momentum=0.5), **options)
        assert np.isfinite(history.loss).all()
        moved = layer.weight[:, 0]
        batches = []
        for way in sorted(set(moved[moved > 0]), reverse=True):
            batches.append(np.flatnonzero(moved == way).tolist())
        steps = len(batches)
        for t, batch in enumerate(batches):
            np.testing.assert_allclose(moved[batch], 2 / len(batch) * 2 * (1 - 0.5 ** (steps - t)), rtol=1e-12)
        result.append(batches)
    return result


def visited_rows(rows: int, epochs: int, seed: int = 0) -> list[list[int]]:
    """The order of the rows in each epoch, whatever the batches."""
    return [[row for row, in batches] for batches in visited_batches(rows, epochs, seed=seed)]
