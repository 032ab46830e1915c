"""Each law detects a planted bug: it rejects a model with one bug, and passes its honest twin.

A model may break other laws too; the law named beside it must reject it.
"""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import Gamma, LinearGaussian
from jax.custom_batching import custom_vmap
from numpyro.distributions import constraints

from jaxgen import Fitted, Learning, Model, bijectors, compose, models
from jaxgen.core.model import Traits
from jaxgen.core.random import Uniform
from jaxgen.laws import LAWS, LawError, Subject, check

GAUSSIAN = {"mean": jnp.array([0.5, -1.0]), "scale": jnp.array([0.7, 2.0])}


class Honest(models.Gaussian):
    covariance: str = "diagonal"


class WideSamples(Honest):
    def push(self, params, noise, y=None):
        return super().push(params, 1.05 * noise)


class ShiftedSamples(Honest):
    def push(self, params, noise, y=None):
        return super().push(params, noise + 0.05)


class WrongNormaliser(Honest):
    def log_prob(self, params, x, y=None):
        return super().log_prob(params, x) + 0.01


class ForgottenScale(Honest):
    def log_prob(self, params, x, y=None):
        return super().log_prob(params, x) + 0.1 * jnp.log(params["scale"]).sum()


class WrongGradient(Honest):
    def log_prob(self, params, x, y=None):
        score = super().log_prob(params, x)
        return score + 0.01 * (x - jax.lax.stop_gradient(x)).sum()


class WrongSign(Honest):
    """Adds the log-determinant that it should subtract."""

    def log_prob(self, params, x, y=None):
        return super().log_prob(params, x) + 2 * jnp.log(params["scale"]).sum()


class OneNoise(Honest):
    """Makes both features of one noise number."""

    def push(self, params, noise, y=None):
        return super().push(params, jnp.broadcast_to(noise[0], noise.shape))


class StoppedMean(Honest):
    learning = Learning(rate=0.05)

    def init(self, key, x=None, y=None):
        return {"mean": jnp.zeros(self.dim), "scale": jnp.ones(self.dim)}

    def log_prob(self, params, x, y=None):
        return super().log_prob({**params, "mean": jax.lax.stop_gradient(params["mean"])}, x)


class WrongPull(Honest):
    def pull(self, params, x, y=None):
        return super().pull(params, x) * 1.001

    def log_prob(self, params, x, y=None):
        return super().log_prob(params, x)


class WideFit(Honest):
    def estimate(self, x, y=None, weights=None):
        params = super().estimate(x, y, weights)
        return {**params, "scale": 1.5 * params["scale"]}


class CompiledForEachN(Honest):
    """Estimates the mean with JAX, which compiles a program for each number of rows."""

    def estimate(self, x, y=None, weights=None):
        return {**super().estimate(x, y, weights), "mean": jnp.asarray(x).mean(0)}


class NoScale(Honest):
    """``rescale`` changes the mean, but not the scale."""

    def rescale(self, params, shift, scale):
        return {"mean": shift + scale * params["mean"], "scale": params["scale"]}


class Cancelling(Honest):
    """Expands squares before they are subtracted, which loses digits."""

    def log_prob(self, params, x, y=None):
        far = 3000.0
        offset = (x + far) ** 2 - 2 * (x + far) * far + far**2 - x**2
        return super().log_prob(params, x) + offset.sum()


class Leaking(Honest):
    def log_prob(self, params, x, y=None):
        return super().log_prob(params, x) + jnp.asarray(np.zeros(()))


class NotEqual(Honest):
    __hash__ = object.__hash__

    def __eq__(self, other):
        return self is other


class UnknownField(Honest):
    traits = Traits(changeable=("length",))


class VectorScore(Honest):
    def log_prob(self, params, x, y=None):
        return jnp.stack([super().log_prob(params, x)])


