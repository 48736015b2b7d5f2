"""Whatever holds samples gives all of them, in order, or is refused by name."""

from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import abe
from abe.errors import AbeError, Code

X = torch.rand(7, 3, 8, 8, generator=torch.Generator().manual_seed(0))
BYTES = (X * 255).byte()


def net(channels: int = 3) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(channels, 4, 3), nn.Flatten(), nn.Linear(144, 5)).eval()


def task(channels: int = 3) -> abe.Task:
    return abe.image_task(net(channels))


FORMS: dict[str, Callable[[Any], Any]] = {
    "list of batches": lambda x: [x[:3], x[3:6], x[6:]],
    "tuple of batches": lambda x: (x[:3], x[3:]),
    "one batch in a list": lambda x: [x],
    "one batch in a tuple": lambda x: (x,),
    "samples": list,
    "mixed": lambda x: [x[0], x[1:5], x[5], x[6:]],
    "an empty one among them": lambda x: [x[:0], x],
    "generator": lambda x: (part for part in (x[:4], x[4], x[5:])),
    "iterator": lambda x: iter([x[:4], x[4:]]),
    "deque": lambda x: deque([x[:4], x[4:]]),
    "values of a dict": lambda x: {"a": x[:4], "b": x[4:]}.values(),
    "batches of one part": lambda x: [[x[:4]], (x[4:],)],
}
KINDS: dict[str, tuple[Any, Tensor]] = {
    "tensor": (X, X),
    "array": (X.numpy(), X),
    "double": (X.double().numpy(), X),
    "bytes": (BYTES, BYTES.float() / 255),
    "array of bytes": (BYTES.numpy(), BYTES.float() / 255),
    "array with channels last": (X.movedim(1, -1).numpy(), X),
    "tensor with channels last": (X.movedim(1, -1), X),
    "bytes with channels last": (BYTES.movedim(1, -1).numpy(), BYTES.float() / 255),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", FORMS)
def test_all_samples_of_all_batches(form: str, kind: str) -> None:
    data, right = KINDS[kind]
    found = task().lift(FORMS[form](data))
    torch.testing.assert_close(found.x, right)
    assert found.names == [f"sample {i}" for i in range(7)]
    assert found.x.is_contiguous()


@given(st.lists(st.integers(0, 4), min_size=1, max_size=5).filter(any), st.randoms())
@settings(max_examples=25, deadline=None)
def test_any_cut_of_any_kinds(sizes: list[int], draw: Any) -> None:
    x = torch.arange(sum(sizes) * 192).view(-1, 3, 8, 8) % 256
    parts = []
    for part in x.byte().split(sizes):
        turned = part.movedim(1, -1)
        kinds = [part, part.numpy(), turned, turned.numpy(), part.float() / 255, [*part], (*part.numpy(),)]
        alone = [Image.fromarray(one.numpy()) for one in turned]
        kinds += [alone] if alone else []
        chosen = draw.choice(kinds)
        parts += chosen if isinstance(chosen, list | tuple) else [chosen]
    torch.testing.assert_close(task().lift(parts).x, x.float() / 255)


ENTRIES: dict[str, Callable[[Any], Any]] = {
    "explain": lambda d: abe.explain(task(), d, "gradient", target=1, progress=False).attribution,
    "attack": lambda d: abe.attack(task(), d, "fgsm", progress=False).x_adv,
    "robustness": lambda d: abe.evaluate_robustness(task(), d, "fgsm", progress=False).broken_at,
    "evaluate": lambda d: (
        abe.evaluate(task(), ["gradient"], ["deletion"], data=d, progress=False)
        .scores["gradient"]["deletion"]
        .values
    ),
    "compare": lambda d: (
        abe.compare(task(), d, ["gradient"], ["deletion"], progress=False)
        .scores["gradient"]["deletion"]
        .values
    ),
}


@pytest.mark.parametrize("entry", ENTRIES)
def test_every_entry_point(entry: str) -> None:
    right = ENTRIES[entry](X)
    for form in ("list of batches", "mixed", "generator"):
        torch.testing.assert_close(ENTRIES[entry](FORMS[form](X)), right)


LABELS = torch.tensor([0, 1, 2, 3, 4, 0, 1])


@pytest.mark.parametrize(
    "batches",
    [
        [(X, LABELS)],
        [[X[:3], LABELS[:3]], [X[3:], LABELS[3:]]],
        [(X, LABELS, torch.arange(7))],
        [(X[0], 3), (X[1], 2)],
        [{"image": X, "label": LABELS}],
        DataLoader(TensorDataset(X, LABELS), batch_size=3),
        TensorDataset(X, LABELS),
        (X, LABELS),
        [X, X.double()],
        [X, X.long()],
        [X, X[..., :7]],
        [object()],
        {"a.png", "b.png"},
        b"bytes of a file",
    ],
    ids=lambda b: type(b).__name__,
)
def test_what_is_no_list_of_inputs_is_refused(batches: Any) -> None:
    with pytest.raises(AbeError) as caught:
        abe.explain(task(), batches, "gradient", progress=False)
    assert caught.value.code in (Code.SHAPE, Code.DTYPE, Code.UNREADABLE_IMAGE)


def test_labels_in_a_list_are_named() -> None:
    with pytest.raises(AbeError, match=r"more than inputs.*batch\[0\]"):
        abe.explain(task(), DataLoader(TensorDataset(X, LABELS)), "gradient", progress=False)
    found = abe.explain(
        task(), DataLoader(TensorDataset(X), batch_size=3), "gradient", target=0, progress=False
    )
    torch.testing.assert_close(found.x, X)


# -- axes --------------------------------------------------------------------------------------------------

GREY = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    "form", [lambda x: x, lambda x: x.numpy(), lambda x: [x[:2], x[2:]], lambda x: [*x.numpy()]]
)
@pytest.mark.parametrize(
    "model", [net(1), nn.Sequential(nn.Flatten(), nn.Linear(64, 3))], ids=["conv", "linear"]
)
def test_grey_pictures_without_channels(form: Any, model: nn.Module) -> None:
    torch.testing.assert_close(abe.image_task(model).lift(form(GREY[:, 0])).x, GREY)
    three = (GREY[:3, 0] * 255).byte()
    torch.testing.assert_close(abe.image_task(model).lift(three).x, three[:, None] / 255)
    with pytest.raises(AbeError, match="not clear"):  # three grey pictures, or one in colours
        abe.image_task(model).lift(three.numpy())


