"""Laws that relate a density, its samples and its gradients.

The statistical laws fail for a correct model with probability 2e-5 or less.
"""

from __future__ import annotations

import jax
import numpy as np

from jaxgen.laws import integrate
from jaxgen.laws.compiled import FEW, LEARN, tree_leaves
from jaxgen.laws.subject import P_VALUE, NotApplicable, Subject, require
from jaxgen.training import fit

_LEAST_ESS = 1000  # effective sample size below which importance weights are not used


def normalisation(subject: Subject) -> str:
    """The density integrates, or sums, to one."""
    coordinates = subject.coordinates
    if coordinates.discrete.all():
        try:
            total = integrate.states(subject)[1].sum()
            require(abs(total - 1) < 1e-3, f"the probabilities sum to {total:.6f}")
            return f"sum {total:.6f}"
        except NotApplicable:
            pass
    elif coordinates.dim <= 2 and not coordinates.discrete.any():
        total = integrate.cells(subject)[0].sum()
        require(abs(total - 1) < 1e-3, f"the density integrates to {total:.6f}")
        return f"integral {total:.6f}"
    _, weights = _weights(subject)
    error = weights.std() / len(weights) ** 0.5
    z = (weights.mean() - 1) / error
    require(
        2 * _tail(abs(z)) > P_VALUE,
        f"the density integrates to {weights.mean():.4f} +- {error:.4f} (importance sampling)",
    )
    return f"integral {weights.mean():.4f} +- {error:.4f}"


def goodness_of_fit(subject: Subject) -> str:
    """Samples follow the density: in cells of a grid, in states, or in projections onto lines."""
    coordinates = subject.coordinates
    if coordinates.discrete.all():
        try:
            every, probs = integrate.states(subject)
            code = {tuple(state): i for i, state in enumerate(every.tolist())}
            u = coordinates.from_events(subject.samples).astype(np.float64).tolist()
            counts = np.bincount([code[tuple(row)] for row in u], minlength=len(every))
            return _chi_square(counts, probs)
        except NotApplicable:
            pass
    elif coordinates.dim <= 2 and not coordinates.discrete.any():
        probs, counts = integrate.cells(subject)
        return _chi_square(counts, probs)
    return _projections(subject)


def score_identity(subject: Subject) -> str:
    """The mean of d log p / d params over samples is zero, for params that move no edge."""
    smooth = _smooth_leaves(subject)
    mean, square, _ = subject.gradients(subject.samples)
    zs, count = [0.0], 0
    for m, s, is_smooth in zip(tree_leaves(mean), tree_leaves(square), smooth, strict=True):
        if not is_smooth:
            continue
        spread = np.sqrt(np.maximum(s - m**2, 0) / subject.rows)
        # by rounding alone the mean is about eps times the size of the entries
        rounding = np.sqrt(s) * np.finfo(subject.dtype).eps
        zs.extend(np.abs(np.atleast_1d(m / np.maximum(spread + rounding, 1e-30))).ravel())
        count += m.size
    if not count:
        raise NotApplicable("every parameter moves an edge, or there are no parameters")
    worst = max(zs)
    require(
        2 * _tail(worst) * count > P_VALUE,
        f"the mean score of a parameter is {worst:.1f} standard errors from zero",
    )
    skipped = len(smooth) - sum(smooth)
    return f"worst z {worst:.1f} of {count}" + (f", {skipped} leaves skipped" if skipped else "")


