"""The tests under AddressSanitizer and UndefinedBehaviorSanitizer: ``python tests/sanitize.py [arguments of pytest]``.

Builds a copy of the working tree with FASTNN_SANITIZE=1 and runs pytest there, without the tests that only look at the package
or at time. Needs gcc with its sanitizers; Cython, NumPy, setuptools and pytest come from the environment of this Python.
FASTNN_MARCH chooses the instruction set (the compiler's own unless given), as in setup.py.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LEFT_OUT = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "*.so", "*.c", "__pycache__")


def library(name: str) -> str:
    path = subprocess.check_output(["gcc", f"-print-file-name={name}"], text=True).strip()
    if not os.path.isabs(path):
        raise SystemExit(f"gcc has no {name}")
    return path


def main(arguments: list[str]) -> int:
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder, "fastnn")
        shutil.copytree(ROOT, tree, ignore=LEFT_OUT)
        environment = os.environ | {"FASTNN_SANITIZE": "1", "CC": "gcc", "PYTHONPATH": str(tree / "src")}
        subprocess.run([sys.executable, "setup.py", "-q", "build_ext", "-i"], cwd=tree, env=environment, check=True)
        environment |= {
            "LD_PRELOAD": f"{library('libasan.so')} {library('libubsan.so')}",
            "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1",       # Python keeps much until its end
            "UBSAN_OPTIONS": "print_stacktrace=1",
            "PYTHONMALLOC": "malloc",
        }
        # a report goes past Python, which it ends: it must not be captured
        command = [sys.executable, "-m", "pytest", "-q", "--capture=sys", *arguments]
        return subprocess.run(command, cwd=tree, env=environment).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
