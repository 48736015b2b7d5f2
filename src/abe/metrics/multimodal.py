"""Confidence drop and increase of two-tower models: one input is reduced to what its map shows.

The other input stays whole. The score is the problem's own, usually the cosine similarity of the two
embeddings. An image is multiplied by its map in the model's space, so that what the map hides becomes the
mean colour; of a text the tokens above the median of their attributions are kept.
"""

from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from abe.engines.removal.removals import Absent, Removal
from abe.engines.runtime.problem import Problem
from abe.errors import Code, InputError, SpecError
from abe.imputation import without
from abe.metrics.evaluation.perturbation import as_absent, bound_removal
from abe.metrics.evaluation.rows import remembered
from abe.metrics.evaluation.truth import soft_mask
from abe.registry import metrics
from abe.spec import value
from abe.types import Baseline, Card, Fed, Passes
from abe.units import Pixel, check_map, rank

Change = Literal["drop", "increase"]


def confidence(whole: Float[Tensor, "b"], kept: Float[Tensor, "b"], what: Change) -> Float[Tensor, "b"]:
    """(b,) 100 max(0, s - s'), or 100 where s' > s."""
    return 100 * ((whole - kept).clamp_min(0) if what == "drop" else (kept > whole).double())


@value
class ImageConfidence:
    """The score when the image is multiplied by its map.

    Args:
        what: ``"drop"`` or ``"increase"``.
    """

    what: Change
    removes: ClassVar[bool] = True

    def measure(self, problem: Problem, explanation: Any) -> Tensor:
        kept = remembered(problem, explanation, "image confidence", lambda: _shown(problem, explanation))
        return confidence(problem.score.double(), kept, self.what)


def _shown(problem: Problem, explanation: Any) -> Float[Tensor, "b"]:
    """(b,) the score of (x - mean) m + mean, m the positive part of the map over its maximum."""
    x, mean = problem.x, problem.task.mean
    middle = torch.zeros((), dtype=x.dtype, device=x.device) if mean is None else mean.to(x)
    rows = middle + (x - middle) * soft_mask(problem, explanation)
    return problem.scores(rows, problem.everyone).double()


