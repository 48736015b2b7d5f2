"""Segmentations: what is asked, what is read over which region, and that nothing else is guessed."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import abe
from abe.errors import AbeError, Code
from abe.task.image.regions import connected
from abe.task.image.segmentation import REGION

FILE = Path(__file__).parent / "recorded" / "segmentation.npz"
QUIET: dict[str, Any] = {"progress": False}
LABELS = ["background", "grass", "road"]


class FCN(nn.Module):
    """The recorded network, which returns two maps of scores as torchvision's do."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, padding=1)
        self.b = nn.Conv2d(8, 8, 3, stride=2, padding=1)
        self.c, self.aux = nn.Conv2d(8, 4, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        z = self.a(x).relu()
        coarse = self.c(self.b(z).tanh())
        out = F.interpolate(coarse, size=x.shape[2:], mode="bilinear", align_corners=False)
        return {"out": out, "aux": self.aux(z)}


class LRASPP(nn.Module):
    """In small what torchvision's LR-ASPP is: two resolutions, a gate over the whole picture."""

    def __init__(self, classes: int = 3, width: int = 6) -> None:
        super().__init__()
        self.low = self._block(3, width, nn.ReLU())
        self.high = self._block(width, width, nn.Hardswish())
        self.cbr = nn.Sequential(nn.Conv2d(width, width, 1), nn.BatchNorm2d(width), nn.ReLU())
        self.scale = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(width, width, 1), nn.Sigmoid())
        self.low_head, self.high_head = nn.Conv2d(width, classes, 1), nn.Conv2d(width, classes, 1)

    @staticmethod
    def _block(before: int, after: int, act: nn.Module) -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(before, after, 3, 2, 1), nn.BatchNorm2d(after), act)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        low = self.low(x)
        high = self.high(low)
        gated = self.cbr(high) * self.scale(high)
        gated = F.interpolate(gated, size=low.shape[-2:], mode="bilinear", align_corners=False)
        scores = self.low_head(low) + self.high_head(gated)
        return {"out": F.interpolate(scores, size=x.shape[-2:], mode="bilinear", align_corners=False)}


class Colours(nn.Module):
    """The class of a pixel is its strongest colour: red is background, green grass, blue road."""

    def forward(self, x: Tensor) -> Tensor:
        return x.clone()


def picture() -> Tensor:
    """(1, 3, 8, 8) background, two patches of grass apart, one of road."""
    x = torch.full((1, 3, 8, 8), 0.1)
    classes = torch.zeros(8, 8, dtype=torch.long)
    classes[0:2, 0:3] = 1
    classes[5:8, 5:7] = 1
    classes[3, 0:4] = 2
    return x.scatter(1, classes[None, None], 0.9)


def colours(**settings: Any) -> abe.Task:
    given: dict[str, Any] = {"labels": LABELS, **settings}
    return abe.segmentation_task(Colours(), **given)


def lraspp(classes: int = 3) -> abe.Task:
    torch.manual_seed(3)
    model = LRASPP(classes).eval()
    with torch.no_grad():  # so that every class is predicted somewhere
        x = torch.rand(8, 3, 16, 16)
        model.low_head.bias -= model(x)["out"].mean((0, 2, 3))
    return abe.segmentation_task(model, labels=LABELS)


def region_of(task: abe.Task, x: Tensor, **asked: Any) -> tuple[Tensor, str]:
    found = abe.explain(task, x, "gradient", **asked, **QUIET)
    return found.diagnostics[REGION][0], found.target_names[0]


def refused(code: Code, *parts: str, task: abe.Task | None = None, **asked: Any) -> None:
    with pytest.raises(AbeError) as caught:
        abe.explain(task or colours(), picture(), "gradient", **asked, **QUIET)
    assert caught.value.code is code, caught.value
    for part in parts:
        assert part in str(caught.value)


# --- what is asked -----------------------------------------------------------------------------------


def test_the_class_that_covers_most_is_asked_about_but_for_the_background():
    zone, name = region_of(colours(), picture())
    assert name == "grass"
    assert torch.equal(zone, picture()[0].argmax(0) == 1)
    zone, name = region_of(colours(labels=["sky", "grass", "road"]), picture())
    assert name == "sky"
    assert region_of(colours(background="grass"), picture())[1] == "background"


