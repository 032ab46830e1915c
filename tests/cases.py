"""One row for each model: the laws, the malformed inputs and the meta-test read this table.

A row names a spec and params, other than the initial ones, to test it at. Laws without params run
on the first setting of params only, statistical laws on all.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import programs
from numpyro.distributions import constraints
from numpyro.infer.autoguide import AutoMultivariateNormal

from jaxgen import Model, bijectors, compose, datasets, domains, models, networks
from jaxgen.core.model import Traits
from jaxgen.core.random import Key, Normal
from jaxgen.core.spec import Count
from jaxgen.laws import compiled
from jaxgen.laws.subject import ROWS, Subject, away_from_init
from jaxgen.numpyro import NUTS, Guide, MeanField, Point, from_program


class LinearGaussian(Model):
    """p(x | y) = N(x; w . y + b, scale^2) with y of two entries: conditional, and invertible."""

    y_shape: ClassVar[tuple[int, ...] | None] = (2,)
    event_shape: ClassVar[tuple[int, ...]] = (1,)
    traits: ClassVar[Traits] = Traits(reparameterized=True)

    def init(self, key, x=None, y=None):
        return {"w": jnp.zeros(2), "b": jnp.zeros(1), "log_scale": jnp.zeros(1)}

    def log_prob(self, params, x, y=None):
        z = self.pull(params, x, y)
        return (-0.5 * z * z - params["log_scale"] - 0.5 * math.log(2 * math.pi)).sum()

    def noise(self):
        return Normal((1,))

    def push(self, params, noise, y=None):
        return params["w"] @ y + params["b"] + jnp.exp(params["log_scale"]) * noise

    def pull(self, params, x, y=None):
        return (x - params["w"] @ y - params["b"]) * jnp.exp(-params["log_scale"])


class Tanh(networks.Network):
    """A network with one hidden layer."""

    width: int = 4
    y_shape: tuple[int, ...] | None = None
    y_domain: tuple[domains.Domain, ...] | None = None

    def init(self, key, shape):
        return {"w": 0.5 * jax.random.normal(key, (self.width, *shape)), "b": jnp.zeros(self.width)}

    def apply(self, params, x):
        return jnp.tanh(jnp.tensordot(params["w"], x, x.ndim) + params["b"])


class Gamma(Model):
    """Gamma distributions, sampled by rejection: ``push`` takes a Key and draws from it."""

    dim: Count

    @property
    def event_shape(self):
        return (self.dim,)

    @property
    def support(self):
        return constraints.independent(constraints.positive, 1)

    def init(self, key, x=None, y=None):
        shape = jnp.ones(self.dim)
        if x is not None:  # the method of moments
            shape = x.mean(0) ** 2 / x.var(0)
            return {"shape": jnp.asarray(shape), "rate": jnp.asarray(shape / x.mean(0))}
        return {"shape": 2 * shape, "rate": shape}

    def log_prob(self, params, x, y=None):
        shape, rate = params["shape"], params["rate"]
        inside = (x > 0).all()
        x = jnp.where(inside, x, 1.0)
        norm = shape * jnp.log(rate) - jax.scipy.special.gammaln(shape)
        return jnp.where(inside, (norm + (shape - 1) * jnp.log(x) - rate * x).sum(), -jnp.inf)

    def noise(self):
        return Key()

    def push(self, params, noise, y=None):
        shape = params["shape"]
        return jax.random.gamma(noise, shape, dtype=shape.dtype) / params["rate"]


@dataclasses.dataclass(frozen=True)
class Case:
    """One row.

    Attributes:
      name: short, unique.
      spec: the spec or, if that compiles programs, a function that makes it when it is needed.
      settings: params as nested plain lists, or None for the initial params; ``jittered`` more
        settings follow.
      jittered: number of settings that ``laws.subject.away_from_init`` makes.
      y: one condition.
      gap: nats that a fit to 2048 samples of the model may lose; None for the law's default.
      skip: laws that do not apply to this row, with the reason.
      rows: number of samples in the statistical laws.
    """

    name: str
    spec: Model | Callable[[], Model]
    settings: tuple[Any, ...] = ()
    jittered: int = 2
    y: Any = None
    gap: float | None = None
    skip: dict[str, str] = dataclasses.field(default_factory=dict)
    rows: int = ROWS

    def __hash__(self):
        return hash(self.name)

    @property
    def is_built(self) -> bool:
        return isinstance(self.spec, Model)

    @property
    def model(self) -> Model:
        return self.spec if isinstance(self.spec, Model) else _built(self)

    @property
    def kind(self) -> Any:
        """What decides how a row is run: rows of one kind need not repeat the laws about that."""
        if self.is_built:
            return type(self.spec), getattr(self.spec, "bijector", None)
        return self.spec.func

    @property
    def count(self) -> int:
        return len(self.settings) + self.jittered


@functools.cache
def _built(case: Case) -> Model:
    return case.spec()  # type: ignore[operator]


@functools.lru_cache(maxsize=4)  # few, because subjects hold large samples
def subject(case: Case, setting: int = 0) -> Subject:
    """The subject of the laws; cached, so that all laws of a setting share its samples."""
    key = jax.random.key(setting)
    y = None if case.y is None else np.asarray(case.y)
    y = y if y is None or y.dtype.kind == "i" else y.astype(np.float32)
    if setting < len(case.settings) and case.settings[setting] is None:
        params = compiled.init(case.model, key)
    elif setting < len(case.settings):
        is_leaf = lambda v: isinstance(v, list | float)  # noqa: E731
        leaf: Callable = lambda v: jax.device_put(  # noqa: E731
            v if isinstance(v, np.ndarray) else np.asarray(v, np.float32)
        )
        params = jax.tree_util.tree_map(leaf, case.settings[setting], is_leaf=is_leaf)
    else:
        params = away_from_init(case.model, key, y, seed=setting)
    return Subject(case.model, params, key=key, y=y, rows=case.rows)


def _ngrams(model):
    """Params of an ``NGram`` of three tokens, fitted to 60 made-up events."""
    rng = np.random.default_rng(3)
    steps = rng.choice(3, (60, model.length), p=[0.2, 0.7, 0.1])
    x = np.cumsum(steps, 1) % 3
    if model.stop:
        ended = np.arange(model.length) >= rng.choice(model.length + 1, (60, 1))
        x = np.where(ended, 3, x)
    return model.estimate(x.astype(float), None if model.y_shape is None else np.arange(60) % 2)


_TINY = networks.Transformer(4, heads=2, layers=1, expansion=2)
_ENDING = models.NGram(4, 3, order=3)
_STREAM = models.NGram(4, 3, order=4, stop=False)
_OF_LABEL = models.NGram(3, 3, order=2, y_shape=(), y_domain=domains.Levels(2))
_WEIGHTS = [math.log(0.6), math.log(0.3), math.log(0.1)]
_PLANE = {"mean": [10.0, -3.0], "scale_tril": [[0.3, 0.0], [2.0, 0.5]]}
_MIXTURE = {"logits": _WEIGHTS, "mean": [[-4.0, 0.0], [0.0, 3.0], [5.0, 1.0]]}
_FULL = [[[1.0, 0.0], [0.5, 0.3]], [[0.4, 0.0], [-0.3, 0.6]], [[0.2, 0.0], [0.0, 1.5]]]
_DIAGONAL = [[1.0, 0.3], [0.4, 0.6], [0.2, 1.5]]
_LINE = {"mean": [0.4], "scale": [0.7]}
_BOXES = {
    "logits": [math.log(0.7), math.log(0.3)],
    "component": {"low": [[-3.0, 0.0], [2.0, 0.5]], "high": [[-1.0, 1.0], [2.5, 4.0]]},
}
_GIVEN_BOUNDS = tuple(
    {"log_probs": log_probs, "low": [-2.0], "high": [3.0]}
    for log_probs in ([0.0, 1.0, -2.0, 0.5], [-3.0, -1.0, -0.5, -9.0])
)
_NORMAL = models.Gaussian(1, "diagonal")
_TRANSFORMED = {"base": _PLANE, "bijector": {"shift": [-2.0, 40.0], "scale": [0.3, 7.0]}}
_SMALL = {"mean": [0.5, -0.4], "scale_tril": [[0.6, 0.0], [0.3, 0.5]]}
_GLOBE = (domains.Circle(-180.0, 180.0), domains.Interval(-90.0, 90.0))
_MIXED = (domains.Circle(0.0, 1.0), domains.Positive(), domains.Real())
_NUMBER_AND_LEVEL = (domains.Real(), domains.Levels(3))
_FEW_UNITS = networks.MLP(width=5, depth=1)
_TWO = domains.Levels(2)
_SLOW = dict.fromkeys(
    ("learning", "units"), "another row of the family is fitted, which takes a while"
)
_SLOWER = {**_SLOW, "refits": _SLOW["learning"]}
_FEWER = 8192  # where a gradient of one sample takes many passes through a network
_MADE = dict.fromkeys(("learning", "refits"), "it is made of a fitted model, not fitted itself")
_OWN = {"dtypes": "a program computes in the dtype of its own constants"}
_DRAWN = {**_OWN, "precision": "in float64 the draws that it averages over are others"}
_TABLES = {"score_identity": "its params have to sum to one, and log_prob does not normalise them"}
_LAND = "params are fixed tables, not a family: see tests/test_datasets.py"

CASES = (
    Case("box1", models.Box(1), ({"low": [-3.0], "high": [-2.5]},), 1),
    Case("box2", models.Box(2, margin=0.01), ({"low": [-3.0, 10.0], "high": [-2.5, 14.0]},)),
    Case("box3", models.Box(3), jittered=1),
    Case("bit", models.Bernoulli(()), ({"logits": -2.0},)),
    Case("bits", models.Bernoulli((2, 2)), ({"logits": [[0.0, 5.0], [-3.0, 1.0]]},)),
    Case("many_bits", models.Bernoulli((9,)), jittered=2),
    Case("level", models.Categorical((), levels=5), ({"logits": [0.0, 1.0, 2.0, -6.0, -3.0]},)),
    Case("levels", models.Categorical((2,), levels=3), jittered=3),
    Case("many_levels", models.Categorical((8,), levels=4), jittered=1),
    Case("gaussian1", models.Gaussian(1), ({"mean": [-2.0], "scale_tril": [[0.05]]},), 1),
    Case("gaussian2", models.Gaussian(2), (_PLANE,)),
    Case("gaussian3", models.Gaussian(3), jittered=2),
    Case("diagonal", models.Gaussian(2, "diagonal"), ({"mean": [5.0, 0.0], "scale": [0.1, 3.0]},)),
    Case("diagonal4", models.Gaussian(4, "diagonal"), jittered=1),
    Case("spherical", models.Gaussian(2, "spherical"), ({"mean": [5.0, 0.0], "scale": 0.3},), 1),
    Case(
        "mixture_full",
        models.GaussianMixture(2, components=3),
        ({**_MIXTURE, "scale_tril": _FULL},),
    ),
    Case(
        "mixture_diagonal",
        models.GaussianMixture(2, components=3, covariance="diagonal"),
        ({**_MIXTURE, "scale": _DIAGONAL},),
    ),
    Case(
        "mixture_tied",
        models.GaussianMixture(2, components=3, covariance="tied"),
        ({**_MIXTURE, "scale_tril": _FULL[0]},),
        1,
    ),
    Case(
        "mixture_spherical",
        models.GaussianMixture(2, components=3, covariance="spherical"),
        ({**_MIXTURE, "scale": [1.0, 0.3, 1.5]},),
        1,
    ),
    Case("mixture3", models.GaussianMixture(3, components=2), jittered=1),
    Case("histogram1", models.Histogram((4,), bounds=((-2.0, 3.0),)), _GIVEN_BOUNDS, 0),
    Case("histogram2", models.Histogram((3, 4)), jittered=2),
    Case("histogram3", models.Histogram((2, 3, 2), smoothing=0.0), jittered=1),
    Case("kde1", models.KDE(1), jittered=2),
    Case("kde2", models.KDE(2), jittered=1),
    Case("kde3", models.KDE(3), jittered=1),
    Case("affine", compose.Transformed(models.Gaussian(2), bijectors.Affine()), (_TRANSFORMED,), 1),
    Case(
        "affine_box", compose.Transformed(models.Box(2), bijectors.Affine()), jittered=1, gap=0.05
    ),
    Case(
        "positive",
        compose.Transformed(models.Gaussian(2), bijectors.Positive()),
        ({"base": _SMALL, "bijector": {}},),
        1,
    ),
    Case(
        "positive_mixture",
        compose.Transformed(models.GaussianMixture(1, components=2), bijectors.Positive()),
        jittered=1,
    ),
    Case(
        "interval",
        compose.Transformed(models.Gaussian(2), bijectors.Interval(-1.0, 3.0)),
        ({"base": _SMALL, "bijector": {}},),
        1,
    ),
    Case(
        "simplex",
        compose.Transformed(models.Gaussian(2), bijectors.Simplex()),
        ({"base": _SMALL, "bijector": {}},),
        1,
    ),
    Case("mixture_of_gaussians", compose.Mixture(models.Gaussian(1), count=2), jittered=2),
    Case("mixture_of_bits", compose.Mixture(models.Bernoulli((3,)), count=2), jittered=2),
    Case("mixture_of_boxes", compose.Mixture(models.Box(2), count=2), (_BOXES,), 0, gap=0.1),
    Case("mixture_given_y", compose.Mixture(LinearGaussian(), count=2), jittered=1, y=[0.5, 1.0]),
    Case(
        "general",
        compose.MixtureGeneral(
            (
                models.Gaussian(2, "diagonal"),
                compose.Transformed(models.Gaussian(2, "diagonal"), bijectors.Positive()),
            )
        ),
        jittered=1,
    ),
    Case(
        "general_given_y",
        compose.MixtureGeneral((LinearGaussian(), models.Gaussian(1))),
        jittered=1,
        y=[0.5, 1.0],
    ),
    Case(
        "mixed",
        compose.Product((models.Gaussian(2), models.Categorical((1,), levels=3))),
        jittered=2,
    ),
    Case(
        "box_and_bit",
        compose.Product((models.Box(1), models.Bernoulli(()), _NORMAL)),
        (({"low": [1.0], "high": [3.0]}, {"logits": -1.0}, _LINE),),
        1,
    ),
    Case(
        "mixture_of_products",
        compose.Mixture(compose.Product((_NORMAL, models.Bernoulli((1,)))), count=2),
        jittered=1,
    ),
    Case("linear", compose.Transformed(models.Gaussian(2), bijectors.Linear()), jittered=1),
    Case(
        "permuted",
        compose.Transformed(models.Gaussian(3, "diagonal"), bijectors.Permute((2, 0, 1))),
        jittered=1,
    ),
    Case("dequantized", compose.Dequantized(models.Categorical((2,), levels=3)), jittered=1),
    Case("dequantized_bit", compose.Dequantized(models.Bernoulli(())), jittered=1),
    Case("quantized", compose.Quantized(models.Gaussian(2), levels=12), jittered=1),
    Case(
        "quantized_flow",
        compose.Quantized(
            models.SplineCoupling(2, 2, 5, 1, 4, domain=(domains.Interval(0.0, 3.0),)), levels=3
        ),
        jittered=1,
    ),
    Case(
        "logits_of_levels",
        compose.Transformed(
            compose.Dequantized(models.Bernoulli((1,))),
            bijectors.Inverse(bijectors.Interval(-0.1, 2.1)),
        ),
        jittered=1,
    ),
    Case("coupling1", models.SplineCoupling(1, 2, 6, 2, 4, y_shape=(2,)), jittered=1, y=[0.5, 1.0]),
    Case("coupling2", models.SplineCoupling(2, 2, 6, 2, 4), (None,), 1),
    Case("coupling3", models.SplineCoupling(3, 5, 2, 1, 2), jittered=1, skip=_SLOW),
    Case(
        "coupling_globe",
        models.SplineCoupling(2, 2, 6, 2, 4, domain=_GLOBE),
        jittered=1,
        skip=_SLOWER,
    ),
    Case(
        "coupling_mixed",
        models.SplineCoupling(3, 2, 5, 1, 4, y_shape=(), domain=_MIXED),
        jittered=1,
        y=0.7,
        skip=_SLOW,
    ),
    Case("autoregressive2", models.MaskedAutoregressive(2, 2, 6, 2, bins=4), jittered=1),
    Case(
        "autoregressive3",
        models.MaskedAutoregressive(3, 2, 7, 2, "affine", y_shape=(2,)),
        jittered=1,
        y=[0.5, 1.0],
    ),
    Case(
        "autoregressive_globe",
        models.MaskedAutoregressive(2, 5, 4, 1, bins=3, domain=_GLOBE),
        jittered=1,
        skip=_SLOWER,
    ),
    Case(
        "autoregressive_mixture",
        models.MaskedAutoregressive(2, 1, 6, 2, "mixture", components=3),
        jittered=1,
    ),
    Case(
        "autoregressive_levels",
        models.MaskedAutoregressive(3, 1, 6, 2, "categorical", levels=3, y_shape=(1,)),
        jittered=2,
        y=[0.7],
    ),
    Case(
        "many_levels_in_turn",
        models.MaskedAutoregressive(2, 1, 6, 1, "categorical", levels=40),
        jittered=1,
        skip={"score_identity": "some levels are too rare to be drawn"},
    ),
    Case(
        "matching1",
        models.FlowMatching(1, 5, 2, 64, y_shape=(2,)),
        jittered=1,
        y=[0.5, 1.0],
        rows=_FEWER,
    ),
    Case("matching2", models.FlowMatching(2, 4, 1, 48), jittered=1, rows=_FEWER),
    Case(
        "matching_network",
        models.FlowMatching(1, steps=64, y_shape=(), network=Tanh()),
        jittered=1,
        y=0.5,
        rows=_FEWER,
    ),
    Case(
        "matching_globe",
        models.FlowMatching(2, 4, 1, 32, domain=_GLOBE),
        jittered=1,
        rows=_FEWER,
        skip={**_SLOWER, "score_identity": "takes minutes, and checks no more than matching2"},
    ),
    Case(
        "given_by_importance",
        compose.GivenByImportance(models.SplineCoupling(3, 2, 6, 1, 4), (2, 0), 16, 4),
        jittered=1,
        skip=_MADE,
    ),
    Case(
        "marginal_by_importance",
        compose.MarginalByImportance(models.Gaussian(3), (2,), 16, 4),
        jittered=1,
        skip=_MADE,
    ),
    Case(
        "coupling_given_both",
        models.SplineCoupling(2, 2, 6, 1, 4, y_shape=(2,), y_domain=_NUMBER_AND_LEVEL),
        jittered=1,
        y=[0.5, 1.0],
    ),
    Case(
        "conditional_gaussian",
        compose.Conditional(networks.MLP((2,), 5, 1), models.Gaussian(2)),
        jittered=2,
        y=[0.5, 1.0],
    ),
    Case(
        "conditional_mixture",
        compose.Conditional(
            networks.MLP((), 5, 2, domains.Levels(3)), models.GaussianMixture(1, components=2)
        ),
        jittered=2,
        y=1,
    ),
    Case(
        "conditional_levels",
        compose.Conditional(
            networks.MLP((2,), 5, 1, _NUMBER_AND_LEVEL), models.Categorical((2,), levels=3)
        ),
        jittered=1,
        y=[0.5, 1.0],
    ),
    Case(
        "conditional_network",
        compose.Conditional(Tanh(y_shape=(2, 1)), models.Gaussian(1)),
        jittered=1,
        y=[[0.5], [1.0]],
    ),
    Case("tokens", models.Autoregressive(4, 3, _TINY), jittered=1),
    Case(
        "tokens_windows",
        models.Autoregressive(5, 3, _TINY, stop=False, window=3, temperature=1.5),
        jittered=1,
    ),
    Case(
        "tokens_labelled",
        compose.Labelled(models.Autoregressive(3, 2, _TINY, top_p=0.999), 2),
        jittered=1,
        y=1,
    ),
    Case("linear_gaussian", LinearGaussian(), jittered=3, y=[0.5, 1.0]),
    Case(
        "positive_given_y",
        compose.Transformed(LinearGaussian(), bijectors.Positive()),
        jittered=1,
        y=[0.5, 1.0],
    ),
    Case("gamma", Gamma(2), ({"shape": [3.0, 7.0], "rate": [0.1, 5.0]},), 1),
    Case("per_class", compose.PerClass(models.Gaussian(2), 3), jittered=2, y=1),
    Case("per_class_bits", compose.PerClass(models.Bernoulli((3,)), 2), jittered=1, y=0),
    Case(
        "per_class_mixture",
        compose.PerClass(models.GaussianMixture(1, components=2), 2),
        jittered=1,
        y=1,
    ),
    Case(
        "per_class_flow",
        compose.PerClass(models.SplineCoupling(2, 2, 6, 2, 4), 2),
        (None,),
        0,
        y=1,
        skip={**_SLOW, "labels": "other rows are asked the same, and compile in less time"},
    ),
    Case(
        "positive_per_class",
        compose.Transformed(compose.PerClass(models.Gaussian(1), 2), bijectors.Positive()),
        jittered=1,
        y=1,
    ),
    Case(
        "labelled",
        compose.Labelled(
            models.SplineCoupling(2, 2, 6, 2, 4, y_shape=(), y_domain=domains.Levels(3)), 3
        ),
        jittered=1,
        y=2,
        skip=_SLOW,
    ),
    Case("ngram", _ENDING, (_ngrams(_ENDING),), 0, skip=_TABLES),
    Case("ngram_stream", _STREAM, (_ngrams(_STREAM),), 0, skip=_TABLES),
    Case(
        "ngram_labelled",
        compose.Labelled(_OF_LABEL, 2),
        ({"logits": _WEIGHTS[:2], "model": _ngrams(_OF_LABEL)},),
        0,
        y=1,
        skip=_TABLES,
    ),
    Case(
        "program",
        functools.partial(from_program, programs.regression, y_shape=(2,), posterior=MeanField(3)),
        jittered=2,
        y=[0.5, 1.0],
        skip=_OWN,
    ),
    Case(
        "program_positive",
        functools.partial(from_program, programs.waits, posterior=NUTS(4, 50, 1)),
        jittered=1,
        skip={**_OWN, "learning": "four draws are no posterior"},
    ),
    Case(
        "program_kinds",
        functools.partial(from_program, programs.kinds, posterior=Point()),
        jittered=2,
        skip=_OWN,
    ),
    Case(
        "program_whole",
        functools.partial(
            from_program,
            programs.counts,
            y_shape=(),
            posterior=Guide(AutoMultivariateNormal, draws=2),
        ),
        jittered=1,
        y=0.7,
        skip=_DRAWN,
    ),
    Case(
        "program_factors",
        functools.partial(
            from_program,
            programs.factors,
            samples=3,
            proposal=compose.Conditional(networks.MLP((3,), 4, 1), models.Gaussian(2)),
        ),
        jittered=1,
        skip=_DRAWN,
    ),
    Case(
        "program_classes",
        functools.partial(from_program, programs.classes, classes=3),
        jittered=1,
        y=1,
        skip=_OWN,
    ),
    Case(
        "land",
        datasets.Land(),
        jittered=0,
        settings=(None,),
        skip={
            "normalisation": _LAND,
            "goodness_of_fit": _LAND,
            "score_identity": _LAND,
            "gradients": _LAND,
            "precision": "coasts lie between float32 numbers",
            "refits": _LAND,
        },
    ),
    Case(
        "vae_gaussian",
        models.VAE((2,), 2, encoder=_FEW_UNITS, decoder=_FEW_UNITS, samples=3, y_shape=(2,)),
        jittered=1,
        y=[0.5, 1.0],
    ),
    Case(
        "vae_bits",
        models.VAE((2, 2), 1, levels=2, encoder=Tanh(), decoder=Tanh(), samples=2),
        jittered=1,
    ),
    Case(
        "vae_levels",
        models.VAE((3,), 2, 4, "categorical", Tanh(), _FEW_UNITS, y_shape=(), y_domain=_TWO),
        jittered=1,
        y=1,
        skip=_SLOW,
    ),
    Case(
        "vae_logistic",
        models.VAE((2, 1, 2), 2, levels=5, encoder=_FEW_UNITS, decoder=_FEW_UNITS, free_bits=0.1),
        jittered=1,
        skip=_SLOW,
    ),
    Case(
        "diffusion_vector",
        models.Diffusion((2,), None, Tanh(), "cosine", 6, y_shape=(), y_domain=_TWO, guidance=1.5),
        jittered=1,
        y=1,
    ),
    Case(
        "diffusion_levels",
        models.Diffusion((2, 2), 3, _FEW_UNITS, steps=4, solver="euler", probes=2),
        jittered=1,
        skip=_SLOW,
    ),
    Case(
        "diffusion_stochastic",
        models.Diffusion((2, 1, 2), None, Tanh(), steps=4, solver="euler", stochastic=0.5),
        jittered=1,
    ),
    Case(
        "pixels",  # patches at the edges are smaller
        models.PixelAutoregressive((3, 3), network=_TINY, patch=2, width=6),
        jittered=1,
    ),
    Case(
        "pixels_given_y",
        models.PixelAutoregressive(
            (1, 2, 2), 3, _TINY, patch=1, width=6, y_shape=(), y_domain=_TWO
        ),
        jittered=1,
        y=1,
        skip=_SLOW,
    ),
)
