"""What every kernel promises about its arguments: layouts, refusals, outputs, memory, threads."""

import copy
import functools
import inspect
import itertools
import pickle
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import pytest
from conftest import (
    DTYPES,
    FLOAT32,
    FLOAT64,
    LAYOUTS,
    NOT_IN_PLACE,
    as_matrix,
    assert_refused,
    assert_same_bits,
    nan,
    normal,
    plain,
    run_alone,
)

import fastnn
from fastnn import reference
from fastnn._kernels import activation, adam, batchnorm, by_dtype, dense, gemm, loss, memory, sgd


class Op(NamedTuple):
    arguments: Callable         # (rng, dtype, rows, width) -> every argument but the outputs, by name
    outputs: dict               # of each output argument: its place among the results
    leading: str                # the argument whose dtype and shape the others must follow
    in_place: tuple = ()        # the arguments that are updated
    optional: tuple = ()        # the arguments that may be None
    any_shape: bool = False     # not only matrices


def positive(rng, dtype, *shape):
    return (0.1 + rng.random(shape)).astype(dtype)


def fractions(rng, dtype, *shape):
    return rng.random(shape).astype(dtype)


def layer(rng, dtype, n, d):
    """Out of `d` columns come two more, so that no two shapes agree by accident."""
    return {"x": normal(rng, dtype, n, d), "weight": normal(rng, dtype, d, d + 2)}


def vectors(rng, dtype, d, *names):
    return {name: (positive if name.endswith("var") else normal)(rng, dtype, d) for name in names}


OPS = {
    "dense_forward": Op(
        lambda rng, dtype, n, d: layer(rng, dtype, n, d) | {"bias": normal(rng, dtype, d + 2)},
        {"out": 0}, "x", optional=("bias",)),
    "dense_backward": Op(
        lambda rng, dtype, n, d: {"dout": normal(rng, dtype, n, d + 2)} | layer(rng, dtype, n, d),
        {"dx": 0, "dweight": 1, "dbias": 2}, "x"),
    "batchnorm_forward": Op(
        lambda rng, dtype, n, d: {"x": normal(rng, dtype, n, d)} | vectors(
            rng, dtype, d, "gamma", "beta", "running_mean", "running_var"),
        {"out": 0}, "x", in_place=("running_mean", "running_var"), optional=("running_mean", "running_var")),
    "batchnorm_backward": Op(
        lambda rng, dtype, n, d: {"dout": normal(rng, dtype, n, d), "x": normal(rng, dtype, n, d)} | vectors(
            rng, dtype, d, "gamma") | {"mean": normal(rng, FLOAT64, d), "rstd": positive(rng, FLOAT64, d)},
        {"dx": 0, "dgamma": 1, "dbeta": 2}, "x"),
    "batchnorm_inference": Op(
        lambda rng, dtype, n, d: {"x": normal(rng, dtype, n, d)} | vectors(
            rng, dtype, d, "gamma", "beta", "running_mean", "running_var"),
        {"out": 0}, "x"),
    "activation_forward": Op(
        lambda rng, dtype, n, d: {"x": normal(rng, dtype, n, d), "kind": "tanh"}, {"out": 0}, "x", any_shape=True),
    "activation_backward": Op(
        lambda rng, dtype, n, d: {"dy": normal(rng, dtype, n, d), "y": fractions(rng, dtype, n, d), "kind": "tanh"},
        {"dx": 0}, "dy", any_shape=True),
    "softmax_cross_entropy": Op(
        lambda rng, dtype, n, d: {"logits": normal(rng, dtype, n, d), "labels": rng.integers(0, d, n)},
        {"dlogits": 1}, "logits"),
    "sigmoid_cross_entropy": Op(
        lambda rng, dtype, n, d: {"logits": normal(rng, dtype, n, d), "targets": fractions(rng, dtype, n, d)},
        {"dlogits": 1}, "logits"),
    "mean_squared_error": Op(
        lambda rng, dtype, n, d: {"pred": normal(rng, dtype, n, d), "target": normal(rng, dtype, n, d)},
        {"dpred": 1}, "pred"),
    "sgd_update": Op(
        lambda rng, dtype, n, d: {
            "param": normal(rng, dtype, n, d), "grad": normal(rng, dtype, n, d), "velocity": normal(rng, dtype, n, d),
            "lr": 0.1, "momentum": 0.9},
        {}, "param", in_place=("param", "velocity"), optional=("velocity",), any_shape=True),
    "adam_update": Op(
        lambda rng, dtype, n, d: {key: normal(rng, dtype, n, d) for key in ("param", "grad", "m")} | {
            "v": positive(rng, dtype, n, d), "lr": 0.1, "step": 3},
        {}, "param", in_place=("param", "m", "v"), any_shape=True),
}
STATISTICS = ("mean", "rstd")       # float64 whatever the dtype of the data
every_op = pytest.mark.parametrize("name", OPS)
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def arguments(rng, name, dtype, n=6, d=5):
    return OPS[name].arguments(rng, dtype, n, d)


