"""One registered factory per published method; each composes primitives and carries a card.

`abe.list_methods` names them.
"""

from abe import robustness  # registers the updates

# Listings show methods in the order of these imports.
# isort: off
from abe.methods import gradient, path, adversarial, targeted, backward, lrp, relevance, pattern
from abe.methods import maps, maps_other, attention, removal, shapley, surrogate, mask, amortised
from abe.methods import layer, wrapper

# isort: on
from abe._retired import retire_call
from abe.methods.wrapper import ensemble, postprocess, smooth
from abe.registry import methods as registry

__all__ = [
    "adversarial",
    "amortised",
    "attention",
    "backward",
    "ensemble",
    "gradient",
    "layer",
    "lrp",
    "maps",
    "maps_other",
    "mask",
    "path",
    "pattern",
    "postprocess",
    "registry",
    "relevance",
    "removal",
    "robustness",
    "shapley",
    "smooth",
    "surrogate",
    "targeted",
    "wrapper",
]

retire_call(__name__, "abe.list_methods()")