class OtherTree(Honest):
    def init(self, key, x=None, y=None):
        params = super().init(key, x)
        return params if x is None else {**params, "count": len(x)}


@custom_vmap
def centred(x):
    return x


@centred.def_vmap
def _(size, batched, x):
    return x - x.mean(0), True


class Centred(Honest):
    """A sample depends on the other samples in its batch."""

    def push(self, params, noise, y=None):
        return centred(super().push(params, noise))


class CentredScore(Honest):
    def log_prob(self, params, x, y=None):
        return super().log_prob(params, x) + (centred(x) - x).sum()


class Traced(Honest):
    """Behaves differently when compiled."""

    def log_prob(self, params, x, y=None):
        return super().log_prob(params, x) + (0.1 if isinstance(x, jax.core.Tracer) else 0.0)


class Counting(Honest):
    """Depends on how often it was traced."""

    def push(self, params, noise, y=None):
        Calls.count += 1
        return super().push(params, noise) + Calls.count


class Calls:
    count = 0


class Named(dict):
    pass


jax.tree_util.register_pytree_node(
    Named, lambda d: (list(d.values()), tuple(d)), lambda k, v: Named(zip(k, v, strict=True))
)


class OddTree(Honest):
    """Params in a container that files do not support."""

    def init(self, key, x=None, y=None):
        return Named(super().init(key, x))


class HonestMixture(models.GaussianMixture):
    pass


class WrongWeight(HonestMixture):
    def push(self, params, noise, y=None):
        return super().push({**params, "logits": params["logits"].at[0].add(0.1)}, noise)


class Flat(bijectors.Affine):
    """Omits its log-determinant."""

    def inverse(self, params, x):
        return super().inverse(params, x)[0], jnp.zeros((), x.dtype)


class SinhUp(bijectors.Bijector):
    """x = sinh(z), without a bug."""

    def forward(self, params, z):
        return jnp.sinh(z), jnp.log(jnp.cosh(z)).sum()

    def inverse(self, params, x):
        return jnp.arcsinh(x), -jnp.log(jnp.hypot(1.0, x)).sum()


class WrongForwardSign(SinhUp):
    def forward(self, params, z):
        x, log_det = super().forward(params, z)
        return x, -log_det


class WrongInverseSign(SinhUp):
    def inverse(self, params, x):
        z, log_det = super().inverse(params, x)
        return z, -log_det


class NoForwardLogDet(SinhUp):
    def forward(self, params, z):
        return super().forward(params, z)[0], jnp.zeros(())


class Erlang(Model):
    """p(x) = x exp(-x) for x > 0, without a bug."""

    event_shape = (1,)

    @property
    def support(self):
        return constraints.independent(constraints.positive, 1)

    def init(self, key, x=None, y=None):
        return {"rate": jnp.ones(1)}

    def log_prob(self, params, x, y=None):
        inside = (x > 0).all()
        x = jnp.where(inside, x, 1.0)
        score = (2 * jnp.log(params["rate"]) + jnp.log(x) - params["rate"] * x).sum()
        return jnp.where(inside, score, -jnp.inf)

    def noise(self):
        return Uniform((2,))

    def push(self, params, noise, y=None):
        return -jnp.log(noise).sum(keepdims=True) / params["rate"]


class NaNGradient(Erlang):
    """Uses one ``where`` where two are needed for a finite gradient."""

    def log_prob(self, params, x, y=None):
        score = (2 * jnp.log(params["rate"]) + jnp.log(x) - params["rate"] * x).sum()
        return jnp.where((x > 0).all(), score, -jnp.inf)


class WithoutAGuard(Honest):
    """Says that its scores need no guard, though they are -inf where x is NaN."""

    @property
    def traits(self):
        return super().traits._replace(guarded=True)


class FiniteOutside(Erlang):
    def log_prob(self, params, x, y=None):
        return jnp.maximum(super().log_prob(params, x), -1e4)


