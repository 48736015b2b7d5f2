"""One planner for every method and metric: rows in chunks, counted, timed and bounded.

An engine says how many rows there are and how to make some of them; the planner decides how many
go through the model at once. On a CPU the best chunk is often 4–8 photographs; it is found by
timing real work and kept per task. Rows are made chunk by chunk, so memory does not grow with
steps, draws or masks.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from abe.engines.runtime.choose_copy import PROBE_ROWS, Choice, choose
from abe.engines.runtime.chunk_size import ChunkPlan, Saved, memory_budget
from abe.engines.runtime.fused_copy import fingerprint
from abe.errors import AbeError, Code, InputError, ModelError
from abe.objectives import Captured
from abe.task.base import Context, Task
from abe.types import Cost, Objective

Kind = Literal["forward", "gradient", "inner"]
"""``"inner"`` work differentiates by tensors inside the model, which its `Around` takes care of."""
Execution = Literal["auto", "model", "bfloat16"]
"""What to run: the fastest verified copy, the model itself, or that copy in reduced precision."""
Make = Callable[[Tensor], Tensor]


class Chunk(NamedTuple):
    """One chunk of rows after the model has seen them.

    Attributes:
        rows: (n,) row numbers.
        owner: (n,) the sample each row belongs to.
        x: (n, *f) the rows.
        outputs: the model's output, usually (n, C).
        scores: (n,) objective; empty where nobody asked; (m, n) with m heads.
        gradients: (n, *f) of each row's score; empty for forward work; (m, n, *f) with m heads.
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


Consume = Callable[[Chunk], None]


@dataclass
class Call:
    """One chunk about to run, handed to an `Around`.

    Attributes:
        rows: (n,) row numbers.
        owner: (n,) the sample each row belongs to.
        x: (n, *f) the rows; leaves of autograd in gradient work.
        forward: runs the model on (n, *f) rows of the same owners, counted; another model if given.
        score: (n,) scores of outputs.
    """

    rows: Tensor
    owner: Tensor
    x: Tensor
    forward: Callable[..., Any]
    score: Callable[[Any], Tensor]


Around = Callable[[Call], tuple[Any, Tensor]]
"""Runs a chunk its own way, under an instrument for example, and returns outputs and scores."""


@dataclass
class TaskState:
    """What the planner remembers of a task: chunk plans and, where it helps, an execution copy."""

    plans: dict[tuple[Any, ...], ChunkPlan] = field(default_factory=dict)
    choice: Choice | None = None
    rows_seen: int = 0


FORWARD_COPIES = 32
"""Rough size of what a forward pass holds at once, in copies of its input."""
WORTH_A_COPY = 64
"""Rows of work after which preparing and timing an execution copy pays."""
_STATES: "WeakKeyDictionary[Task, TaskState]" = WeakKeyDictionary()


def state_of(task: Task) -> TaskState:
    """The planner's memory of ``task``."""
    return _STATES.setdefault(task, TaskState())


