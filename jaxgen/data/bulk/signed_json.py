"""JSON files with a SHA-256 of their content, so that damage is found."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from pathlib import Path
from typing import Any

from jaxgen.data.output import write_atomically

FORMAT = 1  # raised when an older jaxgen could no longer read the files
_LONGEST = 2**30  # bytes of the longest file
_READABLE = 1000  # most blocks that are written on lines of their own


def write(path: Path, content: dict[str, Any], replace: bool = True) -> None:
    """Write a record with its format, the version of jaxgen and a SHA-256 of all of it.

    Raises:
      FileExistsError: ``replace`` is False and the file exists.
      OSError: the file cannot be written.
    """
    content = {"format": FORMAT, "jaxgen": importlib.metadata.version("jaxgen"), **content}
    content = {"sha256": hashlib.sha256(canonical(content)).hexdigest(), **content}
    # the encoder with an indent is slow
    indent = 1 if len(content.get("blocks", ())) <= _READABLE else None
    text = json.dumps(content, indent=indent, allow_nan=False)
    with write_atomically(path, remove_stale=False, replace=replace, keep=False) as file:
        file.write(text.encode() + b"\n")


def read(path: Path) -> dict[str, Any]:
    """The content of a file that ``write`` wrote.

    Raises:
      ValueError: the file is damaged, or of a newer format.
      OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        raw = file.read(_LONGEST)
    try:
        content = json.loads(raw)
        digest, version = content.pop("sha256"), content["format"]
        if not isinstance(version, int):
            raise ValueError(f"its format is {version!r:.40}")
        if version <= FORMAT and hashlib.sha256(canonical(content)).hexdigest() != digest:
            raise ValueError("its content does not match its digest")
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path}: damaged: {reason(error)}") from error
    if version > FORMAT:
        raise ValueError(
            f"{path}: written in format {version} by jaxgen {content.get('jaxgen')!s:.20}: this "
            f"jaxgen ({importlib.metadata.version('jaxgen')}) reads up to format {FORMAT}"
        )
    return dict(content)


def canonical(content: Any) -> bytes:
    """The bytes of a record of which a digest is taken."""
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()


def reason(error: Exception) -> str:
    """Why a file is damaged, from the error that its content raised."""
    return str(error) if isinstance(error, ValueError) else repr(error)
