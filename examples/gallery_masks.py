"""Masks and bottlenecks
=====================

What has to go, what may stay, and how many bits it takes: masks optimised for EfficientNet-Lite0, with its
real weights, on real photographs.
"""

# %%
# The network and the photographs come out of installed packages; nothing is downloaded.

from pictures import draw

import abe
from abe.task.zoo import efficientnet_lite0, photographs

task = efficientnet_lite0()
photos = list(photographs(("chelsea", "coffee")).values())

# %%
# Masks need hundreds of passes each. The steps here are fewer than by default, and those of Extremal
# Perturbation longer; the scores are those of the papers: the probability for Meaningful Perturbation, the
# log-probability for the bottlenecks.

METHODS = {
    "what has to go\nMeaningful Perturbation": (
        "meaningful_perturbation",
        {"objective": "probability", "steps": 120},
    ),
    "10 % that may stay\nExtremal Perturbation": ("extremal_perturbation", {"steps": 120, "rate": 0.02}),
    "bits at a layer\nIBA": ("iba", {"objective": "log_probability"}),
    "what gets through\nInputIBA": ("input_iba", {"objective": "log_probability", "steps": 20, "samples": 4}),
}
found = {title: abe.explain(task, photos, name, **how) for title, (name, how) in METHODS.items()}

# %%
# Maps are shared out over the colour channels, so their sum over channels is the mask.
# A mask shows what suffices for the score, which need not be what a person would point at: whiskers and the
# picture's edge are enough for this cat.

notes = {title: "bits" for title, explanation in found.items() if "bits" in explanation.diagnostics}
draw(found, signed=False, notes=notes)
