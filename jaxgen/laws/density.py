"""Laws that relate a density, its samples and its gradients.

The statistical laws fail for a correct model with probability 2e-5 or less.
"""

from __future__ import annotations

import jax
import numpy as np

from jaxgen.core.records import TOGETHER
from jaxgen.laws import integrate
from jaxgen.laws.compiled import FEW, LEARN, tree_leaves
from jaxgen.laws.subject import P_VALUE, NotApplicable, Subject, require, require_each, shown
from jaxgen.training import fit

_LEAST_ESS = 1000  # effective sample size below which importance weights are not used
_NORMALISER = (
    "log_prob: a factor of the normaliser is missing or wrong, such as log(scale) or log(2 pi) for "
    "each feature, or a log-determinant has the wrong sign; or support is wider than log_prob"
)
_TOO_WIDE = (
    "log_prob or push: log_prob must return -jnp.inf where push puts no event, as with "
    "jnp.where(inside, score, -jnp.inf); state such a bound in support too"
)
_OTHER_DENSITY = (
    "push or log_prob: they use a param in other ways, such as a rate for a scale, or push uses a "
    "noise number twice or not at all"
)
_WHOLE = "push: all samples are whole numbers, where log_prob is finite in between too"
LEFT_SUPPORT = (
    "a row left the support: put bounds that are params in learning.frozen, so that gradients do "
    "not move them, and let init take them from x; or fit with validation=0, so that no row is "
    "held out of init"
)


def normalisation(subject: Subject) -> str:
    """The density integrates, or sums, to one."""
    coordinates = subject.coordinates
    if coordinates.discrete.all():
        try:
            total = integrate.states(subject)[1].sum()
            require(abs(total - 1) < 1e-3, f"the probabilities sum to {total:.6f}", _NORMALISER)
            return f"sum {total:.6f}"
        except NotApplicable:
            pass
    elif coordinates.dim <= 2 and not coordinates.discrete.any():
        probs, _, centres = integrate.cells(subject)
        total = probs.sum()
        found = f"the density integrates to {total:.6f}"
        if abs(total - 1) >= 1e-3:
            require(False, *_not_one(subject, found, centres, probs))
        return f"integral {total:.6f}"
    points, weights = _weights(subject)
    error = weights.std() / len(weights) ** 0.5
    z = (weights.mean() - 1) / error
    if 2 * _tail(abs(z)) <= P_VALUE:
        found = f"the density integrates to {weights.mean():.4f} +- {error:.4f}"
        require(False, *_not_one(subject, f"{found} (importance sampling)", points, weights))
    return f"integral {weights.mean():.4f} +- {error:.4f}"


def _not_one(subject, found, points, mass):
    """A message and advice about a density that has mass (n,) at points (n, dim)."""
    u = subject.coordinates.from_events(subject.samples)
    beyond = ((points < u.min(0)) | (points > u.max(0))).any(1)
    if mass[beyond].sum() < 0.5 * mass.sum():
        return found, _NORMALISER
    place = shown(points[beyond][mass[beyond].argmax()])
    return f"{found}, most of it beyond all samples, as at {place}", _TOO_WIDE


def goodness_of_fit(subject: Subject) -> str:
    """Samples follow the density: in cells of a grid, in states, or in projections onto lines."""
    coordinates = subject.coordinates
    if coordinates.discrete.all():
        try:
            every, probs = integrate.states(subject)
            code = {tuple(state): i for i, state in enumerate(every.tolist())}
            u = coordinates.from_events(subject.samples).astype(np.float64).tolist()
            counts = np.bincount([code[tuple(row)] for row in u], minlength=len(every))
            return _chi_square(subject, counts, probs, every)
        except NotApplicable:
            pass
    elif coordinates.dim <= 2 and not coordinates.discrete.any():
        probs, counts, centres = integrate.cells(subject)
        return _chi_square(subject, counts, probs, centres)
    return _projections(subject)


