"""`Sequential`: a stack of layers with a loss, trained by gradient descent."""

from __future__ import annotations

import copy
import functools
import itertools
import time
import warnings
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from os import PathLike
from threading import get_ident
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

import numpy as np

from fastnn import _check, folding, statistics, symmetry
from fastnn._kernels import by_dtype, engine
from fastnn.callbacks import Calls, Run
from fastnn.inference import EVALUATION_ROWS, SHARED_WORK
from fastnn.layers import BatchNorm, Layer, Owner, connected
from fastnn.loss import mean_squared_error, sigmoid_cross_entropy, softmax_cross_entropy
from fastnn.optimizers import SGD, Optimizer
from fastnn.plan import FLOAT64, Plan, aligned
from fastnn.schedules import ReduceOnPlateau, Schedule
from fastnn.threads import automatic, threads_for
from fastnn.training import History, Piece, Source, batch_starts, chunks, drawn, first_and_last, in_memory, one_batch

if TYPE_CHECKING:
    from fastnn.distributed import Exchange, World
    from fastnn.predictor import Predictor

Array = np.ndarray
Path = str | bytes | PathLike[str] | PathLike[bytes]
Pieces = Callable[[Array, np.random.Generator | None, int], AbstractContextManager[Iterable[Piece]]]
P = ParamSpec("P")
R = TypeVar("R")

_train = by_dtype(engine.train)

LOSSES: dict[str, Callable[..., tuple[float, Array]]] = {
    "softmax_cross_entropy": softmax_cross_entropy,
    "sigmoid_cross_entropy": sigmoid_cross_entropy,
    "mean_squared_error": mean_squared_error,
}
PATIENCE = 0.05             # seconds between two looks for Ctrl-C
ROWS_AT_ONCE = 1 << 16      # of short epochs that the engine takes in one call
TICK = 1e-9                 # seconds that an epoch takes at least: some clocks stand still longer than a short one
STATUS = {number: name for name, number in engine.STATUS.items()}


def alone(method: Callable[Concatenate[Sequential, P], R]) -> Callable[Concatenate[Sequential, P], R]:
    """Of the calls of such methods one at a time: they use the network's buffers. Another one is refused."""
    @functools.wraps(method)
    def run(self: Sequential, /, *args: P.args, **kwargs: P.kwargs) -> R:
        # Ctrl-C, or what another signal's handler raises, may strike whenever a call returns: so who holds the network is not
        # remembered but looked up, without a call.
        own = [get_ident(), False]  # whose thread it is, and whether the state is whole: see `_call`
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


