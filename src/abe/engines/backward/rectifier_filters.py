"""Rules that filter gradients at rectifiers: Deconvolution, Guided Backprop, RectGrad."""

# torch leaves part of its own interface untyped:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false

from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from abe.checks import Between
from abe.engines.backward.run import AsItIs, RuleBook
from abe.engines.backward.step import (
    Step,
    depends,
    same_value,
    transformed,
)
from abe.spec import value

MASKED = ("mul", "where", "masked_fill", "setitem")
RECTIFIERS = ("relu", "relu6", "clamp", "clamp_min", "hardtanh", "threshold", "maximum", *MASKED)
"""Operations that can be rectifiers; `rectified` says whether a call is one."""


def rectified(step: Step) -> Tensor | None:
    """The tensor that this call rectifies, or None: max(x, 0), whatever it is written as."""
    if step.name in ("relu", "relu6"):
        return step.inputs()[0]
    if step.name in MASKED:
        return _masked(step)
    if step.name == "maximum":
        return _against_zero(step)
    x = step.inputs()[0]
    low = _bound(step)
    return x if low == 0 else None


def _bound(step: Step) -> Any:
    names = {"clamp": "min", "clamp_min": "min", "hardtanh": "min_val", "threshold": "threshold"}
    given = step.kwargs.get(names[step.name])
    if given is None and len(step.args) > 1:
        given = step.args[1]
    if step.name == "hardtanh" and given is None:
        return -1
    if isinstance(given, Tensor):
        return 0 if bool((given == 0).all()) else None
    return given


def _masked(step: Step) -> Tensor | None:
    """x of x * (x > c), of where(x > c, x, 0), and of x with 0 where x < c."""
    source = step.session.mask_of(step)
    if source is None or not bool((step.value() >= 0).all()):
        return None
    return source


def _against_zero(step: Step) -> Tensor | None:
    found = [t for t in (*step.args, *step.kwargs.values()) if isinstance(t, Tensor)]
    rest = [t for t in found if not depends(t)]
    return step.inputs()[0] if len(rest) == 1 and bool((rest[0] == 0).all()) else None


def _positive(gradient: Tensor) -> Tensor:
    return gradient.clamp(min=0)


@value
class Guided:
    """g_in = g⁺ where the forward was active (springenberg2015)."""

    def __call__(self, step: Step) -> Any:
        """Filter at rectifiers; anything else keeps its gradient."""
        output = step.plain()
        return output if rectified(step) is None else transformed(output, _positive)


@value
class Deconvolve:
    """g_in = g⁺ whatever the forward did (zeiler2014)."""

    def __call__(self, step: Step) -> Any:
        """Filter at rectifiers; anything else keeps its gradient."""
        x = rectified(step)
        return step.plain() if x is None else same_value(_like(x, step), step.value(), _positive)


@value
class Rectify:
    """g_in = g where activation × g exceeds its q-th percentile in the sample (kim2019).

    Args:
        percentile: q in per cent; 0 keeps nearly everything.
    """

    percentile: Annotated[float, Between(0, 100, "[)")] = 98.0

    def __call__(self, step: Step) -> Any:
        """Filter at rectifiers; anything else keeps its gradient."""
        x = rectified(step)
        if x is None:
            return step.plain()
        output = step.value()

        def keep(gradient: Tensor) -> Tensor:
            importance = (output * gradient).flatten(1)
            limit = quantile(importance, self.percentile / 100)
            return gradient * (importance > limit[:, None]).view_as(gradient)

        return same_value(_like(x, step), output, keep)


def _like(x: Tensor, step: Step) -> Tensor:
    """x in the shape of the step's output (operands may be broadcast)."""
    return x.expand_as(step.value())


def quantile(values: Tensor, q: float) -> Tensor:
    """(n,) linearly interpolated quantile of each row; any length, unlike torch.quantile."""
    ordered = values.sort(1).values
    at = q * (values.shape[1] - 1)
    below = int(at)
    above = min(below + 1, values.shape[1] - 1)
    return torch.lerp(ordered[:, below], ordered[:, above], at - below)


def filter_book(rule: Guided | Deconvolve | Rectify) -> RuleBook:
    """``rule`` at every rectifier, plain gradients elsewhere, as the definitions have it."""
    return RuleBook(entries=(*((name, rule) for name in RECTIFIERS), ("*", AsItIs())))


Filter = Literal["guided", "deconvolution", "rectgrad"]
