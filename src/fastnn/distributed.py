"""One training in several processes, each with rows of its own: data parallel, by MPI or what has the same few methods.

The gradient of a step is the mean over the rows of all processes, so that n of them with a share each of a batch take the
step that one takes with the whole batch. What goes over the wire is, for a step, the gradient, summed up in place, and with
synchronised batch norm for each layer the statistics forward and two sums backward. Statistics of parts are combined by Chan
et al. (1979, "Updating formulae and a pairwise algorithm for computing sample variances", eq. 1.5), as pairs of float64, in
the order of the ranks: all end with the same bits.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from fastnn import _check
from fastnn._kernels import engine
from fastnn.callbacks import Checkpoint, ProgressBar, Run, TensorBoard
from fastnn.errors import DivergedError
from fastnn.layers import BatchNorm
from fastnn.plan import FLOAT64, Workspace
from fastnn.threads import automatic, num_threads, usable_cores
from fastnn.training import History, Piece, seeded_by

if TYPE_CHECKING:
    from fastnn.network import Job, Sequential

__all__ = ["Communicator"]

Array = np.ndarray[Any, np.dtype[Any]]

WHAT = {number: name for name, number in engine.EXCHANGES.items()}
BUCKET = 1 << 18            # bytes of a weight's gradient that is sent as soon as it is there; smaller ones go together
ON_FIRST_RANK = (Checkpoint, ProgressBar, TensorBoard)


class Communicator(Protocol):
    """What `Sequential.fit` needs of ``comm``. A communicator of mpi4py has it; others can be written.

    Attributes
    ----------
    rank, size : int
        Which process this is, and how many there are.
    """

    rank: int
    size: int

    def sum(self, a: Array) -> None:
        """Add up an array over all processes, in place; all get the same bits.

        Parameters
        ----------
        a : ndarray of any shape, C-contiguous
        """

    def start_sum(self, a: Array) -> Callable[[], None]:
        """Begin to add up an array, as `sum` does.

        Parameters
        ----------
        a : ndarray of any shape, C-contiguous

        Returns
        -------
        callable
            Waits for the end.
        """

    def gather(self, value: Any) -> list[Any]:
        """The values of all processes, in the order of the ranks, for all of them.

        Parameters
        ----------
        value : object
            That can be pickled.

        Returns
        -------
        list
        """

    def gather_array(self, a: Array) -> Array:
        """The arrays of all processes, stacked in the order of the ranks, for all of them.

        Parameters
        ----------
        a : ndarray of any shape, the same on all ranks, C-contiguous

        Returns
        -------
        ndarray (size, ...)
        """

    def neighbours(self) -> int:
        """How many processes are on this machine.

        Returns
        -------
        int
        """

    def abort(self) -> None:
        """End all processes, with a status that is not zero."""


class Mpi:
    """A communicator of mpi4py.

    Parameters
    ----------
    comm : mpi4py.MPI.Comm
    """

    def __init__(self, comm: Any) -> None:
        from mpi4py import MPI
        self._comm, self._in_place, self._shared = comm, MPI.IN_PLACE, MPI.COMM_TYPE_SHARED
        self.rank, self.size = comm.Get_rank(), comm.Get_size()

    def sum(self, a: Array) -> None:
        self._comm.Allreduce(self._in_place, a)

    def start_sum(self, a: Array) -> Callable[[], None]:
        wait: Callable[[], None] = self._comm.Iallreduce(self._in_place, a).Wait
        return wait

    def gather(self, value: Any) -> list[Any]:
        values: list[Any] = self._comm.allgather(value)
        return values

    def gather_array(self, a: Array) -> Array:
        gathered = np.empty((self.size, *a.shape), a.dtype)
        self._comm.Allgather(a, gathered)
        return gathered

    def neighbours(self) -> int:
        here = self._comm.Split_type(self._shared)
        size: int = here.Get_size()
        here.Free()
        return size

    def abort(self) -> None:
        self._comm.Abort(1)


def communicator(comm: Any) -> Communicator:
    """`comm`, with the methods that are needed."""
    mpi = sys.modules.get("mpi4py.MPI")
    if mpi is not None and isinstance(comm, mpi.Comm):
        return Mpi(comm)
    methods = ("sum", "start_sum", "gather", "gather_array", "neighbours", "abort")
    if all(callable(getattr(comm, name, None)) for name in methods) and isinstance(getattr(comm, "size", None), int):
        found: Communicator = comm
        return found
    raise _check.wrong_kind(
        comm, "comm", "a communicator of mpi4py, such as MPI.COMM_WORLD, or a fastnn.distributed.Communicator")


class Exchange:
    """What the engine tells the other processes and hears from them, while it trains.

    Parameters
    ----------
    comm : Communicator
    net : Sequential
    synchronised : bool
        Whether batch norms have the statistics of all rows of a batch.
    """

    def __init__(self, comm: Communicator, net: Sequential, synchronised: bool) -> None:
        self._comm, self._plan = comm, net._plan
        norms = [layer for layer in net.layers if isinstance(layer, BatchNorm)]
        self.synchronised, self.first = synchronised and bool(norms), comm.rank == 0
        self._local_statistics = bool(norms) and not synchronised
        self.shared = np.zeros(3 * max([layer.num_features for layer in norms], default=1))
        self.error: BaseException | None = None
        self._waits: list[Callable[[], None]] = []
        self._sent: set[int] = set()
        # the weights stand first in the gradient, one behind the other
        self._weights: dict[int, tuple[int, int]] = {}
        start = 0
        for (i, name), a in self._plan.views(self._plan.gradients).items():
            if name == "weight":
                size = self._plan.size([a.shape])
                self._weights[i] = start, start + size
                start += size
        self.batch_weights: Array = np.zeros(0)
        self.batch_offsets: Array = np.zeros(0, np.intp)
        self.batch_rows: Array = np.zeros(0, np.intp)
        self._rows: Array = np.zeros((comm.size, 0), np.intp)
        self._epoch = self.batch_weights, self.batch_offsets, self.batch_rows, self._rows

    def begin_epoch(self, starts: Array, piece: Piece) -> None:
        """Tell how large the batches of an epoch are, and hear it; `piece` is its first."""
        rows, weights = np.diff(starts), None
        if piece.weights is not None:
            if piece.steps < len(rows):
                raise _check.not_with("comm", "no weights of rows that are read from files")
            of_rows = piece.weights if piece.orders is None else piece.weights[piece.orders[0]]
            weights = np.add.reduceat(of_rows, starts[:-1])
        of_all = self._comm.gather_array(rows)
        total = np.array(rows if weights is None else weights, np.float64)
        self._comm.sum(total)
        self._epoch = total, np.ascontiguousarray(of_all[:self._comm.rank].sum(axis=0)), of_all.sum(axis=0), of_all

    def from_step(self, first: int, n: int) -> Exchange:
        """The same for `n` steps of the epoch from `first` on."""
        part = slice(first, first + n)
        weights, offsets, rows, of_each = self._epoch
        self.batch_weights, self.batch_offsets, self.batch_rows = weights[part], offsets[part], rows[part]
        self._rows = of_each[:, part]
        return self

    def end_epoch(self) -> None:
        """Statistics that each process has of its own become the mean over all."""
        if self._local_statistics:
            self._comm.sum(self._plan.statistics)
            self._plan.statistics[...] /= self._comm.size

    def now(self, what: int, which: int, position: int) -> int:
        """Called by the engine. 1 is an error, but for "finite" 1 is finite, 0 is not, and -1 is an error."""
        name = WHAT[what]
        try:
            if name == "statistics":
                self._combine(which, self._rows[:, position])
            elif name == "sums":
                self._comm.sum(self.shared[:3 * int(self._workspace().ops[which]["width"])])
            elif name == "weight":
                self._send(which)
            elif name == "gradient":
                self._finish()
            else:
                flags = np.array([which], np.float64)
                self._comm.sum(flags)
                return int(flags[0] == self._comm.size)
        except BaseException as error:
            self.error = error
            return -1 if name == "finite" else 1
        return 0

    def _workspace(self) -> Workspace:
        workspace = self._plan._workspace
        assert workspace is not None
        return workspace

    def _combine(self, which: int, rows: Array) -> None:
        """Statistics of the rows of all from those of each (Chan et al. 1979)."""
        workspace = self._workspace()
        op = workspace.ops[which]
        width = int(op["width"])
        mean, rstd = (workspace.memory[int(op[name]):][:8 * width].view(np.float64) for name in ("mean", "rstd"))
        low, var = self.shared[:width], self.shared[width:2 * width]
        means, lows, variances = self._comm.gather_array(np.stack([mean, low, var])).transpose(1, 0, 2)
        n, of_each = rows.sum(), rows[:, None]
        with np.errstate(over="ignore", invalid="ignore"):      # the engine looks at what comes of it
            # as differences from the first process's mean, which cost no digits however large it is
            delta = (means - means[0]) + (lows - lows[0])
            shift = (of_each * delta).sum(axis=0) / n
            var[...] = (of_each * (variances + np.square(delta - shift))).sum(axis=0) / n
            rest = lows[0] + shift
            mean[...] = means[0] + rest
            low[...] = rest - (mean - means[0])
            rstd[...] = 1 / np.sqrt(var + op["eps"]) + (var - var)

    def _send(self, which: int) -> None:
        """The gradient of this layer's weight is complete: send it while the layers below are computed, if it is large."""
        start, end = self._weights[which]
        part = self._plan.gradients[start:end]
        if part.nbytes >= BUCKET:
            self._waits.append(self._comm.start_sum(part))
            self._sent.add(which)

    def _finish(self) -> None:
        """What has not been sent, in as few pieces as it lies in; then wait for all."""
        start = 0
        for which, (first, last) in self._weights.items():
            if which in self._sent:
                if first > start:
                    self._comm.sum(self._plan.gradients[start:first])
                start = last
        if start < self._plan.gradients.size:
            self._comm.sum(self._plan.gradients[start:])
        for wait in self._waits:
            wait()
        self._waits.clear()
        self._sent.clear()


