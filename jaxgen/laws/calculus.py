"""Laws of derivatives, inverses, and values at the limits of floating point."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.core.model import is_invertible
from jaxgen.core.random import Normal, Uniform, is_leaf
from jaxgen.core.spec import Spec
from jaxgen.laws import compiled
from jaxgen.laws.compiled import FEW, tree_leaves, tree_map
from jaxgen.laws.subject import NotApplicable, Subject, require, require_close

_STEP = 1e-6
_DIRECTIONS = 3


def gradients(subject: Subject) -> str:
    """Gradients in params and x have no NaN, and agree with central differences in float64."""
    _, _, clean = subject.gradients(subject.samples[:4096])
    require(clean.all(), f"the gradient at sample {subject.samples[:4096][~clean][:1]} is NaN")
    with subject.in_float64() as double:
        u = double.coordinates.from_events(double.few_samples)
        rng = np.random.default_rng(4)
        worst = 0.0
        for _ in range(_DIRECTIONS):
            params_direction = tree_map(lambda v: _direction(rng, v), double.params)
            u_direction = rng.normal(size=u.shape) * u.std(0)
            u_direction = np.where(double.coordinates.discrete, 0.0, u_direction)
            ends = []
            for step in (-_STEP, _STEP):
                params = tree_map(functools.partial(_moved, step), double.params, params_direction)
                ends.append(double.directional_derivatives(u + step * u_direction, params)[0])
            with np.errstate(invalid="ignore"):
                wanted = (ends[1] - ends[0]) / (2 * _STEP)
            _, got = double.directional_derivatives(
                u, params_direction=params_direction, u_direction=u_direction
            )
            inside = np.isfinite(wanted)
            require(inside.mean() > 0.5, "most samples lie on an edge of the density")
            worst = max(worst, require_close(got[inside], wanted[inside], "gradient", 1e-3, 1e-6))
    return f"worst gap {worst:.1g}"


def _direction(rng, leaf):
    if not jnp.issubdtype(leaf.dtype, jnp.floating):
        return np.zeros(leaf.shape)
    return rng.normal(size=leaf.shape) * (0.1 + np.abs(np.asarray(leaf)))


def _moved(step, leaf, direction):
    return np.asarray(leaf) + step * direction if direction.any() else leaf


def precision(subject: Subject) -> str:
    """Scores in float32 agree with those in float64 to 1e-3."""
    with subject.in_float64() as double:
        u = double.coordinates.from_events(double.few_samples)
        wanted, _ = double.directional_derivatives(u)
    got = subject.log_prob(subject.few_samples)
    finite = np.isfinite(got)
    require(finite.mean() > 0.9, "most samples lie on an edge of the density")
    gap = require_close(got[finite], wanted[finite], "float32 score", 1e-3, 1e-3)
    return f"worst gap {gap:.1g}"


def totality(subject: Subject) -> str:
    """log_prob is -inf outside the support and at +-inf, NaN at NaN, and never +inf.

    Values and gradients have no NaN at numbers that occur in the spec or the params, such as edges
    of the density, at their neighbours in floating point, or at +-1e30.
    """
    base = subject.few_samples[0].astype(subject.dtype).reshape(-1)
    values = _awkward(subject)
    points = [np.full(base.shape, v, subject.dtype) for v in values]
    for j in range(min(base.size, 4)):
        for v in values:
            point = base.copy()
            point[j] = v
            points.append(point)
    stacked = np.stack(points).reshape(-1, *subject.model.event_shape)
    scores = subject.log_prob(stacked)
    flat = stacked.reshape(len(stacked), -1)
    for bad, what in ((np.isnan(scores), "NaN"), (scores == np.inf, "inf")):
        require(not bad.any(), f"log_prob is {what} at {flat[bad][:1]}")
    # computed on the device, which may treat subnormal numbers as zero, as it does in log_prob
    outside = ~subject.in_support(stacked)
    wrong = outside & (scores != -np.inf)
    require(
        not wrong.any(), f"{flat[wrong][:1]} is outside the support, but scores {scores[wrong][:1]}"
    )
    _, _, clean = subject.gradients(stacked)
    require(clean.all(), f"the gradient of log_prob is NaN at {flat[~clean][:1]}")
    for value, wanted in ((np.inf, -np.inf), (-np.inf, -np.inf), (np.nan, np.nan)):
        if not base.size:
            break
        x = np.repeat(base[None], base.size, 0)
        np.fill_diagonal(x, value)
        got = subject.log_prob(x.reshape(-1, *subject.model.event_shape))
        same = np.isnan(got) if np.isnan(wanted) else got == wanted
        if np.isnan(wanted) and subject.model.learning.missing is not None:
            same = np.isfinite(got)  # NaN is a missing value: the score is that of the rest
        require(same.all(), f"log_prob is {got[~same][:1]} where an entry of x is {value}")
    return f"{len(points)} points"


def _awkward(subject):
    """Numbers where a density may fail: those in the spec and the params, and their neighbours."""
    info = np.finfo(subject.dtype)
    found = {0.0, 0.5, 1.0, 2.0, 3.0, 1e30, info.tiny, 1e15, 1e-8}
    found.update(np.abs(_numbers_in(subject.model)))
    few = [np.asarray(v).ravel()[:6] for v in tree_leaves(subject.params)[:8]]
    found.update(float(v) for leaf in few if leaf.dtype.kind == "f" for v in np.abs(leaf))
    values = np.array(sorted(v for v in found if np.isfinite(v))).astype(subject.dtype)
    values = np.concatenate([values, -values])
    with np.errstate(over="ignore"):
        near = [np.nextafter(values, np.array(s * np.inf, subject.dtype)) for s in (-1, 1)]
    values = np.concatenate([values, *near])
    # some processors treat subnormal numbers as zero: the least normal numbers replace them
    tiny = (values != 0) & (np.abs(values) < info.tiny)
    values = np.unique(np.where(tiny, np.copysign(info.tiny, values), values))
    return values[np.isfinite(values)]


def _numbers_in(value):
    if isinstance(value, Spec):
        fields = dataclasses.fields(value)  # type: ignore[arg-type]
        return _numbers_in(tuple(getattr(value, f.name) for f in fields))
    if isinstance(value, tuple):
        return [number for item in value for number in _numbers_in(item)]
    return [float(value)] if isinstance(value, (int, float)) else []


def bijection(subject: Subject) -> str:
    """push and pull are inverses, and log p(x) = log p(noise) + log|det d pull / dx|."""
    model = subject.model
    if not is_invertible(model):
        raise NotApplicable("not invertible")
    x = subject.few_samples.astype(subject.dtype)
    back = compiled.round_trip(model, subject.params, x, subject.conditions(FEW))
    worst = require_close(back, x, "push(pull(x))", 1e-4)
    with subject.in_float64() as double:
        dtype, y = double.dtype, double.conditions(FEW)
        z, x, back, log_det = compiled.change_of_variables(
            model, double.coordinates, double.params, double.key, dtype, y
        )
        for got, wanted in zip(tree_leaves(back), tree_leaves(z), strict=True):
            # the map may compress noise near its ends: the tolerance is absolute too
            require_close(got, wanted, "pull(push(noise))", 1e-9, 1e-9)
        leaves = jax.tree_util.tree_leaves(model.noise(), is_leaf=is_leaf)
        if not all(isinstance(leaf, (Normal, Uniform)) for leaf in leaves):
            raise NotApplicable("the noise has no density")
        log_noise = np.zeros(FEW)
        for leaf, value in zip(leaves, tree_leaves(z), strict=True):
            if isinstance(leaf, Normal):
                value = np.asarray(value).reshape(FEW, -1)
                log_noise += (-0.5 * value**2 - 0.5 * np.log(2 * np.pi)).sum(1)
        u = double.coordinates.from_events(np.asarray(x))
        got, _ = double.directional_derivatives(u)
        wanted = log_noise + np.asarray(log_det)
        gap = require_close(got, wanted, "log_prob by change of variables", 1e-6, 1e-6)
    return f"round trip {worst:.1g}, density {gap:.1g}"
