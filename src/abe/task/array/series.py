"""Series tasks: measurements over time, one channel or several, for classifiers and forecasts."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

from torch import nn

from abe.task.array.tensor import tensor_task, with_background
from abe.task.base import Task
from abe.task.channels import Numbers
from abe.task.letters import Axes
from abe.task.lifted import suits
from abe.task.outputs import OutputKind

LETTERS = "bct"
"""Letters of the axes of series."""


def series_task(
    model: nn.Module,
    axes: Literal["btc", "bct", "bt"] | str,
    *,
    channels: Sequence[str] | None = None,
    rate: float | None = None,
    window: int | None = None,
    background: Any = None,
    bounds: tuple[Numbers, Numbers] | None = None,
    mean: Numbers | None = None,
    std: Numbers | None = None,
    labels: Any = None,
    output: Any = None,
    output_kind: OutputKind = "auto",
    explained: str | int | None = None,
    input_name: str | None = None,
) -> Task:
    """A task for a model of time series: a classifier, a regression, a forecast.

    Explained are features (b, c, t), channels first whatever the model has. Units are windows of each channel
    (``"window_channel"``, the natural ones), windows of all channels (``"window"``) and whole channels
    (``"channel"``); by default a missing window shows the series' own mean, channel by channel.

    Args:
        model: any ``nn.Module``; explained in evaluation mode and left as found.
        axes: how the model takes series: ``"btc"`` time before channels, as recurrent networks with
            ``batch_first``; ``"bct"`` channels before time, as convolutions; ``"bt"`` without channels.
        channels: names of the channels; columns of a table are put in this order.
        rate: measurements per second, by which windows are called.
        window: steps of a window; by default about a twelfth of all.
        background: series of as many steps: their mean is then the reference, and all of them in turn stand
            where something is removed.
        bounds: valid range before normalisation, numbers or one per channel; None for no bounds.
        mean: subtracted inside the task, a number or one per channel.
        std: divided by inside the task, a number or one per channel.
        labels: class names, as for `abe.image_task`.
        output: where the scores are, as for `abe.image_task`.
        output_kind: what they are, as for `abe.image_task`; ``"regression"`` for forecasts, whose target is
            the place in the output: ``target=(step, variable)`` for outputs (b, steps, variables).
        explained: of a dict of inputs, the one that is explained; the others are passed along.
        input_name: keyword under which a single input is passed.

    Shape:
        arrays that lie as ``axes`` says, one series also without the axis of samples; a table whose rows are
        time and whose columns are channels, its index naming the steps; lists, iterators and loaders of
        these. Integers are taken as numbers. Series of different lengths are each run at their own.

    Raises:
        SpecError: unusable settings.
        InputError: a background of series that are not as the axes say, or of different lengths.

    Example:
        >>> import torch, abe
        >>> class Last(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.rnn = torch.nn.GRU(2, 4, batch_first=True)
        ...     def forward(self, x):
        ...         return self.rnn(x)[0][:, -1]
        >>> task = abe.series_task(Last(), "btc", channels=["load", "heat"])
        >>> found = abe.explain(task, torch.rand(1, 24, 2), "occlusion", units="channel", progress=False)
        >>> found.shape, [name for name, share in found.by_unit()[0]][:3]
        (torch.Size([1, 2, 24]), ['load t 0–1', 'heat t 0–1', 'load t 2–3'])
    """
    Axes.read(axes, known=LETTERS, needs="bt")
    arrays = tensor_task(
        model,
        axes,
        bounds=bounds,
        mean=mean,
        std=std,
        channels=channels,
        rate=rate,
        window=window,
        labels=labels,
        output=output,
        output_kind=output_kind,
        explained=explained,
        input_name=input_name,
    )
    task = replace(arrays, modality="series", suits=suits(baseline="mean"))
    return task if background is None else with_background(task, background)
