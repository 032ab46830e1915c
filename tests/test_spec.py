"""Specs: cast to their annotations, hashable, equal by value, and saved as JSON."""

import json
from typing import Annotated, Literal

import jax
import numpy as np
import pytest

import jaxgen
from jaxgen import compose, models
from jaxgen.core.spec import AtLeast, Count, NonNegative, Spec, from_json, spec_name, to_json


class Inner(Spec):
    width: float = 1.0


class Outer(Spec):
    count: Count = 1
    scale: NonNegative = 0.0
    kind: Literal["a", "b"] = "a"
    shape: tuple[int, ...] = ()
    pair: tuple[int, float] = (1, 2.0)
    bounds: tuple[tuple[float, float], ...] | None = None
    inner: Inner = Inner()
    parts: tuple[Inner, ...] = ()
    name: str = "x"
    flag: bool = False
    levels: Annotated[int, AtLeast(2)] = 2


FULL = Outer(
    count=3,
    scale=0.1,
    kind="b",
    shape=(2, 3),
    pair=(4, 0.5),
    bounds=((0.0, 1.0), (-2.0, 2.5)),
    inner=Inner(7.0),
    parts=(Inner(), Inner(2.0)),
    name="quotes ' \" and \\",
    flag=True,
    levels=5,
)


def test_fields_are_cast():
    spec = Outer(
        count=np.int64(2),
        scale=1,
        shape=[np.int32(4)],
        pair=[1, 2],
        inner=Inner(3),
        bounds=[[0, 1]],
    )
    assert repr(spec.scale) == "1.0"
    assert (spec.count, type(spec.count)) == (2, int)
    assert (spec.shape, spec.pair, spec.bounds) == ((4,), (1, 2.0), ((0.0, 1.0),))
    assert type(spec.shape[0]) is int
    assert Outer(shape=5).shape == (5,)
    assert Outer(parts=Inner(2)).parts == (Inner(2.0),)
    assert repr(Inner(1)) == repr(Inner(1.0))  # equal specs share a program


@pytest.mark.parametrize(
    ("field", "value", "error"),
    [
        ("count", 0, ValueError),
        ("count", -3, ValueError),
        ("count", 1.0, TypeError),
        ("count", 1.5, TypeError),
        ("count", True, TypeError),
        ("count", "3", TypeError),
        ("count", None, TypeError),
        ("scale", -0.1, ValueError),
        ("scale", float("nan"), ValueError),
        ("scale", "wide", TypeError),
        ("scale", None, TypeError),
        ("scale", 1j, TypeError),
        ("kind", "c", ValueError),
        ("kind", None, ValueError),
        ("shape", (1.5,), TypeError),
        ("shape", "ab", TypeError),
        ("shape", None, TypeError),
        ("pair", (1,), ValueError),
        ("pair", (1, 2, 3), ValueError),
        ("bounds", ((0.0,),), ValueError),
        ("inner", 3, TypeError),
        ("inner", Inner, TypeError),
        ("parts", (Inner(), 1), TypeError),
        ("name", 3, TypeError),
        ("levels", 1, ValueError),
    ],
)
def test_errors_name_the_field(field, value, error):
    with pytest.raises(error, match=f"Outer: {field}"):
        Outer(**{field: value})


def test_frozen():
    with pytest.raises(AttributeError):
        FULL.count = 4


def test_equal_by_value_and_hash():
    twin = Outer(**{name: getattr(FULL, name) for name in FULL.__dataclass_fields__})
    assert twin == FULL
    assert hash(twin) == hash(FULL)
    assert Outer() != FULL
    assert Inner() != Outer()


def test_spec_is_static_to_jax():
    assert jax.tree_util.tree_leaves(FULL) == []
    assert jax.jit(lambda spec: spec.count * 2)(FULL) == 6


def test_repr_is_source():
    assert eval(repr(FULL)) == FULL


def test_json_round_trip():
    text = json.dumps(to_json(FULL))
    again = from_json(json.loads(text))
    assert again == FULL
    assert hash(again) == hash(FULL)
    assert repr(again) == repr(FULL)


def test_names_in_json():
    from jaxgen.models import Gaussian

    assert spec_name(Gaussian) == "Gaussian"
    assert spec_name(Inner) == f"{__name__}.Inner"


