"""Explainers that are networks: trained once on the user's data, one pass per explanation afterwards.

RTIS learns masks that keep the decision, L2X which k units tell most about the prediction, CXPlain how
much the loss rises without each unit. All three score positions with one small network.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from abe.checks import Count, NotNegative, Positive
from abe.engines.learn.networks import Approximator, Learner, Scorer, filled
from abe.engines.learn.training import Trained, classes_of
from abe.engines.mask.optimise import At, pull
from abe.engines.mask.penalties import Variation
from abe.engines.runtime.problem import Problem
from abe.engines.runtime.shapes import spread
from abe.engines.runtime.stored import Weights, check_shape, save
from abe.errors import Code, InputError, SpecError
from abe.objectives import LogProbability, Probability
from abe.schema import Natural
from abe.spec import describe, value
from abe.task.outputs import OF_LABELS
from abe.types import Baseline, Result

BLOCK = 64
"""Rows that a trained network explains at once."""
POISSON = tuple(math.exp(-1) * sum(1 / math.factorial(j) for j in range(i + 1)) for i in range(8))
"""Distribution function of Poisson(1), the bootstrap's number of times that a sample is drawn."""


# --- units ----------------------------------------------------------------------------------------


class Units:
    """Cells of a grid over the positions, or single features, of inputs of a shape.

    Args:
        shape: of the inputs, without the batch.
        cells: along each axis; never more than there are positions.
    """

    def __init__(self, shape: tuple[int, ...], cells: int) -> None:
        self.space = shape[1:]
        self.grid = tuple(min(cells, side) for side in self.space) if self.space else shape
        self.count = math.prod(self.grid)
        numbers = torch.arange(self.count, dtype=torch.float32).view(1, 1, *self.grid)
        self.of = (F.interpolate(numbers, size=self.space)[0] if self.space else numbers[0, 0]).long()
        self.sizes = torch.bincount(self.of.flatten(), minlength=self.count)

    def pooled(self, scores: Tensor) -> Tensor:
        """(n, u) mean score of every unit's positions."""
        if not self.space:
            return scores
        flat = scores.flatten(1)
        place = self.of.flatten().to(flat.device).expand_as(flat)
        sums = torch.zeros(len(flat), self.count, dtype=flat.dtype, device=flat.device)
        return sums.scatter_add(1, place, flat) / self.sizes.to(flat)

    def spread(self, units: Tensor) -> Tensor:
        """(n, 1, *space) or (n, d): every position has its unit's number."""
        return units[:, self.of.to(units.device)]

    def shares(self, units: Tensor, x: Tensor) -> Tensor:
        """(n, *f) every unit's number in equal parts over its positions and channels."""
        return spread(self.spread(units / self.sizes.to(units)), x)


# --- what is learnt -------------------------------------------------------------------------------


@value
class RTIS:
    """Masks that keep the decision and whose complement loses it.

    L = area · mean M + variation · TV(M) − log p_c(Φ(x; M)) + delete · p_c(Φ(x; 1 − M))^power

    Args:
        baseline: what removed parts become.
        area: price of keeping everything.
        variation: price of differences between neighbours, squared.
        delete: price of what the complement still says.
        power: of that probability.
        rate: of Adam.
        width: channels of the network.
    """

    baseline: Baseline
    area: NotNegative = 2.0
    variation: NotNegative = 10.0
    delete: NotNegative = 5.0
    power: Positive = 0.3
    rate: Positive = 1e-3
    width: Count = 8

    def settings(self) -> dict[str, Any]:
        return {"recipe": describe(self)}

    def build(self, problem: Problem, seed: int) -> nn.Module:
        classes, shape = classes_of(problem), tuple(problem.x.shape[1:])
        return filled(Learner([Scorer(shape, classes, self.width)]), seed, problem.x)

    def loss(self, net: nn.Module, problem: Problem, epoch: int) -> Tensor:
        mask = torch.sigmoid(_learner(net).scorers[0](problem.x, problem.target))
        everyone = problem.everyone
        reference = problem.reference(self.baseline, everyone, torch.full_like(everyone, epoch)).to(problem.x)
        difference, fixed = problem.x - reference, mask.detach()

        def kept(masks: Tensor, rows: Tensor) -> Tensor:
            return reference[rows] + masks * difference[rows]

        def rest(masks: Tensor, rows: Tensor) -> Tensor:
            return reference[rows] + (1 - masks) * difference[rows]

        def steepness(p: Tensor) -> Tensor:
            return self.power * p.clamp_min(1e-6) ** (self.power - 1)

        _, keep = pull(problem.with_(objective=LogProbability()), fixed, kept, everyone, everyone)
        _, lose = pull(problem.with_(objective=Probability()), fixed, rest, everyone, everyone, steepness)
        shape = Variation(weight=self.variation, power=2.0).bind(problem)(mask, At(everyone, everyone, epoch))
        wanted = self.area * mask.flatten(1).mean(1) + shape
        return (wanted.sum() + (mask * (self.delete * lose - keep)).sum()) / len(mask)

    def finished(self, trained: Trained) -> "Amortised":
        return _amortised("rtis", trained, cells=0, width=self.width)


