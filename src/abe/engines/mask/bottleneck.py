"""Information bottlenecks: noise replaces activations wherever the score can do without them.

    Z = λ R + (1 − λ) ε,   ε ~ N(μ, σ²),   λ = blur(sigmoid(α)),
    L = −E score(Z) + β · mean KL(N(λ R + (1 − λ) μ, (1 − λ)² σ²) ‖ N(μ, σ²))

is minimised over α for every sample by itself. The KL says in nats how much of a position is still
there, so the map is in bits and says how much the decision needs at most.
"""

import math
from collections.abc import Iterator
from typing import Annotated, Any

import torch
from torch import Tensor

from abe.checks import Between, Count, NotNegative, Positive
from abe.engines.layers.find import (
    activations,
    at_layer,
    bypass_note,
    bypassed,
    find_layer,
)
from abe.engines.layers.grid import grid_of, layout_of
from abe.engines.mask.noise import (
    ActivationNoise,
    LayerStatistics,
    OwnStatistics,
)
from abe.engines.mask.optimise import At, BoundPenalty, MaskOptimisation
from abe.engines.mask.optimisers import AdamStep
from abe.engines.runtime.problem import Problem
from abe.engines.runtime.shapes import rows_at_once, spread, stretch
from abe.engines.runtime.stored import Weights
from abe.errors import Code, ModelError, note
from abe.instrument.capture import layer_name
from abe.objectives import Captured
from abe.spec import value
from abe.types import Result

INPUT = "input"
"""The name of the place before the first layer."""
LEAST = 1e-7
"""Smallest 1 − λ, below which the KL is not finite."""
Smoothing = Annotated[float, Between(0, 1000)]
"""Deviation of a Gaussian over positions, whose window is four times as wide; 0 for none."""


# --- the parts of the optimisation ----------------------------------------------------------------


@value
class Gate:
    """λ = blur(sigmoid(α)), one α per neuron, α₀ the same everywhere.

    Args:
        start: α₀; 5 lets 99 % through.
        sigma: of the Gaussian over positions, 0 for none.
    """

    start: float = 5.0
    sigma: Smoothing = 1.0

    def bind(self, problem: Problem) -> "_Gate":
        return _Gate(problem.x, self)


class _Gate:
    def __init__(self, x: Tensor, spec: Gate) -> None:
        self._like, self._start = x, spec.start
        self._blurs = [_blur_matrix(n, spec.sigma, x) for n in x.shape[2:]] if spec.sigma > 0 else []

    def start(self, n: int) -> Tensor:
        return torch.full(
            (n, *self._like.shape[1:]), self._start, dtype=self._like.dtype, device=self._like.device
        )

    def mask(self, numbers: Tensor) -> Tensor:
        gate = torch.sigmoid(numbers)
        for axis, blur in enumerate(self._blurs, start=2):
            gate = (gate.movedim(axis, -1) @ blur.T).movedim(-1, axis)
        return gate

    def clip(self, numbers: Tensor) -> Tensor:
        return numbers


def _blur_matrix(n: int, sigma: float, like: Tensor) -> Tensor:
    """(n, n) a Gaussian of width 2 round(2σ) + 1 whose border reflects without repeating the edge."""
    half = round(2 * sigma)
    at = torch.arange(-half, half + 1, dtype=torch.float64)
    weight = torch.exp(-at.square() / (2 * sigma**2))
    weight = weight / weight.sum()
    out = torch.zeros(n, n, dtype=torch.float64)
    turn = max(2 * (n - 1), 1)
    for i in range(n):
        for offset, w in zip(at.tolist(), weight.tolist(), strict=True):
            place = (i + int(offset)) % turn
            out[i, min(place, turn - place) if n > 1 else 0] += w
    return out.to(like)


@value
class NoiseFor:
    """Z = λ R + (1 − λ) ε, ε drawn for every row; neurons that are never active stay 0.

    Args:
        statistics: where μ and σ come from.
        layer: where R is.
    """

    statistics: Any
    layer: str = INPUT

    def bind(self, problem: Problem) -> "_Noisy":
        return _Noisy(problem, self.statistics.of(problem, self.layer), f"bottleneck.{self.layer}")


class _Noisy:
    def __init__(self, problem: Problem, noise: ActivationNoise, purpose: str) -> None:
        self._problem, self._noise, self._purpose = problem, noise, purpose

    def rows(self, mask: Tensor, owner: Tensor, draw: Tensor) -> Tensor:
        x, problem = self._problem.x, self._problem
        mean, std, active = (_for(part, owner) for part in self._noise)
        drawn = problem.draws.normal(self._purpose, problem.keys(owner, draw), x.shape[1:])
        noise = mean + std * drawn.to(x)
        return (mask * x[owner] + (1 - mask) * noise) * active


def _for(part: Tensor, owner: Tensor) -> Tensor:
    return part if len(part) == 1 else part[owner]


