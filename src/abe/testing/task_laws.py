"""Laws of attribution methods on tasks of every kind: texts, prompts, tables, series, regions and boxes."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from abe.api import explain
from abe.errors import AbeError
from abe.explanation import Explanation
from abe.registry import Method, methods
from abe.testing.known_tasks import KNOWN_TASKS, KnownTask
from abe.testing.laws import Numbers, declared_failure, ensure
from abe.testing.methods import COMPLETE, FEW, FINER, METHOD_LAWS, ROW, SOME, TIGHT, MethodCase
from abe.testing.snapshot import Snapshot
from abe.types import Card, Draws

ATTENTION = frozenset({"attention", "cross_attention"})
LENGTHS = ("text", "language", "series")
"""Kinds whose samples may be of different lengths."""


COUNTS = {"steps": FEW, "samples": FEW, "rounds": FEW, "evaluations": SOME}
"""Parameters that say how finely is looked, and what is enough of them for laws that do not depend on it."""


def _fewer(name: str, number: int) -> int:
    return min(number, COUNTS[name] - number % 2)


def _finer(name: str, number: int) -> int:
    return number * FINER + number % 2 if name in ("steps", "samples") else number


def _counting(method: Method, how: Callable[[str, int], int] = _fewer) -> Method:
    """The method as it was given but for its `COUNTS`; defaults stay defaults, which the task may change."""
    if method.name not in methods.names():
        return method
    params = dict(method.params)
    given = {k: v for k, v in params.items() if k in method.given}
    counts = {k: how(k, params[k]) for k in COUNTS if isinstance(params.get(k), int)}
    return methods.build(method.name, **{**given, **counts})


def _net(known: KnownTask, card: Card) -> nn.Module:
    attends = bool(ATTENTION & set(card.needs)) and known.attending is not None
    return (known.attending if attends and known.attending else known.additive)()


def _explained(
    known: KnownTask, net: nn.Module, method: Method, raw: Sequence[Any], draws: Draws | None = None
) -> Explanation:
    how: dict[str, Any] = {"target": known.target, "execution": "model", "progress": False, **known.ask()}
    return explain(known.task(net), known.together(raw), method, draws=draws, **how)


def _gap(together: Tensor, alone: Tensor) -> float:
    """Largest difference of a row among others and alone, as a share of its maximum; less than 1e-12 is 0."""
    row = together[tuple(slice(0, size) for size in alone.shape[1:])]
    gap = float((row - alone[0]).abs().max())
    return gap / max(float(alone.abs().max()), float(row.abs().max()), 1e-300) if gap > 1e-12 else 0.0


def _fits(found: Explanation) -> bool:
    """Whether the map is of the samples' shape, or has the one channel that results of the task hold."""
    channels = {1} if found.modality == "language" else {found.x.shape[1]}
    return found.attribution.shape[1] in channels and found.attribution[:, 0].shape == found.x[:, 0].shape


def _missed(found: Explanation) -> float:
    """The worst |residual| as a share of all that was given out: the score change itself may be 0.

    Of several inputs that were explained in turn, each has a score change of its own.
    """
    if found.residual_absolute is None:
        sides = {part.name: found.diagnostics.get(f"{part.name}.delta") for part in found.parts}
        changes = {name: delta for name, delta in sides.items() if delta is not None}
        if not changes or len(changes) < len(sides):
            return math.inf
        maps = {name: found.part(name).flatten(1) for name in changes}
        lacks = [(changes[n] - one.sum(1)).abs() / one.abs().sum(1) for n, one in maps.items()]
        return float(torch.stack(lacks).max())
    return float((found.residual_absolute.abs() / found.attribution.abs().flatten(1).sum(1)).max())


def _runs_on(*kinds: str) -> Callable[[MethodCase], str]:
    """Whether the card says that the method runs on one of the kinds, and the kit has what it needs there."""

    def applies(case: MethodCase) -> str:
        found = [KNOWN_TASKS[kind] for kind in kinds if kind in case.card.modalities]
        if not found:
            return "the card says that it does not run there"
        if "training" in case.card.needs:
            return "it is trained first"
        missing = bool(ATTENTION & set(case.card.needs)) and all(one.attending is None for one in found)
        return "the kit has no such model with attention" if missing else ""

    return applies


# ---------------------------------------------------------------- a law for every kind

_READING = (
    "`rows` is the largest difference of a sample alone and in a batch, as a share of its maximum; "
    f"{ROW:g} is allowed. `missed` is what the map lacks of the score change, as a share of the sum of its "
    f"sizes, where completeness is claimed; {COMPLETE:g} is allowed. `finite` says whether all numbers are, "
    "`changed` names what the call left changed in the model. `refused` is the code of an error that says "
    "why the method does not run on such a task."
)


