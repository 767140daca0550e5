"""What surrounds a training step: batches and the history."""

from __future__ import annotations

import csv
import queue
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from os import PathLike
from typing import Any, NamedTuple, TypeVar

import numpy as np

from fastnn import _check

LAST_BATCH = ("merge", "drop", "keep")
PATIENCE = 0.05     # seconds between two looks for Ctrl-C while waiting for another thread

T = TypeVar("T")


class History:
    """The record of one `Sequential.fit`.

    Attributes
    ----------
    epochs : list of dict
        For each epoch ``epoch`` (counted from 1 over the life of the network), ``loss`` (the mean over its rows, each taken
        before the update by its batch), ``lr`` (of its last step), ``seconds`` and ``rows_per_second`` (of the training
        alone), with `fastnn.data.Shards` ``mb_per_second``, and, with validation data, ``val_loss`` and, for a cross-
        entropy, ``val_accuracy``. An epoch that a callback cut short is there, too.
    stopped : str or None
        Why training ended before its time, if a callback ended it.
    """

    def __init__(self) -> None:
        self.epochs: list[dict[str, Any]] = []
        self.stopped: str | None = None

    @property
    def loss(self) -> list[float]:
        """The mean loss of each epoch."""
        return [epoch["loss"] for epoch in self.epochs]

    def to_csv(self, path: str | PathLike[str]) -> None:
        """Write a line for each epoch, below one with the names.

        Parameters
        ----------
        path : str or os.PathLike

        Raises
        ------
        OSError
            If it cannot be written.
        """
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(dict.fromkeys(name for epoch in self.epochs for name in epoch)))
            writer.writeheader()
            writer.writerows(self.epochs)

    def to_frame(self) -> Any:
        """The epochs as a table.

        Returns
        -------
        pandas.DataFrame
            With a row for each epoch.

        Raises
        ------
        ImportError
            Without pandas.
        """
        try:
            import pandas
        except ImportError:
            raise _check.missing("to_frame", "pandas", "pandas") from None
        return pandas.DataFrame(self.epochs)

    def __repr__(self) -> str:
        last = f", {self.epochs[-1]}" if self.epochs else ""
        return f"History({len(self.epochs)} epochs{last})"


def batch_starts(n_rows: int, batch_size: int, last_batch: str) -> np.ndarray:
    """The first row of each batch of an epoch and, last, the row behind the last batch.

    A remainder is merged into the batch before it, dropped or kept as a smaller batch. Fewer rows than one batch are one
    batch, but for ``"drop"``, which leaves none.
    """
    n_rows = _check.integer(n_rows, "x", least=1)
    batch_size = _check.integer(batch_size, "batch_size", least=1)
    last_batch = _check.choice(last_batch, "last_batch", LAST_BATCH)
    whole, remainder = divmod(n_rows, batch_size)
    if last_batch == "drop":
        _check.at_most(batch_size, "batch_size", n_rows, "the rows of x, with last_batch='drop'")
    starts = np.arange(whole + 1, dtype=np.intp) * min(batch_size, n_rows)
    if remainder and last_batch != "drop":
        if last_batch == "keep" or not whole:
            starts = np.append(starts, n_rows)
        starts[-1] = n_rows
    return starts


def first_and_last(starts: np.ndarray) -> tuple[int, int]:
    """The rows of the first batch, which are those of all but the last, and of the last one."""
    return int(starts[1] - starts[0]), int(starts[-1] - starts[-2])


def chunks(n_rows: int, size: int) -> Iterator[tuple[int, int]]:
    """Consecutive runs of at most `size` rows."""
    for start in range(0, n_rows, size):
        yield start, min(start + size, n_rows)


class Source:
    """Rows that are not one array in memory: what `Sequential` asks of `fastnn.data.Shards`."""

    n_features: int
    dtype: np.dtype[Any]

    @property
    def nbytes(self) -> int:
        """Of all rows, without targets."""
        raise NotImplementedError

    def __len__(self) -> int:
        raise NotImplementedError

    def target_shape(self) -> tuple[tuple[int, ...], np.dtype[Any]] | None:
        """Of all targets, with their dtype; None where there are none."""
        raise NotImplementedError

    def label_counts(self, n_classes: int) -> np.ndarray:
        """How many rows each class has."""
        raise NotImplementedError

    def chunks(self, rows: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """All rows in order, at most `rows` at a time: x and y, in memory that is used again. Without targets y is x."""
        raise NotImplementedError

    def pieces(
        self, starts: np.ndarray, rng: np.random.Generator | None, weigh: Callable[[np.ndarray, np.ndarray], np.ndarray] | None,
        to_targets: Callable[[np.ndarray], np.ndarray],
    ) -> AbstractContextManager[Iterable[Piece]]:
        """The rows of an epoch, shuffled by `rng`; `weigh` gives the weights of rows by their numbers and targets."""
        raise NotImplementedError


class Piece(NamedTuple):
    """Rows of an epoch that are in memory together.

    Attributes
    ----------
    x : ndarray
    y : ndarray, optional
        None is for outputs alone.
    orders : ndarray (E, N) of intp, optional
        In which they are taken, in each of one or more epochs.
    weights : ndarray of float64, optional
        What each row of `x` counts.
    origin : int
        Rows of the epoch before these.
    steps : int
        Steps of the epochs that are taken when these rows have been.
    place : callable
        Where a row of `x` is, in the words of an error.
    """

    x: np.ndarray
    y: np.ndarray | None
    orders: np.ndarray | None
    weights: np.ndarray | None
    origin: int
    steps: int
    place: Callable[[int], str]

    def weight(self, first: int, last: int, epoch: int = 0) -> float:
        """What the rows from `first` to `last` in an epoch count together."""
        if self.weights is None:
            return last - first
        rows = slice(first - self.origin, last - self.origin)
        return float(self.weights[rows if self.orders is None else self.orders[epoch, rows]].sum())


def in_memory(
    x: np.ndarray, y: np.ndarray, weights: np.ndarray | None, starts: np.ndarray, rng: np.random.Generator | None,
    n_epochs: int,
) -> AbstractContextManager[Iterable[Piece]]:
    """Arrays as the one piece of some epochs, shuffled by `rng`."""
    orders = None if rng is None else drawn(rng, len(x), n_epochs)
    return nullcontext([Piece(x, y, orders, weights, 0, n_epochs * (len(starts) - 1), "row {}".format)])


def drawn(rng: np.random.Generator, n_rows: int, n_epochs: int) -> np.ndarray:
    """An order of the rows for each epoch (E, N). Those of the first epochs are the same, however many follow."""
    orders = np.empty((n_epochs, n_rows), np.intp)
    orders[...] = np.arange(n_rows)
    return rng.permuted(orders, axis=1, out=orders)


def seeded_by(rng: np.random.Generator, key: tuple[int, ...] = ()) -> np.random.Generator:
    """A generator of its own by one draw of another, and a key."""
    seed = np.random.SeedSequence(rng.integers(0, 1 << 32, 8).tolist(), spawn_key=key)
    return np.random.Generator(np.random.PCG64(seed))


def patient_get(items: queue.SimpleQueue[T]) -> T:
    """The next item, whenever another thread puts one; Ctrl-C is heard meanwhile."""
    while True:
        try:
            return items.get(timeout=PATIENCE)
        except queue.Empty:
            pass


def one_batch(x: np.ndarray, y: np.ndarray | None, weights: np.ndarray | None) -> Piece:
    """Arrays as one step."""
    return Piece(x, y, None, weights, 0, 1, "row {}".format)
