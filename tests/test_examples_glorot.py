"""E4: Glorot & Bengio's table 1, on the bundled digits."""

import math

import numpy as np
import pytest

import fastnn as fnn
from bench import data
from examples import glorot_table as e4
from fastnn.callbacks import Callback


class Looks(Callback):
    every = 25

    def __init__(self, data):
        self.data, self.errors = data, []

    def on_step(self, run):
        self.errors.append(e4.error(run.net, self.data.x_val, self.data.y_val))


@pytest.fixture(scope="module")
def found():
    digits = e4.split(data.digits())
    return {str(row): e4.train(digits, row, 0.1, 0, width=64, epochs=15, look=25) for row in e4.ROWS}


def test_rows_start_as_the_paper_says():
    bounds = {row: np.abs(e4.network(784, row, 256, seed=0).layers[2].weight).max() for row in e4.ROWS}
    for row, bound in bounds.items():
        expected = math.sqrt(6 / 512) if str(row).endswith(" N") else 1 / math.sqrt(256)
        assert 0.99 * expected <= bound <= expected, row
    assert [str(row) for row in e4.ROWS] == ["Softsign", "Softsign N", "Tanh", "Tanh N", "Sigmoid"]


@pytest.mark.parametrize("name", ["Softsign", "Tanh"])
def test_normalised_initialisation_learns_in_fewer_updates(found, name):
    assert found[f"{name} N"]["fast"] < found[name]["fast"] < math.inf


def test_updates_are_counted_to_the_first_look_below_the_threshold(found):
    digits = e4.split(data.digits())
    row, looks = e4.ROWS[3], Looks(digits)
    net = e4.network(64, row, 64, seed=0)
    net.fit(digits.x, digits.y, epochs=15, batch_size=e4.BATCH, optimizer=fnn.SGD(0.1), callbacks=[looks])
    assert found[str(row)]["fast"] == 25 * (1 + next(i for i, error in enumerate(looks.errors) if error <= 5.0))


def test_deep_sigmoid_units_do_not_begin_to_learn(found):
    assert found["Sigmoid"]["error"] > 80 and found["Sigmoid"]["fast"] == math.inf
    assert max(result["error"] for name, result in found.items() if name != "Sigmoid") < 10


def test_the_error_is_that_of_the_best_validation(found):
    for result in found.values():
        assert result["error"] == result["test"][int(np.argmin(result["validation"]))]
        assert len(result["steps"]) == 15 and result["steps"][-1] == 15 * (1048 // e4.BATCH)


def test_rows_are_split_five_to_one():
    digits = data.digits()
    parts = e4.split(digits)
    assert (len(parts.x), len(parts.x_val), len(parts.x_test)) == (1048, 210, 539)
    np.testing.assert_array_equal(np.concatenate([parts.y, parts.y_val]), digits.y)
