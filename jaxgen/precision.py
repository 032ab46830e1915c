"""Double precision for the length of a ``with`` block."""

from __future__ import annotations

from typing import Any

import jax

if hasattr(jax, "enable_x64"):
    enable_x64: Any = jax.enable_x64
else:  # before jax 0.8
    from jax.experimental import enable_x64
