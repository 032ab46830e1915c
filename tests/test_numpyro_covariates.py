"""Programs that take covariates by name: tables of them, dtypes, files and errors."""

import functools
import json
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import jaxgen
from jaxgen.numpyro import Guide, Point, from_program, predictive
from jaxgen.numpyro.covariates import Covariate, _covariate

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
FRAME = pd.DataFrame(RNG.normal(size=(40, 2)), columns=["y", "x"])
FRAME["group"] = np.arange(40) % 4
X, GROUP, Y = FRAME["x"].to_numpy(), FRAME["group"].to_numpy(), FRAME["y"].to_numpy()


def hierarchical(x, group, y=None):
    slope = numpyro.sample("slope", dist.Normal(0, 1))
    with numpyro.plate("groups", 4):
        level = numpyro.sample("level", dist.Normal(0, 1))
    with numpyro.plate("rows", len(x)):
        numpyro.sample("obs", dist.Normal(level[group] + slope * x, 1), obs=y)


def packed(y, x=None):
    slope = numpyro.sample("slope", dist.Normal(0, 1))
    with numpyro.plate("groups", 4):
        level = numpyro.sample("level", dist.Normal(0, 1))
    with numpyro.plate("rows", len(y)):
        mean = level[y[:, 1].astype(int)] + slope * y[:, 0]
        numpyro.sample("obs", dist.Normal(mean, 1), obs=x)


@pytest.fixture(scope="module")
def fitted():
    model = from_program(hierarchical, covariates=FRAME, posterior=Point())
    return jaxgen.fit(model, FRAME["y"], FRAME, key=KEY, epochs=20)


def test_a_program_with_covariates_is_the_program_of_an_array(fitted):
    model = from_program(packed, "obs", y_shape=(2,), posterior=Point())
    y = np.stack([X, GROUP], 1)
    other = jaxgen.fit(model, Y, y, key=KEY, epochs=20)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    close(fitted.log_prob(Y, FRAME), other.log_prob(Y, y))
    close(fitted.sample(KEY, 40, FRAME), other.sample(KEY, 40, y))
    close(predictive(fitted, KEY, FRAME), predictive(other, KEY, y))


def test_tables_of_every_kind(fitted):
    expected = np.asarray(fitted.log_prob(Y, np.stack([X, GROUP], 1)))
    tables = [
        {"group": GROUP, "x": X},
        FRAME[["group", "x"]],
        FRAME.astype({"group": "Int64", "x": "Float64"}),
        FRAME.astype({"group": float}),
        FRAME.set_index(FRAME.index[::-1]),
        pl.from_pandas(FRAME),
        pa.Table.from_pandas(FRAME),
        {"group": jnp.asarray(GROUP), "x": jnp.asarray(X)},
    ]
    for table in tables:
        np.testing.assert_array_equal(fitted.log_prob(Y, table), expected)
    one = {"x": 0.5, "group": 3}
    np.testing.assert_array_equal(
        fitted.log_prob(Y, one), fitted.log_prob(Y, {"x": np.full(40, 0.5), "group": 3})
    )
    assert predictive(fitted, KEY, {"x": X, "group": 3}).shape == (1, 40)
    score = jax.jit(jax.grad(lambda x: fitted.log_prob(Y, {"x": x, "group": GROUP}).sum()))
    found = score(jnp.asarray(X))
    assert found.shape == (40,)
    assert np.isfinite(found).all()


def kinds(position, flag, region, count, obs=None):
    assert position.shape[1:] == (2,)
    assert jnp.issubdtype(position.dtype, jnp.floating)
    assert flag.dtype == bool
    assert region.dtype == count.dtype == jnp.result_type(int)
    mean = position.sum(1) + 10.0 * flag + 100.0 * region + 1000.0 * count
    with numpyro.plate("rows", len(flag)):
        numpyro.sample("seen", dist.Normal(mean, 1), obs=obs)


KINDS = {
    "position": np.array([[0.25, 0.5], [0.0, 0.125]]),
    "flag": np.array([True, False]),
    "region": pd.Categorical(["north", "south"], categories=["south", "north"]),
    "count": np.array([3, 2**24 - 7]),
}


def test_single_values_are_one_example_row():
    single = {"x": 0.5, "group": 3}
    assert from_program(hierarchical, covariates=single) == from_program(
        hierarchical, covariates={"x": X, "group": GROUP}
    )
    kinds = [Covariate("a", (), "bool"), Covariate("b", (), "int", ("north",))]
    assert [_covariate("a", True), _covariate("b", "north")] == kinds


