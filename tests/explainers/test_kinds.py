"""Every method of the paper's Table II on every kind of model of its Table IV."""

import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from studies.demo1 import (
    BEGIN,
    END,
    FEW,
    METHODS,
    PAGE,
    Case,
    Pictures,
    Recurrent,
    Towers,
    Words,
    cases,
    method,
    outcome,
    table,
)
from torch import Tensor, nn

import abe
from abe.explainers import IG, M2IB, RISE, SM, Explainer, ExplanationTask, GradCAM, ModelType

CASES = cases()
CLASSES = {"BIG", "AGI", "LA"}
PLACES = {"RISE", "Grad-CAM", "Chefer et al."}
REFUSED = {
    "image": set[str](),
    "text": {"M2IB"},
    "multimodal": CLASSES | PLACES,
    "multimodal, image": CLASSES | {"Chefer et al."},
    "detection": CLASSES | {"Chefer et al."},
}
"""Methods that need classes, positions side by side, attention or two towers, where there are none."""


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("kind", CASES)
def test_a_method_runs_or_says_why_not(kind: str, name: str) -> None:
    mark, said = outcome(name, CASES[kind])
    if name in REFUSED[kind]:
        assert re.fullmatch(r"\[(ABE-[A-Z-]+)\]\(errors\.md#abe-[a-z-]+\)", mark), (mark, said)
        assert mark[1:].partition("]")[0] in said
    else:
        assert mark == "runs", said


@pytest.mark.slow
def test_the_page_holds_the_table_that_its_command_makes() -> None:
    assert PAGE.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0] == table()


@pytest.mark.parametrize("name", METHODS)
def test_on_images_a_method_is_that_of_an_image_task(name: str) -> None:
    case = CASES["image"]
    x, y = case.batch[0].double(), case.batch[1]
    network = next(one for one in case.task.task.model.children() if isinstance(one, Pictures))
    params = {**FEW.get(name, {}), **({"layers": case.towers} if name == "M2IB" else {})}
    network.double()  # in float32 searches such as ISA magnify what chunks of other sizes round
    try:
        theirs = abe.explain(
            abe.image_task(network), x, METHODS[name].of, target=y, seed=3, progress=False, **params
        )
        ours = method(name, case)([x, y], seed=3, progress=False)
    finally:
        network.float()
    largest = max(1.0, float(theirs.attribution.abs().max()))
    np.testing.assert_allclose(ours.attribution, theirs.attribution, atol=1e-9 * largest)
    assert ours.cost.forward_rows <= theirs.cost.forward_rows + 1


# --- text ---------------------------------------------------------------------------------------------


def text_task(network: nn.Module, **how: int) -> ExplanationTask:
    return ExplanationTask(
        lambda batch: F.cross_entropy(network(batch[0]), batch[1]),
        lambda batch: network(batch[0]),
        ModelType.NLPCLASSIFICATION,
        **how,
    )


x, y = torch.randn(3, 7, 6), torch.tensor([1, 0, 1])


