"""scikit-learn's own tests of its multi-layer perceptron, with the one import line changed: which pass?

    python tests/sklearn_suite.py [--table docs/scikit-learn.md]

Takes the tests of the scikit-learn that is installed, twice: as they stand, and with ``solver="adam"`` where they say "lbfgs".
`--table` writes what came of it between the marks of that page. Ends with status 1 if one fails for which there is no reason
here.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import sklearn
from sklearn.neural_network import tests

BEGIN, END = "<!-- scikit-learn's tests -->", "<!-- end -->"
IMPORT = "from sklearn.neural_network import MLPClassifier, MLPRegressor"
LBFGS = "lbfgs is not offered"
# why what does not pass does not
REASONS = {
    "test_gradient": "lbfgs, and private methods of it",
    "test_lbfgs_classification": LBFGS,
    "test_lbfgs_classification_maxfun": LBFGS,
    "test_lbfgs_regression": LBFGS,
    "test_lbfgs_regression_maxfun": LBFGS,
    "test_multilabel_classification": LBFGS,
    "test_multioutput_regression": LBFGS,
    "test_predict_proba_multilabel": LBFGS,
    "test_sparse_matrices": LBFGS,
    "test_warm_start": LBFGS,
    "test_mlp_warm_start_no_convergence[lbfgs": LBFGS,
    "test_mlp_vs_poisson_glm_equivalent": "lbfgs, and the Poisson loss",
    "test_mlp_param_dtypes[MLPClassifier-float64]": "the dtype is a parameter, and not that of X",
    "test_mlp_param_dtypes[MLPRegressor-float64]": "the dtype is a parameter, and not that of X",
}
CONFTEST = """
import pytest

@pytest.fixture(params=[42])
def global_random_seed(request):
    return request.param
"""


def outcomes(solver: str = "lbfgs", module: str = "fastnn.sklearn") -> dict[str, bool]:
    """Whether each test passes with the classes of this module; `solver` takes the place of lbfgs."""
    text = (Path(tests.__file__).parent / "test_mlp.py").read_text()
    assert text.count(IMPORT) == 1
    text = text.replace(IMPORT, IMPORT.replace("sklearn.neural_network", module)).replace('"lbfgs"', f'"{solver}"')
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "test_mlp.py").write_text(text)
        (folder / "conftest.py").write_text(CONFTEST)
        (folder / "pytest.ini").write_text("[pytest]\n")
        path = os.pathsep.join(os.path.abspath(place) for place in sys.path if place)
        subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--junitxml", "report.xml", "test_mlp.py"],
            cwd=folder, env=os.environ | {"PYTHONPATH": path}, capture_output=True)
        cases = ElementTree.parse(folder / "report.xml").iter("testcase")
        return {case.attrib["name"]: not len(case.findall("failure") + case.findall("error")) for case in cases}


def reason(name: str) -> str | None:
    return next((why for beginning, why in REASONS.items() if re.match(rf"{re.escape(beginning)}(\W|$)", name)), None)


def table(as_it_stands: dict[str, bool], with_adam: dict[str, bool], theirs_with_adam: dict[str, bool]) -> str:
    """The count, and a row for each test that does not pass as it stands."""
    shared = [passes for name, passes in as_it_stands.items() if "lbfgs" not in (reason(name) or "")]
    # by their place: the solver is part of a name
    adam = dict(zip(as_it_stands, zip(with_adam.values(), theirs_with_adam.values(), strict=True), strict=True))
    passed, of = sum(as_it_stands.values()), len(as_it_stands)
    percent = 100 * sum(shared) / len(shared)
    alike = sum(own == theirs for own, theirs in adam.values())
    lines = [
        f"scikit-learn {sklearn.__version__}: {passed} of {of} tests pass as they stand. Of the {len(shared)} that do not",
        f"ask for lbfgs {sum(shared)} pass ({percent:.0f} %). With `solver=\"adam\"` in its place, the rest as it stands,",
        f"scikit-learn's own classes fail some as well: they and fastnn's do alike in {alike} of {of}.",
        "", "| does not pass | why | fastnn with adam | scikit-learn with adam |", "|---|---|---|---|"]
    for name, passes in as_it_stands.items():
        if not passes:
            why = reason(name) or "**unexpected**"
            both = ["passes" if passes else "fails" for passes in adam[name]] if "lbfgs" in why else ["", ""]
            lines.append(f"| `{name}` | {why} | {both[0]} | {both[1]} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser("python tests/sklearn_suite.py")
    parser.add_argument("--table", type=Path, metavar="FILE", help="write the table between the marks of this page")
    page = parser.parse_args().table
    as_it_stands = outcomes()
    text = table(as_it_stands, outcomes("adam"), outcomes("adam", "sklearn.neural_network"))
    print(text)
    if page:
        before, _, rest = page.read_text().partition(BEGIN)
        page.write_text(f"{before}{BEGIN}\n{text}\n{END}{rest.partition(END)[2]}")
    return int(any(not passes and reason(name) is None for name, passes in as_it_stands.items()))


if __name__ == "__main__":
    sys.exit(main())
