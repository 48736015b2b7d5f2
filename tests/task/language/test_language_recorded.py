"""Language models against recorded numbers of published code and of plain formulas.

`recorded/language.npz` holds them, with the weights of three networks: captum's `LLMAttribution` by tokens
and templates and its gradients, inseq's maps, and exact Shapley values by three removals. Maps are kept
summed over the embedding, as results of a language task are.
"""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import abe

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]
FILE = Path(__file__).parent / "recorded" / "language.npz"
EXACT, FLOAT32 = 1e-10, 1e-6
"""Share of the largest number that may differ: of formulas in float64, and of code that rounds to float32."""


@cache
def recorded() -> dict[str, np.ndarray]:
    with np.load(FILE, allow_pickle=False) as held:
        return {name: held[name] for name in held.files}


def names(prefix: str) -> list[str]:
    found = [key.removeprefix("asked/") for key in recorded() if key.startswith(f"asked/{prefix}")]
    assert found
    return found


def numbers(case: str, key: str) -> np.ndarray:
    return recorded()[f"case/{case}/{key}"]


def asked(case: str) -> dict[str, Any]:
    return json.loads(str(recorded()[f"asked/{case}"]))


class Words:
    """Tokens are words; a prompt may begin with a special one and end with another."""

    pad_token, unk_token, mask_token, cls_token, sep_token = "[PAD]", "[UNK]", "[MASK]", "<s>", "</s>"

    def __init__(self, begins: bool, ends: bool) -> None:
        self.vocab = json.loads(str(recorded()["vocab"]))
        self.begins, self.ends = begins, ends

    def __call__(self, text: str) -> list[int]:
        ids = [self.vocab.get(word, 1) for word in text.split()]
        ids = [2, *ids] if self.begins and ids[:1] != [2] else ids
        return [*ids, 3] if self.ends else ids


@cache
def network(name: str) -> Any:
    transformers = pytest.importorskip("transformers")
    said = json.loads(str(recorded()[f"config/{name}"]))
    made, attention = getattr(transformers, said.pop("_class")), said.pop("attn_implementation")
    configuration = made.config_class(**said)
    configuration._attn_implementation = attention
    net = made(configuration)
    weights = {
        key.removeprefix(f"net/{name}/"): torch.from_numpy(value)
        for key, value in recorded().items()
        if key.startswith(f"net/{name}/")
    }
    net.load_state_dict(weights, strict=False)
    net.tie_weights()
    return net.double().eval()


def task_of(case: str, **how: Any) -> Any:
    name = next(net for net in ("gpt2_a", "llama_a", "t5_a") if net in case)
    return abe.language_task(network(name), Words("llama" in name, "t5" in name), **how)


def far(found: Any, wanted: np.ndarray) -> float:
    return float(np.abs(np.asarray(found) - wanted).max() / np.abs(wanted).max())


def shares(explanation: Any) -> np.ndarray:
    return np.array([[value for _, value in own] for own in explanation.by_unit()])


@pytest.mark.parametrize("case", names("logits"))
def test_the_scores_are_those_of_the_recorded_networks(case: str) -> None:
    how = asked(case)
    found = abe.explain(task_of(case), (how["prompt"], " " + how["target"]), "gradient", progress=False)
    assert far(found.score, numbers(case, "target_logprob")[0]) <= EXACT


@pytest.mark.parametrize("case", names("llm_token"))
def test_ablation_and_shapley_values_of_tokens_are_captums(case: str) -> None:
    how = asked(case)
    raw, task = (how["prompt"], " " + how["target"]), task_of(case)
    score = "log_probability" if how["attr_target"] == "log_prob" else "probability"
    same: dict[str, Any] = {
        "units": "token",
        "removal": {0: "pad", 1: "unk"}[how["baseline_id"]],
        "prefix": False,
        "progress": False,
    }
    ablated = abe.explain(task, raw, "occlusion", objective=score, **same)
    assert far(shares(ablated), numbers(case, "ablation_exact")[1:]) <= EXACT
    played = abe.explain(task, raw, "shapley", objective=score, **same)
    assert far(shares(played), numbers(case, "shapley_exact")[1:]) <= EXACT
    whole = abe.explain(task, raw, "shapley", objective=("sequence", {"of": score}), **same)
    assert far(shares(whole), numbers(case, "shapley_exact")[:1]) <= EXACT