def test_a_photograph_of_background_alone_is_explained_and_said():
    found = abe.explain(
        colours(), torch.full((1, 3, 4, 4), 0.5) * torch.tensor([2, 1, 1]).view(3, 1, 1), **QUIET
    )
    assert found.target_names == ["background"]
    assert any(Code.CHOSEN_REGION in text for text in found.warnings)


def test_two_classes_that_cover_as_much_are_said():
    x = torch.zeros(1, 3, 2, 2)
    x[0, 1, 0], x[0, 2, 1] = 1.0, 1.0
    found = abe.explain(colours(), x, "gradient", **QUIET)
    assert found.target_names == ["grass"]
    assert any("grass and road cover as much" in text for text in found.warnings)


def test_the_zone_under_a_pixel_hangs_together():
    zone, name = region_of(colours(), picture(), at=(1, 2))
    assert name == "grass"
    assert int(zone.sum()) == 6
    assert bool(zone[:2, :3].all())
    zone, _ = region_of(colours(), picture(), at=np.array([6, 5]))
    assert int(zone.sum()) == 6
    assert bool(zone[5:8, 5:7].all())


def test_pixels_for_each_photograph():
    both = torch.cat([picture(), picture()])
    found = abe.explain(colours(), both, "gradient", at=[(0, 0), (3, 1)], **QUIET)
    assert found.target_names == ["grass", "road"]
    assert found.diagnostics[REGION].sum((1, 2)).tolist() == [6, 4]


def test_a_class_by_name_or_number_for_all_or_each():
    assert region_of(colours(), picture(), label="Road")[0].sum() == 4
    assert region_of(colours(), picture(), label=2)[1] == "road"
    both = torch.cat([picture(), picture()])
    found = abe.explain(colours(), both, "gradient", label=["grass", "road"], **QUIET)
    assert found.diagnostics[REGION].sum((1, 2)).tolist() == [12, 4]


@pytest.mark.parametrize("form", ["tensor", "array", "bytes", "list", "batch"])
def test_a_region_of_any_class(form: str):
    mask = torch.zeros(8, 8)
    mask[2:4, 2:6] = 1
    forms: dict[str, Any] = {
        "tensor": mask,
        "array": mask.numpy().astype(bool),
        "bytes": (mask * 255).byte(),
        "list": mask.tolist(),
        "batch": mask[None],
    }
    zone, name = region_of(colours(), picture(), region=forms[form], label="road")
    assert torch.equal(zone, mask.bool())
    assert name == "road"
    assert region_of(colours(), picture(), region=forms[form], target=1)[1] == "grass"
    assert region_of(colours(), picture(), region=forms[form])[1] == "background"


def test_a_region_is_explained_though_its_class_is_nowhere():
    x = torch.full((1, 3, 4, 4), 0.1)
    x[:, 0] = 0.9
    found = abe.explain(colours(), x, "gradient", region=torch.ones(4, 4), label="road", **QUIET)
    assert found.target_names == ["road"]
    assert any(Code.ABSENT_CLASS in text and "road in sample 0" in text for text in found.warnings)


def test_one_class_against_another_is_their_margin():
    found = abe.explain(colours(), picture(), "gradient_x_input", label="grass", against="road", **QUIET)
    assert found.score.item() == pytest.approx(0.8)
    zone = picture()[0].argmax(0) == 1
    want = torch.zeros(1, 3, 8, 8)
    want[0, 1, zone], want[0, 2, zone] = 0.9 / 12, -0.1 / 12
    torch.testing.assert_close(found.attribution, want)


def test_a_target_beside_the_region_of_another_class_is_said():
    found = abe.explain(colours(), picture(), "gradient", target="road", **QUIET)
    assert found.target_names == ["road"]
    assert any(Code.OTHER_TARGET in text for text in found.warnings)


# --- what is read ------------------------------------------------------------------------------------


def test_the_region_stays_while_the_photograph_changes():
    """A path to black ends where nothing is predicted as before; the sum is that of the fixed region."""
    found = abe.explain(lraspp(), torch.rand(2, 3, 16, 16), "ig", tolerance=0.01, **QUIET)
    assert found.residual is not None
    assert float(found.residual.abs().max()) < 0.01


