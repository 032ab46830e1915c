"""How the tests run: in groups that share compiled programs, each with a budget of programs.

A group is a test file, or the laws of one row of ``cases.py``. One worker runs all of a group and
then frees the programs that it compiled, so that the number of programs a group compiles does not
depend on earlier groups. ``tests/budget.toml`` limits that number; after a change that needs more
programs, ``pytest -n 2 --write-budget`` writes the new numbers.
"""

from __future__ import annotations

import gc
import os
import pathlib
import resource
import sys
import tomllib

os.environ.setdefault("JAX_PLATFORMS", "cpu" if os.environ.get("JAXGEN_TEST_GPU") is None else "")
TESTS = pathlib.Path(__file__).parent
sys.path.insert(0, str(TESTS))  # so that tests can import cases.py

import jax  # noqa: E402
import pytest  # noqa: E402
from compilation import Compilation  # noqa: E402

from jaxgen.laws import count_compiles  # noqa: E402

BUDGET = TESTS / "budget.toml"
SLOWEST = 10
HELD = 500  # most programs in memory within a group; each takes about 2 MiB

compilation = Compilation(
    pathlib.Path(os.environ.get("JAXGEN_TEST_CACHE", TESTS.parent / ".cache"))
)
held = [0]  # programs compiled since they were last freed
programs: dict[str, tuple[str, int]] = {}  # {test: (group, number of programs)}


def pytest_addoption(parser):
    parser.addoption(
        "--write-budget", action="store_true", help="write tests/budget.toml from what this runs"
    )


def pytest_configure(config):
    if not hasattr(config, "workerinput"):  # the main process, which reports
        config.pluginmanager.register(Totals(config), "jaxgen-totals")


def group_of(test: str) -> str:
    """The group of a test, from its id: a row of ``cases.py`` for a law, else the file."""
    file, _, name = test.partition("::")
    if name.startswith("test_law["):
        return "laws of " + name.split("[")[1].split("-")[0]
    return file.removeprefix("tests/")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Order tests by group, the slowest first, so that all workers end at about the same time."""
    budget = read_budget()["programs"]
    groups: dict[str, list] = {}
    for item in items:
        groups.setdefault(group_of(item.nodeid), []).append(item)
    order = sorted(groups, key=lambda group: -budget.get(group, 0))
    items[:] = [item for group in order for item in groups[group]]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Make one worker run a whole group."""
    from xdist.scheduler import LoadScopeScheduling

    class ByGroup(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            return group_of(nodeid)

    config.option.loadscopereorder = False
    return ByGroup(config, log)


def pytest_collection_finish():
    """Exclude what is imported so far from garbage collection, and collect less often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item, nextitem):
    compilation.quick = item.get_closest_marker("optimized") is None
    with count_compiles() as count:
        result = yield
    group = group_of(item.nodeid)
    programs[item.nodeid] = group, count[0]
    held[0] += count[0]
    if nextitem is None or group_of(nextitem.nodeid) != group:
        compilation.forget()
        held[0] = 0
    elif held[0] > HELD:
        compilation.free()
        held[0] = 0
    return result


def pytest_sessionfinish(session):
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput |= {"programs": programs, "memory": peak_memory()}


def peak_memory() -> float:
    """The peak memory of this process, in GiB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def read_budget() -> dict:
    return tomllib.loads(BUDGET.read_text()) if BUDGET.exists() else {"jax": "", "programs": {}}


class Totals:
    """Totals over all workers, which are compared with the budget and printed at the end."""

    def __init__(self, config):
        self.config = config
        self.programs = programs
        self.seconds: dict[str, float] = {}
        self.memory: dict[str, float] = {}
        self.over: list[str] = []

    @property
    def groups(self) -> dict[str, int]:
        """Number of programs that each group compiled."""
        total: dict[str, int] = {}
        for group, count in self.programs.values():
            total[group] = total.get(group, 0) + count
        return total

    def pytest_runtest_logreport(self, report):
        self.seconds[report.nodeid] = self.seconds.get(report.nodeid, 0.0) + report.duration

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node):
        output = getattr(node, "workeroutput", {})
        self.programs.update(output.get("programs", {}))
        self.memory[node.gateway.id] = output.get("memory", 0.0)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session, exitstatus):
        if self.config.getoption("write_budget"):
            self._write()
            return
        budget = read_budget()
        if budget["jax"] != jax.__version__ or jax.default_backend() != "cpu":
            return  # another version of JAX compiles other programs
        if self.config.getoption("markexpr") != "not slow":
            return  # the budget is for the default selection of tests
        for group, count in sorted(self.groups.items()):
            limit = budget["programs"].get(group)
            if count and limit is None:
                self.over.append(f"{group} compiled {count} programs and has no budget yet")
            elif count and count > limit:
                self.over.append(f"{group} compiled {count} programs, its budget is {limit}")
        if self.over and exitstatus == 0:
            session.exitstatus = 1

    def pytest_terminal_summary(self, terminalreporter):
        line = terminalreporter.line
        terminalreporter.section("slowest tests, and the programs they compiled")
        for test in sorted(self.seconds, key=self.seconds.get, reverse=True)[:SLOWEST]:
            line(f"{self.seconds[test]:7.1f} s {self.programs.get(test, (0, 0))[1]:5} {test}")
        memory = self.memory or {"this process": peak_memory()}
        line("peak memory: " + ", ".join(f"{k} {v:.2f} GiB" for k, v in sorted(memory.items())))
        line(f"{sum(self.groups.values())} programs compiled")
        rows = [group for test, (group, _) in self.programs.items() if "::test_law[" in test]
        line(f"{len(rows)} law checks of {len(set(rows))} models")
        for message in self.over:
            line(f"over budget: {message}; see --write-budget", red=True)

    def _write(self):
        """Write the counted numbers with some margin, and keep those of groups that did not run."""
        counts = read_budget()["programs"] | {
            group: count + count // 10 + 2 for group, count in self.groups.items() if count
        }
        lines = [f"{_quoted(group)} = {count}" for group, count in sorted(counts.items())]
        head = "# Programs that each group of tests may compile: see tests/conftest.py."
        text = f'{head}\njax = "{jax.__version__}"\n\n[programs]\n' + "\n".join(lines) + "\n"
        BUDGET.write_text(text)


def _quoted(group):
    return '"' + group.replace('"', "") + '"'
