"""What surrounds a training step: batches and the history."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from os import PathLike
from typing import Any

import numpy as np

from fastnn import _check

LAST_BATCH = ("merge", "drop", "keep")


class History:
    """The record of one `Sequential.fit`.

    Attributes
    ----------
    epochs : list of dict
        For each epoch ``epoch`` (counted from 1 over the life of the network), ``loss`` (the mean over its rows, each taken
        before the update by its batch), ``lr`` (of its last step), ``seconds`` and ``rows_per_second`` (of the training alone)
        and, with validation data, ``val_loss`` and, for a cross-entropy, ``val_accuracy``. An epoch that a callback cut
        short is there, too.
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
