"""Laws of the model contract: specs, batches, keys, dtypes, conditions, files and compilation."""

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

from jaxgen.core import batch, verbs
from jaxgen.core.precision import enable_x64
from jaxgen.core.random import Key, is_leaf
from jaxgen.core.spec import Spec, from_json, to_json
from jaxgen.laws import compiled
from jaxgen.laws.compiled import FEW, LEARN, in_blocks, tree_leaves, tree_map
from jaxgen.laws.subject import Subject, cast, require, require_close
from jaxgen.training import fit
from jaxgen.training.fitted import load

_RTOL = 1e-5  # between programs, whose matrix products may round differently
_FEWER = 2000  # rows that ``fit`` pads to the size of LEARN; so with thirds and tenths of both
_compiled = [0]
_listening: list[bool] = []


@contextlib.contextmanager
def count_compiles() -> Iterator[list[int]]:
    """A context that counts compilations: afterwards its one-entry list holds their number.

    >>> with count_compiles() as count:
    ...     scores = fitted.log_prob(x)
    >>> count[0] >= 0
    True
    """
    if not _listening:  # JAX has no public way to remove a listener: register it once
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
    """A spec rebuilt from its JSON or its repr equals the original and has the same hash."""
    model = subject.model
    for rebuilt, source in ((from_json(to_json(model)), "JSON"), (_from_repr(model), "repr")):
        text = f"the spec rebuilt from its {source}"
        require(rebuilt == model, f"{text} is {rebuilt}, not equal to {model}")
        require(hash(rebuilt) == hash(model), f"{text} has another hash")
    shape = model.event_shape
    require(isinstance(shape, tuple), f"event_shape must be a tuple, got {shape!r}")
    return repr(model)


def start(subject: Subject) -> str:
    """``init`` gives params without NaN, of one tree with and without data, in one float dtype."""
    model = subject.model
    x = subject.samples[:LEARN]
    y = subject.cycled_labels(len(x))
    without_data = compiled.init(model, subject.key)
    with_data = model.init(subject.key, x.astype(np.float64), y)
    every = (without_data, with_data, subject.params)
    trees: list[Any] = [jax.tree_util.tree_structure(params) for params in every]
    require(trees[0] == trees[1] == trees[2], f"the trees of params differ: {trees}")
    for leaf_type in _leaf_types(model, subject.key):
        is_array = issubclass(leaf_type, jax.Array)
        require(is_array, f"init gives a {leaf_type.__name__}, not an array")
    dtypes = {leaf.dtype for leaf in tree_leaves(without_data) if leaf.dtype.kind == "f"}
    require(len(dtypes) <= 1, f"init mixes float dtypes {sorted(map(str, dtypes))}")
    for params in (without_data, with_data):
        for leaf in tree_leaves(params):
            leaf = np.asarray(leaf)
            require(not np.isnan(leaf).any(), "init gives NaN params")
    return f"{sum(np.size(v) for v in tree_leaves(without_data))} parameters"


def _leaf_types(model, key):
    """Types of the leaves that ``init`` gives without data; nothing is compiled."""
    types: list[type] = []

    def init(key):
        params = model.init(key)
        types.extend(
            jax.Array if isinstance(leaf, jax.Array) else type(leaf) for leaf in tree_leaves(params)
        )
        return params

    jax.eval_shape(init, key)
    return types


def batches(subject: Subject) -> str:
    """The score of a row does not depend on the size or shape of its batch."""
    x, wanted = subject.few_samples, subject.scores[:FEW]
    score = lambda x: np.asarray(subject.fitted.log_prob(x, subject.y))  # noqa: E731
    worst = require_close(score(x[:1]), wanted[:1], "score of a batch of 1", _RTOL, 1e-5)
    cube = score(x[:6].reshape(2, 3, *x.shape[1:]))
    require_close(cube, wanted[:6].reshape(2, 3), "score of a batch (2, 3)", _RTOL, 1e-5)
    require_close(score(x), wanted, f"score of a batch of {FEW}", _RTOL, 1e-5)
    empty = score(x[:0])
    require(empty.shape == (0,), f"scores of an empty batch have shape {empty.shape}, not (0,)")
    require(empty.dtype == subject.dtype, f"scores of an empty batch are {empty.dtype}")
    return f"worst gap {worst:.1g}"


