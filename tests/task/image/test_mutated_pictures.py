"""Pictures of every format with bytes and header fields changed: read, or refused by code, soon and small."""

import io
import resource
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import abe
from abe.errors import AbeError, Code

CODES = {Code.UNREADABLE_IMAGE, Code.OUT_OF_BOUNDS, Code.NOT_FINITE_INPUT}
"""The last two of floating-point numbers that a file says to hold."""
SECONDS = 1.0
"""Of the processor's time, for one picture."""
GROWTH = 700 << 20
"""Bytes that reading may add to the process at its fullest."""
EXTREMES = (0, 1, 2, 7, 255, 256, 8_000, 11_000, 32_767, 65_535, 10**6, 2**31 - 1, 2**31, 2**32 - 1)
EDGES = {"B": 255, "H": 2**16 - 1, "I": 2**32 - 1}


# -- good pictures -----------------------------------------------------------------------------------------


def _made(mode: str, side: int = 24) -> Image.Image:
    drawn = np.random.default_rng(side)
    if mode == "I;16":
        return Image.frombytes(mode, (side, side), drawn.integers(0, 65536, side * side, "<u2").tobytes())
    if mode == "F":
        return Image.fromarray(drawn.random((side, side), np.float32))
    pixels = drawn.integers(0, 256, (side, side, 4), dtype=np.uint8)
    pixels[: side // 2] //= 64
    return Image.fromarray(pixels).convert("RGB").convert(mode) if mode != "RGBA" else Image.fromarray(pixels)


GOOD: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "PNG": [("1", {}), ("L", {}), ("P", {"transparency": 3}), ("RGB", {}), ("RGBA", {}), ("I;16", {})],
    "JPEG": [("L", {}), ("RGB", {"progressive": True}), ("CMYK", {}), ("RGB", {"restart_marker_rows": 1})],
    "BMP": [("1", {}), ("P", {}), ("RGB", {}), ("RGBA", {})],
    "GIF": [
        ("L", {}),
        ("P", {"transparency": 3}),
        ("P", {"save_all": True, "append_images": [_made("P", 9)]}),
    ],
    "TIFF": [
        *[
            ("RGB", {"compression": how})
            for how in (None, "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg")
        ],
        *[("1", {"compression": "group4"}), ("I;16", {}), ("F", {}), ("CMYK", {}), ("RGBA", {})],
        ("RGB", {"save_all": True, "append_images": [_made("RGB", 9)]}),
    ],
    "WEBP": [("RGB", {}), ("RGBA", {"lossless": True})],
    "PPM": [("1", {}), ("L", {}), ("RGB", {})],
    "TGA": [("P", {}), ("RGB", {"compression": "tga_rle"}), ("RGBA", {})],
    "ICO": [("RGBA", {})],
    "PCX": [("L", {}), ("RGB", {})],
    "SGI": [("RGB", {})],
    "JPEG2000": [("RGB", {})],
    "DDS": [("RGBA", {})],
    "AVIF": [("RGB", {})],
}


@cache
def good() -> list[tuple[str, bytes]]:
    """A file of every format and mode that this Pillow writes."""
    found: list[tuple[str, bytes]] = []
    for form, kinds in GOOD.items():
        for mode, how in kinds:
            buffer = io.BytesIO()
            picture, exif = _made(mode), Image.Exif()
            exif[274] = 6  # turned by a quarter
            try:
                picture.save(
                    buffer, form, **how, **({"exif": exif} if form in ("JPEG", "WEBP", "PNG") else {})
                )
            except (OSError, ValueError, KeyError):
                assert form not in ("PNG", "JPEG", "BMP", "GIF")
                continue
            found.append((form, buffer.getvalue()))
    return found


# -- changes -----------------------------------------------------------------------------------------------

Change = Callable[[str, bytes, Random], bytes]


def _flipped(_: str, content: bytes, draws: Random) -> bytes:
    changed = bytearray(content)
    for _ in range(draws.choice((1, 1, 2, 8, 64))):
        changed[draws.randrange(len(changed))] ^= 1 << draws.randrange(8)
    return bytes(changed)


def _start_flipped(_: str, content: bytes, draws: Random) -> bytes:
    changed = bytearray(content)
    for _ in range(draws.choice((1, 2, 4))):
        changed[draws.randrange(min(len(changed), 64))] = draws.choice(
            (0, 1, 127, 128, 255, draws.randrange(256))
        )
    return bytes(changed)


def _cut(_: str, content: bytes, draws: Random) -> bytes:
    at = draws.randrange(len(content))
    return content[:at] + content[at + draws.choice((1, 4, 100)) :]


