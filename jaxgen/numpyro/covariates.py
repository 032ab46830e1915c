"""Named covariates of a program, and how the conditions y hold them.

A program such as ``model(x, group, y=None)`` takes its covariates by name, each with its own dtype.
The rest of jaxgen knows one array of conditions y (n, k). ``pack`` makes that array of a table, and
``unpack`` makes the arguments of the program of it.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.primitives import Messenger

from jaxgen.core import dataframes, places
from jaxgen.core.places import Message
from jaxgen.core.spec import Spec

_SHOWN = 8  # most categories that an error lists


class Covariate(Spec):
    """One argument of a program that has a value for each row.

    Args:
      name: name of the argument.
      shape: shape of the value of one row.
      kind: the dtype that the program gets: JAX's default float or int, or bool.
      categories: the values in tables, of which the program gets the positions, as ints; None if
        it gets the values.
    """

    name: str
    shape: tuple[int, ...] = ()
    kind: Literal["float", "int", "bool"] = "float"
    categories: tuple[int | str, ...] | None = None

    def __repr__(self) -> str:
        default = {field.name: field.default for field in dataclasses.fields(self)}
        given = {name: value for name, value in vars(self).items() if value != default.get(name)}
        return f"Covariate({', '.join(f'{name}={value!r}' for name, value in given.items())})"

    @property
    def size(self) -> int:
        """How many numbers the value of one row has."""
        return math.prod(self.shape)


Covariates: TypeAlias = tuple[Covariate, ...]


def covariates_of(table: Any, program: Callable[..., Any]) -> Covariates:
    """The covariates of a program, as example rows show them.

    Args:
      table: a DataFrame, or a dict of arrays (n, ...) or of single values, by the names of the
        program's parameters. A DataFrame may have other columns, and columns for parameters whose
        default is None, which are no covariates.
      program: the function.

    Raises:
      TypeError, ValueError: the table does not suit the program; the message names the covariate.
    """
    if not dataframes.is_table(table):
        raise TypeError(
            "covariates must be example rows, as a DataFrame or a dict of arrays by the names of "
            f"the program's parameters, got {type(table).__name__} {table!r:.60}"
        )
    names = dataframes.column_names(table, "covariates") or ()
    parameters = parameters_of(program)
    defaults = {p.name: p.default for p in parameters if is_named(p)}
    required, known = required_of(parameters), list(defaults)
    if not isinstance(table, Mapping):
        names = tuple(name for name in names if defaults.get(name) is not None)
    unknown = [name for name in names if name not in known]
    if unknown and not any(p.kind is p.VAR_KEYWORD for p in parameters):
        raise ValueError(
            f"covariates holds {_listed(unknown)}, but the program's parameters are "
            f"{_listed(known)}"
        )
    missing = [name for name in required if name not in names]
    if missing:
        last = missing[-1]
        raise ValueError(
            f"covariates must hold {_listed(missing)}, which the program takes; it holds "
            f"{_listed(names)}. If {last!r} is the observed value, write {last}=None in "
            f"the program; if it is a constant, pass functools.partial(program, {last}=...)"
        )
    if not names:
        raise ValueError(
            f"covariates must hold parameters of the program, which are {_listed(known)}"
        )
    return tuple(_covariate(name, table[name]) for name in names)


def parameters_of(program: Callable[..., Any]) -> list[inspect.Parameter]:
    """The parameters of a function; none of a callable without a signature."""
    try:
        return list(inspect.signature(without_handlers(program)).parameters.values())
    except (TypeError, ValueError):
        return []


def without_handlers(program: Callable[..., Any]) -> Callable[..., Any]:
    """The function inside NumPyro's handlers."""
    while isinstance(program, Messenger):
        program = program.fn
    return program


def is_named(parameter: inspect.Parameter) -> bool:
    """Whether an argument can be given by the name of the parameter."""
    return parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)


def required_of(parameters: list[inspect.Parameter]) -> list[str]:
    """The names of the parameters without a default."""
    return [p.name for p in parameters if is_named(p) and p.default is p.empty]


def size_of(covariates: Covariates) -> int:
    """How many numbers the covariates of one row have."""
    return sum(one.size for one in covariates)


def columns_of(covariates: Covariates) -> tuple[str, ...]:
    """A name for each number of y, such as "group", or "position[0]" of a vector."""
    names = []
    for one in covariates:
        for index in np.ndindex(one.shape):
            names.append(one.name + (f"[{', '.join(map(str, index))}]" if index else ""))
    return tuple(names)


