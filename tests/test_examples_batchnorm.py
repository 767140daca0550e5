"""E5 and E6: batch norm against none, on the bundled digits; what only MNIST can show is in docs/experiments.md."""

import copy
import math

import numpy as np
import pytest

import fastnn as fnn
from bench import data
from examples import batchnorm_curves as e5
from examples.batchnorm_curves import Kind
from examples.store import Store

QUICK = e5.Protocol(steps=1500, search=1500, target=0.85, early=1500, seeds=1)


@pytest.fixture(scope="module")
def digits():
    return e5.binary(data.digits())


@pytest.fixture(scope="module")
def curves(digits):
    return {kind: e5.curve(digits, kind, 0.5, 0, QUICK) for kind in e5.KINDS}


@pytest.mark.parametrize("batch_norm, expected", [(False, 1.9e-7), (True, 9.6e-4)])
def test_small_weights_leave_the_first_layer_no_gradient_without_batch_norm(batch_norm, expected):
    found = [e5.first_gradient(batch_norm, seed) for seed in range(5)]
    assert expected / 1.5 <= np.median(found) <= expected * 1.5, found


@pytest.mark.parametrize("batch_norm", [False, True])
def test_inputs_of_the_sigmoids_are_those_of_training(digits, batch_norm):
    net = e5.network(64, Kind(batch_norm, 0.3), seed=0)
    rng = np.random.default_rng(0)
    net.load_state_dict({name: a + 0.1 * rng.random(a.shape, np.float32) for name, a in net.state_dict().items()})
    x = digits.x_test[:100]
    last = net.layers[-1]
    outputs = fnn.activation_forward(e5.sigmoid_inputs(net, x), "sigmoid") @ last.weight + last.bias
    np.testing.assert_allclose(outputs, copy.deepcopy(net).forward(x, training=True), rtol=1e-4, atol=1e-5)


def test_batch_norm_stands_in_place_of_the_bias():
    with_bn, without = (e5.network(784, Kind(b, 0.1), seed=0).n_parameters for b in (True, False))
    weights = 784 * 100 + 2 * 100 * 100 + 100 * 10
    assert (with_bn, without) == (weights + 3 * 200 + 10, weights + 3 * 100 + 10)


def test_inputs_of_the_sigmoids_start_normal_with_batch_norm(digits):
    inputs = e5.sigmoid_inputs(e5.network(64, Kind(True, 0.01), seed=0), digits.x_test)
    percentiles = np.percentile(inputs, e5.PERCENTILES, axis=0).mean(axis=1)
    np.testing.assert_allclose(percentiles, [-1.04, 0, 1.04], atol=0.15)


def test_a_curve_has_what_its_protocol_says(curves):
    for result in curves.values():
        assert result["finite"]
        assert result["steps"] == list(range(0, 1501, 100))
        assert result["percentile_steps"] == list(range(0, 1501, 250))
        assert np.shape(result["typical"]) == (7, 3)
        assert len(result["accuracy"]) == 16 and len(result["wander"]) == len(result["breathing"]) == 100


@pytest.mark.parametrize("sigma", [0.01, 0.1])
def test_batch_norm_takes_a_third_of_the_steps(curves, sigma):
    with_bn, without = (e5.steps_to(curves[Kind(b, sigma)], QUICK.target) for b in (True, False))
    assert with_bn <= min(without, QUICK.steps) / 3, (with_bn, without)


@pytest.mark.parametrize("sigma", [0.01, 0.1])
def test_inputs_of_most_sigmoids_move_less_with_batch_norm(curves, sigma):
    with_bn, without = (np.array(curves[Kind(b, sigma)]["wander"]) for b in (True, False))
    assert np.mean(with_bn < without) >= 0.7


def test_a_search_stops_at_the_target(digits):
    steps = e5.search(digits, Kind(True, 0.1), 0.5, 0, QUICK)
    assert 0 < steps < QUICK.search and steps % 100 == 0
    assert e5.search(digits, Kind(False, 0.01), 0.5, 0, e5.Protocol(200, 200, 0.85, 200, 1)) == math.inf


def test_a_diverging_run_is_a_result(digits):
    result = e5.curve(digits, Kind(False, 1.0), 3e38, 0, QUICK)
    assert not result["finite"] and e5.steps_to(result, QUICK.target) == math.inf


def test_results_are_kept(tmp_path, capsys):
    path = tmp_path / "new" / "results.json"
    assert Store(path).get("a", lambda: {"x": [1.5, math.inf]}) == {"x": [1.5, math.inf]}
    assert not capsys.readouterr().out
    again = Store(path)
    assert "1 results" in capsys.readouterr().out
    assert again.get("a", lambda: pytest.fail("computed again")) == {"x": [1.5, math.inf]}
    assert again.get("b", lambda: 2) == 2
    assert [p.name for p in path.parent.iterdir()] == ["results.json"]
