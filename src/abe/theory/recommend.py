"""`recommend`: which method to believe for a model and data, by a race with honest statistics."""

import re
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

from torch import Tensor

from abe.errors import Code, InputError, SpecError, note
from abe.metrics.evaluation.compare import methods_of
from abe.objectives import as_objective
from abe.progress import Progress
from abe.registry import Method
from abe.task.base import Lifted, Task
from abe.task.start import Given, entrance
from abe.task.targets import labels_of
from abe.theory.criteria import Criterion, criteria_of
from abe.theory.flips import Flips
from abe.theory.race import Race, Runner, control_runners, larger_is_better
from abe.theory.ranking import behind, joint_p, rank, set_of_best, units_of
from abe.theory.recommendation import Candidate, Recommendation, Standing

CANDIDATES: tuple[Any, ...] = (
    *("integrated_gradients", "smoothgrad", "gradient_x_input", "lrp_epsilon", "deeplift", "guided_ig"),
    *("grad_cam", "layer_cam", "chefer_relevance", "occlusion", "shapley", "mfaba"),
)
"""What races unless methods are named; those that a model has nothing for are left out."""
SETTINGS: dict[str, dict[str, Any]] = {"usual": {}, "mean": {"baseline": "mean"}}
"""Under what criteria are measured unless `settings` says: the metric's own, and another filler."""
USUAL = "usual"
CELLS = 14
"""Cells along each axis by which pictures are occluded unless methods are named."""
TIME = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(s|sec|seconds?|m|min|minutes?|h|hours?)?\s*")
SIZES = {"s": 1.0, "m": 60.0, "h": 3600.0}


@entrance
def recommend(
    task: Given,
    data: Any,
    methods: Sequence[Any] | None = None,
    criteria: Any = "faithful",
    *,
    budget: Any = "2min",
    settings: Any = None,
    groups: Any = None,
    target: Any = None,
    labels: Any = None,
    masks: Any = None,
    objective: Any = None,
    margin: float = 0.05,
    confidence: float = 0.95,
    seed: int = 0,
    progress: bool | Callable[[float], None] = True,
    **asked: Any,
) -> Recommendation:
    """Race methods over samples, and say which may be the best, how surely, and what to call.

    A random explainer and, for pictures, an edge detector run along. All methods see the same samples in
    blocks; after a block, those that cannot be the best by any criterion drop out. Nothing is averaged over
    criteria: the first decides, and the front says who is dominated over all.

    Args:
        task: the model and how to read it.
        data: samples, as for `abe.explain`.
        methods: names, (name, parameters) pairs or values; one or two of every family by default.
        criteria: ``"faithful"``, ``"medical"``, ``"debugging"``, ``"realtime"``, or metrics, the one that
            decides first.
        budget: wall time: seconds, or text such as ``"90s"`` or ``"5min"``.
        settings: what each criterion is measured under, by name, such as ``{"blur": {"baseline": "blur"}}``
            beside the usual one; two by default; ``{}`` for the usual one alone.
        groups: of the samples, such as the film of a frame: what belongs together counts once.
        target: class per sample or for all; the prediction by default.
        labels: (n,) true classes, for criteria that need them.
        masks: (n, h, w) true regions, likewise.
        objective: the explained score; the task's usual one by default.
        margin: difference that does not matter, as a share of the span from random to the best.
        confidence: of the statement as a whole.
        seed: of all draws.
        progress: show a bar after two seconds, or a function called with samples done.
        **asked: what of the samples is asked about, where the task asks for it.

    Raises:
        SpecError: unknown names, contradictory settings, or a budget that is too small for any method.
        InputError: fewer than two samples, missing labels, or groups of another number.
        AbeError: no method finished; the first error is raised.

    Example:
        >>> import torch, abe
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2, bias=False))
        >>> task, x = abe.image_task(model), torch.rand(8, 3, 2, 2)
        >>> found = abe.recommend(task, x, ["gradient_x_input", "gradient"], ["gap"], progress=False)
        >>> len(found.standings)
        1
    """
    began = time.perf_counter()
    allowed = seconds_of(budget)
    chosen = criteria_of(criteria, task, margin=margin)
    under = _settings(settings, chosen)
    lifted = task.lift(data, **asked)
    n = len(lifted.x)
    if n < 2:
        raise InputError(
            Code.SAMPLES,
            "One sample tells no two methods apart",
            got=str(n),
            expected="at least 2, better 32",
        )
    task.check(lifted.x)
    truth = None if labels is None else labels_of(labels, n, task.class_index)
    _check_truth(chosen, truth, masks)
    together = _groups(groups, n)
    entered = methods_of(_candidates(lifted.x) if methods is None else methods, task)
    runners = [Runner(name, method, optimises=_optimises(method)) for name, method in entered.items()]
    runners += control_runners(task, lifted.x, seed)
    race = Race(
        task=task,
        samples=lifted,
        objective=as_objective(task.scored(objective)),
        seed=seed,
        runners=runners,
        criteria=chosen,
        settings=under,
        confidence=confidence,
        ends=began + allowed,
        target=_targets(task, target, n),
        labels=truth,
        masks=None if masks is None else _masks(masks, lifted),
        units=together,
    )
    with Progress("recommend", enabled=progress is True) as bar:
        bar.total = float(n * len(runners))
        race.advance = progress if callable(progress) else bar.advance
        race.relabel = bar.relabel
        race.run()
    _check_finished(race)
    return _concluded(
        race, criteria, time.perf_counter() - began, allowed, absent_is_told=methods is not None
    )