@value
class Information:
    """β · mean KL of what the mask lets through; against what a prior Λ lets through where one is given.

    Args:
        statistics: where μ and σ come from.
        weight: β.
        layer: where the mask is.
        prior: (b, *f) Λ of a problem's samples, in their order; None for none.
    """

    statistics: Any
    weight: NotNegative
    layer: str = INPUT
    prior: Weights | None = None

    def bind(self, problem: Problem) -> BoundPenalty:
        mean, std, active = self.statistics.of(problem, self.layer)
        x = problem.x
        prior = None if self.prior is None else self.prior["prior"].to(x)

        def penalty(mask: Tensor, at: At) -> Tensor:
            known = 0.0 if prior is None else prior[at.owner]
            r = (x[at.owner] - _for(mean, at.owner)) / _for(std, at.owner)
            nats = capacity(mask, r, known) * _for(active, at.owner)
            return self.weight * nats.flatten(1).mean(1)

        return penalty


def capacity(mask: Tensor, r: Tensor, prior: Tensor | float = 0.0) -> Tensor:
    """Nats that Z tells about R: KL(N(λ r, (1 − λ)²) ‖ N(Λ λ r, (1 − Λ λ)²)) for standardised r.

    Without a prior (Λ = 0) it is −½ (1 + log(1 − λ)² − (λ r)² − (1 − λ)²).
    """
    rest = 1 - prior * mask
    share = ((1 - mask) / rest).clamp_min(LEAST)
    moved = mask * r * (1 - prior) / rest
    return -0.5 * (1 + 2 * share.log() - moved.square() - share.square())


# --- the methods ----------------------------------------------------------------------------------


@value
class Bottleneck:
    """IBA: bits of a layer's activations that the decision needs.

    Args:
        layer: a module's name, ``"input"``, or ``"auto"``.
        statistics: `LayerStatistics` of the layer, or `OwnStatistics`.
        beta: price of information.
        samples: noise draws per step.
        steps: of Adam.
        rate: of Adam.
        sigma: of the smoothing over positions.
        start: α₀.
    """

    layer: str = "auto"
    statistics: Any = OwnStatistics()
    beta: Positive = 10.0
    samples: Count = 10
    steps: Count = 10
    rate: Positive = 1.0
    sigma: Smoothing = 1.0
    start: float = 5.0

    def run(self, problem: Problem) -> Result:
        """The bits of every sample, at the layer, brought to the input's resolution."""
        layer, warnings = self.place(problem)
        out, bits, score = torch.zeros_like(problem.x), problem.x.new_zeros(len(problem.x)), []
        for block, part in _blocks(problem):
            inside = part if layer == INPUT else _inside(part, layer)
            gate, last = self.gate(inside, layer)
            found = self.bits(inside, gate, layer)
            bits[block] = found.flatten(1).sum(1).to(bits)
            out[block] = readout(found, part.x, layer)
            score.append(last)
        return Result(out, warnings=warnings, diagnostics={"bits": bits, "last_score": torch.cat(score)})

    def place(self, problem: Problem) -> tuple[str, list[str]]:
        """Where the bottleneck goes, and what is to be said about that."""
        notes: list[str] = [*getattr(self.statistics, "notes", ())]
        if isinstance(self.statistics, OwnStatistics):
            notes.append(note(Code.OWN_STATISTICS, OWN))
        if self.layer == "auto" and isinstance(self.statistics, LayerStatistics):
            return self.statistics.layer, notes
        return place(problem, self.layer, notes)

    def gate(self, inside: Problem, layer: str) -> tuple[Tensor, Tensor]:
        """(b, *h) λ, and (b,) the score behind it."""
        engine = MaskOptimisation(
            parametrisation=Gate(start=self.start, sigma=self.sigma),
            perturbation=NoiseFor(statistics=self.statistics, layer=layer),
            penalties=(Information(statistics=self.statistics, weight=self.beta, layer=layer),),
            optimiser=AdamStep(rate=self.rate),
            keep=True,
            steps=self.steps,
            samples=self.samples,
            share=False,
        )
        found = engine.optimise(inside)
        return found.mask[:, 0], found.score

    def bits(self, inside: Problem, gate: Tensor, layer: str) -> Tensor:
        """(b, *h) information in bits."""
        mean, std, active = self.statistics.of(inside, layer)
        return capacity(gate, (inside.x - mean) / std) * active / math.log(2)