@pytest.mark.parametrize("stride", [2, 4])
def test_coarse_scores_are_read_where_they_are(stride: int):
    """A score counts by the share of its place that is in the region."""
    model = nn.Conv2d(3, 2, stride, stride)
    task, x = abe.segmentation_task(model.eval()), torch.rand(1, 3, 8, 8)
    mask = torch.zeros(8, 8)
    mask[:3, :5] = 1
    found = abe.explain(task, x, "gradient", region=mask, target=1, **QUIET)
    shares = F.avg_pool2d(mask[None, None], stride)[0, 0]
    want = (model(x)[0, 1] * shares).sum() / shares.sum()
    torch.testing.assert_close(found.score, want[None].detach())
    zone, _ = region_of(task, x, at=(0, 0))
    assert bool(zone[:stride, :stride].all())


def test_scores_finer_than_the_photograph():
    model = nn.Sequential(nn.Conv2d(3, 2, 1), nn.Upsample(scale_factor=2)).eval()
    task, x, mask = abe.segmentation_task(model), torch.rand(1, 3, 4, 4), torch.eye(4)
    found = abe.explain(task, x, "gradient", region=mask, target=0, **QUIET)
    torch.testing.assert_close(found.score, (model[0](x)[:, 0] * mask).sum((1, 2)).detach() / 4)


def test_one_forward_row_finds_the_zone_and_none_is_spent_on_a_given_one():
    task, x = colours(), torch.cat([picture()] * 3)
    plain = abe.explain(task, x, "gradient", region=torch.ones(8, 8), **QUIET).cost
    asked = abe.explain(task, x, "gradient", label="road", **QUIET).cost
    assert asked.forward_rows == plain.forward_rows + 3
    assert asked.backward_rows == plain.backward_rows


def test_one_column_with_a_kind():
    model = nn.Conv2d(3, 1, 1).eval()
    with torch.no_grad():
        model.weight.fill_(1.0)
        nn.init.constant_(model.get_parameter("bias"), -1.0)
    x = picture()
    task = abe.segmentation_task(model, output_kind="sigmoid", labels=["no", "yes"])
    found = abe.explain(task, x, "gradient", **QUIET)
    assert found.target_names == ["yes"]
    assert bool(found.diagnostics[REGION].all())
    likely = nn.Sequential(model, nn.Sigmoid()).eval()
    task = abe.segmentation_task(likely, output_kind="probabilities", labels=["no", "yes"])
    assert abe.explain(task, x, "gradient", **QUIET).target_names == ["yes"]


def test_labels_of_their_own():
    task = colours(output_kind="multilabel", mean=0.5)
    assert region_of(task, picture(), label="road")[0].sum() == 4
    refused(
        Code.REGION,
        "No label is said at that pixel",
        task=colours(output_kind="multilabel", mean=0.95),
        at=(4, 4),
    )
    refused(Code.REGION, "No label is said anywhere", task=colours(output_kind="multilabel", mean=0.95))


def test_probabilities_are_recognised():
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Softmax(1)).eval()
    found = abe.explain(abe.segmentation_task(model), picture(), "gradient", **QUIET)
    assert any(Code.PROBABILITY_OUTPUT in text for text in found.warnings)


# --- every tool --------------------------------------------------------------------------------------


def test_every_kind_of_method_runs_on_a_real_shape_of_network():
    task, x = lraspp(), torch.rand(1, 3, 16, 16)
    names = [
        "gradient",
        "ig",
        "lrp_epsilon",
        "deeplift",
        "grad_cam",
        "rise",
        "kernel_shap",
        "expected_gradients",
    ]
    settings: dict[str, Any] = {"rise": {"evaluations": 20}, "kernel_shap": {"evaluations": 40}}
    for name in names:
        found = abe.explain(task, x, name, label="road", **settings.get(name, {}), **QUIET)
        assert found.shape[-2:] == x.shape[-2:], name
        assert bool(found.attribution.any()), name


def test_the_default_comparison_and_metrics_of_regions():
    task, x = lraspp(), torch.rand(2, 3, 16, 16)
    found = abe.compare(task, x, ["ig", "gradient_x_input"], label="road", **QUIET)
    assert not found.failures
    assert {"insertion", "deletion", "gap"} <= set(found.scores[next(iter(found.scores))])
    masks = abe.explain(task, x, "gradient", label="road", **QUIET).diagnostics[REGION]
    found = abe.compare(
        task, x, ["ig"], ["pointing_game", "energy_in_box"], label="road", masks=masks, **QUIET
    )
    assert not found.failures


