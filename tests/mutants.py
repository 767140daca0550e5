"""Do the tests find bugs? Plants real-looking ones, one at a time, in a copy of the project, and says which test finds each.

    python tests/mutants.py [--only WORDS] [--table docs/mutants.md]

Needs what the tests need, a compiler and, for the bugs that say so, PyTorch or onnxruntime. Builds the copy once, then for each
bug what depends on it, and runs the test files named beside it until one test fails; where none does, all the others. Ends with
status 1 if a bug survives.
"""

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
KERNELS = "src/fastnn/_kernels/"


class Mutant(NamedTuple):
    bug: str
    path: str
    old: str            # occurs once in the file
    new: str
    tests: str          # the files whose job it is to find it


MUTANTS = [
    Mutant("variance from one pass, E[x^2] - E[x]^2", KERNELS + "batchnorm.pyx",
           "        pivot[j] = x[j]\n", "        pivot[j] = 0\n", "batchnorm accuracy"),
    Mutant("mean rounded to the dtype before it is subtracted", KERNELS + "batchnorm.pyx",
           "lo = (mean[j] - hi[j]) + low[j]", "lo = 0", "batchnorm accuracy"),
    Mutant("biased running variance", KERNELS + "batchnorm.pyx",
           "<double>rows / (rows - ddof), mean", "1, mean", "batchnorm network"),
    Mutant("a ghost batch for the remainder of the rows", KERNELS + "batchnorm.pyx",
           "n - first >= 2 * group", "n - first >= group", "batchnorm_options"),
    Mutant("gamma's gradient from the last ghost batch only", KERNELS + "batchnorm.pyx",
           "add_sums(group_dgamma, d, first > 0, sum_dgamma)", "add_sums(group_dgamma, d, False, sum_dgamma)",
           "batchnorm_options"),
    Mutant("momentum of the running statistics weighs the old value", KERNELS + "batchnorm.pyx",
           "<floating>((1 - momentum) * running + momentum * batch)", "<floating>(momentum * running + (1 - momentum) * batch)",
           "batchnorm network"),
    Mutant("a term of dgamma dropped: the residual of the mean", KERNELS + "batchnorm.pyx",
           "(sum_du[j] - low * sum_d[j])", "sum_du[j]", "batchnorm accuracy"),
    Mutant("the last row of a group of four left out of a column sum", KERNELS + "dense.pyx",
           "for i in range(m % 4):", "for i in range(m % 4 - 1):", "dense engine"),
    Mutant("the tail of a dot product one short", KERNELS + "gemm_tile.h",
           "for (ptrdiff_t q = p; q < k; q++)", "for (ptrdiff_t q = p; q < k - 1; q++)", "gemm dense"),
    Mutant("the bias of a panel that reaches back over the one before it starts late", KERNELS + "gemm.pyx",
           "panel_bias = bias + start", "panel_bias = bias + column + j", "gemm dense"),
    Mutant("a product accumulates into what its output held", KERNELS + "gemm.pyx",
           "packed_a, panel_b, panel_row, p > 0, panel_bias", "packed_a, panel_b, panel_row, True, panel_bias", "gemm dense"),
    Mutant("negative labels not refused by the engine", KERNELS + "engine.pyx",
           "if <uint64_t>label >= <uint64_t>r.n_out:", "if label >= r.n_out:", "rows engine"),
    Mutant("negative labels not refused by the check", "src/fastnn/_check.py",
           "if n_rows and int(a.view(np.uintp).max()) >= n_classes:", "if n_rows and int(a.max()) >= n_classes:", "loss edges"),
    Mutant("tiles of the loss depend on the number of threads", KERNELS + "engine.pyx",
           "    rows = max(1, LOSS_NUMBERS // r.n_out)\n", "    rows = max(1, LOSS_NUMBERS // r.n_out // r.n_threads)\n",
           "threads"),
    Mutant("Nesterov without the gradient", KERNELS + "sgd.pyx",
           "(g + momentum * v if nesterov else v)\n            velocity",
           "(momentum * v if nesterov else v)\n            velocity", "sgd training"),
    Mutant("weight decay acts on biases", KERNELS + "engine.pyx",
           "step_down(any, r, NULL, dbeta, COLUMNS, 1, min(w - k, COLUMNS), False,",
           "step_down(any, r, NULL, dbeta, COLUMNS, 1, min(w - k, COLUMNS), True,", "training engine"),
    Mutant("the velocity does not go back to the snapshot", KERNELS + "engine.pyx",
           "r.n_parameters, r.n_statistics, r.n_parameters if r.has_velocity else 0, r.n_parameters if r.has_second else 0]",
           "r.n_parameters, r.n_statistics, 0, r.n_parameters if r.has_second else 0]", "engine training"),
    Mutant("Adam's second moment does not go back to the snapshot", KERNELS + "engine.pyx",
           "r.n_parameters if r.has_velocity else 0, r.n_parameters if r.has_second else 0]",
           "r.n_parameters if r.has_velocity else 0, 0]", "engine training"),
    Mutant("Adam counts its steps from 0 in each call", KERNELS + "engine.pyx",
           "correct(r.lr, trained + position + 1,", "correct(r.lr, position + 1,", "training engine"),
    Mutant("Adam's eps beside the root that is not corrected", KERNELS + "adam.pyx",
           "least[0] = eps if eps_hat else eps * root", "least[0] = eps", "adam training"),
    Mutant("dropout has the same mask at every step", KERNELS + "engine.pyx",
           "mask_tile(r.key, r.step, <uint32_t>op.layer, op.p,", "mask_tile(r.key, 0, <uint32_t>op.layer, op.p,",
           "dropout engine"),
    Mutant("the largest unsigned labels wrap around", "src/fastnn/_check.py",
           'wide = a.dtype.kind == "u" and a.dtype.itemsize >= INTP.itemsize', "wide = False", "rows loss edges"),
    Mutant("overlapping arrays not noticed", KERNELS + "memory.pyx",
           "if i != j and start[i] < end[j] and start[j] < end[i]:", "if i != j and start[i] == start[j] and end[j] == end[i]:",
           "edges contract"),
    Mutant("a remainder of rows dropped instead of merged", "src/fastnn/training.py",
           "        starts[-1] = n_rows\n", "        starts[-1] = starts[-1]\n", "training"),
    Mutant("softmax without its maximum", KERNELS + "loss.pyx",
           "            top[r] = s\n", "            top[r] = 0\n", "loss edges"),
    Mutant("workers of the parent expected in a forked child", KERNELS + "team.pyx",
           "    os.register_at_fork(after_in_child=forget)", "    pass", "threads"),
    Mutant("Ctrl-C heard only at the end of an epoch", "src/fastnn/network.py",
           "PATIENCE = 0.05 ", "PATIENCE = 1e9 ", "signals engine"),
    Mutant("a failed first step has shuffled already", "src/fastnn/network.py",
           "if shuffle and taken > (n_epochs - 1) * n_steps:", "if shuffle and taken >= (n_epochs - 1) * n_steps:", "training"),
    Mutant("stopped among epochs of one call, one order too few is drawn", "src/fastnn/network.py",
           "rng, run.rows, -(-taken // n_steps)", "rng, run.rows, taken // n_steps", "engine"),
    Mutant("an epoch's loss goes on from the one before", KERNELS + "engine.pyx",
           "            sums[TOTAL] = sums[TOTAL_LOST] = 0\n", "", "engine"),
    Mutant("an error leaves the network busy", "src/fastnn/network.py",
           "                del self._holder[\"by\"]\n", "                pass\n", "training network"),
    Mutant("velocity not scaled when scikit-learn's learning rate changes", "src/fastnn/sklearn.py",
           "        if net._velocity is not None and rate > 0:\n", "        if False:\n", "sklearn"),
    Mutant("a fit ends an epoch early for want of improvement", "src/fastnn/sklearn.py",
           "if mlp._no_improvement_count > mlp.n_iter_no_change:", "if mlp._no_improvement_count >= mlp.n_iter_no_change:",
           "sklearn"),
    Mutant("early stopping leaves the last weights, not the best", "src/fastnn/sklearn.py",
           "            trained.load_state_dict(self._best)\n", "            pass\n", "sklearn"),
    Mutant("class weights of the classes that a batch has", "src/fastnn/sklearn.py",
           'if self.class_weight != "balanced":', "if False:", "sklearn"),
    Mutant("the memory under a predictor can be made writeable", "src/fastnn/predictor.py",
           "        memory.flags.writeable = False\n", "        pass\n", "predictor"),
    Mutant("tied parameters become two (needs PyTorch)", "src/fastnn/interop.py",
           "                if owner != name:\n", "                if False:\n", "interop"),
    Mutant("eps of a batch norm not in the ONNX file (needs onnxruntime)", "src/fastnn/interop.py",
           '"BatchNormalization", names, {"epsilon": layer.eps}', '"BatchNormalization", names, {}', "interop"),
    Mutant("arrays that offer __dlpack__ alone refused", "src/fastnn/_check.py",
           'np.asarray(a) if hasattr(a, "__array__") else np.from_dlpack(a)', "np.asarray(a)", "contract network"),
]


