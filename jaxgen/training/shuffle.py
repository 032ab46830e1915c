"""A random order of rows, made elementwise."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from jaxgen.core.random import permute


def order(key: jax.Array, n, size: int) -> jax.Array:
    """The numbers 0 .. n - 1 in random order, followed by zeros: (size,) int32; n may be traced."""
    place = lax.iota(jnp.uint32, size)
    return jnp.where(place < n, permute(key, place, n, size), 0).astype(jnp.int32)
