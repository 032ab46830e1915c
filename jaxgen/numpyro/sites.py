"""What a NumPyro program is made of: its sites, found by running it for a few rows."""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpyro import handlers
from numpyro.distributions import MaskedDistribution, biject_to, constraints
from numpyro.primitives import Messenger

from jaxgen.numpyro.drawing import Drawing
from jaxgen.numpyro.function import Function
from jaxgen.promotion import standard_promotion

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


@standard_promotion
def sites_of(asked: Asked) -> Sites:
    """The sites of a program.

    Raises:
      ValueError: the program cannot serve as a density of rows; the message names the site.
    """
    return _sites_of(asked, jnp.result_type(float))  # whose values are of other types with x64 on


_TRACED = object()


def evaluated(fn: Callable, *args: Any) -> Any:
    """``fn(*args)`` by one compiled program, which takes less time than an operation at a time.

    Of the pytree that it returns, parts without traced arrays are given back as they are.
    """
    known: list[Any] = []
    tree: Any = None

    def run(*args):
        nonlocal known, tree
        parts, tree = jax.tree_util.tree_flatten(fn(*args), lambda v: not _is_traced(v))
        known = [_TRACED if _is_traced(part) else part for part in parts]
        return [part for part in parts if _is_traced(part)]

    values = iter(jax.jit(run)(*args))
    parts = [next(values) if part is _TRACED else part for part in known]
    return jax.tree_util.tree_unflatten(tree, parts)


def _is_traced(tree):
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree_util.tree_leaves(tree))


@functools.lru_cache(maxsize=256)
def _sites_of(asked, dtype):
    with jax.core.eval_context():
        try:
            return _Look(asked).sites()
        except jax.errors.ConcretizationTypeError:
            # what the values of a discrete latent follow from must be known
            return _Look(asked, evaluate=lambda fn, *args: fn(*args)).sites()


class _RunInputs(NamedTuple):
    """What a run starts from."""

    key: Any
    y: Any  # None where it takes the number of rows


class _Seen(NamedTuple):
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
    levels: Any = None  # all values of a discrete latent, None where they are unknown
    support: Any = None  # of the site that is x
    log_p: Any = None


class _Params(Messenger):
    """Gives a program its params as JAX's arrays, as a fit will, though they start as NumPy's."""

    def postprocess_message(self, msg):
        if msg["type"] == "param":
            msg["value"] = jax.tree_util.tree_map(jnp.asarray, msg["value"])


