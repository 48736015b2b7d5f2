"""Which axes of an array are samples, channels, rows and columns: told by the channels that are known."""

from typing import Literal

from torch import Tensor, nn

from abe.errors import Code, InputError

PHOTOGRAPH = (1, 3, 4)
"""Channels that a photograph can have."""
USUAL = 3
"""Channels of an input of which nothing is known."""


def known_channels(model: nn.Module) -> int | None:
    """Input channels of the first convolution; None where there is none."""
    for module in model.modules() if isinstance(model, nn.Module) else ():
        if isinstance(module, nn.Conv2d):
            return module.in_channels or None  # a lazy one has 0
    return None


def channels_first(
    x: Tensor, model: nn.Module, channels: int | None, *, tensor: bool = False, photograph: bool = False
) -> Tensor:
    """(b, c, h, w) pictures from an array of one or several whose channels may be first, last or left out.

    Args:
        x: (b, c, h, w), (b, h, w, c), (c, h, w), (h, w, c), grey pictures (b, h, w), or one (h, w).
        model: its first linear layer may tell how many numbers a picture has.
        channels: of the model's input, where they are known.
        tensor: whether it comes as a tensor, whose channels are first wherever that fits.
        photograph: whether it is an array of bytes, whose channels are last wherever that fits, and which can
            be brought to other channels where it has 1, 3 or 4.

    Raises:
        InputError: another number of axes, or more than one reading that fits.
    """
    if x.ndim == 2 and not tensor:
        colours = channels if channels == USUAL and not photograph else 1
        return x.expand(1, colours, *x.shape)
    if x.ndim not in (3, 4):
        raise InputError(
            Code.SHAPE,
            "An image batch has four axes" if tensor else "An image array has two, three or four axes",
            got=f"shape {tuple(x.shape)}",
            expected="(b, c, h, w) or (c, h, w)",
        )
    if x.ndim == 3 and _reads_series(model):
        raise InputError(
            Code.SHAPE,
            "The model reads series, and three axes would be one picture",
            got=f"shape {tuple(x.shape)}",
            fix='Use abe.series_task(model, "btc") or "bct"',
        )
    if x.ndim == 3 and channels is None:
        channels = _told(x, model)
    lies = _lies(x, channels, tensor=tensor, photograph=photograph)
    if lies == "grey":
        return x[:, None]
    placed = x.movedim(-1, -3).contiguous() if lies == "last" else x
    return placed[None] if x.ndim == 3 else placed


def _reads_series(model: nn.Module) -> bool:
    """Whether the model has layers over one axis of positions and none over two."""
    kinds = [type(module) for module in model.modules()]
    series = any(issubclass(kind, nn.Conv1d | nn.RNNBase) for kind in kinds)
    return series and not any(issubclass(kind, nn.Conv2d | nn.Conv3d) for kind in kinds)


def _told(x: Tensor, model: nn.Module) -> int | None:
    """Channels of three axes, by the numbers that a model without convolutions reads first."""
    linear = (module for module in model.modules() if isinstance(module, nn.Linear))
    features = next((module.in_features for module in linear), 0)
    n, h, w = x.shape
    if features == h * w:
        return 1
    return n if features == n * h * w and USUAL not in (n, w) else None


def _lies(
    x: Tensor, channels: int | None, *, tensor: bool, photograph: bool
) -> Literal["first", "last", "grey"]:
    """Where the channels of three or four axes are."""
    c = channels or USUAL
    first, last = x.shape[-3] == c, x.shape[-1] == c
    if first and (tensor or not last):
        return "first"
    if last and (photograph if first else channels or not tensor):
        return "last"
    if first or (last and x.shape[-3] not in PHOTOGRAPH):
        raise _unclear(x, channels)
    grey = channels == 1 and x.ndim == 3
    if photograph:
        first, last = x.shape[-3] in PHOTOGRAPH, x.shape[-1] in PHOTOGRAPH
        if first and grey:
            raise _unclear(x, channels)
        if first or last:
            return "last" if last else "first"
    if grey:
        return "grey"
    if x.ndim == 3 and x.shape[0] not in PHOTOGRAPH:
        raise _unclear(x, channels)
    return "first"


def _unclear(x: Tensor, channels: int | None) -> InputError:
    c = "c" if channels is None else str(channels)
    return InputError(
        Code.SHAPE,
        "It is not clear which axes are samples and channels",
        got=f"shape {tuple(x.shape)}",
        expected=f"a batch (b, {c}, h, w), or one picture ({c}, h, w)",
        fix="Pass a tensor with all four axes, or channels= to image_task; grey pictures are x[:, None]",
    )
