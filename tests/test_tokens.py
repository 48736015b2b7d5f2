"""Tokens of texts beside their words, and one of several inputs by itself."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import abe
from abe.errors import Code, InputError
from abe.report.looks import decision

PIECES = ["[pad]", "[mask]", "[end]", "not", "dull", "##ness", "film"]


class Tokenizer:
    """Words in pieces, and an end that is in no text."""

    pad_token_id, mask_token_id, eos_token_id, itos = 0, 1, 2, PIECES

    def __call__(self, text: str) -> list[int]:
        return [*(PIECES.index(word) for word in text.replace("dullness", "dull ##ness").split()), 2]


class Bag(nn.Module):
    """The score of a text is the sum over its tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(7, 4), nn.Linear(4, 2, bias=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """(n, 2) scores."""
        return self.head(self.embed(ids).sum(1))


class Both(nn.Module):
    """A picture and numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(12, 2), nn.Linear(2, 2)

    def forward(self, picture: torch.Tensor, person: torch.Tensor) -> torch.Tensor:
        """(n, 2) scores."""
        return self.a(picture.flatten(1)) + self.b(person)


@pytest.fixture(scope="module")
def bag() -> Any:
    torch.manual_seed(0)
    return Bag().eval()


@pytest.fixture(scope="module")
def texts(bag: Any) -> abe.Explanation:
    task = abe.text_task(bag, Tokenizer())
    return abe.explain(task, ["not dullness film", "film"], "gradient_x_input", target=0, progress=False)


@pytest.fixture(scope="module")
def several() -> abe.Explanation:
    torch.manual_seed(1)
    task = abe.make_task(Both().eval(), {"picture": abe.image(), "person": abe.columns(["age", "picture x"])})
    given = {"picture": torch.rand(2, 3, 2, 2), "person": torch.rand(2, 2)}
    return abe.explain(task, given, "ig", progress=False)


def test_a_token_is_the_product_of_its_vector_with_the_weights(bag: Any, texts: abe.Explanation) -> None:
    weight = bag.embed.weight.detach() @ bag.head.weight.detach()[0]
    first, second = texts.tokens
    assert [name for name, _ in first] == ["not", "dull", "##ness", "film", "(fixed)"]
    assert [value for _, value in first] == pytest.approx(
        [float(weight[i]) for i in (3, 4, 5, 6, 2)], abs=1e-6
    )
    assert [name for name, _ in second] == ["film", "(fixed)"]


def test_tokens_sum_to_their_words(texts: abe.Explanation) -> None:
    words, tokens = dict(texts.by_unit()[0]), dict(texts.tokens[0])
    assert words["dullness"] == pytest.approx(tokens["dull"] + tokens["##ness"])
    assert sum(words.values()) == pytest.approx(sum(tokens.values()))


def test_tokens_follow_their_samples_and_are_stored(texts: abe.Explanation, tmp_path: Path) -> None:
    assert texts[1].tokens == texts.tokens[1:]
    assert abe.Explanation.join([texts[0], texts[1]]).tokens == texts.tokens
    texts.save(tmp_path)
    assert abe.Explanation.load(tmp_path).tokens == texts.tokens


def test_names_without_what_they_name_are_refused(texts: abe.Explanation, tmp_path: Path) -> None:
    from abe.errors import StorageError

    with pytest.raises(StorageError, match="token_names"):
        abe.Explanation(
            **{
                name: getattr(texts, name)
                for name in (
                    "attribution",
                    "x",
                    "target",
                    "target_names",
                    "names",
                    "method",
                    "spec",
                    "objective",
                )
            },
            score=texts.score,
            token_names=texts.token_names,
        ).save(tmp_path)


def test_what_is_no_text_has_no_tokens(several: abe.Explanation) -> None:
    image = abe.explain(
        abe.image_task(nn.Sequential(nn.Flatten(), nn.Linear(12, 2)).eval()), torch.rand(1, 3, 2, 2)
    )
    for found, fix in ((several, "by_unit"), (image, "map")):
        with pytest.raises(InputError, match=fix) as refused:
            _ = found.tokens
        assert refused.value.code is Code.UNITS


def test_one_input_by_itself(several: abe.Explanation, tmp_path: Path) -> None:
    person = several.only("person")
    assert [name for name, _ in person.by_unit()[1]] == ["age", "picture x"]
    assert torch.equal(person.attribution, several.part("person"))
    assert person.delta is None
    assert person.residual is None
    assert "age" in str(person)
    assert "person" not in str(person)
    assert several.only("picture").x.shape == (2, 3, 2, 2)
    person.save(tmp_path)
    assert abe.Explanation.load(tmp_path).by_unit() == person.by_unit()
    with pytest.raises(InputError, match="'picture', 'person'"):
        several.only("text")


def test_shares_of_inputs_sum_to_the_whole(several: abe.Explanation) -> None:
    both = [dict(several.only(name).by_unit()[0]) for name in ("picture", "person")]
    assert sum(sum(one.values()) for one in both) == pytest.approx(
        float(several.attribution[0].sum()), abs=1e-6
    )


def test_a_single_input_is_all_there_is(texts: abe.Explanation) -> None:
    image = texts.only(next(iter(texts.unpack())))
    assert torch.equal(image.attribution, texts.attribution)
    assert image.tokens == texts.tokens


@pytest.mark.parametrize(
    ("target", "classes", "told"),
    [
        ("0", True, "class 0"),
        ("3", False, "output 3"),
        ("(3, 0)", False, "output (3, 0)"),
        ("7 cats", True, "7 cats"),
    ],
)
def test_bare_numbers_are_said_to_be_classes(target: str, classes: bool, told: str) -> None:
    assert decision(target, classes=classes) == told
