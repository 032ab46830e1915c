"""Checks that a model's methods run and return what the contract states.

The methods are traced for one event, so nothing is compiled and no number is computed. ``fit`` runs
the checks on models that are defined outside of jaxgen, and ``jaxgen.check`` on any model.
"""

from __future__ import annotations

import contextlib
import functools
import operator
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import constraints

from jaxgen.core import random
from jaxgen.core.model import Model, Params, is_invertible
from jaxgen.core.spec import is_builtin
from jaxgen.core.wrapper import inner_of

_HINTS = {  # by the name of an error that an author's method may raise
    "TracerBoolConversionError": (
        "`if`, `and`, `or` and `while` need plain values: use jnp.where, & and |, or jax.lax.cond"
    ),
    "TracerArrayConversionError": "NumPy does not take traced arrays: use jax.numpy instead",
    "TracerIntegerConversionError": "what decides a shape must be a field of the model",
    "ConcretizationTypeError": (
        "float(), int() and shapes need plain values: use jax.numpy, or a field of the model"
    ),
    "FrozenInstanceError": (
        "a model cannot change: settings are fields, and numbers that are learnt are params"
    ),
    "UnexpectedTracerError": (
        "a method stored an array outside of itself: return it, as methods are pure functions"
    ),
    "ScopeCollectionNotFound": "a network has no state but params, so BatchNorm is not possible",
    "NonEmptyStateError": "a network has no state but params, so BatchNorm is not possible",
    "InvalidRngError": "a network takes no random numbers, so dropout must be switched off",
    "KeyReuseError": "the method uses its key twice: jax.random.split makes several of it",
    "KeyError": "params are what `init` returns: it must return every name that the methods read",
}


def check_own(model: Model) -> None:
    """Raise if a model that is defined outside of jaxgen, or one inside it, breaks the contract.

    Methods that are missing are not checked: a model that is only scored needs no ``push``. Nor are
    methods of a model whose ``init`` fails without data, since ``fit`` gives it data.

    Raises:
      TypeError: as the checks below; or a method raises an error.
    """
    for own in _own_models(model):
        _check_once(own)


def _own_models(model: Any) -> Iterator[Model]:
    if not is_builtin(type(model)):
        yield model
    for inner in inner_of(model):
        yield from _own_models(inner.model)


@functools.lru_cache(maxsize=256)
def _check_once(model: Model) -> None:
    check_facts(model)
    try:
        start = traced_init(model)
    except Exception:
        return
    check_start(model, start)
    for check in (check_density, check_draws):
        with contextlib.suppress(NotImplementedError):
            check(model, start.params)


def check_facts(model: Model) -> None:
    """Raise if ``event_shape``, ``y_shape`` or ``support`` breaks the contract.

    Raises:
      TypeError: one of them is missing or of another kind; the message names it.
    """
    name = type(model).__name__
    if not hasattr(type(model), "event_shape"):
        raise TypeError(f"{name} must define event_shape, the shape of one event, such as (2,)")
    for fact in ("event_shape", "y_shape"):
        shape = getattr(model, fact)
        if not (shape is None and fact == "y_shape") and not _is_shape(shape):
            raise TypeError(
                f"{name}.{fact} must be a tuple of ints such as (2,), got {shape!r:.60}"
            )
    if not isinstance(model.support, constraints.Constraint):
        raise TypeError(
            f"{name}.support must be a property that returns a NumPyro constraint such as "
            f"constraints.independent(constraints.positive, 1), got {model.support!r:.60}"
        )
    inside = traced(f"{name}.support", model.support, _example(model)[0])
    _require_scalar(f"{name}.support", inside, "wrap it in constraints.independent")


class Start(NamedTuple):
    """The result of ``model.init(key)``, without data.

    Attributes:
      params: the pytree, with shapes and dtypes in place of arrays.
      types: the type of each leaf, by its place, such as "base/mean".
    """

    params: Params
    types: dict[str, type]


def traced_init(model: Model) -> Start:
    """The result of ``model.init(key)``.

    Raises:
      TypeError: ``init`` raises an error.
    """
    types: dict[str, type] = {}

    def init(key):
        params = model.init(key)
        for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            types[name] = jax.Array if isinstance(leaf, jax.Array) else type(leaf)
        return params

    return Start(traced(f"{type(model).__name__}.init(key)", init, _key()), types)


