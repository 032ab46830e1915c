"""The one writer of files: models, tables, checkpoints, reports and figures all go through here.

A regular file is replaced by a new one of the same owner and mode, and only once that is complete
and on disk. Until then the new file is a hidden temporary in the same directory, which is removed
where anything fails, Ctrl-C and SIGTERM included; those of processes that were killed are removed
by the next writer in the directory. What is no regular file (a pipe, a terminal, ``/dev/null``),
and a file with several hard links, is written in place, from a complete copy elsewhere.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import platform
import re
import secrets
import select
import shutil
import signal
import stat
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

try:
    import fcntl
except ImportError:  # on Windows
    fcntl = None  # type: ignore[assignment]

_SIGNALS = [getattr(signal, name, None) for name in ("SIGTERM", "SIGHUP", "SIGINT")]
_BINARY = getattr(os, "O_BINARY", 0)  # which Windows needs
_writing: dict[str, int] = {}  # temporaries, and the process that writes each


def writable(path: str | os.PathLike, others: Iterable[str | os.PathLike | None] = ()) -> Path:
    """``path``, if it can be written to; ask before long work whose result goes there.

    Args:
      path: the file to write; a symbolic link is followed.
      others: what else the work reads or writes, none of which may be the same file.

    Raises:
      shutil.SameFileError: it is the same file as one of ``others``, by whatever name.
      BrokenPipeError: it is a pipe of this process that nobody reads.
      OSError: it is a directory, a block device or a socket; it is read-only; it has an owner or a
        group that a new file cannot be given; its directory is missing or refuses new files.

    >>> path = writable("report.json", others=["events.csv"])
    """
    target = _target(path)
    for other in others:
        if other is not None and _is_same(target, other):
            raise shutil.SameFileError(f"cannot write {path}: it is the same file as {other}")
    if target.replaced:
        with _temporary(target):  # to find what only the attempt shows, such as a full quota
            pass
    return Path(path)


@contextlib.contextmanager
def write_atomically(path: str | os.PathLike) -> Iterator[IO[bytes]]:
    """A binary file whose content takes its place at ``path`` once it is written completely.

    A reader of a regular file finds the old content or the new one, never a part, and mode and
    owner stay as they are. Where anything fails nothing is written, except that a copy to what is
    written in place (see the module) may end early.

    Args:
      path: the file to write; a symbolic link is followed.

    Raises:
      OSError: as ``writable``, or the file cannot be written; it names ``path``.

    >>> with write_atomically("notes.txt") as file:
    ...     written = file.write(b"all or nothing")
    """
    target = _target(path)
    if not target.replaced:
        # beside a regular file, since the disk of temporaries may be small
        beside = target.real.parent if target.is_regular else None
        with _naming(path), tempfile.TemporaryFile(dir=beside) as whole:
            yield whole
            whole.seek(0)
            _copy(whole, target)
        return
    with _temporary(target) as (file, temporary), _naming(path):
        yield file
        file.flush()
        os.fsync(file.fileno())
        if fcntl is None:
            file.close()  # Windows renames no open file
        os.replace(temporary, target.real)
        _sync_directory(target.real.parent)


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Write a value as JSON, indented.

    Raises:
      ValueError: it holds NaN or an infinity, for which JSON has no word: see ``finite``.
      OSError: as ``write_atomically``.
    """
    text = json.dumps(value, indent=2, allow_nan=False)
    with write_atomically(path) as file:
        file.write(text.encode() + b"\n")


