"""The benchmark package: its rivals compute what they should, its timer, reader and command line work."""

from __future__ import annotations

import gzip
import itertools
import json
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bench import BenchError, careful, data, kernels, report, textbook, timing
from bench.__main__ import SUITES
from fastnn import reference

NUMPY = {"textbook": textbook, "careful": careful}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("op", kernels.OPS, ids=lambda op: f"{op.name}-{op.kind}".strip("-"))
def test_numpy_rivals_equal_reference(op: kernels.Op, dtype: str) -> None:
    for shape in [(5, 7, 3), (64, 9, 33)] if op.name.startswith("dense") else [(5, 7), (64, 33)]:
        kernels.check(op, kernels.draw_arguments(op, shape, dtype), NUMPY)


@pytest.mark.parametrize("op", kernels.OPS, ids=lambda op: f"{op.name}-{op.kind}".strip("-"))
def test_torch_equals_reference(op: kernels.Op) -> None:
    pytest.importorskip("torch")
    from bench.peers import pytorch

    if hasattr(pytorch, op.name):
        shape = (5, 7, 3) if op.name.startswith("dense") else (5, 7)
        kernels.check(op, kernels.draw_arguments(op, shape, "float32"), {"torch": pytorch})


def test_every_careful_call_can_be_repeated() -> None:
    for op in kernels.OPS:
        if op.name in ("batchnorm_forward", "sgd_update"):  # these move on
            continue
        shape = (5, 7, 3) if op.name.startswith("dense") else (5, 7)
        call = kernels.bind(op, kernels.draw_arguments(op, shape, "float64"), "careful", careful)
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


# ---- the training loops


def state_of(widths: list[int], dtype: type) -> dict[str, reference.Array]:
    rng = np.random.default_rng(0)
    state: dict[str, reference.Array] = {}
    for block, (n_in, n_out) in enumerate(itertools.pairwise(widths[:-1])):
        state[f"{3 * block}.weight"] = rng.standard_normal((n_in, n_out)).astype(dtype)
        for name, value in (("gamma", 1), ("beta", 0), ("running_mean", 0), ("running_var", 1)):
            state[f"{3 * block + 1}.{name}"] = np.full(n_out, value, dtype)
    last = 3 * (len(widths) - 2)
    state[f"{last}.weight"] = rng.standard_normal(widths[-2:]).astype(dtype)
    state[f"{last}.bias"] = np.zeros(widths[-1], dtype)
    return state


def reference_step(
    s: dict[str, reference.Array], v: dict[str, reference.Array], x: reference.Array, y: reference.Array
) -> float:
    """One training step of a network with one block, from the reference's kernels."""
    z = reference.dense_forward(x, s["0.weight"])
    out, mean, rstd = reference.batchnorm_forward(z, s["1.gamma"], s["1.beta"], s["1.running_mean"], s["1.running_var"])
    h = reference.activation_forward(out, "relu")
    loss, dlogits = reference.softmax_cross_entropy(reference.dense_forward(h, s["3.weight"], s["3.bias"]), y)
    g = {}
    dh, g["3.weight"], g["3.bias"] = reference.dense_backward(dlogits, h, s["3.weight"])
    assert dh is not None
    dout = reference.activation_backward(dh, h, "relu")
    dz, g["1.gamma"], g["1.beta"] = reference.batchnorm_backward(dout, z, s["1.gamma"], mean, rstd)
    _, g["0.weight"], _ = reference.dense_backward(dz, x, s["0.weight"], need_dx=False)
    for name, grad in g.items():
        velocity = v.setdefault(name, np.zeros_like(grad))
        reference.sgd_update(s[name], grad, velocity, lr=0.1, momentum=0.9)
    return loss


def test_numpy_networks_train_as_the_reference_does() -> None:
    state = state_of([6, 9, 4], np.float64)
    networks: list[textbook.Network | careful.Network] = [
        textbook.Network(state, lr=0.1, momentum=0.9),
        careful.Network(state, 8, lr=0.1, momentum=0.9),
    ]
    exact = {name: a.copy() for name, a in state.items()}
    velocity: dict[str, reference.Array] = {}
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((40, 6)), rng.integers(4, size=40)
    for _ in range(6):
        rows = rng.permutation(40)[:8]
        loss = reference_step(exact, velocity, x[rows], y[rows])
        for network in networks:
            assert network.train_step(x, y, rows) == pytest.approx(loss, rel=1e-9)
    for network in networks:
        for name in state:
            np.testing.assert_allclose(network.state[name], exact[name], rtol=1e-8, atol=1e-10, err_msg=name)
        assert network.predict(x).shape == (40,)


