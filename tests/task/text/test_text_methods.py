"""Every method on every kind of text model: it runs, or says in a coded sentence why it does not."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from tests.task.text.texts import MODELS, Tokenizer, weights

import abe
from abe.registry import methods

NAMES = [entry.name for entry in methods.entries() if not entry.required()]
TEXTS = ["a charming film", "not dull"]
FEWER: Mapping[str, Mapping[str, Any]] = {
    "rise": {"evaluations": 50},
    "extremal_perturbation": {"steps": 5},
    "mp": {"steps": 5},
    "iba": {"steps": 2},
    "eg": {"samples": 5},
    "smoothgrad": {"samples": 5},
}
"""Settings that are as good for running as the default ones."""
RUN = {"Bag": 67, "TextCNN": 66, "BiGRU": 66, "Encoder": 70}
"""Methods that run; a prototype outside the library ran 58, 61 and 58 on the last three."""


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_methods_run_or_say_why_not(name: str) -> None:
    task = abe.text_task(weights(MODELS[name]()).float(), Tokenizer())
    run, refused = [], {}
    for method in NAMES:
        known = methods.get(method).parameters()
        how = {k: v for k, v in FEWER.get(method, {}).items() if k in known}
        try:
            found = abe.explain(task, TEXTS, method, progress=False, **how)
        except abe.AbeError as problem:
            refused[method] = str(problem)
            continue
        assert found.attribution.shape == found.x.shape, method
        assert bool(torch.isfinite(found.attribution).all()), method
        run.append(method)
    print(f"\n{name}: {len(run)} of {len(NAMES)} run")
    for method, why in refused.items():
        print(f"  {method}: {why}")
    assert len(run) >= RUN[name], refused


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_every_method_explains_a_text_as_it_is_alone(name: str) -> None:
    """Whatever looks at a text as a whole or draws in its shape sees no padding, masked or not."""
    task, off = abe.text_task(weights(MODELS[name]()), Tokenizer()), {}
    for method in NAMES:
        known = methods.get(method).parameters()
        how = {k: v for k, v in FEWER.get(method, {}).items() if k in known} | {
            "target": 0,
            "progress": False,
        }
        try:
            together = abe.explain(task, TEXTS, method, **how).attribution
        except abe.AbeError:
            continue
        for place, text in enumerate(TEXTS):
            alone = abe.explain(task, text, method, **how).attribution[0]
            end, most = alone.shape[1], float(alone.abs().max()) or 1.0
            gap = float((together[place, :, :end] - alone).abs().max()) / most
            if gap > 1e-6 or together[place, :, end:].any():
                off[method] = gap
    assert not off
