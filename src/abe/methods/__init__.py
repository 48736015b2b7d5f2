"""One registered factory per published method; each composes primitives and carries a card.

``abe.methods()`` lists the cards by name.
"""

import sys

from abe.methods import attention, backward, gradient, maps, maps_other, path, relevance, wrapper
from abe.methods.wrapper import ensemble, postprocess, smooth
from abe.registry import Catalogue
from abe.registry import methods as registry

__all__ = [
    "attention",
    "backward",
    "ensemble",
    "gradient",
    "maps",
    "maps_other",
    "path",
    "postprocess",
    "registry",
    "relevance",
    "smooth",
    "wrapper",
]

sys.modules[__name__].__class__ = Catalogue
