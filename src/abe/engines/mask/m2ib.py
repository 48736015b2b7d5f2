"""M2IB: a bottleneck in each tower of a model that compares two inputs, one tower at a time.

The other tower sees its input as it is. The score is what the task explains, usually the similarity
of both towers' outputs; the noise is N(0, v) everywhere.
"""

import math

import torch
from torch import Tensor

from abe.checks import Count, Positive
from abe.engines.layers.find import at_layer, find_layer
from abe.engines.mask.bottleneck import INPUT, Bottleneck, Smoothing, readout
from abe.engines.mask.noise import StandardNoise
from abe.engines.runtime.problem import Problem
from abe.engines.runtime.shapes import rows_at_once, stretch
from abe.engines.sides import is_flat, side
from abe.errors import Code, ModelError, SpecError, note
from abe.spec import value
from abe.types import Part, Result


@value
class TwoTowers:
    """Bits of each tower that the score needs.

    Bits of explained inputs are the map; of an input that is not explained, such as token numbers, they
    are the diagnostics ``"bits.<name>"``, one per position.

    Args:
        layers: pairs of an input's name and the layer of its tower; None finds one for every explained input.
        beta: price of information.
        variance: v of the noise.
        samples: noise draws per step.
        steps: of Adam.
        rate: of Adam.
        sigma: of the smoothing over positions of convolutional towers.
    """

    layers: tuple[tuple[str | int, str], ...] | None
    beta: Positive = 0.1
    variance: Positive = 1.0
    samples: Count = 10
    steps: Count = 10
    rate: Positive = 1.0
    sigma: Smoothing = 0.0

    def __post_init__(self) -> None:
        if self.layers is not None and not self.layers:
            raise SpecError(
                Code.BAD_PARAMETER,
                "Two towers need the layers of both",
                got=repr(self),
                expected='layers={"image": "vision.blocks.9", "text": "language.blocks.9"}',
            )

    def run(self, problem: Problem) -> Result:
        """One optimisation per tower."""
        out, kept = torch.zeros_like(problem.x), dict[str, Tensor]()
        parts = {part.name: part for part in problem.task.parts}
        layers, notes = (self.layers, []) if self.layers is not None else _found(problem)
        for name, layer in layers:
            found = torch.cat(
                [
                    self._bits(problem.with_(x=problem.x[block], owner=block), layer)
                    for block in problem.everyone.split(max(1, rows_at_once(problem.x) // 64))
                ]
            )
            kept[f"bits.{name}"] = per_position(found)
            if name in parts:
                part = parts[name]
                out[:, part.start : part.stop] = placed(found, problem.x, part, layer)
            elif not parts and name in (problem.task.input_name, 0, "input"):
                out = placed(found, problem.x, _whole(problem.x), layer).view_as(out)
        return Result(out, diagnostics=kept, warnings=notes)

    def _bits(self, problem: Problem, layer: str) -> Tensor:
        """(b, *h) information in bits."""
        engine = Bottleneck(
            layer=layer,
            statistics=StandardNoise(variance=self.variance),
            beta=self.beta,
            samples=self.samples,
            steps=self.steps,
            rate=self.rate,
            sigma=self.sigma,
        )
        inside = problem if layer == INPUT else at_layer(problem, layer)
        gate, _ = engine.gate(inside, layer)
        return engine.bits(inside, gate, layer)


def _found(problem: Problem) -> tuple[tuple[tuple[str | int, str], ...], list[str]]:
    """For every explained input, the last layer of its tower that all of it passes through.

    Raises:
        SpecError: an input has none.
    """
    if not hasattr(problem.task.lifter, "tasks"):
        raise SpecError(
            Code.UNSUPPORTED,
            "M2IB compares the towers of two inputs",
            got=f"a task of the modality {problem.task.modality!r}",
            expected="abe.pair_task(…), or layers=…",
            fix="The bottleneck for one input is iba",
        )
    parts = [part.name for part in problem.task.parts] if is_flat(problem) else []
    views = {name: side(problem, name) for name in parts} or {_name(problem): problem}
    found = {name: find_layer(view.first()) for name, view in views.items()}
    missing = [name for name, layer in found.items() if layer is None]
    if missing:
        raise SpecError(
            Code.LAYER,
            "No layer was found that everything of an input passes through",
            got=f"the input {missing[0]!r}",
            fix='Name the layers: layers={"image": "vision.blocks.9", "text": "language.blocks.9"}',
        )
    chosen = tuple((name, layer) for name, layer in found.items() if layer is not None)
    told = ", ".join(f"{layer!r} for the input {name!r}" for name, layer in chosen)
    return chosen, [note(Code.CHOSEN_LAYER, f"The bottlenecks are at {told}")]


def _name(problem: Problem) -> str | int:
    """What the only explained input is called."""
    named = problem.task.parts[0].name if problem.task.parts else problem.task.input_name
    return "input" if named is None else named


def per_position(bits: Tensor) -> Tensor:
    """(b, *positions) bits without their channels: axis 1 of images, the last of tokens."""
    if bits.ndim == 4:
        return bits.sum(1)
    return bits.sum(2) if bits.ndim == 3 else bits


def placed(bits: Tensor, x: Tensor, part: Part, layer: str) -> Tensor:
    """(b, channels of the part, …) bits of a tower at its input's positions.

    Raises:
        ModelError: the layer's positions cannot be those of the input.
    """
    like = part.of(x)
    if len(part.shape) == 3 and bits.ndim == 3:
        bits = _grid(bits, part.shape[1:])
    if bits.ndim == 4 and like.ndim == 4:
        return readout(bits, like, layer).reshape(x[:, part.start : part.stop].shape)
    if bits.ndim == like.ndim == 3 and part.channels == -1:  # tokens, whose channels come first here
        whole = per_position(bits)[:, None]
        each = stretch(whole, tuple(like.shape[2:])) * (whole.shape[2] / like.shape[2] / like.shape[1])
        return each.expand_as(like).reshape(x[:, part.start : part.stop].shape)
    if bits.ndim == like.ndim == 3:
        tokens = stretch(per_position(bits)[:, None], tuple(like.shape[1:2])).movedim(1, 2)
        scale = bits.shape[1] / like.shape[1] / like.shape[2]
        return (tokens * scale).expand_as(like).reshape(x[:, part.start : part.stop].shape)
    if bits.shape == like.shape:
        return bits.reshape(x[:, part.start : part.stop].shape)
    raise ModelError(
        Code.LAYER,
        f"The positions of layer {layer!r} are not those of the input {part.name!r}",
        got=f"activations of shape {tuple(bits.shape[1:])} for an input of shape {part.shape}",
        expected="a convolution (c, h, w) or tokens (t, d)",
    )


def _grid(bits: Tensor, space: tuple[int, ...]) -> Tensor:
    """(b, 1, rows, columns) patch tokens in rows; tokens before them (class, registers) are left out."""
    tokens = bits.sum(2)
    for extra in range(min(tokens.shape[1], 16)):
        left = tokens.shape[1] - extra
        rows = round(math.sqrt(left * space[0] / space[1]))
        if rows > 0 and left % rows == 0 and abs(left // rows * space[0] - rows * space[1]) <= space[0]:
            return tokens[:, extra:].reshape(len(tokens), 1, rows, left // rows)
    return bits


def _whole(x: Tensor) -> Part:
    return Part("input", 0, x.shape[1], tuple(x.shape[1:]))
