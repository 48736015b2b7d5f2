"""What is explained: a score per row, gathered per sample, higher = more of the decision.

``outputs`` are the scores of the classes that the target is one of, whatever the model returns
(`abe.task.outputs.choice`): their log-softmax are the log-probabilities. Objectives with ``layers`` get a
`Captured` instead. A user's own objective is a function ``(outputs, target) -> (n,)`` or a `Registered`
value; it sees the raw output.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from abe.errors import AbeError, Code, SpecError, TargetError
from abe.registry import objectives
from abe.spec import value
from abe.types import Card, Objective


@dataclass(frozen=True)
class Captured:
    """A model output together with the layer activations an objective asked for."""

    outputs: Any
    layers: Mapping[str, Tensor]


def gather(outputs: Tensor, target: Tensor) -> Tensor:
    """(n,) the entry of each row that ``target`` names: (n,) for (n, C), (n, m) for m axes.

    Never a B×B block: row i meets target i only.
    """
    rows = torch.arange(len(outputs), device=outputs.device)
    if target.ndim == 1:
        return outputs[rows, target]
    return outputs[(rows, *target.unbind(1))]


def log_probabilities(logits: Tensor) -> Tensor:
    """(n, C) log-softmax; a score alone is that of its class against the complement.

    Scores read from a task never come alone: what one output means is `abe.task.outputs`' to say.
    """
    if logits.shape[1] == 1:
        return torch.cat([F.logsigmoid(logits), F.logsigmoid(-logits)], dim=1)
    return torch.log_softmax(logits, dim=1)


class _ClassScore:
    reads_logits: ClassVar[bool] = True
    needs_classes: ClassVar[bool] = False

    @property
    def across(self) -> bool:
        """Whether it compares outputs by number, also those that are labels of their own."""
        return False

    @property
    def layers(self) -> tuple[str, ...]:
        """None: class scores are read from the output."""
        return ()


@objectives.register(
    Card(
        name="logit",
        title="Logit",
        source="sundararajan2017",
        formula="s = f_y(x)",
    ),
    aliases=("output",),
)
@value
class Logit(_ClassScore):
    """The class score before softmax (the output itself for a regression).

    One output for two classes counts for class 1, and with the other sign for class 0.
    """

    alone: ClassVar[bool] = True

    def __call__(self, outputs: Tensor, target: Tensor) -> Tensor:
        return gather(outputs, target)


@objectives.register(
    Card(
        name="probability",
        title="Probability",
        source="petsiuk2018",
        formula="s = p_y(x)",
    ),
    aliases=("prob",),
)
@value
class Probability(_ClassScore):
    """The softmax probability of the target class.

    It saturates, so gradients vanish for confident decisions.
    """

    needs_classes: ClassVar[bool] = True

    def __call__(self, outputs: Tensor, target: Tensor) -> Tensor:
        return gather(log_probabilities(outputs), target).exp()


@objectives.register(
    Card(
        name="log_probability",
        title="Log-probability",
        source="erion2021",
        formula="s = log p_y(x)",
    ),
    aliases=("log_prob",),
)
@value
class LogProbability(_ClassScore):
    """The log-softmax of the target class."""

    needs_classes: ClassVar[bool] = True

    def __call__(self, outputs: Tensor, target: Tensor) -> Tensor:
        return gather(log_probabilities(outputs), target)


@objectives.register(
    Card(
        name="loss",
        title="Loss",
        source="zhu2025abe",
        formula="s = -CE(f(x), y) = log p_y(x)",
    )
)
@value
class Loss(_ClassScore):
    """Minus the cross-entropy of the target class, so that higher is more of the decision."""

    needs_classes: ClassVar[bool] = True

    def __call__(self, outputs: Tensor, target: Tensor) -> Tensor:
        return gather(log_probabilities(outputs), target)


@objectives.register(
    Card(
        name="margin",
        title="Margin",
        source="carlini2017",
        formula="s = f_a(x) − f_b(x)",
    ),
)
@value
class Margin(_ClassScore):
    """The target's logit minus another class's, by default the strongest other.

    Args:
        a: a class, or None for the target.
        b: a class, or None for the highest class other than ``a`` (chosen per row).
    """

    a: int | None = None
    b: int | None = None

    @property
    def across(self) -> bool:
        """Whether a class is given by its number."""
        return self.a is not None or self.b is not None

    def __call__(self, outputs: Tensor, target: Tensor) -> Tensor:
        classes = outputs.shape[1]
        wrong = [c for c in (self.a, self.b) if c is not None and not -classes <= c < classes]
        if wrong:
            raise TargetError(
                Code.TARGET_RANGE,
                f"There is no class {wrong[0]}",
                got=repr(self),
                expected=f"0 to {classes - 1}",
            )
        first = target if self.a is None else torch.full_like(target, self.a)
        if self.b is not None:
            return gather(outputs, first) - gather(outputs, torch.full_like(target, self.b))
        if classes < 2:
            raise SpecError(
                Code.UNSUPPORTED,
                "A margin needs two classes",
                got=f"{classes} output",
                fix='Use objective="logit"',
            )
        others = outputs.scatter(1, first[:, None], -torch.inf)
        return gather(outputs, first) - others.amax(1)


@objectives.register(
    Card(
        name="label_agnostic",
        title="Decisiveness",
        source="laai, Eq. 5",
        formula="s = KL(U‖P) = -(1/C) Σ_j log P_j - ln C",
    ),
    aliases=("decisiveness",),
)
@value
class LabelAgnostic(_ClassScore):
    """How far the whole distribution is from uniform, whatever the class.

    The target is ignored.
    """

    needs_classes: ClassVar[bool] = True

    def __call__(self, outputs: Tensor, target: Tensor) -> Tensor:
        log_p = log_probabilities(outputs)
        classes = torch.tensor(float(log_p.shape[1]), device=outputs.device, dtype=log_p.dtype)
        return -log_p.mean(1) - classes.log()


@objectives.register(
    Card(
        name="entropy",
        title="Negative entropy",
        source="laai, Eq. 3",
        formula="s = Σ_j P_j log P_j",
    )
)
@value
class Entropy(_ClassScore):
    """Minus the entropy of the prediction, so that higher is more decided.

    The target is ignored.
    """

    needs_classes: ClassVar[bool] = True

    def __call__(self, outputs: Tensor, target: Tensor) -> Tensor:
        log_p = log_probabilities(outputs)
        return (log_p.exp() * log_p).sum(1)


@objectives.register(
    Card(
        name="unit",
        title="Hidden unit",
        source="olah2017",
        formula="s = mean over positions of h_index(x) at layer",
    )
)
@value
class HiddenUnit:
    """The activation of one unit of a layer, averaged over any spatial axes.

    Args:
        layer: a module's name, as in ``model.named_modules()``.
        index: position along axis 1 of the layer's output.
    """

    layer: str
    index: int
    reads_logits: ClassVar[bool] = False

    @property
    def layers(self) -> tuple[str, ...]:
        """The layer this objective reads."""
        return (self.layer,)

    def __call__(self, outputs: Captured, target: Tensor) -> Tensor:
        activation = outputs.layers[self.layer]
        if not -activation.shape[1] <= self.index < activation.shape[1]:
            raise SpecError(
                Code.BAD_PARAMETER,
                f"Layer {self.layer!r} has no unit {self.index}",
                expected=f"0 to {activation.shape[1] - 1}",
            )
        return (
            activation[:, self.index].flatten(1).mean(1) if activation.ndim > 2 else activation[:, self.index]
        )


class Similarity:
    """s = cosine similarity between the model's output vector and a reference vector.

    Args:
        reference: (d,) or one vector per sample (b, d); then pass ``target=range(b)``.
    """

    layers: tuple[str, ...] = ()
    reads_logits = False

    def __init__(self, reference: Tensor) -> None:
        self.reference = reference

    def __call__(self, outputs: Tensor, target: Tensor) -> Tensor:
        reference = self.reference.to(outputs)
        rows = reference[target] if reference.ndim == 2 else reference.expand(len(outputs), -1)
        return F.cosine_similarity(outputs.flatten(1), rows, dim=1)

    def __repr__(self) -> str:
        return f"Similarity(reference={tuple(self.reference.shape)})"


class _Missing(Tensor):
    """A target that nobody gave: whoever reads it is told to."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise TargetError(
            Code.TARGET_MISSING,
            "The objective reads the target, and none was given",
            fix="Pass target=… with the class or entry of the output",
        )


