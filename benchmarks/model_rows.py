"""The command line of benchmarks that fit models by name, and the file of their rows."""

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def arguments(name: str, text: str | None, models: Iterable[str]) -> argparse.Namespace:
    """The arguments ``data``, ``names``, ``epochs`` and ``json`` of a module of benchmarks."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=text)
    parser.add_argument("data", type=Path)
    parser.add_argument("names", nargs="*", choices=[[], *models], metavar="MODEL")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def write(rows: Iterable[dict[str, Any]], path: Path | None) -> None:
    """Print each row once it is measured, and write all rows so far to the path, if given."""
    measured = []
    for row in rows:
        measured.append(row)
        print(json.dumps(row), flush=True)
        if path:
            path.write_text(json.dumps(measured, indent=1) + "\n")
