"""SAGE: Shapley values of the loss over a data set, by orders of units until they have converged."""

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from abe.checks import Count, Probability, need_set
from abe.draws import mix
from abe.engines.layers.at_layer import about, input_of
from abe.engines.removal.game import probability_of, too_few
from abe.engines.removal.removals import Absent
from abe.engines.removal.segments import (
    Spread,
    segments_of,
)
from abe.engines.runtime.problem import Problem
from abe.errors import Code, InputError, SpecError, note
from abe.registry import removals, units
from abe.spec import checked, resolved
from abe.types import Result
from abe.units import settled

ROUND = 32
"""Orders between two looks at the convergence."""


@dataclass(frozen=True, kw_only=True, eq=False)
@checked
class DataSetShapley:
    """φ_i = Shapley value of v(S) = E_{(x, y)} log E_b p_y(x_S, b): what unit i gains over a data set.

    It is global: the same map for every sample, and it does not depend on the samples that are explained.

    Attributes:
        data: (m, *f) inputs in input space, also at a layer.
        labels: (m,) classes; None takes the model's own predictions.
        units: what is removed together; the same units for every input.
        removal: what replaces absent units.
        evaluations: most rows.
        tolerance: stop when the largest standard error is below this share of the range of the values.
        spread: whether the positions of a unit share its number or each carries all of it.
        digest: of data and labels.
    """

    data: Tensor
    labels: Tensor | None = None
    units: Any = resolved(converter=units.resolve, default="grid")
    removal: Any = resolved(converter=removals.resolve, default="replace")
    evaluations: Count = 20_000
    tolerance: Probability = 0.025
    spread: Spread = "share"
    digest: int = field(init=False)

    def __post_init__(self) -> None:
        self._check()
        parts = [self.data] if self.labels is None else [self.data, self.labels]
        texts = [
            p.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes().hex() for p in parts
        ]
        object.__setattr__(self, "digest", mix(*texts))

    def _check(self) -> None:
        need_set("A data set", self.data)
        if self.labels is not None and tuple(self.labels.shape) != (len(self.data),):
            raise InputError(
                Code.TARGET_TYPE,
                "A data set has one label per sample",
                got=f"labels of shape {tuple(self.labels.shape)} for {len(self.data)} samples",
            )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, DataSetShapley) and self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash(self._identity())

    def _identity(self) -> tuple[Any, ...]:
        return self.digest, self.units, self.removal, self.evaluations, self.tolerance, self.spread

    def run(self, problem: Problem) -> Result:
        """Rounds of orders, each on a data row of its own, walked both ways."""
        asked = self._data_set(problem)
        segments = segments_of(settled(self.units, asked), asked.x)
        if len(set(segments.counts)) > 1 or not bool((segments.labels == segments.labels[:1]).all()):
            raise SpecError(
                Code.UNSUPPORTED,
                "A global value needs the same units for every input",
                got=type(self.units).__name__,
                expected="units that depend on the position only, such as grid, patch or pixel",
            )
        u = segments.most
        bound = self.removal.bind(asked, segments)
        pair = 2 * u * bound.draws
        known = len(asked.x) * (2 if self.labels is None else 1)
        if self.evaluations < known + 2 * pair:
            raise too_few(known + 2 * pair, self.evaluations, "SAGE", units=u, draws=bound.draws)
        gains = asked.x.new_zeros((0, u), dtype=torch.float64)
        most, error, reached = (self.evaluations - known) // pair, gains.new_full((u,), torch.inf), False
        while len(gains) < most and not reached:
            count = min(ROUND, most - len(gains))
            gains = torch.cat([gains, self._round(asked, segments, bound, len(gains), count)])
            error = gains.std(0) / len(gains) ** 0.5
            reached = float(error.max()) <= self.tolerance * float(gains.mean(0).max() - gains.mean(0).min())
        return self._result(problem, gains, error, reached)

    def _data_set(self, problem: Problem) -> Problem:
        """The data as the samples of a problem that explains the probability of their labels."""
        explained, further = input_of(problem)
        if further.values:
            raise SpecError(
                Code.UNSUPPORTED,
                "A data set of one input cannot stand for a model with further inputs",
                fix="Wrap the model so that it takes the explained input only",
            )
        try:
            x = self.data.to(explained).expand(len(self.data), *explained.shape[1:])
        except RuntimeError:
            raise InputError(
                Code.BASELINE_SHAPE,
                "The data do not fit the input",
                got=f"samples of shape {tuple(self.data.shape[1:])}",
                expected=f"{tuple(explained.shape[1:])}",
            ) from None
        first = torch.zeros(len(x), dtype=torch.long, device=x.device)
        labels = first if self.labels is None else self.labels.to(x.device).long()
        asked = about(probability_of(problem), x, first, labels)
        ids = [mix("sage", number) for number in range(len(x))]
        asked = replace(asked, identify=lambda: ids)
        return asked if self.labels is not None else asked.with_(target=_predicted(asked))

    def _round(self, asked: Problem, segments: Any, bound: Any, done: int, count: int) -> Tensor:
        """(count, u) gains along one order and its reverse, each on a data row drawn for it."""
        u, k, m = segments.most, bound.draws, len(asked.x)
        keys = [(mix("sage"), done + i) for i in range(count)]
        row = asked.draws.integers("sage.row", keys, m, ()).to(asked.x.device)
        order = asked.draws.permutation("sage.order", keys, u).to(asked.x.device)
        place = torch.stack([order.argsort(1), order.flip(1).argsort(1)], dim=1)
        steps = torch.arange(u, device=asked.x.device)
        coalitions = (place[:, :, None, :] < steps[:, None]).flatten(0, 2)  # none, then one more each time
        owner = row.repeat_interleave(2 * u)
        sums = torch.zeros(len(owner), dtype=torch.float64, device=asked.x.device)

        def make(rows: Tensor) -> Tensor:
            which = rows // k
            keep = segments.keep(owner[which], coalitions[which])
            return bound.rows(Absent(owner[which], rows % k, keep, coalitions[which]))

        for chunk in asked.forward(make, owner.repeat_interleave(k)):
            sums.index_add_(0, chunk.rows // k, chunk.scores.double() / k)
        tiny = torch.finfo(torch.float32).tiny
        value = sums.clamp_min(tiny).log().view(count, 2, u)
        full = asked.score.double().clamp_min(tiny).log()[row].view(-1, 1, 1).expand(-1, 2, 1)
        gains = torch.cat([value, full], dim=2).diff(dim=2)
        return gains.gather(2, place).mean(1)

    def _result(self, problem: Problem, gains: Tensor, error: Tensor, reached: bool) -> Result:
        segments = segments_of(settled(self.units, problem), problem.x)
        b = len(problem.x)
        warnings = problem.task.remarks(problem.known_outputs)
        if not reached:
            warnings.append(
                note(
                    Code.TOLERANCE_NOT_REACHED,
                    f"SAGE did not converge within {self.evaluations} evaluations: the largest error "
                    f"is {float(error.max()):.3g}, the range of the values "
                    f"{float(gains.mean(0).max() - gains.mean(0).min()):.3g}",
                )
            )
        return Result(
            segments.map([gains.mean(0)] * b, problem.x, self.spread),
            standard_error=segments.map([error] * b, problem.x, self.spread),
            warnings=warnings,
            diagnostics={"orders": torch.full((b,), 2 * len(gains))},
        )


def _predicted(asked: Problem) -> Tensor:
    """(m,) the classes that the model predicts for the data."""
    out = torch.zeros(len(asked.x), dtype=torch.long, device=asked.x.device)

    for chunk in asked.forward(asked.x, asked.everyone):
        out[chunk.rows] = asked.task.predicted(chunk.outputs)
    return out
