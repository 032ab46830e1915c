"""Optimizers as static arguments: optimizers that are built alike are equal, and compile once."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import types
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.core.spec import NonNegative, Spec

if TYPE_CHECKING:
    import optax

_WARMUP = 0.02  # share of the steps in which the learning rate rises to its peak
_FINAL = 0.01  # learning rate at the end, as a share of the peak
_DEEPEST = 60
_OWN_STATE = ("jax", "jaxlib", "numpy", "optax", "chex")  # whose globals are constants


class Adam(Spec):
    """Adam with clipped gradients and a cosine learning rate (AdamW): the default of ``fit``.

    Its numbers are inputs of the compiled program, so a change of learning rate compiles nothing.

    Args:
      learning_rate: peak rate; it rises from 0 and falls to a hundredth over the planned epochs.
      clip: largest global norm of a gradient of the mean negative log-likelihood, in nats.
      weight_decay: decoupled weight decay of params with two or more dimensions, as a multiple of
        the learning rate.

    Source: Kingma and Ba 2015; Loshchilov and Hutter 2017 (cosine) and 2019 (weight decay).

    >>> fitted = jaxgen.fit(model, x, key=jax.random.key(0), optimizer=Adam(1e-3))
    """

    learning_rate: NonNegative = 5e-3
    clip: NonNegative = 10.0
    weight_decay: NonNegative = 0.0


class ByStructure:
    """An optax optimizer that equals any other with the same code and captured values.

    ``optax.adam(1e-3)`` is a pair of closures, and closures are never equal, so with them as a
    static argument every fit would compile anew.
    """

    def __init__(self, transformation: optax.GradientTransformation):
        self.transformation = transformation
        self._key = _structure(transformation, ())
        self._hash = hash(self._key)

    def __hash__(self):
        return self._hash

    def __eq__(self, other):
        return isinstance(other, ByStructure) and self._key == other._key


def prepare(optimizer: Any, members: int | None = None) -> tuple[Any, Any]:
    """The static and the traced part of an optimizer.

    With members, the traced part has a leading axis of them; ``optimizer`` may then be a list.
    """
    specs = _specs(optimizer, members)
    if specs:
        numbers = [[spec.learning_rate, spec.clip, spec.weight_decay] for spec in specs]
        traced = np.asarray(numbers, jnp.result_type(float))
        return Adam, traced[0] if members is None else traced
    import optax  # imported here because it takes as long as all of jaxgen

    if isinstance(optimizer, optax.GradientTransformation):
        return ByStructure(optimizer), None
    raise TypeError(
        "optimizer must be an optax GradientTransformation such as optax.adam(1e-3), or "
        f"a jaxgen.training.Adam, got {type(optimizer).__name__} {optimizer!r:.40}"
    )


def members(optimizer: Any, ensemble: int | None) -> int | None:
    """The members of an ensemble, which a list of optimizers gives too; None for a single fit.

    Raises:
      TypeError, ValueError: a list of something else than Adam, or of another length.
    """
    if not _is_list(optimizer):
        return ensemble
    if not optimizer or not all(isinstance(spec, Adam) for spec in optimizer):
        raise TypeError(f"optimizer: a list must hold an Adam a member, got {optimizer!r:.60}")
    if ensemble not in (None, len(optimizer)):
        raise ValueError(
            f"optimizer must hold an Adam a member, got {len(optimizer)} for ensemble={ensemble}"
        )
    return len(optimizer)


def _is_list(optimizer):
    # optax's transformations are named tuples
    return type(optimizer) in (list, tuple)


def describe(optimizer: Any, members: int | None) -> str:
    """A text that is the same in every process for optimizers that are built alike."""
    specs = _specs(optimizer, members)
    if specs:
        return repr(specs[0] if len(set(specs)) == 1 else specs)
    text = repr(_portable(ByStructure(optimizer)._key))
    return f"optax {hashlib.sha256(text.encode()).hexdigest()}"


def _specs(optimizer: Any, members: int | None) -> list[Adam]:
    """One Adam for each member; an empty list if the optimizer is optax's."""
    if _is_list(optimizer):
        return list(optimizer)
    spec = Adam() if optimizer is None else optimizer
    return [spec] * (members or 1) if isinstance(spec, Adam) else []


