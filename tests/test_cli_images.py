"""Images on the command line, run on files as a user would run it."""

import csv
import gzip
import re
import shlex
import struct
from pathlib import Path

import jax
import numpy as np
import pytest
from command_line import fails_last, run
from PIL import Image

import jaxgen
from jaxgen import models
from jaxgen.data import PixelFormat, read_images, write_images

RNG = np.random.default_rng(0)
APPLES, PEARS = (RNG.random((2, 8, 4, 3)) < [[[[0.2]]], [[[0.8]]]]).astype(np.uint8)
BITS, KINDS = np.concatenate([APPLES, PEARS]), ["apple"] * 8 + ["pear"] * 8
GREY = RNG.integers(0, 256, (16, 4, 3), dtype=np.uint8)


def idx(array):
    return struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with images in several forms, and models of them."""
    path = tmp_path_factory.mktemp("images")
    write_images(BITS, path / "bits", labels=KINDS)
    write_images(GREY, path / "grey")
    write_images(GREY[..., None].repeat(3, -1), path / "colour")
    (path / "mixed").mkdir()
    for name in ("a", "b"):
        Image.fromarray(GREY[0]).save(path / "mixed" / f"{name}.png")
    Image.fromarray(GREY[0].T).save(path / "mixed" / "c.jpg")
    (path / "mixed" / "notes.txt").write_text("made up\n")
    (path / "numbers.csv").write_text("a,b\n1,2\n2,5\n3,1\n")
    np.savez(path / "bits.npz", x=BITS, y=np.array(KINDS))
    np.savez(path / "grey.npz", x=GREY)
    (path / "t-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(GREY)))
    (path / "t-labels-idx1-ubyte").write_bytes(idx(np.arange(16, dtype=np.uint8) % 2))
    bernoulli = ("--model", "Bernoulli", "--out")
    assert run("fit", path / "bits", "--label", "kind", *bernoulli, path / "m") == 0
    assert run("fit", path / "grey", "--model", "Categorical", "--out", path / "levels") == 0
    assert run("fit", path / "numbers.csv", "--model", "Gaussian", "--out", path / "numbers") == 0
    np.savez(path / "few.npz", x=GREY // 16)
    few = jaxgen.load(path / "m")
    few.labels = ("a/b", ".c")
    few.save(path / "slashes")
    vector = models.Gaussian(12, covariance="diagonal")
    vector = jaxgen.Fitted(vector, vector.init(None), pixels=PixelFormat("L", 256, (4, 3)))
    vector.save(path / "vectors")
    return path


def rows(path):
    with open(path) as file:
        return list(csv.DictReader(file))


# fit


def test_fit_of_folders(place, tmp_path, capsys):
    fitted = jaxgen.load(place / "m")
    assert fitted.pixels == PixelFormat("1", 2)
    assert fitted.labels == ("apple", "pear")
    assert fitted.y_columns == ("kind",)
    expected = jaxgen.fit(
        jaxgen.compose.PerClass(models.Bernoulli()), BITS, KINDS, key=jax.random.key(0)
    )
    np.testing.assert_array_equal(fitted.log_prob(BITS, KINDS), expected.log_prob(BITS, KINDS))
    levels = jaxgen.load(place / "levels")
    assert levels.pixels == PixelFormat("L", 256)
    assert levels.model == models.Categorical((4, 3), 256)
    args = ("fit", place / "mixed", "--size", "2x3", "--levels", 4, "--model", "categorical")
    assert run(*args, "--out", tmp_path / "m") == 0
    printed = capsys.readouterr().out
    assert "of 3 images, in " in printed
    assert "\nimages          2 x 3, grey, 4 levels\n" in printed
    assert "\n1 file that is no image, notes.txt, left out\n" in printed
    assert "\n3 images were scaled to 2 x 3\n" in printed
    fitted = jaxgen.load(tmp_path / "m")
    assert (fitted.model, fitted.pixels) == (models.Categorical((2, 3), 4), PixelFormat("L", 4))


def test_models_of_vectors_learn_from_images(place, tmp_path):
    fit = ("--model", "Gaussian", "--set", "covariance=diagonal", "--out", tmp_path / "m")
    assert run("fit", place / "colour", *fit) == 0
    fitted = jaxgen.load(tmp_path / "m")
    assert fitted.pixels == PixelFormat("RGB", 256, (4, 3))
    assert fitted.model.dim == 36
    assert run("sample", tmp_path / "m", "-n", 4, "--given", "x0=255", "--out", tmp_path / "o") == 0
    found = read_images(tmp_path / "o")
    assert found.images.shape == (4, 4, 3, 3)
    assert (found.images[:, 0, 0, 0] == 255).all()
    assert run("score", tmp_path / "m", place / "grey", "--out", tmp_path / "a.npy") == 0
    assert run("score", tmp_path / "m", place / "colour", "--out", tmp_path / "b.npy") == 0
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), np.load(tmp_path / "b.npy"))


def test_idx_files_and_their_labels(place, tmp_path):
    fit = ("--levels", 2, "--label", "digit", "--model", "Bernoulli", "--out", tmp_path / "m")
    assert run("fit", place / "t-images-idx3-ubyte.gz", *fit) == 0
    fitted = jaxgen.load(tmp_path / "m")
    assert (fitted.labels, fitted.pixels) == ((0, 1), PixelFormat("1", 2))
    args = ("score", tmp_path / "m", place / "t-images-idx3-ubyte.gz", "--label", "digit")
    assert run(*args, "--out", tmp_path / "a.csv") == 0
    found = [float(row["log_prob"]) for row in rows(tmp_path / "a.csv")]
    expected = fitted.log_prob(GREY >= 128, np.arange(16) % 2)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert [row["row"] for row in rows(tmp_path / "a.csv")] == [str(i) for i in range(16)]


@pytest.mark.parametrize(
    ("name", "levels"), [("bits", 2), ("grey", 256), ("bits", None), ("grey", None)]
)
def test_arrays_of_bytes_keep_their_numbers(place, tmp_path, name, levels):
    """The array of an .npz is a table of numbers, as without a format of images."""
    path, out = place / f"{name}.npz", tmp_path / "m"
    options = [] if levels is None else ["--levels", levels]
    if name == "bits":
        options += ["--label", "y"]
    fit = ("--model", "Categorical", "--set", "levels=256", "--out", out)
    assert run("fit", path, *options, *fit) == 0
    fitted = jaxgen.load(out)
    assert fitted.pixels.levels == (2 if name == "bits" else 256)
    assert run("score", out, path, "--out", tmp_path / "s.npy") == 0
    x = BITS if name == "bits" else GREY
    np.testing.assert_array_equal(np.load(tmp_path / "s.npy"), fitted.log_prob(x))
    assert run("sample", out, "-n", 3, "--out", tmp_path / "o.npz") == 0
    assert run("score", out, tmp_path / "o.npz") == 0
    assert run("sample", out, "-n", 3, "--out", tmp_path / "o.png") == 0


def test_arrays_with_another_size_or_levels(place, tmp_path):
    fit = ("--size", 2, "--levels", 4, "--model", "Categorical", "--out", tmp_path / "m")
    assert run("fit", place / "grey.npz", *fit) == 0
    assert jaxgen.load(tmp_path / "m").model == models.Categorical((2, 2), 4)
    for data in ("grey.npz", "grey"):
        assert run("score", tmp_path / "m", place / data, "--out", tmp_path / f"{data}.npy") == 0
    both = [np.load(tmp_path / f"{data}.npy") for data in ("grey.npz", "grey")]
    np.testing.assert_array_equal(*both)


def test_arrays_of_few_levels(place, tmp_path, capsys):
    """Levels stay levels, and larger numbers are 8 bits, whatever the dtype."""
    fit = ("--model", "Categorical", "--set", "levels=16", "--out", tmp_path / "m")
    assert run("fit", place / "few.npz", *fit) == 0
    fitted = jaxgen.load(tmp_path / "m")
    assert fitted.pixels == PixelFormat("L", 16)
    assert run("sample", tmp_path / "m", "-n", 8, "--out", tmp_path / "d.npz") == 0
    drawn = np.load(tmp_path / "d.npz")["x"]
    cases = [
        (drawn.astype(dtype), drawn, "were read as levels, 0 to 15")
        for dtype in (np.uint8, np.int32, np.float32)
    ]
    cases += [
        (GREY.astype(dtype), GREY // 16, "were read as 8 bits, for 16 levels")
        for dtype in (np.uint8, np.int32)
    ]
    coloured = GREY[..., None].repeat(3, -1)
    cases += [
        (coloured, GREY // 16, "16 images in colour became grey"),
        (coloured // 16, GREY // 16, "16 images in colour became grey"),
        (GREY.repeat(2, 1).repeat(2, 2), GREY // 16, "16 images were scaled to 4 x 3"),
    ]
    for array, levels, note in cases:
        np.savez(tmp_path / "a.npz", x=array)
        capsys.readouterr()
        assert run("score", tmp_path / "m", tmp_path / "a.npz", "--out", tmp_path / "s.npy") == 0
        assert note in capsys.readouterr().out
        np.testing.assert_array_equal(np.load(tmp_path / "s.npy"), fitted.log_prob(levels))


def test_draws_of_dark_images_are_dark(place, tmp_path):
    dark = models.Categorical((4, 3), 256)
    params = {"logits": np.zeros((4, 3, 256), np.float32)}
    params["logits"][..., 1] = 99
    fitted = jaxgen.Fitted(dark, params, pixels=PixelFormat("L"))
    fitted.save(tmp_path / "m")
    for name in ("o", "o.png"):
        assert run("sample", tmp_path / "m", "-n", 1, "--out", tmp_path / name) == 0
    for name in ("o/0.png", "o.png"):
        with Image.open(tmp_path / name) as image:
            assert np.asarray(image)[1:-1, 1:-1].max() == 1


def test_arrays_of_other_numbers_are_no_images(tmp_path):
    np.savez(tmp_path / "x.npz", x=BITS.astype(int))
    assert run("fit", tmp_path / "x.npz", "--model", "Bernoulli", "--out", tmp_path / "m") == 0
    assert jaxgen.load(tmp_path / "m").pixels is None


# sample


def test_grids_and_folders(place, tmp_path, capsys):
    model = place / "m"
    given = ("--given", "y=pear")
    assert run("sample", model, "-n", 6, *given, "--out", tmp_path / "a.png") == 0
    assert f"6 images, in {tmp_path / 'a.png'}" in capsys.readouterr().out
    with Image.open(tmp_path / "a.png") as image:
        assert image.size == (3 * 4 + 1, 2 * 5 + 1)
    assert run("sample", model, "-n", 6, *given, "--out", tmp_path / "one") == 0
    drawn = jaxgen.load(model).sample(jax.random.key(0), 6, "pear")
    found = read_images(tmp_path / "one", labels=True)
    np.testing.assert_array_equal(found.images, 255 * drawn)
    assert found.labels == ["pear"] * 6
    assert run("sample", model, "-n", 12, "--out", f"{tmp_path}/all/") == 0
    assert set(read_images(tmp_path / "all", labels=True).labels) == {"apple", "pear"}
    assert run("sample", place / "levels", "-n", 2, "--out", tmp_path / "plain") == 0
    assert read_images(tmp_path / "plain").files == ["0.png", "1.png"]


# score and classify


def test_score(place, tmp_path, capsys):
    out = tmp_path / "s.csv"
    assert run("score", place / "m", place / "bits", "--out", out) == 0
    printed = capsys.readouterr().out
    log_p = np.asarray(jaxgen.load(place / "m").log_prob(BITS))
    assert printed.startswith("images          16\n")
    assert re.search(rf"^log-likelihood  {log_p.mean():.6g} \+- .* nats per image$", printed, re.M)
    bits = -log_p.mean() / 12 / np.log(2)
    assert re.search(rf"^bits/dim        {bits:.6g}$", printed, re.M)
    assert "none: probabilities of 12 numbers of 2 levels each" in printed
    found = {row["file"]: float(row["log_prob"]) for row in rows(out)}
    names = [f"{kind}/{i:02}.png" for i, kind in enumerate(KINDS)]
    np.testing.assert_allclose([found[name] for name in names], log_p, rtol=1e-6)


def test_score_adapts_images_to_the_model(place, capsys):
    assert run("score", place / "levels", place / "mixed") == 0
    printed = capsys.readouterr().out
    assert "1 image was scaled to 4 x 3" in printed
    assert "1 file that is no image, notes.txt, left out" in printed
    assert run("score", place / "levels", place / "colour") == 0
    assert "16 images in colour became grey" in capsys.readouterr().out
    assert run("score", place / "levels", place / "grey" / "00.png") == 0


def test_the_constant_of_a_density(place, tmp_path, capsys):
    fit = ("--levels", 16, "--model", "Gaussian", "--set", "covariance=diagonal")
    assert run("fit", place / "grey", *fit, "--out", tmp_path / "m") == 0
    assert run("score", tmp_path / "m", place / "grey") == 0
    printed = capsys.readouterr().out
    assert "a density of 12 numbers whose 16 levels are 1 apart" in printed
    assert "bits/dim are less by 4\n" in printed


def test_classify(place, tmp_path, capsys):
    out = tmp_path / "c.csv"
    args = ("classify", place / "m", place / "bits", "--label", "kind", "--out", out)
    assert run(*args) == 0
    assert re.search(r"^accuracy +\S+", capsys.readouterr().out, re.M)
    found = rows(out)
    assert found[0]["file"] == "apple/00.png"
    log_p = jaxgen.load(place / "m").classify(BITS)
    np.testing.assert_allclose([float(r["p(pear)"]) for r in found], np.exp(log_p[:, 1]), rtol=1e-5)
    assert {row["predicted_kind"] for row in found} <= {"apple", "pear"}
    assert run("classify", place / "m", place / "bits", "--out", tmp_path / "d.csv") == 0
    assert run("outliers", place / "m", place / "bits", "-n", 2, "--samples", 50) == 0
    assert re.search(r"^(apple|pear)/\d\d.png ", capsys.readouterr().out, re.M)


def test_explain(tmp_path, capsys):
    bits = np.concatenate([BITS, 1 - BITS, BITS])[:, :, [0, 1, 2, 2]]
    write_images(bits, tmp_path / "bits", labels=KINDS * 3)
    fields = ("latent=2", "encoder=MLP(width=8)", "decoder=MLP(width=8)")
    fit = ("--model", "VAE", "--set", *fields, "--epochs", 2, "--out", tmp_path / "m")
    assert run("fit", tmp_path / "bits", *fit) == 0
    explain = ("explain", tmp_path / "m", tmp_path / "bits", "--label", "kind", "--seed", 3)
    assert run(*explain, "--figure", tmp_path / "e.png") == 0
    printed = capsys.readouterr().out
    assert "48 events, 2 latent coordinates" in printed
    assert "\npear " in printed
    with Image.open(tmp_path / "e.png") as image:
        assert image.width > 1000


def test_explain_of_one_label(place, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("jaxgen.metrics.explain", lambda *args, **options: "the report")
    (tmp_path / "apple").symlink_to(place / "bits" / "apple")
    assert run("explain", place / "m", tmp_path, "--label", "kind") == 0
    printed = capsys.readouterr().out
    assert printed == "the report\nno section LABELS: all events have the label 'apple'\n"


# errors

FIT = "--model Bernoulli --out o"


@pytest.mark.parametrize(
    ("args", "why"),
    [
        (f"fit mixed {FIT}", r"mixed: .* \(height x width\) 4 x 3 \(2\), 3 x 4 \(1\); use size="),
        *(
            (
                f"fit mixed {FIT} --size {size}",
                rf"--size: .* HEIGHTxWIDTH.* got '{re.escape(size)}'",
            )
            for size in ("2x", "x2", "2x3x4", "2*3", "0x2", "2.5")
        ),
        *(
            (f"fit mixed {FIT} --size {size}", "--size must be at most 16,384 pixels a side, got 1")
            for size in (10**20, "100000x100000", "28X16385")
        ),
        (f"fit mixed {FIT} --size 2 --label kind", "mixed/a.png: labels are the names of subf"),
        (f"fit empty {FIT}", "empty: the folder must hold images"),
        (f"fit gone {FIT}", "No such file or directory: gone"),
        (f"fit broken {FIT}", "broken/b.png: no image, or damaged"),
        (f"fit classes {FIT} --label kind", "classes/b: the folder of a label must hold images"),
        (f"fit one {FIT} --label kind", "one: 'kind' has the same label for all events"),
        (f"fit grey {FIT} --levels 257", "levels must be at most 256, got 257"),
        (f"fit grey {FIT} --levels 1", "levels must be at least 2"),
        (f"fit grey {FIT} --columns a", "--columns is for tables of numbers, not for images"),
        (f"fit grey {FIT} --na 0", "--na is for tables of numbers, not for images"),
        (f"fit grey {FIT} --by words", "--by is for texts, but grey holds images"),
        ("fit grey --model NGram --out o", "grey: the folder must hold files that end in .txt"),
        ("fit texts --model Bernoulli --out o", "texts must be a table"),
        (f"fit numbers.csv {FIT} --levels 2", "--levels is for images, and numbers.csv holds"),
        (f"fit numbers.csv {FIT} --size 2", "--size is for images, and numbers.csv holds events"),
        ("fit texts --model NGram --out o --levels 2", "for images, and texts holds texts"),
        ("fit texts --model NGram --out o --size 2x2", "for images, and texts holds texts"),
        ("sample m -n 2", "sample needs --out FILE, as the model draws images"),
        (f"fit grey {FIT}", "Bernoulli has 2 levels, and the images have 256: use --levels 2"),
        ("fit grey --model Categorical --set levels=16 --out o", "use --levels 16"),
        (
            "fit grey --model VAE --set likelihood=gaussian --out o",
            "got 256, those of the images; use --levels .* or --set levels=None",
        ),
        (f"fit few.npz {FIT} --levels 16", "few.npz: its largest number is 15.* --set levels=16"),
        (f"fit few.npz {FIT} --levels 2", "few.npz: its largest number is 15.* --set levels=16"),
        ("fit grey --model Bernoulli --levels 2 --out grey/00.png", "the same file as grey/00.png"),
        ("explain m grey --figure grey/00.png", "the same file as grey/00.png"),
        ("score m grey --figure grey/00.png", "the same file as grey/00.png"),
        ("evaluate m bits --json grey/00.png --train grey", "the same file as grey/00.png"),
        ("sample m -n 2 --out o.jpg", r"one of \.csv, .*; images go to a \.png, or to a folder"),
        *(
            (f"sample {model} -n 2 --out {out}", rf"{out}: .* \.png; .* folder.* {known}\n")
            for model, out, known in (
                ("m", "o.csv", r"\.npy or \.npz"),
                ("m", "o.txt", r"\.npy or \.npz"),
                ("vectors", "o.txt", r"\.csv, .* or \.tsv"),
            )
        ),
        ("sample slashes -n 2 --out o", "o: label 'a/b' cannot be the name of a folder"),
        ("sample slashes -n 2 --given y=.c --out o", "o: label '.c' cannot be the name of a fo"),
        ("sample m -n 2 --out grey", "grey: the folder must be new or empty"),
        ("sample m -n 2 --out none/o", "there is no directory none"),
        ("sample m -n 2 --out o.png --given y=plum", "unknown label 'plum'"),
        ("sample m -n 2 --out o.png --prompt a", "--prompt is for texts"),
        ("sample numbers -n 2 --out o.png", "o.png is for images, and numbers was not fitted"),
        ("sample numbers -n 2 --out o", "o is for images, and numbers was not fitted to images"),
        ("score m gone", "No such file or directory: gone"),
        ("score m broken", "broken/b.png: no image, or damaged"),
        ("score m grey --id a --out o.csv", "grey: --id is for a column of a table"),
        ("score m grey --label kind", "grey/00.png: labels are the names of subfolders"),
        ("score numbers grey", "grey holds images, and numbers was not fitted to images"),
        ("score numbers texts", "ending must be one of"),
        ("classify levels grey --out o.csv", "has no labels: it was fitted without --label"),
        ("classify m one --label kind", r"unknown label 'a'; .* \(a/1.png\)"),
        ("explain levels grey", "explain needs pull, which Categorical"),
        ("explain m bits --figure e.txt", "ending must be one of"),
        ("explain numbers grey", "grey holds images, and numbers was not fitted to images"),
        ("impute m grey --out o.csv", "impute is for tables, and grey holds images"),
    ],
)
def test_errors_are_one_line(args, why, place, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = (
        "m", "levels", "vectors", "slashes", "numbers", "grey", "mixed", "numbers.csv", "few.npz",
    )  # fmt: skip
    for name in names:
        (tmp_path / name).symlink_to(place / name)
    for name in ("empty", "broken", "classes/a", "classes/b", "one/a", "texts"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("broken/a", "classes/a/1", "one/a/1", "one/a/2"):
        Image.fromarray(255 * BITS[0]).save(tmp_path / f"{name}.png")
    (tmp_path / "broken" / "b.png").write_text("hello")
    (tmp_path / "texts" / "a.txt").write_text("hello")
    listed = sorted(tmp_path.iterdir())
    assert re.search(why, fails_last(capsys, *args.split()))
    assert sorted(tmp_path.iterdir()) == listed


def test_the_commands_of_the_page_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    train, test = jaxgen.datasets.drawings().split()
    for name, drawings in (("drawings", train), ("others", test)):
        write_images(drawings.images[::40], name, labels=drawings.labels[::40])
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(GREY)))
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(idx(np.arange(16, dtype=np.uint8) % 2))
    page = Path(__file__).parent.parent / "docs" / "images.md"
    commands = "".join(re.findall(r"```sh\n(.*?)```", page.read_text(), re.S)).splitlines()
    assert len(commands) >= 6
    for command in commands:
        program, *args = shlex.split(command)
        assert program == "jaxgen"
        assert run(*args) == 0, (command, capsys.readouterr().err)
