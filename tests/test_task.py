"""Whatever models take and return, and whatever photographs come as."""

from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import abe
from abe.errors import AbeError, Code, InputError, ModelError, SpecError
from abe.task.base import Context

Pair = namedtuple("Pair", ["hidden", "logits"])
Plain = namedtuple("Plain", ["first", "second"])


@dataclass
class Record:
    loss: Any
    logits: Tensor
    hidden: Tensor


class Output(OrderedDict):
    """As the outputs of a popular library: a dict whose entries are attributes too."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


class Bag:
    """An object with attributes."""

    def __init__(self, logits: Tensor, loss: None = None) -> None:
        self.logits, self.loss, self._hidden = logits, loss, logits * 2


class Linear(nn.Module):
    """Known scores, returned in some form."""

    def __init__(self, form=lambda y: y, features: int = 12, classes: int = 4) -> None:
        super().__init__()
        self.linear = nn.Linear(features, classes)
        self.form = form
        self.eval()

    def forward(self, x: Tensor) -> Any:
        return self.form(self.linear(x.flatten(1)))


def explain(task, raw, method="gradient", **how):
    how.setdefault("progress", False)
    return abe.explain(task, raw, method, **how)


FORMS = {
    "tensor": (lambda y: y, None),
    "dict with logits": (lambda y: {"hidden": y * 3, "logits": y}, None),
    "dict of one": (lambda y: {"whatever": y, "name": "x"}, None),
    "dict by key": (lambda y: {"a": y * 3, "b": y}, "b"),
    "tuple": (lambda y: (y, y * 3), None),
    "list": (lambda y: [y, y * 3], None),
    "tuple by index": (lambda y: (y * 3, y), 1),
    "named tuple": (lambda y: Pair(y * 3, y), None),
    "plain named tuple": (lambda y: Plain(y, y * 3), None),
    "named tuple by name": (lambda y: Plain(y * 3, y), "second"),
    "dataclass": (lambda y: Record(None, y, y * 3), None),
    "dataclass by name": (lambda y: Record(None, y * 3, y), "hidden"),
    "model output": (lambda y: Output(loss=None, logits=y, hidden=y * 3), None),
    "model output by name": (lambda y: Output(loss=None, logits=y * 3, hidden=y), "hidden"),
    "object": (lambda y: Bag(y), None),
    "nested, by a function": (lambda y: {"out": {"deep": [y]}}, lambda raw: raw["out"]["deep"][0]),
}


@pytest.mark.parametrize("name", FORMS)
def test_outputs(name):
    form, output = FORMS[name]
    model = Linear(form)
    found = explain(abe.image_task(model, output=output), torch.rand(2, 3, 2, 2), target=[1, 3])
    assert torch.equal(found.attribution.flatten(1), model.linear.weight[[1, 3]].detach())


@pytest.mark.parametrize(
    ("form", "output", "says"),
    [
        (lambda y: {"a": y, "b": y}, None, "dict(a: Tensor, b: Tensor)"),
        (lambda y: {"a": y}, "c", "'c'"),
        (lambda y: (y, y), 2, "no entry 2"),
        (lambda y: Bag(y), "scores", "Bag(logits: Tensor, loss: NoneType)"),
        (lambda y: {"a": y}, 3.5, "3.5"),
        (lambda y: {"a": "text"}, "a", "str"),
    ],
    ids=["two", "key", "index", "attribute", "type", "no tensor"],
)
def test_outputs_that_are_not_found(form, output, says):
    with pytest.raises(ModelError) as caught:
        explain(abe.image_task(Linear(form), output=output), torch.rand(2, 3, 2, 2))
    assert caught.value.code is Code.OUTPUT_TYPE
    assert says in str(caught.value), str(caught.value)
    assert "output=" in str(caught.value)


def test_output_function_that_raises():
    with pytest.raises(ModelError) as caught:
        explain(abe.image_task(Linear(), output=lambda raw: raw["x"]), torch.rand(2, 3, 2, 2))
    assert caught.value.code is Code.OUTPUT_TYPE
    assert "output= function" in str(caught.value)


# -- what the numbers mean ---------------------------------------------------------------------------------


def test_softmax_at_the_end_is_recognised_and_noted():
    plain = Linear()
    ends = nn.Sequential(plain, nn.Softmax(1)).eval()
    x = torch.rand(2, 3, 2, 2)
    right, found = explain(abe.image_task(plain), x), explain(abe.image_task(ends), x)
    assert right.warnings == []
    assert [note.split("[")[-1] for note in found.warnings] == ["ABE-PROBABILITY-OUTPUT]"]
    for one, other in zip(right.top, found.top, strict=True):
        assert [name for name, _ in one] == [name for name, _ in other]
        assert [p for _, p in one] == pytest.approx([p for _, p in other], rel=1e-6)
    probabilities = [dict(row) for row in found.top]
    assert sum(probabilities[0].values()) == pytest.approx(1.0, rel=1e-6)
    for objective in ("log_probability", "probability", "loss", "entropy", "label_agnostic", "margin"):
        one = explain(abe.image_task(plain), x, objective=objective)
        other = explain(abe.image_task(ends), x, objective=objective)
        torch.testing.assert_close(one.attribution, other.attribution, rtol=1e-4, atol=1e-6)
    named = explain(abe.image_task(ends, output_kind="probabilities"), x)
    assert named.warnings == []
    assert torch.equal(named.attribution, found.attribution)
    raw = explain(abe.image_task(ends, output_kind="logits"), x)
    torch.testing.assert_close(raw.score, ends(x).amax(1).detach())


def test_one_logit_is_the_log_odds_of_a_yes():
    model = Linear(classes=1)
    x = torch.rand(2, 3, 2, 2)
    for form in (lambda y: y, lambda y: y[:, 0]):
        model.form = form
        found = explain(abe.image_task(model), x)
        assert found.target.tolist() == [0, 0]
        assert torch.equal(found.attribution.flatten(1), model.linear.weight.expand(2, -1).detach())
        certain = explain(abe.image_task(model), x, objective="probability")
        torch.testing.assert_close(certain.score, model.linear(x.flatten(1)).sigmoid()[:, 0].detach())
        assert found.top == [[], []], "it may be a regression: nobody said that it is a logit"
        assert any("output_kind" in note for note in certain.warnings)


def test_regression_of_one_number():
    model = Linear(classes=1)
    found = explain(abe.image_task(model, output_kind="regression"), torch.rand(2, 3, 2, 2), "ig", steps=4)
    assert found.target.tolist() == [0, 0]
    assert found.top == [[], []]
    assert (found.residual_absolute.abs() < 1e-6).all()


# -- what the model takes ----------------------------------------------------------------------------------


class Two(nn.Module):
    """An image and a table row; the second by position or keyword."""

    def __init__(self, first=(3, 2, 2), second: tuple[int, ...] = (5,)) -> None:
        super().__init__()
        self.a = nn.Linear(int(np.prod(first)), 4)
        self.b = nn.Linear(int(np.prod(second)), 4)
        self.eval()

    def forward(self, image: Tensor, row: Tensor, *, scale: Tensor | None = None) -> Tensor:
        scores = self.a(image.flatten(1)) * (1 + self.b(row.flatten(1)))
        return scores if scale is None else scores * scale[:, None]


def _factor(model: Two, row: Tensor, target: int) -> Tensor:
    return (model.a.weight[target] * (1 + model.b(row.flatten(1)))[:, target, None]).detach()


def test_several_inputs_of_which_one_is_explained():
    model, image, row = Two(), torch.rand(3, 3, 2, 2), torch.randn(3, 5)
    right = _factor(model, row, 2)
    raws = [
        ({"image": image, "row": row}, {}),
        ({"image": image, "row": row}, {"explained": "image"}),
        ((image, row), {"explained": 0}),
        ({0: image, 1: row}, {"explained": 0}),
        ({0: image, "row": row}, {"explained": 0}),
    ]
    for raw, how in raws:
        task = abe.image_task(model, **how)
        found = explain(task, raw, target=2)
        torch.testing.assert_close(found.attribution.flatten(1), right)
        integrated = explain(task, raw, "ig", target=2, steps=3, chunk=2)
        torch.testing.assert_close(integrated.attribution.flatten(1), right * image.flatten(1))


def test_context_by_keyword_and_for_all_samples():
    model, image, row = Two(), torch.rand(3, 3, 2, 2), torch.randn(1, 5)
    task = abe.image_task(model, explained="image")
    found = explain(task, {"image": image, "row": row, "scale": torch.tensor([1.0, 2.0, 3.0])}, target=1)
    right = _factor(model, row.expand(3, -1), 1) * torch.tensor([[1.0], [2.0], [3.0]])
    torch.testing.assert_close(found.attribution.flatten(1), right)
    (alone,) = [found[i] for i in (2,)]
    again = explain(task, {"image": image[2:], "row": row, "scale": torch.tensor([3.0])}, target=1)
    torch.testing.assert_close(alone.attribution, again.attribution)


def test_two_explained_inputs_of_one_kind():
    model = Two(second=(2, 2, 2))
    left, right = torch.rand(2, 3, 2, 2), torch.rand(2, 2, 2, 2)
    task = abe.image_task(model, explained=["image", "row"])
    found = explain(task, {"image": left, "row": right}, "ig", steps=8, target=0)
    assert found.attribution.shape == (2, 5, 2, 2)
    parts = found.unpack()
    assert task.parts == (), "nothing is written on the task"
    assert {name: part.shape for name, part in parts.items()} == {"image": left.shape, "row": right.shape}
    assert torch.equal(found.parts[1].of(found.x), right)
    assert found[1:].unpack()["row"].shape == (1, 2, 2, 2)
    assert torch.equal(torch.cat(list(parts.values()), 1), found.attribution)
    assert (found.residual_absolute.abs() < 1e-5).all()


def test_two_explained_inputs_of_different_kinds():
    model, image, row = Two(), torch.rand(2, 3, 2, 2), torch.rand(2, 5)
    task = abe.image_task(model, explained=("image", "row"))
    found = explain(task, {"image": image, "row": row}, "gradient", target=3)
    parts = found.unpack()
    torch.testing.assert_close(parts["image"].flatten(1), _factor(model, row, 3))
    other = (model.b.weight[3] * model.a(image.flatten(1))[:, 3, None]).detach()
    torch.testing.assert_close(parts["row"], other)


def test_single_input_by_keyword():
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(12, 4)

        def forward(self, *, pixel_values: Tensor) -> Tensor:
            return self.linear(pixel_values.flatten(1))

    model = Named().eval()
    found = explain(abe.image_task(model, input_name="pixel_values"), torch.rand(1, 3, 2, 2), target=1)
    assert torch.equal(found.attribution.flatten(), model.linear.weight[1].detach())


@pytest.mark.parametrize(
    ("raw", "how", "says"),
    [
        ({"image": torch.rand(2, 3, 2, 2), "row": torch.rand(2, 5)}, {"explained": "picture"}, "'picture'"),
        ({"a": torch.rand(2, 3, 2, 2), "b": torch.rand(2, 3, 2, 2)}, {}, "explained="),
        ({"a": torch.rand(2, 5)}, {}, "explained="),
        ({"image": torch.rand(2, 3, 2, 2), "row": torch.rand(3, 5)}, {}, "'row'"),
        (
            {"image": torch.rand(2, 3, 2, 2), "row": torch.rand(3, 3, 2, 2)},
            {"explained": ["image", "row"]},
            "[2, 3]",
        ),
    ],
    ids=["missing", "two", "none", "context", "lengths"],
)
def test_several_inputs_that_do_not_fit(raw, how, says):
    with pytest.raises(InputError) as caught:
        explain(abe.image_task(Two(), **how), raw)
    assert caught.value.code is Code.SHAPE
    assert says in str(caught.value), str(caught.value)


# -- what photographs come as ------------------------------------------------------------------------------


class Convolution(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Conv2d(channels, 4, 2)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x).mean((2, 3))


@pytest.mark.parametrize("channels", [1, 3, 4, 6])
def test_channels(channels):
    task = abe.image_task(Convolution(channels))
    x = torch.rand(2, channels, 4, 4)
    for method in ("gradient", "ig", "gig", "smoothgrad", "blur_ig"):
        found = explain(task, x, method)
        assert found.attribution.shape == x.shape
        assert found.map().shape == (2, 4, 4)
    bytes_ = (x * 255).to(torch.uint8)
    assert torch.equal(task.lift(bytes_).x, bytes_.float() / 255)
    arrays = [np.moveaxis(b.numpy(), 0, 2) for b in bytes_]
    assert torch.equal(task.lift(arrays).x, bytes_.float() / 255)
    assert torch.equal(task.lift(np.stack(arrays)).x, bytes_.float() / 255)
    if channels == 6:
        with pytest.raises(InputError, match="cannot fill 6 channels"):
            task.lift(Image.new("RGB", (4, 4)))


def test_bounds_and_normalisation_per_channel():
    model = Linear()
    mean, std = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.5, 1.0, 2.0])
    low, high = (0.0, -1.0, 2.0), (1.0, 1.0, 4.0)
    task = abe.image_task(model, bounds=(low, high), mean=mean, std=std)
    bytes_ = torch.tensor([0, 51, 255, 255], dtype=torch.uint8).view(1, 1, 2, 2).expand(1, 3, 2, 2)
    x = task.lift(bytes_).x
    for c in range(3):
        expected = low[c] + torch.tensor([0, 0.2, 1, 1]) * (high[c] - low[c])
        torch.testing.assert_close(x[0, c].flatten(), expected)
    normal = ((x - mean.view(3, 1, 1)) / std.view(3, 1, 1)).flatten(1)
    torch.testing.assert_close(task.forward(x), model.linear(normal))
    found = explain(task, x, target=0)
    right = model.linear.weight[0].view(1, 3, 2, 2) / std.view(3, 1, 1)
    torch.testing.assert_close(found.attribution, right.detach())
    noise = explain(task, x, "eg", samples=64, target=0)
    assert (noise.x >= task.bounds[0]).all()


@pytest.mark.parametrize("given", ["bounds", "mean", "std"])
def test_numbers_for_other_channels(given):
    numbers = (0.5, 1.0, 2.0, 3.0)
    task = abe.image_task(Linear(), **{given: (0.0, numbers) if given == "bounds" else numbers})
    with pytest.raises(InputError) as caught:
        explain(task, torch.rand(1, 3, 2, 2) / 2)
    assert caught.value.code is Code.SHAPE
    assert f"{given}=" in str(caught.value)
    assert "4 numbers" in str(caught.value)


@pytest.mark.parametrize("bounds", [(1, 0), (0, 0), ((0, 0, 2), (1, 1, 1)), (float("nan"), 1)])
def test_bounds_in_the_wrong_order(bounds):
    with pytest.raises(SpecError) as caught:
        abe.image_task(Linear(), bounds=bounds)
    assert caught.value.code is Code.BAD_PARAMETER


@pytest.fixture
def scene() -> np.ndarray:
    """A photograph in which every corner differs."""
    made = np.zeros((4, 6, 3), np.uint8)
    made[0, 0], made[0, 5], made[3, 0], made[3, 5] = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)
    return made


def test_kinds_of_photographs(scene, tmp_path):
    task = abe.image_task(Convolution(3))
    right = torch.from_numpy(scene).permute(2, 0, 1)[None] / 255
    Image.fromarray(scene).save(tmp_path / "scene.png")
    kinds = [
        scene,
        scene[None],
        np.moveaxis(scene, 2, 0),
        Image.fromarray(scene),
        Image.fromarray(scene).convert("RGBA"),
        tmp_path / "scene.png",
        str(tmp_path / "scene.png"),
        scene.astype(np.float32) / 255,
        np.moveaxis(scene, 2, 0) / 255.0,
        torch.from_numpy(scene).permute(2, 0, 1),
        right[0],
        right,
    ]
    for kind in kinds:
        lifted = task.lift(kind)
        torch.testing.assert_close(lifted.x, right, rtol=0, atol=1e-7)
        assert len(lifted.names) == 1
    assert task.lift([kinds[5], kinds[0]]).names == ["scene.png", "sample 1"]
    mixed = task.lift([kinds[3], kinds[5], right[0], scene])
    assert mixed.x.shape == (4, 3, 4, 6)


def test_grey_photographs(scene):
    grey = Image.fromarray(scene).convert("L")
    one = abe.image_task(Convolution(1)).lift([grey, np.asarray(grey), np.asarray(grey)[:, :, None]]).x
    assert torch.equal(one[0], torch.from_numpy(np.asarray(grey).copy())[None] / 255)
    assert torch.equal(one[0], one[1])
    assert torch.equal(one[0], one[2])
    three = abe.image_task(Convolution(3)).lift(grey).x
    assert torch.equal(three, one[:1].expand(1, 3, -1, -1))


def test_rotated_by_exif(scene, tmp_path):
    """Stored upright, marked as turned: seen as a viewer shows it."""
    turned = Image.fromarray(np.rot90(scene, 1).copy())
    exif = Image.Exif()
    exif[0x0112] = 6  # turn right by 90 degrees to show
    turned.save(tmp_path / "turned.png", exif=exif)
    task = abe.image_task(Convolution(3))
    right = torch.from_numpy(scene).permute(2, 0, 1)[None] / 255
    assert torch.equal(task.lift(tmp_path / "turned.png").x, right)
    with Image.open(tmp_path / "turned.png") as opened:
        assert torch.equal(task.lift(opened).x, right)


def test_size(scene):
    task = abe.image_task(Convolution(3), size=2)
    assert task.lift(scene).x.shape == (1, 3, 2, 2)
    assert abe.image_task(Convolution(3), size=(2, 5), fit="stretch").lift(scene).x.shape == (1, 3, 2, 5)
    tall = np.concatenate([np.full((4, 4, 3), 200, np.uint8), np.zeros((8, 4, 3), np.uint8)])
    cropped = abe.image_task(Convolution(3), size=4).lift(tall).x
    assert (cropped == 0).all(), "the centre is black"
    x = torch.rand(1, 3, 5, 5)
    assert torch.equal(task.lift(x).x, x), "tensors are never resized"


def test_context_is_taken_by_row():
    context = Context({"row": torch.tensor([[1.0], [2.0], [3.0]])})
    assert context.take(torch.tensor([2, 0, 2])).values["row"].flatten().tolist() == [3.0, 1.0, 3.0]


def test_names():
    task = abe.image_task(Linear(), labels=["cat", "dog"])
    assert [task.name(0), task.name(1), task.name(7), task.name([1, 2])] == ["cat", "dog", "7", "[1, 2]"]
    assert task.class_index("DOG") == 1
    with pytest.raises(AbeError, match="Did you mean 'cat'"):
        task.class_index("cats")


def test_photograph_on_the_models_type():
    task = abe.image_task(Convolution(3).double())
    assert task.dtype == torch.float64
    assert task.lift(np.zeros((4, 4, 3), np.uint8)).x.dtype == torch.float64
    assert abe.image_task(nn.ReLU()).dtype == torch.float32


def test_photographs_are_not_changed(scene, tmp_path):
    path = Path(tmp_path / "scene.png")
    Image.fromarray(scene).save(path)
    before, kept = path.read_bytes(), scene.copy()
    x = torch.rand(1, 3, 4, 4)
    copy = x.clone()
    for raw in (path, scene, x):
        explain(abe.image_task(Convolution(3)), raw, "ig", steps=3)
    assert path.read_bytes() == before
    assert np.array_equal(scene, kept)
    assert torch.equal(x, copy)


def test_of_few_classes_all_are_named():
    few = abe.image_task(torch.nn.Flatten(), labels=["sky", "grass", "road"])
    with pytest.raises(AbeError, match="'sky', 'grass', 'road'"):
        few.class_index("tree")
    many = abe.image_task(torch.nn.Flatten(), labels=[f"number {i}" for i in range(50)])
    with pytest.raises(AbeError, match="50 in all"):
        many.class_index("zebra")
