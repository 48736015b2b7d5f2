"""What becomes of a gradient on its way to a step: smoothing, directions, sizes, projections."""

from typing import ClassVar, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor

from abe.checks import Norm, NotNegative, Odd, Positive, Size, need_image
from abe.engines.path.geometry import in_ball, shortened, tiny, unit, within
from abe.engines.path.step import INTEGRAND, State
from abe.engines.path.steps.aim import Aim
from abe.engines.runtime.shapes import along
from abe.sizes import in_units
from abe.spec import value


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
        return unit(g), state


@value
class Momentum:
    """m ← μ m + g / mean|g|, the mean over a row's entries.

    Args:
        decay: μ; 0 only normalises.
    """

    decay: NotNegative = 1.0

    def turn(self, g: Tensor, aim: Aim, state: State) -> tuple[Tensor, State]:
        """The accumulated direction, which is also kept as ``momentum``."""
        scaled = g / along(g.abs().flatten(1).mean(1).clamp_min(tiny(g)), g)
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
        elsewhere: inputs without two space axes pass as they are instead of being refused.
    """

    size: Odd = 15
    sigmas: Positive = 3.0
    single_precision: bool = False
    elsewhere: bool = False

    def turn(self, g: Tensor, aim: Aim, state: State) -> tuple[Tensor, State]:
        """The same shape, every channel smoothed alone."""
        if self.elsewhere and g.ndim != 4:
            return g, state
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

    decay: Positive = 0.94

    def turn(self, g: Tensor, aim: Aim, state: State) -> tuple[Tensor, State]:
        """The scaled direction; ``indicator`` and ``last_sign`` are kept."""
        sign = state["momentum"].sign() if "momentum" in state else g.sign()
        indicator = state.get("indicator", torch.full_like(g, 1 / self.decay))
        turned = sign != state.get("last_sign", torch.zeros_like(g))
        indicator = torch.where(turned, indicator * self.decay, indicator)
        return indicator * g, {**state, "indicator": indicator, "last_sign": sign}


@value
class Backwards:
    """−g, and g itself added up in place of the gradient: the step and the map of published AttEXplore."""

    def turn(self, g: Tensor, aim: Aim, state: State) -> tuple[Tensor, State]:
        """The opposite direction; ``integrand`` is set."""
        return -g, {**state, INTEGRAND: g}


@value
class Ball:
    """The ball of radius ε around the start, inside the task's bounds.

    Args:
        eps: radius in input units, before normalisation.
        norm: ``"linf"`` or ``"l2"``.
    """

    eps: Size
    norm: Norm = "linf"

    def keep(self, x: Tensor, aim: Aim) -> Tensor:
        """The difference to the start is cut to the ball, then the point to the bounds."""
        start = aim.point.start
        return aim.point.clip(start + self.cut(x - start, aim.point.bounds))

    def cut(self, difference: Tensor, bounds: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """``difference`` with norm at most ε."""
        if self.norm == "linf":
            return within(difference, self.eps, bounds)
        return shortened(difference, in_units(self.eps, bounds))


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

    eps: Size
    norm: Norm = "linf"
    stochastic: ClassVar[bool] = True

    def move(self, aim: Aim) -> Tensor:
        """(n, *f) the points at which the attack begins, inside the bounds."""
        radius = in_units(self.eps, aim.point.bounds)
        if self.norm == "linf":
            step = (2 * aim.point.uniform("attack.start") - 1) * radius
        else:
            normal = aim.point.normal("attack.start")
            rows = torch.arange(len(normal), device=normal.device)
            share = aim.uniform("attack.radius", rows, torch.zeros_like(rows), 1, ())
            step = in_ball(normal, share, radius)
        return aim.point.clip(aim.point.x + step)
