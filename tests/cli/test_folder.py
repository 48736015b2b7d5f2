"""Pipelines of Hugging Face and folders with a text classifier, from the command line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from abe.cli import exits

Run = Callable[..., Any]
PIPES = """
import torch
from own_bag import WORDS, Bag, Tokens


class Pipe:
    task = "text-classification"

    def __init__(self):
        torch.manual_seed(0)
        self.model, self.tokenizer = Bag().eval(), Tokens()

    def __call__(self, text):
        raise RuntimeError("a pipeline is not called")


def made():
    return Pipe()


def masks():
    found = Pipe()
    found.task = "fill-mask"
    return found


ready = Pipe()
"""
BAG = """
import torch

WORDS = "a charming journey dull film".split()


class Tokens:
    vocab = {word: number for number, word in enumerate(WORDS)}

    def encode(self, text):
        return [self.vocab[word] for word in text.split()]


class Bag(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.head = torch.nn.Embedding(len(WORDS), 4), torch.nn.Linear(4, 2)

    def forward(self, ids):
        return self.head(torch.tanh(self.embed(ids).sum(1)))
"""
SAVED = {"architectures": ["BertForSequenceClassification"], "model_type": "bert"}


@pytest.fixture
def pipes(own: Run) -> Run:
    """The command, beside modules with pipelines."""
    Path("own_bag.py").write_text(BAG)
    Path("own_pipes.py").write_text(PIPES)
    return own


@pytest.mark.parametrize("name", ["made", "ready"])
def test_a_pipeline_explains_texts(pipes: Run, name: str):
    found = pipes("explain", "a dull film", "-m", f"own_pipes:{name}", "--json", "--method", "shapley")
    assert found.exit_code == 0, found.stderr
    (told,) = json.loads(found.stdout)
    assert [one["name"] for one in told["units"]] == ["a", "dull", "film"]
    assert sum(one["value"] for one in told["units"]) == pytest.approx(told["delta"], abs=1e-5)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("a dull film", "-m", "own_pipes:masks"), exits.MODEL, "fill-mask"),
        (("a.png", "-m", "own_pipes:made"), exits.INPUT, "does not read a photograph"),
        (("a b", "-m", "own_pipes:made", "--axes", "btc"), exits.INPUT, "brings its own tokenizer"),
        (("a b", "-m", "own_pipes:made", "--size", "8"), exits.INPUT, "--size"),
    ],
)
def test_what_a_pipeline_is_not_for(pipes: Run, words: tuple[str, ...], code: int, said: str):
    found = pipes("explain", *words)
    assert (found.exit_code, said in found.stderr, found.stdout) == (code, True, ""), found.stderr


@pytest.mark.parametrize(
    ("files", "code", "said"),
    [
        ({"notes.txt": "x"}, exits.STORAGE, "no config.json"),
        ({"config.json": "{"}, exits.STORAGE, "cannot be read"),
        ({"config.json": "[1]"}, exits.INPUT, "without architectures"),
        ({"config.json": json.dumps({"architectures": ["BertModel"]})}, exits.INPUT, "Got BertModel"),
        ({"config.json": json.dumps(SAVED), "pytorch_model.bin": "x"}, exits.STORAGE, "pytorch_model.bin"),
        ({"config.json": json.dumps(SAVED), "model.safetensors": "x"}, exits.STORAGE, "no tokenizer"),
    ],
)
def test_folders_that_hold_no_classifier(own: Run, files: dict[str, str], code: int, said: str):
    Path("net").mkdir()
    for name, text in files.items():
        Path("net", name).write_text(text)
    found = own("explain", "a dull film", "-m", "net")
    assert (found.exit_code, said in found.stderr) == (code, True), found.stderr


@pytest.mark.parametrize("name", ["./net", "somebody/some-model", "~/net"])
def test_a_name_of_a_hub_is_not_fetched(own: Run, name: str):
    found = own("explain", "a dull film", "-m", name)
    assert found.exit_code == exits.STORAGE
    assert "nothing is downloaded" in found.stderr


def test_an_unknown_name_lists_models_alone(own: Run):
    found = own("explain", "a dull film", "-m", "sentiment-textcn")
    assert found.exit_code == exits.INPUT
    assert "Did you mean 'sentiment-textcnn'" in found.stderr
    assert "titanic" not in found.stderr


@pytest.fixture
def saved(own: Run) -> Run:
    """The command, beside the folder ``bert`` with a small network and its tokenizer."""
    transformers = pytest.importorskip("transformers")
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "charming", "journey", "dull", "film"]
    inner = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    named = {f"{part}_token": f"[{part.upper()}]" for part in ("pad", "unk", "cls", "sep", "mask")}
    transformers.PreTrainedTokenizerFast(tokenizer_object=inner, **named).save_pretrained("bert")
    torch.manual_seed(0)
    settings = transformers.BertConfig(
        vocab_size=len(words),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        id2label={0: "bad", 1: "good"},
    )
    transformers.BertForSequenceClassification(settings).save_pretrained("bert")
    return own


@pytest.mark.peers
def test_a_folder_explains_texts(saved: Run):
    found = saved("explain", "a dull film", "-m", "./bert", "--json")
    assert found.exit_code == 0, found.stderr
    (told,) = json.loads(found.stdout)
    assert [one["name"] for one in told["units"]] == ["a", "dull", "film"]
    assert {one["name"] for one in told["top"]} == {"bad", "good"}
    assert "Loading" not in found.stderr


@pytest.mark.peers
def test_a_folder_without_some_weights_is_refused(saved: Run):
    from safetensors.torch import load_file, save_file

    weights = load_file("bert/model.safetensors")
    save_file({k: v for k, v in weights.items() if "classifier" not in k}, "bert/model.safetensors")
    found = saved("explain", "a dull film", "-m", "bert")
    assert found.exit_code == exits.MODEL
    assert "no classifier." in found.stderr
