"""The values that a function reads besides its arguments: globals, closures, attributes."""

from __future__ import annotations

import collections
import dis
import functools
import hashlib
import re
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
_LARGE = 2**20  # bytes; of a larger array, evenly spaced entries are summarised
_ENTRIES = 65536  # about so many of them
_GOLDEN = 0.6180339887498949  # multiples of it are spread evenly modulo 1
_ROUNDING = 1e-5  # relative change of data that rounding explains
_LONG = 1000  # entries; a longer container is summarised by the identities of its entries


def contents(call: Callable[..., Any]) -> dict[str, Any]:
    """Summaries of the values that a function reads, by name; equal while nothing changes.

    The search follows functions of the user, but not those of installed packages. Modules, classes
    and objects contribute the attributes that the code names. Arrays are summarised by their
    values, other objects of installed packages by their attributes.
    """
    return _search(call).found


def values(call: Callable[..., Any]) -> dict[str, Any]:
    """The values that ``contents`` summarises, by name, without functions and classes."""
    return _search(call).values


def _search(call):
    search = _Search()
    search.follow(call, "")
    return search


def digest(reads: dict[str, Any]) -> str:
    """A hash of what a function reads, with the version of Python that it is valid for."""
    sha = hashlib.sha1()
    for name, value in sorted(reads.items()):
        sha.update(f"{name}={_text(value)};".encode())
    return f"{sys.version_info.major}.{sys.version_info.minor} {sha.hexdigest()}"


def is_array(summary: Any) -> bool:
    """Whether what a function reads is an array; ``summary[1]`` is then its shape."""
    return isinstance(summary, tuple) and len(summary) > 1 and summary[0] == "array"


def described_data(reads: dict[str, Any], held: dict[str, Any]) -> dict[str, str]:
    """The arrays, numbers and lists that a function reads, by name, as texts for a file.

    A text is the shape and a hash. Of arrays and numbers, two numbers follow that do not change
    much if entries are rounded: a weighted sum of the entries, and the root of the sum of their
    squares. A list of numbers is an array.

    Args:
      reads: summaries, as ``contents`` returns them.
      held: the values, as ``values`` returns them.
    """
    lists = [name for name, value in held.items() if _is_list_of_numbers(value)]
    found = {}
    for name, summary in reads.items():
        if not any(name.startswith(f"{one}[") for one in lists):
            value = np.asarray(held[name]) if name in lists else held.get(name)
            text = _described(_summary(value) if name in lists else summary, value)
            if text is not None:
                found[shown(name)] = text
    return found


def _described(summary, value) -> str | None:
    kind = summary[0] if isinstance(summary, tuple) else None
    if kind in (list, tuple):  # a dict may be a cache
        return f"({summary[1]},) {kind.__name__}"  # the entries have texts of their own
    if not is_array(summary) and kind not in (bool, int, float, complex):
        return None
    shape = summary[1] if is_array(summary) else ()
    text = f"{shape} {hashlib.sha1(_text(summary).encode()).hexdigest()[:12]}"
    array = np.ma.filled(np.asarray(value), 0)
    if array.dtype.kind not in "biuf":
        return text
    few = np.nan_to_num(np.ravel(_few(array)).astype(np.float64))
    weights = 0.5 + np.arange(few.size) * _GOLDEN % 1
    return f"{text} {weights @ few!s} {np.sqrt(few @ few)!s}"


def _is_list_of_numbers(value):
    return isinstance(value, list | tuple) and all(
        isinstance(entry, bool | int | float | np.number) for entry in value
    )


def change_of_data(before: str, now: str) -> str:
    """How two results of ``described_data`` differ: "shape", "values", or "" if by rounding."""
    pairs = [text.rpartition(")") for text in (before, now)]
    if pairs[0][0] != pairs[1][0]:
        return "shape"
    (hash_before, *numbers_before), (hash_now, *numbers_now) = (
        text.split() for _, _, text in pairs
    )
    if hash_before == hash_now:
        return ""
    if len(numbers_before) != 2 or len(numbers_now) != 2:
        return "values"
    (sum_before, size_before), (sum_now, size_now) = (
        map(float, numbers) for numbers in (numbers_before, numbers_now)
    )
    tolerance = _ROUNDING * max(size_before, size_now)
    close = abs(sum_before - sum_now) <= tolerance and abs(size_before - size_now) <= tolerance
    return "" if close else "values"


