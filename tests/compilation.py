"""How the tests compile programs: with quick options and a cache on disk."""

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
# LLVM's optimizations, by XLA's older emitters, and each in one piece, not in several for several
# threads, they compile in a third of the time.
QUICK = {"xla_cpu_use_fusion_emitters": False, "xla_cpu_parallel_codegen_split_count": 1}
if jax.__version_info__ >= (0, 10):  # jaxlib 0.7 crashes at this level
    QUICK["xla_backend_optimization_level"] = 0


_TESTS = pathlib.Path(__file__).parent
_OWN = str(_TESTS), str(_TESTS.parent / "jaxgen")
_Remembering = type(functools.cache(len))
# only GNU's C library keeps freed memory
_free_memory = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None


class Compilation:
    """The compiler options of this process.

    Attributes:
      quick: whether they are those of ``QUICK``.
    """

    def __init__(self, cache: pathlib.Path):
        self.quick = True
        self._quick = QUICK if _accepted(QUICK) else {}
        self._options = jaxs_compiler.get_compile_options
        jaxs_compiler.get_compile_options = self._chosen
        # commands in processes of their own must not write to the user's cache folder
        os.environ["XDG_CACHE_HOME"] = str(cache / "xdg")
        folder = cache / f"jax-{jax.__version__}-{_machine()}"
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)

    def forget(self) -> None:
        """Free compiled programs and clear the caches of functions, in the library and the tests.

        The number of programs that the next group compiles then does not depend on earlier
        groups.
        """
        for module in list(sys.modules.values()):
            file = getattr(module, "__file__", None) or ""
            if file.startswith(_OWN):
                for value in vars(module).values():
                    if isinstance(value, _Remembering):
                        value.cache_clear()
        self.free()

    def free(self) -> None:
        """Free compiled programs; if one is needed again, it is read from the disk."""
        jax.clear_caches()
        gc.collect()
        if _free_memory is not None:
            _free_memory(0)

    def _chosen(self, *args: Any, env_options_overrides: Any = None, **settings: Any) -> Any:
        if self.quick:
            env_options_overrides = self._quick | dict(env_options_overrides or {})
        return self._options(*args, env_options_overrides=env_options_overrides, **settings)


def _accepted(options: dict[str, Any]) -> bool:
    """Whether this version of XLA accepts the options."""
    try:
        jax.jit(lambda x: x, compiler_options=options).lower(0.0).compile()
    except Exception:  # its type depends on the version
        return False
    return True


def _machine() -> str:
    """A name for the machine's processor features, on which compiled programs depend."""
    info = pathlib.Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    flags = sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))})
    text = "\n".join([platform.machine(), platform.processor(), *flags])
    return hashlib.sha256(text.encode()).hexdigest()[:12]
