"""``score_files``: log densities of many files, by any executor, stopped and gone on with."""

import concurrent.futures
import math
import os
import shutil

import jax
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

import jaxgen
from jaxgen import Fitted, compose, models, networks
from jaxgen.data import output, tables
from jaxgen.data.bulk import generate, score_files, score_reading, score_tasks
from jaxgen.data.bulk.locks import locked
from jaxgen.metrics.accuracy import mean_and_error

KEY = jax.random.key(0)
X = np.random.default_rng(0).normal(size=(50, 2)).astype(np.float32)


def plane(scale=1.0):
    tril = scale * np.array([[1, 0], [0.8, 0.6]], np.float32)
    params = {"mean": np.array([1, -1], np.float32), "scale_tril": tril}
    return Fitted(models.Gaussian(2), params, columns=("a", "b"))


def labelled():
    model = compose.PerClass(models.Gaussian(2), 2)
    params = model.init(KEY, X, np.arange(50) % 2)
    return Fitted(model, params, columns=("a", "b"), labels=("3", "pear"))


def scores_in(path):
    return tables.read(path).values.ravel()


def log_probs(model, x, y=None):
    return np.asarray(model.log_prob(x, y))


@pytest.fixture
def files(tmp_path):
    """Tables of 50, 30, 20 and 0 rows in four formats, and the folder of scores."""
    folder = tmp_path / "tables"
    folder.mkdir()
    columns = {"b": X[:, 1], "kind": ["3", "pear"] * 25, "a": X[:, 0], "log_prob": X[:, 0] * 0}
    tables.write(folder / "d.parquet", columns)
    tables.write(folder / "c.csv", {name: column[:30] for name, column in columns.items()})
    tables.write(folder / "b.npz", X[:20], ("a", "b"))
    np.save(folder / "a.npy", X[:0])
    (folder / "notes.txt").write_text("is no table")
    return folder, tmp_path / "scores"


def test_scores_are_those_of_log_prob(files):
    folder, scores = files
    found = score_files(plane(), folder, scores, progress=False)
    wanted = log_probs(plane(), X)
    assert [path.name for path in found.files] == [
        "a.parquet",
        "b.parquet",
        "c.parquet",
        "d.parquet",
    ]
    for path, rows in zip(found.files, (0, 20, 30, 50), strict=True):
        assert path.parent == scores
        table = pyarrow.parquet.read_table(path)
        assert (table.column_names, table["log_prob"].type) == (["log_prob"], pyarrow.float32())
        np.testing.assert_allclose(table["log_prob"].to_numpy(), wanted[:rows], rtol=1e-6)
    mean = mean_and_error(np.concatenate([wanted[:20], wanted[:30], wanted]))
    assert (found.events, found.zero_density, found.nan) == (100, 0, 0)
    np.testing.assert_allclose(found[1:3], mean, rtol=1e-6)
    assert {*os.listdir(scores)} == {".jaxgen", *(path.name for path in found.files)}


def test_a_list_of_files_and_npy(files):
    folder, scores = files
    paths = [str(folder / name) for name in ("d.parquet", "b.npz")]
    found = score_files(plane(), paths, scores, file_format="npy")
    assert [path.name for path in found.files] == ["d.npy", "b.npy"]
    np.testing.assert_allclose(np.load(found.files[0]), log_probs(plane(), X), rtol=1e-6)
    one = score_files(plane(), folder / "b.npz", scores.with_name("one"))
    assert one.events == 20


def test_labels(files):
    """Labels in a file are names, whole numbers too; without a label scores are log p(x)."""
    folder, scores = files
    paths = [folder / "c.csv", folder / "d.parquet"]
    found = score_files(labelled(), paths, scores, label="kind")
    wanted = log_probs(labelled(), X, ["3", "pear"] * 25)
    np.testing.assert_allclose(scores_in(found.files[0]), wanted[:30], rtol=1e-6)
    np.testing.assert_allclose(scores_in(found.files[1]), wanted, rtol=1e-6)
    tables.write(folder / "d.parquet", {"a": X[:4, 0], "b": X[:4, 1], "kind": [3, 3, 3, 3]})
    found = score_files(labelled(), folder / "d.parquet", scores.with_name("numbers"), label="kind")
    np.testing.assert_allclose(
        scores_in(found.files[0]), log_probs(labelled(), X[:4], ["3"] * 4), rtol=1e-6
    )
    found = score_files(labelled(), folder / "d.parquet", scores.with_name("marginal"))
    np.testing.assert_allclose(scores_in(found.files[0]), log_probs(labelled(), X[:4]), rtol=1e-6)


