"""`attack`: all samples and restarts in lockstep, rows that are done leave, one result per sample."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, cast, runtime_checkable

import torch
from torch import Tensor

from abe import words
from abe.checks import Count, check_count, listed
from abe.draws import Source
from abe.engines.path.active import Active
from abe.engines.path.geometry import lengths
from abe.engines.path.step import (
    Point,
    State,
    UserUpdate,
    as_update,
    reads_gradient,
    take_step,
)
from abe.engines.path.steps.aim import Goal
from abe.engines.runtime.evaluator import Execution
from abe.engines.runtime.problem import Problem
from abe.engines.runtime.request import open_request
from abe.engines.runtime.work import score as score_of
from abe.errors import Code, SpecError, TargetError, note
from abe.registry import updates
from abe.task.base import Lifted, Task
from abe.task.outputs import OF_LABELS
from abe.task.start import Given, entrance
from abe.types import Cost

BLOCK_BYTES = 64 * 2**20
"""Memory that one tensor of rows attacked together may take; further samples wait for their turn."""


@dataclass
class Searched:
    """What a loop hands back, per row.

    Attributes:
        x: (n, *f) the last or the best points.
        outputs: (n, C) the model's output there.
        queries: (n,) forward rows spent on each row.
    """

    x: Tensor
    outputs: Tensor
    queries: Tensor


@runtime_checkable
class OwnLoop(Protocol):
    """An attack that is more than repeated steps; it may also be an `Update`."""

    def search(self, problem: Problem, early_stop: bool) -> Searched:
        """Attack every sample of a problem whose objective is the `Goal`."""
        ...


@dataclass(repr=False)
class AdversarialResult:
    """What an attack found, per sample.

    Attributes:
        x: (b, *f) the inputs.
        x_adv: (b, *f) the adversarial inputs; for a failed sample the nearest to success that was found.
        success: (b,) whether the label changed (or became the target).
        label_before, label_after: (b,) predictions at ``x`` and ``x_adv``.
        label: (b,) the class attacked away from, or aimed at where ``targeted``.
        targeted: whether the attack was targeted.
        distance: norm -> (b,) size of ``x_adv − x``; ``"linf"``, ``"l2"`` and ``"l0"``, the share of
            inputs changed.
        queries: (b,) forward rows spent on each sample, all restarts together.
        names: of the samples.
        classes: names of the classes, where the task has some.
        attack: name and parameters of the attack.
        cost: model work in all.
        warnings: notes with codes.
    """

    x: Tensor
    x_adv: Tensor
    success: Tensor
    label_before: Tensor
    label_after: Tensor
    label: Tensor
    targeted: bool
    queries: Tensor
    names: list[str]
    attack: str
    cost: Cost
    classes: Sequence[str] | None = None
    warnings: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.x)

    def __repr__(self) -> str:
        b, won = len(self), int(self.success.sum())
        before, after = (map(self.class_name, one.tolist()) for one in (self.label_before, self.label_after))
        sizes = self.distance
        told = [
            ("samples", words.some(self.names)),
            ("labels", words.some(f"{one} → {other}" for one, other in zip(before, after, strict=True))),
            ("x_adv", words.shape(self.x_adv)),
            *((f"distance {norm}", words.numbers(size)) for norm, size in sizes.items()),
            ("queries", words.numbers(self.queries)),
        ]
        aim = "targeted, " if self.targeted else ""
        title = f"AdversarialResult of {self.attack}: {aim}{won} of {b} fooled"
        return words.card(title, told, self.warnings)

    @property
    def correct(self) -> Tensor:
        """(b,) whether the model was right, or did not decide for the class aimed at, before the attack."""
        return (self.label_before == self.label) != self.targeted

    @property
    def success_rate(self) -> float:
        """Share of the samples with something to attack whose attack succeeded; NaN where there is none."""
        return float(self.success[self.correct].double().mean())

    @property
    def distance(self) -> dict[str, Tensor]:
        """Norm -> (b,) size of the change."""
        change = (self.x_adv - self.x).flatten(1)
        return {
            "linf": change.abs().amax(1),
            "l2": change.norm(dim=1),
            "l0": (change != 0).to(change).mean(1),
        }

    def class_name(self, index: int) -> str:
        """Name of a class, or its number."""
        names = self.classes or ()
        return str(names[index]) if 0 <= index < len(names) else str(index)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the images, as numbers and text."""
        sizes = self.distance
        samples = [
            {
                "name": self.names[i],
                "success": bool(self.success[i]),
                "before": self.class_name(int(self.label_before[i])),
                "after": self.class_name(int(self.label_after[i])),
                "queries": int(self.queries[i]),
                **{norm: float(size[i]) for norm, size in sizes.items()},
            }
            for i in range(len(self))
        ]
        return {
            "attack": self.attack,
            "targeted": self.targeted,
            "success_rate": self.success_rate if bool(self.correct.any()) else None,
            "samples": samples,
            "forward_rows": self.cost.forward_rows,
            "backward_rows": self.cost.backward_rows,
            "seconds": self.cost.seconds,
            "warnings": self.warnings,
        }

    def table(self) -> Any:
        """A `rich.table.Table` with one line per sample."""
        from abe.robustness.tables import attack_table

        return attack_table(self)


