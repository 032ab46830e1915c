"""Templates: models of which some fields follow from data.

A model's fields ``dim`` (the number of features), ``shape`` (the shape of an event) and ``classes``
(the number of labels) may be left out where the class gives them no default. Then ``Gaussian()``
is a template, and ``fit`` makes it a model.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import typing
from typing import Any

import numpy as np


def _shape(x: Any, y: Any) -> tuple[int, ...]:
    return np.shape(x)[1:]


def _dim(x: Any, y: Any) -> int:
    shape = _shape(x, y)
    if len(shape) != 1:
        sizes = ", ".join(["n", *map(str, shape)]) + ("" if shape else ",")
        raise ValueError(f"x must have shape (n, dim), got ({sizes})")
    return shape[0]


def _classes(x: Any, y: Any) -> int:
    if y is None:
        raise ValueError("y is missing, which holds the label of each event")
    y = np.asarray(y)
    if y.ndim != 1:
        raise ValueError(f"y must have shape (n,), one label for each event; got {y.shape}")
    return len(set(y.tolist()))


_FROM_DATA = {"dim": _dim, "shape": _shape, "classes": _classes}


class Template:
    """A model of which some fields follow from data, such as ``Gaussian()`` without its ``dim``.

    ``jaxgen.fit`` makes it a model. Until then it has none of the methods of a model.

    >>> template = jaxgen.models.GaussianMixture(components=8)
    >>> template.for_data(x)
    GaussianMixture(dim=2, components=8, covariance='full', jitter=1e-06)
    """

    def __init__(self, cls: type, values: dict[str, Any], missing: tuple[str, ...]):
        self._cls, self._values, self._missing = cls, values, missing

    def for_data(self, x: Any, y: Any = None) -> Any:
        """The model for arrays of events x (n, *event_shape) and labels or conditions y (n, ...).

        Raises:
          ValueError: a field does not follow, as x or y has another shape or y is missing.
        """
        values = {name: model_for_data(value, x, y) for name, value in self._values.items()}
        for name in self._missing:
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
        fields = " and ".join(self._all_missing())
        raise AttributeError(
            f"{self!r:.80} has no {name} before jaxgen.fit, which takes {fields} from the data; "
            f"or give {fields} yourself"
        )

    def has_field(self, name: str) -> bool:
        """Whether the model has a field, given or not."""
        return any(field.name == name for field in dataclasses.fields(self._cls))

    @property
    def needs_labels(self) -> bool:
        """Whether the number of labels follows from data."""
        return "classes" in self._all_missing()

    def _all_missing(self) -> list[str]:
        names = list(self._missing)
        for value in self._values.values():
            if isinstance(value, Template):
                names += value._all_missing()
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
        if not missing and not any(isinstance(v, Template) for v in (*args, *kwargs.values())):
            return super().__call__(*args, **kwargs)
        without = dict.fromkeys(missing)
        # raises for an unknown field, and for one that is missing and does not follow from data
        values = cls.__signature__.bind(*args, **kwargs, **without).arguments
        return Template(cls, {k: v for k, v in values.items() if k not in missing}, missing)


def model_for_data(model: Any, x: Any, y: Any = None) -> Any:
    """The model that a template makes for arrays x and y; anything else unchanged."""
    return model.for_data(x, y) if isinstance(model, Template) else model


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
