"""Laws of labels, and of the probabilities of classes and mixture components given an event.

These probabilities, p(y|x) and the responsibilities of EM, are called shares here.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxgen.core import batch
from jaxgen.core.model import Model, is_invertible
from jaxgen.core.wrapper import Inner, Wrapper, inner_of
from jaxgen.laws.compiled import FEW, tree_leaves, tree_map
from jaxgen.laws.subject import NotApplicable, Subject, require, require_close
from jaxgen.training.fitted import Fitted

_LABEL = "log_prob, push or pull: y is the number of a label, 0 to classes - 1, and may be traced"
_SHARES = (
    "log_prior or em_step: subtract the largest log density of an event before you take "
    "exponentials, as jax.nn.softmax and jax.nn.log_softmax do"
)
_MAGNITUDES = (1.0, 1e3, 1e4, 1e5, 1e8)  # of log densities
_SUM_TOLERANCE = 1e-5  # largest difference of a sum of probabilities from 1


def labels(subject: Subject) -> str:
    """Labels by name mean the same within jit, vmap and grad as outside; unknown ones give NaN."""
    model, dtype = subject.model, subject.dtype
    if model.classes is None:
        raise NotApplicable("y is not a label")
    names = tuple(range(4 * model.classes - 1, 2, -4))  # unlike 0, 1, ..., and in another order
    places = np.arange(FEW, dtype=np.int32) % model.classes
    y = np.array(names)[places]
    x = subject.draw(FEW, places)
    fitted = Fitted(model, subject.params, labels=names)
    noise = tree_map(lambda v: jnp.moveaxis(v, -1, 0), subject.noise(FEW))
    scores = subject.log_prob(x, y=places)
    got = fitted.log_prob(x, y)
    require_close(got, scores, "log_prob by name", 1e-4, 1e-4, advice=_LABEL, events=x)
    drawn = fitted.sample(subject.key, FEW, y)
    require_close(drawn, x, "sample by name", 1e-4, 1e-4, advice=_LABEL)

    traced = functools.partial(_traced, model, names, subject.params, subject.key, x.astype(dtype))
    got, slopes = tree_map(np.asarray, traced(y, noise))
    first = np.concatenate([subject.draw(1, places[k : k + 1]) for k in range(model.classes)])
    for name, value in {"log_prob": scores, "sample": first[places], "push": x}.items():
        what = f"{name} of labels by name within jit"
        require_close(got[name], value, what, 1e-4, 1e-4, advice=_LABEL)
    finite = [np.isfinite(leaf).all() for leaf in tree_leaves(slopes) if leaf.dtype.kind == "f"]
    what = "the gradient of log_prob in params is not finite where labels are traced"
    require(all(finite), what, _LABEL)

    unknown = np.arange(FEW) % 2 == 0
    others = np.resize([min(names) - 1, max(names) + 1, min(names) + 1, 0], FEW)
    got, _ = tree_map(np.asarray, traced(np.where(unknown, others, y), noise))
    for name, value in got.items():
        for leaf in tree_leaves(value):
            blank = np.isnan(leaf) if leaf.dtype.kind == "f" else leaf == np.iinfo(leaf.dtype).min
            blank = blank.reshape(FEW, -1)
            what = f"{name} of an unknown label within jit is not NaN"
            require(blank[unknown].all(), what, "y_support: leave it to jaxgen where y is a label")
            what = f"{name} of a known label within jit is NaN"
            require(not blank[~unknown].any(), what, _LABEL)
    return f"{len(got)} verbs"


@functools.partial(jax.jit, static_argnums=(0, 1))
def _traced(model, names, params, key, x, y, noise):
    """The results of each verb for traced labels, and the gradient of the scores in params."""

    def scores(params):
        fitted = Fitted(model, params, labels=names)
        scores = jax.vmap(lambda x, y: fitted.log_prob(x[None], y)[0])(x, y)
        return jnp.where(jnp.isnan(scores), 0, scores).sum(), scores

    (_, each), slopes = jax.value_and_grad(scores, has_aux=True, allow_int=True)(params)
    fitted = Fitted(model, params, labels=names)
    got = {
        "log_prob": each,
        "sample": jax.vmap(lambda y: fitted.sample(key, 1, y)[0])(y),
        "push": fitted.push(noise, y),
    }
    if is_invertible(model):
        got["pull"] = fitted.pull(x, y)
    return got, slopes


def shares(subject: Subject) -> str:
    """Probabilities of classes, or of components in EM, sum to one however small densities are.

    The joint densities of a mixture's components sum to its density, and draws come from each
    component as often as the components' shares in the draws say.
    """
    model = subject.model
    is_mixture = model.learning.method == "em" and model.y_shape is None
    is_mixture = is_mixture and _has_stacked_components(model, subject.params)
    if model.classes is None and not is_mixture and model.traits.components is None:
        raise NotApplicable("the model has no classes and no components")
    worst = 0.0
    if model.classes is not None:
        worst = _gap_of_classes(subject)
    if is_mixture:
        worst = max(worst, _gap_of_components(subject))
    if model.traits.components is not None and model.classes is None:
        _check_components(subject)
    return f"largest gap {worst:.1g}"


def _check_components(subject):
    """Raise unless the joint densities and the drawn components of a mixture agree with it."""
    x, which, joint, log_p = map(np.asarray, _components(subject.model, subject.params, subject.y))
    joint, log_p = joint.astype(np.float64), log_p.astype(np.float64)
    total = np.logaddexp.reduce(joint, 1)
    advice = "traits.components.joint: return log w_k + log p_k(x) of each component"
    what = "log p(x) as the sum over components"
    require_close(total, log_p, what, 1e-4, 1e-4, advice=advice, events=x)
    shares = np.exp(joint - total[:, None])
    gap = (which[:, None] == np.arange(joint.shape[1])) - shares
    error = np.sqrt((shares * (1 - shares)).sum(0)) + 1
    deviations = np.abs(gap.sum(0)) / error
    require(
        deviations.max() < 6,
        f"component {deviations.argmax()} is drawn {deviations.max():.1f} standard errors more or "
        "less often than the responsibilities say",
        "push or log_prob: they give the components other weights; or traits.components.which",
    )


@functools.partial(jax.jit, static_argnums=0)
def _components(model, params, y):
    """Draws, the components that they come from, and joint and whole log densities of them."""
    key, start = jax.random.key(3), np.zeros(2, np.uint32)
    y = None if y is None else jnp.broadcast_to(y, (FEW, *y.shape))
    x, which = batch.sample_rows(model, params, key, start, FEW, y, with_labels=True)
    joint = batch.joint_rows(model, params, x, y)
    return x, which, joint, batch.log_prob_rows(model, params, x, y)


def _has_stacked_components(model, params):
    """Whether params are ``logits`` (k,) and params of components, stacked on an axis of k."""
    if model.traits.components is None or any(one.copies is None for one in inner_of(model)):
        return False
    if not isinstance(params, dict) or np.ndim(params.get("logits", 0)) != 1:
        return False
    count = len(params["logits"])
    return all(np.shape(leaf)[:1] == (count,) for leaf in tree_leaves(params))


class _Lowered(Wrapper):
    """A model of labels whose log densities are lower by ``params["offset"]``."""

    model: Model

    @property
    def inner(self):
        return (Inner(self.model, ("model",)),)

    def log_prior(self, params):
        return self.model.log_prior(params["model"])

    def log_prob(self, params, x, y=None):
        return self.model.log_prob(params["model"], x, y) - params["offset"]


def _gap_of_classes(subject):
    x = subject.few_samples.astype(subject.dtype)
    log_p = np.asarray(_classified(subject.model, subject.params, x), np.float64)
    gaps = np.abs(np.exp(log_p).sum(2) - 1)
    magnitude, row = np.unravel_index(gaps.argmax(), gaps.shape)
    require(
        gaps.max() <= _SUM_TOLERANCE,  # NaN fails too
        f"p(y|x) sums to {np.exp(log_p[magnitude, row]).sum():.6g} at log densities of about "
        f"-{_MAGNITUDES[magnitude]:g}",
        _SHARES,
    )
    return gaps.max()


@functools.partial(jax.jit, static_argnums=0)
def _classified(model, params, x):
    """log p(y|x) at each of the magnitudes, (magnitudes, n, classes)."""

    def at(offset):
        lowered = {"model": params, "offset": offset}
        return batch.classify_rows(_Lowered(model), lowered, None, x)

    return lax.map(at, jnp.array(_MAGNITUDES, x.dtype))


def _gap_of_components(subject):
    """The largest gap between a component among equal ones and one alone, after a step of EM."""
    x = subject.few_samples.astype(subject.dtype)
    centre, worst = x.mean(0), 0.0
    for magnitude in _MAGNITUDES:
        far = centre + np.sqrt(magnitude).astype(x.dtype) * (x - centre)
        if not np.isfinite(subject.log_prob(far)).all():
            continue  # outside the support
        together, alone = tree_map(np.asarray, _steps(subject.model, subject.params, far))
        for got, wanted in zip(tree_leaves(together), tree_leaves(alone), strict=True):
            gap = np.abs(got - wanted).max() / np.abs(wanted).max()
            what = f"a component learns {got.ravel()[:1]}, but alone it would learn"
            where = f"{wanted.ravel()[:1]}, at log densities of about -{magnitude:g}"
            require(gap <= 1e-3, f"{what} {where}: responsibilities do not sum to one", _SHARES)
            worst = max(worst, gap)
    return worst


@functools.partial(jax.jit, static_argnums=0)
def _steps(model, params, x):
    """The first component after a step of EM: among equal ones, and where it has all the weight.

    In the second case rows have less weight, so that the component learns from as much in both.
    """
    count = len(params["logits"])
    components = {name: leaf for name, leaf in params.items() if name != "logits"}
    equal = tree_map(lambda v: jnp.broadcast_to(v[:1], v.shape), components)
    alone = jnp.where(jnp.arange(count) == 0, 0, -jnp.inf).astype(x.dtype)
    found = []
    for logits, weight in ((jnp.zeros(count, x.dtype), 1), (alone, 1 / count)):
        weights = jnp.full(len(x), weight, x.dtype)
        new, _ = model.em_step({"logits": logits, **equal}, x, None, weights)
        found.append(tree_map(lambda v: v[0], {name: new[name] for name in components}))
    return found
