"""Properties of the kernels, for dtypes, shapes, layouts, values and shared memory that hypothesis chooses.

The numbers themselves come from a generator whose seed is chosen; what hypothesis varies and shrinks is everything else.
"""

import itertools
import math
import os

import numpy as np
import pytest
from conftest import (
    DTYPES,
    EPS,
    FLOAT32,
    FLOAT64,
    LAYOUTS,
    NOT_IN_PLACE,
    TOL,
    as_matrix,
    assert_near,
    assert_refused,
    assert_same_bits,
    memory_of,
    plain,
    product_budget,
)
from hypothesis import assume, given
from hypothesis import strategies as st
from oracle import LONG
from test_contract import OPS, float_arrays, inputs, outputs_of

import fastnn
from fastnn import batchnorm_backward, batchnorm_forward, batchnorm_inference, init, reference
from fastnn._kernels import gemm

KINDS = fastnn.activation.KINDS
# A product done here adds up each element by itself, in order. Of another library nothing of that kind is known.
OWN = gemm.vector_lanes() > 1 and not os.environ.get("FASTNN_BLAS")

every_op = pytest.mark.parametrize("name", OPS)
dtypes = st.sampled_from(DTYPES)
seeds = st.integers(0, 2**32 - 1)
heights = st.sampled_from((1, 2, 3, 4, 5, 7, 8, 12, 13, 16, 17, 40))
widths = st.sampled_from((1, 2, 3, 5, 7, 8, 9, 15, 16, 17, 33, 64, 65, 129))
kinds = st.sampled_from(KINDS)


# ---- values

def normal(rng, a):
    return a


def offset(rng, a):
    """Columns far from zero."""
    return (a + 1000 * rng.choice([-1, 1], a.shape[-1:])).astype(a.dtype)


def integers(rng, a):
    """With ties, zeros and constant columns."""
    return rng.integers(-2, 3, a.shape).astype(a.dtype)


def subnormal(rng, a):
    return rng.integers(-2**20, 2**20, a.shape).astype(a.dtype) * np.finfo(a.dtype).smallest_subnormal


def special(rng, a):
    """A third at the edges of the dtype, or beyond."""
    of = np.finfo(a.dtype)
    edges = [0, -0.0, 1, of.eps, of.tiny, of.smallest_subnormal, of.max, -of.max, np.inf, -np.inf, np.nan]
    return np.where(rng.random(a.shape) < 1 / 3, rng.choice(np.array(edges, a.dtype), a.shape), a)


TAME = normal, offset, integers
VALUES = *TAME, subnormal, special
LIMITED = ("targets", "running_var", "rstd", "v")        # not any number will do


@st.composite
def cases(draw, name, values=VALUES):
    """Good arguments of a kernel."""
    dtype, seed, n, d = draw(dtypes), draw(seeds), draw(heights), draw(widths)
    n += name in ("batchnorm_forward", "batchnorm_backward")
    rng = np.random.default_rng(seed)
    args = OPS[name].arguments(rng, dtype, n, d)
    for key in float_arrays(args):
        if key not in LIMITED:
            args[key] = draw(st.sampled_from(values), label=f"numbers of {key}")(rng, args[key])
    if "kind" in args:
        args["kind"] = draw(kinds)
    if name == "sgd_update":
        momentum = draw(st.sampled_from((0.0, 0.9, 0.5)))
        args |= {"momentum": momentum, "nesterov": momentum > 0 and draw(st.booleans())}
    if name == "adam_update":
        # betas that float32 holds
        args |= {"beta1": draw(st.sampled_from((0.875, 0.0, 0.5))), "beta2": draw(st.sampled_from((1 - 2.0**-10, 0.5, 0.0)))}
        args |= {"step": draw(st.sampled_from((1, 2, 1000))), "eps": draw(st.sampled_from((1e-8, 1.0)))}
        args |= {"eps_hat": draw(st.booleans()), "decoupled": draw(st.booleans())}
    if name in ("sgd_update", "adam_update"):
        args |= {"lr": draw(st.sampled_from((0.1, 0.0, 2.5))), "weight_decay": draw(st.sampled_from((0.0, 0.01, 1.5)))}
    if name in ("batchnorm_forward", "batchnorm_inference"):
        args["eps"] = draw(st.sampled_from((1e-5, 1.0, 1e-30)))
    if name == "batchnorm_forward":
        args["momentum"] = draw(st.sampled_from((0.1, 0.0, 1.0)))
        # a variance that overflows is refused, but for infinite numbers
        large = np.isfinite(args["x"]) & (np.abs(args["x"]) > {FLOAT32: 1e18, FLOAT64: 1e150}[dtype])
        args["x"] = np.where(large, dtype.type(1), args["x"])
    if name == "batchnorm_backward":
        with np.errstate(all="ignore"):
            args["mean"], args["rstd"] = reference.batchnorm_forward(args["x"], args["gamma"], args["gamma"])[1:]
    if OPS[name].any_shape:
        shape = draw(st.sampled_from(((n, d), (n * d,), (n, 1, d), (1, n, 1, d))))
        args |= {key: args[key].reshape(shape) for key in float_arrays(args)}
    if OPS[name].optional and not (name == "sgd_update" and args["momentum"]) and draw(st.booleans(), label="not the optional"):
        args |= dict.fromkeys(OPS[name].optional)
    return args


