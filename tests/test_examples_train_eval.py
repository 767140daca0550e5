"""E12: what comes of mixing up training and evaluation mode, on the bundled digits."""

import copy

import numpy as np
import pytest

from bench import data
from examples import train_eval_trap as e12
from examples.batchnorm_curves import binary


@pytest.fixture(scope="module")
def digits():
    return binary(data.digits())


@pytest.fixture(scope="module")
def net(digits):
    return e12.trained(digits, seed=0, steps=5000)


def test_all_bands_are_kept(net, digits):
    assert not [claim for claim in e12.claims(net, digits, seed=0) if not claim.holds]


def test_a_batch_of_one_is_refused(net, digits):
    assert "batch of 1" in e12.refusal(net, digits.x)


def test_the_formula_gives_one_output_for_every_batch_of_one(net, digits):
    outputs = e12.literal(net, digits.x_test[:20])
    assert outputs.shape == (20, 10)
    np.testing.assert_array_equal(outputs, np.broadcast_to(outputs[0], outputs.shape))


def test_looking_changes_nothing(net, digits):
    net = copy.deepcopy(net)
    net.layers[1].running_mean = net.layers[1].running_mean + 1
    before = net.state_dict()
    e12.training_accuracy(net, digits, 20)
    e12.estimated_again(net, digits.x)
    e12.folding_error(net, digits.x_test)
    after = net.state_dict()
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_small_batches_predict_worse_in_training_mode(net, digits):
    two, sixty = (e12.training_accuracy(net, digits, size) for size in (2, 60))
    assert two < 0.7 and sixty > 0.9 and abs(sixty - e12.accuracy(net, digits)) < 0.03
