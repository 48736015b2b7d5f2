"""Infidelity and correlations against recorded numbers, and slow forms of the definitions."""

from dataclasses import dataclass

import pytest
import torch
from tests.metrics.common import evidence_task, mapped, net_s, oracle, photos, problem
from torch import Tensor

import abe
from abe.errors import Code, SpecError
from abe.metrics import as_metric, score
from abe.metrics.infidelity import Infidelity, infidelity
from abe.metrics.subsets import pearson, places
from abe.spec import value
from abe.task import image_task
from abe.testing import ReplayedDraws, check_metric


@value
class RecordedMethod:
    """Perturbations that were recorded: draw k of sample i is x − perturbation[i, k]."""

    name: str

    def rows(self, problem, owner: Tensor, draw: Tensor) -> Tensor:
        return problem.x[owner] - oracle(self.name)["perturbation"].double()[owner, draw]


def test_captum_infidelity():
    recorded = oracle("captum_infidelity")
    given = problem(image_task(net_s()), recorded["x"], target=recorded["target"])
    for variant, key in (("unscaled", "out"), ("published", "out_normalize")):
        metric = Infidelity(perturbation=RecordedMethod(name="captum_infidelity"), samples=8, variant=variant)
        found = metric.measure(given, mapped(recorded["attribution"]))
        # captum's scale has no ridge, which the published form of INFD adds: 7e-13 here
        torch.testing.assert_close(found, recorded[key], rtol=1e-9, atol=1e-12)
    assert given.evaluator.cost.forward_rows == 2 * 16 + 2


@pytest.mark.parametrize("number", [0, 1])
def test_published_infd(number):
    recorded = oracle(f"metric_infd_{number}")
    x, index = recorded["x"], recorded["index"].long()
    rest = torch.ones(20, 3072, dtype=torch.bool).scatter_(1, index, False).nonzero()[:, 1].view(20, -1)
    # the published draw is subtracted from the input before clipping, ours added to the baseline
    draws = ReplayedDraws.of(
        [0],
        infidelity__index=torch.cat([index, rest], 1)[None],
        infidelity__noise=-recorded["noise"][None],
    )
    for variant, expected in (("published", recorded["out"]), ("corrected", None)):
        metric = ("infd", {"perturbation": "noisy_baseline", "samples": 20, "variant": variant})
        scores = [
            score(
                abe.Explanation.from_array(s * recorded["attribution"], x, target=recorded["label"], ids=[0]),
                image_task(net_s()),
                metric=metric,
                draws=draws,
            ).values
            for s in (1.0, -1.0, 0.0, 1e-3)
        ]
        zero = recorded["out_zero_map"]
        # the changes and the negated map were recorded on draws that were not rounded alike: 1e-8
        torch.testing.assert_close(recorded["delta_f"].square().mean(), zero, rtol=2e-8, atol=0)
        torch.testing.assert_close(scores[2][0], zero, rtol=1e-9, atol=1e-12)
        if expected is not None:
            torch.testing.assert_close(scores[0][0], expected, rtol=1e-12, atol=0)
            torch.testing.assert_close(scores[1][0], recorded["out_negated"], rtol=2e-8, atol=0)
        else:  # blind neither to sign nor dependent on scale
            torch.testing.assert_close(torch.stack(scores[:2]).amax(), zero, rtol=1e-9, atol=1e-12)
            torch.testing.assert_close(scores[3], scores[0], rtol=1e-9, atol=1e-12)


def test_infidelity_of_known_answers():
    change = torch.tensor([[1.0, -2.0, 3.0]], dtype=torch.float64)
    assert infidelity(2 * change, change).item() == 0
    assert infidelity(-change, change).item() == pytest.approx(14 / 3)
    assert infidelity(0 * change, change).item() == pytest.approx(14 / 3)


@dataclass(frozen=True)
class Sets:
    """RecordedMethod sets as the first entries of the order that is asked for."""

    first: Tensor  # (b, samples, size)

    def permutation(self, purpose, keys, size):
        rows = []
        for sample, draw in keys:
            head = self.first[sample, draw]
            rest = torch.ones(size, dtype=torch.bool).scatter_(0, head, False).nonzero().flatten()
            rows.append(torch.cat([head, rest]))
        return torch.stack(rows)

    normal = uniform = integers = permutation


def test_quantus_faithfulness_correlation():
    recorded = oracle("quantus_faithfulnesscorrelation")
    sets = recorded["draws"].long().view(30, 4, 200).transpose(0, 1)
    task = image_task(net_s(torch.float32))
    given = problem(task, recorded["x"], target=recorded["label"], ids=range(4))
    given.draws = Sets(sets)
    black = recorded["x"].amin((1, 2, 3), keepdim=True).expand_as(recorded["x"])  # Quantus' "black"
    metric = as_metric(
        ("faithfulness_correlation", {"baseline": black, "size": 200, "samples": 30, "unit": "element"})
    ).value
    found = metric.measure(given, mapped(recorded["attribution"]))
    torch.testing.assert_close(found, recorded["out"], rtol=1e-5, atol=0)  # float32


