"""Where methods put the effects of a biased network: the split of the survey's Table VI."""

import pytest
import torch
from torch import nn

import abe
from abe.testing import allocation, allocation_of
from abe.testing.nets import weights

X = torch.tensor([[0.9, 0.2, 0.6], [0.35, 0.75, 0.5]], dtype=torch.float64).view(1, 1, 2, 3)
REFERENCES = {
    "zero": torch.zeros_like(X),
    "other": torch.tensor([0.1, 0.6, 0.3, 0.8, 0.25, 0.95], dtype=torch.float64).view(1, 1, 2, 3),
}
EXACT, QUADRATURE = 1e-9, 0.1


def network() -> nn.Module:
    """6-16-12-3 with ReLU and biases: without them gradient × input looks perfect."""
    layers = [nn.Flatten()]
    for seed, (a, b) in enumerate(((6, 16), (16, 12), (12, 3))):
        layer = nn.Linear(a, b, dtype=torch.float64)
        layer.weight.data = weights(b, a, seed=10 + seed, scale=2.0)
        layer.bias.data = weights(b, seed=20 + seed, scale=2.0 * b**0.5 / 2)
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


SPLIT = {
    # name: method, parameters, passes (effect completeness, allocation correctness, allocation completeness)
    "shapley": ("shapley", {"units": "pixel"}, (True, True, True)),
    "owen": ("owen", {"units": "pixel", "groups": 2}, (True, True, True)),
    "kernel shap": ("kernel_shap", {"units": "pixel"}, (True, True, True)),
    "banzhaf": ("banzhaf", {"units": "pixel"}, (False, True, False)),
    "occlusion": ("occlusion", {"units": "pixel"}, (False, True, False)),
    "occlusion by patches": ("occlusion_patch", {"size": 2, "stride": 1}, (False, False, False)),
    "integrated gradients": ("ig", {"steps": 256}, (True, True, True)),
    "gradient x input": ("gradient_x_input", {}, (False, True, False)),
    "gradient": ("gradient", {}, (False, False, False)),
}


@pytest.mark.parametrize("reference", REFERENCES)
@pytest.mark.parametrize("name", SPLIT)
def test_the_split_of_the_survey(name, reference):
    method, params, passes = SPLIT[name]
    shown = REFERENCES[reference]
    if method == "ig":
        params = {**params, "baseline": shown}
    elif method not in ("gradient", "gradient_x_input"):
        params = {**params, "removal": abe.baselines.Given(reference=shown)}
    if method == "gradient_x_input" and reference == "other":
        pytest.skip("its reference is zero")
    task = abe.image_task(network(), channels=1, output_kind="logits")
    found = allocation_of(task, X, shown, method, target=1, **params)
    tight = QUADRATURE if method == "ig" else EXACT
    effect = 1e-2 if method == "ig" else EXACT
    correct = 1e-3 if method == "ig" else EXACT
    numbers = (found.effect / effect, found.correctness / correct, found.completeness / tight)
    assert tuple(n < 1 for n in numbers) == passes, found
    assert all(
        ok or n * scale > 1e-3 for n, ok, scale in zip(numbers, passes, (effect, correct, tight), strict=True)
    )


WEIGHTS = {
    "shapley": lambda s: 1 / s,
    "banzhaf": lambda s: 2.0 ** (1 - s),
    "occlusion": lambda s: 1.0,
}


@pytest.mark.parametrize("method", WEIGHTS)
def test_the_weights_of_the_allocation(method):
    task = abe.image_task(network(), channels=1, output_kind="logits")
    shown = REFERENCES["other"]
    baseline = abe.baselines.Given(reference=shown)
    found = allocation_of(task, X, shown, method, target=1, units="pixel", removal=baseline)
    for size, weight in found.weights.items():
        assert weight == pytest.approx(WEIGHTS[method](size), abs=1e-9)
        assert found.misfit[size] < 1e-12


def test_pdiff_violates_what_the_survey_says_it_does():
    """Its windows and their fillings depend on the whole input, so effects of others reach a position."""
    task = abe.image_task(network(), channels=1, output_kind="logits")
    found = allocation_of(task, X, REFERENCES["zero"], "pdiff", target=1, size=1, stride=1, samples=4)
    assert found.correctness > 0.05
    assert found.completeness > 0.5


def test_the_harness_takes_any_function_and_any_attribution():
    """v = 2 z₀ + 6 z₁ z₂: the product's effect goes to its factors or, wrongly, to the first."""

    def value(kept):
        z = kept.double()
        return 2 * z[:, 0] + 6 * z[:, 1] * z[:, 2]

    def halves(kept):
        z = kept.double()
        return torch.stack([2 * z[:, 0], 3 * z[:, 1] * z[:, 2], 3 * z[:, 1] * z[:, 2]], dim=1)

    def wrong(kept):
        z = kept.double()
        return torch.stack([2 * z[:, 0] + 6 * z[:, 1] * z[:, 2], 0 * z[:, 1], 0 * z[:, 2]], dim=1)

    right = allocation(value, halves, 3)
    assert (right.effect, right.correctness, right.completeness) == (0, 0, 0)
    assert right.weights[2] == pytest.approx(0.5)
    found = allocation(value, wrong, 3)
    assert (found.effect, found.correctness, found.completeness) == (0, 6 / 8, 6 / 8)