def finite(record: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """A flat record with None for NaN and infinities, and by name what stood there.

    >>> finite({"kl": math.inf, "events": 3})
    ({'kl': None, 'events': 3}, {'kl': 'inf'})
    """
    odd = {k: v for k, v in record.items() if isinstance(v, float) and not math.isfinite(v)}
    plain = {k: None if k in odd else v for k, v in record.items()}
    return plain, {k: str(float(v)) for k, v in odd.items()}


def check_figure(path: str | os.PathLike, others: Iterable[str | os.PathLike | None] = ()) -> None:
    """Ask before long work whether ``write_figure`` could put its result there.

    Raises:
      ValueError: Matplotlib draws no file of that ending.
      OSError: as ``writable``.
    """
    _ending(path)
    writable(path, others)


def write_figure(figure: Any, path: str | os.PathLike) -> None:
    """Write a Matplotlib figure in the format of the path's ending, such as .png, .pdf or .svg.

    Raises:
      ValueError: Matplotlib draws no file of that ending.
      OSError: as ``write_atomically``.
    """
    ending = _ending(path)
    with write_atomically(path) as file:
        figure.savefig(file, format=ending, dpi=150)


def check_descriptor(number: int, name: str | os.PathLike) -> None:
    """Ask before long work whether an open file of this process can be written to.

    Args:
      number: of the open file, such as 1 of the standard output.
      name: what errors call it.

    Raises:
      BrokenPipeError: it is a pipe that nobody reads.
      OSError: it is not open, or only for reading.
    """
    if fcntl is None:
        return
    try:
        flags = fcntl.fcntl(number, fcntl.F_GETFL)
    except OSError as error:
        raise OSError(f"cannot write {name}: it is not open") from error
    if flags & os.O_ACCMODE == os.O_RDONLY:
        raise PermissionError(f"cannot write {name}: it is open for reading only")
    poll = select.poll()
    poll.register(number, select.POLLOUT)
    if any(events & (select.POLLERR | select.POLLHUP) for _, events in poll.poll(0)):
        raise BrokenPipeError(f"cannot write {name}: nobody reads it")


class _Target(NamedTuple):
    """Where a path leads: the file without links, its status if it exists, and its number if it
    is an open file of this process, such as /dev/stdout."""

    path: str | os.PathLike
    real: Path
    status: os.stat_result | None
    descriptor: int | None

    @property
    def is_regular(self) -> bool:
        return self.status is None or stat.S_ISREG(self.status.st_mode)

    @property
    def replaced(self) -> bool:
        """Whether a new file takes its place."""
        if self.descriptor is not None:
            return False
        return self.status is None or (self.is_regular and self.status.st_nlink == 1)


def _target(path):
    """Where ``path`` leads, or an OSError where it cannot be written to."""
    number = _descriptor(path)
    if number is not None:
        check_descriptor(number, path)
        return _Target(path, Path(os.path.realpath(path)), os.fstat(number), number)
    real = Path(os.path.realpath(path))
    for parent in (Path(path).parent, real.parent):
        if not parent.is_dir():
            raise FileNotFoundError(f"cannot write {path}: there is no directory {parent}")
    try:
        status = os.stat(real)
    except FileNotFoundError:
        return _Target(path, real, None, None)
    mode = status.st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(f"cannot write {path}: it is a directory")
    if not (stat.S_ISREG(mode) or stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)):
        kind = "a block device" if stat.S_ISBLK(mode) else "a socket"
        raise OSError(f"cannot write {path}: it is {kind}")
    # root may write to a read-only file too, but who made it read-only did not want that
    if (stat.S_ISREG(mode) and not mode & stat.S_IWUSR) or not os.access(real, os.W_OK):
        raise PermissionError(f"cannot write {path}: it is read-only")
    return _Target(path, real, status, None)


def _descriptor(path):
    """The number of an open file that is named by it, as /dev/stdout and /dev/fd/3 do, or None."""
    if fcntl is None:
        return None
    folders = {os.path.realpath(folder) for folder in ("/dev/fd", "/proc/self/fd")}
    path = os.path.abspath(path)
    for _ in range(40):  # links that one path may take on Linux
        parent, name = os.path.split(path)
        if name.isdecimal() and os.path.realpath(parent) in folders:
            return int(name)
        if not os.path.islink(path):
            return None
        path = os.path.join(parent, os.readlink(path))
    return None


def _is_same(target, other):
    """Whether both are one regular file, or will be once they exist."""
    if target.status is None:
        return target.real == Path(os.path.realpath(other))
    try:
        return target.is_regular and os.path.samestat(target.status, os.stat(other))
    except OSError:
        return False


@contextlib.contextmanager
def _temporary(target):
    """A new hidden file beside the target, with its owner and mode, that is gone at the end."""
    directory = target.real.parent
    _remove_stale(directory)
    with _removal_on_signals():
        # nobody may read meanwhile what nobody may read at the end
        mode = 0o666 if target.status is None else 0o600
        file = None
        while file is None:
            name = f"{_prefix()}{secrets.token_hex(8)}.tmp"
            path = os.path.join(directory, name)
            _writing[path] = os.getpid()
            try:
                file = _create(path, mode, target)
                if file is not None:
                    with file:
                        _keep_owner(file, target)
                        yield file, path
            finally:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)
                del _writing[path]


