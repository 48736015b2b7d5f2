"""Image and text confidence on a two-tower network small enough to compute by hand."""

import math

import pytest
import torch
from tests.metrics.common import mapped
from tests.task.text.texts import MODELS, Tokenizer, weights
from torch import Tensor, nn

import abe
from abe.engines.runtime.evaluator import Evaluator
from abe.engines.runtime.problem import Problem
from abe.engines.runtime.request import pose
from abe.engines.runtime.targets import Decision
from abe.errors import AbeError, Code
from abe.metrics import as_metric
from abe.metrics.evaluation.book import measure
from abe.task.base import Context, Lifted, Task

TOKENS, SIZE = 6, 4


class TwoTowers(nn.Module):
    """Cosine similarity of the image's channel means and the mean of the attended token embeddings."""

    def __init__(self, explained: str) -> None:
        super().__init__()
        self.head = nn.Parameter(torch.randn(SIZE, 3, generator=torch.Generator().manual_seed(2)).double())
        self.explained = explained

    def similarity(self, image: Tensor, embeddings: Tensor, attended: Tensor) -> Tensor:
        """(n, 1) of pairs."""
        seen = image.mean((2, 3)) @ self.head.T
        weights = attended.to(embeddings)[:, :, None]
        read = (embeddings * weights).sum(1) / weights.sum(1).clamp_min(1e-9)
        return torch.cosine_similarity(seen, read, dim=1)[:, None]

    def forward(self, x: Tensor, other: Tensor, attention_mask: Tensor, special: Tensor) -> Tensor:
        image, text = (x, other) if self.explained == "image" else (other, x.transpose(1, 2))
        return self.similarity(image, text, attention_mask)


def data(b: int) -> dict[str, Tensor]:
    rows = [torch.Generator().manual_seed(40 + i) for i in range(b)]
    attended = torch.ones(b, TOKENS, dtype=torch.long)
    attended[1::2, -1] = 0  # padding
    special = torch.zeros(b, TOKENS, dtype=torch.bool)
    special[:, 0] = True
    return {
        "image": torch.stack([torch.rand(3, 5, 5, generator=g, dtype=torch.float64) for g in rows]),
        "text": torch.stack([torch.randn(TOKENS, SIZE, generator=g, dtype=torch.float64) for g in rows]),
        "attention_mask": attended,
        "special": special,
    }


def given(explained: str, rows: slice = slice(0, 4), **how) -> Problem:
    """A problem about one of the two inputs, the other one in the context."""
    all_data = {k: v[rows] for k, v in data(4).items()}
    mean = torch.full((1, 3, 1, 1), 0.4, dtype=torch.float64) if explained == "image" else None
    model = TwoTowers(explained)
    task = Task(model=model, modality=explained, lifter=None, mean=mean, output_kind="regression")
    x, other = all_data[explained], all_data["text" if explained == "image" else "image"]
    x = x.transpose(1, 2) if explained == "text" else x  # features have their channels first
    values = {"other": other, "attention_mask": all_data["attention_mask"], "special": all_data["special"]}
    evaluator = Evaluator(task, execution="model", **how)
    made = pose(evaluator, Lifted(x, Context(values), []))
    made.decision = Decision(torch.zeros(len(x), dtype=torch.long))
    return made


def by_hand(whole: Tensor, kept: Tensor) -> tuple[list[float], list[float]]:
    drops = [100 * max(0.0, a - b) for a, b in zip(whole.tolist(), kept.tolist(), strict=True)]
    return drops, [100.0 if b > a else 0.0 for a, b in zip(whole.tolist(), kept.tolist(), strict=True)]


