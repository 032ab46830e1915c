"""Optimizers as keys of compiled programs: optimizers built in the same way are equal."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxgen.training.optimizers import ByStructure


def decayed(start):
    return optax.adam(optax.cosine_decay_schedule(start, 100))


_peak = 1e-3


def by_global(_):
    return optax.sgd(lambda step: _peak)


def by_array(scale):
    table = np.array([scale, 0.0])
    return optax.sgd(lambda step: jnp.asarray(table)[0])


@pytest.mark.parametrize(
    "make",
    [
        optax.adam,
        optax.adamw,
        optax.lion,
        optax.lbfgs,
        decayed,
        by_array,
        lambda r: optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(r, momentum=0.9)),
        lambda r: optax.inject_hyperparams(optax.adam)(learning_rate=r),
        lambda r: optax.MultiSteps(optax.adam(r), 4).gradient_transformation(),
        lambda r: optax.multi_transform({"a": optax.adam(r)}, lambda p: {"w": "a"}),
    ],
)
def test_optimizers_built_alike_are_equal(make):
    assert ByStructure(make(1e-3)) == ByStructure(make(1e-3))
    assert hash(ByStructure(make(1e-3))) == hash(ByStructure(make(1e-3)))
    assert ByStructure(make(1e-3)) != ByStructure(make(2e-3))
    assert ByStructure(make(1e-3)) != ByStructure(optax.sgd(1e-3))


def test_optimizers_that_read_a_changed_global_differ(monkeypatch):
    before = ByStructure(by_global(0))
    assert before == ByStructure(by_global(0))
    monkeypatch.setitem(globals(), "_peak", 2e-3)
    assert before != ByStructure(by_global(0))


def test_optimizers_distinguish_zero_signs_and_types():
    def capture(value):
        return ByStructure(optax.stateless(lambda updates, params: value))

    assert capture(0.0) == capture(0.0)
    assert capture(0.0) != capture(-0.0)
    assert capture(1) != capture(1.0)
    assert capture(True) != capture(1)
    held = object()
    assert capture(held) == capture(held)
    assert capture(held) != capture(object())
