"""Where paths begin and end: scores in every explanation, inputs and outputs where they are asked for."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import abe
from abe.registry import methods

X = torch.rand(2, 3, 6, 6, generator=torch.Generator().manual_seed(2)).double()
QUICK = {"steps": 3, "samples": 3, "search_steps": 3}
ONE = ("ig", "blur_ig", "guided_ig", "path_integral", "path_attribution", "mfaba", "attexplore", "big")
SEVERAL = ("agi", "la", "laai")


def network() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        body = (nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten())
        return nn.Sequential(*body, nn.Linear(16, 4)).double().eval()


def explain(method: Any, **how: Any) -> abe.Explanation:
    return abe.explain(abe.image_task(network()), X, method, target=1, ids=[3, 4], progress=False, **how)


def quick(name: str) -> Any:
    entry = methods.get(name)
    return abe.method(
        name, **{k: v for k, v in QUICK.items() if k in entry.parameters()} | entry.card.example
    )


def says(x: Tensor) -> Tensor:
    with torch.no_grad():
        return network()(x)


@pytest.mark.parametrize("name", [*ONE, *SEVERAL])
def test_the_ends_are_what_the_map_is_between(name: str):
    plain, found = explain(quick(name)), explain(quick(name), path_ends=True)
    assert torch.equal(plain.attribution, found.attribution)
    assert plain.cost.passes == found.cost.passes
    ends = {k: v for k, v in found.diagnostics.items() if k.startswith("path_")}
    assert {k for k in plain.diagnostics if k.startswith("path_")} == {"path_start_score", "path_end_score"}
    assert len(ends) == 6
    runs = () if name in ONE else (ends["path_end"].shape[1],)
    change = torch.zeros(2).double()
    for i in range(2):
        for run in [...] if name in ONE else range(*runs):
            at = (i,) if run is ... else (i, run)
            if bool(ends["path_end_score"][at].isnan()):
                continue  # a sample with fewer runs
            for end in ("path_start", "path_end"):
                outputs = says(ends[end][at][None])[0]
                assert torch.allclose(ends[f"{end}_outputs"][at], outputs, atol=1e-6)
                if name != "laai":  # whose score is of no class
                    assert torch.allclose(ends[f"{end}_score"][at], outputs[1], atol=1e-6)
            change[i] += ends["path_end_score"][at] - ends["path_start_score"][at]
    adversarial = name in (*SEVERAL, "mfaba", "attexplore", "path_attribution")
    assert torch.equal(ends["path_start" if adversarial else "path_end"].reshape(2, -1, 3, 6, 6)[:, 0], X)
    if name in ONE:
        assert torch.allclose(found.delta, -change if adversarial else change, atol=1e-9)


def test_at_a_layer_and_in_files(tmp_path):
    found = explain(abe.at_layer("ig", "1"), path_ends=True)
    assert torch.equal(found.diagnostics["path_end"], found.x)
    assert found.diagnostics["path_start"].shape == (2, 4, 6, 6)
    inner = explain("layer_conductance", layer="1", path_ends=True).diagnostics
    assert torch.equal(inner["path_end"], X)
    made = explain("agi", steps=2, path_ends=True)
    again = abe.Explanation.load(made.save(tmp_path / "out"))
    for name, kept in made.diagnostics.items():
        assert torch.equal(again.diagnostics[name].nan_to_num(), kept.nan_to_num())
    assert torch.equal(made[1].diagnostics["path_end"][0], made.diagnostics["path_end"][1])


@pytest.mark.parametrize("name", ["gradient", "eg", "smoothgrad", "shapley", "grad_cam", "isa"])
def test_methods_without_a_path_say_so(name: str):
    with pytest.raises(abe.AbeError, match=r"follows none.*ABE-UNSUPPORTED"):
        explain(name, path_ends=True)


@pytest.mark.parametrize("wrong", [None, "yes", 2, [True]])
def test_it_is_true_or_false(wrong: Any):
    with pytest.raises(abe.AbeError, match="path_ends must be True or False"):
        explain("ig", path_ends=wrong)
