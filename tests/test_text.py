"""Texts in and texts out: vocabularies, windows, files of texts, and fits to texts."""

import itertools
import pickle
import re
import string

import jax
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import jaxgen
from jaxgen import compose, models
from jaxgen.data import Texts, Vocabulary, read_texts, tokenize
from jaxgen.data.text import KINDS, byte_pairs

KEY = jax.random.key(0)
NAMES = ["anna", "bob", "hannah", "nora", "aaron", "noah", "otto", "ron"] * 4
SEX = ["f", "m", "f", "f", "m", "m", "m", "m"] * 4
TEXT = "to be, or not to be: that is the question.\nTo be!\n\n  to_be \u00e9t\u00e9 \U0001f600\0"


@pytest.fixture(scope="module")
def fitted():
    return jaxgen.fit(models.NGram(order=3), NAMES, key=KEY)


@pytest.fixture(scope="module")
def labelled():
    return jaxgen.fit(compose.PerClass(models.NGram(order=2)), NAMES, SEX, key=KEY)


# Vocabularies


@pytest.mark.parametrize("kind", KINDS)
def test_round_trip(kind):
    texts = [TEXT, "", "to be", TEXT[::-1], " " * 9, "aaaaaaa aaaaaaaa"]
    made = tokenize(texts, by=kind)
    assert made.decode() == texts
    assert made.vocabulary.kind == kind
    assert made.tokens.max() == made.vocabulary.size  # the end
    for text, row in zip(texts, made.tokens, strict=True):
        tokens = made.vocabulary.encode(text)
        assert tokens.dtype == np.int32
        np.testing.assert_array_equal(row[: len(tokens)], tokens)
        assert (row[len(tokens) :] == made.vocabulary.size).all()
        assert made.vocabulary.decode(tokens) == text


@pytest.mark.parametrize("kind", ["bytes", "merges"])
def test_bytes_take_any_text(kind):
    vocabulary = tokenize(["to be or not to be"], by=kind).vocabulary
    text = "\u6f22\u5b57 \U0001f468\u200d\U0001f469 \0\uffff"
    assert vocabulary.decode(vocabulary.encode(text)) == text
    assert vocabulary.decode([0xC3, 0x28]) == "\ufffd("
    with pytest.raises(ValueError, match=r"texts must be text that UTF-8 .*'\\ud800' .* of row 1"):
        vocabulary.encode_all(["a", "b\ud800"])


def test_words_are_the_most_frequent_and_others_are_spelt():
    texts = ["the cat the dog the cat", "a cow"]
    made = tokenize(texts, by="words")
    characters = sorted(set("".join(texts)))
    assert made.vocabulary.tokens == (*characters, "the", "cat")
    assert made.vocabulary.encode("the cow").tolist() == [
        made.vocabulary.tokens.index(token) for token in ("the", " ", "c", "o", "w")
    ]
    assert tokenize(texts, by="words", size=len(characters) + 1).vocabulary.tokens[-1] == "the"
    with pytest.raises(ValueError, match=f"size must be at least {len(characters)}"):
        tokenize(texts, by="words", size=3)
    with pytest.raises(ValueError, match=r"'z' \(U\+007A\) at index 4 of row 1 is unknown"):
        made.vocabulary.encode_all(["cat", "the z"])


def naive_merges(pieces, size):
    """Byte pairs by the definition: pieces are lists of tokens, all different."""
    merges = []
    while 256 + len(merges) < size:
        counts = {}
        for piece in pieces:
            for pair in itertools.pairwise(piece):
                counts[pair] = counts.get(pair, 0) + 1
        best = min(counts, key=lambda pair: (-counts[pair], pair), default=None)
        if best is None or counts[best] < 2:
            break
        new = 256 + len(merges)
        merges.append(best)
        pieces = [naive_merge(piece, best, new) for piece in pieces]
    return tuple(merges), pieces


def naive_merge(piece, pair, new):
    merged, i = [], 0
    while i < len(piece):
        found = tuple(piece[i : i + 2]) == pair
        merged.append(new if found else piece[i])
        i += 1 + found
    return merged


