"""What the documents say is run: the README's Python, and every example in a docstring."""

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgen

ROOT = Path(__file__).parent.parent
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(jaxgen.__path__, "jaxgen.")
    if not module.name.endswith(("__main__", "build_land"))
)


def test_readme(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert len(blocks) >= 2
    namespace = {"__name__": "readme"}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), namespace)


@pytest.mark.parametrize("name", MODULES)
def test_docstrings(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(name)
    names = {k: getattr(module, k) for k in dir(module)}
    x = np.random.default_rng(0).normal(size=(200, 2))
    images = np.random.default_rng(0).integers(0, 256, (20, 28, 28))
    extra = {"jax": jax, "jnp": jnp, "np": np, "jaxgen": jaxgen, "x": x, "images": images}
    for source in (jaxgen.models, jaxgen.compose):
        extra |= {k: getattr(source, k) for k in source.__all__}
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    result = doctest.testmod(
        module, globs={**extra, "bijectors": jaxgen.bijectors, **names}, optionflags=flags
    )
    assert result.failed == 0
