"""Removal: units × what replaces them × the behaviour of the model × a summary of its values.

A `Game` evaluates coalitions of units once and remembers them, so that several summaries read one run.
Every row goes through `problem.forward` in chunks; only (coalition, value) pairs are kept.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from abe.checks import Count, shown
from abe.engines.removal.removals import Absent, Removal
from abe.engines.removal.segments import (
    Spread,
    segments_of,
)
from abe.engines.runtime.problem import Problem
from abe.errors import Code, SpecError
from abe.objectives import Probability
from abe.registry import removals, summaries, units
from abe.spec import resolved, value
from abe.types import Engine, Fed, Key, Result
from abe.units import Unit, settled

Behaviour = Literal["score", "log_probability", "log_odds"]
"""What is read of the model: the explained score averaged over completions of a coalition, or the logarithm
or log-odds of the target's probability averaged over them."""


@dataclass(frozen=True)
class Stream:
    """The draws of one sample for one purpose; every call is a draw of its own."""

    problem: Problem
    sample: int
    purpose: str

    def uniform(self, shape: Sequence[int], number: int = 0) -> Tensor:
        """(*shape) uniform on [0, 1)."""
        return self.problem.draws.uniform(self.purpose, self._key(number), shape)[0]

    def normal(self, shape: Sequence[int], number: int = 0) -> Tensor:
        """(*shape) standard normal."""
        return self.problem.draws.normal(self.purpose, self._key(number), shape)[0]

    def integers(self, high: int, shape: Sequence[int], number: int = 0) -> Tensor:
        """(*shape) integers 0 … high − 1."""
        return self.problem.draws.integers(self.purpose, self._key(number), high, shape)[0]

    def permutations(self, n: int, u: int, number: int = 0) -> Tensor:
        """(n, u) random orders."""
        return self.uniform((n, u), number).argsort(dim=1, stable=True)

    def _key(self, number: int) -> list[Key]:
        return [(self.problem.ids[self.sample], number)]


@dataclass
class Evaluated:
    """What a summary reads of one sample.

    Attributes:
        coalitions: (m, u) as the summary asked for them, repeats included.
        values: (m, k) the behaviour of each, by completion.
        empty, full: (k,) that of no unit and of all.
        stream: further draws, for example of a bootstrap.
        prior: (u,) what is known of the units beforehand, or None.
    """

    coalitions: Bool[Tensor, "m u"]
    values: Float[Tensor, "m k"]
    empty: Float[Tensor, "k"]
    full: Float[Tensor, "k"]
    stream: Stream
    prior: Tensor | None = None


@dataclass
class Summarised:
    """What a summary says of one sample.

    Attributes:
        values: (u,) one number per unit.
        error: (u,) their standard error, or None where nothing was drawn.
        extras: further numbers, by name.
        warnings: notes with codes.
    """

    values: Float[Tensor, "u"]
    error: Float[Tensor, "u"] | None = None
    extras: dict[str, Tensor] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


@runtime_checkable
class Summary(Protocol):
    """How values of coalitions become one number per unit.

    It may also have ``more(evaluated, left) -> (m, u) coalitions or None``, asked after every round with the
    number of further coalitions the budget holds.
    """

    @property
    def complete(self) -> bool:
        """Whether its numbers add up to v(all) − v(none)."""
        ...

    def needs(self, u: int) -> int:
        """Fewest coalitions, besides that of all units, from which it can be told."""
        ...

    def coalitions(self, u: int, budget: int | None, stream: Stream) -> Bool[Tensor, "m u"]:
        """(m, u) what to evaluate: at most ``budget`` coalitions besides that of all units."""
        ...

    def summarise(self, evaluated: Evaluated) -> Summarised:
        """One number per unit."""
        ...


