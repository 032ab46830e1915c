"""``enable_x64``, the context manager that turns double precision on or off."""

from __future__ import annotations

from typing import Any

import jax
import jax.experimental

# jax before 0.8 has it in jax.experimental
_old: Any = jax.experimental
enable_x64: Any = jax.enable_x64 if hasattr(jax, "enable_x64") else _old.enable_x64
