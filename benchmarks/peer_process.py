"""A peer in a process of its own, which times a call whenever it is asked to.

Libraries with thread pools of their own, such as torch, disturb JAX when they share its process.
The worker stays between cases, so that its repeats can be interleaved with those of others.
"""

import functools
import importlib
import multiprocessing
import time
from typing import Any

from benchmarks.timing import Here

_SPIN = 0.02  # seconds for which idle threads of OpenMP may spin, in nobody else's time


class Apart:
    """Like ``Here``, for the call that ``benchmarks.<module>.<function>(*arguments)`` returns."""

    result = None  # it stays there

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
    """The pipe to the module's process, which ends with ours."""
    context = multiprocessing.get_context("spawn")  # a fork would share JAX's threads
    ours, theirs = context.Pipe()
    context.Process(target=_serve, args=(theirs,), daemon=True).start()
    theirs.close()  # so that a worker that dies is noticed
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
        except Exception as raised:  # the asker decides what a failure means
            error = repr(raised)
        time.sleep(_SPIN)
        pipe.send((answer, error))
