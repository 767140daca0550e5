"""PyTorch's CPU kernels as its users' programs run them: each call returns new tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from fastnn.reference import Array

Call = Callable[[], Any]

_native_batch_norm: Any = torch.native_batch_norm  # its type hints know no positional call


def dense_forward(x: Array, weight: Array, bias: Array, *, out: Array) -> Call:
    x_, bias_ = torch.from_numpy(x), torch.from_numpy(bias)
    weight_ = torch.from_numpy(weight).t().contiguous()  # PyTorch keeps weights as (out, in)
    return lambda: torch.nn.functional.linear(x_, weight_, bias_)


def batchnorm_forward(
    x: Array, gamma: Array, beta: Array, running_mean: Array, running_var: Array, *,
    momentum: float = 0.1, eps: float = 1e-5, out: Array,
) -> Call:
    tensors = tuple(map(torch.from_numpy, (x, gamma, beta, running_mean, running_var)))
    return lambda: _native_batch_norm(*tensors, True, momentum, eps)


def batchnorm_inference(
    x: Array, gamma: Array, beta: Array, running_mean: Array, running_var: Array, *, eps: float = 1e-5, out: Array,
) -> Call:
    tensors = tuple(map(torch.from_numpy, (x, gamma, beta, running_mean, running_var)))
    return lambda: _native_batch_norm(*tensors, False, 0.0, eps)[0]
