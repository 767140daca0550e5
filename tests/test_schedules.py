"""Learning rates and batch sizes that change with time: their values, and that training follows them to the bit."""

from __future__ import annotations

import copy
import json
import math
import pickle
from typing import Any

import numpy as np
import pytest
from test_training import bits, build, random_data

import fastnn as fnn
from fastnn import schedules
from fastnn.schedules import (
    Constant,
    Cosine,
    ExponentialDecay,
    LinearDecay,
    OneCycle,
    ReduceOnPlateau,
    Schedule,
    StepDecay,
    WarmUp,
)

SCHEDULES: dict[str, Schedule] = {
    "constant": Constant(0.3),
    "linear": LinearDecay(0.4, 7),
    "linear per epoch": LinearDecay(0.4, 3, final=0.1, per="epoch"),
    "step": StepDecay(0.4, every=2, per="step"),
    "step per epoch": StepDecay(0.4, every=2, factor=0.5),
    "exponential": ExponentialDecay(0.4, 0.9, every=3, per="step"),
    "cosine": Cosine(0.4, 8, final=0.05),
    "warm-up": WarmUp(Cosine(0.4, 8), 4, start=0.01),
    "warm-up per epoch": WarmUp(StepDecay(0.4, every=1), 2),
    "one cycle": OneCycle(0.4, 10),
    "plateau": ReduceOnPlateau(0.4, monitor="loss"),
}

every_schedule = pytest.mark.parametrize("name", SCHEDULES)


def values(schedule: Schedule, *times: float) -> list[float]:
    return [float(v) for v in schedule(np.array(times, np.float64))]


def test_values() -> None:
    def near(schedule: Schedule, expected: dict[float, float]) -> None:
        assert values(schedule, *expected) == pytest.approx(list(expected.values()), rel=1e-14, abs=0), schedule

    near(Constant(0.3), {0: 0.3, 99: 0.3})
    # Goodfellow et al., equation 8.14: (1 - a) e_0 + a e_tau with a = k / tau, and e_tau, 1 % of e_0, from then on
    near(LinearDecay(0.5, 100), {0: 0.5, 1: 0.99 * 0.5 + 0.01 * 0.005, 50: 0.2525, 100: 0.005, 1000: 0.005})
    near(LinearDecay(0.5, 10, final=0.0, per="epoch"), {0: 0.5, 5: 0.25, 10: 0})
    near(StepDecay(0.8, every=3, factor=0.5), {0: 0.8, 2: 0.8, 3: 0.4, 5: 0.4, 6: 0.2, 30: 0.8 / 1024})
    near(ExponentialDecay(0.8, 0.5), {0: 0.8, 1: 0.4, 10: 0.8 / 1024})
    near(ExponentialDecay(0.8, 0.25, every=2), {1: 0.4, 2: 0.2})
    near(Cosine(1.0, 10, final=0.2), {0: 1.0, 5: 0.6, 10: 0.2, 11: 0.2, 2.5: 0.2 + 0.4 * (1 + math.sqrt(0.5))})
    near(WarmUp(Constant(0.4), 4), {0: 0, 1: 0.1, 3: 0.3, 4: 0.4, 9: 0.4})
    near(WarmUp(0.4, 4, start=0.2), {0: 0.2, 2: 0.3, 4: 0.4})
    near(WarmUp(LinearDecay(1.0, 10, final=0.0), 5), {4: 0.8, 5: 1.0, 10: 0.5, 15: 0})
    near(OneCycle(1.0, 10), {0: 1 / 25, 1.5: (1 + 1 / 25) / 2, 3: 1.0, 10: 1 / 25e4, 99: 1 / 25e4, 6.5: (1 + 1 / 25e4) / 2})
    near(OneCycle(1.0, 10, rise=0.5, start=0.5, final=0.1), {0: 0.5, 5: 1.0, 10: 0.1})


def test_plateau() -> None:
    schedule = ReduceOnPlateau(1.0, factor=0.5, patience=1, monitor="loss", min_lr=0.2)
    seen = []
    for loss in (3.0, 2.0, 2.0, math.nan, 2.5, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0):
        schedule.observe({"loss": loss})
        seen.append(schedule.at(0))
    # patience 1: the second epoch in a row that is no better
    assert seen == [1, 1, 1, 0.5, 0.5, 0.5, 0.5, 0.25, 0.25, 0.2, 0.2, 0.2]
    rising = ReduceOnPlateau(1.0, patience=0, monitor="val_accuracy", min_delta=0.1)
    for accuracy, lr in ((0.5, 1), (0.7, 1), (0.75, 0.1), (0.9, 0.1)):
        rising.observe({"val_accuracy": accuracy})
        assert rising.at(0) == pytest.approx(lr)
    # a rate below min_lr stays as it is
    low = ReduceOnPlateau(0.1, patience=0, monitor="loss", min_lr=0.5)
    low.observe({"loss": 1.0})
    low.observe({"loss": 1.0})
    assert low.at(0) == 0.1


