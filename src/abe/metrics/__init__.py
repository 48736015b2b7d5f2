"""Metrics: what they measure, shared runs, `evaluate` and `compare`, intervals and tests."""

from abe._retired import retire_call
from abe.metrics import (
    axiomatic,
    complexity,
    confidence,
    curves,
    dataset,
    efficiency,
    faithfulness,
    infidelity,
    localisation,
    multimodal,
    randomisation,
    rationales,
    soundness,
    stability,
    subsets,
)
from abe.metrics.agreement import Agreement, agreement
from abe.metrics.evaluation.base import (
    CurveMetric,
    DataSetMetric,
    DirectMetric,
    Metric,
    Score,
    as_metric,
)
from abe.metrics.evaluation.compare import compare, score
from abe.metrics.evaluation.comparison import Comparison, Failure
from abe.metrics.evaluation.evaluate import evaluate
from abe.metrics.evaluation.perturbation import (
    Perturbation,
    PerturbationRun,
    area,
    kl_from_uniform,
)
from abe.metrics.evaluation.statistics import PairedTest
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
    "confidence",
    "curves",
    "dataset",
    "efficiency",
    "evaluate",
    "faithfulness",
    "infidelity",
    "kl_from_uniform",
    "localisation",
    "make_pairs",
    "multimodal",
    "randomisation",
    "rationales",
    "score",
    "soundness",
    "stability",
    "subsets",
    "trust",
]

retire_call(__name__, "abe.list_metrics()")
