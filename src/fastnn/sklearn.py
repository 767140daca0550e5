"""`MLPClassifier` and `MLPRegressor`: the classes of these names in scikit-learn, trained by fastnn.

Change the import, and the rest of a program stays: parameters, defaults, fitted attributes and stopping rules are those of
``sklearn.neural_network``. The page *Coming from scikit-learn* says what is more, what is refused, and what differs.

A fit is one call of `Sequential.fit`; Python comes to word after each epoch only. Two things are scaled so that the steps are
scikit-learn's. Its gradient is a mean over rows and a sum over outputs, and for the squared error half of that; where ours is
smaller by a factor, the learning rate is larger by it and the decay smaller. Its L2 term adds ``alpha * weight / n`` to the
gradient of a batch of n rows: that is a `weight_decay` of ``alpha / batch_size``, and only the last batch of an epoch, where it
is a shorter one, has a weaker decay than there.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from itertools import pairwise
from numbers import Integral, Real
from typing import Any

import numpy as np

from fastnn import _check, optimizers
from fastnn.activation import KINDS
from fastnn.callbacks import Callback, Run
from fastnn.errors import DivergedError
from fastnn.layers import INITIALISERS, Activation, BatchNorm, Dense, Dropout, Layer
from fastnn.network import Sequential
from fastnn.training import chunks

try:
    from scipy.sparse import csr_matrix, issparse
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.metrics import r2_score
    from sklearn.model_selection import train_test_split
    from sklearn.utils import check_random_state, column_or_1d
    from sklearn.utils._param_validation import Interval, Options, StrOptions
    from sklearn.utils.class_weight import compute_sample_weight
    from sklearn.utils.metaestimators import available_if
    from sklearn.utils.multiclass import (
        _check_partial_fit_first_call,
        check_classification_targets,
        type_of_target,
        unique_labels,
    )
    from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
except ImportError as error:
    raise _check.missing("fastnn.sklearn", "scikit-learn >= 1.6", "sklearn") from error

__all__ = ["MLPClassifier", "MLPRegressor"]

Array = np.ndarray

# scikit-learn's own callbacks, since 1.9
_callback: Any = import_module("sklearn.callback") if find_spec("sklearn.callback") else None


class _NoCallbacks:
    pass


_CallbackSupport: Any = _callback.CallbackSupportMixin if _callback else _NoCallbacks
_with_callbacks: Callable[[Any], Any] = _callback.with_callbacks if _callback else lambda method: method

STOCHASTIC = ("sgd", "adam")
SPARSE = ["csr", "csc"]
# what the engine converts row by row; anything else becomes the first of these
DTYPES = [np.dtype(code) for code in "df?bBhHiIlLqQ"]
# the loss that belongs to an activation of the outputs
LOSSES = {"softmax": "softmax_cross_entropy", "logistic": "sigmoid_cross_entropy", "identity": "mean_squared_error"}
AUTO_BATCH = 200              # rows, of batch_size="auto"
CONVERTED_BYTES = 1 << 28     # of rows that are converted before the first epoch
PREDICTED_ROWS = 4096         # of a sparse matrix that are made dense at a time


class _Optimizer:
    """The optimiser of an estimator, with scikit-learn's rules for the learning rate.

    Parameters
    ----------
    mlp : MLPClassifier or MLPRegressor
    scale : float
        How much larger scikit-learn's gradient is than that of the network's loss.

    Attributes
    ----------
    learning_rate : float
        In scikit-learn's words.
    inner : SGD or Adam
    """

    def __init__(self, mlp: Any, scale: float) -> None:
        self.learning_rate = self.first = float(mlp.learning_rate_init)
        self.rule = mlp.learning_rate if mlp.solver == "sgd" else "constant"
        self.power_t, self.scale = mlp.power_t, scale
        self.inner: Any
        if mlp.solver == "sgd":
            momentum = float(mlp.momentum)
            nesterov = bool(mlp.nesterovs_momentum) and momentum > 0
            self.inner = optimizers.SGD(self.first * scale, momentum=momentum, nesterov=nesterov)
        else:
            # its steps do not depend on the scale of the gradient, but for epsilon
            self.inner = optimizers.Adam(
                self.first, beta1=float(mlp.beta_1), beta2=float(mlp.beta_2), eps=float(mlp.epsilon) / scale, eps_hat=True)

    def decay(self, alpha: float, weight: float) -> None:
        """Decay as scikit-learn does in a batch whose rows weigh so much together."""
        self.inner.weight_decay = alpha / weight / self.scale

    def iteration_ends(self, net: Sequential, t: int) -> None:
        """An epoch has ended, after `t` rows in all."""
        if self.rule == "invscaling":
            self._set(net, self.first / (t + 1) ** self.power_t)

    def trigger_stopping(self, net: Sequential, message: str, verbose: Any) -> bool:
        """Whether no improvement means to stop; if not, the rate is now smaller."""
        if self.rule == "adaptive" and self.learning_rate > 1e-6:
            self._set(net, self.learning_rate / 5)
            ending = f"Setting learning rate to {self.learning_rate:f}"
        else:
            ending = "Learning rate too small. Stopping." if self.rule == "adaptive" else "Stopping."
        if verbose:
            print(f"{message} {ending}")
        return ending.endswith("Stopping.")

    def _set(self, net: Sequential, rate: float) -> None:
        # there the rate is part of the velocity, so that what has been gathered does not follow it
        if net._velocity is not None and rate > 0:
            net._velocity *= self.learning_rate / rate
        self.learning_rate = rate
        self.inner.lr = rate * self.scale


class _Epochs(Callback):
    """What scikit-learn does after each epoch: the curves, and whether to stop.

    Parameters
    ----------
    mlp : MLPClassifier or MLPRegressor
    alpha : float
        The factor of the sum of squares of the weights, taken before each batch, in the loss of an epoch.
    n_batches : int
        Of an epoch.
    score : callable, optional
        With early stopping: of the network, gives the validation score.
    """

    def __init__(self, mlp: Any, alpha: float, n_batches: int, score: Callable[[Sequential], float] | None) -> None:
        self.mlp, self.alpha, self.n_batches, self.score = mlp, alpha, n_batches, score
        self.squares = 0.0

    def on_fit_begin(self, run: Run) -> None:
        self.squares = self._squares(run.net)

    def _squares(self, net: Sequential) -> float:
        weights = net._plan.parameters[:net._plan.n_weights]    # what fills up a row is zero
        return float(np.einsum("i,i", weights, weights, dtype=np.float64)) if self.alpha else 0.0

    def on_epoch_end(self, run: Run) -> None:
        mlp, record, before = self.mlp, run.record, self.squares
        self.squares = self._squares(run.net)
        # the mean over the batches if it changes evenly, and just so if there is but one
        squares = before + (self.squares - before) * (self.n_batches - 1) / (2 * self.n_batches)
        mlp.loss_ = mlp._scales()[0] * record["loss"] + self.alpha * squares
        mlp.n_iter_ += 1
        mlp.t_ += run.row
        mlp.loss_curve_.append(mlp.loss_)
        if mlp.verbose:
            print(f"Iteration {mlp.n_iter_}, loss = {mlp.loss_:.8f}")
        if self.score is None:
            self._watch_loss()
        else:
            mlp.validation_loss_curve_.append(mlp._scales()[0] * record["val_loss"])
            self._watch_score(run.net, self.score(run.net))
        mlp._optimizer.iteration_ends(run.net, mlp.t_)
        if mlp._no_improvement_count > mlp.n_iter_no_change:
            what = "Validation score" if self.score else "Training loss"
            message = f"{what} did not improve more than tol={mlp.tol:f} for {mlp.n_iter_no_change} consecutive epochs."
            if mlp._optimizer.trigger_stopping(run.net, message, mlp.verbose):
                run.stop(message)
            else:
                mlp._no_improvement_count = 0

    def diverged(self) -> None:
        """An epoch has led to numbers that are not finite."""
        mlp = self.mlp
        mlp.n_iter_, mlp.loss_ = mlp.n_iter_ + 1, math.nan
        for curve in (mlp.loss_curve_, mlp.validation_scores_, mlp.validation_loss_curve_):
            curve.append(math.nan)

    def _watch_loss(self) -> None:
        mlp = self.mlp
        mlp._no_improvement_count = mlp._no_improvement_count + 1 if mlp.loss_ > mlp.best_loss_ - mlp.tol else 0
        mlp.best_loss_ = min(mlp.loss_, mlp.best_loss_)

    def _watch_score(self, net: Sequential, score: float) -> None:
        mlp = self.mlp
        mlp.validation_scores_.append(score)
        if mlp.verbose:
            print(f"Validation score: {score:f}")
        mlp._no_improvement_count = mlp._no_improvement_count + 1 if score < mlp.best_validation_score_ + mlp.tol else 0
        if score > mlp.best_validation_score_:
            mlp.best_validation_score_, mlp._best = score, net.state_dict()


class _Theirs(Callback):
    """scikit-learn's own callbacks, called around each epoch."""

    def __init__(self, mlp: Any, context: Any, data: dict[str, Any]) -> None:
        self.mlp, self.context, self.data = mlp, context, data
        self.epoch: Any = None

    def _begin(self, net: Sequential) -> None:
        self.epoch = self.context.subcontext(task_name="epoch")
        self.epoch.call_on_fit_task_begin(estimator=self.mlp, reconstruction_attributes=lambda: _fitted(net), **self.data)

    def on_fit_begin(self, run: Run) -> None:
        self._begin(run.net)

    def on_epoch_end(self, run: Run) -> None:
        stops = self.epoch.call_on_fit_task_end(
            estimator=self.mlp, reconstruction_attributes=lambda: _fitted(run.net), **self.data)
        if stops and run.stopped is None:
            run.stop("stopped by a callback of scikit-learn")
        if run.stopped is None and run.epoch < run.epochs:
            self._begin(run.net)