@dataclass(frozen=True)
class Job:
    """One training: what gives the pieces of some epochs, the batches of each (or of all), and how it is to be done."""

    pieces: Pieces
    starts: list[Array]
    shuffle: bool
    check_finite: bool
    validation: tuple[Array, Array] | Source | None
    calls: Calls
    run: Run
    row_bytes: float | None     # of rows that are read from files
    world: World | None = None  # the processes that train together

    def epochs_at_once(self) -> int:
        """How many epochs the engine may take in one call: many short ones, where nothing happens between them."""
        between = self.validation is not None or self.calls.see_epochs
        if between or len(self.starts) > 1 or self.row_bytes is not None or self.world is not None or (
                isinstance(self.run.optimizer.lr, ReduceOnPlateau)):
            return 1
        return max(ROWS_AT_ONCE // self.run.rows, 1)


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
        Of all parameters and of what is computed.
    seed : int, optional
        Of the initial parameters, the shuffling and the dropout. None draws one.

    Attributes
    ----------
    layers : tuple of layers
        ``net.layers[0].weight`` and its like read and write the network's memory.
    dtype : numpy.dtype
    n_parameters : int
        The number of trainable numbers.
    inference_only : bool
        Whether it is what `fold_batchnorm` made and cannot be trained.

    Raises
    ------
    TypeError, ValueError
        Naming the argument, or the layer that does not fit the one before it or belongs to another network.

    Warns
    -----
    UserWarning
        If hidden units start equal by their `init`: see `fastnn.init.equal_units`.

    Notes
    -----
    A network can be copied, by ``copy.copy`` or ``copy.deepcopy``, and pickled. The copy has memory of its own and trains on as
    the original would; its velocity or moments go on with the optimiser that was copied along.

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
        self.layers, self.n_in, self.n_out = connected(layers)
        # what draws the orders of rows, and of how many rows it has still to draw how many: see `_rng`
        self._drawn = np.random.Generator(np.random.PCG64(training)), 0, 0
        self._spare = np.random.Generator(np.random.PCG64(training))
        self._optimizer: Optimizer | None = None
        self._velocity: Array | None = None         # or Adam's first moment
        self._second_moment: Array | None = None
        self._average: Array | None = None      # float64, laid out like the parameters
        self._from_file: Optimizer | None = None      # the optimiser that came with a file, and that nobody else has
        self._trained = (0, 0)  # steps and whole epochs with this optimiser: the time of its schedule and of Adam
        self._mask_key = int(masks.generate_state(1, np.uint64)[0])
        self._step = 0          # training steps taken, which the dropout masks depend on
        self._epoch = 0         # epochs whose last step was taken
        self._tuner = np.zeros(engine.TUNER, np.float64)
        self._profile: Array | None = None      # see `explain` of the benchmarks: seconds by thread and place
        self._holder: dict[str, list[int]] = {}
        self.inference_only = False
        rng = np.random.Generator(np.random.PCG64(initial))
        owner = Owner()
        try:
            self._plan = Plan(self.layers, self.n_in, self.n_out, self.loss, self.dtype, owner)
            for layer in self.layers:
                layer.initialise(rng)
            if text := symmetry.warning(self.layers):
                warnings.warn(text, stacklevel=2)
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
        left_out = ("_plan", "_holder", "_profile", "_drawn", "_spare", "_tuner")
        state = {name: value for name, value in self.__dict__.items() if name not in left_out}
        return state | {
            "layers": tuple(copy.copy(layer) for layer in self.layers),
            "_rng": copy.deepcopy(self._rng),
            "_state": self.state_dict(),
            "_velocity": None if self._velocity is None else self._plan.copies(self._velocity),
            "_second_moment": None if self._second_moment is None else self._plan.copies(self._second_moment),
            "_average": None if self._average is None else self._plan.copies(self._average),
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        arrays, velocity, second_moment, average, self._rng = (
            state.pop(name) for name in ("_state", "_velocity", "_second_moment", "_average", "_rng"))
        self._from_file = None
        self.__dict__.update(state)
        self.dtype = _check.float_dtype(self.dtype)     # NumPy's own object, which is told by its identity
        self._holder, self._profile, self._tuner = {}, None, np.zeros(engine.TUNER, np.float64)
        self._spare = copy.deepcopy(self._rng)
        self._plan = Plan(self.layers, self.n_in, self.n_out, self.loss, self.dtype, Owner())
        self._plan.replace(arrays)
        self._velocity = None if velocity is None else self._plan.flat(velocity, self.dtype)
        self._second_moment = None if second_moment is None else self._plan.flat(second_moment, self.dtype)
        self._average = None if average is None else self._plan.flat(average, FLOAT64)

    @property
    def _rng(self) -> np.random.Generator:
        """What draws the orders of rows. Epochs that a training began and did not end have drawn theirs."""
        rng, n_rows, n_epochs = self._drawn
        if n_epochs:
            rng = copy.deepcopy(rng)
            drawn(rng, n_rows, n_epochs)
        return rng

    @_rng.setter
    def _rng(self, rng: np.random.Generator) -> None:
        self._drawn = rng, 0, 0

    @property
    def n_parameters(self) -> int:
        """The number of trainable numbers."""
        return sum(a.size for layer in self.layers for a in layer.parameters.values())

    def memory(self, batch_size: int, *, optimizer: Optimizer | None = None) -> int:
        """The bytes that training on batches of this size takes, parameters and all; ``fastnn.plan`` has the formula.

        Parameters
        ----------
        batch_size : int
            Rows of the largest batch.
        optimizer : SGD, Adam or AdamW, optional
            Momentum needs a velocity, Adam two moments, ``clip_norm`` the whole gradient and ``average`` an average. None
            counts a velocity only.

        Returns
        -------
        int
            Bytes.

        Raises
        ------
        TypeError, ValueError
            Naming the argument.
        """
        n = _check.integer(batch_size, "batch_size", least=1)
        if optimizer is None:
            return self._plan.memory(n, 1, False, False)
        _check.instance(optimizer, "optimizer", Optimizer, "a fastnn.SGD, Adam or AdamW")
        return self._plan.memory(n, optimizer.moments, optimizer.clip_norm is not None, optimizer.average is not None)

    # ------------------------------------------------------------------------------------------------- computing

    def forward(self, x: Array, *, training: bool = False) -> Array:
        """The outputs (N, K), before the softmax or sigmoid of the loss.

        Parameters
        ----------
        x : ndarray (N, I) of float32, float64, an integer dtype or bool; converted to the network's dtype
        training : bool
            True normalises by the batch's own statistics, which also move the running ones, and applies dropout.

        Returns
        -------
        ndarray (N, K) of the network's dtype

        Raises
        ------
        TypeError, ValueError
            Naming the argument.
        RuntimeError
            With `training`, if the network is busy in another thread, or for inference only.
        """
        if training is not False:
            x = _check.rows(x, "x", self.n_in)
            if _check.flag(training, "training"):
                return self._training_outputs(x)
        return self._plan.inference().outputs(x)

    @alone
    def loss_and_gradients(
        self, x: Array, y: Array, *, sample_weight: Array | None = None,
    ) -> tuple[float, dict[str, Array]]:
        """The loss of one batch in training mode and its gradient by each parameter.

        Nothing changes: running statistics and generator stay as they are. Numbers that are not finite are returned, too.

        Parameters
        ----------
        x : ndarray (N, I)
        y : ndarray (N,) of integer labels for softmax_cross_entropy, else (N, K)
        sample_weight : ndarray (N,), optional
            As for `fit`.

        Returns
        -------
        loss : float
        gradients : dict of str to ndarray
            By the names of `state_dict`.

        Raises
        ------
        TypeError, ValueError
            Naming the argument.
        RuntimeError
            If the network is busy in another thread, or for inference only.
        """
        x, y = self._data(x, y, "x", "y")
        starts = _one_batch(x)
        self._enough_rows(starts)
        loss = self._run(one_batch(x, y, self._weights(sample_weight, None, y)), starts)
        return loss, {f"{i}.{name}": g for (i, name), g in self._plan.copies(self._plan.gradients).items()}

    @alone
    def train_step(self, x: Array, y: Array, optimizer: Optimizer, *, sample_weight: Array | None = None) -> float:
        """One step of the optimiser on one batch.

        Parameters
        ----------
        x : ndarray (N, I)
        y : ndarray (N,) of integer labels for softmax_cross_entropy, else (N, K)
        optimizer : SGD, Adam or AdamW
        sample_weight : ndarray (N,), optional
            As for `fit`.

        Returns
        -------
        float
            The loss before the step.

        Raises
        ------
        TypeError, ValueError
            Naming the argument, before anything has changed.
        RuntimeError
            If the network is busy in another thread, or for inference only.
        DivergedError
            If the loss or the gradient is not finite; the step is not taken.
        """
        x, y = self._data(x, y, "x", "y")
        starts = _one_batch(x)
        self._enough_rows(starts)
        self._check_optimizer(optimizer)
        self._hand_over(optimizer)
        batch = one_batch(x, y, self._weights(sample_weight, None, y))
        return self._run(batch, starts, optimizer=optimizer, moves_statistics=True)

    @alone
    def fit(
        self, x: Array | Source, y: Array | None = None, *, epochs: int = 1, batch_size: int | Schedule = 32,
        optimizer: Optimizer | None = None, validation_data: tuple[Array, Array] | Source | None = None, shuffle: bool = True,
        callbacks: Sequence[Any] = (), progress: bool | None = None, last_batch: str = "merge",
        sample_weight: Array | None = None, class_weight: Mapping[int, float] | Array | str | None = None,
        check_finite: bool = True, comm: Any = None, sync_batchnorm: bool = True,
    ) -> History:
        """Train for some epochs.

        Parameters
        ----------
        x : ndarray (N, I) of float32, float64, an integer dtype or bool
            Converted to the network's dtype batch by batch, never as a whole; a memory-mapped array may be larger than memory.
            Or `fastnn.data.Shards`, which are read ahead from files and have their targets: then `y` is left out.
        y : ndarray (N,) of integer labels for softmax_cross_entropy, else (N, K)
        epochs : int
        batch_size : int or Schedule
            Rows of a batch. A schedule from `fastnn.schedules`, per epoch, is rounded to whole rows.
        optimizer : SGD, Adam or AdamW, optional
            None goes on with the one the network was trained with last, or starts with ``SGD()``.
        validation_data : (x, y) or Shards, optional
            Evaluated after each epoch.
        shuffle : bool
            A new order of the rows for each epoch, from the network's generator.
        callbacks : sequence of Callback or callable
            See `fastnn.callbacks`.
        progress : bool, optional
            True shows how far it is, see `fastnn.callbacks.ProgressBar`.
        last_batch : {"merge", "drop", "keep"}
            What becomes of rows that fill no batch: part of the batch before, left out of this epoch, or a smaller batch.
        sample_weight : ndarray (N,), optional
            How much each row counts, >= 0. The loss of a batch is the weighted mean of its rows' losses, as in scikit-learn; a
            row of weight 0 is seen by batch norm alone.
        class_weight : dict, ndarray (K,) or "balanced", optional
            The same for each class, for softmax_cross_entropy; a class that a dict leaves out has 1. "balanced" is
            ``N / (classes * rows of the class)``. Multiplied with `sample_weight`.
        check_finite : bool
            Refuse a NaN or infinity in `x`, naming its row and column. It is found at the step that comes to it, and the
            network keeps its state after the steps before.
        comm : mpi4py communicator or `fastnn.distributed.Communicator`, optional
            The processes that train this network together, each with rows of its own and its share of the batch as
            `batch_size`: see `fastnn.distributed`. All must call `fit` alike; they begin with the state of rank 0.
        sync_batchnorm : bool
            With `comm`: whether a batch is normalised by the statistics of its rows on all processes, or on each by its own.

        Returns
        -------
        History

        Raises
        ------
        TypeError, ValueError
            Naming the argument, before anything has changed; but for a number in `x` or `y` that is not finite.
        OSError
            If shards cannot be read, naming the file. The network keeps its state after the steps before.
        DivergedError
            If a loss or gradient is not finite. The network keeps its state after the last finite step.
        RuntimeError
            If the network is busy training in another thread, or for inference only.
        """
        def prepare(callbacks: Any, alone: bool = True) -> Job:
            return self._prepared(
                x, y, epochs, batch_size, optimizer, validation_data, shuffle, callbacks, progress, last_batch, sample_weight,
                class_weight, check_finite, alone)

        if comm is None:
            return self._fit(prepare(callbacks))
        from fastnn import distributed
        return distributed.fit(self, comm, sync_batchnorm, callbacks, prepare)

    def _prepared(
        self, x: Any, y: Any, epochs: Any, batch_size: Any, optimizer: Any, validation_data: Any, shuffle: Any, callbacks: Any,
        progress: Any, last_batch: Any, sample_weight: Any, class_weight: Any, check_finite: Any, alone: bool = True,
    ) -> Job:
        """A training, every argument of which has been checked; nothing has changed. Not `alone`: it has rows elsewhere."""
        pieces: Pieces
        if isinstance(x, Source):
            pieces = self._source(x, y, sample_weight, class_weight)
        else:
            x, y = self._data(x, y, "x", "y")
            pieces = functools.partial(in_memory, x, y, self._weights(sample_weight, class_weight, y))
        epochs = _check.integer(epochs, "epochs", least=0)
        optimizer = (self._optimizer or SGD()) if optimizer is None else optimizer
        self._check_optimizer(optimizer)
        self._hand_over(optimizer)
        began = self._trained[1] if optimizer is self._optimizer else 0
        sizes = _batch_sizes(batch_size, began, epochs)
        starts = {size: batch_starts(len(x), size, last_batch) for size in dict.fromkeys(sizes)}
        for batches in starts.values():
            self._enough_rows(batches, alone)
        shuffle = _check.flag(shuffle, "shuffle")
        check_finite = _check.flag(check_finite, "check_finite")
        validation = self._validation(validation_data)
        metrics = ["epoch", "loss", "lr", "seconds", "rows_per_second"] + ["mb_per_second"] * isinstance(x, Source)
        if validation is not None:
            metrics += ["val_loss"] if self.loss == "mean_squared_error" else ["val_loss", "val_accuracy"]
        if isinstance(optimizer.lr, ReduceOnPlateau):
            _check.metric(optimizer.lr.monitor, metrics)
        calls = Calls(callbacks, progress)
        run = Run(self, optimizer, History(), epochs, len(x), tuple(metrics))
        row_bytes = x.nbytes / len(x) if isinstance(x, Source) else None
        return Job(pieces, [starts[size] for size in sizes], shuffle, check_finite, validation, calls, run, row_bytes)

    def _fit(self, job: Job) -> History:
        run, calls, history = job.run, job.calls, job.run.history
        plateau = run.optimizer.lr if isinstance(run.optimizer.lr, ReduceOnPlateau) else None
        try:
            self._call([callback.on_fit_begin for callback in calls.begin], run)
            at_once = job.epochs_at_once()
            for i in range(0, run.epochs, at_once):
                if run.stopped is not None if job.world is None else job.world.agree_to_stop(run):
                    break
                run.epoch, run.row = i + 1, 0
                record = self._train_epochs(job, job.starts[min(i, len(job.starts) - 1)], min(at_once, run.epochs - i))
                if job.row_bytes is not None:
                    record["mb_per_second"] = record["rows_per_second"] * job.row_bytes / 1e6
                if job.validation is not None:
                    found = self._evaluate(job.validation)
                    if job.world is not None:
                        rows = job.validation if isinstance(job.validation, Source) else job.validation[0]
                        found = job.world.validation(found, len(rows))
                    record |= {f"val_{name}": value for name, value in found.items()}
                history.epochs.append(record)
                run.record = record
                if plateau is not None and self._epoch == record["epoch"]:      # none that was cut short
                    plateau.observe(record)
                self._call([callback.on_epoch_end for callback in calls.epoch_end], run)
        except BaseException as error:
            run.error = error
            raise
        finally:
            history.stopped = run.stopped
            self._call([callback.on_fit_end for callback in calls.end], run)
            run.error = None    # which holds on to this frame, and so to the data
        return history

    @alone
    def _fit_alone(self, job: Job) -> History:
        return self._fit(job)

    def averaged(self) -> Sequential:
        """A network with the running average of the parameters that an optimiser with ``average`` kept.

        Its running statistics are those of this network, which belong to other parameters: with batch norm call
        `refresh_statistics` on it.

        Returns
        -------
        Sequential
            A copy, with memory of its own.

        Raises
        ------
        ValueError
            If there is none: before the first step, or with an optimiser that keeps none.
        """
        if self._average is None or self._optimizer is None:
            raise _check.no_average("an optimizer with average=... keeps one from the first step on")
        if self._trained[0] <= self._optimizer.average_from:
            raise _check.no_average(f"it begins after average_from={self._optimizer.average_from} steps")
        net = copy.deepcopy(self)
        net._plan.parameters[...] = self._average
        return net

    def predict(self, x: Array) -> Array:
        """Class labels for a cross-entropy loss, the outputs otherwise.

        Parameters
        ----------
        x : ndarray (N, I)
            As for `forward`.

        Returns
        -------
        ndarray
            (N,) labels for softmax_cross_entropy, (N, K) of 0 and 1 for sigmoid_cross_entropy, (N, K) outputs for
            mean_squared_error.

        Raises
        ------
        TypeError, ValueError
            Naming `x`.
        """
        return self._plan.inference().labels(x)

    def predict_proba(self, x: Array) -> Array:
        """The probabilities: rows that sum to 1 for softmax_cross_entropy, one by one for sigmoid_cross_entropy.

        Parameters
        ----------
        x : ndarray (N, I)
            As for `forward`.

        Returns
        -------
        ndarray (N, K) of the network's dtype

        Raises
        ------
        TypeError, ValueError
            Naming `x`; `loss`, where mean_squared_error has no probabilities.
        """
        return self._plan.inference().probabilities(x)

    def evaluate(self, x: Array | Source, y: Array | None = None) -> dict[str, float]:
        """The mean loss in evaluation mode and, for a cross-entropy, the accuracy (for sigmoid over all N*K entries).

        Parameters
        ----------
        x : ndarray (N, I)
            As for `forward`.
        y : ndarray (N,) of integer labels for softmax_cross_entropy, else (N, K)

        Returns
        -------
        dict of str to float
            ``{"loss": ..., "accuracy": ...}``; mean_squared_error has no accuracy.

        Raises
        ------
        TypeError, ValueError
            Naming the argument.
        """
        return self._evaluate(self._whole(x, y, "x", "y"))

    # ----------------------------------------------------------------------------------------------------- state

    def state_dict(self) -> dict[str, Array]:
        """Copies of all parameters and running statistics, by ``"<layer index>.<name>"``.

        While another thread trains the network they may belong to several steps.

        Returns
        -------
        dict of str to ndarray
        """
        return {name: a.copy() for name, a in self._state()}

    @alone
    def load_state_dict(self, d: Mapping[str, Array]) -> None:
        """Take parameters and running statistics from what `state_dict` gave; names and shapes must be just these.

        Parameters
        ----------
        d : dict of str to ndarray

        Raises
        ------
        TypeError, ValueError
            Naming the entry, before anything is written.
        RuntimeError
            If the network is busy.
        """
        arrays = dict(self._state())
        _check.entries(d, "d", arrays.keys())
        for name, a in arrays.items():
            arrays[name] = _check.array_of_shape(d[name], name, a.shape).astype(self.dtype, copy=False)
            if name.endswith(".running_var"):
                _check.non_negative_entries(arrays[name], name)
        self._plan.replace(arrays)

    @alone
    def refresh_statistics(self, x: Array, *, batch_size: int = 128) -> None:
        """Set all running statistics to those of the population that `x` is drawn from, for the parameters as they are.

        Ioffe & Szegedy (2015), algorithm 2: the mean of the means of many batches, and the mean of their variances, unbiased
        where ``running_var_ddof`` is 1, rather than the moving averages of batches that other parameters saw. After few
        steps, with a small momentum or with averaged weights, those can be far off.

        The batches are normalised as in training, in ghost batches where there are such, and each weighs by its rows. Dropout
        is left out: the statistics are for evaluation, which has none, and what a dropout lets through has a larger variance
        (Li et al. 2019, "Understanding the disharmony between dropout and batch normalization by variance shift"). The rows
        are taken in an order drawn anew from one fixed seed, so that the same `x` gives the same statistics. Sums are
        float64. Nothing else changes, and Ctrl-C leaves the old statistics. Without a `BatchNorm` there is nothing to do.

        Parameters
        ----------
        x : ndarray (N, I), N >= 2; as for `fit`
            The data of the training.
        batch_size : int
            At least 2; best the one of the training. A remainder is merged into the last batch.

        Raises
        ------
        TypeError, ValueError
            Naming the argument; or the layer, where a mean or variance is not finite.
        RuntimeError
            If the network is busy, or for inference only.
        """
        x = _check.rows(x, "x", self.n_in)
        starts = batch_starts(len(x), _check.integer(batch_size, "batch_size", least=2), "merge")
        self._enough_rows(starts)
        if any(isinstance(layer, BatchNorm) for layer in self.layers):
            order = np.random.Generator(np.random.PCG64(statistics.ORDER)).permutation(len(x))
            batches = (statistics.batch(x, order[a:b], self.dtype) for a, b in itertools.pairwise(starts))
            self._plan.replace(self.state_dict() | statistics.population(self.layers, batches, self.dtype))

    @alone
    def fold_batchnorm(self) -> Sequential:
        """A network for inference that gives the same outputs in evaluation mode, with fewer layers.

        Each `BatchNorm` goes into the `Dense` before it, or else, where no activation is between, into the one behind it; what
        has neither stays. `Dropout` and ``Activation("identity")`` go. The weights are computed in float64 and rounded once.

        It costs accuracy: a batch norm subtracts the running mean before it scales, a folded bias does so behind the product,
        whose rounding then shows. In float32 outputs differ by some 1e-7 of their size, and by more in proportion where running
        means are many standard deviations from zero: 1e-5 at a hundred, 1e-3 at ten thousand.

        Returns
        -------
        Sequential
            A new network with memory of its own. Where a batch norm or dropout has gone, training it would be another training:
            it is ``inference_only``, and everything in training mode raises `RuntimeError`.

        Raises
        ------
        ValueError
            Naming the parameter of the new network that would not be finite.
        RuntimeError
            If the network is busy.
        """
        layers, arrays, lost = folding.folded(self.layers, self.dtype)
        net = Sequential(layers, loss=self.loss, dtype=self.dtype, seed=0)
        net._plan.replace(arrays)
        net.inference_only = lost or self.inference_only
        return net

    def save(self, path: Path) -> None:
        """Write the network to a file, for `fastnn.load`: architecture, parameters, running statistics, and all that training
        goes on with.

        The file is a safetensors file; docs/saving.md describes it. It takes the place of an older one as a whole: whenever the
        computer stops, the old file is there or the new one. A callback of `fit` may save the network that is being trained.

        Parameters
        ----------
        path : str, bytes or os.PathLike

        Raises
        ------
        TypeError, ValueError
            If `path` is no path, or the network has layers or an optimiser that are not fastnn's own.
        OSError
            If it cannot be written. The old file is as it was, and nothing is left beside it.
        RuntimeError
            If the network is busy training in another thread.
        """
        from fastnn import saving  # which few runs need, and the time to import its checksum
        target = _check.path(path, "path")
        saving.replace(target, saving.packed(self._whole_state()))

    def predictor(self, *, fold: bool = False) -> Predictor:
        """A frozen copy of the network that only answers. Arguments and errors are those of `Predictor`.

        Returns
        -------
        Predictor
        """
        from fastnn.predictor import Predictor
        return Predictor(self, fold=fold)

    def _whole_state(self) -> dict[str, Any]:
        """A copy of the state, made while nobody trains, or by a callback of who does."""
        return self.__getstate__() if self._holder.get("by") == [get_ident(), True] else self._state_alone()

    @alone
    def _state_alone(self) -> dict[str, Any]:
        return self.__getstate__()

    # ------------------------------------------------------------------------------------------------ the inside

    def _call(self, callbacks: Iterable[Callable[[Run], None]], run: Run) -> None:
        """Call back. Meanwhile the network is held, but its state is whole, and the thread that holds it may save it."""
        by = self._holder["by"]
        by[1] = True
        try:
            for callback in callbacks:
                callback(run)
        finally:
            # no call here, see `_run`
            by[1] = False

    def _state(self) -> Iterator[tuple[str, Array]]:
        for i, layer in enumerate(self.layers):
            for name, a in (layer.parameters | layer.statistics).items():
                yield f"{i}.{name}", a

    def _check_optimizer(self, optimizer: Any) -> None:
        """Refuse what cannot train this network."""
        _check.instance(optimizer, "optimizer", Optimizer, "a fastnn.SGD, Adam or AdamW")
        optimizer.fits(self.dtype)

    def _hand_over(self, optimizer: Optimizer) -> None:
        """An optimiser of the same options takes the place of the one from a file: a script run again makes a new one."""
        own = self._optimizer
        if own is not None and own is self._from_file and type(optimizer) is type(own) and optimizer.config() == own.config():
            optimizer.load_state(own.state())
            self._optimizer = optimizer

    def _rates(self, optimizer: Optimizer, n_steps: int, n_epochs: int = 1) -> Array:
        """The learning rates of the steps of the next epochs, one for all or one for each."""
        if not isinstance(optimizer.lr, Schedule):
            return np.array([optimizer.lr])
        steps, epochs = self._trained if optimizer is self._optimizer else (0, 0)
        per_epoch = optimizer.lr.per == "epoch"
        times = np.arange(epochs, epochs + n_epochs) if per_epoch else np.arange(steps, steps + n_steps * n_epochs)
        lrs = np.require(optimizer.lr(times.astype(np.float64)), np.float64, ("C_CONTIGUOUS",))
        for lr in (lrs.min(), lrs.max()):
            _check.coefficient(float(lr), "lr", self.dtype)
        return np.repeat(lrs, n_steps) if per_epoch and n_epochs > 1 else lrs

    def _weights(self, sample_weight: Any, class_weight: Any, y: Array) -> Array | None:
        """What each row counts, if not all are the same."""
        weights = None if sample_weight is None else _check.sample_weight(sample_weight, len(y))
        if class_weight is None:
            return weights
        counts = None
        if self.loss == "softmax_cross_entropy":
            counts = functools.partial(np.bincount, y, minlength=self.n_out)
        of_class = _check.class_weight(class_weight, self.n_out, counts)
        return _check.sample_weight(of_class[y] if weights is None else weights * of_class[y], len(y))

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

    def _whole(self, x: Any, y: Any, x_name: str, y_name: str) -> tuple[Array, Array] | Source:
        """What is to be evaluated, checked."""
        if not isinstance(x, Source):
            return self._data(x, y, x_name, y_name)
        if y is not None:
            raise _check.wrong_kind(y, y_name, "None beside rows that have their targets")
        _check.source(x.n_features, x.target_shape(), x_name, self.n_in, self.n_out, self.loss == "softmax_cross_entropy")
        return x

    def _validation(self, data: Any) -> tuple[Array, Array] | Source | None:
        if data is None or isinstance(data, Source):
            return data if data is None else self._whole(data, None, "validation_data", "y")
        x, y = _check.pair(data, "validation_data", "(x, y)")
        return self._data(x, y, "validation_data[0]", "validation_data[1]")

    def _source(
        self, x: Source, y: Any, sample_weight: Any, class_weight: Any,
    ) -> Pieces:
        """What gives the pieces of an epoch of rows that are read while they are needed."""
        self._whole(x, y, "x", "y")
        labels = self.loss == "softmax_cross_entropy"
        of_row = None if sample_weight is None else _check.sample_weight(sample_weight, len(x))
        of_class = None
        if class_weight is not None:
            of_class = _check.class_weight(
                class_weight, self.n_out, functools.partial(x.label_counts, self.n_out) if labels else None)

        def weigh(rows: Array, targets: Array) -> Array:
            weights = np.ones(len(rows)) if of_row is None else of_row[rows]
            # (a label out of range is the engine's to find)
            return weights if of_class is None else weights * of_class.take(targets, mode="clip")

        def to_targets(y: Array) -> Array:
            if labels:
                return np.require(y, np.intp, ("C_CONTIGUOUS", "ALIGNED"))
            if self.loss == "sigmoid_cross_entropy":
                _check.probabilities(y, "y")
            return y

        weighs = weigh if of_row is not None or of_class is not None else None
        return lambda starts, rng, _: x.pieces(starts, rng, weighs, to_targets)

    def _enough_rows(self, starts: Array, alone: bool = True) -> None:
        """Refuse what cannot be done in training mode before anything has changed: batch norm has no variance of one row."""
        if self.inference_only:
            raise _check.inference_only()
        if alone and any(isinstance(layer, BatchNorm) for layer in self.layers) and min(first_and_last(starts)) < 2:
            raise _check.batch_of_one(len(starts) > 2)

    @alone
    def _training_outputs(self, x: Array) -> Array:
        starts = _one_batch(x)
        self._enough_rows(starts)
        self._run(one_batch(x, None, None), starts, moves_statistics=True)
        work = self._plan.workspace(len(x))
        last = work.ops[-1]
        memory = work.memory[last["y"]:].view(self.dtype)
        return memory[:len(x) * last["ldy"]].reshape(len(x), last["ldy"])[:, :self.n_out].copy()

    def _evaluate(self, data: tuple[Array, Array] | Source) -> dict[str, float]:
        total, n, entries = 0.0, 0, 0
        correct = 0
        outputs = self._plan.inference().outputs
        if isinstance(data, Source):
            parts = data.chunks(EVALUATION_ROWS)
        else:
            parts = ((data[0][start:end], data[1][start:end]) for start, end in chunks(len(data[0]), EVALUATION_ROWS))
        for x, t in parts:
            z = outputs(x)
            n, entries = n + len(x), entries + t.size
            if self.loss != "softmax_cross_entropy":
                with np.errstate(over="ignore"):
                    t = np.require(t, self.dtype, ("C_CONTIGUOUS", "ALIGNED"))
            total += len(x) * LOSSES[self.loss](z, t)[0]
            if self.loss == "softmax_cross_entropy":
                correct += int((z.argmax(axis=1) == t).sum())
            elif self.loss == "sigmoid_cross_entropy":
                correct += int(((z > 0) == (t > 0.5)).sum())
        result = {"loss": total / n}
        if self.loss != "mean_squared_error":
            result["accuracy"] = correct / entries
        return result

    def _train_epochs(self, job: Job, starts: Array, n_epochs: int) -> dict[str, Any]:
        """Some epochs, or the part of them before a callback stops them; the record of the last one.

        Those of the others go into the history, whatever becomes of the last.
        """
        run, calls, optimizer, shuffle = job.run, job.calls, job.run.optimizer, job.shuffle
        n_steps, last = len(starts) - 1, 0
        lrs = self._rates(optimizer, n_steps, n_epochs)
        started = time.perf_counter()
        steps, epoch, begun = self._step, self._epoch + 1, run.epoch
        sums, weight = np.zeros(engine.SUMS_OF_EPOCH, np.float64), 0.0
        marks = np.zeros((n_epochs, engine.MARKS_OF_EPOCH), np.float64)     # sums and seconds of the epochs before the last
        taken, rng, later = 0, self._rng, self._spare
        if shuffle:
            later.bit_generator.state = rng.bit_generator.state
        world, exchange, ended = job.world, None, False
        draws = None if not shuffle else later if world is None else world.order(later)

        def record(i: int, taken: int, total: Array, weight: float, rows: int, seconds: float) -> dict[str, Any]:
            return {
                "epoch": epoch + i, "loss": float(total[0] + total[1]) / weight if weight else 0.0,
                "lr": float(lrs[min(taken, len(lrs)) - 1]), "seconds": seconds,
                "rows_per_second": rows / max(seconds, TICK)}

        def put_away(count: int) -> None:
            n = int(starts[-1])
            run.history.epochs += [
                record(i, (i + 1) * n_steps, marks[i], piece.weight(0, n, i), n, float(marks[i, 2])) for i in range(count)]

        with job.pieces(starts, draws, n_epochs) as of_epochs:
            for piece in of_epochs:
                first = run.row
                if world is not None and exchange is None:
                    world.exchange.begin_epoch(starts, piece)
                while taken < piece.steps and not ended:
                    # up to the next step that a callback waits for
                    to = int(min(piece.steps, taken + calls.next_step(run.step) - run.step))
                    if world is not None:
                        exchange = world.exchange.from_step(taken, to - taken)
                    before = taken
                    try:
                        self._run(
                            piece, starts[taken:to + 1], exchange=exchange, optimizer=optimizer,
                            lrs=lrs if len(lrs) == 1 else lrs[taken:to],
                            moves_statistics=True, check_x=job.check_finite, sums=sums, marks=marks, at=(taken, epoch),
                            run=run, calls=calls if calls.tick else None)
                    except BaseException:
                        put_away(min((self._step - steps) // n_steps, n_epochs - 1))
                        raise
                    finally:
                        # no call here, see `_run`
                        taken = self._step - steps
                        if shuffle and taken > (n_epochs - 1) * n_steps:
                            self._drawn, self._spare = (later, 0, 0), rng
                        elif shuffle and taken:
                            self._drawn = rng, run.rows, -(-taken // n_steps)
                        self._epoch += taken // n_steps
                        self._trained = self._trained[0], self._trained[1] + taken // n_steps
                    last = max(taken - 1, 0) // n_steps
                    run.step += taken - before
                    run.epoch, run.row = begun + last, int(starts[taken - last * n_steps] - starts[0])
                    self._call([calls.on_step], run)
                    if calls.tick and time.perf_counter() - calls.ticked >= PATIENCE:
                        calls.on_tick(run)
                    # several processes agree where all come by: after steps that callbacks wait for, and at the ends of epochs
                    ended = run.stopped is not None if world is None else bool(calls.step) and world.agree_to_stop(run)
                weight += piece.weight(first, run.row, last)
                if ended:
                    break
        put_away(last)
        # (stopped between two of them, the sums are those of the next)
        total = marks[last] if taken == (last + 1) * n_steps and last + 1 < n_epochs else sums
        seconds = time.perf_counter() - started - float(marks[:last, 2].sum())
        result = record(last, taken, total, weight, run.row, seconds)
        if world is not None:
            world.exchange.end_epoch()
            world.record(result, weight, run.row)
        return result

    def _run(
        self, piece: Piece, starts: Array, *, optimizer: Optimizer | None = None, lrs: Array | None = None,
        moves_statistics: bool = False, check_x: bool = False, sums: Array | None = None, marks: Array | None = None,
        at: tuple[int, int] | None = None, run: Run | None = None, calls: Calls | None = None,
        exchange: Exchange | None = None,
    ) -> float:
        """Train on the batches between `starts`, rows of the epoch; the loss of the last one. Without an optimiser only look.

        `sums` goes on adding up losses. `marks` has a row for each epoch that is trained, by an order of its own. `at` says
        which step of which epoch is the first, for errors.
        """
        plan, orders, n_steps = self._plan, piece.orders, len(starts) - 1
        if piece.origin:
            starts = starts - piece.origin
        n = max(first_and_last(starts))
        work = plan.workspace(n)
        n_threads = threads_for(n * plan.n_weights, SHARED_WORK)
        given = optimizer or SGD()
        velocity = second_moment = average = average_snapshot = None
        trained = (0, 0)
        if optimizer is not None:
            if optimizer is self._optimizer:
                velocity, second_moment, average, trained = (
                    self._velocity, self._second_moment, self._average, self._trained)
            if velocity is None and optimizer.moments:
                velocity = aligned(plan.parameters.size, self.dtype)
            if second_moment is None and optimizer.moments == 2:
                second_moment = aligned(plan.parameters.size, self.dtype)
            if optimizer.average is None:
                average = None
            else:
                average = aligned(plan.parameters.size, FLOAT64) if average is None else average
                average_snapshot = plan.average_snapshot()
        lrs = self._rates(given, n_steps) if lrs is None else lrs
        fused = optimizer is not None and optimizer.clip_norm is None and exchange is None
        statistics = plan.statistics if plan.statistics.size else None
        snapshot = None if optimizer is None else plan.snapshot((velocity is not None) + (second_moment is not None))
        # an array of ints, which are had without a call
        progress = array("q", [0] * engine.PROGRESS_OF_RUN)
        sums = np.zeros(engine.SUMS_OF_EPOCH, np.float64) if sums is None else sums
        until = n_steps * (1 if marks is None else len(marks))
        tuner = self._tuner if automatic() and n_threads > 1 else None
        first_step = self._step
        before, epoch = (run.step, run.epoch) if run is not None else (0, 0)

        def to_the_end() -> str:
            # by itself: from CPython 3.12 on no `finally` sees what a signal raises at the end of a `while` in its `try`
            nonlocal until
            status = "out of time"
            while status == "out of time":
                status = STATUS[_train[self.dtype](
                    work.program, plan.parameters, statistics, velocity, second_moment,
                    None if fused else plan.gradients, snapshot, average, average_snapshot, piece.x, piece.y, orders,
                    piece.weights, starts, until, lrs,
                    *given.rule, given.weight_decay, given.decay == "all", given.clip_norm or 0.0,
                    1 - given.average if isinstance(given.average, float) else 0.0, given.average_from, trained[0], fused,
                    optimizer is not None, moves_statistics, check_x, self._mask_key, first_step, n_threads, tuner, PATIENCE,
                    progress, sums, marks, self._profile, exchange)]
                if run is not None and calls is not None and status == "out of time":
                    epochs, steps = divmod(progress[0], n_steps)
                    run.step, run.epoch, run.row = before + progress[0], epoch + epochs, piece.origin + int(starts[steps])
                    calls.on_tick(run)
                    run.step, run.epoch = before, epoch
                    if run.stopped is not None and exchange is None:
                        # the engine still has to look whether all is finite
                        until = progress[0]
            return status

        try:
            status = to_the_end()
        finally:
            # Ctrl-C strikes when a call returns, such as the one above; so there is none here, and each line is right by itself
            if moves_statistics:
                self._step = first_step + progress[0]
            if optimizer is not None and progress[0]:
                self._optimizer, self._velocity, self._second_moment = optimizer, velocity, second_moment
                self._average = average
                self._trained = trained[0] + progress[0], trained[1]
        if exchange is not None and exchange.error is not None:
            raise exchange.error
        if status != "done":
            epochs, steps = divmod(progress[0], n_steps)
            row = int(starts[steps] + progress[3])
            if orders is not None:
                row = int(orders[epochs, row])
            where = "" if at is None else f" at step {at[0] + steps} of epoch {at[1] + epochs}"
            raise _check.stopped(
                status, piece.x, piece.y, row, progress[4], self.dtype, self.n_out, sums[4], where, piece.place(row))
        return float(sums[4])


def load(path: Path) -> Sequential:
    """The network that `Sequential.save` wrote, in the state that it was in.

    ``net.fit(...)`` without an optimiser, or with one of the same options, goes on with the one that it was trained with last,
    its velocity or moments and all; the result is that of training without a break, to the last bit.

    Parameters
    ----------
    path : str, bytes or os.PathLike

    Returns
    -------
    Sequential

    Raises
    ------
    TypeError, ValueError
        If `path` is no path.
    CheckpointError
        If the file is damaged, no network's, or of a newer version.
    OSError
        If it cannot be read.
    """
    from fastnn import saving
    path = _check.path(path, "path")
    net = Sequential.__new__(Sequential)
    with saving.refusing(path):
        net.__setstate__(saving.load(path))
        net._from_file = net._optimizer
    return net


def _one_batch(x: Array) -> Array:
    return np.array([0, len(x)], np.intp)


def _batch_sizes(batch_size: Any, began: int, epochs: int) -> list[int]:
    """The rows of a batch, one for all epochs or one for each; `began` epochs have been before."""
    if not isinstance(batch_size, Schedule):
        return [batch_size]
    if batch_size.per != "epoch" or batch_size.state():
        raise _check.wrong_kind(batch_size, "batch_size", "an integer or a schedule per epoch that depends on the time alone")
    return [round(float(size)) for size in batch_size(np.arange(began, began + max(epochs, 1), dtype=np.float64))]
