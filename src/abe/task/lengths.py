"""Rows that have fewer positions than the longest: which run together, and what they are without padding."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from abe.draws import as_ids, sample_ids
from abe.task.lifted import LENGTH, OWN, SAME, Context, Lifted, first_of
from abe.types import Part

OF = " of: "
"""Between `LENGTH` or `OWN` and the name of a part, in keys of `Context.about` on one of several inputs."""


@dataclass(frozen=True)
class Group:
    """Rows of one length.

    Attributes:
        rows: (m,) their numbers.
        x: (m, *f) they, without padding.
        context: what belongs to them.
        parts: where inputs lie in ``x``.
        kept: of flat features, the entries that ``x`` has; None where positions are an axis.
        serves: the row of ``x`` that each entry of the context is about, where a row serves several of them.
    """

    rows: Tensor
    x: Tensor
    context: Context
    parts: tuple[Part, ...]
    kept: Tensor | None = None
    serves: Tensor | None = None


def lengths_of(context: Context, parts: Sequence[Part], *, own: bool = False) -> Tensor | None:
    """(n, k) positions of every row, for each of k inputs; None where every row has all.

    Args:
        context: of the rows.
        parts: of the features.
        own: also where a mask tells the model of the padding.
    """
    kinds = (LENGTH, OWN) if own else (LENGTH,)
    one = next((context.about[kind] for kind in kinds if kind in context.about), None)
    if one is not None:
        return one[:, None]
    found = {
        p.name: next((context.about[k] for k in _keys(p, kinds) if k in context.about), None) for p in parts
    }
    given = next((each for each in found.values() if each is not None), None)
    if given is None:
        return None
    full = {part.name: torch.full_like(given, part.shape[1] if len(part.shape) > 1 else 0) for part in parts}
    columns = [full[name] if each is None else each for name, each in found.items()]
    return torch.stack(columns, 1)


def _keys(part: Part, kinds: Sequence[str]) -> list[str]:
    return [f"{kind}{OF}{part.name}" for kind in kinds]


def groups(
    x: Tensor,
    context: Context,
    parts: tuple[Part, ...],
    *,
    own: bool = False,
    serves: Tensor | None = None,
) -> Iterator[Group]:
    """Rows of one length after the other, without what stands behind them.

    Args:
        x: features.
        context: of the rows, or of all that they serve.
        parts: where inputs lie in ``x``.
        own: also where a mask tells the model of the padding.
        serves: (n,) the row of ``x`` that each entry of the context is about.
    """
    lengths = lengths_of(context, parts, own=own)
    if lengths is None:
        return
    different = lengths.unique(dim=0).tolist()
    for ends in different:
        rows = (lengths == torch.tensor(ends, device=lengths.device)).all(1).nonzero().flatten()
        mine, taken, serving = x, context, serves
        if len(different) > 1:
            at, taken = rows, context.take(rows)
            if serves is not None:
                at, serving = serves[rows.to(serves.device)].unique(return_inverse=True)
            mine = x[at.to(x.device)]
        if lengths.shape[1] == 1 and not _several(context):
            (end,) = ends
            whole = end == x.shape[2]
            short = mine if whole else mine[:, :, :end]
            yield Group(rows, short, taken.cut(end, x.shape[2]), parts, serves=serving)
        else:
            kept, placed = _shortened(parts, ends)
            kept = kept.to(x.device)
            cut = _cut(taken, parts, ends, kept, x.shape[1])
            yield Group(rows, mine[:, kept], cut, placed, kept, serving)


def _several(context: Context) -> bool:
    return not any(kind in context.about for kind in (LENGTH, OWN))


def _shortened(parts: Sequence[Part], ends: Sequence[int]) -> tuple[Tensor, tuple[Part, ...]]:
    """The entries of flat features that belong to no padding, and where inputs lie among them."""
    kept, short, start = list[Tensor](), list[Part](), 0
    for part, end in zip(parts, ends, strict=True):
        numbers = torch.arange(part.start, part.stop).view(part.shape or (-1,))
        numbers = numbers[:, :end] if len(part.shape) > 1 else numbers
        shape = tuple(numbers.shape) if part.shape else ()
        short.append(replace(part, start=start, stop=start + numbers.numel(), shape=shape))
        kept.append(numbers.flatten())
        start = short[-1].stop
    return torch.cat(kept), tuple(short)


def _cut(context: Context, parts: Sequence[Part], ends: Sequence[int], kept: Tensor, size: int) -> Context:
    values: dict[str | int, Tensor] = dict(context.values)
    for part, end in zip(parts, ends, strict=True):
        for name in part.along:
            if values[name].ndim > 1 and values[name].shape[1] == part.shape[1]:
                values[name] = values[name][:, :end]
    told = {key: value for key, value in context.about.items() if OF not in key}
    return replace(context, values=values, about=_of_entries(told, kept, size))


def _of_entries(about: Mapping[str, Tensor], kept: Tensor, size: int) -> dict[str, Tensor]:
    """What is known of every entry of flat features, for those that are kept."""
    of_each = {k: v.ndim == 2 and v.shape[1] == size for k, v in about.items()}
    return {k: v[:, kept.to(v.device)] if of_each[k] else v for k, v in about.items()}


def of_part(context: Context, part: Part, packed: Tensor) -> Context:
    """The context of one of several inputs, as it would be alone.

    Args:
        context: of all.
        part: the input.
        packed: (b, *f) features that hold it.
    """
    own = {key: value for key, value in context.about.items() if OF not in key}
    about = {k: part.of(v) if v.shape[1:] == packed.shape[1:] else v for k, v in own.items()}
    for kind in (LENGTH, OWN):
        if (ends := context.about.get(f"{kind}{OF}{part.name}")) is not None:
            about[kind] = ends
    return replace(context, about=about)


def identities(ids: Sequence[int | str] | None, lifted: Lifted) -> list[int]:
    """What draws go by: given identities, or the content of each sample without the padding behind it.

    Samples that ask about one input draw alike.

    Raises:
        InputError: not one identity per sample.
    """
    same = lifted.context.about.get(SAME)
    if ids is None and same is not None:
        first, which = first_of(same)
        each = identities(None, lifted.take(first)) if len(first) < len(same) else _contents(lifted)
        return [each[place] for place in which.tolist()]
    return as_ids(ids, lifted.x) if ids is not None else _contents(lifted)


def _contents(lifted: Lifted) -> list[int]:
    apart = list(groups(lifted.x, lifted.context, lifted.parts, own=True))
    if not apart:
        return as_ids(None, lifted.x)
    seen, found = dict[int, int](), dict[int, Tensor]()
    for group in apart:
        found |= dict(zip(group.rows.tolist(), group.x.split(1), strict=True))
    return [one for place in range(len(lifted.x)) for one in sample_ids(found[place], seen)]


def ends_of(own: Mapping[str | int, Lifted]) -> dict[str, Tensor]:
    """What `Context.about` says of inputs whose samples differ in length.

    Args:
        own: by name, each input by itself.
    """
    kinds = [(name, kind) for name in own for kind in (LENGTH, OWN) if kind in own[name].context.about]
    said = {f"{kind}{OF}{name}": own[name].context.about[kind] for name, kind in kinds}
    return {key: each for key, each in said.items() if bool((each != each[0]).any())}
