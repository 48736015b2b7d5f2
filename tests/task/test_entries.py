"""Batches of entries in each other: read, cut into samples and built again, whatever holds them."""

import types
from collections import OrderedDict, UserDict
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

import abe
from abe.task.entries import Entries, explained_of, inputs_of, rebuilt

x, y = torch.rand(3, 2), torch.tensor([0, 2, 1])


class Pair(NamedTuple):
    x: Tensor
    y: Tensor


@dataclass
class Held:
    scores: Any
    name: str


def same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and torch.equal(one, other)
    if isinstance(one, list | tuple):
        return type(one) is type(other) and all(map(same, one, other))
    if hasattr(one, "items"):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    return bool(one == other)


BATCHES: dict[str, tuple[Any, list[str]]] = {
    "a list": ([x, y], ["0", "1"]),
    "a named tuple": (Pair(x, y), ["0", "1"]),
    "a dict": ({"x": x, "y": y}, ["x", "y"]),
    "a dict of its own kind": (UserDict(x=x, y=y), ["x", "y"]),
    "an ordered dict": (OrderedDict(x=x, y=y), ["x", "y"]),
    "entries inside entries": (
        [{"a": x, "b": (x, y)}, None, ["p", "q", "r"]],
        ["0.a", "0.b.0", "0.b.1", "2"],
    ),
}


@pytest.mark.parametrize("form", BATCHES)
def test_a_batch_is_built_again_from_its_entries(form: str) -> None:
    raw, paths = BATCHES[form]
    read = Entries.read(raw)
    assert list(read.leaves) == paths
    assert len(read) == 3
    made = read.whole()
    assert type(made) is type(raw)
    assert same(made, raw)
    for path, one in Entries.read(made).leaves.items():
        assert not isinstance(one, Tensor) or one.data_ptr() != read.leaves[path].data_ptr()


def test_samples_are_batches_of_their_own() -> None:
    raw = {"x": x, "more": [["p", "q", "r"], y]}
    rows = [one.whole() for one in Entries.read({"x": x, "more": (["p", "q", "r"], y)}).rows()]
    for number, row in enumerate(rows):
        assert torch.equal(row["x"], x[number : number + 1])
        assert row["more"][0] == [raw["more"][0][number]]
        assert torch.equal(row["more"][1], y[number : number + 1])


def test_numbers_become_tensors_and_other_lists_stay_objects() -> None:
    leaves = Entries.read([x.numpy(), [0, 2, 1], (0.5, 1, 2), ["p", "q", "r"], 3]).leaves
    assert [type(one) for one in leaves.values()] == [Tensor, Tensor, Tensor, list, Tensor]
    assert torch.equal(leaves["0"], x)
    assert leaves["2"].dtype == torch.float32
    with pytest.raises(abe.AbeError, match=r"Entry 1.*ABE-DTYPE"):
        Entries.read([x, np.array(["p", "q"])])


def test_what_cannot_be_written_becomes_a_dict() -> None:
    made = rebuilt(types.MappingProxyType({"a": 1}), lambda path, one: 2 if path == "a" else one)
    assert made == {"a": 2}


def test_dataclasses_inside_are_copied_and_left_as_they_were() -> None:
    given = (Held(x, "first"), torch.Size([1, 2]))
    seen: list[str] = []

    def change(path: str, one: Any) -> Any:
        seen.append(path)
        return one[:1] if isinstance(one, Tensor) else one

    made = rebuilt(given, change)
    assert made[0].scores.shape == (1, 2)
    assert given[0].scores.shape == (3, 2)
    assert made[0].name == "first"
    assert seen == ["", "0", "0.scores", "0.name", "1", "1.0", "1.1"]


def test_an_entry_is_named_at_the_top_or_inside() -> None:
    read = Entries.read({"image": x, "text": {"ids": y, "image": x}, "more": {"ids": y, "mask": y}})
    assert read.named("image") == "image"
    assert read.named("mask") == "more.mask"
    with pytest.raises(abe.AbeError, match="Several entries are called 'ids'"):
        read.named("ids")
    with pytest.raises(abe.AbeError, match="The entry to explain, 4, is not there"):
        read.named(4)


def test_the_explained_input_is_named_or_the_only_one_that_fits() -> None:
    inputs = inputs_of((x, y))
    assert list(explained_of(inputs, (), torch.is_floating_point)) == [0]
    assert list(explained_of(inputs, (1, 0), torch.is_floating_point)) == [1, 0]
    with pytest.raises(abe.AbeError, match=r"not clear which input.*explained="):
        explained_of(inputs_of({"a": x, "b": x}), (), torch.is_floating_point)
    with pytest.raises(abe.AbeError, match="The input to explain, 'c', was not given"):
        explained_of(inputs_of({"a": x}), ("c",), torch.is_floating_point)
