"""Reading of images: files, folders of files, and arrays."""

from __future__ import annotations

import collections
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxgen.core import inputs
from jaxgen.core.bars import bar
from jaxgen.data.images import array_files, folders
from jaxgen.data.images.decoding import ENDINGS, decoded, is_image, scaled, size_of

_ARRAYS = (".npy", ".npz")
_SHOWN = 5  # most sizes that an error lists
_LARGEST = 2**14  # pixels of a side


class Images(NamedTuple):
    """Images of 8 bits: see ``read_images``.

    Attributes:
      images: (n, height, width) uint8 if all are grey, else (n, height, width, 3).
      labels: their labels, n strings or whole numbers; None if they were not asked for.
      files: the name of each image's file within the folder; None if they were not files.
      notes: sentences about what was left out or changed.

    >>> read_images(np.zeros((5, 8, 8), np.uint8)).labels is None
    True
    """

    images: np.ndarray
    labels: list[Any] | None = None
    files: list[str] | None = None
    notes: tuple[str, ...] = ()


def read_images(
    source: Any,
    *,
    size: int | tuple[int, int] | None = None,
    labels: bool = False,
    mode: str | None = None,
) -> Images:
    """The images of a folder, of a file or of an array, as one array of 8 bits.

    - A folder holds files that end in .png, .jpg, .jpeg, .gif, .bmp, .tif, .tiff or .webp, also in
      subfolders and in folders that links lead to. They come in the order of their names. Other
      files, broken links, and files and folders whose names begin with a dot are left out.
    - One such file is one image.
    - An IDX file, such as those of MNIST, may be compressed by gzip. Its labels are in the file
      beside it, with "labels-idx1" in its name for "images-idx3".
    - An .npz holds "x" or "images" or one array of images, and labels in "y" or "labels", which are
      numbers of "names" if that is there. An .npy holds one array.
    - Arrays are (n, height, width), or (n, height, width, 3) with colours. If they hold 0 and 1
      alone, 1 becomes 255, and numbers between are shares of 255; else they are whole numbers from
      0 to 255.

    The images are grey if all files are stored in grey or in black and white. If some are in
    colour, all become RGB, and ``notes`` says so. Transparent pixels are put on white, 16 bits
    become 8, palettes and CMYK become RGB (or grey, for a palette of greys), and the orientation
    in EXIF is applied. Files with several frames, such as an animated GIF, are refused.

    Args:
      source: a path or an array.
      size: height and width to scale the images to, of at most 16,384 pixels, or one number for
        both. Of an image of another shape the middle part of this shape is taken. Pixels become
        means of those that they cover.
      labels: whether to return labels: those of a folder are the names of its subfolders.
      mode: "L" or "RGB" to make all images grey or coloured.

    Raises:
      OSError: there is no such file, or it cannot be read.
      ValueError: a file is damaged or no image, the images have several sizes and ``size`` is None,
        there are no images, or the source has no labels; the message names the file.
      TypeError: an argument of the wrong kind.

    >>> jaxgen.data.write_images(np.zeros((2, 4, 4), np.uint8), "shots", labels=["a", "b"])
    >>> found = read_images("shots", labels=True)
    >>> found.images.shape, found.labels, found.files
    ((2, 4, 4), ['a', 'b'], ['a/0.png', 'b/1.png'])
    """
    if mode not in (None, "L", "RGB"):
        raise ValueError(f'mode must be "L", "RGB" or None, got {mode!r:.40}')
    size = None if size is None else as_size(size)
    if not isinstance(source, (str, os.PathLike)):
        if labels:
            raise TypeError("labels are those of files: an array has none")
        return converted(array_files.eight_bits(source, "images"), None, size, mode)
    path = Path(source)
    if path.is_dir():
        return _read_folder(path, size, labels, mode)
    if path.suffix.lower() in _ARRAYS:
        return converted(*array_files.read_numpy(path, labels), size, mode)
    if array_files.is_idx(path):
        return converted(*array_files.read_idx(path, labels), size, mode)
    if not is_image(path):
        with open(path, "rb"):  # raises if there is no such file
            pass
        known = ", ".join((*ENDINGS, *_ARRAYS))
        raise ValueError(
            f"{path}: must be a folder of images, an IDX file, or a file whose ending is one of "
            f"{known}"
        )
    if labels:
        raise ValueError(f"{path}: labels are the names of subfolders, and this is one image")
    return _read_files(path.parent, [path], None, size, mode, ())


def holds_images(path: str | os.PathLike[str]) -> bool:
    """Whether a path is an image, an IDX file of images, or a folder that has an image in it.

    >>> holds_images("events.csv")
    False
    """
    path = Path(path)
    if path.is_dir():
        return folders.has_images(path)
    return path.is_file() and (is_image(path) or array_files.is_idx(path))


def image_files(path: str | os.PathLike[str]) -> list[str] | None:
    """The names of the files of images that ``read_images`` reads, in order, within a folder.

    None if the images are in one file.

    >>> image_files("events.csv") is None
    True
    """
    folder = Path(path)
    if not folder.is_dir():
        return [folder.name] if is_image(folder) else None
    return [file.relative_to(folder).as_posix() for file in folders.images_in(folder)]