def test_one_grey_picture_fills_three_channels() -> None:
    grey = GREY[0, 0].numpy()
    right = GREY[:1].expand(-1, 3, -1, -1)
    torch.testing.assert_close(task().lift(grey).x, right)
    as_bytes = (grey * 255).astype(np.uint8)
    torch.testing.assert_close(
        task().lift(as_bytes).x, torch.from_numpy(as_bytes / 255).float().expand(1, 3, 8, 8)
    )


@pytest.mark.parametrize(
    ("shape", "kinds"),
    [
        ((5, 8, 8), "tensor floats bytes"),
        ((3, 8, 3), "floats"),
        ((2, 3, 8, 3), "floats"),
        ((8, 8, 2), "tensor floats bytes"),
        ((2, 2, 8, 8), "bytes"),
        ((3,), "tensor floats bytes"),
        ((1, 1, 3, 8, 8), "tensor floats bytes"),
    ],
)
def test_shapes_that_say_nothing_are_refused(shape: tuple[int, ...], kinds: str) -> None:
    x = torch.rand(shape)
    given = {"tensor": x, "floats": x.numpy(), "bytes": (x * 255).byte().numpy()}
    for kind in kinds.split():
        with pytest.raises(AbeError) as caught:
            task().lift(given[kind])
        assert caught.value.code is Code.SHAPE


def test_layouts_that_are_documented_settle_what_a_shape_leaves_open() -> None:
    """Tensors have their channels first, photographs last."""
    x = torch.rand(2, 3, 8, 3)
    assert torch.equal(task().lift(x).x, x)
    assert torch.equal(task().lift(x[0]).x, x[:1])
    pixels = (x * 255).byte()
    assert torch.equal(task().lift(pixels.numpy()).x, pixels.movedim(-1, 1) / 255)
    assert torch.equal(task().lift(pixels[0].numpy()).x, pixels[:1].movedim(-1, 1) / 255)


def test_channels_are_told_by_numbers_or_by_hand() -> None:
    free = nn.AdaptiveAvgPool2d(1)
    x = torch.rand(2, 9, 9, 5)
    for how in ({"channels": 5}, {"mean": [0.1] * 5}, {"bounds": (0, [1.0] * 5)}):
        torch.testing.assert_close(abe.image_task(free, **how).lift(x).x, x.movedim(-1, 1))
        torch.testing.assert_close(abe.image_task(free, **how).lift(x[0]).x, x[:1].movedim(-1, 1))
    with pytest.raises(AbeError, match="channels="):
        abe.image_task(free).lift(torch.rand(2, 9, 9, 3))