def _blocks(problem: Problem) -> Iterator[tuple[Tensor, Problem]]:
    """(rows, request) of samples that are looked at together."""
    for block in problem.everyone.split(max(1, rows_at_once(problem.x) // 64)):
        yield block, problem.with_(x=problem.x[block], owner=block)


def _inside(part: Problem, layer: str) -> Problem:
    """The request at a layer, its channels first wherever it has them."""
    h = activations(part, layer)
    channels = _channels(part, layer, h)
    return at_layer(part, layer, h.movedim(channels, 1).contiguous(), channels=channels)


def _channels(part: Problem, layer: str, h: Tensor) -> int:
    if part.x.ndim < 3 or len(part.task.parts) > 1:
        return 1
    grid = grid_of(h.shape, tuple(part.x.shape[2:]), layout_of(part.task, layer))
    return -1 if grid is not None and grid.layout == "channels_last" else 1


OWN = "The noise has each sample's own mean and deviation per channel; abe.fit learns them from data"


def place(problem: Problem, layer: str, notes: list[str]) -> tuple[str, list[str]]:
    """The layer asked for, checked, or the one found; the input where none has positions."""
    if layer == INPUT:
        return INPUT, notes
    if layer == "auto":
        found = find_layer(problem)
        if found is not None:
            return found, notes
        what = "No layer with positions has everything pass through it, so the bottleneck is at the input"
        return INPUT, [*notes, note(Code.NO_LAYER, what)]
    layer = layer_name(problem.task.model, layer)
    return layer, [*notes, bypass_note(layer)] if bypassed(problem, layer) else notes


def readout(bits: Tensor, x: Tensor, layer: str) -> Tensor:
    """(b, *f) bits of a layer at the positions of the input; their sum stays the same.

    Raises:
        ModelError: the layer has no positions.
    """
    if layer == INPUT:
        return bits.to(x)
    if bits.ndim != x.ndim or x.ndim < 3:
        raise ModelError(
            Code.LAYER,
            f"The layer {layer!r} has no positions that belong to the input's",
            got=f"activations of shape {tuple(bits.shape[1:])} for inputs {tuple(x.shape[1:])}",
            expected="channels first, and as many axes of positions as the input",
            fix='Choose a convolution or a block of them, or layer="auto"',
        )
    summed = bits.sum(1, keepdim=True)
    share = summed[0].numel() / x[0, 0].numel()
    fine = stretch(summed, tuple(x.shape[2:])) * share
    # Linear interpolation does not keep the sum exactly; the bits are what the map promises.
    total, wanted = fine.flatten(1).sum(1), summed.flatten(1).sum(1)
    scale = torch.where(total > 0, wanted / total.clamp_min(1e-30), torch.ones_like(total))
    return spread(fine * scale.view(-1, *[1] * (fine.ndim - 1)), x)


@value
class InputBottleneck:
    """InputIBA: which of the input's values are needed, against a prior from a bottleneck deep inside.

    1. λ* of a `Bottleneck` at a layer. 2. Λ at the input, whose noisy inputs give that layer the
    activations that λ* lets through (in the mean). 3. λ at the input, with information counted against Λ.

    Args:
        inner: the bottleneck at the layer.
        beta: price of information at the input.
        samples: noise draws per step.
        prior_steps: steps for Λ.
        steps: steps for λ.
        rate: of Adam.
        sigma: of the smoothing over positions.
    """

    inner: Bottleneck = Bottleneck(beta=20.0)
    beta: Positive = 20.0
    samples: Count = 10
    prior_steps: Count = 10
    steps: Count = 60
    rate: Positive = 1.0
    sigma: Smoothing = 1.0

    def run(self, problem: Problem) -> Result:
        """λ at the input, per element."""
        layer, warnings = self.inner.place(problem)
        own = OwnStatistics()
        out, bits = torch.zeros_like(problem.x), problem.x.new_zeros(len(problem.x))
        for block, part in _blocks(problem):
            prior = self._prior(part, layer)
            cost = Information(statistics=own, weight=self.beta, prior=Weights({"prior": prior}))
            gate = self._optimise(part, self.steps, (cost,))
            mean, std, _ = own.of(part, INPUT)
            nats = capacity(gate, (part.x - mean) / std, prior.to(part.x))
            bits[block] = (nats.flatten(1).sum(1) / math.log(2)).to(bits)
            out[block] = gate
        return Result(out, warnings=warnings, diagnostics={"bits": bits})

    def _prior(self, part: Problem, layer: str) -> Tensor:
        """(b, *f) Λ; nothing is known beforehand where the bottleneck is at the input itself."""
        if layer == INPUT:
            return torch.zeros_like(part.x)
        inside = _inside(part, layer)
        gate, _ = self.inner.gate(inside, layer)
        mean, std, active = self.inner.statistics.of(inside, layer)
        goal = (gate * inside.x + (1 - gate) * mean) * active
        channels = inside.task.parts[0].channels or 1
        goal, std = (one.movedim(1, channels) for one in (goal, std.expand_as(goal)))
        match = _Match(layer, goal, std)
        return self._optimise(part.with_(objective=match, target=part.everyone), self.prior_steps, ())

    def _optimise(self, part: Problem, steps: int, penalties: tuple[Any, ...]) -> Tensor:
        engine = MaskOptimisation(
            parametrisation=Gate(sigma=self.sigma),
            perturbation=NoiseFor(statistics=OwnStatistics()),
            penalties=penalties,
            optimiser=AdamStep(rate=self.rate),
            keep=True,
            steps=steps,
            samples=self.samples,
            share=False,
        )
        return engine.optimise(part).mask[:, 0]


class _Match:
    """s = −mean ((h − goal) / σ)², how closely a layer has the wanted activations; target = sample."""

    reads_logits = False

    def __init__(self, layer: str, goal: Tensor, std: Tensor) -> None:
        self.layers = (layer,)
        self._goal, self._std = goal, std

    def __call__(self, outputs: Captured, target: Tensor) -> Tensor:
        gap = (outputs.layers[self.layers[0]] - self._goal[target]) / self._std[target]
        return -gap.square().flatten(1).mean(1)
