"""The command line, run on files as a user would run it."""

import importlib.metadata
import json
import os
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from command_line import conditional, fails, run

import jaxgen
from jaxgen import models
from jaxgen.cli import commands, events, world
from jaxgen.cli import main as cli
from jaxgen.data import model_file as files
from jaxgen.data import tables

SMALL = jaxgen.Fitted(models.Box(1), {"low": jnp.zeros(1), "high": jnp.ones(1)})
X = np.random.default_rng(0).normal((1, -3), (0.5, 4), (400, 2)).astype(np.float32)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A directory with a table, the same table with swapped columns, and a model fitted to it."""
    path = tmp_path_factory.mktemp("cli")
    tables.write(path / "x.csv", X, ("a", "b"))
    tables.write(
        path / "swapped.csv", np.stack([X[:, 1], 0 * X[:, 0], X[:, 0]], 1), ("b", "c", "a")
    )
    tables.write(path / "plain.npy", X)
    assert run("fit", path / "x.csv", "--model", "gaussian", "--out", path / "m") == 0
    return path


def test_fit_stores_model_and_columns(place):
    fitted = jaxgen.load(place / "m")
    assert fitted.model == models.Gaussian(2)
    assert fitted.columns == ("a", "b")
    np.testing.assert_allclose(fitted.params["mean"], X.mean(0), rtol=1e-4)


def test_fit_takes_fields_seed_and_epochs(place, tmp_path, capsys):
    common = ("fit", place / "plain.npy", "--model", "gaussian-mixture", "--epochs", 2)
    fields = ("--set", "components=7", "covariance=diagonal", "--set", "jitter=0.5")
    for seed, name in ((0, "a"), (0, "b"), (1, "c")):
        assert run(*common, *fields, "--seed", seed, "--out", tmp_path / name) == 0
    assert "GaussianMixture(dim=2, components=7" in capsys.readouterr().out
    a, b, c = (jaxgen.load(tmp_path / name) for name in "abc")
    assert a.model == models.GaussianMixture(2, 7, covariance="diagonal", jitter=0.5)
    assert a.columns is None
    np.testing.assert_array_equal(a.params["mean"], b.params["mean"])
    assert (np.asarray(a.params["mean"]) != np.asarray(c.params["mean"])).any()


def test_fit_of_other_shapes(tmp_path):
    tables.write(tmp_path / "x.npy", np.ones((5, 3, 4), np.uint8))
    assert run("fit", tmp_path / "x.npy", "--model", "Bernoulli", "--out", tmp_path / "m") == 0
    assert jaxgen.load(tmp_path / "m").model == models.Bernoulli((3, 4))
    assert run("sample", tmp_path / "m", "-n", 7, "--out", tmp_path / "s.npz") == 0
    assert tables.read(tmp_path / "s.npz").values.shape == (7, 3, 4)
    tables.write(tmp_path / "x.npy", np.arange(9.0))
    assert run("fit", tmp_path / "x.npy", "--model", "box", "--out", tmp_path / "m") == 0
    assert jaxgen.load(tmp_path / "m").model == models.Box(1)
    assert run("score", tmp_path / "m", tmp_path / "x.npy") == 0
    pairs = ("--set", "bins=4,2", "bounds=[[-5, 5], [-20, 20]]")
    tables.write(tmp_path / "x.npy", X)
    assert (
        run("fit", tmp_path / "x.npy", "--model", "HISTOGRAM", *pairs, "--out", tmp_path / "m") == 0
    )
    assert jaxgen.load(tmp_path / "m").model == models.Histogram((4, 2), ((-5, 5), (-20, 20)))


def test_sample_writes_the_columns_and_follows_the_seed(place, tmp_path):
    for name, seed in (("a.csv", 5), ("b.parquet", 5), ("c.csv", 6)):
        assert run("sample", place / "m", "-n", 50, "--seed", seed, "--out", tmp_path / name) == 0
    a, b, c = (tables.read(tmp_path / name) for name in ("a.csv", "b.parquet", "c.csv"))
    assert a.columns == b.columns == ("a", "b")
    drawn = jaxgen.load(place / "m").sample(jax.random.key(5), 50)
    np.testing.assert_array_equal(a.values.astype(np.float32), drawn)
    np.testing.assert_array_equal(b.values, drawn)
    assert (a.values != c.values).all()


def test_score_prints_mean_error_and_bits(place, tmp_path, capsys):
    assert run("score", place / "m", place / "x.csv", "--out", tmp_path / "scores.csv") == 0
    out = capsys.readouterr().out
    log_p = np.asarray(jaxgen.load(place / "m").log_prob(X), np.float64)
    mean, se = log_p.mean(), log_p.std(ddof=1) / 20
    assert re.search(r"^events +400$", out, re.M)
    assert f"{mean:.6g} +- {se:.2g} nats" in out
    assert re.search(rf"^bits/dim +{-mean / 2 / np.log(2):.6g}$", out, re.M)
    columns, scores, _ = tables.read(tmp_path / "scores.csv")
    assert columns == ("log_prob",)
    np.testing.assert_array_equal(scores[:, 0].astype(np.float32), log_p.astype(np.float32))


def test_columns_are_matched_by_name(place, capsys):
    assert run("score", place / "m", place / "x.csv") == 0
    expected = capsys.readouterr().out
    for other in ("swapped.csv", "plain.npy"):
        assert run("score", place / "m", place / other) == 0
        assert capsys.readouterr().out == expected


def test_missing_columns_are_an_error(place, tmp_path, capsys):
    tables.write(tmp_path / "x.csv", X, ("a", "z"))
    for command in ("score", "evaluate"):
        message = fails(capsys, command, place / "m", tmp_path / "x.csv")
        assert f"{tmp_path / 'x.csv'}: no column 'b'; the columns are 'a', 'z'" in message


class Unit(jaxgen.Model):
    """Uniform on [0, 1], with no support for missing values."""

    event_shape = (2,)

    def log_prob(self, params, x, y=None):
        return jnp.where((x >= 0) & (x <= 1), 0 * params["zero"], -jnp.inf).sum()


def test_score_names_events_of_no_density(tmp_path, capsys):
    jaxgen.Fitted(Unit(), {"zero": jnp.zeros(2)}).save(tmp_path / "m")
    tables.write(tmp_path / "x.csv", [[np.nan, np.nan], [0.5, 0], [0, 2], [np.nan, 0], [3, 0]])
    assert run("score", tmp_path / "m", tmp_path / "x.csv") == 0
    out = capsys.readouterr().out
    assert "events          4\n" in out
    assert "zero density    2 events, the first in line 3" in out
    assert "NaN             1 events, the first in line 4" in out
    assert "1 rows without any value were left out" in out
    tables.write(tmp_path / "x.npy", [[0.5, 0], [2, 0]])
    assert run("score", tmp_path / "m", tmp_path / "x.npy") == 0
    assert "zero density    1 events, the first in row 1" in capsys.readouterr().out


def test_evaluate_writes_report_and_figure(place, tmp_path, capsys):
    outputs = ("--json", tmp_path / "r.json", "--figure", tmp_path / "r.png")
    data = (place / "swapped.csv", "--train", place / "x.csv")
    assert run("evaluate", place / "m", *data, "--samples", 200, *outputs) == 0
    assert "REPRESENTATION" in capsys.readouterr().out
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["n_samples"] == 200
    assert report["n_test"] == 400
    # the same events, with the columns in another order
    assert report["accuracy"]["log_likelihood"] == report["accuracy"]["log_likelihood_ref"]
    assert (tmp_path / "r.png").read_bytes()[:4] == b"\x89PNG"


def test_explain(place, tmp_path, capsys):
    """A model without labels takes any labels, and one of labels its own."""
    kinds = np.where(X[:, 0] > 1, "big", "small")
    tables.write(tmp_path / "x.csv", {"a": X[:, 0], "b": X[:, 1], "kind": kinds})
    with open(tmp_path / "x.csv", "a") as file:
        file.write(",,big\n1,2,\n")
    figure = ("--figure", tmp_path / "e.png")
    assert run("explain", place / "m", tmp_path / "x.csv", "--label", "kind", *figure) == 0
    printed = capsys.readouterr().out
    assert "400 events, 2 latent coordinates, 2 active" in printed
    assert "\nbig " in printed
    assert "1 rows without a label were left out" in printed
    assert (tmp_path / "e.png").read_bytes()[:4] == b"\x89PNG"
    assert run("explain", place / "m", place / "x.csv") == 0
    assert "LABELS" not in capsys.readouterr().out
    fit = ("fit", tmp_path / "x.csv", "--label", "kind", "--model", "Gaussian")
    assert run(*fit, "--out", tmp_path / "m") == 0
    assert run("explain", tmp_path / "m", tmp_path / "x.csv", "--label", "kind") == 0
    assert "LABELS" in capsys.readouterr().out
    error = fails(capsys, "explain", tmp_path / "m", tmp_path / "x.csv")
    assert "explain needs --label kind, as" in error
    mixture = ("--model", "GaussianMixture", "--set", "components=2", "--out", tmp_path / "n")
    assert run("fit", place / "x.csv", *mixture) == 0
    conditional((2,)).save(tmp_path / "conditional")
    capsys.readouterr()
    assert "explain needs pull" in fails(capsys, "explain", tmp_path / "n", place / "x.csv")
    error = fails(capsys, "explain", tmp_path / "conditional", place / "x.csv")
    assert "explain has no option for the conditions y of MaskedAutoregressive" in error
    jaxgen.fit(models.NGram(), ["anna", "bob"], key=jax.random.key(0)).save(tmp_path / "texts")
    error = fails(capsys, "explain", tmp_path / "texts", place / "x.csv")
    assert "explain is for models of numbers and images; for texts use jaxgen score" in error
    (tmp_path / "gap.csv").write_text("a,b\n" + "1,2\n" * 30 + "3,\n")
    error = fails(capsys, "explain", place / "m", tmp_path / "gap.csv")
    assert "x must be finite, but is not in line 32 in column 'b'" in error


def test_sample_given_numbers(tmp_path):
    fitted, out = conditional((2,)), tmp_path / "s.npy"
    fitted.save(tmp_path / "m")
    assert run("sample", tmp_path / "m", "-n", 9, "--given", "y=0.5,-1", "--out", out) == 0
    expected = fitted.sample(jax.random.key(0), 9, np.array([0.5, -1]))
    np.testing.assert_array_equal(tables.read(out).values, expected)


@pytest.mark.parametrize(
    ("shape", "text", "y"),
    [
        ((), "0.5", 0.5),
        ((1,), "2", [2]),
        ((2,), "[1,2.5]", [1, 2.5]),
        ((2, 1), "1,-2", [[1], [-2]]),
    ],
)
def test_conditions_take_the_shape_of_y(shape, text, y):
    found, values = events.given(conditional(shape), [f"y={text}", "x=3"])
    np.testing.assert_array_equal(found, y)
    assert found.shape == shape
    assert values == {0: 3.0}


@pytest.mark.parametrize(("given", "place_of"), [("a=0.5", {0: 0.5}), ("x1=-3", {1: -3})])
def test_sample_given_features(given, place_of, place, tmp_path):
    out = tmp_path / "s.csv"
    assert run("sample", place / "m", "-n", 2000, "--given", given, "--out", out) == 0
    found, drawn, _ = tables.read(out)
    assert found == ("a", "b")
    ((known, value),) = place_of.items()
    np.testing.assert_array_equal(drawn[:, known], value)
    expected = jaxgen.load(place / "m").given(place_of).sample(jax.random.key(0), 2000)
    np.testing.assert_array_equal(drawn[:, 1 - known].astype(np.float32), expected[:, 0])


def test_a_column_named_y_is_a_feature_of_a_model_that_takes_no_y(tmp_path):
    out, spread = tmp_path / "s.csv", jnp.array([[1, 0], [0.9, 0.1]])
    normal = {"mean": jnp.zeros(2), "scale_tril": spread}
    jaxgen.Fitted(models.Gaussian(2), normal, columns=("y", "z")).save(tmp_path / "m")
    assert run("sample", tmp_path / "m", "-n", 2000, "--given", "y=2", "--out", out) == 0
    columns, drawn, _ = tables.read(out)
    assert columns == ("y", "z")
    np.testing.assert_array_equal(drawn[:, 0], 2)
    assert abs(drawn[:, 1].mean() - 1.8) < 5 * 0.1 / 2000**0.5  # fails for one seed in 2 million
    assert abs(drawn[:, 1].std() / 0.1 - 1) < 5 / 4000**0.5


def test_sample_prints_that_it_is_approximate(place, monkeypatch, tmp_path, capsys):
    fitted = jaxgen.load(place / "m").given({"a": 0.5})
    fitted.history = {"method": "importance sampling", "effective_sample_size": 100, "of": 4096}
    monkeypatch.setattr(jaxgen.Fitted, "given", lambda self, values, key: fitted)
    command = ("sample", place / "m", "-n", 5, "--given", "a=0.5", "--out", tmp_path / "s.csv")
    assert run(*command) == 0
    assert "importance sampling: 2.4% of the proposals are effective" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "cells", "why"),
    [
        ("fit", "1,5 2,5 3,5 4,5", "x is constant in column 'b': a Box"),
        ("fit", "1,5 2,inf 3,6 4,7", r"infinite values \(line 4 in column 'b'\)"),
        ("fit", "1,5 2,6 3,6 4,1e39", r"but line 7 in column 'b' holds 1e\+39"),
        ("fit", "1, 2, 3, 4,", "x has no value in column 'b'"),
        ("fit", "1,5 2,6 3,no 4,7", r"line 6, column 2 \(b\): 'no' is not a number"),
        ("fit", "1,1e8 2,1.0000000123e8 3,1.00000003e8 4,1.0000000456e8",
         r"its values in column 'b' lie near 1e\+08"),
        ("fit --model KDE", "1,5 2,6 3, 4,7", r"x has 1 \(line 6 in column 'b'\); models "),
        ("fit --model KDE", "1,5 2,5 3,5 4,5", "constant in column 'b': a KDE"),
        ("fit --model Gaussian --set jitter=0", "5,1 5,2 5,3 5,4", "constant in column 'a': pass"),
        ("fit --model Histogram --set bins=2,2", "5,1 5,2 5,3 5,4", "constant in column 'a': pass"),
        ("fit --model Histogram --set bins=2,2 bounds=[0,9],[0,9]", "1,5 2,6 3,-1 4,7",
         "; line 6 in column 'b' does not"),
        ("fit --model Bernoulli", "0,0 1,1 0,2 1,1", "; line 6 in column 'b' is outside"),
        ("fit --label kind", "1,5 2,6 3,6 4,6", "events of label 'fig': x is .* in column 'b'"),
        ("fit --label kind --model Histogram --set bins=2,2 bounds=[0,9],[0,9]",
         "1,5 2,6 3,6 4,99", "events of label 'fig': .*; line 7 in column 'b' does not"),
        ("score --label kind", "1,5 2,6 3,6 4,6", r"unknown label 'fig'.* \(line 6\)"),
        ("classify --out p.csv --label kind", "1,5 2,6 3,6 4,6", r"unknown label .*\(line 6\)"),
        ("classify --label kind --out p.csv", "1,5 2,6 99,6,plum 4,6,plum", "NaN, .* in line 6"),
        ("sample -n 1 --out s.csv --given a=inf", "", "the value of 'a' must be finite"),
        ("sample -n 1 --out s.csv --given a=99", "", r"zero density at \{'a': 99.0\}"),
    ],
)  # fmt: skip
def test_errors_name_columns_labels_and_lines(args, cells, why, tmp_path, monkeypatch, capsys):
    """Rows begin in lines 3, 4, 6 and 7, after an empty line and a cell of two lines."""
    monkeypatch.chdir(tmp_path)
    command, *args = args.split()
    rows = [row.split(",") for row in cells.split()]
    if rows:
        rows[1][0] = f'"{rows[1][0]}\n"'
        if "--label" in args:
            names = "pear", "pear", "fig", "fig"
            rows = [[*row[:2], *(row[2:] or [name])] for row, name in zip(rows, names, strict=True)]
        lines = [",".join(("a", "b", "kind")[: len(rows[0])]), "", *map(",".join, rows)]
        (tmp_path / "x.csv").write_text("\n".join(lines))
    if command == "fit":
        model = [] if "--model" in args else ["--model", "Box"]
        args = ["x.csv", *model, "--out", "o", *args]
    else:
        params = {"low": jnp.zeros((2, 2)), "high": jnp.full((2, 2), 9.0)}
        params = {"logits": jnp.zeros(2), "model": params}
        spec = jaxgen.compose.PerClass(models.Box(2), 2)
        jaxgen.Fitted(spec, params, columns=("a", "b"), labels=("pear", "plum")).save("m")
        args = ["m", *(["x.csv"] if rows else []), *args]
    assert re.search(why, fails(capsys, command, *args))


def test_world_is_called_with_its_options(monkeypatch, tmp_path):
    calls = []
    monkeypatch.setattr(commands, "run_world", lambda **options: calls.append(options))
    monkeypatch.chdir(tmp_path)
    assert run("world") == 0
    assert (
        run("world", "--events", 50, "--seed", 3, "--quick", "--json", "j", "--figure", "f.pdf")
        == 0
    )
    shared = {"events": 100_000, "seed": 0, "json_path": None, "figure_path": "world.png"}
    assert calls[0] == {**shared, "quick": False}
    assert calls[1] == {
        "events": 50, "seed": 3, "json_path": "j", "figure_path": "f.pdf", "quick": True,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("args", "why"),
    [
        ("", "required: COMMAND"),
        ("train x.csv", "invalid choice: 'train'"),
        ("fit x.csv --model Gaussian", "required: --out"),
        ("fit x.csv --model Gauss --out o", "no model 'Gauss'; .*Box.*; did you mean 'Gaussian'"),
        ("fit x.csv --model Gaussian --set dims=2 --out o",
         "Gaussian has no field 'dims'; its fields are dim, covariance, jitter"),
        ("fit x.csv --model Gaussian --set dim --out o", "--set must be KEY=VALUE, got 'dim'"),
        ("fit x.csv --model Gaussian --set dim=two --out o", "dim must be an int, got 'two'"),
        ("fit x.csv --model Gaussian --set dim=3 --out o", r"x must have shape \(n, 3\)"),
        ("fit x.csv --model Histogram --out o", r"Histogram needs a value: --set bins=\.\.\."),
        ("fit x.csv --model Gaussian --set covariance=ful --out o", "must be one of"),
        ("fit images.npy --model Gaussian --out o", r"must have shape \(n, dim\), got \(n, 2, 3\)"),
        ("fit infinite.csv --model Box --out o", "x must be finite"),
        ("fit text.csv --model Gaussian --out o", r"text.csv: line 2, column 2 \(y\): 'no' is not"),
        ("fit gone.csv --model Gaussian --out o", "No such file or directory: gone.csv"),
        ("fit x.txt --model Gaussian --out o", r"ending must be one of \.csv"),
        ("fit x.csv --model Gaussian --out o --epochs 0", "--epochs: .* at least 1, got '0'"),
        ("sample m -n 1.5e0 --out o.csv", "at least 1, got '1.5e0'"),
        ("sample m -n inf --out o.csv", "at least 1, got 'inf'"),
        ("fit x.csv --model Gaussian --out o --seed -1", "seed"),
        ("fit x.csv --model Gaussian --out o --seed 4294967296", r"below 2\*\*32"),
        ("sample m -n 5 --out o.xyz", "ending must be one of"),
        ("sample m -n -5 --out o.csv", "-n"),
        ("sample x.csv -n 5 --out o.csv", "x.csv: not a jaxgen model"),
        ("sample gone -n 5 --out o.csv", "No such file or directory: gone"),
        ("score m images.npy", "x must have shape"),
        ("score m x.csv --out gone/o.csv", "there is no directory gone"),
        ("evaluate m x.csv --json gone/o", "there is no directory gone"),
        ("evaluate m x.csv --train text.csv", "text.csv: no column 'a', 'b'; the columns"),
        ("world --figure gone/w.png", "there is no directory gone"),
        ("score bad x.csv", "bad: damaged"),
        ("explain m images.npy", "x must have shape"),
        ("explain m x.csv --label kind", "x.csv: no column 'kind'"),
        ("explain m x.csv --label a", "'a' is a feature, so it cannot be the label too"),
        ("explain m x.csv --figure gone/e.png", "there is no directory gone"),
    ],
)  # fmt: skip
def test_errors_are_one_line(args, why, place, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.csv").write_bytes((place / "x.csv").read_bytes())
    (tmp_path / "m").write_bytes((place / "m").read_bytes())
    (tmp_path / "bad").write_bytes((place / "m").read_bytes()[:-1])
    (tmp_path / "infinite.csv").write_text("1,2\n3,inf\n")
    (tmp_path / "text.csv").write_text("x,y\n1,no\n")
    np.save(tmp_path / "images.npy", np.zeros((4, 2, 3)))
    assert re.search(why, fails(capsys, *args.split()))
    assert not list(tmp_path.glob("o*"))


@pytest.mark.parametrize(
    "args",
    [
        "fit x.csv --model Box --out gone/m",
        "fit x.csv --model Box --out .",
        "sample m -n 5 --out gone/s.csv",
        "sample m -n 5 --out s.xyz",
        "sample m -n 5 --out gone/s.txt",
        "score m x.csv --out gone/s.csv",
        "evaluate m x.csv --json gone/r",
        "evaluate m x.csv --figure gone/r.png",
        "evaluate m x.csv --figure r.xyz",
        "evaluate m x.csv --figure r",
        "evaluate m x.csv --json read_only",
        "evaluate m x.csv --json /dev/fd/UNREAD",
        "fit x.csv --model Box --out read_only",
        "fit x.csv --model Box --out /dev/fd/UNREAD",
        "classify m x.csv --label a --figure r.xyz",
        "impute m x.csv --out gone/x.csv",
        "outliers m x.csv --out gone/x.csv",
        "world --figure w.xyz",
        "world --json read_only",
        "world --json /dev/fd/UNREAD",
        # a file that is read, by any of its names
        "fit x.csv --model Box --out x.csv",
        "fit x.csv --model Box --out ./x.csv",
        "fit x.csv --model Box --out linked.csv",
        "fit x.csv --model Box --out twin.csv",
        "fit linked.csv --model Box --out x.csv",
        "sample m -n 5 --out m.csv",
        "sample m.csv -n 5 --out m.csv",
        "score m x.csv --out x.csv",
        "score m x.csv --out m.csv",
        "score m x.csv --train t.csv --out t.csv",
        "score m x.csv --figure x.png",
        "classify m x.csv --out x.csv",
        "classify m x.csv --out m.csv",
        "impute m x.csv --out x.csv",
        "outliers m x.csv --out m.csv",
        "classify m x.csv --label a --figure x.png",
        "classify m x.csv --label a --figure m.png",
        "evaluate m x.csv --json x.csv",
        "evaluate m x.csv --json m",
        "evaluate m x.csv --train t.csv --json t.csv",
        "evaluate m x.csv --figure x.png",
        # one file for two outputs
        "classify m x.csv --label a --out new.csv --figure new.png",
        "evaluate m x.csv --json new.png --figure new.png",
        "score m x.csv --out new.csv --figure new.png",
        "world --json w.png --figure ./w.png",
    ],
)
def test_a_bad_output_is_refused_before_the_work(args, tmp_path, monkeypatch, capsys):
    def read(path):
        raise AssertionError("the work has begun")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tables, "read", read)
    monkeypatch.setattr(files, "load", read)
    monkeypatch.setattr(world, "observations", read)
    for name in ("x.csv", "t.csv", "m", "read_only"):
        (tmp_path / name).write_text(f"what {name} holds")
    (tmp_path / "read_only").chmod(0o444)
    links = {"linked.csv": "x.csv", "x.png": "x.csv", "m.csv": "m", "m.png": "m"}
    for link, target in {**links, "new.csv": "new.png"}.items():
        (tmp_path / link).symlink_to(target)
    (tmp_path / "twin.csv").hardlink_to("x.csv")
    listed = sorted(tmp_path.iterdir())
    unread, number = os.pipe()
    os.close(unread)
    args = args.replace("UNREAD", str(number))
    assert re.search(r"cannot write|ending must be", fails(capsys, *args.split()))
    os.close(number)
    assert sorted(tmp_path.iterdir()) == listed
    for name in ("x.csv", "t.csv", "m", "read_only"):
        assert (tmp_path / name).read_text() == f"what {name} holds"


@pytest.mark.parametrize(
    ("shape", "columns", "why"),
    [((3, 4), None, "cannot hold values of shape"), ((2,), ("1", "2"), "header of numbers")],
)
def test_a_table_that_does_not_suit_is_refused_before_the_draw(
    shape, columns, why, tmp_path, monkeypatch, capsys
):
    params = {"logits": jnp.zeros(shape)}
    jaxgen.Fitted(models.Bernoulli(shape), params, columns=columns).save(tmp_path / "m")
    monkeypatch.setattr(jaxgen.Fitted, "sample", None)
    command = ("sample", tmp_path / "m", "-n", 5, "--out", tmp_path / "s.csv")
    assert why in fails(capsys, *command)


@pytest.mark.parametrize("closed", ["before", "after"])
def test_a_closed_standard_output_is_one_error(closed, monkeypatch, capsys):
    read, write = os.pipe()

    def score(args):
        assert closed == "after"
        print("log-likelihood")
        os.close(read)

    monkeypatch.setattr(commands, "score", score)
    if closed == "before":
        os.close(read)
    with open(write, "w") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        status = run("score", "m", "x.csv")
    why = {"before": "cannot write standard output: it is a pipe without a reader"}
    expected = why.get(closed, "Broken pipe: standard output")
    assert capsys.readouterr().err == f"jaxgen: error: {expected}\n"
    assert status == 2


def strict(path):
    """Parse JSON without the extensions NaN and Infinity."""

    def refuse(word):
        raise AssertionError(f"{word} is no JSON")

    return json.loads(path.read_text(), parse_constant=refuse)


def test_a_report_of_infinities_is_strict_json(tmp_path, capsys):
    box = {"low": jnp.array([0.0]), "high": jnp.array([1.0])}
    jaxgen.Fitted(models.Box(1), box).save(tmp_path / "m")
    tables.write(tmp_path / "x.csv", [[0.5], [0.25], [3.0]], ("a",))
    data = (tmp_path / "x.csv", "--train", tmp_path / "x.csv", "--samples", 50)
    assert run("evaluate", tmp_path / "m", *data, "--json", tmp_path / "r") == 0
    report = strict(tmp_path / "r")
    assert report["accuracy"]["log_likelihood"] is None
    assert report["accuracy"]["bits_per_dim_ref"] is None
    why = report["notes"]["accuracy.log_likelihood"]
    assert why == "-inf; 0 over events of positive density"
    assert report["notes"]["accuracy.log_likelihood_se"] == "nan"
    assert report["notes"]["accuracy.bits_per_dim_ref"] == "inf"
    numbers = {**report["accuracy"], **report["generation"], **report["representation"]}
    assert all(v is None or np.isfinite(v) for v in numbers.values())


def test_the_table_of_the_world_is_strict_json(tmp_path, monkeypatch, capsys):
    row = world.Row("Box", np.inf, np.nan, 0.5, 1.0, 10.0)
    monkeypatch.setattr(world, "FAMILIES", {"Box": models.Box(2)})
    monkeypatch.setattr(world, "observations", lambda events, seed: (SMALL, None, None, None))
    monkeypatch.setattr(world, "_measure", lambda *_: (None, row))
    assert world.run(json_path=tmp_path / "w", figure_path=None) == [row]
    (found,) = strict(tmp_path / "w")
    assert found["notes"] == {"kl": "inf", "kl_error": "nan"}
    assert found["kl"] is found["kl_error"] is None
    assert found["on_land"] == 0.5


def test_version(capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"jaxgen {importlib.metadata.version('jaxgen')}\n"


@pytest.mark.parametrize(
    ("text", "count"), [("12", 12), ("1e3", 1000), ("1.5e3", 1500), ("2.0", 2), ("1E+2", 100)]
)
def test_counts_may_be_written_as_floats(text, count):
    assert cli._parser().parse_args(["sample", "m", "-n", text, "--out", "x"]).n == count


def test_help_is_complete(capsys):
    for command in (
        [],
        ["fit"],
        ["sample"],
        ["score"],
        ["classify"],
        ["impute"],
        ["outliers"],
        ["evaluate"],
        ["world"],
    ):
        with pytest.raises(SystemExit) as caught:
            cli.main([*command, "--help"])
        assert caught.value.code == 0
    out = capsys.readouterr().out
    for word in ("evaluate", "--model NAME", "-n N", "--train DATA", "--quick", "KEY=VALUE"):
        assert word in out


PROCESS = """
import runpy, sys, jaxgen
known = set(sys.modules)
import jaxgen.cli.main
try:
    jaxgen.cli.main.main(["--help"])
