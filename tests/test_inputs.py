"""Malformed inputs: each raises one TypeError or ValueError that names the argument.

The tests cross every row of tests/cases.py with fit, log_prob and sample. No params are computed:
an input is checked before the model is called.
"""

import pickle

import jax
import numpy as np
import polars as pl
import pytest
import scipy.sparse
from cases import CASES

from jaxgen import Fitted
from jaxgen import log_prob as pure_log_prob
from jaxgen import sample as pure_sample
from jaxgen.bijectors import Permute
from jaxgen.compose import PerClass, Product, Transformed
from jaxgen.core import inputs
from jaxgen.models import Bernoulli, Box, Gaussian, Histogram
from jaxgen.training import fit

KEY = jax.random.key(0)
N = 4


def replaced(x, value):
    x = np.array(x, np.float64)
    x.reshape(N, -1)[2, 0] = value
    return x


BAD_X = {
    "None": lambda x: None,
    "text": lambda x: "0.5",
    "list of text": lambda x: ["a"] * N,
    "dict of text": lambda x: {"x": ["a"] * N},
    "table with another column": lambda x: dict.fromkeys(
        map(str, range(x[0].size + 1)), np.ones(N)
    ),
    "ragged": lambda x: [[1.0], [1.0, 2.0], [3.0]],
    "objects": lambda x: np.array([object()] * N),
    "complex": lambda x: x.astype(complex),
    "dates": lambda x: np.zeros(x.shape, "datetime64[s]"),
    "one event, no batch": lambda x: x[0],
    "wrong width": lambda x: np.concatenate([x, x], -1) if x.ndim > 1 else np.float64(1.0),
    "bytes": lambda x: np.zeros(x.shape, "S1"),
}
BAD_TRAINING_X = {
    **BAD_X,
    "NaN": lambda x: replaced(x, np.nan),
    "inf": lambda x: replaced(x, np.inf),
    "-inf": lambda x: replaced(x, -np.inf),
    "empty": lambda x: x[:0],
    "two batch axes": lambda x: x[None],
}
BAD_KEYS = {
    "int": 0,
    "None": None,
    "float": 0.5,
    "text": "seed",
    "several keys": jax.random.split(KEY, 3),
    "seed array": np.arange(3),
}
BAD_COUNTS = {"float": 2.0, "bool": True, "negative": -1, "text": "3", "None": None}
BAD_WEIGHTS = {
    "negative": -np.ones(N),
    "one negative": np.r_[-1.0, np.full(N - 1, 2.0)],
    "too few": np.ones(N - 1),
    "all zero": np.zeros(N),
    "NaN": np.full(N, np.nan),
    "inf": np.full(N, np.inf),
    "text": ["a"] * N,
    "a column": np.ones((N, 1)),
}


@pytest.fixture(params=CASES, ids=lambda case: case.name, scope="module")
def row(request):
    """A model with params of the right shapes, events in its support, and matching conditions."""
    case = request.param
    x = np.zeros((N, *case.model.event_shape))
    x = np.asarray(case.model.support.feasible_like(x), np.float64)
    y = None if case.y is None else np.zeros((N, *case.model.y_shape))
    y = y if case.model.classes is None else np.arange(N) % case.model.classes
    params = jax.eval_shape(case.model.init, KEY)
    zeros = jax.tree_util.tree_map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), params)
    return Fitted(case.model, zeros), x, y


def refused(name, call):
    with pytest.raises((TypeError, ValueError), match=rf"\b{name}\b") as caught:
        call()
    assert type(caught.value) in (TypeError, ValueError)
    assert len(str(caught.value)) < 500


def bad_conditions(fitted, known=False):
    """Conditions that must be refused.

    known: whether the call accepts a missing y where the model knows p(y).
    """
    if fitted.model.y_shape is None:
        return {"surplus": np.zeros(N), "surplus scalar": 0}
    shape = fitted.model.y_shape
    missing = {} if known and fitted.model.classes is not None else {"missing": None}
    return {
        **missing,
        "wrong rows": np.zeros((N + 1, *shape)),
        "wrong width": np.zeros((N, *shape[:-1], 1 + sum(shape[-1:]))),
        "text": np.full((N, *shape), "a"),
        "ragged": [[1.0], [1.0, 2.0]],
    }


