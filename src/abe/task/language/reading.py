"""How the outputs of a language model (n, t, vocabulary) become scores: at one step, or over an answer."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from abe.errors import Code, ModelError, SpecError
from abe.objectives import Logit, LogProbability, Probability
from abe.registry import objectives
from abe.spec import value
from abe.task.lifted import Context
from abe.task.select import outline
from abe.types import Card

STEP = "step"
"""Key of `Context.about`: (b,) how many positions before the end the step is read; 1 for the last."""
ANSWER = "answer"
"""Key of `Context.about`: (b, m) the tokens of the answer whose steps are read, -1 behind them."""
AGAINST = "against"
"""Key of `Context.about`: (b, m) the tokens of the other answer, or -1."""


PROBABILITY, ENTROPY = "step_probability", "step_entropy"
"""Diagnostics of every step."""


@objectives.register(
    Card(
        name="sequence",
        title="Whole answer",
        source="miglani2023",
        formula="s = Σ_j log p(y_j | prompt, y_<j)",
    )
)
@value
class WholeAnswer:
    """The log-probability of a whole answer of a language model, the sum over its tokens.

    Args:
        of: ``"log_probability"``, or ``"probability"`` of the whole answer, the product over its tokens.
    """

    of: Any = "log_probability"

    def __post_init__(self) -> None:
        if self.of not in ("log_probability", "probability"):
            raise SpecError(
                Code.BAD_PARAMETER,
                "A whole answer is followed by its probability or the logarithm of it",
                got=repr(self.of),
                expected="'log_probability' or 'probability'",
            )

    reads_logits = False
    needs_classes = False

    @property
    def layers(self) -> tuple[str, ...]:
        """None: the answer is read from the output."""
        return ()

    def __call__(self, outputs: Any, target: Tensor) -> Tensor:
        if not isinstance(outputs, Tensor) or outputs.ndim != 2 or outputs.shape[1] != 1:
            raise SpecError(
                Code.OBJECTIVE,
                "Only a language model has an answer",
                got=outline(outputs),
                fix="Make the task by abe.language_task",
            )
        return outputs[:, 0]


@dataclass(frozen=True)
class Contrast:
    """How much more a model says of the answer's token than of another at the same step.

    Args:
        of: ``"log_probability"`` or ``"logit"``, whose difference is the same, or ``"probability"``.
    """

    of: str = "log_probability"
    reads_logits = False
    needs_classes = False

    @property
    def layers(self) -> tuple[str, ...]:
        """None: both are read from the output."""
        return ()

    def __call__(self, outputs: Any, target: Tensor) -> Tensor:
        return outputs[:, 0]


@dataclass(frozen=True)
class Steps:
    """(n, vocabulary) the scores at each sample's step."""

    def __call__(self, outputs: Any, context: Context) -> Tensor:
        _check(outputs)
        return self.shared(outputs, context, torch.arange(len(outputs), device=outputs.device))

    def shared(self, outputs: Any, context: Context, serves: Tensor) -> Tensor:
        """The same of outputs that serve several samples each."""
        _check(outputs)
        back = context.about[STEP].to(outputs.device)
        place = outputs.shape[1] - back
        _check_places(place)
        return outputs[serves.to(outputs.device), place]

    def told(self, task: Any, outputs: Tensor, target: Tensor) -> dict[str, Tensor]:
        """The probability of every target, and the entropy of its step in nats."""
        log_p = task.log_probabilities(outputs)
        entropy = -(log_p.exp() * log_p).sum(1)
        return {PROBABILITY: log_p.gather(1, target[:, None])[:, 0].exp(), ENTROPY: entropy}


@dataclass(frozen=True)
class Against:
    """(n, 3) how much more the model says of the answer's token than of another at the same step.

    Behind that stand the log-probability of the answer's token and the entropy of the step, which are told.

    Args:
        name: of the score: of logits, whose difference is that of log-probabilities, or of probabilities.
    """

    name: str

    def __call__(self, outputs: Any, context: Context) -> Tensor:
        _check(outputs)
        return self.shared(outputs, context, torch.arange(len(outputs), device=outputs.device))

    def shared(self, outputs: Any, context: Context, serves: Tensor) -> Tensor:
        """The same of outputs that serve several samples each."""
        logits = Steps().shared(outputs, context, serves)
        scores = torch.softmax(logits, 1) if self.name == "probability" else logits
        own, other = (context.about[key].to(scores.device) for key in (ANSWER, AGAINST))
        log_p = torch.log_softmax(logits.detach(), 1)
        entropy = -(log_p.exp() * log_p).sum(1, keepdim=True)
        return torch.cat([scores.gather(1, own) - scores.gather(1, other), log_p.gather(1, own), entropy], 1)

    def told(self, task: Any, outputs: Tensor, target: Tensor) -> dict[str, Tensor]:
        """The probability of every answer's token, and the entropy of its step in nats."""
        return {PROBABILITY: outputs[:, 1].exp(), ENTROPY: outputs[:, 2]}


@dataclass(frozen=True)
class Answer:
    """(n, 1) the log-probability of a whole answer, or how much more that is than of another.

    Args:
        probability: the probability instead.
    """

    probability: bool = False

    def __call__(self, outputs: Any, context: Context) -> Tensor:
        _check(outputs)
        answer = context.about[ANSWER].to(outputs.device)
        m = answer.shape[1]
        steps = context.about[STEP].to(outputs.device)
        place = outputs.shape[1] - steps[:, None] + torch.arange(m, device=outputs.device)
        real = answer >= 0
        _check_places(place[real])
        rows = torch.arange(len(outputs), device=outputs.device)[:, None]
        log_p = torch.log_softmax(outputs[rows, place.clamp_max(outputs.shape[1] - 1)], 2)
        total = self._total(log_p, answer, real)
        if AGAINST in context.about:
            total = total - self._total(log_p, context.about[AGAINST].to(outputs.device), real)
        return total[:, None]

    def _total(self, log_p: Tensor, answer: Tensor, real: Tensor) -> Tensor:
        each = log_p.gather(2, answer.clamp_min(0)[:, :, None])[:, :, 0]
        total = torch.where(real, each, 0.0).sum(1)
        return total.exp() if self.probability else total


def contrast_of(objective: Any) -> Against:
    """How two answers are compared under an objective.

    Raises:
        SpecError: it compares none.
    """
    for kind, name in ((Logit, "logit"), (LogProbability, "log_probability"), (Probability, "probability")):
        if isinstance(objective, kind):
            return Against(name)
    raise SpecError(
        Code.OBJECTIVE,
        "against= compares two answers by a score of their own",
        got=type(objective).__name__,
        expected='objective="log_probability", "logit", "probability" or "sequence"',
    )


def _check(outputs: Any) -> None:
    if not isinstance(outputs, Tensor) or outputs.ndim != 3 or not outputs.is_floating_point():
        raise ModelError(
            Code.OUTPUT_SHAPE,
            "A language model gives a score of every word of its vocabulary at every position",
            got=f"shape {tuple(outputs.shape)}" if isinstance(outputs, Tensor) else outline(outputs),
            expected="(n, positions, vocabulary)",
            fix="Pass output= that names the logits; abe.text_task is for models that classify texts",
        )


def _check_places(place: Tensor) -> None:
    if bool((place < 0).any()):
        raise ModelError(
            Code.OUTPUT_SHAPE,
            "The model gives fewer positions than there are steps to read",
            got=f"position {int(place.min())}",
            fix="A language model gives scores at every position of what it is given",
        )
