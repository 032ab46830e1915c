"""Tables in memory: names of columns and labels travel from fit to every answer."""

import copy
import pickle

import jax
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import jaxgen
from jaxgen import compose, models
from jaxgen.core import dataframes
from jaxgen.core.template import Template

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
X = RNG.normal([0.0, 10.0, -500.0], [1.0, 2.0, 100.0], (60, 3))
NAMES = ("a", "b", "c")
FRAME = pd.DataFrame(X, columns=list(NAMES))
KINDS = np.array(["low", "mid", "high"])[np.arange(60) % 3]
SEGMENT = pd.Series(pd.Categorical(KINDS, categories=["low", "mid", "high"]), name="segment")


@pytest.fixture(scope="module")
def gaussian():
    return jaxgen.fit(models.Gaussian(), FRAME, key=KEY)


@pytest.fixture(scope="module")
def labelled():
    model = compose.PerClass(models.Gaussian(covariance="diagonal"))
    return jaxgen.fit(model, FRAME, SEGMENT, key=KEY)


def shuffled(frame):
    """The columns in another order, beside one that is no feature."""
    return frame[["c", "a", "b"]].assign(city="Oslo")


TABLES = {
    "pandas": shuffled,
    "nullable": lambda frame: shuffled(frame).convert_dtypes(),
    "arrow dtypes": lambda frame: shuffled(frame).convert_dtypes(dtype_backend="pyarrow"),
    "polars": lambda frame: pl.from_pandas(shuffled(frame)),
    "pyarrow": lambda frame: pa.Table.from_pandas(shuffled(frame)),
    "dict": lambda frame: {name: shuffled(frame)[name].to_numpy() for name in ("c", "b", "a")},
    "structured": lambda frame: shuffled(frame)[["c", "a", "b"]].to_records(index=False).view(
        np.ndarray
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", TABLES)
def test_columns_are_matched_by_name(gaussian, kind):
    assert gaussian.columns == NAMES
    expected = gaussian.log_prob(X)
    np.testing.assert_array_equal(gaussian.log_prob(TABLES[kind](FRAME)), expected)
    # a fit takes all columns, so not the one of text
    table = TABLES[kind](FRAME.assign(d=1.0)) if kind == "dict" else FRAME[["c", "a", "b"]]
    again = jaxgen.fit(models.Gaussian(), table, key=KEY)
    np.testing.assert_allclose(again.log_prob(TABLES[kind](FRAME)), expected, rtol=1e-4)


@pytest.mark.parametrize("call", ["log_prob", "pull", "impute", "classify", "evaluate", "fit"])
def test_a_missing_column_is_refused(gaussian, labelled, call):
    frame = FRAME[["c", "a"]]
    calls = {
        "log_prob": lambda: gaussian.log_prob(frame),
        "pull": lambda: gaussian.pull(frame),
        "impute": lambda: gaussian.impute(frame, KEY),
        "classify": lambda: labelled.classify(frame),
        "evaluate": lambda: jaxgen.evaluate(gaussian, frame, key=KEY),
        "fit": lambda: jaxgen.fit(gaussian, frame, key=KEY),
    }
    with pytest.raises(ValueError, match=r"no column 'b'; its columns are 'c', 'a'"):
        calls[call]()


BAD = {
    "text": (FRAME.assign(b="x"), TypeError, "column 'b' must hold numbers, got 'x'"),
    "category": (
        FRAME.assign(b=pd.Categorical(["x"] * 60)), TypeError, "column 'b' must hold numbers",
    ),
    "dates": (
        FRAME.assign(b=pd.Timestamp("2026-01-01")), TypeError, "column 'b' holds dates or times",
    ),
    "objects": (FRAME.assign(b=[[1]] * 60), TypeError, "column 'b' must hold numbers"),
    "twice": (
        pd.DataFrame(X, columns=["a", "b", "a"]), ValueError, "two columns named 'a'",
    ),
    "mixed names": (pd.DataFrame(X, columns=["a", 1, "b"]), TypeError, "by strings; one is 1"),
    "no columns": (FRAME[[]], ValueError, "no columns"),
    "a blank": (FRAME.assign(b=pd.array([None] + [1] * 59, "Int64")), ValueError, "NaN values"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_table_of_no_numbers_is_refused(case):
    frame, error, text = BAD[case]
    with pytest.raises(error, match=text):
        jaxgen.fit(models.SplineCoupling(), frame, key=KEY)


def test_blanks_of_pandas_are_missing_values(gaussian):
    blank = FRAME.convert_dtypes()
    blank.loc[3, "b"] = pd.NA
    blank.index = blank.index + 100
    done = gaussian.impute(blank, KEY, as_frame=True)
    assert list(done.columns) == list(NAMES)
    assert done.index.equals(blank.index)
    assert np.isfinite(done.to_numpy()).all()
    np.testing.assert_allclose(done["a"], X[:, 0], rtol=1e-6)


def test_labels_keep_their_names_and_order(labelled, tmp_path):
    assert labelled.labels == ("low", "mid", "high")  # not sorted
    assert labelled.y_columns == ("segment",)
    labelled.save(tmp_path / "m")
    loaded = jaxgen.load(tmp_path / "m")
    assert (loaded.labels, loaded.columns, loaded.y_columns) == (
        labelled.labels, labelled.columns, labelled.y_columns,
    )  # fmt: skip
    everything = FRAME.assign(segment=SEGMENT)
    expected = labelled.log_prob(X, KINDS)
    for y in (SEGMENT, SEGMENT.to_frame(), everything, pl.Series(KINDS), pa.array(KINDS)):
        np.testing.assert_array_equal(labelled.log_prob(everything, y), expected)
    with pytest.raises(ValueError, match="unknown label 'none'"):
        labelled.log_prob(FRAME, SEGMENT.astype(str).replace("mid", "none"))
    with pytest.raises(ValueError, match="a column 'segment'"):
        labelled.log_prob(FRAME, FRAME)


def test_numbers_as_categories_keep_their_order():
    grade = pd.Series(pd.Categorical(np.arange(60) % 2, categories=[1, 0]))
    fitted = jaxgen.fit(compose.PerClass(models.Box()), FRAME, grade, key=KEY)
    assert fitted.labels == (1, 0)
    order = pl.Series("grade", KINDS, dtype=pl.Enum(["mid", "low", "high"]))
    fitted = jaxgen.fit(compose.PerClass(models.Box()), FRAME, order, key=KEY)
    assert fitted.labels == ("mid", "low", "high")
    assert fitted.y_columns == ("grade",)


def test_draws_come_back_as_a_frame(labelled, gaussian):
    draws = labelled.sample(KEY, 50, as_frame=True)
    assert list(draws.columns) == [*NAMES, "segment"]
    assert set(draws["segment"]) <= {"low", "mid", "high"}
    x, y = labelled.sample(KEY, 50, with_labels=True)
    np.testing.assert_array_equal(draws[list(NAMES)], x)
    np.testing.assert_array_equal(draws["segment"], y)
    # the labels are those that the events were drawn from
    np.testing.assert_allclose(labelled.sample(KEY, 50, y), x, rtol=1e-5)
    np.testing.assert_array_equal(labelled.sample(KEY, 50), x)
    assert set(labelled.sample(KEY, 5, "mid", as_frame=True)["segment"]) == {"mid"}
    assert list(gaussian.sample(KEY, 2, as_frame=True).columns) == list(NAMES)
    with pytest.raises(TypeError, match="no labels and no components"):
        gaussian.sample(KEY, 2, with_labels=True)
    numbers = jax.jit(lambda fitted: fitted.sample(KEY, 50, with_labels=True)[1])(labelled)
    np.testing.assert_array_equal(np.array(labelled.labels)[np.asarray(numbers)], y)


def test_conditions_have_names():
    flow = models.SplineCoupling(2, layers=1, width=4, depth=1, y_shape=(2,))
    y = FRAME.assign(d=FRAME["a"] ** 2)[["c", "d"]]
    fitted = jaxgen.fit(flow, FRAME[["a", "b"]], y, key=KEY, epochs=1, validation=(FRAME, y))
    assert fitted.y_columns == ("c", "d")
    np.testing.assert_array_equal(
        fitted.log_prob(FRAME, y[["d", "c"]]), fitted.log_prob(X[:, :2], y.to_numpy())
    )
    one = fitted.sample(KEY, 4, {"d": 1.0, "c": -500.0}, as_frame=True)
    assert list(one.columns) == ["a", "b", "c", "d"]
    np.testing.assert_array_equal(one["c"], -500.0)
    np.testing.assert_array_equal(one[["a", "b"]], fitted.sample(KEY, 4, [-500.0, 1.0]))
    with pytest.raises(ValueError, match="y has no column 'd'"):
        fitted.log_prob(FRAME, FRAME)


def test_columns_without_names_are_taken_in_order(gaussian):
    numbered = pd.DataFrame(X)
    assert jaxgen.fit(models.Box(), numbered, key=KEY).columns is None
    np.testing.assert_array_equal(gaussian.log_prob(numbered), gaussian.log_prob(X))
    pure = jax.jit(lambda params: jaxgen.log_prob(gaussian.model, params, FRAME))
    np.testing.assert_allclose(pure(gaussian.params), gaussian.log_prob(X), rtol=1e-5)


def test_fields_follow_from_data():
    template = models.GaussianMixture(components=3)
    assert isinstance(template, Template)
    assert template == models.GaussianMixture(components=3) != models.GaussianMixture(components=4)
    assert hash(template) == hash(models.GaussianMixture(components=3))
    assert pickle.loads(pickle.dumps(template)) == copy.deepcopy(template) == template
    assert template.for_data(X) == models.GaussianMixture(3, components=3)
    nested = compose.PerClass(compose.Mixture(models.Gaussian(), 2))
    assert nested.for_data(X, KINDS) == compose.PerClass(compose.Mixture(models.Gaussian(3), 2), 3)
    images = np.zeros((4, 5, 6), int)
    assert models.Bernoulli().for_data(images) == models.Bernoulli((5, 6))
    with pytest.raises(AttributeError, match="no log_prob before jaxgen"):
        template.log_prob(None, X[0])
    with pytest.raises(ValueError, match=r"dim does not follow.*must have shape \(n, dim\)"):
        jaxgen.fit(template, X[:, 0], key=KEY)
    with pytest.raises(ValueError, match=r"classes does not follow.*y is missing"):
        jaxgen.fit(compose.PerClass(models.Box()), X, key=KEY)
    with pytest.raises(TypeError, match="components"):
        models.GaussianMixture()
    with pytest.raises(TypeError, match="component"):
        models.GaussianMixture(component=3)


def test_names_of_values():
    assert dataframes.name_of(FRAME["a"]) == "a"
    assert dataframes.name_of(X) is None
    assert dataframes.categories_of(pa.array(KINDS)) is None
