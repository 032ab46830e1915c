"""Draws from spline flows: flowjax, zuko and nflows with networks of the same sizes."""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from benchmarks import twins
from benchmarks.flow_twins import Flow
from jaxgen.bijectors import spline
from jaxgen.core import compiler
from jaxgen.networks import mlp as nets

D_PASSES = "jaxgen, d passes"


def run(harness):
    cases = (
        (Flow("coupling", 2), 2**17, {"flowjax": 3, "zuko": 5, "nflows": 5}),
        (Flow("coupling", 8), 2**17, {"flowjax": 3, "zuko": 5, "nflows": 5}),
        (Flow("autoregressive", 8), 2**14, {"flowjax": 20, "zuko": 5, "nflows": 5}),
        # two hidden units for each feature; few events, since nflows takes seconds
        (Flow("autoregressive", 64, width=128), 2**8, {D_PASSES: 10, "zuko": 5, "nflows": 5}),
    )
    for flow, n, targets in harness.pick(cases, cases[:1]):
        n = harness.pick(n, 2**10)
        makes = flow.sample("flowjax", "zuko", "nflows")
        if D_PASSES in targets:
            makes[D_PASSES] = d_passes(flow)
        yield from harness.compare(f"{flow.name}, n = {n:,}", n, makes, targets, n=n)


def d_passes(flow):
    """The usual inverse of the same autoregressive flow: a full network pass for each feature."""
    model, params = flow.fitted().model, flow.fitted().params

    @functools.partial(compiler.jit, static_argnums=2)
    def draw(params, key, n):
        z = jax.random.normal(key, (flow.shape[1], n))
        given = jnp.zeros((0, n))

        def layer(z, network):
            matrices, z = model._net.matrices(network), z[::-1]

            def feature(i, x):
                u = model._net.apply(matrices, x[None], given)
                return x.at[i].set(spline.inverse(u[:, i], z[i])[0])

            return lax.fori_loop(0, len(z), feature, jnp.zeros_like(z))

        return nets.scan_layers(layer, z, params["layers"], reverse=True).T

    return lambda n: lambda: draw(params, twins.KEY, n)
