"""The argument checks that functions share, and their error texts.

A check returns what its caller goes on with, or raises: ``TypeError`` for the wrong kind of thing, ``ValueError`` for a bad
value or shape. Each text names the argument, what was expected and what came. The first lines of a check are the way an
ordinary argument takes, because a call on a small array costs as much as its checks.
"""

from __future__ import annotations

import functools
import inspect
import math
import numbers
import os
import sys
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

import numpy as np

from fastnn.errors import DivergedError

FLOAT32 = np.dtype(np.float32)
FLOAT64 = np.dtype(np.float64)
INTP = np.dtype(np.intp)
TOO_LARGE = 2.0**128 - 2.0**103     # the least number that is infinite in float32
MOST_STEPS = 1 << 53                # of training, and epochs: a count that float64 holds

Array = np.ndarray[Any, np.dtype[Any]]
Shape = tuple[int, ...]
T = TypeVar("T")


# ---------------------------------------------------------------------------------------------------------- inputs

def matrix(a: Any, name: str) -> Array:
    """A 2-D input as a C-contiguous, aligned, native float array: `a` itself, or one copy of it."""
    if type(a) is np.ndarray and a.ndim == 2 and (a.dtype is FLOAT32 or a.dtype is FLOAT64) and a.flags.carray:
        return a
    return _as_float_array(a, name, 2)


def array(a: Any, name: str) -> Array:
    """An input of any number of dimensions."""
    if type(a) is np.ndarray and (a.dtype is FLOAT32 or a.dtype is FLOAT64) and a.flags.carray:
        return a
    return _as_float_array(a, name, None)


def array_like(a: Any, name: str, shape: Shape, dtype: np.dtype[Any], like: str) -> Array:
    """An input that must have this shape and dtype to go with the argument called `like`."""
    if type(a) is np.ndarray and a.dtype is dtype and a.shape == shape and a.flags.carray:
        return a
    a = _as_float_array(a, name, None)
    _same_dtype(a, name, dtype, like)
    if a.shape != shape:
        raise ValueError(f"{name}: expected shape {shape} to go with {like}, got {a.shape}")
    return a


def inner_size(x: Array, weight: Array) -> None:
    """`x` is (N, I), `weight` is (I, O): the same I, the same dtype, and neither I nor O is 0."""
    if x.shape[1] != weight.shape[0]:
        raise ValueError(
            f"weight: expected {x.shape[1]} rows, one for each column of x, got shapes x {x.shape} and weight {weight.shape}")
    if x.dtype is not weight.dtype:
        _same_dtype(weight, "weight", x.dtype, "x")
    if 0 in weight.shape:
        raise ValueError(f"weight: expected at least one row and one column, got shape {weight.shape}")


def statistics(a: Any, name: str, size: int) -> Array:
    """A float64 vector of batch statistics, as `batchnorm_forward` returns it."""
    if type(a) is np.ndarray and a.dtype is FLOAT64 and a.shape == (size,) and a.flags.carray:
        return a
    a = _as_float_array(a, name, 1)
    if a.dtype is not FLOAT64:
        raise TypeError(f"{name}: expected the float64 array that batchnorm_forward returns, got {a.dtype}")
    if a.shape != (size,):
        raise ValueError(f"{name}: expected shape ({size},) to go with x, got {a.shape}")
    return a


def labels(a: Any, name: str, n_rows: int, n_classes: int) -> Array:
    """Class labels of any integer dtype as contiguous ``np.intp``, all in [0, n_classes)."""
    a = ndarray_of(a, name)
    if not isinstance(a, np.ndarray) or isinstance(a, np.ma.MaskedArray):
        raise TypeError(f"{name}: expected a 1-D array of integer labels, got {_kind(a)}")
    if a.dtype.kind not in "iu":
        # the labels' values are at fault as much as their type: floats and bools are not silently taken for classes
        raise ValueError(f"{name}: expected integer labels in [0, {n_classes}), got dtype {a.dtype}{_first(a)}")
    if a.shape != (n_rows,):
        raise ValueError(f"{name}: expected shape ({n_rows},), one label for each row, got {a.shape}")
    if a.dtype is not INTP or not a.flags.carray:
        wide = a.dtype.kind == "u" and a.dtype.itemsize >= INTP.itemsize
        if wide and (a >= n_classes).any():
            raise ValueError(_bad_label(a, name, int(np.flatnonzero(a >= n_classes)[0]), n_classes))
        a = np.require(a, INTP, ("C_CONTIGUOUS", "ALIGNED"))
    # negative labels are the largest unsigned numbers: one reduction finds both ends
    if n_rows and int(a.view(np.uintp).max()) >= n_classes:
        raise ValueError(_bad_label(a, name, int(np.flatnonzero((a < 0) | (a >= n_classes))[0]), n_classes))
    return a


def probabilities(a: Array, name: str) -> None:
    """Every entry in [0, 1]; NaN is not."""
    if a.size and not (a.min() >= 0 and a.max() <= 1):
        at = tuple(int(i) for i in np.argwhere(~((a >= 0) & (a <= 1)))[0])
        raise ValueError(f"{name}: expected targets in [0, 1], got {a[at]} at {at}")


