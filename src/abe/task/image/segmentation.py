"""Segmentation tasks: class scores at every place, read as the mean over a region that stays fixed."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from abe.checks import AtLeast, listed, plain
from abe.errors import AbeError, Code, InputError, ModelError, SpecError, TargetError, note
from abe.instrument.model_state import as_found
from abe.instrument.modes import eager
from abe.objectives import Margin
from abe.task.base import Context, Lifted, Task
from abe.task.image.lifter import ImageLifter, Numbers, image_task
from abe.task.image.pictures import Fit
from abe.task.image.regions import as_region, connected
from abe.task.outputs import SAY_KIND, OutputKind, predicted
from abe.task.select import outline
from abe.task.targets import fitted, numbers_of

REGION = "region"
"""Key of `Context.about` and of diagnostics: (b, h, w) whose scores are read, in pixels of the input."""
ASKS = ("at", "region", "label", "against")
ROWS = 4
"""Photographs that are predicted at a time."""
NOBODY = ("background", "__background__", "void", "unlabeled", "unlabelled")
"""Names of classes that stand for what is none of the others."""


def segmentation_task(
    model: nn.Module,
    *,
    labels: Any = None,
    background: int | str | None = None,
    bounds: tuple[Numbers, Numbers] | None = (0.0, 1.0),
    mean: Numbers | None = None,
    std: Numbers | None = None,
    output: Any = None,
    output_kind: OutputKind = "auto",
    size: int | tuple[int, int] | None = None,
    fit: Fit = "crop",
    channels: int | None = None,
    input_name: str | None = None,
) -> Task:
    """A task for a model that gives class scores (n, C, h, w) at every place of a photograph.

    Explained is the mean score of a class over a region. The region is that of the prediction for the
    photograph as it is, and stays the same while the photograph changes.

    Args:
        model: any ``nn.Module``; its scores may be coarser or finer than the photograph.
        labels: class names, as for `abe.image_task`.
        background: the class of what is none of the others, which is not asked about by itself; by default
            one that is called so (``"background"``, ``"void"``, …).
        bounds: as for `abe.image_task`, and so the following.
        mean: subtracted inside the task.
        std: divided by inside the task.
        output: where the scores are; found by itself for a tensor, an entry ``out`` or ``logits``.
        output_kind: one column needs ``"sigmoid"`` or ``"probabilities"``.
        size: (height, width) photographs are brought to.
        fit: how.
        channels: of the model's input.
        input_name: keyword of the model's input.

    Keywords of `abe.explain`, `abe.compare`, `abe.evaluate`, `abe.attack` and their kin say what is asked:

    ======================  ==============================================================================
    none                    the predicted class that covers most of the photograph, over all its pixels
    ``at=(row, column)``    the predicted class under that pixel, over its pixels that hang together with it
                            side by side; a pixel for all photographs or one each, counted in the photograph
                            as the task reads it
    ``label="road"``        that class over its predicted pixels; a name or number, or one per photograph
    ``region=mask``         the pixels of a mask (h, w) or (b, h, w): of any class, by ``label=`` or
                            ``target=``, else of the one with the highest mean score there
    ``against="grass"``     the class minus another (the objective ``margin``), over the same region
    ======================  ==============================================================================

    Shape:
        as `abe.image_task`. Outputs are read as (n, C). Where scores are at other places than pixels, they
        are not enlarged: every score counts by the share of its place that is in the region.

    Cost:
        a forward row for every photograph whose region is predicted, counted in the result.

    Raises:
        InputError: REGION for a region that is empty or a pixel outside.
        TargetError: ABSENT_CLASS for a class that is predicted nowhere, where no region is given.

    Example:
        >>> import torch, abe
        >>> model = torch.nn.Conv2d(3, 2, 1)
        >>> task = abe.segmentation_task(model, labels=["grass", "road"])
        >>> x, corner = torch.rand(1, 3, 4, 4), torch.eye(4)
        >>> found = abe.explain(task, x, "ig", region=corner, label="road", steps=2, progress=False)
        >>> found.target_names, int(found.diagnostics["region"].sum())
        (['road'], 4)
    """
    made = image_task(
        model,
        bounds=bounds,
        mean=mean,
        std=std,
        labels=labels,
        output=output,
        output_kind=output_kind,
        size=size,
        fit=fit,
        channels=channels,
        input_name=input_name,
    )
    nobody = _nobody(made, background)
    return replace(
        made, lifter=SegmentationLifter(made.lifter, nobody), reads=over_region, asks=ASKS, keeps=(REGION,)
    )


def _nobody(task: Task, given: int | str | None) -> int | None:
    """The number of the class that stands for none of the others."""
    if isinstance(given, str):
        return task.class_index(given)
    if given is not None:
        return AtLeast(0).check("background", given)
    named = [i for i, name in enumerate(task.labels or ()) if name.lower() in NOBODY]
    return named[0] if len(named) == 1 else None


def over_region(outputs: Any, context: Context) -> Tensor:
    """(n, C) the mean of scores (n, C, h, w) over each sample's region.

    Raises:
        ModelError: the scores have no places.
        SpecError: nothing says which region.
    """
    _check_dense(outputs)
    region = context.about.get(REGION)
    if region is None:
        raise SpecError(
            Code.UNSUPPORTED,
            "Nothing says over which region the scores are read",
            fix="Use what takes photographs, such as abe.explain and abe.attack; pass data= where "
            "explanations hold no region",
        )
    shares = region.to(outputs)
    if shares.shape[1:] != outputs.shape[2:]:
        shares = F.adaptive_avg_pool2d(shares, tuple(outputs.shape[2:]))
    shares = shares / shares.sum((1, 2), keepdim=True)
    return (outputs * shares[:, None]).sum((2, 3))


def _check_dense(outputs: Any) -> None:
    if not isinstance(outputs, Tensor) or outputs.ndim != 4:
        flat = isinstance(outputs, Tensor) and outputs.ndim == 3
        raise ModelError(
            Code.OUTPUT_SHAPE,
            "A segmentation gives class scores at every place",
            got=f"shape {tuple(outputs.shape)}" if isinstance(outputs, Tensor) else outline(outputs),
            expected="(n, classes, h, w)",
            fix="Pass output=lambda out: out[:, None] where the axis of one class is left out"
            if flat
            else "Use abe.image_task for a classifier, or output= to say which output is meant",
        )


@dataclass(frozen=True)
class Prediction:
    """What a model says at every pixel.

    Attributes:
        numbers: (b, h, w) the class at every pixel of the input; -1 where there is none.
        said: (b, C, h, w) which labels are said, where several can be; None where one class is.
        classes: how many there are.
    """

    numbers: Tensor
    said: Tensor | None
    classes: int

    def zone(self, sample: int, number: int) -> Tensor:
        """(h, w) where a class is predicted."""
        return self.numbers[sample] == number if self.said is None else self.said[sample, number]

    def sizes(self, sample: int) -> Tensor:
        """(C,) how many pixels every class has."""
        if self.said is not None:
            return self.said[sample].sum((1, 2))
        numbers = self.numbers[sample]
        return torch.bincount(numbers[numbers >= 0], minlength=self.classes)


@dataclass(frozen=True)
class SegmentationLifter:
    """Turns photographs into features, and questions about them into regions."""

    images: ImageLifter
    background: int | None = None

    def __call__(
        self,
        task: Task,
        raw: Any,
        *,
        at: Any = None,
        region: Any = None,
        label: Any = None,
        against: Any = None,
    ) -> Lifted:
        lifted = self.images(task, raw)
        n = len(lifted.x)
        if at is not None and region is not None:
            raise SpecError(
                Code.BAD_PARAMETER,
                "A region and a pixel are asked about at once",
                got="at= and region=",
                fix="Give one of them",
            )
        named = None if label is None else _classes(task, "label", label, n)
        other = None if against is None else int(_classes(task, "against", against, 1)[0])
        given = None if region is None else _given(region, lifted)
        pixels = None if at is None else _pixels(at, lifted.x)
        notes, rows = list[str](), 0
        if given is not None and named is None:
            zone, target = given, None
        else:
            task.check(lifted.x)
            told, rows = predict(replace(task, parts=lifted.parts), lifted), n
            _check_exists(told, named, other)
            if given is not None and named is not None:
                zone, target = given, named
                notes = self._absent(task, told, named, lifted.names)
            elif pixels is not None:
                zone, under = self._under(told, pixels, lifted.names)
                target = under if named is None else named
            elif named is not None:
                zone, target = self._of_class(task, told, named, lifted.names), named
            else:
                zone, target = self._largest(task, told, lifted.names, notes)
        if other is not None and target is not None and bool((target == other).any()):
            raise TargetError(
                Code.TARGET_REACHED,
                "A class is asked about against itself",
                got=f"{task.told_apart(other)} for sample {listed(target == other)}",
                fix="Choose another class for against=, or name the one that is asked about by label=",
            )
        device = lifted.x.device
        about = {**lifted.context.about, REGION: zone.to(device)}
        return replace(
            lifted,
            context=replace(lifted.context, about=about),
            notes=(*lifted.notes, *notes),
            rows=rows,
            target=None if target is None else target.to(device),
            objective=None if other is None else Margin(b=other),
        )

    def _absent(self, task: Task, told: Prediction, named: Tensor, names: Sequence[str]) -> list[str]:
        missing = [i for i, number in enumerate(named.tolist()) if not bool(told.zone(i, number).any())]
        if not missing:
            return []
        who = ", ".join(f"{task.told_apart(int(named[i]))} in {names[i]}" for i in missing[:4])
        return [note(Code.ABSENT_CLASS, f"A class is explained that is predicted nowhere: {who}")]

    def _of_class(self, task: Task, told: Prediction, named: Tensor, names: Sequence[str]) -> Tensor:
        zones = [told.zone(i, number) for i, number in enumerate(named.tolist())]
        for i, zone in enumerate(zones):
            if not bool(zone.any()):
                there = told.sizes(i).nonzero().flatten().tolist()
                raise TargetError(
                    Code.ABSENT_CLASS,
                    "The class is predicted nowhere, so there is no region of it",
                    got=f"{task.told_apart(int(named[i]))} for {names[i]}",
                    expected=f"one of {', '.join(map(task.told_apart, there[:12]))}" if there else None,
                    fix="Pass region= to explain it all the same",
                )
        return torch.stack(zones)

    def _under(
        self, told: Prediction, pixels: Sequence[tuple[int, int]], names: Sequence[str]
    ) -> tuple[Tensor, Tensor]:
        zones, numbers = list[Tensor](), list[int]()
        for i, (row, column) in enumerate(pixels):
            number = int(told.numbers[i, row, column])
            if number < 0:
                raise InputError(
                    Code.REGION, "No label is said at that pixel", got=f"({row}, {column}) of {names[i]}"
                )
            zones.append(connected(told.zone(i, number), row, column))
            numbers.append(number)
        return torch.stack(zones), torch.tensor(numbers)

    def _largest(
        self, task: Task, told: Prediction, names: Sequence[str], notes: list[str]
    ) -> tuple[Tensor, Tensor]:
        zones, numbers = list[Tensor](), list[int]()
        for i, name in enumerate(names):
            sizes = told.sizes(i)
            if self.background is not None and self.background < len(sizes):
                others = sizes.clone()
                others[self.background] = 0
                if bool(others.any()):
                    sizes = others
                elif bool(sizes.any()):
                    nobody = task.told_apart(self.background)
                    text = f"Nothing but {nobody} is predicted for {name}, so that is explained"
                    notes.append(note(Code.CHOSEN_REGION, text))
            if not bool(sizes.any()):
                raise InputError(
                    Code.REGION, "No label is said anywhere", got=name, fix="Pass region= and label="
                )
            best = (sizes == sizes.max()).nonzero().flatten().tolist()
            if len(best) > 1:
                several = " and ".join(map(task.told_apart, best[:4]))
                text = f"{several} cover as much of {name}; the first is explained"
                notes.append(note(Code.CHOSEN_REGION, text))
            numbers.append(best[0])
            zones.append(told.zone(i, best[0]))
        return torch.stack(zones), torch.tensor(numbers)


def predict(task: Task, lifted: Lifted) -> Prediction:
    """What the model says at every pixel of lifted photographs, by a forward row each.

    Raises:
        ModelError: it raises, or gives no scores at places.
        SpecError: one column that may be anything.
    """
    plain_task, shape = replace(task, reads=None), tuple(lifted.x.shape[2:])
    numbers, said, classes = list[Tensor](), list[Tensor](), 0
    with as_found(task.model), eager(task.model), torch.no_grad():
        for rows in torch.arange(len(lifted.x)).split(ROWS):
            dense = _dense(plain_task, lifted, rows)
            _check_kind(task.output_kind, dense)
            dense = dense if dense.is_floating_point() else dense.float()
            classes = dense.shape[1]
            if task.output_kind in ("sigmoid", "probabilities") and classes == 1:
                classes = 2
            found = predicted(task.output_kind, dense)
            if task.output_kind == "multilabel":
                spoken = dense > 0
                found = torch.where(spoken.any(1), found, -torch.ones_like(found))
                said += _pixelwise(spoken, shape)
            numbers += _pixelwise(found[:, None], shape)
    together = torch.stack(numbers)[:, 0].cpu()
    return Prediction(together, torch.stack(said).cpu() if said else None, classes)


def _dense(task: Task, lifted: Lifted, rows: Tensor) -> Tensor:
    try:
        outputs = task.forward(lifted.x[rows.to(lifted.x.device)], lifted.context.take(rows))
    except AbeError:
        raise
    except Exception as problem:
        raise ModelError(
            Code.MODEL_FAILED,
            "The model's forward raised an exception",
            got=f"{type(problem).__name__}: {problem}",
            fix="Check that the model runs on these photographs; size= brings them to the size it takes",
        ) from problem
    _check_dense(outputs)
    if not bool(torch.isfinite(outputs).all()):
        raise ModelError(Code.NOT_FINITE_OUTPUT, "The model returned NaN or infinity on the photographs")
    return outputs


def _check_kind(kind: OutputKind, dense: Tensor) -> None:
    if kind == "regression":
        raise SpecError(
            Code.UNSUPPORTED,
            "A regression predicts no class, so it has no region of one",
            fix="Pass region=, and target= with the number of the output",
        )
    if kind in ("auto", "logits") and dense.shape[1] == 1:
        raise SpecError(
            Code.OUTPUT_KIND,
            "One column of scores can be a logit or a probability, so it says no class yet",
            got=f"outputs of shape {tuple(dense.shape)}",
            fix=SAY_KIND,
        )


def _pixelwise(found: Tensor, shape: tuple[int, ...]) -> Iterator[Tensor]:
    """Classes (n, m, h, w) brought to the pixels of the input, by the nearest place."""
    if tuple(found.shape[2:]) != shape:
        found = F.interpolate(found.float(), size=shape, mode="nearest-exact").to(found.dtype)
    yield from found


def _classes(task: Task, name: str, given: Any, n: int) -> Tensor:
    """(n,) class numbers of a name or number, or of one each."""
    numbers = numbers_of(given, task.class_index)
    if n == 1 and numbers.numel() != 1:
        raise TargetError(
            Code.TARGET_TYPE,
            f"{name}= is one class",
            got=f"{numbers.numel()} of them",
            fix="Ask for one after the other",
        )
    return fitted(numbers, n).cpu()


def _check_exists(told: Prediction, named: Tensor | None, other: int | None) -> None:
    asked = [*([] if named is None else named.tolist()), *([] if other is None else [other])]
    wrong = [number for number in asked if not 0 <= number < told.classes]
    if wrong:
        raise TargetError(
            Code.TARGET_RANGE,
            f"There is no class {wrong[0]}",
            expected=f"0 to {told.classes - 1}",
        )


def _given(region: Any, lifted: Lifted) -> Tensor:
    """(b, h, w) a region that is given, one for all or one each."""
    n = len(lifted.x)
    if n > 1 and isinstance(region, Tensor | np.ndarray) and region.ndim == 2:
        region = torch.as_tensor(region).expand(n, *region.shape)
    try:
        zone = as_region(region, lifted.x)
    except InputError as problem:
        if problem.code != Code.MASK:
            raise
        sizes = problem.expected is not None and str(problem.expected).startswith("(")
        raise InputError(
            Code.REGION,
            "The region does not fit the photographs as the task reads them"
            if sizes
            else "The region does not say what belongs to it",
            got=problem.got,
            expected=problem.expected,
            fix="Bring it to that size first; size= of the task changes photographs and not regions"
            if sizes
            else problem.fix,
        ) from problem
    empty = ~zone.flatten(1).any(1)
    if bool(empty.any()):
        raise InputError(
            Code.REGION,
            "The region is empty",
            got=f"no pixel for {lifted.names[int(empty.nonzero()[0])]}",
            expected="at least one pixel",
        )
    return zone.cpu()


def _pixels(at: Any, x: Tensor) -> list[tuple[int, int]]:
    """A pixel for every sample, inside."""
    n, (h, w) = len(x), tuple(x.shape[2:])
    given = at.tolist() if isinstance(at, Tensor | np.ndarray) else at
    listed_pairs = list(given) if isinstance(given, Sequence) and not isinstance(given, str) else []
    numbers = [plain(one) for one in listed_pairs]
    pairs = [numbers] * n if numbers and all(isinstance(one, int) for one in numbers) else numbers
    good = len(pairs) == n and all(
        isinstance(p, Sequence) and not isinstance(p, str) and len(p) == 2 for p in pairs
    )
    if not good or isinstance(at, bool):
        raise InputError(
            Code.REGION,
            "at= is a pixel, one for all photographs or one each",
            got=repr(at)[:60],
            expected=f"(row, column), or {n} of these",
        )
    found = [(AtLeast(0).check("at", plain(p[0])), AtLeast(0).check("at", plain(p[1]))) for p in pairs]
    outside = [(r, c) for r, c in found if r >= h or c >= w]
    if outside:
        raise InputError(
            Code.REGION,
            "The pixel is outside of the photograph",
            got=f"row {outside[0][0]}, column {outside[0][1]}",
            expected=f"row 0 to {h - 1}, column 0 to {w - 1}",
            fix="Pixels are counted as the task reads the photograph, which size= may change",
        )
    return found