class Game:
    """The model as a function of coalitions, for every sample of a problem.

    Args:
        problem: whose score is the value of a coalition.
        unit: the players.
        removal: what replaces absent units.
        behaviour: what is read of the model.
    """

    def __init__(
        self, problem: Problem, unit: Unit, removal: Removal, *, behaviour: Behaviour = "score"
    ) -> None:
        self.problem = problem if behaviour == "score" else probability_of(problem)
        self.segments = segments_of(settled(unit, problem), problem.x)
        self.bound = removal.bind(problem, self.segments)
        self.behaviour: Behaviour = behaviour
        self._places: list[dict[bytes, int]] = [{} for _ in problem.x]
        self._values = [problem.x.new_zeros((0, self.bound.draws), dtype=torch.float64) for _ in problem.x]
        for sample, u in enumerate(self.segments.counts):
            full = self.problem.score[sample].double().expand(1, self.bound.draws)
            self._places[sample][_key(torch.ones(u, dtype=torch.bool))] = 0
            self._values[sample] = full.clone()

    @property
    def samples(self) -> range:
        """Numbers of the samples."""
        return range(len(self._places))

    def used(self, sample: int) -> int:
        """Rows evaluated for a sample so far; the sample itself was evaluated before."""
        return (len(self._places[sample]) - 1) * self.bound.draws

    def full(self, sample: int) -> Float[Tensor, "k"]:
        """(k,) the value of all units."""
        return linked(self._values[sample][:1], self.behaviour)[0]

    def values(self, asked: Sequence[Tensor]) -> list[Tensor]:
        """(m, k) per sample: values of the coalitions asked for, each evaluated at most once.

        Args:
            asked: (m, u) coalitions per sample.
        """
        new = [self._unknown(sample, rows) for sample, rows in enumerate(asked)]
        self._evaluate(new)
        return [self._read(sample, rows) for sample, rows in enumerate(asked)]

    def _unknown(self, sample: int, rows: Tensor) -> Tensor:
        """The coalitions that were not evaluated yet, once each; they are noted in the order they come."""
        places = self._places[sample]
        fresh: list[int] = []
        for number, row in enumerate(rows.cpu()):
            key = _key(row)
            if key not in places:
                places[key] = len(places)
                fresh.append(number)
        return rows[fresh]

    def _evaluate(self, new: Sequence[Tensor]) -> None:
        """Run every coalition with every completion."""
        k, x = self.bound.draws, self.problem.x
        sizes = [len(rows) for rows in new]
        flat = torch.zeros((sum(sizes), self.segments.most), dtype=torch.bool, device=x.device)
        at = 0
        for rows in new:
            flat[at : at + len(rows), : rows.shape[1]] = rows.to(x.device)
            at += len(rows)
        owner = torch.repeat_interleave(
            torch.arange(len(new), device=x.device), torch.tensor(sizes, device=x.device)
        )

        def make(rows: Tensor) -> Tensor | Fed:
            which = rows // k
            coalition, who = flat[which], owner[which]
            keep = self.segments.keep(who, coalition)
            return self.bound.rows(Absent(who, rows % k, keep, coalition))

        scores = self.problem.scores(make, owner.repeat_interleave(k)).double().view(len(flat), k)
        for sample, rows in enumerate(scores.split(sizes)):
            self._values[sample] = torch.cat([self._values[sample], rows])

    def _read(self, sample: int, rows: Tensor) -> Tensor:
        places = self._places[sample]
        wanted = torch.tensor([places[_key(row)] for row in rows.cpu()], dtype=torch.long)
        return linked(self._values[sample][wanted.to(self.problem.x.device)], self.behaviour)


@value
class Coalitions:
    """One summary of a game of units.

    Args:
        units: what is removed together: a unit or its name.
        removal: what replaces absent units: a removal or its name.
        summary: how values become one number per unit: a summary or its name.
        evaluations: most rows per sample and summary; None lets the summary choose.
        behaviour: what is read of the model.
        spread: whether the positions of a unit share its number or each carries all of it.
        prior: an engine whose map, summed over units, the summary starts from, or None.
    """

    units: Unit = resolved(converter=units.resolve, default="grid")
    removal: Removal = resolved(converter=removals.resolve, default="replace")
    summary: Summary = resolved(converter=summaries.resolve, default="shapley")
    evaluations: Count | None = None
    behaviour: Behaviour = "score"
    spread: Spread = "share"
    prior: Engine | None = None

    def __post_init__(self) -> None:
        if isinstance(self.summary, type) or not isinstance(self.summary, Summary):
            raise SpecError(
                Code.BAD_PARAMETER,
                "summary is no summary of a game",
                got=shown(self.summary),
                expected=f"one of {', '.join(summaries.names())}, or a value with coalitions and summarise",
            )

    def run(self, problem: Problem) -> Result:
        """Evaluate what the summary asks for, and summarise it."""
        return run_all(problem, [self])[0]

    def summed(self, game: Game) -> Result:
        """The summary of a game that may know some coalitions already."""
        summary = self.summary
        prior = None
        if self.prior is not None:
            prior = game.segments.sums(self.prior.run(game.problem).attribution)
        return self._result(game, summary, prior)

    def _result(self, game: Game, summary: Summary, prior: list[Tensor] | None) -> Result:
        found = [summary.summarise(evaluated) for evaluated in self._evaluated(game, summary, prior)]
        x, segments = game.problem.x, game.segments
        error = None
        if any(one.error is not None for one in found):
            errors = [torch.zeros_like(one.values) if one.error is None else one.error for one in found]
            error = segments.map(errors, x, self.spread)
        complete = summary.complete and self.spread == "share"
        extras = {name: [one.extras[name] for one in found] for name in found[0].extras}
        return Result(
            segments.map([one.values for one in found], x, self.spread),
            self._change(game) if complete else None,
            standard_error=error,
            warnings=list(dict.fromkeys(note for one in found for note in one.warnings)),
            diagnostics={
                "evaluations": torch.tensor([game.used(s) for s in game.samples]),
                "unit_values": stacked([one.values for one in found]),
                **{name: stacked(rows) for name, rows in extras.items()},
            },
        )

    def _evaluated(self, game: Game, summary: Summary, prior: list[Tensor] | None) -> list[Evaluated]:
        """Rounds of coalitions until no sample's summary asks for more."""
        asked = [self._asked(game, summary, sample) for sample in game.samples]
        more = getattr(summary, "more", None)
        while True:
            values = game.values(asked)
            rounds = [
                _evaluated(game, summary, sample, rows, seen, None if prior is None else prior[sample])
                for sample, (rows, seen) in enumerate(zip(asked, values, strict=True))
            ]
            further = [None if more is None else more(one, self._left(game, one)) for one in rounds]
            if all(rows is None for rows in further):
                return rounds
            asked = [
                rows if extra is None else torch.cat([rows, extra.to(rows.device)])
                for rows, extra in zip(asked, further, strict=True)
            ]

    def _asked(self, game: Game, summary: Summary, sample: int) -> Tensor:
        """What the summary wants to know first, within the budget."""
        u, k, name = game.segments.counts[sample], game.bound.draws, _name(summary)
        budget = None if self.evaluations is None else self.evaluations // k
        if budget is not None and budget < summary.needs(u):
            raise too_few(summary.needs(u) * k, self.evaluations or 0, name, units=u, draws=k)
        rows = summary.coalitions(u, budget, Stream(game.problem, sample, f"removal.{name}"))
        spent = int((~rows.all(1)).sum())
        if budget is not None and spent > budget:
            raise too_few(spent * k, self.evaluations or 0, name, units=u, draws=k)
        return rows

    def _left(self, game: Game, one: Evaluated) -> int | None:
        """Coalitions that the budget still holds for a summary."""
        spent = int((~one.coalitions.all(1)).sum())
        return None if self.evaluations is None else self.evaluations // game.bound.draws - spent

    def _change(self, game: Game) -> Tensor:
        """(b,) v(all) − v(none), both evaluated already."""
        rows = [
            torch.stack([torch.ones(u, dtype=torch.bool), torch.zeros(u, dtype=torch.bool)])
            for u in game.segments.counts
        ]
        ends = torch.stack([ends.mean(1) for ends in game.values(rows)])
        return (ends[:, 0] - ends[:, 1]).to(game.problem.x)


