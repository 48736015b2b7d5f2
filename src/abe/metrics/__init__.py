"""Metrics: perturbation curves, completeness and cost, shared runs, and `compare`."""

from abe.metrics import curves, efficiency, faithfulness, infidelity, subsets
from abe.metrics.base import CurveMetric, DirectMetric, Metric, Score, as_metric, evaluate
from abe.metrics.compare import Comparison, Failure, compare, score
from abe.metrics.perturbation import Perturbation, PerturbationRun, area, kl_from_uniform

__all__ = [
    "Comparison",
    "CurveMetric",
    "DirectMetric",
    "Failure",
    "Metric",
    "Perturbation",
    "PerturbationRun",
    "Score",
    "area",
    "as_metric",
    "compare",
    "curves",
    "efficiency",
    "evaluate",
    "faithfulness",
    "infidelity",
    "kl_from_uniform",
    "score",
    "subsets",
]