@pytest.mark.parametrize("size", [280, 5000])  # counted in an array, and by sorting
def test_merges_are_those_of_the_definition(size):
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("abc"), k)) for k in rng.integers(1, 12, 60)]
    words = list(dict.fromkeys([*words, "aaaaa", "aaaa", "\u00e9\u00e9\u00e9"]))
    merges, pieces = naive_merges([list(word.encode()) for word in words], size)
    assert byte_pairs.learn(words, size) == merges
    assert len(merges) > 20
    tokens, lengths = byte_pairs.encode(words, merges)
    assert tokens.tolist() == [token for piece in pieces for token in piece]
    assert lengths.tolist() == [len(piece) for piece in pieces]


def test_vocabularies_are_specs():
    one, two = (tokenize(NAMES, by="merges", size=260).vocabulary for _ in range(2))
    assert one == two
    assert hash(one) == hash(two)
    assert one != tokenize(NAMES).vocabulary
    for wrong in (
        ("characters",),
        ("characters", ("ab",)),
        ("characters", ("b", "a")),
        ("characters", ("a", "a")),
        ("bytes", ("a",)),
        ("words", ("a", "")),
        ("words", ("a",), ((0, 1),)),
        ("merges", (), ((0, 256),)),
        ("letters", ("a",)),
    ):
        with pytest.raises(ValueError, match="Vocabulary: "):
            Vocabulary(*wrong)


def test_decode_checks_tokens():
    vocabulary = Vocabulary("characters", ("a", "b"))
    assert vocabulary.decode([0, 1, 2, 0]) == "ab"  # the end
    assert vocabulary.decode(np.array([[1.0, 2.0], [0.0, 0.0]])) == ["b", "aa"]
    assert vocabulary.decode([]) == ""
    assert vocabulary.decode(np.zeros((2, 0), int)) == ["", ""]
    with pytest.raises(ValueError, match=r"tokens must be in 0 \.\. 2.* got 3"):
        vocabulary.decode([0, 3])
    with pytest.raises(ValueError, match=r"got -1"):
        vocabulary.decode([0, -1])
    for wrong in ([0.5], [np.nan]):
        with pytest.raises(TypeError, match="tokens must be whole numbers"):
            vocabulary.decode(wrong)
    with pytest.raises(TypeError, match="text must be a str, got int 3"):
        vocabulary.encode(3)


# Texts


def test_windows_of_one_text():
    text = string.ascii_lowercase
    windows = tokenize(text, length=8)
    assert not windows.stop
    assert windows.decode() == ["abcdefgh", "ijklmnop", "qrstuvwx", "stuvwxyz"]
    assert tokenize(text, length=13).decode() == [text[:13], text[13:]]
    assert tokenize(text, length=20, step=4).decode() == [text[:20], text[4:24], text[6:]]
    for length in (26, 100, None):
        assert tokenize(text, length=length).decode() == [text]
    assert tokenize(text * 10).tokens.shape == (5, 64)
    assert tokenize("\u00e9" * 10, by="bytes", length=7).tokens.shape == (3, 7)
    million = tokenize("ab" * 500_000, length=1_000_000)
    assert million.tokens.shape == (1, 1_000_000)


def test_columns_of_texts():
    wanted = tokenize(NAMES)
    for column in (
        tuple(NAMES),
        np.array(NAMES),
        np.array(NAMES, object),
        pd.Series(NAMES, index=range(len(NAMES), 0, -1)),
        pd.Series(NAMES, dtype="string"),
        pd.Series(NAMES, dtype="category"),
        pl.Series(NAMES),
        pa.chunked_array([NAMES[:5], NAMES[5:]]),
    ):
        found = tokenize(column)
        np.testing.assert_array_equal(found.tokens, wanted.tokens)


def test_rows_of_texts():
    assert tokenize(NAMES).length == 7  # so that a new text may be longer than all
    texts = tokenize(NAMES, length=6)
    assert len(texts) == len(NAMES)
    assert texts[1] == "bob"
    assert texts[2:4].decode() == NAMES[2:4]
    assert texts[np.array([3, 0])].decode() == ["nora", "anna"]
    assert texts[np.array(NAMES) == "bob"].decode() == ["bob"] * 4
    assert texts.of_length(9).decode() == NAMES
    assert texts.of_length(9).of_length(6).tokens.tolist() == texts.tokens.tolist()
    with pytest.raises(ValueError, match=r"at most 5 tokens.* row 2 has 6: 'hannah'"):
        texts.of_length(5)
    assert repr(texts) == "Texts(32 texts of length 6, Vocabulary('characters', size 7))"