def dtype_of(name, args):
    return args[OPS[name].leading].dtype


def updated(name, args):
    return [key for key in OPS[name].in_place if args[key] is not None]


def results_of(function, name, args, **outputs):
    """All results in one list, and behind them the arguments that were updated."""
    results = function(**args, **outputs)
    results = results if isinstance(results, tuple) else (results,)
    return [r for r in results if r is not None] + [args[key] for key in updated(name, args)]


def call(name, args, **outputs):
    """The results, with copies of the arguments that are updated."""
    return results_of(getattr(fastnn, name), name, args | {key: args[key].copy() for key in updated(name, args)}, **outputs)


def expected_of(name, args, dtype):
    """What the specification gives in this dtype."""
    args = {key: a.astype(dtype) if isinstance(a, np.ndarray) and a.dtype.kind == "f" else a for key, a in args.items()}
    return results_of(getattr(reference, name), name, args)


def empty_outputs(name, args):
    args = args | {key: np.ones_like(args[OPS[name].leading]) for key in OPS[name].optional if name == "sgd_update"}
    return outputs_of(name, args, call(name, args)) if OPS[name].outputs else {}


def plain_nan(results):
    """The results with every NaN the same: its sign says nothing."""
    return [np.where(np.isnan(r), r.dtype.type(np.nan), r) for r in map(np.asarray, results)]


def laid_out(draw, name, args):
    """The inputs in any layout, which makes a repeated row of some."""
    changed = dict(args)
    for key in inputs(name, args):
        layout = draw(st.sampled_from(("as it is", *LAYOUTS)), label=f"layout of {key}")
        changed[key] = LAYOUTS[layout](args[key]) if layout in LAYOUTS else args[key]
    return changed


def memories(args):
    return {key: memory_of(a) for key, a in args.items() if isinstance(a, np.ndarray)}


# ---- right, or refused

@every_op
@given(st.data())
def test_any_layout_gives_the_bits_of_the_plain_copy(name, data):
    args = laid_out(data.draw, name, data.draw(cases(name)))
    copies = {key: plain(a) if isinstance(a, np.ndarray) else a for key, a in args.items()}
    before = memories(args)
    outputs = empty_outputs(name, copies) if data.draw(st.booleans(), label="outputs given") else {}
    assert_same_bits(call(name, args, **outputs), call(name, copies), name)
    assert memories(args) == before


# what no array of floats is replaced by, whatever the others are
WRONG = {
    "int32": lambda a: np.zeros(a.shape, np.int32),
    "bool": lambda a: np.zeros(a.shape, bool),
    "float16": lambda a: np.zeros(a.shape, np.float16),
    "complex": lambda a: np.zeros(a.shape, np.complex128),
    "objects": lambda a: np.zeros(a.shape, object),
    "text": lambda a: "text",
    "a number": lambda a: 1.0,
    "a list": lambda a: a.tolist(),
    "masked": lambda a: np.ma.masked_array(a),
    "a matrix": lambda a: as_matrix(a.reshape(-1, a.shape[-1])),
}
# and what only does not go with the others
OUT_OF_STEP = {
    "the other float": lambda a: a.astype(FLOAT64 if a.itemsize == 4 else FLOAT32),
    "longer": lambda a: np.concatenate([a, a[:1]]),
    "one dimension more": lambda a: a[None],
    "flat, and longer": lambda a: np.concatenate([a.reshape(-1), a.reshape(-1)]),
}


@every_op
@given(st.data())
@np.errstate(all="ignore")
def test_one_wrong_argument_is_refused(name, data):
    """By an error that begins with its name; every argument stays as it was, however the others are laid out."""
    args = data.draw(cases(name))
    outputs = empty_outputs(name, args) if data.draw(st.booleans(), label="outputs given") else {}
    args = laid_out(data.draw, name, args) | outputs
    key = data.draw(st.sampled_from(float_arrays(args)), label="the wrong one")
    ways = list(WRONG) if key == OPS[name].leading else [*WRONG, *OUT_OF_STEP]
    if key in outputs or key in OPS[name].in_place:
        ways += [layout for layout in NOT_IN_PLACE if not LAYOUTS[layout](args[key]).flags.carray]
    if key not in outputs and key not in OPS[name].optional:
        ways.append("None")
    way = data.draw(st.sampled_from(ways), label="how it is wrong")
    args[key] = None if way == "None" else (WRONG | OUT_OF_STEP | LAYOUTS)[way](args[key])
    before = memories(args)
    with pytest.raises((TypeError, ValueError)) as caught:
        getattr(fastnn, name)(**args)
    assert str(caught.value).startswith(f"{key}: ")
    assert memories(args) == before


