"""How many digits the kernels keep, by themselves and inside the engine, against the oracle: gates, and recorded maxima.

A case is one kernel, or what the engine makes of it in a network, on one kind of data; it measures one or more quantities. Each
must stay within its gate, and within 1.25 times what maxima.json has for the SIMD level in use: vectors and FMA change how a
product is rounded. `pytest --record-maxima` records anew, in that file and in the table of docs/accuracy.md.

In the engine a quantity is laid bare by layers that change nothing: `Dense` of the identity, before or after; and rows of the
identity as data, for which a first layer's outputs are its weights, and their gradients the weights' own.
"""

import itertools
import json
import math
import re
import sys
import zlib
from pathlib import Path

import numpy as np
import oracle
import pytest
from conftest import DTYPES, EPS, FLOAT32, FLOAT64, TOL, assert_same_bits, normal, product_budget
from oracle import FEW, LONG, nw, nw_each, wide
from plain import Plain

import fastnn as fnn
import fastnn.dense
from fastnn import (
    BatchNorm,
    Dense,
    Sigmoid,
    Tanh,
    adam_update,
    batchnorm_backward,
    batchnorm_forward,
    batchnorm_inference,
    blas,
    dense_backward,
    dense_forward,
    mean_squared_error,
    sgd_update,
    sigmoid_cross_entropy,
    softmax_cross_entropy,
)
from fastnn._kernels import gemm, simd

MAXIMA = Path(__file__).with_name("maxima.json")
TABLE = Path(__file__).parents[1] / "docs" / "accuracy.md"
PARAMETERS = 2                  # of the parameters after a whole step, whose gradient is not exact
GROWTH, FLOOR = 1.25, 0.05      # below the floor a measure is rounding of the oracle's own, or luck

# the offset of the data from zero and its spread
OFFSETS = [(0, 1), (1e2, 1), (1e4, 1), (1e6, 1), (1e4, 0.01)]
EDGE = slice(0, 8 if LONG else 2)       # the rows and columns of a product that are looked at: an entry is as good as any other


# ---- batch norm

def parameters(rng, dtype, d):
    return (1 + 0.1 * rng.standard_normal(d)).astype(dtype), (0.1 * rng.standard_normal(d)).astype(dtype)


def batchnorm_data(rng, dtype, n, d, offset=0.0, spread=1.0):
    return (offset + spread * rng.standard_normal((n, d))).astype(dtype), *parameters(rng, dtype, d)


def batchnorm_errors(x, gamma, beta, dout, eps, *, y, dgamma, dbeta, dx=None, running=None, mean=None, rstd=None):
    """Of what training and backward gave; `running` took all of the batch's statistics."""
    dtype = x.dtype
    d = x.shape[1]
    x, gamma, beta, dout = x[:, FEW], gamma[FEW], beta[FEW], dout[:, FEW]
    exact_running = wide(np.zeros(d))[FEW], wide(np.zeros(d))[FEW]
    exact_y, exact_mean, exact_rstd = oracle.batchnorm_forward(x, gamma, beta, *exact_running, momentum=1.0, eps=eps)
    exact = oracle.batchnorm_backward(dout, x, gamma, exact_mean, exact_rstd)
    size = np.abs(exact_y - wide(beta)) + np.abs(wide(beta))
    errors = {
        "y": nw(y[:, FEW], exact_y, scale=size), "dgamma": nw(dgamma[FEW], exact[1]), "dbeta": nw(dbeta[FEW], exact[2]),
        "mean": 0.0, "var": 0.0,
    }
    if dx is not None:
        errors["dx"] = nw(dx[:, FEW], exact[0])
    if running is not None:
        errors |= {"mean": nw(running[0][FEW], exact_running[0]), "var": nw(running[1][FEW], exact_running[1])}
    if mean is not None:
        # saved as float64 for either dtype, so that nothing is rounded before its use
        errors["mean"] = max(errors["mean"], nw(mean[FEW], exact_mean, dtype))
        errors["var"] = max(errors["var"], nw(rstd[FEW], exact_rstd, dtype))
    return {name: (error, TOL[dtype][name]) for name, error in errors.items()}


def batchnorm_kernels(x, gamma, beta, dout, eps=1e-5):
    running = np.zeros_like(gamma), np.ones_like(gamma)
    y, mean, rstd = batchnorm_forward(x, gamma, beta, *running, momentum=1.0, eps=eps)
    dx, dgamma, dbeta = batchnorm_backward(dout, x, gamma, mean, rstd)
    return batchnorm_errors(
        x, gamma, beta, dout, eps, y=y, running=running, dx=dx, dgamma=dgamma, dbeta=dbeta, mean=mean, rstd=rstd)


def batchnorm(rng, dtype, shape, offset, spread):
    return batchnorm_kernels(*batchnorm_data(rng, dtype, *shape, offset, spread), normal(rng, dtype, *shape))


def batchnorm_outlier(rng, dtype, n, offset, outlier):
    """The first row is the pivot from which the sums are taken."""
    x, gamma, beta = batchnorm_data(rng, dtype, n, 9, offset)
    x[0] = offset + outlier
    return batchnorm_kernels(x, gamma, beta, normal(rng, dtype, n, 9))


def batchnorm_far_gradient(rng, dtype, n, offset):
    """In float32 neither the mean of x nor that of dout may be rounded before it is subtracted."""
    dout = (offset + rng.standard_normal((n, 9))).astype(dtype)
    return batchnorm_kernels(*batchnorm_data(rng, dtype, n, 9, offset), dout)


def batchnorm_size(rng, dtype, spread):
    x, gamma, beta = batchnorm_data(rng, dtype, 100, 9, 0, spread)
    return batchnorm_kernels(x, gamma, beta, normal(rng, dtype, 100, 9), eps=1e-5 * spread**2)


