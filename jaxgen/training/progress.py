"""The progress bar of a fit, or of other work that takes seconds."""

from __future__ import annotations

from typing import Any

from jaxgen.core.bars import bar, check_progress

CHUNKS = 20  # compiled pieces of a run: a bar that moves at every step would slow the device down
SOON = 0.05  # seconds; a chunk shorter than that is not worth waiting for


class Progress:
    """A bar over the epochs of a run, moved between compiled chunks, or over other units of work.

    Args:
      show: True, False, or None for a bar only on a terminal, in a run over two seconds.
      total: planned epochs.
      unit: what the bar counts.
      task: the word before the bar.
    """

    def __init__(self, show: bool | None, total: int, unit: str = "epoch", task: str = "fit"):
        check_progress(show)
        self._bar: Any = bar(task, show=show, total=total, unit=unit)
        self._label = ""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._bar.close()

    def label(self, text: str) -> None:
        self._label = text

    def advance(self, count: int, log_likelihood: float | None = None) -> None:
        """Move the bar by a number of units, and show the mean log-likelihood reached, if any."""
        text = "" if log_likelihood is None else f"loss {-log_likelihood:.5g} nats"
        self._bar.set_postfix_str(f"{self._label} {text}".strip(), refresh=False)
        self._bar.update(count)


def chunk_length(epochs: int) -> tuple[int, int]:
    """Epochs in the first chunk and in the longest, which is static and takes few values."""
    length = -(-epochs // CHUNKS)
    return length, max(512, 1 << (length - 1).bit_length())
