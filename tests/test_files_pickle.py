"""jaxgen never unpickles a file."""

import ast
import pathlib

import pytest

import jaxgen


def unsafe(source):
    """Lines of a module that could unpickle."""
    banned = {
        "pickle",
        "cPickle",
        "marshal",
        "shelve",
        "dill",
        "cloudpickle",
        "joblib",
        "jsonpickle",
    }
    found = []
    for node in ast.walk(ast.parse(source)):
        names = (
            [a.name for a in node.names] if isinstance(node, (ast.Import, ast.ImportFrom)) else []
        )
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        bad = any(name.split(".")[0] in banned for name in names)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("numpy"):
            bad |= any(a.name == "load" for a in node.names)  # a bare ``load`` would hide it
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            owner, name = node.func.value, node.func.attr
            numpy = isinstance(owner, ast.Name) and owner.id in ("np", "numpy", "jnp")
            if (numpy and name == "load") or name in ("read_array", "fromfile_pickle"):
                safe = [k.value for k in node.keywords if k.arg == "allow_pickle"]
                bad |= not (safe and isinstance(safe[0], ast.Constant) and safe[0].value is False)
            bad |= name == "read_pickle"
        if isinstance(node, ast.Call):
            bad |= any(
                k.arg == "allow_pickle"
                and not (isinstance(k.value, ast.Constant) and k.value.value is False)
                for k in node.keywords
            )
        found += [node.lineno] if bad else []
    return found


def test_no_file_can_unpickle():
    sources = sorted(pathlib.Path(jaxgen.__file__).parent.rglob("*.py"))
    assert len(sources) > 15
    assert {str(p): unsafe(p.read_text()) for p in sources if unsafe(p.read_text())} == {}


@pytest.mark.parametrize(
    "source",
    [
        "import pickle", "import os, dill", "from marshal import loads", "import shelve as s",
        "np.load(f)", "np.load(f, allow_pickle=True)", "numpy.load(f, allow_pickle=x)",
        "from numpy import load", "open_array(f, allow_pickle=True)",
    ],
)  # fmt: skip
def test_the_search_for_pickle_finds_it(source):
    assert unsafe(source) == [1]
