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
    own: ClassVar[frozenset[str]] = frozenset()  # of those, what it changes itself, such as a cache

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
        if not isinstance(other, Function) or not _is_same(self.call, other.call):
            return False
        return not self._differing(self.reads, other.reads, self.own | other.own)

    def __hash__(self):
        return hash(self.name)

    def changed(self) -> str | None:
        """The name of something that the function reads and that has changed since; else None."""
        return next(iter(self._differing(self.reads, contents(self.call), self.own)), None)

    def settle(self) -> None:
        """Leave out from now on what the function has changed itself in runs until now."""
        now = contents(self.call)
        object.__setattr__(self, "own", frozenset(self._differing(self.reads, now, frozenset())))

    @staticmethod
    def _differing(reads, others, own) -> list[str]:
        if reads == others:
            return []
        names = dict.fromkeys((*reads, *others))
        return [n for n in names if n not in own and reads.get(n) != others.get(n)]

    def parameters(self, observed: str) -> list[str]:
        """Names of parameters through which the observed site may be given, likeliest first.

        They are that of the site's name, and those beside the first that are None by default;
        with ``**kwargs`` also texts in the code.
        """
        call = self.call
        while isinstance(call, Messenger):  # a handler around the program
            call = call.fn
        try:
            own = list(inspect.signature(call).parameters.values())
        except (TypeError, ValueError):  # some callables have no signature
            return []
        by_name = [p for p in own if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        found = [p.name for p in by_name if p.name == observed]
        found += [p.name for p in by_name if p is not own[0] and p.default is None]
        if any(p.kind is p.VAR_KEYWORD for p in own):
            texts = getattr(getattr(call, "__code__", None), "co_consts", ())
            found += [observed, *(t for t in texts if isinstance(t, str) and t.isidentifier())]
        return list(dict.fromkeys(found))

    def digest(self) -> str:
        """A text of what the function reads, the same in another process of one Python version."""
        return digest({name: v for name, v in self.reads.items() if name not in self.own})

    def has_named(self, name: str) -> bool:
        """Whether the function has a parameter of that name."""
        with contextlib.suppress(TypeError, ValueError):
            return name in inspect.signature(self.call).parameters
        return False


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
