"""What a function reads beside its arguments: globals, closures, defaults and attributes."""

from __future__ import annotations

import dis
import functools
import hashlib
import sys
import sysconfig
import types
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

_INSTALLED = tuple(
    {path for name, path in sysconfig.get_paths().items() if name.endswith(("lib", "stdlib"))}
)
_LARGE = 2**16  # bytes of an array beyond which some of its numbers stand for it
_SOME = 8192
_LONG = 1000  # entries of a container beyond which they count by identity


def contents(call: Callable) -> dict[str, Any]:
    """What a function reads, by name: values that compare equal while nothing has changed.

    Functions of the user that it calls are followed, those of installed packages are not. Arrays
    count by their values, objects by their attributes.
    """
    found: dict[str, Any] = {}
    _follow(call, "", found, set())
    return found


def _follow(value: Any, name: str, found: dict[str, Any], met: set[int]) -> None:
    """Add what can be read through ``value``, which has that name."""
    if isinstance(value, types.BuiltinFunctionType | types.ModuleType) or id(value) in met:
        return
    if isinstance(value, functools.partial):
        met.add(id(value))
        for i, own in enumerate((value.func, *value.args)):
            _follow(own, f"{name}({i})", found, met)
        for key, own in value.keywords.items():
            _follow(own, f"{name}({key}=)", found, met)
    elif isinstance(value, types.MethodType):
        _follow(value.__func__, name, found, met)
        _follow(value.__self__, _below(name, "self"), found, met)
    elif isinstance(value, types.FunctionType):
        met.add(id(value))
        _follow_function(value, name, found, met)
    elif isinstance(value, type):
        if not _is_installed(sys.modules.get(value.__module__)):
            met.add(id(value))
            for key, own in vars(value).items():
                if not key.startswith("__") and not isinstance(own, types.MemberDescriptorType):
                    _follow(_unwrapped(own), _below(name, key), found, met)
    elif callable(value) and hasattr(value, "__wrapped__"):  # such as jitted functions
        met.add(id(value))
        _follow(value.__wrapped__, name, found, met)
    elif isinstance(value, list | tuple | dict):
        met.add(id(value))
        pairs: Any = value.items() if isinstance(value, dict) else enumerate(value)
        summary: Any = type(value), len(value)
        if len(value) > _LONG:
            pairs, summary = (), (*summary, hash(tuple(id(own) for _, own in pairs)))
        _add(found, name, summary)
        for place, own in pairs:
            _follow(own, f"{name}[{place!r}]", found, met)
    elif hasattr(value, "__dict__") and not isinstance(value, jax.Array):
        met.add(id(value))
        _add(found, name, type(value))
        if not _is_installed(sys.modules.get(type(value).__module__)):
            _follow(type(value), name, found, met)
        for key, own in vars(value).items():
            _follow(own, _below(name, key), found, met)
    elif not _is_installed(sys.modules.get(type(value).__module__)):  # it has slots
        met.add(id(value))
        for key in getattr(type(value), "__slots__", ()):
            _follow(getattr(value, key, None), _below(name, key), found, met)
    else:
        _add(found, name, _summary(value))


def _add(found, name, summary):
    while found.setdefault(name, summary) != summary:
        name += "'"  # of another module, or another function's closure


def _follow_function(function, name, found, met):
    if _is_installed(function.__code__.co_filename):
        return
    _add(found, name, function.__code__)
    code, scope = function.__code__, function.__globals__
    names = _global_names(code)
    for key in sorted(names):
        if key in scope:
            _follow_global(scope[key], key, names[key], found, met)
    for key, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        try:
            _follow(cell.cell_contents, key, found, met)
        except ValueError:  # not bound yet
            continue
    for own in (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()):
        _follow(own, _below(name, "defaults"), found, met)


def _follow_global(value, name, attributes, found, met):
    """A module counts by those of its attributes that the code names."""
    if not isinstance(value, types.ModuleType):
        _follow(value, name, found, met)
    elif not _is_installed(value):
        for key in sorted(attributes & vars(value).keys()):
            _follow(vars(value)[key], _below(name, key), found, met)


@functools.lru_cache(maxsize=1024)
def _global_names(code) -> dict[str, set[str]]:
    """Names of globals that the code reads, its inner functions included, and all attributes."""
    names, attributes = set(), set()
    codes = [code]
    while codes:
        own = codes.pop()
        codes += [const for const in own.co_consts if isinstance(const, types.CodeType)]
        for step in dis.get_instructions(own):
            if step.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
                names.add(step.argval)
            elif step.opname in ("LOAD_ATTR", "LOAD_METHOD"):
                attributes.add(step.argval)
    return {name: attributes for name in names}


def _is_installed(module) -> bool:
    """Whether a module, or the file of a function, is a package's and not the user's own."""
    path = getattr(module, "__file__", None) if isinstance(module, types.ModuleType) else module
    if path is None:  # built in, or made by hand; __main__ of a notebook has no file either
        return getattr(module, "__name__", "") in sys.builtin_module_names
    return path.startswith(_INSTALLED) or "site-packages" in path


def _unwrapped(value):
    """The function behind a property or a static or class method."""
    inner = getattr(value, "__func__", None) or getattr(value, "fget", None)
    return inner or value


def _below(name, key):
    return f"{name}.{key}" if name else key


def _summary(value):
    """Something that compares equal to itself later if the value has not changed."""
    if isinstance(value, float) and value != value:
        return "NaN"
    if value is None or isinstance(value, bool | int | float | complex | str | bytes):
        return type(value), value
    if isinstance(value, jax.core.Tracer):
        return id(value)
    if isinstance(value, jax.Array | np.ndarray | np.generic):
        return _of_array(value)
    if isinstance(value, set | frozenset):
        return type(value), frozenset(map(repr, value))
    try:
        hash(value)
    except TypeError:
        return type(value), id(value)
    return type(value), value  # most objects equal themselves alone


def _of_array(value):
    if isinstance(value, jax.Array) and jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key):
        value = jax.random.key_data(value)
    array = np.asarray(value)
    few = array if array.nbytes <= _LARGE else array.reshape(-1)[:: array.size // _SOME]
    if array.dtype == object:
        return "array", array.shape, repr(few)
    return "array", array.shape, str(array.dtype), hashlib.sha1(few.tobytes()).digest()
