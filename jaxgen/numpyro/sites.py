"""What a NumPyro program is made of: its sites, found by running it for a few rows."""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpyro import handlers
from numpyro.distributions import MaskedDistribution, biject_to, constraints

from jaxgen.numpyro.drawing import Drawing
from jaxgen.numpyro.function import Function

MOST_COMBINATIONS = 4096  # of values of discrete latents, summed over for each row


class Site(NamedTuple):
    """A site of a program that is run for one row."""

    name: str
    shape: tuple[int, ...]  # of a value, the plate's axis of one row included
    axis: int | None  # of the plate in it, from the end; None: outside of the plate
    free: tuple[int, ...]  # shape of a value without constraints; of a discrete one ()
    discrete: bool
    rsample: bool


class Sites(NamedTuple):
    """All that matter, by what they are."""

    globals: tuple[Site, ...]  # latent, outside of the plate
    locals: tuple[Site, ...]  # latent and continuous, within
    discrete: tuple[Site, ...]  # latent and discrete, within
    given: tuple[str, ...]  # observed outside of the plate, factors among them
    computed: tuple[str, ...]  # deterministic, of the globals alone
    deterministic: tuple[Site, ...]  # computed for each row
    combinations: dict[str, np.ndarray]  # all values that those can take together, (m, *shape)
    observed: Site
    params: dict[str, Any]  # of numpyro.param, the transforms to their constraints
    support: Any  # of one event
    argument: Any  # what the program is called with, where nothing but the globals is asked for
    other: Any  # another
    example: dict[str, np.ndarray]  # values of one row

    @property
    def event_shape(self):
        return _without(self.observed.shape, self.observed.axis)


class Asked(NamedTuple):
    """What the sites depend on, of a program's spec."""

    program: Function
    observed: str
    y_shape: tuple[int, ...] | None
    levels: int | None


def trace(
    program: Function, argument, key, values, substitute=None, drawing: Any = None
) -> dict[str, Any]:
    """The sites of one run.

    Args:
      program: the function.
      argument: what it is called with.
      key: a typed or raw PRNG key.
      values: of sites, by name.
      substitute: gives the value of another site, or None.
      drawing: handler that draws the rest; by default ``Drawing()``.
    """
    key = raw(key)

    def value_of(site):
        known = values.get(site["name"]) if site["type"] in ("sample", "param") else None
        return substitute(site) if known is None and substitute is not None else known

    put = handlers.substitute(substitute_fn=value_of)
    drawing = Drawing() if drawing is None else drawing
    with handlers.trace() as sites, drawing, handlers.seed(rng_seed=key), put:
        program.call(argument)
    return sites


def raw(key):
    """A key as NumPyro takes it."""
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        return key
    data = jax.random.key_data(key)
    return data if data.shape == (2,) else jax.random.bits(key, (2,), jnp.uint32)


def sites_of(asked: Asked) -> Sites:
    """The sites of a program.

    Raises:
      ValueError: the program cannot serve as a density of rows; the message names the site.
    """
    return _sites_of(asked, jnp.result_type(float))  # whose values are of other types with x64 on


@functools.lru_cache(maxsize=256)
def _sites_of(asked, dtype):
    with jax.ensure_compile_time_eval():
        return _Look(asked).sites()


