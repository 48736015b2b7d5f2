"""
Class activation maps
=====================

Where did a convolutional network look? EfficientNet-Lite0 with its real weights on real photographs:
every map is the same layer's output, weighted differently.
"""

# %%
# The network and the photographs come out of installed packages; nothing is downloaded.

from pictures import draw

import abe
from abe.task.zoo import efficientnet_lite0, photographs

task = efficientnet_lite0()
photos = list(photographs(("chelsea", "coffee")).values())

# %%
# Every method on every photograph. Maps are shared out over the colour channels, so their sum over
# channels is the map. The layer is found by one observed run; the note in the result names it, so that
# it can be passed afterwards. Behind this network's last layer there is only a mean and one linear map,
# where most of these methods are the same by their formulas; earlier layers tell them apart.

METHODS = {
    "Grad-CAM": ("grad_cam", {}),
    "Grad-CAM++": ("grad_cam_plus_plus", {}),
    "Eigen-CAM": ("eigen_cam", {}),
    "block 10 of 16\nGrad-CAM": ("grad_cam", {"layer": "_blocks.10"}),
    "block 10 of 16\nXGrad-CAM": ("xgrad_cam", {"layer": "_blocks.10"}),
    "block 10 of 16\nHiResCAM": ("hires_cam", {"layer": "_blocks.10"}),
    "block 10 of 16\nLayer-CAM": ("layer_cam", {"layer": "_blocks.10"}),
}
found = {title: abe.explain(task, photos, name, **how) for title, (name, how) in METHODS.items()}
print(found["Grad-CAM"].warnings[0])

# %%
# Bright is large; each map has a scale of its own, from zero.

draw(found, signed=False)