def test_a_saved_explanation_is_measured_over_its_own_region(tmp_path: Path):
    task, x = lraspp(), torch.rand(2, 3, 16, 16)
    explanation = abe.explain(task, x, "ig", label="road", steps=4, **QUIET)
    explanation.save(tmp_path / "e")
    again = abe.Explanation.load(tmp_path / "e")
    saved = abe.evaluate(task, {"e": again}, ["insertion"], **QUIET).scores["e"]["insertion"].values
    fresh = abe.evaluate(task, {"e": again}, ["insertion"], data=x, label="road", **QUIET)
    torch.testing.assert_close(saved, fresh.scores["e"]["insertion"].values)
    with pytest.raises(AbeError, match="hold what was asked"):
        abe.evaluate(task, {"e": again}, ["insertion"], label="road", **QUIET)


def test_the_cost_of_a_comparison_holds_the_search_for_zones():
    task, x = colours(), torch.cat([picture()] * 2)
    plain = abe.compare(task, x, ["gradient"], ["insertion"], region=torch.ones(8, 8), **QUIET)
    asked = abe.compare(task, x, ["gradient"], ["insertion"], label="road", **QUIET)
    assert asked.setup.forward_rows == plain.setup.forward_rows + 2
    of = "gradient"
    assert asked.origins[of].cost.forward_rows == plain.origins[of].cost.forward_rows


def test_attacks_move_the_class_of_a_region():
    task, x = colours(), picture()
    away = abe.attack(task, x, "bim", eps=0.5, steps=10, label="road", **QUIET)
    assert away.class_name(int(away.label_before[0])) == "road"
    assert bool(away.success.all())
    there = abe.attack(task, x, "bim", eps=0.5, steps=10, at=(3, 0), target="grass", **QUIET)
    assert there.class_name(int(there.label_after[0])) == "grass"
    changed = (there.x_adv - x).abs().sum((0, 1)) > 0
    assert torch.equal(changed, x[0].argmax(0) == 2)
    curve = abe.evaluate_robustness(task, x, "bim", epsilons=[0.01, 0.5], steps=10, label="road")
    assert curve.robust_accuracy == [1.0, 0.0]


def test_games_rules_and_trust_take_the_question():
    task, x = colours(), picture()
    (game,) = abe.explain_game(task, x, ["shapley"], units=("grid", {"n": 2}), label="road", **QUIET)
    assert game.residual is not None
    assert float(game.residual.abs()) < 1e-5
    assert abe.rule_coverage(task, x, label="road")
    near = 0.45 + 0.02 * x
    found = abe.trust(task, near, ["gradient_x_input"], constructions=["sign"], steps=100, label="road")
    inside = (found.pairs["sign"].truth[0].abs().sum(0) > 0) == (x[0].argmax(0) == 2)
    assert bool(found.pairs["sign"].success.all())
    assert bool(inside.all())


# --- what is refused ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "code", "parts"),
    [
        ({"at": (8, 0)}, Code.REGION, ("outside", "row 0 to 7")),
        ({"at": (0, 8)}, Code.REGION, ("column 8",)),
        ({"at": (-1, 0)}, Code.BAD_PARAMETER, ("from 0 on",)),
        ({"at": 3}, Code.REGION, ("(row, column)",)),
        ({"at": "middle"}, Code.REGION, ("(row, column)",)),
        ({"at": (0.5, 1)}, Code.REGION, ()),
        ({"at": [(0, 0), (1, 1)]}, Code.REGION, ("or 1 of these",)),
        ({"region": torch.zeros(8, 8)}, Code.REGION, ("empty", "sample 0")),
        ({"region": torch.ones(4, 4)}, Code.REGION, ("(4, 4)", "(1, 8, 8)")),
        ({"region": torch.full((8, 8), 0.5)}, Code.REGION, ("0 and 255",)),
        ({"region": "nowhere.png"}, Code.UNREADABLE_IMAGE, ("no such file",)),
        ({"region": torch.ones(8, 8), "at": (1, 1)}, Code.BAD_PARAMETER, ("at= and region=",)),
        ({"label": "sea"}, Code.TARGET_RANGE, ("'sea'",)),
        ({"label": 3}, Code.TARGET_RANGE, ("0 to 2",)),
        ({"label": 1.5}, Code.TARGET_TYPE, ()),
        ({"label": ["road", "road"]}, Code.TARGET_TYPE, ()),
        ({"against": "sea"}, Code.TARGET_RANGE, ("'sea'",)),
        ({"against": ["road", "grass"]}, Code.TARGET_TYPE, ("one class",)),
        ({"against": "grass"}, Code.TARGET_REACHED, ("against itself",)),
        ({"against": "road", "objective": "probability"}, Code.OBJECTIVE, ("Margin",)),
        ({"lable": "road"}, Code.UNKNOWN_PARAMETER, ("lable",)),
    ],
)
def test_questions_that_cannot_be_answered(asked: dict[str, Any], code: Code, parts: tuple[str, ...]):
    refused(code, *parts, **asked)


