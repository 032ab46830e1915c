"""Functions as fields of specs: hashable, and saved by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from jaxgen.spec import Spec

_functions: dict[str, Callable] = {}  # the last of each name


class Function(Spec):
    """A function by its name. Equal to itself alone: two of one name share no compiled program.

    In a file it is a name, and loading finds the function that was last given that name: nothing is
    imported.
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
        object.__setattr__(self, "call", _functions[self.name])

    def __eq__(self, other):
        return isinstance(other, Function) and self.call is other.call

    def __hash__(self):
        return hash(self.call)


def function(call: Callable) -> Function:
    """The spec of a function."""
    of = call if hasattr(call, "__qualname__") else type(call)
    name = f"{of.__module__}.{of.__qualname__}"
    _functions[name] = call
    return Function(name)
