"""A NumPyro program as a model: p(x|y), x the observed site and y what the program is told."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import lax
from numpyro.distributions import biject_to

from jaxgen import batch, inputs
from jaxgen.compose import Labelled
from jaxgen.model import Model
from jaxgen.numerics import blanked, logsumexp
from jaxgen.numpyro import nuts
from jaxgen.numpyro.function import Function, function
from jaxgen.numpyro.posterior import (
    MeanField,
    Posterior,
    fixed_key,
    init_params,
    moved,
)
from jaxgen.numpyro.sites import Asked, Sites, sites_of, trace
from jaxgen.promotion import standard_promotion
from jaxgen.random import Events, Key
from jaxgen.spec import Count

_IN_LOSS = 8  # samples of a learnt proposal in a loss: more would drown its gradient


@standard_promotion
def from_program(
    program: Callable,
    observed: str = "x",
    *,
    y_shape: tuple[int, ...] | None = None,
    classes: int | None = None,
    posterior: Posterior | None = None,
    samples: int = 100,
    proposal: Model | None = None,
) -> Model:
    """A NumPyro program as a model: p(x) or p(x|y) of one row, x the observed site.

    The program is called with y (n, *y_shape), rows leading, or without conditions with n, the
    number of rows. Its sample sites within the plate over the rows are local, the others global:

        def regression(y, x=None):
            slope = numpyro.sample("slope", dist.Normal(0, 1))            # global
            with numpyro.plate("rows", len(y)):
                numpyro.sample("x", dist.Normal(slope * y, 0.5), obs=x)   # observed

    The density of a row is log mean_s p(x | y, globals_s) over the draws s that ``posterior`` holds
    of the globals; within it discrete locals are summed over, and continuous ones integrated by
    importance sampling. ``numpyro.param`` sites are learnt by likelihood. One compiled program
    serves all rows, so sites may not hear of other rows, nor of a row's place among them, such as
    ``arange(n)`` or the indices of the plate: hand those in as y.

    Args:
      program: the function. A saved model names it, and loads once ``from_program`` has met it.
      observed: name of the site that is x. It must not be observed by itself: pass ``obs=x`` with
        x None by default, or no ``obs`` at all.
      y_shape: shape of a condition; None for p(x).
      classes: y is one of so many labels, ints: the result is ``compose.Labelled`` and classifies.
      posterior: how the globals are held and learnt: ``MeanField()`` (the default), ``Point()``,
        ``Guide(guide)``, by gradients, or ``NUTS()``.
      samples: K, with which continuous locals are integrated.
      proposal: conditional model q(z|x, y) of the continuous locals z without constraints,
        flattened, in the order of their sites, told x and y flattened: such as
        ``SplineCoupling(dim_z, y_shape=(dim_x + dim_y,))``. It is learnt beside the globals. None
        proposes from the prior.

    Raises:
      TypeError, ValueError: an argument of the wrong kind, or a program that cannot serve; the
        message names the site.

    Source: Burda et al. 2016, "Importance weighted autoencoders", for K samples in a bound.

    >>> model = jaxgen.numpyro.from_program(regression, y_shape=())
    >>> fitted = jaxgen.fit(model, x, y, key=jax.random.key(0))
    """
    if not callable(program):
        raise TypeError(f"program must be a function with NumPyro sites, got {program!r:.60}")
    if classes is not None:
        if y_shape not in (None, ()):
            raise ValueError(f"y_shape must be () or left out where y is a label, got {y_shape}")
        y_shape, classes = (), inputs.as_count(classes, "classes", 1)
    spec = Program(
        function(program),
        observed,
        y_shape,
        classes,
        MeanField() if posterior is None else posterior,
        samples,
        proposal,
    )
    spec.check()
    return spec if classes is None else Labelled(spec, classes)


class Program(Model):
    """A NumPyro program as p(x|y): ``from_program`` makes and explains it.

    Params: ``posterior``, of the globals; ``program``, the values of ``numpyro.param`` sites,
    without constraints; ``proposal``, of the proposal: those that there are.
    """

    program: Function
    observed: str = "x"
    y_shape: tuple[int, ...] | None = None  # type: ignore[misc]
    levels: Count | None = None  # y is one of so many labels
    posterior: Posterior = MeanField()
    samples: Count = 100
    proposal: Model | None = None

    learning_rate: ClassVar[float] = 0.02
    keep: ClassVar[Literal["best", "last"]] = "last"

    @property
    def sites(self) -> Sites:
        return sites_of(Asked(self.program, self.observed, self.y_shape, self.levels))

    @property
    def event_shape(self):
        return self.sites.event_shape

    @property
    def support(self):
        return self.sites.support

    @property
    def density(self):
        return "estimate" if self.sites.locals else "exact"

    @property
    def method(self) -> str:
        """How log p(x|y) comes of given globals."""
        if self.sites.locals:
            by = "the prior" if self.proposal is None else type(self.proposal).__name__
            return f"importance-weighted, K = {self.samples}, from {by}"
        return "enumerated" if self.sites.discrete else "exact"

    @property
    def reparameterized(self):
        random = (*self.sites.locals, self.sites.observed)
        return not self.sites.discrete and all(site.rsample for site in random)

    @property
    def fit_method(self):
        return self.posterior.fit_method

    @property
    def scratch(self):
        runs = self.count * (self.samples if self.sites.locals else 1)
        for values in self.sites.combinations.values():
            return runs * len(values)
        return runs

    @property
    def count(self) -> int:
        """Draws of the globals that the density is an average over."""
        return self.posterior.count if self.sites.globals else 1

    def check(self) -> None:
        """Raise where the parts do not fit together."""
        sites, name = self.sites, self.program.name
        if self.proposal is not None:
            dim = sum(int(np.prod(site.free)) for site in sites.locals)
            told = int(np.prod(self.event_shape)) + int(np.prod(self.y_shape or (0,)))
            told += 1 if self.y_shape == () else 0
            wanted = (dim,), (told,)
            found = self.proposal.event_shape, self.proposal.y_shape
            if not dim:
                raise ValueError(f"proposal: program {name} has no continuous local latents")
            if found != wanted:
                raise ValueError(
                    f"proposal must have event_shape {wanted[0]} and y_shape {wanted[1]} for "
                    f"program {name}, got {found[0]} and {found[1]}"
                )
        self.posterior.check(self)

    @standard_promotion
    def init(self, key, x=None, y=None):
        return _init(self, key)

    def log_prob(self, params, x, y=None):
        # a program may compute in JAX's own dtype, wider than that of the params
        return (logsumexp(self.log_prob_each(params, x, y)) - np.log(self.count)).astype(x.dtype)

    def noise(self):
        return Key()

    def push(self, params, noise, y=None):
        which, rows = jax.random.split(noise)
        values = self.values(params)
        chosen = jax.random.randint(which, (), 0, self.count)
        return self.row(params, jax.tree_util.tree_map(lambda v: v[chosen], values), rows, y)

    def loss(self, params, noise, x, y=None):
        learnt = self.learnt(params)
        values: dict[str, Any] = {}
        cost: Any = 0.0
        if self.sites.globals:
            values, cost = self.posterior.one(self, params["posterior"], learnt, noise["globals"])
        count = self.samples if self.proposal is None else min(self.samples, _IN_LOSS)
        _, log_weights = self._samples(params, values, learnt, x, y, noise["locals"], count)
        loss = np.log(len(log_weights)) - logsumexp(log_weights) + cost / noise["events"]
        return loss.astype(x.dtype)

    def loss_noise(self):
        own = self.posterior.noise(self) if self.sites.globals else ()
        of_locals = Key() if self.sites.locals else ()
        return {"globals": own, "locals": of_locals, "events": Events()}

    def draw_posteriors(self, keys, data, progress=None):
        return nuts.run(self, keys, data, progress)

    # What more a program can tell.

    def learnt(self, params):
        """Values of the ``numpyro.param`` sites."""
        return moved(params["program"], self.sites.params)

    def values(self, params):
        """Draws of the globals, by site, each (draws, *shape)."""
        if not self.sites.globals:
            return {}
        values = self.posterior.values(self, params["posterior"], self.learnt(params))
        for site in self.sites.globals:
            shape, wanted = jnp.shape(values[site.name]), (self.count, *site.shape)
            if shape != wanted:
                raise ValueError(
                    f"params must hold {site.name!r} of shape {wanted}, got {shape}; those of "
                    "many fits go through jax.vmap, or jaxgen.unstack"
                )
        return values

    def row(self, params, values, key, y=None):
        """An event drawn given values of the globals."""
        known = {**values, **self.learnt(params)}
        value = trace(self.program, self._argument(y), key, known)[self.observed]["value"]
        dtype = inputs.float_dtype((params, values)) if _is_float(value) else jnp.int32
        return value.reshape(self.event_shape).astype(dtype)

    def log_prob_each(self, params, x, y=None):
        """log p(x|y, globals) of each draw of the globals, (draws,)."""
        log_weights = self.log_weights_each(params, x, y, fixed_key())
        if log_weights.shape[1] == 1:
            return log_weights[:, 0]
        return logsumexp(log_weights, 1) - np.log(log_weights.shape[1])

    def log_weights_each(self, params, x, y, key):
        """Log weights of samples of the locals for each draw, (draws, K); (draws, 1) if exact."""
        learnt = self.learnt(params)
        values = self.values(params)

        def of_draw(values, key):
            return self._samples(params, values, learnt, x, y, key, self.samples)[1]

        if not values:
            return of_draw({}, key)[None]
        # draws on the last axis, over which sums of an event's numbers run fastest on a CPU
        last = jax.tree_util.tree_map(lambda v: jnp.moveaxis(v, 0, -1), values)
        keys = jax.random.split(key, self.count)
        return jax.vmap(of_draw, (-1, 0))(last, keys)

    def latents(self, params, values, key, x, y=None):
        """Locals of a row drawn given x and the globals, by site, and what is made of them.

        Continuous ones are resampled from the K samples. All are blank where x is impossible.
        """
        learnt = self.learnt(params)
        of_samples, which, of_discrete, other = jax.random.split(key, 4)
        drawn, log_weights = self._samples(params, values, learnt, x, y, of_samples, self.samples)
        chosen = _choice(which, log_weights)
        drawn = jax.tree_util.tree_map(lambda v: v[chosen], drawn)
        local, free = (drawn, {}) if self.proposal is None else ({}, drawn)
        if self.sites.discrete:
            combinations = self.sites.combinations
            scores = jax.vmap(lambda c: sum(self._row(values, learnt, x, y, {**local, **c}, free)))(
                combinations
            )
            place = _choice(of_discrete, scores)
            local = {**local, **{name: jnp.asarray(v)[place] for name, v in combinations.items()}}
        known = {**values, **learnt, **local, self.observed: self._observed(x)[0]}
        sites = trace(self.program, self._argument(y), other, known, _placing(free)[0])
        shown = (*self.sites.locals, *self.sites.discrete, *self.sites.deterministic)
        drawn = {s.name: jnp.asarray(_without_plate(sites[s.name]["value"], s)) for s in shown}
        return blanked(jnp.isfinite(logsumexp(log_weights)), drawn)

    def constrain(self, free, learnt):
        """Globals of values without constraints; their log p, and the log-determinant of it."""
        place, log_dets = _placing(free)
        sites = self._without_rows(learnt, place)
        values = {name: sites[name]["value"] for name in free}
        return values, self._log_prior(sites), sum(log_dets)

    def log_prior_of(self, values, learnt):
        """log p of the globals, in nats."""
        return self._log_prior(self._without_rows({**values, **learnt}))

    def computed(self, values, learnt):
        """Deterministic sites of the globals, by name."""
        sites = self._without_rows({**values, **learnt})
        return {name: sites[name]["value"] for name in self.sites.computed}

    def prior_draw(self, key, learnt):
        """Globals drawn from the prior, without constraints."""
        sites = trace(self.program, self.sites.argument, key, learnt)
        return {s.name: _free(sites[s.name]) for s in self.sites.globals}

    def locals_draw(self, values, key, y=None):
        """Continuous locals of a row drawn from the prior, without constraints."""
        if not self.sites.locals:
            return {}
        sites = trace(self.program, self._argument(y), key, values)
        return {s.name: _free(sites[s.name]) for s in self.sites.locals}

    def log_joint(self, position, x, y, weights):
        """log p(x, locals | y, globals) p(globals) without constraints, of all rows."""
        learnt: dict = {}
        values, log_p, log_det = self.constrain(position["globals"], learnt)

        def of_row(x, y, weight, free):
            prior, joint = self._scores(values, learnt, x, y, {}, free)
            if not free:
                return jnp.where(weight > 0, weight * jnp.where(weight > 0, joint, 0), 0)
            return jnp.where(weight > 0, joint, prior)

        axes = 0, None if y is None else 0, 0, 0
        rows = jax.vmap(of_row, axes)(x, y, weights, position["locals"])
        return log_p + log_det + rows.sum()

    def supports(self, values):
        """The supports of the globals that have those values, by site."""
        sites = self._without_rows(values)
        return {site.name: sites[site.name]["fn"].support for site in self.sites.globals}

    def _argument(self, y):
        return 1 if self.y_shape is None else y[None]

    def _without_rows(self, known, place=None):
        rows = {site.name for site in (*self.sites.locals, *self.sites.discrete)}
        rows |= {self.observed}
        example = {name: self.sites.example[name] for name in rows}
        key = jnp.zeros(2, jnp.uint32)
        return trace(self.program, self.sites.argument, key, {**example, **known}, place)

    def _log_prior(self, sites):
        rows = {site.name for site in (*self.sites.locals, *self.sites.discrete)}
        outside = [
            site for name, site in sites.items()
            if site["type"] == "sample" and name not in rows and name != self.observed
        ]  # fmt: skip
        return sum(_scaled(site) for site in outside)

    def _samples(self, params, values, learnt, x, y, key, count):
        """Samples of the continuous locals by their proposal, and log p(x, locals|y) / q(locals).

        Returns the samples by site, as drawn (from a proposal without constraints), and their log
        weights, (count,); no samples and one weight where there are no continuous locals.
        """
        if not self.sites.locals:
            return {}, self._scores(values, learnt, x, y, {})[1][None]
        if self.proposal is None:
            told, given = y, {**values, **learnt, self.observed: self._observed(x)[0]}
            moving = not self.sites.discrete and all(s.rsample for s in self.sites.locals)
            if not moving:  # gradients come of the density, for they do not pass these draws
                told, given = lax.stop_gradient((told, given))

            def of_prior(key):
                sites = trace(self.program, self._argument(told), key, given)
                drawn = {s.name: sites[s.name]["value"] for s in self.sites.locals}
                if moving:
                    return drawn, self._row(values, learnt, x, y, drawn)[1]
                prior, joint = self._scores(values, learnt, x, y, drawn)
                return drawn, joint - lax.stop_gradient(prior)

            return jax.vmap(of_prior)(jax.random.split(key, count))
        own = params["proposal"]
        told = jnp.concatenate([jnp.ravel(v).astype(x.dtype) for v in (x, y) if v is not None])
        flat = batch.sample(self.proposal, own, key, count, told)
        log_q = batch.log_prob(self.proposal, own, flat, told)
        sizes = [int(np.prod(site.free)) for site in self.sites.locals]
        parts = jnp.split(flat, np.cumsum(sizes)[:-1], 1)
        free = {
            site.name: part.reshape(count, *site.free)
            for site, part in zip(self.sites.locals, parts, strict=True)
        }
        joint = jax.vmap(lambda free: self._scores(values, learnt, x, y, {}, free)[1])(free)
        return free, joint - log_q

    def _scores(self, values, learnt, x, y, local, free=None):
        """log p(locals) and log p(x, locals), the discrete ones summed over."""
        if not self.sites.discrete:
            prior, score = self._row(values, learnt, x, y, local, free)
            return prior, prior + score

        def of_one(combination):
            return self._row(values, learnt, x, y, {**local, **combination}, free)

        priors, scores = jax.vmap(of_one)(self.sites.combinations)
        return logsumexp(priors), logsumexp(priors + scores)

    def _row(self, values, learnt, x, y, local, free=None):
        """log p(locals) and log p(x | locals) of a row; ``free`` locals are without constraints."""
        value, whole = self._observed(x)
        known = {**values, **learnt, **local, self.observed: value}
        place, log_dets = _placing(free or {})
        key = jnp.zeros(2, jnp.uint32)
        sites = trace(self.program, self._argument(y), key, known, place)
        latent = (*self.sites.locals, *self.sites.discrete)
        prior = sum((_log_p(sites[site.name]).sum() for site in latent), jnp.zeros((), float))
        score = jnp.where(whole, _score_within(sites[self.observed]), -jnp.inf)
        return prior + sum(log_dets), score

    def _observed(self, x):
        """The observed site's value that is x, and whether it is whole where it must be."""
        site, whole = self.sites.observed, True
        if site.discrete:
            each = x == jnp.round(x)
            x, whole = jnp.where(each, x, -1).astype(jnp.int32), each.all()
        return _with_plate(x, site), whole