def non_negative_entries(a: Array, name: str) -> None:
    """No entry below zero; NaN passes, as IEEE arithmetic passes it on."""
    if a.size and a.min() < 0:
        at = int(np.flatnonzero(a < 0)[0])
        raise ValueError(f"{name}: expected entries >= 0, got {a[at]} at index {at}")


def all_finite(a: Array, name: str) -> None:
    if not np.isfinite(a).all():
        at = tuple(int(i) for i in np.argwhere(~np.isfinite(a))[0])
        raise ValueError(f"{name}: expected finite numbers, got {a[at]} at {at}")


def at_least_one_column(x: Array, name: str) -> None:
    if x.shape[1] == 0:
        raise ValueError(f"{name}: expected at least one column, got shape {x.shape}")


def at_least_two_rows(x: Array, name: str) -> None:
    """What batch norm in training mode needs."""
    if x.shape[0] < 2:
        raise ValueError(f"{name}: batch_norm in train mode needs >= 2 samples, got shape {x.shape}")
    at_least_one_column(x, name)


def variance_overflow(name: str, column: int, dtype: np.dtype[Any]) -> ValueError:
    return ValueError(f"{name}: expected columns whose variance is finite in {dtype}, got one that overflows, column {column}")


def at_least_one_row(x: Array, name: str) -> None:
    if x.shape[0] == 0 or x.shape[1] == 0:
        raise ValueError(f"{name}: expected at least one row and one column, got shape {x.shape}")


def ndarray_of(a: Any, name: str) -> Any:
    """`a` itself; or, of an array of another library (by ``__array__`` or ``__dlpack__``), NumPy's array of the same memory, or
    a copy where that cannot be.
    """
    if isinstance(a, np.ndarray) or not (hasattr(a, "__array__") or hasattr(a, "__dlpack__")):
        return a
    try:
        return np.asarray(a) if hasattr(a, "__array__") else np.from_dlpack(a)
    except (TypeError, ValueError, RuntimeError, BufferError) as error:
        wanted = "an array in the memory of the processor that NumPy can read"
        raise TypeError(f"{name}: expected {wanted}, got {_kind(a)} ({error})") from error


# ---------------------------------------------------------------------------------------------- data for a network

def array_of_shape(a: Any, name: str, shape: Shape) -> Array:
    """Anything real that NumPy takes for an array of this shape: values to be copied into an array of the network."""
    a = ndarray_of(a, name)
    if isinstance(a, np.ma.MaskedArray) or a is None:
        raise TypeError(f"{name}: expected an array of shape {shape}, got {_kind(a)}")
    try:
        a = np.asarray(a)
    except ValueError:
        raise ValueError(f"{name}: expected shape {shape}, got rows of different lengths") from None
    if a.dtype.kind not in "fiu":
        raise TypeError(f"{name}: expected real numbers, got dtype {a.dtype}")
    if a.shape != shape:
        raise ValueError(f"{name}: expected shape {shape}, got {a.shape}")
    return a


def rows(a: Any, name: str, n_columns: int) -> Array:
    """A 2-D array of float32, float64, integers or bool with `n_columns` columns, as it is: rows are converted by the batch."""
    if type(a) is not np.ndarray:
        a = ndarray_of(a, name)
        if isinstance(a, list | tuple):
            raise ValueError(f"{name}: expected a 2-D array, got {_kind(a)}, ndim {_ndim(a)}; convert it with numpy.array")
        if isinstance(a, np.ma.MaskedArray) or not isinstance(a, np.ndarray):
            raise TypeError(f"{name}: expected a 2-D array, got {_kind(a)}")
        if isinstance(a, np.matrix):
            raise ValueError(f"{name}: expected a 2-D array, got {_kind(a)} with ndim 2; convert it with numpy.asarray")
        a = np.asarray(a)
    if a.dtype.kind not in "iub" and (a.dtype.kind != "f" or a.dtype.newbyteorder("=") not in (FLOAT32, FLOAT64)):
        raise TypeError(f"{name}: expected dtype float32, float64, an integer or bool, got {a.dtype}")
    if a.ndim != 2:
        hint = "; one column is .reshape(-1, 1)" if a.ndim == 1 else ""
        raise ValueError(f"{name}: expected a 2-D array, got ndim {a.ndim} (shape {a.shape}){hint}")
    if a.shape[1] != n_columns:
        raise ValueError(f"{name}: expected {n_columns} columns, got shape {a.shape}")
    return a


# --------------------------------------------------------------------------------------------------------- outputs

def output(a: Any, name: str, shape: Shape, dtype: np.dtype[Any]) -> Array:
    """An array to write into: fit to be written in place, of just this shape and dtype."""
    if type(a) is np.ndarray and a.dtype is dtype and a.shape == shape and a.flags.carray:
        return a
    a = in_place(a, name)
    if a.dtype is not dtype:
        raise TypeError(f"{name}: expected dtype {dtype}, got {a.dtype}")
    if a.shape != shape:
        raise ValueError(f"{name}: expected shape {shape}, got {a.shape}")
    return a


