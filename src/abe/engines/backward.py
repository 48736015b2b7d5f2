"""The backward engine: an ordered rule book, a policy for what it does not cover, a gradient run.

A map is what arrives at the input after every operation passed it on by its rule. Three forms:

* ``"gradient"`` rules change gradients (Guided Backprop and kin); the map is what arrives.
* ``"ratio"`` rules pass on c = R / value, so that linear plumbing needs no rule; the map is x ⊙ c.
* ``"relevance"`` rules pass on R itself, which rules that give relevance to zeros need; the map is R.
"""

# torch leaves part of its own interface untyped:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false

from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, runtime_checkable
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from abe.engines.backward_steps import (
    CONVOLUTIONS,
    WEIGHTED,
    Ledger,
    Session,
    Step,
    depends,
    refuse_hidden,
    stabilised,
    transformed,
)
from abe.engines.batching import Call, Chunk
from abe.engines.execution import candidates, fingerprint
from abe.engines.instrument import Instrument
from abe.engines.operations import tensors
from abe.engines.problem import Problem
from abe.engines.state import as_found
from abe.errors import Code, ModelError, SpecError, note
from abe.objectives import Captured
from abe.spec import value
from abe.task.base import Task
from abe.types import Result

Form = Literal["gradient", "ratio", "relevance"]
Policy = Literal["error", "gradient", "constant"]
Found = dict[tuple[str, str | None, str], int]
"""(operation, module, rule) -> calls."""
SAME_OUTPUT = {torch.float64: 1e-9, torch.float32: 1e-4}
"""How far the output under rules may be from the plain output, as a share of the row's largest."""


@runtime_checkable
class BackwardRule(Protocol):
    """A value that runs a step and returns its output: the operation's own value, any gradient."""

    def __call__(self, step: Step) -> Any: ...


@value
class RuleBook:
    """An ordered mapping from operations to rules; the first entry that matches is taken.

    An entry's key is the name of an operation (``"conv2d"``), a kind (``"linear"``, ``"activation"``,
    ``"plumbing"``, …), or a place: ``"first"`` and ``"last:<n>"`` are the first and the n-th weighted
    operation, ``"convolution"`` and ``"dense"`` weighted operations of either sort, ``"*"`` everything.

    Args:
        entries: pairs of key and rule.
    """

    entries: tuple[tuple[str, BackwardRule], ...]

    def find(self, step: Step) -> BackwardRule | None:
        """The first rule whose key matches the step."""
        names = _keys(step)
        return next((rule for key, rule in self.entries if key in names), None)

    def before(self, entries: tuple[tuple[str, BackwardRule], ...]) -> "RuleBook":
        """This book with other entries in front of it."""
        return RuleBook(entries=(*entries, *self.entries))


def _keys(step: Step) -> frozenset[str]:
    keys = {step.name, step.kind, "*"}
    if step.kind == "linear" and step.name in WEIGHTED:
        keys |= {"convolution" if step.name in CONVOLUTIONS else "dense", "weighted", f"layer:{step.number}"}
        keys |= {"first"} if step.number == 0 else set()
    return frozenset(keys)


@dataclass(frozen=True)
class Covered:
    """One line of a coverage report: an operation, where, the rule it got, and how often."""

    name: str
    module: str | None
    rule: str
    count: int


@value
class Backward:
    """Attribution by backward rules.

    Args:
        book: rules by operation.
        form: what the rules pass on.
        uncovered: what to do with an operation without a rule: refuse it by name, or pass plain
            gradients (``"gradient"``), or treat its output as a constant; both are noted in the result.
        merged: run an execution copy with batch norm merged into convolutions, where there is one.
        start: ``"score"``, or ``"one"`` to start with relevance 1 instead of the score.
    """

    book: RuleBook
    form: Form = "ratio"
    uncovered: Policy = "error"
    merged: bool = False
    start: Literal["score", "one"] = "score"

    def __post_init__(self) -> None:
        check_policy(self.uncovered)

    def run(self, problem: Problem) -> Result:
        """One forward and one backward row per sample; x, score and ledgers per sample."""
        job = _Run(self, problem)
        job.go()
        return job.result()

    def report(self, problem: Problem) -> Found:
        """Rules by operation on the given samples."""
        job = _Run(self, problem)
        job.go()
        return job.found