def call(name, args, **outputs):
    """The results, and behind them the arguments that were updated, which are copies here."""
    args = args | {key: args[key].copy() for key in OPS[name].in_place}
    results = getattr(fastnn, name)(**args, **outputs)
    results = results if isinstance(results, tuple) else (results,)
    return [*results, *(args[key] for key in OPS[name].in_place)]


def outputs_of(name, args, results=None):
    """An array of NaN for each output."""
    results = results or call(name, args)
    return {key: np.full_like(results[place], np.nan) for key, place in OPS[name].outputs.items()}


def float_arrays(args):
    return [key for key, value in args.items() if isinstance(value, np.ndarray) and value.dtype.kind == "f"]


def inputs(name, args):
    return [key for key, value in args.items() if isinstance(value, np.ndarray) and key not in OPS[name].in_place]


def refuse(error, name, args, key, value, said=None):
    """With `value` for the argument or output `key`, the call is refused; every output given is left alone."""
    given = args if key in args else args | {key: value}
    return assert_refused(error, said or key, getattr(fastnn, name), **given | {key: value})


# ---- the same functions as in the specification

@every_op
def test_signature_is_that_of_the_reference(name):
    outputs = OPS[name].outputs
    parameters = dict(inspect.signature(getattr(fastnn, name)).parameters)
    given = [parameters.pop(key) for key in outputs]
    assert all(p.kind is p.KEYWORD_ONLY and p.default is None for p in given)
    twin = inspect.signature(getattr(reference, name)).parameters
    assert [str(p.replace(annotation=p.empty)) for p in parameters.values()] == [
        str(p.replace(annotation=p.empty)) for p in twin.values()]
    assert [p.kind for p in parameters.values()] == [p.kind for p in twin.values()]


@every_op
@every_dtype
def test_results_keep_the_dtype(rng, name, dtype):
    for result in call(name, arguments(rng, name, dtype)):
        if isinstance(result, np.ndarray):
            mean_or_rstd = name == "batchnorm_forward" and result.ndim == 1 and result.dtype != dtype
            assert result.dtype == dtype or mean_or_rstd
            assert result.dtype.isnative
            assert type(result) is np.ndarray
            assert result.flags.carray
        else:
            assert result is None or type(result) is float
    if name == "batchnorm_forward":
        _, mean, rstd, *_ = call(name, arguments(rng, name, dtype))
        assert (mean.dtype, rstd.dtype) == (FLOAT64, FLOAT64)


# ---- inputs of any layout

@every_op
@every_dtype
@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_layout_gives_the_same_bits(rng, name, dtype, layout):
    for n, d in [(6, 5), (33, 17), (2, 1)]:
        args = arguments(rng, name, dtype, n, d)
        keys = inputs(name, args)
        for changed in [*([key] for key in keys), keys]:
            laid_out = args | {key: LAYOUTS[layout](args[key]) for key in changed}
            before = {key: laid_out[key].tobytes() for key in changed}
            expected = call(name, args | {key: plain(laid_out[key]) for key in changed})
            assert_same_bits(call(name, laid_out), expected, f"{changed} {layout}, {n, d}")
            assert before == {key: laid_out[key].tobytes() for key in changed}


@every_op
@every_dtype
def test_any_alignment_gives_the_same_bits(rng, name, dtype):
    """Where an array begins, on a cache line or between two, is no part of its value."""
    args = arguments(rng, name, dtype, 9, 37)
    expected = call(name, args)
    for offset in range(1, 17):
        moved = {}
        for key in inputs(name, args):
            memory = np.zeros(args[key].size + 16, args[key].dtype)
            moved[key] = memory[offset:offset + args[key].size].reshape(args[key].shape)
            moved[key][...] = args[key]
        outputs = {}
        for key, place in OPS[name].outputs.items():
            memory = nan(dtype, expected[place].size + 16)
            outputs[key] = memory[offset:offset + expected[place].size].reshape(expected[place].shape)
        assert_same_bits(call(name, args | moved, **outputs), expected, offset)


