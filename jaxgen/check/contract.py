"""Laws of the contract: specs, batches, keys, dtypes, conditions, files and compilation."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen import batch
from jaxgen.check.subject import (
    FEW,
    Subject,
    cast,
    require,
    require_close,
    tree_leaves,
    tree_map,
)
from jaxgen.precision import enable_x64
from jaxgen.random import Key, is_leaf
from jaxgen.spec import Spec, from_json, to_json

_RTOL = 1e-5  # between programs: their matrix products may round differently
_compiled = [0]
_listening: list[bool] = []


@contextlib.contextmanager
def count_compiles() -> Iterator[list[int]]:
    """A context whose one-entry list holds, after it, the number of programs compiled within.

    >>> with count_compiles() as count:
    ...     scores = fitted.log_prob(x)
    >>> count[0] >= 0
    True
    """
    if not _listening:  # JAX has no public way to stop listening: listen once
        jax.monitoring.register_event_duration_secs_listener(_note_compile)
        _listening.append(True)
    count, before = [0], _compiled[0]
    try:
        yield count
    finally:
        count[0] = _compiled[0] - before


def _note_compile(event: str, duration_secs: float, **_: Any) -> None:
    if event == "/jax/core/compile/backend_compile_duration":
        _compiled[0] += 1


def spec(subject: Subject) -> str:
    """The spec rebuilds equal from its JSON and from its repr, and hashes equal."""
    model = subject.model
    for rebuilt, source in ((from_json(to_json(model)), "JSON"), (_from_repr(model), "repr")):
        require(rebuilt == model, f"the spec from its {source} is {rebuilt}, not equal to {model}")
        require(hash(rebuilt) == hash(model), f"the spec from its {source} hashes differently")
    require(isinstance(model.event_shape, tuple), f"event_shape is {model.event_shape!r}, no tuple")
    return repr(model)


def start(subject: Subject) -> str:
    """``init`` gives finite params of one tree, with data and without, in one float dtype."""
    model = subject.model
    x = subject.samples[:512]
    y = subject.every_condition(len(x))
    bare, informed = model.init(subject.key), model.init(subject.key, x.astype(np.float64), y)
    trees: list[Any] = [jax.tree_util.tree_structure(p) for p in (bare, informed, subject.params)]
    require(trees[0] == trees[1] == trees[2], f"params' trees differ: {trees}")
    for leaf in tree_leaves(bare):
        require(isinstance(leaf, jax.Array), f"init gives a {type(leaf).__name__}, not an array")
    kinds = {leaf.dtype for leaf in tree_leaves(bare) if leaf.dtype.kind == "f"}
    require(len(kinds) <= 1, f"init mixes float dtypes {sorted(map(str, kinds))}")
    for params in (bare, informed):
        for leaf in tree_leaves(params):
            leaf = np.asarray(leaf)
            require(not np.isnan(leaf).any(), "init gives NaN params")
    return f"{sum(np.size(v) for v in tree_leaves(bare))} parameters"


def batches(subject: Subject) -> str:
    """A batch of any size or shape scores as its rows do, and as the bare method on one event."""
    x, wanted = subject.few, subject.log_prob(subject.few)
    worst = require_close(subject.log_prob(x[:1]), wanted[:1], "score of a batch of 1", _RTOL)
    cube = subject.log_prob(x[:6].reshape(2, 3, *x.shape[1:]))
    require_close(cube, wanted[:6].reshape(2, 3), "score of a batch (2, 3)", _RTOL)
    in_large = subject.scores[:FEW]
    require_close(in_large, wanted, "score of a larger batch", _RTOL, 1e-5)
    empty = subject.log_prob(x[:0])
    require(empty.shape == (0,), f"an empty batch scores shape {empty.shape}, not (0,)")
    require(empty.dtype == subject.dtype, f"an empty batch scores {empty.dtype}")
    return f"worst gap {worst:.1g}"


def eager(subject: Subject) -> str:
    """log_prob and push of one event, not compiled, agree with the compiled batch."""
    model, y = subject.model, subject.conditions(1)
    y = None if y is None else jnp.asarray(y[0])
    wanted = subject.log_prob(subject.few)
    for i in range(2):
        one = model.log_prob(subject.params, jnp.asarray(subject.few[i].astype(subject.dtype)), y)
        require(jnp.shape(one) == (), f"log_prob of one event has shape {jnp.shape(one)}, not ()")
        require_close(np.atleast_1d(one), wanted[i : i + 1], "score of one event", _RTOL, 1e-5)
    noise = subject.noise(2)
    for i in range(2):
        one = model.push(subject.params, _row(noise, i), y)
        require_close(one, subject.few[i], "sample of one event", _RTOL, 1e-6)
    return "2 events"


@jax.jit
def _row(noise, i):
    return tree_map(lambda v: v[..., i], noise)


def pure(subject: Subject) -> str:
    """``jaxgen.sample`` and ``jaxgen.log_prob`` under a jit are what Fitted gives outside it."""

    @jax.jit
    def both(params, key, y):
        x = batch.sample(subject.model, params, key, 5, y)
        return x, batch.log_prob(subject.model, params, x, y)

    y = subject.conditions(5)
    x, scores = both(subject.params, subject.key, y)
    worst = require_close(x, subject.few[:5], "sample under jit", _RTOL, 1e-6)
    require_close(scores, subject.log_prob(subject.few)[:5], "score under jit", 1e-4, 1e-4)
    return f"worst gap {worst:.1g}"


def prefix(subject: Subject) -> str:
    """Rows depend on the key and their number alone: n = 10 begins n = 65536, in any block."""
    ten = subject.fitted.sample(subject.key, 10, subject.y)
    worst = require_close(ten, subject.samples[:10], "the first 10 samples", _RTOL, 1e-6)
    block = next(subject.fitted.stream(subject.key, FEW, subject.conditions(FEW), start=7))
    require_close(block, subject.samples[7 : 7 + FEW], "rows 7 to 70 as a block", _RTOL, 1e-6)
    return f"worst gap {worst:.1g}"


def determinism(subject: Subject) -> str:
    """The same key gives the same bytes, another key other samples, and rows differ."""
    again = np.asarray(subject.fitted.sample(subject.key, FEW, subject.y))
    require(np.array_equal(again, subject.few), "the same key gave different samples")
    other = np.asarray(subject.fitted.sample(jax.random.key(123), FEW, subject.y))
    require(not np.array_equal(other, subject.few), "another key gave the same samples")
    require((subject.samples != subject.samples[:1]).any(), "all samples are the same event")
    return f"{FEW} rows"


def key_reuse(subject: Subject) -> str:
    """A model that takes a key consumes it once."""
    leaves = jax.tree_util.tree_leaves(subject.model.noise(), is_leaf=is_leaf)
    if not any(isinstance(leaf, Key) for leaf in leaves):
        return "takes no key"
    y = subject.conditions(1)
    noise = _row(subject.noise(1), 0)
    with jax.debug_key_reuse(True):
        push = jax.jit(lambda z: subject.model.push(subject.params, z, None if y is None else y[0]))
        push(noise)
    return "used once"


def compiles(subject: Subject) -> str:
    """A spec rebuilt from its parts compiles nothing new."""
    # few may be known already, and JAX's caches have been cleared since
    subject.log_prob(subject.fitted.sample(subject.key, FEW, subject.y))
    model: Any = from_json(to_json(subject.model))
    rebuilt = Subject(model, subject.params, key=subject.key, y=subject.y)
    with count_compiles() as count:
        x = rebuilt.few
        rebuilt.log_prob(x)
        rebuilt.log_prob(x[: FEW - 5])  # a number of rows not seen before
    require(count[0] == 0, f"an equal spec compiled {count[0]} programs again")
    return "0 programs"


def dtypes(subject: Subject) -> str:
    """Results have the params' float dtype, with x64 on or off, and no float64 step in between."""
    model, start = subject.model, np.zeros(2, np.uint32)

    def both(params, key, x, y):
        rows = batch.sample_rows(model, params, key, start, 3, y)
        return rows, batch.log_prob_rows(model, params, x, y)

    kind = subject.samples.dtype.kind
    for x64, dtype in ((False, np.float32), (True, np.float32), (True, np.float64)):
        with enable_x64(x64):
            params = cast(subject.params, dtype)
            x = jnp.zeros((3, *model.event_shape), dtype)
            y = subject.conditions(3)
            y = y.astype(dtype) if y is not None and y.dtype.kind == "f" else y
            jaxpr, (event, score) = jax.make_jaxpr(both, return_shape=True)(
                params, subject.key, x, y
            )
            where = f"with {np.dtype(dtype)} params and x64 {'on' if x64 else 'off'}"
            require(event.shape == (3, *model.event_shape), f"an event has shape {event.shape[1:]}")
            require(score.shape == (3,), f"a score has shape {score.shape[1:]}, not ()")
            require(score.dtype == dtype, f"log_prob is {score.dtype} {where}")
            require(
                event.dtype == dtype or event.dtype.kind in "iub",
                f"samples are {event.dtype} {where}",
            )
            require(event.dtype.kind == kind, f"samples are {event.dtype} {where}")
            if dtype == np.float32:
                wide = _wide(jaxpr.jaxpr)
                require(not wide, f"{wide} computes in float64 {where}")
    return str(subject.dtype)


