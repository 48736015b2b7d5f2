"""Reference inputs, in input space (before the task's normalisation).

A baseline's `rows` gives the reference of sample ``owner[i]`` for draw number ``draw[i]``; it
reads the problem's inputs, bounds, draws and evaluator and nothing else.
"""

from collections.abc import Hashable
from dataclasses import dataclass, field
from math import isfinite, log
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor

from abe.baselines.fitting import (
    bounds_of,
    by_part,
    check_finite,
    convolve,
    digest_of,
    fit,
    outline,
    packed,
    per_channel,
    tile,
)
from abe.checks import Count, NotNegative, Odd, Positive, plain, refused
from abe.engines.layers.at_layer import AtInput
from abe.engines.runtime.fused_copy import fingerprint
from abe.errors import Code, InputError, SpecError
from abe.imputation import NoisyLinear as NoisyLinear
from abe.objectives import LabelAgnostic
from abe.registry import baselines
from abe.spec import value
from abe.task.outputs import OF_LABELS
from abe.types import Baseline, Card, Problem, RowIndex, Rows


@baselines.register(
    Card(
        name="zero",
        title="Zero",
        source="sundararajan2017",
        pitfalls=("Black is a feature like any other; a dark object is removed by nothing.",),
    )
)
@value
class Zero:
    """Zero in input space: black where bounds start at 0, whatever the normalisation."""

    @property
    def stochastic(self) -> bool:
        return False

    def rows(self, problem: Problem, owner: RowIndex, draw: RowIndex) -> Rows:
        return torch.zeros_like(problem.x[owner])


@baselines.register(
    Card(
        name="constant",
        title="Constant",
        source="sturmfels2020",
        example={"value": 0.5},
    )
)
@value
class Constant:
    """One value everywhere, or one per channel.

    Args:
        value: a number, or a tuple with one number per channel, in input units.
    """

    value: float | tuple[float, ...] = 0.0

    def __post_init__(self) -> None:
        if self.value == ():
            raise refused("value", "is one number, or one per channel", ())

    @property
    def stochastic(self) -> bool:
        return False

    def rows(self, problem: Problem, owner: RowIndex, draw: RowIndex) -> Rows:
        numbers = self.value if isinstance(self.value, tuple) else (float(self.value),)
        return tile(problem.x.new_tensor(numbers), problem.x)[None].expand(len(owner), *problem.x.shape[1:])


@baselines.register(
    Card(
        name="mean",
        title="Mean",
        source="samek2017",
    )
)
@value
class Mean:
    """The sample's own mean over space or time, per channel, without what is fixed, such as padding."""

    @property
    def stochastic(self) -> bool:
        return False

    def rows(self, problem: Problem, owner: RowIndex, draw: RowIndex) -> Rows:
        if packed(problem):
            return by_part(problem, {part.name: self for part in problem.task.parts}, owner, draw)
        x = problem.x[owner]
        axes = tuple(range(2, x.ndim)) if x.ndim > 2 else (1,)
        fixed: Tensor | None = getattr(problem, "fixed", None)
        if fixed is None:
            return x.mean(dim=axes, keepdim=True).expand_as(x)
        counts = (~fixed[owner].to(x.device)).expand_as(x).to(x)
        total = counts.sum(dim=axes, keepdim=True).clamp_min(1)
        return ((x * counts).sum(dim=axes, keepdim=True) / total).expand_as(x)


@baselines.register(
    Card(
        name="blur",
        title="Blur",
        source="petsiuk2018",
        differs=("The border is continued; RISE's code pads with zeros, which darkens it.",),
        pitfalls=("Low frequencies stay, so a smooth object is hardly removed.",),
    )
)
@value
class Blur:
    """The sample blurred by a truncated Gaussian (RISE's defaults: kernel 11, sigma 5).

    Args:
        sigma: standard deviation in positions.
        kernel: odd width of the kernel in positions.
    """

    sigma: Positive = 5.0
    kernel: Odd = 11

    @property
    def stochastic(self) -> bool:
        return False

    def rows(self, problem: Problem, owner: RowIndex, draw: RowIndex) -> Rows:
        x = problem.x[owner]
        if x.ndim < 3:
            raise SpecError(
                Code.UNSUPPORTED,
                "A blur needs neighbouring positions",
                got=f"inputs of shape {tuple(x.shape[1:])}",
                expected="channels and at least one axis of positions",
                fix='Choose baseline="zero", "mean" or "dataset"',
            )
        half = self.kernel // 2
        at = torch.arange(-half, half + 1, device=x.device, dtype=x.dtype)
        weights = torch.exp(-(at**2) / (2 * self.sigma**2))
        for axis in range(2, x.ndim):
            x = convolve(x, weights / weights.sum(), axis)
        return x


