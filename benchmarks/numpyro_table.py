"""The programs of ``tests/zoo.py`` in jaxgen and in NumPyro, one line for each program.

``python -m benchmarks.numpyro_table [NAME ...]``. The columns:

- log p: largest difference of ``log_likelihood``, in nats, or relative if log p is beyond 1. For
  programs with continuous local latents it is the difference of means over draws.
- predictive: largest |z| of draws of rows given the same draws of global latents, for their mean
  ranks and for the mean distance of ranks from the middle.
- NUTS, default: differences of the posterior by ``NUTS``, and of the default posterior, from that
  by ``MCMC``: of medians in posterior standard deviations, and of logarithms of the deviations. A
  deviation is half the range from the 16 % to the 84 % quantile. k is the Pareto k of the fit. The
  tolerance of NUTS grows with its Monte Carlo error. NUTS counts as stuck if its effective sample
  size is less than a twentieth of NumPyro's.
- verdict: OK; WRONG if results differ and an error or a warning says so; SILENT if nothing does.
"""

import argparse
import contextlib
import os
import sys
import time
import warnings
from typing import Any, NamedTuple

import jax
import numpy as np
from numpyro.diagnostics import effective_sample_size
from numpyro.infer import MCMC, NUTS, SVI, Trace_ELBO, init_to_median
from numpyro.infer.autoguide import AutoMultivariateNormal
from numpyro.optim import Adam

import jaxgen
from jaxgen import numpyro as bridge
from jaxgen.core.precision import enable_x64
from tests import zoo

# programs run once, so that optimizations take longer than they save
QUICK = "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
DRAWS, CHAINS = 300, 2
SHIFT = 0.25  # tolerance of medians, in posterior deviations, and of logarithms of deviations
STUCK = 20  # ratio of effective sample sizes at which NUTS counts as stuck
PARAM = 0.05  # relative tolerance of ``numpyro.param`` sites


class Differences(NamedTuple):
    """The differences of a program that jaxgen accepts; None for what was not measured."""

    log_p: float
    z: float
    nuts: tuple[float, float] | None
    default: tuple[float, float] | None
    k: float | None
    wrong: list[str]  # names of the differences beyond their tolerance


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.numpyro_table")
    parser.add_argument("names", nargs="*", metavar="NAME", help="programs; all by default")
    parser.add_argument("--quick", action="store_true", help="without NUTS")
    arguments = parser.parse_args()
    os.environ.setdefault("XLA_FLAGS", QUICK)  # read when JAX first computes
    cases = [zoo.named(name) for name in arguments.names] or zoo.CASES
    verdicts = []
    print(
        f"{'program':<21} {'expected':<8} {'happened':<8} {'log p':>8} {'predictive':>10} "
        f"{'NUTS':>9} {'default':>9} {'k':>5} {'s':>4}  verdict",
        flush=True,
    )
    for case in cases:
        line, verdict = _line(case, arguments.quick)
        print(line, flush=True)
        verdicts.append(verdict)
        jax.clear_caches()
    counts = {verdict: verdicts.count(verdict) for verdict in ("OK", "WRONG", "SILENT")}
    print(f"{len(cases)} programs: {counts}")
    return int(counts["OK"] < len(cases))


def _line(case: zoo.Case, quick: bool) -> tuple[str, str]:
    """The line of a program, and its verdict."""
    start, found, error = time.perf_counter(), None, None
    with warnings.catch_warnings(record=True) as warned, enable_x64(case.wide):
        warnings.simplefilter("always")
        try:
            found = compare(case, quick)
        except Exception as raised:
            error = raised
    wall = time.perf_counter() - start
    said = [str(w.message) for w in warned if issubclass(w.category, RuntimeWarning)]
    verdict, note = _verdict(case, found, error, said)
    cells = ["-"] * 5
    if found is not None:
        cells = [
            f"{found.log_p:.1e}",
            f"{found.z:.1f}",
            _pair(found.nuts),
            _pair(found.default),
            "-" if found.k is None else f"{found.k:.2f}",
        ]
    happened = "refused" if error is not None else "served"
    line = (
        f"{case.name:<21} {'refused' if case.refused else 'served':<8} {happened:<8} "
        f"{cells[0]:>8} {cells[1]:>10} {cells[2]:>9} {cells[3]:>9} {cells[4]:>5} {wall:>4.0f}  "
        f"{verdict} {note}"
    )
    return line.rstrip(), verdict


def _pair(value) -> str:
    return "-" if value is None else f"{value[0]:.2f}/{value[1]:.2f}"


def _verdict(case, found, error, said) -> tuple[str, str]:
    """The verdict, and the reason if it is not OK."""
    if error is not None:
        text = " ".join(str(error).split())
        named = case.name in text and repr(case.refused) in text
        if case.refused and isinstance(error, ValueError) and named:
            return "OK", ""
        return "WRONG", f"{type(error).__name__}: {text:.150}"
    if case.refused:
        return "SILENT", "served"
    if not found.wrong:
        return "OK", ""
    return ("WRONG" if said else "SILENT"), ", ".join(found.wrong) + (
        f"; warned: {said[0]:.100}" if said else ""
    )


