"""Networks of Flax, Equinox and Haiku, each a ``Network`` of a few lines, for tests."""

from typing import ClassVar, Literal

import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
from flax import nnx

from jaxgen import domains
from jaxgen.networks import Network


class Linen(Network):
    width: int = 4
    y_shape: tuple[int, ...] | None = None

    def module(self):
        return nn.Sequential([nn.Dense(self.width), nn.silu])

    def init(self, key, shape):
        return self.module().init(key, jnp.zeros(shape))

    def apply(self, params, x):
        return self.module().apply(params, x)


class Nnx(Network):
    width: int = 4
    y_shape: tuple[int, ...] | None = None

    def module(self, key, inputs):
        return nnx.Sequential(nnx.Linear(inputs, self.width, rngs=nnx.Rngs(key)), nnx.silu)

    def init(self, key, shape):
        _, params = nnx.split(self.module(key, shape[-1]), nnx.Param)
        return nnx.to_pure_dict(params)

    def apply(self, params, x):
        build = lambda: self.module(jax.random.key(0), x.shape[-1])  # noqa: E731
        graph, state = nnx.split(nnx.eval_shape(build))
        nnx.replace_by_pure_dict(state, params)
        return nnx.merge(graph, state)(x)


class Equinox(Network):
    width: int = 4
    y_shape: tuple[int, ...] | None = None

    def module(self, key, inputs):
        return eqx.nn.MLP(inputs, self.width, self.width, 1, jax.nn.silu, key=key)

    def init(self, key, shape):
        arrays = eqx.filter(self.module(key, shape[-1]), eqx.is_array)
        leaves = jax.tree_util.tree_leaves_with_path(arrays)
        return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}

    def apply(self, params, x):
        module = eqx.filter_eval_shape(self.module, jax.random.key(0), x.shape[-1])
        fill = lambda path, leaf: params.get(jax.tree_util.keystr(path), leaf)  # noqa: E731
        return jax.tree_util.tree_map_with_path(fill, module)(x)


class Haiku(Network):
    width: int = 4
    y_shape: tuple[int, ...] | None = None

    def layers(self, x):
        return jax.nn.silu(hk.Linear(self.width)(x))

    def init(self, key, shape):
        return hk.transform(self.layers).init(key, jnp.zeros(shape))

    def apply(self, params, x):
        return hk.without_apply_rng(hk.transform(self.layers)).apply(params, x)


# The same for sequences: convolutions over positions, padded on the left.


class LinenSequence(Linen):
    padding: Literal["CAUSAL", "SAME"] = "CAUSAL"

    def module(self):
        return nn.Sequential([nn.Conv(self.width, (2,), padding=self.padding), nn.silu])


class NnxSequence(Nnx):
    def module(self, key, inputs):
        rngs = nnx.Rngs(key)
        convolution = nnx.Conv(inputs, self.width, (2,), padding="CAUSAL", rngs=rngs)
        return nnx.Sequential(convolution, nnx.silu)


class EquinoxSequence(Equinox):
    def module(self, key, inputs):
        convolution = eqx.nn.Conv1d(inputs, self.width, 2, padding=((1, 0),), key=key)
        return eqx.nn.Sequential([convolution, eqx.nn.Lambda(jax.nn.silu)])

    def apply(self, params, x):
        module = eqx.filter_eval_shape(self.module, jax.random.key(0), x.shape[-1])
        fill = lambda path, leaf: params.get(jax.tree_util.keystr(path), leaf)  # noqa: E731
        return jax.tree_util.tree_map_with_path(fill, module)(x.T).T  # channels first


class HaikuSequence(Haiku):
    def layers(self, x):
        return jax.nn.silu(hk.Conv1D(self.width, 2, padding=hk.pad.causal)(x))


NETWORKS = (Linen, Nnx, Equinox, Haiku)
SEQUENCES = (LinenSequence, NnxSequence, EquinoxSequence, HaikuSequence)


# Networks that a model refuses.


class LinenNorm(Linen):
    def module(self):
        return nn.BatchNorm(use_running_average=True)


class LinenNormLeftOut(LinenNorm):
    def init(self, key, shape):
        return {"params": super().init(key, shape)["params"]}


class LinenDropout(Linen):
    def module(self):
        return nn.Sequential([nn.Dense(self.width), nn.Dropout(0.5, deterministic=False)])

    def init(self, key, shape):
        return self.module().init({"params": key, "dropout": key}, jnp.zeros(shape))


class NnxNorm(Nnx):
    def module(self, key, inputs):
        return nnx.BatchNorm(inputs, rngs=nnx.Rngs(key))


class NnxWholeState(NnxNorm):
    def init(self, key, shape):
        return nnx.state(self.module(key, shape[-1]))


class EquinoxNorm(Equinox):
    def module(self, key, inputs):
        return eqx.nn.BatchNorm(inputs, "rows", mode="ema")


class EquinoxModule(Equinox):
    def init(self, key, shape):
        return self.module(key, shape[-1])


class HaikuNorm(Haiku):
    def layers(self, x):
        return hk.BatchNorm(True, True, 0.9)(x, is_training=True)


class Counter(Linen):
    def init(self, key, shape):
        return {"layer": {**super().init(key, shape)["params"], "steps": jnp.zeros((), jnp.int32)}}


class Nothing(Linen):
    def init(self, key, shape):
        pass


class Pair(Linen):
    def apply(self, params, x):
        return super().apply(params, x), x


class NoWidth(Network):
    def init(self, key, shape):
        return {}

    def apply(self, params, x):
        return x


class LastPosition(Linen):
    def apply(self, params, x):
        return super().apply(params, x)[-1]


class OfLabel(Linen):
    """A network with a label as its condition."""

    y_shape: tuple[int, ...] | None = ()
    y_domain: ClassVar = domains.Levels(3)
