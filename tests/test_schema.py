"""Reading JSON into annotated types: what fits comes back, what does not is refused with its place."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from abe.checks import AtLeast
from abe.schema import DEEPEST, Gap, MisfitError, Natural, knows, members, need_tensor, read
from abe.types import Cost, Part

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@dataclass(frozen=True)
class Inner:
    count: Natural
    word: Literal["a", "b"] = "a"


@dataclass(frozen=True)
class Whole:
    flag: bool
    number: float
    row: tuple[int, ...]
    pair: tuple[str, Gap]
    inner: Inner
    choice: int | str | None = None
    rest: Mapping[str, Any] = field(default_factory=dict)
    rows: Sequence[Inner] = ()


WHOLE = {
    "flag": True,
    "number": 2,
    "row": [1, 2],
    "pair": ["x", None],
    "inner": {"count": 0},
    "choice": "y",
    "rest": {"deep": [1, {"er": None}]},
    "rows": [{"count": 3, "word": "b"}],
}


def test_what_fits_comes_back_as_its_type():
    found = read(Whole, WHOLE, "whole")
    assert found.number == 2.0
    assert type(found.number) is float
    assert found.row == (1, 2)
    assert math.isnan(found.pair[1])
    assert found.inner == Inner(0)
    assert found.rows == [Inner(3, "b")]
    assert knows(Whole)
    assert not knows(torch.Tensor)


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        ("flag", 1, "whole.flag is 1 and not true or false"),
        ("number", "2", "whole.number is '2' and not a number"),
        ("number", True, "whole.number is True"),
        ("number", math.nan, "not a finite number"),
        ("number", 10**400, "not a number"),
        ("row", {}, "whole.row is dict and not a list"),
        ("row", [1, 2.0], r"whole.row\[1\] is 2.0 and not an integer"),
        ("pair", ["x"], "has 1 entries and not 2"),
        ("inner", {"count": -1}, "whole.inner.count must be"),
        ("inner", {"count": 1, "more": 1}, "'more', which is no field"),
        ("inner", {}, "whole.inner.count is missing"),
        ("inner", {"count": 1, "word": "c"}, "'c' and not 'a' or 'b'"),
        ("choice", [], "whole.choice is list and not text"),
        ("rest", [], "whole.rest is list and not a dictionary"),
        ("rows", [{}], r"whole.rows\[0\].count is missing"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_place(place, value, said):
    with pytest.raises(MisfitError, match=said):
        read(Whole, {**WHOLE, place: value}, "whole")


@given(st.sampled_from([Whole, Inner, Cost, Part, list[str], dict[str, float], int | None, Gap]), JSON)
def test_anything_is_read_or_refused(kind, found):
    try:
        made = read(kind, found, "it")
    except MisfitError:
        return
    if kind in (Inner, Cost):
        assert read(kind, json.loads(json.dumps(asdict(made))), "it") == made


def test_what_is_too_deep_to_be_written_again_is_refused():
    deep: list[Any] = []
    for _ in range(DEEPEST):
        deep = [deep]
    with pytest.raises(MisfitError, match="deep"):
        read(Any, deep, "it")
    assert read(Any, deep[0][0], "it") == deep[0][0]


def test_some_fields_of_a_class():
    assert members(Whole, {"flag": True, "unheard": 1}, names=("flag", "rest")) == {"flag": True}
    with pytest.raises(MisfitError, match="number is missing"):
        members(Whole, {}, names=("number",))
    assert read(Annotated[int, AtLeast(3)], 3, "it") == 3


@pytest.mark.parametrize(
    ("tensor", "shape", "how", "said"),
    [
        (None, None, {}, "missing"),
        (torch.zeros(2), (3,), {}, r"\(2,\) and not \(3,\)"),
        (torch.zeros(2).long(), None, {}, "no floating-point"),
        (torch.zeros(2), None, {"whole": True}, "no integers"),
        (torch.zeros(2).bool(), None, {"whole": True}, "no integers"),
        (torch.tensor([1.0, math.inf]), None, {}, "NaN or infinity"),
    ],
)
def test_tensors_that_do_not_fit(tensor, shape, how, said):
    with pytest.raises(MisfitError, match=said):
        need_tensor("it", tensor, shape, **how)
    need_tensor("it", torch.tensor([math.nan]), (1,), bounded=False)
    need_tensor("it", torch.zeros(0), (0,))
