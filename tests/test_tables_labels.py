"""Tables with labels, and tables from which some columns are read."""

import re
import time

import numpy as np
import pytest

from jaxgen.data import tables


def csv(tmp_path, text, encoding="utf-8"):
    path = tmp_path / "t.csv"
    path.write_bytes(text.encode(encoding))
    return path


def labelled(path, labels, columns=("a", "b")):
    """Write a file of two features with labels in the column between them, "kind"; return x."""
    x = np.arange(2.0 * len(labels)).reshape(-1, 2) / 8
    if path.suffix == ".csv":
        lines = [f"{a},{name},{b}" for (a, b), name in zip(x, labels, strict=True)]
        path.write_text("\n".join([f"{columns[0]},kind,{columns[1]}", *lines]))
    elif path.suffix == ".npz":
        np.savez(path, x=x, kind=np.array(labels), columns=np.array(columns))
    else:
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.table({columns[0]: x[:, 0], "kind": labels, columns[1]: x[:, 1]}), path)
    return x


@pytest.mark.parametrize("ending", ["csv", "npz", "parquet"])
@pytest.mark.parametrize(
    ("given", "labels"),
    [
        (["pear", "apple", "pear"], ["pear", "apple", "pear"]),
        (["ünï", "7", "a b"], ["ünï", "7", "a b"]),
        ([3, -1, 3], [3, -1, 3]),
        (["3", "-7", "1.0"], [3, -7, 1]),
        (["3", "007", "1"], ["3", "007", "1"]),
        ([2.0, 0.0, -5.0], [2, 0, -5]),
        ([0.5, 1.0, 0.5], ["0.5", "1.0", "0.5"]),
        (["1", "9" * 30, "3"], ["1", "9" * 30, "3"]),
        (["nan", "inf", "1e3"], ["nan", "inf", "1e3"]),
    ],
    ids=repr,
)
def test_labels(ending, given, labels, tmp_path):
    path = tmp_path / f"t.{ending}"
    x = labelled(path, given)
    table = tables.read(path, "kind")
    assert table.columns == ("a", "b")
    assert table.labels.tolist() == labels
    assert table.labels.dtype.kind in "iU"
    np.testing.assert_array_equal(table.values, x)


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ('x,kind\n1,"a, b"\n2,c\n', ["a, b", "c"]),
        ('x, kind\n1, "a"\n2, a \n', ["a", "a"]),  # a quote after a space
        ('x,kind\n1,"say ""a"""\n2,"a\nb"\n', ['say "a"', "a\nb"]),
        ("x,kind\n,a\n\n2,b\n", ["a", "b"]),  # an empty feature is NaN
        ("kind,x\n# 1,1\n 2 ,2\n", ["# 1", "2"]),
    ],
    ids=repr,
)
def test_labels_of_a_csv(text, labels, tmp_path):
    table = tables.read(csv(tmp_path, text), "kind")
    assert table.columns == ("x",)
    assert table.labels.tolist() == labels
    first = 1 if not np.isnan(table.values[0, 0]) else np.nan
    np.testing.assert_array_equal(table.values, [[first], [2]])


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("x,y\n1,2\n", "no column 'kind'; the columns are 'x', 'y'"),
        ("1,2\n3,4\n", "line 1: no header, so no column 'kind'"),
        ("x,kind\n1,a\n2,\n", "line 3, column 2 (kind): the label is missing"),
        ("x,kind\n1,a\n2, \n", "line 3, column 2 (kind): the label is missing"),
        ("x,kind\n1,a\nb,2\n", "line 3, column 1 (x): 'b' is not a number"),
        ("x,kind\n1,a\n2\n", "line 3, column 2: expected 2 cells, got 1"),
        ("x,kind\n1,a\n2,a,3\n", "line 3, column 3: expected 2 cells, got 3"),
        ("x,kind\n", "line 2, column 1: no rows below the header"),
        ("kind\na\n", "no columns except that of the labels, 'kind'"),
        ("x,kind,kind\n1,a,b\n", "columns 2 and 3 have one name, 'kind'"),
    ],
    ids=lambda text: repr(text)[:40],
)
def test_csv_errors_of_labels(text, why, tmp_path):
    path = csv(tmp_path, text)
    with pytest.raises(ValueError, match=re.escape(f"{path}: {why}")):
        tables.read(path, "kind")


@pytest.mark.parametrize("ending", ["csv", "npz", "parquet"])
def test_chosen_columns(ending, tmp_path):
    path = tmp_path / f"t.{ending}"
    x = labelled(path, ["pear", "apple"])
    for label in (None, "kind"):  # the text column is ignored, or is the label
        table = tables.read(path, label, ("b", "a"))
        assert table.columns == ("b", "a")
        np.testing.assert_array_equal(table.values, x[:, ::-1])
        assert label is None or table.labels.tolist() == ["pear", "apple"]
        table = tables.read(path, label, ("b",))
        assert table.columns == ("b",)
        np.testing.assert_array_equal(table.values, x[:, 1:])
    with pytest.raises(ValueError, match=r"no column 'c', 'd'; the columns are 'a', .*'b'"):
        tables.read(path, None, ("c", "a", "d"))
    if ending != "npz":  # where the label is a separate array
        with pytest.raises(ValueError, match="'a' is a feature, so it cannot be the label too"):
            tables.read(path, "a", ("b", "a"))


