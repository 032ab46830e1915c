"""A job: the arguments of ``generate`` that decide every byte of the blocks."""

from __future__ import annotations

import copy
import hashlib
import math
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxgen.core import inputs
from jaxgen.core.tracing import is_tracing
from jaxgen.data import model_file
from jaxgen.data.bulk.arguments import check_file_format, check_fitted
from jaxgen.data.bulk.block_files import Layout, layout_of
from jaxgen.data.bulk.drawing import Task, environment
from jaxgen.data.bulk.manifest import Manifest

BLOCK_BYTES = 2**23  # of a block by default, at least
MOST_BLOCKS = 1024  # that a folder has by default, until blocks reach their most bytes
MOST_BLOCK_BYTES = 2**28
DRAWN_AT_ONCE = 64  # a block of a model whose draws are slow has this many times its tile
_LIMIT = 10**6  # most blocks of a folder


class Job(NamedTuple):
    """The checked arguments of ``generate`` that decide the bytes of blocks."""

    fitted: Any
    n: int
    block_rows: int
    layout: Layout
    key: jax.Array
    y: Any
    by_row: bool

    def to_json(self) -> dict[str, Any]:
        """The job as its manifest holds it."""
        fitted, layout = self.fitted, self.layout
        how = "drawn" if fitted.model.classes is not None else "none"
        if self.y is not None:
            digest = model_file.digest(self.y)
            how = f"{'by row' if self.by_row else 'one for all'}, SHA-256 {digest}"
        return {
            "n": self.n,
            "block_rows": self.block_rows,
            "file_format": layout.file_format,
            "log_prob": layout.log_prob is not None,
            "key": f"{jax.random.key_impl(self.key)} {jax.random.key_data(self.key).tolist()}",
            "y": how,
            **facts_of(fitted, layout.file_format),
            "columns": layout.to_json(),
            "event_shape": list(fitted.model.event_shape),
            "y_shape": list(fitted.model.y_shape or ()),
            "labels": None if fitted.labels is None else list(fitted.labels),
        }

    def task(self, directory: Path, manifest: Manifest) -> Task:
        """The task of all blocks."""
        fitted = on_host(self.fitted)
        key = str(jax.random.key_impl(self.key)), np.asarray(jax.random.key_data(self.key))
        numbers = tuple(range(manifest.count))
        found = environment(self.layout.file_format)
        return Task(
            fitted, manifest, self.layout, key, self.y, self.by_row, 0, directory, numbers, found
        )


def facts_of(fitted: Any, file_format: str) -> dict[str, Any]:
    """What the model and this process add to the bytes of files, as JSON values by name."""
    return {
        "model": hashlib.sha256(model_file.to_bytes(fitted)).hexdigest(),
        "spec": f"{fitted.model!r:.2000}",
        "dtype": str(inputs.float_dtype(fitted.params)),
        **environment(file_format),
    }


def on_host(fitted: Any) -> Any:
    """A copy that other processes can take: its params in host memory, and without a history."""
    fitted = copy.copy(fitted)
    fitted.params = jax.device_get(fitted.params)
    fitted.history = {}
    return fitted


def job_of(
    model: Any,
    n: Any,
    key: Any,
    y: Any,
    file_format: str,
    log_prob: bool,
    block_rows: int | None,
) -> Job:
    """The job of the arguments of ``generate``; raises TypeError or ValueError for wrong ones."""
    check_fitted(model)
    if is_tracing(model.params, key, y):
        raise TypeError("generate cannot be called within jit, grad or vmap: use sample there")
    n, key = inputs.as_count(n, "n", 1), inputs.as_key(key)
    if n >= 2**63:
        raise ValueError(f"n must be below 2**63, got {n}")
    check_file_format(file_format)
    if log_prob and model.model.traits.density == "none":
        raise ValueError(f"log_prob: {model.model} has no log density")
    spec, given = model.model, model.conditions_of(y)
    found = inputs.as_conditions(spec, given, (n,), inputs.float_dtype(model.params))
    found, by_row = None if found is None else np.asarray(found), False
    if found is not None:
        by_row = bool(np.shape(given) != tuple(spec.y_shape or ()))
        found = found if by_row else np.array(found[0])
    has_y = found is not None or spec.classes is not None
    layout = layout_of(model, file_format, has_y, log_prob)
    rows = _default_rows(model, n, layout)
    if block_rows is not None:
        rows = min(inputs.as_count(block_rows, "block_rows", 1), n)
    if -(-n // rows) > _LIMIT:
        least = -(-n // _LIMIT)
        raise ValueError(f"block_rows must be at least {least:,} for {n:,} events, got {rows:,}")
    return Job(model, n, rows, layout, key, found, by_row)


def _default_rows(fitted: Any, n: int, layout: Layout) -> int:
    """Rows of a block: 1, 2 or 5 times a power of ten, or all."""
    event = math.prod(fitted.model.event_shape)
    width = event * (1 if fitted.pixels is not None or fitted.vocabulary is not None else 4)
    width += 4 * (len(layout.y) + (layout.log_prob is not None))
    size = min(max(BLOCK_BYTES, n * width // MOST_BLOCKS), MOST_BLOCK_BYTES)
    most = max(size // max(width, 1), 1)
    if fitted.model.traits.draw_tile is not None:
        most = max(min(most, DRAWN_AT_ONCE * fitted.model.traits.draw_tile), -(-n // _LIMIT))
    scale = 10 ** (len(str(most)) - 1)
    return min(next(k * scale for k in (10, 5, 2, 1) if k * scale <= most), n)
