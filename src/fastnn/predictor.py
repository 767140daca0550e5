"""`Predictor`: a network that only answers, and never changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from typing import Any, NoReturn

import numpy as np

from fastnn import _check
from fastnn.folding import folded
from fastnn.inference import Inference
from fastnn.layers import Dense, Layer, Owner, connected, unknown_init
from fastnn.network import Sequential
from fastnn.plan import Plan

Array = np.ndarray


class Predictor:
    """A frozen copy of a network, for answers: what a service or a control loop calls with a row or a few.

    It has memory of its own: training the network goes on without it. Nothing of it can be changed, so any number of threads
    may call it at once, without a lock. It can be pickled. Its answers have the bits of the network's.

    Parameters
    ----------
    net : Sequential
        May be in training where a callback of that training makes the predictor.
    fold : bool
        True takes what `Sequential.fold_batchnorm` would give, which is faster where there are batch norms and differs in the
        last digits.

    Attributes
    ----------
    n_in, n_out : int
        The columns of the input, and of the outputs.
    loss : str
        By which outputs become labels and probabilities.
    dtype : numpy.dtype

    Raises
    ------
    RuntimeError
        If another thread trains the network.
    ValueError
        With `fold`, naming the parameter that would not be finite.

    Examples
    --------
    >>> import numpy as np
    >>> import fastnn as fnn
    >>> predictor = fnn.Sequential([fnn.Dense(2, 8), fnn.Tanh(), fnn.Dense(8, 3)], seed=0).predictor()
    >>> predictor.predict(np.zeros((1, 2), np.float32))
    array([0])
    """

    __slots__ = ("__weakref__", "_inference", "_layers", "dtype", "loss", "n_in", "n_out")

    _inference: Inference
    _layers: tuple[Layer, ...]
    dtype: np.dtype[Any]
    loss: str
    n_in: int
    n_out: int

    def __new__(cls, net: Sequential, *, fold: bool = False) -> Predictor:
        _check.instance(net, "net", Sequential, "a fastnn.Sequential")
        fold = _check.flag(fold, "fold")
        state = net._whole_state()
        layers, arrays = state["layers"], state["_state"]
        if fold:
            layers, arrays, _ = folded(_compiled(layers, arrays, net.loss, net.dtype).layers, net.dtype)
        return _frozen(cls, layers, arrays, net.loss, net.dtype)

    def predict(self, x: Array) -> Array:
        """As `Sequential.predict`.

        Parameters
        ----------
        x : ndarray (N, n_in) of float32, float64, an integer dtype or bool

        Returns
        -------
        ndarray
            Labels (N,) or (N, n_out), or outputs (N, n_out).

        Raises
        ------
        TypeError, ValueError
            Naming `x`.
        """
        return self._inference.labels(x)

    def predict_proba(self, x: Array) -> Array:
        """As `Sequential.predict_proba`.

        Parameters
        ----------
        x : ndarray (N, n_in)

        Returns
        -------
        ndarray (N, n_out) of the network's dtype

        Raises
        ------
        TypeError, ValueError
            Naming `x`; `loss`, where there are no probabilities.
        """
        return self._inference.probabilities(x)

    def outputs(self, x: Array) -> Array:
        """The outputs, as `Sequential.forward` gives them.

        Parameters
        ----------
        x : ndarray (N, n_in)

        Returns
        -------
        ndarray (N, n_out) of the network's dtype

        Raises
        ------
        TypeError, ValueError
            Naming `x`.
        """
        return self._inference.outputs(x)

    def __repr__(self) -> str:
        return f"Predictor([{', '.join(map(repr, self._layers))}], loss={self.loss!r}, dtype={self.dtype.name!r})"

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise _check.frozen(self, name)

    def __delattr__(self, name: str) -> NoReturn:
        raise _check.frozen(self, name)

    def __reduce__(self) -> tuple[Any, ...]:
        arrays = {f"{i}.{name}": a for i, layer in enumerate(self._layers) for name, a in _arrays(layer).items()}
        return _frozen, (type(self), [copy(layer) for layer in self._layers], arrays, self.loss, self.dtype)


def _arrays(layer: Layer) -> dict[str, Array]:
    return layer.parameters | layer.statistics


def _compiled(layers: Sequence[Layer], arrays: Mapping[str, Array], loss: str, dtype: np.dtype[Any]) -> Plan:
    """The plan of layers that are free so far, holding copies of these arrays."""
    plan = Plan(*connected(list(layers)), loss, dtype, Owner())
    plan.replace(arrays)
    return plan


def _frozen(
    kind: type[Predictor], layers: Sequence[Layer], arrays: Mapping[str, Array], loss: str, dtype: np.dtype[Any],
) -> Predictor:
    """A predictor of such layers; the dtype may come from a pickle."""
    plan = _compiled(layers, arrays, loss, _check.float_dtype(dtype))
    for layer in plan.layers:
        if isinstance(layer, Dense) and not isinstance(layer.init, str):
            layer.init = unknown_init   # which has done its work, and might not be picklable
        for a in _arrays(layer).values():
            a.flags.writeable = False
    memory: Any = plan.state
    while isinstance(memory, np.ndarray):
        # down to the one that has the memory: nobody can make its views writeable then
        memory.flags.writeable = False
        memory = memory.base
    predictor = object.__new__(kind)
    for name, value in {
        "_inference": plan.inference(), "_layers": plan.layers, "dtype": plan.dtype, "loss": loss, "n_in": plan.n_in,
        "n_out": plan.n_out,
    }.items():
        object.__setattr__(predictor, name, value)
    return predictor
