"""Tables of events: the numbers and names that are written are read back."""

import os
import re
import sys
import time

import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen import Fitted, compose
from jaxgen.data import tables
from jaxgen.models import Bernoulli

NAMES = ("latitude", 'say "x", m', "ünï")
BITS = np.random.default_rng(0).integers(0, 2**32, 30_000, np.uint32).view(np.float32)
FLOATS = {
    "float32": np.concatenate(
        [BITS[np.isfinite(BITS)], [0.1, -0.0, 1e-45, np.inf, -np.inf]]
    ).astype("f4"),
    "float64": np.array([0.1, 1 / 3, 5e-324, -1.7976931348623157e308, 2**53 + 2.0, -0.0]),
    "float16": np.array([0.1, 6e-8, 65504, np.inf, 1, 2], np.float16),
    "int32": np.array([-(2**31), 2**31 - 1, 0, 1, 2, 3], np.int32),
    "bool": np.array([True, False, True, True, False, False]),
}

BLANK = [[np.nan, np.nan]]  # a row


def csv(tmp_path, text, encoding="utf-8"):
    path = tmp_path / "t.csv"
    path.write_bytes(text.encode(encoding))
    return path


@pytest.mark.parametrize("ending", ["csv", "npy", "npz", "parquet", "CSV"])
@pytest.mark.parametrize("dtype", FLOATS)
def test_numbers_and_names_come_back(ending, dtype, tmp_path):
    values = FLOATS[dtype]
    values = values[: len(values) // 3 * 3].reshape(-1, 3)
    path = tmp_path / f"t.{ending}"
    tables.write(path, values, NAMES)
    columns, back, labels = tables.read(path)
    assert labels is None
    assert columns == (None if ending == "npy" else NAMES)
    back = back.astype(dtype)
    if dtype == "bool":
        np.testing.assert_array_equal(back, values)
    else:
        assert back.tobytes() == values.tobytes()  # -0.0 too


@pytest.mark.parametrize("ending", ["csv", "npy", "npz", "parquet"])
def test_without_names(ending, tmp_path):
    values = jnp.arange(6.0).reshape(3, 2)
    tables.write(tmp_path / f"t.{ending}", values)
    columns, back, _ = tables.read(tmp_path / f"t.{ending}")
    assert columns == (("x0", "x1") if ending == "parquet" else None)
    np.testing.assert_array_equal(back, values)


@pytest.mark.parametrize("ending", ["csv", "npz", "parquet"])
def test_one_feature_is_a_column(ending, tmp_path):
    tables.write(tmp_path / f"t.{ending}", np.arange(3.0), ("x",))
    columns, back, _ = tables.read(tmp_path / f"t.{ending}")
    assert columns == ("x",)
    np.testing.assert_array_equal(back, [[0], [1], [2]])


def test_other_dtypes_and_orders(tmp_path):
    values = np.arange(6.0).reshape(2, 3).T
    for ending in ("csv", "npy", "npz", "parquet"):
        tables.write(tmp_path / f"t.{ending}", jnp.asarray(values, jnp.bfloat16))
        np.testing.assert_array_equal(tables.read(tmp_path / f"t.{ending}").values, values)


@pytest.mark.parametrize("ending", ["npy", "npz"])
def test_images(ending, tmp_path):
    images = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    tables.write(tmp_path / f"t.{ending}", images)
    back = tables.read(tmp_path / f"t.{ending}").values
    assert back.dtype == np.uint8
    np.testing.assert_array_equal(back, images)
    with pytest.raises(ValueError, match=r"\(2, 3, 4\)"):
        tables.write(tmp_path / "t.csv", images)


@pytest.mark.parametrize(
    ("text", "columns", "values"),
    [
        ("1,2\n3,4\n", None, [[1, 2], [3, 4]]),
        ("x,y\n1,2\n", ("x", "y"), [[1, 2]]),
        ("\ufeffx,y\r\n1,2\r\n\r\n3,4", ("x", "y"), [[1, 2], [3, 4]]),
        ("\n\nx, y \n\n1, 2 \n", ("x", "y"), [[1, 2]]),
        ('"x\ny","a,b"\n"1",2\n', ("x\ny", "a,b"), [[1, 2]]),
        ("2019,y\n1,2\n", ("2019", "y"), [[1, 2]]),
        ("1,,nan\n,-inf,3e-2\n", None, [[1, np.nan, np.nan], [np.nan, -np.inf, 0.03]]),
        ("x,y\n1,\n ,2\n", ("x", "y"), [[1, np.nan], [np.nan, 2]]),
        ("nan,2\n", None, [[np.nan, 2]]),
        ("x\n1\n2\n", ("x",), [[1], [2]]),
        ("0.1", None, [[0.1]]),
        ("x,y\nTrue,false\nFALSE,\ntrue ,TRUE\n", ("x", "y"), [[1, 0], [0, np.nan], [1, 1]]),
    ],
    ids=repr,
)
def test_csv(text, columns, values, tmp_path):
    table = tables.read(csv(tmp_path, text))
    assert table.columns == columns
    assert table.values.dtype == np.float64
    np.testing.assert_array_equal(table.values, values)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "line 1, column 1: the file is empty"),
        ("\n\n", "line 1, column 1: the file is empty"),
        ("x,y\n", "line 2, column 1: no rows"),
        ("x,y\n1,2\n3,four\n", "line 3, column 2 (y): 'four' is not a number"),
        ("1,2\n\n\n3,1_000\n", "line 4, column 2: '1_000' is not a number"),
        ("1,2\n3\n", "line 2, column 2: expected 2 cells, got 1"),
        ("1,2\n3,4,5\n", "line 2, column 3: expected 2 cells, got 3"),
        ("x,y\n1,2,3\n4,5,6\n", "line 2, column 3: expected 2 cells, got 3"),
        (
            "x;y\n1;2,5\n",
            "line 2, column 2 (y): '2,5' is not a number: write the decimal comma as a point, 2.5",
        ),
        (
            'x,y\n1,"3,750"\n',
            "'3,750' is not a number: if the comma is a decimal comma, write "
            "3.750; if it separates thousands, write 3750",
        ),
        ('x,y\n1,"1,234,567.5"\n', "write it without the commas between thousands, 1234567.5"),
        ('x,y\n1,"12,34,5"\n', "'12,34,5' is not a number"),
        (
            "x,y\nTrue,1\n0.5,2\n",
            "line 2, column 1 (x): 'True' in a column with other numbers than 0 and 1, such as 0.5",
        ),
        ("x,y\nTrue,1\nno,2\n", "line 3, column 1 (x): 'no' is not a number"),
        ("x|y\n1|2\n", "line 2, column 1 (x|y): '1|2' is not a number"),
        ("# made by hand\n1,2\n", "line 2, column 2: expected 1 cells, got 2"),
        ('"x\ny",z\n1,2\n"3\n",no\n', "line 4, column 2 (z): 'no' is not a number"),
        (",x\n0,1\n", "column 1 has no name; is it an index?"),
        ("x,x\n0,1\n", "columns 1 and 2 have one name, 'x'"),
        ('x\n"' + "a" * 200_000, "field larger than field limit"),
    ],
    ids=lambda text: repr(text)[:40],
)
def test_csv_errors_name_file_line_and_column(text, why, tmp_path):
    path = csv(tmp_path, text)
    with pytest.raises(ValueError, match=re.escape(why)) as caught:
        tables.read(path)
    assert str(path) in str(caught.value)
    assert not isinstance(caught.value, UnicodeError)


