"""What becomes of a gradient on its way to a step: smoothing, directions, sizes, projections."""

import math
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor

from abe.engines.update import State
from abe.errors import Code, SpecError
from abe.robustness.aim import Aim
from abe.spec import value

Norm = Literal["linf", "l2"]


@runtime_checkable
class Stage(Protocol):
    """Turns one ascent direction into another; may keep tensors per row in the state."""

    def turn(self, g: Tensor, aim: Aim, state: State) -> tuple[Tensor, State]:
        """(n, *f) the new direction, and the state to carry on."""
        ...


@runtime_checkable
class Projection(Protocol):
    """Keeps a moved point where the attack may go."""

    def keep(self, x: Tensor, aim: Aim) -> Tensor:
        """(n, *f) the nearest allowed points."""
        ...


@value
class Sign:
    """sign(g): the steepest direction in L∞."""

    def turn(self, g: Tensor, aim: Aim, state: State) -> tuple[Tensor, State]:
        """One of −1, 0, 1 per entry."""
        return g.sign(), state


@value
class Normalised:
    """g / ‖g‖₂: the steepest direction in L2."""

    def turn(self, g: Tensor, aim: Aim, state: State) -> tuple[Tensor, State]:
        """Unit length per row; a zero gradient stays zero."""
        return g / per_row(g.flatten(1).norm(dim=1).clamp_min(tiny(g)), g), state


@value
class Momentum:
    """m ← μ m + g / mean|g|, the mean over a row's entries.

    Args:
        decay: μ; 0 only normalises.
    """

    decay: float = 1.0

    def turn(self, g: Tensor, aim: Aim, state: State) -> tuple[Tensor, State]:
        """The accumulated direction, which is also kept as ``momentum``."""
        scaled = g / per_row(g.abs().flatten(1).mean(1).clamp_min(tiny(g)), g)
        before = state.get("momentum")
        m = scaled if before is None else self.decay * before + scaled
        return m, {**state, "momentum": m}


