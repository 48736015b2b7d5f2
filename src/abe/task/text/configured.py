"""What models and tokenizers say of themselves: classes, what their outputs are, how long a text may be."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from abe.task.outputs import OutputKind
from abe.task.text.tokens import MANY


def labels_of(configuration: Any) -> list[str] | None:
    """Names of classes that somebody chose, of a Hugging Face configuration."""
    found = getattr(configuration, "id2label", None)
    if not isinstance(found, Mapping) or not found:
        return None
    names = [str(found[key]) for key in sorted(found, key=int)]
    return None if all(name == f"LABEL_{i}" for i, name in enumerate(names)) else names


def kind_of(configuration: Any) -> OutputKind:
    """What the outputs are, by the problem that a configuration names."""
    kinds: dict[Any, OutputKind] = {
        "regression": "regression",
        "multi_label_classification": "multilabel",
        "single_label_classification": "logits",
    }
    return kinds.get(getattr(configuration, "problem_type", None), "auto")


def longest(model: nn.Module, tokenizer: Any) -> int | None:
    """Most tokens that model or tokenizer say they take."""
    configuration = getattr(model, "config", None)
    said = [getattr(configuration, name, None) for name in ("max_position_embeddings", "n_positions")]
    if getattr(configuration, "model_type", "") in ("roberta", "xlm-roberta", "camembert", "mpnet"):
        # positions begin behind the padding's
        said = [one - 2 if isinstance(one, int) else one for one in said]
    said.append(getattr(tokenizer, "model_max_length", None))
    known = [one for one in said if isinstance(one, int) and 0 < one < MANY]
    return min(known, default=None)
