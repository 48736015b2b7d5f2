"""What a model's numbers say: the one place where outputs of every kind become classes.

====================  ==============  ==========================================================
kind                  columns         classes that a target is one of, and their scores
====================  ==============  ==========================================================
``"logits"``          C ≥ 2           C, the outputs
``"probabilities"``   C ≥ 2           C, their logarithms
``"probabilities"``   1               2: log (1 − p) and log p
``"sigmoid"``         1               2: 0 and z; a logit alone is z for class 1 and −z for class 0
``"multilabel"``      C ≥ 1           2 for every label, not said and said: 0 and z
``"presence"``        C ≥ 1           2 for every label: log (1 − p) and log p; alone p itself
``"regression"``      any             none: the output itself is explained
``"logits"``          1               one: where a probability is asked for, that of a yes, with a note
                                      where nobody said so
====================  ==============  ==========================================================

The columns are axis 1; outputs of more axes, such as (n, C, h, w), have classes at every place.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from abe.errors import Code, ModelError, SpecError
from abe.objectives import gather, log_probabilities

OutputKind = Literal["auto", "logits", "probabilities", "sigmoid", "multilabel", "presence", "regression"]

OF_LABELS = ("multilabel", "presence")
"""Kinds whose columns are labels of their own, each said or not."""
SAID = 0.5
"""Probability above which a label of its own is said."""

SUM_TOLERANCE = 1e-2
"""How far the probabilities of a row may be from 1: half precision rounds this much."""
UNSAID = (
    "The one output of the model is taken for the logit of a yes where a probability is asked for; "
    'pass output_kind= to the task: "sigmoid" if that is so, "probabilities" or "regression" if not'
)
SAY_KIND = (
    'Pass output_kind= to the task: "sigmoid" where the output is the logit of class 1, "probabilities" '
    'where it is its probability, "regression" where it is neither'
)


def check_kind(kind: Any) -> None:
    """Refuse a word that is no kind of output.

    Raises:
        SpecError: it is none; the kinds are listed.
    """
    if not isinstance(kind, str) or kind not in get_args(OutputKind):
        raise SpecError(
            Code.BAD_PARAMETER,
            "There is no such output_kind",
            got=repr(kind),
            expected=", ".join(map(repr, get_args(OutputKind))),
        )


def class_names(labels: Any) -> list[str] | None:
    """Names by class number, from a list, an array, a column of a table, or a dict {number: name}.

    Raises:
        SpecError: one text, nested lists, names without numbers, or numbers with gaps.
    """
    if labels is None:
        return None
    found = _by_number(labels) if isinstance(labels, Mapping) else labels
    if hasattr(found, "__array__"):
        found = np.asarray(found).tolist()
    usable = isinstance(found, Sequence | type({}.values())) and not isinstance(found, str | bytes)
    names = list(found) if usable else []
    bad = [one for one in names if isinstance(one, bool) or not isinstance(one, str | int | np.integer)]
    if not usable or bad:
        raise SpecError(
            Code.BAD_PARAMETER,
            "labels= are the names of the classes, one each",
            got=repr(bad[0] if bad else labels)[:60],
            expected="a list of names, or a dict {number: name}",
        )
    return [str(name) for name in names]


def _by_number(labels: Mapping[Any, Any]) -> list[Any]:
    """The names of a dict {number: name} in order; configuration files write the numbers as text."""
    try:
        numbered = {int(key): name for key, name in labels.items() if not isinstance(key, float | bool)}
    except (TypeError, ValueError):
        numbered = {}
    if len(numbered) != len(labels) or sorted(numbered) != list(range(len(numbered))):
        missing = sorted(set(range(len(labels))) - set(numbered))
        raise SpecError(
            Code.BAD_PARAMETER,
            "A dict of labels gives the name of every class number",
            got=f"no number {missing[0]} among {list(labels)[:8]}" if missing else f"keys {list(labels)[:8]}",
            expected="{0: name, 1: name, …} without gaps",
        )
    return [numbered[number] for number in range(len(numbered))]


def one_for_two(kind: OutputKind, outputs: Tensor) -> bool:
    """Whether a single column speaks of two classes."""
    return kind in ("sigmoid", "probabilities") and outputs.ndim > 1 and outputs.shape[1] == 1


def sizes(kind: OutputKind, outputs: Tensor) -> tuple[int, ...]:
    """How many targets there are along every axis of the output."""
    axes = tuple(outputs.shape[1:])
    return (2, *axes[1:]) if one_for_two(kind, outputs) else axes


def told_apart(kind: OutputKind, outputs: Any) -> int:
    """How many classes (of ``"multilabel"``: labels) a target can be; 0 where the outputs are no classes."""
    if not isinstance(outputs, Tensor) or outputs.ndim < 2 or kind == "regression":
        return 0
    if kind not in OF_LABELS and outputs.shape[1] == 1 and not one_for_two(kind, outputs):
        return 0
    return sizes(kind, outputs)[0]


def check_classes(kind: OutputKind, outputs: Any, what: str = "", *, apart: bool = False) -> None:
    """Refuse to read classes from outputs that have none.

    Args:
        kind: what the outputs are.
        outputs: what the model returned.
        what: who asks for classes.
        apart: it needs classes that are told apart, not only the probability of one.

    Raises:
        SpecError: UNSUPPORTED for a regression; OUTPUT_KIND for one output where classes are told apart.
    """
    if kind == "regression":
        raise SpecError(
            Code.UNSUPPORTED,
            "A regression has no class probabilities",
            got=what or None,
            fix='Choose an objective or metric that reads the output, such as "logit"',
        )
    if apart and isinstance(outputs, Tensor) and outputs.ndim > 1 and not told_apart(kind, outputs):
        raise SpecError(
            Code.OUTPUT_KIND,
            "One output can be a logit, a probability or a plain number, so it tells no classes apart yet",
            got=what or f"outputs of shape {tuple(outputs.shape)}",
            fix=SAY_KIND,
        )


def columns(kind: OutputKind, outputs: Tensor) -> Tensor:
    """(n, C, …) the outputs with a column for every class: of two, the first is 1 − p or 0."""
    outputs = _real(outputs)
    if not one_for_two(kind, outputs):
        return outputs
    first = 1 - outputs if kind == "probabilities" else torch.zeros_like(outputs)
    return torch.cat([first, outputs], 1)


def class_scores(kind: OutputKind, outputs: Tensor) -> Tensor:
    """(n, C, …) a score per class: the outputs, or the logarithm of probabilities."""
    found = columns(kind, outputs)
    return _log(found) if kind == "probabilities" else found


def _log(p: Tensor) -> Tensor:
    return p.clamp_min(torch.finfo(p.dtype).tiny).log()


def choice(
    kind: OutputKind, outputs: Tensor, target: Tensor, *, alone: bool = False
) -> tuple[Tensor, Tensor]:
    """The classes that a target is one of: scores (n, C) and the target's entry (n,) among them.

    The log-softmax of the scores are the log-probabilities, whatever the kind. Two classes of one logit z
    have the scores 0 and z; where the target's is read ``alone``, it counts from the other class: −z or z.

    Args:
        kind: what the outputs are.
        outputs: (n, C, …) of the model.
        target: (n,) or (n, m) the entries asked for: a class, and its place where outputs have places.
        alone: no other score is read beside the target's.
    """
    outputs = _real(outputs)
    if target.ndim > 1:
        rows = torch.arange(len(outputs), device=outputs.device)
        outputs, target = outputs[(rows, slice(None), *target[:, 1:].unbind(1))], target[:, 0]
    if kind == "presence" and alone:
        return outputs, target
    if kind in OF_LABELS:
        own = gather(outputs, target)
        pair = [_log(1 - own), _log(own)] if kind == "presence" else [torch.zeros_like(own), own]
        return torch.stack(pair, 1), torch.ones_like(target)
    if kind != "sigmoid" or not alone or not one_for_two(kind, outputs):
        return class_scores(kind, outputs), target
    return torch.cat([outputs, outputs], 1) * torch.stack([target - 1, target], 1).to(outputs), target


def all_log_probabilities(kind: OutputKind, outputs: Tensor) -> Tensor:
    """(n, C, …) log-probability of every class, or of every label on its own.

    Raises:
        SpecError: there are no classes.
    """
    check_classes(kind, outputs)
    outputs = _real(outputs)
    if kind == "multilabel":
        return F.logsigmoid(outputs)
    if kind == "presence":
        return _log(outputs)
    if kind == "sigmoid":
        return torch.cat([F.logsigmoid(-outputs), F.logsigmoid(outputs)], 1)
    return class_scores(kind, outputs) if kind == "probabilities" else log_probabilities(outputs)


def chances(kind: OutputKind, outputs: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities (n, C) of the classes that a target is one of, and its entry among them."""
    if kind not in OF_LABELS and target.ndim == 1:
        return all_log_probabilities(kind, outputs), target
    check_classes(kind, outputs)
    scores, entry = choice(kind, outputs, target)
    return torch.log_softmax(scores, 1), entry


