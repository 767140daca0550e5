"""Training and inference of a whole network without the GIL.

A network is a plan: rows of numbers, one for each operation and one for each block. A block is a dense layer and the
operations up to the next one; what stands before the first dense layer is a block without one. Everything in a block but
its product is local to a feature, so that its forward pass runs panel by panel of features: product, batch norm and
activation while the panel is in the cache. The backward pass of a dense layer runs by panels of its inputs, which are
features of the block below: the gradient of the panel, back through the operations of that block, and then the gradient of
the panel's rows of the weight, used up by the update block by block. A panel's results do not depend on where it begins
or ends, so the panels may suit the number of threads without changing a bit.

A step is a sequence of phases, each a number of tiles for the team: gather the rows, forward by block, loss by rows,
backward by block.

Where the rows of a batch are spread over several processes (`Exchange`), the gradients of all are added up before the update, which
needs the whole gradient; and a phase ends at a batch norm, forward after its statistics and backward after its sums, so that
those of the others come in.
"""

from cpython.buffer cimport PyBUF_C_CONTIGUOUS, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cython cimport floating
from libc.math cimport isfinite, sqrt
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from numpy import dtype, empty, intp, ndarray

from fastnn._kernels.activation cimport (
    SIGMOID as SIGMOID_ACTIVATION, backward_tile as activation_backward, forward_tile as activation_forward,
)
from fastnn._kernels.adam cimport adam_tile, correct
from fastnn._kernels.batchnorm cimport (
    COLUMNS, backward_from_sums, backward_groups as batchnorm_backward, backward_sums, forward_groups as batchnorm_forward,
    inference_tile as batchnorm_inference, normalise_tile, statistics_tile,
)
from fastnn._kernels.dense cimport column_sums
from fastnn._kernels.dropout cimport mask_tile, scale_tile
from fastnn._kernels.elementary cimport compensated
from fastnn._kernels.gemm cimport BLOCK_BYTES, block_memory, gemm, has_blas, own_memory, vector_size
from fastnn._kernels.loss cimport add, elementwise_tile, label_tile, softmax_probability_tile, softmax_tile
from fastnn._kernels.rows cimport DOUBLE, FLOAT, Source, describe, expect_row, take_row
from fastnn._kernels.sgd cimport LANES, average_tile, squares_tile, update_tile
from fastnn._kernels.simd cimport extents, simd_void
from fastnn._kernels.team cimport join, leave, run, seconds

cdef enum:
    DENSE, BATCHNORM, ACTIVATION, DROPOUT
    SOFTMAX, SIGMOID, SQUARED_ERROR
    # what is wanted of evaluation
    OUTPUTS, PROBABILITIES, LABELS
    GATHER, FORWARD, LOSS, OPERATIONS, BACKWARD, UPDATE, AVERAGE, INFER
    # how a run ended; OUT_OF_TIME means: look for Ctrl-C and go on. From NOT_FINITE_LOSS on the step must be undone.
    DONE, OUT_OF_TIME, NOT_FINITE_X, BAD_LABEL, NOT_FINITE_Y, FAILED, NOT_FINITE_LOSS, NOT_FINITE_GRADIENT, NOT_FINITE_STATE
    # what processes tell each other: a batch norm's statistics and sums, the gradient of a block's weight, what is left of the
    # gradient, whether a state is finite
    STATISTICS, SUMS, WEIGHT, GRADIENT, FINITE

    L2_BYTES = 131072           # of a panel of activations, which several operations pass over
    WEIGHT_BYTES = 262144       # of the weights of a panel that is read and updated, where the batch is small
    LOSS_NUMBERS = 8192         # logits of one tile
    FLAT = 65536                # numbers of one tile of a flat update
    EXPECTED = 4                # rows that are asked for ahead
    SNAPSHOT_STEPS = 256        # between two copies of the state to go back to
    HELD_WORK = 131072          # multiplications, some microseconds, up to which letting go of the GIL takes longer than it gives

cdef object FLOAT32 = dtype("float32")
cdef object FLOAT64 = dtype("float64")

cdef struct Op:
    int64_t kind, width, n_in, x, ldx, y, ldy, first, second, ldp, running_mean, running_var, mean, rstd, group, ddof
    int64_t mask, activation, layer
    double eps, momentum, p

cdef struct Block:
    int64_t begin, end, dense, width, d, ldd, has_gradient

cdef struct Run:
    # the plan
    const Op* ops
    const Block* blocks
    Py_ssize_t n_blocks, n_in, n_out
    int loss_kind
    char* memory                # buffers; where the plan has an offset, it is from here
    int64_t labels, targets, ldt, partials
    # the state and what goes beside it: these are differences in bytes from a parameter
    char* parameters
    Py_ssize_t n_weights, n_parameters
    Py_ssize_t to_velocity, to_second, to_gradient
    bint has_velocity, has_second, fused, updates, moves_statistics
    # the running average of the parameters and a copy of it to go back to, or NULL; and how the next step enters it
    double* average
    double* average_snapshot
    double average_rate
    # a copy of the rest to go back to: parameters, statistics, velocity, second moment
    char* statistics
    Py_ssize_t n_statistics
    char* snapshot
    # the data
    Source x, y
    const Py_ssize_t* order
    const double* weights       # of the rows, or NULL
    double weight               # of the batch: the sum of its rows', or their number
    Py_ssize_t n_order, start, n
    # the optimiser: with a second moment it is Adam, the velocity its first moment, and the momentum its beta1
    double lr, momentum, weight_decay, clip_norm, beta2, eps, rate, least
    bint nesterov, decays_all, eps_hat, decoupled
    # the dropout
    uint64_t key, step
    # the phase
    int phase
    Py_ssize_t block, panel, n_threads
    Py_ssize_t widths_n, widths_threads
    Py_ssize_t* widths          # of the panels of each block, forward and backward, for so many rows and threads
    double scale
    int64_t* bad                # for each gathered row, what is wrong with it
    # inference
    int wanted
    char* out
    Py_ssize_t slot
    # other processes with rows of the batch: what Python exchanges with them, or NULL; the weight of each batch over all, the
    # rows of it that others have before these, its rows over all, its number; and what a batch norm is to be told
    void* exchange
    const double* batch_weights
    const Py_ssize_t* batch_offsets
    const Py_ssize_t* batch_rows
    Py_ssize_t position
    double* shared              # three rows of numbers for the features of a batch norm
    bint synchronised, first_rank
    # the operations of the block that a phase has, and whether it has only half of the first or last one, a batch norm
    Py_ssize_t ops_block, op_begin, op_end
    bint half_begin, half_end
    # where the time goes: for each thread four places for each operation, then gather and loss; NULL unless asked for
    double* profile
    Py_ssize_t n_places


cdef inline Py_ssize_t divide_up(Py_ssize_t a, Py_ssize_t b) noexcept nogil:
    return (a + b - 1) // b


