"""Methods bound to a task given by two functions, as in Demo 1 of the ABE paper.

    from abe.explainers import *

    task = ExplanationTask(loss_fn=loss_fn, forward_fn=forward, model_type=ModelType.IMAGECLASSIFICATION)
    attribution = IG(task)([x, y])

``loss_fn`` and ``forward_fn`` take a batch ``[x, y, *extra]``; the explained score is ``−loss_fn``, per row,
so that sums, means and B×B blocks inside it cannot mix samples. The model runs once on all rows of a chunk.
"""

from abe.explainers.named import (
    AGI,
    BIG,
    EG,
    FIG,
    GIG,
    IG,
    ISA,
    LA,
    M2IB,
    MFABA,
    RISE,
    SG,
    SM,
    AttEXplore,
    BlurIG,
    Chefer,
    DeepLIFT,
    FastIG,
    GradCAM,
    GradientXInput,
    PathAttribution,
    SaliencyMap,
    SmoothGradient,
    SmoothGradientSquared,
    VarGrad,
)
from abe.explainers.quantus import explain_func
from abe.explainers.task import Explainer, ExplanationTask, ModelType

__all__ = [
    "AGI",
    "BIG",
    "EG",
    "FIG",
    "GIG",
    "IG",
    "ISA",
    "LA",
    "M2IB",
    "MFABA",
    "RISE",
    "SG",
    "SM",
    "AttEXplore",
    "BlurIG",
    "Chefer",
    "DeepLIFT",
    "Explainer",
    "ExplanationTask",
    "FastIG",
    "GradCAM",
    "GradientXInput",
    "ModelType",
    "PathAttribution",
    "SaliencyMap",
    "SmoothGradient",
    "SmoothGradientSquared",
    "VarGrad",
    "explain_func",
]
