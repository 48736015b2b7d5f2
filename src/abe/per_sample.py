"""What is held once for every sample: some of it picked by an index, or that of several joined."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from abe.checks import shown
from abe.errors import Code, SampleError


def picked(index: Any, n: int) -> list[int]:
    """The numbers of the samples that an index picks from n, by NumPy's rules."""
    try:
        found = np.arange(n)[index.detach().cpu().numpy() if isinstance(index, Tensor) else index]
    except (IndexError, TypeError, ValueError):
        found = np.empty((0, 0))
    if found.ndim > 1:
        raise SampleError(
            Code.SAMPLES,
            f"There is no sample {shown(index)} of {n}",
            expected=f"numbers from {-n} to {n - 1}, a slice, a list of them, or a mask of {n} truth values",
        )
    return np.atleast_1d(found).tolist()


def follow(held: Any, rows: list[int], at: Any, b: int) -> Any:
    """What belongs to some samples of what is held for b; what is not per sample stays as it is."""
    if isinstance(held, Mapping):
        return {name: follow(one, rows, at, b) for name, one in held.items()}
    if isinstance(held, Tensor):
        place = at.to(held.device) if isinstance(at, Tensor) else at
        return held[place] if held.ndim and len(held) == b else held
    return held if held is None or len(held) != b else [held[row] for row in rows]


def joined(held: list[Any], sizes: list[int]) -> Any:
    """What several explanations hold per sample, one after the other; nothing where one of them lacks it."""
    if isinstance(held[0], Mapping):
        common = [name for name in held[0] if all(name in one for one in held)]
        found = {name: joined([one[name] for one in held], sizes) for name in common}
        return {name: one for name, one in found.items() if one is not None}
    if any(one is None for one in held):
        return None
    complete = all(len(one) == size for one, size in zip(held, sizes, strict=True) if not _is_scalar(one))
    if not isinstance(held[0], Tensor):
        return [item for one in held for item in one] if complete else []
    same = len({one.shape[1:] for one in held}) == 1 and not any(map(_is_scalar, held))
    return torch.cat([one.to(held[0]) for one in held]) if complete and same else None


def of_one_length(parts: Sequence[Any]) -> list[Any]:
    """Explanations of named positions, the shorter ones padded behind; others as they are.

    Padding is in no unit and has a map of 0, as in a batch of texts or series of different lengths.
    """
    lengths = [part.x.shape[2] if part.labels is not None and part.x.ndim > 2 else 0 for part in parts]
    longest = max(lengths, default=0)
    if len(set(lengths)) < 2 or min(lengths) == 0 or any(len(part.parts) > 1 for part in parts):
        return list(parts)
    fills = {"x": 0, "attribution": 0, "standard_error": 0, "labels": -1, "token_labels": -1}
    named = parts[lengths.index(longest)].parts
    found: list[Any] = []
    for part in parts:
        held = {name: getattr(part, name) for name in fills}
        own = {name: _lengthened(t, longest, fills[name]) for name, t in held.items() if t is not None}
        found.append(replace(part, **own, parts=named))
    return found


def _lengthened(tensor: Tensor, length: int, fill: int) -> Tensor:
    """A tensor (b, c, t, …) with more positions behind."""
    missing = tensor.new_full((*tensor.shape[:2], length - tensor.shape[2], *tensor.shape[3:]), fill)
    return torch.cat([tensor, missing], 2)


def without_padding(x: Tensor, lengths: Tensor | None) -> Tensor:
    """(b, c, t, …) with 0 behind each sample's own length; as it is where there are no lengths.

    Args:
        x: features.
        lengths: (b,) positions of each sample along the first axis of positions.
    """
    if lengths is None or x.ndim < 3:
        return x
    behind = torch.arange(x.shape[2], device=x.device) >= lengths.to(x.device)[:, None]
    return x.masked_fill(behind.reshape(len(x), 1, -1, *[1] * (x.ndim - 3)), 0)


def numbered_anew(
    labels: Tensor, names: Sequence[Sequence[str]], prefix: str
) -> tuple[Tensor, list[list[str]]]:
    """Labels (b, *f) of some of the units, counted from 0, and their names without a prefix all have."""
    found, called = torch.full_like(labels, -1), list[list[str]]()
    for row, (own, told) in enumerate(zip(labels, names, strict=True)):
        kept: list[int] = own[own >= 0].unique().tolist()
        for number, unit in enumerate(kept):
            found[row][own == unit] = number
        mine = [told[unit] for unit in kept]
        bare = all(name.startswith(prefix) for name in mine)
        called.append([name.removeprefix(prefix) for name in mine] if bare else mine)
    return found, called


def _is_scalar(one: Any) -> bool:
    return isinstance(one, Tensor) and one.ndim == 0


def json_number(number: float) -> float | str:
    """A number as JSON holds it: infinities and NaN as text."""
    return number if abs(number) != float("inf") and number == number else str(number)


def kind_of(explanation: Any) -> dict[str, Any]:
    """What explanations that are joined have in common.

    Args:
        explanation: one of them.
    """
    return {
        "method": dict(explanation.spec),
        "score": explanation.objective,
        "modality": explanation.modality,
        "axis of the channels": explanation.channels,
        "shape of the inputs": tuple(explanation.x.shape[1:]),
        "shape of the map": tuple(explanation.attribution.shape[1:]),
        "number of targets": tuple(explanation.target.shape[1:]),
    }
