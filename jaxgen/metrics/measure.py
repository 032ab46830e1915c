"""The steps of ``evaluate``, which choose the rows of each metric.

Each returns metrics by name, as in ``sections``, and adds to ``notes``, by "section.metric", why a
metric is missing or what to know about it.
"""

from __future__ import annotations

import math
from itertools import compress
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.core.constraints import innermost
from jaxgen.core.model import is_invertible
from jaxgen.core.random import is_leaf
from jaxgen.metrics import accuracy, distances, generation, representation
from jaxgen.metrics.sections import Labels, Representation

_TIMED_SCALARS = 500_000  # most scalars in a timed call that draws more than n_samples

Metrics = dict[str, Any]
Notes = dict[str, str]
Rows = tuple[np.ndarray, Any]  # rows (n, d) and their labels (n,)


def likelihood(
    fitted: Any, x: Any, y: Any, x_train: Any, y_train: Any, p_data: Any, notes: Notes
) -> tuple[Metrics, np.ndarray | None, np.ndarray | None]:
    """The metrics that need log_prob, and log_prob of test and training events (n,), or None."""
    model = fitted.model
    if p_data is None:
        notes["accuracy.kl"] = notes["accuracy.inside_support"] = "needs p_data"
    if model.traits.density == "none":
        for name in ("log_likelihood", "bits_per_dim", "zero_density", "kl"):
            notes[f"accuracy.{name}"] = f"{type(model).__name__} has no log_prob"
        return {}, None, None
    log_p, dim = np.asarray(fitted.log_prob(x, y)), math.prod(model.event_shape)
    mean, bits = accuracy.mean_and_error(log_p), lambda nats: accuracy.bits_per_dim(nats, dim)
    zero = log_p == -np.inf
    found = {"log_likelihood": mean.value, "log_likelihood_se": mean.se}
    found |= {"bits_per_dim": bits(mean.value), "bits_per_dim_se": abs(bits(mean.se))}
    found["zero_density"] = int(zero.sum())
    if zero.any() and not zero.all():
        mean_of_rest = accuracy.mean_and_error(log_p[~zero]).value
        notes["accuracy.log_likelihood"] = f"{mean_of_rest:.4g} over events of positive density"
    elif model.traits.density == "bound":
        notes["accuracy.log_likelihood"] = "a lower bound"
    log_p_train = None
    if x_train is not None and (y_train is not None or model.y_shape is None):
        log_p_train = np.asarray(fitted.log_prob(x_train, y_train))
        on_train = accuracy.mean_and_error(log_p_train).value
        found |= {"log_likelihood_ref": on_train, "bits_per_dim_ref": bits(on_train)}
    if p_data is not None:
        true = np.asarray(p_data.log_prob(x, None if p_data.model.y_shape is None else y))
        outside = int((true == -np.inf).sum())
        if outside:
            notes["accuracy.kl"] = f"without {outside} test events outside p_data's support"
        if outside < len(x):
            kl = accuracy.kl_divergence(true, log_p)
            found |= {"kl": kl.value, "kl_se": kl.se}
    return found, log_p, log_p_train


def of_labels(
    fitted: Any, x: Any, y: Any, test: Rows, drawn: Rows, train: Rows | None, k: int, notes: Notes
) -> Labels | None:
    """The metrics of labels; None if the model has no labels.

    Args:
      x, y: the test events (n, *event_shape) and their labels (n,), or None.
      test, drawn, train: rows (n, d) of finite test events, samples and training events, each with
        their labels (n,). Without train, one half of test takes its place.
      k: the number of neighbours of the classifier of samples.
    """
    model = fitted.model
    if model.classes is None:
        return None
    if y is None:
        notes["labels.accuracy"] = notes["labels.fidelity"] = "needs y_test"
        return Labels()
    found = {"accuracy_ref": float(np.bincount(y.astype(int)).max() / len(y))}
    if model.traits.density == "none":
        notes["labels.accuracy"] = f"{type(model).__name__} has no log_prob"
    else:
        log_p = np.asarray(fitted.classify(x))
        # where p(x) is 0 no label has a probability
        right = (log_p.argmax(1) == y) & ~np.isnan(log_p).any(1)
        found |= dict(zip(("accuracy", "accuracy_se"), accuracy.mean_and_error(right), strict=True))
    if train is None:
        half = len(test[0]) // 2
        test, train = ((test[0][part], test[1][part]) for part in (slice(half), slice(half, None)))
    if not (len(train[0]) and len(test[0]) and len(drawn[0])):
        notes["labels.fidelity"] = "needs finite events and samples"
        return Labels(**found)
    notes["labels.fidelity"] = f"by {k} nearest neighbours of {len(train[0]):,} real events"
    known = distances.rows(train[0]), train[1].astype(int)
    right, reference = (
        accuracy.vote_of_neighbours(distances.rows(rows), *known, k) == labels
        for rows, labels in (drawn, test)
    )
    found |= dict(zip(("fidelity", "fidelity_se"), accuracy.mean_and_error(right), strict=True))
    return Labels(**found, fidelity_ref=float(reference.mean()))


