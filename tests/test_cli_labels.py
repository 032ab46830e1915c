"""The command line on tables and models with labels."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from command_line import conditional, fails, fails_last, run

import jaxgen
from jaxgen import compose, models
from jaxgen.data import tables
from jaxgen.metrics import calibration
from jaxgen.networks.domains import Levels

X = np.random.default_rng(0).normal((1, -3), (0.5, 4), (400, 2)).astype(np.float32)


@pytest.fixture(scope="module")
def fruit(tmp_path_factory):
    """A directory with a table of labelled events and models fitted to it, and the events."""
    path, rng = tmp_path_factory.mktemp("fruit"), np.random.default_rng(1)
    names = np.array(["pear", "apple", "big fig"])[rng.integers(0, 3, 300)]
    spread = {"pear": [[1, 0.9], [0.9, 1]], "apple": [[1, 0], [0, 1]], "big fig": [[4, 0], [0, 1]]}
    x = np.stack([rng.multivariate_normal([len(name) % 4, 1], spread[name]) for name in names])
    rows = [f"{a},{name},{b}" for (a, b), name in zip(x.tolist(), names, strict=True)]
    (path / "x.csv").write_text("\n".join(["a,kind,b", *rows]))
    numbers = np.array([{"pear": 7, "apple": 3, "big fig": 5}[name] for name in names])
    np.savez(path / "x.npz", x=x, y=numbers)
    common = ("--model", "gaussian", "--out")
    assert run("fit", path / "x.csv", "--label", "kind", *common, path / "m") == 0
    assert run("fit", path / "x.npz", "--label", "y", *common, path / "numbers") == 0
    return path, x, names


def test_fit_of_labels(fruit):
    path, x, names = fruit
    fitted, numbers = jaxgen.load(path / "m"), jaxgen.load(path / "numbers")
    assert fitted.model == numbers.model == compose.PerClass(models.Gaussian(2), 3)
    assert fitted.columns == ("a", "b")
    assert fitted.y_columns == ("kind",)
    assert numbers.columns is None
    assert fitted.labels == ("apple", "big fig", "pear")
    assert numbers.labels == (3, 5, 7)
    pears = x[names == "pear"]
    np.testing.assert_allclose(fitted.params["model"]["mean"][2], pears.mean(0), rtol=1e-4)


def test_fit_of_labels_by_a_conditional_model(fruit, tmp_path):
    small = (
        "--set",
        "head=affine",
        "layers=1",
        "width=4",
        "depth=1",
        "--epochs",
        1,
        "--label",
        "kind",
    )
    common = ("fit", fruit[0] / "x.csv", "--model", "masked-autoregressive", *small)
    assert run(*common, "--out", tmp_path / "m") == 0
    fitted = jaxgen.load(tmp_path / "m")
    label = {"y_shape": (), "y_domain": Levels(3)}
    flow = models.MaskedAutoregressive(2, 1, 4, 1, "affine", **label)
    assert fitted.model == compose.Labelled(flow, 3)
    assert fitted.labels == ("apple", "big fig", "pear")


def test_sample_given_a_label(fruit, tmp_path):
    path, out = fruit[0], tmp_path / "s.csv"
    for model, name, label in (("m", "kind", "big fig"), ("m", "y", "pear"), ("numbers", "y", 5)):
        fitted = jaxgen.load(path / model)
        column = fitted.y_columns[0]
        command = ("sample", path / model, "-n", 40, "--out", out)
        assert run(*command, "--given", f"{name}={label}") == 0
        columns, drawn, labels = tables.read(out, column)
        assert columns == (fitted.columns or ("x0", "x1"))
        np.testing.assert_array_equal(labels, label)
        expected = fitted.sample(jax.random.key(0), 40, label)
        np.testing.assert_array_equal(drawn.astype(np.float32), expected)
        assert run(*command) == 0
        x, y = fitted.sample(jax.random.key(0), 40, with_labels=True)
        found = tables.read(out, column)
        np.testing.assert_array_equal(found.values.astype(np.float32), x)
        np.testing.assert_array_equal(found.labels, y)


def test_sample_given_features_and_a_label(fruit, tmp_path):
    out = tmp_path / "s.csv"
    for model, given, values, y in (
        ("m", ("--given", "a=0.5", "--given", "y=pear"), {"a": 0.5}, "pear"),
        ("m", ("--given", "a=0.5", "kind=pear"), {"a": 0.5}, "pear"),
        ("numbers", ("--given", "x0=0.5"), {0: 0.5}, None),
    ):
        assert run("sample", fruit[0] / model, "-n", 2000, *given, "--out", out) == 0
        fitted = jaxgen.load(fruit[0] / model)
        _, drawn, labels = tables.read(out, fitted.y_columns[0])
        np.testing.assert_array_equal(drawn[:, 0], 0.5)
        part = fitted.given(values)
        expected, names = part.sample(jax.random.key(0), 2000, y, with_labels=True)
        np.testing.assert_array_equal(drawn[:, 1:].astype(np.float32), expected)
        np.testing.assert_array_equal(labels, names)


def test_score_of_labels(fruit, capsys):
    path, x, names = fruit
    fitted = jaxgen.load(path / "m")
    for label, y in (((), None), (("--label", "kind"), names)):
        assert run("score", path / "m", path / "x.csv", *label) == 0
        mean = np.asarray(fitted.log_prob(x, y), np.float64).mean()
        assert f"log-likelihood  {mean:.6g} +-" in capsys.readouterr().out


def test_classify(fruit, tmp_path, capsys):
    path, x, names = fruit
    fitted, out, figure = jaxgen.load(path / "m"), tmp_path / "p.csv", tmp_path / "r.png"
    assert run("classify", path / "m", path / "x.csv", "--out", out) == 0
    assert capsys.readouterr().out == f"300 events, in {out}\n"
    probabilities = ("p(apple)", "p(big fig)", "p(pear)")
    assert tuple(tables.cells(out)) == ("line", "predicted_kind", *probabilities)
    _, p, predicted = tables.read(out, "predicted_kind", probabilities)
    np.testing.assert_array_equal(predicted, np.array(fitted.labels)[p.argmax(1)])
    np.testing.assert_allclose(p, np.exp(fitted.classify(x)), rtol=1e-5, atol=1e-30)
    found = calibration(fitted.classify(x), names, labels=fitted.labels)
    command = ("classify", path / "m", path / "x.csv", "--label", "kind", "--figure", figure)
    assert run(*command) == 0
    assert capsys.readouterr().out == f"events             300\n{found}\n"
    assert figure.read_bytes()[:4] == b"\x89PNG"
    # the same labels as numbers, and in text
    assert run("classify", path / "numbers", path / "x.npz", "--label", "y") == 0
    assert f"accuracy           {found.accuracy:.4g} ±" in capsys.readouterr().out
    np.savez(tmp_path / "x.npz", x=x[:2], y=["7", "3"])
    assert run("classify", path / "numbers", tmp_path / "x.npz", "--label", "y", "--out", out) == 0
    assert "events             2\n" in capsys.readouterr().out


def test_evaluate_takes_a_table_with_labels(fruit, tmp_path, capsys):
    data = (fruit[0] / "m", fruit[0] / "x.csv", "--samples", 200)
    assert run("evaluate", *data, "--figure", tmp_path / "r.png") == 0
    out = capsys.readouterr().out
    log_p = np.asarray(jaxgen.load(fruit[0] / "m").log_prob(fruit[1]), np.float64)
    assert re.search(rf"log-likelihood, held out +{log_p.mean():.4g}", out)
    assert "pull needs the labels of the test events" in out
    assert (tmp_path / "r.png").read_bytes()[:4] == b"\x89PNG"


def test_labels_in_order_need_no_names(tmp_path, capsys):
    np.savez(tmp_path / "x.npz", x=X, kind=np.arange(400) % 2)
    model, x = tmp_path / "m", tmp_path / "x.npz"
    assert run("fit", x, "--model", "gaussian", "--label", "kind", "--out", model) == 0
    assert jaxgen.load(model).labels == (0, 1)
    assert run("classify", model, x, "--label", "kind") == 0
    assert run("sample", model, "-n", 5, "--given", "y=1", "--out", tmp_path / "s.npy") == 0
    assert "unknown label '2'; the labels are 0, 1" in fails_last(
        capsys, "sample", model, "-n", 5, "--given", "y=2", "--out", tmp_path / "s.npy"
    )


@pytest.mark.parametrize(
    ("args", "why"),
    [
        ("fit x.csv --model Gaussian --label sort --out o", "x.csv: no column 'sort'; the columns"),
        ("fit x.csv --model Gaussian --out o",
         "'.*' is not a number; use --label kind if it is the label, or --ignore kind"),
        ("fit one.csv --model Gaussian --label kind --out o", "'kind' has the same label for all"),
        ("fit gap.csv --model Gaussian --label kind --out o", "'kind' has the same label for all"),
        ("fit none.csv --model Gaussian --label kind --out o", "none.csv: no row has a label"),
        ("classify m gaps.csv --label kind", "gaps.csv: no row has a label"),
        ("outliers m gap.csv --label kind",
         "gap.csv: 'kind' has no label in line 3; fill it in, or leave the row or --label out"),
        ("sample m -n 5 --given a=1,b=2 --out o.csv",
         "a must be a number, got '1,b=2'; separate values by spaces: --given a=1 b=2"),
        ("sample m -n 5 --given kind=pear,a=2 --out o.csv", "by spaces: --given kind=pear a=2"),
        ("sample m -n 5 --given y=plum --out o.csv",
         "unknown label 'plum'; the labels are apple, big fig, pear"),
        ("sample m -n 5 --given y=pear y=apple --out o.csv", "kind is given twice"),
        ("sample m -n 5 --given a=1 x0=2 --out o.csv", "x0 is given twice"),
        ("sample m -n 5 --given c=1 --out o.csv", "no feature 'c'; the features are a, b"),
        ("sample m -n 5 --given x2=1 --out o.csv", "no feature 'x2'"),
        ("sample numbers -n 5 --given a=1 --out o.csv", "no feature 'a'; .* are x0 to x1"),
        ("sample m -n 5 --given a --out o.csv", "--given must be NAME=VALUE, got 'a'"),
        ("sample m -n 5 --given a=red --out o.csv", "a must be a number, got 'red'"),
        ("sample m -n 5 --given a=nan --out o.csv", "must be finite"),
        ("sample m -n 5 --given a=1 b=2 --out o.csv", "at least one feature must be left"),
        ("sample plain -n 5 --given y=1 --out o.csv", "Box.* takes no label or condition y"),
        ("sample m -n 5 --given a=1e30 --out o.csv", "zero density"),
        ("sample conditional -n 5 --out o.csv", "y is missing"),
        ("sample conditional -n 5 --given y=1 --out o.csv", "y must be 2 numbers, got '1'"),
        ("sample conditional -n 5 --given y=a,b --out o.csv", "y must be 2 numbers, got 'a,b'"),
        ("sample conditional -n 5 --given y=1,2 x=1 --out o.csv", "must have no y"),
        ("score m other.csv --label kind", "unknown label 'plum'; the labels are apple"),
        ("score plain x.csv --label kind", "Box.* has no labels: it was fitted without"),
        ("score m x.csv --label a", "'a' is a feature, so it cannot be the label too"),
        ("classify plain x.csv --out o.csv", "Box.* has no labels: it was fitted without"),
        ("classify m x.csv", "needs --out, --label or both"),
        ("classify m x.csv --out o.csv --figure o.png", "needs --label with --figure"),
        ("classify m x.csv --label kind --figure gone/r.png", "there is no directory gone"),
        ("classify m other.csv --label kind --out o.csv", "unknown label 'plum'"),
    ],
)  # fmt: skip
def test_errors_of_labels_are_one_line(args, why, fruit, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("x.csv", "m", "numbers"):
        (tmp_path / name).write_bytes((fruit[0] / name).read_bytes())
    (tmp_path / "one.csv").write_text("a,kind\n1,pear\n2,pear\n")
    (tmp_path / "gap.csv").write_text("a,b,kind\n1,1,pear\n2,2,\n")
    (tmp_path / "none.csv").write_text("a,kind\n1,\n2,\n")
    (tmp_path / "gaps.csv").write_text("a,b,kind\n1,1,\n2,2,\n")
    (tmp_path / "other.csv").write_text("a,b,kind\n1,2,pear\n3,4,plum\n")
    box = jaxgen.Fitted(models.Box(2), {"low": jnp.zeros(2), "high": jnp.ones(2)})
    box.save(tmp_path / "plain")
    conditional((2,)).save(tmp_path / "conditional")
    assert re.search(why, fails(capsys, *args.split()))
    assert not list(tmp_path.glob("o[.]*"))