def test_new_texts_with_a_known_vocabulary():
    texts = tokenize(NAMES)
    new = tokenize(["rob"], vocabulary=texts)
    assert new.tokens.shape == (1, 7)
    assert new.decode() == ["rob"]
    assert tokenize(["rob"], vocabulary=texts.vocabulary).tokens.shape == (1, 4)
    with pytest.raises(ValueError, match=r"'z' \(U\+007A\) at index 2 of row 1 is unknown"):
        tokenize(["anna", "boz"], vocabulary=texts)
    with pytest.raises(ValueError, match=r"at most 7 tokens.* row 0 has 8"):
        tokenize(["hannahbo"], vocabulary=texts)
    with pytest.raises(ValueError, match="by='words' does not apply"):
        tokenize(["anna"], by="words", vocabulary=texts)


@pytest.mark.parametrize(
    ("texts", "options", "error", "message"),
    [
        (["a", None], {}, TypeError, "texts must hold texts (str), but row 1 is missing"),
        (pd.Series(["a", np.nan]), {}, TypeError, "but row 1 is missing"),
        (pl.Series(["a", "b", None]), {}, TypeError, "but row 2 is missing"),
        (np.ma.array(["a", "b"], mask=[1, 0]), {}, TypeError, "but row 0 is missing"),
        (["a", 3], {}, TypeError, "but row 1 holds int 3"),
        (["a", b"b"], {}, TypeError, "but row 1 holds bytes b'b'"),
        (3, {}, TypeError, "texts must be a list or a column of texts (str), got int 3"),
        (b"ab", {}, TypeError, "texts must be a list or a column of texts (str), got bytes"),
        ({"a": ["b"]}, {}, TypeError, "texts must be a list or a column of texts (str), got dict"),
        ([], {}, ValueError, "texts must hold at least one text"),
        ("", {}, ValueError, "texts must hold at least one character"),
        ([""], {}, ValueError, "texts must hold at least one character"),
        (["ab", "abc"], {"length": 2}, ValueError, "but row 1 has 3: 'abc'"),
        (["ab", "c" * 10**6], {"length": 9}, ValueError, "row 1 has 1,000,000: 'ccc"),
        (["ab"], {"step": 2}, ValueError, "step does not apply to a list of texts"),
        ("ab", {"step": 0}, ValueError, "step must be at least 1, got 0"),
        ("ab", {"length": 0}, ValueError, "length must be at least 1, got 0"),
        ("ab", {"by": "letters"}, ValueError, "by must be one of ('characters', 'bytes', "),
        ("ab", {"size": 9}, ValueError, "size does not apply to by='characters'"),
        ("ab", {"by": "merges", "size": 9}, ValueError, "size must be at least 256"),
        ("a\ud800", {"by": "merges"}, ValueError, "U+D800"),
        ("ab", {"vocabulary": "ab"}, TypeError, "vocabulary must be a Vocabulary or Texts"),
    ],
)
def test_what_is_no_text(texts, options, error, message):
    with pytest.raises(error, match=re.escape(message)):
        tokenize(texts, **options)


# Files


