"""Recorded reference vectors of the method oracles, and how closely they must be met."""

import json
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from tests.metrics.common import ORACLES
from tests.reading import Arrays
from torch import Tensor, nn

import abe

FLOAT64 = 1e-10
"""Deterministic cases, relative to the largest entry of each map."""
FLOAT32 = 1e-5
"""Cases recorded in float32."""
FLOAT32_STEP = 1e-6
"""Cases whose published code keeps gradients in float32 in between (Expected Gradients and its kin)."""
FLOAT32_WEIGHTS = 2.0**-24
"""Cases whose published code rounds quadrature weights to float32."""
KINKS = 1e-4
"""A float64 case run in float32: rounding may put a node on the other side of a ReLU's kink."""


def net(name: str, dtype: torch.dtype = torch.float64) -> nn.Sequential:
    """The recorded network ``s``, or ``h`` without any bias."""
    bias = name == "s"
    made = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=bias),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1, bias=bias),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(1024, 10, bias=bias),
    ).double()
    made.load_state_dict(load_file(ORACLES / "nets" / f"{name}.safetensors"))
    return made.to(dtype).eval()


def images() -> Tensor:
    """(4, 3, 32, 32) three crops of photographs and one random image, float64 in [0, 1]."""
    with np.load(ORACLES / "inputs.npz", allow_pickle=False) as file:
        return torch.from_numpy(file["x32_u8"]).double() / 255


def oracle(name: str) -> dict[str, Any]:
    """The arrays of a case; inputs stored by number or as bytes are filled in as ``x`` and by name."""
    with np.load(ORACLES / f"{name}.npz", allow_pickle=False) as file:
        case: dict[str, Any] = {k: torch.from_numpy(file[k]) for k in file.files if k != "meta"}
        case["meta"] = json.loads(str(file["meta"]))
    if "image" in case:
        case["x"] = images()[case["image"].long()]
    for key in [k for k in case if k.endswith("_u8")]:
        case[key.removesuffix("_u8")] = case.pop(key).double() / 255
    for key in ("target", "label"):
        if key in case:
            case[key] = case[key].long()
    return Arrays(name, case)


def run(case: dict[str, Any], method: Any, *, model: str = "s", **how: Any) -> abe.Explanation:
    """The method on a recorded case, as a user calls it."""
    dtype = how.pop("dtype", torch.float64)
    task = abe.image_task(net(model, dtype), output_kind="logits")
    return abe.explain(
        task,
        case["x"].to(dtype),
        method,
        target=case["target"],
        progress=False,
        ids=range(len(case["x"])),
        **how,
    )


def miss(found: Tensor, right: Tensor) -> float:
    """The largest difference, relative to the largest entry of the same sample's map."""
    assert found.shape == right.shape
    found, right = found.double().flatten(1), right.double().flatten(1)
    return float(((found - right).abs().amax(1) / right.abs().amax(1)).max())
