"""Timing of a peer in a separate process.

Libraries with thread pools, such as torch, slow down JAX in the same process. The process stays
alive between cases, so that repeats can be interleaved with those of other sides.
"""

import functools
import importlib
import multiprocessing
import time
from typing import Any

from benchmarks.timing import Here

_SPIN = 0.02  # seconds in which idle OpenMP threads may spin, before another side is timed


class Apart:
    """Like ``Here``, for the call that ``benchmarks.<module>.<function>(*arguments)`` returns."""

    result = None  # the result stays in the other process

    def __init__(self, module: str, function: str, *arguments: Any):
        self.pipe = _worker(module)
        self._ask("make", module, function, arguments)

    def time(self, calls: int) -> float:
        return self._ask("time", calls)

    def peak_mib(self) -> float | None:
        return self._ask("peak_mib")

    def _ask(self, *message):
        self.pipe.send(message)
        answer, error = self.pipe.recv()
        if error:
            raise RuntimeError(error)
        return answer


@functools.cache
def _worker(module: str):
    """The pipe to the process of the module, which ends with this process."""
    context = multiprocessing.get_context("spawn")  # JAX's threads do not survive a fork
    ours, theirs = context.Pipe()
    context.Process(target=_serve, args=(theirs,), daemon=True).start()
    theirs.close()  # so that the end of the process raises an error
    return ours


def _serve(pipe) -> None:
    runner: Any = None
    while True:
        name, *arguments = pipe.recv()
        answer, error = None, None
        try:
            if name == "make":
                module, function, arguments = arguments
                make = getattr(importlib.import_module(f"benchmarks.{module}"), function)
                runner = Here(make(*arguments))
            else:
                answer = getattr(runner, name)(*arguments)
        except Exception as raised:  # sent to the process that asked
            error = repr(raised)
        time.sleep(_SPIN)
        pipe.send((answer, error))