cdef inline floating* at(const floating* any, const Run* r, int64_t offset) noexcept nogil:
    return <floating*>(r.memory + offset)


cdef inline double clock(const Run* r) noexcept nogil:
    return seconds() if r.profile != NULL else 0


cdef inline void spent(Run* r, Py_ssize_t worker, Py_ssize_t place, double since) noexcept nogil:
    if r.profile != NULL:
        r.profile[worker * r.n_places + place] += seconds() - since


cdef Py_ssize_t panel_width(const floating* any, const Run* r, Py_ssize_t total, Py_ssize_t row_bytes) noexcept nogil:
    # features of a tile. Their activations stay in the second-level cache, and so do the weights that a tile reads twice; with
    # several threads there is more than one tile for each, if it is worth it.
    cdef Py_ssize_t unit = 2 * vector_size(any), size = sizeof(floating)
    cdef Py_ssize_t width = max(L2_BYTES // (r.n * size), 2 * unit)
    if row_bytes and r.n < 64:
        width = min(width, max(WEIGHT_BYTES // row_bytes, 2 * unit))
    elif r.n >= 64:
        width = max(width, 64 * unit)
    if r.n_threads > 1 or has_blas():
        # a library may round by where a panel begins: then all numbers of threads have the same panels
        width = min(width, max(divide_up(total, 4 if has_blas() else 2 * r.n_threads), 2 * unit))
    width = divide_up(total, divide_up(total, width))
    return divide_up(width, unit) * unit


cdef void find_widths(const floating* any, Run* r) noexcept nogil:
    cdef const Op* op
    cdef Py_ssize_t b
    if r.widths_n == r.n and r.widths_threads == r.n_threads:
        return
    r.widths_n = r.n
    r.widths_threads = r.n_threads
    for b in range(r.n_blocks):
        op = &r.ops[r.blocks[b].begin]
        r.widths[2 * b] = panel_width(any, r, r.blocks[b].width, 0)
        if r.blocks[b].dense:
            r.widths[2 * b + 1] = panel_width(any, r, op.n_in, op.ldp * sizeof(floating))


# ---------------------------------------------------------------------------------------------------------- one tile

cdef void gather(const floating* any, Run* r, Py_ssize_t first, Py_ssize_t last) noexcept nogil:
    # rows first to last of the batch, and what they should give
    cdef const Op* op = r.ops
    cdef Py_ssize_t i, row, column
    cdef int64_t label
    for i in range(first, last):
        row = r.order[r.start + i] if r.order != NULL else r.start + i
        if r.order != NULL and r.start + i + EXPECTED < r.n_order:
            # the rows to come may lie anywhere
            expect_row(&r.x, r.order[r.start + i + EXPECTED], r.n_in)
            if r.y.base != NULL:
                expect_row(&r.y, r.order[r.start + i + EXPECTED], 1)
        column = take_row(&r.x, row, r.n_in, at(any, r, op.x) + i * op.ldx)
        r.bad[2 * i] = column
        r.bad[2 * i + 1] = -1
        if r.y.base == NULL:
            continue
        if r.loss_kind == SOFTMAX:
            # checked and contiguous before the run, but another thread may have written them since
            label = (<const Py_ssize_t*>r.y.base)[row]
            if <uint64_t>label >= <uint64_t>r.n_out:
                r.bad[2 * i + 1] = 0
                label = 0
            (<Py_ssize_t*>(r.memory + r.labels))[i] = label
        else:
            r.bad[2 * i + 1] = take_row(&r.y, row, r.n_out, at(any, r, r.targets) + i * r.ldt)


cdef void forward(const floating* any, Run* r, Py_ssize_t worker, Py_ssize_t j, Py_ssize_t end) noexcept nogil:
    # columns j to end of the block
    cdef const Block* block = &r.blocks[r.block]
    cdef const Op* op
    cdef Py_ssize_t o, q, k, d
    cdef floating* x
    cdef floating* y
    cdef floating* running_mean
    cdef floating* running_var
    cdef double* mean
    cdef double* rstd
    cdef double since, rows
    for o in range(r.op_begin, r.op_end):
        op = &r.ops[o]
        since = clock(r)
        y = at(any, r, op.y) + j
        x = at(any, r, op.x) + (0 if op.kind == DENSE else j)
        d = min(end, op.width) - j
        if op.kind == DENSE:
            # the columns that fill up a row are zero and stay so
            gemm(r.n, min(end, op.ldp) - j, op.n_in, x, op.ldx, 1, <floating*>op.first + j, op.ldp, 1,
                 <floating*>op.second + j if op.second else NULL, y, op.ldy)
        elif op.kind == BATCHNORM:
            for q in range(divide_up(d, COLUMNS)):
                k = q * COLUMNS
                running_mean = <floating*>op.running_mean + j + k if r.moves_statistics else NULL
                running_var = <floating*>op.running_var + j + k if r.moves_statistics else NULL
                mean = <double*>(r.memory + op.mean) + j + k
                rstd = <double*>(r.memory + op.rstd) + j + k
                if r.half_end and o == r.op_end - 1:
                    statistics_tile(
                        x + k, r.n, min(d - k, COLUMNS), op.ldx, op.eps, mean, r.shared + j + k, r.shared + op.width + j + k, rstd)
                elif r.half_begin and o == r.op_begin:
                    rows = r.batch_rows[r.position]
                    normalise_tile(
                        x + k, r.n, min(d - k, COLUMNS), op.ldx, <floating*>op.first + j + k, <floating*>op.second + j + k,
                        op.momentum, rows / (rows - op.ddof), mean, r.shared + j + k, r.shared + op.width + j + k, rstd,
                        running_mean, running_var, y + k, op.ldy)
                else:
                    batchnorm_forward(
                        x + k, r.n, op.group, min(d - k, COLUMNS), op.ldx, <floating*>op.first + j + k,
                        <floating*>op.second + j + k, op.eps, op.momentum, op.ddof, running_mean, running_var, y + k, op.ldy,
                        mean, rstd, op.width)
        elif op.kind == ACTIVATION:
            if d > 0:
                activation_forward(x, op.ldx, r.n, d, <int>op.activation, y, op.ldy)
        elif d > 0:
            mask_tile(r.key, r.step, <uint32_t>op.layer, op.p, r.batch_offsets[r.position] if r.exchange != NULL else 0, r.n, j, d,
                      at(any, r, op.mask) + j, op.ldy)
            scale_tile(x, op.ldx, at(any, r, op.mask) + j, op.ldy, r.n, d, y, op.ldy)
        spent(r, worker, 4 * o, since)


cdef inline double row_weight(const Run* r, Py_ssize_t i) noexcept nogil:
    return r.weights[r.order[r.start + i] if r.order != NULL else r.start + i]


cdef inline void loss_tile(
    const floating* any, const Run* r, const floating* z, Py_ssize_t ldz, const Py_ssize_t* labels, const floating* t, Py_ssize_t n,
    double scale, floating* d, Py_ssize_t ldd, double* total,
) noexcept nogil:
    if r.loss_kind == SOFTMAX:
        softmax_tile(z, ldz, n, r.n_out, labels, scale, d, ldd, total)
    else:
        elementwise_tile(r.loss_kind == SIGMOID, z, ldz, t, r.ldt, n, r.n_out, scale, d, ldd, total)


cdef void loss(const floating* any, Run* r, Py_ssize_t tile, Py_ssize_t first, Py_ssize_t last) noexcept nogil:
    # rows first to last; their sum goes to the place of the tile
    cdef const Block* block = &r.blocks[r.n_blocks - 1]
    cdef const Op* op = &r.ops[block.end - 1]
    cdef double* total = <double*>(r.memory + r.partials) + 2 * tile
    cdef floating* z = at(any, r, op.y) + first * op.ldy
    cdef floating* d = at(any, r, block.d) + first * block.ldd
    cdef floating* t = at(any, r, r.targets) + first * r.ldt
    cdef Py_ssize_t* labels = <Py_ssize_t*>(r.memory + r.labels) + first
    cdef Py_ssize_t i, n = last - first
    cdef double[2] of_row
    cdef double weight
    total[0] = total[1] = 0
    if r.weights == NULL:
        loss_tile(any, r, z, op.ldy, labels, t, n, r.scale, d, block.ldd, total)
        return
    # row by row, each with a scale of its own; a row of weight 0 is as if it were not there
    for i in range(n):
        weight = row_weight(r, first + i)
        if weight == 0:
            memset(d + i * block.ldd, 0, r.n_out * sizeof(floating))
            continue
        of_row[0] = of_row[1] = 0
        loss_tile(any, r, z + i * op.ldy, op.ldy, labels + i, t + i * r.ldt, 1, weight * r.scale, d + i * block.ldd, block.ldd, of_row)
        add(total, weight * of_row[0])
        total[1] += weight * of_row[1]


cdef void step_down(
    const floating* any, Run* r, const floating* factors, const floating* grad, Py_ssize_t ldg, Py_ssize_t n, Py_ssize_t d,
    bint decays, floating* param, Py_ssize_t ldp,
) noexcept nogil:
    # the update of a block of parameters by its gradient
    cdef floating* velocity = <floating*>(<char*>param + r.to_velocity) if r.has_velocity else NULL
    cdef double decay = r.weight_decay if decays or r.decays_all else 0
    if not r.has_second:
        update_tile(factors, grad, ldg, n, d, <floating>r.lr, <floating>r.momentum, r.nesterov, <floating>decay, velocity,
                    param, ldp)
    else:
        adam_tile(factors, grad, ldg, n, d, <floating>r.rate, <floating>r.momentum, <floating>r.beta2, <floating>r.least,
                  <floating>(0 if r.decoupled else decay), <floating>(r.lr * decay if r.decoupled else 0), velocity,
                  <floating*>(<char*>param + r.to_second), param, ldp)


cdef void backward_ops(
    const floating* any, Run* r, Py_ssize_t worker, const Block* block, Py_ssize_t j, Py_ssize_t end,
) noexcept nogil:
    # the gradient of columns j to end, back to the block's product; and of what the operations have for each column
    cdef floating row[2 * COLUMNS]
    cdef floating* dgamma
    cdef floating* dbeta
    cdef floating* d = at(any, r, block.d) + j
    cdef double column[2 * COLUMNS]
    cdef double* shared
    cdef const Op* op
    cdef Py_ssize_t o, k, q, w, i
    cdef double since
    for o in range(r.op_end - 1, r.op_begin - 1, -1):
        op = &r.ops[o]
        since = clock(r)
        w = min(end, op.width) - j
        if w <= 0:
            continue
        if op.kind == ACTIVATION:
            activation_backward(d, block.ldd, at(any, r, op.y) + j, op.ldy, r.n, w, <int>op.activation, d, block.ldd)
        elif op.kind == DROPOUT:
            scale_tile(d, block.ldd, at(any, r, op.mask) + j, op.ldy, r.n, w, d, block.ldd)
        else:
            # a bias or gamma and beta: their gradients are used up at once, unless they are wanted
            for q in range(divide_up(w, COLUMNS)):
                k = q * COLUMNS
                dgamma = row
                dbeta = row + COLUMNS
                if not r.fused:
                    dgamma = <floating*>(<char*>op.first + r.to_gradient) + j + k
                    dbeta = <floating*>(<char*>op.second + r.to_gradient) + j + k
                if r.half_begin and o == r.op_begin:
                    shared = r.shared + j + k
                    backward_sums(
                        d + k, block.ldd, at(any, r, op.x) + j + k, r.n, min(w - k, COLUMNS), op.ldx,
                        <double*>(r.memory + op.mean) + j + k, shared, shared + op.width, shared + 2 * op.width)
                    continue
                if r.half_end and o == r.op_end - 1:
                    shared = r.shared + j + k
                    backward_from_sums(
                        d + k, block.ldd, at(any, r, op.x) + j + k, r.n, min(w - k, COLUMNS), op.ldx,
                        <floating*>op.first + j + k, <double*>(r.memory + op.mean) + j + k, <double*>(r.memory + op.rstd) + j + k,
                        1.0 / r.batch_rows[r.position], shared, shared + op.width, shared + 2 * op.width, d + k, block.ldd,
                        column, column + COLUMNS)
                    for i in range(min(w - k, COLUMNS)):
                        # they are those of all rows already, and count once
                        dgamma[i] = <floating>column[i] if r.first_rank else 0
                        dbeta[i] = <floating>column[COLUMNS + i] if r.first_rank else 0
                elif op.kind == BATCHNORM:
                    batchnorm_backward(
                        d + k, block.ldd, at(any, r, op.x) + j + k, r.n, op.group, min(w - k, COLUMNS), op.ldx,
                        <floating*>op.first + j + k, <double*>(r.memory + op.mean) + j + k, <double*>(r.memory + op.rstd) + j + k,
                        op.width, d + k, block.ldd, dgamma, dbeta)
                elif op.second and r.fused and r.n == 1:
                    dbeta = d + k
                elif op.second:
                    column_sums(d + k, r.n, min(w - k, COLUMNS), block.ldd, dbeta)
                if r.fused and op.kind == BATCHNORM:
                    step_down(any, r, NULL, dgamma, COLUMNS, 1, min(w - k, COLUMNS), False, <floating*>op.first + j + k, COLUMNS)
                if r.fused and op.second:
                    step_down(any, r, NULL, dbeta, COLUMNS, 1, min(w - k, COLUMNS), False, <floating*>op.second + j + k, COLUMNS)
        spent(r, worker, 4 * o + 1, since)


cdef void backward(const floating* any, Run* r, Py_ssize_t worker, Py_ssize_t i, Py_ssize_t end) noexcept nogil:
    # rows i to end of the weight of the block, which are features of the block below
    cdef const Block* block = &r.blocks[r.block]
    cdef const Block* below = block - 1
    cdef const Op* op = &r.ops[block.begin]
    cdef floating* d = at(any, r, block.d)
    cdef floating* weight = <floating*>op.first + i * op.ldp
    cdef floating* grad
    cdef Py_ssize_t rows, columns, first, j, w, size = sizeof(floating)
    cdef double since = clock(r)

    end = min(end, op.n_in)
    if r.block > 0 and below.has_gradient:
        # dx = dz weight^T
        gemm(r.n, end - i, op.width, d, block.ldd, 1, weight, 1, op.ldp, <floating*>NULL, at(any, r, below.d) + i, below.ldd)
        spent(r, worker, 4 * block.begin + 1, since)
        backward_ops(any, r, worker, below, i, end)
    # dweight = x^T dz, by blocks that stay in the cache until they have been used up
    if not r.fused:
        since = clock(r)
        gemm(end - i, op.ldp, r.n, at(any, r, op.x) + i, 1, op.ldx, d, block.ldd, 1, <floating*>NULL,
             <floating*>(<char*>weight + r.to_gradient), op.ldp)
        spent(r, worker, 4 * block.begin + 2, since)
        return
    if r.n == 1:
        # the gradient is the outer product of two rows
        since = clock(r)
        if op.ldp == 1:
            step_down(any, r, d, at(any, r, op.x) + i, 0, 1, end - i, True, weight, end - i)
        else:
            step_down(any, r, at(any, r, op.x) + i, d, 0, end - i, op.ldp, True, weight, op.ldp)
        spent(r, worker, 4 * block.begin + 3, since)
        return
    grad = <floating*>block_memory()
    columns = op.ldp
    rows = end - i
    if columns * rows * size > BLOCK_BYTES:
        columns = min(op.ldp, 256)
        rows = BLOCK_BYTES // size // columns
    first = i
    while first < end:
        w = min(rows, end - first)
        j = 0
        while j < op.ldp:
            since = clock(r)
            gemm(w, min(columns, op.ldp - j), r.n, at(any, r, op.x) + first, 1, op.ldx, d + j, block.ldd, 1, <floating*>NULL,
                 grad, min(columns, op.ldp - j))
            spent(r, worker, 4 * block.begin + 2, since)
            since = clock(r)
            step_down(any, r, NULL, grad, min(columns, op.ldp - j), w, min(columns, op.ldp - j), True,
                      <floating*>op.first + first * op.ldp + j, op.ldp)
            spent(r, worker, 4 * block.begin + 3, since)
            j += columns
        first += w


cdef void update_flat(const floating* any, Run* r, Py_ssize_t first, Py_ssize_t last) noexcept nogil:
    # numbers first to last of the flat parameters; weights come first
    cdef floating* p = <floating*>r.parameters
    cdef floating* g = <floating*>(r.parameters + r.to_gradient)
    cdef Py_ssize_t split = min(max(r.n_weights, first), last)
    if split > first:
        step_down(any, r, NULL, g + first, FLAT, 1, split - first, True, p + first, FLAT)
    if last > split:
        step_down(any, r, NULL, g + split, FLAT, 1, last - split, False, p + split, FLAT)


cdef void infer(const floating* any, Run* r, Py_ssize_t worker, Py_ssize_t first, Py_ssize_t last) noexcept nogil:
    # the outputs of rows first to last in evaluation mode; the buffers are the thread's own
    cdef const Op* op
    cdef char* memory = r.memory + worker * r.slot
    cdef floating* x = <floating*>memory
    cdef floating* y
    cdef Py_ssize_t n = last - first, ldx = r.ops[0].ldx, b, i, o, q, j, k = 0
    for i in range(n):
        take_row(&r.x, first + i, r.n_in, x + i * ldx)
    for b in range(r.n_blocks):
        for o in range(r.blocks[b].begin, r.blocks[b].end):
            op = &r.ops[o]
            if op.kind == DENSE:
                k = 1 - k
                y = <floating*>(memory + k * (r.slot // 2))
                gemm(n, op.ldp, op.n_in, x, ldx, 1, <floating*>op.first, op.ldp, 1, <floating*>op.second, y, op.ldp)
                x = y
                ldx = op.ldp
            elif op.kind == BATCHNORM:
                for q in range(divide_up(op.width, COLUMNS)):
                    j = q * COLUMNS
                    batchnorm_inference(
                        x + j, n, min(op.width - j, COLUMNS), ldx, <floating*>op.first + j, <floating*>op.second + j,
                        <floating*>op.running_mean + j, <floating*>op.running_var + j, op.eps, x + j, ldx)
            elif op.kind == ACTIVATION:
                activation_forward(x, ldx, n, op.width, <int>op.activation, x, ldx)
    answer(any, r, x, ldx, first, n)


cdef void answer(
    const floating* any, const Run* r, const floating* z, Py_ssize_t ldz, Py_ssize_t first, Py_ssize_t n,
) noexcept nogil:
    # what is wanted of n rows from `first` on, by their outputs z
    cdef floating* out = <floating*>r.out + first * r.n_out
    cdef bint softmax = r.loss_kind == SOFTMAX
    cdef Py_ssize_t i
    if r.wanted == LABELS:
        label_tile(softmax, z, ldz, n, r.n_out, <Py_ssize_t*>r.out + (first if softmax else first * r.n_out))
    elif r.wanted == PROBABILITIES and softmax:
        softmax_probability_tile(z, ldz, n, r.n_out, out)
    elif r.wanted == PROBABILITIES:
        activation_forward(z, ldz, n, r.n_out, SIGMOID_ACTIVATION, out, r.n_out)
    else:
        for i in range(n):
            memcpy(out + i * r.n_out, z + i * ldz, r.n_out * sizeof(floating))


cdef void tile(const floating* any, Run* r, Py_ssize_t t, Py_ssize_t worker) noexcept nogil:
    cdef Py_ssize_t first = t * r.panel, last = first + r.panel
    cdef double since = clock(r)
    if r.phase == GATHER:
        gather(any, r, first, min(last, r.n))
        spent(r, worker, r.n_places - 2, since)
    elif r.phase == FORWARD:
        forward(any, r, worker, first, last)
    elif r.phase == LOSS:
        loss(any, r, t, first, min(last, r.n))
        spent(r, worker, r.n_places - 1, since)
    elif r.phase == OPERATIONS:
        backward_ops(any, r, worker, &r.blocks[r.ops_block], first, last)
    elif r.phase == BACKWARD:
        backward(any, r, worker, first, last)
    elif r.phase == UPDATE:
        update_flat(any, r, first, min(last, r.n_parameters))
    elif r.phase == AVERAGE:
        average_tile(<floating*>r.parameters + first, min(last, r.n_parameters) - first, r.average_rate, r.average + first)
    else:
        infer(any, r, worker, first, min(last, r.n))


cdef void tile_f32(void* r, Py_ssize_t t, Py_ssize_t worker) noexcept nogil:
    tile(<float*>NULL, <Run*>r, t, worker)


cdef void tile_f64(void* r, Py_ssize_t t, Py_ssize_t worker) noexcept nogil:
    tile(<double*>NULL, <Run*>r, t, worker)


# ---------------------------------------------------------------------------------------------------------- one step

cdef void phase(const floating* any, Run* r, int which, Py_ssize_t total, Py_ssize_t panel) noexcept nogil:
    r.phase = which
    r.panel = panel
    run(tile_f32 if floating is float else tile_f64, r, 1 if total <= panel else divide_up(total, panel), r.n_threads)


cdef int exchange(Run* r, int what, Py_ssize_t which) noexcept with gil:
    # what an error was, `Exchange` keeps
    return (<object>r.exchange).now(what, which, r.position)


cdef int forward_block(const floating* any, Run* r, Py_ssize_t b) noexcept nogil:
    cdef const Block* block = &r.blocks[b]
    cdef Py_ssize_t o
    r.block = b
    r.op_begin = block.begin
    r.half_begin = r.half_end = False
    for o in range(block.begin, block.end if r.synchronised else block.begin):
        if r.ops[o].kind == BATCHNORM:
            r.op_end = o + 1
            r.half_end = True
            phase(any, r, FORWARD, block.width, r.widths[2 * b])
            if exchange(r, STATISTICS, o):
                return FAILED
            r.op_begin = o
            r.half_begin = True
    r.op_end = block.end
    r.half_end = False
    phase(any, r, FORWARD, block.width, r.widths[2 * b])
    return DONE


cdef void backward_until(Run* r, Py_ssize_t b) noexcept nogil:
    # the operations of a block before `op_end` down to the next batch norm that needs the sums of others, or to its beginning
    cdef Py_ssize_t o
    r.ops_block = b
    r.op_begin = r.blocks[b].begin
    r.half_begin = False
    for o in range(r.op_end - 1 - r.half_end, r.blocks[b].begin - 1 if r.synchronised else r.op_end, -1):
        if r.ops[o].kind == BATCHNORM:
            r.op_begin = o
            r.half_begin = True
            return


cdef int backward_rest(const floating* any, Run* r, Py_ssize_t b) noexcept nogil:
    # what `backward_until` has left of a block
    while r.half_begin:
        if exchange(r, SUMS, r.op_begin):
            return FAILED
        r.op_end = r.op_begin + 1
        r.half_end = True
        backward_until(r, b)
        phase(any, r, OPERATIONS, r.blocks[b].width, r.widths[2 * b])
    return DONE


cdef double gradient_norm(const floating* any, const Run* r) noexcept nogil:
    # Euclidean, of all parameters; infinite or NaN only if an entry is
    cdef const floating* g = <floating*>(r.parameters + r.to_gradient)
    cdef double sums[LANES]
    cdef double total = 0, largest = 0, x
    cdef Py_ssize_t i
    for i in range(LANES):
        sums[i] = 0
    squares_tile(g, r.n_parameters, sums)
    for i in range(LANES):
        total += sums[i]
    if isfinite(total):
        return sqrt(total)
    # the squares were too large, or an entry is not finite
    for i in range(r.n_parameters):
        x = g[i] if g[i] > 0 else -g[i]
        if not x <= largest:
            largest = x
            if x != x:
                return x
    if not isfinite(largest):
        return largest
    total = 0
    for i in range(r.n_parameters):
        total += (g[i] / largest) * (g[i] / largest)
    return largest * sqrt(total)


cdef int step(const floating* any, Run* r, double* loss_of_step, Py_ssize_t* bad) noexcept nogil:
    # one batch: rows start to start + n
    cdef Py_ssize_t b, i, rows
    cdef double norm, terms, per_row
    cdef double[2] total = [0, 0]
    cdef floating* g
    cdef const Block* last = &r.blocks[r.n_blocks - 1]
    cdef floating shrink

    find_widths(any, r)
    phase(any, r, GATHER, r.n, r.n if r.n_threads == 1 else max(divide_up(r.n, 4 * r.n_threads), divide_up(FLAT // 4, r.n_in)))
    for i in range(r.n):
        if r.bad[2 * i] >= 0 or r.bad[2 * i + 1] >= 0:
            bad[0] = i
            bad[1] = r.bad[2 * i] if r.bad[2 * i] >= 0 else r.bad[2 * i + 1]
            return NOT_FINITE_X if r.bad[2 * i] >= 0 else BAD_LABEL if r.loss_kind == SOFTMAX else NOT_FINITE_Y
    for b in range(r.n_blocks):
        if forward_block(any, r, b) != DONE:
            return FAILED
    if r.y.base == NULL:
        return DONE

    # the tiles of the loss depend on the shape alone: their sums are rounded
    rows = max(1, LOSS_NUMBERS // r.n_out)
    r.weight = r.n
    if r.weights != NULL:
        r.weight = 0
        for i in range(r.n):
            r.weight += row_weight(r, i)
    per_row = 1 if r.loss_kind == SOFTMAX else r.n_out
    terms = r.weight * per_row
    # a gradient is the mean over the rows of all processes
    r.scale = 1 / ((r.weight if r.exchange == NULL else r.batch_weights[r.position]) * per_row) if terms > 0 else 0
    phase(any, r, LOSS, r.n, rows)
    for i in range(divide_up(r.n, rows)):
        add(total, (<double*>(r.memory + r.partials))[2 * i])
        total[1] += (<double*>(r.memory + r.partials))[2 * i + 1]
    loss_of_step[0] = compensated(total[0], total[1]) / terms if terms > 0 else 0
    if r.updates and not isfinite(loss_of_step[0]) and r.exchange == NULL:
        return NOT_FINITE_LOSS

    r.op_end = last.end
    r.half_end = False
    backward_until(r, r.n_blocks - 1)
    phase(any, r, OPERATIONS, last.width, r.widths[2 * r.n_blocks - 2])
    if backward_rest(any, r, r.n_blocks - 1) != DONE:
        return FAILED
    for b in range(r.n_blocks - 1, -1, -1):
        if r.blocks[b].dense:
            r.block = b
            if b > 0:
                r.op_end = r.blocks[b - 1].end
                r.half_end = False
                backward_until(r, b - 1)
            phase(any, r, BACKWARD, r.ops[r.blocks[b].begin].n_in, r.widths[2 * b + 1])
            if r.exchange != NULL and exchange(r, WEIGHT, r.blocks[b].begin):
                return FAILED
            if b > 0 and r.blocks[b - 1].has_gradient and backward_rest(any, r, b - 1) != DONE:
                return FAILED
    if r.exchange != NULL:
        # a loss that is not finite here shows in everyone's gradient
        if not isfinite(loss_of_step[0]):
            (<floating*>(r.parameters + r.to_gradient))[r.n_parameters - 1] = <floating>loss_of_step[0] - <floating>loss_of_step[0]
        if exchange(r, GRADIENT, 0):
            return FAILED
    if r.updates and not r.fused and (r.clip_norm > 0 or r.exchange == NULL):
        norm = gradient_norm(any, r)
        if not isfinite(norm):
            return NOT_FINITE_GRADIENT
        if r.clip_norm > 0 and norm > r.clip_norm:
            g = <floating*>(r.parameters + r.to_gradient)
            shrink = <floating>(r.clip_norm / norm)
            for i in range(r.n_parameters):
                g[i] = g[i] * shrink
    if r.updates and not r.fused:
        phase(any, r, UPDATE, r.n_parameters, FLAT)
    if r.average != NULL and r.average_rate > 0:
        phase(any, r, AVERAGE, r.n_parameters, FLAT)
    return DONE


# ------------------------------------------------------------------------------------------------- many steps, and back

cdef simd_void look(const floating* x, Py_ssize_t n, int* bad) noexcept nogil:
    cdef Py_ssize_t i
    cdef floating zero = 0
    cdef int found = 0
    # x - x is 0 but for infinities and NaN
    for i in range(n):
        found |= 0 if x[i] - x[i] == zero else 1
    bad[0] |= found


cdef bint is_finite(const floating* any, const Run* r) noexcept nogil:
    cdef int bad = 0
    look(<floating*>r.parameters, r.n_parameters, &bad)
    look(<floating*>r.statistics, r.n_statistics, &bad)
    if r.has_velocity:
        look(<floating*>(r.parameters + r.to_velocity), r.n_parameters, &bad)
    if r.has_second:
        look(<floating*>(r.parameters + r.to_second), r.n_parameters, &bad)
    return not bad


cdef int look_at_state(const floating* any, Run* r) noexcept nogil:
    # all processes find the same
    cdef bint finite = is_finite(any, r)
    cdef int others
    if r.exchange != NULL:
        others = exchange(r, FINITE, finite)
        if others < 0:
            return FAILED
        finite = others
    return DONE if finite else NOT_FINITE_STATE


cdef void copy_state(const floating* any, const Run* r, bint back) noexcept nogil:
    # to the snapshot, or back from it
    cdef char* places[4]
    cdef Py_ssize_t sizes[4]
    cdef Py_ssize_t average = r.n_parameters * sizeof(double)
    cdef char* snapshot = r.snapshot
    cdef int i
    places[:] = [r.parameters, r.statistics, r.parameters + r.to_velocity, r.parameters + r.to_second]
    sizes[:] = [
        r.n_parameters, r.n_statistics, r.n_parameters if r.has_velocity else 0, r.n_parameters if r.has_second else 0]
    for i in range(4):
        if sizes[i]:
            # (without statistics their place is NULL)
            memcpy(places[i] if back else snapshot, snapshot if back else places[i], sizes[i] * sizeof(floating))
        snapshot += sizes[i] * <Py_ssize_t>sizeof(floating)
    if r.average != NULL:
        memcpy(r.average if back else r.average_snapshot, r.average_snapshot if back else r.average, average)


# How many threads a run should have is measured while it trains: some steps with one, some with all, turn and turn about; then
# a longer while with what was faster, and again. Where it was clearly faster, that while is twice the last one. Results do not
# depend on it.
cdef enum:
    TURNS = 6               # of a comparison, even ones with one thread
    STAY = 24               # turns with the faster one, at least

cdef struct Tuner:
    double turn             # of TURNS + stay
    double left             # steps left of it
    double steps            # of a turn
    double one, many        # seconds that the turns of the comparison took
    double stay

cdef double TURN = 1e-3     # seconds that a turn should take at least
cdef double CLEARLY = 1.25  # times as long
cdef double LONGEST = 0.4   # seconds of turns with the faster one, if there are more than STAY


cdef Py_ssize_t threads_now(const Tuner* t, Py_ssize_t most) noexcept nogil:
    if t.turn < TURNS:
        return 1 if <int>t.turn % 2 == 0 else most
    return 1 if t.one <= t.many else most


cdef void tune(Tuner* t, double taken) noexcept nogil:
    # a step took so long
    cdef bint clear
    if t.turn < TURNS:
        if <int>t.turn % 2 == 0:
            t.one += taken
        else:
            t.many += taken
    t.left -= 1
    if t.left > 0:
        return
    t.turn += 1
    if t.turn == TURNS:
        # (a first comparison is of single steps)
        clear = t.steps > 0 and max(t.one, t.many) > CLEARLY * min(t.one, t.many)
        t.stay = max(min(2 * t.stay, LONGEST / max(t.steps * taken, TURN)) if clear else 0, STAY)
    elif t.turn > TURNS and t.turn >= TURNS + t.stay:
        t.turn = t.one = t.many = 0
        t.steps = max(1, TURN / max(taken, 1e-7))
    t.left = t.steps


cdef enum:
    # numbers that outlive a call: the steps taken, those at the snapshot, and whether steps are taken one by one; and the row of
    # the batch and the column that something is wrong with
    POSITION, SNAPSHOT, CAREFUL, BAD_ROW, BAD_COLUMN, N_PROGRESS

cdef enum:
    # and sums: the loss of the epoch so far as a pair, the same at the snapshot; the loss of the last step; when the epoch began
    TOTAL, TOTAL_LOST, SNAPSHOT_TOTAL, SNAPSHOT_LOST, LAST, BEGAN, N_SUMS

cdef enum:
    # of each epoch but the last: its loss as a pair, and the seconds that it took
    EPOCH_TOTAL, EPOCH_LOST, EPOCH_SECONDS, N_MARKS


cdef int train_steps(
    const floating* any, Run* r, const Py_ssize_t* starts, Py_ssize_t n_steps, Py_ssize_t until, const Py_ssize_t* orders,
    const double* lrs, bint several_lrs, double average_rate, double average_from, double trained, Py_ssize_t n_threads,
    Tuner* tuner, double patience, Py_ssize_t* progress, double* sums, double* marks,
) noexcept nogil:
    # Epochs of `n_steps` each, the next with the next order, up to `until` steps.
    # A step that leads to a number that is not finite is undone: back to the snapshot, and from there the same steps again, each with
    # a look at the state, up to the last good one.
    cdef uint64_t first_step = r.step
    cdef double averaged
    cdef double now = seconds(), since, deadline = now + patience
    cdef Py_ssize_t position = progress[POSITION], epoch, place
    cdef bint careful = progress[CAREFUL]
    cdef int status = DONE
    if position == 0:
        sums[BEGAN] = now
    while position < until:
        if r.updates and (careful or position == 0 or position - progress[SNAPSHOT] >= SNAPSHOT_STEPS):
            if position > 0 and not careful:
                status = look_at_state(any, r)
                if status != DONE:
                    break
            copy_state(any, r, False)
            progress[SNAPSHOT] = position
            sums[SNAPSHOT_TOTAL] = sums[TOTAL]
            sums[SNAPSHOT_LOST] = sums[TOTAL_LOST]
        epoch = position // n_steps
        place = position - epoch * n_steps
        r.start = starts[place]
        r.n = starts[place + 1] - r.start
        r.order = orders + epoch * r.n_order if orders != NULL else NULL
        r.step = first_step + position
        r.position = position
        r.n_threads = threads_now(tuner, n_threads) if tuner != NULL else n_threads
        r.lr = lrs[position] if several_lrs else lrs[0]
        if r.has_second:
            correct(r.lr, trained + position + 1, <floating>r.momentum, <floating>r.beta2, r.eps, r.eps_hat,
                    &r.rate, &r.least)
        if r.average != NULL:
            # the mean of the first steps, and then the last ones with weights that fall off exponentially
            averaged = trained - average_from + position
            r.average_rate = max(average_rate, 1 / (averaged + 1)) if averaged >= 0 else 0
        status = step(any, r, &sums[LAST], &progress[BAD_ROW])
        if status == DONE and careful:
            status = look_at_state(any, r)
        if status != DONE:
            if careful:
                copy_state(any, r, True)
            elif r.updates and r.exchange == NULL and not is_finite(any, r):
                status = NOT_FINITE_STATE
            break
        add(&sums[TOTAL], sums[LAST] * r.weight)
        position += 1
        progress[POSITION] = position
        since = now
        now = seconds()
        if tuner != NULL:
            tune(tuner, now - since)
        if place + 1 == n_steps and position < until:
            marks[epoch * N_MARKS + EPOCH_TOTAL] = sums[TOTAL]
            marks[epoch * N_MARKS + EPOCH_LOST] = sums[TOTAL_LOST]
            marks[epoch * N_MARKS + EPOCH_SECONDS] = now - sums[BEGAN]
            sums[TOTAL] = sums[TOTAL_LOST] = 0
            sums[BEGAN] = now
        if now > deadline and position < until:
            status = OUT_OF_TIME
            break
    if status == DONE and r.updates and not careful:
        status = look_at_state(any, r)
    if status >= NOT_FINITE_LOSS and not careful:
        copy_state(any, r, True)
        progress[POSITION] = progress[SNAPSHOT]
        sums[TOTAL] = sums[SNAPSHOT_TOTAL]
        sums[TOTAL_LOST] = sums[SNAPSHOT_LOST]
        progress[CAREFUL] = True
        status = OUT_OF_TIME
    return status


cdef class Program:
    """The plan for training on batches of some rows, as the engine takes it: what `Plan.buffers` gives, and the buffers."""

    cdef const Op[::1] ops
    cdef const Block[::1] blocks
    cdef unsigned char[::1] memory
    cdef Run run

    def __cinit__(
        self, const Op[::1] ops not None, const Block[::1] blocks not None, const int64_t[::1] layout not None,
        unsigned char[::1] memory not None,
    ):
        cdef Run* r = &self.run
        self.ops, self.blocks, self.memory = ops, blocks, memory
        r.ops = &ops[0]
        r.blocks = &blocks[0]
        r.n_blocks = blocks.shape[0]
        r.memory = <char*>&memory[0]
        r.n_in, r.n_out, r.loss_kind = layout[0], layout[1], layout[2]
        r.labels, r.targets, r.ldt, r.partials = layout[3], layout[4], layout[5], layout[6]
        r.bad = <int64_t*>(r.memory + layout[7])
        r.n_weights = layout[8]
        r.widths = <Py_ssize_t*>(r.memory + layout[9])


def train(
    Program program not None, floating[::1] parameters not None, floating[::1] statistics, floating[::1] velocity, floating[::1] second_moment,
    floating[::1] gradients, floating[::1] snapshot, double[::1] average, double[::1] average_snapshot,
    x, y, const Py_ssize_t[:, ::1] orders, const double[::1] weights, const Py_ssize_t[::1] starts not None, Py_ssize_t until,
    const double[::1] lrs not None, double momentum, bint nesterov, double beta2, double eps, bint eps_hat, bint decoupled,
    double weight_decay, bint decays_all, double clip_norm, double average_rate, double average_from, double trained,
    bint fused, bint updates, bint moves_statistics, bint check_x, uint64_t key, uint64_t first_step, Py_ssize_t n_threads,
    double[::1] tuner, double patience, Py_ssize_t[::1] progress not None, double[::1] sums not None,
    double[:, ::1] marks, double[:, ::1] profile, exchange=None,
):
    """Steps of one or more epochs from `progress` on, until they are done or something happens; says what."""
    cdef const double[::1] batch_weights
    cdef const Py_ssize_t[::1] batch_offsets, batch_rows
    cdef double[::1] shared
    cdef Run r = program.run
    cdef int status
    cdef Py_ssize_t got
    cdef const floating* any = &parameters[0]
    r.widths_n = 0
    r.parameters = <char*>&parameters[0]
    r.n_parameters = parameters.shape[0]
    r.has_velocity = velocity is not None
    r.has_second = second_moment is not None
    r.to_velocity = <Py_ssize_t>&velocity[0] - <Py_ssize_t>r.parameters if velocity is not None else 0
    r.to_second = <Py_ssize_t>&second_moment[0] - <Py_ssize_t>r.parameters if second_moment is not None else 0
    r.to_gradient = <Py_ssize_t>&gradients[0] - <Py_ssize_t>r.parameters if gradients is not None else 0
    r.statistics = <char*>&statistics[0] if statistics is not None else NULL
    r.n_statistics = statistics.shape[0] if statistics is not None else 0
    r.snapshot = <char*>&snapshot[0] if snapshot is not None else NULL
    r.fused, r.updates, r.moves_statistics = fused, updates, moves_statistics
    r.x = describe(x, check_x)
    if y is None:
        r.y.base = NULL
    else:
        r.y = describe(y, True)
    r.average = &average[0] if average is not None else NULL
    r.average_snapshot = &average_snapshot[0] if average_snapshot is not None else NULL
    r.weights = &weights[0] if weights is not None else NULL
    r.n_order = orders.shape[1] if orders is not None else 0
    r.momentum, r.nesterov, r.weight_decay, r.clip_norm = momentum, nesterov, weight_decay, clip_norm
    r.beta2, r.eps, r.eps_hat, r.decoupled, r.decays_all = beta2, eps, eps_hat, decoupled, decays_all
    r.key, r.step = key, first_step
    r.profile = &profile[0, 0] if profile is not None else NULL
    r.n_places = profile.shape[1] if profile is not None else 0
    r.exchange = NULL
    r.synchronised = False
    if exchange is not None:
        batch_weights, batch_offsets, batch_rows, shared = (
            exchange.batch_weights, exchange.batch_offsets, exchange.batch_rows, exchange.shared)
        extents(min(batch_weights.shape[0], min(batch_offsets.shape[0], batch_rows.shape[0])) >= starts.shape[0] - 1)
        r.exchange = <void*>exchange
        r.batch_weights, r.batch_offsets, r.batch_rows = &batch_weights[0], &batch_offsets[0], &batch_rows[0]
        r.shared = &shared[0]
        r.synchronised, r.first_rank = exchange.synchronised, exchange.first
    extents((orders is None or until <= (starts.shape[0] - 1) * orders.shape[0])
            and (lrs.shape[0] == 1 or lrs.shape[0] >= until)
            and until <= (starts.shape[0] - 1) * (marks.shape[0] if marks is not None else 1)
            and progress.shape[0] == N_PROGRESS and sums.shape[0] == N_SUMS and (marks is None or marks.shape[1] == N_MARKS))
    own_memory()
    with nogil:
        got = join(n_threads)
        status = train_steps(
            any, &r, &starts[0], starts.shape[0] - 1, until, &orders[0, 0] if orders is not None else NULL,
            &lrs[0], lrs.shape[0] > 1, average_rate, average_from, trained, got,
            <Tuner*>&tuner[0] if tuner is not None and got > 1 else NULL,
            patience, &progress[0], &sums[0], &marks[0, 0] if marks is not None else NULL)
        leave(got)
    return status


cdef class Inference:
    """A network in evaluation mode. It reads the arrays that the plan leads to as they are, and any number of threads may call it.

    `held` keeps these arrays. `longest` is the length of the longest row of numbers; up to `n_work` multiplications are one
    thread's, and of these calls `quick` takes those of up to `n_rows` rows.
    """

    cdef Run plan
    cdef const Op[::1] ops
    cdef const Block[::1] blocks
    cdef object held, of_outputs
    cdef Py_ssize_t row_bytes       # of two buffers, for each row
    cdef Py_ssize_t most_rows
    cdef bint single

    def __cinit__(
        self, const Op[::1] ops not None, const Block[::1] blocks not None, held, of_outputs, Py_ssize_t n_in, Py_ssize_t n_out,
        int loss, Py_ssize_t n_weights, Py_ssize_t longest, Py_ssize_t n_rows, Py_ssize_t n_work,
    ):
        cdef Run* r = &self.plan
        self.ops, self.blocks, self.held, self.of_outputs = ops, blocks, held, of_outputs
        self.single = of_outputs.itemsize == sizeof(float)
        memset(r, 0, sizeof(Run))
        r.ops, r.blocks, r.n_blocks = &ops[0], &blocks[0], blocks.shape[0]
        r.n_in, r.n_out, r.loss_kind, r.n_weights = n_in, n_out, loss, n_weights
        r.n_threads = 1
        self.row_bytes = 2 * divide_up(longest * (4 if self.single else 8), 64) * 64
        self.most_rows = min(n_rows, min(BLOCK_BYTES // self.row_bytes, (n_work - 1) // n_weights))

    def quick(self, x, int wanted):
        """What is wanted of few rows in the most usual form, on the calling thread; or None, which asks for a closer look at `x`."""
        cdef Run r = self.plan
        cdef Py_buffer view
        if type(x) is not ndarray:
            return None
        # NumPy's own dtype objects, which are native
        of_x = x.dtype
        if of_x is not FLOAT32 and of_x is not FLOAT64:
            return None
        try:
            PyObject_GetBuffer(x, &view, PyBUF_C_CONTIGUOUS)
        except (BufferError, ValueError):
            return None
        r.n = view.shape[0] if view.ndim == 2 and view.shape[1] == r.n_in else 0
        r.x.base = <const char*>view.buf
        r.x.size = <int>view.itemsize
        PyBuffer_Release(&view)
        if r.n < 1 or r.n > self.most_rows:
            return None
        r.x.kind = FLOAT if of_x is FLOAT32 else DOUBLE
        r.x.column_stride = r.x.size
        r.x.row_stride = r.n_in * r.x.size
        r.wanted = wanted
        result = self.room(r.n, wanted)
        PyObject_GetBuffer(result, &view, PyBUF_WRITABLE)
        r.out = <char*>view.buf
        PyBuffer_Release(&view)
        own_memory()
        r.memory = <char*>block_memory()
        r.slot = r.n * self.row_bytes
        if r.n * r.n_weights <= HELD_WORK:
            self.tile(&r)
        else:
            with nogil:
                self.tile(&r)
        return result

    def rows(self, x, result, unsigned char[:, ::1] memory not None, int wanted, Py_ssize_t chunk, Py_ssize_t n_threads):
        """The same of any rows, `chunk` at a time, into `result`, which `room` gave or a part of it; each thread has a row of memory."""
        cdef Run r = self.plan
        cdef Py_buffer view
        cdef Py_ssize_t got
        r.memory = <char*>&memory[0, 0]
        r.slot = memory.shape[1]
        r.n = len(result)
        r.x = describe(x, False)
        r.wanted = wanted
        PyObject_GetBuffer(result, &view, PyBUF_WRITABLE)
        r.out = <char*>view.buf
        PyBuffer_Release(&view)
        own_memory()
        with nogil:
            got = join(min(n_threads, memory.shape[0]))
            r.n_threads = got
            if self.single:
                phase(<float*>NULL, &r, INFER, r.n, chunk)
            else:
                phase(<double*>NULL, &r, INFER, r.n, chunk)
            leave(got)

    cpdef object room(self, Py_ssize_t n, int wanted):
        """An array for what is wanted of n rows."""
        if wanted == LABELS and self.plan.loss_kind == SOFTMAX:
            return empty(n, intp)
        if wanted == LABELS:
            return empty((n, self.plan.n_out), intp)
        return empty((n, self.plan.n_out), self.of_outputs)

    cdef void tile(self, Run* r) noexcept nogil:
        if self.single:
            infer(<float*>NULL, r, 0, 0, r.n)
        else:
            infer(<double*>NULL, r, 0, 0, r.n)


OPS = {"dense": DENSE, "batchnorm": BATCHNORM, "activation": ACTIVATION, "dropout": DROPOUT}
LOSSES = {"softmax_cross_entropy": SOFTMAX, "sigmoid_cross_entropy": SIGMOID, "mean_squared_error": SQUARED_ERROR}
WANTED = {"outputs": OUTPUTS, "probabilities": PROBABILITIES, "labels": LABELS}
LOSS_ROWS = LOSS_NUMBERS
#: Numbers of a tuner, zeros at first.
TUNER = sizeof(Tuner) // sizeof(double)
PROGRESS_OF_RUN, SUMS_OF_EPOCH, MARKS_OF_EPOCH = N_PROGRESS, N_SUMS, N_MARKS
STATUS = {
    "done": DONE, "out of time": OUT_OF_TIME, "x": NOT_FINITE_X, "label": BAD_LABEL, "y": NOT_FINITE_Y, "loss": NOT_FINITE_LOSS,
    "gradient": NOT_FINITE_GRADIENT, "state": NOT_FINITE_STATE, "failed": FAILED,
}
#: What `exchange.now` is asked for.
EXCHANGES = {"statistics": STATISTICS, "sums": SUMS, "weight": WEIGHT, "gradient": GRADIENT, "finite": FINITE}