def seconds_of(budget: Any) -> float:
    """Seconds of a budget: a number, or text such as ``"90s"``, ``"2min"``, ``"1h"``.

    Raises:
        SpecError: anything else, or none at all.
    """
    if isinstance(budget, int | float) and not isinstance(budget, bool) and 0 < budget < float("inf"):
        return float(budget)
    found = TIME.fullmatch(budget) if isinstance(budget, str) else None
    if found is None or float(found[1]) <= 0:
        raise SpecError(
            Code.BAD_PARAMETER,
            "budget= is a time",
            got=repr(budget),
            expected='seconds, or "90s", "2min", "1h"',
        )
    return float(found[1]) * SIZES[(found[2] or "s")[0]]


# --- what was asked ---------------------------------------------------------------------------------------


def _candidates(x: Tensor) -> list[Any]:
    """The usual methods; pictures are occluded by cells, not one pixel after the other."""
    cells = ("occlusion", {"units": ("grid", {"n": CELLS})})
    fine = x.ndim == 4 and min(x.shape[2:]) > 2 * CELLS
    return [cells if name == "occlusion" and fine else name for name in CANDIDATES]


def _settings(given: Any, criteria: Sequence[Criterion]) -> dict[str, dict[str, Any]]:
    if given is None:
        return SETTINGS
    if not isinstance(given, Mapping) or not all(isinstance(one, Mapping) for one in given.values()):
        raise SpecError(
            Code.BAD_PARAMETER,
            "settings= are parameters of criteria, by a name for each",
            got=repr(given)[:60],
            expected='such as {"blur": {"baseline": "blur"}, "patches": {"unit": "patch"}}',
        )
    known = {key for one in criteria for key, _ in one.metric.params}
    for name, changed in given.items():
        foreign = [key for key in changed if key not in known]
        if foreign:
            raise SpecError(
                Code.UNKNOWN_PARAMETER,
                f"No criterion has the parameter {foreign[0]!r}",
                got=f"the setting {name!r}",
                expected=", ".join(sorted(known)),
            )
    return {USUAL: {}, **{str(name): dict(changed) for name, changed in given.items()}}


