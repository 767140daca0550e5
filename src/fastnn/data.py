"""Data larger than memory: rows in files that are read ahead of the training, and what makes such files of other formats.

`Shards` goes where `Sequential.fit`, `evaluate` and `predict` take an array. Rows are read by windows into memory that is used
again and again, and converted batch by batch as those of an array are.

**The shuffle.** Files are cut into blocks of consecutive rows, 64 to a window. For each epoch the blocks are put into a new
order, each window takes the next 64 of them, and its rows are shuffled: reading is by blocks (1 MB by default), and a batch
has rows of up to 64 places of the data. With N rows, windows of W and batches of b, two rows of different blocks meet in a
batch as often as in a full shuffle; two rows of one block meet with probability (b - 1) / (W - 1) instead of (b - 1) / (N -
1). If a block has rows of one class only, the share p of a class in a window has a standard deviation of sqrt(p (1 - p) /
64): shuffle such data once before they are written.
"""

from __future__ import annotations

import _thread
import gzip
import os
import queue
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from os import PathLike
from typing import Any, NamedTuple

import numpy as np

from fastnn import _check
from fastnn.training import Piece, Source, chunks, first_and_last, patient_get, seeded_by

__all__ = ["Shards", "from_csv", "from_parquet", "read_idx"]

Array = np.ndarray[Any, np.dtype[Any]]
Path = str | PathLike[str]

BLOCKS = 64                 # of a window
IDLE = 1.0                  # seconds that one waits at most for the reader to end
PIECE_BYTES = 1 << 22       # that are read at a time, between two looks whether they are still wanted


@dataclass(frozen=True)
class File:
    """An .npy file of rows: where they begin and what they are."""

    path: str
    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def row_bytes(self) -> int:
        return self.dtype.itemsize * int(np.prod(self.shape[1:], dtype=np.int64))

    def read(self, first: int, into: Array, wanted: Callable[[], bool] = lambda: True) -> None:
        """Rows from `first` on; OSError where the file has become shorter."""
        view = into.view(np.uint8).reshape(-1).data
        with open(self.path, "rb", buffering=0) as file:
            file.seek(self.offset + first * self.row_bytes)
            while len(view) and wanted():
                count = file.readinto(view[:PIECE_BYTES])
                if not count:
                    raise _check.shorter(self.path, first, first + len(into) - 1, self.shape[0])
                view = view[count:]


class Block(NamedTuple):
    """Consecutive rows of one file."""

    file: int
    first: int
    rows: int


