"""Locks on ranges of blocks, so that no two writers of a folder draw the same blocks.

A lock ends with its process. It is held on bytes of an empty file, whose numbers are those of the
blocks, so that it also holds between hosts, on network file systems that have locks; without them
writers are not stopped, and write the same bytes.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # on Windows
    fcntl = None  # type: ignore[assignment]

_BUSY = (errno.EAGAIN, errno.EACCES)

# A process loses all its locks on a file when it closes the file once, so it opens each file once.
# Locks do not hold between threads, so the ranges of this process are compared here.
_mutex = threading.Lock()
_open: dict[str, tuple[int, list[tuple[int, int]]]] = {}


@contextlib.contextmanager
def locked(path: Path, first: int, stop: int) -> Iterator[None]:
    """A context in which no other caller has a lock on blocks that are among first .. stop - 1.

    Raises:
      BlockingIOError: another process or thread holds such a lock.
    """
    name, blocks = os.path.realpath(path), (first, stop)
    error = BlockingIOError(
        f"{path.parent.parent}: another process writes blocks of {first} to {stop - 1} here"
    )
    with _mutex:
        if name not in _open:
            _open[name] = os.open(name, os.O_RDWR | os.O_CREAT, 0o666), []
        number, held = _open[name]
        try:
            if any(first < other_stop and other < stop for other, other_stop in held):
                raise error
            if not _lock(number, first, stop - first):
                raise error
            held.append(blocks)
        finally:
            _close_unused(name)
    try:
        yield
    finally:
        with _mutex:
            number, held = _open[name]
            held.remove(blocks)
            if fcntl is not None:
                with contextlib.suppress(OSError):
                    fcntl.lockf(number, fcntl.LOCK_UN, stop - first, first)
            _close_unused(name)


def _lock(number: int, first: int, count: int) -> bool:
    """Whether a range of bytes is locked, or cannot be on this file system."""
    if fcntl is None:
        return True
    try:
        fcntl.lockf(number, fcntl.LOCK_EX | fcntl.LOCK_NB, count, first)
    except OSError as error:
        return error.errno not in _BUSY
    return True


def _close_unused(name: str) -> None:
    number, held = _open[name]
    if not held:
        del _open[name]
        os.close(number)
