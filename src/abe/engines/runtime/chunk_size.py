"""How many rows to run at once: the fastest chunk by the clock, within a memory budget."""

import inspect
import os
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from abe.instrument.inspection import dense_parts
from abe.instrument.whose import calling

NOISE = 0.03
"""Sizes whose least times per row differ by no more than this share are told apart by nothing but noise."""
ENOUGH, FEWEST, MOST = 0.03, 4, 8
"""A size is timed `FEWEST` times or more, until `ENOUGH` seconds or `MOST` times: short chunks are noisy."""
HOPELESS = 0.1
"""A size that is slower by this share after two times is not timed on."""
LONG = 0.25
"""Seconds of a chunk from which on nothing but a gain beyond noise is worth a larger one."""
CHANGED = 1.3
"""A settled size whose rows all take this many times longer, or shorter, than promised is tried anew."""
WATCHED, PATIENCE = 4, 8
"""How many chunks in a row must say so, and how many must have run since; the second doubles each time."""
CPU_BUDGET = 2**29
"""Bytes that the activations of one chunk may take on a CPU, or a quarter of what is free if less."""
GPU_SHARE = 0.5
"""Share of a GPU's free memory that the activations of one chunk may take."""


_FORBIDS = inspect.unwrap(torch.autograd.graph.disable_saved_tensors_hooks).__code__


