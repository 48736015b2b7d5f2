"""
Class activation maps
=====================

Where did a convolutional network look? EfficientNet-Lite0 with its real weights on real photographs:
every map is the same layer's output, weighted differently.

Run it with ``python examples/gallery_maps.py``; it writes ``gallery_maps.png``.
"""

# %%
# A photograph and the decision. The layer is found by one observed run; the note in the result names
# it, so that it can be passed afterwards.

import matplotlib.pyplot as plt
import torch

import abe
from abe.task.zoo import efficientnet_lite0, photographs

torch.set_num_threads(2)
task = efficientnet_lite0()
photos = dict(list(photographs().items())[:3])
first = abe.explain(task, list(photos.values()), "grad_cam", progress=False)
chosen = first.warnings[0]

# %%
# Every method on every photograph. Maps are shared out over the colour channels, so their sum over
# channels is the map; each is scaled to [0, 1] here.

METHODS = ("grad_cam", "grad_cam_plus_plus", "hires_cam", "xgrad_cam", "layer_cam", "eigen_cam")
maps = {
    name: abe.explain(task, list(photos.values()), name, normalise=True, progress=False).map()
    for name in METHODS
}

# %%
# Photographs on the left, maps over them on the right.

figure, axes = plt.subplots(
    len(photos), len(METHODS) + 1, figsize=(2.2 * (len(METHODS) + 1), 2.4 * len(photos))
)
for row, target in zip(range(len(photos)), first.target_names, strict=True):
    picture = first.x[row].permute(1, 2, 0).numpy()
    axes[row, 0].imshow(picture)
    axes[row, 0].set_title(target, fontsize=8)
    for column, name in enumerate(METHODS, start=1):
        axes[row, column].imshow(picture)
        axes[row, column].imshow(maps[name][row].numpy(), cmap="jet", alpha=0.5, vmin=0, vmax=1)
        axes[row, column].set_title(name, fontsize=8)
for axis in axes.flat:
    axis.set_axis_off()
figure.suptitle(chosen, fontsize=9)
figure.tight_layout()
figure.savefig("gallery_maps.png", dpi=90)
