"""The rivals. A peer is one installed package and the modules that call it, with functions named as those of fastnn.

`bench.textbook` has plain functions. Every other module prepares: a function gets the inputs, the options and the
outputs of fastnn's function, and returns a call without arguments that does the work and nothing else.
"""

from __future__ import annotations

from importlib import import_module, metadata
from importlib.util import find_spec
from types import ModuleType

# peer: its package, and its modules by the name they have in the tables
PEERS = {
    "numpy": ("numpy", {"textbook": "bench.textbook", "careful": "bench.careful"}),
    "torch": ("torch", {"torch": "bench.peers.pytorch", "torch new": "bench.peers.pytorch_new"}),
}


def installed() -> tuple[str, ...]:
    return tuple(peer for peer, (package, _) in PEERS.items() if find_spec(package))


def version(peer: str) -> str:
    return metadata.version(PEERS[peer][0])


def modules(peers: tuple[str, ...]) -> dict[str, ModuleType]:
    return {name: import_module(path) for peer in peers for name, path in PEERS[peer][1].items()}
