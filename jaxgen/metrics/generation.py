"""Generation: are new observations fast to draw, sound, and new?"""

from __future__ import annotations

import math
import time
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxgen.metrics.distances import nearest, rows

_ENOUGH = 2.0  # seconds of warm calls


class Throughput(NamedTuple):
    """What ``throughput`` returns."""

    events_per_second: float
    compile_seconds: float


class Copying(NamedTuple):
    """What ``copying`` returns."""

    nearer: float
    z: float
    near_copies: float


def throughput(fitted: Any, key: jax.Array, n: int, y=None, repeats: int = 5) -> Throughput:
    """Events drawn per second once compiled, and what the first call costs above that.

        events per second = n / median warm seconds,  compile = first call - median warm

    Args:
      fitted: a ``Fitted`` model.
      key: a typed PRNG key.
      n: events a call.
      y: (n, *y_shape), one condition an event, for a conditional model.
      repeats: warm calls, each with another key; fewer once they have taken two seconds.

    Returns:
      ``Throughput(events_per_second, compile_seconds)``. Compile seconds are near 0 where this
      process has already compiled the model at this size.
    """

    def seconds(i):
        fresh = jax.block_until_ready(jax.random.fold_in(key, i))
        start = time.perf_counter()
        jax.block_until_ready(fitted.sample(fresh, n, y))
        return time.perf_counter() - start

    first, warm = seconds(0), [seconds(1)]
    while len(warm) < repeats and sum(warm) < _ENOUGH:
        warm.append(seconds(len(warm) + 1))
    typical = float(np.median(warm))
    return Throughput(n / typical, max(0.0, first - typical))


def copying(samples, train, test) -> Copying:
    """Does the model replay its training data? The three-sample test, over the whole space.

    With d(x) the distance from x to the nearest training event, S a sample and T a held-out event:

        nearer = P(d(S) < d(T)) + P(d(S) = d(T)) / 2

    is .5 for a model equal to p_data. Well above .5 it copies, or keeps to the dense part of the
    data; well below it is too wide.

    Args:
      samples: (n, *event_shape); distances are Euclidean over the flattened event.
      train: (t, *event_shape) that the model was fitted to.
      test: (m, *event_shape) held out.

    Returns:
      ``nearer``; ``z``, its distance from .5 in standard errors (Mann-Whitney, corrected for ties;
      above 3 is evidence of copying); ``near_copies``, the share of samples nearer to a training
      event than all but 1 % of the held-out events are, which is near .01 without copies.

    Raises:
      ValueError: a set is empty.

    Source: Meehan, Chaudhuri and Dasgupta 2020, "A non-parametric test to detect data-copying in
    generative models" (there z has the other sign).
    """
    if not (len(samples) and len(train) and len(test)):
        raise ValueError("copying needs samples, training events and held-out events")
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


def duplicates(x, train) -> float:
    """Share of events in ``x`` equal to some training event in every scalar.

    Args:
      x: (n, *event_shape).
      train: (t, *event_shape); cast to the dtype of x, the precision that a model replays in.

    Returns:
      Share in [0, 1].
    """
    x = np.asarray(x)
    train = np.asarray(train).astype(x.dtype)
    # + 0 makes -0.0 and 0.0 the same bytes
    known = {row.tobytes() for row in train.reshape(len(train), -1) + 0}
    return float(np.mean([row.tobytes() in known for row in x.reshape(len(x), -1) + 0]))
