"""Removal
=======

What the score does without parts of the photograph: EfficientNet-Lite0 with its real weights.

Run it with ``python examples/gallery_removal.py``; it writes ``gallery_removal.png``.
"""

# %%
# The network and the photographs come out of installed packages; nothing is downloaded.

from pictures import draw

import abe
from abe.task.zoo import efficientnet_lite0, photographs

task = efficientnet_lite0()
photos = list(photographs(("chelsea", "coffee", "rocket")).values())

# %%
# What a unit is, what stands where it is absent, and how the scores become one number per unit are three
# choices of their own.

SUPERPIXELS = ("superpixel", {"n": 40})
METHODS = {
    "windows, mean\nOcclusion": ("occlusion_patch", {"size": 32, "stride": 16, "removal": "mean"}),
    "windows, their surroundings\nPDiff": ("pdiff", {"size": 32, "stride": 32, "samples": 4}),
    "superpixels, blur\nKernel SHAP": (
        "kernel_shap",
        {"units": SUPERPIXELS, "removal": "blur", "evaluations": 600},
    ),
    "superpixels, mean\nLIME": ("lime", {"units": SUPERPIXELS, "evaluations": 600}),
}
found = {title: abe.explain(task, photos, name, **how) for title, (name, how) in METHODS.items()}

# %%
# Games of cells share one run: Shapley values, Banzhaf values and leaving one out read the same scores.

SUMMARIES = {
    "nine cells, blur\nShapley": "shapley",
    "nine cells, blur\nBanzhaf": "banzhaf",
    "nine cells, blur\nleave one out": "remove_individual",
}
games = abe.explain_game(task, photos, list(SUMMARIES.values()), units="grid", removal="blur")
found.update(zip(SUMMARIES, games, strict=True))

# %%
# Orange speaks for the class, blue against it.

draw(found, "gallery_removal.png", signed=True)
