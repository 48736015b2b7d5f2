"""References of a batch, checked."""

import torch
from torch import Tensor

from abe.engines.runtime.problem import Problem
from abe.errors import Code, InputError
from abe.types import Baseline


def reference_of(baseline: Baseline, problem: Problem) -> Tensor:
    """(b, *f) one reference per sample, checked.

    Raises:
        InputError: the baseline has another shape or is not finite.
    """
    everyone = problem.everyone
    reference = problem.reference(baseline, everyone, torch.zeros_like(everyone))
    return check_reference(reference, problem.x)


def check_reference(reference: Tensor, x: Tensor) -> Tensor:
    """``reference`` if it has the shape of ``x`` and is finite."""
    if reference.shape != x.shape:
        raise InputError(
            Code.BASELINE_SHAPE,
            "The baseline has another shape than the input",
            got=str(tuple(reference.shape)),
            expected=str(tuple(x.shape)),
            fix="Give one reference per sample, or one for all that broadcasts",
        )
    if not bool(torch.isfinite(reference).all()):
        raise InputError(Code.NOT_FINITE_INPUT, "The baseline holds NaN or infinity")
    return reference.to(x)
