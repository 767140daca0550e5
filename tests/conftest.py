"""What the tests of the kernels share: sizes, accuracy budgets, layouts, refusals.

Budgets are in NW = max|error| / max|exact| / eps: the error in units of the last place of the largest result.
"""

import _thread
import math
import os
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, settings

FLOAT32, FLOAT64 = DTYPES = (np.dtype(np.float32), np.dtype(np.float64))
EPS = {dtype: float(np.finfo(dtype).eps) for dtype in DTYPES}
SIZES = (1, 2, 7, 8, 9, 17, 64, 129)     # around vectors of 8 and 16 numbers, and groups of four rows

# what each result may lose, in NW; a product with inner size K has max(4, sqrt(K) / 2), see `product_budget`
TOL = {
    FLOAT32: {
        "mean": 2, "var": 2, "y": 4, "dx": 4, "dgamma": 4, "dbeta": 4, "inference": 4, "bias_gradient": 2,
        "loss": 2, "dlogits": 3, "dlogits_near_one": 30, "squared_error": 2,
        "sgd": 0.6, "sgd_each": 2, "sgd_1000": 12, "adam": 0.6, "adam_each": 4, "adam_1000": 20, "activation": 4,
        "derivative": 4,
    },
    FLOAT64: {
        "mean": 40, "var": 40, "y": 40, "dx": 40, "dgamma": 40, "dbeta": 40, "inference": 4, "bias_gradient": 2,
        "loss": 2, "dlogits": 3, "dlogits_near_one": 30, "squared_error": 2,
        "sgd": 0.6, "sgd_each": 2, "sgd_1000": 12, "adam": 0.6, "adam_each": 4, "adam_1000": 20, "activation": 4,
        "derivative": 4,
    },
}


def product_budget(inner_size):
    return max(4, math.sqrt(inner_size) / 2)


# the build that tests/sanitize.py makes
SANITIZED = os.environ.get("FASTNN_SANITIZE") == "1"


def run_alone(function, timeout=600, arguments=""):
    """A test module's function in a process of its own, which may crash."""
    path = os.pathsep.join(filter(None, [str(Path(__file__).parent), *sys.path]))
    code = f"import {function.__module__} as module; module.{function.__name__}({arguments})"
    command = [sys.executable, "-X", "faulthandler", "-c", code]
    return subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, timeout=timeout)


# ---- hypothesis: some examples, always the same ones; with `-m slow`, which takes just these tests, many and always new ones

settings.register_profile(
    "always", deadline=None, database=None, phases=(Phase.explicit, Phase.generate, Phase.shrink),
    suppress_health_check=list(HealthCheck))
settings.register_profile("quick", settings.get_profile("always"), max_examples=16, derandomize=True)
settings.register_profile("thorough", settings.get_profile("always"), max_examples=40, print_blob=True)


def pytest_configure(config):
    settings.load_profile("thorough" if config.option.markexpr == "slow" else "quick")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    for item in items:
        if config.option.markexpr == "slow" and getattr(getattr(item, "obj", None), "is_hypothesis_test", False):
            item.add_marker("slow")


def pytest_addoption(parser):
    parser.addoption(
        "--record-maxima", action="store_true",
        help="write the errors that test_accuracy.py measures to maxima.json and docs/accuracy.md")


# ---- threads

OTHERS = [0]


@pytest.fixture
def counted():
    """The threads that other tests have left."""
    OTHERS[0] = _thread._count()


def threads_left():
    """How many threads that have begun since have not ended after a moment."""
    for _ in range(100):
        if _thread._count() <= OTHERS[0]:
            return 0
        time.sleep(0.02)
    return _thread._count() - OTHERS[0]


# ---- data

@pytest.fixture
def rng():
    return np.random.default_rng(2024)


def normal(rng, dtype, *shape):
    return rng.standard_normal(shape).astype(dtype)


def nan(dtype, *shape):
    """What an output holds before a call that must overwrite it."""
    return np.full(shape, np.nan, dtype)


