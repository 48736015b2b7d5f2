"""Samples that ask about one input: their equal rows are run once, and each score is read from them.

Of one prompt every generated token is explained, of one photograph every object: the rows of such samples
often are the same. They are put side by side, whatever order an engine makes them in, compared, and run once;
m scores of a row take one forward and m backward passes. Rows that turn out to differ are run as they are.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from abe.task.lifted import LENGTH, SAME, SPAN, Context, first_of

BLOCK_BYTES = 64 * 2**20
"""Memory that the rows of a chunk may take before equal ones are run once."""


class Unequal(Exception):  # noqa: N818 -- no error: the planner goes on with fewer rows
    """Rows that were expected to be equal are not."""


@dataclass
class Order:
    """Rows in groups that are expected to be equal.

    Attributes:
        rows: (n,) row numbers, group after group.
        group: (n,) the group of each.
        starts: (g + 1,) where each group begins in ``rows``, and their end.
    """

    rows: Tensor
    group: Tensor
    starts: list[int]

    @classmethod
    def of(cls, context: Context, owner: Tensor) -> "Order | None":
        """The n-th rows of all samples that are of one input; None where no two samples are."""
        same = context.about.get(SAME)
        if same is None or len(owner) < 2 or len(same.unique()) == len(same):
            return None
        turn = within(owner)
        key = same.to(owner.device)[owner] * (int(turn.max()) + 1) + turn
        rows = key.argsort(stable=True)
        sizes = key[rows].unique_consecutive(return_counts=True)[1]
        starts = [0, *sizes.cumsum(0).tolist()]
        groups = torch.arange(len(sizes), device=owner.device).repeat_interleave(sizes)
        return None if len(sizes) == len(owner) else cls(rows, groups, starts)

    def __len__(self) -> int:
        return len(self.starts) - 1

    def some(self, first: int, count: int) -> tuple[Tensor, Tensor]:
        """(n,) rows of ``count`` groups, and the group of each."""
        part = slice(self.starts[first], self.starts[first + count])
        return self.rows[part], self.group[part]

    def apart(self, done: int) -> "Order":
        """The same from group ``done`` on, with every row expected to be another."""
        rest = self.rows[self.starts[done] :]
        return Order(rest, torch.arange(len(rest), device=rest.device), list(range(len(rest) + 1)))


def within(numbers: Tensor) -> Tensor:
    """(n,) how many entries before each are the same number."""
    order = numbers.argsort(stable=True)
    counts = numbers[order].unique_consecutive(return_counts=True)[1]
    starts = (counts.cumsum(0) - counts).repeat_interleave(counts)
    found = torch.empty_like(order)
    found[order] = torch.arange(len(numbers), device=numbers.device) - starts
    return found


def in_order(kept: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """(n, …) numbers of rows that came chunk by chunk, (row numbers, numbers) each, by row number."""
    rows, found = (torch.cat(one) for one in zip(*kept, strict=True))
    if bool((rows[1:] > rows[:-1]).all()):
        return found
    return found[rows.argsort().to(found.device)]


def merged(x: Tensor, context: Context, group: Tensor) -> tuple[Tensor, Tensor | None]:
    """Different rows (s, *f), and (n,) which of them each row is; None where all differ.

    The longest of a group stands for all that equal it on the positions that their scores depend on.
    """
    span = context.about.get(SPAN)
    full = torch.full((len(x),), x.shape[2] if x.ndim > 2 else 1, device=group.device)
    spans = (full if span is None else span.to(group.device)).tolist()
    lead = dict[int, int]()
    for row, number in enumerate(group.tolist()):
        if number not in lead or spans[row] > spans[lead[number]]:
            lead[number] = row
    runs = torch.tensor(
        [
            lead[number] if _equal(x, context, row, lead[number], spans[row]) else row
            for row, number in enumerate(group.tolist())
        ],
        device=x.device,
    )
    first, serves = first_of(runs)
    if len(first) == len(x):
        return x, None
    return x[runs[first]], serves


def _equal(x: Tensor, context: Context, row: int, other: int, span: int) -> bool:
    """Whether two rows are the same on the first positions, further inputs too."""
    if row == other:
        return True
    lengths, t = context.about.get(LENGTH), x.shape[2] if x.ndim > 2 else 0
    if lengths is not None and int(lengths[row]) != int(lengths[other]):
        return False
    return all(torch.equal(one[row], one[other]) for one in _parts(x, context, span, t))


def _parts(x: Tensor, context: Context, span: int, t: int) -> Iterator[Tensor]:
    for value in context.values.values():
        yield value[:, :span] if value.ndim > 1 and value.shape[1] == t else value
    yield x[:, :, :span] if t else x
    if context.beneath is not None:
        yield context.beneath[0]
