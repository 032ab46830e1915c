"""Tables in memory: names of columns and labels travel from fit to every answer."""

import copy
import pickle

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import jaxgen
from jaxgen import compose, models
from jaxgen.core import dataframes
from jaxgen.core.template import Template
from jaxgen.training import frames

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
    assert np.isfinite(done.to_numpy(float)).all()
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


def test_masks_in_columns_are_missing_values(gaussian):
    masked = np.ma.array(X[:, 1], mask=np.arange(60) == 5)
    table = {"a": X[:, 0], "b": masked, "c": X[:, 2]}
    blank = X.copy()
    blank[5, 1] = np.nan
    np.testing.assert_array_equal(gaussian.log_prob(table), gaussian.log_prob(blank))


def test_names_that_clash_are_kept_apart():
    frame = FRAME.rename(columns={"a": "y", "b": "component"})
    model = compose.PerClass(models.Box())
    fitted = jaxgen.fit(model, frame, np.arange(60) % 2, key=KEY)
    draws = fitted.sample(KEY, 4, as_frame=True)
    assert list(draws.columns) == ["y", "component", "c", "y_"]
    mixture = jaxgen.fit(models.GaussianMixture(components=2), frame, key=KEY, epochs=1)
    draws = mixture.sample(KEY, 4, as_frame=True, with_labels=True)
    assert list(draws.columns) == ["y", "component", "c", "component_"]


def test_components_of_a_conditional_mixture_stand_beside_its_conditions():
    mixture = compose.MixtureGeneral((models.Gaussian(3), models.Gaussian(3)))
    flow = models.SplineCoupling(3, layers=1, width=4, depth=1, y_shape=())
    mixture = compose.MixtureGeneral((models.Gaussian(3), flow))
    fitted = jaxgen.Fitted(mixture, mixture.init(KEY), y_columns=("age",))
    draws = fitted.sample(KEY, 3, 40.0, as_frame=True, with_labels=True)
    assert list(draws.columns) == ["x0", "x1", "x2", "age", "component"]
    np.testing.assert_array_equal(draws["age"], 40.0)


def test_a_row_of_a_frame_is_one_condition_by_name():
    flow = models.SplineCoupling(2, layers=1, width=4, depth=1, y_shape=(2,))
    fitted = jaxgen.Fitted(flow, flow.init(KEY), y_columns=("c", "d"))
    row = pd.DataFrame({"d": [1.0], "c": [-3.0]}).iloc[0]
    np.testing.assert_array_equal(fitted.sample(KEY, 3, row), fitted.sample(KEY, 3, [-3.0, 1.0]))


BAD_LABELS = {
    "NaN": (KINDS.astype(object), None, "y must be known, but is missing in row 2"),
    "NA": (KINDS.astype(object), pd.NA, "y must be known, but is missing in row 2"),
    "float": (np.arange(60) % 3, np.nan, "y must be known, but is missing in row 2"),
}


@pytest.mark.parametrize("case", BAD_LABELS)
def test_a_missing_label_is_named(labelled, case):
    labels, value, text = BAD_LABELS[case]
    labels = pd.Series(labels, dtype=None if case == "float" else object)
    labels[2] = value
    with pytest.raises(ValueError, match=text):
        jaxgen.fit(compose.PerClass(models.Box()), FRAME, labels, key=KEY)
    with pytest.raises(ValueError, match=text):
        labelled.log_prob(FRAME, labels)


@pytest.mark.parametrize("dtype", [bool, object, "boolean", "category", "Int64"])
def test_bools_and_whole_numbers_are_labels(dtype, tmp_path):
    labels = pd.Series(np.arange(60) % 2 == 1)
    labels = labels.astype(int if dtype in (object, "Int64") else bool).astype(dtype)
    fitted = jaxgen.fit(compose.PerClass(models.Box()), FRAME, labels, key=KEY)
    assert fitted.labels == (0, 1)
    assert type(fitted.labels[0]) is (int if dtype in (object, "Int64") else bool)
    fitted.save(tmp_path / "m")
    loaded = jaxgen.load(tmp_path / "m")
    assert list(map(type, loaded.labels)) == list(map(type, fitted.labels))
    np.testing.assert_array_equal(loaded.log_prob(X, labels), fitted.log_prob(X, np.arange(60) % 2))
    best = np.array(loaded.labels)[loaded.classify(X).argmax(-1)]
    assert best.dtype.kind == ("i" if dtype in (object, "Int64") else "b")
    drawn = loaded.sample(KEY, 4, as_frame=True)["y"]
    assert drawn.dtype == best.dtype