def test_csv_in_another_encoding(tmp_path):
    for text, encoding in (("größe,x\n1,2\n", "latin-1"), ("x,y\n1,2\n", "utf-16")):
        with pytest.raises(ValueError, match="UTF-8"):
            tables.read(csv(tmp_path, text, encoding))
    with pytest.raises(ValueError, match="UTF-8"):
        tables.read(csv(tmp_path, "x,y\n1,2\n" * 1 + "1,2\n" * 100_000 + "é,1\n", "latin-1"))


def test_a_large_csv_is_fast(tmp_path):
    values = np.random.default_rng(0).normal(size=(200_000, 2)).astype(np.float32)
    began = time.perf_counter()
    tables.write(tmp_path / "t.csv", values, ("x", "y"))
    back = tables.read(tmp_path / "t.csv").values
    took = time.perf_counter() - began
    np.testing.assert_array_equal(back.astype(np.float32), values)
    assert took < 5  # 0.4 s on an idle machine; a loop over cells would take that long for one read


@pytest.mark.parametrize("name", ["t", "t.txt", "t.pkl", "csv"])
def test_an_unknown_ending_is_refused(name, tmp_path):
    for call in (tables.read, tables.check_output, lambda p: tables.write(p, np.ones((2, 2)))):
        with pytest.raises(ValueError, match=r"\.csv, \.npy, \.npz, \.parquet"):
            call(tmp_path / name)


