"""Import time of jaxgen in a new process, and that of jax and NumPyro alone."""

from benchmarks.timing import NewProcess


def run(harness):
    makes = {"jaxgen": lambda _: _import("jaxgen"), "NumPyro": lambda _: _import("jax, numpyro")}
    case, targets = "import jaxgen; jax, numpyro", {"jaxgen": "times_peer <= 1.1"}
    rows = harness.compare(case, None, makes, targets)
    for row in rows:
        row["compile_seconds"] = row["peak_mib"] = None  # not measured in the child process
    if rows[1]["ratio_to_ours"]:
        rows[0]["times_peer"] = 1 / rows[1]["ratio_to_ours"]
    yield from rows


def _import(names):
    return NewProcess("-c", f"import {names}")
