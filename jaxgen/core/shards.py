"""Sums over rows that lie on several devices, for steps of expectation-maximisation."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

_rows_lie = contextvars.ContextVar[NamedSharding | None]("rows_lie", default=None)


@contextlib.contextmanager
def rows_on(sharding: NamedSharding | None) -> Iterator[None]:
    """A context in which ``sum_over_rows`` gets rows that lie as the sharding says."""
    token = _rows_lie.set(sharding)
    try:
        yield
    finally:
        _rows_lie.reset(token)


def sum_over_rows(sums: Callable[[Any, Any], Any], rows: Any, params: Any) -> Any:
    """``sums(rows, params)``, a pytree of sums over rows.

    Each device adds up its own rows. A loop over tiles of rows needs this: XLA would run its steps
    one after the other, each on one device.

    Args:
      sums: the function, which may get some of the rows.
      rows: pytree of arrays whose rows lead.
      params: pytree of arrays that each device has whole.
    """
    sharding = _rows_lie.get()
    if sharding is None:
        return sums(rows, params)
    split, whole = sharding.spec, PartitionSpec()

    def of_all(rows, params):
        return lax.psum(sums(rows, params), split[0])

    on_each = jax.shard_map(
        of_all, mesh=sharding.mesh, in_specs=(split, whole), out_specs=whole, check_vma=False
    )
    return on_each(rows, params)
