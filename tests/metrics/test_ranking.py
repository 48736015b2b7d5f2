"""The true map beats the mean of fifty random ones, and these the true map with its ranks turned round.

Every metric of faithfulness, localisation and soundness is held to it on a function with a known answer,
most of them by the kit's law; those whose number means something else on its function have one of their own
here.
"""

from types import ModuleType
from typing import Any

import pytest
import torch
from tests.metrics.common import Evidence, mapped, photos, problem
from torch import Tensor, nn

from abe.metrics import (
    as_metric,
    confidence,
    curves,
    faithfulness,
    infidelity,
    localisation,
    multimodal,
    soundness,
    subsets,
)
from abe.metrics.evaluation.book import measure
from abe.metrics.evaluation.truth import LABEL
from abe.registry import metrics
from abe.task import image_task
from abe.testing.metrics import RANDOM, SEEDS, SIGMAS, inverted, shuffled

JUDGED: tuple[ModuleType, ...] = (
    *(curves, faithfulness, infidelity, localisation, confidence, multimodal, soundness, subsets),
)
SIDE = 12


class Rivals(nn.Module):
    """A strong and a weak region of which either makes up for the other: s = A + B − A B, B up to 2, A to 1.

    Shapley: B − A B / 2 and A − A B / 2 of the inputs' evidence. Adding the weak region first always
    raises the score, adding it last lowers it.
    """

    def __init__(self) -> None:
        super().__init__()
        weight = torch.zeros(2, SIDE, SIDE)
        weight[0, 2:5, 2:5], weight[1, 7:10, 7:10] = 1 / 9, 2 / 9
        self.weight = nn.Parameter(weight)

    def forward(self, x: Tensor) -> Tensor:
        weak, strong = (x.mean(1) * self.weight[:, None]).flatten(2).sum(2)
        score = weak + strong - weak * strong
        return torch.stack([torch.zeros_like(score), score], 1)


def rivals() -> tuple[nn.Module, Tensor, Tensor]:
    """The model, white samples, and the Shapley values: .0 for the weak region, 1 for the strong one."""
    net = Rivals()
    x = torch.ones(1, 3, SIDE, SIDE)
    weak, strong = net.weight.detach()
    return net, x, ((0.25 * weak + 0.5 * strong) / 3).expand(1, 3, -1, -1)


def signed(against: float = 0.8) -> tuple[nn.Module, Tensor, Tensor]:
    """A model with evidence for and against class 1, and its contributions relative to zero."""
    net, x = Evidence(signed_weight(against), 3), photos(2)
    return net, x, x * signed_weight(against)


def balanced() -> tuple[nn.Module, Tensor, Tensor]:
    """As much evidence against class 1 as for it, so that some masks raise the score and some do not."""
    return signed(1.0)


def signed_weight(against: float = 0.8) -> Tensor:
    at = torch.arange(SIDE, dtype=torch.float32)
    one, other = (torch.exp(-((at - c) ** 2) / 4) for c in (3, 8))
    return 0.3 * (one[:, None] * one[None, :] - against * other[:, None] * other[None, :])


def relative(reference: str) -> tuple[nn.Module, Tensor, Tensor]:
    """The same model, and its contributions relative to each image's mean or to the middle of the range."""
    net, x, _ = signed()
    middle = x.mean((2, 3), keepdim=True) if reference == "mean" else torch.full_like(x, 0.5)
    return net, x, (x - middle) * signed_weight()


