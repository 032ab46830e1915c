"""N-grams with Kneser-Ney smoothing: ``models.NGram``."""

import collections
import functools
import itertools

import jax
import numpy as np
import pytest

import jaxgen
from jaxgen import Fitted, compose, domains, models
from jaxgen.core import block_sizes
from jaxgen.training.rows import pad

KEY = jax.random.key(19)
RNG = np.random.default_rng(19)
WORDS = ["abca", "ab", "cab", "abc", "bca", "", "aab", "abba", "cc", "abca", "b", "bcab", "ca", "a"]
STREAM = "abcabbacabcaacbabcabcbaabccab"
GOLDEN_SCORES = [-2.901214, -1.982278, -4.407122, -8.003184]
GOLDEN_DRAWS = ["abb$", "abc$", "bcaa", "cacb", "a$$$", "ca$$"]
EVERY = np.array(list(itertools.product(range(4), repeat=4)))  # of 3 tokens and an end


def tokens(words, length):
    """Texts of the letters a, b, c as events with an end."""
    return np.array([[*("abc".index(c) for c in w), *[3] * (length - len(w))] for w in words])


def stream(text):
    return np.array([["abc".index(c) for c in text]])


@functools.cache
def fitted(order=3, modified=True):
    return jaxgen.fit(models.NGram(4, 3, order, modified=modified), tokens(WORDS, 4), key=KEY)


class KneserNey:
    """The formulas of Chen and Goodman, with dictionaries of n-grams as text.

    Args:
      texts: with "^" at the start and "$" at the end, or without them if they are of a stream.
    """

    def __init__(self, texts, order, outputs, modified):
        self.order, self.outputs = order, outputs
        times, before = collections.Counter(), collections.defaultdict(set)
        for text in texts:
            for end, length in itertools.product(range(len(text) + 1), range(1, order + 1)):
                if end >= length:
                    gram = text[end - length : end]
                    times[gram] += 1
                    before[gram].add(text[end - length - 1] if end > length else "none")
        self.counts = {
            gram: n if len(gram) == order or gram[0] == "^" else len(before[gram])
            for gram, n in times.items()
            if gram[-1] != "^"
        }
        self.discounts = {k: self._discounts(k, modified) for k in range(1, order + 1)}

    def _discounts(self, length, modified):
        n = collections.Counter(c for g, c in self.counts.items() if len(g) == length)
        try:
            y = n[1] / (n[1] + 2 * n[2])
            found = [1 - 2 * y * n[2] / n[1], 2 - 3 * y * n[3] / n[2], 3 - 4 * y * n[4] / n[3]]
        except ZeroDivisionError:
            found = [0, 0, 0]
        if not modified:
            found = [y] * 3 if n[1] and n[2] else [0] * 3
        if not all(0 < d < k for k, d in enumerate(found, 1)):
            found = [0.5, 1, 1.5] if modified else [0.5] * 3
        return found

    def prob(self, context, token):
        lower = self.prob(context[1:], token) if context else 1 / self.outputs
        follow = {g: n for g, n in self.counts.items() if g[:-1] == context}
        if not follow:
            return lower
        d = lambda n: self.discounts[len(context) + 1][min(n, 3) - 1]  # noqa: E731
        total, n = sum(follow.values()), follow.get(context + token, 0)
        return ((n - d(n) if n else 0) + sum(map(d, follow.values())) * lower) / total

    def log_prob(self, text, start=0):
        width = self.order - 1
        each = [self.prob(text[max(t - width, 0) : t], text[t]) for t in range(start, len(text))]
        return sum(np.log(each))


@pytest.mark.parametrize("modified", [True, False])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_scores_are_those_of_the_formulas(order, modified):
    texts = [f"^{word}{'$' if len(word) < 4 else ''}" for word in WORDS]
    reference = KneserNey(texts, order, 4, modified)
    found = np.asarray(fitted(order, modified).log_prob(EVERY), np.float64)
    possible = np.isfinite(found)
    wanted = []
    for event in EVERY[possible]:
        word = "".join("abc"[i] for i in event if i < 3)
        wanted.append(reference.log_prob(f"^{word}{'$' if len(word) < 4 else ''}", 1))
    assert possible.sum() == sum(3**k for k in range(5))
    np.testing.assert_allclose(found[possible], wanted, rtol=2e-6)
    assert np.exp(found).sum() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("modified", [True, False])
