"""Single runs of a NumPyro program: its sites, given the values of some of them."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from numpyro import handlers
from numpyro.distributions import biject_to, constraints
from numpyro.distributions.transforms import Transform
from numpyro.primitives import Messenger

from jaxgen.core.constraints import bounds
from jaxgen.numpyro.drawing import Drawing
from jaxgen.numpyro.function import Function

_GOLDEN = 0.6180339887498949  # multiples of it are spread evenly modulo 1
_LEAST = 0.3  # least absolute value of an unconstrained example value

Site = Mapping[str, Any]  # a site as NumPyro passes it to handlers


def trace(
    program: Function,
    argument: Any,
    key: Any,
    values: Mapping[str, Any],
    make_value: Callable[[Site], Any] | None = None,
    drawing: Messenger | None = None,
    keywords: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The sites of one run, by name.

    Args:
      program: the function.
      argument: its first argument: conditions, or the number of rows.
      key: a typed or raw PRNG key.
      values: values of sites, by name.
      make_value: gives the value of a site that has none in ``values``, or None to draw it.
      drawing: handler that draws the other sites; None for ``Drawing()``.
      keywords: further arguments by name, such as the value of the observed site.
    """
    key = raw_key(key)
    if isinstance(argument, np.ndarray):  # made up: the program must not branch on its values
        argument = lax.optimization_barrier(jnp.asarray(argument))

    def value_of(site):
        known = values.get(site["name"]) if site["type"] in ("sample", "param") else None
        return make_value(site) if known is None and make_value is not None else known

    substitute = handlers.substitute(substitute_fn=value_of)
    drawing = Drawing() if drawing is None else drawing
    seed = handlers.seed(rng_seed=key)
    with handlers.trace() as sites, drawing, seed, substitute, _ParamsAsArrays():
        program.run(argument, dict(keywords or {}))
    return sites


class _ParamsAsArrays(Messenger):
    """Gives the program its params as JAX arrays, as in a fit, even if they start as NumPy's."""

    def postprocess_message(self, msg):
        if msg["type"] == "param":
            msg["value"] = jax.tree_util.tree_map(jnp.asarray, msg["value"])


def raw_key(key: Any) -> Any:
    """A key as NumPyro takes it, (2,) uint32."""
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        return key
    data = jax.random.key_data(key)
    return data if data.shape == (2,) else jax.random.bits(key, (2,), jnp.uint32)


def fixed_key() -> jax.Array:
    """A key that is the same in every call."""
    # without the barrier the compiler computes the random numbers itself, slowly
    words = lax.optimization_barrier(jnp.zeros(2, jnp.uint32))
    return jax.random.wrap_key_data(words, impl="threefry2x32")


def param_transform(site: Site) -> Transform:
    """The map from the reals onto the values that a ``numpyro.param`` site may take."""
    return biject_to(site["kwargs"].get("constraint", constraints.real))


def unconstrained_value(site: Site) -> jax.Array:
    """The value of a sample site, mapped to the reals."""
    return biject_to(site["fn"].support).inv(site["value"])


def placing(unconstrained: Mapping[str, Any]) -> tuple[Callable[[Site], Any], list[jax.Array]]:
    """A ``make_value`` for sites whose values are known mapped to the reals.

    Returns:
      The function, and a list to which it adds the log determinants of the maps onto the values.
    """
    log_dets: list[jax.Array] = []

    def place(site):
        if site["type"] != "sample" or site["name"] not in unconstrained:
            return None
        transform, real = biject_to(site["fn"].support), unconstrained[site["name"]]
        value = transform(real)
        log_dets.append(transform.log_abs_det_jacobian(real, value).sum())
        return value

    return place, log_dets


def example_value(site: Site, shift: float = 0.0, end: str | None = None) -> jax.Array | None:
    """A value in the support of a sample site, made without random numbers.

    Args:
      site: the site.
      shift: changes the value.
      end: "low" or "high" for that bound of a discrete site.

    Returns:
      The value, or None if the support does not show how to make one, so that it must be drawn.
    """
    if site["type"] != "sample" or site.get("is_observed"):
        return None
    fn, sample_shape = site["fn"], site["kwargs"].get("sample_shape", ())
    shape = (*sample_shape, *fn.batch_shape, *fn.event_shape)
    numbers = _evenly_spread(site["name"], shift)
    if fn.is_discrete:
        return _example_count(fn.support, shape, numbers, end)
    try:
        transform = biject_to(fn.support)
        real_shape = transform.inverse_shape(shape)
    except NotImplementedError:
        return None
    reals = 2 * numbers(real_shape) - 1
    return transform(reals + jnp.copysign(_LEAST, reals))  # values near 0 may hide a dependence


def _evenly_spread(name, shift):
    """A function that returns numbers in (0, 1) of a given shape, which differ between sites."""
    offset = zlib.crc32(name.encode()) % 1000 / 1000 + shift

    def numbers(shape):
        index = jnp.arange(np.prod(shape, dtype=int), dtype=jnp.result_type(float))
        return ((index % 1024 + offset) * _GOLDEN % 1).reshape(shape)

    return numbers


def _example_count(support, shape, numbers, end):
    found = bounds(support)
    if found is None:
        like = jnp.asarray(4 * numbers(shape), jnp.result_type(int))
        inside = support(like)
        if jnp.shape(inside) != shape:  # a constraint of vectors, such as counts of a multinomial
            return support.feasible_like(like)
        return jnp.where(inside, like, support.feasible_like(like))
    low, high = (jnp.asarray(v, jnp.result_type(int)) for v in found)
    if end is not None:
        value = low if end == "low" else high
    else:
        value = low + jnp.round((high - low) * numbers(shape)).astype(low.dtype)
    return jnp.broadcast_to(value, shape)


_TRACED = object()


def evaluated(fn: Callable[..., Any], *args: Any) -> Any:
    """``fn(*args)`` by one compiled program, which is faster than one operation at a time.

    Parts of the returned pytree that hold no traced arrays are returned as they are.
    """
    static: list[Any] = []
    tree: Any = None

    def run(*args):
        nonlocal static, tree
        parts, tree = jax.tree_util.tree_flatten(fn(*args), lambda v: not _is_traced(v))
        static = [_TRACED if _is_traced(part) else part for part in parts]
        return [part for part in parts if _is_traced(part)]

    values = iter(jax.jit(run)(*args))
    parts = [next(values) if part is _TRACED else part for part in static]
    return jax.tree_util.tree_unflatten(tree, parts)


def _is_traced(tree):
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree_util.tree_leaves(tree))
