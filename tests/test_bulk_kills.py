"""Bulk generation in processes that are killed, stopped, or run out of disk space."""

import contextlib
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import bulk_jobs
import pytest
from bulk_jobs import POINTS, content

pytestmark = pytest.mark.slow
KILLS = 50  # at random moments
VISITS = (1, 2, 3, 7, 19)  # of a point, at which a process is killed


@pytest.fixture
def tmp_path():
    """A folder in memory, where fsync takes no time: processes are killed here, not machines."""
    memory = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield pathlib.Path(folder)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    directory = tmp_path_factory.mktemp("undisturbed") / "events"
    finish(directory)
    return content(directory)


def wait_for(path, pattern):
    """Wait until a file is there."""
    end = time.monotonic() + 60
    while not list(path.glob(pattern)):
        assert time.monotonic() < end, f"no {pattern} in {path}"
        time.sleep(0.02)


def finish(directory, **keywords):
    process = bulk_jobs.start(directory, resume=True, **keywords)
    process.join(120)
    assert process.exitcode == 0


@pytest.mark.parametrize("point", POINTS)
def test_kills_at_a_point(point, undisturbed, tmp_path):
    for number, visit in enumerate(VISITS):
        directory = tmp_path / str(number)
        # points that are reached once in a run are so in each process that goes on
        visit = visit if POINTS.index(point) < 6 else 1
        process = bulk_jobs.start(directory, point, visit, resume=True)
        process.join(120)
        assert process.exitcode == -signal.SIGKILL
        finish(directory)
        assert content(directory) == undisturbed


def test_kills_at_random_moments(undisturbed, tmp_path):
    moments, killed, number, wholes = random.Random(0), 0, 0, 0
    directory = tmp_path / "0"
    while killed < KILLS:
        process = bulk_jobs.start(directory, pause=0.02, resume=True)
        process.join(moments.uniform(0.2, 1.5))
        process.kill()
        process.join()
        killed += process.exitcode == -signal.SIGKILL
        if process.exitcode == 0:
            assert content(directory) == undisturbed
            wholes, number = wholes + 1, number + 1
            directory = tmp_path / str(number)
    finish(directory)
    assert content(directory) == undisturbed
    print(f"{killed} kills, {wholes + 1} folders")


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT"])
def test_a_signal_ends_a_run_cleanly(name, undisturbed, tmp_path):
    number = getattr(signal, name)
    process = bulk_jobs.start(tmp_path / "a", pause=0.2, resume=True)
    wait_for(tmp_path, "a/block-000004*")
    os.kill(process.pid, number)
    began = time.monotonic()
    process.join(60)
    assert time.monotonic() - began < 10
    assert process.exitcode == (1 if name == "SIGINT" else 128 + number)
    assert not list(tmp_path.rglob("*.tmp"))
    assert list(tmp_path.glob("a/.jaxgen/blocks-*"))  # the record of what is finished
    finish(tmp_path / "a")
    assert content(tmp_path / "a") == undisturbed


def test_a_run_under_nohup_goes_on_at_sighup(undisturbed, tmp_path):
    process = bulk_jobs.start(tmp_path / "a", pause=0.1, hangup=signal.SIG_IGN)
    wait_for(tmp_path, "a/block-000004*")
    os.kill(process.pid, signal.SIGHUP)
    process.join(60)
    assert process.exitcode == 0
    assert content(tmp_path / "a") == undisturbed


def test_a_signal_in_compiled_code_ends_a_run(tmp_path):
    """A handler of Python would wait for the compiled code to return."""
    process = bulk_jobs.context().Process(target=bulk_jobs.run_slow_model, args=(tmp_path / "a",))
    process.start()
    wait_for(tmp_path, "a/.jaxgen/lock")
    time.sleep(5)
    began = time.monotonic()
    os.kill(process.pid, signal.SIGTERM)
    process.join(60)
    assert time.monotonic() - began < 10
    assert process.exitcode == 128 + signal.SIGTERM


@contextlib.contextmanager
def small_disk(path, size):
    """A file system in memory of some KiB, if this user may mount one."""
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", str(path)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount a file system")
    try:
        yield path
    finally:
        subprocess.run(["umount", str(path)], check=True)


def test_a_small_disk_that_fills_up(undisturbed, tmp_path):
    with small_disk(tmp_path / "disk", 60) as disk:
        process = bulk_jobs.start(disk / "a")
        process.join(120)
        assert process.exitcode == 2
        found = content(disk / "a")
        blocks = {name for name in found if name.startswith("block")}
        assert 3 < len(blocks) < 20
        assert all(found[name] == undisturbed[name] for name in blocks)
        assert not [name for name in found if name.endswith(".tmp")]
        subprocess.run(["mount", "-o", "remount,size=1m", str(disk)], check=True)
        finish(disk / "a")
        assert content(disk / "a") == undisturbed


def test_two_processes_do_not_write_one_folder(undisturbed, tmp_path):
    first = bulk_jobs.start(tmp_path / "a", pause=0.7)
    wait_for(tmp_path, "a/block*")
    second = bulk_jobs.start(tmp_path / "a", resume=True)
    second.join(60)
    assert second.exitcode == 2
    first.join(60)
    assert first.exitcode == 0
    assert content(tmp_path / "a") == undisturbed


def test_shards_at_the_same_time(undisturbed, tmp_path):
    processes = [bulk_jobs.start(tmp_path / "a", shard=(i, 4)) for i in range(4)]
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    assert content(tmp_path / "a") == undisturbed


def test_the_command_line_stops_cleanly_too(tmp_path):
    model = tmp_path / "box.jaxgen"
    bulk_jobs.box().save(model)
    arguments = ["generate", str(model), "-n", "1e9", "--out", str(tmp_path / "a")]
    with subprocess.Popen(
        [sys.executable, "-m", "jaxgen", *arguments], stderr=subprocess.PIPE
    ) as p:
        wait_for(tmp_path, "a/block*")
        p.terminate()
        assert p.wait(10) == 128 + signal.SIGTERM
        assert p.stderr.read().startswith(b"jaxgen: stopped by SIGTERM: ")
    shutil.rmtree(tmp_path / "a")
