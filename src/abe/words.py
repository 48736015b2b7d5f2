"""What a result says of itself where it is shown, in few lines."""

from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor

WIDTH = 110
SHOWN = 4
"""Items of a list that are shown."""


def some(items: Iterable[Any], most: int = SHOWN) -> str:
    """The items, or of many the first with how many there are."""
    found = [str(item) for item in items]
    return ", ".join(found if len(found) <= most else [*found[:most], f"… ({len(found)} in all)"])


def numbers(values: Tensor) -> str:
    """The first numbers of a list, shortly."""
    return some(f"{value:.4g}" for value in values.detach().cpu().double().flatten().tolist())


def shape(tensor: Tensor) -> str:
    """Axes and type."""
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')} on {tensor.device}"


def card(title: str, told: Iterable[tuple[str, str]], warnings: Sequence[str]) -> str:
    """A title, a line for everything that there is to tell, and at most two lines of warnings."""
    lines = [title, *(f"  {name}: {text}" for name, text in told if text)]
    lines += [f"  warning: {warnings[0]}"] if warnings else []
    lines += [f"  and {len(warnings) - 1} more in .warnings"] if len(warnings) > 1 else []
    return "\n".join(line if len(line) <= WIDTH else f"{line[: WIDTH - 2]} …" for line in lines)