@entrance
def attack(
    task: Given,
    raw: Any,
    method: Any = "pgd",
    *,
    steps: Count | None = None,
    targeted: bool = False,
    target: Any = None,
    label: Any = None,
    restarts: Count = 1,
    early_stop: bool = True,
    seed: int = 0,
    ids: Sequence[int | str] | None = None,
    draws: Source = None,
    execution: Execution = "auto",
    chunk: int | None = None,
    progress: bool | Callable[[int], None] = True,
    **params: Any,
) -> AdversarialResult:
    """Change inputs of ``task`` a little so that the model decides otherwise.

    Args:
        task: the model and how to read it.
        raw: photographs, paths, arrays or a tensor in the task's bounds.
        method: a registered attack, a `chain`, an update of one's own, or a function
            ``point -> next points`` (``point.gradient`` descends into the attack).
        steps: how many steps; the attack's own number by default.
        targeted: aim for ``target`` instead of away from the label.
        target: class to aim for, one or per sample; giving one makes the attack targeted.
        label: true classes; the predictions by default.
        restarts: independent runs per sample, of which the best is kept.
        early_stop: a sample leaves as soon as one of its runs has succeeded.
        seed: of all random draws.
        ids: identities the draws depend on; by default each sample's content.
        draws: another source of randomness than the seed.
        execution: see `abe.explain`.
        chunk: rows at a time; found by timing when None.
        progress: show a bar after two seconds, or a function called with rows done.
        **params: parameters of the attack such as ``eps``, ``alpha`` and ``norm``, when ``method`` is a
            name, and what of the samples is asked about, such as a region, where the task asks for it.

    Returns:
        One `AdversarialResult` for the batch.

    Raises:
        AbeError: anything unusable, before attacking; the model is left as found.

    Example:
        >>> import torch, abe
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3, bias=False))
        >>> task = abe.image_task(model)
        >>> result = abe.attack(task, torch.full((1, 3, 2, 2), 0.5), "bim", eps=0.4, steps=5)
        >>> bool((result.distance["linf"] <= 0.4 + 1e-6).all())
        True
    """
    asked, params = task.asked(params)
    if label is not None and "label" in task.asks and not isinstance(raw, Lifted):
        asked["label"] = label
    update, name = resolve(method, params, steps)
    count = _steps(update, steps)
    targeted = targeted or target is not None
    if task.output_kind == "regression":
        raise _no_classes(task, "numbers")
    _check_request(update, targeted, target, restarts)
    goal = Goal(loss=getattr(update, "loss", "cross_entropy"), targeted=targeted)
    with open_request(
        task,
        raw,
        target=target if targeted else None if "label" in asked else label,
        objective=goal,
        seed=seed,
        ids=ids,
        draws=draws,
        execution=execution,
        chunk=chunk,
        progress=progress,
        label=name,
        rows=lambda n: count * n * restarts * 2.0,
        asked=asked,
    ) as problem:
        outputs = problem.known_outputs
        _check_classes(problem.task, outputs)
        _refuse_reached(problem, outputs)
        best = _restarted(update, problem, count, restarts, early_stop)
        return _result(problem, best, name)


def resolve(method: Any, params: dict[str, Any], steps: int | None = None) -> tuple[Any, str]:
    """The update behind a name, pair, value or function, and what to call it.

    Raises:
        SpecError: no such attack or parameter, or something that cannot move points.
    """
    if isinstance(method, str):
        entry = updates.get(method)
        if steps is not None and "steps" in entry.parameters():
            check_count("steps", steps)
            params = {"steps": steps, **params}
        inner = ", ".join(f"{k}={v!r}" for k, v in params.items())
        return updates.make(method, **params), f"{entry.name}({inner})"
    if params:
        raise SpecError(
            Code.UNKNOWN_PARAMETER,
            "Parameters go with an attack's name",
            got=f"{next(iter(params))}= beside a finished update",
            fix="Give them to the update itself",
        )
    found = updates.resolve(method)
    if isinstance(found, OwnLoop) and not isinstance(found, type):
        return found, type(found).__name__
    update = as_update(found)
    named = update.function if isinstance(update, UserUpdate) else type(update)
    return update, getattr(named, "__name__", "update")


