"""The benchmarks' command runs from its arguments to the page, with one small question."""

import importlib
import json
import pathlib
import sys

import pytest

import benchmarks
from benchmarks import __main__ as command
from benchmarks import table


def test_command_writes_rows_chart_and_page(monkeypatch, tmp_path):
    pages = []
    monkeypatch.setattr(table, "write_page", pages.append)
    rows, chart = tmp_path / "rows.json", tmp_path / "chart.png"
    arguments = ["import_time", "--quick", "--page", "--json", str(rows), "--chart", str(chart)]
    monkeypatch.setattr(sys, "argv", ["benchmarks", *arguments])
    assert command.main() == 0
    data = json.loads(rows.read_text())
    assert {row["question"] for row in data["rows"]} == {"import_time"}
    assert pages == [data]
    assert chart.stat().st_size > 0


def test_unknown_question_is_named(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["benchmarks", "draw_nothing"])
    with pytest.raises(SystemExit):
        command.main()
    assert "no question draw_nothing; there are draw_uniform" in capsys.readouterr().err


MODULES = sorted(file.stem for file in pathlib.Path(benchmarks.__file__).parent.glob("*.py"))


@pytest.mark.parametrize("name", [m for m in MODULES if "torch" not in m and "peer" not in m])
def test_every_module_of_ours_is_importable(name):
    importlib.import_module(f"benchmarks.{name}")
