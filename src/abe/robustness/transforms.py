"""Random transformations of images through which an attack takes its gradients."""

import math
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from abe.checks import Count, Fraction, NotNegative, Positive, need_image, need_list
from abe.engines.path.steps.aim import Aim
from abe.errors import Code, SpecError
from abe.sizes import OfRange, in_units, lowest
from abe.spec import value


@value
class InputDiversity:
    """With probability p: resized to a random smaller (or larger) size and padded with black (DIM).

    For rate < 1 the side is uniform between rate · h and h and the image is padded back to h. For
    rate > 1 it is uniform between h and rate · h, padded to rate · h, and resized back.

    Args:
        probability: of a transformation.
        rate: smallest (or largest) side as a share of the side.
        one_draw: one size and one coin for the whole batch, as the published code has it; then a row
            depends on its neighbours.
    """

    probability: Fraction = 0.5
    rate: Positive = 0.75
    one_draw: bool = False

    def apply(self, x: Tensor, aim: Aim, who: Tensor, copy: Tensor, copies: int) -> Tensor:
        """Every row by its own draws: coin, size, place."""
        need_image("Input diversity", x)
        u = aim.uniform("diversity", torch.zeros_like(who) if self.one_draw else who, copy, copies, (4,))
        black = lowest(aim.point.bounds)
        rows = [self._one(row[None], *draws) for row, draws in zip(x - black, u.tolist(), strict=True)]
        return torch.cat(rows) + black if rows else x

    def _one(self, x: Tensor, size: float, top: float, left: float, coin: float) -> Tensor:
        if coin >= self.probability:
            return x
        h, w = x.shape[-2:]
        small, large = sorted((min(h, w), max(1, int(min(h, w) * self.rate))))
        side = small + int(size * (large - small))
        if side == large and self.rate >= 1:
            return x
        ratio = side / min(h, w)
        tall, wide = (side, side) if h == w else (max(1, round(h * ratio)), max(1, round(w * ratio)))
        outer = (h, w) if self.rate < 1 else (max(tall, int(h * self.rate)), max(wide, int(w * self.rate)))
        moved = F.interpolate(x, size=(tall, wide), mode="bilinear", align_corners=False)
        room_h, room_w = outer[0] - tall, outer[1] - wide
        y, z = int(top * room_h), int(left * room_w)
        padded = F.pad(moved, (z, room_w - z, y, room_h - y))
        if padded.shape[-2:] == (h, w):
            return padded
        return F.interpolate(padded, size=(h, w), mode="bilinear", align_corners=False)


@value
class Spectrum:
    """IDCT(DCT(x + σ ε) ⊙ U[1 − ρ, 1 + ρ]), the gradient taken at the transformed image (SSA).

    Args:
        sigma: standard deviation of the noise.
        rho: how far frequencies are scaled; those of the difference to black, the lowest valid input.
    """

    sigma: NotNegative = OfRange(16 / 255)
    rho: NotNegative = 0.5

    def apply(self, x: Tensor, aim: Aim, who: Tensor, copy: Tensor, copies: int) -> Tensor:
        """The transformed image, with the gradient of the image itself."""
        need_image("The spectrum transformation", x)
        with torch.no_grad():
            noise = aim.normal("spectrum.noise", who, copy, copies, x.shape[1:])
            mask = aim.uniform("spectrum.mask", who, copy, copies, x.shape[1:]) * 2 * self.rho + 1 - self.rho
            rows, columns = (cosines(n, x.dtype).to(x) for n in x.shape[-2:])
            black, sigma = lowest(aim.point.bounds), in_units(self.sigma, aim.point.bounds)
            spectrum = rows @ (x - black + noise * sigma) @ columns.T
            moved = rows.T @ (spectrum * mask) @ columns + black
        return moved + (x - x.detach())


OPERATIONS = (
    "resize",
    "vertical_shift",
    "horizontal_shift",
    "vertical_flip",
    "horizontal_flip",
    "rotate",
    "scale",
    "noise",
    "lowpass",
    "dropout",
)
"""Block operations of the structure transformation, in the published order."""
SEVEN = OPERATIONS[1:8]
"""Those of a widespread library."""