def support(subject: Subject) -> str:
    """Samples are finite, lie in ``model.support`` and have a finite log density."""
    x = subject.samples
    require(np.isfinite(x).all(), f"{(~np.isfinite(x)).sum()} entries of samples are not finite")
    inside = subject.in_support(x)
    require(inside.shape == (len(x),), f"support(x) has shape {inside.shape}, not {(len(x),)}")
    require(inside.all(), f"sample {x[~inside][:1]} is outside model.support")
    if subject.model.traits.density == "none":
        return f"{len(x)} samples"
    bad = ~np.isfinite(subject.scores)
    require(not bad.any(), f"log_prob of sample {x[bad][:1]} is {subject.scores[bad][:1]}")
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
    count = sum(np.size(leaf) for leaf in tree_leaves(subject.params))
    tolerance = 0.05 + 2 * count / half if tolerance is None else tolerance
    new_y = subject.conditions(half) if new_y is None else new_y
    got = subject.log_prob(new, fitted.params, new_y).astype(np.float64)
    got = got[np.isfinite(got)]  # a new event may lie beyond the edges of the training rows
    require(len(got) > 0.98 * half, f"{half - len(got)} of {half} new events have zero density")
    gap = scores[half:].mean(dtype=np.float64) - got.mean()
    require(gap <= tolerance, f"new events score {gap:.3f} nats worse than under the true params")
    return f"gap {gap:.4f} nats"


def units(subject: Subject) -> str:
    """A fit to ``a * x + b`` is the fit to x in other units.

    Its log densities differ by log|a|, and its draws are ``a * x + b`` of the draws. ``a`` differs
    by feature, from 1e-12 to 1e12, and ``b`` is up to 100 standard deviations.
    """
    model = subject.model
    scales = np.broadcast_to(model.learning.rescalable, model.event_shape)
    if not scales.any():
        raise NotApplicable("no feature is rescalable")
    y = subject.cycled_labels(LEARN)
    x = subject.draw(LEARN, y).astype(np.float64)
    places = np.arange(scales.size).reshape(scales.shape)
    scale = np.where(scales, 10.0 ** np.array([-12, 12, 5, -3])[places % 4], 1.0)
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
    require(gap.max() < 1e-3, f"log densities differ by {gap.max():.2g} nats more than log|a|")
    draws = [
        Subject(model, fitted.params, key=subject.key, y=subject.y).draw(FEW, few_y)
        for fitted in fits
    ]
    gaps = np.abs((draws[1] - shift) / scale - draws[0]) / x.std(0)
    same = (gaps.reshape(FEW, -1).max(1) < 1e-2).mean()
    require(same > 0.9, f"{1 - same:.0%} of the draws are not those of x in other units")
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


def _chi_square(counts, probs):
    """Pearson's test of counts against probabilities, with cells of fewer than 10 pooled."""
    from scipy.stats import chi2

    rest = max(0.0, 1 - probs.sum())
    probs = np.append(probs, rest) / max(probs.sum(), 1.0)
    counts = np.append(counts, 0)
    expected = probs * counts.sum()
    large = expected >= 10
    expected = np.append(expected[large], expected[~large].sum())
    observed = np.append(counts[large], counts[~large].sum())
    statistic = ((observed - expected) ** 2 / np.maximum(expected, 1.0)).sum()
    p = float(chi2.sf(statistic, max(len(expected) - 1, 1)))
    require(p > P_VALUE, f"samples do not follow the density: chi-square p = {p:.2g}")
    return f"p {p:.2g}, {len(expected)} cells"


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
    worst, count = 0.0, 0
    for line in np.concatenate([np.eye(dim), lines], 1).T:
        a, b = z_samples @ line, z_points @ line
        edges = np.unique(np.quantile(a, np.linspace(0, 1, 9)[1:-1]))
        for f in (
            lambda v: v,
            lambda v: v**2,
            *(lambda v, e=edge: (v <= e + 1e-6).astype(float) for edge in edges),
        ):
            of_samples, of_density = f(a), f(b) * weights
            error = np.sqrt(of_samples.var() / len(a) + of_density.var() / len(b)) + 1e-9
            worst = max(worst, abs(of_samples.mean() - of_density.mean()) / error)
            count += 1
    require(
        2 * _tail(worst) * count > P_VALUE,
        f"samples do not follow the density: a statistic is {worst:.1f} standard errors off",
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
        size = np.minimum(size, 0.03 * (np.abs(leaf) + leaf.std() + 0.1))
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
