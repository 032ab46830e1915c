"""Drawings of eight kinds of things by many people, as black-and-white images."""

from __future__ import annotations

import lzma
from pathlib import Path
from typing import NamedTuple

import numpy as np

FILE = Path(__file__).with_name("quick_draw.xz")
_NAMES = ("apple", "bird", "cat", "clock", "frog", "rainbow", "train", "tree")
_EACH, _TRAIN = 1000, 800  # drawings of a kind, and those to learn from
_SHAPE = (28, 28)


class Drawings(NamedTuple):
    """Drawings with their labels: see ``drawings``.

    Attributes:
      images: (n, 28, 28) uint8, where 1 is ink and 0 is paper.
      labels: (n,) names of what is drawn, such as "apple".
      names: the names of the labels, in order.

    >>> drawings().images[0].sum(), drawings().labels[0]
    (np.uint64(97), np.str_('apple'))
    """

    images: np.ndarray
    labels: np.ndarray
    names: tuple[str, ...] = _NAMES

    def split(self) -> tuple[Drawings, Drawings]:
        """The drawings to learn from, the first 800 of each label, and to test with, the last 200.

        >>> train, test = drawings().split()
        >>> len(train.images), len(test.images)
        (6400, 1600)
        """
        train = np.arange(len(self.images)) % _EACH < _TRAIN
        return (
            Drawings(self.images[train], self.labels[train], self.names),
            Drawings(self.images[~train], self.labels[~train], self.names),
        )


def drawings() -> Drawings:
    """8,000 drawings of 28 x 28 pixels: 1,000 each of eight kinds, one kind after another.

    The kinds are apple, bird, cat, clock, frog, rainbow, train and tree. All images differ. A pixel
    is 1 where the grey image of the source is above 127. There is no official split:
    ``drawings().split()`` takes the first 800 of each kind to learn from and the last 200 to test
    with.

    Source: the Quick, Draw! Dataset of Google, its simplified bitmaps
    (https://github.com/googlecreativelab/quickdraw-dataset), made available under the Creative
    Commons Attribution 4.0 licence (https://creativecommons.org/licenses/by/4.0/). Changed here:
    1,000 drawings of each of eight kinds, in black and white.

    >>> found = jaxgen.datasets.drawings()
    >>> found.images.shape, found.names[:2]
    ((8000, 28, 28), ('apple', 'bird'))
    """
    labels = np.repeat(np.array(_NAMES), _EACH)
    packed = np.frombuffer(lzma.decompress(FILE.read_bytes()), np.uint8)
    # whole bytes for a row of pixels, which compress better than rows without gaps
    rows = packed.reshape(len(labels), _SHAPE[0], -1)
    return Drawings(np.unpackbits(rows, axis=2, count=_SHAPE[1]), labels)
