"""What a result depends on, and whether a map is one of its inputs."""

import platform

import torch
from torch import Tensor

from abe._version import __version__
from abe.checks import finite
from abe.errors import Code, InputError


def versions() -> dict[str, str]:
    """Versions that a result depends on."""
    return {"abe": __version__, "torch": str(torch.__version__), "python": platform.python_version()}


def check_map(attribution: Tensor, x: Tensor) -> None:
    """Refuse a map that is not of these inputs or not finite.

    Raises:
        InputError: another shape, NaN or infinity.
    """
    if attribution.shape != x.shape:
        raise InputError(
            Code.MAP_SHAPE,
            "The method returned a map of another shape",
            got=str(tuple(attribution.shape)),
            expected=str(tuple(x.shape)),
        )
    if not finite(attribution):
        raise InputError(Code.MAP_NOT_FINITE, "The method returned NaN or infinity")
