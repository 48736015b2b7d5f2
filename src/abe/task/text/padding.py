"""Where texts end: behind it stands padding, which a model is not given, or which its mask leaves out."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from abe.errors import Code, ModelError, note
from abe.instrument.model_state import as_found
from abe.instrument.operations import tensors
from abe.instrument.per_model import PerModel
from abe.task.lifted import LENGTH, OWN, Context
from abe.task.text.embedding import Signature

SAME = {torch.float64: 1e-9, torch.float32: 1e-4}
"""Share of the largest output below which a difference is rounding; one per cent in shorter types."""
IN_SPITE = (
    "The model reads the padding of texts in spite of its mask, so each text was run without padding, "
    "as it is alone"
)
_LEFT_OUT: PerModel[bool] = PerModel()
"""By model, whether its mask leaves padding out."""

Values = Mapping[str | int, Tensor]


def ends(
    lengths: Sequence[int], values: Values, mask: Tensor, signature: Signature, *, free: bool
) -> dict[str, Tensor]:
    """What `Context.about` says of where texts end.

    Args:
        lengths: tokens of each text.
        values: what the model is given.
        mask: (b, t) 1 for tokens, 0 for padding.
        signature: how the model takes them.
        free: whether the padding is ours, so that it may be left out.
    """
    if signature.attention is None:
        said = [values[name] for name in ("lengths", "length") if name in values]
        if not (free or said):
            return {}
        each = said[0] if said else torch.tensor(lengths)
        return {LENGTH: each.long().reshape(len(lengths))}
    behind = mask.ndim == 2 and bool((mask[:, 1:] <= mask[:, :-1]).all())
    return {OWN: mask.sum(1).long()} if behind else {}


def checked(
    model: nn.Module, values: Values, beside: Values, found: dict[str, Tensor]
) -> tuple[dict[str, Tensor], tuple[str, ...], int]:
    """The same ends, where the mask of a padded text has been tried on a model once.

    Returns:
        Lengths that texts are run at where the mask does not leave padding out; a note then; rows that ran.
    """
    own = found.get(OWN)
    full = max((value.shape[1] for value in values.values() if value.ndim > 1), default=0)
    if own is None or bool((own == full).all()):
        return found, (), 0
    left_out, rows = _LEFT_OUT.get(model), 0
    if left_out is None:
        shortest = int(own.argmin())
        one = Context({**beside, **{k: v[shortest : shortest + 1] for k, v in values.items()}})
        with as_found(model), torch.no_grad():
            padded, alone = (_outputs(model, given) for given in (one, one.cut(int(own[shortest]), full)))
        left_out, rows = _LEFT_OUT.set(model, _alike(padded, alone)), 2
    if left_out:
        return found, (), rows
    return {LENGTH: own}, (note(Code.PADDING_READ, IN_SPITE),), rows


def run(model: nn.Module, values: Values) -> Any:
    """The outputs of a model on inputs by name and place.

    Raises:
        ModelError: MODEL_FAILED.
    """
    places = sorted(key for key in values if isinstance(key, int))
    try:
        return model(
            *(values[key] for key in places), **{k: v for k, v in values.items() if isinstance(k, str)}
        )
    except Exception as problem:
        raise ModelError(
            Code.MODEL_FAILED,
            "The model's forward raised an exception on the tokens",
            got=f"{type(problem).__name__}: {problem}",
            fix="Check that the model takes what the tokenizer gives",
        ) from problem


def _outputs(model: nn.Module, given: Context) -> list[Tensor]:
    return [one for one in tensors(run(model, given.values)) if one.is_floating_point()]


def _alike(padded: Sequence[Tensor], alone: Sequence[Tensor]) -> bool:
    """Whether outputs are the same; those with a place for every token are not compared."""
    for one, other in zip(padded, alone, strict=False):
        if one.shape == other.shape:
            most = float((one - other).abs().max()) if one.numel() else 0.0
            if most > SAME.get(one.dtype, 1e-2) * max(float(other.abs().max()), 1e-6):
                return False
    return True
