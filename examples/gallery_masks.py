"""Masks and bottlenecks
=====================

What has to go, what may stay, and how many bits it takes: masks optimised for EfficientNet-Lite0, with its
real weights, on real photographs.

Run it with ``python examples/gallery_masks.py``; it writes ``gallery_masks.png``.
"""

# %%
# The network and the photographs come out of installed packages; nothing is downloaded.

import matplotlib.pyplot as plt

import abe
from abe.task.zoo import efficientnet_lite0, photographs

task = efficientnet_lite0()
photos = list(photographs(("chelsea", "coffee", "rocket")).values())

# %%
# Masks need hundreds of passes each. The steps here are fewer than by default; the bottlenecks explain
# the log-probability, as in their papers.

METHODS = {
    "what has to go\nMeaningful Perturbation": ("meaningful_perturbation", {"steps": 150}),
    "5, 10 and 20 % that may stay\nExtremal Perturbation": (
        "extremal_perturbation",
        {"areas": (0.05, 0.1, 0.2), "steps": 150},
    ),
    "bits at a layer\nIBA": ("iba", {"objective": "log_probability"}),
    "what gets through\nInputIBA": ("input_iba", {"objective": "log_probability", "steps": 30, "samples": 4}),
}
found = {
    title: abe.explain(task, photos, name, progress=False, **how) for title, (name, how) in METHODS.items()
}

# %%
# Maps are shared out over the colour channels, so their sum over channels is the mask.

figure, axes = plt.subplots(
    len(photos), len(METHODS) + 1, figsize=(3 * (len(METHODS) + 1), 3.2 * len(photos))
)
for column, (title, explanation) in enumerate(found.items(), start=1):
    for row, mask in enumerate(explanation.attribution.sum(1)):
        picture = explanation.x[row].movedim(0, -1)
        axes[row, 0].imshow(picture)
        axes[row, 0].set_title(explanation.target_names[row], fontsize=9)
        axes[row, column].imshow(picture.mean(-1), cmap="gray")
        axes[row, column].imshow(mask, cmap="magma", alpha=0.65, vmin=0)
        bits = explanation.diagnostics.get("bits")
        amount = "" if bits is None else f"{float(bits[row]):.0f} bits"
        axes[row, column].set_title("\n".join(filter(None, [title if row == 0 else "", amount])), fontsize=9)
for axis in axes.flat:
    axis.set_axis_off()
figure.tight_layout()
figure.savefig("gallery_masks.png", dpi=80)