def test_log_prob_refuses(row):
    fitted, x, y = row
    for bad in BAD_X.values():
        refused("x", lambda bad=bad: fitted.log_prob(bad(x), y))
        refused("x", lambda bad=bad: pure_log_prob(fitted.model, fitted.params, bad(x), y))
    for bad in bad_conditions(fitted, known=True).values():
        refused("y", lambda bad=bad: fitted.log_prob(x, bad))


def test_sample_refuses(row):
    fitted, _, y = row
    for key in BAD_KEYS.values():
        refused("key", lambda key=key: fitted.sample(key, N, y))
        refused("key", lambda key=key: pure_sample(fitted.model, fitted.params, key, N, y))
    for n in BAD_COUNTS.values():
        refused("n", lambda n=n: fitted.sample(KEY, n, y))
    for bad in bad_conditions(fitted, known=True).values():
        refused("y", lambda bad=bad: fitted.sample(KEY, N, bad))


def test_fit_refuses(row):
    fitted, x, y = row
    model = fitted.model
    for name, bad in BAD_TRAINING_X.items():
        if name == "NaN" and model.learning.missing is not None and x[0].size > 1:
            continue  # a missing value
        refused("x", lambda bad=bad: fit(model, bad(x), y, key=KEY))
    for bad in bad_conditions(fitted).values():
        refused("y", lambda bad=bad: fit(model, x, bad, key=KEY))
    for weights in BAD_WEIGHTS.values():
        refused("weights", lambda weights=weights: fit(model, x, y, key=KEY, weights=weights))
    for key in BAD_KEYS.values():
        refused("key", lambda key=key: fit(model, x, y, key=key))


def test_fit_refuses_data_outside_the_support(row):
    fitted, x, y = row
    outside = replaced(x, -1000.5)
    if np.asarray(fitted.model.support(outside)).all():
        pytest.skip("every number is in the support")
    refused("x", lambda: fit(fitted.model, outside, y, key=KEY))


def test_fit_refuses_what_is_no_model():
    refused("model", lambda: fit(Gaussian, np.zeros((3, 2)), key=KEY))


def test_fit_refuses_data_outside_given_bounds():
    model = Histogram((4,), bounds=((0.0, 1.0),))
    refused("x", lambda: fit(model, np.array([[0.5], [1.5]]), key=KEY))


def copied(x, column):
    """x with a constant column."""
    x = np.array(x)
    x[:, column] = 1.5
    return x


UNIT = np.random.default_rng(0).uniform(0.2, 0.8, (4, 3))
IN_TWO = Product((Gaussian(1, jitter=0.0), Box(2)))
TURNED = Transformed(Box(3), Permute((2, 0, 1)))
KINDS = np.array(["pear", "fig", "pear", "fig"])
FAR = np.array([[0, 0, 1e8], [1, 0, 1e8 + 0.1], [2, 1, 1e8 + 0.2], [3, 1, 1e8 + 0.3]])


@pytest.mark.parametrize(
    ("model", "x", "y", "why", "named"),
    [
        (Box(3), copied(UNIT, 2), None, "constant in feature 2:", "constant in column 'c':"),
        (IN_TWO, copied(UNIT, 2), None, "constant in feature 2:", "constant in column 'c':"),
        (TURNED, copied(UNIT, 2), None, "constant in feature 2:", "constant in column 'c':"),
        (Gaussian(3), replaced(UNIT, np.inf), None, r"\(row 2 in feature 0\)", "'a'"),
        (Gaussian(3), FAR, None, "values in feature 2 lie", "values in column 'c' lie"),
        (Gaussian(3), 1e39 * UNIT, None, "but row 0 in feature 0 holds", "column 'a' holds"),
        (Bernoulli((3,)), UNIT, None, "row 0 in feature 0 is outside", "column 'a' is outside"),
        (PerClass(Box(3), 2), copied(UNIT, 1), KINDS,
         "events of label 'fig': x is constant in feature 1:", "column 'b'"),
        (PerClass(Box(3), 2), copied(UNIT, 1), np.array([0, 1, 0, 1]),
         "events of label 0: x is constant in feature 1:", "column 'b'"),
        (PerClass(Box(3), 2), UNIT, np.array(["pear", "pear", "pear", "plum"]), None,
         r"unknown label 'plum'; known are 'fig', 'pear' \(row 3\)"),
    ],
)  # fmt: skip
def test_errors_name_features_rows_and_labels(model, x, y, why, named):
    """Errors use numbers, the labels in y, or the columns and labels of a ``Fitted``."""
    if why is not None:
        with pytest.raises(ValueError, match=why):
            fit(model, x, y, key=KEY)
    params = jax.tree_util.tree_map(np.asarray, model.init(KEY))
    labels = None if y is None or y.dtype.kind != "U" else ("fig", "pear")
    with pytest.raises(ValueError, match=named) as caught:
        fit(Fitted(model, params, columns=("a", "b", "c"), labels=labels), x, y, key=KEY)
    assert type(caught.value) is ValueError
    again = pickle.loads(pickle.dumps(caught.value))
    assert str(again) == str(caught.value)


