"""Arrays that other libraries and files hold, as maps of given inputs.

Shapes for inputs (b, c, h, w): (b, c, h, w), (b, 1, h, w), (b, h, w), channels last (b, h, w, c), each also
without b for one sample, and each with classes: as a list of one array per class or on a last axis.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from abe.checks import listed, need_finite_maps
from abe.errors import Code, InputError, SpecError, StorageError

Layout = Literal["auto", "channels_first", "channels_last"]
LAYOUTS = ("auto", "channels_first", "channels_last")
MAPS = ("attribution", "attributions", "maps", "values", "a_batch", "arr_0")
"""Names under which a file may hold maps; a file with one array needs none of them."""
INPUTS = ("x", "inputs", "x_batch")
"""Names under which it may hold the explained inputs, which are then compared with those given."""
SUFFIXES = (".npy", ".npz", ".safetensors")
SAME = 1e-6
"""Relative difference up to which two inputs are the same sample: rounding in a file."""


def as_map(maps: Any, x: Tensor, *, target: Tensor | None = None, layout: str = "auto") -> Tensor:
    """(b, c, …) or (b, 1, …) maps of inputs ``x`` (b, *f), on their device and of their type.

    Args:
        maps: what a library returned, a plain array, or the path of a file.
        x: the explained inputs.
        target: (b,) classes, needed where there is one map per class.
        layout: which axis holds the channels; read from the shape by default.

    Raises:
        InputError: another shape, NaN or infinity, other samples than the inputs, no numbers.
        SpecError: no such layout.
        StorageError: a file that cannot be read.
    """
    if layout not in LAYOUTS:
        raise SpecError(
            Code.BAD_PARAMETER,
            "There is no such layout",
            got=repr(layout),
            expected=" or ".join(map(repr, LAYOUTS)),
        )
    if isinstance(maps, str | Path):
        held = read(maps)
        check_inputs(held.get("inputs"), x, str(maps))
        maps = held["maps"]
    found = unwrapped(maps)
    if isinstance(found, list):
        made = _chosen(torch.stack([_fitted(_tensor(m), x, layout) for m in found], -1), target, x)
    else:
        made = _of_array(_tensor(found), x, target, layout)
    need_finite_maps(made)
    return made.to(device=x.device, dtype=x.dtype)


def unwrapped(maps: Any) -> Any:
    """The array inside what a library returned, or a list of one array per class."""
    if hasattr(maps, "sequence_attributions"):
        return _of_inseq(maps)
    if hasattr(maps, "values") and hasattr(maps, "base_values"):  # shap.Explanation
        return maps.values
    if isinstance(maps, tuple | list) and maps and all(_is_array(m) for m in maps):
        return maps[0] if len(maps) == 1 else list(maps)
    return maps


def part(maps: Any, rows: slice) -> Any:
    """Some samples of an array of many."""
    found = unwrapped(maps)
    return [m[rows] for m in found] if isinstance(found, list) else found[rows]


def length(maps: Any) -> int:
    """How many samples an array holds."""
    found = unwrapped(maps)
    return len(found[0]) if isinstance(found, list) else len(found)


def read(path: str | Path) -> dict[str, Any]:
    """``maps`` and, where the file holds them, ``inputs`` of an array file. Nothing is unpickled.

    Raises:
        StorageError: missing, damaged, of an unknown kind, or without an array of maps.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise StorageError(
            Code.FOREIGN_FILE,
            "This kind of file is not opened: unpickling it could run anything",
            got=str(path),
            expected=f"a file ending in {', '.join(SUFFIXES)}",
            fix="Save the array with numpy.save or safetensors",
        )
    try:
        arrays = _arrays(path)
    except FileNotFoundError as problem:
        raise StorageError(Code.FOREIGN_FILE, "There is no such file", got=str(path)) from problem
    except Exception as problem:  # zip, npy and safetensors readers raise errors of many kinds
        raise StorageError(
            Code.CORRUPT_FILE,
            "The array file cannot be read",
            got=f"{path}: {problem}",
            expected="numbers only; arrays of Python objects are not opened",
        ) from problem
    name = next((n for n in MAPS if n in arrays), None)
    others = [n for n in arrays if n not in INPUTS]
    name = others[0] if name is None and len(others) == 1 else name
    if name is None:
        raise StorageError(
            Code.FOREIGN_FILE,
            "It is not clear which array holds the maps",
            got=f"{path} with {', '.join(arrays) or 'no arrays'}",
            expected=f"one array, or one called {' or '.join(MAPS[:3])}",
        )
    inputs = next((arrays[n] for n in INPUTS if n in arrays), None)
    return {"maps": arrays[name], **({} if inputs is None else {"inputs": inputs})}


def check_inputs(theirs: Any, x: Tensor, where: str) -> None:
    """Refuse maps that say they belong to other samples.

    Raises:
        InputError: other inputs, or the same in another order.
    """
    if theirs is None:
        return
    other = _tensor(theirs).to(device=x.device, dtype=x.dtype)
    if other.shape == x.shape:
        size = x.abs().amax().clamp_min(1e-12)
        wrong = ((other - x).abs() > SAME * size).flatten(1).any(1).nonzero().flatten().tolist()
        if not wrong:
            return
        got = f"another input for sample{'s' if len(wrong) > 1 else ''} {listed(wrong)}"
    else:
        got = f"inputs of shape {tuple(other.shape)}"
    raise InputError(
        Code.SAMPLES,
        f"The maps {where!r} belong to other samples than those evaluated",
        got=got,
        expected=f"the inputs that are evaluated, of shape {tuple(x.shape)}, in the same order",
        fix="Evaluate with the inputs that were explained, before normalisation",
    )


