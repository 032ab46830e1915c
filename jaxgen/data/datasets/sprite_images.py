"""Images of one shape each, made from five known factors."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np

_SIZE = 32  # pixels of a side
_FINE = 8  # points in a pixel along each axis, of which most decide its value
_RADII = (2.5, 4.0, 5.5, 7.0)  # in pixels, of a disc of about the area
_FIRST, _STEP = 9, 2  # the first place of a centre along an axis, and the distance to the next
_SHAPES = ("square", "ellipse", "heart")
_COUNTS = {"shape": len(_SHAPES), "scale": len(_RADII), "orientation": 8, "x": 8, "y": 8}


class Sprites(NamedTuple):
    """Images with the factors that they are made from: see ``sprites``.

    Attributes:
      images: (n, 32, 32) uint8 of 0 and 1.
      factors: (n, 5) whole numbers, a column for each factor.
      names: the names of the factors: "shape", "scale", "orientation", "x" and "y".

    >>> sprites().factors.max(0)
    array([2, 3, 7, 7, 7])
    """

    images: np.ndarray
    factors: np.ndarray
    names: tuple[str, ...] = tuple(_COUNTS)


def sprites() -> Sprites:
    """6,144 images of 32 x 32 pixels, one for each combination of five factors.

    - "shape": 0 is a square, 1 an ellipse and 2 a heart.
    - "scale": 0 to 3, from small to large.
    - "orientation": 0 to 7, the number of eighths of a turn, clockwise.
    - "x" and "y": 0 to 7, the place of the centre, two pixels apart, to the right and downwards.

    The last factor changes fastest. As in dSprites, whose construction this follows, a square looks
    the same after two eighths of a turn and an ellipse after four, so some images are equal: the
    orientation of a square is known modulo 2 only. A random split has equal images in both parts.

    Source: after Matthey, Higgins, Hassabis and Lerchner 2017, "dSprites: disentanglement testing
    sprites dataset"; the images are drawn by this function.

    >>> found = jaxgen.datasets.sprites()
    >>> found.images.shape, found.names
    ((6144, 32, 32), ('shape', 'scale', 'orientation', 'x', 'y'))
    """
    factors = np.array(list(itertools.product(*map(range, _COUNTS.values()))))
    side = _COUNTS["x"]
    images = np.zeros((len(factors) // side**2, side, side, _SIZE, _SIZE), np.uint8)
    middle = _SIZE // 2
    turns = 2 * np.pi / _COUNTS["orientation"] * np.arange(_COUNTS["orientation"])
    settings = itertools.product(_SHAPES, _RADII, turns)
    for i, setting in enumerate(settings):
        centred = _drawn(*setting)
        for x, y in itertools.product(range(side), repeat=2):
            right, down = (_FIRST + _STEP * step - middle for step in (x, y))
            images[i, x, y] = np.roll(centred, (down, right), (0, 1))
    return Sprites(images.reshape(-1, _SIZE, _SIZE), factors)


def _drawn(shape: str, radius: float, turn: float) -> np.ndarray:
    """A shape in the middle of an image, (32, 32) uint8 of 0 and 1, turned clockwise."""
    points = (np.arange(_SIZE * _FINE) + 0.5) / _FINE - _SIZE / 2
    right, down = np.meshgrid(points / radius, points / radius)
    u = np.cos(turn) * right + np.sin(turn) * down
    v = -np.sin(turn) * right + np.cos(turn) * down  # downwards, before the turn
    if shape == "square":
        inside = np.maximum(abs(u), abs(v)) <= 0.85
    elif shape == "ellipse":
        inside = (u / 1.25) ** 2 + (v / 0.7) ** 2 <= 1
    else:
        u, v = 1.1 * u, 0.15 - 1.1 * v
        inside = (u**2 + v**2 - 1) ** 3 <= u**2 * v**3
    cells = inside.reshape(_SIZE, _FINE, _SIZE, _FINE).mean((1, 3))
    return (cells > 0.5).astype(np.uint8)