NUMBERS = {
    "sgd_update": ("lr", "momentum", "weight_decay"), "batchnorm_forward": ("eps", "momentum"), "batchnorm_inference": ("eps",),
    "adam_update": ("lr", "beta1", "beta2", "eps", "weight_decay"),
}
HUGE = 10**400      # no float
anything = st.one_of(
    st.floats(), st.floats(0, 1), st.floats(3.4e38, 3.41e38), st.integers(-3, 3), st.just(HUGE), st.booleans(), st.none(),
    st.text(max_size=2),
    st.sampled_from((np.float32(0.5), np.float64(-1), np.int8(1), np.array(0.5), np.array([0.5]), np.bool_(True), 1j, b"1")))


def in_range(name, key, value, dtype):
    with np.errstate(over="ignore"):
        rounded = float(dtype.type(value))
    if key == "momentum":
        return 0 <= value < 1 or (value == 1 and name != "sgd_update")
    if key.startswith("beta"):
        return 0 <= value < 1 and rounded < 1
    return 0 < rounded < math.inf if key == "eps" else value >= 0 and rounded < math.inf


@pytest.mark.parametrize(("name", "key"), [(name, key) for name, keys in NUMBERS.items() for key in keys])
@given(st.data(), anything)
def test_any_number_is_in_its_range_or_refused(name, key, data, value):
    args = data.draw(cases(name, TAME))
    if name == "sgd_update":
        args |= {"velocity": np.zeros_like(args["param"]), "nesterov": False}
    if key == "eps" and "beta2" in args:
        args["beta2"] = 0.0     # with which eps counts as it is
    args[key] = value
    if not isinstance(value, int | float | np.floating | np.integer) or isinstance(value, bool):
        assert_refused(TypeError, key, getattr(fastnn, name), **args)
    elif not (value is not HUGE and math.isfinite(value) and in_range(name, key, float(value), dtype_of(name, args))):
        assert_refused(ValueError, key, getattr(fastnn, name), **args)
    else:
        assert_same_bits(call(name, args), call(name, args | {key: float(value)}), value)


@given(cases("softmax_cross_entropy", TAME), st.sampled_from("bhilqBHILQ"), st.data())
def test_labels_of_any_integer_dtype(args, kind, data):
    logits, labels = args["logits"], args["labels"].astype(kind)
    k, limits = logits.shape[1], np.iinfo(kind)
    assume((labels == args["labels"]).all())
    assert_same_bits(call("softmax_cross_entropy", args | {"labels": labels}), call("softmax_cross_entropy", args), kind)
    wrong = [bad for bad in (k, -1, limits.max, limits.min) if limits.min <= bad <= limits.max and not 0 <= bad < k]
    if wrong:
        at = data.draw(st.integers(0, len(labels) - 1))
        labels[at:] = data.draw(st.sampled_from(wrong))
        text = assert_refused(ValueError, "labels", fastnn.softmax_cross_entropy, logits, labels)
        assert text.endswith(f"got {labels[at]} at index {at}")


# ---- near the reference