@functools.partial(jax.jit, static_argnums=0)  # run by hand, a program's start takes a while
def _init(program, key):
    own, of_posterior, of_proposal = jax.random.split(key, 3)
    params = {"program": init_params(trace(program.program, program.sites.argument, own, {}))}
    if program.sites.globals:
        learnt = program.learnt(params)
        params["posterior"] = program.posterior.init(program, learnt, of_posterior)
    if program.proposal is not None:
        params["proposal"] = program.proposal.init(of_proposal)
    return params


def _placing(free):
    """A function that gives sites the values ``free`` has without constraints; log-determinants."""
    log_dets: list[Any] = []

    def place(site):
        if site["type"] != "sample" or site["name"] not in free:
            return None
        transform, start = biject_to(site["fn"].support), free[site["name"]]
        value = transform(start)
        log_dets.append(transform.log_abs_det_jacobian(start, value).sum())
        return value

    return place, log_dets


def _free(site):
    return biject_to(site["fn"].support).inv(site["value"])


def _choice(key, log_weights):
    # JAX adds noise to the log weights, which would be rounded off beside large ones
    return jax.random.categorical(key, jax.nn.log_softmax(log_weights))


def _log_p(site):
    return site["fn"].log_prob(site["value"])


def _scaled(site):
    return _log_p(site).sum() * (1 if site["scale"] is None else site["scale"])