def score_identity(subject: Subject) -> str:
    """The mean of d log p / d params over samples is zero, for params that move no edge."""
    smooth = _smooth_leaves(subject)
    mean, square, _ = subject.gradients(subject.samples)
    worst, of_param, count = 0.0, "", 0
    paths, _ = jax.tree_util.tree_flatten_with_path(mean)
    for (path, m), s, is_smooth in zip(paths, tree_leaves(square), smooth, strict=True):
        if not is_smooth:
            continue
        spread = np.sqrt(np.maximum(s - m**2, 0) / subject.rows)
        # by rounding alone the mean is about eps times the size of the entries
        rounding = np.sqrt(s) * np.finfo(subject.dtype).eps
        z = np.abs(m / np.maximum(spread + rounding, 1e-30)).max(initial=0)
        if not z <= worst:  # NaN too
            worst, of_param = z, jax.tree_util.keystr(path, simple=True, separator="/")
        count += m.size
    if not count:
        raise NotApplicable("every parameter moves an edge, or there are no parameters")
    require(
        2 * _tail(worst) * count > P_VALUE,
        f"the mean of d log_prob / d {of_param} over samples is {worst:.1f} standard errors from 0",
        f"log_prob: its normaliser does not depend on {of_param} as it should (a missing log of a "
        "scale?); or push and log_prob use it in other ways",
    )
    skipped = len(smooth) - sum(smooth)
    return f"worst z {worst:.1f} of {count}" + (f", {skipped} leaves skipped" if skipped else "")


def support(subject: Subject) -> str:
    """Samples are finite, lie in ``model.support`` and have a finite log density."""
    x = subject.samples
    finite = np.isfinite(x).reshape(len(x), -1).all(1)
    advice = "push: guard its logarithms, divisions and exponentials, which overflow or meet 0"
    require_each(
        finite, x, f"{(~finite).sum()} of {len(x)} samples are not finite, the first", advice
    )
    inside = subject.in_support(x)
    advice = "push or support: one of them is wrong; by default support is all real numbers"
    require_each(inside, x, f"{(~inside).sum()} samples are outside model.support", advice)
    if subject.model.traits.density == "none":
        return f"{len(x)} samples"
    finite = np.isfinite(subject.scores)
    require_each(
        finite,
        x,
        f"log_prob is {subject.scores[finite.argmin()]} at {(~finite).sum()} of {len(x)} samples",
        "push or log_prob: they differ about which events are possible; a bound that only rounding "
        "crosses needs >= in place of >, or a push that stays inside",
    )
    return f"{len(x)} samples"


def learning(subject: Subject, tolerance: float | None = None) -> str:
    """Fitted to its own samples, the model scores new ones nearly as well as the true params do.

    The mean score may be ``tolerance`` nats lower; by default 0.05 + 2 d / n, with d numbers in the
    params and n rows.
    """
    half = LEARN
    x, scores = subject.samples[: 2 * half], subject.scores[: 2 * half]
    y = subject.cycled_labels(2 * half)
    if subject.model.classes is not None:
        x = subject.draw(2 * half, y)
        scores = subject.log_prob(x, y=y)
    new, new_y = x[half:], None if y is None else y[half:]
    y = None if y is None else y[:half]
    fitted = fit(subject.model, x[:half], y, key=subject.key, progress=False)
    stopped = fitted.history["stopped"]
    advice = f"{LEFT_SUPPORT}; or the gradient of log_prob is NaN at a row"
    what = f"a fit to {half} samples stopped: {stopped}, where the loss is not finite"
    require("nan at step" not in stopped, what, advice)
    count = sum(np.size(leaf) for leaf in tree_leaves(subject.params))
    tolerance = 0.05 + 2 * count / half if tolerance is None else tolerance
    new_y = subject.conditions(half) if new_y is None else new_y
    got = subject.log_prob(new, fitted.params, new_y).astype(np.float64)
    got = got[np.isfinite(got)]  # a new event may lie beyond the edges of the training rows
    require(
        len(got) > 0.98 * half,
        f"{half - len(got)} of {half} new events have no density under the fitted params",
        LEFT_SUPPORT,
    )
    gap = scores[half:].mean(dtype=np.float64) - got.mean()
    require(
        gap <= tolerance,
        f"after a fit to {half} samples, new samples score {gap:.3f} nats worse than under the "
        f"true params; {_farthest(fitted.params, subject.params)}",
        "init, estimate or learning: a param that does not learn is frozen or behind a "
        "stop_gradient; one that learns slowly needs a better start (init gets x), a log or a "
        "higher learning.rate",
    )
    return f"gap {gap:.4f} nats"


