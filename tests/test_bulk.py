"""``jaxgen.generate``: the rows, the folder, what is refused, and runs that stop and go on."""

import concurrent.futures
import contextlib
import json
import multiprocessing
import shutil
import threading
import time

import bulk_jobs
import jax
import numpy as np
import pyarrow.parquet
import pytest
from bulk_jobs import BLOCK, POINTS, ROWS, content

import jaxgen
from jaxgen.data import output
from jaxgen.data.bulk import executors
from jaxgen.data.bulk.arguments import new_folder

BLOCKS = ROWS // BLOCK
KEY = bulk_jobs.key()


class Stop(BaseException):
    """The end of a process, within the process of the test."""


def fault_at(monkeypatch, point, visit, error, always=False):
    """Raise an error at the given visit of a point, and with ``always`` at all later ones."""
    count, mutex = [0], threading.Lock()

    def fault(reached):
        with mutex:
            count[0] += reached == point
            due = reached == point and (count[0] == visit or (always and count[0] > visit))
        if due:
            raise error

    monkeypatch.setattr(output, "fault", fault)


def are_whole(directory, undisturbed):
    """Whether each block in a folder has the bytes that it has in an undisturbed run."""
    found = content(directory).items()
    return all(undisturbed[name] == digest for name, digest in found if name.startswith("block"))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    directory = tmp_path_factory.mktemp("undisturbed") / "events"
    bulk_jobs.generate(directory)
    return content(directory)


def table(directory):
    return pyarrow.parquet.read_table(directory)


@pytest.mark.parametrize("name", ["mixture", "labelled"])
def test_the_rows_are_those_of_sample(name, tmp_path):
    make, rows, block = bulk_jobs.MODELS[name]
    fitted = make()
    events = jaxgen.generate(fitted, rows, tmp_path / "a", key=KEY, block_rows=block, log_prob=True)
    assert events.complete
    found = table(tmp_path / "a")
    x, labels = fitted.sample(KEY, rows, with_labels=True)
    drawn = np.stack([found["x0"], found["x1"]], 1)
    assert drawn.tobytes() == np.asarray(x).tobytes()
    y = None
    if name == "labelled":
        y = labels
        assert found["y"].to_pylist() == list(labels)
    np.testing.assert_allclose(found["log_prob"], fitted.log_prob(x, y), rtol=1e-5)


def test_conditions_of_each_row_and_one_for_all(tmp_path):
    fitted = bulk_jobs.program()
    y = np.random.default_rng(0).normal(size=(700, 2)).astype(np.float32)
    jaxgen.generate(fitted, 700, tmp_path / "each", key=KEY, y=y, block_rows=100)
    found = table(tmp_path / "each")
    assert np.stack([found["y0"], found["y1"]], 1).tobytes() == y.tobytes()
    np.testing.assert_allclose(found["x0"], fitted.sample(KEY, 700, y), rtol=1e-5)
    jaxgen.generate(fitted, 700, tmp_path / "one", key=KEY, y=y[0], block_rows=100)
    np.testing.assert_allclose(table(tmp_path / "one")["y1"], np.full(700, y[0, 1]))
    with pytest.raises(ValueError, match="with other y"):
        jaxgen.generate(fitted, 700, tmp_path / "one", key=KEY, y=y[1], block_rows=100, resume=True)
    jaxgen.generate(fitted, 700, tmp_path / "each", key=KEY, y=y, resume=True)  # complete already


def test_arrays_instead_of_tables(tmp_path):
    fitted = bulk_jobs.labelled()
    jaxgen.generate(fitted, 700, tmp_path / "a", key=KEY, file_format="npy", log_prob=True)
    x, y, log_p = (
        np.load(tmp_path / "a" / f"{name}-000000.npy") for name in ("x", "y", "log_prob")
    )
    drawn, labels = fitted.sample(KEY, 700, with_labels=True)
    assert x.tobytes() == np.asarray(drawn).tobytes()
    assert list(np.array(fitted.labels)[y]) == list(labels)
    assert log_p.shape == (700,)


@pytest.mark.parametrize("count", [1, 2, 3, 7, 30])
def test_any_number_of_shards_gives_the_same_bytes(count, undisturbed, tmp_path):
    order = np.random.default_rng(count).permutation(count)
    for i, shard in enumerate(order):
        bulk_jobs.generate(tmp_path / "a", shard=(int(shard), count))
        assert jaxgen.data.bulk.Dataset(tmp_path / "a").complete == (i == count - 1)
    assert content(tmp_path / "a") == undisturbed