@every_op
@every_dtype
def test_inputs_are_not_touched(rng, name, dtype):
    args = arguments(rng, name, dtype, 9, 17)
    before = {key: args[key].tobytes() for key in inputs(name, args)}
    call(name, args, **outputs_of(name, args))
    assert {key: args[key].tobytes() for key in inputs(name, args)} == before


class Wrapped:
    """Not an array, but able to give one, as those of other libraries are."""

    def __init__(self, a):
        self.a = a

    def __array__(self, dtype=None, copy=None):
        return self.a


class Exported:
    """The same by DLPack alone."""

    def __init__(self, a):
        self.a = a

    def __dlpack__(self, **options):
        return self.a.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.a.__dlpack_device__()


class Elsewhere:
    """An array in the memory of a GPU, which says so when it is asked for."""

    def __array__(self, dtype=None, copy=None):
        raise TypeError("can't convert cuda:0 device type tensor to numpy")


class ElsewhereExported:
    def __dlpack__(self, **options):
        raise BufferError("not without a stream")

    def __dlpack_device__(self):
        return 2, 0


@every_op
def test_arrays_elsewhere(rng, name):
    args = arguments(rng, name, FLOAT32)
    given = args | outputs_of(name, args)
    for key in inputs(name, args):
        for thing, reason in ((Elsewhere(), "cuda:0"), (ElsewhereExported(), "")):
            text = refuse(TypeError, name, given, key, thing)
            assert "in the memory of the processor" in text and type(thing).__name__ in text and reason in text
    for key in given.keys() - set(inputs(name, args)):
        if isinstance(given[key], np.ndarray):
            for thing in (Wrapped(given[key]), Exported(given[key])):
                assert "to write into" in refuse(TypeError, name, given, key, thing)


@every_op
def test_other_kinds_of_array(rng, name):
    """A subclass with no meaning of its own, and what can give an array."""
    args = arguments(rng, name, FLOAT32)
    expected = call(name, args)

    class Subclass(np.ndarray):
        pass

    for key in inputs(name, args):
        assert_same_bits(call(name, args | {key: args[key].view(Subclass)}), expected, key)
        for other in (Wrapped, Exported):
            assert_same_bits(call(name, args | {key: other(args[key])}), expected, key)
    same = {key: args[key].astype(np.dtype(args[key].dtype, metadata={"unit": "m"})) for key in float_arrays(args)}
    assert_same_bits(call(name, args | same), expected, "a dtype with metadata")


# ---- refusals: each leaves every argument as it was

def wrong_dtypes(a):
    for kind in ("i8", "i1", "u2", "?", "f2", "c8", "c16", "O", "S4", "U4", "V4", "M8[s]", "m8[s]", "f4,f4"):
        yield np.zeros(a.shape, kind)
    if np.finfo(np.longdouble).bits != np.finfo(np.float64).bits:
        yield a.astype(np.longdouble)


@every_op
@every_dtype
def test_wrong_dtypes(rng, name, dtype):
    args = arguments(rng, name, dtype)
    given = args | outputs_of(name, args)
    for key in float_arrays(given):
        for wrong in wrong_dtypes(given[key]):
            text = refuse(TypeError, name, given, key, wrong)
            assert "float32" in text or "float64" in text
            if wrong.dtype.kind in "iub" and key not in STATISTICS:
                assert ".astype(numpy.float32)" in text


@every_op
def test_dtypes_of_the_new_style(rng, name):
    args = arguments(rng, name, FLOAT32)
    given = args | outputs_of(name, args)
    for key in float_arrays(given):
        refuse(TypeError, name, given, key, np.full(given[key].shape, "1", np.dtypes.StringDType()))


@every_op
@every_dtype
def test_float32_with_float64(rng, name, dtype):
    other = FLOAT64 if dtype == FLOAT32 else FLOAT32
    args = arguments(rng, name, dtype)
    given = args | outputs_of(name, args)
    others = [key for key in float_arrays(given) if key not in STATISTICS and key != OPS[name].leading]
    for key in others:
        text = refuse(TypeError, name, given, key, given[key].astype(other))
        assert "float32" in text
        assert "float64" in text
        if key in args and key not in OPS[name].in_place:
            assert OPS[name].leading in text or "weight" in text
    # the leading argument alone is the odd one out
    leading = OPS[name].leading
    if others:
        with pytest.raises(TypeError):
            getattr(fastnn, name)(**given | {leading: given[leading].astype(other)})
    for key in STATISTICS:
        if key in given:
            refuse(TypeError, name, given, key, given[key].astype(FLOAT32))


