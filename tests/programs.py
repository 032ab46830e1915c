"""NumPyro programs that the tests share."""

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist


def regression(y, x=None):
    """One number given two."""
    slope = numpyro.sample("slope", dist.Normal(0, 1).expand([2]).to_event(1))
    scale = numpyro.sample("scale", dist.HalfNormal(1))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("x", dist.Normal(y @ slope, scale), obs=x)


def waits(n, x=None):
    """Positive numbers, whose rate is not known."""
    rate = numpyro.sample("rate", dist.Gamma(3.0, 1.0))
    with numpyro.plate("rows", n):
        numpyro.sample("x", dist.Exponential(rate), obs=x)


def kinds(n, x=None):
    """A mixture whose component is a discrete latent of each row."""
    share = numpyro.sample("share", dist.Beta(2, 2))
    centers = jnp.array([-2.0, 1.5])
    with numpyro.plate("rows", n):
        kind = numpyro.sample("kind", dist.Bernoulli(share))
        numpyro.sample("x", dist.Normal(centers[kind], 0.7), obs=x)


LOADINGS = jnp.array([[1.0, 0.5], [0.0, 2.0], [-1.0, 1.0]])


def factors(n, x=None):
    """Three numbers that two latent ones of each row make, linearly, with noise."""
    noise = numpyro.param("noise", 0.5, constraint=dist.constraints.positive)
    with numpyro.plate("rows", n):
        z = numpyro.sample("z", dist.Normal(0, 1).expand([2]).to_event(1))
        numpyro.sample("x", dist.Normal(z @ LOADINGS.T, noise).to_event(1), obs=x)


def classes(y, x=None):
    """Points of three classes, whose centers and spreads are learnt by likelihood."""
    center = numpyro.param("center", jnp.array([[0.0, 0.0], [3.0, 0.0], [0.0, 3.0]]))
    scale = numpyro.param("scale", jnp.ones(3), constraint=dist.constraints.positive)
    with numpyro.plate("rows", len(y)):
        numpyro.sample("x", dist.Normal(center[y], scale[y][:, None]).to_event(1), obs=x)


def counts(y, x=None):
    """Whole numbers given one."""
    level = numpyro.sample("level", dist.Normal(0, 1))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("x", dist.Poisson(jnp.exp(0.3 * level + y)), obs=x)