def test_a_file_of_texts(tmp_path):
    path = tmp_path / "names.csv"
    path.write_bytes("\ufeffanna\r\nbob \n\n \t\n\u00e9\0\x0b\u2028x".encode())
    assert read_texts(path) == ["anna", "bob ", "\u00e9\0\x0b\u2028x"]
    assert read_texts(str(path), lines=False) == "anna\nbob \n\n \t\n\u00e9\0\x0b\u2028x"
    path.write_bytes("caf\u00e9\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"names.csv: not in utf-8: byte 0xe9 at offset 3 \(line"):
        read_texts(path)
    assert read_texts(path, encoding="latin-1") == ["caf\u00e9"]
    path.write_text("x" * 10**6)
    assert read_texts(path) == ["x" * 10**6]


def test_a_folder_of_texts(tmp_path):
    for name, text in {
        "b/2.txt": "two\nzwei\n",
        "b/a/1.txt": "one\n",
        "a.txt": "three\n",
        "a.csv": "no\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert read_texts(tmp_path) == ["three", "two", "zwei", "one"]
    assert read_texts(tmp_path, lines=False) == ["three\n", "two\nzwei\n", "one\n"]
    assert read_texts(tmp_path, labels=True)[1] == ["a", "b", "b", "b"]
    assert read_texts(tmp_path, lines=False, labels=True)[1] == ["a", "b", "b"]


def test_files_without_text(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"missing.txt"):
        read_texts(tmp_path / "missing.txt")
    with pytest.raises(ValueError, match=r"must hold files that end in .txt, it has none"):
        read_texts(tmp_path)
    path = tmp_path / "empty.txt"
    path.write_text("")
    for where in (path, tmp_path):
        with pytest.raises(ValueError, match=r"empty.txt: must hold text, but the file is empty"):
            read_texts(where)
    path.write_text("\n \n")
    with pytest.raises(ValueError, match="all lines are blank"):
        read_texts(path)
    assert read_texts(path, lines=False) == "\n \n"
    with pytest.raises(ValueError, match="labels are the names of folders"):
        read_texts(path, labels=True)
    with pytest.raises(LookupError, match="klingon"):
        read_texts(path, encoding="klingon")


def test_first_names():
    names = jaxgen.datasets.first_names()
    assert len(names) == 32_033
    assert len(set(names)) == 29_494
    assert set("".join(names)) == set(string.ascii_lowercase)
    assert {len(name) for name in names} == set(range(2, 16))
    girls, boys = names[:18_029], names[18_029:]
    assert (girls[0], boys[0]) == ("emma", "liam")
    assert len(set(girls)) == len(girls)
    assert len(set(boys)) == len(boys)


# Fits


def test_texts_in_and_texts_out(fitted):
    model = fitted.model
    assert (model.length, model.vocabulary, model.stop) == (7, 7, True)
    assert fitted.vocabulary == tokenize(NAMES).vocabulary
    drawn = fitted.sample(KEY, 8)
    assert isinstance(drawn, list)
    assert all(isinstance(text, str) and len(text) <= 7 for text in drawn)
    assert [text for block in fitted.stream(KEY, 8) for text in block] == drawn
    scores = jaxgen.Fitted(model, fitted.params).log_prob(tokenize(NAMES).tokens[:3])
    for x in (
        NAMES[:3],
        tuple(NAMES[:3]),
        pd.Series(NAMES[:3]),
        tokenize(NAMES)[:3],
        tokenize(NAMES[:3], vocabulary=fitted.vocabulary, length=9),
        tokenize(NAMES).tokens[:3],
    ):
        np.testing.assert_allclose(fitted.log_prob(x), scores, rtol=1e-6)
    assert np.isfinite(fitted.log_prob(["", "ab", "bobbob"])).all()


def test_frames_have_a_column_of_texts(fitted, labelled):
    frame = fitted.sample(KEY, 8, as_frame=True)
    assert list(frame.columns) == ["text"]
    assert frame["text"].tolist() == fitted.sample(KEY, 8)
    frame = labelled.sample(KEY, 8, as_frame=True)
    texts, labels = labelled.sample(KEY, 8, with_labels=True)
    assert frame["text"].tolist() == texts
    assert frame["y"].tolist() == labels.tolist()
    named = fitted.named_columns(["anna", "bob"])
    assert named["text"].tolist() == ["anna", "bob"]
    named = fitted.named_columns(tokenize(NAMES).tokens)
    assert named["text"].tolist() == NAMES


def test_a_beginning_is_given(fitted):
    rest = fitted.given("an")
    drawn = rest.sample(KEY, 8)
    assert all(isinstance(text, str) and len(text) <= 5 for text in drawn)
    by_place = fitted.given(dict(enumerate(fitted.vocabulary.encode("an").tolist())))
    assert by_place.sample(KEY, 8) == drawn
    assert rest.given("n").model == fitted.given("ann").model
    ends = ["", "na", "ron"]
    joint = fitted.log_prob(["an" + end for end in ends])
    start = fitted.marginal([0, 1]).log_prob(["an"])
    np.testing.assert_allclose(rest.log_prob(ends) + start, joint, rtol=1e-5)
    for wrong in ("", "hannaha", "hannahan"):
        with pytest.raises(ValueError, match="must have from 1 to 6 tokens"):
            fitted.given(wrong)
    with pytest.raises(ValueError, match=r"given: values must hold .* 'z' \(U\+007A\) at index 1 "):
        fitted.given("az")


def test_labels_of_texts(labelled):
    log_p = labelled.classify(["hannah", "otto"])
    assert [labelled.labels[k] for k in log_p.argmax(1)] == ["f", "m"]
    assert isinstance(labelled.sample(KEY, 8, "f"), list)
    assert labelled.vocabulary == tokenize(NAMES).vocabulary


def test_within_transformations_events_are_tokens(fitted):
    tokens = jax.jit(lambda one: one.sample(KEY, 8))(fitted)
    assert fitted.vocabulary.decode(tokens) == fitted.sample(KEY, 8)
    assert jax.tree.map(lambda leaf: leaf, fitted).vocabulary == fitted.vocabulary


def test_windows_are_fitted():
    text = "to be or not to be that is the question "
    windows = tokenize(text * 3, length=16)
    fitted = jaxgen.fit(models.NGram(order=4), windows, key=KEY)
    assert (fitted.model.length, fitted.model.stop) == (16, False)
    assert {len(text) for text in fitted.sample(KEY, 8)} == {16}
    assert np.isfinite(fitted.log_prob([text[:16]])).all()
    with pytest.raises(ValueError, match=r"must have 16 tokens .* row 1 has 5: 'to be'; the model"):
        fitted.log_prob([text[:16], "to be"])
    whole = jaxgen.fit(models.NGram(order=4), tokenize(text, length=len(text)), key=KEY)
    assert whole.model.length == len(text)


def test_other_kinds_of_tokens_are_fitted():
    fitted = jaxgen.fit(models.NGram(order=3), tokenize(NAMES, by="merges", size=260), key=KEY)
    assert fitted.model.vocabulary == 260
    assert np.isfinite(fitted.log_prob(["anna", "zo\u00e9"])).all()


def test_validation_by_texts():
    model = models.Autoregressive(network=jaxgen.networks.Transformer(8, layers=1))
    for held in (["anna", "bob"], tokenize(["anna", "bob"], vocabulary=tokenize(NAMES))):
        fitted = jaxgen.fit(model, NAMES, key=KEY, epochs=1, validation=held)
        assert len(fitted.history["validation"]) == 1
    assert jaxgen.fit(fitted, ["anna"] * 9, key=KEY, epochs=1).vocabulary == fitted.vocabulary
    with pytest.raises(ValueError, match=r"validation: x must hold .*'z' .* of row 1"):
        jaxgen.fit(model, NAMES, key=KEY, validation=["anna", "zoe"])


def test_select_takes_texts():
    found = jaxgen.select(
        [models.NGram(order=1), models.NGram(order=3)], NAMES, key=KEY, by="held_out"
    )
    assert found.best.model.order == 3
    assert found.best.vocabulary == tokenize(NAMES).vocabulary


def test_a_longer_model_takes_texts(fitted):
    longer = jaxgen.fit(models.NGram(length=9, order=3), NAMES, key=KEY)
    assert longer.model.length == 9
    assert isinstance(longer.log_prob(["hannahbob"]).item(), float)
    model = models.NGram(length=9, vocabulary=7, order=3)
    assert jaxgen.fit(model, NAMES, key=KEY).vocabulary == fitted.vocabulary


@pytest.mark.parametrize(
    ("model", "x", "error", "message"),
    [
        (
            models.NGram(5),
            NAMES,
            ValueError,
            "x must have at most 5 tokens in each text, but row 2",
        ),
        (models.NGram(6, 27), NAMES, ValueError, "x has vocabulary=7, but NGram(length=6, voc"),
        (models.NGram(stop=False), NAMES, ValueError, "x has stop=True, but NGram("),
        (models.NGram(8, 4), tokenize("abcd" * 3, length=8), ValueError, "x has stop=False, but"),
        (models.NGram(9, stop=False), tokenize("ab" * 8, length=8), ValueError, "row 0 has 8"),
        (models.NGram(), "anna", TypeError, "x must be a list of texts, got one str: [text] is"),
        (models.NGram(), ["anna", 3], TypeError, "x must hold texts (str), but row 1 holds int 3"),
        (models.NGram(), pd.Series(["a", None]), TypeError, "x must hold texts (str), but row 1"),
        (models.NGram(), pd.DataFrame({"a": ["b"]}), TypeError, "the one column of a model of"),
        (models.NGram(), np.zeros((3, 2)), ValueError, "vocabulary does not follow from data"),
        (models.Gaussian(), NAMES, TypeError, "texts need models.NGram or models.Autoregressive"),
        (models.Gaussian(2), tokenize(NAMES), TypeError, "x must be an array of numbers for Gau"),
    ],
)
def test_texts_that_do_not_suit_the_model(model, x, error, message):
    if isinstance(x, str):
        model = models.NGram(6, 7)
    with pytest.raises(error, match=re.escape(message)):
        jaxgen.fit(model, x, key=KEY)


def test_texts_that_do_not_suit_a_fitted_model(fitted):
    for x, error, message in (
        ("anna", TypeError, "x must be a list of texts, got one str"),
        (
            ["anna", "hannahan"],
            ValueError,
            "at most 7 tokens in each text, but row 1 has 8: 'hannahan'; take a larger length",
        ),
        (["anna", "zoe"], ValueError, r"'z' (U+007A) at index 0 of row 1 is unknown"),
        (tokenize(["zoe"]), ValueError, "must have the vocabulary of the model"),
        (["anna", None], TypeError, "row 1 is missing"),
    ):
        with pytest.raises(error, match=re.escape(message)):
            fitted.log_prob(x)
    bare = jaxgen.Fitted(fitted.model, fitted.params)
    with pytest.raises(TypeError, match="was fitted to numbers"):
        bare.log_prob(["anna"])
    with pytest.raises(TypeError, match="needs a model fitted to texts"):
        bare.given("an")
    assert bare.log_prob(tokenize(NAMES)[:2]).shape == (2,)


# Model files


def test_files_hold_the_vocabulary(fitted, tmp_path):
    for kind in KINDS:
        texts = tokenize([*NAMES, "\0\u00e9\U0001f600"], by=kind)
        spec = models.NGram(**texts.fields, order=1)
        saved = jaxgen.Fitted(spec, spec.init(KEY), vocabulary=texts.vocabulary)
        saved.save(tmp_path / "model")
        loaded = jaxgen.load(tmp_path / "model")
        assert loaded.vocabulary == texts.vocabulary
        loaded.save(tmp_path / "again")
        assert (tmp_path / "again").read_bytes() == (tmp_path / "model").read_bytes()
    fitted.save(tmp_path / "model")
    assert jaxgen.load(tmp_path / "model").sample(KEY, 8) == fitted.sample(KEY, 8)
    assert pickle.loads(pickle.dumps(fitted)).sample(KEY, 8) == fitted.sample(KEY, 8)


def test_files_refuse_a_vocabulary_of_another_model(fitted, tmp_path):
    wrong = tokenize(["ab"]).vocabulary
    for model, tokens in ((fitted, "7 tokens"), (gaussian(), "no tokens")):
        one = jaxgen.Fitted(model.model, model.params, vocabulary=wrong)
        with pytest.raises(ValueError, match=f"size 2.*for a model of {tokens}"):
            one.save(tmp_path / "model")
    gaussian().save(tmp_path / "model")
    assert b"vocabulary" not in (tmp_path / "model").read_bytes()


def gaussian():
    model = models.Gaussian(2)
    return jaxgen.Fitted(model, model.init(KEY))


def test_names_are_public():
    assert jaxgen.data.tokenize is tokenize
    assert isinstance(tokenize(["a"]), Texts)
