"""A fitted model as one file: readable anywhere, without code to run, and checked for damage.

The file is a safetensors file. Its arrays are the leaves of params; its metadata has one entry,
``jaxgen``, a JSON object with the spec, the tree of the leaves, the names of columns and labels,
the vocabulary of texts, the format of images, the versions that wrote it and a SHA-256 of the whole
file (with 64 zeros in place of the digest). The digest detects accidental damage; it is no
signature.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import importlib.metadata
import json
import math
import os
import re
from collections.abc import Iterator
from typing import IO, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from jaxgen.core import inputs
from jaxgen.core.model import Model, Params
from jaxgen.core.promotion import standard_promotion
from jaxgen.core.spec import Spec, from_json, spec_name, to_json
from jaxgen.core.warn import warn
from jaxgen.data import params as params_of
from jaxgen.data.images import PixelFormat
from jaxgen.data.output import write_atomically
from jaxgen.data.text import Vocabulary, sequence_in

FORMAT = 2  # raised when an older jaxgen could no longer read the file
_REORDERED = "SplineCoupling", "MaskedAutoregressive"  # whose spline params changed in format 2
_ENTRY = "jaxgen"  # the entry of the metadata
_NO_DIGEST = "0" * 64
# the metadata is JSON within JSON, hence the backslashes; the first match is the digest, since
# safetensors writes metadata first and we write the digest first in it
_DIGEST = re.compile(rb'\\"sha256\\": \\"([0-9a-f]{64})\\"')
_LONGEST = 100_000_000  # bytes of the longest header that safetensors writes
# errors that the content of a file can cause; others come from the machine, such as MemoryError
MALFORMED = (
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RecursionError,
    safetensors.SafetensorError,
)
_DTYPES = {"bool", "float16", "float32", "float64"} | {
    f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)
}


class SavedModel(NamedTuple):
    """The contents of a file: see ``jaxgen.Fitted`` for the fields."""

    model: Model
    params: Params
    columns: tuple[str, ...] | None = None
    labels: tuple[str | int, ...] | None = None
    y_columns: tuple[str, ...] | None = None
    vocabulary: Vocabulary | None = None
    pixels: PixelFormat | None = None


def save(fitted: Any, path: str | os.PathLike[str]) -> None:
    """Write a fitted model to one file, bit for bit; ``load`` reads it back.

    An existing file is replaced, and only once the new one is complete and on disk. The history of
    the fit is not kept. Equal models give equal files.

    Args:
      fitted: a ``Fitted`` or ``SavedModel``, whose params are dicts, lists, tuples and None around
        arrays.
      path: the file to write; any ending will do.

    Raises:
      TypeError: ``fitted`` is no Fitted, or params hold something that a file cannot.
      ValueError: ``load`` would refuse the file: params, columns or labels do not suit the model.
      OSError: the file cannot be written.

    Warns:
      RuntimeWarning: the model has a class or a NumPyro program of the main script or of a
        notebook, which other processes cannot find by its name.

    >>> save(fitted, "land.jaxgen")
    >>> load("land.jaxgen").model
    Gaussian(dim=2, covariance='full', jitter=0.0)
    """
    raw = to_bytes(fitted)
    with write_atomically(path) as file:
        file.write(raw)
    for note in dict.fromkeys(_notes(fitted.model)):
        warn(note)


def to_bytes(fitted: Any) -> bytes:
    """The content of a fitted model's file; equal for equal models and versions.

    Raises:
      TypeError, ValueError: as in ``save``.
    """
    if not all(hasattr(fitted, name) for name in SavedModel._fields):
        raise TypeError(f"fitted must be a Fitted, got {type(fitted).__name__}")
    arrays: dict[str, np.ndarray] = {}
    tree = _take_apart(fitted.params, "params", arrays)
    params_of.check(fitted.model, fitted.params)
    _check_names(fitted)
    header = {
        "sha256": _NO_DIGEST,
        "format": FORMAT,
        "jaxgen": _version("jaxgen"),
        "jax": jax.__version__,
        "dtype": str(inputs.float_dtype(fitted.params)),
        "spec": to_json(fitted.model),
        "columns": None if fitted.columns is None else list(fitted.columns),
        "labels": None if fitted.labels is None else list(fitted.labels),
        "y_columns": None if fitted.y_columns is None else list(fitted.y_columns),
        "params": tree,
    }
    if fitted.vocabulary is not None:
        header["vocabulary"] = to_json(fitted.vocabulary)
    if fitted.pixels is not None:
        header["pixels"] = to_json(fitted.pixels)
    raw = safetensors.numpy.save(arrays, {_ENTRY: json.dumps(header, allow_nan=False)})
    place = _DIGEST.search(raw)
    assert place is not None, "safetensors no longer keeps metadata as it was given"
    digest = hashlib.sha256(raw).hexdigest().encode()
    return raw[: place.start(1)] + digest + raw[place.end(1) :]


@standard_promotion
def load(path: str | os.PathLike[str]) -> SavedModel:
    """Read a fitted model that ``save`` wrote.

    Only classes that are already defined can be read: import the module of your own model first.

    As far as JAX can trace the model's ``init``, params must match those that it gives: the same
    names, kinds of numbers and shapes. A size may differ if it depends on the number of events, as
    in a KDE, and all params may have the same additional leading axes, as those of many fits do.

    Args:
      path: the file. If it is no model, only its header is read.

    Returns:
      The model, with JAX arrays of the dtypes that were saved.

    Raises:
      ValueError: the file is damaged or no jaxgen model, its spec is unknown here, its params hold
        NaN, or params, columns or labels do not suit the model; or it holds 64-bit params while JAX
        is in 32-bit mode, which would round them.
      OSError: there is no such file, or it cannot be read.
    """
    with open(path, "rb") as file:
        saved = _load(file, path)
    # not among the errors of the content: a machine without the device raises here
    return saved._replace(params=_on_device(saved.params))


def read_safetensors(file: IO[bytes], entry: str, other: str) -> tuple[bytes, Any]:
    """The content of a safetensors file, and the JSON in one entry of its metadata.

    The file must begin with that entry and have the size that its header states. Both are checked
    before the rest is read.

    Args:
      other: the text of the error for a file that does not begin with the entry.

    Raises:
      ValueError: the file does not begin with the entry, or is damaged.
      OSError: it cannot be read.
    """
    begin = b'{"__metadata__":{"%b":"' % entry.encode()
    head = file.read(8 + len(begin))
    length = int.from_bytes(head[:8], "little")
    if head[8:] != begin or not len(begin) <= length <= _LONGEST:
        raise ValueError(other)
    head += file.read(length - len(begin))
    try:
        header = json.loads(head[8:])
        metadata = json.loads(header.pop("__metadata__")[entry])
        size = 8 + length + max((own["data_offsets"][1] for own in header.values()), default=0)
    except MALFORMED as error:
        raise ValueError(f"damaged: {error!r}") from error
    if file.seekable():
        _check_size(file.seek(0, os.SEEK_END), size)
        file.seek(0)
        raw = file.read()
    else:
        raw = head + file.read()
    _check_size(len(raw), size)
    return raw, metadata


def _check_size(found: int, size: int) -> None:
    if found != size:
        raise ValueError(f"damaged: it has {found:,} bytes, where its header says {size:,}")


def _load(file: IO[bytes], path: str | os.PathLike[str]) -> SavedModel:
    """The model in an open file, its params NumPy arrays, or a ValueError that names the file."""
    try:
        raw, header = read_safetensors(file, _ENTRY, "not a jaxgen model, or damaged")
        return _checked(raw, header)
    except MALFORMED as error:  # a file that was altered with its digest may fail anywhere
        why = str(error) if type(error) is ValueError else f"not a valid jaxgen model: {error!r}"
        raise ValueError(f"{os.fspath(path)}: {why}") from error


def _checked(raw: bytes, header: Any) -> SavedModel:
    place = _DIGEST.search(raw)
    if place is None:
        raise ValueError("damaged: it holds no digest")
    digest = hashlib.sha256(raw[: place.start(1)])
    digest.update(_NO_DIGEST.encode())
    digest.update(memoryview(raw)[place.end(1) :])
    if digest.hexdigest().encode() != place.group(1):
        raise ValueError("damaged: its content does not match its digest")

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
    arrays = safetensors.numpy.load(raw)
    params = _put_together(header["params"], arrays)
    if arrays:
        raise ValueError(f"it holds {min(arrays)}, which is none of its params")
    columns = header["columns"]
    if columns is not None and not all(isinstance(name, str) for name in columns):
        raise ValueError("its columns are not names")
    labels = header.get("labels")  # which older files have not
    if labels is not None and not all(type(name) in (str, int, bool) for name in labels):
        raise ValueError("its labels are not names")
    y_columns = header.get("y_columns")
    if y_columns is not None and not all(isinstance(name, str) for name in y_columns):
        raise ValueError("its y_columns are not names")
    vocabulary = None if header.get("vocabulary") is None else from_json(header["vocabulary"])
    if not isinstance(vocabulary, Vocabulary | None):
        raise ValueError(f"its vocabulary is {spec_name(type(vocabulary))}")
    pixels = None if header.get("pixels") is None else from_json(header["pixels"])
    if not isinstance(pixels, PixelFormat | None):
        raise ValueError(f"its pixels are {spec_name(type(pixels))}")
    columns, labels, y_columns = (
        None if v is None else tuple(v) for v in (columns, labels, y_columns)
    )
    saved = SavedModel(model, params, columns, labels, y_columns, vocabulary, pixels)
    params_of.check(model, params)
    _check_names(saved)
    return saved


def _notes(value: Any) -> Iterator[str]:
    """Warnings about the specs in a model that is saved (``note_at_save``)."""
    if isinstance(value, tuple):
        for entry in value:
            yield from _notes(entry)
    elif isinstance(value, Spec):
        note = getattr(value, "note_at_save", "")
        if note:
            yield note
        if type(value).__module__ == "__main__":
            yield (
                f"{type(value).__name__} is defined in the main script or in a notebook, and a "
                "file holds its name but no code: to load the file elsewhere, move the class to a "
                "module and import it from there before saving and before loading"
            )
        for field in dataclasses.fields(value):  # type: ignore[arg-type]
            yield from _notes(getattr(value, field.name))


def _check_names(fitted: Any) -> None:
    """Raise unless columns and labels have one name for each feature and label, all different."""
    model = fitted.model
    if fitted.columns is not None:
        size = math.prod(model.event_shape)
        if len(fitted.columns) != size:
            raise ValueError(f"columns has {len(fitted.columns)} names, for {size} features")
        _check_different("columns", fitted.columns)
    if fitted.labels is not None:
        if len(fitted.labels) != (model.classes or 0):
            raise ValueError(f"labels has {len(fitted.labels)} names, for {model.classes} labels")
        _check_different("labels", fitted.labels)
    if fitted.y_columns is not None:
        size = math.prod(model.y_shape or ()) if model.y_shape is not None else 0
        if len(fitted.y_columns) != size:
            raise ValueError(f"y_columns has {len(fitted.y_columns)} names, for {size} numbers")
        _check_different("y_columns", fitted.y_columns)
    if fitted.vocabulary is not None:
        sequence = sequence_in(model)
        size = None if sequence is None else sequence.vocabulary
        if size != fitted.vocabulary.size:
            tokens = "no tokens" if size is None else f"{size} tokens"
            raise ValueError(f"vocabulary is {fitted.vocabulary}, for a model of {tokens}")
    if fitted.pixels is not None and not fitted.pixels.suits(model.event_shape):
        raise ValueError(f"pixels is {fitted.pixels}, for events of shape {model.event_shape}")


def _check_different(what: str, names: tuple[str | int, ...]) -> None:
    if len(set(names)) < len(names):
        twice = next(name for name, count in collections.Counter(names).items() if count > 1)
        raise ValueError(f"{what} has {twice!r} twice")


def _take_apart(node: Any, path: str, arrays: dict[str, np.ndarray]) -> Any:
    """The tree as JSON. Its leaves go into ``arrays``, by their path."""
    # exact types only: a named tuple or an ordered dict would not come back as one
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
    # safetensors ignores strides
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
    array = arrays.pop(value)
    if jax.dtypes.canonicalize_dtype(array.dtype) != array.dtype:
        raise ValueError(
            f"{value} is {array.dtype}, which JAX would round to 32 bits: enable x64 first, by "
            'jax.config.update("jax_enable_x64", True) or by setting JAX_ENABLE_X64=1'
        )
    return array


def _on_device(node: Any) -> Any:
    """The tree with JAX arrays; ``jax.tree_util.tree_map`` would sort the keys."""
    if isinstance(node, dict):
        return {key: _on_device(v) for key, v in node.items()}
    if isinstance(node, list | tuple):
        return type(node)(map(_on_device, node))
    return None if node is None else jnp.array(node)


def _escape(key: str | int) -> str:
    """A key escaped as in JSON pointers, so that no two leaves share a path."""
    return str(key).replace("~", "~0").replace("/", "~1")


def digest(*arrays: Any) -> str:
    """A SHA-256 of arrays, their shapes and dtypes; None differs from every array."""
    found = hashlib.sha256()
    for array in arrays:
        array = None if array is None else np.ascontiguousarray(array)
        found.update(repr(array if array is None else (array.shape, str(array.dtype))).encode())
        found.update(b"" if array is None else memoryview(array).cast("B") if array.size else b"")
    return found.hexdigest()


def versions(*packages: str) -> str:
    """The names and versions of installed packages."""
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
