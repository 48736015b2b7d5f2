"""Rows that go through a model: what to run, what comes back, and how one chunk is run."""

from collections.abc import Callable, Hashable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from abe.checks import finite
from abe.engines.runtime.layout import dense_slopes, remember
from abe.engines.runtime.sharing import Unequal, merged, within
from abe.errors import AbeError, Code, InputError, ModelError
from abe.instrument.capture import capturing
from abe.instrument.inspection import clean_name, exported, path_name
from abe.instrument.per_model import mark
from abe.instrument.quantised import naming_quantised
from abe.instrument.recurrent import differentiable
from abe.instrument.whose import calling, not_the_models
from abe.objectives import Captured, objective_name
from abe.task.base import Context, Task
from abe.task.lengths import lengths_of
from abe.task.outputs import OF_LABELS
from abe.types import Fed, Make, Objective, Part

Kind = Literal["forward", "gradient", "inner"]
"""``"inner"`` work differentiates by tensors inside the model, which its `Around` takes care of."""
Settle = Callable[[Any, Tensor], Tensor]
"""The model's outputs for row numbers (m,) to the targets (m, …) of these rows."""


class Chunk(NamedTuple):
    """One chunk of rows after the model has seen them.

    Attributes:
        rows: (n,) row numbers.
        owner: (n,) the sample each row belongs to.
        x: (n, *f) the rows.
        outputs: the model's output, usually (n, C).
        scores: (n,) objective; empty where nobody asked; (m, n) with m heads.
        gradients: (n, *f) of each row's score; empty for other work; (m, n, *f) with m heads.
    """

    rows: Tensor
    owner: Tensor
    x: Tensor
    outputs: Any
    scores: Tensor
    gradients: Tensor


class Head(NamedTuple):
    """One of several scores taken from the same forward pass.

    Attributes:
        objective: the score.
        target: (n, …) the target of every row.
    """

    objective: Objective
    target: Tensor


@dataclass
class Call:
    """One chunk about to run, handed to an `Around`.

    Attributes:
        rows: (n,) row numbers.
        owner: (n,) the sample each row belongs to.
        x: (n, *f) the rows; leaves of autograd in gradient work.
        forward: runs the model on (n, *f) rows of the same owners, counted; another model if given.
        score: (n,) scores of outputs; the first call settles the targets where they are not known.
        settle: settles them from the outputs of the rows, before others are scored.
        first: the model's outputs for the first row alone, counted.
    """

    rows: Tensor
    owner: Tensor
    x: Tensor
    forward: Callable[..., Any]
    score: Callable[[Any], Tensor]
    settle: Callable[[Any], None]
    first: Callable[[], Any]


Around = Callable[[Call], tuple[Any, Tensor]]
"""Runs a chunk its own way, under an instrument for example, and returns outputs and scores."""


@dataclass(frozen=True)
class Work:
    """Rows to run, one per entry of ``owner``.

    Attributes:
        kind: ``"forward"`` runs without gradients, ``"inner"`` without gradients of the rows.
        make: (m,) row numbers to (m, *f) rows, or all rows.
        owner: (n,) the sample of each row; picks its target and context.
        context: other inputs by sample.
        target: (b, …) targets by sample; None where no score is read, or ``settle`` decides.
        objective: the score; None for forward work that reads outputs only.
        heads: scores with targets by row instead of ``objective``: one forward pass serves all.
        around: runs each chunk its own way; it always gets the model itself, never a copy.
        settle: decides the targets from the outputs, where the rows are the samples themselves.
        engine: the value that ``around`` follows; what is learnt of its gradients is remembered by it.
        purpose: names work whose memory per row is of its own, so that it has its own plan.
        alone: rows run one by one and on the model itself, so that no digit hangs on what runs beside them.
    """

    kind: Kind
    make: Make | Tensor
    owner: Tensor
    context: Context
    target: Tensor | None = None
    objective: Objective | None = None
    heads: tuple[Head, ...] = ()
    around: Around | None = None
    engine: Hashable = None
    settle: Settle | None = None
    purpose: str = ""
    alone: bool = False
    parts: tuple[Part, ...] = ()

    def __len__(self) -> int:
        return self.owner.shape[0]

    def rows(self, numbers: Tensor) -> Fed:
        """Rows (m, *f) with the given numbers (m,), in memory of their own, and what changes with them."""
        made = self.make[numbers] if isinstance(self.make, Tensor) else self.make(numbers)
        return made if isinstance(made, Fed) else Fed(made, {})

    def alike(self, start: int, size: int) -> int:
        """How many of the next ``size`` rows have as many positions as the first of them."""
        return self.alike_rows(torch.arange(start, start + size, device=self.owner.device))

    def alike_rows(self, rows: Tensor) -> int:
        """How many of these rows (n,), from the first on, have as many positions as it has."""
        lengths = lengths_of(self.context, self.parts)
        if lengths is None:
            return len(rows)
        own = lengths[self.owner[rows].to(lengths.device)]
        other = (own != own[0]).any(1).nonzero().flatten()
        return int(other[0]) if len(other) else len(rows)

    def first(self) -> Tensor:
        """(1, *f) a row of the kind that there is."""
        if isinstance(self.make, Tensor):
            return self.make[:1]
        return self.rows(torch.zeros(1, dtype=torch.long, device=self.owner.device)).x

    @property
    def shares(self) -> bool:
        """Whether rows of samples that ask about one input may be run once for all of them."""
        return not (self.heads or self.layers or self.alone or self.kind == "inner") and self.around is None

    @property
    def backwards(self) -> int:
        """Backward passes that follow one forward pass."""
        return 0 if self.kind == "forward" else len(self.heads) or 1

    @property
    def layers(self) -> tuple[str, ...]:
        """Layers that the scores read."""
        scores = [head.objective for head in self.heads] or [self.objective]
        return tuple(dict.fromkeys(layer for one in scores if one is not None for layer in one.layers))

    @property
    def sort(self) -> Any:
        """Tells work apart whose gradients can lie differently in memory; None where nothing tells."""
        if self.heads or (self.around is not None and not _hashable(self.engine)):
            return None
        return self.kind, self.purpose, self.engine, mark(self.objective), self.layers

    def spread(self, n: int) -> Tensor:
        """At most ``n`` row numbers spread over the whole: neighbours are too much alike."""
        last = len(self) - 1
        return torch.linspace(0, last, min(n, last + 1), device=self.owner.device).round().long()


