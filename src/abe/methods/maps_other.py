"""Class activation maps without gradients, guided ones, and those of one's own weights."""

from typing import Any

from abe.baselines import as_baseline
from abe.engines.cam.channel_map import ChannelMap, ChannelWeights, ThroughMap
from abe.engines.cam.channel_weights import (
    Ablation,
    MaskedScore,
    MeanGradient,
    Principal,
)
from abe.engines.runtime.shapes import Upsample
from abe.errors import Code, SpecError
from abe.methods.backward import guided_backprop
from abe.methods.gradient import Variant, published
from abe.methods.maps import COARSE, PLACES
from abe.registry import channel_weights, methods
from abe.types import Card, Passes


@methods.register(
    Card(
        name="eigen_cam",
        title="Eigen-CAM",
        source="muhammad2020",
        formula="A = up(ReLU A v₁), v₁ the first right singular vector of A as a matrix (places, channels)",
        family="outside the survey",
        needs=("layer",),
        features=PLACES,
        passes=Passes(forward="b + 1", backward="1", at_most=True),
        differs=(
            "Not centred, as in the paper, where published code subtracts each channel's mean.",
            "The sign makes the map's sum positive; published maps keep the decomposition's.",
        ),
        pitfalls=("Shows what is salient to the layer, whatever the decision.",),
    ),
    aliases=("eigencam",),
)
def eigen_cam(
    *,
    layer: str | None = None,
    relu: bool = True,
    normalise: bool = False,
    upsample: Upsample = "bilinear",
    variant: Variant = "corrected",
) -> ChannelMap:
    """The first principal direction of a layer's output; no class plays a part.

    Shape: (b, c, …) in and out; the map is shared out equally over the channels.

    Example:
        >>> import abe
        >>> abe.method("eigen_cam", variant="published").engine.weights
        Principal(centred=True)
    """
    return ChannelMap(
        weights=Principal(centred=published(variant)),
        layer=layer,
        relu=relu,
        normalise=normalise,
        upsample=upsample,
    )


@methods.register(
    Card(
        name="score_cam",
        title="Score-CAM",
        source="wang2020, Alg. 1",
        formula="A = up(ReLU Σ_k w_k A_k), w = softmax_k s(x′ + unit(up A_k) ⊙ (x − x′))",
        family="perturbation",
        reformulations=("feature removal",),
        needs=("layer", "baseline"),
        features=PLACES,
        passes=None,
        differs=(
            "Channels are enlarged as all maps are here; published code aligns corners.",
            "Hidden places show the baseline in input space, not zero after normalisation.",
        ),
        pitfalls=(
            "The softmax is over channels: differences of scores of ten and more leave one channel.",
            "Needs as many forward rows as the layer has channels.",
        ),
    ),
    aliases=("scorecam",),
)
def score_cam(
    *,
    baseline: Any = "zero",
    layer: str | None = None,
    relu: bool = True,
    normalise: bool = False,
    upsample: Upsample = "bilinear",
    variant: Variant = "corrected",
) -> ChannelMap:
    """A layer's channels, weighted by the score when the input is shown through each alone.

    Args:
        baseline: what hidden places show: a name, value or tensor.
        variant: ``"published"`` enlarges channels with aligned corners and adds 1e-8 to their range.

    Shape: (b, c, …) in and out; the map is shared out equally over the channels.

    Cost:
        One forward row per sample and channel of the layer; without ``layer`` one forward and one backward
        row more, to find it. Two forward rows per sample for the prediction and the layer.

    Example:
        >>> import abe
        >>> abe.method("score_cam", baseline="blur").engine.weights.baseline
        Blur(sigma=5.0, kernel=11)
    """
    old = published(variant)
    masked = MaskedScore(baseline=as_baseline(baseline), align_corners=old, epsilon=1e-8 if old else 0.0)
    return ChannelMap(weights=masked, layer=layer, relu=relu, normalise=normalise, upsample=upsample)


