"""The cases that ``benchmarks/device.sh`` times, each beside other libraries on the same device."""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax

import jaxgen
from benchmarks import mixture_fit, twins
from benchmarks.flow_twins import BATCH, Flow
from benchmarks.machine import torch_device
from benchmarks.peer_process import Apart
from benchmarks.timing import Here

# rows that NumPyro and flowjax take at once, so that their intermediate arrays fit in memory
CHUNKS = {"gpu": 2**18, "cpu": 2**12}
# operations of a number: half of a Threefry pair of 20 rounds, and what makes a number of a word
UNIFORM, NORMAL = 60, 90


class Case(NamedTuple):
    """A case of ``Harness.compare``.

    Attributes:
      makes: functions of ``argument()`` by the name of the side.
      moved: bytes that a call has to read and write.
      done: operations that a call has to do.
    """

    name: str
    n: int
    argument: Callable[[], Any]
    makes: dict[str, Callable[[Any], Any]]
    targets: dict[str, float | str]
    moved: float
    done: float


def measure(harness, case: Case) -> list[dict[str, Any]]:
    """The rows of a case, with ``memory_share`` and ``peak_share``."""
    rows = harness.compare(case.name, case.argument(), case.makes, case.targets, n=case.n)
    for row in rows:
        seconds, limits = row["seconds_median"], harness.limits
        row["memory_share"] = case.moved / seconds / limits["bytes"] if seconds else None
        row["peak_share"] = case.done / seconds / limits["flops"] if seconds else None
        row["bytes_moved"], row["operations"] = case.moved, case.done
        row["met"] = None
    return rows


def cases(scale: float) -> Iterator[Case]:
    """The cases, the most important first, with a share of their rows."""

    def rows(n):
        return max(int(n * scale), 1000)

    for n in (1e6, 1e8):
        yield from (_uniform(rows(n), n < 1e8), _normal(rows(n), n < 1e8))
    yield from _mixture(rows(1e7))
    yield from _coupling(rows(1e7))
    yield _flow_fit()
    yield _em(rows(1e6))


def _uniform(n, small):
    twin = twins.Box(2)
    low, high = twin.fitted.params["low"], twin.fitted.params["high"]
    return _draws("uniform", n, twin, small, UNIFORM, lambda d: d.Uniform(low, high))


def _normal(n, small):
    twin = twins.Gaussian(2, "diagonal")
    mean, scale = twin.fitted.params["mean"], twin.fitted.params["scale"]
    return _draws("normal", n, twin, small, NORMAL, lambda d: d.Normal(mean, scale))


def _draws(name, n, twin, small, operations, distribution):
    function = getattr(jaxgen.random, name)
    makes = {
        "jaxgen": twin.ours_sample,
        f"jaxgen, random.{name}": lambda n: lambda: function(twins.KEY, (n, 2)),
        "torch": twin.torch_sample,
        "NumPyro": lambda n: _numpyro_draw(distribution, n),
    }
    share = {"jaxgen": "memory_share >= 0.6"}
    targets = {"torch": 1} if small else {**share, "torch": 3, "NumPyro": 3}
    return Case(f"{name}, {n:,} x 2", n, lambda: n, makes, targets, 8 * n, 2 * operations * n)


def _numpyro_draw(distribution, n):
    from numpyro import distributions

    draw = jax.jit(lambda key: distribution(distributions).sample(key, (n,)))
    return lambda: draw(twins.KEY)