def _score_within(site):
    """log p of the observed value, -inf outside the support, of which NumPyro does not ask."""
    fn, value = site["fn"], site["value"]
    inside = fn.support(value)
    of_event = jnp.reshape(inside, (*inside.shape, *[1] * fn.event_dim))
    safe = jnp.where(of_event, value, fn.support.feasible_like(value))
    return jnp.where(inside, _with_gradients(fn).log_prob(safe), -jnp.inf).sum()


class _Poisson(dist.Poisson):
    """A Poisson whose density has gradients at rate 0 too, where the event 0 is sure."""

    def log_prob(self, value):
        nothing = value == 0
        score = dist.Poisson(jnp.where(nothing, 1, self.rate)).log_prob(value)
        return jnp.where(nothing, jnp.asarray(-self.rate, score.dtype), score)


def _with_gradients(fn):
    """The distribution with a density of finite gradients, within others that wrap it too."""
    if type(fn) is dist.Poisson:
        return _Poisson(fn.rate)
    if isinstance(getattr(fn, "base_dist", None), dist.Distribution):
        fn = copy.copy(fn)
        fn.base_dist = _with_gradients(fn.base_dist)
    return fn


def _with_plate(value, site):
    return jnp.expand_dims(value, site.axis)


def _without_plate(value, site):
    return jnp.squeeze(value, site.axis)


def _is_float(value):
    return jnp.issubdtype(value.dtype, jnp.floating)
