"""Networks in files: what `Sequential.save` writes and `fastnn.load` reads. docs/saving.md has the format.

A file is a safetensors file: the length of a header, the header, arrays. What a network is beside its arrays stands in the
header's metadata, with a checksum of the whole file. The state of a network is what its ``__getstate__`` gives.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import re
import secrets
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from fastnn import _check
from fastnn._kernels import engine
from fastnn.errors import CheckpointError
from fastnn.layers import LAYERS, connected, layer_from_config
from fastnn.optimizers import KINDS, Optimizer
from fastnn.optimizers import from_config as optimizer_from_config

Array = np.ndarray

FORMAT = "fastnn"
VERSION = 1
DTYPES: dict[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "F64": np.dtype("<f8")}
NAMES = {dtype: name for name, dtype in DTYPES.items()}

# what an optimiser has for each parameter, and in which dtype; None is the network's
GROUPS: dict[str, np.dtype[Any] | None] = {"velocity": None, "second_moment": None, "average": np.dtype(np.float64)}

MAX_HEADER = 1 << 20    # bytes
MAX_DEPTH = 32          # of objects and arrays in each other
MAX_DIGITS = 20         # of an integer: 64 bits
ALIGNMENT = 64          # of the first array in the file

LENGTH = 8              # bytes that say how long the header is
# The checksum has its place here, so that everything but itself can go into it.
BEGINNING = b'{"__metadata__":{"checksum":"'
DIGEST = slice(LENGTH + len(BEGINNING), LENGTH + len(BEGINNING) + 64)
BLANK = b"0" * 64

BRACKETS = r'(?s)"(?:[^"\\]|\\.)*+"?|[\[\]{}]'     # and strings, whose brackets are none
NO_FOLDER_SYNC = (errno.EINVAL, errno.EBADF, errno.ENOTSUP)     # from file systems that do not know how


def packed(state: Mapping[str, Any]) -> list[bytes | memoryview]:
    """The state of a network as a file, piece by piece; TypeError or ValueError if it has what a file cannot hold."""
    metadata, tensors = _described(state)
    _restored(metadata, tensors)    # what could not be loaded is not saved
    return _packed(metadata, tensors)


def load(path: str) -> dict[str, Any]:
    """The state of the network in a file; TypeError or ValueError if there is none."""
    return _restored(*_unpacked(path))


@contextlib.contextmanager
def refusing(path: str) -> Iterator[None]:
    """Whatever is wrong with what a file says is a CheckpointError that names the file."""
    try:
        yield
    except (TypeError, ValueError, OverflowError) as error:
        raise CheckpointError(f"{path}: {error}") from error


# -------------------------------------------------------------------------------- a network as metadata and arrays

def _described(state: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, Array]]:
    """Metadata and arrays, by their names in the file."""
    for i, layer in enumerate(state["layers"]):
        _check.describable(layer, f"layers[{i}]", LAYERS.values())
    optimizer = state["_optimizer"]
    if optimizer is not None:
        _check.describable(optimizer, "optimizer", KINDS.values())
    generator = state["_rng"].bit_generator.state
    metadata = {
        "architecture": {
            "layers": [layer.config() for layer in state["layers"]], "loss": state["loss"], "dtype": state["dtype"].name,
            "inference_only": state["inference_only"]},
        "optimizer": None if optimizer is None else {
            "config": optimizer.config(), "state": optimizer.state(), "steps": state["_trained"][0],
            "epochs": state["_trained"][1]},
        "training": {
            "epoch": state["_epoch"], "step": state["_step"], "mask_key": f"{state['_mask_key']:016x}",
            "generator": {
                "kind": generator["bit_generator"], "state": f"{generator['state']['state']:032x}",
                "inc": f"{generator['state']['inc']:032x}", "has_uint32": generator["has_uint32"],
                "uinteger": generator["uinteger"]}},
    }
    tensors = dict(state["_state"])
    for group in GROUPS:
        tensors |= {f"{group}.{i}.{name}": a for (i, name), a in (state[f"_{group}"] or {}).items()}
    texts = {"checksum": BLANK.decode(), "format": FORMAT, "version": str(VERSION)}
    return texts | {name: _text(value) for name, value in metadata.items()}, {
        name: np.ascontiguousarray(a, a.dtype.newbyteorder("<")) for name, a in tensors.items()}


def _restored(metadata: Mapping[str, str], tensors: Mapping[str, Array]) -> dict[str, Any]:
    """The state that `_described` described."""
    _check.fields(metadata, "metadata", ("checksum", "format", "version", "architecture", "optimizer", "training"))
    architecture = _check.fields(
        _parsed(metadata["architecture"]), "architecture", ("layers", "loss", "dtype", "inference_only"))
    training = _check.fields(_parsed(metadata["training"]), "training", ("epoch", "step", "mask_key", "generator"))
    dtype = np.dtype(_check.choice(architecture["dtype"], "dtype", ("float32", "float64")))
    _check.instance(architecture["layers"], "layers", list, "a list")
    layers, n_in, n_out = connected([layer_from_config(layer) for layer in architecture["layers"]])

    parameters = {(i, name): shape for i, layer in enumerate(layers) for name, shape in layer.parameter_shapes().items()}
    statistics = {(i, name): shape for i, layer in enumerate(layers) for name, shape in layer.statistic_shapes().items()}
    own = {f"{i}.{name}": shape for (i, name), shape in (parameters | statistics).items()}
    expected = {name: (shape, dtype) for name, shape in own.items()}
    optimizer, trained = _optimizer(_parsed(metadata["optimizer"]))
    groups = _groups(optimizer, tensors)
    for group in groups:
        expected |= {f"{group}.{i}.{name}": (shape, GROUPS[group] or dtype) for (i, name), shape in parameters.items()}
    _check.fields(tensors, "arrays", expected)
    for name, wanted in expected.items():
        _check.stored_array(tensors[name], name, *wanted)
        if name.endswith(".running_var"):
            _check.non_negative_entries(tensors[name], name)

    return {f"_{group}": None for group in GROUPS} | {
        f"_{group}": {(i, name): tensors[f"{group}.{i}.{name}"] for i, name in parameters} for group in groups} | {
        "layers": layers, "n_in": n_in, "n_out": n_out, "dtype": dtype,
        "loss": _check.choice(architecture["loss"], "loss", engine.LOSSES),
        "inference_only": _check.flag(architecture["inference_only"], "inference_only"),
        "_optimizer": optimizer, "_trained": trained,
        "_epoch": _count(training["epoch"], "epoch"),
        "_step": _count(training["step"], "step"),
        "_mask_key": _hexadecimal(training["mask_key"], "mask_key", 16),
        "_rng": _generator(training["generator"]),
        "_state": {name: tensors[name] for name in own},
    }


def _groups(optimizer: Optimizer | None, tensors: Mapping[str, Array]) -> list[str]:
    """Those that an optimiser has: of Adam both moments always, of others what there is but for a second moment."""
    if optimizer is None:
        return []
    adam = optimizer.moments == 2
    return [group for group in GROUPS if (adam and group != "average") or (
        group != "second_moment" and any(name.startswith(group) for name in tensors))]


def _optimizer(value: Any) -> tuple[Optimizer | None, tuple[int, int]]:
    """The optimiser, and the steps and epochs that it has taken."""
    if value is None:
        return None, (0, 0)
    _check.fields(value, "optimizer", ("config", "state", "steps", "epochs"))
    optimizer = optimizer_from_config(value["config"])
    optimizer.load_state(value["state"])
    return optimizer, (_count(value["steps"], "steps"), _count(value["epochs"], "epochs"))


def _count(value: Any, name: str) -> int:
    return _check.at_most(_check.integer(value, name, least=0), name, _check.MOST_STEPS, "2^53")


def _hexadecimal(value: Any, name: str, digits: int) -> int:
    if not isinstance(value, str) or not re.fullmatch(f"[0-9a-f]{{{digits}}}", value):
        raise _check.not_hexadecimal(value, name, digits)
    return int(value, 16)


def _generator(value: Any) -> np.random.Generator:
    _check.fields(value, "generator", ("kind", "state", "inc", "has_uint32", "uinteger"))
    _check.choice(value["kind"], "generator.kind", ("PCG64",))
    numbers = {name: _check.integer(value[name], f"generator.{name}", least=0) for name in ("has_uint32", "uinteger")}
    _check.at_most(numbers["has_uint32"], "generator.has_uint32", 1, "a flag")
    _check.at_most(numbers["uinteger"], "generator.uinteger", 2**32 - 1, "32 bits")
    state = {name: _hexadecimal(value[name], f"generator.{name}", 32) for name in ("state", "inc")}
    bits = np.random.PCG64(0)
    bits.state = {"bit_generator": "PCG64", "state": state, **numbers}     # type: ignore[typeddict-item]
    return np.random.Generator(bits)


# ------------------------------------------------------------------------------- metadata and arrays as safetensors

def _packed(metadata: Mapping[str, str], tensors: Mapping[str, Array]) -> list[bytes | memoryview]:
    """A file, piece by piece."""
    header: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for name, a in tensors.items():
        header[name] = {"dtype": NAMES[a.dtype], "shape": list(a.shape), "data_offsets": [end, end + a.nbytes]}
        end += a.nbytes
    text = _text(header).encode("ascii")
    text += b" " * (-(LENGTH + len(text)) % ALIGNMENT)
    if len(text) > MAX_HEADER:
        raise _check.long_header(len(text), MAX_HEADER)
    head = len(text).to_bytes(LENGTH, "little") + text
    data = [_bytes(a) for a in tensors.values()]
    digest = hashlib.sha256(head)
    for piece in data:
        digest.update(piece)
    return [head[:DIGEST.start] + digest.hexdigest().encode() + head[DIGEST.stop:], *data]


def _unpacked(path: str) -> tuple[dict[str, str], dict[str, Array]]:
    """Metadata and arrays of a file. Nothing is allocated that the file is not long enough for."""
    # nobody waits for the other end of a pipe
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0))) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise _check.damaged("it is no regular file")
        length = int.from_bytes(file.read(LENGTH), "little")
        if not 2 <= length <= min(MAX_HEADER, status.st_size - LENGTH):
            raise _check.damaged(f"a header of {length} bytes is no part of its {status.st_size}, or more than {MAX_HEADER}")
        text = file.read(length)
        header = _parsed(text.decode("utf-8"))
        _check.instance(header, "header", dict, "an object")
        metadata = header.pop("__metadata__", None)
        if not isinstance(metadata, dict) or metadata.get("format") != FORMAT:
            raise _check.other_format()
        if not all(isinstance(value, str) for value in metadata.values()):
            raise _check.damaged("its metadata are no strings")
        _check.version(metadata.get("version"), VERSION)
        if not text.startswith(BEGINNING):
            raise _check.damaged("its checksum is not where it should be")
        sizes = _layout(header, status.st_size - LENGTH - length)
        head = length.to_bytes(LENGTH, "little") + text
        digest = hashlib.sha256(head[:DIGEST.start] + BLANK + head[DIGEST.stop:])
        tensors = {}
        for name, (dtype, shape) in sizes.items():
            tensors[name] = np.empty(shape, dtype)
            data = _bytes(tensors[name])
            if file.readinto(data) != data.nbytes:
                raise _check.damaged("it ends too early")
            digest.update(data)
    if digest.hexdigest().encode() != head[DIGEST]:
        raise _check.damaged("its checksum is another one")
    return metadata, tensors


def _bytes(a: Array) -> memoryview:
    return a.reshape(-1).view(np.uint8).data


def _layout(header: Mapping[str, Any], size: int) -> dict[str, tuple[np.dtype[Any], tuple[int, ...]]]:
    """Dtype and shape of each array: one behind the other they fill the `size` bytes behind the header."""
    arrays = {}
    end = 0
    for name, entry in header.items():
        _check.fields(entry, "an array's entry", ("dtype", "shape", "data_offsets"))
        dtype = DTYPES[_check.choice(entry["dtype"], "dtype", DTYPES)]
        shape = [_check.integer(n, "shape", least=1) for n in _few(entry["shape"], "shape")]
        offsets = [_check.integer(n, "data_offsets", least=0) for n in _few(entry["data_offsets"], "data_offsets")]
        start, end = end, end + math.prod(shape) * dtype.itemsize
        if offsets != [start, end]:
            raise _check.damaged(f"an array should take the bytes from {start} to {end}, not {offsets}")
        arrays[name] = dtype, tuple(shape)
    if end != size:
        raise _check.damaged(f"the arrays take {end} bytes of {size}")
    return arrays


def _few(value: Any, name: str) -> Sequence[Any]:
    _check.instance(value, name, list, "a list")
    if len(value) > 2:
        raise _check.damaged(f"{name} has {len(value)} numbers")
    return value


def _text(value: Any) -> str:
    """JSON that `_parsed` reads."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False, default=_plain)
    _parsed(text)
    return text


