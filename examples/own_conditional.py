"""A family of your own, conditional: p(x | y), whose y are covariates of each event."""

import jax
import jax.numpy as jnp
from numpyro.distributions import constraints

import jaxgen


class WaitGiven(jaxgen.Model):
    """A waiting time given y: log p(x | y) = log r - r x for x >= 0, with log r = w . y + b."""

    y_shape: tuple[int, ...]
    event_shape = (1,)
    support = constraints.independent(constraints.nonnegative, 1)

    def init(self, key, x=None, y=None):
        return {"w": jnp.zeros(self.y_shape), "b": jnp.zeros(1)}

    def log_prob(self, params, x, y=None):
        log_rate = params["w"] @ y + params["b"]
        return jnp.where(x >= 0, log_rate - jnp.exp(log_rate) * x, -jnp.inf).sum()

    def noise(self):
        return jaxgen.random.Uniform((1,))

    def push(self, params, noise, y=None):
        return -jnp.log(noise) * jnp.exp(-(params["w"] @ y + params["b"]))


if __name__ == "__main__":
    from own_conditional import WaitGiven  # so that a file names this module

    y = jax.random.normal(jax.random.key(0), (5000, 2))
    x = jax.random.exponential(jax.random.key(1), (5000, 1)) * jnp.exp(-y @ jnp.array([[1], [-2]]))
    fitted = jaxgen.fit(WaitGiven((2,)), x, y, key=jax.random.key(2))
    print(jaxgen.check(fitted, y=[0.5, 1.0]))
    fitted.save("waits_given.jaxgen")
    print("fitted w", fitted.params["w"], "of 1 and -2")
