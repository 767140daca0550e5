"""The files of the project agree with the package."""

from __future__ import annotations

import re
from pathlib import Path

import fastnn

ROOT = Path(__file__).parent.parent


def test_the_version_is_the_same_everywhere() -> None:
    version = fastnn.__version__
    assert re.findall(r"^version: (.*)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE) == [version]
    assert f"\n## {version} (" in (ROOT / "CHANGELOG.md").read_text()
    assert (ROOT / "docs" / "releases" / f"{version}.md").read_text().startswith(f"# fastnn {version}\n")
