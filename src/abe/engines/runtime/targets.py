"""Predictions, what they mean, and which decision is explained."""

from typing import Any, Protocol

import torch
from torch import Tensor

from abe.engines.runtime.evaluator import Evaluator
from abe.engines.runtime.work import Settle, Work
from abe.errors import Code, SpecError, TargetError, note
from abe.objectives import objective_name
from abe.task.base import Context, Task
from abe.types import Objective


class Decision:
    """What a model says of some samples, and which of it is explained.

    Either the target is given, or it is asked for and settled by the first pass that runs the samples:
    from their outputs follow what the numbers are, the prediction, and whether the target exists.

    Args:
        target: (b,) or (b, m) the explained entries, where they are known.
        outputs: what the model returned for the samples, where it is known.
        asked: the target as a user gave it: None for the prediction, one for all, one each, names.
    """

    def __init__(self, target: Tensor | None = None, *, outputs: Any = None, asked: Any = None) -> None:
        self.partial = target
        """The targets, of which those of samples that no pass has run yet are not settled."""
        self.outputs = outputs
        self.complete = target is not None
        self._asked = asked

    @property
    def target(self) -> Tensor:
        """The targets.

        Raises:
            RuntimeError: no pass has run the samples yet.
        """
        if self.partial is None or not self.complete:
            raise RuntimeError("the decision is not settled: run the samples first")
        return self.partial

    def first(self, task: Task, n: int) -> "Decision":
        """The decision about the first of n samples alone."""
        if self.complete:
            return Decision(self.target[:1], outputs=None)
        asked = None if self._asked is None else as_target(task, self._asked, n)[:1]
        return Decision(asked=asked)

    def settler(self, problem: "Undecided") -> Settle:
        """A function that settles the targets of rows from their outputs, for one pass over all samples."""
        n, parts = len(problem.x), dict[int, Any]()
        asked = None if self._asked is None else as_target(problem.task, self._asked, n)
        self.partial = None

        def settle(outputs: Any, rows: Tensor) -> Tensor:
            if not parts:
                self._settle_kind(problem, outputs, rows)
            task, device = problem.evaluator.task, problem.x.device
            if asked is None:
                chosen = _predicted(task, outputs, len(rows), device)
            else:
                chosen = asked.to(device)[rows]
                _check_range(outputs, chosen, rows)
            plain = outputs.detach() if isinstance(outputs, Tensor) else outputs
            if len(rows) == n:
                self.partial, self.outputs, self.complete = chosen, plain, True
                return chosen
            parts[int(rows[0])] = plain
            if self.partial is None:
                self.partial = chosen.new_zeros((n, *chosen.shape[1:]))
            self.partial[rows] = chosen
            if int(rows[-1]) == n - 1:
                kept = [parts[start] for start in sorted(parts)]
                self.outputs = torch.cat(kept) if isinstance(kept[0], Tensor) else kept[0]
                self.complete = True
            return chosen

        return settle

    def _settle_kind(self, problem: "Undecided", outputs: Any, rows: Tensor) -> None:
        """What the outputs are, told by those of all samples: probabilities must be so throughout."""
        evaluator = problem.evaluator
        task = evaluator.task
        if task.output_kind == "auto" and isinstance(outputs, Tensor):
            alike = _like_probabilities(outputs)
            if alike and len(rows) < len(problem.x):
                rest = torch.arange(len(rows), len(problem.x), device=rows.device)
                work = Work("forward", lambda r: problem.x[rest[r]], rest, problem.context)
                alike = all(_like_probabilities(chunk.outputs) for chunk in evaluator.run(work))
            evaluator.task = task.reading(output_kind="probabilities" if alike else "logits")
            if alike:
                problem.warnings.append(note(Code.PROBABILITY_OUTPUT, RECOGNISED))
        if evaluator.task.output_kind == "regression" and getattr(problem.objective, "needs_classes", False):
            raise SpecError(
                Code.UNSUPPORTED,
                "A regression has no class probabilities",
                got=f"the objective {objective_name(problem.objective)}",
                fix='Choose an objective that reads the output, such as "logit"',
            )


