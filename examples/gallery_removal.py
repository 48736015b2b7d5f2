"""Removal
=======

What the score does without parts of the photograph: EfficientNet-Lite0 with its real weights.
"""

# %%
# The network and the photographs come out of installed packages; nothing is downloaded.

from pictures import draw

import abe
from abe.task.zoo import efficientnet_lite0, photographs

task = efficientnet_lite0()
photos = list(photographs(("chelsea", "coffee")).values())

# %%
# What a unit is, what stands where it is absent, and how the scores become one number per unit are three
# choices of their own.

SUPERPIXELS = ("superpixel", {"n": 30})
METHODS = {
    "windows, mean\nOcclusion": ("occlusion_patch", {"size": 32, "stride": 32, "removal": "mean"}),
    "windows, blur\nOcclusion": ("occlusion_patch", {"size": 32, "stride": 32, "removal": "blur"}),
    "superpixels, blur\nKernel SHAP": (
        "kernel_shap",
        {"units": SUPERPIXELS, "removal": "blur", "evaluations": 120},
    ),
    "superpixels, mean\nLIME": ("lime", {"units": SUPERPIXELS, "evaluations": 120}),
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

draw(found, signed=True)
