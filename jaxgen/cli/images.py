"""Images on the command line: how they are read, written and described."""

from __future__ import annotations

import dataclasses
import os
from argparse import Namespace
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from jaxgen.core import places
from jaxgen.core.model import Model
from jaxgen.data import tables
from jaxgen.data.images import (
    Images,
    PixelFormat,
    check_images_output,
    holds_images,
    image_files,
    read_images,
)
from jaxgen.data.images.decoding import is_image
from jaxgen.data.images.reading import as_size, converted
from jaxgen.data.images.writing import write_pixels
from jaxgen.training.fitted import Fitted

# the options of tables that do not apply to files of images
_FOR_TABLES = ("columns", "ignore", "domain", "na", "delimiter", "id")
_COLOURS = {"1": "black and white", "L": "grey", "RGB": "red, green and blue"}


@dataclasses.dataclass(frozen=True)
class Training:
    """Images to fit a model to.

    Attributes:
      x: their events, the levels of pixels, (n, ...).
      labels: (n,), or None.
      pixels: the format.
      fields: fields of the model that follow from the images.
      notes: sentences about what was left out or changed.
    """

    x: np.ndarray
    labels: np.ndarray | None
    pixels: PixelFormat
    fields: dict[str, Any]
    notes: tuple[str, ...]


def are_images(args: Namespace, cls: type[Model]) -> bool:
    """Whether the data of ``fit`` are files of images: those of a folder, one, or an IDX file.

    A folder without texts holds images too, so that an error is about images if it has none. With
    a model of texts, a folder holds texts.

    Raises:
      OSError: there is no such file.
    """
    path, names = Path(args.data), _fields(cls)
    if args.text is not None or tables.is_table(path) or "vocabulary" in names:
        return False
    if not path.suffix or is_image(path):
        path.stat()  # raises if there is no such file
    return holds_images(path) or (path.is_dir() and next(path.rglob("*.txt"), None) is None)


def read_training(args: Namespace, cls: type[Model]) -> Training:
    """The images of a folder, an image file or an IDX file, and their labels with --label.

    Raises:
      ValueError: an option does not apply to images.
      ValueError, OSError: as in ``jaxgen.data.read_images``.
    """
    for name in _FOR_TABLES:
        if getattr(args, name, None):
            raise ValueError(f"--{name} is for tables of numbers, not for images")
    found = read_images(args.data, size=_size(args), labels=args.label is not None)
    return _training(args, cls, found)


def of_table(
    args: Namespace, cls: type[Model], x: np.ndarray, fields: dict[str, Any]
) -> Training | None:
    """The images in the array of a table, or None if it holds other numbers.

    An array (n, height, width) or (n, height, width, 3) of bytes holds images. Their levels are the
    numbers in the array, 2 or 256 of them or as many as the field "levels" says. With --levels or
    --size the numbers are those of 8 bits.

    Args:
      args: the options --levels and --size.
      cls: the class of the model.
      x: the array.
      fields: fields of the model that the user has set.

    Raises:
      TypeError, ValueError: --levels or --size is given, and the array holds no images of 8 bits.
    """
    most = x.max(initial=0)
    if args.size is not None or args.levels is not None:
        if x.ndim < 3:
            option = "--levels" if args.levels is not None else "--size"
            raise ValueError(
                f"{option} is for images, and {args.data} holds events of shape {x.shape[1:]}"
            )
        wanted = 256 if args.levels is None else args.levels
        if wanted < 256 and 1 < most < max(wanted, 256 / wanted):  # else most become level 0
            raise ValueError(
                f"{args.data}: its largest number is {int(most)}, and --levels {wanted} is for the "
                "values of 8 bits, from 0 to 255; numbers of uint8 are levels without --levels, "
                f"and --set levels={int(most) + 1} says how many"
            )
        return _training(args, cls, read_images(x, size=_size(args)))
    if x.dtype not in (np.bool_, np.uint8) or not _is_image_shaped(x):
        return None
    levels, asked = 2 if most <= 1 else 256, fields.get("levels")
    if isinstance(asked, int) and 1 < most < asked <= 256:
        levels = asked
    pixels = PixelFormat("RGB" if x.ndim == 4 else "1" if levels == 2 else "L", levels)
    return _with_format(cls, x, None, pixels, ())


def levels_of(x: np.ndarray, fitted: Fitted) -> tuple[np.ndarray, tuple[str, ...]]:
    """The array of a table as events of a model, and sentences about what was changed.

    Whole numbers are levels if all are below those of the model, else the values of 8 bits. Other
    numbers, and those of arrays without the shape of images, stay as they are.
    """
    pixels = fitted.pixels
    if pixels is None or not _is_image_shaped(x) or not _is_of_8_bits(x):
        return x, ()
    notes: tuple[str, ...] = ()
    most = int(x.max())
    are_levels = most < pixels.levels
    if are_levels and most > 1 and pixels.levels < 256:
        notes = (f"numbers up to {most} were read as levels, 0 to {pixels.levels - 1}",)
    elif not are_levels:
        notes = (f"numbers up to {most} were read as 8 bits, for {pixels.levels} levels",)
    if x.shape[1:] == (*size(fitted), *pixels.colours):
        if not are_levels:
            return pixels.encode(x.astype(np.uint8)), notes
        return (x if pixels.size is None else x.reshape(len(x), -1)), notes
    if are_levels:
        x = PixelFormat("RGB" if x.ndim == 4 else "L", pixels.levels).decode(x)
    mode = "RGB" if pixels.colours else "L"
    found = converted(x.astype(np.uint8), None, size(fitted), mode)
    return pixels.encode(found.images), (*notes, *found.notes)