@value
class Structure:
    """The image cut into random blocks, each changed by a random operation (SIA).

    Scaling, dropout and low-pass work on the difference to black, the lowest valid input.

    Args:
        blocks: cuts per axis plus one.
        operations: names to draw from.
        noise: largest additive noise.
        published: the published code's slips: height and width exchanged when a block is shrunk, and
            blocks narrower than three pixels emptied by the low-pass.
    """

    blocks: Count = 3
    operations: tuple[str, ...] = OPERATIONS
    noise: NotNegative = OfRange(16 / 255)
    published: bool = False

    def __post_init__(self) -> None:
        names = need_list("operations", self.operations, f"some of {', '.join(OPERATIONS)}")
        unknown = [name for name in names if not isinstance(name, str) or name not in OPERATIONS]
        if unknown or not names:
            raise SpecError(
                Code.BAD_PARAMETER,
                "The structure transformation has no such operation",
                got=repr(unknown[0] if unknown else self.operations),
                expected=f"some of {', '.join(OPERATIONS)}",
            )

    def apply(self, x: Tensor, aim: Aim, who: Tensor, copy: Tensor, copies: int) -> Tensor:
        """Every row by its own cuts and operations."""
        need_image("The structure transformation", x)
        c, h, w = x.shape[1:]
        if min(h, w) <= self.blocks:
            raise SpecError(
                Code.UNSUPPORTED,
                "The image is too small to be cut into blocks",
                got=f"{h} × {w}",
                expected=f"more than {self.blocks} pixels to a side",
            )
        n = self.blocks**2
        rows = aim.orders("structure.rows", who, copy, copies, h - 1)[:, : self.blocks - 1] + 1
        columns = aim.orders("structure.columns", who, copy, copies, w - 1)[:, : self.blocks - 1] + 1
        chosen = aim.integers("structure.operation", who, copy, copies, len(self.operations), (n,))
        numbers = aim.uniform("structure.number", who, copy, copies, (n,))
        noise = aim.uniform("structure.noise", who, copy, copies, (c, h, w))
        kept = aim.uniform("structure.dropout", who, copy, copies, (n, c))
        bounds = aim.point.bounds
        black, most = lowest(bounds), in_units(self.noise, bounds)
        low, high = (None, None) if bounds is None else (bounds[0] - black, bounds[1] - black)
        shifts, x = (2 * noise - 1) * most, x - black
        out: list[Tensor] = []
        for i in range(len(x)):
            draw = _Draw(chosen[i].tolist(), numbers[i], shifts[i], kept[i], low, high)
            out.append(self._one(x[i], _cuts(rows[i], h), _cuts(columns[i], w), draw))
        return torch.stack(out) + black

    def _one(self, x: Tensor, rows: list[int], columns: list[int], draw: "_Draw") -> Tensor:
        lines: list[Tensor] = []
        for i in range(self.blocks):
            line: list[Tensor] = []
            for j in range(self.blocks):
                window = (slice(rows[i], rows[i + 1]), slice(columns[j], columns[j + 1]))
                line.append(self._block(x[(slice(None), *window)], window, i * self.blocks + j, draw))
            lines.append(torch.cat(line, dim=2))
        return torch.cat(lines, dim=1)

    def _block(self, block: Tensor, window: tuple[slice, slice], number: int, draw: "_Draw") -> Tensor:
        name = self.operations[draw.chosen[number]]
        u = draw.numbers[number]
        match name:
            case "resize":
                return draw.clip(self._resize(block))
            case "vertical_shift":
                return block.roll(int(u * block.shape[1]), dims=1)
            case "horizontal_shift":
                return block.roll(int(u * block.shape[2]), dims=2)
            case "vertical_flip":
                return block.flip(1)
            case "horizontal_flip":
                return block.flip(2)
            case "rotate":
                return block.rot90(2, dims=(1, 2))
            case "scale":
                return u * block
            case "noise":
                return draw.clip(block + draw.noise[(slice(None), *window)])
            case "lowpass":
                return _lowpass(block, 0.4, empties=self.published)
            case _:
                return block * ((draw.kept[number] < 0.9).to(block) / 0.9)[:, None, None]

    def _resize(self, block: Tensor) -> Tensor:
        h, w = block.shape[1:]
        small = (int(h * 0.8) + 1, int(w * 0.8) + 1)
        shrunk = F.interpolate(
            block[None],
            size=small[::-1] if self.published else small,
            mode="bilinear",
            align_corners=False,
        )
        return F.interpolate(shrunk, size=(h, w), mode="bilinear", align_corners=False)[0]


class _Draw:
    """What one copy of one image drew."""

    def __init__(
        self,
        chosen: list[int],
        numbers: Tensor,
        noise: Tensor,
        kept: Tensor,
        low: Tensor | None,
        high: Tensor | None,
    ) -> None:
        self.chosen, self.numbers, self.noise, self.kept = chosen, numbers, noise, kept
        self._low, self._high = low, high

    def clip(self, block: Tensor) -> Tensor:
        """The block inside the bounds, which are the same everywhere in a channel."""
        if self._low is None or self._high is None:
            return block
        low, high = (_channelwise(b, block) for b in (self._low, self._high))
        return torch.clamp(block, low, high)


def _channelwise(bound: Tensor, block: Tensor) -> Tensor:
    """A bound that broadcasts to (b, c, h, w) as one number per channel (c or 1, 1, 1)."""
    flat = bound.reshape(-1, *bound.shape[-3:]) if bound.ndim >= 3 else bound.reshape(1, -1, 1, 1)
    if flat.ndim == 4:
        flat = flat[0]
    return flat[..., :1, :1].to(block)


def _cuts(at: Tensor, length: int) -> list[int]:
    return [0, *sorted(at.tolist()), length]


def _lowpass(block: Tensor, share: float, *, empties: bool) -> Tensor:
    """Without the last ``share`` of the rows and columns of its cosine spectrum.

    ``empties`` reads "the last 0 rows" as all of them, as a slice ``[-0:]`` does.
    """
    rows, columns = (cosines(n, block.dtype).to(block) for n in block.shape[1:])
    spectrum = rows @ block @ columns.T
    h, w = block.shape[1:]
    keep = torch.ones(h, w, dtype=block.dtype, device=block.device)
    rows_cut, columns_cut = int(h * share), int(w * share)
    if empties and (rows_cut == 0 or columns_cut == 0):
        return block * 0
    keep[h - rows_cut :, :] = 0
    keep[:, w - columns_cut :] = 0
    return rows.T @ (spectrum * keep) @ columns


@cache
def _basis(n: int) -> Tensor:
    k = torch.arange(n, dtype=torch.float64)
    basis = torch.cos(math.pi / n * k[:, None] * (k[None, :] + 0.5)) * math.sqrt(2 / n)
    basis[0] /= math.sqrt(2)
    return basis


def cosines(n: int, dtype: torch.dtype) -> Tensor:
    """(n, n) orthonormal DCT-II basis: rows are frequencies. Diagonal changes of a spectrum need no norm."""
    return _basis(n).to(dtype)
