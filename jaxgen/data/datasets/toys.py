"""Four common test distributions in the plane, with their exact densities.

Their scales are those of FFJORD's toy data: Grathwohl et al. 2019, "FFJORD: free-form continuous
dynamics for scalable reversible generative models".
"""

from __future__ import annotations

from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from numpyro.distributions import constraints

from jaxgen.core.model import Learning, Model
from jaxgen.core.random import Normal, Uniform
from jaxgen.models.gaussian_mixture import GaussianMixture

# quadrature nodes of a moon, whose density then has a relative error below 1e-9 up to 5 standard
# deviations from the moon
_NODES = 64
_EIGHT = GaussianMixture(2, components=8, covariance="diagonal")
_MOONS = GaussianMixture(2, components=2 * _NODES, covariance="diagonal")
_ARMS = GaussianMixture(2, components=5)


class _Toy(Model):
    """Base of distributions of a point in the plane, with fixed params."""

    event_shape: ClassVar[tuple[int, ...]] = (2,)
    learning = Learning("closed_form")
    _entropy: ClassVar[float]

    def _numbers(self) -> dict[str, Any]:
        raise NotImplementedError

    def init(self, key, x=None, y=None):
        """The fixed params of the distribution; key and data are ignored."""
        dtype = jnp.result_type(float)
        return {name: jnp.asarray(value, dtype) for name, value in self._numbers().items()}

    def estimate(self, x, y=None, weights=None):
        return self.init(None)

    def entropy(self) -> float:
        """The entropy in nats, that is H(p_data) in a KL divergence."""
        return self._entropy


class Checkerboard(_Toy):
    """Uniform on the 8 black squares of a checkerboard of 4 x 4 squares of side 2.

        p(x) = 1 / 32 where floor(x_1 / 2) + floor(x_2 / 2) is even, on [-4, 4) x [-4, 4),

    and 0 elsewhere. ``support`` is the whole board. The entropy is log 32 = 3.4657 nats.

    >>> board = datasets.checkerboard()
    >>> jaxgen.log_prob(board, board.init(None), np.array([[1.0, 1.0], [1.0, 3.0]]))
    Array([-3.465736,      -inf], dtype=float32)
    """

    _entropy: ClassVar[float] = float(np.log(32))

    @property
    def support(self):
        return constraints.independent(constraints.interval(-4.0, 4.0), 1)

    def _numbers(self):
        return {"log_area": np.log(32)}

    def log_prob(self, params, x, y=None):
        on_board = ((x >= -4) & (x < 4)).all()
        is_black = jnp.floor(x / 2).sum() % 2 == 0
        return jnp.where(on_board & is_black, -params["log_area"], -jnp.inf)

    def noise(self):
        return Uniform((2,))

    def push(self, params, noise, y=None):
        # no step rounds, so that points stay in their square
        first = 8 * noise[0] - 4
        odd_column = jnp.floor(first / 2) % 2
        square = jnp.floor(2 * noise[1])  # which of the two black squares in the column
        second = 2 * (2 * square - 2 + odd_column + (2 * noise[1] - square))
        return jnp.stack([first, second])


class EightGaussians(_Toy):
    """Eight equal normals of standard deviation 1 / (2 sqrt 2) on a circle of radius 4 / sqrt 2.

    The entropy is 2.8316 nats. FFJORD rounds sqrt 2 to 1.414.
    """

    _entropy: ClassVar[float] = 2.8315784

    def _numbers(self):
        angle = np.pi / 4 * np.arange(8)
        mean = np.sqrt(8) * np.stack([np.cos(angle), np.sin(angle)], 1)
        return {"logits": np.zeros(8), "mean": mean, "scale": np.full((8, 2), np.sqrt(1 / 8))}

    def log_prob(self, params, x, y=None):
        return _EIGHT.log_prob(params, x)

    def noise(self):
        return _EIGHT.noise()

    def push(self, params, noise, y=None):
        return _EIGHT.push(params, noise)


