"""Predictions, what they mean, and which decision is explained."""

from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from abe.engines.runtime.evaluator import Evaluator, follows_rows
from abe.engines.runtime.work import Settle, Work
from abe.errors import Code, ModelError, SpecError, TargetError, note
from abe.objectives import objective_name
from abe.task.base import Context, Task
from abe.task.outputs import SAY_KIND, OutputKind, check_outputs, doubt, kind_of, predicted
from abe.task.outputs import sizes as sizes_of
from abe.task.targets import fitted, numbers_of
from abe.types import Objective


class Decision:
    """What a model says of some samples, and which of it is explained.

    Either the target is given, or it is asked for and settled by the first pass that runs the samples:
    from their outputs follow what the numbers are, the prediction, and whether the target exists.

    Args:
        target: (b,) or (b, m) the explained entries, where they are known.
        outputs: what the model returned for the samples, where it is known.
        asked: the target as a user gave it: None for the prediction, one for all, one each, names.
        among: of how many samples that was said, where these are only the first of them.
    """

    def __init__(
        self,
        target: Tensor | None = None,
        *,
        outputs: Any = None,
        asked: Any = None,
        among: int | None = None,
    ) -> None:
        self.partial = target
        """The targets, of which those of samples that no pass has run yet are not settled."""
        self.outputs = outputs
        self.complete = target is not None
        self.named = True
        """Whether the targets name outputs; not where the objective of a user finds its own."""
        self._asked = asked
        self._among = among

    @property
    def target(self) -> Tensor:
        """The targets.

        Raises:
            RuntimeError: no pass has run the samples yet.
        """
        if self.partial is None or not self.complete:
            raise RuntimeError("the decision is not settled: run the samples first")
        return self.partial

    def first(self, n: int) -> "Decision":
        """The decision about the first of n samples alone."""
        if self.complete:
            return Decision(self.target[:1], outputs=None)
        return Decision(asked=self._asked, among=self._among or n)

    def settler(self, problem: "Undecided") -> Settle:
        """A function that settles the targets of rows from their outputs, for one pass over all samples."""
        n, parts = len(problem.x), dict[int, Any]()
        given = None if self._asked is None else numbers_of(self._asked, problem.task.class_index)
        entry = isinstance(self._asked, tuple)
        self.partial = None
        asked: Tensor | None = None

        def settle(outputs: Any, rows: Tensor) -> Tensor:
            nonlocal asked
            if not parts:
                _refuse_complex(problem, outputs)
                self._settle_kind(problem, outputs, rows)
                if given is not None:
                    shape = tuple(outputs.shape[1:]) if isinstance(outputs, Tensor) else (1,)
                    free = _sizes(problem, outputs) is None
                    each = fitted(given, self._among or n, shape, free=free, entry=entry)
                    asked = each[:n].to(problem.x.device)
            task = problem.evaluator.task
            if asked is None:
                chosen, self.named = _predicted(problem, outputs, len(rows))
            else:
                chosen = asked[rows]
                _check_range(_sizes(problem, outputs), chosen, rows, task)
            plain = outputs.detach() if isinstance(outputs, Tensor) else outputs
            before = next(iter(parts.values()), None)
            if (
                isinstance(plain, Tensor)
                and isinstance(before, Tensor)
                and plain.shape[1:] != before.shape[1:]
            ):
                raise follows_rows(before.shape[1], plain.shape[1])
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
        """What the outputs are, told by those of all samples, and whether they can be what the task says."""
        evaluator = problem.evaluator
        task = evaluator.task
        if task.output_kind == "auto":
            evaluator.task = task = task.reading(output_kind=_recognised(problem, outputs, rows))
            if task.output_kind == "probabilities":
                problem.warnings.append(note(Code.PROBABILITY_OUTPUT, RECOGNISED))
            elif task.output_kind == "sigmoid":
                problem.warnings.append(note(Code.OUTPUT_KIND, TWO_NAMES))
        else:
            remark = doubt(task.output_kind, outputs)
            problem.warnings += [note(Code.OUTPUT_KIND, remark)] if remark else []
        check_outputs(task.output_kind, outputs, task.labels)
        if getattr(problem.objective, "needs_classes", False):
            task.check_classes(outputs, f"the objective {objective_name(problem.objective)}")
            problem.warnings += task.remarks(outputs)


