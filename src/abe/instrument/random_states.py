"""The global random states of PyTorch, Python and NumPy, which every request puts back."""

# torch leaves part of its own interface untyped:
# pyright: reportUnknownMemberType=false

import random
import sys
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from ctypes import string_at
from dataclasses import dataclass
from threading import Lock, get_ident
from typing import Any

import numpy as np
import torch
from torch import Tensor

_TWISTER = 4 * 624 + 4
"""Bytes of the numbers and the position of NumPy's default generator."""
_GAUSS = "has_gauss"
"""Says in NumPy's state whether a normal draw is kept for the next call."""
_LAST: dict[bytes, Any] = {}
"""NumPy's state as last read, by its bytes: reading it takes thirty times as long as comparing those."""


def _numpy_bytes() -> bytes | None:
    """What NumPy's global generator holds; None where it is another than the default one."""
    read = getattr(np.random, "get_bit_generator", None)  # there since NumPy 1.24
    generator = read() if read is not None else None
    if type(generator) is not np.random.MT19937:
        return None
    return string_at(generator.ctypes.state_address, _TWISTER)


def _numpy_state(held: bytes | None) -> Any:
    """NumPy's state, read anew only where it may have changed since it was last read."""
    if held is not None and (last := _LAST.get(held)) is not None:
        return last
    state: Any = np.random.get_state(legacy=False)  # noqa: NPY002 - the user's, kept and not used
    if held is not None and not state[_GAUSS]:  # else a draw can leave the bytes as they are
        _LAST.clear()
        _LAST[held] = state
    return state


@dataclass(frozen=True, eq=False)
class RandomStates:
    """The states at one moment; that of CUDA too where it is in use."""

    torch: Tensor
    python: Any
    held: bytes | None
    numpy: Any
    cuda: Any  # a check of its members, as tests make it, would draw a random number itself

    @classmethod
    def now(cls) -> "RandomStates":
        """The states as they are."""
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
        held = _numpy_bytes()
        return cls(torch.get_rng_state(), random.getstate(), held, _numpy_state(held), cuda)

    def put_back(self) -> None:
        """Set them again."""
        torch.set_rng_state(self.torch)
        random.setstate(self.python)
        if self.held is None or self.numpy[_GAUSS] or _numpy_bytes() != self.held:
            np.random.set_state(self.numpy)  # noqa: NPY002
        if self.cuda:
            torch.cuda.set_rng_state_all(self.cuda)

    def same(self, other: "RandomStates") -> bool:
        """Whether nothing was drawn between the two."""
        return (
            torch.equal(self.torch, other.torch)
            and self.python == other.python
            and self.held == other.held
            and _same_numpy(self.numpy, other.numpy)
            and len(self.cuda) == len(other.cuda)
            and all(map(torch.equal, self.cuda, other.cuda))
        )


def _same_numpy(one: Any, other: Any) -> bool:
    if one is other:
        return True
    with np.printoptions(threshold=sys.maxsize):
        return repr(one) == repr(other)


_TURN = Lock()
_INSIDE: Counter[int] = Counter()
"""How often each thread is inside `kept_states`."""
_FIRST: list[RandomStates] = []
"""The random states before the first of them came."""


def states_before() -> RandomStates:
    """The random states that this thread will put back, where it is the only one that runs a model."""
    return _FIRST[0] if set(_INSIDE) == {get_ident()} and _FIRST else RandomStates.now()


@contextmanager
def kept_states() -> Generator[None]:
    """The global random states are what they were; of several threads at once, when the last has left."""
    me, before = get_ident(), RandomStates.now()
    with _TURN:
        if not _INSIDE:
            _FIRST[:] = [before]
        _INSIDE[me] += 1
    try:
        yield
    finally:
        with _TURN:
            _INSIDE[me] -= 1
            if not _INSIDE[me]:
                del _INSIDE[me]
            if not _INSIDE:
                _FIRST.pop().put_back()
            elif set(_INSIDE) == {me}:
                before.put_back()
