"""Functions as fields of specs: hashable, and saved by name."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import FunctionType, MethodType
from typing import Any, ClassVar

from jaxgen.core.spec import Spec
from jaxgen.core.warn import warn
from jaxgen.numpyro.closure import contents, described_data, digest, is_array, shown, values
from jaxgen.numpyro.covariates import (
    Covariate,
    is_named,
    parameters_of,
    unpack,
    without_handlers,
)

_functions: dict[str, Callable[..., Any]] = {}  # the latest function of each name
_shared: set[str] = set()  # names that several functions have at the same time


class Function(Spec):
    """A function and what it reads: globals, closures, defaults and attributes.

    Two of them are equal if they are the same function and have read the same values, so that a
    changed global compiles a new program. A file holds the name and the covariates. Loading looks
    up the latest function of that name and imports nothing. It warns if several functions share the
    name, as closures and partials may.

    Args:
      name: module and qualified name.
      covariates: what the function takes by name; None for a function of one argument, the
        conditions or the number of rows.
    """

    name: str
    covariates: tuple[Covariate, ...] | None = None

    call: ClassVar[Callable[..., Any]]
    reads: ClassVar[dict[str, Any]]  # summaries of what the function reads, by name
    self_changed: ClassVar[frozenset[str]] = frozenset()  # names that it changes, such as a cache

    def __post_init__(self):
        super().__post_init__()
        if self.name not in _functions:
            where = "import the module that defines it"
            if self.name.startswith("__main__."):
                where = "define it here, as it was defined in the main script or in a notebook"
            raise ValueError(
                f"unknown program {self.name!r}: {where}, pass it to from_program, and load the "
                "file again"
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
        if self.covariates != other.covariates:
            return False
        ignored = self.self_changed | other.self_changed
        return not self._differences(self.reads, other.reads, ignored)

    def __hash__(self):
        return hash(self.name)

    def __reduce__(self) -> Any:
        """The function by reference, which another process reads anew."""
        facts = self.covariates, bool(self.reads), self.self_changed, self.digest()
        return _restored, (self.call, *facts)

    def run(self, argument: Any, keywords: dict[str, Any]) -> None:
        """Call the function.

        Args:
          argument: conditions (n, *y_shape), or the number of rows.
          keywords: further arguments, by name.
        """
        if self.covariates is None:
            self.call(argument, **keywords)
        else:
            self.call(**unpack(self.covariates, argument), **keywords)

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

        These are the parameter with the name of the site, and all others whose default is None but
        the covariates, or the first. With ``**kwargs``, strings in the code may be such names too.
        """
        parameters = parameters_of(self.call)
        by_name = [p for p in parameters if is_named(p)]
        found = [p.name for p in by_name if p.name == observed]
        first = parameters[:1] if self.covariates is None else []
        found += [p.name for p in by_name if p not in first and p.default is None]
        if any(p.kind is p.VAR_KEYWORD for p in parameters):
            texts = getattr(getattr(without_handlers(self.call), "__code__", None), "co_consts", ())
            found += [observed, *(t for t in texts if isinstance(t, str) and t.isidentifier())]
        known = {one.name for one in self.covariates or ()}
        return [name for name in dict.fromkeys(found) if name and name not in known]

    def digest(self) -> str:
        """A hash of what the function reads, the same in every process of one Python version."""
        return digest({name: v for name, v in self.reads.items() if name not in self.self_changed})

    def data_read(self) -> dict[str, str]:
        """The arrays, numbers and lists that the function reads, as ``described_data``."""
        plain = {n: v for n, v in self.reads.items() if n not in self.self_changed}
        return described_data(plain, values(self.call))

    def hint_of_arrays(self) -> str:
        """The end of an error about rows, which names the arrays that the function reads; or ""."""
        arrays = {shown(n): v[1] for n, v in self.reads.items() if is_array(v) and v[1]}
        if not arrays:
            return ""
        listed = ", ".join(f"{name!r} of shape {shape}" for name, shape in arrays.items())
        return f"; it reads {listed}: pass arrays with a value for each row as covariates"

    @property
    def note_at_save(self) -> str:
        """A warning for a file that holds the name of the function; "" for none."""
        if not self.name.startswith("__main__."):
            return ""
        read = [name for name in self.data_read() if "[" not in name]  # without single entries
        data = f", and the data that it reads, {read}," if read else ""
        return (
            f"program {self.name} is defined in the main script or in a notebook, and a file holds "
            f"its name but no code: to load the file elsewhere, move the program{data} to a "
            "module, import it from there, and pass it to from_program before saving and before "
            "loading"
        )

    def has_parameter(self, name: str) -> bool:
        """Whether the function has a parameter of that name."""
        return any(p.name == name for p in parameters_of(self.call))

    def taking(self, covariates: tuple[Covariate, ...] | None) -> Function:
        """The same function with other covariates."""
        spec = object.__new__(Function)
        vars(spec).update(vars(self), covariates=covariates)
        return spec


def as_function(
    call: Callable[..., Any], named: bool = True, covariates: tuple[Covariate, ...] | None = None
) -> Function:
    """The spec of a function.

    Args:
      call: the function.
      named: whether loading a file finds the function by its name from now on.
      covariates: what the function takes by name; None for a function of one argument.
    """
    name = name_of(call)
    if named:
        if isinstance(call, functools.partial):
            _functions["functools.partial"] = call  # its name in files of version 0.3.0
        earlier = _functions.get(name, call)
        if not _is_same(earlier, call) and not (_is_replaceable(earlier) and _is_replaceable(call)):
            _shared.add(name)
        _functions[name] = call
    spec = object.__new__(Function)
    object.__setattr__(spec, "name", name)
    object.__setattr__(spec, "covariates", covariates)
    object.__setattr__(spec, "call", call)
    object.__setattr__(spec, "reads", contents(call) if named else {})
    return spec


def _restored(
    call: Callable[..., Any],
    covariates: tuple[Covariate, ...] | None,
    named: bool,
    self_changed: frozenset[str],
    digest: str,
) -> Function:
    """The spec that was pickled, perhaps in another process.

    Raises:
      ValueError: the function reads something else in this process.
    """
    spec = as_function(call, named, covariates)
    object.__setattr__(spec, "self_changed", self_changed)
    if spec.digest() != digest:
        raise ValueError(
            f"program {spec.name} reads other values in this process than where it was pickled, "
            "or has other code: give both processes the same modules and data"
        )
    return spec


def name_of(call: Callable[..., Any]) -> str:
    """Module and qualified name; that of a partial function also names what is bound."""
    if isinstance(call, functools.partial):
        bound = [*("..." for _ in call.args), *(f"{key}=..." for key in call.keywords)]
        return f"{name_of(call.func)}({', '.join(bound)})"
    named_object = call if hasattr(call, "__qualname__") else type(call)
    return f"{named_object.__module__}.{named_object.__qualname__}"


def _is_same(one, other):
    """Whether two callables are the same function; every look-up of a method makes a new object."""
    return one is other or (isinstance(one, MethodType) and one == other)


def _is_replaceable(call):
    """Whether a function of the same name is a new version of this one."""
    return isinstance(call, FunctionType) and not call.__closure__
