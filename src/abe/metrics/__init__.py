"""Metrics: perturbation curves, completeness and cost, shared runs, and `compare`."""

from abe.metrics import (
    axiomatic,
    complexity,
    curves,
    efficiency,
    faithfulness,
    infidelity,
    localisation,
    masking,
    randomisation,
    stability,
    subsets,
)
from abe.metrics.agreement import Agreement, agreement
from abe.metrics.base import CurveMetric, DirectMetric, Metric, Score, as_metric, evaluate
from abe.metrics.compare import Comparison, Failure, compare, score
from abe.metrics.perturbation import Perturbation, PerturbationRun, area, kl_from_uniform

__all__ = [
    "Agreement",
    "Comparison",
    "CurveMetric",
    "DirectMetric",
    "Failure",
    "Metric",
    "Perturbation",
    "PerturbationRun",
    "Score",
    "agreement",
    "area",
    "as_metric",
    "axiomatic",
    "compare",
    "complexity",
    "curves",
    "efficiency",
    "evaluate",
    "faithfulness",
    "infidelity",
    "kl_from_uniform",
    "localisation",
    "masking",
    "randomisation",
    "score",
    "stability",
    "subsets",
]
