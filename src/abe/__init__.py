"""ABE: attribution-based explainability for PyTorch.

Which inputs drove a model's decision, how far that answer can be trusted, and which method to
believe for this model and data.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from abe._version import __version__

if TYPE_CHECKING:
    from abe.errors import AbeError
    from abe.explain import explain, method, rule_coverage, summarise
    from abe.explanation import Explanation
    from abe.methods.amortised import fit, load_fitted
    from abe.methods.layer import at_layer
    from abe.methods.wrapper import ensemble, postprocess, smooth
    from abe.metrics.compare import compare
    from abe.metrics.comparison import Comparison
    from abe.metrics.evaluation import evaluate
    from abe.metrics.trust import trust
    from abe.robustness import AdversarialResult, attack, chain, evaluate_robustness, transfer_matrix
    from abe.task.base import Task
    from abe.task.image import image_task, load_image

_HOMES = {
    "AbeError": "abe.errors",
    "AdversarialResult": "abe.robustness",
    "attack": "abe.robustness",
    "chain": "abe.robustness",
    "evaluate_robustness": "abe.robustness",
    "transfer_matrix": "abe.robustness",
    "explain": "abe.explain",
    "method": "abe.explain",
    "rule_coverage": "abe.explain",
    "summarise": "abe.explain",
    "Explanation": "abe.explanation",
    "at_layer": "abe.methods.layer",
    "fit": "abe.methods.amortised",
    "load_fitted": "abe.methods.amortised",
    "ensemble": "abe.methods.wrapper",
    "postprocess": "abe.methods.wrapper",
    "smooth": "abe.methods.wrapper",
    "Comparison": "abe.metrics.comparison",
    "compare": "abe.metrics.compare",
    "evaluate": "abe.metrics.evaluation",
    "Task": "abe.task.base",
    "trust": "abe.metrics.trust",
    "image_task": "abe.task.image",
    "load_image": "abe.task.image",
}
"""Public name -> module; loaded at first use, so that ``import abe`` is cheap."""

_ROOMS = ("baselines", "methods", "metrics", "objectives", "registry", "robustness", "testing", "units")
"""Modules that are reached as attributes; ``abe.methods()`` and ``abe.metrics()`` list what is there."""

__all__ = [
    "AbeError",
    "AdversarialResult",
    "Comparison",
    "Explanation",
    "Task",
    "__version__",
    "at_layer",
    "attack",
    "chain",
    "compare",
    "ensemble",
    "evaluate",
    "evaluate_robustness",
    "explain",
    "fit",
    "image_task",
    "load_fitted",
    "load_image",
    "method",
    "postprocess",
    "rule_coverage",
    "smooth",
    "summarise",
    "transfer_matrix",
    "trust",
]


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return import_module(f"abe.{name}")
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'abe' has no attribute {name!r}")
    found = getattr(import_module(home), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return __all__


class _Package(ModuleType):
    """Keeps ``abe.explain`` the function where Python would put the module of that name in its place."""

    def __setattr__(self, name: str, value: Any) -> None:
        module = name == "explain" and isinstance(value, ModuleType)
        super().__setattr__(name, value.explain if module else value)


sys.modules[__name__].__class__ = _Package