class Evaluator:
    """Runs rows of one task through its model, in chunks, counted.

    Args:
        task: whose model to run.
        execution: ``"auto"`` may run a faster copy of the model that was verified against it,
            ``"model"`` never does, ``"bfloat16"`` runs it in reduced precision.
        chunk: rows at a time; None lets the planner find the fastest.
        advance: called with the number of rows done, for progress bars.
    """

    def __init__(
        self,
        task: Task,
        *,
        execution: Execution = "auto",
        chunk: int | None = None,
        advance: Callable[[int], None] | None = None,
    ) -> None:
        self.task = task
        self.execution = execution
        self.chunk = chunk
        self.cost = Cost()
        self.notes: list[str] = []
        self._advance = advance
        self._state = state_of(task)
        self._model = task.model
        self._fingerprint: tuple[Any, ...] | None = None

    def run(
        self,
        kind: Kind,
        n: int,
        make: Make,
        *,
        owner: Tensor,
        target: Tensor,
        context: Context,
        objective: Objective | None,
        consume: Consume,
        heads: Sequence[Head] = (),
        around: Around | None = None,
        purpose: str = "",
    ) -> None:
        """Send rows 0 … n − 1 through the model and hand every chunk to ``consume``.

        Args:
            kind: ``"forward"`` runs without gradients, ``"inner"`` without gradients of the rows.
            n: how many rows there are.
            make: (m,) row numbers to (m, *f) rows.
            owner: (n,) the sample of each row; picks its target and context.
            target: (b, …) targets by sample.
            context: other inputs by sample.
            objective: the score; may be None for forward work that reads outputs only.
            consume: gets each `Chunk`, in row order.
            heads: scores with targets by row instead of ``objective``: one forward pass serves all.
            around: runs each chunk its own way; it always gets the model itself, never a copy.
            purpose: names work whose memory per row is of its own, so that it has its own plan.
        """
        reduced = self.execution == "bfloat16" and around is None
        job = _Job(kind, make, owner, target, context, objective, reduced, tuple(heads), around, purpose)
        if n == 0:
            return
        plan = self._plan(job, n)
        done = 0
        while done < n:
            size = min(self.chunk or plan.size, n - done)
            rows = torch.arange(done, done + size, device=owner.device)
            chunk = self._try(job, rows, plan)
            if chunk is None:
                continue
            consume(chunk)
            done += size
            if self._advance is not None:
                self._advance(size * (1 + job.backwards))

    def _plan(self, job: "_Job", n: int) -> ChunkPlan:
        self._choose_model(job, n)
        key = (
            *(job.kind, job.purpose, job.backwards, job.shape),
            *(self.cost.execution, torch.get_num_threads(), self.task.device.type),
        )
        plan = self._state.plans.get(key)
        if plan is None:
            start = 8 if self.task.device.type == "cpu" else 32
            plan = ChunkPlan(
                start=start, budget=memory_budget(self.task.device), measured=job.kind == "forward"
            )
            if plan.measured:
                plan.fit(FORWARD_COPIES * job.row_bytes)
            self._state.plans[key] = plan
        return plan

    def _choose_model(self, job: "_Job", n: int) -> None:
        """What this job runs: the model, or a verified copy once there is enough work to pay for it."""
        job.peek()
        self._model, self.cost.execution = self._chosen(job, n)
        if job.reduced:
            self.cost.execution += "+bfloat16"

    def _chosen(self, job: "_Job", n: int) -> tuple[nn.Module, str]:
        own = self.task.model, "model"
        if self.execution == "model" or job.layers or job.around is not None:
            return own
        self._state.rows_seen += n
        if self._state.choice is None and self._state.rows_seen < WORTH_A_COPY:
            return own
        if self._fingerprint is None:
            self._fingerprint = fingerprint(self.task.model)
        if self._state.choice is None or self._state.choice.fingerprint != self._fingerprint:
            self._state.choice = self._try_copies(job)
        return self._state.choice.model, self._state.choice.name

    def _try_copies(self, job: "_Job") -> Choice:
        rows = job.spread(PROBE_ROWS)
        context = job.context.take(job.owner[rows])
        return choose(self.task, job.make(rows).detach(), context, self._fingerprint or ())

    def _try(self, job: "_Job", rows: Tensor, plan: ChunkPlan) -> Chunk | None:
        """Run one chunk; halve the plan and return None where it does not fit into memory."""
        began = time.perf_counter()
        try:
            if plan.measured:
                chunk = job.run(self.task, self._model, rows)
            else:
                with Saved((*self._model.parameters(), *self._model.buffers())) as saved:
                    chunk = job.run(self.task, self._model, rows)
                plan.fit(saved.bytes // len(rows))
        except (MemoryError, torch.OutOfMemoryError, RuntimeError) as problem:
            if isinstance(problem, AbeError) or not out_of_memory(problem):
                raise
            if len(rows) == 1:
                raise ModelError(
                    Code.OUT_OF_MEMORY,
                    "A single row does not fit into memory",
                    got=str(problem).splitlines()[0],
                    fix="Use smaller inputs, a smaller model, or a machine with more memory",
                ) from problem
            self.chunk = None if self.chunk is None else max(1, len(rows) // 2)
            plan.shrink(len(rows))
            return None
        if self.chunk is None:
            plan.record(len(rows), time.perf_counter() - began)
        self._count(job, len(rows), time.perf_counter() - began)
        return chunk

    def _count(self, job: "_Job", rows: int, seconds: float) -> None:
        self.cost.forward_rows += job.forwarded
        self.cost.forward_calls += job.calls
        self.cost.model_seconds += seconds
        self.cost.chunk = max(rows, self.cost.chunk or 0)
        self.cost.backward_rows += rows * job.backwards
        self.cost.backward_calls += job.backwards


@dataclass
class _Job:
    """The same work for every chunk: what to make, run and score."""

    kind: Kind
    make: Make
    owner: Tensor
    target: Tensor
    context: Context
    objective: Objective | None
    reduced: bool = False
    heads: tuple[Head, ...] = ()
    around: Around | None = None
    purpose: str = ""
    shape: tuple[Any, ...] = ()
    row_bytes: int = 0
    forwarded: int = 0
    calls: int = 0

    @property
    def backwards(self) -> int:
        """Backward passes that follow one forward pass."""
        return 0 if self.kind == "forward" else len(self.heads) or 1

    @property
    def layers(self) -> tuple[str, ...]:
        """Layers that the scores read."""
        scores = [head.objective for head in self.heads] or [self.objective]
        return tuple(dict.fromkeys(layer for one in scores if one is not None for layer in one.layers))

    def peek(self) -> None:
        """Note shape and type of the rows, which decide the plan."""
        if not self.shape:
            row = self.make(torch.zeros(1, dtype=torch.long, device=self.owner.device))
            self.shape = (*row.shape[1:], row.dtype)
            self.row_bytes = row.numel() * row.element_size()

    def spread(self, n: int) -> Tensor:
        """At most ``n`` row numbers spread over the whole job: neighbours are too much alike."""
        last = len(self.owner) - 1
        return torch.linspace(0, last, min(n, last + 1), device=self.owner.device).round().long()

    def run(self, task: Task, model: nn.Module, rows: Tensor) -> Chunk:
        """One chunk through ``model``."""
        owner = self.owner[rows]
        self.forwarded = self.calls = 0
        x = self.make(rows).detach()
        differentiate = self.kind == "gradient"
        with torch.set_grad_enabled(self.kind != "forward"):
            if differentiate:
                x = x.clone() if x.is_inference() else x
                x.requires_grad_(True)
            outputs, scores = self.evaluate(task, model, x, rows)
            gradients = self._gradients(scores, x) if differentiate else x.new_empty(0)
        return Chunk(rows, owner, x.detach(), detach(outputs), scores.detach(), gradients)

    def _gradients(self, scores: Tensor, x: Tensor) -> Tensor:
        if not self.heads:
            return differentiate_rows(scores, x)
        last = len(scores) - 1
        return torch.stack([differentiate_rows(s, x, keep=i < last) for i, s in enumerate(scores)])

    def evaluate(self, task: Task, model: nn.Module, x: Tensor, rows: Tensor) -> tuple[Any, Tensor]:
        """Outputs and, where there is an objective, scores of rows ``x`` (else none)."""
        owner = self.owner[rows]
        context = self.context.take(owner)

        def forward(x: Tensor, other: nn.Module | None = None) -> Any:
            self.forwarded, self.calls = self.forwarded + len(x), self.calls + 1
            with _blame_model():
                return self._forward(task, other or model, x, context)

        def score(outputs: Any) -> Tensor:
            return self._scores(task, outputs, rows)

        if self.around is None:
            outputs = forward(x)
            scores = score(outputs)
        else:
            outputs, scores = self.around(Call(rows, owner, x, forward, score))
        return outputs.outputs if isinstance(outputs, Captured) else outputs, scores

    def _forward(self, task: Task, model: nn.Module, x: Tensor, context: Context) -> Any:
        """The model's checked outputs, with the layers that the scores read."""
        outputs: Any = None

        def call(chosen: nn.Module) -> Any:
            nonlocal outputs
            precision = torch.autocast(x.device.type, torch.bfloat16) if self.reduced else nullcontext()
            with precision:
                outputs = task.forward(x, context, chosen)
            if self.reduced and isinstance(outputs, Tensor):
                outputs = outputs.to(x.dtype)
            return outputs

        layers, captured = self.layers, {}
        if layers:
            from abe.engines.instrument.capture import capture

            captured = capture(model, call, layers)
        else:
            call(model)
        if isinstance(outputs, Tensor) and not bool(torch.isfinite(outputs.detach().sum())):
            _refuse_outputs(outputs)
        return Captured(outputs, captured) if layers else outputs

    def _scores(self, task: Task, outputs: Any, rows: Tensor) -> Tensor:
        """(n,) scores of outputs, (m, n) with m heads, empty without an objective."""
        if self.heads:
            return torch.stack([_score(task, outputs, h.objective, h.target[rows]) for h in self.heads])
        if self.objective is None:
            return torch.empty(0, device=rows.device)
        return _score(task, outputs, self.objective, self.target[self.owner[rows]])


def _score(task: Task, outputs: Any, objective: Objective, target: Tensor) -> Tensor:
    raw, layers = (outputs.outputs, outputs.layers) if isinstance(outputs, Captured) else (outputs, {})
    readable = task.logits(raw) if getattr(objective, "reads_logits", False) else raw
    seen = Captured(readable, layers) if objective.layers else readable
    return _checked(objective(seen, target), len(target))


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
            fix="Look for .detach(), torch.no_grad(), argmax, NumPy or a checkpoint in the model's forward; "
            "removal methods need no gradient",
        )
    (gradients,) = slopes(scores, [x], keep=keep)
    if gradients is None:
        raise ModelError(
            Code.NOT_DIFFERENTIABLE,
            "The score does not depend on the input at all",
            got="no path from the output back to the input",
            fix="Check that the model uses its input and that the right output is explained",
        )
    if not bool(torch.isfinite(gradients.sum())) and not bool(torch.isfinite(gradients).all()):
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
        ModelError: HIDDEN_BACKWARD for a re-entrant checkpoint, whose part has no graph.
    """
    try:
        return torch.autograd.grad(scores.sum(), inside, retain_graph=keep, allow_unused=True)
    except RuntimeError as problem:
        if "heckpoint" not in str(problem):
            raise
        raise ModelError(
            Code.HIDDEN_BACKWARD,
            "A re-entrant checkpoint gives gradients to parameters only, none to inputs or layers",
            got="torch.utils.checkpoint with use_reentrant=True",
            fix="Switch checkpointing off to explain the model, or pass use_reentrant=False to it",
        ) from problem


def out_of_memory(problem: BaseException) -> bool:
    """Whether an exception says that memory ran out, on any device."""
    if isinstance(problem, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(problem).lower()
    return "out of memory" in text or "can't allocate memory" in text or "not enough memory" in text


def detach(obj: Any) -> Any:
    """Tensors cut from the graph; anything else as it is."""
    return obj.detach() if isinstance(obj, Tensor) else obj


class _blame_model:
    """Turn what a model's forward raises into a `ModelError` that keeps the cause."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, problem: BaseException | None, trace: Any) -> None:
        if problem is None or not isinstance(problem, Exception) or isinstance(problem, AbeError):
            return
        if out_of_memory(problem):
            return
        raise ModelError(
            Code.MODEL_FAILED,
            "The model's forward raised an exception",
            got=f"{type(problem).__name__}: {problem}",
            fix="Check that model(x) works on the input as you pass it",
        ) from problem


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


def _refuse_outputs(outputs: Tensor) -> None:
    if bool(torch.isfinite(outputs).all()):
        return
    raise ModelError(
        Code.NOT_FINITE_OUTPUT,
        "The model's output holds NaN or infinity",
        got=f"in {int((~torch.isfinite(outputs.detach()).flatten(1).all(1)).sum())} of {len(outputs)} rows",
        fix="Check the model's weights and the input's scale",
    )
