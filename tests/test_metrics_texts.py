"""Measures of texts: bits by brute force, streams in windows, the report and the figure."""

import gzip
import re

import jax
import matplotlib.image
import numpy as np
import pytest

import jaxgen
from jaxgen import compose, models, networks
from jaxgen.data import tokenize
from jaxgen.laws import count_compiles
from jaxgen.metrics import stream_log_probs, text_report, text_scores
from jaxgen.metrics.text_figure import lay_out

KEY = jax.random.key(0)
NAMES = ["anna", "bob", "hannah", "nora", "aaron", "noah", "otto", "ron"] * 4
SEX = ["f", "m", "f", "f", "m", "m", "m", "m"] * 4
TEST = ["hanna", "ro", "", "abbraa", "nonon"]
PROSE = "to be, or not to be: that is the question.\n" * 6 + "whether 'tis nobler\nin the mind. "
OTHER = "the mind is not to question\nto tis nobler or, that: whether be in. " * 9
LENGTH = 12


def _bits(nats):
    return -np.asarray(nats, np.float64) / np.log(2)


@pytest.fixture(scope="module")
def names():
    return jaxgen.fit(models.NGram(order=3), tokenize(NAMES, length=6), key=KEY)


@pytest.fixture(scope="module")
def labelled():
    return jaxgen.fit(compose.Labelled(models.NGram(order=3)), NAMES, SEX, key=KEY)


@pytest.fixture(scope="module")
def streams():
    """Models of a stream: n-grams of one long event, labelled ones, and a transformer."""
    texts = tokenize(PROSE, length=LENGTH)
    ngram = jaxgen.fit(models.NGram(order=4), tokenize(PROSE, length=len(PROSE)), key=KEY)
    by_label = compose.Labelled(models.NGram(order=3))
    y = np.array(["b", "a"])[np.arange(len(texts)) % 2]
    network = networks.Transformer(8, layers=1, heads=2)
    model = models.Autoregressive(LENGTH, texts.vocabulary.size, network, stop=False)
    params = jax.tree_util.tree_map(lambda v: 3 * v, model.init(KEY))  # so that contexts matter
    return {
        "ngram": ngram,
        "labelled": jaxgen.fit(by_label, texts, y, key=KEY),
        "transformer": jaxgen.Fitted(model, params, vocabulary=texts.vocabulary),
    }


def test_bits_are_those_of_each_token(names):
    scores = text_scores(names, TEST)
    assert scores.texts == TEST
    assert scores.pieces[1:3] == [["r", "o", ""], [""]]
    # "hannah" has no end, being as long as a text can be
    assert text_scores(names, ["hannah"]).pieces == [list("hannah")]
    each = np.asarray(names.token_log_probs(TEST))
    for bits, row, text in zip(scores.bits, each, TEST, strict=True):
        size = len(text) + (len(text) < names.model.length)
        np.testing.assert_allclose(bits, _bits(row)[:size], rtol=1e-6)
    np.testing.assert_allclose(scores.total_bits, _bits(names.log_prob(TEST)), rtol=1e-5)
    np.testing.assert_array_equal(scores.characters, [5, 2, 0, 6, 5])
    np.testing.assert_array_equal(scores.tokens, [6, 3, 1, 6, 6])


def test_the_most_surprising_places_come_first(names):
    scores = text_scores(names, TEST)
    found = scores.surprising(None)
    assert [one.bits for one in found] == sorted(np.concatenate(scores.bits), reverse=True)
    for text, place, token, bits, before in found:
        assert scores.bits[text][place] == bits
        assert before == TEST[text][:place]
        assert token == TEST[text][place : place + 1]
    assert scores.surprising(3) == found[:3]
    columns = scores.columns()
    assert columns["place"].tolist() == [i for bits in scores.bits for i in range(len(bits))]
    by_text = [scores.total_bits[i] / max(len(TEST[i]), 1) for i in scores.worst()]
    assert by_text == sorted(by_text, reverse=True)
    lines = str(scores).splitlines()
    assert len(lines) == 11
    assert lines[1].split()[2] == f"{found[0].bits:.2f}"


