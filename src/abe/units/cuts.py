"""Windows, frames, tubes, blocks and points: how named axes are cut, and what the pieces are called.

Every cut is a product: a number for each place along every axis of positions, and whether channels are apart.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import product

import torch
from torch import Tensor

from abe.errors import Code, InputError

WINDOWS = 12
"""Windows of time by default, or as many as there are steps."""
CELLS = {1: WINDOWS, 2: 4, 3: 3}
"""Cells of a block along each axis, by the number of axes."""
Name = Callable[[str, int, int], str]
"""What a run of places is called: letter of the axis, first and last place."""
KINDS = ("window_channel", "window", "channel", "frame", "tube", "block", "point")


def kinds_of(positions: str, channels: int) -> tuple[str, ...]:
    """The kinds of units that fit axes of positions, the natural one first."""
    if positions == "t":
        both = ("window_channel", "window") if channels > 1 else ("window", "window_channel")
        return (*both, "channel")
    if positions == "n":
        return "point", "channel"
    moving = "t" in positions and bool({"h", "w"} & set(positions))
    return ("frame", "tube", "block", "channel") if moving else ("block", "channel")


def size_of_window(steps: int) -> int:
    """Steps of a window that makes about `WINDOWS` of them."""
    return max(1, -(-steps // WINDOWS))


def cells(size: int, n: int) -> Tensor:
    """(size,) the cell of each place where there are ``n`` of them, or as many as places."""
    return torch.arange(size) * min(n, size) // size


def along(kind: str, positions: str, space: Sequence[int], size: int | None = None) -> dict[str, Tensor]:
    """By letter of an axis, the number of each place along it; axes that are not cut are left out.

    Args:
        kind: one of `KINDS`.
        positions: letters of the axes.
        space: their sizes.
        size: steps of a window; of tubes and blocks, cells along each axis.

    Raises:
        InputError: such axes have no units of this kind.
    """
    sizes = dict(zip(positions, space, strict=True))
    if kind not in KINDS or (kind not in kinds_of(positions, 2)):
        raise InputError(
            Code.UNITS,
            f"Axes {positions!r} have no units called {kind!r}",
            expected=f"one of {', '.join(kinds_of(positions, 2))}",
        )
    if kind in ("window", "window_channel"):
        steps = size or size_of_window(sizes["t"])
        return {"t": torch.arange(sizes["t"]) // steps}
    if kind in ("frame", "point"):
        letter = "t" if kind == "frame" else "n"
        return {letter: torch.arange(sizes[letter])}
    if kind == "channel":
        return {}
    cut = {k: n for k, n in sizes.items() if kind == "block" or k != "t"}
    return {k: cells(n, size or CELLS[min(len(cut), 3)]) for k, n in cut.items()}


def labels_of(
    numbers: Mapping[str, Tensor], positions: str, shape: Sequence[int], *, channels: bool
) -> Tensor:
    """(1, 1 or c, *positions) the unit of every position, channels counting fastest.

    Args:
        numbers: as `along` gives them.
        positions: letters of the axes.
        shape: (c, *positions) of a sample.
        channels: each channel is apart.
    """
    found = torch.zeros((1, 1, *shape[1:]), dtype=torch.long)
    for axis, letter in enumerate(positions):
        if letter in numbers:
            own = numbers[letter]
            place = own.view(*[-1 if i == axis else 1 for i in range(len(positions))])
            found = found * (int(own.max()) + 1) + place
    if not channels:
        return found
    apart = torch.arange(shape[0]).view(1, -1, *[1] * len(positions))
    return found * shape[0] + apart


def names_of(
    numbers: Mapping[str, Tensor], positions: str, name: Name, channels: Sequence[str] = ()
) -> list[str]:
    """What the units are called, in their order.

    Args:
        numbers: as `along` gives them.
        positions: letters of the axes.
        name: of a run of places.
        channels: names of the channels where they are apart.
    """
    listed: list[list[str]] = []
    for letter in positions:
        if letter in numbers:
            own = numbers[letter]
            counts = torch.bincount(own).tolist()
            starts = [sum(counts[:i]) for i in range(len(counts))]
            listed.append([name(letter, a, a + n - 1) for a, n in zip(starts, counts, strict=True)])
    pieces = [" ".join(one) for one in product(*listed)]
    if not channels:
        return pieces
    return [f"{channel} {piece}".strip() for piece in pieces for channel in channels]


def beyond(labels: Tensor, lengths: Tensor) -> Tensor:
    """(b, 1 or c, *positions) the labels, -1 where a sample ends before along its first axis of positions."""
    rows = labels.expand(len(lengths), *labels.shape[1:]) if len(labels) == 1 else labels
    place = torch.arange(labels.shape[2], device=labels.device).view(1, 1, -1, *[1] * (labels.ndim - 3))
    ends = lengths.to(labels.device).view(-1, *[1] * (labels.ndim - 1))
    return torch.where(place < ends, rows, torch.full_like(rows, -1))
