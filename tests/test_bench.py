"""The benchmark package: its rivals compute what they should, its timer, reader and command line work."""

from __future__ import annotations

import gzip
import io
import json
import struct
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import (
    BenchError,
    Options,
    accuracy,
    data,
    estimators,
    explain,
    field,
    gemm,
    imports,
    kernels,
    peers,
    picture,
    predict,
    process,
    report,
    timing,
    train,
    worker,
)
from bench.__main__ import SUITES, parse
from bench.peers import careful_kernels, textbook_kernels
from bench.process import Contender, Failure
from bench.task import Task
from fastnn import reference

NUMPY = {"textbook": textbook_kernels, "careful": careful_kernels}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("op", kernels.OPS, ids=lambda op: f"{op.name}-{op.kind}".strip("-"))
def test_numpy_rivals_equal_reference(op: kernels.Op, dtype: str) -> None:
    for shape in [(5, 7, 3), (64, 9, 33)] if op.name.startswith("dense") else [(5, 7), (64, 33)]:
        kernels.check(op, kernels.draw_arguments(op, shape, dtype), NUMPY)


@pytest.mark.parametrize("op", kernels.OPS, ids=lambda op: f"{op.name}-{op.kind}".strip("-"))
def test_torch_equals_reference(op: kernels.Op) -> None:
    pytest.importorskip("torch")
    modules = peers.kernels(("torch-eager", "torch-new"))
    shape = (5, 7, 3) if op.name.startswith("dense") else (5, 7)
    entrants = {name: module for name, module in modules.items() if hasattr(module, op.name)}
    kernels.check(op, kernels.draw_arguments(op, shape, "float32"), entrants)


