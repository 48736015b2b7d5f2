"""Removals: what stands where a unit is absent. A reference, background samples, or what fits the rest.

A `Removal` is bound to a batch once; the bound form makes rows of a chunk. Draw number ``draw[i]`` picks one
of its ``draws`` completions, the same one for every coalition of a sample, so that differences between
coalitions do not carry the noise of their completions.
"""

from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from abe.checks import Count, check_count, misfit, need_set
from abe.draws import mix
from abe.engines.removal.segments import Segments, Windows
from abe.engines.runtime.problem import Problem
from abe.engines.runtime.reference import check_reference
from abe.errors import Code, InputError, SpecError
from abe.registry import baselines, removals
from abe.spec import resolved, value
from abe.types import Baseline, Card, Fed, Rows


class Absent(NamedTuple):
    """What is to be made for some rows.

    Attributes:
        owner: (n,) the sample of each row.
        draw: (n,) the number of its completion.
        keep: (n, 1 or c, *space) where the sample stays.
        coalition: (n, u) which units stay, or None where windows are removed.
        window: (n,) the number of the window that is removed, or None where units are.
    """

    owner: Tensor
    draw: Tensor
    keep: Tensor
    coalition: Tensor | None = None
    window: Tensor | None = None


Layout = Segments | Windows
"""What is removed: units that tile the input, or windows that may overlap."""


@runtime_checkable
class BoundRemoval(Protocol):
    """A removal of a batch."""

    @property
    def draws(self) -> int:
        """Completions per coalition."""
        ...

    def rows(self, absent: Absent) -> Rows | Fed:
        """(n, *f) the samples with the rest of each replaced, with other context where they need it."""
        ...


@runtime_checkable
class Removal(Protocol):
    """What replaces absent units or windows; `bind` fixes it to a batch and these."""

    def bind(self, problem: Problem, layout: Layout) -> BoundRemoval: ...


@removals.register(
    Card(
        name="replace",
        title="Replacement",
        source="covert2021",
        example={"baseline": "zero"},
        pitfalls=("Rows with parts replaced are no inputs the model was trained on.",),
    )
)
@value
class Replace:
    """Absent units show a reference input; averaged over draws of one that is random.

    Args:
        samples: draws per coalition where the baseline is random.
    """

    baseline: Baseline = resolved(converter=baselines.resolve, default="zero")
    samples: Count = 20

    def bind(self, problem: Problem, layout: Layout) -> BoundRemoval:
        baseline = self.baseline
        if baseline.stochastic:
            return _Drawn(problem, baseline, self.samples)
        everyone = problem.everyone
        reference = problem.reference(baseline, everyone, torch.zeros_like(everyone))
        return _Fixed(problem.x, check_reference(reference, problem.x))


@removals.register(
    Card(
        name="segment_mean",
        title="Mean of the unit",
        source="ribeiro2016",
        pitfalls=("A unit of one colour is not removed at all.",),
    )
)
@value
class SegmentMean:
    """Absent units are filled with their own mean, channel by channel.

    LIME for images does so.
    """

    def bind(self, problem: Problem, layout: Layout) -> BoundRemoval:
        if not isinstance(layout, Segments):
            raise _needs_units("segment_mean")
        return _Fixed(problem.x, _own_means(problem.x, layout))


@dataclass(frozen=True, kw_only=True, eq=False)
class _Background:
    """A background set by its content."""

    samples: Tensor
    digest: int = field(init=False)

    def __post_init__(self) -> None:
        need_set(
            "A background set",
            self.samples,
            fix="For a single reference input pass it as a baseline, for example removal=('replace', …)",
        )
        if not self.samples.is_floating_point() or not bool(torch.isfinite(self.samples).all()):
            raise InputError(
                Code.BASELINE_SHAPE,
                "A background set holds finite floating-point numbers",
                got=str(self.samples.dtype),
                fix="Convert to the task's units first, for example x.float() / 255",
            )
        numbers = self.samples.detach().cpu().contiguous().view(-1).view(torch.uint8)
        digest = mix(str(tuple(self.samples.shape)), numbers.numpy().tobytes().hex())
        object.__setattr__(self, "digest", digest)

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other.digest == self.digest  # type: ignore[attr-defined]

    def __hash__(self) -> int:
        return self.digest

    def __repr__(self) -> str:
        return f"{type(self).__name__}(samples={tuple(self.samples.shape)}, sha={self.digest:016x})"

    def __spec__(self) -> dict[str, str]:
        return {"opaque": repr(self)}

    def fitted(self, x: Tensor) -> Tensor:
        """(m, *f) the samples in the shape of the inputs."""
        try:
            return self.samples.to(x).expand(len(self.samples), *x.shape[1:])
        except RuntimeError:
            raise misfit(self.samples, x) from None