@pytest.mark.parametrize("row", [0, 3])
def test_rows_of_a_class_keep_their_numbers(row):
    """Errors name rows by their number in x, also after rows without weight."""
    model = PerClass(Histogram((2,), bounds=((0.0, 1.0),)), 2)
    x, weights = np.full((5, 1), 0.5), np.array([1.0, 1, 0, 1, 1])
    x[row] = 2
    with pytest.raises(ValueError, match=f"; row {row} in feature 0 does not"):
        fit(model, x, np.array([1, 0, 0, 1, 0]), weights=weights, key=KEY)


# unusual inputs that are valid


def test_legacy_keys_are_wrapped():
    legacy = jax.random.PRNGKey(7)
    assert inputs.as_key(legacy) == jax.random.key(7)


def test_unusual_x_is_accepted(tmp_path):
    model = Gaussian(2)
    fitted = Fitted(model, {"mean": np.zeros(2, np.float32), "scale_tril": np.eye(2, dtype="f4")})
    wanted = np.asarray(fitted.log_prob(np.array([[0.0, 1.0]] * 3)))
    path = tmp_path / "x.npy"
    np.save(path, np.array([[0.0, 1.0]] * 3))
    frozen = np.array([[0.0, 1.0]] * 3)
    frozen.flags.writeable = False
    for x in (
        [[0, 1]] * 3,
        np.array([[0, 1]] * 3, np.uint8),
        np.array([[False, True]] * 3),
        np.array([[0.0, 1.0]] * 3, np.float16),
        np.load(path, mmap_mode="r"),
        frozen,
        np.array([[0.0, 9.0, 1.0, 9.0]] * 3)[:, ::2],
    ):
        np.testing.assert_array_equal(fitted.log_prob(x), wanted)
    assert fitted.log_prob(np.zeros((0, 2))).shape == (0,)
    assert fitted.sample(KEY, np.int64(0)).shape == (0, 2)


def test_float_conditions_are_cast_and_labels_stay_integers():
    class Takes(Gaussian):
        y_shape = ()

    assert inputs.as_conditions(Takes(1), np.float64(1), (3,), np.float32).dtype == np.float32
    assert inputs.as_conditions(Takes(1), np.arange(3), (3,), np.float32).dtype == np.int32


NOT_READ = {
    "a LazyFrame: call its .collect": lambda x: pl.DataFrame(x).lazy(),
    "a list of dicts: make a table": lambda x: [{"a": 1.0, "b": 2.0}] * 3,
    "a csr_array: call its .toarray": scipy.sparse.csr_array,
    "dtype key<fry>": lambda x: jax.random.split(KEY, 3),
}


@pytest.mark.parametrize("hint", NOT_READ)
def test_what_has_to_be_converted_first_is_named(hint):
    x = NOT_READ[hint](np.arange(6.0).reshape(3, 2))
    fitted = Fitted(Gaussian(2), {"mean": np.zeros(2), "scale_tril": np.eye(2)})
    for call in (
        lambda: fitted.log_prob(x),
        lambda: fit(Gaussian(2), x, key=KEY),
        lambda: fit(Gaussian(), x, key=KEY),
    ):
        with pytest.raises(TypeError, match=f"x must be an array of numbers, got {hint}"):
            call()
