"""``Spec``, the frozen and hashable base class of models, bijectors and noise leaves.

The fields of a spec decide shapes and control flow: numbers, strings, tuples and other specs.
Arrays are params. Equal specs have equal hashes, so that they share compiled programs; a spec
prints as source code and is saved as JSON.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import operator
import types
import typing
from typing import Annotated, Any, dataclass_transform

import jax

Params = Any  # a pytree of arrays

_registry: dict[str, type[Spec]] = {}


class AtLeast(typing.NamedTuple):
    """Annotation of a field: the smallest value that it may have."""

    least: float


Count = Annotated[int, AtLeast(1)]
NonNegative = Annotated[float, AtLeast(0)]


@dataclass_transform(frozen_default=True)
class Spec:
    """Base class of specs. A subclass becomes a frozen dataclass without a decorator.

    Fields are cast to their annotated types: since ``1 == 1.0``, specs with fields of other types
    would share a compiled program.

    >>> class Disc(Spec):
    ...     radius: float = 1.0
    >>> Disc(2)
    Disc(radius=2.0)
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        dataclasses.dataclass(frozen=True)(cls)
        # without pseudo-fields of class variables, which would fix the position of later fields
        cls.__dataclass_fields__ = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore
        jax.tree_util.register_static(cls)
        _registry[spec_name(cls)] = cls

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value = cast_field(type(self), field.name, getattr(self, field.name))
            object.__setattr__(self, field.name, value)


def cast_field(cls: type, name: str, value: Any) -> Any:
    """The value of a field of a spec, as the annotated type.

    Raises:
      TypeError, ValueError: it is of another type, or out of range; the message names the field.
    """
    return _cast(value, _hints(cls)[name], f"{cls.__name__}: {name}")


def spec_name(cls: type) -> str:
    """The name of a spec in files: the class name, with its module unless that is in jaxgen."""
    return cls.__qualname__ if is_builtin(cls) else f"{cls.__module__}.{cls.__qualname__}"


def is_builtin(cls: type) -> bool:
    """Whether a class is defined in jaxgen."""
    return cls.__module__.split(".")[0] == "jaxgen"


def to_json(spec: Spec) -> dict[str, Any]:
    """A spec as plain JSON values; ``from_json`` is its inverse."""

    def plain(value: Any) -> Any:
        if isinstance(value, Spec):
            return to_json(value)
        if isinstance(value, float) and not math.isfinite(value):
            return str(value)  # JSON has no infinity; the cast of the field reads the text
        return [plain(v) for v in value] if isinstance(value, tuple) else value

    fields = {f.name: plain(getattr(spec, f.name)) for f in dataclasses.fields(spec)}  # type: ignore[arg-type]
    return {"spec": spec_name(type(spec)), **fields}


def from_json(data: Any) -> Spec:
    """The spec of a result of ``to_json``. Its classes must be defined; nothing is imported.

    Raises:
      ValueError: a spec is unknown, or does not have a field.
    """
    if not isinstance(data, dict) or not isinstance(data.get("spec"), str):
        raise ValueError(
            f"a spec must be a JSON object with the key 'spec', got {type(data).__name__}"
        )
    name = data["spec"]
    if name not in _registry:
        where = "import the module that defines it"
        if name.startswith("__main__."):
            where = "define it here, as it was defined in the main script or in a notebook"
        raise ValueError(f"unknown spec {name!r}: {where}, then load again")

    def build(value: Any) -> Any:
        if isinstance(value, dict):
            return from_json(value)
        return tuple(build(v) for v in value) if isinstance(value, list) else value

    try:
        spec = _registry[name](**{k: build(v) for k, v in data.items() if k != "spec"})
    except TypeError as error:
        raise ValueError(f"spec {name!r} cannot be built from {sorted(data)}: {error}") from error
    if not isinstance(spec, Spec):
        raise ValueError(f"spec {name!r} cannot be built from {sorted(data)}: it lacks a field")
    return spec


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls, include_extras=True)


def _cast(value: Any, hint: Any, where: str) -> Any:
    """The value as the annotated type; an error begins with ``where``, the name of the field."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        value = _cast(value, args[0], where)
        for bound in args[1:]:
            if isinstance(bound, AtLeast) and not bound.least <= value < math.inf:
                finite = " and finite" if value == math.inf else ""
                raise ValueError(f"{where} must be at least {bound.least}{finite}, got {value}")
        return value
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        rest = [a for a in args if a is not type(None)]
        for choice in rest[:-1]:
            try:
                return _cast(value, choice, where)
            except (TypeError, ValueError):
                continue
        return _cast(value, rest[-1], where)
    if origin is typing.Literal:
        if value not in args:
            raise ValueError(f"{where} must be one of {args}, got {value!r}")
        return value
    if origin is tuple:
        if value is None:
            raise TypeError(f"{where} must be a tuple, got None")
        many = hasattr(value, "__iter__") and not isinstance(value, str)
        items = tuple(value) if many else (value,)
        if args[-1] is Ellipsis:
            return tuple(_cast(v, args[0], where) for v in items)
        if len(items) != len(args):
            raise ValueError(f"{where} must have {len(args)} entries, got {len(items)}")
        return tuple(_cast(v, a, where) for v, a in zip(items, args, strict=True))
    if hint is int:
        if isinstance(value, bool):
            raise TypeError(f"{where} must be an int, got {value!r}")
        try:
            return operator.index(value)
        except TypeError:
            raise TypeError(f"{where} must be an int, got {value!r}") from None
    if hint is float:
        try:
            value = float(value)
        except (TypeError, ValueError):
            raise TypeError(f"{where} must be a number, got {value!r}") from None
        if math.isnan(value):
            raise ValueError(f"{where} must be a number, got NaN")
        return value
    if isinstance(hint, type) and not isinstance(value, hint):
        got = f"{type(value).__name__} {value!r:.60}"
        if isinstance(getattr(value, "model", None), hint):
            got = f"a {type(value).__name__}: pass its attribute model"
        raise TypeError(f"{where} must be a {hint.__name__}, got {got}")
    return value
