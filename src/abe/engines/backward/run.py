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
from typing import Annotated, Any, Literal, Protocol, runtime_checkable
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from abe.engines.backward.boxes import Boxes
from abe.engines.backward.closure import closure_notes, mixed_up
from abe.engines.backward.one_value import OneValue
from abe.engines.backward.step import (
    ACCOUNTS,
    CONVOLUTIONS,
    MASK_CASTS,
    WEIGHTED,
    Form,
    Ledger,
    Session,
    Step,
    coarser,
    depends,
    refuse_hidden,
    stabilised,
    sums_of,
    transformed,
)
from abe.engines.runtime.fused_copy import candidates, fingerprint
from abe.engines.runtime.problem import Problem
from abe.engines.runtime.shapes import expanded
from abe.engines.runtime.work import Call, Chunk, plain_outputs
from abe.errors import Code, ModelError, note
from abe.instrument.model_check import Known, known
from abe.instrument.modes import Instrument
from abe.instrument.operations import operations, tensors
from abe.instrument.per_model import mark
from abe.instrument.scripts import refuse_scripted_functions
from abe.instrument.spellings import TOLD_BY_ARGUMENTS
from abe.objectives import Captured
from abe.registry import rules
from abe.spec import value
from abe.task.base import Context, Task, along
from abe.task.select import mapped, watching
from abe.types import Result

Policy = Annotated[Literal["error", "gradient", "constant"], "policy for operations without a rule"]
Found = dict[tuple[str, str | None, str], int]
"""(operation, module, rule) -> calls."""
MERGED = "merged batch norms"
"""What a result names as run where batch norms were merged into the convolutions before them."""
SAME_OUTPUT = {torch.float64: 1e-9, torch.float32: 1e-4}
"""How far the output under rules may be from the plain output, as a share of the row's largest."""


@runtime_checkable
class BackwardRule(Protocol):
    """A value that runs a step and returns its output: the operation's own value, any gradient."""

    def __call__(self, step: Step) -> Any: ...


@value
class AsItIs:
    """The operation's own gradient."""

    def __call__(self, step: Step) -> Any:
        """Nothing is replaced."""
        return step.plain()


@runtime_checkable
class RegisteredRule(BackwardRule, Protocol):
    """A rule that a package registers at `abe.registry.rules`: books without one of their own take it.

    Attributes:
        operations: canonical names of the operations it is for.
        forms: what it can pass back: ``"ratio"`` for LRP and its kin, ``"multiplier"`` for DeepLIFT;
            ``step.session.form`` says which is asked for.
    """

    operations: tuple[str, ...]
    forms: tuple[Form, ...]


def registered_rules(form: Form) -> tuple[tuple[str, BackwardRule], ...]:
    """Entries of a book for what packages of one's own have registered."""
    made: list[RegisteredRule] = [rules.make(name) for name in rules.names()]
    return tuple((name, rule) for rule in made if form in rule.forms for name in rule.operations)


@value
class RuleBook:
    """An ordered mapping from operations to rules; the first entry that matches is taken.

    An entry's key is the name of an operation (``"conv2d"``), a kind (``"linear"``, ``"activation"``,
    ``"plumbing"``, …), or a place: ``"first"`` and ``"last:<n>"`` are the first and the n-th weighted
    operation, ``"convolution"`` and ``"dense"`` weighted operations of either sort, ``"one value"``
    a product of functions of one value, ``"*"`` everything.

    Args:
        entries: pairs of key and rule.
    """

    entries: tuple[tuple[str, BackwardRule], ...]

    def find(self, step: Step) -> BackwardRule | None:
        """The first rule whose key matches the step."""
        names = _keys(step)
        return next((rule for key, rule in self.entries if key in names), None)

    def unmoved(self) -> frozenset[str]:
        """Everyday operations that keep their gradient, where the book says so by name alone."""
        *named, (last, rest) = self.entries or (("", None),)
        names = {name for name, _ in named}
        if last != "*" or not isinstance(rest, AsItIs) or not names <= operations():
            return frozenset()
        return operations() - names - MASK_CASTS - TOLD_BY_ARGUMENTS

    def before(self, entries: tuple[tuple[str, BackwardRule], ...]) -> "RuleBook":
        """This book with other entries in front of it."""
        return RuleBook(entries=(*entries, *self.entries))


def _keys(step: Step) -> frozenset[str]:
    keys = {step.name, step.kind, "*"}
    if step.kind == "linear" and step.name in WEIGHTED:
        keys |= {"convolution" if step.name in CONVOLUTIONS else "dense", "weighted", f"layer:{step.number}"}
        keys |= {"first"} if step.number == 0 else set()
    if step.name == "mul" and step.kind == "product" and step.root() is not None:
        keys |= {"one value"}
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

    def run(self, problem: Problem) -> Result:
        """One forward and one backward row per sample; x, score and ledgers per sample."""
        unseen = self.book.unmoved() if self.form == "gradient" else frozenset[str]()
        return _Run(self, problem, unseen).go().result()

    def report(self, problem: Problem) -> Found:
        """Rules by operation on the given samples."""
        return _Run(self, problem).go().found


