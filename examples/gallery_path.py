"""Paths
=====

Gradients added up on the way from somewhere to the photograph, or from the photograph to where the
decision changes: EfficientNet-Lite0 with its real weights.
"""

# %%
# The network and the photographs come out of installed packages; nothing is downloaded.

from pictures import draw

import abe
from abe.task.zoo import efficientnet_lite0, photographs

task = efficientnet_lite0()
photos = list(photographs(("chelsea", "coffee")).values())

# %%
# A path is a value: a line, a blur, a way that follows the gradient, or the steps of an attack. Every
# result says what its sum misses of the change of the score, here as a share of it; fewer steps than by
# default miss more.

METHODS = {
    "IG from black": ("integrated_gradients", {"steps": 30}),
    "IG from a blur": ("integrated_gradients", {"steps": 30, "baseline": "blur"}),
    "Expected Gradients": ("expected_gradients", {"samples": 30}),
    "Guided IG": ("guided_ig", {"steps": 20}),
    "Blur IG": ("blur_ig", {"steps": 20}),
    "MFABA": ("mfaba", {}),
    "AGI": ("agi", {"samples": 3, "steps": 10}),
}
found = {title: abe.explain(task, photos, name, **how) for title, (name, how) in METHODS.items()}
for title, explanation in found.items():
    if explanation.residual is not None:
        print(f"{title:<20}", *(f"{float(share):9.1%}" for share in explanation.residual))

# %%
# Orange speaks for the class, blue against it.

draw(found, signed=True)