def batchnorm_huge(rng, dtype, spread):
    """The variance is beyond float32, but nothing that is asked for is."""
    x, gamma, beta = batchnorm_data(rng, dtype, 100, 9, 0, spread)
    dout = normal(rng, dtype, 100, 9)
    y, mean, rstd = batchnorm_forward(x, gamma, beta)
    dx, dgamma, dbeta = batchnorm_backward(dout, x, gamma, mean, rstd)
    return batchnorm_errors(x, gamma, beta, dout, 1e-5, y=y, dx=dx, dgamma=dgamma, dbeta=dbeta, mean=mean, rstd=rstd)


def engine_batchnorm(rng, dtype, shape, offset, spread, first):
    """[BatchNorm, identity] on the data, or [Dense whose weights are the data, BatchNorm] on the identity, which shows dx."""
    n, d = shape
    x, gamma, beta = batchnorm_data(rng, dtype, *shape, offset, spread)
    norm = BatchNorm(d, momentum=1.0)
    if first:
        layers, given, at = [norm, Dense(d, d, bias=False, init=np.eye(d))], x, "0"
    else:
        layers, given, at = [Dense(n, d, bias=False, init=x), norm], np.eye(n, dtype=dtype), "1"
    net = fnn.Sequential(layers, loss="mean_squared_error", dtype=dtype, seed=0)
    norm.gamma, norm.beta = gamma, beta
    y = net.forward(given, training=True)
    target = (y - normal(rng, dtype, n, d)).astype(dtype)
    _, gradients = net.loss_and_gradients(given, target)
    _, dout = mean_squared_error(y, target)
    return batchnorm_errors(
        x, gamma, beta, dout, 1e-5, y=y, running=(norm.running_mean, norm.running_var),
        dx=None if first else gradients["0.weight"], dgamma=gradients[f"{at}.gamma"], dbeta=gradients[f"{at}.beta"])


def inference_data(rng, dtype, n, d, offset):
    mean, var = (offset + normal(rng, FLOAT64, d)).astype(dtype), (0.1 + normal(rng, dtype, d) ** 2).astype(dtype)
    return *batchnorm_data(rng, dtype, n, d, offset), mean, var


def inference_error(out, x, *vectors):
    beta = wide(vectors[1])[FEW]
    exact = oracle.batchnorm_inference(x[:, FEW], *(a[FEW] for a in vectors))
    return {"evaluation": (nw(out[:, FEW], exact, scale=np.abs(exact - beta) + np.abs(beta)), TOL[x.dtype]["inference"])}


def inference(rng, dtype, shape, offset):
    arrays = inference_data(rng, dtype, *shape, offset)
    return inference_error(batchnorm_inference(*arrays), *arrays)


def engine_inference(rng, dtype, shape, offset):
    arrays = x, gamma, beta, mean, var = inference_data(rng, dtype, *shape, offset)
    norm = BatchNorm(shape[1])
    net = fnn.Sequential([norm, Dense(shape[1], shape[1], bias=False, init=np.eye(shape[1]))], dtype=dtype, seed=0)
    norm.gamma, norm.beta, norm.running_mean, norm.running_var = gamma, beta, mean, var
    return inference_error(net.forward(x), *arrays)


# ---- dense

def product_error(result, a, b, bias=None):
    """Entry by entry, in units of the sum of magnitudes."""
    a, b = wide(a[EDGE]), wide(b[:, EDGE])
    bias = 0 if bias is None else wide(bias[EDGE])
    error = nw_each(result[EDGE, EDGE], a @ b + bias, np.abs(a) @ np.abs(b) + np.abs(bias))
    return error, product_budget(a.shape[1])


def drawn(rng, dtype, data, *shape):
    return (rng.random(shape) if data == "positive" else rng.standard_normal(shape)).astype(dtype)


def dense(rng, dtype, shape, data):
    """One of the inner sizes is long: that of out, of dweight, of dx."""
    n, n_in, n_out = shape
    x, weight, bias, dout = (drawn(rng, dtype, data, *s) for s in [(n, n_in), (n_in, n_out), (n_out,), (n, n_out)])
    dx, dweight, _ = dense_backward(dout, x, weight)
    return {
        "dense out": product_error(dense_forward(x, weight, bias), x, weight, bias),
        "dense dx": product_error(dx, dout, weight.T),
        "dense dweight": product_error(dweight, x.T, dout),
    }


