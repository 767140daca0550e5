"""Batch normalisation: training, backward and inference. How many digits they keep is in test_accuracy.py."""

import itertools

import numpy as np
import pytest
from conftest import (
    DTYPES,
    EPS,
    FLOAT32,
    FLOAT64,
    SIZES,
    TOL,
    assert_gradient,
    assert_near,
    assert_refused,
    assert_same_bits,
    nan,
    normal,
)

from fastnn import batchnorm_backward, batchnorm_forward, batchnorm_inference, reference

ROWS = (2, 3, 4, 5, 6, *SIZES[2:])
# features beyond a block of 1024, with rows that are no multiple of four
LARGE = [(5, 1023), (6, 1024), (7, 1025), (9, 2100), (1030, 33)]


def parameters(rng, dtype, d):
    return (1 + 0.1 * rng.standard_normal(d)).astype(dtype), (0.1 * rng.standard_normal(d)).astype(dtype)


def arguments(rng, dtype, n, d, offset=0.0, spread=1.0):
    return (offset + spread * rng.standard_normal((n, d))).astype(dtype), *parameters(rng, dtype, d)


# ---- equal to the reference

def assert_forward(x, gamma, beta, options, case):
    dtype, tol = x.dtype, TOL[x.dtype]
    n, d = x.shape
    expected, expected_mean, expected_rstd = reference.batchnorm_forward(x, gamma, beta, **options)
    out, mean, rstd = batchnorm_forward(x, gamma, beta, **options)
    assert_near(out, expected, tol["y"], case, np.abs(expected - beta) + np.abs(beta))
    # float64 for either dtype
    assert_near(mean, expected_mean, 40, case, np.abs(x).max(axis=0))
    assert_near(rstd, expected_rstd, 40 + n, case)

    # with running statistics, everything else is the same
    running = np.linspace(-1, 1, d).astype(dtype), np.linspace(0, 2, d).astype(dtype)
    after, expected_after = [a.copy() for a in running], [a.copy() for a in running]
    again = batchnorm_forward(x, gamma, beta, *after, **options)
    reference.batchnorm_forward(x, gamma, beta, *expected_after, **options)
    assert_same_bits(again, (out, mean, rstd), case)
    for a, b, old, name in zip(after, expected_after, running, ("mean", "var"), strict=True):
        assert_near(a, b, tol[name], f"{case}, running {name}", np.abs(b) + np.abs(old))

    in_place = x.copy()
    again = batchnorm_forward(in_place, gamma, beta, **options, out=in_place)
    assert again[0] is in_place
    assert_same_bits(again, (out, mean, rstd), f"{case}, in place")
    return mean, rstd


