"""The activations, forward and backward."""

import numpy as np
import oracle
import pytest
from conftest import (
    DTYPES,
    EPS,
    FLOAT32,
    FLOAT64,
    SIZES,
    TOL,
    assert_gradient,
    assert_near_each,
    assert_refused,
    assert_same_bits,
    nan,
    normal,
)
from oracle import nw_each

from fastnn import activation_backward, activation_forward, reference
from fastnn.activation import KINDS

SHAPES = [(n,) for n in SIZES] + [(3, 5), (8, 64), (2, 3, 7), (1, 1, 1, 1), (4097,), (100, 101)]
ALL_KINDS = {"identity", "relu", "leaky_relu", "tanh", "sigmoid", "softsign", "softplus", "elu"}
SPECIAL = [0.0, -0.0, 1.0, -1.0, 88.0, -88.0, 104.0, -104.0, 700.0, -700.0, 746.0, -746.0, np.inf, -np.inf, np.nan]


def special(dtype):
    limits = np.finfo(dtype)
    numbers = [limits.smallest_subnormal, limits.tiny, limits.eps, limits.max]
    return np.array(SPECIAL + numbers + [-x for x in numbers], dtype)


def grid(dtype):
    """Numbers of every magnitude, close together where the functions bend, and the special ones that are finite."""
    magnitudes = np.logspace(*((-323, 308) if dtype == FLOAT64 else (-45, 38)), 3001)
    x = np.concatenate([
        np.linspace(-110, 110, 4001), np.linspace(-760, 760, 2001), np.linspace(-3, 3, 4001), magnitudes, -magnitudes])
    edges = special(dtype)
    return np.concatenate([x.astype(dtype), edges[np.isfinite(edges)]])


# ---- equal to the reference

def assert_equal(dy, x, kind, case):
    y = activation_forward(x, kind)
    assert_near_each(y, reference.activation_forward(x, kind), 8, case, np.abs(y))
    # 1 - y is what the derivatives are made of
    expected = reference.activation_backward(dy, y, kind)
    assert_near_each(activation_backward(dy, y, kind), expected, 8, case, np.abs(dy))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_equals_reference(rng, kind, dtype):
    for shape in SHAPES:
        assert_equal(normal(rng, dtype, *shape), 3 * normal(rng, dtype, *shape), kind, shape)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_no_dimensions_and_no_elements(kind, dtype):
    x = np.array(0.5, dtype)
    y = activation_forward(x, kind)
    assert y.shape == ()
    assert y.dtype == dtype
    assert_near_each(y, np.asarray(reference.activation_forward(x, kind), dtype), 8, kind, y)
    for shape in [(0,), (0, 3), (3, 0)]:
        x = nan(dtype, *shape)
        assert_same_bits(activation_forward(x, kind), x, shape)
        assert_same_bits(activation_backward(x, x, kind), x, shape)


def assert_close_where_finite(result, expected, case):
    """And the same infinity, or also NaN, elsewhere."""
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(result[~finite], expected[~finite], err_msg=case)
    tiny = np.finfo(result.dtype).smallest_subnormal
    allowed = 8 * EPS[result.dtype] * np.abs(expected[finite]).astype(np.float64) + 2 * float(tiny)
    wrong = ~(np.abs(result[finite].astype(np.float64) - expected[finite]) <= allowed)
    assert not wrong.any(), f"{case}: came {result[finite][wrong]}, expected {expected[finite][wrong]}"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_special_numbers(kind, dtype):
    x = special(dtype)
    with np.errstate(all="ignore"):
        expected = reference.activation_forward(x, kind)
    y = activation_forward(x, kind)
    assert_close_where_finite(y, expected, f"{kind} of {x}")
    # one at a time and all at once: a vector and what is left over are the same function
    alone = np.array([activation_forward(x[i:i + 1], kind)[0] for i in range(len(x))])
    np.testing.assert_array_equal(alone, y)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_special_gradients(kind, dtype):
    dy, y = np.meshgrid(special(dtype), activation_forward(special(dtype), kind))
    with np.errstate(all="ignore"):
        expected = reference.activation_backward(dy, y, kind)
    assert_close_where_finite(activation_backward(dy, y, kind), expected, f"{kind} of dy {dy}, y {y}")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_by_hand(dtype):
    x = np.array([-2, -0.5, 0, 0.5, 2], dtype)
    e = np.exp
    for kind, expected in {
        "identity": x, "relu": [0, 0, 0, 0.5, 2], "leaky_relu": [-0.02, -0.005, 0, 0.5, 2],
        "tanh": (e(x) - e(-x)) / (e(x) + e(-x)), "sigmoid": 1 / (1 + e(-x)), "softplus": np.log(1 + e(x)),
        "softsign": [-2 / 3, -1 / 3, 0, 1 / 3, 2 / 3], "elu": [e(-2) - 1, e(-0.5) - 1, 0, 0.5, 2],
    }.items():
        np.testing.assert_allclose(activation_forward(x, kind), expected, rtol=20 * EPS[dtype], err_msg=kind)
    dy, y = np.full(4, 3, dtype), np.array([-0.5, -0.0, 0.25, 1], dtype)
    for kind, expected in {
        "identity": [3, 3, 3, 3], "relu": [0, 0, 3, 3], "leaky_relu": [0.03, 0.03, 3, 3],
        "tanh": [2.25, 3, 2.8125, 0], "sigmoid": [-2.25, 0, 0.5625, 0], "softsign": [0.75, 3, 1.6875, 0],
        "softplus": 3 * (1 - e(-y)), "elu": [1.5, 3, 3, 3],
    }.items():
        np.testing.assert_allclose(
            activation_backward(dy, y, kind), expected, rtol=20 * EPS[dtype], atol=0, err_msg=kind)


