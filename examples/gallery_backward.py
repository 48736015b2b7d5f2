"""Backward rules
==============

What travels back through the network in place of the gradient: EfficientNet-Lite0 with its real weights
on real photographs.
"""

# %%
# Rules act on operations, so the network is used as it is. A rule that an operation has none for is an
# error; the coverage says beforehand which rule each operation gets.

from pictures import draw

import abe
from abe.task.zoo import efficientnet_lite0, photographs

task = efficientnet_lite0()
photos = list(photographs(("chelsea", "coffee")).values())
rules = {line.name: line.rule for line in abe.rule_coverage(task, photos[:1], "lrp_epsilon")}
for operation, rule in rules.items():
    print(f"{operation:<24} {rule}")

# %%
# Filters of the gradient, relevance, and multipliers. Relevance that biases absorb is in the result,
# and DeepLIFT says what it missed of the change of the score.

METHODS = {
    "Gradient × Input": ("gradient_x_input", {}),
    "Guided Backprop": ("guided_backprop", {}),
    "RectGrad": ("rectgrad", {"percentile": 90.0}),
    "LRP ε": ("lrp_epsilon", {}),
    "LRP ε, γ and zᴮ": ("lrp_composite", {"composite": "epsilon_gamma_box"}),
    "Excitation Backprop": ("excitation_backprop", {}),
    "DeepLIFT from a blur": ("deeplift", {"baseline": "blur"}),
}
found = {title: abe.explain(task, photos, name, **how) for title, (name, how) in METHODS.items()}

# %%
# Orange is positive, blue negative. Relevance and multipliers speak for the class or against it; the signs
# of a filtered gradient only say which way a pixel would have to change.

draw(found, signed=True)
