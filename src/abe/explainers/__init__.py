"""Methods bound to a task given by two functions, as in Demo 1 of the ABE paper.

    from abe.explainers import *

    task = ExplanationTask(loss_fn=loss_fn, forward_fn=forward, model_type=ModelType.IMAGECLASSIFICATION)
    attribution = IG(task)([x, y])

``loss_fn`` and ``forward_fn`` take a batch ``[x, y, *extra]``; the explained score is ``−loss_fn``, per row,
so that sums, means and B×B blocks inside it cannot mix samples. The model runs once on all rows of a chunk.
"""

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


def _bound(name: str, method: str, doc: str) -> type[Explainer]:
    """A class of explainers by one registered method."""
    return type(name, (Explainer,), {"__doc__": doc, "__module__": __name__, "of": method})


SM = SaliencyMap = _bound("SaliencyMap", "gradient", "The gradient of the score (SM).")
SG = SmoothGradient = _bound("SmoothGradient", "smoothgrad", "The mean gradient of noisy copies (SG).")
SmoothGradientSquared = _bound("SmoothGradientSquared", "smoothgrad_squared", "Their mean squared gradient.")
VarGrad = _bound("VarGrad", "vargrad", "The variance of the gradients of noisy copies.")
GradientXInput = _bound("GradientXInput", "gradient_x_input", "The gradient times the input.")
FIG = FastIG = _bound("FastIG", "fast_ig", "Integrated Gradients of one node (FIG).")
IG = _bound("IG", "integrated_gradients", "Integrated Gradients along the straight line from a reference.")
EG = _bound("EG", "expected_gradients", "Expected Gradients: Integrated Gradients averaged over references.")
GIG = _bound("GIG", "guided_ig", "Guided Integrated Gradients, whose path moves first what matters least.")
BlurIG = _bound("BlurIG", "blur_ig", "Integrated Gradients along a path of blurred inputs.")
PathAttribution = _bound("PathAttribution", "path_attribution", "Gradients along the path of any update.")
BIG = _bound("BIG", "big", "Boundary-based Integrated Gradients, from the nearest point of another class.")
MFABA = _bound("MFABA", "mfaba", "Gradients along a steepest descent of the score until the class changes.")
AGI = _bound("AGI", "agi", "Adversarial Gradient Integration along attacks towards other classes.")
AttEXplore = _bound("AttEXplore", "attexplore", "Gradients explored through the spectrum along an attack.")
LA = _bound("LA", "la", "Local Attribution along short attacks around the input.")
ISA = _bound("ISA", "isa", "Iterative Search Attribution: elements ranked by removing what matters least.")
DeepLIFT = _bound("DeepLIFT", "deeplift", "Differences from a reference, passed back by operation.")
GradCAM = _bound("GradCAM", "grad_cam", "Grad-CAM: a layer's channels weighted by their mean gradients.")
RISE = _bound("RISE", "rise", "The mean score under random masks, by what each mask shows.")
Chefer = _bound("Chefer", "chefer_relevance", "Attention times its gradient, carried through the layers.")
M2IB = _bound(
    "M2IB",
    "m2ib",
    """The multi-modal information bottleneck: bits of each tower that their agreement needs.

    ``layers=`` names a layer of each explained entry's tower, ``{"image": "vision.norm", "text": "words"}``.
    """,
)
