"""The dense layer, with its own matrix product and with NumPy's."""

import itertools

import numpy as np
import pytest
from conftest import (
    DTYPES,
    FLOAT32,
    FLOAT64,
    SIZES,
    assert_gradient,
    assert_near,
    assert_near_each,
    assert_refused,
    assert_same_bits,
    nan,
    normal,
    product_budget,
)

import fastnn.dense
from fastnn import dense_backward, dense_forward, reference

# N, I, O beyond the blocks of the own product: depth 256, 24 tiles of rows, panels of vectors, rows far apart
LARGE = [
    (1, 700, 130), (2, 3000, 5), (5, 513, 300), (60, 300, 600), (145, 256, 33), (300, 257, 65), (300, 600, 70),
    (577, 31, 100), (1030, 3, 1),
]


@pytest.fixture(params=["own product", "NumPy's product"])
def provider(request, monkeypatch):
    limit = 2**62 if request.param == "own product" else 0
    monkeypatch.setattr(fastnn.dense, "OWN_PRODUCT_UP_TO", limit)
    monkeypatch.setattr(fastnn.dense, "OWN_VECTOR_PRODUCT_UP_TO", limit)


def arguments(rng, dtype, n, n_in, n_out):
    return normal(rng, dtype, n, n_in), normal(rng, dtype, n_in, n_out), normal(rng, dtype, n_out)


# ---- equal to the reference

def assert_forward(x, weight, bias, case):
    scale = np.abs(x) @ np.abs(weight)
    budget = 2 * product_budget(x.shape[1])     # the reference rounds too
    assert_near_each(dense_forward(x, weight), reference.dense_forward(x, weight), budget, case, scale)
    scale = scale + np.abs(bias)
    assert_near_each(dense_forward(x, weight, bias), reference.dense_forward(x, weight, bias), budget, case, scale)


def assert_backward(dout, x, weight, case):
    dx, dweight, dbias = dense_backward(dout, x, weight)
    expected = reference.dense_backward(dout, x, weight)
    size = np.abs(dout)
    assert_near_each(dx, expected[0], 2 * product_budget(dout.shape[1]), case, size @ np.abs(weight).T)
    assert_near_each(dweight, expected[1], 2 * product_budget(len(x)), case, np.abs(x).T @ size)
    # the reference sums in the dtype of the data
    assert_near_each(dbias, expected[2], 2 * product_budget(len(x)), case, size.sum(axis=0))
    without = dense_backward(dout, x, weight, need_dx=False)
    assert without[0] is None
    assert_same_bits(without[1:], (dweight, dbias), case)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.usefixtures("provider")
def test_equals_reference(rng, dtype):
    for shape in itertools.product(SIZES, SIZES, SIZES):
        x, weight, bias = arguments(rng, dtype, *shape)
        assert_forward(x, weight, bias, shape)
        assert_backward(normal(rng, dtype, shape[0], shape[2]), x, weight, shape)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.usefixtures("provider")
def test_equals_reference_beyond_a_block(rng, dtype):
    for shape in LARGE:
        x, weight, bias = arguments(rng, dtype, *shape)
        assert_forward(x, weight, bias, shape)
        assert_backward(normal(rng, dtype, shape[0], shape[2]), x, weight, shape)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.usefixtures("provider")
def test_bias_gradient_is_wide(rng, dtype):
    for n_out in (1023, 1024, 1025, 2100):      # the row sum takes 1024 columns at a time
        dout, x, weight = normal(rng, dtype, 7, n_out), normal(rng, dtype, 7, 2), normal(rng, dtype, 2, n_out)
        dbias = dense_backward(dout, x, weight)[2]
        assert_near(dbias, reference.dense_backward(dout, x, weight)[2], 4, n_out)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.usefixtures("provider")
def test_by_hand(dtype):
    x, weight = np.array([[1, 2], [3, 4], [5, 6]], dtype), np.array([[1, 10, 0], [2, 0, -1]], dtype)
    bias, dout = np.array([100, 200, 300], dtype), np.array([[1, 0, 0], [0, 1, 0], [0, 0, 2]], dtype)
    out = dense_forward(x, weight, bias)
    dx, dweight, dbias = dense_backward(dout, x, weight)
    assert out.tolist() == [[105, 210, 298], [111, 230, 296], [117, 250, 294]]
    assert dx.tolist() == [[1, 2], [10, 0], [0, -2]]
    assert dweight.tolist() == [[1, 3, 10], [2, 4, 12]]
    assert dbias.tolist() == [1, 1, 2]


# ---- the backward pass against finite differences