def _check_truth(criteria: Sequence[Criterion], labels: Tensor | None, masks: Any) -> None:
    for one in criteria:
        needs = () if one.metric.card is None else one.metric.card.needs
        for word, given, code in (("label", labels, Code.LABELS), ("mask", masks, Code.MASK)):
            if word in needs and given is None:
                raise InputError(
                    code,
                    f"The criterion {one.name!r} needs the true {'class' if word == 'label' else 'region'} "
                    "of every sample",
                    got=f"no {word}s",
                    fix=f"Pass {word}s=, or choose other criteria",
                )


def _groups(groups: Any, n: int) -> list[Any] | None:
    if groups is None:
        return None
    listed: Any = groups.tolist() if hasattr(groups, "tolist") else groups
    named = isinstance(listed, list | tuple) and all(isinstance(one, Hashable) for one in listed)
    if not named or len(listed) != n:
        raise InputError(
            Code.SHAPE,
            "groups= names the group of every sample",
            got=repr(groups)[:60],
            expected=f"{n} of them",
        )
    return list(listed)


def _targets(task: Task, target: Any, n: int) -> Any:
    return None if target is None else labels_of(target, n, task.class_index)


def _masks(masks: Any, lifted: Lifted) -> Tensor:
    from abe.metrics.evaluation.truth import region_of

    return region_of(masks, lifted)


def _optimises(method: Method) -> tuple[str, ...]:
    from abe import registry

    known = registry.methods
    return known.get(method.name).card.optimises if method.name in known.names() else ()


# --- what came out ----------------------------------------------------------------------------------------


def _check_finished(race: Race) -> None:
    methods = [one for one in race.runners if one.method is not None]
    if all(one.failed for one in methods):
        code, message = methods[0].failed or ("", "")
        raise SpecError(
            Code.UNSUPPORTED,
            "No method finished",
            got=f"of {methods[0].name}: {message} [{code}]",
            fix="Name other methods, or try one by abe.explain",
        )
    if all(len(race.measured(criterion)) < 2 for criterion in race.criteria):
        raise SpecError(
            Code.BAD_PARAMETER,
            "One method alone is told from nothing by these criteria",
            got=", ".join(one.name for one in methods),
            fix="Name a second method, or a criterion that maps of a random explainer have too, such as gap",
        )


def _concluded(
    race: Race, criteria: Any, seconds: float, allowed: float, *, absent_is_told: bool
) -> Recommendation:
    standings = tuple(one for c in race.criteria if (one := _standing(race, c)) is not None)
    candidates = tuple(_candidate(race, one) for one in race.runners)
    if not absent_is_told:  # nobody asked for what this model has nothing for
        candidates = tuple(one for one in candidates if one.status != "failed")
    return Recommendation(
        standings=standings,
        candidates=candidates,
        front=_front(race, standings),
        samples=race.seen,
        available=len(race.samples.x),
        looks=tuple(race.looked),
        seconds=seconds,
        budget=allowed,
        interrupted=race.interrupted,
        criteria=criteria if isinstance(criteria, str) else "own",
        objective=str(race.objective),
        seed=race.seed,
        confidence=race.confidence,
        names=list(race.samples.names[: race.seen]),
        warnings=_warnings(race),
    )


