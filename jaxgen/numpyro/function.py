"""Functions as fields of specs: hashable, and saved by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import FunctionType, MethodType
from typing import Any, ClassVar

from numpyro.primitives import Messenger

from jaxgen.numpyro.closure import contents
from jaxgen.spec import Spec
from jaxgen.warn import warn

_functions: dict[str, Callable] = {}  # the last of each name
_shared: set[str] = set()  # names of several functions that live side by side


class Function(Spec):
    """A function with what it reads: globals, closures, defaults, attributes.

    Equal are those of one function that read the same values, so that a changed global compiles
    anew. In a file it is a name, and loading finds the function that last had that name: nothing
    is imported. Closures, partials and the like, which may share a name, give a warning.
    """

    name: str

    call: ClassVar[Callable]
    reads: ClassVar[dict[str, Any]]  # what the function reads, by name

    def __post_init__(self):
        super().__post_init__()
        if self.name not in _functions:
            raise ValueError(
                f"unknown program {self.name!r}: import the module that defines it and give it to "
                "from_program, then load again"
            )
        if self.name in _shared:
            warn(
                f"several programs were given the name {self.name!r}; the last is taken: give each "
                "a function of its own name where files must tell them apart"
            )
        call = _functions[self.name]
        object.__setattr__(self, "call", call)
        object.__setattr__(self, "reads", contents(call))

    def __eq__(self, other):
        same = isinstance(other, Function) and _is_same(self.call, other.call)
        return same and self.reads == other.reads

    def __hash__(self):
        return hash(self.name)

    def changed(self) -> str | None:
        """The name of something that the function reads and that has changed since; else None."""
        now = contents(self.call)
        if now == self.reads:
            return None
        return next(n for n in (*now, *self.reads) if now.get(n) != self.reads.get(n))

    def parameter(self, observed: str) -> str | None:
        """The parameter through which the value of the observed site is given; None without one.

        It has the site's name, or else is the only parameter beside the first that is None by
        default.
        """
        call = self.call
        while isinstance(call, Messenger):  # a handler around the program
            call = call.fn
        try:
            own = list(inspect.signature(call).parameters.values())
        except (TypeError, ValueError):  # some callables have no signature
            return None
        by_name = [p for p in own if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        named = [p.name for p in by_name if p.name == observed]
        named += [observed for p in own if p.kind is p.VAR_KEYWORD]
        optional = [p.name for p in by_name if p is not own[0] and p.default is None]
        return named[0] if named else optional[0] if len(optional) == 1 else None


def function(call: Callable, named: bool = True) -> Function:
    """The spec of a function; ``named`` says whether loading finds it by its name from now on."""
    of = call if hasattr(call, "__qualname__") else type(call)
    name = f"{of.__module__}.{of.__qualname__}"
    if named:
        earlier = _functions.get(name, call)
        if not _is_same(earlier, call) and not (_is_plain(earlier) and _is_plain(call)):
            _shared.add(name)
        _functions[name] = call
    spec = object.__new__(Function)
    object.__setattr__(spec, "name", name)
    object.__setattr__(spec, "call", call)
    object.__setattr__(spec, "reads", contents(call) if named else {})
    return spec


def _is_same(one, other):
    """Whether they are one function; a method is made anew whenever it is looked up."""
    return one is other or (isinstance(one, MethodType) and one == other)


def _is_plain(call):
    """Whether another of its name is a later edition of it."""
    return isinstance(call, FunctionType) and not call.__closure__
