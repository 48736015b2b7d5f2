"""A package of one's own for ABE: one of everything that can be added, each a value of 15 lines at most."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from abe.baselines import as_baseline
from abe.engines.backward.deeplift_rescale import elementwise
from abe.engines.backward.lrp_other import Identity
from abe.engines.backward.step import Step
from abe.engines.cam.channel_map import View
from abe.engines.path.curves import StraightLine
from abe.engines.path.quadrature import Midpoint
from abe.engines.path.static import PathIntegral
from abe.engines.path.step import Point
from abe.engines.removal.game import Evaluated, Stream, Summarised
from abe.engines.removal.removals import Absent, BoundRemoval, Layout
from abe.engines.runtime.shapes import along
from abe.metrics import Perturbation, PerturbationRun
from abe.registry import (
    channel_weights,
    methods,
    metrics,
    objectives,
    paths,
    removals,
    rules,
    summaries,
    updates,
)
from abe.spec import value
from abe.types import Baseline, BoundPath, Card, Passes


# method: a factory with keyword parameters that composes ABE's primitives
@methods.register(
    Card(
        name="halfway",
        title="Halfway gradient",
        source="yours2026, Eq. 1",
        family="gradient × input",
        guarantees=("linearity", "dummy", "symmetry", "implementation_invariance"),
        needs=("gradient", "baseline"),
        passes=Passes(forward="3 * b", backward="b"),
        expected_failures={"completeness": "one node is exact where the gradient is linear along the line"},
    ),
    aliases=("half",),
)
def halfway(*, baseline: Any = "zero") -> PathIntegral:
    """The gradient halfway between a baseline and the input, times their difference.

    Formula: A = (x − x′) ⊙ ∇s((x + x′) / 2)

    Example:
        >>> import abe
        >>> print(abe.method("halfway", baseline="blur"))
        halfway(baseline='blur')
    """
    return PathIntegral(path=StraightLine(baseline=as_baseline(baseline)), quadrature=Midpoint(), steps=1)


# path: `bind` fixes the value to a batch; rows are named by the sample that owns them
@paths.register(Card(name="ease_in", title="Eased line", source="yours2026, Eq. 2"))
@value
class EaseIn:
    """A straight line that starts slowly.

    Formula: γ(α) = x′ + α² (x − x′)
    """

    baseline: Baseline | str = "zero"

    def bind(self, problem: Any) -> BoundPath:
        """The lines of a batch."""
        return Eased(StraightLine(baseline=self.baseline).bind(problem))


class Eased:
    """The lines of one batch, at another pace."""

    def __init__(self, line: BoundPath) -> None:
        self.line, self.reference, self.has_velocity = line, line.reference, True

    def point(self, owner: Tensor, alpha: Tensor) -> Tensor:
        """The reference at alpha 0, the input at alpha 1."""
        return self.line.point(owner, alpha**2)

    def velocity(self, owner: Tensor, alpha: Tensor) -> Tensor:
        """The derivative of the point by alpha."""
        return along(2 * alpha, self.reference) * self.line.velocity(owner, alpha**2)


# objective: one score per row, higher is more of the decision
@objectives.register(Card(name="contrast", title="Contrast", source="yours2026, Eq. 3"))
@value
class Contrast:
    """The class score minus the mean of all class scores.

    Formula: s = f_y − (1/C) Σ_j f_j
    """

    layers = ()  # the score reads the output only
    reads_logits = True

    def __call__(self, outputs: Tensor, target: Tensor) -> Tensor:
        """(n,) scores of outputs (n, C) for targets (n,)."""
        return outputs.gather(1, target[:, None])[:, 0] - outputs.mean(1)


# metric: it names the perturbation runs it reads and sums them up; equal runs are performed once
@metrics.register(
    Card(name="early_drop", title="DROP", source="yours2026, Eq. 4", direction="higher", range="[-1, 1]")
)
@value
class EarlyDrop:
    """Probability lost when the first share of the units is removed.

    Formula: p_y(x) − p_y(x without the most important units)

    Args:
        share: of the units, removed at once.
    """

    share: float = 0.2
    baseline: Any = "zero"

    @property
    def runs(self) -> tuple[PerturbationRun, ...]:
        """One deletion."""
        return (PerturbationRun(direction="deletion", baseline=as_baseline(self.baseline), step=self.share),)

    def summary(self, perturbations: Sequence[Perturbation]) -> Tensor:
        """(b,) one number per sample."""
        probability = perturbations[0].curve("probability")
        return probability[:, 0] - probability[:, 1]


# update: one step of a dynamic path; the state is carried per row
@updates.register(Card(name="heavy_ball", title="Descent with momentum", source="yours2026, Eq. 5"))
@value
class HeavyBall:
    """Normalised gradient descent on the explained score that keeps part of its last step.

    Formula: v ← μ v + ∇s / ‖∇s‖, x ← clip(x − α v)

    Args:
        alpha: length of a step, in input units.
        momentum: share of the last step that is kept.
    """

    alpha: float = 0.1
    momentum: float = 0.5

    def step(self, point: Point, state: Mapping[str, Tensor]) -> tuple[Tensor, Mapping[str, Tensor]]:
        """The next points, inside the bounds, and the state to carry on."""
        direction = normalize(point.gradient.flatten(1)).view_as(point.x)
        velocity = self.momentum * state.get("velocity", torch.zeros_like(point.x)) + direction
        return point.clip(point.x - self.alpha * velocity), {"velocity": velocity}


# rule: what an operation that ABE does not know passes back; LRP and DeepLIFT alike take it from here
@rules.register(Card(name="sinc", title="Rule for torch.sinc", source="yours2026, Eq. 6"))
@value
class SincRule:
    """The sinc is element-wise: relevance passes unchanged, multipliers are Δout/Δin.

    Formula: c_in = c sinc(x) / x for LRP, Δ sinc(x) / Δx for DeepLIFT
    """

    operations = ("sinc",)
    forms = ("ratio", "multiplier")

    def __call__(self, step: Step) -> Tensor:
        """The operation's own value, with another way back."""
        return elementwise(step) if step.session.form == "multiplier" else Identity()(step)