def decided() -> tuple[nn.Module, Tensor, Tensor]:
    """Two classes that both occur; contributions to the class that is predicted, relative to grey."""
    net, x = Evidence(signed_weight(), 3), photos(12)
    towards = x - 0.5
    total = (towards * signed_weight()).flatten(1).sum(1)

    class Centred(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return net(x - 0.5)

    return Centred(), x, towards * signed_weight() * total.sign().view(-1, 1, 1, 1)


FUNCTIONS = {"rivals": rivals, "balanced": balanced, "decided": decided}
OWN: dict[str, tuple[str, dict[str, Any]]] = {
    "monotonicity": ("rivals", {"step": 9}),
    "average_increase": ("balanced", {}),
    "image_confidence_increase": ("balanced", {}),
    "irof": ("mean", {}),
    "region_perturbation": ("middle", {"unit": ("patch", {"size": 3})}),
    "soundness": ("decided", {"removal": 0.5, "level": 0.9, "ratios": (0.95, 0.9, 0.8, 0.6, 0.4, 0.2, 0.0)}),
    "completeness": ("decided", {"removal": 0.5}),
}


def judged() -> list[str]:
    """Metrics of these families; without those that explain again or need no image."""
    homes = {module.__name__ for module in JUDGED}
    entries = [e for e in metrics.entries() if e.factory.__module__ in homes]
    return [e.name for e in entries if "image" in e.card.modalities and "method" not in e.card.needs]


def test_the_law_exempts_only_metrics_of_sums():
    """What is not judged here is judged by the law of the kit, in `tests/methods/test_laws.py`."""
    exempt = [n for n in set(judged()) - set(OWN) if "ranking" in metrics.get(n).card.expected_failures]
    assert exempt == ["residual"]


def test_what_is_not_judged_on_images_is_judged_on_words():
    """The two metrics of texts have their ranking in `test_multimodal.py`."""
    homes = {module.__name__ for module in JUDGED}
    every = {e.name for e in metrics.entries() if e.factory.__module__ in homes}
    assert every - set(judged()) == {"text_confidence_drop", "text_confidence_increase"}


CONSTANT: dict[str, dict[str, Any]] = {
    "soundness": {
        "removal": 0.5,
        "level": 0.9,
        "ratios": tuple(round(0.95 - k / 20, 2) for k in range(20)),
    },
    "faithfulness_estimate": {"groups": 48},
    "monotonicity_correlation": {"groups": 48},
}
"""Metrics that order positions without a perturbation run; those with one have the kit's law `constant`."""


@pytest.mark.parametrize("name", CONSTANT)
def test_a_constant_map_scores_as_a_random_order(name: str) -> None:
    net, x, true = decided()
    task, metric = image_task(net), as_metric((name, CONSTANT[name]))
    target = task.forward(x).argmax(1)
    flat, chance = [], []
    for seed in range(SEEDS):
        for maps, found in ((torch.ones_like(true), flat), (shuffled(true.abs(), seed), chance)):
            given = problem(task, x, target=target, seed=seed)
            known = mapped(maps, diagnostics={LABEL: given.target})
            found.append(float(measure(given, known, [metric])[name].values.nanmean()))
    one, other = torch.tensor(flat).double(), torch.tensor(chance).double()
    error = float(((one.var() + other.var()) / SEEDS).sqrt())
    assert abs(float(one.mean() - other.mean())) <= SIGMAS * max(error, 1e-12), (flat, chance)


@pytest.mark.parametrize("name", OWN)
def test_on_a_function_of_its_own(name: str) -> None:
    function, params = OWN[name]
    net, x, true = FUNCTIONS[function]() if function in FUNCTIONS else relative(function)
    maps = [true, inverted(true), *(shuffled(true, seed) for seed in range(RANDOM))]
    task, metric = image_task(net), as_metric((name, params))
    means = []
    for a in maps:
        target = task.forward(x).argmax(1) if function == "decided" else 1
        given = problem(task, x, target=target)
        found = measure(given, mapped(a, diagnostics={LABEL: given.target}), [metric])[name].values
        means.append(float(found.nanmean()) if name == "soundness" else float(found.mean()))
    sign = 1 if metric.direction == "higher" else -1
    best, worst, *chance = (sign * m for m in means)
    assert best > sum(chance) / RANDOM > worst