def _farthest(fitted, true):
    """A text about the param whose fitted value is farthest from the true one."""
    worst, text = 0.0, "the params are the true ones"
    paths, _ = jax.tree_util.tree_flatten_with_path(fitted)
    for (path, got), wanted in zip(paths, tree_leaves(true), strict=True):
        if np.shape(got) != np.shape(wanted) or not np.size(got):
            continue
        got, wanted = np.asarray(got, np.float64), np.asarray(wanted, np.float64)
        gap = np.abs(got - wanted).max() / (np.abs(wanted).max() + 1e-6)
        if gap > worst:
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            worst, text = gap, f"{name!r} is {shown(got)}, not {shown(wanted)}"
    return text


def units(subject: Subject) -> str:
    """A fit to ``a * x + b`` is the fit to x in other units.

    Its log densities differ by log|a|, and its draws are ``a * x + b`` of the draws. ``a`` differs
    by feature, from 1e-12 to 1e12, unless features have to share one scale, and ``b`` is up to 100
    standard deviations.
    """
    model = subject.model
    scales = np.broadcast_to(model.learning.rescalable, model.event_shape)
    if not scales.any():
        raise NotApplicable("no feature is rescalable")
    y = subject.cycled_labels(LEARN)
    x = subject.draw(LEARN, y).astype(np.float64)
    places = np.arange(scales.size).reshape(scales.shape)
    power = np.where(scales == TOGETHER, 5, np.array([-12, 12, 5, -3])[places % 4])
    scale = np.where(scales, 10.0**power, 1.0)
    shift = np.where(scales, np.array([100, -30, 1])[places % 3] * scale * x.std(0), 0.0)
    epochs = 1 if model.learning.method == "gradient" else None
    fits = [
        fit(model, data, y, key=subject.key, epochs=epochs, progress=False)
        for data in (x, scale * x + shift)
    ]
    few_y = None if y is None else y[:FEW]
    scores = [
        subject.log_prob(data[:FEW], fitted.params, few_y).astype(np.float64)
        for data, fitted in zip((x, scale * x + shift), fits, strict=True)
    ]
    with np.errstate(invalid="ignore"):
        gap = np.abs(scores[1] + np.log(scale).sum() - scores[0])
    gap = np.where(scores[0] == scores[1], 0.0, gap)  # both impossible
    advice = (
        "rescale: return the params of shift + scale * x (a scale is multiplied, a rate divided, "
        "and a location moved too); or leave learning.rescalable out"
    )
    require_each(
        gap < 1e-3,
        x[:FEW],
        f"the density of a fit to a * x + b with a = {shown(scale)}, b = {shown(shift)} is "
        f"{gap.max():.2g} nats off",
        advice,
    )
    draws = [
        Subject(model, fitted.params, key=subject.key, y=subject.y).draw(FEW, few_y)
        for fitted in fits
    ]
    gaps = np.abs((draws[1] - shift) / scale - draws[0]) / x.std(0)
    same = (gaps.reshape(FEW, -1).max(1) < 1e-2).mean()
    require(
        same > 0.9,
        f"{1 - same:.0%} of the draws are not those of x in other units: {shown(draws[1][0])} is "
        f"not {shown(shift)} + {shown(scale)} * {shown(draws[0][0])}",
        advice,
    )
    return f"gap {gap.max():.1g} nats"


def _weights(subject):
    points, weights = integrate.importance(subject)
    ess = weights.sum() ** 2 / (weights**2).sum() if weights.any() else 0.0
    if ess < _LEAST_ESS:
        raise NotApplicable(f"importance sampling has only {ess:.0f} effective draws")
    return points, weights


def _tail(z):
    from scipy.stats import norm

    return norm.sf(z)


def _chi_square(subject, counts, probs, points):
    """Pearson's test of counts against probabilities, with cells of fewer than 10 pooled.

    points: (cells, dim), where the cells are.
    """
    from scipy.stats import chi2

    moments = [_moments(points, weights) for weights in (counts, probs)]
    rest = max(0.0, 1 - probs.sum())
    probs = np.append(probs, rest) / max(probs.sum(), 1.0)
    counts = np.append(counts, 0)
    expected = probs * counts.sum()
    large = expected >= 10
    expected = np.append(expected[large], expected[~large].sum())
    observed = np.append(counts[large], counts[~large].sum())
    statistic = ((observed - expected) ** 2 / np.maximum(expected, 1.0)).sum()
    p = float(chi2.sf(statistic, max(len(expected) - 1, 1)))
    require(
        p > P_VALUE,
        f"samples do not follow the density (chi-square p = {p:.2g}): they have {moments[0]}, the "
        f"density has {moments[1]}",
        _why_other(subject),
    )
    return f"p {p:.2g}, {len(expected)} cells"