@pytest.mark.parametrize("name", ["ngram", "labelled", "transformer"])
def test_a_stream_in_windows_is_one_long_event(streams, name):
    """For an Autoregressive model, the event of a model with the same window."""
    fitted = streams[name]
    y = "a" if name == "labelled" else None
    window = {"window": LENGTH} if name == "transformer" else {}
    for text in (OTHER, PROSE[: LENGTH + 1], "to"):
        found = stream_log_probs(fitted, text, y)
        whole = fitted.replace(length=len(text), **(window if len(text) > LENGTH else {}))
        wanted = whole.token_log_probs([text], None if y is None else [y])[0]
        np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_a_stream_of_unknown_label_is_a_mixture(streams):
    """Whose label is that of the whole text, and not of each window."""
    fitted = streams["labelled"]
    whole = fitted.replace(length=len(OTHER))
    found = stream_log_probs(fitted, OTHER)
    assert found.sum() == pytest.approx(float(whole.log_prob([OTHER])[0]), rel=1e-5)
    np.testing.assert_allclose(found, whole.token_log_probs([OTHER])[0], atol=1e-3)


def test_a_stream_compiles_nothing_for_its_length(streams):
    for fitted in (streams["ngram"], streams["transformer"]):
        stream_log_probs(fitted, OTHER)
        with count_compiles() as count:
            for size in (1, 70, 333, 500):
                assert len(stream_log_probs(fitted, OTHER[:size])) == size
        assert count[0] == 0


def test_several_streams_are_scored_each_from_its_start(streams):
    fitted = streams["transformer"]
    texts = [OTHER[:30], "", OTHER[7:12], OTHER]
    scores = text_scores(fitted, texts)
    for text, bits in zip(texts, scores.bits, strict=True):
        wanted = _bits(stream_log_probs(fitted, text)) if text else []
        np.testing.assert_allclose(bits, wanted, atol=1e-5)
    windows = tokenize(OTHER, vocabulary=fitted.vocabulary, length=LENGTH)
    each = np.concatenate(text_scores(fitted, windows).bits)
    np.testing.assert_allclose(each, _bits(fitted.token_log_probs(windows)).ravel(), atol=1e-5)


@pytest.mark.parametrize("by", ["bytes", "merges", "words", "characters"])
def test_pieces_are_whole_characters(by):
    texts = ["good 😀 été", "tab\there\n字", "", "été été good good"]
    size = {"size": 262} if by == "merges" else {}
    fitted = jaxgen.fit(models.NGram(order=2), tokenize(texts, by, **size), key=KEY)
    scores = text_scores(fitted, texts)
    assert ["".join(pieces) for pieces in scores.pieces] == texts
    np.testing.assert_allclose(scores.total_bits, _bits(fitted.log_prob(texts)), rtol=1e-5)
    for text, places, pieces in zip(texts, scores.places, scores.pieces, strict=True):
        tokens = fitted.vocabulary.encode(text)
        assert len(places) == len(pieces)
        for i, (place, piece) in enumerate(zip(places, pieces, strict=True)):
            end = [*places, len(tokens)][i + 1]
            assert fitted.vocabulary.decode(tokens[place:end]) == piece


def test_report_by_hand(names):
    report = text_report(names, TEST, train=NAMES, key=KEY, n=50)
    total, count = -float(np.sum(names.log_prob(TEST))) / np.log(2), sum(map(len, TEST))
    assert report.texts == 5
    assert (report.characters, report.tokens) == (18, 22)
    assert report.bits_per_character == pytest.approx(total / count)
    assert report.nats_per_character == pytest.approx(total / count * np.log(2))
    assert report.bits_per_token == pytest.approx(total / 22)
    assert report.perplexity == pytest.approx(2 ** (total / 22))
    raw, before = ("".join(text + "\n" for text in texts).encode() for texts in (TEST, NAMES))
    assert report.gzip == 8 * len(gzip.compress(raw)) / count
    more = len(gzip.compress(before + raw)) - len(gzip.compress(before))
    assert report.gzip_after_train == 8 * more / count
    ngram = jaxgen.fit(models.NGram(), tokenize(NAMES, length=6), key=KEY)
    assert report.ngram == pytest.approx(-float(np.sum(ngram.log_prob(TEST))) / np.log(2) / count)
    # by leaving out one text at a time
    bits, sizes = report.scores.total_bits, report.scores.characters
    left = (bits.sum() - bits) / (sizes.sum() - sizes)
    jackknife = np.sqrt(4 / 5 * ((left - left.mean()) ** 2).sum())
    assert report.bits_per_character_se == pytest.approx(jackknife, rel=0.2)