def test_a_class_that_is_predicted_nowhere_is_named_with_those_that_are():
    x = torch.full((1, 3, 4, 4), 0.1)
    x[:, 0] = 0.9
    with pytest.raises(AbeError, match=r"road for sample 0.*background.*region=") as caught:
        abe.explain(colours(), x, label="road", **QUIET)
    assert caught.value.code is Code.ABSENT_CLASS


@pytest.mark.parametrize(
    ("model", "settings", "code", "part"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(192, 3)), {}, Code.OUTPUT_SHAPE, "image_task"),
        (nn.Sequential(nn.Conv2d(3, 1, 1), nn.Flatten(1, 2)), {}, Code.OUTPUT_SHAPE, "out[:, None]"),
        (nn.Conv2d(3, 1, 1), {}, Code.OUTPUT_KIND, "sigmoid"),
        (nn.Conv2d(3, 2, 1), {"output_kind": "regression"}, Code.UNSUPPORTED, "region="),
        (nn.Conv2d(5, 2, 1), {"channels": 3}, Code.MODEL_FAILED, "forward"),
        (nn.Conv2d(3, 2, 1), {"labels": LABELS}, Code.LABELS, "3 names"),
    ],
)
def test_models_without_scores_at_places(model: nn.Module, settings: dict[str, Any], code: Code, part: str):
    task = abe.segmentation_task(model.eval(), **settings)
    with pytest.raises(AbeError, match=part.replace("[", r"\[").replace("(", r"\(")) as caught:
        abe.explain(task, picture(), "gradient", **QUIET)
    assert caught.value.code is code


def test_a_regression_at_places_is_read_over_a_given_region():
    model = nn.Conv2d(3, 1, 1).eval()
    task = abe.segmentation_task(model, output_kind="regression")
    found = abe.explain(task, picture(), "gradient", region=torch.ones(8, 8), **QUIET)
    torch.testing.assert_close(found.score, model(picture()).mean((1, 2, 3)).detach())


def test_a_question_to_a_task_that_asks_none_is_refused_as_any_unknown_name():
    classifier = abe.image_task(nn.Sequential(nn.Flatten(), nn.Linear(192, 3)))
    with pytest.raises(AbeError) as caught:
        abe.explain(classifier, picture(), "gradient", at=(0, 0), **QUIET)
    assert caught.value.code is Code.UNKNOWN_PARAMETER
    with pytest.raises(AbeError, match="compare has no parameter 'at'") as caught:
        abe.compare(classifier, picture(), ["gradient"], ["insertion"], at=(0, 0), **QUIET)
    assert caught.value.code is Code.UNKNOWN_PARAMETER
    with pytest.raises(AbeError, match=r"lable.*Did you mean 'label'"):
        abe.compare(colours(), picture(), ["gradient"], ["insertion"], lable="road", **QUIET)


def test_without_a_region_nothing_is_read():
    with pytest.raises(AbeError, match="region") as caught:
        abe.robustness.train_advgan(colours(), torch.rand(32, 3, 8, 8), "never.ckpt", epochs=1)
    assert caught.value.code is Code.UNSUPPORTED


def test_the_model_is_left_as_found():
    task = lraspp()
    task.model.train()
    before = {name: value.clone() for name, value in task.model.state_dict().items()}
    abe.explain(task, torch.rand(1, 3, 16, 16), "gradient", **QUIET)
    assert task.model.training
    assert all(torch.equal(value, before[name]) for name, value in task.model.state_dict().items())


