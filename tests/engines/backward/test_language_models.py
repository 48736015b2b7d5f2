"""Language models of Hugging Face under backward rules: recorded maps, closure, completeness.

`tests/task/recorded/relevance_of_language_models.npz` has the weights of two GPT-2 and two Llama, and what
lxt 2.1 (AttnLRP and CP-LRP, "efficient") gave for their highest and second highest next token.
"""

import json
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import abe
from abe.engines.backward.step import ACCOUNTS

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]  # theirs, of every release others

FILE = Path(__file__).parents[2] / "task" / "recorded" / "relevance_of_language_models.npz"
BARS = {"gpt2": 1e-9, "llama": 1e-6}
"""Llama's norms and softmax are in single precision, whatever its weights are."""
VARIANTS: dict[str, dict[str, Any]] = {
    "attnlrp": {"variant": "published"},
    "cplrp": {"variant": "published", "softmax": "constant", "gates": "constant"},
}


@cache
def recorded() -> dict[str, np.ndarray]:
    with np.load(FILE, allow_pickle=False) as held:
        return {name: held[name] for name in held.files}


CASES = sorted({name.rpartition("/")[0] for name in recorded() if name.startswith("lxt_")})


@cache
def recorded_model(net: str) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    settings = json.loads(str(recorded()[f"config/{net}"]))
    kind = getattr(transformers, settings.pop("_class"))
    model = kind(kind.config_class(**settings))
    start = f"net/{net}/"
    held = {k.removeprefix(start): torch.from_numpy(v) for k, v in recorded().items() if k.startswith(start)}
    model.load_state_dict(held, strict=False)
    model.tie_weights()
    return model.double().eval()


def next_token(outputs: Any, target: Tensor) -> Tensor:
    """The logit of a token at the last position."""
    logits = getattr(outputs, "logits", outputs)
    return logits[torch.arange(len(target)), -1, target]


def explained(model: nn.Module, raw: dict[str, Any], method: Any, target: Any) -> abe.Explanation:
    special = SimpleNamespace(
        pad_token_id=0, unk_token_id=1, mask_token_id=4, all_special_ids=[0, 1, 2, 3, 4]
    )
    task = abe.text_task(model, special, output="logits")
    return abe.explain(task, raw, method, objective=next_token, target=target, progress=False)


@pytest.mark.parametrize("case", CASES)
def test_maps_are_the_recorded_ones(case: str) -> None:
    held = {k.rpartition("/")[2]: v for k, v in recorded().items() if k.startswith(f"{case}/")}
    _, variant, kind, seed, _ = case.split("_")
    ids = torch.from_numpy(held["ids"])
    raw = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    for which in ("", "_second"):
        method = ("attention_lrp", VARIANTS[variant])
        found = explained(recorded_model(f"{kind}_{seed}"), raw, method, int(held[f"target{which}"]))
        wanted = torch.from_numpy(held[f"relevance{which}"]).T
        worst = float((found.attribution[0] - wanted).abs().max() / wanted.abs().max())
        assert worst < BARS[kind]
        assert not found.warnings


# ---------------------------------------------------------------- from configuration


class InDouble(nn.Module):
    """The norm of Llama and T5 in the precision of what comes in; theirs is in single precision."""

    def __init__(self, norm: Any) -> None:
        super().__init__()
        self.weight, self.epsilon = norm.weight, norm.variance_epsilon

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.epsilon))


def configured(kind: str) -> tuple[nn.Module, dict[str, Any]]:
    """A small model from its configuration, weights scaled up and norms drawn, in double precision."""
    transformers = pytest.importorskip("transformers")
    wide = {"vocab_size": 50, "attn_implementation": "sdpa", "bos_token_id": 2, "eos_token_id": 3}
    heads = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 24}
    t5 = {
        "d_model": 16,
        "d_kv": 4,
        "d_ff": 24,
        "num_layers": 2,
        "num_heads": 4,
        "decoder_start_token_id": 0,
        **wide,
    }
    made: dict[str, tuple[str, dict[str, Any]]] = {
        "gpt2": ("GPT2LMHeadModel", {"n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 32, **wide}),
        "llama": ("LlamaForCausalLM", {"num_key_value_heads": 2, **heads, **wide}),
        "t5": ("T5ForConditionalGeneration", t5),
        "t5, gated": ("T5ForConditionalGeneration", {"feed_forward_proj": "gated-gelu", **t5}),
    }
    name, settings = made[kind]
    build = getattr(transformers, name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        model = build(build.config_class(**settings)).double().eval()
        for parameter in model.parameters():
            scale = parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.2
            fresh = torch.randn_like(parameter) * scale
            parameter.data.copy_(fresh + float(parameter.ndim == 1 and bool((parameter == 1).all())))
    for parent in list(model.modules()):
        for child, module in parent.named_children():
            if hasattr(module, "variance_epsilon"):
                setattr(parent, child, InDouble(module))
    ids = torch.randint(5, 50, (2, 7), generator=torch.Generator().manual_seed(0))
    raw: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if kind.startswith("t5"):
        raw["decoder_input_ids"] = ids.flip(1)[:, :3]
    return model, raw


KINDS = ("gpt2", "llama", "t5", "t5, gated")
LRP = ("lrp_epsilon", "lrp_0", "lrp_gamma", "lrp_alpha_beta", "lrp_z_plus", "lrp_composite", "attention_lrp")


@pytest.mark.parametrize("kind", KINDS)
def test_relevance_is_accounted_for(kind: str) -> None:
    model, raw = configured(kind)
    for method in (*LRP, ("attention_lrp", VARIANTS["cplrp"])):
        found = explained(model, raw, method, [7, 9])
        books = [found.diagnostics[f"{account}_relevance"] for account in ACCOUNTS]
        amounts = found.attribution.flatten(1).abs().sum(1) + sum(book.abs() for book in books)
        assert bool(found.attribution.any()), method
        # T5 takes its softmax in single precision, whatever its weights are
        bar = 1e-6 if kind.startswith("t5") else 1e-8
        assert float((found.diagnostics["closure"].abs() / amounts.clamp(min=1)).max()) < bar, method


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["deeplift", "deeplift_reveal_cancel"])
def test_differences_from_a_reference_are_complete(kind: str, method: str) -> None:
    model, raw = configured(kind)
    for reference in ("zero", "reference_token", "mean_embedding"):
        found = explained(model, raw, (method, {"baseline": reference}), [7, 9])
        bar = 1e-6 if kind.startswith("t5") else 1e-8
        assert float(found.residual.abs().max()) < bar, reference
        amounts = found.attribution.sum(1).abs().sum(1)
        assert float(amounts.max()) < 100, reference  # of scores of about 1; T5 had terms of 10⁸ that cancel
        assert not [one for one in found.warnings if "ABE-RESIDUAL" in one or "ABE-INCOMPLETE" in one]


def test_a_model_that_is_partly_in_single_precision_is_judged_by_that() -> None:
    model = recorded_model("llama_a")
    ids = torch.from_numpy(recorded()["lxt_attnlrp_llama_a_t0/ids"])
    raw = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    for method in ("deeplift", "attention_lrp"):
        assert not explained(model, raw, method, 7).warnings