@every_op
def test_things_that_are_no_arrays(rng, name):
    args = arguments(rng, name, FLOAT32)
    given = args | outputs_of(name, args)
    for key in float_arrays(given):
        a = given[key]
        written = key not in inputs(name, args)
        optional = key in OPS[name].optional or key in OPS[name].outputs
        for wrong in (1, 1.0, 1j, True, "text", b"bytes", object(), {}, {1.0}, len, np.float32, memoryview(a), a.dtype):
            refuse(TypeError, name, given, key, wrong)
        if not optional:
            refuse(TypeError, name, given, key, None)
        refuse(TypeError, name, given, key, np.ma.masked_array(a))
        refuse(TypeError, name, given, key, np.ma.masked_array(a, a > 0))
        for wrong in (a.tolist(), tuple(a.tolist()), [], as_matrix(a)):
            text = refuse(TypeError if written else ValueError, name, given, key, wrong)
            if not written:
                assert "ndim" in text


@every_op
def test_ragged_lists(rng, name):
    args = arguments(rng, name, FLOAT32)
    for key in inputs(name, args):
        if args[key].dtype == FLOAT32:
            refuse(ValueError, name, args, key, [[1.0, 2.0], [3.0]])


@every_op
@every_dtype
def test_wrong_ndim(rng, name, dtype):
    args = arguments(rng, name, dtype)
    given = args | outputs_of(name, args)
    for key in float_arrays(given):
        a = given[key]
        for wrong in (a[None], a[..., None], np.ascontiguousarray(a[0]), a.reshape(-1, 1, 1, 1)):
            wrong = np.asarray(wrong, a.dtype)
            if not (OPS[name].any_shape and key == OPS[name].leading):
                refuse(ValueError, name, given, key, wrong)


@every_op
@every_dtype
def test_wrong_shapes(rng, name, dtype):
    args = arguments(rng, name, dtype)
    given = args | outputs_of(name, args)
    for key in float_arrays(given):
        if key != OPS[name].leading:
            a = given[key]
            longer, wider = np.concatenate([a, a[:1]]), np.concatenate([a, a[..., :1]], axis=-1)
            taller_or_shorter = (a[:-1].copy(), longer)
            # a weight of another width is at odds with bias and dout: either may be named
            for wrong in taller_or_shorter if key == "weight" else (*taller_or_shorter, a[..., :-1].copy(), wider):
                text = refuse(ValueError, name, given, key, wrong)
                assert str(wrong.shape) in text


@pytest.mark.parametrize(("name", "key"), [
    ("sgd_update", "lr"), ("sgd_update", "momentum"), ("sgd_update", "weight_decay"), ("batchnorm_forward", "momentum"),
    ("batchnorm_forward", "eps"), ("batchnorm_inference", "eps"), ("adam_update", "lr"), ("adam_update", "beta1"),
    ("adam_update", "beta2"), ("adam_update", "eps"), ("adam_update", "weight_decay"), ("adam_update", "step"),
])
def test_integers_beyond_every_float(rng, name, key):
    refuse(ValueError, name, arguments(rng, name, FLOAT32), key, 10**400)


# ---- outputs

@every_op
@every_dtype
def test_outputs_are_used_and_overwritten(rng, name, dtype):
    for n, d in [(6, 5), (40, 33)]:
        args = arguments(rng, name, dtype, n, d)
        expected = call(name, args)
        outputs = outputs_of(name, args, expected)
        every = [[key] for key in outputs] + [list(outputs)]
        for keys in every:
            given = {key: np.full_like(outputs[key], np.nan) for key in keys}
            results = call(name, args, **given)
            assert_same_bits(results, expected, keys)
            assert all(results[OPS[name].outputs[key]] is given[key] for key in keys)


