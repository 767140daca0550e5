"""`Sequential`: a stack of layers with a loss, trained by gradient descent."""

from __future__ import annotations

import copy
import functools
import time
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Concatenate, ParamSpec, TypeVar

import numpy as np

from fastnn import _check
from fastnn._kernels import by_dtype, engine
from fastnn.activation import activation_forward
from fastnn.layers import BatchNorm, Dense, Layer, Owner
from fastnn.loss import mean_squared_error, sigmoid_cross_entropy, softmax_cross_entropy
from fastnn.optimizers import SGD
from fastnn.plan import INFERENCE_ROWS, Plan, aligned
from fastnn.threads import automatic, get_num_threads
from fastnn.training import History, batch_starts, chunks

Array = np.ndarray
P = ParamSpec("P")
R = TypeVar("R")

_train = by_dtype(engine.train)
_infer = by_dtype(engine.infer_rows)

LOSSES: dict[str, Callable[..., tuple[float, Array]]] = {
    "softmax_cross_entropy": softmax_cross_entropy,
    "sigmoid_cross_entropy": sigmoid_cross_entropy,
    "mean_squared_error": mean_squared_error,
}
EVALUATION_ROWS = 4096      # rows whose outputs are kept at a time
PATIENCE = 0.05             # seconds between two looks for Ctrl-C
# Multiplications from which on more than one thread is considered: some tens of microseconds.
SHARED_WORK = 1_000_000
STATUS = {number: name for name, number in engine.STATUS.items()}


