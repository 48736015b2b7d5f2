"""What DeepLIFT's reference pass read, in order, and the session that lays the input's pass beside it."""

# torch leaves part of its own interface untyped:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from abe.engines.backward.deeplift_masks import LAID_OVER, Mask, compared
from abe.engines.backward.step import (
    COMPARISONS,
    MASK_CASTS,
    Session,
    Step,
    close,
    depends,
    names,
    where,
)
from abe.errors import Code, ModelError
from abe.instrument.modes import Function, Seen
from abe.instrument.operations import PRODUCTS, WITH_A_WEIGHT, tensors

ELEMENTWISE = names(
    """relu relu6 leaky_relu prelu rrelu elu selu celu gelu silu mish hardswish hardsigmoid hardtanh
    hardshrink softshrink tanhshrink softplus softsign sigmoid logsigmoid tanh threshold clamp clamp_min
    clamp_max exp expm1 log log2 log10 log1p sqrt rsqrt reciprocal pow rpow square abs sin cos tan sinh cosh
    atan asin acos erf erfc rdiv nan_to_num sign sgn floor ceil round trunc frac exp2 logit sinc erfinv lgamma
    digamma asinh acosh atanh deg2rad rad2deg"""
)
REDUCTIONS = frozenset({"max", "min", "amax", "amin"})
POOLS = {
    "max_pool1d": F.max_pool1d_with_indices,
    "max_pool2d": F.max_pool2d_with_indices,
    "max_pool3d": F.max_pool3d_with_indices,
    "adaptive_max_pool1d": F.adaptive_max_pool1d_with_indices,
    "adaptive_max_pool2d": F.adaptive_max_pool2d_with_indices,
    "adaptive_max_pool3d": F.adaptive_max_pool3d_with_indices,
}
INDEXED = frozenset(f"{name}_with_indices" for name in POOLS)
"""They give the places of the maxima beside them."""
_RECORDED = (
    ELEMENTWISE
    | PRODUCTS
    | POOLS.keys()
    | INDEXED
    | {"div", "softmax", "log_softmax", "logsumexp", "layer_norm", "group_norm", "instance_norm", "rms_norm"}
    | {"maximum", "minimum", "glu"}
    | LAID_OVER
    | COMPARISONS
    | REDUCTIONS
)


@dataclass
class Record:
    """What the reference pass read, in order."""

    names: list[str] = field(default_factory=list)
    given: dict[int, tuple[tuple[Any, ...], dict[str, Any]]] = field(default_factory=dict)
    also: frozenset[str] = frozenset()

    def __call__(self, seen: Seen, func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self.reads(seen, args):
            # Clones, because a later in-place operation may write to what this one reads.
            self.given[len(self.names)] = (_kept(args), _kept(kwargs))
            self.names.append(seen.name)
        return func(*args, **kwargs)

    def reads(self, seen: Seen, args: tuple[Any, ...]) -> bool:
        """Whether a rule may want to know what this call read; a layer with a parameter is linear."""
        layer = seen.name in WITH_A_WEIGHT and len(args) > 1 and isinstance(args[1], torch.nn.Parameter)
        return seen.name in self.also or (seen.name in _RECORDED and not layer)


def _kept(item: Any) -> Any:
    if isinstance(item, Tensor):
        return item if isinstance(item, torch.nn.Parameter) or item.ndim == 0 else item.detach().clone()
    if isinstance(item, (list, tuple)) and not hasattr(item, "_fields"):
        return type(item)(_kept(part) for part in item)
    if isinstance(item, dict):
        return {key: _kept(part) for key, part in item.items()}
    return item


class Replay(Session):
    """The session of the input's pass: every step beside its record; what only divides is known."""

    def __init__(self, choose: Callable[[Step], Any], record: Record) -> None:
        super().__init__(choose=choose, form="multiplier")
        self.record = record
        self.at, self.beside = -1, False
        self.divisors: dict[int, Tensor] = {}
        self._twins: dict[int, Mask] = {}

    def __call__(self, seen: Seen, func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self.beside = self.record.reads(seen, args)
        if not self.beside:
            return super().__call__(seen, func, args, kwargs)
        self.at += 1
        if self.at >= len(self.record.names) or self.record.names[self.at] != seen.name:
            raise ModelError(
                Code.RULE,
                "The model runs other operations on the input than on the reference",
                got=where(seen.name, seen.module),
                fix="Its forward branches on values, which DeepLIFT cannot compare; use a path method",
            )
        return super().__call__(seen, func, args, kwargs)

    def twin_of(self, step: Step) -> Mask | None:
        """The mask with a twin that a step lays over something, if there is exactly one."""
        if step.name not in LAID_OVER or not self._twins:
            return None
        given = [t for t in tensors((step.args, step.kwargs)) if not depends(t)]
        if step.name == "setitem":  # h[mask] = one number
            plain = len(step.args) == 3 and isinstance(step.args[1], Tensor)
            given = given if plain and torch.as_tensor(step.args[2]).numel() == 1 else []
        found = [self._twins[id(t)] for t in given if id(t) in self._twins]
        return found[0] if len(found) == 1 else None

    def _compare(self, func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        mask = super()._compare(func, args, kwargs)
        given = self.record.given[self.at][0]
        if len(args) == len(given) == 2 and isinstance(mask, Tensor):
            with torch.no_grad():
                theirs, other = func(*given), torch.as_tensor(given[0] - given[1])
            if other.is_floating_point():
                self._twins[id(mask)] = compared(mask, theirs, args[0] - args[1], other)
        return mask

    def _of_constants(self, seen: Seen, args: tuple[Any, ...], output: Any) -> Any:
        """A mask as numbers is its twin; its opposite has one too."""
        known = self._twins.get(id(args[0])) if args else None
        if known is None or not isinstance(output, Tensor) or seen.name not in MASK_CASTS:
            return output
        if output.dtype == torch.bool:
            self._twins[id(output)] = known if output is known.mask else known.inverted(output)
            return output
        return known.twin if output.dtype == known.twin.dtype else output


def reference(step: Step) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What this step's operation read in the reference pass."""
    session = step.session
    if not isinstance(session, Replay) or not session.beside:
        raise step.error(
            "A rule needs the reference of an operation that records none", "Use DeepLift's rules"
        )
    return session.record.given[session.at]


def partner(step: Step, tensor: Tensor) -> Tensor:
    """The reference's counterpart of an argument of the step."""
    args, kwargs = reference(step)
    for mine, theirs in zip(tensors((step.args, step.kwargs)), tensors((args, kwargs)), strict=True):
        if mine is tensor:
            return theirs
    raise step.error("An argument has no counterpart in the reference pass", "Use Rescale's rules")


SURE = 1e3
"""Changes are this many times the rounding of the value, as of a sigmoid near ½ whose input is near 0."""


def ratio(
    out: Tensor, out_reference: Tensor, x: Tensor, other: Tensor, slope: Callable[[], Tensor]
) -> Tensor:
    """Δout/Δx, and ``slope()`` where Δx is rounding, or makes of the rounding of values a slope.

    The slope is that at (x + x′) / 2, which is Δout/Δx up to the square of Δx: in float32 a tenth of a
    thousandth of a value counts as near, and language models have values of 10⁴.
    """
    near = close(x, other) | ((x - other).abs() <= SURE * torch.finfo(out.dtype).eps * out.abs())
    multiplier = (out - out_reference) / torch.where(near, 1.0, x - other)
    return torch.where(near, slope(), multiplier) if bool(near.any()) else multiplier
