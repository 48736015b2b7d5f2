"""A text beside other inputs: its embedding stands in, words are units, special tokens and padding stay."""

from itertools import combinations
from math import factorial
from typing import Any

import pytest
import torch
from tests.task.text.texts import Tokenizer, weights
from torch import Tensor, nn

import abe
from abe.errors import AbeError, Code
from abe.task.lifted import FIXED

TEXTS = ["a charming film", "not dull"]


class Two(nn.Module):
    """A convolution over an image and a bag of embeddings, read together."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.embed = nn.Conv2d(3, 4, 3, padding=1), nn.Embedding(20, 6)
        self.head = nn.Linear(10, 3)

    def joined(self, image: Tensor, vectors: Tensor, mask: Tensor) -> Tensor:
        read = (vectors * mask[:, :, None].to(vectors)).sum(1).tanh()
        return self.head(torch.cat([self.conv(image).relu().mean((2, 3)), read], 1).sin())

    def forward(self, image: Tensor, text: Tensor, attention_mask: Tensor) -> Tensor:
        return self.joined(image, self.embed(text), attention_mask)


class Mixed(nn.Module):
    """Inputs by place, without a mask, and one that is passed along."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(20, 4), nn.Linear(6, 2)

    def forward(self, meta: Tensor, text: Tensor, scale: Tensor) -> Tensor:
        return self.head(torch.cat([meta, self.table(text).sum(1)], 1)) * scale[:, None]


def task_of(net: type[nn.Module] = Two, **how: Any) -> abe.Task:
    return abe.make_task(weights(net()), {"image": abe.image(), "text": abe.text(Tokenizer(), **how)})


def given(b: int = 2, size: int = 2) -> dict[str, Any]:
    made = torch.Generator().manual_seed(0)
    return {"image": torch.rand(b, 3, size, size, generator=made, dtype=torch.float64), "text": TEXTS[:b]}


def explained(raw: Any, method: Any = "ig", task: abe.Task | None = None, **how: Any) -> abe.Explanation:
    return abe.explain(task or task_of(), raw, method, target=1, progress=False, **how)


def test_the_gradient_is_that_of_the_model_by_hand() -> None:
    found = explained(given(), "gradient_x_input")
    net, tokens = weights(Two()), Tokenizer()
    for place, text in enumerate(TEXTS):
        image = given()["image"][place : place + 1].requires_grad_()
        ids = torch.tensor([tokens(text)["input_ids"]])
        vectors = net.embed(ids).detach().requires_grad_()
        net.joined(image, vectors, torch.ones_like(ids))[0, 1].backward()
        assert image.grad is not None
        assert vectors.grad is not None
        torch.testing.assert_close(found.part("image")[place], (image.grad * image)[0].detach())
        right = (vectors.grad * vectors)[0].detach().T
        torch.testing.assert_close(found.part("text")[place, :, : right.shape[1]], right)


def test_paths_are_complete_and_leave_special_tokens_and_padding_alone() -> None:
    found = explained(given(), tolerance=0.01)
    assert found.residual is not None
    assert float(found.residual.abs().max()) <= 0.01
    text = found.part("text").sum(1)
    assert text[0, [0, -1]].tolist() == [0, 0]
    assert text[1, [0]].tolist() == [0]
    assert text[1, 3:].tolist() == [0, 0, 0]
    assert bool((text[1, 1:3] != 0).all())
    assert [name for name, _ in found.by_unit()[1]][-2:] == ["text not", "text dull"]


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    both = explained(given(), "shapley")
    for place in range(2):
        raw = given()
        alone = explained({"image": raw["image"][place : place + 1], "text": TEXTS[place]}, "shapley")
        assert [v for _, v in both.by_unit()[place]] == pytest.approx(
            [v for _, v in alone.by_unit()[0]], abs=1e-12
        )


