"""The tensors and the operations of an ONNX file, read without the package ``onnx``.

The format is protobuf: a message is a row of fields, each a key (number and kind) and its contents. Only what
is needed of it is known here, for files whose digest has been checked before.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
"""Kinds of fields."""
GRAPH = 7
NODE, INITIALIZER = 1, 5
DIMENSION, TYPE, NAME, RAW = 1, 2, 8, 9
INPUT, OUTPUT, OPERATION = 1, 2, 4
"""Numbers of fields: of a model, of its graph, of a tensor, and of a node."""
TYPES = {1: "<f4", 7: "<i8"}
"""ONNX's numbers of the types that are read."""


@dataclass(frozen=True)
class Node:
    """An operation of the graph with the names of what goes in and out."""

    operation: str
    inputs: list[str]
    outputs: list[str]


def read(content: bytes) -> tuple[dict[str, Tensor], list[Node]]:
    """Constants by name, and the operations in their order.

    Args:
        content: of the file.
    """
    tensors: dict[str, Tensor] = {}
    nodes: list[Node] = []
    graph = next(value for number, value in _fields(memoryview(content)) if number == GRAPH)
    for number, value in _fields(graph):
        if number == INITIALIZER:
            name, tensor = _tensor(value)
            tensors[name] = tensor
        elif number == NODE:
            nodes.append(_node(value))
    return tensors, nodes


def _tensor(message: memoryview) -> tuple[str, Tensor]:
    shape: list[int] = []
    name, kind, raw = "", 0, memoryview(b"")
    for number, value in _fields(message):
        if number == DIMENSION:
            shape += [value] if isinstance(value, int) else list(_varints(value))
        elif number == TYPE:
            kind = value
        elif number == NAME:
            name = bytes(value).decode()
        elif number == RAW:
            raw = value
    return name, torch.from_numpy(np.frombuffer(raw, TYPES[kind]).reshape(shape).copy())


def _node(message: memoryview) -> Node:
    held: dict[int, list[str]] = {INPUT: [], OUTPUT: [], OPERATION: []}
    for number, value in _fields(message):
        if number in held:
            held[number].append(bytes(value).decode())
    return Node("".join(held[OPERATION]), held[INPUT], held[OUTPUT])


def _fields(message: memoryview) -> Iterator[tuple[int, Any]]:
    """Number and value of every field: an integer, or the bytes of it."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        number, kind = key >> 3, key & 7
        if kind == VARINT:
            value, at = _varint(message, at)
            yield number, value
            continue
        if kind == BYTES:
            size, at = _varint(message, at)
        else:
            size = {FIXED64: 8, FIXED32: 4}[kind]
        yield number, message[at : at + size]
        at += size


def _varints(message: memoryview) -> Iterator[int]:
    at = 0
    while at < len(message):
        value, at = _varint(message, at)
        yield value


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """An integer in groups of seven bits, the lowest first, and where it ends."""
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
