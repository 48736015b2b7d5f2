"""One planner for every method and metric: rows in chunks, counted, timed and bounded.

An engine says which rows there are and how to make some of them; the planner decides how many go
through the model at once and yields them chunk by chunk. On a CPU the best chunk is often 4-8
photographs; it is found by timing real work and kept per task. Rows are made when their turn comes, so
memory does not grow with steps, draws or masks.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal, get_args
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from abe.checks import check_choice
from abe.engines.runtime.choose_copy import PROBE_ROWS, Choice, choose
from abe.engines.runtime.chunk_size import ChunkPlan, Saved, forbids_hooks, memory_budget
from abe.engines.runtime.fused_copy import fingerprint
from abe.engines.runtime.sharing import BLOCK_BYTES, Order, Unequal
from abe.engines.runtime.steady import Watch
from abe.engines.runtime.work import Chunk, Pass, Work, out_of_memory
from abe.errors import AbeError, Code, ModelError, SpecError
from abe.task.base import Task
from abe.types import Cost

Execution = Literal["auto", "model", "bfloat16"]
"""What to run: the fastest verified copy, the model itself, or that copy in reduced precision."""


@dataclass
class TaskState:
    """What the planner remembers of a task.

    Attributes:
        plans: chunk plans.
        choice: an execution copy, where it helps.
        rows_seen: rows of work so far.
        widths: of outputs as wide as there were rows, which a row alone has too.
    """

    plans: dict[tuple[Any, ...], ChunkPlan] = field(default_factory=dict)
    choice: Choice | None = None
    rows_seen: int = 0
    widths: set[int] = field(default_factory=set)


FORWARD_COPIES = 32
"""Rough size of what a forward pass holds at once, in copies of its input."""
WORTH_A_COPY = 64
"""Rows of work after which preparing and timing an execution copy pays."""
WORTH_A_LOOK = 8
"""Rows of one job from which on it pays to see whether a copy is still true to the model."""
_STATES: "WeakKeyDictionary[Task, TaskState]" = WeakKeyDictionary()


def state_of(task: Task) -> TaskState:
    """The planner's memory of ``task``."""
    return _STATES.setdefault(task.origin, TaskState())


def follows_rows(one: int, other: int) -> ModelError:
    """The error about outputs that were ``one`` entry wide in a chunk and ``other`` in another."""
    return ModelError(
        Code.OUTPUT_SHAPE,
        "The output's width follows the number of rows, so its entries belong to other rows",
        got=f"{one} entries per row in one chunk, {other} in another",
        expected="the same entries for a row, whatever runs beside it",
        fix="Choose what belongs to each row, for example output=lambda out: out.diagonal()[:, None]",
    )