def in_place(a: Any, name: str) -> Array:
    """A float array that may be written in place: C-contiguous, aligned, native-endian and writeable."""
    if type(a) is np.ndarray and (a.dtype is FLOAT32 or a.dtype is FLOAT64) and a.flags.carray:
        return a
    if not isinstance(a, np.ndarray) or isinstance(a, np.ma.MaskedArray | np.matrix):
        raise TypeError(f"{name}: expected a numpy.ndarray to write into, got {_kind(a)}")
    dtype = _float_dtype(a, name)
    flags = a.flags
    for met, wanted in (
        (flags.c_contiguous, "C-contiguous"), (flags.aligned, "aligned"), (flags.writeable, "writeable"),
    ):
        if not met:
            raise ValueError(f"{name}: expected a {wanted} array to write into, got one that is not")
    if not a.dtype.isnative:
        raise ValueError(f"{name}: expected a native-endian array to write into, got dtype {a.dtype.str}")
    return a.view(np.ndarray).view(dtype)


def written(
    outputs: Mapping[str, Array | None], inputs: Mapping[str, Array | None], elementwise: Mapping[str, Array] | None = None,
) -> None:
    """Nothing that a call writes overlaps anything else it touches, but for an input of an element-wise kernel, which may be
    the output itself (a part of it may not). The careful answer, for when `memory.apart` says no.
    """
    given = [(name, out) for name, out in outputs.items() if out is not None]
    for i, (name, out) in enumerate(given):
        for other_name, other in [*given[:i], *inputs.items()]:
            if other is not None and np.may_share_memory(out, other):
                raise ValueError(f"{name}: overlaps {other_name}; expected memory of its own")
        for other_name, other in (elementwise or {}).items():
            if out is not other and np.may_share_memory(out, other) and not _same_memory(out, other):
                raise ValueError(f"{name}: overlaps part of {other_name}; expected {other_name} itself or memory of its own")


def not_under_a_copy(outputs: Mapping[str, Any], inputs: Mapping[str, Any]) -> None:
    """Nothing that a call writes shares memory with an input that is copied first: `written` only sees the copy."""
    for name, out in outputs.items():
        for other_name, other in inputs.items():
            if (isinstance(out, np.ndarray) and isinstance(other, np.ndarray)
                    and not (other.flags.c_contiguous and other.flags.aligned and other.dtype in (FLOAT32, FLOAT64, INTP))
                    and np.shares_memory(out, other)):
                raise ValueError(f"{name}: overlaps {other_name}; expected memory of its own")


def flat(a: Array) -> Array:
    """The 1-D view of a C-contiguous array."""
    return a if a.ndim == 1 else a.reshape(-1)


# --------------------------------------------------------------------------------------------------------- numbers

def number(value: Any, name: str) -> float:
    """A finite real number as a float; bool, str and arrays are refused."""
    if type(value) is not float:
        if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Real):
            raise TypeError(f"{name}: expected a real number, got {_kind(value)}")
        try:
            value = float(value)
        except OverflowError:
            value = math.inf
    if not math.isfinite(value):
        raise ValueError(f"{name}: expected a finite number, got {value}")
    return value


def non_negative(value: Any, name: str) -> float:
    if type(value) is float and 0.0 <= value < math.inf:
        return value
    value = number(value, name)
    if value < 0:
        raise ValueError(f"{name}: expected a number >= 0, got {value}")
    return value


def positive(value: Any, name: str) -> float:
    value = number(value, name)
    if value <= 0:
        raise ValueError(f"{name}: expected a number > 0, got {value}")
    return value


def batchnorm_eps(value: Any, dtype: np.dtype[Any]) -> float:
    """eps > 0, and still > 0 and finite once rounded to the dtype of x."""
    if type(value) is float and 1e-30 < value < 1e30:
        return value
    value = positive(value, "eps")
    if not 0 < _rounded(value, dtype) < math.inf:
        raise ValueError(f"eps: expected a number that is > 0 and finite in {dtype}, got {value}")
    return value


def adam_eps(value: Any, beta2: float, dtype: np.dtype[Any]) -> float:
    """eps > 0, finite in the dtype of the parameters, and still > 0 there times the bias correction of a first step."""
    if type(value) is float and 1e-29 < value < 1e30:   # of which 1e-8 is left where beta2 is largest
        return value
    value = positive(value, "eps")
    if not (_rounded(value * math.sqrt(1 - _rounded(beta2, dtype)), dtype) > 0 and _rounded(value, dtype) < math.inf):
        raise ValueError(
            f"eps: expected a number that is finite in {dtype}, and > 0 times sqrt(1 - beta2), got {value} with beta2 {beta2}")
    return value


def beta(value: Any, name: str, dtype: np.dtype[Any]) -> float:
    """A number in [0, 1) that is still below 1 once rounded to the dtype of the parameters."""
    value = proper_fraction(value, name)
    if value > 0.9999 and _rounded(value, dtype) == 1:
        raise ValueError(f"{name}: expected a number that is below 1 in {dtype}, got {value}")
    return value


def fraction(value: Any, name: str) -> float:
    """A number in [0, 1]."""
    if type(value) is float and 0.0 <= value <= 1.0:
        return value
    value = number(value, name)
    if not 0 <= value <= 1:
        raise ValueError(f"{name}: expected 0 <= {name} <= 1, got {value}")
    return value