# weights: one value makes a class activation map of a layer's output and the gradient by it
@channel_weights.register(Card(name="loudest", title="Loudest gradient", source="yours2026, Eq. 6"))
@value
class Loudest:
    """Every channel counts by its largest gradient.

    Formula: w_k = max_ij ∂s/∂A_kij
    """

    needs_gradient = True  # without it no backward pass is run

    def __call__(self, view: View) -> Tensor:
        """(n, h, w) the map at the layer's size; what follows is ABE's."""
        return view.combine(view.gradient.flatten(2).amax(2))


# removal: what stands where a unit is absent; the bound form makes the rows of a chunk
@removals.register(Card(name="fade", title="Fading", source="yours2026, Eq. 6"))
@value
class Fade:
    """Absent units keep a share of their value.

    Args:
        share: that is kept, 0 for black.
    """

    share: float = 0.5

    def bind(self, problem: Any, layout: Layout) -> BoundRemoval:
        """The faded copies of a batch."""
        return Faded(problem.x, self.share)


class Faded:
    """One completion per coalition."""

    draws = 1

    def __init__(self, x: Tensor, share: float) -> None:
        self.x, self.share = x, share

    def rows(self, absent: Absent) -> Tensor:
        """(n, *f) each row's sample, faded where it does not stay."""
        x = self.x[absent.owner]
        return torch.where(absent.keep, x, self.share * x)


# summary: which coalitions to evaluate, and one number per unit from their values
@summaries.register(Card(name="both_ends", title="Both ends", source="yours2026, Eq. 7"))
@value
class BothEnds:
    """The mean of what a unit adds to none and what it takes from all.

    Exact where only pairs of units interact.

    Formula: a_i = ½ (v(i) − v(∅)) + ½ (v(N) − v(N ∖ i))
    """

    @property
    def complete(self) -> bool:
        """Its numbers add up to the change of the score for pairs only, so it is not claimed."""
        return False

    def needs(self, u: int) -> int:
        """Fewest coalitions besides that of all units."""
        return 2 * u + 1

    def coalitions(self, u: int, budget: int | None, stream: Stream) -> Tensor:
        """(2 u + 1, u) none, one each, all but one each."""
        one = torch.eye(u, dtype=torch.bool)
        return torch.cat([torch.zeros((1, u), dtype=torch.bool), one, ~one])

    def summarise(self, evaluated: Evaluated) -> Summarised:
        """(u,) from the mean over completions."""
        v, full = evaluated.values.mean(1), evaluated.full.mean()
        alone, without = v[1:].chunk(2)
        return Summarised((alone - v[0] + full - without) / 2)