@value
class L2X:
    """The k units whose values tell most about the prediction: max E Σ_y p(y|x) log q(y | x_S).

    S is drawn k times from softmax of the scores, relaxed by Gumbel noise at temperature τ.

    Args:
        baseline: what the other units become; zero in the paper.
        features: k.
        cells: units along each axis of positions.
        temperature: τ.
        rate: of Adam.
        width: channels of both networks.
    """

    baseline: Baseline
    features: Count = 4
    cells: Count = 8
    temperature: Positive = 0.1
    rate: Positive = 1e-3
    width: Count = 8

    def settings(self) -> dict[str, Any]:
        return {"recipe": describe(self)}

    def build(self, problem: Problem, seed: int) -> nn.Module:
        if problem.task.output_kind in OF_LABELS:
            raise SpecError(
                Code.UNSUPPORTED,
                "L2X learns what tells classes apart, and labels of their own are not told apart",
                fix="Use rtis or cxplain, or a task with one of the labels as its output",
            )
        classes, shape = classes_of(problem), tuple(problem.x.shape[1:])
        nets = Learner([Scorer(shape, 0, self.width)], Approximator(shape, classes, self.width))
        return filled(nets, seed, problem.x)

    def loss(self, net: nn.Module, problem: Problem, epoch: int) -> Tensor:
        learner, units = _learner(net), Units(tuple(problem.x.shape[1:]), self.cells)
        if self.features >= units.count:
            raise SpecError(
                Code.BAD_PARAMETER,
                "All units would be selected",
                got=f"features={self.features} of {units.count} units",
            )
        everyone = problem.everyone
        scores = torch.log_softmax(units.pooled(learner.scorers[0](problem.x, problem.target)), dim=1)
        keys = problem.keys(everyone, torch.full_like(everyone, epoch))
        u = problem.draws.uniform("l2x.gumbel", keys, (self.features, units.count)).to(scores)
        gumbel = -torch.log(-torch.log(u.clamp(1e-6, 1 - 1e-6)))
        chosen = torch.softmax((scores[:, None] + gumbel) / self.temperature, dim=2).amax(1)
        reference = problem.reference(self.baseline, everyone, torch.full_like(everyone, epoch)).to(problem.x)
        selected = reference + units.spread(chosen) * (problem.x - reference)
        log_p, _ = problem.task.chances(problem.known_outputs, problem.target)
        if learner.approximator is None:
            raise TypeError("L2X has an approximator")
        return -(log_p.exp() * learner.approximator(selected)).sum(1).mean()

    def finished(self, trained: Trained) -> "Amortised":
        return _amortised("l2x", trained, cells=self.cells, width=self.width)


@value
class CXPlain:
    """How much the loss rises without each unit, as shares, learnt by regression on KL(Ω ‖ Â).

    ω_i = Δε_i / Σ Δε_j, Δε_i = log p_c(x) − log p_c(x without i), negative ones counted as 0. Members are
    trained on bootstrap samples; their spread is the standard error.

    Args:
        baseline: what a removed unit becomes.
        cells: units along each axis of positions.
        members: networks.
        rate: of Adam.
        width: channels of each network.
    """

    baseline: Baseline
    cells: Count = 8
    members: Count = 1
    rate: Positive = 1e-3
    width: Count = 8

    def settings(self) -> dict[str, Any]:
        return {"recipe": describe(self)}

    def build(self, problem: Problem, seed: int) -> nn.Module:
        classes, shape = classes_of(problem), tuple(problem.x.shape[1:])
        return filled(
            Learner([Scorer(shape, classes, self.width) for _ in range(self.members)]), seed, problem.x
        )

    def loss(self, net: nn.Module, problem: Problem, epoch: int) -> Tensor:
        units = Units(tuple(problem.x.shape[1:]), self.cells)
        wanted = self.shares(problem, units)
        total = problem.x.new_zeros(())
        for member, scorer in enumerate(_learner(net).scorers):
            said = torch.log_softmax(units.pooled(scorer(problem.x, problem.target)), dim=1)
            missed = (wanted * (wanted.clamp_min(1e-12).log() - said)).sum(1)
            total = total + (missed * self._times(problem, member)).mean()
        return total

    def shares(self, problem: Problem, units: Units) -> Tensor:
        """(b, u) ω."""
        asked = problem.with_(objective=LogProbability())
        reference = problem.reference(self.baseline, problem.everyone, torch.zeros_like(problem.everyone))
        owner, u = problem.everyone.repeat_interleave(units.count), units.count
        numbers = units.of.to(problem.x.device)

        def make(rows: Tensor) -> Tensor:
            gone = numbers[None] == (rows % u).view(-1, *[1] * numbers.ndim)
            return torch.where(gone, reference[owner[rows]].to(problem.x), problem.x[owner[rows]])

        without = asked.scores(make, owner)
        rise = (asked.score[:, None] - without.view(-1, u)).clamp_min(0)
        total = rise.sum(1, keepdim=True)
        return torch.where(total > 0, rise / total.clamp_min(1e-30), torch.full_like(rise, 1 / u))

    def _times(self, problem: Problem, member: int) -> Tensor:
        """(b,) how often a sample is in a member's bootstrap sample."""
        if self.members == 1:
            return torch.ones_like(problem.score)
        number = torch.full_like(problem.everyone, member)
        drawn = problem.draws.uniform("cxplain.bootstrap", problem.keys(problem.everyone, number), ())
        return (drawn[:, None] > torch.tensor(POISSON)).sum(1).to(problem.score)

    def finished(self, trained: Trained) -> "Amortised":
        return _amortised("cxplain", trained, cells=self.cells, width=self.width, members=self.members)


