"""FASTNN_BLAS: a CBLAS for large products. NumPy's own and those of the system, where there are any, stand for the user's."""

from __future__ import annotations

import ctypes.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

OF_NUMPY = [str(path) for path in sorted(Path(np.__file__).parents[1].glob("numpy.libs/*openblas*"))]
OF_THE_SYSTEM = [name for name in map(ctypes.util.find_library, ("openblas", "blas", "cblas")) if name]

TRAIN = """
import hashlib
import numpy as np
import fastnn as fnn
from fastnn.config import config

rng = np.random.default_rng(0)
x, y = rng.normal(size=(256, 300)), rng.integers(0, 10, 256)
for dtype in ("float32", "float64"):
    digests, losses = set(), []
    for threads in (1, 2, 3):
        with fnn.num_threads(threads):
            net = fnn.Sequential(
                [fnn.Dense(300, 260, bias=False), fnn.BatchNorm(260), fnn.ReLU(), fnn.Dense(260, 200), fnn.Tanh(),
                 fnn.Dense(200, 10)], dtype=dtype, seed=0)
            losses.append(net.fit(x, y, epochs=3, batch_size=128, optimizer=fnn.SGD(lr=0.1, momentum=0.9)).loss[-1])
            out = fnn.dense_forward(x.astype(dtype), net.layers[0].weight.copy())
            digests.add(hashlib.sha256(b"".join(a.tobytes() for a in net.state_dict().values()) + out.tobytes()).hexdigest())
    assert len(digests) == 1, "the bits depend on the number of threads"
    print(repr(losses[0]))
print(config()["matmul"])
"""


def run(code: str, library: str | None) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "FASTNN_BLAS"}
    if library is not None:
        environment["FASTNN_BLAS"] = library
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)


@pytest.mark.parametrize("library", OF_NUMPY + OF_THE_SYSTEM)
def test_training_by_a_library(library: str) -> None:
    own, other = run(TRAIN, None), run(TRAIN, library)
    if library in OF_THE_SYSTEM and "which has none" in other.stderr:
        pytest.skip(f"{library} has no CBLAS")
    assert own.returncode == other.returncode == 0, own.stderr + other.stderr
    *own_losses, own_matmul = own.stdout.splitlines()
    *losses, matmul = other.stdout.splitlines()
    assert "FASTNN_BLAS" in matmul and library in matmul and "FASTNN_BLAS" not in own_matmul
    assert own_losses != losses         # it rounds in its own way, so it was there
    for a, b, tolerance in zip(own_losses, losses, (1e-4, 1e-11), strict=True):
        assert abs(float(a) - float(b)) <= tolerance * abs(float(a))


@pytest.mark.parametrize("library", ["/no/such/library.so", __file__, ctypes.util.find_library("m")])
def test_what_is_no_library_is_refused(library: str | None) -> None:
    if library is None:
        pytest.skip("there is no mathematical library to try")
    done = run("import fastnn", library)
    assert done.returncode == 1
    assert "ValueError: FASTNN_BLAS: expected" in done.stderr and library in done.stderr


def test_an_empty_name_is_none() -> None:
    assert run("import fastnn; print(fastnn.config.blas.path)", "").stdout == "None\n"
