"""What the examples share: the command line, the data, tables and pictures; and each of them runs as a command."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

from examples import common
from examples.common import Claim

QUICK = ("jacobian_singular_values", "simultaneous_update")
SLOW = ("activations_by_depth", "batchnorm_curves", "glorot_figures", "glorot_table", "he_and_xavier", "limits_of_batch_norm",
        "momentum_and_schedule", "scale_and_rate", "symmetry_breaking", "train_eval_trap")
NEED_DIGITS = ("batchnorm_curves", "glorot_table", "he_and_xavier", "limits_of_batch_norm", "scale_and_rate",
               "symmetry_breaking", "train_eval_trap")


def options(mnist: Path | None = None, out: Path = Path()) -> common.Options:
    return common.Options(mnist=mnist, quick=True, seed=0, out=out)


@pytest.mark.parametrize("name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_prints_and_draws(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if name in NEED_DIGITS:
        pytest.importorskip("sklearn")
    out = tmp_path / "new"
    import_module(f"examples.{name}").main(["--quick", "--seed", "1", "--out", str(out)])
    text = capsys.readouterr().out
    assert text.startswith(f"{name}, seed 1, quick\n") and "\n| " in text
    assert (out / f"{name}.png").is_file() == bool(find_spec("matplotlib"))
    if name != "he_and_xavier":     # whose quick race is too short
        assert "MISSED" not in text


@pytest.mark.parametrize("claim, holds, band", [
    (Claim("a", 1.0, 1.0, 1.0, 1.0), True, "exact"),
    (Claim("a", 2.0, 1.0, 1.0, 1.0), False, "exact"),
    (Claim("a", 2.0, "more", low=1.0), True, ">= 1"),
    (Claim("a", 2.0, "less", high=1.0), False, "<= 1"),
    (Claim("a", float("nan"), "less", high=1.0), False, "<= 1"),
    (Claim("a", 2.0), True, ""),
    (common.near("a", -1.04, -1.0, 0.05), True, "-1.05 to -0.95"),
    (common.near("a", 1.06, 1.0, 0.05), False, "0.95 to 1.05"),
    (common.within_factor("a", 2e-9, 1e-9, 2.5), True, "4e-10 to 2.5e-09"),
])
def test_claims(claim: Claim, holds: bool, band: str) -> None:
    assert (claim.holds, claim.band) == (holds, band)


def test_tables(capsys: pytest.CaptureFixture[str]) -> None:
    claims = [common.near("first", 1.0, 1.0, 0.1), Claim("second", 12345, 3, 3, 3)]
    common.show("Title", claims)
    common.show_grid("Grid", "net", ["one", "two"], {"row": claims})
    assert capsys.readouterr().out == """
Title

|        | measured | source | band          |
| ------ | -------- | ------ | ------------- |
| first  | 1        | 1      | 0.9 to 1.1    |
| second | 12345    | 3      | exact  MISSED |

Grid: measured (source)

| net | one   | two              |
| --- | ----- | ---------------- |
| row | 1 (1) | 12345 (3) MISSED |
"""


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--mnist", "digits", "--seed", "7", "--out", str(tmp_path)]
    assert common.parse("name", "doc", arguments) == common.Options(Path("digits"), False, 7, tmp_path)
    assert capsys.readouterr().out == "name, seed 7\n"
    with pytest.raises(SystemExit):
        common.parse("name", "doc", ["--seed", "-1"])
    assert "--seed: expected a number >= 0, got -1" in capsys.readouterr().err


def test_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="--mnist: expected a folder with"):
        common.digits(options(mnist=tmp_path))
    pytest.importorskip("sklearn")
    assert common.digits(options()).name == "digits"
    assert capsys.readouterr().out == (
        "data: digits, 1258 rows to train on, 539 to test; the source's numbers are about MNIST, which --mnist DIR takes\n")


def test_no_picture_without_matplotlib(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(common, "find_spec", lambda name: None)
    assert common.picture("name", options(out=tmp_path), lambda figure: None) is None
    assert "pip install 'fastnn[plots]'" in capsys.readouterr().out and not list(tmp_path.iterdir())