BAD_NAMES = {
    "numbered from 1": FRAME.set_axis([1, 2, 3], axis=1),
    "numbered in another order": pd.DataFrame(X)[[1, 0, 2]],
    "two levels": FRAME.set_axis(pd.MultiIndex.from_tuples([("a", k) for k in "xyz"]), axis=1),
    "a dict of numbers": {0: X[:, 0], 1: X[:, 1], 2: X[:, 2]},
}


@pytest.mark.parametrize("case", BAD_NAMES)
def test_columns_that_are_neither_named_nor_numbered_are_refused(gaussian, case):
    for call in (gaussian.log_prob, lambda x: jaxgen.fit(models.Box(), x, key=KEY)):
        with pytest.raises(TypeError, match="columns named by strings"):
            call(BAD_NAMES[case])


def test_columns_of_other_lengths_are_refused(gaussian):
    with pytest.raises(ValueError, match="as many rows in each column; 'a' has 60, 'b' has 1"):
        gaussian.log_prob({"a": X[:, 0], "b": [1.0], "c": 0.0})


def test_fit_each_matches_columns_by_name():
    flow = models.SplineCoupling(layers=1, width=4, depth=1)
    both = jaxgen.fit_each(flow, [FRAME, FRAME[["c", "b", "a"]]], key=KEY, epochs=1)
    assert both.columns == NAMES
    shift = both.params["frame"]["x"]["shift"]
    np.testing.assert_array_equal(shift[0], shift[1])


def test_criteria_count_weights(gaussian):
    weights = np.arange(60) % 3
    rows = np.repeat(X, weights, 0)
    assert gaussian.bic(X, weights=weights) == pytest.approx(gaussian.bic(rows), rel=1e-5)
    assert gaussian.aic(X, weights=weights) == pytest.approx(gaussian.aic(rows), rel=1e-5)


class OptionalClasses(models.Box):
    classes: int | None = None


class OtherInit(models.Box):
    def __init__(self, size: int = 3):
        super().__init__(size)


class Roundness(models.Box):
    shape: float = None


def test_only_fields_that_are_left_out_follow_from_data():
    assert OptionalClasses(2) == OptionalClasses(2, 0.0, None)
    assert OtherInit().dim == 3
    with pytest.raises(TypeError):
        Roundness(2)


BLANKS = pd.DataFrame(
    {
        "income": np.arange(60) ** 2 * 10**6 + 852_117_983,
        "age": np.where(np.arange(60) == 3, np.nan, X[:, 1]),
        "children": pd.array([1, None, 3] * 20, dtype="Int64"),
        "size": X[:, 0].astype(np.float32),
    },
    index=np.arange(60) + 7,
)
FORMS = {
    "pandas": lambda frame: frame,
    "arrow dtypes": lambda frame: frame.convert_dtypes(dtype_backend="pyarrow"),
    "polars": pl.from_pandas,
    "pyarrow": lambda frame: pa.Table.from_pandas(frame, preserve_index=False),
    "dict": lambda frame: {name: frame[name].to_numpy() for name in frame},
    "masked": lambda frame: {
        name: np.ma.masked_invalid(frame[name].to_numpy(float, na_value=np.nan))
        if k
        else frame[name]
        for k, name in enumerate(frame)
    },
    "array": lambda frame: frame.to_numpy(float, na_value=np.nan),
}


@pytest.fixture(scope="module")
def incomes():
    return jaxgen.fit(models.Gaussian(), BLANKS, key=KEY, epochs=2)


@pytest.mark.parametrize("form", FORMS)
def test_imputed_frames_keep_the_values_given(incomes, form):
    table = FORMS[form](BLANKS)
    done = incomes.impute(table, KEY, as_frame=True)
    drawn = np.asarray(incomes.impute(table, KEY))
    if form != "array":
        income = table["income"]
        assert str(done["income"].dtype) == (
            str(income.dtype) if form == "arrow dtypes" else "int64"
        )
        size = {"arrow dtypes": "float[pyarrow]", "masked": "float64"}.get(form, "float32")
        assert str(done["size"].dtype) == size
    assert done.index.equals(BLANKS.index if hasattr(table, "iloc") else pd.RangeIndex(60))
    for j, name in enumerate(BLANKS):
        given = BLANKS[name].notna().to_numpy()
        values = done[name].to_numpy(float)
        np.testing.assert_array_equal(values[given], BLANKS[name][given].to_numpy(float))
        np.testing.assert_array_equal(values[~given], drawn[~given, j])