def read_for(fitted: Fitted, path: str | os.PathLike[str], labels: bool) -> Images:
    """The events of a folder or file of images for a model: scaled and coloured as it needs.

    Returns:
      Images whose ``images`` are events of the model.
    """
    assert fitted.pixels is not None
    mode = "RGB" if fitted.pixels.colours else "L"
    found = read_images(path, size=size(fitted), labels=labels, mode=mode)
    return found._replace(images=fitted.pixels.encode(found.images))


def row_name(path: str | os.PathLike[str], row: int) -> str:
    """The name of an image in error messages: its file, else "row 5"."""
    files = image_files(path)
    return files[row] if files is not None else str(places.row(row))


def ids(path: str | os.PathLike[str], n: int) -> dict[str, Any]:
    """The column that identifies images in an output: their files, else numbers of rows."""
    files = image_files(path)
    return {"row": np.arange(n)} if files is None else {"file": files}


def files_of(path: str | None) -> list[Path]:
    """The files that are read from a path, of images or texts if it is a folder; none of None."""
    if path is None:
        return []
    if not Path(path).is_dir():
        return [Path(path)]
    names = image_files(path) or ()
    return [*Path(path).rglob("*.txt"), *(Path(path) / name for name in names)]


def is_output(path: str | None) -> bool:
    """Whether draws go to a grid or a folder of images, by the ending of the path."""
    return path not in (None, "-") and Path(str(path)).suffix.lower() in ("", ".png")


def check_output(path: str, others: Iterable[str | os.PathLike[str] | None]) -> None:
    """Raise if draws cannot be written to a path as images."""
    check_images_output(path, others)


def write(fitted: Fitted, x: np.ndarray, y: Any, path: str) -> None:
    """Write events as a grid, or as a folder of files, in subfolders by their labels (n,)."""
    assert fitted.pixels is not None
    labels = y if fitted.model.classes is not None and not Path(path).suffix else None
    write_pixels(fitted.pixels.decode(x), path, labels)


def size(fitted: Fitted) -> tuple[int, int]:
    """The height and width of the images of a model."""
    assert fitted.pixels is not None
    height, width = fitted.pixels.size or fitted.model.event_shape[:2]
    return height, width


def description(fitted: Fitted) -> str:
    """The size, colours and levels of the images of a model, in words."""
    height, width = size(fitted)
    pixels = fitted.pixels
    assert pixels is not None
    levels = "" if pixels.mode == "1" else f", {pixels.levels} levels"
    return f"{height} x {width}, {_COLOURS[pixels.mode]}{levels}"


def constant(fitted: Fitted) -> str:
    """What the log density of a model of images refers to, in words."""
    assert fitted.pixels is not None
    levels, numbers = fitted.pixels.levels, int(np.prod(fitted.model.event_shape))
    if fitted.model.support.is_discrete:
        return f"none: probabilities of {numbers:,} numbers of {levels} levels each"
    return (
        f"none: a density of {numbers:,} numbers whose {levels} levels are 1 apart; for levels "
        f"1/{levels} apart, bits/dim are less by {np.log2(levels):.4g}"
    )


def _training(args: Namespace, cls: type[Model], found: Images) -> Training:
    pixels = PixelFormat.of(found.images, args.levels)
    labels = None if found.labels is None else np.array(found.labels)
    return _with_format(cls, pixels.encode(found.images), labels, pixels, found.notes)


def _with_format(
    cls: type[Model],
    x: np.ndarray,
    labels: np.ndarray | None,
    pixels: PixelFormat,
    notes: tuple[str, ...],
) -> Training:
    """Levels as events of a class of models: vectors if it has the field dim."""
    names = _fields(cls)
    if "dim" in names:
        pixels = dataclasses.replace(pixels, size=x.shape[1:3])
        x = x.reshape(len(x), -1)
    fields = {"levels": pixels.levels} if "levels" in names else {}
    return Training(x, labels, pixels, fields, notes)


def _is_image_shaped(x: np.ndarray) -> bool:
    return x.ndim == 3 or (x.ndim == 4 and x.shape[3] == 3)


def _is_of_8_bits(x: np.ndarray) -> bool:
    """Whether an array has numbers, and all are whole ones from 0 to 255."""
    if not x.size or not (x.min() >= 0 and x.max() <= 255):  # NaN too
        return False
    return x.dtype.kind != "f" or bool((x == np.floor(x)).all())


def _size(args: Namespace) -> tuple[int, int] | None:
    """The option --size as height and width."""
    if args.size is None:
        return None
    try:
        return as_size(args.size)
    except ValueError as error:
        raise ValueError(f"--{error}") from None


def _fields(cls: type[Model]) -> set[str]:
    return {field.name for field in dataclasses.fields(cls)}