@every_op
@every_dtype
def test_outputs_must_be_fit_to_be_written(rng, name, dtype):
    args = arguments(rng, name, dtype)
    given = args | outputs_of(name, args)
    for key, layout in itertools.product([*OPS[name].outputs, *OPS[name].in_place], NOT_IN_PLACE):
        laid_out = LAYOUTS[layout](given[key])
        if layout == "fortran" and laid_out.ndim == 1:
            continue
        refuse(ValueError, name, given, key, laid_out)


@every_op
def test_output_of_a_subclass(rng, name, tmp_path):
    """A memory-mapped file, say: it is written, and what comes back shares its memory."""
    args = arguments(rng, name, FLOAT32)
    expected = call(name, args)
    for key, place in OPS[name].outputs.items():
        out = np.memmap(tmp_path / key, FLOAT32, "w+", shape=expected[place].shape)
        results = call(name, args, **{key: out})
        assert np.shares_memory(results[place], out)
        assert_same_bits(np.asarray(out), expected[place], key)
        del out, results


@every_op
@every_dtype
def test_an_input_that_is_copied_may_not_lie_under_an_output(rng, name, dtype):
    """The copy would hide that it is written over."""
    args = arguments(rng, name, dtype)
    given = args | outputs_of(name, args)
    for key, other in itertools.product([*OPS[name].outputs, *OPS[name].in_place], inputs(name, args)):
        a, b = given[key], given[other]
        memory = np.zeros(a.nbytes + 2 * b.nbytes, np.uint8)
        written = memory[:a.nbytes].view(a.dtype).reshape(a.shape)
        strided = memory[:2 * b.nbytes].view(b.dtype).reshape(*b.shape[:-1], -1)[..., ::2]
        swapped = memory[:b.nbytes].view(b.dtype.newbyteorder()).reshape(b.shape)
        for under in (strided, swapped):
            assert other in refuse(ValueError, name, given | {key: written}, other, under, key)
        beside = memory[a.nbytes:].view(b.dtype).reshape(*b.shape[:-1], -1)[..., ::2]
        getattr(fastnn, name)(**given | {key: written, other: beside})


def test_outputs_may_lie_between_the_rows_of_an_input(rng):
    memory = normal(rng, FLOAT32, 6, 4)
    weight, before = normal(rng, FLOAT32, 4, 4), memory.copy()
    out = fastnn.dense_forward(memory[::4], weight, out=memory[2:4])
    assert_same_bits(out.copy(), fastnn.dense_forward(before[::4], weight), "between")


# ---- the compiled entries

def matrices(rng, dtype, n, d, count):
    return [fractions(rng, dtype, n, d) for _ in range(count)]


def compiled(rng, dtype, n, d):
    """Every compiled function with arguments that it takes."""
    a, b, c, e = matrices(rng, dtype, n, d, 4)
    u, v, w, z = (positive(rng, dtype, d) for _ in range(4))
    mean, rstd = np.zeros(d), np.ones(d)
    weight, dweight = normal(rng, dtype, d, d), nan(dtype, d, d)
    labels = np.zeros(n, np.intp)
    flat = [x.reshape(-1) for x in (a, b, c, e)]
    return {
        "dense.forward": (dense.forward, [a, weight, u, c]),
        "dense.backward": (dense.backward, [a, b, weight, c, dweight, v]),
        "dense.bias_forward": (dense.bias_forward, [u, c]),
        "dense.bias_backward": (dense.bias_backward, [a, v]),
        "batchnorm.forward": (batchnorm.forward, [a, u, v, 1e-5, 0.1, w, z, c, mean, rstd]),
        "batchnorm.backward": (batchnorm.backward, [a, b, u, mean, rstd, c, v, w]),
        "batchnorm.inference": (batchnorm.inference, [a, u, v, w, z, 1e-5, c]),
        "activation.forward": (activation.forward, [flat[0], activation.KINDS["tanh"], flat[2]]),
        "activation.backward": (activation.backward, [flat[0], flat[1], activation.KINDS["tanh"], flat[2]]),
        "loss.softmax": (loss.softmax, [a, labels, c]),
        "loss.sigmoid": (loss.sigmoid, [a, b, c]),
        "loss.squared_error": (loss.squared_error, [a, b, c]),
        "sgd.update": (sgd.update, [flat[0], 0.1, 0.9, False, 0.0, flat[1], flat[2]]),
        "adam.update": (adam.update, [flat[0], 0.1, 3.0, 0.9, 0.999, 1e-8, False, 0.1, True, *flat[1:]]),
        "gemm.product": (gemm.product, [a, weight, u, c]),
    }


