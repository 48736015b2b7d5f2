"""Gradients explored through the spectrum of a point, for attributions that read around their path."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from abe.checks import Count, Fraction, NotNegative, Positive, need_image
from abe.engines.runtime.problem import Problem
from abe.engines.runtime.work import Head
from abe.robustness.transforms import cosines
from abe.sizes import OfRange, in_units, lowest
from abe.spec import value


@value
class SpectrumCopies:
    """The mean gradient over N copies z = IDCT(DCT(x + σ ε) ⊙ U[1 − ρ, 1 + ρ]), taken at z.

    The cosine transform runs over the last two axes of images and over the last axis of anything else.

    Args:
        copies: N.
        sigma: standard deviation of the noise.
        rho: how far frequencies are scaled; those of the difference to black, the lowest valid input.
        enlarge: largest side of the random enlargement with zero padding that every copy passes on its
            way to the network, as a share; 1 for none. Not resized back (published code), so the
            network must take any size.
        probability: of the enlargement.
    """

    copies: Count = 20
    sigma: NotNegative = OfRange(16 / 255)
    rho: NotNegative = 0.5
    enlarge: Positive = 1.0
    probability: Fraction = 0.5

    def gradients(
        self, problem: Problem, x: Tensor, owner: Tensor, draw: Tensor, heads: Sequence[Head]
    ) -> Tensor:
        """(m, n, *f) mean gradient of every head: one forward row per copy, one backward row per head."""
        n = self.copies
        row = torch.arange(len(x), device=x.device).repeat_interleave(n)
        number = draw[row] * n + torch.arange(n, device=x.device).repeat(len(x))
        total = x.new_zeros((len(heads), *x.shape))
        resized = self._resized(problem, x, owner[row], number)
        groups: list[tuple[Tensor, Tensor | None]] = [(torch.arange(len(row), device=x.device), None)]
        if resized is not None:
            groups = [((resized[:, 3] < self.probability).nonzero().flatten(), resized)]
            groups.append(((resized[:, 3] >= self.probability).nonzero().flatten(), None))
        for rows, sizes in groups:
            self._add(total, problem, x, owner, heads, row[rows], number[rows], sizes, rows)
        return total

    def _add(
        self,
        total: Tensor,
        problem: Problem,
        x: Tensor,
        owner: Tensor,
        heads: Sequence[Head],
        row: Tensor,
        number: Tensor,
        sizes: Tensor | None,
        rows: Tensor,
    ) -> None:
        """Add the gradients of copies ``number`` (k,) of rows ``row`` (k,) to ``total`` (m, n, *f)."""
        black = lowest(problem.limits)

        def make(k: Tensor) -> Tensor:
            z = self._copies(problem, x[row[k]], owner[row[k]], number[k])
            return z if sizes is None else self._enlarged(z - black, sizes[rows[k]]) + black

        spread = [Head(h.objective, h.target[row]) for h in heads]
        for chunk in problem.gradients(make, owner[row], spread):
            g = chunk.gradients
            if sizes is not None:
                g = self._reduced(g, x, sizes[rows[chunk.rows]])
            total.index_add_(1, row[chunk.rows], g / self.copies)

    def _resized(self, problem: Problem, x: Tensor, owner: Tensor, number: Tensor) -> Tensor | None:
        """(k, 4) uniform draws of size, top, left and coin; None without enlargement."""
        if self.enlarge <= 1:
            return None
        need_image("Enlargement", x)
        return problem.draws.uniform("spectrum.enlarge", problem.keys(owner, number), (4,))

    def _windows(self, side: int, draws: Tensor) -> tuple[int, dict[int, list[tuple[int, int, int]]]]:
        """Outer side, and by inner side the rows (number, top, left) that have it."""
        outer = int(side * self.enlarge)
        found: dict[int, list[tuple[int, int, int]]] = {}
        for row, (size, top, left, _) in enumerate(draws.tolist()):
            inner = side + int(size * (outer - side))
            room = outer - inner
            found.setdefault(inner, []).append((row, int(top * room), int(left * room)))
        return outer, found

    def _enlarged(self, z: Tensor, draws: Tensor) -> Tensor:
        """Every copy at its own size and place on black; copies of one size are resized together."""
        outer, windows = self._windows(z.shape[-1], draws)
        out = z.new_zeros(*z.shape[:2], outer, outer)
        for inner, places in windows.items():
            small = z[[row for row, _, _ in places]]
            moved = F.interpolate(small, size=(inner, inner), mode="bilinear", align_corners=False)
            for image, (row, top, left) in zip(moved, places, strict=True):
                out[row, :, top : top + inner, left : left + inner] = image
        return out

    def _reduced(self, g: Tensor, x: Tensor, draws: Tensor) -> Tensor:
        """(m, n, *f) gradients at the copies from those at their enlargements: resizing is linear."""
        out = g.new_empty(*g.shape[:2], *x.shape[1:])
        for inner, places in self._windows(x.shape[-1], draws)[1].items():
            cut = [g[:, row, :, top : top + inner, left : left + inner] for row, top, left in places]
            window = torch.stack(cut, 1)
            out[:, [row for row, _, _ in places]] = torch.ops.aten.upsample_bilinear2d_backward(
                window.flatten(0, 1),
                [inner, inner],
                [len(g) * len(places), *x.shape[1:]],
                align_corners=False,
            ).unflatten(0, window.shape[:2])
        return out

    def _copies(self, problem: Problem, x: Tensor, owner: Tensor, number: Tensor) -> Tensor:
        keys = problem.keys(owner, number)
        noise = problem.draws.normal("spectrum.noise", keys, x.shape[1:]).to(x)
        scale = problem.draws.uniform("spectrum.scale", keys, x.shape[1:]).to(x)
        scale = scale * 2 * self.rho + 1 - self.rho
        black, sigma = lowest(problem.limits), in_units(self.sigma, problem.limits)
        return _inverse(_forward(x - black + sigma * noise) * scale) + black


def _forward(x: Tensor) -> Tensor:
    """Cosine spectrum over the last two axes of images, else over the last."""
    spectrum = x @ cosines(x.shape[-1], x.dtype).to(x).T
    return cosines(x.shape[-2], x.dtype).to(x) @ spectrum if x.ndim == 4 else spectrum


def _inverse(spectrum: Tensor) -> Tensor:
    x = spectrum @ cosines(spectrum.shape[-1], spectrum.dtype).to(spectrum)
    return cosines(x.shape[-2], x.dtype).to(x).T @ x if x.ndim == 4 else x