@runtime_checkable
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
TWO_NAMES = (
    "The task has two names for one output, which is read as the logit of the second; "
    "pass output_kind= to the task if it is something else"
)


def _recognised(problem: Undecided, outputs: Any, rows: Tensor) -> OutputKind:
    """The kind of outputs of which nothing was said: probabilities must be so for every sample.

    Raises:
        SpecError: two names for one output that may be a logit as well as a probability.
    """
    labels = problem.task.labels
    names = None if labels is None else len(labels)
    found = kind_of(outputs, names)
    if (found is None or found == "probabilities") and len(rows) < len(problem.x):
        rest = torch.arange(len(rows), len(problem.x), device=rows.device)
        work = Work("forward", lambda r: problem.x[rest[r]], rest, problem.context)
        for chunk in problem.evaluator.run(work):
            other = kind_of(chunk.outputs, names)
            if other != found:
                found = other
                break
    if found is None:
        raise SpecError(
            Code.OUTPUT_KIND,
            "One output between 0 and 1 for two named classes may be a probability or a logit",
            got=f"labels {labels}",
            fix=SAY_KIND,
        )
    return found


def _refuse_complex(problem: Undecided, outputs: Any) -> None:
    """Scores of classes are real; an objective of one's own may read anything."""
    reads = getattr(problem.objective, "reads_logits", False)
    if reads and isinstance(outputs, Tensor) and outputs.is_complex():
        raise ModelError(
            Code.OUTPUT_TYPE,
            "The output to explain is no tensor of real numbers",
            got=str(outputs.dtype),
            fix="Pass output= that makes real numbers of it, or an objective of your own",
        )


def _sizes(problem: Undecided, outputs: Any) -> tuple[int, ...] | None:
    """How many targets there are along every axis; None where the objective says what a target is."""
    own = not getattr(problem.objective, "reads_logits", False)
    if not isinstance(outputs, Tensor) or (own and outputs.ndim != 2):
        return None
    return sizes_of(problem.evaluator.task.output_kind, outputs)


def _predicted(problem: Undecided, outputs: Any, n: int) -> tuple[Tensor, bool]:
    """The targets where none is asked for, and whether they name outputs."""
    device, kind = problem.x.device, problem.evaluator.task.output_kind
    single = isinstance(outputs, Tensor) and outputs.ndim == 2 and outputs.shape[1] == 1
    if isinstance(outputs, Tensor) and outputs.ndim == 2 and (kind != "regression" or single):
        return predicted(kind, outputs), True
    if not getattr(problem.objective, "reads_logits", False) or not isinstance(outputs, Tensor):
        return torch.zeros(n, dtype=torch.long, device=device), not isinstance(outputs, Tensor)
    shape = tuple(outputs.shape)
    raise TargetError(
        Code.TARGET_MISSING,
        "It is not clear which output to explain",
        got=f"a {'regression' if kind == 'regression' else 'model'} with output shape {shape}",
        fix="Pass target=… with the index of the output"
        + ("" if len(shape) == 2 else ", one number per axis, or an objective of your own")
        + ("; abe.segmentation_task reads classes over a region" if len(shape) == 4 else ""),
    )


def _check_range(sizes: tuple[int, ...] | None, target: Tensor, rows: Tensor, task: Task) -> None:
    if sizes is None:
        return
    numbers = target[:, None] if target.ndim == 1 else target
    bad = (numbers < 0) | (numbers >= torch.tensor(sizes, device=target.device))
    if bool(bad.any()):
        row, axis = bad.nonzero()[0].tolist()
        one = axis == 0 and sizes[0] == 1 and task.output_kind == "logits"
        raise TargetError(
            Code.TARGET_RANGE,
            f"There is no output {int(numbers[row, axis])}",
            got=f"target {int(numbers[row, axis])} for sample {int(rows[row])}",
            expected=f"0 to {sizes[axis] - 1}",
            fix=SAY_KIND if one else None,
        )