def check_start(model: Model, start: Start) -> None:
    """Raise if ``model.init(key)`` does not return params.

    Raises:
      TypeError: it returns None, leaves such as Python floats, or nothing that gradients can learn.
    """
    where = f"{type(model).__name__}.init"
    if start.params is None:
        raise TypeError(f"{where} must return params, a pytree of arrays; got None")
    for path, kind in start.types.items():
        # gradients do not change a whole number, so it may be one of Python
        if not issubclass(kind, (jax.Array, np.ndarray, np.generic, int)):
            raise TypeError(
                f"{where} must return arrays, but {path!r} is a {kind.__name__}: use jnp.asarray"
            )
    dtypes = [leaf.dtype for leaf in jax.tree_util.tree_leaves(start.params)]
    learnable = any(jnp.issubdtype(dtype, jnp.floating) for dtype in dtypes)
    if dtypes and not learnable and model.learning.method == "gradient":
        raise TypeError(
            f"{where} must return at least one array of floats, as gradients learn no other; "
            f"{next(iter(start.types))!r} is {dtypes[0]}"
        )


def check_density(model: Model, params: Params) -> None:
    """Raise if ``log_prob`` or ``log_prior`` does not return what the contract states.

    Args:
      model: the spec.
      params: arrays, or their shapes and dtypes.

    Raises:
      TypeError: a result has another shape or kind; the message names the method.
    """
    name, (x, y) = type(model).__name__, _example(model)
    if model.traits.density != "none":
        score = traced(f"{name}.log_prob", model.log_prob, params, x, y)
        _require_scalar(f"{name}.log_prob", score, "sum over the features")
        if not jnp.issubdtype(score.dtype, jnp.floating):
            raise TypeError(f"{name}.log_prob must return a float, got {score.dtype}")
    if model.classes is not None:
        prior = traced(f"{name}.log_prior", model.log_prior, params)
        if getattr(prior, "shape", None) != (model.classes,):
            raise TypeError(
                f"{name}.log_prior must return one number for each label, shape "
                f"{(model.classes,)}; got {_described(prior)}"
            )


def check_draws(model: Model, params: Params) -> None:
    """Raise if ``noise``, ``push`` or ``pull`` does not return what the contract states.

    Arguments and errors are as in ``check_density``.
    """
    name, (x, y) = type(model).__name__, _example(model)
    leaves = model.noise()
    for leaf in jax.tree_util.tree_leaves(leaves, is_leaf=random.is_leaf):
        if not random.is_leaf(leaf):
            raise TypeError(
                f"{name}.noise must return leaves of jaxgen.random such as Normal((2,)), or a "
                f"pytree of them; got {leaves!r:.60}"
            )
    noise = jax.eval_shape(functools.partial(_one_noise, leaves, x.dtype), _key())
    event = traced(f"{name}.push", model.push, params, noise, y)
    if getattr(event, "shape", None) != model.event_shape:
        raise TypeError(
            f"{name}.push must return one event of shape {model.event_shape}, as event_shape says; "
            f"got {_described(event)}"
        )
    if is_invertible(model):
        found = traced(f"{name}.pull", model.pull, params, x, y)
        if _shapes(found) != _shapes(noise):
            raise TypeError(
                f"{name}.pull must return noise like that of noise(), {_described(noise)}; got "
                f"{_described(found)}"
            )


def check_repeatable(model: Model, params: Params) -> None:
    """Raise if ``log_prob`` or ``push`` draws random numbers, or depends on earlier calls.

    Each is traced twice, and both traces must hold the same constants. Arguments are as in
    ``check_density``.

    Raises:
      TypeError: the constants differ; the message names the method.
    """
    name, (x, y) = type(model).__name__, _example(model)
    noise = jax.eval_shape(functools.partial(_one_noise, model.noise(), x.dtype), _key())
    calls = {"push": (model.push, params, noise, y), "log_prob": (model.log_prob, params, x, y)}
    if model.traits.density == "none":
        del calls["log_prob"]
    for method, (call, *args) in calls.items():
        first, second = (_constants(call, args) for _ in range(2))
        if first != second:
            source = "its argument noise" if method == "push" else "nothing"
            raise TypeError(
                f"{name}.{method} gives another result each time it is traced: it may take random "
                f"numbers from {source} only, not from np.random or a key of its own, and must "
                "not change what it reads"
            )