def assert_backward(dout, x, gamma, mean, rstd, case):
    tol = TOL[x.dtype]
    expected = reference.batchnorm_backward(dout, x, gamma, mean, rstd)
    result = batchnorm_backward(dout, x, gamma, mean, rstd)
    xhat = (x - mean) * rstd
    # dx is a difference of terms of this size; of two rows nothing is left
    terms = np.abs(gamma * rstd) * (np.abs(dout) + np.abs(dout.mean(axis=0)) + np.abs(xhat) * np.abs(dout).mean(axis=0))
    assert_near(result[0], expected[0], tol["dx"], case, terms)
    assert_near(result[1], expected[1], tol["dgamma"], case, np.sum(np.abs(dout * xhat), axis=0))
    assert_near(result[2], expected[2], tol["dbeta"], case, np.sum(np.abs(dout), axis=0))
    for alias in ("dout", "x"):
        inputs = {"dout": dout.copy(), "x": x.copy()}
        again = batchnorm_backward(**inputs, gamma=gamma, mean=mean, rstd=rstd, dx=inputs[alias])
        assert again[0] is inputs[alias]
        assert_same_bits(again, result, f"{case}, dx is {alias}")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_equals_reference(rng, dtype):
    options = itertools.cycle([{}, {"eps": 0.1}, {"momentum": 0.3, "eps": 1e-12}, {"momentum": 0.0}, {"momentum": 1.0}])
    for n, d in [*itertools.product(ROWS, SIZES), *LARGE]:
        x, gamma, beta = arguments(rng, dtype, n, d)
        chosen = next(options)
        case = f"{n, d}, {chosen}"
        mean, rstd = assert_forward(x, gamma, beta, chosen, case)
        assert_backward(normal(rng, dtype, n, d), x, gamma, mean, rstd, case)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_inference_equals_reference(rng, dtype):
    for n, d in [*itertools.product(SIZES, SIZES), *LARGE]:
        x, gamma, beta = arguments(rng, dtype, n, d)
        mean, var = normal(rng, dtype, d), normal(rng, dtype, d) ** 2
        for eps in (1e-5, 0.5):
            expected = reference.batchnorm_inference(x, gamma, beta, mean, var, eps=eps)
            out = batchnorm_inference(x, gamma, beta, mean, var, eps=eps)
            assert_near(out, expected, TOL[dtype]["inference"], (n, d), np.abs(expected - beta) + np.abs(beta))
            in_place = x.copy()
            assert batchnorm_inference(in_place, gamma, beta, mean, var, eps=eps, out=in_place) is in_place
            assert_same_bits(in_place, out, (n, d))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_by_hand(dtype):
    def one(*values):
        return np.array(values, dtype)

    # mean 2, variance 1 (biased) or 2 (unbiased), eps inside the root: rstd = 1 / sqrt(1 + 3)
    x, gamma, beta = one([1], [3]), one(2), one(1)
    running_mean, running_var = one(10), one(4)
    out, mean, rstd = batchnorm_forward(x, gamma, beta, running_mean, running_var, momentum=0.25, eps=3.0)
    assert out.tolist() == [[0], [2]]
    assert (mean.dtype, mean.tolist(), rstd.dtype, rstd.tolist()) == (FLOAT64, [2], FLOAT64, [0.5])
    # momentum weighs the new value
    assert (running_mean.tolist(), running_var.tolist()) == ([0.75 * 10 + 0.25 * 2], [0.75 * 4 + 0.25 * 2])
    dx, dgamma, dbeta = batchnorm_backward(one([1], [0]), x, gamma, mean, rstd)
    assert (dx.tolist(), dgamma.tolist(), dbeta.tolist()) == ([[0.375], [-0.375]], [-0.5], [1])
    assert batchnorm_inference(x, gamma, beta, one(2), one(1), eps=3.0).tolist() == [[0], [2]]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_defaults(rng, dtype):
    x, gamma, beta = arguments(rng, dtype, 9, 3)
    results = []
    for options in ({}, {"momentum": 0.1, "eps": 1e-5}):
        running = np.zeros(3, dtype), np.ones(3, dtype)
        results.append([*batchnorm_forward(x, gamma, beta, *running, **options), *running])
    assert_same_bits(*results, "training")
    running = results[0][-2:]
    explicit = batchnorm_inference(x, gamma, beta, *running, eps=1e-5)
    assert_same_bits(batchnorm_inference(x, gamma, beta, *running), explicit, "inference")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_running_statistics(rng, dtype):
    """The unbiased variance; momentum 0 changes nothing, 1 forgets everything, in between both by their weights."""
    for n in (2, 3, 10, 101):
        x, gamma, beta = arguments(rng, dtype, n, 5, offset=3)
        old = normal(rng, dtype, 5), normal(rng, dtype, 5) ** 2
        batch = np.mean(x, axis=0, dtype=FLOAT64), np.var(x, axis=0, dtype=FLOAT64, ddof=1)
        for momentum in (0.0, 0.01, 0.25, 0.5, 1.0):
            running = [a.copy() for a in old]
            batchnorm_forward(x, gamma, beta, *running, momentum=momentum)
            for a, before, new in zip(running, old, batch, strict=True):
                expected = ((1 - momentum) * before.astype(FLOAT64) + momentum * new).astype(dtype)
                assert_near(a, expected, 2, (n, momentum), np.abs(before) + np.abs(new))
            if momentum == 0:
                assert_same_bits(running, old, n)
    # after many batches the old values are forgotten
    running = [a.copy() for a in old]
    for _ in range(500):
        batchnorm_forward(x, gamma, beta, *running)
    for a, new in zip(running, batch, strict=True):
        np.testing.assert_allclose(a, new, rtol=50 * EPS[dtype])