def shown(name: str) -> str:
    """The name of something that a function reads, as its user knows it."""
    found = re.fullmatch(r"\((\w+)=\)", name)  # a keyword that functools.partial binds
    return found[1] if found else name


def _text(value) -> str:
    """A text of a summary that is the same in every process."""
    if isinstance(value, types.CodeType):
        inner = [_text(c) if isinstance(c, types.CodeType) else repr(c) for c in value.co_consts]
        return f"{value.co_code!r} {value.co_names} {inner}"
    if isinstance(value, tuple):
        return str([_text(v) for v in value])
    return repr(value) if _is_plain(value) else _name_of(value)


class _Search:
    """A search through everything that a function can reach."""

    def __init__(self):
        self.found: dict[str, Any] = {}
        self.values: dict[str, Any] = {}
        self.attributes: dict[
            str, None
        ] = {}  # names of attributes that the code found so far reads
        self.visited: set[int] = set()

    def follow(self, value: Any, name: str) -> None:
        """Add what can be read through a value of that name."""
        skipped = isinstance(value, types.BuiltinFunctionType | types.ModuleType)
        if skipped or id(value) in self.visited:
            return
        if isinstance(value, jax.Array | np.ndarray | np.generic) or not _has_parts(value):
            self.values[self._add(name, _summary(value))] = value
            return
        self.visited.add(id(value))
        if isinstance(value, functools.partial):
            for i, part in enumerate((value.func, *value.args)):
                self.follow(part, f"{name}({i})")
            for key, part in value.keywords.items():
                self.follow(part, f"{name}({key}=)")
        elif isinstance(value, types.MethodType):
            self.follow(value.__func__, name)
            self.follow(value.__self__, _joined(name, "self"))
        elif isinstance(value, types.FunctionType):
            self._function(value, name)
        elif isinstance(value, type):
            if not _is_installed(sys.modules.get(value.__module__)):
                self._named_attributes(name, {}, value.__mro__)
        elif callable(value) and hasattr(value, "__wrapped__"):  # such as a jitted function
            self.follow(value.__wrapped__, name)
        elif isinstance(value, list | tuple | dict | collections.deque):
            self._container(value, name)
        else:
            self._object(value, name)

    def _add(self, name, summary):
        while self.found.setdefault(name, summary) != summary:
            name += "'"  # another module or closure has used the name
        return name

    def _container(self, value, name):
        pairs: Any = value.items() if isinstance(value, dict) else enumerate(value)
        summary: Any = type(value), len(value)
        if len(value) > _LONG:
            pairs, summary = (), (*summary, hash(tuple(id(entry) for _, entry in pairs)))
        self.values[self._add(name, summary)] = value
        for index, entry in pairs:
            self.follow(entry, f"{name}[{index!r}]")

    def _object(self, value, name):
        """An object: of the user's classes the attributes that code names, of others all."""
        self._add(name, type(value))
        attributes = dict(_attributes(value))
        if _is_installed(sys.modules.get(type(value).__module__)):
            for key, held in attributes.items():
                self.follow(held, _joined(name, key))
            return
        classes = type(value).__mro__
        for key in ("__call__", "__getitem__", "__iter__"):  # used without being named in code
            self._class_attribute(classes, key, name)
        self._named_attributes(name, attributes, classes)

    def _named_attributes(self, name, attributes, classes):
        """The attributes that code names, including code that the search finds on the way."""
        done: set[str] = set()
        while len(done) < len(self.attributes):
            for key in [key for key in self.attributes if key not in done]:
                done.add(key)
                found = self._class_attribute(classes, key, name)
                if key in attributes and not isinstance(found, functools.cached_property):
                    self.follow(attributes[key], _joined(name, key))

    def _class_attribute(self, classes, key, name):
        for cls in classes:
            if key in vars(cls) and not _is_installed(sys.modules.get(cls.__module__)):
                found = vars(cls)[key]
                if not isinstance(found, types.MemberDescriptorType):
                    self.follow(_unwrapped(found), _joined(name, key))
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
            except ValueError:  # the cell is still empty
                continue
        defaults = (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values())
        for default in defaults:
            self.follow(default, _joined(name, "defaults"))

    def _global(self, value, name):
        if not isinstance(value, types.ModuleType):
            self.follow(value, name)
        elif not _is_installed(value):
            for key in sorted(self.attributes.keys() & vars(value).keys()):
                self.follow(vars(value)[key], _joined(name, key))


