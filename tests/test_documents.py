"""What the documents say is run: the README's Python, and every example in a docstring."""

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import jaxgen
from jaxgen.training import gradient

OF_PROGRAMS = {f"jaxgen.numpyro.{name}" for name in ("arviz", "program", "queries", "sbc")}
SMALLER = {  # of the README: numbers whose size takes time and changes nothing else
    "10_000_000": "1_000_000",  # in blocks of the same size
    "SplineCoupling(2, domain": "SplineCoupling(2, layers=1, domain",
    "SplineCoupling(2, layers=2": "SplineCoupling(2, layers=1",
    "NUTS()": "NUTS(50, 50)",
}
ROOT = Path(__file__).parent.parent
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(jaxgen.__path__, "jaxgen.")
    if not module.name.endswith(("__main__", "build_land"))
)


def test_readme(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "README.md").read_text()
    for given, smaller in SMALLER.items():
        assert given in text
        text = text.replace(given, smaller)
    blocks = re.findall(r"```python\n(.*?)```", text, re.S)
    assert len(blocks) >= 2
    namespace = {"__name__": "readme"}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), namespace)


@pytest.fixture(autouse=True, scope="module")
def short_fits():
    """Few steps by default: they take the same compiled programs as many."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gradient, "STEPS", 20)
        yield


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """A folder and the names that examples may use without saying where they come from."""
    folder = tmp_path_factory.mktemp("scene")
    x = np.random.default_rng(0).normal(size=(200, 2))
    images = np.random.default_rng(0).integers(0, 256, (20, 28, 28))
    model = jaxgen.models.Gaussian(2)
    fitted = jaxgen.fit(model, x, key=jax.random.key(0))
    fitted = jaxgen.Fitted(model, fitted.params, columns=("latitude", "longitude"))
    y = np.array(["apple", "pear", "plum"])[np.arange(200) % 3]
    per_class = jaxgen.compose.PerClass(model, 3)
    labelled = jaxgen.fit(per_class, x, y, key=jax.random.key(0))
    fitted.save(folder / "gaussian.jaxgen")
    np.savetxt(folder / "events.csv", x, delimiter=",", header="latitude,longitude", comments="")
    names = {"jax": jax, "jnp": jnp, "np": np, "jaxgen": jaxgen, "bijectors": jaxgen.bijectors}
    names |= {"y": y, "labelled": labelled, "conditions": x, "key": jax.random.key(0)}
    names |= {"x": x, "x_test": x, "images": images, "model": model, "fitted": fitted}
    for source in (jaxgen, jaxgen.models, jaxgen.compose, jaxgen.domains):
        names |= {name: getattr(source, name) for name in source.__all__}
    return folder, names


@pytest.fixture(scope="module")
def program_scene():
    """Names for the examples of programs."""

    def regression(y, x=None):
        slope = numpyro.sample("slope", dist.Normal(0, 1))
        with numpyro.plate("rows", len(y)):
            numpyro.sample("x", dist.Normal(slope * y, 0.5), obs=x)

    y = np.random.default_rng(0).normal(size=20)
    x, grid = 0.7 * y, np.linspace(-2, 2, 30)
    model = jaxgen.numpyro.from_program(regression, y_shape=())
    fitted = jaxgen.fit(model, x, y, key=jax.random.key(0), epochs=20)
    names = {"regression": regression, "x": x, "y": y, "grid": grid}
    return names | {"model": model, "fitted": fitted}


@pytest.mark.parametrize("name", MODULES)
def test_docstrings(name, scene, program_scene, monkeypatch):
    folder, names = scene
    if name in OF_PROGRAMS:
        names = names | program_scene
    monkeypatch.chdir(folder)
    module = importlib.import_module(name)
    own = {k: getattr(module, k) for k in dir(module)}
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    result = doctest.testmod(module, globs=names | own, optionflags=flags)
    assert result.failed == 0
