"""How fit pads, shuffles and repeats rows."""

import math

import jax
import numpy as np
import pytest
from learners import KEY

from jaxgen.fit.rows import for_init, size_class
from jaxgen.fit.shuffle import order

shuffle = jax.jit(order, static_argnums=2)


@pytest.mark.parametrize("n", [1, 2, 3, 64, 65, 100, 1000])
def test_shuffle_is_a_permutation(n):
    size = size_class(n)
    shuffled = np.asarray(shuffle(KEY, n, size))
    assert sorted(shuffled[:n]) == list(range(n))
    assert shuffled.shape == (size,)
    if n >= 100:
        other = np.asarray(shuffle(jax.random.key(1), n, size))[:n]
        # each correlation is normal with deviation 1 / sqrt(n): five of them
        assert abs(np.corrcoef(shuffled[:n], other)[0, 1]) < 5 / math.sqrt(n)
        assert abs(np.corrcoef(shuffled[: n - 1], shuffled[1:n])[0, 1]) < 5 / math.sqrt(n)
        assert abs(np.corrcoef(shuffled[:n], np.arange(n))[0, 1]) < 5 / math.sqrt(n)


def test_size_classes_are_few_and_close():
    sizes = [size_class(n) for n in range(1, 5000)]
    assert all(n <= size for n, size in enumerate(sizes, 1))
    assert all(size <= 1.25 * n + 1 for n, size in enumerate(sizes, 1) if n >= 128)
    assert len(set(sizes)) < 30


def test_rows_for_init_hold_each_row_and_follow_weights():
    x = np.arange(100.0)
    plain, _ = for_init(x, None, None)
    assert len(plain) == size_class(100)
    assert set(plain) == set(x)
    weighted, _ = for_init(x, None, np.where(x == 7, 1000.0, 1e-3))
    assert set(weighted) == set(x)
    assert (weighted == 7).sum() > 90