def coefficient(value: Any, name: str, dtype: np.dtype[Any]) -> float:
    """A number >= 0, and still finite once rounded to the dtype of the parameters."""
    value = non_negative(value, name)
    if value >= TOO_LARGE and dtype is FLOAT32:
        raise ValueError(f"{name}: expected a number that is finite in {dtype}, got {value}")
    return value


def proper_fraction(value: Any, name: str) -> float:
    """A number in [0, 1)."""
    if type(value) is float and 0.0 <= value < 1.0:
        return value
    value = number(value, name)
    if not 0 <= value < 1:
        raise ValueError(f"{name}: expected 0 <= {name} < 1, got {value}")
    return value


def inner_fraction(value: Any, name: str) -> float:
    """A number in (0, 1)."""
    value = number(value, name)
    if not 0 < value < 1:
        raise ValueError(f"{name}: expected 0 < {name} < 1, got {value}")
    return value


def nesterov(value: Any, momentum: float) -> bool:
    """A flag that only goes with momentum."""
    value = flag(value, "nesterov")
    if value and momentum == 0.0:
        raise ValueError("nesterov: expected momentum > 0 to go with it, got momentum 0.0")
    return value


def average(value: Any) -> float | str | None:
    """None, "polyak", or the weight of the past in [0, 1)."""
    if value is None or isinstance(value, str):
        return None if value is None else choice(value, "average", ("polyak",))
    return proper_fraction(value, "average")


def flag(value: Any, name: str) -> bool:
    if value is True or value is False:
        return value
    if isinstance(value, np.bool_):
        return bool(value)
    raise TypeError(f"{name}: expected True or False, got {_kind(value)}")


def integer(value: Any, name: str, *, least: int) -> int:
    """An integer >= `least`; bool and float are refused."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name}: expected an integer, got {_kind(value)}")
    value = int(value)
    if value < least:
        raise ValueError(f"{name}: expected an integer >= {least}, got {value}")
    return value


def count(value: Any, name: str) -> int:
    """An integer >= 0."""
    return integer(value, name, least=0)


def zero_or_one(value: Any, name: str) -> int:
    """The integer 0 or 1; bool is refused."""
    if count(value, name) > 1:
        raise ValueError(f"{name}: expected 0 or 1, got {value}")
    return int(value)


def at_most(value: int, name: str, most: int, what: str) -> int:
    """A number <= `most`, which is `what`."""
    if value > most:
        raise ValueError(f"{name}: expected at most {most}, {what}, got {value}")
    return value


def thread_count(text: str, name: str, most: int) -> int:
    """The number of threads that an environment variable asks for."""
    if not text.isdecimal() or not 1 <= int(text) <= most:
        raise ValueError(f"{name}: expected an integer from 1 to {most} or 'auto', got {text!r}")
    return int(text)


def choice(value: Any, name: str, choices: Any) -> str:
    """One of the strings in `choices`."""
    if not isinstance(value, str):
        raise TypeError(f"{name}: expected one of {', '.join(map(repr, choices))}, got {_kind(value)}")
    if value not in choices:
        raise ValueError(f"{name}: expected one of {', '.join(map(repr, choices))}, got {value!r}")
    return value


def string(value: Any, name: str) -> str:
    instance(value, name, str, "a string")
    return value


def float_dtype(value: Any, name: str = "dtype") -> np.dtype[Any]:
    """float32 or float64, given as a dtype, a type or a name."""
    try:
        dtype = np.dtype(value) if value is not None else None
    except (TypeError, ValueError, SyntaxError):
        dtype = None
    # NumPy takes None for float64, in a comparison too
    if dtype is not None and dtype == FLOAT32:
        return FLOAT32
    if dtype is not None and dtype == FLOAT64:
        return FLOAT64
    raise TypeError(f"{name}: expected float32 or float64, got {value!r}")


def seed(value: Any) -> int | None:
    """None, or an integer >= 0."""
    return None if value is None else integer(value, "seed", least=0)


def generator(rng: Any) -> np.random.Generator:
    """`rng` as a Generator: ``None`` draws a fresh seed, an int is the seed, a Generator is used as it is."""
    if rng is None or isinstance(rng, np.random.Generator):
        return rng if rng is not None else np.random.default_rng()
    if isinstance(rng, (bool, np.bool_)) or not isinstance(rng, numbers.Integral):
        raise TypeError(f"rng: expected None, an int seed or a numpy.random.Generator, got {_kind(rng)}")
    if rng < 0:
        raise ValueError(f"rng: expected a seed >= 0, got {rng}")
    return np.random.default_rng(int(rng))


def weight_shape(value: Any, name: str = "shape") -> tuple[int, int]:
    """(fan_in, fan_out), two integers >= 1 in a tuple or list. A lone integer is a 1-D shape, as it is to NumPy."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, tuple | list | numbers.Integral):
        raise TypeError(f"{name}: expected a tuple (fan_in, fan_out), got {_kind(value)}")
    if isinstance(value, numbers.Integral) or len(value) != 2:
        raise ValueError(f"{name}: expected the 2-D shape (fan_in, fan_out), got {value!r}")
    fan_in, fan_out = (integer(n, name, least=1) for n in value)
    if fan_in * fan_out > sys.maxsize // FLOAT64.itemsize:
        raise ValueError(f"{name}: expected a matrix that can be addressed, got {value!r}")
    return fan_in, fan_out


