"""``--weights``: the numbers of a file in a model that a factory has built."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from abe.cli.ready import regular
from abe.errors import Code, SpecError, StorageError

if TYPE_CHECKING:
    from torch import Tensor, nn

SHOWN = 3
"""Names listed of each kind of difference before it says how many more there are."""


def check(path: Path) -> None:
    """Refuse what is no file, before the model is made.

    Raises:
        StorageError: it is missing or no regular file.
    """
    if problem := regular(path):
        raise StorageError(
            Code.FOREIGN_FILE, f"--weights names no file: {problem}", got=str(path), fix="Check the path"
        )


def load_into(model: "nn.Module", path: Path) -> None:
    """Fill a model with a file's weights, which must be exactly the model's own by name and shape.

    A name that all weights begin with and the model's do not (``module.`` of DataParallel) is left out.
    Counters of batches may be missing, and so may a tensor that shares its memory with one that is there.

    Raises:
        StorageError: the file is damaged, or holds anything but weights.
        SpecError: the weights are another model's.
    """
    found, own = read(path), model.state_dict()
    found = _without_prefix(found, own)
    differing = _differences(found, own)
    if differing:
        raise SpecError(
            Code.BAD_PARAMETER,
            f"The weights of {path.name} are not those of this model",
            got="; ".join(differing),
            expected="the names and shapes of model.state_dict()",
            fix="Build the model that was trained (--model-arg), or name its own file",
        )
    model.load_state_dict(found, strict=False)


def read(path: Path) -> dict[str, "Tensor"]:
    """Tensors by name from ``.safetensors`` or from what `torch.save` wrote; nothing else is unpickled.

    Raises:
        StorageError: the file is damaged, or holds anything but weights.
    """
    import torch

    try:
        if path.suffix.lower() == ".safetensors":
            from safetensors.torch import load_file

            held: Any = load_file(path)
        else:
            held = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as problem:  # the readers raise what they like at damaged files
        said = str(problem).strip().split("\n")[0]
        raise StorageError(
            Code.CORRUPT_FILE,
            f"The weights cannot be read from {path}",
            got=f"{type(problem).__name__}: {said[:200]}",
            expected="a .safetensors file, or what torch.save(model.state_dict(), path) wrote",
            fix="Save the state_dict alone: whole models are not unpickled, for that could run anything",
        ) from problem
    return _tensors(held, path)


def _tensors(held: Any, path: Path) -> dict[str, "Tensor"]:
    """The state dict in what was read: itself, or the only one inside a checkpoint."""
    if _is_state(held):
        return dict(held)
    inside = [key for key, value in held.items() if _is_state(value)] if isinstance(held, Mapping) else []
    if len(inside) == 1:
        return dict(held[inside[0]])
    raise StorageError(
        Code.FOREIGN_FILE,
        f"It is not clear which weights of {path} are meant" if inside else f"There are no weights in {path}",
        got=", ".join(map(repr, inside)) if inside else type(held).__name__,
        expected="a state dict, or a checkpoint with one inside",
        fix="Save the one you mean by itself: torch.save(checkpoint[…], path)",
    )


def _is_state(value: Any) -> bool:
    import torch

    return (
        isinstance(value, Mapping)
        and len(value) > 0
        and all(isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in value.items())
    )


def _without_prefix(found: dict[str, "Tensor"], own: Mapping[str, Any]) -> dict[str, "Tensor"]:
    prefixes = {name.split(".", 1)[0] + "." for name in found}
    if len(prefixes) != 1:
        return found
    shorter = {name.partition(".")[2]: value for name, value in found.items()}
    return shorter if set(shorter) & set(own) and not set(found) & set(own) else found


def _differences(found: Mapping[str, "Tensor"], own: Mapping[str, Any]) -> list[str]:
    """What keeps the weights from being the model's, one sentence each."""
    import torch

    def shared(name: str) -> bool:
        mine = own[name]
        same = [n for n in found if n in own and isinstance(own[n], torch.Tensor)]
        return mine.numel() > 0 and any(own[n].data_ptr() == mine.data_ptr() for n in same)

    tensors = {n: t for n, t in own.items() if isinstance(t, torch.Tensor)}
    lacking = [n for n in tensors if n not in found and not n.endswith("num_batches_tracked")]
    missing = [n for n in lacking if not shared(n)]
    foreign = [n for n in found if n not in own]
    shapes = [
        f"{n} {tuple(found[n].shape)} for {tuple(t.shape)}"
        for n, t in tensors.items()
        if n in found and not _is_lazy(t) and found[n].shape != t.shape
    ]
    kinds = (("missing", missing), ("not in the model", foreign), ("of another shape", shapes))
    return [f"{len(names)} {kind} ({_some(names)})" for kind, names in kinds if names]


def _is_lazy(value: Any) -> bool:
    from torch.nn.parameter import is_lazy

    return bool(is_lazy(value))


def _some(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", …" if len(names) > SHOWN else "")