def closeness(
    test: np.ndarray, drawn: np.ndarray, train: np.ndarray | None, k: int, notes: Notes
) -> Metrics:
    """The metrics that need distances, and the same metrics between two sets of real data.

    test, drawn and train are rows (n, d); without train the two sets are halves of test.
    """
    names = (*accuracy.Neighbours._fields, "energy_distance")

    def measure(real: np.ndarray, other: np.ndarray, suffix: str) -> Metrics:
        if min(len(real), len(other)) <= k:
            return {}
        values = *accuracy.neighbours(real, other, k), accuracy.energy_distance(other, real)
        return {name + suffix: value for name, value in zip(names, values, strict=True)}

    found = measure(test, drawn, "")
    if not found:
        few = f"needs more than k = {k} finite events and samples"
        notes |= {f"accuracy.{name}": few for name in names}
    half = len(test) // 2
    return found | (measure(test[:half], test[half : 2 * half], "_ref") if train is None
                    else measure(test[: len(train)], train, "_ref"))  # fmt: skip


def timing(fitted: Any, key: jax.Array, n: int, y: Any, notes: Notes) -> Metrics:
    """Compile seconds for n events per call, and throughput, for more events if a call is short."""
    speed = generation.throughput(fitted, key, n, y)
    found = speed._asdict()
    size = math.prod(fitted.model.event_shape)
    bulk = min(100 * n, _TIMED_SCALARS // max(1, size))
    if n / speed.events_per_second < 0.1 and bulk > n:
        # the fixed cost of a call would hide the rate
        y = None if y is None else np.resize(y, (bulk, *y.shape[1:]))
        n, speed = bulk, generation.throughput(fitted, key, bulk, y, repeats=3)
        found["events_per_second"] = speed.events_per_second
    notes["generation.events_per_second"] = f"{n:,} events per call"
    return found


def originality(
    test: np.ndarray, drawn: np.ndarray, train: np.ndarray | None, notes: Notes
) -> Metrics:
    """The metrics of copies of training events; test, drawn and train are rows (n, d)."""
    names = "nearer_train", "nearer_train_z", "near_copies"
    if train is None or not (len(train) and len(test) and len(drawn)):
        why = "needs x_train" if train is None else "needs finite events and samples"
        notes |= {f"generation.{name}": why for name in (*names, "duplicates")}
        return {}
    found = dict(zip(names, generation.copying(drawn, train, test), strict=True))
    return found | {"nearer_train_ref": 0.5, "near_copies_ref": 0.01}


def pulled_noise(
    fitted: Any,
    x: np.ndarray,
    y: Any,
    log_p: np.ndarray | None,
    rng: np.random.Generator,
    most: int,
    notes: Notes,
) -> tuple[Representation | None, np.ndarray | None]:
    """The metrics of representation, and the pulled noise as probabilities (n, d) for the figure.

    Both are None if the model has no pull. At most ``most`` events are pulled.
    """
    model = fitted.model
    if not is_invertible(model):
        notes["representation"] = f"{type(model).__name__}: no pull"
        return None, None
    if y is None and model.classes is not None:
        notes["representation"] = "pull needs the labels of the test events"
        return None, None
    chosen = rng.permutation(len(x))[:most]
    x, y = x[chosen], None if y is None else y[chosen]
    noise = fitted.pull(x, y)
    back = np.asarray(fitted.push(noise, y))
    finite = np.ones(len(x), bool)
    for leaf in jax.tree.leaves(noise):
        finite &= np.isfinite(np.asarray(leaf).reshape(len(x), -1)).all(1)
    n = int(finite.sum())
    lost = f"without {len(x) - n} of {len(x)} events, whose noise is not finite"
    if n < 2:
        notes["representation"] = lost
        return None, None
    # push cannot make an event of zero density
    inside = finite if log_p is None else finite & (log_p[chosen] > -np.inf)
    found = {}
    if inside.any():
        trip = representation.round_trip(back[inside], x[inside])
        found = {"round_trip_max": trip.largest, "round_trip_median": trip.median}
        eps = float(jnp.finfo(x.dtype).eps)
        found["round_trip_max_ref"] = eps * float(np.abs(x[inside]).max())
    if not inside.all():
        notes["representation.round_trip_max"] = f"over {inside.sum()} events of positive density"
    if n < len(x):
        notes["representation.ks_max"] = lost
    depends = representation.depend_on_x(model, fitted.params)
    declared = list(compress(jax.tree.leaves(model.noise(), is_leaf=is_leaf), depends))
    values = [np.asarray(leaf)[finite] for leaf in compress(jax.tree.leaves(noise), depends)]
    try:
        fit = representation.noise_fit(declared, values)
    except ValueError as error:
        notes |= {f"representation.{name}": str(error) for name in representation.NoiseFit._fields}
        return Representation(**found), None
    if not all(depends):
        notes.setdefault("representation.ks_max", "without noise that pull does not compute from x")
    elif innermost(model.support).is_discrete:
        notes.setdefault("representation.ks_max", "pull takes the middle of a whole number's cell")
    probabilities = representation.noise_columns(declared, values)[1]
    levels = representation.chance_levels(n, probabilities.shape[1])
    found |= fit._asdict() | {f"{name}_ref": v for name, v in levels._asdict().items()}
    return Representation(**found), probabilities
