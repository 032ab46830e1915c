"""The uniform distribution over the land of the world, with its exact density."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import jax.numpy as jnp
import numpy as np
from jax import lax
from numpyro.distributions import constraints

from jaxgen.core.model import Learning, Model
from jaxgen.core.random import Bits, Uniform
from jaxgen.data.datasets import land_geometry

CELL = 0.5  # degrees, a power of two; cells of 1 degree are 3 times slower at 50m
TERMS = 10  # of the series in _area_below: exact in float64 for triangles up to 90 degrees high


class Land(Model):
    """Uniform over the land of the world; an event is (longitude, latitude) in degrees.

    With land L inside the box [-180, 180] x [-90, 90], densities are per square degree:

        measure="map":     p(x) = 1 / A on L,        A = integral over L of 1
        measure="sphere":  p(x) = cos(lat) / C on L, C = integral over L of cos(lat)

    and 0 elsewhere. "map" is uniform on the flat longitude / latitude map, "sphere" on the globe.
    The outlines are those of Natural Earth: Antarctica has its ice, lakes are land, and the Caspian
    Sea is sea.

    Sampling is exact up to rounding: of float32 samples, fewer than 1 in 1,000,000, right at a
    coast, are in the sea.

    >>> import jax.numpy as jnp
    >>> from jaxgen import datasets
    >>> land = datasets.land()
    >>> params = land.init(None)
    >>> paris, atlantic = jnp.array([2.35, 48.85]), jnp.array([-30.0, 30.0])
    >>> round(float(land.log_prob(params, paris)), 4), float(land.log_prob(params, atlantic))
    (-9.9757, -inf)

    Args:
      resolution: "110m" (5,000 vertices) or "50m" (59,000): outlines at 1:110 or 1:50 million.
      measure: "map" or "sphere".

    Source: Natural Earth, public domain; see ``land.txt``.
    """

    resolution: Literal["110m", "50m"] = "110m"
    measure: Literal["map", "sphere"] = "map"

    event_shape: ClassVar[tuple[int, ...]] = (2,)
    learning = Learning("closed_form")

    @property
    def support(self):
        corner = np.array([180.0, 90.0])
        return constraints.independent(constraints.interval(-corner, corner), 1)

    def init(self, key, x=None, y=None):
        """The tables of the land, which are fixed: key and data are ignored.

        Whole numbers are stored as floats, so that all params have one dtype.
        """
        dtype = jnp.result_type(float)
        triangles = land_geometry.half_triangles(self.resolution)
        keep, alias = land_geometry.alias_table(self._weights(triangles))
        grid = land_geometry.cell_edges(self.resolution, CELL, np.dtype(dtype))
        params = {
            "keep": keep,  # (triangles,)
            "triangles": np.stack([triangles, triangles[alias]], axis=1),  # (triangles, 2, 5)
            "cells": grid.cells,  # (bands, columns, 2)
            "edges": grid.edges,  # (rows, 4)
            "slots": np.arange(grid.most),  # one for each edge of the cell with the most edges
            "log_area": math.log(self._area()),
        }
        return {name: jnp.asarray(value, dtype) for name, value in params.items()}

    def estimate(self, x, y=None, weights=None):
        return self.init(None)

    def entropy(self) -> float:
        """The exact entropy in nats, that is H(p_data) in a KL divergence."""
        flat, cosine, cosine_log = land_geometry.areas(self.resolution)
        return math.log(flat) if self.measure == "map" else math.log(cosine) - cosine_log / cosine

    def log_prob(self, params, x, y=None):
        longitude, latitude = x[0], x[1]
        cells, edges = params["cells"], params["edges"]
        bands, columns = cells.shape[:2]
        # not from x + 180, whose rounding could give the next cell
        row = _cell_number(latitude, 180 / bands, bands)
        column = _cell_number(longitude, 360 / columns, columns)
        first, stop = cells[row, column]
        slot = first + params["slots"]
        south, from_longitude, north, to_longitude = edges[slot.astype(jnp.int32)].T
        # a ray to the west crosses an edge that, at the point's latitude, is west of the point
        is_west = (longitude - from_longitude) * (north - south) >= (
            to_longitude - from_longitude
        ) * (latitude - south)
        crossed = (slot < stop) & (south <= latitude) & (latitude < north) & is_west
        on_map = (jnp.abs(longitude) <= 180) & (jnp.abs(latitude) <= 90)
        on_land = on_map & (jnp.sum(crossed, dtype=jnp.int32) % 2 == 1)
        log_density = -params["log_area"]
        if self.measure == "sphere":
            # the sine of the distance to the pole is the cosine, and never negative
            to_pole = jnp.where(on_land, 90 - jnp.abs(latitude), 90)
            log_density = log_density + jnp.log(jnp.sin(jnp.deg2rad(to_pole)))
        return jnp.where(on_land, log_density, -jnp.inf)

    def noise(self) -> Any:
        return {"column": Bits(()), "uniform": Uniform((3,))}

    def push(self, params, noise, y=None):
        choose, u, v = noise["uniform"]
        keep = params["keep"]
        # the remainder makes columns differ in probability by less than 1 in 30,000
        column = (noise["column"] % np.uint32(keep.shape[0])).astype(jnp.int32)
        aliased = (choose >= keep[column]).astype(jnp.int32)
        apex_longitude, apex, base, west, east = params["triangles"][column, aliased]
        # share of the height from the apex, where the width is the same share of the base
        share = jnp.sqrt(u) if self.measure == "map" else _height_on_sphere(u, apex, base)
        longitude = apex_longitude + share * (west + v * (east - west) - apex_longitude)
        return jnp.stack([longitude, apex + share * (base - apex)])

    def _area(self) -> float:
        flat, cosine, _ = land_geometry.areas(self.resolution)
        return flat if self.measure == "map" else cosine

    def _weights(self, triangles):
        """The area of each triangle, in square degrees of the map or of the sphere."""
        _, apex, base, west, east = triangles.T
        share = 0.5
        if self.measure == "sphere":
            apex_angle, height = np.deg2rad(apex), np.deg2rad(base - apex)
            share = _area_below(np.cos(apex_angle), np.sin(apex_angle), height, 1.0)
        return share * np.abs(base - apex) * (east - west)


def land(
    resolution: Literal["110m", "50m"] = "110m", measure: Literal["map", "sphere"] = "map"
) -> Land:
    """The uniform distribution over the land of the world: see ``Land``."""
    return Land(resolution, measure)


def _cell_number(degrees, cell, cells):
    # clipped first, since the cast is undefined for large floats
    number = jnp.clip(jnp.floor(degrees / cell), -(cells // 2), cells // 2 - 1)
    return number.astype(jnp.int32) + cells // 2


def _area_below(cosine, sine, height, share):
    """Integral from 0 to ``share`` of s cos(apex + s height) ds, for angles in radians.

    With x = share height it is share^2 (cos(apex) C(x) - sin(apex) S(x)), where

        C(x) = sum over k of (-x^2)^k / ((2k)! (2k + 2))
        S(x) = x sum over k of (-x^2)^k / ((2k + 1)! (2k + 3)).

    For small triangles the closed forms, such as C(x) = (cos x + x sin x - 1) / x^2, lose digits to
    cancellation.
    """
    x = share * height
    even = odd = 0.0
    for k in reversed(range(TERMS)):
        even = even * (-x * x) + 1 / (math.factorial(2 * k) * (2 * k + 2))
        odd = odd * (-x * x) + 1 / (math.factorial(2 * k + 1) * (2 * k + 3))
    return share * share * (cosine * even - sine * x * odd)


def _height_on_sphere(u, apex, base):
    """The share of the height below which a share u of a triangle's area on the sphere lies."""
    apex, height = jnp.deg2rad(apex), jnp.deg2rad(base - apex)
    # the cosine as in log_prob, where it is exact near the poles
    cosine, sine = jnp.sin(np.pi / 2 - jnp.abs(apex)), jnp.sin(apex)
    target = u * _area_below(cosine, sine, height, 1.0)

    def halve(_, bracket):
        low, high = bracket
        middle = (low + high) / 2
        below = _area_below(cosine, sine, height, middle) < target
        return jnp.where(below, middle, low), jnp.where(below, high, middle)

    bracket = (jnp.zeros_like(u), jnp.ones_like(u))
    low, high = lax.fori_loop(0, 40, halve, bracket)
    return (low + high) / 2
