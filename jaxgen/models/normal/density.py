"""Log densities of normals, of all features or of the observed ones."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxgen.core.promotion import standard_promotion
from jaxgen.core.spec import Params
from jaxgen.models.normal.covariances import Form, scale_name
from jaxgen.models.normal.matrices import SCALARS, inverse_of_tril, matmul

LOG_2PI = math.log(2 * math.pi)
WRITTEN_OUT = 16  # up to this many features, sums written out are 1.5 times as fast as products


def max_distance(dtype: Any) -> Any:
    """Distance from the mean, in scales, beyond which the density counts as zero.

    Sums of squares of shorter distances do not overflow.
    """
    return jnp.finfo(dtype).max ** 0.5 / 16


def whitening(scale: jax.Array, form: Form) -> jax.Array:
    """W of z = W (x - mean), the inverse of the scale; a vector for "diagonal".

    ``scale`` may have leading axes, such as one of components. It does not depend on the event, so
    under ``vmap`` over events it is computed once.
    """
    if form == "diagonal":
        return 1 / scale
    return inverse_of_tril(scale)


def log_constant(scale: jax.Array, form: Form, observed: Any = None) -> jax.Array:
    """Log density at the mean; ``scale`` may have leading axes.

    With ``observed``, which needs "diagonal", the density is that of the observed features.
    """
    if observed is not None:
        return -jnp.where(observed, jnp.log(jnp.abs(scale)) + 0.5 * LOG_2PI, 0).sum(-1)
    full = form == "full"
    diagonal = jnp.diagonal(scale, axis1=-2, axis2=-1) if full else scale
    return -jnp.log(jnp.abs(diagonal)).sum(-1) - 0.5 * scale.shape[-1] * LOG_2PI


def squared_length(x: Any, mean: jax.Array, whiten: jax.Array) -> jax.Array:
    """|W (x - mean)|^2 of one event (dim,), or of rows (dim, rows); x may be a list of features."""
    if len(x) <= SCALARS or (whiten.ndim == 1 and len(x) <= WRITTEN_OUT):
        return _sum_written_out(x, mean, whiten)
    if len(x) <= WRITTEN_OUT:
        return _sum_with_products_in_gradients(list(x), mean, whiten)
    return _sum_of_products(x, mean, whiten)


def _sum_written_out(x, mean, whiten):
    dim = len(x)
    centred = [x[i] - mean[i] for i in range(dim)]
    if whiten.ndim == 1:
        z = [whiten[i] * c for i, c in enumerate(centred)]
    else:
        z = [sum(whiten[i, j] * centred[j] for j in range(i + 1)) for i in range(dim)]
    return sum(v * v for v in z)


def _sum_of_products(x, mean, whiten):
    centred, dim = (x.T - mean).T, len(x)
    if whiten.ndim == 1:
        return ((whiten * centred.T) ** 2).T.sum(0)
    # W is triangular: some of its rows at a time, without the zeros on their right
    step, total = max(WRITTEN_OUT, -(-dim // 4)), jnp.zeros_like(centred[0])
    for end in range(step, dim + step, step):
        z = matmul(whiten[end - step : end, :end], centred[:end])
        total = total + (z * z).sum(0)
    return total


# gradients of so many sums take a minute to compile
_sum_with_products_in_gradients = jax.custom_jvp(_sum_written_out)


@_sum_with_products_in_gradients.defjvp
@standard_promotion
def _(primals, tangents):
    stacked = lambda x, mean, whiten: _sum_of_products(jnp.stack(x), mean, whiten)  # noqa: E731
    _, tangent = jax.jvp(stacked, primals, tangents)
    return _sum_with_products_in_gradients(*primals), tangent


def log_density(params: Params, x: Any, form: Form, observed: Any = None) -> jax.Array:
    """log N(x) of one event, of its observed features if ``observed`` is given."""
    scale, mean = params[scale_name(form)], params["mean"]
    if observed is not None and form == "full":
        return _log_density_observed(mean, scale, x, observed)
    constant = log_constant(scale, form)
    if observed is not None:
        x, constant = jnp.where(observed, x, mean), log_constant(scale, "diagonal", observed)
    if form == "diagonal" and len(x) > WRITTEN_OUT:
        square = _square_in_one_pass(x, mean, scale)
        return jnp.where(square == jnp.inf, -jnp.inf, constant - 0.5 * square)
    # squares of longer distances overflow, and so do their gradients
    spread = jnp.abs(scale if form == "diagonal" else jnp.diagonal(scale))
    near = (jnp.abs(x - mean) < max_distance(x.dtype) * spread).all()
    x = jnp.where(near, x, mean)
    square = squared_length(x, mean, whitening(scale, form))
    return jnp.where(near, constant - 0.5 * square, -jnp.inf)


@jax.custom_jvp
def _square_in_one_pass(x, mean, scale):
    """sum_i ((x_i - mean_i) / scale_i)^2; infinite where x is or where it overflows."""
    return (((1 / scale) * (x - mean)) ** 2).sum()


@_square_in_one_pass.defjvp
@standard_promotion
def _(primals, tangents):
    """Distances so long that their squares could overflow have no part in it."""
    x, mean, scale = primals
    near = jnp.abs(x - mean) < max_distance(x.dtype) * jnp.abs(scale)

    def square_of_near(x, mean, scale):
        return (((1 / scale) * (jnp.where(near, x, mean) - mean)) ** 2).sum()

    _, tangent = jax.jvp(square_of_near, primals, tangents)
    return _square_in_one_pass(*primals), tangent


def condition(
    mean: jax.Array, root: jax.Array, x: jax.Array, observed: Any
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The log density of the observed features, and the normal of the event given them.

    It conditions on one feature at a time and removes from the root the component along that
    feature's row, as Gram-Schmidt does: no covariance is formed, factored or inverted. All arrays
    may have one more axis at the end, of rows.

    Args:
      mean: (dim,).
      root: (dim, dim); the covariance is root root^T.
      x: (dim,); only observed features are read.
      observed: (dim,) bool.

    Returns:
      The log density, in nats, and the mean (dim,) and root (dim, dim) of the conditional normal,
      whose root is zero in the rows of observed features.

    Source: Potter's square root filter (Bierman 1977, section V.3), without noise.
    """

    def condition_on(carry, feature):
        score, mean, root = carry
        j, value, known = feature
        term, z, inverse = _score_feature((root[j] * root[j]).sum(0), value - mean[j], known)
        direction = root[j] * inverse
        along = (root * direction).sum(1)
        return (score + term, mean + along * z, root - along[:, None] * direction), None

    shapes = x.shape[1:], x.shape, (len(x), *x.shape)
    start = [
        jnp.broadcast_to(v, s)
        for v, s in zip((jnp.zeros_like(x[0]), mean, root), shapes, strict=True)
    ]
    features = jnp.arange(len(x)), x, observed
    (score, mean, root), _ = lax.scan(condition_on, tuple(start), features)
    return score, jnp.where(observed, x, mean), jnp.where(observed[:, None], 0, root)


