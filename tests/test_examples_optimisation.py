"""The experiments about steps of gradient descent find what the theory says."""

from __future__ import annotations

import math

import pytest

from examples import momentum_and_schedule, simultaneous_update

# Goodfellow et al., section 8.7.1, worked out: w, y, predicted and actual drop, their ratio, second order / first order
TABLE = """
0.8 0.01153 4.154e-6 4.153e-6 0.9998 1.7e-4
1.0 1       0.0200   0.01981  0.991  0.0095
1.1 6.727   0.748    0.710    0.949  0.053
1.2 38.34   20.41    15.99    0.783  0.25
1.3 190     427      173      0.404  1.07
1.5 3325    9.83e4   3325     0.034  14
1.6 1.21e4  1.14e6   -3.2e15  -2.8e9 45
"""


@pytest.mark.parametrize("line", TABLE.strip().splitlines(), ids=lambda line: line.split()[0])
def test_closed_form_of_the_chain(line: str) -> None:
    w, *expected = map(float, line.split())
    for column, number, value in zip(
        simultaneous_update.COLUMNS, simultaneous_update.closed_form(w, simultaneous_update.EPS), expected, strict=True):
        assert math.isclose(number, value, rel_tol=0.03), column


def test_chain_does_what_the_closed_form_says() -> None:
    for row in simultaneous_update.chain_claims().values():
        for claim in row:
            assert claim.holds, claim
    for claim in simultaneous_update.scaled_claims():
        assert claim.holds, claim


@pytest.mark.parametrize("seed", [0, 1])
def test_batch_norm_shields_the_last_weight(seed: int) -> None:
    for claim in simultaneous_update.normalised_claims(seed):
        assert claim.holds, claim


def test_momentum_takes_the_exact_number_of_steps() -> None:
    for claim in momentum_and_schedule.exact_claims():
        assert claim.holds, claim


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_terminal_speed(momentum: float) -> None:
    assert math.isclose(momentum_and_schedule.speeds(momentum, 400)[-1], 1, rel_tol=1e-9)


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)])
def test_noise_of_the_gradient(seed: int) -> None:
    for claim in momentum_and_schedule.noise_claims(momentum_and_schedule.measure(seed)):
        assert claim.holds, claim
