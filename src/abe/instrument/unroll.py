"""Recurrent operations unrolled into plain ones, for rules to act on: LSTM, GRU and RNN, layers and cells.

PyTorch runs a whole recurrent layer as one operation. These functions take the same arguments and give the
same values in products, sums, sigmoids and tanhs, which arrive at the instrument one by one.
"""

# torch leaves part of its own interface untyped:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from abe.errors import Code, ModelError

State = tuple[Tensor, ...]
Weights = Sequence[Tensor | None]
"""Input and hidden weights, their biases, and an LSTM's projection."""
Cell = Callable[[Tensor, State, Weights], State]


def _lstm(x: Tensor, state: State, weights: Weights) -> State:
    h, c = state
    entry, forget, new, out = _gates(x, h, weights).chunk(4, -1)
    c = torch.sigmoid(forget) * c + torch.sigmoid(entry) * torch.tanh(new)
    h = torch.sigmoid(out) * torch.tanh(c)
    projection = weights[4] if len(weights) > 4 else None
    return (h if projection is None else F.linear(h, projection)), c


def _gru(x: Tensor, state: State, weights: Weights) -> State:
    (h,) = state
    w_x, w_h, b_x, b_h = weights
    reset_x, update_x, new_x = F.linear(x, _given(w_x), b_x).chunk(3, -1)
    reset_h, update_h, new_h = F.linear(h, _given(w_h), b_h).chunk(3, -1)
    update = torch.sigmoid(update_x + update_h)
    new = torch.tanh(new_x + torch.sigmoid(reset_x + reset_h) * new_h)
    return ((1 - update) * new + update * h,)


def _tanh(x: Tensor, state: State, weights: Weights) -> State:
    return (torch.tanh(_gates(x, state[0], weights)),)


def _relu(x: Tensor, state: State, weights: Weights) -> State:
    return (torch.relu(_gates(x, state[0], weights)),)


def _gates(x: Tensor, h: Tensor, weights: Weights) -> Tensor:
    w_x, w_h, b_x, b_h = weights[:4]
    return F.linear(x, _given(w_x), b_x) + F.linear(h, _given(w_h), b_h)


def _given(weight: Tensor | None) -> Tensor:
    if weight is None:
        raise TypeError("a recurrent operation came without a weight")
    return weight


_CELLS: dict[str, Cell] = {"lstm": _lstm, "gru": _gru, "rnn_tanh": _tanh, "rnn_relu": _relu}


class _Unrolled:
    """A recurrent layer with the signature of its operation."""

    def __init__(self, name: str) -> None:
        self.name, self.cell = name, _CELLS[name]

    def __call__(
        self,
        x: Tensor,
        hx: Any,
        params: Any,
        has_biases: Any,
        num_layers: Any,
        dropout: Any,
        train: Any,
        bidirectional: Any,
        batch_first: Any,
    ) -> tuple[Tensor, ...]:
        if not isinstance(has_biases, bool):  # (data, batch sizes, hx, params, …)
            raise ModelError(
                Code.RULE,
                "Packed sequences hide which row a step belongs to, so backward rules cannot be applied",
                got=f"{self.name!r} on a PackedSequence",
                fix="Let the model run the layer on padded sequences, or use a gradient, path or removal "
                "method, which need no rules",
            )
        start: State = (hx,) if isinstance(hx, Tensor) else tuple(hx)
        ways = 2 if bidirectional else 1
        size = len(params) // (num_layers * ways)
        steps = list((x.transpose(0, 1) if batch_first else x).unbind(0))
        ends: list[State] = []
        for layer in range(num_layers):
            outs: list[list[Tensor]] = []
            for way in range(ways):
                at = layer * ways + way
                weights = _weights(params[at * size : (at + 1) * size], has_biases)
                out, end = self._scan(steps, tuple(s[at] for s in start), weights, reverse=way == 1)
                outs.append(out)
                ends.append(end)
            steps = outs[0] if ways == 1 else [torch.cat(pair, -1) for pair in zip(*outs, strict=True)]
            if train and dropout and layer < num_layers - 1:
                steps = [F.dropout(step, dropout) for step in steps]
        return torch.stack(steps, 1 if batch_first else 0), *(torch.stack(s) for s in zip(*ends, strict=True))

    def _scan(
        self, steps: list[Tensor], state: State, weights: Weights, *, reverse: bool
    ) -> tuple[list[Tensor], State]:
        out: list[Tensor] = []
        for step in reversed(steps) if reverse else steps:
            state = self.cell(step, state, weights)
            out.append(state[0])
        return out[::-1] if reverse else out, state


def _weights(params: Sequence[Tensor], has_biases: bool) -> Weights:
    if has_biases:
        return params
    return [*params[:2], None, None, *params[2:]]


class _OneStep:
    """A recurrent cell with the signature of its operation."""

    def __init__(self, name: str) -> None:
        self.name, self.cell = name, _CELLS[name]

    def __call__(
        self,
        x: Tensor,
        hx: Any,
        w_ih: Tensor,
        w_hh: Tensor,
        b_ih: Tensor | None = None,
        b_hh: Tensor | None = None,
    ) -> Any:
        state: State = (hx,) if isinstance(hx, Tensor) else tuple(hx)
        found = self.cell(x, state, (w_ih, w_hh, b_ih, b_hh))
        return found if self.name == "lstm" else found[0]


UNROLLED: dict[str, Callable[..., Any]] = {
    **{name: _Unrolled(name) for name in _CELLS},
    **{f"{name}_cell": _OneStep(name) for name in _CELLS},
}
"""Name of a recurrent operation -> the same in plain operations."""