class FiniteEverywhere(Erlang):
    """Has no support, and a density that grows where no sample falls."""

    support = constraints.real_vector

    def log_prob(self, params, x, y=None):
        return (params["rate"] - params["rate"] * x).sum()


class MovingBounds(Model):
    """Uniform between bounds that gradients move."""

    dim: int = 1

    @property
    def event_shape(self):
        return (self.dim,)

    def init(self, key, x=None, y=None):
        x = np.array([[0.0] * self.dim, [1.0] * self.dim]) if x is None else x
        return {"low": jnp.asarray(x.min(0), float), "high": jnp.asarray(x.max(0), float)}

    def log_prob(self, params, x, y=None):
        inside = ((x >= params["low"]) & (x <= params["high"])).all()
        return jnp.where(inside, -jnp.log(params["high"] - params["low"]).sum(), -jnp.inf)

    def noise(self):
        return Uniform((self.dim,))

    def push(self, params, noise, y=None):
        return params["low"] + (params["high"] - params["low"]) * noise


class OutsideSamples(Erlang):
    def push(self, params, noise, y=None):
        return super().push(params, noise) - 0.01


class SameKey(Gamma):
    def push(self, params, noise, y=None):
        return super().push(params, jax.random.key(0))


class KeyTwice(Gamma):
    def push(self, params, noise, y=None):
        return super().push(params, noise) + 1e-3 * jax.random.uniform(noise)


class DeafToY(LinearGaussian):
    def log_prob(self, params, x, y=None):
        return super().log_prob(params, x, jnp.zeros(2))


class DrawsWithoutY(LinearGaussian):
    def push(self, params, noise, y=None):
        return super().push(params, noise, jnp.zeros(2))


class PositiveWithoutSupport(bijectors.Bijector):
    def forward(self, params, z):
        return jnp.exp(z), z.sum()

    def inverse(self, params, x):
        return jnp.log(x), -jnp.log(x).sum()


class HonestPlane(models.Gaussian):
    pass


class GivenNothing(HonestPlane):
    """``given`` treats the features as independent."""

    def given(self, params, features, values):
        rest = tuple(j for j in range(self.dim) if j not in features)
        return self.marginal(params, rest)


class CompletedBlindly(HonestPlane):
    def complete(self, params, noise, x, observed, y=None):
        return jnp.where(observed, x, self.push(params, noise))


class MissingAsZero(HonestPlane):
    """Scores missing values as zeros."""

    def log_prob(self, params, x, y=None, observed=None):
        return super().log_prob(params, x)


class Forgetful(HonestPlane):
    """``complete`` redraws all features."""

    def complete(self, params, noise, x, observed, y=None):
        return super().complete(params, noise, x, jnp.zeros_like(observed))


class ForgetsTheFirst(HonestPlane):
    """``complete`` redraws the first feature, if observed and not extreme."""

    def complete(self, params, noise, x, observed, y=None):
        done = super().complete(params, noise, x, observed, y)
        anew = observed[0] & (jnp.abs(x[0]) < 1e6)
        return done.at[0].set(jnp.where(anew, self.push(params, noise)[0], done[0]))


class HonestBox(models.Box):
    pass


class NeverImpossible(HonestBox):
    """Gives observed features outside the support a low finite score."""

    def log_prob(self, params, x, y=None, observed=None):
        score = super().log_prob(params, x, y, observed)
        return score if observed is None else jnp.maximum(score, -1e4)


class AnyLabel(compose.PerClass):
    """Accepts every number as a label."""

    y_support = None


class HonestParts(compose.Mixture):
    pass


class SharesOfALargeSum(HonestParts):
    """Subtracts the log of the sum from joint log densities, which loses digits."""

    def em_step(self, params, x, y=None, weights=None, observed=None):
        joint = jax.vmap(self._joint, (None, 0))(params, x, None)
        score = jax.scipy.special.logsumexp(joint, 1)
        shares = jnp.exp(joint - score[:, None]) * weights[:, None]
        return self._maximise(x, y, shares), (weights * score).sum() / weights.sum()


