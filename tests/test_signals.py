"""Signals: whatever their handlers raise, and whenever, a call has happened as a whole or not at all."""

from __future__ import annotations

import ast
import dis
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import SANITIZED

import fastnn as fnn

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs signals")

Array = np.ndarray


def run(program: str, *arguments: object, seconds: float = 120) -> str:
    """What the program says. One that hangs is killed and fails."""
    command = [sys.executable, "-X", "faulthandler", "-c", program, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


# --------------------------------------------------------------------------------------------- Ctrl-C, from outside

INTERRUPTED = """
import signal
import sys
import numpy as np
import fastnn as fnn
from fastnn import BatchNorm, Dense, Dropout, Tanh

# also where the tests run in the background, whose processes a shell has told to ignore Ctrl-C
signal.signal(signal.SIGINT, signal.default_int_handler)
threads, width, rows, total = map(int, sys.argv[1:])
fnn.set_num_threads(threads)
rng = np.random.default_rng(0)
x, y = rng.normal(size=(total, 20)).astype(np.float32), rng.integers(0, 10, total)

def build():
    return fnn.Sequential([Dense(20, width), BatchNorm(width), Tanh(), Dropout(0.2), Dense(width, 10)], seed=0)

def bits(net):
    return [a.tobytes() for a in net.state_dict().values()]

net, twin = build(), build()
optimizer = fnn.SGD(lr=0.01, momentum=0.9)
net.fit(x[:rows], y[:rows], batch_size=rows, epochs=3, optimizer=optimizer, shuffle=False)
twin.fit(x[:rows], y[:rows], batch_size=rows, epochs=3, optimizer=optimizer, shuffle=False)
while sys.stdin.readline():
    try:
        print("go", flush=True)
        net.fit(x, y, epochs=10**9, batch_size=rows, optimizer=optimizer, shuffle=False)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
    # the same steps, one by one, until all is the same
    steps = 0
    while (net.layers[-1].bias != twin.layers[-1].bias).any() or bits(net) != bits(twin):
        if steps > 200_000:
            raise SystemExit("no number of whole steps leads to this state")
        start = steps * rows % total
        twin.train_step(x[start:start + rows], y[start:start + rows], optimizer)
        steps += 1
    # and both go on alike: velocity and dropout are those of that step, and nobody is busy
    for n in (net, twin):
        n.fit(x[:20 * rows], y[:20 * rows], batch_size=rows, optimizer=optimizer, shuffle=False)
    assert bits(net) == bits(twin)
    print("steps", steps, flush=True)
"""


@pytest.mark.parametrize(("threads", "width", "rows", "total"), [(1, 30, 16, 1600), (1, 400, 64, 64 * 1000), (2, 800, 64, 640)])
def test_ctrl_c_leaves_whole_steps(threads: int, width: int, rows: int, total: int) -> None:
    arguments = [str(n) for n in (threads, width, rows, total)]
    wait = random.Random(width)
    delays, steps = [], []
    with subprocess.Popen([sys.executable, "-c", INTERRUPTED, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True, bufsize=1) as process:
        try:
            for _ in range(5):
                process.stdin.write("\n")
                assert process.stdout.readline() == "go\n"
                time.sleep(wait.uniform(0.0, 0.1))
                process.send_signal(signal.SIGINT)
                sent = time.monotonic()
                assert process.stdout.readline() == "interrupted\n"
                delays.append(time.monotonic() - sent)
                line = process.stdout.readline()
                assert line.startswith("steps "), process.stderr.read()
                steps.append(int(line.split()[1]))
            _, errors = process.communicate("", timeout=60)
            assert (process.returncode, errors) == (0, "")
        finally:
            process.kill()
    assert SANITIZED or (max(steps) > 0 and len(set(steps)) > 1)
    # a fit of years looks for signals many times a second; on a machine that does other things, most of the time
    assert sorted(delays)[2] < 0.5


# ------------------------------------------------------------------------- any signal, at any moment, any exception

STRUCK = """
import _thread, gc, os, random, signal, sys, tempfile, time
import numpy as np
import fastnn as fnn

what, times, threads, seed = sys.argv[1], *map(int, sys.argv[2:])
fnn.set_num_threads(threads)
wait = random.Random(seed)
rng = np.random.default_rng(seed)
WIDTH = 30 if threads == 1 else 2000        # the second is enough work for several threads
ROWS, STEPS = 16, 5
x, y = rng.normal(size=(STEPS * ROWS, 20)).astype(np.float32), rng.integers(0, 10, STEPS * ROWS)
optimizer = fnn.SGD(lr=0.01, momentum=0.9)
clipping = fnn.SGD(lr=0.01, clip_norm=0.1)
adam = fnn.AdamW(lr=0.001)

class Struck(BaseException):
    pass

left = [0]
kind = Struck

def strike(number, frame):
    if left[0]:
        left[0] -= 1
        raise kind

signal.signal(signal.SIGALRM, strike)

def struck(action, longest, most=3, kinds=(Struck, KeyboardInterrupt, TimeoutError, StopIteration)):
    # what the action gives; None if a signal came before it had
    global kind
    kind = wait.choice(kinds)
    left[0] = wait.choice([1, most])        # some strike while the call before is still on its way out
    result = None
    try:
        try:
            signal.setitimer(signal.ITIMER_REAL, wait.uniform(1e-6, longest), 3e-5)
            result = action()
        finally:
            left[0] = 0                     # no call, so none can come before
            signal.setitimer(signal.ITIMER_REAL, 0)
    except (kind, RuntimeError) as error:   # StopIteration becomes RuntimeError in a generator
        assert type(error) is kind or kind is StopIteration, error
        count[0] += 1
    return result

count = [0]

def attempts():
    # until so many signals came in time
    i = 0
    while count[0] < times and i < 100 * times:
        yield i
        i += 1

def layers():
    return [fnn.Dense(20, WIDTH, bias=False), fnn.BatchNorm(WIDTH), fnn.Tanh(), fnn.Dropout(0.2), fnn.Dense(WIDTH, 10)]

def build():
    return fnn.Sequential(layers(), seed=0)

def state(net):
    moments = [None if a is None else a.tobytes() for a in (net._velocity, net._second_moment)]
    return (net._plan.state.tobytes(), moments, net._optimizer, net._step, net._epoch, str(net._rng.bit_generator.state),
            net._holder)

def duration(action):
    taken = []
    for _ in range(5):
        since = time.perf_counter()
        action()
        taken.append(time.perf_counter() - since)
    return sorted(taken)[2]

def same(net, twin, note):
    for name, a, b in zip("parameters moments optimizer steps epochs generator holder".split(), state(net), state(twin)):
        assert a == b, (note, name) if name in ("parameters", "moments") else (note, name, a, b)

def fit():
    net, twin = build(), build()
    longest = 3 * duration(lambda: build().fit(x, y, epochs=3, batch_size=ROWS, optimizer=optimizer))
    for i in attempts():
        now = wait.choice([optimizer, adam, clipping])
        validation = wait.choice([None, (x, y)])
        assert struck(lambda: net.fit(
            x, y, epochs=10**9, batch_size=ROWS, optimizer=now, validation_data=validation), longest) is None
        epochs, steps = divmod(net._step - twin._step, STEPS)
        twin.fit(x, y, epochs=epochs, batch_size=ROWS, optimizer=now)
        if steps:
            order = twin._rng.permutation(len(x))
            for start in range(0, steps * ROWS, ROWS):
                rows = order[start:start + ROWS]
                twin.train_step(x[rows], y[rows], now)
        same(net, twin, (i, epochs, steps))

def shards():
    # windows of less than two batches
    with tempfile.TemporaryDirectory() as folder:
        rows = fnn.data.Shards.write(folder + "/rows", x, y, rows=50, window=3000)
        net, twin = build(), build()
        longest = 3 * duration(lambda: build().fit(rows, epochs=3, batch_size=ROWS, optimizer=optimizer))
        for i in attempts():
            validation = wait.choice([None, rows])
            assert struck(lambda: net.fit(
                rows, epochs=10**9, batch_size=ROWS, optimizer=optimizer, validation_data=validation), longest) is None
            epochs, steps = divmod(net._step - twin._step, STEPS)
            twin.fit(rows, epochs=epochs, batch_size=ROWS, optimizer=optimizer)
            if steps:
                twin.fit(rows, batch_size=ROWS, optimizer=optimizer, callbacks=[fnn.callbacks.MaxSteps(steps)])
            same(net, twin, (i, epochs, steps))
        for _ in range(100):
            if not _thread._count():
                break
            gc.collect()        # of errors that hold on to frames
            time.sleep(0.05)
        assert not _thread._count()

def step():
    net, twin = build(), build()
    calls = [lambda n: n.train_step(x, y, optimizer), lambda n: n.train_step(x, y, clipping),
             lambda n: n.train_step(x, y, adam), lambda n: n.forward(x, training=True)]
    longest = 1.3 * duration(lambda: build().train_step(x, y, optimizer))
    for i in attempts():
        call = wait.choice(calls)
        result = struck(lambda: call(net), longest)
        assert result is None or net._step == twin._step + 1
        if net._step > twin._step:
            call(twin)
        same(net, twin, i)

def look():
    net = build()
    net.fit(x, y, optimizer=optimizer)
    before, many = state(net), np.tile(x, (5, 1))
    calls = [lambda: net.predict(many), lambda: net.predict_proba(many), lambda: net.evaluate(x, y), lambda: net.forward(many),
             lambda: net.loss_and_gradients(x, y), net.state_dict]
    expected = [str(call()) for call in calls]
    longest = [1.3 * duration(call) for call in calls]
    for i in attempts():
        k = i % len(calls)
        if wait.random() < 0.5:             # what the network keeps for later is made anew
            net._plan._inference = net._plan._workspace = net._plan._gradients = None
        result = struck(calls[k], longest[k])
        assert result is None or str(result) == expected[k]
        assert str(calls[k]()) == expected[k] and state(net) == before, k

def construct():
    expected = build()._plan.state.tobytes()
    longest = 1.2 * duration(build)
    for i in attempts():
        parts = layers()
        net = struck(lambda: fnn.Sequential(parts, seed=0), longest)
        bound = {layer.bound for layer in parts}
        assert len(bound) == 1              # all of them, the signal having come when all was done, or none
        if bound == {True}:
            base = parts[0].weight.base
            while base.base is not None:
                base = base.base
            assert expected in base.tobytes()
        else:
            assert net is None
            net = fnn.Sequential(parts, seed=0)
        if net is not None:
            assert net._plan.state.tobytes() == expected and net.layers == tuple(parts)

def load():
    net, other = build(), build()
    other.fit(x, y, optimizer=optimizer)
    states = [net.state_dict(), other.state_dict()]
    bits = [net._plan.state.tobytes(), other._plan.state.tobytes()]
    longest = 1.3 * duration(lambda: net.load_state_dict(states[0]))
    seen = [0, 0]
    for i in attempts():
        struck(lambda: net.load_state_dict(states[i % 2]), longest)
        now = bits.index(net._plan.state.tobytes())
        seen[now == i % 2] += 1
        assert not net._holder
    assert min(seen) > 0 or times < 50

def save():
    # what reaches the disk when is not the question here
    os.fsync = lambda fd: None
    nets = [fnn.Sequential(layers(), seed=seed) for seed in (0, 1)]
    bits = [net._plan.state.tobytes() for net in nets]
    with tempfile.TemporaryDirectory() as folder:
        path = folder + "/net"
        nets[0].save(path)
        longest = 1.3 * duration(lambda: nets[0].save(path))
        seen = [0, 0]
        for i in attempts():
            # a second one may strike while it tidies up; json takes StopIteration for its own
            struck(lambda: nets[i % 2].save(path), longest, 1, (Struck, KeyboardInterrupt, TimeoutError))
            now = bits.index(fnn.load(path)._plan.state.tobytes())
            seen[now == i % 2] += 1
            assert os.listdir(folder) == ["net"]
            assert not nets[0]._holder and not nets[1]._holder
    assert min(seen) > 0 or times < 50

def kernels():
    a, weight, bias = (rng.normal(size=shape) for shape in ((300, 200), (200, 300), (300,)))
    gamma, mean, var, grad = bias[:200].copy(), np.zeros(200), np.ones(200), rng.normal(size=a.shape)
    calls = {
        "dense": (lambda out: fnn.dense_forward(a, weight, bias, out=out), np.zeros((300, 300))),
        "norm": (lambda out: fnn.batchnorm_forward(a, gamma, gamma, mean, var, out=out), np.zeros_like(a)),
        "activation": (lambda out: fnn.activation_forward(a, "tanh", out=out), np.zeros_like(a)),
        "sgd": (lambda out: fnn.sgd_update(out, grad, lr=0.1, weight_decay=0.1), np.ones_like(a)),
        "loss": (lambda out: fnn.softmax_cross_entropy(a, np.arange(300) % 200, dlogits=out), np.zeros_like(a)),
    }
    ends = {}
    for name, (call, out) in calls.items():
        ends[name] = out.copy()
        call(ends[name])
    for i in attempts():
        name = wait.choice(list(calls))
        call, before = calls[name]
        out = before.copy()
        struck(lambda: call(out), 1e-3)
        assert out.tobytes() in (before.tobytes(), ends[name].tobytes()), name

def draw():
    names = ["xavier_uniform", "he_normal", "orthogonal", "sparse", "fan_in_uniform", "lecun_normal"]
    g = np.random.default_rng(0)
    shape = (80, 80)
    longest = {name: 1.2 * duration(lambda: getattr(fnn.init, name)(shape, rng=0)) for name in names}
    for i in attempts():
        name = wait.choice(names)
        function = getattr(fnn.init, name)
        twin = np.random.default_rng(0)
        twin.bit_generator.state = g.bit_generator.state
        given = []
        def call():
            given.append(function(shape, rng=g))
        struck(call, longest[name], 1)      # NumPy's setter of the state may be interrupted in its turn
        if given:
            assert given[0].tobytes() == function(shape, rng=twin).tobytes()
        assert str(g.bit_generator.state) == str(twin.bit_generator.state), name

def setting():
    def inside():
        with fnn.num_threads(7):
            fnn.get_num_threads()
    longest = 2 * duration(inside)
    for i in attempts():
        struck(inside, longest)
        assert fnn.get_num_threads() == threads

globals()[what]()
print("struck", count[0])
"""

CALLS = ("fit", "shards", "step", "look", "construct", "load", "save", "kernels", "draw", "setting")


def strike(what: str, times: int, threads: int, seed: int, seconds: float) -> None:
    said = run(STRUCK, what, times, threads, seed, seconds=seconds)
    assert said.startswith("struck ") and int(said.split()[1]) > times / 2, said


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("what", CALLS)
def test_a_signal_handler_that_raises(what: str, threads: int) -> None:
    strike(what, 40 if threads == 1 else 10, threads, 0, 120)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("what", CALLS)
def test_a_signal_handler_that_raises_a_thousand_times(what: str, threads: int, seed: int) -> None:
    strike(what, 1000, threads, seed, 1800)


HANDLING = """
import signal, sys
import numpy as np
import fastnn as fnn

fnn.set_num_threads(2)
x, y = np.random.default_rng(0).normal(size=(640, 20)), np.arange(640) % 10

def build():
    return fnn.Sequential([fnn.Dense(20, 2000), fnn.Tanh(), fnn.Dropout(0.1), fnn.Dense(2000, 10)], seed=0)

net, twin, other = build(), build(), build()
before = other.predict_proba(x)
said = set()

def handle(number, frame):
    try:
        net.fit(x, y)
    except RuntimeError as error:
        said.add(str(error))
    assert net.predict(x).shape == (640,)
    assert (other.predict_proba(x) == before).all()
    build().fit(x, y)
    signal.setitimer(signal.ITIMER_REAL, 0.01)

signal.signal(signal.SIGALRM, handle)
signal.setitimer(signal.ITIMER_REAL, 0.001)
net.fit(x, y, epochs=15, optimizer=fnn.SGD(lr=0.1))
signal.signal(signal.SIGALRM, signal.SIG_IGN)
twin.fit(x, y, epochs=15, optimizer=fnn.SGD(lr=0.1))
assert all((a == b).all() for a, b in zip(net.state_dict().values(), twin.state_dict().values()))
print(*said)
"""


def test_a_handler_may_predict_and_train_another_network_but_not_the_one_that_trains() -> None:
    assert run(HANDLING).startswith("the network is busy")


WAITING = """
import os, signal
import numpy as np
import fastnn as fnn
from fastnn._kernels import team

x, y = np.random.default_rng(0).normal(size=(512, 64)), np.arange(512) % 10
fnn.set_num_threads(3)
fnn.Sequential([fnn.Dense(64, 1024), fnn.Tanh(), fnn.Dense(1024, 10)]).fit(x, y, batch_size=256)
assert team.n_workers() == 2
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
for _ in range(100):
    os.kill(os.getpid(), signal.SIGUSR1)
    assert signal.sigwait({signal.SIGUSR1}) == signal.SIGUSR1
assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == {signal.SIGUSR1}
print("waited")
"""


def test_workers_take_no_signal_that_the_program_waits_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")         # nor does another library's thread
    assert run(WAITING) == "waited\n"


LONG = """
import signal, time
import numpy as np
import fastnn as fnn

fnn.set_num_threads(1)
net = fnn.Sequential([fnn.Dense(1, 1000), fnn.ReLU(), fnn.Dense(1000, 1)], loss="mean_squared_error", seed=0)
x = np.zeros((1_000_000, 1), np.float32)
since = time.process_time()
net.predict(x)
whole = time.process_time() - since
since = time.process_time()
signal.setitimer(signal.ITIMER_VIRTUAL, whole / 20)
signal.signal(signal.SIGVTALRM, signal.default_int_handler)
try:
    net.predict(x)
    print("not interrupted")
except KeyboardInterrupt:
    assert time.process_time() - since < whole / 2
    print("interrupted")
"""


def test_a_long_prediction_hears_ctrl_c() -> None:
    assert run(LONG) == "interrupted\n"


# ----------------------------------------------------------------------------------------- code of the user's that raises

class Surprise(Exception):
    pass


class Raising:
    """Input whose conversion to an array does something else first, and raises."""

    def __init__(self, action: Any = None) -> None:
        self.action = action

    def __array__(self, *args: Any, **kwargs: Any) -> Array:
        if self.action is not None:
            self.action()
        raise Surprise


def trained() -> tuple[fnn.Sequential, Array, Array]:
    net = fnn.Sequential([fnn.Dense(4, 8, bias=False), fnn.BatchNorm(8), fnn.Dropout(0.3), fnn.Dense(8, 3)], seed=0)
    x, y = np.random.default_rng(0).normal(size=(20, 4)), np.arange(20) % 3
    net.fit(x, y, optimizer=fnn.SGD(momentum=0.9))
    return net, x, y


def state(net: fnn.Sequential) -> tuple[Any, ...]:
    return (net._plan.state.tobytes(), net._velocity.tobytes(), net._optimizer, net._step, net._epoch,
            net._rng.bit_generator.state, dict(net._holder))


def test_input_that_raises_changes_nothing() -> None:
    net, x, y = trained()
    optimizer = fnn.SGD()
    before = state(net)
    calls = [
        lambda bad: net.fit(bad, y), lambda bad: net.fit(x, y, optimizer=optimizer, validation_data=(bad, y)),
        lambda bad: net.train_step(bad, y, optimizer), lambda bad: net.loss_and_gradients(bad, y), lambda bad: net.predict(bad),
        lambda bad: net.forward(bad, training=True), lambda bad: net.evaluate(bad, y),
        lambda bad: net.load_state_dict(net.state_dict() | {"3.bias": bad}),
    ]
    for call in calls:
        with pytest.raises(Surprise):
            call(Raising())
        assert state(net) == before
    refused = []

    def train() -> None:
        try:
            net.fit(x, y)
        except RuntimeError as error:
            refused.append(str(error))

    for call in (calls[0], calls[2], calls[3]):
        with pytest.raises(Surprise):
            call(Raising(train))
        assert state(net) == before
    assert len(refused) == 3 and {text[:19] for text in refused} == {"the network is busy"}


def test_an_initialiser_that_raises_frees_the_layers() -> None:
    calls = []

    def unwilling(shape: tuple[int, int], *, rng: np.random.Generator, dtype: Any) -> Array:
        calls.append(rng.random(5))
        # the layers are taken already
        with pytest.raises(ValueError, match=r"^layers\[0\]: "):
            fnn.Sequential([layers[0]])
        if len(calls) < 3:
            raise Surprise
        return np.zeros(shape)

    layers = [fnn.Dense(4, 8), fnn.BatchNorm(8), fnn.Dense(8, 3, init=unwilling)]
    for _ in range(2):
        with pytest.raises(Surprise):
            fnn.Sequential(layers, seed=0)
        assert all(not layer.bound and not layer.parameters and not layer.statistics for layer in layers)
    net = fnn.Sequential(layers, seed=0)
    assert all(layer.bound for layer in net.layers) and not net.layers[2].weight.any()
    assert all((drawn == calls[0]).all() for drawn in calls)
    twin = fnn.Sequential([fnn.Dense(4, 8), fnn.BatchNorm(8), fnn.Dense(8, 3)], seed=0)
    assert (net.layers[0].weight == twin.layers[0].weight).all()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_network_that_trains_in_the_parent_is_refused_in_the_child() -> None:
    net, x, y = trained()
    ended = []

    def fork() -> None:
        pid = os.fork()
        if pid:
            ended.append(os.waitpid(pid, 0)[1])
            return
        # for the child, the thread that trains is this one, and another could have been in the middle of a step
        code = 1
        try:
            net.fit(x, y)
        except RuntimeError as error:
            code = 0 if "forked" in str(error) and net.predict(x).shape == (20,) else 2
        finally:
            os._exit(code)

    with pytest.raises(Surprise):
        net.fit(Raising(fork), y)
    assert ended == [0]


# ------------------------------------------------------------------------------------------- what the compiler makes of it

def codes(code: Any) -> Any:
    yield code
    for constant in code.co_consts:
        if hasattr(constant, "co_code"):
            yield from codes(constant)


def outside(path: Path) -> list[str]:
    """The ways back of loops within a `try` that its handlers do not see: what a signal raises there passes them by.

    CPython from 3.12 on makes such where a loop ends by a condition.
    """
    text = path.read_text()
    tries = [
        (node.body[0].lineno, node.body[-1].end_lineno or 0)
        for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Try) and node.finalbody]
    found = []
    for code in codes(compile(text, str(path), "exec")):
        lines = {i.offset: i.positions.lineno for i in dis.get_instructions(code)}
        seen = dis.Bytecode(code).exception_entries
        for i in dis.get_instructions(code):
            at, to = lines[i.offset], lines.get(i.argval)
            if not i.opname.startswith("JUMP_BACKWARD") or at is None or to is None:
                continue
            inside = any(code.co_firstlineno < first <= min(at, to) and max(at, to) <= last for first, last in tries)
            if inside and not any(entry.start <= i.offset < entry.end for entry in seen):
                found.append(f"{path.name}:{at}, in {code.co_qualname}")
    return found


def test_no_loop_ends_unseen_by_the_finally_around_it(tmp_path: Path) -> None:
    package = Path(fnn.__file__).parent
    assert [place for path in sorted(package.glob("*.py")) for place in outside(path)] == []
    bad = tmp_path / "bad.py"
    bad.write_text("def f(n, g):\n    try:\n        while n:\n            n -= g()\n    finally:\n        g(n)\n")
    assert len(outside(bad)) == (sys.version_info[:2] in ((3, 12), (3, 13)))