@baselines.register(
    Card(
        name="uniform",
        title="Uniform noise",
        source="sturmfels2020",
    )
)
@value
class Uniform:
    """Every element drawn uniformly within the task's bounds.

    At a layer, the activation there of an input that is drawn so.
    """

    @property
    def stochastic(self) -> bool:
        return True

    def rows(self, problem: Problem, owner: RowIndex, draw: RowIndex) -> Rows:
        if problem.task.beneath is not None:
            return AtInput(baseline=self).rows(problem, owner, draw)
        if packed(problem):
            return by_part(problem, {part.name: self for part in problem.task.parts}, owner, draw)
        low, high = bounds_of(problem, "uniform")
        shape = problem.x.shape[1:]
        u = problem.draws.uniform("baseline.uniform", problem.keys(owner, draw), shape).to(problem.x)
        return low + u * (high - low)


@baselines.register(
    Card(
        name="noise",
        title="Gaussian noise",
        source="sturmfels2020",
    )
)
@value
class Noise:
    """The sample plus Gaussian noise, kept in bounds.

    Args:
        sigma: standard deviation as a fraction of the bounds' range (of 1 without bounds).
    """

    sigma: NotNegative = 0.5

    @property
    def stochastic(self) -> bool:
        return True

    def rows(self, problem: Problem, owner: RowIndex, draw: RowIndex) -> Rows:
        if packed(problem):
            return by_part(problem, {part.name: self for part in problem.task.parts}, owner, draw)
        x = problem.x[owner]
        noise = problem.draws.normal("baseline.noise", problem.keys(owner, draw), x.shape[1:]).to(x)
        if problem.bounds is None:
            return x + self.sigma * noise
        low, high = bounds_of(problem, "noise")
        return torch.minimum(torch.maximum(x + self.sigma * (high - low) * noise, low), high)


@baselines.register(
    Card(
        name="dataset",
        title="Data-set sample",
        source="erion2021",
        example={"samples": torch.tensor(0.5).expand(2, 1, 1, 1)},
    )
)
@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """A sample drawn, with replacement, from a background set.

    Holds a tensor, so a specification only describes it (by shape and content hash).

    Attributes:
        samples: (m, *f) background inputs in input space; broadcast against the input's axes.
        digest: of their content.
    """

    samples: Tensor
    digest: int = field(init=False)

    def __post_init__(self) -> None:
        if not isinstance(self.samples, Tensor) or self.samples.ndim < 2 or len(self.samples) == 0:
            raise InputError(
                Code.BASELINE_SHAPE,
                "A background set is a tensor with the sample axis first",
                got=outline(self.samples),
                expected="(m, *features) with m ≥ 1",
            )
        check_finite(self.samples)
        object.__setattr__(self, "digest", digest_of(self.samples))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Dataset) and other.digest == self.digest

    def __hash__(self) -> int:
        return self.digest

    def __repr__(self) -> str:
        return f"Dataset(samples={tuple(self.samples.shape)}, sha={self.digest:016x})"

    def __spec__(self) -> dict[str, str]:
        return {"opaque": repr(self)}

    @property
    def stochastic(self) -> bool:
        return len(self.samples) > 1

    def rows(self, problem: Problem, owner: RowIndex, draw: RowIndex) -> Rows:
        keys = problem.keys(owner, draw)
        chosen = problem.draws.integers("baseline.dataset", keys, len(self.samples), (1,))[:, 0]
        return self.ordered(problem, owner, chosen)

    def ordered(self, problem: Problem, owner: RowIndex, number: RowIndex) -> Rows:
        """(n, *f) samples by their number, from the first again behind the last."""
        chosen = number.to(self.samples.device) % len(self.samples)
        return fit(self.samples[chosen], problem.x[owner])

    def count(self, problem: Problem) -> int:
        """How many samples there are."""
        return len(self.samples)


