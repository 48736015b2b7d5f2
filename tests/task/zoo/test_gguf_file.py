"""GGUF files made by hand."""

import struct
from typing import Any

import numpy as np
import pytest

from abe.errors import StorageError
from abe.task.zoo.gguf_file import read
from abe.task.zoo.smollm2 import renamed


def text(said: str) -> bytes:
    return struct.pack("<Q", len(said.encode())) + said.encode()


def made(keys: dict[str, tuple[int, bytes]], tensors: dict[str, tuple[tuple[int, ...], int, bytes]]) -> bytes:
    """A file with keys, (type, value) each, and tensors, (shape, type, numbers) each."""
    out = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys))
    for key, (kind, value) in keys.items():
        out += text(key) + struct.pack("<I", kind) + value
    payload = b""
    for name, (shape, kind, numbers) in tensors.items():
        payload += bytes(-len(payload) % 32)
        sizes = struct.pack(f"<{len(shape)}Q", *shape)
        out += text(name) + struct.pack("<I", len(shape)) + sizes + struct.pack("<IQ", kind, len(payload))
        payload += numbers
    return out + bytes(-len(out) % 32) + payload


Q = np.arange(32) % 16
FOUR = np.float16(0.5).tobytes() + np.float16(-2).tobytes() + (Q[:16] | Q[16:] << 4).astype("u1").tobytes()
EIGHT = np.float16(0.25).tobytes() + np.arange(-16, 16).astype("i1").tobytes()
KEYS = {
    "name": (8, text("Grün")),
    "size": (4, struct.pack("<I", 7)),
    "tokens": (9, struct.pack("<IQ", 8, 2) + text("a") + text("b")),
    "share": (6, struct.pack("<f", 0.5)),
}
TENSORS = {
    "plain": ((3, 2), 0, np.arange(6, dtype="<f4").tobytes()),
    "half": ((5,), 1, np.arange(5, dtype="<f2").tobytes()),
    "four": ((32, 1), 3, FOUR),
    "eight": ((16, 2), 8, EIGHT),
}


def test_keys_and_tensors_are_what_was_written() -> None:
    about, tensors = read(made(KEYS, TENSORS))
    assert about == {"name": "Grün", "size": 7, "tokens": ["a", "b"], "share": 0.5}
    np.testing.assert_array_equal(tensors["plain"], [[0, 1, 2], [3, 4, 5]])
    np.testing.assert_array_equal(tensors["half"], range(5))
    np.testing.assert_array_equal(tensors["four"], (0.5 * Q - 2)[None])
    np.testing.assert_array_equal(tensors["eight"], (0.25 * np.arange(-16, 16)).reshape(2, 16))
    assert {one.dtype for one in tensors.values()} == {np.dtype("float32")}


FILE = made(KEYS, TENSORS)
BAD: dict[str, bytes] = {
    "empty": b"",
    "another beginning": b"GGML" + FILE[4:],
    "another version": FILE[:4] + struct.pack("<I", 9) + FILE[8:],
    "cut off in the keys": FILE[:60],
    "cut off in the numbers": FILE[:-8],
    "a type that is not known": made(KEYS, {"odd": ((32,), 2, bytes(18))}),
    "a value that is not known": made({"odd": (77, b"")}, {}),
    "no text": made({"odd": (8, struct.pack("<Q", 2) + b"\xff\xff")}, {}),
}


@pytest.mark.parametrize("name", BAD)
def test_another_file_is_refused(name: str) -> None:
    with pytest.raises(StorageError, match=r"cannot be read as GGUF.*ABE-CORRUPT-FILE"):
        read(BAD[name])


def test_queries_and_keys_turn_the_same_pairs() -> None:
    """Rotary positions turn rows 2 i and 2 i + 1 of the file, and i and i + half of a head here."""
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(8, 3)).astype("f4")  # 2 heads of 4 rows
    given: dict[str, Any] = {
        "blk.1.attn_q.weight": weight,
        "blk.1.attn_norm.weight": weight[0],
        "token_embd.weight": weight,
    }
    found = renamed(given, 2, 1)
    assert list(found) == [
        "model.layers.1.self_attn.q_proj.weight",
        "model.layers.1.input_layernorm.weight",
        "model.embed_tokens.weight",
    ]
    heads = found["model.layers.1.self_attn.q_proj.weight"].reshape(2, 4, 3)
    pairs = np.stack([heads[:, :2], heads[:, 2:]], 2)
    np.testing.assert_array_equal(pairs, weight.reshape(2, 2, 2, 3))