def test_whole_draws_stay_in_a_column_of_ints():
    bits = pd.DataFrame({"a": pd.array([1, None, 0] * 4, dtype="Int64"), "b": [1.0, 0.0, 1.0] * 4})
    column = frames.filled(bits["a"], np.ones(12, np.float32))
    assert column.dtype == "Int64"
    assert list(column[:3]) == [1, 1, 0]
    assert frames.filled(bits["a"], np.full(12, 0.5)).dtype == "Float64"
    assert frames.filled(bits["b"], np.ones(12)).equals(bits["b"])


def treatment(dose, arm, sex, clinic, response=None):
    shift = numpyro.sample("shift", dist.Normal(0, 1).expand([2]).to_event(1))
    with numpyro.plate("rows", len(dose)):
        mean = shift[arm] * dose + sex + 0.1 * clinic
        numpyro.sample("response", dist.Normal(mean, 1.0), obs=response)


PATIENTS = pd.DataFrame(
    {
        "dose": np.arange(12) / 7,
        "arm": pd.Categorical(["b", "a", "b"] * 4, categories=["b", "a"], ordered=True),
        "sex": np.arange(12) % 3 == 0,
        "clinic": np.arange(12) % 5,
    }
)
CONDITIONS = {
    "a frame": lambda frame: frame.sample(3, random_state=0)[["clinic", "sex", "arm", "dose"]],
    "polars": lambda frame: pl.from_pandas(frame[:3]),
    "arrays": lambda frame: {name: frame[name].to_numpy()[:3] for name in frame},
    "one of each": lambda frame: {"dose": 0.5, "arm": "a", "sex": True, "clinic": 3},
    "a row": lambda frame: frame.iloc[1],
}


@pytest.mark.parametrize("kind", CONDITIONS)
def test_frames_hold_covariates_as_they_were_given(kind):
    program = jaxgen.numpyro.from_program(treatment, covariates=PATIENTS, observed="response")
    fitted = jaxgen.Fitted(program, program.init(KEY), columns=("response",))
    y = CONDITIONS[kind](PATIENTS)
    draws = fitted.sample(KEY, 3, y, as_frame=True)
    assert list(draws.columns) == ["response", *PATIENTS]
    for name in PATIENTS:
        assert list(draws[name]) == list(np.broadcast_to(np.asarray(y[name]), 3))
        if hasattr(y, "dtypes") and kind != "a row" and kind != "polars":
            assert draws[name].dtype == y[name].dtype
    assert [draws[name].dtype.kind for name in ("dose", "sex", "clinic")] == ["f", "b", "i"]
    again = fitted.log_prob(draws, draws)  # the frame can be fed back
    np.testing.assert_allclose(again, fitted.log_prob(draws["response"].to_numpy(), y), rtol=1e-6)


def test_frames_hold_conditions_and_categories_as_they_were_given(labelled):
    flow = models.SplineCoupling(2, layers=1, width=4, depth=1, y_shape=(2,))
    fitted = jaxgen.Fitted(flow, flow.init(KEY), columns=("a", "b"), y_columns=("c", "d"))
    for y, kinds in (
        ({"d": [True, False, True], "c": 16_777_217}, "ib"),
        (pd.DataFrame({"d": [1.5, 2.5, 3.5], "c": [1, 2, 3]}), "if"),
        (np.arange(6).reshape(3, 2), "ii"),
        ([1, 2], "ii"),
    ):
        draws = fitted.sample(KEY, 3, y, as_frame=True)
        assert "".join(draws[name].dtype.kind for name in "cd") == kinds
        np.testing.assert_array_equal(fitted.log_prob(draws, draws), fitted.log_prob(draws, y))
    assert list(labelled.sample(KEY, 4, as_frame=True)["segment"].dtype.categories) == [
        "low", "mid", "high",
    ]  # fmt: skip
    given = SEGMENT.astype(pd.CategoricalDtype(["low", "mid", "high"], ordered=True))[20:24]
    held = labelled.sample(KEY, 4, given, as_frame=True)["segment"]
    assert held.dtype == given.dtype
    assert list(held) == list(given)
