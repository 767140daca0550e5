"""Units that start equal, and stay so: Goodfellow et al. (section 8.4)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fastnn.layers import BatchNorm, Dense, Layer

BLOCK = 256         # units that are looked at together


def hidden(layers: Sequence[Layer]) -> dict[int, Dense]:
    """The dense layers but the last one, by their indices."""
    dense = [(i, layer) for i, layer in enumerate(layers) if isinstance(layer, Dense)]
    return dict(dense[:-1])


def groups(layers: Sequence[Layer], i: int) -> list[list[int]]:
    """The groups of equal units of dense layer `i`: those of which all is the same that comes before the next dense layer."""
    import hashlib  # which few networks need, and the time to import it
    own = list(layers[i].parameters.values())
    for layer in layers[i + 1:]:
        if isinstance(layer, Dense):
            break
        if isinstance(layer, BatchNorm):
            own += layer.parameters.values()
    units: dict[bytes, list[int]] = {}
    n = own[0].shape[-1]
    # some at a time, and of each a digest only: no second weight matrix
    for start in range(0, n, BLOCK):
        # -0.0 + 0.0 is 0.0, and the two are equal
        columns = np.ascontiguousarray(np.vstack([a[..., start:start + BLOCK] for a in own]).T + 0.0)
        for unit, column in enumerate(columns, start):
            units.setdefault(hashlib.blake2b(column).digest(), []).append(unit)
    return [group for group in units.values() if len(group) > 1]


def warning(layers: Sequence[Layer]) -> str | None:
    """What to say of a new network with hidden units that start equal. The random initialisers are not looked at."""
    texts = []
    for i, layer in hidden(layers).items():
        if (not isinstance(layer.init, str) or layer.init == "zeros") and (equal := groups(layers, i)):
            n = sum(map(len, equal))
            texts.append(f"{n} of the {layer.out_features} in layers[{i}], such as {equal[0][0]} and {equal[0][1]}")
    if not texts:
        return None
    return (f"hidden units start equal: {'; '.join(texts)}. Those that feed the next layer alike as well stay equal for good; "
            "a random init such as 'xavier_uniform' tells them apart")
