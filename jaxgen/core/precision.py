"""Double precision for the length of a ``with`` block."""

from __future__ import annotations

from typing import Any

import jax
import jax.experimental

# its place before jax 0.8
_old: Any = jax.experimental
enable_x64: Any = jax.enable_x64 if hasattr(jax, "enable_x64") else _old.enable_x64