def branching(x, y=None):
    slope = numpyro.sample("slope", dist.Normal(0, 1))
    with numpyro.plate("rows", len(x)):
        numpyro.sample("obs", dist.Normal(x if slope > 0 else -x, 1), obs=y)


def of_numpy(x, y=None):
    with numpyro.plate("rows", len(x)):
        numpyro.sample("obs", dist.Normal(np.sin(np.asarray(x)), 1), obs=y)


def test_dtypes_reach_the_program():
    model = from_program(kinds, covariates=KINDS)
    assert model.program.covariates == (
        Covariate("position", (2,)),
        Covariate("flag", (), "bool"),
        Covariate("region", (), "int", ("south", "north")),
        Covariate("count", (), "int"),
    )
    assert model.observed == "seen"
    names = ("position[0]", "position[1]", "flag", "region", "count")
    assert model.traits.covariates.names == names
    y = model.traits.covariates.from_table(KINDS)
    np.testing.assert_array_equal(y[:, 2:], [[1, 1, 3], [0, 0, 2**24 - 7]])
    fitted = jaxgen.Fitted(model, {"program": {}})
    mean = np.array([3110.75])
    assert fitted.log_prob(mean, {k: v[:1] for k, v in KINDS.items()})[0] > -0.92
    assert model.program != model.program.taking(model.program.covariates[::-1])
    reordered = pd.Categorical(["north", "south"], categories=["north", "south"])
    np.testing.assert_array_equal(
        model.traits.covariates.from_table({**KINDS, "region": reordered}), y
    )
    text = {**KINDS, "region": np.array(["north", "south"], object)}
    np.testing.assert_array_equal(model.traits.covariates.from_table(text), y)
    assert from_program(kinds, covariates=text).program.covariates[2].categories == (
        "north",
        "south",
    )


BAD_VALUES = [
    ({"x": X}, r"'group' is missing, as it holds 'x'"),
    ({"x": X, "group": GROUP + 0.5}, r"covariate 'group' must hold ints; it holds 0\.5 in row 0"),
    ({"x": X, "group": np.where(GROUP == 2, np.nan, GROUP)}, r"'group' must hold ints.* row 2"),
    ({"x": X, "group": GROUP + 2**25}, "'group' must hold ints up to 16,777,216, which float32"),
    ({"x": X, "group": GROUP.astype(np.uint64) + 2**63}, "'group' must hold ints up to"),
    ({"x": X, "group": GROUP + 1}, "y must hold ints for 'group' and index.* bounds"),
    ({"x": X[:5], "group": GROUP}, r"as many rows of each covariate; got {'x': 5"),
    ({"x": X[:, None], "group": GROUP}, r"covariate 'x' must have shape \(n,\); got \(40, 1\)"),
    ({"x": X.astype(str), "group": GROUP}, "covariate 'x' must hold numbers"),
    (np.stack([X, GROUP + 0.5], 1), "y must hold ints for 'group'"),
]


@pytest.mark.parametrize(("y", "message"), BAD_VALUES)
def test_bad_values(fitted, y, message):
    with pytest.raises((TypeError, ValueError), match=message):
        fitted.log_prob(Y, y)


def test_bad_categories():
    model = from_program(kinds, covariates=KINDS)
    for region in (["north", "west"], pd.Categorical(["north", None]), np.array([0, 1])):
        with pytest.raises(ValueError, match="'region' must be one of 'south', 'north'; it has"):
            model.traits.covariates.from_table({**KINDS, "region": region})
    flags = {**KINDS, "flag": np.array([1, 2])}
    with pytest.raises(ValueError, match="'flag' must hold bools; it holds 2 in row 1"):
        model.traits.covariates.from_table(flags)


def test_swapped_arguments(fitted):
    hint = r"x is the observed site 'obs', y the covariates 'x', 'group': did you swap them\?"
    covariates, y = FRAME[["x", "group"]], FRAME["y"]
    for call in (
        lambda: jaxgen.fit(fitted.model, covariates, y, key=KEY),
        lambda: fitted.log_prob(covariates, y),
        lambda: fitted.log_prob(covariates.to_numpy(), Y),
    ):
        with pytest.raises(ValueError, match=hint):
            call()


def seen(dose, y=None):
    level = numpyro.sample("level", dist.Normal(0, 1))
    with numpyro.plate("rows", len(dose)):
        numpyro.sample("obs", dist.Poisson(jnp.exp(level * dose)), obs=y)


