"""Whether a program scores real rows one by one as it does all together, as its user calls it.

jaxgen scores each row by a run of the program for that row alone. That is the program's density
only if no row depends on its place, on the number of rows or on other rows. Runs for a few made-up
rows do not show every such dependence, so the program is run with the data before it is fitted.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from numpyro.primitives import Messenger

from jaxgen.core import compiler, inputs, places
from jaxgen.core.places import Message
from jaxgen.core.sizes import repeated
from jaxgen.numpyro.likelihood import log_prob_within
from jaxgen.numpyro.runs import example_value, trace

_ROWS = 2**13  # most rows that are compared, spread over all
_MADE_UP = 64  # rows where there are none
_SCALARS = 2**22  # to compute, which limits the draws of the globals,
_PRIOR = 128  # from so many of the prior, some of which may show what others hide,
_BLOCK = 16  # to so many, which are compared at once, as many as of a fitted posterior
_CLOSE = 1e-3  # relative and absolute difference, in nats, of equal scores computed in two ways
_GIVEN = ""  # in the place of a site's name, of x as it is given and as it is observed

_map = jax.tree_util.tree_map


class _Difference(NamedTuple):
    """Of one site, for each draw of the globals."""

    found: Any
    row: Any
    together: Any  # log p of that row among all
    alone: Any


def check_data(program, x, y, params=None) -> None:
    """Raise where a site's log p of a row differs between all rows and that row alone.

    Args:
      program: a ``Program``.
      x: events (n, *event_shape); None makes some up.
      y: conditions (n, *y_shape) or None.
      params: fitted ones, some of whose draws of the globals are taken; None takes some of the
        prior.

    Raises:
      ValueError: it does; the message names the site, the row and both numbers.
    """
    n = next((len(v) for v in (x, y) if v is not None), _MADE_UP)
    rows = np.unique(np.linspace(0, n - 1, min(n, _ROWS)).round().astype(int))
    # repeated up to a size class, so that few programs are compiled
    padded = rows[repeated(len(rows))]
    values, count = _prior(program), _PRIOR
    if params is not None:
        values, count = _fitted(program, params), _BLOCK
    room = _SCALARS // (len(padded) * program.footprint)
    count = int(np.clip(room, _BLOCK, count)) // _BLOCK * _BLOCK
    if _difference(program, x, y, values, count, padded) is not None:
        found = _difference(program, x, y, values, count, rows)
        if found is None:  # of the copies alone
            return
        site, row, together, alone = found
        if site == _GIVEN:
            raise ValueError(
                Message(
                    f"program {program.program.name}: site {program.observed!r} must be observed "
                    f"as {program.sites.parameter} is given, yet in ", places.row(row), " it "
                    f"changes {alone:.3g} into {together:.3g}; change x beforehand",
                )
            )  # fmt: skip
        whose = [f"site {site!r} of ", places.row(row)]
        rows_of = program.sites.row_names | {own.name for own in program.sites.deterministic}
        if site not in rows_of:
            whose = [f"site {site!r}, outside of the plate over the rows,"]
        raise ValueError(
            Message(
                f"program {program.program.name}: ", *whose, " depends on its place or on other "
                f"rows: its log p is {together:.6g} among all {len(rows)} rows, {alone:.6g} with ",
                places.row(row), " alone; hand in what it depends on, such as a time or a group, "
                "as y",
            )
        )  # fmt: skip


def _difference(program, x, y, values, count, rows):
    """A site, a row and its log p among ``rows`` and alone, where they differ; else None."""
    x = None if x is None else np.asarray(x[rows], jnp.result_type(float))
    if y is not None:
        y = inputs.narrowed(np.asarray(y[rows]), jnp.result_type(float), "y")
    try:
        with jax.default_matmul_precision("highest"):
            found = jax.device_get(_compare(program, len(rows), x, y, values, np.int32(count)))
    except (TypeError, ValueError, IndexError) as error:
        text = str(error).strip().split("\n")[0]
        raise ValueError(
            f"program {program.program.name}: it must run with all {len(rows)} rows and with each "
            f"row alone, yet raises {type(error).__name__}: {text}"
        ) from error
    for site, own in found.items():
        for draw in np.flatnonzero(own.found):
            return site, rows[own.row[draw]], own.together[draw], own.alone[draw]
    return None


@functools.partial(compiler.jit, quick=True, static_argnums=0)
def _prior(program):
    """Draws of the globals from the prior, and the starts of params, by site."""

    def of_rows(site):
        return example_value(site) if site["name"] in program.sites.row_names else None

    def draw(key):
        # not by ``Drawing``: jax.random's own draws compile the fastest
        drawing = Messenger()
        sites = trace(program.program, program.sites.argument, key, {}, of_rows, drawing)
        names = (*(site.name for site in program.sites.globals), *program.sites.params)
        return {name: sites[name]["value"] for name in names}

    return jax.vmap(draw)(jax.random.split(jax.random.key(0), _PRIOR))


@functools.partial(compiler.jit, quick=True, static_argnums=0)
def _fitted(program, params):
    """Few draws of the globals that the params hold, and the values of params, by site.

    They are repeated to as many as of the prior, so that one program compares both.
    """
    draw, learnt = program.draw_of(params), program.learnt(params)
    return jax.vmap(lambda i: {**draw(i % program.count), **learnt})(jnp.arange(_PRIOR) % _BLOCK)


@functools.partial(compiler.jit, quick=True, static_argnums=(0, 1))
def _compare(program, n, x, y, values, count):
    """The difference of each site, for the first block of draws with one, or else the last.

    count: of the draws in ``values`` that are compared, a multiple of the block's.
    """

    def of_draw(values):
        if x is None:
            x_values = _made_up(program, n, y, values)
        else:
            x_values = jax.vmap(program.observed_value)(x)
        together, row_values = _together(program, x_values, y, values)
        alone = functools.partial(_alone, program, values)
        apart = jax.vmap(alone, (0, None if y is None else 0, 0))(x_values, y, row_values)
        found = {name: _first(together[name], own) for name, own in apart.items()}
        observed = row_values[program.observed].astype(x_values.dtype)
        return found | {_GIVEN: _first(observed, x_values)}

    if not values:
        return _map(lambda v: v[None], of_draw({}))

    def of_block(state):
        done, _ = state
        block = _map(lambda v: lax.dynamic_slice_in_dim(v, done, _BLOCK), values)
        return done + _BLOCK, jax.vmap(of_draw)(block)

    def goes_on(state):
        done, found = state
        return (done < count) & ~jnp.stack([own.found.any() for own in found.values()]).any()

    shapes = jax.eval_shape(lambda: of_block((jnp.int32(0), None))[1])
    nothing = _map(lambda v: jnp.zeros(v.shape, v.dtype), shapes)
    return lax.while_loop(goes_on, of_block, (jnp.int32(0), nothing))[1]


def _made_up(program, n, y, values):
    """Values of the observed site, rows leading."""
    sites = trace(
        program.program, n if y is None else y, np.zeros(2, np.uint32), values, example_value
    )
    return jnp.moveaxis(sites[program.observed]["value"], _axes(program)[program.observed], 0)


def _together(program, x_values, y, values):
    """log p of the sites in a run with all rows, and the values of locals; rows lead."""
    axes = _axes(program)
    x = jnp.moveaxis(x_values, 0, axes[program.observed])
    argument = len(x_values) if y is None else y
    run = _run(program, argument, values, x)
    own = {n: jnp.moveaxis(run[n]["value"], axis, 0) for n, axis in axes.items()}
    return _scores(program, run), own


def _alone(program, values, x_value, y, row_values):
    """log p of the sites in a run with one row."""
    axes = _axes(program)
    own = {name: jnp.expand_dims(v, axes[name]) for name, v in row_values.items()}
    x = jnp.expand_dims(x_value, axes[program.observed])
    run = _run(program, 1 if y is None else y[None], {**values, **own}, x)
    leading = {*axes, *(site.name for site in program.sites.deterministic)}
    return {n: v[0] if n in leading else v for n, v in _scores(program, run).items()}


def _axes(program):
    """The axis of the rows in the value of each site that has one."""
    sites = program.sites
    return {s.name: s.axis for s in (*sites.locals, *sites.discrete, sites.observed)}


def _run(program, argument, values, x):
    """The sites of a run, to which x is given as its user gives it, or else substituted."""
    given = program.given(x)
    values = {n: v for n, v in values.items() if n != program.observed}
    values |= {} if given else {program.observed: x}
    key = np.zeros(2, np.uint32)
    return trace(program.program, argument, key, values, example_value, given=given)


def _scores(program, run):
    """log p of each site, and the values of what is computed for each row; rows lead."""
    axes, scores = _axes(program), {}
    for name, site in run.items():
        if site["type"] == "sample":
            score, axis = log_prob_within(site["fn"], site["value"]), axes.get(name)
            dim = None if axis is None else axis + site["fn"].event_dim
            scores[name] = score if dim is None else jnp.moveaxis(score, dim, 0)
    for site in program.sites.deterministic:
        scores[site.name] = jnp.moveaxis(jnp.asarray(run[site.name]["value"]), site.axis, 0)
    return scores


def _first(together, alone):
    """The first row whose scores differ; a site without rows has one score together."""
    together, alone = (jnp.asarray(v, jnp.result_type(float)) for v in (together, alone))
    together = jnp.broadcast_to(together, alone.shape)
    same = (together == alone) | (jnp.isnan(together) & jnp.isnan(alone))
    size = jnp.maximum(jnp.abs(together), jnp.abs(alone))
    close = jnp.abs(together - alone) <= _CLOSE * (1 + size)
    differs = ~(same | close)
    row = differs.reshape(len(alone), -1).any(1).argmax()
    return _Difference(differs.any(), row, together[row].sum(), alone[row].sum())
