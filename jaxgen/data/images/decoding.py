"""The pixels of one image file, whatever its kind."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

ENDINGS = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
_GREY = ("1", "L")
_DEEP = ("I", "I;16", "I;16B", "I;16L", "I;16N")  # grey of 16 bits
_BITS = 258  # the tag of TIFF for the bits of a number
_ORIENTATION = 0x0112  # the tag of EXIF; from 5 on, width and height are exchanged


def is_image(path: Path) -> bool:
    """Whether the ending of a path is that of an image.

    >>> is_image(Path("horse.JPG"))
    True
    """
    return path.suffix.lower() in ENDINGS


def size_of(path: Path) -> tuple[int, int]:
    """The height and width of an image file, by its header.

    Raises:
      ValueError, OSError: as in ``decoded``.
    """
    with _opened(path) as image:
        width, height = image.size
        turned = image.getexif().get(_ORIENTATION, 1) >= 5
        return (width, height) if turned else (height, width)


def decoded(path: Path, size: tuple[int, int] | None = None) -> np.ndarray:
    """The pixels of an image file, uint8 (height, width), or (height, width, 3) with colours.

    A file is grey if it is stored so, or if it has a palette of greys. The orientation in EXIF is
    applied, transparent pixels are put on white, 16 bits become 8, and other colours, such as CMYK,
    become RGB.

    Args:
      path: the file.
      size: height and width to cut and scale the image to; None keeps it as it is.

    Raises:
      ValueError: it is damaged or no image, has several frames, or has numbers that 8 bits cannot
        stand for; the message names the file.
      OSError: there is no such file, or it cannot be read.
    """
    from PIL import ImageOps

    with _opened(path) as image:
        image.load()
        _check_bits(image)
        plain = _plain(ImageOps.exif_transpose(image))
        if size is not None:
            plain = scaled(plain, size)
        return np.asarray(plain)


def scaled(image: Any, size: tuple[int, int]) -> Any:
    """The middle part of an image that has the shape of a size, scaled to it, with means of pixels.

    Args:
      image: an image of Pillow, grey or RGB.
      size: height and width.
    """
    from PIL import Image, ImageOps

    height, width = size
    if image.size == (width, height):
        return image
    return ImageOps.fit(image, (width, height), method=Image.Resampling.BOX)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A context with an image of Pillow, whose errors name the file."""
    from PIL import Image

    with open(path, "rb") as file:  # so that an OSError from here is one of the file system
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", Image.DecompressionBombWarning)
                with Image.open(file) as image:
                    frames = getattr(image, "n_frames", 1)
                    if frames > 1 and image.format != "MPO":  # a camera's second picture
                        raise _Refused(f"it has {frames} frames, and an image has one")
                    yield image
        except _Refused as error:
            raise ValueError(f"{path}: {error}") from None
        except Image.UnidentifiedImageError:
            raise ValueError(f"{path}: no image, or damaged at its beginning") from None
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            found = re.search("[0-9]+", str(error))  # Pillow tells the number in its sentence alone
            pixels = f"{int(found[0]):,}" if found else "too many"
            most = Image.MAX_IMAGE_PIXELS or 0
            raise ValueError(
                f"{path}: an image of {pixels} pixels, and at most {most:,} are read"
            ) from None
        except MemoryError:
            raise
        except Exception as error:  # Pillow raises various errors for a damaged file
            raise ValueError(f"{path}: a damaged image: {error}") from error


class _Refused(Exception):
    """An image that is not damaged and still cannot be read."""


def _check_bits(image: Any) -> None:
    """Raise for a TIFF of 32 bits, which Pillow opens in the same mode as some of 16 bits."""
    bits = image.tag_v2.get(_BITS, (1,)) if image.format == "TIFF" else (1,)
    if image.mode == "I" and max(bits) > 16:
        raise _Refused(f"it holds whole numbers of {max(bits)} bits, and at most 16 can be read")


def _plain(image: Any) -> Any:
    """An image of Pillow of mode "L" or "RGB"."""
    if image.mode in _DEEP:
        return _from_16_bits(image)
    if image.mode == "F":
        raise _Refused("it holds numbers with fractions, which 8 bits cannot stand for")
    if "transparency" in image.info or image.mode in ("LA", "La", "PA", "RGBA", "RGBa"):
        image = _on_white(image)
    if image.mode in _GREY:
        return image.convert("L")
    has_palette, image = image.mode == "P", image.convert("RGB")
    return image.getchannel(0) if has_palette and _has_greys_alone(image) else image


def _on_white(image: Any) -> Any:
    """An image without transparency, on a white background."""
    from PIL import Image

    grey = image.mode in ("1", "L", "LA", "La")
    colours = image.convert("RGBA")
    if image.mode in ("P", "PA"):
        grey = _has_greys_alone(colours.convert("RGB"))
    white = Image.new("RGBA", colours.size, "white")
    flat = Image.alpha_composite(white, colours)
    return flat.getchannel(0) if grey else flat.convert("RGB")


def _has_greys_alone(image: Any) -> bool:
    array = np.asarray(image)
    return bool((array == array[..., :1]).all())


def _from_16_bits(image: Any) -> Any:
    from PIL import Image

    array = np.asarray(image).astype(np.int64)
    if array.min() < 0 or array.max() > 65535:
        raise _Refused(f"it holds numbers from {array.min()} to {array.max()}, not of 16 bits")
    return Image.fromarray(((array + 128) // 257).astype(np.uint8))
