"""The kinds of covariance, and how params hold each of them.

| covariance    | param        | one normal   | a mixture               |
|---------------|--------------|--------------|-------------------------|
| ``full``      | scale_tril   | (dim, dim)   | (components, dim, dim)  |
| ``tied``      | scale_tril   |              | (dim, dim)              |
| ``diagonal``  | scale        | (dim,)       | (components, dim)       |
| ``spherical`` | scale        | ()           | (components,)           |

Computations use two forms: a triangle for each component ("full"), or a scale for each component
and feature ("diagonal"). ``expand`` gives the params of that form, ``collapse`` is its inverse.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp

from jaxgen.core.records import TOGETHER
from jaxgen.core.spec import Params
from jaxgen.models.normal.matrices import matmul

Form: TypeAlias = Literal["full", "diagonal"]
Covariance: TypeAlias = Literal["full", "diagonal", "diag", "spherical"]  # of one normal
MixtureCovariance: TypeAlias = Literal["full", "tied", "diagonal", "diag", "spherical"]


def without_alias(covariance: str) -> str:
    """The name of the covariance in specs: "diagonal" for its alias "diag"."""
    return "diagonal" if covariance == "diag" else covariance


def form_of(covariance: str) -> Form:
    """The form in which the covariance is computed."""
    return "full" if covariance in ("full", "tied") else "diagonal"


def scale_name(covariance: str) -> str:
    """The name of the scale in the params: "scale" or "scale_tril"."""
    return "scale_tril" if form_of(covariance) == "full" else "scale"


def units(covariance: str) -> int:
    """``Learning.rescalable``: a spherical covariance needs one unit for all features."""
    return TOGETHER if covariance == "spherical" else True


def scale_size(covariance: str, dim: int, components: int = 1) -> int:
    """The number of free numbers in the scale: a triangle has dim (dim + 1) / 2."""
    triangle = dim * (dim + 1) // 2
    sizes = {"full": components * triangle, "tied": triangle}
    return {**sizes, "diagonal": components * dim, "spherical": components}[covariance]


def expand(params: Params, covariance: str) -> Params:
    """Params of the covariance ``form_of(covariance)``; entries other than the scale stay."""
    name = scale_name(covariance)
    if covariance == "tied":
        shape = *params["mean"].shape, params["mean"].shape[-1]
        return {**params, name: jnp.broadcast_to(params[name], shape)}
    if covariance == "spherical":
        scale = jnp.asarray(params[name])[..., None]
        return {**params, name: jnp.broadcast_to(scale, params["mean"].shape)}
    return params


def collapse(params: Params, covariance: str) -> Params:
    """The inverse of ``expand``, for params whose scales are equal where they must be."""
    name = scale_name(covariance)
    if covariance == "tied":
        return {**params, name: params[name][0]}
    if covariance == "spherical":
        return {**params, name: params[name][..., 0]}
    return params


def matrices(params: Params, covariance: str) -> jax.Array:
    """Covariance matrices, (dim, dim), or (components, dim, dim) of a mixture."""
    scale = expand(params, covariance)[scale_name(covariance)]
    if form_of(covariance) == "diagonal":
        return jnp.eye(scale.shape[-1], dtype=scale.dtype) * scale[..., None] ** 2
    tril = jnp.tril(scale)
    return matmul(tril, jnp.swapaxes(tril, -1, -2))


def rescale(params: Params, covariance: str, shift: Any, scale: Any) -> Params:
    """Params of ``shift + scale * x``: see ``Model.rescale``. Leading axes are allowed."""
    name = scale_name(covariance)
    if form_of(covariance) == "full":
        by = scale[:, None]
    else:
        by = scale[0] if covariance == "spherical" else scale
    return {**params, "mean": shift + scale * params["mean"], name: by * params[name]}