except SystemExit:
    print()
heavy = ("jax", "matplotlib", "pandas", "pyarrow", "scipy", "sklearn")
print("NEW", sorted(m for m in set(sys.modules) - known if m.split(".")[0] in heavy))
runpy.run_module("jaxgen", run_name="__main__", alter_sys=True)  # as python -m jaxgen
"""


def test_the_module_exits_with_the_status_and_imports_nothing_heavy_by_itself(place):
    command = [sys.executable, "-c", PROCESS, "score", str(place / "m"), str(place / "gone.csv")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stdout.splitlines()[-1] == "NEW []"
    assert done.stderr == f"jaxgen: error: No such file or directory: {place / 'gone.csv'}\n"


KEPT = """
import os, pathlib, sys
import jax
from jaxgen.cli.main import main
base = pathlib.Path(sys.argv[1])
(base / "file").touch()

def command(folder, *more):
    jax.clear_caches()
    os.environ["XDG_CACHE_HOME"] = str(base / folder)
    assert main(["score", *sys.argv[2:], *more]) == 0
    kept = base / folder / "jaxgen"
    return kept.is_dir() and len(list(kept.iterdir())) > 0

print("KEPT", command("file"), command("off", "--no-cache"), command("on"), command("other"))
"""


def test_commands_keep_compiled_programs(place, tmp_path):
    """In the user's cache folder, unless JAX has a folder; one that cannot be used is no error."""
    command = [sys.executable, "-c", KEPT, str(tmp_path), str(place / "m"), str(place / "x.csv")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "KEPT False False True False"
    reason = f"[Errno 20] Not a directory: '{tmp_path / 'file' / 'jaxgen'}'"
    assert done.stderr == f"jaxgen: compiled programs are not kept (--no-cache): {reason}\n"