def _portable(key: Any) -> Any:
    """The structure without object identities, which do not outlive the process: such an object
    becomes the name of its type."""
    if isinstance(key, tuple):
        return tuple(map(_portable, key))
    if isinstance(key, types.CodeType):
        constants = [_portable(c) for c in key.co_consts if not isinstance(c, frozenset)]
        return key.co_qualname, key.co_code, constants, key.co_names
    if isinstance(key, _identity):
        key = getattr(key.value, "__qualname__", type(key.value))
    return key.__qualname__ if isinstance(key, type) else key


def build(
    static: Any, traced: Any, steps: Any, decayed: int
) -> optax.GradientTransformationExtraArgs:
    """The optax transformation of a prepared optimizer, for a run of ``steps`` steps.

    Adam takes params as one vector; weight decay acts on its first ``decayed`` numbers.
    """
    import optax

    if isinstance(static, ByStructure):
        return optax.with_extra_args_support(static.transformation)
    peak, clip, decay = traced[0], traced[1], traced[2]

    def shrink(updates, params):
        share = jnp.where(jnp.arange(len(params)) < decayed, decay, 0)
        return updates + share * params

    def rate(count):
        share = (count + 1) / jnp.maximum(steps, 1).astype(peak.dtype)
        rise = jnp.minimum(share / _WARMUP, 1)
        fall = 0.5 * (1 + jnp.cos(jnp.pi * jnp.minimum(share, 1)))
        return peak * rise * (_FINAL + (1 - _FINAL) * fall)

    return optax.with_extra_args_support(
        optax.chain(
            optax.clip_by_global_norm(clip),
            optax.scale_by_adam(),
            optax.stateless(shrink),
            optax.scale_by_learning_rate(rate),
        )
    )


def _structure(value: Any, path: tuple[int, ...]) -> Any:
    """A hashable value, equal for objects that behave alike; the identity if that is unknown."""
    if value is None or isinstance(value, (bool, int, str, bytes, types.CodeType)):
        return type(value).__name__, value
    if isinstance(value, (float, complex)):
        return type(value).__name__, repr(value)  # by its text, as 0.0 == -0.0
    if id(value) in path:
        return "cycle", path.index(id(value))
    if len(path) > _DEEPEST:
        return _identity(value)
    inside = functools.partial(_structure, path=(*path, id(value)))
    if isinstance(value, types.FunctionType):
        cells = tuple(inside(_contents(cell)) for cell in value.__closure__ or ())
        defaults = inside(value.__defaults__), inside(value.__kwdefaults__)
        globals_key = _identity(value.__globals__), _globals(value, inside)
        return "function", value.__code__, globals_key, cells, defaults
    if isinstance(value, types.MethodType):
        return "method", inside(value.__func__), inside(value.__self__)
    if isinstance(value, functools.partial):
        return "partial", inside(value.func), inside(value.args), inside(value.keywords)
    if isinstance(value, (tuple, list)):
        return (type(value), *map(inside, value))
    if isinstance(value, dict):
        return ("dict", *((inside(k), inside(v)) for k, v in value.items()))
    if isinstance(value, (np.ndarray, np.generic, jax.Array)):
        is_key = jnp.issubdtype(value.dtype, jax.dtypes.prng_key)
        array = np.asarray(jax.random.key_data(value) if is_key else value)  # type: ignore[arg-type]
        if array.dtype.hasobject:
            return _identity(value)
        return type(value), array.shape, str(array.dtype), array.tobytes()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = (inside(getattr(value, f.name, None)) for f in dataclasses.fields(value))
        return (type(value), *fields)
    if type(value).__module__.split(".")[0] == "optax" and hasattr(value, "__dict__"):
        return type(value), inside(vars(value))
    return _identity(value)


class _identity:
    """Compared by identity. It holds the object, so that no other object gets its id."""

    def __init__(self, value):
        self.value = value

    def __hash__(self):
        return id(self.value)

    def __eq__(self, other):
        return isinstance(other, _identity) and self.value is other.value


def _contents(cell):
    try:
        return cell.cell_contents
    except ValueError:  # not yet filled
        return None


def _globals(function, inside):
    """Values of the globals that a user's function reads, as those of a schedule may change."""
    if (function.__module__ or "").split(".")[0] in _OWN_STATE:
        return ()
    names, codes = set(), [function.__code__]
    while codes:
        code = codes.pop()
        names.update(code.co_names)
        codes.extend(c for c in code.co_consts if isinstance(c, types.CodeType))
    known = function.__globals__
    return tuple((name, inside(known[name])) for name in sorted(names) if name in known)
