"""What a network compiles to: one piece of memory for its state, a row of numbers for each operation, and the buffers for a
batch. `fastnn._kernels.engine` runs it.

All rows of all arrays begin at whole vectors, and where that would make them a multiple of 512 bytes long, which share few
cache sets, they are one unit longer; what fills up a row is zero and stays zero. With ``ld(w)`` for the length of a row of w
numbers, the memory for training on batches of n rows is, in numbers of the network's dtype,

====================  ==================================================================================================
parameters            sum of n_in ld(n_out) over dense layers, and of ld(w) over biases, gammas and betas
statistics            sum of 2 ld(w) over batch norms
velocity              as the parameters, with momentum; with Adam twice that, for both moments
gradients             as the parameters, with ``clip_norm`` (otherwise a gradient is used up in the cache, block by block)
average               twice the parameters in float64 (and its snapshot), with ``average``
snapshot              parameters, velocity (or moments) and statistics once more: the last finite state, for a step that
                      diverges
buffers               n times: ld(n_in), for each dense layer and batch norm ld(w), for each dropout 2 ld(w), for each block (a
                      dense layer and what follows it) ld(w), and for an activation behind an activation ld(w)
====================  ==================================================================================================

and a few numbers for each feature and row beside, in a batch norm with ghost batches for each feature of each of these; every
thread has 1.6 MB of its own for the matrix products.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastnn._kernels import engine, gemm
from fastnn._kernels.activation import KINDS
from fastnn.inference import Inference
from fastnn.layers import Activation, BatchNorm, Dense, Dropout, Layer, Owner

Array = np.ndarray

OP = np.dtype(
    [(name, np.int64) for name in (
        "kind", "width", "n_in", "x", "ldx", "y", "ldy", "first", "second", "ldp", "running_mean", "running_var", "mean",
        "rstd", "group", "ddof", "mask", "activation", "layer")]
    + [(name, np.float64) for name in ("eps", "momentum", "p")])
BLOCK = np.dtype([(name, np.int64) for name in ("begin", "end", "dense", "width", "d", "ldd", "has_gradient")])

OP_NAMES, BLOCK_NAMES = OP.names or (), BLOCK.names or ()
FLOAT64 = np.dtype(np.float64)
ALIGNMENT = 64


def records(rows: Sequence[Mapping[str, Any]], dtype: np.dtype[Any]) -> Array:
    """An array of `dtype` of rows that have its names, in its order."""
    return np.array([tuple(row.values()) for row in rows], dtype)


def row_length(width: int, dtype: np.dtype[Any]) -> int:
    """The numbers from one row of `width` numbers to the next."""
    if width == 1:
        return 1
    lanes = max(gemm.vector_lanes() * 4 // dtype.itemsize, 1)
    unit = lanes if width <= lanes else 2 * lanes
    length = -(-width // unit) * unit
    return length + 2 * lanes if length * dtype.itemsize % 512 == 0 else length


def aligned(size: int, dtype: np.dtype[Any]) -> Array:
    """A flat array of zeros that begins at a cache line."""
    # NumPy asks for huge pages for what it does not zero itself
    raw = np.empty(size * dtype.itemsize + ALIGNMENT, np.uint8)
    raw.fill(0)
    start = -address(raw) % ALIGNMENT
    return raw[start:start + size * dtype.itemsize].view(dtype)


@dataclass(frozen=True)
class Workspace:
    """The plan for batches of up to `capacity` rows, with its buffers."""

    capacity: int
    ops: Array
    blocks: Array
    layout: Array
    memory: Array
    program: engine.Program


class Plan:
    """The state of a network in one piece, bound to its layers, and the plans made for batches.

    Parameters
    ----------
    layers : sequence of Layer
        Connected, free; they are bound here.
    n_in, n_out : int
    loss : str
    dtype : numpy.dtype
    owner : Owner
        Whose the layers are.
    """

    def __init__(
        self, layers: Sequence[Layer], n_in: int, n_out: int, loss: str, dtype: np.dtype[Any], owner: Owner,
    ) -> None:
        self.layers, self.n_in, self.n_out, self.loss, self.dtype = layers, n_in, n_out, loss, dtype
        shapes = {(i, name): shape for i, layer in enumerate(layers) for name, shape in layer.parameter_shapes().items()}
        # weights first: decay acts on them only
        ordered = sorted(shapes, key=lambda key: key[1] != "weight")
        self.n_weights = self.size([shapes[key] for key in ordered if key[1] == "weight"])
        n_parameters = self.size(list(shapes.values()))
        self._statistics = {
            (i, name): shape for i, layer in enumerate(layers) for name, shape in layer.statistic_shapes().items()}
        self.state = aligned(n_parameters + self.size(list(self._statistics.values())), dtype)
        self.parameters, self.statistics = self.state[:n_parameters], self.state[n_parameters:]
        self._order = {key: shapes[key] for key in ordered}
        views = self.state_views(self.state)
        for i, layer in enumerate(layers):
            layer.bind(
                {name: views[i, name] for name in layer.parameter_shapes()},
                {name: views[i, name] for name in layer.statistic_shapes()}, dtype, owner)
        self._workspace: Workspace | None = None
        self._inference: Inference | None = None
        self._snapshot: Array | None = None
        self._gradients: Array | None = None
        self._average_snapshot: Array | None = None

    def views(self, flat: Array) -> dict[tuple[int, str], Array]:
        """The arrays of the parameters, by layer and name, in a flat array laid out like `parameters`."""
        return self._cut(flat, self._order)

    def state_views(self, flat: Array) -> dict[tuple[int, str], Array]:
        """The same of parameters and statistics, in a flat array laid out like `state`."""
        n = self.parameters.size
        return self.views(flat[:n]) | self._cut(flat[n:], self._statistics)

    def replace(self, arrays: Mapping[str, Array]) -> None:
        """Take the whole state, by the names of `Sequential.state_dict`, in one piece: Ctrl-C falls before it or behind it."""
        state = self.state.copy()
        for (i, name), a in self.state_views(state).items():
            a[...] = arrays[f"{i}.{name}"]
        self.state[...] = state

    def copies(self, flat: Array) -> dict[tuple[int, str], Array]:
        return {key: a.copy() for key, a in self.views(flat).items()}

    def flat(self, arrays: Mapping[tuple[int, str], Array], dtype: np.dtype[Any]) -> Array:
        """A flat array laid out like `parameters` that holds these: what `copies` gave."""
        flat = aligned(self.parameters.size, dtype)
        for key, a in self.views(flat).items():
            a[...] = arrays[key]
        return flat

    @property
    def gradients(self) -> Array:
        """A place for the whole gradient, made when it is first asked for."""
        if self._gradients is None:
            self._gradients = aligned(self.parameters.size, self.dtype)
        return self._gradients

    def snapshot(self, moments: int) -> Array:
        """A place for the state to go back to, with so many arrays beside the parameters that are as large."""
        size = self.snapshot_size(moments)
        if self._snapshot is None or self._snapshot.size < size:
            self._snapshot = aligned(size, self.dtype)
        return self._snapshot

    def average_snapshot(self) -> Array:
        """The same for the running average of the parameters."""
        if self._average_snapshot is None:
            self._average_snapshot = aligned(self.parameters.size, FLOAT64)
        return self._average_snapshot

    def snapshot_size(self, moments: int) -> int:
        return self.parameters.size * (1 + moments) + self.statistics.size

    def workspace(self, n: int) -> Workspace:
        """The plan for training on batches of up to `n` rows."""
        if self._workspace is None or self._workspace.capacity < n:
            self._workspace = None
            ops, blocks, layout, size = self.buffers(n)
            memory = aligned(size, np.dtype(np.uint8))
            self._workspace = Workspace(n, ops, blocks, layout, memory, engine.Program(ops, blocks, layout, memory))
        return self._workspace

    def memory(self, n: int, moments: int, gradients: bool, average: bool) -> int:
        """The bytes for training on batches of `n` rows: the formula at the top, with everything counted."""
        state = self.parameters.size * (1 + moments + gradients) + self.statistics.size
        averages = 2 * self.parameters.size * FLOAT64.itemsize if average else 0
        return (state + self.snapshot_size(moments)) * self.dtype.itemsize + averages + self.buffers(n)[3]

    def inference(self) -> Inference:
        """The evaluation. Several threads may ask for it at once: then each makes one, and they are the same."""
        if self._inference is None:
            ops, blocks, _, _ = self.buffers(1)
            self._inference = Inference(ops, blocks, self.state, self.n_in, self.n_out, self.n_weights, self.loss)
        return self._inference

    def buffers(self, n: int) -> tuple[Array, Array, Array, int]:
        """Operations, blocks, the layout of what they share, and the bytes of the buffers for batches of `n` rows."""
        # as dicts, which are filled faster than the records of an array
        ops: list[dict[str, Any]] = []
        blocks: list[dict[str, Any]] = []
        size = 0

        def place(count: int, itemsize: int = self.dtype.itemsize) -> int:
            nonlocal size
            start = size
            size += -(-count * itemsize // ALIGNMENT) * ALIGNMENT
            return start

        width, ld = self.n_in, row_length(self.n_in, self.dtype)
        x = place(n * ld)
        kept = True             # whether the backward pass needs what is in the buffer x
        learns = False          # whether anything so far has parameters
        for i, layer in enumerate(self.layers):
            op: dict[str, Any] = dict.fromkeys(OP_NAMES, 0) | {"layer": i, "x": x, "ldx": ld}
            ops.append(op)
            if isinstance(layer, Dense) or i == 0:
                blocks.append(dict.fromkeys(BLOCK_NAMES, 0) | {"begin": i, "dense": isinstance(layer, Dense)})
            if isinstance(layer, Dense):
                width, ld = layer.out_features, row_length(layer.out_features, self.dtype)
                op["kind"], op["n_in"], op["ldp"] = engine.OPS["dense"], layer.in_features, row_length(width, self.dtype)
                op["first"] = address(layer.parameters["weight"])
                op["second"] = address(layer.parameters.get("bias"))
                x, kept, learns = place(n * ld), False, True
            elif isinstance(layer, BatchNorm):
                op["kind"], op["eps"], op["momentum"] = engine.OPS["batchnorm"], layer.eps, layer.momentum
                op["first"], op["second"] = (address(layer.parameters[name]) for name in ("gamma", "beta"))
                op["running_mean"], op["running_var"] = (address(layer.statistics[name]) for name in layer.statistics)
                op["group"], op["ddof"] = min(layer.virtual_batch_size or 0, n), layer.running_var_ddof
                groups = len(layer.groups(n))
                op["mean"], op["rstd"] = place(groups * width, 8), place(groups * width, 8)
                x, kept, learns = place(n * ld), False, True
            elif isinstance(layer, Activation):
                op["kind"], op["activation"] = engine.OPS["activation"], KINDS[layer.kind]
                x, kept = place(n * ld) if kept else x, True
            else:
                assert isinstance(layer, Dropout)
                op["kind"], op["p"], op["mask"] = engine.OPS["dropout"], layer.p, place(n * ld)
                x, kept = place(n * ld) if kept else x, False
            op["y"], op["ldy"], op["width"] = x, ld, width
            blocks[-1] |= {"end": i + 1, "width": width, "ldd": ld, "has_gradient": learns}
        for block in blocks:
            block["d"] = place(n * block["ldd"])
        rows = max(1, engine.LOSS_ROWS // self.n_out)
        layout = np.array([
            self.n_in, self.n_out, engine.LOSSES[self.loss], place(n, 8), place(n * ld), ld, place(2 * -(-n // rows), 8),
            place(2 * n, 8), self.n_weights, place(2 * len(blocks), 8)], np.int64)
        return records(ops, OP), records(blocks, BLOCK), layout, size

    def _row(self, shape: tuple[int, ...]) -> int:
        return row_length(shape[-1], self.dtype)

    def size(self, shapes: Sequence[tuple[int, ...]]) -> int:
        """Numbers that arrays of these shapes take, one behind the other, with what lies between their rows."""
        return sum(math.prod(shape[:-1]) * self._row(shape) for shape in shapes)

    def _cut(self, flat: Array, shapes: dict[tuple[int, str], tuple[int, ...]]) -> dict[tuple[int, str], Array]:
        views = {}
        start = 0
        for key, shape in shapes.items():
            end = start + self.size([shape])
            views[key] = flat[start:end].reshape(*shape[:-1], self._row(shape))[..., :shape[-1]]
            start = end
        return views


def address(a: Array | None) -> int:
    return 0 if a is None else int(a.__array_interface__["data"][0])
