"""One map in every layout that arrays have, and every number inside the range that its card states."""

import re
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.metrics.common import photos, problem
from torch import Tensor, nn

import abe
from abe.errors import Code
from abe.explanation import Explanation
from abe.metrics import as_metric
from abe.metrics.evaluation.book import measure
from abe.metrics.evaluation.truth import with_truth
from abe.registry import metrics
from abe.testing.metrics import metric_case
from abe.testing.nets import tiny
from abe.types import Card

SIDE = 6
QUICK: dict[str, Any] = {
    "samples": 6,
    "groups": 4,
    "step": 0.25,
    "k": 5,
    "ratios": (0.9, 0.6, 0.3, 0.05),
    "thresholds": (0.5, 0.1),
}
NAMES = [
    n
    for n in metrics.names()
    if "image" in metrics.get(n).card.modalities and "method" not in metrics.get(n).card.needs
]
SLACK = 1e-9


def asked(name: str, **more: Any) -> tuple[str, dict[str, Any]]:
    """A metric at settings that cost little."""
    known = metrics.get(name).parameters()
    own = dict(metric_case(name).metric.params)
    return name, {**own, **{k: v for k, v in QUICK.items() if k in known}, **more}


def scored(maps: Any, asks: Any, net: nn.Module | None = None, b: int = 3) -> dict[str, Any]:
    """Scores of a map as an array, without the intervals of `abe.evaluate`."""
    x = photos(b, side=SIDE)
    masks = torch.zeros(b, SIDE, SIDE, dtype=torch.bool)
    masks[:, 1:4, 1:4] = True
    explanation = Explanation.from_array(maps, x, target=1, ids=range(b))
    task = abe.image_task(net or tiny(3), channels=3, output_kind="logits")
    about = problem(task, x, target=1, ids=range(b))
    return measure(about, with_truth(explanation, masks, torch.arange(b) % 3), [as_metric(a) for a in asks])


HEAT = photos(3, channels=1, side=SIDE, seed=5) - 0.5
THIRDS = (HEAT / 3).expand(3, 3, SIDE, SIDE)
LAYOUTS = {
    "one channel": HEAT,
    "no channel": HEAT[:, 0],
    "NumPy": HEAT.numpy(),
    "channels last": THIRDS.movedim(1, 3).numpy(),
}
PLAIN = [asked(n) for n in NAMES]
VARIED = [
    asked("infidelity", variant="unscaled"),
    asked("infidelity", variant="normalised", perturbation="gaussian"),
    asked("faithfulness_correlation", unit="element"),
    asked("insertion", unit="element"),
    asked("deletion", unit="union"),
]
ASKS = (PLAIN, *([one] for one in VARIED))


def close(found: Tensor, right: Tensor, name: str) -> None:
    gap = (found - right).abs() - 1e-4 * right.abs()
    assert torch.equal(found.isnan(), right.isnan()), name
    assert float(gap.nan_to_num().max()) <= 1e-5, (name, found, right)


@cache
def right_scores(number: int) -> dict[str, Any]:
    return scored(THIRDS, ASKS[number])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_map_scores_alike_in_every_layout(layout):
    for number, asks in enumerate(ASKS):
        right, found = right_scores(number), scored(LAYOUTS[layout], asks)
        for name, score in right.items():
            close(found[name].values, score.values, name)


SUMS = {"completeness_gap"}
"""Metrics of the sum of a map, which grows with every channel that repeats it."""


def test_a_map_that_every_channel_repeats_scores_as_the_map():
    asks = [one for one in PLAIN if one[0] not in SUMS]
    right, found = scored(HEAT, asks), scored(HEAT.expand(3, 3, SIDE, SIDE), asks)
    for name, score in right.items():
        close(found[name].values, score.values, name)


# ---------------------------------------------------------------- ranges


def inside(text: str, value: float, elements: int) -> bool:
    """Whether a card's range holds a number."""
    if value != value:
        return "NaN" in text
    choice = re.match(r"\{([^}]*)\}", text)
    if choice:
        return value in [float(n) for n in choice[1].split(",")]
    low, high = re.match(r"[\[(]([^,]+), ([^\])]+)[\])]", text).groups()
    ends = [torch.tensor(float(elements)).log().item() if "ln" in e else float(e) for e in (low, high)]
    return ends[0] - SLACK <= value <= ends[1] + 1e-6


def maps(draw: Any) -> Tensor:
    """Signed, positive, negative, sparse, constant and zero maps of any size, in one channel or three."""
    kind = draw(st.sampled_from(["signed", "positive", "negative", "sparse", "constant", "zero", "tied"]))
    seed, power = draw(st.integers(0, 2**16)), draw(st.sampled_from([-12, -3, 0, 4]))
    channels = draw(st.sampled_from([1, 3]))
    made = torch.randn(2, channels, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))
    forms = {
        "signed": made,
        "positive": made.abs(),
        "negative": -made.abs(),
        "sparse": made * (made > 1.8),
        "constant": torch.ones_like(made) * made.flatten()[0],
        "zero": torch.zeros_like(made),
        "tied": made.round(),
    }
    return forms[kind] * 10.0**power


