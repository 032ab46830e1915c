"""The command line on tables as they come: blanks, text, names, and other delimiters."""

import sys

import jax
import numpy as np
import pytest
from command_line import fails, fails_last, run

import jaxgen
from jaxgen import compose, models
from jaxgen.cli import families
from jaxgen.data import tables
from jaxgen.metrics import outliers
from jaxgen.networks.domains import Circle, Interval, Positive, Real

RNG = np.random.default_rng(0)
SEGMENT = np.array(["plus", "basic"])[np.arange(80) % 2]
AGE = RNG.normal(40, 5, 80).round(1) + 20 * (SEGMENT == "plus")
SPENT = (AGE * 10 + RNG.normal(0, 5, 80)).round()
NA = ("--na", "?,-1")


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A directory with a table whose row 5 has no age, 6 no values, 7 a wrong age; and a model."""
    path = tmp_path_factory.mktemp("shop")
    lines = [f"{1000 + i};{a};{s:.0f};Oslo, NO;{g}"
             for i, (a, s, g) in enumerate(zip(AGE, SPENT, SEGMENT, strict=True))]  # fmt: skip
    lines[5], lines[6], lines[7] = "1005;;500;;basic", "1006;?;-1;Rome;plus", "1007;99.5;402;;basic"
    (path / "x.csv").write_text("\n".join(["id;age;spent;city;segment", *lines]))
    common = ("--model", "Gaussian", "--ignore", "id", "city", "--label", "segment")
    assert run("fit", path / "x.csv", *common, *NA, "--out", path / "m") == 0
    return path


def test_fit_leaves_out_rows_without_values(shop, tmp_path, capsys):
    command = ("fit", shop / "x.csv", "--model", "Gaussian", *NA, "--out", tmp_path / "m")
    assert run(*command, "--columns", "age,spent", "--label", "segment") == 0
    out = capsys.readouterr().out
    assert "of 79 events" in out
    assert "1 of 158 values were missing" in out
    assert "1 rows without any value were left out" in out
    fitted, same = jaxgen.load(shop / "m"), jaxgen.load(tmp_path / "m")
    assert fitted.model == same.model == compose.PerClass(models.Gaussian(2), 2)
    assert (fitted.columns, fitted.labels) == (("age", "spent"), ("basic", "plus"))
    assert fitted.y_columns == same.y_columns == ("segment",)
    np.testing.assert_array_equal(fitted.params["model"]["mean"], same.params["model"]["mean"])
    assert run(*command, "--columns", "age", "spent", "--ignore", "spent") == 0
    assert jaxgen.load(tmp_path / "m").columns == ("age",)


def test_errors_after_rows_left_out_name_the_right_line(tmp_path, capsys):
    (tmp_path / "x.csv").write_text("a,b\n1,5\n,\n2,6\n3,\n")
    command = ("fit", tmp_path / "x.csv", "--model", "KDE", "--out", tmp_path / "m")
    assert "x has 1 (line 5 in column 'b')" in fails(capsys, *command)


def test_impute_keeps_all_else(shop, tmp_path, capsys):
    out = tmp_path / "filled.csv"
    assert run("impute", shop / "m", shop / "x.csv", *NA, "--out", out) == 0
    assert "3 values filled, in 2 of 80 rows and 2 columns" in capsys.readouterr().out
    before, after = tables.cells(shop / "x.csv"), tables.cells(out)
    assert list(after) == ["id", "age", "spent", "city", "segment"]
    filled = {("age", 5), ("age", 6), ("spent", 6)}
    for name, column in before.items():
        changed = np.flatnonzero(after[name] != column)
        assert {(name, row) for row in changed} == {at for at in filled if at[0] == name}
    age, spent = (after[name].astype(float) for name in ("age", "spent"))
    assert abs(age[5] - 50) < 8  # from what was spent
    assert abs(age[6] - 60) < 25  # from the label, which the data have
    assert abs(spent[6] - 10 * age[6]) < 100
    # without the label, in other formats
    (tmp_path / "y.csv").write_text("spent,age\n500,\n400,40\n")
    assert run("impute", shop / "m", tmp_path / "y.csv", "--out", tmp_path / "y.parquet") == 0
    held = tables.cells(tmp_path / "y.parquet")
    assert list(held) == ["spent", "age"]
    np.testing.assert_array_equal(held["spent"], [500, 400])
    assert np.isfinite(held["age"]).all()
    assert run("impute", shop / "m", tmp_path / "y.csv", "--out", tmp_path / "y.npy") == 0
    values = tables.read(tmp_path / "y.npy").values
    np.testing.assert_allclose(values[1], [40, 400])


def test_labels_that_are_missing_are_drawn_from(shop, tmp_path, capsys):
    (tmp_path / "x.csv").write_text("age,spent,segment\n,,plus\n,,basic\n,600,\n")
    command = ("impute", shop / "m", tmp_path / "x.csv", "--out", tmp_path / "y.csv")
    assert run(*command) == 0
    values = tables.read(tmp_path / "y.csv", columns=("age", "spent")).values
    np.testing.assert_allclose(values[:, 0], values[:, 1] / 10, atol=8)
    assert values[0, 0] > 47 > values[1, 0]
    assert "no column 'sort'" in fails_last(capsys, *command, "--label", "sort")
    assert "at most" not in fails_last(capsys, "impute", shop / "m", "gone.csv", "--out", "y.csv")


def test_outliers(shop, tmp_path, capsys):
    out = tmp_path / "o.csv"
    command = ("outliers", shop / "m", shop / "x.csv", *NA, "--samples", 500)
    assert run(*command, "--out", out, "-n", 3) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:2] == ["row", "percentile"]
    assert lines[1].startswith("line 9 ")
    assert "age=99.5" in lines[1]
    assert lines[4] == f"80 events, in {out}"
    assert list(tables.cells(out)) == ["line", "percentile", "log_prob", "column", "blame"]
    assert tables.cells(out)["line"].tolist() == [str(2 + i) for i in range(80)]
    fitted = jaxgen.load(shop / "m")
    x = tables.read(
        shop / "x.csv", None, fitted.columns, reading=tables.Reading(("?", "-1"))
    ).values
    expected = outliers(fitted, x, key=jax.random.key(0), n_samples=500)
    found = tables.read(out, columns=("percentile", "log_prob")).values
    np.testing.assert_allclose(found[:, 0], expected.percentile, rtol=1e-6)
    np.testing.assert_allclose(found[:, 1], expected.log_prob, rtol=1e-6)
    columns = tables.cells(out)["column"]
    assert columns[7] in ("age", "spent")
    assert columns[6] == ""  # all values are missing
    assert run(*command, "--id", "id", "--label", "segment", "--out", out) == 0
    assert "\n1007 " in capsys.readouterr().out
    assert tables.cells(out)["id"].tolist() == tables.cells(shop / "x.csv")["id"].tolist()


def test_ids_go_with_the_rows(shop, tmp_path, capsys):
    out, data = tmp_path / "o.csv", (shop / "m", shop / "x.csv", *NA)
    for command in ("classify", "score"):
        assert run(command, *data, "--id", "id", "--out", out) == 0
        assert tables.cells(out)["id"].tolist() == [str(1000 + i) for i in range(80)]
    message = fails_last(capsys, "classify", *data, "--id", "idd", "--out", out)
    assert "no column 'idd'" in message
    assert "did you mean 'id'?" in message
    np.save(tmp_path / "x.npy", np.ones((2, 2)))
    plain = ("score", shop / "m", tmp_path / "x.npy", "--id", "id", "--out", out)
    assert "its columns have no names, so --id does not apply" in fails_last(capsys, *plain)
    assert run("classify", *data, "--out", tmp_path / "p.npy") == 0
    assert tables.read(tmp_path / "p.npy").values.shape == (80, 2)


def test_evaluate_takes_labels(shop, capsys):
    assert run("evaluate", shop / "m", shop / "x.csv", *NA, "--label", "segment") == 0
    x, y = tables.read(
        shop / "x.csv", "segment", ("age", "spent"), reading=tables.Reading(("?", "-1"))
    )[1:]
    log_p = np.asarray(jaxgen.load(shop / "m").log_prob(x, y), np.float64)
    out = capsys.readouterr().out
    assert f"{np.delete(log_p, 6).mean():.4g} " in out
    assert f"{shop / 'x.csv'}: 1 rows without any value were left out" in out


@pytest.mark.parametrize(
    ("args", "why"),
    [
        ("--model Gaussian", "line 2, column 4 (city): 'Oslo, NO' is not a number; 2 columns hold "
         "text: use --label NAME if one is the label, and --ignore city segment for those that are "
         "no features; use --na '?' if that stands for a missing value"),
        ("--model Gaussian --ignore city", "use --label segment if it is the label, or --ignore "
         "segment"),
        ("--model Gaussian --label segment", "(city): 'Oslo, NO' is not a number; use --ignore "
         "city to leave the column out"),
        ("--model Gaussian --columns age", "'?' is not a number; use --na '?' if that stands"),
        ("--model Gaussian --columns agee", "no column 'agee'; the columns are 'id', 'age', "
         "'spent', 'city', 'segment'; did you mean 'age'?"),
        ("--model Gaussian --na ? --columns age --ignore age", "no columns that are not ignored"),
        ("--model KDE --na ? --columns spent age",
         "KDE does not learn from missing values, of which x has 2 (line 7 in column 'age'); "
         "models that do: Bernoulli, Box, Categorical, Gaussian, GaussianMixture"),
        ("--model Gaussian --delimiter |", "use --delimiter ';' if that separates the columns"),
        ("--model Gaussian --delimiter ab", "--delimiter: must be one character or 'tab'"),
        ("--model Gaussian --columns age --na ? --domain age=Positive",
         "Gaussian has no domain; models that have one: FlowMatching, MaskedAutoregressive, "
         "SplineCoupling"),
        ("--model SplineCoupling --columns spent --domain sent=Positive",
         "--domain: no column 'sent'; the columns are spent; did you mean 'spent'?"),
        ("--model SplineCoupling --columns spent --domain spent=exit()", "must be one of Circle, "),
        ("--model SplineCoupling --columns spent --domain spent=Interval(9,1)", "low < high"),
        ("--model SplineCoupling --columns spent --domain spent=Interval(1)", "--domain: spent: "),
        ("--model Gaussian --import no_such_module", "there is no module 'no_such_module' in"),
        ("--model gauss-mixture", "did you mean 'GaussianMixture'?"),
        ("--model Own", "your own classes need --import MODULE"),
    ],
    ids=lambda text: repr(text)[:60],
)  # fmt: skip
def test_errors_say_what_to_do(args, why, shop, tmp_path, capsys):
    command = ("fit", shop / "x.csv", *args.split(), "--out", tmp_path / "o")
    assert why in fails(capsys, *command)


def test_models_with_missing_values_are_those_that_state_it():
    stated = {
        models.Bernoulli((2,)), models.Box(2), models.Categorical((2,), 3), models.Gaussian(2),
        models.GaussianMixture(2, 2), models.Histogram((2, 2)), models.KDE(2),
        models.SplineCoupling(2), models.MaskedAutoregressive(2), models.FlowMatching(2),
        models.NGram(2, 3), models.Autoregressive(2, 3), models.VAE((2,)), models.Diffusion((2,)),
        models.PixelAutoregressive((2, 2)),
    }  # fmt: skip
    assert {type(model).__name__ for model in stated} == set(models.__all__)
    expected = [type(m).__name__ for m in stated if m.learning.missing is not None]
    assert families.models_with_missing_values() == ", ".join(sorted(expected))


def test_domains():
    names = ("latitude", "longitude", "income", "x")
    pairs = ["longitude=Circle(-180, 180)", "latitude=Interval(low=-90,high=90)", "income=Positive"]
    found = families.domains_of_columns(pairs, names)
    assert found == (Interval(-90, 90), Circle(-180, 180), Positive(), Real())


def test_domain_of_a_fit(tmp_path):
    tables.write(tmp_path / "x.csv", np.stack([AGE, SPENT], 1)[:64], ("age", "spent"))
    small = ("--set", "layers=1", "width=4", "depth=1", "--epochs", 1)
    command = ("fit", tmp_path / "x.csv", "--model", "SplineCoupling", *small)
    assert run(*command, "--domain", "age=Interval(0, 120)", "--out", tmp_path / "m") == 0
    assert jaxgen.load(tmp_path / "m").model.domain == (Interval(0, 120), Real())


def test_own_classes(tmp_path, monkeypatch, capsys):
    """A family of one's own is fitted, loaded and drawn from; other processes name its module."""
    text = """
    import jax.numpy as jnp
    import jaxgen

    class Rate(jaxgen.Model):
        dim: int
        event_shape = property(lambda self: (self.dim,))

        def init(self, key, x=None, y=None):
            return {"rate": jnp.ones(self.dim) if x is None else jnp.asarray(1 / x.mean(0))}

        def log_prob(self, params, x, y=None):
            inside = (x >= 0).all()
            rate = params["rate"]
            return jnp.where(inside, jnp.sum(jnp.log(rate) - rate * x), -jnp.inf)

        def noise(self):
            return jaxgen.random.Uniform((self.dim,))

        def push(self, params, noise, y=None):
            return -jnp.log(noise) / params["rate"]
    """
    (tmp_path / "own_rates.py").write_text("\n".join(line[4:] for line in text.splitlines()))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p not in ("", str(tmp_path))])
    tables.write("x.csv", np.stack([AGE, SPENT], 1)[:64], ("age", "spent"))
    for name in ("Rate", "own_rates.Rate"):
        common = ("--model", name, "--import", "own_rates", "--epochs", 1)
        assert run("fit", "x.csv", *common, "--out", "m") == 0
    assert run("sample", "m", "-n", 5, "--import", "own_rates", "--out", "s.csv") == 0
    assert tables.read("s.csv").columns == ("age", "spent")
    assert run("score", "m", "x.csv", "--import", "own_rates") == 0
    monkeypatch.delitem(sys.modules, "own_rates")


