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
from jaxgen.core.wrapper import Inner, Wrapper
from jaxgen.laws.compiled import FEW, tree_leaves, tree_map
from jaxgen.laws.subject import NotApplicable, Subject, require, require_close
from jaxgen.training.fitted import Fitted

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
    require_close(fitted.log_prob(x, y), scores, "log_prob by name", 1e-4, 1e-4)
    drawn = fitted.sample(subject.key, FEW, y)
    require_close(drawn, x, "sample by name", 1e-4, 1e-4)

    traced = functools.partial(_traced, model, names, subject.params, subject.key, x.astype(dtype))
    got, slopes = tree_map(np.asarray, traced(y, noise))
    first = np.concatenate([subject.draw(1, places[k : k + 1]) for k in range(model.classes)])
    for name, value in {"log_prob": scores, "sample": first[places], "push": x}.items():
        require_close(got[name], value, f"traced {name} by name", 1e-4, 1e-4)
    finite = [np.isfinite(leaf).all() for leaf in tree_leaves(slopes) if leaf.dtype.kind == "f"]
    require(all(finite), "the gradient of log_prob at traced labels is not finite")

    unknown = np.arange(FEW) % 2 == 0
    others = np.resize([min(names) - 1, max(names) + 1, min(names) + 1, 0], FEW)
    got, _ = tree_map(np.asarray, traced(np.where(unknown, others, y), noise))
    for name, value in got.items():
        for leaf in tree_leaves(value):
            blank = np.isnan(leaf) if leaf.dtype.kind == "f" else leaf == np.iinfo(leaf.dtype).min
            blank = blank.reshape(FEW, -1)
            require(blank[unknown].all(), f"{name} of an unknown traced label is not NaN")
            require(not blank[~unknown].any(), f"{name} of a known traced label is NaN")
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
    """Probabilities of classes, or of components in EM, sum to one however small densities are."""
    model = subject.model
    is_mixture = model.learning.method == "em" and model.y_shape is None
    is_mixture = is_mixture and _has_components(subject.params)
    if model.classes is None and not is_mixture:
        raise NotApplicable("the model has no classes, and is no mixture that EM learns")
    worst = 0.0
    if model.classes is not None:
        worst = _gap_of_classes(subject)
    if is_mixture:
        worst = max(worst, _gap_of_components(subject))
    return f"largest gap {worst:.1g}"


def _has_components(params):
    """Whether params are ``logits`` (k,) and params of components, stacked on an axis of k."""
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
            require(gap <= 1e-3, f"{what} {where}: responsibilities do not sum to one")
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
