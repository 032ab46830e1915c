"""Which outputs of a program depend on its conditions y, and whether y indexes arrays in bounds.

JAX clamps an index that is out of bounds, so that a program would use the last entry of an array
without an error. The checks read the jaxpr of the program, which also shows negative indices.
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

_RESHAPING = ("broadcast_in_dim", "reshape", "squeeze", "convert_element_type")


def in_bounds(function: Callable[..., Any], y: Any) -> jax.Array | None:
    """Whether all indices that depend on y are in bounds when ``function(y)`` runs, a bool.

    Negative indices count as out of bounds. Loops and branches of ``function`` are not searched.
    Returns None if no index depends on y.
    """
    inside = _Evaluation(jax.make_jaxpr(function)(y), y).inside
    return functools.reduce(operator.and_, inside) if inside else None


def depends(function: Callable[..., Any], y: Any) -> list[bool]:
    """Whether each leaf of the output of ``function(y)`` depends on y."""
    closed = jax.make_jaxpr(function)(y)
    found: list[list[bool]] = []
    jax.eval_shape(lambda y: found.append(_Evaluation(closed, y).depends), y)
    return found[0]


class _Evaluation:
    """Evaluates a jaxpr and records the indices that depend on the arguments."""

    def __init__(self, closed, *arguments):
        self.inside: list[Any] = []  # for each index, whether it is in bounds
        # by the identity of a result:
        self.clamped: dict[int, Any] = {}  # of a clamp, the least, the value and the most
        self.negative: dict[int, Any] = {}  # of i < 0, the value i
        self.wrapped: dict[int, Any] = {}  # of i + size, the value i
        self.alive: list[Any] = []  # keeps results alive, so that identities stay unique
        of_arguments = [True] * len(arguments)
        _, self.depends = self._run(closed.jaxpr, closed.consts, arguments, of_arguments)

    def _run(self, jaxpr, consts, arguments, depend):
        """The values of the outputs, and whether each depends on the arguments."""
        known: dict[Any, tuple[Any, bool]] = {}

        def read(var):
            return (var.val, False) if type(var) is Literal else known[var]

        for var, value in zip(jaxpr.constvars, consts, strict=True):
            known[var] = value, False
        for var, value, one in zip(jaxpr.invars, arguments, depend, strict=True):
            known[var] = value, one
        for eqn in jaxpr.eqns:
            inputs = map(read, eqn.invars)
            values, depend = zip(*inputs, strict=True) if eqn.invars else ((), ())
            results = zip(*self._step(jaxpr, eqn, values, depend), strict=True)
            known.update(zip(eqn.outvars, results, strict=True))
        outputs = [read(var) for var in jaxpr.outvars]
        return [value for value, _ in outputs], [one for _, one in outputs]

    def _step(self, jaxpr, eqn, values, depend):
        inner = _inner(eqn)
        if inner is not None:
            return self._run(inner.jaxpr, inner.consts, values, depend)
        name = eqn.primitive.name
        if name == "gather" and depend[1]:
            self.inside.append(_gather_in_bounds(values, eqn.params))
        elif name == "dynamic_slice" and any(depend[1:]):
            room = np.subtract(values[0].shape, eqn.params["slice_sizes"])
            self.inside += [(i >= 0) & (i <= m) for i, m in zip(values[1:], room, strict=True)]
        elif name in ("cond", "select_n") and depend[0] and id(values[0]) in self.clamped:
            low, index, high = self.clamped[id(values[0])]  # a switch clamps the branch index
            self.inside.append(((index >= low) & (index <= high)).all())
        if name == "select_n" and len(values) == 3 and self._is_wrap(*values):
            return [values[1]], [any(depend)]  # the index before the wrap
        out = _evaluated(jaxpr, eqn, values)
        self.alive += [*out, *values]
        if name == "clamp":
            self.clamped[id(out[0])] = values
        elif name in _RESHAPING and id(values[0]) in self.clamped:
            self.clamped[id(out[0])] = self.clamped[id(values[0])]
        elif name == "lt" and _is_zero(values[1]):
            self.negative[id(out[0])] = values[0]
        elif name == "add":
            self.wrapped[id(out[0])] = values[0]
        return out, [any(depend)] * len(out)

    def _is_wrap(self, is_negative, index, wrapped):
        """Whether it is select(i < 0, i, i + size), which is how NumPy wraps a negative index."""
        sources = self.negative.get(id(is_negative)), self.wrapped.get(id(wrapped))
        return all(source is index for source in sources)


def _evaluated(jaxpr, eqn, values):
    """The outputs of one equation of a jaxpr."""
    known = {var: v for var, v in zip(eqn.invars, values, strict=True) if type(var) is not Literal}
    alone = jaxpr.replace(constvars=[], invars=list(known), outvars=eqn.outvars, eqns=[eqn])
    return jaxpr_as_fun(ClosedJaxpr(alone, ()))(*known.values())


def _inner(eqn):
    """The jaxpr of a call that runs exactly once, such as a jit; else None."""
    if eqn.primitive.name in ("scan", "while", "cond"):
        return None
    for name in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        found = eqn.params.get(name)
        if found is not None:
            return found if hasattr(found, "consts") else ClosedJaxpr(found, ())
    return None


def _gather_in_bounds(values, params):
    operand, indices = values
    axes = np.array(params["dimension_numbers"].start_index_map, int)
    room = np.subtract(operand.shape, params["slice_sizes"])[axes]
    return ((indices >= 0) & (indices <= jnp.asarray(room, indices.dtype))).all()


def _is_zero(value):
    return not isinstance(value, jax.core.Tracer) and np.ndim(value) == 0 and not np.asarray(value)
