"""Statistics of a layer over a data set, for the bottleneck's noise."""

from typing import Any

from abe.engines.layers.find import activations
from abe.engines.learn.training import read_batches, told_by, training_problem
from abe.engines.mask.bottleneck import INPUT, place
from abe.engines.mask.noise import LayerStatistics, RunningStatistics
from abe.engines.runtime.request import running
from abe.task.base import Task


def fit_statistics(task: Task, data: Any, *, layer: str = "auto") -> LayerStatistics:
    """Mean and deviation of a layer's neurons over a loader, in one pass.

    Args:
        task: whose model; left as found.
        data: a tensor, or an iterable of batches.
        layer: a module's name, ``"input"`` or ``"auto"``.

    Raises:
        InputError: fewer than two samples, or samples of different shapes.
    """
    moments, notes = RunningStatistics(), list(task.assumed)
    with running(task):
        for raw in read_batches(data, notes, lambda: moments.count):
            problem = training_problem(task, raw, 0)
            notes += [text for text in told_by(raw) if text not in notes]
            if not moments.count:
                layer, _ = place(problem, layer, [])
            h = problem.x if layer == INPUT else activations(problem, layer)
            moments.add(h)
    return moments.statistics(layer, tuple(notes))
