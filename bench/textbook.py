"""The kernels as a textbook writes them: whole-array expressions, a new array for every intermediate result.

The functions of `fastnn.reference` with the dtype of the data kept throughout, and the training loop built from them.
"""

from __future__ import annotations

import numpy as np

from fastnn.reference import Array


def dense_forward(x: Array, weight: Array, bias: Array) -> Array:
    return x @ weight + bias


def dense_backward(dout: Array, x: Array, weight: Array) -> tuple[Array, Array, Array]:
    return dout @ weight.T, x.T @ dout, dout.sum(axis=0)


def batchnorm_forward(
    x: Array, gamma: Array, beta: Array, running_mean: Array, running_var: Array, *,
    momentum: float = 0.1, eps: float = 1e-5,
) -> tuple[Array, Array, Array]:
    n = len(x)
    mean, var = x.mean(axis=0), x.var(axis=0)
    rstd = 1 / np.sqrt(var + eps)
    running_mean[...] = (1 - momentum) * running_mean + momentum * mean
    running_var[...] = (1 - momentum) * running_var + momentum * var * n / (n - 1)
    xhat = (x - mean) * rstd
    return gamma * xhat + beta, mean, rstd


def batchnorm_backward(dout: Array, x: Array, gamma: Array, mean: Array, rstd: Array) -> tuple[Array, Array, Array]:
    n = len(x)
    xhat = (x - mean) * rstd
    dgamma, dbeta = (dout * xhat).sum(axis=0), dout.sum(axis=0)
    return gamma * rstd * (dout - dbeta / n - xhat * dgamma / n), dgamma, dbeta


def batchnorm_inference(
    x: Array, gamma: Array, beta: Array, running_mean: Array, running_var: Array, *, eps: float = 1e-5,
) -> Array:
    return gamma * (x - running_mean) / np.sqrt(running_var + eps) + beta


def activation_forward(x: Array, kind: str) -> Array:
    match kind:
        case "identity":
            return x.copy()
        case "relu":
            return np.maximum(x, 0)
        case "leaky_relu":
            return np.where(x > 0, x, 0.01 * x)
        case "tanh":
            return np.tanh(x)
        case "sigmoid":
            return 1 / (1 + np.exp(-x))
        case "softsign":
            return x / (1 + np.abs(x))
        case "softplus":
            return np.log(1 + np.exp(x))
        case "elu":
            return np.where(x > 0, x, np.exp(x) - 1)
    raise ValueError(f"kind: {kind!r}")


def activation_backward(dy: Array, y: Array, kind: str) -> Array:
    match kind:
        case "identity":
            return dy.copy()
        case "relu":
            return dy * (y > 0)
        case "leaky_relu":
            return np.where(y > 0, dy, 0.01 * dy)
        case "tanh":
            return dy * (1 - y**2)
        case "sigmoid":
            return dy * y * (1 - y)
        case "softsign":
            return dy * (1 - np.abs(y)) ** 2
        case "softplus":
            return dy * (1 - np.exp(-y))
        case "elu":
            return np.where(y > 0, dy, dy * (y + 1))
    raise ValueError(f"kind: {kind!r}")


def softmax_cross_entropy(logits: Array, labels: Array) -> tuple[float, Array]:
    n = len(logits)
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    p = e / e.sum(axis=1, keepdims=True)
    loss = -np.log(p[np.arange(n), labels]).mean()
    p[np.arange(n), labels] -= 1
    return float(loss), p / n


def sigmoid_cross_entropy(logits: Array, targets: Array) -> tuple[float, Array]:
    p = 1 / (1 + np.exp(-logits))
    loss = -(targets * np.log(p) + (1 - targets) * np.log(1 - p)).mean()
    return float(loss), (p - targets) / p.size


def mean_squared_error(pred: Array, target: Array) -> tuple[float, Array]:
    difference = pred - target
    return float((difference**2).mean()), 2 * difference / pred.size


def sgd_update(param: Array, grad: Array, velocity: Array, *, lr: float, momentum: float) -> None:
    velocity[...] = momentum * velocity + grad
    param -= lr * velocity


class Network:
    """Blocks of dense, batch norm and ReLU, then a dense layer with bias and softmax, trained by SGD with momentum.

    `state` is the ``state_dict`` of the same network in fastnn: layers 3 b, 3 b + 1 and 3 b + 2 are block b.
    """

    def __init__(self, state: dict[str, Array], *, lr: float, momentum: float) -> None:
        self.state = {name: a.copy() for name, a in state.items()}
        self.velocity = {name: np.zeros_like(a) for name, a in state.items() if "running" not in name}
        self.lr, self.momentum = lr, momentum

    def train_step(self, x: Array, y: Array, rows: Array) -> float:
        """One update from the given rows of the data; the loss before it."""
        s, blocks, last = self.state, hidden(self.state), output(self.state)
        saved, grads = {}, {}
        h = x[rows]
        for i in blocks:
            z = h @ s[f"{i}.weight"]
            out, mean, rstd = batchnorm_forward(
                z, *(s[f"{i + 1}.{name}"] for name in ("gamma", "beta", "running_mean", "running_var"))
            )
            saved[i] = h, z, mean, rstd
            h = activation_forward(out, "relu")
        loss, dout = softmax_cross_entropy(dense_forward(h, s[f"{last}.weight"], s[f"{last}.bias"]), y[rows])
        dh, grads[f"{last}.weight"], grads[f"{last}.bias"] = dense_backward(dout, h, s[f"{last}.weight"])
        for i in reversed(blocks):
            dout = activation_backward(dh, h, "relu")
            h, z, mean, rstd = saved[i]
            dz, grads[f"{i + 1}.gamma"], grads[f"{i + 1}.beta"] = batchnorm_backward(
                dout, z, s[f"{i + 1}.gamma"], mean, rstd
            )
            grads[f"{i}.weight"] = h.T @ dz
            if i:
                dh = dz @ s[f"{i}.weight"].T
        for name, grad in grads.items():
            sgd_update(s[name], grad, self.velocity[name], lr=self.lr, momentum=self.momentum)
        return loss

    def predict(self, x: Array) -> Array:
        return predict(self.state, x)


def predict(state: dict[str, Array], x: Array) -> Array:
    """The class of each row, from the running statistics."""
    for i in hidden(state):
        names = ("gamma", "beta", "running_mean", "running_var")
        out = batchnorm_inference(x @ state[f"{i}.weight"], *(state[f"{i + 1}.{name}"] for name in names))
        x = activation_forward(out, "relu")
    last = output(state)
    return dense_forward(x, state[f"{last}.weight"], state[f"{last}.bias"]).argmax(axis=1)


def hidden(state: dict[str, Array]) -> range:
    """The indices of the dense layers that begin a block."""
    return range(0, output(state), 3)


def output(state: dict[str, Array]) -> int:
    """The index of the last layer."""
    return max(int(name.split(".")[0]) for name in state)