def _steps(update: Any, steps: int | None) -> int:
    chosen = getattr(update, "steps", 10) if steps is None else steps
    check_count("steps", chosen)
    return chosen


def _check_request(update: Any, targeted: bool, target: Any, restarts: int) -> None:
    if targeted and target is None:
        raise TargetError(
            Code.TARGET_MISSING, "A targeted attack needs a class to aim for", fix="Pass target=…"
        )
    if restarts > 1 and getattr(update, "stochastic", True) is False:
        raise SpecError(
            Code.BAD_PARAMETER,
            "Every restart of this attack would be the same",
            got=f"restarts={restarts} for an attack without random draws",
            fix='Use one that begins at a random point, such as "pgd"',
        )


def _check_classes(task: Task, outputs: Any) -> None:
    least = 1 if task.output_kind in OF_LABELS else 2
    if not isinstance(outputs, Tensor) or outputs.ndim != 2 or task.classes(outputs) < least:
        shape = f"shape {tuple(outputs.shape)}" if isinstance(outputs, Tensor) else type(outputs).__name__
        raise _no_classes(task, shape)


def _no_classes(task: Task, outputs: str) -> SpecError:
    return SpecError(
        Code.UNSUPPORTED,
        "An attack changes the predicted class, and this task has no two classes",
        got=f"{task.output_kind} output of {outputs}",
        expected="(samples, classes) with at least two classes",
        fix='Say what one output is by output_kind= of the task: "sigmoid" or "probabilities"'
        if task.output_kind != "regression"
        else "Explain it: methods, and curves on the score, need no classes",
    )


def _refuse_reached(problem: Problem, outputs: Tensor) -> None:
    """A targeted attack at the class that is predicted already has nothing to do."""
    if not cast("Goal", problem.objective).targeted:
        return
    same = problem.task.says(outputs, problem.target).nonzero().flatten()
    if len(same):
        who = listed(same)
        raise TargetError(
            Code.TARGET_REACHED,
            "The model predicts the target class already",
            got=f"class {problem.task.name(int(problem.target[same[0]]))} for sample {who}",
            fix="Choose another target for these samples, or leave them out",
        )


def succeeded(task: Task, outputs: Tensor, goal: Goal, target: Tensor) -> Tensor:
    """(n,) whether rows with these outputs have reached the goal for their class (n,)."""
    there = task.says(outputs, target)
    return there if goal.targeted else ~there


