"""The experiment about the limits of batch norm: growth of gradients; the net of kernels trains as `Sequential` does."""

from __future__ import annotations

import numpy as np
import pytest

import fastnn as fnn
from examples import limits_of_batch_norm as limits


@pytest.mark.parametrize("seed", [0, 1])
def test_growth(seed: int) -> None:
    for claim in limits.growth_claims(seed):
        assert claim.holds, claim


@pytest.mark.parametrize("batch_norm", [True, False])
def test_net_without_noise_trains_as_sequential(batch_norm: bool) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((60, 20)).astype(np.float32), rng.integers(0, 10, 60)
    net = limits.Net(20, batch_norm, False, 0)
    layers: list[fnn.layers.Layer] = []
    for layer in net.layers:
        dense = fnn.Dense(*layer.weight.shape, bias=not batch_norm, init=layer.weight.copy())
        layers += [dense, *([fnn.BatchNorm(100)] if batch_norm else []), fnn.Sigmoid()]
    other = fnn.Sequential([*layers, fnn.Dense(100, 10, init=net.weight.copy())])
    optimizer = fnn.SGD(limits.LR)
    for _ in range(5):
        net.step(x, y)
        other.train_step(x, y, optimizer)
    np.testing.assert_allclose(net.weight, other.layers[-1].parameters["weight"], rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(net.layers[0].weight, other.layers[0].parameters["weight"], rtol=1e-3, atol=1e-5)
    assert net.accuracy(x, y) == other.evaluate(x, y)["accuracy"]


def test_noise_has_the_moments_it_should() -> None:
    net = limits.Net(20, True, True, 0)
    scales, shifts = (np.array(a) for a in zip(*(net.draw((60, 100)) for _ in range(200)), strict=True))
    # by step and unit: the mean of a uniform number, and a little more by row
    assert abs(scales.mean() - 1.125) < 0.005 and abs(shifts.mean()) < 0.01
    assert abs(scales.mean(axis=1).std() - 0.25 / 12**0.5) < 0.005 and abs(shifts.mean(axis=1).std() - 1 / 12**0.5) < 0.005
    assert abs(scales.std(axis=1).mean() - 0.1) < 0.005 and abs(shifts.std(axis=1).mean() - 0.2 / 12**0.5) < 0.005
