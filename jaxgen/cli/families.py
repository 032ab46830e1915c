"""Models from the texts of the command line: their classes, fields and domains."""

from __future__ import annotations

import ast
import dataclasses
import difflib
import importlib
import json
import os
import re
import sys
from collections.abc import Iterable
from typing import Any

import numpy as np

from jaxgen import models, networks
from jaxgen.compose import Labelled, PerClass
from jaxgen.core.model import Model
from jaxgen.core.spec import Spec
from jaxgen.core.template import model_for_data
from jaxgen.data.tables.records import nearest
from jaxgen.networks import domains


def import_modules(names: Iterable[str], base: type[Spec] = Model) -> dict[str, type[Any]]:
    """Import modules, also from the working directory, and return the models that they define.

    Args:
      names: names of modules.
      base: base class of the classes to return.

    Returns:
      The classes by name, with and without the name of the module.
    """
    found: dict[str, type[Any]] = {}
    for name in names:
        if os.getcwd() not in sys.path:
            sys.path.insert(0, os.getcwd())
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise  # the module itself imports something that is missing
            raise ValueError(
                f"--import: there is no module {name!r} in {os.getcwd()} or among the installed "
                "packages"
            ) from None
        for cls in vars(module).values():
            own = isinstance(cls, type) and cls.__module__.split(".")[0] == name.split(".")[0]
            if own and issubclass(cls, base):
                found |= {cls.__name__: cls, f"{name}.{cls.__name__}": cls}
    return found


def family(name: str, own: dict[str, type[Model]]) -> type[Model]:
    """The class with a name, in jaxgen.models or among one's own; case, - and _ do not matter.

    Raises:
      ValueError: there is no such class.
    """
    known = _families() | own
    plain = name.replace("-", "").replace("_", "").lower()
    for candidate, cls in known.items():
        if candidate == name or candidate.replace("_", "").lower() == plain:
            return cls
    lower = {candidate.lower(): candidate for candidate in known}
    near = difflib.get_close_matches(plain, list(lower), 1)
    hint = "; your own classes need --import MODULE"
    if near:
        hint = f"; did you mean {lower[near[0]]!r}?"
    raise ValueError(f"there is no model {name!r}; the models are {', '.join(sorted(known))}{hint}")


def settings(pairs: list[str], modules: Iterable[str] = ()) -> dict[str, Any]:
    """The fields of a model in texts KEY=VALUE; a network is a call, such as Transformer(width=32).

    modules: names of modules with networks of one's own.
    """
    known = {name: getattr(networks, name) for name in networks.__all__}
    known = {name: cls for name, cls in known.items() if cls is not networks.Network}
    known |= import_modules(modules, networks.Network)
    fields = {}
    for name, text in split_pairs("--set", "KEY", pairs):
        value = literal(text)
        if value is text and (text.strip() in known or re.fullmatch(r"\s*[\w.]+\(.*\)\s*", text)):
            value = _called(f"--set: {name}", text, known, "Transformer(width=32, layers=2)")
        fields[name] = value
    return fields


def build(
    cls: type[Model],
    fields: dict[str, Any],
    x: np.ndarray,
    labels: np.ndarray | None,
    columns: tuple[str, ...] | None,
    domain: list[str],
) -> Model:
    """The spec, with the fields that follow from data; with labels, a model of labels.

    Args:
      cls: the class.
      fields: values of its fields.
      x: events (n, ...).
      labels: their labels (n,), or None.
      columns: names of the features, or None.
      domain: texts COLUMN=DOMAIN.

    Raises:
      TypeError, ValueError: a field is unknown, missing or has a bad value.
    """
    name, known = cls.__name__, [field.name for field in dataclasses.fields(cls)]
    for key in fields:
        if key not in known:
            raise ValueError(
                f"{name} has no field {key!r}; its fields are {', '.join(known)}"
                f"{nearest(key, known)}"
            )
    if domain:
        if "domain" in fields:
            raise ValueError("--domain and --set domain=... exclude each other")
        if "domain" not in known:
            raise ValueError(f"{name} has no domain; models that have one: {models_with('domain')}")
        names = columns or tuple(f"x{j}" for j in range(x[0].size))
        fields = fields | {"domain": domains_of_columns(domain, names)}
    try:
        model: Any = cls(**fields)
    except TypeError:
        needed = [
            field.name
            for field in dataclasses.fields(cls)
            if field.default is field.default_factory is dataclasses.MISSING
            and field.name not in (*fields, "dim", "shape", "classes")
        ]
        if needed:
            raise ValueError(f"{name} needs a value: --set {needed[0]}=...") from None
        raise
    if labels is not None:
        model = Labelled(model) if "y_shape" in known else PerClass(model)
    return model_for_data(model, x, labels)


