"""A family of your own, unconditional: write it for one event; check, fit and save it."""

import jax
import jax.numpy as jnp
from numpyro.distributions import constraints

import jaxgen


class Exponential(jaxgen.Model):
    """Independent waiting times: log p(x) = sum_j log rate_j - rate_j x_j for x_j >= 0."""

    dim: int
    event_shape = property(lambda self: (self.dim,))
    support = constraints.independent(constraints.nonnegative, 1)

    def init(self, key, x=None, y=None):
        return {"log_rate": jnp.zeros(self.dim) if x is None else -jnp.log(x.mean(0))}

    def log_prob(self, params, x, y=None):
        score = jnp.sum(params["log_rate"] - jnp.exp(params["log_rate"]) * x)
        return jnp.where((x >= 0).all(), score, -jnp.inf)

    def noise(self):
        return jaxgen.random.Uniform((self.dim,))

    def push(self, params, noise, y=None):
        return -jnp.log(noise) * jnp.exp(-params["log_rate"])


if __name__ == "__main__":
    from own_model import Exponential  # so that a file names this module, which others can import

    x = jax.random.exponential(jax.random.key(0), (5000, 2)) / jnp.array([1.0, 4.0])
    fitted = jaxgen.fit(Exponential(), x, key=jax.random.key(1))
    print(jaxgen.check(fitted))
    fitted.save("waits.jaxgen")  # elsewhere: import own_model, then jaxgen.load("waits.jaxgen")
    print("fitted rates", jnp.exp(jaxgen.load("waits.jaxgen").params["log_rate"]), "of 1 and 4")
