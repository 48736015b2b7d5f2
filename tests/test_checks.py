"""A value says what its fields must be, and refuses anything else when it is made."""

from typing import Annotated, Literal

import numpy as np
import pytest
from jaxtyping import config

from abe.checks import AtLeast, Below1, Count, NotNegative, Probability, Size, Tolerance, Variant, listed
from abe.engines.path.curves import StraightLine
from abe.errors import Code, SpecError
from abe.registry import units
from abe.spec import from_spec, resolved, to_spec, value
from abe.units import Grid, Pixel, Unit


@pytest.fixture(autouse=True)
def _no_checks_of_types():
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)


@value
class Checked:
    variant: Variant = "corrected"
    join: Annotated[Literal["mean", "max", "min"], "way to join heads"] = "mean"
    steps: Count = 1
    levels: Annotated[int, AtLeast(2)] = 2
    size: Size = 0.1
    floor: NotNegative = 0.0
    p: Probability = 0.5
    threshold: Below1 = 0.0
    tolerance: Tolerance | None = None
    radii: tuple[Size, ...] = ()
    loose: Literal["a", "b"] | str = "a"


@value
class Inherits(Checked):
    unit: Unit = resolved(converter=units.resolve, default="grid")


BAD = {
    "variant": ("old", "No such variant. Got 'old'. Expected corrected or published."),
    "join": ("median", "No such way to join heads. Got 'median'. Expected mean, max or min."),
    "steps": (True, "steps must be a positive integer. Got True."),
    "levels": (1, "levels must be an integer of at least 2. Got 1."),
    "size": (float("inf"), "size must be a positive number. Got inf."),
    "floor": (-0.1, "floor must be a number from 0 on. Got -0.1."),
    "p": (1, "p is a probability between 0 and 1. Got 1."),
    "threshold": (float("nan"), "threshold must be a number from 0 to below 1. Got nan."),
    "tolerance": (0, "tolerance must be a positive number. Got 0."),
    "radii": ((0.1, 0.0), "radii must be a positive number. Got 0.0."),
    "loose": ("c", "No such loose. Got 'c'. Expected a or b."),
}


@pytest.mark.parametrize("cls", [Checked, Inherits])
@pytest.mark.parametrize("name", BAD)
def test_a_field_is_refused_in_the_words_of_its_annotation(cls, name):
    given, says = BAD[name]
    with pytest.raises(SpecError) as caught:
        cls(**{name: given})
    assert caught.value.code is Code.BAD_PARAMETER
    assert str(caught.value).startswith(says)


def test_numbers_of_numpy_are_kept_as_pythons_own_and_none_as_it_is():
    made = Checked(tolerance=None, size=np.float64(0.5), steps=np.int64(3), radii=np.array([0.5], np.float32))
    assert made == Checked(size=0.5, steps=3, radii=(0.5,))
    assert repr(made) == repr(Checked(size=0.5, steps=3, radii=(0.5,)))


def test_names_are_resolved_once_and_survive_a_round_trip():
    assert Inherits().unit == Grid()
    assert Inherits(unit=("grid", {"n": 2})).unit == Grid(n=2)
    kept = Inherits(unit="pixel")
    assert kept.unit == Pixel()
    assert from_spec(to_spec(kept)) == kept
    line = StraightLine(baseline="zero")
    assert StraightLine(baseline=line.baseline).baseline is line.baseline
    with pytest.raises(SpecError, match="No unit is called"):
        Inherits(unit="hexagon")


def test_checks_of_a_class_come_before_its_own():
    @value
    class OwnCheck:
        steps: Count = 1

        def __post_init__(self) -> None:
            raise ValueError(self.steps)

    with pytest.raises(SpecError):
        OwnCheck(steps=0)
    with pytest.raises(ValueError, match="2"):
        OwnCheck(steps=2)


def test_samples_are_listed_up_to_eight():
    assert listed(range(20)) == "0, 1, 2, 3, 4, 5, 6, 7"
