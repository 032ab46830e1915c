"""``python -m benchmarks``: run all questions or the named ones; print, save and draw the rows."""

import argparse
import importlib
import json
import sys
from datetime import datetime
from pathlib import Path

from tqdm import tqdm

from benchmarks import chart, machine, table
from benchmarks.harness import Harness, met

QUESTIONS = (
    "draw_uniform", "draw_normal", "draw_arrays", "draw_full_covariance", "stream",
    "draw_categorical", "mixture_log_prob", "mixture_sample", "mixture_fit", "middle_dimensions",
    "kde_log_prob", "flow_log_prob", "flow_sample", "flow_fit", "flow_compile", "ensemble_fit",
    "text_fit", "text_sample", "image_fit", "image_sample", "labels", "programs", "wide_events",
    "one_row", "public_functions", "first_sample", "first_fit", "import_time", "scaling",
)  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="questions; all by default")
    parser.add_argument("--quick", action="store_true", help="small sizes, to test that all run")
    parser.add_argument("--json", type=Path, help="file of rows; rows of other questions are kept")
    parser.add_argument("--chart", type=Path, help="file for the chart")
    parser.add_argument("--page", action="store_true", help="put the table into docs/speed.md")
    parser.add_argument("--list", action="store_true", help="list the questions")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(QUESTIONS):
        parser.error(f"no question {', '.join(sorted(unknown))}; there are {', '.join(QUESTIONS)}")
    names = arguments.names or QUESTIONS
    modules = {name: importlib.import_module(f"benchmarks.{name}") for name in names}
    if arguments.list:
        for name, module in modules.items():
            print(f"{name:<18} {module.__doc__.splitlines()[0]}")
        return 0
    date = datetime.now().astimezone().isoformat(timespec="seconds")
    run = machine.describe(arguments.quick)
    print(json.dumps(run, indent=2))
    if run["machine"]["load"] > 0.5:
        print("other processes are running; they slow down threaded peers most", file=sys.stderr)
    device = machine.device()
    name = device.lower().replace(" ", "_") + ("_quick" if arguments.quick else "")
    path = arguments.json or Path(__file__).parent / "results" / f"{name}.json"
    picture = arguments.chart or Path(__file__).parent / "results" / f"{name}.png"
    for file in (path, picture):
        file.parent.mkdir(parents=True, exist_ok=True)
    data = json.loads(path.read_text()) if path.exists() else {"runs": {}, "rows": []}
    data["runs"][date] = run
    for row in data["rows"]:
        row["machine"] = machine.name_of_row(row, data["runs"])
    here = machine.name(run["machine"])
    harness = Harness(device, here, date, run["limits"], arguments.quick)
    failed = False
    for question, module in tqdm(modules.items(), disable=None, leave=False, unit="question"):
        harness.question = question
        rows = list(module.run(harness))
        for row in rows:
            row["met"] = met(row)
            failed |= (row["note"] or "").startswith("failed")
        tqdm.write(table.text(rows), file=sys.stdout)
        _merge(data, question, rows)
        path.write_text(
            json.dumps(data, indent=1) + "\n"
        )  # after each question, since a long run may be stopped
    chart.draw(data).savefig(picture, dpi=110)
    print(f"\nrows in {path}, chart in {picture}")
    if arguments.page:
        table.write_page(data)
    return int(failed)


def _merge(data, question, rows):
    """Replace the rows of a question in the data, and remove runs that have no rows left."""
    rows = rows + [row for row in data["rows"] if row["question"] != question]
    data["rows"] = sorted(rows, key=lambda row: QUESTIONS.index(row["question"]))
    dates = {row["date"] for row in rows}
    data["runs"] = {date: run for date, run in data["runs"].items() if date in dates}


if __name__ == "__main__":
    sys.exit(main())
