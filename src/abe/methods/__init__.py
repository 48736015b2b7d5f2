"""One registered factory per published method; each composes primitives and carries a card.

``abe.methods()`` lists the cards by name.
"""

import sys

from abe import robustness  # registers the updates
from abe.methods import adversarial, gradient, path, targeted, wrapper
from abe.methods.wrapper import ensemble, postprocess, smooth
from abe.registry import Catalogue
from abe.registry import methods as registry

__all__ = [
    "adversarial",
    "ensemble",
    "gradient",
    "path",
    "postprocess",
    "registry",
    "robustness",
    "smooth",
    "targeted",
    "wrapper",
]

sys.modules[__name__].__class__ = Catalogue