@removals.register(
    Card(
        name="marginal",
        title="Marginal distribution",
        source="covert2021",
        formula="v(S) = E f(x_S, b), b running through a background set",
        example={"samples": torch.tensor([0.25, 0.75]).view(2, 1, 1, 1)},
        pitfalls=("Units of two samples together may look like no input at all.",),
    )
)
@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Marginal(_Background):
    """Absent units come from every sample of a background set in turn.

    Attributes:
        samples: (m, *f) background inputs in input space, at least two; broadcast against the input's axes.
    """

    def bind(self, problem: Problem, layout: Layout) -> BoundRemoval:
        return _Listed(problem.x, self.fitted(problem.x))


@removals.register(
    Card(
        name="conditional",
        title="Conditional distribution by neighbours",
        source="covert2021",
        formula="v(S) = E f(x_S, b), b among the nearest background samples in L2 over the units of S",
        example={"samples": torch.tensor([0.25, 0.5, 0.75]).view(3, 1, 1, 1), "nearest": 2},
        pitfalls=("With few background samples the nearest is not near.",),
    )
)
@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Conditional(_Background):
    """Absent units come from the background samples that are most like the input where it stays.

    Attributes:
        samples: (m, *f) background inputs in input space, at least two.
        nearest: how many of them complete a coalition.
    """

    nearest: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("nearest", self.nearest)
        object.__setattr__(self, "nearest", min(self.nearest, len(self.samples)))

    def bind(self, problem: Problem, layout: Layout) -> BoundRemoval:
        if not isinstance(layout, Segments):
            raise _needs_units("conditional")
        return _Nearest(problem.x, self.fitted(problem.x), layout, self.nearest)


class _Fixed:
    """One reference per sample."""

    draws = 1

    def __init__(self, x: Tensor, reference: Tensor) -> None:
        self._x, self._reference = x, reference

    def rows(self, absent: Absent) -> Tensor:
        return torch.where(absent.keep, self._x[absent.owner], self._reference[absent.owner])


class _Drawn:
    """A random baseline, drawn per sample and number."""

    def __init__(self, problem: Problem, baseline: Baseline, samples: int) -> None:
        self.draws, self._problem, self._baseline = samples, problem, baseline

    def rows(self, absent: Absent) -> Tensor:
        x = self._problem.x[absent.owner]
        reference = self._problem.reference(self._baseline, absent.owner, absent.draw).to(x)
        return torch.where(absent.keep, x, reference)


class _Listed:
    """Every background sample in turn."""

    def __init__(self, x: Tensor, samples: Tensor) -> None:
        self.draws, self._x, self._samples = len(samples), x, samples

    def rows(self, absent: Absent) -> Tensor:
        return torch.where(absent.keep, self._x[absent.owner], self._samples[absent.draw])


class _Nearest:
    """The background samples nearest to the input on the units that stay."""

    def __init__(self, x: Tensor, samples: Tensor, segments: Segments, nearest: int) -> None:
        self.draws, self._x, self._samples = nearest, x, samples
        self._distances = torch.stack([self._by_unit(x, b, segments) for b in samples], dim=2)

    def rows(self, absent: Absent) -> Tensor:
        if absent.coalition is None:
            raise _needs_units("conditional")
        kept = absent.coalition.to(self._distances)[:, None]
        far = (kept @ self._distances[absent.owner])[:, 0]
        order = far.argsort(dim=1, stable=True)
        chosen = order.gather(1, absent.draw[:, None])[:, 0]
        return torch.where(absent.keep, self._x[absent.owner], self._samples[chosen])

    @staticmethod
    def _by_unit(x: Tensor, sample: Tensor, segments: Segments) -> Tensor:
        """(b, u) squared distance to one background sample over each unit."""
        sums = segments.sums((x - sample).square())
        out = torch.zeros((len(x), segments.most), dtype=torch.float64, device=x.device)
        for row, own in zip(out, sums, strict=True):
            row[: len(own)] = own
        return out


def _own_means(x: Tensor, segments: Segments) -> Float[Tensor, "b *f"]:
    """Every unit filled with its mean over the positions of each channel."""
    out = torch.empty_like(x)
    for sample, one in enumerate(x):
        flat = one.flatten(1) if one.ndim > 1 else one[:, None]
        labels = segments.labels[sample].expand(one.shape).reshape(flat.shape)
        count = segments.counts[sample]
        for channel, (numbers, where) in enumerate(zip(flat, labels, strict=True)):
            inside, place = where >= 0, where.clamp_min(0)
            total = numbers.double().new_zeros(count).index_add_(0, place, numbers.double() * inside)
            mean = total / torch.bincount(where[inside], minlength=count).clamp_min(1)
            out[sample].view(flat.shape)[channel] = torch.where(inside, mean.to(x)[place], numbers)
    return out


def _needs_units(name: str) -> SpecError:
    return SpecError(
        Code.UNSUPPORTED,
        f"The removal {name!r} works on whole units",
        got="windows",
        fix="Choose units=… instead of windows, or another removal",
    )