# ---- the backward pass against finite differences

def finite_difference_case(rng, n=7, d=5):
    x, gamma, beta = arguments(rng, FLOAT64, n, d, offset=0.5, spread=2.0)
    dout = normal(rng, FLOAT64, n, d)

    def loss():
        return float(np.sum(batchnorm_forward(x, gamma, beta)[0] * dout))

    return loss, x, gamma, beta, dout, *batchnorm_forward(x, gamma, beta)[1:]


@pytest.mark.parametrize("shape", [(2, 3), (3, 1), (7, 5), (8, 9)])
def test_backward_equals_finite_differences(rng, shape):
    loss, x, gamma, beta, dout, mean, rstd = finite_difference_case(rng, *shape)
    dx, dgamma, dbeta = batchnorm_backward(dout, x, gamma, mean, rstd)
    assert_gradient(loss, x, dx, "dx")
    assert_gradient(loss, gamma, dgamma, "dgamma")
    assert_gradient(loss, beta, dbeta, "dbeta")


def test_altered_gradients_are_found(rng):
    loss, x, gamma, beta, dout, mean, rstd = finite_difference_case(rng)
    dx, dgamma, dbeta = batchnorm_backward(dout, x, gamma, mean, rstd)
    xhat = (x - mean) * rstd
    np.testing.assert_allclose(dx, gamma * rstd * (dout - dout.mean(axis=0) - xhat * np.mean(dout * xhat, axis=0)))
    for altered, of in [
        (gamma * rstd * (dout - dout.mean(axis=0)), x),                     # without the term of the variance
        (gamma * rstd * (dout - xhat * np.mean(dout * xhat, axis=0)), x),   # without the term of the mean
        (dx / gamma, x), (dx / rstd, x), (dx * 1.01, x), (dx + 1e-4, x),
        (np.sum(dout * (x - mean), axis=0), gamma), (dgamma - dout[-1] * xhat[-1], gamma),
        (dbeta - dout[0], beta), (dbeta / len(x), beta),
    ]:
        with pytest.raises(AssertionError):
            assert_gradient(loss, of, altered)


# ---- edges

@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_constant_columns_give_beta(rng, dtype):
    values = np.array([0, 1, -1, 0.1, 1 / 3, 3.0, 1e4, -7e-3, 1e8 / 3, 1e-30, 3e30, np.pi * 1e15], dtype)
    _, beta = parameters(rng, dtype, len(values))
    gamma = normal(rng, dtype, len(values))
    for n in (2, 3, 4, 5, 6, 7, 9, 10, 49, 100, 127, 1000, 1001, 4097):
        x = np.repeat(values[None], n, axis=0)
        dout = normal(rng, dtype, n, len(values))
        for eps in (1e-5, 1.0, 1e-12, 1e-37):
            running = values.copy(), np.zeros_like(values)
            out, mean, rstd = batchnorm_forward(x, gamma, beta, *running, eps=eps)
            assert_same_bits(out, np.repeat(beta[None], n, axis=0), (n, eps))
            assert_same_bits(mean, values.astype(FLOAT64), (n, eps))
            assert not running[1].any()
            dx, dgamma, dbeta = batchnorm_backward(dout, x, gamma, mean, rstd)
            assert np.isfinite(dx).all()
            assert not dgamma.any()
            scale = np.abs(dout).sum(axis=0)
            assert_near(dbeta, dout.sum(axis=0, dtype=FLOAT64).astype(dtype), TOL[dtype]["dbeta"], (n, eps), scale)