def _law_of(kind: str, says: str) -> None:
    def check(case: MethodCase) -> Numbers:
        known, card = KNOWN_TASKS[kind], case.card
        net, method, raw = _net(known, card), _counting(case.method), known.raw[:2]
        before = Snapshot(net)
        try:
            found = _explained(known, net, method, raw)
        except AbeError as problem:
            return ensure(not before.changes(), refused=str(problem.code), changed=before.changes())
        rows = max(
            _gap(found.attribution[i], _explained(known, net, method, [one]).attribution)
            for i, one in enumerate(raw)
        )
        missed = 0.0
        if "completeness" in card.guarantees:
            missed = _missed(_explained(known, net, _counting(case.method, _finer), raw))
        finite = bool(torch.isfinite(found.attribution).all()) and _fits(found)
        changed = before.changes()
        right = finite and rows <= ROW and missed <= COMPLETE and not changed
        return ensure(right, max(rows, missed), finite=finite, rows=rows, missed=missed, changed=changed)

    check.__doc__ = says
    METHOD_LAWS.add(f"on_{kind}", _READING, when=_runs_on(kind))(check)


_law_of("text", "On texts it runs as promised: rows alone, completeness where claimed, the model as before.")
_law_of("language", "On prompts it runs as promised: the same, of a generated token.")
_law_of("tabular", "On rows of a table it runs as promised: the same.")
_law_of("series", "On series it runs as promised: the same.")
_law_of("tensor", "On points it runs as promised: the same.")
_law_of("segmentation", "On a region of a segmentation it runs as promised: the same.")
_law_of("detection", "On a box of a detector it runs as promised: the same.")
_law_of("multimodal", "On pairs of a photograph and a caption it runs as promised: the same.")


# ---------------------------------------------------------------- known answers


def _exact(case: MethodCase) -> str:
    claims = "additivity" in case.card.guarantees or declared_failure(case.card, "additivity")
    return _runs_on(*KNOWN_TASKS)(case) if claims else "the card does not claim it"


@METHOD_LAWS.add(
    "additivity",
    "The numbers are the largest difference from the known share of a word (w·e), a column, a window of a "
    f"series, a point, a cell of a photograph, as a share of the largest; {TIGHT:g} is allowed.",
    when=_exact,
)
def additivity(case: MethodCase) -> Numbers:
    """Of a score that is a sum over units, each unit gets what its own term changes."""
    gaps: dict[str, float] = {}
    for kind, known in KNOWN_TASKS.items():
        if kind in case.card.modalities:
            net = known.additive()
            gaps[kind] = known.far(_explained(known, net, _counting(case.method), known.raw), net)
    return ensure(max(gaps.values()) <= TIGHT, max(gaps.values()), **gaps)


# ---------------------------------------------------------------- what is fixed, and lengths


def _moves(case: MethodCase) -> str:
    card = case.card
    axioms = ("completeness", "additivity")
    moves = any(one in card.guarantees or declared_failure(card, one) for one in axioms)
    if not moves and card.family != "local surrogate":
        return "it is no path from a reference and no game of units"
    return _runs_on("text")(case)


@METHOD_LAWS.add(
    "fixed",
    "`largest` is the largest attribution of a special token or of padding; it must be exactly 0. Take "
    "references by problem.reference, which never moves what is fixed.",
    when=_moves,
)
def fixed(case: MethodCase) -> Numbers:
    """What never changes, as special tokens and padding, gets exactly 0."""
    known = KNOWN_TASKS["text"]
    found = _explained(known, _net(known, case.card), _counting(case.method), known.raw)
    outside = (found.labels < 0).expand_as(found.attribution) if found.labels is not None else None
    largest = float("nan") if outside is None else float(found.attribution[outside].abs().max())
    return ensure(largest == 0, largest, largest=largest)


@METHOD_LAWS.add(
    "lengths",
    "The numbers are the largest difference of a short sample alone and among longer ones, by kind, as a "
    f"share of its maximum; {ROW:g} is allowed. `text_padding` and its kin are the largest "
    "attribution behind its end, which must be 0.",
    when=_runs_on(*LENGTHS),
)
def lengths(case: MethodCase) -> Numbers:
    """A text or series among longer ones gets what it gets alone, and nothing behind its end."""
    numbers: dict[str, Any] = {}
    worst = 0.0
    for kind in LENGTHS:
        known, method = KNOWN_TASKS[kind], _counting(case.method)
        net = _net(known, case.card)
        try:
            found = _explained(known, net, method, known.raw).attribution[-1]
        except AbeError as problem:
            numbers[kind] = f"refused: {problem.code}"
            continue
        alone = _explained(known, net, method, known.raw[-1:]).attribution
        numbers[kind] = _gap(found, alone)
        numbers[f"{kind}_padding"] = float(found[:, alone.shape[2] :].abs().max())
        worst = max(worst, numbers[kind], numbers[f"{kind}_padding"])
    return ensure(worst <= ROW, worst, **numbers)


TASK_LAWS = (*(f"on_{kind}" for kind in KNOWN_TASKS), "additivity", "fixed", "lengths")
"""Names of the laws that are checked on tasks of every kind, for ``check_method(…, only=TASK_LAWS)``."""
