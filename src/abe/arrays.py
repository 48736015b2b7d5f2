"""Arrays that other libraries and files hold, as maps of given inputs.

Shapes for inputs (b, c, h, w): (b, c, h, w), (b, 1, h, w), (b, h, w), channels last (b, h, w, c), each also
without b for one sample, and each with classes: as a list of one array per class or on a last axis. A list
may also hold the maps of some samples each, single ones without b too.
"""

import os
import zipfile
from collections.abc import Iterator, Mapping, Sequence
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
INFLATED = 2**26
"""Bytes up to which an archive may hold anything."""
INFLATION = 100
"""Times its size on disk that a larger one may hold."""
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
        made = _of_list([as_tensor(m) for m in found], x, target, layout)
    else:
        made = _of_array(as_tensor(found), x, target, layout)
    need_finite_maps(made)
    return made.to(device=x.device, dtype=x.dtype)


def unwrapped(maps: Any) -> Any:
    """The array inside what a library returned, or a list of one array per class."""
    if hasattr(maps, "sequence_attributions"):
        return _of_inseq(maps)
    if hasattr(maps, "values") and hasattr(maps, "base_values"):  # shap.Explanation
        return maps.values
    if isinstance(maps, tuple | list) and maps and all(is_array(m) for m in maps):
        return maps[0] if len(maps) == 1 else list(maps)
    return maps


def part(maps: Any, rows: slice, x: Tensor) -> Any:
    """The maps of some samples ``x`` among those of more: arrays of equal length in a list are of classes.

    Raises:
        InputError: a list that could hold a map for each class or for each sample.
    """
    found = unwrapped(maps)
    if not isinstance(found, list):
        return found[rows]
    counts = _by_sample(found, x, rows.stop)
    return [m[rows] for m in found] if counts is None else list(_overlap(found, counts, rows))


def length(maps: Any, x: Tensor, least: int = 0) -> int:
    """How many samples the maps are of, when ``x`` are some of at least as many.

    Raises:
        InputError: as `part`.
    """
    found = unwrapped(maps)
    counts = _by_sample(found, x, least) if isinstance(found, list) else None
    return _rows(found[0] if isinstance(found, list) else found) if counts is None else sum(counts)


def fits(maps: Any, x: Tensor) -> bool:
    """Whether the shapes are such that `as_map` could read them as maps of ``x``."""
    found = unwrapped(maps)
    if isinstance(found, list):
        return _per_class(found, x) or any(sum(counts) == len(x) for counts in _counts(found, x))
    shape, wanted = np.shape(found), tuple(x.shape)
    return bool(_lies(shape, wanted) or (len(shape) > 1 and _lies(shape[:-1], wanted)))


def read(path: str | Path) -> dict[str, Any]:
    """``maps`` and, where the file holds them, ``inputs`` of an array file. Nothing is unpickled.

    Raises:
        StorageError: missing, damaged, of an unknown kind, or without an array of maps.
    """
    path = Path(path)
    if not os.path.exists(path):
        raise StorageError(Code.FOREIGN_FILE, "There is no such file", got=str(path))
    if path.suffix.lower() not in SUFFIXES:
        raise StorageError(
            Code.FOREIGN_FILE,
            "This kind of file is not opened: unpickling it could run anything",
            got=str(path),
            expected=f"a file ending in {', '.join(SUFFIXES)}",
            fix="Save the array with numpy.save or safetensors",
        )
    try:
        if not path.is_file():
            raise StorageError(Code.FOREIGN_FILE, "This is no file of arrays", got=str(path))
        arrays = _arrays(path)
    except StorageError:
        raise
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
    other = as_tensor(theirs, "The inputs of a map").to(device=x.device, dtype=x.dtype)
    if other.ndim == x.ndim - 1 and len(x) == 1:
        other = other[None]
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
        _check_inflation(path)
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    from safetensors.torch import load_file

    return load_file(path)


def _check_inflation(path: Path) -> None:
    """Refuse an archive that would fill the memory: nothing is unpacked for that."""
    with zipfile.ZipFile(path) as archive:
        held = sum(entry.file_size for entry in archive.infolist())
    if held > max(INFLATED, INFLATION * path.stat().st_size):
        raise StorageError(
            Code.CORRUPT_FILE,
            "The archive would grow beyond measure when it is unpacked",
            got=f"{path} of {path.stat().st_size:,} bytes, which holds {held:,}",
            expected=f"at most {INFLATION} times its size",
            fix="If you trust it, load it with numpy.load and pass the array, or save it with numpy.savez",
        )


