"""Missing positions as weighted means of their eight neighbours, solved for a whole batch by multigrid.

The unknowns of one plane satisfy (Σ_j w_ij) x_i = Σ_j w_ij x_j over the neighbours j inside the image,
w = 1 along the axes and 1/2 across the corners (only their ratio matters); known positions keep their
values. The system is a Laplacian with Dirichlet values at the known positions and a free border, so its
condition grows with the square of the size of the holes: plain conjugate gradients need hundreds of
iterations at 224², a V-cycle as preconditioner a handful, whatever the size.

Every grid is kept as four colours, by the parity of row and column: colour 2a + b holds the positions
(2p + a, 2q + b). A position's neighbours have other colours, so Gauss-Seidel updates a colour at once, and
all work is on contiguous quarter planes. Coarse positions are those of colour 0 that are unknown. Where a
value lies between two of them it is interpolated by the operator itself (Alcouffe et al. 1981; Dendy 1982),
so that corrections fade towards known positions; colour 3 follows from its neighbours by its own equation.
Coarse operators are Pᵀ A P. Cycles run in float32; residuals are taken anew in float64. No
system sees another, so a row never depends on its neighbours.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

DENSE = 64
"""Unknowns of a plane below which it is solved directly."""
ITERATIONS = 200
RENEW = 5
"""Iterations between residuals in float64."""
TOGETHER = 1_300_000
"""Numbers of the finest grid that are worked on at once: coarse grids cost calls, fine ones cache."""
TINY = 1e-30
EVERY = (0, 1, 2, 3)
OFFSETS = tuple((k // 3 - 1, k % 3 - 1) for k in range(9))

Planes = Float[Tensor, "n c h w"]
Part = tuple[Any, slice, slice]
"""An index of the last two axes."""


class _Level(NamedTuple):
    """One grid of all systems by colours; the first axis numbers systems, so it can be indexed by them."""

    free: Tensor  # (n, 4, 1, h, w) 1 where there is an unknown
    diagonal: Tensor  # (n, 4, 1, h, w)
    relax: Tensor  # (n, 4, 1, h, w) 1 / diagonal, 0 where there is no unknown
    coupling: Tensor | None  # (n, 4, 9, h, w) with each neighbour; None on the finest grid: 1 and 1/2
    between: Tensor  # (n, 4, 1, h, w) weights of colour 1 (left, right) and of colour 2 (up, down)

    def take(self, rows: Tensor) -> "_Level":
        """The grid of some systems."""
        coupling = None if self.coupling is None else self.coupling[rows]
        return _Level(self.free[rows], self.diagonal[rows], self.relax[rows], coupling, self.between[rows])

    def double(self) -> "_Level":
        """The finest grid in float64, for residuals: its numbers are multiples of 1/2."""
        diagonal = self.diagonal[:1].double().expand(len(self.free), -1, -1, -1, -1)
        return self._replace(free=self.free.double(), diagonal=diagonal)

    def near(self, x: Sequence[Tensor], k: int, of: Sequence[int] = EVERY) -> Tensor:
        """(n, c, h, w) Σ_j w_ij x_j for colour k, over neighbours of the given colours."""
        if self.coupling is None:
            return _near(x, k, of)
        out, coupling = torch.zeros_like(x[of[0]]), self.coupling[:, k, :, None]
        for number, source, to, where in _plan(k, tuple(of), *out.shape[-2:]):
            out[to].addcmul_(coupling[:, number][to], x[source][where])
        return out

    def apply(self, x: Tensor) -> Tensor:
        """A x for x (n, 4, c, h, w) that is zero where there is no unknown."""
        out, parts = self.diagonal * x, x.unbind(1)
        for k in EVERY:
            out[:, k].sub_(self.near(parts, k))
        return out.mul_(self.free)

    def interpolate(self, coarse: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What coarse values (n, c, h, w) stand for at the colours 0, 1 and 2."""
        left, right, up, down = self.between.unbind(1)
        across, along = left * coarse, up * coarse
        across[..., :-1].addcmul_(right[..., :-1], coarse[..., 1:])
        along[..., :-1, :].addcmul_(down[..., :-1, :], coarse[..., 1:, :])
        return coarse, across, along

    def restrict(self, r: Sequence[Tensor]) -> Tensor:
        """The transpose, for residuals that are zero at colour 3."""
        left, right, up, down = self.between.unbind(1)
        out = torch.addcmul(r[0], left, r[1]).addcmul_(up, r[2])
        out[..., 1:].addcmul_(right[..., :-1], r[1][..., :-1])
        out[..., 1:, :].addcmul_(down[..., :-1, :], r[2][..., :-1, :])
        return out