def finite_in(dtype: np.dtype[Any], largest: float, name: str, given: float) -> None:
    """`largest`, the largest number that `given` leads to, is finite in the dtype."""
    if not largest <= float(np.finfo(dtype).max):
        raise ValueError(f"{name}: expected a number whose results are finite in {dtype}, got {given}")


# ------------------------------------------------------------------------------------------- what goes with what

def instance(value: Any, name: str, kind: Any, wanted: str) -> None:
    if not isinstance(value, kind):
        raise wrong_kind(value, name, wanted)


def wrong_kind(value: Any, name: str, wanted: str) -> TypeError:
    return TypeError(f"{name}: expected {wanted}, got {_kind(value)}")


def both_or_neither(a: Any, name_a: str, b: Any, name_b: str) -> None:
    """None is `a`, and so is `b`."""
    if a is not b:
        raise ValueError(f"{name_a if a is None else name_b}: expected both {name_a} and {name_b}, or neither; got None")


def only_with(name: str, flag: bool, name_of_flag: str) -> None:
    """There is an array called `name` only where its flag is on."""
    if not flag:
        raise ValueError(f"{name}: expected None to go with {name_of_flag}=False, got an array")


def no_velocity() -> ValueError:
    return ValueError("velocity: expected an array (zeros to start) to go with momentum > 0, got None")


def pair(value: Any, name: str, wanted: str) -> tuple[Any, Any]:
    instance(value, name, tuple | list, f"a pair {wanted}")
    if len(value) != 2:
        raise ValueError(f"{name}: expected a pair {wanted}, got {len(value)} of them")
    return value[0], value[1]


def one_for_each_row(y: Array, name: str, x: Array, x_name: str) -> None:
    if len(y) != len(x):
        raise ValueError(f"{name}: expected {len(x)} rows, one for each row of {x_name}, got {len(y)}")


def entries(given: Any, name: str, names: Collection[str]) -> None:
    """A mapping with just these names."""
    instance(given, name, Mapping, "a mapping from names to arrays")
    if missing := sorted(names - given.keys()):
        raise ValueError(f"{name}: expected an entry {missing[0]!r}, which is missing ({len(missing)} in all)")
    if surplus := sorted(given.keys() - names, key=repr):
        raise ValueError(f"{name}: got an entry {surplus[0]!r}, which the network does not have ({len(surplus)} in all)")


def metric(monitor: str, known: Collection[str]) -> None:
    """A number that the history will have."""
    if monitor not in known:
        hint = "; give fit validation_data" if monitor.startswith("val_") and "val_loss" not in known else ""
        raise ValueError(f"monitor: expected one of {', '.join(map(repr, known))}, got {monitor!r}{hint}")


def missing(name: str, package: str, extra: str) -> ImportError:
    return ImportError(f"{name}: needs {package}, which is not installed; pip install 'fastnn[{extra}]'")


def sample_weight(value: Any, n_rows: int) -> Array:
    """A finite number >= 0 for each row, not all 0, as float64."""
    weights = np.require(array_of_shape(value, "sample_weight", (n_rows,)), FLOAT64, ("C_CONTIGUOUS", "ALIGNED"))
    _weights(weights, "sample_weight", "index")
    if not 0 < weights.sum() < math.inf:
        raise ValueError(f"sample_weight: expected a sum that is > 0 and finite, got {weights.sum()}")
    return weights


def class_weight(value: Any, n_classes: int, counts: Callable[[], Array] | None) -> Array:
    """A finite number >= 0 for each class: from a mapping, where a class that is missing has 1, an array, or "balanced", by how
    many rows each class has.
    """
    if counts is None:
        raise ValueError("class_weight: expected None where y are no class labels")
    if isinstance(value, str):
        choice(value, "class_weight", ("balanced",))
        found = counts()
        # scikit-learn's rule: n / (the classes that there are * the count of each)
        return np.where(found, found.sum() / (np.count_nonzero(found) * np.maximum(found, 1)), 0.0)
    if isinstance(value, Mapping):
        weights = np.ones(n_classes)
        for label, weight in value.items():
            label = at_most(integer(label, "class_weight", least=0), "class_weight", n_classes - 1, "the last class")
            weights[label] = number(weight, "class_weight")
    else:
        weights = array_of_shape(value, "class_weight", (n_classes,)).astype(FLOAT64)
    _weights(weights, "class_weight", "class")
    return weights


def _weights(weights: Array, name: str, of: str) -> None:
    good = np.isfinite(weights) & (weights >= 0)
    if not good.all():
        at = int(good.argmin())
        raise ValueError(f"{name}: expected finite numbers >= 0, got {weights[at]} at {of} {at}")


def no_average(why: str) -> ValueError:
    return ValueError(f"averaged: there is no average of the parameters: {why}")


def no_library(name: str, wanted: str, path: str, why: str) -> ValueError:
    return ValueError(f"{name}: expected {wanted}, got {path!r} ({why})")


