"""Photographs of every depth and transparency arrive as a viewer shows them, or are refused by code."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import abe
from abe.errors import AbeError, Code

RAMP = np.linspace(0, 1, 32 * 32).reshape(32, 32)
DEEP = (RAMP * 65535).astype(np.uint16)


def task(channels: int = 1, **how: Any) -> abe.Task:
    torch.manual_seed(0)
    return abe.image_task(
        nn.Sequential(nn.Conv2d(channels, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval(), **how
    )


def word(array: np.ndarray, mode: str = "I;16") -> Image.Image:
    """An image of 16 bits: what Pillow makes of an array depends on its version."""
    dtype = ">u2" if mode == "I;16B" else "<u2"
    return Image.frombytes(mode, array.shape[::-1], array.astype(dtype).tobytes())


def ramps(x: torch.Tensor, low: float = 0, high: float = 1) -> None:
    for plane in x.flatten(0, 1)[:3]:
        np.testing.assert_allclose(plane.numpy(), low + RAMP * (high - low), atol=(high - low) / 250)


@pytest.mark.parametrize("bounds", [(0, 1), (-1, 1), (0, 255)])
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.pgm", "a.jp2"])
def test_sixteen_bits(tmp_path: Path, name: str, channels: int, bounds: tuple[int, int]) -> None:
    word(DEEP).save(tmp_path / name)
    there = task(channels, bounds=bounds)
    for source in (tmp_path / name, str(tmp_path / name), Image.open(tmp_path / name), word(DEEP)):
        found = there.lift(source)
        assert found.x.shape == (1, channels, 32, 32)
        ramps(found.x, *bounds)
        assert not found.notes
        if channels == 4:
            assert (found.x[:, 3] == bounds[1]).all()


def test_sixteen_bits_keep_their_depth() -> None:
    assert len(task().lift(word(DEEP)).x.unique()) == 32 * 32
    assert len(task(size=16).lift(word(DEEP)).x.unique()) > 200


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I;16L"])
def test_images_in_memory(mode: str) -> None:
    made = word(DEEP, mode)
    ramps(task().lift(made).x)
    flat = task(size=(8, 4), fit="stretch").lift(made).x
    assert flat.shape == (1, 1, 8, 4)
    assert float(flat.mean()) == pytest.approx(0.5, abs=0.01)
    assert float(flat.min()) >= 0
    assert float(flat.max()) <= 1


@pytest.mark.parametrize("path", [False, True])
def test_thirty_two_bits_that_hold_sixteen_are_told_by_their_values(tmp_path: Path, path: bool) -> None:
    image = Image.fromarray(DEEP.astype(np.int32))
    image.save(tmp_path / "a.tif")
    found = task().lift(tmp_path / "a.tif" if path else image)
    ramps(found.x)
    (note,) = found.notes
    assert "32-bit" in note
    assert note.endswith("[ABE-PICTURE]")


@pytest.mark.parametrize("values", [RAMP * 255, RAMP * 1e6, RAMP * 60000 - 1, RAMP * 0])
def test_thirty_two_bits_of_no_known_range_are_refused(tmp_path: Path, values: np.ndarray) -> None:
    Image.fromarray(values.astype(np.int32)).save(tmp_path / "a.tif")
    with pytest.raises(AbeError, match="range") as caught:
        task().lift(tmp_path / "a.tif")
    assert caught.value.code is Code.UNREADABLE_IMAGE


def test_floats_are_in_the_tasks_bounds(tmp_path: Path) -> None:
    for name, values in (("unit", RAMP), ("bytes", RAMP * 255), ("other", RAMP * 3000 - 1000)):
        Image.fromarray(values.astype(np.float32)).save(tmp_path / f"{name}.tif")
    ramps(task().lift(tmp_path / "unit.tif").x)
    ramps(task(3).lift(tmp_path / "unit.tif").x)
    ramps(task(bounds=(0, 255)).lift(tmp_path / "bytes.tif").x, 0, 255)
    ramps(task(bounds=None).lift(tmp_path / "other.tif").x, -1000, 2000)
    for there, name, code in (
        (task(), "bytes", Code.OUT_OF_BOUNDS),
        (task(), "other", Code.OUT_OF_BOUNDS),
        (task(bounds=(0, 255)), "unit", Code.UNREADABLE_IMAGE),
        (task(bounds=(-1, 1)), "unit", Code.UNREADABLE_IMAGE),
    ):
        with pytest.raises(AbeError, match="bounds") as caught:
            abe.explain(there, tmp_path / f"{name}.tif", "gradient", progress=False)
        assert caught.value.code is code


def test_twelve_bits_in_sixteen_are_noted() -> None:
    found = task().lift(word(DEEP // 16))
    assert float(found.x.max()) == pytest.approx(4095 / 65535)
    (note,) = found.notes
    assert "12 of 16 bits" in note


def test_a_negative_of_sixteen_bits(tmp_path: Path) -> None:
    word(65535 - DEEP).save(tmp_path / "a.tif", tiffinfo={262: 0})
    with Image.open(tmp_path / "a.tif") as opened:
        inverted = opened.tag_v2[262] == 0
    ramps(task().lift(tmp_path / "a.tif").x if inverted else torch.from_numpy(RAMP)[None, None])


def test_one_bit(tmp_path: Path) -> None:
    Image.fromarray(RAMP > 0.5).save(tmp_path / "a.png")
    for channels in (1, 3):
        found = task(channels).lift(tmp_path / "a.png").x
        assert torch.equal(found[0, 0], torch.from_numpy(RAMP > 0.5).float())


# -- transparency ------------------------------------------------------------------------------------------


def logo() -> Image.Image:
    """Black, opaque in the upper half, half in the third quarter, and clear below."""
    pixels = np.zeros((32, 32, 4), np.uint8)
    pixels[:16, :, 3], pixels[16:24, :, 3] = 255, 51
    return Image.fromarray(pixels)


def clear(image: Image.Image, value: Any) -> Image.Image:
    image.info["transparency"] = value
    return image


def palette() -> Image.Image:
    image = Image.fromarray(np.repeat(np.array([[0], [1]], np.uint8), 16, 0).repeat(32, 1))
    image.putpalette([0, 0, 0, 10, 10, 10])
    return clear(image, 1)


def alpha(image: Image.Image) -> Image.Image:
    image.putalpha(logo().getchannel("A"))
    return image


LOGOS = {
    "RGBA": logo,
    "LA": lambda: logo().convert("LA"),
    "PA": lambda: alpha(Image.new("P", (32, 32))),
    "palette": palette,
    "grey with a clear value": lambda: clear(Image.fromarray(np.eye(32, dtype=np.uint8) * 9 + 9), 9),
    "colour with a clear value": lambda: clear(Image.new("RGB", (32, 32)), (0, 0, 0)),
    "16 bits with a clear value": lambda: clear(word(DEEP), 0),
}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", LOGOS)
def test_transparent_pictures_lie_on_white(name: str, channels: int) -> None:
    found = task(channels).lift(LOGOS[name]())
    assert float(found.x.max()) == 1
    (note,) = found.notes
    assert "laid on white" in note
    if name in ("RGBA", "LA"):
        torch.testing.assert_close(
            found.x[0, 0, [0, 20, 30], 0], torch.tensor([0, 0.8, 1]), atol=0.01, rtol=0
        )


@pytest.mark.parametrize("name", ["a.png", "a.webp", "a.gif", "a.tif"])
def test_transparent_files(tmp_path: Path, name: str) -> None:
    logo().save(tmp_path / name)
    there = task(3)
    made = abe.explain(there, tmp_path / name, "gradient", progress=False)
    (note,) = made.warnings
    assert name in note
    assert note.endswith("[ABE-PICTURE]")
    assert float(made.x[0, :, -1].min()) == 1
    assert note in abe.attack(there, tmp_path / name, "fgsm", progress=False).warnings
    assert note in abe.evaluate_robustness(there, tmp_path / name, "fgsm", progress=False).warnings
    found = abe.evaluate(there, ["gradient"], ["complexity"], data=[tmp_path / name], progress=False)
    assert note in found.origins["gradient"].warnings


def test_pictures_that_only_could_be_transparent_are_as_they_were() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    found = task(3).lift(image.convert("RGBA"))
    assert torch.equal(found.x, task(3).lift(image).x)
    assert not found.notes
    kept = task(4).lift(logo())
    assert not kept.notes
    assert kept.x[0, 3].unique().tolist() == pytest.approx([0, 0.2, 1])


# -- files of every format ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "mode", ["1", "L", "P", "RGB", "CMYK", "YCbCr", "HSV", "LAB", "RGBX", "RGBa", "La", "LA", "PA", "F"]
)
def test_every_mode_is_read_or_refused(mode: str) -> None:
    made, refused = Image.new(mode, (8, 8)), set()
    for channels in (1, 3, 4):
        try:
            found = task(channels).lift(made)
        except AbeError as refusal:
            refused.add(refusal.code)
        else:
            assert found.x.shape == (1, channels, 8, 8)
    assert refused <= {Code.UNREADABLE_IMAGE}


def test_cmyk_is_as_pillow_shows_it(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    image = Image.fromarray(pixels).convert("CMYK")
    image.save(tmp_path / "a.tif")
    right = torch.from_numpy(np.asarray(image.convert("RGB")).copy()).permute(2, 0, 1)[None] / 255
    assert torch.equal(task(3).lift(tmp_path / "a.tif").x, right)


@pytest.mark.parametrize("error", [RuntimeError, NotImplementedError, KeyError, MemoryError, AssertionError])
def test_a_decoder_may_raise_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error("inside")

    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    for where in ("open", "Image.load"):
        with monkeypatch.context() as patch:
            patch.setattr(f"PIL.Image.{where}", fail)
            for source in (tmp_path / "a.png", Image.new("RGB", (4, 4))):
                if where == "open" and not isinstance(source, Path):
                    continue
                with pytest.raises(AbeError) as caught:
                    task(3).lift(source)
                assert caught.value.code is Code.UNREADABLE_IMAGE


@pytest.mark.parametrize(
    "name", ["a.avif", "a.dds", "a.png", "a.jpg", "a.tif", "a.gif", "a.webp", "a.bmp", "a.ico"]
)
def test_damaged_files_are_refused_or_read(tmp_path: Path, name: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    try:
        Image.fromarray(pixels).save(tmp_path / name)
    except (OSError, ValueError, KeyError):
        pytest.skip("this Pillow does not write it")
    whole = (tmp_path / name).read_bytes()
    draws, refused = np.random.default_rng(1), set()
    for _ in range(30):
        broken = bytearray(whole)
        for place in draws.integers(0, len(whole), 4):
            broken[place] = draws.integers(0, 256)
        (tmp_path / name).write_bytes(bytes(broken[: draws.integers(1, len(whole) + 1)]))
        try:
            task(3).lift(tmp_path / name)
        except AbeError as refusal:
            refused.add(refusal.code)
    assert refused <= {Code.UNREADABLE_IMAGE}


def test_an_image_that_cannot_be_decoded_any_more(tmp_path: Path) -> None:
    Image.new("RGB", (64, 64), "red").save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as closed:
        pass
    with pytest.raises(AbeError, match="cannot be read"):
        task(3).lift(closed)


def test_the_first_of_several_pictures_is_noted(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    for name in ("a.gif", "a.tif"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
        (note,) = task(3).lift(tmp_path / name).notes
        assert "2 pictures" in note


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(AbeError) as caught:
        task(3).lift(tmp_path / "a.png")
    assert caught.value.code is Code.UNREADABLE_IMAGE
