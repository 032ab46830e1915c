"""Conditional models: a network of y changes the params of an unconditional family."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax

from jaxgen.core.families import modulate
from jaxgen.core.lanes import lanes
from jaxgen.core.model import Learning, Model
from jaxgen.core.wrapper import Inner, Wrapper
from jaxgen.networks.network import Network, tile_of


class Conditional(Wrapper):
    """p(x | y) = p_family(x; params), where network(y) changes the params of the family.

    With a Gaussian this is regression whose covariance depends on y, with a GaussianMixture a
    mixture density network, with a Categorical a classifier. The params to change, ``start``, are
    those of the family fitted to x alone, so that a fit does not depend on the units of x. The
    family's ``modulate`` applies the change, which is 0 where the network's outputs are 0.

    Args:
      net: the network, with the shape and the domain of y: an ``MLP``, or any ``Network`` with the
        field ``y_shape``. Its input is y with numbers of mean 0 and deviation 1, in the shape of y,
        or (1,) if that is (). If ``y_domain`` has levels or bounded numbers, the input is a vector,
        in which levels are one-hot and bounded numbers are cosines and sines. Its features go
        through a linear layer.
      family: unconditional model of x that defines ``modulate``.

    Params: ``start``, params of the family, and ``frame``, the shift and scale of y, both set from
    the data and not trained; and ``network``, for a network other than an ``MLP`` the dict
    ``features``, its params, and ``out``, those of the linear layer.

    Source: Bishop 1994, "Mixture density networks".

    >>> net = jaxgen.networks.MLP((2,))
    >>> mixture = Conditional(net, GaussianMixture(2, components=5))
    >>> fitted = jaxgen.fit(mixture, x, conditions, key=jax.random.key(0), epochs=1)
    """

    net: Network
    family: Model

    def __post_init__(self):
        super().__post_init__()
        if self.net.y_shape is None:
            raise ValueError(
                "Conditional: net must have y_shape, the shape of a condition, got "
                f"{self.net} with y_shape None"
            )
        if self.family.y_shape is not None:
            raise ValueError(
                f"Conditional: family must be unconditional, got {self.family} with y_shape "
                f"{self.family.y_shape}"
            )
        try:
            _ = _shapes(self.family)
        except NotImplementedError as error:
            raise ValueError(
                "Conditional: family must define modulate(params, change), by which the network "
                f"changes its params, but {error}"
            ) from None

    @property
    def inner(self):
        return (Inner(self.family, ("start",)),)

    @property
    def y_shape(self):
        return self.net.y_shape

    @property
    def y_support(self):
        return self.net.conditions.support

    @property
    def learning(self):
        rescalable = self.family.learning.rescalable
        return Learning(rate=2e-3, frozen=("start", "frame"), rescalable=rescalable)

    def _traits(self):
        return (
            super()
            ._traits()
            ._replace(
                reparameterized=self.family.traits.reparameterized,
                components=self._components(),
                tile=tile_of(max(self.net.widest, self._count)),
            )
        )

    def init(self, key, x=None, y=None):
        keys = jax.random.split(key)
        return {
            "start": self.family.init(keys[0], x),
            "frame": self.net.conditions.init(y),
            "network": self.net.init_outputs(keys[1], self._shape_of_input, self._count),
        }

    def log_prob(self, params, x, y=None):
        return self.family.log_prob(self._family_params(params, y), x)

    def rescale(self, params, shift, scale):
        return {**params, "start": self.family.rescale(params["start"], shift, scale)}

    def noise(self):
        return self.family.noise()

    def push(self, params, noise, y=None):
        return self.family.push(self._family_params(params, y), noise)

    def pull(self, params, x, y=None):
        return self.family.pull(self._family_params(params, y), x)

    def _joint(self, params, x, y=None, observed=None):
        return self.family.traits.components.joint(self._family_params(params, y), x)

    def _which(self, params, noise, y=None):
        return self.family.traits.components.which(self._family_params(params, y), noise)

    def _family_params(self, params, y):
        """The family's params given y."""
        leaves, tree = jax.tree_util.tree_flatten(_shapes(self.family))
        sizes = [math.prod(leaf.shape) for leaf in leaves]
        pieces = lax.split(lanes(self._outputs)(params, y), sizes)
        shaped = [v.reshape(leaf.shape) for v, leaf in zip(pieces, leaves, strict=True)]
        change = jax.tree_util.tree_unflatten(tree, shaped)
        return modulate(self.family, params["start"], change)

    def _outputs(self, params, y):
        """The outputs of the network, (numbers, ...), for y (*y_shape, ...)."""
        rows, shape = y.shape[len(self.y_shape) :], self._shape_of_input
        dtype = jax.tree_util.tree_leaves(params["network"])[0].dtype
        encoded = self.net.conditions.encode(params["frame"], y, jnp.zeros((0, *rows), dtype))
        return self.net.outputs(params["network"], encoded.reshape(*shape, *rows), shape)

    @property
    def _shape_of_input(self):
        """The shape of the network's input for one event."""
        conditions = self.net.conditions
        return (self.y_shape or (1,)) if conditions.support is None else (conditions.size,)

    @property
    def _count(self):
        """Number of scalars in the family's params."""
        leaves = jax.tree_util.tree_leaves(_shapes(self.family))
        return sum(math.prod(leaf.shape) for leaf in leaves)


@functools.cache
def _shapes(family):
    """The shapes of the family's params; it raises NotImplementedError without ``modulate``."""

    def modulated():
        start = family.init(jax.random.key(0))
        return modulate(family, start, start)

    return jax.eval_shape(modulated)
