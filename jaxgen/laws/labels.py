"""Laws of labels, and of the shares that classes and the parts of a mixture have in an event."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxgen.compose import Mixture
from jaxgen.core import batch
from jaxgen.core.model import Model, is_invertible
from jaxgen.core.wrapper import Wrapper
from jaxgen.laws.compiled import FEW, tree_leaves, tree_map
from jaxgen.laws.subject import NotJudged, Subject, require, require_close
from jaxgen.models import GaussianMixture
from jaxgen.training.fitted import Fitted

_MAGNITUDES = (1.0, 1e3, 1e4, 1e5, 1e8)  # of log densities
_SUM = 1e-5  # by how much probabilities may miss a sum of 1


def labels(subject: Subject) -> str:
    """Labels by name mean the same eagerly and in jit, vmap and grad; an unknown one gives NaN."""
    model, dtype = subject.model, subject.dtype
    if model.classes is None:
        raise NotJudged("y is no label")
    names = tuple(range(4 * model.classes - 1, 2, -4))  # neither places nor in order
    places = np.arange(FEW, dtype=np.int32) % model.classes
    y = np.array(names)[places]
    x = subject.draw(FEW, places)
    fitted = Fitted(model, subject.params, labels=names)
    noise = tree_map(lambda v: jnp.moveaxis(v, -1, 0), subject.noise(FEW))
    scores = subject.log_prob(x, y=places)
    require_close(fitted.log_prob(x, y), scores, "eager log_prob by name", 1e-4, 1e-4)
    drawn = fitted.sample(subject.key, FEW, y)
    require_close(drawn, x, "eager sample by name", 1e-4, 1e-4)

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
    """What each verb gives for labels under a trace, and the gradient of the scores in params."""

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
    """Shares of classes, or of a mixture's parts, sum to one however small densities are."""
    model = subject.model
    mixture = isinstance(model, (Mixture, GaussianMixture)) and model.learning.method == "em"
    if model.classes is None and not mixture:
        raise NotJudged("nothing has shares")
    worst = 0.0
    if model.classes is not None:
        worst = _gap_of_classes(subject)
    if mixture:
        worst = max(worst, _gap_of_parts(subject))
    return f"largest gap {worst:.1g}"


class _Far(Wrapper):
    """A model of labels whose log densities are lower by ``params["distance"]``."""

    model: Model

    @property
    def inner(self):
        return self.model

    def log_prior(self, params):
        return self.model.log_prior(params["model"])

    def log_prob(self, params, x, y=None):
        return self.model.log_prob(params["model"], x, y) - params["distance"]


def _gap_of_classes(subject):
    x = subject.few.astype(subject.dtype)
    log_p = np.asarray(_classified(subject.model, subject.params, x), np.float64)
    gaps = np.abs(np.exp(log_p).sum(2) - 1)
    far, row = np.unravel_index(gaps.argmax(), gaps.shape)
    require(
        gaps.max() <= _SUM,  # NaN fails too
        f"p(y|x) sums to {np.exp(log_p[far, row]).sum():.6g} at log densities of about "
        f"-{_MAGNITUDES[far]:g}",
    )
    return gaps.max()


@functools.partial(jax.jit, static_argnums=0)
def _classified(model, params, x):
    """log p(y|x) at each of the magnitudes, (magnitudes, n, classes)."""

    def at(distance):
        own = {"model": params, "distance": distance}
        return batch.classify_rows(_Far(model), own, None, x)

    return lax.map(at, jnp.array(_MAGNITUDES, x.dtype))


def _gap_of_parts(subject):
    """Of a mixture of equal parts, each learns in a step of EM what one part alone would."""
    x = subject.few.astype(subject.dtype)
    centre, worst = x.mean(0), 0.0
    for magnitude in _MAGNITUDES:
        far = centre + np.sqrt(magnitude).astype(x.dtype) * (x - centre)
        if not np.isfinite(subject.log_prob(far)).all():
            continue  # outside the support
        together, alone = tree_map(np.asarray, _steps(subject.model, subject.params, far))
        for got, wanted in zip(tree_leaves(together), tree_leaves(alone), strict=True):
            gap = np.abs(got - wanted).max() / np.abs(wanted).max()
            what = f"a part learns {got.ravel()[:1]}, where it alone would learn"
            where = f"{wanted.ravel()[:1]}, at log densities of about -{magnitude:g}"
            require(gap <= 1e-3, f"{what} {where}: shares do not sum to one")
            worst = max(worst, gap)
    return worst


@functools.partial(jax.jit, static_argnums=0)
def _steps(model, params, x):
    """The first part after a step of EM: of equal parts, and of one that has all of the weight.

    The second learns from rows of less weight, so that both learn from as much.
    """
    count = len(params["logits"])
    parts = {name: own for name, own in params.items() if name != "logits"}
    equal = tree_map(lambda v: jnp.broadcast_to(v[:1], v.shape), parts)
    alone = jnp.where(jnp.arange(count) == 0, 0, -jnp.inf).astype(x.dtype)
    found = []
    for logits, weight in ((jnp.zeros(count, x.dtype), 1), (alone, 1 / count)):
        weights = jnp.full(len(x), weight, x.dtype)
        new, _ = model.em_step({"logits": logits, **equal}, x, None, weights)
        found.append(tree_map(lambda v: v[0], {name: new[name] for name in parts}))
    return found