def test_scores_of_a_stream_are_those_of_the_formulas(modified):
    model = models.NGram(len(STREAM), 3, order=4, stop=False, modified=modified)
    found = jaxgen.fit(model, stream(STREAM), key=KEY)
    reference = KneserNey([STREAM], 4, 3, modified)
    for text in (STREAM, STREAM[::-1]):
        score = float(found.log_prob(stream(text))[0])
        assert score == pytest.approx(reference.log_prob(text), rel=2e-6)


def test_discounts_are_estimated_where_the_counts_allow():
    """Else the other tests would see no more than the constants."""
    words = ["".join(w) for w in RNG.choice(list("abc"), (60, 7))]
    reference = KneserNey([f"^{w}" for w in words], 5, 4, True)
    assert reference.discounts[4] != [0.5, 1, 1.5] != reference.discounts[5]
    model = jaxgen.fit(models.NGram(7, 3, order=5), tokens(words, 7), key=KEY)
    found = np.asarray(model.log_prob(tokens(words[:9], 7)))
    wanted = [reference.log_prob(f"^{w}", 1) for w in words[:9]]
    np.testing.assert_allclose(found, wanted, rtol=2e-6)


def test_golden_scores_and_draws():
    scores = fitted().log_prob(tokens(["abca", "", "cab", "bbb"], 4))
    np.testing.assert_allclose(scores, GOLDEN_SCORES, rtol=1e-5)
    draws = ["".join("abc$"[i] for i in row) for row in np.asarray(fitted().sample(KEY, 6))]
    assert draws == GOLDEN_DRAWS


def test_scores_of_tokens_add_up_and_are_zero_after_the_end():
    model, params = fitted().model, fitted().params
    x = tokens(["abca", "ab", ""], 4)
    each = np.stack([model.traits.token_log_probs(params, row) for row in x.astype(np.float32)])
    np.testing.assert_allclose(each.sum(1), fitted().log_prob(x), rtol=1e-6)
    assert ((each == 0) == [[0, 0, 0, 0], [0, 0, 0, 1], [0, 1, 1, 1]]).all()


@pytest.mark.parametrize(("prompt", "rest"), [("ab", ["", "a", "cb"]), ("c", ["aa", "b", ""])])
def test_given_the_first_tokens_the_rest_has_its_conditional(prompt, rest):
    begun = fitted().given({j: "abc".index(c) for j, c in reversed(list(enumerate(prompt)))})
    first = fitted().marginal(range(len(prompt)))
    joint = fitted().log_prob(tokens([prompt + r for r in rest], 4))
    alone = first.log_prob(tokens([prompt], len(prompt)))
    events = tokens(rest, 4 - len(prompt))
    np.testing.assert_allclose(begun.log_prob(events), joint - alone, rtol=1e-5)
    every = np.array(list(itertools.product(range(4), repeat=4 - len(prompt))))
    p = np.exp(np.asarray(begun.log_prob(every), np.float64))
    assert p.sum() == pytest.approx(1, abs=1e-5)
    draws = np.asarray(begun.sample(KEY, 20_000))
    shares = np.array([(draws == event).all(1).mean() for event in every])
    np.testing.assert_allclose(shares, p, atol=0.015)


def test_nothing_follows_a_prompt_with_the_end():
    begun = fitted().given({0: 1, 1: 3})
    np.testing.assert_array_equal(begun.sample(KEY, 5), np.full((5, 2), 3))
    np.testing.assert_array_equal(begun.log_prob([[3, 3], [0, 3]]), [0, -np.inf])


def test_a_prompt_is_given_after_a_fit():
    with pytest.raises(ValueError, match="fit the model without a prompt"):
        jaxgen.fit(models.NGram(4, 3, prompt=1), tokens(WORDS, 4)[:, 1:], key=KEY)


def test_parts_are_first_tokens():
    for part in (lambda: fitted().marginal((1, 2)), lambda: fitted().given({2: 0})):
        with pytest.raises(NotImplementedError):
            part()