def budgets(name, args, exact):
    """For each result how many eps it may lose, and of what: the sizes of its terms."""
    dtype = dtype_of(name, args)
    tol = TOL[dtype]
    args = {key: a.astype(exact[-1].dtype) if key in float_arrays(args) else a for key, a in args.items()}
    size = {key: np.abs(a) for key, a in args.items() if isinstance(a, np.ndarray)}
    if name == "dense_forward":
        bias = size.get("bias", 0)
        return [(product_budget(size["x"].shape[1]) + 1, size["x"] @ size["weight"] + bias)]
    if name == "dense_backward":
        dout = size["dout"]
        return [(product_budget(dout.shape[1]), dout @ size["weight"].T), (product_budget(len(dout)), size["x"].T @ dout),
                (tol["bias_gradient"], dout.sum(axis=0))]
    if name == "batchnorm_forward":
        out, _, rstd, *_ = exact
        n, largest, m = len(out), size["x"].max(axis=0), args["momentum"]
        y = np.abs(out - args["beta"]) + size["beta"]
        found = [(tol["y"], y.max(axis=0)), (tol["mean"], largest), (tol["var"], rstd)]
        running = [(tol["mean"], lambda: size["running_mean"] + m * largest),
                   (tol["var"], lambda: size["running_var"] + m * n / (n - 1) / rstd**2)]
        return found + [(budget, of()) for budget, of in running if "running_mean" in size]
    if name == "batchnorm_backward":
        dout, n = size["dout"], len(size["dout"])
        xhat = np.abs(args["x"] - args["mean"]) * args["rstd"]
        dxhat = (dout * xhat).sum(axis=0)
        return [(tol["dx"], size["gamma"] * size["rstd"] * (dout + dout.sum(axis=0) / n + xhat * dxhat / n)),
                (tol["dgamma"], dxhat), (tol["dbeta"], dout.sum(axis=0))]
    if name == "batchnorm_inference":
        return [(tol["inference"], np.abs(exact[0] - args["beta"]) + size["beta"])]
    if name == "activation_forward":
        return [(8, np.abs(exact[0]))]
    if name == "activation_backward":
        return [(8, size["dy"])]
    if name == "sgd_update":
        moved = size["grad"] + args["weight_decay"] * size["param"] + args["momentum"] * size.get("velocity", 0)
        return [(4, size["param"] + 2 * args["lr"] * moved), (4, moved)][:len(exact)]
    if name == "adam_update":
        beta1, beta2, c2 = args["beta1"], args["beta2"], 1 - args["beta2"] ** args["step"]
        coupled, decoupled = (args["weight_decay"] * (args["decoupled"] == which) for which in (False, True))
        g = size["grad"] + coupled * size["param"]
        first, second = beta1 * size["m"] + (1 - beta1) * g, beta2 * size["v"] + (1 - beta2) * g**2
        # what cancels in the gradient shows in the root
        lost = np.divide(second, exact[2], out=np.full_like(second, 1e30), where=exact[2] > 0)
        root = np.sqrt(exact[2] / c2) + args["eps"] / (np.sqrt(c2) if args["eps_hat"] else 1)
        update = args["lr"] * first * (1 + lost) / (1 - beta1 ** args["step"]) / root
        return [(6, size["param"] * (1 + args["lr"] * decoupled) + update), (4, first), (6, second)]
    loss, gradient = exact
    # the reference is float64 itself, and subtracts the largest logit, before it takes the exponential
    lost = 0 if name == "mean_squared_error" else (16 * size["logits"].max() + 4) * EPS[FLOAT64] / EPS[dtype]
    return [(tol["loss"], abs(loss) + lost), (8, np.abs(gradient) * (1 + lost) + lost / gradient.size)]


@every_op
@given(st.data())
def test_results_are_near_the_reference(name, data):
    args = data.draw(cases(name, TAME))
    dtype = dtype_of(name, args)
    if name == "activation_backward":
        args["y"] = fastnn.activation_forward(args["y"], args["kind"])
    # the specification of batch norm and the losses is float64 for any dtype
    wide = np.dtype(np.longdouble) if dtype == FLOAT64 and LONG and name[:4] in ("dens", "acti", "sgd_", "adam") else FLOAT64
    results, exact = call(name, args), expected_of(name, args, wide)
    for i, (result, expected, (budget, size)) in enumerate(zip(results, exact, budgets(name, args, exact), strict=True)):
        error = np.abs(np.asarray(result).astype(wide) - expected)
        allowed = budget * EPS[dtype] * size + 2 * float(np.finfo(dtype).smallest_subnormal)
        assert (error <= allowed).all(), f"result {i}: {np.max(error / allowed):.3g} times what it may lose"


# ---- numbers that are not finite, and subnormal ones

# of each input, what a single number has a part in, result by result: its row, its column (in a gradient of a product, the row
# or column of the same number), itself, or everything
REACH = {
    "dense_forward": {"x": ["row"], "weight": ["column"], "bias": ["column"]},
    "dense_backward": {
        "dout": ["row", "column", "column"], "x": [None, "row by column", None], "weight": ["column by row", None, None]},
    "batchnorm_forward": {
        "x": ["column"] * 5, "gamma": ["column", *[None] * 4], "beta": ["column", *[None] * 4],
        "running_mean": [*[None] * 3, "column", None], "running_var": [*[None] * 4, "column"]},
    "batchnorm_backward": {
        "dout": ["column"] * 3, "x": ["column", "column", None], "gamma": ["column", None, None],
        "mean": ["column", "column", None], "rstd": ["column", "column", None]},
    "batchnorm_inference": {
        "x": ["entry"], "gamma": ["column"], "beta": ["column"], "running_mean": ["column"], "running_var": ["column"]},
    "activation_forward": {"x": ["entry"]},
    "activation_backward": {"dy": ["entry"], "y": ["entry"]},
    "softmax_cross_entropy": {"logits": ["all", "row"]},
    "sigmoid_cross_entropy": {"logits": ["all", "entry"]},
    "mean_squared_error": {"pred": ["all", "entry"], "target": ["all", "entry"]},
    "sgd_update": {"param": ["entry", "entry"], "grad": ["entry", "entry"], "velocity": ["entry", "entry"]},
    "adam_update": {key: ["entry"] * 3 for key in ("param", "grad", "m", "v")},
}


def part(how, at):
    return {
        "row": at[:1], "column": (..., at[-1]), "row by column": at[-1:], "column by row": (..., at[0]), "entry": at,
        "all": ...,
    }[how]


