"""E7: the scale of the weights and the learning rate, with batch norm and without."""

import math

import numpy as np
import pytest

from bench import data
from examples import scale_and_rate as e7
from examples.batchnorm_curves import binary


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("factor", e7.FACTORS)
def test_batch_norm_undoes_the_scale_of_the_weights(factor, seed):
    output_error, gradient_error = e7.relations(factor, seed)
    assert 0 < output_error <= 1e-5
    assert 0 < gradient_error <= 1e-5


def test_more_scales_and_rates_learn_with_batch_norm():
    digits = binary(data.digits())
    rates, sigmas = (0.1, 0.4, 1.6), (0.001, 0.03, 1.0)
    grids = {b: e7.grid(lambda lr, sigma, b=b: e7.cell(digits, b, lr, sigma, 0, 400), rates, sigmas) for b in (True, False)}
    with_bn, without = (e7.learnt(grids[b], 0.8) for b in (True, False))
    assert with_bn >= max(6, 2 * without), grids


def test_a_grid_has_a_row_for_each_sigma():
    grid = e7.grid(lambda lr, sigma: lr + 10 * sigma, (1, 2, 3), (4, 5))
    np.testing.assert_array_equal(grid, [[41, 42, 43], [51, 52, 53]])
    assert e7.learnt(np.array([0.9, math.nan, 0.89]), 0.9) == 1


def test_what_diverges_is_nan():
    digits = data.digits()
    assert math.isnan(e7.cell(digits, False, 3e38, 1.0, 0, 20))
    found = e7.small_set(digits, False, 1.0, 0, epochs=5)
    assert len(found) == 6 and 0 <= found[0] <= 1
    assert math.isnan(e7.small_set(digits, False, 1e6, 0, epochs=5)[-1])


def test_batch_norm_learns_where_the_weights_are_too_small():
    digits = data.digits()
    assert e7.small_set(digits, True, 0.01, 0, epochs=20)[-1] >= 0.95
    assert e7.small_set(digits, False, 0.01, 0, epochs=20)[-1] <= 0.2