def run_all(problem: Problem, engines: Sequence[Any]) -> list[Result]:
    """Several summaries of one game of units; a coalition is evaluated once for all of them.

    Args:
        problem: whose score is the value of a coalition.
        engines: `Coalitions` with the same units, removal and behaviour.
    """
    first: Coalitions = engines[0]
    unit, removal = first.units, first.removal
    game = Game(problem, unit, removal, behaviour=first.behaviour)
    return [engine.summed(game) for engine in engines]


def _evaluated(
    game: Game, summary: Summary, sample: int, rows: Tensor, seen: Tensor, prior: Tensor | None
) -> Evaluated:
    full = game.full(sample)
    none = (~rows.any(1)).nonzero().flatten()
    empty = seen[none[0]] if len(none) else torch.full_like(full, torch.nan)
    stream = Stream(game.problem, sample, f"removal.{_name(summary)}.after")
    return Evaluated(rows, seen, empty, full, stream, prior)


def probability_of(problem: Problem) -> Problem:
    """The same request for the target's probability; a note says where it is that of an output unsaid.

    Raises:
        SpecError: the task is a regression, which has none.
    """
    outputs = problem.decision.outputs
    problem.task.check_classes(outputs, "a probability")
    problem.warnings += problem.task.remarks(outputs)
    return problem.with_(objective=Probability())


def linked(values: Tensor, behaviour: Behaviour) -> Tensor:
    """(m, k) numbers by completion whose mean is the behaviour of the mean probability.

    The link g is applied to the mean over completions; the completions are laid out along its tangent,
    g(p̄) + g′(p̄)(p_k − p̄), so that their spread is the error of the result to first order.
    """
    if behaviour == "score":
        return values
    tiny = torch.finfo(torch.float32).tiny
    p = values.mean(1, keepdim=True).clamp(tiny, 1 - torch.finfo(torch.float32).eps)
    centre, slope = (p.log(), 1 / p) if behaviour == "log_probability" else (p.logit(), 1 / (p * (1 - p)))
    return centre + slope * (values - values.mean(1, keepdim=True))


def too_few(needed: int, given: int, what: str, *, units: int = 0, draws: int = 1) -> SpecError:
    """The error for a budget that a summary cannot be told from."""
    of = f" of {units} units" if units else ""
    each = f", {draws} rows per coalition" if draws > 1 else ""
    return SpecError(
        Code.EVALUATIONS,
        f"Too few evaluations for {what}{of}{each}",
        got=given,
        expected=f"at least {needed}",
        fix=f"Pass evaluations={needed} or more, or fewer units",
    )


def stacked(rows: Sequence[Tensor]) -> Tensor:
    """(b, n) one row per sample; shorter ones are filled with NaN (−1 for integers)."""
    length = max(row.numel() for row in rows)
    filler = torch.nan if rows[0].is_floating_point() else -1
    out = rows[0].new_full((len(rows), length), filler)
    for own, row in zip(out, rows, strict=True):
        own[: row.numel()] = row.flatten()
    return out


def _key(coalition: Tensor) -> bytes:
    return coalition.numpy().tobytes()


def _name(summary: Summary) -> str:
    return type(summary).__name__
