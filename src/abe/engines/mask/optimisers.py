"""Steps of a mask's optimisation."""

from torch import Tensor

from abe.checks import Below1, Fraction, NotNegative, Positive
from abe.engines.mask.optimise import State
from abe.spec import value


@value
class AdamStep:
    """Adam, with the usual β.

    Args:
        rate: step size.
        soft: ε is 1e-8 and this divided by the count of numbers. Where the score counts in shares, a
            number's slope is about a share by their count; those far below it would move by rounding.
    """

    rate: Positive
    soft: NotNegative = 0.0

    def step(self, numbers: Tensor, gradient: Tensor, state: State, number: int) -> tuple[Tensor, State]:
        first = 0.9 * state["first"] + 0.1 * gradient if state else 0.1 * gradient
        square = gradient.square()
        second = 0.999 * state["second"] + 0.001 * square if state else 0.001 * square
        size = (second / (1 - 0.999 ** (number + 1))).sqrt() + 1e-8 + self.soft / numbers[0].numel()
        moved = numbers - self.rate * first / (1 - 0.9 ** (number + 1)) / size
        return moved, {"first": first, "second": second}


@value
class MomentumStep:
    """Gradient descent along v ← μ v + (1 − d) g, v = g at the first step.

    Args:
        rate: step size, per number: slopes of means shrink with the count of numbers.
        momentum: μ.
        dampening: d.
    """

    rate: Positive
    momentum: Below1 = 0.9
    dampening: Fraction = 0.9

    def step(self, numbers: Tensor, gradient: Tensor, state: State, number: int) -> tuple[Tensor, State]:
        speed = self.momentum * state["speed"] + (1 - self.dampening) * gradient if state else gradient
        return numbers - self.rate * numbers[0].numel() * speed, {"speed": speed}