# --- what explains --------------------------------------------------------------------------------


@value
class Amortised:
    """A trained explainer; made by ``abe.fit``.

    Args:
        method: the method it was trained for.
        shape: of the inputs.
        classes: that its gate tells apart, 0 for none.
        cells: units along each axis, 0 for a mask of positions.
        width: channels.
        members: networks.
        epochs: passes over the data.
        samples: samples seen.
        weights: of the networks.
        notes: what is to be said about the training.
    """

    method: str
    shape: tuple[Count, ...]
    classes: Natural
    cells: Natural
    width: Count
    members: Count
    epochs: Natural
    samples: Natural
    weights: Weights
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse weights of other networks, before any network of that size is made."""
        known = 0 < len(self.shape) < 4
        wanted = Scorer.shapes(self.shape, self.classes, self.width) if known else {}
        found = {name: tuple(tensor.shape) for name, tensor in self.weights.tensors.items()}
        numbers = range(self.members if self.members * len(wanted) == len(found) else 0)
        if not wanted or found != {f"scorers.{i}.{k}": v for i in numbers for k, v in wanted.items()}:
            raise InputError(
                Code.FITTED,
                "The weights are those of other networks",
                got=f"{len(found)} tensors",
                expected=f"{self.members} networks of width {self.width} for inputs {self.shape}",
                fix=f'Make it with abe.fit(task, loader, "{self.method}")',
            )

    def save(self, path: str | Path) -> Path:
        """Write it as safetensors."""
        return save(self, path)

    def run(self, problem: Problem) -> Result:
        """One pass of the trained networks; the model only predicts."""
        check_shape("This explainer", self.shape, tuple(problem.x.shape[1:]))
        if self.classes and int(problem.target.max()) >= self.classes:
            check_shape("This explainer's classes", (self.classes,), (int(problem.target.max()) + 1,))
        net = Learner([Scorer(self.shape, self.classes, self.width) for _ in range(self.members)])
        net.load_state_dict(dict(self.weights.tensors))
        found = explained(net.to(problem.x), problem, self.cells)
        return Result(found.attribution, standard_error=found.standard_error, warnings=list(self.notes))


@value
class Untrained:
    """The same networks before any training: a control that a trained explainer has to beat.

    Args:
        seed: of the weights.
        cells: units along each axis, 0 for a mask of positions.
        width: channels.
    """

    seed: int = 0
    cells: Count = 8
    width: Count = 8

    def run(self, problem: Problem) -> Result:
        """One pass of networks that have learnt nothing."""
        scorer = Scorer(tuple(problem.x.shape[1:]), 0, self.width)
        return explained(filled(Learner([scorer]), self.seed, problem.x), problem, self.cells)


def explained(net: Learner, problem: Problem, cells: int) -> Result:
    """Masks, or shares of units, of every sample; the members' mean and spread."""
    read: Callable[[Tensor, Tensor], Tensor] = _as_mask if cells == 0 else _as_shares(problem, cells)
    maps: list[Tensor] = []
    with torch.no_grad():
        for x, target in zip(problem.x.split(BLOCK), problem.target.split(BLOCK), strict=True):
            maps.append(torch.stack([read(scorer(x, target), x) for scorer in net.scorers]))
    every = torch.cat(maps, dim=1)
    spread_ = every.std(0) if len(every) > 1 else None
    return Result(every.mean(0), standard_error=spread_)


def _as_mask(scores: Tensor, x: Tensor) -> Tensor:
    return spread(torch.sigmoid(scores), x)


def _as_shares(problem: Problem, cells: int) -> Callable[[Tensor, Tensor], Tensor]:
    units = Units(tuple(problem.x.shape[1:]), cells)

    def read(scores: Tensor, x: Tensor) -> Tensor:
        return units.shares(torch.softmax(units.pooled(scores), dim=1), x)

    return read


def _learner(net: nn.Module) -> Learner:
    if not isinstance(net, Learner):
        raise TypeError("a recipe is given the network that it built")
    return net


def _amortised(method: str, trained: Trained, *, cells: int, width: int, members: int = 1) -> Amortised:
    kept = {k: v for k, v in trained.weights.items() if k.startswith("scorers.")}
    return Amortised(
        method=method,
        shape=trained.shape,
        classes=0 if method == "l2x" else trained.classes,
        cells=cells,
        width=width,
        members=members,
        epochs=trained.epochs,
        samples=trained.samples,
        weights=Weights(kept),
        notes=tuple(trained.notes),
    )
