"""Which params are learnt: floats that no name in ``freeze`` covers."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp


def learnt(params: Any, freeze: Any, always: tuple[str, ...] = ()) -> tuple[bool, ...]:
    """For each leaf whether it is learnt.

    Args:
      params: pytree of arrays.
      freeze: names such as "mean", or paths such as "base/mean" or "base.mean"; a path covers
        every leaf below it.
      always: names that the model itself freezes.

    Raises:
      TypeError, ValueError: freeze is no sequence of names, names no param, or leaves none.
    """
    names = (freeze,) if isinstance(freeze, str) else freeze
    if not isinstance(names, (tuple, list, set, frozenset)) or any(
        not isinstance(name, str) for name in names
    ):
        raise TypeError(f"freeze must be a sequence of names of params, got {freeze!r:.60}")
    leaves = jax.tree_util.tree_flatten_with_path(params)[0]
    paths = [tuple(_component(entry) for entry in path) for path, _ in leaves]
    frozen = [False] * len(leaves)
    for name in (*names, *always):
        parts = tuple(name.replace(".", "/").split("/"))
        covers = [path[: len(parts)] == parts for path in paths]
        if not any(covers):
            known = ", ".join("/".join(path) for path in paths)
            raise ValueError(f"freeze names no param: {name!r} is none of {known}")
        frozen = [a or b for a, b in zip(frozen, covers, strict=True)]
    mask = tuple(
        not held and bool(jnp.issubdtype(leaf.dtype, jnp.floating))
        for held, (_, leaf) in zip(frozen, leaves, strict=True)
    )
    if not any(mask):
        raise ValueError("freeze leaves no param to learn")
    return mask


def split(params: Any, mask: tuple[bool, ...]) -> tuple[Any, list]:
    """The learnt params, in the same tree, and the list of the others.

    Optax sees no leaf in the place of a frozen one, so neither weight decay nor the norm of a
    clipped gradient knows of it.
    """
    leaves, tree = jax.tree_util.tree_flatten(params)
    pairs = list(zip(leaves, mask, strict=True))
    import optax  # not on top: it takes as long to import as all of jaxgen

    masked = [leaf if m else optax.MaskedNode() for leaf, m in pairs]
    live = jax.tree_util.tree_unflatten(tree, masked)
    return live, [leaf for leaf, m in pairs if not m]


def merge(live: Any, rest: list, tree: Any, mask: tuple[bool, ...]) -> Any:
    """The inverse of ``split``; tree is the structure of the whole params."""
    moving, held = iter(jax.tree_util.tree_leaves(live)), iter(rest)
    return jax.tree_util.tree_unflatten(tree, [next(moving if m else held) for m in mask])


def _component(entry: Any) -> str:
    for attribute in ("key", "name", "idx"):
        if hasattr(entry, attribute):
            return str(getattr(entry, attribute))
    return str(entry)
