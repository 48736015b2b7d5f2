"""Maps that captum, shap and Quantus really return, from memory and from files, scored beside ABE's own."""

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.methods.common import images
from tests.metrics.common import net_s
from torch import Tensor, nn

import abe
from abe import Comparison

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]
METRICS = ("insertion", "deletion", "kl_insertion", "complexity")
STEPS = 20


@pytest.fixture(scope="module")
def quantus() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("quantus")


def setting() -> tuple[nn.Module, abe.Task, Tensor, Tensor]:
    net, x = net_s(torch.float32), images()[:3].float()
    return net, abe.image_task(net, output_kind="logits"), x, net(x).argmax(1)


def quick(task: abe.Task, maps: dict[str, Any], x: Tensor, **how: Any) -> Comparison:
    return abe.evaluate(task, maps, METRICS, data=x, step=0.1, progress=False, execution="model", **how)


def same(found: Comparison, one: str, other: str) -> None:
    for metric in METRICS:
        first, second = (found.scores[n][metric].values for n in (one, other))
        torch.testing.assert_close(first, second, rtol=2e-3, atol=2e-3, msg=f"{one}, {other}, {metric}")


def test_integrated_gradients_of_three_libraries_score_alike(quantus: Any) -> None:
    captum = pytest.importorskip("captum.attr")
    net, task, x, y = setting()
    theirs = {
        "captum": captum.IntegratedGradients(net).attribute(x, target=y, n_steps=STEPS),
        "quantus": quantus.explain(
            net,
            x.numpy(),
            y.numpy(),
            method="IntegratedGradients",
            n_steps=STEPS,
            reduce_axes=(),
            device="cpu",
        ),
    }
    ours = abe.explain(task, x, "integrated_gradients", steps=STEPS, target=y, progress=False)
    found = quick(task, {"ours": ours, **theirs}, x, target=y)
    assert found.failures == {}
    same(found, "captum", "ours")
    assert found.scores["quantus"]["insertion"].mean == pytest.approx(
        found.scores["ours"]["insertion"].mean, abs=0.02
    )


def test_shap_values_of_every_class_are_read_at_the_explained_one() -> None:
    shap = pytest.importorskip("shap")
    net, task, x, y = setting()
    values = shap.GradientExplainer(net, torch.zeros_like(x)).shap_values(x, nsamples=8, rseed=0)
    assert values.shape == (*x.shape, 10)
    chosen = np.stack([values[i, ..., int(c)] for i, c in enumerate(y)])
    held = shap.Explanation(values=values, base_values=np.zeros((3, 10)), data=x.numpy())
    per_class = [values[..., c] for c in range(10)]
    given = {"chosen": chosen, "last axis": values, "held": held, "list": per_class}
    found = quick(task, given, x, target=y)
    for name in ("last axis", "held", "list"):
        same(found, name, "chosen")
    other = quick(task, {"chosen": chosen, "last axis": values}, x, target=(y + 1) % 10)
    assert not torch.allclose(*(other.scores[n]["complexity"].values for n in other.methods))


TASK = """
import torch
from tests.metrics.common import net_s
import abe

def task():
    return abe.image_task(net_s(torch.float32), size=32, output_kind="logits")
"""


@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_a_file_of_quantus_arrays_is_scored_on_the_command_line(
    suffix: str, quantus: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import Image
    from tests.cli.runner import invoke

    net, task, x, y = setting()
    maps = quantus.explain(net, x.numpy(), y.numpy(), method="Saliency", device="cpu")
    assert maps.shape == (3, 1, 32, 32)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    Path("foreign_task.py").write_text(TASK)
    for i, photo in enumerate(x):
        pixels = (photo.movedim(0, -1) * 255).round().byte().numpy()
        Image.fromarray(pixels).save(f"{i}.png")
    if suffix == "npy":
        np.save("theirs.npy", maps)
    else:
        np.savez("theirs.npz", x_batch=x.numpy(), y_batch=y.numpy(), a_batch=maps)
    photos = [word for i in range(3) for word in ("--photo", f"{i}.png")]
    words = [
        "evaluate",
        f"theirs.{suffix}",
        *photos,
        "-m",
        "foreign_task:task",
        "--metrics",
        ",".join(METRICS),
    ]
    result = invoke(*words, "--step", "10%", "--json")
    assert result.exit_code == 0, result.output
    (entry,) = json.loads(result.stdout)["ranking"]
    wanted = quick(task, {"theirs": maps}, x, target=y).scores["theirs"]
    for metric in METRICS:
        assert entry["scores"][metric]["values"] == pytest.approx(wanted[metric].values.tolist(), rel=1e-4)