class Undecided(Protocol):
    """What a decision needs to know of its request."""

    evaluator: Evaluator
    x: Tensor
    context: Context
    objective: Objective
    warnings: list[str]

    @property
    def task(self) -> Task: ...


RECOGNISED = (
    "The model returns probabilities, so their logarithm serves as class score; "
    'pass output_kind="logits" to the task if these are scores after all'
)


def _like_probabilities(outputs: Tensor) -> bool:
    if outputs.ndim != 2 or outputs.shape[1] < 2 or not outputs.is_floating_point():
        return False
    if bool((outputs < 0).any()):
        return False
    sums = outputs.sum(1)
    return bool(torch.isclose(sums, torch.ones_like(sums), atol=1e-4).all())


def _predicted(task: Task, outputs: Any, n: int, device: torch.device) -> Tensor:
    if not isinstance(outputs, Tensor):
        return torch.zeros(n, dtype=torch.long, device=device)
    if outputs.ndim == 2 and (task.output_kind != "regression" or outputs.shape[1] == 1):
        return (outputs.int() if outputs.dtype == torch.bool else outputs).argmax(1)
    shape = tuple(outputs.shape)
    raise TargetError(
        Code.TARGET_MISSING,
        "It is not clear which output to explain",
        got=f"a {'regression' if task.output_kind == 'regression' else 'model'} with output shape {shape}",
        fix="Pass target=… with the index of the output"
        + ("" if len(shape) == 2 else ", one number per axis"),
    )


def as_target(task: Task, target: Any, n: int) -> Tensor:
    """(n,) or (n, m) class numbers of a target as a user gives it: one for all or one each, names too."""
    if isinstance(target, str):
        target = task.class_index(target)
    if isinstance(target, list | tuple) and any(isinstance(t, str) for t in target):
        target = [task.class_index(t) if isinstance(t, str) else t for t in target]
    try:
        tensor = torch.as_tensor(target)
    except (TypeError, ValueError, RuntimeError) as problem:
        raise _bad_type(target) from problem
    if tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool:
        raise _bad_type(target)
    tensor = tensor.detach().long()
    if tensor.ndim == 0:
        return tensor.expand(n).clone()
    if len(tensor) != n:
        raise TargetError(
            Code.TARGET_TYPE,
            "Give one target for all samples or one each",
            got=f"{len(tensor)} targets for {n} samples",
        )
    return tensor


def _bad_type(target: Any) -> TargetError:
    return TargetError(
        Code.TARGET_TYPE,
        "A target is a class number or name",
        got=f"{type(target).__name__} {str(target)[:40]}",
        expected="an integer, a class name, or one of these per sample",
    )


def _check_range(outputs: Any, target: Tensor, rows: Tensor) -> None:
    if not isinstance(outputs, Tensor):
        return
    axes = outputs.shape[1:]
    numbers = target[:, None] if target.ndim == 1 else target
    if numbers.shape[1] != len(axes):
        raise TargetError(
            Code.TARGET_TYPE,
            "The target does not name one entry of the output",
            got=f"{numbers.shape[1]} numbers per sample",
            expected=f"{len(axes)}, one per output axis {tuple(axes)}",
        )
    sizes = torch.tensor(axes, device=target.device)
    bad = (numbers < 0) | (numbers >= sizes)
    if bool(bad.any()):
        row, axis = bad.nonzero()[0].tolist()
        raise TargetError(
            Code.TARGET_RANGE,
            f"There is no output {int(numbers[row, axis])}",
            got=f"target {int(numbers[row, axis])} for sample {int(rows[row])}",
            expected=f"0 to {axes[axis] - 1}",
        )