class _Hierarchy(NamedTuple):
    levels: tuple[_Level, ...]
    inverse: Tensor  # (n, u, u) of the coarsest operator

    def take(self, rows: Tensor) -> "_Hierarchy":
        """The hierarchy of some systems."""
        return _Hierarchy(tuple(level.take(rows) for level in self.levels), self.inverse[rows])

    def cycle(self, r: Tensor, depth: int = 0) -> Tensor:
        """One symmetric V-cycle from zero: about A⁻¹ r, for r (n, 4, c, h, w)."""
        level = self.levels[depth]
        right, free, relax = r.unbind(1), level.free.unbind(1), level.relax.unbind(1)
        out = torch.empty_like(r)
        x = out.unbind(1)
        torch.mul(relax[0], right[0], out=x[0])
        for k in (1, 2, 3):
            torch.mul(relax[k], level.near(x, k, EVERY[:k]).add_(right[k]), out=x[k])
        # a colour's equation holds when it is updated, so later colours alone make up its residual
        rest = [level.near(x, k, EVERY[k + 1 :]).mul_(free[k]) for k in (0, 1, 2)]
        for part, correction in zip(
            x, level.interpolate(self._below(level.restrict(rest), depth)), strict=False
        ):
            part.add_(correction)
        for k in (3, 2, 1, 0):
            torch.mul(relax[k], level.near(x, k).add_(right[k]), out=x[k])
        return out

    def _below(self, r: Tensor, depth: int) -> Tensor:
        """About the solution of the next coarser grid, for r (n, c, h, w)."""
        n, c, h, w = r.shape
        if depth == len(self.levels) - 1:
            return (r.reshape(n, c, h * w) @ self.inverse).reshape(n, c, h, w)
        return _join(self.cycle(_split(r), depth + 1), h, w)