class _MLP(_CallbackSupport, BaseEstimator):
    """What the two estimators share."""

    _parameter_constraints: dict[str, Any] = {      # noqa: RUF012 - scikit-learn's way
        "hidden_layer_sizes": ["array-like", Interval(Integral, 1, None, closed="left")],
        "activation": [StrOptions({*KINDS, "logistic"})],
        "solver": [StrOptions({"lbfgs", *STOCHASTIC})],
        "alpha": [Interval(Real, 0, None, closed="left")],
        "batch_size": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "learning_rate": [StrOptions({"constant", "invscaling", "adaptive"})],
        "learning_rate_init": [Interval(Real, 0, None, closed="neither")],
        "power_t": [Interval(Real, 0, None, closed="left")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "shuffle": ["boolean"],
        "random_state": ["random_state"],
        "tol": [Interval(Real, 0, None, closed="left")],
        "verbose": ["verbose"],
        "warm_start": ["boolean"],
        "momentum": [Interval(Real, 0, 1, closed="left")],
        "nesterovs_momentum": ["boolean"],
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="left")],
        "beta_1": [Interval(Real, 0, 1, closed="left")],
        "beta_2": [Interval(Real, 0, 1, closed="left")],
        "epsilon": [Interval(Real, 0, None, closed="neither")],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left"), Options(Real, {np.inf})],
        "max_fun": [Interval(Integral, 1, None, closed="left")],
        "batch_norm": ["boolean"],
        "dropout": [Interval(Real, 0, 1, closed="left")],
        "init": [StrOptions({*INITIALISERS}), callable],
        "callbacks": [list, tuple],
        "dtype": [str, type, np.dtype],
    }

    loss_: float
    best_loss_: float | None
    best_validation_score_: float | None
    loss_curve_: list[float]
    validation_scores_: list[float] | None
    validation_loss_curve_: list[float] | None
    _best: Any      # the state of the network that had the best score

    def _take(self, parameters: dict[str, Any]) -> None:
        """Store the arguments of ``__init__``, as they are."""
        for name in self._get_param_names():
            setattr(self, name, parameters[name])

    @_with_callbacks
    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Any:
        """Train from the start, or with `warm_start` from where the last call ended.

        Parameters
        ----------
        X : array-like or sparse matrix (N, n_features)
            A sparse one is made dense, in the estimator's `dtype`.
        y : array-like (N,) or (N, n_outputs)
        sample_weight : array-like (N,), optional
            How much each row counts, >= 0.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            For what scikit-learn refuses, for the options that fastnn does not have, and where training leads to numbers that
            are not finite.
        """
        return self._fit(X, y, sample_weight, incremental=False)

    def _fit(self, X: Any, y: Any, sample_weight: Any, incremental: bool) -> Any:
        self._check_parameters(incremental)
        first = not hasattr(self, "coefs_") or not (self.warm_start or incremental)
        context = None
        if hasattr(self, "_skl_callbacks") and not incremental:
            context = self._init_callback_context(max_subtasks=self.max_iter)
        X, y = validate_data(
            self, X, y, accept_sparse=SPARSE, multi_output=True, y_numeric=not self._CLASSIFIES, dtype=DTYPES, order="C",
            reset=first)
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        if sample_weight is not None:
            sample_weight = _check_sample_weight(sample_weight, X)
        callbacks = [*self.callbacks]
        data = {"X": X, "y": y, "metadata": None if sample_weight is None else {"sample_weight": sample_weight}}
        if context is not None:
            context.call_on_fit_task_begin(estimator=self, **data)
            callbacks.append(_Theirs(self, context, data))

        targets, weights = self._targets(y, sample_weight, incremental)
        dtype = _check.float_dtype(self.dtype)
        if issparse(X):
            X = X.astype(dtype).toarray()
        sizes = [X.shape[1], *self._hidden(), self.n_outputs_]
        self._same(sizes, dtype, first)
        # in scikit-learn's order: weights, split, rows
        random_state = check_random_state(self.random_state)
        start = self._start(sizes, random_state) if first and self.init == "xavier_uniform" else None
        held = None
        if self.early_stopping:
            X, targets, weights, *held = self._split(X, targets, weights, random_state)
        if weights is not None:
            weights = _check.sample_weight(weights, len(X))
        if first or not hasattr(self, "_network"):
            self._network = self._build(sizes, dtype, int(random_state.randint(1 << 32, dtype=np.uint32)), start)
        if first:
            self.coefs_, self.intercepts_ = _arrays(self._network)
        net = self._taken()
        if not incremental or not hasattr(self, "_optimizer"):
            self._optimizer = _Optimizer(self, self._scales()[1])
        self._begin_curves(first)

        # see `dtype` of `MLPClassifier`
        small = dtype == np.float32 and self.batch_size == "auto" and len(X) <= AUTO_BATCH and not incremental
        trained = _in_dtype(net, np.dtype(np.float64)) if small else net
        with np.errstate(over="ignore"):
            if small or (not incremental and dtype.itemsize < X.dtype.itemsize and X.nbytes <= CONVERTED_BYTES):
                # the engine would do it in every epoch, with the same bits
                X = X.astype(dtype, copy=False)
            if small and targets.dtype.kind == "f":
                targets = targets.astype(dtype, copy=False)
        self._train(trained, X, targets, weights, held, callbacks, incremental)
        if self.early_stopping:
            trained.load_state_dict(self._best)
        if small:
            self._network = self._rounded(trained, dtype)
            self.coefs_, self.intercepts_ = _arrays(self._network)
        if context is not None:
            context.call_on_fit_task_end(estimator=self, reconstruction_attributes={}, **data)
        return self

    def _train(
        self, net: Sequential, X: Array, targets: Array, weights: Array | None, held: Any, callbacks: list[Any],
        incremental: bool,
    ) -> None:
        """The epochs, and the warnings that come of them."""
        caller = 4 + bool(_callback and not incremental)    # of `fit`, which is wrapped for scikit-learn's callbacks
        n = len(X)
        batch = min(AUTO_BATCH, n) if self.batch_size == "auto" else int(self.batch_size)
        if batch > n:
            warnings.warn(
                "Got `batch_size` less than 1 or larger than sample size. It is going to be clipped", stacklevel=caller)
            batch = n
        n_batches = max(1, n // batch) if self.batch_norm else math.ceil(n / batch)
        weight = n if weights is None else float(weights.sum())
        self._optimizer.decay(float(self.alpha), batch * weight / n)
        validation = score = None
        if held is not None:
            validation, of_validation = held
            score = lambda net: self._score(net.predict(validation[0]), validation[1], of_validation)  # noqa: E731
        epochs = _Epochs(self, 0.5 * self.alpha * n_batches / weight, n_batches, score)
        self.n_iter_ = 0
        try:
            history = net.fit(
                X, targets, epochs=1 if incremental else int(self.max_iter), batch_size=batch, optimizer=self._optimizer.inner,
                validation_data=validation, shuffle=bool(self.shuffle), callbacks=[epochs, *callbacks],
                last_batch="merge" if self.batch_norm else "keep", sample_weight=weights, check_finite=False)
        except KeyboardInterrupt:
            warnings.warn("Training interrupted by user.", stacklevel=caller)
        except DivergedError as error:
            if not self.early_stopping:
                raise _not_finite(str(error)) from error
            epochs.diverged()
            warnings.warn(f"Stochastic Optimizer: {error} The best ones are restored.", ConvergenceWarning, stacklevel=caller)
        else:
            if not incremental and history.stopped is None:
                warnings.warn(
                    f"Stochastic Optimizer: Maximum iterations ({self.max_iter}) reached and the optimization hasn't converged "
                    "yet.", ConvergenceWarning, stacklevel=caller)

    def _rounded(self, net: Sequential, dtype: np.dtype[Any]) -> Sequential:
        """The network of a small fit in its own dtype, where it may be infinite."""
        net = _in_dtype(net, dtype)
        moments = [a for a in (net._velocity, net._second_moment) if a is not None]
        if not np.isfinite(net._plan.state).all() or not (self.early_stopping or all(np.isfinite(a).all() for a in moments)):
            raise _not_finite(f"they are too large for {dtype}")
        if not all(np.isfinite(a).all() for a in moments):
            # they are not of the best weights, which have been restored
            net._velocity = net._second_moment = None
        return net

    def _same(self, sizes: list[int], dtype: np.dtype[Any], first: bool) -> None:
        """Training goes on with the network there is: the parameters that it was made with must not have changed."""
        architecture = {
            "sizes": sizes, "activation": self.activation, "batch_norm": bool(self.batch_norm), "dropout": float(self.dropout),
            "dtype": dtype.name, "out_activation": self.out_activation_}
        if not first:
            _check.same_network(architecture, getattr(self, "_architecture", architecture))
        self._architecture, self.n_layers_ = architecture, len(sizes)

    def _check_parameters(self, incremental: bool) -> None:
        self._validate_params()
        if self.solver not in STOCHASTIC:
            raise _check.not_offered("solver", self.solver, STOCHASTIC)
        if incremental and self.early_stopping:
            raise ValueError("partial_fit does not support early_stopping=True")

    def _hidden(self) -> list[int]:
        sizes = self.hidden_layer_sizes
        sizes = list(sizes) if hasattr(sizes, "__iter__") else [sizes]
        if any(size <= 0 for size in sizes):
            raise ValueError(f"hidden_layer_sizes must be > 0, got {sizes}.")
        return sizes

    def _scales(self) -> tuple[float, float]:
        """How many times larger scikit-learn's loss and its gradient are than those of the network."""
        k = self.n_outputs_
        return {"softmax": (1.0, 1.0), "logistic": (float(k), float(k)), "identity": (0.5, k / 2)}[self.out_activation_]

    def _start(self, sizes: list[int], random_state: Any) -> list[tuple[Array, Array]]:
        """The numbers that scikit-learn draws, weights and intercepts by layer."""
        factor = 2 if self.activation in ("logistic", "sigmoid") else 6
        bounds = [math.sqrt(factor / (n_in + n_out)) for n_in, n_out in pairwise(sizes)]
        return [
            (random_state.uniform(-bound, bound, shape), random_state.uniform(-bound, bound, shape[1]))
            for bound, shape in zip(bounds, pairwise(sizes), strict=True)]

    def _build(
        self, sizes: list[int], dtype: np.dtype[Any], seed: int, start: list[tuple[Array, Array]] | None,
    ) -> Sequential:
        layers: list[Layer] = []
        for i, (n_in, n_out) in enumerate(pairwise(sizes)):
            hidden = i < len(sizes) - 2
            layers.append(Dense(n_in, n_out, bias=not (hidden and self.batch_norm), init=self.init))
            if hidden and self.batch_norm:
                layers.append(BatchNorm(n_out))
            if hidden and self.activation != "identity":
                layers.append(Activation("sigmoid" if self.activation == "logistic" else self.activation))
            if hidden and self.dropout:
                layers.append(Dropout(float(self.dropout)))
        net = Sequential(layers, loss=LOSSES[self.out_activation_], dtype=dtype, seed=seed)
        dense = [layer for layer in layers if isinstance(layer, Dense)]
        for layer, (coef, intercept) in zip(dense, start or (), strict=bool(start)):
            layer.weight = coef
            if layer.has_bias:
                layer.bias = intercept
        return net

    def _taken(self) -> Sequential:
        """The network, with whatever has been put in the place of a weight or intercept."""
        coefs, intercepts = _arrays(self._network)
        for name, own in (("coefs_", coefs), ("intercepts_", intercepts)):
            given = getattr(self, name)
            if len(given) != len(own) or any(a is not b for a, b in zip(given, own, strict=True)):
                for i, (a, b) in enumerate(zip(given, own, strict=True)):
                    b[...] = _check.array_of_shape(a, f"{name}[{i}]", b.shape)
                setattr(self, name, own)
        return self._network

    def _split(self, X: Array, targets: Array, weights: Array | None, random_state: Any) -> tuple[Any, ...]:
        """What is trained on, and what is held out to validate."""
        arrays = [X, targets] if weights is None else [X, targets, weights]
        # scikit-learn stratifies where there is one output
        parts = train_test_split(
            *arrays, random_state=random_state, test_size=self.validation_fraction,
            stratify=targets if self._CLASSIFIES and self.n_outputs_ == 1 else None)
        if len(parts[1]) < 2:
            raise ValueError(
                "The validation set is too small. Increase 'validation_fraction' or the size of your dataset.")
        kept, held = parts[::2], parts[1::2]
        return kept[0], kept[1], *(kept[2:] or [None]), (held[0], held[1]), *(held[2:] or [None])

    def _begin_curves(self, first: bool) -> None:
        if first:
            self.t_, self.loss_curve_, self._no_improvement_count = 0, [], 0
        watched = getattr(self, "validation_scores_", None) is not None
        if first or watched != self.early_stopping:
            early = self.early_stopping
            self.validation_scores_, self.validation_loss_curve_ = ([], []) if early else (None, None)
            self.best_loss_, self.best_validation_score_ = (None, -np.inf) if early else (np.inf, None)
            self._best = self._network.state_dict() if early else None

    def _ask(self, X: Any, method: str) -> Array:
        """What this method of the network says of the rows."""
        check_is_fitted(self)
        X = validate_data(self, X, accept_sparse=SPARSE, dtype=DTYPES, reset=False)
        net = self._taken()
        ask: Callable[[Array], Array] = getattr(net, method)
        if not issparse(X):
            return ask(X)
        X = X.tocsr()
        return np.concatenate([ask(X[a:b].astype(net.dtype).toarray()) for a, b in chunks(X.shape[0], PREDICTED_ROWS)])

    def _check_solver(self) -> bool:
        if self.solver not in STOCHASTIC:
            raise AttributeError(
                f"partial_fit is only available for stochastic optimizers. {self.solver} is not stochastic.")
        return True

    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())
        if "_network" in state:
            # these are the network's memory, which it takes along
            self._taken()
            del state["coefs_"], state["intercepts_"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "_network" in state:
            self.coefs_, self.intercepts_ = _arrays(self._network)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags


class MLPClassifier(ClassifierMixin, _MLP):
    """A multi-layer perceptron that classifies: ``sklearn.neural_network.MLPClassifier``, trained by fastnn.

    Parameters
    ----------
    hidden_layer_sizes : int or sequence of int
        The units of each hidden layer.
    activation : {"identity", "logistic", "tanh", "relu", "leaky_relu", "softsign", "softplus", "elu"}
        Of the hidden layers; ``"sigmoid"`` is the same as ``"logistic"``.
    solver : {"adam", "sgd"}
        `fastnn.Adam` or `fastnn.SGD`. ``"lbfgs"`` is refused.
    alpha : float
        Strength of the L2 penalty on the weights, which is divided by the rows of a batch.
    batch_size : int or "auto"
        ``"auto"`` is ``min(200, N)``.
    learning_rate : {"constant", "invscaling", "adaptive"}
        What becomes of `learning_rate_init`, with ``solver="sgd"``.
    learning_rate_init : float
    power_t : float
        Exponent of ``"invscaling"``.
    max_iter : int
        Epochs, at most.
    shuffle : bool
        A new order of the rows for each epoch.
    random_state : int, RandomState or None
        Of the initial weights, the split for early stopping, the order of the rows and the dropout.
    tol : float
        A loss, or with `early_stopping` a score, that gets better by less does not count as better.
    verbose : bool or int
        Print the loss of each epoch.
    warm_start : bool
        `fit` goes on from the last one.
    momentum : float
        In [0, 1), with ``solver="sgd"``.
    nesterovs_momentum : bool
    early_stopping : bool
        Hold out `validation_fraction` of the rows, stop by their score, and take the weights that had the best one.
    validation_fraction : float
    beta_1, beta_2, epsilon : float
        With ``solver="adam"``.
    n_iter_no_change : int
        Epochs without an improvement that are put up with.
    max_fun : int
        Of ``"lbfgs"`` alone, as in scikit-learn.
    class_weight : dict, "balanced" or None
        How much the rows of each class count, multiplied with `sample_weight`.
    batch_norm : bool
        Batch norm before the activation of each hidden layer. `intercepts_` are then its shifts, and a last batch that would
        be shorter is merged into the one before it.
    dropout : float
        In [0, 1): the part of the hidden units that training leaves out at random.
    init : str or callable
        How the weights start: a name in `fastnn.init`, or a function ``init(shape, *, rng, dtype)``; the intercepts then start
        at zero. ``"xavier_uniform"`` draws weights and intercepts as scikit-learn does, the same numbers for the same
        `random_state`.
    callbacks : sequence
        For `Sequential.fit`, see `fastnn.callbacks`. (scikit-learn's own are set by ``set_callbacks``.)
    dtype : {"float32", "float64"}
        Of the network, whatever the dtype of X. A `fit` of one automatic batch, 200 rows at most, takes its rows and gives its
        weights in this dtype, but computes in float64 in between: a row of weight 2 must be just as good as the row twice, in
        any order, to 1e-7, for ``check_estimator``.

    Attributes
    ----------
    classes_ : ndarray (n_classes,)
    coefs_, intercepts_ : lists of ndarray
        By layer, (n_in, n_out) and (n_out,); the network's memory, which may be written.
    loss_, best_loss_ : float
        The loss of the last epoch and the least one, with the L2 term; `best_loss_` is None with early stopping.
    loss_curve_ : list of float
        By epoch.
    validation_scores_, best_validation_score_
        With early stopping, otherwise None.
    validation_loss_curve_ : list of float or None
        The loss of the rows held out, without an L2 term and weights of rows.
    t_ : int
        Rows trained on.
    n_iter_, n_layers_, n_outputs_, n_features_in_ : int
    feature_names_in_ : ndarray (n_features,)
        Where X had such.
    out_activation_ : {"logistic", "softmax"}

    Examples
    --------
    >>> from fastnn.sklearn import MLPClassifier
    >>> from sklearn.datasets import load_digits
    >>> x, y = load_digits(return_X_y=True)
    >>> classifier = MLPClassifier(batch_norm=True, early_stopping=True, random_state=0).fit(x / 16, y)
    >>> classifier.score(x / 16, y) > 0.97
    True
    """

    _CLASSIFIES = True
    _parameter_constraints: dict[str, Any] = {      # noqa: RUF012 - scikit-learn's way
        **_MLP._parameter_constraints, "class_weight": [dict, list, StrOptions({"balanced"}), None]}

    def __init__(
        self, hidden_layer_sizes: Any = (100,), activation: str = "relu", *, solver: str = "adam", alpha: float = 0.0001,
        batch_size: int | str = "auto", learning_rate: str = "constant", learning_rate_init: float = 0.001,
        power_t: float = 0.5, max_iter: int = 200, shuffle: bool = True, random_state: Any = None, tol: float = 1e-4,
        verbose: bool | int = False, warm_start: bool = False, momentum: float = 0.9, nesterovs_momentum: bool = True,
        early_stopping: bool = False, validation_fraction: float = 0.1, beta_1: float = 0.9, beta_2: float = 0.999,
        epsilon: float = 1e-8, n_iter_no_change: float = 10, max_fun: int = 15000, class_weight: Any = None,
        batch_norm: bool = False, dropout: float = 0.0, init: Any = "xavier_uniform", callbacks: Any = (),
        dtype: Any = "float32",
    ) -> None:
        self._take(locals())

    @available_if(lambda mlp: mlp._check_solver())
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None, classes: Any = None) -> MLPClassifier:
        """Train for one epoch, from where the last call ended.

        Parameters
        ----------
        X, y, sample_weight
            As for `fit`.
        classes : array-like (n_classes,)
            All classes there will be; needed by the first call.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            As `fit`; also for a class that is not in `classes`, and ``class_weight="balanced"``, which needs all rows at once.
        """
        if self.class_weight == "balanced":
            raise _check.unknown_balance()
        if _check_partial_fit_first_call(self, classes):
            self._multilabel, self._sparse = type_of_target(y).startswith("multilabel"), issparse(y)
        return self._fit(X, y, sample_weight, incremental=True)

    def _targets(self, y: Any, sample_weight: Array | None, incremental: bool) -> tuple[Array, Array | None]:
        """What the network learns to give, and what each row counts; sets what there is to know of the classes."""
        check_classification_targets(y)
        multilabel = type_of_target(y).startswith("multilabel")
        classes = unique_labels(y)
        if not hasattr(self, "classes_") or not (self.warm_start or incremental):
            self.classes_, self._multilabel, self._sparse = classes, multilabel, issparse(y)
        elif self.warm_start and set(classes) != set(self.classes_):
            raise ValueError(
                "warm_start can only be used where `y` has the same classes as in the previous call to fit. Previously got "
                f"{self.classes_}, `y` has {classes}")
        elif len(np.setdiff1d(classes, self.classes_, assume_unique=True)):
            raise ValueError(
                f"`y` has classes not in `self.classes_`. `self.classes_` has {self.classes_}. 'y' has {classes}.")
        elif multilabel != self._multilabel:
            raise _check.other_labels(multilabel)
        if multilabel:
            y = (y.toarray() if issparse(y) else y).astype(bool)
        weights = sample_weight
        if self.class_weight is not None:
            by_class = self._by_class(y)
            weights = by_class if sample_weight is None else by_class * sample_weight
        if multilabel:
            self.n_outputs_, self.out_activation_ = y.shape[1], "logistic"
            return y, weights
        codes = np.searchsorted(self.classes_, y)
        if len(self.classes_) <= 2:
            self.n_outputs_, self.out_activation_ = 1, "logistic"
            return (codes == 1)[:, None], weights
        self.n_outputs_, self.out_activation_ = len(self.classes_), "softmax"
        return codes, weights

    def _by_class(self, y: Array) -> Array:
        """What each row counts by its class, or by its labels."""
        given = y
        if self.class_weight != "balanced":
            # with all classes there are: a batch of partial_fit need not have them
            given = np.concatenate([y, self.classes_ if y.ndim == 1 else np.repeat([[False], [True]], y.shape[1], axis=1)])
        weights: Array = compute_sample_weight(self.class_weight, given)[:len(y)]
        _check.non_negative_entries(weights, "class_weight")
        return weights

    def _score(self, codes: Array, targets: Array, weights: Array | None) -> float:
        hits = codes == targets
        return float(np.average(hits if hits.ndim == 1 else hits.all(axis=1), weights=weights))

    def predict(self, X: Any) -> Any:
        """The class of each row, or with several labels for each whether it holds.

        Parameters
        ----------
        X : array-like or sparse matrix (N, n_features)

        Returns
        -------
        ndarray (N,) of classes, or (N, n_outputs) of 0 and 1: a sparse matrix if y was one

        Raises
        ------
        ValueError
            For what scikit-learn refuses: X that is not finite or has other columns than that of the fit.
        sklearn.exceptions.NotFittedError
            Before the first fit.
        """
        codes = self._ask(X, "predict")
        if self._multilabel:
            return csr_matrix(codes) if self._sparse else codes
        if self.out_activation_ == "logistic":
            codes = np.minimum(codes[:, 0], len(self.classes_) - 1)     # there may be one class only
        return self.classes_[codes]

    def predict_proba(self, X: Any) -> Array:
        """The probability of each class, in the order of `classes_`; of several labels one by one.

        Parameters
        ----------
        X : array-like or sparse matrix (N, n_features)

        Returns
        -------
        ndarray (N, n_classes) of the estimator's dtype

        Raises
        ------
        ValueError
            For what scikit-learn refuses: X that is not finite or has other columns than that of the fit.
        sklearn.exceptions.NotFittedError
            Before the first fit.
        """
        p = self._ask(X, "predict_proba")
        return np.hstack([1 - p, p]) if self.out_activation_ == "logistic" and not self._multilabel else p

    def predict_log_proba(self, X: Any) -> Array:
        """``log(predict_proba(X))``. Arguments, result and errors are those of `predict_proba`."""
        p = self.predict_proba(X)
        return np.log(p, out=p)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags


