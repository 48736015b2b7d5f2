"""How robust a model is: accuracy over radii, distances, and what transfers between models."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from abe.checks import NotNegative, shown
from abe.engines.path.steps.parts import Ball
from abe.engines.runtime.evaluator import Evaluator
from abe.engines.runtime.request import pose, running
from abe.errors import Code, InputError, SpecError
from abe.progress import staged
from abe.registry import updates
from abe.robustness.attack import attack, resolve
from abe.robustness.chain import Chain, resized
from abe.sizes import Limits, OfRange, plain, span
from abe.task.base import Lifted, Task
from abe.task.lengths import identities
from abe.task.start import Given, as_task, entrance
from abe.task.targets import fitted, numbers_of

EPSILONS = tuple(OfRange(levels / 255) for levels in (0.5, 1, 2, 4, 8))
"""Radii of an evaluation unless told otherwise."""


@dataclass
class RobustnessCurve:
    """Accuracy of a model under an attack of growing radius.

    Attributes:
        attack: name and parameters.
        norm: ``"linf"`` or ``"l2"``.
        epsilons: radii in input units, rising; shares of the range where that of every channel differs and
            they were given so, as they are by default.
        correct: (b,) whether the model is right at the sample itself.
        broken_at: (b,) the smallest radius that succeeded, ∞ where none did.
        distance: (b,) size of the adversarial change in ``norm``, ∞ where none was found.
        queries: (b,) forward rows spent on each sample.
        names: of the samples.
    """

    attack: str
    norm: str
    epsilons: list[float]
    correct: Tensor
    broken_at: Tensor
    distance: Tensor
    queries: Tensor
    names: list[str]
    warnings: list[str] = field(default_factory=list)

    @property
    def clean_accuracy(self) -> float:
        """Share of samples that are right without an attack."""
        return float(self.correct.double().mean())

    @property
    def robust_accuracy(self) -> list[float]:
        """Per radius, share of all samples that are right and stay right."""
        held = [self.correct & (self.broken_at > eps) for eps in self.epsilons]
        return [float(one.double().mean()) for one in held]

    @property
    def success_rate(self) -> list[float]:
        """Per radius, share of the samples that were right whose label the attack changed."""
        if not bool(self.correct.any()):
            return [math.nan] * len(self.epsilons)
        won = [(self.broken_at <= eps)[self.correct] for eps in self.epsilons]
        return [float(one.double().mean()) for one in won]

    @property
    def median_distance(self) -> float:
        """Median over the samples that were right; ∞ where half or more were never fooled."""
        known = self.distance[self.correct].sort().values
        if len(known) == 0:
            return math.nan
        low, high = known[(len(known) - 1) // 2], known[len(known) // 2]
        return float((low + high) / 2)

    def table(self) -> Any:
        """A `rich.table.Table` with one line per radius."""
        from abe.robustness.tables import curve_table

        return curve_table(self)

    def to_dict(self) -> dict[str, Any]:
        """All numbers, per radius and per sample."""
        return {
            "attack": self.attack,
            "norm": self.norm,
            "epsilons": [float(eps) for eps in self.epsilons],
            "clean_accuracy": self.clean_accuracy,
            "robust_accuracy": self.robust_accuracy,
            "success_rate": self.success_rate,
            "median_distance": self.median_distance,
            "samples": [
                {
                    "name": n,
                    "correct": bool(c),
                    "broken_at": float(e),
                    "distance": float(d),
                    "queries": int(q),
                }
                for n, c, e, d, q in zip(
                    self.names, self.correct, self.broken_at, self.distance, self.queries, strict=True
                )
            ],
        }

    def plot(self, path: Any = None) -> Any:
        """A figure of accuracy over the radius; written to ``path`` where one is given."""
        from abe.report.robustness import plot_curve

        return plot_curve(self, path=path)


@dataclass
class TransferMatrix:
    """Which model's adversarial samples fool which model.

    Attributes:
        attack: name and parameters.
        models: names.
        rates: (m, m) share of samples made on the line's model that change the column's prediction,
            among those the column's model is right about; NaN where there is none.
        counts: (m, m) how many samples that is.
    """

    attack: str
    models: list[str]
    rates: Tensor
    counts: Tensor

    def table(self) -> Any:
        """A `rich.table.Table` with one line per model that samples were made on."""
        from abe.robustness.tables import transfer_table

        return transfer_table(self)

    def to_dict(self) -> dict[str, Any]:
        """All numbers by name."""
        rates = [dict(zip(self.models, line, strict=True)) for line in self.rates.tolist()]
        return {"attack": self.attack, "success_rate": dict(zip(self.models, rates, strict=True))}

    def plot(self, path: Any = None) -> Any:
        """A figure of the matrix; written to ``path`` where one is given."""
        from abe.report.robustness import plot_transfer

        return plot_transfer(self, path=path)


@entrance
def evaluate_robustness(
    task: Given,
    raw: Any,
    method: Any = "pgd",
    *,
    epsilons: Sequence[NotNegative] = EPSILONS,
    label: Any = None,
    ids: Sequence[int | str] | None = None,
    **how: Any,
) -> RobustnessCurve:
    """Clean and robust accuracy over radii; a sample broken at a radius is not attacked at larger ones.

    Args:
        task: the model and how to read it.
        raw: photographs, paths, arrays or a tensor in the task's bounds.
        method: a registered attack with a radius, or a chain with a ball, whose step and start are
            scaled with the radius.
        epsilons: radii in input units, or one; at 0 nothing is changed. By default a half to eight grey
            levels of 255.
        label: true classes, one each or names; without them the predictions count as right.
        ids: identities the draws depend on; by default each sample's content.
        **how: passed on to `abe.attack`: ``steps``, ``norm``, ``restarts``, ``seed``, …, and what of the
            samples is asked about, where the task asks for it.

    Raises:
        SpecError: no radius, one that is negative, or an attack without a radius.

    Example:
        >>> import torch, abe
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3, bias=False))
        >>> task = abe.image_task(model)
        >>> curve = abe.evaluate_robustness(task, torch.rand(4, 3, 2, 2), "bim", epsilons=[0.01, 0.9])
        >>> curve.robust_accuracy[0] >= curve.robust_accuracy[1]
        True
    """
    asked, how = task.asked(how)
    if "label" in task.asks and label is not None:
        asked, label = {**asked, "label": label}, None
    lifted = task.lift(raw, **asked)
    task = task.reading(parts=lifted.parts, held=lifted.held)
    task.check(lifted.x)
    radii = _radii(epsilons, task.limits)
    make, name, norm = _by_radius(method, how, task.limits)
    right, labels = _judge(task, lifted, label)
    b = len(lifted.x)
    broken = torch.full((b,), torch.inf, dtype=torch.float64)
    distance, queries = broken.clone(), torch.ones(b, dtype=torch.long)
    numbers = identities(ids, lifted)
    aims = None if how.get("target") is None else fitted(numbers_of(how["target"], task.class_index), b)
    with staged(name, len(radii), how.pop("progress", True)) as (progress, done):
        for eps in filter(None, radii):
            rows = (right.cpu() & broken.isinf()).nonzero().flatten()
            if len(rows) == 0:
                break
            update, settings = make(eps)
            if aims is not None:
                settings["target"] = aims[rows]
            settings = {**how, **settings, "progress": progress}
            found = _attack_rows(task, lifted, rows, update, labels, numbers, settings)
            won = found.success.cpu()
            broken[rows[won]] = eps
            distance[rows[won]] = found.distance[norm].cpu().double()[won]
            queries[rows] += found.queries.cpu()
            done()
    return RobustnessCurve(
        name, norm, radii, right.cpu(), broken, distance, queries, list(lifted.names), list(lifted.notes)
    )


def transfer_matrix(
    tasks: Mapping[str, Any], raw: Any, method: Any = "mim", *, label: Any = None, **how: Any
) -> TransferMatrix:
    """Make adversarial samples on every model and try them on all.

    Args:
        tasks: tasks or plain models by name; all must take inputs of the same shape and bounds.
        raw: photographs, paths, arrays or a tensor.
        method: the attack.
        label: true classes; by default each column's own predictions, so that a rate counts changes.
        **how: passed on to `abe.attack`, no early stop unless asked for; and what of the samples is asked
            about, where the tasks ask for it.

    Raises:
        InputError: the models do not take the same inputs.
    """
    if isinstance(tasks, Mapping):
        modules = {name: one for name, one in tasks.items() if isinstance(one, nn.Module)}
        tasks = {**tasks, **{name: as_task(one, raw) for name, one in modules.items()}}
    if not isinstance(tasks, Mapping) or not all(isinstance(one, Task) for one in tasks.values()):
        raise SpecError(
            Code.BAD_PARAMETER,
            "tasks= are tasks by name",
            got=shown(tasks),
            expected='a mapping such as {"a": abe.image_task(a), "b": abe.image_task(b)}',
        )
    if len(tasks) == 0:
        raise InputError(Code.EMPTY_BATCH, "Give at least one task")
    names = list(tasks)
    first = next(iter(tasks.values()))
    asked, how = first.asked(how)
    lifted = {name: task.lift(raw, **asked) for name, task in tasks.items()}
    tasks = {
        name: one.reading(parts=lifted[name].parts, held=lifted[name].held) for name, one in tasks.items()
    }
    _check_alike(tasks, {name: one.x for name, one in lifted.items()})
    judged = {n: _judge(tasks[n], lifted[n], label) for n in names}
    rates = torch.full((len(names), len(names)), torch.nan, dtype=torch.float64)
    counts = torch.zeros_like(rates, dtype=torch.long)
    title = ""
    with staged("transfer", len(names), how.pop("progress", True)) as (progress, done):
        for i, source in enumerate(names):
            settings: dict[str, Any] = {"early_stop": False, **how, "progress": progress}
            alone = lifted[source].plain()
            found = attack(tasks[source], alone, method, label=judged[source][1], **settings)
            title = found.attack
            for j, victim in enumerate(names):
                right, labels = judged[victim]
                moved = found.x_adv.to(lifted[victim].x)
                now, _ = _judge(tasks[victim], replace(lifted[victim], x=moved), labels)
                counts[i, j] = int(right.sum())
                if bool(right.any()):
                    rates[i, j] = float((~now)[right].double().mean())
            done()
    return TransferMatrix(title, names, rates, counts)


def _radii(epsilons: Sequence[float], bounds: Limits) -> list[float]:
    """Radii in ascending order, in input units where one number says them."""
    if not epsilons:
        raise SpecError(Code.BAD_PARAMETER, "Give at least one radius", got="epsilons=[]")
    one_range = not isinstance(span(bounds), Tensor)
    return sorted({plain(eps, bounds) if one_range else eps for eps in epsilons})


def _by_radius(method: Any, how: dict[str, Any], bounds: Limits) -> tuple[Any, str, str]:
    """How to make the attack of a given radius, its name, and its norm."""
    if isinstance(method, str):
        entry = updates.get(method)
        if "eps" not in entry.parameters():
            raise _no_radius(entry.name)
        parameters = {k: v for k, v in how.items() if k in entry.parameters() and k != "steps"}
        norm = str(parameters.get("norm", "linf"))
        _, name = resolve(method, parameters)

        def named(eps: float) -> tuple[Any, dict[str, Any]]:
            return method, {"eps": eps}

        return named, name, norm
    update, name = resolve(method, {})
    if not isinstance(update, Chain) or not isinstance(update.projection, Ball):
        raise _no_radius(name)

    def scaled(eps: float) -> tuple[Any, dict[str, Any]]:
        return resized(update, eps=eps, bounds=bounds), {}

    return scaled, name, update.projection.norm


def _no_radius(name: str) -> SpecError:
    return SpecError(
        Code.UNSUPPORTED,
        "This attack has no radius to vary",
        got=name,
        fix="Use one with eps, such as pgd; for cw read the distances of abe.attack",
    )


def _judge(task: Task, lifted: Lifted, label: Any) -> tuple[Tensor, Tensor]:
    """(b,) whether the model is right, and the labels: given, or its predictions."""
    with running(task):
        problem = pose(Evaluator(task), lifted, label)
        outputs, labels = problem.known_outputs, problem.target
    if not isinstance(outputs, Tensor) or outputs.ndim != 2:
        raise SpecError(
            Code.UNSUPPORTED, "Robustness is measured by the predicted class", got="other outputs"
        )
    problem.task.check_classes(outputs, "whether the prediction is right", apart=True)
    return problem.task.says(outputs, labels), labels


def _attack_rows(
    task: Task, lifted: Lifted, rows: Tensor, update: Any, labels: Tensor, ids: list[int], how: dict[str, Any]
) -> Any:
    """The attack on some of the samples, each with what belongs to it."""
    chosen = [ids[i] for i in rows.tolist()]
    part = lifted.take(rows).plain()
    return attack(task, part, update, label=labels[rows.to(labels.device)], ids=chosen, **how)


def _check_alike(tasks: Mapping[str, Task], xs: Mapping[str, Tensor]) -> None:
    first, *others = list(tasks)
    for other in others:
        inside = tasks[first].at_layers or tasks[other].at_layers
        if (
            inside
            and xs[first].shape == xs[other].shape
            and not torch.equal(xs[first].cpu(), xs[other].cpu())
        ):
            raise InputError(
                Code.SHAPE,
                "What an attack changes inside one model means nothing to another with another layer",
                got=f"other vectors in {first} and {other} for the same input",
                fix="Compare models that share the layer, such as an embedding that was not trained further",
            )
        one, two = tasks[first].bounds, tasks[other].bounds
        same = (one is None) == (two is None) and xs[first].shape == xs[other].shape
        if same and one is not None and two is not None:
            pairs = zip(one, two, strict=True)
            same = all(torch.equal(a.cpu().flatten().unique(), b.cpu().flatten().unique()) for a, b in pairs)
        if not same:
            raise InputError(
                Code.SHAPE,
                "Adversarial samples transfer between models that take the same inputs only",
                got=f"{tuple(xs[first].shape)} for {first}, {tuple(xs[other].shape)} for {other}, "
                "or other bounds",
                fix="Give all tasks the same size and bounds; normalisation may differ",
            )