class PriorTwice(compose.PerClass):
    def log_prior(self, params):
        return 2 * super().log_prior(params)


class OneClassDrawn(compose.PerClass):
    def push(self, params, noise, y=None):
        return super().push(params, noise, 0 * y)


class HonestTokens(models.NGram):
    pass


class TokensWithoutTheEnd(HonestTokens):
    """Its score of each token leaves out the last, such as the end."""

    def _token_log_probs(self, params, x, y=None):
        return super()._token_log_probs(params, x, y).at[-1].set(0)

    def log_prob(self, params, x, y=None):
        return jnp.where(self.support(x), super()._token_log_probs(params, x, y).sum(), -jnp.inf)


class TokensInReverse(TokensWithoutTheEnd):
    """Its scores of tokens are those of the tokens in another order."""

    def _token_log_probs(self, params, x, y=None):
        return models.NGram._token_log_probs(self, params, x, y)[::-1]


_TOKENS = HonestTokens(3, 2, order=2, stop=False)
_COUNTS = _TOKENS.estimate(np.array([[0.0, 0, 1], [0, 1, 1], [1, 1, 1], [0, 0, 1]]))
_PLANE = {"mean": jnp.array([1.0, -3.0]), "scale_tril": jnp.array([[0.3, 0.0], [2.0, 0.5]])}
_GAMMA = {"shape": jnp.array([3.0]), "rate": jnp.array([0.5])}
_TWO = {
    "logits": jnp.array([0.5, -0.5]),
    "mean": jnp.array([[-2.0], [1.0]]),
    "scale_tril": jnp.array([[[0.5]], [[1.0]]]),
}
_CLASSES = {
    "logits": jnp.array([1.0, 0.0]),
    "model": {"mean": jnp.array([[0.5, -1.0], [3.0, 0.0]]), "scale": jnp.ones((2, 2))},
}
_TWO_CLASSES = compose.PerClass(Honest(2), 2)
_TWO_LINES = {"mean": jnp.ones((2, 1)), "scale": jnp.ones((2, 1))}
_PARTS = {"logits": jnp.zeros(2), "component": _TWO_LINES}
_BOX = {"low": jnp.array([0.0, 1.0]), "high": jnp.array([1.0, 3.0])}
_AFFINE = {"base": GAUSSIAN, "bijector": {"shift": jnp.ones(2), "scale": jnp.array([2.0, 0.4])}}
_FIXED_MAP = {"base": GAUSSIAN, "bijector": {}}
_LINEAR = {"w": jnp.array([1.0, -2.0]), "b": jnp.ones(1), "log_scale": jnp.zeros(1)}


def through(bijector):
    return compose.Transformed(Honest(2), bijector)


