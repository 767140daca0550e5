"""The update of stochastic gradient descent."""

import itertools

import numpy as np
import pytest
from conftest import (
    DTYPES,
    EPS,
    FLOAT32,
    FLOAT64,
    SIZES,
    assert_near_each,
    assert_refused,
    assert_same_bits,
    normal,
)

from fastnn import reference, sgd_update

SHAPES = [(), *((n,) for n in SIZES), (3, 5), (2, 3, 7), (1, 1, 1, 1), (64, 129), (4099,), (100_003,)]
# momentum, nesterov, weight decay, with a velocity
OPTIONS = [
    (momentum, nesterov, decay, velocity)
    for momentum, nesterov, decay, velocity
    in itertools.product((0.0, 0.5, 0.9), (False, True), (0.0, 1e-2), (False, True))
    if (velocity or not momentum) and (momentum or not nesterov)
]


def arguments(rng, dtype, *shape):
    return [normal(rng, dtype, *shape) for _ in range(3)]


# ---- equal to the reference

@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("momentum", "nesterov", "decay", "with_velocity"), OPTIONS)
def test_equals_reference(rng, momentum, nesterov, decay, with_velocity, dtype):
    options = {"momentum": momentum, "nesterov": nesterov, "weight_decay": decay}
    for shape, lr in itertools.product(SHAPES, (0.1, 1.0, 0.0)):
        param, grad, velocity = arguments(rng, dtype, *shape)
        expected, expected_velocity = param.copy(), velocity.copy()
        read_only = grad.copy()
        read_only.flags.writeable = False
        result = sgd_update(param, read_only, velocity if with_velocity else None, lr=lr, **options)
        assert result is None
        before = expected.copy()
        reference.sgd_update(expected, grad, expected_velocity if with_velocity else None, lr=lr, **options)
        terms = np.abs(before) + 2 * lr * (np.abs(grad) + np.abs(velocity) + np.abs(before))
        assert_near_each(param, expected, 2, (shape, lr), terms)
        assert_near_each(velocity, expected_velocity, 2, (shape, lr), np.abs(velocity) + np.abs(grad) + np.abs(before))
        assert_same_bits(read_only, grad, shape)
        if lr == 0:
            assert_same_bits(param, before, (shape, lr))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_by_hand(dtype):
    def update(param, grad, velocity=None, **options):
        arrays = [None if v is None else np.array([v], dtype) for v in (param, grad, velocity)]
        sgd_update(*arrays, **options)
        assert arrays[1] == grad
        return tuple(float(a[0]) for a in arrays if a is not None)

    assert update(1, 2, lr=0.25) == (0.5, 2)
    assert update(1, 2, lr=0.25, weight_decay=0.5) == (1 - 0.25 * 2.5, 2)
    assert update(1, 2, 8, lr=0.25) == (0.5, 2, 2)                      # without momentum: the velocity is the gradient
    assert update(1, 2, 0, lr=0.25, momentum=0.5) == (0.5, 2, 2)        # the first step is not damped
    assert update(1, 2, 8, lr=0.25, momentum=0.5) == (1 - 0.25 * 6, 2, 6)
    assert update(1, 2, 8, lr=0.25, momentum=0.5, nesterov=True) == (1 - 0.25 * (2 + 0.5 * 6), 2, 6)
    # decay goes through the velocity, the rate does not
    assert update(1, 2, 8, lr=0.25, momentum=0.5, weight_decay=1.0) == (1 - 0.25 * 7, 2, 7)
    assert update(1, 2, 8, lr=0.25, momentum=0.5, nesterov=True, weight_decay=1.0) == (1 - 0.25 * (3 + 0.5 * 7), 2, 7)
    assert update(1, 2, 8, lr=0, momentum=0.5) == (1, 2, 6)             # a rate of 0 still updates the velocity


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_empty(dtype):
    for shape in [(0,), (3, 0)]:
        sgd_update(np.zeros(shape, dtype), np.zeros(shape, dtype), np.zeros(shape, dtype), lr=0.1, momentum=0.9)


# ---- it descends

@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("options", [
    {"lr": 0.1}, {"lr": 0.1, "momentum": 0.9}, {"lr": 0.1, "momentum": 0.9, "nesterov": True},
], ids=str)
def test_finds_the_minimum(rng, dtype, options):
    """Of 1/2 c (p - t)^2 with weight decay d: at c t / (c + d)."""
    target, curvature, decay = normal(rng, dtype, 50), (1 + rng.random(50)).astype(dtype), 0.5
    param, velocity = np.zeros(50, dtype), np.zeros(50, dtype)
    for _ in range(600):
        sgd_update(param, curvature * (param - target), velocity, weight_decay=decay, **options)
    np.testing.assert_allclose(param, curvature * target / (curvature + decay), rtol=0, atol=1000 * EPS[dtype])


# ---- contract (what all kernels have in common is in test_contract.py)