@pytest.mark.parametrize("point", POINTS)
def test_a_run_that_stops_at_a_point_goes_on(point, undisturbed, tmp_path, monkeypatch):
    for visit in (1, 2, BLOCKS):
        directory = tmp_path / str(visit)
        fault_at(monkeypatch, point, visit, Stop())
        with contextlib.suppress(Stop):
            bulk_jobs.generate(directory)
        output.fault = None
        assert are_whole(directory, undisturbed)
        bulk_jobs.generate(directory, resume=True)
        assert content(directory) == undisturbed


@pytest.mark.parametrize("point", POINTS[:6])
def test_a_full_disk_is_one_error_and_finished_blocks_stay(
    point, undisturbed, tmp_path, monkeypatch
):
    later = () if point == "in the middle of a block" else (BLOCKS + 1, BLOCKS + 2)
    for visit in (1, 2, 3, BLOCKS // 2, *later):
        directory = tmp_path / str(visit)
        full = OSError(28, "No space left on device")
        fault_at(monkeypatch, point, visit, full, always=True)
        with pytest.raises(OSError, match="No space left on device") as caught:
            bulk_jobs.generate(directory)
        assert str(directory) in str(caught.value)
        output.fault = None
        assert are_whole(directory, undisturbed)
        assert not [name for name in content(directory) if name.endswith(".tmp")]
        bulk_jobs.generate(directory, resume=True)
        assert content(directory) == undisturbed


def test_finished_blocks_are_not_drawn_again(undisturbed, tmp_path, monkeypatch):
    fault_at(monkeypatch, "after fsync of the directory", 12, Stop())
    with pytest.raises(Stop):
        bulk_jobs.generate(tmp_path / "a")
    monkeypatch.setattr(output, "fault", None)
    old = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "a").glob("block*")}
    bulk_jobs.generate(tmp_path / "a", resume=True)
    same = [(tmp_path / "a" / name).stat().st_mtime_ns == time for name, time in old.items()]
    assert len(same) - 3 <= sum(same) >= 8  # all but those under way
    assert content(tmp_path / "a") == undisturbed


def test_a_block_that_was_cut_short_or_lost_is_drawn_again(undisturbed, tmp_path):
    bulk_jobs.generate(tmp_path / "a")
    (tmp_path / "a/block-000003.parquet").write_bytes(b"PAR1")
    (tmp_path / "a/block-000005.parquet").unlink()
    bulk_jobs.generate(tmp_path / "a", resume=True)
    assert content(tmp_path / "a") == undisturbed


def other_version(monkeypatch):
    found = jaxgen.data.bulk.job.environment
    other = {"versions": "jaxgen 9.9"}
    monkeypatch.setattr(jaxgen.data.bulk.job, "environment", lambda f: {**found(f), **other})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"key": jax.random.key(2)}, "key .threefry2x32 .0, 1. there, threefry2x32 .0, 2. here"),
        ({"n": ROWS + 1}, "n .10000 there, 10001 here"),
        ({"model": "mixture"}, "model, spec"),
        ({"model": "float64"}, "model, dtype .float32 there, float64 here"),
        ({"log_prob": True}, "log_prob"),
        ({"file_format": "npy"}, "file_format"),
        ({"block_rows": 400}, "block_rows .500 there, 400 here"),
        ({"version": None}, "versions .* there, jaxgen 9.9 here"),
    ],
)
@pytest.mark.parametrize("state", ["complete", "unfinished"])
def test_another_job_is_refused(state, change, words, tmp_path, monkeypatch):
    bulk_jobs.generate(tmp_path / "a", shard=None if state == "complete" else (0, 2))
    before = content(tmp_path / "a")
    if "version" in change:
        change = {}
        other_version(monkeypatch)
    make = {"mixture": bulk_jobs.mixture}.get(change.get("model"), bulk_jobs.box)
    fitted = make()
    if change.get("model") == "float64":
        fitted.params = {k: v.astype(np.float64) for k, v in fitted.params.items()}
    n = change.get("n", ROWS)
    change = {k: v for k, v in change.items() if k not in ("n", "model")}
    arguments = {"key": KEY, "block_rows": BLOCK, "resume": True, **change}
    with (
        jax.enable_x64(fitted.params["low" if "low" in fitted.params else "mean"].dtype == float),
        pytest.raises(ValueError, match=f"holds events of another job, with other .*{words}"),
    ):
        jaxgen.generate(fitted, n, tmp_path / "a", **arguments)
    assert content(tmp_path / "a") == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"n": 0}, "n must be at least 1"),
        ({"n": 1.5}, "n must be an int"),
        ({"n": 2**63}, "n must be below"),
        ({"key": 3}, "key must be a PRNG key"),
        ({"model": "box"}, "model must be a jaxgen.Fitted"),
        ({"file_format": "csv"}, "file_format must be 'parquet' or 'npy'"),
        ({"block_rows": 0}, "block_rows must be at least 1"),
        ({"n": 10**9, "block_rows": 10}, "block_rows must be at least 1,000 for"),
        ({"shard": 3}, "shard must be a pair of ints"),
        ({"shard": (2, 2)}, "i from 0 to k - 1"),
        ({"shard": (0, 0)}, "shard's k must be at least 1"),
        ({"y": [1.0]}, "y was given"),
        ({"progress": "yes"}, "progress must be True, False or None"),
        ({"executor": 4}, "executor must be"),
        ({"directory": None}, "directory must be the path of a folder"),
        ({"directory": ""}, "directory must be the path of a folder"),
    ],
)
def test_wrong_arguments_are_named_and_nothing_is_written(arguments, words, tmp_path):
    settings = {"model": bulk_jobs.box(), "n": 100, "key": KEY, **arguments}
    model, n, where = settings.pop("model"), settings.pop("n"), {"directory": tmp_path / "a"}
    with pytest.raises((TypeError, ValueError), match=words):
        jaxgen.generate(model, n, **(where | settings))
    assert not (tmp_path / "a").exists()


