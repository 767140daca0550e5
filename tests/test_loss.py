"""The losses and their gradients."""

import itertools
import math

import numpy as np
import pytest
from conftest import (
    DTYPES,
    EPS,
    FLOAT32,
    FLOAT64,
    LAYOUTS,
    SIZES,
    TOL,
    as_matrix,
    assert_gradient,
    assert_near,
    assert_refused,
    assert_same_bits,
    nan,
    normal,
)

from fastnn import mean_squared_error, reference, sigmoid_cross_entropy, softmax_cross_entropy

# rows and classes around the 512 numbers that are worked on at a time
LARGE = [
    (3, 511), (2, 512), (3, 513), (2, 1025), (1100, 1), (513, 2), (171, 3), (129, 8), (70, 100), (1, 3000), (700, 9),
]
ELEMENTWISE = {sigmoid_cross_entropy: reference.sigmoid_cross_entropy, mean_squared_error: reference.mean_squared_error}


def softmax_case(rng, dtype, n, k, spread=3):
    return (spread * rng.standard_normal((n, k))).astype(dtype), rng.integers(0, k, n)


def elementwise_case(rng, dtype, n, k, spread=3):
    return (spread * rng.standard_normal((n, k))).astype(dtype), rng.random((n, k)).astype(dtype)


# ---- equal to the reference

def assert_equal(function, twin, x, y, case):
    tol, output = TOL[x.dtype], "dpred" if function is mean_squared_error else "dlogits"
    expected, expected_gradient = twin(x, y)
    loss, gradient = function(x, y)
    assert type(loss) is float, case
    # both sum in float64, of entries of this size
    assert abs(loss - expected) <= 100 * EPS[FLOAT64] * max(1, expected), f"{case}: {loss}, expected {expected}"
    assert_near(gradient, expected_gradient, tol["dlogits"], case)
    in_place = x.copy()
    again = function(in_place, y, **{output: in_place})
    assert again[1] is in_place
    assert_same_bits(again, (loss, gradient), f"{case}, in place")
    assert_same_bits(function(x, y, **{output: nan(x.dtype, *x.shape)}), (loss, gradient), f"{case}, output given")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_softmax_equals_reference(rng, dtype):
    for n, k in [*itertools.product(SIZES, SIZES), *LARGE]:
        logits, labels = softmax_case(rng, dtype, n, k)
        assert_equal(softmax_cross_entropy, reference.softmax_cross_entropy, logits, labels, (n, k))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("function", ELEMENTWISE, ids=lambda f: f.__name__)
def test_elementwise_equals_reference(rng, function, dtype):
    for n, k in [*itertools.product(SIZES, SIZES), *LARGE]:
        x, y = elementwise_case(rng, dtype, n, k)
        y[0, 0], y[-1, -1] = 0, 1
        assert_equal(function, ELEMENTWISE[function], x, y, (n, k))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_by_hand(dtype):
    def close(result, loss, gradient):
        assert abs(result[0] - loss) <= 4 * EPS[dtype] * loss
        np.testing.assert_allclose(result[1], gradient, rtol=4 * EPS[dtype], strict=False)

    log = math.log
    # probabilities 1/4, 3/4 and 1/2, 1/2
    logits = np.array([[0, log(3)], [5, 5]], dtype)
    close(softmax_cross_entropy(logits, np.array([0, 1])), (log(4) + log(2)) / 2, [[-0.375, 0.375], [0.25, -0.25]])
    close(sigmoid_cross_entropy(logits[:1], np.array([[1, 0.5]], dtype)), (log(2) + log(4) - log(3) / 2) / 2,
          [[-0.25, 0.125]])
    pred, target = np.array([[1, 2], [3, 4]], dtype), np.array([[0, 4], [3, 1]], dtype)
    close(mean_squared_error(pred, target), 14 / 4, [[0.5, -1], [0, 1.5]])
    assert mean_squared_error(pred, pred)[0] == 0


# ---- the gradients against finite differences

def finite_difference_case(rng, function):
    x, y = (softmax_case if function is softmax_cross_entropy else elementwise_case)(rng, FLOAT64, 4, 5)
    if function is sigmoid_cross_entropy:
        y[0], y[1] = 0, 1
    return (lambda: function(x, y)[0]), x, y


@pytest.mark.parametrize("function", [softmax_cross_entropy, *ELEMENTWISE], ids=lambda f: f.__name__)
def test_gradient_equals_finite_differences(rng, function):
    loss, x, y = finite_difference_case(rng, function)
    assert_gradient(loss, x, function(x, y)[1])


