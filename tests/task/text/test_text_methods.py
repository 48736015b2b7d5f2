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
RUN = {"Bag": 62, "TextCNN": 58, "BiGRU": 61, "Encoder": 58}
"""Methods that ran through a prototype outside the library, or fewer where none was tried."""


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
