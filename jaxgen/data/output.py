"""The writer of all files: models, tables, checkpoints, reports and figures.

A regular file is replaced by a new file of the same owner and mode once the new file is complete
and on disk. Until then the new file is a hidden temporary file in the same directory. It is removed
if anything fails, Ctrl-C and SIGTERM included; if its process is killed, the next writer in the
directory removes it. Anything but a regular file (a pipe, a terminal, ``/dev/null``), and a file
with several hard links, is written in place, from a complete copy elsewhere.
"""

from __future__ import annotations

import contextlib
import errno
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
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

try:
    import fcntl
except ImportError:  # on Windows
    fcntl = None  # type: ignore[assignment]

_SIGNALS = [getattr(signal, name, None) for name in ("SIGTERM", "SIGHUP", "SIGINT")]
_BINARY = getattr(os, "O_BINARY", 0)  # for Windows
_PREFIX = ".jaxgen-"  # of temporary files
fault: Callable[[str], None] | None = None  # set by tests: called at each point that is reached
_writing: dict[str, int] = {}  # temporary files, and the process that writes each of them


def writable(
    path: str | os.PathLike[str], others: Iterable[str | os.PathLike[str] | None] = ()
) -> Path:
    """``path``, if it can be written to; for use before long work whose result goes there.

    Args:
      path: the file to write; a symbolic link is followed.
      others: other files that the work reads or writes, which must not be the same file.

    Raises:
      shutil.SameFileError: the file is one of ``others``, perhaps under another name.
      BrokenPipeError: the file is a pipe of this process without a reader.
      OSError: the file is a directory, a block device or a socket; it is read-only; a new file
        cannot have its owner or group; its directory is missing or takes no new files.

    >>> path = writable("report.json", others=["events.csv"])
    """
    target = _target(path)
    for other in others:
        if other is not None and _is_same(target, other):
            raise shutil.SameFileError(f"cannot write {path}: it is the same file as {other}")
    if target.replaced:
        with _temporary(target):  # some errors, such as a full quota, show only in the attempt
            pass
    return Path(path)


@contextlib.contextmanager
def write_atomically(
    path: str | os.PathLike[str],
    *,
    remove_stale: bool = True,
    replace: bool = True,
    cached: bool = True,
    keep: bool = True,
) -> Iterator[IO[bytes]]:
    """A context with a binary file whose content goes to ``path`` once it is complete.

    A reader of a regular file finds the old content or the new content, never a part, and mode and
    owner stay the same. If anything fails, nothing is written, except that a file that is written
    in place (see the module) may be incomplete.

    Args:
      path: the file to write; a symbolic link is followed.
      remove_stale: whether to remove temporary files of processes that were killed from the
        directory, which lists it. A writer of many files into a new directory does without.
      replace: whether to replace an existing file. If not, one of several processes that write the
        same file at once succeeds.
      cached: whether the content may stay in memory, in the cache of the file system. Without it,
        many large files are written several times as fast, as they share the same pages of memory.
      keep: whether a file that replaces another gets its owner and mode, and hard links stay. If
        not, any user who may write to the directory can replace its files.

    Raises:
      FileExistsError: ``replace`` is False and the file exists.
      OSError: as for ``writable``, or the file cannot be written; the message names ``path``.

    >>> with write_atomically("notes.txt") as file:
    ...     written = file.write(b"all or nothing")
    """
    target = _target(path, keep)
    if not replace and target.real.exists():
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), os.fspath(path))
    if not target.replaced:
        # in the directory of a regular file, since the disk of temporary files may be small
        directory = target.real.parent if target.is_regular else None
        with _errors_name(path), tempfile.TemporaryFile(dir=directory) as complete:
            yield complete
            complete.seek(0)
            _copy(complete, target)
        return
    with _temporary(target, remove_stale) as (file, temporary), _errors_name(path):
        yield file
        file.flush()
        reach("before fsync")
        os.fsync(file.fileno())
        reach("after fsync")
        if not cached and hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        if fcntl is None:
            file.close()  # Windows cannot rename an open file
        if replace or not _link(temporary, target.real):
            os.replace(temporary, target.real)
        reach("after rename")
        _sync_directory(target.real.parent)
        reach("after fsync of the directory")


def reach(point: str) -> None:
    """Mark a point of writing, at which a test may stop the process or make it fail.

    The points are those of this file, in ``write_atomically``, and of ``jaxgen.data.bulk``.
    """
    if fault is not None:
        fault(point)


def remove_own_temporaries() -> None:
    """Remove the temporary files of this process, which is about to end."""
    for path, process in list(_writing.items()):
        if process == os.getpid():  # a forked child keeps the files of its parent
            with contextlib.suppress(OSError):
                os.unlink(path)


