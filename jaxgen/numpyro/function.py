"""Functions as fields of specs: hashable, and saved by name."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable
from types import FunctionType, MethodType
from typing import Any, ClassVar

from numpyro.primitives import Messenger

from jaxgen.core.spec import Spec
from jaxgen.core.warn import warn
from jaxgen.numpyro.closure import contents, digest

_functions: dict[str, Callable[..., Any]] = {}  # the latest function of each name
_shared: set[str] = set()  # names that several functions have at the same time


class Function(Spec):
    """A function and what it reads: globals, closures, defaults and attributes.

    Two of them are equal if they are the same function and have read the same values, so that a
    changed global compiles a new program. A file holds the name alone. Loading looks up the latest
    function of that name and imports nothing. It warns if several functions share the name, as
    closures and partials may.
    """

    name: str

    call: ClassVar[Callable[..., Any]]
    reads: ClassVar[dict[str, Any]]  # summaries of what the function reads, by name
    self_changed: ClassVar[frozenset[str]] = frozenset()  # names that it changes, such as a cache

    def __post_init__(self):
        super().__post_init__()
        if self.name not in _functions:
            raise ValueError(
                f"unknown program {self.name!r}: import the module that defines it, pass it to "
                "from_program, and load the file again"
            )
        if self.name in _shared:
            warn(
                f"several programs were given the name {self.name!r}, and the latest is loaded: "
                "define each with a name of its own if files must distinguish them"
            )
        call = _functions[self.name]
        object.__setattr__(self, "call", call)
        object.__setattr__(self, "reads", contents(call))

    def __eq__(self, other):
        if not isinstance(other, Function) or not _is_same(self.call, other.call):
            return False
        ignored = self.self_changed | other.self_changed
        return not self._differences(self.reads, other.reads, ignored)

    def __hash__(self):
        return hash(self.name)

    def changed(self) -> str | None:
        """The name of something that the function reads and that has changed; None if nothing."""
        return next(
            iter(self._differences(self.reads, contents(self.call), self.self_changed)), None
        )

    def settle(self) -> None:
        """Ignore from now on what the runs so far have changed, as the function changes it."""
        changed = self._differences(self.reads, contents(self.call), frozenset())
        object.__setattr__(self, "self_changed", frozenset(changed))

    @staticmethod
    def _differences(reads, others, ignored) -> list[str]:
        if reads == others:
            return []
        names = dict.fromkeys((*reads, *others))
        return [n for n in names if n not in ignored and reads.get(n) != others.get(n)]

    def observed_parameters(self, observed: str) -> list[str]:
        """Names of parameters that may take the value of the observed site, the likeliest first.

        These are the parameter with the name of the site, and all after the first whose default is
        None. With ``**kwargs``, strings in the code may be such names too.
        """
        call = self.call
        while isinstance(call, Messenger):  # a handler around the program
            call = call.fn
        try:
            parameters = list(inspect.signature(call).parameters.values())
        except (TypeError, ValueError):  # some callables have no signature
            return []
        by_name = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        found = [p.name for p in by_name if p.name == observed]
        found += [p.name for p in by_name if p is not parameters[0] and p.default is None]
        if any(p.kind is p.VAR_KEYWORD for p in parameters):
            texts = getattr(getattr(call, "__code__", None), "co_consts", ())
            found += [observed, *(t for t in texts if isinstance(t, str) and t.isidentifier())]
        return list(dict.fromkeys(found))

    def digest(self) -> str:
        """A hash of what the function reads, the same in every process of one Python version."""
        return digest({name: v for name, v in self.reads.items() if name not in self.self_changed})

    def has_parameter(self, name: str) -> bool:
        """Whether the function has a parameter of that name."""
        with contextlib.suppress(TypeError, ValueError):
            return name in inspect.signature(self.call).parameters
        return False


def as_function(call: Callable[..., Any], named: bool = True) -> Function:
    """The spec of a function.

    Args:
      call: the function.
      named: whether loading a file finds the function by its name from now on.
    """
    named_object = call if hasattr(call, "__qualname__") else type(call)
    name = f"{named_object.__module__}.{named_object.__qualname__}"
    if named:
        earlier = _functions.get(name, call)
        if not _is_same(earlier, call) and not (_is_replaceable(earlier) and _is_replaceable(call)):
            _shared.add(name)
        _functions[name] = call
    spec = object.__new__(Function)
    object.__setattr__(spec, "name", name)
    object.__setattr__(spec, "call", call)
    object.__setattr__(spec, "reads", contents(call) if named else {})
    return spec


def _is_same(one, other):
    """Whether two callables are the same function; every look-up of a method makes a new object."""
    return one is other or (isinstance(one, MethodType) and one == other)


def _is_replaceable(call):
    """Whether a function of the same name is a new version of this one."""
    return isinstance(call, FunctionType) and not call.__closure__
