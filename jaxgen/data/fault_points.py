"""Named points of writing, at which tests stop a process or make it fail."""

from __future__ import annotations

from collections.abc import Callable

POINTS = (
    "before the temporary file",
    "in the middle of a block",
    "before fsync",
    "after fsync",
    "after rename",
    "after fsync of the directory",
    "before the record of blocks",
    "after the record of blocks",
    "before the manifest",
    "after the manifest",
    "between the records to remove",
)

hook: Callable[[str], None] | None = None  # set by tests


def reach(point: str) -> None:
    """Call the hook of a test, if there is one, with the name of a point in ``POINTS``."""
    if hook is not None:
        hook(point)