def test_conditions_by_name(tmp_path, capsys):
    model = models.MaskedAutoregressive(2, 1, 4, 1, "affine", y_shape=(2,))
    params = model.init(jax.random.key(0))
    fitted = jaxgen.Fitted(model, params, columns=("a", "b"), y_columns=("wind", "rain"))
    fitted.save(tmp_path / "m")
    command = ("sample", tmp_path / "m", "-n", 4, "--out", tmp_path / "s.csv", "--given")
    for given in (("rain=-1", "wind=0.5"), ("y=0.5,-1",)):
        assert run(*command, *given) == 0
        columns, values, _ = tables.read(tmp_path / "s.csv")
        assert columns == ("a", "b", "wind", "rain")
        np.testing.assert_array_equal(values[:, 2:], [[0.5, -1]] * 4)
        expected = fitted.sample(jax.random.key(0), 4, [0.5, -1])
        np.testing.assert_array_equal(values[:, :2].astype(np.float32), expected)
    assert "needs a value of rain too" in fails_last(capsys, *command, "wind=1")
    assert "conditions wind, rain; did you mean 'wind'?" in fails_last(capsys, *command, "win=1")
    assert "y is given twice" in fails_last(capsys, *command, "wind=1", "y=1,2")


def frame():
    """A DataFrame whose rows have the features of ``shop`` and columns of other types."""
    pd = pytest.importorskip("pandas")
    n = 40
    when = pd.Series(pd.date_range("2020-01-01 10:00", periods=n, freq="90min"))
    found = pd.DataFrame({
        "when": when,
        "zoned": when.dt.tz_localize("Europe/Oslo"),
        "took": pd.to_timedelta(np.arange(n) - 3, unit="s"),
        "day": when.dt.date,
        "id": pd.array([2**60 + 1, None, *range(n - 2)], "Int64"),
        "flag": np.arange(n) % 3 == 0,
        "maybe": pd.array([True, None] * (n // 2), "boolean"),
        "kind": pd.Categorical(["a", None] * (n // 2), categories=["b", "a"], ordered=True),
        "age": AGE[:n].astype(np.float32),
        "other": np.arange(n, dtype=np.float32) / 10,
        "spent": pd.array(SPENT[:n].astype(int), "Int64"),
    })  # fmt: skip
    found.loc[1, ["when", "zoned", "took", "day", "other"]] = None
    found.loc[2, "spent"] = None
    return found[found.index != 5]


def test_impute_of_parquet_keeps_the_types(shop, tmp_path):
    import pandas as pd
    import pyarrow.parquet as pq

    before = frame()
    before.to_parquet(tmp_path / "x.parquet")  # with an index without a name
    command = ("impute", shop / "m", tmp_path / "x.parquet", "--out")
    assert run(*command, tmp_path / "y.parquet") == 0
    after = pd.read_parquet(tmp_path / "y.parquet")
    rest = [name for name in before if name != "spent"]
    pd.testing.assert_frame_equal(after[rest], before[rest])  # the index too
    assert after["spent"].dtype == np.float64
    same = (after["spent"] == before["spent"]).fillna(False)
    assert before.index[~same].tolist() == [2]
    x, y = (pq.read_table(tmp_path / f"{name}.parquet") for name in "xy")
    assert x.column_names == y.column_names
    for name in rest:
        assert x.schema.field(name).equals(y.schema.field(name), check_metadata=True)
        assert x.column(name).equals(y.column(name))

    assert run(*command, tmp_path / "y.csv") == 0
    header, first, second, third = (tmp_path / "y.csv").read_text().splitlines()[:4]
    assert header == ",".join(before.columns)
    assert first == (
        "2020-01-01T10:00:00,2020-01-01T09:00:00Z,-1 days +23:59:57,2020-01-01,"
        f"1152921504606846977,True,True,a,{AGE[0]:.9g},0,{SPENT[0]:.0f}"
    ).replace(f"{AGE[0]:.9g}", f"{np.float32(AGE[0]):.9g}")
    assert second == f",,,,,False,,,{np.float32(AGE[1]):.9g},,{SPENT[1]:.0f}"
    assert third.split(",")[4] == "0"
    assert float(third.split(",")[-1]) == after["spent"][2]


@pytest.mark.parametrize("command", ["score", "classify", "outliers"])
def test_ids_keep_their_types(command, shop, tmp_path, capsys):
    import pandas as pd

    before = frame().reset_index(drop=True)
    before.to_parquet(tmp_path / "x.parquet")
    options = ("--samples", 500, "-n", 1) if command == "outliers" else ()
    for name, text in (("when", "2020-01-01T10:00:00"), ("id", "1152921504606846977")):
        for ending in ("parquet", "csv"):
            out = ("--id", name, "--out", tmp_path / f"y.{ending}")
            assert run(command, shop / "m", tmp_path / "x.parquet", *options, *out) == 0
        after = pd.read_parquet(tmp_path / "y.parquet")
        pd.testing.assert_series_equal(after[name], before[name])
        cells = tables.cells(tmp_path / "y.csv")[name].tolist()
        assert cells[:2] == [text, ""]


def test_score_leaves_out_rows_without_values_or_labels(shop, tmp_path, capsys):
    (tmp_path / "x.csv").write_text(
        "age,spent,segment\n40,400,basic\n,,basic\n60,600,plus\n41,400,\n,600,plus\n"
    )
    fitted = jaxgen.load(shop / "m")
    x = np.array([[40, 400], [60, 600], [41, 400], [np.nan, 600]], np.float32)
    command = ("score", shop / "m", tmp_path / "x.csv", "--out", tmp_path / "y.csv")
    assert run(*command) == 0
    log_p = np.asarray(fitted.log_prob(x), np.float64)
    out = capsys.readouterr().out
    assert "events          4\n" in out
    assert f"log-likelihood  {log_p.mean():.6g} +- " in out
    assert out.endswith("1 rows without any value were left out\n")
    assert tables.cells(tmp_path / "y.csv")["log_prob"][1] == ""
    written = tables.read(tmp_path / "y.csv").values[:, 0]
    np.testing.assert_allclose(written[[0, 2, 3, 4]], log_p, rtol=1e-6)
    assert run(*command, "--label", "segment") == 0
    log_p = np.asarray(fitted.log_prob(x[[0, 1, 3]], ["basic", "plus", "plus"]), np.float64)
    out = capsys.readouterr().out
    assert f"log-likelihood  {log_p.mean():.6g} +- " in out
    assert out.endswith(
        "1 rows without any value were left out\n1 rows without a label were left out\n"
    )
    assert tables.cells(tmp_path / "y.csv")["log_prob"][3] == ""
    command = ("classify", shop / "m", tmp_path / "x.csv", "--label", "segment")
    assert run(*command, "--out", tmp_path / "p.csv") == 0
    out = capsys.readouterr().out
    assert "events             4\n" in out
    assert out.endswith("1 rows without a label were left out of the measures\n")
    assert len(tables.cells(tmp_path / "p.csv")["line"]) == 5
    (tmp_path / "x.csv").write_text("age,spent,segment\n,,\n,,plus\n")
    assert "x.csv: no row has any value" in fails(capsys, "score", shop / "m", tmp_path / "x.csv")


def test_fit_leaves_out_rows_without_a_label(shop, tmp_path, capsys):
    text = (shop / "x.csv").read_text().splitlines()
    text += ["2000;45;450;Oslo;", "2001;;;Oslo;", "2002;46;x;Oslo;plus"]
    (tmp_path / "x.csv").write_text("\n".join(text[:-1]))
    common = ("--model", "Gaussian", "--ignore", "id", "city", "--label", "segment", *NA)
    assert run("fit", tmp_path / "x.csv", *common, "--out", tmp_path / "m") == 0
    out = capsys.readouterr().out
    assert "of 79 events" in out
    assert out.endswith(
        "2 rows without any value were left out\n1 rows without a label were left out\n"
    )
    np.testing.assert_array_equal(
        jaxgen.load(tmp_path / "m").params["model"]["mean"],
        jaxgen.load(shop / "m").params["model"]["mean"],
    )
    (tmp_path / "x.csv").write_text("\n".join(text))
    message = fails(capsys, "fit", tmp_path / "x.csv", *common, "--out", tmp_path / "m")
    assert "line 84, column 3 (spent): 'x' is not a number" in message


@pytest.mark.parametrize(
    ("options", "columns"),
    [
        (("--columns", "bill, mm", "mass"), ("bill, mm", "mass")),
        (("--ignore", "", "bill, mm"), ("mass", "flag")),
        (("--ignore", "", "--ignore", "flag"), ("bill, mm", "mass")),
        (("--columns", "mass,flag"), ("mass", "flag")),
    ],
)
def test_names_with_commas_and_without_characters(options, columns, tmp_path):
    rows = "\n".join(f"{i},{i % 3},{i % 4},{i % 5 > 1}" for i in range(9))
    (tmp_path / "x.csv").write_text(f',"bill, mm",mass,flag\n{rows}\n')
    command = ("fit", tmp_path / "x.csv", "--model", "Box", "--out", tmp_path / "m")
    assert run(*command, *options) == 0
    fitted = jaxgen.load(tmp_path / "m")
    assert fitted.columns == columns
    np.testing.assert_allclose(fitted.params["high"][0], {"b": 2, "m": 3}[columns[0][0]], atol=0.1)
    assert run("score", tmp_path / "m", tmp_path / "x.csv") == 0
    assert run("impute", tmp_path / "m", tmp_path / "x.csv", "--out", tmp_path / "y.csv") == 0
    before, after = tables.cells(tmp_path / "x.csv"), tables.cells(tmp_path / "y.csv")
    assert {k: v.tolist() for k, v in before.items()} == {k: v.tolist() for k, v in after.items()}


@pytest.mark.parametrize(
    ("text", "args", "why"),
    [
        (",a\n0,1\n1,2\n", "", "column 1 has no name; is it an index?; use --ignore '' to leave it "
         "out, or --columns with the features"),
        ("a|b\n1|2\n", "--label b", "no column 'b'; the columns are 'a|b'; use --delimiter '|' if "
         "that separates the columns"),
        ("a|b\n1|2\n", "--columns a", "use --delimiter '|' if that separates the columns"),
        ('a,b,c\n"3,750","1,5",x\n"2,5",2,y\n', "", "(a): '3,750' is not a number: if the comma is "
         "a decimal comma, write 3.750; if it separates thousands, write 3750; use --label c if it "
         "is the label, or --ignore c\n"),
        ('a,b\n"3,75",1\n"2,5",2\n', "", "write the decimal comma as a point, 3.75\n"),
        ("flag,a,kind\nTrue,1,x\nFalse,2,y\n", "", "use --label kind if it is the label, or "
         "--ignore kind\n"),
    ],
    ids=repr,
)  # fmt: skip
def test_errors_of_a_table_say_what_to_do(text, args, why, tmp_path, capsys):
    (tmp_path / "x.csv").write_text(text)
    command = ("fit", tmp_path / "x.csv", "--model", "Box", *args.split(), "--out", tmp_path / "m")
    assert why in fails(capsys, *command)


def test_fit_ignores_no_array_silently(tmp_path, capsys):
    x = np.stack([AGE, SPENT], 1)
    np.savez(tmp_path / "x.npz", x=x, y=np.arange(80), w=np.ones(80))
    command = ("fit", tmp_path / "x.npz", "--model", "Box", "--out", tmp_path / "m")
    why = "it holds 'y', 'w' beside 'x'; use --label NAME if one is the label, and --ignore y w for"
    assert why in fails(capsys, *command)
    assert "it holds 'w' beside 'x'; use --ignore w" in fails(capsys, *command, "--label", "y")
    assert run(*command, "--ignore", "y,w") == 0
    assert jaxgen.load(tmp_path / "m").model == models.Box(2)
    assert run("score", tmp_path / "m", tmp_path / "x.npz") == 0


def test_impute_of_true_and_false(tmp_path):
    """A column that is filled with numbers can be read again."""
    box = {"low": np.zeros(2, np.float32), "high": np.ones(2, np.float32)}
    jaxgen.Fitted(models.Box(2), box, columns=("a", "b")).save(tmp_path / "m")
    (tmp_path / "x.csv").write_text("a,b\nTrue,TRUE\n,False\n")
    assert run("impute", tmp_path / "m", tmp_path / "x.csv", "--out", tmp_path / "y.csv") == 0
    cells = tables.cells(tmp_path / "y.csv")
    assert cells["b"].tolist() == ["TRUE", "False"]
    assert cells["a"][0] == "1.0"
    values = tables.read(tmp_path / "y.csv").values
    assert 0 < values[1, 0] < 1