# ------------------------------------------------------------------------------------------------------- a network

def bound(a: Array | None, name: str) -> Array:
    """The array of a layer that belongs to a network."""
    if a is None:
        raise AttributeError(f"{name}: the layer has none, or belongs to no Sequential yet")
    return a


def connects(width: int, attribute: str, n_in: int | None, name: str) -> None:
    """A layer takes as many features as the one before gives; None before the first."""
    if n_in is not None and n_in != width:
        raise ValueError(f"{name}: expected {attribute} {n_in}, what the layer before gives, got {width}")


def taken(layer: Any, name: str) -> ValueError:
    return ValueError(f"{name}: expected a layer of its own, got a {layer!r} that is in a network already")


def no_dense() -> ValueError:
    return ValueError("layers: expected at least one Dense layer")


def no_probabilities(loss: str) -> ValueError:
    return ValueError(f"loss: expected a cross-entropy for predict_proba, got {loss!r}")


def no_counterpart(name: str, what: str) -> ValueError:
    return ValueError(f"{name}: expected {what}")


def no_layer(module: Any, name: str, hint: str) -> TypeError:
    return TypeError(f"{name}: expected a module that there is a layer for, got {_kind(module)}{hint}")


def one_dtype(names: Collection[str], name: str) -> str:
    """The dtype of all parameters."""
    if len(names) > 1:
        raise TypeError(f"{name}: expected parameters of one dtype, or the dtype to be given, got {', '.join(names)}")
    return next(iter(names), "float32")


def frozen(predictor: Any, name: str) -> AttributeError:
    return AttributeError(f"{name}: a {type(predictor).__name__} cannot be changed; make a new one of the network")


def busy() -> RuntimeError:
    return RuntimeError("the network is busy: it is being trained, or was when this process was forked")


def batch_of_one(one_of_several: bool) -> ValueError:
    return ValueError(
        "x: batch_norm in train mode needs >= 2 samples in each batch, got a batch of 1"
        + ("; last_batch='merge' or 'drop' or another batch_size avoids it" if one_of_several else ""))


def inference_only() -> RuntimeError:
    return RuntimeError(
        "the network is for inference only: fold_batchnorm took batch norms or dropouts that its training would need; "
        "train the network it was made of")


def no_output_bias(layer: Any) -> ValueError:
    return ValueError(f"net: expected a Dense with a bias as the last layer, got {layer!r}")


def not_of_full_rank(name: str) -> ValueError:
    return ValueError(f"{name}: expected weights of full rank, as a random init gives them, to make them orthonormal")


def no_variance(name: str, variance: float) -> ValueError:
    return ValueError(f"{name}: expected outputs with a variance > 0 that weights can be scaled by, got variance {variance}")


def finite_statistics(a: Array, name: str, statistic: str) -> None:
    """Running statistics of the layer called `name` that can be used."""
    if not np.isfinite(a).all():
        at = int(np.flatnonzero(~np.isfinite(a))[0])
        raise ValueError(f"x: expected rows that give {name} a {statistic} finite in {a.dtype}, got {a[at]} in column {at}")


def finite_when_folded(a: Array, name: str) -> None:
    """A parameter or statistic of a folded network."""
    if not np.isfinite(a).all():
        raise ValueError(f"{name}: expected finite numbers of {a.dtype} in the folded network, got {a[~np.isfinite(a)][0]}")


def stopped(
    status: str, x: Array, y: Array | None, row: int, column: int, dtype: np.dtype[Any], n_classes: int, loss: float, at: str,
    place: str,
) -> Exception:
    """Why the engine stopped: `status` is a name in its ``STATUS``, row and column say where the data are bad, `at` when;
    `place` is the row in words.
    """
    so_far = f"{at}; the parameters after the steps before it are kept."
    finite = f"{at}; the parameters of the last finite step are kept. A lower lr may help."
    if status == "x":
        with np.errstate(over="ignore"):
            value = float(dtype.type(x[row, column]))
        return ValueError(f"x: expected finite numbers, got {value} at {place}, column {column}{so_far}")
    if y is not None and status == "y":
        return ValueError(f"y: expected finite numbers, got {y[row, column]} at {place}, column {column}{so_far}")
    if y is not None and status == "label":
        return ValueError(f"y: expected labels in [0, {n_classes}), got {y[row]} at {place}{so_far}")
    if status == "loss":
        return DivergedError(f"the loss is {loss}{finite}")
    return DivergedError(f"{'the gradient is not finite' if status == 'gradient' else 'the step leads to infinity'}{finite}")


# ---------------------------------------------------------------------------------------------------- an estimator

def not_offered(name: str, value: str, offered: Collection[str]) -> ValueError:
    return ValueError(
        f"{name}: expected one of {', '.join(map(repr, offered))}, got {value!r}, which scikit-learn has and fastnn has not")


