"""Generation: whether samples are fast to draw, finite, and not copies of training data."""

from __future__ import annotations

import math
import time
from typing import Any, NamedTuple

import jax
import numpy as np
from numpy.typing import ArrayLike

from jaxgen.metrics.distances import nearest, rows

_ENOUGH = 2.0  # seconds of warm calls after which none is added


class Throughput(NamedTuple):
    """The speed of sampling.

    Attributes:
      events_per_second: of calls after the first one.
      compile_seconds: by how much the first call takes longer.
    """

    events_per_second: float
    compile_seconds: float


class Copying(NamedTuple):
    """The results of ``copying``.

    Attributes:
      nearer: the probability that a sample is nearer to the training data than a held-out event.
      z: the difference of ``nearer`` from .5 in standard errors.
      near_copies: share of samples that are very near to a training event.
    """

    nearer: float
    z: float
    near_copies: float


def throughput(
    fitted: Any, key: jax.Array, n: int, y: ArrayLike | None = None, repeats: int = 5
) -> Throughput:
    """Events drawn per second after compilation, and the seconds that compilation takes.

        events per second = n / median warm seconds,  compile = first call - median warm

    Args:
      fitted: a ``Fitted`` model.
      key: a typed PRNG key.
      n: events per call.
      y: (n, *y_shape), one condition for each event, for a conditional model.
      repeats: most warm calls, each with another key; they stop after two seconds.

    Returns:
      ``Throughput(events_per_second, compile_seconds)``. Compile seconds are near 0 if the process
      has already compiled the model for this size.
    """

    def seconds(i: int) -> float:
        fresh = jax.block_until_ready(jax.random.fold_in(key, i))
        start = time.perf_counter()
        jax.block_until_ready(fitted.sample(fresh, n, y))
        return time.perf_counter() - start

    first, warm = seconds(0), [seconds(1)]
    while len(warm) < repeats and sum(warm) < _ENOUGH:
        warm.append(seconds(len(warm) + 1))
    typical = float(np.median(warm))
    return Throughput(n / typical, max(0.0, first - typical))


def copying(samples: ArrayLike, train: ArrayLike, test: ArrayLike) -> Copying:
    """The three-sample test for copies of training data, over the whole space.

    With d(x) the distance from x to the nearest training event, S a sample and T a held-out event,

        nearer = P(d(S) < d(T)) + P(d(S) = d(T)) / 2

    is .5 for a model equal to p_data. If it is well above .5, the model copies training events or
    samples only the dense part of the data; if it is well below, the model is too wide.

    Args:
      samples: (n, *event_shape); distances are Euclidean between flattened events.
      train: (t, *event_shape), the events that the model was fitted to.
      test: (m, *event_shape), held-out events.

    Returns:
      ``nearer``; ``z``, its difference from .5 in standard errors (Mann-Whitney, corrected for
      ties; above 3 is evidence of copying); ``near_copies``, the share of samples that are nearer
      to a training event than 99 % of the held-out events are, about .01 without copies.

    Raises:
      ValueError: a set is empty.

    Source: Meehan, Chaudhuri and Dasgupta 2020, "A non-parametric test to detect data-copying in
    generative models" (there z has the opposite sign).
    """
    samples, train, test = (np.asarray(v) for v in (samples, train, test))
    if not (len(samples) and len(train) and len(test)):
        counts = f"{len(samples)}, {len(train)} and {len(test)}"
        raise ValueError(f"samples, train and test must not be empty; got {counts} events")
    train = rows(train)
    s, t = nearest(rows(samples), train), np.sort(nearest(rows(test), train))
    below, up_to = np.searchsorted(t, s, "left"), np.searchsorted(t, s, "right")
    nearer = float(1 - (below + up_to).mean() / (2 * len(t)))
    total = len(s) + len(t)
    ties = np.unique(np.concatenate([s, t]), return_counts=True)[1].astype(float)
    spread = (total + 1) - (ties**3 - ties).sum() / (total * (total - 1))
    error = math.sqrt(max(0.0, spread) / (12 * len(s) * len(t)))
    z = (nearer - 0.5) / error if error > 0 else math.nan
    return Copying(nearer, z, float((s < np.quantile(t, 0.01)).mean()))


def duplicates(x: ArrayLike, train: ArrayLike) -> float:
    """The share of events in ``x`` that are equal to some training event in every scalar.

    Args:
      x: (n, *event_shape).
      train: (t, *event_shape), compared in the dtype of x.

    Returns:
      A share in [0, 1].
    """
    x = np.asarray(x)
    train = np.asarray(train).astype(x.dtype)
    # after + 0, -0.0 and 0.0 are the same bytes
    known = {row.tobytes() for row in train.reshape(len(train), -1) + 0}
    return float(np.mean([row.tobytes() in known for row in x.reshape(len(x), -1) + 0]))
