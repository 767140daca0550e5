"""PyTorch's CPU kernels, called as directly as Python can, into the arrays given; the tensors share their memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from fastnn.reference import Array

Call = Callable[[], Any]

_native_batch_norm: Any = torch.native_batch_norm  # its type hints lack the variant with outputs


def dense_forward(x: Array, weight: Array, bias: Array, *, out: Array) -> Call:
    x_, weight_, bias_, out_ = map(torch.from_numpy, (x, weight, bias, out))
    return lambda: torch.addmm(bias_, x_, weight_, out=out_)


def dense_backward(dout: Array, x: Array, weight: Array, *, dx: Array, dweight: Array, dbias: Array) -> Call:
    dout_, x_, weight_, dx_, dweight_, dbias_ = map(torch.from_numpy, (dout, x, weight, dx, dweight, dbias))

    def call() -> Any:
        torch.mm(dout_, weight_.t(), out=dx_)
        torch.mm(x_.t(), dout_, out=dweight_)
        torch.sum(dout_, 0, out=dbias_)
        return dx_, dweight_, dbias_

    return call


def batchnorm_forward(
    x: Array, gamma: Array, beta: Array, running_mean: Array, running_var: Array, *,
    momentum: float = 0.1, eps: float = 1e-5, out: Array,
) -> Call:
    tensors = tuple(map(torch.from_numpy, (x, gamma, beta, running_mean, running_var)))
    out_ = torch.from_numpy(out)
    outputs = out_, torch.empty(x.shape[1], dtype=out_.dtype), torch.empty(x.shape[1], dtype=out_.dtype)
    return lambda: _native_batch_norm(*tensors, True, momentum, eps, out=outputs)


def batchnorm_backward(
    dout: Array, x: Array, gamma: Array, mean: Array, rstd: Array, *,
    dx: Array, dgamma: Array, dbeta: Array,  # unused: the variant with outputs computes into new arrays and copies
) -> Call:
    dout_, x_, gamma_, mean_, rstd_ = map(torch.from_numpy, (dout, x, gamma, mean, rstd))
    backward = torch.ops.aten.native_batch_norm_backward.default
    every = [True, True, True]
    return lambda: backward(dout_, x_, gamma_, None, None, mean_, rstd_, True, 1e-5, every)


def batchnorm_inference(
    x: Array, gamma: Array, beta: Array, running_mean: Array, running_var: Array, *, eps: float = 1e-5, out: Array,
) -> Call:
    tensors = tuple(map(torch.from_numpy, (x, gamma, beta, running_mean, running_var)))
    outputs = torch.from_numpy(out), torch.empty(0, dtype=tensors[0].dtype), torch.empty(0, dtype=tensors[0].dtype)
    return lambda: _native_batch_norm(*tensors, False, 0.0, eps, out=outputs)[0]


def sgd_update(param: Array, grad: Array, velocity: Array, *, lr: float, momentum: float) -> Call:
    params, grads, velocities = ([torch.from_numpy(a)] for a in (param, grad, velocity))
    return lambda: torch._fused_sgd_(
        params, grads, velocities, weight_decay=0.0, momentum=momentum, lr=lr, dampening=0.0, nesterov=False,
        maximize=False, is_first_step=False,
    )


def adam_update(param: Array, grad: Array, m: Array, v: Array, *, lr: float, step: int) -> Call:
    params, grads, first, second = ([torch.from_numpy(a)] for a in (param, grad, m, v))
    steps = [torch.tensor(float(step))]
    return lambda: torch._fused_adam_(
        params, grads, first, second, [], steps, lr=lr, beta1=0.9, beta2=0.999, weight_decay=0.0, eps=1e-8, amsgrad=False,
        maximize=False,
    )