def pack(covariates: Covariates, table: Any) -> Any:
    """The conditions y (..., k) that hold the covariates of a table, as floats.

    Args:
      covariates: the covariates.
      table: a DataFrame, or a dict of arrays (n, *shape), or single values for all rows; columns
        of other names are ignored. Values of a dict may be traced.

    Raises:
      TypeError, ValueError: a covariate is missing, or does not have its kind or shape; the
        message names it.
    """
    names = dataframes.column_names(table, "y") or ()
    missing = [one.name for one in covariates if one.name not in names]
    if missing:
        raise ValueError(
            f"y must hold the covariates {_listed(one.name for one in covariates)}; "
            f"{_listed(missing)} is missing, as it holds {_listed(names)}"
        )
    values = [_values(one, table[one.name]) for one in covariates]
    batches = {
        value.shape[: value.ndim - len(one.shape)]
        for one, value in zip(covariates, values, strict=True)
    }
    batch = max(batches, key=len)
    if batches - {batch, ()}:
        rows = {one.name: len(v) for one, v in zip(covariates, values, strict=True) if v.ndim}
        raise ValueError(f"y must hold as many rows of each covariate; got {rows}")
    xp = jnp if any(isinstance(value, jax.Array) for value in values) else np
    columns = [
        xp.broadcast_to(value, (*batch, *one.shape)).reshape(*batch, one.size)
        for one, value in zip(covariates, values, strict=True)
    ]
    return xp.concatenate(columns, -1)


def unpack(covariates: Covariates, y: Any) -> dict[str, Any]:
    """The arguments of a program, by name, each (n, *shape), of conditions y (n, k)."""
    found, start = {}, 0
    for one in covariates:
        value = y[:, start : start + one.size].reshape(len(y), *one.shape)
        found[one.name] = _typed(one, value)
        start += one.size
    return found


def made_up(covariates: Covariates, uniform: np.ndarray) -> np.ndarray:
    """Made-up conditions (n, k) of numbers between 0 and 1; integers are 0, as for an index."""
    is_int = _per_number(covariates, [one.kind == "int" for one in covariates])
    is_bool = _per_number(covariates, [one.kind == "bool" for one in covariates])
    return np.where(is_int, 0, np.where(is_bool, uniform > 0.5, uniform))


def wanted(covariates: Covariates) -> str:
    """The requirement on a condition, for messages; "" if it may hold any floats."""
    parts = []
    for one in covariates:
        if one.categories is not None:
            parts.append(f"codes 0 .. {len(one.categories) - 1} for {one.name!r}")
        elif one.kind != "float":
            parts.append(f"{'ints' if one.kind == 'int' else '0 or 1'} for {one.name!r}")
    return f"hold {', '.join(parts)}" if parts else ""


def are_valid(covariates: Covariates, y: Any) -> Any:
    """Whether each number of a condition y (k,) can be that of its covariate, bool (k,)."""
    top = [_top(one) for one in covariates]
    low = [-top if one.categories is None else 0 for one, top in zip(covariates, top, strict=True)]
    low = [0 if one.kind == "bool" else least for one, least in zip(covariates, low, strict=True)]
    low, high = (_per_number(covariates, ends) for ends in (low, top))
    is_float = _per_number(covariates, [one.kind == "float" for one in covariates])
    return is_float | ((y == jnp.round(y)) & (y >= low) & (y <= high))


def described(covariates: Covariates) -> str:
    """The names of covariates, for messages."""
    return f"the covariate{'s' * (len(covariates) > 1)} {_listed(c.name for c in covariates)}"


def _covariate(name, values):
    """The covariate that example values show."""
    what = f"covariates: {name!r}"
    if isinstance(values, str) or not (hasattr(values, "__len__") and np.ndim(values)):
        values = [values]  # of one row
    found = dataframes.categories_of(values)
    array = np.asarray(values)
    if found is None:
        _check_complete(array, dataframes.unmasked(values), what)
    if found is None and _is_text(array):
        found = np.unique(array.astype(str)).tolist()
    if array.ndim == 0 or not len(array):
        raise ValueError(f"{what} must have at least one value, got {values!r:.40}")
    if found is not None:
        if array.ndim > 1 or not all(type(v) in (str, int) for v in found):
            raise TypeError(f"{what} must have categories that are strings or ints, got {found}")
        return Covariate(name, (), "int", tuple(found))
    array = np.asarray(dataframes.as_array(values, what))
    kinds: dict[str, Any] = {"b": "bool", "i": "int", "u": "int", "f": "float"}
    if array.dtype.kind not in kinds and not jnp.issubdtype(array.dtype, jnp.floating):
        raise TypeError(f"{what} must hold numbers, got dtype {array.dtype}")
    return Covariate(name, array.shape[1:], kinds.get(array.dtype.kind, "float"))