def _inserted(_: str, content: bytes, draws: Random) -> bytes:
    at = draws.randrange(len(content))
    return content[:at] + draws.randbytes(draws.choice((1, 4, 100))) + content[at:]


def _repeated(_: str, content: bytes, draws: Random) -> bytes:
    at, much = draws.randrange(len(content)), draws.choice((4, 64, 1000))
    return content[:at] + content[at : at + much] * draws.choice((2, 50)) + content[at:]


def _truncated(_: str, content: bytes, draws: Random) -> bytes:
    return content[: draws.randrange(len(content))]


def _appended(_: str, content: bytes, draws: Random) -> bytes:
    return content + draws.choice((bytes(4096), draws.randbytes(100), content, good()[0][1]))


def _mixed(_: str, content: bytes, draws: Random) -> bytes:
    _, other = draws.choice(good())
    at = draws.randrange(len(content))
    return content[:at] + other[min(at, len(other) - 1) :]


def _field(form: str, content: bytes, draws: Random) -> bytes:
    """A field of the header that says sizes, depths, counts or lengths, with an extreme value."""
    places = list(FIELDS.get(form, _anywhere)(content))
    changed = bytearray(content)
    for at, kind in draws.sample(places, min(len(places), draws.choice((1, 1, 2)))):
        value = draws.choice([v for v in EXTREMES if v <= EDGES[kind[1]]])
        struct.pack_into(kind, changed, at, value)
    return _summed(bytes(changed)) if form == "PNG" and draws.random() < 0.8 else bytes(changed)


def _anywhere(content: bytes) -> Iterator[tuple[int, str]]:
    for at in range(0, min(len(content) - 4, 64), 2):
        yield from ((at, "<H"), (at, ">H"), (at, "<I"), (at, ">I"))


def _png(content: bytes) -> Iterator[tuple[int, str]]:
    for at, size, name in _chunks(content):
        yield at, ">I"
        if name == b"IHDR":
            yield from ((at + 8, ">I"), (at + 12, ">I"), *((at + 16 + i, ">B") for i in range(5)))
        elif size:
            yield at + 8, ">B"


def _jpeg(content: bytes) -> Iterator[tuple[int, str]]:
    at = 2
    while at + 9 < len(content) and content[at] == 0xFF:
        yield at + 2, ">H"
        if content[at + 1] in (0xC0, 0xC2):
            yield from ((at + 4, ">B"), (at + 5, ">H"), (at + 7, ">H"), (at + 9, ">B"))
        at += 2 + int.from_bytes(content[at + 2 : at + 4], "big")


def _bmp(_: bytes) -> Iterator[tuple[int, str]]:
    yield from ((at, "<I") for at in (2, 10, 14, 18, 22, 30, 34, 46, 50))
    yield from ((26, "<H"), (28, "<H"))


def _gif(content: bytes) -> Iterator[tuple[int, str]]:
    yield from ((6, "<H"), (8, "<H"), (10, "<B"), (11, "<B"))
    at = content.find(b"\x2c", 13)
    yield from ((at + 1 + 2 * i, "<H") for i in range(4))


def _tiff(content: bytes) -> Iterator[tuple[int, str]]:
    order = "<" if content[:2] == b"II" else ">"
    (at,) = struct.unpack_from(order + "I", content, 4)
    yield 4, order + "I"
    (count,) = struct.unpack_from(order + "H", content, at)
    yield at, order + "H"
    for i in range(count):
        entry = at + 2 + 12 * i
        yield from ((entry, order + "H"), (entry + 2, order + "H"), (entry + 4, order + "I"))
        yield from ((entry + 8, order + "I"), (entry + 8, order + "H"))


FIELDS = {"PNG": _png, "JPEG": _jpeg, "BMP": _bmp, "GIF": _gif, "TIFF": _tiff}


def _chunks(content: bytes) -> Iterator[tuple[int, int, bytes]]:
    at = 8
    while at + 8 <= len(content):
        size = int.from_bytes(content[at : at + 4], "big")
        yield at, size, content[at + 4 : at + 8]
        at += 12 + size


def _summed(content: bytes) -> bytes:
    """A PNG whose check sums are right, so that what is inside is looked at."""
    changed = bytearray(content)
    for at, size, _ in _chunks(content):
        if at + 12 + size <= len(changed):
            struct.pack_into(">I", changed, at + 8 + size, zlib.crc32(changed[at + 4 : at + 8 + size]))
    return bytes(changed)


CHANGES: tuple[Change, ...] = (
    *(_flipped, _start_flipped, _cut, _inserted, _repeated, _truncated, _appended, _mixed),
    *(_field,) * 4,
)


