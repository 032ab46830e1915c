"""Simulation-based calibration: does a fit find the truth as often as it says?"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.core import compiler, inputs
from jaxgen.core.promotion import standard_promotion
from jaxgen.numpyro.program import Program
from jaxgen.numpyro.runs import trace
from jaxgen.training.each import fit_each

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LEVEL = 0.01  # at which a right posterior is called wrong, all numbers together
_PANELS = 3  # in a row of the figure


@dataclasses.dataclass(frozen=True, eq=False)
class SBC:
    """Ranks of the truth among posterior draws, and what they say.

    Attributes:
      names: of the numbers, such as "loc[0]".
      ranks: (data sets, numbers), how many of the draws lie below the truth.
      draws: L, how many there are.
      bins: of equal width, in which the ranks are counted.
      chi2: (numbers,), of the counts against equal ones, with bins - 1 degrees of freedom.
      p_values: (numbers,), how likely a right posterior has a chi2 as large.
    """

    names: tuple[str, ...]
    ranks: np.ndarray
    draws: int
    bins: int
    chi2: np.ndarray
    p_values: np.ndarray

    @property
    def calibrated(self) -> bool:
        """The verdict, which is False for a right posterior once in a hundred times."""
        return bool(self.p_values.min() * len(self.names) >= LEVEL)

    def __str__(self) -> str:
        width = max(map(len, self.names))
        rows = [f"{'':{width}}  mean rank  chi2_{self.bins - 1}  p value"]
        for name, ranks, chi2, p in zip(
            self.names, self.ranks.T, self.chi2, self.p_values, strict=True
        ):
            rows.append(f"{name:{width}}  {ranks.mean() / self.draws:9.3f}  {chi2:7.2f}  {p:.3g}")
        verdict = "calibrated" if self.calibrated else "NOT calibrated"
        rows.append(f"{verdict}: {len(self.ranks)} data sets, {self.draws} draws each")
        return "\n".join(rows)

    def figure(self) -> Figure:
        """Rank plot: counts of a right posterior lie in the grey band, 99 % of them."""
        from matplotlib.figure import Figure
        from scipy.stats import binom

        count = len(self.names)
        rows = -(-count // _PANELS)
        columns = min(count, _PANELS)
        figure = Figure(figsize=(4.2 * columns, 2.9 * rows + 0.3), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False, sharex=True).ravel()
        edges = np.linspace(0, self.draws + 1, self.bins + 1)
        low, high = binom.ppf([0.005, 0.995], len(self.ranks), 1 / self.bins)
        for ax, name, ranks, p in zip(axes, self.names, self.ranks.T, self.p_values, strict=False):
            ax.axhspan(low, high, color="0.85", label="99 % of bins, if calibrated")
            ax.axhline(len(self.ranks) / self.bins, color="0.5", linewidth=1)
            ax.hist(ranks, edges, color="#1b2f6b", histtype="step", linewidth=1.8)
            ax.set_title(f"{name}: p = {p:.2g}", fontsize=10)
            ax.set_ylim(bottom=0)
        for ax in axes[max(count - columns, 0) : count]:
            ax.set_xlabel(f"rank of the truth among {self.draws} draws")
        for ax in axes[::columns]:
            ax.set_ylabel("data sets in bin")
        for ax in axes[count:]:
            ax.set_axis_off()
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower right", fontsize=8)
        figure.suptitle("calibrated" if self.calibrated else "NOT calibrated")
        return figure


@standard_promotion
def sbc(
    model: Program,
    y: Any = None,
    n: int | None = None,
    *,
    key: jax.Array,
    datasets: int = 1000,
    draws: int = 99,
    bins: int = 20,
    progress: bool | None = None,
    **settings: Any,
) -> SBC:
    """Fit a program to data sets of its own making and ask where among the draws the truth lies.

    Globals are drawn from the prior, rows from the program, and the posterior is fitted as the
    program says, by NUTS or gradients, to all data sets side by side in one compiled program. With
    a right posterior the rank of the truth is uniform.

    Args:
      model: a program, of ``from_program``, with a posterior that has draws.
      y: conditions (n, *y_shape) of each data set's rows.
      n: number of rows, of an unconditional program.
      key: a typed PRNG key.
      datasets: how many.
      draws: L, of each posterior, evenly spaced among those it has: NUTS should have some three
        times as many, since neighbours are alike.
      bins: of the ranks; they should divide draws + 1.
      progress: show a bar; by default on a terminal, in a run over two seconds.
      settings: epochs, batch_size and optimizer, as in ``jaxgen.fit``.

    Raises:
      TypeError, ValueError: an argument of the wrong kind, shape or range, by its name.

    Source: Talts et al. 2018, "Validating Bayesian inference algorithms with simulation-based
    calibration".

    >>> found = sbc(model, y, key=jax.random.key(0), datasets=100, epochs=20)
    >>> found.figure().savefig("ranks.png")
    """
    if not isinstance(model, Program):
        raise TypeError(f"model must be a program, of from_program, got {model!r:.60}")
    names = _names(model)
    if model.sites.given:
        raise ValueError(
            f"model must draw its globals from their prior alone, but {model} also has "
            f"{sorted(model.sites.given)}, which draws from the prior do not know of"
        )
    draws, bins = inputs.as_count(draws, "draws", 1), inputs.as_count(bins, "bins", 2)
    if (draws + 1) % bins:
        raise ValueError(f"bins must divide draws + 1 = {draws + 1}, got {bins}")
    if model.count < draws:
        raise ValueError(
            f"draws must be at most the {model.count} that {model.posterior} has, got {draws}"
        )
    of_data, of_fits, of_ties = jax.random.split(inputs.as_key(key), 3)
    keys = jax.random.split(of_data, inputs.as_count(datasets, "datasets", 2))
    if model.y_shape is None:
        if n is None:
            raise ValueError(f"n is missing: the number of rows, for {model} is unconditional")
        truth, x = _simulated_count(model, inputs.as_count(n, "n", 1), keys)
    else:
        dtype = jnp.result_type(float)
        y = inputs.as_conditions(model, y, (np.shape(y)[:1] or (1,)), dtype)
        truth, x = _simulated(model, keys, y)
    fitted = fit_each(model, x, y, key=of_fits, progress=progress, **settings)
    chosen = np.linspace(0, model.count - 1, draws).round().astype(int)
    ranks = np.asarray(_ranks(model, fitted.params, truth, jnp.asarray(chosen), of_ties))
    counts = np.stack([np.bincount(r * bins // (draws + 1), minlength=bins) for r in ranks.T])
    expected = len(ranks) / bins
    chi2 = ((counts - expected) ** 2 / expected).sum(1)
    p_values = np.asarray(jax.scipy.special.gammaincc((bins - 1) / 2, chi2 / 2))
    return SBC(names, ranks, draws, bins, chi2, p_values)


def _names(program):
    names = []
    for site in program.sites.globals:
        indices = np.ndindex(*site.shape)
        names += [site.name + (str(list(i)) if site.shape else "") for i in indices]
    if not names:
        raise ValueError(f"model must have global latents to calibrate, and {program} has none")
    return tuple(names)


def _simulate(program, keys, argument):
    def one(key):
        sites = trace(program.program, argument, key, {})
        x = jnp.moveaxis(sites[program.observed]["value"], program.sites.observed.axis, 0)
        values = {site.name: sites[site.name]["value"] for site in program.sites.globals}
        return values, x.reshape(len(x), *program.event_shape)

    return jax.vmap(one)(keys)


def _rank(program, params, truth, chosen, key):
    """How many of the chosen draws lie below the truth, (data sets, numbers); lots among equals."""
    below, equal = [], []
    values = jax.vmap(program.values)(params)
    for site in program.sites.globals:
        drawn, true = values[site.name][:, chosen], truth[site.name][:, None]
        below.append((drawn < true).sum(1).reshape(len(drawn), -1))
        equal.append((drawn == true).sum(1).reshape(len(drawn), -1))
    ties = jnp.concatenate(equal, 1)
    return jnp.concatenate(below, 1) + jax.random.randint(key, ties.shape, 0, ties + 1)


_simulated = compiler.jit(_simulate, static_argnums=0)
_simulated_count = compiler.jit(
    lambda program, n, keys: _simulate(program, keys, n), static_argnums=(0, 1)
)
_ranks = compiler.jit(_rank, static_argnums=0)
