"""ABE's explanations in Quantus, and maps that Quantus scored scored by ABE; needs Quantus 0.6."""

import warnings

import numpy as np
import pytest
import torch
from tests.methods.common import oracle
from tests.metrics.common import net_s

import abe
from abe.explainers import explain_func

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]
QUIET = {"disable_warnings": True, "display_progressbar": False}


@pytest.fixture(scope="module")
def quantus():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("quantus")


def setting():
    """Quantus 0.6's own case: net, four pictures, their labels, and maps of one channel."""
    recorded = oracle("quantus_pixelflipping_1ch")
    return net_s(torch.float32), recorded["x"].float(), recorded["label"], recorded["attribution"].float()


def test_deletion_equals_pixel_flipping(quantus):
    """It counts elements: a step of 32 pixels is one of 96 with three channels."""

    class Flipping(quantus.PixelFlipping):
        def custom_preprocess(self, **_):
            """Without the check that a step divides the pixels, which mistakes elements for pixels."""

    net, x, label, maps = setting()
    metric = Flipping(
        features_in_step=32 * x.shape[1], perturb_baseline=0.0, abs=False, normalise=False, **QUIET
    )
    theirs = metric(
        model=net,
        x_batch=x.numpy(),
        y_batch=label.numpy(),
        a_batch=maps.numpy(),
        device="cpu",
        softmax=True,
    )
    found = abe.evaluate(
        abe.image_task(net),
        {"given": maps.numpy()},
        ["deletion", "pixel_flipping"],
        data=x,
        target=label,
        step=32,
        progress=False,
    )
    curve = found.scores["given"]["deletion"].curve
    np.testing.assert_allclose(curve[:, 1:], np.asarray(theirs), rtol=1e-4, atol=1e-5)


def test_quantus_calls_our_methods(quantus):
    net, x, label, _ = setting()
    task = abe.image_task(net, output_kind="logits")
    calls: list[torch.nn.Module] = []
    ours = explain_func(task, "integrated_gradients", steps=4)

    def watched(model, inputs, targets, **more):
        calls.append(model)
        return ours(model, inputs, targets, **more)

    batch = {"model": net, "x_batch": x.numpy(), "y_batch": label.numpy(), "device": "cpu"}
    simple = quantus.Complexity(abs=True, normalise=False, **QUIET)
    theirs = simple(**batch, a_batch=None, explain_func=watched)
    exact = abe.explain(task, x, "integrated_gradients", steps=4, target=label, progress=False)
    mine = abe.metrics.score(exact, task, metric="complexity").values
    np.testing.assert_allclose(theirs, mine, rtol=1e-5)
    randomised = quantus.MPRT(layer_order="independent", abs=False, normalise=False, **QUIET)
    randomised(**batch, a_batch=None, explain_func=watched)
    assert any(model is not net for model in calls)  # the randomised copies are explained, not the task's