def _arrays(path: Path) -> Mapping[str, Any]:
    if path.suffix.lower() == ".npy":
        return {"maps": np.load(path, mmap_mode="r", allow_pickle=False)}
    if path.suffix.lower() == ".npz":
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    from safetensors.torch import load_file

    return load_file(path)


def is_maps(obj: Any) -> bool:
    """Whether this looks like what `as_map` reads."""
    listed = isinstance(obj, list | tuple) and bool(obj) and all(_is_array(m) for m in obj)
    held = hasattr(obj, "sequence_attributions") or (hasattr(obj, "values") and hasattr(obj, "base_values"))
    return _is_array(obj) or listed or held


def _is_array(obj: Any) -> bool:
    return isinstance(obj, Tensor | np.ndarray)


def _tensor(obj: Any) -> Tensor:
    """Numbers as a tensor of their own.

    Raises:
        InputError: not an array of real numbers.
    """
    try:
        found = obj.detach().cpu() if isinstance(obj, Tensor) else torch.from_numpy(np.array(obj))
    except (TypeError, ValueError) as problem:
        raise _no_numbers(obj) from problem
    if found.is_complex():
        raise _no_numbers(obj)
    return found if found.is_floating_point() else found.float()


def _no_numbers(obj: Any) -> InputError:
    return InputError(
        Code.DTYPE,
        "A map is an array of real numbers",
        got=type(obj).__name__,
        expected="a tensor, a NumPy array, or what captum, shap or inseq return",
    )


def _of_array(found: Tensor, x: Tensor, target: Tensor | None, layout: str) -> Tensor:
    """One array: maps as they are, or maps with classes on a last axis."""
    made = _placed(found, x, layout)
    if made is not None:
        return made
    if found.ndim > 1 and _placed(found[..., 0], x, layout) is not None:
        return _chosen(torch.stack([_fitted(m, x, layout) for m in found.unbind(-1)], -1), target, x)
    raise _misfit(found, x)


def _fitted(found: Tensor, x: Tensor, layout: str) -> Tensor:
    made = _placed(found, x, layout)
    if made is None:
        raise _misfit(found, x)
    return made


def _placed(found: Tensor, x: Tensor, layout: str) -> Tensor | None:
    """The array with batch and channels where the inputs have them, or None where it does not fit."""
    wanted = tuple(x.shape)
    if len(wanted) == 2:
        shapes: dict[tuple[int, ...], Tensor] = {wanted: found}
    else:
        b, c, *space = wanted
        first: dict[tuple[int, ...], Tensor] = {
            wanted: found,
            (b, 1, *space): found,
            (b, *space): found[:, None] if found.ndim > 1 else found,
        }
        last: dict[tuple[int, ...], Tensor] = {
            (b, *space, n): found.movedim(-1, 1) if found.ndim > 1 else found for n in (c, 1)
        }
        shapes = {"auto": {**last, **first}, "channels_first": first, "channels_last": last}[layout]
        if layout == "channels_last":
            shapes[(b, *space)] = first[(b, *space)]
    if tuple(found.shape) in shapes:
        return shapes[tuple(found.shape)]
    if len(x) == 1 and found.ndim < x.ndim and (1, *found.shape) in shapes:
        return _placed(found[None], x, layout)
    return None


def _chosen(maps: Tensor, target: Tensor | None, x: Tensor) -> Tensor:
    """The target's map of each sample from (…, classes)."""
    classes = maps.shape[-1]
    if target is None or target.ndim != 1:
        raise InputError(
            Code.TARGET_MISSING,
            "There is a map for each class, and it is not clear which to take",
            got=f"{classes} maps per sample",
            fix="Pass target= with a class per sample",
        )
    if bool((target < 0).any()) or bool((target >= classes).any()):
        raise InputError(
            Code.TARGET_RANGE,
            "There is no map for the explained class",
            got=f"maps of {classes} classes for targets {sorted(set(target.tolist()))[:5]}",
            expected="one map for each class of the model, in its order",
        )
    index = target.to(maps.device).view(-1, *[1] * (maps.ndim - 1)).expand(*maps.shape[:-1], 1)
    return maps.gather(-1, index)[..., 0]


def _misfit(found: Tensor, x: Tensor) -> InputError:
    b, *rest = x.shape
    last = f", {(b, *rest[1:], rest[0])}" if len(rest) > 1 else ""
    return InputError(
        Code.MAP_SHAPE,
        "The map does not fit the input",
        got=f"an array of shape {tuple(found.shape)} for inputs of shape {tuple(x.shape)}",
        expected=f"{tuple(x.shape)}{last}, one channel or none, or one such array per class",
    )


def _of_inseq(output: Any) -> list[Tensor] | Tensor:
    """(b, tokens, generated, …) source attributions of an inseq output as one array per generated token."""
    parts: Sequence[Any] = output.sequence_attributions
    maps = [
        p.source_attributions if p.source_attributions is not None else p.target_attributions for p in parts
    ]
    if len({tuple(m.shape) for m in maps}) != 1:
        raise InputError(
            Code.SHAPE,
            "Sequences of different lengths are evaluated one at a time",
            got=", ".join(str(tuple(m.shape)) for m in maps[:4]),
        )
    whole = torch.stack([torch.as_tensor(m) for m in maps])  # (b, tokens, generated, …)
    return list(whole.unbind(2))
