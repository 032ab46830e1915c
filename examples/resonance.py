"""Four-vectors with a resonance: a fast surrogate of a simulation, and a fraction by its gradient.

    python examples/resonance.py

Two flows learn simulated pairs of muons, of decays and of background. Gradients of their mixture
find the fraction of decays in new data, and the mixture draws ten million pairs. The figure is
``resonance.png``.
"""

import jax
import numpy as np
from matplotlib.figure import Figure

import jaxgen

rng, names = np.random.default_rng(0), ("mass (GeV)", "pt (GeV)", "rapidity", "phi")


def simulate(n, decay):  # (n, 4)
    mass = 91.2 + 1.7 * rng.standard_t(4, n) if decay else 60 + rng.exponential(30, n)
    pt = rng.gamma(2, 10 if decay else 6, n)
    return np.stack([mass, pt, rng.normal(0, 1.2, n), rng.uniform(-np.pi, np.pi, n)], 1)


positive, real, circle = jaxgen.domains.Positive(), jaxgen.domains.Real(), jaxgen.domains.Circle
flow = jaxgen.models.SplineCoupling(4, domain=(positive, positive, real, circle(-np.pi, np.pi)))
samples = simulate(10_000, True), simulate(10_000, False)
fits = [jaxgen.fit(flow, x, key=jax.random.key(0), epochs=20) for x in samples]
both = jaxgen.compose.MixtureGeneral((flow, flow))
data = np.concatenate([simulate(1_000, True), simulate(9_000, False)])  # a tenth are decays


def params_at(fraction):
    return both.params_of([fraction, 1 - fraction], *(fitted.params for fitted in fits))


slope = jax.jit(jax.grad(lambda fraction: jaxgen.log_prob(both, params_at(fraction), data).mean()))
fraction = 0.5
for _ in range(40):
    fraction = float(np.clip(fraction + 0.1 * slope(fraction), 0.01, 0.99))
print(f"fraction of decays: {fraction:.3f}")
surrogate = jaxgen.Fitted(both, params_at(fraction))
pairs = surrogate.sample(jax.random.key(1), 10_000_000)
figure = Figure(figsize=(10, 3), layout="constrained")
for ax, name, drawn, seen in zip(figure.subplots(1, 4), names, pairs.T, data.T, strict=True):
    bins = np.linspace(*np.quantile(seen, [0.001, 0.995]), 60)
    ax.hist(seen, bins, density=True, color="0.8", label="10,000 events of the data")
    ax.hist(drawn[:1_000_000], bins, density=True, histtype="step", color="navy", label="surrogate")
    ax.set(xlabel=name, yticks=[])
figure.legend(*ax.get_legend_handles_labels(), loc="outside upper center", ncols=2)
figure.savefig("resonance.png", dpi=130)
