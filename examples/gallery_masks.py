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
# Masks need hundreds of passes each. The steps here are fewer than by default; the scores are those of the
# papers: the probability for Meaningful Perturbation, the log-probability for the bottlenecks.

METHODS = {
    "what has to go\nMeaningful Perturbation": (
        "meaningful_perturbation",
        {"objective": "probability", "steps": 80},
    ),
    "5 and 20 % that may stay\nExtremal Perturbation": (
        "extremal_perturbation",
        {"areas": (0.05, 0.2), "steps": 80},
    ),
    "bits at a layer\nIBA": ("iba", {"objective": "log_probability"}),
    "what gets through\nInputIBA": ("input_iba", {"objective": "log_probability", "steps": 20, "samples": 4}),
}
found = {title: abe.explain(task, photos, name, **how) for title, (name, how) in METHODS.items()}

# %%
# Maps are shared out over the colour channels, so their sum over channels is the mask.

notes = {title: "bits" for title, explanation in found.items() if "bits" in explanation.diagnostics}
draw(found, signed=False, notes=notes)