@pytest.mark.parametrize("function", [softmax_cross_entropy, *ELEMENTWISE], ids=lambda f: f.__name__)
def test_altered_gradients_are_found(rng, function):
    loss, x, y = finite_difference_case(rng, function)
    gradient = function(x, y)[1]
    entry = gradient.copy()
    entry.flat[np.abs(entry).argmax()] *= 0.98
    # among them a sum instead of a mean, and softmax without the one of the label
    rows = np.arange(4)
    softmax = gradient.copy()
    softmax[rows, rows] += 1 / 4
    for altered in (1.01 * gradient, gradient + 1e-4, gradient * 4, gradient * 5, -gradient, entry, softmax):
        with pytest.raises(AssertionError):
            assert_gradient(loss, x, altered)


# ---- edges

@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_logits_of_any_size(dtype):
    labels = np.array([1])

    def softmax(*logits):
        loss, gradient = softmax_cross_entropy(np.array([logits], dtype), labels)
        return loss, gradient[0].tolist()

    big = 3e38
    assert softmax(0, big) == (0, [0, 0])
    assert softmax(big, big) == (math.log(2), [0.5, -0.5])
    loss, gradient = softmax(big, -big)
    assert abs(loss / (2 * big) - 1) < 2 * EPS[dtype]
    assert gradient == [1, -1]
    assert softmax(-np.inf, 1) == (0, [0, 0])           # off the target: no part in anything
    assert softmax(-np.inf, 1, 1) == (math.log(2), [0, -0.5, 0.5])
    loss, gradient = softmax(1, -np.inf)                # at the target: impossible
    assert loss == np.inf
    assert gradient == [1, -1]
    for value in (np.nan, np.inf):
        for logits in [(value, 1), (1, value), (value, value), (0, 1, value), (value, np.nan), (-np.inf, value)]:
            assert math.isnan(softmax(*logits)[0]), logits
    # in a wide row, wherever it stands
    for at in (0, 1, 511, 512, 700):
        row = [0.0] * 701
        row[at] = np.nan
        assert math.isnan(softmax(*row)[0]), at


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_sigmoid_logits_of_any_size(dtype):
    def sigmoid(z, t):
        loss, gradient = sigmoid_cross_entropy(np.array([[z]], dtype), np.array([[t]], dtype))
        return loss, float(gradient[0, 0])

    big = float(dtype.type(3e38))
    assert sigmoid(big, 1) == (0, 0)
    assert sigmoid(-big, 0) == (0, 0)
    assert sigmoid(big, 0) == (big, 1)
    assert sigmoid(-big, 1) == (big, -1)
    assert sigmoid(0, 0.5) == (math.log(2), 0)
    for t in (0, 0.5, 1):
        assert math.isnan(sigmoid(np.nan, t)[0])
        assert math.isnan(mean_squared_error(np.array([[np.nan]], dtype), np.array([[t]], dtype))[0])
    assert math.isnan(mean_squared_error(np.array([[1]], dtype), np.array([[np.nan]], dtype))[0])
    assert mean_squared_error(np.array([[np.inf]], dtype), np.array([[1]], dtype))[0] == np.inf


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_one_class_is_certain(rng, dtype):
    logits = normal(rng, dtype, 9, 1)
    loss, gradient = softmax_cross_entropy(logits, np.zeros(9, int))
    assert loss == 0
    assert not gradient.any()


# ---- labels

INTEGERS = ["i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"]


@pytest.mark.parametrize("kind", [*INTEGERS, ">i2", ">i4", ">i8", ">u8", np.intc, np.longlong, np.ulonglong])
def test_labels_of_any_integer_dtype(rng, kind):
    for k in (5, 1000):     # more classes than a byte can name
        logits = normal(rng, FLOAT32, 20, k)
        labels = rng.integers(0, min(k, 128), 20)
        expected = softmax_cross_entropy(logits, labels)
        assert_same_bits(softmax_cross_entropy(logits, labels.astype(kind)), expected, kind)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", ["i8", "u8", "i4"])
def test_labels_of_any_layout(rng, layout, kind):
    logits, labels = normal(rng, FLOAT64, 20, 7), rng.integers(0, 7, 20).astype(kind)
    laid_out = LAYOUTS[layout](labels)
    before = laid_out.copy()
    expected = softmax_cross_entropy(logits, laid_out.astype(np.intp))
    assert_same_bits(softmax_cross_entropy(logits, laid_out), expected, layout)
    assert (laid_out == before).all()


@pytest.mark.parametrize(("kind", "bad"), [
    ("i8", 3), ("i8", -1), ("i8", 2**63 - 1), ("i8", -2**63), ("i4", 3), ("i4", -1), ("i1", -128), ("i2", 3),
    ("u1", 255), ("u2", 3), ("u4", 2**32 - 1), ("u8", 3), ("u8", 2**63), ("u8", 2**64 - 1),
    (">i8", -2), (">u8", 2**64 - 3), (">i4", 7),
])
def test_labels_out_of_range(rng, kind, bad):
    logits = normal(rng, FLOAT32, 6, 3)
    for first in (0, 2, 5):
        labels = np.zeros(6, kind)
        labels[first:] = bad
        dlogits = nan(FLOAT32, 6, 3)
        text = assert_refused(ValueError, "labels", softmax_cross_entropy, logits, labels, dlogits=dlogits)
        assert str(bad) in text
        assert f"index {first}" in text
        assert "[0, 3)" in text


