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

from jaxgen import inputs, places
from jaxgen.numpyro.likelihood import log_prob_within
from jaxgen.numpyro.runs import example_value, trace
from jaxgen.places import Message
from jaxgen.sizes import size_class

_ROWS = 2**15  # most rows that are compared, spread over all
_MADE_UP = 64  # rows where there are none
_SCALARS = 2**22  # to compute, which limits the draws of the globals,
_DRAWS = (4, 256)  # the fewest and the most
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
    padded = rows[np.arange(size_class(len(rows))) % len(rows)]
    count = int(np.clip(_SCALARS // (len(padded) * program.footprint), *_DRAWS))
    values = _prior(program, count) if params is None else _fitted(program, params, count)
    if _difference(program, x, y, values, padded) is not None:
        found = _difference(program, x, y, values, rows)
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


def _difference(program, x, y, values, rows):
    """A site, a row and its log p among ``rows`` and alone, where they differ; else None."""
    x = None if x is None else np.asarray(x[rows], jnp.result_type(float))
    if y is not None:
        y = inputs.narrowed(np.asarray(y[rows]), jnp.result_type(float), "y")
    try:
        with jax.default_matmul_precision("highest"):
            found = jax.device_get(_compare(program, len(rows), x, y, values))
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


@functools.partial(jax.jit, static_argnums=(0, 1))
def _prior(program, count):
    """Draws of the globals from the prior, and the starts of params, by site."""

    def draw(key):
        sites = trace(program.program, program.sites.argument, key, {})
        names = (*(site.name for site in program.sites.globals), *program.sites.params)
        return {name: sites[name]["value"] for name in names}

    return jax.vmap(draw)(jax.random.split(jax.random.key(0), count))


@functools.partial(jax.jit, static_argnums=(0, 2))
def _fitted(program, params, count):
    """Draws of the globals that the params hold, and the values of params, by site."""
    draw, learnt = program.draw_of(params), program.learnt(params)
    return jax.vmap(lambda i: {**draw(i % program.count), **learnt})(jnp.arange(count))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _compare(program, n, x, y, values):
    """The difference of each site, for each draw of ``values``."""

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

    return lax.map(of_draw, values) if values else _map(lambda v: v[None], of_draw({}))


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
