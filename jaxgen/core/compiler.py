"""Compiler options for the machine, and a persistent cache of compiled programs."""

from __future__ import annotations

import functools
import os
import pathlib
import stat
from collections.abc import Callable
from typing import Any

import jax

from jaxgen.core.tracing import is_tracing


def jit(
    function: Callable[..., Any], *, quick: bool = False, **settings: Any
) -> Callable[..., Any]:
    """``jax.jit`` with compiler options for this machine.

    JAX takes compiler options at the top level only, so a call within a transformation has none.
    The options are chosen at the first call, since the import of the library must not start a
    backend.

    Args:
      function: the function to compile.
      quick: compile a program that runs slower in a tenth to two thirds of the time, for programs
        that run only a few times.
      settings: further arguments of ``jax.jit``.
    """

    @functools.cache
    def compiled(backend: str) -> Callable[..., Any]:
        return jit_on(backend, function, quick=quick, **settings)

    traced = jax.jit(function, **settings)

    @functools.wraps(function)
    def call(*args: Any) -> Any:
        if is_tracing(*args):
            return traced(*args)
        return compiled(jax.default_backend())(*args)

    return call


def jit_on(
    backend: str, function: Callable[..., Any], *, quick: bool = False, **settings: Any
) -> Callable[..., Any]:
    """``jit`` for one backend, such as "cpu"."""
    options = quick_options(backend) if quick else _options(backend)
    return jax.jit(function, compiler_options=options, **settings)


def cache_compilations(folder: str | os.PathLike[str] | None = None) -> pathlib.Path:
    """Keep compiled programs on disk, so that later processes do not compile them again.

    The folder holds code that will run, so it must belong to the user. A new folder is readable by
    its owner only.

    Args:
      folder: the folder; by default ``jaxgen`` in the user's cache folder.

    Returns:
      The folder.

    Raises:
      PermissionError: the folder belongs to another user, or others may write to it.

    >>> folder = jaxgen.cache_compilations("cache")  # doctest: +SKIP
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
                f"that will run; got {folder} with mode {stat.filemode(status.st_mode)}"
            )
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
    from jax.experimental.compilation_cache import compilation_cache

    compilation_cache.reset_cache()  # else a cache that the process set earlier stays in use
    return folder


@functools.cache
def _options(backend: str) -> dict[str, Any] | None:
    # by default XLA uses half of the vector width; with all of it, noise is drawn twice as fast
    return {"xla_cpu_prefer_vector_width": 512} if backend == "cpu" and _has_avx512() else None


@functools.cache
def quick_options(backend: str) -> dict[str, Any] | None:
    """Compiler options for programs that run only a few times: see ``jit``."""
    if backend != "cpu" or jax.__version_info__ < (0, 10):  # older compilers may crash
        return _options(backend)
    options: dict[str, Any] = {
        "xla_cpu_use_fusion_emitters": False,
        "xla_backend_optimization_level": 0,
    }
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
