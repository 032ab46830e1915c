"""Programs compute draws x rows in blocks of bounded memory, which change no result."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import programs
import pytest

import jaxgen
from jaxgen.numpyro import MeanField, blocks, density, from_program, queries

KEY = jax.random.key(0)
MIB = 2**20
DRAWS, ROWS, UNITS = 500, 3000, 300


def network(y, x=None):
    """A Bayesian network of two layers of 300 units."""
    first = numpyro.sample("first", dist.Normal(0, 1).expand([8, UNITS]).to_event(2))
    second = numpyro.sample("second", dist.Normal(0, 0.1).expand([UNITS, UNITS]).to_event(2))
    last = numpyro.sample("last", dist.Normal(0, 0.1).expand([UNITS]).to_event(1))
    with numpyro.plate("rows", len(y)):
        mean = jnp.tanh(jnp.tanh(y @ first) @ second) @ last
        numpyro.sample("x", dist.Normal(mean, 0.3), obs=x)


def held(function, *args):
    """Bytes that the compiled function allocates besides its arguments and results."""
    return jax.jit(function).lower(*args).compile().memory_analysis().temp_size_in_bytes


def test_peak_memory_of_a_network():
    """All draws of the globals take 184 MB, and activations of all draws x rows 3.6 GB."""
    model = from_program(network, y_shape=(8,), posterior=MeanField(DRAWS))
    params = jax.eval_shape(model.init, KEY)
    y, x = jax.ShapeDtypeStruct((ROWS, 8), np.float32), jax.ShapeDtypeStruct((ROWS,), np.float32)
    predictive = held(lambda p, y: queries._predictive(model, p, KEY, y), params, y)
    assert predictive < 100 * MIB
    scored = held(lambda p, x, y: queries._log_likelihood(model, p, (x, y)), params, x, y)
    assert scored < 150 * MIB

    def log_prob(params, x, y):
        return jax.vmap(lambda x, y: model.log_prob(params, x, y))(x, y)

    rows = 2048  # the most that the engine scores at once, given the scratch memory of the program
    assert rows * model.traits.scratch <= 2**21 * 1.1
    y, x = (jax.ShapeDtypeStruct((rows, *v.shape[1:]), v.dtype) for v in (y, x))
    assert held(log_prob, params, x, y) < 150 * MIB


@pytest.mark.parametrize(
    ("program", "y_shape"), [(programs.regression, (2,)), (programs.factors, None)]
)
def test_results_do_not_depend_on_blocks(program, y_shape, monkeypatch):
    model = from_program(program, y_shape=y_shape, posterior=MeanField(7), samples=30)
    params, n = model.init(KEY), 5
    y = None if y_shape is None else np.random.default_rng(0).normal(size=(n, 2)).astype(np.float32)
    x = jaxgen.Fitted(model, params).sample(KEY, n, y)
    y = None if y is None else jnp.asarray(y)

    def both(params):
        drawn = queries._predictive(model, params, KEY, n if y is None else y)
        return drawn, queries._log_likelihood(model, params, (x, y))[0]

    whole = jax.jit(both)(params)
    monkeypatch.setattr(blocks, "SCALARS", 2 * density.footprint(model))
    parts = jax.jit(lambda params: both(params))(params)
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


def test_blocks_of_numbers():
    for count, size in ((1, 1), (7, 3), (7, 7), (7, 100), (6, 2), (5, 0)):
        largest = []

        def squares(index, largest=largest):
            largest.append(len(index))
            return {"square": index**2}

        np.testing.assert_array_equal(
            blocks.in_blocks(squares, count, size)["square"], np.arange(count) ** 2
        )
        assert max(largest) <= max(size, 1)


def test_scalars_of_a_row_are_counted():
    def function(shared, row):
        wide = jnp.outer(shared, shared)  # does not depend on the row
        return jax.lax.cond(row[0] > 0, lambda v: jnp.sin(v), lambda v: v, row + 1) @ wide

    assert blocks.scalars_of(function, jnp.ones(50), jnp.ones(50)) < 500
    model = from_program(programs.regression, y_shape=(2,))
    assert 5 < density.footprint(model) < 100
