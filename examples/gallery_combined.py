"""Methods made of methods
=======================

The same map as it is, smoothed, together with another, and as a magnitude, for EfficientNet-Lite0 with its
real weights on real photographs.
"""

# %%
# The network and the photographs come out of installed packages; nothing is downloaded.

from pictures import draw

import abe
from abe.task.zoo import efficientnet_lite0, photographs

task = efficientnet_lite0()
photos = list(photographs(("chelsea", "coffee")).values())

# %%
# An ensemble is the mean of maps that were brought to one size; a smoothed map is the mean over noisy copies.

smooth = abe.smooth("gradient_x_input", samples=8, sigma=0.1)
both = abe.ensemble(smooth, "grad_cam")
METHODS = {
    "Gradient × Input": "gradient_x_input",
    "smoothed": smooth,
    "with Grad-CAM": both,
    "its magnitude": abe.postprocess(both, "absolute"),
}
found = {title: abe.explain(task, photos, method, progress=False) for title, method in METHODS.items()}

# %%
# Orange supports the decision, blue speaks against it.

draw(found, signed=True)
