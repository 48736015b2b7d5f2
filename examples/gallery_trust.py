"""Trust at the decision boundary
==============================

Two points on either side of a boundary of EfficientNet-Lite0, near enough for the first order to be the
truth, and maps at one of them.
"""

# %%
# The network and the photographs come out of installed packages; nothing is downloaded.

from pictures import draw

import abe
from abe.task.zoo import efficientnet_lite0, photographs

task = efficientnet_lite0()
photo = photographs(("coffee",))["coffee"]

# %%
# The pair, and what its ground truth misses of the change between the points.

found = abe.trust(task, [photo], ["gradient"], constructions=["sign"], etas=[1 / 25500])
pair = found.pairs["sign"]
print(f"validity {float(pair.validity):.2g}")

# %%
# The truth is nowhere negative, because the points are apart by a signed step. Maps with signs are not like
# it, whatever they know; their magnitudes may be.

METHODS = {"Gradient": "gradient", "Gradient × Input": "gradient_x_input", "MFABA": "mfaba"}
tiles = {
    title: abe.explain(task, pair.inside, method, target=pair.a, progress=False)
    for title, method in METHODS.items()
}
tiles["ground truth"] = abe.Explanation.from_array(pair.truth, pair.inside, target=pair.a)
draw(tiles, signed=True)
