"""Maps from attention between two sequences: bi-modal relevance, and cross-attention per token."""

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from torch import Tensor

from abe.engines.attention.aggregate import fused, identity, relevant
from abe.engines.attention.capture import Attention
from abe.engines.attention.engine import (
    Reading,
    over_input,
    refuse_windows,
    row_of,
    run_attention,
)
from abe.engines.runtime.problem import Problem
from abe.engines.runtime.shapes import Upsample
from abe.errors import Code, ModelError, SpecError
from abe.spec import value
from abe.types import Result

Side = Annotated[Literal["other", "own"], "sequence"]
Axis = Literal["queries", "keys"]


@value
class BimodalRelevance:
    """Relevance of the input's tokens where two sequences attend to themselves and to each other.

    R_ss and R_qq begin as identities, R_sq and R_qs as zero. Self-attention: R_ss += Ā R_ss and
    R_sq += Ā R_sq. Attention of s to q: R_sq += R̄_ssᵀ Ā R̄_qq and R_ss += Ā R_qs, R̄ with the identity
    taken off, rows scaled to sum 1, and the identity put back. Attention of both to each other in a
    row is taken as one step from the same state. Sequences are told apart by their numbers of tokens.

    Args:
        reads: whose row is read: the ``"other"`` sequence's (a text that is asked about an image), or
            the input's ``"own"``.
        query: the row; 0 is the class token.
        layers: names of modules whose attention alone is taken; all by default.
        upsample: how the map is enlarged.
    """

    reads: Side = "other"
    query: int = 0
    layers: tuple[str, ...] = ()
    upsample: Upsample = "bilinear"

    def run(self, problem: Problem) -> Result:
        """One forward and one backward row per sample."""
        return run_attention(problem, self.layers, True, self.upsample, self._read)

    def _read(self, found: Sequence[Attention], extent: Sequence[int]) -> list[Reading]:
        refuse_windows(found)
        tokens, grid = over_input(found, extent, "keys")
        sizes = {n for one in found for n in (one.queries, one.keys)}
        crossed = any(one.queries != one.keys for one in found)
        if len(sizes) != 2 or not crossed:
            raise ModelError(
                Code.NO_ATTENTION,
                "Bi-modal relevance needs attention between two sequences of different length",
                got=f"sequences of {', '.join(map(str, sorted(sizes)))} tokens"
                + ("" if crossed else " that only attend to themselves"),
                fix="Use chefer_relevance for one sequence, or choose modules with layers=…",
            )
        other = next(iter(sizes - {tokens}))
        relevance = bimodal(found, tokens, other)
        reader = other if self.reads == "other" else tokens
        return [Reading(row_of(relevance[reader, tokens], self.query, grid), grid)]


def bimodal(found: Sequence[Attention], s: int, q: int) -> dict[tuple[int, int], Tensor]:
    """The four relevance matrices, keyed by the lengths of their sequences (rows, columns)."""
    like = found[0].weights
    n = len(like)
    state = {(a, b): like.new_zeros(n, a, b) for a in (s, q) for b in (s, q)}
    for a in (s, q):
        state[a, a] = identity(state[a, a])
    steps = list(found)
    while steps:
        layer = steps.pop(0)
        together = [layer]
        if (
            layer.queries != layer.keys
            and steps
            and (steps[0].queries, steps[0].keys)
            == (
                layer.keys,
                layer.queries,
            )
        ):
            together.append(steps.pop(0))
        changes = [change for one in together for change in _changes(one, state)]
        for pair, change in changes:
            state[pair] = state[pair] + change
    return state


def _changes(layer: Attention, state: dict[tuple[int, int], Tensor]) -> list[tuple[tuple[int, int], Tensor]]:
    """What one attention adds to which relevance."""
    mean = relevant(layer)
    s, q = layer.queries, layer.keys
    if s == q:
        others = [pair for pair in state if pair[0] == s]
        return [(pair, mean @ state[pair]) for pair in others]
    own = _scaled(state[s, s]).transpose(1, 2)
    return [((s, q), own @ mean @ _scaled(state[q, q])), ((s, s), mean @ state[q, s])]


def _scaled(relevance: Tensor) -> Tensor:
    """(R − I) with rows that sum to 1, plus I; rows without relevance stay zero."""
    eye = identity(relevance)
    rest = relevance - eye
    total = rest.sum(-1, keepdim=True)
    return torch.where(total != 0, rest / total, torch.zeros_like(rest)) + eye


@value
class CrossAttention:
    """Mean over layers, calls and heads of the enlarged cross-attention between places and tokens.

    Args:
        tokens: the tokens of the other sequence whose attention is added up.
        layers: names of modules whose attention alone is taken; all by default.
        upsample: how each layer's map is enlarged before the mean.
    """

    tokens: tuple[int, ...]
    layers: tuple[str, ...] = ()
    upsample: Upsample = "bilinear"

    def __post_init__(self) -> None:
        if not self.tokens:
            raise SpecError(Code.BAD_PARAMETER, "Name at least one token", got=f"tokens = {self.tokens}")

    def run(self, problem: Problem) -> Result:
        """One forward row per sample."""
        return run_attention(problem, self.layers, False, self.upsample, self._read)

    def _read(self, found: Sequence[Attention], extent: Sequence[int]) -> list[Reading]:
        crossed = [one for one in found if one.queries != one.keys]
        if not crossed:
            raise ModelError(
                Code.NO_ATTENTION,
                "The model has no cross-attention",
                got=f"{len(found)} attention matrices, all of a sequence to itself",
                fix="Use attention_rollout or chefer_relevance",
            )
        refuse_windows(crossed)
        chosen, side = _with_places(crossed)
        return [self._reading(one, side, extent) for one in chosen]

    def _reading(self, layer: Attention, side: Axis, extent: Sequence[int]) -> Reading:
        """The attention between the places of one layer and the chosen tokens of the other sequence."""
        matrix = fused(layer.weights, "mean")
        _, grid = over_input([layer], extent, side)
        other = layer.keys if side == "queries" else layer.queries
        for token in self.tokens:
            if not -other <= token < other:
                raise SpecError(
                    Code.BAD_PARAMETER, f"There is no token {token}", expected=f"0 to {other - 1}"
                )
        chosen = list(self.tokens)
        numbers = matrix[:, :, chosen].sum(2) if side == "queries" else matrix[:, chosen].sum(1)
        return Reading(numbers, grid)


def _with_places(crossed: Sequence[Attention]) -> tuple[list[Attention], Axis]:
    """The matrices to read, and which of their axes the input's places are on.

    Layers of several resolutions share the other sequence, whose length does not change; otherwise the
    longer sequence is the input's. Where places attend to tokens and tokens to places, the former.
    """
    rows, columns = {one.queries for one in crossed}, {one.keys for one in crossed}
    if len(rows) > 1 and len(columns) == 1:
        return list(crossed), "queries"
    if len(columns) > 1 and len(rows) == 1:
        return list(crossed), "keys"
    looking = [one for one in crossed if one.queries > one.keys]
    return (looking, "queries") if looking else (list(crossed), "keys")