def _moments(points, weights):
    weights = weights / weights.sum()
    mean = weights @ points
    centred = points - mean
    deviation = np.sqrt(np.maximum(weights @ centred**2, 0))
    text = f"mean {_rounded(mean)}, deviation {_rounded(deviation)}"
    if points.shape[1] == 2 and deviation.all():
        text += f", correlation {weights @ centred.prod(1) / deviation.prod():.2g}"
    return text


def _why_other(subject):
    """Advice about samples that do not follow the density."""
    x = subject.few_samples
    whole = (x == np.round(x)).all() and not subject.coordinates.discrete.any()
    return _WHOLE if whole else _OTHER_DENSITY


def _rounded(values):
    return shown([float(f"{v:.3g}") for v in values])


def _projections(subject):
    """Compares samples with importance weights along the features and along random lines.

    Along each of them it compares the mean, the mean square and the shares below some quantiles.
    """
    points, weights = _weights(subject)
    dim = subject.coordinates.dim
    u = subject.coordinates.from_events(subject.samples).astype(np.float64)
    centre, spread = u.mean(0), u.std(0) + 1e-12
    lines = np.random.default_rng(2).normal(size=(dim, 4))
    z_samples, z_points = (u - centre) / spread, (points - centre) / spread
    worst, count, differing = 0.0, 0, ""
    for j, line in enumerate(np.concatenate([np.eye(dim), lines], 1).T):
        a, b = z_samples @ line, z_points @ line
        edges = np.unique(np.quantile(a, np.linspace(0, 1, 9)[1:-1]))
        where = f"entry {j}" if j < dim else "a sum of entries"
        for what, f in (
            ("mean", lambda v: v),
            ("mean square", lambda v: v**2),
            *(
                (f"share below {edge:.2g}", lambda v, e=edge: (v <= e + 1e-6).astype(float))
                for edge in edges
            ),
        ):
            of_samples, of_density = f(a), f(b) * weights
            means = of_samples.mean(), of_density.mean()
            error = np.sqrt(of_samples.var() / len(a) + of_density.var() / len(b)) + 1e-9
            z = abs(means[0] - means[1]) / error
            count += 1
            if z > worst:
                worst = z
                differing = f"the {what} of {where} is {means[0]:.4g}, not {means[1]:.4g}"
    require(
        2 * _tail(worst) * count > P_VALUE,
        f"samples do not follow the density: in standard units {differing}, {worst:.1f} standard "
        "errors off",
        _why_other(subject),
    )
    return f"worst z {worst:.1f} of {count}"


def _smooth_leaves(subject):
    """For each leaf of params, whether log p is smooth in it: moving it moves no jump of p.

    The score identity holds only for such leaves. Each leaf is moved by a few hundredths of its
    standard error from one observation: a smooth log p then follows its gradient, a jump does not.
    """
    x = subject.samples[:4096]
    before = subject.scores[:4096].astype(np.float64)
    _, square, _ = subject.gradients(x)
    rng = np.random.default_rng(3)
    leaves, tree = jax.tree_util.tree_flatten(subject.params)
    smooth = []
    for i, (leaf, s) in enumerate(zip(leaves, tree_leaves(square), strict=True)):
        leaf = np.asarray(leaf)
        if leaf.dtype.kind != "f" or not leaf.size:
            smooth.append(False)
            continue
        size = np.where(s > 1e-12, 0.03 / np.sqrt(leaf.size * np.maximum(s, 1e-12)), 0.0)
        finite = np.isfinite(leaf)
        spread = leaf[finite].std() if finite.any() else 0.0
        size = np.where(finite, np.minimum(size, 0.03 * (np.abs(leaf) + spread + 0.1)), 0.0)
        step = size * rng.choice([-1.0, 1.0], leaf.shape)
        after = []
        for sign in (-1, 1):
            moved = list(leaves)
            moved[i] = (leaf + sign * step).astype(leaf.dtype)
            after.append(
                subject.log_prob(x, jax.tree_util.tree_unflatten(tree, moved)).astype(np.float64)
            )
        # the second difference of a smooth function is small compared with its first difference
        with np.errstate(invalid="ignore"):
            bend = np.abs(after[0] + after[1] - 2 * before)
            slope = np.abs(after[0] - after[1])
        jumps = ~(np.isfinite(bend) & (bend <= 0.02 + slope**2))
        smooth.append(bool(jumps.mean() < 1e-3))
    return smooth