def predicted(kind: OutputKind, outputs: Tensor) -> Tensor:
    """(n,) the most probable class, or the most probable label, of outputs (n, C)."""
    if kind == "sigmoid":
        return (outputs[:, 0] > 0).long()
    if one_for_two(kind, outputs):
        return (outputs[:, 0] > 0.5).long()
    return (outputs.int() if outputs.dtype == torch.bool else outputs).argmax(1)


def says(kind: OutputKind, outputs: Tensor, target: Tensor, level: float = SAID) -> Tensor:
    """(n,) whether outputs (n, C) say the target: it is predicted, or a label of its own is likely enough.

    Args:
        kind: what the outputs are.
        outputs: (n, C) of the model.
        target: (n,) the classes asked for.
        level: probability above which a label is said, where outputs are probabilities of labels.
    """
    if kind in OF_LABELS:
        return gather(outputs, target) > (0 if kind == "multilabel" else level)
    return predicted(kind, outputs) == target


def kind_of(outputs: Any, names: int | None) -> OutputKind | None:
    """What outputs are as far as these rows tell; None for one output that two names leave open.

    Args:
        outputs: what the model returned for some rows.
        names: how many class names the task has.
    """
    if not isinstance(outputs, Tensor) or outputs.ndim != 2 or not outputs.is_floating_point():
        return "logits"
    if outputs.shape[1] > 1:
        return "logits" if bool((outputs < 0).any()) or not _sum_to_1(outputs, 1e-4) else "probabilities"
    if names != 2:
        return "logits"
    return None if _within_unit(outputs) else "sigmoid"


