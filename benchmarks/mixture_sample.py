"""Draws from a mixture of normals: scikit-learn, NumPyro and distrax with the same params."""

from benchmarks import twins


def run(harness):
    n, dim = harness.pick(200_000, 2_000), 8
    for components in harness.pick((10, 100), (10,)):
        mixture = twins.Mixture(dim, components)
        makes = {
            "jaxgen": mixture.ours_sample,
            "scikit-learn": mixture.scikit_sample,
            "NumPyro": mixture.numpyro_sample,
            "distrax": mixture.distrax_sample,
        }
        case, work = f"{n:,} x {dim}, {components} components", ("bytes", 4 * dim * n)
        targets = {"scikit-learn": 3, "NumPyro": 10, "distrax": 10}
        targets = targets if components == 10 else {"scikit-learn": 4}
        yield from harness.compare(case, n, makes, targets, n=n, work=work)