def events_of(kind):
    if kind == "labelled":
        return labelled(), {}
    if kind == "no names":
        return Fitted(labelled().model, labelled().params), {}
    if kind == "images":
        model = models.Categorical((2, 3), 4)
        logits = np.random.default_rng(1).normal(size=(2, 3, 4)).astype(np.float32)
        return Fitted(model, {"logits": logits}, pixels=jaxgen.data.PixelFormat("L", 4)), {}
    if kind == "texts":
        return jaxgen.fit(models.NGram(), ["anna", "bob", "käthe"], key=KEY), {}
    model = compose.Conditional(networks.MLP((2,), 4, 1), models.Gaussian(1))
    return Fitted(model, model.init(KEY, X[:, :1], X), y_columns=("u", "v")), {"y": X}


@pytest.mark.parametrize("kind", ["labelled", "no names", "images", "texts", "conditions"])
def test_folders_of_generate(kind, tmp_path):
    """Columns of labels and log densities are no features; images and texts are scored too."""
    model, arguments = events_of(kind)
    has_labels = model.model.classes is not None
    for file_format in ("parquet", "npy"):
        folder, scores = tmp_path / file_format, tmp_path / f"{file_format}-scores"
        events = generate(model, 50, folder, key=KEY, block_rows=20, log_prob=True,
                          file_format=file_format, **arguments)  # fmt: skip
        if file_format == "npy" and kind == "conditions":
            with pytest.raises(ValueError, match=r"x-000000.npy: .*y"):
                score_files(model, folder, scores)
            continue
        label = "y" if has_labels and file_format == "parquet" else None
        found = score_files(model, folder, scores, label=label)
        wanted = events[:]["log_prob"]
        if has_labels and label is None:
            wanted = log_probs(model, events[:]["x"])
        np.testing.assert_allclose(
            np.concatenate([*map(scores_in, found.files)]), wanted, rtol=1e-5
        )
        assert len(found.files) == 3


def test_images_in_lists_of_any_length(tmp_path):
    """Other writers of Parquet than ``generate`` save lists whose length is no part of the type."""
    model, _ = events_of("images")
    images = np.random.default_rng(0).choice([0, 85, 170, 255], (5, 2, 3)).astype(np.uint8)
    kind = pyarrow.list_(pyarrow.list_(pyarrow.uint8()))
    table = pyarrow.table({"image": pyarrow.array(images.tolist(), kind)})
    pyarrow.parquet.write_table(table, tmp_path / "images.parquet")
    found = score_files(model, tmp_path / "images.parquet", tmp_path / "scores")
    wanted = log_probs(model, model.pixels.encode(images))
    np.testing.assert_allclose(scores_in(found.files[0]), wanted, rtol=1e-6)


def test_pieces(files, monkeypatch):
    """A file that is read in pieces has the same scores, and errors count rows from its start."""
    folder, scores = files
    paths = [folder / "c.csv", folder / "d.parquet"]
    whole = score_files(plane(), paths, scores)
    monkeypatch.setattr(score_reading, "_ROWS", 7)
    assert len(list(score_reading.pieces(plane(), folder / "d.parquet", None))) == 8
    found = score_files(plane(), paths, scores.with_name("pieces"))
    for a, b in zip(whole.files, found.files, strict=True):
        np.testing.assert_allclose(scores_in(a), scores_in(b), rtol=1e-6)
    kinds = ["3"] * 45 + ["fig"] * 5
    tables.write(folder / "d.parquet", {"a": X[:, 0], "b": X[:, 1], "kind": kinds})
    with pytest.raises(ValueError, match=r"d.parquet: .*unknown label 'fig'.*row 45"):
        score_files(labelled(), folder / "d.parquet", scores.with_name("bad"), label="kind")


