"""How the globals of a program are known: by a point, a guide, or draws of their posterior."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.special import ndtri
from numpyro import handlers
from numpyro.infer.autoguide import AutoGuide, AutoLaplaceApproximation

from jaxgen.core.random import Key, Normal, permutations
from jaxgen.core.spec import Count, Spec
from jaxgen.numpyro.function import Function, function
from jaxgen.numpyro.runs import evaluated, trace, transform_of

_map = jax.tree_util.tree_map
_DRAWN = 63  # draws of the prior, to see where it lies
NARROW = 0.03  # of a mean field at the start, in spreads of the prior
_ENTROPY = 0.5 * np.log(2 * np.pi * np.e)  # of a standard normal
_FEWEST = 4  # draws of a chain that can be compared with others
_TRIED = 100  # draws of a guide, to see where it goes


class Posterior(Spec):
    """Base of the ways. A ``program`` below is the ``Program`` whose globals are held.

    ``learnt`` are the values of its ``numpyro.param`` sites.
    """

    method: ClassVar[Literal["gradient", "mcmc"]] = "gradient"

    is_random: ClassVar[bool] = True  # is it more than a point?

    @property
    def count(self) -> int:
        """How many draws of the globals the density is an average over."""
        raise NotImplementedError

    def check(self, program) -> None:
        """Raise where the program cannot be learnt so."""

    def init(self, program, learnt, key) -> Any:
        """Params to start from."""
        raise NotImplementedError

    def prepare(self, program, params, x, y, weights) -> Any:
        """Params of the posterior to start from, of the program's ``params`` and all rows.

        weights (n,) sum to the number of events.
        """
        return params["posterior"]

    def values(self, program, params, learnt) -> Any:
        """All draws of the globals that make up the density, by site, each (draws, *shape)."""
        raise NotImplementedError

    def draws_one_by_one(self, program, params, learnt) -> Callable[[Any], Any] | None:
        """A function of a draw's number that returns the globals of that draw of ``values``.

        None where all draws are made together.
        """
        return None

    def noise(self, program) -> Any:
        """Pytree of the noise leaves that ``one`` takes."""
        raise NotImplementedError

    def one(self, program, params, learnt, noise) -> tuple[Any, Any]:
        """A draw of the globals, and its log q - log p in nats, for the evidence lower bound."""
        raise NotImplementedError

    def ratio(self, program, params, learnt, noise) -> tuple[Any, Any]:
        """A draw of the globals, and log q - log p of that draw itself, in nats."""
        return self.one(program, params, learnt, noise)


class Point(Posterior):
    """The likeliest globals given the data: the mode of the posterior, MAP.

    Args:
      jacobian: False for the mode in the space that the program names (NumPyro's AutoDelta), True
        for that in the space without constraints (where AutoLaplaceApproximation puts its centre).
        Of Gamma(3, 1) the first is 2, the second 3.

    Params, by site: ``loc``, without constraints, in spreads of the prior (``unit``) from its
    ``middle``; those two stay.
    """

    jacobian: bool = False

    count = 1
    is_random = False

    def init(self, program, learnt, key):
        frame = prior_frame(program, learnt, key)
        return {"loc": _map(jnp.zeros_like, frame["middle"]), **frame}

    def values(self, program, params, learnt):
        values, _, _ = program.constrain(_placed(params, params["loc"]), learnt)
        return _map(lambda v: v[None], values)

    def noise(self, program):
        return ()

    def one(self, program, params, learnt, noise):
        params = _learning(params)
        values, log_p, log_det = program.constrain(_placed(params, params["loc"]), learnt)
        return values, -log_p - log_det if self.jacobian else -log_p


class MeanField(Posterior):
    """Independent normals in the space without constraints: NumPyro's AutoNormal.

    Args:
      draws: how many values of the globals, the same every time, the density is an average over.
        They are spread evenly in each number (a Latin hypercube).

    Params, by site: ``loc`` and ``log_scale`` of the normals in spreads of the prior (``unit``)
    from its ``middle``, so that a fit finds its way whatever the units; those two stay.

    Source: Kucukelbir et al. 2017, "Automatic differentiation variational inference".
    """

    draws: Count = 100

    @property
    def count(self):
        return self.draws

    def init(self, program, learnt, key):
        frame = prior_frame(program, learnt, key)
        loc = _map(jnp.zeros_like, frame["middle"])
        log_scale = _map(lambda v: jnp.full_like(v, np.log(NARROW)), loc)
        return {"loc": loc, "log_scale": log_scale, **frame}

    def values(self, program, params, learnt):
        draw = self.draws_one_by_one(program, params, learnt)
        return jax.vmap(draw)(jnp.arange(self.draws))

    def draws_one_by_one(self, program, params, learnt):
        keys = _keys(params["loc"], fixed_key())
        spread = _map(lambda v, key: _spread(key, self.draws, v), params["loc"], keys)

        def draw(i):
            own = _map(lambda loc, s, z: loc + jnp.exp(s) * z(i), *_both(params), spread)
            return program.constrain(_placed(params, own), learnt)[0]

        return draw

    def noise(self, program):
        return {site.name: Normal(site.free) for site in program.sites.globals}

    def one(self, program, params, learnt, noise):
        params = _learning(params)
        own = _map(lambda loc, s, z: loc + jnp.exp(s) * z, *_both(params), noise)
        values, log_p, log_det = program.constrain(_placed(params, own), learnt)
        # log q in its mean, which is without noise
        terms = _map(
            lambda s, u: -(s + jnp.log(u) + _ENTROPY).sum(), params["log_scale"], params["unit"]
        )
        return values, sum(jax.tree_util.tree_leaves(terms)) - log_p - log_det

    def ratio(self, program, params, learnt, noise):
        values, cost = self.one(program, params, learnt, noise)
        squares = sum((1 - z**2).sum() for z in jax.tree_util.tree_leaves(noise))
        return values, cost + squares / 2


class Guide(Posterior):
    """A NumPyro guide of the globals.

    Args:
      guide: a function of what the program is called with, that samples every global and nothing
        else, with ``numpyro.param``; or a class of ``numpyro.infer.autoguide``, such as
        ``AutoMultivariateNormal``.
      draws: how many values of the globals, the same every time, the density is an average over.

    Params: those of the guide, by name, without constraints.
    """

    guide: Function
    draws: Count = 100

    @property
    def count(self):
        return self.draws

    def __post_init__(self):
        if callable(self.guide):
            object.__setattr__(self, "guide", function(self.guide))
        super().__post_init__()

    def init(self, program, learnt, key):
        return init_params(_run(self, program, {}, key))

    def check(self, program):
        _look(self, program)

    def values(self, program, params, learnt):
        own = self._params(program, params)
        names = [site.name for site in program.sites.globals]

        def draw(key):
            sites = _run(self, program, own, key)
            return {name: sites[name]["value"] for name in names}

        return jax.vmap(draw)(jax.random.split(fixed_key(), self.draws))

    def noise(self, program):
        return Key()

    def one(self, program, params, learnt, noise):
        sites = _run(self, program, self._params(program, params), noise)
        values = {site.name: sites[site.name]["value"] for site in program.sites.globals}
        log_q = sum(_log_q(s) for s in sites.values() if s["type"] == "sample")
        return values, log_q - program.log_prior_of(values, learnt)

    def _params(self, program, params):
        return moved(params, _look(self, program).transforms)


class NUTS(Posterior):
    """Draws of the posterior by the no-U-turn sampler; the locals of the data are drawn with them.

    ``fit`` warns where draws diverged or chains disagree; ``fitted.history`` has "divergences",
    "accept", the mean probability of acceptance, and by site "r_hat" and "ess", the effective
    number of draws (of an array's worst entry).

    Args:
      draws: kept of each chain.
      warmup: steps before, in which step size and mass matrix adapt.
      chains: run side by side.
      target_accept: mean probability of acceptance that the step size aims at.
      dense_mass: whether the mass matrix knows correlations.

    Params: ``draws``, by site, (chains x draws, *shape).

    Source: Hoffman and Gelman 2014; run by ``numpyro.infer``.
    """

    draws: Count = 250
    warmup: Count = 500
    chains: Count = 4
    target_accept: float = 0.8
    dense_mass: bool = False

    method = "mcmc"

    @property
    def count(self):
        return self.chains * self.draws

    def check(self, program):
        sites, name = program.sites, program.program.name
        if sites.params:
            raise ValueError(
                f"posterior: NUTS draws no numpyro.param, and program {name} has "
                f"{sorted(sites.params)}; make them sample sites, or fit by gradients"
            )
        if not sites.globals:
            raise ValueError(f"posterior: program {name} has no global latents for NUTS to draw")
        if self.draws < _FEWEST:
            raise ValueError(f"posterior: draws of NUTS must be at least {_FEWEST}, got {self}")

    def init(self, program, learnt, key):
        def draw(key):
            return program.constrain(program.prior_draw(key, learnt), learnt)[0]

        return {"draws": jax.vmap(draw)(jax.random.split(key, self.count))}

    def values(self, program, params, learnt):
        return params["draws"]


def init_params(sites):
    """Values of ``numpyro.param`` sites without their constraints."""
    params = {name: site for name, site in sites.items() if site["type"] == "param"}
    start = {name: _map(jnp.asarray, site["value"]) for name, site in params.items()}
    return moved(start, {name: transform_of(site).inv for name, site in params.items()})


def moved(params, transforms):
    """Params moved by the transforms of their names: to the values of sites, or back."""
    # NumPyro's maps onto matrices take no dtype but JAX's own
    own = lambda v: jnp.asarray(v, jnp.promote_types(v.dtype, jnp.result_type(float)))  # noqa: E731
    return {n: _map(lambda v, n=n: transforms[n](own(v)), value) for n, value in params.items()}


def prior_frame(program, learnt, key):
    """Where the prior lies and how wide it is, without constraints, of a few draws."""
    keys = jax.random.split(key, _DRAWN)
    draws = jax.vmap(lambda key: program.prior_draw(key, learnt))(keys)
    low, middle, high = (
        _map(lambda v, share=share: jnp.quantile(v, share, 0), draws) for share in (0.16, 0.5, 0.84)
    )
    half = _map(lambda low, high: (high - low) / 2, low, high)
    return {"middle": middle, "unit": _map(lambda v: jnp.where(v > 0, v, 1), half)}


def globals_size(program) -> int:
    """The number of globals without constraints."""
    return sum(int(np.prod(site.free)) for site in program.sites.globals)


def _placed(params, own):
    """Globals without constraints of those in units of the prior."""
    return _map(lambda m, u, v: m + u * v, params["middle"], params["unit"], own)


def _learning(params):
    """Params whose frame stays where it is."""
    frame = {name: params[name] for name in ("middle", "unit")}
    return {**params, **lax.stop_gradient(frame)}


def _both(params):
    return params["loc"], params["log_scale"]


def _keys(tree, key):
    """A key for each leaf."""
    leaves, structure = jax.tree_util.tree_flatten(tree)
    keys = [jax.random.fold_in(key, i) for i in range(len(leaves))]
    return jax.tree_util.tree_unflatten(structure, keys)


def fixed_key():
    # behind a barrier: the compiler would draw the numbers itself, slowly
    words = lax.optimization_barrier(jnp.zeros(2, jnp.uint32))
    return jax.random.wrap_key_data(words, impl="threefry2x32")


def _spread(key, count, like):
    """A function of 0 .. count - 1 that returns standard normals, (*shape).

    Each number takes values that are spread evenly, in an order of its own: a Latin hypercube.
    """
    cells = ndtri((jnp.arange(count, dtype=like.dtype) + 0.5) / count)
    places = permutations(key, like.shape, count)
    return lambda i: cells[places(i)]


class _Looked(NamedTuple):
    """A guide and what it is made of."""

    call: Function
    transforms: dict[str, Any]


def _run(guide: Guide, program, params, key):
    return trace(_look(guide, program).call, program.sites.argument, key, params)


@functools.lru_cache(maxsize=256)
def _look(guide: Guide, program) -> _Looked:
    """The guide, checked against the program."""
    call = guide.guide
    wanted = {site.name: site for site in program.sites.globals}

    def fail(what):
        raise ValueError(f"guide {guide.guide.name}: {what}")

    if isinstance(call.call, type) and issubclass(call.call, AutoGuide):
        if issubclass(call.call, AutoLaplaceApproximation):
            fail("its spread is found after a fit; take MeanField or AutoMultivariateNormal")
        hidden = [name for name in program.sites.example if name not in wanted]
        rows = {name: program.sites.example[name] for name in hidden}
        globals_alone = handlers.block(handlers.substitute(program.program.call, rows), hide=hidden)
        call = function(call.call(globals_alone), named=False)  # the class keeps its name

    def looked():
        """Runs of the guide, which differ in what it is called with and in nothing else."""
        key = np.zeros(2, np.uint32)
        with _errors_of_guide(fail):
            run, other = (
                trace(call, given, key, {})
                for given in (program.sites.argument, program.sites.other)
            )
        samples = {n: s for n, s in run.items() if s["type"] == "sample"}
        found = {n for n, s in samples.items() if not s["infer"].get("is_auxiliary")}
        if found != set(wanted):
            fail(
                f"it must sample the globals {sorted(wanted)} of the program; it has "
                f"{sorted(found)}"
            )
        for name in found:
            shape = np.shape(samples[name]["value"])
            if shape != wanted[name].shape:
                fail(f"site {name!r} must have shape {wanted[name].shape}, got {shape}")
            if samples[name]["is_observed"]:
                fail(f"site {name!r} must not be observed")
        values = {name: samples[name]["value"] for name in found}
        tried = {}
        for name, support in program.supports(values).items():
            draws = samples[name]["fn"].expand_by((_TRIED,)).sample(key)
            tried[name] = support, draws, support(draws)
        others = {name: other[name]["value"] for name in found}
        transforms = {n: transform_of(s) for n, s in run.items() if s["type"] == "param"}
        return values, others, tried, transforms

    with jax.core.eval_context():
        with _errors_of_guide(fail):
            # by hand: an autoguide sets itself up, and keeps what it finds
            trace(call, program.sites.argument, np.zeros(2, np.uint32), {})
        values, others, tried, transforms = evaluated(looked)
    for name, value in values.items():
        if not np.array_equal(value, others[name]):
            fail(f"site {name!r} must not depend on the rows, of which it is shown but one")
    for name, (support, draws, inside) in tried.items():
        if not np.all(inside):
            outside = np.ravel(draws)[np.argmin(np.ravel(inside))]
            fail(
                f"site {name!r} is drawn outside of the support of the program's, {support}, "
                f"such as {outside}"
            )
    return _Looked(call, transforms)


@contextlib.contextmanager
def _errors_of_guide(fail):
    """Turn errors that NumPyro raises at impossible sites into errors that name the guide."""
    try:
        yield
    except NotImplementedError:
        fail("its sites must have proper distributions, to be drawn from")
    except AssertionError as error:
        if "unique name" not in str(error):
            raise
        fail(f"two sites have one name: {error}")


def _log_q(site):
    value, between = site["value"], site["intermediates"]
    log_q = site["fn"].log_prob(value, between) if between else site["fn"].log_prob(value)
    return log_q.sum()
