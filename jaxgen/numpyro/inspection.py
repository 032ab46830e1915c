"""The sites of a NumPyro program, found by running it for a few rows of made-up data.

The runs show shapes, plates and what a program is made of; ``data_check`` runs it again with the
real data before a fit.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
from collections import OrderedDict
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import (
    Delta,
    Distribution,
    ExpandedDistribution,
    Independent,
    MaskedDistribution,
    biject_to,
    constraints,
)

from jaxgen.core.promotion import standard_promotion
from jaxgen.networks.domains import Circle, Interval, Levels, Positive, each
from jaxgen.numpyro.indices import follows
from jaxgen.numpyro.likelihood import is_masked
from jaxgen.numpyro.runs import evaluated, example_value, trace, transform_of
from jaxgen.numpyro.sites import ProgramSignature, Site, Sites
from jaxgen.numpyro.support import bounds_of, entry_of

MOST_COMBINATIONS = 4096  # of values of discrete latents, summed over for each row


@standard_promotion
def sites_of(signature: ProgramSignature) -> Sites:
    """The sites of a program.

    Raises:
      ValueError: the program cannot serve as a density of rows; the message names the site.
    """
    # whose values are of other types with x64 on
    return _sites_of(signature, jnp.result_type(float))


@functools.lru_cache(maxsize=256)
def _sites_of(signature, dtype):
    with jax.core.eval_context():
        try:
            return _Inspection(signature).sites()
        except ValueError as error:
            known = signature.classes is not None or signature.y_domain is not None
            if signature.y_shape is None or known or error.__cause__ is None:
                raise
            with contextlib.suppress(ValueError):  # y may be the index of a group
                return _Inspection(signature, whole=True).sites()
            raise


def check_count(fail, sizes: dict[str, int]) -> None:
    """Raise where the discrete latents of a row take too many values together."""
    count = math.prod(sizes.values())
    if count > MOST_COMBINATIONS:
        fail(
            f"the discrete latents {list(sizes)} of a row take {count} values together, more than "
            f"the {MOST_COMBINATIONS} that can be summed over"
        )


def combinations(discrete: tuple[Site, ...], levels) -> dict[str, np.ndarray]:
    """All values that discrete latents can take together, by site, each (m, *shape)."""
    singles = [list(itertools.product(levels[s.name], repeat=math.prod(s.shape))) for s in discrete]
    together = list(itertools.product(*singles))
    return {
        site.name: np.array([c[i] for c in together]).reshape(-1, *site.shape)
        for i, site in enumerate(discrete)
    }


class _RunInputs(NamedTuple):
    """What a run starts from."""

    shift: float  # of the values that are made up
    y: Any  # None where it takes the number of rows


class _TracedSite(NamedTuple):
    """A site of a run, and what is asked of its distribution."""

    type: str
    value: Any
    shapes: list[tuple[int, ...]]  # of the value's leaves
    frames: Any  # plates that it is within
    sizes: Any = None  # of a plate: its own and that of a subsample
    transform: Any = None  # of a param
    observed: bool = False
    scale: Any = None
    masked: bool = False
    discrete: bool = False
    rsample: bool = False
    event_dim: int = 0
    free: tuple[int, ...] = ()  # shape of a continuous latent's value without constraints
    bounds: Any = None  # least and largest value of a discrete site, None where there is no end
    levels: Any = None  # all values of a discrete latent without bounds, None where unknown
    support: Any = None  # of the site that is x
    log_p: Any = None
    log_p_free: Any = None  # in a run without x
    given: Any = None  # the x that the program was given, and the value that it observed


class _Inspection:
    """Runs of a program for two rows, for three, and for two of the three alone.

    They differ in y and in the values of sites, so what must not depend on either is compared.
    """

    def __init__(self, signature: ProgramSignature, whole: bool = False):
        self.signature, self.whole = signature, whole
        self.parameter: str | None = None  # through which the program is given x
        self.parameters = signature.program.parameters(signature.observed)
        of_two, of_three = self._run_inputs(2, 0), self._run_inputs(3, 1)
        self.two, self.other, self.frame = evaluated(self._apart, of_two, of_three)
        self.params = {n: s.transform for n, s in self.two.items() if s.type == "param"}
        outside = [n for n, s in self.two.items() if s.type == "sample" and not self._within(s)]
        self.outside = [n for n in outside if not self.two[n].observed]
        self.given = [n for n in outside if self.two[n].observed]  # factors among them
        self._check_sites()
        self._check_shapes()
        within = [n for n, s in self.two.items() if s.type == "sample" and self._within(s)]
        self.rows = {name: self._site(self.two, 2, name) for name in within}
        # globals of one value, so that sites which depend on other rows differ
        kept = {name: self.two[name].value for name in self.outside}
        self.three, self.alone = evaluated(self._together, of_three, kept)

    def _apart(self, of_two, of_three):
        """Two rows; three, of other globals and params; and the plate of rows."""
        two = self._with_x(2, of_two)
        shifted = {
            name: jax.tree_util.tree_map(
                lambda v, t=site.transform: t(t.inv(jnp.asarray(v)) + 0.5), site.value
            )
            for name, site in two.items()
            if site.type == "param"
        }
        other = self._with_x(3, of_three, shifted)
        frame = self._frame(two, other)
        # what nobody asks for need not be compiled
        bare = ((name, site._replace(value=None)) for name, site in other.items())
        return two, OrderedDict(bare), frame

    def _together(self, inputs, kept):
        """Three rows, and the last and the first of them alone."""
        three = self._with_x(3, inputs, kept)
        alone = {}
        for row in (2, 0):
            values = {n: s.value for n, s in three.items() if s.type == "sample"}
            for name, site in self.rows.items():
                values[name] = jnp.take(values[name], np.array([row]), axis=site.axis)
            own = inputs if inputs.y is None else inputs._replace(y=inputs.y[row : row + 1])
            alone[row] = self._run(1, own, values, values[self.signature.observed])
        return three, alone

    def fail(self, what: str, cause: Exception | None = None):
        raise ValueError(f"program {self.signature.program.name}: {what}") from cause

    def _run_inputs(self, n, seed) -> _RunInputs:
        signature = self.signature
        if signature.y_shape is None:
            return _RunInputs(seed / 3, None)
        if signature.classes is not None:
            return _RunInputs(seed / 3, (np.arange(n) % signature.classes).astype(np.int32))
        shape = (n, *signature.y_shape)
        y = np.random.default_rng(seed).uniform(0.1, 0.9, shape)
        if self.whole:
            return _RunInputs(seed / 3, np.zeros(shape, np.int32))
        if signature.y_domain is not None:
            y = _in_domain(signature.y_domain, y)
        return _RunInputs(seed / 3, y if y.dtype == np.int32 else y.astype(jnp.result_type(float)))

    def _run(self, n, inputs: _RunInputs, values, x=None) -> OrderedDict[str, _TracedSite]:
        """One run; x is the value of the observed site where the program is given it."""
        argument = n if inputs.y is None else inputs.y
        given = {} if x is None or self.parameter is None else {self.parameter: x}
        if given:
            values = {n: v for n, v in values.items() if n != self.signature.observed}
        key = np.zeros(2, np.uint32)
        make = functools.partial(example_value, shift=inputs.shift)
        with self._errors_of_program(bool(given)):
            sites = trace(self.signature.program, argument, key, values, make, given=given)
            # ordered, for JAX sorts the keys of other dictionaries
            return OrderedDict((name, self._traced(name, site)) for name, site in sites.items())

    def _with_x(self, n, inputs, values=None) -> OrderedDict[str, _TracedSite]:
        """A run in which the program is given x, as when it is scored."""
        values, observed = values or {}, self.signature.observed
        free = self._run(n, inputs, values)
        self._check_observed(free)
        known = {name: site.value for name, site in free.items() if site.type == "sample"}
        run = self._given(n, inputs, {**values, **known}, free[observed].value)
        if run is None:
            return free
        x = run[observed]
        run[observed] = x._replace(observed=False, given=(free[observed].value, x.value))
        for name, site in free.items():
            if site.type == "sample" and name not in run:
                self.fail(f"site {name!r} must be there whether {self.parameter} is given or not")
            if site.type == "sample" and not site.observed:
                run[name] = run[name]._replace(log_p_free=site.log_p)
        return run

    def _given(self, n, inputs, values, x):
        """A run in which a parameter gives the program x, or None if none does."""
        observed, error = self.signature.observed, None
        for name in self.parameters:
            self.parameter = name
            try:
                run = self._run(n, inputs, values, x)
            except ValueError as raised:  # the parameter may be another's
                error = raised if self.parameter == observed else error
                continue
            if observed in run and run[observed].observed:
                self.parameters = [self.parameter]
                return run
        self.parameter, self.parameters = None, []
        if error is not None and self.signature.program.has_named(observed):
            raise error
        return None

    def _traced(self, name, site) -> _TracedSite:
        kind, value = site["type"], site["value"]
        seen = _TracedSite(kind, value, _shapes(value), site.get("cond_indep_stack", ()))
        if kind == "plate":
            return seen._replace(sizes=site["args"])
        if kind == "param":
            return seen._replace(transform=transform_of(site))
        if kind != "sample":
            return seen
        fn, is_x = site["fn"], name == self.signature.observed
        if isinstance(_unwrapped(fn), Delta) and not site["is_observed"]:
            self.fail(f"site {name!r} must not be a Delta, which has no density: compute the value")
        if not site["is_observed"] and type(_unwrapped(fn)).sample is Distribution.sample:
            self.fail(f"site {name!r} must have a proper distribution, which can be drawn from")
        seen = seen._replace(
            observed=site["is_observed"],
            scale=site["scale"],
            masked=is_masked(fn),
            discrete=fn.is_discrete,
            rsample=bool(fn.has_rsample),
            event_dim=fn.event_dim,
            support=entry_of(fn.support) if is_x else None,
            log_p=fn.log_prob(value),
        )
        if is_x or seen.observed:
            return seen._replace(bounds=bounds_of(fn.support) if seen.discrete else None)
        if not seen.discrete:
            return seen._replace(free=tuple(biject_to(fn.support).inverse_shape(jnp.shape(value))))
        bounds = bounds_of(fn.support)
        if fn.event_dim or bounds is not None:
            return seen._replace(bounds=None if fn.event_dim else bounds)
        if fn.has_enumerate_support:
            return seen._replace(levels=jnp.ravel(fn.enumerate_support(expand=False)))
        return seen

    @contextlib.contextmanager
    def _errors_of_program(self, given: bool):
        """Errors that the program raises become errors that name it."""
        signature = self.signature
        try:
            yield
        except Exception as error:
            text = str(error).strip().split("\n")[0]
            if isinstance(error, AssertionError) and "unique name" in text:
                self.fail(f"two sites have one name: {text}", error)
            what = "the number of rows" if signature.y_shape is None else "y, rows leading,"
            if given:
                what = f"{what.strip(',')} and {self.parameter}"
            hint = ""
            if signature.y_shape is not None and signature.y_domain is None:
                hint = "; made-up numbers between 0 and 1 took the place of y: pass y_domain"
            if signature.y_shape == () and signature.y_domain is None:
                hint += ", or classes where y is a label"
            self.fail(
                f"it must run when called with {what}{'' if given else ' alone'}, yet raises "
                f"{type(error).__name__}: {text}{hint if signature.classes is None else ''}",
                error,
            )

    def _check_observed(self, run):
        observed = self.signature.observed
        site = run.get(observed)
        samples = [name for name, s in run.items() if s.type == "sample"]
        if site is None or site.type != "sample":
            self.fail(f"it has no observed site {observed!r}; its sample sites are {samples}")
        if site.observed:
            self.fail(
                f"site {observed!r} must be free: let the program take {observed}=None and pass "
                f"obs={observed}"
            )

    def _frame(self, two, three):
        """The plate of rows, as the observed site knows it."""
        observed = self.signature.observed
        others = three[observed].frames if observed in three else ()
        sizes = {f.name: f.size for f in others}
        frames = two[observed].frames
        rows = [f for f in frames if (f.size, sizes.get(f.name)) == (2, 3)]
        if not rows:
            plates = [f"{f.name!r} of size {f.size}" for f in frames]
            self.fail(
                f"the observed site {observed!r} must be within a plate over the rows, of size 2 "
                f"for 2 rows; it is within {plates or 'no plate'}"
            )
        if len(rows) > 1:
            names = [f.name for f in rows]
            self.fail(f"site {observed!r} must be within one plate over the rows, not {names}")
        return rows[0]

    def _within(self, site):
        return any(f.name == self.frame.name for f in site.frames)

    def _check_sites(self):
        for name, site in self.two.items():
            if site.type == "plate" and site.sizes[1] not in (None, site.sizes[0]):
                self.fail(
                    f"plate {name!r} must have no subsample_size: fit chooses the minibatches"
                )
            if site.type == "param" and self._within(site):
                self.fail(f"param {name!r} must be outside of the plate {self.frame.name!r}")
            if site.type != "sample":
                continue
            if site.observed and self._within(site):
                self.fail(
                    f"site {name!r} in the plate {self.frame.name!r} is observed too; the rows' "
                    f"density is of {self.signature.observed!r} alone"
                )
            scaled = site.scale is not None and np.any(np.asarray(site.scale) != 1)
            if self._within(site) and scaled:
                self.fail(
                    f"site {name!r} must not be scaled: its density would not add up to one; to "
                    "weigh rows, give fit the weights"
                )
            if self._within(site) and site.masked and name != self.signature.observed:
                self.fail(
                    f"latent {name!r} must not be masked: it would have no density; mask the "
                    f"observed site {self.signature.observed!r} alone"
                )
            if not self._within(site) and not site.observed and site.discrete:
                self.fail(
                    f"latent {name!r} is discrete and outside of the plate {self.frame.name!r}: "
                    "no gradient can fit it"
                )

    def _check_shapes(self):
        two, three = self.two, self.other
        if list(two) != list(three):
            only = sorted(set(two) ^ set(three))
            self.fail(f"its sites must not depend on the rows, but these come and go: {only}")
        for name, site in two.items():
            shapes = [run[name].shapes for run in (two, three)]
            what = "param" if site.type == "param" else "latent"
            if (name in self.outside or what == "param") and shapes[0] != shapes[1]:
                self.fail(
                    f"{what} {name!r} is outside of the plate {self.frame.name!r}, yet its shape "
                    f"varies with the rows: {shapes[0]} for 2, {shapes[1]} for 3"
                )
            if site.type == "sample" and self._within(site):
                shapes = [self._site(run, n, name).shape for run, n in ((two, 2), (three, 3))]
                if shapes[0] != shapes[1]:
                    self.fail(
                        f"site {name!r} must have one shape for a row, whatever their number; got "
                        f"{shapes[0]} of 2 rows, {shapes[1]} of 3"
                    )

    def sites(self) -> Sites:
        for name in (*self.outside, *self.given):
            self._check_apart(name)
        observed = self.signature.observed
        latent = [site for name, site in self.rows.items() if name != observed]
        discrete = tuple(site for site in latent if site.discrete)
        levels, varying = self._levels(discrete)
        y = self._run_inputs(3, 1).y
        argument, other = (1 if y is None else y[row : row + 1] for row in (0, 1))
        alone = {n: s for n, s in self.alone[0].items() if s.type == "sample"}
        found = Sites(
            tuple(self._site(self.two, 2, name) for name in self.outside),
            tuple(site for site in latent if not site.discrete),
            discrete,
            tuple(self.given),
            self._computed(),
            self._deterministic(),
            levels,
            varying,
            self.rows[observed],
            not self.two[observed].discrete or self.two[observed].bounds is not None,
            self.parameter,
            self.params,
            self._support(),
            argument,
            other,
            {n: np.asarray(s.value) for n, s in alone.items()},
            {n: float(np.sum(s.log_p)) for n, s in alone.items()},
        )
        self._check_given()
        for row in (2, 0):
            self._check_row(row)
        self._check_free()
        return found

    def _check_apart(self, name):
        """A site outside of the plate must not depend on the rows."""
        two, three = (run[name].log_p for run in (self.two, self.three))
        if np.shape(two) != np.shape(three) or not _close(two, three):
            what = "latent" if name in self.outside else "observed site or factor"
            self.fail(
                f"{what} {name!r} is outside of the plate {self.frame.name!r}, yet its "
                "distribution depends on the rows or their number"
            )

    def _check_given(self):
        """The program must observe x as it is given."""
        observed, parameter = self.signature.observed, self.parameter
        if parameter is None:
            return
        given, value = self.two[observed].given
        if np.shape(given) != np.shape(value) or not _close(given, value):
            self.fail(
                f"site {observed!r} must be observed as {parameter} is given, yet the program "
                f"changes {np.ravel(given)[:3]} into {np.ravel(value)[:3]}; change it beforehand"
            )

    def _check_free(self):
        """The program must have one density with x and without."""
        parameter = self.parameter
        for name, site in self.two.items():
            if site.log_p_free is not None and not _close(site.log_p_free, site.log_p):
                self.fail(
                    f"site {name!r} must have one distribution whether {parameter} is given or "
                    f"not: its log p is {np.ravel(site.log_p)[:3]} with {parameter}, "
                    f"{np.ravel(site.log_p_free)[:3]} without"
                )

    def _check_row(self, row: int):
        """The density of a row must not depend on its place or on other rows."""
        for name in self.rows:
            among, alone = (np.asarray(run[name].log_p) for run in (self.three, self.alone[row]))
            axis = self.frame.dim
            own = np.take(among, [row], axis=axis) if np.ndim(among) >= -axis else among
            if not _close(own, alone, rtol=1e-3):  # computed in another shape
                self.fail(
                    f"site {name!r} of row {row} depends on its place or on other rows: its "
                    f"log p is {np.ravel(own)[:3]} among them, {np.ravel(alone)[:3]} alone"
                )

    def _site(self, run, n, name) -> Site:
        site = run[name]
        (shape,) = site.shapes
        axis = None
        if self._within(site):
            axis = self.frame.dim - site.event_dim
            if len(shape) < -axis or shape[axis] != n:
                self.fail(
                    f"site {name!r} must have a value for each row, got shape {shape} for {n}"
                )
        place = None if axis is None else len(shape) + axis
        one = functools.partial(_of_one, place=place)
        if site.discrete or name == self.signature.observed:
            return Site(name, one(shape), axis, (), site.discrete, site.rsample)
        return Site(name, one(shape), axis, one(site.free), False, site.rsample)

    def _computed(self):
        """Deterministic sites that are the same whatever the rows."""
        pairs = {n: (s.value, self.three[n].value) for n, s in self.two.items()
                 if s.type == "deterministic" and n in self.three}  # fmt: skip
        return tuple(
            name for name, (two, three) in pairs.items()
            if jnp.shape(two) == jnp.shape(three) and _close(two, three)
        )  # fmt: skip

    def _deterministic(self):
        """Sites of ``numpyro.deterministic`` with a value for each row: an axis grows with them."""
        found = []
        for name, site in self.two.items():
            if site.type != "deterministic":
                continue
            two, three = (jnp.shape(run[name].value) for run in (self.two, self.three))
            grows = [i for i, sizes in enumerate(zip(two, three, strict=False)) if sizes == (2, 3)]
            if len(two) == len(three) and len(grows) == 1:
                (place,) = grows
                found.append(Site(name, _of_one(two, place), place - len(two), (), False, False))
        return tuple(found)

    def _levels(self, discrete):
        """The values that discrete latents can take, and which of them depend on y."""
        levels, varying = {}, []
        following = self._following([site.name for site in discrete])
        for site in discrete:
            runs = [run[site.name] for run in (self.two, self.other, self.three)]
            if runs[0].bounds is None:
                if runs[0].levels is None:
                    self.fail(
                        f"latent {site.name!r} is discrete, yet its values cannot be enumerated"
                    )
                if any(not np.array_equal(runs[0].levels, run.levels) for run in runs):
                    self.fail(
                        f"latent {site.name!r} must be able to take the same values for all rows"
                    )
                levels[site.name] = np.asarray(runs[0].levels)
                continue
            ends = [np.stack(np.broadcast_arrays(*run.bounds)) for run in runs]
            low, high = min(np.min(e[0]) for e in ends), max(np.max(e[1]) for e in ends)
            if site.name in following:
                varying.append(site.name)
            elif any(np.any(e[0] != low) or np.any(e[1] != high) for e in ends):
                self.fail(f"latent {site.name!r} must be able to take the same values for all rows")
            levels[site.name] = np.arange(low, high + 1, dtype=jnp.result_type(int))
        check_count(
            self.fail, {s.name: len(levels[s.name]) ** math.prod(s.shape) for s in discrete}
        )
        return levels, tuple(varying)

    def _following(self, names):
        """The discrete latents whose least or largest value follows from y."""
        names = [name for name in names if self.two[name].bounds is not None]
        each = self._follow(names, lambda site: site.bounds)
        return {name for name, own in zip(names, each, strict=True) if own}

    def _follow(self, names, part):
        """Whether a part of each of those sites follows from y."""
        inputs = self._run_inputs(2, 0)
        if inputs.y is None or not names:
            return [False] * len(names)
        run = lambda y: self._run(2, inputs._replace(y=y), {})  # noqa: E731
        return [
            any(
                follows(
                    lambda y, name=name: jax.tree_util.tree_leaves(part(run(y)[name])), inputs.y
                )
            )
            for name in names
        ]

    def _support(self):
        """The support of one event: the observed site's, without what its parameters decide."""
        observed = self.signature.observed
        x = self.two[observed]
        plain = [x.support, self.other[observed].support]
        dims = len(x.shapes[0]) - 1
        bounds = [jax.tree_util.tree_leaves(p) for p in plain]
        same = len(bounds[0]) == len(bounds[1]) and all(
            np.array_equal(a, b) and np.ndim(a) == 0 for a, b in zip(*bounds, strict=True)
        )
        if same and any(isinstance(v, jax.Array) for v in bounds[0]):  # not written as a number
            same = not any(self._follow([observed], lambda site: site.support))
        base = plain[0]
        if not same:
            base = constraints.integer_greater_than(-(2**31)) if x.discrete else None
            base = constraints.real if base is None else base
        return constraints.independent(base, dims - base.event_dim)


def _in_domain(domains, y):
    """Numbers y between 0 and 1 moved into their domains."""
    shape = y.shape
    y = y.reshape(len(y), -1)
    columns = []
    for domain, own in zip(each(domains, y.shape[1], "y_domain"), y.T, strict=True):
        if isinstance(domain, Interval | Circle):
            own = domain.low + (domain.high - domain.low) * own
        elif isinstance(domain, Levels):
            own = np.floor(own * domain.count)
        elif not isinstance(domain, Positive):
            own = own - 0.5
        columns.append(own)
    y = np.stack(columns, 1).reshape(shape)
    return y.astype(np.int32) if all(isinstance(d, Levels) for d in domains) else y


def _unwrapped(fn):
    while isinstance(fn, Independent | ExpandedDistribution | MaskedDistribution):
        fn = fn.base_dist
    return fn


def _of_one(shape, place):
    return shape if place is None else (*shape[:place], 1, *shape[place + 1 :])


def _close(one, other, rtol=1e-4):
    return np.allclose(one, other, rtol=rtol, atol=rtol / 10, equal_nan=True)


def _shapes(tree):
    return [jnp.shape(leaf) for leaf in jax.tree_util.tree_leaves(tree)]