@pytest.mark.parametrize("case", names("llm_gradient"))
def test_gradients_and_paths_at_the_embedding_are_captums(case: str) -> None:
    how = asked(case)
    raw, task = (how["prompt"], " " + how["target"]), task_of(case)
    found = abe.explain(task, raw, "ig", baseline="pad", steps=20, prefix=False, progress=False)
    wanted = numbers(case, "ig")
    assert far(found.attribution[:, 0, : wanted.shape[1]], wanted) <= EXACT
    found = abe.explain(task, raw, "gradient_x_input", prefix=False, progress=False)
    assert far(found.attribution[:, 0, : wanted.shape[1]], numbers(case, "gxa")) <= EXACT


@pytest.mark.parametrize("case", names("llm_template"))
def test_slots_of_templates_are_captums(case: str) -> None:
    how = asked(case)
    template, groups = how["template"], how["mask"]
    slots: list[Any] = list(zip(how["values"], how["baselines"], strict=True))
    if groups:
        each = iter(groups)
        template = re.sub(r"\{\}", lambda _: f"{{{next(each)}}}", template)
        sides = [
            [[one[i] for one, g in zip(slots, groups, strict=True) if g == group] for i in (0, 1)]
            for group in sorted(set(groups))
        ]
        slots = [tuple(side) for side in sides]
    raw = (template, " " + how["target"])
    same: dict[str, Any] = {"slots": slots, "units": "span", "removal": "alternatives", "progress": False}
    task = task_of(case)
    played = abe.explain(task, raw, "shapley", **same)
    assert far(shares(played), numbers(case, "shapley_exact")[1:]) <= EXACT
    ablated = abe.explain(task, raw, "occlusion", **same)
    assert far(shares(ablated), numbers(case, "ablation_exact")[1:]) <= EXACT
    whole = abe.explain(task, raw, "shapley", objective="sequence", **same)
    assert far(shares(whole), numbers(case, "shapley_exact")[:1]) <= EXACT


@pytest.mark.parametrize("case", names("game_lm"))
def test_games_by_three_removals_are_those_by_brute_force(case: str) -> None:
    how = asked(case)
    raw, task = (how["prompt"], " " + how["target"]), task_of(case)
    for removal, key in (("mask", "replace"), ("attention", "attention"), ("delete", "delete")):
        found = abe.explain(
            task, raw, "shapley", units="token", removal=removal, prefix=False, progress=False
        )
        assert far(shares(found), numbers(case, f"{key}_shapley").T) <= EXACT


METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "ig": ("ig", {"baseline": "unk", "steps": 20}),
    "ixg": ("gradient_x_input", {}),
    "saliency": ("gradient", {"absolute": True}),
    "occlusion": ("occlusion", {"removal": "unk", "units": "token"}),
}


@pytest.mark.parametrize("case", names("inseq"))
def test_maps_and_steps_are_inseqs(case: str) -> None:
    how, pair = asked(case), "t5" in case
    given = {"progress": False, "objective": how["attributed_fn"]}
    answer, other = how["target"], how["contrast_target"]
    if not pair:  # theirs are the whole texts
        cut = len(how["source"])
        answer, other = answer[cut:], None if other is None else other[cut:]
    if other is not None:
        given |= {"against": other, "objective": "probability"}
    if pair:
        given["prefix"] = how["attribute_target"]
    key = next(key for key in METHODS if f"_{key}_" in case)
    method, parameters = METHODS[key]
    task = task_of(case, fixed="special" if pair else "padding")
    found = abe.explain(task, (how["source"], answer), method, **parameters, **given)
    wanted = numbers(case, "map")
    maps = found.attribution[:, 0].abs() if key == "occlusion" else found.attribution[:, 0]
    assert far(maps, wanted[:, : maps.shape[1]]) <= FLOAT32
    assert far(found.steps["probability"], numbers(case, "step_probability")) <= FLOAT32