class World:
    """The processes of one `fit`: what they agree on."""

    def __init__(self, comm: Communicator, exchange: Exchange) -> None:
        self.comm, self.exchange = comm, exchange

    def order(self, rng: np.random.Generator) -> np.random.Generator:
        """A generator of this rank's own, by one draw that all make."""
        return seeded_by(rng, (self.comm.rank,))

    def agree_to_stop(self, run: Run) -> bool:
        """If one process wants to stop, all do."""
        reasons = [reason for reason in self.comm.gather(run.stopped) if reason is not None]
        if reasons and run.stopped is None:
            run.stop(reasons[0])
        return bool(reasons)

    def record(self, record: dict[str, Any], weight: float, rows: int) -> None:
        """The record of an epoch over all rows."""
        sums = np.array([record["loss"] * weight, weight, rows])
        self.comm.sum(sums)
        record["loss"] = float(sums[0] / sums[1]) if sums[1] else 0.0
        record["rows_per_second"] = float(sums[2] / record["seconds"])

    def validation(self, values: dict[str, float], rows: int) -> dict[str, float]:
        """The means over all rows of what each has found for its own."""
        sums = np.array([value * rows for value in values.values()] + [rows], np.float64)
        self.comm.sum(sums)
        return {name: float(value / sums[-1]) for name, value in zip(values, sums, strict=False)}


