"""The documents are run: the Python of README and docs, the commands, and docstring examples."""

import doctest
import importlib
import pkgutil
import re
import shlex
import tomllib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from sklearn.datasets import load_iris

import jaxgen
from jaxgen.cli import main as cli
from jaxgen.training import gradient

SMALLER = {  # by page: numbers whose size takes time and changes nothing else
    "docs/start.md": {"10_000_000": "1_000_000"},  # in blocks of the same size
    "docs/flows.md": {
        "SplineCoupling(\n    2, domain": "SplineCoupling(\n    2, layers=1, domain",
        "layers=2, y_shape": "layers=1, y_shape",
    },
    "docs/labels.md": {"layers=2)": "layers=1)"},
    "docs/images.md": {"[::8]": "[::32]"},
    "docs/text.md": {"[::10]": "[::50]"},
    "docs/numpyro-programs.md": {"NUTS()),": "NUTS(50, 50)),"},
    "docs/command-line.md": {"-n 1000000": "-n 1000"},
}
ROOT = Path(__file__).parent.parent
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(jaxgen.__path__, "jaxgen.")
    if not module.name.endswith(("__main__", "build_land"))
)
PAGES = ["README.md", *sorted(str(p.relative_to(ROOT)) for p in ROOT.glob("docs/*.md"))]


def blocks(page, language):
    """The code blocks of a page, with the smaller numbers of ``SMALLER``."""
    text = (ROOT / page).read_text()
    for given, smaller in SMALLER.get(page, {}).items():
        assert given in text
        text = text.replace(given, smaller)
    return re.findall(rf"```{language}\n(.*?)```", text, re.S)


@pytest.mark.parametrize("page", PAGES)
def test_page(page, tmp_path, monkeypatch):
    """All Python of a page runs, from the top, in one namespace."""
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "page"}
    for block in blocks(page, "python"):
        exec(compile(block, page, "exec"), namespace)


def test_commands(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    x = np.random.default_rng(0).normal(size=(1200, 2)) ** 3
    for name, rows in ("events.csv", x[:1000]), ("test.csv", x[1000:]):
        np.savetxt(name, rows, delimiter=",", header="east,north", comments="")
    iris = load_iris()
    lines = ["sepal_length,sepal_width,petal_length,petal_width,species"]
    for i, (row, species) in enumerate(zip(iris.data, iris.target_names[iris.target], strict=True)):
        cells = ["" if (i + j) % 9 == 0 else str(value) for j, value in enumerate(row)]
        lines.append(",".join([*cells, species]))
    Path("iris.csv").write_text("\n".join(lines))
    names = jaxgen.datasets.first_names()
    Path("words").mkdir()
    for path, texts in {
        "names.txt": names[::9], "test.txt": names[4::90], "prose.txt": ["The old ", *names[::9]],
        "words/en.txt": names[::9], "words/fr.txt": names[1::9],
    }.items():  # fmt: skip
        Path(path).write_text("\n".join(texts))
    commands = [
        shlex.split(line)
        for block in blocks("docs/command-line.md", "sh")
        for line in block.splitlines()
    ]
    assert len(commands) >= 13
    for program, *arguments in commands:
        assert program == "jaxgen"
        assert cli.main(arguments) == 0, (arguments, capsys.readouterr().err)


def test_commands_of_clusters():
    """The commands within those of Slurm and Kubernetes have arguments that exist."""
    text = (ROOT / "docs/bulk-generation.md").read_text()
    shards = {"$i/4": "3/4", "$SLURM_ARRAY_TASK_ID/16": "15/16", "$JOB_COMPLETION_INDEX/16": "0/16",
              "$SLURM_PROCID/$SLURM_NTASKS": "7/16"}  # fmt: skip
    commands = re.findall(r"jaxgen (generate|verify) ([^`'&\n]+)", text)
    assert len(commands) == 7
    for name, arguments in commands:
        for variable, value in shards.items():
            arguments = arguments.replace(variable, value)
        assert "$" not in arguments
        parsed = cli._parser().parse_args([name, *shlex.split(arguments)])
        assert name == "verify" or parsed.out is not None


@pytest.mark.parametrize("page", [*PAGES, "CONTRIBUTING.md", "CHANGELOG.md", "ARCHITECTURE.md"])
def test_links(page):
    """Every file that a page links to exists."""
    for target in re.findall(r"\]\(([^)#]+)\)", (ROOT / page).read_text()):
        assert (ROOT / page).parent.joinpath(target).exists(), target


def test_readme_is_short_and_marks_two_commands():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 150
    assert text.count("<!-- ci -->\n```sh\n") == 2


def test_citation_has_the_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert f"\nversion: {project['version']}\n" in (ROOT / "CITATION.cff").read_text()


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
    if name.startswith("jaxgen.numpyro"):
        names = names | program_scene
    monkeypatch.chdir(folder)
    module = importlib.import_module(name)
    own = {k: getattr(module, k) for k in dir(module)}
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    result = doctest.testmod(module, globs=names | own, optionflags=flags)
    assert result.failed == 0
