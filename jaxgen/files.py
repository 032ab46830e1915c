"""A fitted model as one file: readable anywhere, unable to run code, and checked against damage.

The file is a safetensors file. Its arrays are the leaves of params; its metadata has one entry,
``jaxgen``, a JSON object with the spec, the tree that the leaves hang on, the names of columns and
labels, the versions that wrote it and a SHA-256 of the whole file (taken with 64 zeros where the
digest stands). The digest finds accidents; it is no signature. ``write_atomically`` serves every
writer in jaxgen.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from jaxgen import inputs
from jaxgen.fitted import Fitted
from jaxgen.model import Model
from jaxgen.spec import from_json, spec_name, to_json

FORMAT = 2  # raised when an older jaxgen could no longer read the file
_REORDERED = "SplineCoupling", "MaskedAutoregressive"  # their splines' numbers, in format 2

_NO_DIGEST = "0" * 64
# the metadata is JSON within JSON, hence the backslashes; the first match is the digest, since
# safetensors writes metadata first and we write the digest first in it
_DIGEST = re.compile(rb'\\"sha256\\": \\"([0-9a-f]{64})\\"')
_DTYPES = {"bool", "float16", "float32", "float64"} | {
    f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)
}


def save(fitted: Fitted, path: str | os.PathLike) -> None:
    """Write a fitted model to one file, bit for bit; ``load`` reads it back.

    An existing file is replaced, and only once the new one is complete and on disk. The history of
    the fit is not kept. Equal models give equal files.

    Args:
      fitted: the model, whose params are dicts, lists, tuples and None around arrays.
      path: the file to write; any ending will do.

    Raises:
      TypeError: ``fitted`` is no Fitted, or params hold something that a file cannot.
      OSError: the file cannot be written.

    >>> save(fitted, "land.jaxgen")
    >>> load("land.jaxgen").sample(jax.random.key(0), 3).shape
    (3, 2)
    """
    if not isinstance(fitted, Fitted):
        raise TypeError(f"fitted must be a Fitted, got {type(fitted).__name__}")
    arrays: dict[str, np.ndarray] = {}
    tree = _take_apart(fitted.params, "params", arrays)
    header = {
        "sha256": _NO_DIGEST,
        "format": FORMAT,
        "jaxgen": _version("jaxgen"),
        "jax": jax.__version__,
        "dtype": str(inputs.float_dtype(fitted.params)),
        "spec": to_json(fitted.model),
        "columns": None if fitted.columns is None else list(fitted.columns),
        "labels": None if fitted.labels is None else list(fitted.labels),
        "params": tree,
    }
    raw = safetensors.numpy.save(arrays, {"jaxgen": json.dumps(header)})
    place = _DIGEST.search(raw)
    assert place is not None, "safetensors no longer keeps metadata as it was given"
    digest = hashlib.sha256(raw).hexdigest().encode()
    with write_atomically(path) as file:
        file.write(raw[: place.start(1)])
        file.write(digest)
        file.write(memoryview(raw)[place.end(1) :])


def load(path: str | os.PathLike) -> Fitted:
    """Read a fitted model that ``save`` wrote.

    Only classes that are already defined are built: import the module of your own model first.

    Args:
      path: the file.

    Returns:
      The ``Fitted``, with JAX arrays of the dtypes that were saved.

    Raises:
      ValueError: the file is damaged or no jaxgen model, its spec is unknown here, or it holds
        64-bit params while JAX is in 32-bit mode, which would round them.
      OSError: there is no such file, or it cannot be read.
    """
    return _parse(Path(path).read_bytes(), path)


@contextlib.contextmanager
def write_atomically(path: str | os.PathLike) -> Iterator[IO[bytes]]:
    """A binary file that takes its place at ``path`` once it is written completely and on disk.

    Until then it is a hidden temporary in the same directory, removed if anything fails: a reader
    finds the old file or the new one, never a part.

    Args:
      path: the file to write; a symbolic link is followed.

    Raises:
      OSError: the file cannot be written.

    >>> with write_atomically("notes.txt") as file:
    ...     written = file.write(b"all or nothing")
    """
    target = writable(path).resolve()
    temporary = target.parent / f".jaxgen-{secrets.token_hex(8)}.tmp"
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if os.name == "posix":  # elsewhere a directory cannot be opened
        directory = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def writable(path: str | os.PathLike) -> Path:
    """``path``, if a file can be put there; ask before long work whose result goes there.

    Raises:
      OSError: its directory does not exist or refuses new files, or it is a directory itself.
    """
    path = Path(path)
    parent = path.resolve().parent
    if not parent.is_dir():
        raise FileNotFoundError(f"cannot write {path}: there is no directory {path.parent}")
    if path.is_dir():
        raise IsADirectoryError(f"cannot write {path}: it is a directory")
    if not os.access(parent, os.W_OK):
        raise PermissionError(f"cannot write {path}: no permission in {path.parent}")
    return path


def _parse(raw: bytes, path: str | os.PathLike) -> Fitted:
    """The model in the content of a file, or a ValueError that names the file."""
    try:
        return _checked(raw)
    except Exception as error:  # what was altered on purpose, digest and all, may fail anywhere
        why = str(error) if type(error) is ValueError else f"not a valid jaxgen model: {error!r}"
        raise ValueError(f"{os.fspath(path)}: {why}") from error


def _checked(raw: bytes) -> Fitted:
    place = _DIGEST.search(raw)
    if place is None:
        raise ValueError("not a jaxgen model, or damaged: it holds no digest")
    digest = hashlib.sha256(raw[: place.start(1)])
    digest.update(_NO_DIGEST.encode())
    digest.update(memoryview(raw)[place.end(1) :])
    if digest.hexdigest().encode() != place.group(1):
        raise ValueError("damaged: its content does not match its digest")

    arrays = safetensors.numpy.load(raw)
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(json.loads(raw[8 : 8 + length])["__metadata__"]["jaxgen"])
    if not isinstance(header["format"], int) or header["format"] > FORMAT:
        raise ValueError(
            f"written in format {header['format']!r} by jaxgen {header['jaxgen']}: this jaxgen "
            f"({_version('jaxgen')}) reads up to format {FORMAT}"
        )
    if header["format"] < 2 and any(name in json.dumps(header["spec"]) for name in _REORDERED):
        raise ValueError(
            f"a flow of jaxgen {header['jaxgen']}, whose splines had their numbers in another "
            "order: fit it again"
        )
    model = from_json(header["spec"])
    if not isinstance(model, Model):
        raise ValueError(f"its spec is {spec_name(type(model))}, which is not a model")
    params = _put_together(header["params"], arrays)
    columns = header["columns"]
    if columns is not None and not all(isinstance(name, str) for name in columns):
        raise ValueError("its columns are not names")
    labels = header.get("labels")  # which older files have not
    if labels is not None and not all(type(name) in (str, int) for name in labels):
        raise ValueError("its labels are not names")
    columns, labels = (None if v is None else tuple(v) for v in (columns, labels))
    return Fitted(model, params, columns=columns, labels=labels)


def _take_apart(node: Any, path: str, arrays: dict[str, np.ndarray]) -> Any:
    """The tree as JSON, with its leaves moved into ``arrays`` under their path's name."""
    # exact types: a named tuple or an ordered dict would come back as something else
    if node is None:
        return None
    if type(node) is dict:
        if not all(type(key) in (str, int) for key in node):
            raise TypeError(f"{path} has a key that is neither str nor int: {list(node)!r:.60}")
        # pairs, since a JSON object would turn int keys into str
        pairs = [[k, _take_apart(v, f"{path}/{_escape(k)}", arrays)] for k, v in node.items()]
        return {"dict": pairs}
    if type(node) in (list, tuple):
        items = [_take_apart(v, f"{path}/{i}", arrays) for i, v in enumerate(node)]
        return {type(node).__name__: items}
    is_array = isinstance(node, (np.ndarray, np.generic, jax.Array))
    if not is_array or str(node.dtype) not in _DTYPES:
        kind = f"an array of dtype {node.dtype}" if is_array else f"a {type(node).__name__}"
        raise TypeError(f"{path} is {kind}: a file holds arrays of {', '.join(sorted(_DTYPES))}")
    # safetensors takes memory as it lies
    arrays[path] = np.array(node, order="C")
    return {"array": path}


def _put_together(node: Any, arrays: dict[str, np.ndarray]) -> Any:
    if node is None:
        return None
    if not isinstance(node, dict) or len(node) != 1:
        raise ValueError(f"not a valid jaxgen model: no node of a tree is {node!r:.40}")
    ((kind, value),) = node.items()
    if kind == "dict":
        return {key: _put_together(v, arrays) for key, v in value}
    if kind in ("list", "tuple"):
        items = [_put_together(v, arrays) for v in value]
        return items if kind == "list" else tuple(items)
    if kind != "array":
        raise ValueError(f"its params hold an unknown kind of node: {kind!r:.40}")
    array = arrays[value]
    if jax.dtypes.canonicalize_dtype(array.dtype) != array.dtype:
        raise ValueError(
            f"{value} is {array.dtype}, which JAX would round to 32 bits: enable x64 first, by "
            'jax.config.update("jax_enable_x64", True) or by setting JAX_ENABLE_X64=1'
        )
    return jnp.array(array)


def _escape(key: str | int) -> str:
    """A key as part of a path, as in JSON pointers, so that no two leaves share a name."""
    return str(key).replace("~", "~0").replace("/", "~1")


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