@dataclass
class Pass:
    """Runs chunks of one `Work`, and counts what they cost.

    Attributes:
        work: what to run.
        task: reads the outputs; asked for at every chunk, as the first may settle what they mean.
        model: what runs: the model or a copy, whatever other work runs between two chunks of this.
        reduced: run the model in bfloat16.
        forwarded, calls: rows and calls of the last chunk.
        backwards: backward passes of the last chunk.
    """

    work: Work
    task: Callable[[], Task]
    model: nn.Module
    reduced: bool = False
    forwarded: int = field(default=0, init=False)
    calls: int = field(default=0, init=False)
    backwards: int = field(default=0, init=False)
    _slopes: list[Any] = field(default_factory=list[Any], init=False)

    def run(self, rows: Tensor, group: Tensor | None = None, most: int | None = None) -> Chunk:
        """One chunk through `model`.

        Args:
            rows: (n,) row numbers.
            group: (n,) which of them are expected to be equal; None expects nothing.
            most: how many different rows may be run at once.

        Raises:
            Unequal: rows that were expected to be equal are not, and there are more than ``most``.
        """
        work, model, owner = self.work, self.model, self.work.owner[rows]
        self.forwarded = self.calls = 0
        self._slopes.clear()
        made = work.rows(rows)
        whole, context = made.x.detach(), work.context.take(owner).changed(made.changes, made.length)
        x, serves = (whole, None) if group is None else merged(whole, context, group)
        if most is not None and len(x) > max(most, 1):
            raise Unequal
        differentiate, graph = work.kind == "gradient", work.kind != "forward"
        with (
            naming_quantised(model),
            torch.set_grad_enabled(graph),
            differentiable(model, x) if graph else nullcontext(),
        ):
            if differentiate:
                x = x.clone() if x.is_inference() else x
                x.requires_grad_(True)
            outputs, scores = self._evaluate(model, x, rows, owner, context, serves)
            gradients = self._gradients(scores, x, serves) if differentiate else x.new_empty(0)
        if graph:
            for slopes in self._slopes:
                remember(slopes, model)
        seen = x if serves is None else whole
        return Chunk(rows, owner, seen.detach(), detach(outputs), scores.detach(), gradients)

    def _gradients(self, scores: Tensor, x: Tensor, serves: Tensor | None) -> Tensor:
        self.backwards = self.work.backwards
        if serves is not None:
            return self._each(scores, x, serves)
        if not self.work.heads:
            return differentiate_rows(scores, x)
        last = len(scores) - 1
        return torch.stack([differentiate_rows(s, x, keep=i < last) for i, s in enumerate(scores)])

    def _each(self, scores: Tensor, x: Tensor, serves: Tensor) -> Tensor:
        """(n, *f) gradients where rows serve several samples: one of every row at a time."""
        turn = within(serves)
        self.backwards = last = int(turn.max()) + 1
        out = x.new_empty((len(serves), *x.shape[1:]))
        for number in range(last):
            asked = (turn == number).nonzero().flatten()
            found = differentiate_rows(scores[asked], x, keep=number < last - 1)
            out[asked] = found[serves[asked]]
        return out

    def _evaluate(
        self,
        model: nn.Module,
        x: Tensor,
        rows: Tensor,
        owner: Tensor,
        context: Context,
        serves: Tensor | None = None,
    ) -> tuple[Any, Tensor]:
        """Outputs and, where there is an objective, scores of rows ``x`` (else none)."""

        def forward(x: Tensor, other: nn.Module | None = None, context: Context = context) -> Any:
            self.forwarded, self.calls = self.forwarded + len(x), self.calls + 1
            with _Blamed(model, len(x)):
                return self._forward(model, model if other is None else other, x, context, serves)

        def first() -> Any:
            return forward(x[:1].detach(), None, self.work.context.take(owner[:1]))

        target = None if self.work.target is None else self.work.target[owner]

        def settle(outputs: Any) -> None:
            nonlocal target
            if target is None and self.work.settle is not None:
                target = self.work.settle(plain_outputs(outputs), rows)

        def score(outputs: Any) -> Tensor:
            settle(outputs)
            return self._scores(outputs, rows, target)

        if self.work.around is None:
            outputs = forward(x)
            scores = score(outputs)
        else:
            outputs, scores = self.work.around(Call(rows, owner, x, forward, score, settle, first))
        return plain_outputs(outputs), scores

    def _forward(
        self, model: nn.Module, runs: nn.Module, x: Tensor, context: Context, serves: Tensor | None
    ) -> Any:
        """Checked outputs of the model, or of a copy that ``runs`` for it, with layers that scores read."""
        layers = self.work.layers
        precision = torch.autocast(x.device.type, torch.bfloat16) if self.reduced else nullcontext()
        self._slopes.append(dense_slopes(model, runs, x, self.work))
        with _reading(runs, layers) as captured, precision, self._slopes[-1]:
            plain = self.work.kind == "forward" and self.work.around is None and not layers
            outputs = self.task().forward(x, context, runs, serves=serves, plain=plain)
        if self.reduced and isinstance(outputs, Tensor):
            outputs = outputs.to(x.dtype)
        if isinstance(outputs, Tensor) and not finite(outputs):
            raise _not_finite(outputs)
        return Captured(outputs, captured) if layers else outputs

    def _scores(self, outputs: Any, rows: Tensor, target: Tensor | None) -> Tensor:
        """(n,) scores of outputs, (m, n) with m heads, empty without an objective."""
        work, task = self.work, self.task()
        if work.heads:
            return torch.stack([score(task, outputs, h.objective, h.target[rows]) for h in work.heads])
        if work.objective is None or target is None:
            return torch.empty(0, device=rows.device)
        return score(task, outputs, work.objective, target)