class Shards(Source):
    """Rows in one or more ``.npy`` files, as one array that is never in memory as a whole.

    Parameters
    ----------
    x : str, path, or sequence of them
        A folder, whose files are ``x-*.npy`` and ``y-*.npy`` in the order of their names; or files of arrays (N, I) of one
        width and dtype (float32, float64, an integer dtype or bool, in C order).
    y : str, path, or sequence of them, optional
        For files: those with the targets, file for file with as many rows: labels (N,) of an integer dtype, or (N, K). None is
        for `Sequential.predict`.
    window : int
        Bytes of rows that are in memory at a time, about; twice that is allocated. A larger window shuffles better.

    Attributes
    ----------
    n_features : int
    dtype : numpy.dtype
        Of the rows.
    nbytes : int
        Of all rows, without targets.

    Raises
    ------
    TypeError, ValueError
        Naming the argument and the file: none there, other widths, dtypes or rows, shorter than its header says.
    OSError
        If a file cannot be read.

    Examples
    --------
    >>> import tempfile, numpy as np, fastnn as fnn
    >>> from fastnn.data import Shards
    >>> rng = np.random.default_rng(0)
    >>> x = rng.integers(0, 256, (1000, 20), dtype=np.uint8)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     shards = Shards.write(folder, x, x[:, 0] // 64, rows=300)
    ...     net = fnn.Sequential([fnn.BatchNorm(20), fnn.Dense(20, 4)], seed=0)
    ...     history = net.fit(shards, epochs=2)
    ...     labels = net.predict(shards)
    >>> shards, labels.shape
    (Shards(4 files, 1000 rows of 20 uint8), (1000,))
    """

    def __init__(self, x: Path | Sequence[Path], y: Path | Sequence[Path] | None = None, *, window: int = 1 << 26) -> None:
        self._window = _check.integer(window, "window", least=1)
        if isinstance(x, str | PathLike) and os.path.isdir(x):
            if y is not None:
                raise _check.wrong_kind(y, "y", "None beside a folder, which has both")
            names = sorted(os.listdir(x))
            x, y = ([os.path.join(x, name) for name in names if name.startswith(kind) and name.endswith(".npy")]
                    for kind in ("x-", "y-"))
            y = y or None
        self.files = _files(x, "x")
        self.targets = None if y is None else _files(y, "y")
        _alike(self.files, "x", 2)
        if self.targets is not None:
            _alike(self.targets, "y", len(self.targets[0].shape))
            if len(self.targets) != len(self.files):
                raise _check.other_number(len(self.targets), "y", len(self.files), "files, as x")
            for file, target in zip(self.files, self.targets, strict=True):
                if target.shape[0] != file.shape[0]:
                    raise _check.other_number(target.shape[0], f"y: {target.path}", file.shape[0], f"rows, as {file.path}")
        self._ends = np.cumsum([file.shape[0] for file in self.files])
        self.n_features, self.dtype = self.files[0].shape[1], self.files[0].dtype

    @classmethod
    def write(cls, folder: Path, x: Array, y: Array | None = None, *, rows: int = 65536, window: int = 1 << 26) -> Shards:
        """Write an array as shards into a folder, and open them.

        Parameters
        ----------
        folder : str or path
            Made if it is not there; it must have no shards yet.
        x : ndarray (N, I), or a memory-mapped one
        y : ndarray (N,) or (N, K), optional
        rows : int
            Of a file.
        window : int
            As for `Shards`.

        Returns
        -------
        Shards

        Raises
        ------
        TypeError, ValueError
            Naming the argument.
        FileExistsError
            If the folder has shards.
        OSError
            If a file cannot be written.
        """
        x = np.asanyarray(x)
        if x.ndim != 2 or not len(x):
            raise _check.wrong_shape(x, "x", "(N, I), N >= 1")
        if y is not None and len(y := np.asanyarray(y)) != len(x):
            raise _check.other_number(len(y), "y", len(x), "rows, as x")
        rows = _check.integer(rows, "rows", least=1)
        _write(folder, ((x[i:end], None if y is None else y[i:end]) for i, end in chunks(len(x), rows)))
        return cls(folder, window=window)

    def __len__(self) -> int:
        return int(self._ends[-1])

    @property
    def nbytes(self) -> int:
        """Of all rows, without targets."""
        return len(self) * self.files[0].row_bytes

    def __repr__(self) -> str:
        files = f"{len(self.files)} file{'s' if len(self.files) > 1 else ''}"
        return f"Shards({files}, {len(self)} rows of {self.n_features} {self.dtype})"

    # ---- for `Sequential`

    def _place(self, ids: Array, at: int) -> str:
        row = int(ids[at])
        file = int(np.searchsorted(self._ends, row, side="right"))
        return f"row {row - (self._ends[file] - self.files[file].shape[0])} of {self.files[file].path}"

    def target_shape(self) -> tuple[tuple[int, ...], np.dtype[Any]] | None:
        if self.targets is None:
            return None
        return (len(self), *self.targets[0].shape[1:]), self.targets[0].dtype

    def label_counts(self, n_classes: int) -> Array:
        counts = np.zeros(n_classes, np.int64)
        for _, y in self.chunks(1 << 16, only_targets=True):
            inside = y[(y >= 0) & (y < n_classes)]      # what is outside is an error when it is trained on
            counts += np.bincount(inside, minlength=n_classes)
        return counts

    def chunks(self, rows: int, *, only_targets: bool = False) -> Iterator[tuple[Array, Array]]:
        for window in self._read_ahead(self._blocks(self._window_rows()), 0, only_targets):
            for i, end in chunks(window.rows, rows):
                yield window.x[i:end], window.y[i:end] if window.y is not None else window.x[i:end]

    def pieces(
        self, starts: Array, rng: np.random.Generator | None, weigh: Callable[[Array, Array], Array] | None,
        to_targets: Callable[[Array], Array],
    ) -> AbstractContextManager[Iterable[Piece]]:
        blocks = self._blocks(max(self._window_rows() // BLOCKS, 1))
        if rng is not None:
            # one draw for the whole epoch, however many windows it has
            rng = seeded_by(rng)
            blocks = [blocks[i] for i in rng.permutation(len(blocks))]
        ahead = self._read_ahead(blocks, max(first_and_last(starts)))
        return _Closing(ahead, self._pieces(ahead, starts, rng, weigh, to_targets))

    def _pieces(
        self, ahead: ReadAhead, starts: Array, rng: np.random.Generator | None,
        weigh: Callable[[Array, Array], Array] | None, to_targets: Callable[[Array], Array],
    ) -> Iterator[Piece]:
        # window by window; the rows of a batch that only the next window completes are moved to its front
        origin = carried = 0
        tail: tuple[Array, Array, Array] | None = None
        for window in ahead:
            x, y, ids = window.behind(carried, tail)
            orders = None
            if rng is not None:
                orders = np.concatenate([np.arange(carried), carried + rng.permutation(window.rows)])[None]
            steps = int(np.searchsorted(starts, origin + len(x), side="right")) - 1
            used = int(starts[steps]) - origin
            targets = to_targets(y)
            yield Piece(x, targets, orders, None if weigh is None else weigh(ids, targets), origin, steps,
                        partial(self._place, ids))
            rest = slice(used, len(x)) if orders is None else orders[0, used:]
            tail = x[rest].copy(), y[rest].copy(), ids[rest].copy()
            origin, carried = origin + used, len(tail[0])

    def _read_ahead(self, blocks: Sequence[Block], room: int, only_targets: bool = False) -> ReadAhead:
        """The blocks, as many at a time as a window holds; each window with room for so many rows before its own."""
        of_window: list[list[Block]] = [[]]
        rows, most = 0, max(self._window_rows(), max(block.rows for block in blocks))
        for block in blocks:
            if rows + block.rows > most:
                of_window.append([])
                rows = 0
            of_window[-1].append(block)
            rows += block.rows
        return ReadAhead(of_window, [Window(self, room, most, only_targets) for _ in of_window[:2]])

    def _window_rows(self) -> int:
        return min(max(self._window // self.files[0].row_bytes, 1), len(self))

    def _blocks(self, rows: int) -> list[Block]:
        return [
            Block(i, first, min(rows, file.shape[0] - first))
            for i, file in enumerate(self.files) for first in range(0, file.shape[0], rows)]


class Window:
    """Memory for some blocks: x and y of `rows` rows, and before them room for rows carried over from another window."""

    def __init__(self, shards: Shards, room: int, rows: int, only_targets: bool) -> None:
        self._shards, self._room, self.rows = shards, room, 0
        self._x = np.empty((0 if only_targets else room + rows, shards.n_features), shards.dtype)
        target = None if shards.targets is None else shards.targets[0]
        self._y = None if target is None else np.empty((room + rows, *target.shape[1:]), target.dtype)
        self.ids = np.empty(room + rows, np.int64)

    def fill(self, blocks: Sequence[Block], wanted: Callable[[], bool]) -> None:
        self.rows, shards = 0, self._shards
        for i, first, rows in blocks:
            at = slice(self._room + self.rows, self._room + self.rows + rows)
            if len(self._x):
                shards.files[i].read(first, self._x[at], wanted)
            if self._y is not None and shards.targets is not None:
                shards.targets[i].read(first, self._y[at], wanted)
            begins = int(shards._ends[i]) - shards.files[i].shape[0] + first
            self.ids[at] = np.arange(begins, begins + rows)
            self.rows += rows

    @property
    def x(self) -> Array:
        return self._x[self._room:self._room + self.rows]

    @property
    def y(self) -> Array | None:
        return None if self._y is None else self._y[self._room:self._room + self.rows]

    def behind(self, carried: int, tail: tuple[Array, Array, Array] | None) -> tuple[Array, Array, Array]:
        """x, y and the numbers of the rows, with those of another window before them."""
        assert self._y is not None
        at = slice(self._room - carried, self._room + self.rows)
        parts = self._x[at], self._y[at], self.ids[at]
        if tail is not None:
            for part, rest in zip(parts, tail, strict=True):
                part[:carried] = rest
        return parts


class ReadAhead:
    """Windows of rows, one after the other; a thread reads the next one while this one is used.

    Where nobody holds this any more, the thread ends as it does by `close`. That is no ``__del__`` and no generator's
    ``finally``: what a signal's handler raised in those would be lost.
    """

    def __init__(self, of_window: Sequence[Sequence[Block]], windows: Iterable[Window]) -> None:
        self._free = free = queue.SimpleQueue[Window | None | weakref.ref[ReadAhead]]()
        self._ready = ready = queue.SimpleQueue[Window | BaseException]()
        self._closed = closed = list[bool]()
        self._working = working = _thread.allocate_lock()   # held while the thread works
        self._count = len(of_window)
        held = weakref.ref(self, free.put)

        def work() -> None:
            try:
                for blocks in of_window:
                    window = free.get()
                    if not isinstance(window, Window):
                        return
                    window.fill(blocks, lambda: held() is not None and not closed)
                    ready.put(window)
            except BaseException as error:      # for the thread that trains
                ready.put(error)
            finally:
                working.release()

        for window in windows:
            free.put(window)
        working.acquire()
        # in one call: Ctrl-C within those of `threading` can leave its locks as they should not be
        _thread.start_new_thread(work, ())

    def __iter__(self) -> Iterator[Window]:
        for _ in range(self._count):
            window = patient_get(self._ready)
            if isinstance(window, BaseException):
                raise window
            yield window
            self._free.put(window)

    def close(self) -> None:
        """End the thread, and wait a moment for it."""
        self._closed.append(True)
        self._free.put(None)
        self._working.acquire(timeout=IDLE)


class _Closing(AbstractContextManager[Iterable[Piece]]):
    """The pieces that are made of what is read ahead, and the end of its thread."""

    def __init__(self, ahead: ReadAhead, pieces: Iterable[Piece]) -> None:
        self._ahead, self._pieces = ahead, pieces

    def __enter__(self) -> Iterable[Piece]:
        return self._pieces

    def __exit__(self, *error: object) -> None:
        self._ahead.close()


def _files(paths: Any, name: str) -> list[File]:
    """The files that `paths` names, by their headers."""
    if isinstance(paths, str | bytes | PathLike):
        paths = [paths]
    paths = [_check.path(path, name) for path in paths]
    if not paths:
        raise _check.no_files(name)
    return [_header(path, name) for path in paths]


def _header(path: str, name: str) -> File:
    with open(path, "rb") as file:
        try:
            read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
            shape, fortran, dtype = read[np.lib.format.read_magic(file)](file)
        except (KeyError, ValueError) as error:
            raise _check.no_array_file(name, path, str(error)) from None
        offset, size = file.tell(), os.fstat(file.fileno()).st_size
    if dtype.kind not in "fiub" or (dtype.kind == "f" and dtype.itemsize not in (4, 8)):
        raise _check.no_array_file(name, path, f"its dtype is {dtype}")
    if not 1 <= len(shape) <= 2 or 0 in shape or (fortran and len(shape) > 1 and 1 not in shape):
        raise _check.no_array_file(name, path, f"its shape is {shape}{', in Fortran order' if fortran else ''}")
    found = File(path, offset, shape, dtype)
    if size < offset + shape[0] * found.row_bytes:
        raise _check.no_array_file(name, path, f"it has {size} bytes of {offset + shape[0] * found.row_bytes}")
    return found


def _alike(files: Sequence[File], name: str, n_dimensions: int) -> None:
    first = files[0]
    for file in files:
        if len(file.shape) != n_dimensions or file.shape[1:] != first.shape[1:] or file.dtype != first.dtype:
            rows = "(N, I)" if n_dimensions == 2 else "(N,)"
            like = "" if file is first else f" like those of {first.path}, {first.shape[1:]} of {first.dtype}"
            raise _check.no_array_file(
                name, file.path, f"it has shape {file.shape} and dtype {file.dtype}", f"rows {rows}{like}")


def _write(folder: Path, blocks: Iterable[tuple[Array, Array | None]]) -> None:
    """A file of x, and of y, for each block; each appears as a whole."""
    os.makedirs(folder, exist_ok=True)
    if any(name.startswith(("x-", "y-")) and name.endswith(".npy") for name in os.listdir(folder)):
        raise FileExistsError(f"folder: {os.fspath(folder)} has shards already; give an empty one")
    for i, block in enumerate(blocks):
        for kind, a in zip("xy", block, strict=True):
            if a is None:
                continue
            handle, temporary = tempfile.mkstemp(dir=folder, suffix=".part")
            try:
                with os.fdopen(handle, "wb") as file:
                    np.save(file, np.ascontiguousarray(a), allow_pickle=False)
                os.chmod(temporary, 0o644)
                os.replace(temporary, os.path.join(folder, f"{kind}-{i:05d}.npy"))
            except BaseException:
                os.unlink(temporary)
                raise


# ---------------------------------------------------------------------------------------------------- other formats

IDX = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def read_idx(path: Path) -> Array:
    """An array from an IDX file, the format of MNIST, compressed by gzip or not.

    Parameters
    ----------
    path : str or path

    Returns
    -------
    ndarray
        Of the file's shape and dtype, in the native byte order.

    Raises
    ------
    TypeError, ValueError
        If it is no IDX file, or its size is not what its header says.
    OSError
        If it cannot be read.
    """
    name = _check.path(path, "path")
    with open(name, "rb") as raw:
        packed = raw.read(2) == b"\x1f\x8b"
    try:
        with gzip.open(name, "rb") if packed else open(name, "rb") as file:
            magic = file.read(4)
            if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in IDX or not magic[3]:
                raise _check.no_array_file("path", name, "it does not begin as one", "an IDX file")
            dtype = np.dtype(IDX[magic[2]])
            sizes = file.read(4 * magic[3])
            shape = np.frombuffer(sizes[:len(sizes) // 4 * 4], ">u4").astype(np.int64)
            size = int(np.prod(shape.astype(object))) * dtype.itemsize
            # (a header that lies must not make us ask for memory)
            data = bytearray()
            while len(data) <= size and (part := file.read(min(size + 1 - len(data), PIECE_BYTES))):
                data += part
    except EOFError as error:
        raise _check.no_array_file("path", name, str(error), "a whole IDX file") from None
    if len(shape) != magic[3] or len(data) != size:
        raise _check.no_array_file(
            "path", name, f"its header has shape {tuple(shape.tolist())}, {size} bytes", "a whole IDX file")
    return np.frombuffer(data, dtype).reshape(shape).astype(dtype.newbyteorder("="), copy=False)


def from_csv(
    path: Path, folder: Path, *, target: str | Sequence[str] | None = None, rows: int = 65536, dtype: Any = "float32",
    **options: Any,
) -> Shards:
    """Convert a CSV file, some rows at a time, into shards. Needs pandas.

    Parameters
    ----------
    path : str or path
        Whatever ``pandas.read_csv`` takes, compressed files and addresses among them.
    folder : str or path
        Of the shards; made if it is not there.
    target : str or sequence of str, optional
        The column, or columns, that are y: one of integers becomes labels (N,), others targets (N, K). All other columns are x.
    rows : int
        Of a file.
    dtype : dtype of x
    **options
        For ``pandas.read_csv``, such as ``sep`` and ``usecols``.

    Returns
    -------
    Shards

    Raises
    ------
    TypeError, ValueError
        Naming the argument, or the column that has no numbers or is not there.
    ImportError
        Without pandas.
    """
    try:
        import pandas
    except ImportError:
        raise _check.missing("from_csv", "pandas", "pandas") from None
    rows = _check.integer(rows, "rows", least=1)
    with pandas.read_csv(path, chunksize=rows, **options) as chunks:
        _write(folder, (_columns(chunk, target, np.dtype(dtype)) for chunk in chunks))
    return Shards(folder)


def from_parquet(
    path: Path, folder: Path, *, target: str | Sequence[str] | None = None, rows: int = 65536, dtype: Any = "float32",
) -> Shards:
    """Convert a Parquet file, some rows at a time, into shards. Needs pyarrow and pandas.

    Parameters
    ----------
    path : str or path
    folder, target, rows, dtype
        As for `from_csv`.

    Returns
    -------
    Shards

    Raises
    ------
    TypeError, ValueError
        Naming the argument, or the column that has no numbers or is not there.
    ImportError
        Without pyarrow.
    """
    try:
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise _check.missing("from_parquet", "pyarrow", "parquet") from None
    rows = _check.integer(rows, "rows", least=1)
    with ParquetFile(path) as file:
        batches = file.iter_batches(batch_size=rows)
        _write(folder, (_columns(batch.to_pandas(), target, np.dtype(dtype)) for batch in batches if batch.num_rows))
    return Shards(folder)


def _columns(frame: Any, target: str | Sequence[str] | None, dtype: np.dtype[Any]) -> tuple[Array, Array | None]:
    """x and y of a data frame."""
    targets = [] if target is None else [target] if isinstance(target, str) else list(target)
    for name in targets:
        if name not in frame.columns:
            raise _check.no_column("target", name, list(frame.columns))
    for name in frame.columns:
        if frame[name].dtype.kind not in "fiub" or (name in targets and frame[name].isna().any()):
            raise _check.no_numbers(name, str(frame[name].dtype))
    x = frame.drop(columns=targets).to_numpy(dtype)
    if not targets:
        return x, None
    y = frame[targets].to_numpy()
    return x, y[:, 0] if isinstance(target, str) and y.dtype.kind in "iu" else y.astype(np.float64)
