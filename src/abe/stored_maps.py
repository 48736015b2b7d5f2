"""What the tensors and the manifest of a saved explanation must have in common."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from abe import schema
from abe.checks import finite

TENSORS = ("attribution", "x", "target", "score", "delta", "standard_error", "labels")
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
        elif name == "labels":
            schema.need_tensor(name, tensor, None, whole=True)
            fits = len(tensor) == b and tensor.ndim == x.ndim and tuple(tensor.shape[2:]) == of[2:]
            schema.need(fits, f"labels are {tuple(tensor.shape)} of inputs {of}")
            counts = [int(own.max()) + 1 if own.numel() else 0 for own in tensor]
            named = [len(names) for names in held["unit_names"]]
            schema.need(named == counts, f"{named} names of {counts} units")
        elif name.startswith(DIAGNOSTIC):
            schema.need(tensor.ndim > 0 and len(tensor) == b, f"{name} is {tuple(tensor.shape)}")
        else:
            schema.need(name in TENSORS, f"{name!r} is no part of an explanation")
    schema.need("score" in tensors, "score is missing")
    for name in ("names", "target_names", "top", "ids", "unit_names", "shown"):
        lengths = (b,) if name in ("names", "target_names") else (b, 0)
        schema.need(len(held[name]) in lengths, f"{len(held[name])} {name} for {b} samples")
    params = held["spec"].get("params", {})
    schema.need(isinstance(params, Mapping), f"spec.params is {params!r:.40}")
    for part in held["parts"]:
        room = 0 <= part.start <= part.stop <= math.prod(shape[1:2])
        size = (part.stop - part.start) * math.prod(shape[2:])
        schema.need(room and math.prod(part.shape) == size, f"{part} is no part of a map {shape}")