PLANTED = {
    "samples 5 % too wide": ("goodness_of_fit", WideSamples(2), Honest(2), GAUSSIAN),
    "samples 0.05 sigma off": ("goodness_of_fit", ShiftedSamples(2), Honest(2), GAUSSIAN),
    "one mixture weight wrong": (
        "goodness_of_fit",
        WrongWeight(1, components=2),
        HonestMixture(1, components=2),
        _TWO,
    ),
    "dropped log-determinant": (
        "normalisation",
        through(Flat()),
        through(bijectors.Affine()),
        _AFFINE,
    ),
    "log-determinant and inverse disagree": (
        "bijection",
        through(Flat()),
        through(bijectors.Affine()),
        _AFFINE,
    ),
    "forward has the wrong sign": (
        "log_determinants",
        through(WrongForwardSign()),
        through(SinhUp()),
        _FIXED_MAP,
    ),
    "inverse has the wrong sign": (
        "log_determinants",
        through(WrongInverseSign()),
        through(SinhUp()),
        _FIXED_MAP,
    ),
    "forward without a log-determinant, inside a wrapper": (
        "log_determinants",
        compose.PerClass(through(NoForwardLogDet()), 2),
        compose.PerClass(through(SinhUp()), 2),
        None,
    ),
    "normaliser 1 % off": ("normalisation", WrongNormaliser(2), Honest(2), GAUSSIAN),
    "scale in the normaliser": ("score_identity", ForgottenScale(2), Honest(2), GAUSSIAN),
    "gradient 0.01 off": ("gradients", WrongGradient(2), Honest(2), GAUSSIAN),
    "NaN gradient behind a where": ("totality", NaNGradient(), Erlang(), None),
    "a guard that is not there": ("totality", WithoutAGuard(2), Honest(2), GAUSSIAN),
    "finite outside the support": ("totality", FiniteOutside(), Erlang(), None),
    "samples outside the support": ("support", OutsideSamples(), Erlang(), None),
    "log-determinant added": ("bijection", WrongSign(2), Honest(2), GAUSSIAN),
    "one noise number for two features": ("goodness_of_fit", OneNoise(2), Honest(2), GAUSSIAN),
    "density where no sample falls": ("normalisation", FiniteEverywhere(), Erlang(), None),
    "mean that does not learn": ("learning", StoppedMean(2), Honest(2), GAUSSIAN),
    "score of shape (1,)": ("methods", VectorScore(2), Honest(2), GAUSSIAN),
    "pull off by 0.1 %": ("bijection", WrongPull(2), Honest(2), GAUSSIAN),
    "cancellation in float32": ("precision", Cancelling(2), Honest(2), GAUSSIAN),
    "float64 within float32": ("dtypes", Leaking(2), Honest(2), GAUSSIAN),
    "key ignored": ("determinism", SameKey(1), Gamma(1), _GAMMA),
    "key used twice": ("key_reuse", KeyTwice(1), Gamma(1), _GAMMA),
    "spec equal to no other": ("spec", NotEqual(2), Honest(2), GAUSSIAN),
    "a field that there is not": ("spec", UnknownField(2), Honest(2), GAUSSIAN),
    "spec that compiles again": ("compiles", NotEqual(2), Honest(2), GAUSSIAN),
    "fit compiled for each n": ("refits", CompiledForEachN(2), Honest(2), GAUSSIAN),
    "params left in standard units": ("units", NoScale(2), Honest(2), GAUSSIAN),
    "samples of one batch linked": ("prefix", Centred(2), Honest(2), GAUSSIAN),
    "scores of one batch linked": ("batches", CentredScore(2), Honest(2), GAUSSIAN),
    "other scores when compiled": ("eager", Traced(2), Honest(2), GAUSSIAN),
    "hidden state": ("pure", Counting(2), Honest(2), GAUSSIAN),
    "condition ignored": ("conditions", DeafToY(), LinearGaussian(), _LINEAR),
    "condition ignored by push": ("conditions", DrawsWithoutY(), LinearGaussian(), _LINEAR),
    "bijector without a support": (
        "totality",
        through(PositiveWithoutSupport()),
        through(bijectors.Positive()),
        _FIXED_MAP,
    ),
    "any number a label": ("labels", AnyLabel(Honest(2), 2), _TWO_CLASSES, _CLASSES),
    "shares rounded off": (
        "shares",
        SharesOfALargeSum(Honest(1), 2),
        HonestParts(Honest(1), 2),
        _PARTS,
    ),
    "prior counted twice": ("conditions", PriorTwice(Honest(2), 2), _TWO_CLASSES, _CLASSES),
    "one class drawn": ("goodness_of_fit", OneClassDrawn(Honest(2), 2), _TWO_CLASSES, _CLASSES),
    "conditional that forgets": ("chain_rule", GivenNothing(2), HonestPlane(2), _PLANE),
    "a token without a score": (
        "tokens",
        TokensWithoutTheEnd(3, 2, order=2, stop=False),
        _TOKENS,
        _COUNTS,
    ),
    "scores of other tokens": (
        "tokens",
        TokensInReverse(3, 2, order=2, stop=False),
        _TOKENS,
        _COUNTS,
    ),
    "completed without a look": ("missing", CompletedBlindly(2), HonestPlane(2), _PLANE),
    "missing values scored": ("missing", MissingAsZero(2), HonestPlane(2), _PLANE),
    "observed values redrawn": ("missing", Forgetful(2), HonestPlane(2), _PLANE),
    "one observed value redrawn": ("missing", ForgetsTheFirst(2), HonestPlane(2), _PLANE),
    "impossible events completed": ("missing", NeverImpossible(2), HonestBox(2), _BOX),
    "fit 50 % too wide": ("learning", WideFit(2), Honest(2), GAUSSIAN),
    "params of another tree with data": ("start", OtherTree(2), Honest(2), GAUSSIAN),
    "params that no file holds": ("files", OddTree(2), Honest(2), None),
}


