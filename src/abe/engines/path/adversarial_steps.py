"""Steps of the adversarial attribution methods, as updates of a dynamic path."""

import torch
from torch import Tensor

from abe.checks import NotNegative, Size, check_reach
from abe.engines.path.geometry import step_along, within
from abe.engines.path.step import INTEGRAND, Point, State
from abe.sizes import OfRange, in_units, lowest
from abe.spec import value


@value
class Leave:
    """Descend the explained score: x ← clip(x₀ + clip(x − α sign ∇s − x₀, ±ε)), or an L2 step.

    Args:
        alpha: step, in input units; the L2 step has length 100 α.
        epsilon: largest distance from the start per entry, or None.
        sharp: an L2 step instead of a signed one, bounded by the valid inputs only.
        cumulative: direction and integrand are the sum of all gradients so far (published code).
    """

    alpha: Size = OfRange(0.001)
    epsilon: Size | None = OfRange(0.3)
    sharp: bool = False
    cumulative: bool = False

    def step(self, point: Point, state: State) -> tuple[Tensor, State]:
        """The next points."""
        check_reach(point.bounds, point.x.shape[1:], alpha=self.alpha, epsilon=self.epsilon or 0.0)
        gradient = point.gradient
        if self.cumulative:
            gradient = gradient + state[INTEGRAND] if INTEGRAND in state else gradient
            state = {INTEGRAND: gradient}
        if self.sharp:
            return point.clip(point.x - step_along(gradient, 100 * self.alpha, point.bounds)), state
        change = point.x - in_units(self.alpha, point.bounds) * gradient.sign() - point.start
        if self.epsilon is not None:
            change = within(change, self.epsilon, point.bounds)
        return point.clip(point.start + change), state


@value
class Towards:
    """Ascend the guide: x ← clip(x + α sign ∇guide), the guide being the class each run is drawn to.

    Args:
        alpha: step, in input units.
    """

    alpha: Size = OfRange(0.05)

    def step(self, point: Point, state: State) -> tuple[Tensor, State]:
        """The next points."""
        check_reach(point.bounds, point.x.shape[1:], alpha=self.alpha)
        return point.clip(point.x + in_units(self.alpha, point.bounds) * point.guided.sign()), state


@value
class Nearby:
    """A step in proportion to the input: x ← clip(x + (x₀ / range) ⊙ sign ∇guide).

    Args:
        spatial_range: the step is the input's distance from the lowest valid value over this.
        floor: smallest step, in input units, so that black pixels can move; 0 as in published code.
    """

    spatial_range: Size = 10.0
    floor: NotNegative = OfRange(1 / 255)

    def step(self, point: Point, state: State) -> tuple[Tensor, State]:
        """The next points."""
        check_reach(point.bounds, point.x.shape[1:], floor=self.floor)
        size = (point.start - lowest(point.bounds)).abs()
        size = torch.clamp(size / self.spatial_range, min=in_units(self.floor, point.bounds))
        return point.clip(point.x + size * point.guided.sign()), state