def conditions(subject: Subject) -> str:
    """One y for all rows is as y for each row; a missing, surplus or misshaped y is refused.

    Where y is a label that may be missing, the score then is the marginal.
    """
    fitted, x = subject.fitted, subject.few
    if subject.model.y_shape is None:
        _refused(lambda: fitted.log_prob(x, np.zeros(FEW)), "a surplus y in log_prob")
        _refused(lambda: fitted.sample(subject.key, 3, np.zeros(3)), "a surplus y in sample")
        return "unconditional"
    rows = subject.conditions(FEW)
    wanted = subject.log_prob(x)
    require_close(fitted.log_prob(x, rows), wanted, "score with a y for each row", _RTOL)
    own = np.asarray(fitted.sample(subject.key, FEW, rows))
    require_close(own, x, "samples with a y for each row", _RTOL)
    _refused(lambda: fitted.log_prob(x, rows[:3]), "3 conditions for 64 events")
    # each row listens to its own y
    other = np.array(rows)
    other[FEW // 2 :] = other[FEW // 2 :] + 1
    if subject.model.classes is None:
        _refused(lambda: fitted.log_prob(x), "a missing y in log_prob")
        _refused(lambda: fitted.sample(subject.key, 3), "a missing y in sample")
    else:
        _labels(subject)
        other %= subject.model.classes
    mixed = np.asarray(fitted.log_prob(x, other))
    require_close(mixed[: FEW // 2], wanted[: FEW // 2], "score beside rows of another y", _RTOL)
    require((mixed[FEW // 2 :] != wanted[FEW // 2 :]).any(), "log_prob does not depend on y")
    if other.dtype.kind == "f":
        other[0] = np.nan
        require(np.isnan(np.asarray(fitted.log_prob(x, other))[0]), "a NaN in y gives no NaN")
    return f"y of shape {subject.model.y_shape}"


def _labels(subject):
    """p(x) and p(y|x) follow from p(y) and p(x|y); a draw without y is one of its own label."""
    fitted, x, classes = subject.fitted, subject.few, subject.model.classes
    prior = np.asarray(subject.model.log_prior(subject.params), np.float64)
    require_close(np.exp(prior).sum(), 1.0, "sum of p(y)", 1e-5)
    joint = prior + np.stack([np.asarray(fitted.log_prob(x, k)) for k in range(classes)], 1)
    marginal = np.logaddexp.reduce(joint, 1)
    require_close(fitted.log_prob(x), marginal, "log p(x)", _RTOL)
    posterior = np.exp(np.asarray(fitted.classify(x), np.float64))
    require_close(posterior, np.exp(joint - marginal[:, None]), "p(y|x)", _RTOL, _RTOL)
    drawn = np.asarray(fitted.sample(subject.key, FEW))
    each = [np.asarray(fitted.sample(subject.key, FEW, k)) for k in range(classes)]
    gaps = np.stack([np.abs(own - drawn).reshape(FEW, -1).max(1) for own in each])
    require(gaps.min(0).max() <= 1e-4 * (1 + np.abs(drawn).max()), "a draw has no label's noise")
    _refused(lambda: fitted.log_prob(x, classes), "a label out of range")
    _refused(lambda: fitted.log_prob(x, 0.5), "a label that is no int")


def files(subject: Subject) -> str:
    """Saved and loaded, the spec is equal and the params are the same bytes."""
    from jaxgen import files

    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model.jaxgen")
        subject.fitted.save(path)
        loaded = files.load(path)
        size = os.path.getsize(path)
    require(loaded.model == subject.model, f"loaded spec {loaded.model} is not {subject.model}")
    trees: list[Any] = [jax.tree_util.tree_structure(p) for p in (loaded.params, subject.params)]
    require(trees[0] == trees[1], f"loaded params' tree {trees[0]} is not {trees[1]}")
    for a, b in zip(tree_leaves(loaded.params), tree_leaves(subject.params), strict=True):
        same = a.dtype == b.dtype and np.asarray(a).tobytes() == np.asarray(b).tobytes()
        require(same, "loaded params are not the bytes that were saved")
    return f"{size} bytes"


def _refused(call, what):
    try:
        call()
    except (TypeError, ValueError) as error:
        require("y" in re.findall(r"\w+", str(error)), f"{what}: the error does not name y")
        return
    require(False, f"{what} was not refused")


def _from_repr(model):
    names: dict[str, type] = {}

    def collect(cls):
        for sub in cls.__subclasses__():
            names.setdefault(sub.__name__, sub)
            collect(sub)

    collect(Spec)
    text = re.sub(r"[\w.<>]*\.(?=[A-Za-z_]\w*\()", "", repr(model))  # classes made in functions
    names[type(model).__name__] = type(model)
    return eval(text, {"__builtins__": {}, "inf": float("inf")}, names)


def _wide(jaxpr):
    """The first primitive with a float64 result, within calls and loops too."""
    for equation in jaxpr.eqns:
        for out in equation.outvars:
            aval = out.aval
            # a Python number may pass as a weak float64 until it meets an array
            if getattr(aval, "dtype", None) == np.float64 and not getattr(aval, "weak_type", False):
                return equation.primitive.name
        for value in equation.params.values():
            for item in value if isinstance(value, (tuple, list)) else (value,):
                inner = getattr(item, "jaxpr", item)
                found = _wide(inner) if hasattr(inner, "eqns") else None
                if found:
                    return found
    return None
