"""Laws of the model contract: specs, batches, keys, dtypes, conditions, files and compilation."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import tempfile
import warnings
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.core import batch, functions
from jaxgen.core.methods import (
    check_density,
    check_draws,
    check_facts,
    check_repeatable,
    check_start,
    traced_init,
)
from jaxgen.core.model import Model, Params
from jaxgen.core.precision import enable_x64
from jaxgen.core.random import Key, is_leaf
from jaxgen.core.spec import Spec, from_json, to_json
from jaxgen.laws import compiled
from jaxgen.laws.compiled import BLOCK, FEW, LEARN, in_blocks, tree_leaves, tree_map
from jaxgen.laws.subject import Subject, cast, require, require_close, shown
from jaxgen.training import fit
from jaxgen.training.fitted import load

_RTOL = 1e-5  # between programs, whose matrix products may round differently
_NOTABLE = 0.01  # nats by which y changes the score of some event, so that it changes samples
_FEWER = 2000  # rows that ``fit`` pads to the size of LEARN; so with thirds and tenths of both
_NO_STATE = (
    "it must not draw random numbers but from its argument noise, ask whether it is traced, nor "
    "read or write anything but its arguments"
)
_WIDE = (
    "NumPy arrays and np.float64 numbers are float64, and x64 keeps them so: write Python numbers, "
    "or cast them to x.dtype"
)
_ONE_EVENT = (
    "it gets one event and must depend on its arguments alone, not on other rows of the batch nor "
    "on what an earlier call left"
)
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


def methods(subject: Subject) -> str:
    """The methods run for one event, and return the shapes and dtypes that the contract states."""
    return check_methods(subject.model, subject.params)


def check_methods(model: Model, params: Params = None) -> str:
    """The law ``methods`` without a subject, whose samples need methods that run.

    params: by default those of ``model.init(key)``.
    """
    check_facts(model)
    start = traced_init(model)
    check_start(model, start)
    params = start.params if params is None else params
    check_density(model, params)
    check_draws(model, params)
    check_repeatable(model, params)
    return f"events of shape {model.event_shape}"


def spec(subject: Subject) -> str:
    """A spec rebuilt from its JSON or its repr equals the original and has the same hash.

    The fields that may change after a fit exist.
    """
    model = subject.model
    advice = (
        "fields are numbers, strings, tuples and other specs; leave __eq__, __hash__ and __repr__ "
        "to jaxgen"
    )
    for rebuilt, source in ((from_json(to_json(model)), "JSON"), (_from_repr(model), "repr")):
        text = f"the spec rebuilt from its {source}"
        require(rebuilt == model, f"{text} is {rebuilt}, not equal to {model}", advice)
        require(hash(rebuilt) == hash(model), f"{text} has another hash", advice)
    unknown = set(model.traits.changeable) - {field.name for field in dataclasses.fields(model)}
    advice = "traits.changeable: the names of fields"
    require(not unknown, f"the model has no fields {sorted(unknown)}, which may change", advice)
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
    require(
        trees[0] == trees[1] == trees[2],
        f"the trees of params differ: {trees[0]} without data, {trees[1]} with data, and "
        f"{trees[2]} in this check",
        "init: return the same names with and without x",
    )
    for name, kind in traced_init(model).types.items():
        is_array = issubclass(kind, jax.Array)
        advice = "init: jnp.asarray makes JAX arrays"
        require(is_array, f"{name!r} of init(key) is a {kind.__name__}", advice)
    dtypes = {leaf.dtype for leaf in tree_leaves(without_data) if leaf.dtype.kind == "f"}
    advice = "init: make all float params with jnp functions, without a dtype"
    require(len(dtypes) <= 1, f"init mixes float dtypes {sorted(map(str, dtypes))}", advice)
    for params, when in ((without_data, "without data"), (with_data, "with samples as x")):
        for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            bad = np.isnan(np.asarray(leaf)).any()
            advice = "init: guard divisions and logarithms of statistics of x"
            require(not bad, f"{name!r} of init {when} holds NaN", advice)
    return f"{sum(np.size(v) for v in tree_leaves(without_data))} parameters"


def batches(subject: Subject) -> str:
    """The score of a row does not depend on the size or shape of its batch."""
    x, wanted = subject.few_samples, subject.scores[:FEW]
    score = lambda x: np.asarray(subject.fitted.log_prob(x, subject.y))  # noqa: E731

    def compare(n, shape):
        got = score(x[:n].reshape(*shape, *x.shape[1:])).reshape(-1)
        what = f"log_prob of a batch of shape {shape}, compared with one of {FEW}"
        return require_close(got, wanted[:n], what, _RTOL, 1e-5, advice=_ONE_EVENT, events=x)

    worst = compare(1, (1,))
    compare(6, (2, 3))
    compare(FEW, (FEW,))
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
    advice = f"log_prob: {_NO_STATE}"
    what = "log_prob of one event without jit, compared with the compiled batch"
    wanted = np.asarray(subject.scores[:FEW])
    got = np.concatenate([np.atleast_1d(one), wanted[1:]])  # whose size says how much is rounded
    require_close(got, wanted, what, _RTOL, 1e-5, advice=advice)
    event = model.push(subject.params, _row(subject.noise(1), 0), y)
    what = "push for one event without jit, compared with the compiled batch"
    advice = f"push: {_NO_STATE}"
    require_close(event, subject.few_samples[0], what, _RTOL, 1e-6, advice=advice)
    return "one event"


@jax.jit
def _row(noise, i):
    return tree_map(lambda v: v[..., i], noise)


def pure(subject: Subject) -> str:
    """``jaxgen.sample`` and ``jaxgen.log_prob`` give the same within jit as Fitted outside it."""

    @jax.jit
    def both(params, key, y):
        x = functions.sample(subject.model, params, key, 5, y)
        return x, functions.log_prob(subject.model, params, x, y)

    y = subject.conditions(5)
    x, scores = both(subject.params, subject.key, y)
    what = "jaxgen.sample within jit, compared with Fitted.sample"
    advice = f"push: {_NO_STATE}"
    worst = require_close(x, subject.few_samples[:5], what, _RTOL, 1e-6, advice=advice)
    what = "jaxgen.log_prob within jit, compared with Fitted.log_prob"
    advice = f"log_prob: {_NO_STATE}"
    require_close(scores, subject.scores[:5], what, 1e-4, 1e-4, advice=advice)
    return f"worst gap {worst:.1g}"


def prefix(subject: Subject) -> str:
    """A row depends on the key and on its number, not on the rows drawn with it."""
    later = subject.draw(FEW, start=7)
    what = "samples 7 to 70 drawn alone, compared with those of a longer draw"
    advice = f"push: {_ONE_EVENT}"
    expected = subject.samples[7 : 7 + FEW]
    gap = require_close(later, expected, what, _RTOL, 1e-6, advice=advice)
    ten = subject.fitted.sample(subject.key, 10, subject.y)
    what = "the first 10 samples drawn alone, compared with those of a longer draw"
    expected = subject.samples[:10]
    gap = max(gap, require_close(ten, expected, what, _RTOL, 1e-6, advice=advice))
    return f"worst gap {gap:.1g}"


def determinism(subject: Subject) -> str:
    """The same key gives the same bytes, another key gives other samples, and rows differ."""
    x = subject.few_samples
    again = subject.draw(FEW)
    advice = f"push: {_NO_STATE}"
    require(np.array_equal(again, x), "the same key gave different samples", advice)
    other = subject.draw(FEW, key=jax.random.key(123))
    advice = "push: make the event of its argument noise; it must not draw from a key of its own"
    what = f"another key gave the same samples, the first of them {shown(x[0])}"
    require(not np.array_equal(other, x), what, advice)
    varied = (subject.samples != subject.samples[:1]).any()
    require(varied, f"all samples are the same event, {shown(x[0])}", advice)
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
    advice = "the model's class: leave __eq__ and __hash__ to jaxgen"
    require(count[0] == 0, f"an equal spec compiled {count[0]} programs again", advice)
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
    require(
        count[0] == 0,
        f"a fit to {_FEWER} rows after {LEARN} compiled {count[0]} programs",
        "init or estimate: x is a NumPy array of n rows: use NumPy (see "
        "jaxgen.core.families.namespace), as JAX compiles for each n",
    )
    return "0 programs"


def dtypes(subject: Subject) -> str:
    """Results have the params' float dtype, with x64 on or off, without float64 in between."""
    model, start = subject.model, np.zeros(2, np.uint32)

    def both(params, key, x, y):
        rows = batch.sample_rows(model, params, key, start, 3, y)
        return rows, batch.log_prob_rows(model, params, x, y)

    kind = subject.samples.dtype.kind

    def check(event, score, dtype, where):
        require(score.dtype == dtype, f"log_prob is {score.dtype} {where}", f"log_prob: {_WIDE}")
        whole = event.dtype.kind in "iub"
        require(
            event.dtype == dtype or whole, f"push gives {event.dtype} {where}", f"push: {_WIDE}"
        )
        require(event.dtype.kind == kind, f"push gives {event.dtype} {where}", f"push: {_WIDE}")

    check(subject.samples, subject.scores, subject.dtype, f"with {subject.dtype} params")
    with enable_x64(True):
        params, x = subject.params, np.zeros((3, *model.event_shape), np.float32)
        jaxpr, (event, score) = jax.make_jaxpr(both, return_shape=True)(
            cast(params, np.float32), subject.key, x, subject.conditions(3)
        )
        where = "with float32 params and x64 on"
        check(event, score, np.float32, where)
        primitive = _float64_primitive(jaxpr.jaxpr)
        require(primitive is None, f"{primitive} computes in float64 {where}", _WIDE)
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
    half = FEW // 2
    what = "log_prob next to rows of another y"
    advice = f"log_prob: {_ONE_EVENT}"
    require_close(mixed[:half], wanted[:half], what, _RTOL, advice=advice, events=x)
    require(
        (mixed[half:] != wanted[half:]).any(),
        f"log_prob does not depend on y: it is the same at y = {shown(rows[half])} and at "
        f"y = {shown(other[half])}",
        "log_prob: use y; a model without conditions leaves y_shape out; or the params give y no "
        "weight",
    )
    drawn = subject.draw(FEW, other)
    what, advice = "samples next to rows of another y", f"push: {_ONE_EVENT}"
    require_close(drawn[:half], x[:half], what, _RTOL, advice=advice)
    if np.abs(mixed[half:] - wanted[half:]).max() > _NOTABLE:
        moved = subject.draw(BLOCK, np.broadcast_to(other[half], (BLOCK, *other.shape[1:])))
        require(
            (moved != subject.draw(BLOCK)).any(),
            f"push does not depend on y, but log_prob does: samples are the same at "
            f"y = {shown(rows[half])} and at y = {shown(other[half])}",
            "push: use y",
        )
    if other.dtype.kind == "f":
        other[0] = np.nan
        what = "log_prob is not NaN where y is"
        require(np.isnan(subject.log_prob(x, y=other)[0]), what, "log_prob: use all entries of y")
    return f"y of shape {subject.model.y_shape}"


