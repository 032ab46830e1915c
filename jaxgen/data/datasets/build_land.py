"""Make ``land.npz`` from the npm package world-atlas. For maintainers; users do not run it.

    pip install "shapely>=2.1"
    npm pack world-atlas@2.0.2 && tar xzf world-atlas-2.0.2.tgz
    python -m jaxgen.data.datasets.build_land package

The TopoJSON files hold Natural Earth's outlines on the sphere, without cuts at the antimeridian and
the south pole. This script unwraps each ring, closes it along latitude -90 if it goes around the
pole, cuts it at longitude +-180, and triangulates it. For each resolution it writes

    vertices_<resolution>   (n, 2) int32, longitude and latitude in microdegrees
    ring_ends_<resolution>  (rings,) int32, one past the last vertex of each ring; outer rings run
                            anticlockwise and holes clockwise; the last vertex joins the first
    triangles_<resolution>  (triangles, 3) uint16, rows of ``vertices``
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

MICRODEGREES = 1e6
POLE = -90.0


def decode_rings(topology: dict[str, Any]) -> list[list[np.ndarray]]:
    """The polygons of a TopoJSON land file, as lists of closed (n, 2) rings in degrees."""
    scale, translate = (np.array(topology["transform"][k]) for k in ("scale", "translate"))
    arcs = [np.cumsum(arc, axis=0) * scale + translate for arc in topology["arcs"]]

    def ring(numbers):
        # a negative number ~i is arc i backwards; consecutive arcs share their end point
        parts = [arcs[i] if i >= 0 else arcs[~i][::-1] for i in numbers]
        return np.concatenate([parts[0], *(part[1:] for part in parts[1:])])

    (geometry,) = topology["objects"]["land"]["geometries"]
    return [[ring(numbers) for numbers in polygon] for polygon in geometry["arcs"]]


def unwrap(ring: np.ndarray) -> np.ndarray | None:
    """The ring with continuous longitude, closed along the south pole if it goes around it.

    None for the line just above the pole that the 50m file has as a hole of Antarctica.
    """
    steps = np.diff(ring[:, 0])
    steps -= 360 * np.round(steps / 360)
    longitude = ring[0, 0] + np.concatenate([[0.0], np.cumsum(steps)])
    ring = np.stack([longitude, ring[:, 1]], axis=1)
    if abs(steps.sum()) < 180:
        return ring
    if ring[:, 1].max() < -89.9:
        return None
    corners = [[longitude[-1], POLE], [longitude[0], POLE]]
    return np.concatenate([ring, corners, ring[:1]])


def cut(ring: np.ndarray) -> Any:
    """The area inside a ring, as shapely polygons in [-180, 180] x [-90, 90]."""
    import shapely

    unwrapped = unwrap(ring)
    if unwrapped is None:
        return shapely.MultiPolygon()
    whole = shapely.make_valid(shapely.Polygon(unwrapped))
    parts = []
    for turn in (-360, 0, 360):
        part = shapely.intersection(whole, shapely.box(turn - 180, -90, turn + 180, 90))
        parts.append(shapely.transform(part, lambda x, turn=turn: x - [turn, 0]))
    return shapely.union_all(parts)


def simple_polygons(polygon: list[np.ndarray]) -> list[Any]:
    """A TopoJSON polygon as shapely polygons in the box, with vertices in microdegrees."""
    import shapely

    outer, *holes = polygon
    # holes are cut separately: after unwrapping, the outer ring may be 360 degrees away from them
    land = shapely.difference(cut(outer), shapely.union_all([cut(hole) for hole in holes]))
    # snapping to the stored grid keeps the outline valid; plain rounding may not
    land = shapely.set_precision(land, 1 / MICRODEGREES)
    return [p for p in shapely.get_parts(land) if p.geom_type == "Polygon" and p.area > 0]


def build(topology: dict[str, Any]) -> dict[str, np.ndarray]:
    """The three arrays of one resolution, by name."""
    import shapely

    vertices: list[np.ndarray] = []
    ring_ends: list[int] = []
    triangles: list[np.ndarray] = []
    pieces = [piece for polygon in decode_rings(topology) for piece in simple_polygons(polygon)]
    for piece in shapely.orient_polygons(pieces, exterior_cw=False):
        number: dict[tuple[int, int], int] = {}
        for ring in (piece.exterior, *piece.interiors):
            start = ring_ends[-1] if ring_ends else 0
            rounded = _microdegrees(ring)[:-1]
            number.update({tuple(v): start + i for i, v in enumerate(rounded.tolist())})
            vertices.append(rounded)
            ring_ends.append(start + len(rounded))
        for triangle in shapely.get_parts(shapely.constrained_delaunay_triangles(piece)):
            corners = _microdegrees(triangle.exterior)[:3].tolist()
            triangles.append(np.array([number[tuple(corner)] for corner in corners]))
    if ring_ends[-1] > np.iinfo(np.uint16).max:
        raise ValueError("too many vertices for 16-bit triangle corners")
    return {
        "vertices": np.concatenate(vertices),
        "ring_ends": np.array(ring_ends, np.int32),
        "triangles": np.stack(triangles).astype(np.uint16),
    }


def _microdegrees(ring) -> np.ndarray:
    return np.round(np.array(ring.coords) * MICRODEGREES).astype(np.int32)


def main(folder: str) -> None:
    """Write ``land.npz`` from the TopoJSON files in a folder."""
    arrays: dict[str, Any] = {}
    for resolution in ("110m", "50m"):
        topology = json.loads((Path(folder) / f"land-{resolution}.json").read_text())
        for name, array in build(topology).items():
            arrays[f"{name}_{resolution}"] = array
            print(f"{name}_{resolution}", array.shape, array.dtype)
    np.savez_compressed(Path(__file__).with_name("land.npz"), **arrays)


if __name__ == "__main__":
    main(sys.argv[1])
