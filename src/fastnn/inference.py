"""Evaluation: what a network answers for rows of any kind."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastnn import _check
from fastnn._kernels import engine
from fastnn.threads import threads_for
from fastnn.training import Source, chunks

Array = np.ndarray

OUTPUTS, PROBABILITIES, LABELS = (engine.WANTED[name] for name in ("outputs", "probabilities", "labels"))

EVALUATION_ROWS = 4096      # that are taken from files, or have their outputs kept, at a time
ROWS = 128                  # that one thread takes through the whole network at a time
# Multiplications from which on more than one thread is considered: some tens of microseconds.
SHARED_WORK = 1_000_000
WORK = 1 << 30              # multiplications of one thread between two looks for Ctrl-C: some hundredths of a second
ELEMENT_WORK = 32           # of these take as long as an activation of one number


class Inference:
    """What a network makes of rows in evaluation mode, by its arrays as they are just then.

    It has no buffers of the network's, so that any number of threads may call it at once.

    Parameters
    ----------
    ops, blocks : ndarray
        What `fastnn.plan` compiles the network to, for one row.
    state : ndarray
        The memory of all its parameters and statistics, which this keeps.
    n_in, n_out, n_weights : int
    loss : str
    """

    __slots__ = ("_engine", "_loss", "_n_in", "_n_weights", "_rows", "_slot")

    def __init__(self, ops: Array, blocks: Array, state: Array, n_in: int, n_out: int, n_weights: int, loss: str) -> None:
        longest = max(int(ops["ldx"][0]), int(ops["ldp"].max()))
        work = n_weights + ELEMENT_WORK * int(ops["width"].sum())
        self._n_in, self._n_weights, self._loss = n_in, n_weights, loss
        self._slot = 2 * ROWS * longest * state.itemsize
        self._rows = ROWS * max(1, WORK // (ROWS * work))
        self._engine = engine.Inference(
            ops, blocks, state, state.dtype, n_in, n_out, engine.LOSSES[loss], n_weights, longest, ROWS, SHARED_WORK)

    def outputs(self, x: Any) -> Array:
        """The outputs (N, K)."""
        return self._answer(x, OUTPUTS)

    def labels(self, x: Any) -> Array:
        """What `Sequential.predict` gives."""
        return self._answer(x, OUTPUTS if self._loss == "mean_squared_error" else LABELS)

    def probabilities(self, x: Any) -> Array:
        """What `Sequential.predict_proba` gives."""
        if self._loss == "mean_squared_error":
            raise _check.no_probabilities(self._loss)
        return self._answer(x, PROBABILITIES)

    def _answer(self, x: Any, wanted: int) -> Array:
        result: Array | None = self._engine.quick(x, wanted)
        if result is not None:
            return result
        if isinstance(x, Source):
            result, at = self._engine.room(len(x), wanted), 0
            for rows, _ in x.chunks(EVALUATION_ROWS):
                result[at:at + len(rows)] = self._of_any(_check.rows(rows, "x", self._n_in), wanted)
                at += len(rows)
            return result
        return self._of_any(_check.rows(x, "x", self._n_in), wanted)

    def _of_any(self, x: Array, wanted: int) -> Array:
        result: Array = self._engine.room(len(x), wanted)
        n_threads = threads_for(len(x) * self._n_weights, SHARED_WORK)
        memory = np.empty((min(n_threads, -(-len(x) // ROWS)), self._slot), np.uint8)
        # some rows at a time, so that Ctrl-C is heard
        for start, end in chunks(len(x), n_threads * self._rows):
            self._engine.rows(x[start:end], result[start:end], memory, wanted, ROWS, n_threads)
        return result
