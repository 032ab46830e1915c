"""Density of a mixture of normals: scikit-learn, NumPyro and distrax with the same params."""

from benchmarks import twins
from benchmarks.harness import agreement


def run(harness):
    n, dim = harness.pick(200_000, 2_000), 8
    for components, least in harness.pick(((10, 30), (100, 80)), ((10, 30),)):
        mixture = twins.Mixture(dim, components)
        makes = {
            "jaxgen": mixture.ours_log_prob,
            "scikit-learn": lambda x, m=mixture: m.scikit_log_prob(x, "f8"),  # its default
            "scikit-learn, float32": mixture.scikit_log_prob,
            "NumPyro": mixture.numpyro_log_prob,
            "distrax": mixture.distrax_log_prob,
        }
        yield from harness.compare(
            f"{n:,} x {dim}, {components} components",
            mixture.events(n),
            makes,
            {"scikit-learn": least, "scikit-learn, float32": least},
            n=n,
            work=("flops", n * mixture.flops),
            examine=agreement(1e-3),
        )
