"""Metrics: perturbation curves, completeness and cost, shared runs, and `compare`."""

from abe.metrics import efficiency, faithfulness
from abe.metrics.base import CurveMetric, DirectMetric, Metric, Score, as_metric, evaluate
from abe.metrics.compare import Comparison, Failure, compare, score
from abe.metrics.perturbation import Perturbation, PerturbationRun, area, kl_from_uniform
from abe.metrics.trust import Pairs, Trust, make_pairs, trust

__all__ = [
    "Comparison",
    "CurveMetric",
    "DirectMetric",
    "Failure",
    "Metric",
    "Pairs",
    "Perturbation",
    "PerturbationRun",
    "Score",
    "Trust",
    "area",
    "as_metric",
    "compare",
    "efficiency",
    "evaluate",
    "faithfulness",
    "kl_from_uniform",
    "make_pairs",
    "score",
    "trust",
]
