"""Real digits, scikit-learn's bundled 8 x 8 images or MNIST from a folder; and numbers drawn to be learnt."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench import BenchError
from fastnn.data import read_idx
from fastnn.reference import Array

MNIST_FILES = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)


@dataclass(frozen=True)
class Dataset:
    """Float32 rows in [0, 1] with their classes; the test rows are never trained on."""

    name: str
    x: Array
    y: Array
    x_test: Array
    y_test: Array


def synthetic(n_rows: int, n_in: int, n_out: int, loss: str, dtype: str) -> tuple[Array, Array]:
    """Normal rows, and as classes or targets what a random two-layer network makes of them, with some noise."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((n_rows, n_in))
    inner = np.tanh(x @ rng.standard_normal((n_in, 32)) / math.sqrt(n_in))
    outputs = inner @ rng.standard_normal((32, n_out)) / math.sqrt(32)
    outputs += 0.1 * rng.standard_normal(outputs.shape)
    y = outputs.argmax(axis=1) if loss == "softmax_cross_entropy" else outputs.astype(dtype)
    return x.astype(dtype), y


def digits() -> Dataset:
    """scikit-learn's 1797 digits, 30 % of them held out."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise BenchError("the digits come with scikit-learn: install it, or give --mnist DIR") from None
    x, y = load_digits(return_X_y=True)
    x = (x / 16).astype(np.float32)
    order = np.random.default_rng(0).permutation(len(x))
    test, train = np.split(order, [round(0.3 * len(x))])
    return Dataset("digits", x[train], y[train], x[test], y[test])


def mnist(directory: Path) -> Dataset:
    try:
        images, labels, test_images, test_labels = (read_idx(path) for path in mnist_files(directory))
    except (OSError, ValueError) as error:
        raise BenchError(str(error)) from None
    for x, y, name in ((images, labels, MNIST_FILES[0]), (test_images, test_labels, MNIST_FILES[2])):
        if x.ndim != 3 or y.shape != x.shape[:1]:
            raise BenchError(f"{directory / name}: expected N images and as many labels, got {x.shape} and {y.shape}")
    return Dataset("mnist", _rows(images), labels.astype(np.intp), _rows(test_images), test_labels.astype(np.intp))


def mnist_files(directory: Path) -> list[Path]:
    """The four files, or an error that says which are missing."""
    missing = [name for name in MNIST_FILES if not (directory / name).is_file()]
    if missing:
        names = ", ".join(MNIST_FILES)
        raise BenchError(f"--mnist: expected a folder with {names}; {directory} lacks {', '.join(missing)}")
    return [directory / name for name in MNIST_FILES]


def _rows(images: Array) -> Array:
    return images.reshape(len(images), -1).astype(np.float32) / np.float32(255)