def is_maps(obj: Any) -> bool:
    """Whether this looks like what `as_map` reads."""
    listed = isinstance(obj, list | tuple) and bool(obj) and all(is_array(m) for m in obj)
    held = hasattr(obj, "sequence_attributions") or (hasattr(obj, "values") and hasattr(obj, "base_values"))
    return is_array(obj) or listed or held


def is_array(obj: Any) -> bool:
    """Whether this is an array of any library, and no single number of NumPy's."""
    return isinstance(obj, Tensor) or (
        hasattr(obj, "__array__") and hasattr(obj, "ndim") and not isinstance(obj, np.generic)
    )


def as_tensor(given: Any, what: str = "A map") -> Tensor:
    """Real numbers as a tensor on the CPU, floating-point ones as they are and others as float32.

    Args:
        given: a tensor, or an array of any library, byte order, precision and stride.
        what: what the refusal calls it.

    Raises:
        InputError: no array of real numbers.
    """
    found = given.detach().cpu() if isinstance(given, Tensor) else from_numpy(given, what)
    if found.is_complex():
        raise _no_numbers(given, what)
    return found if found.is_floating_point() else found.float()


def from_numpy(given: Any, what: str = "A map") -> Tensor:
    """A tensor of its own with the numbers of an array, in the machine's byte order; long doubles as doubles.

    Raises:
        InputError: no array of numbers, or one with masked entries.
    """
    try:
        array = np.array(given)
        if array.dtype.name == "bfloat16":  # of JAX and its kin; NumPy has none of its own
            array = array.astype(np.float32)
        if array.dtype.kind == "f" and array.dtype.itemsize > 8:
            array = array.astype(np.float64)
        tensor = torch.from_numpy(array.astype(array.dtype.newbyteorder("="), copy=False))
    except (TypeError, ValueError, RuntimeError) as problem:
        raise _no_numbers(given, what) from problem
    refuse_masked(given, what)
    return tensor


def refuse_masked(given: Any, what: str) -> None:
    """Raise DTYPE where entries of a masked array are hidden: what lies behind them is nobody's value."""
    if np.ma.is_masked(given):
        raise InputError(
            Code.DTYPE,
            f"{what} has masked entries",
            got=f"{np.ma.count_masked(given)} of {np.size(given)}",
            fix="Fill them first: array.filled(…)",
        )


def to_numpy(tensor: Tensor) -> np.ndarray:
    """The numbers as a NumPy array, which has no bfloat16: those become float32, without a loss."""
    held = tensor.detach().cpu()
    return (held.float() if held.dtype == torch.bfloat16 else held).numpy()


def _no_numbers(obj: Any, what: str) -> InputError:
    return InputError(
        Code.DTYPE,
        f"{what} is an array of real numbers",
        got=type(obj).__name__,
        expected=f"a tensor{', a' if what == 'A map' else ' or a'} NumPy array"
        + (", or what captum, shap or inseq return" if what == "A map" else ""),
    )


def _of_array(found: Tensor, x: Tensor, target: Tensor | None, layout: str) -> Tensor:
    """One array: maps as they are, or maps with classes on a last axis."""
    made = _placed(found, x, layout)
    if made is not None:
        return made
    if found.ndim > 1 and _placed(found[..., 0], x, layout) is not None:
        return _chosen(torch.stack([_fitted(m, x, layout) for m in found.unbind(-1)], -1), target, x)
    raise _misfit(found, x)


def _of_list(found: list[Tensor], x: Tensor, target: Tensor | None, layout: str) -> Tensor:
    """A list of arrays: one per class, or the maps of some samples each."""
    counts = next((n for n in _counts(found, x, layout) if sum(n) == len(x)), None)
    per_class = _per_class(found, x, layout)
    if counts is None:
        if not per_class:
            raise _misfit(next((m for m in found if not _lies(tuple(m.shape), tuple(x.shape))), found[-1]), x)
        return _chosen(torch.stack([_fitted(m, x, layout) for m in found], -1), target, x)
    if per_class:
        raise _unclear(found)
    starts = np.cumsum([0, *counts[:-1]]).tolist()
    parts = [_fitted(m, x[i : i + n], layout) for m, i, n in zip(found, starts, counts, strict=True)]
    if len({part.shape[1] for part in parts}) > 1:
        raise _misfit(found[-1], x)
    return torch.cat([part.to(x) for part in parts])