class _Look:
    """Runs of a program for two rows, for three, and for two of the three alone.

    They differ in y and in what is drawn, so what must not depend on either is compared.
    """

    def __init__(self, asked: Asked, evaluate: Callable = evaluated):
        self.asked = asked
        of_two, of_three = self._run_inputs(2, 0), self._run_inputs(3, 1)
        self.two, self.other, self.frame = evaluate(self._apart, of_two, of_three)
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
        self.three, self.alone = evaluate(self._together, of_three, kept)

    def _apart(self, of_two, of_three):
        """Two rows; three, of other globals and params; and the plate of rows."""
        two = self._run(2, of_two)
        shifted = {
            name: jax.tree_util.tree_map(
                lambda v, t=site.transform: t(t.inv(jnp.asarray(v)) + 0.5), site.value
            )
            for name, site in two.items()
            if site.type == "param"
        }
        other = self._run(3, of_three, shifted)
        frame = self._frame(two, other)
        # what nobody asks for need not be compiled
        bare = ((name, site._replace(value=None, log_p=None)) for name, site in other.items())
        return two, OrderedDict(bare), frame

    def _together(self, inputs, kept):
        """Three rows, and the last and the first of them alone."""
        three = self._run(3, inputs, kept)
        alone = {}
        for row in (2, 0):
            values = {n: s.value for n, s in three.items() if s.type == "sample"}
            for name, site in self.rows.items():
                values[name] = jnp.take(values[name], np.array([row]), axis=site.axis)
            own = inputs if inputs.y is None else inputs._replace(y=inputs.y[row : row + 1])
            alone[row] = self._run(1, own, values)
        return three, alone

    def fail(self, what: str, cause: Exception | None = None):
        raise ValueError(f"program {self.asked.program.name}: {what}") from cause

    def _run_inputs(self, n, seed) -> _RunInputs:
        asked, key = self.asked, np.array([0, seed], np.uint32)
        if asked.y_shape is None:
            return _RunInputs(key, None)
        if asked.levels is not None:
            return _RunInputs(key, (np.arange(n) % asked.levels).astype(np.int32))
        y = np.random.default_rng(seed).uniform(0.1, 0.9, (n, *asked.y_shape))
        return _RunInputs(key, y.astype(jnp.result_type(float)))

    def _run(self, n, inputs: _RunInputs, values=None) -> OrderedDict[str, _Seen]:
        argument = n if inputs.y is None else inputs.y
        with self._telling():
            # not by ``Drawing``: jax.random's own draws compile the fastest
            sites = trace(self.asked.program, argument, inputs.key, values or {}, drawing=_Params())
        # ordered, for JAX sorts the keys of other dictionaries
        return OrderedDict((name, self._seen(name, site)) for name, site in sites.items())

    def _seen(self, name, site) -> _Seen:
        kind, value = site["type"], site["value"]
        seen = _Seen(kind, value, _shapes(value), site.get("cond_indep_stack", ()))
        if kind == "plate":
            return seen._replace(sizes=site["args"])
        if kind == "param":
            return seen._replace(transform=transform_of(site))
        if kind != "sample":
            return seen
        fn, is_x = site["fn"], name == self.asked.observed
        seen = seen._replace(
            observed=site["is_observed"],
            scale=site["scale"],
            masked=isinstance(fn, MaskedDistribution),
            discrete=fn.is_discrete,
            rsample=bool(fn.has_rsample),
            event_dim=fn.event_dim,
            support=_base(fn.support) if is_x else None,
            log_p=fn.log_prob(value),
        )
        if is_x or seen.observed:
            return seen
        if not seen.discrete:
            return seen._replace(free=tuple(biject_to(fn.support).inverse_shape(jnp.shape(value))))
        if fn.has_enumerate_support and not fn.event_dim:
            return seen._replace(levels=jnp.ravel(fn.enumerate_support(expand=False)))
        return seen

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

    def _frame(self, two, three):
        """The plate of rows, as the observed site knows it."""
        asked, site = self.asked, two.get(self.asked.observed)
        samples = [n for n, s in two.items() if s.type == "sample"]
        if site is None or site.type != "sample":
            self.fail(f"it has no observed site {asked.observed!r}; its sample sites are {samples}")
        if site.observed:
            self.fail(
                f"site {asked.observed!r} must be free: let the program take {asked.observed}=None "
                f"and pass obs={asked.observed}"
            )
        others = three[asked.observed].frames if asked.observed in three else ()
        sizes = {f.name: f.size for f in others}
        frames = site.frames
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
                    f"density is of {self.asked.observed!r} alone"
                )
            scaled = site.scale is not None and np.any(np.asarray(site.scale) != 1)
            if self._within(site) and (scaled or site.masked):
                what = "scaled" if scaled else "masked"
                self.fail(
                    f"site {name!r} must not be {what}: its density would not add up to one; to "
                    "leave rows out, or to weigh them, give fit the weights"
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
        latent = [site for name, site in self.rows.items() if name != self.asked.observed]
        discrete = tuple(site for site in latent if site.discrete)
        y = self._run_inputs(3, 1).y
        argument, other = (1 if y is None else y[row : row + 1] for row in (0, 1))
        found = Sites(
            tuple(self._site(self.two, 2, name) for name in self.outside),
            tuple(site for site in latent if not site.discrete),
            discrete,
            tuple(self.given),
            self._computed(),
            self._deterministic(),
            self._combinations(discrete),
            self.rows[self.asked.observed],
            self.params,
            self._support(),
            argument,
            other,
            {n: np.asarray(s.value) for n, s in self.alone[0].items() if s.type == "sample"},
        )
        for row in (2, 0):
            self._check_row(row)
        return found

    def _check_apart(self, name):
        """A site outside of the plate must not hear of the rows."""
        two, three = (run[name].log_p for run in (self.two, self.three))
        if np.shape(two) != np.shape(three) or not _close(two, three):
            what = "latent" if name in self.outside else "observed site or factor"
            self.fail(
                f"{what} {name!r} is outside of the plate {self.frame.name!r}, yet its "
                "distribution depends on the rows or their number"
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
        if site.discrete or name == self.asked.observed:
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

    def _combinations(self, discrete):
        values = []
        for site in discrete:
            two, three = (run[site.name].levels for run in (self.two, self.three))
            if two is None:
                self.fail(f"latent {site.name!r} is discrete, yet its values cannot be enumerated")
            if not np.array_equal(two, three):
                self.fail(f"latent {site.name!r} must be able to take the same values for all rows")
            values.append(np.asarray(two))
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

    def _support(self):
        """The support of one event: the observed site's, without what its parameters decide."""
        x = self.two[self.asked.observed]
        plain = [x.support, self.other[self.asked.observed].support]
        dims = len(x.shapes[0]) - 1
        bounds = [jax.tree_util.tree_leaves(p) for p in plain]
        same = len(bounds[0]) == len(bounds[1]) and all(
            np.array_equal(a, b) and np.ndim(a) == 0 for a, b in zip(*bounds, strict=True)
        )
        base = plain[0]
        if not same:
            base = constraints.integer_greater_than(-(2**31)) if x.discrete else None
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


def _close(one, other, rtol=1e-4):
    return np.allclose(one, other, rtol=rtol, atol=rtol / 10, equal_nan=True)


def _shapes(tree):
    return [jnp.shape(leaf) for leaf in jax.tree_util.tree_leaves(tree)]
