"""Writing of images: one grid, or a folder with a file for each."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxgen.core import inputs, places
from jaxgen.core.bars import bar
from jaxgen.core.places import Message
from jaxgen.data import output
from jaxgen.data.images.array_files import eight_bits

_BETWEEN = 128  # the grey between the images of a grid
_ENDING = ".png"


def grid(images: Any, columns: int | None = None, padding: int = 1) -> np.ndarray:
    """The images side by side, as one image of 8 bits, row by row.

    Args:
      images: (n, height, width), or (n, height, width, 3) with colours; numbers are as in
        ``read_images``.
      columns: number of images in a row; by default about as many as there are rows.
      padding: pixels of grey between the images and around them.

    Raises:
      TypeError, ValueError: an argument of the wrong kind, shape or range.

    >>> grid(np.zeros((6, 28, 28), np.uint8)).shape
    (59, 88)
    """
    return _grid(eight_bits(images, "images"), columns, padding)


def _grid(pixels: np.ndarray, columns: int | None = None, padding: int = 1) -> np.ndarray:
    """The grid of images of 8 bits, whose values stay as they are."""
    n, height, width = pixels.shape[:3]
    default = math.ceil(math.sqrt(n))
    columns = default if columns is None else inputs.as_count(columns, "columns", 1)
    padding = inputs.as_count(padding, "padding")
    rows = -(-n // columns)
    shape = (rows * (height + padding) + padding, columns * (width + padding) + padding)
    sheet = np.full((*shape, *pixels.shape[3:]), _BETWEEN, np.uint8)
    for i, one in enumerate(pixels):
        top, left = (
            padding + k * (side + padding)
            for k, side in zip(divmod(i, columns), (height, width), strict=True)
        )
        sheet[top : top + height, left : left + width] = one
    return sheet


def write_images(
    images: Any, path: str | os.PathLike[str], *, labels: Sequence[Any] | None = None
) -> None:
    """Write images as one grid, to a path that ends in .png, or as files in a new folder.

    The files of a folder are 0.png, 1.png and so on, with zeros in front for one length. Images of
    0 and 255 alone become files of one bit for each pixel.

    Args:
      images: (n, height, width), or (n, height, width, 3) with colours; numbers are as in
        ``read_images``.
      path: a file that ends in .png, or a folder, which must be new or empty.
      labels: for a folder, the label of each image, which is then in a subfolder of that name.

    Raises:
      ValueError: the path has another ending, a folder is not empty, or a label cannot be the name
        of a folder.
      OSError: a file cannot be written.

    >>> write_images(np.zeros((6, 28, 28), np.uint8), "grid.png")
    """
    write_pixels(eight_bits(images, "images"), path, labels)


def write_pixels(
    pixels: np.ndarray, path: str | os.PathLike[str], labels: Sequence[Any] | None = None
) -> None:
    """Write images of 8 bits as ``write_images`` does, their values as they are.

    Args:
      pixels: (n, height, width) or (n, height, width, 3), uint8; 1 is nearly black, even if no
        value is larger.
      path, labels: as in ``write_images``.

    Raises:
      ValueError, OSError: as in ``write_images``.

    >>> write_pixels(np.ones((6, 28, 28), np.uint8), "dark.png")
    """
    check_images_output(path)
    path = Path(path)
    if path.suffix:
        if labels is not None:
            raise ValueError("labels are for a folder: a grid has none")
        _write(_grid(pixels), path)
        return
    names = None if labels is None else _as_folders(labels, len(pixels))
    digits = len(str(len(pixels) - 1))
    path.mkdir(exist_ok=True)
    numbers = bar("images", range(len(pixels)), leave=False)
    for i in numbers:
        folder = path if names is None else path / names[i]
        folder.mkdir(exist_ok=True)
        # the folder is new or empty, and listing it for each image would take n^2 steps
        _write(pixels[i], folder / f"{i:0{digits}}{_ENDING}", remove_stale=False)


def check_images_output(
    path: str | os.PathLike[str], others: Iterable[str | os.PathLike[str] | None] = ()
) -> None:
    """Raise if ``write_images`` could not write to the path; for use before long work.

    Args:
      path: the file or folder to write.
      others: other files that the work reads or writes, which must not be the same file.

    Raises:
      ValueError, OSError: as in ``write_images``.

    >>> check_images_output("grid.png", others=["events.csv"])
    """
    path = Path(path)
    if path.suffix.lower() == _ENDING:
        output.writable(path, others)
    elif path.suffix:
        raise ValueError(
            f"{path}: images need a file that ends in .png, for a grid, or a folder, without an "
            f"ending; got {path.suffix!r}"
        )
    elif path.is_dir():
        if any(path.iterdir()):
            raise ValueError(f"{path}: the folder must be new or empty, and it has files")
    elif path.exists():
        raise NotADirectoryError(f"cannot write {path}: it is a file, and no folder")
    else:
        output.writable(path, others)


def is_folder_name(name: str) -> bool:
    """Whether a label can be the name of a folder that ``read_images`` reads.

    >>> is_folder_name("apple"), is_folder_name("a/b"), is_folder_name(".a")
    (True, False, False)
    """
    marks = "/\\\0"
    if os.name == "nt":  # which takes off a dot or a space at the end
        if name.endswith((" ", ".")):
            return False
        marks += '<>:"|?*'
    return bool(name) and not name.startswith(".") and not any(mark in name for mark in marks)


def _as_folders(labels: Sequence[Any], count: int) -> list[str]:
    """Labels as names of folders.

    Raises:
      ValueError: there is not one for each image, or one cannot be the name of a folder.
    """
    names = [str(label) for label in labels]
    if len(names) != count:
        raise ValueError(f"labels must have one entry for each of {count} images, got {len(names)}")
    for row, name in enumerate(names):
        if not is_folder_name(name):
            wanted = f"labels must be names of folders, but {name!r} of "
            raise ValueError(Message(wanted, places.row(row), " cannot be one"))
    return names


def _write(pixels: np.ndarray, path: Path, remove_stale: bool = True) -> None:
    """Write one image, (height, width) or (height, width, 3), as a PNG."""
    from PIL import Image

    image = Image.fromarray(pixels)
    if pixels.ndim == 2 and np.isin(pixels, (0, 255)).all():
        image = image.convert("1")
    with output.write_atomically(path, remove_stale=remove_stale) as file:
        image.save(file, format="PNG")
