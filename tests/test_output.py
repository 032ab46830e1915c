"""All files are written by one function, which preserves modes, links and pipes."""

import errno
import json
import os
import pathlib
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
import tty

import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.figure import Figure

import jaxgen
from jaxgen import models
from jaxgen.data import model_file as files
from jaxgen.data import output, tables
from jaxgen.training.checkpoint import Checkpoint

SMALL = jaxgen.Fitted(
    models.Gaussian(2), {"mean": jnp.array([1.0, -2.0]), "scale_tril": jnp.eye(2)}
)
ROWS = np.arange(6.0).reshape(3, 2)
WRITERS = {
    "m.jaxgen": lambda path: files.save(SMALL, path),
    "t.csv": lambda path: tables.write(path, ROWS, ("a", "b")),
    "t.npy": lambda path: tables.write(path, ROWS),
    "t.npz": lambda path: tables.write(path, ROWS),
    "t.parquet": lambda path: tables.write(path, ROWS),
    "r.json": lambda path: output.write_json(path, {"a": 1}),
    "f.png": lambda path: output.write_figure(Figure((1, 1)), path),
    "f.pdf": lambda path: output.write_figure(Figure((1, 1)), path),
    "run": lambda path: Checkpoint(path, {"key": "0"}).write([jnp.ones(3)]),
}
every_writer = pytest.mark.parametrize("name", WRITERS)


def mode_of(path):
    return stat.S_IMODE(os.stat(path).st_mode)


@every_writer
def test_the_mode_of_a_file_stays(name, tmp_path):
    path, before = tmp_path / name, os.umask(0o027)
    try:
        WRITERS[name](path)
        assert mode_of(path) == 0o640
        for mode in (0o600, 0o664, 0o200):
            path.write_bytes(b"old")
            path.chmod(mode)
            WRITERS[name](path)
            assert mode_of(path) == mode
            assert path.stat().st_size > 3
            path.unlink()
    finally:
        os.umask(before)


@every_writer
def test_what_is_read_only_is_refused_even_to_root(name, tmp_path):
    path = tmp_path / name
    path.write_bytes(b"old")
    path.chmod(0o444)
    with pytest.raises(PermissionError, match=f"cannot write .*{name}: it is read-only"):
        WRITERS[name](path)
    assert path.read_bytes() == b"old"
    assert mode_of(path) == 0o444


@every_writer
def test_hard_links_stay_links(name, tmp_path):
    path, twin = tmp_path / name, tmp_path / "twin"
    path.write_bytes(bytes(100_000))  # longer than the new content
    os.link(path, twin)
    WRITERS[name](path)
    assert path.samefile(twin)
    WRITERS[name](tmp_path / f"new{path.suffix}" if path.suffix else tmp_path / "new")
    assert twin.stat().st_size < 100_000
    if name not in ("f.pdf", "t.npz"):  # these contain the time
        assert twin.read_bytes() == next(tmp_path.glob("new*")).read_bytes()


@every_writer
def test_a_pipe_is_written_through(name, tmp_path):
    pipe, got = tmp_path / name, []
    os.mkfifo(pipe)
    if name == "run":
        with pytest.raises(OSError, match="must be a regular file"):
            WRITERS[name](pipe)
        return
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()), daemon=True)
    reader.start()
    WRITERS[name](pipe)
    reader.join(10)
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    (tmp_path / "file").mkdir()
    WRITERS[name](tmp_path / "file" / name)
    expected = (tmp_path / "file" / name).read_bytes()
    assert len(got[0]) == len(expected)
    if name not in ("f.pdf", "t.npz"):  # these contain the time
        assert got[0] == expected
    assert sorted(os.listdir(tmp_path)) == sorted([name, "file"])


def test_a_device_is_written_through(tmp_path):
    master, slave = os.openpty()
    tty.setraw(slave)
    (tmp_path / "r.json").symlink_to(os.ttyname(slave))
    output.write_json(tmp_path / "r.json", {"a": 1})
    assert os.read(master, 100) == b'{\n  "a": 1\n}\n'
    assert (tmp_path / "r.json").is_char_device()
    os.close(master)
    os.close(slave)


