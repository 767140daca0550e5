"""Batch norms folded into dense layers, for inference."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np

from fastnn import _check
from fastnn.layers import Activation, BatchNorm, Dense, Dropout, Layer

Array = np.ndarray


class Affine:
    """``x @ weight + bias`` in float64, of a `Dense` and the batch norms that it takes in."""

    def __init__(self, layer: Dense) -> None:
        self.weight = layer.parameters["weight"].astype(np.float64)
        self.bias = layer.parameters["bias"].astype(np.float64) if layer.has_bias else np.zeros(layer.out_features)
        self.has_bias = layer.has_bias

    def followed_by(self, norm: BatchNorm) -> None:
        # (x W + b - mean) scale + beta = x (W scale) + (b - mean) scale + beta
        scale, mean, beta = constants(norm)
        self.weight *= scale
        self.bias = (self.bias - mean) * scale + beta
        self.has_bias = True

    def behind(self, norm: BatchNorm) -> None:
        # ((x - mean) scale + beta) W + b = x (scale W) + b + (beta - mean scale) W
        scale, mean, beta = constants(norm)
        self.bias += (beta - mean * scale) @ self.weight
        self.weight *= scale[:, None]
        self.has_bias = True


def constants(norm: BatchNorm) -> tuple[Array, Array, Array]:
    """Scale, mean and shift: ``(x - mean) * scale + beta``, with ``scale = gamma / sqrt(running_var + eps)``."""
    gamma, beta, mean, var = (
        a.astype(np.float64) for a in (*norm.parameters.values(), *norm.statistics.values()))
    return gamma / np.sqrt(var + norm.eps), mean, beta


def folded(layers: Sequence[Layer], dtype: np.dtype[Any]) -> tuple[list[Layer], dict[str, Array], bool]:
    """New layers with what they hold, by its names in `state_dict`; and whether a batch norm or dropout has gone."""
    nodes: list[Layer | Affine] = []
    for layer in layers:
        if isinstance(layer, Dropout) or (isinstance(layer, Activation) and layer.kind == "identity"):
            continue
        if isinstance(layer, BatchNorm) and nodes and isinstance(dense := nodes[-1], Affine):
            dense.followed_by(layer)
        else:
            nodes.append(Affine(layer) if isinstance(layer, Dense) else layer)
    # from the last to the first: what no dense layer stands before
    kept: list[Layer | Affine] = []
    for node in reversed(nodes):
        if isinstance(node, BatchNorm) and kept and isinstance(dense := kept[-1], Affine):
            dense.behind(node)
        else:
            kept.append(node)
    result: list[Layer] = []
    arrays: dict[str, Array] = {}
    for i, node in enumerate(reversed(kept)):
        if isinstance(node, Affine):
            result.append(Dense(*node.weight.shape, bias=node.has_bias))
            own = {"weight": node.weight} | ({"bias": node.bias} if node.has_bias else {})
        else:
            result.append(copy.copy(node))
            own = node.parameters | node.statistics
        for name, a in own.items():
            with np.errstate(over="ignore"):
                arrays[f"{i}.{name}"] = a.astype(dtype)
            _check.finite_when_folded(arrays[f"{i}.{name}"], f"{i}.{name}")
    before, after = (sum(isinstance(layer, BatchNorm | Dropout) for layer in some) for some in (layers, result))
    return result, arrays, after < before