def _standing(race: Race, criterion: Criterion) -> Standing | None:
    names = race.measured(criterion)
    if len(names) < 2:
        return None
    level = race.left
    tables = {
        name: larger_is_better(race.table(criterion, name, names), criterion)
        for name in race.settings
        if all((criterion.name, name, one) in race.scores for one in names)
    }
    table = tables[race.usual]
    groups = race.together(criterion)
    means = table.mean(0)
    top = float(means.max())
    low = float(means[names.index("random")]) if "random" in names else None
    span = top - low if low is not None and top > low else top - float(means.min())
    sign = 1 if criterion.metric.direction == "higher" else -1
    ranking = rank(
        table * sign,
        names,
        direction=criterion.metric.direction,
        groups=groups,
        margin=criterion.margin * span,
        confidence=1 - level,
        seed=race.seed,
    )
    units = {name: units_of(one, groups)[0] for name, one in tables.items()}
    flips = Flips.of(len(units[race.usual]), race.seed)
    place = int(means.argmax())
    sizes = len(table) / len(units[race.usual])
    intervals = behind(units[race.usual], place, flips, level=level)
    agrees = {race.usual: ranking.best[place]}
    for name in [name for name in units if name != race.usual]:
        agrees[name] = set_of_best(units[name], flips)[2][place] > level
    return Standing(
        criterion=criterion.name,
        direction=criterion.metric.direction,
        setting=race.usual,
        ranking=ranking,
        behind=tuple((low / sizes, high / sizes) for low, high in intervals),
        before=_before(race, criterion, names),
        agrees=agrees,
        joint=joint_p(list(units.values()), place, flips),
    )


def _before(race: Race, criterion: Criterion, last: Sequence[str]) -> dict[str, tuple[float, int]]:
    found: dict[str, tuple[float, int]] = {}
    for one in race.measured(criterion, whole=False):
        values = [v for v in race.scores[criterion.name, race.usual, one] if v == v]
        if one not in last and values:
            found[one] = sum(values) / len(values), len(values)
    return found


def _candidate(race: Race, one: Runner) -> Candidate:
    status, why = "finished", ""
    if one.method is None:
        status = "control"
    elif one.failed is not None:
        status, why = "failed", f"{one.failed[1]}"
    elif one.dropped is not None:
        status, why = "dropped", f"after {one.dropped} samples"
    elif one.aside:
        status, why = "set aside", one.aside
    graded = tuple(c.name for c in race.criteria if c.self_graded(one.optimises))
    return Candidate(
        name=one.name,
        spec=None if one.method is None else one.method.describe(),
        call="" if one.method is None else _call(one.method),
        seconds=one.seconds,
        status=status,
        why=why,
        self_graded=graded,
        notes=tuple(one.notes),
    )


def _call(method: Method) -> str:
    held = dict(method.params)
    said = "".join(f", {key}={held[key]!r}" for key in method.given if key in held)
    return f'abe.explain(task, x, "{method.name}"{said})'


def _front(race: Race, standings: Sequence[Standing]) -> tuple[str, ...]:
    """Methods that no other dominates: nowhere worse than the margin allows, and better by more somewhere."""
    names = [one.name for one in race.runners if one.method is not None and one.failed is None]
    whole = [name for name in names if all(name in one.ranking.names for one in standings)]
    return tuple(name for name in whole if not any(_dominates(standings, other, name) for other in whole))


def _dominates(standings: Sequence[Standing], first: str, second: str) -> bool:
    if first == second:
        return False
    level = max(1 - one.ranking.confidence for one in standings)
    pairs = [one.ranking.pair(first, second) for one in standings]
    clear = [
        one.verdict == "better" and one.difference > s.ranking.margin
        for one, s in zip(pairs, standings, strict=True)
    ]
    return all(one.p_low <= level for one in pairs) and any(clear)


def _warnings(race: Race) -> list[str]:
    found = []
    if race.seen < 32:
        text = f"{race.seen} samples: below 32, skewed scores may break the confidence: it is approximate"
        found.append(note(Code.SAMPLES, text))
    if race.interrupted:
        found.append(f"Interrupted after {race.seen} samples; what is said rests on those")
    aside = [one.name for one in race.runners if one.aside]
    if aside:
        found.append(
            note(Code.BUDGET, f"Set aside because the budget does not carry them: {', '.join(aside)}")
        )
    if race.seen < len(race.samples.x) and not race.interrupted and not race.decided:
        found.append(note(Code.BUDGET, f"The budget carried {race.seen} of {len(race.samples.x)} samples"))
    return found
