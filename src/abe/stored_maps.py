"""What the tensors and the manifest of a saved explanation must have in common."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from abe import schema
from abe.checks import finite

NAMED = {"labels": "unit_names", "token_labels": "token_names"}
"""Labels of positions, and the names of what they number."""
TENSORS = ("attribution", "x", "target", "score", "delta", "standard_error", *NAMED)
BLANK = "blank"
"""Inputs without a sample."""
DIAGNOSTIC = "diagnostic."
"""Begins the names of saved diagnostics."""


def check_stored(tensors: Mapping[str, Tensor], held: Mapping[str, Any]) -> None:
    """Refuse parts that do not belong together: all but the ids and top classes must be there per sample.

    Raises:
        MisfitError: one of another length, shape or type.
    """
    maps = tensors.get("attribution")
    schema.need(isinstance(maps, Tensor) and maps.ndim > 0, "attribution is missing")
    maps = tensors["attribution"]
    b, shape = len(maps), tuple(maps.shape)
    schema.need(maps.dtype in (*schema.REAL, *schema.WHOLE), f"attribution is {maps.dtype}")
    schema.need(not maps.numel() or finite(maps), "attribution holds NaN or infinity")
    x = tensors.get("x", torch.empty(0))
    schema.need(
        not x.is_complex() and (x.dtype in schema.REAL or not x.is_floating_point()), f"x is {x.dtype}"
    )
    of = tuple(x.shape)
    one_channel = (*of[:1], 1, *of[2:]) if len(of) > 2 else of
    schema.need(shape in (of, one_channel), f"attribution is {shape} of inputs {of}")
    schema.need_tensor("target", tensors.get("target"), None, whole=True)
    target = tensors["target"]
    schema.need(target.ndim in (1, 2) and len(target) == b, f"target is {tuple(target.shape)} of {b} samples")
    schema.need(not target.numel() or int(target.min()) >= 0, "a target is negative")
    for name, tensor in tensors.items():
        if name in ("score", "delta"):
            schema.need_tensor(name, tensor, (b,), bounded=False)
        elif name == "standard_error":
            schema.need_tensor(name, tensor, shape, bounded=False)
        elif name in NAMED:
            _check_labels(name, tensor, x, held.get(NAMED[name], []))
        elif name.startswith(DIAGNOSTIC):
            schema.need(tensor.ndim > 0 and len(tensor) == b, f"{name} is {tuple(tensor.shape)}")
        elif name == BLANK:
            schema.need_tensor(name, tensor, (len(held.get("blank_names", [])), *of[1:]), bounded=False)
        else:
            schema.need(name in TENSORS, f"{name!r} is no part of an explanation")
    for name, names in NAMED.items():
        schema.need(name in tensors or not held.get(names), f"{names} without {name}")
    schema.need("score" in tensors, "score is missing")
    for name in ("names", "target_names", "top", "ids", "unit_names", "token_names", "shown"):
        lengths = (b,) if name in ("names", "target_names") else (b, 0)
        count = len(held.get(name, []))
        schema.need(count in lengths, f"{count} {name} for {b} samples")
    params = held["spec"].get("params", {})
    schema.need(isinstance(params, Mapping), f"spec.params is {params!r:.40}")
    for part in held["parts"]:
        room = 0 <= part.start <= part.stop <= math.prod(shape[1:2])
        size = (part.stop - part.start) * math.prod(shape[2:])
        schema.need(room and math.prod(part.shape) == size, f"{part} is no part of a map {shape}")


def _check_labels(name: str, labels: Tensor, x: Tensor, names: Sequence[Sequence[str]]) -> None:
    schema.need_tensor(name, labels, None, whole=True)
    fits = len(labels) == len(x) and labels.ndim == x.ndim and labels.shape[2:] == x.shape[2:]
    schema.need(fits, f"{name} are {tuple(labels.shape)} of inputs {tuple(x.shape)}")
    counts = [int(own.max()) + 1 if own.numel() else 0 for own in labels]
    named = list(map(len, names))
    schema.need(named == counts, f"{NAMED[name]}: {named} of {counts} {name}")
