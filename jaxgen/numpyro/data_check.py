"""A check with the data that a program scores rows one by one as it scores them together.

jaxgen scores each row by a run of the program for that row alone. That is the density of the
program only if no row depends on its position, on the number of rows or on other rows. Runs for a
few made-up rows do not show every such dependence, so the program runs with the data before a fit.
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
from jaxgen.core.model import Params
from jaxgen.core.places import Message
from jaxgen.core.sizes import repeated
from jaxgen.numpyro import density, global_latents, param_sites
from jaxgen.numpyro.likelihood import log_prob_within
from jaxgen.numpyro.program_spec import ProgramSpec
from jaxgen.numpyro.row_density import observed_value, without_plate
from jaxgen.numpyro.runs import example_value, trace

_ROWS = 2**13  # most rows that are compared, evenly spaced among all
_MADE_UP = 64  # rows if there are no data
_SCALARS = 2**22  # scalars to compute, which limits the number of draws of the globals
_PRIOR = 128  # most draws of the prior; some may show a dependence that others hide
_BLOCK = 16  # draws that are compared at once; the fewest of the prior, and all of a fit
_CLOSE = 1e-3  # relative and absolute difference, in nats, up to which log p are equal
_GIVEN = ""  # in place of the name of a site: x as it is given and as it is observed

_map = jax.tree_util.tree_map


class _Difference(NamedTuple):
    """The comparison of one site, for each draw of the globals."""

    found: Any  # whether a row differs
    row: Any  # the first such row
    together: Any  # log p of that row among all
    alone: Any
    nan: Any  # the first row whose log p is NaN; -1 if none is


def check_data(program: ProgramSpec, x: Any, y: Any, params: Params = None) -> None:
    """Compare log p of all sites between a run for all rows and runs for each row alone.

    Args:
      program: the program.
      x: events (n, *event_shape); None to make some up.
      y: conditions (n, *y_shape); None for a program without conditions.
      params: fitted params, whose globals are used; None to draw globals from the prior.

    Raises:
      ValueError: log p differs, or is NaN; the message names the site, the row and the numbers.
    """
    n = next((len(v) for v in (x, y) if v is not None), _MADE_UP)
    rows = np.unique(np.linspace(0, n - 1, min(n, _ROWS)).round().astype(int))
    # repeated up to a size class, so that few programs are compiled
    padded = rows[repeated(len(rows))]
    values, most = _prior_draws(program), _PRIOR
    if params is not None:
        values, most = _fitted_draws(program, params), _BLOCK
    room = _SCALARS // (len(padded) * density.footprint(program))
    count = int(np.clip(room, _BLOCK, most)) // _BLOCK * _BLOCK
    if _first_difference(program, x, y, values, count, padded) is not None:
        found = _first_difference(program, x, y, values, count, rows)
        if found is not None:  # else only the copies differ
            raise ValueError(_message(program, len(rows), *found))


def _message(program, count, site, row, together, alone):
    name, sites, hint = program.name, program.sites, program.program.hint_of_arrays()
    if site == _GIVEN:
        return Message(
            f"program {name}: site {program.observed!r} must be observed as "
            f"{sites.observed_parameter} is given, but in ", places.row(row), " it changes "
            f"{alone:.3g} into {together:.3g}; change x before passing it",
        )  # fmt: skip
    subject: list[Any] = [f"site {site!r}, outside the plate over the rows,"]
    if site in sites.names_in_plate | {s.name for s in sites.row_deterministic}:
        subject = [f"site {site!r} of ", places.row(row)]
    return Message(
        f"program {name}: ", *subject, " depends on its position or on other rows: its log p is "
        f"{together:.6g} among all {count} rows, {alone:.6g} with ", places.row(row), " alone; "
        f"pass what it depends on, such as a time or a group, as part of y{hint}",
    )  # fmt: skip


def _first_difference(program, x, y, values, count, rows):
    """A site, a row and its log p among ``rows`` and alone, which differ; None if none do."""
    x = None if x is None else np.asarray(x[rows], jnp.result_type(float))
    if y is not None:
        y = inputs.narrowed(np.asarray(y[rows]), jnp.result_type(float), "y")
    try:
        with jax.default_matmul_precision("highest"):
            found = jax.device_get(_compare(program, len(rows), x, y, values, np.int32(count)))
    except (TypeError, ValueError, IndexError) as error:
        text = str(error).strip().split("\n")[0]
        raise ValueError(
            f"program {program.name}: it must run with all {len(rows)} rows and with each row "
            f"alone, but raises {type(error).__name__}: {text}"
        ) from error
    for site, difference in found.items():
        for draw in np.flatnonzero(difference.found):
            row = rows[difference.row[draw]]
            return site, row, difference.together[draw], difference.alone[draw]
    _check_known(program, found, rows)
    return None


def _check_known(program, found, rows):
    """Raise if log p of a site is NaN for all values of the globals and params that were tried."""
    if program.sites.discrete:  # made-up values of a discrete latent may be impossible
        return
    for site, family in program.sites.families.items():
        nan = found[site].nan
        if (nan >= 0).all():
            raise ValueError(
                Message(
                    f"program {program.name}: log p of site {site!r} is NaN for ",
                    places.row(rows[nan[0]]),
                    f": a parameter of {family} is NaN or out of range there, such as a negative "
                    "scale",
                )
            )


@functools.partial(compiler.jit, quick=True, static_argnums=0)
def _prior_draws(program):
    """Draws of the globals from the prior, and the starting values of params, by site."""

    def value_in_plate(site):
        return example_value(site) if site["name"] in program.sites.names_in_plate else None

    def draw(key):
        drawing = Messenger()  # in place of ``Drawing``: draws by jax.random compile the fastest
        argument = program.sites.example_argument
        sites = trace(program.program, argument, key, {}, value_in_plate, drawing)
        names = [*(site.name for site in program.sites.globals), *program.sites.param_transforms]
        return {name: sites[name]["value"] for name in names}

    return jax.vmap(draw)(jax.random.split(jax.random.key(0), _PRIOR))


@functools.partial(compiler.jit, quick=True, static_argnums=0)
def _fitted_draws(program, params):
    """A few draws of the globals that the params hold, and the values of params, by site.

    They are repeated to the number of draws of the prior, so that one program compares both.
    """
    draw = global_latents.draw_function(program, params)
    param_values = param_sites.values(program, params)
    numbers = jnp.arange(_PRIOR) % _BLOCK
    return jax.vmap(lambda i: {**draw(i % program.draws), **param_values})(numbers)


@functools.partial(compiler.jit, quick=True, static_argnums=(0, 1))
def _compare(program, n, x, y, values, count):
    """The comparison of each site, for the first block of draws with a difference, or the last.

    It compares the first ``count`` of the draws in ``values``, a multiple of the size of a block.
    """

    def compare_draw(values):
        if x is None:
            x_values = _made_up(program, n, y, values)
        else:
            x_values = jax.vmap(
                lambda x: without_plate(observed_value(program, x)[0], program.sites.observed)
            )(x)
        together, row_values = _together(program, x_values, y, values)
        alone = functools.partial(_alone, program, values)
        apart = jax.vmap(alone, (0, None if y is None else 0, 0))(x_values, y, row_values)
        found = {name: _compared(together[name], log_p) for name, log_p in apart.items()}
        observed = row_values[program.observed].astype(x_values.dtype)
        return found | {_GIVEN: _compared(observed, x_values)}

    if not values:
        return _map(lambda v: v[None], compare_draw({}))

    def compare_block(state):
        done, _ = state
        block = _map(lambda v: lax.dynamic_slice_in_dim(v, done, _BLOCK), values)
        return done + _BLOCK, jax.vmap(compare_draw)(block)

    def goes_on(state):
        done, compared = state
        found = jnp.stack([difference.found.any() for difference in compared.values()]).any()
        return (done < count) & ~found

    shapes = jax.eval_shape(lambda: compare_block((jnp.int32(0), None))[1])
    nothing = _map(lambda v: jnp.zeros(v.shape, v.dtype), shapes)
    return lax.while_loop(goes_on, compare_block, (jnp.int32(0), nothing))[1]


def _made_up(program, n, y, values):
    """Values of the observed site, rows leading."""
    argument, key = n if y is None else y, np.zeros(2, np.uint32)
    sites = trace(program.program, argument, key, values, example_value)
    return jnp.moveaxis(sites[program.observed]["value"], program.sites.observed.axis, 0)


def _together(program, x_values, y, values):
    """log p of the sites in a run with all rows, and the values of sites in the plate."""
    axes = _axes(program)
    x = jnp.moveaxis(x_values, 0, axes[program.observed])
    argument = len(x_values) if y is None else y
    run = _run(program, argument, values, x)
    row_values = {n: jnp.moveaxis(run[n]["value"], axis, 0) for n, axis in axes.items()}
    return _log_p(program, run), row_values


def _alone(program, values, x_value, y, row_values):
    """log p of the sites in a run with one row."""
    axes = _axes(program)
    in_plate = {name: jnp.expand_dims(v, axes[name]) for name, v in row_values.items()}
    x = jnp.expand_dims(x_value, axes[program.observed])
    run = _run(program, 1 if y is None else y[None], {**values, **in_plate}, x)
    leading = {*axes, *(site.name for site in program.sites.row_deterministic)}
    return {n: v[0] if n in leading else v for n, v in _log_p(program, run).items()}


def _axes(program):
    """The axis of the rows in the value of each sample site in the plate."""
    return {site.name: site.axis for site in program.sites.in_plate}


def _run(program, argument, values, x):
    """The sites of a run that is given x by its parameter, or by substitution without one."""
    keywords = program.observed_keyword(x)
    values = {n: v for n, v in values.items() if n != program.observed}
    values |= {} if keywords else {program.observed: x}
    key = np.zeros(2, np.uint32)
    return trace(program.program, argument, key, values, example_value, keywords=keywords)


def _log_p(program, run):
    """log p of each sample site, and the values of deterministic sites of rows; rows lead."""
    axes, found = _axes(program), {}
    for name, site in run.items():
        if site["type"] == "sample":
            log_p, axis = log_prob_within(site["fn"], site["value"]), axes.get(name)
            dim = None if axis is None else axis + site["fn"].event_dim
            found[name] = log_p if dim is None else jnp.moveaxis(log_p, dim, 0)
    for site in program.sites.row_deterministic:
        found[site.name] = jnp.moveaxis(jnp.asarray(run[site.name]["value"]), site.axis, 0)
    return found


def _compared(together, alone):
    """Whether rows differ, and the first one; a site outside the plate has one log p together."""
    together, alone = (jnp.asarray(v, jnp.result_type(float)) for v in (together, alone))
    together = jnp.broadcast_to(together, alone.shape)
    same = (together == alone) | (jnp.isnan(together) & jnp.isnan(alone))
    size = jnp.maximum(jnp.abs(together), jnp.abs(alone))
    close = jnp.abs(together - alone) <= _CLOSE * (1 + size)
    differs = ~(same | close)
    row = differs.reshape(len(alone), -1).any(1).argmax()
    nan = jnp.isnan(alone).reshape(len(alone), -1).any(1)
    first_nan = jnp.where(nan.any(), nan.argmax(), -1)
    return _Difference(differs.any(), row, together[row].sum(), alone[row].sum(), first_nan)
