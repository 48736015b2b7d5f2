"""Where methods put the effects of a biased network: the split of the survey's Table VI."""

import pytest
import torch
from torch import nn

import abe
from abe.baselines import Dataset
from abe.testing import allocation, allocation_of
from abe.testing.nets import weights

X = torch.tensor([[0.9, 0.2, 0.6], [0.35, 0.75, 0.5]], dtype=torch.float64).view(1, 1, 2, 3)
REFERENCES = {
    "zero": torch.zeros_like(X),
    "other": torch.tensor([0.1, 0.6, 0.3, 0.8, 0.25, 0.95], dtype=torch.float64).view(1, 1, 2, 3),
}
EXACT, QUADRATURE = 1e-9, 0.1


def network(biases: float = 1.0) -> nn.Module:
    """6-16-12-3 with ReLU and biases: without them gradient × input looks perfect."""
    layers = [nn.Flatten()]
    for seed, (a, b) in enumerate(((6, 16), (16, 12), (12, 3))):
        layer = nn.Linear(a, b, dtype=torch.float64)
        layer.weight.data = weights(b, a, seed=10 + seed, scale=2.0)
        layer.bias.data = weights(b, seed=20 + seed, scale=biases * b**0.5)
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


ALL, NOT_ALL = (True, True, True), (False, True, False)
SPLIT = {
    # name: method, parameters, passes (effect completeness, allocation correctness, allocation completeness)
    "Shapley": ("shapley", {"units": "pixel"}, ALL),
    "Owen": ("owen", {"units": "pixel", "groups": 2}, ALL),
    "Kernel SHAP": ("kernel_shap", {"units": "pixel"}, ALL),
    "IG": ("ig", {"steps": 256}, ALL),
    "DeepLIFT Rescale": ("deeplift", {}, ALL),
    "DeepLIFT RevealCancel": ("deeplift_reveal_cancel", {}, ALL),
    "Banzhaf": ("banzhaf", {"units": "pixel"}, NOT_ALL),
    "Occ-1": ("occlusion", {"units": "pixel"}, NOT_ALL),
    "Occ-p": ("occlusion_patch", {"size": 2, "stride": 1}, (False, False, False)),
    "Grad x Input": ("gradient_x_input", {}, NOT_ALL),
    "LRP-0": ("lrp_0", {}, NOT_ALL),
    "LRP-epsilon": ("lrp_epsilon", {}, NOT_ALL),
    "LRP-alpha2beta1": ("lrp_alpha_beta", {}, NOT_ALL),
    "LRP-alpha1beta0": ("lrp_z_plus", {}, NOT_ALL),
    "DTD": ("deep_taylor", {}, (False, False, False)),
    "Gradient": ("gradient", {}, (False, False, False)),
}
"""Both sides of the survey's Table VI, and four that it does not list."""
BLIND = ("gradient_x_input", "lrp_0", "lrp_epsilon", "lrp_alpha_beta", "lrp_z_plus")
"""Methods whose reference is zero, whatever one would like."""


def with_reference(method: str, params: dict, shown: torch.Tensor) -> dict:
    """The parameters by which a method uses the reference."""
    if method in ("ig", "deeplift", "deeplift_reveal_cancel"):
        return {**params, "baseline": shown}
    if method in (*BLIND, "gradient", "deep_taylor"):
        return params
    return {**params, "removal": abe.baselines.Given(reference=shown)}


@pytest.mark.parametrize("reference", REFERENCES)
@pytest.mark.parametrize("name", SPLIT)
def test_the_split_of_the_survey(name, reference):
    method, params, passes = SPLIT[name]
    shown = REFERENCES[reference]
    if method in BLIND and reference == "other":
        passes = (False, False, False)  # what shows the reference is not zero and gets a share
    task = abe.image_task(network(), channels=1, output_kind="logits")
    found = allocation_of(task, X, shown, method, target=1, **with_reference(method, params, shown))
    limits = QUADRATURE_LIMITS if method == "ig" else EXACT_LIMITS
    check(found, passes, limits, least=5e-3 if name == "Banzhaf" else 1e-2)  # its effects miss 0.7 % here