@every_op
@given(st.data(), st.sampled_from((np.nan, np.inf, -np.inf)))
@np.errstate(all="ignore")
def test_what_is_not_finite_stays_where_it_is(name, data, value):
    args = data.draw(cases(name, (normal, offset)))
    key = data.draw(st.sampled_from([key for key in REACH[name] if args[key] is not None]), label="where")
    at = tuple(data.draw(st.integers(0, size - 1)) for size in args[key].shape)
    spoilt = args | {key: args[key].copy()}
    spoilt[key][at] = abs(value) if key in ("running_var", "v") else value
    clean, results = call(name, args), call(name, spoilt)
    for i, (result, before) in enumerate(zip(results, clean, strict=True)):
        result, before = np.array(result), np.array(before)
        how = REACH[name][key][i]
        if how is not None:
            # a kink, or a rate of zero, may stop it
            if np.isnan(value) and name not in ("activation_backward", "sgd_update", "adam_update"):
                assert np.isnan(result[part(how, at)]).all(), f"{key}, result {i}"
            result[part(how, at)] = before[part(how, at)] = 0
        assert_same_bits(result, before, f"{key}, result {i}")
    if name in ("sgd_update", "adam_update") or key == "dy":
        for result, expected in zip(results, expected_of(name, spoilt, dtype_of(name, args)), strict=True):
            np.testing.assert_array_equal(np.isnan(result), np.isnan(expected))


LINEAR_NEAR_ZERO = ("identity", "relu", "leaky_relu", "tanh", "softsign", "elu")


@pytest.mark.parametrize("name", [
    "dense_forward", "batchnorm_forward", "batchnorm_inference", "mean_squared_error", "sgd_update", *LINEAR_NEAR_ZERO])
@given(st.data())
def test_subnormal_numbers_count(name, data):
    """They are numbers with fewer digits: nothing takes them for zero."""
    kind = name if name in LINEAR_NEAR_ZERO else None
    name = "activation_forward" if kind else name
    args = data.draw(cases(name, (normal,))) | ({"kind": kind} if kind else {})
    if "eps" in args:
        args["eps"] = 1e-5
    dtype, rng = dtype_of(name, args), np.random.default_rng(data.draw(seeds))
    for key in float_arrays(args):
        if key not in ("weight", "gamma", "running_var"):
            args[key] = subnormal(rng, args[key])
    wide = FLOAT64 if dtype == FLOAT32 or not LONG or name.startswith("batchnorm") else np.dtype(np.longdouble)
    terms = 16
    if name == "dense_forward":
        terms += args["x"].shape[-1]
    elif name.startswith("batchnorm"):      # where also a mean that is good to half a unit of x is scaled
        terms += np.max(np.abs(args["gamma"])) / math.sqrt(args["eps"])
    for i, (result, expected) in enumerate(zip(call(name, args), expected_of(name, args, wide), strict=True)):
        allowed = terms * (float(np.finfo(dtype).smallest_subnormal) + EPS[dtype] * np.max(np.abs(expected)))
        assert np.max(np.abs(np.asarray(result).astype(wide) - expected)) <= allowed, f"result {i}"


# ---- memory that is shared

# an output that may be an input itself
MAY_BE = {
    ("batchnorm_forward", "out"): ["x"], ("batchnorm_backward", "dx"): ["dout", "x"], ("batchnorm_inference", "out"): ["x"],
    ("activation_forward", "out"): ["x"], ("activation_backward", "dx"): ["dy", "y"],
    ("softmax_cross_entropy", "dlogits"): ["logits"], ("sigmoid_cross_entropy", "dlogits"): ["logits"],
    ("mean_squared_error", "dpred"): ["pred"],
}


