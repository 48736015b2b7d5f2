"""One registered factory per published method; each composes primitives and carries a card.

``abe.methods()`` lists the cards by name.
"""

import sys

from abe.methods import amortised, gradient, mask, path, wrapper
from abe.methods.wrapper import ensemble, postprocess, smooth
from abe.registry import Catalogue
from abe.registry import methods as registry

__all__ = [
    "amortised",
    "ensemble",
    "gradient",
    "mask",
    "path",
    "postprocess",
    "registry",
    "smooth",
    "wrapper",
]

sys.modules[__name__].__class__ = Catalogue
