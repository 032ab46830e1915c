"""Texts and models of sequences at the edges of what they take."""

import re
import time

import jax
import numpy as np
import pytest

import jaxgen
from jaxgen import compose, domains, models, networks
from jaxgen.data import Texts

KEY = jax.random.key(7)
NAMES = ["anna", "bob", "otto", "hanna"]


@pytest.fixture(scope="module")
def fitted():
    return jaxgen.fit(models.NGram(order=2), NAMES, key=KEY)


@pytest.mark.parametrize(
    "fields",
    [
        {"vocabulary": 5},
        {"stop": False},
        {"order": 3},
        {"order": 1},
        {"modified": False},
        {"y_shape": (), "y_domain": (domains.Levels(2),)},
    ],
)
def test_counts_belong_to_some_fields(fitted, fields):
    with pytest.raises(ValueError, match=r"replace: \w+ of NGram cannot change, as params depend"):
        fitted.replace(**fields)
    same = {name: getattr(fitted.model, name) for name in fields}
    assert fitted.replace(**same).model == fitted.model


def test_counts_of_labels_belong_to_some_fields():
    counts = models.NGram(4, 3, order=2, y_shape=(), y_domain=(domains.Levels(2),))
    labelled = jaxgen.Fitted(compose.Labelled(counts, classes=2), {})
    with pytest.raises(ValueError, match="replace: order of NGram cannot change"):
        labelled.replace(order=3)
    assert labelled.replace(length=9).model.event_shape == (9,)


def test_another_network_needs_other_params():
    model = models.Autoregressive(4, 3, networks.Transformer(8, heads=2, layers=1))
    other = networks.Transformer(8, heads=1, layers=1)  # with params of the same shapes
    with pytest.raises(ValueError, match="replace: network of Autoregressive cannot change"):
        jaxgen.Fitted(model, {}).replace(network=other)


def test_a_network_of_sequences_has_a_width():
    class Linear(networks.Network):
        def init(self, key, shape):
            return {"w": jax.random.normal(key, (shape[-1], 5))}

        def apply(self, params, x):
            return x @ params["w"]

    with pytest.raises(TypeError, match="network Linear must have the field width"):
        jaxgen.fit(models.Autoregressive(network=Linear()), NAMES, key=KEY)


def test_the_first_token_alone_compiles_fast():
    # 2 s with a loop; without one minutes, as XLA takes exponential time
    x = np.random.default_rng(0).integers(0, 256, (20, 3))
    fitted = jaxgen.fit(models.NGram(3, 256, order=2), x, key=KEY)
    began = time.perf_counter()
    first = fitted.marginal([0]).log_prob(np.arange(257)[:, None])
    assert time.perf_counter() - began < 8
    assert abs(np.exp(np.asarray(first, np.float64)).sum() - 1) < 1e-5


@pytest.mark.parametrize(
    ("tokens", "stop", "error", "message"),
    [
        ([[0, 1.5]], True, TypeError, "tokens must be whole numbers, got dtype float64"),
        ([[0, np.nan]], True, TypeError, "tokens must be whole numbers"),
        ([[0, 1], [2**33, 1]], True, ValueError, "row 1 has 8589934592 at index 0"),
        ([[0, -1]], True, ValueError, "tokens must be 0 .. 5, and 6 after the last token, for Voc"),
        ([[0, 6, 1]], True, ValueError, "row 0 has 1 at index 2"),
        (
            [[0, 6]],
            False,
            ValueError,
            "tokens must be 0 .. 5, for Vocabulary('characters', size 6)",
        ),
    ],
)
def test_texts_hold_tokens_of_their_vocabulary(fitted, tokens, stop, error, message):
    with pytest.raises(error, match=re.escape(message)):
        Texts(tokens, fitted.vocabulary, stop)
    assert Texts([[0.0, 6.0]], fitted.vocabulary).decode() == ["a"]


@pytest.mark.parametrize("fit", [jaxgen.fit, lambda m, x, key: jaxgen.select([m], x, key=key)])
def test_one_str_is_no_list_of_texts(fit):
    with pytest.raises(TypeError, match=r"x must be a list of texts, got one str: \[text\] is"):
        fit(models.NGram(), "to be or not to be", key=KEY)


def test_n_grams_are_selected_by_held_out_texts():
    with pytest.raises(NotImplementedError, match=r"select\(\.\.\., by='held_out'\)"):
        jaxgen.select([models.NGram(order=1)], NAMES * 5, key=KEY)
