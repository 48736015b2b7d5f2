"""Metrics: what they measure, shared runs, `evaluate` and `compare`, intervals and tests."""

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
from abe.metrics.base import CurveMetric, DataSetMetric, DirectMetric, Metric, Score, as_metric
from abe.metrics.compare import compare, score
from abe.metrics.comparison import Comparison, Failure
from abe.metrics.evaluation import evaluate
from abe.metrics.perturbation import Perturbation, PerturbationRun, area, kl_from_uniform
from abe.metrics.statistics import PairedTest
from abe.metrics.trust import Pairs, Trust, make_pairs, trust

__all__ = [
    "Agreement",
    "Comparison",
    "CurveMetric",
    "DataSetMetric",
    "DirectMetric",
    "Failure",
    "Metric",
    "PairedTest",
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
