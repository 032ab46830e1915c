"""The time and the memory of a call, or of a command.

This module does not import JAX, which peers do not need.
"""

import ctypes
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


class Here:
    """A call in this process."""

    def __init__(self, call: Callable[[], Any]):
        self.call, self.result = call, None

    def time(self, calls: int) -> float:
        """Seconds of a call, the mean over a number of calls."""
        began = time.perf_counter()
        for _ in range(calls):
            block(self.call())
        return (time.perf_counter() - began) / calls

    def peak_mib(self) -> float | None:
        """MiB that a call adds to the peak memory of the process; keeps the call's result."""
        before = reset_peak()
        self.result = block(self.call())
        return since(before)


class NewProcess:
    """A run of Python in a new process, from the root of the repository.

    Args:
      arguments: those of the interpreter.
      environment: variables that are added to those of this process; None removes one.
      prints: whether the process prints the seconds to take, instead of those of the whole run.
    """

    def __init__(
        self, *arguments: str, environment: dict[str, str | None] | None = None, prints=False
    ):
        variables: dict[str, str | None] = dict(os.environ) | (environment or {})
        # else Python would compile a package that is not installed as a wheel in each process
        variables["PYTHONDONTWRITEBYTECODE"] = None
        self.environment = {k: v for k, v in variables.items() if v is not None}
        self.command, self.prints = [sys.executable, *arguments], prints

    def time(self, calls: int) -> float:
        """Seconds of a run, the mean over a number of runs."""
        return sum(self._run() for _ in range(calls)) / calls

    def peak_mib(self) -> None:
        """None, as the memory of the process is not measured."""

    def _run(self) -> float:
        began = time.perf_counter()
        done = subprocess.run(
            self.command, cwd=ROOT, env=self.environment, check=True, stdout=subprocess.PIPE
        )
        return float(done.stdout) if self.prints else time.perf_counter() - began


def block(result: Any) -> Any:
    """The result, after it has been computed; JAX computes asynchronously."""
    jax = sys.modules.get("jax")
    return jax.block_until_ready(result) if jax else result


def reset_peak() -> int | None:
    """Reset the peak of memory to the memory in use, and return that in KiB; None if impossible."""
    try:
        ctypes.CDLL(None).malloc_trim(0)  # else a call could reuse freed memory unnoticed
        Path("/proc/self/clear_refs").write_text("5")
    except (AttributeError, OSError):
        return None
    return _kib("VmRSS")


def since(before: int | None) -> float | None:
    """MiB by which the peak exceeds the result of ``reset_peak``."""
    return None if before is None else max(_kib("VmHWM") - before, 0) / 1024


def _kib(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))
