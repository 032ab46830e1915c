"""Running tasks on an executor: failed tasks are tried again, and slow ones run twice."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Executor, Future, wait
from typing import Any

ATTEMPTS = 3  # times that a task is tried
_SLOW = 2.0  # a task is started again once nothing ends for this many times the longest task
_LEAST = 5.0  # seconds for which nothing must have ended, at least
_POLL = 0.5  # seconds between looks at the clock


def run_tasks(
    executor: Executor,
    function: Callable[[Any], Any],
    tasks: Sequence[Any],
    done: Callable[[int, Any], object],
) -> None:
    """Run ``function`` on each task, and call ``done`` with the number and the result of each.

    A task may run more than once, in several processes at the same time: one that fails is tried
    ``ATTEMPTS`` times, and if nothing ends for long, tasks that are left are started once more, as
    their workers may be slow or dead. ``done`` is called once for each task.

    Args:
      executor: of the interface of ``concurrent.futures.Executor``.
      function: takes a task; it and the tasks must be such that the executor can send them.
      tasks: the tasks.
      done: called in this thread.

    Raises:
      RuntimeError: a task failed at all attempts, or the executor takes no tasks.
    """
    running: dict[Future[Any], int] = {}
    attempts = [0] * len(tasks)
    left = set(range(len(tasks)))

    def start(number: int, cause: BaseException | None = None) -> None:
        attempts[number] += 1
        try:
            running[executor.submit(function, tasks[number])] = number
        except Exception as error:  # such as a pool whose process was killed
            raise RuntimeError(f"executor takes no more tasks: {_reason(cause or error)}") from (
                cause or error
            )

    try:
        for number in sorted(left):
            start(number)
        last, longest, doubled = time.monotonic(), 0.0, False
        while left:
            ended, _ = wait(running, _POLL, FIRST_COMPLETED)
            for future in ended:
                number = running.pop(future)
                if number not in left:
                    continue
                error = _error(future)
                if error is None:
                    left.discard(number)
                    result = future.result()
                    now = time.monotonic()
                    longest, last, doubled = max(longest, _seconds(result, now - last)), now, False
                    done(number, result)
                elif number not in running.values():  # else another run of it may succeed
                    if attempts[number] >= ATTEMPTS:
                        raise RuntimeError(
                            f"a task failed {attempts[number]} times, at last by {_reason(error)}"
                        ) from error
                    start(number, error)
            quiet = time.monotonic() - last
            if left and not doubled and longest and quiet > max(_SLOW * longest, _LEAST):
                doubled = True
                for number in sorted(left):
                    if attempts[number] < ATTEMPTS:
                        start(number)
    finally:
        for future in running:
            future.cancel()


def _error(future: Future[Any]) -> BaseException | None:
    try:
        return future.exception()
    except CancelledError as error:
        return error
    except Exception as error:  # an executor whose futures raise where they should return
        return error


def _seconds(result: Any, default: float) -> float:
    return float(getattr(result, "seconds", default))


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
