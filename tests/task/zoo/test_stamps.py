"""Cut-outs pasted on backgrounds: the mask is where, to the pixel."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from abe.errors import Code, InputError, PackageError, SpecError, StorageError
from abe.task import zoo
from abe.task.zoo import stamps

GROUNDS = {
    "grey": Image.new("RGB", (300, 200), (90, 90, 90)),
    "blue": Image.new("RGB", (100, 100), (0, 0, 255)),
}


def cut_out(path: Path, colour: tuple[int, int, int], size: tuple[int, int] = (120, 80)) -> None:
    """A filled ellipse with a hard edge, on transparent black, with room around it."""
    y, x = np.mgrid[: size[1], : size[0]]
    inside = ((x / size[0] - 0.5) ** 2 + (y / size[1] - 0.5) ** 2) < 0.2
    pixels = np.zeros((*inside.shape, 4), np.uint8)
    pixels[inside] = (*colour, 255)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "stamps"
    cut_out(root / "animals/cat.png", (255, 0, 0))
    (root / "animals/cat.txt").write_text("A tabby cat.\nde.utf8=Eine Katze.\n")
    cut_out(root / "food/lemon.png", (255, 255, 0), (70, 90))
    (root / "food/lemon.txt").write_text("The lemon.\n")
    cut_out(root / "animals/cat_mirror.png", (255, 0, 0))
    cut_out(root / "animals/cartoon/cat.png", (255, 0, 0))
    cut_out(root / "small.png", (255, 0, 0), (20, 20))
    Image.new("RGB", (100, 100), "red").save(root / "opaque.png")
    (root / "broken.png").write_bytes(b"no picture")
    return root


def test_only_cut_outs_are_stamps(folder: Path) -> None:
    found = stamps.stamps(folder)
    assert [(one.name, one.caption) for one in found] == [
        ("animals/cat", "A tabby cat."),
        ("food/lemon", "The lemon."),
    ]


def test_masks_are_where_the_stamp_is(folder: Path) -> None:
    found = zoo.composites(folder, n=6, size=64, backgrounds=GROUNDS)
    assert found.masks.shape == (6, 64, 64)
    colours = {"animals/cat": (255, 0, 0), "food/lemon": (255, 255, 0)}
    for image, mask, name, ground in zip(
        found.images, found.masks, found.names, found.backgrounds, strict=True
    ):
        pixels = np.asarray(image)
        plain = np.asarray(GROUNDS[ground])[0, 0]
        assert 0.05 < mask.mean() < 0.36
        inner = mask & np.roll(mask, 2, 0) & np.roll(mask, -2, 0) & np.roll(mask, 2, 1) & np.roll(mask, -2, 1)
        assert (np.abs(pixels[inner].astype(int) - colours[name]) <= 16).all()
        changed = (pixels != plain).any(-1)
        assert not (mask & ~changed).any()
        rows, columns = np.nonzero(changed)
        assert abs(max(np.ptp(rows), np.ptp(columns)) + 1 - 0.6 * 64) <= 2
        assert image.filename == name.split("/")[-1]  # pyright: ignore[reportAttributeAccessIssue]


def test_the_same_seed_gives_the_same_pictures_and_more_only_follow(folder: Path) -> None:
    few = zoo.composites(folder, n=3, size=48, backgrounds=GROUNDS)
    many = zoo.composites(folder, n=5, size=48, backgrounds=GROUNDS)
    other = zoo.composites(folder, n=5, size=48, backgrounds=GROUNDS, seed=1)
    assert many.names[:3] == few.names
    assert (many.masks[:3] == few.masks).all()
    assert all(a.tobytes() == b.tobytes() for a, b in zip(few.images, many.images[:3], strict=True))
    assert any(a.tobytes() != b.tobytes() for a, b in zip(other.images, many.images, strict=True))


def test_captions_that_name_one_class_give_the_target(folder: Path) -> None:
    found = zoo.composites(
        folder, n=2, size=32, backgrounds=GROUNDS, labels=["dog", "Tabby cat", "lemon", "lemon"]
    )
    assert (found.names, found.targets) == (["animals/cat"] * 2, [1, 1])  # two classes are called lemon
    with pytest.raises(InputError, match="No stamp shows"):
        zoo.composites(folder, backgrounds=GROUNDS, labels=["dog"])


def test_an_unpacked_package_is_found_inside_the_folder(folder: Path, tmp_path: Path) -> None:
    inner = tmp_path / "deb/usr/share/tuxpaint/stamps"
    inner.parent.mkdir(parents=True)
    folder.rename(inner)
    assert len(stamps.stamps(tmp_path / "deb")) == 2
    assert stamps.digest_of(stamps.stamps(tmp_path / "deb")) == stamps.digest_of(stamps.stamps(str(inner)))


def test_other_stamps_are_not_taken_for_tux_paints(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = stamps.digest_of(stamps.stamps(folder))
    for look in (zoo.load, zoo.get):
        with pytest.raises(StorageError) as caught:
            look("tuxpaint", folder=folder)
        assert caught.value.code == Code.CORRUPT_FILE
        assert digest in str(caught.value)
        assert stamps.STAMPS_SHA256 in str(caught.value)
    monkeypatch.setattr(stamps, "STAMPS_SHA256", digest)
    assert [path.name for path, _, _ in stamps.held(folder)] == ["cat.png", "lemon.png"]
    (folder / "food/lemon.txt").write_text("A lime.")
    with pytest.raises(StorageError):
        stamps.held(folder)


def test_what_is_not_there_is_told_with_the_command(tmp_path: Path) -> None:
    for gone in (tmp_path / "gone", tmp_path / "a\0b", "x" * 300):
        with pytest.raises(PackageError, match="dpkg -x") as caught:
            zoo.composites(gone)
        assert caught.value.code == Code.MISSING_PACKAGE
    with pytest.raises(InputError, match="no cut-outs"):
        zoo.composites(tmp_path)


@pytest.mark.parametrize(
    "wrong", [{"n": 0}, {"size": 1}, {"share": 0}, {"share": 1.1}, {"seed": "x"}, {"n": 2.5}], ids=str
)
def test_numbers_that_make_no_sense_are_refused(folder: Path, wrong: dict[str, object]) -> None:
    with pytest.raises(SpecError):
        zoo.composites(folder, backgrounds=GROUNDS, **wrong)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("wrong", [{}, [1], {"a": 3}, {"a": "gone.png"}], ids=str)
def test_backgrounds_that_are_no_pictures_are_refused(folder: Path, wrong: object) -> None:
    with pytest.raises(InputError):
        zoo.composites(folder, backgrounds=wrong)  # pyright: ignore[reportArgumentType]


def test_a_stamp_may_fill_the_picture(folder: Path) -> None:
    found = zoo.composites(folder, n=4, size=40, share=1.0, backgrounds=GROUNDS)
    assert found.masks.any((1, 2)).all()