def test_each_label_has_its_own_counts():
    x, y = tokens(WORDS, 4), np.arange(len(WORDS)) % 2
    both = jaxgen.fit(compose.Labelled(models.NGram(4, 3, order=2), 2), x, y, key=KEY)
    for label in (0, 1):
        one = jaxgen.fit(models.NGram(4, 3, order=2), x[y == label], key=KEY)
        scores = both.log_prob(EVERY, np.full(len(EVERY), label))
        np.testing.assert_allclose(scores, one.log_prob(EVERY), rtol=1e-5)
        shares = np.asarray(both.sample(KEY, 20_000, label))[:, 0]
        p = np.exp(one.marginal((0,)).log_prob(np.arange(4)[:, None]))
        np.testing.assert_allclose(np.bincount(shares, minlength=4) / 20_000, p, atol=0.015)
    classify = np.exp(both.classify(x))
    assert classify[np.arange(len(y)), y].mean() > 0.6


@pytest.mark.parametrize(
    "condition",
    [
        {"y_shape": (2,)},
        {"y_shape": ()},
        {"y_shape": (), "y_domain": domains.Real()},
        {"y_shape": (2,), "y_domain": domains.Levels(2)},
        {"y_domain": domains.Levels(2)},
    ],
)
def test_conditions_other_than_labels_are_refused(condition):
    with pytest.raises(ValueError, match="a condition must be a label, with y_shape"):
        models.NGram(4, 3, **condition)


def test_models_side_by_side_are_refused():
    x = tokens([*WORDS, *2000 * ["a"]], 9) % 4
    x[: len(WORDS)] = tokens(WORDS, 9)
    y = np.arange(len(x)) >= len(WORDS)
    x[y] = np.sort(RNG.integers(0, 4, (y.sum(), 9)))
    with pytest.raises(ValueError, match="their sizes depend on the data"):
        jaxgen.fit(compose.PerClass(models.NGram(9, 3), 2), x, y.astype(int), key=KEY)
    with pytest.raises(NotImplementedError, match="not by EM as a component"):
        jaxgen.fit(compose.Mixture(models.NGram(4, 3), 2), tokens(WORDS, 4), key=KEY)


def test_a_weight_counts_as_equal_events():
    x, times = tokens(WORDS, 4), RNG.integers(0, 4, len(WORDS))
    model = models.NGram(4, 3, order=3)
    weighted = model.estimate(x, None, times.astype(float))
    repeated = model.estimate(x.repeat(times, 0))
    jax.tree_util.tree_map(np.testing.assert_array_equal, weighted, repeated)
    fraction = Fitted(model, model.estimate(x, None, RNG.random(len(x))))
    assert np.exp(fraction.log_prob(EVERY)).sum() == pytest.approx(1, abs=1e-5)


def test_without_data_all_tokens_are_equally_likely():
    model = models.NGram(4, 3, order=3)
    empty = Fitted(model, model.init(KEY))
    np.testing.assert_allclose(
        empty.log_prob([[0, 2, 1, 0], [1, 3, 3, 3]]), np.log([4.0**-4, 4.0**-2])
    )
    shares = np.bincount(np.asarray(empty.sample(KEY, 20_000))[:, 0], minlength=4) / 20_000
    np.testing.assert_allclose(shares, 0.25, atol=0.015)


@pytest.mark.parametrize("stop", [True, False])
def test_an_order_above_the_length_is_that_of_the_longest_event(stop):
    x = RNG.choice(3, (50, 1), p=[0.6, 0.3, 0.1])
    long = jaxgen.fit(models.NGram(1, 3, order=7, stop=stop), x, key=KEY)
    counts = np.bincount(x[:, 0], minlength=3)
    p = np.exp(long.log_prob(np.arange(3)[:, None]))
    np.testing.assert_allclose(p, counts / 50, atol=0.04)
    shares = np.bincount(np.asarray(long.sample(KEY, 20_000))[:, 0], minlength=4)[:3] / 20_000
    np.testing.assert_allclose(shares, p, atol=0.015)


def test_a_long_text_is_not_copied():
    """Padding to 64 rows would take 64 times the time and memory."""
    x = RNG.integers(0, 3, (1, 100_000))
    long = jaxgen.fit(models.NGram(x.shape[1], 3, stop=False), x, key=KEY)
    assert block_sizes.block_size(long.model, long.params, 1, more=long.model.traits.scratch) == 1
    assert len(pad(x.astype(float), None, None).x) == 1
    assert float(long.log_prob(x)[0]) / x.size == pytest.approx(-np.log(3), abs=0.01)