@dataclass(frozen=True, kw_only=True, eq=False)
class Given:
    """Reference inputs handed over as a tensor: one for all samples, or one per sample.

    Args:
        reference: (1, *f), (b, *f) or (*f,), in input space.
    """

    reference: Tensor
    digest: int = field(init=False)

    def __post_init__(self) -> None:
        check_finite(self.reference)
        object.__setattr__(self, "digest", digest_of(self.reference))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Given) and other.digest == self.digest

    def __hash__(self) -> int:
        return self.digest

    def __repr__(self) -> str:
        return f"Given(reference={tuple(self.reference.shape)}, sha={self.digest:016x})"

    def __spec__(self) -> dict[str, str]:
        return {"opaque": repr(self)}

    @property
    def stochastic(self) -> bool:
        return False

    def rows(self, problem: Problem, owner: RowIndex, draw: RowIndex) -> Rows:
        x = problem.x
        reference = self.reference if self.reference.ndim == x.ndim else self.reference[None]
        place, count = problem.among(owner)
        if len(reference) not in (1, count):
            raise InputError(
                Code.BASELINE_SHAPE,
                "There must be one reference for all samples or one for each",
                got=f"{len(reference)} for {count} samples",
            )
        place = place.to(reference.device)
        # the input's rows are not needed, only their shape: a sample may own more rows than there are samples
        like = x[:1].expand(len(owner), *x.shape[1:])
        return fit(reference[place if len(reference) == count else torch.zeros_like(place)], like)


@dataclass(frozen=True)
class ConfusionFeature:
    """What `Confusion` found.

    Attributes:
        values: (c,) one value per channel.
        confusion: entropy of the prediction there over ln C; 1 is a uniform prediction.
    """

    values: Float[Tensor, "c"]
    confusion: float


@baselines.register(
    Card(
        name="confusion",
        title="Confusion feature (CFA)",
        source="laai, Eqs. 3-4, Algorithm 1",
        differs=(
            "Ascends Σ log P: Eq. 4's minus descends it, and the entropy falls.",
            "The first start is the colour the network sees as zero; the others are uniform, as printed.",
            "All starts run in one batch and the best iterate of all is kept, not the last.",
            "The step shrinks linearly; the paper names no step, starts or iterations.",
        ),
        pitfalls=("A model may be decided about every plain colour; look at H / ln C.",),
    ),
    aliases=("cfa",),
)
@value
class Confusion:
    """The one colour that leaves the model least decided: highest entropy of the prediction.

    v^{t+1} = clip(v^t + α_t sign(∂ Σ_j log P_j(tile(v^t)) / ∂v)), α_t = step · (1 − t / steps). The first
    start is the colour that normalisation turns into zero (the middle of the bounds without one), because
    the least decided greys can be a ridge there that uniform starts miss. The others are uniform. The
    iterate of highest entropy over all starts and steps is kept. It depends on model, bounds and seed
    only, never on the samples, and is remembered per task. At a layer it is the activation there of that
    colour.

    Args:
        starts: number of starts, run as one batch.
        steps: iterates per start.
        step: first step as a fraction of the bounds' range.

    Cost:
        starts · steps forward and backward rows, once per task and seed (once per sample for a model with
        further inputs, because the prediction depends on them).
    """

    starts: Count = 8
    steps: Count = 10
    step: Positive = 0.1

    @property
    def stochastic(self) -> bool:
        return False

    def rows(self, problem: Problem, owner: RowIndex, draw: RowIndex) -> Rows:
        if problem.task.beneath is not None:
            return AtInput(baseline=self).rows(problem, owner, draw)
        reads = problem.context.values or problem.task.reads or problem.task.output_kind in OF_LABELS
        samples = sorted(set(owner.tolist())) if reads else [0]
        found = {s: tile(self.feature(problem, sample=s).values, problem.x) for s in samples}
        return torch.stack([found[s if reads else 0] for s in owner.tolist()])

    def feature(self, problem: Problem, *, sample: int = 0) -> ConfusionFeature:
        """The feature of the problem's model, from memory where it was found before."""
        memory = _FOUND.setdefault(problem.task, {})
        key = self._key(problem, sample)
        if key is None:
            return self._search(problem, sample)
        if key not in memory:
            memory[key] = self._search(problem, sample)
        return memory[key]

    def remembered(self, problem: Problem) -> ConfusionFeature | None:
        """The feature if it was found before; nothing is searched."""
        return _FOUND.get(problem.task, {}).get(self._key(problem, 0))

    def _key(self, problem: Problem, sample: int) -> Hashable | None:
        """What the feature depends on; None where it cannot be remembered."""
        if problem.context.values or problem.task.reads or not isinstance(problem.draws, Hashable):
            return None
        x = problem.x
        bounds = tuple(digest_of(bound) for bound in bounds_of(problem, "confusion"))
        model = fingerprint(problem.task.model)
        asked: Any = problem  # only labels of their own have a feature each
        label = int(asked.target[sample]) if problem.task.output_kind in OF_LABELS else None
        return (self, problem.draws, tuple(x.shape[1:]), x.dtype, x.device, bounds, model, label)

    def _search(self, problem: Problem, sample: int) -> ConfusionFeature:
        low, high = (per_channel(bound) for bound in bounds_of(problem, "confusion"))
        keys = [(0, start) for start in range(self.starts)]
        u = problem.draws.uniform("baseline.confusion", keys, low.shape).to(problem.x)
        values = low + u * (high - low)
        values[0] = self._neutral(problem, low, high)
        best = ConfusionFeature(values[0], -1.0)
        for t in range(self.steps):
            entropy, slope = self._look(problem, sample, values)
            top = int(entropy.argmax())
            if float(entropy[top]) > best.confusion:
                best = ConfusionFeature(values[top].clone(), float(entropy[top]))
            # the score is KL(U‖P) = −(1/C) Σ log P_j − ln C, so descending it ascends Σ log P_j
            size = self.step * (1 - t / self.steps) * (high - low)
            values = torch.minimum(torch.maximum(values - size * slope.sign(), low), high)
        return best

    def _neutral(self, problem: Problem, low: Tensor, high: Tensor) -> Tensor:
        """(c,) the colour that the task's normalisation turns into zero, or the middle of the bounds."""
        mean = problem.task.mean
        if mean is None:
            return (low + high) / 2
        colour = per_channel(mean.to(problem.x).expand(1, *problem.x.shape[1:])[0])
        return torch.minimum(torch.maximum(colour, low), high)

    def _look(self, problem: Problem, sample: int, values: Tensor) -> tuple[Tensor, Tensor]:
        """(starts,) H / ln C and (starts, c) slope of KL(U‖P) at the tiled values."""
        entropy, slope = values.new_empty(len(values)), torch.empty_like(values)

        def make(rows: Tensor) -> Tensor:
            return torch.stack([tile(v, problem.x) for v in values[rows]])

        asked: Any = problem
        owner = torch.full((len(values),), sample, dtype=torch.long, device=values.device)
        for chunk in problem.with_(objective=LabelAgnostic()).gradient(make, owner):
            log_p, _ = problem.task.chances(chunk.outputs, asked.target[chunk.owner])
            entropy[chunk.rows] = (-(log_p.exp() * log_p).sum(1) / log(log_p.shape[1])).to(entropy)
            gradient = chunk.gradients
            slope[chunk.rows] = gradient.flatten(2).sum(2) if gradient.ndim > 2 else gradient
        return entropy, slope


