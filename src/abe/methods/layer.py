"""Methods at a layer: any method with a layer's activation in the place of the input, and conductance."""

from typing import Any

from abe.baselines import as_baseline
from abe.engines.layers.at_layer import AtLayer
from abe.engines.path.conductance import Conductance
from abe.methods.gradient import Variant, published
from abe.registry import Method, methods, suiting
from abe.types import Card, Passes

LAYERS = ("layer",)
"""Maps of layers: lists of methods by modality pass over them."""


@methods.register(
    Card(
        name="at_layer",
        title="Method at a layer",
        source="shrikumar2018",
        formula="A = M(y), y the layer's activation, of the model that runs on from y",
        family="wrapper",
        features=LAYERS,
        pitfalls=(
            "The map has the layer's shape; metrics of inputs cannot read it.",
            "Baselines are activations: zero is no activity. AtInput is the activation at a reference input; "
            "'uniform' and 'confusion', which need the input's bounds, are made there by themselves.",
            "What the model computes beside the layer (skip connections around it) stays that of the sample.",
            "Units of removal methods take the first axis for channels: channels=-1 where tokens come first.",
        ),
        example={"base": "gradient_x_input", "layer": "input"},
    )
)
def at_layer_method(*, base: Any, layer: str, channels: int = 1) -> AtLayer:
    """Any method with the activation of a layer in the place of the input.

    What the base guarantees holds about the layer.

    Args:
        base: a method's name, (name, parameters) pair, or value; a gradient, rule or removal method.
        layer: dotted name of a module; ``"name#1"`` is the second call of one that runs several times.
        channels: the axis on which the layer has its channels, counted with the batch: -1 for a layer that
            gives (b, tokens, channels).

    Shape: (b, *f) in, (b, *g) out, the shape of the layer's activation, channels first, which is the
        explanation's ``x``.

    Cost: The base's, and one forward row per sample; a reference made at the input costs a row each time.

    Example:
        >>> import torch, abe
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 4), torch.nn.Linear(4, 2))
        >>> task = abe.image_task(model)
        >>> found = abe.explain(task, torch.rand(1, 3, 2, 2), abe.at_layer("ig", "1"), progress=False)
        >>> tuple(found.attribution.shape), bool(found.residual_absolute.abs() < 1e-5)
        ((1, 4), True)
    """
    with suiting({}):  # what suits the task's inputs is no reference of a layer
        engine = methods.resolve(base).engine
    return AtLayer(engine=engine, layer=layer, channels=channels)


def at_layer(base: Any, layer: str, *, channels: int = 1) -> Method:
    """``base`` about a layer's activation: ``at_layer("ig", "features.3")``.

    Args:
        base: a method's name, (name, parameters) pair, or value. References that need the bounds of the
            input are made there and carried to the layer.
        layer: dotted name of a module; ``"name#1"`` is the second call of one that runs several times.
        channels: the axis of the layer's channels: 1, or -1 for tokens.

    Raises:
        SpecError: a method that runs inputs of its own, such as IBA, when it is run.
    """
    return methods.build("at_layer", base=base, layer=layer, channels=channels)


@methods.register(
    Card(
        name="layer_conductance",
        title="Layer Conductance",
        source="dhamdhere2019, Eq. 2",
        formula="A = ∫₀¹ ∂s/∂y ⊙ ∂y(γ(α))/∂α dα, γ the straight line of the input from a baseline",
        family="gradient × input",
        reformulations=("path integral",),
        guarantees=("linearity",),
        needs=("gradient", "baseline"),
        features=LAYERS,
        passes=Passes(forward="b * (2 * steps + 5) + 1", backward="b * (steps + 1)"),
        differs=(
            "Mean gradients over equal steps; variant='published' takes the gradient at each step's start, "
            "at the nodes of Gauss–Legendre.",
        ),
        pitfalls=("Complete only where everything that the score reads goes through the layer.",),
        expected_failures={
            "completeness": "sometimes, within 1e-3: steps are finite, and skip connections go around the "
            "layer"
        },
        example={"layer": "input"},
    ),
    aliases=("conductance",),
)
def layer_conductance(
    *, layer: str, baseline: Any = "zero", steps: int = 50, variant: Variant = "corrected"
) -> Conductance:
    """The part of Integrated Gradients that flows through each unit of a layer.

    Args:
        layer: dotted name of a module; ``"name#1"`` is the second call of one that runs several times.

    Shape: (b, *f) in, (b, *g) out, the shape of the layer's activation.

    Example:
        >>> import abe
        >>> abe.method("layer_conductance", layer="layer4", steps=20).rows(b=1)
        67.0
    """
    return Conductance(
        layer=layer,
        baseline=as_baseline(baseline),
        steps=steps,
        rule="published" if published(variant) else "trapezoid",
    )