def check_policy(policy: str) -> None:
    """Refuse an unknown policy for uncovered operations."""
    if policy not in ("error", "gradient", "constant"):
        raise SpecError(
            Code.BAD_PARAMETER,
            "No such policy for operations without a rule",
            got=repr(policy),
            expected="error, gradient or constant",
        )


class _Run:
    """One request: sessions chunk by chunk, and what they give."""

    def __init__(self, spec: Backward, problem: Problem) -> None:
        self.spec, self.problem = spec, problem
        self.out = torch.empty_like(problem.x)
        zeros = problem.x.new_zeros(len(problem.x))
        self.books = {k: zeros.clone() for k in ("bias_relevance", "stabiliser_relevance", "closure")}
        self.started = zeros.clone()
        self.found: Found = {}
        self.model = merged_copy(problem.task, problem) if spec.merged else problem.task.model
        self.session: Session | None = None
        self.start: Tensor | None = None

    def go(self) -> None:
        """All samples."""
        x, everyone = self.problem.x, self.problem.everyone
        self.problem.gradient(len(x), x.__getitem__, everyone, self.consume, around=self.around)

    def around(self, call: Call) -> tuple[Any, Tensor]:
        """The chunk's forward under the rules."""
        n = len(call.x)
        ledger = None
        if self.spec.form != "gradient":
            ledger = Ledger(n, call.x.new_zeros(n), call.x.new_zeros(n))
        session = Session(choose=self._choose, ledger=ledger, bounds=network_bounds(self.problem.task))
        with Instrument(self.model, default=session, decompose_attention=True):
            outputs = call.forward(call.x, self.model)
        refuse_hidden(_tensor(outputs))
        if not self.spec.merged:
            check_same(outputs, self.problem, call)
        self.session = session
        self.found.update(session.found)
        scores = call.score(self._open(outputs))
        return outputs, scores

    def _open(self, outputs: Any) -> Any:
        """Outputs whose gradient is turned into relevance, noted as what the rules start with."""
        self.start = None
        if self.spec.form == "gradient" or not isinstance(outputs, Tensor):
            return outputs

        def begin(gradient: Tensor) -> Tensor:
            relevance = gradient * outputs.detach()
            self.start = relevance.flatten(1).sum(1)
            return relevance if self.spec.form == "relevance" else gradient

        return transformed(outputs, begin)

    def consume(self, chunk: Chunk) -> None:
        """Keep the maps and the books of a chunk."""
        ratio = self.spec.form == "ratio"
        relevance = chunk.gradients * chunk.x if ratio else chunk.gradients
        ledger = None if self.session is None else self.session.ledger
        if ledger is not None and self.start is not None:
            total = relevance.flatten(1).sum(1) + ledger.bias + ledger.stabiliser
            self.books["bias_relevance"][chunk.rows] = ledger.bias
            self.books["stabiliser_relevance"][chunk.rows] = ledger.stabiliser
            self.books["closure"][chunk.rows] = total - self.start
            self.started[chunk.rows] = self.start
        self.out[chunk.rows] = relevance

    def result(self) -> Result:
        """Maps, ledgers and notes."""
        out = self.out
        if self.spec.start == "one":
            out = out / expanded(stabilised(self.started, 0.0), out)
        return Result(
            out,
            warnings=policy_notes(self.found),
            diagnostics={} if self.spec.form == "gradient" else dict(self.books),
        )

    def _choose(self, step: Step) -> Any:
        rule = self.spec.book.find(step)
        if rule is None:
            return run_uncovered(step, self.spec.uncovered)
        step.session.note(step, str(rule))
        return rule(step)


def run_uncovered(step: Step, policy: Policy) -> Any:
    """Run an operation without a rule by the policy; whole-number results need none."""
    output = step.plain()
    if not any(depends(t) for t in tensors(output)):
        return output
    if policy == "error":
        raise step.error(
            "No backward rule for an operation",
            "Add one in front of the book, rules=((" + repr(step.name) + ", rule),), or pass "
            "uncovered='gradient' or 'constant'",
        )
    step.session.note(step, f"uncovered: {policy}")
    if policy == "gradient":
        return output
    return output.detach() if isinstance(output, Tensor) else type(output)(t.detach() for t in output)


