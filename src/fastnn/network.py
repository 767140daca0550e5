"""`Sequential`: a stack of layers with a loss, trained by gradient descent."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from fastnn import _check
from fastnn.activation import activation_forward
from fastnn.errors import DivergedError
from fastnn.layers import BatchNorm, Dense, Dropout, Layer
from fastnn.loss import mean_squared_error, sigmoid_cross_entropy, softmax_cross_entropy
from fastnn.optimizers import SGD
from fastnn.sgd import gradient_norm, sgd_update
from fastnn.training import History, batch_bounds, chunks

Array = np.ndarray

LOSSES: dict[str, Callable[..., tuple[float, Array]]] = {
    "softmax_cross_entropy": softmax_cross_entropy,
    "sigmoid_cross_entropy": sigmoid_cross_entropy,
    "mean_squared_error": mean_squared_error,
}
INFERENCE_ROWS = 1024       # rows that predict and evaluate convert and compute at a time
SAFE = 1e30                 # a step no longer than this leads from no sensible parameter to infinity
KEPT = "the parameters of the last finite step are kept. A lower lr may help."


class Sequential:
    """A network of layers, one after the other, with the loss it is trained on.

    Parameters
    ----------
    layers : sequence of layers
        At least one `Dense`; each layer must accept the number of features that the one before gives, and belongs to one
        network only.
    loss : {"softmax_cross_entropy", "sigmoid_cross_entropy", "mean_squared_error"}
        The first takes integer labels (N,), the others targets (N, K).
    dtype : {"float32", "float64"}
    seed : int, optional
        Of the initial parameters, the shuffling and the dropout. None draws one.

    Attributes
    ----------
    layers : tuple of layers
        ``net.layers[0].weight`` and its like read and write the network's memory.
    dtype : numpy.dtype
    n_parameters : int

    Examples
    --------
    >>> import numpy as np
    >>> import fastnn as fnn
    >>> net = fnn.Sequential([fnn.Dense(2, 8), fnn.Tanh(), fnn.Dense(8, 2)], seed=0)
    >>> x = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], dtype=np.float32)
    >>> y = np.array([0, 1, 1, 0])
    >>> history = net.fit(x, y, epochs=200, batch_size=4, optimizer=fnn.SGD(lr=0.5, momentum=0.9))
    >>> net.predict(x)
    array([0, 1, 1, 0])
    """

    def __init__(
        self, layers: Sequence[Layer], *, loss: str = "softmax_cross_entropy", dtype: Any = "float32", seed: int | None = None,
    ) -> None:
        self.dtype = _check.float_dtype(dtype)
        self.loss = _check.choice(loss, "loss", LOSSES)
        initial, training = np.random.SeedSequence(_check.seed(seed)).spawn(2)
        self.layers = self._connected(layers)
        self._rng = np.random.Generator(np.random.PCG64(training))
        rng = np.random.Generator(np.random.PCG64(initial))
        try:
            self._allocate()
            for layer in self.layers:
                layer.initialise(rng)
        except BaseException:
            for layer in self.layers:
                layer.release()
            raise
        self._optimizer: SGD | None = None
        self._velocity: Array | None = None
        self._speed = 0.0       # no entry of the velocity is larger, weight decay aside
        self._epoch = 0
        self._busy = threading.Lock()

    def __repr__(self) -> str:
        return f"Sequential([{', '.join(map(repr, self.layers))}], loss={self.loss!r}, dtype={self.dtype.name!r})"

    @property
    def n_parameters(self) -> int:
        """The number of trainable numbers."""
        return self._parameters.size

    # ------------------------------------------------------------------------------------------------- computing

    def forward(self, x: Array, *, training: bool = False) -> Array:
        """The outputs (N, K), before the softmax or sigmoid of the loss.

        Parameters
        ----------
        x : ndarray (N, I) of float32, float64, an integer dtype or bool; converted to the network's dtype
        training : bool
            True normalises by the batch's own statistics, which also move the running ones, and applies dropout.
        """
        x = _check.rows(x, "x", self.n_in)
        if not _check.flag(training, "training"):
            return self._outputs(x)
        self._enough_rows([(0, len(x))])
        with self._exclusive(), self._unchanged_on_error():
            return self._forward(self._batch(x, 0, len(x)), update_statistics=True).copy()

    def loss_and_gradients(self, x: Array, y: Array) -> tuple[float, dict[str, Array]]:
        """The loss of one batch in training mode and its gradient by each parameter.

        Nothing changes: running statistics and generator stay as they are.

        Parameters
        ----------
        x : ndarray (N, I)
        y : ndarray (N,) of integer labels for softmax_cross_entropy, else (N, K)

        Returns
        -------
        loss : float
        gradients : dict of str to ndarray
            By the names of `state_dict`.
        """
        x, y = self._data(x, y, "x", "y")
        self._enough_rows([(0, len(x))])
        with self._exclusive():
            state = self._rng.bit_generator.state
            try:
                loss = self._loss_and_gradients(self._batch(x, 0, len(x)), self._targets(y, 0, len(x)), update_statistics=False)
            finally:
                self._rng.bit_generator.state = state
            return loss, {f"{i}.{name}": g.copy() for i, layer in enumerate(self.layers) for name, g in layer.gradients.items()}

    def train_step(self, x: Array, y: Array, optimizer: SGD) -> float:
        """One step of the optimiser on one batch; returns the loss before it.

        Raises
        ------
        DivergedError
            If the loss or the gradient is not finite; the step is not taken.
        """
        x, y = self._data(x, y, "x", "y")
        self._enough_rows([(0, len(x))])
        with self._exclusive():
            return self._step(self._batch(x, 0, len(x)), self._targets(y, 0, len(x)), self._usable(optimizer), "")

    def fit(
        self, x: Array, y: Array, *, epochs: int = 1, batch_size: int = 32, optimizer: SGD | None = None,
        validation_data: tuple[Array, Array] | None = None, shuffle: bool = True, last_batch: str = "merge",
        check_finite: bool = True,
    ) -> History:
        """Train for some epochs.

        Parameters
        ----------
        x : ndarray (N, I) of float32, float64, an integer dtype or bool
            Converted to the network's dtype batch by batch, never as a whole; a memory-mapped array may be larger than memory.
        y : ndarray (N,) of integer labels for softmax_cross_entropy, else (N, K)
        epochs, batch_size : int
        optimizer : SGD, optional
            None goes on with the one the network was trained with last, or starts with ``SGD()``.
        validation_data : (x, y), optional
            Evaluated after each epoch.
        shuffle : bool
            A new order of the rows for each epoch, from the network's generator.
        last_batch : {"merge", "drop", "keep"}
            What becomes of rows that fill no batch: part of the batch before, left out of this epoch, or a smaller batch.
        check_finite : bool
            Refuse a NaN or infinity in `x`, naming its row and column. Reads `x` through once before training.

        Returns
        -------
        History

        Raises
        ------
        TypeError, ValueError
            Naming the argument, before anything has changed.
        DivergedError
            If a loss or gradient is not finite. The network keeps its state after the last finite step.
        RuntimeError
            If the network is busy training in another thread.
        """
        x, y = self._data(x, y, "x", "y")
        epochs = _check.integer(epochs, "epochs", least=0)
        bounds = batch_bounds(len(x), batch_size, last_batch)
        self._enough_rows(bounds)
        shuffle = _check.flag(shuffle, "shuffle")
        if _check.flag(check_finite, "check_finite") and x.dtype.kind == "f":
            for start, end in chunks(len(x), INFERENCE_ROWS):
                _check.finite_rows(self._batch(x, start, end), "x", start)
        validation = self._validation(validation_data)
        history = History()
        with self._exclusive():
            optimizer = self._usable((self._optimizer or SGD()) if optimizer is None else optimizer)
            for _ in range(epochs):
                started = time.perf_counter()
                order = self._rng.permutation(len(x)) if shuffle else None
                total = 0.0
                for step, (start, end) in enumerate(bounds):
                    at = f" at step {step} of epoch {self._epoch + 1}"
                    batch, targets = self._batch(x, start, end, order), self._targets(y, start, end, order)
                    total += (end - start) * self._step(batch, targets, optimizer, at)
                self._epoch += 1
                record = {"epoch": self._epoch, "loss": total / bounds[-1][1], "lr": optimizer.lr,
                          "seconds": time.perf_counter() - started}
                if validation is not None:
                    record |= {f"val_{name}": value for name, value in self._evaluate(*validation).items()}
                history.epochs.append(record)
        return history

    def predict(self, x: Array) -> Array:
        """Class labels for a cross-entropy loss, the outputs otherwise.

        Returns
        -------
        ndarray
            (N,) labels for softmax_cross_entropy, (N, K) of 0 and 1 for sigmoid_cross_entropy, (N, K) outputs for
            mean_squared_error.
        """
        outputs = self._outputs(_check.rows(x, "x", self.n_in))
        if self.loss == "softmax_cross_entropy":
            return outputs.argmax(axis=1)
        if self.loss == "sigmoid_cross_entropy":
            return (outputs > 0).astype(np.intp)
        return outputs

    def predict_proba(self, x: Array) -> Array:
        """The probabilities (N, K): rows that sum to 1 for softmax_cross_entropy, one by one for sigmoid_cross_entropy."""
        if self.loss == "mean_squared_error":
            raise ValueError("loss: expected a cross-entropy for predict_proba, got 'mean_squared_error'")
        z = self._outputs(_check.rows(x, "x", self.n_in))
        if self.loss == "sigmoid_cross_entropy":
            return activation_forward(z, "sigmoid", out=z)
        np.subtract(z, z.max(axis=1, keepdims=True), out=z)
        np.exp(z, out=z)
        return np.divide(z, z.sum(axis=1, keepdims=True), out=z)

    def evaluate(self, x: Array, y: Array) -> dict[str, float]:
        """The mean loss in evaluation mode and, for a cross-entropy, the accuracy (for sigmoid over all N*K entries).

        Returns
        -------
        dict
            ``{"loss": ..., "accuracy": ...}``
        """
        return self._evaluate(*self._data(x, y, "x", "y"))

    # ----------------------------------------------------------------------------------------------------- state

    def state_dict(self) -> dict[str, Array]:
        """Copies of all parameters and running statistics, by ``"<layer index>.<name>"``."""
        return {name: a.copy() for name, a in self._state()}

    def load_state_dict(self, d: Mapping[str, Array]) -> None:
        """Take parameters and running statistics from what `state_dict` gave; names and shapes must be just these.

        Raises
        ------
        TypeError, ValueError
            Naming the entry, before anything is written.
        """
        state = dict(self._state())
        if not isinstance(d, Mapping):
            raise TypeError(f"d: expected a mapping from names to arrays, got {type(d).__name__}")
        if missing := sorted(state.keys() - d.keys()):
            raise ValueError(f"d: expected an entry {missing[0]!r}, which is missing ({len(missing)} in all)")
        if surplus := sorted(d.keys() - state.keys(), key=repr):
            raise ValueError(f"d: got an entry {surplus[0]!r}, which the network does not have ({len(surplus)} in all)")
        given = {name: _check.array_of_shape(d[name], name, a.shape).astype(self.dtype) for name, a in state.items()}
        for name, a in given.items():
            if name.endswith(".running_var"):
                _check.non_negative_entries(a, name)
        with self._exclusive():
            for name, a in state.items():
                a[...] = given[name]

    # ------------------------------------------------------------------------------------------------ the inside

    def _connected(self, layers: Sequence[Layer]) -> tuple[Layer, ...]:
        """The layers as a tuple, if each is one, free, and takes what the one before gives; finds n_in and n_out."""
        if not isinstance(layers, list | tuple):
            raise TypeError(f"layers: expected a list of layers, got {type(layers).__name__}")
        width: int | None = None
        n_in: int | None = None
        for i, layer in enumerate(layers):
            if not isinstance(layer, Layer):
                raise TypeError(f"layers[{i}]: expected a layer such as Dense, got {type(layer).__name__}")
            if layer.bound or any(layer is other for other in layers[:i]):
                raise ValueError(f"layers[{i}]: expected a layer of its own, got a {layer!r} that is in a network already")
            if n_in is None:
                n_in = layer.in_features if isinstance(layer, Dense) else layer.width(None, "")
            width = layer.width(width, f"layers[{i}]")
        if not any(isinstance(layer, Dense) for layer in layers):
            raise ValueError("layers: expected at least one Dense layer")
        assert n_in is not None and width is not None
        self.n_in, self.n_out = n_in, width
        return tuple(layers)

    def _allocate(self) -> None:
        """The flat buffers of parameters, gradients and statistics, bound to the layers; weights first."""
        shapes = {(i, name): shape for i, layer in enumerate(self.layers) for name, shape in layer.parameter_shapes().items()}
        ordered = sorted(shapes, key=lambda key: key[1] != "weight")
        self._parameters, parameters = _views({key: shapes[key] for key in ordered}, self.dtype)
        self._gradients, gradients = _views({key: shapes[key] for key in ordered}, self.dtype)
        self._n_weights = sum(math.prod(shapes[key]) for key in ordered if key[1] == "weight")
        self._statistics, statistics = _views(
            {(i, name): shape for i, layer in enumerate(self.layers) for name, shape in layer.statistic_shapes().items()},
            self.dtype)
        for i, layer in enumerate(self.layers):
            p, g, s = ({name: a for (j, name), a in views.items() if j == i} for views in (parameters, gradients, statistics))
            layer.bind({name: p[name] for name in layer.parameter_shapes()}, g, s, self.dtype)
        self._buffers: list[Array] = []
        self._random = any(isinstance(layer, Dropout) for layer in self.layers)

    def _state(self) -> Iterator[tuple[str, Array]]:
        for i, layer in enumerate(self.layers):
            for name, a in (layer.parameters | layer.statistics).items():
                yield f"{i}.{name}", a

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        """One thread at a time: training uses the network's buffers."""
        if not self._busy.acquire(blocking=False):
            raise RuntimeError("the network is busy: another thread is training it")
        try:
            yield
        finally:
            self._busy.release()

    @contextmanager
    def _unchanged_on_error(self) -> Iterator[None]:
        """Whatever goes wrong inside, running statistics and generator are as before."""
        statistics = self._statistics.copy()
        generator = self._rng.bit_generator.state if self._random else None
        try:
            yield
        except BaseException:
            self._statistics[...] = statistics
            if generator is not None:
                self._rng.bit_generator.state = generator
            raise

    def _usable(self, optimizer: Any) -> SGD:
        if not isinstance(optimizer, SGD):
            raise TypeError(f"optimizer: expected a fastnn.SGD, got {type(optimizer).__name__}")
        _check.coefficient(optimizer.lr, "lr", self.dtype)
        _check.coefficient(optimizer.weight_decay, "weight_decay", self.dtype)
        return optimizer

    def _data(self, x: Any, y: Any, x_name: str, y_name: str) -> tuple[Array, Array]:
        x = _check.rows(x, x_name, self.n_in)
        if len(x) == 0:
            raise ValueError(f"{x_name}: expected at least one row, got shape {x.shape}")
        if self.loss == "softmax_cross_entropy":
            return x, _check.labels(y, y_name, len(x), self.n_out)
        y = _check.rows(y, y_name, self.n_out)
        if len(y) != len(x):
            raise ValueError(f"{y_name}: expected {len(x)} rows, one for each row of {x_name}, got {len(y)}")
        if self.loss == "sigmoid_cross_entropy":
            _check.probabilities(y, y_name)
        return x, y

    def _validation(self, data: Any) -> tuple[Array, Array] | None:
        if data is None:
            return None
        if not isinstance(data, tuple | list):
            raise TypeError(f"validation_data: expected a pair (x, y), got {type(data).__name__}")
        if len(data) != 2:
            raise ValueError(f"validation_data: expected a pair (x, y), got {len(data)} of them")
        return self._data(data[0], data[1], "validation_data[0]", "validation_data[1]")

    def _enough_rows(self, bounds: list[tuple[int, int]]) -> None:
        """Batch norm has no variance of one row: say so before anything has changed."""
        if any(isinstance(layer, BatchNorm) for layer in self.layers) and any(end - start < 2 for start, end in bounds):
            raise ValueError(
                "x: batch_norm in train mode needs >= 2 samples in each batch, got a batch of 1"
                + ("" if len(bounds) == 1 else "; last_batch='merge' or 'drop' or another batch_size avoids it"))

    def _batch(self, x: Array, start: int, end: int, order: Array | None = None) -> Array:
        """Some rows in the network's dtype, C-contiguous."""
        rows = x[start:end] if order is None else x[order[start:end]]
        with np.errstate(over="ignore"):
            return np.require(rows, self.dtype, ("C_CONTIGUOUS", "ALIGNED"))

    def _targets(self, y: Array, start: int, end: int, order: Array | None = None) -> Array:
        if self.loss == "softmax_cross_entropy":
            return y[start:end] if order is None else y[order[start:end]]
        return self._batch(y, start, end, order)

    def _outputs(self, x: Array) -> Array:
        """The outputs in evaluation mode. Touches no buffer of the network."""
        out = np.empty((len(x), self.n_out), self.dtype)
        for start, end in chunks(len(x), INFERENCE_ROWS):
            h = self._batch(x, start, end)
            for layer in self.layers:
                h = layer.infer(h)
            out[start:end] = h
        return out

    def _evaluate(self, x: Array, y: Array) -> dict[str, float]:
        total = 0.0
        correct = 0
        for start, end in chunks(len(x), INFERENCE_ROWS):
            z, t = self._outputs(x[start:end]), self._targets(y, start, end)
            total += (end - start) * LOSSES[self.loss](z, t)[0]
            if self.loss == "softmax_cross_entropy":
                correct += int((z.argmax(axis=1) == t).sum())
            elif self.loss == "sigmoid_cross_entropy":
                correct += int(((z > 0) == (t > 0.5)).sum())
        result = {"loss": total / len(x)}
        if self.loss != "mean_squared_error":
            result["accuracy"] = correct / (len(x) if self.loss == "softmax_cross_entropy" else y.size)
        return result

    def _forward(self, x: Array, *, update_statistics: bool) -> Array:
        if not self._buffers or len(self._buffers[0]) < len(x):
            self._buffers = []
            width: int | None = self.n_in
            for layer in self.layers:
                width = layer.width(width, "")
                self._buffers.append(np.empty((len(x), width or self.n_in), self.dtype))
        for layer, buffer in zip(self.layers, self._buffers, strict=True):
            x = layer.forward(x, buffer[:len(x)], self._rng, update_statistics=update_statistics)
        return x

    def _loss_and_gradients(self, x: Array, y: Array, *, update_statistics: bool) -> float:
        """The loss; the gradients go into the flat buffer."""
        outputs = self._forward(x, update_statistics=update_statistics)
        loss, dout = LOSSES[self.loss](outputs, y)
        first = next(i for i, layer in enumerate(self.layers) if layer.parameters)
        d: Array | None = dout
        for i in range(len(self.layers) - 1, first - 1, -1):
            assert d is not None
            d = self.layers[i].backward(d, i > first)
        return loss

    def _step(self, x: Array, y: Array, optimizer: SGD, at: str) -> float:
        """One update. `at` says which step this is, in the words of an error."""
        with self._unchanged_on_error(), np.errstate(all="ignore"):
            loss = self._loss_and_gradients(x, y, update_statistics=True)
            if not math.isfinite(loss):
                raise DivergedError(f"the loss is {loss}{at}; {KEPT}")
            norm = gradient_norm(self._gradients)
            if not math.isfinite(norm):
                raise DivergedError(f"the gradient is not finite{at}; {KEPT}")
            if not np.isfinite(self._statistics).all():
                raise DivergedError(f"the variance of a batch is too large for {self.dtype}{at}; {KEPT}")
            self._update(optimizer, norm, at)
        return loss

    def _update(self, optimizer: SGD, norm: float, at: str) -> None:
        """Take the step along the gradient, whose norm is given; or none, if it would lead to infinity."""
        p, g = self._parameters, self._gradients
        v, speed = (self._velocity, self._speed) if optimizer is self._optimizer else (None, 0.0)
        if v is None and optimizer.momentum:
            v = np.zeros_like(p)
        if optimizer.clip_norm is not None and norm > optimizer.clip_norm:
            g *= optimizer.clip_norm / norm
            norm = optimizer.clip_norm
        speed = optimizer.momentum * speed + norm
        # strong weight decay no longer shrinks the weights but throws them from side to side
        decay_grows = max(optimizer.lr, 1) * optimizer.weight_decay > 1 - optimizer.momentum
        risky = (1 + optimizer.lr) * 2 * speed > SAFE or decay_grows
        before = (p.copy(), None if v is None else v.copy()) if risky else None
        # weights come first in the buffers, and decay acts on them only
        split = self._n_weights if optimizer.weight_decay else p.size
        for part, decay in ((slice(0, split), optimizer.weight_decay), (slice(split, p.size), 0.0)):
            if p[part].size:
                sgd_update(
                    p[part], g[part], None if v is None else v[part], lr=optimizer.lr, momentum=optimizer.momentum,
                    nesterov=optimizer.nesterov, weight_decay=decay)
        if before is not None and not (np.isfinite(p).all() and (v is None or np.isfinite(v).all())):
            p[...] = before[0]
            if v is not None:
                v[...] = before[1]
            raise DivergedError(f"the step leads to infinity{at}; {KEPT}")
        self._optimizer, self._velocity, self._speed = optimizer, v, speed


def _views(shapes: dict[Any, tuple[int, ...]], dtype: np.dtype[Any]) -> tuple[Array, dict[Any, Array]]:
    """One flat array of zeros, and for each name a view of its part."""
    flat = np.zeros(sum(math.prod(shape) for shape in shapes.values()), dtype)
    views = {}
    start = 0
    for key, shape in shapes.items():
        end = start + math.prod(shape)
        views[key] = flat[start:end].reshape(shape)
        start = end
    return flat, views