def two_in_one(a, b, shift):
    """Copies of both in one piece of memory, `a` beginning `shift` bytes behind `b`; what they share holds `b`."""
    memory = np.zeros((a.nbytes + b.nbytes + abs(shift)) // 8 + 2, FLOAT64).view(np.uint8)
    starts = max(shift, 0), max(-shift, 0)
    places = [memory[start:start + c.nbytes].view(c.dtype).reshape(c.shape) for start, c in zip(starts, (a, b), strict=True)]
    for place, c in zip(places, (a, b), strict=True):
        place[...] = c
    return memory, *places


@every_op
@given(st.data(), seeds)
def test_memory_that_is_shared(name, data, seed):
    """An output that is an input, where it may be, is as good as any. A part in common is refused, and both are named."""
    args = data.draw(cases(name, (normal, integers)))
    expected = call(name, args)
    outputs = empty_outputs(name, args)
    arrays = [key for key, a in (args | outputs).items() if isinstance(a, np.ndarray)]
    rng = np.random.default_rng(seed)
    for written, other in itertools.product([*outputs, *updated(name, args)], arrays):
        if written == other:
            continue
        both = {key: a.copy() if key in arrays else a for key, a in (args | outputs).items()}
        a, b = both[written], both[other]
        unit = max(a.itemsize, b.itemsize)
        shift = int(rng.choice([0, rng.integers(-a.nbytes // unit - 1, b.nbytes // unit + 2)])) * unit
        memory, both[written], both[other] = two_in_one(a, b, shift)
        case = f"{written} begins {shift} bytes behind {other}"
        if -a.nbytes < shift < b.nbytes and not (shift == 0 and other in MAY_BE.get((name, written), ())):
            before = memory.tobytes()
            with pytest.raises(ValueError, match=rf"^{written}: .*\b{other}\b|^{other}: .*\b{written}\b"):
                getattr(fastnn, name)(**both)
                pytest.fail(case)
            assert memory.tobytes() == before, case
        else:
            assert_same_bits(results_of(getattr(fastnn, name), name, both), expected, case)


# ---- any number of threads

@pytest.fixture(scope="module")
def shared_work():
    """The kernels share work of any size among threads."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (fastnn.batchnorm, fastnn.activation, fastnn.sgd, fastnn.adam):
            patch.setattr(module, "SHARED_SIZE", 0)
        patch.setattr(fastnn.dense, "SHARED_WORK", 0)
        yield


@every_op
@given(st.data(), st.integers(2, 9), st.sampled_from((1, 200, 600, 1030)))
def test_any_number_of_threads_gives_the_same_bits(shared_work, name, data, threads, columns):
    args = data.draw(cases(name, (normal, special)))
    if OPS[name].any_shape:     # long enough to be shared
        args |= {key: np.resize(args[key], columns * 100) for key in float_arrays(args)}
    elif name.startswith("batchnorm"):
        args |= {key: np.resize(args[key], (*args[key].shape[:-1], columns)) for key in float_arrays(args)}
    with fastnn.num_threads(1):
        expected = call(name, args)
    with fastnn.num_threads(threads):
        assert_same_bits(plain_nan(call(name, args)), plain_nan(expected), threads)


# ---- the same, seen from elsewhere

@st.composite
def matrices(draw, least=1, columns=widths):
    """A generator, and a dtype, rows and columns for it."""
    return np.random.default_rng(draw(seeds)), draw(dtypes), draw(heights) + least - 1, draw(columns)


def numbers(rng, dtype, *shape):
    return rng.standard_normal(shape).astype(dtype)


@given(matrices(least=2), st.integers(-24, 24), st.sampled_from((1e-5, 0.5, 2.0**-20)))
def test_batchnorm_of_data_scaled_by_a_power_of_two(case, k, eps):
    """With eps scaled by its square: the same bits but for the scale."""
    rng, dtype, n, d = case
    x, dout = numbers(rng, dtype, n, d), numbers(rng, dtype, n, d)
    gamma, beta, mean = numbers(rng, dtype, 3, d)
    scale = dtype.type(2.0**k)

    def run(x, mean, var, eps):
        running = np.zeros(d, dtype), np.zeros(d, dtype)
        forward = batchnorm_forward(x, gamma, beta, *running, eps=eps)
        backward = batchnorm_backward(dout, x, gamma, *forward[1:])
        return [*forward, *running, *backward, batchnorm_inference(x, gamma, beta, mean, var, eps=eps)]

    ones = run(x, mean, mean**2, eps)
    scaled = run(x * scale, mean * scale, (mean * scale) ** 2, eps * 4.0**k)
    for i, power in enumerate((0, k, -k, k, 2 * k, -k, 0, 0, 0)):
        # out, mean, rstd, running mean and variance, dx, dgamma, dbeta, out of inference
        assert_same_bits(scaled[i], ones[i] * ones[i].dtype.type(2.0**power), f"result {i}")


# the arguments whose columns are permuted, and whether those of each result then are
COLUMNS = {
    "dense_forward": (["weight", "bias"], [True]),
    "dense_backward": (["dout", "weight"], [False, True, True]),
    "batchnorm_forward": (["x", "gamma", "beta", "running_mean", "running_var"], [True] * 5),
    "batchnorm_backward": (["dout", "x", "gamma", "mean", "rstd"], [True] * 3),
    "batchnorm_inference": (["x", "gamma", "beta", "running_mean", "running_var"], [True]),
    "activation_forward": (["x"], [True]),
    "activation_backward": (["dy", "y"], [True]),
    "sigmoid_cross_entropy": (["logits", "targets"], [False, True]),
    "mean_squared_error": (["pred", "target"], [False, True]),
    "sgd_update": (["param", "grad", "velocity"], [True, True]),
    "adam_update": (["param", "grad", "m", "v"], [True] * 3),
}
ROWS = {
    "dense_forward": (["x"], [True]),
    "dense_backward": (["dout", "x"], [True, False, False]),
    "batchnorm_inference": (["x"], [True]),
    "softmax_cross_entropy": (["logits", "labels"], [False, True]),
    "sigmoid_cross_entropy": (["logits", "targets"], [False, True]),
    "mean_squared_error": (["pred", "target"], [False, True]),
}


def assert_permutes(name, args, keys, results, order, axis):
    permuted = args | {key: np.ascontiguousarray(args[key].take(order, axis)) for key in keys if args[key] is not None}
    if OWN or not name.startswith("dense"):
        for i, (result, before) in enumerate(zip(call(name, permuted), call(name, args), strict=True)):
            if results[i]:
                assert_same_bits(result, before.take(order, axis), f"result {i}")


@pytest.mark.parametrize("name", COLUMNS)
@given(st.data())
def test_permuted_columns_permute(name, data):
    args = data.draw(cases(name, (normal,)))
    keys, results = COLUMNS[name]
    width = args[keys[0]].shape[-1]
    assert_permutes(name, args, keys, results, np.random.default_rng(data.draw(seeds)).permutation(width), -1)


@given(matrices())
def test_permuted_inputs_of_a_dense_layer_permute_their_gradients(case):
    rng, dtype, n, d = case
    args = OPS["dense_backward"].arguments(rng, dtype, n, d)
    order = rng.permutation(d)
    dx, dweight, dbias = call("dense_backward", args)
    again = call("dense_backward", args | {"x": args["x"][:, order].copy(), "weight": args["weight"][order].copy()})
    if OWN:
        assert_same_bits(again, [dx[:, order], dweight[order], dbias], "dense_backward")


@pytest.mark.parametrize("name", ROWS)
@given(st.data())
def test_permuted_rows_permute(name, data):
    args = data.draw(cases(name, (normal,)))
    keys, results = ROWS[name]
    assert_permutes(name, args, keys, results, np.random.default_rng(data.draw(seeds)).permutation(len(args[keys[0]])), 0)


@given(matrices(), st.data())
def test_a_dense_layer_takes_row_by_row(case, data):
    """The rows of the output in parts: the same bits, as each element is a sum of its own."""
    rng, dtype, n, d = case
    args = OPS["dense_forward"].arguments(rng, dtype, n, d)
    args["bias"] = data.draw(st.sampled_from((args["bias"], None)))
    cut = data.draw(st.integers(0, n))
    whole, = call("dense_forward", args)
    parts = [call("dense_forward", args | {"x": args["x"][rows]})[0] for rows in (slice(cut), slice(cut, None))]
    if OWN:
        assert_same_bits(np.concatenate(parts), whole, cut)
    # a gradient may go by other ways for few rows
    backward = OPS["dense_backward"].arguments(rng, dtype, n, d)
    expected, exact = call("dense_backward", backward), expected_of("dense_backward", backward, FLOAT64)
    halves = [call("dense_backward", backward | {key: backward[key][rows] for key in ("dout", "x")})
              for rows in (slice(cut), slice(cut, None))]
    joined = [np.concatenate([h[0] for h in halves]), *(halves[0][i] + halves[1][i] for i in (1, 2))]
    for i, (budget, size) in enumerate(budgets("dense_backward", backward, exact)):
        assert (np.abs(joined[i].astype(FLOAT64) - expected[i]) <= 2 * (budget + 1) * EPS[dtype] * size).all(), i


@given(st.data(), st.integers(1, 3))
def test_columns_of_a_batchnorm_are_apart(data, cut):
    args = data.draw(cases("batchnorm_forward", (normal, special)))
    cut = min(cut, args["x"].shape[1])
    pieces = []
    for columns in (slice(cut), slice(cut, None)):
        piece = {key: args[key][..., columns] if key in float_arrays(args) else args[key] for key in args}
        if piece["x"].size:
            pieces.append(call("batchnorm_forward", piece))
    for i, whole in enumerate(call("batchnorm_forward", args)):
        assert_same_bits(plain_nan([np.concatenate([p[i] for p in pieces], -1)]), plain_nan([whole]), i)


@given(st.data())
def test_a_rate_of_zero_moves_the_velocity_only(data):
    args = data.draw(cases("sgd_update", (normal, integers, subnormal))) | {"lr": 0.0}
    args["param"] = args["param"] + 0       # but for a zero, which loses its sign
    param, *velocity = call("sgd_update", args)
    assert_same_bits(param, args["param"], "param")
    if velocity:
        assert_same_bits(velocity, call("sgd_update", args | {"lr": 0.25})[1:], "velocity")
        g = args["grad"] + args["param"].dtype.type(args["weight_decay"]) * args["param"]
        assert_near(velocity[0], args["param"].dtype.type(args["momentum"]) * args["velocity"] + g, 4, "velocity", 3)


@given(st.data())
def test_factors_of_zero_are_as_if_they_were_not_there(data):
    args = data.draw(cases("sgd_update", (normal,)))
    args |= {"weight_decay": 0.0, "momentum": 0.0, "nesterov": False}
    least = {key: args[key] for key in ("param", "grad", "lr")} | {"velocity": None}
    expected = call("sgd_update", least)
    assert_same_bits(call("sgd_update", args)[:1], expected, "zeros")
    assert_same_bits(call("sgd_update", args | {"velocity": np.full_like(args["param"], 3)})[:1], expected, "a velocity")


@given(st.data(), st.floats(0, 1))
def test_an_update_of_all_is_an_update_of_the_parts(data, where):
    args = data.draw(cases("sgd_update", (normal, special)))
    args |= {key: args[key].reshape(-1) for key in float_arrays(args)}
    cut = int(where * args["param"].size)
    parts = [call("sgd_update", args | {key: args[key][part] for key in float_arrays(args)}) for part in (
        slice(cut), slice(cut, None))]
    joined = [np.concatenate(pair) for pair in zip(*parts, strict=True)]
    assert_same_bits(plain_nan(joined), plain_nan(call("sgd_update", args)), cut)


@given(matrices(), st.data())
def test_a_constant_added_to_the_logits_of_a_row_is_not_seen(case, data):
    """As long as the sums are exact: the softmax is of differences."""
    rng, dtype, n, d = case
    logits = rng.integers(-30, 30, (n, d)).astype(dtype) / 4
    labels = rng.integers(0, d, n)
    constants = rng.integers(-1000, 1000, (n, 1)).astype(dtype) / 2
    expected = fastnn.softmax_cross_entropy(logits, labels)
    assert_same_bits(fastnn.softmax_cross_entropy(logits + constants, labels), expected, "shifted")


@given(matrices())
def test_permuted_classes_permute_the_gradient(case):
    rng, dtype, n, d = case
    logits, labels, order = numbers(rng, dtype, n, d) * 5, rng.integers(0, d, n), rng.permutation(d)
    loss, gradient = fastnn.softmax_cross_entropy(logits, labels)
    again, permuted = fastnn.softmax_cross_entropy(logits[:, order].copy(), np.argsort(order)[labels])
    assert abs(again - loss) <= 40 * EPS[FLOAT64] * max(1, loss)
    assert_near(permuted, gradient[:, order].copy(), 2 * TOL[dtype]["dlogits"], "gradient")


# ---- initialisers

OTHERS = ("constant", "equal_units", "gain", "lsuv", "normal", "output_bias", "sparse", "uniform", "zeros")
SCALED = [name for name in init.__all__ if name not in OTHERS]
BOUND = {
    "xavier_uniform": lambda i, o: math.sqrt(6 / (i + o)), "glorot_uniform": lambda i, o: math.sqrt(6 / (i + o)),
    "he_uniform": lambda i, o: math.sqrt(6 / i), "lecun_uniform": lambda i, o: math.sqrt(3 / i),
    "fan_in_uniform": lambda i, o: 1 / math.sqrt(i), "orthogonal": lambda i, o: 1 + 1e-6,
}


@pytest.mark.parametrize("name", SCALED)
@given(st.tuples(widths, widths), dtypes, seeds, st.floats(0, 1e300) | st.sampled_from((0, 1, 1.5, 1e38)))
@np.errstate(over="ignore")
def test_initial_weights(name, shape, dtype, seed, gain):
    """Finite, within their bound, of this seed only, float32 as the rounded float64; or refused, and nothing was drawn."""
    function = getattr(init, name)
    rng = np.random.default_rng(seed)
    before = rng.bit_generator.state, np.random.get_state()[1].tobytes()       # noqa: NPY002
    try:
        w = function(shape, gain=gain, rng=rng, dtype=dtype)
    except ValueError as e:
        assert str(e).startswith("gain: ") and gain > 1e300 * EPS[FLOAT64] * (dtype == FLOAT64) + 1e37 * (dtype == FLOAT32)
        assert rng.bit_generator.state == before[0]
        return
    finally:
        assert np.random.get_state()[1].tobytes() == before[1]                 # noqa: NPY002
    assert w.dtype == dtype and w.shape == shape and w.flags.carray and np.isfinite(w).all()
    assert rng.bit_generator.state != before[0]
    assert_same_bits(function(shape, gain=gain, rng=seed, dtype=dtype), w, "a seed for a generator")
    if name in BOUND:
        assert float(np.abs(w).max()) <= gain * BOUND[name](*shape)
    else:
        assert float(np.abs(w).max()) <= 16 * gain * math.sqrt(2)
    if dtype == FLOAT32 and not name.endswith("uniform"):      # whose bound is rounded down
        assert_same_bits(function(shape, gain=gain, rng=seed, dtype=FLOAT64).astype(FLOAT32), w, "float64")


@given(st.tuples(widths, widths), dtypes, seeds, st.data())
def test_initial_weights_that_are_sparse(shape, dtype, seed, data):
    nonzeros = data.draw(st.integers(1, shape[0]))
    w = init.sparse(shape, nonzeros=nonzeros, rng=seed, dtype=dtype)
    assert w.dtype == dtype and w.shape == shape
    assert ((w != 0).sum(axis=0) == nonzeros).all()
