"""Shape vocabulary, small value types, and the protocols that cross rooms.

Axes: ``b`` batch (samples), ``n`` rows (flattened work), ``c h w`` channels and image axes,
``t`` tokens, ``d`` features, ``k`` path nodes, ``u`` units, ``l`` layers, ``a`` heads,
``*f`` any feature axes.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor

Features = Float[Tensor, "b *f"]
Rows = Float[Tensor, "n *f"]
PerSample = Float[Tensor, "b"]
PerRow = Float[Tensor, "n"]
RowIndex = Int[Tensor, "n"]

Key = tuple[int, int]
"""Names one random draw of one sample: (sample id, draw number)."""


class Fed(NamedTuple):
    """Rows whose further inputs are not those of their samples.

    Attributes:
        x: (m, *f) the rows.
        changes: by input, what these rows have instead, such as another attention mask (m, t).
        length: (m,) how many positions there are, where rows have fewer than their samples.
    """

    x: Tensor
    changes: Mapping[str | int, Tensor]
    length: Tensor | None = None


Make = Callable[[Tensor], Tensor | Fed]
"""(m,) row numbers to (m, *f) rows."""

Direction = Literal["higher", "lower"]
Axiom = Literal[
    "completeness",
    "linearity",
    "dummy",
    "symmetry",
    "implementation_invariance",
    "sensitivity",
    "additivity",
]


Numbers = tuple[float, ...]
"""One number for all channels, or one for each."""


@dataclass(frozen=True)
class Part:
    """What the features hold of one input of a model, or of one layer whose output they stand in for.

    Features lie channels first; `restored` gives a part back as the model has it.

    Attributes:
        name: keyword or position in the model's call; of a layer, what people call it.
        start, stop: its entries along axis 1 of the packed features.
        shape: of one sample, channels first.
        layer: the layer whose output it takes the place of, as in `abe.at_layer`; None for an input.
        channels: the axis of the channels as the model has them, counted with the batch: -1 for tokens, None
            where it has no such axis.
        low, high: bounds of valid numbers before normalisation, or None.
        mean, std: normalisation of this part, or None.
        places: where it lies along the positions, (first, end), where parts lie behind each other there.
        along: further inputs of the model that have its positions, such as the ids of embedded tokens.
    """

    name: str | int
    start: int
    stop: int
    shape: tuple[int, ...]
    layer: str | None = None
    channels: int | None = 1
    low: Numbers | None = None
    high: Numbers | None = None
    mean: Numbers | None = None
    std: Numbers | None = None
    places: tuple[int, int] | None = None
    along: tuple[str | int, ...] = ()

    @classmethod
    def read(cls, saved: Mapping[str, Any]) -> "Part":
        """A part from its saved fields."""
        listed: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in saved.items()}
        return cls(**listed)

    def of(self, packed: Tensor) -> Tensor:
        """(n, *shape) this input's block of packed features or attributions."""
        block = packed[:, self.start : self.stop]
        if self.places is not None:
            return block[:, :, self.places[0] : self.places[1]]
        flat = packed.ndim - 1 != len(self.shape)  # else the block may be shorter than most are
        return block.reshape(len(packed), *self.shape) if flat else block

    def restored(self, packed: Tensor) -> Tensor:
        """(n, …) the block as the model takes it: normalised, its channels where the model has them."""
        block = self.of(packed)
        if self.mean is not None:
            block = block - self.spread(self.mean, block)
        if self.std is not None:
            block = block / self.spread(self.std, block)
        if self.channels is None:
            return block[:, 0].contiguous()
        # in memory of its own order: a model may read its input by `view`
        return block.contiguous() if self.channels == 1 else block.movedim(1, self.channels).contiguous()

    def spread(self, numbers: Numbers, like: Tensor) -> Tensor:
        """(1, 1 or c, 1, …) numbers for all channels, or one for each, as they meet ``like`` (n, *shape)."""
        return like.new_tensor(numbers).view(1, -1, *[1] * (like.ndim - 2))


OFFERS: Mapping[str, tuple[str, ...]] = {
    "image": ("positions", "image"),
    "segmentation": ("positions", "image"),
    "detection": ("positions", "image"),
    "text": ("positions", "tokens"),
    "language": ("positions", "tokens"),
    "series": ("positions",),
    "tensor": ("positions",),
    "tabular": ("columns",),
    "several": (),
    "multimodal": ("positions", "image", "tokens", "pair"),
}
"""Modality -> what its features have: neighbouring positions, pictures, tokens, columns, two towers."""


@dataclass(frozen=True)
class Passes:
    """Expected model rows of one call, as formulas over the method's parameters.

    Besides parameters the formulas know ``b`` (samples). Only names, numbers, ``+ - * /`` and
    parentheses are allowed; a sequence counts by its length. ``"adaptive"`` says that no closed form exists.

    Attributes:
        forward, backward: the formulas.
        at_most: they are bounds: rows that are done leave, and what is known of a model is not run again.
        words: what is said instead of the formulas, where these have no closed form.
    """

    forward: str
    backward: str
    at_most: bool = False
    words: str = ""