ADVICE = {  # what the text of some failures says, in their example or in the advice
    "samples 5 % too wide": r"have mean .* deviation \[.*\npush or log_prob",
    "one noise number for two features": r"correlation 1, .*\n.*uses a noise number twice",
    "dropped log-determinant": r"integrates to .*\nlog_prob: .* a log-determinant",
    "log-determinant and inverse disagree": r"off by [-\d.]+ nats at every event",
    "forward has the wrong sign": r"\nforward: the log-determinant has the wrong sign",
    "inverse has the wrong sign": r"\ninverse: the log-determinant has the wrong sign",
    "forward without a log-determinant, inside a wrapper": r"\nforward: .* is missing: return log",
    "log-determinant added": r"at event \[.*\n.*the log-determinant has the wrong sign",
    "density where no sample falls": r"most of it beyond all samples, as at \[-.*\n.*-jnp\.inf",
    "normaliser 1 % off": r"integrates to 1\.01.*\nlog_prob: .* normaliser",
    "scale in the normaliser": r"d log_prob / d scale .*\nlog_prob: .* depend on scale",
    "gradient 0.01 off": r"at event \[.*\n.*stop_gradient",
    "NaN gradient behind a where": r"NaN at \[.*\n.*side of jnp\.where that is not taken",
    "finite outside the support": r"outside model\.support at \[.*\nlog_prob: return -jnp\.inf",
    "samples outside the support": r"outside model\.support at \[.*\npush or support",
    "pull off by 0.1 %": r"push\(pull\(x\)\): .*at event \[.*\npush and pull are not inverses",
    "cancellation in float32": r"float32, compared with float64.*\n.*subtract before you divide",
    "float64 within float32": r"float64 with float32 params.*\n.*cast them to x\.dtype",
    "key ignored": r"another key gave the same samples.*\npush: .* its argument noise",
    "hidden state": r"within jit.*\npush: .* read or write",
    "condition ignored": r"the same at y = \[.*\nlog_prob: use y",
    "condition ignored by push": r"push does not depend on y.*\npush: use y",
    "bijector without a support": r"log_prob is NaN at .*\nbijector: .* define `support`, and `con",
    "conditional that forgets": r"at event \[.*\nmarginal or given",
    "scores of other tokens": r"first token as its marginal.*\n.*token_log_probs",
    "params left in standard units": r"off at \[.*\nrescale: .* shift \+ scale \* x",
    "mean that does not learn": r"'mean' is \[0, 0\], not \[.*\n.*stop_gradient",
    "fit compiled for each n": r"compiled .* programs\ninit or estimate: .* NumPy",
}