def test_constant_columns_with_the_smallest_eps(rng):
    """Any eps > 0 will do: 1 / eps may be infinite, the gradient of a constant column may not."""
    for dtype in DTYPES:
        x, gamma, beta = np.full((5, 3), 0.1, dtype), np.ones(3, dtype), np.ones(3, dtype)
        out, mean, rstd = batchnorm_forward(x, gamma, beta, eps=float(np.finfo(dtype).smallest_subnormal))
        assert (out == 1).all()
        dx, dgamma, _ = batchnorm_backward(np.ones((5, 3), dtype), x, gamma, mean, rstd)
        assert np.isfinite(dx).all(), dtype
        assert not dgamma.any()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_columns_do_not_mix(rng, dtype):
    """A NaN or an infinity stays in its column, and a column alone is the same as among others."""
    for (n, d), value in itertools.product([(5, 3), (8, 9), (10, 1030)], (np.nan, np.inf, -np.inf)):
        x, gamma, beta = arguments(rng, dtype, n, d)
        dout = normal(rng, dtype, n, d)

        def run(x, dout, gamma=gamma, beta=beta):
            running = np.zeros_like(gamma), np.ones_like(gamma)
            out, mean, rstd = batchnorm_forward(x, gamma, beta, *running)
            inference = batchnorm_inference(x, gamma, beta, np.zeros_like(gamma), np.ones_like(gamma))
            return [out, mean, rstd, *running, inference, *batchnorm_backward(dout, x, gamma, mean, rstd)]

        clean = run(x, dout)
        for row in (0, n // 2, n - 1):
            column = row * (d - 1) // (n - 1)
            others = np.arange(d) != column
            for spoilt in ("x", "dout"):
                args = {"x": x.copy(), "dout": dout.copy()}
                args[spoilt][row, column] = value
                results = run(**args)
                for a, b in zip(results, clean, strict=True):
                    assert_same_bits(a[..., others], b[..., others], (n, d, spoilt))
                if spoilt == "x":
                    assert np.isnan(results[0][:, column]).all()
                    assert np.isnan(results[-3][:, column]).all()
        for column in (0, d // 2, d - 1):
            part = np.s_[column:column + 1]
            alone = run(x[:, part], dout[:, part], gamma[part], beta[part])
            for a, b in zip(alone, clean, strict=True):
                assert_same_bits(a, b[..., part].copy(), (n, d, column))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_variance_that_overflows_is_refused(rng, dtype):
    # of float32 data it is finite in float64, in which it is needed, but not as a running variance
    x, gamma, beta = arguments(rng, dtype, 20, 1030, 0, 1)
    x[:, 1027] *= {FLOAT32: 1e25, FLOAT64: 1e170}[dtype]
    running = np.zeros(1030, dtype), np.ones(1030, dtype)
    out = nan(dtype, *x.shape)
    text = assert_refused(ValueError, "x", batchnorm_forward, x, gamma, beta, *running, out=out)
    assert text.endswith(f"finite in {dtype}, got one that overflows, column 1027")
    if dtype == FLOAT64:
        assert_refused(ValueError, "x", batchnorm_forward, x, gamma, beta, out=out)
    else:
        assert np.isfinite(batchnorm_forward(x, gamma, beta)[0]).all()
    # what was infinite before is passed on
    x[3, 1027] = np.inf
    running[1][1027] = np.inf
    assert np.isnan(batchnorm_forward(x, gamma, beta, *running)[0][:, 1027]).all()


# ---- contract (what all kernels have in common is in test_contract.py)

def test_needs_two_rows_and_a_column(rng):
    x, gamma, beta = arguments(rng, FLOAT32, 2, 3)
    mean, rstd = np.zeros(3), np.ones(3)
    running = {"running_mean": np.zeros(3, FLOAT32), "running_var": np.ones(3, FLOAT32)}
    for few in (x[:0], x[:1]):
        text = assert_refused(ValueError, "x", batchnorm_forward, few, gamma, beta, **running)
        assert ">= 2 samples" in text
        assert_refused(ValueError, "x", batchnorm_backward, few, few, gamma, mean, rstd)
    none = gamma[:0]
    assert_refused(ValueError, "x", batchnorm_forward, x[:, :0], none, none)
    assert_refused(ValueError, "x", batchnorm_backward, x[:, :0], x[:, :0], none, mean[:0], rstd[:0])
    assert_refused(ValueError, "x", batchnorm_inference, x[:, :0], none, none, none, none)
    for dtype in DTYPES:
        of_dtype = [a.astype(dtype) for a in (gamma, beta, *running.values())]
        assert_same_bits(batchnorm_inference(nan(dtype, 0, 3), *of_dtype), nan(dtype, 0, 3), "no rows")


def test_running_statistics_come_in_pairs(rng):
    x, gamma, beta = arguments(rng, FLOAT32, 4, 3)
    one = np.ones(3, FLOAT32)
    assert_refused(ValueError, "running_var", batchnorm_forward, x, gamma, beta, running_mean=one)
    assert_refused(ValueError, "running_mean", batchnorm_forward, x, gamma, beta, running_var=one)
    assert_refused(ValueError, "running_var", batchnorm_forward, x, gamma, beta, one, one)
    for name, value in [("running_mean", one.astype(FLOAT64)), ("running_var", one.astype(FLOAT64))]:
        both = {"running_mean": one, "running_var": one.copy()} | {name: value}
        assert_refused(TypeError, name, batchnorm_forward, x, gamma, beta, **both)


def test_negative_variance(rng):
    x, gamma, beta = arguments(rng, FLOAT32, 4, 3)
    mean, var = np.zeros(3, FLOAT32), np.array([1, -1e-6, -3], FLOAT32)
    assert "index 1" in assert_refused(ValueError, "running_var", batchnorm_inference, x, gamma, beta, mean, var)
    # NaN is no error of the caller: it goes on, in its column
    var[1:] = np.nan, 0
    out = batchnorm_inference(x, gamma, beta, mean, var)
    assert (np.isnan(out) == [False, True, False]).all()


@pytest.mark.parametrize(("error", "values"), [
    (ValueError, [-0.1, 1.1, np.nan, np.inf, -np.inf]),
    (TypeError, [None, "0.1", True, np.True_, 0.1j, [0.1], np.array(0.1), np.ones(3)]),
])
def test_momentum(rng, error, values):
    x, gamma, beta = arguments(rng, FLOAT32, 4, 3)
    running = np.zeros(3, FLOAT32), np.ones(3, FLOAT32)
    for value in values:
        assert_refused(error, "momentum", batchnorm_forward, x, gamma, beta, *running, momentum=value)
        assert_refused(error, "momentum", batchnorm_forward, x, gamma, beta, momentum=value)


@pytest.mark.parametrize(("error", "values"), [
    # the last two round to 0 and to infinity in float32
    (ValueError, [0, 0.0, -1e-5, np.nan, np.inf, -np.inf, 1e-50, 1e40]),
    (TypeError, [None, "1e-5", True, np.True_, 1e-5j, [1e-5], np.array(1e-5), np.ones(3)]),
])
def test_eps(rng, error, values):
    x, gamma, beta = arguments(rng, FLOAT32, 4, 3)
    running = np.zeros(3, FLOAT32), np.ones(3, FLOAT32)
    for value in values:
        assert_refused(error, "eps", batchnorm_forward, x, gamma, beta, *running, eps=value)
        assert_refused(error, "eps", batchnorm_inference, x, gamma, beta, *running, eps=value)


def test_numbers_may_be_of_any_real_type(rng):
    x, gamma, beta = arguments(rng, FLOAT32, 4, 3)
    expected = batchnorm_forward(x, gamma, beta, eps=1.0, momentum=0.0)
    for one, zero in [(1, 0), (np.float32(1), np.float64(0)), (np.int8(1), np.uint64(0))]:
        assert_same_bits(batchnorm_forward(x, gamma, beta, eps=one, momentum=zero), expected, type(one))
    assert np.isfinite(batchnorm_forward(x.astype(FLOAT64), *np.ones((2, 3)), eps=1e-50)[0]).all()


def test_wrong_shapes(rng):
    x, gamma, beta = arguments(rng, FLOAT32, 5, 3)
    short, column = np.ones(2, FLOAT32), np.ones((3, 1), FLOAT32)
    names = ("gamma", "beta", "running_mean", "running_var")
    good = dict(zip(names, (gamma, beta, np.zeros(3, FLOAT32), np.ones(3, FLOAT32)), strict=True))
    for name, wrong in itertools.product(names, (short, column)):
        for function in (batchnorm_forward, batchnorm_inference):
            assert_refused(ValueError, name, function, x, **good | {name: wrong})
    good = {"dout": x, "x": x.copy(), "gamma": gamma, "mean": np.zeros(3), "rstd": np.ones(3)}
    for name, wrong in [
        ("dout", x[:4]), ("dout", x[:, :2]), ("gamma", short), ("mean", np.zeros(2)), ("mean", np.zeros((1, 3))),
        ("rstd", np.ones(4)), ("rstd", np.ones((3, 1))),
    ]:
        assert_refused(ValueError, name, batchnorm_backward, **good | {name: wrong})
    for name in ("mean", "rstd"):       # float64 whatever the data
        text = assert_refused(TypeError, name, batchnorm_backward, **good | {name: np.ones(3, FLOAT32)})
        assert "float64" in text
    for name, shape in [("dx", (3, 5)), ("dgamma", (2,)), ("dbeta", (1, 3))]:
        assert_refused(ValueError, name, batchnorm_backward, **good, **{name: nan(FLOAT32, *shape)})
    assert_refused(ValueError, "out", batchnorm_forward, x, gamma, beta, out=nan(FLOAT32, 3, 5))


def test_overlap(rng):
    memory = normal(rng, FLOAT32, 9, 3)
    x, part, gamma, beta = memory[:5], memory[1:6], np.ones(3, FLOAT32), np.zeros(3, FLOAT32)
    running = np.zeros(3, FLOAT32), np.ones(3, FLOAT32)
    assert "x" in assert_refused(ValueError, "out", batchnorm_forward, x, gamma, beta, out=part)
    assert "gamma" in assert_refused(ValueError, "out", batchnorm_forward, x.copy(), memory[2], beta, out=part)
    assert "beta" in assert_refused(ValueError, "out", batchnorm_forward, x.copy(), gamma, memory[2], out=part)
    assert "x" in assert_refused(ValueError, "running_mean", batchnorm_forward, x, gamma, beta, x[0], running[1])
    assert "gamma" in assert_refused(ValueError, "running_var", batchnorm_forward, x, gamma, beta, running[0], gamma)
    assert "x" in assert_refused(ValueError, "out", batchnorm_inference, x, gamma, beta, *running, out=part)
    other = x.copy()
    for i, name in enumerate(("gamma", "beta", "running_mean", "running_var")):
        vectors = [gamma, beta, *running]
        vectors[i] = np.abs(other[2])
        target = np.tile(vectors[i], (5, 1))
        vectors[i] = target[2]
        assert name in assert_refused(ValueError, "out", batchnorm_inference, x, *vectors, out=target)
    mean, rstd = np.zeros(3), np.ones(3)
    assert "dout" in assert_refused(ValueError, "dx", batchnorm_backward, x, other, gamma, mean, rstd, dx=part)
    assert "x" in assert_refused(ValueError, "dx", batchnorm_backward, other, x, gamma, mean, rstd, dx=part)
    for name in ("dgamma", "dbeta"):
        assert_refused(ValueError, name, batchnorm_backward, x, other, gamma, mean, rstd, **{name: x[2]})
        assert_refused(ValueError, name, batchnorm_backward, x, other, gamma, mean, rstd, **{name: gamma})
        dx = {"dx": part.copy()}
        assert_refused(ValueError, name, batchnorm_backward, x, other, gamma, mean, rstd, **dx, **{name: other[0]})
        assert_refused(ValueError, name, batchnorm_backward, x, other, gamma, mean, rstd, **dx, **{name: dx["dx"][0]})
    same = np.zeros(3, FLOAT32)
    assert_refused(ValueError, "dbeta", batchnorm_backward, x, other, gamma, mean, rstd, dgamma=same, dbeta=same)