@dataclass(frozen=True, kw_only=True)
class Card:
    """What is known about a method or metric; feeds listings, help, docs, laws and advice.

    Attributes:
        name: registered name, the paper's.
        title: human-readable name.
        summary: one sentence; registration takes the first of the docstring.
        source: bibliography key and equation, e.g. ``"sundararajan2017, Eq. 1"``.
        family: formulation family of the theory survey.
        reformulations: reformulation families of the survey it belongs to.
        guarantees: axioms the method claims; the law kit tests each.
        needs: what it needs, e.g. ``("gradient",)``.
        features: what it needs of features, which decides the modalities: nothing, ``"positions"`` (a
            neighbourhood), ``"image"``, ``"tokens"``, ``"columns"``, ``"pair"`` (two
            towers), ``"layer"`` (none has it).
        passes: cost formula, law-tested against the counted rows.
        differs: how the default differs from the paper or the published code, one entry each.
        direction: for metrics, which way is better.
        range: for metrics, the values it can take.
        formula: the definition, as text or TeX; or a section ``Formula`` of the docstring.
        pitfalls: when not to believe it.
        expected_failures: law -> reason, for laws that cannot hold.
        example: parameters that make a runnable instance where some are required.
        part_of: for a value that one method owns, its name; `Registry.part` fills it.
        optimises: metrics that the method maximises itself, so that they say little of it.
    """

    name: str
    title: str
    source: str
    summary: str = ""
    family: str = ""
    reformulations: tuple[str, ...] = ()
    guarantees: tuple[Axiom, ...] = ()
    needs: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    passes: Passes | None = None
    differs: tuple[str, ...] = ()
    direction: Direction | None = None
    range: str = ""
    formula: str = ""
    pitfalls: tuple[str, ...] = ()
    expected_failures: Mapping[str, str] = field(default_factory=dict)
    example: Mapping[str, Any] = field(default_factory=dict)
    part_of: str = ""
    optimises: tuple[str, ...] = ()

    @property
    def modalities(self) -> tuple[str, ...]:
        """What it runs on: every modality whose features have what it needs."""
        return tuple(name for name, offered in OFFERS.items() if set(self.features) <= set(offered))


@dataclass
class Cost:
    """Model work that was done.

    Attributes:
        forward_rows, backward_rows: rows through the network, the unit of every cost formula.
        forward_calls, backward_calls: how many chunks they came in.
        seconds: wall time of the whole call.
        model_seconds: the part of it spent inside the network.
        chunk: largest number of rows run at once.
        execution: what was run: ``"model"``, or a verified copy of it.
        positions_saved: positions of rows that were not run because what the model computes there was known,
            less those that were run to be known.
    """

    forward_rows: int = 0
    backward_rows: int = 0
    forward_calls: int = 0
    backward_calls: int = 0
    seconds: float = 0.0
    model_seconds: float = 0.0
    chunk: int | None = None
    execution: str = "model"
    positions_saved: int = 0

    @property
    def passes(self) -> int:
        """Forward plus backward rows."""
        return self.forward_rows + self.backward_rows

    def add(self, more: "Cost") -> None:
        """Count more work; chunk and execution are those of the latest."""
        self.forward_rows += more.forward_rows
        self.backward_rows += more.backward_rows
        self.forward_calls += more.forward_calls
        self.backward_calls += more.backward_calls
        self.seconds += more.seconds
        self.model_seconds += more.model_seconds
        self.positions_saved += more.positions_saved
        self.chunk, self.execution = more.chunk, more.execution


@dataclass
class Result:
    """What an engine hands back; `abe.explain` turns it into an `Explanation`.

    Attributes:
        attribution: (b, *f), the sign convention of DESIGN 10.
        delta: (b,) the score change the attribution should sum to, None where none is claimed.
        standard_error: (b, *f) for stochastic methods.
        warnings: notes with codes.
        diagnostics: per-sample extras such as ``nodes`` or ``success``.
        objective: the score that was explained, where the method brings its own.
        features: (b, *f) what the attribution is about, where that is not the input: a layer's activation.
    """

    attribution: Features
    delta: PerSample | None = None
    standard_error: Features | None = None
    warnings: list[str] = field(default_factory=list)
    diagnostics: dict[str, Tensor] = field(default_factory=dict)
    objective: "Objective | None" = None
    features: Tensor | None = None


