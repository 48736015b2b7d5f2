"""A method without parameters is made once, and anew as soon as what it is made of may be another."""

import pytest

import abe
from abe.engines.wrappers import Smooth
from abe.errors import SpecError
from abe.registry import MethodRegistry, suiting
from abe.types import Card, Engine

CARD = Card(name="probe", title="Probe", source="zhu2025abe", summary="")
"""Of methods that only these tests have."""


def first() -> Engine:
    """The first of a name."""
    return abe.method("gradient").engine


def second() -> Engine:
    """Another of that name."""
    return abe.method("occlusion").engine


def test_without_parameters_it_is_one_value() -> None:
    assert abe.method("ig") is abe.method("integrated-gradients")
    assert abe.method("ig", steps=7) is not abe.method("ig", steps=7)
    assert abe.method("ig", steps=7) != abe.method("ig")


def test_another_one_under_its_name_is_another_value() -> None:
    kinds = MethodRegistry("method"), MethodRegistry("method")
    for kind, factory in zip(kinds, (first, second), strict=True):
        kind.register(CARD)(factory)
    engines = [kind.build("probe").engine for kind in (*kinds, *kinds)]
    assert engines == [first(), second()] * 2
    assert first() != second()
    del kinds[0]._entries["probe"], kinds[0]._aliases["probe"]
    with pytest.raises(SpecError, match="ABE-UNKNOWN-NAME"):
        kinds[0].build("probe")


def test_what_is_inside_it_may_have_been_registered_since() -> None:
    before = abe.method("smoothgrad")
    assert isinstance(before.engine, Smooth)
    MethodRegistry("method").register(CARD)(first)
    assert abe.method("smoothgrad") is not before
    assert abe.method("smoothgrad") == before


def test_a_task_that_suits_other_defaults_gets_them() -> None:
    plain = abe.method("ig")
    with suiting({("baseline", "zero"): "mean"}):
        assert dict(abe.method("ig").params)["baseline"] == "mean"
    assert abe.method("ig") is plain
