"""Agreement between methods: rank correlation, overlap of the top positions, agreement of signs."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from abe.checks import checked_arguments
from abe.draws import SeededDraws, as_ids
from abe.errors import Code, InputError, SpecError
from abe.metrics.subsets import pearson, places
from abe.units import check_map, rank


@dataclass(frozen=True)
class Agreement:
    """How much methods agree on the same samples.

    Attributes:
        methods: their names.
        rank: (m, m, b) Spearman's correlation of the maps, channels summed.
        top: (m, m, b) share of the top positions in common.
        sign: (m, m, b) share of the top positions in common that also have the same sign.
        share: what the top is, as a fraction of the positions.
    """

    methods: tuple[str, ...]
    rank: Float[Tensor, "m m b"]
    top: Float[Tensor, "m m b"]
    sign: Float[Tensor, "m m b"]
    share: float = field(default=0.1)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able means over samples."""
        return {
            "methods": list(self.methods),
            "share": self.share,
            **{n: getattr(self, n).mean(2).tolist() for n in ("rank", "top", "sign")},
        }


@checked_arguments
def agreement(explanations: Mapping[str, Any], *, share: float = 0.1, seed: int = 0) -> Agreement:
    """Pairwise agreement of explanations of the same samples (the disagreement problem).

    Args:
        explanations: by name; maps of the same samples.
        share: fraction of positions that counts as the top.
        seed: of the order among equals.

    Raises:
        InputError: maps of different samples, of another shape than these, NaN or infinite.
        SpecError: no fraction, or no explanation.
    """
    if not explanations or not 0 < share <= 1:
        raise SpecError(
            Code.BAD_PARAMETER,
            "Agreement needs explanations and a fraction of the positions",
            got=f"{len(explanations)} explanations, share {share}",
        )
    names = tuple(explanations)
    first = explanations[names[0]]
    flat: list[Tensor] = []
    for name in names:
        one = explanations[name]
        if one.x.shape != first.x.shape or not torch.equal(one.x, first.x):
            raise InputError(
                Code.SAMPLES, "Agreement compares maps of the same samples", got=f"others in {name!r}"
            )
        flat.append(check_map(one.attribution, one.x).double().sum(1).flatten(1))
    ids = first.ids or as_ids(None, first.x)
    draws, k = SeededDraws(seed=seed), max(1, round(share * flat[0].shape[1]))
    ranks = [places(f) for f in flat]
    # every method breaks ties by an order of its own, so two zero maps agree by chance only
    tops = [rank(f.abs(), draws=draws, ids=ids, draw=i) < k for i, f in enumerate(flat)]
    shape = (len(names), len(names), len(flat[0]))
    found = {n: torch.ones(shape, dtype=torch.float64) for n in ("rank", "top", "sign")}
    for i in range(len(names)):
        for j in range(len(names)):
            both = tops[i] & tops[j]
            found["rank"][i, j] = pearson(ranks[i], ranks[j]).cpu()
            if i != j:
                found["top"][i, j] = (both.sum(1) / k).cpu()
                found["sign"][i, j] = ((both & (flat[i].sign() == flat[j].sign())).sum(1) / k).cpu()
    return Agreement(methods=names, share=share, **found)
