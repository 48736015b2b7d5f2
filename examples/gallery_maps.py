"""
Class activation maps
=====================

Where did a convolutional network look? EfficientNet-Lite0 with its real weights on real photographs:
every map is the same layer's output, weighted differently.

Run it with ``python examples/gallery_maps.py``; it writes ``gallery_maps.png``.
"""

# %%
# The network and the photographs come out of installed packages; nothing is downloaded.

from pictures import draw

import abe
from abe.task.zoo import efficientnet_lite0, photographs

task = efficientnet_lite0()
photos = list(photographs(("chelsea", "coffee", "rocket")).values())

# %%
# Every method on every photograph. Maps are shared out over the colour channels, so their sum over
# channels is the map. The layer is found by one observed run; the note in the result names it, so that
# it can be passed afterwards.

METHODS = {
    "Grad-CAM": "grad_cam",
    "Grad-CAM++": "grad_cam_plus_plus",
    "HiResCAM": "hires_cam",
    "XGrad-CAM": "xgrad_cam",
    "Layer-CAM": "layer_cam",
    "Eigen-CAM": "eigen_cam",
}
found = {title: abe.explain(task, photos, name) for title, name in METHODS.items()}
print(found["Grad-CAM"].warnings[0])

# %%
# Bright is large; each map has a scale of its own, from zero.

draw(found, "gallery_maps.png", signed=False)
