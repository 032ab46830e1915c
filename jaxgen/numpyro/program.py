"""A NumPyro program as a model: p(x|y), x the observed site and y the program's argument."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import biject_to

from jaxgen.compose import Labelled
from jaxgen.core import inputs
from jaxgen.core.model import Learning, Model, Traits
from jaxgen.core.numerics import blanked, logsumexp
from jaxgen.core.promotion import standard_promotion
from jaxgen.core.random import Events, Key
from jaxgen.core.spec import Count
from jaxgen.core.warn import warn
from jaxgen.networks.domains import Domain, each
from jaxgen.numpyro import blocks, diagnosis, nuts, row_samples
from jaxgen.numpyro.blocks import in_blocks
from jaxgen.numpyro.conditions import Ranges, conditions_of, ranges_of
from jaxgen.numpyro.data_check import check_data
from jaxgen.numpyro.drawing import Drawing
from jaxgen.numpyro.full_rank import FullRank
from jaxgen.numpyro.function import Function, function
from jaxgen.numpyro.inspection import check_count, combinations, sites_of
from jaxgen.numpyro.likelihood import log_prob_within
from jaxgen.numpyro.pareto import warn_of_tails
from jaxgen.numpyro.posterior import (
    MeanField,
    Posterior,
    fixed_key,
    globals_size,
    init_params,
    moved,
)
from jaxgen.numpyro.runs import trace
from jaxgen.numpyro.sites import ProgramSignature, Sites

_FULL_RANK = 64  # numbers of globals up to which a posterior has all correlations by default
_IN_LOSS = 8  # samples in a loss: more of a learnt proposal would drown its gradient
_ENGINE = 2**21  # scalars of float32 in a block of the engine


@standard_promotion
def from_program(
    program: Callable,
    observed: str = "x",
    *,
    y_shape: tuple[int, ...] | None = None,
    classes: int | None = None,
    y_domain: tuple[Domain, ...] | None = None,
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
    importance sampling. ``numpyro.param`` sites are learnt by likelihood. A masked entry of x
    counts as not observed.

    Each row is scored by a run for that row alone, so a site must not depend on other rows, nor on
    a row's place among them, such as ``arange(n)`` or the indices of the plate: hand those in as y.
    ``fit`` compares such runs with one of all rows and refuses a program in which they differ. What
    the function reads, such as a global, belongs to the model: after a change it must be made anew.

    Args:
      program: the function. A saved model names it, and loads once ``from_program`` was called
        with a function of that name that has the same sites and densities.
      observed: name of the site that is x. It must not be observed by itself: pass ``obs=x`` with
        x None by default, or no ``obs`` at all. A parameter of that name, or the only one beside
        the first with None as its default, gets the value of x where x is scored.
      y_shape: shape of a condition; None for p(x).
      y_domain: where each number in y lives, of ``jaxgen.domains``: one for all, or one for each;
        ``Levels(8)`` for an index of one of 8 groups. Other y raise an error. By default any number
        may come that indexes no array out of bounds.
      classes: y is one of so many labels, ints: the result is ``compose.Labelled`` and classifies.
      posterior: how the globals are held and learnt, by gradients or ``NUTS()``: ``FullRank()``
        (the default for up to 64 numbers without constraints), ``MeanField()`` (the default for
        more), ``Point()`` or ``Guide(guide)``.
      samples: K, of each draw of the globals, with which continuous locals are integrated. With
        fewer than 25 there is no Pareto k to say how far to trust the density.
      proposal: conditional model q(z|x, y) of the continuous locals z without constraints,
        flattened, in the order of their sites, conditioned on x and y flattened: such as
        ``SplineCoupling(dim_z, y_shape=(dim_x + dim_y,))``. It is learnt beside the globals. None
        adapts to each row and draw: Student t around two modes of the locals given x, found by
        Newton's method and as wide as the curvature there says; one sample in eight is from the
        prior, as are all if the density of the locals has no derivatives. Further modes may be
        missed without a warning.

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
        y_domain,
        MeanField() if posterior is None else posterior,
        samples,
        proposal,
    )
    if posterior is None and 0 < globals_size(spec) <= _FULL_RANK:
        spec = dataclasses.replace(spec, posterior=FullRank())
    spec.check()
    spec = spec.record()
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
    y_domain: tuple[Domain, ...] | None = None
    posterior: Posterior = MeanField()
    samples: Count = 100
    proposal: Model | None = None
    ranges: Ranges | None = None  # of discrete latents whose values depend on y, seen in a fit
    large_counts: bool = False  # were there counts beyond JAX's integers in a fit?
    # the sites and their log p at some values, by which a file recognises the program
    described: tuple[str, ...] = dataclasses.field(default=(), repr=False, compare=False)
    digest: str = dataclasses.field(default="", repr=False, compare=False)  # of what it reads
    log_p: tuple[float | None, ...] = dataclasses.field(default=(), repr=False, compare=False)

    def __post_init__(self):
        super().__post_init__()
        if self.described:
            self._check_recognised()

    @property
    def sites(self) -> Sites:
        signature = ProgramSignature(
            self.program, self.observed, self.y_shape, self.levels, self.y_domain
        )
        return sites_of(signature)

    @property
    def combinations(self) -> dict[str, np.ndarray]:
        """All values that the discrete latents of a row can take together, by site, (m, *shape)."""
        if self.sites.varying and self.ranges is None:
            raise ValueError(
                f"program {self.program.name}: the values of latent {self.sites.varying[0]!r} "
                "depend on y, so that they are known after a fit, or where y_domain is bounded"
            )
        return _combinations(self, jnp.result_type(int))

    @property
    def event_shape(self):
        self.check_unchanged()  # here, for every way to ask a model comes by
        return self.sites.event_shape

    @property
    def support(self):
        return self.sites.support

    @property
    def y_support(self):
        return conditions_of(self)

    @functools.cached_property
    def learning(self):
        parts = self.sites.globals, self.sites.params, self.proposal
        noise = {
            "globals": self.posterior.noise(self) if self.sites.globals else (),
            "locals": Key() if self.sites.locals else (),
            "events": Events(),
        }
        # without such parts nothing is learnt
        method = self.posterior.method if any(parts) else "closed_form"
        return Learning(method, keep="last", rate=0.02, noise=noise, hooks=self)

    @functools.cached_property
    def traits(self):
        random = (*self.sites.locals, self.sites.observed)
        # so that a block of ROWS rows may hold SCALARS scalars
        scratch = math.ceil(self.together() * self.footprint * _ENGINE / blocks.SCALARS)
        return Traits(
            density="estimate" if self.sites.locals else "exact",
            reparameterized=not self.sites.discrete and all(site.rsample for site in random),
            scratch=scratch,
            log_prob_and_k=self._log_prob_and_k if self.sites.locals else None,
        )

    @property
    def method(self) -> str:
        """How log p(x|y) comes of given globals."""
        if self.sites.locals:
            by = "modes and the prior" if row_samples.adapts(self) else "the prior"
            by = by if self.proposal is None else type(self.proposal).__name__
            return f"importance-weighted, K = {self.samples}, from {by}"
        return "enumerated" if self.sites.discrete else "exact"

    @property
    def count(self) -> int:
        """Draws of the globals that the density is an average over."""
        return self.posterior.count if self.sites.globals else 1

    def for_data(self, x, y=None):
        """The program with what the data say of it, after a check that it can score them.

        Raises:
          ValueError: rows do not follow from themselves alone, or a latent takes too many values.
        """
        found = self
        if self.sites.varying:
            found = found.with_ranges(y)
        if not self.sites.bounded and x is not None:
            large = bool((np.abs(x) > jnp.iinfo(jnp.result_type(int)).max).any())
            found = dataclasses.replace(found, large_counts=large or found.large_counts)
        check_data(found, x, y)
        return found

    def check_fitted(self, params, x, y=None):
        """Compare the rows again at the fitted globals: a wide prior may hide a difference."""
        check_data(self, x, y, params)

    def with_ranges(self, y):
        """The program with the values that discrete latents take under the conditions y."""
        found = dataclasses.replace(self, ranges=ranges_of(self, y))
        check_count(found.fail, _sizes(found))
        return found

    def check_unchanged(self):
        """Raise where the function reads something that has changed since ``from_program``."""
        changed = self.program.changed()
        if changed is not None:
            self.fail(
                f"it reads {changed!r}, which has changed since from_program was called: call it "
                "again, and fit again"
            )

    def fail(self, what: str):
        raise ValueError(f"program {self.program.name}: {what}")

    def record(self):
        """The program with what a file recognises it by."""
        sites = self.sites
        self.program.settle()
        log_p = tuple(v if math.isfinite(v) else None for v in sites.log_p.values())
        known = sites.description(), log_p, self.program.digest()
        return dataclasses.replace(self, described=known[0], log_p=known[1], digest=known[2])

    def _check_recognised(self):
        sites, name = self.sites, self.program.name
        now = sites.description()
        if now != self.described:
            differ = sorted(set(now) ^ set(self.described)) or now
            raise ValueError(
                f"program {name} is not the one in the file: they differ in {', '.join(differ)}"
            )
        pairs = zip(sites.log_p.items(), self.log_p, strict=True)
        for (site, own), saved in pairs:
            if saved is not None and not np.isclose(own, saved, rtol=1e-3, atol=1e-3):
                raise ValueError(
                    f"program {name} is not the one in the file: log p of site {site!r} at some "
                    f"values is {own:.6g}, and was {saved:.6g} when it was saved; something that "
                    "it reads may have changed"
                )
        digest, version = self.program.digest(), self.digest.split(" ")[0]
        if digest != self.digest and digest.startswith(f"{version} "):
            warn(
                f"program {name} has other code, or reads something else, than when it was saved; "
                "its sites and their densities at some values are the same"
            )

    def check(self) -> None:
        """Raise where the parts do not fit together."""
        sites, name = self.sites, self.program.name
        if self.y_domain is not None:
            if self.y_shape is None or self.levels is not None:
                what = "there is no y" if self.y_shape is None else "y is a label"
                raise ValueError(f"y_domain does not apply: {what} of program {name}")
            each(self.y_domain, int(np.prod(self.y_shape)), "y_domain")
        if self.proposal is not None:
            dim = sum(int(np.prod(site.free)) for site in sites.locals)
            given = int(np.prod(self.event_shape)) + int(np.prod(self.y_shape or (0,)))
            given += 1 if self.y_shape == () else 0
            wanted = (dim,), (given,)
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

    @standard_promotion
    def prepare(self, params, x, y, weights):
        if not self.sites.globals:
            return params
        return {**params, "posterior": self.posterior.prepare(self, params, x, y, weights)}

    @standard_promotion
    def diagnose(self, params, x, y, weights, key, scores):
        if not self.sites.globals:
            return {}, ""
        return diagnosis.diagnose(self, params, x, y, weights, key, scores)

    def estimate(self, x, y=None, weights=None):
        return {"program": {}}

    def log_prob(self, params, x, y=None):
        # a program may compute in JAX's own dtype, wider than that of the params
        return (logsumexp(self.log_prob_each(params, x, y)) - np.log(self.count)).astype(x.dtype)

    def _log_prob_and_k(self, params, x, y=None):
        log_weights = self.log_weights_each(params, x, y, fixed_key())
        log_p = logsumexp(log_weights) - np.log(log_weights.size)
        return log_p.astype(x.dtype), row_samples.tail_index(self, log_weights, x).astype(x.dtype)

    def warn_of_tails(self, k):
        warn_of_tails(k, self.program.name)

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
        log_p = self.log_p_of_row(params, values, learnt, x, y, noise["locals"])
        return (cost / noise["events"] - log_p).astype(x.dtype)

    def draw_posteriors(self, keys, data, progress=None):
        params, histories = nuts.run(self, keys, data, progress)
        x, y, _ = data[0]
        check_data(self, x, y, jax.tree_util.tree_map(lambda v: v[0], params))
        return params, histories

    # What more a program can tell.

    @property
    def samples_in_loss(self) -> int:
        """Samples of the continuous locals that a row's loss takes; 0 without any."""
        if not self.sites.locals:
            return 0
        learns = self.proposal is not None or row_samples.adapts(self)
        return min(self.samples, _IN_LOSS) if learns else self.samples

    def log_p_of_row(self, params, values, learnt, x, y, key):
        """log p(x|y, globals) of a row, by as many samples of its locals as in the loss."""
        _, log_weights = row_samples.samples(
            self, params, values, learnt, x, y, key, self.samples_in_loss
        )
        if len(log_weights) == 1:  # whose second derivatives a sum of exponentials rounds off
            return log_weights[0]
        return logsumexp(log_weights) - np.log(len(log_weights))

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
        drawing = Drawing(self.large_counts)
        sites = trace(self.program, self.argument(y), key, known, drawing=drawing)
        value = sites[self.observed]["value"]
        whole = not _is_float(value) and self._in_integers
        dtype = jnp.result_type(int) if whole else inputs.float_dtype((params, values))
        return value.reshape(self.event_shape).astype(dtype)

    def each_draw(self, function, params, size, axis=-1):
        """``function(i, values)`` of all draws of the globals, (draws, ...), so many at once.

        A draw's number i counts from 0, and its values come by site. ``axis`` is that of the draws:
        sums of an event's numbers run fastest over the last on a CPU, matrix products over the
        first.
        """
        draw = self.draw_of(params)

        def some(index):
            return jax.vmap(function, (0, axis))(index, jax.vmap(draw, out_axes=axis)(index))

        return in_blocks(some, self.count, size)

    def draw_of(self, params):
        """A function of a draw's number that returns its globals, by site."""
        draw = None
        if self.sites.globals:
            learnt = self.learnt(params)
            draw = self.posterior.draws_one_by_one(self, params["posterior"], learnt)
        if draw is not None:
            return draw
        values = self.values(params)
        return lambda i: jax.tree_util.tree_map(lambda v: v[i], values)

    def together(self, rows: int = blocks.ROWS) -> int:
        """Draws of the globals that are scored at once for so many rows."""
        return min(self.count, max(blocks.SCALARS // (rows * self.footprint), 1))

    @property
    def footprint(self) -> int:
        """Scalars that scoring a row for one draw of the globals holds at once."""
        return _scalars_of_row(self) * (self.samples if self.sites.locals else 1)

    def log_prob_each(self, params, x, y=None, rows: int = blocks.ROWS):
        """log p(x|y, globals) of each draw of the globals, (draws,): see ``log_weights_each``."""
        log_weights = self.log_weights_each(params, x, y, fixed_key(), rows)
        if log_weights.shape[1] == 1:
            return log_weights[:, 0]
        return logsumexp(log_weights, 1) - np.log(log_weights.shape[1])

    def log_weights_each(self, params, x, y, key, rows: int = blocks.ROWS):
        """Log weights of samples of the locals for each draw, (draws, K); (draws, 1) if exact.

        rows: how many are scored beside this one, at most; it bounds the memory.
        """
        learnt, keys = self.learnt(params), jax.random.split(key, self.count)
        modes = row_samples.row_modes(self, params, x, y, key)

        def of_draw(i, values):
            own = key if self.count == 1 and not values else keys[i]
            return row_samples.samples(
                self, params, values, learnt, x, y, own, self.samples, modes
            )[1]

        return self.each_draw(of_draw, params, self.together(rows))

    def latents(self, params, values, key, x, y=None, modes=None):
        """Locals of a row drawn given x and the globals, by site, and what is made of them.

        Continuous ones are resampled from the K samples. All are blank where x is impossible.
        ``modes`` are those of ``row_modes``.
        """
        learnt = self.learnt(params)
        of_samples, which, of_discrete, other = jax.random.split(key, 4)
        drawn, log_weights = row_samples.samples(
            self, params, values, learnt, x, y, of_samples, self.samples, modes
        )
        chosen = _choice(which, log_weights)
        drawn = jax.tree_util.tree_map(lambda v: v[chosen], drawn)
        local: dict[str, Any] = {}
        if self.sites.discrete:
            scores = jax.vmap(lambda own: sum(self._row(values, learnt, x, y, own, drawn)))(
                self.combinations
            )
            place = _choice(of_discrete, scores)
            local = {name: jnp.asarray(v)[place] for name, v in self.combinations.items()}
        value = self.observed_with_plate(x)[0]
        known = {**values, **learnt, **local, self.observed: value}
        place, given = _placing(drawn)[0], self.given(value)
        sites = trace(self.program, self.argument(y), other, known, place, given=given)
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
        return {s.name: row_samples.free_value(sites[s.name]) for s in self.sites.globals}

    def locals_draw(self, values, key, y=None):
        """Continuous locals of a row drawn from the prior, without constraints."""
        if not self.sites.locals:
            return {}
        sites = trace(self.program, self.argument(y), key, values)
        return {s.name: row_samples.free_value(sites[s.name]) for s in self.sites.locals}

    def log_joint(self, position, x, y, weights):
        """log p(x, locals | y, globals) p(globals) without constraints, of all rows."""
        learnt: dict = {}
        values, log_p, log_det = self.constrain(position["globals"], learnt)

        def of_row(x, y, weight, free):
            prior, joint = self.scores(values, learnt, x, y, {}, free)
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

    def argument(self, y):
        return 1 if self.y_shape is None else y[None]

    def _without_rows(self, known, place=None):
        rows = self.sites.row_names
        example = {name: self.sites.example[name] for name in rows}
        key = jnp.zeros(2, jnp.uint32)
        values, given = {**example, **known}, self.given(example[self.observed])
        return trace(self.program, self.sites.argument, key, values, place, given=given)

    def given(self, value):
        """The arguments that give a program the value of its observed site, if it takes it."""
        parameter = self.sites.parameter
        return {} if parameter is None else {parameter: value}

    def _log_prior(self, sites):
        rows = self.sites.row_names
        outside = [
            site for name, site in sites.items() if site["type"] == "sample" and name not in rows
        ]  # fmt: skip
        return sum(_scaled(site) for site in outside)

    def scores(self, values, learnt, x, y, local, free=None):
        """log p(locals) and log p(x, locals), the discrete ones summed over."""
        if not self.sites.discrete:
            prior, score = self._row(values, learnt, x, y, local, free)
            return prior, prior + score

        def of_one(combination):
            return self._row(values, learnt, x, y, {**local, **combination}, free)

        priors, scores = jax.vmap(of_one)(self.combinations)
        return logsumexp(priors), logsumexp(priors + scores)

    def _row(self, values, learnt, x, y, local, free=None):
        """log p(locals) and log p(x | locals) of a row; ``free`` locals are without constraints."""
        value, whole = self.observed_with_plate(x)
        known = {**values, **learnt, **local, self.observed: value}
        place, log_dets = _placing(free or {})
        key = jnp.zeros(2, jnp.uint32)
        given = self.given(value)
        sites = trace(self.program, self.argument(y), key, known, place, given=given)
        latent = (*self.sites.locals, *self.sites.discrete)
        prior = sum((self._log_prior_within(sites[s.name]) for s in latent), jnp.zeros((), float))
        site = sites[self.observed]
        score = log_prob_within(site["fn"], site["value"]).sum()
        return prior + sum(log_dets), jnp.where(whole, score, -jnp.inf)

    def _log_prior_within(self, site):
        """log p of a local; -inf where a discrete one cannot be so, given y."""
        if site["name"] in self.sites.varying:
            return log_prob_within(site["fn"], site["value"]).sum()
        return _log_p(site).sum()

    def observed_value(self, x):
        """The observed site's value of one row that is x, without the axis of the plate."""
        return _without_plate(self.observed_with_plate(x)[0], self.sites.observed)

    def observed_with_plate(self, x):
        """The observed site's value that is x, and whether it is whole where it must be."""
        site, whole = self.sites.observed, True
        if site.discrete:
            each = x == jnp.round(x)
            x, whole = jnp.where(each, x, -1), each.all()
            x = x.astype(jnp.result_type(int)) if self._in_integers else x
        return _with_plate(x, site), whole

    @property
    def _in_integers(self):
        """Whether JAX's integers hold every event, if it is whole numbers."""
        return self.sites.bounded or not self.large_counts


def _sizes(program):
    """How many values each discrete latent of a row can take."""
    known = {name: high - low + 1 for name, low, high in program.ranges or ()}
    sites = program.sites
    counts = {s.name: known.get(s.name, len(sites.levels[s.name])) for s in sites.discrete}
    return {s.name: counts[s.name] ** math.prod(s.shape) for s in sites.discrete}


@functools.lru_cache(maxsize=256)
def _combinations(program, dtype):
    levels = dict(program.sites.levels)
    for name, low, high in program.ranges or ():
        levels[name] = np.arange(low, high + 1, dtype=dtype)
    return combinations(program.sites.discrete, levels)


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


@functools.lru_cache(maxsize=256)
def _scalars_of_row(program):
    values, x, y, flat = row_samples.example_row(program)
    if program.sites.varying and program.ranges is None:
        return 1

    def score(values, row):
        x, y, flat = row
        return row_samples.density_of(program, values, {}, x, y)(flat)

    return max(blocks.scalars_of(score, values, (x, y, flat)), 1)


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


def _choice(key, log_weights):
    # JAX adds noise to the log weights, which would be rounded off beside large ones
    return jax.random.categorical(key, jax.nn.log_softmax(log_weights))


def _log_p(site):
    return site["fn"].log_prob(site["value"])


def _scaled(site):
    return _log_p(site).sum() * (1 if site["scale"] is None else site["scale"])


def _with_plate(value, site):
    return jnp.expand_dims(value, site.axis)


def _without_plate(value, site):
    return jnp.squeeze(value, site.axis)


def _is_float(value):
    return jnp.issubdtype(value.dtype, jnp.floating)