def _check_complete(array, unmasked, what):
    """Raise if a missing value hides the dtype of example values."""
    missing = np.array([dataframes.is_missing(v) for v in np.ravel(unmasked).tolist()], bool)
    known = array.ravel()[~missing]
    if not missing.any() or not known.size:
        return
    is_text = any(isinstance(v, str) for v in known)
    if is_text or np.array_equal(known.astype(float), np.round(known.astype(float))):
        row = int(missing.reshape(len(array), -1).any(1).argmax())
        hidden = "" if is_text else ", which hides whether it holds ints or floats"
        raise ValueError(
            Message(f"{what} has a missing value in ", places.row(row), f"{hidden}: leave it out")
        )


def _values(covariate, values):
    """Checked values of a covariate (..., *shape), as floats or within a trace as they are."""
    what = f"y: covariate {covariate.name!r}"
    array: Any
    if covariate.categories is not None:
        array = _codes(covariate, values, what)
    else:
        array = dataframes.as_array(values, what)
    if not isinstance(array, jax.Array):
        array = np.asarray(array)
    if array.dtype.kind not in "biuf" and not jnp.issubdtype(array.dtype, jnp.floating):
        raise TypeError(f"{what} must hold numbers, got dtype {array.dtype}")
    batch = array.shape[: array.ndim - len(covariate.shape)]
    if array.shape != (*batch, *covariate.shape) or len(batch) > 1:
        wanted = ", ".join(["n", *map(str, covariate.shape)]) + "," * (not covariate.shape)
        raise ValueError(f"{what} must have shape ({wanted}); got {array.shape}")
    if isinstance(array, jax.core.Tracer):
        return array.astype(jnp.result_type(float)) if array.dtype.kind in "biu" else array
    if covariate.kind != "float":
        _check_ints(covariate, np.asarray(array), what)
    return np.asarray(array, np.float64)


def _check_ints(covariate, array, what):
    """Raise unless values are integers that conditions, which are floats, hold exactly."""
    top, wanted = _top(covariate), "ints" if covariate.kind == "int" else "bools"
    bad = ~(array == np.round(array))
    if not bad.any():
        least = 0 if covariate.kind == "bool" or array.dtype.kind == "u" else -top
        bad = (array > top) | (array < least)
        exact = f" up to {top:,}, which {jnp.result_type(float)} holds exactly"
        wanted += exact * (covariate.kind == "int")
    if bad.any():
        row = np.argwhere(bad)[0]
        where = [" in ", places.row(int(row[0]))] if array.ndim else []
        raise ValueError(
            Message(f"{what} must hold {wanted}; it holds {array[tuple(row)]}", *where)
        )


def _top(covariate):
    """The largest number of a covariate of ints."""
    if covariate.categories is not None:
        return len(covariate.categories) - 1
    exact = 2 ** (jnp.finfo(jnp.result_type(float)).nmant + 1)
    return 1 if covariate.kind == "bool" else min(exact, jnp.iinfo(jnp.result_type(int)).max)


def _codes(covariate, values, what):
    """The positions of values among the categories, (n,)."""
    if isinstance(values, jax.core.Tracer):
        raise TypeError(f"{what} has categories, so it cannot be an argument of jit, grad or vmap")
    place = {category: i for i, category in enumerate(covariate.categories)}
    categories = dataframes.categories_of(values)
    coded = getattr(values, "cat", values)  # of a pandas Series
    if categories is not None and hasattr(coded, "codes"):
        # the code of a missing value is -1, the last entry
        places_of_codes = np.array([*(place.get(c, -1) for c in categories), -1], int)
        found = places_of_codes[np.asarray(coded.codes)]
    else:
        array = np.asarray(values)
        found = np.array([place.get(v, -1) for v in array.ravel().tolist()], int)
        found = found.reshape(array.shape)
    if (found < 0).any():
        row = np.argwhere(found < 0)[0]
        value = np.asarray(values)[tuple(row)]
        where = [" in ", places.row(int(row[0]))] if found.ndim else []
        known = _listed(covariate.categories)
        raise ValueError(Message(f"{what} must be one of {known}; it has {value!s:.40}", *where))
    return found


def _is_text(array):
    return array.dtype.kind in "UT" or (
        array.dtype.kind == "O" and array.size and all(isinstance(v, str) for v in array.ravel())
    )


def _typed(covariate, value):
    if covariate.kind == "bool":
        return value != 0
    if covariate.kind == "int":
        return value.astype(jnp.result_type(int))
    is_float = jnp.issubdtype(value.dtype, jnp.floating)
    return value if is_float else value.astype(jnp.result_type(float))


def _per_number(covariates, entries):
    """An array (k,) with the entry of its covariate for each number of y."""
    return np.repeat(np.array(entries), [one.size for one in covariates])


def _listed(names):
    names = list(names)
    return ", ".join(map(repr, names[:_SHOWN])) + (", ..." if len(names) > _SHOWN else "")