def numpy_dense(*args):
    """With the products by NumPy's BLAS, as without vectors: fastnn adds the bias."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fastnn.dense, "OWN_PRODUCT_UP_TO", 0)
        patch.setattr(fastnn.dense, "OWN_VECTOR_PRODUCT_UP_TO", 0)
        return dense(*args)


def engine_dense(rng, dtype, shape, data):
    n, n_in, n_out = shape
    x, weight, bias, noise = (drawn(rng, dtype, data, *s) for s in [(n, n_in), (n_in, n_out), (n_out,), (n, n_out)])
    layer = Dense(n_in, n_out, init=weight)
    net = fnn.Sequential([layer], loss="mean_squared_error", dtype=dtype, seed=0)
    layer.bias = bias
    out = net.forward(x, training=True)
    dout, gradients = gradients_of(net, x, out, noise)
    results = {
        "dense out": product_error(out, x, weight, bias),
        "dense dweight": product_error(gradients["0.weight"], x.T, dout),
    }
    # below a layer whose outputs are its weights, x
    net = fnn.Sequential(
        [Dense(n, n_in, bias=False), Dense(n_in, n_out, init=weight)], loss="mean_squared_error", dtype=dtype, seed=0)
    net.layers[0].weight = x
    dout, gradients = gradients_of(net, np.eye(n, dtype=dtype), net.forward(np.eye(n, dtype=dtype), training=True), noise)
    return results | {"dense dx": product_error(gradients["0.weight"], dout, weight.T)}


def gradients_of(net, x, out, noise):
    """With the noise, or nearly so, as gradient of the outputs: that gradient, and all others."""
    target = out - noise
    return mean_squared_error(out, target)[1], net.loss_and_gradients(x, target)[1]


def bias_gradient(rng, dtype, shape, data):
    n, n_out = shape
    dout, x, weight = drawn(rng, dtype, data, n, n_out), normal(rng, dtype, n, 1), normal(rng, dtype, 1, n_out)
    return bias_gradient_error(dense_backward(dout, x, weight)[2], dout)


def engine_bias_gradient(rng, dtype, shape, data):
    n, n_out = shape
    noise, x = drawn(rng, dtype, data, n, n_out), normal(rng, dtype, n, 1)
    net = fnn.Sequential([Dense(1, n_out)], loss="mean_squared_error", dtype=dtype, seed=0)
    dout, gradients = gradients_of(net, x, net.forward(x, training=True), noise)
    return bias_gradient_error(gradients["0.bias"], dout)


def bias_gradient_error(dbias, dout):
    return {"dense dbias": (nw(dbias[EDGE], wide(dout[:, EDGE]).sum(axis=0)), TOL[dout.dtype]["bias_gradient"])}


# ---- losses: by the function, or by a network whose outputs are its weights

def by_engine(function):
    def run(x, y):
        net = fnn.Sequential([Dense(*x.shape, bias=False, init=x)], loss=function.__name__, dtype=x.dtype, seed=0)
        loss, gradients = net.loss_and_gradients(np.eye(len(x), dtype=x.dtype), y)
        return loss, gradients["0.weight"]
    return run


def loss_errors(function, engine, x, y, gradient="dlogits", loss="loss"):
    tol = TOL[x.dtype]
    given, exact = (by_engine(function) if engine else function)(x, y), getattr(oracle, function.__name__)(x, y)
    return {
        f"{function.__name__} loss": (nw(given[0], exact[0], x.dtype), tol[loss]),
        f"{function.__name__} gradient": (nw(given[1], exact[1]), tol[gradient]),
    }, given[1], exact[1]


def softmax(rng, dtype, shape, spread, engine=False):
    n, k = shape
    logits, labels = (spread * rng.standard_normal((n, k))).astype(dtype), rng.integers(0, k, n)
    return loss_errors(softmax_cross_entropy, engine, logits, labels)[0]


def softmax_near_one(rng, dtype, k, margin, engine=False):
    """As p goes to 1, loss and p - 1 go to 0 and must keep their digits; when wrong for certain, the loss is the margin.

    p - 1 cancels, and half a unit in the last place of a margin of float64 is margin / 2 units of its exponential.
    """
    rows = np.arange(8)
    logits, labels = (0.5 * rng.standard_normal((8, k))).astype(dtype), rng.integers(0, k, 8)
    logits[rows, labels] = logits.max(axis=1) + margin
    errors, gradient, exact = loss_errors(softmax_cross_entropy, engine, logits, labels, "dlogits_near_one")
    exact = exact[rows, labels]
    wrong = loss_errors(softmax_cross_entropy, engine, logits, (labels + 1) % k)[0]
    loss, near_one = "softmax_cross_entropy loss", nw_each(gradient[rows, labels], exact, exact)
    return {
        loss: max(errors[loss], wrong[loss]),
        "softmax_cross_entropy gradient, p near 1": (near_one, TOL[dtype]["dlogits_near_one"]),
    }


def sigmoid(rng, dtype, shape, spread, hard, engine=False):
    logits, targets = (spread * rng.standard_normal(shape)).astype(dtype), rng.random(shape).astype(dtype)
    errors, gradient, exact = loss_errors(sigmoid_cross_entropy, engine, logits, np.round(targets) if hard else targets)
    if hard:
        # nothing cancels, so every entry keeps its digits
        each = nw_each(gradient, exact, np.maximum(np.abs(exact), float(np.finfo(dtype).tiny)))
        errors["sigmoid_cross_entropy gradient, each"] = each, TOL[dtype]["dlogits_near_one"]
    return errors


def squared_error(rng, dtype, shape, offset, engine=False):
    pred, target = (offset + rng.standard_normal((2, *shape))).astype(dtype)
    return loss_errors(mean_squared_error, engine, pred, target, "squared_error", "squared_error")[0]


def equal_losses(rng, dtype, function, value, engine=False):
    """As of a network whose weights are still zero: a running sum would be rounded the same way each time."""
    if function is softmax_cross_entropy:
        # of a thousand classes the same for all but one, which is the target, or another; and of two classes in many rows
        logits = np.zeros((2, 1000), dtype)
        logits[:, 0] = value
        errors = [loss_errors(function, engine, logits, np.array([0, 1]))[0]]
        errors.append(loss_errors(function, engine, np.full((300, 2), [0, value], dtype), np.zeros(300, int))[0])
        return {quantity: max(e[quantity] for e in errors) for quantity in errors[0]}
    x = np.full((561, 1), value, dtype)
    gates = ("squared_error", "squared_error") if function is mean_squared_error else ("dlogits", "loss")
    return loss_errors(function, engine, x, np.ones_like(x), *gates)[0]


# ---- SGD

def rounded(dtype, **numbers):
    """As the kernel has them."""
    return {name: float(dtype.type(value)) for name, value in numbers.items()}


def sgd_errors(param, velocity, given, grad, given_velocity, numbers, nesterov):
    """One step: of the parameters, and entry by entry in units of the sizes of what is added up."""
    dtype = param.dtype
    p, v, (lr, momentum, decay) = wide(param), wide(velocity), (numbers[key] for key in ("lr", "momentum", "weight_decay"))
    oracle.sgd_update(p, grad, v, nesterov=nesterov, **numbers)
    g = np.abs(grad).astype(FLOAT64) + decay * np.abs(param)
    size = g + momentum * np.abs(velocity)
    each = nw_each(given, p, np.abs(param) + lr * (g + momentum * size if nesterov else size))
    if given_velocity is not None:
        each = max(each, nw_each(given_velocity, v, size))
    return {"sgd": (nw(given, p), TOL[dtype]["sgd"]), "sgd, each": (each, TOL[dtype]["sgd_each"])}


def sgd(rng, dtype, lr, momentum, nesterov, decay):
    param, grad, velocity = (normal(rng, dtype, 20000 if LONG else 200) for _ in range(3))
    p, v = param.copy(), velocity.copy()
    sgd_update(p, grad, v, lr=lr, momentum=momentum, nesterov=nesterov, weight_decay=decay)
    return sgd_errors(param, velocity, p, grad, v, rounded(dtype, lr=lr, momentum=momentum, weight_decay=decay), nesterov)


def engine_sgd(rng, dtype, lr, momentum, nesterov, decay):
    """The second of two steps; the velocity is what the first has left."""
    n, d = (64, 300) if LONG else (8, 10)
    layer = Dense(n, d, bias=False, init=normal(rng, dtype, n, d))
    net = fnn.Sequential([layer], loss="mean_squared_error", dtype=dtype, seed=0)
    options = {"lr": lr, "momentum": momentum, "weight_decay": decay}
    x, optimizer = np.eye(n, dtype=dtype), fnn.SGD(nesterov=nesterov, **options)
    target = (layer.weight - n * d / 2 * normal(rng, dtype, n, d)).astype(dtype)
    velocity = net.loss_and_gradients(x, target)[1]["0.weight"] + dtype.type(decay) * layer.weight
    net.train_step(x, target, optimizer)
    param = layer.weight.copy()
    target = (param - n * d / 2 * normal(rng, dtype, n, d)).astype(dtype)
    grad = net.loss_and_gradients(x, target)[1]["0.weight"]
    net.train_step(x, target, optimizer)
    return sgd_errors(param, velocity, layer.weight.copy(), grad, None, rounded(dtype, **options), nesterov)


def sgd_steps(rng, dtype, nesterov, engine=False):
    """A thousand, with gradients ~ N(0, 1)."""
    n = 500 if LONG else 5
    numbers = rounded(dtype, lr=0.01, momentum=0.9)
    layer = Dense(1, n, bias=False, init=normal(rng, dtype, 1, n))
    net = fnn.Sequential([layer], loss="mean_squared_error", dtype=dtype, seed=0)
    x, optimizer = np.ones((1, 1), dtype), fnn.SGD(lr=0.01, momentum=0.9, nesterov=nesterov)
    param, velocity = layer.weight.copy(), np.zeros((1, n), dtype)
    p, v = wide(param), wide(velocity)
    for _ in range(1000):
        grad = normal(rng, dtype, 1, n)
        if engine:
            param = layer.weight
            target = (param - n / 2 * grad).astype(dtype)
            grad = mean_squared_error(param, target)[1]
            net.train_step(x, target, optimizer)
        else:
            sgd_update(param, grad, velocity, lr=0.01, momentum=0.9, nesterov=nesterov)
        oracle.sgd_update(p, grad, v, nesterov=nesterov, **numbers)
    return {"sgd, 1000 steps": (nw(param, p), TOL[dtype]["sgd_1000"])}


# ---- Adam

def adam_errors(before, given, grad, step, numbers):
    """As `sgd_errors`; `before` and `given` are parameters and moments."""
    dtype, exact = before[0].dtype, [wide(a) for a in before]
    oracle.adam_update(exact[0], grad, *exact[1:], step=step, **numbers)
    param, m, v = (np.abs(a).astype(FLOAT64) for a in before)
    g = np.abs(grad).astype(FLOAT64) + (0 if numbers["decoupled"] else numbers["weight_decay"]) * param
    first, second = (numbers[b] * a + (1 - numbers[b]) * c for b, a, c in (("beta1", m, g), ("beta2", v, g**2)))
    # what cancels in the gradient shows in the root
    update = first * (1 + second / exact[2].astype(FLOAT64)) / np.sqrt(exact[2].astype(FLOAT64))
    update *= numbers["lr"] * np.sqrt(1 - numbers["beta2"] ** step) / (1 - numbers["beta1"] ** step)
    sizes = param * (1 + numbers["lr"] * numbers["weight_decay"]) + update, first, second
    each = max(nw_each(*of) for of in zip(given, exact, sizes, strict=True))
    return {"adam": (nw(given[0], exact[0]), TOL[dtype]["adam"]), "adam, each": (each, TOL[dtype]["adam_each"])}


def adam_numbers(dtype, lr, betas, decay, decoupled, eps_hat):
    return rounded(dtype, beta1=betas[0], beta2=betas[1]) | {
        "lr": lr, "eps": 1e-8, "weight_decay": decay, "decoupled": decoupled, "eps_hat": eps_hat}


def adam(rng, dtype, *options):
    numbers = adam_numbers(dtype, *options)
    param, grad, m, v = (normal(rng, dtype, 20000 if LONG else 200) for _ in range(4))
    before = param, m, m**2 + v**2      # the second moment is at least the square of the first, but for their betas
    given = [a.copy() for a in before]
    adam_update(given[0], grad, *given[1:], step=3, **numbers)
    return adam_errors(before, given, grad, 3, numbers)


def engine_adam(rng, dtype, *options):
    """The second of two steps."""
    numbers = adam_numbers(dtype, *options)
    n, d = (64, 300) if LONG else (8, 10)
    layer = Dense(n, d, bias=False, init=normal(rng, dtype, n, d))
    net = fnn.Sequential([layer], loss="mean_squared_error", dtype=dtype, seed=0)
    x = np.eye(n, dtype=dtype)
    optimizer = (fnn.AdamW if numbers["decoupled"] else fnn.Adam)(
        **{name: value for name, value in numbers.items() if name != "decoupled"})
    states = []
    for _ in range(2):
        target = (layer.weight - n * d / 2 * normal(rng, dtype, n, d)).astype(dtype)
        grad = net.loss_and_gradients(x, target)[1]["0.weight"]
        net.train_step(x, target, optimizer)
        states.append([layer.weight.copy(), *(
            net._plan.copies(flat)[0, "weight"] for flat in (net._velocity, net._second_moment))])
    return adam_errors(*states, grad, 2, numbers)


def adam_steps(rng, dtype, decoupled, engine=False):
    """A thousand, with gradients ~ N(0, 1)."""
    n = 500 if LONG else 5
    numbers = adam_numbers(dtype, 0.01, (0.9, 0.999), 0.01, decoupled, False)
    layer = Dense(1, n, bias=False, init=normal(rng, dtype, 1, n))
    net = fnn.Sequential([layer], loss="mean_squared_error", dtype=dtype, seed=0)
    x, optimizer = np.ones((1, 1), dtype), (fnn.AdamW if decoupled else fnn.Adam)(lr=0.01, weight_decay=0.01)
    param, *moments = layer.weight.copy(), np.zeros((1, n), dtype), np.zeros((1, n), dtype)
    p, *wide_moments = (wide(a) for a in (param, *moments))
    for step in range(1, 1001):
        grad = normal(rng, dtype, 1, n)
        if engine:
            param = layer.weight
            target = (param - n / 2 * grad).astype(dtype)
            grad = mean_squared_error(param, target)[1]
            net.train_step(x, target, optimizer)
        else:
            adam_update(param, grad, *moments, step=step, **numbers)
        oracle.adam_update(p, grad, *wide_moments, step=step, **numbers)
    return {"adam, 1000 steps": (nw(param, p), TOL[dtype]["adam_1000"])}


# ---- a whole step of a network. What reaches a parameter has been rounded by every layer on its way, there and back.


def built(layers, loss, dtype, rng):
    """No parameter or statistic at the 0 or 1 where it would start."""
    net = fnn.Sequential(layers, loss=loss, dtype=dtype, seed=0)
    for layer in net.layers:
        for name, a in (layer.parameters | layer.statistics).items():
            if name != "weight":
                a[...] = rng.uniform(0.6, 1.4, a.shape) if name in ("gamma", "running_var") else rng.normal(0, 0.3, a.shape)
    return net


NETWORKS = {
    "norm": (lambda: [BatchNorm(16), Dense(16, 5)], "mean_squared_error"),
    "dense, norm, tanh": (lambda: [Dense(16, 32, bias=False), BatchNorm(32), Tanh(), Dense(32, 5)], "softmax_cross_entropy"),
    "norm, sigmoids": (lambda: [BatchNorm(16), Dense(16, 32), Sigmoid(), Dense(32, 5)], "sigmoid_cross_entropy"),
    "four norms": (
        lambda: [BatchNorm(16), Tanh(), *(a for _ in range(3) for a in (Dense(16, 16, bias=False), BatchNorm(16), Tanh())),
                 Dense(16, 5)], "softmax_cross_entropy"),
}


def whole_step(rng, dtype, name, n, offset):
    layers, loss = NETWORKS[name]
    net = built(layers(), loss, dtype, rng)
    x = (offset + rng.standard_normal((n, 16))).astype(dtype)
    if loss == "softmax_cross_entropy":
        y = rng.integers(0, 5, n)
    else:
        y = (rng.random if loss == "sigmoid_cross_entropy" else rng.standard_normal)((n, 5)).astype(dtype)
    tol, depth = TOL[dtype], sum(isinstance(layer, BatchNorm) for layer in net.layers)
    gates = {
        "loss": tol["loss"], "running": tol["var"], "parameters": PARAMETERS, "weight": depth * product_budget(n),
        "bias": depth * tol["bias_gradient"], "gamma": depth * tol["dgamma"], "beta": depth * tol["dbeta"],
    }
    lr = float(dtype.type(0.1))
    exact_loss, exact_gradients = Plain(net, ops=oracle).gradients(x, y)
    loss, gradients = net.loss_and_gradients(x, y)
    errors = [("loss", nw(loss, exact_loss, dtype))]
    errors += [(name.partition(".")[2], nw(gradients[name], g)) for name, g in exact_gradients.items()]
    exact = Plain(net, ops=oracle)
    exact.step(x, y, lr=lr)
    net.train_step(x, y, fnn.SGD(lr=lr))
    for name, a in net.state_dict().items():
        errors.append(("running" if "running" in name else "parameters", nw(a, exact.state[name])))
    return {f"step, {of}": (max(e for name, e in errors if name == of), gates[of]) for of in dict(errors)}


# ---- all cases

NUMPY = "product of NumPy"      # whose rounding is not ours to record


def all_cases():
    """A name, what measures it, and the arguments of one or more measurements, of which the worst counts."""
    for dtype in DTYPES:
        for part, kernel, condition, function, *arguments in cases_of(dtype):
            yield f"{part}: {kernel}, {condition}, {dtype}", (function, dtype, arguments)


def cases_of(dtype):
    # the budget of float64 ends at 2048 rows
    rows = (256, 2048, 20000, 100_000) if LONG and dtype == FLOAT32 else (256, 2048) if LONG else (256,)
    for n, (offset, spread) in itertools.product(rows, OFFSETS):
        shape = n, 64 if n <= 2048 else 8
        condition = f"{n}x{shape[1]}, {offset:g}+{spread:g}N"
        yield "kernel", "batch norm", condition, batchnorm, (shape, offset, spread)
        yield "engine", "batch norm", condition, engine_batchnorm, (shape, offset, spread, True)
        if n <= 2048:
            yield "engine", "batch norm after dense", condition, engine_batchnorm, (shape, offset, spread, False)
    yield "kernel", "batch norm", "257x33", batchnorm, *[((257, 33), *of) for of in OFFSETS]
    for n, offset in itertools.product((256, 2047) if LONG else (256,), (0, 1e4)):
        outliers = [(n, offset, outlier) for outlier in (1e6, -1e3)]
        yield "kernel", "batch norm", f"{n}x9, {offset:g}+N, outlying first row", batchnorm_outlier, *outliers
    if dtype == FLOAT32:
        yield "kernel", "batch norm", "100x9, 1e30N", batchnorm_huge, (1e30,)
        for n, offset in itertools.product((256, 2047) if LONG else (256,), (1e2, 1e4)):
            yield "kernel", "batch norm", f"{n}x9, x and dout {offset:g}+N", batchnorm_far_gradient, (n, offset)
    yield "kernel", "batch norm", "100x9, 1e-15N to 1e15N", batchnorm_size, *[(10.0**e,) for e in (-15, -10, -3, 3, 10, 15)]
    for offset in (0, 1e2, 1e4, 1e6):
        shapes = [((256, 64), offset), ((257, 33), offset), ((3, 1030), offset)]
        for part, function in [("kernel", inference), ("engine", engine_inference)]:
            yield part, "batch norm, evaluation", f"{offset:g}+N", function, *shapes

    # one long inner size each: of out, of dx, of dweight
    for data, shape in itertools.product(
        ("normal", "positive"),
        [(40, 50, 60), (9, 256, 17), (9, 513, 17), (9, 1024, 17), (9, 4096, 17), (1, 4096, 9), (9, 20, 1024), (2048, 20, 17)],
    ):
        condition = "{}x{}x{}, {}".format(*shape, data)
        for part, function in [("kernel", dense), ("engine", engine_dense), (NUMPY, numpy_dense)]:
            yield part, "dense", condition, function, (shape, data)
    for data, n in itertools.product(("normal", "positive"), (257, 2048, 20000, 100_000) if LONG else (257,)):
        for part, function in [("kernel", bias_gradient), ("engine", engine_bias_gradient)]:
            yield part, "bias gradient", f"{n}x8, {data}", function, ((n, 8), data)

    for part, engine in [("kernel", False), ("engine", True)]:
        # in the engine each row has its own weights
        shapes = [(256, 10), (64, 100), (5, 2000), (1000, 2), (33, 17), *([] if engine else [(20000, 3)])]
        for n, k in shapes if LONG else [(8, 10)]:
            yield part, "softmax", f"{n}x{k}", softmax, *[((n, k), spread, engine) for spread in (0.01, 1, 10, 100)]
        for k in (2, 10, 700) if LONG else (2, 10):
            margins = [(k, margin, engine) for margin in (1, 5, 10, 20, 40, 60, 80)]
            yield part, "softmax", f"8x{k}, p near 1", softmax_near_one, *margins
        for (n, k), targets in itertools.product([(64, 10), (300, 1), (3, 513)] if LONG else [(8, 10)], ("soft", "hard")):
            spreads = [((n, k), spread, targets == "hard", engine) for spread in (0.01, 1, 10, 30)]
            yield part, "sigmoid", f"{n}x{k}, {targets} targets", sigmoid, *spreads
        for n, k in [(64, 10), (300, 1), (3, 513)]:
            yield part, "squared error", f"{n}x{k}", squared_error, *[((n, k), offset, engine) for offset in (0, 1e4)]
        for function in (softmax_cross_entropy, sigmoid_cross_entropy, mean_squared_error) if LONG else ():
            values = [(function, value, engine) for value in (-0.01, 0.0, 0.01, 0.1, 1.7, 3.1)]
            yield part, function.__name__, "equal losses", equal_losses, *values
        for nesterov in (False, True):
            kind = "Nesterov" if nesterov else "momentum"
            yield part, "sgd", f"1000 steps, {kind}", sgd_steps, (nesterov, engine)
            for decay in (0.0, 5e-4):
                steps = [(lr, momentum, nesterov, decay) for lr, momentum in itertools.product((1e-3, 0.1), (0.5, 0.9))]
                yield part, "sgd", f"{kind}, decay {decay:g}", engine_sgd if engine else sgd, *steps
        for decoupled in (False, True):
            kind = "decoupled" if decoupled else "coupled"
            yield part, "adam", f"1000 steps, {kind}", adam_steps, (decoupled, engine)
            for decay in (0.0, 0.01):
                steps = [(lr, betas, decay, decoupled, eps_hat) for lr, betas, eps_hat in itertools.product(
                    (1e-3, 0.1), ((0.9, 0.999), (0.5, 0.9)), (False, True))]
                yield part, "adam", f"{kind}, decay {decay:g}", engine_adam if engine else adam, *steps

    for name, n, offset in itertools.product(NETWORKS, (64, 1000) if LONG else (8,), (0, 1e4, 1e6)):
        # without a norm in front the first product decides
        if offset == 0 or name != "dense, norm, tanh":
            yield "engine", "whole step", f"{name}, {n} rows, {offset:g}+N", whole_step, (name, n, offset)


CASES = dict(all_cases())


def measured(name):
    """(error, gate) of each quantity."""
    function, dtype, arguments = CASES[name]
    worst = {}
    for number, args in enumerate(arguments):
        for quantity, pair in function(np.random.default_rng([number, zlib.crc32(name.encode())]), dtype, *args).items():
            worst[quantity] = max(worst.get(quantity, pair), pair)
    return worst


# ---- the record

def level():
    """The key of the record, or None where nothing is recorded because a product is not the own one, or the oracle is short."""
    own = gemm.vector_lanes() > 1 and not blas.path
    return re.match(r"[^ ,]+|.*", simd.level())[0] if own and LONG else None


@pytest.fixture(scope="module")
def record(request):
    """The maxima of each level, and whether to record; then what is put into `new` is written."""
    recording = request.config.getoption("--record-maxima")
    if recording and level() is None:
        pytest.fail("nothing is recorded with mpmath, a product of NumPy or FASTNN_BLAS")
    maxima = json.loads(MAXIMA.read_text())
    new = {} if recording else None
    yield maxima, new
    if new:
        maxima[level()] = maxima.get(level(), {}) | new
        known = recorded_cases()
        maxima = {key: {name: errors for name, errors in cases.items() if name in known} for key, cases in maxima.items()}
        MAXIMA.write_text(as_json(maxima))
        TABLE.write_text(with_table(TABLE.read_text(), maxima))


def recorded_cases():
    return {name for name in CASES if not name.startswith(NUMPY)}


def as_json(maxima):
    """A line for each case."""
    levels = []
    for key, cases in sorted(maxima.items()):
        lines = ",\n".join(f"    {json.dumps(name)}: {json.dumps(errors)}" for name, errors in sorted(cases.items()))
        levels.append(f"  {json.dumps(key)}: {{\n{lines}\n  }}")
    return "{\n" + ",\n".join(levels) + "\n}\n"


def short(error):
    return float(f"{error:.3g}")


def grown(errors, recorded):
    """What of the errors is above the record."""
    return {name: error for name, error in errors.items() if error > max(GROWTH * recorded[name], FLOOR)}


@pytest.mark.parametrize("name", CASES)
def test_accuracy(name, record):
    maxima, new = record
    pairs = measured(name)
    errors = {quantity: short(error) for quantity, (error, _) in pairs.items()}
    above = {quantity: errors[quantity] for quantity, (error, gate) in pairs.items() if not error <= gate}
    assert not above, f"above the gate: {above} of {errors}"
    if name.startswith(NUMPY) or level() is None:
        return
    if new is not None:
        new[name] = errors
    elif level() in maxima:
        recorded = maxima[level()].get(name, {})
        assert errors.keys() == recorded.keys(), "not recorded: pytest --record-maxima"
        assert not grown(errors, recorded), f"above {GROWTH} times the record: {grown(errors, recorded)} of {recorded}"


def test_the_level_is_recorded(record):
    maxima, new = record
    if new is not None:
        return
    if level() is None:
        pytest.skip("only the gates were asserted: a product of NumPy or FASTNN_BLAS, or an oracle of mpmath")
    if level() not in maxima:
        pytest.skip(f"only the gates were asserted: nothing is recorded for {level()}")


@pytest.mark.skipif(not LONG, reason="with mpmath there are fewer cases")
def test_the_record_has_no_cases_that_are_gone(record):
    maxima, new = record
    for key, cases in maxima.items():
        assert new is not None or cases.keys() <= recorded_cases(), key


# ---- the table in the documentation

# what is measured (a condition, if it is only some cases), gate and goal for float32 and float64; None: see the text
PRODUCT, NUMPYS = "max(4, sqrt(K)/2)", "NumPy's"
ROWS = [
    ("batch norm mean", "mean", (2, 0.6), (40, 10)),
    ("batch norm variance", "var", (2, 0.6), (40, 10)),
    ("batch norm y", "y", (4, 1), (40, 10)),
    ("batch norm dx", "dx", (4, 1), (40, 10)),
    ("batch norm dgamma", "dgamma", (4, 0.6), (40, 10)),
    ("batch norm dbeta", "dbeta", (4, 0.6), (40, 10)),
    ("batch norm y, evaluation", "evaluation", (4, 1), (4, 1)),
    ("dense y, componentwise", "dense out", (PRODUCT, NUMPYS), (PRODUCT, NUMPYS)),
    ("dense dx, componentwise", "dense dx", (PRODUCT, NUMPYS), (PRODUCT, NUMPYS)),
    ("dense dweight, componentwise", "dense dweight", (PRODUCT, NUMPYS), (PRODUCT, NUMPYS)),
    ("dense bias gradient", "dense dbias", (2, 0.6), (2, 0.6)),
    ("softmax loss", "softmax_cross_entropy loss", (2, 1), (2, 1)),
    ("softmax gradient", "softmax_cross_entropy gradient", (3, 2), (3, 2)),
    ("softmax gradient, elementwise as p -> 1", "softmax_cross_entropy gradient, p near 1", (30, 4), (30, 4)),
    ("sigmoid loss", "sigmoid_cross_entropy loss", (2, 1), (2, 1)),
    ("sigmoid gradient", "sigmoid_cross_entropy gradient", (3, 2), (3, 2)),
    ("sigmoid gradient, elementwise, targets 0 and 1", "sigmoid_cross_entropy gradient, each", (30, 4), (30, 4)),
    ("squared error loss", "mean_squared_error loss", (2, 1), (2, 1)),
    ("squared error gradient", "mean_squared_error gradient", (2, 1), (2, 1)),
    ("SGD, one step", "sgd", (0.6, 0.5), (0.6, 0.5)),
    ("SGD, one step, elementwise", "sgd, each", (2, "-"), (2, "-")),
    ("SGD, 1000 steps", "sgd, 1000 steps", (12, "-"), (12, "-")),
    ("Adam, one step", "adam", (0.6, 0.5), (0.6, 0.5)),
    ("Adam, one step, elementwise", "adam, each", (4, "-"), (4, "-")),
    ("Adam, 1000 steps", "adam, 1000 steps", (20, "-"), (20, "-")),
    ("network: loss", "step, loss", (2, "-"), (2, "-")),
    ("network: weight gradients", "step, weight", ("L max(4, sqrt(N)/2)", "-"), ("L max(4, sqrt(N)/2)", "-")),
    ("network: bias gradients", "step, bias", ("2 L", "-"), ("2 L", "-")),
    ("network: dgamma", "step, gamma", ("4 L", "-"), ("40 L", "-")),
    ("network: dbeta", "step, beta", ("4 L", "-"), ("40 L", "-")),
    ("network: running statistics", "step, running", (2, "-"), (40, "-")),
    ("network: parameters after a step", "step, parameters", (PARAMETERS, "-"), (PARAMETERS, "-")),
]
MARKS = "<!-- table -->\n", "<!-- end of table -->\n"


def largest(maxima, quantity, part, dtype):
    """Over all cases and levels."""
    of = [errors[quantity] for cases in maxima.values() for name, errors in cases.items()
          if quantity in errors and name.startswith(part) and name.endswith(str(dtype))]
    return "-" if not of else f"{max(of):.2g}" if max(of) >= 0.01 else "< 0.01"


def with_table(text, maxima):
    """The documentation with the table that goes with the maxima."""
    lines = ["| | float32: gate | goal | kernel | engine | float64: gate | goal | kernel | engine |", "|---|" + "---|" * 8]
    for title, quantity, *budgets in ROWS:
        cells = [title]
        for dtype, budget in zip(DTYPES, budgets, strict=True):
            cells += [*map(str, budget), *(largest(maxima, quantity, part, dtype) for part in ("kernel", "engine"))]
        lines.append(f"| {' | '.join(cells)} |")
    before, after = text.split(MARKS[0])[0], text.split(MARKS[1])[1]
    return before + MARKS[0] + "\n".join(lines) + "\n" + MARKS[1] + after


def test_the_table_is_that_of_the_record(record):
    maxima, new = record
    if new is None:
        assert {q for _, q, *_ in ROWS} == {q for cases in maxima.values() for errors in cases.values() for q in errors}
        assert TABLE.read_text() == with_table(TABLE.read_text(), maxima), "pytest --record-maxima writes it"


# ---- an error is found

@pytest.mark.parametrize("name", ["batchnorm_forward", "batchnorm_backward", "batchnorm_inference"])
def test_a_mean_of_float32_is_found(monkeypatch, name):
    """Rounded before it is subtracted, or folded into the shift."""
    sound = getattr(fnn, name)

    def forward(x, gamma, beta, *running, **options):
        _, mean, rstd = sound(x, gamma, beta, *running, **options)
        return (x - mean.astype(FLOAT32)) * rstd.astype(FLOAT32) * gamma + beta, mean, rstd

    def backward(dout, x, gamma, mean, rstd):
        return sound(dout, x, gamma, mean.astype(FLOAT32).astype(FLOAT64), rstd)

    def inference(x, gamma, beta, mean, var):
        scale = gamma / np.sqrt(var + FLOAT32.type(1e-5))
        return x * scale + (beta - mean * scale)

    broken = {"batchnorm_forward": forward, "batchnorm_backward": backward, "batchnorm_inference": inference}[name]
    monkeypatch.setattr(sys.modules[__name__], name, broken)
    case = "batch norm, evaluation, 10000+N" if name == "batchnorm_inference" else "batch norm, 256x64, 10000+1N"
    errors = measured(f"kernel: {case}, float32")
    assert any(error > gate for error, gate in errors.values()), errors


def test_growth_is_found():
    recorded = {"y": 1.0, "dx": 0.001, "dgamma": 0.0}
    assert not grown({"y": 1.25, "dx": 0.05, "dgamma": 0.05}, recorded)
    assert grown({"y": 1.26, "dx": 0.001, "dgamma": 0.051}, recorded).keys() == {"y", "dgamma"}
    assert grown({"y": math.inf, "dx": math.inf, "dgamma": 0}, recorded).keys() == {"y", "dx"}


def test_the_oracle_is_finer_than_float64(rng):
    """By 2^11 at least, which a sum of some numbers shows."""
    a = rng.standard_normal((1, 1000))
    exact = oracle.dense_forward(a, np.ones((1000, 1)))
    assert abs(float(exact[0, 0] - wide(math.fsum(a[0])))) <= 2 * EPS[FLOAT64] * abs(math.fsum(a[0]))
    assert float(wide(1.0) + wide(2.0**-60) - wide(1.0)) == 2.0**-60


# ---- exactly right

@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_constant_columns_give_beta_in_the_engine(rng, dtype):
    values = np.array([0, 1, -1, 0.1, 1 / 3, 1e4, 1e8 / 3, 1e-30, 3e30, np.pi * 1e15], dtype)
    for n in (2, 7, 100, 4097):
        norm = BatchNorm(len(values), momentum=1.0)
        net = fnn.Sequential([norm, Dense(len(values), len(values), bias=False, init=np.eye(len(values)))], dtype=dtype, seed=0)
        norm.gamma, norm.beta = parameters(rng, dtype, len(values))
        y = net.forward(np.repeat(values[None], n, axis=0), training=True)
        assert_same_bits(y, np.repeat(norm.beta[None], n, axis=0), n)
        assert_same_bits(norm.running_mean.copy(), values, n)
        assert not norm.running_var.any()
