"""Templates: models of which some fields follow from data.

A model's fields ``dim`` (the number of features), ``shape`` (the shape of an event), ``classes``
(the number of labels), ``length`` and ``vocabulary`` (of sequences of tokens) may be left out where
the class gives them no default. Then ``Gaussian()`` is a template, and ``fit`` makes it a model.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import inspect
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxgen.core.spec import cast_field


def _shape(x: Any, y: Any) -> tuple[int, ...]:
    return np.shape(x)[1:]


def _size(name: str, x: Any, y: Any) -> int:
    shape = _shape(x, y)
    if len(shape) != 1:
        sizes = ", ".join(["n", *map(str, shape)]) + ("" if shape else ",")
        wanted = "hold texts (str), or tokens of" if name == "length" else "have"
        raise ValueError(f"x must {wanted} shape (n, {name}), got ({sizes})")
    return shape[0]


def _classes(x: Any, y: Any) -> int:
    if y is None:
        raise ValueError("y is missing, which holds the label of each event")
    y = np.asarray(y)
    if y.ndim != 1:
        raise ValueError(f"y must have shape (n,), one label for each event; got {y.shape}")
    return len(set(y.tolist()))


def _vocabulary(x: Any, y: Any) -> int:
    raise ValueError("give the number of tokens, which follows from texts alone")


_FROM_DATA: dict[str, Callable[[Any, Any], Any]] = {
    "dim": functools.partial(_size, "dim"),
    "shape": _shape,
    "classes": _classes,
    "length": functools.partial(_size, "length"),
    "vocabulary": _vocabulary,
}


class Template:
    """A model of which some fields follow from data, such as ``Gaussian()`` without its ``dim``.

    ``jaxgen.fit`` makes it a model. Until then it has none of the methods of a model.

    >>> template = jaxgen.models.GaussianMixture(components=8)
    >>> template.for_data(x)
    GaussianMixture(dim=2, components=8, covariance='full', jitter=1e-06)
    """

    def __init__(self, cls: type, values: dict[str, Any], missing: tuple[str, ...]):
        self._cls, self._missing = cls, missing
        self._values = {name: _checked(cls, name, value) for name, value in values.items()}

    def for_data(self, x: Any, y: Any = None, known: Mapping[str, Any] | None = None) -> Any:
        """The model for arrays of events x (n, *event_shape) and labels or conditions y (n, ...).

        Args:
          x, y: the arrays.
          known: values of fields that follow from texts. A model that has all of these fields
            takes those that are not given.

        Raises:
          ValueError: a field does not follow, as x or y has another shape or y is missing.
        """
        values = {name: model_for_data(value, x, y, known) for name, value in self._values.items()}
        if known and all(map(self.has_field, known)):
            values = {**known, **values}
        for name in self._missing:
            if name in values:
                continue
            try:
                values[name] = _FROM_DATA[name](x, y)
            except (TypeError, ValueError) as error:
                why = f"{self!r:.80}: {name} does not follow from data: {error}"
                raise type(error)(why) from None
        return self._cls(**values)

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={value!r}" for name, value in self._values.items())
        return f"{self._cls.__qualname__}({values})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Template) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash((self._cls, tuple(self._values.items())))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # as copy and pickle ask for
            raise AttributeError(name)
        if name in self._values:
            return self._values[name]
        if not (hasattr(self._cls, name) or self.has_field(name)):
            raise AttributeError(f"{self._cls.__name__} has no {name}")
        fields = " and ".join(self._all_missing())
        raise AttributeError(
            f"{self!r:.80} has no {name} before jaxgen.fit, which takes {fields} from the data; "
            f"or give {fields} yourself"
        )

    def has_field(self, name: str) -> bool:
        """Whether the model has a field, given or not."""
        return any(field.name == name for field in dataclasses.fields(self._cls))

    def fields(self) -> dict[str, Any]:
        """The values of the fields that are given or have a default, by name."""
        names = [field.name for field in dataclasses.fields(self._cls)]
        defaults = {field.name: field.default for field in dataclasses.fields(self._cls)}
        values = {**defaults, **self._values}
        without = (*self._missing, *(k for k in names if values[k] is dataclasses.MISSING))
        return {name: values[name] for name in names if name not in without}

    def replace(self, **changes: Any) -> Any:
        """The template, or the model if it is complete, with other values of some fields.

        >>> jaxgen.models.GaussianMixture(components=8).replace(components=3)
        GaussianMixture(components=3)
        """
        return self._cls(**{**self._values, **changes})

    @property
    def needs_labels(self) -> bool:
        """Whether the number of labels follows from data."""
        return "classes" in self._all_missing()

    def _all_missing(self) -> list[str]:
        names = list(self._missing)
        for value in self._values.values():
            for one in value if isinstance(value, tuple) else (value,):
                if isinstance(one, Template):
                    names += one._all_missing()
        return list(dict.fromkeys(names))


class ModelType(type):
    """The class of model classes: a call that leaves out a field that follows from data is a
    ``Template``."""

    _from_data: tuple[str, ...] = ()  # fields that follow from data although they have a default

    @property
    def __signature__(cls) -> inspect.Signature:
        """The arguments of the class, for ``help``."""
        signature = inspect.signature(vars(cls)["__init__"])  # which a dataclass writes
        fields = list(signature.parameters.values())[1:]
        return signature.replace(parameters=fields, return_annotation=inspect.Signature.empty)

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        missing = _missing(cls, len(args), frozenset(kwargs))
        if not missing and not any(map(_is_template, (*args, *kwargs.values()))):
            try:
                return super().__call__(*args, **kwargs)
            except TypeError:
                cls._bind(args, kwargs)  # raises if the arguments are not those of the class
                raise
        values = cls._bind(args, {**kwargs, **dict.fromkeys(missing)})
        return Template(cls, {k: v for k, v in values.items() if k not in missing}, missing)

    def _bind(cls, args: Sequence[Any], kwargs: dict[str, Any]) -> dict[str, Any]:
        """The arguments of a call by name.

        Raises:
          TypeError: a name is unknown, an argument is missing, or there are too many.
        """
        signature, name = cls.__signature__, cls.__name__
        try:
            return dict(signature.bind(*args, **kwargs).arguments)
        except TypeError as error:
            wrong = f": {error}"
        known = list(signature.parameters)
        listed = ", ".join(known)
        for unknown in (key for key in kwargs if key not in known):
            near = _nearest(unknown, known)
            raise TypeError(f"{name} has no argument {unknown!r}; {near}its arguments are {listed}")
        if len(args) > len(known):
            most = f"{len(known)} argument{'s' * (len(known) != 1)}"
            wrong = f" takes at most {most} ({listed}), got {len(args)}"
            first = typing.get_type_hints(cls).get(known[0]) if known else None
            if typing.get_origin(first) is tuple:
                wrong += f": write {name}((a, b)), with a tuple"
        raise TypeError(f"{name}{wrong}")


def model_for_data(
    model: Any, x: Any, y: Any = None, known: Mapping[str, Any] | None = None
) -> Any:
    """The model that a template makes for arrays x and y, also of templates in a tuple; anything
    else unchanged."""
    if isinstance(model, tuple) and _is_template(model):
        return tuple(model_for_data(one, x, y, known) for one in model)
    return model.for_data(x, y, known) if isinstance(model, Template) else model


def _is_template(value: Any) -> bool:
    """Whether a value is a template, or a tuple or a list that holds one."""
    return isinstance(value, Template) or (
        isinstance(value, (tuple, list)) and any(isinstance(one, Template) for one in value)
    )


def _checked(cls: Any, name: str, value: Any) -> Any:
    """The value of a field of a template, cast as in the model if it holds no templates."""
    if not _is_template(value):
        known = any(field.name == name for field in dataclasses.fields(cls))
        return cast_field(cls, name, value) if known else value
    if isinstance(value, Template):
        return value
    if not getattr(cls, "same_events", False):
        one = next(one for one in value if isinstance(one, Template))
        fields = " and ".join(one._all_missing())
        raise TypeError(
            f"{cls.__name__}: {name} holds {one!r:.60}, whose {fields} must be given, as each of "
            f"the {name} has its share of the features"
        )
    for one in value:
        if not isinstance(one, Template):
            cast_field(cls, name, (one,))
    return tuple(value)


def _nearest(unknown: str, known: list[str]) -> str:
    """A hint of the name that an unknown one may stand for, or ""."""
    near = [name for name in known if name in unknown or unknown in name]
    near = near or difflib.get_close_matches(unknown, known, 1)
    return f"did you mean {near[0]!r}? " if near else ""


@functools.cache
def _missing(cls: Any, positional: int, named: frozenset[str]) -> tuple[str, ...]:
    """The fields that a call leaves out, and that follow from data."""
    fields = dataclasses.fields(cls) if dataclasses.is_dataclass(cls) else ()
    arguments = inspect.signature(cls).parameters  # a class may have an __init__ of its own
    names = [
        field.name
        for j, field in enumerate(fields)
        if field.name in _FROM_DATA
        and j >= positional
        and field.name not in named
        and field.name in arguments
        and (field.default is dataclasses.MISSING or field.name in cls._from_data)
    ]
    hints = typing.get_type_hints(cls) if names else {}
    return tuple(n for n in names if hints[n] is int or typing.get_origin(hints[n]) is tuple)
