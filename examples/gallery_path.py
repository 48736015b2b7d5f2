"""Paths
=====

Gradients added up on the way from somewhere to the photograph, or from the photograph to where the
decision changes: EfficientNet-Lite0 with its real weights.

Run it with ``python examples/gallery_path.py``; it writes ``gallery_path.png``.
"""

# %%
# The network and the photographs come out of installed packages; nothing is downloaded.

from pictures import draw

import abe
from abe.task.zoo import efficientnet_lite0, photographs

task = efficientnet_lite0()
photos = list(photographs(("chelsea", "coffee", "rocket")).values())

# %%
# A path is a value: a line, a blur, a way that follows the gradient, or the steps of an attack. Every
# result says what its sum misses of the change of the score.

METHODS = {
    "IG from black": ("integrated_gradients", {}),
    "IG from a blur": ("integrated_gradients", {"baseline": "blur"}),
    "Expected Gradients": ("expected_gradients", {}),
    "Guided IG": ("guided_ig", {"steps": 30}),
    "Blur IG": ("blur_ig", {"steps": 30}),
    "MFABA": ("mfaba", {}),
    "AGI": ("agi", {"samples": 5, "steps": 10}),
}
found = {title: abe.explain(task, photos, name, **how) for title, (name, how) in METHODS.items()}
for title, explanation in found.items():
    if explanation.residual is not None:
        print(title, [round(float(v), 3) for v in explanation.residual])

# %%
# Orange speaks for the class, blue against it.

draw(found, "gallery_path.png", signed=True)
