"""Runs of a NumPyro program: its sites, with the values that are known put in."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from numpyro import handlers
from numpyro.distributions import biject_to, constraints
from numpyro.primitives import Messenger

from jaxgen.numpyro.drawing import Drawing
from jaxgen.numpyro.function import Function
from jaxgen.numpyro.support import bounds_of

_GOLDEN = 0.6180339887498949  # whose multiples are spread evenly modulo 1
_APART = 0.3  # least size of a made-up value without constraints


def trace(
    program: Function,
    argument,
    key,
    values,
    substitute=None,
    drawing: Any = None,
    given: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The sites of one run.

    Args:
      program: the function.
      argument: what it is called with.
      key: a typed or raw PRNG key.
      values: of sites, by name.
      substitute: gives the value of another site, or None.
      drawing: handler that draws the rest; by default ``Drawing()``.
      given: more arguments by name, such as the value of the observed site.
    """
    key = raw(key)
    if isinstance(argument, np.ndarray):  # made up, so no check may read its numbers
        argument = lax.optimization_barrier(jnp.asarray(argument))

    def value_of(site):
        known = values.get(site["name"]) if site["type"] in ("sample", "param") else None
        return substitute(site) if known is None and substitute is not None else known

    put = handlers.substitute(substitute_fn=value_of)
    drawing = Drawing() if drawing is None else drawing
    with handlers.trace() as sites, drawing, handlers.seed(rng_seed=key), put, _Params():
        program.call(argument, **(given or {}))
    return sites


class _Params(Messenger):
    """Gives a program its params as JAX's arrays, as a fit will, though they start as NumPy's."""

    def postprocess_message(self, msg):
        if msg["type"] == "param":
            msg["value"] = jax.tree_util.tree_map(jnp.asarray, msg["value"])


def raw(key):
    """A key as NumPyro takes it."""
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        return key
    data = jax.random.key_data(key)
    return data if data.shape == (2,) else jax.random.bits(key, (2,), jnp.uint32)


def transform_of(site):
    """From real numbers to the values that a ``numpyro.param`` site may have."""
    return biject_to(site["kwargs"].get("constraint", constraints.real))


def example_value(site, shift: float = 0.0, end: str | None = None):
    """A value within the support of a sample site, made without random numbers.

    Args:
      site: as a handler meets it.
      shift: other values for another shift.
      end: "low" or "high", for that end of the support of a discrete latent.

    Returns None where the support does not say how to make one, so that it is drawn.
    """
    if site["type"] != "sample" or site.get("is_observed"):
        return None
    fn, sample_shape = site["fn"], site["kwargs"].get("sample_shape", ())
    shape = (*sample_shape, *fn.batch_shape, *fn.event_shape)
    support = fn.support
    if fn.is_discrete:
        return _example_count(support, shape, _spread(site["name"], shift), end)
    try:
        transform = biject_to(support)
        free = transform.inverse_shape(shape)
    except NotImplementedError:
        return None
    numbers = 2 * _spread(site["name"], shift)(free) - 1
    return transform(numbers + jnp.copysign(_APART, numbers))  # at 0 some dependences are hidden


def _spread(name, shift):
    """A function that gives numbers in (0, 1) of some shape, of a site's own."""
    offset = zlib.crc32(name.encode()) % 1000 / 1000 + shift

    def numbers(shape):
        places = jnp.arange(np.prod(shape, dtype=int), dtype=jnp.result_type(float))
        return ((places % 1024 + offset) * _GOLDEN % 1).reshape(shape)

    return numbers


def _example_count(support, shape, numbers, end):
    bounds = bounds_of(support)
    if bounds is None:
        like = jnp.asarray(4 * numbers(shape), jnp.result_type(int))
        inside = support(like)
        if jnp.shape(inside) != shape:  # of vectors, such as the counts of a multinomial
            return support.feasible_like(like)
        return jnp.where(inside, like, support.feasible_like(like))
    low, high = (jnp.asarray(v, jnp.result_type(int)) for v in bounds)
    if end is not None:
        value = low if end == "low" else high
    else:
        value = low + jnp.round((high - low) * numbers(shape)).astype(low.dtype)
    return jnp.broadcast_to(value, shape)


_TRACED = object()


def evaluated(fn: Callable, *args: Any) -> Any:
    """``fn(*args)`` by one compiled program, which takes less time than an operation at a time.

    Of the pytree that it returns, parts without traced arrays are given back as they are.
    """
    known: list[Any] = []
    tree: Any = None

    def run(*args):
        nonlocal known, tree
        parts, tree = jax.tree_util.tree_flatten(fn(*args), lambda v: not _is_traced(v))
        known = [_TRACED if _is_traced(part) else part for part in parts]
        return [part for part in parts if _is_traced(part)]

    values = iter(jax.jit(run)(*args))
    parts = [next(values) if part is _TRACED else part for part in known]
    return jax.tree_util.tree_unflatten(tree, parts)


def _is_traced(tree):
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree_util.tree_leaves(tree))
