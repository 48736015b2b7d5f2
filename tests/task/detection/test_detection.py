"""Detections: what is asked, what is read at which box, and that nothing else is guessed."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save
from tests.task.detection.nets import KINDS, Tiny, network, photos, retinanet, task_of
from torch import Tensor, nn

import abe
from abe.errors import AbeError, Code
from abe.task.detection.boxes import overlaps, suppressed
from abe.task.detection.reading import BOX, at_box

FILE = Path(__file__).parent / "recorded" / "detection.npz"
QUIET: dict[str, Any] = {"progress": False}
LABELS = ["cat", "dog", "cow", "hen"]


@pytest.fixture(scope="module")
def recorded() -> dict[str, Tensor]:
    with np.load(FILE) as file:
        return {name: torch.from_numpy(file[name]) for name in file.files}


def weights(recorded: dict[str, Tensor], net: nn.Module, name: str) -> nn.Module:
    held = {k.split("/")[1]: v for k, v in recorded.items() if k.startswith(f"{name}/")}
    net.double().load_state_dict(held)
    return net.eval()


def far(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).abs().max() / wanted.abs().max())


def refused(code: Code, *parts: str, task: Any = None, x: Any = None, **asked: Any) -> None:
    with pytest.raises(AbeError) as caught:
        abe.explain(task or named(), photos("tiny") if x is None else x, "gradient", **asked, **QUIET)
    assert caught.value.code is code, caught.value
    for part in parts:
        assert part in str(caught.value)


def named(**settings: Any) -> Any:
    return task_of("tiny", labels=LABELS, **settings)


# --- recorded numbers --------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["own", "shifted"])
def test_scores_and_gradients_of_a_detector_of_ones_own(recorded: dict[str, Tensor], which: str):
    task = task_of("tiny", weights(recorded, Tiny(), "det_tiny"))
    asked = {"box": recorded[f"{which}/box"], "label": recorded[f"{which}/target"]}
    found = abe.explain(task, recorded["own/x"], "gradient", **asked, **QUIET)
    assert far(found.score, recorded[f"{which}/score"]) < 1e-10
    assert far(found.attribution[:1], recorded[f"{which}/out"]) < 1e-7
    alone = abe.explain(task, recorded["own/x"], "gradient", part="class", **asked, **QUIET)
    assert alone.diagnostics["candidate"].tolist() == recorded[f"{which}/winner"].tolist()


@pytest.mark.parametrize("which", ["own", "shifted"])
def test_scores_under_masks_are_those_of_d_rise(recorded: dict[str, Tensor], which: str):
    net = weights(recorded, Tiny(), "det_tiny")
    masks = recorded[f"{which}/masks"].double()[:, None] / 255
    for i, x in enumerate(recorded["own/x"]):
        asked = {"box": recorded[f"{which}/box"][i], "label": int(recorded[f"{which}/target"][i])}
        found = abe.explain(task_of("tiny", net), masks * x, "gradient", **asked, **QUIET).score
        assert far(found, recorded[f"{which}/weight_simple"][i]) < 1e-10
        vector = recorded[f"{which}/target_probabilities"][i]

        def alike(out: Any, vector: Tensor = vector) -> tuple[Tensor, Tensor]:
            same = torch.cosine_similarity(out["logits"].softmax(-1), vector, dim=-1)
            return out["boxes"], (same * out["objectness"].sigmoid())[..., None]

        published = abe.detection_task(net, dense=alike)
        found = abe.explain(published, masks * x, "gradient", box=asked["box"], label=0, **QUIET).score
        assert far(found, recorded[f"{which}/weight_drise"][i]) < 1e-10


@pytest.mark.parametrize("which", ["own", "shifted"])
def test_insertion_and_deletion_of_the_box(recorded: dict[str, Tensor], which: str):
    task = task_of("tiny", weights(recorded, Tiny(), "det_tiny"))
    x, target = recorded["own/x"][:1], recorded[f"{which}/target"][:1]
    given = abe.Explanation.from_array(
        recorded[f"{which}/map"][:, None], x, target=target, modality="detection"
    )
    curves = [(name, {"step": 64, "baseline": "zero"}) for name in ("insertion", "deletion")]
    asked = {"box": recorded[f"{which}/box"][:1], "label": target}
    found = abe.evaluate(task, {"map": given}, data=x, metrics=curves, **asked, **QUIET)
    for name in ("insertion", "deletion"):
        score = found.scores["map"][name]
        assert far(score.curve, recorded[f"{which}/{name}"]) < 1e-10
        assert far(score.values, recorded[f"{which}/auc_{name}"]) < 1e-10


def test_scores_and_gradients_of_torchvisions_retinanet(recorded: dict[str, Tensor]):
    task = abe.detection_task(weights(recorded, retinanet(), "det_retinanet_tiny"))
    x = recorded["retina/x"]
    asked = {"box": recorded["retina/box"], "label": recorded["retina/target"]}
    found = abe.explain(task, x, "gradient", **asked, **QUIET)
    assert far(found.score, recorded["retina/score"]) < 1e-10
    assert far(found.attribution[:1], recorded["retina/out"]) < 1e-6
    masks = recorded["retina/masks"].double()[:, None] / 255
    for i in range(len(x)):
        one = {"box": asked["box"][i], "label": int(asked["label"][i])}
        under = abe.explain(task, masks * x[i], "gradient", **one, **QUIET).score
        assert far(under, recorded["retina/weights"][i]) < 1e-10


@pytest.mark.slow
def test_scores_and_gradients_of_torchvisions_ssdlite(recorded: dict[str, Tensor]):
    from torchvision.models.detection import ssdlite320_mobilenet_v3_large

    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(1360)
        net = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=5).eval()
        draw = torch.Generator().manual_seed(1361)
        for name, parameter in net.named_parameters():
            if parameter.ndim > 1:
                size = (1.69 / parameter[0].numel()) ** 0.5 * (
                    0.5 if name.startswith("head.regression") else 1
                )
                parameter.copy_(torch.randn(parameter.shape, generator=draw) * size)
    task = abe.detection_task(net.double())
    asked = {"box": recorded["ssdlite/box"][:1], "label": recorded["ssdlite/target"][:1]}
    found = abe.explain(task, recorded["ssdlite/x"], "gradient", **asked, **QUIET)
    assert far(found.score, recorded["ssdlite/score"][:1]) < 1e-10
    assert far(found.attribution, recorded["ssdlite/out"]) < 1e-6


# --- detectors of every kind -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["retinanet", "fcos", "ssd", "rcnn"])
def test_detections_are_those_of_torchvisions_own_postprocessing(kind: str):
    net, x = network(kind), photos(kind, 1)
    mine = abe.detection_task(net).detect(x)
    with torch.no_grad():
        theirs = net([x[0]])[0]
    there = ((theirs["boxes"][:, 2:] - theirs["boxes"][:, :2]) > 0).all(1)
    mine = mine[: int(there.sum())]
    assert mine
    assert [one.label for one in mine] == theirs["labels"][there].tolist()
    assert np.allclose([one.probability for one in mine], theirs["scores"][there], atol=1e-10)
    assert np.allclose([one.box for one in mine], theirs["boxes"][there], atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_the_score_of_a_detection_is_its_probability(kind: str):
    task, x = task_of(kind), photos(kind)
    listed = task.detect(x)
    found = abe.explain(task, x, "gradient", detection=[0, 1], **QUIET)
    wanted = torch.tensor([one.probability for photo in listed for one in photo[:2]]).to(found.score)
    assert len(found) == 4
    assert torch.allclose(found.score, wanted, atol=1e-6)
    assert found.names[0] == f"photo 0, {listed[0][0]}"


@pytest.mark.parametrize("kind", KINDS)
def test_rules_are_complete_and_their_books_close(kind: str):
    task, x = task_of(kind), photos(kind)
    before = pickle.dumps(save(dict(task.model.state_dict())))
    lifted = abe.explain(task, x, "deeplift", **QUIET)
    assert float(lifted.residual_absolute.abs().max()) < 1e-8
    for name in ("lrp_epsilon", "lrp_composite", "lrp_z_plus"):
        found = abe.explain(task, x, name, **QUIET)
        assert float(found.diagnostics["closure"].abs().max()) < 1e-8
        assert bool(found.attribution.flatten(1).any(1).all())
    assert pickle.dumps(save(dict(task.model.state_dict()))) == before


@pytest.mark.parametrize("kind", KINDS)
def test_paths_reach_one_per_cent_where_they_are_asked_to(kind: str):
    # where kinks lie close together 1024 nodes may miss it, as at some seeds here, and the result says so
    found = abe.explain(task_of(kind), photos(kind, 1, seed=2), "ig", tolerance=0.01, **QUIET)
    assert float(found.residual.abs().max()) <= 0.01


@pytest.mark.parametrize("kind", ["tiny", "rcnn"])
def test_exact_shapley_is_brute_force(kind: str):
    task, x = task_of(kind), photos(kind, 1)
    h, w = x.shape[2:]
    grid = torch.zeros(1, h, w, dtype=torch.long)
    grid[:, h // 2 :], grid[:, :, w // 2 :] = 2, grid[:, :, w // 2 :] + 1
    grid[:, h // 2 :, w // 2 :] = 3
    found = abe.explain(task, x, "shapley", units=grid, removal="zero", **QUIET)
    own = task.detect(x)
    asked = {"box": own.boxes[0], "label": own[0].label}
    value = dict[tuple[bool, ...], float]()
    for number in range(16):
        kept = [bool(number >> unit & 1) for unit in range(4)]
        row = x * torch.tensor(kept)[grid][:, None]
        value[tuple(kept)] = float(_score(task, x, row, asked))
    for unit in range(4):
        total = 0.0
        for kept, score in value.items():
            if not kept[unit]:
                more = tuple(k or u == unit for u, k in enumerate(kept))
                total += (value[more] - score) * (0.25, 1 / 12, 1 / 12, 0.25)[sum(kept)]
        mine = float(found.attribution.sum(1)[grid == unit].sum())
        assert mine == pytest.approx(total, abs=1e-9)


def _score(task: Any, x: Tensor, row: Tensor, asked: dict[str, Any]) -> Tensor:
    """The score of a changed photograph at the box of the whole one, with its proposals."""
    lifted = task.lift(x, **asked)
    with torch.no_grad():
        return task.forward(row, lifted.context)[0, asked["label"]]


ALONG = [("tiny", one) for one in ("ig", "guided_ig", "mfaba", "rise", "smoothgrad")]


@pytest.mark.parametrize(("kind", "method"), [*ALONG, ("rcnn", "ig"), ("rcnn", "rise")])
def test_the_box_stays_the_same_box_along_every_path(kind: str, method: str, monkeypatch: Any):
    task, x, seen = task_of(kind), photos(kind), list[Tensor]()

    def looked(outputs: Any, context: Any) -> Tensor:
        seen.append(context.about[BOX].clone())
        return at_box(outputs, context)

    task.reads = looked
    few = {"rise": {"evaluations": 20}, "smoothgrad": {"samples": 2}}
    params = few.get(method, {"steps": 3})
    found = abe.explain(task, x, method, detection=[0, 1], **params, **QUIET)
    wanted = {tuple(box) for box in found.diagnostics[BOX].tolist()}
    assert len(wanted) == len(found) == 4
    assert {tuple(box) for boxes in seen for box in boxes.tolist()} == wanted
    alone = abe.explain(task, x[1:], method, detection=1, **params, **QUIET)
    if method == "ig":
        assert torch.allclose(alone.attribution[0], found.attribution[3], atol=1e-10)


@pytest.mark.parametrize("part", ["class", "box", "left", "bottom"])
def test_parts_are_read_from_one_candidate(part: str):
    task, x = named(), photos("tiny", 1)
    one = task.detect(x)[0]
    found = abe.explain(task, x, "ig", part=part, tolerance=0.01, **QUIET)
    box = found.diagnostics[BOX][0].tolist()
    wanted = {"class": one.probability, "box": 1.0, "left": box[0], "bottom": box[3]}
    assert float(found.score) == pytest.approx(wanted[part], abs=1e-6)
    assert found.target_names == [one.name]
    lifted = abe.explain(task, x, "deeplift", part=part, **QUIET)
    assert float(lifted.residual_absolute.abs().max()) < 1e-8


def test_rows_of_yolo_with_and_without_an_object_score():
    class Head(nn.Module):
        def __init__(self, width: int, turned: bool) -> None:
            super().__init__()
            self.width, self.turned = width, turned

        def forward(self, x: Tensor) -> Tensor:
            p = x.flatten(1)[:, :2, None].expand(-1, 2, self.width - 4)
            box = x.new_tensor([[2.0, 2.0, 4.0, 4.0], [6.0, 6.0, 2.0, 2.0]]).expand(len(x), 2, 4)
            rows = torch.cat([box, p], 2)
            return rows.transpose(1, 2) if self.turned else rows

    x = torch.full((1, 3, 8, 8), 0.5)
    for width, turned, score in ((6, False, 0.5), (7, False, 0.25), (7, True, 0.25)):
        task = abe.detection_task(Head(width, turned), ["cat", "dog"], threshold=0.2)
        found = task.detect(x)
        assert [one.box for one in found][:1] == [(0.0, 0.0, 4.0, 4.0)]
        assert found[0].probability == pytest.approx(score)


# --- what is asked -----------------------------------------------------------------------------------


def test_one_photograph_with_three_detections_is_three_samples():
    task, x = named(), photos("tiny", 1)
    found = abe.explain(task, x, "gradient", detection=[0, 2, 1], **QUIET)
    listed = task.detect(x)
    assert found.names == [f"photo 0, {listed[n]}" for n in (0, 2, 1)]
    assert torch.equal(found.x[0], found.x[2])
    nested = abe.explain(task, photos("tiny"), "gradient", detection=[[1], [0, 1]], **QUIET)
    assert [name[:7] for name in nested.names] == ["photo 0", "photo 1", "photo 1"]


def test_an_object_that_was_missed_is_asked_about_by_box_and_label():
    found = abe.explain(named(), photos("tiny", 1), "gradient", box=(3, 4, 20, 22), label="hen", **QUIET)
    assert found.names == ["photo 0, hen at 3 4 20 22"]
    assert found.target_names == ["hen"]
    several = abe.explain(named(), photos("tiny", 1), "gradient", box=[(3, 4, 20, 22), (0, 0, 9, 9)], **QUIET)
    assert len(several) == 2
    outputs = abe.explain(named(), photos("tiny", 1), "gradient", box=(3, 4, 20, 22), **QUIET)
    assert outputs.target_names == [outputs.top[0][0][0]]


def test_another_class_at_a_detection():
    one = named().detect(photos("tiny", 1))[0]
    other = next(name for name in LABELS if name != one.name)
    found = abe.explain(named(), photos("tiny", 1), "gradient", label=other, **QUIET)
    assert found.names == [f"photo 0, {other} for {one}"]
    assert float(found.score) < one.probability


def test_nothing_found_is_an_answer(tmp_path: Path):
    task = named(threshold=1.0)
    found = abe.explain(task, photos("tiny"), "ig", **QUIET)
    assert len(found) == 0
    assert found.shape == (0, 3, 32, 32)
    assert sum(Code.NOTHING_FOUND in text for text in found.warnings) == 2
    assert "0 samples" in str(found)
    assert found.blank_names == ["photo 0", "photo 1"]
    titles = [axes.get_title() for axes in found.plot(tmp_path / "none.png").axes]
    assert titles == ["photo 0: nothing found", "photo 1: nothing found"]
    again = abe.Explanation.load(found.save(tmp_path / "saved"))
    assert again.blank_names == found.blank_names
    assert torch.equal(again.blank, found.blank)
    assert abe.explain_game(task, photos("tiny"), ["shapley"], progress=False)[0].names == []
    for run in (abe.attack, abe.compare):
        with pytest.raises(AbeError) as caught:
            run(task, photos("tiny"), **QUIET)
        assert caught.value.code is Code.EMPTY_BATCH


def test_photographs_with_and_without_detections_in_one_call(tmp_path: Path):
    task, x = named(), photos("tiny", 2)
    most = [max(one.probability for one in own) for own in task.detect(x)]
    some = named(threshold=sum(most) / 2)
    found = abe.explain(some, x, "gradient", **QUIET)
    assert len(found) == 1
    assert len(found.blank_names) == 1
    found.plot(tmp_path / "both.png")
    joined = abe.Explanation.join([found, found])
    assert joined.blank_names == found.blank_names * 2
    assert abe.Explanation.load(joined.save(tmp_path / "joined")).blank.shape[0] == 2


def test_localisation_reads_the_explained_box_and_says_so():
    task, x = named(), photos("tiny", 1)
    box = (4.0, 4.0, 12.0, 20.0)
    given = torch.zeros(1, 1, 32, 32, dtype=torch.float64)
    given[0, 0, 4:20, 4:12] = 1.0
    mine = abe.Explanation.from_array(given, x, target=1, modality="detection")
    metrics = ["pointing_game", "energy_in_box"]
    found = abe.evaluate(task, {"map": mine}, data=x, metrics=metrics, box=box, label=1, **QUIET)
    assert [float(found.scores["map"][name].mean) for name in metrics] == [1.0, 1.0]
    assert any(Code.ASKED_REGION in text for text in found.origins["map"].warnings)
    own = torch.zeros(1, 32, 32)
    own[0, 20:, 20:] = 1
    other = abe.evaluate(task, {"map": mine}, data=x, metrics=metrics, masks=own, box=box, label=1, **QUIET)
    assert float(other.scores["map"]["pointing_game"].mean) == 0.0
    assert not any(Code.ASKED_REGION in text for text in other.origins["map"].warnings)


def test_explanations_hold_what_is_needed_to_measure_them():
    task, x = named(), photos("tiny", 1)
    found = abe.explain(task, x, "gradient", detection=[0, 1], **QUIET)
    alone = abe.evaluate(task, {"map": found}, metrics=["deletion"], **QUIET)
    again = abe.evaluate(task, {"map": found}, data=x, detection=[0, 1], metrics=["deletion"], **QUIET)
    assert torch.equal(alone.scores["map"]["deletion"].values, again.scores["map"]["deletion"].values)


def test_an_attack_makes_a_detection_disappear():
    task, x = named(threshold=0.3), photos("tiny", 1)
    won = abe.attack(task, x, "pgd", eps=0.5, steps=20, **QUIET)
    assert bool(won.success.all())
    box = task.detect(x).boxes[0]
    after = abe.explain(task, won.x_adv, "gradient", box=box, label=won.label, **QUIET)
    assert float(after.score) <= 0.3 * 0.5


# --- what is refused ---------------------------------------------------------------------------------


def test_a_detection_that_does_not_exist_says_how_many_there_are():
    count = len(named().detect(photos("tiny", 1)))
    refused(Code.REGION, f"{count} detections", f"0 to {count - 1}", x=photos("tiny", 1), detection=count)
    refused(Code.REGION, "number -1", detection=-1)
    refused(Code.BAD_PARAMETER, "'most'", detection="most")
    refused(Code.BAD_PARAMETER, "2 lists for 2 photographs", detection=[[0]])


@pytest.mark.parametrize(
    ("box", "part"),
    [
        ((40, 40, 50, 50), "outside"),
        ((-9, 0, 0, 5), "outside"),
        ((9, 9, 3, 12), "holds nothing"),
        ((1, 2, 3), "one for all"),
        ((1, 2, 3, float("nan")), "holds nothing"),
        ("here", "one for all"),
        ([(0, 0, 4, 4)] * 3, "2 of these"),
    ],
)
def test_boxes_that_are_none(box: Any, part: str):
    refused(Code.REGION, part, box=box, label="cat")


def test_labels_that_do_not_exist():
    refused(Code.TARGET_RANGE, "zebra", label="zebra")
    refused(Code.TARGET_RANGE, "0 to 3", label=9)
    refused(Code.TARGET_RANGE, "background", task=task_of("ssd"), x=photos("ssd"), label=0)
    with pytest.raises(AbeError, match="5 names"):
        abe.detection_task(network("retinanet"), ["a", "b", "c", "d", "e"])
    assert task_of("ssd", labels=["a", "b", "c"]).labels == ["__background__", "a", "b", "c"]


def test_questions_that_contradict_each_other():
    refused(Code.BAD_PARAMETER, "at once", box=(0, 0, 4, 4), detection=0)
    refused(Code.BAD_PARAMETER, "corner", part="corner")
    refused(Code.UNKNOWN_PARAMETER, "boxes", boxes=3)
    with pytest.raises(AbeError) as caught:
        abe.attack(named(), photos("tiny"), "pgd", part="left", **QUIET)
    assert caught.value.code is Code.OBJECTIVE


def test_models_that_are_no_detectors():
    with pytest.raises(AbeError) as caught:
        abe.detection_task(Tiny())
    assert caught.value.code is Code.LABELS
    refused(Code.OUTPUT_SHAPE, "no table of boxes", task=abe.detection_task(Tiny().double(), ["a"]))
    refused(
        Code.OUTPUT_SHAPE, "boxes", task=abe.detection_task(Tiny().double(), dense=lambda out: out["boxes"])
    )
    logits = abe.detection_task(Tiny().double(), dense=lambda out: (out["boxes"], 9 * out["logits"] + 5))
    refused(Code.OUTPUT_KIND, "no probabilities", task=logits)


def test_photographs_of_several_sizes_and_depths():
    sizes = [Image.new("RGB", (32, 32)), Image.new("RGB", (40, 32))]
    refused(Code.SHAPE, "one size", x=sizes)
    deep = np.linspace(0, 65535, 32 * 32).astype(np.uint16).reshape(32, 32)
    for picture in (
        Image.new("L", (32, 32), 99),
        Image.new("RGBA", (32, 32), (9, 9, 9, 0)),
        Image.fromarray(deep),
    ):
        found = abe.explain(named(), picture, "gradient", box=(0, 0, 9, 9), label="cat", **QUIET)
        assert found.x.shape == (1, 3, 32, 32)


def test_suppression_keeps_the_first_of_each_label():
    boxes = torch.tensor([[0.0, 0, 4, 4], [0, 0, 4, 3], [0, 0, 4, 3], [8, 8, 9, 9]])
    p, labels = torch.tensor([0.5, 0.9, 0.7, 0.9]), torch.tensor([0, 0, 1, 0])
    assert suppressed(boxes, p, labels, 0.5, 9).tolist() == [1, 3, 2]
    assert suppressed(boxes, p, labels, 0.8, 2).tolist() == [1, 3]
    assert float(overlaps(boxes[0], boxes[1])) == 0.75


def test_a_two_stage_detector_needs_its_photographs_again():
    task, x = task_of("rcnn"), photos("rcnn")
    found = abe.explain(task, x, "gradient", **QUIET)
    with pytest.raises(AbeError) as caught:
        abe.evaluate(task, {"map": found}, metrics=["deletion"], **QUIET)
    assert "data=" in str(caught.value)


# --- all methods -------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_method_gives_a_finite_map_or_says_why_not(kind: str):
    task, x = task_of(kind), photos(kind)
    ran, said = list[str](), dict[str, str]()
    for entry in abe.registry.methods.entries():
        if entry.required() or "training" in entry.card.needs:
            continue
        few = {"evaluations": 40, "samples": 4, "steps": 4, "rounds": 2}
        params = {name: number for name, number in few.items() if name in entry.parameters()}
        try:
            found = abe.explain(task, x, entry.name, **params, **QUIET)
        except AbeError as problem:
            said[entry.name] = str(problem.code)
            continue
        assert bool(torch.isfinite(found.attribution).all()), entry.name
        assert found.attribution.shape == found.x.shape
        ran.append(entry.name)
    print(kind, len(ran), "ran;", said)
    assert len(ran) > 50