def test_chosen_columns_of_a_file_without_names(tmp_path):
    for ending in ("csv", "npy", "npz"):
        tables.write(tmp_path / f"t.{ending}", np.ones((2, 2)))
        table = tables.read(tmp_path / f"t.{ending}", columns=("a", "b"))
        assert table.columns is None
        assert table.values.shape == (2, 2)


def test_what_is_ignored_in_a_csv_may_be_anything(tmp_path):
    text = 'note,x,z\n"a, b",1,\n"say ""hi""",2,no\n "a, b",3,-\n'
    np.testing.assert_array_equal(
        tables.read(csv(tmp_path, text), None, ("x",)).values.T, [[1, 2, 3]]
    )
    with pytest.raises(ValueError, match="line 3, column 3: expected 3 cells, got 2"):
        tables.read(csv(tmp_path, "note,x,z\na,1,b\na,2\n"), None, ("x",))
    with pytest.raises(ValueError, match=r"line 3, column 2 \(x\): 'b' is not a number"):
        tables.read(csv(tmp_path, "note,x\na,1\na,b\n"), None, ("x",))


def test_errors_of_labels_in_arrays(tmp_path):
    x, path = np.ones((2, 2)), tmp_path / "t.npz"
    np.save(tmp_path / "t.npy", x)
    with pytest.raises(ValueError, match=r"t.npy: an .npy is one array .* no 'kind'"):
        tables.read(tmp_path / "t.npy", "kind")
    for arrays, why in (
        ({}, r"no array 'kind'; it has \['x'\]"),
        ({"kind": np.arange(3)}, r"'kind' must have shape \(2,\), got \(3,\)"),
        ({"kind": np.ones((2, 1))}, r"'kind' must have shape \(2,\), got \(2, 1\)"),
        ({"kind": np.array(["a", ""])}, "'kind' has no label in row 1"),
        ({"kind": np.array([np.nan, 1])}, "'kind' has no label in row 0"),
        ({"kind": np.array([1j, 1])}, "'kind' must hold text or numbers, got complex128"),
    ):
        np.savez(path, x=x, **arrays)
        with pytest.raises(ValueError, match=f"t.npz: {why}"):
            tables.read(path, "kind")
    np.savez(path, events=x, kind=np.array([True, False]))
    assert tables.read(path, "kind").labels.tolist() == ["True", "False"]


def test_labels_in_parquet(tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    path = tmp_path / "t.parquet"

    def write(**columns):
        pq.write_table(pa.table(columns), path)

    write(x=[1.0, 2.0], kind=pa.array(["a", "b"]).dictionary_encode())  # a pandas category
    assert tables.read(path, "kind").labels.tolist() == ["a", "b"]
    write(x=[1.0, 2.0], kind=pa.array([4, 5], pa.int8()))
    assert tables.read(path, "kind").labels.tolist() == [4, 5]
    for kind in (pa.array(["a", None]), pa.array([1, None]), pa.array([1.0, None])):
        write(x=[1.0, 2.0], kind=kind)
        with pytest.raises(ValueError, match=r"t.parquet: 'kind' has no label in row 1"):
            tables.read(path, "kind")
    write(x=[1.0, 2.0], kind=[[1], [2]])
    with pytest.raises(ValueError, match="must hold text or numbers"):
        tables.read(path, "kind")
    with pytest.raises(ValueError, match="no column 'y'; the columns are 'x', 'kind'"):
        tables.read(path, "y")
    write(x=[1.0, 2.0], kind=np.array([1, 2], "datetime64[ns]"))
    with pytest.raises(ValueError, match="must hold text or numbers"):
        tables.read(path, "kind")
    write(kind=["a"])
    with pytest.raises(ValueError, match="no columns except that of the labels, 'kind'"):
        tables.read(path, "kind")


def test_a_large_csv_with_labels_is_fast(tmp_path):
    rng = np.random.default_rng(0)
    x, names = rng.normal(size=(200_000, 2)), np.array(["setosa", "virginica"])
    kinds = names[rng.integers(0, 2, len(x))]
    path = tmp_path / "t.csv"
    path.write_text(
        "a,b,kind\n"
        + "".join(f"{a!r},{b!r},{k}\n" for (a, b), k in zip(x.tolist(), kinds, strict=True))
    )
    began = time.perf_counter()
    table = tables.read(path, "kind")
    assert time.perf_counter() - began < 3  # 0.3 s on an idle machine
    np.testing.assert_array_equal(table.values, x)
    np.testing.assert_array_equal(table.labels, kinds)


@pytest.mark.parametrize("ending", ["csv", "npz", "parquet"])
def test_labels_may_be_missing(ending, tmp_path):
    path = tmp_path / f"t.{ending}"
    for given, expected in (
        (["pear", "", "?", "apple"], ["pear", None, None, "apple"]),
        (["2", "", "?", "7"], [2, None, None, 7]),
    ):
        labelled(path, given)
        reading = tables.Reading(na=("?",))
        table = tables.read(path, "kind", reading=reading, missing_labels=True)
        assert table.labels.tolist() == expected
        with pytest.raises(ValueError, match="label"):
            tables.read(path, "kind", reading=reading)