def finite_difference_case(rng):
    x, weight, bias = arguments(rng, FLOAT64, 5, 4, 3)
    dout = normal(rng, FLOAT64, 5, 3)

    def loss():
        return float(np.sum(dense_forward(x, weight, bias) * dout))

    return loss, x, weight, bias, dout


@pytest.mark.usefixtures("provider")
def test_backward_equals_finite_differences(rng):
    loss, x, weight, bias, dout = finite_difference_case(rng)
    dx, dweight, dbias = dense_backward(dout, x, weight)
    assert_gradient(loss, x, dx, "dx")
    assert_gradient(loss, weight, dweight, "dweight")
    assert_gradient(loss, bias, dbias, "dbias")


def test_altered_gradients_are_found(rng):
    loss, x, weight, bias, dout = finite_difference_case(rng)
    for altered, of in [
        (dout @ weight.T * 1.01, x), (dout @ weight.T + 1e-4, x),
        (x[:-1].T @ dout[:-1], weight), (dout[1:].sum(axis=0), bias), (dout.mean(axis=0), bias),
    ]:
        with pytest.raises(AssertionError):
            assert_gradient(loss, of, altered)


# ---- contract (what all kernels have in common is in test_contract.py)

@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_no_rows(dtype):
    x, weight, bias, dout = nan(dtype, 0, 3), nan(dtype, 3, 2), nan(dtype, 2), nan(dtype, 0, 2)
    for out in (dense_forward(x, weight), dense_forward(x, weight, bias)):
        assert_same_bits(out, dout, "out")
    outputs = {"dweight": nan(dtype, 3, 2), "dbias": nan(dtype, 2), "dx": nan(dtype, 0, 3)}
    for result in (dense_backward(dout, x, weight), dense_backward(dout, x, weight, **outputs)):
        assert_same_bits(result, (x, np.zeros((3, 2), dtype), np.zeros(2, dtype)), "gradients")
    assert dense_backward(dout, x, weight, need_dx=False)[0] is None


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.usefixtures("provider")
def test_old_output_is_ignored(rng, dtype):
    for shape in [(1, 1, 1), (7, 9, 17), (13, 300, 40), (300, 600, 70)]:
        x, weight, bias = arguments(rng, dtype, *shape)
        n, n_in, n_out = shape
        dout = normal(rng, dtype, n, n_out)
        for add in (None, bias):
            assert_same_bits(
                dense_forward(x, weight, add, out=nan(dtype, n, n_out)), dense_forward(x, weight, add), shape)
        result = dense_backward(
            dout, x, weight, dx=nan(dtype, n, n_in), dweight=nan(dtype, n_in, n_out), dbias=nan(dtype, n_out))
        assert_same_bits(result, dense_backward(dout, x, weight), shape)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.usefixtures("provider")
