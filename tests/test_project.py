"""The files of the project agree with the package."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from mutants import MUTANTS, Mutant

import fastnn

ROOT = Path(__file__).parent.parent


def test_the_version_is_the_same_everywhere() -> None:
    version = fastnn.__version__
    assert re.findall(r"^version: (.*)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE) == [version]
    assert f"\n## {version} (" in (ROOT / "CHANGELOG.md").read_text()
    assert (ROOT / "docs" / "releases" / f"{version}.md").read_text().startswith(f"# fastnn {version}\n")


@pytest.mark.parametrize("mutant", MUTANTS, ids=[mutant.bug for mutant in MUTANTS])
def test_a_bug_to_plant_has_its_place_and_its_row(mutant: Mutant) -> None:
    assert (ROOT / mutant.path).read_text().count(mutant.old) == 1
    assert f"\n| {mutant.bug} | `{Path(mutant.path).name}` | `tests/" in (ROOT / "docs" / "mutants.md").read_text()