def as_matrix(a):
    """A numpy.matrix, without the warning that comes with it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return np.asmatrix(a)


# ---- comparisons

def assert_near(result, expected, budget, case, scale=None):
    """Of one shape and dtype, and within `budget` NW of each other."""
    assert result.dtype == expected.dtype, f"{case}: dtype {result.dtype}, expected {expected.dtype}"
    assert result.shape == expected.shape, f"{case}: shape {result.shape}, expected {expected.shape}"
    largest = np.max(np.abs(expected if scale is None else scale), initial=0)
    error = np.max(np.abs(result.astype(np.float64) - expected), initial=0)
    assert error <= budget * EPS[result.dtype] * largest, f"{case}: error {error:.3g} at magnitude {largest:.3g}"


def assert_near_each(result, expected, budget, case, scale):
    """Of one shape and dtype, and within `budget` eps of each other, entry by entry, at the magnitudes in `scale`."""
    assert result.dtype == expected.dtype, f"{case}: dtype {result.dtype}, expected {expected.dtype}"
    assert result.shape == expected.shape, f"{case}: shape {result.shape}, expected {expected.shape}"
    error = np.abs(result.astype(np.float64) - expected)
    assert (error <= budget * EPS[result.dtype] * np.abs(scale)).all(), f"{case}: error {error.max():.3g}"


def assert_same_bits(result, expected, case):
    """Equal to the last bit, in NaN and the sign of zero too; two lists are compared one by one."""
    if isinstance(expected, (list, tuple)):
        assert len(result) == len(expected), case
        for number, pair in enumerate(zip(result, expected, strict=True)):
            assert_same_bits(*pair, f"{case}, result {number}")
        return
    if not isinstance(expected, np.ndarray):
        result, expected = np.asarray(result), np.asarray(expected)
    assert (result.dtype, result.shape) == (expected.dtype, expected.shape), case
    assert result.tobytes() == expected.tobytes(), case


def assert_gradient(loss, x, gradient, case=""):
    """`gradient` is that of the scalar loss() with respect to the float64 array x, which loss() reads.

    Central differences; the tolerances are those of PyTorch's check.
    """
    assert x.dtype == FLOAT64
    numeric = np.empty_like(x)
    for at in np.ndindex(x.shape):
        value = x[at]
        h = 1e-6 * max(1, abs(value))
        x[at] = high = value + h
        rise = loss()
        x[at] = low = value - h
        rise -= loss()
        x[at] = value
        numeric[at] = rise / (high - low)
    np.testing.assert_allclose(gradient, numeric, rtol=1e-3, atol=1e-5, err_msg=case)


def assert_refused(error, name, function, *args, **kwargs):
    """The call raises `error`, whose text begins with the argument's name, and changes no array. Returns the text."""
    arrays = [a for a in (*args, *kwargs.values()) if isinstance(a, np.ndarray)]
    before = [memory_of(a) for a in arrays]
    raised = None
    try:
        function(*args, **kwargs)
    except Exception as e:
        raised = e
    assert type(raised) is error, f"expected {error.__name__} naming {name}, came {raised!r}"
    assert str(raised).startswith(f"{name}: "), f"expected {error.__name__} naming {name}, came {raised!r}"
    assert [memory_of(a) for a in arrays] == before, f"{raised!r}, but an argument has changed"
    return str(raised)


def memory_of(a):
    """The bytes of an array, or of what it is a view of."""
    a = np.ma.getdata(a)
    while isinstance(a.base, np.ndarray):
        a = a.base
    return a.tobytes()


# ---- layouts: the same numbers (a repeated row has its own) as an array that is not C-contiguous, native and writeable

def _strided(a):
    whole = np.zeros([2 * n + 1 for n in a.shape], a.dtype)
    part = whole[tuple(slice(1, None, 2) for _ in a.shape)]
    part[...] = a
    return part


def _reversed(a):
    return np.ascontiguousarray(a[::-1])[::-1]


def _repeated(a):
    return np.broadcast_to(a[:1], a.shape)


def _read_only(a):
    a = a.copy()
    a.flags.writeable = False
    return a


def _byte_swapped(a):
    return a.astype(a.dtype.newbyteorder())


def _misaligned(a):
    b = np.zeros(a.nbytes + 1, np.uint8)[1:].view(a.dtype).reshape(a.shape)
    b[...] = a
    return b


LAYOUTS = {
    "fortran": np.asfortranarray, "strided": _strided, "reversed": _reversed, "repeated row": _repeated,
    "read-only": _read_only, "byte-swapped": _byte_swapped, "misaligned": _misaligned,
}
# of these, the layouts that an array written in place must not have, for one with two rows and columns or more
NOT_IN_PLACE = ("fortran", "strided", "reversed", "read-only", "byte-swapped", "misaligned")


def plain(a):
    """The C-contiguous, aligned, native, writeable copy."""
    return np.array(a, a.dtype.newbyteorder("="), order="C", subok=False)
