"""Gradient estimators: where, of what, and averaged over what an attack takes its gradient."""

from typing import ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor

from abe.checks import Count, NotNegative
from abe.engines.path.geometry import lengths, tiny
from abe.engines.path.step import State
from abe.engines.path.steps.aim import Aim, ImageTransform
from abe.engines.runtime.shapes import along
from abe.sizes import in_units, lowest, per_range, span
from abe.spec import value


@runtime_checkable
class Estimator(Protocol):
    """Estimates the direction in which an attack's loss grows."""

    def estimate(self, aim: Aim, state: State) -> tuple[Tensor, State]:
        """(n, *f) the direction at ``aim.x``, and the state to carry on."""
        ...


@value
class Plain:
    """The gradient at the point."""

    reads_gradient: ClassVar[bool] = True

    def estimate(self, aim: Aim, state: State) -> tuple[Tensor, State]:
        """One gradient row, none where it came with the point."""
        return aim.ascent(), state


@value
class Shown:
    """The gradient that a path shows its update: its guide, or down the explained score where it has none."""

    reads_gradient: ClassVar[bool] = True

    def estimate(self, aim: Aim, state: State) -> tuple[Tensor, State]:
        """No rows of its own."""
        return aim.point.guided, state


@value
class Transformed:
    """The mean gradient over randomly transformed copies, with respect to the point itself.

    Args:
        transforms: applied to every copy, in order.
        copies: how many.
    """

    transforms: tuple[ImageTransform, ...]
    copies: Count = 1
    stochastic: ClassVar[bool] = True

    def estimate(self, aim: Aim, state: State) -> tuple[Tensor, State]:
        """``copies`` gradient rows."""

        def transform(x: Tensor, who: Tensor, copy: Tensor) -> Tensor:
            for change in self.transforms:
                x = change.apply(x, aim, who, copy, self.copies)
            return x

        return aim.mean_ascent(self.copies, transform), state


@value
class ScaleCopies:
    """The mean gradient over x / 2^i, i < copies, each with its factor 1 / 2^i (SINIM).

    The copies darken towards the lowest valid input, which is 0 in most units.

    Args:
        copies: how many scales.
    """

    copies: Count = 5

    def estimate(self, aim: Aim, state: State) -> tuple[Tensor, State]:
        """``copies`` gradient rows."""
        black = lowest(aim.point.bounds)

        def transform(x: Tensor, who: Tensor, copy: Tensor) -> Tensor:
            return black + (x - black) * along(torch.pow(0.5, copy.to(x)), x)

        return aim.mean_ascent(self.copies, transform), state


@value
class LookAhead:
    """The inner estimate where the momentum is about to lead (Nesterov).

    Args:
        inner: what is estimated there.
        distance: how far along the momentum, in input units: α μ.
    """

    inner: Estimator
    distance: NotNegative

    @property
    def stochastic(self) -> bool:
        """As the inner estimator."""
        return bool(getattr(self.inner, "stochastic", False))

    def estimate(self, aim: Aim, state: State) -> tuple[Tensor, State]:
        """As many gradient rows as the inner estimator."""
        momentum = state.get("momentum")
        far = in_units(self.distance, aim.point.bounds)
        ahead = aim if momentum is None else aim.at(aim.x + far * momentum)
        return self.inner.estimate(ahead, state)


@value
class IntegratedGradient:
    """x ⊙ mean of the probability's gradient along the line from black, at i/points (MIG).

    x counts from the lowest valid input, which is 0 in most units.

    Args:
        points: right-hand points on the line.
        chain_factor: multiply each gradient by its i/points, as the published code does.
    """

    points: Count = 20
    chain_factor: bool = False

    def estimate(self, aim: Aim, state: State) -> tuple[Tensor, State]:
        """``points`` gradient rows."""
        black = lowest(aim.point.bounds)

        def transform(x: Tensor, who: Tensor, copy: Tensor) -> Tensor:
            scaled = black + (x - black) * along((copy.to(x) + 1) / self.points, x)
            return scaled if self.chain_factor else straight_through(x, scaled)

        mean = aim.with_loss("probability").mean_ascent(self.points, transform)
        return (aim.x - black) / span(aim.point.bounds) * mean, state


@value
class Neighbourhood:
    """g and the mean gradient ḡ of random neighbours, mixed by their cosine: s g + (1 − s) ḡ (GRA).

    Neighbours are x + U(−r, r) and are not clipped to the bounds.

    Args:
        radius: r; the paper's β ε.
        copies: how many neighbours.
    """

    radius: NotNegative
    copies: Count = 20
    stochastic: ClassVar[bool] = True
    reads_gradient: ClassVar[bool] = True

    def estimate(self, aim: Aim, state: State) -> tuple[Tensor, State]:
        """``copies`` gradient rows and the one at the point."""
        bounds = aim.point.bounds
        radius = in_units(self.radius, bounds)

        def transform(x: Tensor, who: Tensor, copy: Tensor) -> Tensor:
            u = aim.uniform("neighbourhood", who, copy, self.copies, x.shape[1:])
            return x + (2 * u - 1) * radius

        here, around = aim.ascent(), aim.mean_ascent(self.copies, transform)
        one, other = (per_range(g, self.radius, bounds) for g in (here, around))
        product = (one * other).flatten(1).sum(1)
        length = lengths(one) * lengths(other)
        share = along(product / length.clamp_min(tiny(here)), here)
        return share * here + (1 - share) * around, state


def straight_through(x: Tensor, moved: Tensor) -> Tensor:
    """``moved``, with the gradient of ``x``: the gradient at the moved point is taken as it is."""
    return moved.detach() + (x - x.detach())
