"""Where a path begins and ends: the scores there always, inputs and outputs where a request keeps them."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from abe.engines.runtime.problem import Problem


@dataclass(frozen=True)
class End:
    """One end of every sample's path, or of every run of every sample.

    Attributes:
        point: (b, *f) or (b, runs, *f) the inputs there.
        score: (b,) or (b, runs) the explained score there.
        outputs: (b, …) or (b, runs, …) what the model says there; None where nobody asked, or no tensor.
    """

    point: Tensor
    score: Tensor
    outputs: Tensor | None = None


def end_at(problem: Problem, point: Tensor) -> End:
    """One end, by a forward row per sample."""
    chunks = [(chunk.scores, chunk.outputs) for chunk in problem.forward(point, problem.everyone)]
    score = torch.cat([scores for scores, _ in chunks])
    score = score if score.is_floating_point() else score.to(problem.x.dtype)
    return End(point, score, _kept(problem, [outputs for _, outputs in chunks]))


def end_at_input(problem: Problem) -> End:
    """The end at the samples themselves, whose score and outputs are known."""
    known = problem.known_outputs
    if problem.path_ends and known is None:
        return end_at(problem, problem.x)
    return End(problem.x, problem.score, _kept(problem, [known]))


def _kept(problem: Problem, outputs: list[Any]) -> Tensor | None:
    if not problem.path_ends or not all(isinstance(one, Tensor) for one in outputs):
        return None
    return torch.cat(outputs).detach()


def told(problem: Problem, start: End, end: End) -> dict[str, Tensor]:
    """The diagnostics of both ends.

    They are ``path_start_score`` and ``path_end_score``, and where the request keeps the ends ``path_start``,
    ``path_end``, ``path_start_outputs`` and ``path_end_outputs``.
    """
    found: dict[str, Tensor] = {}
    for name, one in (("path_start", start), ("path_end", end)):
        found[f"{name}_score"] = one.score.detach().clone()
        if problem.path_ends:
            found[name] = one.point.detach().clone()
        if one.outputs is not None:
            found[f"{name}_outputs"] = one.outputs
    return found