def _per_class(found: Sequence[Any], x: Tensor, layout: str = "auto") -> bool:
    """Whether every array could hold maps of all samples ``x``, in one layout."""
    shapes = {tuple(np.shape(m)) for m in found}
    return len(shapes) == 1 and _lies(shapes.pop(), tuple(x.shape), layout) is not None


def _counts(found: Sequence[Any], x: Tensor, layout: str = "auto") -> list[list[int]]:
    """How many samples each array of a list holds, in each way in which it holds the maps of some.

    All have an axis of channels, or none has.
    """
    ways: list[list[int]] = []
    shapes = [tuple(np.shape(m)) for m in found]
    for axes in range(x.ndim, max(x.ndim - 2, 1), -1):
        counts = [1 if len(shape) == axes - 1 else shape[0] if len(shape) == axes else 0 for shape in shapes]
        fit = [n and _lies(s, (n, *x.shape[1:]), layout) for n, s in zip(counts, shapes, strict=True)]
        ways += [counts] if all(fit) and counts not in ways else []
    return ways


def _by_sample(found: Sequence[Any], x: Tensor, least: int) -> list[int] | None:
    """How many samples each array of a list holds; None where it holds one array per class.

    Raises:
        InputError: both readings fit.
    """
    ways = [n for n in _counts(found, x) if sum(n) >= least and (set(n) == {1} or len(set(n)) > 1)]
    shapes = {tuple(np.shape(m)) for m in found}
    rows, *rest = shapes.pop() or (0,)
    per_class = not shapes and rows >= least and _lies((1, *rest), (1, *x.shape[1:]))
    if len(ways) > 1 or (ways and per_class):
        raise _unclear(found)
    return ways[0] if ways else None


def _overlap(found: Sequence[Any], counts: Sequence[int], rows: slice) -> Iterator[Any]:
    """The parts of a list's arrays that hold some of the samples."""
    start = 0
    for m, n in zip(found, counts, strict=True):
        first, last = max(rows.start - start, 0), min(rows.stop - start, n)
        if first < last:
            yield m if (first, last) == (0, n) else m[first:last]
        start += n


def _rows(found: Any) -> int:
    shape = np.shape(found)
    return shape[0] if shape else 1


def _fitted(found: Tensor, x: Tensor, layout: str) -> Tensor:
    made = _placed(found, x, layout)
    if made is None:
        raise _misfit(found, x)
    return made


def _placed(found: Tensor, x: Tensor, layout: str) -> Tensor | None:
    """The array with batch and channels where the inputs have them, or None where it does not fit."""
    lies = _lies(tuple(found.shape), tuple(x.shape), layout)
    if lies is None:
        return None
    found = found[None] if lies.startswith("one, ") else found
    if lies.endswith("channels last"):
        return found.movedim(-1, 1)
    return found[:, None] if lies.endswith("no channels") else found


def _lies(shape: tuple[int, ...], wanted: tuple[int, ...], layout: str = "auto") -> str | None:
    """How maps of such a shape lie for inputs of the wanted one; None where they do not fit."""
    b, *rest = wanted
    readings: dict[tuple[int, ...], str] = {wanted: "as the inputs"}
    if len(rest) > 1:
        c, *space = rest
        last = {(b, *space, n): "channels last" for n in (c, 1)}
        first = {(b, 1, *space): "as the inputs", wanted: "as the inputs"}
        readings = {(b, *space): "no channels"}
        readings |= last if layout != "channels_first" else {}
        readings |= first if layout != "channels_last" else {}
    alone = readings.get((1, *shape)) if b == 1 else None
    return readings.get(shape) or (None if alone is None else f"one, {alone}")


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


def _unclear(found: Sequence[Any]) -> InputError:
    return InputError(
        Code.MAP_SHAPE,
        "It is not clear whether the list holds a map for each class, each sample or each batch of them",
        got=f"{len(found)} arrays, the first of shape {tuple(np.shape(found[0]))}",
        fix="Join maps of samples to one array (b, c, …); put classes on a last axis: numpy.stack(maps, -1)",
    )


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