def same_network(given: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Training goes on with the network there is."""
    for name, value in own.items():
        if given[name] != value:
            raise ValueError(f"{name}: expected {value}, as in the training that this one goes on from, got {given[name]}")


def unknown_balance() -> ValueError:
    return ValueError(
        "class_weight: expected a dict for partial_fit, which does not see all rows at once, got 'balanced'; "
        "sklearn.utils.class_weight.compute_class_weight gives one")


def other_labels(several: bool) -> ValueError:
    one, many = "one label for each row", "an indicator matrix of several labels"
    return ValueError(f"y: expected {one if several else many}, as before, got {many if several else one}")


# ------------------------------------------------------------------------------------------------------ many processes

def not_with(name: str, wanted: str) -> ValueError:
    return ValueError(f"{name}: expected {wanted}")


def of_other_rank(rank: int, text: str) -> RuntimeError:
    return RuntimeError(f"rank {rank} has refused its arguments: {text}")


def unlike(name: str, own: Any, rank: int, other: Any) -> ValueError:
    return ValueError(f"{name}: expected the same on all ranks, got {own!r} here and {other!r} on rank {rank}")


def too_few_rows(rank: int, least: int) -> ValueError:
    rows = "a row" if least == 1 else f"{least} rows"
    return ValueError(f"x: expected {rows} for each step on every rank, got fewer on rank {rank}; share the rows more evenly")


# ------------------------------------------------------------------------------------------------------ many networks

def twice(name: str) -> ValueError:
    return ValueError(f"{name}: expected each network once, got one that stands before")


def not_shared(name: str) -> ValueError:
    return ValueError(f"{name}: expected one for each network, since its learning rate depends on how the training goes")


# ------------------------------------------------------------------------------------------------------ data in files

def no_files(name: str) -> ValueError:
    return ValueError(f"{name}: expected at least one .npy file, got none; those of a folder are called x-*.npy and y-*.npy")


def no_array_file(name: str, path: str, why: str, wanted: str = "an .npy file of rows of numbers in C order") -> ValueError:
    return ValueError(f"{name}: expected {wanted}, got {path} ({why})")


def shorter(path: str, first: int, last: int, before: int) -> OSError:
    return OSError(f"{path}: expected {before} rows, as when it was opened, but it ends within rows {first} to {last}")


def other_number(got: int, name: str, wanted: int, of: str) -> ValueError:
    return ValueError(f"{name}: expected {wanted} {of}, got {got}")


def wrong_shape(a: Array, name: str, wanted: str) -> ValueError:
    return ValueError(f"{name}: expected shape {wanted}, got {a.shape}")


def no_column(name: str, column: str, columns: Collection[str]) -> ValueError:
    return ValueError(f"{name}: expected one of the columns {', '.join(map(repr, columns))}, got {column!r}")


def no_numbers(column: str, dtype: str) -> ValueError:
    return ValueError(f"column {column!r}: expected numbers, none of them missing in a target, got dtype {dtype}")


def source(
    n_features: int, targets: tuple[Shape, np.dtype[Any]] | None, name: str, n_in: int, n_out: int, labels: bool,
) -> None:
    """Rows that are read while they are needed: whether they fit the network, by what is known of all of them."""
    if n_features != n_in:
        raise ValueError(f"{name}: expected rows of {n_in} features, got {n_features}")
    if targets is None:
        raise ValueError(f"{name}: expected rows with targets, got some without y")
    shape, dtype = targets
    if labels and (len(shape) != 1 or dtype.kind not in "iu"):
        raise ValueError(f"{name}: expected integer labels ({shape[0]},), got targets of shape {shape} and dtype {dtype}")
    if not labels and shape[1:] != (n_out,):
        raise ValueError(f"{name}: expected targets of shape ({shape[0]}, {n_out}), got {shape}")


# ---------------------------------------------------------------------------------------------------------- a file

def path(value: Any, name: str) -> str:
    """A path as a string."""
    try:
        value = os.fsdecode(value)
    except TypeError:
        raise wrong_kind(value, name, "a str, bytes or os.PathLike") from None
    if not value or "\0" in value:
        raise ValueError(f"{name}: expected the name of a file, got {value!r}")
    return value


def describable(value: Any, name: str, kinds: Collection[type]) -> None:
    """An object of just one of these classes: a file has no code in it."""
    if type(value) not in kinds:
        raise TypeError(f"{name}: expected one of fastnn's own classes, which a file can describe, got {_kind(value)}")


def described(
    config: Any, tag: str, kinds: Mapping[str, type[T]], default: str | None = None,
) -> tuple[type[T], dict[str, Any]]:
    """The class that a mapping names by its entry `tag`, and the other entries: its arguments, with all that it must have."""
    instance(config, "config", Mapping, "a mapping")
    kind = kinds[choice(config.get(tag, default), tag, kinds)]
    constructor: type = kind    # hashable to the type checker, which a class of T is not
    given = {name: value for name, value in config.items() if name != tag}
    names, needed = _arguments(constructor)
    if missing := sorted(needed - given.keys()):
        raise ValueError(f"config: expected the option {missing[0]!r} of {constructor.__name__}, which is missing")
    if surplus := sorted(given.keys() - names):
        raise ValueError(
            f"config: expected options that {constructor.__name__} has, got {_short(surplus[0])}; a newer version may have it")
    return kind, given


@functools.cache
def _arguments(kind: type) -> tuple[set[str], set[str]]:
    """The names of a class's arguments, and which of them have no default."""
    arguments = inspect.signature(kind).parameters
    return set(arguments), {name for name, argument in arguments.items() if argument.default is argument.empty}


def unknown_init() -> ValueError:
    return ValueError(
        "init: expected one to begin with; that of a layer from a file was a callable or an array, which no file holds")


def fields(given: Any, name: str, names: Collection[str]) -> Any:
    """An object of a file with just these fields."""
    instance(given, name, dict, "an object")
    if missing := sorted(set(names) - given.keys()):
        raise ValueError(f"{name}: expected a field {missing[0]!r}, which is missing ({len(missing)} in all)")
    if surplus := sorted(given.keys() - set(names)):
        raise ValueError(f"{name}: got a field {_short(surplus[0])}, which does not belong there ({len(surplus)} in all)")
    return given


def stored_array(a: Array, name: str, shape: Shape, dtype: np.dtype[Any]) -> None:
    if a.dtype != dtype.newbyteorder("<") or a.shape != shape:
        raise ValueError(f"{name}: expected {dtype} of shape {shape}, got {a.dtype.newbyteorder('=')} of shape {a.shape}")


def version(value: Any, own: int) -> None:
    """The version of a file is one that this fastnn reads."""
    if not isinstance(value, str) or not value.isascii() or not value.isdecimal() or len(value) > 9 or int(value) < 1:
        raise ValueError(f"version: expected a number from 1 to {own}, got {_short(value)}")
    if int(value) > own:
        raise ValueError(
            f"version: the file has format version {int(value)}, this fastnn reads up to version {own}; a newer one is needed")


def not_hexadecimal(value: Any, name: str, digits: int) -> ValueError:
    return ValueError(f"{name}: expected {digits} hexadecimal digits, got {_short(value)}")


def other_format() -> ValueError:
    return ValueError("format: expected a file that Sequential.save wrote, got a safetensors file of another kind")


def damaged(why: str) -> ValueError:
    return ValueError(f"the file is damaged, or no network's: {why}")


def long_header(length: int, most: int) -> ValueError:
    return ValueError(f"layers: expected a network whose description takes at most {most} bytes, got {length}: too many layers")


# --------------------------------------------------------------------------------------------------------- the slow ways

def _as_float_array(a: Any, name: str, ndim: int | None) -> Array:
    """`a` as a C-contiguous, aligned, native array of float32 or float64, with at most one copy, or the error it deserves."""
    wanted = "a float32 or float64 array" if ndim is None else f"a {ndim}-D float32 or float64 array"
    if isinstance(a, np.ma.MaskedArray):
        raise TypeError(f"{name}: expected {wanted}, got a masked array, whose mask would be ignored")
    if isinstance(a, np.matrix | list | tuple):
        raise ValueError(f"{name}: expected {wanted}, got {_kind(a)} with ndim {_ndim(a)}; convert it with numpy.array")
    a = ndarray_of(a, name)
    if not isinstance(a, np.ndarray):
        raise TypeError(f"{name}: expected {wanted}, got {_kind(a)}")
    a = np.asarray(a)
    dtype = _float_dtype(a, name)
    if ndim is not None and a.ndim != ndim:
        raise ValueError(f"{name}: expected {wanted}, got ndim {a.ndim} (shape {a.shape})")
    return np.require(a, dtype, ("C_CONTIGUOUS", "ALIGNED")).view(dtype)


def _float_dtype(a: Array, name: str) -> np.dtype[Any]:
    """The native dtype of `a`: the very object FLOAT32 or FLOAT64, which the quick checks compare by identity."""
    if a.dtype.kind == "f":
        native = a.dtype.newbyteorder("=")
        if native == FLOAT32:
            return FLOAT32
        if native == FLOAT64:
            return FLOAT64
    hint = f"; convert it with {name}.astype(numpy.float32)" if a.dtype.kind in "iub" else ""
    raise TypeError(f"{name}: expected dtype float32 or float64, got {a.dtype}{hint}")


def _rounded(value: float, dtype: np.dtype[Any]) -> float:
    with np.errstate(over="ignore"):
        return float(dtype.type(value))


def _same_dtype(a: Array, name: str, dtype: np.dtype[Any], like: str) -> None:
    if a.dtype != dtype:
        raise TypeError(f"{name}: expected {dtype}, the dtype of {like}, got {a.dtype}; {like} and {name} must agree")


def _same_memory(a: Array, b: Array) -> bool:
    return (a.__array_interface__["data"][0] == b.__array_interface__["data"][0]
            and a.shape == b.shape and a.strides == b.strides and a.dtype == b.dtype)


def _bad_label(a: Array, name: str, at: int, n_classes: int) -> str:
    return f"{name}: expected labels in [0, {n_classes}), got {a[at]} at index {at}"


def _short(value: Any) -> str:
    """What a file says, which may be long."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."


def _first(a: Array) -> str:
    return f" ({a.flat[0]!r} at index 0)" if a.size else ""


def _ndim(a: Any) -> int | str:
    """The dimensions of a list; NumPy has no word for one whose rows differ in length."""
    try:
        return np.ndim(a)
    except ValueError:
        return "unknown (ragged)"


def _kind(value: Any) -> str:
    return "None" if value is None else f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")

