"""The API reference has every public name once, and every docstring says what goes in, what comes out and what goes wrong.

Without Sphinx: the pages and the docstrings are read as text.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).parent.parent / "docs"
MODULES = ("fastnn", *(f"fastnn.{name}" for name in (
    "init", "schedules", "callbacks", "data", "distributed", "reference", "interop", "plots", "sklearn")))
# what the classes need public among themselves
INSIDE = {
    "BatchNorm.groups", "Diagnosis.tables", "ReduceOnPlateau.observe", "ReduceOnPlateau.per",
    "Schedule.config", "Schedule.load_state", "Schedule.state",
    "Shards.chunks", "Shards.label_counts", "Shards.pieces", "Shards.target_shape", "Shards.windows"}
# classes that the user makes none of; and scikit-learn's constructors must not check
UNCHECKED = {
    "CheckpointError", "Communicator", "Diagnosis", "DivergedError", "Finding", "MLPClassifier", "MLPRegressor", "Run",
    "Schedule"}
NO_FORMULA = {"Constant", "Schedule", "Schedule.at", "constant", "normal", "uniform", "zeros"}
DIRECTIVE = re.compile(r"^\.\. (automodule|currentmodule|autofunction|autoclass|autoexception|data|function):: ([\w.]+)")


def documented() -> Iterator[tuple[str, str, str]]:
    """Page, module and name of what the reference describes; ``Class.member`` for members, no name for a module itself."""
    for page in sorted((DOCS / "reference").glob("*.rst")):
        module = ""
        for entry in re.split(r"\n(?=\S)", page.read_text()):
            if not (found := DIRECTIVE.match(entry.split("\n")[0])):
                continue
            kind, name = found.groups()
            if kind in ("automodule", "currentmodule"):
                module = name
                if kind == "automodule":
                    yield page.name, module, ""
                continue
            yield page.name, module, name
            if members := re.search(r":members:((?:.|\n)*)", entry):
                for member in members[1].split(","):
                    yield page.name, module, f"{name}.{member.strip()}"


DOCUMENTED = [*documented()]


def load(module: str) -> Any:
    if module == "fastnn.sklearn":
        pytest.importorskip("sklearn")
    return importlib.import_module(module)


@pytest.mark.parametrize("module", MODULES)
def test_the_reference_has_each_public_name_once(module: str) -> None:
    names = {name for name in load(module).__all__ if not inspect.ismodule(getattr(load(module), name))}
    found = Counter(name for _, where, name in DOCUMENTED if where == module and name and "." not in name)
    assert set(found) == names
    assert set(found.values()) == {1}


def test_the_reference_has_each_public_module_once() -> None:
    found = Counter(module for _, module, name in DOCUMENTED if not name)
    # what holds the initialisers is shown on their page beside the module that people import
    assert found == Counter([*MODULES[1:], "fastnn.initialisers"])
    fastnn = load("fastnn")
    assert {f"fastnn.{name}" for name in fastnn.__all__ if inspect.ismodule(getattr(fastnn, name))} < set(found)


def test_the_reference_has_every_public_member() -> None:
    pages = {(module, name) for _, module, name in DOCUMENTED}
    for module, name in pages:
        kind = getattr(importlib.import_module(module), name, None) if module != "fastnn.sklearn" else None
        if inspect.isclass(kind):
            attributes = sections(kind).get("Attributes", "")
            for member in vars(kind):
                if not (member.startswith("_") or any(hasattr(base, member) for base in kind.__bases__)
                        or re.search(rf"\b{member}\b", attributes) or f"{name}.{member}" in INSIDE or member.isupper()):
                    assert (module, f"{name}.{member}") in pages


def sections(obj: Any) -> dict[str, str]:
    """The sections of a docstring, "" being what stands before the first."""
    parts = re.split(r"^([A-Z][a-z]+)\n-+\n", "" if obj.__doc__ is None else inspect.cleandoc(obj.__doc__), flags=re.MULTILINE)
    return {"": parts[0], **dict(zip(parts[1::2], parts[2::2], strict=True))}


@pytest.mark.parametrize("module, name", [(module, name) for _, module, name in DOCUMENTED if name and name[0] != "_"])
def test_the_docstring_is_whole(module: str, name: str) -> None:
    obj = load(module)
    for part in name.split("."):
        obj = getattr(obj, part)
    text = sections(obj)
    assert text[""].strip()
    # the specification checks nothing, and hooks are for others to write
    if not callable(obj) or name in UNCHECKED or module == "fastnn.reference" or ".on_" in name or "Communicator." in name:
        return
    if found := re.search(r"[Aa]rguments(?:, result)? and\s+errors are those of\s`(\w+)`", text[""]):
        assert found[1] in {described.rpartition(".")[2] for _, _, described in DOCUMENTED}
        return
    signature = inspect.signature(obj)
    parameters = [
        "*" * (parameter.kind is parameter.VAR_POSITIONAL) + "**" * (parameter.kind is parameter.VAR_KEYWORD) + name
        for name, parameter in signature.parameters.items() if name != "self"]
    listed = re.findall(r"^(\S.*?)(?: : .*)?$", text.get("Parameters", ""), re.MULTILINE)
    assert sorted(re.split(r", ", ", ".join(listed))) == sorted(parameters) or not (listed or parameters)
    for array in re.findall(r"^\S.* : (ndarray.*(?:\n +.*)?)", text.get("Parameters", ""), re.MULTILINE):
        assert re.search(r"\(.*\)|shape|[Aa]s for", array), array
    assert not parameters or "Raises" in text
    returns = signature.return_annotation
    assert inspect.isclass(obj) or returns in ("None", inspect.Signature.empty) or "Returns" in text


@pytest.mark.parametrize("module, name", [
    (module, name) for page, module, name in DOCUMENTED
    if page in ("kernels.rst", "optimisers.rst", "initialisers.rst") and name and name not in NO_FORMULA])
def test_a_formula_has_a_source(module: str, name: str) -> None:
    assert re.search(r"et al\.|\(\d{4}\b|PyTorch", getattr(load(module), name).__doc__)
