"""Progress bars: on a terminal, once work has taken two seconds, or as an argument says."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tqdm.auto import tqdm

_DELAY = 2.0  # seconds that work must last before a bar shows unasked


def check_progress(progress: Any) -> None:
    """Raise unless the argument ``progress`` is True, False or None."""
    if progress not in (True, False, None):
        raise TypeError(f"progress must be True, False or None, got {progress!r:.40}")


def bar(
    task: str, items: Iterable[Any] | None = None, show: bool | None = None, **more: Any
) -> Any:
    """A tqdm bar, over items or with a total.

    Args:
      task: the word before the bar.
      items: what to iterate over.
      show: True, False, or None for a bar only on a terminal, in work that takes over two seconds.
      more: further arguments of tqdm, such as ``total`` and ``unit``.
    """
    disable, delay = (None, _DELAY) if show is None else (not show, 0.0)
    return tqdm(items, desc=task, disable=disable, delay=delay, **more)