class TwoMoons(_Toy):
    """Two interleaved half circles of radius 2 with normal noise of standard deviation 0.2.

        p(x) = 1 / (2 pi) integral over 0 <= t < 2 pi of N(x; c + 2 (cos t, sin t), 0.2^2) dt

    where the centre c is (-1, -0.2) for t < pi, the upper moon, and (1, 0.8) otherwise. The
    integral is exact up to rounding. The entropy is 2.3939 nats. This is the distribution of
    2 x - (1, 0.2) for x from ``sklearn.datasets.make_moons(noise=0.1)``.
    """

    _entropy: ClassVar[float] = 2.3938792

    def _numbers(self):
        return {"centre": [[-1.0, -0.2], [1.0, 0.8]], "radius": 2.0, "scale": 0.2}

    def log_prob(self, params, x, y=None):
        node, weight = np.polynomial.legendre.leggauss(_NODES)
        upper = np.pi / 2 * (node + 1)
        angle = np.concatenate([upper, upper + np.pi])
        on_circle = jnp.asarray(np.stack([np.cos(angle), np.sin(angle)], 1), x.dtype)
        centre = jnp.repeat(params["centre"], _NODES, axis=0)
        normals = {
            "logits": jnp.asarray(np.log(np.tile(weight, 2)), x.dtype),
            "mean": centre + params["radius"] * on_circle,
            "scale": jnp.broadcast_to(params["scale"], on_circle.shape),
        }
        return _MOONS.log_prob(normals, x)

    def noise(self):
        return {"turn": Uniform(()), "z": Normal((2,))}

    def push(self, params, noise, y=None):
        turn = noise["turn"]
        centre = jnp.where(turn < 0.5, params["centre"][0], params["centre"][1])
        angle = 2 * np.pi * turn
        on_circle = jnp.stack([jnp.cos(angle), jnp.sin(angle)])
        return centre + params["radius"] * on_circle + params["scale"] * noise["z"]


class Pinwheel(_Toy):
    """Five normal arms, rotated clockwise by the angle exp(r / 2) / 4 at distance r.

    Before the rotation the arms are normals centred on a circle of radius 2, of standard deviation
    0.6 along the radius and 0.2 across it. The rotation preserves areas, so

        p(x) = mean over k = 0 .. 4 of N(turn(x, exp(|x| / 2) / 4); R_k (2, 0), R_k D R_k^T),

    with D = diag(0.6^2, 0.2^2) and R_k the rotation by 2 pi k / 5. The entropy is 2.3206 nats.
    FFJORD rotates by the position along the arm, which differs from r by 1 %, and has no density.
    """

    _entropy: ClassVar[float] = 2.3205885

    def _numbers(self):
        angle = 2 * np.pi / 5 * np.arange(5)
        cosine, sine = np.cos(angle), np.sin(angle)
        rotation = np.array([[cosine, -sine], [sine, cosine]]).transpose(2, 0, 1)
        factor = rotation * [0.6, 0.2]
        scale_tril = np.linalg.cholesky(factor @ factor.swapaxes(1, 2))
        mean = 2 * rotation[:, :, 0]
        return {"logits": np.zeros(5), "mean": mean, "scale_tril": scale_tril, "rate": 0.25}

    def log_prob(self, params, x, y=None):
        return _ARMS.log_prob(params, _turn(x, params["rate"]))

    def noise(self):
        return _ARMS.noise()

    def push(self, params, noise, y=None):
        return _turn(_ARMS.push(params, noise), -params["rate"])


def checkerboard() -> Checkerboard:
    """The uniform distribution on a checkerboard: see ``Checkerboard``."""
    return Checkerboard()


def eight_gaussians() -> EightGaussians:
    """Eight normals on a circle: see ``EightGaussians``."""
    return EightGaussians()


def two_moons() -> TwoMoons:
    """Two half circles with normal noise: see ``TwoMoons``."""
    return TwoMoons()


def pinwheel() -> Pinwheel:
    """Five rotated arms: see ``Pinwheel``."""
    return Pinwheel()


def _turn(x, rate):
    """x, rotated counterclockwise by the angle rate exp(|x| / 2)."""
    # not zero, where the gradient of a square root is infinite
    radius = jnp.sqrt(jnp.maximum(x[0] ** 2 + x[1] ** 2, 1e-12))
    # constant beyond 16, 23 standard deviations away, where rounding would change the angle
    angle = rate * jnp.exp(jnp.minimum(radius, 16) / 2)
    cosine, sine = jnp.cos(angle), jnp.sin(angle)
    return jnp.stack([cosine * x[0] - sine * x[1], sine * x[0] + cosine * x[1]])
