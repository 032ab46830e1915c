"""Checkpoints: the state of a training run in one file, from which an equal call resumes.

It is a safetensors file. Its metadata describes the run, and holds a SHA-256 of that description
and of all arrays, which detects damage.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from numbers import Real
from typing import IO, Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from jaxgen.core.warn import warn
from jaxgen.data.model_file import MALFORMED, digest, read_safetensors
from jaxgen.data.output import writable, write_atomically

PAUSE = 1.0  # least seconds between two writes, so that short runs are not slowed down
SHARE = 0.1  # largest share of a run's time that writing may take
_ENTRY = "jaxgen-checkpoint"


class Checkpoint:
    """The file of one run.

    Args:
      path: where the file is, or will be.
      run: a description of the run, as strings by name: the file of any other run is refused.

    Raises:
      TypeError: path is no path.
      OSError: no regular file can be written there.
    """

    def __init__(self, path: Any, run: dict[str, str]):
        if not isinstance(path, (str, os.PathLike)):
            raise TypeError(f"checkpoint must be a path, got {type(path).__name__} {path!r:.40}")
        self._path, self._run = writable(path), run
        if self._path.exists() and not self._path.is_file():
            raise OSError(f"checkpoint {path} must be a regular file, which can be read again")
        self._due = time.monotonic() + PAUSE
        self._written: Any = None
        self._failed = False

    def exists(self) -> bool:
        return self._path.exists()

    def read(self, like: Any) -> Any:
        """The saved pytree, or None if there is no file.

        Args:
          like: a pytree of the same structure, whose leaves have ``shape`` and ``dtype``; None
            stands for an array of any.

        Raises:
          ValueError: the file is of another run, damaged, or no checkpoint.
        """
        if not self.exists():
            return None
        try:
            with open(self._path, "rb") as file:
                header, arrays = _open(file)
        except ValueError as error:
            raise ValueError(f"checkpoint {self._path} is {error}") from error
        differ = [_difference(name, header["run"].get(name), v) for name, v in self._run.items()]
        if any(differ):
            raise ValueError(
                f"checkpoint {self._path} is of another run, with other "
                f"{', '.join(filter(None, differ))}: remove it, or give another path"
            )
        flat, tree = jax.tree_util.tree_flatten_with_path(like, is_leaf=lambda v: v is None)
        names = [jax.tree_util.keystr(place) for place, _ in flat]
        if sorted(names) != sorted(arrays):
            raise ValueError(f"checkpoint {self._path} holds other arrays than this run has")
        keys = header["keys"]
        leaves = [
            _as_leaf(arrays[name], wanted, keys.get(name))
            for name, (_, wanted) in zip(names, flat, strict=True)
        ]
        state = jax.tree_util.tree_unflatten(tree, leaves)
        self._written = state
        return state

    def offer(self, state: Any) -> None:
        """Write the pytree of arrays, unless the last write was a moment ago."""
        if time.monotonic() >= self._due:
            self.write(state)

    def write(self, state: Any) -> None:
        """Write the pytree of arrays, unless the file holds it already.

        If the file cannot be written, as on a full disk, it stays as it is and training goes on,
        with a warning the first time.
        """
        if state is self._written:
            return
        began = time.monotonic()
        try:
            self._write(state)
            self._written = state
        except (OSError, MemoryError) as error:
            if not self._failed:
                why = str(error) or type(error).__name__
                warn(f"checkpoint {self._path} could not be written: {why}; training goes on")
            self._failed = True
        now = time.monotonic()
        self._due = now + max(PAUSE, (now - began) / SHARE)

    def _write(self, state):
        arrays, keys = {}, {}
        for place, leaf in jax.tree_util.tree_flatten_with_path(state)[0]:
            name = jax.tree_util.keystr(place)
            arrays[name] = _as_array(leaf)
            if _is_key(leaf):
                keys[name] = str(jax.random.key_impl(leaf))
        header = {"run": self._run, "keys": keys}
        header["sha256"] = _digest(header, arrays)
        with write_atomically(self._path) as file:
            file.write(safetensors.numpy.save(arrays, {_ENTRY: json.dumps(header)}))


def describe_data(x, y, weights, validation, start) -> dict[str, str]:
    """The data of a run, as part of a checkpoint's description.

    validation: the share of the rows held out, or the arrays of other rows.
    """
    by_share = isinstance(validation, Real)
    return {
        "x": digest(x),
        "y": digest(y),
        "weights": digest(weights),
        "validation": repr(float(validation)) if by_share else digest(*validation),
        "start": "" if start is None else digest(*jax.tree_util.tree_leaves(start)),
    }


def _digest(header, arrays):
    named = sorted(arrays.items())
    text = json.dumps([header["run"], header["keys"], [name for name, _ in named]], sort_keys=True)
    content = digest(*(array for _, array in named))
    return hashlib.sha256((text + content).encode()).hexdigest()


def _open(file: IO[bytes]) -> tuple[dict, dict]:
    raw, header = read_safetensors(file, _ENTRY, "damaged, or no checkpoint")
    try:
        arrays = safetensors.numpy.load(raw)
        whole = header["sha256"] == _digest(header, arrays)
    except MALFORMED as error:
        raise ValueError(f"damaged: {error!r}") from error
    if not whole:
        raise ValueError("damaged: its content does not match its digest")
    return header, arrays


def _difference(name, there, here):
    if there == here:
        return None
    long = max(len(str(there)), len(here)) > 60
    return name if long else f"{name} ({there} there, {here} here)"


def _is_key(leaf):
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _as_array(leaf) -> np.ndarray:
    if isinstance(leaf, jax.Array):
        leaf = leaf.addressable_data(0)  # of several devices each has the whole array
    array = np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf, order="C")
    # safetensors lacks some dtypes, such as bfloat16; arrays of these are stored as bytes
    return array if array.dtype.kind in "biuf" else np.frombuffer(array.tobytes(), np.uint8)


def _as_leaf(array, wanted, key_impl):
    if key_impl is not None:
        return jax.random.wrap_key_data(jnp.asarray(array), impl=key_impl)
    if wanted is None:
        return array
    if array.dtype != wanted.dtype:
        array = np.frombuffer(array.tobytes(), wanted.dtype)
    return jnp.asarray(array.reshape(wanted.shape))
