"""The files of images in a folder, and those that are left out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from jaxgen.data.images.decoding import is_image


def has_images(folder: Path) -> bool:
    """Whether a folder has an image in it.

    >>> jaxgen.data.write_images(np.zeros((1, 4, 4), np.uint8), "some")
    >>> has_images(Path("some"))
    True
    """
    return any(_is_read(path) for path in _entries(folder))


def images_in(folder: Path) -> list[Path]:
    """The images of a folder and its subfolders, also behind links, in sorted order.

    Files and folders whose names begin with a dot are left out.

    >>> jaxgen.data.write_images(np.zeros((1, 4, 4), np.uint8), "one")
    >>> [path.name for path in images_in(Path("one"))]
    ['0.png']
    """
    return sorted(path for path in _entries(folder) if _is_read(path))


def left_out(folder: Path) -> list[str]:
    """Sentences about what a folder holds beside the images that are read.

    Hidden files, and hidden folders without images, are not mentioned.

    >>> jaxgen.data.write_images(np.zeros((1, 4, 4), np.uint8), "alone")
    >>> left_out(Path("alone"))
    []
    """
    others: list[Path] = []
    links: list[Path] = []
    hidden: list[Path] = []
    for path in _entries(folder):
        if path.name.startswith("."):
            if path.is_dir() and has_images(path):
                hidden.append(path)
        elif not path.exists():
            links.append(path)
        elif not _is_read(path):
            others.append(path)
    sentences = []
    for one, many, paths in (
        ("file that is no image", "files that are no images", others),
        ("broken link", "broken links", links),
        ("hidden folder with images", "hidden folders with images", hidden),
    ):
        if paths:
            first = min(paths).relative_to(folder)
            which = f"{one}, {first}," if len(paths) == 1 else f"{many}, such as {first},"
            sentences.append(f"{len(paths):,} {which} left out")
    return sentences


def _is_read(path: Path) -> bool:
    return is_image(path) and not path.name.startswith(".") and path.is_file()


def _entries(folder: Path, above: tuple[Path, ...] = ()) -> Iterator[Path]:
    """The files, broken links and hidden folders under a folder.

    A link to a folder that it lies in is not followed, as its files would have no end.
    """
    real = folder.resolve()
    if real in above:
        return
    for path in folder.iterdir():
        if path.is_dir() and not path.name.startswith("."):
            yield from _entries(path, (*above, real))
        else:
            yield path