def _reading(model: nn.Module, layers: Sequence[str]) -> Any:
    """Collects the outputs of layers while the model runs inside the ``with`` block."""
    if not layers:
        return nullcontext({})
    return capturing(model, layers)


def score(task: Task, outputs: Any, objective: Objective, target: Tensor) -> Tensor:
    """(n,) scores of outputs for targets (n, …), checked."""
    raw, layers = (outputs.outputs, outputs.layers) if isinstance(outputs, Captured) else (outputs, {})
    if getattr(objective, "reads_logits", False):
        raw, target = _readable(task, raw, objective, target)
    seen = Captured(raw, layers) if objective.layers else raw
    return _checked(objective(seen, target), len(target))


def _readable(task: Task, outputs: Any, objective: Objective, target: Tensor) -> tuple[Tensor, Tensor]:
    """Class scores, and each row's target among them, for an objective that reads these."""
    if getattr(objective, "needs_classes", False):
        task.check_classes(outputs, f"the objective {objective_name(objective)}")
    if task.output_kind in OF_LABELS and getattr(objective, "across", False):
        return task.logits(outputs), target
    return task.choice(outputs, target, alone=getattr(objective, "alone", False))


def plain_outputs(outputs: Any) -> Any:
    """The outputs without captured layers."""
    return outputs.outputs if isinstance(outputs, Captured) else outputs


def differentiate_rows(scores: Tensor, x: Tensor, *, keep: bool = False) -> Tensor:
    """(n, *f) gradient of each row's own score: the sum separates because rows are independent.

    Args:
        scores: (n,) one per row.
        x: (n, *f) the rows.
        keep: whether other scores of the same forward pass are still to be differentiated.

    Raises:
        ModelError: nothing differentiable, no dependence on the input, a re-entrant checkpoint, or NaN.
    """
    if not scores.requires_grad:
        raise ModelError(
            Code.NOT_DIFFERENTIABLE,
            "The score does not depend on the input in a differentiable way",
            fix="Look for .detach(), torch.no_grad(), argmax, NumPy, a quantised layer or a checkpoint in "
            "the model's forward; removal methods need no gradient",
        )
    (gradients,) = slopes(scores, [x], keep=keep)
    if gradients is None:
        raise ModelError(
            Code.NOT_DIFFERENTIABLE,
            "The score does not depend on the input at all",
            got="no path from the output back to the input",
            fix="Check that the model uses its input, that the right output is explained and that no layer "
            "is quantised; removal methods need no gradient",
        )
    if not finite(gradients):
        bad = (~torch.isfinite(gradients).flatten(1).all(1)).nonzero().flatten().tolist()
        raise ModelError(
            Code.NOT_FINITE_GRADIENT,
            "The gradient holds NaN or infinity",
            got=f"in {len(bad)} of {len(gradients)} rows",
            fix="Typical causes are sqrt, log or norm at zero inside the model; add a small constant",
        )
    return gradients.contiguous()


