"""The examples in the documentation run as they stand there."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [page for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))) if "```python" in page.read_text()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_examples_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)     # for what they write
    space: dict[str, object] = {"__name__": "example"}
    for block in re.findall(r"^```python\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                exec(compile(block, page.name, "exec"), space)
        except ImportError as error:
            # an optional package, or a file of the user's
            pytest.skip(str(error))