def eager(subject: Subject) -> str:
    """log_prob and push of one event, without compilation, agree with the compiled batch."""
    model, rows = subject.model, subject.conditions(1)
    y = None if rows is None else jnp.asarray(rows[0])
    x = jnp.asarray(subject.few_samples[0].astype(subject.dtype))
    one = model.log_prob(subject.params, x, y)
    require(jnp.shape(one) == (), f"log_prob of one event has shape {jnp.shape(one)}, not ()")
    require_close(np.atleast_1d(one), subject.scores[:1], "score of one event", _RTOL, 1e-5)
    event = model.push(subject.params, _row(subject.noise(1), 0), y)
    require_close(event, subject.few_samples[0], "sample of one event", _RTOL, 1e-6)
    return "one event"


@jax.jit
def _row(noise, i):
    return tree_map(lambda v: v[..., i], noise)


def pure(subject: Subject) -> str:
    """``jaxgen.sample`` and ``jaxgen.log_prob`` give the same within jit as Fitted outside it."""

    @jax.jit
    def both(params, key, y):
        x = verbs.sample(subject.model, params, key, 5, y)
        return x, verbs.log_prob(subject.model, params, x, y)

    y = subject.conditions(5)
    x, scores = both(subject.params, subject.key, y)
    worst = require_close(x, subject.few_samples[:5], "sample under jit", _RTOL, 1e-6)
    require_close(scores, subject.scores[:5], "score under jit", 1e-4, 1e-4)
    return f"worst gap {worst:.1g}"


def prefix(subject: Subject) -> str:
    """A row depends on the key and on its number, not on the rows drawn with it."""
    later = subject.draw(FEW, start=7)
    worst = require_close(later, subject.samples[7 : 7 + FEW], "rows 7 to 70", _RTOL, 1e-6)
    ten = subject.fitted.sample(subject.key, 10, subject.y)
    worst = max(worst, require_close(ten, subject.samples[:10], "the first 10", _RTOL, 1e-6))
    return f"worst gap {worst:.1g}"


def determinism(subject: Subject) -> str:
    """The same key gives the same bytes, another key gives other samples, and rows differ."""
    x = subject.few_samples
    again = subject.draw(FEW)
    require(np.array_equal(again, x), "the same key gave different samples")
    other = subject.draw(FEW, key=jax.random.key(123))
    require(not np.array_equal(other, x), "another key gave the same samples")
    require((subject.samples != subject.samples[:1]).any(), "all samples are the same event")
    return f"{FEW} rows"


def key_reuse(subject: Subject) -> str:
    """A model whose noise is a key uses that key once."""
    leaves = jax.tree_util.tree_leaves(subject.model.noise(), is_leaf=is_leaf)
    if not any(isinstance(leaf, Key) for leaf in leaves):
        return "no key in its noise"
    y = subject.conditions(1)
    noise = _row(subject.noise(1), 0)
    with jax.debug_key_reuse(True):
        push = jax.jit(lambda z: subject.model.push(subject.params, z, None if y is None else y[0]))
        push(noise)
    return "used once"


def compiles(subject: Subject) -> str:
    """An equal spec, rebuilt from its JSON, compiles nothing new."""
    subject.log_prob(subject.draw(FEW))  # compiles again if JAX's caches have been cleared
    model: Any = from_json(to_json(subject.model))
    rebuilt = Subject(model, subject.params, key=subject.key, y=subject.y)
    with count_compiles() as count:
        rebuilt.log_prob(rebuilt.draw(FEW))
    require(count[0] == 0, f"an equal spec compiled {count[0]} programs again")
    return "0 programs"