@np.errstate(invalid="ignore")
def test_zero_times_not_finite_is_nan(dtype, value):
    for n, n_in, n_out in [(1, 1, 1), (3, 9, 20), (30, 300, 70)]:
        x, weight = np.zeros((n, n_in), dtype), np.ones((n_in, n_out), dtype)
        weight[n_in // 2, n_out // 2] = value
        expected = np.zeros((n, n_out), bool)
        expected[:, n_out // 2] = True
        assert (np.isnan(dense_forward(x, weight)) == expected).all()
        dx, dweight, dbias = dense_backward(np.zeros((n, n_out), dtype), x, weight)
        expected = np.zeros((n, n_in), bool)
        expected[:, n_in // 2] = True
        assert (np.isnan(dx) == expected).all()
        assert not dweight.any()
        assert not dbias.any()
        x = np.ones((n, n_in), dtype)
        x[n // 2, n_in // 2] = value
        dweight = dense_backward(np.zeros((n, n_out), dtype), x, np.ones((n_in, n_out), dtype))[1]
        expected = np.zeros((n_in, n_out), bool)
        expected[n_in // 2] = True
        assert (np.isnan(dweight) == expected).all()


@pytest.mark.usefixtures("provider")
@np.errstate(over="ignore")
def test_overflow_is_infinite():
    x, weight = np.full((3, 4), 1e30, FLOAT32), np.full((4, 5), 1e30, FLOAT32)
    assert np.isposinf(dense_forward(x, weight)).all()
    assert np.isneginf(dense_backward(np.full((3, 5), -1e30, FLOAT32), x, weight)[0]).all()


@pytest.mark.usefixtures("provider")
def test_neither_product_warns():
    """Whether a call raises must not hang on its size: NumPy's product warns, and a warning may be an error."""
    big, infinite, zero = np.full((2, 2), 1e30, FLOAT32), np.full((2, 2), np.inf, FLOAT32), np.zeros((2, 2), FLOAT32)
    for x, weight in [(big, big), (infinite, zero), (infinite, infinite)]:
        dense_forward(x, weight)
        dense_backward(x, weight, weight)


def test_wrong_shapes(rng):
    x, weight, bias = arguments(rng, FLOAT32, 5, 4, 3)
    dout = normal(rng, FLOAT32, 5, 3)
    text = assert_refused(ValueError, "weight", dense_forward, x, weight[:3])
    assert "(5, 4)" in text
    assert "(3, 3)" in text
    assert_refused(ValueError, "bias", dense_forward, x, weight, bias[:2])
    assert_refused(ValueError, "bias", dense_forward, x, weight, bias[:, None])
    assert_refused(ValueError, "weight", dense_forward, x[:, :0], weight[:0])
    assert_refused(ValueError, "weight", dense_forward, x, weight[:, :0])
    assert_refused(ValueError, "out", dense_forward, x, weight, out=nan(FLOAT32, 5, 4))
    assert_refused(ValueError, "dout", dense_backward, dout[:4], x, weight)
    assert_refused(ValueError, "dout", dense_backward, dout[:, :2], x, weight)
    assert_refused(ValueError, "weight", dense_backward, dout, x, weight.T)
    assert_refused(ValueError, "dx", dense_backward, dout, x, weight, dx=nan(FLOAT32, 4, 5))
    assert_refused(ValueError, "dweight", dense_backward, dout, x, weight, dweight=nan(FLOAT32, 3, 4))
    assert_refused(ValueError, "dbias", dense_backward, dout, x, weight, dbias=nan(FLOAT32, 1, 3))


def test_need_dx(rng):
    x, weight, _ = arguments(rng, FLOAT32, 5, 4, 3)
    dout = normal(rng, FLOAT32, 5, 3)
    for wrong in (None, 1, 0, 1.0, "no", np.ones(2, bool)):
        assert_refused(TypeError, "need_dx", dense_backward, dout, x, weight, need_dx=wrong)
    assert_refused(ValueError, "dx", dense_backward, dout, x, weight, need_dx=False, dx=nan(FLOAT32, 5, 4))
    assert dense_backward(dout, x, weight, need_dx=np.False_)[0] is None


def test_outputs_overlap_nothing(rng):
    # a product cannot be written over its operands, not even exactly
    x, weight, bias = arguments(rng, FLOAT32, 4, 4, 4)
    dout = normal(rng, FLOAT32, 4, 4)
    for name, out in [("x", x), ("weight", weight), ("x", x[:]), ("bias", None)]:
        memory = normal(rng, FLOAT32, 4, 4) if out is None else out
        text = assert_refused(
            ValueError, "out", dense_forward, x, weight, memory[1] if out is None else bias, out=memory)
        assert name in text
    for name in ("dout", "x", "weight"):
        inputs = {"dout": dout, "x": x, "weight": weight}
        for output in ("dx", "dweight"):
            assert name in assert_refused(ValueError, output, dense_backward, **inputs, **{output: inputs[name]})
        assert name in assert_refused(ValueError, "dbias", dense_backward, **inputs, dbias=inputs[name][2])
    memory = nan(FLOAT32, 6, 4)
    assert_refused(ValueError, "dweight", dense_backward, dout, x, weight, dx=memory[:4], dweight=memory[2:])
    assert_refused(ValueError, "dbias", dense_backward, dout, x, weight, dx=memory[:4], dbias=memory[3])
    assert_refused(ValueError, "dbias", dense_backward, dout, x, weight, dweight=memory[2:], dbias=memory[2])
    # neighbours do not overlap
    dense_backward(dout, x, weight, dx=memory[:4], dbias=memory[4])


def test_product_changes_hands_at_the_limit(rng, monkeypatch):
    """Whoever computes it, the result is the same up to rounding, and only sizes decide."""
    calls = []
    monkeypatch.setattr(fastnn.dense.np, "matmul", lambda *args, **kwargs: calls.append(args) or kwargs["out"].fill(0))
    x, weight, _ = arguments(rng, FLOAT32, 2, 3, 4)
    for limit, expected in [(24, 0), (23, 1)]:
        monkeypatch.setattr(fastnn.dense, "OWN_PRODUCT_UP_TO", limit)
        dense_forward(x, weight)
        assert len(calls) == expected
    monkeypatch.setattr(fastnn.dense, "OWN_VECTOR_PRODUCT_UP_TO", 12)
    dense_forward(x[:1], weight)
    assert len(calls) == 1
    monkeypatch.setattr(fastnn.dense, "OWN_VECTOR_PRODUCT_UP_TO", 11)
    dense_forward(x[:1], weight)
    assert len(calls) == 2
