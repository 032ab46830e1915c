"""Laws of the code itself: every model has a row, and imports point one way."""

import ast
import itertools
import pathlib
import re

from cases import CASES

import jaxgen
from jaxgen import bijectors, compose, models
from jaxgen.core.spec import Spec

PACKAGE = pathlib.Path(jaxgen.__file__).parent
FOUNDATION = {
    "model",
    "random",
    "spec",
    "by_index",
    "choice",
    "kmeans",
    "numerics",
    "places",
    "promotion",
    "sizes",
    "nets",
    "lanes",
    "domains",
    "frame",
}
FOUNDATION |= {"bijectors", "models"}


def specs_in(spec):
    """A spec and those within it."""
    yield spec
    for value in vars(spec).values():
        for item in value if isinstance(value, tuple) else (value,):
            if isinstance(item, Spec):
                yield from specs_in(item)


def test_every_exported_model_and_bijector_has_a_row():
    judged = {type(spec) for case in CASES for spec in specs_in(case.model)}
    exported = {
        getattr(module, name)
        for module in (models, compose, bijectors)
        for name in module.__all__
        if name != "Bijector"
    }
    missing = {cls.__name__ for cls in exported - judged}
    assert not missing, f"give these a row in tests/cases.py: {sorted(missing)}"


def test_names_of_rows_are_unique():
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names)


def test_every_model_file_is_listed():
    bases = {"Flow", "Wrapper"}
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


def imports_of(file):
    """Modules of jaxgen that a file imports, by the first name below the package."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file.name}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (name.split(".")[1] for name in names if name.startswith("jaxgen."))


def test_imports_point_one_way():
    for folder in ("models", "compose", "bijectors"):
        for file in (PACKAGE / folder).glob("*.py"):
            allowed = FOUNDATION | ({"compose"} if folder == "compose" else set())
            strange = set(imports_of(file)) - allowed
            assert not strange, f"{folder}/{file.name} imports jaxgen.{strange.pop()}"
    assert set(imports_of(PACKAGE / "model.py")) <= {"spec", "random", "places"}
    assert set(imports_of(PACKAGE / "spec.py")) == set()


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