def _constants(method: Callable[..., Any], args: list[Any]) -> list[bytes]:
    """The values of the constants in the operations of a method, in order."""
    closed = jax.make_jaxpr(lambda *args: method(*args))(*args)  # a new function is traced anew
    found: list[bytes] = []

    def collect(jaxpr, constants):
        inputs = [v.val for eqn in jaxpr.eqns for v in eqn.invars if hasattr(v, "val")]
        for value in (*constants, *inputs):
            if not jnp.issubdtype(jnp.result_type(value), jax.dtypes.extended):
                found.append(np.asarray(value).tobytes())
        for eqn in jaxpr.eqns:
            for inner in jax.tree_util.tree_leaves(eqn.params, is_leaf=_has_operations):
                if hasattr(inner, "jaxpr"):
                    collect(inner.jaxpr, inner.consts)
                elif hasattr(inner, "eqns"):
                    collect(inner, ())

    collect(closed.jaxpr, closed.consts)
    return found


def _has_operations(value: Any) -> bool:
    return hasattr(value, "jaxpr") or hasattr(value, "eqns")


def hint(error: BaseException) -> str:
    """Advice for the author of a method that raises the error; "" if there is none."""
    return next((_HINTS[c.__name__] for c in type(error).__mro__ if c.__name__ in _HINTS), "")


def traced(where: str, method: Callable[..., Any], *args: Any) -> Any:
    """Shapes and dtypes of a method's result. An error of the method becomes one that names it."""
    try:
        return jax.eval_shape(method, *args)
    except NotImplementedError:
        raise
    except Exception as error:
        shapes = ", ".join("None" if arg is None else _described(arg) for arg in args)
        text, advice = str(error).strip().split("\n")[0], hint(error)
        raise TypeError(
            f"{where} raised {type(error).__name__}: {text} when called with ({shapes})"
            + (f": {advice}" if advice else "")
        ) from error


def _require_scalar(where, result, advice):
    if getattr(result, "shape", None) == ():
        return
    advice = "is a return missing?" if result is None else advice
    raise TypeError(
        f"{where} must return a scalar for one event, got {_described(result)}: {advice}"
    )


def _described(tree: Any) -> str:
    """The shapes of a pytree's arrays: "shape (2,)" or "{'rate': (2,)}"."""
    if hasattr(tree, "shape"):
        is_key = jnp.issubdtype(tree.dtype, jax.dtypes.prng_key)
        return "a key" if is_key else f"shape {tree.shape}"
    return repr(jax.tree_util.tree_map(lambda leaf: _Text(leaf.shape), tree))


class _Text:
    def __init__(self, value: Any):
        self.value = value

    def __repr__(self) -> str:
        return str(self.value)


def _shapes(tree: Any) -> tuple[Any, Any]:
    leaves, structure = jax.tree_util.tree_flatten(tree)
    return structure, [leaf.shape for leaf in leaves]


def _is_shape(value: Any) -> bool:
    try:
        return isinstance(value, tuple) and all(operator.index(n) >= 0 for n in value)
    except TypeError:
        return False


def _example(model: Model) -> tuple[Any, Any]:
    """Shapes and dtypes of one event and its condition, or None."""
    dtype = jnp.result_type(float)
    x = jax.ShapeDtypeStruct(model.event_shape, dtype)
    if model.y_shape is None:
        return x, None
    whole = model.classes is not None or getattr(model.y_support, "is_discrete", False)
    return x, jax.ShapeDtypeStruct(model.y_shape, jnp.int32 if whole else dtype)


def _one_noise(leaves, dtype, key):
    rows = random.draw(leaves, key, np.zeros(2, np.uint32), 1, dtype)
    return jax.tree_util.tree_map(lambda leaf: leaf[..., 0], rows)


@functools.cache
def _key() -> jax.ShapeDtypeStruct:
    return jax.eval_shape(lambda: jax.random.key(0))