def test_swapped_counts_and_one_covariate():
    dose, counts = np.linspace(0.1, 0.9, 6), np.arange(6)
    model = from_program(seen, covariates={"dose": dose}, posterior=Point())
    for y in (counts, {"dose": counts}):
        with pytest.raises(ValueError, match=r"row 0 is outside .*'dose': did you swap them\?"):
            jaxgen.fit(model, dose, y, key=KEY)
    with pytest.raises(ValueError, match=r"row 0 is outside$"):
        jaxgen.fit(model, counts - 0.5, {"dose": dose}, key=KEY)


def test_other_shapes_are_not_called_swapped(fitted):
    for call in (
        lambda: fitted.log_prob(0.5, FRAME),
        lambda: fitted.log_prob(Y, FRAME[:5]),
        lambda: fitted.log_prob(Y[:, None], FRAME),
        lambda: fitted.sample(KEY, 4, FRAME[:3]),
    ):
        with pytest.raises(ValueError, match="must have shape") as caught:
            call()
        assert "swap" not in str(caught.value)
        assert "Program(" not in str(caught.value)


BAD_EXAMPLES = [
    (
        None,
        r"hierarchical: it must run when called with the number of rows.*\['x', 'group'\]",
    ),
    ({"x": X}, "covariates must hold 'group', which the program takes; it holds 'x'"),
    ({"x": X}, "If 'group' is the observed value, write group=None in the program"),
    (
        {"x": X, "group": pd.array([0, None, 2], "Int64")},
        r"'group' has a missing value in row 1, which hides whether it holds ints",
    ),
    (
        {"x": X, "group": np.array([0, 1, np.nan])},
        r"'group' has a missing value in row 2, which hides whether it holds ints",
    ),
    ({"x": X, "group": np.array(["a", None], object)}, r"'group' has a missing value in row 1"),
    ({"x": X, "groups": GROUP, "group": GROUP}, "holds 'groups', but.*'x', 'group', 'y'"),
    ({"x": X, "group": np.array([])}, r"'group' must have at least one value"),
    (["x", "group"], "covariates must be example rows"),
    (FRAME.astype({"group": float}), r"integer or boolean.*'x' \(float\), 'group' \(float\)"),
]


@pytest.mark.parametrize(("covariates", "message"), BAD_EXAMPLES)
def test_bad_examples(covariates, message):
    with pytest.raises((TypeError, ValueError), match=message):
        from_program(hierarchical, covariates=covariates)


def two_optional(x, y=None, w=None):
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Normal(x, 1), obs=w)
        numpyro.sample("obs", dist.Normal(z, 1), obs=y)


def latent_x(position, y=None):
    with numpyro.plate("rows", len(position)):
        x = numpyro.sample("x", dist.Normal(position, 1))
        numpyro.sample("obs", dist.Normal(x, 1), obs=y)


def unobserved(x):
    with numpyro.plate("rows", len(x)):
        numpyro.sample("z", dist.Normal(x, 1))


def test_the_observed_site_is_found():
    found = from_program(latent_x, covariates={"position": X})
    assert found.observed == "obs"
    assert [site.name for site in found.sites.locals] == ["x"]
    assert from_program(two_optional, "obs", covariates={"x": X}).observed == "obs"
    with pytest.raises(ValueError, match=r"several sites may be observed, \['obs', 'z'\]"):
        from_program(two_optional, covariates={"x": X})
    with pytest.raises(
        ValueError, match=r"no observed site.*its sample sites are \['z'\].*observed="
    ):
        from_program(unobserved, covariates={"x": X})


def test_domains_by_name():
    domain = {"x": jaxgen.domains.Interval(-5, 5)}
    model = from_program(hierarchical, covariates=FRAME, y_domain=domain, posterior=Point())
    assert model.y_domain == (jaxgen.domains.Interval(-5, 5), jaxgen.domains.Real())
    ok = model.y_support(np.array([[4.0, 3], [6.0, 3], [4.0, 4]]))
    np.testing.assert_array_equal(ok, [True, False, False])
    unit = jaxgen.domains.Interval(0, 1)
    vector = from_program(kinds, covariates=KINDS, y_domain={"position": unit})
    assert vector.y_domain == (unit, unit, *[jaxgen.domains.Real()] * 3)
    with pytest.raises(ValueError, match=r"y_domain has \['z'\], but the covariates are"):
        from_program(hierarchical, covariates=FRAME, y_domain={"z": jaxgen.domains.Real()})


def test_a_guide_takes_the_covariates():
    def program(x, y=None):
        slope = numpyro.sample("slope", dist.Normal(0, 1))
        with numpyro.plate("rows", len(x)):
            numpyro.sample("obs", dist.Normal(slope * x, 1), obs=y)

    def guide(x, y=None):
        assert x.shape == (1,)
        numpyro.sample("slope", dist.Normal(0.5, 0.1))

    model = from_program(program, covariates={"x": X}, posterior=Guide(guide, draws=4))
    draws = jaxgen.numpyro.posterior(jaxgen.Fitted(model, {"posterior": {}, "program": {}}))
    assert np.all(np.abs(draws["slope"] - 0.5) < 0.5)