def slopes(scores: Tensor, inside: Sequence[Tensor], *, keep: bool = False) -> tuple[Tensor | None, ...]:
    """Gradients of every row's own score by tensors of its graph; None where there is no path.

    Raises:
        ModelError: HIDDEN_BACKWARD for a re-entrant checkpoint, whose part has no graph; MODEL_FAILED where
            the backward pass of an operation of the model raises.
    """
    try:
        return _slopes(scores, inside, keep)
    except Exception as problem:  # an operation of the user's may raise anything
        if _passed_on(problem):
            raise
        if isinstance(problem, RuntimeError) and "heckpoint" in str(problem):
            raise ModelError(
                Code.HIDDEN_BACKWARD,
                "A re-entrant checkpoint gives gradients to parameters only, none to inputs or layers",
                got="torch.utils.checkpoint with use_reentrant=True",
                fix="Switch checkpointing off to explain the model, or pass use_reentrant=False to it",
            ) from problem
        raise ModelError(
            Code.MODEL_FAILED,
            "The model's backward raised an exception",
            got=f"{type(problem).__name__}: {problem}",
            fix="Check that the gradient of model(x).sum() by x can be taken; removal methods need none",
        ) from problem


@calling
def _slopes(scores: Tensor, inside: Sequence[Tensor], keep: bool) -> tuple[Tensor | None, ...]:
    return torch.autograd.grad(scores.sum(), inside, retain_graph=keep, allow_unused=True)


def out_of_memory(problem: BaseException) -> bool:
    """Whether an exception says that memory ran out, on any device."""
    if isinstance(problem, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(problem).lower()
    return "out of memory" in text or "can't allocate memory" in text or "not enough memory" in text


def _hashable(value: Any) -> bool:
    """Whether a value can be remembered by what it is; None says nothing of what runs."""
    try:
        hash(value)
    except TypeError:
        return False
    return value is not None


def detach(obj: Any) -> Any:
    """Tensors cut from the graph; anything else as it is."""
    return obj.detach() if isinstance(obj, Tensor) else obj


@dataclass
class _Blamed:
    """Turn what a model's forward raises into a `ModelError` that keeps the cause; other errors pass."""

    model: nn.Module
    rows: int

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, problem: BaseException | None, trace: Any) -> None:
        if problem is None or not isinstance(problem, Exception) or _passed_on(problem):
            return
        fix = "Check that model(x) works on the input as you pass it, with any number of rows"
        if names := exported(self.model):
            fix += (
                f"; {path_name(clean_name(names[0]))} is exported, which takes "
                "dynamic_shapes=({0: torch.export.Dim.AUTO},)"
            )
        raise ModelError(
            Code.MODEL_FAILED,
            "The model's forward raised an exception",
            got=f"{type(problem).__name__}: {str(problem).removesuffix('.')}, in a batch of {self.rows}",
            fix=fix,
        ) from problem


def _passed_on(problem: Exception) -> bool:
    """Whether an error out of the model is not to be called the model's: ours, coded, or want of memory."""
    if isinstance(problem, AbeError) or out_of_memory(problem):
        return True
    if not_the_models(problem):
        problem.add_note("Raised by what runs around the model, not by the model itself.")
        return True
    return False


def _checked(scores: Tensor, n: int) -> Tensor:
    if not isinstance(scores, Tensor) or scores.shape != (n,):
        raise InputError(
            Code.OUTPUT_SHAPE,
            "The objective must return one score per row",
            got=f"shape {tuple(scores.shape)}" if isinstance(scores, Tensor) else type(scores).__name__,
            expected=f"({n},)",
            fix="Reduce over everything but the first axis, never over the batch",
        )
    return scores


def _not_finite(outputs: Tensor) -> ModelError:
    return ModelError(
        Code.NOT_FINITE_OUTPUT,
        "The model's output holds NaN or infinity",
        got=f"in {int((~torch.isfinite(outputs.detach()).flatten(1).all(1)).sum())} of {len(outputs)} rows",
        fix="Check the model's weights and the input's scale",
    )
