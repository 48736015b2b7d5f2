"""Noisy linear imputation by multigrid against SciPy's sparse direct solve, seconds per image at 224².

    python -m benchmarks imputation

Both solve the same systems in one run: connected holes over 50 to 97 % of three-channel images. SciPy's
system is assembled by array operations and solved once for all channels, as the published code does
(which assembles entry by entry and is slower).
"""

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.linalg import spsolve
from torch import Tensor

from abe.engines.removal import neighbour_fill

SIDE, SHARES = 224, (0.5, 0.7, 0.9, 0.97)


def holes(images: int, share: float) -> Tensor:
    """(n, 1, h, w) connected regions that cover ``share`` of each image."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(images, 1, 14, 14, generator=generator)
    field = torch.nn.functional.interpolate(coarse, (SIDE, SIDE), mode="bicubic")
    field = field + 1e-4 * torch.rand(field.shape, generator=generator)
    bound = field.flatten(1).kthvalue(int(share * SIDE * SIDE), dim=1).values
    return field <= bound.view(-1, 1, 1, 1)


def direct(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """(c, h, w) by a sparse direct solve of all channels at once."""
    h, w = mask.shape
    unknown = np.argwhere(mask)
    number = np.full((h, w), -1)
    number[mask] = np.arange(len(unknown))
    rows, columns, values = [np.arange(len(unknown))], [np.arange(len(unknown))], []
    degree, right = np.zeros(len(unknown)), np.zeros((len(unknown), len(image)))
    for di in (-1, 0, 1):
        for dj in (-1, 0, 1):
            if di == dj == 0:
                continue
            weight = 1 / 6 if 0 in (di, dj) else 1 / 12
            i, j = unknown[:, 0] + di, unknown[:, 1] + dj
            inside = np.nonzero((i >= 0) & (i < h) & (j >= 0) & (j < w))[0]
            degree[inside] += weight
            near = number[i[inside], j[inside]]
            free = near >= 0
            rows.append(inside[free])
            columns.append(near[free])
            values.append(np.full(free.sum(), -weight))
            known = inside[~free]
            right[known] += weight * image[:, i[known], j[known]].T
    data = np.concatenate([degree, *values])
    matrix = coo_matrix((data, (np.concatenate(rows), np.concatenate(columns)))).tocsc()
    out = image.copy()
    out[:, mask] = spsolve(matrix, right).reshape(len(unknown), -1).T
    return out


def run(images: int = 8, rounds: int = 5) -> Iterator[dict[str, Any]]:
    """Seconds per image and the largest difference, for each share of missing pixels."""
    x = torch.rand(images, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    for share in SHARES:
        mask = holes(images, share)
        neighbour_fill.fill(x, mask)  # warms memory and threads up
        ours, theirs, gap = [], [], 0.0
        for _ in range(rounds):
            began = time.perf_counter()
            found = neighbour_fill.fill(x, mask)
            ours.append((time.perf_counter() - began) / images)
            began = time.perf_counter()
            wanted = np.stack(
                [direct(a.double().numpy(), m[0].numpy()) for a, m in zip(x, mask, strict=True)]
            )
            theirs.append((time.perf_counter() - began) / images)
            gap = max(gap, float(np.abs(found.double().numpy() - wanted).max()))
        a, b = float(np.median(ours)), float(np.median(theirs))
        yield {"missing": share, "multigrid": a, "scipy": b, "ratio": b / a, "largest_difference": gap}
