"""What direct metrics share: remembered work, truth about the samples, and explaining again."""

from collections.abc import Sequence
from copy import copy
from typing import Annotated, Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from abe.engines.runtime.problem import Problem
from abe.errors import Code, InputError, SpecError
from abe.imputation import positions
from abe.metrics.evaluation.reexplain import method_of
from abe.task.image.regions import as_region
from abe.task.lifted import Lifted
from abe.task.targets import labels_of
from abe.types import Card
from abe.units import check_map

MASK = "truth.mask"
"""Where `Explanation.diagnostics` holds the true region of each sample."""
LABEL = "truth.label"
"""Where it holds the true class of each sample."""


def with_truth(explanation: Any, masks: Any, labels: Any) -> Any:
    """The explanation with what is known about its samples; itself where nothing is given."""
    given = {MASK: masks, LABEL: labels}
    known = {name: torch.as_tensor(value) for name, value in given.items() if value is not None}
    if not known:
        return explanation
    other = copy(explanation)
    other.diagnostics = {**explanation.diagnostics, **known}
    return other


def region(problem: Problem, explanation: Any) -> Bool[Tensor, "b p"]:
    """(b, positions) the true region of each sample.

    Raises:
        InputError: no masks were given, or they do not fit the samples.
    """
    x = problem.x
    given = getattr(explanation, "diagnostics", {}).get(MASK)
    if given is None:
        raise InputError(
            Code.MASK,
            "This metric needs the true region of every sample",
            got="no masks",
            fix="Pass masks=(b, h, w) of booleans to score or evaluate",
        )
    return as_region(given, x).to(x.device).flatten(1)


def region_of(masks: Any, lifted: Lifted) -> Bool[Tensor, "b *space"]:
    """`as_region` of lifted samples, whose masks may also be flags, one for every natural unit of each.

    Raises:
        InputError: as `as_region`, or another number of flags than a sample has units.
    """
    if lifted.x.ndim == 2 and len(lifted.parts) > 1:
        return as_region(masks, _fitting(masks, lifted))
    if not lifted.units or not isinstance(masks, list | tuple) or not masks:
        return as_region(masks, lifted.x)
    rows = list(masks) if _is_row(masks[0]) else [masks] if _is_row(masks) else None
    if rows is None:
        return as_region(masks, lifted.x)
    natural = lifted.units[0]
    sizes = [len(names) for names in natural.names]
    if [len(row) for row in rows] != sizes:
        raise InputError(
            Code.MASK,
            f"There is one flag for every {natural.kind}",
            got=f"{[len(row) for row in rows]} flags",
            expected=f"{sizes}",
        )
    shape = (len(lifted.x), *lifted.x.shape[2:]) if lifted.x.ndim > 2 else tuple(lifted.x.shape)
    found = torch.zeros(shape, dtype=torch.bool, device=lifted.x.device)
    for sample, row in enumerate(rows):
        flags = as_region(list(row), torch.zeros(1, len(row)))[0].to(found.device)
        labels = natural.labels[sample] if lifted.x.ndim == 2 else natural.labels[sample, 0]
        found[sample] = (labels >= 0) & flags[labels.clamp_min(0)]
    return found


def _fitting(masks: Any, lifted: Lifted) -> Tensor:
    """The one of several packed inputs that masks are as large as; all of them where none is."""
    first = masks[0] if isinstance(masks, list | tuple) and masks else masks
    axes = tuple(np.asarray(first.cpu() if isinstance(first, Tensor) else first).shape)
    blocks = [part.of(lifted.x) for part in lifted.parts if len(part.shape) > 1]
    fits = [one for one in blocks if axes[-(one.ndim - 2) :] == tuple(one.shape[2:])]
    return fits[0] if len(fits) == 1 else lifted.x


def _is_row(given: Any) -> bool:
    """Whether this is one sample's flags."""
    flat = given.tolist() if isinstance(given, Tensor | np.ndarray) and given.ndim == 1 else given
    return (
        isinstance(flat, list | tuple)
        and bool(flat)
        and all(isinstance(f, bool | int | np.bool_) for f in flat)
    )


def labels(problem: Problem, explanation: Any) -> Tensor:
    """(b,) the true class of each sample.

    Raises:
        InputError: none were given, or not one class number per sample.
    """
    given = getattr(explanation, "diagnostics", {}).get(LABEL)
    if given is None:
        raise InputError(
            Code.LABELS,
            "This metric needs the true class of every sample",
            got="no labels",
            expected=f"({len(problem.x)},) class numbers",
            fix="Pass labels= with one class number per sample",
        )
    return labels_of(given, len(problem.x), problem.task.class_index).to(problem.x.device)


def check_asked(
    problem: Problem, explanation: Any, cards: Sequence[Card], modality: str | None = None
) -> None:
    """Refuse what cannot be measured before anything is computed.

    Args:
        problem: the samples.
        explanation: their maps.
        cards: of the metrics.
        modality: of the whole task, where the problem is about one of its inputs.

    Raises:
        InputError: maps of other samples, or no masks or labels where a metric needs them.
        SpecError: a metric that does not apply to the modality, or needs the method of a foreign map.
    """
    check_map(explanation.attribution, problem.x)
    x = getattr(explanation, "x", None)
    if x is not None and (x.shape != problem.x.shape or not torch.equal(x.to(problem.x), problem.x)):
        raise InputError(
            Code.SAMPLES,
            "The maps explain other samples than these",
            fix="Explain the same inputs, in the same order",
        )
    checks = {
        "mask": lambda: region(problem, explanation),
        "label": lambda: labels(problem, explanation),
        "method": lambda: method_of(explanation),
    }
    modality = problem.task.modality if modality is None else modality
    for card in cards:
        if modality not in card.modalities:
            raise SpecError(
                Code.UNSUPPORTED,
                f"The metric {card.name!r} does not apply to this modality",
                got=repr(modality),
                expected=" or ".join(map(repr, card.modalities)),
            )
        for need in card.needs:
            if need in checks:
                checks[need]()


Processing = Annotated[Literal["positive", "absolute", "minmax", "signed"], "post-processing of a map"]


def heat(problem: Problem, explanation: Any, of: str) -> Float[Tensor, "b p"]:
    """(b, positions) float64: the map summed over channels, then post-processed.

    Clipped at 0 (``"positive"``), ``"absolute"``, from 0 for the smallest to 1 for the largest value
    (``"minmax"``; a constant map is 0), or as it is (``"signed"``).
    """
    flat = check_map(explanation.attribution, problem.x).double()
    flat = flat.sum(1).flatten(1) if problem.x.ndim > 2 else flat[:, 0]
    if of == "minmax":
        low, high = flat.amin(1, keepdim=True), flat.amax(1, keepdim=True)
        return (flat - low) / torch.where(high > low, high - low, torch.ones_like(low))
    return {"positive": flat.clamp_min(0), "absolute": flat.abs(), "signed": flat}[of]


def soft_mask(problem: Problem, explanation: Any) -> Tensor:
    """(b, 1, *space) or (b, d) the positive part of the map over its maximum; 0 where there is none."""
    strength = heat(problem, explanation, "positive")
    return positions(strength / strength.amax(1, keepdim=True).clamp_min(1e-300), problem.x).to(problem.x)
