"""The team of worker threads.

A job is published as one 64-bit word: its sequence number, its count of tiles and the index of the next unclaimed one. A
thread claims a tile by raising the index with a compare-and-swap, so a claim on a job that has gone fails; the caller claims
too. A worker that the system has not scheduled holds no tile, so nobody waits for it; nobody waits at a barrier. Idle
workers spin for a moment, then sleep, each on a lock of its own. Threads and locks are CPython's, which every platform has;
the workers never touch a Python object.

After a fork the child has no workers: `forget`, and it starts new ones when it needs them.
"""

from libc.stdint cimport int64_t

import os

cdef extern from *:
    """
    #include "threads.h"
    static FASTNN_THREAD_LOCAL char fastnn_prepared;
    """
    char fastnn_prepared

cdef extern from "threads.h":
    int64_t fastnn_load(atomic* word) noexcept nogil
    void fastnn_store(atomic* word, int64_t value) noexcept nogil
    int64_t fastnn_add(atomic* word, int64_t value) noexcept nogil
    bint fastnn_swap(atomic* word, int64_t expected, int64_t value) noexcept nogil
    void fastnn_pause() noexcept nogil
    void fastnn_yield() noexcept nogil
    ctypedef struct fastnn_signals:
        pass
    void fastnn_hold_signals(fastnn_signals* before) noexcept nogil
    void fastnn_let_signals(const fastnn_signals* before) noexcept nogil

cdef extern from "pythread.h":
    ctypedef void* PyThread_type_lock
    unsigned long PYTHREAD_INVALID_THREAD_ID
    unsigned long PyThread_start_new_thread(void (*function)(void*) noexcept nogil, void* argument) noexcept nogil
    PyThread_type_lock PyThread_allocate_lock() noexcept nogil
    int PyThread_acquire_lock(PyThread_type_lock lock, int wait) noexcept nogil
    void PyThread_release_lock(PyThread_type_lock lock) noexcept nogil
    void PyThread_free_lock(PyThread_type_lock lock) noexcept nogil

cdef enum:
    COUNT_SHIFT = 16
    SEQUENCE_SHIFT = 32
    FIELD = 0xffff              # tiles of one job at most
    SPINS = 4000                # looks before a worker sleeps: some tens of microseconds
    PATIENCE = 2000             # looks before a waiting caller offers its processor to a worker
    AWAKE = 0
    ASLEEP = 1

cdef struct Worker:
    PyThread_type_lock lock     # held but for the moment of waking up
    atomic state

cdef struct Team:
    atomic word                 # the job: sequence, count, index
    atomic done                 # its finished tiles
    atomic owner                # 1 while a caller has the team
    atomic active               # callers between join and leave, with or without the team
    atomic allowed              # the workers that may claim: those numbered below
    tile_function function
    void* context
    Py_ssize_t n_workers
    Worker workers[MOST_THREADS]

cdef Team team
cdef memory_function prepare = NULL


cdef void prepare_by(memory_function function) noexcept:
    global prepare
    prepare = function


cdef bint prepared() noexcept nogil:
    global fastnn_prepared
    if fastnn_prepared == 0 and prepare != NULL and prepare():
        fastnn_prepared = 1
    return fastnn_prepared != 0


cdef bint claim(Py_ssize_t worker) noexcept nogil:
    # take the next tile of the job and run it
    cdef int64_t word = fastnn_load(&team.word)
    cdef int64_t index = word & FIELD
    cdef int64_t count = (word >> COUNT_SHIFT) & FIELD
    if index >= count or worker > fastnn_load(&team.allowed):
        return False
    if fastnn_swap(&team.word, word, word + 1):
        team.function(team.context, index, worker)
        fastnn_add(&team.done, 1)
    return True


cdef void work(void* number) noexcept nogil:
    cdef Py_ssize_t worker = <Py_ssize_t>number
    cdef Worker* me = &team.workers[worker]
    cdef Py_ssize_t spins = 0
    if not prepared():
        return
    while True:
        if claim(worker):
            spins = 0
        elif spins < SPINS:
            spins += 1
            fastnn_pause()
        else:
            # Who publishes looks at the state after the word: one of us sees the other. Who makes it AWAKE releases the lock, so
            # that a worker which finds it so takes the lock even if it need not wait: a lock is not to be released twice.
            fastnn_store(&me.state, ASLEEP)
            if not claim(worker) or not fastnn_swap(&me.state, ASLEEP, AWAKE):
                PyThread_acquire_lock(me.lock, 1)
            spins = 0


