"""The results as tables: one for the terminal, one for the documentation.

``python -m benchmarks.table benchmarks/results/cpu.json`` writes the rows that have a target into
docs/speed.md, between its markers.
"""

import json
import sys
from pathlib import Path

from benchmarks import machine
from benchmarks.harness import met

BEGIN, END = "<!-- benchmarks -->", "<!-- /benchmarks -->"
PAGE = Path(__file__).parents[1] / "docs" / "speed.md"
_LAYOUT = "{:<42.42} {:<23} {:>8} {:>5} {:>7} {:>6} {:>6} {:>7} {:>6}  {}"
_HEAD = "case", "side", "time", "+-", "M/s", "ratio", "limit", "compile", "MiB", "target"
_VERDICT = {True: "met", False: "**missed**", None: ""}
# of figures that are neither ratios nor times
_UNITS = {"memory_share": "", "growth_mib": " MiB", "peak_mib": " MiB", "error_nats": " nats"}


def text(rows) -> str:
    """A table for the terminal with one line for each row of one question."""
    lines = ["", f"{rows[0]['question']} ({rows[0]['machine']})", _LAYOUT.format(*_HEAD)]
    for row in rows:
        cells = [""] * 7
        if seconds := row["seconds_median"]:
            cells = [
                duration(seconds),
                f"{row['seconds_iqr'] / seconds:.0%}",
                number(row["events_per_second"], 1e-6),
                number(row["ratio_to_ours"]),
                number(row["roofline_fraction"], 100, "%"),
                "" if row["compile_seconds"] is None else f"{row['compile_seconds']:.2f} s",
                number(row["peak_mib"]),
            ]
        aim, figure, verdict = compared(row)
        end = f"{aim}: {figure} {verdict.strip('*').upper()} " if aim else ""
        lines.append(_LAYOUT.format(row["case"], row["side"], *cells, end + (row["note"] or "")))
    return "\n".join(lines)


def markdown(data) -> str:
    """A Markdown table of the rows that have a target."""
    lines = [
        f"Measured with {_versions(data)}. "
        "Medians of interleaved repeats, warm; x is the other library's time divided by jaxgen's.",
        "",
        "| | jaxgen | peer | target | figure | | machine | version and day |",
        "|---|---|---|---|---|---|---|---|",
    ]
    ours = {(r["question"], r["case"]): r for r in data["rows"] if r["side"] == "jaxgen"}
    for row in filter(lambda row: row["target"], data["rows"]):
        us = ours[row["question"], row["case"]]
        peer = "" if row is us else f"{row['side']} {_time(row)}"
        version = data["runs"][row["date"]]["versions"]["jaxgen"]
        measured = machine.name_of_row(row, data["runs"]), f"{version}, {row['date'][:10]}"
        cells = [f"{row['question']}: {row['case']}", _time(us), peer, *compared(row), *measured]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def where(data) -> str:
    """The machines and the dates of the rows, as text."""
    names = sorted({machine.name_of_row(row, data["runs"]) for row in data["rows"]})
    days = " to ".join(sorted({min(data["runs"])[:10], max(data["runs"])[:10]}))
    return f"{' or '.join(names)}; {days}"


def _versions(data) -> str:
    """The versions of the main packages in the runs that rows are of."""
    dates = {row["date"] for row in data["rows"]}
    runs = [run["versions"] for date, run in data["runs"].items() if date in dates]
    texts = []
    for name in ("jax", "numpy", "scikit-learn", "torch", "numpyro"):
        if each := sorted({versions[name] for versions in runs if versions[name]}):
            texts.append(f"{name} {' or '.join(each)}")
    return ", ".join(texts)


def write_page(data, path: Path = PAGE) -> None:
    """Write the Markdown table between the markers of a page, by default docs/speed.md.

    Raises:
      ValueError: the page has no markers.
    """
    before, begin, rest = path.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{path} has no {BEGIN} ... {END}")
    path.write_text(f"{before}{begin}\n{markdown(data)}\n{end}{after}")


def duration(seconds: float) -> str:
    """Seconds as text, in the largest unit that leaves a number of at least 1."""
    scale, unit = next((s for s in ((1, "s"), (1e-3, "ms")) if seconds >= s[0]), (1e-6, "us"))
    return number(seconds / scale, 1, f" {unit}")


def number(value: float | None, scale: float = 1, unit: str = "") -> str:
    """``scale * value`` as text with three digits, and its unit; "" for None."""
    if value is None:
        return ""
    value *= scale
    return (f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}") + unit


def _time(row):
    return duration(row["seconds_median"]) if row["seconds_median"] else row["note"] or ""


def compared(row):
    """The target, such as "at least 3 x", the figure, and whether the target is met, as text."""
    if row["target"] is None:
        return "", "", ""
    field, sign, value = row["target"].split()
    aim, figure = (
        duration(v) if v and field == "seconds_median" else number(v, 1, _UNITS.get(field, " x"))
        for v in (float(value), row.get(field))
    )
    return {">=": "at least ", "<=": "at most "}[sign] + aim, figure, _VERDICT[met(row)]


if __name__ == "__main__":
    write_page(json.loads(Path(sys.argv[1]).read_text()))
