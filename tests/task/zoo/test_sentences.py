"""Words as numbers, and networks to which padding is nothing."""

import copy
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from abe.errors import InputError
from abe.task.zoo.sentences import BiGRU, TextCNN, WordTokenizer

TEXTS = ["A fine film.", "A dull film.", "It's a fine day, isn't it?"]
TOKENIZER = WordTokenizer.of(TEXTS, least=1)
NETWORKS = {"textcnn": TextCNN, "bigru": BiGRU}


def test_offsets_are_those_of_the_words() -> None:
    text = "It's  a FINE\nday — unheard of"
    found = TOKENIZER(text)
    words = [text[start:end] for start, end in found["offsets"]]
    assert words == ["It's", "a", "FINE", "day", "—", "unheard", "of"]
    assert TOKENIZER.decode(found["input_ids"]) == "it's a fine day [UNK] [UNK] [UNK]"
    assert found["attention_mask"] == [1] * 7


@settings(max_examples=40)
@given(st.text())
def test_no_text_is_too_odd(text: str) -> None:
    found = TOKENIZER(text)
    assert len(found["input_ids"]) == len(found["attention_mask"]) == len(found["offsets"])
    assert all(0 <= number < len(TOKENIZER) for number in found["input_ids"])
    assert "".join(text[a:b] for a, b in found["offsets"]) == "".join(text.split())


def test_several_texts_are_padded_to_one_length() -> None:
    found = TOKENIZER([TEXTS[0], TEXTS[2], ""])
    lengths = [len(row) for row in found["input_ids"]]
    assert lengths == [8] * 3
    assert [sum(row) for row in found["attention_mask"]] == [4, 8, 0]
    assert found["input_ids"][0][4:] == [TOKENIZER.pad_token_id] * 4
    assert found["offsets"][2] == [(0, 0)] * 8
    assert TOKENIZER([]) == {"input_ids": [], "attention_mask": [], "offsets": []}


def test_the_vocabulary_is_that_of_the_texts_the_most_frequent_first() -> None:
    assert TOKENIZER.words[:4] == ("[PAD]", "[UNK]", "[MASK]", "a")
    assert WordTokenizer.of(TEXTS, least=2).words[3:] == ("a", ".", "film", "fine")
    assert TOKENIZER.get_vocab()["dull"] == TOKENIZER.words.index("dull")
    assert TOKENIZER.convert_ids_to_tokens(torch.tensor([2, 0])) == ["[MASK]", "[PAD]"]
    assert TOKENIZER.decode([0, 2, 0]) == "[MASK]"
    assert TOKENIZER("a [MASK] film [PAD]!")["input_ids"] == [3, 2, TOKENIZER.numbers["film"], 0, 1]
    again = copy.deepcopy(TOKENIZER)
    assert again == TOKENIZER
    assert again(TEXTS[2]) == TOKENIZER(TEXTS[2])


@pytest.mark.parametrize("given", [3, b"text", None, [b"text"], ["text", 3], {"text": 1}])
def test_what_is_no_text_is_refused(given: object) -> None:
    with pytest.raises(InputError, match="takes texts"):
        TOKENIZER(given)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("number", [-1, 10**6])
def test_a_number_of_no_word_is_refused(number: int) -> None:
    with pytest.raises(InputError, match="no word of this number"):
        TOKENIZER.decode([number])


def made(network: Callable[..., nn.Module]) -> nn.Module:
    net = network(len(TOKENIZER)).double()
    with torch.no_grad():
        for weight in net.parameters():
            weight.normal_(0, 0.5)
        net.embedding.weight[0] = 7.0  # pyright: ignore[reportIndexIssue, reportAttributeAccessIssue]
    return net.eval()


def asked(net: nn.Module, texts: list[str]) -> Tensor:
    found = TOKENIZER(texts)
    return net(torch.tensor(found["input_ids"]), torch.tensor(found["attention_mask"]))


@pytest.mark.parametrize("name", NETWORKS)
def test_a_padded_batch_gives_what_each_text_gives_alone(name: str) -> None:
    """Whatever the padding's embedding is."""
    net = made(NETWORKS[name])
    together = asked(net, [*TEXTS, "fine"])
    alone = torch.cat([asked(net, [text]) for text in [*TEXTS, "fine"]])
    assert together.isfinite().all()
    assert torch.allclose(together, alone, atol=1e-12)
    ids = torch.tensor(TOKENIZER(TEXTS)["input_ids"])  # without a mask, padding is what has the number 0
    assert torch.allclose(net(ids), together[:3], atol=1e-12)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_token_that_is_masked_out_has_no_influence(name: str) -> None:
    net = made(NETWORKS[name])
    ids = torch.tensor([TOKENIZER(TEXTS[2])["input_ids"]])
    there = torch.ones_like(ids)
    there[0, 2] = 0
    one, other = net(ids, there), net(torch.where(there.bool(), ids, 5), there)
    assert torch.equal(one, other)
    assert not torch.equal(one, net(ids, torch.ones_like(ids)))


def test_to_a_gru_the_neighbours_of_a_token_that_is_not_there_are_neighbours() -> None:
    net = made(BiGRU)
    ids = torch.tensor([TOKENIZER(TEXTS[2])["input_ids"]])
    there = torch.tensor([[1, 1, 0, 1, 0, 0, 1, 1]])
    short = ids[there.bool()][None]
    assert torch.allclose(net(ids, there), net(short, torch.ones_like(short)), atol=1e-12)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_text_of_nothing_is_what_the_bias_says(name: str) -> None:
    net = made(NETWORKS[name])
    found = net(torch.tensor([[3, 4], [0, 0]]), torch.tensor([[1, 1], [0, 0]]))
    assert torch.equal(found[1], net.head.bias)  # pyright: ignore[reportAttributeAccessIssue]


def test_the_reference_of_a_textcnn_by_hand() -> None:
    """Two filters of width 2 on embeddings of one number: the largest rectified sum of neighbours."""
    net = TextCNN(5, width=1, filters=1, sizes=(2,))
    with torch.no_grad():
        net.embedding.weight[:, 0] = torch.tensor([0.0, 1.0, 2.0, -3.0, 4.0])
        net.convolutions[0].weight[:] = 1.0  # pyright: ignore[reportAttributeAccessIssue]
        net.convolutions[0].bias[:] = 0.5  # pyright: ignore[reportAttributeAccessIssue]
        net.head.weight[:] = torch.tensor([[1.0], [-1.0]])
        net.head.bias[:] = 0.0
    found = net(torch.tensor([[1, 2, 3, 4]]))  # 1 + 2, 2 - 3, -3 + 4, 4 + 0
    assert found.tolist() == [[4.5, -4.5]]
