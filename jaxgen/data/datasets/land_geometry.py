"""The outlines of the world's land as tables: triangles to draw from, and edges to locate points.

All functions run once on the host, in NumPy with float64. Angles are degrees of longitude and
latitude unless a name says otherwise. ``land.txt`` gives the source of the outlines.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import NamedTuple

import numpy as np

MICRODEGREES = 1e6


class Outlines(NamedTuple):
    """Natural Earth's land, as polygons inside [-180, 180] x [-90, 90]."""

    start: np.ndarray  # (edges, 2) longitude and latitude; land lies to the left of start -> end
    end: np.ndarray  # (edges, 2)
    triangles: np.ndarray  # (triangles, 3, 2), which tile the land


@functools.cache
def outlines(resolution: str) -> Outlines:
    """The outlines in the package, at "110m" or "50m" (1:110 or 1:50 million)."""
    with np.load(Path(__file__).with_name("land.npz"), allow_pickle=False) as file:
        vertices = file[f"vertices_{resolution}"] / MICRODEGREES
        ring_ends = file[f"ring_ends_{resolution}"]
        triangles = file[f"triangles_{resolution}"]
    following = np.arange(1, len(vertices) + 1)
    following[ring_ends - 1] = np.concatenate([[0], ring_ends[:-1]])
    return Outlines(vertices, vertices[following], vertices[triangles])


@functools.cache
def areas(resolution: str) -> tuple[float, float, float]:
    """Integrals over the land of 1, cos(lat) and cos(lat) log cos(lat), in square degrees.

    By Green's theorem the integral of f(lat) is minus the sum over edges of the change in longitude
    times the mean of F along the edge, where F' = f. F is sin for cos, and
    sin log cos + atanh sin - sin for cos log cos. The means are Gauss-Legendre sums, which are
    exact up to rounding: F is smooth except at the pole, where all edges have constant latitude.
    """
    start, end, _ = outlines(resolution)
    nodes, weights = np.polynomial.legendre.leggauss(16)
    latitude = np.deg2rad(start[:, 1:] + (end - start)[:, 1:] * (nodes + 1) / 2)
    sine = np.sin(latitude)
    # sin log cos + atanh sin, in a form that stays finite at the poles
    log_part = (_xlogx(1 + sine) - _xlogx(1 - sine)) / 2
    per_radian = np.rad2deg(1.0)
    turn = (start - end)[:, 0]
    flat, cosine, cosine_log = (
        float(turn @ (antiderivative @ weights / 2)) * per_radian
        for antiderivative in (latitude, sine, log_part - sine)
    )
    return flat, cosine, cosine_log


def half_triangles(resolution: str) -> np.ndarray:
    """Triangles with one horizontal side, the base, that tile the land.

    Returns:
      (n, 5): apex longitude, apex latitude, and latitude, west and east longitude of the base.
    """
    corners = outlines(resolution).triangles
    order = np.argsort(corners[:, :, 1], axis=1)
    low, middle, high = np.moveaxis(np.take_along_axis(corners, order[:, :, None], axis=1), 1, 0)
    share = (middle[:, 1] - low[:, 1]) / (high[:, 1] - low[:, 1])
    opposite = low[:, 0] + share * (high[:, 0] - low[:, 0])
    west, east = np.minimum(middle[:, 0], opposite), np.maximum(middle[:, 0], opposite)
    halves = [np.stack([a[:, 0], a[:, 1], middle[:, 1], west, east], 1) for a in (low, high)]
    table = np.concatenate(halves)
    return table[(table[:, 1] != table[:, 2]) & (table[:, 3] < table[:, 4])]


