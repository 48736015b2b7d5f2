"""Segmentation
============

Why does the model see the cup *there*? A small segmentation that colours decide, asked in four ways.
"""

# %%
# The network is made here, so that its answers can be checked by eye: every pixel goes to the nearest of four
# colours, after a look at its surroundings. The photograph comes out of an installed package.

from typing import Any

import matplotlib.pyplot as plt
import torch
from torch import Tensor, nn

import abe
from abe.task.zoo import photographs

LABELS = ["background", "wood", "cup", "coffee"]
COLOURS = torch.tensor([[0.16, 0.12, 0.12], [0.48, 0.24, 0.14], [0.86, 0.84, 0.82], [0.62, 0.40, 0.20]])


class Colours(nn.Module):
    """Scores (n, 4, h / 4, w / 4): how near the surroundings of a place are to each colour."""

    def __init__(self) -> None:
        super().__init__()
        self.near = nn.AvgPool2d(8, 4, 2)

    def forward(self, x: Tensor) -> Tensor:
        distance = self.near(x)[:, None] - COLOURS.to(x)[None, :, :, None, None]
        return -20 * distance.square().sum(2)


task = abe.segmentation_task(Colours().eval(), labels=LABELS, size=(192, 192))
photo = photographs(("coffee",))["coffee"]

# %%
# Asked about nothing in particular, it is the class that covers most; or one by its name, the zone under a
# pixel, one class against another over a region of one's own.

window = torch.zeros(192, 192)
window[60:120, 70:140] = 1
QUESTIONS: dict[str, dict[str, Any]] = {
    "what covers most": {},
    "the cup": {"label": "cup"},
    "what is at (96, 96)": {"at": (96, 96)},
    "coffee against wood,\nin a window": {"region": window, "label": "coffee", "against": "wood"},
}
found = {title: abe.explain(task, photo, "ig", **asked) for title, asked in QUESTIONS.items()}

# %%
# Above: the region that is read. Below: the pixels that speak for the class there (orange) and against it
# (blue).

figure, axes = plt.subplots(2, len(found), figsize=(2.4 * len(found), 5.2), layout="constrained")
for (title, explanation), (above, below) in zip(found.items(), axes.T, strict=True):
    picture = explanation.x[0].movedim(0, -1)
    region = explanation.diagnostics["region"][0]
    above.imshow(torch.where(region[..., None], picture, 0.25 * picture))
    above.set_title(f"{title}:\n{explanation.target_names[0]}", fontsize=9)
    shares = explanation.map()[0]
    most = float(shares.abs().quantile(0.995))
    below.imshow(shares, cmap="PuOr_r", vmin=-most, vmax=most)
    for axis in (above, below):
        axis.set_axis_off()
plt.show()

# %%
# A method is measured over the same region.

abe.compare(
    task, photo, ["ig", "gradient_x_input", "occlusion_patch"], ["insertion", "deletion"], label="cup"
).table()