def fit(net: Sequential, comm: Any, synchronised: Any, callbacks: Any, prepare: Callable[..., Job]) -> History:
    """`Sequential.fit` with others. `prepare` checks the arguments, given the callbacks and whether this is all, and gives the
    training.
    """
    world = communicator(comm)
    synchronised = _check.flag(synchronised, "sync_batchnorm")
    if world.size == 1:
        return net._fit(prepare(callbacks))
    if world.rank and isinstance(callbacks, list | tuple):
        callbacks = [callback for callback in callbacks if not isinstance(callback, ON_FIRST_RANK)]
    job = _together(world, lambda: _checked(net, synchronised, prepare(callbacks, alone=False)))
    _alike(world, net, job)
    has_norms = any(isinstance(layer, BatchNorm) for layer in net.layers)
    batches = _as_many_steps(world, job, 2 if has_norms and not synchronised else 1)
    job = replace(job, starts=batches, world=World(world, Exchange(world, net, synchronised)))
    cores = usable_cores() // world.neighbours()
    try:
        with num_threads(max(cores, 1) if automatic() else None):
            return net._fit(job)
    except DivergedError:       # which all have found
        raise
    except BaseException:
        traceback.print_exc()
        print(f"fastnn: rank {world.rank} of {world.size} ends the job", file=sys.stderr, flush=True)
        world.abort()
        raise


