"""Missing positions as weighted means of their eight neighbours, solved for a whole batch by multigrid.

The unknowns of one plane satisfy (Σ_j w_ij) x_i = Σ_j w_ij x_j over the neighbours j inside the image,
w = 1/6 along the axes and 1/12 across the corners; known positions keep their values. The system is a
Laplacian with Dirichlet values at the known positions and a free border, so its condition grows with
the square of the size of the holes: plain conjugate gradients need hundreds of iterations at 224², a
V-cycle as preconditioner about ten, whatever the size.

The cycle is symmetric (damped Jacobi before and after, bilinear interpolation P that is zero where
values are known, coarse operators Pᵀ A P) and runs in float32; residuals are kept in float64. Systems
that have converged are left alone, so a row never depends on its neighbours.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

DAMPING = 0.9
"""Of Jacobi: the high frequencies of D⁻¹A lie in [2/3, 4/3] on the finest grid, in [3/4, 3/2] on others."""
DENSE = 64
"""Unknowns of a plane below which it is solved directly."""
SHIFT = 1e-4
"""Added to the coarsest diagonal, relative: masked interpolation can have dependent columns."""
ITERATIONS = 200
RESTART = 5
"""Iterations between residuals in float64."""
TOGETHER = 800_000
"""Numbers of the finest grid that are worked on at once: they should fit into a core's cache."""
TINY = 1e-37

Planes = Float[Tensor, "n c h w"]


class _Level(NamedTuple):
    """One grid of all systems; the first axis numbers systems, so a level can be indexed by them."""

    free: Tensor  # (n, 1, h, w) 1 where there is an unknown
    relax: Tensor  # (n, 1, h, w) damping / diagonal, 0 where there is no unknown
    diagonal: Tensor  # (n, 1, h, w) of the finest grid; elsewhere it stands in the stencil
    stencil: Tensor | None  # (n, 9, h, w) coefficients; None on the finest grid, where they are known

    def take(self, rows: Tensor) -> "_Level":
        """The grid of some systems."""
        stencil = None if self.stencil is None else self.stencil[rows]
        return _Level(self.free[rows], self.relax[rows], self.diagonal[rows], stencil)

    def apply(self, x: Tensor) -> Tensor:
        """A x for x that is zero where there is no unknown."""
        if self.stencil is None:
            return _gather(x).mul_(-self.free).addcmul_(self.diagonal, x)
        padded = functional.pad(x, (1, 1, 1, 1))
        h, w = x.shape[-2:]
        out = torch.zeros_like(x)
        for k in range(9):
            i, j = divmod(k, 3)
            out.addcmul_(self.stencil[:, k, None], padded[..., i : i + h, j : j + w])
        return out


class _Hierarchy(NamedTuple):
    levels: tuple[_Level, ...]
    inverse: Tensor  # (n, u, u) of the coarsest operator

    def take(self, rows: Tensor) -> "_Hierarchy":
        """The hierarchy of some systems."""
        return _Hierarchy(tuple(level.take(rows) for level in self.levels), self.inverse[rows])

    def cycle(self, r: Tensor, depth: int = 0) -> Tensor:
        """One V-cycle from zero: about A⁻¹ r."""
        level = self.levels[depth]
        if depth == len(self.levels) - 1:
            n, c, h, w = r.shape
            return (r.reshape(n, c, h * w) @ self.inverse).reshape(n, c, h, w)
        x = level.relax * r
        coarse = _restrict((r - level.apply(x)).mul_(level.free))
        correction = _interpolate(self.cycle(coarse, depth + 1), (r.shape[-2], r.shape[-1]))
        x.addcmul_(level.free, correction)
        return torch.addcmul(x, level.relax, r - level.apply(x))


