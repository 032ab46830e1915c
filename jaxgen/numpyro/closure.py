"""What a function reads beside its arguments: globals, closures, defaults and attributes."""

from __future__ import annotations

import collections
import dis
import functools
import hashlib
import sys
import sysconfig
import types
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

_INSTALLED = tuple(
    {path for name, path in sysconfig.get_paths().items() if name.endswith(("lib", "stdlib"))}
)
_LARGE = 2**20  # bytes of an array beyond which some of its numbers stand for it
_SOME = 65536
_LONG = 1000  # entries of a container beyond which they count by identity


def contents(call: Callable) -> dict[str, Any]:
    """What a function reads, by name: values that compare equal while nothing has changed.

    Functions of the user that it calls are followed, those of installed packages are not. Of
    modules, classes and objects count the attributes that the code names. Arrays count by their
    values, other objects of installed packages by what they hold.
    """
    reading = _Reading()
    reading.follow(call, "")
    return reading.found


def digest(reads: dict[str, Any]) -> str:
    """A text by which a file knows what a function read, in this version of Python."""
    own = hashlib.sha1()
    for name, value in sorted(reads.items()):
        own.update(f"{name}={_lasting(value)};".encode())
    return f"{sys.version_info.major}.{sys.version_info.minor} {own.hexdigest()}"


def _lasting(value) -> str:
    """A text of a summary that is the same in another process."""
    if isinstance(value, types.CodeType):
        inner = [_lasting(c) if isinstance(c, types.CodeType) else repr(c) for c in value.co_consts]
        return f"{value.co_code!r} {value.co_names} {inner}"
    if isinstance(value, tuple):
        return str([_lasting(v) for v in value])
    plain = value is None or isinstance(value, bool | int | float | complex | str | bytes)
    return repr(value) if plain else getattr(value, "__qualname__", type(value).__qualname__)


class _Reading:
    """What has been found so far."""

    def __init__(self):
        self.found: dict[str, Any] = {}
        self.attributes: dict[str, None] = {}  # names of those that any code read so far
        self.met: set[int] = set()

    def follow(self, value: Any, name: str) -> None:
        """Add what can be read through ``value``, which has that name."""
        if isinstance(value, types.BuiltinFunctionType | types.ModuleType) or id(value) in self.met:
            return
        if isinstance(value, jax.Array | np.ndarray | np.generic) or not _holds(value):
            self._add(name, _summary(value))
            return
        self.met.add(id(value))
        if isinstance(value, functools.partial):
            for i, own in enumerate((value.func, *value.args)):
                self.follow(own, f"{name}({i})")
            for key, own in value.keywords.items():
                self.follow(own, f"{name}({key}=)")
        elif isinstance(value, types.MethodType):
            self.follow(value.__func__, name)
            self.follow(value.__self__, _below(name, "self"))
        elif isinstance(value, types.FunctionType):
            self._function(value, name)
        elif isinstance(value, type):
            if not _is_installed(sys.modules.get(value.__module__)):
                self._named(name, {}, value.__mro__)
        elif callable(value) and hasattr(value, "__wrapped__"):  # such as jitted functions
            self.follow(value.__wrapped__, name)
        elif isinstance(value, list | tuple | dict | collections.deque):
            self._container(value, name)
        else:
            self._object(value, name)

    def _add(self, name, summary):
        while self.found.setdefault(name, summary) != summary:
            name += "'"  # of another module, or another function's closure

    def _container(self, value, name):
        pairs: Any = value.items() if isinstance(value, dict) else enumerate(value)
        summary: Any = type(value), len(value)
        if len(value) > _LONG:
            pairs, summary = (), (*summary, hash(tuple(id(own) for _, own in pairs)))
        self._add(name, summary)
        for place, own in pairs:
            self.follow(own, f"{name}[{place!r}]")

    def _object(self, value, name):
        """An object of a class of the user by the attributes that code names, others by all."""
        self._add(name, type(value))
        own = dict(_attributes(value))
        if _is_installed(sys.modules.get(type(value).__module__)):
            for key, held in own.items():
                self.follow(held, _below(name, key))
            return
        classes = type(value).__mro__
        for key in ("__call__", "__getitem__", "__iter__"):  # which no code names
            self._of_class(classes, key, name)
        self._named(name, own, classes)

    def _named(self, name, own, classes):
        """The attributes that code names, until those that they read in turn are found too."""
        done: set[str] = set()
        while len(done) < len(self.attributes):
            for key in [key for key in self.attributes if key not in done]:
                done.add(key)
                found = self._of_class(classes, key, name)
                if key in own and not isinstance(found, functools.cached_property):
                    self.follow(own[key], _below(name, key))

    def _of_class(self, classes, key, name):
        for cls in classes:
            if key in vars(cls) and not _is_installed(sys.modules.get(cls.__module__)):
                found = vars(cls)[key]
                if not isinstance(found, types.MemberDescriptorType):
                    self.follow(_unwrapped(found), _below(name, key))
                return found
        return None

    def _function(self, function, name):
        if _is_installed(function.__code__.co_filename):
            return
        code, scope = function.__code__, function.__globals__
        self._add(name, code)
        names, modules, attributes = _names_in(code)
        self.attributes.update(dict.fromkeys(attributes))
        for key in names:
            if key in scope:
                self._global(scope[key], key)
        for key in modules:
            if key in sys.modules:
                self._global(sys.modules[key], key)
        for key, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
            try:
                self.follow(cell.cell_contents, key)
            except ValueError:  # not bound yet
                continue
        for own in (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()):
            self.follow(own, _below(name, "defaults"))

    def _global(self, value, name):
        if not isinstance(value, types.ModuleType):
            self.follow(value, name)
        elif not _is_installed(value):
            for key in sorted(self.attributes.keys() & vars(value).keys()):
                self.follow(vars(value)[key], _below(name, key))