def compare(case: zoo.Case, quick: bool) -> Differences | None:
    """The differences of a program from NumPyro; None if jaxgen accepts one that it must refuse."""
    if case.change is None:
        return _compare(case, quick)
    try:
        case.change(1.0)
        _compare(case, quick)
        case.change(0.1)
        return _compare(case, quick)
    finally:
        case.change(1.0)


def _compare(case, quick):
    fitted = _fit(case)
    if case.refused:
        return None
    log_p, z = zoo.log_p_difference(case, fitted), zoo.predictive_z(case, fitted)
    bounds = {"log p": log_p > zoo.log_p_tolerance(fitted), "predictive": z > zoo.Z}
    nuts = default = None
    if not quick:
        reference, learnt = _reference(case, fitted)
        default = _shifts(bridge.posterior(fitted), reference, {})[:2]
        if learnt:
            values = zoo.learnt(fitted)
            error = max(abs(float(values[n]) / float(learnt[n]) - 1) for n in learnt)
            bounds["numpyro.param"] = error > PARAM
        else:
            by_nuts = _fit(case, bridge.NUTS(draws=DRAWS, warmup=DRAWS, chains=CHAINS))
            ess = by_nuts.history["ess"]
            *nuts, beyond = _shifts(bridge.posterior(by_nuts), reference, ess)
            bounds["posterior by NUTS"] = beyond
            worse = (ess.get(n, v) * STUCK < v for n, v in reference.ess.items())
            bounds["NUTS is stuck"] = any(worse)
    wrong = [what for what, is_wrong in bounds.items() if is_wrong]
    k = fitted.history.get("pareto_k") if fitted.history else None
    return Differences(log_p, z, nuts and tuple(nuts), default, k, wrong)


def _fit(case, posterior=None):
    return jaxgen.fit(
        zoo.model_of(case, posterior), case.x, case.y, key=jax.random.key(0), progress=False
    )


class Draws(NamedTuple):
    """NumPyro's draws of the posterior by site, and the lowest effective sample size of a site."""

    values: dict[str, Any]
    ess: dict[str, float]


def _reference(case, fitted) -> tuple[Draws, dict[str, Any]]:
    """NumPyro's posterior, by MCMC, or by SVI if the program has ``numpyro.param`` sites.

    The second result is the values of those sites.
    """
    arguments, observed = case.call()
    program = case.marginal or case.program
    learnt = zoo.learnt(fitted)
    if learnt:
        guide = AutoMultivariateNormal(program)
        svi = SVI(program, guide, Adam(0.02), Trace_ELBO(num_particles=4))
        key = jax.random.PRNGKey(2)
        params = svi.run(key, 3000, *arguments, progress_bar=False, **observed).params
        values = guide.sample_posterior(key, params, sample_shape=(1000,))
        return Draws(values, dict.fromkeys(values, 1000.0)), {n: params[n] for n in learnt}
    mcmc = MCMC(
        NUTS(program, init_strategy=init_to_median),
        num_warmup=DRAWS,
        num_samples=DRAWS,
        num_chains=CHAINS,
        chain_method="vectorized",
        progress_bar=False,
    )
    with contextlib.redirect_stderr(sys.stdout):
        mcmc.run(jax.random.PRNGKey(1), *arguments, **observed)
    chains = {n: np.asarray(v) for n, v in mcmc.get_samples(group_by_chain=True).items()}
    return Draws(mcmc.get_samples(), {n: _ess(v) for n, v in chains.items()}), {}


def _ess(chains) -> float:
    with np.errstate(invalid="ignore", divide="ignore"):
        return float(np.nanmin(effective_sample_size(chains)))


def _shifts(values, reference: Draws, ess: dict[str, float]) -> tuple[float, float, bool]:
    """The largest shift of a median, in deviations, and of the logarithm of a deviation.

    The third result is whether a shift is beyond its tolerance. ``ess`` is the effective sample
    sizes of the values.
    """
    shift = stretch = 0.0
    beyond = False
    for name in set(values) & set(reference.values):
        (low, middle, high), (low_r, middle_r, high_r) = (
            np.quantile(np.asarray(v, np.float64), (0.16, 0.5, 0.84), 0)
            for v in (values[name], reference.values[name])
        )
        spread, spread_r = (high - low) / 2, (high_r - low_r) / 2
        moving = spread_r > 1e-6 * (1 + abs(middle_r))
        if not moving.any():
            continue
        shifts = (abs(middle - middle_r) / spread_r)[moving]
        stretches = abs(np.log(np.maximum(spread, 1e-30) / spread_r)[moving])
        error = np.sqrt(1 / reference.ess[name] + 1 / ess.get(name, np.inf))
        tolerance = max(SHIFT, 4 * 1.25 * error)  # a median's error is 1.25 times a mean's
        beyond |= bool(max(shifts.max(), stretches.max()) > tolerance)
        shift, stretch = max(shift, shifts.max()), max(stretch, stretches.max())
    return float(shift), float(stretch), beyond


if __name__ == "__main__":
    sys.exit(main())
