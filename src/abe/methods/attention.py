"""Attention: matrices read from the model, aggregated over heads and layers, and laid over the input."""

from abe.engines.attention.aggregate import (
    CarriedRelevance,
    Heads,
    LastAttention,
    LastGradient,
    Rollout,
)
from abe.engines.attention.cross import BimodalRelevance, CrossAttention, Side
from abe.engines.attention.engine import AttentionMap
from abe.engines.runtime.shapes import Upsample
from abe.methods.gradient import ONE_GRADIENT
from abe.registry import methods
from abe.types import Card, Passes

PLACES = ("image", "series")
ONE_LOOK = Passes(forward="2 * b", backward="0")
NO_CLASS = "Not about the class: every decision gets the same map."
GLOBAL = "Attention within windows (Swin, MaxViT) is refused: its tokens are others in every layer."


@methods.register(
    Card(
        name="raw_attention",
        title="Raw attention",
        summary="What the last layer attends to.",
        source="vaswani2017",
        formula="A = up(row of mean_heads A_L)",
        family="attention",
        needs=("attention",),
        modalities=PLACES,
        passes=ONE_LOOK,
        pitfalls=(
            NO_CLASS,
            "Attention is no influence: values and later layers decide what is used.",
            GLOBAL,
        ),
    ),
    aliases=("self_attention", "attention"),
)
def raw_attention(
    *,
    heads: Heads = "mean",
    query: int | None = None,
    layers: tuple[str, ...] = (),
    upsample: Upsample = "bilinear",
) -> AttentionMap:
    """What the last layer attends to.

    A = up(row of mean_heads A_L)

    Composition: `AttentionMap` of `LastAttention`.

    Args:
        heads: ``"mean"``, ``"max"`` or ``"min"`` over heads.
        query: the row that is read; None reads the class token, and the mean of all rows without one.
        layers: names of modules whose attention alone is taken; all by default.
        upsample: ``"bilinear"`` or ``"nearest"``.

    Shape:
        (b, c, …) in and out; the map is shared out equally over the channels.

    Guarantees:
        None of the axioms.

    Cost:
        One forward row per sample, and one for the prediction.

    Source:
        vaswani2017.
    """
    return AttentionMap(aggregation=LastAttention(heads=heads), query=query, layers=layers, upsample=upsample)


@methods.register(
    Card(
        name="attention_rollout",
        title="Attention rollout",
        summary="Attention multiplied through the layers, half of each being the skip connection.",
        source="abnar2020",
        formula="A = up(row of Π_l (½ A_l + ½ I))",
        family="attention",
        needs=("attention",),
        modalities=PLACES,
        passes=ONE_LOOK,
        pitfalls=(
            NO_CLASS,
            "Takes skip connection and attention for equal halves, whatever they are.",
            GLOBAL,
        ),
    ),
    aliases=("rollout",),
)
def attention_rollout(
    *,
    heads: Heads = "mean",
    query: int | None = None,
    layers: tuple[str, ...] = (),
    upsample: Upsample = "bilinear",
) -> AttentionMap:
    """Attention multiplied through the layers, half of each being the skip connection.

    A = up(row of Π_l (½ A_l + ½ I)), rows of each factor summing to 1

    Composition: `AttentionMap` of `Rollout`.

    Args:
        heads: ``"mean"``, ``"max"`` or ``"min"`` over heads.
        query: the row that is read; None reads the class token, and the mean of all rows without one.
        layers: names of modules whose attention alone is taken; all by default.
        upsample: ``"bilinear"`` or ``"nearest"``.

    Shape:
        (b, c, …) in and out; the map is shared out equally over the channels.

    Guarantees:
        None of the axioms.

    Cost:
        One forward row per sample, and one for the prediction.

    Source:
        abnar2020.
    """
    return AttentionMap(aggregation=Rollout(heads=heads), query=query, layers=layers, upsample=upsample)


@methods.register(
    Card(
        name="gradient_x_attention",
        title="Gradient × attention",
        summary="The last layer's attention times the gradient by it, positive parts only.",
        source="chefer2021, Eq. 5",
        formula="A = up(row of mean_heads (∇A_L ⊙ A_L)⁺)",
        family="attention",
        needs=("gradient", "attention"),
        modalities=PLACES,
        passes=ONE_GRADIENT,
        pitfalls=("One layer only; what earlier layers mixed into a token counts for that token.", GLOBAL),
    ),
    aliases=("attention_x_gradient", "grad_x_attention"),
)
def gradient_x_attention(
    *, query: int | None = None, layers: tuple[str, ...] = (), upsample: Upsample = "bilinear"
) -> AttentionMap:
    """The last layer's attention times the gradient by it, positive parts only.

    A = up(row of mean_heads (∂s/∂A_L ⊙ A_L)⁺)

    Composition: `AttentionMap` of `LastGradient`.

    Args:
        query: the row that is read; None reads the class token, and the mean of all rows without one.
        layers: names of modules whose attention alone is taken; all by default.
        upsample: ``"bilinear"`` or ``"nearest"``.

    Shape:
        (b, c, …) in and out; the map is shared out equally over the channels.

    Guarantees:
        None of the axioms.

    Cost:
        One forward row per sample, and one backward row from the output to the attention. One forward
        row per sample for the prediction.

    Source:
        chefer2021, Eq. 5.
    """
    return AttentionMap(aggregation=LastGradient(), query=query, layers=layers, upsample=upsample)