def test_npz_takes_x_or_the_only_array(tmp_path):
    path = tmp_path / "t.npz"
    np.savez(path, x=np.ones((2, 2)), other=np.zeros(3))
    assert tables.read(path).values.shape == (2, 2)
    np.savez(path, events=np.ones((4, 1)), columns=np.array(["a"]))
    assert tables.read(path) == (("a",), pytest.approx(np.ones((4, 1))), None)
    np.savez(path, a=np.ones(2), b=np.ones(2))
    with pytest.raises(ValueError, match=r"t.npz: needs an array named 'x'.*\['a', 'b'\]"):
        tables.read(path)
    np.savez(path, x=np.ones((2, 2)), columns=np.array(["a"]))
    with pytest.raises(ValueError, match=r"1 column names for values of shape \(2, 2\)"):
        tables.read(path)


@pytest.mark.parametrize("ending", ["npy", "npz", "parquet"])
def test_damaged_files_are_refused(ending, tmp_path):
    path = tmp_path / f"t.{ending}"
    tables.write(path, np.arange(200.0).reshape(100, 2))
    raw = path.read_bytes()
    for content in (b"", b"abc", raw[: len(raw) // 2], raw[:20], raw[20:], b"\0" * 500):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=re.escape(str(path))):
            tables.read(path)


@pytest.mark.parametrize("ending", ["npy", "npz"])
def test_pickles_are_refused(ending, tmp_path):
    path, objects = tmp_path / f"t.{ending}", np.array([{"a": 1}], object)
    (np.save if ending == "npy" else np.savez)(path, objects)
    with pytest.raises(ValueError, match=f"t.{ending}: pickled"):
        tables.read(path)


def test_text_and_single_numbers_are_refused(tmp_path):
    for array in (np.array(["a"]), np.array(3.0), np.ones((2, 2), complex)):
        np.save(tmp_path / "t.npy", array)
        with pytest.raises(ValueError, match=r"t.npy: not a table of numbers"):
            tables.read(tmp_path / "t.npy")


def test_the_cost_of_names_is_linear(tmp_path):
    """20,000 columns in tables, in parts of a model, and with a duplicate name."""
    names = tuple(f"column{j}" for j in range(20_000))
    values, backwards = np.arange(40_000.0).reshape(2, -1), names[::-1]
    model = compose.Product((Bernoulli((10_000,)), Bernoulli((10_000,))))
    fitted = Fitted(model, ({"logits": np.zeros(10_000)},) * 2, columns=names)
    began = time.process_time()
    for ending in ("csv", "npz"):
        path = tmp_path / f"t.{ending}"
        tables.write(path, values, names)
        columns, back, _ = tables.read(path, columns=backwards)
        assert columns == backwards
        np.testing.assert_array_equal(back, values[:, ::-1])
    with pytest.raises(ValueError, match="columns 1 and 20000 have one name"):
        tables.write(path, values, (*names[:-1], names[0]))
    assert fitted.marginal(backwards[::2]).columns == backwards[::2]
    assert time.process_time() - began < 2  # about 0.7 s on an idle machine


def test_parquet_types(tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    path = tmp_path / "t.parquet"
    floats = pa.array([1, None], pa.float32())
    index = pa.array([7, 8])
    columns = {"a": floats, "b": pa.array([True, None]), "__index_level_0__": index}
    pq.write_table(pa.table(columns), path)
    table = tables.read(path)
    assert table.columns == ("a", "b")
    np.testing.assert_array_equal(table.values, [[1, 1], [np.nan, np.nan]])
    for bad in (pa.array(["x"]), pa.array([[1.0]]), pa.array([None])):
        pq.write_table(pa.table({"fine": [1.0], "bad": bad}), path)
        with pytest.raises(ValueError, match=r"t.parquet: column 'bad' is \w"):
            tables.read(path)
    pq.write_table(pa.table([floats, floats], names=["a", "a"]), path)
    with pytest.raises(ValueError, match="have one name, 'a'"):
        tables.read(path)
    pq.write_table(pa.table({}), path)
    with pytest.raises(ValueError, match="no columns"):
        tables.read(path)


def test_parquet_without_pyarrow_names_the_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    path = tmp_path / "t.parquet"
    for call in (tables.read, tables.check_output, lambda p: tables.write(p, np.ones((2, 2)))):
        with pytest.raises(ImportError, match=r"jaxgen\[parquet\]"):
            call(path)
    assert os.listdir(tmp_path) == []


def test_names_that_would_not_be_read_back_are_refused(tmp_path):
    values = np.ones((2, 2))
    with pytest.raises(ValueError, match="would be read as data"):
        tables.write(tmp_path / "t.csv", values, ("0", "1"))
    with pytest.raises(ValueError, match="have one name"):
        tables.write(tmp_path / "t.npz", values, ("a", "a"))
    with pytest.raises(ValueError, match=r"1 column names for values of shape \(2, 2\)"):
        tables.write(tmp_path / "t.npy", values, ("a",))
    with pytest.raises(ValueError, match=r"shape \(\)"):
        tables.write(tmp_path / "t.npy", 1.0)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("ending", ["csv", "npy", "npz", "parquet"])
def test_writing_is_atomic(ending, monkeypatch, tmp_path):
    path = tmp_path / f"t.{ending}"
    path.write_bytes(b"old")

    def full(fd):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        tables.write(path, np.ones((2, 2)))
    assert os.listdir(tmp_path) == [path.name]
    assert path.read_bytes() == b"old"


def test_missing_places(tmp_path):
    for ending in ("csv", "npy", "npz", "parquet"):
        with pytest.raises(FileNotFoundError):
            tables.read(tmp_path / f"gone.{ending}")
    with pytest.raises(FileNotFoundError, match="there is no directory"):
        tables.write(tmp_path / "gone" / "t.csv", np.ones((2, 2)))
    with pytest.raises(FileNotFoundError, match="there is no directory"):
        tables.check_output(tmp_path / "gone" / "t.csv")
    tables.check_output(tmp_path / "t.csv")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("text", "reading", "values"),
    [
        (
            "x,y\n1,NA\nN/A,2\nnull, None \n<NA>,nan\n",
            {},
            [[1, np.nan], [np.nan, 2], *BLANK, *BLANK],
        ),
        ("x,y\n1,?\n-999,2\n-999.0,?\n", {"na": ("?", "-999")}, [[1, np.nan], [np.nan, 2], *BLANK]),
        ("1,NA\n2,3\n", {}, [[1, np.nan], [2, 3]]),  # no header
        ("x;y\n1;2\n", {}, [[1, 2]]),
        ("x\ty\n1\t\n", {}, [[1, np.nan]]),
        ('"x;1",y\n1,2\n', {}, [[1, 2]]),
        ("x;1,y\n1,2\n", {}, [[1, 2]]),
        ('"x,1";y\n1;2\n', {}, [[1, 2]]),
        ("x|y\n1|2\n", {"delimiter": "|"}, [[1, 2]]),
    ],
    ids=lambda text: repr(text)[:40],
)
def test_missing_values_and_delimiters(text, reading, values, tmp_path):
    table = tables.read(csv(tmp_path, text), reading=tables.Reading(**reading))
    np.testing.assert_array_equal(table.values, values)


@pytest.mark.parametrize("ending", ["csv", "npy", "npz", "parquet"])
def test_numbers_that_are_missing_values(ending, tmp_path):
    path = tmp_path / f"t.{ending}"
    tables.write(path, np.array([[1, -999], [0, 2]]), None if ending == "npy" else ("a", "b"))
    values = tables.read(path, reading=tables.Reading(na=("-999", "none"))).values
    np.testing.assert_array_equal(values, [[1, np.nan], [0, 2]])


def test_text_in_many_columns_is_one_error(tmp_path):
    path = csv(tmp_path, "a,kind,b,c\n1,red,?,1\n2,blue,3,2\n3,red,4,unknown\n")
    with pytest.raises(tables.NotANumber, match=r"line 2, column 2 \(kind\): 'red'") as caught:
        tables.read(path)
    assert caught.value.texts == {"kind": ["red", "blue"], "b": ["?"], "c": ["unknown"]}
    assert caught.value.text_alone == ["kind"]
    known = tables.Reading(na=("?", "unknown"))
    table = tables.read(path, ignore=("kind",), reading=known)
    assert table.columns == ("a", "b", "c")
    with pytest.raises(ValueError, match=r"no column 'knd'.*; did you mean 'kind'\?"):
        tables.read(path, ignore=("knd",))
    with pytest.raises(ValueError, match="'kind' is ignored, so it cannot be the label"):
        tables.read(path, "kind", ignore=("kind",), reading=known)


@pytest.mark.parametrize("ending", ["csv", "npz", "parquet"])
def test_columns_of_numbers_and_text(ending, tmp_path):
    """Columns by name are written, come back as features and label, and as they are."""
    path = tmp_path / f"t.{ending}"
    x = np.array([0.1, np.nan, 2], np.float32)
    kind = np.array(["pear", None, 'big, "fig"'], object)
    tables.write(path, {"id": np.array([7, 8, 9]), "x": x, "kind": kind})
    held = tables.cells(path)
    assert set(held) == {"id", "x", "kind"}
    assert [str(v or "") for v in held["kind"]] == ["pear", "", 'big, "fig"']
    assert [float(v) for v in held["id"]] == [7, 8, 9]
    columns, values, _ = tables.read(path, columns=("x", "id"))
    assert columns == ("x", "id")
    np.testing.assert_array_equal(values[:, 0].astype(np.float32), x)
    with pytest.raises(ValueError, match="label"):
        tables.read(path, "kind")
    tables.write(path, {"x": x, "kind": np.array([2, 0, 2])})
    table = tables.read(path, "kind")
    assert table.columns == ("x",)
    assert table.labels.tolist() == [2, 0, 2]


def test_columns_that_a_format_cannot_hold(tmp_path):
    with pytest.raises(ValueError, match=r"t.npy: cannot hold columns with names"):
        tables.write(tmp_path / "t.npy", {"x": np.ones(2)})
    images = {"x": np.ones((2, 3, 4)), "kind": np.array(["a", "b"])}
    with pytest.raises(ValueError, match="columns must have one length"):
        tables.write(tmp_path / "t.csv", images)
    with pytest.raises(ValueError, match="columns must have one length"):
        tables.write(tmp_path / "t.csv", {"x": np.ones(2), "y": np.ones(3)})
    tables.write(tmp_path / "t.npz", images)
    table = tables.read(tmp_path / "t.npz", "kind")
    assert table.values.shape == (2, 3, 4)
    assert table.labels.tolist() == ["a", "b"]


def test_tabs_between_the_cells_of_a_tsv(tmp_path):
    path = tmp_path / "t.tsv"
    path.write_text("a,b\tkind\n1\tx\n\ty\n")
    table = tables.read(path, "kind")
    assert table.columns == ("a,b",)
    assert table.labels.tolist() == ["x", "y"]
    np.testing.assert_array_equal(table.values, [[1], [np.nan]])
    assert tables.row_name(path, 1) == "line 3"
    with pytest.raises(ValueError, match=r"line 3, column 2 \(kind\): 'y'|line 2.*'x' is not"):
        tables.read(path)
    tables.write(path, {"a": np.array([1, 2]), "b, c": np.array(["x\ty", "z"])})
    assert path.read_bytes() == b'a\tb, c\n1\t"x\ty"\n2\tz\n'
    assert tables.cells(path)["b, c"].tolist() == ["x\ty", "z"]
    path.write_text("a|b\n1|2\n")
    assert tables.read(path, reading=tables.Reading(delimiter="|")).columns == ("a", "b")


def test_dates_and_missing_entries_in_text(tmp_path):
    day = np.array(["2020-01-01", "NaT", "2020-01-03"], "datetime64[ns]")
    columns = {
        "day": day,
        "time": day + np.timedelta64(36001, "ms"),
        "took": np.array([93600, -1, 0], "timedelta64[s]"),
        "id": np.ma.masked_array([2**60 + 1, 0, 3], [False, True, False]),
        "flag": np.array([True, False, True]),
        "none": np.array([None, "a", None], object),
    }
    tables.write(tmp_path / "t.csv", columns)
    assert (tmp_path / "t.csv").read_text() == (
        "day,time,took,id,flag,none\n"
        "2020-01-01,2020-01-01T00:00:36.001,1 days 02:00:00,1152921504606846977,True,\n"
        ",,-1 days +23:59:59,,False,a\n"
        "2020-01-03,2020-01-03T00:00:36.001,0 days 00:00:00,3,True,\n"
    )
    tables.write(tmp_path / "t.npz", columns)
    held = np.load(tmp_path / "t.npz")
    assert held["id"].tolist() == ["1152921504606846977", "", "3"]  # floats would not be exact
    np.testing.assert_array_equal(held["day"], day)
    assert held["columns"].tolist() == ["flag"]
    with pytest.raises(ValueError, match="complex numbers"):
        tables.write(tmp_path / "t.csv", np.ones((2, 2), complex))


def test_a_column_without_a_name(tmp_path):
    path = csv(tmp_path, ",a,b\n0,1,2\n1,3,4\n")
    for options in ({"ignore": ("",)}, {"columns": ("a", "b")}):
        table = tables.read(path, **options)
        assert table.columns == ("a", "b")
        np.testing.assert_array_equal(table.values, [[1, 2], [3, 4]])
    assert list(tables.cells(path)) == ["", "a", "b"]


def test_arrays_of_an_npz_that_are_left_out(tmp_path):
    path = tmp_path / "t.npz"
    np.savez(path, x=np.ones((2, 2)), y=np.zeros(2), columns=np.array(["a", "b"]))
    assert tables.extra_arrays(path) == ["y"]
    assert tables.names(path) == ("a", "b")
    np.savez(path, events=np.ones((2, 2)))
    assert tables.extra_arrays(path) == []
