"""Which classes adversarial paths run towards."""

import pytest

from abe.engines.path.class_targets import FalseClasses
from abe.errors import SpecError


@pytest.mark.parametrize(("count", "untargeted"), [(2, 2), (1, 1), (0, 3), (4, 0)])
def test_some_runs_are_enough(count: int, untargeted: int) -> None:
    made = FalseClasses(count=count, untargeted=untargeted)
    assert (made.count, made.untargeted) == (count, untargeted)


def test_no_run_is_none() -> None:
    with pytest.raises(SpecError, match="At least one run"):
        FalseClasses(count=0, untargeted=0)
    with pytest.raises(SpecError, match="At least one run"):
        FalseClasses(classes=())