def mutated(number: int) -> tuple[str, bytes]:
    """Picture ``number``, and what was done to it."""
    draws = Random(number)
    form, content = draws.choice(good())
    change = draws.choice(CHANGES)
    return f"number {number}: {form} {change.__name__}", change(form, content, draws)


# -- reading -----------------------------------------------------------------------------------------------


def _task(**how: Any) -> abe.Task:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    return abe.image_task(net, size=(16, 16), **how)


def _fullest() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _tried(read: Callable[[Path], Any], path: Path, said: str) -> bool:
    """Whether a picture was read; it is refused by code otherwise, and takes neither long nor much."""
    before, began, refused = _fullest(), time.process_time(), set[Code]()
    try:
        read(path)
    except AbeError as refusal:
        refused.add(refusal.code)
    assert refused <= CODES, said
    assert time.process_time() - began < SECONDS, said
    assert _fullest() - before < GROWTH, said
    return not refused


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("numbers", [range(200), pytest.param(range(3000), marks=pytest.mark.slow)], ids=len)
def test_mutated_pictures_are_read_or_refused(tmp_path: Path, numbers: range) -> None:
    task, read = _task(), 0

    def explained(path: Path) -> None:
        made = abe.explain(task, path, "gradient", target=0, progress=False)
        assert made.attribution.isfinite().all()

    path = tmp_path / "picture"
    path.write_bytes(good()[0][1])
    explained(path)  # what the first call does once is no matter of the picture
    for number in numbers:
        said, content = mutated(number)
        path.write_bytes(content)
        try:
            read += _tried(explained if len(numbers) > 500 else task.lift, path, said)
        except AssertionError:
            raise
        except Exception as problem:
            raise AssertionError(f"{said}: {type(problem).__name__}: {problem}") from problem
    assert len(numbers) / 10 < read < len(numbers) * 0.9


# -- pictures that grow ------------------------------------------------------------------------------------


def _blank(width: int, height: int, depth: int = 8, kind: int = 2) -> bytes:
    """A PNG of zeros, made line by line."""
    packed = zlib.compressobj(9)
    line = bytes(1 + (width * depth * {0: 1, 2: 3, 3: 1, 6: 4}[kind] + 7) // 8)
    body = b"".join([*(packed.compress(line) for _ in range(height)), packed.flush()])

    def chunk(name: bytes, held: bytes) -> bytes:
        return struct.pack(">I", len(held)) + name + held + struct.pack(">I", zlib.crc32(name + held))

    head = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def _screen(width: int, height: int) -> bytes:
    """A GIF whose only picture is smaller than its screen."""
    buffer = io.BytesIO()
    _made("P").save(buffer, "GIF")
    changed = bytearray(buffer.getvalue())
    struct.pack_into("<HH", changed, 6, width, height)
    return bytes(changed)


def _packed(form: str, width: int, height: int, mode: str = "RGB", **how: Any) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (width, height)).save(buffer, form, **how)
    return buffer.getvalue()


BOMBS: dict[str, Callable[[], bytes]] = {
    "a page": lambda: _blank(6_000, 6_000, 1, 0),
    "a line": lambda: _blank(60_000_000, 1, 1, 0),
    "a screen": lambda: _screen(13_000, 13_000),
    "beyond Pillow's limit": lambda: _screen(65_535, 65_535),
    "a fax": lambda: _packed("TIFF", 7_000, 7_000, "1", compression="group4"),
}


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("name", BOMBS)
def test_small_files_of_huge_pictures_are_refused_before_they_grow(tmp_path: Path, name: str) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(BOMBS[name]())
    before, began = _fullest(), time.process_time()
    with pytest.raises(AbeError, match=r"beyond measure|decompression bomb") as caught:
        _task().lift(path)
    assert caught.value.code is Code.UNREADABLE_IMAGE
    assert time.process_time() - began < SECONDS
    assert _fullest() - before < 50 << 20


def test_what_is_trusted_can_be_opened_by_oneself_and_what_is_small_is_never_weighed(tmp_path: Path) -> None:
    (tmp_path / "large.png").write_bytes(_blank(6_000, 6_000, 1, 0))
    with Image.open(tmp_path / "large.png") as opened:
        assert _task().lift(opened).x.shape == (1, 3, 16, 16)
    (tmp_path / "small.png").write_bytes(_blank(4_000, 4_000, 1, 0))
    assert _task().lift(tmp_path / "small.png").x.shape == (1, 3, 16, 16)


def test_a_program_that_draws_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import EpsImagePlugin

    (tmp_path / "a.png").write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n{} loop\n%%EOF\n"
    )
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", None)
    with pytest.raises(AbeError, match="not run") as caught:
        _task().lift(tmp_path / "a.png")
    assert caught.value.code is Code.UNREADABLE_IMAGE