class Evaluator:
    """Runs rows of one task through its model, in chunks, counted.

    Args:
        task: whose model to run.
        execution: ``"auto"`` may run a faster copy of the model that was verified against it,
            ``"model"`` never does, ``"bfloat16"`` runs it in reduced precision.
        chunk: rows at a time; None lets the planner find the fastest.
        advance: called with the number of rows done, for progress bars.

    Attributes:
        cost: of what was run so far.
        warnings: takes a note where the model turns out not to answer twice the same; None does not look.

    Raises:
        SpecError: no such execution, or a chunk below 1.
    """

    def __init__(
        self,
        task: Task,
        *,
        execution: Execution = "auto",
        chunk: int | None = None,
        advance: Callable[[int], None] | None = None,
    ) -> None:
        check_choice("execution", execution, get_args(Execution))
        if chunk is not None and chunk < 1:
            raise SpecError(Code.BAD_PARAMETER, "chunk must be at least 1", got=chunk)
        self.task = task
        self.execution: Execution = execution
        self.chunk = chunk
        self.advance = advance
        self.watch: Callable[[Chunk], None] | None = None
        """Called with every chunk that was run, by who has to know what rows were met."""
        self.cost = Cost()
        self.warnings: list[str] | None = None
        self._state = state_of(task)
        self._fingerprint: tuple[Any, ...] | None = None
        self._width: int | None = None

    def derived(self, task: Task, plans: dict[tuple[Any, ...], ChunkPlan]) -> "Evaluator":
        """An evaluator of another task that shares this one's cost, chunk and progress.

        Args:
            task: what to run, on the model itself.
            plans: where the planner keeps what it learns about chunks.
        """
        state_of(task).plans = plans
        other = Evaluator(task, execution="model", chunk=self.chunk, advance=self.advance)
        other.cost, other.warnings = self.cost, self.warnings
        return other

    def run(self, work: Work) -> Iterator[Chunk]:
        """Send rows through the model and yield every `Chunk`, in row order.

        Rows of samples that ask about one input come side by side instead (`abe.engines.runtime.sharing`).
        """
        n, done = len(work), 0
        if n == 0:
            return
        reduced = self.execution == "bfloat16" and work.around is None
        job = Pass(work, lambda: self.task, self.task.model, reduced=reduced)
        plan = self._plan(job)
        steady = None if self.warnings is None else Watch(self.task.model)
        order = Order.of(work.context, work.owner) if work.shares else None
        if order is not None:
            yield from self._in_groups(job, plan, order, steady)
            return
        while done < n:
            size = work.alike(done, self._size(work, plan, n - done))
            chunk = self._try(job, torch.arange(done, done + size, device=work.owner.device), plan)
            if chunk is None:
                continue
            self._check_width(work, chunk, last=done + size == n)
            self._seen(steady, job, chunk)
            steady = None
            yield chunk
            done += size
            if self.advance is not None:
                self.advance(size * (1 + work.backwards))

    def _in_groups(self, job: Pass, plan: ChunkPlan, order: Order, steady: Watch | None) -> Iterator[Chunk]:
        """Rows of samples that ask about one input, side by side: equal ones are run once."""
        work, done = job.work, 0
        whole = order
        row = work.first()
        fit = max(1, BLOCK_BYTES // (row[0].numel() * row.element_size()))
        while done < len(order):
            room = max(1, fit // (order.starts[done + 1] - order.starts[done]))
            planned = min(self._size(work, plan, len(order) - done), room)
            rows, group = order.some(done, planned)
            size = int(group[work.alike_rows(rows) - 1]) - done + 1
            rows, group = order.some(done, size)
            try:
                chunk = self._try(job, rows, plan, group, size if order is whole else None)
            except Unequal:
                order, done = order.apart(done), 0
                continue
            if chunk is None:
                continue
            self._check_width(work, chunk, last=done + size == len(order))
            self._seen(steady, job, chunk)
            steady = None
            yield chunk
            done += size
            if self.advance is not None:
                self.advance(len(rows) * (1 + work.backwards))

    def _seen(self, steady: Watch | None, job: Pass, chunk: Chunk) -> None:
        """What is looked at in every chunk, and in the first one only."""
        if self.watch is not None:
            self.watch(chunk)
        if steady is not None:
            self._note(steady, job.work, chunk)

    def _check_width(self, work: Work, chunk: Chunk, *, last: bool) -> None:
        """Refuse outputs as wide as there are rows, such as all images against all texts of a chunk.

        A chunk with another number of rows tells; where none follows, the first row alone does.

        Raises:
            ModelError: the width changed with the number of rows.
        """
        outputs = chunk.outputs
        if not isinstance(outputs, Tensor) or outputs.ndim != 2:
            return
        n, width = outputs.shape
        self._width = width if self._width is None else self._width
        if n == width == self._width > 1 and width not in self._state.widths:
            if not last:
                return
            width = width if _has_head(self.task.model, width) else self._alone(work, chunk)
        if width != self._width:
            raise follows_rows(self._width, width)
        self._state.widths.add(width)

    def _alone(self, work: Work, chunk: Chunk) -> int:
        """The width of the outputs of the first row alone; as with the others where it cannot run alone."""
        context = work.context.take(chunk.owner[:1])
        self.cost.forward_rows += 1
        self.cost.forward_calls += 1
        try:
            with torch.no_grad():
                outputs = self.task.forward(chunk.x[:1], context)
        except Exception:  # a model may insist on its number of rows
            outputs = chunk.outputs
        return outputs.shape[1] if isinstance(outputs, Tensor) else -1

    def _note(self, steady: Watch, work: Work, chunk: Chunk) -> None:
        """Say it, once, where the model that has run the chunk does not answer twice the same."""
        found = steady.note(self.task, chunk.x[:1], work.context.take(chunk.owner[:1]))
        if found is not None and self.warnings is not None:
            said = any(Code.UNSTEADY_MODEL in warning for warning in self.warnings)
            self.warnings += [] if said else found
            self.warnings = None

    def _size(self, work: Work, plan: ChunkPlan, left: int) -> int:
        """Rows to run next: as many as planned, or all that are left where that is little more."""
        most = 1 if work.alone else self.chunk
        planned = plan.size if most is None else min(most, plan.limit)
        if most is None and left <= min(planned + planned // 2, plan.limit) and plan.measured:
            return left
        return min(planned, left)

    def _plan(self, job: Pass) -> ChunkPlan:
        work = job.work
        row = work.first()
        device = row.device
        self._choose_model(job)
        key = (
            *(work.kind, work.purpose, work.backwards, tuple(row.shape[1:]), row.dtype),
            *(self.cost.execution, torch.get_num_threads(), device.type),
        )
        plan = self._state.plans.get(key)
        if plan is None:
            start = 8 if device.type == "cpu" else 32
            plan = ChunkPlan(start=start, budget=memory_budget(device), measured=work.kind == "forward")
            if plan.measured:
                plan.fit(FORWARD_COPIES * row.numel() * row.element_size())
            self._state.plans[key] = plan
        return plan

    def _choose_model(self, job: Pass) -> None:
        """What this job runs: the model, or a verified copy once there is enough work to pay for it."""
        job.model, self.cost.execution = self._chosen(job.work)
        if job.reduced:
            self.cost.execution += "+bfloat16"

    def _chosen(self, work: Work) -> tuple[nn.Module, str]:
        own = self.task.model, "model"
        itself = self.execution == "model" or self.task.at_layers
        if itself or work.layers or work.around is not None or work.alone:
            return own
        self._state.rows_seen += len(work)
        if len(work) < WORTH_A_LOOK or (self._state.choice is None and self._state.rows_seen < WORTH_A_COPY):
            return own
        if self._fingerprint is None:
            self._fingerprint = fingerprint(self.task.model)
        if self._state.choice is None or self._state.choice.fingerprint != self._fingerprint:
            self._state.choice = self._try_copies(work)
        return self._state.choice.model, self._state.choice.name

    def _try_copies(self, work: Work) -> Choice:
        rows = work.spread(PROBE_ROWS)
        made = work.rows(rows)
        context = work.context.take(work.owner[rows]).changed(made.changes, made.length)
        return choose(self.task, made.x.detach(), context, self._fingerprint or ())

    def _try(
        self,
        job: Pass,
        rows: Tensor,
        plan: ChunkPlan,
        group: Tensor | None = None,
        most: int | None = None,
    ) -> Chunk | None:
        """Run one chunk; halve the plan and return None where it does not fit into memory."""
        began = time.perf_counter()
        try:
            run = partial(job.run, rows, group, most)
            chunk = run() if plan.measured else self._first(job, run, plan)
        except (MemoryError, torch.OutOfMemoryError, RuntimeError) as problem:
            if isinstance(problem, AbeError) or not out_of_memory(problem):
                raise
            ran = len(rows) if most is None else most
            if ran == 1:
                raise ModelError(
                    Code.OUT_OF_MEMORY,
                    "A single row does not fit into memory",
                    got=str(problem).splitlines()[0],
                    fix="Use smaller inputs, a smaller model, or a machine with more memory",
                ) from problem
            self.chunk = None if self.chunk is None else max(1, ran // 2)
            plan.shrink(ran)
            return None
        seconds = time.perf_counter() - began
        if self.chunk is None and not job.work.alone:
            plan.record(len(rows) if most is None else most, seconds)
        self._count(job, len(rows), seconds)
        return chunk

    def _first(self, job: Pass, run: Callable[[], Chunk], plan: ChunkPlan) -> Chunk:
        """A chunk that tells what a row keeps; where the model forbids to look, it is taken as without."""
        try:
            with Saved((*job.model.parameters(), *job.model.buffers())) as saved:
                chunk = run()
            plan.fit(saved.bytes // max(job.forwarded, 1))
            return chunk
        except RuntimeError as problem:
            if not forbids_hooks(problem):
                raise
        chunk = run()
        plan.fit(FORWARD_COPIES * chunk.x[0].numel() * chunk.x.element_size())
        return chunk

    def _count(self, job: Pass, rows: int, seconds: float) -> None:
        backwards = job.work.backwards
        self.cost.forward_rows += job.forwarded
        self.cost.forward_calls += job.calls
        self.cost.model_seconds += seconds
        self.cost.chunk = max(job.forwarded if job.work.shares else rows, self.cost.chunk or 0)
        self.cost.backward_rows += rows * backwards
        self.cost.backward_calls += job.backwards if backwards else 0
        spent: Any = getattr(self.task.feeds, "spent", None)
        if spent is not None:
            self.cost.add(replace(spent(), chunk=self.cost.chunk, execution=self.cost.execution))


def _has_head(model: nn.Module, width: int) -> bool:
    """Whether weights give as many numbers whatever the rows are, so that the width needs no other reason."""
    return any(one.ndim and one.shape[0] == width for one in model.parameters())
