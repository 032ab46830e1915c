"""Importing jaxgen in a fresh process, against importing what it stands on."""

import os
import subprocess
import sys


def run(harness):
    makes = {"jaxgen": lambda _: _import("jaxgen"), "NumPyro": lambda _: _import("jax, numpyro")}
    case, targets = "import jaxgen; jax, numpyro", {"jaxgen": "times_peer <= 1.1"}
    rows = harness.compare(case, None, makes, targets)
    for row in rows:
        row["compile_seconds"] = row["peak_mib"] = None  # they would be the child's
    if rows[1]["ratio_to_ours"]:
        rows[0]["times_peer"] = 1 / rows[1]["ratio_to_ours"]
    yield from rows


def _import(names):
    command = [sys.executable, "-c", f"import {names}"]
    # else a package that is not installed as a wheel would be compiled anew every time
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    return lambda: subprocess.run(command, check=True, env=environment).returncode
