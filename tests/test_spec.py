"""Specs: cast to their annotations, hashable, equal by value, and saved as JSON."""

import json
from typing import Annotated, Literal

import jax
import numpy as np
import pytest

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
