"""Laws of the code itself: every model has a row, and imports point one way."""

import ast
import importlib
import inspect
import itertools
import pathlib
import re

from cases import CASES

import jaxgen
from jaxgen import Model, bijectors, compose, models
from jaxgen.core.spec import Spec

Posterior = next(c for c in jaxgen.numpyro.Point.__mro__ if c.__name__ == "Posterior")
PACKAGE = pathlib.Path(jaxgen.__file__).parent
ROOMS = [  # each may import those below it
    "cli",
    "laws",
    "metrics",
    "numpyro",
    "sklearn",
    "training",
    "data",
    "compose",
    "models",
    "networks",
    "bijectors",
    "core",
]
PUBLIC = (
    jaxgen.bijectors,
    jaxgen.compose,
    jaxgen.data,
    jaxgen.data.bulk,
    jaxgen.datasets,
    jaxgen.laws,
    jaxgen.metrics,
    jaxgen.models,
    jaxgen.networks,
    jaxgen.numpyro,
    jaxgen.training,
)


def specs_in(spec):
    """A spec and those within it."""
    yield spec
    for value in vars(spec).values():
        for item in value if isinstance(value, tuple) else (value,):
            if isinstance(item, Spec):
                yield from specs_in(item)


def test_every_exported_model_and_bijector_has_a_row():
    tested = {type(spec) for case in CASES for spec in specs_in(case.model)}
    exported = {
        getattr(module, name)
        for module in (models, compose, bijectors)
        for name in module.__all__
        if name != "Bijector"
    }
    missing = {cls.__name__ for cls in exported - tested}
    assert not missing, f"give these a row in tests/cases.py: {sorted(missing)}"


def test_names_of_rows_are_unique():
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names)


def test_every_model_file_is_listed():
    bases = {"Causal", "Conditioned", "Flow", "Framed", "Sequence", "Wrapper"}
    for folder, module in (("models", models), ("compose", compose)):
        found = set()
        for file in (PACKAGE / folder).glob("[!_]*.py"):
            tree = ast.parse(file.read_text())
            found |= {
                node.name
                for node in tree.body
                if isinstance(node, ast.ClassDef)
                and not node.name.startswith("_")
                and any(getattr(b, "id", "") in ("Model", *bases) for b in node.bases)
            } - bases
        assert found <= set(module.__all__), f"{folder}/__init__.py does not list all its models"


def module_name(file):
    """The dotted name of a file of the package; a package stands for its ``__init__``."""
    parts = ("jaxgen", *file.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(file): file for file in sorted(PACKAGE.rglob("*.py"))}


def imports_of(file):
    """Modules of jaxgen that a file imports, anywhere in it, functions included."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names = [(alias.name, None) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file.name}: relative import"
            names = [(node.module, alias.name) for alias in node.names]
        else:
            continue
        for module, name in names:
            if module.split(".")[0] == "jaxgen":
                submodule = f"{module}.{name}"
                yield submodule if submodule in MODULES else module


def circles(graph):
    """Modules on a circle of imports."""
    found, stack, state = [], [], {}

    def visit(module):
        state[module] = "open"
        stack.append(module)
        for other in sorted(graph[module]):
            if state.get(other) == "open":
                found.append([*stack[stack.index(other) :], other])
            elif other not in state:
                visit(other)
        stack.pop()
        state[module] = "done"

    for module in sorted(graph):
        if module not in state:
            visit(module)
    return found


def test_no_circle_of_imports():
    graph = {name: set(imports_of(file)) for name, file in MODULES.items()}
    assert not circles(graph), "\n".join(" -> ".join(circle) for circle in circles(graph))


def test_a_circle_would_be_found():
    graph = {"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}
    assert circles(graph) == [["b", "c", "b"]]


def room_of(module):
    return module.split(".")[1] if "." in module else "jaxgen"


def test_imports_point_down_the_list_of_rooms():
    """A package imports those below it in ROOMS and itself; a third party's name is no matter."""
    for module, file in MODULES.items():
        room = room_of(module)
        if room in ("jaxgen", "__main__"):
            continue
        allowed = ROOMS[ROOMS.index(room) :]
        for other in imports_of(file):
            assert room_of(other) in allowed, f"{module} imports {other}"


