"""What a GGUF file says of itself and its tensors, read with NumPy alone.

The file begins with ``GGUF``, a version, and two counts; then come pairs of key and value, then for every
tensor a name, a shape (the fastest axis first), a type and an offset, then, aligned, the numbers. A quantised
type packs 32 numbers in a block with a scale d, and a smallest value m where it has one:

    Q4_1   w = d q + m with q in 0 … 15; the low halves of the 16 bytes are the first 16 numbers
    Q8_0   w = d q with q in −128 … 127
"""

import struct
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from abe.errors import Code, StorageError

MAGIC, VERSIONS, ALIGNMENT = b"GGUF", (2, 3), 32
NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
"""Numbers of the types of values: plain ones by their letter in `struct`, texts, and lists."""
BLOCK = 32
TYPES = {
    0: np.dtype("<f4"),
    1: np.dtype("<f2"),
    3: np.dtype([("d", "<f2"), ("m", "<f2"), ("q", "u1", BLOCK // 2)]),
    8: np.dtype([("d", "<f2"), ("q", "i1", BLOCK)]),
}
"""Numbers of the types of tensors: F32, F16, Q4_1, Q8_0."""


def read(content: bytes) -> tuple[dict[str, Any], dict[str, NDArray[np.float32]]]:
    """Keys with their values, and tensors by name in float32, the slowest axis first.

    Args:
        content: of the file.

    Raises:
        StorageError: it is no such file, is cut off, or has a tensor of another type.
    """
    try:
        return _read(_Bytes(memoryview(content)))
    except (struct.error, ValueError, KeyError, UnicodeDecodeError) as problem:
        raise _unreadable(f"{type(problem).__name__}: {problem}") from problem


def _read(data: "_Bytes") -> tuple[dict[str, Any], dict[str, NDArray[np.float32]]]:
    if bytes(data.take(4)) != MAGIC or (version := data.number("I")) not in VERSIONS:
        raise _unreadable("another beginning or version")
    del version
    tensors, pairs = data.number("Q"), data.number("Q")
    about = {data.text(): data.value(data.number("I")) for _ in range(pairs)}
    where = [_Tensor.described(data) for _ in range(tensors)]
    step = about.get("general.alignment", ALIGNMENT)
    start = -(-data.at // step) * step
    return about, {one.name: one.numbers(data.all[start + one.offset :]) for one in where}


@dataclass
class _Bytes:
    """A file and how far it has been read."""

    all: memoryview
    at: int = field(default=0)

    def take(self, count: int) -> memoryview:
        self.at += count
        return self.all[self.at - count : self.at]

    def number(self, letter: str) -> Any:
        return struct.unpack(f"<{letter}", self.take(struct.calcsize(f"<{letter}")))[0]

    def text(self) -> str:
        return bytes(self.take(self.number("Q"))).decode("utf-8")

    def value(self, kind: int) -> Any:
        if kind == STRING:
            return self.text()
        if kind == ARRAY:
            inner, count = self.number("I"), self.number("Q")
            return [self.value(inner) for _ in range(count)]
        return self.number(NUMBERS[kind])


@dataclass(frozen=True)
class _Tensor:
    name: str
    shape: tuple[int, ...]
    kind: int
    offset: int

    @classmethod
    def described(cls, data: _Bytes) -> "_Tensor":
        name = data.text()
        shape = tuple(data.number("Q") for _ in range(data.number("I")))
        return cls(name, shape[::-1], data.number("I"), data.number("Q"))

    def numbers(self, data: memoryview) -> NDArray[np.float32]:
        if self.kind not in TYPES:
            raise _unreadable(f"the tensor {self.name} of the type {self.kind}", f"one of {sorted(TYPES)}")
        packed, count = TYPES[self.kind], prod(self.shape)
        blocks = np.frombuffer(data, packed, count // (BLOCK if packed.names else 1))
        return _unpacked(blocks).reshape(self.shape)


def _unpacked(blocks: NDArray[Any]) -> NDArray[np.float32]:
    names = blocks.dtype.names
    if names is None:
        return blocks.astype(np.float32)
    q, d = blocks["q"], blocks["d"].astype(np.float32)[:, None]
    if "m" not in names:
        return q.astype(np.float32) * d
    halves = np.concatenate([q & 15, q >> 4], axis=1)
    return halves.astype(np.float32) * d + blocks["m"].astype(np.float32)[:, None]


def _unreadable(got: str, expected: str = "GGUF of version 2 or 3") -> StorageError:
    return StorageError(Code.CORRUPT_FILE, "The file cannot be read as GGUF", got=got, expected=expected)
