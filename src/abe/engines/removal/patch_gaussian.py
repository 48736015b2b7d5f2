"""Windows drawn from what surrounds them: a normal distribution of patches, conditioned on the rim."""

from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
from torch import Tensor

from abe.checks import Count, misfit, need_set
from abe.draws import mix
from abe.engines.removal.removals import Absent, Layout
from abe.engines.removal.segments import Windows
from abe.engines.runtime.problem import Problem
from abe.errors import Code, SpecError
from abe.registry import removals
from abe.spec import checked
from abe.types import Card, Rows

PATCHES = 4096
"""About as many patches are read to estimate the distribution."""


@removals.register(
    Card(
        name="patch_gaussian",
        title="Conditional patches",
        source="zintgraf2017, Sec. 3.1",
        formula="x_w | rim ~ N(μ_w + B (x_rim − μ_rim), C), fitted to patches of a window's size and its rim",
        features=("positions",),
        differs=("Without a background set the patches of the sample itself are the data.",),
        pitfalls=("Only near positions are seen; a window inside a large object is filled with the object.",),
    )
)
@dataclass(frozen=True, kw_only=True, eq=False)
@checked
class PatchGaussian:
    """Windows drawn from a normal distribution of patches given the positions around them.

    The covariance is shrunk towards a multiple of the identity by the share of its entries that the number of
    patches cannot tell. Draws are clipped to the task's bounds.

    Attributes:
        samples: (m, *f) background inputs in input space, or None for the sample's own patches.
        rim: width of the rim in positions; None is a quarter of the window, at least 1.
        draws: per window.
    """

    samples: Tensor | None = None
    rim: Count | None = None
    draws: Count = 10
    digest: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "digest", self._digest())

    def _digest(self) -> int:
        if self.samples is None:
            return 0
        need_set("A background set", self.samples)
        numbers = self.samples.detach().cpu().contiguous().view(-1).view(torch.uint8)
        return mix(str(tuple(self.samples.shape)), numbers.numpy().tobytes().hex())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PatchGaussian) and self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash(self._identity())

    def __spec__(self) -> dict[str, Any]:
        if self.samples is not None:
            return {"opaque": f"PatchGaussian(samples={tuple(self.samples.shape)}, sha={self.digest:016x})"}
        return {"type": "PatchGaussian", "rim": self.rim, "draws": self.draws}

    def _identity(self) -> tuple[int, int | None, int]:
        return self.digest, self.rim, self.draws

    def bind(self, problem: Problem, layout: Layout) -> "_Patches":
        """The patches of a batch, fitted when they are first needed."""
        if not isinstance(layout, Windows) or layout.flat:
            raise SpecError(
                Code.UNSUPPORTED,
                "Conditional patches fill windows of inputs with space",
                got="a flat input" if isinstance(layout, Windows) else "units",
                fix="Use another removal, such as 'replace'"
                if isinstance(layout, Windows)
                else "Use pdiff or occlusion_patch, or another removal",
            )
        samples = None
        if self.samples is not None:
            if self.samples.shape[1:] != problem.x.shape[1:]:
                raise misfit(self.samples, problem.x)
            samples = self.samples.to(problem.x)
        rim = max(1, layout.size[0] // 4) if self.rim is None else self.rim
        return _Patches(problem, layout, samples, rim, self.draws)


class _Patches:
    def __init__(
        self, problem: Problem, windows: Windows, samples: Tensor | None, rim: int, draws: int
    ) -> None:
        self.draws = draws
        self._problem, self._windows, self._samples, self._rim = problem, windows, samples, rim
        self._outer = tuple(min(s + 2 * rim, n) for s, n in zip(windows.size, windows.space, strict=True))
        self._normal: dict[int, tuple[Tensor, Tensor]] = {}
        self._rules: dict[tuple[Any, ...], tuple[Tensor, Tensor, Tensor, Tensor]] = {}

    def rows(self, absent: Absent) -> Rows:
        x = self._problem.x
        window = absent.window if absent.window is not None else torch.zeros_like(absent.owner)
        numbers = self._windows.starts.shape[0]
        keys = self._problem.keys(absent.owner, absent.draw * numbers + window)
        size = x.shape[1] * prod(self._windows.size)
        noise = self._problem.draws.normal("removal.patch", keys, (size,)).to(x.device, torch.float64)
        out = x[absent.owner].clone()
        for row, sample, number, draw in zip(out, absent.owner.tolist(), window.tolist(), noise, strict=True):
            self._fill(row, sample, number, draw)
        if self._problem.limits is None:
            return out
        low, high = self._problem.limits
        inside = torch.minimum(torch.maximum(out, low), high)
        return torch.where(absent.keep, out, inside)

    def _fill(self, row: Tensor, sample: int, window: int, noise: Tensor) -> None:
        inner = self._windows.slices(window)
        first = [
            min(max(where.start - self._rim, 0), n - o)
            for where, n, o in zip(inner, self._windows.space, self._outer, strict=True)
        ]
        outer = (slice(None), *(slice(a, a + o) for a, o in zip(first, self._outer, strict=True)))
        offset = tuple((w.start - a, w.stop - a) for w, a in zip(inner, first, strict=True))
        inside, rest, slope, root = self._rule(sample, offset)
        mean = self._fitted(sample)[0]
        patch = row[outer].double().flatten()
        centre = mean[inside] + slope @ (patch[rest] - mean[rest])
        filled = centre + root @ noise[: len(inside)]
        row[(slice(None), *inner)] = filled.to(row).view(row[(slice(None), *inner)].shape)

    def _rule(
        self, sample: int, offset: tuple[tuple[int, int], ...]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Places of window and rim in a patch, the regression of one on the other, the root of the rest."""
        key = (0 if self._samples is not None else sample, offset)
        if key not in self._rules:
            channels = self._problem.x.shape[1]
            taken = torch.zeros((channels, *self._outer), dtype=torch.bool)
            taken[(slice(None), *(slice(a, b) for a, b in offset))] = True
            inside, rest = taken.flatten().nonzero().flatten(), (~taken).flatten().nonzero().flatten()
            covariance = self._fitted(sample)[1]
            cross = covariance[inside][:, rest]
            slope = torch.linalg.solve(covariance[rest][:, rest], cross.T).T
            left = covariance[inside][:, inside] - slope @ cross.T
            spectrum, axes = torch.linalg.eigh((left + left.T) / 2)
            self._rules[key] = inside, rest, slope, axes * spectrum.clamp_min(0).sqrt()
        return self._rules[key]

    def _fitted(self, sample: int) -> tuple[Tensor, Tensor]:
        """Mean and covariance of patches."""
        key = 0 if self._samples is not None else sample
        if key not in self._normal:
            source = self._problem.x[sample : sample + 1] if self._samples is None else self._samples
            self._normal[key] = _moments(_patches(source, self._outer))
        return self._normal[key]


def _patches(source: Tensor, outer: tuple[int, ...]) -> Tensor:
    """(n, d) patches of all samples, evenly spread, in float64."""
    places = [n - o + 1 for n, o in zip(source.shape[2:], outer, strict=True)]
    step = max(1, round((len(source) * prod(places) / PATCHES) ** (1 / len(places))))
    cut = source.double()
    for axis, size in enumerate(outer):
        cut = cut.unfold(2 + axis, size, step)
    axes = len(outer)
    return cut.movedim(1, 1 + axes).flatten(0, axes).flatten(1)


def _moments(patches: Tensor) -> tuple[Tensor, Tensor]:
    n, d = patches.shape
    mean = patches.mean(0)
    centred = patches - mean
    covariance = centred.T @ centred / max(n - 1, 1)
    share = d / (n + d)  # entries that n patches cannot tell
    scale = covariance.diagonal().mean().clamp_min(1e-12)
    identity = torch.eye(d, dtype=covariance.dtype, device=covariance.device)
    return mean, (1 - share) * covariance + (share + 1e-6) * scale * identity
