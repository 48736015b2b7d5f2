"""Robustness of a model
=====================

How the accuracy of EfficientNet-Lite0 on four photographs falls with the radius, by three attacks.
"""

# %%
# The network and the photographs come out of installed packages; nothing is downloaded. The network's own
# predictions count as right.

import matplotlib.pyplot as plt

import abe
from abe.task.zoo import efficientnet_lite0, photographs

task = efficientnet_lite0()
photos = list(photographs(("chelsea", "coffee", "rocket", "motorcycle")).values())

# %%
# A sample that is broken at one radius is not attacked at larger ones.

LEVELS = [0.1, 0.25, 0.5, 1.0, 2.0]
RADII = [level / 255 for level in LEVELS]
ATTACKS = {"FGSM": ("fgsm", {}), "BIM": ("bim", {"steps": 5}), "PGD": ("pgd", {"steps": 5})}
curves = {
    title: abe.evaluate_robustness(task, photos, name, epsilons=RADII, **how)
    for title, (name, how) in ATTACKS.items()
}

# %%
# One curve is a statement about one attack: the lowest of them is what is known of the model.

figure, axes = plt.subplots(figsize=(6.4, 3.4), layout="constrained")
for title, curve in curves.items():
    axes.plot([0, *LEVELS], [curve.clean_accuracy, *curve.robust_accuracy], "o-", label=title, alpha=0.8)
axes.set(xlabel="radius in grey levels of 255", ylabel="accuracy", ylim=(-0.05, 1.05))
axes.legend(frameon=False)
plt.show()