_FOUND: "WeakKeyDictionary[Any, dict[Hashable, ConfusionFeature]]" = WeakKeyDictionary()


from abe.baselines.background import Background as Background  # noqa: E402 -- registered after the above
from abe.baselines.background import BackgroundRows as BackgroundRows  # noqa: E402
from abe.baselines.parts import EachPart as EachPart  # noqa: E402 -- registered after the above
from abe.baselines.parts import ScaledZero as ScaledZero  # noqa: E402 -- the same
from abe.baselines.tokens import ReferenceToken as ReferenceToken  # noqa: E402 -- registered after the above


def as_baseline(obj: Any) -> Baseline:
    """A baseline from a name, a (name, parameters) pair, a number, a tensor, or a baseline.

    Raises:
        SpecError: it is none of these, or no baseline has that name.
        InputError: a tensor that cannot be a reference.
    """
    if isinstance(obj, Tensor) and obj.ndim:
        return Given(reference=obj)
    number = plain(obj)
    if isinstance(number, int | float) and not isinstance(number, bool):
        if not isfinite(number):
            raise InputError(Code.NOT_FINITE_INPUT, "The baseline is not a finite number", got=repr(obj))
        return Constant(value=float(number))
    found = baselines.resolve(obj)
    if isinstance(found, Baseline) and not isinstance(found, type):
        return found
    raise SpecError(
        Code.UNKNOWN_NAME,
        "This is not a baseline",
        got=type(obj).__name__,
        expected=f"one of {', '.join(baselines.names())}, a number, a tensor, or a baseline value",
    )
