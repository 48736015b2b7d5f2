"""Noise that takes the place of activations: from a data set, from the sample itself, or fixed."""

import math
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from abe.checks import Count, Fraction, Positive
from abe.engines.runtime.problem import Problem
from abe.engines.runtime.stored import Weights, check_shape, save
from abe.errors import Code, InputError
from abe.spec import value

MIN_STD = 0.01
"""Smallest σ: a neuron that never varies would cost infinitely much."""


class ActivationNoise(NamedTuple):
    """Mean, standard deviation and activity of activations; each broadcasts to (b, *h)."""

    mean: Tensor
    std: Tensor
    active: Tensor


@value
class OwnStatistics:
    """The sample's own mean and deviation per channel, over positions; per sample where there are none."""

    def of(self, problem: Problem, layer: str) -> ActivationNoise:
        h = problem.x
        axes = tuple(range(2, h.ndim)) or (1,)
        mean = h.mean(axes, keepdim=True)
        std = h.var(axes, keepdim=True, unbiased=False).sqrt().clamp_min(MIN_STD)
        return ActivationNoise(mean, std, torch.ones_like(mean))


@value
class StandardNoise:
    """Mean 0 and a fixed variance everywhere (M2IB).

    Args:
        variance: of the noise.
    """

    variance: Positive = 1.0

    def of(self, problem: Problem, layer: str) -> ActivationNoise:
        one = problem.x.new_ones(1, *[1] * (problem.x.ndim - 1))
        return ActivationNoise(0 * one, one * math.sqrt(self.variance), one)


@value
class LayerStatistics:
    """Mean and deviation of every neuron of a layer over a data set; made by ``abe.fit``.

    Args:
        layer: the layer, or ``"input"``.
        count: samples seen.
        weights: ``mean``, ``std`` and ``active`` (share of samples with a value other than 0), each (*h).
        notes: what is to be said about the fitting.
        least_active: neurons that are 0 in a larger share of samples carry nothing.
    """

    layer: str
    count: Count
    weights: Weights
    notes: tuple[str, ...] = ()
    least_active: Fraction = 0.01

    def __post_init__(self) -> None:
        """Refuse tensors that are no statistics of one layer."""
        held = self.weights.tensors
        alike = {t.shape for t in held.values()}
        if set(held) != {"mean", "std", "active"} or len(alike) != 1:
            shapes = {name: tuple(t.shape) for name, t in held.items()}
            raise InputError(
                Code.FITTED,
                "These are not the statistics of one layer",
                got=str(shapes)[:100],
                expected="mean, std and active of one shape",
            )

    @property
    def method(self) -> str:
        """What takes it as ``fitted=``."""
        return "iba"

    def save(self, path: str | Path) -> Path:
        """Write it as safetensors."""
        return save(self, path)

    def of(self, problem: Problem, layer: str) -> ActivationNoise:
        if layer != self.layer:
            raise InputError(
                Code.FITTED,
                "The statistics are those of another layer",
                got=f"layer {self.layer!r}",
                expected=repr(layer),
                fix=f"Explain with layer={self.layer!r}, or fit them again",
            )
        axis = next((one.channels for one in problem.task.parts if one.layer == layer), 1) or 1
        learned = (self.weights[k].to(problem.x)[None] for k in ("mean", "std", "active"))
        mean, std, active = (one.movedim(axis, 1) for one in learned)
        check_shape(f"The noise of layer {layer!r}", tuple(mean.shape[1:]), tuple(problem.x.shape[1:]))
        return ActivationNoise(mean, std.clamp_min(MIN_STD), (active > self.least_active).to(mean))


class RunningStatistics:
    """Running mean, squared deviation and activity of neurons, merged batch by batch (Chan et al.)."""

    def __init__(self) -> None:
        self.count = 0
        self.tensors: dict[str, Tensor] = {}

    def add(self, h: Tensor) -> None:
        """Add a batch (n, *h)."""
        h, n = h.detach().double(), len(h)
        if self.count and h.shape[1:] != self.tensors["mean"].shape:
            raise InputError(
                Code.SHAPE,
                "The loader gave inputs of another shape",
                got=f"activations of shape {tuple(h.shape[1:])}",
                expected=str(tuple(self.tensors["mean"].shape)),
            )
        mean = h.mean(0)
        new = {"mean": mean, "m2": (h - mean).square().sum(0), "active": (h != 0).double().sum(0)}
        if self.count:
            old, total = self.tensors, self.count + n
            gap = new["mean"] - old["mean"]
            new["m2"] = old["m2"] + new["m2"] + gap.square() * (self.count * n / total)
            new["mean"] = old["mean"] + gap * (n / total)
            new["active"] = old["active"] + new["active"]
        self.tensors, self.count = new, self.count + n

    def statistics(self, layer: str, notes: tuple[str, ...] = ()) -> LayerStatistics:
        """What was seen so far.

        Raises:
            InputError: fewer than two samples.
        """
        if self.count < 2:
            raise InputError(
                Code.TRAINING_DATA,
                "A deviation needs at least two samples",
                got=f"{self.count}",
                expected="two, a thousand to be of use",
            )
        weights = {
            "mean": self.tensors["mean"].float(),
            "std": (self.tensors["m2"] / (self.count - 1)).sqrt().float(),
            "active": (self.tensors["active"] / self.count).float(),
        }
        return LayerStatistics(layer=layer, count=self.count, weights=Weights(weights), notes=notes)