def test_shapley_values_are_those_of_brute_force_over_cells_and_words() -> None:
    found = explained(given(1), "shapley")
    net, tokens = weights(Two()), Tokenizer()
    ids = torch.tensor([tokens(TEXTS[0])["input_ids"]])
    words = [[1], [2, 3], [4]]  # a, charm ##ing, film
    mask = net.embed(torch.tensor(tokens.vocab["[MASK]"])).detach()

    def score(kept: tuple[int, ...]) -> float:
        image, vectors = given(1)["image"].clone(), net.embed(ids).detach().clone()
        for cell in range(4):
            if cell not in kept:
                image[0, :, cell // 2, cell % 2] = 0
        for number, places in enumerate(words):
            if 4 + number not in kept:
                vectors[0, places] = mask
        return float(net.joined(image, vectors, torch.ones_like(ids))[0, 1].detach())

    n = 7
    scores = {kept: score(kept) for size in range(n + 1) for kept in combinations(range(n), size)}
    right = []
    for unit in range(n):
        others = [one for one in range(n) if one != unit]
        gains = 0.0
        for size in range(n):
            share = factorial(size) * factorial(n - 1 - size) / factorial(n)
            for kept in combinations(others, size):
                gains += share * (scores[tuple(sorted((*kept, unit)))] - scores[kept])
        right.append(gains)
    assert [value for _, value in found.by_unit()[0]] == pytest.approx(right, abs=1e-12)
    whole = explained(given(1), "shapley", units="input")
    parts = [whole.part(name).sum() for name in ("image", "text")]
    assert float(sum(parts)) == pytest.approx(scores[tuple(range(n))] - scores[()], abs=1e-12)


def test_inputs_by_place_with_one_that_is_passed_along() -> None:
    readings = {0: abe.columns(["age", "dose"]), 1: abe.text(Tokenizer())}
    task = abe.make_task(weights(Mixed()), readings)
    raw = (torch.tensor([[1.0, 2.0]]).double(), "slow , dull film", torch.tensor([2.0]).double())
    found = explained(raw, "ig", task)
    assert found.part(1).sum(1).shape == (1, 6)
    assert found.residual is not None
    assert float(found.residual.abs().max()) < 1e-9  # a sum of vectors and a linear head


class Trace(nn.Module):
    """Recurrences over tokens and over a trace, neither of them told of padding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.read = nn.Embedding(20, 4), nn.GRU(4, 3, batch_first=True)
        self.follow, self.head = nn.GRU(2, 3, batch_first=True), nn.Linear(8, 3)

    def forward(self, meta: Tensor, text: Tensor, trace: Tensor) -> Tensor:
        read, followed = self.read(self.embed(text))[0], self.follow(trace)[0]
        return self.head(torch.cat([meta, read[:, -1], followed.mean(1)], 1))


SAMPLES = [(TEXTS[0], 4), (TEXTS[1], 7), ("slow , dull film", 5)]


def traced() -> tuple[abe.Task, dict[str, Any]]:
    readings = {"meta": abe.columns(), "text": abe.text(Tokenizer()), "trace": abe.series("btc")}
    made = torch.Generator().manual_seed(0)
    meta, *traces = (torch.randn(n, 2, generator=made, dtype=torch.float64) for n in (3, 4, 7, 5))
    raw = {"meta": meta, "text": [text for text, _ in SAMPLES], "trace": traces}
    return abe.make_task(weights(Trace()), readings, output_kind="logits"), raw


@pytest.mark.parametrize("method", ["ig", "smoothgrad", "occlusion", "shapley", "deeplift", "lime"])
def test_samples_of_different_lengths_are_explained_as_each_is_alone(method: str) -> None:
    task, raw = traced()
    together = explained(raw, method, task)
    for place in range(len(SAMPLES)):
        alone = explained({name: each[place : place + 1] for name, each in raw.items()}, method, task)
        torch.testing.assert_close(together.score[place], alone.score[0], atol=1e-12, rtol=0)
        for name in raw:
            whole, own = together.part(name)[place], alone.part(name)[0]
            rest = whole.clone()
            inside = tuple(slice(size) for size in own.shape)
            torch.testing.assert_close(whole[inside], own, atol=1e-10, rtol=0)
            rest[inside] = 0
            assert not rest.any()
        assert [n for n, _ in together.by_unit()[place]] == [n for n, _ in alone.by_unit()[0]]


def test_curves_and_attacks_run_each_sample_at_its_length() -> None:
    task, raw = traced()
    found = abe.compare(task, raw, ["gradient_x_input"], ["insertion", "deletion"], progress=False)
    moved = abe.attack(task, raw, "pgd", eps=0.1, steps=2, progress=False)
    for place in range(len(SAMPLES)):
        one = {name: each[place : place + 1] for name, each in raw.items()}
        alone = abe.compare(task, one, ["gradient_x_input"], ["insertion", "deletion"], progress=False)
        for name in ("insertion", "deletion"):
            values = [each.scores["gradient_x_input"][name].values for each in (found, alone)]
            torch.testing.assert_close(values[0][place], values[1][0], atol=1e-10, rtol=0)
        own = abe.attack(task, one, "pgd", eps=0.1, steps=2, progress=False)
        assert bool(moved.success[place] == own.success[0])


def test_an_attack_moves_neither_special_tokens_nor_padding() -> None:
    task = task_of()
    found = abe.attack(task, given(), "pgd", eps=0.3, progress=False)
    fixed = task.lift(given()).context.about[FIXED]
    assert torch.equal(found.x_adv[fixed], found.x[fixed])
    assert not torch.equal(found.x_adv, found.x)


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.other, self.head = nn.Embedding(20, 4), nn.Embedding(20, 4), nn.Linear(8, 2)

    def forward(self, question: Tensor, answer: Tensor) -> Tensor:
        return self.head(torch.cat([self.one(question).sum(1), self.other(answer).sum(1)], 1).tanh())


def test_two_texts_each_with_its_named_embedding() -> None:
    raw = {"question": "not dull", "answer": "a slow film"}
    unnamed = abe.make_task(
        weights(Pair()), {"question": abe.text(Tokenizer()), "answer": abe.text(Tokenizer())}
    )
    with pytest.raises(AbeError, match="several texts") as caught:
        explained(raw, "ig", unnamed)
    assert caught.value.code is Code.EMBEDDING
    named = {"question": ("one", Tokenizer()), "answer": ("other", Tokenizer())}
    task = abe.make_task(
        weights(Pair()), {name: abe.text(tokens, embedding=e) for name, (e, tokens) in named.items()}
    )
    found = explained(raw, "shapley", task)
    assert [name for name, _ in found.by_unit()[0]] == [
        *("question not", "question dull", "answer a", "answer slow", "answer film")
    ]
    assert found.residual is not None
    assert float(found.residual.abs().max()) < 1e-12


class OneMask(Pair):
    def forward(self, question: Tensor, answer: Tensor, attention_mask: Tensor) -> Tensor:
        return super().forward(question, answer)


def test_one_mask_for_two_texts_is_refused() -> None:
    readings = {
        "question": abe.text(Tokenizer(), embedding="one"),
        "answer": abe.text(Tokenizer(), embedding="other"),
    }
    task = abe.make_task(weights(OneMask()), readings)
    with pytest.raises(AbeError, match="one 'attention_mask' for several") as caught:
        explained({"question": "not dull", "answer": "a film"}, "ig", task)
    assert caught.value.code is Code.SHAPE


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"text": ""}, Code.EMPTY_BATCH),
        ({"text": TEXTS}, Code.SHAPE),
        ({"text": torch.tensor([[99, 1]])}, Code.TOKENIZER),
        ({"text": None}, None),
        ({"image": torch.full((1, 3, 2, 2), 2.0).double()}, Code.OUT_OF_BOUNDS),
        ({"strange": torch.zeros(1)}, Code.SHAPE),
    ],
)
def test_bad_inputs_are_refused_in_words(change: dict[str, Any], code: Code | None) -> None:
    with pytest.raises(AbeError) as caught:
        explained({**given(1), **change}, "gradient")
    assert code is None or caught.value.code is code


def test_what_the_outputs_are_is_no_setting_of_one_text() -> None:
    with pytest.raises(AbeError, match="no labels=") as caught:
        abe.text(Tokenizer(), labels=["a"])
    assert caught.value.code is Code.UNKNOWN_PARAMETER
