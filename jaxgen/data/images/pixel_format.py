"""The rule that makes images of 8 bits events of a model, and events images."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np

from jaxgen.core import inputs, places
from jaxgen.core.places import Message
from jaxgen.core.spec import AtLeast, Count, Spec

WHITE = 255  # the largest value of 8 bits


class PixelFormat(Spec):
    """The colours and the levels of images, as a model has them: levels 0 .. levels - 1.

    An image of 8 bits has values v from 0 to 255, and its levels are the whole part of
    v * levels / 256. A level k becomes the value k * 255 / (levels - 1), rounded to one of level k.

    Args:
      mode: "1" for black and white, "L" for grey, "RGB" for three colours; the names of Pillow.
      levels: number of values of a pixel, or of each of its colours, 2 to 256; 2 for "1".
      size: height and width, for a model whose events are vectors; None takes them from the events.

    Raises:
      ValueError: levels do not suit the mode, or are not 2 to 256.

    >>> pixels = PixelFormat("L", levels=4)
    >>> pixels.encode(np.array([[[0, 63, 64, 255]]], np.uint8))
    array([[[0, 0, 1, 3]]], dtype=uint8)
    >>> pixels.decode(np.array([[[0, 0, 1, 3]]]))
    array([[[  0,   0,  85, 255]]], dtype=uint8)
    """

    mode: Literal["1", "L", "RGB"]
    levels: Annotated[int, AtLeast(2)] = 256
    size: tuple[Count, Count] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.levels > 256:
            raise ValueError(f"PixelFormat: levels must be at most 256, got {self.levels}")
        if self.mode == "1" and self.levels != 2:
            raise ValueError(
                f'PixelFormat: mode "1" has 2 levels, as in PixelFormat("1", 2); got {self.levels}'
            )

    @classmethod
    def of(cls, images: np.ndarray, levels: int | None = None) -> PixelFormat:
        """The format of images of 8 bits: 2 levels if all are black and white, else 256.

        Args:
          images: (n, height, width) or (n, height, width, 3), uint8, as ``read_images`` returns
            them. They are all images of a data set, as a part may be black and white by chance.
          levels: the number of levels instead.

        Raises:
          TypeError, ValueError: another shape or dtype, or the levels are not 2 to 256.

        >>> PixelFormat.of(np.array([[[0, 255]]], np.uint8))
        PixelFormat(mode='1', levels=2, size=None)
        """
        check_bytes(images)
        if levels is None:
            levels = 2 if np.isin(images, (0, WHITE)).all() else WHITE + 1
        if np.ndim(images) == 4:
            return cls("RGB", levels)
        return cls("1" if levels == 2 else "L", levels)

    @property
    def colours(self) -> tuple[int, ...]:
        """The last axes of an image: (3,) for RGB, else none."""
        return (3,) if self.mode == "RGB" else ()

    def suits(self, shape: tuple[int, ...]) -> bool:
        """Whether events of a shape are images of the format.

        >>> PixelFormat("L").suits((28, 28)), PixelFormat("RGB").suits((28, 28))
        (True, False)
        """
        if self.size is not None:
            return shape == (int(np.prod((*self.size, *self.colours))),)
        return len(shape) == 2 + len(self.colours) and shape[2:] == self.colours

    def encode(self, images: Any) -> np.ndarray:
        """The levels of images of 8 bits, uint8, in their shape.

        Args:
          images: (n, height, width) or, for RGB, (n, height, width, 3), uint8, as ``read_images``
            returns them. 255 is white, so an array of 0 and 1 is nearly black.

        Raises:
          TypeError, ValueError: another shape or dtype.
        """
        array = check_bytes(images)
        wanted = ("n", "height", "width", *self.colours)
        if array.ndim != len(wanted) or array.shape[3:] != self.colours:
            shape = ", ".join(map(str, wanted))
            raise ValueError(f"images must have shape ({shape}), got {array.shape}")
        levels = (array.astype(np.uint16) * self.levels // (WHITE + 1)).astype(np.uint8)
        return levels if self.size is None else levels.reshape(len(levels), -1)

    def decode(self, events: Any) -> np.ndarray:
        """The images of 8 bits of levels, uint8 (n, height, width) or (n, height, width, 3).

        Numbers between two levels are rounded, and those beyond the levels become the nearest one.

        Args:
          events: (n, *event_shape), with or without fractions.

        Raises:
          TypeError, ValueError: another shape, or NaN.
        """
        array = np.asarray(inputs.numbers(events, "events"))
        if array.ndim < 2 or not self.suits(array.shape[1:]):
            raise ValueError(f"events must be images of {self}, got shape {array.shape}")
        if array.dtype.kind == "f" and np.isnan(array).any():
            row = np.isnan(array).reshape(len(array), -1).any(1).argmax()
            raise ValueError(Message("events must hold no NaN, but ", places.row(row), " has one"))
        if self.size is not None:
            array = array.reshape(len(array), *self.size, *self.colours)
        return self._values()[
            np.rint(array.astype(np.float32)).clip(0, self.levels - 1).astype(int)
        ]

    def _values(self) -> np.ndarray:
        """The value of each level, (levels,) uint8: the one next to an even spacing that
        ``encode`` makes the same level."""
        levels = np.arange(self.levels)
        first = -(-(WHITE + 1) * np.arange(self.levels + 1) // self.levels)
        return (
            np.rint(levels * WHITE / (self.levels - 1))
            .clip(first[:-1], first[1:] - 1)
            .astype(np.uint8)
        )


def check_bytes(images: Any) -> np.ndarray:
    """Images as an array; raises TypeError unless they are uint8.

    >>> check_bytes(np.zeros((1, 2, 2), np.uint8)).shape
    (1, 2, 2)
    """
    array = np.asarray(inputs.numbers(images, "images"))
    if array.dtype != np.uint8:
        raise TypeError(
            f"images must be uint8, with 255 for white, got {array.dtype}; read_images makes an "
            "array so"
        )
    return array


def check_whole(array: np.ndarray, name: str) -> None:
    """Raise unless an array (n, ...) holds whole numbers from 0 to 255."""
    bad = ~((array >= 0) & (array <= WHITE))  # NaN too
    if array.dtype.kind == "f":
        bad |= array != np.floor(array)
    if bad.any():
        place = tuple(np.argwhere(bad)[0])
        has = f" has {array[place]}"
        wanted = f"{name} must hold whole numbers from 0 to {WHITE}, but "
        raise ValueError(Message(wanted, places.row(place[0]), has))