@pytest.mark.parametrize(
    "name", ["faithfulness_correlation", "sensitivity_n", "faithfulness_estimate", "infidelity"]
)
def test_a_linear_model_is_explained_perfectly(name):
    task, weight = evidence_task()
    x = photos(3).double()
    task.model.double()
    scores = {}
    for sign in (1.0, -1.0):
        given = problem(task, x, target=1)
        # infidelity reads the map as a slope, the correlations as contributions
        true = weight.double().expand_as(x) if name == "infidelity" else weight.double() * x
        scores[sign] = as_metric(name).value.measure(given, mapped(sign * true))
    best = 0.0 if name == "infidelity" else 1.0
    torch.testing.assert_close(scores[1.0], torch.full_like(scores[1.0], best), rtol=1e-6, atol=1e-9)
    assert bool((scores[-1.0] < -0.999).all()) or name == "infidelity"


def test_correlation_and_places():
    x = torch.tensor([[3.0, 1.0, 1.0, 2.0]])
    assert places(x).tolist() == [[3.0, 0.5, 0.5, 2.0]]
    assert pearson(x, 2 * x + 1).item() == pytest.approx(1)
    assert pearson(x, torch.ones_like(x)).item() == 0


@pytest.mark.parametrize(
    ("name", "params"), [("irof", {}), ("region_perturbation", {"unit": ("patch", {"size": 3})})]
)
def test_ranking_holds_relative_to_zero(name, params):
    from abe.testing.metrics import metric_case, ranking

    numbers = ranking(metric_case(name, baseline="zero", **params))
    assert numbers["true"] > numbers["random"] > numbers["inverted"]


def test_levels_and_variants_are_checked():
    for name, params in (
        ("comprehensiveness", {"levels": (2.0,)}),
        ("infidelity", {"variant": "best"}),
        ("infidelity", {"perturbation": "round"}),
        ("infidelity", {"size": 7.0}),
        ("faithfulness_correlation", {"samples": 1}),
        ("faithfulness_estimate", {"groups": 1}),
    ):
        with pytest.raises(SpecError) as caught:
            as_metric((name, params))
        assert caught.value.code is Code.BAD_PARAMETER


def test_many_curve_metrics_cost_no_more_rows_than_two():
    from abe.metrics.evaluation.book import measure

    task, weight = evidence_task()
    x = photos(3)
    names = [
        "insertion",
        "deletion",
        "kl_insertion",
        "kl_deletion",
        "log_odds_insertion",
        "log_odds_deletion",
    ]
    names += ["comprehensiveness", "sufficiency_aopc", "pixel_flipping", "aopc", "gap", "kl_gap"]
    rows = []
    for chosen in (names[:2], names):
        given = problem(task, x, target=1)
        measure(given, mapped(weight * x), [as_metric(n) for n in chosen])
        rows.append(given.evaluator.cost.forward_rows)
    assert rows[0] == rows[1]


def test_a_law_of_the_kit_runs_on_a_value_without_a_name():
    assert check_metric("infidelity", only="batch")[0].outcome == "holds"


@pytest.mark.peers
@pytest.mark.parametrize("normalize", [False, True])
def test_infidelity_on_captums_scale(normalize):
    captum = pytest.importorskip("captum.metrics")
    task, x = (
        image_task(net_s(torch.float64), output_kind="logits"),
        oracle("inputs")["x32_u8"].double() / 255,
    )
    maps = x * torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    moved = x + 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    class Same:
        def rows(self, problem, owner, draw):
            return moved[owner]

    def perturb(inputs):
        return inputs - moved, moved

    theirs = captum.infidelity(
        task.model, perturb, x, maps, target=3, n_perturb_samples=1, normalize=normalize
    )
    variant = "normalised" if normalize else "unscaled"
    ours = as_metric(("infidelity", {"perturbation": Same(), "samples": 1, "variant": variant}))
    found = ours.value.measure(problem(task, x, target=3), mapped(maps))
    torch.testing.assert_close(found, theirs, rtol=1e-8, atol=1e-12)


def test_infidelity_by_hand_in_every_variant():
    predicted, change = torch.tensor([[1.0, 2.0, 0.0]]), torch.tensor([[-2.0, -1.0, 1.0]])
    beta = {"unscaled": 1.0, "normalised": -0.8, "corrected": 0.0, "published": -4 / 3 / (5 / 3 + 1e-8)}
    for variant, scale in beta.items():
        wanted = (scale * predicted - change).square().mean(1)
        torch.testing.assert_close(infidelity(predicted, change, variant), wanted)
    with pytest.raises(SpecError, match="variant"):
        infidelity(predicted, change, "captum")