def fill(
    values: Planes, missing: Bool[Tensor, "n m h w"], *, tolerance: float = 5e-6, iterations: int = ITERATIONS
) -> Planes:
    """``values`` with the missing positions replaced by the solution; 0 where nothing of a plane is known.

    Args:
        values: what is known; numbers at missing positions are not read.
        missing: one mask for all channels (m = 1) or one per channel.
        tolerance: largest estimated error, relative to the largest known value of the plane.
        iterations: of preconditioned conjugate gradients, at most.
    """
    n, c, h, w = values.shape
    apart = missing.shape[1] != 1
    known = (~missing).expand(n, c, h, w)
    planes = torch.where(known, values, torch.zeros_like(values)).double()
    holes = missing
    if apart:
        planes, holes = planes.reshape(n * c, 1, h, w), missing.reshape(n * c, 1, h, w)
    free = holes.flatten(1)
    some = (free.any(1) & ~free.all(1)).nonzero().flatten()
    out = planes.clone()
    for rows in some.split(max(1, TOGETHER // (planes.shape[1] * h * w))):
        out[rows] += _solve(planes[rows], holes[rows], tolerance, iterations)
    return torch.where(known, values, out.reshape(n, c, h, w).to(values))


def _solve(planes: Tensor, holes: Tensor, tolerance: float, iterations: int) -> Tensor:
    """Preconditioned conjugate gradients on all systems; rows leave when they are done.

    Between two restarts everything is float32; a restart takes the residual anew in float64.
    """
    ladder = _hierarchy(holes)
    found = torch.zeros_like(planes)
    rows = torch.arange(len(planes), device=planes.device)
    free, degree, total = holes.double(), _degree(planes), torch.zeros_like(planes)
    right = free * _gather(planes)
    goal = (tolerance * planes.abs().flatten(1).amax(1)).float()
    r = right.float()
    x, p, old = torch.zeros_like(r), torch.zeros_like(r), torch.zeros_like(r)
    previous = torch.ones_like(_dot(r, r))
    for iteration in range(iterations):
        fresh = iteration % RESTART == 0
        if fresh and iteration:
            total = total + x.double()
            r = (right - free * (degree * total - _gather(total))).float()
            x = torch.zeros_like(r)
        z = ladder.cycle(r)
        # z is about the error of x, so adding it is a last step that costs nothing
        keep = z.abs().flatten(1).amax(1) > goal
        if not bool(keep.all()):
            found[rows[~keep]] = (total + x + z)[~keep]
            rows, r, x, p, z, old, free, right, total, goal, previous = (
                t[keep] for t in (rows, r, x, p, z, old, free, right, total, goal, previous)
            )
            if len(rows) == 0:
                return found
            ladder = ladder.take(keep)
        strength = _dot(r, z)
        # Polak-Ribière's β forgives that the cycle is rounded
        p = z if fresh else torch.addcmul(z, (strength - _dot(old, z)) / previous, p)
        image = ladder.levels[0].apply(p)
        size = strength / _dot(p, image).clamp_min(TINY)
        x, old = torch.addcmul(x, size, p), r
        r = torch.addcmul(r, -size, image)
        previous = strength.clamp_min(TINY)
    found[rows] = total + x
    return found


def _hierarchy(holes: Tensor) -> _Hierarchy:
    """Grids from the finest to one that is solved directly."""
    free = holes.float()
    h, w = free.shape[-2:]
    diagonal = free * _degree(free)
    levels = [_Level(free, DAMPING * free / _degree(free).clamp_min(1e-6), diagonal, None)]
    while h * w > DENSE and max(h, w) > 2:
        stencil = _coarsen(levels[-1])
        h, w = stencil.shape[-2:]
        diagonal = stencil[:, 4:5]
        free = (diagonal > 1e-6).float()
        relax = DAMPING * free / torch.where(free > 0, diagonal, torch.ones_like(diagonal))
        levels.append(_Level(free, relax, diagonal, stencil))
    return _Hierarchy(tuple(levels), _inverse(levels[-1]))


def _coarsen(level: _Level) -> Tensor:
    """(n, 9, h', w') coefficients of Pᵀ A P, read off its products with combs three positions wide."""
    n, _, h, w = level.free.shape
    hc, wc = (h + 1) // 2, (w + 1) // 2
    device = level.free.device
    row, column = torch.arange(hc, device=device)[:, None], torch.arange(wc, device=device)[None]
    colour = (row % 3) * 3 + column % 3
    combs = (colour[None] == torch.arange(9, device=device)[:, None, None]).to(level.free)[None]
    product = _restrict(level.apply(level.free * _interpolate(combs, (h, w))))
    # coefficient k of position i belongs to its neighbour i + d, which is on one comb only
    offset = [(k // 3 - 1, k % 3 - 1) for k in range(9)]
    comb = torch.stack([((row + di) % 3) * 3 + (column + dj) % 3 for di, dj in offset])
    stencil = product.gather(1, comb.expand(n, -1, -1, -1))
    # neighbours outside the grid do not exist, whatever the residues say
    stencil[:, 0:3, 0] = 0
    stencil[:, 6:9, -1] = 0
    stencil[:, 0::3, :, 0] = 0
    stencil[:, 2::3, :, -1] = 0
    return stencil


def _inverse(level: _Level) -> Tensor:
    """(n, u, u) inverse of a small level; unknowns that are not there stay zero."""
    n, _, h, w = level.free.shape
    unit = torch.eye(h * w, device=level.free.device).reshape(1, h * w, h, w)
    free = level.free.reshape(n, 1, h, w)
    matrix = level.apply(free * unit.expand(n, -1, -1, -1)).reshape(n, h * w, h * w).double()
    diagonal = matrix.diagonal(dim1=1, dim2=2)
    gone = (free.reshape(n, h * w) == 0).double()
    matrix = matrix + torch.diag_embed(SHIFT * diagonal + gone)
    return (torch.linalg.inv(matrix) * (1 - gone)[:, None] * (1 - gone)[:, :, None]).float()


def _gather(x: Tensor) -> Tensor:
    """Σ_j w_ij x_j over the neighbours inside: [1 2 1] ⊗ [1 2 1] / 12 without its centre."""
    along = x / 6
    along[..., 1:].add_(x[..., :-1], alpha=1 / 12)
    along[..., :-1].add_(x[..., 1:], alpha=1 / 12)
    out = torch.add(2 * along, x, alpha=-1 / 3)
    out[..., 1:, :] += along[..., :-1, :]
    out[..., :-1, :] += along[..., 1:, :]
    return out


def _degree(x: Tensor) -> Tensor:
    """(1, 1, h, w) Σ_j w_ij: 1 inside, less at the border."""
    h, w = x.shape[-2:]
    return _gather(torch.ones(1, 1, h, w, dtype=x.dtype, device=x.device))


def _interpolate(coarse: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear from the even positions; continued where the last position is odd."""
    h, w = size
    rows = coarse.new_empty(*coarse.shape[:-2], h, coarse.shape[-1])
    rows[..., ::2, :] = coarse
    if h > 2:
        rows[..., 1 : h - 1 : 2, :] = (coarse[..., : (h - 1) // 2, :] + coarse[..., 1 : (h + 1) // 2, :]) / 2
    if h % 2 == 0:
        rows[..., -1, :] = coarse[..., -1, :]
    out = coarse.new_empty(*coarse.shape[:-2], h, w)
    out[..., ::2] = rows
    if w > 2:
        out[..., 1 : w - 1 : 2] = (rows[..., : (w - 1) // 2] + rows[..., 1 : (w + 1) // 2]) / 2
    if w % 2 == 0:
        out[..., -1] = rows[..., -1]
    return out


def _restrict(fine: Tensor) -> Tensor:
    """The transpose of `_interpolate`."""
    h, w = fine.shape[-2:]
    rows = fine[..., ::2, :].clone()
    if h > 2:
        half = fine[..., 1 : h - 1 : 2, :] / 2
        rows[..., : (h - 1) // 2, :] += half
        rows[..., 1 : (h + 1) // 2, :] += half
    if h % 2 == 0:
        rows[..., -1, :] += fine[..., -1, :]
    out = rows[..., ::2].clone()
    if w > 2:
        half = rows[..., 1 : w - 1 : 2] / 2
        out[..., : (w - 1) // 2] += half
        out[..., 1 : (w + 1) // 2] += half
    if w % 2 == 0:
        out[..., -1] += rows[..., -1]
    return out


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum((-2, -1), keepdim=True)