def test_open_files_of_the_process_are_written_through(tmp_path):
    with open(tmp_path / "log", "w+b", buffering=0) as log:
        log.write(b"printed\n")
        for path in (f"/dev/fd/{log.fileno()}", tmp_path / "link"):
            (tmp_path / "link").unlink(missing_ok=True)
            (tmp_path / "link").symlink_to(f"/dev/fd/{log.fileno()}")
            output.write_json(output.writable(path), 1)
        log.write(b"more\n")
    assert (tmp_path / "log").read_bytes() == b"printed\n1\n1\nmore\n"
    with open(tmp_path / "log", "rb") as log, pytest.raises(PermissionError, match="reading only"):
        output.writable(f"/dev/fd/{log.fileno()}")
    with pytest.raises(OSError, match="it is not open"):
        output.writable(f"/dev/fd/{unused_number()}")


def unused_number():
    """A number that no open file has."""
    numbers = (number for number in range(3, 10_000) if not os.path.exists(f"/dev/fd/{number}"))
    return next(numbers)


def test_a_pipe_that_nobody_reads_is_found_before_the_work():
    read, write = os.pipe()
    path = f"/dev/fd/{write}"
    output.write_json(output.writable(path), [1])
    assert os.read(read, 100) == b"[\n  1\n]\n"
    os.close(read)
    with pytest.raises(
        BrokenPipeError, match=f"cannot write {path}: it is a pipe without a reader"
    ):
        output.writable(path)
    os.close(write)


def test_a_socket_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # names of sockets are short
    with socket.socket(socket.AF_UNIX) as made:
        made.bind("s")
        with pytest.raises(OSError, match="cannot write s: it is a socket"):
            output.writable("s")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root gives files away")
@every_writer
def test_the_owner_of_a_file_stays(name, tmp_path, monkeypatch):
    path = tmp_path / name
    path.write_bytes(b"old")
    os.chown(path, 12345, 23456)
    path.chmod(0o660)
    WRITERS[name](path)
    status = path.stat()
    assert (status.st_uid, status.st_gid, mode_of(path)) == (12345, 23456, 0o660)

    def refused(*_):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "fchown", refused)  # as it is for all others
    content = path.read_bytes()
    with pytest.raises(PermissionError, match="belongs to user 12345 and group 23456"):
        WRITERS[name](path)
    assert path.read_bytes() == content
    assert os.listdir(tmp_path) == [name]


def test_names_directories_and_links_of_every_kind(tmp_path):
    long = "n" * 255
    for name, made in {long: long, "link": "missing", "sub/link": "../outside"}.items():
        (tmp_path / "sub").mkdir(exist_ok=True)
        (tmp_path / "sub").chmod(0o1777)  # as /tmp is
        if made != name:
            (tmp_path / name).symlink_to(made)
        for content in (b"one", b"two"):
            with output.write_atomically(output.writable(tmp_path / name)) as file:
                file.write(content)
            assert (tmp_path / name).read_bytes() == content
        assert (tmp_path / name).is_symlink() == (made != name)
    assert sorted(os.listdir(tmp_path)) == ["link", "missing", long, "outside", "sub"]
    with pytest.raises(OSError, match="File name too long"):
        output.writable(tmp_path / ("n" * 256))
    (tmp_path / "astray").symlink_to("gone/file")
    with pytest.raises(FileNotFoundError, match=r"there is no directory .*gone"):
        output.writable(tmp_path / "astray")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OSError, match="Too many levels of symbolic links"):
        output.writable(tmp_path / "loop")


