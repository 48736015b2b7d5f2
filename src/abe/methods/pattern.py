"""PatternNet and PatternAttribution: the score sent back through patterns fitted to data."""

from typing import Any

from abe.engines.backward.patterns import PatternBackward, Patterns
from abe.registry import methods
from abe.types import Card, Passes

MERGED = "Batch norm is merged into convolutions on a copy first."
NEEDS_DATA = (
    "Patterns have to be fitted to data like that explained; without any, uniform noise stands in.",
    "Patterns of layers that feed something else than a ReLU are those of a ReLU all the same.",
)
PASSES = Passes(forward="b + samples + 1", backward="b", at_most=True)


@methods.register(
    Card(
        name="pattern_net",
        title="PatternNet",
        source="kindermans2018",
        formula="g_in = Aᵀ g_out with patterns A, started with the score; "
        "rectifiers and pooling keep their gradients",
        family="layer-wise backpropagation",
        needs=("gradient", "draws"),
        passes=PASSES,
        differs=(MERGED,),
        pitfalls=NEEDS_DATA,
    ),
    aliases=("patternnet",),
)
def pattern_net(*, patterns: Any = None, samples: int = 32) -> PatternBackward:
    """The signal that the score responds to, sent back through patterns instead of weights.

    Inputs that correlate with what the score reads get something, read or not.

    Args:
        samples: of uniform noise to fit patterns to, one forward row each, where none are given.

    Example:
        >>> import abe
        >>> abe.method("pattern_net", samples=64).rows(b=1)
        67.0
    """
    return PatternBackward(patterns=_patterns(patterns), attribution=False, samples=samples)


@methods.register(
    Card(
        name="pattern_attribution",
        title="PatternAttribution",
        source="kindermans2018",
        formula="g_in = (W ⊙ A)ᵀ g_out with patterns A, started with the score; the rest keeps its gradients",
        family="layer-wise backpropagation",
        guarantees=("dummy",),
        needs=("gradient", "draws"),
        passes=PASSES,
        differs=(MERGED,),
        pitfalls=NEEDS_DATA,
    ),
    aliases=("patternattribution",),
)
def pattern_attribution(*, patterns: Any = None, samples: int = 32) -> PatternBackward:
    """The score sent back through weights times patterns: what the signal contributes.

    Args:
        samples: of uniform noise to fit patterns to, one forward row each, where none are given.

    Example:
        >>> import abe
        >>> abe.method("pattern_attribution", samples=64).rows(b=1)
        67.0
    """
    return PatternBackward(patterns=_patterns(patterns), attribution=True, samples=samples)


def _patterns(obj: Any) -> Patterns | None:
    return obj if obj is None or isinstance(obj, Patterns) else Patterns.load(obj)