def _mixture(n):
    twin, dim, key = twins.Mixture(8, 100), 8, jax.random.key(2)
    params = tuple(v.tolist() for v in (twin.weights, twin.mean, twin.scale_tril))
    targets = {"torch": 3, "NumPyro": 3}
    makes = {
        "jaxgen": twin.ours_log_prob,
        "torch": lambda x: Apart("torch_peer", "mixture_log_prob", *params, n, torch_device()),
        "NumPyro": lambda x: Pieces(twin.numpyro_log_prob, n, x),
    }
    name, moved = f"mixture, {n:,} x {dim}, K = 100", 4 * dim * n
    yield Case(
        f"{name}, log_prob",
        n,
        lambda: 4 * jax.random.normal(key, (n, dim)),
        makes,
        targets,
        moved + 4 * n,
        twin.flops * n,
    )
    makes = {
        "jaxgen": twin.ours_sample,
        "torch": lambda n: Apart("torch_peer", "mixture_sample", *params, n, torch_device()),
        "NumPyro": lambda n: Pieces(twin.numpyro_sample, n),
    }
    done = (dim * NORMAL + dim * dim) * n
    yield Case(f"{name}, sample", n, lambda: n, makes, targets, moved, done)


def _coupling(n):
    dim, key = 8, jax.random.key(2)
    flow, targets = Flow("coupling", dim), {"flowjax": 3}
    fitted = flow.fitted()
    leaves = jax.tree_util.tree_leaves(fitted.params)
    weights = 2 * sum(leaf.size for leaf in leaves)  # a multiplication and an addition each
    makes = {
        "jaxgen": lambda x: lambda: fitted.log_prob(x),
        "flowjax": lambda x: Pieces(functools.partial(_flowjax, flow, "log_prob"), n, x),
    }
    name, moved = f"coupling flow, {n:,} x {dim}", 4 * dim * n
    x = functools.partial(jax.random.uniform, key, (n, dim), minval=-2, maxval=2)
    yield Case(f"{name}, log_prob", n, x, makes, targets, moved + 4 * n, weights * n)
    makes = {
        "jaxgen": lambda n: lambda: fitted.sample(twins.KEY, n),
        "flowjax": lambda n: Pieces(functools.partial(_flowjax, flow, "sample"), n),
    }
    done = (weights + dim * NORMAL) * n
    yield Case(f"{name}, sample", n, lambda: n, makes, targets, moved, done)


def _flowjax(flow, verb, argument):
    from benchmarks import flowjax_peer

    return getattr(flowjax_peer, verb)(flow.shape, argument)


class Pieces(Here):
    """A piece of a call that is too large for a peer's memory; its time is that of all pieces.

    Args:
      make: function of the rows of a piece, or of their number, that returns the call.
      n: number of rows of the whole call.
      x: the rows, if ``make`` takes rows.
    """

    def __init__(self, make, n, x=None):
        size = min(CHUNKS.get(jax.default_backend(), n), n)
        super().__init__(make(size if x is None else x[:size]))
        self.pieces = n / size

    def time(self, calls: int) -> float:
        return super().time(calls) * self.pieces


def _flow_fit():
    flow, steps = Flow("coupling", 8), 50
    x, held = flow.events(steps * BATCH), flow.events(BATCH)
    weights = sum(leaf.size for leaf in jax.tree_util.tree_leaves(flow.fitted().params))
    makes = flow.fit("flowjax", anew=False)
    makes["flowjax"] = lambda given: _flowjax_fit(flow, given)
    name, done = f"fit of a coupling flow, 5 x {steps} steps", 6 * weights * 5 * steps * BATCH
    return Case(name, len(x), lambda: (x, held, 5), makes, {"flowjax": 3}, 4 * 5 * x.size, done)


def _flowjax_fit(flow, given):
    from benchmarks import flowjax_peer

    return flowjax_peer.fit(flow.shape, *given, False)


def _em(n):
    twin, steps = twins.Mixture(8, 100), 20
    start, makes = mixture_fit.start_of(twin), {"jaxgen": mixture_fit.ours}
    moved, done = 4 * 8 * n * steps, 2 * twin.flops * n * steps
    name = f"EM of {steps} steps, {n:,} x 8, K = 100"
    return Case(name, n, lambda: (twin.events(n), start, steps), makes, {}, moved, done)
