"""The cache of compiled programs, in processes of its own, and the machine's options."""

import json
import os
import stat
import subprocess
import sys

import jax.numpy as jnp
import pytest

from jaxgen import compiler

posix = pytest.mark.skipif(not hasattr(os, "getuid"), reason="folders have POSIX owners")

START = """
import collections, hashlib, json, os, pathlib
import jax, numpy as np
import jaxgen
from jaxgen.models import Gaussian

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
    """What ``code`` leaves in ``out``, in a fresh process."""
    done = subprocess.run(
        [sys.executable, "-c", f"{START}\n{code}\nprint(json.dumps(out))"],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "JAX_PLATFORMS": "cpu", **environment},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@posix
def test_the_next_process_compiles_nothing(tmp_path):
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
    assert second["hash"] == first["hash"] == run("out = dict(hash=draw())")["hash"]


@posix
def test_a_folder_named_late_is_used(tmp_path):
    """In a process that has compiled already, and in one that has used another folder."""
    counts = run(f"""
draw()
out = []
for name, n in (("a", 1000), ("b", 10_000)):
    folder = jaxgen.cache_compilations(pathlib.Path({str(tmp_path)!r}) / name)
    draw(n)
    out.append(len(list(folder.iterdir())))
""")
    assert len(counts) == 2
    assert min(counts) > 0


@posix
def test_default_folders(tmp_path):
    """XDG_CACHE_HOME's, else the home folder's; a name may be relative or begin with a tilde."""
    home, cache = tmp_path / "home", tmp_path / "xdg"
    home.mkdir()
    found = run(
        f"""
os.chdir({str(tmp_path)!r})
out = [str(jaxgen.cache_compilations())]
os.environ["XDG_CACHE_HOME"] = ""
out.append(str(jaxgen.cache_compilations()))
del os.environ["XDG_CACHE_HOME"]
out += [str(jaxgen.cache_compilations(name)) for name in (None, "~/mine", "here")]
out.append(jax.config.jax_compilation_cache_dir)
""",
        HOME=str(home),
        XDG_CACHE_HOME=str(cache),
    )
    in_home, here = str(home / ".cache" / "jaxgen"), str(tmp_path / "here")
    assert found == [str(cache / "jaxgen"), in_home, in_home, str(home / "mine"), here, here]


@posix
def test_folders_of_others_are_refused(tmp_path):
    """Those that others may write to or that belong to them; to be read by others is no harm."""
    modes = {0o700: True, 0o755: True, 0o770: False, 0o720: False, 0o702: False, 0o777: False}
    for mode in modes:
        (tmp_path / f"{mode:o}").mkdir()
        (tmp_path / f"{mode:o}").chmod(mode)
    out = run(f"""
def tried(name):
    jax.config.update("jax_compilation_cache_dir", None)
    folder = pathlib.Path({str(tmp_path)!r}) / name
    try:
        return jaxgen.cache_compilations(folder) == folder
    except PermissionError as error:
        assert str(folder) in str(error)
        assert jax.config.jax_compilation_cache_dir is None
        return False

out = {{name: tried(name) for name in {[f"{mode:o}" for mode in modes]}}}
me = os.getuid()
os.getuid = lambda: me + 1
out["another's"] = tried("700")
""")
    assert out == {**{f"{mode:o}": wanted for mode, wanted in modes.items()}, "another's": False}


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
