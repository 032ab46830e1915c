"""Eight schools: how much does coaching help, in each school and overall? (Rubin 1981)

The effect x that a school measured has the standard error y. Its true effect is mu + tau z, with z
a local latent of its row, so that mu and tau are the globals and p(x|y) is a density of schools.
NUTS draws the globals. Expect the effects to be pulled together, as the standard errors leave room
for it: the first school, measured at 28, comes to 6.2, and the last, at 12, to 4.9.
"""

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist

import jaxgen
from jaxgen.numpyro import NUTS, estimate, from_program, latents, posterior

x = np.array([28.0, 8, -3, 7, -1, 1, 18, 12])  # measured effects, points in a test
y = np.array([15.0, 10, 16, 11, 9, 11, 10, 18])  # their standard errors


def schools(y, x=None):
    mu = numpyro.sample("mu", dist.Normal(0, 5))
    tau = numpyro.sample("tau", dist.HalfCauchy(5))
    with numpyro.plate("schools", len(y)):
        z = numpyro.sample("z", dist.Normal(0, 1))
        effect = numpyro.deterministic("effect", mu + tau * z)
        numpyro.sample("x", dist.Normal(effect, y), obs=x)


model = from_program(schools, y_shape=(), posterior=NUTS(draws=500, target_accept=0.99))
fitted = jaxgen.fit(model, x, y, key=jax.random.key(0))

draws = posterior(fitted)  # of 4 chains, by site: (2000,)
exact = {"mu": "4.40 ± 3.32", "tau": "3.60 ± 3.22"}  # by quadrature
for name, value in draws.items():
    ess = fitted.history["ess"][name]
    print(f"{name:<4}{value.mean():.2f} ± {value.std():.2f}, exactly {exact[name]}; ESS {ess:.0f}")

# for each draw of the globals one of every school's effect
effects = latents(fitted, jax.random.key(1), x, y)["effect"]  # (2000, 8)

# the density integrates z over 100 samples, and the ESS tells how many of them count
found = estimate(fitted, x, y, key=jax.random.key(2))
print("\nschool  measured    true effect   log p(x|y)   ESS")
for i, effect in enumerate(effects.T):
    line = f"{i + 1:<6}{x[i]:5.0f} ± {y[i]:<4.0f}{effect.mean():7.2f} ± {effect.std():.2f}"
    print(f"{line}{found.log_prob[i]:13.3f}{found.ess[i]:6.0f}")
print(f"log p(x|y) is {found.method}")
