"""Events in bulk, read back by ``Dataset`` and by other packages, and verified."""

import pathlib
import pickle
import shutil

import jax
import numpy as np
import pandas
import pyarrow.dataset
import pytest

import jaxgen
from jaxgen import Fitted, compose, models, networks
from jaxgen.data.bulk import Dataset, Verified, dataset, generate, verify
from jaxgen.data.bulk.drawing import digits

KEY = jax.random.key(0)
N, BLOCK = 50, 20
X = np.random.default_rng(0).normal(size=(N, 2)).astype(np.float32)
KINDS = ["table", "numbered", "images", "matrices", "texts", "conditions"]
FOLDERS = [f"{kind}-{file_format}" for kind in KINDS for file_format in ("parquet", "npy")]


def fitted(kind):
    """A small model, and the arguments of ``generate`` for it."""
    if kind in ("table", "numbered"):
        model = compose.PerClass(models.Gaussian(2), 3)
        params = model.init(KEY, X, np.arange(50) % 3)
        labels, columns = (
            (("pear", "apple", "fig"), ("a", "b")) if kind == "table" else (None, None)
        )
        return Fitted(model, params, columns=columns, labels=labels), {"log_prob": True}
    if kind == "images":
        pixels = jaxgen.data.PixelFormat("L", 4)
        model = models.Categorical((2, 3), 4)
        return Fitted(model, model.init(KEY), pixels=pixels), {"log_prob": True}
    if kind == "matrices":
        model = models.Categorical((2, 3), 4)
        return Fitted(model, model.init(KEY)), {}
    if kind == "texts":
        return jaxgen.fit(models.NGram(), ["anna", "bob", "käthe"], key=KEY), {"log_prob": True}
    model = compose.Conditional(networks.MLP((2,), 4, 1), models.Gaussian(1))
    params = model.init(KEY, X[:, :1], X)
    return Fitted(model, params, y_columns=("u", "v")), {"y": X}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A folder of each kind of events in each format, and the rows that it should have."""
    root, rows = tmp_path_factory.mktemp("folders"), {}
    for kind in KINDS:
        model, arguments = fitted(kind)
        for file_format in ("parquet", "npy"):
            folder = root / f"{kind}-{file_format}"
            generate(model, N, folder, key=KEY, block_rows=BLOCK, file_format=file_format,
                     **arguments)  # fmt: skip
            rows[folder.name] = drawn(model, arguments, file_format)
    return root, rows


def drawn(model, arguments, file_format):
    """The rows of the dataset, by the methods of the model."""
    y = arguments.get("y")
    has_labels = model.model.classes is not None
    found = model.sample(KEY, N, y, with_labels=has_labels)
    x, y = found if has_labels else (found, y)
    rows = {"x": x if isinstance(x, list) else np.asarray(x)}
    if y is not None:
        rows["y"] = np.asarray(y)
    if "log_prob" in arguments:
        rows["log_prob"] = np.asarray(model.log_prob(x, y))
    if model.pixels is not None:
        rows["x"] = model.pixels.decode(x)
    if model.vocabulary is not None and file_format == "npy":
        rows["x"] = np.asarray(model.events_of(x))
    return rows


def is_same(found, wanted):
    """Whether two dicts of rows are equal, the dtypes included."""
    assert list(found) == list(wanted)
    for name, value in wanted.items():
        if isinstance(value, list):
            assert found[name] == value
        elif value.dtype.kind == "f":
            assert found[name].dtype == value.dtype
            np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-5)
        else:
            assert np.asarray(found[name]).dtype.kind == value.dtype.kind
            np.testing.assert_array_equal(found[name], value)


def some(rows, which):
    return {k: [v[i] for i in which] if isinstance(v, list) else v[which] for k, v in rows.items()}


@pytest.mark.parametrize("name", FOLDERS)
def test_rows_by_index_slice_and_numbers(name, folders):
    """Rows are those of the model, whichever way they are asked for."""
    events, rows = Dataset(folders[0] / name), folders[1][name]
    assert (len(events), events.complete, events.directory) == (N, True, folders[0] / name)
    is_same(events[:], rows)
    every = np.arange(N)
    for part in (
        slice(5, 45),
        slice(-3, None),
        slice(None, None, -7),
        slice(15, 42, 5),
        slice(3, 3),
    ):
        is_same(events[part], some(rows, every[part]))
    picked = [45, -1, 3, 3, -50, 21]
    is_same(events[picked], some(rows, every[picked]))
    is_same(events[np.array(picked)], some(rows, every[picked]))
    is_same(events[[]], some(rows, every[:0]))
    assert [len(batch["x"]) for batch in events.batches(23)] == [23, 23, 4]
    for number in (0, 19, 20, -1, np.int64(33)):
        for key, value in events[number].items():
            whole = events[[number]][key][0]
            assert np.array_equal(value, whole), (key, value)
    assert [np.array_equal(row["x"], events[i]["x"]) for i, row in enumerate(events)] == [True] * N


def test_a_row_has_plain_values(folders):
    row = Dataset(folders[0] / "table-parquet")[7]
    assert row["x"].shape == (2,)
    assert type(row["y"]) is str
    assert row["log_prob"].shape == ()
    assert type(Dataset(folders[0] / "texts-parquet")[7]["x"]) is str
    image = Dataset(folders[0] / "images-parquet")[7]["x"]
    assert (image.shape, image.dtype) == ((2, 3), np.uint8)
    assert Dataset(folders[0] / "table-npy").columns == ("a", "b")


def test_rows_are_copies(folders):
    """A change of what was read changes neither the file nor later rows."""
    for name in ("table-parquet", "table-npy"):
        events = Dataset(folders[0] / name)
        before = events[3]["x"].copy()
        for found in (events[3]["x"], events[3:4]["x"], events[[3]]["x"]):
            found[...] = 7
        assert np.array_equal(events[3]["x"], before)


@pytest.mark.parametrize("name", ["table-parquet", "texts-parquet", "images-npy"])
def test_a_pickle_has_no_open_files(name, folders):
    events = Dataset(folders[0] / name)
    _ = events[:]
    content = pickle.dumps(events)
    assert len(content) < 10_000
    is_same(pickle.loads(content)[30:50], some(folders[1][name], range(30, 50)))


def test_few_blocks_stay_open(folders, monkeypatch):
    monkeypatch.setattr(dataset, "_MOST_BYTES", 300)
    parquet, npy = (Dataset(folders[0] / f"table-{f}") for f in ("parquet", "npy"))
    for events in (parquet, npy):
        is_same(
            events[[1, 21, 41, 2, 22, 42]], some(folders[1]["table-npy"], [1, 21, 41, 2, 22, 42])
        )
    assert len(parquet._open) == 1  # a block has 20 rows of 16 bytes
    assert len(npy._open) == 3  # mapped files take no memory
    monkeypatch.setattr(dataset, "_MOST_BLOCKS", 2)
    _ = npy[0], npy[20], npy[40], npy[1]
    assert list(npy._open) == [2, 0]


@pytest.mark.parametrize(
    ("index", "error", "words"),
    [
        (N, IndexError, "index 50 is out of range: .* has 50 rows"),
        (-N - 1, IndexError, "index -51 is out of range"),
        ([0, 99], IndexError, "index 99 is out of range"),
        ("x", TypeError, "an int, a slice or ints .k,., got 'x'"),
        (1.5, TypeError, "got 1.5"),
        ([0.5], TypeError, "got float64 of shape .1,."),
        (np.ones(N, bool), TypeError, "got bool"),
        ([[1]], TypeError, "of shape .1, 1."),
    ],
)
def test_wrong_indices(index, error, words, folders):
    with pytest.raises(error, match=words):
        Dataset(folders[0] / "table-parquet")[index]


def test_wrong_folders_and_sizes(folders, tmp_path):
    for function in (Dataset, verify):
        with pytest.raises(FileNotFoundError, match=r"holds no events .*: it has no manifest"):
            function(tmp_path)
        with pytest.raises(FileNotFoundError, match="there is no such folder"):
            function(tmp_path / "none")
    with pytest.raises(ValueError, match="size must be at least 1"):
        Dataset(folders[0] / "table-parquet").batches(0)
    with pytest.raises(TypeError, match="progress must be True, False or None"):
        verify(folders[0] / "table-parquet", progress="yes")


@pytest.fixture
def unfinished(tmp_path):
    model, arguments = fitted("table")
    return generate(model, N, tmp_path / "events", key=KEY, block_rows=BLOCK, shard=(0, 3),
                    **arguments)  # fmt: skip


def test_an_unfinished_folder(unfinished):
    model, arguments = fitted("table")
    folder = unfinished.directory
    assert (len(unfinished), unfinished.complete) == (N, False)
    for use in (lambda: unfinished[0], lambda: unfinished[:3], lambda: list(unfinished.batches(9))):
        with pytest.raises(
            ValueError, match=r"unfinished: 2 of 3 blocks are missing; .*resume=True"
        ):
            use()
    found = verify(folder)
    assert found._replace(bytes=0) == Verified(20, 1, 0, 2)
    assert str(found).endswith("unfinished, 2 blocks missing; the others are as they were written")
    change(folder / "block-000000.parquet", flip)
    with pytest.raises(ValueError, match=r"block-000000.parquet is damaged: its bytes"):
        verify(folder)
    change(folder / "block-000000.parquet", flip)
    generate(model, N, folder, key=KEY, block_rows=BLOCK, resume=True, **arguments)
    assert unfinished[-1]["x"].shape == (2,)
    assert unfinished.complete


def test_verified(folders):
    folder = folders[0] / "table-npy"
    found = verify(folder, progress=False)
    assert found == Verified(N, 3, sum(p.stat().st_size for p in folder.glob("*.npy")), 0)
    assert (
        str(found) == f"50 events in 3 blocks, {found.bytes:,} bytes: all are as they were written"
    )


def change(path, function):
    path.write_bytes(function(path.read_bytes()))


def flip(content):
    """One bit of the last number of an .npy, or of the first page of a Parquet file."""
    place = 60 if content[:4] == b"PAR1" else len(content) - 1
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


DAMAGE = {
    "missing": (pathlib.Path.unlink, "is missing"),
    "cut": (lambda p: change(p, lambda c: c[:-7]), "bytes, and .* were written"),
    "longer": (lambda p: change(p, lambda c: c + b"7"), "bytes, and .* were written"),
    "empty": (lambda p: p.write_bytes(b""), "it has 0 bytes"),
    "flipped": (lambda p: change(p, flip), "its bytes are not those that were written"),
    "a folder": (lambda p: (p.unlink(), p.mkdir()), "bytes|is missing"),
}


@pytest.mark.parametrize("name", DAMAGE)
@pytest.mark.parametrize("file", ["block-000001.parquet", "x-000001.npy"])
def test_damaged_blocks(name, file, folders, tmp_path):
    """A damaged block is named, and no row of it is returned; other blocks can still be read."""
    file_format = file.rpartition(".")[2]
    folder = shutil.copytree(folders[0] / f"table-{file_format}", tmp_path / "events")
    act, words = DAMAGE[name]
    act(folder / file)
    events = Dataset(folder)
    for use in (lambda: events[20], lambda: events[:], lambda: [*events], lambda: verify(folder)):
        with pytest.raises(ValueError, match=f"{file}.*({words})"):
            use()
    is_same(events[:20], some(folders[1][f"table-{file_format}"], range(20)))


def test_several_bad_files(folders, tmp_path):
    folder = shutil.copytree(folders[0] / "table-npy", tmp_path / "events")
    (folder / "x-000001.npy").unlink()
    (folder / "y-000001.npy").unlink()
    change(folder / "y-000000.npy", flip)
    shutil.copy(folder / "x-000000.npy", folder / "x-000003.npy")
    words = (
        "y-000000.npy .*; of 9 files in the manifest: 1 with other bytes, 2 missing, 1 not in the"
    )
    with pytest.raises(ValueError, match=words):
        verify(folder)


def test_files_that_are_not_of_the_job(folders):
    """Files whose hashes are right, under a manifest that says something else."""
    for kind, other in (("table", "matrices"), ("images", "conditions"), ("texts", "table")):
        for file_format in ("parquet", "npy"):
            events = Dataset(folders[0] / f"{kind}-{file_format}")
            blocks = Dataset(folders[0] / f"{other}-{file_format}").manifest.blocks
            events.directory = folders[0] / f"{other}-{file_format}"
            events.manifest = events.manifest._replace(blocks=blocks[::-1])
            with pytest.raises(ValueError, match="does not hold what the manifest says"):
                events[0]


def test_an_extra_file_is_found(folders, tmp_path):
    folder = shutil.copytree(folders[0] / "table-parquet", tmp_path / "events")
    shutil.copy(folder / "block-000000.parquet", folder / "more.parquet")
    (folder / "_notes").write_text("readers skip it")
    with pytest.raises(ValueError, match=r"more.parquet is not in the manifest"):
        verify(folder)


def test_names_of_many_blocks_are_in_order():
    """Readers of a folder sort its files by name."""
    for count in (1, 10**6, 10**6 + 1, 10**9):
        width = digits(count)
        names = [f"{number:0{width}}" for number in (0, 9, 10, 99, count // 2, count - 1)]
        assert {len(name) for name in names} == {width}


NUMBERS = {"table-parquet": ["a", "b", "y", "log_prob"], "conditions-parquet": ["x0", "u", "v"]}


@pytest.mark.parametrize("name", NUMBERS)
def test_pandas_and_pyarrow_read_tables(name, folders):
    folder, rows = folders[0] / name, folders[1][name]
    wanted = np.column_stack([rows["x"], *([rows["y"]] if name.startswith("c") else [])])
    for frame in (
        pandas.read_parquet(folder),
        pyarrow.dataset.dataset(folder).to_table().to_pandas(),
    ):
        assert list(frame.columns) == NUMBERS[name]
        numbers = frame[[c for c in frame.columns if c not in ("y", "log_prob")]].to_numpy()
        np.testing.assert_allclose(numbers, wanted, rtol=1e-5, atol=1e-5)
        assert numbers.dtype == np.float32
        if name.startswith("table"):
            assert frame["y"].tolist() == rows["y"].tolist()
            np.testing.assert_allclose(frame["log_prob"], rows["log_prob"], rtol=1e-5)


@pytest.mark.parametrize("kind", ["images", "texts"])
def test_pandas_and_pyarrow_read_images_and_texts(kind, folders):
    folder, rows = folders[0] / f"{kind}-parquet", folders[1][f"{kind}-parquet"]
    column = "image" if kind == "images" else "text"
    wanted = rows["x"] if isinstance(rows["x"], list) else rows["x"].tolist()
    table = pyarrow.dataset.dataset(folder).to_table()
    assert table.column_names == [column, "log_prob"]
    assert table[column].to_pylist() == wanted
    found = pandas.read_parquet(folder)[column]
    if kind == "images":
        found = [np.stack(image).tolist() for image in found]
    assert list(found) == wanted


@pytest.mark.parametrize("name", ["table-parquet", "table-npy", "images-parquet", "texts-parquet"])
def test_torch_reads_rows(name, folders):
    data = pytest.importorskip("torch.utils.data")
    events, rows = Dataset(folders[0] / name), folders[1][name]
    found = list(data.DataLoader(events, batch_size=15))
    assert [len(batch["x"]) for batch in found] == [15, 15, 15, 5]
    found = {k: joined([batch[k] for batch in found]) for k in found[0]}
    is_same(found, rows)
    shuffled = [*data.DataLoader(events, batch_size=15, shuffle=True)]
    assert sorted(joined([b["log_prob"] for b in shuffled])) == sorted(found["log_prob"])
    whole = data.BatchSampler(data.SequentialSampler(events), 15, drop_last=False)
    batches = [*data.DataLoader(events, sampler=whole, batch_size=None)]
    is_same({k: joined([batch[k] for batch in batches]) for k in batches[0]}, rows)


def joined(parts):
    """Batches of tensors as an array; strings in a list, or as labels in an array."""
    if isinstance(parts[0], list):
        found = [text for part in parts for text in part]
        return np.array(found) if set(found) <= {"pear", "apple", "fig"} else found
    return np.concatenate([np.asarray(part) for part in parts])


@pytest.mark.filterwarnings("ignore:os.fork")
def test_workers_of_torch_read_rows(folders):
    data = pytest.importorskip("torch.utils.data")
    events = Dataset(folders[0] / "images-parquet")
    found = list(
        data.DataLoader(events, 10, num_workers=2, multiprocessing_context="fork", timeout=60)
    )
    is_same({k: joined([b[k] for b in found]) for k in found[0]}, folders[1]["images-parquet"])


@pytest.mark.parametrize("name", ["table-parquet", "images-parquet", "texts-parquet"])
def test_hugging_face_reads_the_folder(name, folders, tmp_path):
    datasets = pytest.importorskip("datasets")
    found = datasets.load_dataset(
        "parquet", data_dir=str(folders[0] / name), split="train", cache_dir=str(tmp_path)
    )
    rows = folders[1][name]
    columns = {"table-parquet": ["a", "b"], "images-parquet": ["image"], "texts-parquet": ["text"]}
    x = [found[:][column] for column in columns[name]]
    x = list(x[0]) if len(x) == 1 else np.transpose(x)
    assert len(found) == N
    if isinstance(rows["x"], list):
        assert x == rows["x"]
    else:
        np.testing.assert_allclose(np.array(x), rows["x"], rtol=1e-5, atol=1e-5)
