"""Classifiers and tokenizers of ``transformers``, made here with random weights: nothing is loaded."""

from functools import cache
from importlib import import_module
from itertools import combinations
from math import factorial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import abe
from abe.errors import Code

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]  # theirs, of every release others


@pytest.fixture(autouse=True)
def _there() -> None:
    pytest.importorskip("transformers")


def face() -> Any:
    """The library, which `make test` runs without."""
    return import_module("transformers")


WORDS = ["a", "film", "not", "dull", "slow", "charm", "##ing", "affect", "journey", ",", "."]
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
NAMES = ("bad", "good", "neither")
TEXTS = ["a charming film", "not dull , slow journey .", "slow"]
SIZES: dict[str, Any] = {
    "vocab_size": len(PIECES),
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
}
SMALL: dict[str, Any] = {"vocab_size": len(PIECES), "pad_token_id": 0}
MODELS: dict[str, dict[str, Any]] = {
    "Bert": SIZES,
    "Roberta": SIZES | {"type_vocab_size": 1, "bos_token_id": 2, "eos_token_id": 3},
    "DistilBert": SMALL
    | {"dim": 8, "n_layers": 2, "n_heads": 2, "hidden_dim": 16, "max_position_embeddings": 32},
    "GPT2": SMALL
    | {"n_embd": 8, "n_layer": 2, "n_head": 2, "n_positions": 32, "bos_token_id": 2, "eos_token_id": 3},
    "Llama": SIZES | {"bos_token_id": 2, "eos_token_id": 3},
    "T5": SMALL
    | {"d_model": 8, "d_kv": 4, "d_ff": 16, "num_layers": 2, "num_heads": 2}
    | {"eos_token_id": 3, "decoder_start_token_id": 0},
}


@cache
def in_python() -> Any:
    """A tokenizer in Python alone, which knows no places in the text."""

    class Slow(face().PreTrainedTokenizer):
        model_input_names = ("input_ids", "attention_mask")

        def __init__(self, **how: Any) -> None:
            self.held = {piece: number for number, piece in enumerate(PIECES)}
            super().__init__(**how)

        @property
        def vocab_size(self) -> int:
            return len(self.held)

        def get_vocab(self) -> dict[str, int]:
            return dict(self.held)

        def _tokenize(self, text: str, **how: Any) -> list[str]:
            return text.replace("charming", "charm ##ing").split()

        def _convert_token_to_id(self, token: str) -> int:
            return self.held.get(token, 1)

        def _convert_id_to_token(self, index: int) -> str:
            return PIECES[index]

        def build_inputs_with_special_tokens(self, one: list[int], two: list[int] | None = None) -> list[int]:
            return [2, *one, 3] if two is None else [2, *one, 3, *two, 3]

        def get_special_tokens_mask(
            self, one: list[int], two: list[int] | None = None, already_has_special_tokens: bool = False
        ) -> list[int]:
            if already_has_special_tokens:
                return [int(i in (0, 2, 3, 4)) for i in one]
            return [1, *[0] * len(one), 1] if two is None else [1, *[0] * len(one), 1, *[0] * len(two), 1]

    return Slow


SPECIAL = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
SPECIAL["mask_token"] = "[MASK]"


def tokenizer(kind: str = "fast", **how: Any) -> Any:
    if kind == "slow":
        return in_python()(**SPECIAL, **how)
    tokenizers = import_module("tokenizers")
    pieces = {piece: number for number, piece in enumerate(PIECES)}
    inner = tokenizers.Tokenizer(tokenizers.models.WordPiece(pieces, unk_token="[UNK]"))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    inner.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return face().PreTrainedTokenizerFast(tokenizer_object=inner, **SPECIAL, **how)