@dataclass(frozen=True)
class UserObjective:
    """A user's function ``(outputs, target) -> (n,)`` as an objective; it sees the raw output."""

    function: Callable[[Any, Tensor], Tensor]
    given: bool = field(default=True, compare=False)
    """Whether a target was given: reading one that is missing is refused where nothing is predicted."""
    predicts: bool = field(default=True, compare=False)
    """Whether outputs (n, C) predict a class, as those of a regression do not."""
    reads_logits: ClassVar[bool] = False

    @property
    def layers(self) -> tuple[str, ...]:
        """None: the function sees the output only."""
        return ()

    def __call__(self, outputs: Any, target: Tensor) -> Any:
        flat = isinstance(outputs, Tensor) and outputs.ndim == 2
        if not self.given and not (flat and (self.predicts or outputs.shape[1] == 1)):
            target = target.as_subclass(_Missing)
        try:
            return self.function(outputs, target)
        except AbeError:
            raise
        except Exception as problem:
            raise SpecError(
                Code.OBJECTIVE,
                f"The objective {objective_name(self)} raised an exception",
                got=f"{type(problem).__name__}: {problem}",
                expected="a function (outputs, target) -> one score per row (n,)",
            ) from problem


def as_objective(obj: Any) -> Objective:
    """An objective from a name, a (name, parameters) pair, a value, or a user's function.

    Raises:
        SpecError: it is none of these.
    """
    resolved = objectives.resolve(obj)
    usable = callable(resolved) and not isinstance(resolved, type)
    if usable and hasattr(resolved, "layers"):
        return cast("Objective", resolved)
    if usable:
        return UserObjective(cast("Callable[[Any, Tensor], Tensor]", resolved))
    raise SpecError(
        Code.UNKNOWN_NAME,
        "This is not an objective",
        got=type(obj).__name__,
        expected=f"one of {', '.join(objectives.names())} or a function (outputs, target) -> (n,)",
    )


def objective_name(objective: Objective) -> str:
    """Readable name for tables and manifests."""
    if isinstance(objective, UserObjective):
        return getattr(objective.function, "__qualname__", repr(objective.function))
    return repr(objective) if not type(objective).__module__.startswith("abe.") else _compact(objective)


def _compact(objective: Objective) -> str:
    text = repr(objective)
    return text.removesuffix("()")