class _Look:
    """Runs of a program for two rows, for three, and for the first of the three alone.

    They differ in y and in what is drawn, so what must not depend on either can be seen to.
    """

    def __init__(self, asked: Asked):
        self.asked = asked
        self.two = self._run(2, 0)
        self.params = {n: transform_of(s) for n, s in self.two.items() if s["type"] == "param"}
        self.other = three = self._run(3, 1, self._shifted())
        self.frame = self._frame(three)
        outside = [n for n, s in self.two.items() if s["type"] == "sample" and not self._within(s)]
        self.outside = [n for n in outside if not self.two[n]["is_observed"]]
        self.given = [n for n in outside if self.two[n]["is_observed"]]  # factors among them
        self._check_sites()
        self._check_shapes(three)
        # globals of one value, so that what hears of the rows can be told
        kept = {name: self.two[name]["value"] for name in self.outside}
        self.three = self._run(3, 1, kept)

    def fail(self, what: str, cause: Exception | None = None):
        raise ValueError(f"program {self.asked.program.name}: {what}") from cause

    def _argument(self, n, seed, row=None):
        """Of n rows, or of one of them alone."""
        asked = self.asked
        rows = slice(None) if row is None else slice(row, row + 1)
        if asked.y_shape is None:
            return n if row is None else 1
        if asked.levels is not None:
            return jnp.asarray(np.arange(n) % asked.levels, jnp.int32)[rows]
        y = np.random.default_rng(seed).uniform(0.1, 0.9, (n, *asked.y_shape))
        return jnp.asarray(y[rows], float)

    def _shifted(self):
        """Other values of the params."""
        return {
            name: jax.tree_util.tree_map(lambda v, t=t: t(t.inv(v) + 0.5), self.two[name]["value"])
            for name, t in self.params.items()
        }

    def _run(self, n, seed, values=None, row=None):
        argument = self._argument(n, seed, row)
        with self._telling():
            # by hand, an operation at a time, jax.random compiles the least
            plain = contextlib.nullcontext()
            key = jax.random.key(seed)
            return trace(self.asked.program, argument, key, values or {}, drawing=plain)

    @contextlib.contextmanager
    def _telling(self):
        """Errors of the program tell of it."""
        asked = self.asked
        try:
            yield
        except Exception as error:
            text = str(error).strip().split("\n")[0]
            if isinstance(error, NotImplementedError) and not text:
                self.fail(
                    "its sites must have proper distributions, which can be drawn from", error
                )
            if isinstance(error, AssertionError) and "unique name" in text:
                self.fail(f"two sites have one name: {text}", error)
            what = "the number of rows" if asked.y_shape is None else "y, rows leading,"
            hint = "; where y is a label, pass classes" if asked.y_shape == () else ""
            self.fail(
                f"it must run when called with {what} alone, yet raises {type(error).__name__}: "
                f"{text}{hint if asked.levels is None else ''}",
                error,
            )

    def _frame(self, three):
        """The plate of rows, as the observed site knows it."""
        asked, site = self.asked, self.two.get(self.asked.observed)
        samples = [n for n, s in self.two.items() if s["type"] == "sample"]
        if site is None or site["type"] != "sample":
            self.fail(f"it has no observed site {asked.observed!r}; its sample sites are {samples}")
        if site["is_observed"]:
            self.fail(
                f"site {asked.observed!r} must be free: let the program take {asked.observed}=None "
                f"and pass obs={asked.observed}"
            )
        sizes = {f.name: f.size for f in self._frames(three, asked.observed)}
        frames = self._frames(self.two, asked.observed)
        rows = [f for f in frames if (f.size, sizes.get(f.name)) == (2, 3)]
        if not rows:
            plates = [f"{f.name!r} of size {f.size}" for f in frames]
            self.fail(
                f"the observed site {asked.observed!r} must be within a plate over the rows, of "
                f"size 2 for 2 rows; it is within {plates or 'no plate'}"
            )
        if len(rows) > 1:
            names = [f.name for f in rows]
            self.fail(
                f"site {asked.observed!r} must be within one plate over the rows, not {names}"
            )
        return rows[0]

    def _frames(self, run, name):
        return run[name]["cond_indep_stack"] if name in run else ()

    def _within(self, site):
        return any(f.name == self.frame.name for f in site["cond_indep_stack"])

    def _check_sites(self):
        for name, site in self.two.items():
            if site["type"] == "plate" and site["args"][1] not in (None, site["args"][0]):
                self.fail(
                    f"plate {name!r} must have no subsample_size: fit chooses the minibatches"
                )
            if site["type"] == "param" and self._within(site):
                self.fail(f"param {name!r} must be outside of the plate {self.frame.name!r}")
            if site["type"] != "sample":
                continue
            if site["is_observed"] and self._within(site):
                self.fail(
                    f"site {name!r} in the plate {self.frame.name!r} is observed too; the rows' "
                    f"density is of {self.asked.observed!r} alone"
                )
            scaled = site["scale"] is not None and np.any(np.asarray(site["scale"]) != 1)
            if self._within(site) and (scaled or isinstance(site["fn"], MaskedDistribution)):
                what = "scaled" if scaled else "masked"
                self.fail(
                    f"site {name!r} must not be {what}: its density would not add up to one; to "
                    "leave rows out, or to weigh them, give fit the weights"
                )
            if not self._within(site) and not site["is_observed"] and site["fn"].is_discrete:
                self.fail(
                    f"latent {name!r} is discrete and outside of the plate {self.frame.name!r}: "
                    "no gradient can fit it"
                )

    def _check_shapes(self, three):
        if list(self.two) != list(three):
            only = sorted(set(self.two) ^ set(three))
            self.fail(f"its sites must not depend on the rows, but these come and go: {only}")
        for name, site in self.two.items():
            shapes = [_shapes(run[name]["value"]) for run in (self.two, three)]
            what = "param" if site["type"] == "param" else "latent"
            if (name in self.outside or what == "param") and shapes[0] != shapes[1]:
                self.fail(
                    f"{what} {name!r} is outside of the plate {self.frame.name!r}, yet its shape "
                    f"varies with the rows: {shapes[0]} for 2, {shapes[1]} for 3"
                )
            if site["type"] == "sample" and self._within(site):
                shapes = [self._site(run, n, name).shape for run, n in ((self.two, 2), (three, 3))]
                if shapes[0] != shapes[1]:
                    self.fail(
                        f"site {name!r} must have one shape for a row, whatever their number; got "
                        f"{shapes[0]} of 2 rows, {shapes[1]} of 3"
                    )

    def sites(self) -> Sites:
        two, asked = self.two, self.asked
        for name in (*self.outside, *self.given):
            self._check_apart(name)
        within = [
            n for n, s in two.items()
            if s["type"] == "sample" and self._within(s) and n != asked.observed
        ]  # fmt: skip
        each = {name: self._site(two, 2, name) for name in [*self.outside, *within, asked.observed]}
        discrete = tuple(each[n] for n in within if each[n].discrete)
        argument, other = (
            1 if asked.y_shape is None else np.asarray(self._argument(3, 1, row)) for row in (0, 1)
        )
        found = Sites(
            tuple(each[n] for n in self.outside),
            tuple(each[n] for n in within if not each[n].discrete),
            discrete,
            tuple(self.given),
            self._computed(),
            self._deterministic(),
            self._combinations(discrete),
            each[asked.observed],
            self.params,
            self._support(),
            argument,
            other,
            {},
        )
        self._check_row(found, 2)
        found = found._replace(example=self._check_row(found, 0))
        self._check_traceable(argument)
        return found

    def _check_traceable(self, argument):
        """The program must run with values that are not known yet, as they are in a compilation."""
        params = {n: jax.tree_util.tree_map(jnp.asarray, self.two[n]["value"]) for n in self.params}

        def run(y, key, params):
            return _values(trace(self.asked.program, argument if y is None else y, key, params))

        y = None if self.asked.y_shape is None else argument
        with self._telling():
            jax.eval_shape(run, y, jax.random.key(0), params)

    def _check_apart(self, name):
        """A site outside of the plate must not hear of the rows."""
        two, three = (_score(run[name]) for run in (self.two, self.three))
        if np.shape(two) != np.shape(three) or not _close(two, three):
            what = "latent" if name in self.outside else "observed site or factor"
            self.fail(
                f"{what} {name!r} is outside of the plate {self.frame.name!r}, yet its "
                "distribution depends on the rows or their number"
            )

    def _check_row(self, found: Sites, row: int):
        """Values of a row of the three, whose density must not hear of its place or the others."""
        values = {n: s["value"] for n, s in self.three.items() if s["type"] == "sample"}
        for site in (*found.locals, *found.discrete, found.observed):
            values[site.name] = jnp.take(values[site.name], np.array([row]), axis=site.axis)
        alone = self._run(3, 1, values, row)
        for site in (*found.locals, *found.discrete, found.observed):
            scores = [_score(run[site.name]) for run in (self.three, alone)]
            axis = self.frame.dim
            own = np.take(scores[0], [row], axis=axis) if np.ndim(scores[0]) >= -axis else scores[0]
            if not _close(own, scores[1], rtol=1e-3):  # computed in another shape
                self.fail(
                    f"site {site.name!r} of row {row} depends on its place or on other rows: its "
                    f"log p is {np.ravel(own)[:3]} among them, {np.ravel(scores[1])[:3]} alone"
                )
        return {n: np.asarray(s["value"]) for n, s in alone.items() if s["type"] == "sample"}

    def _site(self, run, n, name) -> Site:
        site = run[name]
        fn, shape = site["fn"], jnp.shape(site["value"])
        axis = None
        if self._within(site):
            axis = self.frame.dim - fn.event_dim
            if len(shape) < -axis or shape[axis] != n:
                self.fail(
                    f"site {name!r} must have a value for each row, got shape {shape} for {n}"
                )
        place = None if axis is None else len(shape) + axis
        one = functools.partial(_of_one, place=place)
        if fn.is_discrete or name == self.asked.observed:
            return Site(name, one(shape), axis, (), fn.is_discrete, bool(fn.has_rsample))
        free = tuple(biject_to(fn.support).inverse_shape(shape))
        return Site(name, one(shape), axis, one(free), False, bool(fn.has_rsample))

    def _computed(self):
        """Deterministic sites that are the same whatever the rows."""
        pairs = {n: (s["value"], self.three[n]["value"]) for n, s in self.two.items()
                 if s["type"] == "deterministic" and n in self.three}  # fmt: skip
        return tuple(
            name for name, (two, three) in pairs.items()
            if jnp.shape(two) == jnp.shape(three) and _close(two, three)
        )  # fmt: skip

    def _deterministic(self):
        """Sites of ``numpyro.deterministic`` with a value for each row: an axis grows with them."""
        found = []
        for name, site in self.two.items():
            if site["type"] != "deterministic":
                continue
            two, three = (jnp.shape(run[name]["value"]) for run in (self.two, self.three))
            grows = [i for i, sizes in enumerate(zip(two, three, strict=False)) if sizes == (2, 3)]
            if len(two) == len(three) and len(grows) == 1:
                (place,) = grows
                found.append(Site(name, _of_one(two, place), place - len(two), (), False, False))
        return tuple(found)

    def _combinations(self, discrete):
        values = []
        for site in discrete:
            fn = self.two[site.name]["fn"]
            if not fn.has_enumerate_support or fn.event_dim:
                self.fail(f"latent {site.name!r} is discrete, yet its values cannot be enumerated")
            two, three = (self._enumerated(run, site.name) for run in (self.two, self.three))
            if not np.array_equal(two, three):
                self.fail(f"latent {site.name!r} must be able to take the same values for all rows")
            values.append(two)
        count = math.prod(
            len(v) ** math.prod(s.shape) for v, s in zip(values, discrete, strict=True)
        )
        if count > MOST_COMBINATIONS:
            names = [site.name for site in discrete]
            self.fail(
                f"the discrete latents {names} of a row take {count} values together, more than "
                f"the {MOST_COMBINATIONS} that can be summed over"
            )
        singles = [
            list(itertools.product(v, repeat=math.prod(s.shape)))
            for v, s in zip(values, discrete, strict=True)
        ]
        together = list(itertools.product(*singles))
        return {
            site.name: np.array([c[i] for c in together]).reshape(-1, *site.shape)
            for i, site in enumerate(discrete)
        }

    def _enumerated(self, run, name):
        return np.ravel(run[name]["fn"].enumerate_support(expand=False))

    def _support(self):
        """The support of one event: the observed site's, without what its parameters decide."""
        asked = self.asked
        fns = [run[asked.observed]["fn"] for run in (self.two, self.other)]
        plain = [_base(fn.support) for fn in fns]
        dims = len(jnp.shape(self.two[asked.observed]["value"])) - 1
        bounds = [jax.tree_util.tree_leaves(p) for p in plain]
        same = len(bounds[0]) == len(bounds[1]) and all(
            np.array_equal(a, b) and np.ndim(a) == 0 for a, b in zip(*bounds, strict=True)
        )
        base = plain[0]
        if not same:
            base = constraints.integer_greater_than(-(2**31)) if fns[0].is_discrete else None
            base = constraints.real if base is None else base
        return constraints.independent(base, dims - base.event_dim)


def transform_of(site):
    """From real numbers to the values that a ``numpyro.param`` site may have."""
    return biject_to(site["kwargs"].get("constraint", constraints.real))


def _base(support):
    while isinstance(support, type(constraints.independent(constraints.real, 1))):
        support = support.base_constraint
    return support


def _without(shape, axis):
    return tuple(np.delete(np.array(shape, int), axis).tolist())


def _of_one(shape, place):
    return shape if place is None else (*shape[:place], 1, *shape[place + 1 :])


def _values(sites):
    return [site["value"] for site in sites.values() if site["type"] == "sample"]


def _close(one, other, rtol=1e-4):
    return np.allclose(one, other, rtol=rtol, atol=rtol / 10, equal_nan=True)


def _shapes(tree):
    return [jnp.shape(leaf) for leaf in jax.tree_util.tree_leaves(tree)]


def _score(site):
    return np.asarray(site["fn"].log_prob(site["value"]))