class _Run:
    """One request: sessions chunk by chunk, and what they give."""

    def __init__(self, spec: Backward, problem: Problem, unseen: frozenset[str] = frozenset()) -> None:
        self.spec, self.problem, self.unseen = spec, problem, unseen
        self.out = torch.empty_like(problem.x)
        zeros = sums_of(problem.x)
        self.books = {account: zeros.clone() for account in ACCOUNTS}
        self.started, self.closure = zeros.clone(), zeros.clone()
        self.again: list[Tensor] = []
        self.found: Found = {}
        # A copy's layers give something else than those that the objective asks for.
        merged = spec.merged and not problem.objective.layers
        first = problem.context.take(problem.everyone[:1])
        self.model = merged_copy(problem.task, problem.x[:1], first) if merged else problem.task.model
        self.session = Session(choose=self._choose)
        self.precision = problem.x.dtype
        self.start = zeros
        self.reading = False

    def go(self) -> "_Run":
        """All samples; those whose books may have been mixed up with a neighbour's again, one by one."""
        problem, purpose = self.problem, self.spec.form
        for chunk in problem.at_inputs("gradient", around=self.around, purpose=purpose, engine=self.spec):
            self._keep(chunk)
        if self.again:
            again, self.again = torch.cat(self.again), []
            for chunk in problem.gradient(
                problem.x[again], again, around=self.around, purpose=purpose, alone=True
            ):
                self._keep(chunk)
        if self.model is not problem.task.model:
            problem.evaluator.cost.execution = MERGED
        return self

    def around(self, call: Call) -> tuple[Any, Tensor]:
        """A chunk whose forward runs under the rules."""
        refuse_scripted_functions(self.problem.task.model)
        self.reading = False
        ledger = None if self.spec.form == "gradient" else Ledger.empty(call.x)
        self.session = Session(
            choose=self._choose,
            ledger=ledger,
            bounds=network_bounds(self.problem.task),
            boxes=Boxes(self.problem.limits),
            form=self.spec.form,
            inside=self.problem.task.at_layers,
            values=None if self.spec.form == "gradient" else OneValue(),
        )
        with (
            watching(self._returned),
            Instrument(self.model, default=self.session, decompose=True, unseen=self.unseen),
        ):
            outputs = call.forward(call.x, self.model)
        refuse_hidden(plain_outputs(outputs))
        check_same(outputs, self.problem, call, self.spec)
        self.found.update(self.session.found)
        self.precision = coarser(self.precision, self.session.precision)
        scores = call.score(self._open(outputs))
        if not scores.requires_grad and self.spec.form != "gradient":
            raise stopped(self.session)
        return outputs, scores

    def _open(self, outputs: Any) -> Any:
        """What the score reads; its gradient is turned into relevance and noted as the start."""
        if self.spec.form == "gradient" or self.reading:
            return outputs
        if isinstance(outputs, Captured):
            layers = {name: self._started(tensor) for name, tensor in outputs.layers.items()}
            return Captured(self._open(outputs.outputs), layers)
        sums = isinstance(outputs, Tensor) and outputs.is_floating_point()
        return self._started(outputs) if sums else outputs

    def _returned(self, raw: Any, rows: int) -> Any:
        """What a task's score is read from: relevance starts here, and the reading goes by its gradient."""
        inside = [one for one in tensors(raw) if depends(one)]
        if self.spec.form == "gradient" or not inside or any(len(one) != rows for one in inside):
            return raw
        self.reading, self.start = True, sums_of(inside[0]).to(self.started.dtype)
        return mapped(raw, lambda one: self._begun(one) if depends(one) else one)

    def _started(self, outputs: Tensor) -> Tensor:
        self.start = sums_of(outputs).to(self.started.dtype)
        return self._begun(outputs)

    def _begun(self, outputs: Tensor) -> Tensor:
        def begin(gradient: Tensor) -> Tensor:
            relevance = gradient * outputs.detach()
            self.start = self.start + relevance.flatten(1).sum(1, dtype=self.start.dtype)
            return relevance if self.spec.form == "relevance" else gradient

        return transformed(outputs, begin)

    def _keep(self, chunk: Chunk) -> None:
        """Keep the maps and the books of a chunk."""
        relevance = chunk.gradients * chunk.x if self.spec.form == "ratio" else chunk.gradients
        self.out[chunk.owner] = relevance
        if self.session.ledger is None:
            return
        taken = self.session.ledger.taken
        for account, amount in taken.items():
            self.books[account][chunk.owner] = amount
        closure = relevance.flatten(1).sum(1, dtype=self.start.dtype) + sum(taken.values()) - self.start
        self.started[chunk.owner], self.closure[chunk.owner] = self.start, closure
        if mixed_up(closure, self.start):
            self.again.append(chunk.owner)

    def result(self) -> Result:
        """Maps, ledgers and notes."""
        out, notes = self.out, policy_notes(self.found)
        if self.spec.form == "gradient":
            return Result(out, warnings=notes)
        books = {f"{account}_relevance": amount for account, amount in self.books.items()}
        books["closure"] = self.closure
        size = sum((amount.abs() for amount in self.books.values()), out.flatten(1).abs().sum(1))
        notes += closure_notes(self.closure, self.started, size.to(out.dtype), self.precision)
        if self.spec.start == "one":
            out = out / expanded(stabilised(self.started, 0.0), out)
            books = {name: amount / stabilised(self.started, 0.0) for name, amount in books.items()}
        return Result(out, warnings=notes, diagnostics=books)

    def _choose(self, step: Step) -> Any:
        if self.reading:
            return step.plain()
        rule = self.spec.book.find(step)
        if rule is None:
            return run_uncovered(step, self.spec.uncovered)
        step.session.note(step, str(rule))
        return rule(step)


