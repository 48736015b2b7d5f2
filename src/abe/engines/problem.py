"""One explanation request: samples, the decision to explain, draws, and counted access to the model."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from abe.draws import mix
from abe.engines.batching import Around, Chunk, Consume, Evaluator, Head, Kind, Make
from abe.errors import Code, TargetError, note
from abe.objectives import Captured
from abe.task.base import Context, Task
from abe.types import Draws, Key, Objective


@dataclass(eq=False)
class Problem:
    """Samples ``x`` (b, *f) whose score ``objective(model(x), target)`` is to be explained.

    Attributes:
        evaluator: runs and counts the model's rows.
        x: (b, *f) features in the task's bounds.
        context: other inputs, per sample.
        target: (b,) or (b, m) the explained entry of the output.
        objective: the score.
        draws: all randomness.
        ids: (b,) identities that randomness depends on.
        warnings: notes that go into the result.
    """

    evaluator: Evaluator
    x: Tensor
    context: Context
    target: Tensor
    objective: Objective
    draws: Draws
    ids: Sequence[int]
    warnings: list[str] = field(default_factory=list)
    known_outputs: Any = None

    @property
    def task(self) -> Task:
        """The task."""
        return self.evaluator.task

    @property
    def bounds(self) -> tuple[Tensor, Tensor] | None:
        """(low, high) of valid inputs on the device of ``x``, or None."""
        found = self.task.bounds
        return None if found is None else (found[0].to(self.x), found[1].to(self.x))

    @property
    def everyone(self) -> Tensor:
        """(b,) all sample numbers."""
        return torch.arange(len(self.x), device=self.x.device)

    @cached_property
    def score(self) -> Tensor:
        """(b,) the score at the samples themselves."""
        outputs = self.known_outputs
        if isinstance(outputs, Tensor) and not self.objective.layers:
            if getattr(self.objective, "reads_logits", False):
                outputs = self.task.logits(outputs)
            return self.objective(outputs, self.target).detach().to(self.x)
        return self.scores(self.x, self.everyone)

    def scores(self, rows: Tensor, owner: Tensor) -> Tensor:
        """(n,) scores of given rows, each for its owner's target; forward only."""
        out = torch.empty(len(rows), device=rows.device, dtype=rows.dtype)

        def keep(chunk: Chunk) -> None:
            out[chunk.rows] = chunk.scores.to(out.dtype)

        self.forward(len(rows), rows.__getitem__, owner, keep)
        return out

    def keys(self, owner: Tensor, draw: Tensor) -> list[Key]:
        """Names of the draws with numbers ``draw`` (n,) of samples ``owner`` (n,)."""
        return [(self.ids[o], d) for o, d in zip(owner.tolist(), draw.tolist(), strict=True)]

    def forward(
        self, n: int, make: Make, owner: Tensor, consume: Consume, *, around: Around | None = None
    ) -> None:
        """Run rows without gradients; ``consume`` gets every `Chunk` with outputs and scores.

        ``around`` runs each chunk its own way, for example with a layer's output changed.
        """
        self._run("forward", n, make, owner, consume, around=around)

    def inner(
        self, n: int, make: Make, owner: Tensor, consume: Consume, *, around: Around, purpose: str
    ) -> None:
        """Run rows with autograd on, for gradients by tensors inside the model instead of the rows.

        ``around`` runs a chunk, takes these gradients and keeps what it needs until ``consume``;
        ``purpose`` names its kind of work, whose memory per row is of its own.
        """
        self._run("inner", n, make, owner, consume, around=around, purpose=purpose)

    def gradient(self, n: int, make: Make, owner: Tensor, consume: Consume) -> None:
        """Run rows with the gradient of each row's own score at the row."""
        self._run("gradient", n, make, owner, consume)

    def gradients(self, n: int, make: Make, owner: Tensor, heads: Sequence[Head], consume: Consume) -> None:
        """Run rows once and take the gradient of each of m scores: one forward and m backward rows each.

        Args:
            n: how many rows there are.
            make: (k,) row numbers to (k, *f) rows.
            owner: (n,) the sample each row belongs to.
            heads: m scores, each with a target for every row.
            consume: gets each `Chunk`, with scores (m, k) and gradients (m, k, *f).
        """
        self._run("gradient", n, make, owner, consume, heads=heads)

    def with_(
        self,
        *,
        x: Tensor | None = None,
        owner: Tensor | None = None,
        draw: Tensor | None = None,
        objective: Objective | None = None,
        target: Tensor | None = None,
    ) -> "Problem":
        """The same request for other rows, score or target; cost and draws are shared.

        Args:
            x: (n, *f) other samples.
            owner: (n,) which of this problem's samples each belongs to; default one to one.
            draw: (n,) numbers mixed into the identities, so that copies of a sample draw apart.
            objective: another score.
            target: (n, …) other targets.
        """
        who = self.everyone if owner is None else owner
        ids = [self.ids[o] for o in who.tolist()]
        if draw is not None:
            ids = [mix(i, d) for i, d in zip(ids, draw.tolist(), strict=True)]
        unchanged = x is None and owner is None
        return Problem(
            evaluator=self.evaluator,
            x=self.x[who] if x is None else x,
            context=self.context.take(who),
            target=self.target[who] if target is None else target,
            objective=objective or self.objective,
            draws=self.draws,
            ids=ids,
            warnings=self.warnings,
            known_outputs=self.known_outputs if unchanged else None,
        )

    def _run(
        self,
        kind: Kind,
        n: int,
        make: Make,
        owner: Tensor,
        consume: Consume,
        heads: Sequence[Head] = (),
        around: Around | None = None,
        purpose: str = "",
    ) -> None:
        self.evaluator.run(
            kind,
            n,
            make,
            owner=owner,
            target=self.target,
            context=self.context,
            objective=self.objective,
            consume=consume,
            heads=heads,
            around=around,
            purpose=purpose,
        )