@dataclass
class ChunkPlan:
    """Finds the chunk with the least time per row by trying neighbouring sizes on real work.

    A size is timed in turn with the best one so far, so that a busy moment meets both; of sizes that
    only noise tells apart the largest is taken. The first chunk measures what a row keeps in memory,
    which limits the sizes that are tried; the first chunk of every size warms caches up and does not
    count. When later rows keep another pace than was promised, the search begins anew where it ended.

    Attributes:
        start: size to begin with.
        budget: bytes that a chunk may keep.
        measured: whether the bytes per row are known; until then chunks have two rows.
        limit: largest size allowed.
        settled: the chosen size, once known.
    """

    start: int = 8
    budget: int = CPU_BUDGET
    measured: bool = True
    limit: int = 4096
    settled: int | None = None
    trial: int = 0
    seen: dict[int, list[float]] = field(default_factory=dict)
    _warm: set[int] = field(default_factory=set)
    _challenger: int | None = None
    _late: list[float] = field(default_factory=list)
    _since: int = 0
    _patience: int = PATIENCE

    def __post_init__(self) -> None:
        self.trial = min(self.start, self.limit)

    @property
    def size(self) -> int:
        """Rows to run next."""
        if not self.measured:
            return min(2, self.limit)
        return self.settled or self.trial

    def fit(self, bytes_per_row: int) -> None:
        """Limit the size to what the budget holds."""
        self.measured = True
        self.limit = _power_of_two(min(self.limit, self.budget // max(bytes_per_row, 1)))
        self.trial = min(self.trial, self.limit)

    def record(self, size: int, seconds: float) -> None:
        """Note how long a chunk took and move on when enough is known."""
        if self.settled is not None:
            self._watch(size, seconds / size)
            return
        if size != self.trial:
            return
        if size not in self._warm:
            self._warm.add(size)
            return
        self.seen.setdefault(size, []).append(seconds / size)
        self._advance()

    def shrink(self, size: int) -> None:
        """Never try ``size`` rows again: they did not fit."""
        self.measured = True
        self.limit = max(1, size // 2)
        self.seen = {s: t for s, t in self.seen.items() if s <= self.limit}
        self.trial, self._challenger = self.limit, None
        if self.settled is not None:
            self.settled = self.limit

    def _advance(self) -> None:
        """Time the challenger in turn with the best, then the next one; settle when there is none."""
        best, other = self._best(), self._challenger
        if other is not None and not (self._known(other) or self._hopeless(other)):
            self.trial = other if self.trial != other or other not in self.seen else self._champion(other)
            return
        if other is None and not self._known(best):
            return
        for neighbour in (best * 2, best // 2):
            if 1 <= neighbour <= self.limit and neighbour not in self.seen and self._pays(best, neighbour):
                self.trial = self._challenger = neighbour
                return
        self.settled, self._challenger, self._since = best, None, 0
        self._late.clear()

    def _watch(self, size: int, per_row: float) -> None:
        """Begin anew where the settled size keeps another pace than it promised."""
        if size != self.settled or size not in self.seen:
            return
        self._since += 1
        self._late = [*self._late[1 - WATCHED :], per_row]
        promised = min(self.seen[size])
        slower = min(self._late) > CHANGED * promised
        faster = max(self._late) * CHANGED < promised
        if len(self._late) == WATCHED and self._since >= self._patience and (slower or faster):
            self._patience *= 2
            self.seen, self.settled, self.trial = {}, None, size

    def _pays(self, best: int, neighbour: int) -> bool:
        """Whether a neighbour is worth a try: a larger one saves calls, which long chunks have few of."""
        per_row = min(self.seen[best])
        half = min(self.seen.get(best // 2, [torch.inf]))
        return neighbour < best or per_row * best < LONG or per_row < half / (1 + NOISE)

    def _known(self, size: int) -> bool:
        times = self.seen.get(size, [])
        return len(times) >= FEWEST and (sum(times) * size >= ENOUGH or len(times) >= MOST)

    def _hopeless(self, size: int) -> bool:
        times = self.seen.get(size, [])
        return len(times) >= 2 and min(times) > min(map(min, self.seen.values())) * (1 + HOPELESS)

    def _champion(self, challenger: int) -> int:
        others = {size: min(times) for size, times in self.seen.items() if size != challenger}
        return min(others, key=lambda size: others[size])

    def _best(self) -> int:
        """The largest size whose time per row is within `NOISE` of the least."""
        fastest = {size: min(times) for size, times in self.seen.items()}
        least = min(fastest.values())
        return max(size for size, seconds in fastest.items() if seconds <= least * (1 + NOISE))


class Saved:
    """Counts the bytes a forward pass keeps for its backward pass, apart from what is there anyway.

    Args:
        known: tensors that do not count, such as the weights, which every backward pass reads.
    """

    def __init__(self, known: Iterable[Tensor] = ()) -> None:
        self.bytes = 0
        self._seen = {part.untyped_storage().data_ptr() for one in known for part in dense_parts(one)}
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._count, _unwritten)

    def __enter__(self) -> "Saved":
        self._hooks.__enter__()
        return self

    def __exit__(self, *problem: object) -> None:
        self._hooks.__exit__(*problem)

    def _count(self, tensor: Tensor) -> tuple[Tensor, int]:
        for part in dense_parts(tensor):
            storage = part.untyped_storage()
            try:
                place = storage.data_ptr()
            except RuntimeError:  # zeros that take no memory, as forward-mode differentiation makes
                continue
            if place not in self._seen:
                self._seen.add(place)
                self.bytes += storage.nbytes()
        return tensor, _version(tensor)


def forbids_hooks(problem: BaseException) -> bool:
    """Whether a forward ended because it forbids hooks on saved tensors, as `torch.func.grad` does."""
    step = (problem.__cause__ or problem).__traceback__
    while step is not None and step.tb_next is not None:
        step = step.tb_next
    return step is not None and step.tb_frame.f_code is _FORBIDS


def memory_budget(device: torch.device) -> int:
    """Bytes that the activations of one chunk may take on ``device``."""
    if device.type == "cuda":
        return int(GPU_SHARE * torch.cuda.mem_get_info(device)[0])
    return min(CPU_BUDGET, _free_memory() // 4)


def _free_memory() -> int:
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return 4 * CPU_BUDGET


def _power_of_two(number: int) -> int:
    return 1 << (max(1, number).bit_length() - 1)


def _version(tensor: Tensor) -> int:
    return -1 if tensor.is_inference() else tensor._version


@calling
def _unwritten(kept: tuple[Tensor, int]) -> Tensor:
    """What was saved; torch leaves it to hooks to see that nobody wrote to it since."""
    tensor, version = kept
    if _version(tensor) != version:
        raise RuntimeError(
            "one of the variables needed for gradient computation has been modified by an inplace operation: "
            f"{tuple(tensor.shape)}, {tensor.dtype}"
        )
    return tensor