def _create(path, mode, target):
    """The open and locked file, or None where another process took it for a stale one."""
    try:
        number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _BINARY, mode)
    except PermissionError as error:
        where = Path(path).parent
        message = f"cannot write {target.path}: no permission in {where}"
        raise PermissionError(message) from error
    except OSError as error:
        raise OSError(error.errno, error.strerror, os.fspath(target.path)) from error
    file = os.fdopen(number, "wb")
    if fcntl is not None:
        with contextlib.suppress(OSError):  # some network file systems have no locks
            fcntl.flock(number, fcntl.LOCK_EX)
        if os.fstat(number).st_nlink == 0:
            file.close()
            return None
    return file


def _keep_owner(file, target):
    """Give a new file the owner, group and mode of the one that it will replace."""
    if target.status is None or fcntl is None:
        return
    old, new = target.status, os.fstat(file.fileno())
    if (old.st_uid, old.st_gid) != (new.st_uid, new.st_gid):
        try:
            os.fchown(file.fileno(), old.st_uid, old.st_gid)
        except OSError as error:
            raise PermissionError(
                f"cannot write {target.path}: it belongs to user {old.st_uid} and group "
                f"{old.st_gid}, to whom a new file cannot be given"
            ) from error
    os.fchmod(file.fileno(), stat.S_IMODE(old.st_mode))


def _copy(whole, target):
    """Copy an open file into the target, which stays the file that it is."""
    if target.descriptor is not None:
        for stream in (sys.stdout, sys.stderr):  # what was printed first comes first
            if stream is not None:
                stream.flush()
        number = os.dup(target.descriptor)
    else:
        number = os.open(target.real, os.O_WRONLY)
    with os.fdopen(number, "wb") as file:
        shutil.copyfileobj(whole, file)
        file.flush()
        if target.descriptor is None and target.is_regular:
            file.truncate()
            os.fsync(file.fileno())


def _sync_directory(directory):
    try:
        number = os.open(directory, os.O_RDONLY)
    except PermissionError:  # on Windows, and in a directory that one may not list
        return
    try:
        os.fsync(number)
    finally:
        os.close(number)


@contextlib.contextmanager
def _naming(path):
    """An OSError that does not say which file it is of says that it is ``path``."""
    try:
        yield
    except OSError as error:
        if error.filename is not None and error.filename not in _writing:
            raise
        if error.errno is None:  # as NumPy has it
            raise OSError(f"cannot write {path}: {error}") from error
        raise OSError(error.errno, error.strerror, os.fspath(path)) from error


def _prefix():
    """How names of temporaries of this host begin: locks may not reach other hosts."""
    return f".jaxgen-{re.sub('[^A-Za-z0-9]', '', platform.node())[:40]}-"


def _remove_stale(directory):
    """Remove temporaries whose writers are dead: their locks are gone."""
    if fcntl is None:
        return
    names: list[str] = []
    with contextlib.suppress(OSError):  # one may be allowed to write to a directory, not to list it
        names = os.listdir(directory)
    for name in names:
        if name.startswith(_prefix()) and name.endswith(".tmp"):
            path = os.path.join(directory, name)
            with contextlib.suppress(OSError):
                number = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
                try:
                    fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    os.unlink(path)
                finally:
                    os.close(number)


@contextlib.contextmanager
def _removal_on_signals():
    """Signals that would end the process at once remove its temporaries first.

    Only the main thread can see to that, and only where nobody else has.
    """
    taken = []
    if threading.current_thread() is threading.main_thread():
        for number in _SIGNALS:
            if number is not None and signal.getsignal(number) is signal.SIG_DFL:
                signal.signal(number, _end)
                taken.append(number)
    try:
        yield
    finally:
        for number in taken:
            if signal.getsignal(number) is _end:
                signal.signal(number, signal.SIG_DFL)


def _end(number, frame):
    """Remove this process's temporaries, then end it as the signal would have."""
    for path, process in list(_writing.items()):
        if process == os.getpid():  # a forked child leaves its parent's alone
            with contextlib.suppress(OSError):
                os.unlink(path)
    signal.signal(number, signal.SIG_DFL)
    signal.raise_signal(number)


def _ending(path):
    """The ending of a figure's path, which Matplotlib knows how to draw."""
    from matplotlib.backend_bases import FigureCanvasBase

    known = set(FigureCanvasBase.get_supported_filetypes()) - {"pgf"}  # which needs TeX
    ending = Path(path).suffix[1:].lower()
    if ending not in known:
        listed = ", ".join(f".{name}" for name in sorted(known))
        raise ValueError(f"{path}: a figure's ending must be one of {listed}; got {ending!r}")
    return ending