def predict(evaluator: Evaluator, x: Tensor, context: Context) -> Any:
    """The model's outputs at the samples, one forward row each; only the first chunk's where no tensor."""
    kept: list[Any] = []
    everyone = torch.arange(len(x), device=x.device)
    evaluator.run(
        "forward",
        len(x),
        x.__getitem__,
        owner=everyone,
        target=everyone,
        context=context,
        objective=None,
        consume=lambda chunk: kept.append(chunk.outputs),
    )
    return torch.cat(kept) if isinstance(kept[0], Tensor) else kept[0]


def settle_output_kind(task: Task, outputs: Any, warnings: list[str]) -> None:
    """Recognise probabilities where the task left the kind of output open, and say so."""
    if task.output_kind != "auto" or not isinstance(outputs, Tensor):
        return
    task.output_kind = "logits"
    if outputs.ndim != 2 or outputs.shape[1] < 2 or not outputs.is_floating_point():
        return
    sums = outputs.sum(1)
    if bool((outputs >= 0).all()) and bool(torch.isclose(sums, torch.ones_like(sums), atol=1e-4).all()):
        task.output_kind = "probabilities"
        warnings.append(
            note(
                Code.PROBABILITY_OUTPUT,
                "The model returns probabilities, so their logarithm serves as class score; "
                'pass output_kind="logits" to the task if these are scores after all',
            )
        )


def settle_target(task: Task, outputs: Any, target: Any, n: int, device: torch.device) -> Tensor:
    """(n,) or (n, m) targets: the prediction by default, one for all, one each, or class names.

    Raises:
        TargetError: missing where it cannot be chosen, of the wrong type, or out of range.
    """
    if isinstance(outputs, Captured):
        outputs = outputs.outputs
    if target is None:
        return _predicted(task, outputs, n, device)
    chosen = _as_tensor(task, target, n).to(device)
    _check_range(task, outputs, chosen)
    return chosen


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


def _as_tensor(task: Task, target: Any, n: int) -> Tensor:
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


def _check_range(task: Task, outputs: Any, target: Tensor) -> None:
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
            got=f"target {int(numbers[row, axis])} for sample {row}",
            expected=f"0 to {axes[axis] - 1}",
        )
