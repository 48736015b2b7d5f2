"""Metrics of explanations, the runs they share, and `compare`."""

from abe.metrics import (
    axiomatic,
    complexity,
    curves,
    dataset,
    efficiency,
    faithfulness,
    infidelity,
    localisation,
    masking,
    multimodal,
    randomisation,
    soundness,
    stability,
    subsets,
)
from abe.metrics.agreement import Agreement, agreement
from abe.metrics.base import CurveMetric, DirectMetric, Metric, Score, as_metric, evaluate
from abe.metrics.compare import Comparison, Failure, compare, score
from abe.metrics.perturbation import Perturbation, PerturbationRun, area, kl_from_uniform
from abe.metrics.trust import Pairs, Trust, make_pairs, trust

__all__ = [
    "Agreement",
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
    "agreement",
    "area",
    "as_metric",
    "axiomatic",
    "compare",
    "complexity",
    "curves",
    "dataset",
    "efficiency",
    "evaluate",
    "faithfulness",
    "infidelity",
    "kl_from_uniform",
    "localisation",
    "make_pairs",
    "masking",
    "multimodal",
    "randomisation",
    "score",
    "soundness",
    "stability",
    "subsets",
    "trust",
]