OPTIONS = {
    "of": ("positive", "absolute", "signed", "minmax"),
    "variant": ("corrected", "published", "unscaled", "normalised"),
    "unit": ("pixel", "element"),
}
VARIANTS = [
    asked(n, **{option: choice})
    for n in NAMES
    for option, choices in OPTIONS.items()
    if option in metrics.get(n).parameters()
    for choice in choices
]


def made(one: tuple[str, dict[str, Any]]) -> bool:
    """Whether there is such a metric: some options are refused by name."""
    try:
        as_metric(one)
    except abe.AbeError as refusal:
        return not any(repr(v) in str(refusal) for v in one[1].values() if isinstance(v, str))
    return True


ASKED = [one for one in (*PLAIN, *VARIANTS) if made(one)]


@settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(st.data())
def test_every_number_is_in_its_cards_range(data):
    made, others = maps(data.draw), data.draw(st.lists(st.sampled_from(ASKED[len(PLAIN) :]), max_size=4))
    for asks in (PLAIN, *([one] for one in others)):
        for name, score in scored(made, asks, b=2).items():
            text = metrics.get(name).card.range
            for value in score.values.tolist():
                assert inside(text, value, 3 * SIDE * SIDE), (asks, name, value, text)


def test_a_share_of_a_signed_map_is_refused():
    with pytest.raises(abe.AbeError, match="signed") as caught:
        scored(HEAT, [("relevance_mass", {"of": "signed"})])
    assert caught.value.code is Code.BAD_PARAMETER


# ---------------------------------------------------------------- no reaction, and metrics that raise


class Deaf(nn.Module):
    """The same scores for every input."""

    def __init__(self) -> None:
        super().__init__()
        self.scores = nn.Parameter(torch.tensor([0.3, 1.0, -2.0]))

    def forward(self, x: Tensor) -> Tensor:
        return self.scores.expand(len(x), -1) + 0 * x.flatten(1).sum(1, keepdim=True)


REMOVING = [one for one in PLAIN if as_metric(one).removes]


def test_what_every_map_would_get_is_said():
    maps = torch.rand(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    assert {"insertion", "road_morf", "soundness", "infidelity", "faithfulness_correlation"} <= {
        n for n, _ in REMOVING
    }
    for one in REMOVING:
        (score,) = scored(maps, [one], Deaf()).values()
        assert any("ABE-NO-REACTION" in w and "0, 1, 2" in w for w in score.warnings), (one, score.warnings)
    for name, score in scored(maps, PLAIN).items():
        silent = not any("ABE-NO-REACTION" in w for w in score.warnings)
        assert silent or name in ("completeness", "soundness"), (name, score.warnings)


def test_a_prediction_that_is_sure_at_every_step_is_no_curve():
    class Sure(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            score = 500 + x.flatten(1).sum(1, keepdim=True)
            return torch.cat([score, -score], 1)

    task, x = abe.image_task(Sure(), channels=3, output_kind="logits"), photos(2, side=SIDE)
    asks = ["insertion", "deletion", "gap", "log_odds_insertion"]
    found = abe.evaluate(task, {"m": x}, asks, data=x, progress=False).scores["m"]
    said = {n: any("ABE-NO-REACTION" in w for w in s.warnings) for n, s in found.items()}
    assert said == {"insertion": True, "deletion": True, "gap": True, "log_odds_insertion": False}


class Raises:
    direction = "higher"

    def __init__(self, error: Exception) -> None:
        self.error = error

    def measure(self, problem: Any, explanation: Any) -> Tensor:
        raise self.error


def test_a_metric_of_ones_own_that_raises_is_named():
    with pytest.raises(abe.AbeError, match="'Raises' raised") as caught:
        scored(HEAT, [Raises(KeyError("channel"))])
    assert caught.value.code is Code.METRIC
    assert isinstance(caught.value.__cause__, KeyError)
    with pytest.raises(MemoryError):
        scored(HEAT, [Raises(MemoryError())])


def test_a_factory_that_raises_is_named(monkeypatch):
    for table in ("_entries", "_aliases"):
        monkeypatch.setattr(metrics, table, dict(getattr(metrics, table)))
    card = Card(name="broken", title="B", source="none", direction="higher", range="[0, 1]")

    @metrics.register(card)
    def broken(*, level: int = 1) -> Any:
        """A metric that cannot be made."""
        raise KeyError(level)

    with pytest.raises(abe.AbeError, match="'broken' raised") as caught:
        scored(HEAT, ["broken"])
    assert caught.value.code is Code.METRIC
