"""Every registered method on language models of Hugging Face: a map that is finite, or a coded reason.

``pytest -m "slow and peers" -s tests/methods/test_language_models.py`` prints the counts.
"""

from collections import Counter
from typing import Any

import pytest
import torch
from tests.engines.backward.test_language_models import configured

import abe
from abe.errors import AbeError
from abe.registry import Entry, methods

pytestmark = [pytest.mark.slow, pytest.mark.peers, pytest.mark.filterwarnings("ignore")]

FEWER = {"steps": 6, "samples": 2, "evaluations": 70, "iterations": 4, "epochs": 2, "max_steps": 8}
"""Smaller than the defaults, where a method has these."""
GIVEN = {"at_layer": {"method": "gradient_x_input"}, "layer_conductance": {}}
LAYERS = {"gpt2": "transformer.h.0", "llama": "model.layers.0", "t5": "encoder.block.0.layer.1"}
ATTENTION = ("raw_attention", "attention_rollout", "gradient_x_attention", "chefer_relevance")
RULES = ("deeplift", "lrp_epsilon", "lrp_0", "lrp_z_plus", "attention_lrp")


def parameters(entry: Entry, kind: str) -> dict[str, Any]:
    """What a method is called with: few passes, its example where something is required."""
    known = entry.parameters()
    found = {name: fewer for name, fewer in FEWER.items() if name in known}
    found |= dict(entry.card.example or {}) if entry.required() else {}
    if "layer" in entry.required():
        found["layer"] = LAYERS[kind]
    return found


def outcome(task: abe.Task, raw: Any, entry: Entry, kind: str) -> str:
    """``"map"``, or the code of the error."""
    try:
        found = abe.explain(task, raw, (entry.name, parameters(entry, kind)), progress=False)
    except AbeError as problem:
        return problem.code.value
    assert bool(found.attribution.isfinite().all()), entry.name
    return "map"


@pytest.mark.parametrize("kind", LAYERS)
def test_every_method_gives_a_map_or_says_why_not(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    model, given = configured(kind)
    task = abe.language_task(model)
    raw = [(given["input_ids"][0, :5].tolist(), [7, 9])]
    with torch.random.fork_rng(devices=[]):
        found = {entry.name: outcome(task, raw, entry, kind) for entry in methods.entries()}
    for name in (*RULES, *ATTENTION, "integrated_gradients", "occlusion", "shapley", "lime"):
        assert found[name] == "map", (name, found[name])
    assert all(said == "map" or said.startswith("ABE-") for said in found.values())
    counts = Counter(found.values())
    with capsys.disabled():
        print(f"\n{kind}: {counts['map']} of {len(found)} methods give maps;", end=" ")
        for code in counts.keys() - {"map"}:
            print(f"{code}: {', '.join(name for name, said in found.items() if said == code)};", end=" ")
    assert counts["map"] >= 84