@pytest.mark.peers
def test_in_torchvisions_own():
    models = pytest.importorskip("torchvision.models.segmentation")
    torch.manual_seed(0)
    net = models.lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=3).eval()
    found = abe.explain(abe.segmentation_task(net), torch.rand(1, 3, 64, 64), "gradient", **QUIET)
    assert found.shape == (1, 3, 64, 64)


# --- the zone under a pixel, and recorded numbers ------------------------------------------------------


@settings(max_examples=40)
@given(seed=st.integers(0, 10**6), h=st.integers(1, 12), w=st.integers(1, 12))
def test_a_connected_zone_is_what_a_flood_reaches(seed: int, h: int, w: int):
    mask = torch.rand(h, w, generator=torch.Generator().manual_seed(seed)) < 0.6
    mask[0, 0] = True
    reached, edge = {(0, 0)}, [(0, 0)]
    while edge:
        r, c = edge.pop()
        for step in ((r + 1, c), (r - 1, c), (r, c + 1), (r, c - 1)):
            inside = 0 <= step[0] < h and 0 <= step[1] < w
            if inside and bool(mask[step]) and step not in reached:
                reached.add(step)
                edge.append(step)
    found = connected(mask, 0, 0)
    assert {tuple(place) for place in found.nonzero().tolist()} == reached


def recorded() -> tuple[abe.Task, Tensor, dict[str, Any]]:
    held = dict(np.load(FILE, allow_pickle=False))
    net = FCN().double().eval()
    weights = {
        name.removeprefix("net/"): torch.tensor(v) for name, v in held.items() if name.startswith("net/")
    }
    net.load_state_dict(weights)
    rest = {name: torch.tensor(v) for name, v in held.items() if not name.startswith("net/")}
    return abe.segmentation_task(net, bounds=None), rest.pop("x"), rest


def miss(found: Tensor | None, right: Tensor) -> float:
    assert found is not None
    return float((found.double() - right).abs().max() / right.abs().max())


@pytest.mark.parametrize("kind", ["own", "mask"])
def test_recorded_numbers(kind: str):
    """captum's methods on the mean logit of a class over a region, by their formulas."""
    task, x, held = recorded()
    asked: dict[str, Any] = {"label": held[f"{kind}/target"]}
    if kind == "mask":
        asked["region"] = held["mask/region"]
    baseline = "zero" if kind == "own" else ("constant", {"value": 0.5})
    found = abe.explain(task, x, "ig", steps=50, baseline=baseline, **asked, **QUIET)
    assert torch.equal(found.diagnostics[REGION], held[f"{kind}/region"])
    assert miss(found.score, held[f"{kind}/score"]) < 1e-9
    assert miss(found.attribution, held[f"{kind}/ig"]) < 1e-9
    assert miss(found.delta, held[f"{kind}/delta"]) < 1e-9
    found = abe.explain(task, x, "gradient", **asked, **QUIET)
    assert miss(found.attribution, held[f"{kind}/gradient"]) < 1e-9
    half = ("constant", {"value": 0.5})
    found = abe.explain(task, x, "occlusion_patch", size=4, stride=4, removal=half, **asked, **QUIET)
    assert miss(found.attribution, held[f"{kind}/tiles"][:, None].expand_as(x)) < 1e-9
    units = ("patch", {"size": 4})
    found = abe.explain(task, x, "occlusion", units=units, variant="published", **asked, **QUIET)
    first = found.attribution[:, 0, ::4, ::4].flatten(1)
    assert miss(first, held[f"{kind}/ablation"]) < 1e-9


@pytest.mark.parametrize("kind", ["own", "mask"])
def test_recorded_windows_that_overlap(kind: str):
    """Windows of 5 × 6, every 3 and 4 pixels, the last ones cut."""
    task, x, held = recorded()
    asked: dict[str, Any] = {"region": held[f"{kind}/region"], "target": held[f"{kind}/target"]}
    how: dict[str, Any] = {"size": (5, 6), "stride": (3, 4), "removal": ("constant", {"value": 0.5})}
    found = abe.explain(task, x, "occlusion_patch", **how, **asked, **QUIET)
    assert miss(found.attribution, held[f"{kind}/overlap"][:, None].expand_as(x)) < 1e-9
