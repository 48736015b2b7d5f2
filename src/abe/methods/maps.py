"""Class activation maps: a layer's output at its places, weighted by gradients."""

from abe.engines.cam.channel_map import ChannelMap
from abe.engines.cam.channel_weights import (
    GradientHere,
    MeanGradient,
    PlusPlus,
    PositiveGradient,
    SummedGradient,
    WeightedGradient,
)
from abe.engines.runtime.shapes import Upsample
from abe.methods.gradient import Variant, published
from abe.registry import methods
from abe.types import Card, Passes

PLACES = ("positions",)
CAM_GRADIENT = Passes(forward="b + 1", backward="b + 1", at_most=True)
"""Why maps of samples of different lengths are not those of each alone."""
COARSE = "As coarse as the layer: enlarging a 7 × 7 map draws smooth blobs, not borders."


@methods.register(
    Card(
        name="cam",
        title="CAM",
        source="zhou2016",
        formula="A = up(ReLU Σ_k w_k A_k), w_k = Σ_ij ∂s/∂A_kij, which is the head's weight",
        family="gradient × input",
        reformulations=("modified gradient × input", "Taylor interaction"),
        needs=("gradient", "layer"),
        features=PLACES,
        passes=CAM_GRADIENT,
        differs=(
            "ReLU by default, as in the maps that came later; relu=False gives the map of the paper, whose "
            "mean over places is the score less its bias.",
        ),
        pitfalls=(
            "Works only where average pooling and one linear layer follow; anything else is refused.",
            COARSE,
        ),
    ),
)
def cam(
    *, layer: str | None = None, relu: bool = True, normalise: bool = False, upsample: Upsample = "bilinear"
) -> ChannelMap:
    """The last layer's channels, weighted as a linear head behind average pooling weights them.

    Shape: (b, c, …) in and out; the map is shared out equally over the channels.

    Example:
        >>> import abe
        >>> abe.method("cam", relu=False).engine.weights
        SummedGradient()
    """
    return ChannelMap(
        weights=SummedGradient(), layer=layer, relu=relu, normalise=normalise, upsample=upsample
    )


@methods.register(
    Card(
        name="grad_cam",
        title="Grad-CAM",
        source="selvaraju2017, Eq. 1",
        formula="A = up(ReLU Σ_k w_k A_k), w_k = mean_ij ∂s/∂A_kij",
        family="gradient × input",
        reformulations=("modified gradient × input", "Taylor interaction"),
        needs=("gradient", "layer"),
        features=PLACES,
        passes=CAM_GRADIENT,
        pitfalls=(
            COARSE,
            "Averaging over places can show places that the score does not use; HiResCAM does not.",
        ),
    ),
    aliases=("gradcam",),
)
def grad_cam(
    *, layer: str | None = None, relu: bool = True, normalise: bool = False, upsample: Upsample = "bilinear"
) -> ChannelMap:
    """A layer's channels, weighted by their mean gradient.

    Shape: (b, c, …) in and out; the map is shared out equally over the channels.

    Example:
        >>> import abe
        >>> from abe.testing import nets, samples, task_of
        >>> exp = abe.explain(task_of(nets.Convolutional()), samples(2).float(), "grad_cam", layer="features")
        >>> tuple(exp.shape), exp.cost.backward_rows
        ((2, 3, 6, 6), 2)
    """
    return ChannelMap(weights=MeanGradient(), layer=layer, relu=relu, normalise=normalise, upsample=upsample)


@methods.register(
    Card(
        name="grad_cam_plus_plus",
        title="Grad-CAM++",
        source="chattopadhay2018, Eq. 19",
        formula="A = up(ReLU Σ_k w_k A_k), w_k = Σ_ij α max(g, 0), α = g² / (2 g² + g³ Σ_ab A_kab), "
        "g = ∂s/∂A",
        family="gradient × input",
        needs=("gradient", "layer"),
        features=PLACES,
        passes=CAM_GRADIENT,
        differs=(
            "No constant in the denominator; the published 1e-6 decides the map where gradients are small.",
        ),
        pitfalls=(
            "Holds for an exponential of the score; scaling the score changes the map's shape.",
            COARSE,
        ),
    ),
    aliases=("gradcam_plus_plus", "gradcampp"),
)
def grad_cam_plus_plus(
    *,
    layer: str | None = None,
    relu: bool = True,
    normalise: bool = False,
    upsample: Upsample = "bilinear",
    variant: Variant = "corrected",
) -> ChannelMap:
    """A layer's channels, weighted by positive gradients so that small objects count as well.

    Shape: (b, c, …) in and out; the map is shared out equally over the channels.

    Example:
        >>> import abe
        >>> abe.method("grad_cam_plus_plus", variant="published").engine.weights
        PlusPlus(epsilon=1e-06)
    """
    return ChannelMap(
        weights=PlusPlus(epsilon=1e-6 if published(variant) else 0.0),
        layer=layer,
        relu=relu,
        normalise=normalise,
        upsample=upsample,
    )