def test_an_image_is_multiplied_by_its_map_in_the_models_space():
    problem = given("image")
    maps = torch.rand(4, 1, 5, 5, generator=torch.Generator().manual_seed(7), dtype=torch.float64) - 0.3
    net, all_data = problem.task.model, data(4)
    mask = maps.clamp_min(0) / maps.amax((1, 2, 3), keepdim=True)
    seen = [(all_data["image"] - 0.4) * m for m in (torch.ones_like(mask), mask)]
    whole, kept = (net.similarity(i, all_data["text"], all_data["attention_mask"])[:, 0] for i in seen)
    drops, rises = by_hand(whole, kept)
    found = measure(problem, mapped(maps), [as_metric("icd"), as_metric("ici")])
    assert found["image_confidence_drop"].values.tolist() == pytest.approx(drops, abs=1e-9)
    assert found["image_confidence_increase"].values.tolist() == rises
    assert 0 < sum(rises) < 400
    assert problem.evaluator.cost.forward_rows == 8


def text_by_hand(maps: Tensor, *, special: bool) -> list[list[bool]]:
    """The words that go: not above the median of the attended words."""
    all_data, gone = data(4), []
    for i in range(4):
        score = maps[i].sum(1).tolist()
        words = [t for t in range(TOKENS) if all_data["attention_mask"][i, t]]
        words = [t for t in words if not (special and all_data["special"][i, t])]
        ordered = sorted(score[t] for t in words)
        n = len(ordered)
        median = ordered[n // 2] if n % 2 else (ordered[n // 2 - 1] + ordered[n // 2]) / 2
        gone.append([t in words and score[t] <= median for t in range(TOKENS)])
    return gone


@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize("form", ["attention", "token"])
def test_half_of_the_words_lose_their_attention_or_become_a_token(form, special):
    problem = given("text")
    generator = torch.Generator().manual_seed(8)
    maps = torch.randn(4, TOKENS, SIZE, generator=generator, dtype=torch.float64)
    token = torch.full((1, TOKENS, SIZE), 0.3, dtype=torch.float64)
    gone = torch.tensor(text_by_hand(maps, special=special))
    net, all_data = problem.task.model, data(4)
    image, text, attended = all_data["image"], all_data["text"], all_data["attention_mask"]
    whole = net.similarity(image, text, attended)[:, 0]
    if form == "attention":
        kept = net.similarity(image, text, attended * ~gone)[:, 0]
    else:
        kept = net.similarity(image, torch.where(gone[:, :, None], token, text), attended)[:, 0]
    drops, rises = by_hand(whole, kept)
    params = {"special": "special" if special else None, "removal": token.mT if form == "token" else None}
    found = measure(problem, mapped(maps.mT), [as_metric(("tcd", params)), as_metric(("tci", params))])
    assert found["text_confidence_drop"].values.tolist() == pytest.approx(drops, abs=1e-9)
    assert found["text_confidence_increase"].values.tolist() == rises
    assert problem.evaluator.cost.forward_rows == 8


@pytest.mark.parametrize("explained", ["image", "text"])
def test_a_row_does_not_depend_on_its_neighbours(explained):
    shape = (4, 3, 5, 5) if explained == "image" else (4, SIZE, TOKENS)
    maps = torch.randn(shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    maps[2] = 1.0  # ties: their order is drawn
    name = "icd" if explained == "image" else "tcd"
    whole = as_metric(name).value.measure(given(explained), mapped(maps))
    for size in (1, 2):
        for k in range(0, 4, size):
            rows = slice(k, k + size)
            part = as_metric(name).value.measure(given(explained, rows, chunk=1), mapped(maps[rows]))
            torch.testing.assert_close(part, whole[rows], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("name", "sign"), [("tcd", -1), ("tci", 1)])
def test_the_words_that_matter_beat_random_beat_the_rest(name, sign):
    """A text whose similarity is carried by its first three words."""
    problem = given("text")
    seen = data(4)["image"].mean((2, 3)) @ problem.task.model.head.T.detach()
    direction = seen / seen.norm(dim=1, keepdim=True)
    problem.x = torch.stack([direction, direction, direction, -direction, -direction, -direction], 2)
    problem.x = problem.x * torch.tensor([3.0, 2.5, 2.0, 0.3, 0.2, 0.1]).view(1, 1, -1)
    problem.x = problem.x + 0.5 * data(4)["text"].mT
    true = (problem.x * direction[:, :, None]).double()
    scores = []
    generators = [torch.Generator().manual_seed(s) for s in range(50)]
    orders = [torch.arange(TOKENS), *(torch.randperm(TOKENS, generator=g) for g in generators)]
    for order in orders:
        scores.append(sign * as_metric(name).value.measure(problem, mapped(true[:, :, order])).mean().item())
    inverted = sign * as_metric(name).value.measure(problem, mapped(-true)).mean().item()
    assert scores[0] > sum(scores[1:]) / 50 > inverted


def test_bad_requests_are_refused_before_computing():
    problem = given("text")
    maps = torch.ones(4, SIZE, TOKENS, dtype=torch.float64)
    for name, params, code in (
        ("tcd", {"attention": "mask"}, Code.MASK),
        ("tcd", {"special": "sep"}, Code.MASK),
        ("icd", {}, Code.UNSUPPORTED),
    ):
        with pytest.raises(AbeError) as caught:
            measure(problem, mapped(maps), [as_metric((name, params))])
        assert caught.value.code is code
    with pytest.raises(AbeError) as caught:
        measure(problem, mapped(maps * math.nan), [as_metric("tcd")])
    assert caught.value.code is Code.MAP_NOT_FINITE
    assert problem.evaluator.cost.forward_rows == 0


REMOVALS = [None, "attention", "delete", "reference_token"]


@pytest.mark.parametrize("net", ["Encoder", "TextCNN", "Bag"])
@pytest.mark.parametrize("removal", REMOVALS)
def test_text_confidence_of_a_text_task_is_that_of_its_reduced_text(net: str, removal: str | None) -> None:
    """Against rows made by hand: the lower half goes, special tokens stay, texts run as if alone."""
    task = abe.text_task(weights(MODELS[net]()), Tokenizer())
    texts = ["a charming film", "not dull"]
    found = abe.explain(task, texts, "gradient_x_input", target=1, progress=False)
    how = {"removal": removal}
    if removal == "attention" and net != "Encoder":
        with pytest.raises(AbeError, match="attention mask"):
            abe.evaluate(task, found, [("tcd", how)], data=texts, progress=False)
        return
    both = abe.evaluate(task, found, [("tcd", how), ("tci", how)], data=texts, progress=False)
    drops, rises = [], []
    for place, text in enumerate(texts):
        lifted = task.lift(text)
        t = lifted.x.shape[2]
        labels = lifted.units[0].labels[0, 0]
        score = found.attribution[place, :, :t].sum(0)
        words = (labels >= 0).nonzero().flatten()
        ordered = words[score[words].argsort(descending=True)]
        gone = ordered[len(ordered) // 2 :]
        x, values = lifted.x.clone(), dict(lifted.context.values)
        task.parts = lifted.parts
        kept = [i for i in range(t) if i not in gone.tolist()]
        if removal == "delete":
            x, values = x[:, :, kept], {k: v[:, kept] for k, v in values.items()}
        elif removal == "attention" or (removal is None and net == "Encoder"):
            values["attention_mask"] = values["attention_mask"].clone()
            values["attention_mask"][0, gone] = 0
        else:
            x[:, :, gone] = task.lifter.vector(task, "mask")[None, :, None]
        whole = task.forward(lifted.x, lifted.context)[0, 1].detach()
        changed = task.forward(x, Context(values))[0, 1].detach()
        drops.append(100 * max(0.0, float(whole - changed)))
        rises.append(100.0 if changed > whole else 0.0)
    (scores,) = both.scores.values()
    assert scores["text_confidence_drop"].values.tolist() == pytest.approx(drops, abs=1e-9)
    assert scores["text_confidence_increase"].values.tolist() == rises
