"""Imports start no device; the compilation cache; compiler options of the machine.

The first two are tested in separate processes, each of which takes seconds to start.
"""

import json
import os
import stat
import subprocess
import sys

import jax.numpy as jnp
import pytest

from jaxgen.core import compiler

posix = pytest.mark.skipif(not hasattr(os, "getuid"), reason="folders have POSIX owners")

START = """
import collections, hashlib, json, os, pathlib
import jax, numpy as np
import jaxgen
from jax._src import xla_bridge
from jaxgen.models import Gaussian

backends = list(xla_bridge._backends)
events = collections.Counter()
jax.monitoring.register_event_listener(lambda name, **_: events.update([name.split("/")[-1]]))

def draw(n=100):
    model = Gaussian(2)
    fitted = jaxgen.Fitted(model, model.init(None))
    return hashlib.sha256(np.asarray(fitted.sample(jax.random.key(0), n)).tobytes()).hexdigest()
"""
DRAW_WITH_CACHE = """
folder = jaxgen.cache_compilations({!r})
out = dict(folder=str(folder), hash=draw(), **events)
"""


def run(code, **environment):
    """The value of ``out`` after a fresh process has run the code."""
    done = subprocess.run(
        [sys.executable, "-c", f"{START}\n{code}\nprint(json.dumps(out))"],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "JAX_PLATFORMS": "cpu", **environment},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """The base directory, and what a process reports that sets several cache folders in turn."""
    base = tmp_path_factory.mktemp("compiler")
    for folder in ("home", "others"):
        (base / folder).mkdir()
    for mode in MODES:
        (base / "others" / f"{mode:o}").mkdir()
        (base / "others" / f"{mode:o}").chmod(mode)
    found = run(
        IN_ONE_PROCESS.format(base=str(base), modes=[f"{mode:o}" for mode in MODES]),
        HOME=str(base / "home"),
        XDG_CACHE_HOME=str(base / "xdg"),
    )
    return base, found


MODES = {0o700: True, 0o755: True, 0o770: False, 0o720: False, 0o702: False, 0o777: False}
IN_ONE_PROCESS = """
out = dict(backends=backends, hash=draw())
base = pathlib.Path({base!r})

out["late"] = []
for name, n in (("a", 1000), ("b", 10_000)):
    folder = jaxgen.cache_compilations(base / name)
    draw(n)
    out["late"].append(len(list(folder.iterdir())))

os.chdir(base)
folders = [jaxgen.cache_compilations()]
os.environ["XDG_CACHE_HOME"] = ""
folders.append(jaxgen.cache_compilations())
del os.environ["XDG_CACHE_HOME"]
folders += [jaxgen.cache_compilations(name) for name in (None, "~/mine", "here")]
out["folders"] = [*map(str, folders), jax.config.jax_compilation_cache_dir]

def tried(name):
    jax.config.update("jax_compilation_cache_dir", None)
    folder = base / "others" / name
    try:
        return jaxgen.cache_compilations(folder) == folder
    except PermissionError as error:
        assert str(folder) in str(error)
        assert jax.config.jax_compilation_cache_dir is None
        return False

out["others"] = {{name: tried(name) for name in {modes}}}
me = os.getuid()
os.getuid = lambda: me + 1
out["others"]["another's"] = tried("700")
"""


@posix
def test_import_touches_no_device(found):
    assert found[1]["backends"] == []


@posix
def test_the_next_process_compiles_nothing(tmp_path, found):
    folder = tmp_path / "new" / "cache"
    first = run(DRAW_WITH_CACHE.format(str(folder)))
    assert first["folder"] == str(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    files = sorted(file.name for file in folder.iterdir())
    assert files
    assert first["cache_misses"] > 0
    assert "cache_hits" not in first

    second = run(DRAW_WITH_CACHE.format(str(folder)))
    assert sorted(file.name for file in folder.iterdir()) == files
    assert second["cache_hits"] == first["cache_misses"]
    assert "cache_misses" not in second
    assert second["hash"] == first["hash"] == found[1]["hash"]


@posix
def test_a_folder_named_late_is_used(found):
    """A folder set after compiling, or after another folder was in use, is used."""
    counts = found[1]["late"]
    assert len(counts) == 2
    assert min(counts) > 0


@posix
def test_default_folders(found):
    """XDG_CACHE_HOME, else the home directory; a name may be relative or begin with a tilde."""
    base, out = found
    in_home, here = str(base / "home" / ".cache" / "jaxgen"), str(base / "here")
    wanted = [str(base / "xdg" / "jaxgen"), in_home, in_home, str(base / "home" / "mine")]
    assert out["folders"] == [*wanted, here, here]


@posix
def test_folders_of_others_are_refused(found):
    """Folders that others own or may write to are refused; others may read them."""
    wanted = {f"{mode:o}": wanted for mode, wanted in MODES.items()}
    assert found[1]["others"] == {**wanted, "another's": False}


def test_jit_is_jit():
    @compiler.jit
    def double(x):
        return 2 * x

    scale = compiler.jit(lambda count, x: count * x, static_argnums=0)
    assert double.__name__ == "double"
    assert double(jnp.float32(3)) == 6
    assert scale(3, jnp.float32(3)) == 9


def test_options_are_for_cpus_with_wide_vectors(monkeypatch):
    options = compiler._options.__wrapped__
    for has, wanted in ((True, {"xla_cpu_prefer_vector_width": 512}), (False, None)):
        monkeypatch.setattr(compiler, "_has_avx512", lambda has=has: has)
        assert options("cpu") == wanted
        assert options("gpu") is None
