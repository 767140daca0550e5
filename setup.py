"""The compiled modules: every .pyx below src/fastnn/_kernels. All metadata is in pyproject.toml.

FASTNN_DEBUG=1      Cython's checks on (bounds, None, initialisation, division, overflow), for tests
FASTNN_SANITIZE=1   AddressSanitizer and UndefinedBehaviorSanitizer, for tests: `python tests/sanitize.py`
FASTNN_MARCH=LEVEL  one version of every kernel, for -march=LEVEL, instead of one for each instruction set (not on Windows)

Each compiles everything anew, in a build directory of its own; so must the next build without it (`build_ext --force`).
"""

import os
import sys
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

debug = os.environ.get("FASTNN_DEBUG") == "1"
sanitize = os.environ.get("FASTNN_SANITIZE") == "1"
march = os.environ.get("FASTNN_MARCH")
special = "-".join(filter(None, ["debug" if debug else "", "sanitize" if sanitize else "", march or ""]))

directives = {
    "language_level": 3,
    "boundscheck": debug,
    "wraparound": False,            # a negative index is out of bounds
    "initializedcheck": debug,
    "nonecheck": debug,
    "cdivision": not debug,
    "overflowcheck": debug,
    "freethreading_compatible": True,
}
link_flags: list[str] = []
if sys.platform == "win32":
    if march or sanitize:
        raise SystemExit("FASTNN_MARCH and FASTNN_SANITIZE are for gcc and clang")
    flags = ["/O2", "/fp:precise"]
    product_flags = flags
else:
    # no debugging symbols, which Python's own flags may ask for and which are most of a module;
    # never -ffast-math; contraction is off so that every clone of an element-wise loop gives the same bits
    common = ["-O3", "-g0", "-fno-math-errno", "-fno-trapping-math"]
    if sanitize:
        link_flags = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
        # Python's own flags let signed numbers wrap around
        common = ["-O1", "-g", "-fno-omit-frame-pointer", "-fno-wrapv", *link_flags, *common[2:]]
    flags = [*common, "-ffp-contract=off"]
    product_flags = [*common, "-ffp-contract=fast", "-Wno-psabi"]
macros: list[tuple[str, str | None]] = []
if march:
    flags, product_flags = [*flags, f"-march={march}"], [*product_flags, f"-march={march}"]
if march or sanitize:
    # the loader picks clones before a sanitizer is ready
    macros = [("FASTNN_ONE_LEVEL", "1")]

kernels = Path("src/fastnn/_kernels")
sources = sorted(kernels.glob("*.pyx"))
if sanitize:
    # functions with a fault in each, by which the tests see that the sanitizers are at work
    sources.append(Path("tests/faults.pyx"))
extensions = [
    Extension(
        f"fastnn._kernels.{path.stem}",
        [path.as_posix()],
        include_dirs=[kernels.as_posix()],
        depends=[p.as_posix() for p in sorted([*kernels.glob("*.h"), *kernels.glob("*.pxd")])],
        extra_compile_args=product_flags if path.stem == "gemm" else flags,
        extra_link_args=link_flags,
        define_macros=macros,
    )
    for path in sources
]

setup(
    ext_modules=cythonize(extensions, include_path=["src"], compiler_directives=directives, force=bool(special)),
    options={
        "build": {"build_base": f"build/{special}"} if special else {},
        "build_ext": {"parallel": os.cpu_count() or 1, "force": bool(special)},
    },
)