def test_draws_beside_texts(names):
    test = ["bob", "bob", "nora", "aa", "hannah"]
    report = text_report(names, test, train=NAMES, key=KEY, n=400)
    drawn = names.sample(jax.random.split(KEY)[0], 400)
    assert report.draws == 400
    assert report.copies == pytest.approx(np.isin(drawn, NAMES).mean())
    assert 0 < report.copies < 1
    assert report.copies_ref == 0.8
    assert report.distinct_ref == 0.8
    counts = np.char.str_len(drawn)
    assert report.lengths[0] == pytest.approx(counts.mean())
    assert report.lengths[1:] == tuple(np.quantile(counts, (0.05, 0.5, 0.95), method="lower"))
    assert report.lengths_ref == (3.6, 2, 3, 6)
    lines = str(report).splitlines()
    assert any(re.match(r"copies of training texts +\d+\.\d % +80\.0 %", line) for line in lines)
    without = text_report(names, test)
    assert without.draws is without.copies is without.ngram is without.gzip_after_train is None
    assert without.bits_per_character == report.bits_per_character


def test_report_of_labels(labelled):
    test, y = [*NAMES[:7], "ana"], np.array([*SEX[:7], "f"])
    given, marginal = text_report(labelled, test, y, key=KEY, n=20), text_report(labelled, test)
    total = -float(np.sum(labelled.log_prob(test, y))) / np.log(2)
    assert given.bits_per_character == pytest.approx(total / given.characters)
    likeliest = np.array(labelled.labels)[np.asarray(labelled.classify(test)).argmax(1)]
    assert given.accuracy == (likeliest == y).mean()
    assert given.accuracy_ref == 0.5
    total = -float(np.sum(labelled.log_prob(test))) / np.log(2)
    assert marginal.bits_per_character == pytest.approx(total / given.characters)
    assert marginal.accuracy is None
    assert "accuracy of labels" in str(given)


def test_report_of_a_stream(streams):
    fitted = streams["ngram"]
    report = text_report(fitted, OTHER, train=PROSE, key=KEY, n=64)
    assert (report.texts, report.tokens) == (1, len(OTHER))
    assert np.isnan(report.bits_per_character_se)
    each = stream_log_probs(fitted, OTHER)
    assert report.bits_per_character == pytest.approx(_bits(each).mean())
    assert report.gzip == 8 * len(gzip.compress(OTHER.encode())) / len(OTHER)
    assert report.excerpt == 50
    assert report.lengths is None
    assert 0 <= report.copies < report.distinct <= 1
    assert "ends" not in str(report)
    known = text_report(fitted, PROSE[10:70], train=PROSE, key=KEY, n=64)
    assert known.copies_ref == 1
    short = text_report(streams["transformer"], OTHER, train=PROSE, key=KEY, n=64)
    assert short.excerpt == LENGTH


def test_evaluate_reports_texts(names):
    report = jaxgen.evaluate(names, TEST, x_train=NAMES, key=KEY, n_samples=50)
    assert report == text_report(names, TEST, train=NAMES, key=KEY, n=50)
    plain = report.to_dict()
    assert plain["perplexity"] == report.perplexity
    assert plain["lengths"]["median"] == report.lengths.median
    with pytest.raises(TypeError, match="features does not apply to texts"):
        jaxgen.evaluate(names, TEST, features=np.sum, key=KEY)


def test_a_token_of_probability_zero_has_infinite_bits(streams):
    fitted = streams["transformer"].replace(top_k=1)
    report = text_report(fitted, OTHER)
    assert report.bits_per_token == np.inf
    assert report.to_dict()["perplexity"] is None
    assert report.to_dict()["notes"]["perplexity"] == "inf"
    assert report.scores.surprising(1)[0].bits == np.inf
    report.plot()