class MLPRegressor(RegressorMixin, _MLP):
    """A multi-layer perceptron that predicts numbers: ``sklearn.neural_network.MLPRegressor``, trained by fastnn.

    Parameters
    ----------
    loss : {"squared_error"}
        ``"poisson"`` is refused.
    hidden_layer_sizes, activation, solver, alpha, batch_size, learning_rate, learning_rate_init, power_t, max_iter, shuffle, \
random_state, tol, verbose, warm_start, momentum, nesterovs_momentum, early_stopping, validation_fraction, beta_1, beta_2, \
epsilon, n_iter_no_change, max_fun, batch_norm, dropout, init, callbacks, dtype
        As for `MLPClassifier`. The score of `early_stopping` is R squared.

    Attributes
    ----------
    coefs_, intercepts_, loss_, best_loss_, loss_curve_, validation_scores_, best_validation_score_, validation_loss_curve_, \
t_, n_iter_, n_layers_, n_outputs_, n_features_in_, feature_names_in_
        As for `MLPClassifier`. The loss is half of the mean squared error.
    out_activation_ : "identity"

    Examples
    --------
    >>> from fastnn.sklearn import MLPRegressor
    >>> from sklearn.datasets import make_friedman1
    >>> x, y = make_friedman1(1000, random_state=0)
    >>> regressor = MLPRegressor(batch_norm=True, learning_rate_init=0.01, max_iter=1000, random_state=0).fit(x, y)
    >>> regressor.score(x, y) > 0.9
    True
    """

    _CLASSIFIES = False
    _parameter_constraints: dict[str, Any] = {      # noqa: RUF012 - scikit-learn's way
        **_MLP._parameter_constraints, "loss": [StrOptions({"squared_error", "poisson"})]}

    def __init__(
        self, loss: str = "squared_error", hidden_layer_sizes: Any = (100,), activation: str = "relu", *, solver: str = "adam",
        alpha: float = 0.0001, batch_size: int | str = "auto", learning_rate: str = "constant",
        learning_rate_init: float = 0.001, power_t: float = 0.5, max_iter: int = 200, shuffle: bool = True,
        random_state: Any = None, tol: float = 1e-4, verbose: bool | int = False, warm_start: bool = False,
        momentum: float = 0.9, nesterovs_momentum: bool = True, early_stopping: bool = False, validation_fraction: float = 0.1,
        beta_1: float = 0.9, beta_2: float = 0.999, epsilon: float = 1e-8, n_iter_no_change: float = 10, max_fun: int = 15000,
        batch_norm: bool = False, dropout: float = 0.0, init: Any = "xavier_uniform", callbacks: Any = (),
        dtype: Any = "float32",
    ) -> None:
        self._take(locals())

    @available_if(lambda mlp: mlp._check_solver())
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> MLPRegressor:
        """Train for one epoch, from where the last call ended.

        Parameters
        ----------
        X, y, sample_weight
            As for `fit`.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            As `fit`.
        """
        return self._fit(X, y, sample_weight, incremental=True)

    def _check_parameters(self, incremental: bool) -> None:
        super()._check_parameters(incremental)
        if self.loss != "squared_error":
            raise _check.not_offered("loss", self.loss, ("squared_error",))

    def _targets(self, y: Array, sample_weight: Array | None, incremental: bool) -> tuple[Array, Array | None]:
        # half and extended precision become double
        y = y.reshape(len(y), -1).astype(y.dtype if y.dtype in DTYPES else np.float64, copy=False)
        self.n_outputs_, self.out_activation_ = y.shape[1], "identity"
        return y, sample_weight

    def _score(self, outputs: Array, targets: Array, weights: Array | None) -> float:
        return float(r2_score(targets, outputs, sample_weight=weights)) if np.isfinite(outputs).all() else math.nan

    def predict(self, X: Any) -> Array:
        """The outputs.

        Parameters
        ----------
        X : array-like or sparse matrix (N, n_features)

        Returns
        -------
        ndarray (N,), or (N, n_outputs) if there are several, of the estimator's dtype

        Raises
        ------
        ValueError
            For what scikit-learn refuses: X that is not finite or has other columns than that of the fit.
        sklearn.exceptions.NotFittedError
            Before the first fit.
        """
        outputs = self._ask(X, "predict")
        return outputs[:, 0] if self.n_outputs_ == 1 else outputs


def _arrays(net: Sequential) -> tuple[list[Array], list[Array]]:
    """The weights and the intercepts of a network, its own memory; of a dense layer without bias the batch norm's shift."""
    coefs, intercepts = [], []
    for layer, after in pairwise([*net.layers, None]):
        if isinstance(layer, Dense):
            coefs.append(layer.weight)
            intercepts.append(after.beta if isinstance(after, BatchNorm) else layer.bias)
    return coefs, intercepts


def _in_dtype(net: Sequential, dtype: np.dtype[Any]) -> Sequential:
    """A copy of the network, velocity and all, that computes in another dtype; they share the optimiser."""
    other = Sequential.__new__(Sequential)
    with np.errstate(over="ignore"):
        other.__setstate__(net.__getstate__() | {"dtype": dtype})
    return other


def _not_finite(why: str) -> ValueError:
    return ValueError(
        "Solver produced non-finite parameter weights. The input data may contain large values and need to be preprocessed. "
        f"({why})")


def _fitted(net: Sequential) -> dict[str, Any]:
    """The attributes of an estimator that is fitted so far."""
    net = copy.deepcopy(net)
    coefs, intercepts = _arrays(net)
    return {"_network": net, "coefs_": coefs, "intercepts_": intercepts}