def models_with_missing_values() -> str:
    """The names of the families that learn from missing values, such as "Box, Gaussian"."""
    return _with(lambda cls: cls.complete is not Model.complete)


def models_with(field: str) -> str:
    """The names of the families that have a field."""
    return _with(lambda cls: field in {f.name for f in dataclasses.fields(cls)})


def domains_of_columns(pairs: list[str], names: tuple[str, ...]) -> tuple[Any, ...]:
    """The domain of each column, from texts COLUMN=DOMAIN; ``Real()`` where none is given.

    Raises:
      ValueError: an unknown column, or a text that is no domain.
    """
    found: dict[str, Any] = {}
    for name, text in split_pairs("--domain", "COLUMN", pairs):
        if name not in names:
            raise ValueError(
                f"--domain: no column {name!r}; the columns are {', '.join(names)}"
                f"{nearest(name, names)}"
            )
        if name in found:
            raise ValueError(f"--domain: {name} is given twice")
        found[name] = _domain(name, text)
    return tuple(found.get(name, domains.Real()) for name in names)


def split_pairs(option: str, name: str, pairs: list[str]) -> Iterable[tuple[str, str]]:
    """The two sides of texts NAME=VALUE."""
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise ValueError(f"{option} must be {name}=VALUE, got {pair!r}")
        yield key, value


def literal(text: str) -> Any:
    """The value of a Python or JSON literal, else the text itself."""
    for parse in (ast.literal_eval, json.loads):
        try:
            return parse(text.strip())
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            pass
    return text


def _domain(column: str, text: str) -> Any:
    """The domain that a text such as "Interval(-90, 90)" names."""
    known = {name: getattr(domains, name) for name in domains.__all__}
    known = {n: c for n, c in known.items() if isinstance(c, type) and issubclass(c, Spec)}
    del known["Levels"]  # of numbers in y
    return _called(f"--domain: {column}", text, known, "Interval(-90, 90)")


def _called(what: str, text: str, known: dict[str, Any], example: str) -> Any:
    """The value of a text such as "Interval(-90, 90)" or "Circle": a call of a known class.

    Only literals are arguments.
    """
    try:
        call = ast.parse(text.strip(), mode="eval").body
        if isinstance(call, (ast.Name, ast.Attribute)):
            call = ast.Call(call, [], [])
        if not isinstance(call, ast.Call):
            raise ValueError(text)
        arguments = [ast.literal_eval(argument) for argument in call.args]
        named = {str(pair.arg): ast.literal_eval(pair.value) for pair in call.keywords}
        cls = known[ast.unparse(call.func)]
    except (ValueError, SyntaxError, KeyError, TypeError, RecursionError, MemoryError):
        listed = ", ".join(name for name in known if "." not in name)
        raise ValueError(
            f"{what} must be one of {listed}, such as {example}; got {text!r}"
        ) from None
    try:
        return cls(*arguments, **named)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{what}: {error}") from None


def _families() -> dict[str, type[Model]]:
    known = {name: getattr(models, name) for name in models.__all__}
    return {n: c for n, c in known.items() if isinstance(c, type) and issubclass(c, Model)}


def _with(condition: Any) -> str:
    return ", ".join(sorted(name for name, cls in _families().items() if condition(cls)))