@pytest.mark.parametrize("other", ["a", "./a", "sub/../a", "link", "twin"])
def test_two_names_of_one_file_are_found(other, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.mkdir("sub")
    os.symlink("a", "link")
    if other != "twin":
        with pytest.raises(shutil.SameFileError, match=f"cannot write a: .* same file as {other}"):
            output.writable("a", others=[None, "elsewhere", other])
    pathlib.Path("a").write_bytes(b"")
    os.link("a", "twin")
    with pytest.raises(shutil.SameFileError, match=f"cannot write a: .* same file as {other}"):
        output.writable("a", others=[None, "elsewhere", other])
    output.writable("/dev/null", others=["/dev/null"])


@pytest.mark.parametrize(
    "wrong", [OSError(errno.ENOSPC, "No space left on device"), OSError("0 written")], ids=str
)
def test_an_error_names_the_file(wrong, tmp_path):
    def write():
        with output.write_atomically(tmp_path / "a") as file:
            file.write(b"half")
            raise wrong

    with pytest.raises(OSError, match=str(tmp_path / "a")):
        write()
    assert os.listdir(tmp_path) == []


def test_json_is_strict(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        output.write_json(tmp_path / "a", [float("nan")])
    assert os.listdir(tmp_path) == []
    record = {
        "a": 1.5,
        "b": -np.inf,
        "c": float("nan"),
        "d": None,
        "e": "inf",
        "f": np.float64("inf"),
    }
    plain, odd = output.finite(record)
    assert plain == {"a": 1.5, "b": None, "c": None, "d": None, "e": "inf", "f": None}
    assert odd == {"b": "-inf", "c": "nan", "f": "inf"}


@pytest.mark.parametrize("name", ["f", "f.xyz", "f.pgf", "f.", "png"])
def test_an_ending_that_no_figure_has_is_refused(name, tmp_path):
    for call in (output.check_figure, lambda path: output.write_figure(Figure(), path)):
        with pytest.raises(ValueError, match=r"ending must be one of .*\.png"):
            call(tmp_path / name)


# A writer in a process of its own, which is sent a signal in the middle. The module needs nothing
# but Python's own library, so that it starts at once.
WRITER = """
import importlib.util, os, signal, sys, time
spec = importlib.util.spec_from_file_location("output", sys.argv[1])
output = importlib.util.module_from_spec(spec)
sys.modules["output"] = output
spec.loader.exec_module(output)
for number in (signal.SIGINT, signal.SIGHUP):  # which a shell may have switched off
    signal.signal(number, signal.SIG_DFL)
with output.write_atomically(sys.argv[2]) as file:
    file.write(b"half")
    file.flush()
    if sys.argv[3] == "fork" and os.fork() == 0:
        os.kill(os.getpid(), signal.SIGTERM)
    if sys.argv[3] == "fork":
        assert os.waitstatus_to_exitcode(os.wait()[1]) == -signal.SIGTERM
    else:
        print("ready", flush=True)
        time.sleep(60)
"""


def writer(path, how):
    command = [sys.executable, "-c", WRITER, output.__file__, path, how]
    return subprocess.Popen(command, stdout=subprocess.PIPE)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT", "SIGKILL"])
def test_a_signal_leaves_no_temporary_behind(name, tmp_path):
    path, number = tmp_path / "a", getattr(signal, name)
    path.write_bytes(b"old")
    (tmp_path / ".jaxgen-elsewhere-0123.tmp").write_bytes(b"")  # of another host
    with writer(path, "sleep") as process:
        assert process.stdout.readline() == b"ready\n"
        assert len(os.listdir(tmp_path)) == 3
        with output.write_atomically(tmp_path / "b") as file:
            file.write(b"new")
        assert len(os.listdir(tmp_path)) == 4  # what a living process writes stays
        process.send_signal(number)
        assert process.wait() == -number
    assert path.read_bytes() == b"old"
    if name == "SIGKILL":
        assert len(os.listdir(tmp_path)) == 4
        output.writable(tmp_path / "c")  # the next to ask removes what the dead one left
    assert sorted(os.listdir(tmp_path)) == [".jaxgen-elsewhere-0123.tmp", "a", "b"]


def test_the_end_of_a_forked_child_takes_nothing_from_its_parent(tmp_path):
    with writer(tmp_path / "a", "fork") as process:
        assert process.wait() == 0
    assert (tmp_path / "a").read_bytes() == b"half"
    assert os.listdir(tmp_path) == ["a"]


def test_handlers_of_signals_are_put_back(tmp_path):
    def own(number, frame):
        pass

    signals = [signal.SIGTERM, signal.SIGHUP, signal.SIGINT]
    before = [signal.getsignal(number) for number in signals]
    try:
        for handlers in ((signal.SIG_DFL,) * 3, (own,) * 3, (signal.SIG_IGN, signal.SIG_DFL, own)):
            for number, handler in zip(signals, handlers, strict=True):
                signal.signal(number, handler)
            with output.write_atomically(tmp_path / "a"), output.write_atomically(tmp_path / "b"):
                for number, handler in zip(signals, handlers, strict=True):
                    taken = signal.getsignal(number) is output._end
                    assert taken == (handler is signal.SIG_DFL)
            assert tuple(map(signal.getsignal, signals)) == handlers
    finally:
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)
    thread = threading.Thread(target=WRITERS["r.json"], args=(tmp_path / "c",))
    thread.start()
    thread.join()
    assert json.loads((tmp_path / "c").read_text()) == {"a": 1}
    assert output._writing == {}