def test_few_entries_each_explained():
    entries = {path.name for path in PACKAGE.iterdir() if path.name != "__pycache__"}
    assert len(entries) <= 15
    text = (PACKAGE.parent / "ARCHITECTURE.md").read_text()
    for entry in entries:
        name = f"{entry}/" if (PACKAGE / entry).is_dir() else entry
        assert f"`{name}`" in text, f"ARCHITECTURE.md does not explain {name}"
    for room in ROOMS:
        is_package = (PACKAGE / room).is_dir()
        file = PACKAGE / room / "__init__.py" if is_package else PACKAGE / f"{room}.py"
        assert ast.get_docstring(ast.parse(file.read_text()))


def subclasses(cls):
    for child in cls.__subclasses__():
        yield child
        yield from subclasses(child)


def test_no_class_of_a_model_is_asked_for_outside_its_file():
    """``isinstance(model, PerClass)`` elsewhere would misjudge somebody else's wrapper."""
    own = {c for base in (Model, Posterior) for c in subclasses(base)}
    home = {c.__name__: c.__module__ for c in own if c.__module__.startswith("jaxgen.")}
    for module, file in MODULES.items():
        for node in ast.walk(ast.parse(file.read_text())):
            asked = []
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in (
                "isinstance",
                "issubclass",
            ):
                asked = list(ast.walk(node.args[1]))
            elif isinstance(node, ast.Compare):
                sides = [node.left, *node.comparators]
                calls = [getattr(side, "func", None) for side in sides]
                if any(getattr(call, "id", "") == "type" for call in calls):
                    asked = [n for side in sides for n in ast.walk(side)]
            names = {getattr(n, "id", getattr(n, "attr", "")) for n in asked} & set(home)
            strange = {name for name in names if home[name] != module}
            assert not strange, f"{module}, line {node.lineno}: asks for {strange}"


def test_the_contract_is_small():
    public = [name for name in vars(Model) if not name.startswith("_")]
    public += [name for name in Model.__annotations__ if name not in public]
    assert len(set(public)) <= 20, sorted(set(public))
    required = [
        name
        for name in ("init", "log_prob", "noise", "push")
        if "must define" in inspect.getsource(getattr(Model, name))
    ]
    assert len(required) == 4  # and event_shape
    page = (PACKAGE / "core" / "model.py").read_text().splitlines()
    assert len(page) < 200


def test_what_dir_shows_is_public_and_explained():
    assert dir(jaxgen) == sorted(jaxgen.__all__)
    for name in jaxgen.__all__:
        doc = inspect.getdoc(getattr(jaxgen, name))
        assert doc, f"jaxgen.{name} has no docstring"
        assert ">>>" in doc, f"jaxgen.{name} has no example"


def test_no_public_name_hides_a_module():
    """``import jaxgen.a.b as c`` gives the attribute b of jaxgen.a, which must be the module."""
    for module in MODULES:
        package, _, name = module.rpartition(".")
        if package and name != "__main__":
            found = getattr(importlib.import_module(package), name, None)
            if found is not None:
                assert inspect.ismodule(found), f"{module} is hidden by a {type(found).__name__}"


def public_functions():
    """Functions and methods that a user can reach, with their names."""
    for module in MODULES:
        if module == "jaxgen.__main__":
            continue
        namespace = importlib.import_module(module)
        for name, value in vars(namespace).items():
            if name.startswith("_") or getattr(value, "__module__", None) != module:
                continue
            if inspect.isfunction(value):
                yield f"{module}.{name}", value


def test_public_functions_are_annotated():
    """Those of the packages' ``__all__`` and of the modules that a user imports."""
    public = {id(getattr(jaxgen, name)) for name in jaxgen.__all__}
    for package in PUBLIC:
        public |= {id(getattr(package, name)) for name in package.__all__}
    for name, function in public_functions():
        if id(function) not in public:
            continue
        signature = inspect.signature(function)
        missing = [
            p.name for p in signature.parameters.values() if p.annotation is inspect.Parameter.empty
        ]
        assert not missing, f"{name}: no type for {missing}"
        assert signature.return_annotation is not inspect.Signature.empty, f"{name}: no return type"


def test_places_in_the_data_are_named_in_one_way():
    """An f-string would fix "feature 2" where a user knows the column: see jaxgen/places.py."""
    for file in sorted(PACKAGE.rglob("*.py")):
        if file.name in ("places.py", "inspection.py"):  # of rows that it makes up
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            if not isinstance(node, ast.JoinedStr):
                continue
            for text, value in itertools.pairwise(node.values):
                words = getattr(text, "value", "")
                number = isinstance(value, ast.FormattedValue) and value.conversion == -1  # no !r
                found = number and re.search(r"\b(feature|row|label) $", str(words))
                assert not found, f"{file.name}, line {node.lineno}: give a places.Message"