def alone(method: Callable[Concatenate[Sequential, P], R]) -> Callable[Concatenate[Sequential, P], R]:
    """Of the calls of such methods one at a time: they use the network's buffers. Another one is refused."""
    @functools.wraps(method)
    def run(self: Sequential, *args: P.args, **kwargs: P.kwargs) -> R:
        # Ctrl-C, or what another signal's handler raises, may strike whenever a call returns: so who holds the network is not
        # remembered but looked up, without a call.
        own = object()
        try:
            if self._holder.setdefault("by", own) is not own:
                raise _check.busy()
            return method(self, *args, **kwargs)
        finally:
            try:
                if self._holder["by"] is own:
                    del self._holder["by"]
            except KeyError:    # the other one has just finished
                pass
    return run


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

    Notes
    -----
    A network can be copied, by `copy.copy` or `copy.deepcopy`, and pickled. The copy has memory of its own and trains on as the
    original would; its velocity goes on with the optimiser that was copied along.

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
        initial, training, masks = np.random.SeedSequence(_check.seed(seed)).spawn(3)
        self.layers = self._connected(layers)
        self._rng, self._spare = (np.random.Generator(np.random.PCG64(training)) for _ in range(2))
        self._optimizer: SGD | None = None
        self._velocity: Array | None = None
        self._mask_key = int(masks.generate_state(1, np.uint64)[0])
        self._step = 0          # training steps taken, which the dropout masks depend on
        self._epoch = 0         # epochs whose last step was taken
        self._tuner = np.zeros(5, np.float64)
        self._profile: Array | None = None      # see `explain` of the benchmarks: seconds by thread and place
        self._holder: dict[str, object] = {}
        rng = np.random.Generator(np.random.PCG64(initial))
        owner = Owner()
        try:
            self._plan = Plan(self.layers, self.n_in, self.n_out, self.loss, self.dtype, owner)
            for layer in self.layers:
                layer.initialise(rng)
        except BaseException:
            # all layers at once, and without a call that Ctrl-C might strike
            owner.keeps = False
            for layer in self.layers:
                layer.release()
            raise

    def __repr__(self) -> str:
        return f"Sequential([{', '.join(map(repr, self.layers))}], loss={self.loss!r}, dtype={self.dtype.name!r})"

    def __getstate__(self) -> dict[str, Any]:
        # arrays by their names: the plan holds addresses, and rows as long as this machine's vectors make them
        state = {name: value for name, value in self.__dict__.items() if name not in ("_plan", "_holder", "_profile", "_spare")}
        return state | {
            "layers": tuple(copy.copy(layer) for layer in self.layers),
            "_rng": copy.deepcopy(self._rng),
            "_tuner": self._tuner.copy(),
            "_state": self.state_dict(),
            "_velocity": None if self._velocity is None else self._plan.copies(self._velocity),
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        arrays, velocity = state.pop("_state"), state.pop("_velocity")
        self.__dict__.update(state)
        self.dtype = _check.float_dtype(self.dtype)     # NumPy's own object, which is told by its identity
        self._holder, self._profile = {}, None
        self._spare = copy.deepcopy(self._rng)
        self._plan = Plan(self.layers, self.n_in, self.n_out, self.loss, self.dtype, Owner())
        for name, a in self._state():
            a[...] = arrays[name]
        self._velocity = None
        if velocity is not None:
            self._velocity = aligned(self._plan.parameters.size, self.dtype)
            for key, a in self._plan.views(self._velocity).items():
                a[...] = velocity[key]

    @property
    def n_parameters(self) -> int:
        """The number of trainable numbers."""
        return sum(a.size for layer in self.layers for a in layer.parameters.values())

    def memory(self, batch_size: int, *, optimizer: SGD | None = None) -> int:
        """The bytes that training on batches of this size takes, parameters and all; `fastnn.plan` has the formula.

        Parameters
        ----------
        batch_size : int
            Rows of the largest batch.
        optimizer : SGD, optional
            Momentum needs a velocity, and ``clip_norm`` the whole gradient. None counts a velocity and no gradient.
        """
        n = _check.integer(batch_size, "batch_size", least=1)
        velocity, gradients = (True, False) if optimizer is None else (optimizer.momentum > 0, optimizer.clip_norm is not None)
        return self._plan.memory(n, velocity, gradients)

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
        return self._training_outputs(x) if _check.flag(training, "training") else self._outputs(x)

    @alone
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
        starts = _one_batch(x)
        self._enough_rows(starts)
        loss = self._run(x, y, None, starts)
        return loss, {f"{i}.{name}": g for (i, name), g in self._plan.copies(self._plan.gradients).items()}

    @alone
    def train_step(self, x: Array, y: Array, optimizer: SGD) -> float:
        """One step of the optimiser on one batch; returns the loss before it.

        Raises
        ------
        DivergedError
            If the loss or the gradient is not finite; the step is not taken.
        """
        x, y = self._data(x, y, "x", "y")
        starts = _one_batch(x)
        self._enough_rows(starts)
        self._check_optimizer(optimizer)
        return self._run(x, y, None, starts, optimizer=optimizer, moves_statistics=True)

    @alone
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
            Refuse a NaN or infinity in `x`, naming its row and column. It is found at the step that comes to it, and the
            network keeps its state after the steps before.

        Returns
        -------
        History

        Raises
        ------
        TypeError, ValueError
            Naming the argument, before anything has changed; but for a number in `x` or `y` that is not finite.
        DivergedError
            If a loss or gradient is not finite. The network keeps its state after the last finite step.
        RuntimeError
            If the network is busy training in another thread.
        """
        x, y = self._data(x, y, "x", "y")
        epochs = _check.integer(epochs, "epochs", least=0)
        starts = batch_starts(len(x), batch_size, last_batch)
        self._enough_rows(starts)
        shuffle = _check.flag(shuffle, "shuffle")
        check_finite = _check.flag(check_finite, "check_finite")
        validation = self._validation(validation_data)
        history = History()
        optimizer = (self._optimizer or SGD()) if optimizer is None else optimizer
        self._check_optimizer(optimizer)
        n_steps = len(starts) - 1
        for _ in range(epochs):
            started = time.perf_counter()
            steps, order = self._step, None
            if shuffle:
                self._spare.bit_generator.state = self._rng.bit_generator.state
            try:
                if shuffle:
                    order = self._spare.permutation(len(x))
                loss = self._run(
                    x, y, order, starts, optimizer=optimizer, moves_statistics=True, check_x=check_finite,
                    at=f" of epoch {self._epoch + 1}")
            finally:
                # no call here, see `_run`
                if shuffle and self._step != steps:
                    self._rng, self._spare = self._spare, self._rng
                if self._step == steps + n_steps:
                    self._epoch += 1
            record = {"epoch": self._epoch, "loss": loss, "lr": optimizer.lr, "seconds": time.perf_counter() - started}
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
            raise _check.no_probabilities(self.loss)
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

    @alone
    def load_state_dict(self, d: Mapping[str, Array]) -> None:
        """Take parameters and running statistics from what `state_dict` gave; names and shapes must be just these.

        Raises
        ------
        TypeError, ValueError
            Naming the entry, before anything is written.
        """
        state = self._plan.state.copy()
        views = {f"{i}.{name}": a for (i, name), a in self._plan.state_views(state).items()}
        _check.entries(d, "d", views.keys())
        for name, _ in self._state():
            views[name][...] = _check.array_of_shape(d[name], name, views[name].shape)
            if name.endswith(".running_var"):
                _check.non_negative_entries(views[name], name)
        # in one piece: Ctrl-C falls before it or behind it
        self._plan.state[...] = state

    # ------------------------------------------------------------------------------------------------ the inside

    def _connected(self, layers: Sequence[Layer]) -> tuple[Layer, ...]:
        """The layers as a tuple, if each is one, free, and takes what the one before gives; finds n_in and n_out."""
        _check.instance(layers, "layers", list | tuple, "a list of layers")
        width: int | None = None
        n_in: int | None = None
        for i, layer in enumerate(layers):
            _check.instance(layer, f"layers[{i}]", Layer, "a layer such as Dense")
            if layer.bound or any(layer is other for other in layers[:i]):
                raise _check.taken(layer, f"layers[{i}]")
            if n_in is None:
                n_in = layer.in_features if isinstance(layer, Dense) else layer.width(None, "")
            width = layer.width(width, f"layers[{i}]")
        if not any(isinstance(layer, Dense) for layer in layers):
            raise _check.no_dense()
        assert n_in is not None and width is not None
        self.n_in, self.n_out = n_in, width
        return tuple(layers)

    def _state(self) -> Iterator[tuple[str, Array]]:
        for i, layer in enumerate(self.layers):
            for name, a in (layer.parameters | layer.statistics).items():
                yield f"{i}.{name}", a

    def _check_optimizer(self, optimizer: Any) -> None:
        """Refuse what cannot train this network."""
        _check.instance(optimizer, "optimizer", SGD, "a fastnn.SGD")
        _check.coefficient(optimizer.lr, "lr", self.dtype)
        _check.coefficient(optimizer.weight_decay, "weight_decay", self.dtype)

    def _data(self, x: Any, y: Any, x_name: str, y_name: str) -> tuple[Array, Array]:
        x = _check.rows(x, x_name, self.n_in)
        _check.at_least_one_row(x, x_name)
        if self.loss == "softmax_cross_entropy":
            return x, _check.labels(y, y_name, len(x), self.n_out)
        y = _check.rows(y, y_name, self.n_out)
        _check.one_for_each_row(y, y_name, x, x_name)
        if self.loss == "sigmoid_cross_entropy":
            _check.probabilities(y, y_name)
        return x, y

    def _validation(self, data: Any) -> tuple[Array, Array] | None:
        if data is None:
            return None
        x, y = _check.pair(data, "validation_data", "(x, y)")
        return self._data(x, y, "validation_data[0]", "validation_data[1]")

    def _enough_rows(self, starts: Array) -> None:
        """Batch norm has no variance of one row: say so before anything has changed."""
        if any(isinstance(layer, BatchNorm) for layer in self.layers) and np.diff(starts).min() < 2:
            raise _check.batch_of_one(len(starts) > 2)

    def _outputs(self, x: Array) -> Array:
        """The outputs in evaluation mode. Touches no buffer of the network."""
        out = np.empty((len(x), self.n_out), self.dtype)
        plan = self._plan.inference()
        n_threads = self._threads(len(x), self._plan.n_weights)
        memory = np.empty((min(n_threads, -(-len(x) // INFERENCE_ROWS)), plan.slot), np.uint8)
        # some rows at a time, so that Ctrl-C is heard
        for start, end in chunks(len(x), n_threads * plan.rows):
            _infer[self.dtype](
                plan.ops, plan.blocks, memory, self.n_in, INFERENCE_ROWS, x[start:end], out[start:end], n_threads)
        return out

    @alone
    def _training_outputs(self, x: Array) -> Array:
        starts = _one_batch(x)
        self._enough_rows(starts)
        self._run(x, None, None, starts, moves_statistics=True)
        work = self._plan.workspace(len(x))
        last = work.ops[-1]
        memory = work.memory[last["y"]:].view(self.dtype)
        return memory[:len(x) * last["ldy"]].reshape(len(x), last["ldy"])[:, :self.n_out].copy()

    def _evaluate(self, x: Array, y: Array) -> dict[str, float]:
        total = 0.0
        correct = 0
        for start, end in chunks(len(x), EVALUATION_ROWS):
            z, t = self._outputs(x[start:end]), y[start:end]
            if self.loss != "softmax_cross_entropy":
                with np.errstate(over="ignore"):
                    t = np.require(t, self.dtype, ("C_CONTIGUOUS", "ALIGNED"))
            total += (end - start) * LOSSES[self.loss](z, t)[0]
            if self.loss == "softmax_cross_entropy":
                correct += int((z.argmax(axis=1) == t).sum())
            elif self.loss == "sigmoid_cross_entropy":
                correct += int(((z > 0) == (t > 0.5)).sum())
        result = {"loss": total / len(x)}
        if self.loss != "mean_squared_error":
            result["accuracy"] = correct / (len(x) if self.loss == "softmax_cross_entropy" else y.size)
        return result

    @staticmethod
    def _threads(n_rows: int, n_weights: int) -> int:
        return get_num_threads() if n_rows * n_weights >= SHARED_WORK else 1

    def _run(
        self, x: Array, y: Array | None, order: Array | None, starts: Array, *, optimizer: SGD | None = None,
        moves_statistics: bool = False, check_x: bool = False, at: str = "",
    ) -> float:
        """Train on the batches between `starts`; the mean loss of their rows. Without an optimiser only look.

        `at` says which epoch this is, in the words of an error.
        """
        plan = self._plan
        n = int(np.diff(starts).max())
        work = plan.workspace(n)
        n_threads = self._threads(n, plan.n_weights)
        sgd = optimizer or SGD()
        velocity = None
        if optimizer is not None:
            velocity = self._velocity if optimizer is self._optimizer else None
            if velocity is None and optimizer.momentum:
                velocity = aligned(plan.parameters.size, self.dtype)
        fused = optimizer is not None and optimizer.clip_norm is None
        statistics = plan.statistics if plan.statistics.size else None
        snapshot = None if optimizer is None else plan.snapshot(velocity is not None)
        # an array of ints, which are had without a call
        progress, sums, bad = array("q", [0] * 3), np.zeros(5, np.float64), np.zeros(2, np.intp)
        tuner = self._tuner if automatic() and n_threads > 1 else None
        first_step, status = self._step, "out of time"
        try:
            while status == "out of time":
                status = STATUS[_train[self.dtype](
                    work.ops, work.blocks, work.layout, work.memory, plan.parameters, statistics, velocity,
                    None if fused else plan.gradients, snapshot, x, y, order, starts, sgd.lr, sgd.momentum, sgd.nesterov,
                    sgd.weight_decay, sgd.clip_norm or 0.0, fused, optimizer is not None, moves_statistics, check_x,
                    self._mask_key, first_step, n_threads, tuner, PATIENCE, progress, sums, bad, self._profile)]
        finally:
            # Ctrl-C strikes when a call returns, such as the one above; so there is none here, and each line is right by itself
            if moves_statistics:
                self._step = first_step + progress[0]
            if optimizer is not None and progress[0]:
                self._optimizer, self._velocity = optimizer, velocity
        if status != "done":
            row = int(starts[progress[0]] + bad[0]) if order is None else int(order[starts[progress[0]] + bad[0]])
            raise _check.stopped(
                status, x, y, row, int(bad[1]), self.dtype, self.n_out, sums[4], f" at step {progress[0]}{at}" if at else "")
        return float(sums[0] + sums[1]) / int(starts[-1] - starts[0])


def _one_batch(x: Array) -> Array:
    return np.array([0, len(x)], np.intp)
