"""Compilation: options that suit the machine, and a cache that outlives the process."""

from __future__ import annotations

import functools
import os
import pathlib
import stat
from collections.abc import Callable

import jax


def jit(function: Callable, *, quick: bool = False, **settings) -> Callable:
    """``jax.jit`` with this machine's options, for calls from outside every transformation.

    With ``quick`` a program compiles in two thirds of the time and runs slower, for those that run
    a few times. JAX takes compiler options at the top level alone, so never call the result inside
    a trace. The options are looked up at the first call, for importing the library must not start
    a backend.
    """

    @functools.cache
    def compiled(backend):
        options = _quick_options(backend) if quick else _options(backend)
        return jax.jit(function, compiler_options=options, **settings)

    @functools.wraps(function)
    def call(*args):
        return compiled(jax.default_backend())(*args)

    return call


def cache_compilations(folder: str | os.PathLike | None = None) -> pathlib.Path:
    """Keep compiled programs on disk, so that the next process starts without compiling them.

    The folder holds code that will be run, so it must be the user's own: a new one is made readable
    by its owner alone.

    Args:
      folder: where to; by default ``jaxgen`` in the user's cache folder.

    Returns: the folder.

    Raises:
      PermissionError: the folder belongs to another user, or others may write to it.
    """
    if folder is None:
        base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
        folder = pathlib.Path(base) / "jaxgen"
    folder = pathlib.Path(folder).expanduser().absolute()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if hasattr(os, "getuid"):
        status = folder.stat()
        if status.st_uid != os.getuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise PermissionError(
                f"folder must belong to you and be writable by you alone, since it holds programs "
                f"that will be run; got {folder} with mode {stat.filemode(status.st_mode)}"
            )
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
    from jax.experimental.compilation_cache import compilation_cache

    compilation_cache.reset_cache()  # else a cache chosen earlier in the process stays in use
    return folder


@functools.cache
def _options(backend: str) -> dict | None:
    # XLA halves the vectors it is given here, by default; wide ones draw noise twice as fast
    return {"xla_cpu_prefer_vector_width": 512} if backend == "cpu" and _has_avx512() else None


@functools.cache
def _quick_options(backend: str) -> dict | None:
    if backend != "cpu" or jax.__version_info__ < (0, 10):  # whose compiler may crash of these
        return _options(backend)
    options = {"xla_cpu_use_fusion_emitters": False, "xla_backend_optimization_level": 0}
    try:
        jax.jit(lambda: 0, compiler_options=options).lower().compile()
    except Exception:  # another version's compiler has other options
        return _options(backend)
    return options


def _has_avx512() -> bool:
    try:
        return "avx512f" in pathlib.Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
