"""How many threads fastnn works with."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from fastnn import _check

MOST = 255          # threads of the team
VARIABLE = "FASTNN_NUM_THREADS"

_here: ContextVar[int | None] = ContextVar("fastnn_num_threads", default=None)


def _from_environment() -> int | None:
    text = os.environ.get(VARIABLE, "").strip()
    if text.lower() in ("", "auto"):
        return None
    return _check.thread_count(text, VARIABLE, MOST)


_everywhere = _from_environment()


def set_num_threads(n: int | None) -> None:
    """Work with up to `n` threads from now on, in the whole process.

    Results do not depend on it: they are the same to the last bit for every number of threads.

    Parameters
    ----------
    n : int or None
        From 1 to 255. None is the automatic choice that fastnn starts with: as many as there are processors for this process,
        and fewer where training was measured to be faster with one.

    Raises
    ------
    TypeError, ValueError
        Naming `n`.
    """
    global _everywhere
    _everywhere = _number(n)


def get_num_threads() -> int:
    """The most threads that a call made here may work with.

    Returns
    -------
    int
    """
    return _chosen() or usable_cores()


@contextmanager
def num_threads(n: int | None) -> Iterator[None]:
    """``with fastnn.num_threads(n):`` works with up to `n` threads inside, in this Python thread (or task) only.

    Parameters
    ----------
    n : int or None
        As for `set_num_threads`.

    Returns
    -------
    context manager

    Raises
    ------
    TypeError, ValueError
        Naming `n`.
    """
    number, before = _number(n) or 0, _here.get()
    try:
        # in here, as Ctrl-C may strike when this call returns
        _here.set(number)
        yield
    finally:
        _here.set(before)


def threads_for(work: int, enough: int) -> int:
    """The threads for one call of a kernel: one, if it has less than `enough` to do."""
    return 1 if work < enough else get_num_threads()


def automatic() -> bool:
    """Whether nobody has set a number."""
    return not _chosen()


def usable_cores() -> int:
    """The processors that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return min(len(os.sched_getaffinity(0)), MOST)
    return min(os.cpu_count() or 1, MOST)


def _chosen() -> int | None:
    here = _here.get()
    return _everywhere if here is None else here


def _number(n: int | None) -> int | None:
    if n is None:
        return None
    return _check.at_most(_check.integer(n, "n", least=1), "n", MOST, "the most threads there can be")
