"""One explanation request: samples, the decision to explain, draws, and counted access to the model."""

from collections.abc import Callable, Hashable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from abe.draws import mix
from abe.engines.runtime.evaluator import Evaluator
from abe.engines.runtime.sharing import apart, in_order
from abe.engines.runtime.targets import Decision
from abe.engines.runtime.work import Around, Chunk, Head, Kind, Make, Settle, Work, score
from abe.objectives import objective_name
from abe.task.base import Context, Task
from abe.task.lifted import FIXED, Lifted
from abe.types import Baseline, Draws, Key, Objective


@dataclass(eq=False)
class Problem:
    """Samples ``x`` (b, *f) whose score ``objective(model(x), target)`` is to be explained.

    Attributes:
        evaluator: runs and counts the model's rows.
        x: (b, *f) features in the task's bounds.
        context: other inputs, per sample.
        decision: what the model says of the samples, and what of it is explained.
        objective: the score.
        draws: all randomness.
        identify: gives the identities that randomness depends on, when they are needed.
        warnings: notes that go into the result.
        names: of the samples.
        path_ends: whether methods that follow paths keep these paths' ends.
        alone: rows run one by one, on the model itself: numbers that a path or an optimisation hangs on.
        origin: (n,) the sample of the whole request that each is, and how many that has; None for the whole.
        lifted: what the inputs were read as; None for other rows.
    """

    evaluator: Evaluator
    x: Tensor
    context: Context
    decision: Decision
    objective: Objective
    draws: Draws
    identify: Callable[[], Sequence[int]]
    warnings: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    path_ends: bool = False
    alone: bool = False
    origin: tuple[Tensor, int] | None = None
    lifted: Lifted | None = None

    @property
    def task(self) -> Task:
        """The task, which knows what the outputs are once a sample has been through the model."""
        return self.evaluator.task

    @property
    def ids(self) -> Sequence[int]:
        """(b,) identities that randomness depends on."""
        return self.identify()

    @property
    def target(self) -> Tensor:
        """(b,) or (b, m) the explained entry of the output."""
        self._predict()
        return self.decision.target

    @property
    def target_names(self) -> list[str]:
        """Names of the targets; of the objective, where it finds by itself what it explains."""
        self._predict()
        if self.lifted is not None and self.lifted.called:
            return list(self.lifted.called)
        if not self.decision.named:
            return [objective_name(self.objective)] * len(self.x)
        return [self.task.told_apart(t) for t in self.decision.target.tolist()]

    @property
    def known_outputs(self) -> Any:
        """The model's outputs at the samples; None where they are not known, as at other rows."""
        self._predict()
        return self.decision.outputs

    @property
    def bounds(self) -> tuple[Tensor, Tensor] | None:
        """(low, high) of valid inputs on the device of ``x``, or None."""
        bounds = self.task.bounds
        return None if bounds is None else (bounds[0].to(self.x), bounds[1].to(self.x))

    @property
    def limits(self) -> tuple[Tensor, Tensor] | None:
        """The bounds for what moves inputs, infinite for one of several that has none; see `Task.limits`."""
        limits = self.task.limits
        return None if limits is None else (limits[0].to(self.x), limits[1].to(self.x))

    @property
    def fixed(self) -> Tensor | None:
        """(b, 1 or c, *positions) where references equal the input, such as padding; None for nowhere."""
        return self.context.about.get(FIXED)

    def labels(self, kind: str | None = None) -> Tensor | None:
        """The units of the samples, as `abe.task.lifted.Context.labels` gives them."""
        return self.context.labels(kind)

    @property
    def kinds_of_units(self) -> list[str]:
        """Names of the units that the samples are known to have, the natural one first."""
        return self.context.kinds_of_units

    def reference(self, baseline: Baseline, owner: Tensor, draw: Tensor) -> Tensor:
        """(n, *f) references of samples ``owner`` for draws ``draw``; where those are fixed, the samples."""
        rows = baseline.rows(self, owner, draw)
        if self.fixed is None or rows.shape[1:] != self.x.shape[1:]:
            return rows
        return torch.where(self.fixed[owner].to(rows.device), self.x[owner].to(rows), rows)

    @property
    def everyone(self) -> Tensor:
        """(b,) all sample numbers."""
        return torch.arange(len(self.x), device=self.x.device)

    @cached_property
    def score(self) -> Tensor:
        """(b,) the score at the samples themselves."""
        outputs = self.known_outputs
        if isinstance(outputs, Tensor) and not self.objective.layers:
            return score(self.task, outputs, self.objective, self.target).detach().to(self.x)
        return self.scores(self.x, self.everyone).to(self.x)

    def scores(self, make: Make | Tensor, owner: Tensor) -> Tensor:
        """(n,) scores of rows, each for its owner's target; forward only."""
        kept = [(chunk.rows, chunk.scores) for chunk in self.forward(make, owner)]
        scores = in_order(kept) if kept else self.x.new_empty(0)
        return scores if scores.is_floating_point() else scores.to(self.x.dtype)

    def outputs(self, make: Make | Tensor, owner: Tensor) -> Any:
        """(n, …) the model's outputs for rows; those of the first chunk where they are no tensor."""
        kept = [(chunk.rows, chunk.outputs) for chunk in self.forward(make, owner, scored=False)]
        return in_order(kept) if isinstance(kept[0][1], Tensor) else kept[0][1]

    def keys(self, owner: Tensor, draw: Tensor) -> list[Key]:
        """Names of the draws with numbers ``draw`` (n,) of samples ``owner`` (n,)."""
        ids = self.ids
        return [(ids[o], d) for o, d in zip(owner.tolist(), draw.tolist(), strict=True)]

    def forward(
        self,
        make: Make | Tensor,
        owner: Tensor,
        *,
        around: Around | None = None,
        purpose: str = "",
        scored: bool = True,
    ) -> Iterator[Chunk]:
        """Run rows without gradients, and yield every `Chunk` with outputs and scores.

        Args:
            make: (m,) row numbers to (m, *f) rows, or the rows themselves.
            owner: (n,) the sample each row belongs to.
            around: runs each chunk its own way, for example with a layer's output changed.
            purpose: names work whose memory per row is of its own.
            scored: False reads outputs only.
        """
        return self._run("forward", make, owner, around=around, purpose=purpose, scored=scored)

    def gradient(
        self,
        make: Make | Tensor,
        owner: Tensor,
        *,
        around: Around | None = None,
        purpose: str = "",
        alone: bool = False,
    ) -> Iterator[Chunk]:
        """Run rows with the gradient of each row's own score at the row; ``alone`` runs one at a time."""
        return self._run("gradient", make, owner, around=around, purpose=purpose, alone=alone)

    def gradients(self, make: Make | Tensor, owner: Tensor, heads: Sequence[Head]) -> Iterator[Chunk]:
        """Run rows once and take the gradient of each of m scores: one forward and m backward rows each.

        A `Chunk` has scores (m, k) and gradients (m, k, *f); each head has a target for every row.
        """
        return self._run("gradient", make, owner, heads=tuple(heads))

    def inner(
        self,
        make: Make | Tensor,
        owner: Tensor,
        *,
        around: Around,
        purpose: str,
        engine: Hashable = None,
    ) -> Iterator[Chunk]:
        """Run rows with autograd on, for gradients by tensors inside the model instead of the rows.

        ``around`` runs a chunk, takes these gradients and keeps what it needs; ``purpose`` names its
        kind of work, whose memory per row is of its own.
        """
        return self._run("inner", make, owner, around=around, purpose=purpose, engine=engine)

    def at_inputs(
        self, kind: Kind, *, around: Around | None = None, purpose: str = "", engine: Hashable = None
    ) -> Iterator[Chunk]:
        """Run the samples themselves; the first such pass also settles which decision is explained.

        A method that reads the model at its inputs first pays one forward pass for prediction, target,
        score and gradient together. ``engine`` is the value that ``around`` follows, with all its settings.
        """
        settle = None if self.decision.complete else self.decision.settler(self)
        return self._run(
            kind, self.x, self.everyone, around=around, purpose=purpose, engine=engine, settle=settle
        )

    def first(self) -> "Problem":
        """The first sample as a request of its own, whose decision is its own too."""
        decision = self.decision.first(len(self.x))
        one, identify = self.everyone[:1], self.identify

        def identity() -> Sequence[int]:
            return identify()[:1]

        return replace(
            self,
            evaluator=copy(self.evaluator),
            x=self.x[:1],
            context=self.context.take(one),
            decision=decision,
            identify=identity,
            names=self.names[:1],
            origin=self.among(one),
            lifted=None,
        )

    def among(self, owner: Tensor) -> tuple[Tensor, int]:
        """Which samples of the whole request ``owner`` (n,) are, and how many it has."""
        if self.origin is None:
            return owner, len(self.x)
        place, count = self.origin
        return place[owner], count

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
        unchanged = x is None and owner is None
        if unchanged and target is None:
            decision = self.decision
        else:
            chosen = target if target is not None else self.target if owner is None else self.target[owner]
            decision = Decision(chosen, outputs=self.known_outputs if unchanged else None)
        context = self.context if owner is None else self.context.take(owner)
        return Problem(
            evaluator=self.evaluator,
            x=x if x is not None else self.x if owner is None else self.x[owner],
            context=context if draw is None else apart(context, draw),
            decision=decision,
            objective=objective or self.objective,
            draws=self.draws,
            identify=self._identities(owner, draw),
            warnings=self.warnings,
            path_ends=self.path_ends,
            alone=self.alone,
            origin=self.origin if owner is None else self.among(owner),
        )

    def _identities(self, owner: Tensor | None, draw: Tensor | None) -> Callable[[], Sequence[int]]:
        if owner is None and draw is None:
            return self.identify
        mine = self.ids
        ids: list[int] = list(mine) if owner is None else [mine[o] for o in owner.tolist()]
        if draw is not None:
            ids = [mix(i, d) for i, d in zip(ids, draw.tolist(), strict=True)]
        return ids.copy

    def apart(self) -> Iterator["Problem"]:
        """Every sample as a request of its own, in which all numbers are those that it has by itself.

        For what goes on from the last digit: where two masks or features are nearly as good, an optimisation
        or a path enlarges the rounding of whatever batch its rows ran in.
        """
        fresh = not self.decision.complete
        whole = replace(self, alone=True).predicted()
        kept = whole.known_outputs if fresh or len(self.x) == 1 else None
        for one in self.everyone.split(1):
            part = whole.with_(x=self.x[one], owner=one)
            part.decision.outputs = kept[one] if isinstance(kept, Tensor) else None
            yield part

    def predicted(self) -> "Problem":
        """The same problem, its decision settled: a forward row per sample unless a pass has run them."""
        self._predict()
        return self

    def _predict(self) -> None:
        """Run the samples through the model where no pass has settled the decision yet."""
        if not self.decision.complete:
            for _ in self.at_inputs("forward"):
                pass

    def _run(
        self,
        kind: Kind,
        make: Make | Tensor,
        owner: Tensor,
        *,
        scored: bool = True,
        settle: Settle | None = None,
        heads: tuple[Head, ...] = (),
        around: Around | None = None,
        purpose: str = "",
        engine: Hashable = None,
        alone: bool = False,
    ) -> Iterator[Chunk]:
        target = None
        if scored and settle is None:
            target = self.decision.partial if self.decision.partial is not None else self.target
        work = Work(
            kind=kind,
            make=make,
            owner=owner,
            context=self.context,
            target=target,
            objective=self.objective if scored else None,
            heads=heads,
            around=around,
            engine=engine,
            settle=settle,
            purpose=purpose,
            alone=alone or self.alone,
            parts=self.task.parts,
        )
        return self.evaluator.run(work)