def test_folders_that_hold_something_else_are_refused(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full/notes.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for name, error, words in (
        ("full", ValueError, "must be a new or empty folder, but it holds 'notes.txt'"),
        ("file", OSError, "file"),
        ("missing/deep", OSError, "missing"),
    ):
        with pytest.raises(error, match=words):
            bulk_jobs.generate(tmp_path / name)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["file", "full", "notes.txt"]
    bulk_jobs.generate(tmp_path / "a")
    for arguments, words in (({}, "holds complete events"), ({"shard": (0, 2)}, "of this shard")):
        with pytest.raises(ValueError, match=words):
            bulk_jobs.generate(tmp_path / "a", **arguments)


def test_two_writers_of_the_same_blocks_are_refused(tmp_path, monkeypatch):
    started, go_on = threading.Event(), threading.Event()

    def wait(point):
        if point == "in the middle of a block":
            started.set()
            go_on.wait(60)

    monkeypatch.setattr(output, "fault", wait)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        first = pool.submit(bulk_jobs.generate, tmp_path / "a", shard=(0, 2))
        started.wait(60)
        monkeypatch.setattr(output, "fault", None)
        with pytest.raises(BlockingIOError, match="another process writes blocks"):
            bulk_jobs.generate(tmp_path / "a", resume=True)
        bulk_jobs.generate(tmp_path / "a", shard=(1, 2))  # other blocks
        go_on.set()
        first.result()
    assert jaxgen.data.bulk.Dataset(tmp_path / "a").complete


def damaged(content, change):
    found = json.loads(content)
    change(found)
    return json.dumps(found)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda found: found.pop("job"), "does not match its digest"),
        (lambda found: found["job"].update(n=5), "does not match its digest"),
        (lambda found: found.update(format=2), "written in format 2 .* reads up to format 1"),
        (lambda found: found.update(format="new"), "format is 'new'"),
        (lambda found: found.pop("sha256"), "sha256"),
    ],
)
def test_a_damaged_or_newer_manifest_is_refused(change, words, tmp_path):
    bulk_jobs.generate(tmp_path / "a")
    path = tmp_path / "a/.jaxgen/manifest.json"
    path.write_text(damaged(path.read_text(), change))
    for call in (lambda: jaxgen.data.bulk.Dataset(tmp_path / "a"),
                 lambda: bulk_jobs.generate(tmp_path / "a", resume=True)):  # fmt: skip
        with pytest.raises(ValueError, match=words) as caught:
            call()
        assert str(path) in str(caught.value)


class Unreliable(concurrent.futures.Executor):
    """Threads, of which some fail, or hang until others have finished."""

    def __init__(self, fails=(), hangs=()):
        self.pool = concurrent.futures.ThreadPoolExecutor(4)
        self.fails, self.hangs, self.count = set(fails), set(hangs), 0
        self.end = threading.Event()

    def submit(self, function, *arguments):
        number, self.count = self.count, self.count + 1
        return self.pool.submit(self.call, number, function, *arguments)

    def call(self, number, function, *arguments):
        if number in self.fails:
            raise ConnectionError("the worker died")
        if number in self.hangs:
            self.end.wait(60)
        return function(*arguments)


def test_tasks_that_fail_or_hang_are_run_again(undisturbed, tmp_path, monkeypatch):
    monkeypatch.setattr(executors, "_LEAST", 0.2)
    executor = Unreliable(fails=[0, 3, 21], hangs=[5, 7])
    began = time.monotonic()
    bulk_jobs.generate(tmp_path / "a", executor=executor)
    assert time.monotonic() - began < 30
    executor.end.set()
    executor.pool.shutdown()
    assert content(tmp_path / "a") == undisturbed


