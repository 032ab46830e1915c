"""Which params are learnt (floats that are not frozen), and how they are laid out for training."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxgen.core.model import Model
from jaxgen.core.spec import Params


class Layout(NamedTuple):
    """How params are laid out for training. Hashable: it is a static argument of programs.

    An optimizer that treats all numbers alike gets them as one vector, matrices first: a step takes
    a few operations for each leaf, and small networks have dozens of small leaves.
    """

    tree: Any
    mask: tuple[bool, ...]  # of each leaf: is it learnt?
    shapes: tuple[tuple[int, ...], ...]  # of the leaves that are
    flat: bool

    @property
    def order(self) -> list[int]:
        """The learnt leaves in the order of the vector."""
        return sorted(range(len(self.shapes)), key=lambda i: len(self.shapes[i]) < 2)

    @property
    def sizes(self) -> list[int]:
        """How many numbers each of them has, in that order."""
        return [math.prod(self.shapes[i]) for i in self.order]

    @property
    def in_matrices(self) -> int:
        """How many numbers lie in leaves of two or more dimensions."""
        return sum(math.prod(shape) for shape in self.shapes if len(shape) >= 2)


def layout(params: Any, mask: tuple[bool, ...], flat: bool) -> Layout:
    leaves, tree = jax.tree_util.tree_flatten(params)
    shapes = tuple(leaf.shape for leaf, m in zip(leaves, mask, strict=True) if m)
    return Layout(tree, mask, shapes, flat)


def learnt(params: Any, freeze: Any, always: tuple[str, ...] = ()) -> tuple[bool, ...]:
    """Whether each leaf is learnt.

    Args:
      params: pytree of arrays.
      freeze: names such as "mean", or paths such as "base/mean" or "base.mean"; a path freezes
        every leaf below it.
      always: names that the model freezes.

    Raises:
      TypeError, ValueError: freeze is no sequence of names, names no param, or leaves none.
    """
    names = _names(freeze)
    leaves = jax.tree_util.tree_flatten_with_path(params)[0]
    paths = [path_of(path) for path, _ in leaves]
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
        held = ", ".join("/".join(path) for path in paths)
        raise ValueError(
            f"freeze leaves no param to learn: {held or 'there are none'}; freeze, or the model's "
            "learning.frozen, covers all of them that are floats"
        )
    return mask


def count_learnt(model: Model, start: Params | None, freeze: Any) -> int | None:
    """How many numbers a fit learns; None if ``model.init`` needs data to tell.

    Args:
      model: the spec.
      start: params to start from, or None for those of ``model.init``.
      freeze: names of params, as in ``learnt``.

    Raises:
      TypeError, ValueError: as ``learnt``.
    """
    shapes = start
    if start is None:
        try:
            shapes = jax.eval_shape(model.init, jax.random.key(0))
        except Exception:  # whatever an init raises that takes data for granted
            return None
    mask = learnt(shapes, freeze, model.learning.frozen)
    sizes = [math.prod(np.shape(leaf)) for leaf in jax.tree_util.tree_leaves(shapes)]
    return sum(size for size, m in zip(sizes, mask, strict=True) if m)


def below(part: str, freeze: Any, always: tuple[str, ...]) -> tuple[str, ...]:
    """The names in ``freeze`` below one of the params, without those that are always frozen.

    Raises:
      TypeError, ValueError: as ``learnt``.
    """
    names = []
    for name in _names(freeze):
        path = name.replace(".", "/")
        if path.startswith(f"{part}/"):
            names.append(path.removeprefix(f"{part}/"))
        elif path not in always:
            raise ValueError(f"freeze names no param: {name!r} is not below {part!r}")
    return tuple(names)


def _names(freeze):
    names = (freeze,) if isinstance(freeze, str) else freeze
    if not isinstance(names, (tuple, list, set, frozenset)) or any(
        not isinstance(name, str) for name in names
    ):
        raise TypeError(f"freeze must be a sequence of names of params, got {freeze!r:.60}")
    return names


def split(params: Any, mask: tuple[bool, ...]) -> tuple[list, list]:
    """The leaves that are learnt, and the frozen ones."""
    pairs = list(zip(jax.tree_util.tree_leaves(params), mask, strict=True))
    return [leaf for leaf, m in pairs if m], [leaf for leaf, m in pairs if not m]


def pack(learnt: list, layout: Layout) -> Any:
    """The learnt leaves as an optimizer takes them: a vector, or a tree like the params.

    Optax gets no frozen leaves, so they affect neither weight decay nor the norm of a gradient.
    """
    if layout.flat:
        return jnp.concatenate([learnt[i].ravel() for i in layout.order])
    import optax  # imported here because it takes as long as all of jaxgen

    moving = iter(learnt)
    leaves = [next(moving) if m else optax.MaskedNode() for m in layout.mask]
    return jax.tree_util.tree_unflatten(layout.tree, leaves)


def merge(live: Any, rest: list, layout: Layout) -> Any:
    """The params, from the results of ``pack`` and ``split``."""
    if layout.flat:
        # the transpose of a split is one concatenation; that of slices is a sum of whole vectors
        pieces = lax.split(live, layout.sizes)
        return _assemble(pieces, rest, layout, ())
    return _whole(jax.tree_util.tree_leaves(live), rest, layout)


def collect(live: Any, rest: list, layout: Layout) -> Any:
    """``merge`` on the host, where slices compile nothing. It keeps leading axes, as of members."""
    if not layout.flat:
        return _whole(jax.tree_util.tree_leaves(live), rest, layout)
    vector = np.asarray(live)
    pieces = np.split(vector, np.cumsum(layout.sizes)[:-1], axis=-1)
    whole = _assemble(pieces, rest, layout, vector.shape[:-1])
    return jax.device_put(whole)


def _assemble(pieces, rest, layout, lead):
    learnt: list = [None] * len(pieces)
    for i, piece in zip(layout.order, pieces, strict=True):
        learnt[i] = piece.reshape((*lead, *layout.shapes[i]))
    return _whole(learnt, rest, layout)


def _whole(learnt, rest, layout):
    moving, held = iter(learnt), iter(rest)
    return jax.tree_util.tree_unflatten(
        layout.tree, [next(moving if m else held) for m in layout.mask]
    )


def path_of(path: Any) -> tuple[str, ...]:
    """The names that lead to a leaf, as strings."""
    return tuple(_component(entry) for entry in path)


def _component(entry: Any) -> str:
    for attribute in ("key", "name", "idx"):
        if hasattr(entry, attribute):
            return str(getattr(entry, attribute))
    return str(entry)
