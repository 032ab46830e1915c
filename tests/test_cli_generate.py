"""The commands ``generate`` and ``verify``, run on files as a user would run them."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from command_line import conditional, fails, fails_last, run

import jaxgen
from jaxgen import compose, models
from jaxgen.data import bulk, tables

X = np.random.default_rng(0).normal((1, -3), (0.5, 4), (40, 2)).astype(np.float32)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a model of numbers, one of labels, one of conditions and one of texts."""
    path = tmp_path_factory.mktemp("generate")
    params = {"low": jnp.zeros(2), "high": jnp.ones(2)}
    jaxgen.Fitted(models.Box(2), params, None, ("a", "b")).save(path / "box")
    kinds = jaxgen.fit(compose.PerClass(models.Box(2)), X, ["pear", "fig"] * 20, key=key(0))
    kinds.y_columns = ("kind",)
    kinds.save(path / "kinds")
    conditional(()).save(path / "conditional")
    jaxgen.fit(models.NGram(), ["anna", "bob"], key=key(0)).save(path / "names")
    return path


def key(seed):
    return jax.random.key(seed)


def content(folder):
    """The bytes of all files of a folder by name."""
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_generate_draws_what_sample_draws(place, tmp_path, capsys):
    common = (place / "box", "-n", 50, "--seed", 7)
    assert run("generate", *common, "--out", tmp_path / "events", "--block-rows", 20) == 0
    out = capsys.readouterr().out
    assert re.search(rf"^50 events, [0-9.]+ kB, in {tmp_path}/events: 3 blocks$", out, re.M)
    assert re.search(r"^50 events drawn in .* s, .* per second$", out, re.M)
    assert run("sample", *common, "--out", tmp_path / "x.parquet") == 0
    x = tables.read(tmp_path / "x.parquet")
    events = bulk.Dataset(tmp_path / "events")
    np.testing.assert_array_equal(events[:]["x"], x.values)
    assert events.columns == x.columns == ("a", "b")


def test_shards_fill_one_folder_and_resume_goes_on(place, tmp_path, capsys):
    common = (place / "box", "-n", 50, "--block-rows", 10, "--format", "npy", "--log-prob")
    assert run("generate", *common, "--out", tmp_path / "whole") == 0
    capsys.readouterr()
    part = (*common, "--out", tmp_path / "shards")
    assert run("generate", *part, "--shard", "0/2") == 0
    assert ": 2 of 5 blocks, the others not yet\n" in capsys.readouterr().out
    assert run("verify", tmp_path / "shards") == 0
    assert "3 blocks missing" in capsys.readouterr().out
    error = fails(capsys, "generate", *part)
    assert "holds unfinished events already: give a new folder, or use --resume" in error
    assert "use --resume" in fails(capsys, "generate", *part, "--shard", "0/2")
    assert "other key" in fails(capsys, "generate", *part, "--resume", "--seed", 1)
    assert run("generate", *part, "--shard", "1/2") == 0
    out = capsys.readouterr().out
    assert out.startswith("50 events,")
    assert out.endswith(": 5 blocks\n")
    (tmp_path / "shards" / "x-000003.npy").unlink()
    assert run("generate", *part, "--resume") == 0
    assert "\n10 events drawn in" in capsys.readouterr().out
    assert run("generate", *part, "--resume") == 0
    assert "drawn" not in capsys.readouterr().out
    assert content(tmp_path / "shards") == content(tmp_path / "whole")


def test_verify_prints_the_size_or_names_the_damage(place, tmp_path, capsys):
    assert run("generate", place / "box", "-n", 30, "--out", tmp_path / "d") == 0
    capsys.readouterr()
    assert run("verify", tmp_path / "d") == 0
    assert f"{tmp_path / 'd'}: 30 events in 1 block," in capsys.readouterr().out
    file = tmp_path / "d" / "block-000000.parquet"
    file.write_bytes(file.read_bytes()[:-1])
    assert f"{file} is damaged" in fails(capsys, "verify", tmp_path / "d")
    assert "there is no such folder" in fails(capsys, "verify", tmp_path / "none")


def test_labels_are_drawn_given_or_read_from_a_file(place, tmp_path):
    kinds, common = jaxgen.load(place / "kinds"), (place / "kinds", "--seed", 3)
    assert run("generate", *common, "-n", 30, "--out", tmp_path / "drawn") == 0
    assert run("generate", *common, "-n", 30, "--out", tmp_path / "fig", "--given", "kind=fig") == 0
    given = ["fig", "pear", "pear"] * 10
    tables.write(tmp_path / "y.csv", {"kind": given, "weight": np.ones(30)})
    rows = ("--given-file", tmp_path / "y.csv")
    assert run("generate", *common, *rows, "--out", tmp_path / "rows", "--log-prob") == 0
    x, y = kinds.sample(key(3), 30, with_labels=True)
    drawn, fig, of_rows = (bulk.Dataset(tmp_path / name)[:] for name in ("drawn", "fig", "rows"))
    np.testing.assert_array_equal(drawn["x"], x)
    assert list(drawn["y"]) == list(y)
    np.testing.assert_array_equal(fig["x"], kinds.sample(key(3), 30, "fig"))
    np.testing.assert_array_equal(of_rows["x"], kinds.sample(key(3), 30, given))
    np.testing.assert_array_equal(of_rows["log_prob"], kinds.log_prob(of_rows["x"], given))
    assert list(of_rows["y"]) == given


