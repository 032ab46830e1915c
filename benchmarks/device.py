"""``benchmarks/device.sh``: all that one visit to a GPU needs, in less than 9 minutes.

It compares draws and densities on the device with those of the CPU, counts the dispatches of one
draw, times the cases of ``device_cases`` beside torch, NumPyro and flowjax on the same device,
prints a table and writes ``benchmarks/results/NAME.json`` after each case. Cases that the budget
leaves no time for are named and skipped.

In the table, "memory" is the bytes that a call has to move over the memory's rate, and "peak" the
operations that it has to do over the device's float32 peak, as shares of the call's time.
NumPyro and flowjax take large calls in equal pieces; one of them is timed.
"""

import os

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # torch uses the GPU too

import argparse
import json
import re
import time
from datetime import datetime
from pathlib import Path

import jax

from benchmarks import machine, table
from benchmarks.harness import Harness, met

# bytes and float32 operations a second, by the vendor's data sheets (SXM; A100 of 80 GB)
KNOWN = {
    "H200": (4.8e12, 67e12),
    "H100": (3.35e12, 67e12),
    "A100": (2.04e12, 19.5e12),
    "L4": (0.3e12, 30e12),
    "T4": (0.32e12, 8.1e12),
}
LAYOUT = "{:<42.42} {:<24.24} {:>8} {:>7} {:>7} {:>7}  {}"
RESERVE = 45  # seconds that a case may take, with its compilation


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks/device.sh", description=__doc__)
    parser.add_argument("--cpu", action="store_true", help="run on the CPU, to try the script")
    parser.add_argument("--scale", type=float, default=1, help="share of the rows of each case")
    parser.add_argument("--seconds", type=float, default=480, help="budget of the whole run")
    parser.add_argument("--json", type=Path, help="file of rows")
    arguments = parser.parse_args()
    began = time.perf_counter()
    end = began + arguments.seconds
    if arguments.cpu:
        jax.config.update("jax_platforms", "cpu")
    from benchmarks import device_cases  # only now, as it starts JAX's devices

    fine, checks = _checks()
    failed = not fine

    date = datetime.now().astimezone().isoformat(timespec="seconds")
    run = machine.describe(quick=True)
    run["limits"], source = _limits(run["limits"])
    name = machine.device().lower().replace(" ", "_")
    default = Path(__file__).parent / "results" / f"{name}_device.json"
    path = arguments.json or (default if name == "cpu" else default.with_name(f"{name}.json"))
    data = {"runs": {date: run}, "checks": checks, "rows": []}
    rates = "{bytes:.3g} bytes/s, {flops:.3g} operations/s".format(**run["limits"])
    print(f"checks: {time.perf_counter() - began:.0f} s")
    print(f"\n{machine.name(run['machine'])}; {rates} ({source}); {_versions(run)}")
    print(LAYOUT.format("case", "side", "time", "ratio", "memory", "peak", "target"), flush=True)
    harness = Harness(machine.device(), machine.name(run["machine"]), date, run["limits"])
    harness.least, harness.seconds = (3, 0.5) if arguments.scale >= 1 else (2, 0.1)
    harness.question = "device"
    for case in device_cases.cases(arguments.scale):
        if time.perf_counter() + RESERVE > end:
            print(f"{case.name}: skipped, {end - time.perf_counter():.0f} s are left", flush=True)
            continue
        try:
            rows = device_cases.measure(harness, case)
        except Exception as error:  # such as a lack of memory; the other cases are measured
            print(f"{case.name}: failed: {error!r:.200}", flush=True)
            failed = True
            continue
        for row in rows:
            row["met"] = met(row)
            failed |= (row["note"] or "").startswith("failed")
            print(_line(row), flush=True)
        data["rows"] += rows
        path.write_text(json.dumps(data, indent=1) + "\n")
    where = f" in {path}" if data["rows"] else ""
    print(f"{len(data['rows'])} rows{where}, {time.perf_counter() - began:.0f} s")
    return int(failed)


def _checks() -> tuple[bool, list[str]]:
    """Whether the values of the device are those of the CPU; what all checks found, as lines."""
    from benchmarks import device_checks

    fine, lines = True, []

    def note(name, text):
        lines.append(f"{name:<30} {text}")
        print(lines[-1], flush=True)

    try:
        for name, (difference, rows, limit) in device_checks.differences().items():
            good = difference <= limit
            fine &= good
            text = "equal" if difference == 0 else f"{difference:.2g} at most, {rows} rows above"
            note(name, f"device and CPU: {text}{'' if good else '  FAILED'}")
        for name, (calls, kernels, guard) in device_checks.dispatches().items():
            note(name, f"{calls} dispatches, {kernels} kernels; transfer guard: {guard}")
    except Exception as error:  # the cases are measured all the same
        fine = False
        note("checks", f"failed: {error!r:.300}")
    return fine, lines


def _limits(measured):
    """The rates of the device, and where they are from."""
    for name, (rate, peak) in KNOWN.items():
        if name in re.split(r"[\s-]", machine.device()):
            return {"bytes": rate, "flops": peak}, "data sheet"
    return measured, "measured"


def _versions(run):
    names = ("jax", "torch", "numpyro", "flowjax")
    return ", ".join(f"{name} {run['versions'][name] or 'missing'}" for name in names)


def _line(row) -> str:
    cells = [""] * 4
    if row["seconds_median"]:
        shares = (row["memory_share"], row["peak_share"])
        cells = [
            table.duration(row["seconds_median"]),
            table.number(row["ratio_to_ours"]),
            *(table.number(share, 100, "%") for share in shares),
        ]
    aim, figure, verdict = table.compared(row)
    end = f"{aim}: {figure} {verdict.strip('*').upper()} " if aim else ""
    return LAYOUT.format(row["case"], row["side"], *cells, end + (row["note"] or ""))