def test_every_careful_call_can_be_repeated() -> None:
    for op in kernels.OPS:
        if op.name in ("batchnorm_forward", "sgd_update", "adam_update"):  # these move on
            continue
        shape = (5, 7, 3) if op.name.startswith("dense") else (5, 7)
        call = kernels.bind(op, kernels.draw_arguments(op, shape, "float64"), "careful", careful_kernels)
        first = [np.copy(a) for a in kernels.flat(call())]
        for a, b in zip(first, kernels.flat(call()), strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("change", [1e-3, np.nan])
def test_a_wrong_contender_ends_the_run(change: float) -> None:
    class Wrong:
        @staticmethod
        def activation_forward(x: reference.Array, kind: str, *, out: reference.Array) -> kernels.Call:
            return lambda: reference.activation_forward(x, kind) + change

    op = next(op for op in kernels.OPS if (op.name, op.kind) == ("activation_forward", "tanh"))
    with pytest.raises(BenchError, match="activation_forward tanh 5x7 float64: wrong is off by"):
        kernels.check(op, kernels.draw_arguments(op, (5, 7), "float64"), {"wrong": Wrong})  # type: ignore[dict-item]


# ---- the training contenders


STEPS, BATCH = 6, 8
TASKS = {
    "batch norm": Task((6, 9, 8, 4), BATCH, "", dtype="float64"),
    "batch norm float32": Task((6, 9, 4), BATCH, ""),
    "regression": Task((6, 9, 8, 2), BATCH, "", False, "tanh", "mean_squared_error", "float64", lr=0.01),
    "regression of one": Task((6, 9, 1), BATCH, "", False, "relu", "mean_squared_error", "float32", lr=0.01),
    "classes without batch norm": Task((6, 9, 4), BATCH, "", False, "relu", dtype="float64"),
}


def data_of(task: Task) -> tuple[reference.Array, reference.Array]:
    return data.synthetic(STEPS * BATCH + 3, task.widths[0], task.widths[-1], task.loss, task.dtype)


def reference_losses(task: Task) -> list[float]:
    """Of the first steps, from the reference's kernels in float64."""
    x, y = (a.astype(np.float64) if a.dtype.kind == "f" else a for a in data_of(task))
    s = {name: a.astype(np.float64) for name, a in task.initial_state().items()}
    velocity = {name: np.zeros_like(a) for name, a in s.items() if "running" not in name}
    losses = []
    for rows in task.checked_batches(len(x), STEPS):
        h, saved, g = x[rows], {}, {}
        for i in task.hidden:
            z = out = reference.dense_forward(h, s[f"{i}.weight"], s.get(f"{i}.bias"))
            mean = rstd = np.empty(0)
            if task.batch_norm:
                state = (s[f"{i + 1}.{name}"] for name in ("gamma", "beta", "running_mean", "running_var"))
                out, mean, rstd = reference.batchnorm_forward(z, *state)
            y_hidden = reference.activation_forward(out, task.activation)
            saved[i] = h, z, mean, rstd, y_hidden
            h = y_hidden
        last = task.output
        outputs = reference.dense_forward(h, s[f"{last}.weight"], s[f"{last}.bias"])
        loss, dout = getattr(reference, task.loss)(outputs, y[rows])
        dh, g[f"{last}.weight"], g[f"{last}.bias"] = reference.dense_backward(dout, h, s[f"{last}.weight"])
        for i in reversed(task.hidden):
            h, z, mean, rstd, y_hidden = saved[i]
            assert dh is not None
            dz = reference.activation_backward(dh, y_hidden, task.activation)
            if task.batch_norm:
                gamma = s[f"{i + 1}.gamma"]
                dz, g[f"{i + 1}.gamma"], g[f"{i + 1}.beta"] = reference.batchnorm_backward(dz, z, gamma, mean, rstd)
            dh, g[f"{i}.weight"], dbias = reference.dense_backward(dz, h, s[f"{i}.weight"])
            if not task.batch_norm:
                g[f"{i}.bias"] = dbias
        for name, grad in g.items():
            reference.sgd_update(s[name], grad, velocity[name], lr=task.lr, momentum=task.momentum)
        losses.append(loss)
    return losses


def train_file(file: str) -> Any:
    package = {"torch": "torch", "jax": "jax", "sklearn": "sklearn"}.get(file.split("_")[0])
    if package:
        pytest.importorskip(package)
    return import_module(f"bench.peers.{file}").Rival


@pytest.mark.parametrize("file", ["own", "textbook", "careful", "torch_eager", "jax_step", "jax_scan", "sklearn_mlp"])
@pytest.mark.parametrize("task", TASKS.values(), ids=list(TASKS))
def test_contenders_train_as_the_reference_does(file: str, task: Task) -> None:
    if file == "sklearn_mlp" and task.batch_norm:
        pytest.skip("it has no batch norm")
    rival = train_file(file)(task, *data_of(task))
    wanted = pytest.approx(reference_losses(task), rel=1e-9 if task.dtype == "float64" else 1e-4)
    assert rival.losses(STEPS) == wanted
    rival.train(2)
    assert rival.losses(STEPS) != wanted
    assert len(rival.predict(data_of(task)[0])) == STEPS * BATCH + 3
    rival.start()
    assert rival.losses(STEPS) == wanted
    rival.start(1)
    assert rival.losses(STEPS) != wanted


def test_expected_losses_are_those_of_the_reference() -> None:
    task = TASKS["batch norm float32"]
    assert train.expected_losses(task, *data_of(task), STEPS) == pytest.approx(reference_losses(task), rel=1e-12)


@pytest.mark.parametrize("loss", [1.001, np.nan])
def test_a_wrong_trajectory_is_caught(loss: float) -> None:
    train.compare([2.0, 1.0], [2.0, 1.00001], "float32")
    with pytest.raises(Failure, match=r"disagrees: its loss at step 1 is .*, expected 1"):
        train.compare([2.0, 1.0], [2.0, loss], "float32")


def test_widths_of_a_net() -> None:
    assert train.Net("8-2x32-4", 1, 1).widths == (8, 32, 32, 4)
    assert len({net.name for net in train.NETS}) == len(train.NETS) >= 8


def test_work_of_a_step() -> None:
    # forward, dW of both layers, dx of the second
    assert Task((2, 3, 5), 7, "").flop == 2 * 7 * (2 * 3 * 2 + 3 * 5 * 3)


# ---- processes


@pytest.fixture
def task(tmp_path: Path) -> Task:
    x, y = data.synthetic(40, 6, 4, "softmax_cross_entropy", "float32")
    np.savez(tmp_path / "data.npz", x=x, y=y, x_test=x, y_test=y)
    return Task((6, 9, 4), BATCH, str(tmp_path / "data.npz"))


def test_a_worker_answers(task: Task) -> None:
    with np.load(task.data) as arrays:
        wanted = train_file("careful")(task, arrays["x"], arrays["y"]).losses(3)
    with Contender("careful", task) as process:
        assert process.start_seconds > 0
        assert process.ask("losses 3")["losses"] == pytest.approx(wanted, rel=1e-6)
        process.ask("start 0")
        answer = process.ask("round 2")
        assert answer["steps"] == 10 and answer["seconds"] > 0
        assert 0 <= process.ask("accuracy")["accuracy"] <= 1
        with pytest.raises(Failure, match="ValueError: unknown command 'dance"):
            process.ask("dance")
        with pytest.raises(Failure, match="exit status 0"):
            process.ask("start 0")


def test_a_worker_that_cannot_start_says_why(task: Task) -> None:
    with pytest.raises(Failure, match=r"ModuleNotFoundError: No module named 'bench\.peers\.nothing'"):
        Contender("nothing", task)


def test_a_worker_prints_nothing_between_its_answers(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = io.StringIO()
    worker.serve("textbook", task.to_json(), ["losses 1", "quit", "round 1"], answers)
    first, second = map(json.loads, answers.getvalue().splitlines())
    assert list(first) == ["seconds"] and len(second["losses"]) == 1


def test_a_rival_that_fails_leaves_the_field(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(field, "PAUSE", 0)
    monkeypatch.setitem(peers.PEERS, "broken", peers.Peer("numpy", None, "nothing"))

    def work(name: str, process: Contender) -> float:
        if name == "textbook" and turn == 1:
            raise Failure("tired")
        return float(process.ask("round 1")["seconds"])

    with field.Field(task, ["broken", "textbook"]) as contenders:
        done = []
        for turn in range(3):
            done.append(list(contenders.each(turn, work)))
    assert done == [["fastnn", "textbook"], ["fastnn"], ["fastnn"]]
    assert list(contenders.notes) == ["broken", "textbook"] and contenders.notes["textbook"] == "tired"


def test_threads_of_every_library() -> None:
    assert set(process.environment(2).values()) == {"2", "auto", ""} and process.environment(2)["FASTNN_NUM_THREADS"] == "auto"
    assert "eigen=false" in process.environment(1)["XLA_FLAGS"]


def test_a_cell_of_the_train_suite(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(field, "PAUSE", 0)
    monkeypatch.setattr(train, "QUICK", (2, 1e-6))
    row = train.measure("6-9-4", task, Options(quick=True))
    assert list(row.times) == ["fastnn", "textbook", "careful"] and not row.notes
    assert all(len(timing.rounds) == 2 for timing in row.times.values())
    assert "6-9-4" in train.tables([row])


def test_accuracy_is_reached(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(field, "PAUSE", 0)
    goal = accuracy.Goal(task.widths, task.batch, 0.3, (3, 2))
    row = accuracy.measure("toy", goal, task, Options(quick=True, peers=("careful", "sklearn")))
    assert len(row.times["fastnn"].rounds) == 2 and row.extra["careful"]["epochs"] >= 1
    assert row.extra["careful"]["from start"] > 0
    text = accuracy.tables([row])
    assert "toy to 30 %, 1 thread" in text and "no batch norm" in text and "the next best, careful" in text


def test_accuracy_that_is_out_of_reach(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accuracy, "MOST_EPOCHS", 2)
    with Contender("careful", task) as process, pytest.raises(Failure, match="seed 0 did not reach it in 2 epochs"):
        accuracy.attempt(process, 0, 1.1, 0.0)


# ---- the other suites

def test_the_predict_suite(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predict, "NETS", [(3, 4, 2)])
    monkeypatch.setattr(predict, "QUICK", (1e-5, 3))
    rows = predict.run(Options(quick=True, peers=("careful",)))
    assert (rows[1].name, rows[1].case, rows[1].dtype) == ("3-4-2", "8 rows", "float32")
    assert len(rows) == 6 and all(set(row.times) == {"fastnn", "network", "careful"} for row in rows)
    text = predict.tables(rows)
    assert "network / fastnn" in text and "geometric mean" in text
    monkeypatch.setitem(predict.RIVALS, "careful", lambda net, x: lambda: np.full(len(x), -1))
    with pytest.raises(BenchError, match="predict: 3-4-2, 1 rows, float32: careful has other labels"):
        predict.run(Options(quick=True))



def test_products_agree_and_a_wrong_one_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gemm, "SIZES", [(1, 1, 1), (7, 13, 17)])
    monkeypatch.setattr(gemm, "QUICK", (1e-5, 3))
    rows = gemm.run(Options(quick=True))
    assert len(rows) == 2 * 3 * 2
    assert max(row.extra["fastnn"]["share of peak"] for row in rows) <= 1
    text = gemm.tables(rows)
    assert "7x13x17" in text and "x.T @ dz float64" in text
    a = np.ones((2, 2))
    with pytest.raises(BenchError, match="gemm: here: wrong is off by"):
        gemm.check("here", a, a, {"wrong": a @ a + 1e-9})


def test_import_times_and_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imports, "QUICK_PROCESSES", 1)
    (row,) = imports.run(Options(quick=True, peers=("textbook",)))
    assert list(row.times) == ["fastnn", "numpy"]
    for found in row.extra.values():
        assert 0 < found["own MB"] <= found["with all it requires MB"]
    assert {"fastnn", "numpy"} <= imports.required("fastnn")
    assert "numpy" in imports.tables([row])


@pytest.mark.slow
@pytest.mark.parametrize("solver", ["sgd", "adam"])
def test_a_cell_of_the_sklearn_suite(solver: str, tmp_path: Path) -> None:
    digits = data.digits()
    np.savez(tmp_path / "data.npz", x=digits.x, y=digits.y, x_test=digits.x_test, y_test=digits.y_test)
    task = Task((64, 20, 10), 200, str(tmp_path / "data.npz"), batch_norm=False, lr=0.02, solver=solver)
    row = estimators.measure("digits", task, 10, 2)
    assert list(row.times) == ["fastnn", "sklearn", "Sequential.fit"]
    assert all(len(timing.rounds) == 2 and row.extra[name]["accuracy"] > 0.8 for name, timing in row.times.items())
    assert f"{solver}, 10 epochs, 1 thread" in estimators.tables([row])


# ---- timing and reports


def test_interleaved_rounds_in_order() -> None:
    order: list[str] = []
    calls = {name: (lambda name=name: order.append(name)) for name in ("first", "second")}
    times = timing.interleaved(calls, {"first": 1, "second": 2}, range(3))
    assert order == ["first", "second", "second"] * 3
    assert list(times) == ["first", "second"]
    assert all(len(t.rounds) == 3 and t.median == sorted(t.rounds)[1] > 0 for t in times.values())


def test_timing_is_of_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    def call() -> None:
        nonlocal now
        now += 0.25

    monkeypatch.setattr(timing.time, "perf_counter", lambda: now)
    assert timing.calibrate(call, 0.2) == 1
    assert timing.calibrate(call, 10.0) == 40
    times = timing.interleaved({"a": call}, {"a": 4}, range(5))
    assert times["a"].rounds == (0.25,) * 5
    assert times["a"].per(5).median == 0.05


def test_progress_is_silent_on_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(timing.progress(range(3), "x")) == [0, 1, 2]
    assert capsys.readouterr().err == ""


def test_progress_shows_a_bar_on_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert list(timing.progress(range(4), "kernels")) == [0, 1, 2, 3]
    assert f"\rkernels [{'#' * 20}{'.' * 20}] 2/4" in capsys.readouterr().err


def timings(**seconds: float) -> dict[str, timing.Timing]:
    return {name.replace("_", "-"): timing.Timing((0.9 * s, s, 3 * s)) for name, s in seconds.items()}


def test_kernel_tables() -> None:
    rows = [
        report.Row("kernels", "relu", "2x2", "float32", timings(fastnn=2e-6, careful=5e-6), 4000.0, "GB/s"),
        report.Row("kernels", "tanh", "2x2", "float32", timings(fastnn=2e-6), 4000.0, "GB/s"),
    ]
    text = kernels.tables(rows)
    assert "2.50x" in text and "2 GB/s" in " ".join(text.split()) and "-" in text.splitlines()[3]


TRAINED = [
    report.Row(
        "train", "8-32-4", "1 thread", "float32", timings(fastnn=1e-5, careful=4e-5, jax_scan=2e-5, sklearn=5e-6), 1e6,
        notes={"sklearn": train.NO_BATCH_NORM, "torch-eager": "exit status 1"},
    ),
    report.Row("train", "8-32-4", "2 threads", "float32", timings(fastnn=2e-3, careful=1e-3), 1e6, threads=2),
]  # fmt: skip


def test_train_tables_compare_with_the_fastest_rival_that_counts() -> None:
    assert [row.fastest() for row in TRAINED] == ["jax-scan", "careful"]
    text = train.tables(TRAINED)
    assert "5*" in text and "sklearn: no batch norm" in text and "torch-eager: exit status 1 [8-32-4]" in text
    means = {label: cells for label, *cells in train.means(TRAINED)}
    assert means["fastest rival, 1 thread"] == ["2.00x", "2.00x", "1"]
    assert means["fastest rival, all of these"] == ["1.00x", "0.50x", "2"]
    assert means["careful where a step of fastnn is below 1 ms"] == ["4.00x", "4.00x", "1"]


def test_json_has_every_round(tmp_path: Path) -> None:
    report.save_json(tmp_path / "b.json", {"cpu": "x"}, Options(), TRAINED)
    saved = json.loads((tmp_path / "b.json").read_text())["rows"]
    assert saved[0]["times"]["careful"]["rounds"] == pytest.approx([3.6e-5, 4e-5, 12e-5])
    assert saved[0]["medians"]["fastnn"] == 1e-5 and saved[0]["ratios"]["careful"] == pytest.approx(4)
    assert saved[0]["fastest"] == "jax-scan" and saved[1]["threads"] == 2


def test_pictures(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    machine = {"fastnn": "0", "cpu": "x", "blas": "y"}
    timed = report.Row("kernels", "relu", "2x2", "float32", timings(fastnn=2e-6, careful=5e-6), 4000.0, "GB/s")
    for name, rows in (("train", TRAINED), ("kernels", [timed])):
        picture.save(tmp_path / f"{name}.png", machine, rows)
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(BenchError, match="no rival"):
        picture.save(tmp_path / "b.png", machine, [report.Row("train", "8", "", "float32", timings(fastnn=1e-6))])


# ---- data


def write_idx(path: Path, a: reference.Array) -> None:
    path.write_bytes(gzip.compress(bytes([0, 0, 8, a.ndim]) + struct.pack(f">{a.ndim}I", *a.shape) + a.tobytes()))


def test_mnist_folder(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"lacks train-images-idx3-ubyte\.gz, train-labels"):
        data.mnist(tmp_path)
    rng = np.random.default_rng(0)
    for images, labels, n in ((*data.MNIST_FILES[:2], 6), (*data.MNIST_FILES[2:], 3)):
        write_idx(tmp_path / images, rng.integers(256, size=(n, 4, 4), dtype=np.uint8))
        write_idx(tmp_path / labels, np.arange(n, dtype=np.uint8))
    dataset = data.mnist(tmp_path)
    assert dataset.x.shape == (6, 16) and dataset.x.dtype == np.float32 and 0 <= dataset.x.min() <= dataset.x.max() <= 1
    np.testing.assert_array_equal(dataset.y_test, [0, 1, 2])
    write_idx(tmp_path / data.MNIST_FILES[3], np.arange(2, dtype=np.uint8))
    with pytest.raises(BenchError, match="expected N images and as many labels"):
        data.mnist(tmp_path)


def test_digits_hold_out_a_part() -> None:
    pytest.importorskip("sklearn")
    dataset = data.digits()
    assert (len(dataset.x), len(dataset.x_test)) == (1258, 539)
    assert dataset.x.dtype == np.float32 and dataset.x.max() == 1


# ---- the command line


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    root = Path(__file__).parent.parent
    return subprocess.run([sys.executable, "-m", "bench", *arguments], cwd=root, capture_output=True, text=True)


def test_help_lists_the_options() -> None:
    result = run("--help")
    assert result.returncode == 0
    for option in (
        "--quick",
        "{" + ",".join(SUITES) + "}",
        "--threads",
        "--peers",
        "--json",
        "--plot",
        "--mnist",
        "--dtype",
        "--nets",
    ):
        assert option in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--suite", "nothing"], "invalid choice: 'nothing'"),
        (["--peers", "numpy,nothing"], "got 'nothing'"),
        (["--threads", "0"], "--threads: expected numbers from 1 to"),
        (["--threads", "1,x"], "got '1,x'"),
        (["--suite", "train", "--nets", "8-32-32-4,nothing"], "--nets: expected names of 8-32-32-4, 64-"),
        (["--json", "no/such/folder/b.json"], "no such folder"),
        (["--suite", "accuracy", "--mnist", "no/such/folder"], "--mnist: expected a folder with train-images"),
    ],
)
def test_bad_arguments(arguments: list[str], message: str) -> None:
    result = run(*arguments)
    assert result.returncode != 0 and message in result.stderr


@pytest.mark.parametrize(
    ("text", "names"),
    [("numpy", ("textbook", "careful")), ("careful", ("careful",)), ("careful,numpy", ("careful", "textbook"))],
)
def test_peers_by_name_or_package(text: str, names: tuple[str, ...]) -> None:
    _, _, options = parse(["--peers", text])
    assert options.peers == names and options.threads[0] == 1


def test_gemm_is_about_one_thread() -> None:
    if process.usable_cores() < 2:
        pytest.skip("one core")
    suites, _, options = parse(["--threads", "2,1"])
    assert "gemm" not in suites and options.threads == (2, 1)
    with pytest.raises(SystemExit):
        parse(["--suite", "gemm", "--threads", "2"])


def test_numpy_is_not_imported_before_the_threads_are_set() -> None:
    code = "import sys, bench.__main__; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent.parent).returncode == 0


def test_explain_says_where_the_time_goes() -> None:
    text = explain.run("13-64-1", Options(quick=True, threads=(1, 2)))
    assert text.count("13-64-1, batch 1") == 2 and "gather" in text and "waiting" in text
    assert "Dense(13, 64)" in text and "GFLOP/s" in text and "of copying" in text
    with pytest.raises(BenchError, match=r"^--explain: .*784-256-128-10.*'nope'"):
        explain.run("nope", Options())
