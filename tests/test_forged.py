"""Forged and damaged files of every kind that is stored: refused by code and soon, or as good as any."""

import io
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from tests.forging import damages, descriptions, outcome, rewritten, tensors
from torch import Tensor

import abe
from abe import Comparison, Explanation, storage
from abe.engines.backward.patterns import Patterns
from abe.engines.runtime import stored
from abe.errors import Code, StorageError
from abe.report.view import sample_view
from abe.robustness import AdvGAN, train_advgan
from abe.robustness.advgan import FORMAT as ADVGAN
from abe.testing import nets, samples, task_of

TASK = task_of(nets.Convolutional().eval())
X = samples(4, dtype=torch.float32)
FITS = {
    "rtis": {},
    "l2x": {"cells": 3, "features": 2},
    "cxplain": {"cells": 3, "members": 2},
    "iba": {},
}
HEAD = ("format", "format_version", "tensors", "bytes", "sha256", "seal")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without waiting for the disk a thousand times."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


# -- folders -----------------------------------------------------------------------------------------------


@cache
def explanation() -> Explanation:
    return abe.explain(TASK, X[:3], "smoothgrad", samples=4, progress=False)


def parts() -> Explanation:
    """Of a model with two inputs."""
    from abe.types import Part

    made = Explanation.from_array(torch.rand(2, 5), torch.rand(2, 5), target=[0, 1])
    made.parts = (Part("a", 0, 2, (2,)), Part("b", 2, 5, (3, 1)))
    return made


@cache
def comparison() -> Comparison:
    given = {"ours": "gradient", "noise": torch.rand(4, 3, 6, 6), "worse": torch.rand(4, 3, 6, 6)}
    return abe.evaluate(TASK, given, ["insertion", "complexity", "passes"], data=X, step=0.25, progress=False)


def used_explanation(found: Explanation) -> None:
    """What a user does with one: looks, takes apart, joins, saves, draws, scores."""
    repr(found)
    _ = found.residual, found.residual_absolute, found.shape, found.unpack(), found.map("abs")
    for index in range(len(found)):
        Explanation.join([found[index], found[index]])
        sample_view(found, index, found.names[index])
    json.dumps([found.names, found.top, found.warnings, asdict(found.cost), dict(found.spec), found.versions])
    sum(found.ids)
    str(found.cost.passes + 1), f"{found.cost.seconds:.3f} {found.seed + 1} {found.method.lower()}"
    ".".join([*found.target_names, found.objective.lower(), found.modality.lower()])


def used_comparison(found: Comparison) -> None:
    """Looks at table and caption, asks for leaders and tests, writes it down."""
    Console(file=io.StringIO(), width=100).print(found.table())
    _ = found.caption, found.conclusions, found.curves, len(found), repr(found)
    json.dumps(found.to_dict(curves=True))
    for metric in found.metrics:
        found.leaders(metric.name)
    for test in found.tests:
        found.test(test.second, test.first, test.metric)


FOLDERS: dict[str, tuple[Callable[[], Any], type, Callable[[Any], None]]] = {
    "explanation": (explanation, Explanation, used_explanation),
    "explanation of parts": (parts, Explanation, used_explanation),
    "comparison": (comparison, Comparison, used_comparison),
}


@pytest.fixture(params=FOLDERS)
def kind(request: pytest.FixtureRequest, tmp_path: Path):
    """A saved folder: its path, name, manifest and tensors, and how it is loaded and used."""
    make, cls, use = FOLDERS[request.param]
    make().save(tmp_path)
    name = cls.__name__.lower()
    manifest, held = storage.read(tmp_path, name)
    told = {k: v for k, v in manifest.items() if k not in HEAD}
    return tmp_path, name, told, held, lambda: cls.load(tmp_path), use


def forge(folder: Path, name: str, told: dict[str, Any], held: dict[str, Tensor]) -> None:
    """Written as if nothing were wrong with it."""
    storage.save(folder, name, lambda: (told, held), lambda *anything: None)


EACH = [1, pytest.param(0, marks=pytest.mark.slow)]
"""Values tried in every place: one, another in the next, or all."""


@pytest.mark.parametrize("each", EACH)
def test_descriptions_of_folders(kind, each):
    """Written anew with the right digests, so that only their contents can give them away."""
    folder, name, told, held, load, use = kind
    assert outcome(load, use, "as it was saved")
    tried = refused = 0
    for said, forged in descriptions(told, each):
        try:
            forge(folder, name, forged, held)
        except StorageError:
            continue
        tried += 1
        refused += not outcome(load, use, said)
    assert tried > 60
    assert refused > tried / 2


