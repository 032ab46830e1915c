"""Checks of arguments that the functions for bulk work share."""

from __future__ import annotations

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from jaxgen.data.bulk.block_files import FILE_FORMATS
from jaxgen.data.bulk.manifest import FOLDER
from jaxgen.data.tables.parquet_files import PARQUET


def check_fitted(model: Any) -> None:
    """Raise unless the argument ``model`` has the methods of a ``Fitted``."""
    if not hasattr(model, "named_columns"):
        raise TypeError(f"model must be a jaxgen.Fitted, got {type(model).__name__} {model!r:.40}")


def check_file_format(file_format: Any) -> None:
    """Raise unless the argument ``file_format`` is known, and its package installed."""
    if file_format not in FILE_FORMATS:
        listed = " or ".join(map(repr, FILE_FORMATS))
        raise ValueError(f"file_format must be {listed}, got {file_format!r:.40}")
    if file_format == "parquet":
        PARQUET.check_installed()


def check_executor(executor: Any) -> None:
    """Raise unless the argument ``executor`` is None or has the method of executors."""
    if executor is not None and not callable(getattr(executor, "submit", None)):
        wanted = "executor must be a concurrent.futures.Executor"
        raise TypeError(f"{wanted}, got {type(executor).__name__}")
    if isinstance(executor, ProcessPoolExecutor):
        context = getattr(executor, "_mp_context", multiprocessing)
        if context.get_start_method() == "fork":
            raise ValueError(
                "executor must start its processes anew, as threads of JAX do not survive a fork: "
                'use ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn"))'
            )


def as_folder(directory: Any) -> Path:
    """The argument ``directory`` as an absolute path, as other processes reach it."""
    if not isinstance(directory, (str, os.PathLike)) or not str(directory):
        raise TypeError(f"directory must be the path of a folder, got {directory!r:.40}")
    return Path(os.path.abspath(os.fsdecode(directory)))


def new_folder(directory: Path) -> bool:
    """Make a folder for files of jaxgen, with its subfolder; False if another process does so.

    Raises:
      ValueError: it holds anything else.
      OSError: it cannot be made.
    """
    held = directory / FOLDER
    for path in (directory, held):
        if not path.is_dir() and (path.exists() or path.is_symlink()):
            raise NotADirectoryError(f"{path} must be a folder, but it is none")
    if not directory.parent.is_dir():
        raise FileNotFoundError(f"{directory}: there is no folder {directory.parent}")
    directory.mkdir(exist_ok=True)
    # a new file system has lost+found, and other processes have temporary files
    names = os.listdir(directory)
    others = [name for name in names if name != "lost+found" and not name.startswith(FOLDER)]
    if others and held.is_dir() and any(name.endswith(".json") for name in os.listdir(held)):
        return False
    if others:
        raise ValueError(f"{directory} must be a new or empty folder, but it holds {min(others)!r}")
    held.mkdir(exist_ok=True)
    return True


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
