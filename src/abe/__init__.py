"""ABE: attribution-based explainability for PyTorch.

Which inputs drove a model's decision, how far that answer can be trusted, and how methods compare on
this model and data.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from abe._floor import check_torch
from abe._rooms import FILLED_BY
from abe._version import __version__

if TYPE_CHECKING:
    from abe.api import (
        explain,
        explain_game,
        method,
        rule_coverage,
    )
    from abe.errors import AbeError
    from abe.explanation import Explanation
    from abe.listing import list_attacks, list_methods, list_metrics
    from abe.methods.amortised import fit, load_fitted
    from abe.methods.layer import at_layer
    from abe.methods.wrapper import ensemble, postprocess, smooth
    from abe.metrics.evaluation.compare import compare
    from abe.metrics.evaluation.comparison import Comparison
    from abe.metrics.evaluation.evaluate import evaluate
    from abe.metrics.trust import trust
    from abe.robustness import AdversarialResult, attack, chain, evaluate_robustness, transfer_matrix
    from abe.task import zoo
    from abe.task.array.series import series_task
    from abe.task.array.tensor import tensor_task
    from abe.task.base import Task
    from abe.task.data.loaders import samples
    from abe.task.detection import detection_task
    from abe.task.image import image_task, load_image
    from abe.task.image.segmentation import segmentation_task
    from abe.task.language.lifter import language_task
    from abe.task.pair import pair_task
    from abe.task.several import columns, image, make_task, series, tensor, text
    from abe.task.table.lifter import table_task
    from abe.task.text.lifter import text_task
    from abe.theory.recommend import recommend
    from abe.theory.recommendation import Recommendation

check_torch()

_HOMES = {
    "AbeError": "abe.errors",
    "AdversarialResult": "abe.robustness",
    "attack": "abe.robustness",
    "chain": "abe.robustness",
    "evaluate_robustness": "abe.robustness",
    "transfer_matrix": "abe.robustness",
    "explain": "abe.api",
    "method": "abe.api",
    "rule_coverage": "abe.api",
    "explain_game": "abe.api",
    "Explanation": "abe.explanation",
    "at_layer": "abe.methods.layer",
    "fit": "abe.methods.amortised",
    "load_fitted": "abe.methods.amortised",
    "ensemble": "abe.methods.wrapper",
    "postprocess": "abe.methods.wrapper",
    "smooth": "abe.methods.wrapper",
    "Comparison": "abe.metrics.evaluation.comparison",
    "compare": "abe.metrics.evaluation.compare",
    "evaluate": "abe.metrics.evaluation.evaluate",
    "Recommendation": "abe.theory.recommendation",
    "recommend": "abe.theory.recommend",
    "Task": "abe.task.base",
    "trust": "abe.metrics.trust",
    "detection_task": "abe.task.detection",
    "image_task": "abe.task.image",
    "language_task": "abe.task.language.lifter",
    "list_attacks": "abe.listing",
    "list_methods": "abe.listing",
    "list_metrics": "abe.listing",
    "load_image": "abe.task.image",
    "table_task": "abe.task.table.lifter",
    "samples": "abe.task.data.loaders",
    "segmentation_task": "abe.task.image.segmentation",
    "columns": "abe.task.several",
    "image": "abe.task.several",
    "make_task": "abe.task.several",
    "pair_task": "abe.task.pair",
    "series": "abe.task.several",
    "tensor": "abe.task.several",
    "text": "abe.task.several",
    "series_task": "abe.task.array.series",
    "tensor_task": "abe.task.array.tensor",
    "text_task": "abe.task.text.lifter",
}
"""Public name -> module; loaded at first use, so that ``import abe`` is cheap."""

FILLED_BY.update(
    method="abe.methods",
    path="abe.methods",
    update="abe.methods",
    rule="abe.methods",
    channel_weight="abe.methods",
    metric="abe.metrics",
    objective="abe.objectives",
    baseline="abe.baselines",
    unit="abe.units",
    removal="abe.engines.removal.tokens",
    summary="abe.engines.removal.lime",
)
_ROOMS = (
    "baselines",
    "methods",
    "metrics",
    "objectives",
    "registry",
    "robustness",
    "testing",
    "theory",
    "units",
)
"""Modules that are reached as attributes."""
_NEAR = {"zoo": "abe.task.zoo"}
"""The same, under a shorter name."""

__all__ = [
    "AbeError",
    "AdversarialResult",
    "Comparison",
    "Explanation",
    "Recommendation",
    "Task",
    "__version__",
    "at_layer",
    "attack",
    "chain",
    "columns",
    "compare",
    "detection_task",
    "ensemble",
    "evaluate",
    "evaluate_robustness",
    "explain",
    "explain_game",
    "fit",
    "image",
    "image_task",
    "language_task",
    "list_attacks",
    "list_methods",
    "list_metrics",
    "load_fitted",
    "load_image",
    "make_task",
    "method",
    "pair_task",
    "postprocess",
    "recommend",
    "rule_coverage",
    "samples",
    "segmentation_task",
    "series",
    "series_task",
    "smooth",
    "table_task",
    "tensor",
    "tensor_task",
    "text",
    "text_task",
    "transfer_matrix",
    "trust",
    "zoo",
]


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return import_module(f"abe.{name}")
    if name in _NEAR:
        return import_module(_NEAR[name])
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'abe' has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