def _log_density_observed(mean, tril, x, observed):
    """The score of ``condition`` for a lower triangular root, on scalars: ten times as fast."""
    dim = len(x)
    if dim > SCALARS:
        return condition(mean, tril, x, observed)[0]
    score, mean = jnp.zeros((), x.dtype), list(mean)
    root = [[tril[i, k] for k in range(i + 1)] for i in range(dim)]
    for j in range(dim):
        square = sum(v * v for v in root[j])
        term, z, inverse = _score_feature(square, x[j] - mean[j], observed[j])
        score = score + term
        direction = [v * inverse for v in root[j]]
        for i in range(j + 1, dim):
            along = sum(root[i][k] * d for k, d in enumerate(direction))
            mean[i] = mean[i] + along * z
            for k, d in enumerate(direction):
                root[i][k] = root[i][k] - along * d
    return score


def _score_feature(variance, deviation, known):
    """Log density of one feature, its deviation in scales, and 1 / scale; all 0 if not known."""
    scale = jnp.sqrt(jnp.maximum(variance, jnp.finfo(variance.dtype).tiny))
    z = deviation / scale
    near = jnp.abs(z) < max_distance(z.dtype)
    z = jnp.where(known & near, z, 0)
    term = jnp.where(near, -0.5 * z * z - jnp.log(scale) - 0.5 * LOG_2PI, -jnp.inf)
    return jnp.where(known, term, 0), z, jnp.where(known, 1 / scale, 0)