def policy_notes(found: Found) -> list[str]:
    """A note that names the operations that went by the policy."""
    names = sorted({name for name, _, rule in found if rule.startswith("uncovered")})
    if not names:
        return []
    policy = next(rule for _, _, rule in found if rule.startswith("uncovered")).removeprefix("uncovered: ")
    how = "plain gradients" if policy == "gradient" else "a constant"
    return [note(Code.RULE_POLICY, f"Operations without a rule were treated as {how}: {', '.join(names)}")]


def expanded(per_row: Tensor, like: Tensor) -> Tensor:
    """(n,) as (n, 1, …) to go with ``like``."""
    return per_row.reshape(-1, *[1] * (like.ndim - 1))


def _tensor(outputs: Any) -> Any:
    return outputs.outputs if isinstance(outputs, Captured) else outputs


def check_same(outputs: Any, problem: Problem, call: Call) -> None:
    """The forward under rules must give the plain forward's outputs.

    Raises:
        ModelError: RULE_CHANGED_OUTPUT.
    """
    known, found = problem.known_outputs, _tensor(outputs)
    if not isinstance(known, Tensor) or not isinstance(found, Tensor) or not found.is_floating_point():
        return
    plain = known[call.owner].detach()
    if not torch.equal(call.x.detach(), problem.x[call.owner]):
        return
    gap = (found.detach() - plain).flatten(1).abs().amax(1)
    size = plain.flatten(1).abs().amax(1)
    limit = SAME_OUTPUT.get(found.dtype, 1e-2)
    if bool((gap > limit * size + limit).any()):
        raise ModelError(
            Code.RULE_CHANGED_OUTPUT,
            "The model's output under backward rules differs from its plain output",
            got=f"a difference of {float(gap.max()):.2e} at outputs up to {float(size.max()):.2e}",
            fix="The forward is random or reads whether gradients are on; make it deterministic",
        )


def network_bounds(task: Task) -> tuple[Tensor, Tensor] | None:
    """The task's bounds after its normalisation: what the model's first operation can see."""
    if task.bounds is None:
        return None
    low, high = task.bounds
    if task.mean is not None:
        low, high = low - task.mean.to(low), high - task.mean.to(low)
    if task.std is not None:
        low, high = low / task.std.to(low), high / task.std.to(low)
    return low, high


_MERGED: "WeakKeyDictionary[Task, tuple[tuple[Any, ...], nn.Module]]" = WeakKeyDictionary()


def merged_copy(task: Task, problem: Problem) -> nn.Module:
    """A copy with batch norm merged into the convolutions before it, or the model itself."""
    now = fingerprint(task.model)
    known = _MERGED.get(task)
    if known is None or known[0] != now:
        x, context = problem.x[:1], problem.context.take(problem.everyone[:1])
        found = candidates(task.model, lambda model: task.forward(x, context, model))
        copies = (c.model for c in found if c.folded and not c.channels_last)
        known = (now, next(copies, task.model))
        _MERGED[task] = known
    return known[1]


def coverage_of(engine: Any, problem: Problem) -> list[Covered]:
    """Every operation that depends on the input and the rule it gets from ``engine``, on one sample."""
    one = problem.with_(x=problem.x[:1], owner=problem.everyone[:1])
    with as_found(problem.task.model), torch.enable_grad():
        found: Found = engine.report(one)
    return [Covered(name, module, rule, count) for (name, module, rule), count in found.items()]


@value
class Contrast:
    """Relevance of a score minus that of its dual, the score with the last weights' signs turned over.

    Args:
        engine: the rules, started with relevance 1.
        negated: rule of the last weighted operation in the dual pass.
    """

    engine: Backward
    negated: BackwardRule

    def run(self, problem: Problem) -> Result:
        """Two forward and two backward rows per sample."""
        job = _Run(self.engine, problem)
        job.go()
        last = 0 if job.session is None else job.session.layers - 1
        dual = replace(self.engine, book=self.engine.book.before(((f"layer:{last}", self.negated),)))
        ours, theirs = job.result(), dual.run(problem)
        return Result(ours.attribution - theirs.attribution, warnings=ours.warnings)
