"""What all tests share: one group a model for parallel runs, and the count of law checks."""

import os
import sys

os.environ.setdefault("JAX_PLATFORMS", "cpu" if os.environ.get("JAXGEN_TEST_GPU") is None else "")
sys.path.insert(0, os.path.dirname(__file__))  # for cases.py


def pytest_configure(config):
    # pytest -n 2 --dist loadgroup keeps the laws of a model, which share programs, on one worker
    config.addinivalue_line("markers", "xdist_group(name): tests that one worker runs")


def pytest_terminal_summary(terminalreporter):
    reports = [
        report
        for report in terminalreporter.stats.get("passed", [])
        if "test_laws.py" in report.nodeid
    ]
    if reports:
        models = {report.nodeid.split("[")[1].split("-")[0] for report in reports}
        terminalreporter.line(f"{len(reports)} law checks of {len(models)} models")
