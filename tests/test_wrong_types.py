"""Things of another type for every parameter of what `abe` exports: an error that names it, or an answer."""

import inspect
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from jaxtyping import config
from torch import nn

import abe
from abe.metrics import agreement, as_metric, score

WRONG = (None, 3, "zzz", [], np.zeros((2, 2)), object(), {}, float("nan"))
X = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
NET = nn.Sequential(nn.Flatten(), nn.Linear(48, 3)).eval()
TASK = abe.image_task(NET)
MADE = abe.explain(TASK, X, "gradient", target=1, progress=False)
GIVEN: dict[str, Any] = {
    "task": TASK, "tasks": {"a": TASK}, "raw": X, "photos": X, "model": NET, "path": "no/such/file",
    "explanation": MADE, "explanations": {"a": MADE}, "methods": ["gradient"], "metrics": ["complexity"],
    "summaries": ["shapley"], "base": "gradient", "layer": "1", "data": [X], "steps": ("absolute",),
    "progress": False, "obj": "complexity", "maps": [MADE, MADE],
}  # fmt: skip
"""What is passed beside the wrong thing."""
ATTACKS = ("attack", "evaluate_robustness", "transfer_matrix")
CALLED = {
    name: made
    for name in abe.__all__
    if callable(made := getattr(abe, name)) and not (isinstance(made, type) and issubclass(made, Exception))
} | {"score": score, "agreement": agreement, "as_metric": as_metric}
HEAVY = {"compare", "trust", "fit", "evaluate_robustness", "transfer_matrix"}


@pytest.fixture(autouse=True)
def as_users_run() -> Iterator[None]:
    """Without the checks of annotations that the tests add."""
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)


def raw_error(called: Any, *more: Any, **arguments: Any) -> Exception | None:
    """What comes out that is neither an answer, nor ABE's own, nor Python's word for what is missing."""
    try:
        called(*more, **arguments)
    except abe.AbeError:
        return None
    except Exception as problem:
        missing = isinstance(problem, TypeError) and "missing" in str(problem) and "argument" in str(problem)
        return None if missing else problem
    return None


LIGHT, SLOW = (
    sorted(set(CALLED) - HEAVY),
    [pytest.param(name, marks=pytest.mark.slow) for name in sorted(HEAVY)],
)


@pytest.mark.parametrize("name", [*LIGHT, *SLOW])
def test_wrong_types_are_refused_by_name(name: str):
    called, given = CALLED[name], dict(GIVEN)
    parameters = inspect.signature(called).parameters.values()
    asked = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    usual = {p.name: given[p.name] for p in asked if p.name in given}
    usual |= {"method": "fgsm"} if name in ATTACKS else {}
    more = ["gradient", "ig"] if name == "ensemble" else []
    for parameter in asked:
        for wrong in WRONG:
            problem = raw_error(called, *more, **{**usual, parameter.name: wrong})
            assert problem is None, (parameter.name, wrong)
