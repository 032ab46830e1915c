"""How programs are compiled while the tests run: quickly, and kept on disk."""

from __future__ import annotations

import ctypes
import functools
import gc
import hashlib
import os
import pathlib
import platform
import sys
from typing import Any

import jax
from jax._src import compiler as jaxs_compiler  # JAX has no public default for compiler options

# Most programs of the tests run once, so compiling them takes longer than running them. Without
# LLVM's optimizations, and by XLA's older emitters, they compile in a third of the time.
QUICK = {"xla_cpu_use_fusion_emitters": False}
if jax.__version_info__ >= (0, 10):  # at this level the compiler of jaxlib 0.7 crashes
    QUICK["xla_backend_optimization_level"] = 0


_TESTS = pathlib.Path(__file__).parent
_OWN = str(_TESTS), str(_TESTS.parent / "jaxgen")
_Remembering = type(functools.cache(len))
# GNU's C library keeps freed memory, others do not
_free_memory = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None


class Compilation:
    """The options that programs are compiled with in this process.

    Attributes:
      quick: whether they are those of ``QUICK``.
    """

    def __init__(self, cache: pathlib.Path):
        self.quick = True
        self._quick = QUICK if _accepted(QUICK) else {}
        self._options = jaxs_compiler.get_compile_options
        jaxs_compiler.get_compile_options = self._chosen
        folder = cache / f"jax-{jax.__version__}-{_machine()}"
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)

    def forget(self) -> None:
        """Free compiled programs and what functions remember, in the library and in the tests.

        What the next group of tests compiles then does not depend on those before.
        """
        for module in list(sys.modules.values()):
            file = getattr(module, "__file__", None) or ""
            if file.startswith(_OWN):
                for value in vars(module).values():
                    if isinstance(value, _Remembering):
                        value.cache_clear()
        self.free()

    def free(self) -> None:
        """Free compiled programs; compiling one again reads it from the disk."""
        jax.clear_caches()
        gc.collect()
        if _free_memory is not None:
            _free_memory(0)

    def _chosen(self, *args: Any, env_options_overrides: Any = None, **settings: Any) -> Any:
        if self.quick:
            env_options_overrides = self._quick | dict(env_options_overrides or {})
        return self._options(*args, env_options_overrides=env_options_overrides, **settings)


def _accepted(options: dict[str, Any]) -> bool:
    """Whether this version of XLA knows the options."""
    try:
        jax.jit(lambda x: x, compiler_options=options).lower(0.0).compile()
    except Exception:  # of a kind that depends on the version
        return False
    return True


def _machine() -> str:
    """A name for what compiled programs depend on: the processor's features."""
    info = pathlib.Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    flags = sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))})
    text = "\n".join([platform.machine(), platform.processor(), *flags])
    return hashlib.sha256(text.encode()).hexdigest()[:12]
