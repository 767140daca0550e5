"""The compiled modules: every .pyx below src/fastnn/_kernels. All metadata is in pyproject.toml.

FASTNN_DEBUG=1      Cython's checks of memoryviews on (bounds, None, initialisation), for tests
FASTNN_MARCH=LEVEL  one version of every kernel, for -march=LEVEL, instead of one for each instruction set

Either compiles everything anew; so must the next build without it (`build_ext --force`).
"""

import os
import sys
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

debug = os.environ.get("FASTNN_DEBUG") == "1"
march = os.environ.get("FASTNN_MARCH")
special = debug or bool(march)

directives = {
    "language_level": 3,
    "boundscheck": debug,
    "wraparound": False,
    "initializedcheck": debug,
    "nonecheck": debug,
    "cdivision": True,
    "freethreading_compatible": True,
}
if sys.platform == "win32":
    flags = ["/O2", "/fp:precise"]
    product_flags = flags
else:
    # no debugging symbols, which Python's own flags may ask for and which are most of a module;
    # never -ffast-math; contraction is off so that every clone of an element-wise loop gives the same bits
    common = ["-O3", "-g0", "-fno-math-errno", "-fno-trapping-math"]
    flags = [*common, "-ffp-contract=off"]
    product_flags = [*common, "-ffp-contract=fast", "-Wno-psabi"]
macros: list[tuple[str, str | None]] = []
if march:
    flags, product_flags = [*flags, f"-march={march}"], [*product_flags, f"-march={march}"]
    macros = [("FASTNN_ONE_LEVEL", "1")]

kernels = Path("src/fastnn/_kernels")
extensions = [
    Extension(
        f"fastnn._kernels.{path.stem}",
        [path.as_posix()],
        include_dirs=[kernels.as_posix()],
        depends=[p.as_posix() for p in sorted([*kernels.glob("*.h"), *kernels.glob("*.pxd")])],
        extra_compile_args=product_flags if path.stem == "gemm" else flags,
        define_macros=macros,
    )
    for path in sorted(kernels.glob("*.pyx"))
]

setup(
    ext_modules=cythonize(extensions, include_path=["src"], compiler_directives=directives, force=special),
    options={"build_ext": {"parallel": os.cpu_count() or 1, "force": special}},
)
