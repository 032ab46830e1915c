"""Laws of derivatives, inverses, and values at the limits of floating point."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.core.labels import entry
from jaxgen.core.model import is_invertible
from jaxgen.core.precision import enable_x64
from jaxgen.core.random import Normal, Uniform, is_leaf
from jaxgen.core.spec import Spec
from jaxgen.core.wrapper import inner_of, params_at
from jaxgen.laws import compiled
from jaxgen.laws.compiled import FEW, tree_leaves, tree_map
from jaxgen.laws.subject import (
    NotApplicable,
    Subject,
    cast,
    require,
    require_close,
    require_each,
)

_TWO_WHERES = (
    "log_prob: the gradient of the side of jnp.where that is not taken is computed too: give that "
    "side a safe input, x = jnp.where(inside, x, 1.0), before log, sqrt or a division; or a number "
    "overflows on the way, as x * x does at 1e30"
)
_NOT_FINITE = (
    "log_prob: return jnp.where(inside, score, -jnp.inf), and give the score a safe x where the "
    "event is outside; the log of 0 and inf - inf need the same guard"
)
_OUTSIDE = (
    "log_prob: return -jnp.inf outside the support; or support: define it, if such events are "
    "possible"
)
_RANGE = (
    "bijector: if x cannot be every number, define `support`, and `contains`, which says whether "
    "`inverse` is defined at x; otherwise "
)
_ROUNDING = (
    "log_prob (or inverse of a bijector): float32 loses digits: subtract before you divide or "
    "square, or compute in log space (log1p, expm1, logsumexp)"
)
_STEP = 1e-6
_DIRECTIONS = 3
_ON_AN_EDGE = (
    "most samples lie on an edge of the density, where log_prob is -inf or jumps",
    "push and log_prob: samples should have a density around them; check the params",
)


def gradients(subject: Subject) -> str:
    """Gradients in params and x have no NaN, and agree with central differences in float64."""
    x = subject.samples[:4096]
    _, _, clean = subject.gradients(x)
    require_each(clean, x, "the gradient of log_prob is NaN", _TWO_WHERES)
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
            require(inside.mean() > 0.5, *_ON_AN_EDGE)
            gap = require_close(
                got[inside],
                wanted[inside],
                "derivative of log_prob along a direction of params and x",
                1e-3,
                1e-6,
                advice="log_prob: a custom gradient, stop_gradient, round or clip gives another "
                "derivative than central differences",
                events=double.few_samples[inside],
            )
            worst = max(worst, gap)
    return f"worst gap {worst:.1g}"


def _direction(rng, leaf):
    if not jnp.issubdtype(leaf.dtype, jnp.floating):
        return np.zeros(leaf.shape)
    leaf = np.asarray(leaf)
    size = np.where(np.isfinite(leaf), 0.1 + np.abs(leaf), 0.0)  # -inf is a component of no weight
    return rng.normal(size=leaf.shape) * size


def _moved(step, leaf, direction):
    return np.asarray(leaf) + step * direction if direction.any() else leaf


def precision(subject: Subject) -> str:
    """Scores in float32 agree with those in float64 to 1e-3."""
    with subject.in_float64() as double:
        u = double.coordinates.from_events(double.few_samples)
        wanted, _ = double.directional_derivatives(u)
    got = subject.log_prob(subject.few_samples)
    finite = np.isfinite(got)
    require(finite.mean() > 0.9, *_ON_AN_EDGE)
    gap = require_close(
        got[finite],
        wanted[finite],
        "log_prob in float32, compared with float64",
        1e-3,
        1e-3,
        advice=_ROUNDING,
        events=subject.few_samples[finite],
    )
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
    held = _with_inner(subject.model, subject.params)
    bijector = _RANGE if any(model.traits.bijector is not None for model, _ in held) else ""
    for bad, what in ((np.isnan(scores), "NaN"), (scores == np.inf, "inf")):
        require_each(~bad, flat, f"log_prob is {what}", bijector + _NOT_FINITE)
    # computed on the device, which may treat subnormal numbers as zero, as it does in log_prob
    wrong = ~subject.in_support(stacked) & (scores != -np.inf)
    require_each(~wrong, flat, "log_prob is finite outside model.support", bijector + _OUTSIDE)
    _, _, clean = subject.gradients(stacked)
    require_each(clean, flat, "the gradient of log_prob is NaN", bijector + _TWO_WHERES)
    for value, wanted in ((np.inf, -np.inf), (-np.inf, -np.inf), (np.nan, np.nan)):
        if not base.size:
            break
        x = np.repeat(base[None], base.size, 0)
        np.fill_diagonal(x, value)
        x = x.reshape(-1, *subject.model.event_shape)
        got = subject.log_prob(x, missing=False)
        same = np.isnan(got) if np.isnan(wanted) else got == wanted
        if np.isnan(wanted) and subject.model.learning.missing is not None and same.all():
            got = subject.log_prob(x)
            same = np.isfinite(got)  # NaN is a missing value: the score is that of the rest
        require(
            same.all(),
            f"log_prob is {got[~same][:1]} where an entry of x is {value}",
            "log_prob: with learning.missing, NaN is a missing value, which `observed` marks",
        )
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
    worst = require_close(
        back,
        x,
        "push(pull(x))",
        1e-4,
        advice="push and pull are not inverses of each other, or lose digits in float32: subtract "
        "before you divide, or compute in log space",
        events=x,
    )
    with subject.in_float64() as double:
        dtype, y = double.dtype, double.conditions(FEW)
        z, x, back, log_det = compiled.change_of_variables(
            model, double.coordinates, double.params, double.key, dtype, y
        )
        for got, wanted in zip(tree_leaves(back), tree_leaves(z), strict=True):
            # the map may compress noise near its ends: the tolerance is absolute too
            require_close(
                got,
                wanted,
                "pull(push(noise))",
                1e-9,
                1e-9,
                advice="pull must return the noise itself: check its formula, and the order of its "
                "leaves",
                events=wanted,
            )
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
        log_det = np.asarray(log_det)
        gap = require_close(
            got,
            log_noise + log_det,
            "log_prob, compared with log p(noise) + log|det d pull / dx|",
            1e-6,
            1e-6,
            advice=_cause_of_difference(got - log_noise, log_det),
            events=np.asarray(x),
        )
    return f"round trip {worst:.1g}, density {gap:.1g}"


def log_determinants(subject: Subject) -> str:
    """forward and inverse of a bijector are inverses, each with its own log-determinant.

    The law holds for the bijector of the model, and of every model inside it.
    """
    worst, count = 0.0, 0
    for model, params in _with_inner(subject.model, subject.params):
        if model.traits.bijector is None:
            continue
        y = subject.y if model.y_shape == subject.model.y_shape else None
        x = Subject(model, params, key=subject.key, y=y).draw(FEW).astype(np.float64)
        with enable_x64(True):
            found = compiled.bijector_both_ways(model, cast(params, np.float64), x)
            back, of_inverse, of_forward, wanted = map(np.asarray, found)
        finite = np.isfinite(back).reshape(FEW, -1).all(1)
        for numbers in (of_inverse, of_forward, wanted):
            finite &= np.isfinite(numbers)
        advice = "forward or inverse: the result is NaN or infinite at samples of the model"
        require(finite.mean() > 0.5, f"{model} has a bijector without finite values", advice)
        options: dict[str, Any] = {"events": x[finite]}
        require_close(
            back[finite],
            x[finite],
            "forward(inverse(x)) of the bijector",
            1e-6,
            1e-6,
            advice="forward and inverse: they are not inverses of each other",
            **options,
        )
        for name, got, sign in (("forward", of_forward, 1), ("inverse", of_inverse, -1)):
            gap = require_close(
                got[finite],
                sign * wanted[finite],
                f"log-determinant of the bijector's {name}, compared with derivatives of forward",
                1e-6,
                1e-6,
                advice=_cause_in_bijector(name, got[finite], sign * wanted[finite]),
                **options,
            )
            worst = max(worst, gap)
        count += 1
    if not count:
        raise NotApplicable("no bijector")
    return f"worst gap {worst:.1g}"


def _with_inner(model, params):
    """The model and all models inside it, each with its params; of copies, the first."""
    yield model, params
    for inner in inner_of(model):
        held = params_at(params, inner.place)
        yield from _with_inner(inner.model, held if inner.copies is None else entry(held, 0))


def _cause_in_bijector(name, got, wanted):
    """The likely cause if the log-determinants (n,) are ``got`` in place of ``wanted``."""
    returns = {"forward": "log|det dx/dz|", "inverse": "log|det dz/dx|"}[name]
    if np.allclose(got, -wanted, 1e-5, 1e-5):
        return f"{name}: the log-determinant has the wrong sign: return {returns}"
    if np.allclose(got, 0, 0, 1e-5):
        return f"{name}: the log-determinant is missing: return {returns}"
    return f"{name}: return {returns}, of the derivative of all features together"


def _cause_of_difference(got, log_det):
    """The likely cause if a term (n,) of log densities is ``got`` in place of ``log_det``."""
    tolerance = 1e-5 * (1 + np.abs(log_det).max())
    if np.abs(got - log_det).max() <= tolerance:
        return ""
    if np.abs(got + log_det).max() <= tolerance:
        return "log_prob (or inverse of a bijector): the log-determinant has the wrong sign"
    if np.abs(got).max() <= tolerance:
        return "log_prob (or inverse of a bijector): the log-determinant is missing"
    if np.ptp(got - log_det) <= tolerance:
        return (
            f"log_prob is off by {(got - log_det).mean():.6g} nats at every event: a constant of "
            "the normaliser, or of the log-determinant or its sign"
        )
    return (
        "log_prob or pull: one has another scale, shift or log-determinant than the other; for a "
        "bijector, inverse must return log|det dz/dx| and forward log|det dx/dz|"
    )
