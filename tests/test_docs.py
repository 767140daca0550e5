"""The examples in the documentation run as they stand there, and what it names is there."""

from __future__ import annotations

import doctest
import importlib
import re
import tomllib
import warnings
from pathlib import Path

import pytest

from bench.__main__ import SUITES, parse

ROOT = Path(__file__).parent.parent
DOCS = [page for page in sorted((ROOT / "docs").rglob("*.md")) if "_build" not in page.parts]
PAGES = [*sorted(ROOT.glob("*.md")), *DOCS]
MODULES = [module for module in sorted((ROOT / "src" / "fastnn").glob("*.py")) if ">>> " in module.read_text()]
FENCE = re.compile(r"^```(\S*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: Path) -> list[tuple[str, str]]:
    """The fenced blocks: language and text."""
    return FENCE.findall(page.read_text())


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", [page for page in PAGES if "python" in dict(blocks(page))], ids=name)
def test_examples_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)     # for what they write
    space: dict[str, object] = {"__name__": "example"}
    for language, block in blocks(page):
        if language != "python":
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                # (Keras' own)
                warnings.filterwarnings("ignore", "__array__ implementation doesn't accept a copy", DeprecationWarning)
                exec(compile(block, page.name, "exec"), space)
        except ImportError as error:
            # an optional package, or a file of the user's
            pytest.skip(str(error))


@pytest.mark.parametrize("module", MODULES, ids=name)
def test_examples_in_docstrings_run(module: Path) -> None:
    try:
        results = doctest.testmod(importlib.import_module(f"fastnn.{module.stem}"))
    except ImportError as error:
        pytest.skip(str(error))
    assert results.attempted and not results.failed


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_what_looks_like_python_is_run(page: Path) -> None:
    text = page.read_text()
    assert len(re.findall(r"^```", text, re.MULTILINE)) == 2 * len(blocks(page))
    for language, block in blocks(page):
        assert language in ("python", "sh", "text", "", "{toctree}", "{include}")
        assert language == "python" or not re.search(r"^(>>> |import \w|from \w+ import )", block, re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_what_a_page_names_is_there(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = page.read_text()
    prose = re.sub(r"^ {4,}.*$", "", text, flags=re.MULTILINE)      # without code
    for link in re.findall(r"\]\((?!https:)([^)#\s]+)", prose):
        assert (page.parent / link).exists(), link
    for path in re.findall(r"`((?:docs|tests|bench|examples|src|\.ci|\.github)/[\w./-]+)`", text):
        assert "VERSION" in path or "_build" in path or (ROOT / path).exists(), path
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for listed in re.findall(r"(?:fastnn|'\.)\[([\w,]+)\]", text):
        assert set(listed.split(",")) <= set(extras)
    for example in re.findall(r"python -m examples\.(\w+)", text):
        assert (ROOT / "examples" / f"{example}.py").is_file(), example
    with pytest.raises(SystemExit):
        parse(["--help"])
    options = set(re.findall(r"--\w+", capsys.readouterr().out))
    for command in re.findall(r"python -m bench\b([^`\n&]*)", text):
        assert set(re.findall(r"--\w+", command)) <= options, command
        assert set(re.findall(r"--suite (\w+)", command)) <= set(SUITES), command
