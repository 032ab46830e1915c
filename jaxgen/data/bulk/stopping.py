"""A clean end of the process at SIGTERM or SIGHUP, even while compiled code runs.

Python runs a handler of signals in the main thread only, once the call of compiled code has
returned, which may take minutes. So a thread waits for the signal.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator

from jaxgen.data.output import remove_own_temporaries

_active: list[int] = []  # signals that a context has taken


def _forget() -> None:
    """In a forked child: end at signals as usual, and leave the pipe to the parent."""
    if _active:
        signal.set_wakeup_fd(-1)
        for number in _active:
            signal.signal(number, signal.SIG_DFL)
        _active.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
_SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]


@contextlib.contextmanager
def clean_stop(finish: Callable[[], str]) -> Iterator[None]:
    """A context in which SIGTERM and SIGHUP call a function, and then end the process.

    The function runs in a thread of its own, and returns a sentence for standard error. Temporary
    files are removed, and the exit status is 128 plus the number of the signal. The context has an
    effect in the main thread only, and not for signals that have a handler already.
    """
    taken = []
    if threading.current_thread() is threading.main_thread():
        taken = [number for number in _SIGNALS if signal.getsignal(number) is signal.SIG_DFL]
    if not taken:
        yield
        return
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    if before != -1:  # an event loop waits for the signals
        signal.set_wakeup_fd(before)
        os.close(reading)
        os.close(writing)
        yield
        return
    for number in taken:
        signal.signal(number, _ignore)
    _active.extend(taken)

    def watch() -> None:
        while byte := os.read(reading, 1):
            if byte[0] in taken:
                sentence = finish()
                remove_own_temporaries()
                with contextlib.suppress(OSError):
                    message = f"jaxgen: stopped by {signal.Signals(byte[0]).name}: {sentence}\n"
                    os.write(2, message.encode())
                os._exit(128 + byte[0])

    watcher = threading.Thread(target=watch, name="jaxgen-signals", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        _active.clear()
        signal.set_wakeup_fd(-1)
        for number in taken:
            signal.signal(number, signal.SIG_DFL)
        os.close(writing)
        watcher.join()
        os.close(reading)


def _ignore(number: int, frame: object) -> None:
    """A handler that leaves the signal to the thread that waits for it."""
