"""What the package says about itself, and what importing it does."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

import fastnn as fnn
from fastnn import _version
from fastnn.config import config

CORE = [
    "dense_forward", "dense_backward", "batchnorm_forward", "batchnorm_backward", "batchnorm_inference",
    "activation_forward", "activation_backward", "softmax_cross_entropy", "sigmoid_cross_entropy", "mean_squared_error",
    "sgd_update", "adam_update", "reference", "init", "Sequential", "Dense", "BatchNorm", "Activation", "ReLU", "LeakyReLU",
    "Tanh", "Sigmoid", "Softsign", "Softplus", "ELU", "Dropout", "SGD", "Adam", "AdamW", "History", "DivergedError",
    "show_config",
]


def test_config() -> None:
    facts = config()
    assert {"version", "simd", "matmul"} <= facts.keys()
    assert all(isinstance(value, str) and value for value in facts.values())
    assert facts["version"] == fnn.__version__ == _version.__version__
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*", fnn.__version__)
    assert "own" in facts["matmul"] or "BLAS" in facts["matmul"]


def test_show_config(capsys: pytest.CaptureFixture[str]) -> None:
    assert fnn.show_config() is None
    printed = capsys.readouterr()
    assert printed.err == ""
    lines = dict(line.split(maxsplit=1) for line in printed.out.splitlines())
    assert lines == config()


def test_every_public_name_is_there() -> None:
    assert set(CORE) | {"__version__"} <= set(fnn.__all__)
    assert len(fnn.__all__) == len(set(fnn.__all__))
    for name in fnn.__all__:
        assert hasattr(fnn, name), name


def test_reference_has_every_kernel() -> None:
    for name in CORE[:12]:
        assert callable(getattr(fnn.reference, name)), name


def test_diverged_error_is_an_arithmetic_error() -> None:
    assert issubclass(fnn.DivergedError, ArithmeticError)


IMPORT = """
import json, sys, warnings
warnings.simplefilter("error")
import numpy as np
before = set(sys.modules)
threads = __import__("threading").active_count()
tiny = np.nextafter(np.float32(0), np.float32(1))
import fastnn
assert __import__("threading").active_count() == threads, "started a thread"
assert tiny * np.float32(1) == tiny, "flushes denormal numbers to zero"
print(json.dumps(sorted({name.partition(".")[0] for name in set(sys.modules) - before})))
"""


def test_import_brings_only_numpy() -> None:
    done = subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    imported = set(json.loads(done.stdout))
    assert "fastnn" in imported
    assert not imported & {"sklearn", "torch", "matplotlib", "scipy"}
    others = imported - set(sys.stdlib_module_names) - {"fastnn", "numpy"}
    assert not {name for name in others if "cython" not in name}        # what Cython's modules share among themselves