def _plain(value: Any) -> Any:
    """Python's number for NumPy's."""
    _check.instance(value, "option", np.generic, "a number, a string or None")
    return value.item()


def _parsed(text: str) -> Any:
    """The value of a JSON text; ValueError for what is no JSON, names that come twice, numbers too large, too deep nesting."""
    # before anything is parsed, because the parser's depth is the stack's
    depth = 0
    for bracket in re.finditer(BRACKETS, text):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(bracket[0], 0)
        if depth > MAX_DEPTH:
            raise _check.damaged(f"its header is nested deeper than {MAX_DEPTH}")
    return json.loads(
        text, object_pairs_hook=_object, parse_constant=_number, parse_float=_number, parse_int=_integer)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise _check.damaged("a name comes twice in its header")
    return values


def _number(text: str) -> float:
    return _check.number(float(text), "header")


def _integer(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise _check.damaged(f"an integer in its header has {len(text)} digits")
    return int(text)


# ------------------------------------------------------------------------------------------------------ the file

def replace(path: str, pieces: Iterable[bytes | memoryview]) -> None:
    """Write a file in place of another one, or of none. It is there as a whole or not at all.

    A link is followed. The permissions are those of a new file.

    Raises
    ------
    OSError
        The old file is untouched and nothing is left beside it; but where only the last step fails, to tell the folder's disk,
        the new file is there.
    """
    target = os.path.realpath(path)
    folder = os.path.dirname(target)
    with contextlib.suppress(FileNotFoundError):
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "Not a regular file", path)
    temporary = os.path.join(folder, f".fastnn-{secrets.token_hex(8)}.tmp")
    with _folder(folder) as sync:
        try:
            with open(temporary, "xb") as file:
                for piece in pieces:
                    file.write(piece)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
        sync()


@contextlib.contextmanager
def _folder(path: str) -> Iterator[Any]:
    """What makes sure that the names in a folder are on the disk."""
    if os.name == "nt":     # which cannot open a folder, and logs its changes
        yield lambda: None
        return
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)

    def sync() -> None:
        try:
            os.fsync(folder)
        except OSError as error:
            if error.errno not in NO_FOLDER_SYNC:
                raise

    try:
        yield sync
    finally:
        os.close(folder)
