"""A model of your own: write it for one event, and jaxgen adds batches, fits, samples and tests."""

import jax
import jax.numpy as jnp

import jaxgen


class Exponential(jaxgen.Model):
    """Independent waiting times: log p(x) = sum_j log rate_j - rate_j x_j for x_j >= 0."""

    dim: int

    @property
    def event_shape(self):
        return (self.dim,)

    def init(self, key, x=None, y=None):
        return {"log_rate": jnp.zeros(self.dim) if x is None else -jnp.log(x.mean(0))}

    def log_prob(self, params, x, y=None):
        score = jnp.sum(params["log_rate"] - jnp.exp(params["log_rate"]) * x)
        return jnp.where((x >= 0).all(), score, -jnp.inf)

    def noise(self):
        return jaxgen.random.Uniform((self.dim,))

    def push(self, params, noise, y=None):
        return -jnp.log(noise) * jnp.exp(-params["log_rate"])


model = Exponential(2)
print(jaxgen.check(model))
x = jax.random.exponential(jax.random.key(0), (5000, 2)) / jnp.array([1.0, 4.0])
fitted = jaxgen.fit(model, x, key=jax.random.key(1), epochs=20)
print("fitted rates", jnp.exp(fitted.params["log_rate"]), "and the true rates are 1 and 4")
print("three new events", fitted.sample(jax.random.key(2), 3))
