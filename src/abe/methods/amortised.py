"""Amortised explainers: networks trained once on the user's data, and `fit`, which trains them."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from abe.baselines import as_baseline
from abe.engines.learn.explainers import (
    L2X,
    RTIS,
    CXPlain,
    Untrained,
)
from abe.engines.learn.fit_noise import fit_statistics
from abe.engines.learn.training import train
from abe.engines.runtime.stored import as_fitted, load
from abe.errors import Code, SpecError, suggest
from abe.registry import methods
from abe.task.start import Given, entrance
from abe.types import Card, Engine, Fitted, Passes

PREDICTION = Passes(forward="b", backward="0")
CONTROL = {"fitted": Untrained()}


@entrance
def fit(
    task: Given,
    data: Any,
    method: str,
    *,
    epochs: int = 10,
    checkpoint: str | Path | None = None,
    every: int = 50,
    seed: int = 0,
    **settings: Any,
) -> Fitted:
    """Learn what a method needs from data: ``abe.explain(task, x, abe.fit(task, loader, "l2x"))``.

    Args:
        task: the model; left as found.
        data: a tensor, or an iterable of batches, alone or with classes as ``(batch, target)``.
        method: ``"rtis"``, ``"l2x"``, ``"cxplain"``, or ``"iba"`` for its layer's statistics (one pass).
        epochs: passes over the data.
        checkpoint: file that keeps the state; an interrupted training goes on from it to the same result.
        every: batches between two checkpoints.
        seed: of first weights and draws.
        **settings: of the method's training: RTIS takes ``baseline, area, variation, delete, power, rate,
            width``; L2X ``baseline, features, cells, temperature, rate, width``; CXPlain ``baseline, cells,
            members, rate, width``; IBA ``layer``.

    Returns:
        A value that explains, is saved by ``save(path)`` and read by `load_fitted`. Where the loader
        ended early or failed, it holds what was learnt until then, says so in ``notes``, and so does
        every explanation by it.

    Raises:
        InputError: nothing to learn from.
        SpecError: no such method or setting.
        StorageError: the checkpoint is none, or belongs to another training.
    """
    name = methods.get(method).name
    if name == "iba":
        if checkpoint is not None:
            raise SpecError(
                Code.UNSUPPORTED,
                "Statistics are gathered in one pass, which has no checkpoint",
                fix="Save what fit returns",
            )
        return fit_statistics(task, data, **_checked(fit_statistics, settings, ("task", "data")))
    recipe = _RECIPES.get(name)
    if recipe is None:
        raise SpecError(
            Code.UNSUPPORTED,
            f"{name} has nothing to learn",
            expected=f"one of {', '.join([*_RECIPES, 'iba'])}",
        )
    made, default = recipe
    given = _checked(made, settings, ())
    given["baseline"] = as_baseline(given.get("baseline", default))
    asked = made(**given)
    trained = train(task, data, asked, epochs=epochs, seed=seed, checkpoint=checkpoint, every=every)
    return asked.finished(trained)


def load_fitted(path: str | Path) -> Fitted:
    """Read what a fitted value's ``save`` wrote.

    Args:
        path: of the file.

    Raises:
        StorageError: no such file, damaged, or written by something else.
    """
    found = load(path)
    return as_fitted(found, getattr(found, "method", ""))


def _checked(factory: Callable[..., Any], settings: dict[str, Any], own: tuple[str, ...]) -> dict[str, Any]:
    known = [name for name in inspect.signature(factory).parameters if name not in own]
    for name in settings:
        if name not in known:
            raise SpecError(
                Code.UNKNOWN_PARAMETER,
                f"There is no setting {name!r}",
                expected=f"one of {', '.join(known)}",
                fix=suggest(name, known),
            )
    return dict(settings)


@methods.register(
    Card(
        name="rtis",
        title="Real-Time Image Saliency (RTIS)",
        source="dabkowski2017, Eq. 3",
        formula="min E λ₁ TV(M) + λ₂ mean M − log p_c(Φ(x; M)) + λ₃ p_c(Φ(x; 1 − M))^λ₄, A = M(x, c)",
        family="influential subset",
        reformulations=("feature removal",),
        optimises=("insertion", "deletion"),
        needs=("training",),
        passes=PREDICTION,
        differs=(
            "The network reads the input, not the classifier's own features, so that it fits any model.",
            "The price of area is 2 per whole input, counted as a mean.",
        ),
        pitfalls=("It explains models and data like those it was trained on; train it again for others.",),
        example=CONTROL,
    ),
    aliases=("real_time_image_saliency",),
)
def rtis(*, fitted: Any) -> Engine:
    """A mask from a network that was trained to keep and to remove the model's decisions.

    Training takes two gradient rows per sample and epoch.

    Composition: `Amortised`, trained by ``abe.fit(task, loader, "rtis")`` under the recipe `RTIS`.

    Shape: (b, *f) in and out; positions are spread in equal parts over their channels.

    Example:
        >>> import abe
        >>> from abe.engines.learn.explainers import Untrained
        >>> abe.method("rtis", fitted=Untrained()).rows(b=1)
        1.0
    """
    return _engine(fitted, "rtis")


@methods.register(
    Card(
        name="l2x",
        title="Learning to Explain (L2X)",
        source="chen2018, Eq. 6",
        formula="max E Σ_y p(y|x) log q(y | x ⊙ V), V = max of k relaxed draws, A_u = softmax(scores(x))_u",
        family="influential subset",
        reformulations=("feature removal",),
        optimises=("insertion",),
        needs=("training",),
        passes=PREDICTION,
        differs=("The map is the chance of a unit at one draw; the paper lists the k most likely units.",),
        pitfalls=(
            "It explains the prediction, whatever the target.",
            "The two networks can agree on a code: the selection itself then tells the class.",
        ),
        example=CONTROL,
    ),
    aliases=("learning_to_explain",),
)
def l2x(*, fitted: Any) -> Engine:
    """Chances that a unit is among the few that tell most about the prediction.

    A unit's chance is spread over its positions and channels. Training takes one forward row per sample and
    epoch.

    Composition: `Amortised`, trained by ``abe.fit(task, loader, "l2x")`` under the recipe `L2X`.

    Shape: (b, *f) in and out; the map sums to 1.

    Example:
        >>> import abe
        >>> from abe.engines.learn.explainers import Untrained
        >>> abe.method("l2x", fitted=Untrained()).rows(b=1)
        1.0
    """
    return _engine(fitted, "l2x")


@methods.register(
    Card(
        name="cxplain",
        title="CXPlain",
        source="schwab2019, Eq. 3-7",
        formula="min E KL(Ω ‖ Â), ω_i = Δε_i / Σ Δε_j, A_u = softmax(scores(x, c))_u ≈ ω_u",
        family="perturbation",
        reformulations=("feature removal",),
        needs=("training",),
        passes=PREDICTION,
        differs=(
            "The network also reads the class; a unit whose removal lowers the loss counts as 0.",
            "The spread of members trained on bootstrap samples is the standard error.",
        ),
        pitfalls=("Units are removed one at a time: what two units both tell counts for neither.",),
        example=CONTROL,
    ),
)
def cxplain(*, fitted: Any) -> Engine:
    """A learnt prediction of how much the loss would rise without each unit.

    A unit's number is spread over its positions and channels. Training takes a forward row per unit, sample
    and epoch.

    Composition: `Amortised`, trained by ``abe.fit(task, loader, "cxplain")`` under the recipe `CXPlain`.

    Shape: (b, *f) in and out; the map sums to 1. Standard errors where there are several members.

    Example:
        >>> import abe
        >>> from abe.engines.learn.explainers import Untrained
        >>> abe.method("cxplain", fitted=Untrained()).rows(b=1)
        1.0
    """
    return _engine(fitted, "cxplain")


_RECIPES: dict[str, tuple[Callable[..., Any], Any]] = {
    "rtis": (RTIS, "blur"),
    "l2x": (L2X, "zero"),
    "cxplain": (CXPlain, "zero"),
}
"""Method -> what is learnt, and the baseline it takes where none is given."""


def _engine(fitted: Any, method: str) -> Engine:
    return fitted if isinstance(fitted, Untrained) else as_fitted(fitted, method)