def test_conditions_are_read_from_a_file(place, tmp_path):
    y = np.linspace(-1, 1, 12, dtype=np.float32)
    fitted, common = jaxgen.load(place / "conditional"), ("generate", place / "conditional")
    for name, values in (("y.npy", y), ("y.csv", {"y": y}), ("named.parquet", {"dose": y})):
        if name == "named.parquet":
            fitted.y_columns = ("dose",)
            fitted.save(tmp_path / "named")
            common = ("generate", tmp_path / "named")
        tables.write(tmp_path / name, values)
        folder = tmp_path / f"from {name}"
        assert run(*common, "--given-file", tmp_path / name, "--out", folder) == 0
        found = bulk.Dataset(folder)[:]
        np.testing.assert_array_equal(found["x"], fitted.sample(key(0), 12, y))
        np.testing.assert_array_equal(np.ravel(found["y"]), y)


def test_texts_take_the_options_of_draws(place, tmp_path, capsys):
    common = ("generate", place / "names", "-n", 20)
    assert run(*common, "--out", tmp_path / "names", "--length", 3) == 0
    texts = bulk.Dataset(tmp_path / "names")[:]["x"]
    assert texts == jaxgen.load(place / "names").replace(length=3).sample(key(0), 20)
    error = fails_last(capsys, *common, "--out", tmp_path / "x", "--top-k", 2)
    assert "--top-k does not apply to NGram" in error


def test_plan_prints_estimates_and_draws_nothing(place, tmp_path, capsys):
    folder = tmp_path / "events"
    assert run("generate", place / "box", "--out", folder, "--plan", "--block-rows", 10**6) == 0
    out = capsys.readouterr().out
    rows = [line.split() for line in out.splitlines()[-6:]]
    assert [row[0] for row in rows] == ["1,000,000,000"] * 3 + ["1,000,000,000,000"] * 3
    assert [row[1] for row in rows] == ["1", "8", "1,000"] * 2
    assert {row[-2] for row in rows} == {"1,000", "1,000,000"}
    assert list(tmp_path.iterdir()) == []


def test_interrupt_says_how_to_go_on(place, tmp_path, capsys, monkeypatch):
    def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(bulk, "generate", stopped)
    with pytest.raises(SystemExit, match="130"):
        run("generate", place / "box", "-n", 3, "--out", tmp_path / "x")
    assert capsys.readouterr().err == (
        f"jaxgen: stopped: finished blocks stay in {tmp_path / 'x'}, and --resume goes on\n"
    )


ERRORS = [
    (["box"], "generate needs -n N"),
    (["box", "-n", "0"], "-n: must be a whole number of at least 1, got '0'"),
    (["box", "-n", "5", "--shard", "2/2"], "--shard: must be I/K, from 0/K to K-1/K"),
    (["box", "-n", "5", "--shard", "a"], "--shard: must be I/K, from 0/K to K-1/K"),
    (["box", "-n", "5", "--format", "csv"], "--format: invalid choice: 'csv'"),
    (["box", "-n", "5", "--given", "a=1"], "but not given features, as jaxgen sample does"),
    (["box", "-n", "5", "--given", "c=1"], "--given: no feature 'c'"),
    (["box", "-n", "5", "--given-file", "y.csv"], "takes no label or condition y"),
    (["box", "-n", "5", "--temperature", "1"], "--temperature is for texts"),
    (["box", "-n", "5", "--out", ""], "--out: must be the name of a folder, got ''"),
    (["none", "-n", "5"], "No such file or directory: none"),
    (["kinds", "-n", "5", "--given", "kind=kiwi"], "unknown label 'kiwi'; the labels are fig"),
    (["kinds", "-n", "5", "--given-file", "y.csv"], "-n 5: y.csv has 2 rows; leave out -n"),
    (["kinds", "--given-file", "y.csv", "--given", "kind=fig"], "exclude each other"),
    (["kinds", "--given-file", "bad.csv"], "bad.csv: unknown label 'kiwi'; the labels are"),
    (["kinds", "--given-file", "gap.csv"], "gap.csv: no label in line 3"),
    (["kinds", "--given-file", "x.csv"], "x.csv: no column 'kind'; the columns are 'a'"),
    (["kinds", "--given-file", "none.csv"], "No such file or directory: none.csv"),
    (["conditional", "-n", "5"], "y is missing"),
    (["conditional", "--given-file", "two.csv"], "its rows must have 1 numbers, the conditions y"),
    (["conditional", "--given-file", "x.csv"], "x.csv: a value is missing in line 3"),
    (["names", "-n", "5", "--top-p", "0.5"], "--top-p does not apply to NGram"),
]  # fmt: skip


def test_errors_name_the_argument(place, capsys, monkeypatch):
    monkeypatch.chdir(place)
    for name, text in (
        ("y.csv", "kind\nfig\npear\n"),
        ("bad.csv", "kind\nfig\nkiwi\n"),
        ("gap.csv", "kind,a\nfig,1\n,2\n"),
        ("x.csv", "a\n1\nNA\n"),
        ("two.csv", "a,b\n1,2\n"),
    ):
        (place / name).write_text(text)
    for arguments, message in ERRORS:
        line = fails(capsys, "generate", "--out", "new", *arguments)
        assert message in line, (arguments, line)
        assert not (place / "new").exists(), arguments


def test_an_error_may_name_half_a_character(capsys):
    """Such names come from damaged files, and cannot be printed as they are."""
    assert run("verify", "\ud800") == 2
    assert "\\ud800" in capsys.readouterr().err