@pytest.mark.parametrize(("error", "labels"), [(TypeError, labels) for labels in (
    None, [0, 1, 2, 0], (0, 1, 2, 0), 1, "0120", np.ma.masked_array([0, 1, 2, 0], [0, 0, 0, 1]),
)] + [(ValueError, labels) for labels in (
    np.array([0.0, 1.0, 2.0, 0.0]), np.array([0, 1, 2, np.nan]), np.zeros(4, bool), np.array([0, 1, 2, 0], object),
    np.array(["0", "1", "2", "0"]), np.zeros(4, complex), np.zeros(4, "m8[s]"), np.zeros(4, "M8[s]"),
    np.zeros(4, "i4,i4"), np.zeros(3, int), np.zeros(5, int), np.zeros(0, int), np.array(0), np.zeros((4, 1), int),
    np.zeros((1, 4), int), as_matrix([0, 1, 2, 0]),
)], ids=lambda value: str(value).replace("\n", ""))
def test_wrong_labels(rng, error, labels):
    logits, dlogits = normal(rng, FLOAT32, 4, 3), nan(FLOAT32, 4, 3)
    assert_refused(error, "labels", softmax_cross_entropy, logits, labels)
    assert_refused(error, "labels", softmax_cross_entropy, logits, labels, dlogits=dlogits)


# ---- contract (what all kernels have in common is in test_contract.py)

def test_targets_out_of_range(rng):
    logits = normal(rng, FLOAT64, 4, 3)
    for bad in (-0.1, 1.1, 1 + EPS[FLOAT64], -5e-324, np.nan, np.inf, -np.inf):
        targets = rng.random((4, 3))
        targets[2, 1] = bad
        targets[3, 2] = 2
        dlogits = nan(FLOAT64, 4, 3)
        text = assert_refused(ValueError, "targets", sigmoid_cross_entropy, logits, targets, dlogits=dlogits)
        assert "(2, 1)" in text
        assert str(bad) in text
        # any target is fair for the squared error
        mean_squared_error(logits, targets)


@pytest.mark.parametrize("function", [softmax_cross_entropy, *ELEMENTWISE], ids=lambda f: f.__name__)
def test_needs_a_row_and_a_column(function):
    name = "pred" if function is mean_squared_error else "logits"
    for shape in [(0, 3), (3, 0), (0, 0)]:
        x = np.zeros(shape, FLOAT32)
        y = np.zeros(shape[0], int) if function is softmax_cross_entropy else x
        assert_refused(ValueError, name, function, x, y)


def test_wrong_shapes(rng):
    x, labels = softmax_case(rng, FLOAT32, 4, 3)
    y = np.full((4, 3), 0.5, FLOAT32)
    for wrong in (y.T, y[:3], y[:, :2], y.ravel(), y[None]):
        assert_refused(ValueError, "targets", sigmoid_cross_entropy, x, wrong)
        assert_refused(ValueError, "target", mean_squared_error, x, wrong)
    for shape in [(3, 4), (3, 3), (12,), (1, 4, 3)]:
        assert_refused(ValueError, "dlogits", softmax_cross_entropy, x, labels, dlogits=nan(FLOAT32, *shape))
        assert_refused(ValueError, "dlogits", sigmoid_cross_entropy, x, y, dlogits=nan(FLOAT32, *shape))
        assert_refused(ValueError, "dpred", mean_squared_error, x, y, dpred=nan(FLOAT32, *shape))


def test_overlap(rng):
    memory = rng.random((6, 3)).astype(FLOAT32)
    x, part, y, labels = memory[:4], memory[2:], np.full((4, 3), 0.5, FLOAT32), np.zeros(4, np.intp)
    assert "logits" in assert_refused(ValueError, "dlogits", softmax_cross_entropy, x, labels, dlogits=part)
    assert "logits" in assert_refused(ValueError, "dlogits", sigmoid_cross_entropy, x, y, dlogits=part)
    assert "pred" in assert_refused(ValueError, "dpred", mean_squared_error, x, y, dpred=part)
    # the targets may not be overwritten, not even exactly
    for out in (x, part):
        assert "targets" in assert_refused(ValueError, "dlogits", sigmoid_cross_entropy, y, x, dlogits=out)
        assert "target" in assert_refused(ValueError, "dpred", mean_squared_error, y, x, dpred=out)
    as_labels = np.zeros((4, 3))
    inside = as_labels.reshape(-1).view(np.int64)[3:7]
    if inside.dtype == np.intp:
        text = assert_refused(ValueError, "dlogits", softmax_cross_entropy, np.ones((4, 3)), inside, dlogits=as_labels)
        assert "labels" in text