@value
class TranslationKernel:
    """The gradient smoothed by a Gaussian: the mean over translated copies of the input (TIM).

    The kernel is the outer product of a sampled normal density, of total 1; the border is filled with
    zeros.

    Args:
        size: side of the kernel, odd.
        sigmas: how many standard deviations the kernel reaches to either side.
        single_precision: round the kernel to float32, as the published code does.
    """

    size: int = 15
    sigmas: float = 3.0
    single_precision: bool = False

    def __post_init__(self) -> None:
        if (
            isinstance(self.size, bool)
            or not isinstance(self.size, int)
            or self.size < 1
            or self.size % 2 == 0
        ):
            raise SpecError(Code.BAD_PARAMETER, "size must be an odd number of pixels", got=repr(self.size))

    def turn(self, g: Tensor, aim: Aim, state: State) -> tuple[Tensor, State]:
        """The same shape, every channel smoothed alone."""
        need_image("A translation kernel", g)
        kernel = self.kernel(g)
        flat = g.reshape(-1, 1, *g.shape[-2:])
        return F.conv2d(flat, kernel[None, None], padding=self.size // 2).view_as(g), state

    def kernel(self, like: Tensor) -> Tensor:
        """(size, size) weights that sum to 1."""
        at = torch.linspace(-self.sigmas, self.sigmas, self.size, dtype=torch.float64)
        row = torch.exp(-0.5 * at.square())
        kernel = torch.outer(row, row)
        kernel = kernel / kernel.sum()
        return (kernel.float() if self.single_precision else kernel).to(like)


@value
class DecayIndicator:
    """Entries whose momentum changed its sign take smaller steps from then on (GRA).

    M starts at 1/η and is multiplied by η where the sign of the momentum differs from the last step's
    (before the first step it counts as 0); the direction becomes M ⊙ g. Stands after `Momentum` and
    `Sign`.

    Args:
        decay: η.
    """

    decay: float = 0.94

    def turn(self, g: Tensor, aim: Aim, state: State) -> tuple[Tensor, State]:
        """The scaled direction; ``indicator`` and ``last_sign`` are kept."""
        sign = state["momentum"].sign() if "momentum" in state else g.sign()
        indicator = state.get("indicator", torch.full_like(g, 1 / self.decay))
        turned = sign != state.get("last_sign", torch.zeros_like(g))
        indicator = torch.where(turned, indicator * self.decay, indicator)
        return indicator * g, {**state, "indicator": indicator, "last_sign": sign}


@value
class Ball:
    """The ball of radius ε around the start, inside the task's bounds.

    Args:
        eps: radius in input units, before normalisation.
        norm: ``"linf"`` or ``"l2"``.
    """

    eps: float
    norm: Norm = "linf"

    def __post_init__(self) -> None:
        check_size("eps", self.eps)
        check_norm(self.norm)

    def keep(self, x: Tensor, aim: Aim) -> Tensor:
        """The difference to the start is cut to the ball, then the point to the bounds."""
        start = aim.point.start
        return aim.point.clip(start + self.cut(x - start))

    def cut(self, difference: Tensor) -> Tensor:
        """``difference`` with norm at most ε."""
        if self.norm == "linf":
            return difference.clamp(-self.eps, self.eps)
        length = difference.flatten(1).norm(dim=1).clamp_min(tiny(difference))
        return difference * per_row((self.eps / length).clamp_max(1.0), difference)

    def check(self, bounds: tuple[Tensor, Tensor] | None, shape: Any) -> None:
        """Refuse a radius that reaches beyond every valid input."""
        if bounds is None:
            return
        largest = _reach(self.norm, bounds, shape)
        if self.eps > largest * (1 + 1e-6):
            raise SpecError(
                Code.BAD_PARAMETER,
                "eps is larger than the range of valid inputs",
                got=f"{self.eps:g}",
                expected=f"at most {largest:g} ({self.norm}), in input units before normalisation",
                fix="For photographs in [0, 1], 8/255 is usual; for 0 to 255 write 8",
            )


@value
class Bounds:
    """The task's bounds alone."""

    def keep(self, x: Tensor, aim: Aim) -> Tensor:
        """Clipped to the bounds, where there are some."""
        return aim.point.clip(x)


@value
class UniformStart:
    """A random point of the ball of radius ε: uniform per entry in L∞, uniform in volume in L2.

    Args:
        eps: radius in input units.
        norm: ``"linf"`` or ``"l2"``.
    """

    eps: float
    norm: Norm = "linf"
    stochastic: ClassVar[bool] = True

    def move(self, aim: Aim) -> Tensor:
        """(n, *f) the points at which the attack begins, inside the bounds."""
        if self.norm == "linf":
            step = (2 * aim.point.uniform("attack.start") - 1) * self.eps
        else:
            step = aim.point.normal("attack.start")
            dimension = step[0].numel()
            who = torch.arange(len(step), device=step.device)
            share = aim.uniform("attack.radius", who, torch.zeros_like(who), 1, ())
            radius = self.eps * share ** (1 / dimension) / step.flatten(1).norm(dim=1)
            step = step * per_row(radius, step)
        return aim.point.clip(aim.point.x + step)


def per_row(values: Tensor, like: Tensor) -> Tensor:
    """(n,) values shaped to multiply rows (n, *f)."""
    return values.view(-1, *[1] * (like.ndim - 1))


def tiny(like: Tensor) -> float:
    """The smallest normal number, to divide by instead of zero."""
    return torch.finfo(like.dtype).tiny


def check_size(name: str, number: Any) -> float:
    """A positive finite number.

    Raises:
        SpecError: it is not.
    """
    good = isinstance(number, int | float) and not isinstance(number, bool)
    if not good or not math.isfinite(number) or number <= 0:
        raise SpecError(
            Code.BAD_PARAMETER,
            f"{name} must be a positive number",
            got=repr(number),
            expected="input units before normalisation, for example 8/255",
        )
    return float(number)


def check_norm(norm: Any) -> None:
    """Refuse anything but the two norms."""
    if norm not in ("linf", "l2"):
        raise SpecError(Code.BAD_PARAMETER, "No such norm", got=repr(norm), expected="linf or l2")


def need_image(what: str, x: Tensor) -> None:
    """Refuse inputs without two space axes."""
    if x.ndim != 4:
        raise SpecError(
            Code.UNSUPPORTED,
            f"{what} needs images",
            got=f"inputs of shape {tuple(x.shape[1:])}",
            expected="(c, h, w)",
            fix="Choose an attack without space, such as pgd or mim",
        )


def _reach(norm: str, bounds: tuple[Tensor, Tensor], shape: Any) -> float:
    span = (bounds[1] - bounds[0]).expand(1, *shape)
    return float(span.max()) if norm == "linf" else float(span.flatten().norm())