@pytest.mark.parametrize(("name", "error", "values"), [
    ("lr", ValueError, [-1e-9, -1, np.nan, np.inf, -np.inf, 1e40]),      # the last is infinite in float32
    ("momentum", ValueError, [-0.1, 1, 1.0, 1.5, np.nan, np.inf]),
    ("weight_decay", ValueError, [-1e-9, np.nan, np.inf]),
    ("lr", TypeError, [None, "0.1", True, np.True_, 0.1j, [0.1], np.array(0.1), np.ones(3)]),
    ("momentum", TypeError, [None, "0.9", False, np.False_, 0.9j, [0.9], np.array(0.9), np.ones(3)]),
    ("weight_decay", TypeError, [None, "0", False, np.False_, 0j, [0.0], np.array(0.0), np.ones(3)]),
    ("nesterov", TypeError, [None, 0, 1, 1.0, "yes", np.ones(1, bool)]),
])
def test_wrong_numbers(rng, name, error, values):
    for value in values:
        param, grad, velocity = arguments(rng, FLOAT32, 4, 3)
        options = {"lr": 0.1, "momentum": 0.5} | {name: value}
        assert_refused(error, name, sgd_update, param, grad, velocity, **options)


def test_numbers_may_be_of_any_real_type(rng):
    param, grad, velocity = arguments(rng, FLOAT32, 4, 3)
    expected = param - grad
    for one, zero, no in [(1, 0, False), (np.float32(1), np.float64(0), np.False_), (np.int8(1), np.uint64(0), False)]:
        p = param.copy()
        sgd_update(p, grad, velocity.copy(), lr=one, momentum=zero, nesterov=no, weight_decay=zero)
        assert_same_bits(p, expected, type(one))


def test_numbers_are_finite_in_float32_up_to_its_largest(rng):
    param, grad = np.ones(3, FLOAT32), np.zeros(3, FLOAT32)
    too_large = 2.0**128 - 2.0**103      # half a unit more than the largest
    for value in (3.401e38, float(np.finfo(FLOAT32).max), np.nextafter(too_large, 0)):
        sgd_update(param, grad, lr=value)
        sgd_update(param, np.full(3, -value, FLOAT32), lr=0.0, weight_decay=value)
        assert param.tolist() == [1, 1, 1]
    for name in ("lr", "weight_decay"):
        assert_refused(ValueError, name, sgd_update, param, grad, **{"lr": 0.1, name: too_large})


def test_options_that_need_each_other(rng):
    param, grad, velocity = arguments(rng, FLOAT32, 4, 3)
    assert_refused(ValueError, "velocity", sgd_update, param, grad, lr=0.1, momentum=0.9)
    assert_refused(ValueError, "nesterov", sgd_update, param, grad, velocity, lr=0.1, nesterov=True)
    assert_refused(ValueError, "nesterov", sgd_update, param, grad, lr=0.1, nesterov=True)


def test_only_the_arrays_are_positional(rng):
    param, grad, velocity = arguments(rng, FLOAT32, 4)
    with pytest.raises(TypeError):
        sgd_update(param, grad, velocity, 0.1)
    with pytest.raises(TypeError):
        sgd_update(param, grad, velocity)


def test_wrong_shapes(rng):
    param, grad, velocity = arguments(rng, FLOAT32, 4, 3)
    for wrong in (grad.T, grad[:3], grad[:, :2], grad.ravel(), grad[None], grad[0]):
        assert_refused(ValueError, "grad", sgd_update, param, wrong, velocity, lr=0.1)
        wrong = np.ascontiguousarray(wrong)
        assert_refused(ValueError, "velocity", sgd_update, param, grad, wrong, lr=0.1)


def test_overlap(rng):
    memory = normal(rng, FLOAT32, 6, 3)
    param, part, other = memory[:4], memory[2:], normal(rng, FLOAT32, 4, 3)
    for same in (param, param[:], part):
        assert "grad" in assert_refused(ValueError, "param", sgd_update, param, same, lr=0.1)
        assert "grad" in assert_refused(ValueError, "param", sgd_update, param, same, other, lr=0.1)
        assert "param" in assert_refused(ValueError, "velocity", sgd_update, param, other, same, lr=0.1)
        assert "grad" in assert_refused(ValueError, "velocity", sgd_update, other, param, same, lr=0.1)
    # neighbours do not overlap
    sgd_update(memory[:2], memory[2:4], memory[4:], lr=0.1)


def test_not_finite_numbers_stay_where_they_are(rng):
    for dtype in DTYPES:
        param, grad, velocity = arguments(rng, dtype, 20)
        clean = [param.copy(), velocity.copy()]
        sgd_update(clean[0], grad, clean[1], lr=0.1, momentum=0.9)
        for value in (np.nan, np.inf):
            p, g, v = param.copy(), grad.copy(), velocity.copy()
            g[7] = value
            sgd_update(p, g, v, lr=0.1, momentum=0.9)
            assert not np.isfinite([p[7], v[7]]).any()
            others = np.arange(20) != 7
            assert_same_bits([p[others], v[others]], [a[others] for a in clean], value)


def test_float64_is_not_computed_in_float32(rng):
    param, grad = np.ones(3, FLOAT64), np.full(3, 1e-12)
    sgd_update(param, grad, lr=0.1)
    assert (param < 1).all()
