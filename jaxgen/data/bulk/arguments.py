"""Checks of arguments that the functions for bulk work share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from jaxgen.data.bulk.manifest import FOLDER


def check_progress(progress: Any) -> None:
    """Raise unless the argument ``progress`` is True, False or None."""
    if progress not in (True, False, None):
        raise TypeError(f"progress must be True, False or None, got {progress!r:.40}")


def check_executor(executor: Any) -> None:
    """Raise unless the argument ``executor`` is None or has the method of executors."""
    if executor is not None and not callable(getattr(executor, "submit", None)):
        wanted = "executor must be a concurrent.futures.Executor"
        raise TypeError(f"{wanted}, got {type(executor).__name__}")


def make_folder(directory: Path) -> None:
    """Make a folder for files of jaxgen, with its subfolder; raise if it holds anything else."""
    if directory.exists() and not directory.is_dir():
        raise NotADirectoryError(f"{directory} must be a folder, but it is a file")
    directory.mkdir(exist_ok=True)
    others = [name for name in os.listdir(directory) if name != FOLDER]
    if others:
        raise ValueError(f"{directory} must be a new or empty folder, but it holds {min(others)!r}")
    (directory / FOLDER).mkdir(exist_ok=True)


def check_same_job(directory: Path, what: str, there: dict[str, Any], here: dict[str, Any]) -> None:
    """Raise unless the job of a folder is that of a call.

    Args:
      what: the folder holds, such as "events".
    """
    differ = [
        _difference(name, there.get(name), value)
        for name, value in here.items()
        if there.get(name) != value
    ]
    if differ:
        listed = ", ".join(differ)
        raise ValueError(f"{directory} holds {what} of another job, with other {listed}")


def _difference(name: str, there: Any, here: Any) -> str:
    texts = f"{there} there, {here} here"
    return f"{name} ({texts})" if len(texts) <= 200 and name != "model" else name
