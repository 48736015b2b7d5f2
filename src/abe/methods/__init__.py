"""One registered factory per published method; each composes primitives and carries a card.

``abe.methods()`` lists the cards by name.
"""

import sys

from abe.methods import gradient, path, removal, shapley, surrogate, wrapper
from abe.methods.wrapper import ensemble, postprocess, smooth
from abe.registry import Catalogue
from abe.registry import methods as registry

__all__ = [
    "ensemble",
    "gradient",
    "path",
    "postprocess",
    "registry",
    "removal",
    "shapley",
    "smooth",
    "surrogate",
    "wrapper",
]

sys.modules[__name__].__class__ = Catalogue