def refits(subject: Subject) -> str:
    """A fit to another number of rows compiles nothing new, if both are padded to one size."""
    y = subject.cycled_labels(LEARN)
    x = subject.draw(LEARN, y)
    by_steps = subject.model.learning.method in ("em", "gradient")
    options: dict[str, Any] = {"epochs": 1} if by_steps else {}

    def learn(n):
        labels = None if y is None else y[:n]
        fit(subject.model, x[:n], labels, key=subject.key, progress=False, **options)

    learn(LEARN)
    with count_compiles() as count:
        learn(_FEWER)
    require(count[0] == 0, f"a fit to {_FEWER} rows after {LEARN} compiled {count[0]} programs")
    return "0 programs"


def dtypes(subject: Subject) -> str:
    """Results have the params' float dtype, with x64 on or off, without float64 in between."""
    model, start = subject.model, np.zeros(2, np.uint32)

    def both(params, key, x, y):
        rows = batch.sample_rows(model, params, key, start, 3, y)
        return rows, batch.log_prob_rows(model, params, x, y)

    kind = subject.samples.dtype.kind

    def check(event, score, dtype, where):
        require(event.shape[1:] == model.event_shape, f"an event has shape {event.shape[1:]}")
        require(len(score.shape) == 1, f"a score has shape {score.shape[1:]}, not ()")
        require(score.dtype == dtype, f"log_prob is {score.dtype} {where}")
        require(
            event.dtype == dtype or event.dtype.kind in "iub", f"samples are {event.dtype} {where}"
        )
        require(event.dtype.kind == kind, f"samples are {event.dtype} {where}")

    check(subject.samples, subject.scores, subject.dtype, f"with {subject.dtype} params")
    with enable_x64(True):
        params, x = subject.params, np.zeros((3, *model.event_shape), np.float32)
        jaxpr, (event, score) = jax.make_jaxpr(both, return_shape=True)(
            cast(params, np.float32), subject.key, x, subject.conditions(3)
        )
        where = "with float32 params and x64 on"
        check(event, score, np.float32, where)
        primitive = _float64_primitive(jaxpr.jaxpr)
        require(primitive is None, f"{primitive} computes in float64 {where}")
    with subject.in_float64() as double:
        y = double.conditions(3)
        draw = lambda params, key: batch.sample_rows(model, params, key, start, 3, y)  # noqa: E731
        event = jax.eval_shape(draw, double.params, double.key)
        u = double.coordinates.from_events(double.few_samples)
        score, _ = double.directional_derivatives(u)
        check(event, score, np.float64, "with float64 params and x64 on")
    return str(subject.dtype)