def fill(
    values: Planes, missing: Bool[Tensor, "n m h w"], *, tolerance: float = 5e-6, iterations: int = ITERATIONS
) -> Planes:
    """``values`` with the missing positions replaced by the solution; 0 where nothing of a plane is known.

    Args:
        values: what is known; numbers at missing positions are not read.
        missing: one mask for all channels (m = 1) or one per channel.
        tolerance: largest last correction, relative to the largest known value of the plane; the error
            that is left is a fraction of it.
        iterations: of preconditioned conjugate gradients, at most.
    """
    n, c, h, w = values.shape
    known = (~missing).expand(n, c, h, w)
    planes = torch.where(known, values, torch.zeros_like(values)).double()
    holes = missing
    if missing.shape[1] != 1:
        planes, holes = planes.reshape(n * c, 1, h, w), missing.reshape(n * c, 1, h, w)
    free = holes.flatten(1)
    some = (free.any(1) & ~free.all(1)).nonzero().flatten()
    out = planes.clone()
    for rows in some.split(max(1, TOGETHER // (planes.shape[1] * h * w))):
        out[rows] += _join(_solve(_split(planes[rows]), holes[rows], tolerance, iterations), h, w)
    return torch.where(known, values, out.reshape(n, c, h, w).to(values))


def _solve(planes: Tensor, holes: Tensor, tolerance: float, iterations: int) -> Tensor:
    """Preconditioned conjugate gradients on all systems; a system's result is what it was when it was done.

    Everything is float32 but the residual that is taken anew every few iterations.
    """
    finest = _finest(holes.float())
    ladder, exact = _hierarchy(finest), finest.double()
    found, total = torch.zeros_like(planes), torch.zeros_like(planes)
    rows, known = torch.arange(len(planes), device=planes.device), planes.unbind(1)
    right = exact.free * torch.stack([_near(known, k) for k in EVERY], 1)
    goal = (tolerance * planes.abs().flatten(1).amax(1)).float()
    r = right.float()
    x, p, old = torch.zeros_like(r), torch.zeros_like(r), torch.zeros_like(r)
    previous, done = torch.ones_like(_dot(r, r)), torch.zeros_like(goal, dtype=torch.bool)
    for iteration in range(iterations):
        if iteration and iteration % RENEW == 0:
            total = total + x.double()
            r = (right - exact.apply(total)).float()
            x = torch.zeros_like(r)
        z = ladder.cycle(r)
        # z is about the error of x, so adding it is a last step that costs nothing
        now = (torch.linalg.vector_norm(z.flatten(1), torch.inf, dim=1) <= goal) & ~done
        if bool(now.any()):
            found[rows[now]] = total[now] + x[now] + z[now]
            done = done | now
            if bool(done.all()):
                return found
            if int(done.sum()) * 2 > len(done):  # few are left: go on without the others
                left = ~done
                rows, r, x, p, z, old, right, total, goal, previous, done = (
                    t[left] for t in (rows, r, x, p, z, old, right, total, goal, previous, done)
                )
                ladder, exact = ladder.take(left), exact.take(left)
        strength = _dot(r, z)
        # Polak-Ribière's β forgives that the cycle is rounded
        p.mul_((strength - _dot(old, z)) / previous).add_(z)
        image = ladder.levels[0].apply(p)
        size = strength / _dot(p, image).clamp_min(TINY)
        x.addcmul_(size, p)
        r, old = image.mul_(-size).add_(r), r
        previous = strength.clamp_min(TINY)
    found[rows[~done]] = (total + x)[~done]
    return found


def _finest(holes: Float[Tensor, "n 1 h w"]) -> _Level:
    """The grid of the image itself."""
    free, inside = _split(holes), _split(torch.ones_like(holes[:1])).unbind(1)
    degree = torch.stack([_near(inside, k) for k in EVERY], 1).clamp_min(1)
    f = free.unbind(1)
    left = f[0] + _pair(f[2], -2, 0) / 2
    above = f[0] + _pair(f[1], -1, 0) / 2
    rest = [degree[:, 1] - _pair(f[3], -2, 0), degree[:, 2] - _pair(f[3], -1, 0)]
    sides = [
        left,
        functional.pad(left, (0, 1))[..., 1:],
        above,
        functional.pad(above, (0, 0, 0, 1))[..., 1:, :],
    ]
    diagonal = degree.expand(len(holes), -1, -1, -1, -1)
    return _Level(free, diagonal, free / degree, None, _between(sides, rest, f))


def _between(sides: Sequence[Tensor], rest: Sequence[Tensor], free: Sequence[Tensor]) -> Tensor:
    """(n, 4, 1, h, w) weights of the two coarse neighbours of colours 1 and 2.

    The stencil of a position is summed across the line through both neighbours; ``sides`` are what couples
    it to either side, ``rest`` is its diagonal without what lies on neither.
    """
    weights = [free[1 + i // 2] * sides[i] / rest[i // 2].clamp_min(TINY) for i in range(4)]
    return torch.stack(weights, 1).clamp_(0, 1)


def _hierarchy(finest: _Level) -> _Hierarchy:
    """Grids from the finest to one that is solved directly."""
    levels = [finest]
    while True:
        stencil = _coarsen(levels[-1])
        h, w = stencil.shape[-2:]
        if h * w <= DENSE or max(h, w) <= 2:
            return _Hierarchy(tuple(levels), _inverse(stencil))
        levels.append(_coarse(_split(stencil)))


def _coarse(stencil: Tensor) -> _Level:
    """The grid of a stencil (n, 4, 9, h, w)."""
    diagonal = stencil[:, :, 4:5]
    free = (diagonal > 0).to(stencil)
    coupling = -stencil
    one, two = coupling[:, 1], coupling[:, 2]
    sides = [one[:, 0::3], one[:, 2::3], two[:, 0:3], two[:, 6:9]]
    rest = [diagonal[:, 1] - one[:, [1, 7]].sum(1, True), diagonal[:, 2] - two[:, [3, 5]].sum(1, True)]
    between = _between([side.sum(1, True) for side in sides], rest, free.unbind(1))
    relax = free / torch.where(free > 0, diagonal, torch.ones_like(diagonal))
    return _Level(free, diagonal, relax, coupling, between)


def _coarsen(level: _Level) -> Tensor:
    """(n, 9, h, w) coefficients of Pᵀ A P, read off its products with combs three positions wide."""
    free, diagonal, relax = level.free.unbind(1), level.diagonal.unbind(1), level.relax.unbind(1)
    h, w = free[0].shape[-2:]
    row, column = (
        torch.arange(h, device=free[0].device)[:, None],
        torch.arange(w, device=free[0].device)[None],
    )
    colour = (row % 3) * 3 + column % 3
    combs = (colour[None] == torch.arange(9, device=row.device)[:, None, None]).to(free[0])[None] * free[0]
    x = list(level.interpolate(combs))
    x.append(level.near(x, 3, (0, 1, 2)).mul_(relax[3]))
    image = [(diagonal[k] * x[k] - level.near(x, k)).mul_(free[k]) for k in (0, 1, 2)]
    product = level.restrict(image).mul_(free[0])
    # coefficient k of position i belongs to its neighbour i + d, which is on one comb only
    comb = torch.stack([((row + di) % 3) * 3 + (column + dj) % 3 for di, dj in OFFSETS])
    stencil = product.gather(1, comb.expand(len(product), -1, -1, -1))
    # neighbours outside the grid do not exist, whatever the residues say
    stencil[:, 0:3, 0] = 0
    stencil[:, 6:9, -1] = 0
    stencil[:, 0::3, :, 0] = 0
    stencil[:, 2::3, :, -1] = 0
    return stencil


def _inverse(stencil: Tensor) -> Tensor:
    """(n, u, u) inverse of a small operator; unknowns that are not there stay zero."""
    n, _, h, w = stencil.shape
    number = torch.arange(h * w, device=stencil.device).view(h, w)
    matrix = stencil.new_zeros(n, h * w, h * w, dtype=torch.float64)
    for k, (di, dj) in enumerate(OFFSETS):
        (rows, near_rows), (columns, near_columns) = _shift(di, h), _shift(dj, w)
        at, neighbour = number[rows, columns].flatten(), number[near_rows, near_columns].flatten()
        matrix[:, at, neighbour] = stencil[:, k, rows, columns].flatten(1).double()
    gone = (stencil[:, 4].flatten(1) <= 0).double()
    matrix = matrix + torch.diag_embed(gone)
    return (torch.linalg.inv(matrix) * (1 - gone)[:, None] * (1 - gone)[:, :, None]).to(stencil)


def _near(x: Sequence[Tensor], k: int, of: Sequence[int] = EVERY) -> Tensor:
    """`_Level.near` on the finest grid: 1 along the axes, 1/2 across the corners."""
    a, b = divmod(k, 2)
    column = x[k ^ 2] if k ^ 2 in of else None
    if k ^ 3 in of:
        corners = _pair(x[k ^ 3], -1, b)
        column = corners.mul_(0.5) if column is None else torch.add(column, corners, alpha=0.5)
    row = _pair(x[k ^ 1], -1, b) if k ^ 1 in of else None
    if column is None:
        return torch.zeros_like(x[k]) if row is None else row
    out = _pair(column, -2, a)
    return out if row is None else out.add_(row)


def _pair(x: Tensor, axis: int, parity: int) -> Tensor:
    """x plus its neighbour along an axis: the one after for odd positions, the one before for even ones."""
    out, n = x.clone(), x.shape[axis] - 1
    if n > 0:
        out.narrow(axis, 1 - parity, n).add_(x.narrow(axis, parity, n))
    return out


@lru_cache(maxsize=1024)
def _plan(k: int, of: tuple[int, ...], h: int, w: int) -> tuple[tuple[int, int, Part, Part], ...]:
    """What colour k reads: number of the coefficient, colour, and where to put what from where."""
    found: list[tuple[int, int, Part, Part]] = []
    for number, (di, dj) in enumerate(OFFSETS):
        row, column = k // 2 + di, k % 2 + dj
        source = row % 2 * 2 + column % 2
        if source != k and source in of:
            (to_row, row_of), (to_column, column_of) = _shift(row // 2, h), _shift(column // 2, w)
            found.append((number, source, (..., to_row, to_column), (..., row_of, column_of)))
    return tuple(found)


def _shift(s: int, size: int) -> tuple[slice, slice]:
    """Where positions have a neighbour ``s`` away, and where these neighbours are."""
    return slice(max(0, -s), size - max(0, s)), slice(max(0, s), size - max(0, -s))


def _split(x: Float[Tensor, "n c h w"]) -> Tensor:
    """(n, 4, c, ⌈h/2⌉, ⌈w/2⌉) by colours; a missing last row or column is zero."""
    h, w = x.shape[-2:]
    x = functional.pad(x, (0, w % 2, 0, h % 2)) if h % 2 or w % 2 else x
    return torch.stack([x[..., k // 2 :: 2, k % 2 :: 2] for k in EVERY], 1)


def _join(x: Tensor, h: int, w: int) -> Tensor:
    """(n, c, h, w) from its colours."""
    n, _, c, rows, columns = x.shape
    out = x.new_empty(n, c, 2 * rows, 2 * columns)
    for k in EVERY:
        out[..., k // 2 :: 2, k % 2 :: 2] = x[:, k]
    return out[..., :h, :w]


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """(n, 1, 1, 1, 1) product over everything of a system; its channels are steered together."""
    return torch.bmm(a.flatten(1)[:, None], b.flatten(1)[:, :, None])[..., None, None]