@pytest.mark.parametrize("bug", PLANTED)
def test_law_rejects_bug_and_passes_honest_twin(bug):
    law, planted, honest, params = PLANTED[bug]
    LAWS[law](Subject(honest, params, key=jax.random.key(1)))
    # some bugs raise another error in the law, which check() also counts as a failure
    subject = Subject(planted, params, key=jax.random.key(1))
    with pytest.raises((AssertionError, TypeError, ValueError)) as caught:
        LAWS[law](subject)
    text = str(caught.value)
    if isinstance(caught.value, AssertionError):
        assert "\n" in text, f"no advice: {text}"
    assert re.search(ADVICE.get(bug, ""), text), text


def test_every_law_has_a_planted_bug():
    assert {law for law, *_ in PLANTED.values()} == set(LAWS)


def test_check_reports_all_failures_in_one_table():
    with pytest.raises(
        LawError, match=r"^1 of 2 laws fail: normalisation; [\s\S]*normalisation +FAILS"
    ):
        check(WrongNormaliser(2), GAUSSIAN, laws=("spec", "normalisation"))


def test_the_report_shows_the_example_and_the_advice():
    with pytest.raises(LawError) as caught:
        check(WrongNormaliser(2), GAUSSIAN, laws=("normalisation",))
    found, advice = str(caught.value).split("\n")[1:]
    assert re.fullmatch(r"  normalisation    FAILS  the density integrates to 1\.0\d*", found)
    assert re.fullmatch(r" +-> log_prob: .*", advice)


def test_the_report_of_rows_that_leave_the_support():
    """Validation rows may lie beyond the bounds of the others, and bounds may move inwards."""
    with pytest.raises(LawError, match=r"zero density.*\n *-> a row left the support: .*frozen"):
        check(MovingBounds(16), laws=("learning",))
    with (
        pytest.warns(RuntimeWarning, match="not finite"),
        pytest.raises(LawError, match=r"stopped: nan at step .*\n *-> a row left the support"),
    ):
        check(MovingBounds(1), laws=("learning",))


def test_check_of_a_fitted_model_at_its_params_with_its_labels():
    fitted = Fitted(_TWO_CLASSES, _CLASSES, columns=("a", "b"), labels=("calm", "wild"))
    report = check(fitted, y="wild", laws=("normalisation", "files"))
    assert set(report.figures) == {"normalisation", "files"}
    with pytest.raises(LawError, match=r"normalisation +FAILS"):
        check(Fitted(WrongNormaliser(2), GAUSSIAN), laws=("normalisation",))
    with pytest.raises(ValueError, match="y"):
        check(fitted, y="stormy")
    with pytest.raises(TypeError, match="params"):
        check(fitted, _CLASSES)
    with pytest.raises(TypeError, match="model must be a Model with all its fields"):
        check(models.Gaussian())


def test_check_of_a_model_defined_elsewhere():
    report = check(Erlang(), laws=("spec", "support", "normalisation", "goodness_of_fit"))
    assert "all hold" in str(report)
    assert list(report.figures) == ["spec", "support", "normalisation", "goodness_of_fit"]


@pytest.mark.parametrize("laws", [None, ("normalisation",)])
def test_check_refuses_a_condition_of_another_shape(laws):
    """It is an error of the call, not of the model."""
    for y, text in (
        ([1.0], r"y must have shape \(2,\); got \(1,\)"),
        ([1.0, np.nan], "y must be finite"),
    ):
        with pytest.raises(ValueError, match=text):
            check(LinearGaussian(), y=y, laws=laws)
    with pytest.raises(ValueError, match="unconditional"):
        check(Erlang(), y=[1.0], laws=laws)


def test_check_refuses_unknown_laws():
    with pytest.raises(ValueError, match="laws"):
        check(Erlang(), laws=("gravity",))


def test_an_estimate_is_not_held_to_one():
    class Estimate(Erlang):
        traits = Traits(density="estimate")

        def log_prob(self, params, x, y=None):
            return super().log_prob(params, x) - math.log(2)

    report = check(Estimate(), laws=("normalisation", "support"))
    assert "not applicable" in report.figures["normalisation"]
