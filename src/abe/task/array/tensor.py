"""Tensor tasks: volumes, video, points and nodes, waveforms: arrays whose axes have letters."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from abe.checks import COUNT, POSITIVE, need_list
from abe.errors import Code, InputError, ModelError, SpecError
from abe.instrument.model_state import as_found
from abe.task.base import Context, Lifted, Task
from abe.task.batch import Batch, batch_of, context_of
from abe.task.channels import Numbers, limits, per_channel, scale
from abe.task.entries import explained_of, inputs_of
from abe.task.letters import Axes
from abe.task.lifted import LENGTH, Units, suits
from abe.task.outputs import OutputKind, class_names
from abe.types import Part
from abe.units.cuts import along, beyond, kinds_of, labels_of, names_of

WINDOWED = ("window", "window_channel")
"""Kinds of units that are windows of time."""


def tensor_task(
    model: nn.Module,
    axes: str,
    *,
    bounds: tuple[Numbers, Numbers] | None = None,
    mean: Numbers | None = None,
    std: Numbers | None = None,
    channels: Sequence[str] | None = None,
    rate: float | None = None,
    window: int | None = None,
    labels: Any = None,
    output: Any = None,
    output_kind: OutputKind = "auto",
    explained: str | int | None = None,
    input_name: str | None = None,
    background: Any = None,
) -> Task:
    """A task for a model of arrays whose axes are named by letters.

    Explained are features (b, c, *positions), channels first whatever the model has; the model is given its
    own order.

    Args:
        model: any ``nn.Module``; explained in evaluation mode and left as found.
        axes: one letter for every axis as the model takes them: ``b`` samples, first; ``c`` channels, where
            there are any; ``t`` time, ``d h w`` depth, rows and columns, ``n`` points or nodes,
            ``f`` frequencies. ``"bcdhw"`` are volumes, ``"btchw"`` or ``"bcthw"`` video, ``"bnc"`` points or
            nodes, ``"bct"`` waveforms.
        bounds: valid range before normalisation, numbers or one per channel; None for no bounds.
        mean: subtracted inside the task, a number or one per channel.
        std: divided by inside the task, a number or one per channel.
        channels: names of the channels.
        rate: samples per second, by which windows of time are called.
        window: places of a window of time; by default about a twelfth of all.
        labels: class names, as for `abe.image_task`.
        output: where the class scores are, as for `abe.image_task`.
        output_kind: what they are, as for `abe.image_task`.
        explained: of a dict of inputs, the one that is explained; the others are passed along.
        input_name: keyword under which a single input is passed.
        background: samples as large as those that are explained: their mean is then the reference, and all
            of them in turn stand for what is absent and where a method draws references.

    Shape:
        arrays that lie as ``axes`` says, one sample also without the axis of samples; lists, iterators and
        loaders of them. Integers are taken as numbers. Where samples differ in time or points, each is run
        at its own length.

    Raises:
        SpecError: unusable settings.
        InputError: a background that does not lie as the axes say, or of different lengths.

    Example:
        >>> import torch, abe
        >>> class Cloud(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.point = torch.nn.Linear(3, 4)
        ...     def forward(self, x):
        ...         return self.point(x).relu().sum(1)
        >>> task = abe.tensor_task(Cloud(), axes="bnc")
        >>> found = abe.explain(task, torch.rand(2, 5, 3), "gradient_x_input", progress=False)
        >>> found.shape, [name for name, share in found.by_unit()[0]][:2]
        (torch.Size([2, 3, 5]), ['point 0', 'point 1'])
    """
    laid = Axes.read(axes)
    low, high = limits(bounds, len(laid.positions))
    names = None if channels is None else [str(one) for one in need_list("channels", channels, "names")]
    if names is not None and laid.channels is None:
        raise SpecError(
            Code.BAD_PARAMETER,
            "channels= names channels, and the axes have none",
            got=f"axes {laid.words}",
            fix="Add the letter 'c' to axes=, or leave channels= out",
        )
    lifter = ArrayLifter(
        axes=laid,
        channels=None if names is None else tuple(names),
        rate=None if rate is None else float(POSITIVE.check("rate", rate)),
        window=None if window is None else COUNT.check("window", window),
        explained=explained,
        name=input_name if input_name is not None else 0 if explained is None else explained,
    )
    task = Task(
        model=model,
        modality="tensor",
        lifter=lifter,
        mean=per_channel("mean", mean, len(laid.positions)),
        std=scale("std", std, len(laid.positions)),
        low=low,
        high=high,
        labels=class_names(labels),
        output=output,
        output_kind=output_kind,
        suits=suits(baseline="mean" if bounds is None else "zero"),
    )
    return task if background is None else with_background(task, background)


def with_background(task: Task, background: Any) -> Task:
    """The task with a background set: its mean for a reference, all of it where something is removed."""
    lifter: Any = task.lifter
    batch = batch_of(task, lifter.axes, background, lifter.channels)
    if batch.lengths is not None:
        raise InputError(
            Code.SHAPE,
            "What is in a background has one length",
            got=f"lengths {sorted(set(batch.lengths))}",
        )
    if not bool(torch.isfinite(batch.x).all()):
        raise InputError(Code.NOT_FINITE_INPUT, "The background holds NaN or infinity")
    mean: Tensor = batch.x.mean(0, keepdim=True)
    if len(batch.x) == 1:
        return replace(task, suits=suits(baseline=mean))
    drawn = {("baseline", "uniform"): batch.x, ("background", "uniform"): batch.x}
    return replace(task, suits={**suits(baseline=mean, removal=batch.x), **drawn})


@dataclass(frozen=True)
class ArrayLifter:
    """Turns arrays with named axes into (b, c, *positions) features."""

    axes: Axes
    channels: tuple[str, ...] | None = None
    rate: float | None = None
    window: int | None = None
    explained: str | int | None = None
    name: str | int = 0

    def __call__(self, task: Task, raw: Any) -> Lifted:
        given, rest, name = self._split(raw)
        batch = batch_of(task, self.axes, given, self.channels)
        x = batch.x
        self._check_channels(x)
        n = len(x)
        values = {key: context_of(task, item, n, key) for key, item in rest.items()}
        lengths, about = batch.lengths, dict[str, Tensor]()
        part = Part(name, 0, x.shape[1], tuple(x.shape[1:]), channels=self.axes.channels)
        rows = 0
        if lengths is not None:
            each = torch.tensor(lengths, device=x.device)
            taken = [key for key in ("lengths", "length") if key in _parameters(task.model)]
            if taken and not rest:
                values[taken[0]] = each
            else:
                about[LENGTH] = each
                rows = _check_lengths(task, part, x, values, lengths)
        units = self.units(x, batch)
        return Lifted(
            x=x,
            context=Context(values, about),
            names=[f"sample {i}" for i in range(n)],
            parts=(part,),
            units=units,
            rows=rows,
        )

    def _split(self, raw: Any) -> tuple[Any, dict[str | int, Any], str | int]:
        """What is explained, what is passed along, and where the model takes the first."""
        if not isinstance(raw, Mapping) and not (isinstance(raw, tuple) and self.explained is not None):
            return raw, {}, self.name
        items = inputs_of(raw)
        (name,) = explained_of(items, () if self.explained is None else (self.explained,), self._fits)
        return items.pop(name), items, name

    def _fits(self, item: Any) -> bool:
        """Whether this can be the explained input: real numbers with as many axes."""
        floating = isinstance(item, Tensor) and item.is_floating_point()
        floating = floating or getattr(getattr(item, "dtype", None), "kind", "") == "f"
        return floating and item.ndim == len(self.axes.letters)

    def _check_channels(self, x: Tensor) -> None:
        if self.channels is not None and len(self.channels) != x.shape[1]:
            raise InputError(
                Code.SHAPE,
                "The input and channels= differ in the number of channels",
                got=f"{x.shape[1]} channels, {len(self.channels)} names",
                expected=f"axes {self.axes.words}",
            )

    # --- units ------------------------------------------------------------------------------------

    def units(self, x: Tensor, batch: Batch) -> tuple[Units, ...]:
        """Every way to cut the samples, the natural one first."""
        lengths = None if batch.lengths is None else torch.tensor(batch.lengths)
        found: list[Units] = []
        for kind in kinds_of(self.axes.positions, x.shape[1]):
            size = self.window if kind in WINDOWED else None
            numbers = along(kind, self.axes.positions, x.shape[2:], size)
            labels = self.labels(kind, x.shape[1:], lengths, size).expand(len(x), -1, *x.shape[2:])
            counts = (labels.flatten(1).amax(1) + 1).tolist()
            names = [
                self._names(kind, numbers, x.shape[1], batch, row)[:count] for row, count in enumerate(counts)
            ]
            found.append(Units(kind, labels.to(x.device), names))
        return tuple(found)

    def labels(
        self, kind: str, shape: Sequence[int], lengths: Tensor | None = None, size: int | None = None
    ) -> Tensor:
        """(1 or b, 1 or c, *positions) the unit of every position.

        Args:
            kind: of the units.
            shape: (c, *positions) of a sample.
            lengths: (b,) places of each sample along the first axis of positions; None for all.
            size: places of a window, or cells of a block or tube.
        """
        positions = self.axes.positions
        numbers = along(kind, positions, shape[1:], size)
        labels = labels_of(numbers, positions, shape, channels=kind in ("channel", "window_channel"))
        return labels if lengths is None else beyond(labels, lengths)

    def _names(
        self, kind: str, numbers: Mapping[str, Tensor], channels: int, batch: Batch, row: int
    ) -> list[str]:
        places = batch.places[row] if row < len(batch.places) else None
        ends = {} if batch.lengths is None else {self.axes.positions[0]: batch.lengths[row] - 1}

        def name(letter: str, first: int, last: int) -> str:
            first, last = (min(place, ends.get(letter, place)) for place in (first, last))
            if letter == self.axes.positions[0] and places is not None:
                return places[first] if first == last else f"{places[first]}–{places[last]}"
            if kind in ("frame", "point"):
                return f"{kind} {first}"
            if letter == "t" and self.rate is not None:
                return f"{first / self.rate:g}–{(last + 1) / self.rate:g} s"
            return f"{letter} {first}" if first == last else f"{letter} {first}–{last}"

        apart = kind in ("channel", "window_channel")
        called = self.channels or batch.channels or [f"ch{i}" for i in range(channels)]
        return names_of(numbers, self.axes.positions, name, list(called) if apart else ())


def _parameters(model: nn.Module) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(model.forward).parameters


def _check_lengths(
    task: Task, part: Part, x: Tensor, values: Mapping[str | int, Tensor], lengths: Sequence[int]
) -> int:
    """How many forward rows it took to see that the model takes every length.

    Raises:
        ModelError: it does not.
    """
    read = task.reading(parts=(part,))
    different = sorted(set(lengths), reverse=True)
    for length in different:
        row = torch.tensor([lengths.index(length)])
        about = {LENGTH: torch.tensor([length])}
        context = replace(Context(dict(values)).take(row), about=about)
        try:
            with as_found(task.model), torch.no_grad():
                read.forward(x[row.to(x.device)], context)
        except Exception as problem:
            if length == different[0]:  # not the length, but something that every run will meet
                return 0
            raise ModelError(
                Code.MODEL_FAILED,
                "The model does not take samples of different lengths",
                got=f"{length} places instead of {x.shape[2]}: {str(problem).splitlines()[0][:120]}",
                fix="Bring the samples to one length first, or explain those of one length together",
            ) from problem
    return len(different)