@methods.register(
    Card(
        name="hires_cam",
        title="HiResCAM",
        source="draelos2020",
        formula="A = up(ReLU Σ_k ∂s/∂A_k ⊙ A_k)",
        family="gradient × input",
        reformulations=("modified gradient × input", "Taylor interaction"),
        needs=("gradient", "layer"),
        features=PLACES,
        passes=CAM_GRADIENT,
        pitfalls=(COARSE,),
    ),
    aliases=("hirescam",),
)
def hires_cam(
    *, layer: str | None = None, relu: bool = True, normalise: bool = False, upsample: Upsample = "bilinear"
) -> ChannelMap:
    """A layer's output times the gradient, place by place.

    Before ReLU and enlarging the map sums to the score less its bias where only linear operations follow
    the layer.

    Shape: (b, c, …) in and out; the map is shared out equally over the channels.

    Example:
        >>> import abe
        >>> abe.method("hires_cam", layer="layer3").rows(b=1)
        4.0
    """
    return ChannelMap(weights=GradientHere(), layer=layer, relu=relu, normalise=normalise, upsample=upsample)


@methods.register(
    Card(
        name="xgrad_cam",
        title="XGrad-CAM",
        source="fu2020, Eq. 8",
        formula="A = up(ReLU Σ_k w_k A_k), w_k = Σ_ij A_kij g_kij / Σ_ij A_kij, g = ∂s/∂A",
        family="gradient × input",
        needs=("gradient", "layer"),
        features=PLACES,
        passes=CAM_GRADIENT,
        differs=(
            "A channel that sums to zero gets weight zero; published code adds 1e-7 to the sum instead.",
        ),
        pitfalls=(
            "Meant for activations that are not negative; otherwise a channel's sum can be near zero.",
            COARSE,
        ),
    ),
    aliases=("xgradcam",),
)
def xgrad_cam(
    *,
    layer: str | None = None,
    relu: bool = True,
    normalise: bool = False,
    upsample: Upsample = "bilinear",
    variant: Variant = "corrected",
) -> ChannelMap:
    """A layer's channels, weighted by their gradient averaged with the activation as weight.

    Shape: (b, c, …) in and out; the map is shared out equally over the channels.

    Example:
        >>> import abe
        >>> abe.method("xgrad_cam", variant="published").engine.weights
        WeightedGradient(epsilon=1e-07)
    """
    return ChannelMap(
        weights=WeightedGradient(epsilon=1e-7 if published(variant) else 0.0),
        layer=layer,
        relu=relu,
        normalise=normalise,
        upsample=upsample,
    )


@methods.register(
    Card(
        name="layer_cam",
        title="Layer-CAM",
        source="jiang2021, Eq. 5",
        formula="A = up(ReLU Σ_k max(∂s/∂A_k, 0) ⊙ A_k)",
        family="gradient × input",
        needs=("gradient", "layer"),
        features=PLACES,
        passes=CAM_GRADIENT,
        pitfalls=("Drops negative gradients, so what speaks against the decision is not seen.",),
    ),
    aliases=("layercam",),
)
def layer_cam(
    *, layer: str | None = None, relu: bool = True, normalise: bool = False, upsample: Upsample = "bilinear"
) -> ChannelMap:
    """A layer's output times the positive gradient, place by place.

    Shape: (b, c, …) in and out; the map is shared out equally over the channels.

    Example:
        >>> import abe
        >>> abe.method("layer_cam", layer="layer2").rows(b=1)
        4.0
    """
    return ChannelMap(
        weights=PositiveGradient(), layer=layer, relu=relu, normalise=normalise, upsample=upsample
    )
