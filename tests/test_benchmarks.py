"""The benchmarks' command runs from its arguments to the page, with one small question."""

import json
import sys

import pytest

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