def _check_labels(subject):
    """p(x) and p(y|x) follow from p(y) and p(x|y), and a draw without y is a draw of its label."""
    model, fitted, x = subject.model, subject.fitted, subject.few_samples
    classes = model.classes
    prior = np.asarray(model.log_prior(subject.params), np.float64)
    advice = "log_prior: return jax.nn.log_softmax of the logits"
    require_close(np.exp(prior).sum(), 1.0, "sum of p(y)", 1e-5, advice=advice)
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
    require(close, "a draw without y is not the draw of any label", f"push: {_NO_STATE}")
    _require_refused(lambda: fitted.log_prob(x, classes), "a label out of range")
    _require_refused(lambda: fitted.log_prob(x, 0.5), "a label that is not an int")


def files(subject: Subject) -> str:
    """After saving and loading, the spec is equal and the params are the same bytes."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model.jaxgen")
        with warnings.catch_warnings():  # of a class or program that is defined in __main__
            warnings.simplefilter("ignore", RuntimeWarning)
            subject.named.save(path)
        loaded = load(path)
        size = os.path.getsize(path)
    advice = "init: params are arrays in dicts, lists and tuples, of which files keep every byte"
    require(loaded.model == subject.model, f"the loaded spec {loaded.model} is not {subject.model}")
    trees: list[Any] = [jax.tree_util.tree_structure(p) for p in (loaded.params, subject.params)]
    what = f"the tree of loaded params {trees[0]} is not {trees[1]}"
    require(trees[0] == trees[1], what, advice)
    for a, b in zip(tree_leaves(loaded.params), tree_leaves(subject.params), strict=True):
        same = a.dtype == b.dtype and np.asarray(a).tobytes() == np.asarray(b).tobytes()
        require(same, "the bytes of loaded params differ from those that were saved", advice)
    for name in ("columns", "labels", "y_columns"):
        names = getattr(loaded, name), getattr(subject.named, name)
        require(names[0] == names[1], f"the loaded {name} {names[0]} are not {names[1]}")
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