@pytest.mark.parametrize(
    ("model", "texts", "y", "error", "message"),
    [
        ("names", "anna", None, TypeError, "must be a list of texts, .* got one str"),
        ("names", [], None, ValueError, "texts must be a list .* got none"),
        ("names", ["", ""], None, ValueError, "texts must hold at least one character"),
        ("ngram", "", None, ValueError, "texts must hold at least one character, got ''"),
        ("names", ["anna", "box"], None, ValueError, r"'x' \(U\+0078\) at index 2 of row 1"),
        ("ngram", "to \U0001f600", None, ValueError, r"\(U\+1F600\) at index 3 is unknown"),
        ("names", ["annabob"], None, ValueError, "at most 6 tokens in each text, but row 0 has 7"),
        ("names", ["anna", None], None, TypeError, "texts must hold texts .* row 1 is missing"),
        ("names", np.zeros((2, 6), int), None, TypeError, "texts must be a list .* got ndarray"),
        ("names", ["anna"], ["f"], ValueError, "y was given"),
        ("labelled names", ["anna"], ["x"], ValueError, "'x'"),
        ("labelled names", ["anna"] * 3, ["f", "m"], ValueError, r"y must have shape \(3,\)"),
        ("numbers", ["anna"], None, TypeError, "fitted must be a model of sequences"),
        ("tokens", ["anna"], None, TypeError, "fitted must have been fitted to texts"),
        ("prompt", "to be", None, ValueError, "fitted must have no prompt"),
    ],
)
def test_errors(names, labelled, streams, model, texts, y, error, message):
    fits = {**streams, "names": names, "labelled names": labelled}
    fits["numbers"] = jaxgen.Fitted(models.Gaussian(2), {})
    fits["tokens"] = jaxgen.Fitted(names.model, names.params)
    fits["prompt"] = streams["ngram"].given("to")
    for measure in (text_scores, text_report):
        with pytest.raises(error, match=message):
            measure(fits[model], texts, y)


def test_errors_of_other_arguments(names, streams):
    with pytest.raises(ValueError, match="fitted must be a model of a stream"):
        stream_log_probs(names, ["anna"])
    with pytest.raises(ValueError, match="train must hold characters of the vocabulary"):
        text_report(names, TEST, train=["xenia"])
    with pytest.raises(TypeError, match="train must be a list of texts"):
        text_report(names, TEST, train="anna")
    with pytest.raises(ValueError, match="vocabulary"):
        text_scores(names, tokenize(["anna"]))
    with pytest.raises(ValueError, match="fitted must have no prompt for a report"):
        text_report(names.given("a"), ["nna"])


def test_the_figure_shows_all_pieces_without_overlap():
    rng = np.random.default_rng(0)
    words = [
        "a",
        "word",
        " ",
        "\n",
        "",
        "é",
        "\t",
        "😀",
        "$x^2$",
        "e\u0301",
        "a\u00a0b\ufe0f",
        "w" * 90,
        "x\ny",
    ]
    for size in (3, 30, 3000):
        texts = [[(str(word), 1.0) for word in rng.choice(words, size)] for _ in range(12)]
        segments, shown = lay_out(texts)
        assert 0 < shown <= 12
        cells = [(s.line, s.column + i) for s in segments for i in range(len(s.shown))]
        assert len(set(cells)) == len(cells)
        assert all(line < 40 and column < 80 for line, column in cells)
        drawn = "".join(s.shown for s in segments)
        assert drawn.isprintable()
        assert " " not in drawn
        assert size < 30 or all(f"U+{code}" in drawn for code in ("1F600", "0301", "00A0", "FE0F"))
    texts = [[(letter, 1.0) for letter in "anna"] + [("", 2.0)]] * 1000
    segments, shown = lay_out(texts)  # in columns of five characters and a gap
    assert shown == 40 * 11
    assert "".join(s.shown for s in segments[:5]) == "anna⊣"
    assert segments[5].line == 1
    assert [s.column for s in segments[200:205]] == [7, 8, 9, 10, 11]
    segments, _ = lay_out([[("seven…7", 1.0)] * 100])  # words are not split
    assert [(s.line, s.column) for s in segments] == [(i // 11, i % 11 * 7) for i in range(100)]


def test_the_figure_of_texts(names, tmp_path):
    scores = text_scores(names, TEST)
    figure = scores.plot(tmp_path / "all.png", rows=scores.worst(2))
    assert "5 texts, 2 of them shown" in figure.get_suptitle()
    assert f"{scores.total_bits.sum() / 18:.4g} bits per character" in figure.get_suptitle()
    assert matplotlib.image.imread(tmp_path / "all.png").std() > 0.05
    boxes = figure.axes[0].collections[0]
    shown = np.concatenate([scores.bits[i] for i in scores.worst(2)])
    np.testing.assert_allclose(boxes.get_array(), shown.clip(max=boxes.norm.vmax))
    with pytest.raises(ValueError, match="at least one text"):
        scores.plot(rows=[])
    with pytest.raises(ValueError, match="ending"):
        scores.plot("texts.nothing")