@functools.lru_cache(maxsize=1024)
def _names_in(code) -> tuple[tuple[str, ...], ...]:
    """Names of globals, imported modules and attributes that code and its inner code read."""
    names: dict[str, None] = {}
    modules: dict[str, None] = {}
    attributes: dict[str, None] = {}
    codes = [code]
    while codes:
        code = codes.pop()
        codes += [const for const in code.co_consts if isinstance(const, types.CodeType)]
        # a string may be the name of an attribute that ``getattr`` reads
        texts = [const for const in code.co_consts if isinstance(const, str)]
        attributes.update(dict.fromkeys(text for text in texts if text.isidentifier()))
        for step in dis.get_instructions(code):
            if step.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
                names[step.argval] = None
            elif step.opname == "IMPORT_NAME":
                modules[step.argval] = None
            elif step.opname in ("LOAD_ATTR", "LOAD_METHOD", "IMPORT_FROM"):
                attributes[step.argval] = None
    return tuple(names), tuple(modules), tuple(attributes)


def _attributes(value) -> Iterator[tuple[str, Any]]:
    """The names and values of an object's attributes, slots included."""
    yield from getattr(value, "__dict__", {}).items()
    for cls in type(value).__mro__:
        slots = vars(cls).get("__slots__", ())
        for key in (slots,) if isinstance(slots, str) else slots:
            if hasattr(value, key):
                yield key, getattr(value, key)


def _has_parts(value) -> bool:
    """Whether a value may hold other values that the search follows."""
    if _is_plain(value):
        return False
    return callable(value) or isinstance(value, list | tuple | dict | collections.deque) or any(
        True for _ in _attributes(value)
    )  # fmt: skip


def _is_plain(value) -> bool:
    return value is None or isinstance(value, bool | int | float | complex | str | bytes)


def _is_installed(module) -> bool:
    """Whether a module, or the file of a function, belongs to a package and not to the user."""
    path = getattr(module, "__file__", None) if isinstance(module, types.ModuleType) else module
    if path is None:  # a builtin module, one made by hand, or __main__ of a notebook
        return getattr(module, "__name__", "") in sys.builtin_module_names
    return path.startswith(_INSTALLED) or "site-packages" in path


def _unwrapped(value):
    """The function inside a property or a static or class method."""
    for name in ("__func__", "fget", "func"):
        if getattr(value, name, None) is not None:
            return getattr(value, name)
    return value


def _joined(name, key):
    return f"{name}.{key}" if name else key


def _name_of(value) -> str:
    return getattr(value, "__qualname__", type(value).__qualname__)


def _summary(value):
    """A hashable value that equals a later summary if the value has not changed."""
    if isinstance(value, float) and value != value:
        return "NaN"
    if _is_plain(value):
        return type(value), value
    if isinstance(value, jax.core.Tracer):
        return id(value)
    if isinstance(value, jax.Array | np.ndarray | np.generic):
        return _array_summary(value)
    if isinstance(value, set | frozenset):
        return type(value), frozenset(map(repr, value))
    try:
        hash(value)
    except TypeError:
        return type(value), id(value)
    return type(value), value  # most objects compare by identity


def _few(array):
    """The array; or evenly spaced entries of a large one."""
    return array if array.nbytes <= _LARGE else array.reshape(-1)[:: array.size // _ENTRIES]


def _array_summary(value):
    if isinstance(value, jax.Array) and jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key):
        value = jax.random.key_data(value)
    array = np.asarray(value)
    few = _few(array)
    if array.dtype.hasobject:
        return "array", array.shape, repr(few)
    mask = np.ma.getmaskarray(value).tobytes() if isinstance(value, np.ma.MaskedArray) else b""
    return "array", array.shape, str(array.dtype), hashlib.sha1(few.tobytes() + mask).digest()
