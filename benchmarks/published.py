"""The published procedures of the adversarial methods: one sample, one run and one row at a time.

Written from the formulas, in the form that the authors' code has: plain model, a fresh forward pass wherever
it takes one, gradients by the input alone (their code also computes those of the weights). Every loop takes
the model as ``f`` (1, c, h, w) -> (1, C), one sample ``x`` (1, c, h, w) in [0, 1] and its class ``c``.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from abe.draws import SeededDraws
from abe.engines.path.boundary import RADII
from abe.robustness.transforms import cosines

Net = Callable[[Tensor], Tensor]


@dataclass
class Random:
    """Draws: from a generator, as published code draws, or those of our own run to compare maps."""

    sample: int | None = None
    draws: SeededDraws = field(default_factory=SeededDraws)
    generator: torch.Generator = field(default_factory=lambda: torch.Generator().manual_seed(0))

    def normal(self, purpose: str, number: int, shape: Sequence[int]) -> Tensor:
        """Standard normal numbers."""
        if self.sample is None:
            return torch.randn(tuple(shape), generator=self.generator)
        return self.draws.normal(purpose, [(self.sample, number)], shape)[0]

    def uniform(self, purpose: str, number: int, shape: Sequence[int]) -> Tensor:
        """Uniform numbers on [0, 1)."""
        if self.sample is None:
            return torch.rand(tuple(shape), generator=self.generator)
        return self.draws.uniform(purpose, [(self.sample, number)], shape)[0]


def agi(
    f: Net, x: Tensor, c: int, random: Random, *, classes: Sequence[int], steps: int, alpha: float
) -> Tensor:
    """Per class: until it is predicted, x ← clip(x₀ + ε sign ∇p_i(x)); Σ −∇p_c ⊙ (x − x₀)."""
    total = torch.zeros_like(x)
    for goal in classes:
        point = x
        for _ in range(steps):
            leaf, p = _probabilities(f, point)
            if int(p.argmax()) == goal:
                break
            way = torch.autograd.grad(p[0, goal], leaf, retain_graph=True)[0]
            slope = torch.autograd.grad(p[0, c], leaf)[0]
            point = (x + alpha * way.sign()).clamp(0, 1)
            total -= slope * (point - x)
    return total


def la(f: Net, x: Tensor, c: int, random: Random, *, classes: Sequence[int], steps: int) -> Tensor:
    """AGI with steps of x/10 and without an early stop, and one run away from the class."""
    total, size = torch.zeros_like(x), x / 10
    for goal in [*classes, None]:
        point = x
        for _ in range(steps):
            leaf, p = _probabilities(f, point)
            if goal is None:
                slope = torch.autograd.grad(p[0, c], leaf)[0]
                way = -slope
            else:
                way = torch.autograd.grad(p[0, goal], leaf, retain_graph=True)[0]
                slope = torch.autograd.grad(p[0, c], leaf)[0]
            point = (x + size * way.sign()).clamp(0, 1)
            total -= slope * (point - x)
    return total


def laai(f: Net, x: Tensor, c: int, random: Random, *, classes: Sequence[int], steps: int) -> Tensor:
    """Algorithm 2 in the orientation of Eq. 5: 1/(C M) Σ Δx ⊙ ∇ Σ_j log p_j along targeted runs."""
    total, count = torch.zeros_like(x), 1
    for goal in classes:
        point = x
        for _ in range(steps):
            leaf = point.detach().requires_grad_(True)
            log = f(leaf).log_softmax(1)
            count = log.shape[1]
            way = torch.autograd.grad(log[0, goal], leaf, retain_graph=True)[0]
            slope = torch.autograd.grad(log.sum(), leaf)[0]
            moved = (point + way.sign() / 255).clamp(0, 1)
            total += (moved - point) * slope
            point = moved
    return total / (count * len(classes))


def mfaba(f: Net, x: Tensor, c: int, random: Random, *, steps: int, alpha: float, epsilon: float) -> Tensor:
    """Signed descent of p_c with summed gradients until the class flips, then Σ −Δx ⊙ (sum so far)."""
    points, slopes, total = [x], [], torch.zeros_like(x)
    for _ in range(steps):
        leaf, p = _probabilities(f, points[-1])
        total = total + torch.autograd.grad(p[0, c], leaf)[0]
        slopes.append(total)
        change = (points[-1] - alpha * total.sign() - x).clamp(-epsilon, epsilon)
        points.append((x + change).clamp(0, 1))
        with torch.no_grad():
            if int(f(points[-1]).argmax()) != c:
                break
    leaf, p = _probabilities(f, points[-1])
    torch.autograd.grad(p[0, c], leaf)  # the last gradient is computed and not used
    changes = [a - b for a, b in pairwise(points)]
    return torch.stack([change * g for change, g in zip(changes, slopes, strict=True)]).sum(0)


def attexplore(f: Net, x: Tensor, c: int, random: Random, *, samples: int, steps: int) -> Tensor:
    """Σ −Δx ⊙ m: a descent along the momentum m of the smoothed mean gradient of spectrum copies."""
    epsilon, momentum, total = 16 / 255, torch.zeros_like(x), torch.zeros_like(x)
    at = torch.exp(-0.5 * torch.linspace(-3, 3, 7, dtype=torch.float64).square())
    kernel = (torch.outer(at, at) / at.sum() ** 2).to(x).expand(x.shape[1], 1, 7, 7)
    f(x)
    point = x
    for step in range(steps + 1):
        mean = torch.zeros_like(x)
        for n in range(samples):
            mean += _copy_gradient(f, point, c, random, step * samples + n) / samples
        if step == steps:  # the published code explores the last point too
            break
        smooth = F.conv2d(mean, kernel, padding=3, groups=x.shape[1])
        momentum = momentum + smooth / smooth.abs().mean()
        moved = (x + (point - epsilon / steps * momentum.sign() - x).clamp(-epsilon, epsilon)).clamp(0, 1)
        total -= (moved - point) * momentum
        point = moved
    return total


def isa(f: Net, x: Tensor, c: int, random: Random, *, steps: int, rounds: int) -> Tensor:
    """Rounds of ascents and descents; the elements with the lowest score leave."""
    mask, rank = torch.ones_like(x), torch.zeros_like(x)
    remove = x.numel() // rounds
    for number in range(rounds):
        ways = []
        for sign in (1, -1):
            point, way, losses = x * mask, torch.zeros_like(x), []
            for step in range(steps):
                draw = 2 * steps * number + step + (steps if sign < 0 else 0)
                noise = random.normal("isa.noise", draw, x.shape[1:]).to(x)
                leaf = point.detach().requires_grad_(True)
                loss = F.cross_entropy(f(leaf + 0.05 * noise), torch.tensor([c])) - sign * 0.01 * leaf.norm()
                slope = torch.autograd.grad(loss, leaf)[0] * (1 if sign > 0 else mask)
                losses.append(float(loss.detach()))
                point = (leaf + sign * 0.004 * slope.sign()).detach()
                way = way + 0.004 * slope.abs()
            ways.append(way / (sign * (losses[-1] - losses[0])))
        whole = ways[0] + ways[1]
        score = ((whole + whole.min()) * x).abs().masked_fill(mask == 0, torch.inf).flatten()
        chosen = score.argsort(stable=True)[:remove]
        rest = score[chosen] - score[chosen].min()
        rank.view(-1)[chosen] = number + 1.3 * rest / (rest.max() + 1e-6)
        mask.view(-1)[chosen] = 0
    return rank


def big(f: Net, x: Tensor, c: int, random: Random, *, steps: int, nodes: int = 10) -> Tensor:
    """L2-PGD of growing radius until the class flips, then IG by trapezoid from the point found."""
    point = _adversary(f, x, c, random, steps)
    total = torch.zeros_like(x)
    for k in range(nodes):
        leaf = (point + k / (nodes - 1) * (x - point)).detach().requires_grad_(True)
        slope = torch.autograd.grad(f(leaf)[0, c], leaf)[0]
        total += slope * (0.5 if k in (0, nodes - 1) else 1.0) / nodes
    return (x - point) * total


def _adversary(f: Net, x: Tensor, c: int, random: Random, steps: int) -> Tensor:
    point = x
    for number, radius in enumerate(RADII):
        way = random.normal("boundary.start", number, x.shape[1:]).to(x)[None]
        share = random.uniform("boundary.radius", number, ()).to(x)
        point = (x + way / way.norm() * (radius * share ** (1 / x.numel()))).clamp(0, 1)
        for _ in range(steps):
            leaf = point.detach().requires_grad_(True)
            out = f(leaf)
            slope = torch.autograd.grad(-F.cross_entropy(out, torch.tensor([c])), leaf)[0]
            if int(out.argmax()) != c:
                return point
            change = point - 2 * radius**2 / steps * slope / slope.norm() - x
            point = (x + change * (radius / change.norm()).clamp_max(1.0)).clamp(0, 1)
        with torch.no_grad():
            if int(f(point).argmax()) != c:
                return point
    return point


def _probabilities(f: Net, x: Tensor) -> tuple[Tensor, Tensor]:
    leaf = x.detach().requires_grad_(True)
    return leaf, f(leaf).softmax(1)


def _copy_gradient(f: Net, point: Tensor, c: int, random: Random, number: int) -> Tensor:
    """∇ of the cross-entropy at one spectrum copy, passed through a random enlargement."""
    shape = point.shape[1:]
    noise = random.normal("spectrum.noise", number, shape).to(point)
    scale = random.uniform("spectrum.scale", number, shape).to(point) + 0.5
    rows, columns = (cosines(n, point.dtype).to(point) for n in shape[-2:])
    spectrum = rows @ (point + 16 / 255 * noise) @ columns.T
    z = (rows.T @ (spectrum * scale) @ columns).detach().requires_grad_(True)
    loss = F.cross_entropy(f(_enlarged(z, random, number)), torch.tensor([c]))
    return torch.autograd.grad(loss, z)[0]


def _enlarged(z: Tensor, random: Random, number: int) -> Tensor:
    size, top, left, coin = random.uniform("spectrum.enlarge", number, (4,)).tolist()
    if coin >= 0.5:
        return z
    side = z.shape[-1]
    outer = int(side * 1.15)
    inner = side + int(size * (outer - side))
    y, w = int(top * (outer - inner)), int(left * (outer - inner))
    moved = F.interpolate(z, size=(inner, inner), mode="bilinear", align_corners=False)
    return F.pad(moved, (w, outer - inner - w, y, outer - inner - y))
