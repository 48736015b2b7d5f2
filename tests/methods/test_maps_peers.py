"""Class activation maps against grad-cam and captum, at the layer's size, before anything is scaled.

grad-cam keeps its own weights in float32 for the maps without gradients, so those agree to float32.
"""

import contextlib
import io

import pytest
import torch
from tests.methods.common import FLOAT32, FLOAT64, images, miss, net, run
from torch import Tensor, nn

pytestmark = pytest.mark.peers

LAYER = 4
"""The ReLU behind the last convolution of net s: 16 channels of 16 × 16 places."""
TARGET = torch.tensor([3, 8, 1])
WITH_GRADIENT = {
    "grad_cam": ("GradCAM", {}),
    "grad_cam_plus_plus": ("GradCAMPlusPlus", {"variant": "published"}),
    "hires_cam": ("HiResCAM", {}),
    "xgrad_cam": ("XGradCAM", {"variant": "published"}),
    "layer_cam": ("LayerCAM", {}),
}
WITHOUT = {
    "score_cam": ("ScoreCAM", {"variant": "published"}),
    "ablation_cam": ("AblationCAM", {}),
    "eigen_cam": ("EigenCAM", {"variant": "published"}),
}


def case() -> dict[str, Tensor]:
    return {"x": images()[:3], "target": TARGET}


def theirs(kind: str) -> Tensor:
    """(b, h, w) the peer's map before its ReLU, scaling and resizing."""
    library = pytest.importorskip("pytorch_grad_cam")
    targets = pytest.importorskip("pytorch_grad_cam.utils.model_targets")
    model, kept = net("s"), []
    explainer = getattr(library, kind)(model=model, target_layers=[model[LAYER]])
    made = explainer.get_cam_image

    def keep(*args):
        kept.append(torch.from_numpy(made(*args)))
        return kept[-1].numpy()

    explainer.get_cam_image = keep
    with contextlib.redirect_stderr(io.StringIO()):  # its bars of progress
        explainer(case()["x"], [targets.ClassifierOutputTarget(int(t)) for t in TARGET])
    explainer.activations_and_grads.release()
    return kept[0]


def ours(method: str, side: int = 16, **params: object) -> Tensor:
    """(b, h, w) our map at the layer's places: enlarged to the nearest, every second one is a place."""
    found = run(case(), method, layer=str(LAYER), relu=False, upsample="nearest", **params)
    return found.attribution.sum(1)[:, :: 32 // side, :: 32 // side]


@pytest.mark.parametrize("method", WITH_GRADIENT)
def test_grad_cam_maps_with_a_gradient(method: str) -> None:
    kind, params = WITH_GRADIENT[method]
    assert miss(ours(method, **params), theirs(kind)) < FLOAT64


@pytest.mark.parametrize("method", WITHOUT)
def test_grad_cam_maps_without_a_gradient(method: str) -> None:
    """Eigen-CAM's sign is arbitrary there; its Ablation-CAM divides by the score."""
    kind, params = WITHOUT[method]
    found, right = ours(method, **params), theirs(kind).double()
    if method == "ablation_cam":
        score = net("s")(case()["x"]).gather(1, TARGET[:, None]).detach()
        right = right * score[:, :, None]
    if method == "eigen_cam":
        right = right * (found * right).sum((1, 2), keepdim=True).sign()
    assert miss(found, right) < FLOAT32


@pytest.mark.parametrize("layer", [0, 3, 4])
def test_captum_grad_cam_at_every_layer(layer: int) -> None:
    attr = pytest.importorskip("captum.attr")
    model, x = net("s"), case()["x"]
    raw = attr.LayerGradCam(model, model[layer]).attribute(x, target=TARGET)
    small = attr.LayerAttribution.interpolate(raw, (32, 32), "bilinear")[:, 0].detach()
    found = run(case(), "grad_cam", layer=str(layer), relu=False).attribution.sum(1)
    assert miss(found, small) < FLOAT64


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_captum_guided_grad_cam() -> None:
    attr = pytest.importorskip("captum.attr")
    model = net("s")
    right = attr.GuidedGradCam(model, model[3]).attribute(case()["x"], target=TARGET)
    found = run(case(), "guided_grad_cam", layer="3", upsample="nearest").attribution
    assert miss(found, right.detach()) < FLOAT64


def test_cam_needs_the_head_that_the_peers_do_not_ask_for() -> None:
    """Behind average pooling CAM is Grad-CAM times the number of places, in both libraries."""
    library = pytest.importorskip("pytorch_grad_cam")
    assert issubclass(library.GradCAM, library.base_cam.BaseCAM)
    attr = pytest.importorskip("captum.attr")
    model = nn.Sequential(*net("s")[:5], nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)).double()
    raw = attr.LayerGradCam(model, model[LAYER]).attribute(case()["x"], target=TARGET)
    import abe

    task = abe.image_task(model.eval(), output_kind="logits")
    how = {"target": TARGET, "progress": False, "layer": str(LAYER), "relu": False, "upsample": "nearest"}
    found = abe.explain(task, case()["x"], "cam", **how).attribution.sum(1)[:, ::2, ::2]
    assert miss(found, 256 * raw[:, 0].detach()) < FLOAT64