EXACT_LIMITS, QUADRATURE_LIMITS = (EXACT, EXACT, EXACT), (1e-2, 1e-3, QUADRATURE)


def check(found, passes, limits, least=1e-2):
    """Each number is below its limit where the principle holds, and far above it where it does not."""
    numbers = (found.effect, found.correctness, found.completeness)
    assert tuple(n < limit for n, limit in zip(numbers, limits, strict=True)) == passes, found
    assert all(holds or n > least for n, holds in zip(numbers, passes, strict=True)), found


@pytest.mark.parametrize("target", [0, 1, 2])
@pytest.mark.parametrize("method", ["gradient_x_input", "lrp_epsilon", "lrp_z_plus"])
def test_without_biases_and_from_zero_the_split_is_another(method, target):
    """As docs/taxonomy.md says: α1β0 passes for a positive score, and fails for a negative one."""
    task = abe.image_task(network(biases=0.0), channels=1, output_kind="logits")
    score = float(abe.explain(task, X, "gradient", target=target, progress=False).score)
    found = allocation_of(task, X, REFERENCES["zero"], method, target=target)
    numbers = (found.effect, found.correctness, found.completeness)
    assert (max(numbers) < 1e-4) == (method != "lrp_z_plus" or score > 0), (score, found)


AVERAGED = {
    # how the method takes a background, its name and parameters, limits
    "EG": (lambda b: {"baseline": Dataset(samples=b)}, "eg", {"samples": 256}, QUADRATURE_LIMITS),
    "DeepSHAP": (lambda b: {"background": b}, "deepshap", {}, EXACT_LIMITS),
}


@pytest.mark.parametrize("name", AVERAGED)
def test_methods_with_a_background_allocate_the_mean_of_its_games(name):
    """Both sides of the harness are means over the references, so it is run on the means of both."""
    given, method, params, limits = AVERAGED[name]
    task = abe.image_task(network(), channels=1, output_kind="logits")
    background = torch.cat([REFERENCES["zero"], REFERENCES["other"], 1 - REFERENCES["other"]])
    how = {"target": 1, "execution": "model", "progress": False}

    def mean(kept, part):
        rows = (torch.where(kept.view(-1, *X.shape[1:]), X, b) for b in background)
        return torch.stack([part(x, b[None]) for x, b in zip(rows, background, strict=True)]).mean(0)

    def value(kept):
        return mean(kept, lambda x, _: abe.explain(task, x, "gradient", **how).score)

    def attribute(kept):
        return mean(
            kept,
            lambda x, b: abe.explain(
                task, x, method, **params, **given(torch.cat([b, b])), **how
            ).attribution.flatten(1),
        )

    check(allocation(value, attribute, 6), ALL, limits)
    everything = torch.ones(1, 6, dtype=torch.bool)
    at_once = abe.explain(task, X, method, **params, **given(background), **how).attribution.flatten(1)
    gap = (at_once - attribute(everything)).abs().max()
    assert float(gap) < (1e-9 if name == "DeepSHAP" else 0.2) * float(at_once.abs().max())


def test_grad_cam_gives_effects_to_places_that_have_none_of_them():
    """Its features are a layer's, whose places see their neighbours, and only what follows is explained."""
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 3, (2, 3)), nn.Flatten()
    ).double()
    for seed, parameter in enumerate(model.parameters()):
        shape = parameter.shape if parameter.ndim > 1 else (1, *parameter.shape)
        parameter.data = weights(*shape, seed=seed, scale=2.0).view_as(parameter)
    task = abe.image_task(model, channels=1, output_kind="logits")
    for relu in (True, False):
        found = allocation_of(task, X, REFERENCES["zero"], "grad_cam", target=1, layer="1", relu=relu)
        check(found, (False, False, False), EXACT_LIMITS)


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
