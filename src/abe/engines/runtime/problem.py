"""One explanation request: samples, the decision to explain, draws, and counted access to the model."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from abe.draws import mix
from abe.engines.runtime.evaluator import (
    Around,
    Chunk,
    Consume,
    Evaluator,
    Head,
    Kind,
    Make,
)
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
