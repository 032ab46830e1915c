"""The benchmarks' command runs from its arguments to the page, with one small question."""

import functools
import importlib
import json
import pathlib
import sys

import pytest

import benchmarks
from benchmarks import __main__ as command
from benchmarks import device, device_cases, machine, table
from benchmarks.harness import FIELDS
from benchmarks.timing import NewProcess

# a file of an earlier version, whose rows do not name their machine
OLDER = {
    "runs": {
        "2026-01-01": {
            "machine": {"cpu": "Intel(R) Xeon(R) Processor", "cores": 2, "device": "cpu"},
            "versions": dict.fromkeys(("jax", "numpy", "scikit-learn", "torch", "numpyro"), "1")
            | {"jaxgen": "0.1.0"},
        }
    },
    "rows": [
        {key: None for key in FIELDS if key != "machine"}
        | {"question": "stream", "case": "10 rows", "side": "jaxgen", "date": "2026-01-01"}
        | {"seconds_median": 1.0, "target": "seconds_median <= 2"}
    ],
}


@functools.cache
def described():
    return machine.describe(quick=True)


@pytest.fixture
def described_once(monkeypatch):
    """The machine is measured for all tests together."""
    record = described()
    monkeypatch.setattr(machine, "describe", lambda quick=False: dict(record))


def test_command_writes_rows_chart_and_page(monkeypatch, tmp_path, described_once):
    pages = []
    monkeypatch.setattr(table, "write_page", pages.append)
    rows, chart = tmp_path / "rows.json", tmp_path / "chart.png"
    rows.write_text(json.dumps(OLDER))
    arguments = ["import_time", "--quick", "--page", "--json", str(rows), "--chart", str(chart)]
    monkeypatch.setattr(sys, "argv", ["benchmarks", *arguments])
    assert command.main() == 0
    data = json.loads(rows.read_text())
    machines = {row["question"]: row["machine"] for row in data["rows"]}
    assert machines.pop("stream") == "Intel Xeon, 2 cores"
    assert machines == {"import_time": machine.name(described()["machine"])}
    lines = table.markdown(data).splitlines()
    (older,) = [line for line in lines if line.startswith("| stream: 10 rows")]
    assert older.endswith("| Intel Xeon, 2 cores | 0.1.0, 2026-01-01 |")
    assert pages == [data]
    assert chart.stat().st_size > 0


def test_unknown_question_is_named(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["benchmarks", "draw_nothing"])
    with pytest.raises(SystemExit):
        command.main()
    assert "no question draw_nothing; there are draw_uniform" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("record", "name"),
    [
        ({"device": "NVIDIA H200", "cpu": "Intel", "cores": 16}, "NVIDIA H200"),
        (
            {"device": "cpu", "cpu": "AMD EPYC", "cores": 2, "vectors": "AVX2"},
            "AMD EPYC, 2 cores, AVX2",
        ),
        (
            {"device": "cpu", "cpu": "Intel(R) Core(TM) i7 CPU @ 2.9GHz", "cores": 4},
            "Intel Core i7, 4 cores",
        ),
        ({"device": "cpu", "cpu": "", "cores": 4}, "CPU, 4 cores"),
    ],
)
def test_machines_have_names(record, name):
    assert machine.name(record) == name


def test_new_process_prints_its_seconds_or_is_timed():
    code = "import os; print(os.environ['SECONDS_OF_TEST'])"
    variables = {"SECONDS_OF_TEST": "1234"}
    assert NewProcess("-c", code, environment=variables, prints=True).time(1) == 1234
    assert 0 < NewProcess("-c", code, environment=variables).time(1) < 100


def test_device_script_measures_within_its_budget(monkeypatch, tmp_path, capsys, described_once):
    case = device_cases.Case(
        "zeros", 8, lambda: 8, {"jaxgen": lambda n: lambda: [0] * n}, {}, moved=32, done=8
    )
    monkeypatch.setattr(device_cases, "cases", lambda scale: [case._replace(n=int(8 * scale))])
    monkeypatch.setattr(device, "_checks", lambda: (True, []))
    for budget, count in (("480", 1), ("0", 0)):
        rows = tmp_path / f"{budget}.json"
        arguments = ["--cpu", "--scale", "2", "--seconds", budget, "--json", str(rows)]
        monkeypatch.setattr(sys, "argv", ["device.sh", *arguments])
        assert device.main() == 0
        assert ("zeros: skipped" in capsys.readouterr().out) == (count == 0)
        assert rows.exists() == (count == 1)
    (row,) = json.loads((tmp_path / "480.json").read_text())["rows"]
    assert row["n"] == 16
    assert row["memory_share"] > 0
    assert row["machine"]


def test_pieces_of_a_call_count_as_the_whole(monkeypatch):
    monkeypatch.setitem(device_cases.CHUNKS, "cpu", 10)
    whole = device_cases.Pieces(lambda n: lambda: n, 40)
    assert whole.call() == 10
    assert whole.pieces == 4


MODULES = sorted(file.stem for file in pathlib.Path(benchmarks.__file__).parent.glob("*.py"))


@pytest.mark.parametrize("name", [m for m in MODULES if "torch" not in m and "peer" not in m])
def test_every_module_of_ours_is_importable(name):
    importlib.import_module(f"benchmarks.{name}")