@methods.register(
    Card(
        name="ablation_cam",
        title="Ablation-CAM",
        source="ramaswamy2020, Eq. 1",
        formula="A = up(ReLU Σ_k w_k A_k), w_k = s − s(without channel k)",
        family="perturbation",
        reformulations=("feature removal",),
        needs=("layer",),
        features=PLACES,
        passes=None,
        differs=(
            "Losses are not divided by the score, which turns the map over where the score is negative.",
        ),
        pitfalls=(
            "Needs as many forward rows as the layer has channels.",
            COARSE,
        ),
    ),
    aliases=("ablationcam",),
)
def ablation_cam(
    *, layer: str | None = None, relu: bool = True, normalise: bool = False, upsample: Upsample = "bilinear"
) -> ChannelMap:
    """A layer's channels, weighted by what the score loses without each.

    Shape: (b, c, …) in and out; the map is shared out equally over the channels.

    Cost:
        One forward row per sample and channel of the layer; without ``layer`` one forward and one backward
        row more, to find it. Two forward rows per sample for the prediction and the layer.

    Example:
        >>> import abe
        >>> abe.method("ablation_cam", layer="layer4").engine.weights
        Ablation()
    """
    return ChannelMap(weights=Ablation(), layer=layer, relu=relu, normalise=normalise, upsample=upsample)


@methods.register(
    Card(
        name="guided_grad_cam",
        title="Guided Grad-CAM",
        source="selvaraju2017, Sec. 3.2",
        formula="A = GBP ⊙ up(ReLU Σ_k w_k A_k), w_k = mean_ij ∂s/∂A_kij",
        family="modified gradient",
        needs=("gradient", "layer"),
        features=PLACES,
        passes=Passes(forward="2 * b + 1", backward="2 * b + 1", at_most=True),
        differs=(
            "The map is enlarged linearly, as in the paper; the library recorded as reference takes the "
            "nearest place (upsample='nearest').",
        ),
        pitfalls=("Guided Backprop hardly depends on the class or the upper layers, so its edges stay.",),
    ),
    aliases=("guided_gradcam",),
)
def guided_grad_cam(
    *, layer: str | None = None, normalise: bool = False, upsample: Upsample = "bilinear"
) -> ThroughMap:
    """Guided Backprop times the Grad-CAM map.

    Args:
        normalise: scale the Grad-CAM map to [0, 1].

    Shape: (b, c, …) in and out.

    Example:
        >>> import abe
        >>> abe.method("guided_grad_cam", upsample="nearest").rows(b=1)
        6.0
    """
    gate = ChannelMap(weights=MeanGradient(), layer=layer, normalise=normalise, upsample=upsample)
    return ThroughMap(engine=guided_backprop(), gate=gate)


@methods.register(
    Card(
        name="channel_map",
        title="CAM with given weights",
        source="selvaraju2017",
        formula="A = up(ReLU Σ_k w_k A_k)",
        family="gradient × input",
        needs=("layer",),
        features=PLACES,
        passes=None,
        pitfalls=(COARSE,),
        example={"weights": "mean_gradient"},
    ),
)
def channel_map(
    *,
    weights: Any,
    layer: str | None = None,
    relu: bool = True,
    normalise: bool = False,
    upsample: Upsample = "bilinear",
) -> ChannelMap:
    """A layer's channels, weighted by any registered value.

    Args:
        weights: a registered name, a pair of name and parameters, or a value with
            ``needs_gradient`` and ``__call__(view) -> map``.

    Shape: (b, c, …) in and out; the map is shared out equally over the channels.

    Cost: That of the weights.

    Example:
        >>> import abe
        >>> abe.method("channel_map", weights="mean_gradient").engine.weights
        MeanGradient()
    """
    resolved = channel_weights.resolve(weights)
    if not isinstance(resolved, ChannelWeights) or isinstance(resolved, type):
        raise SpecError(
            Code.BAD_PARAMETER,
            "These are not channel weights",
            got=type(weights).__name__,
            expected=f"one of {', '.join(channel_weights.names())}, or a value called with a View",
        )
    return ChannelMap(weights=resolved, layer=layer, relu=relu, normalise=normalise, upsample=upsample)