def stopped(session: Session) -> ModelError:
    """The error of a score that rules cut off from what is explained."""
    last = session.stopped
    return ModelError(
        Code.NOT_DIFFERENTIABLE,
        "Under these rules the score does not depend on what is explained",
        got=None if last is None else f"nothing behind {last}, whose output counts as a constant",
        fix="Gates, exponentials, softmaxes, divisors and deviations of norms count as constants: let the "
        "model return what comes before one at its end, explain another layer, or use deeplift; "
        "elsewhere look for .detach() in the model's forward",
    )


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


_SAME: "WeakKeyDictionary[Known, set[int]]" = WeakKeyDictionary()
"""Engines whose forward was compared, by the model as it was then."""


def check_same(outputs: Any, problem: Problem, call: Call, engine: Any) -> None:
    """The forward under rules must give the plain forward's outputs.

    They are compared where those are known; else one row is run again, once for a model and engine.

    Raises:
        ModelError: RULE_CHANGED_OUTPUT.
    """
    found = plain_outputs(outputs)
    if not isinstance(found, Tensor) or not found.is_floating_point():
        return
    plain = problem.decision.outputs
    if plain is not None:
        plain = plain[call.owner]
    else:
        compared = _SAME.setdefault(known(problem.task.model), set())
        if mark(engine) in compared:
            return
        compared.add(mark(engine))
        with torch.no_grad():
            found, plain = found[:1], plain_outputs(call.first())
    if not isinstance(plain, Tensor):
        return
    gap = (found.detach() - plain).flatten(1).abs().amax(1)
    size = plain.flatten(1).abs().amax(1)
    limit = SAME_OUTPUT.get(coarser(found.dtype, problem.x.dtype), 1e-2)
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
    *others, part = task.parts or (None,)
    if others:
        return None  # every input has its own, and an operation does not say which it reads
    if part is None:
        return low, high
    if task.low is None:
        mean, std = (along(task.parts, name, other).to(low) for name, other in (("mean", 0.0), ("std", 1.0)))
        low, high = ((end - mean) / std for end in (low, high))
    if part.channels not in (1, None):  # a model may turn its axes before it reads: one box for all channels
        return low.amin(), high.amax()
    return low, high


_MERGED: "WeakKeyDictionary[Task, tuple[tuple[Any, ...], nn.Module]]" = WeakKeyDictionary()


def merged_copy(task: Task, x: Tensor, context: Context) -> nn.Module:
    """A copy with batch norm merged into the convolutions before it, or the model itself.

    At a layer it is the model itself: the layers of a copy give something else.

    Args:
        task: whose model.
        x: (1, *f) a sample to check copies on.
        context: of the sample.
    """
    if task.at_layers:
        return task.model
    now = fingerprint(task.model)
    known = _MERGED.get(task)
    if known is None or known[0] != now:
        found = candidates(task.model, lambda model: task.forward(x, context, model))
        copies = (c.model for c in found if c.folded and not c.channels_last)
        known = (now, next(copies, task.model))
        _MERGED[task] = known
    return known[1]


@runtime_checkable
class HasRules(Protocol):
    """An engine that can say which rule each operation gets."""

    def report(self, problem: Problem) -> Found: ...


def coverage_of(engine: HasRules, problem: Problem) -> list[Covered]:
    """Every operation that depends on the input and the rule it gets from ``engine``, on one sample."""
    found = engine.report(problem.with_(x=problem.x[:1], owner=problem.everyone[:1]))
    return [Covered(name, module, rule, count) for (name, module, rule), count in found.items()]


@value
class Contrastive:
    """Relevance of a score minus that of its dual, the score with the last weights' signs turned over.

    Args:
        engine: the rules, started with relevance 1.
        negated: rule of the last weighted operation in the dual pass.
    """

    engine: Backward
    negated: BackwardRule

    def run(self, problem: Problem) -> Result:
        """Two forward and two backward rows per sample."""
        job = _Run(self.engine, problem).go()
        last = f"layer:{job.session.layers - 1}"
        dual = replace(self.engine, book=self.engine.book.before(((last, self.negated),)))
        ours, theirs = job.result(), dual.run(problem)
        return Result(ours.attribution - theirs.attribution, warnings=ours.warnings)

    def report(self, problem: Problem) -> Found:
        """Rules by operation of the score's own pass."""
        return self.engine.report(problem)