# Files.


def in_main(**changes):
    """A program of the main script, and its model."""
    family, name = changes.get("family", dist.Normal), changes.get("name", "x")

    def program(x, y=None):
        with numpyro.plate("rows", len(x)):
            numpyro.sample("obs", family(0 * x, 1), obs=y)

    def renamed(z, y=None):
        program(z, y)

    call = program if name == "x" else renamed
    call.__module__, call.__qualname__ = "__main__", "program"
    return from_program(call, covariates={name: X})


def test_a_program_of_the_main_script(tmp_path):
    path = tmp_path / "model.jaxgen"
    with pytest.warns(RuntimeWarning, match="__main__.program is defined in the main script"):
        jaxgen.Fitted(in_main(), {"program": {}}).save(path)
    for changes, message in (
        ({"family": dist.Laplace}, "a site is obs Laplace, and was obs Normal"),
        ({"name": "z"}, r"it takes \['z', 'y'\], and took the covariates \['x'\]"),
    ):
        in_main(**changes)
        with (
            pytest.warns(RuntimeWarning, match="several programs"),
            pytest.raises(ValueError, match=message),
        ):
            jaxgen.load(path)


def test_another_process_loads_a_program_with_covariates(fitted, tmp_path):
    fitted.save(tmp_path / "model.jaxgen")
    script = """
import json, sys
import jaxgen, test_numpyro_covariates as module
from jaxgen.numpyro import from_program
from_program(module.hierarchical, covariates=module.FRAME)
fitted = jaxgen.load(sys.argv[1])
print(json.dumps(fitted.log_prob(module.Y, module.FRAME).tolist()))
"""
    command = [sys.executable, "-c", script, str(tmp_path / "model.jaxgen")]
    out = subprocess.run(command, capture_output=True, text=True, cwd=sys.path[0] or ".")
    assert not out.returncode, out.stderr
    np.testing.assert_allclose(json.loads(out.stdout), fitted.log_prob(Y, FRAME), rtol=1e-6)


# Data that a program reads.

TABLE = np.linspace(0.0, 1.0, 40)


def reads_rows(n, x=None):
    with numpyro.plate("rows", n):
        numpyro.sample("x", dist.Normal(TABLE, 1), obs=x)


def reads_first_rows(n, x=None):
    with numpyro.plate("rows", n):
        numpyro.sample("x", dist.Normal(TABLE[:n], 1), obs=x)


def plate_of_data(n, x=None):
    with numpyro.plate("rows", len(TABLE)):
        numpyro.sample("x", dist.Normal(TABLE, 1), obs=x)


def bound(n, table, x=None):
    with numpyro.plate("rows", n):
        numpyro.sample("x", dist.Normal(table, 1), obs=x)


@pytest.mark.parametrize("program", [reads_rows, reads_first_rows, plate_of_data])
def test_errors_name_the_data_that_a_program_reads(program):
    hint = r"it reads 'TABLE' of shape \(40,\): pass arrays with a value for each row as covariates"
    with pytest.raises(ValueError, match=hint):
        from_program(program)


def test_partial_functions_have_names_of_their_own():
    with pytest.raises(
        ValueError, match=r"bound\(table=\.\.\.\).*it reads 'table' of shape \(3,\)"
    ):
        from_program(functools.partial(bound, table=TABLE[:3]))
    model = from_program(functools.partial(bound, table=0.5))
    assert re.fullmatch(r".*\.bound\(table=\.\.\.\)", model.name)


@pytest.mark.parametrize(
    ("program", "text"),
    [(branching, "a Python `if`, .* cannot depend on a latent"), (of_numpy, "use jax.numpy in pl")],
)
def test_a_program_that_needs_plain_values(program, text):
    with pytest.raises(ValueError, match=text) as caught:
        from_program(program, covariates={"x": X})
    assert "example rows" not in str(caught.value)


def test_messages_name_a_program_in_short():
    model = from_program(seen, covariates={"dose": X}, posterior=Point())
    assert str(model) == f"program {__name__}.seen"
    assert repr(model).startswith("Program(program=Function(")
    text = str(jaxgen.compose.Transformed(model, jaxgen.bijectors.Permute((0,))))
    assert text == f"Transformed(base=program {__name__}.seen, bijector=Permute(order=(0,)))"