cdef void start(Py_ssize_t n) noexcept nogil:
    # As many workers as the system gives, up to n. They get no signals: one that the program has blocked in its own threads, to
    # wait for it, would end the process.
    cdef Py_ssize_t w
    cdef Worker* worker
    cdef fastnn_signals before
    cdef bint started
    while team.n_workers < n:
        w = team.n_workers + 1
        worker = &team.workers[w]
        worker.lock = PyThread_allocate_lock()
        if worker.lock == NULL:
            return
        PyThread_acquire_lock(worker.lock, 0)
        worker.state = AWAKE
        fastnn_hold_signals(&before)
        started = PyThread_start_new_thread(work, <void*>w) != PYTHREAD_INVALID_THREAD_ID
        fastnn_let_signals(&before)
        if not started:
            PyThread_free_lock(worker.lock)
            return
        team.n_workers = w


cdef Py_ssize_t join(Py_ssize_t n_threads) noexcept nogil:
    cdef Py_ssize_t others = fastnn_add(&team.active, 1) - 1
    n_threads = min(n_threads - others, MOST_THREADS - 1)
    if n_threads <= 1 or not fastnn_swap(&team.owner, 0, 1):
        return 1
    start(n_threads - 1)
    if team.n_workers == 0:
        fastnn_store(&team.owner, 0)
        return 1
    return min(n_threads, team.n_workers + 1)


cdef void leave(Py_ssize_t n_threads) noexcept nogil:
    if n_threads > 1:
        fastnn_store(&team.owner, 0)
    fastnn_add(&team.active, -1)


cdef void run(tile_function function, void* context, Py_ssize_t n_tiles, Py_ssize_t n_threads) noexcept nogil:
    cdef Py_ssize_t tile, spins = 0, w
    cdef int64_t sequence
    if n_threads <= 1 or n_tiles <= 1 or n_tiles > FIELD:
        for tile in range(n_tiles):
            function(context, tile, 0)
        return
    # every tile of the job before is done, so nobody reads these
    team.function = function
    team.context = context
    fastnn_store(&team.done, 0)
    fastnn_store(&team.allowed, min(n_threads, n_tiles) - 1)
    sequence = (fastnn_load(&team.word) >> SEQUENCE_SHIFT) + 1
    fastnn_store(&team.word, ((sequence & 0x7fffffff) << SEQUENCE_SHIFT) | (n_tiles << COUNT_SHIFT))
    for w in range(1, min(n_threads, n_tiles)):
        if fastnn_swap(&team.workers[w].state, ASLEEP, AWAKE):
            PyThread_release_lock(team.workers[w].lock)
    while claim(0):
        pass
    while fastnn_load(&team.done) < n_tiles:
        spins += 1
        if spins < PATIENCE:
            fastnn_pause()
        else:
            fastnn_yield()


cdef void share(tile_function function, Call* call, Py_ssize_t total, Py_ssize_t n_threads) noexcept nogil:
    cdef Py_ssize_t got = join(n_threads) if n_threads > 1 else 1
    run(function, call, (total + call.panel - 1) // call.panel, got)
    if n_threads > 1:
        leave(got)


cdef Py_ssize_t part(Py_ssize_t total, Py_ssize_t unit, Py_ssize_t most, Py_ssize_t n_threads) noexcept nogil:
    cdef Py_ssize_t size = total
    if n_threads > 1:
        size = (total + 2 * n_threads - 1) // (2 * n_threads)
    return min((size + unit - 1) // unit * unit, most)


def forget():
    """In a forked child: the workers are the parent's, and so is whatever they were at."""
    team.word = 0
    team.done = 0
    team.owner = 0
    team.active = 0
    team.n_workers = 0


def n_workers():
    """The worker threads that have been started."""
    return team.n_workers


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=forget)
