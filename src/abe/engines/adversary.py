"""Steps of the adversarial attribution methods, as updates of a dynamic path."""

import torch
import torch.nn.functional as F
from torch import Tensor

from abe.engines.refine import along
from abe.engines.update import INTEGRAND, Point, State
from abe.errors import Code, SpecError
from abe.spec import value


def check_step(point: Point, **sizes: float | None) -> None:
    """Refuse sizes that are larger than the range of valid inputs."""
    if point.bounds is None:
        return
    span = float((point.bounds[1] - point.bounds[0]).max())
    for name, size in sizes.items():
        if size is not None and size > span * (1 + 1e-6):
            raise SpecError(
                Code.BAD_PARAMETER,
                f"{name} is larger than the range of valid inputs",
                got=f"{size:g}",
                expected=f"at most {span:g}, in input units before normalisation",
            )


def check_positive(**sizes: float | None) -> None:
    """Refuse sizes that are not positive numbers."""
    for name, size in sizes.items():
        if size is not None and not (isinstance(size, int | float) and 0 < size < float("inf")):
            raise SpecError(Code.BAD_PARAMETER, f"{name} must be a positive number", got=repr(size))


@value
class Leave:
    """Descend the explained score: x ← clip(x₀ + clip(x − α sign ∇s − x₀, ±ε)), or an L2 step.

    Args:
        alpha: step, in input units; the L2 step has length 100 α.
        epsilon: largest distance from the start per entry, or None.
        sharp: an L2 step instead of a signed one, bounded by the valid inputs only.
        cumulative: direction and integrand are the sum of all gradients so far (published code).
    """

    alpha: float = 0.001
    epsilon: float | None = 0.3
    sharp: bool = False
    cumulative: bool = False

    def __post_init__(self) -> None:
        check_positive(alpha=self.alpha, epsilon=self.epsilon)

    def step(self, point: Point, state: State) -> tuple[Tensor, State]:
        """The next points."""
        check_step(point, alpha=self.alpha, epsilon=self.epsilon)
        gradient = point.gradient
        if self.cumulative:
            gradient = gradient + state[INTEGRAND] if INTEGRAND in state else gradient
            state = {INTEGRAND: gradient}
        if self.sharp:
            length = gradient.flatten(1).norm(dim=1).clamp_min(torch.finfo(gradient.dtype).tiny)
            return point.clip(point.x - gradient * along(100 * self.alpha / length, gradient)), state
        change = point.x - self.alpha * gradient.sign() - point.start
        if self.epsilon is not None:
            change = change.clamp(-self.epsilon, self.epsilon)
        return point.clip(point.start + change), state


@value
class Towards:
    """Ascend the guide: x ← clip(x + α sign ∇guide), the guide being the class each run is drawn to.

    Args:
        alpha: step, in input units.
        restart: step from the start every time (published code).
    """

    alpha: float = 0.05
    restart: bool = False

    def __post_init__(self) -> None:
        check_positive(alpha=self.alpha)

    def step(self, point: Point, state: State) -> tuple[Tensor, State]:
        """The next points."""
        check_step(point, alpha=self.alpha)
        origin = point.start if self.restart else point.x
        return point.clip(origin + self.alpha * guided(point).sign()), state


@value
class Nearby:
    """A step in proportion to the input: x ← clip(x + (x₀ / range) ⊙ sign ∇guide).

    Args:
        spatial_range: the step is the input's distance from the lowest valid value over this.
        floor: smallest step, in input units, so that black pixels can move; 0 as in published code.
        restart: step from the start every time (published code).
    """

    spatial_range: float = 10.0
    floor: float = 1 / 255
    restart: bool = False

    def __post_init__(self) -> None:
        check_positive(spatial_range=self.spatial_range)
        if self.floor < 0:
            raise SpecError(Code.BAD_PARAMETER, "floor must not be negative", got=self.floor)

    def step(self, point: Point, state: State) -> tuple[Tensor, State]:
        """The next points."""
        check_step(point, floor=self.floor)
        size = (point.start if point.bounds is None else point.start - point.bounds[0]).abs()
        size = (size / self.spatial_range).clamp_min(self.floor)
        origin = point.start if self.restart else point.x
        return point.clip(origin + size * guided(point).sign()), state


@value
class Transfer:
    """A transferable attack's step on the smoothed gradient with momentum, inside ±ε.

    m ← μ m + K∗g / mean|K∗g|, x ← clip(x₀ + clip(x + α sign m − x₀, ±ε)), where g raises the loss.

    Args:
        alpha: step, in input units.
        epsilon: largest distance from the start per entry.
        momentum: μ.
        kernel: side of the Gaussian that smooths images, odd; 1 for none.
        sigmas: how many standard deviations the kernel reaches to either side.
        descend: lower the loss instead and integrate m with its sign (published code).
    """

    alpha: float = 1.6 / 255
    epsilon: float = 16 / 255
    momentum: float = 1.0
    kernel: int = 7
    sigmas: float = 3.0
    descend: bool = False

    def __post_init__(self) -> None:
        check_positive(alpha=self.alpha, epsilon=self.epsilon, sigmas=self.sigmas)
        if not isinstance(self.kernel, int) or self.kernel < 1 or self.kernel % 2 == 0 or self.momentum < 0:
            raise SpecError(
                Code.BAD_PARAMETER,
                "The kernel must be an odd number of pixels and momentum not negative",
                got=f"kernel {self.kernel}, momentum {self.momentum}",
            )

    def step(self, point: Point, state: State) -> tuple[Tensor, State]:
        """The next points; ``momentum`` is kept."""
        check_step(point, alpha=self.alpha, epsilon=self.epsilon)
        g = self._smooth(guided(point))
        size = g.abs().flatten(1).mean(1).clamp_min(torch.finfo(g.dtype).tiny)
        g = g / along(size, g)
        if "momentum" in state:
            g = g + self.momentum * state["momentum"]
        state = {"momentum": g}
        sign = g.sign()
        if self.descend:
            # The published map is −Σ Δx ⊙ m with m of the loss; a walk negates what it adds up.
            state, sign = {**state, INTEGRAND: g}, -sign
        change = (point.x + self.alpha * sign - point.start).clamp(-self.epsilon, self.epsilon)
        return point.clip(point.start + change), state

    def _smooth(self, g: Tensor) -> Tensor:
        if self.kernel == 1 or g.ndim != 4:
            return g
        at = torch.linspace(-self.sigmas, self.sigmas, self.kernel, dtype=torch.float64)
        row = torch.exp(-0.5 * at.square())
        weights = torch.outer(row, row) / row.sum().square()
        flat = F.conv2d(g.reshape(-1, 1, *g.shape[2:]), weights.to(g)[None, None], padding=self.kernel // 2)
        return flat.view_as(g)


def guided(point: Point) -> Tensor:
    """(n, *f) where each row is drawn: its guide, or down the explained score where there is none."""
    return -point.gradient if point.guide is None else point.guide
