"""A NumPyro program in jaxgen, and in NumPyro's Predictive, log_likelihood, SVI and MCMC."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
from numpyro.infer import MCMC, NUTS, SVI, Predictive, Trace_ELBO, log_likelihood
from numpyro.infer.autoguide import AutoMultivariateNormal, AutoNormal

import jaxgen
from benchmarks.twins import KEY
from jaxgen import numpyro as bridge
from jaxgen.training import Adam

RATE = 0.01


def regression(y, x=None):
    """16 numbers given 8."""
    slope = numpyro.sample("slope", dist.Normal(0, 1).expand([8, 16]).to_event(2))
    scale = numpyro.sample("scale", dist.HalfNormal(1))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("x", dist.Normal(y @ slope, scale).to_event(1), obs=x)


def line(y, x=None):
    """One number given two."""
    slope = numpyro.sample("slope", dist.Normal(0, 1).expand([2]).to_event(1))
    scale = numpyro.sample("scale", dist.HalfNormal(1))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("x", dist.Normal(y @ slope, scale), obs=x)


def cloud(n, x=None):
    """16 numbers around an unknown center."""
    center = numpyro.sample("center", dist.Normal(0, 1).expand([16]).to_event(1))
    with numpyro.plate("rows", n):
        numpyro.sample("x", dist.Normal(center, 1).to_event(1), obs=x)


def run(harness):
    draws, rows = harness.pick((1000, 100), (20, 10))
    rng = np.random.default_rng(0)
    model = bridge.from_program(
        regression, y_shape=(8,), posterior=bridge.NUTS(draws=draws, chains=1)
    )
    fitted = jaxgen.Fitted(model, model.init(KEY))
    values = bridge.posterior(fitted)
    y = rng.normal(size=(rows, 8)).astype(np.float32)
    x = np.asarray(bridge.predictive(fitted, KEY, y))[0]
    yield from _predictive(harness, f"{draws} draws x {rows} rows x 16", fitted, values, y)
    yield from _scores(harness, f"{draws} draws x {rows} rows x 16", fitted, values, x, y)

    y = rng.normal(size=(rows, 2)).astype(np.float32)
    x = (y @ [1.0, -0.5] + 0.3 * rng.normal(size=rows)).astype(np.float32)
    yield from _fits(harness, x, y)
    yield from _many(harness, x, y)
    for n in harness.pick((100_000, 1_000_000), (1000,)):
        yield from _stream(harness, n)


def _predictive(harness, of, fitted, values, y):
    def ours(y):
        return lambda: bridge.predictive(fitted, KEY, y)

    def default(y):
        predictive = Predictive(regression, values)
        return lambda: predictive(jax.random.PRNGKey(0), y)["x"]

    def compiled(y):
        def draw(key, values, y):
            return Predictive(regression, values, parallel=True)(key, y)["x"]

        draw = jax.jit(draw)
        return lambda: draw(jax.random.PRNGKey(0), values, y)

    makes = {"jaxgen": ours, "numpyro": default, "numpyro, jit, parallel": compiled}
    targets = {"numpyro": 50, "numpyro, jit, parallel": 1}
    yield from harness.compare(f"posterior predictive, {of}", y, makes, targets)


def _scores(harness, of, fitted, values, x, y):
    def ours(y):
        return lambda: bridge.log_likelihood(fitted, x, y)

    def eager(y):
        return lambda: log_likelihood(regression, values, y, x=x)["x"]

    def compiled(y):
        score = jax.jit(lambda values, y, x: log_likelihood(regression, values, y, x=x)["x"])
        return lambda: score(values, y, x)

    makes = {"jaxgen": ours, "numpyro": eager, "numpyro, jit": compiled}
    yield from harness.compare(f"log-likelihood of rows, {of}", y, makes, {"numpyro": 100})


def _fits(harness, x, y):
    steps, shift = harness.pick(1000, 10), iter(np.linspace(0, 1, 1_000_000))

    def ours(posterior):
        model = bridge.from_program(line, y_shape=(2,), posterior=posterior)
        more = {"epochs": steps, "optimizer": Adam(RATE), "progress": False}
        return lambda y: lambda: jaxgen.fit(model, x + next(shift), y, key=KEY, **more).params

    def peer(guide):
        svi = SVI(line, guide(line), optax.adam(RATE), Trace_ELBO())
        key = jax.random.PRNGKey(0)
        return lambda y: lambda: svi.run(key, steps, y, x + next(shift), progress_bar=False).params

    case = f"second fit, {steps} SVI steps on new data of equal shape"
    makes = {"jaxgen": ours(bridge.MeanField()), "numpyro": peer(AutoNormal)}
    yield from harness.compare(f"{case}, mean field", y, makes, {"numpyro": 50})
    makes = {"jaxgen": ours(bridge.FullRank()), "numpyro": peer(AutoMultivariateNormal)}
    yield from harness.compare(f"{case}, full rank", y, makes, {"numpyro": 50})

    kept = harness.pick(500, 10)
    drawn = bridge.from_program(line, y_shape=(2,), posterior=bridge.NUTS(kept, kept, 1))

    def by_nuts(y):
        return lambda: jaxgen.fit(drawn, x + next(shift), y, key=KEY, progress=False).params

    def by_mcmc(y):
        mcmc = MCMC(NUTS(line), num_warmup=kept, num_samples=kept, progress_bar=False)

        def call():
            mcmc.run(jax.random.PRNGKey(0), y, x + next(shift))
            return mcmc.get_samples()

        return call

    case = f"second posterior, {kept} draws by NUTS on new data of equal shape"
    yield from harness.compare(case, y, {"jaxgen": by_nuts, "numpyro": by_mcmc})


def _many(harness, x, y):
    count, epochs = harness.pick((64, 1000), (2, 10))
    data = np.stack([x + shift for shift in np.linspace(0, 1, count)])
    model = bridge.from_program(line, y_shape=(2,), posterior=bridge.MeanField())
    more = {"epochs": epochs, "optimizer": Adam(RATE), "progress": False}

    def together(y):
        return lambda: jaxgen.fit_each(model, data, y, key=KEY, **more).params

    def in_turn(y):
        return lambda: [jaxgen.fit(model, x, y, key=KEY, **more).params for x in data]

    makes = {"jaxgen": together, "jaxgen, in turn": in_turn}
    case = f"{count} fits of {epochs} SVI steps, each to data of its own"
    yield from harness.compare(case, y, makes, {"jaxgen, in turn": 1})

    kept = harness.pick(250, 10)
    drawn = bridge.from_program(line, y_shape=(2,), posterior=bridge.NUTS(kept, kept, 1))

    def nuts_together(y):
        return lambda: jaxgen.fit_each(drawn, data, y, key=KEY, progress=False).params

    def nuts_in_turn(y):
        return lambda: [jaxgen.fit(drawn, x, y, key=KEY, progress=False).params for x in data]

    makes = {"jaxgen": nuts_together, "jaxgen, in turn": nuts_in_turn}
    case = f"{count} posteriors of {kept} draws by NUTS"
    yield from harness.compare(case, y, makes)


def _stream(harness, n):
    model = bridge.from_program(cloud)
    fitted = jaxgen.Fitted(model, model.init(KEY))

    def ours(n):
        def call():
            total = jnp.zeros(16)
            for block in fitted.stream(KEY, n):
                total = total + block.sum(0)
            return total

        return call

    target = {"jaxgen": "peak_mib <= 64"}
    case = f"{n:,} predictive rows x 16, streamed"
    yield from harness.compare(case, n, {"jaxgen": ours}, target, n=n)