COMPILED = list(compiled(np.random.default_rng(0), FLOAT32, 2, 3))
GARBAGE = (
    None, 3, -1, 2.5, True, "text", "", b"", b"bytes", [], (), {}, object(), len, type, float("nan"), 1j, slice(None),
    memoryview(b"bytes"), bytearray(3), np.float32(1), np.zeros(()), np.zeros(0, bool), np.zeros(3, "f2"),
    *(np.zeros((2, 3), kind) for kind in ("i4", "c8", "c16", "O", ">f4", ">f8", "S3", "f4,f4")),
    *(np.zeros(shape, kind) for shape in [(2, 2, 2), (1,) * 9] for kind in ("f4", "f8")),
)


def call_with_garbage():
    """Every compiled function with one argument, or all, replaced by each of GARBAGE, and with too few or too many."""
    rng = np.random.default_rng(2)
    for dtype, name in itertools.product(DTYPES, COMPILED):
        function, good = compiled(rng, dtype, 2, 3)[name]
        for version in (function, by_dtype(function)[dtype]):
            version(*good)
            for place, thing in itertools.product(range(len(good)), GARBAGE):
                attempt(version, [*good[:place], thing, *good[place + 1:]], f"{name}, argument {place}")
            for thing in GARBAGE:
                attempt(version, [thing] * len(good), name)
            for few in range(len(good)):
                attempt(version, good[:few], name)
            attempt(version, [*good, None], name)
            read_only = [thing.copy() if isinstance(thing, np.ndarray) else thing for thing in good]
            for thing in read_only:
                if isinstance(thing, np.ndarray):
                    thing.flags.writeable = False
            attempt(version, read_only, name, must_fail=True)


def attempt(function, args, where, must_fail=False):
    # said beforehand, for the case of a crash
    print(where, [type(a).__name__ for a in args], file=sys.stderr)
    try:
        function(*args)
    except (TypeError, ValueError, BufferError):
        return
    except Exception as e:
        raise AssertionError(f"{where}: {e!r}") from e
    assert not must_fail, where


def test_garbage_does_not_crash_a_compiled_function():
    done = run_alone(call_with_garbage)
    last_words = "\n".join(done.stderr.splitlines()[-30:])
    assert done.returncode == 0, f"exit status {done.returncode}\n{last_words}"


@pytest.mark.parametrize("name", COMPILED)
def test_none_is_refused_where_an_array_must_be(rng, name):
    function, good = compiled(rng, FLOAT32, 2, 3)[name]
    optional = {"gemm.product": [2], "dense.forward": [2], "dense.backward": [3], "batchnorm.forward": [5, 6],
                "sgd.update": [5]}
    for place, thing in enumerate(good):
        if isinstance(thing, np.ndarray) and place not in optional.get(name, []):
            with pytest.raises(TypeError):
                by_dtype(function)[FLOAT32](*good[:place], None, *good[place + 1:])


# ---- threads

@every_op
@every_dtype
def test_threads_may_share_inputs(rng, name, dtype):
    args = arguments(rng, name, dtype, 200, 65)
    expected = call(name, args)
    with ThreadPoolExecutor(4) as pool:
        for results in pool.map(lambda _: call(name, args), range(24)):
            assert_same_bits(results, expected, name)


@pytest.mark.parametrize("name", COMPILED)
def test_other_threads_run_meanwhile(rng, name):
    """The lock of the interpreter is released: another thread is seen to run in the middle of a call."""
    # enough work for some milliseconds
    product = name in ("dense.forward", "dense.backward", "gemm.product")
    function, args = compiled(rng, FLOAT64, *((2000, 400) if product else (12000, 256)))[name]
    version = by_dtype(function)[FLOAT64]
    version(*args)
    for _ in range(50):
        period = []

        def work(period=period):
            start = time.perf_counter()
            version(*args)
            period.extend((start, time.perf_counter()))

        thread = threading.Thread(target=work)
        seen = []
        thread.start()
        while thread.is_alive():
            seen.append(time.perf_counter())
            time.sleep(0.0001)
        thread.join()
        start, end = period
        quarter = (end - start) / 4
        if sum(start + quarter < at < end - quarter for at in seen) >= 2:
            return
    pytest.fail(f"no other thread ran in the middle of a call of {end - start:.3f} s")


# ---- the process

