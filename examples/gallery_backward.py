"""Backward rules
==============

What travels back through the network in place of the gradient: EfficientNet-Lite0 with its real weights
on real photographs.

Run it with ``python examples/gallery_backward.py``; it writes ``gallery_backward.png``.
"""

# %%
# Rules act on operations, so the network is used as it is. A rule that an operation has none for is an
# error; the coverage says beforehand which rule each operation gets.

from pictures import draw

import abe
from abe.task.zoo import efficientnet_lite0, photographs

task = efficientnet_lite0()
photos = list(photographs(("chelsea", "coffee", "rocket")).values())
for line in abe.rule_coverage(task, photos[:1], "lrp_epsilon")[:4]:
    print(line.name, line.rule)

# %%
# Filters of the gradient, relevance, and multipliers. Relevance that biases absorb is in the result,
# and DeepLIFT says what it missed of the change of the score.

METHODS = {
    "Guided Backprop": ("guided_backprop", {}),
    "RectGrad": ("rectgrad", {"percentile": 90.0}),
    "LRP ε": ("lrp_epsilon", {}),
    "LRP ε, γ and zᴮ": ("lrp_composite", {"composite": "epsilon_gamma_box"}),
    "Excitation Backprop": ("excitation_backprop", {}),
    "DeepLIFT from a blur": ("deeplift", {"baseline": "blur"}),
}
found = {title: abe.explain(task, photos, name, **how) for title, (name, how) in METHODS.items()}

# %%
# Orange speaks for the class, blue against it.

draw(found, "gallery_backward.png", signed=True)
