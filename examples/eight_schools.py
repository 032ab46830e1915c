"""Eight schools: how much does coaching help, in each school and overall? (Rubin 1981)

    python examples/eight_schools.py

x is the effect that a school measured, and y is the standard error of x. The true effect of a
school is mu + tau z, where z is a local latent of its row. So mu and tau are the globals, which
NUTS draws, and p(x|y) is a density of schools. Expect the effects to shrink towards their mean: the
first school measured 28 and is estimated at 6.2, and the last measured 12 and is estimated at 4.9.
"""

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist

import jaxgen

x = np.array([28.0, 8, -3, 7, -1, 1, 18, 12])  # measured effects, points in a test
y = np.array([15.0, 10, 16, 11, 9, 11, 10, 18])  # their standard errors


def schools(y, x=None):
    mu = numpyro.sample("mu", dist.Normal(0, 5))
    tau = numpyro.sample("tau", dist.HalfCauchy(5))
    with numpyro.plate("schools", len(y)):
        z = numpyro.sample("z", dist.Normal(0, 1))
        effect = numpyro.deterministic("effect", mu + tau * z)
        numpyro.sample("x", dist.Normal(effect, y), obs=x)


nuts = jaxgen.numpyro.NUTS(draws=500, target_accept=0.99)
model = jaxgen.numpyro.from_program(schools, y_shape=(), posterior=nuts)
fitted = jaxgen.fit(model, x, y, key=jax.random.key(0))

draws = jaxgen.numpyro.posterior(fitted)  # of 4 chains, by site: (2000,)
exact = {"mu": "4.40 ± 3.32", "tau": "3.60 ± 3.22"}  # by quadrature
for name, value in draws.items():
    ess = fitted.history["ess"][name]
    print(f"{name:<4}{value.mean():.2f} ± {value.std():.2f}, exactly {exact[name]}; ESS {ess:.0f}")

# for each draw of the globals, one draw of the effect of each school: (2000, 8)
effects = jaxgen.numpyro.latents(fitted, jax.random.key(1), x, y)["effect"]

# the density integrates z with 100 samples; ESS is the effective number of them
found = jaxgen.numpyro.estimate(fitted, x, y, key=jax.random.key(2))
print("\nschool  measured    true effect   log p(x|y)   ESS")
for i, effect in enumerate(effects.T):
    line = f"{i + 1:<6}{x[i]:5.0f} ± {y[i]:<4.0f}{effect.mean():7.2f} ± {effect.std():.2f}"
    print(f"{line}{found.log_prob[i]:13.3f}{found.ess[i]:6.0f}")
print(f"log p(x|y) is {found.method}")
