"""Agreement between methods: rank correlation, overlap of the top positions, agreement of signs."""

from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from abe import arrays
from abe.checks import checked_arguments
from abe.draws import SeededDraws, as_ids
from abe.errors import Code, InputError, SpecError
from abe.explanation import Explanation
from abe.metrics.evaluation.sources import Array, SavedMaps, named
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
def agreement(explanations: Any, *, x: Any = None, share: float = 0.1, seed: int = 0) -> Agreement:
    """Pairwise agreement of explanations of the same samples (the disagreement problem).

    Args:
        explanations: by name, or a list; maps of the same samples: explanations, arrays as
            `abe.Explanation.from_array` reads them, or paths of either.
        x: (b, *f) the explained inputs, for arrays; those of an explanation among them by default.
        share: fraction of positions that counts as the top.
        seed: of the order among equals.

    Raises:
        InputError: maps of different samples, of another shape than these, NaN or infinite; arrays alone,
            without their inputs.
        SpecError: no fraction, or no explanation.
    """
    if not 0 < share <= 1:
        raise SpecError(
            Code.BAD_PARAMETER, "Agreement needs a fraction of the positions", got=f"share {share}"
        )
    made = _made(explanations, x)
    names = tuple(made)
    first = made[names[0]]
    flat: list[Tensor] = []
    for name in names:
        one = made[name]
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


def _made(given: Any, x: Any) -> dict[str, Explanation]:
    """Explanations by name; arrays as maps of the inputs."""
    sources = named(given)
    finished = [s.explanation for s in sources.values() if isinstance(s, SavedMaps)]
    held = [s.inputs for s in sources.values() if isinstance(s, Array) and s.inputs is not None]
    inputs = next(iter([e.x for e in finished] + held), None) if x is None else x
    inputs = (
        inputs if inputs is None or isinstance(inputs, Tensor) else arrays.as_tensor(inputs, "The inputs")
    )
    found: dict[str, Explanation] = {}
    for name, one in sources.items():
        if isinstance(one, SavedMaps):
            found[name] = one.explanation
        elif not isinstance(one, Array):
            raise SpecError(
                Code.BAD_PARAMETER,
                "Agreement needs maps that are made already",
                got=name,
                fix="Explain first",
            )
        elif inputs is None:
            raise InputError(
                Code.SAMPLES,
                "It is not known of which inputs the maps are",
                got=f"the array {name!r}",
                fix="Pass x= with the explained inputs, or abe.Explanation.from_array(maps, x, target=…)",
            )
        else:
            arrays.check_inputs(one.inputs, inputs, name)
            target = finished[0].target if finished else 0
            found[name] = Explanation.from_array(one.maps, inputs, target=target, name=name)
    return found
