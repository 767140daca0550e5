"""What the compiled modules are made of: outside the clones nothing that a processor of the baseline does not know."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from fastnn import _kernels
from fastnn._kernels import simd

MODULES = sorted(path for path in Path(_kernels.__path__[0]).glob(f"*{sysconfig.get_config_var('EXT_SUFFIX')}"))

# functions that the loader, or gemm.h, picks for a processor that has what they need
CLONE = re.compile(r"[._](arch_x86_64_)?v[34]\b")

# mnemonics beyond SSE2: encoded by VEX or EVEX, SSE3 to SSE4.2, the manipulation of bits (tzcnt is bsf where it is not known)
BEYOND = re.compile(
    r"v\w+|andn|bextr|blsi|blsr|blsmsk|bzhi|crc32\w|lzcnt\w?|movbe\w?|mulx|pdep|pext|popcnt\w?|rorx|sarx|shlx|shrx"
    r"|addsub\w+|p?h(add|sub)\w+|lddqu|mov(ddup|shdup|sldup)|palignr|pabs[bwd]|pshufb|psign[bwd]|pmaddubsw|pmulhrsw"
    r"|p?blend\w+|dpp[sd]|extractps|insertps|mpsadbw|packusdw|pcmpeqq|pcmp[ei]str[im]|pcmpgtq|pextr[bdq]|pinsr[bdq]|phminposuw"
    r"|p(min|max)(sb|sd|ud|uw)|pmov[sz]x\w+|pmul(dq|ld)|ptest|round[sp][sd]|movntdqa")


def beyond(path: Path) -> tuple[set[str], set[str]]:
    """The functions with instructions beyond the baseline: those that are clones, and the others."""
    text = subprocess.run(["objdump", "-d", "--no-show-raw-insn", path], capture_output=True, text=True, check=True).stdout
    found: tuple[set[str], set[str]] = set(), set()
    name = ""
    for line in text.splitlines():
        if line.endswith(">:"):
            name = line[line.index("<") + 1:-2]
        elif "\t" in line and BEYOND.fullmatch(line.split("\t", 1)[1].split(maxsplit=1)[0]):
            found[CLONE.search(name) is None].add(name)
    return found


@pytest.mark.skipif(
    not (sys.platform.startswith("linux") and platform.machine() == "x86_64" and shutil.which("objdump")),
    reason="needs x86-64 Linux and objdump")
@pytest.mark.skipif("fixed" in simd.level(), reason="this build has one version of every kernel")
def test_only_clones_go_beyond_the_baseline() -> None:
    assert MODULES
    clones, others = map(set.union, *(beyond(path) for path in MODULES))
    assert any("v3" in name for name in clones) and any("v4" in name for name in clones)
    assert others == set()
