"""References of texts: the vector of a token at every position, or another text."""

from typing import Any, Literal

import torch
from torch import Tensor

from abe.checks import CountFrom0
from abe.engines.layers.at_layer import AtInput
from abe.errors import Code, InputError, SpecError
from abe.registry import baselines
from abe.spec import value
from abe.types import Card, Problem, RowIndex, Rows

Token = CountFrom0 | Literal["auto", "mask", "pad", "unk", "mean"]
"""Which vector: of a special token, or the mean over the vocabulary; ``"auto"`` takes the first there is of
mask, pad and mean; a number is the id of a token."""
NEXT = ("mask", "pad", "mean")


@baselines.register(
    Card(
        name="reference_token",
        title="Reference token",
        source="sundararajan2017",
        features=("tokens",),
        pitfalls=(
            "A model that was never trained with the token does not read it as absence.",
            "Networks that normalise the length of their input (RMSNorm) have no sensible path from zero: "
            "nearly all of it lies at its start.",
        ),
    ),
)
@value
class ReferenceToken:
    """The vector of a token at every position; special tokens and padding stay.

    Args:
        token: which; by default the mask token, else the padding token, else the mean of the vocabulary. A
            number is the id of any token.
    """

    token: Token = "auto"

    @property
    def stochastic(self) -> bool:
        return False

    def rows(self, problem: Problem, owner: RowIndex, draw: RowIndex) -> Rows:
        if problem.task.beneath is not None:
            return AtInput(baseline=self).rows(problem, owner, draw)
        return self.vector(problem).to(problem.x)[None, :, None].expand(len(owner), *problem.x.shape[1:])

    def vector(self, problem: Problem) -> Tensor:
        """(channels,) what stands at every position.

        Raises:
            SpecError: the task is about no text, or its tokenizer has no such token.
        """
        lifter = problem.task.lifter
        if not hasattr(lifter, "vector") or problem.x.ndim != 3:
            raise SpecError(
                Code.UNSUPPORTED,
                "Only texts have reference tokens",
                got=f"inputs of the modality {problem.task.modality!r}",
                fix="Choose another baseline, such as zero or mean",
            )
        found = lifter.vector(problem.task, self.token)
        if found is not None:
            return found
        raise SpecError(
            Code.UNSUPPORTED,
            f"The tokenizer has no {self.token} token" if self.token != "auto" else "No reference was found",
            expected="one of its own: "
            + ", ".join(t for t in NEXT if lifter.vector(problem.task, t) is not None),
            fix="Nothing is added to a tokenizer; choose another token, or a text as reference",
        )


@baselines.register(Card(name="mask", title="Mask token", source="sundararajan2017", features=("tokens",)))
def mask() -> ReferenceToken:
    """The vector of the mask token at every position of a text."""
    return ReferenceToken(token="mask")


@baselines.register(Card(name="pad", title="Padding token", source="sundararajan2017", features=("tokens",)))
def pad() -> ReferenceToken:
    """The vector of the padding token at every position of a text."""
    return ReferenceToken(token="pad")


@baselines.register(Card(name="unk", title="Unknown token", source="sundararajan2017", features=("tokens",)))
def unk() -> ReferenceToken:
    """The vector of the unknown token at every position of a text."""
    return ReferenceToken(token="unk")


@baselines.register(
    Card(name="mean_embedding", title="Mean embedding", source="sundararajan2017", features=("tokens",))
)
def mean_embedding() -> ReferenceToken:
    """The mean vector of the vocabulary at every position of a text."""
    return ReferenceToken(token="mean")


@baselines.register(
    Card(
        name="text",
        title="Another text",
        source="sundararajan2017",
        features=("tokens",),
        example={"text": "another text"},
    )
)
@value
class AnotherText:
    """The vectors of another text with as many tokens.

    Args:
        text: the text.
    """

    text: str

    @property
    def stochastic(self) -> bool:
        return False

    def rows(self, problem: Problem, owner: RowIndex, draw: RowIndex) -> Rows:
        if problem.task.beneath is not None:
            return AtInput(baseline=self).rows(problem, owner, draw)
        lifter = problem.task.lifter
        if not hasattr(lifter, "sequence"):
            raise SpecError(Code.UNSUPPORTED, "Only a text can be the reference of a text")
        vectors, encoded = lifter.sequence(problem.task, self.text)
        rows = problem.x[owner].clone()
        inside = [place for place, out in enumerate(encoded.outside) if not out]
        labels: Any = problem
        tokens = labels.labels("token")[owner][:, 0]
        for row, own in zip(rows, tokens, strict=True):
            places = (own >= 0).nonzero().flatten()
            if len(places) != len(inside):
                raise InputError(
                    Code.BASELINE_SHAPE,
                    "A text as reference needs as many tokens as the text it stands for",
                    got=f"{len(inside)} tokens for {len(places)}",
                )
            row[:, places] = vectors[:, torch.tensor(inside, device=vectors.device)].to(row)
        return rows