@runtime_checkable
class Draws(Protocol):
    """The only source of randomness. One row per key, so a row never depends on its neighbours."""

    def normal(self, purpose: str, keys: Sequence[Key], shape: Sequence[int]) -> Tensor: ...

    def uniform(self, purpose: str, keys: Sequence[Key], shape: Sequence[int]) -> Tensor: ...

    def integers(self, purpose: str, keys: Sequence[Key], high: int, shape: Sequence[int]) -> Tensor: ...

    def permutation(self, purpose: str, keys: Sequence[Key], size: int) -> Tensor: ...


@runtime_checkable
class Objective(Protocol):
    """What is explained: a score per row, higher = more of the decision."""

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of layers whose activations the objective reads; usually ``()``."""
        ...

    def __call__(self, outputs: Any, target: Tensor) -> Tensor: ...


@runtime_checkable
class Problem(Protocol):
    """A request as a reference input sees it: samples, draws, and counted access to the model.

    The engines' own `Problem` is one. Only what is known without a pass stands here, because a check of the
    type reads every attribute; target, score and identities are asked of the engines' class.
    """

    @property
    def x(self) -> Tensor:
        """(b, *f) the samples."""
        ...

    @property
    def context(self) -> Any:
        """Inputs that are passed along and not explained, per sample."""
        ...

    @property
    def task(self) -> Any:
        """The model, and how it is fed and read."""
        ...

    @property
    def objective(self) -> Objective: ...

    @property
    def draws(self) -> Draws: ...

    @property
    def bounds(self) -> tuple[Tensor, Tensor] | None:
        """(low, high) of valid inputs, or None."""
        ...

    @property
    def everyone(self) -> Tensor:
        """(b,) all sample numbers."""
        ...

    def reference(self, baseline: "Baseline", owner: Tensor, draw: Tensor) -> Tensor:
        """(n, *f) a baseline's references, equal to the sample where its positions are fixed."""
        ...

    def keys(self, owner: Tensor, draw: Tensor) -> list[Key]:
        """Names of the draws with numbers ``draw`` (n,) of samples ``owner`` (n,)."""
        ...

    def among(self, owner: Tensor) -> tuple[Tensor, int]:
        """Which samples of the whole request ``owner`` (n,) are, and how many it has."""
        ...

    def scores(self, make: Make | Tensor, owner: Tensor) -> Tensor:
        """(n,) scores of rows; forward only."""
        ...

    def outputs(self, make: Make | Tensor, owner: Tensor) -> Any:
        """(n, …) the model's outputs for rows."""
        ...

    def forward(self, make: Make | Tensor, owner: Tensor) -> Iterator[Any]:
        """Chunks of rows with their outputs and scores."""
        ...

    def gradient(self, make: Make | Tensor, owner: Tensor) -> Iterator[Any]:
        """Chunks of rows with the gradient of each row's own score too."""
        ...

    def with_(
        self,
        *,
        x: Tensor | None = None,
        owner: Tensor | None = None,
        draw: Tensor | None = None,
        objective: Objective | None = None,
        target: Tensor | None = None,
    ) -> "Problem":
        """The same request for other rows, score or target."""
        ...


@runtime_checkable
class Baseline(Protocol):
    """Reference inputs."""

    @property
    def stochastic(self) -> bool:
        """Whether different draw numbers give different references."""
        ...

    def rows(self, problem: Problem, owner: Tensor, draw: Tensor) -> Tensor:
        """(n, *f) the reference of sample ``owner[i]`` for draw number ``draw[i]``."""
        ...


@runtime_checkable
class BoundPath(Protocol):
    """A static path of a given batch: alpha 0 is the reference, alpha 1 the input."""

    reference: Tensor
    has_velocity: bool
    """False integrates along the chords between nodes instead."""

    def point(self, owner: Tensor, alpha: Tensor) -> Tensor:
        """(n, *f) points of the given samples."""
        ...

    def velocity(self, owner: Tensor, alpha: Tensor) -> Tensor:
        """(n, *f) d point / d alpha, in memory of its own."""
        ...


@runtime_checkable
class Path(Protocol):
    """A static path as a value; `bind` fixes it to a batch: an `abe.engines.runtime.problem.Problem`."""

    def bind(self, problem: Any) -> BoundPath: ...


@runtime_checkable
class Quadrature(Protocol):
    """Nodes and weights on [0, 1]; weights sum to 1."""

    def nodes(self, n: int) -> tuple[Tensor, Tensor]: ...


@runtime_checkable
class Engine(Protocol):
    """A composition of primitives that can explain an `abe.engines.runtime.problem.Problem`."""

    def run(self, problem: Any) -> Result: ...


@runtime_checkable
class Fitted(Protocol):
    """Something learnt from data that explains by itself: ``abe.explain(task, x, fitted)``.

    Made by ``abe.fit(task, loader, "l2x")``, written by its ``save`` and read by ``abe.load_fitted``.
    """

    @property
    def method(self) -> str:
        """The registered method that takes it as ``fitted=``."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """What is to be said about the training, with codes."""
        ...

    def save(self, path: str | FilePath) -> FilePath: ...
