"""The rivals. A file ``*_kernels*.py`` is for the suite `kernels`, ``estimator_*.py`` for `sklearn`, every
other one for `train` and `accuracy`.

A kernels file has functions named as those of fastnn. Those of `textbook_kernels` are plain; all others prepare: a function
gets the inputs, the options and the outputs of fastnn's function, and returns a call without arguments that does the work
and nothing else. A training file has one class, `Rival`, as `bench.worker` describes it.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module, metadata
from importlib.util import find_spec
from types import ModuleType


@dataclass(frozen=True)
class Peer:
    """A rival by the name it has in the tables: the package it needs and its files, None where it has none."""

    package: str
    kernels: str | None = None
    training: str | None = None
    batch_norm: bool = True


PEERS = {
    "textbook": Peer("numpy", "textbook_kernels", "textbook"),
    "careful": Peer("numpy", "careful_kernels", "careful"),
    "torch-eager": Peer("torch", "torch_kernels", "torch_eager"),
    "torch-new": Peer("torch", "torch_kernels_new"),
    "torch-compile": Peer("torch", None, "torch_compile"),
    "jax-step": Peer("jax", None, "jax_step"),
    "jax-scan": Peer("jax", None, "jax_scan"),
    "sklearn": Peer("sklearn", None, "sklearn_mlp", batch_norm=False),
}
OWN = Peer("fastnn", None, "own")
DISTRIBUTIONS = {"sklearn": "scikit-learn"}  # where the package has another name


def packages(names: tuple[str, ...] = tuple(PEERS)) -> tuple[str, ...]:
    return tuple(dict.fromkeys(PEERS[name].package for name in names))


def installed() -> tuple[str, ...]:
    present = {package for package in packages() if find_spec(package)}
    return tuple(name for name, peer in PEERS.items() if peer.package in present)


def distribution(package: str) -> str:
    return DISTRIBUTIONS.get(package, package)


def version(package: str) -> str:
    return metadata.version(distribution(package))


def kernels(names: tuple[str, ...]) -> dict[str, ModuleType]:
    return {name: import_module(f"bench.peers.{PEERS[name].kernels}") for name in names if PEERS[name].kernels}


def has_batch_norm(name: str) -> bool:
    return name == "fastnn" or PEERS[name].batch_norm


def training(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name for name in names if PEERS[name].training)
