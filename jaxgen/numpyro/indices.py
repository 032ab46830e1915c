"""What follows from the conditions y of a program, and which index arrays within their bounds.

JAX clamps an index that is out of bounds, and so a program would answer for the last entry of an
array. The checks read the program's jaxpr, which also shows how negative indices are wrapped.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Literal, jaxpr_as_fun

_SHAPING = ("broadcast_in_dim", "reshape", "squeeze", "convert_element_type")


def in_bounds(function: Callable, y: Any) -> jax.Array | None:
    """Whether every index that follows from y is in bounds when ``function(y)`` runs, a bool.

    Negative indices are out of bounds. Loops and branches of ``function`` are not looked into.
    Returns None where no index follows from y.
    """
    inside = _Reading(jax.make_jaxpr(function)(y), y).inside
    return functools.reduce(operator.and_, inside) if inside else None


def follows(function: Callable, y: Any) -> list[bool]:
    """Whether each output of ``function(y)``, of the leaves in order, follows from y."""
    closed = jax.make_jaxpr(function)(y)
    found: list[list[bool]] = []
    jax.eval_shape(lambda y: found.append(_Reading(closed, y).follow), y)
    return found[0]


class _Reading:
    """Evaluates a jaxpr, and keeps what is found of indices that follow from the arguments."""

    def __init__(self, closed, *arguments):
        self.inside: list[Any] = []  # of each index, whether it is in bounds
        self.clamped: dict[int, Any] = {}  # of a value clamped, the least, the value and the most
        self.negative: dict[int, Any] = {}  # of a value i < 0, the value i
        self.wrapped: dict[int, Any] = {}  # of a value i + size, the value i
        self.alive: list[Any] = []  # whose identities are in use above
        start = [True] * len(arguments)
        _, self.follow = self._run(closed.jaxpr, closed.consts, arguments, start)

    def _run(self, jaxpr, consts, arguments, follow):
        """The values of the outputs, and whether they follow from y."""
        known: dict[Any, tuple[Any, bool]] = {}

        def read(var):
            return (var.val, False) if type(var) is Literal else known[var]

        for var, value in zip(jaxpr.constvars, consts, strict=True):
            known[var] = value, False
        for var, value, own in zip(jaxpr.invars, arguments, follow, strict=True):
            known[var] = value, own
        for eqn in jaxpr.eqns:
            values, own = zip(*map(read, eqn.invars), strict=True) if eqn.invars else ((), ())
            out, later = self._step(jaxpr, eqn, values, own)
            known.update(zip(eqn.outvars, zip(out, later, strict=True), strict=True))
        outs = [read(var) for var in jaxpr.outvars]
        return [value for value, _ in outs], [own for _, own in outs]

    def _step(self, jaxpr, eqn, values, own):
        inner = _inner(eqn)
        if inner is not None:
            return self._run(inner.jaxpr, inner.consts, values, own)
        name, follows = eqn.primitive.name, any(own)
        if name == "gather" and own[1]:
            self.inside.append(_gathered(values, eqn.params))
        elif name == "dynamic_slice" and any(own[1:]):
            room = np.subtract(values[0].shape, eqn.params["slice_sizes"])
            self.inside += [(i >= 0) & (i <= m) for i, m in zip(values[1:], room, strict=True)]
        elif name in ("cond", "select_n") and own[0] and id(values[0]) in self.clamped:  # a switch
            low, index, high = self.clamped[id(values[0])]
            self.inside.append(((index >= low) & (index <= high)).all())
        if name == "select_n" and len(values) == 3 and self._is_wrap(*values):
            return [values[1]], [follows]  # the index before the wrap
        out = _evaluated(jaxpr, eqn, values)
        self.alive += [*out, *values]
        if name == "clamp":
            self.clamped[id(out[0])] = values
        elif name in _SHAPING and id(values[0]) in self.clamped:
            self.clamped[id(out[0])] = self.clamped[id(values[0])]
        elif name == "lt" and _is_zero(values[1]):
            self.negative[id(out[0])] = values[0]
        elif name == "add":
            self.wrapped[id(out[0])] = values[0]
        return out, [follows] * len(out)

    def _is_wrap(self, is_negative, index, wrapped):
        """Whether it is select(i < 0, i, i + size), as NumPy's negative indices become."""
        of = self.negative.get(id(is_negative)), self.wrapped.get(id(wrapped))
        return all(own is index for own in of)


def _evaluated(jaxpr, eqn, values):
    """The outputs of one equation of a jaxpr."""
    known = {var: v for var, v in zip(eqn.invars, values, strict=True) if type(var) is not Literal}
    alone = jaxpr.replace(constvars=[], invars=list(known), outvars=eqn.outvars, eqns=[eqn])
    return jaxpr_as_fun(ClosedJaxpr(alone, ()))(*known.values())


def _inner(eqn):
    """The jaxpr of a call, which is run once, whatever calls it."""
    if eqn.primitive.name in ("scan", "while", "cond"):
        return None
    for name in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        found = eqn.params.get(name)
        if found is not None:
            return found if hasattr(found, "consts") else ClosedJaxpr(found, ())
    return None


def _gathered(values, params):
    operand, indices = values
    places = np.array(params["dimension_numbers"].start_index_map, int)
    room = np.subtract(operand.shape, params["slice_sizes"])[places]
    return ((indices >= 0) & (indices <= jnp.asarray(room, indices.dtype))).all()


def _is_zero(value):
    return not isinstance(value, jax.core.Tracer) and np.ndim(value) == 0 and not np.asarray(value)