def copy_of_the_project(to: Path) -> None:
    """What git tracks, and the modules built in place."""
    files = subprocess.check_output(["git", "ls-files", "-z"], cwd=ROOT, text=True).split("\0")
    built = [p.relative_to(ROOT).as_posix() for pattern in ("*.so", "*.pyd", "*.c") for p in (ROOT / KERNELS).glob(pattern)]
    for name in [*files, *built]:
        if name and (ROOT / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, to / name)


def build(project: Path) -> bool:
    run = subprocess.run([sys.executable, "setup.py", "-q", "build_ext", "-i"], cwd=project, capture_output=True, check=False)
    return run.returncode == 0


def first_failure(project: Path, files: list[str], excluded: list[str] | None = None) -> str | None:
    """The test that fails first, if one does."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "--no-header", "--tb=no", *files,
               *(f"--ignore={name}" for name in excluded or [])]
    environment = os.environ | {"PYTHONPATH": str(project / "src")}
    with subprocess.Popen(
        command, cwd=project, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        start_new_session=True,
    ) as run:
        try:
            printed, _ = run.communicate(timeout=150)
        except subprocess.TimeoutExpired:
            os.killpg(run.pid, signal.SIGKILL)      # with what the tests have started
            return "(the tests hang)"
    if run.returncode == 0:
        return None
    found = re.search(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", printed, re.MULTILINE)
    return found[1] if found else f"(the tests end with status {run.returncode})"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="bugs with these words in their description")
    parser.add_argument("--table", type=Path, help="write the table to this file")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder)
        copy_of_the_project(project)
        if not build(project):
            print("the copy does not build", file=sys.stderr)
            return 2
        for mutant in MUTANTS:
            if options.only not in mutant.bug:
                continue
            started = time.monotonic()
            path = project / mutant.path
            text = path.read_text()
            if text.count(mutant.old) != 1:
                print(f"{mutant.bug}: {mutant.path} has {text.count(mutant.old)} places for it, expected 1", file=sys.stderr)
                return 2
            path.write_text(text.replace(mutant.old, mutant.new))
            files = [f"tests/test_{name}.py" for name in mutant.tests.split()]
            files = [name for name in files if (project / name).exists()]
            if build(project):
                killer = first_failure(project, files) or first_failure(project, ["tests"], files)
            else:
                killer = "(the compiler)"
            path.write_text(text)
            rows.append((mutant.bug, f"`{Path(mutant.path).name}`", f"`{killer}`" if killer else "**survives**"))
            print(f"{time.monotonic() - started:5.0f} s  {mutant.bug}: {killer or 'SURVIVES'}", flush=True)
    if options.table:
        lines = ["# Do the tests find bugs?", "",
                 "Each bug was planted alone in a copy of the project by `python tests/mutants.py --table docs/mutants.md`;",
                 "the table names the first test that failed.", "", "| bug | in | found by |", "|---|---|---|"]
        options.table.write_text("\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows), ""]))
    return 1 if any("survives" in row[2] for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
