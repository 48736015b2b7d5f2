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

PLACES = ("positions",)
ONE_LOOK = Passes(forward="b", backward="0")
NO_CLASS = "Not about the class: every decision gets the same map."
GLOBAL = "Attention within windows (Swin, MaxViT) is refused: its tokens are others in every layer."


@methods.register(
    Card(
        name="raw_attention",
        title="Raw attention",
        source="vaswani2017",
        formula="A = up(row of mean_heads A_L)",
        family="attention",
        needs=("attention",),
        features=PLACES,
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

    Shape: (b, c, …) in and out; the map is shared out equally over the channels.

    Example:
        >>> import abe
        >>> abe.method("raw_attention", heads="max").engine.aggregation
        LastAttention(heads='max')
    """
    return AttentionMap(aggregation=LastAttention(heads=heads), query=query, layers=layers, upsample=upsample)


@methods.register(
    Card(
        name="attention_rollout",
        title="Attention rollout",
        source="abnar2020",
        formula="A = up(row of Π_l (½ A_l + ½ I)), rows of each factor summing to 1",
        family="attention",
        needs=("attention",),
        features=PLACES,
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

    Shape: (b, c, …) in and out; the map is shared out equally over the channels.

    Example:
        >>> import abe
        >>> abe.method("rollout", heads="max").engine.aggregation
        Rollout(heads='max')
    """
    return AttentionMap(aggregation=Rollout(heads=heads), query=query, layers=layers, upsample=upsample)


@methods.register(
    Card(
        name="gradient_x_attention",
        title="Gradient × attention",
        source="chefer2021, Eq. 5",
        formula="A = up(row of mean_heads (∂s/∂A_L ⊙ A_L)⁺)",
        family="attention",
        needs=("gradient", "attention"),
        features=PLACES,
        passes=ONE_GRADIENT,
        pitfalls=("One layer only; what earlier layers mixed into a token counts for that token.", GLOBAL),
    ),
    aliases=("attention_x_gradient", "grad_x_attention"),
)
def gradient_x_attention(
    *, query: int | None = None, layers: tuple[str, ...] = (), upsample: Upsample = "bilinear"
) -> AttentionMap:
    """The last layer's attention times the gradient by it, positive parts only.

    Shape: (b, c, …) in and out; the map is shared out equally over the channels.

    Example:
        >>> import abe
        >>> abe.method("gradient_x_attention", query=0).rows(b=1)
        2.0
    """
    return AttentionMap(aggregation=LastGradient(), query=query, layers=layers, upsample=upsample)


@methods.register(
    Card(
        name="chefer_relevance",
        title="Transformer relevance (Chefer)",
        source="chefer2021, Eqs. 5 and 6",
        formula="A = up(row of R), R ← R + mean_heads (∂s/∂A_l ⊙ A_l)⁺ R, from R = I",
        family="attention",
        needs=("gradient", "attention"),
        features=PLACES,
        passes=ONE_GRADIENT,
        pitfalls=("Positive parts only: what speaks against the decision is not seen.", GLOBAL),
    ),
    aliases=("chefer", "transformer_relevance"),
)
def chefer_relevance(
    *, query: int | None = None, layers: tuple[str, ...] = (), upsample: Upsample = "bilinear"
) -> AttentionMap:
    """Attention times its gradient, carried through the layers.

    Shape: (b, c, …) in and out; the map is shared out equally over the channels.

    Example:
        >>> import abe
        >>> abe.method("chefer", query=0).rows(b=1)
        2.0
    """
    return AttentionMap(aggregation=CarriedRelevance(), query=query, layers=layers, upsample=upsample)


@methods.register(
    Card(
        name="chefer_bimodal",
        title="Bi-modal relevance (Chefer)",
        source="chefer2021, Eqs. 5 to 11",
        formula="R_sq ← R_sq + R̄_ssᵀ Ā R̄_qq and R_ss ← R_ss + Ā R_qs where s attends to q; "
        "R_ss ← R_ss + Ā R_ss and R_sq ← R_sq + Ā R_sq where s attends to itself; "
        "Ā = mean_heads (∂s/∂A ⊙ A)⁺",
        family="attention",
        needs=("gradient", "cross_attention"),
        features=PLACES,
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

    Args:
        reads: whose row is read: the ``"other"`` sequence's, such as a question's, or the input's ``"own"``.
        query: the row; 0 is the class token.

    Shape: (b, c, …) in and out; the map is shared out equally over the channels.

    Example:
        >>> import abe
        >>> abe.method("chefer_bimodal", reads="own").rows(b=1)
        2.0
    """
    return BimodalRelevance(reads=reads, query=query, layers=layers, upsample=upsample)


@methods.register(
    Card(
        name="daam",
        title="DAAM",
        source="tang2023",
        formula="A = mean over layers, calls and heads of up(A[:, token]), summed over the given tokens",
        family="attention",
        needs=("cross_attention",),
        features=PLACES,
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

    Args:
        tokens: the tokens of the other sequence; several for a word in pieces.

    Shape: (b, c, …) in and out; the map is shared out equally over the channels.

    Example:
        >>> import abe
        >>> abe.method("daam", tokens=(2, 3)).rows(b=1)
        1.0
    """
    return CrossAttention(tokens=tokens, layers=layers, upsample=upsample)
