"""Networks of any architecture through any sequence of calls, against plain NumPy and against a twin on other threads.

The twin does the same in another way where that must not show: with the data converted beforehand, an epoch for each call,
step by step. Both must be equal to the last bit all the time; plain NumPy is followed from call to call, within rounding.
"""

from __future__ import annotations

import copy
import functools
import itertools
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
from conftest import EPS, FLOAT32, FLOAT64
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from plain import Plain, filling, optimizer
from test_properties import OWN

import fastnn as fnn
from fastnn import network
from fastnn.training import batch_starts

Array = np.ndarray
Options = dict[str, Any]

LABELS, CHANCES, NUMBERS = LOSSES = "softmax_cross_entropy", "sigmoid_cross_entropy", "mean_squared_error"
ROWS = 40
OPTIMIZERS: tuple[Options, ...] = (
    {"lr": 0.05}, {"lr": 0.01, "momentum": 0.9}, {"lr": 0.01, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
    {"lr": 0.1, "weight_decay": 0.1}, {"lr": 0.05, "clip_norm": 0.1}, {"lr": 0.02, "momentum": 0.5, "clip_norm": 0.5},
    {"lr": 0.0}, {"lr": 0.0, "momentum": 0.5}, {"kind": "Adam", "lr": 0.01, "beta2": 0.9, "eps": 1e-2, "eps_hat": True},
    {"kind": "AdamW", "lr": 0.02, "eps": 1e-2, "weight_decay": 0.1, "clip_norm": 0.5},
)

GHOSTS = functools.partial(fnn.BatchNorm, virtual_batch_size=4, running_var_ddof=0)

# ---- what hypothesis chooses: the layers as constructors and arguments, so that two networks can be built alike

widths = st.sampled_from((1, 2, 3, 7, 8, 9, 16, 17, 33))
threads = st.sampled_from((1, 2, 3, 4, None))
optimizers = st.integers(0, 2)


def between(width: int) -> st.SearchStrategy[list[Any]]:
    layer = st.one_of(
        st.tuples(st.just(fnn.Activation), st.sampled_from(fnn.activation.KINDS)),
        st.tuples(st.sampled_from((fnn.BatchNorm, GHOSTS)), st.just(width)),
        st.tuples(st.just(fnn.Dropout), st.sampled_from((0.2, 0.5, 0.0))))
    return st.lists(layer, max_size=2)


@st.composite
def architectures(draw: Any) -> list[Any]:
    width = draw(widths)
    layers = draw(between(width))
    for _ in range(draw(st.integers(1, 3))):
        out = draw(widths)
        layers += [(fnn.Dense, width, out, draw(st.booleans())), *draw(between(out))]
        width = out
    return layers


def built(architecture: list[Any], loss: str, dtype: Any) -> fnn.Sequential:
    """Of other numbers than those it would start from: no parameter or statistic is 0 or 1."""
    layers = [kind(*given[:2], bias=given[2]) if kind is fnn.Dense else kind(*given) for kind, *given in architecture]
    net = fnn.Sequential(layers, loss=loss, dtype=dtype, seed=3)
    rng = np.random.default_rng(2)
    net.load_state_dict({
        name: a if name.endswith("weight") else rng.uniform(0.6, 1.6, a.shape) if name.endswith(("gamma", "var"))
        else rng.normal(0, 0.3, a.shape) for name, a in net.state_dict().items()})
    return net


@st.composite
def rows_of(draw: Any) -> slice:
    start = draw(st.integers(0, ROWS - 1))
    return slice(start, start + draw(st.integers(1, min(ROWS - start, 25))))


KINDS_OF_X: dict[str, Callable[[Array], Array]] = {
    "as the network's": lambda x: x,
    "float32": lambda x: x.astype(np.float32), "float64": lambda x: x.astype(np.float64),
    "uint8": lambda x: (abs(x) * 3).astype(np.uint8), "int16": lambda x: (x * 3).astype(np.int16), "bool": lambda x: x > 0,
    "columns": np.asfortranarray, "strided": lambda x: np.repeat(x, 2, axis=1)[:, ::2], "reversed": lambda x: x[::-1],
    "swapped": lambda x: x.astype(x.dtype.newbyteorder()),
}
kinds_of_x = st.sampled_from(list(KINDS_OF_X))


def named(state: dict[str, Array], velocity: dict[str, Array], second_moment: dict[str, Array]) -> dict[str, Array]:
    return state | {f"velocity of {k}": a for k, a in velocity.items()} | {
        f"second moment of {k}": a for k, a in second_moment.items()}


class Side:
    """One of the two networks, with optimisers and a number of threads of its own."""

    def __init__(self, net: fnn.Sequential, options: list[Options], threads: int | None) -> None:
        self.net, self.threads = net, threads
        self.optimizers = [optimizer(**o) for o in options]

    def moments(self) -> tuple[dict[str, Array], ...]:
        """The velocity, or first moment, and the second one."""
        return tuple(
            {} if flat is None else {f"{i}.{name}": a for (i, name), a in self.net._plan.copies(flat).items()}
            for flat in (self.net._velocity, self.net._second_moment))

    def everything(self) -> list[Any]:
        """All that training depends on."""
        net = self.net
        which = [o is net._optimizer for o in self.optimizers]
        return [[{k: a.tobytes() for k, a in arrays.items()} for arrays in (net.state_dict(), *self.moments())],
                net._step, net._epoch, net._trained[0], net._rng.bit_generator.state, which]


class Networks(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.shared_work, network.SHARED_WORK = network.SHARED_WORK, 0      # small networks share their work too

    def teardown(self) -> None:
        network.SHARED_WORK = self.shared_work
        fnn.set_num_threads(None)

    @initialize(
        architecture=architectures(), loss=st.sampled_from(LOSSES), dtype=st.sampled_from((FLOAT32, FLOAT64)),
        options=st.lists(st.sampled_from(OPTIMIZERS), min_size=3, max_size=3), counts=st.tuples(threads, threads))
    def begin(self, architecture: Any, loss: str, dtype: Any, options: list[Options], counts: Any) -> None:
        self.options, self.dtype = [dict(o) for o in options], dtype
        self.architecture = architecture
        self.net, self.twin = (Side(built(architecture, loss, dtype), options, n) for n in counts)
        net = self.net.net
        self.initial = net.state_dict()
        self.norm = any(isinstance(layer, fnn.BatchNorm) for layer in net.layers)
        self.used: int | str | None = None      # the optimiser that took the last step
        rng = np.random.default_rng(1)
        self.x = rng.normal(0.2, 1.0, (ROWS, net.n_in)).astype(dtype)
        self.y: Array = rng.integers(0, net.n_out, ROWS)
        if loss != LABELS:
            self.y = (rng.random if loss == CHANCES else rng.standard_normal)((ROWS, net.n_out)).astype(dtype)

    # ---- the two, and plain NumPy

    def both(self, of_net: Callable[[Side], Any], of_twin: Callable[[Side], Any] | None = None) -> tuple[Any, Exception | None]:
        """The same of both: what comes of it, or the error."""
        results, errors = [], []
        for side, call in ((self.net, of_net), (self.twin, of_twin or of_net)):
            fnn.set_num_threads(side.threads)
            try:
                results.append(call(side))
                errors.append(None)
            except (TypeError, ValueError, fnn.DivergedError) as e:
                results.append(None)
                errors.append(e)
        assert repr(errors[0]) == repr(errors[1])
        if results[0] is not None:
            assert pickle.dumps(results[0]) == pickle.dumps(results[1])
        return results[0], errors[0]

    def changes_nothing(self, call: Callable[[Side], Any]) -> tuple[Any, Exception | None]:
        before = self.net.everything()
        outcome = self.both(call)
        assert self.net.everything() == before
        return outcome

    def refuses(self, error: type[Exception], name: str, call: Callable[[Side], Any]) -> None:
        _, e = self.changes_nothing(call)
        assert type(e) is error and str(e).startswith(f"{name}: "), e

    def plain(self, used: Any = None) -> Plain:
        """Plain NumPy as it stands, in float64; with the moments if `used` is the optimiser that they belong to."""
        plain = Plain(self.net.net, FLOAT64)
        if used is not None and used == self.used:
            plain.velocity, plain.second_moment = (
                {k: a.astype(FLOAT64) for k, a in arrays.items()} for arrays in self.net.moments())
            plain.updates = self.net.net._trained[0]
        return plain

    def follows(self, plain: Plain, run: Callable[[Plain, Array], dict[str, Any]], x: Array, given: dict[str, Any]) -> None:
        """What was given is what plain NumPy gives, as near as rounding allows: as when everything is in error by an eps."""
        x = x.astype(FLOAT64)
        eps = EPS[self.dtype]
        rng = np.random.default_rng(0)

        def run_on_copy(eps: float) -> dict[str, Array]:
            p, blur = copy.copy(plain), lambda a: a * (1 + eps * rng.uniform(-1, 1, a.shape)) if eps else a
            p.blur = blur
            p.state = {k: blur(a) for k, a in plain.state.items()}
            p.velocity, p.second_moment = (
                {k: blur(a) for k, a in arrays.items()} for arrays in (plain.velocity, plain.second_moment))
            with np.errstate(all="ignore"):
                return {k: np.asarray(a, FLOAT64) for k, a in run(p, blur(x)).items()}

        expected = run_on_copy(0)
        assert given.keys() == expected.keys()
        largest = max(np.max(np.abs(a), initial=0) for a in expected.values())
        if not largest < 1e12:
            return
        # more of them if need be: where it is not smooth, one in error may not show it
        for size, count in ((eps, 2), (16 * eps, 20)):
            blurred = [run_on_copy(size) for _ in range(count)]
            errors = {k: np.max(np.abs(given[k] - a), initial=0) for k, a in expected.items()}
            # a gradient that has cancelled does not show how large its terms were
            allowed = {
                k: 50 * eps * max(largest, 0.1) + 50 * max(np.max(np.abs(b[k] - a), initial=0) for b in blurred)
                for k, a in expected.items()}
            far = {k: (errors[k], allowed[k]) for k in errors if not errors[k] <= allowed[k]}
            if not far:
                return
        raise AssertionError(f"far from plain NumPy: {far}")

    def recover(self) -> None:
        """After a divergence, which may leave numbers so large that nothing else will go well."""
        self.used = "lost"
        self.both(lambda side: side.net.load_state_dict(self.initial))
        for side in (self.net, self.twin):
            side.optimizers = [optimizer(**o) for o in self.options]

    def data(self, rows: slice, kind: str = "as the network's") -> tuple[Array, Array, Array]:
        """The rows in some form, and as the network's dtype; and the labels or targets."""
        x = KINDS_OF_X[kind](self.x[rows])
        return x, np.ascontiguousarray(x, self.dtype), self.y[rows]

    def too_few(self, sizes: Any) -> bool:
        return self.norm and min(sizes) < 2

    # ---- training

    def trained(self, used: Any, plain: Plain, batches: list[Array], x: Array, y: Array, losses: list[float]) -> None:
        """`batches` of rows, as many for each of the losses, have been trained on."""
        options = {"lr": 0.01} if used == "default" else self.options[used]
        per_epoch = len(batches) // max(len(losses), 1)

        def run(p: Plain, x: Array) -> dict[str, Any]:
            means = []
            for epoch in range(len(losses)):
                these = batches[epoch * per_epoch:(epoch + 1) * per_epoch]
                total = sum(len(rows) * p.step(x[rows], y[rows], **options) for rows in these)
                means.append(total / sum(map(len, these)))
            return named(p.state, p.velocity, p.second_moment) | {"losses": means}

        given = named(self.net.net.state_dict(), *self.net.moments())
        self.follows(plain, run, x, given | {"losses": np.array(losses)})
        self.used = used
        if options["lr"] == 0:
            for k, a in given.items():
                assert k.startswith("velocity") or "running" in k or (a == plain.state[k]).all()

    @rule(rows=rows_of(), kind=kinds_of_x, which=optimizers)
    def train_step(self, rows: slice, kind: str, which: int) -> None:
        x, converted, y = self.data(rows, kind)
        if self.too_few([len(x)]):
            self.refuses(ValueError, "x", lambda side: side.net.train_step(x, y, side.optimizers[which]))
            return
        plain = self.plain(which)
        loss, e = self.both(
            lambda side: side.net.train_step(x, y, side.optimizers[which]),
            lambda side: side.net.train_step(converted, y, side.optimizers[which]))
        if e is not None:
            self.recover()
        else:
            self.trained(which, plain, [np.arange(len(x))], converted, y, [loss])

    @rule(rows=rows_of(), kind=kinds_of_x, which=optimizers | st.none(), epochs=st.integers(0, 2), parts=st.integers(1, 4),
          more=st.integers(0, 2), last_batch=st.sampled_from(("merge", "drop", "keep")), shuffle=st.booleans(),
          validation=st.booleans())
    def fit(self, rows: slice, kind: str, which: int | None, epochs: int, parts: int, more: int, last_batch: str,
            shuffle: bool, validation: bool) -> None:
        x, converted, y = self.data(rows, kind)
        batch_size = max(len(x) // parts, 1) + more
        data: Options = {"batch_size": batch_size, "last_batch": last_batch, "shuffle": shuffle}
        if validation:
            data["validation_data"] = x, y

        def run(side: Side, x: Array, epochs: int) -> list[float]:
            optimizer = None if which is None else side.optimizers[which]
            return side.net.fit(x, y, epochs=epochs, optimizer=optimizer, **data).loss

        if last_batch == "drop" and batch_size > len(x):
            self.refuses(ValueError, "batch_size", lambda side: run(side, x, epochs))
            return
        starts = batch_starts(len(x), batch_size, last_batch).tolist()
        if self.too_few(np.diff(starts)):
            self.refuses(ValueError, "x", lambda side: run(side, x, epochs))
            return
        used: Any = which if which is not None else "default" if self.used is None else self.used
        if used == "lost":
            return
        plain, rng = self.plain(used), copy.deepcopy(self.net.net._rng)
        losses, e = self.both(
            lambda side: run(side, x, epochs), lambda side: [run(side, converted, 1)[0] for _ in range(epochs)])
        if e is not None:
            self.recover()
            return
        batches = []
        for _ in range(epochs):
            order = rng.permutation(len(x)) if shuffle else np.arange(len(x))
            batches += [order[start:end] for start, end in itertools.pairwise(starts)]
        assert rng.bit_generator.state == self.net.net._rng.bit_generator.state
        if epochs:
            self.trained(used, plain, batches, converted, y, losses)

    @rule(rows=rows_of(), batch_size=st.integers(2, 6), which=optimizers, at=st.integers(0, 24), column=st.integers(0, 32),
          value=st.sampled_from((np.nan, np.inf, -np.inf)), in_y=st.booleans())
    def fit_on_a_number_that_is_not_finite(
        self, rows: slice, batch_size: int, which: int, at: int, column: int, value: float, in_y: bool,
    ) -> None:
        """It ends at the step that would need it, with the state after the steps before."""
        x, _, y = (np.array(a) for a in self.data(rows))
        in_y = in_y and self.net.net.loss == NUMBERS
        bad = y if in_y else x
        at, column = at % len(x), column % bad.shape[1]
        bad[at, column] = value
        starts = batch_starts(len(x), batch_size, "merge").tolist()
        if self.too_few(np.diff(starts)):
            return
        step = int(np.searchsorted(starts, at, "right")) - 1
        name = "y" if in_y else "x"
        before = self.net.everything()

        def step_by_step(side: Side) -> None:
            for start, end in itertools.pairwise(starts[:step + 1]):
                side.net.train_step(x[start:end], y[start:end], side.optimizers[which])
            raise ValueError(
                f"{name}: expected finite numbers, got {value} at row {at}, column {column} at step {step} of epoch "
                f"{side.net._epoch + 1}; the parameters after the steps before it are kept.")

        _, e = self.both(
            lambda side: side.net.fit(x, y, batch_size=batch_size, optimizer=side.optimizers[which], shuffle=False, epochs=2),
            step_by_step)
        if isinstance(e, fnn.DivergedError):
            self.recover()
        elif step == 0:
            assert self.net.everything() == before
        else:
            self.used = which

    @rule(rows=rows_of(), which=optimizers, at=st.integers(0, 24), data=st.data())
    def fit_on_a_bad_label(self, rows: slice, which: int, at: int, data: Any) -> None:
        """It is found before anything has changed."""
        x, _, y = (np.array(a) for a in self.data(rows))
        if self.net.net.loss == NUMBERS:
            return
        n = self.net.net.n_out
        y[(at % len(y), *[0] * (y.ndim - 1))] = data.draw(st.sampled_from(
            (n, -1, 2**40) if self.net.net.loss == LABELS else (-0.1, 1.5, np.nan, np.inf)))
        method = data.draw(st.sampled_from(("fit", "train_step", "evaluate", "loss_and_gradients")))

        def call(side: Side) -> Any:
            optimizer = {"fit": {"optimizer": side.optimizers[which]}, "train_step": {"optimizer": side.optimizers[which]}}
            return getattr(side.net, method)(x, y, **optimizer.get(method, {}))

        self.refuses(ValueError, "y", call)

    @rule(rows=rows_of(), batch_size=st.integers(2, 6), momentum=st.sampled_from((0.0, 0.9)), clip=st.booleans())
    def fit_that_diverges(self, rows: slice, batch_size: int, momentum: float, clip: bool) -> None:
        """The state is finite, and that after the last good step."""
        x, _, y = self.data(rows)
        starts = batch_starts(len(x), batch_size, "merge").tolist()
        if self.too_few(np.diff(starts)):
            return
        lr = 1e30 if self.dtype == FLOAT32 else 1e250
        for side in (self.net, self.twin):
            side.wild = fnn.SGD(lr=lr, momentum=momentum, clip_norm=1e30 if clip else None)
        steps = 0

        def step_by_step(side: Side) -> None:
            nonlocal steps
            for start, end in itertools.pairwise(starts * 1):
                try:
                    side.net.train_step(x[start:end], y[start:end], side.wild)
                except fnn.DivergedError as e:
                    what, _, kept = str(e).partition("; ")
                    raise fnn.DivergedError(f"{what} at step {steps} of epoch {side.net._epoch + 1}; {kept}") from None
                steps += 1

        def at_once(side: Side) -> None:
            side.net.fit(x, y, batch_size=batch_size, optimizer=side.wild, shuffle=False)

        epoch = self.net.net._epoch
        _, e = self.both(at_once, step_by_step)
        if e is None:
            assert self.net.net._epoch == epoch + 1
            self.twin.net._epoch += 1
        self.equal()
        self.recover()

    @rule(which=optimizers, lr=st.sampled_from((0.02, 0.0, 0.005)))
    def change_the_rate(self, which: int, lr: float) -> None:
        self.options[which] = self.options[which] | {"lr": lr}
        for side in (self.net, self.twin):
            side.optimizers[which].lr = lr

    # ---- what only looks

    @rule(rows=rows_of(), kind=kinds_of_x, cut=st.integers(0, 25))
    def look(self, rows: slice, kind: str, cut: int) -> None:
        x, converted, y = self.data(rows, kind)
        net = self.net.net
        outputs, _ = self.changes_nothing(lambda side: side.net.forward(x))
        assert outputs.tobytes() == net.forward(converted).tobytes()
        self.follows(self.plain(), lambda p, x: {"outputs": p.outputs(x)}, converted, {"outputs": outputs})
        predicted, _ = self.changes_nothing(lambda side: side.net.predict(x))
        found, _ = self.changes_nothing(lambda side: side.net.evaluate(x, y))
        if net.loss == LABELS:
            assert (predicted == outputs.argmax(axis=1)).all() and found["accuracy"] == (predicted == y).mean()
        elif net.loss == CHANCES:
            assert (predicted == (outputs > 0)).all() and found["accuracy"] == ((outputs > 0) == (y > 0.5)).mean()
        else:
            assert predicted.tobytes() == outputs.tobytes()
        np.testing.assert_allclose(found["loss"], network.LOSSES[net.loss](outputs, y)[0], rtol=1e-12)
        if net.loss != NUMBERS:
            chances, _ = self.changes_nothing(lambda side: side.net.predict_proba(x))
            assert np.isfinite(chances).all() and 0 <= chances.min() <= chances.max() <= 1
        parts = np.concatenate([net.forward(x[:cut]), net.forward(x[cut:])])
        if OWN:
            assert parts.tobytes() == outputs.tobytes()
        else:
            np.testing.assert_allclose(parts, outputs, rtol=1e-4, atol=1e-4)

    @rule(rows=rows_of(), kind=kinds_of_x)
    def look_at_gradients(self, rows: slice, kind: str) -> None:
        x, converted, y = self.data(rows, kind)
        if self.too_few([len(x)]):
            self.refuses(ValueError, "x", lambda side: side.net.loss_and_gradients(x, y))
            return
        (loss, gradients), _ = self.changes_nothing(lambda side: side.net.loss_and_gradients(x, y))

        def run(p: Plain, x: Array) -> dict[str, Any]:
            loss, gradients = p.gradients(x, y)
            return gradients | {"loss": loss}

        self.follows(self.plain(), run, converted, gradients | {"loss": loss})

    @rule(rows=rows_of(), kind=kinds_of_x)
    def forward_in_training(self, rows: slice, kind: str) -> None:
        x, converted, _ = self.data(rows, kind)
        if self.too_few([len(x)]):
            self.refuses(ValueError, "x", lambda side: side.net.forward(x, training=True))
            return
        plain, steps, before = self.plain(), self.net.net._step, self.net.moments()
        outputs, _ = self.both(lambda side: side.net.forward(x, training=True))
        self.follows(plain, lambda p, x: {"outputs": p.forward(x)[0]} | p.state, converted,
                     {"outputs": outputs} | self.net.net.state_dict())
        assert self.net.net._step == steps + 1
        assert pickle.dumps(self.net.moments()) == pickle.dumps(before)

    # ---- the state from outside

    @rule(seed=st.integers(0, 99), kind=st.sampled_from((np.float32, np.float64)))
    def load(self, seed: int, kind: Any) -> None:
        rng = np.random.default_rng(seed)
        state = {k: rng.normal(0, 0.5, a.shape).astype(kind) for k, a in self.initial.items()}
        state |= {k: a**2 + kind(0.1) for k, a in state.items() if k.endswith("var")}
        self.both(lambda side: side.net.load_state_dict(dict(reversed(state.items()))))
        for k, a in self.net.net.state_dict().items():
            assert a.tobytes() == state[k].astype(self.dtype).tobytes()

    @rule(data=st.data())
    def load_what_does_not_fit(self, data: Any) -> None:
        state = {k: a + 1 for k, a in self.initial.items()}
        key = data.draw(st.sampled_from(list(state)))
        a = state[key]
        wrong: dict[str, Any] = {
            "longer": (ValueError, np.concatenate([a, a])), "deeper": (ValueError, a[None]), "text": (TypeError, a.astype(str)),
            "complex": (TypeError, a + 0j), "bool": (TypeError, a > 0), "None": (TypeError, None)}
        if key.endswith("running_var"):
            wrong["negative"] = ValueError, -a
        error, state[key] = wrong[data.draw(st.sampled_from(list(wrong)))]
        if data.draw(st.booleans()):
            self.refuses(ValueError, "d", lambda side: side.net.load_state_dict(state | {"0.something": a}))
            self.refuses(ValueError, "d", lambda side: side.net.load_state_dict({k: state[k] for k in state if k != key}))
        # the name has a dot, and is at the beginning
        self.refuses(error, key, lambda side: side.net.load_state_dict(state))

    @rule(data=st.data(), seed=st.integers(0, 99))
    def assign(self, data: Any, seed: int) -> None:
        i = data.draw(st.sampled_from([i for i, layer in enumerate(self.net.net.layers) if layer.parameters]))
        name = data.draw(st.sampled_from(list(self.net.net.layers[i].parameters)))
        shape = getattr(self.net.net.layers[i], name).shape
        value = np.random.default_rng(seed).normal(0, 0.5, shape)

        def set_it(side: Side) -> None:
            setattr(side.net.layers[i], name, value)

        def write_it(side: Side) -> None:
            getattr(side.net.layers[i], name)[...] = value

        self.both(set_it, write_it)
        assert self.net.net.state_dict()[f"{i}.{name}"].tobytes() == value.astype(self.dtype).tobytes()
        self.refuses(ValueError, name, lambda side: setattr(side.net.layers[i], name, value[:, None]))

    @rule(counts=st.tuples(threads, threads))
    def set_num_threads(self, counts: tuple[int | None, int | None]) -> None:
        self.net.threads, self.twin.threads = counts

    @rule(way=st.sampled_from((copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair)))))
    def go_on_with_a_copy(self, way: Callable[[Any], Any]) -> None:
        self.net.net, self.net.optimizers = way((self.net.net, self.net.optimizers))

    @rule()
    def fill_another_network(self) -> None:
        other = built(self.architecture, self.net.net.loss, self.dtype)
        other.load_state_dict(self.net.net.state_dict())
        assert other.forward(self.x).tobytes() == self.net.net.forward(self.x).tobytes()

    # ---- always

    @precondition(lambda self: hasattr(self, "net"))
    @invariant()
    def equal(self) -> None:
        assert self.net.everything() == self.twin.everything()

    @precondition(lambda self: hasattr(self, "net"))
    @invariant()
    def sound(self) -> None:
        net = self.net.net
        state = net.state_dict()
        assert list(state) == list(self.initial)
        for key, a in state.items():
            assert a.shape == self.initial[key].shape and a.dtype == self.dtype and np.isfinite(a).all()
        for flat in (net._plan.parameters, net._plan._gradients, net._velocity, net._second_moment):
            assert flat is None or not filling(net, flat).any()
        for i, layer in enumerate(net.layers):
            for name, a in layer.parameters.items():
                assert np.shares_memory(a, net._plan.parameters) and a.tobytes() == state[f"{i}.{name}"].tobytes()


class TestNetworks(Networks.TestCase):
    settings = settings(max_examples=settings.default.max_examples * 2, stateful_step_count=25, report_multiple_bugs=False)