@pytest.mark.parametrize(
    "data",
    [
        None,
        3,
        [],
        {},
        {"spec": 3},
        {"spec": "NoSuchModel"},
        {"spec": "os.system", "command": "true"},
        {"spec": "Gaussian", "dim": 2, "colour": "red"},
        {"spec": "Gaussian"},
        {"spec": "Gaussian", "dim": -1},
        {"spec": "Gaussian", "dim": None},
        {"spec": "Gaussian", "dim": {"spec": "Box", "dim": 1}},
        {"spec": "Gaussian", "dim": [1]},
        {"spec": "Histogram", "bins": []},
    ],
    ids=str,
)
def test_malformed_json_is_refused(data):
    with pytest.raises(ValueError, match=r"\w"):
        from_json(data)


class Shaped(jaxgen.Model):
    dim: int
    y_shape: tuple[int, ...]


WRONG_CALLS = {
    "scikit-learn's components": (
        lambda: models.GaussianMixture(n_components=3),
        "GaussianMixture has no argument 'n_components'; did you mean 'components'",
    ),
    "scikit-learn's covariance": (
        lambda: models.GaussianMixture(2, 3, covariance_type="full"),
        "'covariance_type'; did you mean 'covariance'",
    ),
    "a plural": (
        lambda: models.SplineCoupling(2, layer=3),
        "'layer'; did you mean 'layers'",
    ),
    "a typing error": (
        lambda: compose.PerClass(models.Gaussian(2), clases=3),
        "'clases'; did you mean 'classes'",
    ),
    "no name like it": (lambda: models.KDE(width=3), "'width'; its arguments are dim"),
    "too many": (
        lambda: models.Gaussian(2, "full", 0.1, 3),
        r"at most 3 arguments \(dim, covariance, jitter\), got 4",
    ),
    "one missing": (lambda: models.GaussianMixture(2), "GaussianMixture: .*'components'"),
    "no tuple": (
        lambda: compose.MixtureGeneral(models.Gaussian(), models.Box()),
        r"at most 1 argument \(components\), got 2: write MixtureGeneral\(\(a, b\)\)",
    ),
    "a value of a template": (
        lambda: models.GaussianMixture(components=3, covariance="ful"),
        "GaussianMixture: covariance must be one of",
    ),
    "a count of a template": (lambda: models.GaussianMixture(components=0), "at least 1, got 0"),
    "parts of unknown size": (
        lambda: compose.Product((models.Gaussian(), models.Box(1))),
        r"Product: parts holds Gaussian\(\), whose dim must be given",
    ),
    "an inherited None": (lambda: Shaped(2), "Shaped: y_shape must be a tuple, got None"),
    "a fitted model": (
        lambda: compose.PerClass(jaxgen.Fitted(models.Gaussian(2), {}), 2),
        "PerClass: model must be a Model, got a Fitted: pass its attribute model",
    ),
    "a fitted model beside a template": (
        lambda: compose.MixtureGeneral((jaxgen.Fitted(models.Gaussian(2), {}), models.Box())),
        "components must be a Model, got a Fitted: pass its attribute model",
    ),
    "fitted components": (
        lambda: compose.MixtureGeneral((jaxgen.Fitted(models.Gaussian(2), {}), models.Box(2))),
        r"got a Fitted.*\(\(a.model, b.model\)\).*params_of",
    ),
}


@pytest.mark.parametrize("case", WRONG_CALLS)
def test_wrong_calls_of_models_say_what_to_write(case):
    call, text = WRONG_CALLS[case]
    with pytest.raises((TypeError, ValueError), match=text):
        call()


def test_templates_in_a_tuple_follow_from_data():
    template = compose.MixtureGeneral([models.Gaussian(), models.Box()])
    assert template == compose.MixtureGeneral((models.Gaussian(), models.Box()))
    assert hash(template) == hash(compose.MixtureGeneral((models.Gaussian(), models.Box())))
    assert repr(template) == "MixtureGeneral(components=(Gaussian(), Box()))"
    wanted = compose.MixtureGeneral((models.Gaussian(2), models.Box(2)))
    assert template.for_data(np.zeros((4, 2))) == wanted
    both = compose.PerClass(compose.MixtureGeneral((models.Gaussian(2), models.Box())))
    assert both.for_data(np.zeros((4, 2)), np.arange(4)) == compose.PerClass(wanted, 4)
    with pytest.raises(AttributeError, match="no log_prob before jaxgen"):
        template.log_prob  # noqa: B018
    with pytest.raises(AttributeError, match=r"^MixtureGeneral has no set_params$"):
        template.set_params  # noqa: B018


def test_templates_cast_their_fields():
    assert models.Gaussian(jitter=1) == models.Gaussian(jitter=1.0)
    assert repr(models.Gaussian(jitter=np.int64(1))) == "Gaussian(jitter=1.0)"
    assert models.Gaussian(jitter=1).fields() == {"covariance": "full", "jitter": 1.0}