@value
class TextConfidence:
    """The score when only the tokens above the median of their attributions are kept.

    Args:
        what: ``"drop"`` or ``"increase"``.
        attention: name of the context input (b, t) that says which tokens are attended.
        special: name of the context input (b, t) that marks tokens which always stay, beside those that the
            task holds fixed; or None.
        removal: what removed tokens become. None ends their attention; where the model takes no mask they
            become what the task has for a missing token.
    """

    what: Change
    attention: str
    special: str | None
    removal: Baseline | Removal | None
    removes: ClassVar[bool] = True

    def measure(self, problem: Problem, explanation: Any) -> Tensor:
        key = ("text confidence", self.attention, self.special, self.removal)
        kept = remembered(problem, explanation, key, lambda: self._shown(problem, explanation))
        return confidence(problem.score.double(), kept, self.what)

    def _shown(self, problem: Problem, explanation: Any) -> Float[Tensor, "b"]:
        """(b,) the score of the tokens that are kept."""
        removed = self.removed(problem, explanation)
        removal, everyone = self.removal, problem.everyone
        attended = problem.context.values.get(self.attention)
        if removal is None and attended is None:
            removal = as_absent(problem.task.suits.get(("removal", "zero"), "zero"))
        bound = bound_removal(removal, problem, Pixel()) if isinstance(removal, Removal) else None

        def make(rows: Tensor) -> Tensor | Fed:
            owner, gone = everyone[rows], removed[rows][:, None]
            if bound is not None:
                return bound.rows(Absent(owner, torch.zeros_like(owner), ~gone))
            if removal is not None and not isinstance(removal, Removal):
                return without(problem, removal, owner, torch.zeros_like(owner), gone)
            mask = self._flags(problem, self.attention)
            mask = mask[owner.to(mask.device)]
            return Fed(problem.x[owner], {self.attention: mask.masked_fill(gone[:, 0].to(mask.device), 0)})

        return problem.scores(make, everyone).double()

    def removed(self, problem: Problem, explanation: Any) -> Bool[Tensor, "b t"]:
        """(b, t) the lower half of each sample's words, the middle one of an odd number among them."""
        x = problem.x
        if x.ndim != 3:
            raise SpecError(
                Code.UNSUPPORTED,
                "Text confidence reads embeddings of tokens",
                got=f"inputs of shape {tuple(x.shape[1:])}",
                expected="(embedding, tokens)",
            )
        score = check_map(explanation.attribution, x).expand_as(x).double().sum(1)
        words = torch.ones_like(score, dtype=torch.bool)
        if problem.fixed is not None:
            words = ~problem.fixed.expand_as(x).all(1)
        if problem.fixed is None or self.attention in problem.context.values:
            words = words & self._flags(problem, self.attention).to(x.device).bool()
        if self.special is not None:
            words = words & ~self._flags(problem, self.special).to(x.device).bool()
        order = rank(torch.where(words, score, -torch.inf), draws=problem.draws, ids=problem.ids)
        return words & (order >= words.sum(1, keepdim=True) // 2)

    def _flags(self, problem: Problem, name: str) -> Tensor:
        """(b, t) a further input of the model that says something of every token."""
        found, expected = problem.context.values.get(name), (len(problem.x), problem.x.shape[2])
        if found is None or tuple(found.shape) != expected:
            raise InputError(
                Code.MASK,
                f"Text confidence needs the input {name!r} beside the embeddings",
                got="nothing" if found is None else f"shape {tuple(found.shape)}",
                expected=f"{expected}",
                fix="Pass raw= with every input of the model, or name the right one",
            )
        return found


_PASSES = Passes(forward="2 * b", backward="0")
_IMAGE, _TEXT = ("image",), ("tokens",)
_ABSOLUTE = "In units of the score: an absolute drop, not the relative one of `average_drop`."
_ATTENTION = (
    "Removed tokens lose their attention; the published code gives them id 0 (`removal=` with that token's "
    "embedding), which is a word as well."
)


@metrics.register(
    Card(
        name="image_confidence_drop",
        title="ICD",
        source="wang2023m2ib",
        direction="lower",
        range="[0, inf)",
        formula="100 max(0, s(x) - s(mean + m (x - mean))), m = max(A, 0) / max A",
        passes=_PASSES,
        features=_IMAGE,
        pitfalls=(_ABSOLUTE, "A map that is 1 everywhere is perfect: read it with a measure of complexity."),
    ),
    aliases=("icd",),
)
def image_confidence_drop() -> ImageConfidence:
    """Loss of similarity, times 100, when the image is multiplied by its map.

    The text stays whole.
    """
    return ImageConfidence(what="drop")


@metrics.register(
    Card(
        name="image_confidence_increase",
        title="ICI",
        source="wang2023m2ib",
        direction="higher",
        pitfalls=("Counts samples and not how much; a sure match leaves nothing to rise.",),
        range="{0, 100}",
        formula="100 [s(mean + m (x - mean)) > s(x)], m = max(A, 0) / max A",
        passes=_PASSES,
        features=_IMAGE,
        expected_failures={
            "ranking": "sometimes, within 1e-12: masking evidence that is all positive never raises a score"
        },
    ),
    aliases=("ici",),
)
def image_confidence_increase() -> ImageConfidence:
    """Share of samples, in per cent, whose similarity rises under the map as a mask of the image.

    The text stays whole.
    """
    return ImageConfidence(what="increase")


@metrics.register(
    Card(
        name="text_confidence_drop",
        title="TCD",
        source="wang2023m2ib",
        direction="lower",
        range="[0, inf)",
        formula="100 max(0, s(t) - s(tokens of t with A > median A)), special tokens kept",
        passes=_PASSES,
        features=_TEXT,
        differs=(_ATTENTION,),
        pitfalls=(_ABSOLUTE, "Half of the words always go, however many carry the meaning."),
    ),
    aliases=("tcd",),
)
def text_confidence_drop(
    *, attention: str = "attention_mask", special: str | None = None, removal: Any = None
) -> TextConfidence:
    """Loss of similarity, times 100, when only the tokens above the median stay.

    The image stays whole.

    Args:
        attention: the model's input that says which tokens are attended.
        special: an input that marks further tokens which always stay; those that the task holds fixed do.
        removal: what removed tokens become: ``"attention"``, ``"delete"``, ``"reference_token"``, a
            reference, for the published form the embedding of token 0; None ends their attention, or where
            the model takes no mask is what the task has for a missing token.
    """
    return _text("drop", attention, special, removal)


@metrics.register(
    Card(
        name="text_confidence_increase",
        title="TCI",
        source="wang2023m2ib",
        direction="higher",
        range="{0, 100}",
        formula="100 [s(tokens of t with A > median A) > s(t)], special tokens kept",
        passes=_PASSES,
        features=_TEXT,
        differs=(_ATTENTION,),
        pitfalls=("Half of the words always go, however many carry the meaning.",),
    ),
    aliases=("tci",),
)
def text_confidence_increase(
    *, attention: str = "attention_mask", special: str | None = None, removal: Any = None
) -> TextConfidence:
    """Share of samples, in per cent, whose similarity rises when only the tokens above the median stay.

    The image stays whole.

    Args:
        attention: the model's input that says which tokens are attended.
        special: an input that marks further tokens which always stay; those that the task holds fixed do.
        removal: what removed tokens become: ``"attention"``, ``"delete"``, ``"reference_token"``, a
            reference, for the published form the embedding of token 0; None ends their attention, or where
            the model takes no mask is what the task has for a missing token.
    """
    return _text("increase", attention, special, removal)


def _text(what: Change, attention: str, special: str | None, removal: Any) -> TextConfidence:
    chosen = None if removal is None else as_absent(removal)
    return TextConfidence(what=what, attention=attention, special=special, removal=chosen)
