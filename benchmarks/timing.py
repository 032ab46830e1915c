"""A call that is started, timed and weighed. Nothing here imports JAX: peers need not have it."""

import ctypes
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Here:
    """A call in this process."""

    def __init__(self, call: Callable[[], Any]):
        self.call, self.result = call, None

    def time(self, calls: int) -> float:
        """Seconds of one call, the mean of so many."""
        began = time.perf_counter()
        for _ in range(calls):
            block(self.call())
        return (time.perf_counter() - began) / calls

    def peak_mib(self) -> float | None:
        """MiB that one more call adds to the process's memory at its peak; its result is kept."""
        before = reset_peak()
        self.result = block(self.call())
        return since(before)


def block(result: Any) -> Any:
    """The result once it has been computed: JAX returns before that."""
    jax = sys.modules.get("jax")
    return jax.block_until_ready(result) if jax else result


def reset_peak() -> int | None:
    """Let the peak of memory start from what is in use now, in KiB; None where it cannot."""
    try:
        ctypes.CDLL(None).malloc_trim(0)  # freed memory that is kept would hide what a call takes
        Path("/proc/self/clear_refs").write_text("5")
    except (AttributeError, OSError):
        return None
    return _kib("VmRSS")


def since(before: int | None) -> float | None:
    """MiB from ``reset_peak`` up to the peak."""
    return None if before is None else max(_kib("VmHWM") - before, 0) / 1024


def _kib(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))
