"""Fits on several devices: how rows lie on them, sums over them, and processes that agree."""

from __future__ import annotations

import hashlib
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

_map = jax.tree_util.tree_map
_EXAMPLE = 'NamedSharding(mesh, PartitionSpec("rows"))'


class Split(NamedTuple):
    """How rows lie on devices: each has an equal share of them, in order.

    It is hashable, as it is a static argument of programs. The methods are for use in a program
    that runs on each device (``jax.shard_map``).

    Attributes:
      sharding: as ``checked`` returns it.
      size: number of rows, padding included, that they have on one device.
    """

    sharding: NamedSharding
    size: int

    @property
    def axes(self) -> tuple[str, ...]:
        """The axes of the mesh over which rows are split; along others, devices hold copies."""
        axes = self.sharding.spec[0]
        return axes if isinstance(axes, tuple) else (axes,)

    @property
    def count(self) -> int:
        """The number of shares."""
        return math.prod(self.sharding.mesh.shape[axis] for axis in self.axes)

    def total(self, tree: Any) -> Any:
        """The sums of arrays over the shares."""
        return lax.psum(tree, self.axes)

    def first(self, each: int) -> jax.Array:
        """The number of this device's first row, where each share has ``each`` rows."""
        return lax.axis_index(self.axes).astype(jnp.uint32) * np.uint32(each)

    def total_of(self, function: Any, params: Any) -> Any:
        """The sum of ``function(params)`` over the shares, which has the right derivatives.

        Within ``shard_map`` the transpose of a sum over devices is that sum again. So the cotangent
        of the result, which every device has, is multiplied by the number of devices, and the mean
        of params, which are the same on every device, adds up the devices' cotangents and divides
        them by that number.
        """

        def same(v):
            mean = lax.pmean(v, self.axes)
            return lax.stop_gradient(v) + (mean - lax.stop_gradient(mean))

        return self.total(function(_map(same, params)))

    def take(self, rows: Any, chosen: jax.Array) -> Any:
        """This device's share of the chosen rows, which may lie on other devices.

        Args:
          rows: pytree of arrays, this device's share of all rows.
          chosen: numbers of rows, the same on every device, as many as divide by ``count``.
        """

        def taken(v):
            place = chosen - self.first(len(v)).astype(chosen.dtype)
            here = (place >= 0) & (place < len(v))
            own = v[place.clip(0, len(v) - 1)]
            own = jnp.where(here.reshape(-1, *[1] * (v.ndim - 1)), own, 0)
            return lax.psum_scatter(own, self.axes, tiled=True)

        return _map(taken, rows)


def checked(sharding: Any) -> NamedSharding | None:
    """The sharding of rows, over a mesh whose axes are all automatic.

    Raises:
      TypeError, ValueError: it is no NamedSharding of rows alone, over a mesh that has a device of
        this process.
    """
    if sharding is None:
        return None
    mesh = getattr(sharding, "mesh", None)
    if not isinstance(sharding, NamedSharding) or not isinstance(mesh, Mesh):
        raise TypeError(
            "sharding must be a jax.sharding.NamedSharding of rows over a Mesh of devices, such "
            f"as {_EXAMPLE}; got {type(sharding).__name__} {sharding!r:.60}"
        )
    first, *others = sharding.spec or (None,)
    axes = first if isinstance(first, tuple) else (first,)
    if not axes or not all(isinstance(axis, str) for axis in axes) or any(others):
        raise ValueError(
            f"sharding must split the first axis, that of rows, and no other, as in {_EXAMPLE}; "
            f"got {sharding.spec}"
        )
    if not sharding.addressable_devices:
        process = jax.process_index()
        raise ValueError(
            f"sharding must have a device of every process that calls fit, but {mesh} has none of "
            f"process {process}"
        )
    # the compiler must be free to choose where values of a step lie
    return NamedSharding(Mesh(mesh.devices, mesh.axis_names), PartitionSpec(axes))


def leads(sharding: NamedSharding | None) -> bool:
    """Whether this process shows progress and writes files, as one process alone should."""
    return sharding is None or jax.process_index() == 0


def has_other_processes(sharding: NamedSharding | None) -> bool:
    """Whether the devices belong to several processes, which must take the same steps."""
    return sharding is not None and not sharding.is_fully_addressable


def place(array: np.ndarray, sharding: NamedSharding) -> jax.Array:
    """The array, of which every process has the whole, as an array on the devices."""
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def replicated(tree: Any, sharding: NamedSharding | None) -> Any:
    """The tree with a copy of each array on every device; unchanged without a sharding."""
    if sharding is None:
        return tree
    whole = NamedSharding(sharding.mesh, PartitionSpec())

    def put(v):
        if isinstance(v, jax.Array) and v.sharding.is_equivalent_to(whole, v.ndim):
            return v
        if isinstance(v, jax.Array) and jnp.issubdtype(v.dtype, jax.dtypes.prng_key):
            words = place(np.asarray(jax.random.key_data(v)), whole)
            return jax.random.wrap_key_data(words, impl=jax.random.key_impl(v))
        return place(np.asarray(v), whole)

    return _map(put, tree)


def local(tree: Any, sharding: NamedSharding | None) -> Any:
    """Arrays that every device has, on this process alone; unchanged without a sharding."""
    return tree if sharding is None else _map(jnp.asarray, jax.device_get(tree))


def check_same(values: dict[str, str], sharding: NamedSharding | None) -> None:
    """Raise unless all processes of a fit have the same values.

    Raises:
      ValueError: a value differs between processes; the message has its name.
    """
    if sharding is None or not has_other_processes(sharding):
        return
    mesh = sharding.mesh
    words = [hashlib.sha256(value.encode()).digest() for value in values.values()]
    own = np.frombuffer(b"".join(words), np.uint32).reshape(1, len(values), -1)
    shape = mesh.size, *own.shape[1:]
    by_device = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
    each = jax.make_array_from_callback(shape, by_device, lambda _: own)
    whole = NamedSharding(mesh, PartitionSpec())
    found = np.asarray(jax.jit(lambda v: v, out_shardings=whole)(each))
    differs = (found != found[:1]).any((0, 2))
    if differs.any():
        names = ", ".join(name for name, d in zip(values, differs, strict=True) if d)
        raise ValueError(
            f"every process must call fit with the same arguments, but these differ: {names}"
        )
