"""Many networks side by side, each on a thread of its own."""

from __future__ import annotations

import _thread
import contextvars
import queue
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from fastnn import _check
from fastnn.callbacks import Callback, Run
from fastnn.errors import DivergedError
from fastnn.network import Job, Sequential
from fastnn.optimizers import Optimizer
from fastnn.schedules import Schedule
from fastnn.threads import get_num_threads, num_threads
from fastnn.training import History, Source, patient_get

MOMENT = 0.001      # seconds between two looks whether threads have ended


class _Stop(Callback):
    """Ends a training between two steps when something has ended them all."""

    _sees_epochs = False

    def __init__(self, ended: list[bool]) -> None:
        self._ended = ended

    def on_tick(self, run: Run) -> None:
        if self._ended:
            run.stop("the training of all was ended")


def fit_many(
    nets: Sequence[Sequential], x: np.ndarray | Source, y: np.ndarray | None = None, *,
    optimizers: Sequence[Optimizer] | Optimizer | None = None, epochs: int = 1, batch_size: int | Schedule = 32,
    validation_data: tuple[np.ndarray, np.ndarray] | Source | None = None, shuffle: bool = True,
    callbacks: Callable[[int], Sequence[Any]] | None = None, last_batch: str = "merge", sample_weight: np.ndarray | None = None,
    class_weight: Mapping[int, float] | np.ndarray | str | None = None, check_finite: bool = True,
) -> list[History]:
    """Train many networks on the same data, side by side on all cores.

    Each ends with the bits that ``net.fit`` alone would have given it: its seed draws the order of its rows and its masks,
    whatever the others do. They may differ in everything but the width of the rows. The largest begin first, and a thread that
    is done takes the next one.

    Parameters
    ----------
    nets : sequence of Sequential
        Each once.
    x : ndarray (N, I) or Shards
        As for `Sequential.fit`; all networks read the same memory.
    y : ndarray (N,) or (N, K)
        As for `Sequential.fit`, for the loss of each.
    optimizers : sequence of SGD, Adam or AdamW, or one of them, optional
        One for each network. A single one is for all, unless its learning rate depends on how it goes
        (`schedules.ReduceOnPlateau`). None goes on with the one that each has had.
    epochs, batch_size, validation_data, shuffle, last_batch, sample_weight, class_weight, check_finite
        As for `Sequential.fit`.
    callbacks : callable, optional
        Given the number of a network, the list of its callbacks: ``lambda i: [EarlyStopping()]``. They are called in the thread
        that trains it.

    Returns
    -------
    list of History
        One for each network. If its training has diverged, its ``History.stopped`` says so, and it keeps its last finite
        state; the others go on.

    Raises
    ------
    TypeError, ValueError
        Naming the argument (and in a note the network), before anything has changed; but for a number in `x` or `y` that is
        not finite.
    RuntimeError
        If a network is busy training in another thread.

    Notes
    -----
    Any other error, of a callback or in the data, ends all of them between two steps and is raised, with a note which network
    it was; so does Ctrl-C. As many threads work as `get_num_threads` says, each with one network.

    Examples
    --------
    >>> import numpy as np, fastnn as fnn
    >>> rng = np.random.default_rng(0)
    >>> x = rng.standard_normal((256, 8)); y = (x[:, 0] > 0).astype(int)
    >>> nets = [fnn.Sequential([fnn.Dense(8, 16), fnn.ReLU(), fnn.Dense(16, 2)], seed=seed) for seed in range(4)]
    >>> histories = fnn.fit_many(nets, x, y, optimizers=[fnn.SGD(lr) for lr in (0.01, 0.03, 0.1, 0.3)], epochs=5)
    >>> best = min(range(4), key=lambda i: histories[i].loss[-1])
    """
    nets, given = list(nets), _optimizers(optimizers, len(nets))
    if callbacks is not None and not callable(callbacks):
        raise _check.wrong_kind(callbacks, "callbacks", "a function that gives the callbacks of a network by its number")
    ended: list[bool] = []      # (Ctrl-C can leave an Event, or a Thread, locked)
    jobs = []
    for i, net in enumerate(nets):
        _check.instance(net, f"nets[{i}]", Sequential, "a fastnn.Sequential")
        if any(net is other for other in nets[:i]):
            raise _check.twice(f"nets[{i}]")
        if net._holder:
            raise _check.busy()
        try:
            called = [*(callbacks(i) if callbacks else ()), _Stop(ended)]
            jobs.append(net._prepared(
                x, y, epochs, batch_size, given[i], validation_data, shuffle, called, None, last_batch, sample_weight,
                class_weight, check_finite))
        except Exception as error:
            error.add_note(f"for nets[{i}]")
            raise
    waiting = sorted(range(len(nets)), key=lambda i: nets[i].n_parameters)      # the last one is the next
    n_workers = max(min(get_num_threads(), len(nets)), 1)
    each = max(get_num_threads() // n_workers, 1)
    errors: list[BaseException] = []
    done: queue.SimpleQueue[None] = queue.SimpleQueue()
    working: list[None] = []

    def take_the_next() -> None:
        while not ended:
            try:
                i = waiting.pop()
            except IndexError:
                return
            _train(i, nets[i], jobs[i], errors, ended)

    def work() -> None:
        # before the look at `ended`: either this thread sees that, or who has ended it sees this
        working.append(None)
        try:
            with num_threads(each):
                take_the_next()
        finally:
            working.pop()
            done.put(None)

    # No `while` in the `try`: from CPython 3.12 on no `finally` sees what a signal raises at its end.
    try:
        for _ in range(n_workers):
            # what the caller has set for its context holds in the threads, too
            _thread.start_new_thread(contextvars.copy_context().run, (work,))
        for _ in range(n_workers):
            patient_get(done)
    finally:
        ended.append(True)
        while working:
            time.sleep(MOMENT)
    if errors:
        raise errors[0]
    return [job.run.history for job in jobs]


def _train(i: int, net: Sequential, job: Job, errors: list[BaseException], ended: list[bool]) -> None:
    try:
        net._fit_alone(job)
    except DivergedError as error:
        job.run.history.stopped = str(error)
    except BaseException as error:      # for the thread that called
        error.add_note(f"in nets[{i}]")
        errors.append(error)
        ended.append(True)


def _optimizers(optimizers: Any, n: int) -> list[Any]:
    if optimizers is None:
        return [None] * n
    if isinstance(optimizers, Optimizer):
        if n > 1 and optimizers.state():
            raise _check.not_shared("optimizers")
        return [optimizers] * n
    _check.instance(optimizers, "optimizers", list | tuple, "one for each network, or one for all")
    if len(optimizers) != n:
        raise _check.other_number(len(optimizers), "optimizers", n, "of them, one for each network")
    for i, optimizer in enumerate(optimizers):
        if isinstance(optimizer, Optimizer) and optimizer.state() and any(optimizer is other for other in optimizers[:i]):
            raise _check.not_shared(f"optimizers[{i}]")
    return list(optimizers)