def alias_table(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Vose's alias table (1991) for draws of items in proportion to their weights.

    A draw takes a uniform column i; the item is i with probability keep[i], otherwise alias[i].
    Weights are not summed up, so that there is no rounding error from that.

    Returns:
      keep (n,) and alias (n,).
    """
    n = len(weights)
    keep = weights * (n / weights.sum())
    alias = np.arange(n)
    small, large = list(np.flatnonzero(keep < 1)), list(np.flatnonzero(keep >= 1))
    while small and large:
        i, j = small.pop(), large[-1]
        alias[i] = j
        keep[j] -= 1 - keep[i]
        if keep[j] < 1:
            small.append(large.pop())
    keep[small + large] = 1.0  # these differ from 1 by rounding alone
    return keep, alias


class CellEdges(NamedTuple):
    """For each cell of a grid, the edges that decide which of its points are land."""

    cells: np.ndarray  # (180 / cell, 360 / cell, 2) first row in edges, and one past the last
    edges: np.ndarray  # (rows, 4) south latitude and longitude, north latitude and longitude
    most: int  # edges of the cell with the most edges


@functools.cache
def cell_edges(resolution: str, cell: float, dtype: np.dtype) -> CellEdges:
    """The edges of each cell of a grid.

    A point is on land if a ray to the west, within its cell, crosses an odd number of edges. Edges
    are the coast inside the cell's column, and pieces of the column's west side that have land just
    east of them. Latitude intervals are half-open, so that a common end of two edges counts once.

    Args:
      resolution: "110m" or "50m".
      cell: side of a cell in degrees, a power of two, so that cell numbers are exact.
      dtype: dtype of the edges; an edge that rounding makes horizontal is dropped.
    """
    start, end, _ = outlines(resolution)
    west_first = (start[:, 0] <= end[:, 0])[:, None]
    west, east = np.where(west_first, start, end), np.where(west_first, end, start)
    column, inside = _cut_at_meridians(west, east, cell)
    side_column, sides = _west_sides(west, east, cell)
    column = np.concatenate([column, side_column])
    edges = np.concatenate([inside, sides])  # (edges, 2 ends, longitude and latitude)

    order = np.argsort(edges[:, :, 1], axis=1)
    edges = np.take_along_axis(edges, order[:, :, None], axis=1)[:, :, ::-1].reshape(-1, 4)
    edges = edges.astype(dtype)
    rising = edges[:, 0] < edges[:, 2]
    column, edges = column[rising], edges[rising]

    bands = round(180 / cell)
    first, last = (np.floor(edges[:, i] / cell).astype(int) + bands // 2 for i in (0, 2))
    which, band = _ranges(first, last)
    columns = round(360 / cell)
    number = band * columns + column[which]
    order = np.argsort(number, kind="stable")
    stops = np.cumsum(np.bincount(number, minlength=bands * columns))
    starts = np.concatenate([[0], stops[:-1]])
    cells = np.stack([starts, stops], axis=1).reshape(bands, columns, 2)
    return CellEdges(cells, edges[which[order]], int((stops - starts).max()))


def _cut_at_meridians(west, east, cell):
    """The edges cut at the sides of columns, as column numbers and (n, 2, 2) ends."""
    # without vertical edges on a column's west side, which _west_sides includes
    slanted = west[:, 0] < east[:, 0]
    upright = ~slanted & (np.floor(west[:, 0] / cell) * cell < west[:, 0])
    west, east = west[slanted | upright], east[slanted | upright]
    first = np.floor(west[:, 0] / cell).astype(int)
    last = np.ceil(east[:, 0] / cell).astype(int) - 1
    which, k = _ranges(first, np.maximum(first, last))
    west, east = west[which], east[which]
    left, right = k * cell, (k + 1) * cell
    cut_left = np.stack([left, _latitude(west, east, left)], 1)
    cut_right = np.stack([right, _latitude(west, east, right)], 1)
    begin = np.where((west[:, 0] < left)[:, None], cut_left, west)
    finish = np.where((east[:, 0] > right)[:, None], cut_right, east)
    return k + round(180 / cell), np.stack([begin, finish], axis=1)


def _west_sides(west, east, cell):
    """Pieces of west sides of columns with land just east: column numbers and (n, 2, 2) ends."""
    columns, sides = [], []
    for column in range(round(360 / cell)):
        meridian = column * cell - 180
        crossing = (west[:, 0] <= meridian) & (meridian < east[:, 0])
        latitude = np.sort(_latitude(west[crossing], east[crossing], meridian))
        # even-odd: land between the first and second crossing, the third and fourth, ...
        pair = latitude.reshape(-1, 2)
        sides.append(np.stack([np.full_like(pair, meridian), pair], axis=2))
        columns.append(np.full(len(pair), column))
    return np.concatenate(columns), np.concatenate(sides)


def _latitude(west, east, longitude):
    """The latitude at which edges cross a longitude; all callers get the same bits."""
    width = east[:, 0] - west[:, 0]
    share = (longitude - west[:, 0]) / np.where(width > 0, width, 1)
    return west[:, 1] + share * (east[:, 1] - west[:, 1])


def _ranges(first, last):
    """All pairs (i, k) with first[i] <= k <= last[i], as two arrays."""
    count = last - first + 1
    which = np.repeat(np.arange(len(first)), count)
    begin = np.repeat(np.cumsum(count) - count, count)
    return which, first[which] + np.arange(len(which)) - begin


def _xlogx(x):
    return np.where(x > 0, x * np.log(np.where(x > 0, x, 1)), 0)
