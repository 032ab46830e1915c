"""What all tests share: one group a model for parallel runs, and the count of law checks."""

import gc
import itertools
import os
import sys
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu" if os.environ.get("JAXGEN_TEST_GPU") is None else "")
sys.path.insert(0, os.path.dirname(__file__))  # for cases.py


def pytest_configure(config):
    # pytest -n 2 --dist loadgroup keeps the laws of a model, which share programs, on one worker
    config.addinivalue_line("markers", "xdist_group(name): tests that one worker runs")


_MAPS = Path("/proc/self/maps")
_started = itertools.count()


def pytest_runtest_setup(item):
    # Linux gives a process 65,530 memory maps, a compiled program takes ten, and without any left
    # the compiler crashes
    if next(_started) % 20 == 0 and _MAPS.exists() and _MAPS.read_bytes().count(b"\n") > 25_000:
        import jax

        jax.clear_caches()
        gc.collect()


def pytest_terminal_summary(terminalreporter):
    reports = [
        report
        for report in terminalreporter.stats.get("passed", [])
        if "test_laws.py" in report.nodeid
    ]
    if reports:
        models = {report.nodeid.split("[")[1].split("-")[0] for report in reports}
        terminalreporter.line(f"{len(reports)} law checks of {len(models)} models")