def conditions(subject: Subject) -> str:
    """Each row depends on its own y; a missing, superfluous or misshaped y raises an error.

    If y is a label, it may be missing: the score then is that of the marginal.
    """
    fitted, x = subject.fitted, subject.few_samples
    if subject.model.y_shape is None:
        _require_refused(lambda: fitted.log_prob(x, np.zeros(FEW)), "a superfluous y in log_prob")
        sample = lambda: fitted.sample(subject.key, 3, np.zeros(3))  # noqa: E731
        _require_refused(sample, "a superfluous y in sample")
        return "unconditional"
    rows: Any = subject.conditions(FEW)
    wanted = subject.scores[:FEW]
    _require_refused(lambda: fitted.log_prob(x, rows[:3]), "3 conditions for 64 events")
    other = np.array(rows)
    other[FEW // 2 :] = other[FEW // 2 :] + 1
    if subject.model.classes is None:
        _require_refused(lambda: fitted.log_prob(x), "a missing y in log_prob")
        _require_refused(lambda: fitted.sample(subject.key, 3), "a missing y in sample")
    else:
        _check_labels(subject)
        other %= subject.model.classes
    mixed = subject.log_prob(x, y=other)
    require_close(mixed[: FEW // 2], wanted[: FEW // 2], "score next to rows of another y", _RTOL)
    require((mixed[FEW // 2 :] != wanted[FEW // 2 :]).any(), "log_prob does not depend on y")
    drawn = subject.draw(FEW, other)
    require_close(drawn[: FEW // 2], x[: FEW // 2], "samples next to rows of another y", _RTOL)
    if other.dtype.kind == "f":
        other[0] = np.nan
        require(np.isnan(subject.log_prob(x, y=other)[0]), "log_prob is not NaN where y is")
    return f"y of shape {subject.model.y_shape}"


def _check_labels(subject):
    """p(x) and p(y|x) follow from p(y) and p(x|y), and a draw without y is a draw of its label."""
    model, fitted, x = subject.model, subject.fitted, subject.few_samples
    classes = model.classes
    prior = np.asarray(model.log_prior(subject.params), np.float64)
    require_close(np.exp(prior).sum(), 1.0, "sum of p(y)", 1e-5)
    every = [np.full(FEW, k, np.int32) for k in range(classes)]
    joint = prior + np.stack([subject.log_prob(x, y=label) for label in every], 1)
    marginal = np.logaddexp.reduce(joint, 1)
    require_close(subject.log_prob(x, y=None), marginal, "log p(x)", _RTOL)
    log_posterior = in_blocks(
        lambda _, rows: compiled.classify(model, subject.params, rows),
        (x.astype(subject.dtype),),
        FEW,
    )
    posterior = np.exp(log_posterior.astype(np.float64))
    require_close(posterior, np.exp(joint - marginal[:, None]), "p(y|x)", _RTOL, _RTOL)
    drawn = subject.draw(FEW, None)
    each = [subject.draw(FEW, label) for label in every]
    gaps = np.stack([np.abs(of_label - drawn).reshape(FEW, -1).max(1) for of_label in each])
    close = gaps.min(0).max() <= 1e-4 * (1 + np.abs(drawn).max())
    require(close, "a draw without y is not the draw of any label")
    _require_refused(lambda: fitted.log_prob(x, classes), "a label out of range")
    _require_refused(lambda: fitted.log_prob(x, 0.5), "a label that is not an int")


def files(subject: Subject) -> str:
    """After saving and loading, the spec is equal and the params are the same bytes."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model.jaxgen")
        subject.fitted.save(path)
        loaded = load(path)
        size = os.path.getsize(path)
    require(loaded.model == subject.model, f"the loaded spec {loaded.model} is not {subject.model}")
    trees: list[Any] = [jax.tree_util.tree_structure(p) for p in (loaded.params, subject.params)]
    require(trees[0] == trees[1], f"the tree of loaded params {trees[0]} is not {trees[1]}")
    for a, b in zip(tree_leaves(loaded.params), tree_leaves(subject.params), strict=True):
        same = a.dtype == b.dtype and np.asarray(a).tobytes() == np.asarray(b).tobytes()
        require(same, "the bytes of loaded params differ from those that were saved")
    return f"{size} bytes"


def _require_refused(call, what):
    try:
        call()
    except (TypeError, ValueError) as error:
        require("y" in re.findall(r"\w+", str(error)), f"{what}: the error does not name y")
        return
    require(False, f"{what} raises no error")


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


def _float64_primitive(jaxpr):
    """The first primitive with a float64 result, in calls and loops too; None if there is none."""
    for equation in jaxpr.eqns:
        for out in equation.outvars:
            aval = out.aval
            # a Python number may be a weak float64 until it is combined with an array
            if getattr(aval, "dtype", None) == np.float64 and not getattr(aval, "weak_type", False):
                return equation.primitive.name
        for value in equation.params.values():
            for item in value if isinstance(value, (tuple, list)) else (value,):
                inner = getattr(item, "jaxpr", item)
                found = _float64_primitive(inner) if hasattr(inner, "eqns") else None
                if found:
                    return found
    return None