def test_zero_densities_and_missing_values(tmp_path):
    box = Fitted(models.Box(1), {"low": np.zeros(1, np.float32), "high": np.ones(1, np.float32)})
    found = {}
    for name, x in {
        "in": [0.5, 0.2],
        "out": [0.5, 3.0],
        "nan": [0.5, np.nan, 3.0],
        "one": [1],
    }.items():
        path = tmp_path / f"{name}.csv"
        tables.write(path, np.array(x, float), ("x0",))
        found[name] = score_files(box, path, tmp_path / name)[:5]
    assert found["in"] == (2, 0.0, 0.0, 0, 0)
    assert str(found["out"]) == "(2, -inf, nan, 1, 0)"
    assert str(found["one"]) == "(1, 0.0, nan, 0, 0)"
    missing = log_probs(box, np.array([[np.nan]]))
    assert found["nan"][3:] == (1, int(np.isnan(missing).sum()))
    assert math.isnan(found["nan"][1]) or not np.isnan(missing).any()


@pytest.mark.parametrize("pool", ["threads", "processes"])
def test_executors(pool, files):
    folder, scores = files
    alone = score_files(plane(), folder, scores)
    if pool == "threads":
        executor = concurrent.futures.ThreadPoolExecutor(2)
    else:
        import bulk_jobs

        executor = concurrent.futures.ProcessPoolExecutor(1, mp_context=bulk_jobs.context())
    with executor:
        found = score_files(plane(), folder, scores.with_name("pool"), executor=executor)
        with pytest.raises(ValueError, match=r"c.csv: .*no column 'x7'"):
            score_files(
                _named("a", "x7"), folder / "c.csv", scores.with_name("bad"), executor=executor
            )
    np.testing.assert_allclose(found[:5], alone[:5], rtol=1e-6)
    for a, b in zip(alone.files, found.files, strict=True):
        np.testing.assert_allclose(scores_in(a), scores_in(b), rtol=1e-6)


def _named(*columns):
    return Fitted(plane().model, plane().params, columns=columns)


@pytest.mark.parametrize(("writes", "scored"), [(0, 4), (1, 4), (4, 3), (5, 2), (8, 1)])
def test_a_run_that_stops_goes_on(writes, scored, files, monkeypatch):
    """After a disk is full the finished files are kept, and the others are scored.

    The first write is that of the job; each file then has its scores and its record.
    """
    folder, scores = files
    whole = score_files(plane(), folder, scores.with_name("whole"))
    left = [writes]

    def fault(point):
        left[0] -= point == "before fsync"
        if left[0] < 0:
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(output, "fault", fault)
        with pytest.raises(OSError, match="No space left"):
            score_files(plane(), folder, scores)
    if writes:
        with pytest.raises(ValueError, match=r"holds scores already: .*resume=True"):
            score_files(plane(), folder, scores)
    names = counted(monkeypatch)
    found = score_files(plane(), folder, scores, resume=True)
    assert len(names) == scored
    assert found[:5] == whole[:5]
    for a, b in zip(whole.files, found.files, strict=True):
        assert a.read_bytes() == b.read_bytes()


def counted(monkeypatch):
    """A list that gets the name of each file that is scored."""
    names, read = [], score_tasks.pieces

    def pieces(fitted, path, label):
        names.append(path.name)
        return read(fitted, path, label)

    monkeypatch.setattr(score_tasks, "pieces", pieces)
    return names


def test_what_has_changed_is_scored_again(files, monkeypatch):
    folder, scores = files
    paths = [folder / name for name in ("b.npz", "c.csv", "d.parquet")]
    score_files(plane(), paths, scores)
    names = counted(monkeypatch)
    assert score_files(plane(), paths, scores, resume=True).events == 100
    assert names == []
    for path in paths:  # another time of the same bytes is no change
        os.utime(path, (0, 0))
    moved = shutil.copytree(folder, folder.with_name("copy"))
    assert score_files(plane(), [moved / p.name for p in paths], scores, resume=True).events == 100
    assert names == []
    text = paths[1].read_text()
    paths[1].write_text(text.replace("3", "4", 1))
    (scores / "d.parquet").write_bytes((scores / "d.parquet").read_bytes()[:-1])
    (scores / ".jaxgen" / "scores" / "b.json").write_text("{}")
    found = score_files(plane(), paths, scores, resume=True)
    assert sorted(names) == ["b.npz", "c.csv", "d.parquet"]
    assert (
        found.files[1].read_bytes()
        == score_files(plane(), paths, scores.with_name("new")).files[1].read_bytes()
    )


