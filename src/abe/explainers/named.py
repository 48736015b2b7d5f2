"""The methods of the ABE paper's Table II and some of their kin, under the paper's names."""

from typing import ClassVar

from abe.explainers.task import Explainer


class SaliencyMap(Explainer):
    """The gradient of the score (SM)."""

    of: ClassVar[str] = "gradient"


class SmoothGradient(Explainer):
    """The mean gradient of noisy copies (SG)."""

    of: ClassVar[str] = "smoothgrad"


class SmoothGradientSquared(Explainer):
    """The mean squared gradient of noisy copies."""

    of: ClassVar[str] = "smoothgrad_squared"


class VarGrad(Explainer):
    """The variance of the gradients of noisy copies."""

    of: ClassVar[str] = "vargrad"


class GradientXInput(Explainer):
    """The gradient times the input."""

    of: ClassVar[str] = "gradient_x_input"


class FastIG(Explainer):
    """Integrated Gradients of one node (FIG)."""

    of: ClassVar[str] = "fast_ig"


class IG(Explainer):
    """Integrated Gradients along the straight line from a reference."""

    of: ClassVar[str] = "integrated_gradients"


class EG(Explainer):
    """Expected Gradients: Integrated Gradients averaged over references."""

    of: ClassVar[str] = "expected_gradients"


class GIG(Explainer):
    """Guided Integrated Gradients, whose path moves first what matters least."""

    of: ClassVar[str] = "guided_ig"


class BlurIG(Explainer):
    """Integrated Gradients along a path of blurred inputs."""

    of: ClassVar[str] = "blur_ig"


class PathAttribution(Explainer):
    """Gradients along the path of any update, the paper's fundamental method."""

    of: ClassVar[str] = "path_attribution"


class BIG(Explainer):
    """Boundary-based Integrated Gradients, from the nearest point of another class."""

    of: ClassVar[str] = "big"


class MFABA(Explainer):
    """Gradients along a steepest descent of the score until the class changes."""

    of: ClassVar[str] = "mfaba"


class AGI(Explainer):
    """Adversarial Gradient Integration along attacks towards other classes."""

    of: ClassVar[str] = "agi"


class AttEXplore(Explainer):
    """Gradients explored through the spectrum along a transferable attack."""

    of: ClassVar[str] = "attexplore"


class LA(Explainer):
    """Local Attribution along short attacks around the input."""

    of: ClassVar[str] = "la"


class ISA(Explainer):
    """Iterative Search Attribution: elements ranked by removing the least important first."""

    of: ClassVar[str] = "isa"


class DeepLIFT(Explainer):
    """Differences from a reference, passed back operation by operation."""

    of: ClassVar[str] = "deeplift"


class GradCAM(Explainer):
    """Grad-CAM: a layer's channels weighted by their mean gradients."""

    of: ClassVar[str] = "grad_cam"


class RISE(Explainer):
    """The mean score under random masks, by what each mask shows."""

    of: ClassVar[str] = "rise"


class Chefer(Explainer):
    """Attention times its gradient, carried through the layers (Chefer et al.)."""

    of: ClassVar[str] = "chefer_relevance"


class M2IB(Explainer):
    """The multi-modal information bottleneck: bits of each tower that their agreement needs.

    ``layers=`` names a layer of each explained entry's tower, ``{"image": "vision.norm", "text": "words"}``.
    """

    of: ClassVar[str] = "m2ib"


SM, SG, FIG = SaliencyMap, SmoothGradient, FastIG
"""As Table II abbreviates them."""
