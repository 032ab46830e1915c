"""Values on the default device against those on the CPU, and the dispatches of one draw."""

import collections
import functools
import glob
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
from jax.profiler import ProfileData

import jaxgen
from benchmarks import twins
from benchmarks.flow_twins import Flow
from jaxgen.core.random import Bits, draw

ROWS, CLOSE = 50_000, 1e-5


def differences() -> dict[str, tuple[float, int, float]]:
    """By name of a result: the largest difference, the rows above 1e-5, and the largest allowed.

    A difference is relative where a value is above 1.
    """
    x = np.random.default_rng(0).uniform(-2, 2, (ROWS, 8)).astype(np.float32)
    results = []
    for place in (jax.devices()[0], jax.devices("cpu")[0]):
        with jax.default_device(place):
            results.append({name: np.asarray(call()) for name, call in _calls(x).items()})
    found = {}
    for name, ours in results[0].items():
        theirs = results[1][name]
        limit = 0.0 if name in ("noise words", "uniform numbers") else CLOSE
        if limit == 0:
            gaps = (ours != theirs).reshape(ROWS, -1).any(-1)
        else:
            gaps = abs(ours - theirs) / np.maximum(1, abs(theirs))
            gaps = gaps.reshape(ROWS, -1).max(-1)
        found[name] = float(gaps.max()), int((gaps > CLOSE).sum()), limit
    return found


def _calls(x):
    """Functions without arguments by the name of their result, whose rows lead."""
    mixture, flow = twins.Mixture(8, 100).fitted, Flow("coupling", 8).fitted()
    words = jax.jit(lambda key: draw(Bits((2,)), key, jnp.zeros(2, jnp.uint32), ROWS, "f4").T)
    return {
        "noise words": lambda: words(twins.KEY),
        "uniform numbers": lambda: jaxgen.random.uniform(twins.KEY, (ROWS, 2)),
        "normal numbers": lambda: jaxgen.random.normal(twins.KEY, (ROWS, 2)),
        "uniform box, sample": lambda: twins.Box(2).fitted.sample(twins.KEY, ROWS),
        "full covariance, sample": lambda: twins.Gaussian(8).fitted.sample(twins.KEY, ROWS),
        "mixture K = 100, sample": lambda: mixture.sample(twins.KEY, ROWS),
        "mixture K = 100, log_prob": lambda: mixture.log_prob(x),
        "coupling flow, sample": lambda: flow.sample(twins.KEY, ROWS),
        "coupling flow, log_prob": lambda: flow.log_prob(x),
    }


def dispatches(n: int = 1_000_000) -> dict[str, tuple[int | str, int | str, str]]:
    """By name of a draw: dispatches and kernels of a warm call, and whether the transfer guard
    lets it pass."""
    found = {}
    for name, fitted in (
        ("uniform box, sample", twins.Box(2).fitted),
        ("mixture K = 100, sample", twins.Mixture(8, 100).fitted),
    ):
        call = functools.partial(fitted.sample, twins.KEY, n)
        jax.block_until_ready(call())
        found[name] = *_counts(call), _guarded(call)
    return found


def _counts(call) -> tuple[int | str, int | str]:
    """Calls of compiled programs, and kernels on a GPU, from a profile."""
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            jax.block_until_ready(call())
        (path,) = glob.glob(f"{folder}/**/*.xplane.pb", recursive=True)
        planes = list(ProfileData.from_file(path).planes)
    lines = [(plane.name, line) for plane in planes for line in plane.lines]
    calls = collections.Counter(
        event.name
        for _, line in lines
        for event in line.events
        if "ExecuteHelper" in event.name  # once a call; its class depends on the version of JAX
    )
    streams = [
        sum(1 for _ in line.events)
        for plane, line in lines
        if plane.startswith("/device:GPU") and line.name.startswith("Stream")
    ]
    return max(calls.values(), default="unknown"), sum(streams) if streams else "unknown"


def _guarded(call) -> str:
    try:
        with jax.transfer_guard("disallow"):
            jax.block_until_ready(call())
    except Exception as error:  # the type differs between versions of JAX
        return f"refuses, {str(error).splitlines()[0]:.100}"
    return "passes"
