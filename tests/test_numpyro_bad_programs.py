"""Invalid programs, guides and proposals raise one clear error that names the site."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import programs
import pytest
from numpyro import handlers
from numpyro.infer.autoguide import AutoLaplaceApproximation

import jaxgen
from jaxgen.numpyro import NUTS, Guide, Point, from_program, sbc


def no_observed(n):
    with numpyro.plate("rows", n):
        numpyro.sample("z", dist.Normal(0, 1))


def already_observed(n):
    with numpyro.plate("rows", n):
        numpyro.sample("x", dist.Normal(0, 1), obs=jnp.zeros(n))


def outside_the_plate(n, x=None):
    with numpyro.plate("rows", n):
        numpyro.sample("z", dist.Normal(0, 1))
    numpyro.sample("x", dist.Normal(0, 1).expand([n]).to_event(1), obs=x)


def plate_of_fixed_size(n, x=None):
    with numpyro.plate("rows", 10):
        numpyro.sample("x", dist.Normal(0, 1), obs=x)


def two_plates(n, x=None):
    with numpyro.plate("first", n, dim=-2), numpyro.plate("second", n, dim=-1):
        numpyro.sample("x", dist.Normal(0, 1), obs=x)


def row_of_varying_shape(n, x=None):
    with numpyro.plate("rows", n):
        numpyro.sample("x", dist.Normal(0, 1).expand([2 * n]).to_event(1), obs=x)


def subsampled(n, x=None):
    with numpyro.plate("rows", n, subsample_size=1):
        numpyro.sample("x", dist.Normal(0, 1), obs=x)


def subsampled_of_many(n, x=None):
    with numpyro.plate("rows", 100, subsample_size=n):
        numpyro.sample("x", dist.Normal(0, 1), obs=x)


def clash(n, x=None):
    numpyro.sample("a", dist.Normal(0, 1))
    numpyro.sample("a", dist.Normal(0, 1))
    with numpyro.plate("rows", n):
        numpyro.sample("x", dist.Normal(0, 1), obs=x)


def varying_latent(n, x=None):
    z = numpyro.sample("z", dist.Normal(0, 1).expand([n]).to_event(1))
    with numpyro.plate("rows", n):
        numpyro.sample("x", dist.Normal(z, 1), obs=x)


def prior_depends_on_rows(y, x=None):
    z = numpyro.sample("z", dist.Normal(y.mean(), 1))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("x", dist.Normal(z, 1), obs=x)


def row_depends_on_rows(y, x=None):
    with numpyro.plate("rows", len(y)):
        numpyro.sample("x", dist.Normal(y - y.mean(), 1), obs=x)


def discrete_global(n, x=None):
    k = numpyro.sample("k", dist.Bernoulli(0.5))
    with numpyro.plate("rows", n):
        numpyro.sample("x", dist.Normal(k, 1), obs=x)


def improper(n, x=None):
    z = numpyro.sample("z", dist.ImproperUniform(dist.constraints.real, (), ()))
    with numpyro.plate("rows", n):
        numpyro.sample("x", dist.Normal(z, 1), obs=x)


def two_observed(n, x=None):
    with numpyro.plate("rows", n):
        numpyro.sample("x", dist.Normal(0, 1), obs=x)
        numpyro.factor("extra", -jnp.ones(n))


def scaled(n, x=None):
    with numpyro.plate("rows", n), handlers.scale(scale=2.0):
        numpyro.sample("x", dist.Normal(0, 1), obs=x)


def param_in_plate(n, x=None):
    with numpyro.plate("rows", n):
        a = numpyro.param("a", jnp.zeros(()))
        numpyro.sample("x", dist.Normal(a, 1), obs=x)


def too_many_values(n, x=None):
    with numpyro.plate("rows", n, dim=-2), numpyro.plate("words", 8, dim=-1):
        k = numpyro.sample("k", dist.Categorical(jnp.ones(4) / 4))
        numpyro.sample("x", dist.Normal(k, 1), obs=x)


def endless_values(n, x=None):
    with numpyro.plate("rows", n):
        k = numpyro.sample("k", dist.Poisson(1.0))
        numpyro.sample("x", dist.Normal(k, 1), obs=x)


def depends_on_position(n, x=None):
    slope = numpyro.sample("slope", dist.Normal(0, 10))
    with numpyro.plate("rows", n):
        numpyro.sample("x", dist.Normal(slope * jnp.arange(n), 1), obs=x)


def adds_up(y, x=None):
    with numpyro.plate("rows", len(y)):
        numpyro.sample("x", dist.Normal(jnp.cumsum(y), 1), obs=x)


def factor_of_rows(y, x=None):
    slope = numpyro.sample("slope", dist.Normal(0, 10))
    numpyro.factor("penalty", -0.5 * jnp.sum((slope * y) ** 2))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("x", dist.Normal(slope * y, 1), obs=x)


def subsampled_elsewhere(n, x=None):
    mean = numpyro.sample("mean", dist.Normal(0, 10))
    with numpyro.plate("others", 9, subsample_size=3) as chosen:
        numpyro.sample("other", dist.Normal(mean, 3), obs=jnp.arange(9.0)[chosen])
    with numpyro.plate("rows", n):
        numpyro.sample("x", dist.Normal(mean, 1), obs=x)


def masked_latent(y, x=None):
    with numpyro.plate("rows", len(y)), handlers.mask(mask=y > 0.5):
        z = numpyro.sample("z", dist.Normal(0, 1))
        numpyro.sample("x", dist.Normal(z, 1), obs=x)


def scaled_by_row(y, x=None):
    with numpyro.plate("rows", len(y)), handlers.scale(scale=y):
        numpyro.sample("x", dist.Normal(0, 1), obs=x)


def branches(n, x=None):
    mean = numpyro.sample("mean", dist.Normal(0, 10))
    with numpyro.plate("rows", n):
        numpyro.sample("x", dist.Normal(mean if mean > 0 else -mean, 1), obs=x)


def concatenates(y, x=None):
    mean = numpyro.sample("mean", dist.Normal(0, 10))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("x", dist.Normal(mean + jnp.concatenate([y, y, y[:, None]]), 1), obs=x)


def autoregression(n, x=None):
    rho = numpyro.sample("rho", dist.Uniform(-1, 1))
    with numpyro.plate("rows", n):
        before = 0.0 if x is None else jnp.concatenate([jnp.zeros(1), x[:-1]])
        numpyro.sample("x", dist.Normal(rho * before, 1), obs=x)


def factor_of_x(n, x=None):
    mean = numpyro.sample("mean", dist.Normal(0, 10))
    if x is not None:
        numpyro.factor("extra", -jnp.abs(x - mean).sum())
    with numpyro.plate("rows", n):
        numpyro.sample("x", dist.Normal(mean, 1), obs=x)


def latent_without_x(n, x=None):
    scale = numpyro.sample("scale", dist.HalfNormal(1)) if x is None else 1.0
    with numpyro.plate("rows", n):
        numpyro.sample("x", dist.Normal(0, scale), obs=x)


def needs_more(n, x):
    with numpyro.plate("rows", n):
        numpyro.sample("x", dist.Normal(0, 1), obs=x)


DEPENDENT = "site 'x' of made-up row 2 depends on its position or on other rows"
BAD = [
    (no_observed, None, "has no observed site 'x'.*'z'"),
    (already_observed, None, "site 'x' must be free"),
    (outside_the_plate, None, "'x' must be in a plate over the rows.*no plate"),
    (plate_of_fixed_size, None, "of size 2 for 2 rows.*'rows' of size 10"),
    (two_plates, None, "'x' must be in one plate over the rows.*'second'"),
    (row_of_varying_shape, None, r"site 'x' must have one shape for a row.*\(1, 4\).*\(1, 6\)"),
    (subsampled, None, "of size 2 for 2 rows|subsample_size"),
    (subsampled_of_many, None, "'rows' must have no subsample_size"),
    (clash, None, "two sites have one name.*`a`"),
    (varying_latent, None, r"latent 'z' is outside.*shape depends.*\(2,\).*\(3,\)"),
    (prior_depends_on_rows, (), "latent 'z' is outside.*depends on the rows"),
    (row_depends_on_rows, (), DEPENDENT),
    (depends_on_position, None, DEPENDENT),
    (adds_up, (), DEPENDENT),
    (factor_of_rows, (), "factor 'penalty' is outside.*depends on the rows"),
    (subsampled_elsewhere, None, "'others' must have no subsample_size"),
    (masked_latent, (), "latent 'z' must not be masked"),
    (scaled_by_row, (), "site 'x' must not be scaled"),
    (branches, None, "must run when called.*TracerBool"),
    (concatenates, (), "must run when called.*Error.*pass y_domain, or classes"),
    (autoregression, None, DEPENDENT),
    (factor_of_x, None, "factor 'extra' is outside.*depends on the rows"),
    (latent_without_x, None, "'scale' must exist whether x is given or not"),
    (discrete_global, None, "latent 'k' is discrete and outside the plate"),
    (improper, None, "'z' must have a proper distribution"),
    (two_observed, None, "site 'extra' in the plate 'rows' is observed too"),
    (scaled, None, "site 'x' must not be scaled"),
    (param_in_plate, None, "param 'a' must be outside the plate"),
    (too_many_values, None, "65536 values together"),
    (endless_values, None, "'k' is discrete, but its values cannot be enumerated"),
    (needs_more, None, "called with the number of rows alone"),
]


@pytest.mark.parametrize(("program", "y_shape", "message"), BAD, ids=[b[0].__name__ for b in BAD])
def test_bad_programs(program, y_shape, message):
    with pytest.raises(ValueError, match=message) as error:
        from_program(program, y_shape=y_shape)
    assert program.__name__ in str(error.value)
    assert "\n" not in str(error.value)


def misses_a_site(y):
    numpyro.sample("slope", dist.Normal(0, 1).expand([2]).to_event(1))


def wrong_shape(y):
    numpyro.sample("slope", dist.Normal(0, 1).expand([3]).to_event(1))
    numpyro.sample("scale", dist.LogNormal(0, 1))


def leaves_the_support(y):
    numpyro.sample("slope", dist.Normal(0, 1).expand([2]).to_event(1))
    numpyro.sample("scale", dist.Normal(0, 1))


def clashing_guide(y):
    numpyro.param("slope", jnp.zeros(2))
    numpyro.sample("slope", dist.Normal(0, 1).expand([2]).to_event(1))


def improper_guide(y):
    numpyro.sample("slope", dist.Normal(0, 1).expand([2]).to_event(1))
    numpyro.sample("scale", dist.ImproperUniform(dist.constraints.positive, (), ()))


def guide_of_rows(y):
    numpyro.sample("slope", dist.Normal(y.mean(), 1).expand([2]).to_event(1))
    numpyro.sample("scale", dist.LogNormal(0, 1))


@pytest.mark.parametrize(
    ("guide", "message"),
    [
        (misses_a_site, r"must sample the globals \['scale', 'slope'\].*\['slope'\]"),
        (wrong_shape, r"site 'slope' must have shape \(2,\), got \(3,\)"),
        (leaves_the_support, "site 'scale' is drawn outside the support.*-"),
        (clashing_guide, "two sites have one name.*`slope`"),
        (improper_guide, "proper distributions"),
        (guide_of_rows, "site 'slope' must not depend on the rows"),
        (AutoLaplaceApproximation, "AutoLaplaceApproximation.*after a fit"),
    ],
)
def test_bad_guides(guide, message):
    with pytest.raises(ValueError, match=message) as error:
        from_program(programs.regression, y_shape=(2,), posterior=Guide(guide))
    assert guide.__name__ in str(error.value)


def test_bad_arguments():
    flow = jaxgen.models.SplineCoupling(2, y_shape=(2,))
    with pytest.raises(TypeError, match="program must be a function"):
        from_program("regression")
    with pytest.raises(ValueError, match=r"y_shape must be \(\)"):
        from_program(programs.classes, y_shape=(2,), classes=3)
    with pytest.raises(ValueError, match=r"y_shape \(3,\) for program .*factors, got \(2,\)"):
        from_program(programs.factors, proposal=flow)
    with pytest.raises(ValueError, match=r"proposal: .*no continuous local latents"):
        from_program(programs.kinds, proposal=flow)
    with pytest.raises(ValueError, match=r"NUTS draws no numpyro.param.*noise"):
        from_program(programs.factors, posterior=NUTS())
    model = from_program(programs.waits, posterior=NUTS(4, 4, 1))
    with pytest.raises(ValueError, match="optimizer does not apply"):
        jaxgen.fit(model, np.ones(3), key=jax.random.key(0), optimizer=optax.adam(1e-3))
    with pytest.raises(TypeError, match="posterior must be a Posterior"):
        from_program(programs.waits, posterior="nuts")
    with pytest.raises(ValueError, match="draws of NUTS must be at least 4"):
        from_program(programs.waits, posterior=NUTS(draws=2))
    of_two_fits = {"posterior": {"draws": {"rate": jnp.ones((2, 4))}}, "program": {}}
    many = jaxgen.Fitted(model, of_two_fits)
    with pytest.raises(ValueError, match=r"'rate' of shape \(4,\), got \(2, 4\).*vmap"):
        many.log_prob(np.ones(3))
    with pytest.raises(ValueError, match=r"from their prior alone.*\['hint'\]"):
        sbc(from_program(hinted, posterior=Point()), n=3, key=jax.random.key(0))


def hinted(n, x=None):
    mean = numpyro.sample("mean", dist.Normal(0, 1))
    numpyro.factor("hint", -2 * (mean - 2) ** 2)
    with numpyro.plate("rows", n):
        numpyro.sample("x", dist.Normal(mean, 1), obs=x)


def test_programs_that_share_a_name_are_distinguished_or_warned_of(tmp_path):
    def make(mean):
        def program(n, x=None):
            with numpyro.plate("rows", n):
                numpyro.sample("x", dist.Normal(mean, 1), obs=x)

        return from_program(program)

    first, path = make(1.0), tmp_path / "first.jaxgen"
    jaxgen.Fitted(first, {"program": {}}).save(path)
    jaxgen.load(path)
    assert make(5.0) != first
    with (
        pytest.warns(RuntimeWarning, match="several programs were given the name"),
        pytest.raises(
            ValueError, match=r"not the one in the file: 'mean', which it reads, .*values"
        ),
    ):
        jaxgen.load(path)


def test_an_unknown_program_in_a_file(tmp_path):
    model = from_program(programs.kinds, posterior=Point())
    path = tmp_path / "kinds.jaxgen"
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    params = jax.tree_util.tree_map(lambda v: np.zeros(v.shape, v.dtype), shapes)
    jaxgen.Fitted(model, params).save(path)
    damaged = path.read_bytes().replace(b"programs.kinds", b"programs.kinda")
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match=r"sha256|damaged|unknown program"):
        jaxgen.load(path)


def test_the_site_whose_log_p_is_nan_is_named():
    def program(y, x=None):
        mean = numpyro.sample("mean", dist.Normal(0, 1))
        with numpyro.plate("rows", len(y)):
            numpyro.sample("x", dist.Normal(mean, 1 - y, validate_args=False), obs=x)

    x, y = np.zeros(4), np.array([0.0, 0.5, 3.0, 0.25])
    model = from_program(program, y_shape=(), posterior=Point())
    with pytest.raises(ValueError, match=r"site 'x' is NaN for row 2: a parameter of Normal"):
        jaxgen.fit(model, x, y, key=jax.random.key(0))
