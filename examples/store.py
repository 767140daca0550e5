"""Numbers that take long to compute, kept in a file: a run that was cut off goes on, and its picture is drawn again at once."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Store:
    """Results by key, in a JSON file that is written after each one.

    Parameters
    ----------
    path : Path
        Delete it to compute everything anew, which is due after a change of the code.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._results: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        if self._results:
            print(f"kept: {len(self._results)} results in {path}; without that file they are computed anew", flush=True)

    def get(self, key: str, compute: Callable[[], Any]) -> Any:
        """What is kept under `key`, or else what `compute` gives: numbers, strings, and lists and dictionaries of them."""
        if key not in self._results:
            self._results[key] = compute()
            self._path.parent.mkdir(parents=True, exist_ok=True)
            part = self._path.with_suffix(".part")
            part.write_text(json.dumps(self._results))
            os.replace(part, self._path)
        return self._results[key]