def test_deeper_numpy_networks_agree_and_leave_their_start_alone() -> None:
    state = state_of([6, 9, 8, 7, 4], np.float32)
    before = {name: a.copy() for name, a in state.items()}
    plain = textbook.Network(state, lr=0.01, momentum=0.9)
    planned = careful.Network(state, 16, lr=0.01, momentum=0.9)
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((64, 6), np.float32), rng.integers(4, size=64)
    for start in (0, 16, 32, 48):
        rows = np.arange(start, start + 16)
        assert planned.train_step(x, y, rows) == pytest.approx(plain.train_step(x, y, rows), rel=1e-4)
    for name, a in before.items():
        np.testing.assert_array_equal(state[name], a)


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


def test_reports(tmp_path: Path) -> None:
    times = {"fastnn": timing.Timing((1e-6, 2e-6, 9e-6)), "careful": timing.Timing((4e-6, 5e-6, 6e-6))}
    rows = [
        report.Row("kernels", "relu", "2x2", "float32", times, 4000.0, "GB/s"),
        report.Row("kernels", "tanh", "2x2", "float32", {"fastnn": times["fastnn"]}, 4000.0, "GB/s"),
    ]
    text = report.tables(rows)
    assert "2.50x" in text and "2 GB/s" in " ".join(text.split()) and "-" in text.splitlines()[3]
    report.save_json(tmp_path / "b.json", {"cpu": "x"}, report.Options(), rows)
    saved = json.loads((tmp_path / "b.json").read_text())["rows"]
    assert saved[0]["times"]["careful"]["rounds"] == [4e-6, 5e-6, 6e-6]
    assert saved[0]["medians"]["fastnn"] == 2e-6 and saved[0]["ratios"]["careful"] == pytest.approx(2.5)
    pytest.importorskip("matplotlib")
    report.save_plot(tmp_path / "b.png", {"fastnn": "0", "cpu": "x", "threads": "1", "blas": "y"}, rows)
    assert (tmp_path / "b.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(BenchError, match="no rival"):
        report.save_plot(tmp_path / "b.png", {}, rows[1:])


# ---- data


def write_idx(path: Path, a: reference.Array) -> None:
    path.write_bytes(gzip.compress(bytes([0, 0, 8, a.ndim]) + struct.pack(f">{a.ndim}I", *a.shape) + a.tobytes()))


def test_idx_reader(tmp_path: Path) -> None:
    images = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    write_idx(tmp_path / "a.gz", images)
    np.testing.assert_array_equal(data.read_idx(tmp_path / "a.gz"), images)


@pytest.mark.parametrize(
    "content",
    [
        b"not gzip",
        gzip.compress(b"")[:-3],
        gzip.compress(b""),
        gzip.compress(b"\0\0\x0d\x01\0\0\0\x01\0"),  # floats
        gzip.compress(b"\0\0\x08\x03\0\0\0\x01"),  # ends within the dimensions
        gzip.compress(b"\0\0\x08\x01\0\0\0\x05abc"),  # ends within the data
        gzip.compress(b"\0\0\x08\x01\0\0\0\x02abc"),  # goes on after it
    ],
)
def test_idx_reader_refuses_a_broken_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "broken.gz").write_bytes(content)
    with pytest.raises(BenchError, match=r"broken\.gz: expected"):
        data.read_idx(tmp_path / "broken.gz")


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
    ):
        assert option in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--suite", "nothing"], "invalid choice: 'nothing'"),
        (["--peers", "numpy,nothing"], "got 'nothing'"),
        (["--threads", "0"], "expected at least 1, got 0"),
        (["--json", "no/such/folder/b.json"], "no such folder"),
        (["--suite", "train", "--mnist", "no/such/folder"], "--mnist: expected a folder with train-images"),
    ],
)
def test_bad_arguments(arguments: list[str], message: str) -> None:
    result = run(*arguments)
    assert result.returncode != 0 and message in result.stderr


def test_numpy_is_not_imported_before_the_threads_are_set() -> None:
    code = "import sys, bench.__main__; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent.parent).returncode == 0