@pytest.mark.parametrize("network", [Words, Recurrent])
def test_a_text_has_a_map_of_its_embeddings_and_tokens_are_positions(network: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model = network().eval()
    made = IG(text_task(model), steps=64)([x, y], progress=False)
    assert made.attribution.shape == made.x.shape == x.shape
    assert torch.equal(made.x, x)
    assert torch.equal(made.map(), made.attribution.sum(2))
    log_p = [F.log_softmax(model(one), 1).gather(1, y[:, None])[:, 0] for one in (x, torch.zeros_like(x))]
    np.testing.assert_allclose(made.attribution.sum((1, 2)), (log_p[0] - log_p[1]).detach(), atol=2e-3)
    assert made[1:2].map().shape == (1, 7)


def test_a_method_over_positions_sees_tokens() -> None:
    torch.manual_seed(0)
    model = Words().eval()
    rise = RISE(text_task(model), evaluations=32, cells=4)([x, y], progress=False)
    assert torch.equal(rise.attribution, rise.attribution[:, :, :1].expand_as(x))
    assert rise.standard_error is not None
    assert rise.standard_error.shape == x.shape
    cam = GradCAM(text_task(model), layer="convolution")([x, y], progress=False)
    assert torch.equal(cam.attribution, cam.attribution[:, :, :1].expand_as(x))


def test_removal_of_pixels_is_removal_of_tokens() -> None:
    torch.manual_seed(0)
    model = Words().eval()
    made = Explainer(text_task(model), "occlusion", units="pixel")([x, y], progress=False)

    def score(given: Tensor) -> Tensor:
        return F.log_softmax(model(given), 1).gather(1, y[:, None])[:, 0].detach()

    for token in range(x.shape[1]):
        without = x.clone()
        without[:, token] = 0
        np.testing.assert_allclose(made.map()[:, token], score(x) - score(without), atol=1e-5)


def test_channels_first_text_is_asked_for() -> None:
    torch.manual_seed(0)
    model = Words().eval()
    turned = x.transpose(1, 2).contiguous()
    task = ExplanationTask(
        lambda batch: F.cross_entropy(model(batch[0].transpose(1, 2)), batch[1]),
        lambda batch: model(batch[0].transpose(1, 2)),
        ModelType.NLPCLASSIFICATION,
        channels=1,
    )
    ours = SM(task)([turned, y], progress=False)
    assert ours.attribution.shape == turned.shape
    np.testing.assert_allclose(ours.map(), SM(text_task(model))([x, y], progress=False).map(), atol=1e-6)


def test_a_text_explanation_is_saved_with_its_channels(tmp_path: object) -> None:
    made = SM(text_task(Words().eval()))([x, y], progress=False)
    again = abe.Explanation.load(made.save(f"{tmp_path}/text"))
    assert torch.equal(again.map(), made.map())


def test_tokens_are_refused_with_what_to_do() -> None:
    embedding, model = nn.Embedding(10, 6), Words()
    task = ExplanationTask(
        lambda batch: F.cross_entropy(model(embedding(batch[0])), batch[1]),
        model_type=ModelType.NLPCLASSIFICATION,
    )
    with pytest.raises(abe.AbeError, match=r"embeddings.*ABE-DTYPE"):
        IG(task)([torch.randint(10, (3, 7)), y])


# --- several inputs -----------------------------------------------------------------------------------


def pair_case(batch: object, **how: object) -> tuple[Towers, ExplanationTask]:
    torch.manual_seed(0)
    towers = Towers().eval()

    def both(batch: object) -> Tensor:
        given = (
            batch if isinstance(batch, dict) else batch[0] if isinstance(batch[0], dict | tuple) else batch
        )  # type: ignore[index]
        image, text = (given["image"], given["text"]) if isinstance(given, dict) else given[:2]
        return torch.diag(towers(image, text))

    task = ExplanationTask(lambda batch: -both(batch).mean(), both, ModelType.MULTIMODAL, **how)  # type: ignore[arg-type]
    return towers, task


image, text = torch.rand(3, 3, 12, 12), torch.randn(3, 5, 6)
BATCHES = {
    "a dict": ({"image": image, "text": text}, ("image", "text"), ("image", "text")),
    "a dict inside": ([{"image": image, "text": text}], None, ("image", "text")),
    "a tuple inside": ([(image, text)], None, (0, 1)),
    "a list": ([image, text], (0, 1), (0, 1)),
}


@pytest.mark.parametrize("form", BATCHES)
def test_several_entries_are_explained_together(form: str) -> None:
    batch, explained, names = BATCHES[form]
    towers, task = pair_case(batch, explained=explained)
    made = SM(task)(batch, progress=False).unpack()
    leaves = image.clone().requires_grad_(True), text.clone().requires_grad_(True)
    expected = torch.autograd.grad(torch.diag(towers(*leaves)).sum(), leaves)
    for name, one in zip(names, expected, strict=True):
        np.testing.assert_allclose(made[name], one, atol=1e-6)


def test_one_entry_is_explained_and_the_other_goes_along() -> None:
    towers, task = pair_case(None, explained="text")
    made = SM(task)({"image": image, "text": text}, progress=False)
    leaf = text.clone().requires_grad_(True)
    (expected,) = torch.autograd.grad(torch.diag(towers(image, leaf)).sum(), leaf)
    np.testing.assert_allclose(made.attribution, expected, atol=1e-6)


def test_bits_of_both_towers() -> None:
    _, task = pair_case(None, explained=("image", "text"))
    made = M2IB(task, layers={"image": "image", "text": "text"}, steps=3, samples=2)(
        {"image": image, "text": text}, progress=False
    ).unpack()
    assert made["image"].shape == image.shape
    assert made["text"].shape == text.shape
    assert bool((made["image"].abs().flatten(1).sum(1) > 0).all())
    assert bool((made["text"].abs().flatten(1).sum(1) > 0).all())


def test_entries_with_the_same_places_lie_along_channels() -> None:
    """So that methods over places see both at once."""
    network = nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(200, 1)).eval()
    task = ExplanationTask(
        lambda batch: -(network(batch[0]) + 2 * network(batch[1])).sum(),
        lambda batch: network(batch[0]) + 2 * network(batch[1]),
        ModelType.MULTIMODAL,
        explained=(0, 1),
    )
    pair = [torch.rand(2, 3, 12, 12), torch.rand(2, 3, 12, 12)]
    made = SM(task)(pair, progress=False).unpack()
    for place, one in enumerate(pair):
        leaf = one.clone().requires_grad_(True)
        (expected,) = torch.autograd.grad((1 + place) * network(leaf).sum(), leaf)
        np.testing.assert_allclose(made[place], expected, atol=1e-6)
    shown = RISE(task, evaluations=8, cells=3)(pair, progress=False).unpack()
    assert torch.equal(shown[0], shown[1])


def test_two_candidates_are_not_chosen_between() -> None:
    _, task = pair_case(None)
    for batch in ([image, text], {"image": image, "text": text}):
        with pytest.raises(abe.AbeError, match=r"not clear which entries.*explained="):
            SM(task)(batch)


def test_maps_of_a_case_are_those_of_each_sample_alone() -> None:
    for kind, case in CASES.items():
        together = np.asarray(method("IG", case)(case.batch, progress=False))
        alone = np.asarray(method("IG", case)(_first(case), progress=False))
        np.testing.assert_allclose(alone[0], together[0], atol=1e-5, err_msg=kind)


def _first(case: Case) -> object:
    if isinstance(case.batch, dict):
        return {key: one[:1] for key, one in case.batch.items()}
    return [one[:1] for one in case.batch]


def test_differences_through_a_detector_and_its_loss_are_complete() -> None:
    for kind in ("detection", "multimodal", "text"):
        made = method("DeepLIFT", CASES[kind])(CASES[kind].batch, progress=False)
        np.testing.assert_allclose(made.residual, np.zeros(2), atol=1e-4, err_msg=kind)