@methods.register(
    Card(
        name="chefer_relevance",
        title="Transformer relevance (Chefer)",
        summary="Attention times its gradient, carried through the layers.",
        source="chefer2021, Eqs. 5 and 6",
        formula="A = up(row of R), R ← R + mean_heads (∇A_l ⊙ A_l)⁺ R from R = I",
        family="attention",
        needs=("gradient", "attention"),
        modalities=PLACES,
        passes=ONE_GRADIENT,
        pitfalls=("Positive parts only: what speaks against the decision is not seen.", GLOBAL),
    ),
    aliases=("chefer", "transformer_relevance"),
)
def chefer_relevance(
    *, query: int | None = None, layers: tuple[str, ...] = (), upsample: Upsample = "bilinear"
) -> AttentionMap:
    """Attention times its gradient, carried through the layers.

    A = up(row of R), R ← R + mean_heads (∂s/∂A_l ⊙ A_l)⁺ R, from R = I

    Composition: `AttentionMap` of `CarriedRelevance`.

    Args:
        query: the row that is read; None reads the class token, and the mean of all rows without one.
        layers: names of modules whose attention alone is taken; all by default.
        upsample: ``"bilinear"`` or ``"nearest"``.

    Shape:
        (b, c, …) in and out; the map is shared out equally over the channels.

    Guarantees:
        None of the axioms.

    Cost:
        One forward row per sample, and one backward row from the output to the first attention. One
        forward row per sample for the prediction.

    Source:
        chefer2021, Eqs. 5 and 6.
    """
    return AttentionMap(aggregation=CarriedRelevance(), query=query, layers=layers, upsample=upsample)


@methods.register(
    Card(
        name="chefer_bimodal",
        title="Bi-modal relevance (Chefer)",
        summary="Relevance of the input where it and another sequence attend to each other.",
        source="chefer2021, Eqs. 5 to 11",
        formula="R_sq ← R_sq + R̄_ssᵀ Ā R̄_qq, R_ss ← R_ss + Ā R_qs, Ā = mean_heads (∇A ⊙ A)⁺",
        family="attention",
        needs=("gradient", "cross_attention"),
        modalities=PLACES,
        passes=ONE_GRADIENT,
        differs=("A token without relevance keeps zero in R̄; the published division gives NaN there.",),
        pitfalls=("Sequences are told apart by their numbers of tokens, which must differ.",),
    ),
    aliases=("bimodal_relevance",),
)
def chefer_bimodal(
    *, reads: Side = "other", query: int = 0, layers: tuple[str, ...] = (), upsample: Upsample = "bilinear"
) -> BimodalRelevance:
    """Relevance of the input where it and another sequence attend to each other.

    R_sq ← R_sq + R̄_ssᵀ Ā R̄_qq and R_ss ← R_ss + Ā R_qs where s attends to q; R_ss ← R_ss + Ā R_ss and
    R_sq ← R_sq + Ā R_sq where s attends to itself; Ā = mean_heads (∂s/∂A ⊙ A)⁺.

    Composition: `BimodalRelevance`.

    Args:
        reads: whose row is read: the ``"other"`` sequence's, such as a question's, or the input's ``"own"``.
        query: the row; 0 is the class token.
        layers: names of modules whose attention alone is taken; all by default.
        upsample: ``"bilinear"`` or ``"nearest"``.

    Shape:
        (b, c, …) in and out; the map is shared out equally over the channels.

    Guarantees:
        None of the axioms.

    Cost:
        One forward row per sample, and one backward row from the output to the first attention. One
        forward row per sample for the prediction.

    Differs from the paper:
        A token without relevance keeps zero in R̄.

    Source:
        chefer2021, Eqs. 5 to 11.
    """
    return BimodalRelevance(reads=reads, query=query, layers=layers, upsample=upsample)


@methods.register(
    Card(
        name="daam",
        title="DAAM",
        summary="Cross-attention between the input's places and a token, averaged over layers and heads.",
        source="tang2023",
        formula="A = mean_{layers, calls, heads} up(A[:, token])",
        family="attention",
        needs=("cross_attention",),
        modalities=PLACES,
        passes=ONE_LOOK,
        differs=(
            "The mean instead of the sum over layers and heads, so that maps of models can be compared.",
        ),
        pitfalls=(NO_CLASS, "Says where a word was looked up, not what it changed."),
        example={"tokens": (0,)},
    ),
    aliases=("cross_attention",),
)
def daam(
    *, tokens: tuple[int, ...], layers: tuple[str, ...] = (), upsample: Upsample = "bilinear"
) -> CrossAttention:
    """Cross-attention between the input's places and a token, averaged over layers and heads.

    A = mean over layers, calls and heads of up(A[:, token]), summed over the given tokens

    Composition: `CrossAttention`.

    Args:
        tokens: the tokens of the other sequence; several for a word in pieces.
        layers: names of modules whose attention alone is taken; all by default.
        upsample: ``"bilinear"`` or ``"nearest"``.

    Shape:
        (b, c, …) in and out; the map is shared out equally over the channels.

    Guarantees:
        None of the axioms.

    Cost:
        One forward row per sample, and one for the prediction.

    Differs from the paper:
        The mean instead of the sum.

    Source:
        tang2023.
    """
    return CrossAttention(tokens=tokens, layers=layers, upsample=upsample)
