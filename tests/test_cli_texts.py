"""Texts on the command line, run on files as a user would run it."""

import argparse
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from command_line import fails_last, run

import jaxgen
from jaxgen import models, networks
from jaxgen.cli import families, texts
from jaxgen.data import tables, tokenize

NAMES = ["anna", "bob", "hannah", "nora", "aaron", "noah", "otto", "ron"] * 4
PROSE = "to be, or not to be: that is the question.\nWhether it is\n\nnobler to ask\n" * 8
TINY = "network=Transformer(width=4, heads=1, layers=1)"
# the options of all fits with gradients, whose texts have 4 tokens at most and 4 characters
AUTOREGRESSIVE = ("--model", "Autoregressive", "--set", TINY, "--epochs", 1, "--batch-size", 8)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with texts in several forms, and models of lines, of labels and of a stream."""
    path = tmp_path_factory.mktemp("texts")
    (path / "names.txt").write_text("\n".join(NAMES) + "\n\n")
    (path / "test.txt").write_text("\nhanna\n\nbobo\n")
    (path / "prose.txt").write_text(PROSE)
    (path / "numbers.csv").write_text("a,b\n1,2\n2,5\n3,1\n")
    for name, lines in (("en", ["the hat", "a tea", "hat"]), ("it/one", ["otto", "notte"])):
        file = path / "words" / f"{name}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("\n".join(lines * 8))
    (path / "table.csv").write_text(
        "who,line,id\nen,the hat,7\nen,,8\nit,otto,9\n,notte,10\nen,?,11\n"
    )
    fit = ("--model", "NGram", "--set", "order=3", "--out")
    assert run("fit", path / "names.txt", "--length", 6, *fit, path / "m") == 0
    assert run("fit", path / "words", "--label", "who", "--length", 7, *fit, path / "labelled") == 0
    assert run("fit", path / "prose.txt", "--stream", *fit, path / "stream") == 0
    assert run("fit", path / "numbers.csv", "--model", "Gaussian", "--out", path / "numbers") == 0
    return path


@pytest.fixture(scope="module")
def network(place):
    """A file with an Autoregressive model of lines of at most 4 of 4 characters."""
    (place / "short.txt").write_text("abcd\nbad\ncab\na\ndab\n" * 4)
    options = (*AUTOREGRESSIVE, "--length", 4, "--out", place / "network")
    assert run("fit", place / "short.txt", *options) == 0
    return place / "network"


# fit


def test_fit_of_lines(place, tmp_path, capsys):
    out = tmp_path / "m"
    assert run("fit", place / "names.txt", "--model", "ngram", "--seed", 3, "--out", out) == 0
    printed = capsys.readouterr().out
    fitted = jaxgen.load(out)
    assert fitted.model == models.NGram(7, 7)
    assert fitted.vocabulary == tokenize(NAMES).vocabulary
    # the measure is of a fit without the held-out texts, and the model of a fit to all
    rows = np.random.default_rng(3).permutation(32)
    held_out = [NAMES[i] for i in rows[:3]]
    whole = tokenize(NAMES, vocabulary=fitted.vocabulary)
    part = jaxgen.fit(models.NGram(), whole[np.sort(rows[3:])], key=jax.random.key(0))
    bits = -float(part.log_prob(held_out).sum()) / np.log(2) / len("".join(held_out))
    assert f"of 32 texts, in {out}\n" in printed
    assert re.search(r"^tokens +132 characters, 7 different ones$", printed, re.M)
    count = len("".join(held_out))
    assert re.search(rf"^bits/character +{bits:.4g} of {count} held-out", printed, re.M)
    expected = jaxgen.fit(models.NGram(), whole, key=jax.random.key(0))
    np.testing.assert_array_equal(fitted.params["share"], expected.params["share"])


def test_fit_by_gradients(network, place):
    fitted = jaxgen.load(network)
    tiny = networks.Transformer(width=4, heads=1, layers=1)
    assert fitted.model == models.Autoregressive(4, 4, tiny)
    assert fitted.vocabulary.tokens == tuple("abcd")


def test_fit_of_windows(network, place, tmp_path, capsys):
    (tmp_path / "x.txt").write_text("abcd bad\ncab")
    windows = ("--stream", "--length", 4, "--step", 1)
    args = (*AUTOREGRESSIVE[:3], TINY, "window=2", *AUTOREGRESSIVE[4:])
    assert run("fit", tmp_path / "x.txt", *windows, *args, "--out", tmp_path / "m") == 0
    fitted = jaxgen.load(tmp_path / "m")
    assert (fitted.model.length, fitted.model.stop, fitted.model.window) == (4, False, 2)
    assert "bits/character" not in capsys.readouterr().out  # one character holds no window


def test_a_stream_of_n_grams_is_one_event(place):
    fitted = jaxgen.load(place / "stream")
    assert (fitted.model.length, fitted.model.stop) == (1000, False)
    event = tokenize(PROSE, length=len(PROSE))
    expected = jaxgen.fit(models.NGram(order=3), event, key=jax.random.key(0))
    np.testing.assert_array_equal(fitted.params["share"], expected.params["share"])


def test_fit_of_streams_of_labels(place, tmp_path):
    args = (
        "--stream",
        "--label",
        "who",
        "--model",
        "NGram",
        "--length",
        40,
        "--out",
        tmp_path / "m",
    )
    assert run("fit", place / "words", *args) == 0
    fitted = jaxgen.load(tmp_path / "m")
    assert fitted.labels == ("en", "it")
    assert fitted.y_columns == ("who",)
    assert (fitted.model.model.length, fitted.model.model.stop) == (40, False)
    assert run("classify", tmp_path / "m", place / "words", "--out", tmp_path / "c.csv") == 0
    held = tables.cells(tmp_path / "c.csv")
    assert held["file"].tolist() == ["en.txt", "it/one.txt"]
    assert held["predicted_who"].tolist() == ["en", "it"]
    some = tables.cells(place / "table.csv")["line"][[0, 2, 3]].tolist()
    tables.write(tmp_path / "x.csv", {"text": some})
    assert run("classify", tmp_path / "m", tmp_path / "x.csv", "--out", tmp_path / "c.csv") == 0
    log_p = np.array(fitted.model.log_prior(fitted.params)) + [
        [jaxgen.metrics.stream_log_probs(fitted, text, label).sum() for label in ("en", "it")]
        for text in some
    ]
    expected = 1 / (1 + np.exp(log_p[:, 0] - log_p[:, 1]))
    found = tables.cells(tmp_path / "c.csv")["p(it)"].astype(float)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.parametrize(
    ("options", "tokens"),
    [("--by bytes", 11), ("--by merges --size 257", 8), ("--by words", 7)],
)
def test_fit_of_a_column_by_other_tokens(options, tokens, tmp_path):
    tables.write(tmp_path / "x.parquet", {"line": ["h\u00e9 ho ho", "", None, "ho \U0001f600"]})
    args = ("--text", "line", *options.split(), "--model", "NGram", "--out", tmp_path / "m")
    assert run("fit", tmp_path / "x.parquet", *args) == 0
    fitted = jaxgen.load(tmp_path / "m")
    assert fitted.vocabulary.kind == options.split()[1]
    assert fitted.model.length == tokens


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("network=Transformer", {"network": networks.Transformer()}),
        ("network=Transformer(8, heads=2)", {"network": networks.Transformer(8, 2)}),
        ("network=MLP(width=8)", {"network": networks.MLP(width=8)}),
        ("covariance=full", {"covariance": "full"}),
    ],
)
def test_networks_of_fields(text, found):
    assert families.settings([text]) == found


def test_a_network_of_ones_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = "import jaxgen\nclass Wide(jaxgen.networks.Transformer):\n    pass\n"
    (tmp_path / "own_network.py").write_text(code)
    found = families.settings(["network=Wide(8, heads=2)"], ["own_network"])["network"]
    assert type(found).__name__ == "Wide"
    assert found.width == 8
    with pytest.raises(ValueError, match=r"network must be one of MLP, .*, Wide, such"):
        families.settings(["network=Wode(8)"], ["own_network"])
    with pytest.raises(ValueError, match="network: Transformer: width must be a multiple"):
        families.settings(["network=Transformer(width=7)"])
    with pytest.raises(ValueError, match="network must be one of"):
        families.settings(["network=Transformer(width=len('abcd'))"])


# sample


def test_sample_to_the_terminal_and_to_files(place, tmp_path, capsys):
    capsys.readouterr()
    command = ("sample", place / "m", "-n", 6, "--seed", 2)
    assert run(*command) == run(*command, "--out", "-") == 0
    drawn = jaxgen.load(place / "m").sample(jax.random.key(2), 6)
    expected = "".join(f"{text}\n" for text in drawn)
    assert capsys.readouterr().out == 2 * expected
    for name in ("s.txt", "s.csv", "s.parquet"):
        assert run(*command, "--out", tmp_path / name) == 0
        assert capsys.readouterr().out == f"6 texts, in {tmp_path / name}\n"
    assert (tmp_path / "s.txt").read_text() == expected
    for name in ("s.csv", "s.parquet"):
        held = tables.cells(tmp_path / name)
        assert list(held) == ["text"]
        assert held["text"].tolist() == drawn


def test_sample_with_a_prompt_and_labels(place, tmp_path, capsys):
    capsys.readouterr()
    fitted = jaxgen.load(place / "labelled")
    assert run("sample", place / "labelled", "-n", 5, "--given", "who=it", "--prompt", "o") == 0
    drawn = fitted.given("o").sample(jax.random.key(0), 5, "it")
    assert capsys.readouterr().out.splitlines() == ["o" + text for text in drawn]
    assert run("sample", place / "labelled", "-n", 9, "--out", tmp_path / "s.parquet") == 0
    held = tables.cells(tmp_path / "s.parquet")
    drawn, labels = fitted.sample(jax.random.key(0), 9, with_labels=True)
    assert held["text"].tolist() == drawn
    assert held["who"].tolist() == labels.tolist()


def test_sample_of_a_stream(place, capsys):
    capsys.readouterr()
    command = ("sample", place / "stream", "-n", 2, "--length", 60, "--prompt", "to be\n")
    assert run(*command) == 0
    out = capsys.readouterr().out
    fitted = jaxgen.load(place / "stream").replace(length=60).given("to be\n")
    first, second = fitted.sample(jax.random.key(0), 2)
    assert len(first) == 54
    assert out == f"to be\n{first}\n\nto be\n{second}\n"


def test_a_window_slides_beyond_the_fitted_length(network, capsys):
    capsys.readouterr()
    command = ("sample", network, "-n", 3, "--length", 7)
    changes = {"temperature": 0.5, "top_k": 2, "top_p": 0.9}
    options = ("--temperature", 0.5, "--top-k", 2, "--top-p", 0.9)
    assert run(*command, *options) == 0
    out, error = capsys.readouterr()
    fitted = jaxgen.load(network).replace(length=7, window=4, **changes)
    assert out.splitlines() == fitted.sample(jax.random.key(0), 3)
    none = dict.fromkeys(changes)
    longer = texts.changed(argparse.Namespace(length=7, **none), jaxgen.load(network))
    assert (longer.model.length, longer.model.window) == (7, 4)
    assert "follow another distribution than the one that score measures" in error
    assert "--temperature 0.5, --top-k 2, --top-p 0.9" in error


def test_an_end_of_line_in_a_line_is_escaped(tmp_path, capsys):
    vocabulary = tokenize(["\n\r"]).vocabulary
    tables.write(tmp_path / "x.parquet", {"text": ["\n\ra", "\n\ra"] * 5})
    args = ("--text", "text", "--model", "NGram", "--out", tmp_path / "m")
    assert run("fit", tmp_path / "x.parquet", *args) == 0
    assert jaxgen.load(tmp_path / "m").vocabulary.tokens[:2] == vocabulary.tokens
    capsys.readouterr()
    assert run("sample", tmp_path / "m", "-n", 30) == 0
    lines = capsys.readouterr().out.split("\n")
    assert len(lines) == 31
    assert "\\n\\ra" in lines


# score, classify and evaluate


def test_score(place, tmp_path, capsys):
    capsys.readouterr()
    out, figure = tmp_path / "s.csv", tmp_path / "s.png"
    command = ("score", place / "m", place / "test.txt", "--train", place / "names.txt")
    assert run(*command, "--out", out, "--figure", figure) == 0
    printed = capsys.readouterr().out
    two = ["hanna", "bobo"]
    log_p = np.asarray(jaxgen.load(place / "m").log_prob(two), np.float64)
    assert f"{-log_p.sum() / np.log(2) / 9:.4g} \u00b1" in printed
    for baseline in ("n-gram of order 6", "gzip after training texts", "gzip ", "perplexity"):
        assert baseline in printed
    held = tables.cells(out)
    assert held["line"].tolist() == ["2", "4"]
    assert held["text"].tolist() == two
    np.testing.assert_allclose(held["log_prob"].astype(float), log_p, rtol=1e-5)
    bits = -log_p / np.log(2) / (5, 4)
    np.testing.assert_allclose(held["bits_per_character"].astype(float), bits, rtol=1e-5)
    assert figure.read_bytes()[:4] == b"\x89PNG"


def test_score_of_tokens(place, tmp_path):
    out = tmp_path / "s.csv"
    assert run("score", place / "m", place / "test.txt", "--per", "token", "--out", out) == 0
    held = tables.cells(out)
    assert list(held) == ["line", "place", "token", "bits"]
    assert held["line"].tolist() == ["2"] * 6 + ["4"] * 5
    assert held["place"].tolist() == list("01234501234")
    assert held["token"].tolist() == [*"hanna", "", *"bobo", ""]
    nats = np.asarray(jaxgen.load(place / "m").token_log_probs(["hanna", "bobo"]))
    expected = -np.append(nats[0], nats[1, :5]) / np.log(2)
    np.testing.assert_allclose(held["bits"].astype(float), expected, rtol=1e-5)


def test_score_of_a_stream(place, tmp_path, capsys):
    capsys.readouterr()
    out = tmp_path / "s.csv"
    assert run("score", place / "stream", place / "prose.txt", "--out", out) == 0
    whole = jaxgen.load(place / "stream").replace(length=len(PROSE))
    expected = float(whole.log_prob(tokenize(PROSE, length=10**4, vocabulary=whole.vocabulary))[0])
    held = tables.cells(out)
    assert list(held) == ["row", "log_prob", "bits_per_character"]
    assert float(held["log_prob"][0]) == pytest.approx(expected, rel=1e-4)
    assert f"{-expected / len(PROSE) / np.log(2):.3g}"[:4] in capsys.readouterr().out


def test_rows_of_a_table_keep_their_places(place, tmp_path, capsys):
    data = (place / "labelled", place / "table.csv", "--text", "line", "--na", "?")
    out = tmp_path / "o.csv"
    assert run("score", *data, "--id", "id", "--out", out) == 0
    held = tables.cells(out)
    assert held["id"].tolist() == ["7", "8", "9", "10", "11"]
    assert held["text"].tolist() == ["the hat", "", "otto", "notte", ""]
    assert [cell != "" for cell in held["log_prob"]] == [True, False, True, True, False]
    assert run("score", *data, "--id", "id", "--per", "token", "--out", out) == 0
    assert tables.cells(out)["id"].tolist() == ["7"] * 7 + ["9"] * 5 + ["10"] * 6
    capsys.readouterr()
    assert run("classify", *data, "--label", "who", "--out", out) == 0
    printed = capsys.readouterr().out
    assert re.search("^events +2\naccuracy +1 ", printed, re.M)
    assert "3 rows without a label were left out" in printed
    held = tables.cells(out)
    assert held["line"].tolist() == list("23456")
    assert held["predicted_who"].tolist() == ["en", "", "it", "it", ""]
    p = np.exp(jaxgen.load(place / "labelled").classify(["the hat", "otto", "notte"]))
    found = held["p(it)"][[0, 2, 3]].astype(float)
    np.testing.assert_allclose(found, p[:, 1], rtol=1e-4)
    assert run("score", *data, "--label", "who") == 0
    assert "2 texts, 11 characters" in capsys.readouterr().out


def test_labels_are_those_of_folders_and_files(place, tmp_path):
    out = tmp_path / "c.csv"
    args = (place / "labelled", place / "words", "--label", "who")
    assert run("classify", *args, "--out", out, "--figure", tmp_path / "c.png") == 0
    held = tables.cells(out)
    assert held["file"].tolist() == ["en.txt"] * 24 + ["it/one.txt"] * 16
    assert held["line"].tolist()[22:26] == ["23", "24", "1", "2"]
    assert held["predicted_who"].tolist() == ["en"] * 24 + ["it"] * 16


def test_evaluate(place, tmp_path, capsys):
    capsys.readouterr()
    data = (place / "m", place / "names.txt", "--train", place / "names.txt")
    outputs = ("--json", tmp_path / "r.json", "--figure", tmp_path / "r.png")
    assert run("evaluate", *data, "--samples", 20, *outputs) == 0
    assert "copies of training texts" in capsys.readouterr().out
    report = json.loads((tmp_path / "r.json").read_text())
    assert (report["texts"], report["draws"], report["copies_ref"]) == (32, 20, 1)
    assert (tmp_path / "r.png").read_bytes()[:4] == b"\x89PNG"


# errors


FILES = {
    "empty.txt": b"",
    "blank.txt": b"\n \n",
    "invalid.txt": b"ann\nno\xff\n",
    "unknown.txt": "anna\n\nron\u00e9\n".encode(),
    "longer.txt": b"anna\nhannahhannah\n",
    "long.txt": b"bob\n" + b"a" * 10**6 + b"\n",
    "one.txt": b"anna\n",
    "nul.txt": b"an\0na\nbob\n",
    "blanks.csv": b"text,who\n,en\n ,it\n",
    "texts.csv": b"text,who\nanna,en\nbob,en\n",
    "numbers.csv": b"a,b\n1,2\n2,5\n3,1\n",
}
FIT = "--model NGram --out o"


@pytest.mark.parametrize(
    ("args", "why"),
    [
        (f"fit empty.txt {FIT}", "empty.txt: must hold text, but the file is empty"),
        (f"fit blank.txt {FIT}", "blank.txt: must hold text, but all lines are blank"),
        (f"fit gone.txt {FIT}", "No such file or directory: gone.txt"),
        (f"fit folder {FIT}", "folder must hold files that end in .txt"),
        (f"fit invalid.txt {FIT}", r"invalid.txt: not in utf-8: byte 0xff at offset 6 \(line 2\)"),
        (f"fit invalid.txt {FIT} --encoding utf8x", "unknown encoding 'utf8x'"),
        (f"fit long.txt {FIT}", "line 2 has 1,000,000 characters, .*use --stream"),
        (f"fit longer.txt {FIT} --length 5", "at most 5 tokens in each text, but line 2 has 12"),
        (f"fit one.txt {FIT} --label x", "one.txt: --label needs a folder"),
        (f"fit one.txt {FIT} --text x", "one.txt: --text is for a column of a table"),
        (f"fit one.txt {FIT} --columns x", "--columns is for tables of numbers"),
        (f"fit one.txt {FIT} --set length=4", "--set length is not for texts: use --length"),
        (f"fit one.txt {FIT} --set stop=0", "--set stop is not for texts: use --stream"),
        (f"fit one.txt {FIT} --set vocabulary=9", "it follows from the texts"),
        (f"fit one.txt {FIT} --step 2", "--step needs --stream"),
        (f"fit one.txt {FIT} --validation 1", "--validation must be at least 0 and less than 1"),
        (f"fit one.txt {FIT} --by letters", "choose from 'characters', 'bytes'"),
        (f"fit one.txt {FIT} --size 9", "size does not apply to by='characters'"),
        (f"fit one.txt {FIT} --epochs 9", "epochs does not apply"),
        (f"fit blanks.csv {FIT} --text text", "no row has a text in 'text'"),
        (f"fit blanks.csv {FIT} --text word", "no column 'word'; the columns are"),
        (f"fit texts.csv {FIT} --text text --label who", "'who' has the same label for all texts"),
        (f"fit texts.csv {FIT}", "NGram learns from texts: use --text COLUMN .* in texts.csv"),
        (f"fit numbers.csv {FIT} --set vocabulary=9 --by words", "--by is for texts, but numbers"),
        ("fit one.txt --model Box --out o", r"ending must be one of \.csv.*NGram; Box learns"),
        ("fit texts.csv --text text --model Box --out o", "--text needs a model of texts, such as"),
        ("fit one.txt --stream --length 9 --model Autoregressive --out o", "at most 5, the tokens"),
        ("score m unknown.txt", r"unknown.txt must .* '\u00e9' \(U\+00E9\) at index 3 of line 3"),
        ("score m one.txt --train unknown.txt", r"unknown.txt must .* at index 3 of line 3"),
        ("score m nul.txt", r"'\\x00' \(U\+0000\) at index 2 of line 1"),
        ("score m longer.txt", "at most 6 tokens in each text, but line 2 has 12"),
        ("score m empty.txt", "the file is empty"),
        ("score m numbers.csv", "no column 'text'; use --text with one of 'a', 'b'"),
        ("score m numbers.csv --text a", r"numbers.csv must .* at index 0 of line 2"),
        ("score m one.txt --label who", "one.txt: --label needs a folder"),
        ("score m one.txt --per token", "--per needs --out"),
        ("score m one.txt --id a --out o.csv", "--id is for a column of a table"),
        ("classify m one.txt --out o.csv", "has no labels: it was fitted without --label"),
        ("classify labelled folders --label who", "unknown label 'fr'.*line 1 of folders/fr.txt"),
        ("impute m one.txt --out o.csv", "does not draw missing values"),
        ("outliers m one.txt", "for texts use jaxgen score"),
        ("sample m -n 2 --prompt ann\u00e9", "--prompt must .* at index 3 is unknown"),
        ("sample m -n 2 --prompt hannah", "--prompt must have at most 5 tokens, .*--length"),
        ("sample m -n 2 --temperature .5", "--temperature does not apply to NGram.*Autoregr"),
        ("sample m -n 2 --given x0=1", "no 'x0' in a model of texts.*--prompt"),
        ("sample labelled -n 2 --given who=fr", "unknown label 'fr'"),
        ("sample m -n 2 --out o.npy", "cannot hold columns with names"),
        ("sample network -n 2 --temperature 0", "temperature must be positive"),
        ("sample network -n 2 --top-k 0", "--top-k: must be a whole number of at least 1"),
        ("sample network -n 2 --top-p 1.5", r"top_p must be in \(0, 1\]"),
        ("sample numbers -n 2", "sample needs --out FILE, as the model draws numbers"),
        ("sample numbers -n 2 --out o.txt", "ending must be one of"),
        ("sample numbers -n 2 --out o.csv --prompt a", "--prompt is for texts, but numbers was"),
        ("score numbers numbers.csv --train numbers.csv", "--train is for texts, but numbers was"),
        ("score numbers numbers.csv --per text", "--per is for texts"),
        ("score numbers numbers.csv --text a", "--text is for texts"),
        ("score numbers one.txt", "ending must be one of"),
    ],
)  # fmt: skip
def test_errors_are_one_line(args, why, place, network, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("m", "labelled", "network", "numbers"):
        (tmp_path / name).symlink_to(place / name)
    for name, held in FILES.items():
        (tmp_path / name).write_bytes(held)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folders").mkdir()
    (tmp_path / "folders" / "fr.txt").write_text("hat\nhat\n")
    listed = sorted(tmp_path.iterdir())
    assert re.search(why, fails_last(capsys, *args.split()))
    assert sorted(tmp_path.iterdir()) == listed


def test_texts_that_are_unusual_are_learnt(tmp_path, capsys):
    for name, held in FILES.items():
        (tmp_path / name).write_bytes(held)
    args = ("--model", "NGram", "--set", "order=2", "--out", tmp_path / "m")
    for options in (["one.txt"], ["nul.txt"], ["long.txt", "--stream"],
                    ["invalid.txt", "--encoding", "latin-1"]):  # fmt: skip
        name, *more = options
        assert run("fit", tmp_path / name, *more, *args) == 0
    assert "\u00ff" in jaxgen.load(tmp_path / "m").vocabulary.tokens


def test_a_network_takes_no_option_of_numbers(place, tmp_path, capsys):
    """A model of tokens without a vocabulary is one of numbers."""
    fitted = jaxgen.load(place / "m")
    jaxgen.Fitted(fitted.model, fitted.params).save(tmp_path / "m")
    error = fails_last(capsys, "sample", tmp_path / "m", "-n", 2, "--prompt", "a", "--out", "x.csv")
    assert "--prompt is for texts" in error
    assert jnp.size(fitted.params["share"]) > 0