def as_size(size: Any) -> tuple[int, int]:
    """A size as height and width, of at least one pixel each.

    >>> as_size(28)
    (28, 28)
    """
    both = (size, size) if np.ndim(size) == 0 else tuple(size)
    if len(both) != 2:
        raise ValueError(f"size must be one number, or height and width; got {size!r:.60}")
    height, width = (inputs.as_count(one, "size", 1) for one in both)
    if max(height, width) > _LARGEST:
        raise ValueError(
            f"size must be at most {_LARGEST:,} pixels a side, got {max(height, width):,}"
        )
    return height, width


def _read_folder(
    folder: Path, size: tuple[int, int] | None, labels: bool, mode: str | None
) -> Images:
    files = folders.images_in(folder)
    if not files:
        raise ValueError(
            f"{folder}: the folder must hold images, files that end in {', '.join(ENDINGS)}; it "
            "has none"
        )
    names = None
    if labels:
        alone = next((file for file in files if file.parent == folder), None)
        if alone is not None:
            raise ValueError(
                f"{alone}: labels are the names of subfolders, and this image is in none"
            )
        names = [file.relative_to(folder).parts[0] for file in files]
        for sub in sorted(folder.iterdir()):
            if sub.is_dir() and sub.name not in names and not sub.name.startswith("."):
                raise ValueError(f"{sub}: the folder of a label must hold images, it has none")
    return _read_files(folder, files, names, size, mode, folders.left_out(folder))


def _read_files(
    folder: Path,
    files: list[Path],
    labels: list[str] | None,
    size: tuple[int, int] | None,
    mode: str | None,
    notes: Sequence[str],
) -> Images:
    # by the headers, before the pixels of many files fill the memory
    sizes = [size_of(file) for file in _with_bar(files, "sizes")]
    if size is None and len(set(sizes)) > 1:
        counts = collections.Counter(sizes).most_common()
        listed = ", ".join(f"{h} x {w} ({k:,})" for (h, w), k in counts[:_SHOWN])
        more = f" and {len(counts) - _SHOWN:,} more" if len(counts) > _SHOWN else ""
        raise ValueError(
            f"{folder}: images must have one size, got (height x width) {listed}{more}; use size= "
            "in Python, or --size, to scale them"
        )
    pixels, coloured = [], 0
    for file in _with_bar(files, "images"):
        one = decoded(file, size)
        coloured += one.ndim == 3
        pixels.append(_in_mode(one, mode))
    grey = len(pixels) - coloured
    if mode is None and coloured and grey:
        pixels = [_in_mode(one, "RGB") for one in pixels]
        are = "is" if coloured == 1 else "are"
        notes = [*notes, f"{_in_words(grey, 'grey ')} became RGB, as {coloured:,} {are} in colour"]
    notes = [*notes, *_colouring(mode, grey, coloured)]
    wanted = size or sizes[0]
    changed = sum(one != wanted for one in sizes)
    if changed:
        notes = [*notes, _scaling(changed, wanted)]
    names = [file.relative_to(folder).as_posix() for file in files]
    return Images(np.stack(pixels), labels, names, tuple(notes))


def converted(
    images: np.ndarray, labels: list[Any] | None, size: tuple[int, int] | None, mode: str | None
) -> Images:
    """Images of an array of 8 bits in a size and a mode; without them as they are.

    Args:
      images: (n, height, width) or (n, height, width, 3), uint8.
      labels: their labels.
      size, mode: as in ``read_images``.

    >>> converted(np.ones((5, 8, 8), np.uint8), None, (4, 4), None).images.max()
    np.uint8(1)
    """
    from PIL import Image

    n, wanted = len(images), size or images.shape[1:3]
    is_scaled, coloured = images.shape[1:3] != wanted, n if images.ndim == 4 else 0
    notes = _colouring(mode, n - coloured, coloured)
    if is_scaled or notes:
        each = (scaled(Image.fromarray(one), wanted) for one in _with_bar(images, "images"))
        images = np.stack([_in_mode(np.asarray(one), mode) for one in each])
    if is_scaled:
        notes = [*notes, _scaling(n, wanted)]
    return Images(images, labels, None, tuple(notes))


def _in_mode(pixels: np.ndarray, mode: str | None) -> np.ndarray:
    """One image, (height, width) or (height, width, 3), as grey or coloured as a mode says."""
    from PIL import Image

    if mode is None or (pixels.ndim == 3) == (mode == "RGB"):
        return pixels
    return np.asarray(Image.fromarray(pixels).convert(mode))


def _colouring(mode: str | None, grey: int, coloured: int) -> list[str]:
    """Sentences about images whose colours a mode changes."""
    if mode == "L" and coloured:
        return [f"{_in_words(coloured)} in colour became grey"]
    return [f"{_in_words(grey, 'grey ')} became RGB"] if mode == "RGB" and grey else []


def _with_bar(items: Any, what: str) -> Any:
    """The items, with a progress bar on a terminal."""
    return bar(what, items, leave=False)


def _scaling(count: int, size: tuple[int, int]) -> str:
    return f"{_in_words(count)} {'was' if count == 1 else 'were'} scaled to {size[0]} x {size[1]}"


def _in_words(count: int, kind: str = "") -> str:
    return f"1 {kind}image" if count == 1 else f"{count:,} {kind}images"