def test_tensors_of_folders(kind):
    folder, name, told, held, load, use = kind
    tried = refused = 0
    some = dict(list(held.items())[:: max(len(held) // 5, 1)])
    for said, changed in tensors(some):
        forged = {k: v for k, v in held.items() if k not in some} | changed
        forge(folder, name, told, forged)
        tried += 1
        refused += not outcome(load, use, said)
    assert tried > 60
    assert refused > tried / 3


def test_bytes_of_folders(kind):
    folder, _, _, _, load, _ = kind
    files = {path: path.read_bytes() for path in folder.iterdir()}
    before = repr(vars(load()))
    for path, content in files.items():
        for said, forged in damages(content):
            rewritten(path, forged)
            try:
                found = load()
            except StorageError:
                continue
            assert path.suffix == ".json", said
            assert repr(vars(found)) == before, said  # a space of the manifest is another
        rewritten(path, content)


@pytest.mark.parametrize("field", HEAD)
def test_heads_of_folders(kind, field):
    folder, name, _, _, load, use = kind
    path = folder / f"{name}.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    for said, forged in descriptions({field: manifest[field]}, 0):
        rest = {k: v for k, v in manifest.items() if k not in (field, "seal")}
        rewritten(path, json.dumps({**rest, **forged}).encode("utf-8", "replace"))
        outcome(load, use, said)
        assert field == "bytes" or field == "seal" or not outcome(load, use, said), said


# -- files -------------------------------------------------------------------------------------------------


@cache
def learnt(method: str, folder: Path) -> Path:
    how = {} if method == "iba" else {"epochs": 1, **FITS[method]}
    return abe.fit(TASK, X, method, **how).save(folder / f"{method}.safetensors")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("learnt")


def used_learnt(found: Any) -> None:
    repr(found), hash(found)
    abe.explain(TASK, X[:1], found, progress=False)


@pytest.mark.parametrize("each", EACH)
@pytest.mark.parametrize(
    "method", ["cxplain", "iba", *(pytest.param(name, marks=pytest.mark.slow) for name in ("rtis", "l2x"))]
)
def test_learnt_files(method, each, files, tmp_path):
    described, held = stored.read(learnt(method, files))
    path = tmp_path / "forged.safetensors"

    def load() -> Any:
        return abe.load_fitted(path)

    count = 0
    for said, forged in descriptions(described, each):
        stored.write(path, held, forged)
        outcome(load, used_learnt, said)
        count += 1
    some = dict(list(held.items())[:: 1 if each == 0 else max(len(held) // 3, 1)])
    for said, changed in tensors(some):
        forged = {k: v for k, v in held.items() if k not in some} | changed
        stored.write(path, forged, described)
        outcome(load, used_learnt, said)
        count += 1
    assert count > 60


@pytest.mark.parametrize(
    "changes",
    [
        {"width": 10**7},
        {"members": 10**6},
        {"classes": 10**12},
        {"shape": [10**9, 6, 6]},
        {"shape": [3] * 9},
        {"width": "8"},
        {"width": True},
        {"notes": 5},
        {"notes": "abc"},
        {"notes": [1]},
        {"epochs": -1},
        {"type": "AdvGAN", "checkpoint": "x"},
        {"type": "Zero"},
        {"type": ["Amortised"]},
        {"weights": {}},
        {"digest": 1},
    ],
    ids=str,
)
def test_learnt_files_that_ask_for_more_than_they_hold(changes, files, tmp_path):
    described, held = stored.read(learnt("cxplain", files))
    path = stored.write(tmp_path / "forged", held, {"value": {**described["value"], **changes}})
    with pytest.raises(StorageError) as caught:
        abe.load_fitted(path)
    assert caught.value.code is Code.CORRUPT_FILE


def _checkpoint(folder: Path) -> tuple[Path, Callable[[Path, int], Any]]:
    def train(path: Path, epochs: int) -> Any:
        return abe.fit(TASK, X, "cxplain", epochs=epochs, checkpoint=path, cells=3)

    train(folder / "checkpoint", 1)
    return folder / "checkpoint", train


def _advgan(folder: Path) -> tuple[Path, Callable[[Path, int], Any]]:
    def train(path: Path, epochs: int) -> Any:
        return train_advgan(TASK, X[:2], path, eps=0.1, epochs=epochs, batch=2)

    train(folder / "advgan", 1)
    return folder / "advgan", train


TRAININGS = {"checkpoint": (_checkpoint, stored.FORMAT), "advgan": (_advgan, ADVGAN)}


@pytest.mark.parametrize("each", EACH)
@pytest.mark.parametrize("which", TRAININGS)
def test_checkpoints(which, each, tmp_path):
    """A training that goes on from a forged file says so, or learns from what fits."""
    make, form = TRAININGS[which]
    good, train = make(tmp_path)
    metadata, held = storage.read_tensors(good)
    described, path = json.loads(metadata["abe"]), tmp_path / "forged"
    names = [next(k for k in held if k.endswith(end)) for end in ("bias", "exp_avg", "step")]
    kept = {name: held[name] for name in names}
    tried = refused = 0
    for said, forged in descriptions(described, each):
        stored.write(path, held, forged, form)
        tried += 1
        refused += not outcome(lambda: _trained(train, path), _nothing, said)
    for said, forged in tensors(kept):
        stored.write(path, {k: v for k, v in held.items() if k not in kept} | forged, described, form)
        tried += 1
        refused += not outcome(lambda: _trained(train, path), _nothing, said)
    assert tried > 60
    assert refused > tried / 2


def _trained(train: Callable[[Path, int], Any], path: Path) -> Any:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that other batches came than the file says
        try:
            return train(path, 2)
        except StorageError:
            raise
        except abe.AbeError as problem:
            raise StorageError(problem.code, problem.what) from problem


def _nothing(found: Any) -> None:
    pass


def test_a_place_sets_no_attribute(tmp_path):
    good, train = _checkpoint(tmp_path)
    described, held = stored.read(good)
    for name in ("_save", "task", "path", "recipe", "__class__"):
        stored.write(good, held, {**described, "place": {**described["place"], name: "strange"}})
        with pytest.raises(StorageError, match=f"'{name}', which is no field"):
            train(good, 2)


@pytest.mark.slow
def test_generators_as_attacks(tmp_path):
    good, _ = _advgan(tmp_path)
    metadata, held = storage.read_tensors(good)
    described, path = json.loads(metadata["abe"]), tmp_path / "forged"

    def attack(found: AdvGAN) -> None:
        abe.attack(TASK, X[:1], found, progress=False)

    some = {k: held[k] for k in ("g.down.0.weight", "g.up.2.bias")}
    for said, forged in descriptions(described, 1):
        stored.write(path, held, forged, ADVGAN)
        outcome(lambda: AdvGAN(checkpoint=str(path)), attack, said)
    for said, forged in tensors(some):
        stored.write(path, {k: v for k, v in held.items() if k not in some} | forged, described, ADVGAN)
        outcome(lambda: AdvGAN(checkpoint=str(path)), attack, said)


def test_bytes_of_files(files, tmp_path):
    loads: dict[str, tuple[Path, Callable[[Path], Any]]] = {
        "learnt": (learnt("iba", files), abe.load_fitted),
        "checkpoint": (_checkpoint(tmp_path)[0], stored.read),
        "advgan": (_advgan(tmp_path)[0], lambda path: AdvGAN(checkpoint=str(path))),
    }
    for name, (good, load) in loads.items():
        content, path = good.read_bytes(), tmp_path / f"damaged {name}"
        for said, forged in damages(content):
            rewritten(path, forged)
            assert not outcome(partial(load, path), _nothing, f"{name} {said}"), f"{name} {said}"


def test_files_of_earlier_versions_are_read(files, tmp_path):
    """They have no seal, and those of AdvGAN no digest."""
    from safetensors.torch import save_file

    for good, load in ((learnt("iba", files), abe.load_fitted), (_advgan(tmp_path)[0], _loaded_advgan)):
        metadata, held = storage.read_tensors(good)
        left = ("format", "digest") if "advgan" in metadata["abe"] else ()
        earlier: Mapping[str, str] = {k: v for k, v in metadata.items() if k not in ("seal", *left)}
        held = {k: v.clone() for k, v in held.items()}
        save_file(held, tmp_path / "earlier", metadata=dict(earlier))
        assert load(tmp_path / "earlier") is not None


def _loaded_advgan(path: Path) -> AdvGAN:
    made = AdvGAN(checkpoint=str(path))
    abe.attack(TASK, X[:1], made, progress=False)
    return made


def test_patterns(tmp_path):
    path = tmp_path / "patterns"
    Patterns((torch.rand(4, 3), torch.rand(2, 4))).save(path)
    assert [tuple(p.shape) for p in Patterns.load(path).layers] == [(4, 3), (2, 4)]
    content = path.read_bytes()
    _, held = storage.read_tensors(path)

    def used(found: Patterns) -> None:
        assert all(isinstance(layer, Tensor) and layer.isfinite().all() for layer in found.layers)

    for said, forged in tensors(held):
        storage.write_tensors(path, forged, {})
        outcome(lambda: Patterns.load(path), used, said)
    for said, forged in damages(content):
        rewritten(path, forged)
        outcome(lambda: Patterns.load(path), used, said)
