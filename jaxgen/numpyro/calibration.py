"""Simulation-based calibration: a check that posteriors contain the truth as often as they say."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxgen.core import compiler, inputs
from jaxgen.core.model import Model
from jaxgen.core.promotion import standard_promotion
from jaxgen.numpyro import global_latents
from jaxgen.numpyro.program import find_program
from jaxgen.numpyro.runs import trace
from jaxgen.training.each import fit_each

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LEVEL = 0.01  # probability that a correct posterior is called wrong
_PANELS = 3  # panels side by side in the figure


@dataclasses.dataclass(frozen=True, eq=False)
class SBC:
    """Ranks of the truth among posterior draws, and a test of them.

    Attributes:
      names: names of the numbers, such as "loc[0]".
      ranks: (data sets, numbers), how many of the draws are below the truth.
      draws: number of draws L of each posterior.
      bins: number of bins of equal width in which the ranks are counted.
      chi2: (numbers,), chi-squared of the counts against equal counts, with bins - 1 degrees of
        freedom.
      p_values: (numbers,), probability of a chi2 at least as large if the posterior is correct.
    """

    names: tuple[str, ...]
    ranks: np.ndarray
    draws: int
    bins: int
    chi2: np.ndarray
    p_values: np.ndarray

    @property
    def calibrated(self) -> bool:
        """Whether the posterior passes, as a correct one does in 99 of 100 runs."""
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
        """Rank plot: 99 % of the counts of a correct posterior are in the grey band."""
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
    model: Model,
    y: ArrayLike | None = None,
    n: int | None = None,
    *,
    key: jax.Array,
    datasets: int = 1000,
    draws: int = 99,
    bins: int = 20,
    progress: bool | None = None,
    **settings: Any,
) -> SBC:
    """Fit a program to data sets that it has drawn, and rank the truth among the posterior draws.

    For each data set, globals are drawn from the prior and rows from the program. The posterior of
    the program, by NUTS or by gradients, is fitted to all data sets in one compiled program. If it
    is correct, the rank of the true globals among its draws is uniformly distributed.

    Args:
      model: a program, as ``from_program`` returns it.
      y: conditions (n, *y_shape) of the rows of each data set.
      n: number of rows, for a program without conditions.
      key: a typed PRNG key.
      datasets: number of data sets.
      draws: number of draws L of each posterior to rank among, evenly spaced among all. NUTS should
        have about three times as many, since consecutive draws are correlated.
      bins: number of bins for the ranks; it must divide draws + 1.
      progress: whether to show a bar; None to show it on a terminal, in a run over two seconds.
      settings: epochs, batch_size and optimizer, as in ``jaxgen.fit``.

    Returns:
      The ranks and the p values; print it, or call its ``figure``.

    Raises:
      TypeError, ValueError: an argument of the wrong kind, shape or range, by its name.

    Source: Talts et al. 2018, "Validating Bayesian inference algorithms with simulation-based
    calibration".

    >>> found = sbc(model, y, key=jax.random.key(0), datasets=100, epochs=20)
    >>> found.figure().savefig("ranks.png")
    """
    found = find_program(model)
    if found is None or found[0] is not model:
        raise TypeError(
            f"model must be a program without labels (see from_program), got {model!r:.60}"
        )
    program, _ = found
    names = _names(program)
    if program.sites.observed_outside:
        raise ValueError(
            f"model must draw its globals from their prior alone, but {program} also has "
            f"{sorted(program.sites.observed_outside)}, which draws from the prior ignore"
        )
    draws, bins = inputs.as_count(draws, "draws", 1), inputs.as_count(bins, "bins", 2)
    if (draws + 1) % bins:
        raise ValueError(f"bins must divide draws + 1 = {draws + 1}, got {bins}")
    if program.draws < draws:
        raise ValueError(
            f"draws must be at most the {program.draws} that {program.posterior} has, got {draws}"
        )
    data_key, fit_key, tie_key = jax.random.split(inputs.as_key(key), 3)
    keys = jax.random.split(data_key, inputs.as_count(datasets, "datasets", 2))
    if program.y_shape is None:
        if n is None:
            raise ValueError(
                f"n is missing: {program} has no conditions, and needs the number of rows"
            )
        truth, x = _compiled_simulate_count(program, inputs.as_count(n, "n", 1), keys)
    else:
        dtype = jnp.result_type(float)
        y = inputs.conditions_of_table(program, y)
        y = inputs.as_conditions(program, y, (np.shape(np.asarray(y))[:1] or (1,)), dtype)
        truth, x = _compiled_simulate(program, keys, y)
    fitted = fit_each(program, x, y, key=fit_key, progress=progress, **settings)
    chosen = np.linspace(0, program.draws - 1, draws).round().astype(int)
    ranks = np.asarray(_compiled_ranks(program, fitted.params, truth, jnp.asarray(chosen), tie_key))
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
    """Globals drawn from the prior, and rows given these, for each of some keys."""

    def simulate(key):
        sites = trace(program.program, argument, key, {})
        x = jnp.moveaxis(sites[program.observed]["value"], program.sites.observed.axis, 0)
        values = {site.name: sites[site.name]["value"] for site in program.sites.globals}
        return values, x.reshape(len(x), *program.event_shape)

    return jax.vmap(simulate)(keys)


def _rank(program, params, truth, chosen, key):
    """How many of the chosen draws are below the truth, (data sets, numbers), ties at random."""
    below, equal = [], []
    values = jax.vmap(lambda params: global_latents.draws(program, params))(params)
    for site in program.sites.globals:
        drawn, true = values[site.name][:, chosen], truth[site.name][:, None]
        below.append((drawn < true).sum(1).reshape(len(drawn), -1))
        equal.append((drawn == true).sum(1).reshape(len(drawn), -1))
    ties = jnp.concatenate(equal, 1)
    return jnp.concatenate(below, 1) + jax.random.randint(key, ties.shape, 0, ties + 1)


_compiled_simulate = compiler.jit(_simulate, static_argnums=0)
_compiled_simulate_count = compiler.jit(
    lambda program, n, keys: _simulate(program, keys, n), static_argnums=(0, 1)
)
_compiled_ranks = compiler.jit(_rank, static_argnums=0)
