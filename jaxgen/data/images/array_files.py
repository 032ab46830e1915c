"""Images in arrays: in memory, in .npy and .npz files, and in IDX files such as those of MNIST."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from jaxgen.core import inputs, places
from jaxgen.core.places import Message
from jaxgen.data.images.pixel_format import WHITE, check_whole
from jaxgen.data.tables import numpy_files

_GZIP = b"\x1f\x8b"
_BYTES = 0x08  # the code of uint8 in IDX


def eight_bits(values: Any, name: str) -> np.ndarray:
    """Images of 8 bits of an array, uint8 (n, height, width) or (n, height, width, 3).

    An array of only 0 and 1 is black and white, and other numbers from 0 to 1 are shares of white;
    else numbers are whole ones from 0 to 255.

    Args:
      values: (n, height, width), or with a last axis of 1 or 3 colours.
      name: of the array, for errors.

    Raises:
      TypeError, ValueError: another shape, no images, or other numbers.
    """
    array = np.asarray(inputs.numbers(values, name))
    shape = array.shape
    if array.ndim == 4 and shape[3] == 1:
        array = array[..., 0]
    elif array.ndim not in (3, 4) or (array.ndim == 4 and shape[3] != 3):
        why = ""
        if array.ndim == 4 and shape[1] in (1, 3):
            why = ": colours are the last axis, as np.moveaxis(images, 1, -1) makes them"
        elif array.ndim == 4 and shape[3] == 4:
            why = ": images in arrays have no transparency"
        raise ValueError(
            f"{name} must have shape (n, height, width), or (n, height, width, 3) with colours; "
            f"got {shape}{why}"
        )
    if not array.size:
        raise ValueError(f"{name} must hold at least one image with pixels, got shape {shape}")
    if array.dtype == np.bool_ or (array.min() >= 0 and array.max() <= 1):
        return np.rint(array.astype(np.float32) * WHITE).astype(np.uint8)
    if array.dtype != np.uint8:
        check_whole(array, name)
    return array.astype(np.uint8)


def read_numpy(path: Path, labels: bool) -> tuple[np.ndarray, list[Any] | None]:
    """The images of an .npy or .npz file as ``eight_bits``, and their labels if asked for."""
    loaded = numpy_files._load(path)
    held = {"": loaded} if isinstance(loaded, np.ndarray) else loaded
    images = {name: array for name, array in held.items() if array.ndim >= 3}
    name = next((name for name in ("x", "images") if name in images), None)
    if name is None and len(images) != 1:
        listed = ", ".join(f"{name!r} {array.shape}" for name, array in held.items())
        raise ValueError(
            f"{path}: needs an array of images 'x' or 'images', or one array of images; it has "
            f"{listed or 'no arrays'}"
        )
    found = eight_bits(images[name or next(iter(images))], f"{path}: images")
    if not labels:
        return found, None
    name = next((name for name in ("y", "labels") if name in held), None)
    if name is None:
        raise ValueError(f"{path}: it has no array of labels, 'y' or 'labels'")
    if held[name].shape != (len(found),):
        raise ValueError(
            f"{path}: {name!r} must have shape ({len(found)},), one label for each image; got "
            f"{held[name].shape}"
        )
    return found, _labels(path, name, held[name], held.get("names")).tolist()


def _labels(path: Path, name: str, values: np.ndarray, names: np.ndarray | None) -> np.ndarray:
    """The labels of an array (n,), by name if they are numbers of names."""
    if values.dtype.kind == "f":
        bad = ~(np.isfinite(values) & (values == np.floor(values)))
        if bad.any():
            row = int(bad.argmax())
            has = f" has {values[row]}"
            wanted = f"{path}: {name!r} must hold strings or whole numbers, but "
            raise ValueError(Message(wanted, places.row(row), has))
        values = values.astype(np.int64)
    if values.dtype.kind not in "Uiub":
        raise ValueError(
            f"{path}: {name!r} must hold strings or whole numbers, got numbers of dtype "
            f"{values.dtype}"
        )
    if names is None or values.dtype.kind == "U":
        return values
    if names.ndim != 1 or names.dtype.kind != "U":
        raise ValueError(
            f"{path}: 'names' must be strings of shape (labels,), got {names.dtype} of shape "
            f"{names.shape}"
        )
    values = values.astype(np.int64)
    outside = (values < 0) | (values >= len(names))
    if outside.any():
        row = int(outside.argmax())
        has = f" has {values[row]}"
        wanted = f"{path}: {name!r} must be numbers of the {len(names):,} 'names', from 0, but "
        raise ValueError(Message(wanted, places.row(row), has))
    return names[values]


def is_idx(path: Path) -> bool:
    """Whether a file is an IDX file of images, also one compressed by gzip, by its first bytes.

    >>> is_idx(Path("events.csv"))
    False
    """
    try:
        with open(path, "rb") as file:
            head = file.read(4)
        if head[:2] == _GZIP:
            with gzip.open(path) as file:
                head = file.read(4)
    except (OSError, EOFError, zlib.error):
        return False
    return len(head) == 4 and head[:2] == b"\0\0" and 0x08 <= head[2] <= 0x0E and head[3] in (3, 4)


def read_idx(path: Path, labels: bool) -> tuple[np.ndarray, list[Any] | None]:
    """The images of an IDX file, and the labels in the file beside it if asked for.

    The name of that file has "labels-idx1" where that of the images has "images-idx3".

    Raises:
      ValueError: a file is damaged, holds other numbers than bytes, or the labels do not suit.
      OSError: a file cannot be read; with ``labels`` that of the labels is missing.
    """
    images = eight_bits(_read_idx(path), f"{path}: images")
    if not labels:
        return images, None
    name = path.name.removesuffix(".gz")
    name = name.replace("images", "labels").replace("idx3", "idx1").replace("idx4", "idx1")
    beside = [path.with_name(name), path.with_name(f"{name}.gz")]
    file = next((one for one in beside if one.exists() and one != path), None)
    if file is None:
        raise ValueError(f"{path}: labels need a file {beside[0].name} or {beside[1].name} beside")
    found = _read_idx(file)
    if found.shape != (len(images),):
        raise ValueError(
            f"{file}: must hold one label for each of the {len(images):,} images in {path.name}, "
            f"got shape {found.shape}"
        )
    return images, found.tolist()


def _read_idx(path: Path) -> np.ndarray:
    raw = path.read_bytes()
    if raw[:2] == _GZIP:
        try:
            raw = gzip.decompress(raw)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"{path}: damaged: {error}") from error
    if len(raw) < 4 or raw[:2] != b"\0\0":
        raise ValueError(f"{path}: not an IDX file, which begins with two bytes of 0")
    if raw[2] != _BYTES:
        raise ValueError(f"{path}: must hold bytes (code 8), got numbers of code {raw[2]}")
    begin = 4 + 4 * raw[3]
    if len(raw) < begin:
        raise ValueError(f"{path}: damaged: it ends within its header")
    shape = tuple(np.frombuffer(raw[4:begin], ">u4").tolist())
    if len(raw) != begin + math.prod(shape):
        raise ValueError(
            f"{path}: damaged: it has {len(raw) - begin:,} bytes of pixels or labels, where its "
            f"header says {math.prod(shape):,}, of shape {shape}"
        )
    return np.frombuffer(raw, np.uint8, offset=begin).reshape(shape)
