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

from pictures import draw

import abe
from abe.task.zoo import efficientnet_lite0, photographs

task = efficientnet_lite0()
photos = list(photographs(("chelsea", "coffee", "rocket")).values())
print(abe.explain(task, photos, "grad_cam").warnings[0])

# %%
# Every method on every photograph. Maps are shared out over the colour channels, so their sum over
# channels is the map.

METHODS = {
    "Grad-CAM": "grad_cam",
    "Grad-CAM++": "grad_cam_plus_plus",
    "HiResCAM": "hires_cam",
    "XGrad-CAM": "xgrad_cam",
    "Layer-CAM": "layer_cam",
    "Eigen-CAM": "eigen_cam",
}
found = {title: abe.explain(task, photos, name) for title, name in METHODS.items()}

# %%
# Bright is large; each map has a scale of its own, from zero.

draw(found, "gallery_maps.png", signed=False)