def _checked(net: Sequential, synchronised: bool, job: Job) -> Job:
    if synchronised and any(isinstance(layer, BatchNorm) and layer.virtual_batch_size for layer in net.layers):
        raise _check.not_with(
            "sync_batchnorm", "False with a BatchNorm(virtual_batch_size=...), whose groups are of one process, got True")
    return job


def _together(world: Communicator, prepare: Callable[[], Job]) -> Job:
    """The result, if no process has found its arguments wrong."""
    job, error = None, None
    try:
        job = prepare()
    except Exception as raised:
        error = raised
    errors = world.gather(None if error is None else f"{type(error).__name__}: {error}")
    if error is not None:
        raise error
    for rank, text in enumerate(errors):
        if text is not None:
            raise _check.of_other_rank(rank, text)
    assert job is not None
    return job


def _alike(world: Communicator, net: Sequential, job: Job) -> None:
    """All take the state of rank 0; what must be the same on all, is."""
    optimizer = job.run.optimizer
    own = {
        "the layers": [layer.config() for layer in net.layers], "loss": net.loss, "dtype": net.dtype.name,
        "optimizer": [type(optimizer).__name__, optimizer.config()], "epochs": job.run.epochs, "shuffle": job.shuffle,
        "the number of batch sizes": len(job.starts), "validation_data": job.validation is not None,
        "every of callbacks": sorted({callback.every for callback in job.calls.step}),
    }
    for rank, other in enumerate(world.gather(own)):
        for name, value in own.items():
            if other[name] != value:
                raise _check.unlike(name, value, rank, other[name])
    kept = ("_state", "_velocity", "_second_moment", "_average", "_rng", "_mask_key", "_step", "_epoch", "_trained")
    given = None
    if world.rank == 0:
        state = net.__getstate__()
        given = {name: state[name] for name in kept}, optimizer is net._optimizer, optimizer.state()
    state, going_on, learnt = world.gather(given)[0]
    if world.rank:
        net._plan.replace(state["_state"])
        for name in ("_velocity", "_second_moment", "_average"):
            a = state[name] if going_on else None
            dtype = FLOAT64 if name == "_average" else net.dtype
            setattr(net, name, None if a is None else net._plan.flat(a, dtype))
        for name in kept[4:]:
            setattr(net, name, state[name])
        net._optimizer = optimizer if going_on else None
        if learnt:
            optimizer.load_state(learnt)


def _as_many_steps(world: Communicator, job: Job, least: int) -> list[Array]:
    """The batches, as many on each process: one that has another number than the most cuts its rows evenly into as many, each
    of at least so many rows.
    """
    result = []
    for starts, steps in zip(job.starts, np.max(world.gather([len(starts) - 1 for starts in job.starts]), axis=0), strict=True):
        if len(starts) - 1 != steps:
            starts = np.linspace(0, job.run.rows, int(steps) + 1).astype(np.intp)
        result.append(starts)
    short = world.gather(min(int(np.diff(starts).min()) for starts in result))
    if min(short) < least:
        raise _check.too_few_rows(short.index(min(short)), least)
    return result
