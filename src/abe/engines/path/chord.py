"""MFABA's projected forms: the gradients met on an adversarial path, laid along the chord to its end."""

from dataclasses import replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from abe.engines.path.dynamic import UpdatePath, who
from abe.engines.path.geometry import lengths, tiny
from abe.engines.path.step import Point, State, Update
from abe.engines.runtime.problem import Problem
from abe.engines.runtime.shapes import along
from abe.errors import Code, note
from abe.spec import value
from abe.types import Result

BLOCK_BYTES = 256 * 2**20
"""Memory that the recorded paths of the samples walked together may take."""


@value
class ChordPath:
    """A = (x − x_T) ⊙ Σ_t w_t ½(g_t + g_{t+1}), w_t the progress of step t along the chord.

    Args:
        path: how to walk; its own sum is not used.
        progress: ``"cos"`` projects the points onto the chord, ⟨x_t − x, x_T − x⟩ / ‖x_T − x‖²;
            ``"norm"`` takes ‖x_t − x‖ / ‖x_T − x‖.
    """

    path: UpdatePath
    progress: Literal["cos", "norm"] = "cos"
    has_ends: ClassVar[bool] = True

    def run(self, problem: Problem) -> Result:
        """Walk, keep the path, and lay its gradients along the chord; in blocks that fit into memory."""
        bytes_per_sample = 2 * (self.path.steps + 2) * problem.x[0].numel() * problem.x.element_size()
        size = max(1, BLOCK_BYTES // bytes_per_sample)
        parts = [self._block(problem, block) for block in problem.everyone.split(size)]
        first = parts[0]
        joined = {k: torch.cat([p.diagnostics[k] for p in parts]) for k in first.diagnostics}
        deltas = [p.delta for p in parts if p.delta is not None]
        return Result(
            torch.cat([p.attribution for p in parts]),
            torch.cat(deltas),
            warnings=_renumbered(joined, self.path.steps) if "success" in joined else first.warnings,
            diagnostics=joined,
        )

    def _block(self, problem: Problem, block: Tensor) -> Result:
        local = problem.with_(x=problem.x[block], owner=block)
        record = _Record(self.path.update)
        result = replace(self.path, update=record, rule="trapezoid").run(local)
        result.attribution = record.project(local, self.progress)
        return result


class _Record:
    """An update that keeps the points and gradients it is shown."""

    def __init__(self, update: Update) -> None:
        self._update = update
        self._points: list[tuple[Tensor, Tensor, Tensor]] = []
        self._moved: list[tuple[Tensor, Tensor]] = []

    def step(self, point: Point, state: State) -> tuple[Tensor, State]:
        moved, state = self._update.step(point, state)
        self._points.append((point.owner, point.x.clone(), point.gradient.clone()))
        self._moved.append((point.owner, moved.detach().clone()))
        return moved, state

    def project(self, problem: Problem, progress: str) -> Tensor:
        """(b, *f) the map; the gradient at each path's end is read once more."""
        start, end = problem.x, problem.x.clone()
        for owner, moved in self._moved:
            end[owner] = moved
        chord = end - start
        last = torch.zeros_like(start)

        for chunk in problem.gradient(end, problem.everyone):
            last[chunk.rows] = chunk.gradients
        total = torch.zeros_like(start)
        for number, (owner, x, gradient) in enumerate(self._points):
            after = self._moved[number][1]
            following = last[owner]
            if number + 1 < len(self._points):
                later, _, gradients = self._points[number + 1]
                following[torch.isin(owner, later)] = gradients
            share = _progress(after - start[owner], chord[owner], progress)
            share = share - _progress(x - start[owner], chord[owner], progress)
            total.index_add_(0, owner, (gradient + following) * along(0.5 * share, x))
        return -chord * total


def _progress(way: Tensor, chord: Tensor, kind: str) -> Tensor:
    """(n,) how far along the chord."""
    length = lengths(chord).clamp_min(tiny(chord))
    if kind == "norm":
        return lengths(way) / length
    return ((way * chord).flatten(1).sum(1) / length) / length


def _renumbered(joined: dict[str, Tensor], steps: int) -> list[str]:
    stuck = (~joined["success"]).nonzero().flatten()
    text = f"No run of sample {who(stuck)} reached another class within {steps} steps"
    return [note(Code.NOT_CROSSED, text)] if len(stuck) else []