def _restarted(update: Any, problem: Problem, steps: int, restarts: int, early_stop: bool) -> Searched:
    """The best of all restarts of every sample, in blocks of samples that fit into memory."""
    size = max(1, BLOCK_BYTES // (restarts * problem.x[0].numel() * problem.x.element_size()))
    blocks = problem.everyone.split(size)
    found = [_block(update, problem, block, steps, restarts, early_stop) for block in blocks]
    return Searched(*(torch.cat([getattr(f, name) for f in found]) for name in ("x", "outputs", "queries")))


def _block(
    update: Any, problem: Problem, block: Tensor, steps: int, restarts: int, early_stop: bool
) -> Searched:
    owner = block.repeat_interleave(restarts)
    number = torch.arange(restarts, device=owner.device).repeat(len(block)) if restarts > 1 else None
    runs = problem.with_(owner=owner, draw=number)
    runs.decision.outputs = problem.known_outputs[owner]
    if isinstance(update, OwnLoop):
        found = update.search(runs, early_stop)
    else:
        found = _Loop(update, runs, restarts, steps, early_stop).run()
    return found if restarts == 1 else _best(found, runs, restarts)


def _best(found: Searched, runs: Problem, restarts: int) -> Searched:
    """Per sample the nearest success, or else the run with the lowest score."""
    goal = cast("Goal", runs.objective)
    won = succeeded(runs.task, found.outputs, goal, runs.target)
    size = lengths(found.x - runs.x)
    score = score_of(runs.task, found.outputs, goal, runs.target)
    nearest = torch.where(won, size, torch.inf).view(-1, restarts)
    lowest = score.to(size).view(-1, restarts)
    pick = torch.where(nearest.isfinite().any(1), nearest.argmin(1), lowest.argmin(1))
    rows = torch.arange(len(pick), device=pick.device) * restarts + pick
    return Searched(found.x[rows], found.outputs[rows], found.queries.view(-1, restarts).sum(1))


def _result(problem: Problem, found: Searched, name: str) -> AdversarialResult:
    goal = cast("Goal", problem.objective)
    success = succeeded(problem.task, found.outputs, goal, problem.target)
    before = problem.task.predicted(problem.known_outputs)
    warnings = [*problem.warnings, *_wrong_before(before, problem.target, goal), *not_crossed(~success)]
    return AdversarialResult(
        x=problem.x.detach(),
        x_adv=found.x.detach(),
        success=success,
        label_before=before,
        label_after=problem.task.predicted(found.outputs),
        label=problem.target,
        targeted=goal.targeted,
        queries=found.queries,
        names=list(problem.names),
        attack=name,
        cost=problem.evaluator.cost,
        classes=problem.task.labels,
        warnings=list(dict.fromkeys(warnings)),
    )


def not_crossed(failed: Tensor) -> list[str]:
    """A note about the samples (b,) of a failed attack."""
    if not bool(failed.any()):
        return []
    text = f"The attack on sample {listed(failed)} did not cross; the returned input keeps its class"
    return [note(Code.NOT_CROSSED, text)]


def _wrong_before(before: Tensor, label: Tensor, goal: Goal) -> list[str]:
    """A note about samples that the model is wrong about without an attack."""
    wrong = before != label
    if goal.targeted or not bool(wrong.any()):
        return []
    text = (
        f"The model is wrong about sample {listed(wrong)} already, which therefore counts in no success rate"
    )
    return [note(Code.NO_CHANGE, text)]


class _Loop:
    """Repeated steps of an update; rows of a sample leave together once one of them has succeeded.

    A step needs the gradient at the point, and its forward pass tells whether the point is there
    already: one gradient row per step and one forward row at the end.
    """

    def __init__(self, update: Any, problem: Problem, restarts: int, steps: int, early_stop: bool) -> None:
        self.update = update
        self.problem = problem
        self.group = problem.everyone // restarts
        self.steps = steps
        self.early_stop = early_stop
        self.goal = cast("Goal", problem.objective)
        self.x = problem.x.clone()
        self.outputs = problem.known_outputs.detach().clone()
        self.queries = torch.ones(len(problem.x), dtype=torch.long, device=problem.x.device)

    def run(self) -> Searched:
        everyone = self.problem.everyone
        rows = everyone[self._going(everyone)]
        gradient = self._look(rows, gradient=True) if self._reads(0) and len(rows) else None
        active: Active[tuple[State, Tensor | None]] = Active(rows, ({}, gradient))
        for step in active.steps(self.steps):
            state, gradient = active.carried
            state = self._step(active.rows, gradient, state, step)
            active.carried = state, self._look(active.rows, gradient=self._reads(step + 1))
            active.keep(self._going(active.rows))
        return Searched(self.x, self.outputs, self.queries)

    def _reads(self, step: int) -> bool:
        return step < self.steps and reads_gradient(self.update, step)

    def _going(self, rows: Tensor) -> Tensor:
        """(n,) which of the rows go on: those of samples without success, or all without early stopping."""
        if not self.early_stop:
            return torch.ones_like(rows, dtype=torch.bool)
        won = succeeded(self.problem.task, self.outputs, self.goal, self.problem.target)
        over = torch.zeros(int(self.group.max()) + 1, dtype=torch.bool, device=rows.device)
        over[self.group[won]] = True
        return ~over[self.group[rows]]

    def _step(self, rows: Tensor, gradient: Tensor | None, state: State, step: int) -> State:
        x = self.x[rows]
        point = Point(
            x=x,
            start=self.problem.x[rows],
            sample=self.problem.x[rows],
            gradient=x.new_empty(0) if gradient is None else gradient,
            score=score_of(self.problem.task, self.outputs[rows], self.goal, self.problem.target[rows]),
            outputs=self.outputs[rows],
            owner=rows,
            step=step,
            steps=self.steps,
            problem=self.problem,
        )
        spent = self.problem.evaluator.cost.forward_rows
        self.x[rows], state = take_step(self.update, point, state)
        # Every active row costs the same, so its share of the total is exact.
        self.queries[rows] += (self.problem.evaluator.cost.forward_rows - spent) // len(rows)
        return state

    def _look(self, rows: Tensor, *, gradient: bool) -> Tensor | None:
        """Where the rows came to: outputs, and gradients for the next step."""
        x = self.x[rows]
        gradients = torch.zeros_like(x)
        run = self.problem.gradient if gradient else self.problem.forward
        for chunk in run(x, rows):
            self.outputs[rows[chunk.rows]] = chunk.outputs
            if gradient:
                gradients[chunk.rows] = chunk.gradients
        self.queries[rows] += 1
        return gradients if gradient else None
