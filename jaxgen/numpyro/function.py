"""Functions as fields of specs: hashable, and saved by name."""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import ClassVar

from jaxgen.spec import Spec
from jaxgen.warn import warn

_functions: dict[str, Callable] = {}  # the last of each name
_shared: set[str] = set()  # names of several functions that live side by side


class Function(Spec):
    """A function by its name. Equal to itself alone: two of one name share no compiled program.

    In a file it is a name, and loading finds the function that was last given that name: nothing is
    imported. Closures, partials and the like, which may share one, are warned of.
    """

    name: str

    call: ClassVar[Callable]

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
                "a function of its own name where they are to be told apart in files"
            )
        object.__setattr__(self, "call", _functions[self.name])

    def __eq__(self, other):
        return isinstance(other, Function) and self.call is other.call

    def __hash__(self):
        return hash(self.call)


def function(call: Callable, named: bool = True) -> Function:
    """The spec of a function; ``named`` says whether loading finds it by its name from now on."""
    of = call if hasattr(call, "__qualname__") else type(call)
    name = f"{of.__module__}.{of.__qualname__}"
    if named:
        earlier = _functions.get(name, call)
        if earlier is not call and not (_is_plain(earlier) and _is_plain(call)):
            _shared.add(name)
        _functions[name] = call
    spec = object.__new__(Function)
    object.__setattr__(spec, "name", name)
    object.__setattr__(spec, "call", call)
    return spec


def _is_plain(call):
    """Whether another of its name is a later edition of it."""
    return isinstance(call, FunctionType) and not call.__closure__