def test_subnormal_numbers_survive_the_import():
    for dtype in DTYPES:
        tiny = np.array([4, 3], dtype) * np.finfo(dtype).smallest_subnormal
        assert (tiny / 2 > 0).all()
        assert_same_bits(fastnn.activation_forward(tiny, "identity"), tiny, "identity")


# ---- dtype objects that are equal to NumPy's own but not the same, as unpickling makes them

def unpickled(a):
    return pickle.loads(pickle.dumps(a))


@every_op
def test_unpickled_arrays_are_as_good(rng, name):
    for dtype in DTYPES:
        args = arguments(rng, name, dtype)
        args |= outputs_of(name, args)
        kept = {key: copy.deepcopy(value) for key, value in args.items()}
        expected = getattr(fastnn, name)(**args)
        again = {key: unpickled(value) if isinstance(value, np.ndarray) else value for key, value in kept.items()}
        result = getattr(fastnn, name)(**again)
        if expected is not None:
            assert_same_bits(result, expected, name)
        for key in args:
            if isinstance(args[key], np.ndarray):
                assert args[key].tobytes() == again[key].tobytes(), f"{name}: {key}"


def test_a_rate_beyond_float32_is_refused_for_an_unpickled_parameter():
    with pytest.raises(ValueError, match=r"^lr: "):
        fastnn.sgd_update(unpickled(np.ones(3, np.float32)), np.ones(3, np.float32), lr=1e39)


# ---- compiled entries by themselves: extents that do not fit together are an error, not a crash

def f32(*shape):
    return np.ones(shape, np.float32)


@pytest.mark.parametrize("call", [
    lambda: gemm.product(f32(2, 0), f32(0, 3), None, f32(2, 3)),
    lambda: gemm.product(f32(2, 4), f32(3, 3), None, f32(2, 3)),
    lambda: gemm.product(f32(2, 3), f32(3, 6)[:, ::2][::1], None, f32(2, 2)),
    lambda: dense.forward(f32(2, 0), f32(0, 3), None, f32(2, 3)),
    lambda: dense.forward(f32(2, 3), f32(3, 4), f32(3), f32(2, 4)),
    lambda: dense.backward(f32(0, 3), f32(0, 2), f32(2, 3), None, f32(2, 3), f32(3)),
    lambda: dense.bias_forward(f32(3), f32(2, 4)),
    lambda: dense.bias_backward(f32(2, 4), f32(3)),
    lambda: activation.forward(f32(10**6), 1, f32(1)),
    lambda: activation.backward(f32(5), f32(5), 1, f32(4)),
    lambda: sgd.update(f32(1), 0.1, 0.9, False, 0.0, f32(9), f32(9)),
    lambda: sgd.update(f32(9), 0.1, 0.9, False, 0.0, f32(1), f32(9)),
    *[functools.partial(adam.update, f32(sizes[0]), 0.1, 1.0, 0.9, 0.999, 1e-8, False, 0.0, False, *map(f32, sizes[1:]))
      for sizes in set(itertools.permutations((1, 9, 9, 9)))],
    lambda: loss.softmax(f32(2, 0), np.zeros(2, np.intp), f32(2, 0)),
    lambda: loss.softmax(f32(2, 3), np.array([0, 10**12], np.intp), f32(2, 3)),
    lambda: loss.softmax(f32(2, 3), np.array([0, -1], np.intp), f32(2, 3)),
    lambda: loss.sigmoid(f32(2, 3), f32(1, 3), f32(2, 3)),
    lambda: loss.squared_error(f32(2, 3), f32(2, 3), f32(2, 2)),
    lambda: batchnorm.forward(f32(1, 3), f32(3), f32(3), 1e-5, 0.1, None, None, f32(1, 3), np.ones(3), np.ones(3)),
    lambda: batchnorm.forward(f32(4, 3), f32(3), f32(2), 1e-5, 0.1, None, None, f32(4, 3), np.ones(3), np.ones(3)),
    lambda: batchnorm.backward(f32(4, 3), f32(4, 3), f32(3), np.ones(2), np.ones(3), f32(4, 3), f32(3), f32(3)),
    lambda: batchnorm.inference(f32(4, 3), f32(3), f32(3), f32(3), f32(1), 1e-5, f32(4, 3)),
    lambda: memory.apart(10**9, None),
    lambda: memory.ordinary(5, b"2 ", f32(2, 2)),
])
def test_extents_that_do_not_fit(call):
    with pytest.raises(ValueError):
        call()
