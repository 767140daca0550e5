# One team of worker threads for the process. A job is a number of tiles; whoever is free claims the next one.
from libc.stdint cimport int64_t

cdef extern from "threads.h":
    ctypedef int64_t atomic "fastnn_atomic"
    double seconds "fastnn_seconds"() noexcept nogil

ctypedef void (*tile_function)(void* context, Py_ssize_t tile, Py_ssize_t worker) noexcept nogil

cdef enum:
    MOST_THREADS = 256

# What the tiles of a kernel that Python calls share: its arrays, sizes and numbers, in the order of its arguments.
cdef struct Call:
    void* arrays[10]
    Py_ssize_t sizes[4]
    double numbers[6]
    Py_ssize_t panel            # of a tile: columns, or elements

# The calling thread wants up to n_threads threads, itself included, until `leave`: how many it can have. 1 where another
# caller has the team; then, and with one tile, `run` does everything by itself.
cdef Py_ssize_t join(Py_ssize_t n_threads) noexcept nogil
cdef void leave(Py_ssize_t n_threads) noexcept nogil

# Memory that each thread needs before it computes: whoever allocates it says how, and `prepared` is whether the calling thread
# has it. A worker that cannot have it takes no tiles.
ctypedef bint (*memory_function)() noexcept nogil
cdef void prepare_by(memory_function function) noexcept
cdef bint prepared() noexcept nogil

# Run function(context, tile, worker) for every tile, in any order, by any of n_threads threads; returns when all are done.
# `worker` numbers the threads of a job from 0.
cdef void run(tile_function function, void* context, Py_ssize_t n_tiles, Py_ssize_t n_threads) noexcept nogil

# the same with the team joined for this one job, where there is more than one thread to have
cdef void share(tile_function function, Call* call, Py_ssize_t total, Py_ssize_t n_threads) noexcept nogil

# columns (or rows, or elements) of a tile: two tiles for each thread, whole units, no more than `most`
cdef Py_ssize_t part(Py_ssize_t total, Py_ssize_t unit, Py_ssize_t most, Py_ssize_t n_threads) noexcept nogil