def test_other_jobs_are_refused(files):
    folder, scores = files
    score_files(plane(), folder, scores)
    others = {
        "other model": (plane(2.0), {}),
        "other file_format .parquet there, npy here": (plane(), {"file_format": "npy"}),
    }
    for words, (model, arguments) in others.items():
        with pytest.raises(ValueError, match=f"holds scores of another job, with {words}"):
            score_files(model, folder, scores, resume=True, **arguments)
    with (
        locked(scores / ".jaxgen" / "lock", 0, 1),
        pytest.raises(BlockingIOError, match="another process writes scores here"),
    ):
        score_files(plane(), folder, scores, resume=True)
    with pytest.raises(ValueError, match="is in the folder of the scores"):
        score_files(plane(), scores, scores, resume=True)


def bad_inputs(folder):
    """Files that no model of two columns can score, with words of the error."""
    np.save(folder / "wide.npy", np.zeros((3, 5)))
    (folder / "text.csv").write_text("a,b\n1,pear\n")
    (folder / "few.csv").write_text("a,c\n1,2\n")
    (folder / "bad.parquet").write_bytes(b"PAR1 is all that is right")
    whole = pyarrow.table({"a": X[:, 0], "b": X[:, 1]})
    pyarrow.parquet.write_table(whole, folder / "cut.parquet")
    content = (folder / "cut.parquet").read_bytes()
    (folder / "cut.parquet").write_bytes(content[: len(content) // 2])
    pyarrow.parquet.write_table(pyarrow.table({"a": ["x"], "b": ["y"]}), folder / "text.parquet")
    ragged = pyarrow.table({"a": [[1.0], [1.0, 2.0]], "b": [1.0, 2.0]})
    pyarrow.parquet.write_table(ragged, folder / "ragged.parquet")
    lists = pyarrow.table({"a": [[1.0, 2.0], [1.0, 2.0]], "b": [1.0, 2.0]})
    pyarrow.parquet.write_table(lists, folder / "lists.parquet")
    return {
        "lists.parquet": "column 'a' holds lists, not numbers",
        "wide.npy": "x must have shape",
        "text.csv": "pear",
        "few.csv": "no column 'b'",
        "bad.parquet": "bad.parquet: ",
        "cut.parquet": "cut.parquet: ",
        "text.parquet": "column 'a' is string, not numbers",
        "ragged.parquet": "column 'a': its lists have several lengths",
    }


def test_files_that_cannot_be_scored(files):
    folder, scores = files
    for number, (name, words) in enumerate(bad_inputs(folder).items()):
        directory = scores.with_name(f"scores-{number}")
        with pytest.raises(ValueError, match=words) as caught:
            score_files(plane(), [folder / "b.npz", folder / name], directory)
        assert str(caught.value).startswith(f"{folder / name}")
        assert [path.name for path in directory.glob("*.parquet")] == ["b.parquet"]


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"model": models.Gaussian(2)}, TypeError, "model must be a jaxgen.Fitted"),
        ({"paths": 3}, TypeError, "paths must be a folder or a list of files"),
        ({"paths": []}, ValueError, "at least one table"),
        ({"paths": ["none.csv"]}, FileNotFoundError, "none.csv is no file"),
        ({"paths": ["x.txt"]}, ValueError, "ending must be one of"),
        ({"paths": ["b.npz", "sub/b.csv"]}, ValueError, "would have one file of scores"),
        ({"paths": "empty"}, ValueError, "empty has none"),
        ({"paths": "unfinished"}, ValueError, "unfinished events"),
        ({"label": "kind"}, ValueError, "has no labels"),
        ({"file_format": "csv"}, ValueError, "'parquet' or 'npy', got 'csv'"),
        ({"executor": 4}, TypeError, "executor must be a concurrent.futures.Executor, got int"),
        ({"progress": 7}, TypeError, "progress must be"),
        ({"directory": "sub"}, ValueError, "must be a new or empty folder, but it holds 'b.csv'"),
        ({"directory": "no/folder"}, FileNotFoundError, "no/folder"),
    ],
)
def test_wrong_arguments(change, error, words, files, monkeypatch):
    """They raise before anything is written."""
    folder, _ = files
    monkeypatch.chdir(folder)
    for name in ("sub", "empty"):
        (folder / name).mkdir()
    (folder / "sub" / "b.csv").write_text("a,b\n1,2\n")
    (folder / "x.txt").write_text("a,b\n1,2\n")
    if change.get("paths") == "unfinished":
        generate(plane(), 4, "unfinished", key=KEY, block_rows=2, shard=(0, 2))
    arguments = {"model": plane(), "paths": ["b.npz"], "directory": "scores", **change}
    with pytest.raises(error, match=words):
        score_files(**arguments)
    assert not (folder / "scores").exists()
