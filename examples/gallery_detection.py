"""Detection
=========

Why does the model see a cup *there*? A small detector that brightness decides, asked in four ways.
"""

# %%
# The detector is made here, so that its answers can be checked by eye: boxes of two sizes lie on a grid, and
# a box is a "bright" or a "dark" object as far as it differs from what surrounds it. The photograph comes out
# of an installed package.

from typing import Any

import matplotlib.pyplot as plt
import torch
from torch import Tensor, nn

import abe
from abe.task.zoo import photographs

LABELS = ["bright", "dark"]
SIZES, STRIDE = (48, 72), 16


class Contrast(nn.Module):
    """At every place of a grid, for two sizes: how much brighter a window is than the one around it."""

    def forward(self, x: Tensor) -> list[Tensor]:
        grey = x.mean(1, keepdim=True)
        return [
            nn.functional.avg_pool2d(grey, size, STRIDE, size // 2)
            - nn.functional.avg_pool2d(grey, 2 * size, STRIDE, size)
            for size in SIZES
        ]


def dense(contrasts: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Boxes (n, m, 4) and probabilities (n, m, 2) of what the network returns."""
    boxes, chances = [], []
    for contrast, size in zip(contrasts, SIZES, strict=True):
        rows, columns = contrast.shape[2:]
        y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        middle = STRIDE * torch.stack([x, y], -1).reshape(-1, 2).to(contrast)
        boxes.append(torch.cat([middle - size / 2, middle + size / 2], -1).expand(len(contrast), -1, -1))
        flat = contrast.flatten(1)
        chances.append(torch.stack([(20 * flat - 4).sigmoid(), (-20 * flat - 4).sigmoid()], -1))
    return torch.cat(boxes, 1), torch.cat(chances, 1)


task = abe.detection_task(Contrast().eval(), LABELS, dense=dense, size=(192, 192), overlap=0.2)
photo = photographs(("coffee",))["coffee"]
print(task.detect(photo))

# %%
# Asked about nothing in particular, it is the most probable detection. A number asks about another, and a box
# of one's own about what was missed.

QUESTIONS: dict[str, dict[str, Any]] = {
    "detection 0": {},
    "detection 1": {"detection": 1},
    "a box of one's own": {"box": (16, 120, 80, 184), "label": "bright"},
    "the class alone": {"part": "class"},
}
found = {title: abe.explain(task, photo, "ig", **asked) for title, asked in QUESTIONS.items()}

# %%
# Above: the box. Below: the pixels that speak for the class there (orange) and against it (blue).

figure, axes = plt.subplots(2, len(found), figsize=(2.4 * len(found), 5.2), layout="constrained")
for (title, explanation), (above, below) in zip(found.items(), axes.T, strict=True):
    left, top, right, bottom = explanation.diagnostics["box"][0].tolist()
    above.imshow(explanation.x[0].movedim(0, -1))
    frame = plt.Rectangle(
        (left, top), right - left, bottom - top, fill=False, edgecolor="#d54a00", linewidth=2
    )
    above.add_patch(frame)
    above.set_title(title, fontsize=9)
    bound = float(explanation.map().abs().max())
    below.imshow(explanation.map()[0], cmap="PuOr_r", vmin=-bound, vmax=bound)
    below.set_title(f"{explanation.target_names[0]} {float(explanation.score):.2f}", fontsize=9)
    for one in (above, below):
        one.set_xticks([])
        one.set_yticks([])

# %%
# Where nothing is found there is nothing to explain, and the plot says so.

nothing = abe.explain(task, torch.full((1, 3, 192, 192), 0.5))
nothing.plot()
