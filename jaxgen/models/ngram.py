"""Interpolated Kneser-Ney models of sequences of tokens, such as texts."""

from __future__ import annotations

from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from numpyro.distributions import constraints

from jaxgen.core.families import namespace
from jaxgen.core.model import Learning
from jaxgen.core.random import Uniform
from jaxgen.core.sizes import size_class
from jaxgen.core.spec import AtLeast, Count
from jaxgen.models.sequence import Sequence
from jaxgen.networks.domains import Domain, Levels

_DISCOUNTS = 0.5, 1.0, 1.5  # for counts 1, 2 and larger, where data do not determine them
_STREAMED = 256  # tokens that count in a window of a stream


class NGram(Sequence):
    """N-grams: each token depends on the ``order - 1`` tokens before it, by Kneser-Ney smoothing.

    A token w after a context c of tokens has the probability

        p(w | c) = (n(c w) - D(n(c w))) / n(c) + backoff(c) p(w | c without its first token),

    where n(c w) is the number of times that w follows c, for the longest contexts, and the number
    of different tokens before c w for shorter ones. D is the discount of a count, and n(c) and
    backoff(c) follow from the sums over w. Without a context, p is mixed with the uniform
    distribution. So every token has a positive probability after any context.

    With ``stop``, sequences begin after a mark of the start, as if each followed the end of another
    one. N-grams that begin with it have no token before them, so their counts are numbers of times
    for all lengths. Without ``stop``, contexts are shorter at the start of an event.

    Weights are counts: an integer weight counts as that many equal events, and a fractional count
    has the discount of the next integer, but at most the whole count. Numbers of different tokens
    do not depend on weights, except that events of weight 0 are left out.

    Args:
      length: largest number of tokens in a sequence. A long text is one event of many tokens.
      vocabulary: number of different tokens.
      order: number of tokens in the longest n-gram, 1 for independent tokens.
      stop: whether sequences end; otherwise all of them have ``length`` tokens.
      prompt: number of first tokens that are given.
      y_shape: () for p(x | y) with a label y; None for p(x).
      y_domain: ``Levels(k)`` with y_shape (): each of k labels has counts and
        discounts of its events alone.
      modified: whether counts of 1, 2 and more have three discounts; otherwise they share one.

    Params: a tree whose nodes are n-grams; a child of a node has one more token at its end. Nodes
    are numbered so that the children of a node form one block, in order of their last tokens. Node
    0 stands for unknown n-grams, and nodes 1, 2, ... for the empty n-gram of each label.

    - ``token`` (nodes,): the last token of each node.
    - ``share`` (nodes,): the first term of the formula above; for single tokens p itself.
    - ``cumulative`` (nodes,): the cumulative sum of the shares in a block.
    - ``first`` (contexts + 1,): the first child of each node that is a context.
    - ``backoff`` (contexts,): the weight of shorter contexts.
    - ``prompt`` (prompt,): the tokens of the prompt, if there is one.

    All but the last are padded, so that fits to similar data share their compiled programs.

    Raises:
      ValueError: y_shape and y_domain are those of another condition than a label, or ``fit`` is
        called with a prompt.
      NotImplementedError: ``estimate`` is called on traced arrays, as a ``compose.Mixture`` does.

    Source: Chen and Goodman 1999, "An empirical study of smoothing techniques for language
    modeling", sections 4.1.6 and 4.1.7. The discounts where data do not determine them are those of
    Heafield et al. 2013, "Scalable modified Kneser-Ney language model estimation" (KenLM).

    >>> tokens = np.random.default_rng(0).integers(3, size=(100, 8))
    >>> fitted = jaxgen.fit(NGram(8, 3, order=2, stop=False), tokens, key=jax.random.key(0))
    >>> fitted.sample(jax.random.key(1), 5).shape
    (5, 8)
    """

    length: Count  # type: ignore[misc]
    vocabulary: Count  # type: ignore[misc]
    order: Count = 6
    stop: bool = True  # type: ignore[misc]
    prompt: Annotated[int, AtLeast(0)] = 0  # type: ignore[misc]
    y_shape: tuple[int, ...] | None = None  # type: ignore[misc]
    y_domain: tuple[Domain, ...] | None = None
    modified: bool = True

    learning = Learning("closed_form", frozen=("share", "cumulative", "backoff"))

    def __post_init__(self):
        super().__post_init__()
        if (self.y_shape, self.y_domain) != (None, None) and (
            self.y_shape != () or self._labels is None
        ):
            raise ValueError(
                "NGram: a condition must be a label, with y_shape=() and y_domain=Levels(k); got "
                f"y_shape={self.y_shape} and y_domain={self.y_domain}"
            )

    @property
    def y_support(self):
        return None if self.y_shape is None else constraints.integer_interval(0, self._labels - 1)

    @property
    def _labels(self):
        """The number of labels, 1 without y; None if y is no label."""
        if self.y_domain is None:
            return 1 if self.y_shape is None else None
        levels, *others = self.y_domain
        return levels.count if isinstance(levels, Levels) and not others else None

    @property
    def stream_windows(self):
        return _STREAMED + self.order - 1, _STREAMED

    def _traits(self):
        return (
            super()
            ._traits()
            ._replace(degrees_of_freedom=self._degrees_of_freedom, scratch=4 * self.length)
        )

    def _degrees_of_freedom(self, params):
        raise NotImplementedError(
            f"{self} has no degrees of freedom, as its params are counts: compare models by "
            "held-out events, as select(..., by='held_out') does"
        )

    def init(self, key, x=None, y=None):
        if isinstance(x, jax.core.Tracer):  # shows which sizes data decide, as the tables grow
            return jax.tree_util.tree_map(lambda v: jnp.concatenate([v, v]), self.init(key))
        if x is not None:
            return self.estimate(x, y)
        nothing = np.zeros(0, int)
        params = self._tables(nothing, nothing, nothing, np.zeros(0))
        kinds = {"f": float, "i": jnp.int32}
        params = {name: jnp.asarray(v, kinds[v.dtype.kind]) for name, v in params.items()}
        return self._with_prompt(params)

    def estimate(self, x, y=None, weights=None):
        if namespace(x, weights) is jnp:
            raise NotImplementedError(
                "NGram can be fitted to data alone, and not by EM as a component of a mixture: "
                "the sizes of its params depend on the data"
            )
        if self.prompt:
            raise ValueError(
                f"NGram: fit the model without a prompt, and then call given; got prompt="
                f"{self.prompt}"
            )
        weights = np.ones(len(x)) if weights is None else weights
        keep = weights > 0
        x, weights = x[keep].astype(np.int64), weights[keep]
        label = np.zeros(len(x), np.int64) if y is None else y[keep].astype(np.int64)
        counted = np.ones(x.shape, bool)
        if self.stop:
            ended = x == self.vocabulary
            counted[:, 1:] = ~ended[:, :-1]  # the first end is a token like others
            x = np.pad(x, ((0, 0), (1, 0)), constant_values=self.vocabulary)
            counted = np.pad(counted, ((0, 0), (1, 0)), constant_values=True)
        rows, places = np.nonzero(counted)
        return self._tables(x[counted], places, label[rows], weights[rows])

    def _tables(self, tokens, places, labels, weights):
        """Params from tokens (m,) of sequences one after the other.

        Args:
          tokens: (m,), with a mark of the start before each sequence if ``stop``.
          places: (m,), the number of tokens before each in its sequence.
          labels: (m,), the label of the sequence.
          weights: (m,), its weight.
        """
        outputs, roots = self.outputs, self._labels
        longest = int(places.max(initial=0)) + 1
        top = min(self.order, longest)
        node = labels  # the node of the last k tokens at each place, as a number in its level
        levels: list[Any] = []  # parents, tokens and counts of the nodes of k tokens
        for k in range(1, top + 1):
            ends = np.flatnonzero(places >= k - 1)
            key = (labels[ends] if k == 1 else node[ends - 1]) * outputs + tokens[ends]
            if k == 1:
                keys, member = np.arange(roots * outputs), key
            else:
                keys, member = np.unique(key, return_inverse=True)
                # the number of different tokens before each shorter n-gram
                suffix = np.empty(len(keys), np.int64)
                suffix[member] = node[ends]
                count = levels[-1][2]
                count += np.bincount(suffix, minlength=len(count))
            begins = places[ends] == k - 1
            # shorter n-grams are counted here only where no token comes before them
            counted = begins if k < top else np.ones_like(begins)
            if self.stop and k == 1:  # the mark of the start is not drawn
                counted = counted & ~begins
            count = np.bincount(member[counted], weights[ends][counted], len(keys))
            if k < top and not self.stop:  # an unknown token comes before
                count = (count > 0).astype(float)
            levels.append((keys // outputs, keys % outputs, count))
            node = np.full(len(tokens), -1)
            node[ends] = member
        return self._packed(levels)

    def _packed(self, levels):
        """Params from the parents, tokens and counts of the nodes of each level."""
        roots = self._labels
        tokens, share = [np.zeros(1 + roots, int)], [np.zeros(1 + roots)]
        backoff, children = [np.ones(1)], [np.zeros(1, int)]
        contexts, label = roots, np.arange(roots)  # of each context
        for parent, token, count in levels:
            label = label[parent]
            discount = np.empty(len(count))
            for k in range(roots):
                of_label = label == k
                discount[of_label] = _discounts(count[of_label], self.modified)
            total = np.bincount(parent, count, contexts)
            known = total > 0
            safe = np.where(known, total, 1)
            back = np.where(known, np.bincount(parent, discount, contexts) / safe, 1)
            part = (count - discount) / safe[parent]
            if len(share) == 1:  # all tokens are children of the root, with p itself
                part, back = part + back[parent] / self.outputs, np.zeros(roots)
            tokens.append(token)
            share.append(part)
            backoff.append(back)
            children.append(np.bincount(parent, minlength=contexts))
            contexts = len(count)
        if len(levels) < self.order:  # the longest n-grams are contexts too, without children
            backoff.append(np.ones(contexts))
            children.append(np.zeros(contexts, int))
        counts = np.concatenate(children)
        first = 1 + roots + np.concatenate([[0], np.cumsum(counts)])
        cumulative = np.cumsum(np.concatenate(share))
        cumulative[1 + roots :] -= np.repeat(cumulative[first[:-1] - 1], counts)
        nodes, size = size_class(len(cumulative) + 1), size_class(len(counts))
        return {
            "token": _padded(tokens, nodes, 0, np.int32),
            "share": _padded(share, nodes, 0, np.float64),
            "cumulative": _padded([cumulative], nodes, 0, np.float64),
            "first": _padded([first], size + 1, first[-1], np.int32),
            "backoff": _padded(backoff, size + 1, 1, np.float64),
        }

    def noise(self):
        return Uniform((self.length - self.prompt, self.order))

    def _log_probs(self, params, sequence, y):
        return jnp.log(self._walk(params, sequence, y)[0])

    def _walk(self, params, tokens, y):
        """The probability of each token (k,), and the nodes of the last 0, 1, ... tokens of all."""
        root = self._root(y)
        child = _take(params["first"], root) + tokens

        def deeper(carry, start):
            node, p = carry
            context = jnp.concatenate([start[None], node[:-1]])
            node = self._child(params, context, tokens)
            return (
                node,
                _take(params["share"], node) + _take(params["backoff"], context) * p,
            ), node[-1]

        p = _take(params["share"], child)
        (_, p), last = lax.scan(deeper, (child, p), self._start(params, root)[1:])
        return p, jnp.concatenate([root[None], child[-1:], last])[: self.order]

    def _draw(self, params, noise, y):
        nodes = self._start(params, self._root(y))
        prompt = jnp.zeros(0, jnp.int32)
        if self.prompt:
            prompt = params["prompt"]
            nodes = self._walk(params, prompt, y)[1]

        def step(carry, u):
            nodes, ended = carry
            # the longest context that does not back off
            longest = self.order - 1 - (u < 1 - _take(params["backoff"], nodes))[::-1].argmax()
            token = self._choose(params, nodes[longest], u[longest])
            token = jnp.where(ended, self.vocabulary, token)
            nodes = jnp.concatenate([nodes[:1], self._child(params, nodes[:-1], token)])
            return (nodes, ended | (token == self.vocabulary)), token

        ended = (prompt == self.vocabulary).any()
        _, tokens = lax.scan(step, (nodes, ended), noise)
        return jnp.concatenate([prompt, tokens])

    def _root(self, y):
        if y is None:
            return jnp.int32(1)
        return 1 + jnp.asarray(y).astype(jnp.int32).clip(0, self._labels - 1)

    def _start(self, params, root):
        """The nodes of the last 0, 1, ... tokens before the first token, (order,)."""
        start = (
            _take(params["first"], root) + self.vocabulary if self.stop else jnp.zeros_like(root)
        )
        nodes = jnp.stack([root, start] + (self.order - 2) * [jnp.zeros_like(root)])
        return nodes[: self.order]

    def _child(self, params, node, token):
        """The child of a node with a token; 0 if there is none."""
        low, end = _take(params["first"], node), _take(params["first"], node + 1)
        place = _bisect(lambda i: _take(params["token"], i) < token, low, end, self.outputs)
        found = (place < end) & (_take(params["token"], place) == token)
        return jnp.where(found, place, 0)

    def _choose(self, params, node, u):
        """The token of the child of a node whose share of the cumulative sum holds u."""
        low, end = _take(params["first"], node), _take(params["first"], node + 1)
        place = _bisect(lambda i: _take(params["cumulative"], i) <= u, low, end, self.outputs)
        return _take(params["token"], jnp.minimum(place, end - 1))


def _padded(arrays, size, value, dtype):
    array = np.concatenate(arrays).astype(dtype)
    return np.pad(array, (0, size - len(array)), constant_values=value)


def _discounts(counts, modified):
    """The discount of each count of n-grams of one length."""
    whole = np.ceil(counts).clip(0, 5).astype(int)
    times = np.bincount(whole, minlength=6).astype(float)  # how many n-grams have each count
    discounts = np.array(_DISCOUNTS if modified else _DISCOUNTS[:1] * 3)
    if times[1 : 4 if modified else 3].all():
        number = np.arange(1, 4)
        found = np.full(3, times[1] / (times[1] + 2 * times[2]))
        if modified:
            found = number - (number + 1) * found * times[2:5] / times[1:4]
        if ((found > 0) & (found < number)).all():
            discounts = found
    discounts = np.concatenate([[0], discounts])
    return np.minimum(discounts[np.minimum(whole, 3)], counts)


def _bisect(goes_on, low, end, most):
    """The first index in low .. end - 1 where ``goes_on`` is false, or end.

    ``goes_on`` is true up to some index; the range holds at most ``most`` indices.
    """

    def halve(_, low_and_size):
        low, size = low_and_size
        half = size // 2
        on = (size > 0) & goes_on(low + half)
        return jnp.where(on, low + half + 1, low), jnp.where(on, size - half - 1, half)

    # a loop: XLA takes exponential time to compile the steps one after another for one token
    return lax.fori_loop(0, most.bit_length(), halve, (low, end - low))[0]


def _take(table, index):
    return table.at[index].get(mode="promise_in_bounds")