def _link(temporary, path):
    """Give a file the name ``path`` unless that exists; False on file systems without links."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:
        return False
    return True


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write a value as indented JSON.

    Raises:
      ValueError: the value holds NaN or an infinity, which JSON does not have: see ``finite``.
      OSError: as for ``write_atomically``.
    """
    text = json.dumps(value, indent=2, allow_nan=False)
    with write_atomically(path) as file:
        file.write(text.encode() + b"\n")


def finite(record: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """A flat record with None instead of NaN and infinities, and these values by name, as text.

    >>> finite({"kl": math.inf, "events": 3})
    ({'kl': None, 'events': 3}, {'kl': 'inf'})
    """
    replaced = {k: v for k, v in record.items() if isinstance(v, float) and not math.isfinite(v)}
    plain = {k: None if k in replaced else v for k, v in record.items()}
    return plain, {k: str(float(v)) for k, v in replaced.items()}


def check_figure(
    path: str | os.PathLike[str], others: Iterable[str | os.PathLike[str] | None] = ()
) -> None:
    """Raise if ``write_figure`` could not write to the path; for use before long work.

    Raises:
      ValueError: Matplotlib has no format with the path's ending.
      OSError: as for ``writable``.
    """
    _ending(path)
    writable(path, others)


def write_figure(figure: Any, path: str | os.PathLike[str]) -> None:
    """Write a Matplotlib figure in the format of the path's ending, such as .png, .pdf or .svg.

    Raises:
      ValueError: Matplotlib has no format with the path's ending.
      OSError: as for ``write_atomically``.
    """
    ending = _ending(path)
    with write_atomically(path) as file:
        figure.savefig(file, format=ending, dpi=150)


def drawn(draw: Callable[[], Any], path: str | os.PathLike[str] | None) -> Any:
    """The Matplotlib figure that a function draws, written to the path too unless that is None.

    Raises:
      ValueError, OSError: as in ``check_figure``, before the figure is drawn.
    """
    if path is not None:
        check_figure(path)
    figure = draw()
    if path is not None:
        write_figure(figure, path)
    return figure


def check_descriptor(number: int, name: str | os.PathLike[str]) -> None:
    """Raise if an open file of this process cannot be written to; for use before long work.

    Args:
      number: the file's descriptor, such as 1 for the standard output.
      name: the file's name in error messages.

    Raises:
      BrokenPipeError: the file is a pipe without a reader.
      OSError: the file is not open, or open for reading only.
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
        raise BrokenPipeError(f"cannot write {name}: it is a pipe without a reader")


class _Target(NamedTuple):
    """The file that a path leads to.

    Attributes:
      path: as the caller gave it.
      real: the same without symbolic links.
      status: of the file; None if it does not exist.
      descriptor: of an open file of this process, such as /dev/stdout; None of any other.
    """

    path: str | os.PathLike[str]
    real: Path
    status: os.stat_result | None
    descriptor: int | None

    @property
    def is_regular(self) -> bool:
        return self.status is None or stat.S_ISREG(self.status.st_mode)

    @property
    def replaced(self) -> bool:
        """Whether a new file replaces it."""
        if self.descriptor is not None:
            return False
        return self.status is None or (self.is_regular and self.status.st_nlink == 1)


def _target(path, keep=True):
    """The file that ``path`` leads to; raises OSError if it cannot be written to.

    keep: as in ``write_atomically``.
    """
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
    if stat.S_ISREG(mode) and not keep:
        return _Target(path, real, None, None)
    # root is allowed to write to a read-only file, but its owner does not expect that
    if (stat.S_ISREG(mode) and not mode & stat.S_IWUSR) or not os.access(real, os.W_OK):
        raise PermissionError(f"cannot write {path}: it is read-only")
    return _Target(path, real, status, None)


def _descriptor(path):
    """The descriptor of an open file that the path names, such as /dev/fd/3, or None."""
    if fcntl is None:
        return None
    folders = {os.path.realpath(folder) for folder in ("/dev/fd", "/proc/self/fd")}
    path = os.path.abspath(path)
    for _ in range(40):  # the most symbolic links that Linux follows
        parent, name = os.path.split(path)
        if name.isdecimal() and os.path.realpath(parent) in folders:
            return int(name)
        if not os.path.islink(path):
            return None
        path = os.path.join(parent, os.readlink(path))
    return None


def _is_same(target, other):
    """Whether both paths lead to one regular file, or will do so once it exists."""
    if target.status is None:
        return target.real == Path(os.path.realpath(other))
    try:
        return target.is_regular and os.path.samestat(target.status, os.stat(other))
    except OSError:
        return False


@contextlib.contextmanager
def _temporary(target, remove_stale=True):
    """A context with a new hidden file in the target's directory, of the same owner and mode.

    At the end the file is removed, unless it was renamed. Yields the open file and its path.
    """
    directory = target.real.parent
    if remove_stale:
        remove_abandoned(directory)
    with _removal_on_signals():
        # until it has the target's mode, nobody else may read the file
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
    """The open and locked file, or None if another process has removed it as stale."""
    try:
        reach("before the temporary file")
        number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _BINARY, mode)
    except PermissionError as error:
        where = Path(path).parent
        message = f"cannot write {target.path}: no permission in {where}"
        raise PermissionError(message) from error
    except OSError as error:
        raise OSError(error.errno, error.strerror, os.fspath(target.path)) from error
    file = os.fdopen(number, "wb")
    if fcntl is not None:
        with contextlib.suppress(OSError):  # not all network file systems have locks
            fcntl.flock(number, fcntl.LOCK_EX)
        if os.fstat(number).st_nlink == 0:
            file.close()
            return None
    return file


def _keep_owner(file, target):
    """Give a new file the owner, group and mode of the file that it will replace."""
    if target.status is None or fcntl is None:
        return
    old, new = target.status, os.fstat(file.fileno())
    if (old.st_uid, old.st_gid) != (new.st_uid, new.st_gid):
        try:
            os.fchown(file.fileno(), old.st_uid, old.st_gid)
        except OSError as error:
            raise PermissionError(
                f"cannot write {target.path}: it belongs to user {old.st_uid} and group "
                f"{old.st_gid}, and a new file cannot belong to them"
            ) from error
    os.fchmod(file.fileno(), stat.S_IMODE(old.st_mode))


def _copy(complete, target):
    """Copy the content of an open file to the target, without replacing the target."""
    if target.descriptor is not None:
        for stream in (sys.stdout, sys.stderr):  # earlier output comes first
            if stream is not None:
                stream.flush()
        number = os.dup(target.descriptor)
    else:
        number = os.open(target.real, os.O_WRONLY)
    with os.fdopen(number, "wb") as file:
        shutil.copyfileobj(complete, file)
        file.flush()
        if target.descriptor is None and target.is_regular:
            file.truncate()
            os.fsync(file.fileno())


def _sync_directory(directory):
    try:
        number = os.open(directory, os.O_RDONLY)
    except PermissionError:  # on Windows, and for a directory without permission to list it
        return
    try:
        os.fsync(number)
    finally:
        os.close(number)


@contextlib.contextmanager
def _errors_name(path):
    """A context whose OSErrors name ``path`` if they name no file, or a temporary one."""
    try:
        yield
    except OSError as error:
        if error.filename is not None and error.filename not in _writing:
            raise
        if error.errno is None:  # such as those of NumPy
            raise OSError(f"cannot write {path}: {error}") from error
        raise OSError(error.errno, error.strerror, os.fspath(path)) from error


def _prefix():
    """The prefix of this host's temporary files; locks may not work across hosts."""
    return f"{_PREFIX}{re.sub('[^A-Za-z0-9]', '', platform.node())[:40]}-"


def remove_abandoned(
    directory: str | os.PathLike[str], other_hosts_after: float = math.inf
) -> None:
    """Remove temporary files that are not locked, since their processes have ended.

    Args:
      directory: the directory.
      other_hosts_after: seconds after which files of other hosts, whose locks may not be seen here,
        are removed too if nothing was written to them.
    """
    if fcntl is None:
        return
    names: list[str] = []
    with contextlib.suppress(OSError):  # a directory may be writable but not readable
        names = os.listdir(directory)
    prefix = _prefix()
    for name in names:
        if name.startswith(_PREFIX) and name.endswith(".tmp"):
            path = os.path.join(directory, name)
            with contextlib.suppress(OSError):
                age = time.time() - os.lstat(path).st_mtime
                if not name.startswith(prefix) and age < other_hosts_after:
                    continue
                number = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
                try:
                    fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    os.unlink(path)
                finally:
                    os.close(number)


@contextlib.contextmanager
def _removal_on_signals():
    """A context in which signals that would end the process remove its temporary files first.

    It has an effect in the main thread only, and not for signals that have a handler already.
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
    """Remove the temporary files of this process, then end it by the same signal."""
    remove_own_temporaries()
    signal.signal(number, signal.SIG_DFL)
    signal.raise_signal(number)


def _ending(path):
    """The ending of a figure's path without the dot; raises if Matplotlib does not know it."""
    from matplotlib.backend_bases import FigureCanvasBase

    known = set(FigureCanvasBase.get_supported_filetypes()) - {"pgf"}  # which needs TeX
    ending = Path(path).suffix[1:].lower()
    if ending not in known:
        listed = ", ".join(f".{name}" for name in sorted(known))
        raise ValueError(f"{path}: a figure's ending must be one of {listed}; got {ending!r}")
    return ending
