"""The DeepLIFT engine: the reference's pass recorded, the input's beside it, averaged over references."""

# torch leaves part of its own interface untyped:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false

from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor

from abe.checks import CountFrom0
from abe.engines.backward.closure import missing
from abe.engines.backward.deeplift_record import Record, Replay
from abe.engines.backward.deeplift_rescale import Rescale
from abe.engines.backward.deeplift_reveal_cancel import RevealCancel
from abe.engines.backward.run import (
    BackwardRule,
    Found,
    Policy,
    RuleBook,
    check_same,
    policy_notes,
    registered_rules,
    run_uncovered,
)
from abe.engines.backward.step import Step, coarser, refuse_hidden
from abe.engines.runtime.problem import Problem
from abe.engines.runtime.work import Call, Chunk
from abe.errors import Code, InputError, SpecError, note
from abe.instrument.modes import Instrument
from abe.instrument.scripts import refuse_scripted_functions
from abe.spec import value
from abe.types import Baseline, Result


@value
class DeepLift:
    """A = (x − x′) ⊙ multipliers, with ΣA = s(x) − s(x′), averaged over references.

    Args:
        baseline: the reference x′, or a distribution of references.
        samples: references drawn per sample; a `Dataset` is used whole where this is 0.
        rule: ``"rescale"`` or ``"reveal_cancel"``.
        rules: further rules by operation, in front of the built-in ones.
        uncovered: policy for operations without a rule.
    """

    baseline: Baseline
    samples: CountFrom0 = 1
    rule: Literal["rescale", "reveal_cancel"] = "rescale"
    rules: tuple[tuple[str, BackwardRule], ...] = ()
    uncovered: Policy = "error"

    def __post_init__(self) -> None:
        if self.samples == 0 and not isinstance(self._members, Tensor):
            raise SpecError(
                Code.BAD_PARAMETER, "samples must be at least 1 unless a set is given", got=self.samples
            )

    @property
    def _members(self) -> Tensor | None:
        return getattr(self.baseline, "samples", None)

    @property
    def references(self) -> int:
        """References per sample."""
        members = self._members
        return self.samples if self.samples or members is None else len(members)

    def rows(self, problem: Problem, owner: Tensor, draw: Tensor) -> Tensor:
        """(n, *f) reference ``draw`` (n,) of samples ``owner`` (n,)."""
        members = self._members
        if self.samples or members is None:
            return problem.reference(self.baseline, owner, draw)
        if members.shape[1:] != problem.x.shape[1:]:
            raise InputError(
                Code.BASELINE_SHAPE,
                "The background set has another shape than the input",
                got=tuple(members.shape),
                expected=f"(m, {', '.join(map(str, problem.x.shape[1:]))})",
            )
        return members[draw.to(members.device)]

    def run(self, problem: Problem) -> Result:
        """Two forward rows and one backward row per sample and reference."""
        return self._job(problem).result()

    def report(self, problem: Problem) -> Found:
        """Rules by operation on the given samples."""
        return self._job(problem).found

    def _job(self, problem: Problem) -> "_Lift":
        job = _Lift(self, problem)
        if self.references == 1:
            chunks = problem.at_inputs("gradient", around=job.around, purpose="deeplift", engine=self)
        else:
            owner = problem.everyone.repeat_interleave(self.references)
            chunks = problem.gradient(
                lambda rows: problem.x[owner[rows]], owner, around=job.around, purpose="deeplift"
            )
        for chunk in chunks:
            job.keep(chunk)
        return job


class _Lift:
    """One request, chunk by chunk."""

    def __init__(self, spec: DeepLift, problem: Problem) -> None:
        self.spec, self.problem = spec, problem
        self.out = torch.zeros_like(problem.x)
        self.squares = torch.zeros_like(problem.x) if spec.references > 1 else None
        self.before = problem.x.new_zeros(len(problem.x))
        self.found: Found = {}
        self.readers: dict[str, None] = {}
        self.precision = problem.x.dtype
        self.book = RuleBook(entries=spec.rules)
        self.further = RuleBook(entries=registered_rules("multiplier"))
        self.references = self.scores = problem.x.new_empty(0)
        self.rule = _rule(spec.rule)

    def around(self, call: Call) -> tuple[Any, Tensor]:
        """The reference pass, recorded; then the input's beside it.

        The score is part of what is attributed, so it runs under the instrument too; which one it is may
        be told by the input's outputs only.
        """
        refuse_scripted_functions(self.problem.task.model)
        with torch.no_grad():
            found = self.spec.rows(self.problem, call.owner, call.rows % self.spec.references)
            self.references = found.to(call.x).contiguous()
            own = {name for name, _ in (*self.book.entries, *self.further.entries)}
            record = Record(also=self.rule.reads | own)
            recording = Instrument(self.problem.task.model, default=record, decompose=True)
            with recording:
                before = call.forward(self.references)
        session = Replay(self._choose, record)
        replaying = Instrument(self.problem.task.model, default=session, decompose=True)
        with replaying:
            outputs = call.forward(call.x)
        check_same(outputs, self.problem, call, self.spec)
        call.settle(outputs)
        with torch.no_grad(), recording:
            self.scores = call.score(before)
        with replaying:
            scores = call.score(outputs)
        refuse_hidden(scores)
        self.found.update(session.found)
        self.readers.update(session.readers)
        self.precision = coarser(self.precision, session.precision)
        return outputs, scores

    def _choose(self, step: Step) -> Any:
        rule = self.book.find(step)
        if rule is None and self.rule.knows(step):
            rule = self.rule
        if rule is None:
            rule = self.further.find(step)
        if rule is None:
            return run_uncovered(step, self.spec.uncovered)
        step.session.note(step, str(rule))
        return rule(step)

    def keep(self, chunk: Chunk) -> None:
        """Add a chunk's share of the means."""
        maps, n = chunk.gradients * (chunk.x - self.references), self.spec.references
        self.out.index_add_(0, chunk.owner, maps / n)
        self.before.index_add_(0, chunk.owner, self.scores.to(self.before) / n)
        if self.squares is not None:
            self.squares.index_add_(0, chunk.owner, maps.square() / n)

    def result(self) -> Result:
        """Maps, the score change they sum to, and standard errors over references."""
        error = None
        if self.squares is not None:
            variance = (self.squares - self.out.square()).clamp(min=0)
            error = (variance / (self.spec.references - 1)).sqrt()
        delta = self.problem.score - self.before
        notes = policy_notes(self.found) + _missing_notes(self.out, delta, self.readers, self.precision)
        return Result(self.out, delta, standard_error=error, warnings=notes)


def _missing_notes(maps: Tensor, delta: Tensor, readers: Iterable[str], precision: torch.dtype) -> list[str]:
    """A note where maps do not sum to the score change, with what the rules could not follow."""
    rows = maps.flatten(1)
    missed = delta.double() - rows.double().sum(1)
    worst = missing(missed, delta, rows.abs().sum(1), precision)
    if worst is None:
        return []
    change = f"{float(missed[worst]):.3g} of a score change of {float(delta[worst]):.3g}"
    names = list(readers)[:4]
    why = f": {', '.join(names)} read what was computed from the input without a gradient" if names else ""
    return [note(Code.INCOMPLETE, f"The map of sample {worst} misses {change}{why}")]


def _rule(name: str) -> Rescale | RevealCancel:
    return Rescale() if name == "rescale" else RevealCancel()
