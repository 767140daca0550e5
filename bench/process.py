"""The other end of `bench.worker`: starts contenders in processes of their own and asks them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench.task import Task

ROOT = Path(__file__).parent.parent
LIMIT = 900.0  # seconds a contender may take to answer, compilation included
THREAD_VARIABLES = (
    "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS", "VECLIB_MAXIMUM_THREADS", "NUMEXPR_NUM_THREADS",
)  # fmt: skip


def environment(threads: int) -> dict[str, str]:
    """What makes every library that is started with it use so many threads; fastnn up to as many, as by default."""
    one = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    own = {"FASTNN_NUM_THREADS": "auto", "XLA_FLAGS": one if threads == 1 else ""}
    return dict.fromkeys(THREAD_VARIABLES, str(threads)) | own


def usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Failure(Exception):
    """A contender could not be started, gave up or died; the text is its reason."""


class Contender:
    """A process that trains; to be used in a ``with``, which ends it."""

    def __init__(self, file: str, task: Task) -> None:
        # what a compiler keeps for its next run lasts only as long as this one
        self._folder = tempfile.TemporaryDirectory(prefix="fastnn-bench-")
        self._log = open(Path(self._folder.name) / "stderr", "w+")  # noqa: SIM115 - closed in __exit__
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.worker", file, task.to_json()], text=True, cwd=ROOT,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log,
            env=os.environ | environment(task.threads)
            | {"JAX_PLATFORMS": "cpu", "TORCHINDUCTOR_CACHE_DIR": str(Path(self._folder.name) / "torch")},
        )  # fmt: skip
        try:
            self.start_seconds: float = self._answer()["seconds"]
        except BaseException:
            self.__exit__(None, None, None)
            raise

    def __enter__(self) -> Contender:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._process.kill()
        self._process.communicate()
        self._log.close()
        self._folder.cleanup()

    def ask(self, command: str) -> dict[str, Any]:
        try:
            assert self._process.stdin is not None
            self._process.stdin.write(command + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it has died; why, its answer will tell
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        timer = threading.Timer(LIMIT, self._process.kill)
        timer.start()
        try:
            line = self._process.stdout.readline()
        finally:
            timer.cancel()
        if not line:
            raise Failure(self._last_words())
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise Failure(answer["error"])
        return answer

    def _last_words(self) -> str:
        code = self._process.wait()
        self._log.seek(0)
        lines = [line for line in self._log.read().splitlines() if line.strip()]
        return f"exit status {code}" + (f": {lines[-1].strip()[:200]}" if lines else "")
