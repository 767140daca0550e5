"""The experiments about initial weights find what the theory says, for more than one seed."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import pytest

import fastnn as fnn
from bench import data
from examples import activations_by_depth, glorot_figures, he_and_xavier, jacobian_singular_values, stack, symmetry_breaking
from examples.common import Claim


def assert_hold(claims: Iterable[Claim]) -> None:
    missed = [claim for claim in claims if not claim.holds]
    assert not missed, missed


def flat(table: dict[str, list[Claim]]) -> list[Claim]:
    return [claim for row in table.values() for claim in row]


def test_gradients_of_the_stack() -> None:
    rng = np.random.default_rng(0)
    x, dout = rng.standard_normal((2, 3, 4))
    matrices = stack.weights([4, 5, 4], fnn.init.xavier_uniform, rng, "float64")
    gradients = stack.backward(dout, stack.forward(x, matrices, "tanh"), matrices, "tanh")
    assert [g.shape for g in gradients.signals] == [(3, 4), (3, 5), (3, 4)]
    assert [g.shape for g in gradients.sums] == [(3, 5), (3, 4)]
    for a, gradient in zip((x, *matrices), (gradients.signals[0], *gradients.weights), strict=True):
        change = 1e-6 * rng.standard_normal(a.shape)
        a += change
        up = np.vdot(dout, stack.forward(x, matrices, "tanh")[-1])
        a -= 2 * change
        down = np.vdot(dout, stack.forward(x, matrices, "tanh")[-1])
        a += change
        np.testing.assert_allclose(np.vdot(gradient, change), (up - down) / 2, rtol=1e-6)


def test_theory_of_depth() -> None:
    """The integrals give the numbers that the measured ones are compared with."""
    for start in activations_by_depth.STARTS.values():
        stds, growth = activations_by_depth.theory(start.gain)
        np.testing.assert_allclose([stds[layer - 1] for layer in activations_by_depth.SHOWN], start.std, rtol=4e-3)
        if start.gain == 1:
            np.testing.assert_allclose(growth, 0.155, rtol=2e-3)
    assert math.isclose(activations_by_depth.theory(5 / 3)[1], 13, rel_tol=0.01)


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)])
def test_activations_by_depth(seed: int) -> None:
    results = activations_by_depth.measure(seed, 200)
    assert_hold(flat(activations_by_depth.std_claims(results)))
    assert_hold(activations_by_depth.other_claims(results))


@pytest.mark.slow
def test_activations_by_depth_in_full() -> None:
    results = activations_by_depth.measure(3)
    assert_hold(flat(activations_by_depth.std_claims(results)))
    assert_hold(activations_by_depth.other_claims(results))


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2, 3))])
def test_glorot_figures(seed: int) -> None:
    assert_hold(flat(glorot_figures.claims(glorot_figures.measure(seed))))


@pytest.mark.parametrize("seed", [0, 1, pytest.param(2, marks=pytest.mark.slow)])
def test_jacobian_singular_values(seed: int) -> None:
    results = jacobian_singular_values.measure(seed)
    claims = flat(jacobian_singular_values.layer_claims(results))
    assert_hold([*claims, *jacobian_singular_values.other_claims(results)])
    for claim in claims:    # at this width the lower layers, too, have theory's mean
        assert math.isclose(claim.measured, float(claim.source), rel_tol=0.04), claim


@pytest.mark.parametrize("seed", range(5))
def test_signal_of_relu_layers(seed: int) -> None:
    assert_hold(he_and_xavier.signal_claims(he_and_xavier.signal(seed)))


@pytest.mark.slow
def test_only_he_learns_thirty_layers() -> None:
    """Some epochs on the small digits; on MNIST see docs/experiments.md."""
    pytest.importorskip("sklearn")
    dataset = data.digits()
    he, xavier = (he_and_xavier.train(dataset, name, he_and_xavier.DEEP, 0.003, 20, 0) for name in he_and_xavier.COLOURS)
    assert he.accuracy > 0.8 and xavier.accuracy < 0.3


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_symmetry_breaking(seed: int) -> None:
    pytest.importorskip("sklearn")
    dataset = data.digits()
    results = symmetry_breaking.measure(dataset, seed)
    assert_hold(symmetry_breaking.claims(results, dataset.name))
    # all units take one path through fastnn's own products
    assert results["constant 0.01"].spread == 0