class Read(torch.nn.Module):
    """The encoder of a T5, whose last states are averaged and read by a head of one's own."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config, self.encoder = config, face().T5EncoderModel(config)
        self.head = torch.nn.Linear(config.d_model, len(NAMES))

    def get_input_embeddings(self) -> Any:
        return self.encoder.get_input_embeddings()

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
        states = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        seen = attention_mask[..., None].to(states)
        return SimpleNamespace(logits=self.head((states * seen).sum(1) / seen.sum(1)))


def classifier(name: str, **more: Any) -> Any:
    named = {"id2label": dict(enumerate(NAMES)), "label2id": {n: i for i, n in enumerate(NAMES)}}
    config = getattr(face(), f"{name}Config")(**MODELS[name] | more, **named)
    made = Read if name == "T5" else getattr(face(), f"{name}ForSequenceClassification")
    return filled(made(config))


def filled(model: Any) -> Any:
    """The model with weights of its own, in float64 and evaluation mode."""
    model = model.double().eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.copy_(0.4 * torch.randn(weight.shape, generator=generator, dtype=torch.float64))
    return model


def explain(task: Any, raw: Any, method: Any = "shapley", **how: Any) -> abe.Explanation:
    return abe.explain(task, raw, method, progress=False, **how)


def shares(found: abe.Explanation, sample: int = 0) -> list[float]:
    return [value for _, value in found.by_unit()[sample]]


def logits(model: Any, ids: list[int], mask: list[int] | None = None) -> Tensor:
    """(classes,) what the model says of ids, called by hand."""
    seen = torch.tensor([[1] * len(ids) if mask is None else mask])
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids]), attention_mask=seen).logits[0]


every = pytest.mark.parametrize("name", list(MODELS))


@every
def test_shapley_values_of_words_are_those_of_brute_force(name: str) -> None:
    model, cut = classifier(name), tokenizer()
    found = explain(abe.text_task(model, cut), TEXTS[0], target="neither")
    assert [unit for unit, _ in found.by_unit()[0]] == ["a", "charming", "film"]
    ids, words = cut(TEXTS[0])["input_ids"], [None, 0, 1, 1, 2, None]

    def value(present: set[int]) -> float:
        here = [i if w is None or w in present else 4 for i, w in zip(ids, words, strict=True)]
        return float(logits(model, here)[2])

    for i, share in enumerate(shares(found)):
        rest = [j for j in range(3) if j != i]
        sets = [set(s) for size in range(3) for s in combinations(rest, size)]
        wanted = sum(
            factorial(len(s)) * factorial(2 - len(s)) / 6 * (value({*s, i}) - value(s)) for s in sets
        )
        assert share == pytest.approx(wanted, abs=1e-10)


@every
@pytest.mark.parametrize("removal", ["mask", "attention", "delete"])
def test_a_removed_word_is_the_hand_made_input(name: str, removal: str) -> None:
    model, cut = classifier(name), tokenizer()
    found = explain(abe.text_task(model, cut), TEXTS, "occlusion", removal=removal, target=1)
    for sample, text in enumerate(TEXTS):
        encoded = cut(text)
        ids, words = encoded["input_ids"], encoded.word_ids(0)
        for word, share in enumerate(shares(found, sample)):
            stays = [w != word for w in words]
            made, mask = ids, [int(here) for here in stays]
            if removal == "mask":
                made, mask = [i if here else 4 for i, here in zip(ids, stays, strict=True)], None
            elif removal == "delete":
                made, mask = [i for i, here in zip(ids, stays, strict=True) if here], None
            wanted = logits(model, ids)[1] - logits(model, made, mask)[1]
            assert share == pytest.approx(float(wanted), abs=1e-9), text


@every
def test_paths_are_complete_and_padded_batches_are_texts_alone(name: str) -> None:
    task = abe.text_task(classifier(name), tokenizer())
    found = explain(task, TEXTS, "ig", tolerance=0.01)
    assert found.residual is not None
    assert float(found.residual.abs().max()) <= 0.01
    assert found.labels is not None
    assert not found.attribution[(found.labels < 0).expand_as(found.attribution)].any()
    for method in ("shapley", "ig", "gradient_x_input"):
        together = explain(task, TEXTS, method, target=0)
        for sample, text in enumerate(TEXTS):
            alone = explain(task, text, method, target=0)
            n = len(together.unit_names[sample])
            assert shares(together, sample)[:n] == pytest.approx(shares(alone)[:n], abs=1e-6)


@every
def test_model_and_tokenizer_are_left_as_found(name: str) -> None:
    model, cut = classifier(name).train(), tokenizer(padding_side="left")
    model.config.problem_type = "single_label_classification"
    before = {key: value.clone() for key, value in model.state_dict().items()}
    entries, table, config = len(cut), model.get_input_embeddings().weight, model.config.to_dict()
    for removal in ("mask", "attention", "delete"):
        explain(abe.text_task(model, cut), TEXTS, "occlusion", removal=removal)
    explain(abe.text_task(model, cut), TEXTS, "ig")
    assert model.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert (len(cut), cut.padding_side, cut.get_vocab()) == (entries, "left", tokenizer().get_vocab())
    assert model.get_input_embeddings().weight is table
    assert model.config.to_dict() == config
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("kind", ["fast", "slow"])
def test_a_text_has_many_forms(kind: str) -> None:
    model, cut = classifier("Bert"), tokenizer(kind)
    task, text = abe.text_task(model, cut), TEXTS[0]
    wanted = explain(task, text, "ig")
    assert wanted.target_names[0] in NAMES
    assert wanted.unit_names == [["a", "charming", "film"]]
    ids = cut(text)["input_ids"]
    encoded = cut(text, return_tensors="pt")
    many = cut([text], return_tensors="np", padding="max_length", max_length=9)
    for form in ([text], ids, [ids], torch.tensor([ids]), cut(text), encoded, dict(encoded), many):
        found = explain(task, form, "ig")
        assert found.unit_names == wanted.unit_names
        assert shares(found) == pytest.approx(shares(wanted), abs=1e-9), form
    pair = explain(task, ("not dull", text), target=0)
    assert pair.unit_names == [["not", "dull", "a", "charming", "film"]]
    assert pair.labels is not None
    assert pair.labels[0, 0].tolist() == [-1, 0, 1, -1, 2, 3, 3, 4, -1]
    first, second = tokenizer(kind)("not dull", text)["input_ids"], pair.labels.shape[2]
    assert len(first) == second


def test_the_second_of_a_pair_is_of_the_second_type() -> None:
    model, cut = classifier("Bert"), tokenizer()
    found = explain(abe.text_task(model, cut), ("not dull", "slow"), "gradient", target=1)
    with torch.no_grad():
        wanted = model(**cut("not dull", "slow", return_tensors="pt")).logits[0, 1]
    assert float(found.score[0]) == pytest.approx(float(wanted), abs=1e-12)


@pytest.mark.parametrize("name", ["Bert", "DistilBert", "Llama", "GPT2"])
def test_padding_on_the_left_is_no_part_of_a_text(name: str) -> None:
    model, cut = classifier(name), tokenizer(padding_side="left")
    task = abe.text_task(model, cut)
    encoded = cut(TEXTS, padding=True, return_tensors="pt")
    assert int(encoded["attention_mask"][2, 0]) == 0
    with torch.no_grad():
        wanted = model(input_ids=encoded["input_ids"], attention_mask=encoded["attention_mask"]).logits[:, 1]
    for removal in ("mask", "attention"):
        found = explain(task, encoded, "shapley", removal=removal, target=1)
        assert found.score.tolist() == pytest.approx(wanted.tolist(), abs=1e-9)
        assert found.unit_names[2] == ["slow"]
        assert found.labels is not None
        assert not found.attribution[(found.labels < 0).expand_as(found.attribution)].any()
        if name == "Llama":  # whose places are relative, so that where a text stands does not matter
            alone = explain(task, TEXTS[2], "shapley", removal=removal, target=1)
            assert shares(found, 2) == pytest.approx(shares(alone), abs=1e-6)


def test_a_pipeline_is_enough() -> None:
    model, cut = classifier("DistilBert"), tokenizer()
    pipe = face().pipeline("text-classification", model=model, tokenizer=cut)
    found, wanted = explain(pipe, TEXTS[0]), explain(abe.text_task(model, cut), TEXTS[0])
    assert found.by_unit() == wanted.by_unit()
    assert found.target_names == wanted.target_names
    (said,) = found.warnings  # what is assumed of a model that came without a task
    assert "ABE-ASSUMED" in said
    assert wanted.warnings == []


def test_what_does_not_fit_is_refused_by_name() -> None:
    model = classifier("Bert")
    task = abe.text_task(model, tokenizer())
    for raw, code in (
        ("", Code.EMPTY_BATCH),
        ([2, 3], Code.EMPTY_BATCH),
        ("slow " * 40, Code.TOO_LONG),
        (torch.tensor([[2, 99, 3]]), Code.TOKENIZER),
        (torch.rand(1, 4), Code.SHAPE),
    ):
        with pytest.raises(abe.AbeError) as caught:
            explain(task, raw, "gradient")
        assert caught.value.code == code, caught.value
    found = explain(task, "not zygomatic", "gradient")
    assert any(Code.UNKNOWN_WORDS in text for text in found.warnings)
    assert found.unit_names == [["not", "zygomatic"]]


def test_a_table_that_is_looked_up_the_other_way_round_is_refused() -> None:
    """XLNet runs tokens before texts, so its embedding is not called with the ids as they are."""
    config = face().XLNetConfig(**SMALL, d_model=8, n_layer=1, n_head=2, d_inner=16)
    model = face().XLNetForSequenceClassification(config).eval()
    for how in ({}, {"embedding": "transformer.word_embedding"}):
        with pytest.raises(abe.AbeError):
            explain(abe.text_task(model, tokenizer(), **how), TEXTS[0], "ig")


def test_a_text_that_is_read_twice_is_said() -> None:
    """T5 and BART classify by encoder and decoder, which both read the text."""
    sizes = {"d_model": 8, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2}
    bart = face().BartConfig(
        **SMALL | sizes,
        decoder_attention_heads=2,
        encoder_ffn_dim=8,
        decoder_ffn_dim=8,
        max_position_embeddings=32,
        eos_token_id=3,
        bos_token_id=2,
        decoder_start_token_id=3,
    )
    for model in (
        face().T5ForSequenceClassification(face().T5Config(**MODELS["T5"], num_labels=3)),
        face().BartForSequenceClassification(bart),
    ):
        found = explain(abe.text_task(filled(model), tokenizer()), TEXTS[0], "ig")
        assert any("looked up by" in text and Code.EMBEDDING in text for text in found.warnings)
    found = explain(abe.text_task(classifier("Bert"), tokenizer()), TEXTS[0], "ig")
    assert not any(Code.EMBEDDING in text for text in found.warnings)
