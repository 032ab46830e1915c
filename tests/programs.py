"""NumPyro programs that the tests share, and data for some of them."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

_rng = np.random.default_rng(0)
# data of ``regression``
Y = _rng.normal(size=(100, 2))
X = Y @ [1.0, -0.5] + 0.3 * _rng.normal(size=100)
# data of ``schools``
EFFECTS = np.array([28.0, 8, -3, 7, -1, 1, 18, 12])
ERRORS = np.array([15.0, 10, 16, 11, 9, 11, 10, 18])


def regression(y, x=None):
    """A linear regression on two numbers."""
    slope = numpyro.sample("slope", dist.Normal(0, 1).expand([2]).to_event(1))
    scale = numpyro.sample("scale", dist.HalfNormal(1))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("x", dist.Normal(y @ slope, scale), obs=x)


def waits(n, x=None):
    """Exponential waiting times with an unknown rate."""
    rate = numpyro.sample("rate", dist.Gamma(3.0, 1.0))
    with numpyro.plate("rows", n):
        numpyro.sample("x", dist.Exponential(rate), obs=x)


def kinds(n, x=None):
    """A mixture, with the component of each row as a discrete latent."""
    share = numpyro.sample("share", dist.Beta(2, 2))
    centers = jnp.array([-2.0, 1.5])
    with numpyro.plate("rows", n):
        kind = numpyro.sample("kind", dist.Bernoulli(share))
        numpyro.sample("x", dist.Normal(centers[kind], 0.7), obs=x)


LOADINGS = jnp.array([[1.0, 0.5], [0.0, 2.0], [-1.0, 1.0]])


def factors(n, x=None):
    """Factor analysis: three numbers depend linearly on two latents of the row, with noise."""
    noise = numpyro.param("noise", 0.5, constraint=dist.constraints.positive)
    with numpyro.plate("rows", n):
        z = numpyro.sample("z", dist.Normal(0, 1).expand([2]).to_event(1))
        numpyro.sample("x", dist.Normal(z @ LOADINGS.T, noise).to_event(1), obs=x)


def classes(y, x=None):
    """Points of three classes, with centers and spreads as params."""
    center = numpyro.param("center", jnp.array([[0.0, 0.0], [3.0, 0.0], [0.0, 3.0]]))
    scale = numpyro.param("scale", jnp.ones(3), constraint=dist.constraints.positive)
    with numpyro.plate("rows", len(y)):
        numpyro.sample("x", dist.Normal(center[y], scale[y][:, None]).to_event(1), obs=x)


def counts(y, x=None):
    """Counts given one number."""
    level = numpyro.sample("level", dist.Normal(0, 1))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("x", dist.Poisson(jnp.exp(0.3 * level + y)), obs=x)


def normal(n, x=None):
    """Normal numbers of unit variance whose mean has a standard normal prior."""
    mean = numpyro.sample("mean", dist.Normal(0, 1))
    with numpyro.plate("rows", n):
        numpyro.sample("x", dist.Normal(mean, 1), obs=x)


def scaled(n, x=None):
    """Normal numbers with an unknown scale."""
    scale = numpyro.sample("scale", dist.HalfNormal(1))
    with numpyro.plate("rows", n):
        numpyro.sample("x", dist.Normal(0, scale), obs=x)


def schools(sigma, x=None):
    """Eight schools, noncentred, with an effect for each."""
    mu = numpyro.sample("mu", dist.Normal(0, 5))
    tau = numpyro.sample("tau", dist.HalfCauchy(5))
    with numpyro.plate("schools", len(sigma)):
        base = numpyro.sample("base", dist.Normal(0, 1))
        effect = numpyro.deterministic("effect", mu + tau * base)
        numpyro.sample("x", dist.Normal(effect, sigma), obs=x)
