"""`diagnose`: what is wrong with the signals of a network, and the remedy. docs/diagnosis.md has the findings in a table."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from fastnn import _check, reference
from fastnn.activation import activation_backward, activation_forward
from fastnn.init import equal_units
from fastnn.layers import Activation, BatchNorm, Dense, Dropout
from fastnn.network import Sequential
from fastnn.optimizers import SGD, Adam, Optimizer
from fastnn.trace import Stage, Trace, deviation, median_size, rms

Array = np.ndarray

# The thresholds; docs/diagnosis.md says why they are what they are.
FEW = 30                # rows: of fewer, all may be on one side of a unit by chance
FLAT = 0.02             # a slope below this share of the activation's largest is saturated: beyond 0.99 for tanh
SATURATED = 0.5         # share of the outputs
DEAD = 0.5              # share of the units
GRADIENT = 1e-3         # gradient of a layer by that of the last hidden layer
SIGNAL = 1e-2           # activations of a layer by those of the layer before it that has the most
UPDATE = 1e-3           # update by weight: the usual
LARGE_UPDATE = 0.2
SMALL_UPDATE = 1e-5
LEARNT = 0.9            # loss by that of the best constant output
STRAY = 1.0             # running mean off the batch's, in standard deviations of the batch
STRAY_VARIANCE = 4.0    # running variance by the batch's, or the other way round
STRAY_FEATURES = 0.1    # share of the features that stray
LARGE = 10.0            # root mean square of a column of x
SMALL = 0.01            # root mean square of x
CONSTANT = 0.5          # share of the columns of x
START = 2.0             # nats of the first loss above that of equal probabilities
IMBALANCE = 0.2         # nats that the frequencies of the classes tell
OFFSET = 3.0            # mean of y off that of the outputs, in standard deviations of y
FLAT_OUTPUT = 1e-3      # standard deviation of the outputs by that of y, which tells them from a constant

#: What `Diagnosis.layers` says of each layer, in this order.
COLUMNS = (
    "layer", "name", "mean", "std", "signal", "saturated", "dead", "gradient_rms", "gradient_median", "weight_rms",
    "weight_gradient_rms", "update_ratio", "running_distance", "running_variance", "smallest_variance", "eps_share",
)
# what is printed of them: the key, the heading and the format
COLUMNS_OF_LAYERS = (
    ("layer", "", "d"), ("name", "layer", "s"), ("mean", "mean", ".3g"), ("std", "std", ".3g"), ("saturated", "flat", "%"),
    ("dead", "dead", "%"), ("gradient_rms", "d rms", ".2g"), ("gradient_median", "d median", ".2g"),
    ("weight_rms", "w rms", ".2g"), ("weight_gradient_rms", "dw rms", ".2g"), ("update_ratio", "update/w", ".1e"),
)
COLUMNS_OF_BATCHNORM = (
    ("layer", "", "d"), ("name", "batch norm", "s"), ("running_distance", "mean off by (std)", ".2g"),
    ("running_variance", "running/batch var", ".2g"), ("smallest_variance", "smallest var", ".2g"),
    ("eps_share", "eps share", "%"),
)
LEGEND = (
    "mean and std: of the outputs; flat: share of the outputs with next to no slope; dead: share of the units that are 0",
    "for every row; d: gradient by the outputs; w: weights; update/w: size of the next update by that of the weights",
)
SEVERITIES = ("error", "warning", "note")
RECTIFIERS = ("relu", "leaky_relu", "elu", "softplus")
SQUASHING = ("tanh", "sigmoid", "softsign")


class Finding(NamedTuple):
    """Something that is wrong, or may be.

    Attributes
    ----------
    severity : {"error", "warning", "note"}
        Nothing can work; training is likely to suffer; no harm but waste.
    layer : int or None
        The place in ``net.layers``, from 0; None for the data.
    name : str
        Which finding of docs/diagnosis.md it is.
    message : str
        What was found, and the remedy, in one sentence.
    """

    severity: str
    layer: int | None
    name: str
    message: str

    def __str__(self) -> str:
        return self.message


class Diagnosis:
    """What `diagnose` found. Printed, it is a table.

    Attributes
    ----------
    layers : list of dict
        One for each layer of the network, with these keys; None where a layer has no such thing.

        - ``layer``, ``name``: its place and what it is;
        - ``mean``, ``std``: of all its outputs;
        - ``signal``: the standard deviation over the rows, as the root mean square over the units;
        - ``saturated``: the share of the outputs of an activation whose slope is below 2 % of the largest (of a ReLU, those at
          0);
        - ``dead``: the share of the units of a ReLU whose output is 0 for every row;
        - ``gradient_rms``, ``gradient_median``: of the gradient of the loss by its outputs: root mean square, and the median of
          the absolute values that are not 0;
        - ``weight_rms``, ``weight_gradient_rms``: of the weights of a `Dense`;
        - ``update_ratio``: root mean square of the next update of the weights by that of the weights;
        - ``running_distance``: how far the running mean of a `BatchNorm` is off the mean of these rows, in standard deviations,
          as the root mean square over the features;
        - ``running_variance``: the running variance by that of these rows, as the geometric mean over the features;
        - ``smallest_variance``: of a feature that goes into a `BatchNorm`;
        - ``eps_share``: the largest share that eps has in ``var + eps``, over the features that are not constant.
    findings : list of Finding
        The worst first.
    rows : int
        How many were looked at.
    loss : float
        Of these rows in training mode, but for dropout.
    evaluation : dict
        What ``net.evaluate`` says of them.
    dropout : bool
        Whether the network has dropout, which was left out.
    """

    def __init__(self, layers: list[dict[str, Any]], findings: list[Finding], rows: int, loss: float,
                 evaluation: dict[str, float], dropout: bool) -> None:
        self.layers, self.findings, self.rows, self.loss = layers, findings, rows, loss
        self.evaluation, self.dropout = evaluation, dropout

    def __repr__(self) -> str:
        return f"Diagnosis({len(self.layers)} layers, {len(self.findings)} findings)"

    def __str__(self) -> str:
        lines = [self.summary(), ""]
        for columns, rows in self.tables():
            lines += [*_table(columns, rows), ""]
        lines += [*LEGEND, ""]
        lines += [f"{finding.severity:8} {finding.message}" for finding in self.findings] or ["No findings."]
        return "\n".join(lines)

    def tables(self) -> Iterator[tuple[tuple[tuple[str, str, str], ...], list[dict[str, Any]]]]:
        """The columns and rows to print: of all layers, and of the batch norms."""
        yield COLUMNS_OF_LAYERS, self.layers
        if rows := [row for row in self.layers if row["smallest_variance"] is not None]:
            yield COLUMNS_OF_BATCHNORM, rows

    def summary(self) -> str:
        """What was looked at, in a line.

        Returns
        -------
        str
        """
        evaluated = ", ".join(f"{key} {value:.4g}" for key, value in self.evaluation.items())
        dropout = " (dropout left out)" if self.dropout else ""
        return f"{self.rows} rows: loss {self.loss:.4g} in training mode{dropout}; in evaluation {evaluated}"


def diagnose(net: Sequential, x: Array, y: Array, *, lr: float | None = None, max_rows: int = 1000) -> Diagnosis:
    """Look at the activations, gradients and statistics of a network, and say what is wrong with them.

    The network computes the loss of some rows as one batch in training mode, and its gradient; but dropout does nothing.
    Nothing of the network changes. It may be called while the network is being trained, from a callback.

    Parameters
    ----------
    net : Sequential
    x, y : ndarray
        As for `Sequential.fit`.
    lr : float, optional
        For the ratio of update and weight: of plain gradient descent at this rate. None takes the optimiser that the network
        was trained with last, with its momentum (or moments), decay and clipping; if there is none, the ratio is not known.
    max_rows : int
        At least 2. Of more rows a random sample of so many is taken, always the same one.

    Returns
    -------
    Diagnosis
        With ``layers``, a dict for each layer, and ``findings``; `print` it.

    Raises
    ------
    TypeError, ValueError
        Naming the argument. A number that is not finite is a finding, not an error.

    Examples
    --------
    >>> import numpy as np
    >>> import fastnn as fnn
    >>> rng = np.random.default_rng(0)
    >>> x, y = rng.standard_normal((200, 10)), rng.integers(0, 2, 200)
    >>> net = fnn.Sequential([fnn.Dense(10, 20), fnn.ReLU(), fnn.Dense(20, 2)], seed=0)
    >>> net.layers[0].bias[3:] = -100
    >>> for finding in fnn.diagnose(net, x, y).findings:
    ...     print(finding)
    layer 1: 85 % dead ReLUs: lower lr or use he_normal
    """
    if lr is not None:
        lr = _check.non_negative(lr, "lr")
    if y is None:
        raise _check.wrong_kind(y, "y", "an array of targets")
    return examined(net, Trace(net, x, y, max_rows=max_rows), lr)


def examined(net: Sequential, trace: Trace, lr: float | None = None) -> Diagnosis:
    """The diagnosis of a network by a trace with targets."""
    assert trace.y is not None
    with np.errstate(all="ignore"):
        layers = [_measured(net, trace, i) for i in range(len(net.layers))]
        evaluation = net.evaluate(trace.x, trace.y)
        for i, ratio in _update_ratios(net, trace, lr).items():
            layers[i]["update_ratio"] = ratio
        findings = [*_not_finite(net, trace, trace.y)]
        if not findings:
            best = _best_constant(net, trace.y)
            findings = [
                *_of_data(net, trace), *_of_units(net, trace, layers), *_of_depth(net, trace, layers),
                *_of_updates(trace, layers, best), *_of_batchnorm(net, trace), *_of_outputs(net, trace, trace.y, best)]
    findings.sort(key=lambda finding: (SEVERITIES.index(finding.severity), -1 if finding.layer is None else finding.layer))
    dropout = any(isinstance(layer, Dropout) for layer in net.layers)
    return Diagnosis(layers, findings, len(trace.x), trace.loss, evaluation, dropout)


# ---------------------------------------------------------------------------------------------------------- measuring

def _signal(a: Array) -> float:
    """The standard deviation over the rows: what tells one row from another."""
    return float(np.sqrt(np.mean(np.var(a, axis=0, dtype=np.float64))))


def _measured(net: Sequential, trace: Trace, i: int) -> dict[str, Any]:
    """What the columns say of a layer, but for the update ratio."""
    layer, out = net.layers[i], trace.outputs[i]
    row: dict[str, Any] = dict.fromkeys(COLUMNS)
    row |= {
        "layer": i, "name": repr(layer), "mean": float(np.mean(out, dtype=np.float64)),
        "std": deviation(out), "signal": _signal(out),
        "gradient_rms": rms(trace.gradients[i]), "gradient_median": median_size(trace.gradients[i])}
    if isinstance(layer, Activation):
        slope = activation_backward(np.ones_like(out), out, layer.kind)
        steepest = 0.25 if layer.kind == "sigmoid" else 1.0
        row["saturated"] = float(np.mean(slope < FLAT * steepest))
        if layer.kind == "relu":
            row["dead"] = float(np.mean((out == 0).all(axis=0)))
    elif isinstance(layer, Dense):
        row["weight_rms"] = rms(layer.weight)
        row["weight_gradient_rms"] = rms(trace.parameter_gradients[f"{i}.weight"])
    elif isinstance(layer, BatchNorm):
        mean, var = _statistics(trace, i)
        off, ratio = _strayed(layer, mean, var, len(out))
        row["running_distance"] = rms(off)
        row["running_variance"] = float(np.exp(np.mean(np.log(ratio))))
        row["smallest_variance"] = float(var.min())
        varying = var[var > 0]
        row["eps_share"] = float(layer.eps / (varying.min() + layer.eps)) if varying.size else None
    return row


def _statistics(trace: Trace, i: int) -> tuple[Array, Array]:
    """Mean and biased variance of what goes into a layer."""
    h = trace.input(i)
    return h.mean(axis=0, dtype=np.float64), h.var(axis=0, dtype=np.float64)


def _strayed(layer: BatchNorm, mean: Array, var: Array, n: int) -> tuple[Array, Array]:
    """By feature: how many standard deviations the running mean is off, and the running variance by that of the rows."""
    off = np.abs(layer.running_mean - mean) / np.sqrt(var + layer.eps)
    ratio = (layer.running_var + layer.eps) / (var * n / (n - layer.running_var_ddof) + layer.eps)
    return off, ratio


def _frequencies(net: Sequential, y: Array) -> Array:
    """How often each class comes: (1, K) for a softmax; of K sigmoids, each with two classes, (K, 2)."""
    if net.loss == "softmax_cross_entropy":
        return np.bincount(y, minlength=net.n_out)[None] / len(y)
    share = y.mean(axis=0, dtype=np.float64)
    return np.stack([1 - share, share], axis=1)


def _mean_probabilities(net: Sequential, z: Array) -> Array:
    """The same of the probabilities that the outputs stand for."""
    if net.loss == "softmax_cross_entropy":
        e = np.exp(z - z.max(axis=1, keepdims=True), dtype=np.float64)
        return np.mean(e / e.sum(axis=1, keepdims=True), axis=0, keepdims=True)
    return _frequencies(net, activation_forward(z, "sigmoid"))


def _cross_entropy(p: Array, q: Array) -> float:
    """``-sum(p log q)`` over the classes; the mean over what is classified."""
    return float(np.mean(-np.sum(p * np.log(q, where=p > 0, out=np.zeros_like(q)), axis=1)))


def _best_constant(net: Sequential, y: Array) -> float:
    """The loss of the best outputs that are the same for all rows."""
    if net.loss == "mean_squared_error":
        return float(np.mean(np.var(y, axis=0, dtype=np.float64)))
    frequencies = _frequencies(net, y)
    return _cross_entropy(frequencies, frequencies)


def _update_ratios(net: Sequential, trace: Trace, lr: float | None) -> dict[int, float]:
    """By layer: the root mean square of the next update of the weights by that of the weights, if there is a learning rate."""
    optimizer, clip = net._optimizer, 1.0
    if lr is None:
        if optimizer is None:
            return {}
        norm = math.sqrt(sum(np.square(g, dtype=np.float64).sum() for g in trace.parameter_gradients.values()))
        if optimizer.clip_norm is not None and norm > optimizer.clip_norm:
            clip = optimizer.clip_norm / norm
    ratios = {}
    for stage in trace.stages:
        weight, gradient = net.layers[stage.dense].parameters["weight"], trace.parameter_gradients[f"{stage.dense}.weight"]
        if size := rms(weight):
            update = lr * gradient if lr is not None else _update(net, optimizer, stage.dense, weight, clip * gradient)
            ratios[stage.dense] = rms(update) / size
    return ratios


def _update(net: Sequential, optimizer: Optimizer | None, layer: int, weight: Array, gradient: Array) -> Array:
    """The next update of the weights of a layer, or its negative.

    With momentum m it is what it comes to if the gradient stays, lr / (1 - m) times it: Goodfellow et al. (2016), section
    8.3.2. Of Adam it is the next one, with the moments as they are.
    """
    if isinstance(optimizer, SGD):
        return _rate(net, optimizer) / (1 - optimizer.momentum) * (gradient + optimizer.weight_decay * weight)
    assert isinstance(optimizer, Adam) and net._velocity is not None and net._second_moment is not None
    moments = (net._plan.views(flat)[layer, "weight"] for flat in (net._velocity, net._second_moment))
    after, m, v = (a.astype(np.float64) for a in (weight, *moments))
    reference.adam_update(
        after, gradient, m, v, lr=_rate(net, optimizer), step=net._trained[0] + 1, beta1=optimizer.beta1, beta2=optimizer.beta2,
        eps=optimizer.eps, eps_hat=optimizer.eps_hat, weight_decay=optimizer.weight_decay, decoupled=optimizer.DECOUPLED)
    return after - weight


def _rate(net: Sequential, optimizer: Optimizer) -> float:
    """The learning rate of the next step."""
    if isinstance(optimizer.lr, float):
        return optimizer.lr
    steps, epochs = net._trained
    return optimizer.lr.at(epochs if optimizer.lr.per == "epoch" else steps)


# ----------------------------------------------------------------------------------------------------------- findings

def _finding(layer: int | None, name: str, text: str, severity: str = "warning") -> Finding:
    return Finding(severity, layer, name, f"{'data' if layer is None else f'layer {layer}'}: {text}")


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _init_for(kind: str | None) -> str:
    return "he_normal" if kind in RECTIFIERS else "xavier_uniform"


def _not_finite(net: Sequential, trace: Trace, y: Array) -> Iterator[Finding]:
    """Where numbers that are not finite come from: the data and the state, else the first place that overflows."""

    def bad(a: Array) -> bool:
        return not np.isfinite(a).all()

    def finding(layer: int | None, text: str) -> Finding:
        return _finding(layer, "not finite", text, "error")

    columns = np.flatnonzero(~np.isfinite(trace.x).all(axis=0))
    state = [key.split(".") for key, a in net.state_dict().items() if bad(a)]
    last = len(net.layers) - 1
    if len(columns):
        yield finding(None, f"NaN or infinity in {len(columns)} of {net.n_in} columns of x, first in column {columns[0]}: "
                            "fill or remove them")
    if bad(y):
        yield finding(None, "NaN or infinity in y: remove these rows")
    for layer, name in state:
        yield finding(int(layer), f"NaN or infinity in its {name}: go back to an earlier state and lower lr")
    if len(columns) or bad(y) or state:
        return
    for i, out in enumerate(trace.outputs):
        if bad(out):
            yield finding(i, "its output overflows though its input is finite: scale x and the weights down")
            return
    if not math.isfinite(trace.loss):
        yield finding(last, f"the loss is {trace.loss}: scale y and the weights down")
        return
    for i in range(last, -1, -1):
        if bad(trace.gradients[i]):
            yield finding(i, "the gradient by its output overflows: scale the weights behind it down")
            return


def _of_data(net: Sequential, trace: Trace) -> Iterator[Finding]:
    constant = (trace.x == trace.x[0]).all(axis=0)
    if len(trace.x) >= FEW and constant.mean() > CONSTANT:
        yield _finding(None, "constant inputs", f"{constant.sum()} of {net.n_in} columns of x are constant: leave them out")
    if isinstance(net.layers[0], BatchNorm):
        return
    sizes = np.sqrt(np.mean(np.square(trace.x, dtype=np.float64), axis=0))
    if sizes.max() > LARGE:
        yield _finding(None, "unscaled inputs", f"column {sizes.argmax()} of x has a root mean square of {sizes.max():.3g}: "
                                                "scale each to mean 0 and variance 1")
    elif 0 < rms(sizes) < SMALL:
        yield _finding(None, "unscaled inputs", f"x has a root mean square of {rms(sizes):.2g}: "
                                                "scale each column to mean 0 and variance 1")


def _of_units(net: Sequential, trace: Trace, rows: list[dict[str, Any]]) -> Iterator[Finding]:
    """Units that are equal, dead or saturated, and biases that do nothing."""
    equal = equal_units(net)
    for stage, following in pairwise(trace.stages):
        yield from _equal(net, stage, following, equal[stage.dense])
    for i, layer in enumerate(net.layers):
        if isinstance(layer, BatchNorm) and i and (below := net.layers[i - 1]) and isinstance(below, Dense) and below.has_bias:
            yield _finding(i - 1, "bias before batch norm", "its bias does nothing, for batch norm takes the mean away: "
                                                            "give it bias=False", "note")
        if not isinstance(layer, Activation):
            continue
        if layer.kind == "relu" and len(trace.x) >= FEW and rows[i]["dead"] > DEAD:
            yield _finding(i, "dead", f"{_percent(rows[i]['dead'])} dead ReLUs: lower lr or use he_normal")
        if layer.kind in SQUASHING and rows[i]["saturated"] > SATURATED:
            yield _finding(i, "saturated", f"{_percent(rows[i]['saturated'])} of its {layer.kind} outputs are saturated: "
                                           "lower lr, or use xavier_uniform or BatchNorm")


def _equal(net: Sequential, stage: Stage, following: Stage, groups: list[list[int]]) -> Iterator[Finding]:
    """Units of a hidden layer that compute the same. They stay equal if what they feed does not tell them apart either."""
    if groups:
        fed = net.layers[following.dense].parameters["weight"]
        stay = all((fed[group] == fed[group[0]]).all() for group in groups) and not any(
            isinstance(layer, Dropout) for layer in net.layers[stage.dense:following.dense])
        yield _finding(stage.dense, "equal units", f"{sum(map(len, groups))} of {len(fed)} units are equal"
                       f"{' and stay so' if stay else ''}: use a random init such as {_init_for(stage.activation)}")


def _of_depth(net: Sequential, trace: Trace, rows: list[dict[str, Any]]) -> Iterator[Finding]:
    """Signals that vanish or explode on their way through the hidden layers, with the first layer that they reach so."""
    hidden = [stage for stage in trace.stages if stage.hidden]
    if not hidden:
        return
    # a sigmoid divides the signal by 4 or more, whatever Xavier does
    remedy = "use " + ("tanh" if hidden[-1].activation == "sigmoid" else _init_for(hidden[-1].activation)) + " or BatchNorm"

    signals = np.array([_signal(trace.x)] + [rows[stage.after]["signal"] for stage in hidden])
    most, least = np.maximum.accumulate(signals)[:-1], np.minimum.accumulate(signals)[:-1]
    # inputs of another scale are another finding: here they count as at most, or at least, 1
    vanished, exploded = signals[1:] / np.minimum(most, 1) < SIGNAL, signals[1:] / np.maximum(least, 1) > 1 / SIGNAL
    for reached, word in ((vanished, "vanish"), (exploded, "explode")):
        if reached.any():
            k = int(reached.argmax())
            yield _finding(hidden[k].after, f"activations {word}", f"the activations {word}, their standard deviation over the "
                                                                   f"rows is {signals[k + 1]:.2g} here: {remedy}")

    top = rows[hidden[-1].before]
    if not top["gradient_rms"]:
        return
    size = np.array([rows[stage.before]["gradient_rms"] for stage in hidden]) / top["gradient_rms"]
    median = np.array([rows[stage.before]["gradient_median"] for stage in hidden]) / top["gradient_median"]
    for reached, word in ((np.minimum(size, median) < GRADIENT, "vanishes"), (size > 1 / GRADIENT, "explodes")):
        if reached.any():
            k = int(np.flatnonzero(reached)[-1])    # backwards
            yield _finding(hidden[k].before, f"gradient {word}", f"the gradient {word}, its root mean square is {size[k]:.2g} "
                           f"times that at layer {hidden[-1].before} and its median {median[k]:.2g} times: {remedy}")


def _of_updates(trace: Trace, rows: list[dict[str, Any]], best: float) -> Iterator[Finding]:
    """`best` is the loss of the best constant output."""
    ratios = {i: row["update_ratio"] for i, row in enumerate(rows) if row["update_ratio"] is not None}
    for i, ratio in ratios.items():
        if ratio > LARGE_UPDATE:
            yield _finding(i, "large updates", f"an update changes its weights by {ratio:.2g} of their size, where {UPDATE:g} "
                                               "is usual: lower lr or use clip_norm")
    # a network that has learnt has small gradients, too; those of dead units are 0
    if 0 < max(ratios.values(), default=0) < SMALL_UPDATE and trace.loss > LEARNT * best > 0:
        i = max(ratios, key=lambda i: ratios[i])
        yield _finding(i, "small updates", f"an update changes its weights by {ratios[i]:.2g} of their size, the most of all "
                                           f"layers, where {UPDATE:g} is usual: raise lr")


def _of_batchnorm(net: Sequential, trace: Trace) -> Iterator[Finding]:
    for i, layer in enumerate(net.layers):
        if not isinstance(layer, BatchNorm):
            continue
        mean, var = _statistics(trace, i)
        off, ratio = _strayed(layer, mean, var, len(trace.x))
        share = np.mean((off > STRAY) | (np.maximum(ratio, 1 / ratio) > STRAY_VARIANCE))
        fresh = net._optimizer is None and not layer.running_mean.any() and (layer.running_var == 1).all()
        if len(trace.x) >= FEW and share > STRAY_FEATURES and not fresh:
            yield _finding(i, "stray statistics", f"the running statistics of {_percent(share)} of its features are far from "
                           "those of these rows, so that evaluation differs from training: run net.refresh_statistics(x)")
        small = (var > 0) & (var < layer.eps)
        if small.any():
            yield _finding(i, "variance near eps", f"{small.sum()} of {len(var)} features have a variance below "
                           f"eps={layer.eps:g} and do not come out with variance 1: scale its input up or lower eps")


def _of_outputs(net: Sequential, trace: Trace, y: Array, best: float) -> Iterator[Finding]:
    i = trace.stages[-1].dense
    z = trace.outputs[-1]
    if len(y) < FEW:
        return
    if net._optimizer is not None:      # no start, then
        spread = np.std(net.predict(trace.x), axis=0, dtype=np.float64).max()
        if best > 0 and spread <= (FLAT_OUTPUT * math.sqrt(best) if net.loss == "mean_squared_error" else 0):
            yield _finding(i, "one prediction", "the prediction is the same for every row, but y is not: lower lr, look for "
                                                "mistakes in x and y, or weigh rare classes")
        return
    if net.loss == "mean_squared_error":
        missed = rms(z.mean(axis=0, dtype=np.float64) - y.mean(axis=0, dtype=np.float64))
        if missed > OFFSET * math.sqrt(best) > 0:
            yield _finding(i, "output bias", f"its mean is {missed:.3g} off that of y, whose standard deviation is only "
                                             f"{math.sqrt(best):.3g}: scale y or call init.output_bias(net, y)")
        return
    frequencies, probabilities = _frequencies(net, y), _mean_probabilities(net, z)
    uniform = math.log(frequencies.shape[1])
    known = uniform - best
    if known > IMBALANCE and _cross_entropy(frequencies, probabilities) - best > known / 2:
        yield _finding(i, "output bias", f"the most frequent class has {_percent(frequencies.max())} of the rows, but the "
                                         "outputs do not start so: call init.output_bias(net, y)")
    if trace.loss > min(2 * uniform, uniform + START):
        yield _finding(i, "loss at the start", f"the loss starts at {trace.loss:.3g}, where equal probabilities give "
                       f"{uniform:.3g}: use smaller initial weights for this layer or init.output_bias(net, y)")


# ----------------------------------------------------------------------------------------------------------- printing

def _table(columns: Sequence[tuple[str, str, str]], rows: list[dict[str, Any]]) -> list[str]:
    cells = [[heading for _, heading, _ in columns]] + [[cell(row[key], form) for key, _, form in columns] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(cell.ljust(width) if k == 1 else cell.rjust(width) for k, (cell, width)
                      in enumerate(zip(line, widths, strict=True))).rstrip() for line in cells]


def cell(value: Any, form: str) -> str:
    """A value in a table; None is nothing."""
    if value is None:
        return ""
    return _percent(value) if form == "%" else format(value, form)
