"""Adaptive integration of pieces of a path whose exact score change is known.

A piece with n equal intervals has the trapezoid sum T_n. Its n midpoints give M_n, and
T_2n = (T_n + M_n) / 2 needs no earlier gradient, so memory does not grow with the nodes.
"""

from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from abe.engines.runtime.problem import Problem
from abe.engines.runtime.shapes import along

CANCELLATION = 3.0
"""The pieces' absolute residuals may sum to this multiple of the tolerance, so that a small total
does not rest on errors that happen to cancel."""
SHARE = 0.5
"""Pieces that miss at least this share of the worst piece's miss are halved together."""


@runtime_checkable
class Curve(Protocol):
    """Points and derivatives of the path that the pieces lie on."""

    def point(self, owner: Tensor, alpha: Tensor) -> Tensor: ...

    def velocity(self, owner: Tensor, alpha: Tensor) -> Tensor: ...


@dataclass
class Pieces:
    """m pieces [start, start + length] of curves, each with its trapezoid sum.

    Attributes:
        owner: (m,) the curve each lies on.
        group: (m,) pieces that share one tolerance, 0 … g − 1.
        start, length: (m,) in the curve's parameter.
        gain: (m,) exact change of the score along the piece.
        total: (m, *f) attribution so far.
        intervals: (m,) how many equal intervals the piece has.
    """

    owner: Tensor
    group: Tensor
    start: Tensor
    length: Tensor
    gain: Tensor
    total: Tensor
    intervals: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.intervals = torch.ones_like(self.owner)

    @property
    def residual(self) -> Tensor:
        """(m,) what each piece misses of its gain."""
        return self.gain - self.total.flatten(1).sum(1)

    def sum(self, groups: int) -> Tensor:
        """(g, *f) totals by group."""
        out = self.total.new_zeros((groups, *self.total.shape[1:]))
        return out.index_add_(0, self.group, self.total)


def refine(problem: Problem, curve: Curve, pieces: Pieces, allowed: Tensor, most: int) -> Tensor:
    """Halve intervals where most is missed until every group is within what it is allowed.

    Args:
        problem: whose score is integrated; row i of its samples is owner i.
        curve: where the pieces lie.
        pieces: changed in place.
        allowed: (g,) largest absolute residual.
        most: nodes a group may use beyond the first; it never uses more.

    Returns:
        (g,) nodes used beyond the first ones.
    """
    nodes = torch.zeros_like(allowed, dtype=torch.long)
    while True:
        chosen = _worst(pieces, allowed, nodes, most)
        if len(chosen) == 0:
            return nodes
        nodes.index_add_(0, pieces.group[chosen], pieces.intervals[chosen])
        _halve(problem, curve, pieces, chosen)


def _worst(pieces: Pieces, allowed: Tensor, nodes: Tensor, most: int) -> Tensor:
    """Numbers of the pieces to halve next: the worst of every group that misses its tolerance."""
    residual = pieces.residual
    signed = torch.zeros_like(allowed).index_add_(0, pieces.group, residual.to(allowed))
    absolute = torch.zeros_like(allowed).index_add_(0, pieces.group, residual.abs().to(allowed))
    open_ = ((signed.abs() > allowed) | (absolute > CANCELLATION * allowed)) & (nodes < most)
    worst = torch.zeros_like(allowed).scatter_reduce(0, pieces.group, residual.abs().to(allowed), "amax")
    enough = residual.abs() >= SHARE * worst[pieces.group]
    chosen = (open_[pieces.group] & enough & (residual != 0)).nonzero().flatten()
    return _affordable(pieces, chosen, most - nodes)


def _affordable(pieces: Pieces, chosen: Tensor, left: Tensor) -> Tensor:
    """Those of the chosen pieces, the worst of each group first, whose nodes together are ``left`` (g,)."""
    if len(chosen) == 0:
        return chosen
    worst = chosen[pieces.residual[chosen].abs().argsort(descending=True, stable=True)]
    worst = worst[pieces.group[worst].argsort(stable=True)]
    group, count = pieces.group[worst], pieces.intervals[worst]
    spent = count.cumsum(0)
    before = spent.new_zeros(len(left)).index_add_(0, group, count).cumsum(0)
    before = torch.cat([before.new_zeros(1), before[:-1]])
    return worst[spent - before[group] <= left[group]].sort().values


def _halve(problem: Problem, curve: Curve, pieces: Pieces, chosen: Tensor) -> None:
    count = pieces.intervals[chosen]
    piece = chosen.repeat_interleave(count)
    first = (count.cumsum(0) - count).repeat_interleave(count)
    place = torch.arange(len(piece), device=piece.device) - first
    share = (place.to(pieces.start) + 0.5) / pieces.intervals[piece]
    alpha = pieces.start[piece] + share * pieces.length[piece]
    weight = pieces.length[piece] / (2 * pieces.intervals[piece])
    owner = pieces.owner[piece]
    pieces.total[chosen] *= 0.5

    def make(rows: Tensor) -> Tensor:
        return curve.point(owner[rows], alpha[rows])

    for chunk in problem.gradient(make, owner):
        change = curve.velocity(chunk.owner, alpha[chunk.rows]) * chunk.gradients
        pieces.total.index_add_(0, piece[chunk.rows], change * along(weight[chunk.rows], change))
    pieces.intervals[chosen] *= 2