def _real(outputs: Tensor) -> Tensor:
    """The outputs as floating-point numbers; a model may end in a comparison."""
    return outputs if outputs.is_floating_point() or outputs.is_complex() else outputs.float()


def _sum_to_1(outputs: Tensor, tolerance: float) -> bool:
    sums = outputs.sum(1)
    return bool(torch.isclose(sums, torch.ones_like(sums), atol=tolerance).all())


def _within_unit(outputs: Tensor) -> bool:
    low, high = torch.aminmax(outputs.detach())
    return float(low) >= 0 and float(high) <= 1


def check_outputs(kind: OutputKind, outputs: Any, labels: Sequence[str] | None) -> None:
    """Refuse outputs that cannot be of their kind, and names that do not fit them.

    Raises:
        ModelError: OUTPUT_KIND for values or a number of columns that the kind excludes.
        SpecError: LABELS for another number of names than classes.
    """
    if not isinstance(outputs, Tensor) or outputs.ndim < 2:
        return
    shape = tuple(outputs.shape)
    if kind == "sigmoid" and shape[1] != 1:
        raise ModelError(
            Code.OUTPUT_KIND,
            'output_kind="sigmoid" is one output for two classes',
            got=f"outputs of shape {shape}",
            expected=f"({shape[0]}, 1)",
            fix='Several outputs are "logits", or "multilabel" where each has a sigmoid of its own',
        )
    if kind == "probabilities" and outputs.is_floating_point():
        _check_probabilities(outputs)
    _check_names(kind, outputs, labels)


def _check_probabilities(outputs: Tensor) -> None:
    low, high = (float(edge) for edge in torch.aminmax(outputs.detach()))
    outside = low < -SUM_TOLERANCE or high > 1 + SUM_TOLERANCE
    if not outside and (outputs.shape[1] == 1 or _sum_to_1(outputs.detach(), SUM_TOLERANCE)):
        return
    sums = outputs.detach().sum(1)
    raise ModelError(
        Code.OUTPUT_KIND,
        "The outputs are no probabilities of classes",
        got=f"values from {low:.4g} to {high:.4g}"
        if outside
        else f"rows that sum to {float(sums.min()):.4g} … {float(sums.max()):.4g}",
        expected="values from 0 to 1 that sum to 1 over the classes",
        fix='Pass output_kind="logits"; for labels that are independent, the model without its sigmoid and '
        'output_kind="multilabel"',
    )


def _check_names(kind: OutputKind, outputs: Tensor, labels: Sequence[str] | None) -> None:
    if labels is None or getattr(labels, "open", False):  # a vocabulary may be longer than its tokenizer's
        return
    there = sizes(kind, outputs)
    fits = len(labels) == there[0] if outputs.ndim == 2 else len(labels) in there
    if not fits:
        one = kind == "logits" and outputs.shape[1] == 1
        raise SpecError(
            Code.LABELS,
            "The task's labels do not fit the model's outputs",
            got=f"{len(labels)} names for outputs of shape {tuple(outputs.shape)}",
            expected=f"{there[0]} names",
            fix=SAY_KIND if one else "Pass one name per class, by class number",
        )


def doubt(kind: OutputKind, outputs: Any) -> str:
    """A remark where outputs that are said to be logits look as if a sigmoid had been taken already."""
    if kind not in ("sigmoid", "multilabel") or not isinstance(outputs, Tensor) or not len(outputs):
        return ""
    if not outputs.is_floating_point() or not _within_unit(outputs):
        return ""
    other = 'pass output_kind="probabilities"' if kind == "sigmoid" else "leave the sigmoid out"
    return (
        f'All outputs lie between 0 and 1 and are read as logits, as output_kind="{kind}" says; '
        f"where the model ends in a sigmoid, {other}"
    )