@every_schedule
def test_description_makes_the_same_schedule(name: str) -> None:
    schedule = SCHEDULES[name]
    again = schedules.from_config(json.loads(json.dumps(schedule.config())))
    times = np.arange(20.0)
    assert type(again) is type(schedule) and again.per == schedule.per
    assert again.config() == schedule.config()
    assert again(times).tobytes() == schedule(times).tobytes()
    optimizer = fnn.SGD(schedule, momentum=0.5, average=0.9, clip_norm=2.0, decay="all")
    twin = fnn.SGD.from_config(json.loads(json.dumps(optimizer.config())))
    assert twin.config() == optimizer.config() and repr(twin) == repr(optimizer)
    adam = fnn.AdamW(schedule, beta2=0.5, eps_hat=True, average="polyak")
    again_adam = fnn.AdamW.from_config(json.loads(json.dumps(adam.config())))
    assert again_adam.config() == adam.config() and repr(again_adam) == repr(adam)


def test_state_of_a_plateau_goes_on() -> None:
    schedule = ReduceOnPlateau(1.0, patience=1, monitor="loss")
    for loss in (1.0, 2.0):
        schedule.observe({"loss": loss})
    again = schedules.from_config(schedule.config())
    again.load_state(json.loads(json.dumps(schedule.state())))
    assert isinstance(again, ReduceOnPlateau)
    for each in (schedule, again):
        each.observe({"loss": 3.0})
    assert again.at(0) == schedule.at(0) == 0.1


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@every_schedule
def test_training_follows_it_step_by_step(name: str, dtype: str) -> None:
    schedule = copy.deepcopy(SCHEDULES[name])
    x, y = random_data(dtype=dtype)
    net, twin = (build(dtype=dtype, dropout=0.2) for _ in range(2))
    history = net.fit(x, y, epochs=4, batch_size=8, shuffle=False, optimizer=fnn.SGD(schedule, momentum=0.9))
    # a number that is set before each step; at the end of the 4 epochs the plateau has not been reached
    optimizer = fnn.SGD(momentum=0.9)
    for step in range(12):
        optimizer.lr = SCHEDULES[name].at(step if schedule.per == "step" else step // 3)
        first = step % 3 * 8
        twin.train_step(x[first:first + 8], y[first:first + 8], optimizer)
        if step % 3 == 2:
            assert history.epochs[step // 3]["lr"] == optimizer.lr
    assert bits(net) == bits(twin)


def pickled(net: fnn.Sequential) -> Any:
    return pickle.loads(pickle.dumps(net))


@pytest.mark.parametrize("duplicate", [None, copy.deepcopy, pickled])
@every_schedule
def test_time_goes_on_in_the_next_fit(name: str, duplicate: Any) -> None:
    x, y = random_data()
    whole, parts = build(dropout=0.2), build(dropout=0.2)

    def optimizer() -> fnn.SGD:
        return fnn.SGD(copy.deepcopy(SCHEDULES[name]), momentum=0.5, average=0.5)

    expected = whole.fit(x, y, epochs=5, batch_size=8, optimizer=optimizer())
    first = parts.fit(x, y, epochs=2, batch_size=8, optimizer=optimizer())
    if duplicate is not None:
        parts = duplicate(parts)
    second = parts.fit(x, y, epochs=3, batch_size=8)
    assert bits(whole) == bits(parts) and bits(whole.averaged()) == bits(parts.averaged())
    assert [*first.loss, *second.loss] == expected.loss


def test_time_begins_anew_with_another_optimizer() -> None:
    x, y = random_data()
    net = build()
    schedule = StepDecay(0.4, every=1)
    assert [e["lr"] for e in net.fit(x, y, epochs=2, optimizer=fnn.SGD(schedule)).epochs] == pytest.approx([0.4, 0.04])
    assert [e["lr"] for e in net.fit(x, y, epochs=2, optimizer=fnn.SGD(schedule)).epochs] == pytest.approx([0.4, 0.04])
    optimizer = fnn.SGD(StepDecay(0.4, every=2, per="step"))
    for _ in range(3):
        net.train_step(x, y, optimizer)
    assert net.fit(x, y, epochs=1, batch_size=len(x), optimizer=optimizer).epochs[0]["lr"] == pytest.approx(0.04)


def test_plateau_in_training() -> None:
    x, y = random_data()
    optimizer = fnn.SGD(ReduceOnPlateau(0.1, patience=0, monitor="val_loss", min_delta=1e9))
    history = build().fit(x, y, epochs=4, optimizer=optimizer, validation_data=(x, y))
    assert [epoch["lr"] for epoch in history.epochs] == pytest.approx([0.1, 0.1, 0.01, 0.001])


def test_batch_size_by_epoch() -> None:
    x, y = random_data()
    net, twin = build(), build()
    optimizer = fnn.SGD(0.1, momentum=0.5)
    for _ in range(2):      # the second time it goes on where it was
        net.fit(x, y, epochs=2, batch_size=StepDecay(3, every=1, factor=2.1), optimizer=optimizer)
    optimizer = fnn.SGD(0.1, momentum=0.5)
    for size in (3, 6, 13, 28):
        twin.fit(x, y, batch_size=size, optimizer=optimizer)
    assert bits(net) == bits(twin)


@pytest.mark.parametrize(("make", "error", "name"), [
    (lambda: Constant(-1), ValueError, "lr"),
    (lambda: Constant("fast"), TypeError, "lr"),
    (lambda: LinearDecay(0.1, 0), ValueError, "tau"),
    (lambda: LinearDecay(0.1, 2.5), TypeError, "tau"),
    (lambda: LinearDecay(0.1, 2, final=-1), ValueError, "final"),
    (lambda: LinearDecay(0.1, 2, per="batch"), ValueError, "per"),
    (lambda: StepDecay(0.1, every=0), ValueError, "every"),
    (lambda: StepDecay(0.1, every=1, factor=0), ValueError, "factor"),
    (lambda: ExponentialDecay(0.1, math.nan), ValueError, "factor"),
    (lambda: Cosine(0.1, -3), ValueError, "length"),
    (lambda: WarmUp("x", 3), TypeError, "schedule"),
    (lambda: WarmUp(ReduceOnPlateau(0.1), 3), TypeError, "schedule"),
    (lambda: OneCycle(0.1, 10, rise=1), ValueError, "rise"),
    (lambda: ReduceOnPlateau(0.1, factor=1.0), ValueError, "factor"),
    (lambda: ReduceOnPlateau(0.1, patience=-1), ValueError, "patience"),
    (lambda: ReduceOnPlateau(0.1, mode="low"), ValueError, "mode"),
    (lambda: ReduceOnPlateau(0.1, monitor=3), TypeError, "monitor"),
    (lambda: schedules.from_config({"kind": "Fancy"}), ValueError, "kind"),
    (lambda: schedules.from_config({"kind": "Constant", "per": "step"}), ValueError, "config"),
    (lambda: fnn.SGD(decay="biases"), ValueError, "decay"),
    (lambda: fnn.SGD(average=1.0), ValueError, "average"),
    (lambda: fnn.SGD(average="ema"), ValueError, "average"),
    (lambda: fnn.SGD(average=0.9, average_from=-1), ValueError, "average_from"),
])
def test_refused(make: Any, error: type[Exception], name: str) -> None:
    with pytest.raises(error, match=rf"^{name}: expected"):
        make()


def test_refused_by_fit() -> None:
    x, y = random_data()
    net = build()
    before = bits(net)
    with pytest.raises(ValueError, match=r"^monitor: expected one of .*'loss'.*got 'val_loss'; give fit validation_data"):
        net.fit(x, y, optimizer=fnn.SGD(ReduceOnPlateau(0.1)))
    with pytest.raises(TypeError, match=r"^batch_size: expected an integer or a schedule per epoch"):
        net.fit(x, y, batch_size=StepDecay(3, every=1, per="step"))
    with pytest.raises(ValueError, match=r"^batch_size: expected an integer >= 1, got 0"):
        net.fit(x, y, epochs=9, batch_size=StepDecay(3, every=1))
    with pytest.raises(ValueError, match=r"^lr: expected a number that is finite in float32"):
        build(dtype="float32").fit(x, y, optimizer=fnn.SGD(Constant(1e39)))
    assert bits(net) == before