def test_a_task_that_always_fails_is_an_error(undisturbed, tmp_path):
    with pytest.raises(RuntimeError, match="failed 3 times, at last by ConnectionError: the work"):
        bulk_jobs.generate(tmp_path / "a", executor=Unreliable(fails=range(1000)))
    bulk_jobs.generate(tmp_path / "a", resume=True)
    assert content(tmp_path / "a") == undisturbed


def test_a_late_task_of_an_old_job_does_not_touch_a_new_one(tmp_path, monkeypatch):
    monkeypatch.setattr(executors, "_LEAST", 0.1)
    executor = Unreliable(hangs=[0])
    bulk_jobs.generate(tmp_path / "a", executor=executor)
    shutil.rmtree(tmp_path / "a")
    bulk_jobs.generate(tmp_path / "a", key=jax.random.key(9))
    before = content(tmp_path / "a")
    executor.end.set()
    executor.pool.shutdown()
    assert content(tmp_path / "a") == before


def test_a_pool_that_forks_is_refused(tmp_path):
    fork = multiprocessing.get_context("fork")
    with (
        concurrent.futures.ProcessPoolExecutor(1, fork) as pool,
        pytest.raises(ValueError, match="executor must start its processes anew"),
    ):
        bulk_jobs.generate(tmp_path / "a", executor=pool)


@pytest.mark.parametrize(
    ("name", "value"), [("jax_threefry_partitionable", False), ("jax_enable_x64", True)]
)
def test_other_settings_of_jax_are_refused(name, value, tmp_path):
    bulk_jobs.generate(tmp_path / "a", shard=(0, 2))
    before = getattr(jax.config, name)
    jax.config.update(name, value)
    try:
        with pytest.raises(ValueError, match="of another job, with other"):
            bulk_jobs.generate(tmp_path / "a", shard=(1, 2))
    finally:
        jax.config.update(name, before)


def test_two_shards_that_start_at_once(undisturbed, tmp_path, monkeypatch):
    """The second has found no manifest before the first writes it and a block."""
    module, found = jaxgen.data.bulk.generation, []

    def make_late(directory):
        if not found:
            found.append(directory)
            bulk_jobs.generate(tmp_path / "a", shard=(0, 2))
        return new_folder(directory)

    monkeypatch.setattr(module, "new_folder", make_late)
    bulk_jobs.generate(tmp_path / "a", shard=(1, 2))
    assert content(tmp_path / "a") == undisturbed


def test_a_folder_that_was_replaced_is_not_read_as_before(tmp_path):
    bulk_jobs.generate(tmp_path / "a", shard=(0, 2))
    events = jaxgen.data.bulk.Dataset(tmp_path / "a")
    shutil.rmtree(tmp_path / "a")
    bulk_jobs.generate(tmp_path / "a", block_rows=100)
    with pytest.raises(ValueError, match="holds another job now"):
        events[3]


def test_a_complete_folder_needs_no_writing(undisturbed, tmp_path):
    bulk_jobs.generate(tmp_path / "a")
    (tmp_path / "a/.jaxgen/lock").unlink()
    bulk_jobs.generate(tmp_path / "a", resume=True)
    assert not (tmp_path / "a/.jaxgen/lock").exists()


def test_files_of_others_are_replaced(undisturbed, tmp_path):
    """A hard link stays from a writer that was killed, and another user may own a file."""
    bulk_jobs.generate(tmp_path / "a", shard=(0, 2))
    linked = tmp_path / "a/.jaxgen/manifest.json"
    (tmp_path / "other").hardlink_to(linked)
    linked.chmod(0o444)
    bulk_jobs.generate(tmp_path / "a", shard=(1, 2))
    assert content(tmp_path / "a") == undisturbed
    assert json.loads((tmp_path / "other").read_text())["complete"] is False


def test_more_shards_than_blocks(tmp_path):
    for i in range(5):
        jaxgen.generate(bulk_jobs.box(), 3, tmp_path / "a", key=KEY, block_rows=1, shard=(i, 5))
    assert jaxgen.data.bulk.Dataset(tmp_path / "a").complete


def test_verify_finds_blocks_in_subfolders(tmp_path):
    bulk_jobs.generate(tmp_path / "a")
    (tmp_path / "a/sub").mkdir()
    shutil.copy(tmp_path / "a/block-000000.parquet", tmp_path / "a/sub")
    with pytest.raises(ValueError, match=r"sub/block-000000.parquet is not in the manifest"):
        jaxgen.data.bulk.verify(tmp_path / "a")


def test_conditions_reach_the_tasks_of_an_executor(tmp_path):
    fitted, y = bulk_jobs.program(), np.random.default_rng(0).normal(size=(700, 2))
    for name, executor in (("a", None), ("b", Unreliable(fails=[1]))):
        jaxgen.generate(
            fitted, 700, tmp_path / name, key=KEY, y=y, block_rows=100, executor=executor
        )
    assert content(tmp_path / "a") == content(tmp_path / "b")