@functools.lru_cache(maxsize=1024)
def _names_in(code) -> tuple[tuple[str, ...], ...]:
    """Names of globals, of imported modules and of attributes that code reads, inner code too."""
    names: dict[str, None] = {}
    modules: dict[str, None] = {}
    attributes: dict[str, None] = {}
    codes = [code]
    while codes:
        own = codes.pop()
        codes += [const for const in own.co_consts if isinstance(const, types.CodeType)]
        # those by which ``getattr`` may ask
        texts = [const for const in own.co_consts if isinstance(const, str)]
        attributes.update(dict.fromkeys(text for text in texts if text.isidentifier()))
        for step in dis.get_instructions(own):
            if step.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
                names[step.argval] = None
            elif step.opname == "IMPORT_NAME":
                modules[step.argval] = None
            elif step.opname in ("LOAD_ATTR", "LOAD_METHOD", "IMPORT_FROM"):
                attributes[step.argval] = None
    return tuple(names), tuple(modules), tuple(attributes)


def _attributes(value) -> Iterator[tuple[str, Any]]:
    """The names and values of an object's own attributes, slots included."""
    yield from getattr(value, "__dict__", {}).items()
    for cls in type(value).__mro__:
        slots = vars(cls).get("__slots__", ())
        for key in (slots,) if isinstance(slots, str) else slots:
            if hasattr(value, key):
                yield key, getattr(value, key)


def _holds(value) -> bool:
    """Whether a value may hold others that are to be followed."""
    if value is None or isinstance(value, bool | int | float | complex | str | bytes):
        return False
    return callable(value) or isinstance(value, list | tuple | dict | collections.deque) or any(
        True for _ in _attributes(value)
    )  # fmt: skip


def _is_installed(module) -> bool:
    """Whether a module, or the file of a function, is a package's and not the user's own."""
    path = getattr(module, "__file__", None) if isinstance(module, types.ModuleType) else module
    if path is None:  # built in, or made by hand; __main__ of a notebook has no file either
        return getattr(module, "__name__", "") in sys.builtin_module_names
    return path.startswith(_INSTALLED) or "site-packages" in path


def _unwrapped(value):
    """The function behind a property or a static or class method."""
    for name in ("__func__", "fget", "func"):
        if getattr(value, name, None) is not None:
            return getattr(value, name)
    return value


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
    if array.dtype.hasobject:
        return "array", array.shape, repr(few)
    mask = np.ma.getmaskarray(value).tobytes() if isinstance(value, np.ma.MaskedArray) else b""
    return "array", array.shape, str(array.dtype), hashlib.sha1(few.tobytes() + mask).digest()