@pytest.mark.parametrize("bands", [2, 4, 5, 13])
def test_bytes_of_any_number_of_bands(bands: int) -> None:
    pixels = torch.randint(256, (3, bands, 8, 8), dtype=torch.uint8)
    right, last = pixels / 255, pixels.movedim(1, -1).numpy()
    for raw in (pixels, pixels.numpy(), last, [*last], [*pixels], [last[:2], last[2]]):
        torch.testing.assert_close(task(bands).lift(raw).x, right)
    assert abe.image_task(net(bands), size=4).lift(last).x.shape == (3, bands, 4, 4)


# -- arrays of every kind ----------------------------------------------------------------------------------

ARRAYS: dict[str, Callable[[np.ndarray], Any]] = {
    "big-endian": lambda a: a.astype(">f4"),
    "big-endian double": lambda a: a.astype(">f8"),
    "long double": lambda a: a.astype(np.longdouble),
    "half": lambda a: a.astype(np.float16),
    "reversed twice": lambda a: a[..., ::-1].copy()[..., ::-1],
    "Fortran": np.asfortranarray,
    "every other": lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
    "read-only": lambda a: np.frombuffer(a.tobytes(), a.dtype).reshape(a.shape),
    "masked nowhere": np.ma.asarray,
}


@pytest.mark.parametrize("kind", ARRAYS)
def test_arrays_of_every_kind(kind: str) -> None:
    raw = ARRAYS[kind](X.numpy())
    close = {"atol": 1e-3, "rtol": 0} if kind == "half" else {}
    for one, right in ((raw, X), ([*raw], X), (raw[0], X[:1])):
        torch.testing.assert_close(task().lift(one).x, right, **close)
    made = abe.Explanation.from_array(raw, X, target=0)
    torch.testing.assert_close(made.attribution, X, **close)
    again = abe.Explanation.from_array(raw, raw, target=0)
    torch.testing.assert_close(again.x.float(), X, **close)


def test_an_array_is_not_shared() -> None:
    raw = X.numpy().copy()
    found = task().lift(raw)
    raw[:] = 0
    torch.testing.assert_close(found.x, X)


def test_integers_of_16_bits_are_scaled_and_others_are_as_they_are() -> None:
    deep = (X.numpy() * 65535).astype(np.uint16)
    for raw in (deep, deep.astype(">u2"), torch.from_numpy(deep), [*deep]):
        torch.testing.assert_close(task().lift(raw).x, X, atol=1e-4, rtol=0)
    tens = np.full((1, 3, 8, 8), 4000, np.uint16)
    assert "12 of 16 bits" in task().lift(tens).notes[0]
    wide = abe.image_task(net(), bounds=(0, 4095))
    with pytest.raises(AbeError, match="16-bit integers"):
        wide.lift(tens)
    torch.testing.assert_close(wide.lift(tens.astype(np.int32)).x, torch.full((1, 3, 8, 8), 4000.0))
    assert task().lift(X.numpy() > 0.5).x.unique().tolist() == [0, 1]
    signed = abe.image_task(net(), bounds=(-1, 1)).lift(X.numpy() > 0.5)
    assert signed.x.unique().tolist() == [-1, 1]


@pytest.mark.parametrize(
    "raw",
    [
        X.numpy().astype(np.complex64),
        np.full((8, 8), "a"),
        np.empty((2, 2), object),
        np.ma.masked_less(X.numpy(), 0.5),
    ],
    ids=["complex", "text", "objects", "masked"],
)
def test_arrays_of_no_real_numbers_are_refused(raw: Any) -> None:
    with pytest.raises(AbeError) as caught:
        task().lift(raw)
    assert caught.value.code is Code.DTYPE


def test_several_inputs_as_arrays() -> None:
    class Two(nn.Module):
        def forward(self, image: Tensor, row: Tensor) -> Tensor:
            return torch.stack([image.flatten(1).sum(1) * row.sum(1), row.sum(1)], 1)

    given = {"image": X, "row": torch.rand(7, 5)}
    whole = abe.explain(abe.image_task(Two()), given, "gradient", target=0, progress=False)
    arrays = {name: part.numpy().astype(">f4") for name, part in given.items()}
    found = abe.explain(abe.image_task(Two()), arrays, "gradient", target=0, progress=False)
    torch.testing.assert_close(found.attribution, whole.attribution)
    both = abe.image_task(Two(), explained=["image", "row"])
    torch.testing.assert_close(both.lift(arrays).x, both.lift(given).x)