def test_every_kind_is_tested():
    assert set(KINDS) == ALL_KINDS


# ---- accuracy

@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_accuracy(kind, dtype):
    x = grid(dtype)
    y = activation_forward(x, kind)
    slope = dtype.type(0.01)
    below = float(np.finfo(dtype).tiny)     # where eps no longer says how far apart numbers are
    exact = oracle.activation_forward(x, kind, slope)
    error = nw_each(y, exact, np.maximum(np.abs(exact), below))
    assert error <= TOL[dtype]["activation"], f"{kind}: {error:.3g}"
    dy = np.where(np.arange(len(x)) % 2, 1, -0.7).astype(dtype)
    exact = oracle.activation_backward(dy, y, kind, slope)
    error = nw_each(activation_backward(dy, y, kind), exact, np.maximum(np.abs(exact), below))
    assert error <= TOL[dtype]["derivative"], f"{kind}: {error:.3g}"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", sorted(ALL_KINDS - {"identity", "relu", "leaky_relu"}))
def test_monotonous_and_bounded(kind, dtype):
    x = np.sort(grid(dtype))
    y = activation_forward(x, kind)
    # a step back by rounding only
    assert (np.diff(y) >= -4 * EPS[dtype] * np.maximum(np.abs(y[1:]), np.finfo(dtype).tiny)).all()
    assert y.min() >= {"sigmoid": 0, "softplus": 0}.get(kind, -1)
    assert y.max() <= {"softplus": np.inf, "elu": np.inf}.get(kind, 1)
    assert (activation_backward(np.ones_like(y), y, kind) >= 0).all()


# ---- the backward pass against finite differences

def finite_difference_case(rng, kind):
    x, dy = 2 * normal(rng, FLOAT64, 41), normal(rng, FLOAT64, 41)
    x[np.abs(x) < 1e-3] = 0.1       # away from the kinks

    def loss():
        return float(np.sum(activation_forward(x, kind) * dy))

    return loss, x, dy, activation_backward(dy, activation_forward(x, kind), kind)


@pytest.mark.parametrize("kind", KINDS)
def test_backward_equals_finite_differences(rng, kind):
    loss, x, _, dx = finite_difference_case(rng, kind)
    assert_gradient(loss, x, dx, kind)


@pytest.mark.parametrize("kind", KINDS)
def test_altered_gradients_are_found(rng, kind):
    loss, x, dy, dx = finite_difference_case(rng, kind)
    wrong_kind = activation_backward(dy, activation_forward(x, kind), "softplus" if kind == "sigmoid" else "sigmoid")
    for altered in (1.01 * dx, dx + 1e-4, -dx, np.roll(dx, 1), wrong_kind):
        with pytest.raises(AssertionError):
            assert_gradient(loss, x, altered)


# ---- contract (what all kernels have in common is in test_contract.py)

@pytest.mark.parametrize("kind", KINDS)
def test_in_place_equals_out_of_place(rng, kind):
    for dtype in DTYPES:
        x, dy = normal(rng, dtype, 5, 7), normal(rng, dtype, 5, 7)
        y = activation_forward(x, kind)
        dx = activation_backward(dy, y, kind)
        for copies in [(dy.copy(), y), (dy, y.copy())]:
            target = copies[0] if copies[0] is not dy else copies[1]
            assert activation_backward(*copies, kind, dx=target) is target
            assert_same_bits(target, dx, kind)
        # another array object on the same memory is the same array
        again = x.copy()
        assert_same_bits(activation_forward(again, kind, out=again[:]), y, kind)


def test_kind():
    x = np.ones(3, FLOAT32)
    for wrong in (None, 1, b"relu", ["relu"], len):
        assert_refused(TypeError, "kind", activation_forward, x, wrong)
        assert_refused(TypeError, "kind", activation_backward, x, x, wrong)
    for wrong in ("", "RELU", "gelu", " relu"):
        assert repr(wrong) in assert_refused(ValueError, "kind", activation_forward, x, wrong)
        assert repr(wrong) in assert_refused(ValueError, "kind", activation_backward, x, x, wrong)
    assert activation_forward(x, np.str_("relu")).tolist() == [1, 1, 1]


def test_wrong_shapes(rng):
    x, y = normal(rng, FLOAT32, 4, 3), normal(rng, FLOAT32, 4, 3)
    for shape in [(3, 4), (12,), (4, 3, 1), (1, 4, 3)]:
        assert_refused(ValueError, "out", activation_forward, x, "relu", out=nan(FLOAT32, *shape))
        assert_refused(ValueError, "dx", activation_backward, x, y, "relu", dx=nan(FLOAT32, *shape))
        assert_refused(ValueError, "y", activation_backward, x, y.reshape(shape), "relu")


def test_partial_overlap(rng):
    memory = normal(rng, FLOAT32, 6, 3)
    before = memory.copy()
    x, out, other = memory[:4], memory[2:], normal(rng, FLOAT32, 4, 3)
    assert "x" in assert_refused(ValueError, "out", activation_forward, x, "relu", out=out)
    assert "dy" in assert_refused(ValueError, "dx", activation_backward, x, other, "relu", dx=out)
    assert "y" in assert_refused(ValueError, "dx", activation_backward, other, x, "relu", dx=out)
    assert_same_bits(memory, before, "memory")
